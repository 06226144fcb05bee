//! Where backups lie: files by name, written whole or not at all.
//!
//! Owns what every such place does, and that it is changed by one at a time. What is different on a disk and in a bucket
//! of an S3 store is in [`disk`] and [`bucket`]. Refuses a file longer than it may be before it is read.

mod bucket;
mod disk;
mod lease;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proto::ids::BackupId;
use proto::storage_backup::{INDEX_BYTES_MAX, IndexFile, Kind};

use super::{Outcome, StorageBackupError};
pub use bucket::{BucketError, S3Place};
pub use wire::S3Error;

pub(super) const INDEX: &str = "index";
/// What a file is called until it is whole.
pub(super) const PART: &str = "part";

/// A place for backups. Cheap to clone.
#[derive(Clone)]
pub struct Folder(Arc<Place>);

enum Place {
    Disk(disk::Disk),
    Bucket(bucket::Bucket),
}

/// While it lives, nobody else changes the place. It is given back by [`Lock::release`]; where that is left out, a bucket's
/// runs out.
pub(super) enum Lock {
    Disk { _file: std::fs::File },
    Bucket(lease::Lease),
}

impl Lock {
    /// Refuses to go on where somebody else may have taken it meanwhile.
    pub(super) fn is_held(&self) -> Outcome<()> {
        match self {
            Self::Bucket(lease) if !lease.is_held() => Err(StorageBackupError::InUse),
            _ => Ok(()),
        }
    }

    /// Gives it back. *Blocks.*
    pub(super) fn release(self) {
        if let Self::Bucket(lease) = self {
            lease.release();
        }
    }
}

/// A file that lies on this host's disk while this lives.
pub(super) struct OnDisk {
    path: PathBuf,
    _fetched: Option<tempfile::TempPath>,
}

impl OnDisk {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Folder {
    /// A folder on a disk, made where there is none.
    pub fn create(root: &Path) -> Outcome<Self> {
        Ok(Self(Arc::new(Place::Disk(disk::Disk::create(root)?))))
    }

    /// A folder on a disk, that is there.
    pub fn open(root: &Path) -> Outcome<Self> {
        Ok(Self(Arc::new(Place::Disk(disk::Disk::open(root)?))))
    }

    /// Where a file lies on a disk.
    #[cfg(test)]
    pub(super) fn path(&self, name: &str) -> PathBuf {
        match &*self.0 {
            Place::Disk(disk) => disk.path(name),
            Place::Bucket(_) => panic!("not on a disk"),
        }
    }

    /// A bucket of an S3 store. Nobody is asked yet. Within a runtime alone: what *blocks* waits on it.
    pub fn bucket(place: S3Place) -> Outcome<Self> {
        Ok(Self(Arc::new(Place::Bucket(bucket::Bucket::new(place)?))))
    }

    /// Nobody else changes the place from here on. *Blocks.*
    pub(super) fn lock(&self) -> Outcome<Lock> {
        match &*self.0 {
            Place::Disk(disk) => Ok(Lock::Disk {
                _file: disk.lock()?,
            }),
            Place::Bucket(bucket) => bucket.lock().map(Lock::Bucket),
        }
    }

    /// Bytes of a file; `None` where there is none. Of a bucket, as of when it was locked, and what was written since.
    pub(super) fn length(&self, name: &str) -> Option<u64> {
        match &*self.0 {
            Place::Disk(disk) => disk.length(name),
            Place::Bucket(bucket) => bucket.length(name),
        }
    }

    /// Writes a file, in place of one that is there. *Blocks.*
    pub(super) fn write(&self, name: &str, bytes: &Bytes) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(disk) => disk.write(name, bytes),
            Place::Bucket(bucket) => bucket.write(name, bytes.clone()),
        }
    }

    /// As [`Self::write`], where that may wait.
    pub(super) async fn put(&self, name: String, bytes: Bytes) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(_) => {
                let folder = self.clone();
                blocking(move || folder.write(&name, &bytes)).await
            }
            Place::Bucket(bucket) => bucket.put(&name, bytes).await,
        }
    }

    /// A path on this host's disk for a file on its way, which [`Self::take`] brings in. *Blocks.*
    pub(super) fn incoming(&self, id: &BackupId) -> Outcome<PathBuf> {
        let name = format!("{}/incoming-{id}", Kind::Kms.folder());
        match &*self.0 {
            Place::Disk(disk) => {
                let path = disk.path(&name);
                disk.make_parent(&path)?;
                Ok(path)
            }
            Place::Bucket(bucket) => bucket.incoming(id),
        }
    }

    /// Brings a file in that is whole on the disk. *Blocks.*
    pub(super) fn take(&self, from: &Path, name: &str) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(disk) => disk.named(from, &disk.path(name)),
            Place::Bucket(bucket) => bucket.take(from, name),
        }
    }

    /// A file, on this host's disk. *Blocks.*
    pub(super) fn on_disk(&self, name: &str) -> Outcome<OnDisk> {
        match &*self.0 {
            Place::Disk(disk) => Ok(OnDisk {
                path: disk.path(name),
                _fetched: None,
            }),
            Place::Bucket(bucket) => {
                let fetched = bucket.fetch(name)?;
                Ok(OnDisk {
                    path: fetched.to_path_buf(),
                    _fetched: Some(fetched),
                })
            }
        }
    }

    /// Gives a file another name. *Blocks.*
    pub(super) fn rename(&self, from: &str, to: &str) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(disk) => disk.named(&disk.path(from), &disk.path(to)),
            Place::Bucket(bucket) => bucket.rename(from, to),
        }
    }

    /// Makes every name given so far durable; in a bucket each was when it was given. *Blocks.*
    pub(super) fn settle(&self) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(disk) => disk.settle(),
            Place::Bucket(_) => Ok(()),
        }
    }

    /// Makes it durable that names were removed. *Blocks.*
    pub(super) fn sync(&self, name: &str) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(disk) => disk.sync(name),
            Place::Bucket(_) => Ok(()),
        }
    }

    /// A file's bytes; `None` where there is none. One of more than `bytes_max` is damaged. *Blocks.*
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Outcome<Option<Bytes>> {
        match &*self.0 {
            Place::Disk(disk) => disk.read(name, bytes_max),
            Place::Bucket(bucket) => bucket.read(name, bytes_max),
        }
    }

    /// Removes a file; none is removed too. *Blocks.*
    pub(super) fn remove(&self, name: &str) -> Outcome<()> {
        match &*self.0 {
            Place::Disk(disk) => disk.remove(name),
            Place::Bucket(bucket) => bucket.remove(name),
        }
    }

    /// Every file under one of the place's folders, as its name, with its bytes, in order of names. *Blocks.*
    pub(super) fn names(&self, under: &str) -> Outcome<Vec<(String, u64)>> {
        match &*self.0 {
            Place::Disk(disk) => disk.names(under),
            Place::Bucket(bucket) => bucket.names(under),
        }
    }

    /// Every backup in it, oldest first: each index as it reads, whoever signed it. *Blocks.*
    pub fn backups(&self) -> Outcome<Vec<IndexFile>> {
        let names = self.index_names()?;
        names.iter().map(|name| self.index(name)).collect()
    }

    /// As [`Self::backups`], without those that do not read. *Blocks.*
    pub(super) fn readable_backups(&self) -> Outcome<Vec<IndexFile>> {
        let mut found = Vec::new();
        for name in self.index_names()? {
            match self.index(&name) {
                Ok(file) => found.push(file),
                Err(error) => tracing::warn!(%error, "a backup's index is passed over"),
            }
        }
        Ok(found)
    }

    /// The newest backup, or the one whose id starts so. *Blocks.*
    pub fn backup(&self, id: Option<&str>) -> Outcome<IndexFile> {
        let mut fitting = self.index_names()?;
        if let Some(id) = id {
            let named =
                |name: &String| name.rsplit('-').next().is_some_and(|of| of.starts_with(id));
            fitting.retain(named);
        }
        match (fitting.pop(), id) {
            (Some(_), Some(id)) if !fitting.is_empty() => Err(StorageBackupError::NoSuchBackup(
                format!("several start with {id}"),
            )),
            (Some(name), _) => self.index(&name),
            (None, id) => Err(StorageBackupError::NoSuchBackup(
                id.unwrap_or("it holds none that is whole").to_owned(),
            )),
        }
    }

    fn index_names(&self) -> Outcome<Vec<String>> {
        let names = self.names(INDEX)?.into_iter().map(|(name, _)| name);
        Ok(names.filter(|name| !name.ends_with(PART)).collect())
    }

    fn index(&self, name: &str) -> Outcome<IndexFile> {
        let damaged = || StorageBackupError::Damaged {
            name: name.to_owned(),
        };
        let bytes = self.read(name, INDEX_BYTES_MAX)?.ok_or_else(damaged)?;
        let file = IndexFile::parse(&bytes).map_err(|source| StorageBackupError::Malformed {
            name: name.to_owned(),
            source,
        })?;
        // One that was renamed would be taken for older or newer than it is.
        match file.name() == name {
            true => Ok(file),
            false => Err(damaged()),
        }
    }
}

/// Runs what waits for the disk, or for another host.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| crate::error::Error::Protocol {
        what: "a task that reads or writes files ended early",
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_whole_and_two_do_not_change_a_folder_at_once() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::create(&place.path().join("a/b")).expect("made");
        let name = Kind::Block.name(&[7; 32]);
        assert_eq!(folder.length(&name), None);
        folder
            .write(&name, &Bytes::from_static(b"sealed"))
            .expect("written");
        folder.settle().expect("settled");
        assert_eq!(folder.length(&name), Some(6));
        let read = folder.read(&name, 6).expect("read");
        assert_eq!(read.as_deref(), Some(&b"sealed"[..]));
        assert!(folder.read(&name, 5).is_err(), "too long");
        assert_eq!(folder.names("blocks").expect("listed"), [(name.clone(), 6)]);
        let held = folder.lock().expect("locked");
        let again = Folder::open(&place.path().join("a/b")).expect("opened");
        assert!(matches!(again.lock(), Err(StorageBackupError::InUse)));
        drop(held);
        again.lock().expect("free");
        folder.remove(&name).expect("removed");
        folder.remove(&name).expect("still");
        assert_eq!(folder.read(&name, 6).expect("read"), None);
        assert!(folder.backups().expect("listed").is_empty());
        assert!(matches!(
            folder.backup(None),
            Err(StorageBackupError::NoSuchBackup(_))
        ));
    }
}
