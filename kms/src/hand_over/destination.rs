//! Opening what another region handed over: for a gateway that moves the data, on record, while the hand-over key lives.
//!
//! Owns the check that a batch is the source's answer to the very request it came with. Refuses a batch that no KMS replica
//! of that region has signed, and one that answers another number of keys than was asked for.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{DatasetId, Identity, RegionId, Role};
use proto::relocation::Named;
use proto::transcript;
use proto::v1;
use transport::Peer;

use super::{HandOverError, asked_items, signed_by_region};
use crate::approvals::sha256;
use crate::core::{Core, StaleError};
use crate::custody::HeldHandOver;
use crate::ledger::DatasetUse;
use crate::opens::{OpenItem, request_id};

/// A parsed request to open a batch, whose signature holds.
pub(crate) struct HandedOverAsked {
    actor: Identity,
    named: Named,
    request_id: [u8; 16],
    claim: v1::Claim,
    pub(crate) source: RegionId,
    pub(crate) request: v1::HandOverRequest,
    /// SHA-256 of what was asked of the source: names the batch.
    pub(crate) asked: [u8; 32],
    pub(crate) batch: v1::HandOverBatch,
    pub(crate) items: Vec<OpenItem>,
    /// The hand-over key as it stood when its batch was checked; the record is refused where it is gone.
    pub(crate) held: HeldHandOver,
}

impl HandedOverAsked {
    pub(crate) fn request_id(&self) -> [u8; 16] {
        self.request_id
    }
}

impl DatasetUse for HandedOverAsked {
    fn actor(&self) -> &Identity {
        &self.actor
    }

    fn dataset(&self) -> DatasetId {
        self.named.dataset
    }

    fn action(&self) -> v1::Action {
        v1::Action::Read
    }

    fn claim(&self) -> &v1::Claim {
        &self.claim
    }

    fn request_id(&self) -> [u8; 16] {
        self.request_id
    }

    fn kind(&self, _key: &v1::KekRecord) -> v1::record::Kind {
        let items = self.items.iter().map(|item| item.stated.clone());
        v1::record::Kind::HandedOver(v1::HandedOver {
            relocation_id: self.named.relocation.into(),
            hand_over_key_id: self.request.hand_over_key_id.clone(),
            items: items.collect(),
            source_leaf: self.batch.leaf_index,
            batch_sha256: Bytes::copy_from_slice(&self.asked),
            metadata_versions: self
                .batch
                .metadata_keys
                .iter()
                .map(|key| key.version)
                .collect(),
        })
    }
}

impl Core {
    /// Opens what the source's KMS sealed, and gives it to a gateway of this region.
    pub(crate) async fn open_handed_over(
        self: &Arc<Self>,
        peer: &Peer,
        asked: v1::OpenHandedOverRequest,
    ) -> Result<v1::OpenReply, HandOverError> {
        if peer.identity.role() != Role::Gateway {
            return Err(HandOverError::NotAGateway(peer.identity.clone()));
        }
        self.serving()?;
        self.at_level(kms_state::LEVEL_RELOCATION)?;
        let session = self
            .sessions
            .of(&asked.session_id, &peer.public_key, self.now())?;
        let malformed = |field| HandOverError::Malformed { field };
        let request = asked.request.ok_or(malformed("request"))?;
        let batch = asked.batch.ok_or(malformed("batch"))?;
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let answers = batch.keys.len() == request.items.len()
            && batch.metadata_keys.is_empty() != request.metadata;
        if !answers {
            return Err(malformed(
                "batch: it answers other keys than were asked for",
            ));
        }
        let digest = sha256(&transcript::hand_over_asked(&request));
        let (held, source) = {
            let state = self.reader().map_err(StaleError::State)?;
            let held = HeldHandOver::find(&*state, &named.relocation);
            let held =
                held.ok_or_else(
                    || match kms_state::hand_over_key(&*state, &named.relocation) {
                        Some(_) => HandOverError::Ended(named.relocation),
                        None => HandOverError::NoSuch(named.relocation),
                    },
                )?;
            let source = super::region_id(&held.record.source, "source")?;
            let (own, by) = (
                self.config.region.as_str(),
                (&batch.signer[..], &batch.signature[..]),
            );
            let signed = transcript::hand_over_batch(source.as_str(), own, &digest, &batch);
            let label = transcript::LABEL_HAND_OVER;
            signed_by_region(&*state, &source, by, label, &signed)?;
            (held, source)
        };
        let open = HandedOverAsked {
            actor: peer.identity.clone(),
            named,
            request_id: request_id(&asked.request_id).ok_or(malformed("request id"))?,
            claim: v1::Claim {
                purpose: kms_state::RELOCATION.to_owned(),
                ..asked.claim.unwrap_or_default()
            },
            items: asked_items(&request, named.dataset, source.as_str())?,
            asked: digest,
            source,
            request,
            batch,
            held,
        };
        let recorded = self.ledger.commit(open, self.deadline()).await?;
        Ok(self
            .custody
            .release_handed_over(recorded, &session, self.now())?)
    }
}
