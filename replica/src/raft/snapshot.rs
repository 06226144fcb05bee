//! A snapshot as the engine hands it around: a folder of files, not bytes in memory.
//!
//! Owns the folder's life: it is removed when the last handle goes. Refuses to keep a snapshot: the state store
//! itself is durable, so a fresh checkpoint is always at hand and never older than what was purged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use openraft::alias::SnapshotOf;

use super::machine::{Shared, is_full};
use super::types::{Config, SnapshotMeta};
use crate::blocking::away;
use crate::disk::Disk;
use crate::state::Checkpoint;

/// What a snapshot's data is.
pub(crate) enum SnapshotData {
    /// The state store was flushed up to the snapshot's log id, or there was no room for files; there are none.
    Flushed,
    /// A checkpoint's files.
    Files(SnapshotFiles),
}

/// A checkpoint on disk, removed with its last handle.
#[derive(Clone)]
pub(crate) struct SnapshotFiles {
    folder: Arc<Folder>,
    checkpoint: Arc<Checkpoint>,
}

struct Folder {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // An install uses the folder up; whatever else is left is also removed when the host opens.
        for name in self.disk.list(&self.path).unwrap_or_default() {
            let _ = self.disk.remove(&self.path.join(name));
        }
        // The disk of a simulation has no such folder.
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Hands out folders for checkpoints, made and received.
pub(crate) struct SnapshotDir {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl SnapshotDir {
    /// Uses `root`, removing what an earlier run left in it.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: PathBuf) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&root) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        disk.create_dir_all(&root)?;
        Ok(Self { root, disk })
    }

    /// A path nobody has used; nothing exists there.
    pub(crate) fn fresh(&self, what: &str) -> PathBuf {
        self.root
            .join(format!("{what}-{:016x}", rand::random::<u64>()))
    }

    /// Whether no snapshot is being made, sent or received.
    pub(crate) fn is_empty(&self) -> std::io::Result<bool> {
        Ok(self.disk.list(&self.root)?.is_empty())
    }

    /// Takes over the folder `dir`, which holds or is to hold the files of `checkpoint`.
    pub(crate) fn files(&self, dir: PathBuf, checkpoint: Checkpoint) -> SnapshotFiles {
        let folder = Folder {
            path: dir,
            disk: Arc::clone(&self.disk),
        };
        SnapshotFiles {
            folder: Arc::new(folder),
            checkpoint: Arc::new(checkpoint),
        }
    }
}

impl SnapshotFiles {
    /// Where the files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.folder.path
    }

    /// The disk they are on.
    pub(crate) fn disk(&self) -> &dyn Disk {
        self.folder.disk.as_ref()
    }

    /// Which files there are.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// Makes applied entries durable in the state store, which is what lets the log be purged.
pub(crate) struct Flusher {
    pub(crate) shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<Config> for Flusher {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> Result<SnapshotOf<Config, Self::SnapshotData>, std::io::Error> {
        let applied = loop {
            let shared = Arc::clone(&self.shared);
            match away(move || shared.flush()).await? {
                Err(error) if is_full(&error) => self.shared.await_room().await?,
                done => break done?,
            }
        };
        let meta = SnapshotMeta {
            last_log_id: applied.last,
            last_membership: applied.membership,
        };
        Ok(SnapshotOf::<Config, SnapshotData> {
            meta,
            snapshot: SnapshotData::Flushed,
        })
    }
}
