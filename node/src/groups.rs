//! This node's replicas: the catalog and every shard of the region.
//!
//! Owns which groups are open and the view that repair has of a shard. Refuses a group that the catalog does not
//! name: the region was founded with its shards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_state::catalog;
use parking_lot::{Mutex, RwLock};
use proto::ids::{GroupId, LogIndex, NodeId};
use proto::store::Writer;
use replica::host::{Group, Host, OpenError};
use replica::state::{StateError, View};

use crate::machine::{CatalogAdapter, Flushed, RepairSlot, ShardAdapter};
use crate::repair::{ReplicaError, ShardReplica, Shards};

/// One shard's replica here.
pub(crate) struct Shard {
    pub(crate) group: Group,
    flushed: Arc<Flushed>,
    // When a majority last confirmed what is applied here. Of the monotonic clock: one that goes back would call old
    // what is older still.
    confirmed_at: Mutex<Option<Instant>>,
    aged: Mutex<Aged>,
}

/// Two applied indexes, the older one taken at least [`AGE`] ago.
struct Aged {
    since: Instant,
    older: LogIndex,
    newer: LogIndex,
}

/// How long blocks of a finished object may still be on their way to this replica before somebody is told.
const AGE: Duration = Duration::from_secs(10);

impl Shard {
    fn new(group: Group, flushed: Arc<Flushed>) -> Self {
        let aged = Aged {
            since: Instant::now(),
            older: LogIndex(0),
            newer: LogIndex(0),
        };
        Self {
            group,
            flushed,
            confirmed_at: Mutex::default(),
            aged: Mutex::new(aged),
        }
    }

    /// An index that was applied a while ago: what is missing up to it is missing, not on its way.
    pub(crate) fn aged(&self) -> LogIndex {
        let mut aged = self.aged.lock();
        if aged.since.elapsed() >= AGE {
            let newer = self.group.applied().unwrap_or_default();
            *aged = Aged {
                since: Instant::now(),
                older: aged.newer,
                newer,
            };
        }
        aged.older
    }

    /// A majority has confirmed, after `asked_at`, that what is applied here was current.
    pub(crate) fn confirmed(&self, asked_at: Instant) {
        let mut confirmed = self.confirmed_at.lock();
        *confirmed = (*confirmed).max(Some(asked_at));
    }

    /// How stale a read of what is applied here can be; `None` when that was never confirmed since the start.
    pub(crate) fn stale_ms(&self, now: Instant) -> Option<u64> {
        let confirmed = (*self.confirmed_at.lock())?;
        let age = now.saturating_duration_since(confirmed);
        Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }
}

impl ShardReplica for Shard {
    fn shard(&self) -> GroupId {
        self.group.id()
    }

    fn view(&self) -> Result<View, ReplicaError> {
        self.group.view().map_err(replica_error)
    }

    fn local_write(&self, write: &mut dyn FnMut(&mut dyn Writer)) -> Result<(), ReplicaError> {
        self.group
            .local_write(|local| write(local))
            .map_err(replica_error)
    }

    fn flushed(&self) -> Option<LogIndex> {
        self.flushed.index()
    }

    fn replicas(&self) -> Vec<NodeId> {
        self.group.voters().all().into_iter().collect()
    }
}

fn replica_error(error: StateError) -> ReplicaError {
    ReplicaError(Box::new(error))
}

/// The groups of this node.
pub(crate) struct Groups {
    host: Host,
    pub(crate) catalog: Group,
    shards: RwLock<BTreeMap<GroupId, Arc<Shard>>>,
    // One opening at a time: a group that is being opened is in no list yet.
    opening: tokio::sync::Mutex<()>,
    repair: RepairSlot,
}

impl Groups {
    /// Opens the catalog.
    pub(crate) async fn open(host: Host, repair: RepairSlot) -> Result<Arc<Self>, OpenError> {
        let catalog = host
            .open_group(GroupId::CATALOG, Arc::new(CatalogAdapter))
            .await?;
        let (shards, opening) = (RwLock::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self {
            host,
            catalog,
            shards,
            opening,
            repair,
        }))
    }

    /// Opens every shard the catalog names that is not open yet; answers how many the region has.
    pub(crate) async fn open_shards(&self) -> Result<usize, OpenShardsError> {
        let named = {
            let state = self.catalog.reader().map_err(OpenShardsError::State)?;
            catalog::region(&*state)
                .map(|region| region.shards)
                .unwrap_or_default()
        };
        let _one = self.opening.lock().await;
        for shard in named.iter().copied().map(GroupId) {
            if self.shards.read().contains_key(&shard) {
                continue;
            }
            let flushed = Arc::new(Flushed::default());
            let machine = ShardAdapter {
                shard,
                flushed: Arc::clone(&flushed),
                repair: self.repair.clone(),
            };
            let group = self.host.open_group(shard, Arc::new(machine)).await;
            let group = group.map_err(OpenShardsError::Open)?;
            tracing::info!(group = shard.0, "shard opened");
            self.shards
                .write()
                .insert(shard, Arc::new(Shard::new(group, flushed)));
            if let Some(repair) = self.repair.repair() {
                repair.wake();
            }
        }
        Ok(named.len())
    }

    /// A shard's replica.
    pub(crate) fn shard(&self, id: GroupId) -> Option<Arc<Shard>> {
        self.shards.read().get(&id).cloned()
    }

    /// Every shard's replica, in order.
    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    /// Any group of this node.
    pub(crate) fn group(&self, id: GroupId) -> Option<Group> {
        if id == GroupId::CATALOG {
            return Some(self.catalog.clone());
        }
        self.shard(id).map(|shard| shard.group.clone())
    }

    /// All groups of this node, the catalog first.
    pub(crate) fn all(&self) -> Vec<Group> {
        let shards = self.shards();
        let shards = shards.iter().map(|shard| shard.group.clone());
        std::iter::once(self.catalog.clone())
            .chain(shards)
            .collect()
    }
}

/// Why the shards were not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenShardsError {
    /// The catalog could not be read.
    #[error("the catalog could not be read")]
    State(#[source] StateError),
    /// A group was not opened.
    #[error("a shard could not be opened")]
    Open(#[source] OpenError),
}

impl Shards for Groups {
    fn shard(&self, shard: GroupId) -> Option<Arc<dyn ShardReplica>> {
        Groups::shard(self, shard).map(|shard| shard as Arc<dyn ShardReplica>)
    }

    fn all(&self) -> Vec<Arc<dyn ShardReplica>> {
        self.shards()
            .into_iter()
            .map(|shard| shard as Arc<dyn ShardReplica>)
            .collect()
    }
}
