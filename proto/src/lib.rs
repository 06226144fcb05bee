//! What the parts of Reduit say to each other and leave on disk: ids, messages, formats.
//!
//! **Invariant:** no I/O and no runtime in these types; a format that changes gets a new version, never a new
//! meaning.

pub mod backup;
pub mod danger;
pub mod descriptor;
pub mod ids;
pub mod relocation;
pub mod storage_backup;
pub mod store;
pub mod time;
pub mod transcript;

/// Bytes of a client's request to the KMS: the most items an open may have, each with a token of its own, and room. In
/// memory empty items are many times what they are on the wire.
pub const KMS_REQUEST_BYTES_MAX: usize = 512 << 10;

/// Messages and, with feature `grpc`, services of package `reduit.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated; documented in proto/reduit/v1/*.proto"
    )]
    include!(concat!(env!("OUT_DIR"), "/reduit.v1.rs"));
}
