//! The blocks of this node: sealed bytes in append segments, found by object version and number.
//!
//! Owns durability of blocks: what was answered as stored survives a power cut, what was answered as unlinked does
//! not come back, and what is damaged says so. Refuses keys of any kind, and to decide what may be unlinked: no
//! clock and no start-up scan deletes a block (DESIGN section 6); [`crate::repair`] says which.
//!
//! Memory: about 90 bytes a block, plus [`StoreOptions::room_bytes_max`] for all blocks on their way in. A block is
//! held once, in the frames it came in, from the first frame until it is durable.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use proto::ids::{GroupId, ObjectVersionId, UploadEpoch};
use replica::disk::Disk;
use tokio::sync::{oneshot, watch};

mod block;
mod error;
mod header;
mod index;
mod read;
mod recover;
mod scrub;
mod segments;
mod standing;
#[cfg(test)]
mod tests;
mod writer;

pub use block::{
    BLOCK_BYTES_MAX, BlockDigest, BlockDraft, BlockHead, BlockKey, BlockNumber, BlockOwner,
    DraftError, FRAME_BYTES_MIN, NewBlock, Room, UNIT_BYTES,
};
pub use error::{OpenError, PutError, ReadError, StoreFailed, UnlinkError};
pub use index::Held;
pub use read::{BlockReader, PIECE_BYTES};
pub use recover::OpenReport;
pub use scrub::{ScrubCursor, Scrubbed};
pub use segments::OPEN_FILES_MAX;
pub use standing::SegmentsChecked;
pub use writer::{PutDone, UnlinkDone};

use self::segments::Segments;
use self::writer::Shared;

/// Unlinkings waiting at once.
pub const UNLINKS_QUEUED_MAX: usize = 16;
/// Blocks one unlinking may name.
pub const UNLINK_BLOCKS_MAX: usize = 4096;

/// Where the salts of new segments come from: 64 bits that clients cannot guess.
pub type SaltSource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who runs the store's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A thread of the store's own.
    Thread,
    /// The caller, through [`BlockStore::turn`]: for simulation, where the order of events is seeded.
    Manual,
}

/// How a store is kept.
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes of a segment, about: a record is not cut.
    pub segment_bytes: u64,
    /// Bytes of blocks on their way in, over all uploads and repairs: received, or waiting for their sync. The only
    /// bound on memory for block bytes; at least [`BLOCK_BYTES_MAX`].
    pub room_bytes_max: usize,
    /// Bytes written under one sync, about.
    pub batch_bytes_max: u64,
    /// Bytes left free on the file system: below it, blocks are refused, so that tombstones, the log and the state
    /// can still be written.
    pub space_reserve_bytes: u64,
    /// Who does the work.
    pub driver: Driver,
    /// Salts of new segments.
    pub salt: SaltSource,
}

impl StoreOptions {
    /// The defaults, with salts from `salt`.
    pub fn new(salt: SaltSource) -> Self {
        Self {
            segment_bytes: 256 << 20,
            room_bytes_max: 64 << 20,
            batch_bytes_max: 64 << 20,
            space_reserve_bytes: 512 << 20,
            driver: Driver::Thread,
            salt,
        }
    }
}

/// Whether a block that differs from the one held may take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// No: the first upload of a version id and number counts.
    Upload,
    /// Yes: the shard's state says which digest is right, or refers to none yet and has this upload's sealed anew.
    Repair,
}

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was written and is durable.
    Written,
    /// It was there, durable, under this epoch or a newer one.
    Held,
}

/// Counters of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Blocks held.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, blocks known to be damaged.
    pub damaged: u64,
    /// Blocks found damaged since the start, by whatever read them.
    pub damaged_found: u64,
    /// Segment files.
    pub segments: u64,
    /// Stretches of segments that could not be read at the start.
    pub gaps: u64,
    /// Blocks written since the start.
    pub written_blocks: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Blocks unlinked since the start.
    pub unlinked_blocks: u64,
    /// Syncs since the start.
    pub syncs: u64,
    /// Jobs waiting.
    pub queued: u64,
    /// Bytes left on the file system; 0 when that cannot be told.
    pub space_available: u64,
}

/// The block store of a node. Clones are handles on one store.
#[derive(Clone)]
pub struct BlockStore {
    shared: Arc<Shared>,
    thread: Arc<WriterThread>,
}

impl BlockStore {
    /// Opens the store in `dir`, creating it where there is none. *Blocks* for as long as it takes to read every
    /// header and to verify the last segment.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<(Self, OpenReport), OpenError> {
        let file = |doing| {
            let path = dir.to_owned();
            move |source| OpenError::File {
                doing,
                path,
                source,
            }
        };
        disk.create_dir_all(dir).map_err(file("creating"))?;
        let lock = disk.lock_dir(dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::InUse,
            _ => file("locking")(error),
        })?;
        let segments = Segments::new(disk, dir);
        let recovered = recover::recover(&segments)?;
        let report = recovered.report;
        let driver = options.driver;
        let shared = Arc::new(Shared::new(segments, recovered, options, lock));
        let thread = Arc::new(WriterThread::start(&shared, driver)?);
        Ok((Self { shared, thread }, report))
    }

    /// Waits for memory for a block of `bytes`: the backpressure of every upload and repair.
    pub async fn room(&self, bytes: u32) -> Result<Room, PutError> {
        let permits =
            bytes.min(u32::try_from(self.shared.options.room_bytes_max).unwrap_or(u32::MAX));
        let room = Arc::clone(&self.shared.room)
            .acquire_many_owned(permits)
            .await;
        room.map(|permit| Room { _permit: permit })
            .map_err(|_| PutError::Closed)
    }

    /// As [`Self::room`], now or not at all.
    pub fn try_room(&self, bytes: u32) -> Option<Room> {
        let permit = Arc::clone(&self.shared.room)
            .try_acquire_many_owned(bytes)
            .ok()?;
        Some(Room { _permit: permit })
    }

    /// Stores a block; answers when it is durable.
    pub async fn put(&self, block: NewBlock, mode: PutMode) -> Result<Stored, PutError> {
        let (done, answer) = oneshot::channel();
        // The receiver may have gone: an upload that was cut off. The block stays for garbage collection.
        self.put_with(
            block,
            mode,
            Box::new(move |outcome| drop(done.send(outcome))),
        );
        answer.await.unwrap_or(Err(PutError::Closed))
    }

    /// Stores a block; `done` is called when it is durable.
    pub fn put_with(&self, block: NewBlock, mode: PutMode, done: PutDone) {
        self.shared.submit_put(block, mode, done);
    }

    /// Removes blocks for good: answers, once that is durable, how many there were. Those uploaded under an epoch
    /// after `epoch_max` stay. At most [`UNLINK_BLOCKS_MAX`] a call.
    pub async fn unlink(
        &self,
        keys: Vec<BlockKey>,
        epoch_max: UploadEpoch,
    ) -> Result<u64, UnlinkError> {
        let room = Arc::clone(&self.shared.unlink_room).acquire_owned().await;
        let _room = room.map_err(|_| UnlinkError::Closed)?;
        let (done, answer) = oneshot::channel();
        self.unlink_with(
            keys,
            epoch_max,
            Box::new(move |outcome| drop(done.send(outcome))),
        );
        answer.await.unwrap_or(Err(UnlinkError::Closed))
    }

    /// As [`Self::unlink`], with a callback.
    pub fn unlink_with(&self, keys: Vec<BlockKey>, epoch_max: UploadEpoch, done: UnlinkDone) {
        debug_assert!(keys.len() <= UNLINK_BLOCKS_MAX, "an unlinking is bounded");
        self.shared.submit_unlink(keys, epoch_max, done);
    }

    /// Whether this node holds a block, durably and as far as known whole, with this digest.
    pub fn holds(&self, key: &BlockKey, digest: &BlockDigest) -> bool {
        let index = self.shared.index.read();
        index
            .slot(key)
            .is_some_and(|slot| !slot.damaged && slot.is(digest))
    }

    /// What is held of one version, in order, damaged copies included.
    pub fn of_version(&self, version: ObjectVersionId) -> Vec<Held> {
        let index = self.shared.index.read();
        index
            .of_version(version)
            .map(|(key, slot)| index.held(key, slot))
            .collect()
    }

    /// Up to `limit` blocks after `after`, in order of key.
    pub fn page(&self, after: Option<BlockKey>, limit: usize) -> Vec<Held> {
        self.shared.index.read().page(after, limit)
    }

    /// A block's header, from disk: its whole digest and since when its upload runs. *Blocks.*
    pub fn head(&self, key: BlockKey) -> Result<BlockHead, ReadError> {
        read::head(&self.shared, key)
    }

    /// Opens a block for reading; an end of 0 means its end. *Blocks*, as do the reader's calls.
    pub fn read(&self, key: BlockKey, range: Range<u32>) -> Result<BlockReader, ReadError> {
        BlockReader::open(&self.shared, key, range)
    }

    /// Blocks known to be damaged and not yet repaired or unlinked.
    pub fn damaged(&self) -> Vec<Held> {
        self.shared.index.read().damaged()
    }

    /// Completes after damage was noted, once a call.
    pub async fn damage_noted(&self) {
        self.shared.damage_noted.notified().await;
    }

    /// Notes that the shard refers to a version's blocks (or no longer does), so that the sweep for abandoned
    /// uploads need not ask again.
    pub fn settle(&self, version: ObjectVersionId, settled: bool) {
        self.shared.index.write().settle(version, settled);
    }

    /// Forgets what was settled for a shard.
    pub fn unsettle(&self, shard: GroupId) {
        self.shared.index.write().unsettle(shard);
    }

    /// Looks at up to `limit` blocks after `after`: those not settled, and where to go on.
    pub fn unsettled(
        &self,
        after: Option<BlockKey>,
        limit: usize,
    ) -> (Vec<Held>, Option<BlockKey>) {
        self.shared.index.read().unsettled(after, limit)
    }

    /// Closes the segment being written; the next block begins another. *Blocks.*
    pub fn roll(&self) -> Result<(), Arc<StoreFailed>> {
        self.shared.roll()
    }

    /// The error that ended the store, if one did. The process must exit.
    pub fn failed(&self) -> Option<Arc<StoreFailed>> {
        self.shared.failed()
    }

    /// Changes once, to the error that ended the store.
    pub fn watch_failed(&self) -> watch::Receiver<Option<Arc<StoreFailed>>> {
        self.shared.watch_failed()
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        let (blocks, bytes, damaged) = {
            let index = self.shared.index.read();
            (index.blocks(), index.bytes(), index.damaged_blocks())
        };
        let (segments, gaps) = self.shared.segments.counts();
        let counts = &self.shared.counts;
        let (disk, dir) = (self.shared.segments.disk(), self.shared.segments.dir());
        StoreStats {
            blocks,
            bytes,
            damaged,
            damaged_found: counts.damaged_found.load(Ordering::Relaxed),
            segments,
            gaps,
            written_blocks: counts.written_blocks.load(Ordering::Relaxed),
            written_bytes: counts.written_bytes.load(Ordering::Relaxed),
            unlinked_blocks: counts.unlinked_blocks.load(Ordering::Relaxed),
            syncs: counts.syncs.load(Ordering::Relaxed),
            queued: self.shared.queued() as u64,
            space_available: disk.space_available(dir).unwrap_or(0),
        }
    }

    /// With [`Driver::Manual`]: does one batch, and says whether there was any.
    pub fn turn(&self) -> bool {
        self.shared.turn()
    }

    /// Takes nothing more, finishes what waits, stops the thread. *Blocks.*
    pub fn close(&self) {
        self.thread.close(&self.shared);
    }
}

/// Ends the writing thread with the last handle.
struct WriterThread {
    shared: Arc<Shared>,
    handle: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl WriterThread {
    fn start(shared: &Arc<Shared>, driver: Driver) -> Result<Self, OpenError> {
        let handle = match driver {
            Driver::Manual => None,
            Driver::Thread => {
                let shared = Arc::clone(shared);
                let thread = std::thread::Builder::new().name("blocks".to_owned());
                Some(
                    thread
                        .spawn(move || shared.run())
                        .map_err(OpenError::Thread)?,
                )
            }
        };
        Ok(Self {
            shared: Arc::clone(shared),
            handle: Mutex::new(handle),
        })
    }

    fn close(&self, shared: &Shared) {
        shared.close();
        match self.handle.lock().take() {
            // A panic there has been printed; nothing is left to do with it.
            Some(handle) => drop(handle.join()),
            None => while shared.turn() {},
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(handle) = self.handle.lock().take() {
            drop(handle.join());
        }
    }
}
