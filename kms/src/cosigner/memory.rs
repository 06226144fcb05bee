//! The newest checkpoint that was cosigned here, in a file of two slots.
//!
//! Owns its bytes (docs/FORMATS.md). A checkpoint goes over the older slot, in place, and one sync of data makes it
//! durable: a file made anew for each would be two commits of the file system's journal, twenty times a second. Refuses
//! a file without a whole slot. A slot that is not whole is one whose write was cut off, before anything was signed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tlog::{Checkpoint, CheckpointError};

use super::{CosignerError, NotInPlace, SyncFile};
use crate::approvals::sha256;

/// The file, in a replica's folder.
pub(super) const FILE: &str = "cosigned";
const MAGIC: &[u8; 8] = b"RDTCSGN1";
/// A page: nothing else is written with it.
const SLOT_BYTES: usize = 4096;
const SLOTS: usize = 2;
const HEAD_BYTES: usize = 8 + 8 + 4;
const SUM_BYTES: usize = 32;

/// What was cosigned last, and where it stands.
pub(super) struct Memory {
    path: PathBuf,
    /// Slots written so far; the next goes to this one's place.
    written: u64,
    last: Checkpoint,
}

impl Memory {
    /// Begins one that remembers `first`. When this returns it is durable.
    pub(super) fn begin(folder: &Path, first: &Checkpoint) -> Result<(), NotInPlace> {
        let mut bytes = slot(0, first)?;
        bytes.resize(SLOTS * SLOT_BYTES, 0);
        let path = folder.join(FILE);
        super::replace(&path.with_extension("new"), &path, &bytes)
    }

    /// What is remembered in a folder. A file of builds before, which held one checkpoint alone, is written anew.
    pub(super) fn open(folder: &Path) -> Result<Self, CosignerError> {
        let path = folder.join(FILE);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CosignerError::Forgotten { path, source: None });
            }
            Err(source) => return Err(CosignerError::File { path, source }),
        };
        if bytes.len() == SLOTS * SLOT_BYTES {
            let newest = bytes.chunks(SLOT_BYTES).filter_map(of_slot);
            let newest = newest.max_by_key(|(number, _)| *number);
            let Some((number, last)) = newest else {
                return Err(CosignerError::Forgotten { path, source: None });
            };
            let written = number + 1;
            return Ok(Self {
                path,
                written,
                last,
            });
        }
        let last = match parsed(&bytes) {
            Ok(last) => last,
            Err(source) => {
                let source = Some(source);
                return Err(CosignerError::Forgotten { path, source });
            }
        };
        if let Err(error) = Self::begin(folder, &last) {
            let source = error.into_io();
            return Err(CosignerError::File { path, source });
        }
        Ok(Self {
            path,
            written: 1,
            last,
        })
    }

    /// The newest one.
    pub(super) fn last(&self) -> &Checkpoint {
        &self.last
    }

    /// Remembers a newer one. When this returns, a power cut leaves it.
    pub(super) fn remember(
        &mut self,
        checkpoint: &Checkpoint,
        sync: SyncFile,
    ) -> Result<(), NotInPlace> {
        let bytes = slot(self.written, checkpoint)?;
        // Opened each time: a file that somebody took away remembers nothing, though it can be written to.
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let place = self.written % SLOTS as u64 * SLOT_BYTES as u64;
        file.write_all_at(&bytes, place)?;
        sync(&file).map_err(|error| NotInPlace::Unsynced(Arc::new(error)))?;
        self.written += 1;
        self.last = checkpoint.clone();
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = (SLOTS * SLOT_BYTES + 1) as u64;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parsed(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    // What is no text has no line of a checkpoint.
    std::str::from_utf8(bytes).unwrap_or_default().parse()
}

/// One slot: magic, number, length of the text, text, SHA-256 of all of them, zeros.
fn slot(number: u64, checkpoint: &Checkpoint) -> io::Result<Vec<u8>> {
    let text = checkpoint.to_string();
    if text.len() > SLOT_BYTES - HEAD_BYTES - SUM_BYTES {
        return Err(io::Error::other("the checkpoint is too long to remember"));
    }
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    let sum = sha256(&bytes);
    bytes.extend_from_slice(&sum);
    bytes.resize(SLOT_BYTES, 0);
    Ok(bytes)
}

fn of_slot(slot: &[u8]) -> Option<(u64, Checkpoint)> {
    let rest = slot.strip_prefix(MAGIC)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let end = HEAD_BYTES.checked_add(u32::from_be_bytes(*length) as usize)?;
    let (said, sum) = (slot.get(..end)?, slot.get(end..end + SUM_BYTES)?);
    let checkpoint = parsed(&said[HEAD_BYTES..]).ok()?;
    (sha256(said) == sum).then_some((u64::from_be_bytes(*number), checkpoint))
}
