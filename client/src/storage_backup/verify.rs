//! Whether a backup is whole, asked of its files alone.
//!
//! Owns what can be known without a key: who signed the index, that every page, block and the KMS's backup is there and
//! is what the index names, and that for each token there is a key version in the KMS's backup. Refuses to call good what
//! it cannot know: [`UNKNOWN`] says what that is, and a drill shows some of it.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use proto::storage_backup::{IndexFile, Kind};
use proto::v1;
use transport::RegionTrust;

use super::check::kek_of;
use super::create::{digest_of, holds_keys};
use super::folder::blocking;
use super::pages::{read, read_block};
use super::{Folder, Outcome, StorageBackupError, hex_id, signer_of};
use crate::backup::BackupFile;

/// Files read at once.
const READS: usize = 2;

/// What no look at the files can tell.
pub const UNKNOWN: [&str; 4] = [
    "whether pages and objects open under the region's keys: `reduit backup drill` opens them",
    "whether the kms's backup holds the keys that the index says it does: k custodians can open it, nobody else",
    "whether a newer backup was taken away: the newest index in the folder is taken for the newest there is",
    "whether the signer was enrolled when it signed, and whether its clock was right",
];

/// Something that is not as it has to be.
#[derive(Debug)]
pub enum Problem {
    /// A file that is not there, damaged, or not what it is named as.
    File(StorageBackupError),
    /// A page whose header does not fit.
    Page {
        /// Which.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What a dataset's pages come to is not what the index says.
    Dataset {
        /// Which.
        dataset: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The backup of the KMS.
    Kms(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => f.write_str(&crate::region::chain(error)),
            Self::Page { name, what } => write!(f, "{name}: {what}"),
            Self::Dataset { dataset, what } => write!(f, "dataset {dataset}: {what}"),
            Self::Kms(why) => write!(f, "the kms's backup: {why}"),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Pages read.
    pub pages: u64,
    /// Blocks read, each once.
    pub blocks: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// What is wrong; nothing, where the backup is whole.
    pub problems: Vec<Problem>,
    /// Whether a backup of the KMS is part of it, or was shown.
    pub has_kms: bool,
}

impl Folder {
    /// Reads everything that a backup names. `trust` is the region's; `progress` is told of the bytes read.
    pub async fn verify(
        &self,
        file: &IndexFile,
        trust: &RegionTrust,
        mut progress: impl FnMut(u64),
    ) -> Outcome<Verified> {
        let mut found = Verified::default();
        if let Err(error) = signer_of(&file.name(), file, trust) {
            found.problems.push(Problem::File(error));
        }
        let mut blocks = BTreeMap::new();
        for dataset in &file.index.datasets {
            let named = self
                .pages_of(file, dataset, &mut found, &mut progress)
                .await;
            let totals = dataset.totals.unwrap_or_default();
            let bytes: u64 = named.values().map(|bytes| u64::from(*bytes)).sum();
            if (totals.blocks, totals.block_bytes) != (named.len() as u64, bytes) {
                found.problems.push(Problem::Dataset {
                    dataset: hex_id(&dataset.dataset_id),
                    what: "its pages name other blocks than its index counts",
                });
            }
            blocks.extend(named);
        }
        self.blocks(blocks, &mut found, &mut progress).await;
        self.kms(&file.index, &mut found).await;
        Ok(found)
    }

    /// Reads a dataset's pages; the blocks they name.
    async fn pages_of(
        &self,
        file: &IndexFile,
        dataset: &v1::BackupDataset,
        found: &mut Verified,
        progress: &mut impl FnMut(u64),
    ) -> BTreeMap<Bytes, u32> {
        let region = &file.index.region;
        let reads = stream::iter(dataset.pages.iter().cloned()).map(|named| {
            let (folder, region) = (self.clone(), region.clone());
            let dataset = dataset.dataset_id.clone();
            blocking(move || read(&folder, &region, &dataset, &named).map(|page| (named, page)))
        });
        let mut reads = reads.buffered(READS);
        let mut blocks = BTreeMap::new();
        while let Some(page) = reads.next().await {
            let (named, page) = match page {
                Ok(page) => page,
                Err(error) => {
                    found.problems.push(Problem::File(error));
                    continue;
                }
            };
            found.pages += 1;
            found.bytes += named.bytes;
            progress(found.bytes);
            if let Some(what) = not_under(&page.header.token, &named, dataset) {
                let name = Kind::Page.name(&digest_of(&named.digest));
                found.problems.push(Problem::Page { name, what });
            }
            let named = page.header.blocks.into_iter();
            blocks.extend(named.map(|block| (block.digest, block.bytes)));
        }
        blocks
    }

    async fn blocks(
        &self,
        blocks: BTreeMap<Bytes, u32>,
        found: &mut Verified,
        progress: &mut impl FnMut(u64),
    ) {
        let reads = stream::iter(blocks).map(|(digest, bytes)| {
            let folder = self.clone();
            let block = v1::BlockRef { digest, bytes };
            blocking(move || read_block(&folder, &block).map(|bytes| bytes.len() as u64))
        });
        let mut reads = reads.buffered(READS);
        while let Some(read) = reads.next().await {
            match read {
                Ok(bytes) => {
                    found.blocks += 1;
                    found.bytes += bytes;
                    progress(found.bytes);
                }
                Err(error) => found.problems.push(Problem::File(error)),
            }
        }
    }

    async fn kms(&self, index: &v1::BackupIndex, found: &mut Verified) {
        let Some(kms) = &index.kms else {
            return;
        };
        found.has_kms = true;
        let record = kms.record.clone().unwrap_or_default();
        let (folder, name) = (self.clone(), Kind::Kms.name(&digest_of(&record.digest)));
        let looked = blocking(move || {
            let file = folder.on_disk(&name)?;
            Ok(BackupFile::open(file.path())?)
        })
        .await;
        match looked {
            Ok(file) if file.start.region.region != index.region => {
                found
                    .problems
                    .push(Problem::Kms("it is another region's".to_owned()));
            }
            Ok(file) if file.backup != record => {
                let why = "it is another one than the index names".to_owned();
                found.problems.push(Problem::Kms(why));
            }
            Ok(_) => {}
            Err(error) => found
                .problems
                .push(Problem::Kms(crate::region::chain(&error))),
        }
        for dataset in &index.datasets {
            if let Err(StorageBackupError::KeyEnded { dataset }) = holds_keys(kms, dataset) {
                found.problems.push(Problem::Dataset {
                    dataset,
                    what: "a version of its key is not known to be in the kms's backup",
                });
            }
        }
    }

    /// Puts every damaged file of these problems aside, so that the next backup copies it anew.
    pub async fn set_aside(&self, problems: &[Problem]) -> Outcome<u64> {
        let damaged = problems.iter().filter_map(|problem| match problem {
            Problem::File(StorageBackupError::Damaged { name }) => Some(name.clone()),
            _ => None,
        });
        let (folder, damaged) = (self.clone(), damaged.collect::<Vec<_>>());
        blocking(move || {
            let lock = folder.lock()?;
            let aside = folder.aside(&damaged);
            lock.release();
            aside
        })
        .await
    }

    fn aside(&self, damaged: &[String]) -> Outcome<u64> {
        let mut aside = 0;
        for name in damaged {
            let known = [Kind::Page, Kind::Block];
            let is_ours = known.iter().any(|kind| kind.digest_in(name).is_some());
            if is_ours && self.length(name).is_some() {
                self.rename(name, &format!("damaged/{name}"))?;
                aside += 1;
            }
        }
        self.settle()?;
        Ok(aside)
    }
}

/// What is wrong with a page's own token.
fn not_under(
    token: &Bytes,
    page: &v1::BackupPage,
    dataset: &v1::BackupDataset,
) -> Option<&'static str> {
    let Some(kek) = kek_of(token) else {
        return Some("its token does not decode");
    };
    if kek.dataset != dataset.dataset_id || kek.id != dataset.kek_id {
        return Some("its token is of another dataset or key");
    }
    let stated = kek.version == page.kek_version && dataset.kek_versions.contains(&kek.version);
    (!stated).then_some("its token is under another key version than the index states")
}
