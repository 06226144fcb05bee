//! Keys that sign notes: names, ids, signature types, verifier keys.
//!
//! Owns C2SP signed-note's `<name>+<id>+<type and public key>` and the check of one signature. Refuses: signature
//! types this build does not know, an id that is not the key's, and a second spelling of the same key.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, ML_DSA_44, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cosignature::{self, UnixSeconds};
use crate::hash::sha256;
use crate::text;

/// The name of a key: not empty, without Unicode spaces, `+` and control characters (C2SP signed-note, format).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyName(String);

/// The first four bytes of SHA-256(name || 0x0A || type || public key). Tells keys apart; proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

/// What a signature of a key says and how (C2SP signed-note, signature types).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SignatureType {
    /// 0x01: Ed25519 over the text of the note, as a log signs.
    Ed25519,
    /// 0x04: Ed25519 `cosignature/v1` with a time, as a witness or replica signs.
    Ed25519Cosignature,
    /// 0x06: ML-DSA-44 over the tree, with the cosigner's name and mostly a time, as a witness or log signs.
    MlDsa44Cosignature,
}

impl SignatureType {
    /// The byte that stands for it in ids and keys.
    pub fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Ed25519Cosignature => 0x04,
            Self::MlDsa44Cosignature => 0x06,
        }
    }

    /// The type with this byte.
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Ed25519),
            0x04 => Some(Self::Ed25519Cosignature),
            0x06 => Some(Self::MlDsa44Cosignature),
            _ => None,
        }
    }

    /// Bytes of its public keys: 32, or 1,312 for ML-DSA-44 (FIPS 204).
    pub fn public_key_bytes(self) -> usize {
        match self {
            Self::Ed25519 | Self::Ed25519Cosignature => 32,
            Self::MlDsa44Cosignature => 1_312,
        }
    }
}

/// Text or bytes that are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty, or with a space, `+` or control character.
    #[error("a key name is empty or has a space, a plus or a control character")]
    Name,
    /// A name that the message of a 0x06 signature has no room for.
    #[error("the name of an ML-DSA-44 cosigner has more than 255 bytes")]
    NameTooLong,
    /// Not `<name>+<8 hexadecimal digits>+<base64>`.
    #[error("a key is not of the form <name>+<id>+<base64>")]
    Form,
    /// A signature type that this build does not know.
    #[error("unknown signature type 0x{0:02x}")]
    UnknownType(u8),
    /// Key material of another length than the type has.
    #[error("a key of type 0x{kind:02x} has {found} bytes instead of {needed}")]
    Length {
        /// The type's byte.
        kind: u8,
        /// Bytes that type needs.
        needed: usize,
        /// Bytes found.
        found: usize,
    },
    /// The id is of another name, type or key.
    #[error("the id {stated} is not that of the key, {real}")]
    Id {
        /// As written.
        stated: KeyId,
        /// As computed.
        real: KeyId,
    },
    /// The cryptographic library does not take the key.
    #[error("the key material is not valid")]
    Material,
}

impl KeyName {
    /// As it stands in notes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;
    fn from_str(name: &str) -> Result<Self, KeyError> {
        let bad = |c: char| c == '+' || c.is_whitespace() || c < ' ';
        if name.is_empty() || name.contains(bad) {
            Err(KeyError::Name)
        } else {
            Ok(Self(name.to_owned()))
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyId {
    fn of(name: &KeyName, kind: SignatureType, public: &[u8]) -> Self {
        let digest = sha256(&[name.0.as_bytes(), b"\n", &[kind.byte()], public]);
        let [a, b, c, d, ..] = digest.0;
        Self([a, b, c, d])
    }

    /// Eight lower-case hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 4];
        hex::decode_to_slice(text, &mut id).ok()?;
        let id = Self(id);
        // A second spelling, in upper case, is no spelling.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A public key with its name and signature type. Its text form is C2SP's vkey.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    name: KeyName,
    kind: SignatureType,
    id: KeyId,
    public: Vec<u8>,
}

impl VerifierKey {
    /// A key of raw bytes: RFC 8032 for Ed25519, FIPS 204 for ML-DSA-44.
    pub fn new(name: KeyName, kind: SignatureType, public: &[u8]) -> Result<Self, KeyError> {
        let (needed, found) = (kind.public_key_bytes(), public.len());
        if found != needed {
            return Err(KeyError::Length {
                kind: kind.byte(),
                needed,
                found,
            });
        }
        if kind == SignatureType::MlDsa44Cosignature && name.0.len() > cosignature::NAME_BYTES_MAX {
            return Err(KeyError::NameTooLong);
        }
        Ok(Self {
            id: KeyId::of(&name, kind, public),
            name,
            kind,
            public: public.to_vec(),
        })
    }

    /// The key's name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What its signatures say.
    pub fn kind(&self) -> SignatureType {
        self.kind
    }

    /// The public key's bytes.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// Whether `signature` is this key's over the note text: then the time it states, `None` in it for none. Which of
    /// the checks failed is not told.
    pub(crate) fn check(&self, text: &str, signature: &[u8]) -> Option<Option<UnixSeconds>> {
        if self.kind == SignatureType::Ed25519 {
            let key = UnparsedPublicKey::new(&ED25519, &self.public);
            return key.verify(text.as_bytes(), signature).ok().map(|()| None);
        }
        let (time, signature) = cosignature::split(signature)?;
        let message = cosignature::message(self, text, time).ok()?;
        let verified = match self.kind {
            SignatureType::MlDsa44Cosignature => {
                UnparsedPublicKey::new(&ML_DSA_44, &self.public).verify(&message, signature)
            }
            _ => UnparsedPublicKey::new(&ED25519, &self.public).verify(&message, signature),
        };
        verified.ok().map(|()| time)
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, rest) = text.split_once('+').ok_or(KeyError::Form)?;
        // The base64 may have a plus, the name and the id may not.
        let (id, key) = rest.split_once('+').ok_or(KeyError::Form)?;
        let stated = KeyId::parse(id).ok_or(KeyError::Form)?;
        let key = text::base64(key).ok_or(KeyError::Form)?;
        let (&kind, public) = key.split_first().ok_or(KeyError::Form)?;
        let kind = SignatureType::of(kind).ok_or(KeyError::UnknownType(kind))?;
        let key = Self::new(name.parse()?, kind, public)?;
        if key.id == stated {
            Ok(key)
        } else {
            Err(KeyError::Id {
                stated,
                real: key.id,
            })
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = Vec::with_capacity(1 + self.public.len());
        key.push(self.kind.byte());
        key.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({}+{}, {:?})", self.name, self.id, self.kind)
    }
}
