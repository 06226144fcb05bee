//! Keys on the wire: only sealed under a session key, straight from slot to ciphertext and back.
//!
//! Owns the exchange (HPKE base mode with X-Wing, once; the receiver offers an ephemeral key) and
//! the symmetric messages after it (AES-256-GCM under the exported secret, the sender counting
//! nonces). Each kind of key has its own associated data, so that one is never received as another.
//! Refuses messages of another session, kind, subject or purpose.
//!
//! The exchange does not authenticate: both sides sign the offer and the encapsulation with their
//! enrolled keys, and put both identities into [`SessionInfo`]. A message opens as often as it is
//! shown; what makes it fresh is the caller's `aad`, such as a request id and leaf index. How long
//! a session is used is the callers' to bound.

use std::sync::atomic::{AtomicU64, Ordering};

use ::hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proto::ids::{AccessKeyId, DatasetId, LeaseId, RegionId, RootEpoch};

use crate::access_secret::AccessSecret;
use crate::context::{LABEL_SESSION_EXPORT, LABEL_SESSION_INFO, LABEL_SESSION_ITEM, ObjectContext};
use crate::encode::put_field;
use crate::hpke_key::{
    ENCAPSULATED_BYTES, HpkeAead, HpkeKdf, HpkeKem, HpkePrivateKey, HpkePublicKey, hash_list,
};
use crate::keys::{
    KeySlot, LeaseKey, MetadataKey, MetadataLease, OpenDek, OpenMetadata, RootKey, SealDek,
    SealingLease,
};
use crate::{KeyError, kdf};

const FORMAT: u8 = 1;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const COUNTER_BYTES: usize = 8;
/// Items of one session at most. Counted nonces never repeat below it, and it stays far under what
/// GCM allows.
const ITEMS_MAX: u64 = 1 << 40;

/// Bytes of one key on the wire.
pub const SEALED_KEY_BYTES: usize = 1 + COUNTER_BYTES + KEY_BYTES + TAG_BYTES;

/// What a session is for: SHA-256 over a labelled, length-prefixed list of everything, such as
/// region, both identities and an expiry. Both sides build it from what they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo([u8; 32]);

impl SessionInfo {
    /// Hashes everything the session is for.
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash_list(LABEL_SESSION_INFO, parts))
    }

    /// The `info` that goes into HPKE, for independent tools.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a session or an item of it did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The offer is not an X-Wing public key.
    #[error("the session offer is not an X-Wing public key")]
    BadOffer,
    /// The item is of another session, kind, subject or purpose, or was changed. Which of them is
    /// not said.
    #[error("the key does not open in this session")]
    NotAuthentic,
    /// The session has sent all it may. Make a new one.
    #[error("the session is used up")]
    Exhausted,
    /// There is no room for a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The public half of an offer.
pub type OfferPublic = HpkePublicKey;

/// What the sender answers an offer with. Public bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encapsulated(Box<[u8; ENCAPSULATED_BYTES]>);

impl Encapsulated {
    /// As it stands on the wire.
    pub fn as_bytes(&self) -> &[u8; ENCAPSULATED_BYTES] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Encapsulated {
    type Error = SessionError;
    fn try_from(bytes: &[u8]) -> Result<Self, SessionError> {
        Box::<[u8]>::from(bytes)
            .try_into()
            .map(Self)
            .map_err(|_| SessionError::NotAuthentic)
    }
}

/// A receiver's ephemeral key pair, for one session.
pub struct SessionOffer(HpkePrivateKey);

impl SessionOffer {
    /// A new key pair.
    pub fn generate() -> Result<Self, KeyError> {
        HpkePrivateKey::generate().map(Self)
    }

    /// What goes to the sender, signed.
    pub fn public(&self) -> OfferPublic {
        self.0.public()
    }

    /// Takes the sender's answer. An answer made for another offer or purpose is accepted here and
    /// then opens nothing, as HPKE's base mode has it.
    pub fn accept(
        self,
        encapsulated: &Encapsulated,
        info: &SessionInfo,
    ) -> Result<SessionReceiver, SessionError> {
        receiver(&self.0, encapsulated, info)
    }
}

/// The receiving side of an exchange with this private key.
pub(crate) fn receiver(
    private: &HpkePrivateKey,
    encapsulated: &Encapsulated,
    info: &SessionInfo,
) -> Result<SessionReceiver, SessionError> {
    let encapsulated = <HpkeKem as Kem>::EncappedKey::from_bytes(&encapsulated.0[..])
        .map_err(|_| SessionError::NotAuthentic)?;
    let key = KeySlot::try_new(|slot| {
        private.with_expanded(|private| {
            setup_receiver::<HpkeAead, HpkeKdf, HpkeKem>(
                &OpModeR::Base,
                private,
                &encapsulated,
                &info.0,
            )
            .and_then(|context| context.export(LABEL_SESSION_EXPORT, slot))
            .map_err(|_| SessionError::NotAuthentic)
        })
    })?;
    Ok(SessionReceiver { key })
}

/// Answers an offer.
///
/// # Errors
/// If the offer is not a public key.
pub fn establish(
    offer: &OfferPublic,
    info: &SessionInfo,
) -> Result<(Encapsulated, SessionSender), SessionError> {
    let public = offer.parsed().map_err(|_| SessionError::BadOffer)?;
    let mut encapsulated = Box::new([0; ENCAPSULATED_BYTES]);
    let key = KeySlot::try_new(|slot| {
        kdf::scrubbed_deep(|| {
            let (answer, context) =
                setup_sender::<HpkeAead, HpkeKdf, HpkeKem>(&OpModeS::Base, &public, &info.0)
                    .map_err(|_| SessionError::BadOffer)?;
            encapsulated.copy_from_slice(&answer.to_bytes());
            context
                .export(LABEL_SESSION_EXPORT, slot)
                .map_err(|_| SessionError::BadOffer)
        })
    })?;
    Ok((
        Encapsulated(encapsulated),
        SessionSender {
            key,
            next: AtomicU64::new(0),
        },
    ))
}

/// One key, sealed: format byte, counter, ciphertext, tag. Public bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedKey([u8; SEALED_KEY_BYTES]);

impl SealedKey {
    /// As it stands on the wire.
    pub fn as_bytes(&self) -> &[u8; SEALED_KEY_BYTES] {
        &self.0
    }
}

impl TryFrom<&[u8]> for SealedKey {
    type Error = SessionError;
    fn try_from(bytes: &[u8]) -> Result<Self, SessionError> {
        match <[u8; SEALED_KEY_BYTES]>::try_from(bytes) {
            Ok(bytes) if bytes[0] == FORMAT => Ok(Self(bytes)),
            _ => Err(SessionError::NotAuthentic),
        }
    }
}

/// What a key is and whose: goes into the associated data of its message.
enum Subject<'a> {
    Lease(LeaseId),
    OpenDek(&'a ObjectContext),
    SealDek(&'a ObjectContext),
    Metadata {
        region: &'a RegionId,
        dataset: DatasetId,
        version: u32,
    },
    HandedMetadata {
        region: &'a RegionId,
        dataset: DatasetId,
        version: u32,
    },
    Root(RootEpoch),
    AccessSecret {
        region: &'a RegionId,
        id: AccessKeyId,
    },
}

impl Subject<'_> {
    /// Label, kind, subject, then the caller's own bytes to the end.
    fn aad(&self, caller: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + caller.len());
        put_field(&mut out, LABEL_SESSION_ITEM);
        match self {
            Self::Lease(id) => {
                put_field(&mut out, b"lease");
                put_field(&mut out, id.as_bytes());
            }
            Self::OpenDek(context) => {
                put_field(&mut out, b"open-dek");
                put_field(&mut out, &context.dek_info());
            }
            Self::SealDek(context) => {
                put_field(&mut out, b"seal-dek");
                put_field(&mut out, &context.dek_info());
            }
            Self::Metadata {
                region,
                dataset,
                version,
            } => {
                put_field(&mut out, b"metadata");
                put_field(&mut out, region.as_str().as_bytes());
                put_field(&mut out, dataset.as_bytes());
                put_field(&mut out, &version.to_be_bytes());
            }
            Self::HandedMetadata {
                region,
                dataset,
                version,
            } => {
                put_field(&mut out, b"handed-metadata");
                put_field(&mut out, region.as_str().as_bytes());
                put_field(&mut out, dataset.as_bytes());
                put_field(&mut out, &version.to_be_bytes());
            }
            Self::Root(epoch) => {
                put_field(&mut out, b"root");
                put_field(&mut out, &epoch.0.to_be_bytes());
            }
            Self::AccessSecret { region, id } => {
                put_field(&mut out, b"access-secret");
                put_field(&mut out, region.as_str().as_bytes());
                put_field(&mut out, id.as_str().as_bytes());
            }
        }
        out.extend_from_slice(caller);
        out
    }
}

/// The side that has keys. Shared by reference: the counter is atomic.
pub struct SessionSender {
    key: KeySlot,
    next: AtomicU64,
}

impl SessionSender {
    /// Sends a lease key to seal with. It arrives as a [`SealingLease`], which cannot open.
    pub fn send_lease(&self, lease: &LeaseKey, aad: &[u8]) -> Result<SealedKey, SessionError> {
        self.send(&Subject::Lease(lease.id), &lease.key, aad)
    }

    /// Sends a DEK to open with, after its record.
    pub fn send_dek(&self, dek: &OpenDek, aad: &[u8]) -> Result<SealedKey, SessionError> {
        self.send(&Subject::OpenDek(&dek.context), &dek.key, aad)
    }

    /// Sends the DEK of an upload to go on sealing it (purpose `multipart`): it arrives as a
    /// [`SealDek`].
    pub fn send_upload_dek(&self, dek: &OpenDek, aad: &[u8]) -> Result<SealedKey, SessionError> {
        self.send(&Subject::SealDek(&dek.context), &dek.key, aad)
    }

    /// Sends a dataset's metadata key. It arrives as a [`MetadataLease`].
    pub fn send_metadata_key(
        &self,
        metadata: &MetadataKey,
        aad: &[u8],
    ) -> Result<SealedKey, SessionError> {
        let MetadataKey {
            region,
            dataset,
            version,
            key,
        } = metadata;
        self.send(
            &Subject::Metadata {
                region,
                dataset: *dataset,
                version: *version,
            },
            key,
            aad,
        )
    }

    /// Sends a dataset's metadata key to another region. It arrives as an [`OpenMetadata`], which cannot seal.
    pub(crate) fn hand_metadata_over(
        &self,
        metadata: &MetadataKey,
        aad: &[u8],
    ) -> Result<SealedKey, SessionError> {
        let MetadataKey {
            region,
            dataset,
            version,
            key,
        } = metadata;
        let subject = Subject::HandedMetadata {
            region,
            dataset: *dataset,
            version: *version,
        };
        self.send(&subject, key, aad)
    }

    /// Sends on, within the region that received it, a metadata key of another one.
    pub fn send_handed_metadata(
        &self,
        metadata: &OpenMetadata,
        aad: &[u8],
    ) -> Result<SealedKey, SessionError> {
        let MetadataLease {
            region,
            dataset,
            version,
            key,
        } = &metadata.0;
        let subject = Subject::HandedMetadata {
            region,
            dataset: *dataset,
            version: *version,
        };
        self.send(&subject, key, aad)
    }

    /// Sends the root key to a peer that was let in: unsealing within the region's KMS.
    pub fn send_root(&self, root: &RootKey, aad: &[u8]) -> Result<SealedKey, SessionError> {
        self.send(&Subject::Root(root.epoch), &root.key, aad)
    }

    /// Sends the secret of an access key, after its record.
    pub fn send_access_secret(
        &self,
        secret: &AccessSecret,
        aad: &[u8],
    ) -> Result<SealedKey, SessionError> {
        let AccessSecret { region, id, key } = secret;
        self.send(&Subject::AccessSecret { region, id: *id }, key, aad)
    }

    fn send(
        &self,
        subject: &Subject<'_>,
        key: &KeySlot,
        aad: &[u8],
    ) -> Result<SealedKey, SessionError> {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        if counter >= ITEMS_MAX {
            // Put back, so that no number of refused calls brings the counter round.
            self.next.store(ITEMS_MAX, Ordering::Relaxed);
            return Err(SessionError::Exhausted);
        }
        let mut message = [0; SEALED_KEY_BYTES];
        message[0] = FORMAT;
        message[1..=COUNTER_BYTES].copy_from_slice(&counter.to_be_bytes());
        let (sealed, tag) = message[1 + COUNTER_BYTES..].split_at_mut(KEY_BYTES);
        let aad = subject.aad(aad);
        cipher(&self.key)
            .seal_out_of_place_scatter(
                nonce(counter),
                Aad::from(&aad),
                key.bytes(),
                sealed,
                &[],
                tag,
            )
            .expect("lengths agree and a key is far under the limit of GCM");
        Ok(SealedKey(message))
    }
}

/// The side that receives keys.
pub struct SessionReceiver {
    key: KeySlot,
}

impl SessionReceiver {
    /// Receives the key of lease `id`.
    pub fn receive_lease(
        &self,
        sealed: &SealedKey,
        id: LeaseId,
        aad: &[u8],
    ) -> Result<SealingLease, SessionError> {
        Ok(SealingLease {
            id,
            key: self.receive(&Subject::Lease(id), sealed, aad)?,
        })
    }

    /// Receives the DEK of the object version `context` names.
    pub fn receive_dek(
        &self,
        sealed: &SealedKey,
        context: ObjectContext,
        aad: &[u8],
    ) -> Result<OpenDek, SessionError> {
        let key = self.receive(&Subject::OpenDek(&context), sealed, aad)?;
        Ok(OpenDek { context, key })
    }

    /// Receives the DEK of an upload to go on sealing it.
    pub fn receive_upload_dek(
        &self,
        sealed: &SealedKey,
        context: ObjectContext,
        aad: &[u8],
    ) -> Result<SealDek, SessionError> {
        let key = self.receive(&Subject::SealDek(&context), sealed, aad)?;
        Ok(SealDek { context, key })
    }

    /// Receives version `version` of a dataset's metadata key.
    pub fn receive_metadata_key(
        &self,
        sealed: &SealedKey,
        region: RegionId,
        dataset: DatasetId,
        version: u32,
        aad: &[u8],
    ) -> Result<MetadataLease, SessionError> {
        let subject = Subject::Metadata {
            region: &region,
            dataset,
            version,
        };
        let key = self.receive(&subject, sealed, aad)?;
        Ok(MetadataLease {
            region,
            dataset,
            version,
            key,
        })
    }

    /// Receives version `version` of the metadata key of a dataset that `region` has handed over.
    pub fn receive_handed_metadata(
        &self,
        sealed: &SealedKey,
        region: RegionId,
        dataset: DatasetId,
        version: u32,
        aad: &[u8],
    ) -> Result<OpenMetadata, SessionError> {
        let subject = Subject::HandedMetadata {
            region: &region,
            dataset,
            version,
        };
        let key = self.receive(&subject, sealed, aad)?;
        Ok(OpenMetadata(MetadataLease {
            region,
            dataset,
            version,
            key,
        }))
    }

    /// Receives the root key of an epoch. The caller compares its check value.
    pub fn receive_root(
        &self,
        sealed: &SealedKey,
        epoch: RootEpoch,
        aad: &[u8],
    ) -> Result<RootKey, SessionError> {
        Ok(RootKey {
            epoch,
            key: self.receive(&Subject::Root(epoch), sealed, aad)?,
        })
    }

    /// Receives the secret of access key `id`.
    pub fn receive_access_secret(
        &self,
        sealed: &SealedKey,
        region: RegionId,
        id: AccessKeyId,
        aad: &[u8],
    ) -> Result<AccessSecret, SessionError> {
        let subject = Subject::AccessSecret {
            region: &region,
            id,
        };
        let key = self.receive(&subject, sealed, aad)?;
        Ok(AccessSecret { region, id, key })
    }

    fn receive(
        &self,
        subject: &Subject<'_>,
        sealed: &SealedKey,
        aad: &[u8],
    ) -> Result<KeySlot, SessionError> {
        let mut counter = [0; COUNTER_BYTES];
        counter.copy_from_slice(&sealed.0[1..=COUNTER_BYTES]);
        let (ciphertext, tag) = sealed.0[1 + COUNTER_BYTES..].split_at(KEY_BYTES);
        let aad = subject.aad(aad);
        KeySlot::try_new(|slot| {
            cipher(&self.key)
                .open_separate_gather(
                    nonce(u64::from_be_bytes(counter)),
                    Aad::from(&aad),
                    ciphertext,
                    tag,
                    slot,
                )
                .map_err(|_| SessionError::NotAuthentic)
        })
    }
}

/// A cipher context for one message: the key rests in its slot, the context is cleansed when it is
/// freed.
fn cipher(key: &KeySlot) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key.bytes()).expect("a slot holds an AES-256 key");
    LessSafeKey::new(key)
}

/// Four zero bytes, then the counter.
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests;
