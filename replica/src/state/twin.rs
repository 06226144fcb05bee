//! The twin of the RocksDB store, in memory, for simulation: loses at a power cut what was not flushed.
//!
//! Owns the same contract by other means, so that a test which passes on both says something about each. Like the
//! original it may flush by itself at any commit, as the seed says, and always whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::LogIndex;
use proto::store::{MemoryStore, Reader, Writer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checkpoint::{Checkpoint, CheckpointFile, digest};
use super::overlay::{Batch, Overlay, Writes};
use super::{
    Applied, BringInLine, KeyRange, NOTE_BYTES_MAX, StateDigest, StateError, StateStore, View,
};
use crate::disk::Disk;

/// What survives: the flushed state of every store on it.
#[derive(Clone)]
pub struct TwinMedium {
    shelves: Arc<Mutex<Shelves>>,
}

struct Shelves {
    rng: StdRng,
    stores: BTreeMap<PathBuf, Shelf>,
}

#[derive(Default)]
struct Shelf {
    flushed: Held,
    /// Counts openings: only the last handle may write.
    opened: u64,
}

/// A state in memory.
#[derive(Clone, Default)]
struct Held {
    state: Arc<MemoryStore>,
    local: Arc<MemoryStore>,
    applied: Option<Applied>,
}

/// A state store in memory on a [`TwinMedium`].
pub struct TwinState {
    medium: TwinMedium,
    name: PathBuf,
    opened: u64,
    disk: Arc<dyn Disk>,
    live: Mutex<Live>,
    failed: OnceLock<Arc<StateError>>,
}

struct Live {
    held: Held,
    commits: u64,
    unflushed_bytes: u64,
}

impl TwinMedium {
    /// An empty medium; `seed` decides when stores flush by themselves.
    pub fn new(seed: u64) -> Self {
        let shelves = Shelves {
            rng: StdRng::seed_from_u64(seed),
            stores: BTreeMap::new(),
        };
        Self {
            shelves: Arc::new(Mutex::new(shelves)),
        }
    }

    /// Kills every open handle. What was not flushed is gone.
    pub fn power_cut(&self) {
        for shelf in self.shelves.lock().stores.values_mut() {
            shelf.opened += 1;
        }
    }
}

impl TwinState {
    /// Opens the store `name` as it was last flushed. Earlier handles on it are dead. Checkpoints are written to
    /// and read from `disk`.
    pub fn open(medium: &TwinMedium, name: &Path, disk: Arc<dyn Disk>) -> Self {
        let mut shelves = medium.shelves.lock();
        let shelf = shelves.stores.entry(name.to_owned()).or_default();
        shelf.opened += 1;
        let live = Live {
            held: shelf.flushed.clone(),
            commits: 0,
            unflushed_bytes: 0,
        };
        Self {
            medium: medium.clone(),
            name: name.to_owned(),
            opened: shelf.opened,
            disk,
            live: Mutex::new(live),
            failed: OnceLock::new(),
        }
    }

    fn check(&self) -> Result<(), StateError> {
        match self.failed.get() {
            Some(failed) => Err(StateError::Failed(failed.clone())),
            None => Ok(()),
        }
    }

    fn keep(&self, live: &mut Live) -> Result<(), StateError> {
        let mut shelves = self.medium.shelves.lock();
        let shelf = shelves
            .stores
            .get_mut(&self.name)
            .filter(|shelf| shelf.opened == self.opened);
        match shelf {
            Some(shelf) => {
                shelf.flushed = live.held.clone();
                live.unflushed_bytes = 0;
                Ok(())
            }
            None => {
                let failed = Arc::new(StateError::InUse);
                Err(StateError::Failed(
                    self.failed.get_or_init(|| failed).clone(),
                ))
            }
        }
    }

    fn flushes_by_itself(&self) -> bool {
        self.medium.shelves.lock().rng.random_ratio(1, 16)
    }
}

impl StateStore for TwinState {
    fn view(&self) -> Result<View, StateError> {
        self.check()?;
        Ok(self.live.lock().held.view())
    }

    fn begin(&self) -> Result<Batch, StateError> {
        self.check()?;
        let live = self.live.lock();
        Ok(Batch::new(live.held.view(), live.commits))
    }

    fn commit(&self, batch: Batch, applied: LogIndex, note: Bytes) -> Result<(), StateError> {
        self.check()?;
        let mut live = self.live.lock();
        check_commit(live.held.applied.as_ref(), applied, &note)?;
        if batch.token != live.commits {
            return Err(StateError::Overtaken);
        }
        live.unflushed_bytes += batch.bytes();
        let (state, local) = batch.into_writes();
        write(&mut live.held.state, state);
        write(&mut live.held.local, local);
        live.held.applied = Some(Applied {
            index: applied,
            note,
        });
        live.commits += 1;
        if self.flushes_by_itself() {
            self.keep(&mut live)?;
        }
        Ok(())
    }

    fn applied(&self) -> Option<Applied> {
        self.live.lock().held.applied.clone()
    }

    fn flush(&self) -> Result<Option<LogIndex>, StateError> {
        self.check()?;
        let mut live = self.live.lock();
        self.keep(&mut live)?;
        Ok(live.held.applied.as_ref().map(|applied| applied.index))
    }

    fn flushed(&self) -> Option<LogIndex> {
        let shelves = self.medium.shelves.lock();
        let shelf = shelves.stores.get(&self.name)?;
        shelf.flushed.applied.as_ref().map(|applied| applied.index)
    }

    fn unflushed_bytes(&self) -> u64 {
        self.live.lock().unflushed_bytes
    }

    fn checkpoint(&self, dir: &Path) -> Result<Checkpoint, StateError> {
        self.check()?;
        let held = self.live.lock().held.clone();
        let content = encode(&held.state);
        let file = |source| StateError::File {
            doing: "write a checkpoint",
            source,
        };
        self.disk.create_dir_all(dir).map_err(file)?;
        let written = self.disk.create(&dir.join(CONTENT)).map_err(file)?;
        written.write_at(&content, 0).map_err(file)?;
        written.sync_data().map_err(file)?;
        self.disk.sync_dir(dir).map_err(file)?;
        let listed = CheckpointFile {
            name: CONTENT.to_owned(),
            bytes: content.len() as u64,
            blake3: *blake3::hash(&content).as_bytes(),
        };
        Ok(Checkpoint {
            applied: held.applied,
            files: vec![listed],
        })
    }

    fn erase_replaced(&self, _through: LogIndex, _ranges: &[KeyRange]) -> Result<bool, StateError> {
        self.check()?;
        // It keeps what is, and nothing else.
        Ok(true)
    }

    fn install(
        &self,
        dir: &Path,
        checkpoint: &Checkpoint,
        bring_in_line: BringInLine<'_>,
    ) -> Result<(), StateError> {
        self.check()?;
        checkpoint.check_names()?;
        let not = |why| StateError::NotTheCheckpoint { number: 0, why };
        let file = |source| StateError::File {
            doing: "read a checkpoint",
            source,
        };
        let [listed] = &checkpoint.files[..] else {
            return Err(not("there is not one file"));
        };
        let found = self.disk.open(&dir.join(&listed.name)).map_err(file)?;
        let mut content = vec![0; found.bytes().map_err(file)? as usize];
        found.read_at(&mut content, 0).map_err(file)?;
        let same = content.len() as u64 == listed.bytes
            && *blake3::hash(&content).as_bytes() == listed.blake3;
        if !same {
            return Err(not("its length or digest differs"));
        }
        let state = decode(&content).ok_or(not("it does not parse"))?;
        let mut live = self.live.lock();
        check_install(live.held.applied.as_ref(), checkpoint)?;
        let mut local = live.held.local.clone();
        if let Some(applied) = &checkpoint.applied {
            let mut overlay = Overlay::new(Box::new(Shared(local.clone())));
            bring_in_line(applied.index, &state, &mut overlay);
            let writes = std::mem::take(&mut overlay.writes);
            drop(overlay);
            write(&mut local, writes);
        }
        live.held = Held {
            state: Arc::new(state),
            local,
            applied: checkpoint.applied.clone(),
        };
        live.commits += 1;
        self.keep(&mut live)?;
        self.disk.remove_dir_all(dir).map_err(file)
    }

    fn digest(&self) -> Result<StateDigest, StateError> {
        Ok(digest(&self.view()?))
    }

    fn failed(&self) -> Option<Arc<StateError>> {
        self.failed.get().cloned()
    }
}

/// What both stores refuse of a commit.
pub(super) fn check_commit(
    from: Option<&Applied>,
    to: LogIndex,
    note: &Bytes,
) -> Result<(), StateError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(StateError::NoteTooLong { bytes: note.len() });
    }
    match from {
        // The same index again is a change of `local` alone.
        Some(from) if to < from.index => Err(StateError::Backwards {
            from: from.index,
            to,
        }),
        _ => Ok(()),
    }
}

/// What both stores refuse of an install: an older state than the one they have.
pub(super) fn check_install(
    from: Option<&Applied>,
    checkpoint: &Checkpoint,
) -> Result<(), StateError> {
    let to = checkpoint
        .applied
        .as_ref()
        .map_or(LogIndex(0), |applied| applied.index);
    match from {
        Some(from) if to < from.index => Err(StateError::Backwards {
            from: from.index,
            to,
        }),
        _ => Ok(()),
    }
}

impl Held {
    fn view(&self) -> View {
        View {
            state: Box::new(Shared(self.state.clone())),
            local: Box::new(Shared(self.local.clone())),
            applied: self.applied.clone(),
        }
    }
}

struct Shared(Arc<MemoryStore>);

impl Reader for Shared {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.0.value(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(start, end, visit);
    }
}

fn write(store: &mut Arc<MemoryStore>, writes: Writes) {
    let store = Arc::make_mut(store);
    for (key, value) in writes {
        match value {
            Some(value) => store.put(&key, &value),
            None => store.delete(&key),
        }
    }
}

fn encode(store: &MemoryStore) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in store.iter() {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

fn decode(mut bytes: &[u8]) -> Option<MemoryStore> {
    let mut store = MemoryStore::default();
    while !bytes.is_empty() {
        let (key_bytes, rest) = bytes.split_first_chunk()?;
        let (value_bytes, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_bytes) as usize)?;
        store.put(key, value);
        bytes = rest;
    }
    Some(store)
}

/// The one file of a twin's checkpoint.
const CONTENT: &str = "twin-state";
