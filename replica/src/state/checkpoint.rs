//! What a checkpoint is made of: files with sizes and digests, and the index they hold.
//!
//! Owns the list and the check against it. Refuses names that lead out of the folder.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Applied, StateDigest, StateError, View};

/// A state as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The index the files hold; `None` for the state before the first commit.
    pub applied: Option<Applied>,
    /// Every file, by name.
    pub files: Vec<CheckpointFile>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its name in the folder: no separators.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub blake3: [u8; 32],
}

impl Checkpoint {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Checks the names: plain, different, and none that leads out of the folder.
    pub(super) fn check_names(&self) -> Result<(), StateError> {
        for (number, file) in self.files.iter().enumerate() {
            let plain = !file.name.is_empty()
                && file.name.len() <= NAME_BYTES_MAX
                && !file.name.starts_with('.')
                && file
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            let repeated = self.files[..number]
                .iter()
                .any(|other| other.name == file.name);
            if !plain || repeated {
                let why = "its name is not a plain file name";
                return Err(StateError::NotTheCheckpoint { number, why });
            }
        }
        Ok(())
    }

    /// Checks that the files in `dir` are the ones listed, byte for byte.
    pub(super) fn check_files(&self, dir: &Path) -> Result<(), StateError> {
        self.check_names()?;
        for (number, listed) in self.files.iter().enumerate() {
            let found = match describe(dir, &listed.name) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StateError::NotTheCheckpoint {
                        number,
                        why: "it is missing",
                    });
                }
                Err(source) => {
                    return Err(StateError::File {
                        doing: "read a checkpoint file",
                        source,
                    });
                }
            };
            if found != *listed {
                let why = "its length or digest differs";
                return Err(StateError::NotTheCheckpoint { number, why });
            }
        }
        Ok(())
    }
}

/// Length and digest of a file.
pub(super) fn describe(dir: &Path, name: &str) -> io::Result<CheckpointFile> {
    let mut file = File::open(dir.join(name))?;
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut file, &mut hasher)?;
    Ok(CheckpointFile {
        name: name.to_owned(),
        bytes,
        blake3: *hasher.finalize().as_bytes(),
    })
}

/// The digest of a view's replicated keys.
pub(super) fn digest(view: &View) -> StateDigest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |key: &[u8], value: &[u8]| {
        hasher.update(&(key.len() as u32).to_le_bytes());
        hasher.update(&(value.len() as u32).to_le_bytes());
        hasher.update(key);
        hasher.update(value);
        true
    };
    view.state.scan(&[], &END_OF_KEYS, &mut add);
    let applied = view.applied.as_ref().map(|applied| applied.index);
    StateDigest {
        applied,
        blake3: *hasher.finalize().as_bytes(),
    }
}

/// Above every key: keys are shorter, or differ from it within its length.
pub(super) const END_OF_KEYS: [u8; 4096] = [0xFF; 4096];
const NAME_BYTES_MAX: usize = 128;
