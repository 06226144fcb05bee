//! Sealed user metadata: what head and list show without a call to the KMS.
//!
//! Owns the sealed form of content type, tags, user metadata and plaintext checksums. Refuses
//! metadata of another object version, dataset, region or key version, and more than fits one
//! chunk.

use crate::cobblestone::{CHUNK_BYTES, HEADER_BYTES, Opener, Sealer, StreamHeader};
use crate::context::{MetadataContext, Suite};
use crate::keys::{MetadataLease, OpenMetadata};
use crate::{OpenError, SealError};

const FORMAT: u8 = 1;
const PREFIX_BYTES: usize = 6;

/// Bytes of metadata of one object version at most: one chunk.
pub const METADATA_BYTES_MAX: usize = CHUNK_BYTES - 1;

/// Sealed metadata: format, suite, key version (four bytes), then a Cobblestone-256 message. Public
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedMetadata(Vec<u8>);

impl SealedMetadata {
    /// Takes bytes from disk or wire. A format or suite this build does not know is refused.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, OpenError> {
        let known = bytes.len() >= PREFIX_BYTES + HEADER_BYTES
            && bytes[0] == FORMAT
            && Suite::from_byte(bytes[1]).is_some();
        if known {
            Ok(Self(bytes))
        } else {
            Err(OpenError)
        }
    }

    /// As it stands on disk and on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The version of the metadata key it needs.
    pub fn key_version(&self) -> u32 {
        let mut version = [0; 4];
        version.copy_from_slice(&self.0[2..PREFIX_BYTES]);
        u32::from_be_bytes(version)
    }
}

impl MetadataLease {
    /// Seals the metadata of one object version.
    ///
    /// # Errors
    /// If it is over [`METADATA_BYTES_MAX`], or for another dataset than this lease is.
    pub fn seal(
        &self,
        context: &MetadataContext,
        plain: &[u8],
    ) -> Result<SealedMetadata, SealError> {
        if !self.is_for(context) {
            return Err(SealError::WrongDataset);
        }
        if plain.len() > METADATA_BYTES_MAX {
            return Err(SealError::TooLong);
        }
        let mut out = vec![FORMAT, context.suite.to_byte()];
        out.extend_from_slice(&self.version.to_be_bytes());
        let mut sealer = Sealer::new(self.key.bytes(), &context.stream(self.version))?;
        sealer.update(plain, &mut out)?;
        sealer.finish(&mut out)?;
        Ok(SealedMetadata(out))
    }

    /// Opens the metadata of one object version.
    ///
    /// # Errors
    /// If it was not sealed for this version under this key.
    pub fn open(
        &self,
        context: &MetadataContext,
        sealed: &SealedMetadata,
    ) -> Result<Vec<u8>, OpenError> {
        let suite = sealed.0[1];
        if !self.is_for(context)
            || sealed.key_version() != self.version
            || suite != context.suite.to_byte()
        {
            return Err(OpenError);
        }
        let (header, chunks) = StreamHeader::split(&sealed.0[PREFIX_BYTES..])?;
        let mut opener = Opener::new(self.key.bytes(), &header, &context.stream(self.version))?;
        let mut out = Vec::with_capacity(chunks.len());
        opener.update(chunks, &mut out)?;
        opener.finish(&mut out)?;
        Ok(out)
    }

    fn is_for(&self, context: &MetadataContext) -> bool {
        context.region == self.region && context.dataset == self.dataset
    }
}

impl OpenMetadata {
    /// Opens the metadata of one object version, sealed in the region that handed its key over.
    ///
    /// # Errors
    /// If it was not sealed for this version under this key.
    pub fn open(
        &self,
        context: &MetadataContext,
        sealed: &SealedMetadata,
    ) -> Result<Vec<u8>, OpenError> {
        self.0.open(context, sealed)
    }
}
