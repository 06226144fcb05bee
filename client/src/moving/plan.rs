//! The plan of a relocation: what both regions' people name it by.
//!
//! Owns the file and what is in the way of one. Refuses a file that is none, and to call a region ready that the state would
//! refuse. Whether it stays so is for each step to find.

use proto::descriptor::Descriptor;
use proto::ids::{DatasetId, DatasetName, GroupId, RegionId, RelocationId, Role, UnixMs};
use proto::relocation::Named;
use proto::v1;
use serde::{Deserialize, Serialize};

use super::malformed;
use crate::error::Error;

/// The plan's format that this build reads and writes.
const FORMAT: u32 = 1;
/// Bytes of a plan as a file.
const PLAN_BYTES_MAX: usize = 64 << 10;
/// Feature level of a KMS from which it hands keys over.
pub(super) const KMS_LEVEL: u32 = 10;
/// Feature level of a shard from which a dataset leaves it.
const LEAVE_LEVEL: u32 = 6;
/// Feature level of a shard from which gateways fill it.
pub(super) const ARRIVE_LEVEL: u32 = 8;

/// Which dataset is to move, from where to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelocationPlan {
    /// The relocation's id, made with the plan.
    pub relocation: RelocationId,
    /// The dataset, under the same id in both regions.
    pub dataset: DatasetId,
    /// Its name in the source.
    pub name: DatasetName,
    /// Where it is.
    pub source: RegionId,
    /// Where it goes.
    pub destination: RegionId,
    /// Its shard in the source.
    pub shard: GroupId,
    /// Its epoch while it was planned.
    pub epoch: u64,
    /// Departures of it that were begun or refused by then.
    pub from_version: u64,
    /// When it was planned, by the planner's clock.
    pub planned_at: UnixMs,
    /// Live objects then.
    pub objects: u64,
    /// Versions and delete markers then.
    pub versions: u64,
    /// Sealed bytes of all versions then.
    pub sealed_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    reduit_relocation_plan: u32,
    relocation: String,
    dataset: String,
    name: String,
    source: RegionId,
    destination: RegionId,
    shard: u64,
    epoch: u64,
    from_version: u64,
    planned_at_ms: u64,
    objects: u64,
    versions: u64,
    sealed_bytes: u64,
}

impl RelocationPlan {
    /// Relocation and dataset, as every message names them.
    pub fn named(&self) -> Named {
        Named {
            dataset: self.dataset,
            relocation: self.relocation,
        }
    }

    /// As a file.
    pub fn to_text(&self) -> String {
        let file = PlanFile {
            reduit_relocation_plan: FORMAT,
            relocation: self.relocation.to_string(),
            dataset: self.dataset.to_string(),
            name: self.name.to_string(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            shard: self.shard.0,
            epoch: self.epoch,
            from_version: self.from_version,
            planned_at_ms: self.planned_at.0,
            objects: self.objects,
            versions: self.versions,
            sealed_bytes: self.sealed_bytes,
        };
        let mut text = serde_json::to_string_pretty(&file).expect("text and numbers always encode");
        text.push('\n');
        text
    }

    /// From a file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let none = || malformed("that file is no plan of a relocation");
        if text.len() > PLAN_BYTES_MAX {
            return Err(none());
        }
        let file: PlanFile = serde_json::from_str(text).map_err(|_| none())?;
        if file.reduit_relocation_plan != FORMAT {
            return Err(malformed("a plan of a later format"));
        }
        if file.source == file.destination {
            return Err(malformed("the plan leads to the region that it leaves"));
        }
        Ok(Self {
            relocation: file.relocation.parse()?,
            dataset: file.dataset.parse()?,
            name: file.name.parse()?,
            source: file.source,
            destination: file.destination,
            shard: GroupId(file.shard),
            epoch: file.epoch,
            from_version: file.from_version,
            planned_at: UnixMs(file.planned_at_ms),
            objects: file.objects,
            versions: file.versions,
            sealed_bytes: file.sealed_bytes,
        })
    }
}

/// Something that is in the way of a relocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocker {
    /// What is not enabled cannot be compared, and is not fenced.
    #[error("the dataset's key is {0}: enable it")]
    Key(&'static str),
    /// The other region is not trusted here.
    #[error("region {0} is not trusted here: `reduit region trust`")]
    NotTrusted(RegionId),
    /// Its descriptor is not good now.
    #[error("the descriptor of region {region} is not good now ({why}): a newer file of it")]
    Descriptor {
        /// Whose.
        region: RegionId,
        /// Why, in words.
        why: String,
    },
    /// It has nobody who moves.
    #[error("region {0} names no gateway, and gateways move data")]
    NoGateway(RegionId),
    /// This region is met nowhere by others.
    #[error("this region has no {0} that listens for other regions: `federation_listen`")]
    NotReachable(&'static str),
    /// Older replicas would stop at it.
    #[error("feature level {have} of {of}, it takes {need}: `reduit operator raise-level {need}`")]
    Level {
        /// Of what.
        of: &'static str,
        /// What there is.
        have: u32,
        /// What it takes.
        need: u32,
    },
    /// Uploads in parts do not cross, and end with the source. Who plans can leave them.
    #[error(
        "{0} uploads in parts are under way, and will not cross: complete or abort them (`reduit upload ls`)"
    )]
    Uploads(u64),
    /// One at a time.
    #[error("relocation {relocation} to {destination} is under way")]
    UnderWay {
        /// Which.
        relocation: String,
        /// Whereto.
        destination: String,
    },
    /// It takes no changes.
    #[error("the dataset is {0}")]
    Standing(&'static str),
    /// Its name is taken here.
    #[error("a dataset is named {0} here: give another name with --name")]
    NameTaken(DatasetName),
    /// A node of the region has no room.
    #[error("{node} has {free} bytes free, the dataset has {needed}")]
    Disk {
        /// Which node.
        node: String,
        /// Its free bytes.
        free: u64,
        /// Sealed bytes that are to come.
        needed: u64,
    },
}

impl Blocker {
    /// Short, stable, for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "key-not-enabled",
            Self::NotTrusted(_) => "region-not-trusted",
            Self::Descriptor { .. } => "descriptor-not-good",
            Self::NoGateway(_) => "no-gateway",
            Self::NotReachable(_) => "not-reachable",
            Self::Level { .. } => "level-too-low",
            Self::Uploads(_) => "uploads-under-way",
            Self::UnderWay { .. } => "departure-under-way",
            Self::Standing(_) => "dataset-standing",
            Self::NameTaken(_) => "name-taken",
            Self::Disk { .. } => "disk",
        }
    }
}

/// What a region knows of itself and of others.
pub(super) struct Around<'a> {
    pub(super) regions: &'a v1::ListRegionsReply,
    pub(super) kms_level: u32,
    pub(super) shard_level: u32,
    pub(super) now: UnixMs,
}

impl Around<'_> {
    /// What is in the way between this region and another one, of which `moves` says whether its gateways do.
    pub(super) fn blockers(&self, other: &RegionId, moves: bool, shard_need: u32) -> Vec<Blocker> {
        let mut found = Vec::new();
        match trusted(self.regions, other) {
            None => found.push(Blocker::NotTrusted(other.clone())),
            Some(descriptor) => {
                if let Err(error) = descriptor.good_at(self.now) {
                    found.push(Blocker::Descriptor {
                        region: other.clone(),
                        why: error.to_string(),
                    });
                }
                if moves && descriptor.of_role(Role::Gateway).next().is_none() {
                    found.push(Blocker::NoGateway(other.clone()));
                }
            }
        }
        for (of, have, need) in [
            ("the KMS", self.kms_level, KMS_LEVEL),
            ("the shard", self.shard_level, shard_need),
        ] {
            if have < need {
                found.push(Blocker::Level { of, have, need });
            }
        }
        found
    }

    /// What keeps the other region's movers from reaching this one.
    pub(super) fn reachable(&self) -> Vec<Blocker> {
        let own = self.regions.own.as_ref();
        let own = own.and_then(|own| Descriptor::parse(own.descriptor.as_ref()?).ok());
        let listens = |role| {
            let own = own.as_ref();
            own.is_some_and(|own| own.of_role(role).any(|member| !member.endpoint.is_empty()))
        };
        let roles = [(Role::Kms, "KMS replica"), (Role::Node, "storage node")];
        let silent = roles.into_iter().filter(|(role, _)| !listens(*role));
        silent.map(|(_, who)| Blocker::NotReachable(who)).collect()
    }
}

/// A region's descriptor, where the region is trusted.
pub(super) fn trusted(regions: &v1::ListRegionsReply, which: &RegionId) -> Option<Descriptor> {
    let known = regions.regions.iter().find_map(|known| {
        let record = known.record.as_ref()?;
        let descriptor = Descriptor::parse(record.descriptor.as_ref()?).ok()?;
        (descriptor.region() == which).then_some((record, descriptor))
    });
    let (record, descriptor) = known?;
    (record.standing() == v1::RegionStanding::Trusted).then_some(descriptor)
}

/// What of the dataset itself is in the way of its leaving.
pub(super) fn of_dataset(dataset: &v1::DatasetRecord, key: v1::KeyState) -> Vec<Blocker> {
    let mut found = Vec::new();
    if key != v1::KeyState::Enabled {
        found.push(Blocker::Key(key_state(key)));
    } else if dataset.key_state() != v1::KeyState::Enabled {
        found.push(Blocker::Key(key_state(dataset.key_state())));
    }
    match dataset.status() {
        v1::DatasetStatus::Active | v1::DatasetStatus::Fenced => {}
        v1::DatasetStatus::Moved => found.push(Blocker::Standing("another region's by now")),
        v1::DatasetStatus::Arriving => found.push(Blocker::Standing("arriving, or being restored")),
        v1::DatasetStatus::Tombstoned | v1::DatasetStatus::Unspecified => {
            found.push(Blocker::Standing("gone"));
        }
    }
    let authority = dataset.authority.clone().unwrap_or_default();
    match authority.standing() {
        v1::Standing::Active | v1::Standing::Moved => {}
        v1::Standing::Fenced => found.push(Blocker::Standing("fenced: a cutover is under way")),
        v1::Standing::Unconfirmed => found.push(Blocker::Standing(
            "restored and not confirmed: `reduit backup ask-confirm`",
        )),
        v1::Standing::Diverged => found.push(Blocker::Standing(
            "diverged: it was opened elsewhere by force, and written here since",
        )),
    }
    if let Some(departure) = authority.departure {
        found.push(Blocker::UnderWay {
            relocation: hex::encode(&departure.relocation_id),
            destination: departure.destination,
        });
    }
    if dataset.uploads > 0 {
        found.push(Blocker::Uploads(dataset.uploads));
    }
    found
}

/// All that is in the way of a dataset's leaving to another region.
pub(super) fn to_leave(
    around: &Around<'_>,
    to: &RegionId,
    (dataset, key): (&v1::DatasetRecord, v1::KeyState),
) -> Vec<Blocker> {
    let mut found = of_dataset(dataset, key);
    found.extend(around.blockers(to, true, LEAVE_LEVEL));
    found.extend(around.reachable());
    found
}

fn key_state(state: v1::KeyState) -> &'static str {
    match state {
        v1::KeyState::Unspecified => "unknown",
        v1::KeyState::Enabled => "enabled",
        v1::KeyState::Disabled => "disabled",
        v1::KeyState::Compromised => "compromised",
        v1::KeyState::PendingDestruction => "pending destruction",
        v1::KeyState::Destroyed => "destroyed",
    }
}

/// Seconds that so many bytes take at a rate; `None` without one.
pub fn transfer_seconds(bytes: u64, bytes_per_s: u64) -> Option<u64> {
    (bytes_per_s > 0).then(|| bytes.div_ceil(bytes_per_s))
}

#[cfg(test)]
mod tests;
