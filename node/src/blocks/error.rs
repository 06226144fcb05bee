//! Why the block store refused or failed, one enum per operation.
//!
//! Owns whose turn it is after each. Refuses to tell block bytes or paths of objects: ids only.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use transport::{Fault, Faulty};

/// The block store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has the folder.
    #[error("the block folder is in use by another process")]
    InUse,
    /// A file operation failed.
    #[error("the block folder could not be opened: {doing} {path}", path = path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The writing thread could not be started.
    #[error("the block writer could not be started")]
    Thread(#[source] io::Error),
}

/// The disk failed under the store. Nothing more is written; the process must exit and reopen.
#[derive(Debug, thiserror::Error)]
#[error("the block store failed while it should {doing}")]
pub struct StoreFailed {
    /// What was being done.
    pub doing: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A block was not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PutError {
    /// No room on the disk beyond what deletions and the log need. It is not stored; after a crash a torn copy may be
    /// found, which counts as damaged.
    #[error(
        "the disk is full: {available} bytes are left, {reserve} are kept for deletion and the log"
    )]
    Full {
        /// Bytes left.
        available: u64,
        /// Bytes kept.
        reserve: u64,
    },
    /// The same version id and number hold other bytes. Had no effect.
    #[error("this block is stored with another digest")]
    Conflict,
    /// The store has failed; whether the block is stored is unknown.
    #[error("the block store has failed")]
    Failed(#[source] Arc<StoreFailed>),
    /// The store is closing. Had no effect.
    #[error("the block store is closing")]
    Closed,
}

impl Faulty for PutError {
    fn fault(&self) -> Fault {
        match self {
            Self::Full { .. } => Fault::Busy,
            Self::Conflict => Fault::Caller,
            Self::Failed(_) => Fault::Unknown,
            Self::Closed => Fault::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "disk-full",
            Self::Conflict => "block-conflict",
            Self::Failed(_) => "block-store-failed",
            Self::Closed => "block-store-closed",
        }
    }
}

/// Blocks were not unlinked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnlinkError {
    /// The store has failed; which of the blocks are gone is unknown.
    #[error("the block store has failed")]
    Failed(#[source] Arc<StoreFailed>),
    /// The store is closing. Had no effect.
    #[error("the block store is closing")]
    Closed,
}

/// A block could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not hold it. Another replica may.
    #[error("this node does not hold the block")]
    NotHeld,
    /// This node's copy is damaged, and is noted for repair. Another replica has a good one.
    #[error("this node's copy of the block is damaged")]
    Damaged,
    /// Reading failed for a reason that is not the block's: too many open files, for instance.
    #[error("this node could not read the block")]
    Unreadable,
    /// The range is not inside the block.
    #[error("the range is outside the block's {bytes} bytes")]
    OutOfRange {
        /// Its length.
        bytes: u32,
    },
}

impl Faulty for ReadError {
    fn fault(&self) -> Fault {
        match self {
            Self::NotHeld => Fault::Missing,
            Self::Damaged => Fault::Damaged,
            Self::Unreadable => Fault::Unavailable,
            Self::OutOfRange { .. } => Fault::Caller,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotHeld => "block-not-held",
            Self::Damaged => "block-damaged",
            Self::Unreadable => "block-read-failed",
            Self::OutOfRange { .. } => "block-range",
        }
    }
}
