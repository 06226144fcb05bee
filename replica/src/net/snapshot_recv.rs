//! Receives a snapshot into a folder of its own.
//!
//! Owns the check of every piece against the announced list. Refuses names that are not plain, pieces out of order,
//! lengths and digests that differ. Nothing of the state changes here; the install is the engine's.

use std::sync::Arc;

use futures::StreamExt;
use proto::ids::LogIndex;
use proto::v1;

use super::handler::Refusal;
use super::link::Inbound;
use crate::blocking::away;
use crate::disk::DiskFile;
use crate::raft::codec::AppliedState;
use crate::raft::snapshot::{SnapshotDir, SnapshotFiles};
use crate::state::{Applied, Checkpoint, CheckpointFile};

/// Files a snapshot may have.
const FILES_MAX: usize = 100_000;
/// Length of a file's name.
const NAME_BYTES_MAX: usize = 128;

/// Takes the frames after `begin` into a folder of `snapshots`.
pub(crate) async fn receive(
    snapshots: &SnapshotDir,
    begin: &v1::RaftSnapshotBegin,
    applied: &AppliedState,
    mut frames: Inbound<v1::RaftSnapshotFrame>,
) -> Result<SnapshotFiles, Refusal> {
    let checkpoint = announced(begin, applied)?;
    // The folder goes with its handle, whatever happens.
    let files = snapshots.files(snapshots.fresh("received"), checkpoint);
    files
        .disk()
        .create_dir_all(files.dir())
        .map_err(|_| Refusal::Disk)?;
    let mut target = Target {
        number: 0,
        open: None,
    };
    target.open_next(&files)?;
    while let Some(frame) = frames.next().await {
        use v1::raft_snapshot_frame::Frame;
        let frame = frame.map_err(|_| Refusal::Cut)?.frame;
        match frame {
            Some(Frame::Chunk(chunk)) => target = target.take(&files, chunk).await?,
            Some(Frame::End(_)) => {
                return if target.open.is_none() {
                    Ok(files)
                } else {
                    Err(Refusal::Cut)
                };
            }
            Some(Frame::Begin(_)) | None => return Err(Refusal::Malformed("snapshot frame")),
        }
    }
    Err(Refusal::Cut)
}

fn announced(begin: &v1::RaftSnapshotBegin, applied: &AppliedState) -> Result<Checkpoint, Refusal> {
    if begin.files.len() > FILES_MAX {
        return Err(Refusal::Malformed("snapshot file list"));
    }
    let mut files = Vec::with_capacity(begin.files.len());
    for file in &begin.files {
        let blake3 = file.digest.as_ref().try_into();
        match blake3 {
            Ok(blake3) if plain(&file.name) => {
                files.push(CheckpointFile {
                    name: file.name.clone(),
                    bytes: file.bytes,
                    blake3,
                });
            }
            _ => return Err(Refusal::Malformed("snapshot file list")),
        }
    }
    let index = applied
        .last
        .map(|id| LogIndex(id.index))
        .ok_or(Refusal::Malformed("snapshot"))?;
    Ok(Checkpoint {
        applied: Some(Applied {
            index,
            note: applied.encode(),
        }),
        files,
    })
}

/// Whether a name stays inside its folder.
fn plain(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(ok)
}

/// The file that pieces go to now.
struct Target {
    number: usize,
    open: Option<Filling>,
}

struct Filling {
    file: Arc<dyn DiskFile>,
    hasher: blake3::Hasher,
    offset: u64,
}

impl Target {
    /// Opens file `number`, and closes those after it that are empty.
    fn open_next(&mut self, files: &SnapshotFiles) -> Result<(), Refusal> {
        self.open = None;
        while let Some(expected) = files.checkpoint().files.get(self.number) {
            let path = files.dir().join(&expected.name);
            // Creates only: a name listed twice must not be written twice.
            let file = files.disk().create(&path).map_err(|_| Refusal::Disk)?;
            if expected.bytes > 0 {
                self.open = Some(Filling {
                    file,
                    hasher: blake3::Hasher::new(),
                    offset: 0,
                });
                return Ok(());
            }
            if blake3::hash(b"").as_bytes() != &expected.blake3 {
                return Err(Refusal::Digest);
            }
            self.number += 1;
        }
        Ok(())
    }

    async fn take(
        mut self,
        files: &SnapshotFiles,
        chunk: v1::RaftSnapshotChunk,
    ) -> Result<Self, Refusal> {
        let expected = files.checkpoint().files.get(self.number);
        let (Some(expected), Some(mut filling)) = (expected, self.open.take()) else {
            return Err(Refusal::Malformed("snapshot piece"));
        };
        let end = filling.offset.saturating_add(chunk.data.len() as u64);
        let in_order = chunk.file as usize == self.number && chunk.offset == filling.offset;
        if !in_order || end > expected.bytes || chunk.data.is_empty() {
            return Err(Refusal::Malformed("snapshot piece"));
        }
        let filling = away(move || {
            filling.hasher.update(&chunk.data);
            filling.file.write_at(&chunk.data, filling.offset)?;
            filling.offset = end;
            Ok::<_, std::io::Error>(filling)
        })
        .await
        .map_err(|_| Refusal::Disk)?
        .map_err(|_| Refusal::Disk)?;
        if end < expected.bytes {
            self.open = Some(filling);
            return Ok(self);
        }
        if filling.hasher.finalize().as_bytes() != &expected.blake3 {
            return Err(Refusal::Digest);
        }
        self.number += 1;
        self.open_next(files)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        for good in ["CURRENT", "000012.sst", "MANIFEST-000004", "OPTIONS_1"] {
            assert!(plain(good), "{good}");
        }
        for bad in [
            "",
            "..",
            ".hidden",
            "a/b",
            "/etc",
            "a\\b",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(!plain(bad), "{bad}");
        }
    }
}
