//! One custodian's share, in memory, as bytes and as text for people.
//!
//! Owns the format and the text form: base32 in groups, with a checksum, so that a mistyped
//! character is found before anything is combined. Encoding and decoding look nothing up by secret
//! values.

use proto::ids::RootEpoch;
use zeroize::Zeroizing;

use super::{FORMAT, RootCheck, SetId, ShareError};
use crate::context::{LABEL_SHARE_CHECK, LABEL_SHARE_CHECKSUM};
use crate::encode::{Reader, put_field};
use crate::kdf;
use crate::keys::KeySlot;

const CHECKSUM_BYTES: usize = 8;
/// Format, set, epoch, k, n, index, root check, value, checksum: 80 bytes are 128 characters, 16
/// groups of 8.
const SHARE_BYTES: usize = 1 + 16 + 4 + 3 + 16 + 32 + CHECKSUM_BYTES;
const GROUP_CHARS: usize = 8;
const PREFIX: &str = "reduit-share";

/// One share of a root key. Worth nothing alone and a k-th of the root key together: handle it as a
/// secret.
pub struct Share {
    pub(super) set: SetId,
    pub(super) epoch: RootEpoch,
    pub(super) k: u8,
    pub(super) n: u8,
    pub(super) index: u8,
    pub(super) root_check: RootCheck,
    pub(super) value: KeySlot,
}

impl Share {
    /// The split it belongs to.
    pub fn set(&self) -> SetId {
        self.set
    }

    /// The epoch of the root key.
    pub fn epoch(&self) -> RootEpoch {
        self.epoch
    }

    /// Which share it is, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Shares needed.
    pub fn needed(&self) -> u8 {
        self.k
    }

    pub(super) fn same_split(&self, other: &Self) -> bool {
        self.set == other.set
            && self.epoch == other.epoch
            && self.k == other.k
            && self.n == other.n
            && self.root_check == other.root_check
    }

    /// Tells this share without telling it: SHA-256 over its 32 uniform bytes and all it says of
    /// itself.
    pub fn check_value(&self) -> [u8; 32] {
        let mut head = Vec::with_capacity(64);
        put_field(&mut head, LABEL_SHARE_CHECK);
        self.put_head(&mut head);
        kdf::scrubbed(|| kdf::sha256(&[&head, self.value.bytes()]))
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.extend_from_slice(&self.set.0);
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        out.extend_from_slice(&[self.k, self.n, self.index]);
        out.extend_from_slice(&self.root_check.0);
    }

    /// The share as bytes, to be sealed to its custodian ([`crate::hpke_seal`]). The copy wipes
    /// itself.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(SHARE_BYTES));
        self.put_head(&mut out);
        out.extend_from_slice(self.value.bytes());
        let checksum = checksum(&out);
        out.extend_from_slice(&checksum);
        out
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ShareError> {
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(ShareError::UnknownFormat(other)),
            None => return Err(ShareError::Malformed),
        }
        let (body, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(ShareError::Malformed)?;
        if bytes.len() != SHARE_BYTES {
            return Err(ShareError::Malformed);
        }
        if !kdf::equal(&checksum(body), sum) {
            return Err(ShareError::Checksum);
        }
        let mut reader = Reader::new(&body[1..]);
        let set = SetId(reader.array()?);
        let epoch = RootEpoch(reader.u32()?);
        let (k, n, index) = (reader.u8()?, reader.u8()?, reader.u8()?);
        if k < 2 || k > n {
            return Err(ShareError::Threshold { k, n });
        }
        if index == 0 || index > n {
            return Err(ShareError::Malformed);
        }
        let root_check = RootCheck(reader.array()?);
        let bytes = reader.take(32)?;
        let value = KeySlot::try_new::<ShareError>(|value| {
            value.copy_from_slice(bytes);
            Ok(())
        })?;
        reader.end()?;
        Ok(Self {
            set,
            epoch,
            k,
            n,
            index,
            root_check,
            value,
        })
    }

    /// The share for a person to keep: `reduit-share` and 16 groups of 8 characters of base32 (RFC
    /// 4648 section 6, in lower case). The copy wipes itself.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = self.to_bytes();
        let chars = SHARE_BYTES / 5 * 8;
        // Sized once: a string that grew would leave a copy of the share behind.
        let mut text = Zeroizing::new(String::with_capacity(
            PREFIX.len() + chars + chars / GROUP_CHARS,
        ));
        text.push_str(PREFIX);
        for block in bytes.chunks_exact(5) {
            text.push('-');
            let bits = block
                .iter()
                .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            for position in (0..GROUP_CHARS).rev() {
                text.push(char::from(to_character(
                    (bits >> (5 * position)) as u8 & 31,
                )));
            }
        }
        text
    }

    /// Reads [`to_text`](Self::to_text). Case, spaces, line breaks and hyphens do not matter.
    pub fn from_text(text: &str) -> Result<Self, ShareError> {
        let text = text.trim();
        let body = text
            .get(PREFIX.len()..)
            .filter(|_| text[..PREFIX.len()].eq_ignore_ascii_case(PREFIX))
            .ok_or(ShareError::Malformed)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(SHARE_BYTES));
        let (mut bits, mut held) = (Zeroizing::new(0u64), 0);
        for character in body
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace() && *byte != b'-')
        {
            *bits = *bits << 5 | u64::from(from_character(character).ok_or(ShareError::Malformed)?);
            held += 5;
            if held >= 8 {
                held -= 8;
                if bytes.len() == SHARE_BYTES {
                    return Err(ShareError::Checksum);
                }
                bytes.push((*bits >> held) as u8);
            }
        }
        // A character too few or too many is the person's slip, not another format.
        if bytes.len() != SHARE_BYTES || held != 0 {
            return Err(ShareError::Checksum);
        }
        Self::from_bytes(&bytes)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut label = Vec::with_capacity(32);
    put_field(&mut label, LABEL_SHARE_CHECKSUM);
    let hash = kdf::scrubbed(|| kdf::sha256(&[&label, bytes]));
    let mut out = [0; CHECKSUM_BYTES];
    out.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    out
}

/// 0..=25 to `a`..=`z`, 26..=31 to `2`..=`7`, without a table or branch.
fn to_character(value: u8) -> u8 {
    // 0xFF from 26 on: 25 - value borrows.
    let digit = (25u16.wrapping_sub(value.into()) >> 8) as u8;
    value
        .wrapping_add(b'a')
        .wrapping_sub(digit & (b'a' - b'2' + 26))
}

/// The inverse, for either case. Whether a character is valid is not secret; its value is.
fn from_character(character: u8) -> Option<u8> {
    let lower = character | 0x20;
    let (letter, digit) = (lower.wrapping_sub(b'a'), character.wrapping_sub(b'2'));
    // 0xFF where the value is in range, by borrow.
    let is_letter = (u16::from(letter).wrapping_sub(26) >> 8) as u8;
    let is_digit = (u16::from(digit).wrapping_sub(6) >> 8) as u8 & !is_letter;
    let value = (letter & is_letter) | (digit.wrapping_add(26) & is_digit);
    (is_letter | is_digit == 0xFF).then_some(value)
}
