//! The machine of the catalog group: names of datasets, their shards, member ids.
//!
//! Owns what a name means in the region. A dataset's shard is fixed before it is admitted there and its name is
//! published last, so that a crash between the steps leaves nothing that a retry does not finish. Refuses a name
//! that is taken, and a member id that was ever given.

use bytes::Bytes;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{
    DatasetId, DatasetName, FIRST_ALLOCATED_NODE_ID, GroupId, Identity, Jurisdiction, NodeId,
    RegionId, Role,
};
use proto::store::{Reader, Writer};
use proto::v1;
use proto::v1::catalog_command::Command;

use crate::at::{At, Unknown};
use crate::keys::{self, catalog_table as table};
use crate::limits::{COMMAND_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_SCANS_MAX};
use crate::record::{self, CatalogMeta};
use crate::time::{self, TIME_BOUND_LEVEL};

const FORMAT: u32 = 1;
/// Shards a region may have: the groups of a process less the catalog.
pub const SHARDS_MAX: usize = 31;

/// Applies the commands of the catalog's log.
#[derive(Debug, Clone, Copy, Default)]
pub struct CatalogMachine;

type Answer = Result<v1::CatalogDone, v1::Refused>;

impl CatalogMachine {
    /// Applies one committed command (`CatalogCommand`) and answers with an encoded `CatalogAnswer`.
    pub fn apply(
        &self,
        at: At<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
    ) -> Result<Bytes, Unknown> {
        use v1::catalog_answer::Answer as Kind;
        let unknown = |what| Unknown {
            index: at.index,
            what,
        };
        let bytes = command.len();
        let command = v1::CatalogCommand::decode(command.clone())
            .map_err(|_| unknown("bytes that are no catalog command"))?;
        let Some(kind) = &command.command else {
            return Err(unknown(
                "a catalog command of a kind this build does not know",
            ));
        };
        let by_majority = match kind {
            Command::AdvanceTime(advance) => Some(advance),
            _ => None,
        };
        if by_majority.is_some() && at.level < TIME_BOUND_LEVEL {
            return Err(unknown("a catalog command of a later feature level"));
        }
        let before = CatalogMeta::load(&*state);
        let time = time::after(at, before.time, command.now_ms, by_majority);
        let answer = time.and_then(|time| {
            let meta = CatalogMeta { time, ..before };
            let mut apply = Apply { at, state, meta };
            let answer = if bytes > COMMAND_BYTES_MAX {
                refuse(v1::Refusal::Malformed)
            } else {
                apply.run(&command, kind)
            };
            if apply.meta != before {
                let meta = apply.meta.encode();
                apply.state.put(&keys::single(table::META), &meta);
            }
            answer
        });
        let answer = match answer {
            Ok(done) => Kind::Done(done),
            Err(refused) => Kind::Refused(refused),
        };
        Ok(v1::CatalogAnswer {
            answer: Some(answer),
        }
        .encode_to_vec()
        .into())
    }
}

/// One command being applied.
struct Apply<'a> {
    at: At<'a>,
    state: &'a mut dyn Writer,
    meta: CatalogMeta,
}

impl Apply<'_> {
    fn run(&mut self, command: &v1::CatalogCommand, kind: &Command) -> Answer {
        match kind {
            Command::SetAuthority(set) => return self.set_authority(set.version),
            // Time is all it moves.
            Command::AdvanceTime(_) => return Ok(v1::CatalogDone::default()),
            _ => {}
        }
        let Some(verdict) = command.verdict else {
            return refuse(v1::Refusal::Malformed);
        };
        if verdict.authority_version != self.meta.authority_version
            && !broken(Switch::UnboundVerdict)
        {
            return self.authority_moved();
        }
        match kind {
            Command::FoundRegion(found) => self.found(found),
            Command::PlaceDataset(place) => self.place(place),
            Command::PublishDataset(publish) => self.publish(publish),
            Command::UnpublishDataset(unpublish) => self.unpublish(unpublish),
            Command::AllocateNodeId(allocate) => self.allocate(allocate),
            Command::SetAuthority(_) | Command::AdvanceTime(_) => refuse(v1::Refusal::Malformed),
        }
    }

    fn authority_moved(&self) -> Answer {
        Err(v1::Refused {
            reason: v1::Refusal::AuthorityMoved.into(),
            moved_to: self.meta.authority_version,
            ..Default::default()
        })
    }

    fn set_authority(&mut self, version: u64) -> Answer {
        if version < self.meta.authority_version {
            return self.authority_moved();
        }
        self.meta.authority_version = version;
        Ok(v1::CatalogDone::default())
    }

    fn found(&mut self, found: &v1::FoundRegion) -> Answer {
        let shape = found.region.parse::<RegionId>().is_ok()
            && found.jurisdiction.parse::<Jurisdiction>().is_ok()
            && (1..=SHARDS_MAX).contains(&found.shards.len())
            && found.shards.is_sorted_by(|a, b| a < b)
            && found.shards[0] >= GroupId::FIRST_SHARD;
        if !shape {
            return refuse(v1::Refusal::Malformed);
        }
        match region(&*self.state) {
            None => self
                .state
                .put(&keys::single(table::REGION), &found.encode_to_vec()),
            Some(held) if &held == found => {}
            Some(_) => return refuse(v1::Refusal::AlreadyFounded),
        }
        Ok(v1::CatalogDone::default())
    }

    fn place(&mut self, place: &v1::PlaceDataset) -> Answer {
        let Ok(id) = DatasetId::try_from(place.dataset_id.as_ref()) else {
            return refuse(v1::Refusal::Malformed);
        };
        let Some(region) = region(&*self.state) else {
            return refuse(v1::Refusal::NotFounded);
        };
        let shard = match placement(&*self.state, &id) {
            Some(shard) => shard.0,
            None if region.shards.contains(&place.shard) => {
                let key = keys::placed(table::PLACEMENT, &id);
                self.state.put(&key, &place.shard.to_be_bytes());
                place.shard
            }
            None => return refuse(v1::Refusal::NoSuchShard),
        };
        Ok(v1::CatalogDone {
            dataset_id: place.dataset_id.clone(),
            shard,
            ..Default::default()
        })
    }

    fn publish(&mut self, publish: &v1::PublishDataset) -> Answer {
        let (Ok(id), true) = (
            DatasetId::try_from(publish.dataset_id.as_ref()),
            publish.name.parse::<DatasetName>().is_ok(),
        ) else {
            return refuse(v1::Refusal::Malformed);
        };
        if placement(&*self.state, &id) != Some(GroupId(publish.shard)) {
            return refuse(v1::Refusal::NoSuchShard);
        }
        let done = v1::CatalogDone {
            dataset_id: publish.dataset_id.clone(),
            shard: publish.shard,
            ..Default::default()
        };
        match find(&*self.state, &publish.name) {
            Some(held) if held.dataset_id == publish.dataset_id => return Ok(done),
            Some(_) => return refuse(v1::Refusal::NameTaken),
            None => {}
        }
        let by_id = keys::placed(table::PUBLISHED, &id);
        if self.state.value(&by_id).is_some() {
            return refuse(v1::Refusal::DatasetExists);
        }
        let record = v1::CatalogRecord {
            format: FORMAT,
            dataset_id: publish.dataset_id.clone(),
            shard: publish.shard,
            name: publish.name.clone(),
            created_at_ms: self.meta.time.0,
        };
        self.state
            .put(&keys::name(&publish.name), &record.encode_to_vec());
        self.state.put(&by_id, publish.name.as_bytes());
        Ok(done)
    }

    fn unpublish(&mut self, unpublish: &v1::UnpublishDataset) -> Answer {
        let held = find(&*self.state, &unpublish.name)
            .filter(|held| held.dataset_id == unpublish.dataset_id);
        let Some(held) = held else {
            return refuse(v1::Refusal::NoSuchDataset);
        };
        let id = DatasetId::try_from(held.dataset_id.as_ref()).expect("checked when published");
        self.state.delete(&keys::name(&unpublish.name));
        self.state.delete(&keys::placed(table::PUBLISHED, &id));
        Ok(v1::CatalogDone {
            dataset_id: held.dataset_id,
            shard: held.shard,
            ..Default::default()
        })
    }

    /// A retry gets another id; ids are many, and one that was given twice could split a group.
    fn allocate(&mut self, allocate: &v1::AllocateNodeId) -> Answer {
        let identity = allocate.identity.parse::<Identity>();
        if !identity.is_ok_and(|identity| identity.role() == Role::Node) {
            return refuse(v1::Refusal::Malformed);
        }
        let id = NodeId(FIRST_ALLOCATED_NODE_ID + self.at.index.0);
        self.state
            .put(&keys::node(id), allocate.identity.as_bytes());
        Ok(v1::CatalogDone {
            node_id: id.0,
            ..Default::default()
        })
    }
}

fn refuse(reason: v1::Refusal) -> Answer {
    Err(v1::Refused {
        reason: reason.into(),
        ..Default::default()
    })
}

/// What the region was founded with.
pub fn region(state: &(impl Reader + ?Sized)) -> Option<v1::FoundRegion> {
    record::load(state, &keys::single(table::REGION))
}

/// A published dataset.
pub fn find(state: &(impl Reader + ?Sized), name: &str) -> Option<v1::CatalogRecord> {
    record::load(state, &keys::name(name))
}

/// A published dataset by its id.
pub fn find_by_id(state: &(impl Reader + ?Sized), id: &DatasetId) -> Option<v1::CatalogRecord> {
    let name = state.value(&keys::placed(table::PUBLISHED, id))?;
    find(state, std::str::from_utf8(&name).ok()?)
}

/// The shard a dataset was given, published or not.
pub fn placement(state: &(impl Reader + ?Sized), id: &DatasetId) -> Option<GroupId> {
    let value = state.value(&keys::placed(table::PLACEMENT, id))?;
    let shard = value.as_ref().try_into().expect("written as eight bytes");
    Some(GroupId(u64::from_be_bytes(shard)))
}

/// Whom a member id was allocated for.
pub fn allocated(state: &(impl Reader + ?Sized), id: NodeId) -> Option<String> {
    let identity = state.value(&keys::node(id))?;
    String::from_utf8(identity.to_vec()).ok()
}

/// A page of published datasets after a name, of those `show` lets through (policy is the caller's). `at_index` is
/// the caller's to set. Where `show` hides many, a truncated page may hold fewer than `limit`.
pub fn list(
    state: &(impl Reader + ?Sized),
    start_after: &str,
    limit: usize,
    show: &mut dyn FnMut(&v1::CatalogRecord) -> bool,
) -> v1::ListDatasetsReply {
    let limit = if limit == 0 {
        PAGE_ENTRIES_MAX
    } else {
        limit.min(PAGE_ENTRIES_MAX)
    };
    let mut reply = v1::ListDatasetsReply::default();
    let (first, end) = keys::range(table::NAME, &[]);
    let start = if start_after.is_empty() {
        first
    } else {
        [keys::name(start_after), vec![0]].concat()
    };
    let (mut last, mut scans) = (String::new(), 0);
    state.scan(&start, &end, &mut |_, value| {
        if reply.datasets.len() >= limit || scans >= PAGE_SCANS_MAX {
            reply.truncated = true;
            return false;
        }
        scans += 1;
        let record: v1::CatalogRecord = record::decode(value);
        last.clone_from(&record.name);
        if show(&record) {
            reply.datasets.push(record);
        }
        true
    });
    if reply.truncated {
        reply.next_start_after = last;
    }
    reply
}

#[cfg(test)]
mod tests;
