//! The secret of an access key: what a client that holds no key of the region signs its requests with.
//!
//! Owns its birth and its text. It is born in the KMS, rests there wrapped under the root key, and is shown as text twice
//! over: to the operator who made it, once, and to gateways, which check signatures with it. Opens and seals nothing.
//! Refuses, by not having the method, to be copied, printed or compared.

use aws_lc_rs::rand;
use proto::ids::{AccessKeyId, RegionId};
use zeroize::Zeroizing;

use crate::KeyError;
use crate::keys::KeySlot;

/// Characters of a secret's text.
pub const ACCESS_SECRET_CHARS: usize = 40;
/// Bytes of the slot that the text is of: 240 bits, four characters for each three bytes.
const TEXT_BYTES: usize = ACCESS_SECRET_CHARS / 4 * 3;

/// The secret of an access key. Zeroed on drop; not `Clone`, `Debug`, `PartialEq` or `Serialize`.
pub struct AccessSecret {
    pub(crate) region: RegionId,
    pub(crate) id: AccessKeyId,
    pub(crate) key: KeySlot,
}

impl AccessSecret {
    /// A new secret, born random.
    pub fn generate(region: RegionId, id: AccessKeyId) -> Result<Self, KeyError> {
        let key = KeySlot::try_new(|slot| {
            // What the text does not show is zero, so that no bit of the slot is unknown to who was shown it.
            rand::fill(&mut slot[..TEXT_BYTES]).map_err(|_| KeyError::Random)
        })?;
        Ok(Self { region, id, key })
    }

    /// The access key it belongs to.
    pub fn id(&self) -> AccessKeyId {
        self.id
    }

    /// The region it is of.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// The text that clients are configured with: 40 of base64's alphabet (RFC 4648 section 4). Ordinary memory, wiped
    /// when it is dropped.
    pub fn text(&self) -> Zeroizing<String> {
        // Of its full length from the start: a text that grew would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(ACCESS_SECRET_CHARS));
        for three in self.key.bytes()[..TEXT_BYTES].chunks_exact(3) {
            let group = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            for shift in [18, 12, 6, 0] {
                text.push(character(group >> shift & 63));
            }
        }
        #[cfg(feature = "danger_scannable_keys")]
        crate::fingerprints::record(text.as_bytes());
        text
    }
}

/// Without a table and without a branch: neither cache nor time tells which it was.
fn character(six_bits: u32) -> char {
    let from = |first: u32, letter: u32| {
        // All ones where `six_bits` is not below `first`.
        let reached = ((first.wrapping_sub(six_bits + 1) >> 31) ^ 1).wrapping_sub(1);
        reached & letter
    };
    // Each range's own step on top of those before it: A-Z, a-z, 0-9, +, /.
    let letter = six_bits
        .wrapping_add(u32::from(b'A'))
        .wrapping_add(from(26, u32::from(b'a') - 26 - u32::from(b'A')))
        .wrapping_add(from(52, STEP_DIGITS))
        .wrapping_add(from(62, STEP_PLUS))
        .wrapping_add(from(63, STEP_SLASH));
    char::from(letter as u8)
}

const STEP_DIGITS: u32 = (b'0' as u32)
    .wrapping_sub(52)
    .wrapping_sub(b'a' as u32 - 26);
const STEP_PLUS: u32 = (b'+' as u32)
    .wrapping_sub(62)
    .wrapping_sub((b'0' as u32).wrapping_sub(52));
const STEP_SLASH: u32 = (b'/' as u32)
    .wrapping_sub(63)
    .wrapping_sub((b'+' as u32).wrapping_sub(62));

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> AccessKeyId {
        AccessKeyId::from_bits(7)
    }

    fn region() -> RegionId {
        "ch-zrh".parse().expect("a valid region")
    }

    fn of(bytes: [u8; 32]) -> AccessSecret {
        let key = KeySlot::try_new::<KeyError>(|slot| {
            *slot = bytes;
            Ok(())
        });
        AccessSecret {
            region: region(),
            id: id(),
            key: key.expect("room"),
        }
    }

    #[test]
    fn every_six_bits_have_base64s_character() {
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let ours: String = (0..64).map(character).collect();
        assert_eq!(ours, alphabet);
    }

    /// As `base64.b64encode` of Python has it.
    #[test]
    fn a_text_has_these_golden_characters() {
        let mut bytes = [0; 32];
        bytes
            .iter_mut()
            .zip(0..)
            .for_each(|(byte, at)| *byte = at * 8);
        let text = of(bytes).text();
        assert_eq!(&text[..], "AAgQGCAoMDhASFBYYGhweICIkJigqLC4wMjQ2ODo");
    }

    #[test]
    fn secrets_are_40_characters_and_no_two_are_alike() {
        let texts: Vec<_> = (0..64)
            .map(|_| AccessSecret::generate(region(), id()).expect("room").text())
            .collect();
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(text.len(), ACCESS_SECRET_CHARS);
            assert!(!texts[..at].contains(text), "the same twice");
        }
        // Each place takes many values: none is a constant.
        for place in 0..ACCESS_SECRET_CHARS {
            let mut seen: Vec<_> = texts.iter().map(|text| text.as_bytes()[place]).collect();
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() > 16, "place {place}");
        }
    }
}
