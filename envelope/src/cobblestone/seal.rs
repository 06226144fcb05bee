//! Sealing a stream as its plaintext arrives.
//!
//! Owns the order of chunks and the last, short one. Refuses a stream over the format's limit, and
//! one that mixes the two ways of feeding it out of step.

use zeroize::Zeroizing;

use super::{
    CHUNK_BYTES, CHUNKS_MAX, ChunkCipher, SEALED_CHUNK_BYTES, StreamHeader, StreamSalt, TAG_BYTES,
};
use crate::{KeyError, kdf};

/// Why a stream could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The plaintext is longer than a stream may be.
    #[error("the plaintext is longer than one stream may be")]
    TooLong,
    /// [`Sealer::seal_slots`] was called with part of a chunk still held back by
    /// [`Sealer::update`].
    #[error("whole chunks were given while part of a chunk was held")]
    OutOfStep,
    /// Metadata was to be sealed under the metadata key of another dataset or region.
    #[error("the metadata belongs to another dataset than the key")]
    WrongDataset,
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Seals one stream. Feed it with [`update`](Self::update), close it with [`finish`](Self::finish);
/// a stream that was not finished does not open. Holds at most one chunk of plaintext, wiped on
/// drop.
pub struct Sealer {
    cipher: ChunkCipher,
    header: StreamHeader,
    header_written: bool,
    /// Index of the next chunk.
    next: u64,
    /// Plaintext of the chunk that is not full yet: under CHUNK_BYTES. Given its whole capacity at
    /// once, since a buffer that grew would leave plaintext behind.
    held: Zeroizing<Vec<u8>>,
}

impl Sealer {
    pub(crate) fn new(dek: &[u8; 32], context: &[u8]) -> Result<Self, KeyError> {
        Ok(Self::with_salt(dek, context, &StreamSalt(kdf::random()?)))
    }

    /// A stream with a chosen salt, which must never repeat under one key: [`new`](Self::new) and
    /// golden tests.
    pub(super) fn with_salt(dek: &[u8; 32], context: &[u8], salt: &StreamSalt) -> Self {
        let (cipher, commitment) = ChunkCipher::derive(dek, salt, context);
        let mut header = [0; super::HEADER_BYTES];
        header[..salt.0.len()].copy_from_slice(&salt.0);
        header[salt.0.len()..].copy_from_slice(&commitment.0);
        Self {
            cipher,
            header: StreamHeader(header),
            header_written: false,
            next: 0,
            held: Zeroizing::new(Vec::new()),
        }
    }

    /// The stream's header. Its commitment goes into the manifest.
    pub fn header(&self) -> &StreamHeader {
        &self.header
    }

    /// Takes more plaintext and appends to `out` what can be sealed of it: the header on the first
    /// call, then every whole chunk, sealed from where it lies straight into `out`.
    ///
    /// # Errors
    /// If the stream gets too long. `out` never holds plaintext.
    pub fn update(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.write_header(out);
        let whole = (self.held.len() + plain.len()) / CHUNK_BYTES;
        out.reserve(whole * SEALED_CHUNK_BYTES);
        if !self.held.is_empty() {
            let (filling, rest) = plain.split_at(plain.len().min(CHUNK_BYTES - self.held.len()));
            self.held.extend_from_slice(filling);
            plain = rest;
            if self.held.len() < CHUNK_BYTES {
                return Ok(());
            }
            let mut held = std::mem::take(&mut self.held);
            self.append(&held, out)?;
            held.clear();
            self.held = held;
        }
        let (chunks, rest) = plain.as_chunks::<CHUNK_BYTES>();
        for chunk in chunks {
            self.append(chunk, out)?;
        }
        if !rest.is_empty() {
            let room = CHUNK_BYTES - self.held.len();
            self.held.reserve_exact(room);
            self.held.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Seals whole chunks where they lie: each slot holds [`CHUNK_BYTES`] of plaintext and room for
    /// the tag. For callers that read straight into such slots (see [`slice::as_chunks_mut`]); they
    /// write the header themselves.
    ///
    /// # Errors
    /// If [`update`](Self::update) holds part of a chunk, or the stream gets too long.
    pub fn seal_slots(&mut self, slots: &mut [[u8; SEALED_CHUNK_BYTES]]) -> Result<(), SealError> {
        if !self.held.is_empty() {
            return Err(SealError::OutOfStep);
        }
        self.header_written = true;
        for slot in slots {
            let index = self.claim_full()?;
            let (chunk, tag) = slot.split_at_mut(CHUNK_BYTES);
            tag.copy_from_slice(self.cipher.seal_in_place(index, chunk)?.as_ref());
        }
        Ok(())
    }

    /// Appends the last chunk, which ends the stream.
    ///
    /// # Errors
    /// If the stream is too long.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.write_header(out);
        append_at(&self.cipher, self.next, &self.held, out)
    }

    fn write_header(&mut self, out: &mut Vec<u8>) {
        if !self.header_written {
            out.extend_from_slice(self.header.as_bytes());
            self.header_written = true;
        }
    }

    fn append(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let index = self.claim_full()?;
        append_at(&self.cipher, index, chunk, out)
    }

    /// The index of the next full chunk. The last index is kept for the chunk that ends the stream.
    fn claim_full(&mut self) -> Result<u64, SealError> {
        if self.next >= CHUNKS_MAX - 1 {
            return Err(SealError::TooLong);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, index: u64) {
        self.next = index;
    }
}

/// Seals one chunk from where it lies to the end of `out`: plaintext is never in `out`.
fn append_at(
    cipher: &ChunkCipher,
    index: u64,
    chunk: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    let start = out.len();
    out.resize(start + chunk.len() + TAG_BYTES, 0);
    cipher
        .seal_into(index, chunk, &mut out[start..])
        .inspect_err(|_| out.truncate(start))
}
