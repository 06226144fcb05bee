//! What a cosigner signs: C2SP tlog-cosignature, types 0x04 and 0x06.
//!
//! Owns the signed messages, the time that stands before a signature, and that both are over a whole tree from leaf 0.
//! Refuses: text that is no checkpoint, a time from 2^63 on, names and origins over 255 bytes, and under 0x06 a
//! checkpoint with extension lines: such a signature would not cover them, and a reader might think it did.

use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::key::{SignatureType, VerifierKey};

/// Bytes that a cosigner's name or a log's origin may have in a signed message of type 0x06.
pub const NAME_BYTES_MAX: usize = 255;

const LABEL: &[u8; 12] = b"subtree/v1\n\0";
const TIME_BYTES: usize = 8;

/// A time stated by a cosigner: seconds since 1970 (POSIX), from 1 to 2^63 - 1. Zero on the wire means that none is
/// stated, and is `None` here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnixSeconds(u64);

impl UnixSeconds {
    /// A time, unless it is zero or from 2^63 on.
    pub fn new(seconds: u64) -> Option<Self> {
        (1..=i64::MAX as u64)
            .contains(&seconds)
            .then_some(Self(seconds))
    }

    /// Seconds since 1970.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why there is no message for a cosigner to sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Cosigners sign nothing but checkpoints.
    #[error("the text is no checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// A message of type 0x06 does not cover extension lines.
    #[error("an ML-DSA-44 cosignature does not cover extension lines")]
    ExtensionLines,
}

/// The bytes that `key` signs for the checkpoint `text` and that time.
pub(crate) fn message(
    key: &VerifierKey,
    text: &str,
    time: Option<UnixSeconds>,
) -> Result<Vec<u8>, MessageError> {
    let checkpoint: Checkpoint = text.parse()?;
    let seconds = seconds_of(time);
    if key.kind() != SignatureType::MlDsa44Cosignature {
        return Ok(format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes());
    }
    if !checkpoint.extension_lines().is_empty() {
        return Err(MessageError::ExtensionLines);
    }
    // struct cosigned_message of tlog-cosignature; start is 0 for a checkpoint.
    let mut out = LABEL.to_vec();
    push_short(&mut out, key.name().as_str());
    out.extend_from_slice(&seconds.to_be_bytes());
    push_short(&mut out, checkpoint.origin().as_str());
    out.extend_from_slice(&0_u64.to_be_bytes());
    out.extend_from_slice(&checkpoint.size().to_be_bytes());
    out.extend_from_slice(checkpoint.root().as_bytes());
    Ok(out)
}

/// struct timestamped_signature: time and signature.
pub(crate) fn join(time: Option<UnixSeconds>, signature: &[u8]) -> Vec<u8> {
    let mut out = seconds_of(time).to_be_bytes().to_vec();
    out.extend_from_slice(signature);
    out
}

/// Takes a timestamped_signature apart; `None` for bytes that are none.
pub(crate) fn split(bytes: &[u8]) -> Option<(Option<UnixSeconds>, &[u8])> {
    let (time, signature) = bytes.split_first_chunk::<TIME_BYTES>()?;
    match u64::from_be_bytes(*time) {
        0 => Some((None, signature)),
        seconds => Some((Some(UnixSeconds::new(seconds)?), signature)),
    }
}

fn seconds_of(time: Option<UnixSeconds>) -> u64 {
    time.map_or(0, UnixSeconds::get)
}

fn push_short(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).expect("names and origins are bounded by their types");
    out.push(length);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn key(kind: SignatureType) -> VerifierKey {
        let name = "witness.example.com/w1".parse().expect("a name");
        VerifierKey::new(name, kind, &vec![7; kind.public_key_bytes()]).expect("a key")
    }

    #[test]
    fn golden_messages_of_both_types() {
        let time = UnixSeconds::new(1_679_315_147);
        let ed25519 = message(&key(SignatureType::Ed25519Cosignature), TEXT, time);
        assert_eq!(
            String::from_utf8(ed25519.expect("a checkpoint")).expect("text"),
            format!("cosignature/v1\ntime 1679315147\n{TEXT}"),
            "the example of tlog-cosignature"
        );
        let ml_dsa = message(&key(SignatureType::MlDsa44Cosignature), TEXT, time);
        assert_eq!(
            hex::encode(ml_dsa.expect("a checkpoint")),
            // Label, 22 and name, time, 27 and origin, start, end, root: put together by hand.
            "737562747265652f76310a00\
             167769746e6573732e6578616d706c652e636f6d2f7731\
             00000000641850cb\
             1b6578616d706c652e636f6d2f626568696e642d7468652d736f6661\
             0000000000000000\
             00000000013e2dc3\
             0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
        );
    }

    #[test]
    fn extension_lines_are_signed_by_0x04_and_refused_by_0x06() {
        let text = format!("{TEXT}extra\n");
        let signed = message(&key(SignatureType::Ed25519Cosignature), &text, None);
        assert!(signed.expect("a checkpoint").ends_with(b"\nextra\n"));
        assert_eq!(
            message(&key(SignatureType::MlDsa44Cosignature), &text, None),
            Err(MessageError::ExtensionLines)
        );
        assert!(matches!(
            message(&key(SignatureType::Ed25519Cosignature), "hello\n", None),
            Err(MessageError::Checkpoint(_))
        ));
    }

    #[test]
    fn times_are_between_one_and_two_to_the_63() {
        for (seconds, time) in [
            (0, Some(None)),
            (1, Some(UnixSeconds::new(1))),
            (i64::MAX as u64, Some(UnixSeconds::new(i64::MAX as u64))),
            (1 << 63, None),
            (u64::MAX, None),
        ] {
            let mut bytes = seconds.to_be_bytes().to_vec();
            bytes.push(9);
            assert_eq!(split(&bytes).map(|(time, _)| time), time, "{seconds}");
        }
        assert_eq!(split(&[0; 7]), None);
        assert_eq!(join(UnixSeconds::new(258), b"x"), b"\0\0\0\0\0\0\x01\x02x");
    }
}
