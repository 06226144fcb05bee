//! The catalog under commands drawn from a seed: names, placements, member ids.
//!
//! Owns its own model, a few maps. Refuses to test the shard.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use node_state::{At, CatalogMachine, CatalogMeta, catalog, invariants};
use prost::Message as _;
use proto::ids::{
    DatasetId, DatasetName, FIRST_ALLOCATED_NODE_ID, FeatureLevel, GroupId, Identity, LogIndex,
    NodeId, Role,
};
use proto::store::MemoryStore;
use proto::v1;
use proto::v1::Refusal;
use proto::v1::catalog_answer::Answer;
use proto::v1::catalog_command::Command;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::draw::clocks;
use super::model::time_after;
use crate::logbook::{Logbook, short};
use crate::stored::reloaded;
use crate::{Broken, hold};

const COMMANDS: &str = "catalog commands";
const REFUSALS: &str = "catalog refusals";
const NAMES: [&str; 7] = [
    "logs",
    "logs",
    "samples",
    "samples",
    "rules",
    "rules",
    "No such name",
];
const SHARDS: [u64; 3] = [16, 17, 18];

type Outcome = Result<v1::CatalogDone, v1::Refused>;

/// What the catalog has to say.
#[derive(Default)]
struct Model {
    time: u64,
    authority: u64,
    region: Option<v1::FoundRegion>,
    placed: BTreeMap<DatasetId, u64>,
    names: BTreeMap<String, (DatasetId, u64, u64)>,
    members: BTreeMap<u64, String>,
}

/// A catalog on two replicas.
pub(super) struct Run {
    rng: StdRng,
    model: Model,
    index: u64,
    level: u32,
    one: MemoryStore,
    other: MemoryStore,
    log: Vec<(u64, Bytes)>,
    sent: Vec<v1::CatalogCommand>,
}

impl Run {
    pub(super) fn new(seed: u64, level: u32) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            model: Model::default(),
            index: 0,
            level,
            one: MemoryStore::default(),
            other: MemoryStore::default(),
            log: Vec::new(),
            sent: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, book: &Logbook) -> Result<(), Broken> {
        self.index += self.rng.random_range(1..3);
        let index = self.index;
        let command = self.draw();
        self.sent.push(command.clone());
        let expected = self.model.expect(index, self.level, &command);
        let bytes = Bytes::from(command.encode_to_vec());
        let answer = apply(&mut self.one, index, self.level, &bytes)?;
        let again = apply(&mut self.other, index, self.level, &bytes)?;
        book.note(format_args!(
            "catalog {index} {} {}",
            short(&bytes),
            short(&answer)
        ));
        self.log.push((index, bytes));
        hold!(
            answer == again && self.one == self.other,
            "two catalogs differ after the same log, at index {index}"
        );
        let told = v1::CatalogAnswer::decode(answer).map(|answer| answer.answer);
        let told = match told {
            Ok(Some(Answer::Done(done))) => Ok(done),
            Ok(Some(Answer::Refused(refused))) => Err(refused),
            other => return Err(Broken(format!("an answer that is none: {other:?}"))),
        };
        let (kind, how) = (
            kind(&command),
            if told.is_ok() { "done" } else { "refused" },
        );
        book.count(COMMANDS, &format!("{kind} {how}"));
        if let Err(refused) = &told {
            book.count(REFUSALS, &format!("{:?}", refused.reason()));
        }
        hold!(
            told == expected,
            "catalog index {index}: {command:?} was answered {told:?}, the model says {expected:?}"
        );
        invariants::catalog(&self.one).map_err(|violation| Broken(violation.to_string()))?;
        if self.rng.random_ratio(1, 8) {
            self.other = reloaded(&self.one);
        }
        self.compare()
    }

    fn draw(&mut self) -> v1::CatalogCommand {
        let rng = &mut self.rng;
        if let Some(earlier) = self.sent.choose(rng)
            && rng.random_ratio(1, 10)
        {
            return earlier.clone();
        }
        let dataset = |rng: &mut StdRng| -> Bytes {
            match rng.random_range(0..16) {
                0 => Bytes::from_static(b"short"),
                n => Bytes::copy_from_slice(&[0xD0 + n % 4; 16]),
            }
        };
        let shard = |rng: &mut StdRng| {
            let shards = [16, 16, 17, 18, 99];
            *shards.choose(rng).expect("not empty")
        };
        let name = |rng: &mut StdRng| NAMES[rng.random_range(0..NAMES.len())].to_owned();
        let kind = match rng.random_range(0..20) {
            0 | 1 => Command::SetAuthority(v1::SetAuthority {
                version: (self.model.authority + rng.random_range(0..3)).saturating_sub(1),
            }),
            2 | 3 => Command::FoundRegion(v1::FoundRegion {
                region: ["ch-zrh", "ch-zrh", "ch-zrh", "No"][rng.random_range(0..4)].to_owned(),
                jurisdiction: "CH".to_owned(),
                shards: match rng.random_range(0..6) {
                    0 => vec![17, 16],
                    1 => vec![16],
                    _ => SHARDS.to_vec(),
                },
            }),
            4..7 => Command::PlaceDataset(v1::PlaceDataset {
                dataset_id: dataset(rng),
                shard: shard(rng),
            }),
            7..13 => {
                let id = dataset(rng);
                let placed = DatasetId::try_from(&id[..]).ok();
                let placed = placed.and_then(|id| self.model.placed.get(&id).copied());
                let placed = placed.filter(|_| !rng.random_ratio(1, 8));
                Command::PublishDataset(v1::PublishDataset {
                    name: name(rng),
                    dataset_id: id,
                    shard: placed.unwrap_or_else(|| shard(rng)),
                    created_at_ms: 0,
                })
            }
            13..16 => {
                let name = name(rng);
                let held = self.model.names.get(&name).map(|(id, ..)| (*id).into());
                let held = held.filter(|_| !rng.random_ratio(1, 6));
                Command::UnpublishDataset(v1::UnpublishDataset {
                    dataset_id: held.unwrap_or_else(|| dataset(rng)),
                    name,
                })
            }
            _ => Command::AllocateNodeId(v1::AllocateNodeId {
                identity: ["spiffe://ch-zrh/node/n9", "spiffe://ch-zrh/kms/k1", "n9"]
                    [rng.random_range(0..3)]
                .to_owned(),
            }),
        };
        let kind = if self.level > 0 && rng.random_ratio(1, 12) {
            let voters = BTreeSet::from([1, 2, 3]);
            Command::AdvanceTime(clocks(rng, self.model.time, &voters))
        } else {
            kind
        };
        let stale = u64::from(rng.random_ratio(1, 16));
        let verdict = v1::Verdict {
            authority_version: self.model.authority.wrapping_sub(stale),
            key_state_version: 0,
            dataset_epoch: 0,
        };
        v1::CatalogCommand {
            now_ms: match rng.random_range(0..2000) {
                1999 if self.level > 0 => self.model.time + 3_600_000,
                passed => (self.model.time + passed).saturating_sub(500),
            },
            verdict: Some(verdict).filter(|_| !rng.random_ratio(1, 30)),
            command: Some(kind),
        }
    }

    fn compare(&self) -> Result<(), Broken> {
        let (state, model) = (&self.one, &self.model);
        let meta = CatalogMeta::load(state);
        hold!(
            (meta.time.0, meta.authority_version) == (model.time, model.authority),
            "the catalog says {meta:?}"
        );
        hold!(
            catalog::region(state) == model.region,
            "the catalog is of another region"
        );
        for (name, (id, shard, created)) in &model.names {
            let wanted = v1::CatalogRecord {
                format: 1,
                dataset_id: (*id).into(),
                shard: *shard,
                name: name.clone(),
                created_at_ms: *created,
            };
            hold!(
                catalog::find(state, name).as_ref() == Some(&wanted)
                    && catalog::find_by_id(state, id).as_ref() == Some(&wanted),
                "{name} does not lead to {id} and back"
            );
        }
        let listed = catalog::list(state, "", 0, &mut |_| true).datasets;
        let listed: Vec<_> = listed.into_iter().map(|record| record.name).collect();
        let wanted: Vec<_> = model.names.keys().cloned().collect();
        hold!(listed == wanted, "the catalog lists {listed:?}");
        for (id, shard) in &model.placed {
            hold!(
                catalog::placement(state, id) == Some(GroupId(*shard)),
                "{id} has moved"
            );
        }
        for (node, identity) in &model.members {
            hold!(
                catalog::allocated(state, NodeId(*node)).as_ref() == Some(identity),
                "node id {node} is somebody else's"
            );
        }
        Ok(())
    }

    /// A replay of the whole log gives the same bytes.
    pub(super) fn end(self) -> Result<(), Broken> {
        let mut replayed = MemoryStore::default();
        for (index, bytes) in &self.log {
            apply(&mut replayed, *index, self.level, bytes)?;
        }
        hold!(
            replayed == self.one,
            "a replay of the catalog's log gives another state"
        );
        Ok(())
    }
}

fn apply(state: &mut MemoryStore, index: u64, level: u32, bytes: &Bytes) -> Result<Bytes, Broken> {
    let voters = |nodes: &BTreeSet<NodeId>| most(&nodes.iter().map(|node| node.0).collect());
    let at = At {
        index: LogIndex(index),
        voters: &voters,
        level: FeatureLevel(level),
    };
    CatalogMachine
        .apply(at, bytes, state)
        .map_err(|unknown| Broken(format!("a known command is unknown: {unknown}")))
}

/// Members 1 to 3 vote.
fn most(nodes: &BTreeSet<u64>) -> bool {
    (1..=3).filter(|id| nodes.contains(id)).count() >= 2
}

impl Model {
    fn expect(&mut self, index: u64, level: u32, command: &v1::CatalogCommand) -> Outcome {
        let moved = |to| {
            Err(v1::Refused {
                reason: Refusal::AuthorityMoved.into(),
                moved_to: to,
                ..Default::default()
            })
        };
        let kind = command.command.as_ref().expect("the caller sends no other");
        let said = match kind {
            Command::AdvanceTime(advance) => Some(advance),
            _ => None,
        };
        self.time = time_after(self.time, level, command.now_ms, said, &most)?;
        if said.is_some() {
            return Ok(v1::CatalogDone::default());
        }
        if let Command::SetAuthority(set) = kind {
            if set.version < self.authority {
                return moved(self.authority);
            }
            self.authority = set.version;
            return Ok(v1::CatalogDone::default());
        }
        match &command.verdict {
            None => return refuse(Refusal::Malformed),
            Some(verdict) if verdict.authority_version != self.authority => {
                return moved(self.authority);
            }
            Some(_) => {}
        }
        match kind {
            Command::FoundRegion(found) => self.found(found),
            Command::PlaceDataset(place) => self.place(place),
            Command::PublishDataset(publish) => self.publish(publish),
            Command::UnpublishDataset(unpublish) => self.unpublish(unpublish),
            Command::AllocateNodeId(allocate) => {
                let identity = allocate.identity.parse::<Identity>();
                if !identity.is_ok_and(|identity| identity.role() == Role::Node) {
                    return refuse(Refusal::Malformed);
                }
                let node_id = FIRST_ALLOCATED_NODE_ID + index;
                self.members.insert(node_id, allocate.identity.clone());
                Ok(v1::CatalogDone {
                    node_id,
                    ..Default::default()
                })
            }
            Command::SetAuthority(_) | Command::AdvanceTime(_) => refuse(Refusal::Malformed),
        }
    }

    fn found(&mut self, found: &v1::FoundRegion) -> Outcome {
        // The draw knows two ways to be wrong: no region, and shards out of order.
        if found.region != "ch-zrh" || !found.shards.is_sorted() {
            return refuse(Refusal::Malformed);
        }
        match &self.region {
            Some(held) if held != found => refuse(Refusal::AlreadyFounded),
            _ => {
                self.region = Some(found.clone());
                Ok(v1::CatalogDone::default())
            }
        }
    }

    fn place(&mut self, place: &v1::PlaceDataset) -> Outcome {
        let Ok(id) = DatasetId::try_from(&place.dataset_id[..]) else {
            return refuse(Refusal::Malformed);
        };
        let Some(region) = &self.region else {
            return refuse(Refusal::NotFounded);
        };
        let shard = match self.placed.get(&id) {
            Some(shard) => *shard,
            None if !region.shards.contains(&place.shard) => return refuse(Refusal::NoSuchShard),
            None => place.shard,
        };
        self.placed.insert(id, shard);
        Ok(v1::CatalogDone {
            dataset_id: id.into(),
            shard,
            ..Default::default()
        })
    }

    fn publish(&mut self, publish: &v1::PublishDataset) -> Outcome {
        let id = DatasetId::try_from(&publish.dataset_id[..]);
        let (Ok(id), Ok(_)) = (id, publish.name.parse::<DatasetName>()) else {
            return refuse(Refusal::Malformed);
        };
        if self.placed.get(&id) != Some(&publish.shard) {
            return refuse(Refusal::NoSuchShard);
        }
        match self.names.get(&publish.name) {
            Some((held, ..)) if *held != id => return refuse(Refusal::NameTaken),
            None if self.names.values().any(|(held, ..)| *held == id) => {
                return refuse(Refusal::DatasetExists);
            }
            None => {
                let record = (id, publish.shard, self.time);
                self.names.insert(publish.name.clone(), record);
            }
            Some(_) => {}
        }
        Ok(v1::CatalogDone {
            dataset_id: id.into(),
            shard: publish.shard,
            ..Default::default()
        })
    }

    fn unpublish(&mut self, unpublish: &v1::UnpublishDataset) -> Outcome {
        let held = self.names.get(&unpublish.name).copied();
        match held {
            Some((id, shard, _)) if unpublish.dataset_id[..] == id.0 => {
                self.names.remove(&unpublish.name);
                Ok(v1::CatalogDone {
                    dataset_id: id.into(),
                    shard,
                    ..Default::default()
                })
            }
            _ => refuse(Refusal::NoSuchDataset),
        }
    }
}

fn refuse(reason: Refusal) -> Outcome {
    Err(v1::Refused {
        reason: reason.into(),
        ..Default::default()
    })
}

fn kind(command: &v1::CatalogCommand) -> &'static str {
    match &command.command {
        Some(Command::SetAuthority(_)) => "SetAuthority",
        Some(Command::PublishDataset(_)) => "PublishDataset",
        Some(Command::UnpublishDataset(_)) => "UnpublishDataset",
        Some(Command::AllocateNodeId(_)) => "AllocateNodeId",
        Some(Command::FoundRegion(_)) => "FoundRegion",
        Some(Command::PlaceDataset(_)) => "PlaceDataset",
        Some(Command::AdvanceTime(_)) => "AdvanceTime",
        None => "none",
    }
}
