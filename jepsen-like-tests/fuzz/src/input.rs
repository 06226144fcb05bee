//! Fuzzer's bytes as choices, and as edits of something valid.
//!
//! Owns both readings. Refuses to run out: what is missing reads as zero, so that every input means something and a
//! shorter one means the same with less.

/// Reads choices from the front of an input.
#[derive(Debug, Clone)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads from the front of `data`.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes, or as many as there are.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes with their length, one byte, before them.
    pub(crate) fn short(&mut self) -> &'a [u8] {
        let length = self.u8();
        self.bytes(length.into())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        let mut out = [0; N];
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes.
    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number that is small, large or anything, by its first byte: where arithmetic breaks.
    pub(crate) fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=0xEF => small.into(),
            0xF0..=0xF3 => u64::from(self.u16()),
            0xF4..=0xF7 => u64::MAX - u64::from(self.u8()),
            0xF8..=0xFB => (1 << (self.u8() % 64)) + u64::from(self.u8()) - 1,
            _ => self.u64(),
        }
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.u8()) % choices.len()].clone()
    }
}

/// Bytes one edit may add.
const ADDED_MAX: usize = 64;

/// `valid` with the edits that `script` describes; an empty script changes nothing. Formats with checksums or seals
/// are reached so: random bytes would never be taken for one.
pub(crate) fn edited(valid: &[u8], script: &[u8]) -> Vec<u8> {
    let mut out = valid.to_vec();
    let mut script = Input::new(script);
    while !script.is_empty() {
        let kind = script.u8();
        let at = script.u32() as usize % (out.len() + 1);
        match kind % 8 {
            // What a medium does: bits flip.
            0..=3 => {
                let flip = script.u8();
                if let Some(byte) = out.get_mut(at) {
                    *byte ^= flip;
                }
            }
            4 => out.truncate(at),
            5 => {
                let added = script.short();
                let added = added[..added.len().min(ADDED_MAX)].to_vec();
                out.splice(at..at, added);
            }
            6 => {
                let end = at.saturating_add(script.u16().into()).min(out.len());
                out.drain(at..end);
            }
            // What a misdirected write does: bytes of one place stand at another.
            _ => {
                let from = script.u32() as usize % (out.len() + 1);
                let count = usize::from(script.u16())
                    .min(out.len() - from)
                    .min(out.len() - at);
                out.copy_within(from..from + count, at);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_script_changes_nothing_and_every_script_is_one() {
        let valid: Vec<u8> = (0..200).collect();
        assert_eq!(edited(&valid, &[]), valid);
        let flipped = edited(&valid, &[0, 5, 0, 0, 0, 0xFF]);
        assert_eq!(flipped[5], valid[5] ^ 0xFF);
        for kind in 0..=255 {
            for cut in 0..12 {
                let script = [kind, 250, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
                edited(&valid, &script[..cut]);
                edited(&[], &script[..cut]);
            }
        }
    }

    #[test]
    fn what_is_missing_reads_as_zero() {
        let mut input = Input::new(&[7]);
        assert_eq!((input.u8(), input.u64(), input.number()), (7, 0, 0));
        assert_eq!(Input::new(&[3, 1]).short(), [1]);
        assert_eq!(
            Input::new(&[0xFC, 1, 0, 0, 0, 0, 0, 0, 0x80]).number(),
            (1 << 63) + 1
        );
    }
}
