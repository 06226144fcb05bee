//! This replica's own word on the log: its cosigner key and what it cosigned last.
//!
//! Owns both files in the data folder, mode 0600. The key is made here, never leaves and is in no backup; the newest
//! checkpoint it cosigned is durable before the cosignature exists. Refuses to start with a key and no memory: such a
//! replica could cosign a smaller tree than before. What it decides by is [`tlog::decide_on_own_tree`]. A disk that fails
//! to sync what was cosigned ends the process, as one that fails to sync the Raft log does.

mod memory;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tlog::{
    Checkpoint, CheckpointError, Hash, KeyName, OriginLine, OwnTree, OwnTreeRefused, SignError,
    Signature, SignatureType, SignerKey, UnixSeconds, VerifierKey, decide_on_own_tree,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::memory::Memory;
use crate::random;

const KEY_FILE: &str = "cosigner.key";
/// One line, of bounded length.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a replica has no cosigner.
#[derive(Debug, thiserror::Error)]
pub enum CosignerError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read the key.
    #[error("{} has mode {mode:03o}: it is for its owner alone (600)", path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// No signer key of this replica's name and type.
    #[error("{} is not this replica's cosigner key", path.display())]
    OtherKey {
        /// Which file.
        path: PathBuf,
    },
    /// The key is there, and what it cosigned last is not.
    #[error(
        "{} is missing or damaged while the key is there: this replica no longer knows what it cosigned. Remove \
         {KEY_FILE} for a new key, and have it replace the old one in the witness policy",
        path.display()
    )]
    Forgotten {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, if it is there.
        #[source]
        source: Option<CheckpointError>,
    },
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CosignError {
    /// It is not one to cosign.
    #[error(transparent)]
    Refused(#[from] OwnTreeRefused),
    /// It could not be remembered.
    #[error("what is cosigned could not be made durable")]
    NotDurable(#[source] NotInPlace),
    /// No signature.
    #[error("signing failed")]
    Sign(#[source] SignError),
}

/// Why a file is not in its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotInPlace {
    /// It could not be written: a disk may be full, and have room again.
    #[error("it could not be written")]
    Unwritten(#[from] io::Error),
    /// The disk does not keep what it took.
    #[error("the disk did not sync it")]
    Unsynced(#[source] Arc<io::Error>),
}

impl NotInPlace {
    fn into_io(self) -> io::Error {
        match self {
            Self::Unwritten(error) => error,
            Self::Unsynced(error) => io::Error::new(error.kind(), error),
        }
    }
}

/// The cosigner of one replica.
pub(crate) struct Cosigner {
    key: SignerKey,
    memory: Mutex<Memory>,
    unsynced: watch::Sender<Option<Arc<io::Error>>>,
    sync: SyncFile,
}

/// How what was written to a file is made durable: [`File::sync_data`], except where a test has a disk fail.
type SyncFile = fn(&File) -> io::Result<()>;

impl Cosigner {
    /// Opens the cosigner of the folder, or makes one where there is none yet.
    pub(crate) fn open(
        folder: &Path,
        name: &KeyName,
        origin: &OriginLine,
    ) -> Result<Self, CosignerError> {
        let path = folder.join(KEY_FILE);
        let key = match read_key(&path, name)? {
            Some(key) => key,
            None => make(folder, name, origin)?,
        };
        let memory = Memory::open(folder)?;
        Ok(Self {
            key,
            memory: Mutex::new(memory),
            unsynced: watch::Sender::new(None),
            sync: File::sync_data,
        })
    }

    /// Waits until the disk has failed to sync what was cosigned; the process has to exit then.
    pub(crate) async fn failed(&self) -> Arc<io::Error> {
        let mut unsynced = self.unsynced.subscribe();
        let failed = unsynced.wait_for(Option::is_some).await;
        let failed = failed.expect("the sender lives as long as this");
        failed.clone().expect("waited for")
    }

    /// The public half.
    pub(crate) fn verifier(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// Cosigns a checkpoint of the own tree. Waits for the disk: not for a task's thread.
    pub(crate) fn cosign(
        &self,
        asked: &Checkpoint,
        tree: &OwnTree<'_>,
        time: UnixSeconds,
    ) -> Result<Signature, CosignError> {
        let mut memory = self.memory.lock();
        // An empty tree is a promise of nothing, and every log's.
        let seen = Some(memory.last()).filter(|last| last.size() > 0);
        let accepted = decide_on_own_tree(asked, seen, tree)?;
        let persisted = accepted
            .persist(|checkpoint| memory.remember(checkpoint, self.sync))
            .inspect_err(|error| {
                if let NotInPlace::Unsynced(error) = error {
                    self.unsynced.send_replace(Some(error.clone()));
                }
            })
            .map_err(CosignError::NotDurable)?;
        persisted.cosign(&self.key, time).map_err(CosignError::Sign)
    }
}

fn read_key(path: &Path, name: &KeyName) -> Result<Option<SignerKey>, CosignerError> {
    let of_file = |source| CosignerError::File {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_file(error)),
    };
    let mode = file.metadata().map_err(of_file)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(CosignerError::Readable { path, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(of_file)?;
    let key = SignerKey::parse(text.trim_end_matches('\n')).ok();
    let ours = |key: &SignerKey| {
        let verifier = key.verifier();
        verifier.name() == name && verifier.kind() == SignatureType::Ed25519Cosignature
    };
    let key = key.filter(ours).ok_or_else(|| CosignerError::OtherKey {
        path: path.to_owned(),
    })?;
    Ok(Some(key))
}

/// A new key that has promised nothing. The memory comes first: a key without one is refused.
fn make(folder: &Path, name: &KeyName, origin: &OriginLine) -> Result<SignerKey, CosignerError> {
    let of_file = |name: &str| {
        let path = folder.join(name);
        move |error: NotInPlace| CosignerError::File {
            path,
            source: error.into_io(),
        }
    };
    let nothing = Checkpoint::new(origin.clone(), 0, Hash::empty_root())
        .expect("the empty tree has the empty root");
    Memory::begin(folder, &nothing).map_err(of_file(memory::FILE))?;
    let kind = SignatureType::Ed25519Cosignature;
    let seed = Zeroizing::new(random::<{ tlog::SEED_BYTES }>());
    let key = SignerKey::from_seed(name.clone(), kind, &seed)
        .expect("a name and 32 bytes make an Ed25519 key");
    let mut text = SignerKey::text_of(name, kind, &seed).expect("they made one above");
    text.push('\n');
    let beside = folder.join(KEY_FILE).with_extension("new");
    // A file left by a start that was cut off holds a key that nobody ever saw.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(of_file(KEY_FILE)(error.into()));
        }
        _ => {}
    }
    let path = folder.join(KEY_FILE);
    replace(&beside, &path, text.as_bytes()).map_err(of_file(KEY_FILE))?;
    Ok(key)
}

/// Puts a file in its place; when this returns, a power cut leaves the new one.
fn replace(beside: &Path, path: &Path, bytes: &[u8]) -> Result<(), NotInPlace> {
    let durable = |file: &File| {
        let synced = file.sync_all();
        synced.map_err(|error| NotInPlace::Unsynced(Arc::new(error)))
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(beside)?;
    file.write_all(bytes)?;
    durable(&file)?;
    std::fs::rename(beside, path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    durable(&File::open(folder)?)
}

#[cfg(test)]
mod tests;
