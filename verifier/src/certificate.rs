//! The certificate of a relocation with its proofs: one file in, a verdict for each claim out.
//!
//! Owns the file's format and its bounds. Refuses a second spelling, unknown fields, and more leaves than it may have. What
//! it says is read in `side` (one region's descriptor and log) and `leaves` (what they record), judged in `judge`, and shown
//! in `report`.

mod details;
mod judge;
mod leaves;
mod report;
mod side;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::descriptor::{Descriptor, DescriptorError, from_file, to_file};
use proto::v1::SignedRegionDescriptor;
use serde::{Deserialize, Serialize};
use tlog::certificate::{CertificateError, DsseEnvelope};
use tlog::{Openings, ProofFile, ProofFileError};

use crate::folder::FILE_BYTES_MAX;
use crate::format::{encode, one};

pub use judge::{CertificateClaim, verify_certificate};
pub use report::CertificateReport;

/// Version of the file that this build writes and reads.
const FORMAT: u32 = 1;
/// Leaves of one region in one file.
pub const CERTIFICATE_LEAVES_MAX: usize = 100_000;

/// A certificate and what proves it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    format: u32,
    certificate: DsseEnvelope,
    source: RegionPart,
    destination: RegionPart,
}

/// What the file has of one region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionPart {
    /// The file of its signed descriptor, base64.
    descriptor: String,
    /// Leaves of its log by ascending index.
    leaves: Vec<NamedLeaf>,
}

/// One leaf and the proof that it stands in its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedLeaf {
    /// Its bytes, which are JSON.
    pub leaf: String,
    /// What is disclosed of it.
    pub openings: Option<Openings>,
    /// C2SP tlog-proof, with the leaf's index and a signed checkpoint.
    pub proof: String,
}

/// Fingerprints that were not got with the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pins {
    /// Of the source's descriptor.
    pub source: Option<[u8; 32]>,
    /// Of the destination's descriptor.
    pub destination: Option<[u8; 32]>,
}

/// Why a file is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More than a file may have.
    #[error("it has more than 256 MiB")]
    TooLarge,
    /// Not this JSON in its one spelling.
    #[error("it is no certificate of a relocation in its one spelling")]
    Malformed,
    /// A later format.
    #[error("unknown format {0} of a certificate")]
    UnknownFormat(u32),
    /// More leaves than a file may have.
    #[error("it has more than {CERTIFICATE_LEAVES_MAX} leaves of a region")]
    TooManyLeaves,
    /// The envelope, or the statement in it.
    #[error("the signed statement is none")]
    Statement(#[from] CertificateError),
    /// A region's descriptor.
    #[error("a region descriptor in it is none")]
    Descriptor(#[from] DescriptorError),
    /// A leaf's proof.
    #[error("a proof in it is none")]
    Proof(#[from] ProofFileError),
    /// Leaves that do not ascend.
    #[error("its leaves are not in the order of their log, each once")]
    Order,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl RegionPart {
    /// Of a region's signed descriptor and leaves of its log by ascending index.
    pub fn new(descriptor: &SignedRegionDescriptor, leaves: Vec<NamedLeaf>) -> Self {
        Self {
            descriptor: STANDARD.encode(to_file(descriptor)),
            leaves,
        }
    }

    pub(crate) fn descriptor(&self) -> Result<Descriptor, BundleError> {
        let file = STANDARD.decode(&self.descriptor);
        Ok(from_file(&file.map_err(|_| BundleError::Malformed)?)?)
    }

    /// Its leaves, as written.
    pub fn leaves(&self) -> &[NamedLeaf] {
        &self.leaves
    }

    fn check(&self) -> Result<(), BundleError> {
        if self.leaves.len() > CERTIFICATE_LEAVES_MAX {
            return Err(BundleError::TooManyLeaves);
        }
        self.descriptor()?;
        let mut before = None;
        for leaf in &self.leaves {
            let index = ProofFile::parse(leaf.proof.as_bytes())?.index();
            if before.is_some_and(|before| before >= index) {
                return Err(BundleError::Order);
            }
            before = Some(index);
        }
        Ok(())
    }
}

impl Bundle {
    /// Puts a file together.
    pub fn new(
        certificate: DsseEnvelope,
        source: RegionPart,
        destination: RegionPart,
    ) -> Result<Self, BundleError> {
        let bundle = Self {
            format: FORMAT,
            certificate,
            source,
            destination,
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// Reads a file: JSON and a newline.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(BundleError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BundleError::Malformed)?;
        let text = text.strip_suffix('\n').ok_or(BundleError::Malformed)?;
        let FormatOnly { format } =
            serde_json::from_str(text).map_err(|_| BundleError::Malformed)?;
        if format != FORMAT {
            return Err(BundleError::UnknownFormat(format));
        }
        let bundle: Self = one(text).ok_or(BundleError::Malformed)?;
        bundle.check()?;
        Ok(bundle)
    }

    fn check(&self) -> Result<(), BundleError> {
        self.certificate.open()?;
        self.source.check()?;
        self.destination.check()
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        (encode(self) + "\n").into_bytes()
    }

    /// The signed statement.
    pub fn certificate(&self) -> &DsseEnvelope {
        &self.certificate
    }

    /// What it has of the source.
    pub fn source(&self) -> &RegionPart {
        &self.source
    }

    /// What it has of the destination.
    pub fn destination(&self) -> &RegionPart {
        &self.destination
    }
}
