//! One relocation between two regions of a world: begun by people, seen by what nodes say, held where it is wanted.
//!
//! Owns the looks at it. Its state is what nodes of both regions sign of it: the same words that the regions go by. A
//! mover is stopped between two looks to keep a relocation in a state that lasts milliseconds; what it had sent by then
//! may still be applied.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use client::Region;
use client::ids::{DatasetId, GroupId};
use local::files::OPERATORS;
use local::{Kind, RegionEntry, ceremony, process};
use prost::Message as _;
use proto::ids::NodeId;
use proto::v1;
use proto::v1::ArrivalPhase as Phase;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::relocations_client::RelocationsClient;
use serde_json::Value;

use super::people::People;
use super::point::{Place, Point, Sight};
use crate::world::{Group, World};

/// How long a relocation may take to get to where the next thing happens.
const REACH_MAX: Duration = Duration::from_secs(90);
/// How long a command may be refused while its region is unwell.
const DONE_MAX: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_millis(500);
/// How long a mover runs between two looks that it is stopped for.
const STEP: Duration = Duration::from_millis(4);
/// Between two others.
const LOOK: Duration = Duration::from_millis(25);
/// How long one node may take to say where it is.
const WORD_MAX: Duration = Duration::from_millis(400);

/// A relocation.
pub(super) struct Course<'a> {
    source: &'a People,
    destination: &'a People,
    leaves: Region,
    arrives: Region,
    dataset: DatasetId,
    /// Of the dataset in the source.
    shard: GroupId,
    /// Of the dataset in the destination.
    shard_there: GroupId,
    relocation: Vec<u8>,
    pub(super) plan: String,
    pub(super) id: String,
    offer: String,
}

impl<'a> Course<'a> {
    /// Planned in the source and begun in the destination; not granted yet.
    pub(super) async fn begun(
        (source, destination): (&'a People, &'a People),
        name: &str,
        (dataset, shard): (DatasetId, GroupId),
    ) -> Result<Self> {
        let plan = source.file(&format!("{name}.plan"));
        let to = destination.region.region.to_string();
        source.said(&["relocate", "plan", name, "--to", &to, "--out", &plan])?;
        let written = std::fs::read(&plan).with_context(|| format!("reading {plan}"))?;
        let written: Value = serde_json::from_slice(&written).context("the plan is no JSON")?;
        let id = written["relocation"]
            .as_str()
            .context("a plan without an id")?;
        let offer = destination.file(&format!("{name}.offer"));
        destination.approved(&["relocate", "begin", &plan, "--out", &offer])?;
        let status = destination.json(&["relocate", "status", id])?;
        let there = status["shard"]
            .as_u64()
            .context("a status without a shard")?;
        Ok(Self {
            source,
            destination,
            leaves: ceremony::connect(&source.region, OPERATORS[0]).await?,
            arrives: ceremony::connect(&destination.region, OPERATORS[0]).await?,
            dataset,
            shard,
            shard_there: GroupId(there),
            relocation: hex::decode(id).context("the relocation's id")?,
            id: id.to_owned(),
            plan,
            offer,
        })
    }

    /// The source hands its keys over and lets the destination read.
    pub(super) fn granted(&self) -> Result<()> {
        let grant = ["relocate", "grant", &self.plan, &self.offer];
        self.source.approved(&grant).map(drop)
    }

    /// A command of an operator of the destination, until it is taken: its region may be unwell.
    pub(super) async fn operator(&self, command: &str, words: &[&str]) -> Result<()> {
        let all = [&["relocate", command, &self.id][..], words].concat();
        let end = Instant::now() + DONE_MAX;
        loop {
            match self.destination.said(&all) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// As [`Self::operator`], once: a refusal is no error.
    pub(super) fn once(&self, command: &str) -> Result<()> {
        let words = ["relocate", command, &self.id];
        self.destination.run(&words).map(drop)
    }

    /// Where it is, as far as anybody says.
    pub(super) async fn look(&self, world: &World) -> Result<Sight> {
        let region = |people: &People| -> Result<RegionEntry> {
            let id = people.region.region.as_str();
            Ok(world.local.federation.region(id)?.clone())
        };
        let (source, destination) = (region(self.source)?, region(self.destination)?);
        let arrivals = nodes(&destination)
            .into_iter()
            .map(|node| self.arrival(node));
        let departures = nodes(&source).into_iter().map(|node| self.departure(node));
        let (arrivals, departures) = tokio::join!(
            futures::future::join_all(arrivals),
            futures::future::join_all(departures)
        );
        let latest = arrivals.into_iter().flatten();
        let latest = latest.max_by_key(|state| state.applied_index);
        let relocation = &self.relocation;
        let moved = departures.into_iter().flatten().any(|state| {
            let by = state.moved.map(|moved| moved.relocation_id);
            by.is_some_and(|by| by[..] == relocation[..])
        });
        Ok(Sight {
            phase: latest.map_or(Phase::Plan, |state| state.phase()),
            moved,
        })
    }

    fn of(&self, shard: GroupId) -> Option<v1::Relocated> {
        Some(v1::Relocated {
            shard: shard.0,
            dataset_id: self.dataset.into(),
            relocation_id: self.relocation.clone().into(),
        })
    }

    async fn arrival(&self, node: NodeId) -> Option<v1::ArrivalState> {
        let mut client = RelocationsClient::new(self.arrives.node_channel(node).ok()?);
        let request = v1::ArrivalStateRequest {
            of: self.of(self.shard_there),
            follow: false,
        };
        let said = tokio::time::timeout(WORD_MAX, client.state(request)).await;
        let signed = said.ok()?.ok()?.into_inner();
        v1::ArrivalState::decode(&signed.state[..]).ok()
    }

    async fn departure(&self, node: NodeId) -> Option<v1::DepartureState> {
        let mut client = DeparturesClient::new(self.leaves.node_channel(node).ok()?);
        let request = v1::DepartureStateRequest {
            of: self.of(self.shard),
            follow: false,
        };
        let said = tokio::time::timeout(WORD_MAX, client.state(request)).await;
        let signed = said.ok()?.ok()?.into_inner();
        v1::DepartureState::decode(&signed.state[..]).ok()
    }

    /// Waits until it is at `point`, where its mover stands still until [`Self::go_on`]; false where it is past it.
    pub(super) async fn reach(&self, world: &World, point: Point) -> Result<bool> {
        let end = Instant::now() + REACH_MAX;
        loop {
            self.mover(world, "STOP");
            let sight = self.look(world).await?;
            let place = point.place(sight);
            if place != Place::There {
                self.mover(world, "CONT");
            }
            match place {
                Place::There => return Ok(true),
                Place::Past => return Ok(false),
                Place::Before => {}
            }
            if Instant::now() > end {
                let said = self.said();
                bail!("not {} in {REACH_MAX:?}: {sight:?}: {said}", point.name());
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Until it is somewhere, or time is over: then nothing.
    pub(super) async fn until(
        &self,
        world: &World,
        patience: Duration,
        wanted: impl Fn(Sight) -> bool,
    ) -> Result<Option<Sight>> {
        let end = Instant::now() + patience;
        loop {
            let sight = self.look(world).await?;
            if wanted(sight) {
                return Ok(Some(sight));
            }
            if Instant::now() > end {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What `reduit relocate status` says, for a report.
    pub(super) fn said(&self) -> String {
        let status = self.destination.json(&["relocate", "status", &self.id]);
        status.map_or_else(|error| format!("{error:#}"), |status| status.to_string())
    }

    /// The mover stands still.
    pub(super) fn hold(&self, world: &World) {
        self.mover(world, "STOP");
    }

    /// The mover goes on, if it was held.
    pub(super) fn go_on(&self, world: &World) {
        self.mover(world, "CONT");
    }

    fn mover(&self, world: &World, signal: &str) {
        let mover = world.local.federation.service(&self.mover_name());
        // One that is not running at the moment needs no holding.
        if let Ok(mover) = mover {
            process::signal(mover, signal).ok();
        }
    }

    /// The people of the region that it goes to.
    pub(super) fn destination(&self) -> &People {
        self.destination
    }

    /// Every node and KMS replica of one of the regions, and of the destination its gateways.
    pub(super) fn members(&self, world: &World, there: bool) -> Result<Vec<String>> {
        let people = if there { self.destination } else { self.source };
        let region = people.region.region.as_str();
        let all = world.local.federation.region(region)?.services.iter();
        let all = all.filter(|one| there || one.kind != Kind::Gateway);
        let running = all.filter(|one| process::is_running(one));
        Ok(running.map(|one| one.name.clone()).collect())
    }

    /// The gateway that moves.
    pub(super) fn mover_name(&self) -> String {
        format!("{}/g1", self.destination.region.region)
    }

    /// Who leads the dataset's shard, or the KMS, in one of the regions.
    pub(super) async fn leader(&self, world: &World, there: bool, kind: Kind) -> Result<String> {
        let (people, operator, shard) = match there {
            false => (self.source, &self.leaves, self.shard),
            true => (self.destination, &self.arrives, self.shard_there),
        };
        let id = if kind == Kind::Kms {
            GroupId::KMS
        } else {
            shard
        };
        let region = people.region.region.as_str();
        let region = world.local.federation.region(region)?;
        world.leader_in(region, operator, Group { kind, id }).await
    }

    /// Nobody may destroy a key of a dataset that has not moved: neither region's people get it.
    pub(super) fn shred_is_refused(&self) -> Result<()> {
        let plan = &self.plan[..];
        self.destination.refused(&["relocate", "shred", plan])?;
        let words = self.destination.file(&format!("{}.words", self.id));
        let collect = ["relocate", "words", plan, "--out", &words];
        self.destination.said(&collect)?;
        let shred = ["relocate", "shred", plan, &words, "--days", "7"];
        self.source.refused(&shred)
    }

    /// The source's key is as it has to be when nobody was allowed to end it.
    pub(super) async fn key_is_kept(&self) -> Result<()> {
        let keys = self.leaves.keys();
        let info = keys
            .key_info(self.dataset)
            .await
            .context("the source's key")?;
        let state = info.key.map(|key| key.state());
        let ended = [v1::KeyState::PendingDestruction, v1::KeyState::Destroyed];
        ensure!(
            state.is_some_and(|state| !ended.contains(&state)),
            "the source's key is {state:?}"
        );
        Ok(())
    }
}

fn nodes(region: &RegionEntry) -> Vec<NodeId> {
    let nodes = region.living(Kind::Node);
    let running = nodes.filter(|node| process::is_running(node));
    running.map(|node| NodeId(node.node_id)).collect()
}
