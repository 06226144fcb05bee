//! Opening part of a stream.
//!
//! Owns the way from a range of plaintext to whole chunks and back. Refuses chunks that are not the
//! ones of the range, more or fewer of them, and, for a range that reaches the end, a stream that
//! was cut.

use zeroize::Zeroize;

use super::open::append_at;
use super::{CHUNK_BYTES, ChunkCipher, ChunkSpan, OpenError, SEALED_CHUNK_BYTES, StreamHeader};
use crate::kdf;

/// Opens the chunks of one [`ChunkSpan`], as they arrive, into the plaintext of its range.
pub struct RangeOpener {
    cipher: ChunkCipher,
    span: ChunkSpan,
    /// Index of the next chunk.
    next: u64,
    held: Vec<u8>,
    failed: bool,
}

impl RangeOpener {
    pub(crate) fn new(
        dek: &[u8; 32],
        header: &StreamHeader,
        context: &[u8],
        span: ChunkSpan,
    ) -> Result<Self, OpenError> {
        let cipher = ChunkCipher::for_header(dek, header, context)?;
        Ok(Self {
            cipher,
            next: span.first,
            span,
            held: Vec::new(),
            failed: false,
        })
    }

    /// What is being opened.
    pub fn span(&self) -> &ChunkSpan {
        &self.span
    }

    /// Takes more of the bytes of [`ChunkSpan::sealed_range`] and appends to `out` what they hold
    /// of the range.
    ///
    /// # Errors
    /// If a chunk is not authentic or there are too many bytes. Nothing is added then; later calls
    /// fail too.
    pub fn update(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let start = out.len();
        let answer = if self.failed {
            Err(OpenError)
        } else {
            self.take(sealed, out)
        };
        if answer.is_err() {
            self.failed = true;
            kdf::wipe_from(out, start);
        }
        answer
    }

    /// Says that all bytes were given.
    ///
    /// # Errors
    /// If chunks are missing.
    pub fn finish(self) -> Result<(), OpenError> {
        if self.is_done() {
            Ok(())
        } else {
            Err(OpenError)
        }
    }

    /// Whether every chunk of the span has been opened.
    pub fn is_done(&self) -> bool {
        self.next == self.span.last + 1 && self.held.is_empty() && !self.failed
    }

    /// Opens the whole range from bytes that are all here.
    ///
    /// # Errors
    /// If anything but exactly the range's chunks is given. Nothing is added to `out` then.
    pub fn open(mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let start = out.len();
        self.update(sealed, out)?;
        self.finish().inspect_err(|_| kdf::wipe_from(out, start))
    }

    fn take(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        while !sealed.is_empty() {
            if self.next > self.span.last {
                return Err(OpenError);
            }
            let due = self.span.sealed_chunk_len(self.next);
            if self.held.is_empty() && sealed.len() >= due {
                let (chunk, rest) = sealed.split_at(due);
                self.append(chunk, out)?;
                sealed = rest;
                continue;
            }
            let (filling, rest) = sealed.split_at(sealed.len().min(due - self.held.len()));
            self.held
                .reserve_exact(SEALED_CHUNK_BYTES.saturating_sub(self.held.len()));
            self.held.extend_from_slice(filling);
            sealed = rest;
            if self.held.len() == due {
                let chunk = std::mem::take(&mut self.held);
                self.append(&chunk, out)?;
            }
        }
        Ok(())
    }

    /// Opens one chunk and keeps of it what the range asks for.
    fn append(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let at = self.next * CHUNK_BYTES as u64;
        let start = out.len();
        append_at(&self.cipher, self.next, chunk, out)?;
        self.next += 1;
        let opened = out.len() - start;
        let range = self.span.plain_range();
        let within = |position: u64| position.saturating_sub(at).min(opened as u64) as usize;
        let (from, to) = (within(range.start), within(range.end));
        out.copy_within(start + from..start + to, start);
        out[start + (to - from)..].zeroize();
        out.truncate(start + (to - from));
        Ok(())
    }
}
