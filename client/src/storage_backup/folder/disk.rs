//! A folder on a disk: files by name, written whole or not at all.
//!
//! Owns what is durable when: a file gets its name once its bytes are on the disk, and its name is, once the folder is
//! settled.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::PART;
use crate::storage_backup::{Outcome, StorageBackupError};

const LOCK: &str = "lock";

pub(super) struct Disk {
    root: PathBuf,
    parts: AtomicU64,
    /// Folders with names that are not on the disk yet.
    dirty: Mutex<BTreeSet<PathBuf>>,
}

impl Disk {
    pub(super) fn create(root: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(root).map_err(file(root))?;
        Self::open(root)
    }

    pub(super) fn open(root: &Path) -> Outcome<Self> {
        std::fs::read_dir(root).map_err(file(root))?;
        Ok(Self {
            root: root.to_owned(),
            parts: AtomicU64::new(0),
            dirty: Mutex::default(),
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// While the file lives, nobody else has it.
    pub(super) fn lock(&self) -> Outcome<File> {
        let path = self.path(LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let held = options.open(&path).map_err(file(&path))?;
        match held.try_lock() {
            Ok(()) => Ok(held),
            Err(TryLockError::WouldBlock) => Err(StorageBackupError::InUse),
            Err(TryLockError::Error(source)) => Err(file(&path)(source)),
        }
    }

    /// Bytes of a file; `None` where there is none.
    pub(super) fn length(&self, name: &str) -> Option<u64> {
        let found = std::fs::metadata(self.path(name)).ok()?;
        found.is_file().then_some(found.len())
    }

    /// Writes a file, in place of one that is there.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Outcome<()> {
        let path = self.path(name);
        let number = self.parts.fetch_add(1, Ordering::Relaxed);
        let beside = path.with_extension(format!("{number}.{PART}"));
        self.make_parent(&path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut part = options.open(&beside).map_err(file(&beside))?;
        part.write_all(bytes).map_err(file(&beside))?;
        part.sync_all().map_err(file(&beside))?;
        self.named(&beside, &path)
    }

    /// Gives a file that is whole on the disk its name.
    pub(super) fn named(&self, from: &Path, to: &Path) -> Outcome<()> {
        self.make_parent(to)?;
        std::fs::rename(from, to).map_err(file(to))?;
        if let Some(parent) = to.parent() {
            self.dirty.lock().insert(parent.to_owned());
        }
        Ok(())
    }

    pub(super) fn make_parent(&self, path: &Path) -> Outcome<()> {
        let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) else {
            return Ok(());
        };
        std::fs::create_dir_all(parent).map_err(file(parent))?;
        let above = parent.ancestors().skip(1);
        let above = above.take_while(|folder| folder.starts_with(&self.root));
        self.dirty.lock().extend(above.map(Path::to_owned));
        Ok(())
    }

    /// Makes every name given so far durable.
    pub(super) fn settle(&self) -> Outcome<()> {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        for folder in dirty {
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(file(&folder))?;
        }
        Ok(())
    }

    /// Makes names durable that were removed from a folder.
    pub(super) fn sync(&self, name: &str) -> Outcome<()> {
        let path = self.path(name);
        let synced = File::open(&path).and_then(|folder| folder.sync_all());
        synced.map_err(file(&path))
    }

    /// A file's bytes; `None` where there is none. One of more than `bytes_max` is damaged.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Outcome<Option<Bytes>> {
        let path = self.path(name);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file(&path)(error)),
            Ok(found) if found.len() > bytes_max => {
                return Err(StorageBackupError::Damaged {
                    name: name.to_owned(),
                });
            }
            Ok(_) => {}
        }
        std::fs::read(&path)
            .map(|bytes| Some(bytes.into()))
            .map_err(file(&path))
    }

    /// Removes a file; none is removed too.
    pub(super) fn remove(&self, name: &str) -> Outcome<()> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Every file under one of the folder's folders, as its name, with its bytes.
    pub(super) fn names(&self, under: &str) -> Outcome<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut folders = vec![under.to_owned()];
        while let Some(folder) = folders.pop() {
            let path = self.path(&folder);
            let entries = match std::fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(file(&path))?,
            };
            for entry in entries {
                let entry = entry.map_err(file(&path))?;
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                let known = entry.metadata().map_err(file(&path))?;
                match known.is_dir() {
                    true => folders.push(name),
                    false => found.push((name, known.len())),
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> StorageBackupError {
    let path = path.to_owned();
    move |source| StorageBackupError::File { path, source }
}
