//! The Raft log of a process: one ordered file of records for all its groups.
//!
//! Owns the order in which votes, entries, truncations and purges reach the disk, and what is readable, durable and
//! gone at each moment. Refuses to sync twice after a failed sync, to open over damage before the tail, and to
//! accept what it has no blocks for. Payloads, votes and log ids are opaque bytes here.
//!
//! A write is *accepted* when the call returns: it has its place in the order and is readable. It is *durable* when
//! its [`Done`] is called with `Ok`. One thread writes; everything that waits shares a sync.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex, Term};
use tokio::sync::watch;

use crate::disk::Disk;

mod accepted;
mod again;
#[cfg(feature = "bench")]
pub mod bench;
mod cleaner;
mod core;
mod error;
mod header;
mod read;
mod record;
mod recover;
mod replayed;
mod segment;
mod spares;
mod stats;
#[cfg(test)]
mod tests;
mod writer;

pub use again::SegmentAtRest;
pub use error::LogError;
pub use header::{GROUPS_MAX, META_BYTES_MAX};
pub use stats::{Histogram, LogStats};

use self::core::Shared;

/// Called once, when what it was handed in with is durable or has failed, in the order of acceptance. Runs on the
/// log's thread (or, for a refusal, on the caller's) and must not block or call back into a blocking method.
pub type Done = Box<dyn FnOnce(Result<(), Arc<LogError>>) + Send>;

/// Where the salts of new segments come from: 64 bits, never the same twice.
pub type SaltSource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One entry of one group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Term in which it was proposed.
    pub term: Term,
    /// Position in the group's log.
    pub index: LogIndex,
    /// Opaque; at most [`LogOptions::payload_bytes_max`].
    pub payload: Bytes,
}

/// One group's log as accepted so far; after opening, as recovered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupState {
    /// The last vote saved.
    pub vote: Option<Bytes>,
    /// The last committed position saved; may be older than the truth.
    pub committed: Option<Bytes>,
    /// Up to where entries are gone, and the host's bytes for it.
    pub purged: Option<(LogIndex, Bytes)>,
    /// The first entry held; `None` when there is none.
    pub first: Option<LogIndex>,
    /// The last entry held or, when all are purged, the purged position.
    pub last: Option<(Term, LogIndex)>,
    /// Bytes on disk of the entries held, record headers included.
    pub bytes: u64,
}

/// Which room an append may use when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Refused with [`LogError::NoSpace`] when only the reserve is left.
    Normal,
    /// May use the reserve: membership, deletion, collection, key records.
    Reserve,
}

/// Who runs the log's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Two threads of the log's own: one writes and syncs, one prepares and retires segments.
    Threads,
    /// The caller, through [`RaftLog::turn`]: for simulation, where the order of events is seeded.
    Manual,
}

/// Whether a segment that is no longer needed may be written over as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// Reuse it with its old bytes in place: they cannot parse under the new salt. Saves writing each segment twice.
    Reuse,
    /// Write zeros over it first, so that purged entries leave the disk's files with their segment.
    Zero,
}

/// How a log is kept.
#[derive(Clone)]
pub struct LogOptions {
    /// Bytes of a segment; fixed for a folder. A multiple of 4096.
    pub segment_bytes: u64,
    /// Bytes an entry's payload may have. A quarter of a segment at most.
    pub payload_bytes_max: usize,
    /// Bytes written under one sync, about.
    pub batch_bytes_max: usize,
    /// Bytes accepted and not yet written; beyond this, `append` waits.
    pub queue_bytes_max: usize,
    /// Bytes of entries kept readable without the disk. What is not yet written is kept beyond it.
    pub cache_bytes_max: usize,
    /// Segments below which entries of idle groups are never moved out of the oldest ones (but on a full disk).
    pub segments_soft_max: usize,
    /// Bytes to leave free on the file system: below this no new segment is made.
    pub space_bytes_min: u64,
    /// What becomes of segments no longer needed.
    pub retired: Retired,
    /// Who does the work.
    pub driver: Driver,
    /// Salts of new segments.
    pub salt: SaltSource,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            payload_bytes_max: 2 << 20,
            batch_bytes_max: 4 << 20,
            queue_bytes_max: 32 << 20,
            cache_bytes_max: 8 << 20,
            segments_soft_max: 16,
            space_bytes_min: 64 << 20,
            retired: Retired::Reuse,
            driver: Driver::Threads,
            salt: Arc::new(rand::random),
        }
    }
}

/// The Raft log of a process. Clones are handles on one log; it closes with [`RaftLog::close`] or the last handle.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Shared>,
    threads: Arc<writer::Threads>,
}

/// One group's part of the log. Clones are handles on one group.
#[derive(Clone)]
pub struct GroupLog {
    group: GroupId,
    log: RaftLog,
}

impl RaftLog {
    /// Opens the log in `dir`, creating it where there is none. A torn tail is cut; damage before it is an error
    /// that names file and offset. What is readable afterwards is durable. *Blocks*, for as long as it takes to read
    /// all segments.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: LogOptions) -> Result<Self, LogError> {
        let shared = Arc::new(recover::open(disk, dir, options)?);
        let threads = Arc::new(writer::Threads::start(&shared)?);
        Ok(Self { shared, threads })
    }

    /// The part of one group, which need not exist yet.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog {
            group,
            log: self.clone(),
        }
    }

    /// Groups with anything on disk, ascending.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.groups()
    }

    /// The error that ended the log, if one did. The process must exit: what was not acknowledged is unknown.
    pub fn fatal(&self) -> Option<Arc<LogError>> {
        self.shared.fatal()
    }

    /// Changes once, to the error that ended the log. `wait_for(Option::is_some)` waits for it.
    pub fn watch_fatal(&self) -> watch::Receiver<Option<Arc<LogError>>> {
        self.shared.watch_fatal()
    }

    /// Waits, blocking, until the log has failed (`Some`) or is closed (`None`).
    pub fn wait_fatal(&self) -> Option<Arc<LogError>> {
        self.shared.wait_fatal()
    }

    /// Whether a normal append is refused for want of disk. Followers ask before they take entries, so that a full
    /// disk is an answer to the leader and not the end of the group.
    pub fn is_full(&self) -> bool {
        self.shared.is_full()
    }

    /// Writes and syncs everything accepted, stops the threads and releases the folder. Later writes are refused
    /// with [`LogError::Closed`]. *Blocks.*
    pub fn close(&self) -> Result<(), Arc<LogError>> {
        self.threads.close(&self.shared)
    }

    /// Goes on in a new segment, moves what is held out of those before it, and gives those up. With
    /// [`Retired::Zero`] no file holds what was purged or truncated before the call once [`Self::turned_over`] says
    /// so; readers may hold a file that is gone. Refused where there is no room for a segment. *Blocks.*
    pub fn turn_over(&self) -> Result<(), Arc<LogError>> {
        self.shared.turn_over()
    }

    /// Waits, blocking, until that is done. Answers whether it was in its time.
    pub fn turned_over(&self, within: Duration) -> bool {
        self.shared.turned_over(within)
    }

    /// With [`Driver::Manual`]: does one step of work and says whether there was any. One step is one batch with its
    /// sync and callbacks, or the preparation, retirement or cleaning of one segment.
    pub fn turn(&self) -> bool {
        self.shared.turn()
    }

    /// Counters since opening.
    pub fn stats(&self) -> LogStats {
        self.shared.stats()
    }
}

impl GroupLog {
    /// Whose log this is.
    pub fn id(&self) -> GroupId {
        self.group
    }

    /// The log of the process.
    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// Appends entries that follow the last one without a gap; the first of a log that never had entries may have
    /// any index. Readable on return. Waits, blocking, while the queue is full or a segment is being prepared.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        self.append_with(Priority::Normal, entries, done);
    }

    /// [`Self::append`] with a say in what happens when the disk is full.
    pub fn append_with(&self, priority: Priority, entries: Vec<LogEntry>, done: Done) {
        self.log.shared.append(self.group, priority, entries, done);
    }

    /// Saves the vote, at most [`META_BYTES_MAX`] bytes.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.log.shared.save_vote(self.group, vote, done);
    }

    /// Notes how far the group has committed, at most [`META_BYTES_MAX`] bytes. Rides along with the next write and
    /// causes none.
    pub fn save_committed(&self, committed: Bytes) -> Result<(), Arc<LogError>> {
        self.log.shared.save_committed(self.group, committed)
    }

    /// Drops every entry after `after`; all of them with `None`.
    pub fn truncate_after(&self, after: Option<LogIndex>, done: Done) {
        self.log.shared.truncate_after(self.group, after, done);
    }

    /// Drops every entry up to and with `index`, which may be beyond the last: the log then goes on after it.
    /// `log_id` is the host's own form of (term, index). An index at or below the purged one changes nothing.
    pub fn purge(&self, term: Term, index: LogIndex, log_id: Bytes, done: Done) {
        self.log.shared.purge(self.group, term, index, log_id, done);
    }

    /// The entries held in `range`, in order, up to about `bytes_max` of payload but at least one if there is one.
    /// Starts with the first entry held when the range starts below it. Never waits for a sync; older entries are
    /// read from the segments, which *blocks* on the device.
    pub fn read(
        &self,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Arc<LogError>> {
        self.log.shared.read(self.group, range, bytes_max)
    }

    /// What has been accepted so far.
    pub fn state(&self) -> GroupState {
        self.log.shared.state(self.group)
    }
}
