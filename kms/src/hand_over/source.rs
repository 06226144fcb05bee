//! Handing keys over: to whom a grant names, sealed to one key, each on record before it leaves.
//!
//! Owns the request as it comes from another region, and what its region may ask besides: a pause and the end. Refuses
//! everybody but KMS replicas and gateways of the grant's destination; the state has the last word on fences.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{DatasetId, Identity, RelocationId, Role};
use proto::relocation::Named;
use proto::store::Reader;
use proto::transcript;
use proto::v1;
use transport::Peer;

use super::{HandOverError, asked_items, closing, set};
use crate::approvals::sha256;
use crate::core::{Core, StaleError};
use crate::ledger::{Release, stated};
use crate::opens::{OpenItem, request_id};
use crate::policy::{Denied, Permit, Policy};

/// What a hand-over is decided on, of one view of the state.
pub(crate) struct Granted {
    pub(crate) key: v1::KekRecord,
    pub(crate) terms: v1::HandOverTerms,
}

impl Granted {
    pub(crate) fn find(
        state: &dyn Reader,
        relocation: &RelocationId,
        dataset: &DatasetId,
    ) -> Option<Self> {
        let grant = kms_state::hand_over_grant(state, relocation)
            .filter(|grant| grant.dataset_id[..] == dataset.0[..])?;
        Some(Self {
            key: kms_state::key(state, dataset)?,
            terms: grant.terms?,
        })
    }
}

/// A parsed request for keys.
pub(crate) struct HandOverAsked {
    actor: Identity,
    named: Named,
    request_id: [u8; 16],
    claim: v1::Claim,
    pub(crate) request: v1::HandOverRequest,
    /// SHA-256 of what was asked: names the batch.
    pub(crate) asked: [u8; 32],
    pub(crate) items: Vec<OpenItem>,
}

impl HandOverAsked {
    pub(crate) fn dataset(&self) -> DatasetId {
        self.named.dataset
    }
}

impl Release for HandOverAsked {
    type Key = Granted;

    fn actor(&self) -> &Identity {
        &self.actor
    }

    fn claim(&self) -> &v1::Claim {
        &self.claim
    }

    fn permit(&self, policy: &Policy, state: &dyn Reader) -> Result<Permit<Granted>, Denied> {
        policy.permit_hand_over(state, &self.actor, &self.named)
    }

    fn record(&self, granted: &Granted) -> v1::Record {
        let items = self.items.iter().map(|item| item.stated.clone());
        v1::Record {
            request_id: Bytes::copy_from_slice(&self.request_id),
            dataset_id: self.named.dataset.into(),
            state_version: granted.key.state_version,
            claim: Some(stated(self)),
            kind: Some(v1::record::Kind::HandOver(v1::HandOver {
                relocation_id: self.named.relocation.into(),
                hand_over_key_id: self.request.hand_over_key_id.clone(),
                items: items.collect(),
                metadata_versions: match self.request.metadata {
                    true => kms_state::living_metadata(&granted.key),
                    false => Vec::new(),
                },
            })),
        }
    }
}

impl Core {
    /// Hands keys over, on the leader: the grant, the record, the release.
    pub(crate) async fn hand_over(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::HandOverRequest,
    ) -> Result<v1::HandOverBatch, HandOverError> {
        self.serving()?;
        self.at_level(kms_state::LEVEL_RELOCATION)?;
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let region = self.config.region.as_str();
        let asked = HandOverAsked {
            actor: peer.identity.clone(),
            named,
            request_id: request_id(&request.request_id).ok_or(HandOverError::Malformed {
                field: "request id",
            })?,
            claim: v1::Claim {
                purpose: kms_state::RELOCATION.to_owned(),
                ..v1::Claim::default()
            },
            asked: sha256(&transcript::hand_over_asked(&request)),
            items: asked_items(&request, named.dataset, region)?,
            request,
        };
        let objects = asked.items.len() as u64;
        let recorded = self.ledger.commit(asked, self.deadline()).await?;
        let batch = self.custody.hand_over(recorded, &self.local)?;
        metrics::counter!("reduit_kms_keys_handed_over_total").increment(objects);
        Ok(batch)
    }

    /// Hands nothing more over while a fence stands, on the word of who is to receive it: what stops costs nothing.
    pub(crate) async fn pause_hand_over(
        &self,
        peer: &Peer,
        request: &v1::PauseHandOverRequest,
    ) -> Result<v1::KmsDone, HandOverError> {
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        self.of_destination(peer, named)?;
        let pause = v1::set_hand_over::Step::Pause(request.fence);
        self.relocate(self.identity(), set(named, pause)).await
    }

    /// Hands nothing more over ever again, asked by the destination.
    pub(crate) async fn end_hand_over(
        &self,
        peer: &Peer,
        request: &v1::StateHandOverRequest,
    ) -> Result<v1::KmsDone, HandOverError> {
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        self.of_destination(peer, named)?;
        self.relocate(self.identity(), closing(named)).await
    }

    /// Refuses who is not of the region that the relocation leads to, and says no more than that there is none.
    fn of_destination(&self, peer: &Peer, named: Named) -> Result<(), HandOverError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_RELOCATION)?;
        let state = self.reader().map_err(StaleError::State)?;
        let granted = Granted::find(&*state, &named.relocation, &named.dataset);
        let identity = &peer.identity;
        let theirs =
            granted.is_some_and(|granted| granted.terms.destination == identity.region().as_str());
        match theirs && matches!(identity.role(), Role::Kms | Role::Gateway) {
            true => Ok(()),
            false => Err(HandOverError::NoSuch(named.relocation)),
        }
    }
}
