//! The destination's half: the beginning, the pace, and where a relocation is.
//!
//! Owns the requests that operators of the destination make. Refuses nothing by itself but what is of another region or
//! relocation; what is in the way of a beginning it says.

use std::time::Duration;

use bytes::Bytes;
use proto::ids::{DatasetId, DatasetName, GroupId, RelocationId};
use proto::relocation::Named;
use proto::v1;
use proto::v1::ArrivalPhase as Phase;
use proto::v1::arrival_step_request::Step;
use proto::v1::kms_client::KmsClient;
use proto::v1::relocations_client::RelocationsClient;

use super::plan::{ARRIVE_LEVEL, Around, trusted};
use super::words::{Offer, known_key};
use super::{Blocker, RelocationPlan, claim_of, done, malformed, relocated};
use crate::error::Error;
use crate::kms::now;
use crate::peering::region_fingerprint;
use crate::region::{Region, random_id};

/// Bytes of an answer: the newest states of all arrivals.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A relocation that was begun here.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// The dataset's shard here.
    pub shard: GroupId,
    /// For the source's people.
    pub offer: Offer,
}

pub(super) fn named_of(status: &v1::ArrivalStatus) -> Result<Named, Error> {
    let none = Error::Protocol {
        what: "an arrival without a dataset",
    };
    let arrival = status.arrival.as_ref().ok_or(none)?;
    let dataset = status.dataset.as_ref();
    let dataset = dataset.map(|dataset| dataset.dataset_id.clone());
    Ok(Named::parse(
        &dataset.unwrap_or_default(),
        &arrival.relocation_id,
    )?)
}

pub(super) fn phase_of(status: &v1::ArrivalStatus) -> Phase {
    let arrival = status.arrival.as_ref();
    arrival.map_or(Phase::Plan, v1::ArrivalRecord::phase)
}

/// Looks for a relocation that was begun a moment ago, beyond the first, and the time between two.
const LOOKS_MAX: u32 = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Tries of a change of a pace that others change at the same time.
const PACE_TRIES_MAX: u32 = 8;

fn is_of(status: &v1::ArrivalStatus, relocation: &RelocationId) -> bool {
    let arrival = status.arrival.as_ref();
    arrival.is_some_and(|arrival| arrival.relocation_id[..] == relocation.as_bytes()[..])
}

impl Region {
    /// All that is in the way of a relocation to this region, as far as this region can know. Changes nothing.
    pub async fn arrival_blockers(
        &self,
        plan: &RelocationPlan,
        name: &DatasetName,
    ) -> Result<Vec<Blocker>, Error> {
        self.is_region(&plan.destination, "the destination")?;
        let (regions, levels, datasets) =
            tokio::join!(self.regions(), self.levels(), self.datasets());
        let (regions, datasets) = (regions?, datasets?);
        let around = Around {
            regions: &regions,
            kms_level: levels.kms,
            shard_level: levels.shards,
            now: now(),
        };
        let mut found = around.blockers(&plan.source, false, ARRIVE_LEVEL);
        let taken = |(known, id): &(DatasetName, DatasetId)| known == name && *id != plan.dataset;
        if datasets.iter().any(taken) {
            found.push(Blocker::NameTaken(name.clone()));
        }
        // Every node of a region has every block of a dataset. Begun before, some of it may be here.
        let begun = self
            .arrivals()
            .await?
            .iter()
            .any(|one| is_of(one, &plan.relocation));
        let needed = if begun { 0 } else { plan.sealed_bytes };
        let full = levels
            .nodes
            .iter()
            .filter(|node| node.full || node.disk_free_bytes < needed);
        found.extend(full.map(|node| Blocker::Disk {
            node: node.identity.clone(),
            free: node.disk_free_bytes,
            needed,
        }));
        Ok(found)
    }

    /// A request for the key that a relocation's keys are received under.
    pub async fn hand_over_key_request(
        &self,
        plan: &RelocationPlan,
    ) -> Result<v1::CreateHandOverKeyRequest, Error> {
        self.is_region(&plan.destination, "the destination")?;
        let regions = self.regions().await?;
        let there = trusted(&regions, &plan.source).ok_or_else(|| Error::Caller {
            reason: "region-not-trusted".to_owned(),
            message: format!("region {} is not trusted here", plan.source),
        })?;
        // The key of an earlier try is the relocation's, by the descriptor of that time: it has one.
        let known = known_key(&self.hand_over_words(&plan.named()).await);
        let fingerprint = region_fingerprint(&there.signed().descriptor);
        let (descriptor_version, descriptor_fingerprint, single_use_id) = match known {
            Some(key) => (
                key.descriptor_version,
                key.descriptor_fingerprint,
                key.hand_over_key_id,
            ),
            None => (
                there.version(),
                Bytes::copy_from_slice(&fingerprint),
                random_id()?,
            ),
        };
        Ok(v1::CreateHandOverKeyRequest {
            relocation_id: plan.relocation.into(),
            dataset_id: plan.dataset.into(),
            source: plan.source.to_string(),
            descriptor_version,
            descriptor_fingerprint,
            single_use_id,
            claim: Some(claim_of(self)),
            approvals: Vec::new(),
        })
    }

    /// The dataset's own key here, which is made where there is none.
    async fn key_to_arrive_under(&self, dataset: DatasetId) -> Result<v1::KekRecord, Error> {
        let info = match self.keys().create_key(dataset).await {
            Ok(made) => made,
            // It is refused where there is one, which is then read.
            Err(refused) => match self.keys().key_info(dataset).await {
                Ok(known) => known,
                Err(_) => return Err(refused),
            },
        };
        let key = info.key.ok_or(Error::Protocol {
            what: "no key in the answer",
        })?;
        match key.state() {
            v1::KeyState::Enabled => Ok(key),
            _ => Err(Error::Caller {
                reason: "wrong-key-state".to_owned(),
                message: format!(
                    "dataset {dataset} has a key here that is not enabled: where it was destroyed, the dataset cannot come back \
                     under its id"
                ),
            }),
        }
    }

    /// Makes the dataset's key and the hand-over key, and gives the dataset a shard and its name, closed. Done again it goes on
    /// where it was.
    pub async fn begin_relocation(
        &self,
        plan: &RelocationPlan,
        name: &DatasetName,
        approved: (v1::CreateHandOverKeyRequest, Vec<v1::Approval>),
    ) -> Result<Begun, Error> {
        self.is_region(&plan.destination, "the destination")?;
        let named = plan.named();
        let (request, approvals) = approved;
        if Named::parse(&request.dataset_id, &request.relocation_id)? != named {
            return Err(malformed("what was approved is of another relocation"));
        }
        let request = v1::CreateHandOverKeyRequest {
            approvals,
            ..request
        };
        let key = self.key_to_arrive_under(plan.dataset).await?;
        let make = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move { Ok(kms.create_hand_over_key(request).await?.into_inner()) }
        };
        let pool = self.keys().pool();
        let made = pool.on_leader(GroupId::KMS, &self.0.tuning, make).await?;
        let offer = Offer::new(made)?;
        let begin = v1::BeginRelocationRequest {
            name: name.to_string(),
            kek_id: key.kek_id,
            kek_version: key.current_version,
            key_state_version: key.state_version,
            pseudonym: key.pseudonym,
            epoch: plan.epoch,
            from_version: plan.from_version,
            key: Some(request.clone()),
            keys: Vec::new(),
        };
        let begun = self
            .once_applied(|| async {
                let begin = v1::BeginRelocationRequest {
                    keys: self.hand_over_words(&named).await,
                    ..begin.clone()
                };
                let call = |_, channel| {
                    let (mut client, begin) = (RelocationsClient::new(channel), begin.clone());
                    async move { Ok(client.begin(begin).await?.into_inner()) }
                };
                let nodes = &self.0.nodes;
                nodes
                    .on_leader(GroupId::CATALOG, &self.0.tuning, call)
                    .await
            })
            .await?;
        Ok(Begun {
            shard: GroupId(begun.shard),
            offer,
        })
    }

    /// Relocations to this region, as a node has them: those that have ended among them.
    pub async fn arrivals(&self) -> Result<Vec<v1::ArrivalStatus>, Error> {
        let call = |_, channel| {
            let client = RelocationsClient::new(channel);
            let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
            async move {
                let listed = client.list(v1::ListArrivalsRequest {}).await?;
                Ok(listed.into_inner())
            }
        };
        let nodes = &self.0.nodes;
        let listed = nodes.on_leader(GroupId::CATALOG, &self.0.tuning, call);
        Ok(listed.await?.arrivals)
    }

    /// One relocation to this region, as its shard's leader has it now.
    pub async fn arrival(&self, relocation: &RelocationId) -> Result<v1::ArrivalStatus, Error> {
        let mut looks = 0;
        // A node that has not applied what was begun a moment ago.
        let found = loop {
            let listed = self.arrivals().await?;
            match listed.into_iter().find(|one| is_of(one, relocation)) {
                Some(found) => break found,
                None if looks < LOOKS_MAX => looks += 1,
                None => {
                    return Err(Error::Caller {
                        reason: "no-such-relocation".to_owned(),
                        message: format!(
                            "no relocation {relocation} comes to region {}",
                            self.id()
                        ),
                    });
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let named = named_of(&found)?;
        self.arrival_again(&named, GroupId(found.shard)).await
    }

    /// The same of one that was found before.
    pub async fn arrival_again(
        &self,
        named: &Named,
        shard: GroupId,
    ) -> Result<v1::ArrivalStatus, Error> {
        let request = relocated(named, shard);
        let call = |_, channel| {
            let (mut client, request) = (RelocationsClient::new(channel), request.clone());
            async move { Ok(client.status(request).await?.into_inner()) }
        };
        self.0.nodes.on_leader(shard, &self.0.tuning, call).await
    }

    pub(super) async fn step_arrival(
        &self,
        request: v1::ArrivalStepRequest,
    ) -> Result<v1::Done, Error> {
        let shard = request.of.as_ref().map_or(0, |of| of.shard);
        let call = |_, channel| {
            let (mut client, request) = (RelocationsClient::new(channel), request.clone());
            async move { Ok(client.step(request).await?.into_inner()) }
        };
        let nodes = &self.0.nodes;
        let answer = nodes.on_leader(GroupId(shard), &self.0.tuning, call);
        done(answer.await?)
    }

    /// Changes how a relocation is moved, and gives how that is from now on, with the version that it was decided on. Done
    /// again on what somebody else made of it meanwhile.
    pub async fn pace_relocation(
        &self,
        relocation: &RelocationId,
        change: impl Fn(&mut v1::ArrivalPace),
    ) -> Result<v1::ArrivalPace, Error> {
        let mut status = self.arrival(relocation).await?;
        let (named, shard) = (named_of(&status)?, GroupId(status.shard));
        let mut tries = 1;
        loop {
            let held = status.arrival.as_ref().and_then(|arrival| arrival.pace);
            let held = held.unwrap_or_default();
            let mut pace = held;
            change(&mut pace);
            pace.version = held.version;
            let stepped = self.step_arrival(v1::ArrivalStepRequest {
                of: Some(relocated(&named, shard)),
                step: Some(Step::Pace(pace)),
                ..Default::default()
            });
            match stepped.await {
                Ok(_) => return Ok(pace),
                Err(error) if error.reason() == "pace-moved" && tries < PACE_TRIES_MAX => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
            status = self.arrival_again(&named, shard).await?;
            let stands = status.arrival.as_ref().and_then(|arrival| arrival.pace);
            let version = pace.version + 1;
            if stands == Some(v1::ArrivalPace { version, ..pace }) {
                // It was done, by a call whose answer was lost.
                return Ok(pace);
            }
        }
    }
}
