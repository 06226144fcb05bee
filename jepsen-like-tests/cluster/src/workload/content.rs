//! Bodies that say which write they are of: a number, a length, and bytes that follow from both.
//!
//! Owns the comparison on the way back, from any offset and piece by piece, so that no body is ever kept. Refuses
//! bytes that are of no write, or of two.

use bytes::{Bytes, BytesMut};

/// Bytes in front: the number and the length, little-endian.
pub(super) const HEAD_BYTES: u64 = 16;
const WORD_BYTES: u64 = 8;

/// What one write puts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

impl Content {
    /// At least as long as its head.
    pub(super) fn new(number: u64, bytes: u64) -> Self {
        Self {
            number,
            bytes: bytes.max(HEAD_BYTES),
        }
    }

    /// From the head of a body.
    pub(super) fn from_head(head: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let (number, bytes) = (word(0)?, word(8)?);
        (bytes >= HEAD_BYTES).then_some(Self { number, bytes })
    }

    fn word(self, at: u64) -> u64 {
        match at {
            0 => self.number,
            1 => self.bytes,
            _ => {
                // SplitMix64: any word without the ones before it.
                let mut z = self
                    .number
                    .wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    /// The bytes from `start` to `end`, cut to the body.
    pub(super) fn slice(self, start: u64, end: u64) -> Bytes {
        let end = end.min(self.bytes);
        let mut out = BytesMut::with_capacity(end.saturating_sub(start) as usize);
        let mut at = start;
        while at < end {
            let word = self.word(at / WORD_BYTES).to_le_bytes();
            let from = at % WORD_BYTES;
            let take = (WORD_BYTES - from).min(end - at);
            out.extend_from_slice(&word[from as usize..(from + take) as usize]);
            at += take;
        }
        out.freeze()
    }

    /// The whole body.
    pub(super) fn body(self) -> Bytes {
        self.slice(0, self.bytes)
    }

    /// Whether `piece` is what stands at `start`.
    pub(super) fn stands_at(self, start: u64, piece: &[u8]) -> bool {
        let end = start + piece.len() as u64;
        end <= self.bytes && self.slice(start, end) == piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_which_write_it_is_of() {
        for bytes in [0, 16, 17, 1_000, 4_099] {
            let content = Content::new(77, bytes);
            let body = content.body();
            assert_eq!(body.len() as u64, bytes.max(HEAD_BYTES));
            assert_eq!(Content::from_head(&body), Some(content));
            assert!(content.stands_at(0, &body));
        }
    }

    #[test]
    fn any_piece_can_be_compared_by_itself() {
        let content = Content::new(9, 1_000);
        let body = content.body();
        for (start, end) in [(0, 1_000), (3, 4), (15, 33), (990, 1_000)] {
            assert!(content.stands_at(start as u64, &body[start..end]));
        }
    }

    #[test]
    fn bytes_of_another_write_or_place_or_length_are_seen() {
        let (content, other) = (Content::new(9, 1_000), Content::new(10, 1_000));
        let body = content.body();
        assert!(!other.stands_at(0, &body));
        assert!(!content.stands_at(100, &body[101..200]));
        assert!(!content.stands_at(0, &[&body[..], b"x"].concat()));
        let mut flipped = body.to_vec();
        flipped[500] ^= 1;
        assert!(!content.stands_at(0, &flipped));
    }
}
