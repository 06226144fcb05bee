//! The world of a run: regions of real daemons on a network, with disks and clocks that can fail.
//!
//! Owns the regions, who leads in them, and which members are lost for good. Refuses to exist outside
//! [`isolate`]: the network goes with the process. What is injected and healed is in
//! [`nemesis`](crate::nemesis).

mod abroad;
mod digest;
mod isolate;
mod place;
mod recover;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use client::{CreateOptions, Dataset, PutOptions, Region, Tuning};
use local::files::{CLIENTS, OPERATORS};
use local::{FederationPlan, Kind, Local, RegionEntry, Service, ceremony, process};
use parking_lot::Mutex;
use proto::ids::{DatasetName, GroupId, NodeId, ObjectKey};
use proto::v1;
use proto::v1::node_operate_client::NodeOperateClient;

use crate::nemesis::Strobe;
use crate::net::Net;

pub use digest::{Digests, ReplicaDigest};
pub use isolate::{Skipped, isolate};
pub(crate) use place::{FEDERATION_PORT, RIGHT};
pub use place::{Furniture, Rooms};
pub use recover::Recovery;

/// How long a group may take to have a leader, with its majority up and reachable.
const LEADER_MAX: Duration = Duration::from_secs(30);
/// How long a member may take to say who leads.
const CLAIM_MAX: Duration = Duration::from_millis(500);
/// How long a probe may take: the deadline of its client.
const PROBE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether something has happened.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// What to build.
#[derive(Debug, Clone)]
pub struct WorldPlan {
    /// Regions; the first is the one that faults happen to.
    pub federation: FederationPlan,
    /// The folder of the daemons.
    pub bin: PathBuf,
    /// Volumes, clocks, environment.
    pub furniture: Furniture,
}

impl WorldPlan {
    /// One region of `members` nodes and as many KMS replicas, with everything that can fail.
    pub fn region(members: u32, shards: u32, bin: &Path) -> Self {
        let mut federation = FederationPlan::demo();
        federation.regions.truncate(1);
        for region in &mut federation.regions {
            (region.nodes, region.kms, region.shards) = (members, members, shards);
        }
        Self {
            federation,
            bin: bin.to_owned(),
            furniture: Furniture {
                volumes: Some(bin.join("reduit-faultfs")),
                clocks: true,
                environment: Vec::new(),
            },
        }
    }
}

/// A group of one region: consensus among nodes, or among KMS replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Whose.
    pub kind: Kind,
    /// Which of them.
    pub id: GroupId,
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.kind, self.id) {
            (Kind::Kms, _) => write!(f, "kms"),
            (Kind::Node, GroupId::CATALOG) => write!(f, "catalog"),
            (Kind::Node, GroupId(id)) => write!(f, "shard {id}"),
            (Kind::Gateway, _) => write!(f, "gateways"),
        }
    }
}

/// A member that may not come back under its id, and how far its replacement is.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) why: &'static str,
    pub(crate) removed: bool,
    pub(crate) fresh: Option<String>,
    pub(crate) admitted: bool,
}

/// Running regions.
pub struct World {
    /// Their processes.
    pub local: Local,
    pub(crate) rooms: Arc<Rooms>,
    home: String,
    /// Members that have to be replaced.
    pub(crate) lost: BTreeMap<String, Lost>,
    /// A member to be removed: the second half of a change of membership.
    pub(crate) leaving: Option<String>,
    /// Members whose blocks were damaged and, as far as is known, not mended yet.
    pub(crate) damaged: BTreeSet<String>,
    pub(crate) strobe: Option<Strobe>,
    operator: Mutex<Option<Region>>,
    probe: Option<Dataset>,
    probes: u64,
}

impl World {
    /// Makes and starts everything below `dir`, and waits until it is ready.
    pub async fn up(dir: &Path, plan: &WorldPlan) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let regions: Vec<_> = plan.federation.regions.iter().map(|r| &r.region).collect();
        let home = regions.first().context("a world without regions")?;
        let home = home.to_string();
        let net = Net::build(&regions)?;
        let rooms = Arc::new(Rooms::new(net, &dir, plan.furniture.clone())?);
        let places: Arc<Rooms> = Arc::clone(&rooms);
        let folder = dir.join("regions");
        match Local::up_in(&folder, &plan.federation, &plan.bin, places).await {
            Ok(local) => Ok(Self {
                local,
                rooms,
                home,
                lost: BTreeMap::new(),
                leaving: None,
                damaged: BTreeSet::new(),
                strobe: None,
                operator: Mutex::new(None),
                probe: None,
                probes: 0,
            }),
            Err(error) => {
                if let Ok(mut local) = Local::load(&folder) {
                    local.down()?;
                }
                Err(error)
            }
        }
    }

    /// Ends every process. The rest goes with this one.
    pub fn down(mut self) -> Result<()> {
        self.strobe = None;
        for service in self.services(None) {
            // One that is paused does not end when it is asked to.
            process::signal(&service, "CONT").ok();
        }
        self.local.down()
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.rooms.net
    }

    /// The region that faults happen to.
    pub fn home(&self) -> Result<&RegionEntry> {
        self.local.federation.region(&self.home)
    }

    /// Where a service's volume keeps what is durable.
    pub fn backing(&self, name: &str) -> PathBuf {
        self.rooms.backing(name)
    }

    /// Members of the home region, of one kind or of both, the lost ones included.
    pub fn services(&self, kind: Option<Kind>) -> Vec<Service> {
        let home = self.home().map(|region| region.services.as_slice());
        let all = home.unwrap_or_default().iter();
        all.filter(|service| !service.removed && kind.is_none_or(|kind| service.kind == kind))
            .cloned()
            .collect()
    }

    /// As [`World::services`], only those that run and are not lost.
    pub fn living(&self, kind: Option<Kind>) -> Vec<Service> {
        let mut services = self.services(kind);
        services.retain(|s| process::is_running(s) && !self.lost.contains_key(&s.name));
        services
    }

    /// The home region as its first operator sees it.
    pub async fn operator(&self) -> Result<Region> {
        let held = self.operator.lock().clone();
        if let Some(held) = held {
            return Ok(held);
        }
        let fresh = ceremony::connect(self.home()?, OPERATORS[0]).await?;
        Ok(self.operator.lock().insert(fresh).clone())
    }

    /// Members have come or gone: who knew them knows them no more.
    pub(crate) fn members_changed(&self) {
        *self.operator.lock() = None;
    }

    /// Every group of the home region.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        let groups = self.claims().await?.groups;
        ensure!(groups.len() > 1, "no node says which groups there are");
        Ok(groups.into_keys().collect())
    }

    /// What every living member says of its groups; one that does not answer soon says nothing.
    pub(crate) async fn claims(&self) -> Result<Claims> {
        let operator = self.operator().await?;
        let asked = self.living(None).into_iter().map(|service| {
            let operator = operator.clone();
            async move {
                let asked = tokio::time::timeout(CLAIM_MAX, claims_of(&operator, &service));
                asked.await.ok().and_then(Result::ok).unwrap_or_default()
            }
        });
        let mut claims = Claims::default();
        for said in futures::future::join_all(asked).await.into_iter().flatten() {
            claims.groups.entry(said.group).or_default().push(said);
        }
        Ok(claims)
    }

    /// The service that leads a group, as soon as one does and runs.
    pub async fn leader(&self, group: Group) -> Result<String> {
        self.leader_other_than(group, None).await
    }

    /// As [`World::leader`], when another than `old` leads.
    pub async fn leader_other_than(&self, group: Group, old: Option<&str>) -> Result<String> {
        until(&format!("a leader of {group}"), LEADER_MAX, async || {
            let id = self.claims().await?.leader(group);
            let found = self.living(Some(group.kind)).into_iter();
            let found = found.map(|s| (s.node_id, s.name));
            let mut found = found.filter(|(at, _)| Some(*at) == id);
            Ok(found
                .next()
                .map(|(_, name)| name)
                .filter(|name| Some(name.as_str()) != old))
        })
        .await
    }

    /// Writes an object and reads it back: whether the home region serves, and how long that took.
    pub async fn probe(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let dataset = self.probe_dataset().await?;
        self.probes += 1;
        let key: ObjectKey = format!("probe/{}", self.probes % 16).parse()?;
        let body = format!("probe {}", self.probes).into_bytes();
        dataset
            .put(&key, body.clone(), &PutOptions::default())
            .await
            .context("the put of a probe")?;
        let read = dataset
            .get_bytes(&key)
            .await
            .context("the get of a probe")?;
        ensure!(read[..] == body[..], "a probe read something else");
        Ok(began.elapsed())
    }

    /// As [`World::probe`], with an object that goes in blocks; its key and body.
    pub async fn probe_blocks(&mut self, bytes: usize) -> Result<(ObjectKey, Vec<u8>)> {
        let dataset = self.probe_dataset().await?;
        self.probes += 1;
        let key: ObjectKey = format!("blocks/{}", self.probes).parse()?;
        let body: Vec<u8> = (0..bytes as u64)
            .map(|at| ((at ^ self.probes) % 251) as u8)
            .collect();
        dataset
            .put(&key, body.clone(), &PutOptions::default())
            .await
            .context("the put of a large probe")?;
        Ok((key, body))
    }

    /// The dataset of the probes.
    pub async fn probe_dataset(&mut self) -> Result<Dataset> {
        if let Some(dataset) = &self.probe {
            return Ok(dataset.clone());
        }
        let tuning = Tuning {
            deadline: PROBE_MAX,
            ..Tuning::default()
        };
        let region = Region::connect(&self.home()?.context(CLIENTS[1]), tuning).await?;
        let name: DatasetName = "nemesis-probe".parse()?;
        let dataset = match region.dataset(&name).await {
            Ok(dataset) => dataset,
            Err(client::Error::NoSuchDataset) => {
                let options = CreateOptions::default();
                region.create_dataset(&name, &options).await?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(self.probe.insert(dataset).clone())
    }
}

/// What one member says of one of its groups.
pub(crate) struct Claim {
    pub(crate) group: Group,
    pub(crate) member: u64,
    term: u64,
    /// 0 for none.
    leader: u64,
    pub(crate) applied_index: u64,
    pub(crate) missing_blocks: u64,
}

async fn claims_of(operator: &Region, service: &Service) -> Result<Vec<Claim>> {
    let id = NodeId(service.node_id);
    let group = |id| Group {
        kind: service.kind,
        id,
    };
    if service.kind == Kind::Kms {
        let kms = operator.kms_status(id).await?;
        return Ok(vec![Claim {
            group: group(GroupId::KMS),
            member: id.0,
            term: kms.term,
            leader: kms.leader,
            applied_index: kms.applied_index,
            missing_blocks: 0,
        }]);
    }
    let mut node = NodeOperateClient::new(operator.node_channel(id)?);
    let node = node.status(v1::NodeStatusRequest {}).await?.into_inner();
    let claims = node.groups.into_iter().map(|said| Claim {
        group: group(GroupId(said.group)),
        member: id.0,
        term: said.term,
        leader: said.leader,
        applied_index: said.applied_index,
        missing_blocks: said.missing_blocks,
    });
    Ok(claims.collect())
}

/// What the members say of every group.
#[derive(Default)]
pub(crate) struct Claims {
    pub(crate) groups: BTreeMap<Group, Vec<Claim>>,
}

impl Claims {
    /// Who leads in the latest term that anybody knows of.
    pub(crate) fn leader(&self, group: Group) -> Option<u64> {
        let claims = self.groups.get(&group)?;
        let latest = claims.iter().map(|claim| claim.term).max()?;
        let mut claims = claims.iter();
        let leads = claims.find(|claim| claim.term == latest && claim.leader != 0);
        leads.map(|claim| claim.leader)
    }

    /// The first group without a leader.
    pub(crate) fn headless(&self) -> Option<Group> {
        let mut groups = self.groups.keys();
        groups.find(|group| self.leader(**group).is_none()).copied()
    }

    /// What one member says.
    pub(crate) fn of(&self, service: &Service) -> impl Iterator<Item = &Claim> {
        let all = self.groups.iter();
        let own = all.filter(|(group, _)| group.kind == service.kind);
        own.flat_map(|(_, claims)| claims)
            .filter(|claim| claim.member == service.node_id)
    }
}

/// Looks until `look` sees something, or `patience` ends; its errors end it at once.
pub(crate) async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() > end {
            bail!("{what}: not within {patience:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}
