//! The Rust SDK of Reduit: seals and opens in this process, as an enrolled identity of the region.
//!
//! Owns routing to leaders, retries with request ids, leases and sessions with the KMS, uploads and downloads.
//! **Invariant:** key bytes stay inside `envelope`'s types; what leaves this process to a storage node is sealed.

// The command names its library as everybody does; here it is compiled into it.
#[cfg(feature = "fuzzing")]
extern crate self as client;

mod access_keys;
mod acting;
mod approval;
pub mod backup;
mod body;
mod certificate;
#[cfg(feature = "fuzzing")]
#[allow(
    dead_code,
    reason = "of the command, its arguments are all that is wanted here"
)]
mod cli;
mod custody;
mod dataset;
mod detached;
mod download;
mod error;
mod evidence;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod kms;
mod lease;
mod listing;
mod locks;
mod log;
pub mod moving;
mod multipart;
mod opens;
pub mod operator;
mod peering;
mod prepared;
mod region;
pub mod relocation;
mod reseal;
mod route;
mod session;
mod settings;
pub mod storage_backup;
mod tags;
pub mod token_seals;
mod upkeep;
mod upload;

pub use access_keys::{AccessGrant, AccessKeys, NewAccessKey, service_principal};
pub use approval::{
    APPROVAL_MINUTES, APPROVAL_MINUTES_MAX, Approvable, ApprovalRequest, approval_from_text,
    approval_to_text,
};
pub use body::{Body, Reader};
pub use certificate::CertificateStep;
pub use custody::SealedRegion;
pub use dataset::{
    Checksums, Dataset, DatasetInfo, Deleted, GetOptions, Invocation, Object, ObjectInfo,
    Precondition, PutOptions, PutOutcome,
};
pub use detached::DetachedObject;
pub use download::ObjectReader;
pub use error::Error;
pub use evidence::EvidenceRequest;
pub use kms::{KeyChange, KeyLabels, Keys, LeafReader};
pub use listing::{ListOptions, Page, VersionsPage};
pub use locks::{Retention, RetentionMode, Setting};
pub use log::{LogKeys, OutsideWitness};
pub use multipart::{
    CompleteOptions, Part, PartId, PartOptions, PartsPage, Upload, UploadInfo, UploadsPage,
    UploadsQuery,
};
pub use peering::region_fingerprint;
pub use prepared::Prepared;
pub use region::{CreateOptions, DatasetListed, DatasetsPage, Region, RegionStatus};
pub use reseal::{RESEAL, RESEALED_FINISHED_AT, RESEALED_FROM, Resealed};
pub use settings::{Context, ContextFile, SettingsError, Tuning};
pub use upkeep::NodeUpkeep;

pub use envelope::{AccessSecret, MemoryMode};
pub use proto::ids;
pub use transport::Fault;
