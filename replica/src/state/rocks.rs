//! The state of a group in RocksDB, without the engine's own log.
//!
//! Owns the folder: `CURRENT` names the live database folder beside it, and nothing else in there counts. Refuses a
//! folder whose `CURRENT` names what is not there. Every engine error but a full disk ends the store: the process exits,
//! and the Raft log brings back what was not flushed. On a full disk the engine keeps what it has in memory, refuses
//! writes, and tries again by itself until it has written that.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proto::ids::LogIndex;
use proto::store::Reader;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, FlushOptions, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use super::checkpoint::{Checkpoint, describe, digest};
use super::env::{LOCAL, META, OnFailed, STATE, StateEnv};
use super::overlay::{Batch, Writes};
use super::twin::{check_commit, check_install};
use super::{Applied, BringInLine, KeyRange, StateDigest, StateError, StateStore, View};
use crate::disk::{DirLock, Disk, RealDisk};

#[cfg(test)]
mod garbage_tests;
mod install;

/// Called between the steps of an installation, in tests.
#[cfg(test)]
type AtStep = Box<dyn Fn(&'static str) + Send>;

/// A state store on the real disk.
pub struct RocksState {
    env: StateEnv,
    dir: PathBuf,
    live: RwLock<Arc<Database>>,
    /// Held over a commit, a checkpoint and an install: one of them at a time.
    order: Mutex<()>,
    progress: Mutex<Progress>,
    /// What is being erased: through which index, and the engine's sequence number that a view must not be older than.
    erasing: Mutex<Option<(LogIndex, u64)>>,
    failure: Arc<Failure>,
    _lock: DirLock,
    #[cfg(test)]
    at_step: Mutex<Option<AtStep>>,
}

#[derive(Default)]
struct Progress {
    applied: Option<Applied>,
    flushed: Option<LogIndex>,
    commits: u64,
    unflushed_bytes: u64,
}

/// The first error, for all who read and write.
struct Failure {
    first: OnceLock<Arc<StateError>>,
    on_failed: Option<OnFailed>,
}

/// An open database folder.
pub(super) struct Database {
    // `None` only while dropping: the engine must let go of the folder before it is removed.
    db: Option<DB>,
    path: PathBuf,
    /// Whether compactions collect garbage in blob files.
    collects: AtomicBool,
    /// Replaced by an install: its folder goes when the last view of it is dropped.
    replaced: AtomicBool,
}

type DbSnapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell::self_cell! {
    /// A snapshot that keeps its database open.
    struct Pinned {
        owner: Arc<Database>,
        #[not_covariant]
        dependent: DbSnapshot,
    }
}

/// One column family of a snapshot.
struct FamilyReader {
    pinned: Arc<Pinned>,
    family: &'static str,
    failure: Arc<Failure>,
}

impl RocksState {
    /// Opens the state in `dir`, creating it where there is none. What it holds is what was flushed; leftovers of an
    /// install that did not finish are removed. *Blocks.*
    pub fn open(env: &StateEnv, dir: &Path) -> Result<Self, StateError> {
        let file = |doing| move |source| StateError::File { doing, source };
        RealDisk
            .create_dir_all(dir)
            .map_err(file("create the state folder"))?;
        let lock = RealDisk
            .lock_dir(dir)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::WouldBlock => StateError::InUse,
                _ => StateError::File {
                    doing: "lock the state folder",
                    source,
                },
            })?;
        let failure = Arc::new(Failure {
            first: OnceLock::new(),
            on_failed: env.on_failed(),
        });
        let database = install::open_current(env, dir)?;
        let applied = database.applied()?;
        let progress = Progress {
            flushed: applied.as_ref().map(|applied| applied.index),
            applied,
            ..Progress::default()
        };
        Ok(Self {
            env: env.clone(),
            dir: dir.to_owned(),
            live: RwLock::new(Arc::new(database)),
            order: Mutex::new(()),
            progress: Mutex::new(progress),
            erasing: Mutex::default(),
            failure,
            _lock: lock,
            #[cfg(test)]
            at_step: Mutex::new(None),
        })
    }

    fn database(&self) -> Arc<Database> {
        self.live.read().clone()
    }

    fn check(&self) -> Result<(), StateError> {
        match self.failure.first.get() {
            Some(failed) => Err(StateError::Failed(failed.clone())),
            None => Ok(()),
        }
    }

    /// Ends the store when the error says so.
    fn judge<T>(&self, outcome: Result<T, StateError>) -> Result<T, StateError> {
        outcome.map_err(|error| match error.is_fatal() {
            true => StateError::Failed(self.failure.record(error)),
            false => error,
        })
    }

    fn write(&self, batch: Batch, applied: &Applied) -> Result<(), StateError> {
        let database = self.database();
        let mut engine_batch = WriteBatch::default();
        let (state, local) = batch.into_writes();
        add_writes(&mut engine_batch, database.family(STATE)?, state);
        add_writes(&mut engine_batch, database.family(LOCAL)?, local);
        engine_batch.put_cf(database.family(META)?, APPLIED, encode_applied(applied));
        database.write(engine_batch)
    }

    fn flush_live(&self) -> Result<Option<LogIndex>, StateError> {
        let (applied, bytes) = {
            let progress = self.progress.lock();
            let applied = progress.applied.as_ref().map(|applied| applied.index);
            (applied, progress.unflushed_bytes)
        };
        // The engine takes no writes from a failed flush until it sees room again: what frees some has to get through.
        let free = RealDisk.space_available(&self.dir);
        let free = free.map_err(|source| StateError::File {
            doing: "ask the free space of the disk",
            source,
        })?;
        if free < bytes.saturating_add(FLUSH_ROOM_BYTES) {
            return Err(StateError::NoSpace { doing: "flush" });
        }
        let database = self.database();
        database.flush()?;
        database.choose_collection()?;
        let mut progress = self.progress.lock();
        progress.flushed = progress.flushed.max(applied);
        progress.unflushed_bytes = progress.unflushed_bytes.saturating_sub(bytes);
        Ok(applied)
    }

    /// What was replaced goes once a compaction meets it that no view forbids.
    fn erase(&self, through: LogIndex, ranges: &[KeyRange]) -> Result<bool, StateError> {
        let database = self.database();
        let erased_from = {
            let mut erasing = self.erasing.lock();
            let known = erasing.filter(|(index, _)| *index >= through);
            // Everything up to `through` is written: what a younger view sees was not replaced by then.
            erasing
                .insert(known.unwrap_or((through, database.db().latest_sequence_number())))
                .1
        };
        match database.oldest_view()? {
            Some(oldest) if oldest < erased_from => return Ok(false),
            _ => {}
        }
        self.flush_live()?;
        database.compact(ranges)?;
        // An install has brought other files meanwhile.
        Ok(Arc::ptr_eq(&database, &self.database()))
    }

    fn write_checkpoint(&self, dir: &Path) -> Result<Checkpoint, StateError> {
        // The bulk is flushed before commits have to wait.
        self.flush_live()?;
        let applied = {
            let _order = self.order.lock();
            let database = self.database();
            let made = rocksdb::checkpoint::Checkpoint::new(database.db())
                .and_then(|checkpoint| checkpoint.create_checkpoint(dir));
            made.map_err(engine("make a checkpoint"))?;
            self.progress.lock().applied.clone()
        };
        let file = |source| StateError::File {
            doing: "list a checkpoint",
            source,
        };
        let mut files = Vec::new();
        for name in RealDisk.list(dir).map_err(file)? {
            let name = name
                .into_string()
                .map_err(|_| StateError::Unreadable { what: "file name" })?;
            files.push(describe(dir, &name).map_err(file)?);
        }
        Ok(Checkpoint { applied, files })
    }

    #[cfg(test)]
    fn step(&self, step: &'static str) {
        if let Some(hook) = &*self.at_step.lock() {
            hook(step);
        }
    }

    #[cfg(not(test))]
    fn step(&self, _step: &'static str) {}

    /// Calls `hook` between the steps of an install, so that a test can look at what a crash there leaves.
    #[cfg(test)]
    pub(super) fn set_step_hook(&self, hook: impl Fn(&'static str) + Send + 'static) {
        *self.at_step.lock() = Some(Box::new(hook));
    }
}

impl StateStore for RocksState {
    fn view(&self) -> Result<View, StateError> {
        self.check()?;
        self.judge(view_of(self.database(), &self.failure))
    }

    fn begin(&self) -> Result<Batch, StateError> {
        self.check()?;
        let _order = self.order.lock();
        let token = self.progress.lock().commits;
        Ok(Batch::new(self.view()?, token))
    }

    fn commit(&self, batch: Batch, applied: LogIndex, note: Bytes) -> Result<(), StateError> {
        self.check()?;
        let _order = self.order.lock();
        {
            let progress = self.progress.lock();
            check_commit(progress.applied.as_ref(), applied, &note)?;
            if batch.token != progress.commits {
                return Err(StateError::Overtaken);
            }
        }
        let bytes = batch.bytes();
        let applied = Applied {
            index: applied,
            note,
        };
        self.judge(self.write(batch, &applied))?;
        let mut progress = self.progress.lock();
        progress.applied = Some(applied);
        progress.commits += 1;
        progress.unflushed_bytes += bytes;
        Ok(())
    }

    fn applied(&self) -> Option<Applied> {
        self.progress.lock().applied.clone()
    }

    fn flush(&self) -> Result<Option<LogIndex>, StateError> {
        self.check()?;
        self.judge(self.flush_live())
    }

    fn flushed(&self) -> Option<LogIndex> {
        self.progress.lock().flushed
    }

    fn unflushed_bytes(&self) -> u64 {
        self.progress.lock().unflushed_bytes
    }

    fn checkpoint(&self, dir: &Path) -> Result<Checkpoint, StateError> {
        self.check()?;
        self.judge(self.write_checkpoint(dir))
    }

    fn install(
        &self,
        dir: &Path,
        checkpoint: &Checkpoint,
        bring_in_line: BringInLine<'_>,
    ) -> Result<(), StateError> {
        self.check()?;
        checkpoint.check_files(dir)?;
        let _order = self.order.lock();
        check_install(self.progress.lock().applied.as_ref(), checkpoint)?;
        self.judge(self.install_checked(dir, checkpoint, bring_in_line))
    }

    fn erase_replaced(&self, through: LogIndex, ranges: &[KeyRange]) -> Result<bool, StateError> {
        self.check()?;
        self.judge(self.erase(through, ranges))
    }

    fn digest(&self) -> Result<StateDigest, StateError> {
        Ok(digest(&self.view()?))
    }

    fn failed(&self) -> Option<Arc<StateError>> {
        self.failure.first.get().cloned()
    }
}

impl Failure {
    fn record(&self, error: StateError) -> Arc<StateError> {
        if let StateError::Failed(first) = error {
            return first;
        }
        let error = Arc::new(error);
        if self.first.set(error.clone()).is_ok() {
            tracing::error!(
                error = &*error as &dyn std::error::Error,
                "state store failed"
            );
            if let Some(on_failed) = &self.on_failed {
                on_failed(&error);
            }
        }
        self.first.get().cloned().unwrap_or(error)
    }
}

impl Database {
    fn open(env: &StateEnv, path: &Path, create: bool) -> Result<Self, StateError> {
        let db = DB::open_cf_descriptors(&env.database(path, create), path, env.descriptors())
            .map_err(engine("open the database"))?;
        Ok(Self::new(db, path.to_owned()))
    }

    fn new(db: DB, path: PathBuf) -> Self {
        Self {
            db: Some(db),
            path,
            collects: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
        }
    }

    fn db(&self) -> &DB {
        self.db.as_ref().expect("taken only by drop")
    }

    fn family(&self, name: &'static str) -> Result<&ColumnFamily, StateError> {
        self.db().cf_handle(name).ok_or(StateError::Unreadable {
            what: "set of column families",
        })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StateError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db()
            .write_opt(batch, &options)
            .map_err(engine("write a batch"))
    }

    fn flush(&self) -> Result<(), StateError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = [self.family(STATE)?, self.family(LOCAL)?, self.family(META)?];
        self.db()
            .flush_cfs_opt(&families, &options)
            .map_err(engine("flush"))
    }

    /// The engine's sequence number that the oldest view stands at.
    fn oldest_view(&self) -> Result<Option<u64>, StateError> {
        let oldest = self.db().property_int_value(OLDEST_VIEW);
        let oldest = oldest.map_err(engine("ask for the oldest view"))?;
        Ok(oldest.filter(|sequence| *sequence > 0))
    }

    /// Writes the ranges of the replicated keys anew, the lowest level too.
    fn compact(&self, ranges: &[KeyRange]) -> Result<(), StateError> {
        let family = self.family(STATE)?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        for KeyRange { start, end } in ranges {
            self.db()
                .compact_range_cf_opt(family, Some(start), Some(end), &options);
        }
        Ok(())
    }

    /// Has compactions collect garbage in blob files while there is enough of it: what still lives in the files that
    /// are collected is written again, so that without garbage it would only be written more.
    fn choose_collection(&self) -> Result<(), StateError> {
        let family = self.family(STATE)?;
        let bytes_of = |property: &str| {
            let bytes = self.db().property_int_value_cf(family, property);
            bytes
                .map(Option::unwrap_or_default)
                .map_err(engine("read how much is garbage"))
        };
        let (all, garbage) = (bytes_of(BLOB_BYTES)?, bytes_of(BLOB_GARBAGE_BYTES)?);
        let collects = self.collects.load(Ordering::Relaxed);
        let parts = if collects {
            COLLECT_UNTIL
        } else {
            COLLECT_FROM
        };
        let wanted = garbage > all / parts;
        if wanted != collects {
            let value = if wanted { "true" } else { "false" };
            self.db()
                .set_options_cf(family, &[(COLLECT, value)])
                .map_err(engine("choose whether garbage is collected"))?;
            self.collects.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    fn applied(&self) -> Result<Option<Applied>, StateError> {
        let found = self.db().get_cf(self.family(META)?, APPLIED);
        found
            .map_err(engine("read the applied index"))?
            .map(|bytes| decode_applied(&bytes))
            .transpose()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.db.take());
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            // The next opening removes what CURRENT does not name.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "replaced state not removed"
            );
        }
    }
}

fn view_of(database: Arc<Database>, failure: &Arc<Failure>) -> Result<View, StateError> {
    let pinned = Arc::new(Pinned::new(database, |database| database.db().snapshot()));
    let reader = |family| FamilyReader {
        pinned: pinned.clone(),
        family,
        failure: failure.clone(),
    };
    let applied = reader(META)
        .read(APPLIED)?
        .map(|bytes| decode_applied(&bytes))
        .transpose()?;
    Ok(View {
        state: Box::new(reader(STATE)),
        local: Box::new(reader(LOCAL)),
        applied,
    })
}

impl FamilyReader {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let family = self.pinned.borrow_owner().family(self.family)?;
        self.pinned
            .with_dependent(|_, snapshot| snapshot.get_cf(family, key))
            .map_err(engine("read a key"))
    }

    fn visit(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        if start >= end {
            return Ok(());
        }
        let family = self.pinned.borrow_owner().family(self.family)?;
        self.pinned.with_dependent(|_, snapshot| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(end);
            let mut iterator = snapshot.raw_iterator_cf_opt(family, options);
            iterator.seek(start);
            while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
                if !visit(key, value) {
                    return Ok(());
                }
                iterator.next();
            }
            iterator.status().map_err(engine("scan keys"))
        })
    }

    /// Ends the store and this caller: to go on without the answer would be to answer wrongly.
    fn give_up(&self, error: StateError) -> ! {
        let failed = self.failure.record(error);
        panic!("state store cannot be read: {failed}");
    }
}

impl Reader for FamilyReader {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        match self.read(key) {
            Ok(value) => value.map(Bytes::from),
            Err(error) => self.give_up(error),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if let Err(error) = self.visit(start, end, visit) {
            self.give_up(error);
        }
    }
}

fn add_writes(batch: &mut WriteBatch, family: &ColumnFamily, writes: Writes) {
    for (key, value) in writes {
        match value {
            Some(value) => batch.put_cf(family, key, value),
            None => batch.delete_cf(family, key),
        }
    }
}

/// Version (1), index (8, little-endian), the host's note.
fn encode_applied(applied: &Applied) -> Vec<u8> {
    let mut out = vec![APPLIED_VERSION];
    out.extend_from_slice(&applied.index.0.to_le_bytes());
    out.extend_from_slice(&applied.note);
    out
}

fn decode_applied(bytes: &[u8]) -> Result<Applied, StateError> {
    let unreadable = StateError::Unreadable {
        what: "record of the applied index",
    };
    let Some((&APPLIED_VERSION, rest)) = bytes.split_first() else {
        return Err(unreadable);
    };
    let Some((index, note)) = rest.split_first_chunk() else {
        return Err(unreadable);
    };
    let index = LogIndex(u64::from_le_bytes(*index));
    Ok(Applied {
        index,
        note: Bytes::copy_from_slice(note),
    })
}

fn engine(doing: &'static str) -> impl Fn(rocksdb::Error) -> StateError {
    move |source| match source.as_ref().contains(NO_SPACE) {
        true => StateError::NoSpace { doing },
        false => StateError::Engine { doing, source },
    }
}

/// How the engine's errors name a full disk; its binding has no other word for it.
const NO_SPACE: &str = "No space left on device";
/// Room for what a flush writes beside the values: tables, their list, options.
const FLUSH_ROOM_BYTES: u64 = 4 << 20;

const APPLIED: &[u8] = b"applied";
const OLDEST_VIEW: &str = "rocksdb.oldest-snapshot-sequence";
const BLOB_BYTES: &str = "rocksdb.live-blob-file-size";
const BLOB_GARBAGE_BYTES: &str = "rocksdb.live-blob-file-garbage-size";
const COLLECT: &str = "enable_blob_garbage_collection";
/// Garbage is collected from one part in so many.
const COLLECT_FROM: u64 = 4;
/// And until it is one part in so many.
const COLLECT_UNTIL: u64 = 8;
const APPLIED_VERSION: u8 = 1;
