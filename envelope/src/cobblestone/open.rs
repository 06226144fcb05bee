//! Opening a stream as its bytes arrive.
//!
//! Owns the order of chunks and the check that the last one is short. Refuses, from the first chunk
//! that is not authentic, everything after it. Plaintext is given out only after its own chunk was
//! authenticated; that the stream is whole is known when [`Opener::finish`] answers.

use super::{
    CHUNK_BYTES, CHUNKS_MAX, ChunkCipher, OpenError, SEALED_CHUNK_BYTES, StreamHeader, TAG_BYTES,
};
use crate::kdf;

/// Opens one stream from its first chunk to its last.
pub struct Opener {
    cipher: ChunkCipher,
    /// Index of the next chunk.
    next: u64,
    /// Sealed bytes of the chunk that has not arrived whole: under SEALED_CHUNK_BYTES.
    held: Vec<u8>,
    failed: bool,
}

impl Opener {
    pub(crate) fn new(
        dek: &[u8; 32],
        header: &StreamHeader,
        context: &[u8],
    ) -> Result<Self, OpenError> {
        let cipher = ChunkCipher::for_header(dek, header, context)?;
        Ok(Self {
            cipher,
            next: 0,
            held: Vec::new(),
            failed: false,
        })
    }

    /// Takes more of the stream, header not included, and appends to `out` the plaintext of every
    /// chunk that is whole. Bytes are opened from where they lie into `out`, with no copy between.
    ///
    /// # Errors
    /// If a chunk is not authentic. Nothing is added to `out` then, and every later call fails too.
    pub fn update(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let start = out.len();
        self.guarded(|opener| opener.take(sealed, out))
            .inspect_err(|_| kdf::wipe_from(out, start))
    }

    /// Opens whole chunks where they lie: afterwards the first [`CHUNK_BYTES`] of each slot are
    /// plaintext. None of them may be the stream's last chunk, which is shorter.
    ///
    /// # Errors
    /// If a chunk is not authentic, or part of one is held. Slots are wiped then, and every later
    /// call fails too.
    pub fn open_slots(&mut self, slots: &mut [[u8; SEALED_CHUNK_BYTES]]) -> Result<(), OpenError> {
        let answer = self.guarded(|opener| {
            if !opener.held.is_empty() {
                return Err(OpenError);
            }
            slots.iter_mut().try_for_each(|slot| {
                let index = opener.claim_full()?;
                opener.cipher.open_in_place(index, slot)
            })
        });
        if answer.is_err() {
            slots.iter_mut().for_each(zeroize::Zeroize::zeroize);
        }
        answer
    }

    /// Opens the last chunk. Only now is it known that the stream was not cut.
    ///
    /// # Errors
    /// If the last chunk is missing or not authentic. Nothing is added to `out` then.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), OpenError> {
        let start = out.len();
        let last = std::mem::take(&mut self.held);
        self.guarded(|opener| append_at(&opener.cipher, opener.next, &last, out))
            .inspect_err(|_| kdf::wipe_from(out, start))
    }

    fn take(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        out.reserve((self.held.len() + sealed.len()) / SEALED_CHUNK_BYTES * CHUNK_BYTES);
        if !self.held.is_empty() {
            let (filling, rest) =
                sealed.split_at(sealed.len().min(SEALED_CHUNK_BYTES - self.held.len()));
            self.held.extend_from_slice(filling);
            sealed = rest;
            if self.held.len() < SEALED_CHUNK_BYTES {
                return Ok(());
            }
            let index = self.claim_full()?;
            append_at(&self.cipher, index, &self.held, out)?;
            self.held.clear();
        }
        let (chunks, rest) = sealed.as_chunks::<SEALED_CHUNK_BYTES>();
        for chunk in chunks {
            let index = self.claim_full()?;
            append_at(&self.cipher, index, chunk, out)?;
        }
        self.held.extend_from_slice(rest);
        Ok(())
    }

    /// The index of the next full chunk. The last index can only be that of the chunk that ends the
    /// stream.
    fn claim_full(&mut self) -> Result<u64, OpenError> {
        if self.next >= CHUNKS_MAX - 1 {
            return Err(OpenError);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    fn guarded(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        if self.failed {
            return Err(OpenError);
        }
        let answer = work(self);
        self.failed = answer.is_err();
        answer
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, index: u64) {
        self.next = index;
    }
}

/// Opens one sealed chunk to the end of `out`, which the caller cuts back if it fails.
pub(super) fn append_at(
    cipher: &ChunkCipher,
    index: u64,
    sealed: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpenError> {
    let plain = sealed.len().checked_sub(TAG_BYTES).ok_or(OpenError)?;
    let start = out.len();
    out.resize(start + plain, 0);
    cipher.open_into(index, sealed, &mut out[start..])
}
