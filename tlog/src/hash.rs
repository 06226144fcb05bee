//! SHA-256 hashes as the tree uses them.
//!
//! Owns the domain separation of RFC 6962 §2.1 and the text form of a hash. Refuses: hashes of another length.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};

/// Bytes of a SHA-256 hash.
pub const HASH_BYTES: usize = 32;

/// A SHA-256 hash. Its text form is standard base64 with padding, as in C2SP checkpoints and proofs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Hash(pub [u8; HASH_BYTES]);

/// Text or bytes that are not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not base64 with padding.
    #[error("a hash is not standard base64")]
    NotBase64,
    /// Another length than SHA-256 has.
    #[error("a hash is {0} bytes long instead of 32")]
    WrongLength(usize),
}

impl Hash {
    /// Root of the tree without leaves: SHA-256 of the empty string (RFC 6962 §2.1).
    pub fn empty_root() -> Self {
        sha256(&[])
    }

    /// The bytes as they stand in tiles, proofs and frontiers.
    pub fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = HashError;
    fn try_from(bytes: &[u8]) -> Result<Self, HashError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| HashError::WrongLength(bytes.len()))
    }
}

impl FromStr for Hash {
    type Err = HashError;
    fn from_str(text: &str) -> Result<Self, HashError> {
        let bytes = STANDARD.decode(text).map_err(|_| HashError::NotBase64)?;
        Self::try_from(bytes.as_slice())
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;
    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Base64::of(&self.0).as_str())
    }
}

/// 32 bytes in standard base64 with padding, without a heap: a leaf has dozens of them.
pub(crate) struct Base64([u8; Self::BYTES]);

impl Base64 {
    const BYTES: usize = HASH_BYTES.div_ceil(3) * 4;

    pub(crate) fn of(bytes: &[u8; HASH_BYTES]) -> Self {
        let mut text = [0; Self::BYTES];
        STANDARD
            .encode_slice(bytes, &mut text)
            .expect("32 bytes are 44 characters");
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Base64::of(&self.0).as_str())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// SHA-256 of the concatenation of `parts`. The caller makes the concatenation unambiguous.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; HASH_BYTES];
    out.copy_from_slice(context.finish().as_ref());
    Hash(out)
}

/// Hash of a leaf's bytes: SHA-256(0x00 || bytes), RFC 6962 §2.1.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    sha256(&[&[0], leaf])
}

/// Hash of an inner node: SHA-256(0x01 || left || right), RFC 6962 §2.1.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], &left.0, &right.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_tree_and_the_empty_leaf_hash_as_rfc_6962_says() {
        // Both values are stated in RFC 9162 §2.1.1 examples and transparency-dev's test data.
        assert_eq!(
            hex::encode(Hash::empty_root().0),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            hex::encode(leaf_hash(b"").0),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
    }

    #[test]
    fn leaves_and_nodes_are_told_apart() {
        let (left, right) = (leaf_hash(b"l"), leaf_hash(b"r"));
        let mut as_leaf = left.0.to_vec();
        as_leaf.extend_from_slice(&right.0);
        assert_ne!(leaf_hash(&as_leaf), node_hash(&left, &right));
    }

    #[test]
    fn text_of_another_length_or_alphabet_is_refused() {
        assert_eq!("AAAA".parse::<Hash>(), Err(HashError::WrongLength(3)));
        assert_eq!("".parse::<Hash>(), Err(HashError::WrongLength(0)));
        assert_eq!("not base64!".parse::<Hash>(), Err(HashError::NotBase64));
        let hash = leaf_hash(b"x");
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
    }
}
