//! Cobblestone-256: C2SP chunked-encryption (c2sp.org/chunked-encryption) with HKDF-SHA-512 and
//! AES-256-GCM.
//!
//! Owns the stream format: a 24-byte salt and a 32-byte key commitment, then chunks of 16 KiB, each
//! with a 16-byte tag, the last one always shorter and possibly empty, so that a cut stream shows.
//! Sizes and offsets follow from the plaintext length alone. Refuses everything else with one error
//! that does not say which check failed.

mod open;
mod range;
mod seal;

use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

pub use open::Opener;
pub use range::RangeOpener;
pub use seal::{SealError, Sealer};

use crate::kdf;

/// Plaintext bytes of every chunk but the last, which has fewer.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of the tag after each chunk.
pub const TAG_BYTES: usize = 16;
/// Bytes of every sealed chunk but the last.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Bytes of the random salt that starts a stream.
pub const STREAM_SALT_BYTES: usize = 24;
/// Bytes of the key commitment after the salt.
pub const COMMITMENT_BYTES: usize = 32;
/// Bytes before the first chunk.
pub const HEADER_BYTES: usize = STREAM_SALT_BYTES + COMMITMENT_BYTES;
/// Chunks of one stream at most, the last one included.
pub const CHUNKS_MAX: u64 = 1 << 38;
/// Plaintext bytes of one stream at most: 4 PiB less one.
pub const PLAIN_BYTES_MAX: u64 = CHUNKS_MAX * CHUNK_BYTES as u64 - 1;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const INFO_PREFIX: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

/// Sealed bytes that do not open: wrong key, wrong context, or changed, cut, extended or reordered.
/// Which of them is not said: whoever could tell them apart would have an oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not open under this key and context")]
pub struct OpenError;

/// A range that lies outside the plaintext, or a length no stream can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range is not inside the object")]
pub struct RangeError;

/// The salt of one stream. Random, public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamSalt(pub [u8; STREAM_SALT_BYTES]);

/// Which key and context a stream was sealed under, without telling either. Public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Commitment(pub [u8; COMMITMENT_BYTES]);

/// The first [`HEADER_BYTES`] bytes of a stream: salt, then commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamHeader([u8; HEADER_BYTES]);

impl StreamHeader {
    /// The header of a stream that starts with these bytes.
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Self {
        Self(bytes)
    }

    /// Splits a stream into its header and its chunks.
    ///
    /// # Errors
    /// If the stream is shorter than a header.
    pub fn split(stream: &[u8]) -> Result<(Self, &[u8]), OpenError> {
        let (header, chunks) = stream.split_first_chunk().ok_or(OpenError)?;
        Ok((Self(*header), chunks))
    }

    /// As it stands at the start of the stream.
    pub fn as_bytes(&self) -> &[u8; HEADER_BYTES] {
        &self.0
    }

    /// The stream's salt.
    pub fn salt(&self) -> StreamSalt {
        let mut salt = [0; STREAM_SALT_BYTES];
        salt.copy_from_slice(&self.0[..STREAM_SALT_BYTES]);
        StreamSalt(salt)
    }

    /// The stream's key commitment.
    pub fn commitment(&self) -> Commitment {
        let mut commitment = [0; COMMITMENT_BYTES];
        commitment.copy_from_slice(&self.0[STREAM_SALT_BYTES..]);
        Commitment(commitment)
    }
}

/// Bytes of the stream that seals `plain` bytes, header included; `None` above [`PLAIN_BYTES_MAX`].
pub const fn sealed_len(plain: u64) -> Option<u64> {
    if plain > PLAIN_BYTES_MAX {
        return None;
    }
    let chunks = plain / CHUNK_BYTES as u64 + 1;
    Some(HEADER_BYTES as u64 + plain + chunks * TAG_BYTES as u64)
}

/// Plaintext bytes of a stream of `sealed` bytes, header included.
///
/// # Errors
/// If no stream has this length: it was cut or extended.
pub const fn plain_len(sealed: u64) -> Result<u64, OpenError> {
    let Some(body) = sealed.checked_sub(HEADER_BYTES as u64) else {
        return Err(OpenError);
    };
    let full = body / SEALED_CHUNK_BYTES as u64;
    let Some(last) = (body % SEALED_CHUNK_BYTES as u64).checked_sub(TAG_BYTES as u64) else {
        return Err(OpenError);
    };
    if full >= CHUNKS_MAX {
        Err(OpenError)
    } else {
        Ok(full * CHUNK_BYTES as u64 + last)
    }
}

/// The chunks that hold a range of plaintext, and where they lie in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSpan {
    plain_total: u64,
    plain: Range<u64>,
    first: u64,
    last: u64,
}

/// The chunks that hold `range` of a plaintext of `plain_total` bytes.
///
/// A range that reaches the end always includes the last chunk, empty or not, so that opening it
/// proves the length: a suffix of a cut stream does not open. An empty range covers the chunk at
/// its start.
///
/// # Errors
/// If the range is reversed or reaches past the end.
pub fn chunk_span(plain_total: u64, range: Range<u64>) -> Result<ChunkSpan, RangeError> {
    if plain_total > PLAIN_BYTES_MAX || range.start > range.end || range.end > plain_total {
        return Err(RangeError);
    }
    let chunk = CHUNK_BYTES as u64;
    let first = range.start / chunk;
    let last = if range.end == plain_total {
        plain_total / chunk
    } else {
        range.end.saturating_sub(1) / chunk
    };
    Ok(ChunkSpan {
        plain_total,
        first,
        last: last.max(first),
        plain: range,
    })
}

impl ChunkSpan {
    /// The range of plaintext asked for.
    pub fn plain_range(&self) -> Range<u64> {
        self.plain.clone()
    }

    /// The bytes of the stream to fetch, header not included: whole chunks.
    pub fn sealed_range(&self) -> Range<u64> {
        let start = HEADER_BYTES as u64 + self.first * SEALED_CHUNK_BYTES as u64;
        let full = HEADER_BYTES as u64 + self.last * SEALED_CHUNK_BYTES as u64;
        start..full + self.sealed_chunk_len(self.last) as u64
    }

    /// Sealed bytes of chunk `index` of this stream.
    fn sealed_chunk_len(&self, index: u64) -> usize {
        let plain = (self.plain_total - index * CHUNK_BYTES as u64).min(CHUNK_BYTES as u64);
        plain as usize + TAG_BYTES
    }
}

/// Key and base nonce of one stream, ready for any chunk of it. The key schedule is made once a
/// stream; it lies in memory of aws-lc, which cleanses it when it is freed.
struct ChunkCipher {
    key: LessSafeKey,
    base_nonce: Zeroizing<[u8; NONCE_BYTES]>,
}

impl ChunkCipher {
    /// Derives a stream's cipher and commitment: `key ‖ base nonce ‖ commitment` (section "Key
    /// derivation").
    fn derive(dek: &[u8; KEY_BYTES], salt: &StreamSalt, context: &[u8]) -> (Self, Commitment) {
        kdf::scrubbed(|| {
            let mut okm = Zeroizing::new([0; KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES]);
            kdf::expand(dek, &[INFO_PREFIX, &salt.0, context], &mut okm[..]);
            let (key, rest) = okm.split_at(KEY_BYTES);
            let (nonce, commitment) = rest.split_at(NONCE_BYTES);
            let key = UnboundKey::new(&AES_256_GCM, key)
                .expect("the key has the length of an AES-256 key");
            let mut cipher = Self {
                key: LessSafeKey::new(key),
                base_nonce: Zeroizing::new([0; NONCE_BYTES]),
            };
            cipher.base_nonce.copy_from_slice(nonce);
            let mut public = [0; COMMITMENT_BYTES];
            public.copy_from_slice(commitment);
            (cipher, Commitment(public))
        })
    }

    /// The cipher of a stream that starts with `header`, if key and context are those it commits
    /// to.
    fn for_header(
        dek: &[u8; KEY_BYTES],
        header: &StreamHeader,
        context: &[u8],
    ) -> Result<Self, OpenError> {
        let (cipher, commitment) = Self::derive(dek, &header.salt(), context);
        if kdf::equal(&commitment.0, &header.commitment().0) {
            Ok(cipher)
        } else {
            Err(OpenError)
        }
    }

    /// The base nonce XOR the chunk's index as a big-endian integer (section "AEAD usage").
    fn nonce(&self, index: u64) -> Nonce {
        let mut nonce = *self.base_nonce;
        for (byte, counter) in nonce[NONCE_BYTES - 8..].iter_mut().zip(index.to_be_bytes()) {
            *byte ^= counter;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal_in_place(&self, index: u64, chunk: &mut [u8]) -> Result<Tag, SealError> {
        self.key
            .seal_in_place_separate_tag(self.nonce(index), Aad::empty(), chunk)
            .map_err(|_| SealError::TooLong)
    }

    /// Seals `plain` into `sealed`, which has room for the chunk and its tag and nothing else.
    fn seal_into(&self, index: u64, plain: &[u8], sealed: &mut [u8]) -> Result<(), SealError> {
        let (chunk, tag) = sealed
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(SealError::OutOfStep)?;
        self.key
            .seal_out_of_place_scatter(self.nonce(index), Aad::empty(), plain, chunk, &[], tag)
            .map_err(|_| SealError::TooLong)
    }

    /// Opens `sealed` (chunk, then tag) into `plain`, which is as long as the chunk.
    fn open_into(&self, index: u64, sealed: &[u8], plain: &mut [u8]) -> Result<(), OpenError> {
        let (chunk, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(OpenError)?;
        self.key
            .open_separate_gather(self.nonce(index), Aad::empty(), chunk, tag, plain)
            .map_err(|_| OpenError)
    }

    fn open_in_place(
        &self,
        index: u64,
        slot: &mut [u8; SEALED_CHUNK_BYTES],
    ) -> Result<(), OpenError> {
        let (chunk, tag) = slot.split_last_chunk_mut::<TAG_BYTES>().ok_or(OpenError)?;
        self.key
            .open_in_place_separate_tag(self.nonce(index), Aad::empty(), tag, chunk)
            .map(|_| ())
            .map_err(|_| OpenError)
    }
}

/// The commitment a stream under this key, salt and context has. Opens nothing.
pub(crate) fn commitment(dek: &[u8; KEY_BYTES], salt: &StreamSalt, context: &[u8]) -> Commitment {
    ChunkCipher::derive(dek, salt, context).1
}

/// Seals a short message, at most one chunk, straight from `plain` into `out`: wrapped keys never
/// lie in `out` in the clear.
pub(crate) fn seal_short<const PLAIN: usize>(
    key: &[u8; KEY_BYTES],
    context: &[u8],
    plain: &[u8; PLAIN],
) -> Result<Vec<u8>, crate::KeyError> {
    const { assert!(PLAIN < CHUNK_BYTES, "a short message is one chunk") };
    let salt = StreamSalt(kdf::random()?);
    let (cipher, commitment) = ChunkCipher::derive(key, &salt, context);
    let mut out = Vec::with_capacity(HEADER_BYTES + PLAIN + TAG_BYTES);
    out.extend_from_slice(&salt.0);
    out.extend_from_slice(&commitment.0);
    out.resize(HEADER_BYTES + PLAIN + TAG_BYTES, 0);
    let (sealed, tag) = out[HEADER_BYTES..].split_at_mut(PLAIN);
    cipher
        .key
        .seal_out_of_place_scatter(cipher.nonce(0), Aad::empty(), plain, sealed, &[], tag)
        .expect("lengths agree and one chunk is under the limit of GCM");
    Ok(out)
}

/// Opens what [`seal_short`] made straight into `plain`.
pub(crate) fn open_short<const PLAIN: usize>(
    key: &[u8; KEY_BYTES],
    context: &[u8],
    sealed: &[u8],
    plain: &mut [u8; PLAIN],
) -> Result<(), OpenError> {
    let (header, chunk) = StreamHeader::split(sealed)?;
    let cipher = ChunkCipher::for_header(key, &header, context)?;
    if chunk.len() != PLAIN + TAG_BYTES {
        return Err(OpenError);
    }
    cipher.open_into(0, chunk, plain)
}

#[cfg(test)]
mod tests;
