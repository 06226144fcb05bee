//! The state of one group: an ordered key-value map that takes a batch with the log index that caused it, whole
//! or not at all.
//!
//! Owns the contract [`StateStore`]: what is readable after `commit`, what survives a power cut after `flush`, what
//! travels in a checkpoint. Refuses to make anything durable by itself: the Raft log holds what was not flushed, so
//! the log is purged only below the flushed index. `state` is replicated, digested and sent to peers; `local`
//! belongs to this replica alone and survives an install.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::ids::LogIndex;
use proto::store::{Reader, Writer};

mod again;
pub mod checkpoint;
pub mod env;
mod overlay;
mod rocks;
#[cfg(test)]
mod tests;
pub mod twin;

pub use again::{StatePlace, StateRead};
pub use checkpoint::{Checkpoint, CheckpointFile};
pub use env::{StateEnv, StateOptions};
pub use overlay::Batch;
pub use rocks::RocksState;
pub use twin::{TwinMedium, TwinState};

/// What brings `local` in line with a state that came from a peer, before the state takes effect: the log index,
/// the new replicated state, and this replica's own keys.
pub type BringInLine<'a> = &'a mut dyn FnMut(LogIndex, &dyn Reader, &mut dyn Writer);

/// The state store of one group. One writer at a time; any number of readers.
///
/// Calls marked *blocks* can wait for the device: run them where blocking is allowed. After an error of the store
/// itself (not a refusal) the store is failed: it answers nothing more, and the process must exit and reopen.
pub trait StateStore: Send + Sync {
    /// A consistent view of everything committed so far. Its readers panic, after recording [`Self::failed`], when
    /// the store cannot be read: a missing answer would be taken for a missing key. Reads of a view may block.
    fn view(&self) -> Result<View, StateError>;

    /// The replicated keys of [`Self::view`].
    fn reader(&self) -> Result<Box<dyn Reader + Send + Sync>, StateError> {
        Ok(self.view()?.state)
    }

    /// Starts a batch over the present state. Reads of a batch may block.
    fn begin(&self) -> Result<Batch, StateError>;

    /// Makes the batch readable, with the log index it brings the state to and the host's own note (membership,
    /// log id). Not durable before [`Self::flush`]. *Blocks* when the memory for unflushed writes is used up.
    fn commit(&self, batch: Batch, applied: LogIndex, note: Bytes) -> Result<(), StateError>;

    /// What the last commit brought the state to; after opening, what survived. `None` before the first commit.
    fn applied(&self) -> Option<Applied>;

    /// Makes everything committed before the call survive a power cut and answers its index. *Blocks.*
    fn flush(&self) -> Result<Option<LogIndex>, StateError>;

    /// The highest index known to survive a power cut.
    fn flushed(&self) -> Option<LogIndex>;

    /// Bytes committed since the last flush, about: what the flush policy of the host goes by.
    fn unflushed_bytes(&self) -> u64;

    /// Writes the state as files into `dir`, which must not exist. The checkpoint says which index it holds;
    /// commits may go on meanwhile. *Blocks.*
    fn checkpoint(&self, dir: &Path) -> Result<Checkpoint, StateError>;

    /// Replaces the replicated state by the checkpoint whose files lie in `dir` (which is used up), keeps `local`,
    /// and lets `bring_in_line` adjust it. After a crash either the old or the new state is there, whole, with the
    /// `local` that belongs to it. Views taken before keep reading the old state. *Blocks.*
    fn install(
        &self,
        dir: &Path,
        checkpoint: &Checkpoint,
        bring_in_line: BringInLine<'_>,
    ) -> Result<(), StateError>;

    /// Has no file hold a value of the replicated keys in `ranges` that was replaced or deleted at `through` or before,
    /// where those values are too short for files of their own ([`StateOptions::blob_bytes_min`]). Answers `false`
    /// while a view is held that may see one: try again. *Blocks.*
    fn erase_replaced(&self, through: LogIndex, ranges: &[KeyRange]) -> Result<bool, StateError>;

    /// A digest over the replicated keys and values, in order, at one index. *Blocks*, reads everything.
    fn digest(&self) -> Result<StateDigest, StateError>;

    /// The error that ended this store, if one did.
    fn failed(&self) -> Option<Arc<StateError>>;
}

/// Keys from one on to one that is not in it.
pub type KeyRange = std::ops::Range<Vec<u8>>;

/// One consistent state.
pub struct View {
    /// The replicated keys.
    pub state: Box<dyn Reader + Send + Sync>,
    /// This replica's own keys.
    pub local: Box<dyn Reader + Send + Sync>,
    /// The index both stand at; `None` before the first commit.
    pub applied: Option<Applied>,
}

/// How far a state has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The last log index in it.
    pub index: LogIndex,
    /// What the host stored with it, at most [`NOTE_BYTES_MAX`].
    pub note: Bytes,
}

/// What two replicas compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateDigest {
    /// The index the state stood at; `None` before the first commit.
    pub applied: Option<LogIndex>,
    /// BLAKE3 over, for each key in order: key length, value length (`u32` little-endian each), key, value.
    pub blake3: [u8; 32],
}

/// Bytes a host's note may have: it holds a membership.
pub const NOTE_BYTES_MAX: usize = 256 * 1024;

/// Why the state store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The engine reports an I/O error or damage. Fatal.
    #[error("state store failed while it should {doing}")]
    Engine {
        /// What was being done.
        doing: &'static str,
        /// What RocksDB said.
        #[source]
        source: rocksdb::Error,
    },
    /// A file operation beside the engine failed. Fatal.
    #[error("state store file operation failed: {doing}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The disk is full. Nothing was written, what was stays, and the store goes on once there is room.
    #[error("no room on the disk to {doing}")]
    NoSpace {
        /// What was to be done.
        doing: &'static str,
    },
    /// The store failed earlier. Fatal.
    #[error("the state store failed earlier and must be reopened")]
    Failed(#[source] Arc<StateError>),
    /// The store's own record is not what this build writes. Fatal.
    #[error("state store holds a {what} this build cannot read")]
    Unreadable {
        /// Which record.
        what: &'static str,
    },
    /// A second batch was committed between this batch's begin and its commit. The batch is lost, the store goes on.
    #[error("another batch was committed since this one began")]
    Overtaken,
    /// The index does not go forward.
    #[error("index {to} does not follow the applied index {from}")]
    Backwards {
        /// Applied so far.
        from: LogIndex,
        /// Asked for.
        to: LogIndex,
    },
    /// The host's note is longer than [`NOTE_BYTES_MAX`].
    #[error("note of {bytes} bytes is over the limit")]
    NoteTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A checkpoint's files are not what its list says. The store goes on with its old state.
    #[error("checkpoint file {number} is not the one listed: {why}")]
    NotTheCheckpoint {
        /// Position in the list.
        number: usize,
        /// What differs.
        why: &'static str,
    },
    /// Another process, or another handle of this one, has the folder.
    #[error("the state folder is in use by another process")]
    InUse,
}

impl StateError {
    /// Whether the store answers nothing more after this error.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Engine { .. } | Self::File { .. } | Self::Failed(_) | Self::Unreadable { .. } => {
                true
            }
            Self::NoSpace { .. }
            | Self::Overtaken
            | Self::Backwards { .. }
            | Self::NoteTooLong { .. }
            | Self::NotTheCheckpoint { .. }
            | Self::InUse => false,
        }
    }
}
