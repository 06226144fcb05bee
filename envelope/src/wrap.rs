//! Keys wrapped under keys, for storage.
//!
//! Owns the wrapped format: a header in the clear and a one-chunk Cobblestone-256 message whose
//! context is that header, so that the header is authenticated, no nonce is counted and the parent
//! is committed to. Refuses a format version, suite or key type it does not know, a header that was
//! changed, and a wrapped key of one type where another is expected.

use proto::ids::{AccessKeyId, DatasetId, HandOverKeyId, KekId, KekVersion, LeaseId, RegionId};

use crate::KeyError;
use crate::access_secret::AccessSecret;
use crate::cobblestone::{HEADER_BYTES, TAG_BYTES, open_short, seal_short};
use crate::context::{LABEL_WRAP, Suite};
use crate::encode::{Malformed, Reader, put_field};
use crate::hand_over::HandOverKey;
use crate::hpke_key::HpkePrivateKey;
use crate::keys::{Kek, KeySlot, LeaseKey, MetadataKey, RootKey};

const FORMAT: u8 = 1;
const BODY_BYTES: usize = HEADER_BYTES + 32 + TAG_BYTES;

/// What a wrapped key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KeyType {
    /// A KEK, wrapped under the root key.
    Kek = 1,
    /// A lease key, wrapped under a KEK.
    Lease = 2,
    /// A metadata key, wrapped under a KEK.
    Metadata = 3,
    /// The secret of an access key, wrapped under the root key.
    AccessSecret = 4,
    /// The private half of a hand-over key, wrapped under the root key.
    HandOver = 5,
}

/// What is said in the clear, and authenticated, about a wrapped key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WrapHeader {
    /// The algorithms of the wrapping.
    pub suite: Suite,
    /// What is wrapped.
    pub key_type: KeyType,
    /// The region the key lives in.
    pub region: RegionId,
    /// KEK id, lease id, the dataset id of a metadata key, the bits of an access key's id (big-endian), or a hand-over key's
    /// id.
    pub id: [u8; 16],
    /// KEK: its version. Lease key: the version of the KEK around it. Metadata key: its version. Access secret and hand-over
    /// key: the epoch of the root key around it.
    pub version: u32,
}

impl WrapHeader {
    fn new(key_type: KeyType, region: &RegionId, id: &[u8; 16], version: u32) -> Self {
        Self {
            suite: Suite::Cobblestone256,
            key_type,
            region: region.clone(),
            id: *id,
            version,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, self.suite.to_byte(), self.key_type as u8];
        put_field(&mut out, self.region.as_str().as_bytes());
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.version.to_be_bytes());
        out
    }

    fn context(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        put_field(&mut out, LABEL_WRAP);
        out.extend_from_slice(&self.encode());
        out
    }
}

/// A wrapped key: header and sealed body. Public bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    header: WrapHeader,
    body: [u8; BODY_BYTES],
}

/// Bytes that are not a wrapped key this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrappedError {
    /// Written by a later version.
    #[error("wrapped key of unknown format {0}")]
    UnknownFormat(u8),
    /// Written with algorithms this build does not have.
    #[error("wrapped key of unknown suite {0}")]
    UnknownSuite(u8),
    /// A key type this build does not know.
    #[error("wrapped key of unknown type {0}")]
    UnknownType(u8),
    /// Short, long or not what it should be.
    #[error("malformed wrapped key")]
    Malformed,
}

impl From<Malformed> for WrappedError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Wrapped {
    /// What is wrapped. Authenticated only once it was unwrapped.
    pub fn header(&self) -> &WrapHeader {
        &self.header
    }

    /// As it stands on disk and on the wire: format, suite, type (a byte each), region with its
    /// length before it, id, version, then the sealed key (104 bytes).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.header.encode();
        out.extend_from_slice(&self.body);
        out
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WrappedError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            other => return Err(WrappedError::UnknownFormat(other)),
        }
        let suite = reader.u8()?;
        let suite = Suite::from_byte(suite).ok_or(WrappedError::UnknownSuite(suite))?;
        let key_type = match reader.u8()? {
            1 => KeyType::Kek,
            2 => KeyType::Lease,
            3 => KeyType::Metadata,
            4 => KeyType::AccessSecret,
            5 => KeyType::HandOver,
            other => return Err(WrappedError::UnknownType(other)),
        };
        let region = std::str::from_utf8(reader.field()?).map_err(|_| WrappedError::Malformed)?;
        let region = region.parse().map_err(|_| WrappedError::Malformed)?;
        let (id, version, body) = (reader.array()?, reader.u32()?, reader.array()?);
        reader.end()?;
        Ok(Self {
            header: WrapHeader {
                suite,
                key_type,
                region,
                id,
                version,
            },
            body,
        })
    }
}

/// Why a wrapped key did not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Wrong parent, wrong type, or changed. Which of them is not said.
    #[error("the wrapped key does not open under this key")]
    NotAuthentic,
    /// There is no room for it.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl RootKey {
    /// Wraps a KEK for KMS state.
    pub fn wrap_kek(&self, kek: &Kek) -> Result<Wrapped, KeyError> {
        wrap(
            &self.key,
            WrapHeader::new(KeyType::Kek, &kek.region, &kek.id.0, kek.version.0),
            &kek.key,
        )
    }

    /// Unwraps a KEK.
    pub fn unwrap_kek(&self, wrapped: &Wrapped) -> Result<Kek, UnwrapError> {
        let key = unwrap(&self.key, wrapped, KeyType::Kek)?;
        let WrapHeader {
            region,
            id,
            version,
            ..
        } = wrapped.header.clone();
        Ok(Kek {
            region,
            id: KekId(id),
            version: KekVersion(version),
            key,
        })
    }

    /// Wraps the secret of an access key for KMS state.
    pub fn wrap_access_secret(&self, secret: &AccessSecret) -> Result<Wrapped, KeyError> {
        let id = secret.id.bits().to_be_bytes();
        let header = WrapHeader::new(KeyType::AccessSecret, &secret.region, &id, self.epoch.0);
        wrap(&self.key, header, &secret.key)
    }

    /// Unwraps the secret of an access key.
    pub fn unwrap_access_secret(&self, wrapped: &Wrapped) -> Result<AccessSecret, UnwrapError> {
        let key = unwrap(&self.key, wrapped, KeyType::AccessSecret)?;
        let WrapHeader {
            region,
            id,
            version,
            ..
        } = wrapped.header.clone();
        if version != self.epoch.0 {
            return Err(UnwrapError::NotAuthentic);
        }
        Ok(AccessSecret {
            region,
            id: AccessKeyId::from_bits(u128::from_be_bytes(id)),
            key,
        })
    }

    /// Wraps the private half of a hand-over key for KMS state.
    pub fn wrap_hand_over(&self, hand_over: &HandOverKey) -> Result<Wrapped, KeyError> {
        let (region, id) = (&hand_over.region, &hand_over.id.0);
        let header = WrapHeader::new(KeyType::HandOver, region, id, self.epoch.0);
        wrap(&self.key, header, &hand_over.key.0)
    }

    /// Unwraps the private half of a hand-over key.
    pub fn unwrap_hand_over(&self, wrapped: &Wrapped) -> Result<HandOverKey, UnwrapError> {
        let key = unwrap(&self.key, wrapped, KeyType::HandOver)?;
        let WrapHeader {
            region,
            id,
            version,
            ..
        } = wrapped.header.clone();
        if version != self.epoch.0 {
            return Err(UnwrapError::NotAuthentic);
        }
        Ok(HandOverKey {
            region,
            id: HandOverKeyId(id),
            key: HpkePrivateKey(key),
        })
    }
}

impl Kek {
    /// Wraps a lease key for its token. Also how a lease is rewrapped when the KEK is rotated.
    pub fn wrap_lease(&self, lease: &LeaseKey) -> Result<Wrapped, KeyError> {
        let header = WrapHeader::new(KeyType::Lease, &lease.region, &lease.id.0, self.version.0);
        wrap(&self.key, header, &lease.key)
    }

    /// Unwraps a lease key.
    pub fn unwrap_lease(&self, wrapped: &Wrapped) -> Result<LeaseKey, UnwrapError> {
        let key = unwrap(&self.key, wrapped, KeyType::Lease)?;
        let WrapHeader { region, id, .. } = wrapped.header.clone();
        Ok(LeaseKey {
            region,
            id: LeaseId(id),
            key,
        })
    }

    /// Wraps a metadata key for KMS state.
    pub fn wrap_metadata_key(&self, metadata: &MetadataKey) -> Result<Wrapped, KeyError> {
        let header = WrapHeader::new(
            KeyType::Metadata,
            &metadata.region,
            &metadata.dataset.0,
            metadata.version,
        );
        wrap(&self.key, header, &metadata.key)
    }

    /// Unwraps a metadata key.
    pub fn unwrap_metadata_key(&self, wrapped: &Wrapped) -> Result<MetadataKey, UnwrapError> {
        let key = unwrap(&self.key, wrapped, KeyType::Metadata)?;
        let WrapHeader {
            region,
            id,
            version,
            ..
        } = wrapped.header.clone();
        Ok(MetadataKey {
            region,
            dataset: DatasetId(id),
            version,
            key,
        })
    }
}

fn wrap(parent: &KeySlot, header: WrapHeader, key: &KeySlot) -> Result<Wrapped, KeyError> {
    let sealed = seal_short(parent.bytes(), &header.context(), key.bytes())?;
    let body = sealed
        .try_into()
        .expect("a sealed key is as long as the body: both are constants");
    Ok(Wrapped { header, body })
}

fn unwrap(parent: &KeySlot, wrapped: &Wrapped, expected: KeyType) -> Result<KeySlot, UnwrapError> {
    if wrapped.header.key_type != expected {
        return Err(UnwrapError::NotAuthentic);
    }
    KeySlot::try_new(|key| {
        open_short(
            parent.bytes(),
            &wrapped.header.context(),
            &wrapped.body,
            key,
        )
        .map_err(|_| UnwrapError::NotAuthentic)
    })
}

#[cfg(test)]
mod tests;
