//! The offline verifier: one evidence folder and one trust policy in, a verdict for each claim out.
//!
//! Owns the folder's format, its writer and its checks, and how the result is shown to people and programs. Refuses:
//! network, clocks, servers, and every word of the folder that nobody signed and nothing derives. What a region merely
//! states is called ASSERTED-BY, what the folder does not show NOT-SHOWN; the assumptions and limits stand in every
//! report, because a reader must not have to know them.
//!
//! **Invariant:** no bytes of a folder make it panic, and no claim is PROVEN on what its exporter alone says.

mod certificate;
mod check;
mod claim;
mod folder;
mod format;
mod limits;
mod objects;
mod parts;
mod report;
mod time;

pub use certificate::{
    Bundle, BundleError, CERTIFICATE_LEAVES_MAX, CertificateClaim, CertificateReport, NamedLeaf,
    Pins, RegionPart, verify_certificate,
};
pub use check::{Asked, verify};
pub use claim::{Claim, ClaimId, Verdict};
pub use folder::{FILE_BYTES_MAX, Folder, FolderError};
pub use format::{
    CheckpointLine, DatasetNames, FileEntry, GAP_S, Gap, GapTable, HeaderLine, INDEX_FILE, Index,
    LABEL_EVIDENCE, LeafLine, ObjectLine, ObjectList, PROOF_HASHES_MAX, PartLine, Period,
    SIGNATURE_FILE, StorageAnswer, StorageAnswers,
};
pub use limits::{ASSUMPTIONS, LIMITS};
pub use objects::{CHALLENGES, Challenge, PIECE_BYTES, challenges, list_root, pieces_root};
pub use parts::{Parts, PartsError, Signer, gaps_between};
pub use report::{Access, Facts, Report};
pub use time::utc;
pub use tlog::piece_count;
