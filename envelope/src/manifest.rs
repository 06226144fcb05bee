//! An object version's manifest: which streams it consists of, in order.
//!
//! Owns the format that is sealed under the DEK and checked before the first byte is served.
//! Refuses a manifest whose parts are unordered, whose lengths do not follow from each other, or
//! that has no part.

use std::ops::Range;

use crate::cobblestone::{self, COMMITMENT_BYTES, Commitment, StreamHeader};
use crate::context::PartNumber;
use crate::encode::{Malformed, Reader};

const FORMAT: u8 = 1;
/// Parts of one object at most: that of an S3 multipart upload. A sealed manifest stays under 0.6
/// MiB.
pub const PARTS_MAX: usize = 10_000;
/// Checksums of one object at most.
const CHECKSUMS_MAX: usize = 8;
/// Bytes of one checksum at most.
const CHECKSUM_BYTES_MAX: usize = 64;

/// One part, as it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestPart {
    /// Its number, which is in its stream's context.
    pub number: PartNumber,
    /// Plaintext bytes.
    pub plain: u64,
    /// Bytes of its stream, header included. Follows from `plain`.
    pub sealed: u64,
    /// The commitment of its stream, so that another stream of the same part is not taken for it.
    pub commitment: Commitment,
}

impl ManifestPart {
    /// A part of `plain` bytes whose stream starts with `header`.
    ///
    /// # Errors
    /// If a stream cannot be that long.
    pub fn new(
        number: PartNumber,
        plain: u64,
        header: &StreamHeader,
    ) -> Result<Self, ManifestError> {
        let sealed = cobblestone::sealed_len(plain).ok_or(ManifestError::Length)?;
        Ok(Self {
            number,
            plain,
            sealed,
            commitment: header.commitment(),
        })
    }

    /// Whether `header` starts the stream this manifest names. Both are public, so this may take
    /// varying time.
    pub fn matches(&self, header: &StreamHeader) -> bool {
        self.commitment == header.commitment()
    }
}

/// A checksum of the whole plaintext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Which algorithm, as the caller numbers them.
    pub kind: u8,
    /// Its value: 1 to 64 bytes.
    pub value: Vec<u8>,
}

/// Why parts do not make a manifest, or bytes are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No part, more than [`PARTS_MAX`], or numbers that do not go up.
    #[error("the parts are not 1 to {PARTS_MAX} in ascending order")]
    Parts,
    /// A part or the sum of all is not a length it can have.
    #[error("a part has a length that no stream has")]
    Length,
    /// Too many checksums, or one too long.
    #[error("the checksums are too many or too long")]
    Checksums,
    /// Written by a later version.
    #[error("manifest of unknown format {0}")]
    UnknownFormat(u8),
    /// Short, long, or not what it should be.
    #[error("malformed manifest")]
    Malformed,
}

impl From<Malformed> for ManifestError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The parts of one object version, in order, and what they add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    parts: Vec<ManifestPart>,
    checksums: Vec<Checksum>,
    plain_total: u64,
}

/// The piece of one part that a range of the object needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRange {
    /// Which part: an index into [`Manifest::parts`].
    pub index: usize,
    /// Where its stream starts when all streams lie one after the other.
    pub sealed_offset: u64,
    /// The range of its plaintext.
    pub plain: Range<u64>,
}

impl Manifest {
    /// A manifest of `parts`, in order.
    pub fn new(parts: Vec<ManifestPart>, checksums: Vec<Checksum>) -> Result<Self, ManifestError> {
        if parts.is_empty()
            || parts.len() > PARTS_MAX
            || parts
                .windows(2)
                .any(|pair| pair[0].number >= pair[1].number)
        {
            return Err(ManifestError::Parts);
        }
        if parts
            .iter()
            .any(|part| cobblestone::sealed_len(part.plain) != Some(part.sealed))
        {
            return Err(ManifestError::Length);
        }
        if checksums.len() > CHECKSUMS_MAX
            || checksums
                .iter()
                .any(|sum| sum.value.is_empty() || sum.value.len() > CHECKSUM_BYTES_MAX)
        {
            return Err(ManifestError::Checksums);
        }
        // 10,000 parts of at most 2^52 bytes each stay under 2^66: the sum is checked.
        let plain_total = parts
            .iter()
            .try_fold(0u64, |sum, part| sum.checked_add(part.plain))
            .filter(|_| {
                parts
                    .iter()
                    .try_fold(0u64, |sum, part| sum.checked_add(part.sealed))
                    .is_some()
            })
            .ok_or(ManifestError::Length)?;
        Ok(Self {
            parts,
            checksums,
            plain_total,
        })
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[ManifestPart] {
        &self.parts
    }

    /// Checksums of the whole plaintext.
    pub fn checksums(&self) -> &[Checksum] {
        &self.checksums
    }

    /// Plaintext bytes of the object.
    pub fn plain_total(&self) -> u64 {
        self.plain_total
    }

    /// Bytes of all streams together.
    pub fn sealed_total(&self) -> u64 {
        self.parts.iter().map(|part| part.sealed).sum()
    }

    /// The pieces of parts that hold `range` of the object's plaintext, in order. Where the range
    /// reaches the end of the object its last part is always among them, empty piece or not, so
    /// that its end is verified.
    pub fn locate(&self, range: Range<u64>) -> impl Iterator<Item = PartRange> + '_ {
        let last = self.parts.len() - 1;
        let (mut plain_at, mut sealed_offset) = (0, 0);
        self.parts
            .iter()
            .enumerate()
            .filter_map(move |(index, part)| {
                let (start, offset) = (plain_at, sealed_offset);
                plain_at += part.plain;
                sealed_offset += part.sealed;
                let within = |position: u64| position.saturating_sub(start).min(part.plain);
                let plain = within(range.start)..within(range.end);
                let proves_end = index == last && range.end >= self.plain_total;
                (!plain.is_empty() || proves_end).then_some(PartRange {
                    index,
                    sealed_offset: offset,
                    plain,
                })
            })
    }

    /// Format 1: format byte, total, number of parts; per part number, plaintext length, sealed
    /// length, commitment; number of checksums; per checksum kind, length, value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.parts.len() * (20 + COMMITMENT_BYTES));
        out.push(FORMAT);
        out.extend_from_slice(&self.plain_total.to_be_bytes());
        out.extend_from_slice(&(self.parts.len() as u32).to_be_bytes());
        for part in &self.parts {
            out.extend_from_slice(&part.number.0.to_be_bytes());
            out.extend_from_slice(&part.plain.to_be_bytes());
            out.extend_from_slice(&part.sealed.to_be_bytes());
            out.extend_from_slice(&part.commitment.0);
        }
        out.push(self.checksums.len() as u8);
        for checksum in &self.checksums {
            out.extend_from_slice(&[checksum.kind, checksum.value.len() as u8]);
            out.extend_from_slice(&checksum.value);
        }
        out
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(ManifestError::UnknownFormat(other)),
        }
        let plain_total = reader.u64()?;
        let count = reader.u32()? as usize;
        if count > PARTS_MAX {
            return Err(ManifestError::Parts);
        }
        let parts = (0..count)
            .map(|_| {
                Ok(ManifestPart {
                    number: PartNumber(reader.u32()?),
                    plain: reader.u64()?,
                    sealed: reader.u64()?,
                    commitment: Commitment(reader.array()?),
                })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        let checksums = (0..reader.u8()?)
            .map(|_| {
                let (kind, length) = (reader.u8()?, reader.u8()?);
                Ok(Checksum {
                    kind,
                    value: reader.take(length.into())?.to_vec(),
                })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        reader.end()?;
        let manifest = Self::new(parts, checksums)?;
        if manifest.plain_total == plain_total {
            Ok(manifest)
        } else {
            Err(ManifestError::Length)
        }
    }
}

#[cfg(test)]
mod tests;
