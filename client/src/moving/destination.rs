//! The destination's half: the beginning, the pace, an abort, and the end of the hand-over key.
//!
//! Owns the requests that operators of the destination make. Refuses nothing by itself but what is of another region or
//! relocation; what is in the way of a beginning it says.

use bytes::Bytes;
use proto::ids::{DatasetId, DatasetName, GroupId, RegionId, RelocationId};
use proto::relocation::{Named, words};
use proto::v1;
use proto::v1::ArrivalPhase as Phase;
use proto::v1::arrival_step_request::Step;
use proto::v1::kms_client::KmsClient;
use proto::v1::relocations_client::RelocationsClient;

use super::plan::{ARRIVE_LEVEL, Around, trusted};
use super::words::{Offer, RelocationWords, known_key, saying};
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

/// What an end came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Where it is now.
    pub phase: Phase,
    /// Whether the own hand-over key is destroyed.
    pub key_ended: bool,
}

fn named_of(status: &v1::ArrivalStatus) -> Result<Named, Error> {
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

fn phase_of(status: &v1::ArrivalStatus) -> Phase {
    let arrival = status.arrival.as_ref();
    arrival.map_or(Phase::Plan, v1::ArrivalRecord::phase)
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
        // Every node of a region has every block of a dataset.
        let full = levels
            .nodes
            .iter()
            .filter(|node| node.full || node.disk_free_bytes < plan.sealed_bytes);
        found.extend(full.map(|node| Blocker::Disk {
            node: node.identity.clone(),
            free: node.disk_free_bytes,
            needed: plan.sealed_bytes,
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
        // The key of an earlier try is the relocation's: it has one.
        let known = known_key(&self.hand_over_words(&plan.named()).await);
        let fingerprint = region_fingerprint(&there.signed().descriptor);
        Ok(v1::CreateHandOverKeyRequest {
            relocation_id: plan.relocation.into(),
            dataset_id: plan.dataset.into(),
            source: plan.source.to_string(),
            descriptor_version: there.version(),
            descriptor_fingerprint: Bytes::copy_from_slice(&fingerprint),
            single_use_id: match known {
                Some(known) => known,
                None => random_id()?,
            },
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
        let id = relocation.as_bytes();
        let is = |status: &v1::ArrivalStatus| {
            let arrival = status.arrival.as_ref();
            arrival.is_some_and(|arrival| arrival.relocation_id[..] == id[..])
        };
        let found = self.arrivals().await?.into_iter().find(is);
        let found = found.ok_or_else(|| Error::Caller {
            reason: "no-such-relocation".to_owned(),
            message: format!("no relocation {relocation} comes to region {}", self.id()),
        })?;
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

    async fn step_arrival(&self, request: v1::ArrivalStepRequest) -> Result<v1::Done, Error> {
        let shard = request.of.as_ref().map_or(0, |of| of.shard);
        let call = |_, channel| {
            let (mut client, request) = (RelocationsClient::new(channel), request.clone());
            async move { Ok(client.step(request).await?.into_inner()) }
        };
        let nodes = &self.0.nodes;
        let answer = nodes.on_leader(GroupId(shard), &self.0.tuning, call);
        done(answer.await?)
    }

    /// Changes how a relocation is moved, and gives how that is from now on.
    pub async fn pace_relocation(
        &self,
        relocation: &RelocationId,
        change: impl FnOnce(&mut v1::ArrivalPace),
    ) -> Result<v1::ArrivalPace, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let mut pace = status.arrival.unwrap_or_default().pace.unwrap_or_default();
        change(&mut pace);
        self.step_arrival(v1::ArrivalStepRequest {
            of: Some(relocated(&named, GroupId(status.shard))),
            step: Some(Step::Pace(pace)),
            ..Default::default()
        })
        .await?;
        Ok(pace)
    }

    /// Gives a relocation up before its cutover. With words of the source it comes to its end: that its shard has ended it, and
    /// that its KMS hands nothing over any more. Under a fence it is a wish: what the source says decides.
    pub async fn abort_arrival(
        &self,
        relocation: &RelocationId,
        said: Option<&RelocationWords>,
    ) -> Result<v1::ArrivalStatus, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let of = relocated(&named, GroupId(status.shard));
        if let Some(said) = said {
            said.are_of(&source_of(&status)?, &named)?;
        }
        let step = |step| v1::ArrivalStepRequest {
            of: Some(of.clone()),
            step: Some(step),
            ..Default::default()
        };
        if !matches!(phase_of(&status), Phase::Aborting | Phase::Aborted) {
            self.step_arrival(step(Step::Abort(true))).await?;
        }
        let mut now = self.arrival_again(&named, GroupId(of.shard)).await?;
        if phase_of(&now) == Phase::Aborting {
            self.end_hand_over(&now, &named).await?;
            if let Some(said) = said {
                let held = now.arrival.clone().unwrap_or_default();
                if !held.ended && !said.departures.is_empty() {
                    self.step_arrival(v1::ArrivalStepRequest {
                        said: said.departures.clone(),
                        ..step(Step::Ended(true))
                    })
                    .await?;
                }
                if held.released.is_none() && !said.keys.is_empty() {
                    self.step_arrival(v1::ArrivalStepRequest {
                        keys: said.keys.clone(),
                        ..step(Step::Closed(true))
                    })
                    .await?;
                }
            }
            now = self.arrival_again(&named, GroupId(of.shard)).await?;
        }
        Ok(now)
    }

    /// Destroys the own hand-over key, and tells the shard. What was done of it before is not done again.
    async fn end_hand_over(&self, status: &v1::ArrivalStatus, named: &Named) -> Result<(), Error> {
        let held = status.arrival.clone().unwrap_or_default();
        if held.erased {
            return Ok(());
        }
        let heard = self.hand_over_words(named).await;
        let ended = |state: &v1::HandOverState| words::receives_no_more(state).then_some(());
        if saying(&heard, ended) == 0 {
            let known = known_key(&heard).unwrap_or(held.hand_over_key_id);
            let request = v1::EndHandOverKeyRequest {
                relocation_id: named.relocation.into(),
                dataset_id: named.dataset.into(),
                hand_over_key_id: known,
            };
            let end = |_, channel| {
                let (mut kms, request) = (KmsClient::new(channel), request.clone());
                async move { Ok(kms.end_hand_over_key(request).await?.into_inner()) }
            };
            let pool = self.keys().pool();
            pool.on_leader(GroupId::KMS, &self.0.tuning, end).await?;
        }
        self.once_applied(|| async {
            self.step_arrival(v1::ArrivalStepRequest {
                of: Some(relocated(named, GroupId(status.shard))),
                keys: self.hand_over_words(named).await,
                step: Some(Step::HandOverEnded(true)),
                ..Default::default()
            })
            .await
        })
        .await
        .map(drop)
    }

    /// A request to let the source destroy its keys, after the hold. Where the region has witnesses their newest word on the
    /// time goes with it.
    pub async fn shred_request(
        &self,
        relocation: &RelocationId,
    ) -> Result<v1::ArrivalStepRequest, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let checkpoint = self.keys().checkpoint().await?.witnessed;
        Ok(v1::ArrivalStepRequest {
            of: Some(relocated(&named, GroupId(status.shard))),
            single_use_id: random_id()?,
            step: Some(Step::Shred(v1::ShredRelocation { checkpoint })),
            ..Default::default()
        })
    }

    /// Lets the source destroy its keys, as two operators approved it.
    pub async fn shred_relocation(
        &self,
        request: v1::ArrivalStepRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<(), Error> {
        if !matches!(request.step, Some(Step::Shred(_))) {
            return Err(malformed("what was approved shreds nothing"));
        }
        let request = v1::ArrivalStepRequest {
            approvals,
            ..request
        };
        self.step_arrival(request).await.map(drop)
    }

    /// The end: takes the source's word that its keys are destroyed, and destroys the own hand-over key.
    pub async fn finish_arrival(
        &self,
        relocation: &RelocationId,
        said: Option<&RelocationWords>,
    ) -> Result<Finished, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let shard = GroupId(status.shard);
        if phase_of(&status) == Phase::Shred {
            self.end_hand_over(&status, &named).await?;
            let held = status.arrival.clone().unwrap_or_default();
            if let Some(said) = said.filter(|_| !held.shredded) {
                said.are_of(&source_of(&status)?, &named)?;
                self.step_arrival(v1::ArrivalStepRequest {
                    of: Some(relocated(&named, shard)),
                    keys: said.keys.clone(),
                    step: Some(Step::Shredded(true)),
                    ..Default::default()
                })
                .await?;
            }
        }
        let now = self.arrival_again(&named, shard).await?;
        let phase = phase_of(&now);
        let erased = now.arrival.is_some_and(|arrival| arrival.erased);
        Ok(Finished {
            phase,
            key_ended: erased || phase == Phase::Certified,
        })
    }
}

fn source_of(status: &v1::ArrivalStatus) -> Result<RegionId, Error> {
    let terms = status
        .arrival
        .as_ref()
        .and_then(|arrival| arrival.terms.clone());
    Ok(terms.unwrap_or_default().source.parse()?)
}
