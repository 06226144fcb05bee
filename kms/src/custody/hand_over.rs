//! Keys that cross to another region: sealed to its hand-over key here, or received under this region's there.
//!
//! Owns both ends of a batch and the hand-over key while it is unwrapped, for one request each. A DEK, or a metadata key that
//! opens, goes from slot to slot; no lease key has a way across.

use bytes::Bytes;
use envelope::{
    DekSalt, Encapsulated, HandOverKey, HandOverReceiver, HandOverSender, HpkePublicKey,
    NameCommitment, ObjectContext, OpenMetadata, RootKey, SealedKey, SessionError, SessionInfo,
    Suite, Wrapped, hand_over,
};
use proto::ids::{DatasetId, HandOverKeyId, RegionId, RelocationId, RootEpoch, UnixMs};
use proto::store::Reader;
use proto::transcript;
use proto::v1;
use transport::LocalIdentity;

use super::{Custody, CustodyError, usable_ms};
use crate::hand_over::{Granted, HandOverAsked, HandedOverAsked};
use crate::ledger::{Leaf, Recorded};
use crate::sessions::Session;

/// A hand-over key with its wrapped private half, of one view of the state.
pub(crate) struct HeldHandOver {
    pub(crate) record: v1::HandOverKeyRecord,
    wrapped: Bytes,
}

impl HeldHandOver {
    /// One that is not destroyed.
    pub(crate) fn find(state: &dyn Reader, relocation: &RelocationId) -> Option<Self> {
        Some(Self {
            record: kms_state::hand_over_key(state, relocation)?,
            wrapped: kms_state::hand_over_private(state, relocation)?,
        })
    }
}

/// A hand-over key that was born: its public half, and its private half wrapped.
pub(crate) struct BornHandOver {
    pub(crate) public: Bytes,
    pub(crate) wrapped: Bytes,
}

impl Custody {
    /// A new hand-over key: born here, and gone from here when this returns.
    pub(crate) fn born_hand_over(
        &self,
        id: HandOverKeyId,
        root_epoch: RootEpoch,
    ) -> Result<BornHandOver, CustodyError> {
        let root = self.seal.root_of(root_epoch)?;
        let key = HandOverKey::generate(self.region.clone(), id).map_err(CustodyError::Key)?;
        let wrapped = root.wrap_hand_over(&key).map_err(CustodyError::Key)?;
        Ok(BornHandOver {
            public: Bytes::copy_from_slice(key.public().as_bytes()),
            wrapped: wrapped.to_bytes().into(),
        })
    }

    /// A hand-over key's private half wrapped under another root key. It is unwrapped for that moment only.
    pub(crate) fn rewrapped_hand_over(
        &self,
        held: &HeldHandOver,
        next: &RootKey,
    ) -> Result<Vec<u8>, CustodyError> {
        let key = self.hand_over_key(held)?;
        let wrapped = next.wrap_hand_over(&key);
        Ok(wrapped.map_err(CustodyError::Key)?.to_bytes())
    }

    fn hand_over_key(&self, held: &HeldHandOver) -> Result<HandOverKey, CustodyError> {
        let root = self.seal.root_of(RootEpoch(held.record.root_epoch))?;
        let wrapped = Wrapped::from_bytes(&held.wrapped).map_err(CustodyError::Wrapped)?;
        let key = root.unwrap_hand_over(&wrapped)?;
        let own = key.id().0[..] == held.record.hand_over_key_id[..];
        match own && *key.region() == self.region {
            true => Ok(key),
            false => Err(CustodyError::NotAuthentic),
        }
    }

    /// Hands the DEKs asked for over, in order, sealed to the key that the grant names. An item whose token does not unwrap
    /// comes out empty: its record stands, and the others are served.
    pub(crate) fn hand_over(
        &self,
        recorded: Recorded<HandOverAsked, Granted>,
        signer: &LocalIdentity,
    ) -> Result<v1::HandOverBatch, CustodyError> {
        let (asked, granted, Leaf { index: leaf, .. }) = recorded.into_parts();
        let to = HpkePublicKey::try_from(&granted.terms.hand_over_key[..]);
        let to = to.map_err(|_| CustodyError::NotAuthentic)?;
        let (source, destination) = (self.region.as_str(), granted.terms.destination.as_str());
        let parts = transcript::hand_over_info(source, destination, &asked.request, &asked.asked);
        let info = SessionInfo::of(&parts);
        let (encapsulated, sender) = hand_over(&to, &info).map_err(CustodyError::Session)?;
        let aad = transcript::hand_over_aad(&asked.asked);
        let mut keys = Vec::with_capacity(asked.items.len());
        for item in &asked.items {
            let lease = self.lease(&granted.key, item.lease, item.kek_version, &item.wrapped);
            let sealed = lease.and_then(|lease| {
                let context = self.context(asked.dataset(), item);
                let dek = lease.open_dek(&DekSalt(item.dek_salt), &context);
                let sealed = sender.send(&dek.map_err(CustodyError::Key)?, &aad);
                Ok(sealed.map_err(CustodyError::Session)?.as_bytes().to_vec())
            });
            keys.push(opened(sealed, leaf.0)?);
        }
        let metadata_keys = match asked.request.metadata {
            true => self.hand_metadata_over(&asked, &granted.key, (&sender, &aad))?,
            false => Vec::new(),
        };
        let mut batch = v1::HandOverBatch {
            encapsulated: Bytes::copy_from_slice(encapsulated.as_bytes()),
            keys,
            metadata_keys,
            leaf_index: leaf.0,
            signer: signer.public_key().as_spki().to_vec().into(),
            signature: Bytes::new(),
        };
        let signed = transcript::hand_over_batch(source, destination, &asked.asked, &batch);
        let signature = signer.sign(transcript::LABEL_HAND_OVER, &signed);
        batch.signature = signature.to_vec().into();
        Ok(batch)
    }

    /// Every living version of the dataset's metadata key: all or none, as a metadata lease has them.
    fn hand_metadata_over(
        &self,
        asked: &HandOverAsked,
        key: &v1::KekRecord,
        (sender, aad): (&HandOverSender, &[u8]),
    ) -> Result<Vec<v1::SealedMetadataKey>, CustodyError> {
        let living = key
            .versions
            .iter()
            .filter(|version| !version.wrapped_metadata_key.is_empty());
        let sealed = living.map(|version| {
            let metadata = self.metadata_key(key, version, asked.dataset())?;
            let sealed = sender.send_metadata(&metadata, aad);
            Ok(v1::SealedMetadataKey {
                version: version.version,
                sealed: Bytes::copy_from_slice(sealed.map_err(CustodyError::Session)?.as_bytes()),
            })
        });
        sealed.collect()
    }

    /// Gives a gateway what another region handed over. An item that did not come, or does not open, comes out empty.
    pub(crate) fn release_handed_over(
        &self,
        recorded: Recorded<HandedOverAsked>,
        session: &Session,
        now: UnixMs,
    ) -> Result<v1::OpenReply, CustodyError> {
        let (
            asked,
            _,
            Leaf {
                index: leaf,
                recorded_at,
            },
        ) = recorded.into_parts();
        let key = self.hand_over_key(&asked.held)?;
        let encapsulated = Encapsulated::try_from(&asked.batch.encapsulated[..]);
        let encapsulated = encapsulated.map_err(CustodyError::Session)?;
        let (source, own) = (asked.source.as_str(), self.region.as_str());
        let parts = transcript::hand_over_info(source, own, &asked.request, &asked.asked);
        let receiver = key.open(&encapsulated, &SessionInfo::of(&parts));
        let receiver = receiver.map_err(CustodyError::Session)?;
        let (theirs, ours) = (transcript::hand_over_aad(&asked.asked), session.aad());
        let dataset = crate::ledger::DatasetUse::dataset(&asked);
        let mut keys = Vec::with_capacity(asked.items.len());
        for (item, sent) in asked.items.iter().zip(&asked.batch.keys) {
            let context = ObjectContext {
                suite: Suite::Cobblestone256,
                region: asked.source.clone(),
                dataset,
                version: item.version,
                name: NameCommitment(item.name_commitment),
            };
            let sealed = SealedKey::try_from(&sent.sealed_dek[..])
                .and_then(|sealed| receiver.receive(&sealed, context, &theirs))
                .and_then(|dek| session.sender.send_dek(&dek, &ours))
                .map(|sealed| sealed.as_bytes().to_vec())
                .map_err(CustodyError::Session);
            keys.push(opened(sealed, leaf.0)?);
        }
        let of = (&asked.source, dataset);
        let sent = asked.batch.metadata_keys.iter();
        let metadata_keys = sent.map(|sent| {
            let sealed = received_metadata(&receiver, sent, of, &theirs)
                .and_then(|key| session.sender.send_handed_metadata(&key, &ours))
                .map_err(CustodyError::Session)?;
            Ok::<_, CustodyError>(v1::SealedMetadataKey {
                version: sent.version,
                sealed: Bytes::copy_from_slice(sealed.as_bytes()),
            })
        });
        Ok(v1::OpenReply {
            metadata_keys: metadata_keys.collect::<Result<_, _>>()?,
            request_id: asked.request_id().to_vec().into(),
            keys,
            leaf_index: leaf.0,
            usable_ms: usable_ms(recorded_at, now),
            error: None,
        })
    }
}

fn received_metadata(
    receiver: &HandOverReceiver,
    sent: &v1::SealedMetadataKey,
    (source, dataset): (&RegionId, DatasetId),
    aad: &[u8],
) -> Result<OpenMetadata, SessionError> {
    let sealed = SealedKey::try_from(&sent.sealed[..])?;
    receiver.receive_metadata(&sealed, (source.clone(), dataset, sent.version), aad)
}

/// A key as it goes out: empty where it did not come out, unless that is because this replica is sealed.
fn opened(sealed: Result<Vec<u8>, CustodyError>, leaf: u64) -> Result<v1::OpenedKey, CustodyError> {
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(CustodyError::Sealed(sealed)) => return Err(sealed.into()),
        Err(error) => {
            metrics::counter!("reduit_kms_items_not_opened_total").increment(1);
            tracing::debug!(%error, leaf, "an item did not open");
            Vec::new()
        }
    };
    Ok(v1::OpenedKey {
        sealed_dek: sealed.into(),
    })
}
