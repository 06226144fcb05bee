//! Old backups, removed.
//!
//! Owns what goes: indexes beyond those kept, and files that no kept index names, in that order, so that a prune that is cut
//! off leaves files too many and never a backup that lacks one. Refuses to remove anything while an index or a page of a
//! backup that is kept cannot be read: what it names is not known.

use std::collections::HashSet;

use bytes::Bytes;
use proto::storage_backup::{DIGEST_BYTES, IndexFile, Kind};

use super::create::digest_of;
use super::folder::{INDEX, Lock, PART, blocking};
use super::pages::read;
use super::{Folder, Outcome};

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups that are left.
    pub kept: u64,
    /// Backups that went.
    pub backups: u64,
    /// Files that no backup named any more.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Folder {
    /// Keeps the newest `keep` backups, at least one, and what they name.
    pub async fn prune(&self, keep: usize) -> Outcome<Pruned> {
        let folder = self.clone();
        blocking(move || {
            let lock = folder.lock()?;
            let pruned = folder.prune_now(&lock, keep.max(1));
            lock.release();
            pruned
        })
        .await
    }

    fn prune_now(&self, lock: &Lock, keep: usize) -> Outcome<Pruned> {
        let mut old = self.backups()?;
        let kept = old.split_off(old.len().saturating_sub(keep));
        let mut named = HashSet::new();
        for file in &kept {
            self.names_of(file, &mut named)?;
        }
        let mut pruned = Pruned {
            kept: kept.len() as u64,
            backups: old.len() as u64,
            ..Pruned::default()
        };
        for file in &old {
            lock.is_held()?;
            self.remove(&file.name())?;
        }
        if !old.is_empty() {
            self.sync(INDEX)?;
        }
        for (name, _) in self.names(INDEX)? {
            if name.ends_with(PART) {
                self.remove(&name)?;
            }
        }
        for kind in Kind::ALL {
            for (name, bytes) in self.names(kind.folder())? {
                let digest = kind.digest_in(&name);
                if digest.is_some_and(|digest| named.contains(&(kind, digest))) {
                    continue;
                }
                // A file that was cut off on its way has a name of another kind, and is nobody's while the lock is held.
                lock.is_held()?;
                self.remove(&name)?;
                pruned.files += 1;
                pruned.bytes += bytes;
            }
        }
        Ok(pruned)
    }

    fn names_of(
        &self,
        file: &IndexFile,
        named: &mut HashSet<(Kind, [u8; DIGEST_BYTES])>,
    ) -> Outcome<()> {
        let mut name = |kind, digest: &Bytes| named.insert((kind, digest_of(digest)));
        for dataset in &file.index.datasets {
            for page in &dataset.pages {
                // Of a page that an earlier kept backup names too, the blocks are known.
                if name(Kind::Page, &page.digest) {
                    let page = read(self, &file.index.region, &dataset.dataset_id, page)?;
                    for block in &page.header.blocks {
                        name(Kind::Block, &block.digest);
                    }
                }
            }
        }
        if let Some(record) = file.index.kms.as_ref().and_then(|kms| kms.record.as_ref()) {
            name(Kind::Kms, &record.digest);
        }
        Ok(())
    }
}
