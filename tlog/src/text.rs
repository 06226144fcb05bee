//! Text forms that the C2SP formats share: decimal numbers, base64, lists of hashes.
//!
//! Owns that each value has one spelling. Refuses signs, leading zeros, missing padding, stray bits and line breaks
//! inside base64: with a second spelling, a flipped byte could leave a signed text valid.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hash::Hash;

/// Hashes that a proof of a tree of at most 2^63 leaves can have; C2SP tlog-witness allows no more.
pub const PROOF_HASHES_MAX: usize = 63;

/// ASCII decimal without sign or leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if canonical && digits {
        text.parse().ok()
    } else {
        None
    }
}

/// Standard base64 with padding (RFC 4648 §4), unused bits zero.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// One hash a line, at most [`PROOF_HASHES_MAX`].
pub(crate) fn hashes<'t>(lines: impl Iterator<Item = &'t str>) -> Option<Vec<Hash>> {
    let mut out = Vec::new();
    for line in lines {
        if out.len() == PROOF_HASHES_MAX {
            return None;
        }
        out.push(line.parse().ok()?);
    }
    Some(out)
}

/// Splits a request or proof at its first empty line into the lines before it and the signed note after it.
pub(crate) fn head_and_note(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    let head = std::str::from_utf8(&bytes[..at]).ok()?;
    Some((head, &bytes[at + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "00",
            "01",
            "+1",
            "-1",
            "1 ",
            "1_0",
            "0x1",
            "18446744073709551616",
            "١",
        ] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(base64("AA=="), Some(vec![0]));
        for bad in ["AB==", "AA", "AA=", "A A=", "AA==\n", "-_8="] {
            assert_eq!(base64(bad), None, "{bad:?}");
        }
    }
}
