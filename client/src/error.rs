//! What can go wrong, as a caller can act on it.
//!
//! Owns the mapping from statuses. Refuses to carry object names, payloads or secrets.

use proto::ids::{ObjectVersionId, RegionId};
use transport::Fault;

/// Why an operation did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No dataset of that name in this region.
    #[error("no such dataset")]
    NoSuchDataset,
    /// It is another region's now.
    #[error("the dataset is in {} now: ask there", .region.as_ref().map_or("another region", |region| region.as_str()))]
    Moved {
        /// Whose, where the server said.
        region: Option<RegionId>,
    },
    /// No object, or no such version, under that key.
    #[error("no such object")]
    NoSuchObject,
    /// What is there is not what the precondition asked for.
    #[error("precondition failed{}", .current.map(|v| format!(": current version is {v}")).unwrap_or_default())]
    PreconditionFailed {
        /// The current version, if there is one and the server said.
        current: Option<ObjectVersionId>,
    },
    /// An earlier try under this request id took effect, whatever has become of that since.
    #[error("an earlier try of this request took effect")]
    AlreadyDone {
        /// The version that it made.
        version: ObjectVersionId,
    },
    /// The request is wrong and stays wrong.
    #[error("{message} [{reason}]")]
    Caller {
        /// For machines.
        reason: String,
        /// For people.
        message: String,
    },
    /// Not allowed, or not known.
    #[error("{message} [{reason}]")]
    Denied {
        /// For machines.
        reason: String,
        /// For people.
        message: String,
    },
    /// Nobody could serve it in time; it had no effect.
    #[error("not available within the deadline: {message} [{reason}]")]
    Unavailable {
        /// For machines.
        reason: String,
        /// The last thing heard.
        message: String,
    },
    /// It may or may not have had effect; asking again with the same request id tells.
    #[error("outcome unknown: {message}")]
    Unknown {
        /// The last thing heard.
        message: String,
    },
    /// Stored data is damaged on every replica that answered.
    #[error("stored data is damaged: {message}")]
    Damaged {
        /// What was seen.
        message: String,
    },
    /// What came back does not open under its key and context: tampered with, or mixed up.
    #[error("stored object does not open")]
    NotAuthentic(#[source] envelope::OpenError),
    /// A server answered what it must not.
    #[error("server broke the protocol: {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
    /// Sealing failed.
    #[error("sealing failed")]
    Seal(#[from] envelope::SealError),
    /// Locked key memory is used up or refused.
    #[error("key memory")]
    KeyMemory(#[from] envelope::KeyError),
    /// The KMS session did not come about, or a key in it does not open.
    #[error("session with the kms")]
    Session(#[from] envelope::SessionError),
    /// Reading the body that was to be stored, or writing what was read.
    #[error("reading or writing local data")]
    Io(#[from] std::io::Error),
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] proto::ids::IdError),
}

impl Error {
    /// Who acts next.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoSuchDataset | Self::NoSuchObject | Self::Moved { .. } => Fault::Missing,
            Self::PreconditionFailed { .. } => Fault::Precondition,
            Self::Caller { .. } | Self::AlreadyDone { .. } | Self::Id(_) | Self::Io(_) => {
                Fault::Caller
            }
            Self::Denied { .. } => Fault::Denied,
            Self::Unavailable { .. } => Fault::Unavailable,
            Self::Unknown { .. } => Fault::Unknown,
            Self::Damaged { .. } | Self::NotAuthentic(_) => Fault::Damaged,
            Self::Protocol { .. } | Self::Seal(_) | Self::KeyMemory(_) | Self::Session(_) => {
                Fault::Internal
            }
        }
    }

    /// Short, stable, for machines.
    pub fn reason(&self) -> &str {
        match self {
            Self::NoSuchDataset => "no-such-dataset",
            Self::Moved { .. } => "dataset-moved",
            Self::NoSuchObject => "no-such-object",
            Self::PreconditionFailed { .. } => "precondition-failed",
            Self::AlreadyDone { .. } => "request-id-reused",
            Self::Caller { reason, .. }
            | Self::Denied { reason, .. }
            | Self::Unavailable { reason, .. } => reason,
            Self::Unknown { .. } => "outcome-unknown",
            Self::Damaged { .. } => "damaged",
            Self::NotAuthentic(_) => "not-authentic",
            Self::Protocol { .. } => "protocol",
            Self::Seal(_) => "seal",
            Self::KeyMemory(_) => "key-memory",
            Self::Session(_) => "session",
            Self::Io(_) => "io",
            Self::Id(_) => "bad-id",
        }
    }

    /// From a server's definite answer, or from the last one when time ran out.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        let reason = transport::fault::reason(status)
            .unwrap_or("connection")
            .to_owned();
        let message = status.message().to_owned();
        let named = status.metadata().get("reduit-current-version");
        let named = named
            .and_then(|version| version.to_str().ok())
            .and_then(|version| version.parse().ok());
        match Fault::of(status) {
            Fault::Missing if reason == "no-such-object" => Self::NoSuchObject,
            Fault::Missing if reason == "no-such-dataset" || reason == "dataset-gone" => {
                Self::NoSuchDataset
            }
            Fault::Missing if reason == "dataset-moved" => {
                let region = status.metadata().get("reduit-region");
                let region = region.and_then(|region| region.to_str().ok());
                Self::Moved {
                    region: region.and_then(|region| region.parse().ok()),
                }
            }
            Fault::Precondition if reason == "precondition-failed" => {
                Self::PreconditionFailed { current: named }
            }
            Fault::Caller if reason == "request-id-reused" => match named {
                Some(version) => Self::AlreadyDone { version },
                None => Self::Caller { reason, message },
            },
            Fault::Denied | Fault::Unauthenticated => Self::Denied { reason, message },
            Fault::Unavailable | Fault::Busy => Self::Unavailable { reason, message },
            Fault::Unknown => Self::Unknown { message },
            Fault::Damaged => Self::Damaged { message },
            Fault::Caller
            | Fault::Missing
            | Fault::Exists
            | Fault::Precondition
            | Fault::Internal
            | Fault::Unsupported => Self::Caller { reason, message },
        }
    }
}
