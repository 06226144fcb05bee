//! The beginning of an arrival: a shard and a name for the dataset, and its place in the shard, closed.
//!
//! Owns the order across catalog and shard, as for a dataset that is created: each step is done again when it was done
//! before. Refuses to begin without the hand-over key that two operators approved and a majority of the KMS's replicas have.

use bytes::Bytes;
use node_state::read;
use node_state::shard::RELOCATION_LEVEL;
use proto::ids::{DatasetName, KekId, RegionId};
use proto::relocation::{Named, words};
use proto::v1;
use proto::v1::Action;
use proto::v1::arrive::Step;
use proto::v1::catalog_command::Command as InCatalog;
use transport::Peer;
use transport::panel::{Panel, WordError};

use super::Who;
use super::arrive::arrives;
use super::depart::{by, not_granted};
use crate::approvals::{Asked, approvers, request_hash};
use crate::catalog::ShardCall;
use crate::core::{Core, Room};
use crate::error::CallError;
use crate::shard::at_level;

impl Core {
    /// Plans and prepares an arrival. What two operators approved for who asks is the KMS's hand-over key.
    pub(super) async fn begin_relocation(
        &self,
        peer: &Peer,
        request: v1::BeginRelocationRequest,
    ) -> Result<v1::RelocationBegun, CallError> {
        let Who::Operator = self.who(peer)? else {
            return Err(not_granted(peer));
        };
        self.disk.check()?;
        let name: DatasetName = request.name.parse()?;
        KekId::try_from(request.kek_id.as_ref())?;
        let none = CallError::Malformed("it names no hand-over key");
        let mut key = request.key.ok_or(none)?;
        let given = std::mem::take(&mut key.approvals);
        let named = Named::parse(&key.dataset_id, &key.relocation_id)?;
        let source: RegionId = key.source.parse()?;
        let approvals = {
            let table = self.enrolments.current();
            self.check(&table, peer, Some(&named.dataset), &[Action::Create])?;
            if table.trusted(&source).is_none() {
                return Err(WordError::NotTrusted(source).into());
            }
            let asked = Asked {
                requester: &peer.identity,
                request_hash: request_hash("CreateHandOverKey", &key),
                single_use_id: &key.single_use_id,
                now: self.clock.now(),
            };
            let approvers = approvers(&table, &asked, &given)?;
            // The approved request's single-use id is the key's.
            let made = |said: &v1::HandOverState| {
                words::receives(said).filter(|id| *id == key.single_use_id)
            };
            Panel::own_kms(&table).hear(&named, &request.keys, made)?;
            by(&peer.identity, approvers)
        };
        let shard = self
            .place_dataset(peer, &name, &named.dataset, &[Action::Create])
            .await?;
        let admit = v1::AdmitArrivalRequest {
            shard: shard.0,
            relocation_id: named.relocation.into(),
            terms: Some(v1::ArrivalTerms {
                source: source.to_string(),
                destination: self.local.identity().region().to_string(),
                epoch: request.epoch,
                from_version: request.from_version,
            }),
            dataset: Some(v1::DatasetRecord {
                format: 1,
                dataset_id: named.dataset.into(),
                name: request.name.clone(),
                epoch: request.epoch,
                status: v1::DatasetStatus::Active.into(),
                kek_id: request.kek_id,
                min_kek_version: request.kek_version,
                key_state: v1::KeyState::Enabled.into(),
                key_state_version: request.key_state_version,
                pseudonym: request.pseudonym,
                ..Default::default()
            }),
            hand_over_key_id: key.single_use_id.clone(),
            approvals: Some(approvals),
        };
        self.at_shard_leader(shard, ShardCall::Arrival(Box::new(admit)))
            .await?;
        let publish = v1::PublishDataset {
            name: request.name,
            dataset_id: named.dataset.into(),
            shard: shard.0,
            created_at_ms: 0,
        };
        self.decide_catalog(|table, _| {
            self.check(table, peer, Some(&named.dataset), &[Action::Create])?;
            Ok(InCatalog::PublishDataset(publish.clone()))
        })
        .await?;
        Ok(v1::RelocationBegun { shard: shard.0 })
    }

    /// From the catalog's leader, which has checked grant, approvals and words.
    pub(crate) async fn admit_arrival(
        &self,
        request: v1::AdmitArrivalRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        at_level(&shard.group, RELOCATION_LEVEL)?;
        let none = CallError::Malformed("it has no dataset");
        let dataset = request.dataset.ok_or(none)?;
        let named = Named::parse(&dataset.dataset_id, &request.relocation_id)?;
        let none = CallError::Malformed("it has no terms");
        let terms = request.terms.ok_or(none)?;
        let plan = arrives(&named, Step::Plan(terms.clone()), None, None);
        let prepare = Step::Prepare(v1::PrepareArrival {
            dataset: Some(dataset),
            hand_over_key_id: request.hand_over_key_id,
        });
        let prepare = arrives(&named, prepare, None, request.approvals);
        self.leading(&shard.group)?;
        let group = &shard.group;
        let held = {
            let (view, _) = self.read(group).await?;
            read::arrival(&*view.state, &named.dataset)
        };
        if held.is_some_and(|held| is_prepared(&held, &named, &terms)) {
            return Ok(v1::Done::default());
        }
        let mut done = v1::Done::default();
        for decision in [plan, prepare] {
            done = self
                .decide_shard(group, Room::Needed, Bytes::new(), |_, _| {
                    Ok(decision.clone())
                })
                .await?;
        }
        Ok(done)
    }
}

/// Whether what is asked for was done before: a plan alone is gone through again, and an arrival that has ended does not
/// begin anew.
fn is_prepared(held: &v1::ArrivalRecord, named: &Named, terms: &v1::ArrivalTerms) -> bool {
    use v1::ArrivalPhase::{Aborted, Aborting, Certified, Plan};
    held.relocation_id == named.relocation.as_bytes()[..]
        && held.terms.as_ref() == Some(terms)
        && !matches!(held.phase(), Plan | Aborting | Aborted | Certified)
}
