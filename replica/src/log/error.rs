//! What can go wrong with the Raft log.
//!
//! Owns [`LogError`] and which of its cases end the process. Names files and offsets, never payloads.

use std::io;
use std::path::PathBuf;

use proto::ids::{GroupId, LogIndex};

/// Why the Raft log refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The device failed. Fatal: what was written since the last sync is unknown, and a later sync that succeeds
    /// proves nothing about it.
    #[error("raft log could not {doing} {path}")]
    Device {
        /// What was being done.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Bytes that were durable are not what was written. Fatal: the member rejoins under a new id.
    #[error("raft log is damaged: {path} at byte {offset}: {what}")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Offset in it.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A segment between others is not there. Fatal.
    #[error("raft log is damaged: segment {path} is missing")]
    Missing {
        /// The segment that should be there.
        path: PathBuf,
    },
    /// Entries that should be live are in no segment. Fatal.
    #[error("raft log is damaged: group {group} has no entry at index {index}")]
    Hole {
        /// Whose log.
        group: GroupId,
        /// The first index that is missing.
        index: LogIndex,
    },
    /// A segment was written by a newer build.
    #[error("raft log segment {path} has format version {version}, which this build cannot read")]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A segment on disk is larger or smaller than the options say. Not fatal by itself: reopen with its size.
    #[error(
        "raft log segments are {found} bytes on disk and {configured} bytes in the configuration"
    )]
    SegmentBytes {
        /// On disk.
        found: u64,
        /// In the options.
        configured: u64,
    },
    /// Another process, or another handle of this one, has the folder.
    #[error("raft log folder {path} is in use by another process")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The disk is full but for the reserve. Nothing was accepted; the log goes on.
    #[error(
        "disk full: the raft log takes only purge, vote and membership records until space is freed"
    )]
    NoSpace,
    /// An append that does not follow the last entry. Nothing was accepted.
    #[error("group {group} expected an entry at index {expected}, not {got}")]
    NotContiguous {
        /// Whose log.
        group: GroupId,
        /// The next index.
        expected: LogIndex,
        /// The index offered.
        got: LogIndex,
    },
    /// An index that has no next one. Nothing was accepted.
    #[error("group {group} cannot have an entry at index {index}: none could follow it")]
    NoNextIndex {
        /// Whose log.
        group: GroupId,
        /// The index offered.
        index: LogIndex,
    },
    /// A truncation below what was purged. Nothing was accepted.
    #[error(
        "group {group} cannot truncate after {after}, which is below the purged index {purged}"
    )]
    BelowPurged {
        /// Whose log.
        group: GroupId,
        /// Asked for.
        after: LogIndex,
        /// Purged.
        purged: LogIndex,
    },
    /// A payload or a vote is over its limit. Nothing was accepted.
    #[error("{what} of {bytes} bytes is over the limit of {bytes_max}")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// More groups than a process may have.
    #[error("a process has at most {groups_max} groups")]
    TooManyGroups {
        /// The limit.
        groups_max: usize,
    },
    /// The options contradict each other.
    #[error("raft log option {option} is out of range")]
    Options {
        /// Which one.
        option: &'static str,
    },
    /// A thread could not be started.
    #[error("raft log thread could not be started")]
    Thread(#[source] io::Error),
    /// The log was closed.
    #[error("the raft log is closed")]
    Closed,
}

impl LogError {
    /// Whether the process must exit and reopen the log.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Device { .. } | Self::Damaged { .. } | Self::Missing { .. } | Self::Hole { .. }
        )
    }
}
