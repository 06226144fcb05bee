//! Why an upload, a read or a question about blocks was refused; one enum each.
//!
//! Owns fault and reason of each, for the one mapping to gRPC. Refuses to name objects: ids and sizes only.

use proto::ids::{GroupId, IdError, UploadEpoch};
use transport::{Fault, Faulty, PeerError};

use super::NotGranted;
use crate::blocks::{DraftError, PutError, ReadError};
use crate::repair::ReplicaError;

/// An upload ended without a receipt.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// As many uploads as this node takes.
    #[error("this node has as many uploads as it takes")]
    TooMany,
    /// The peer may no longer act.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Not granted.
    #[error("upload refused")]
    NotGranted(#[from] NotGranted),
    /// The disk is full.
    #[error("the disk of this node is {percent} % full: uploads are refused")]
    DiskFull {
        /// Used share.
        percent: u64,
    },
    /// The lease's token in the shard names another holder.
    #[error("the lease is held by another key")]
    NotHolder,
    /// The upload that the part is of is completed.
    #[error("the upload in parts is completed: it takes no more of them")]
    NoSuchUpload,
    /// This node has no replica of the shard.
    #[error("this node holds no replica of shard {0}")]
    NoSuchShard(GroupId),
    /// The upload epoch is out of the shard's window.
    #[error("upload epoch {upload} is out of the window of shard epoch {shard}")]
    Epoch {
        /// The upload's.
        upload: UploadEpoch,
        /// The shard's, as this replica knows it.
        shard: UploadEpoch,
    },
    /// An id does not parse.
    #[error("upload is malformed")]
    Id(#[from] IdError),
    /// A frame that does not belong where it came.
    #[error("upload is malformed: {0}")]
    Frame(&'static str),
    /// A block that is not what it was announced as.
    #[error("block {number} refused")]
    Draft {
        /// Its number.
        number: u32,
        /// What is wrong.
        #[source]
        source: DraftError,
    },
    /// A block could not be stored.
    #[error("block {number} not stored")]
    Put {
        /// Its number.
        number: u32,
        /// Why.
        #[source]
        source: PutError,
    },
    /// The peer took too long.
    #[error("the peer took longer than {after_s} s for its next frame")]
    Stalled {
        /// How long it had.
        after_s: u64,
    },
    /// The peer's stream broke.
    #[error("the upload was cut off")]
    CutOff,
    /// The shard's replica cannot answer.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

impl Faulty for UploadError {
    fn fault(&self) -> Fault {
        match self {
            Self::TooMany | Self::DiskFull { .. } => Fault::Busy,
            Self::Peer(error) => error.fault(),
            Self::NotGranted(_) | Self::NotHolder => Fault::Denied,
            Self::NoSuchShard(_) | Self::NoSuchUpload => Fault::Missing,
            Self::Epoch { .. } => Fault::Precondition,
            Self::Id(_) | Self::Frame(_) | Self::Draft { .. } | Self::Stalled { .. } => {
                Fault::Caller
            }
            Self::Put { source, .. } => source.fault(),
            // Writing a block twice is harmless, so a broken upload may simply be repeated.
            Self::CutOff | Self::Replica(_) | Self::Stopping => Fault::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "uploads-busy",
            Self::DiskFull { .. } => "disk-full",
            Self::Peer(error) => error.reason(),
            Self::NotGranted(_) => "not-granted",
            Self::NotHolder => "lease-not-holders",
            Self::NoSuchUpload => "no-such-upload",
            Self::NoSuchShard(_) => "no-such-shard",
            Self::Epoch { .. } => "upload-epoch",
            Self::Id(_) | Self::Frame(_) => "upload-malformed",
            Self::Draft {
                source: DraftError::Digest,
                ..
            } => "block-digest",
            Self::Draft { .. } => "block-malformed",
            Self::Put { source, .. } => source.reason(),
            Self::Stalled { .. } => "upload-stalled",
            Self::CutOff => "upload-cut-off",
            Self::Replica(_) => "replica-unavailable",
            Self::Stopping => "stopping",
        }
    }
}

/// A block was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBlockError {
    /// As many reads as this node takes.
    #[error("this node has as many block reads as it takes")]
    TooMany,
    /// Not granted.
    #[error("read refused")]
    NotGranted(#[from] NotGranted),
    /// An id does not parse.
    #[error("read is malformed")]
    Id(#[from] IdError),
    /// The store's answer. Another replica may have the block.
    #[error("block not read")]
    Read(#[from] ReadError),
    /// The peer took too long.
    #[error("the peer took nothing for {after_s} s: others wait to read")]
    Stalled {
        /// How long it had.
        after_s: u64,
    },
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

impl Faulty for ReadBlockError {
    fn fault(&self) -> Fault {
        match self {
            Self::TooMany => Fault::Busy,
            Self::NotGranted(_) => Fault::Denied,
            Self::Id(_) | Self::Stalled { .. } => Fault::Caller,
            Self::Read(error) => error.fault(),
            Self::Stopping => Fault::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "reads-busy",
            Self::NotGranted(_) => "not-granted",
            Self::Id(_) => "read-malformed",
            Self::Stalled { .. } => "read-stalled",
            Self::Read(error) => error.reason(),
            Self::Stopping => "stopping",
        }
    }
}

/// A question about blocks held was refused.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// Too many blocks at once.
    #[error("a question names at most {max} blocks")]
    TooMany {
        /// The bound.
        max: usize,
    },
    /// An id or digest does not parse.
    #[error("question is malformed")]
    Id(#[from] IdError),
}

impl Faulty for HeldError {
    fn fault(&self) -> Fault {
        Fault::Caller
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "held-too-many",
            Self::Id(_) => "held-malformed",
        }
    }
}
