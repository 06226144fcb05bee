//! The source's half: the plan, the grant, an end before the cutover, and the end of its key after it.
//!
//! Owns the requests that operators of the source make. Refuses nothing by itself but what is of another region or relocation.

use bytes::Bytes;
use proto::ids::{DatasetName, GroupId, RegionId, RelocationId};
use proto::relocation::{Named, words};
use proto::v1;
use proto::v1::departure_step_request::Step;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_shred_client::KmsShredClient;
use proto::v1::shard_client::ShardClient;

use super::plan::{Around, to_leave, trusted};
use super::words::{Offer, RelocationWords, saying};
use super::{Blocker, RelocationPlan, claim_of, departure_said, done, malformed, relocated};
use crate::dataset::DatasetInfo;
use crate::error::Error;
use crate::kms::now;
use crate::peering::region_fingerprint;
use crate::region::{Region, random, random_id};

const CONFIGS: [v1::ConfigKind; 4] = [
    v1::ConfigKind::Tagging,
    v1::ConfigKind::Lifecycle,
    v1::ConfigKind::Cors,
    v1::ConfigKind::Encryption,
];

/// What moves with a dataset besides its objects.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MovesAlong {
    /// Settings that are there: tagging, lifecycle, cors, encryption. `None` to who may not read them.
    pub settings: Option<Vec<&'static str>>,
    /// Whether older versions are kept.
    pub versioning: bool,
    /// Whether that was on and is suspended.
    pub suspended: bool,
    /// Object lock, with its default.
    pub lock: Option<v1::ObjectLock>,
    /// What it may hold.
    pub quota: v1::Quota,
    /// Compliance retention and legal hold of the dataset.
    pub hold: v1::DatasetHold,
    /// Versions under a legal hold of their own.
    pub legal_holds: u64,
    /// Until when versions are under compliance retention: milliseconds since 1970; 0: none is.
    pub compliance_until_ms: u64,
}

/// A plan, and what was found when it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The plan.
    pub plan: RelocationPlan,
    /// All that is in the way, as far as the source can know.
    pub blockers: Vec<Blocker>,
    /// What moves with it.
    pub along: MovesAlong,
    /// Uploads in parts that are under way, which do not move.
    pub uploads: u64,
}

fn too_late(what: &str) -> Error {
    Error::Caller {
        reason: "relocation-moved".to_owned(),
        message: what.to_owned(),
    }
}

impl Region {
    /// Plans a dataset's move to another region. Changes nothing.
    pub async fn plan_relocation(
        &self,
        name: &DatasetName,
        to: &RegionId,
    ) -> Result<Planned, Error> {
        if to == self.id() {
            return Err(malformed("the dataset is in that region"));
        }
        let info = self.dataset_info(name).await?;
        let relocation = RelocationId(random()?);
        let named = Named {
            dataset: info.id,
            relocation,
        };
        let (status, key, regions, levels, settings) = tokio::join!(
            self.departure(&named, info.shard),
            self.keys().key_info(info.id),
            self.regions(),
            self.levels(),
            self.settings_there(&info)
        );
        let (status, key, regions) = (status?, key?, regions?);
        let dataset = status.dataset.unwrap_or_default();
        let key_state = key.key.map_or(v1::KeyState::Unspecified, |key| key.state());
        let at = now();
        let around = Around {
            regions: &regions,
            kms_level: levels.kms,
            shard_level: status.level,
            now: at,
        };
        let blockers = to_leave(&around, to, (&dataset, key_state));
        let authority = dataset.authority.unwrap_or_default();
        Ok(Planned {
            plan: RelocationPlan {
                relocation,
                dataset: info.id,
                name: name.clone(),
                source: self.id().clone(),
                destination: to.clone(),
                shard: info.shard,
                epoch: dataset.epoch,
                from_version: authority.version,
                planned_at: at,
                objects: dataset.objects,
                versions: dataset.versions,
                sealed_bytes: dataset.sealed_bytes,
            },
            blockers,
            along: MovesAlong {
                settings: settings?,
                versioning: dataset.versioning,
                suspended: dataset.suspended,
                lock: dataset.lock,
                quota: dataset.quota.unwrap_or_default(),
                hold: dataset.hold.unwrap_or_default(),
                legal_holds: dataset.legal_holds,
                compliance_until_ms: dataset.compliance_until_ms,
            },
            uploads: dataset.uploads,
        })
    }

    async fn settings_there(&self, info: &DatasetInfo) -> Result<Option<Vec<&'static str>>, Error> {
        let mut there = Vec::new();
        for kind in CONFIGS {
            let request = v1::ReadConfigRequest {
                shard: info.shard.0,
                dataset_id: info.id.into(),
                kind: kind.into(),
            };
            let call = |_, channel| {
                let (mut shard, request) = (ShardClient::new(channel), request.clone());
                async move { Ok(shard.read_config(request).await?.into_inner()) }
            };
            let reply = self.0.nodes.on_leader(info.shard, &self.0.tuning, call);
            let config = match reply.await {
                Ok(reply) => reply.config.unwrap_or_default(),
                Err(Error::Denied { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            if !config.content.is_empty() {
                there.push(match kind {
                    v1::ConfigKind::Tagging => "tagging",
                    v1::ConfigKind::Lifecycle => "lifecycle",
                    v1::ConfigKind::Cors => "cors",
                    v1::ConfigKind::Encryption => "encryption",
                    v1::ConfigKind::Unspecified => "unknown",
                });
            }
        }
        Ok(Some(there))
    }

    /// Counts and standing of a relocation out of this region.
    pub async fn departure(
        &self,
        named: &Named,
        shard: GroupId,
    ) -> Result<v1::DepartureStatus, Error> {
        let request = relocated(named, shard);
        let call = |_, channel| {
            let (mut client, request) = (DeparturesClient::new(channel), request.clone());
            async move { Ok(client.status(request).await?.into_inner()) }
        };
        self.0.nodes.on_leader(shard, &self.0.tuning, call).await
    }

    async fn step_departure(
        &self,
        plan: &RelocationPlan,
        (step, keys): (Step, Vec<v1::SignedHandOverState>),
    ) -> Result<v1::Done, Error> {
        let request = v1::DepartureStepRequest {
            of: Some(relocated(&plan.named(), plan.shard)),
            keys,
            step: Some(step),
            ..Default::default()
        };
        let call = |_, channel| {
            let (mut client, request) = (DeparturesClient::new(channel), request.clone());
            async move { Ok(client.step(request).await?.into_inner()) }
        };
        let answer = self.0.nodes.on_leader(plan.shard, &self.0.tuning, call);
        done(answer.await?)
    }

    /// A request to grant a dataset's keys to the key that a destination offers.
    pub async fn grant_request(
        &self,
        plan: &RelocationPlan,
        offer: &Offer,
    ) -> Result<v1::GrantHandOverRequest, Error> {
        self.is_region(&plan.source, "the source")?;
        if offer.named() != plan.named() || offer.source() != &plan.source {
            return Err(malformed(
                "the offer is of another relocation than the plan",
            ));
        }
        if offer.destination() != &plan.destination {
            return Err(malformed("the offer is of another region than the plan's"));
        }
        let regions = self.regions().await?;
        let there = trusted(&regions, &plan.destination).ok_or_else(|| Error::Caller {
            reason: "region-not-trusted".to_owned(),
            message: format!("region {} is not trusted here", plan.destination),
        })?;
        let fingerprint = region_fingerprint(&there.signed().descriptor);
        Ok(v1::GrantHandOverRequest {
            key: Some(offer.signed().clone()),
            descriptor_version: there.version(),
            descriptor_fingerprint: Bytes::copy_from_slice(&fingerprint),
            single_use_id: random_id()?,
            claim: Some(claim_of(self)),
            approvals: Vec::new(),
        })
    }

    /// Grants the keys and lets the destination read. Done again it goes on where it was.
    pub async fn grant_relocation(
        &self,
        plan: &RelocationPlan,
        request: v1::GrantHandOverRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<(), Error> {
        self.is_region(&plan.source, "the source")?;
        let request = v1::GrantHandOverRequest {
            approvals,
            ..request
        };
        let offer = Offer::new(request.key.clone().unwrap_or_default())?;
        if offer.named() != plan.named() {
            return Err(malformed("what was approved is of another relocation"));
        }
        let named = plan.named();
        let heard = self.hand_over_words(&named).await;
        // Granted once, it is opened with other approvals of the same.
        if saying(&heard, words::granted) == 0 {
            let grant = |_, channel| {
                let (mut kms, request) = (KmsClient::new(channel), request.clone());
                async move { Ok(kms.grant_hand_over(request).await?.into_inner()) }
            };
            let pool = self.keys().pool();
            pool.on_leader(GroupId::KMS, &self.0.tuning, grant).await?;
        }
        self.once_applied(|| async {
            let open = v1::OpenDepartureRequest {
                shard: plan.shard.0,
                from_version: plan.from_version,
                grant: Some(request.clone()),
                keys: self.hand_over_words(&named).await,
            };
            let call = |_, channel| {
                let (mut client, open) = (DeparturesClient::new(channel), open.clone());
                async move { Ok(client.open(open).await?.into_inner()) }
            };
            let opened = self.0.nodes.on_leader(plan.shard, &self.0.tuning, call);
            done(opened.await?)
        })
        .await
        .map(drop)
    }

    /// Stops a relocation before it moved: no key is handed over any more, and nothing is read. Gives how many object versions
    /// had their keys released to the other region.
    pub async fn abort_departure(&self, plan: &RelocationPlan) -> Result<Option<u64>, Error> {
        self.is_region(&plan.source, "the source")?;
        let named = plan.named();
        let status = self.departure(&named, plan.shard).await?;
        let authority = status.dataset.and_then(|dataset| dataset.authority);
        if authority.is_some_and(|held| held.moved.is_some()) {
            return Err(too_late(
                "the dataset has moved: the way back is a new relocation from where it is",
            ));
        }
        let request = v1::CloseHandOverRequest {
            relocation_id: named.relocation.into(),
            dataset_id: named.dataset.into(),
        };
        let close = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move { Ok(kms.close_hand_over(request).await?.into_inner()) }
        };
        let pool = self.keys().pool();
        pool.on_leader(GroupId::KMS, &self.0.tuning, close).await?;
        let words = self.departure_words(&named, plan.shard).await;
        let over = |word: &v1::SignedDepartureState| {
            departure_said(word).is_some_and(|state| words::ended(&state, plan.from_version))
        };
        // Where all say that it is over there is nothing to end.
        if words.is_empty() || !words.iter().all(over) {
            let step = (Step::End(plan.from_version), Vec::new());
            self.step_departure(plan, step).await?;
        }
        let heard = self.hand_over_words(&named).await;
        let states = heard.iter().filter_map(super::words::said);
        let released = states.filter_map(|state| words::closed(&state));
        Ok(released.map(|released| released.objects).max())
    }

    /// A request to end this region's key of a dataset that moved, on words of the destination's nodes.
    pub fn shred_key_request(
        &self,
        plan: &RelocationPlan,
        said: &RelocationWords,
        days: u32,
    ) -> Result<v1::ShredKeyRequest, Error> {
        self.is_region(&plan.source, "the source")?;
        said.are_of(&plan.destination, &plan.named())?;
        if said.arrivals.is_empty() {
            return Err(malformed("there are no words of the destination's nodes"));
        }
        Ok(v1::ShredKeyRequest {
            relocation_id: plan.relocation.into(),
            dataset_id: plan.dataset.into(),
            served: said.arrivals.clone(),
            days,
            request_id: random_id()?,
            single_use_id: random_id()?,
            claim: Some(claim_of(self)),
            approvals: Vec::new(),
        })
    }

    /// Schedules the end of this region's key of a dataset that moved. Sent again it has effect once.
    pub async fn shred_key(
        &self,
        request: v1::ShredKeyRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<v1::KeyInfo, Error> {
        let request = v1::ShredKeyRequest {
            approvals,
            ..request
        };
        let call = |_, channel| {
            let (mut kms, request) = (KmsShredClient::new(channel), request.clone());
            async move { Ok(kms.shred(request).await?.into_inner()) }
        };
        let pool = self.keys().pool();
        pool.change(GroupId::KMS, &self.0.tuning, call).await
    }

    /// Frees what the source kept, once every replica of its KMS has destroyed the dataset's key and erased it.
    pub async fn finish_departure(&self, plan: &RelocationPlan) -> Result<(), Error> {
        self.is_region(&plan.source, "the source")?;
        let words = self.hand_over_words(&plan.named()).await;
        let step = (Step::Finish(true), words);
        self.step_departure(plan, step).await.map(drop)
    }

    /// Replicas of this region's KMS that say that the key is destroyed and erased, and how many there are.
    pub async fn destroyed_here(&self, named: &Named) -> (usize, usize) {
        let heard = self.hand_over_words(named).await;
        let all = self.keys().pool().members().len();
        (saying(&heard, words::shredded), all)
    }
}
