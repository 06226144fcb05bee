//! Keeping this replica's blocks complete: resolve, repair, scrub, collect.
//!
//! Owns the driver of all four and their pace. What is referenced is resolved into held or missing; what is missing
//! is fetched from another replica, after a pause in which its upload may still bring it, with back-off and few at a
//! time; what is held is re-read at a bounded rate; what nothing can refer to any more is unlinked. Refuses to answer
//! that nothing is missing before every reference has been compared with the disk since the start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use node_state::local;
use parking_lot::Mutex;
use proto::danger::{Switch, broken};
use proto::ids::{GroupId, LogIndex, NodeId, UnixMs};
use replica::state::StateError;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transport::SharedClock;
use transport::fault::Chain;

mod collect;
mod fetch;
mod passes;
mod refill;
mod resolve;
mod rest;
mod shard;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use collect::GARBAGE_GRACE_EPOCHS;
pub use fetch::{FetchError, Peers, RegionPeers};
pub use passes::{Pass, Passes};
pub use refill::{Holding, Refill};
pub use rest::{Rest, RestRead};
pub use shard::{ReplicaError, ShardReplica, Shards};
pub(crate) use shard::{is_freed, is_object, is_referenced, lease_holder, upload_epoch};

use self::collect::Collector;
use self::passes::Scrubber;
use self::refill::Counts;
use self::resolve::Reconciled;
use crate::blocks::{
    BlockHead, BlockKey, BlockOwner, BlockStore, PutError, PutMode, StoreFailed, UnlinkError,
};

/// Blocks fetched at once, over all shards.
pub const FETCHES_MAX: usize = 4;
/// Missing blocks looked at in one round of a shard.
const ROUND_BLOCKS: usize = 256;
/// Blocks whose back-off is remembered.
const BACK_OFFS_MAX: usize = 4096;

/// The pace of repair.
#[derive(Debug, Clone, Copy)]
pub struct RepairOptions {
    /// How long a missing block is left to its upload before it is fetched.
    pub pause: Duration,
    /// Wait after the first failed fetch of a block; doubles up to `back_off_max`.
    pub back_off_min: Duration,
    /// The longest wait between two fetches of a block.
    pub back_off_max: Duration,
    /// How often shards are looked at without being asked to.
    pub round_every: Duration,
    /// Bytes re-read a second by the scrubber; 0 turns it off.
    pub scrub_bytes_per_s: u64,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(2),
            back_off_min: Duration::from_millis(500),
            back_off_max: Duration::from_secs(60),
            round_every: Duration::from_secs(1),
            scrub_bytes_per_s: 8 << 20,
        }
    }
}

/// Why a round of repair failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The shard's replica.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The block store, on unlinking.
    #[error("blocks could not be unlinked")]
    Unlink(#[from] UnlinkError),
    /// The block store has failed; the process must exit.
    #[error("the block store has failed")]
    Store(#[source] Arc<StoreFailed>),
    /// The state of a group cannot be read; the process must exit.
    #[error("the state could not be read")]
    State(#[source] StateError),
    /// The runtime is shutting down.
    #[error("the node is stopping")]
    Stopping,
}

/// What is missing on this replica of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// References up to the index that are unresolved or missing: fresh ones count one a version.
    pub count: u64,
    /// The index this replica has applied.
    pub applied: LogIndex,
}

#[derive(Default)]
struct ShardProgress {
    collector: Arc<Mutex<Collector>>,
    reconciled: Reconciled,
    /// How far the comparison that an operator asked for has come; none is under way without.
    again: Option<Reconciled>,
    refill: Option<Refill>,
    fetch_after: Option<BlockKey>,
}

struct BackOff {
    due: Instant,
    wait: Duration,
}

/// Repair of all shards of a node.
pub struct Repair {
    node: NodeId,
    store: BlockStore,
    shards: Arc<dyn Shards>,
    peers: Arc<dyn Peers>,
    clock: SharedClock,
    options: RepairOptions,
    wake: Notify,
    scrubber: Scrubber,
    counts: Counts,
    progress: Mutex<BTreeMap<GroupId, ShardProgress>>,
    back_offs: Mutex<HashMap<(GroupId, BlockKey), BackOff>>,
    started_at: UnixMs,
    rest: OnceLock<Rest>,
}

impl Repair {
    /// Repair for `node`. Nothing happens before [`Self::run`] or a call.
    pub fn new(
        node: NodeId,
        store: BlockStore,
        shards: Arc<dyn Shards>,
        peers: Arc<dyn Peers>,
        clock: SharedClock,
        options: RepairOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            started_at: clock.now(),
            node,
            store,
            shards,
            peers,
            clock,
            options,
            wake: Notify::new(),
            scrubber: Scrubber::default(),
            rest: OnceLock::new(),
            counts: Counts::default(),
            progress: Mutex::default(),
            back_offs: Mutex::default(),
        })
    }

    /// Something was applied or flushed: look soon. Does not block.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// A snapshot took the place of a shard's state: what was known of its references is void. Its versions are to be
    /// fresh again (`node_state::local::reset`). Does not block for long; call it from the machine's `installed`.
    pub fn state_replaced(&self, shard: GroupId) {
        if let Some(progress) = self.progress.lock().get_mut(&shard) {
            // Another one rather than a lock on this one: its step may be waiting for the very state store that is
            // installing. What that step decides by the older state still holds.
            progress.collector = Arc::default();
        }
        self.store.unsettle(shard);
        self.wake();
    }

    /// How many references up to `index` this replica cannot serve yet; `None` while that is not known: before all
    /// references have been compared with the disk since the start. Counts to `limit`. *Blocks.*
    pub fn missing(
        &self,
        replica: &dyn ShardReplica,
        index: LogIndex,
        limit: u64,
    ) -> Result<Option<Missing>, ReplicaError> {
        let view = replica.view()?;
        let applied = view
            .applied
            .as_ref()
            .map_or(LogIndex(0), |applied| applied.index);
        let reconciled = self
            .progress
            .lock()
            .get(&replica.shard())
            .map(|p| p.reconciled);
        if reconciled != Some(Reconciled::Whole) {
            return Ok(None);
        }
        let count = local::count_missing_through(index, view.local.as_ref(), limit);
        Ok(Some(Missing { count, applied }))
    }

    /// The upload epoch of a shard that this replica has applied and flushed, as far as noticed.
    pub fn flushed_epoch(&self, shard: GroupId) -> Option<proto::ids::UploadEpoch> {
        let collector = self
            .progress
            .lock()
            .get(&shard)
            .map(|p| Arc::clone(&p.collector))?;
        collector.lock().flushed_epoch()
    }

    /// Repairs until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, scrub_seed: u64) {
        let rounds = async {
            loop {
                self.round().await;
                tokio::select! {
                    biased;
                    () = self.wake.notified() => {}
                    () = self.store.damage_noted() => {}
                    () = tokio::time::sleep(self.options.round_every) => {}
                }
            }
        };
        let scrub = self.scrub(scrub_seed);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = rounds => {}
            error = scrub => match error {
                RepairError::Stopping => {}
                // As every other reader of a state that cannot be read.
                error => panic!("the scrubber cannot go on: {}", Chain(&error)),
            },
        }
    }

    /// One round over all shards: resolve, fetch, collect. Errors are logged; the next round tries again.
    pub async fn round(&self) {
        for replica in self.shards.all() {
            let shard = replica.shard();
            if let Err(error) = self.round_of(&replica).await {
                tracing::warn!(shard = shard.0, error = %Chain(&error), "a round of repair failed");
            }
        }
        let stats = self.store.stats();
        for (name, value) in [
            ("reduit_blocks", stats.blocks),
            ("reduit_block_bytes", stats.bytes),
            ("reduit_blocks_damaged", stats.damaged),
            ("reduit_block_segments", stats.segments),
            ("reduit_block_gaps", stats.gaps),
            ("reduit_block_space_available_bytes", stats.space_available),
        ] {
            // Exact up to 2^53, which is beyond any node.
            metrics::gauge!(name).set(value as f64);
        }
    }

    async fn round_of(&self, replica: &Arc<dyn ShardReplica>) -> Result<(), RepairError> {
        let shard = replica.shard();
        let (collector, reconciled, again) = {
            let mut progress = self.progress.lock();
            let progress = progress.entry(shard).or_default();
            let collector = Arc::clone(&progress.collector);
            (collector, progress.reconciled, progress.again)
        };
        let (store, in_line) = (self.store.clone(), Arc::clone(replica));
        let (reconciled_now, again_now) = blocking(move || {
            while resolve::resolve_fresh(in_line.as_ref(), &store)? > 0 {}
            resolve::note_damaged(in_line.as_ref(), &store)?;
            let now = resolve::reconcile(in_line.as_ref(), &store, reconciled)?;
            let again = again
                .map(|so_far| resolve::reconcile(in_line.as_ref(), &store, so_far))
                .transpose()?;
            Ok::<_, ReplicaError>((now, again))
        })
        .await??;
        let mut whole = reconciled_now == Reconciled::Whole;
        if let Some(progress) = self.progress.lock().get_mut(&shard) {
            progress.reconciled = reconciled_now;
            // Where it was asked for once more meanwhile, it begins anew.
            if progress.again == again {
                progress.again = again_now.filter(|now| *now != Reconciled::Whole);
            }
            whole &= progress.again.is_none();
        }
        if !whole {
            self.wake();
        }
        self.fetch_missing(replica).await?;
        if collect::collect(&collector, replica, &self.store).await? > 0 {
            self.wake();
        }
        Ok(())
    }

    async fn fetch_missing(&self, replica: &Arc<dyn ShardReplica>) -> Result<(), RepairError> {
        if broken(Switch::LeaveDamaged) {
            return Ok(());
        }
        let shard = replica.shard();
        let after = self.progress.lock().get(&shard).and_then(|p| p.fetch_after);
        let reading = Arc::clone(replica);
        let wanted = blocking(move || wanted(reading.as_ref(), after)).await??;
        if after.is_none() {
            self.note_missing(shard, !wanted.is_empty());
        }
        let next = (wanted.len() == ROUND_BLOCKS)
            .then(|| wanted.last().map(|w| w.key))
            .flatten();
        if let Some(progress) = self.progress.lock().get_mut(&shard) {
            progress.fetch_after = next;
        }
        let peers: Vec<_> = replica
            .replicas()
            .into_iter()
            .filter(|id| *id != self.node)
            .collect();
        let mut done = Vec::new();
        let mut fetches = FuturesUnordered::new();
        for want in wanted {
            let key = want.key;
            let Some(head) = want.head else {
                done.push(key);
                continue;
            };
            if self.store.holds(&key, &head.digest) {
                done.push(key);
                continue;
            }
            if !self.may_try(shard, key) {
                continue;
            }
            if fetches.len() == FETCHES_MAX {
                done.extend(fetches.next().await.flatten());
            }
            // Later than any upload of it began, as a receipt's time must be.
            let owner = BlockOwner {
                begun_at: self.clock.now(),
                ..head.owner
            };
            fetches.push(self.fetch_one(shard, BlockHead { owner, ..head }, &peers));
        }
        while let Some(fetched) = fetches.next().await {
            done.extend(fetched);
        }
        {
            let mut back_offs = self.back_offs.lock();
            for key in &done {
                back_offs.remove(&(shard, *key));
            }
        }
        if !done.is_empty() {
            // More may be missing, and there is someone who has it: no need to wait for the next round.
            self.wake();
        }
        let writing = Arc::clone(replica);
        blocking(move || resolve::clear_missing(writing.as_ref(), &done)).await??;
        Ok(())
    }

    /// Whether it is this block's turn. The first time it is asked for, its pause begins.
    fn may_try(&self, shard: GroupId, key: BlockKey) -> bool {
        let mut back_offs = self.back_offs.lock();
        let now = Instant::now();
        if let Some(back_off) = back_offs.get(&(shard, key)) {
            return back_off.due <= now;
        }
        if back_offs.len() >= BACK_OFFS_MAX {
            // So many are missing that this is no upload's last block but a new or restored replica.
            return true;
        }
        let wait = self.options.back_off_min;
        back_offs.insert(
            (shard, key),
            BackOff {
                due: now + self.options.pause,
                wait,
            },
        );
        self.options.pause.is_zero()
    }

    /// Fetches one block from the first peer that has it; answers its key once it is durable here.
    async fn fetch_one(
        &self,
        shard: GroupId,
        head: BlockHead,
        peers: &[NodeId],
    ) -> Option<BlockKey> {
        // Another peer first for every block, so that repair does not lean on one.
        let start = usize::from(head.key.version.0[0]).wrapping_add(head.key.number.0 as usize);
        for i in 0..peers.len() {
            let peer = peers[(start + i) % peers.len()];
            match self.fetch_from(peer, shard, head).await {
                Ok(()) => {
                    self.note_fetched(shard, head.bytes);
                    return Some(head.key);
                }
                Err(error) => {
                    tracing::debug!(peer = peer.0, error = %Chain(&error), "fetching a block failed");
                }
            }
        }
        self.note_not_fetched();
        if let Some(back_off) = self.back_offs.lock().get_mut(&(shard, head.key)) {
            back_off.due = Instant::now() + back_off.wait;
            back_off.wait = (back_off.wait * 2).min(self.options.back_off_max);
        }
        None
    }

    async fn fetch_from(
        &self,
        peer: NodeId,
        shard: GroupId,
        head: BlockHead,
    ) -> Result<(), FetchOneError> {
        let room = self.store.room(head.bytes).await?;
        let block = self.peers.fetch(peer, shard, head, room).await?;
        self.store.put(block, PutMode::Repair).await?;
        Ok(())
    }
}

/// A block to be fetched; no head when nothing refers to it any more.
struct Wanted {
    key: BlockKey,
    head: Option<BlockHead>,
}

fn wanted(
    replica: &dyn ShardReplica,
    after: Option<BlockKey>,
) -> Result<Vec<Wanted>, ReplicaError> {
    let view = replica.view()?;
    let missing = shard::missing(view.local.as_ref(), after, ROUND_BLOCKS);
    let mut entry: Option<(proto::ids::ObjectVersionId, Option<shard::Referenced>)> = None;
    let mut out = Vec::with_capacity(missing.len());
    for key in missing {
        if entry
            .as_ref()
            .is_none_or(|(version, _)| *version != key.version)
        {
            entry = Some((
                key.version,
                shard::referenced(view.state.as_ref(), &key.version),
            ));
        }
        let of = entry.as_ref().and_then(|(_, of)| of.as_ref());
        let head = of.and_then(|of| {
            let (digest, bytes) = of.block(key.number)?;
            let owner = BlockOwner {
                shard: replica.shard(),
                dataset: of.dataset,
                upload_epoch: of.upload_epoch,
                // Set when the block is fetched.
                begun_at: UnixMs(0),
            };
            Some(BlockHead {
                key,
                owner,
                digest,
                bytes,
            })
        });
        out.push(Wanted { key, head });
    }
    Ok(out)
}

#[derive(Debug, thiserror::Error)]
enum FetchOneError {
    #[error("no block came")]
    Fetch(#[from] FetchError),
    #[error("the block could not be stored")]
    Put(#[from] PutError),
}

/// Runs what may wait for the disk where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RepairError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| match error.try_into_panic() {
            // The state's readers panic when the store cannot be read: that must end the process, not this task.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => RepairError::Stopping,
        })
}
