//! Private keys that sign notes and cosign checkpoints.
//!
//! Owns Go's `PRIVATE+KEY+<name>+<id>+<type and seed>` form, which all signature types use here, and signing. Refuses
//! to be copied, printed or turned back into text: who needs the text has the seed. The library keeps the key in
//! memory that it clears when it frees it. ML-DSA-44 signs with fresh randomness of the library: the one place of
//! this crate whose output is not a function of its input, and no state machine signs.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, ML_DSA_44_SIGNING, PqdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::checkpoint::Checkpoint;
use crate::cosignature::{self, MessageError, UnixSeconds};
use crate::key::{KeyError, KeyId, KeyName, SignatureType, VerifierKey};
use crate::note::Signature;

/// Bytes of the secret that a key is made from, of every type (RFC 8032 §5.1.5, FIPS 204 §5.1).
pub const SEED_BYTES: usize = 32;

const PREFIX: &str = "PRIVATE+KEY+";
/// Characters of base64 of the type's byte and the seed.
const SECRET_TEXT_BYTES: usize = 44;

/// A private key with its name and signature type.
///
/// ```compile_fail
/// // It is not copied, ...
/// fn copies(key: &tlog::SignerKey) -> tlog::SignerKey {
///     key.clone()
/// }
/// ```
/// ```compile_fail
/// // ... nor printed.
/// fn prints(key: &tlog::SignerKey) -> String {
///     format!("{key:?}")
/// }
/// ```
pub struct SignerKey {
    verifier: VerifierKey,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    MlDsa44(PqdsaKeyPair),
}

/// Why a key does not sign this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// A cosigner signs checkpoints.
    #[error("a key of type 0x{0:02x} signs checkpoints, not other text")]
    NotForText(u8),
    /// A key of type 0x01 makes no statement about time or consistency.
    #[error("a key of type 0x01 does not cosign")]
    NotACosigner,
    /// A cosignature of type 0x04 states a time.
    #[error("a cosignature of type 0x04 states when it was made")]
    NoTime,
    /// There is no message to sign.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The cryptographic library failed.
    #[error("signing failed")]
    Library,
}

impl SignerKey {
    /// Makes the key of a seed, which must be 32 bytes no one can guess.
    pub fn from_seed(
        name: KeyName,
        kind: SignatureType,
        seed: &[u8; SEED_BYTES],
    ) -> Result<Self, KeyError> {
        let pair = match kind {
            SignatureType::Ed25519 | SignatureType::Ed25519Cosignature => Pair::Ed25519(
                Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Material)?,
            ),
            SignatureType::MlDsa44Cosignature => Pair::MlDsa44(
                PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed)
                    .map_err(|_| KeyError::Material)?,
            ),
        };
        let public = match &pair {
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::MlDsa44(pair) => pair.public_key().as_ref(),
        };
        Ok(Self {
            verifier: VerifierKey::new(name, kind, public)?,
            pair,
        })
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(PREFIX).ok_or(KeyError::Form)?;
        let (name, rest) = rest.split_once('+').ok_or(KeyError::Form)?;
        let (id, secret) = rest.split_once('+').ok_or(KeyError::Form)?;
        let stated = KeyId::parse(id).ok_or(KeyError::Form)?;
        if secret.len() != SECRET_TEXT_BYTES {
            return Err(KeyError::Form);
        }
        let mut bytes = Zeroizing::new([0; 1 + SEED_BYTES]);
        let length = STANDARD
            .decode_slice(secret, &mut *bytes)
            .map_err(|_| KeyError::Form)?;
        let (&kind, seed) = bytes[..length].split_first().ok_or(KeyError::Form)?;
        let kind = SignatureType::of(kind).ok_or(KeyError::UnknownType(kind))?;
        let seed = seed.try_into().map_err(|_| KeyError::Form)?;
        let key = Self::from_seed(name.parse()?, kind, seed)?;
        if key.verifier.id() == stated {
            Ok(key)
        } else {
            Err(KeyError::Id {
                stated,
                real: key.verifier.id(),
            })
        }
    }

    /// The text form of the key that a seed makes, for the one file that keeps it.
    pub fn text_of(
        name: &KeyName,
        kind: SignatureType,
        seed: &[u8; SEED_BYTES],
    ) -> Result<Zeroizing<String>, KeyError> {
        let id = Self::from_seed(name.clone(), kind, seed)?.verifier.id();
        let mut bytes = Zeroizing::new([0; 1 + SEED_BYTES]);
        bytes[0] = kind.byte();
        bytes[1..].copy_from_slice(seed);
        let public = format!("{PREFIX}{name}+{id}+");
        // Neither grown nor encoded piece by piece, so that no copy of the secret is left behind.
        let mut secret = Zeroizing::new([0; SECRET_TEXT_BYTES]);
        STANDARD
            .encode_slice(bytes.as_slice(), secret.as_mut_slice())
            .expect("33 bytes are 44 characters");
        let mut text = Zeroizing::new(String::with_capacity(public.len() + SECRET_TEXT_BYTES));
        text.push_str(&public);
        text.push_str(std::str::from_utf8(secret.as_slice()).expect("base64 is ASCII"));
        Ok(text)
    }

    /// The public half.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs the text of a note with a key of type 0x01.
    pub fn sign_text(&self, text: &str) -> Result<Signature, SignError> {
        match self.verifier.kind() {
            SignatureType::Ed25519 => Ok(self.line(self.raw(text.as_bytes())?)),
            other => Err(SignError::NotForText(other.byte())),
        }
    }

    /// Signs a checkpoint as its log, or states that it extends every one this key signed before; with a time, also
    /// that it is the newest seen then. Keys of type 0x01 state no time, those of type 0x04 always one. Whether the
    /// statement is true is the caller's: see [`crate::AddCheckpoint`].
    pub fn sign_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        time: Option<UnixSeconds>,
    ) -> Result<Signature, SignError> {
        let text = checkpoint.to_string();
        match (self.verifier.kind(), time) {
            (SignatureType::Ed25519, None) => return self.sign_text(&text),
            (SignatureType::Ed25519, Some(_)) => return Err(SignError::NotACosigner),
            (SignatureType::Ed25519Cosignature, None) => return Err(SignError::NoTime),
            _ => {}
        }
        let message = cosignature::message(&self.verifier, &text, time)?;
        Ok(self.line(cosignature::join(time, &self.raw(&message)?)))
    }

    fn raw(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::MlDsa44(pair) => {
                let mut signature = vec![0; ML_DSA_44_SIGNING.signature_len()];
                pair.sign(message, &mut signature)
                    .map_err(|_| SignError::Library)?;
                Ok(signature)
            }
        }
    }

    fn line(&self, bytes: Vec<u8>) -> Signature {
        Signature {
            name: self.verifier.name().clone(),
            id: self.verifier.id(),
            bytes,
        }
    }
}
