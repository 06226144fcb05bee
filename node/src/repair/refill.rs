//! How far the fetching of what is missing has come.
//!
//! Owns the counts of blocks fetched: since the process started, and in each shard since something was first missed.
//! Refuses to estimate: who asks divides.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::ids::{GroupId, LogIndex, UnixMs};
use tokio::time::Instant;

use super::resolve::Reconciled;
use super::{Repair, ReplicaError, ShardReplica};

/// Fetching in one shard, from the first block missed to the last one fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refill {
    /// When something was first missed.
    pub began_at: UnixMs,
    began: Instant,
    /// Blocks fetched since.
    pub fetched_blocks: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
}

impl Refill {
    /// How long it has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Counts since the process started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    repaired: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    pub(super) fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }
}

/// What an operator is told of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// References are being compared with the disk, so that more may be missing than is known.
    pub comparing: bool,
    /// Blocks that are referenced and not held, and versions not looked at yet.
    pub missing: u64,
    /// While something is missing.
    pub refill: Option<Refill>,
}

impl Repair {
    /// When the counts began.
    pub fn started_at(&self) -> UnixMs {
        self.started_at
    }

    /// Blocks fetched from peers since the process started, and fetches that no peer could serve.
    pub fn repaired(&self) -> (u64, u64) {
        (
            self.counts.repaired(),
            self.counts.failed.load(Ordering::Relaxed),
        )
    }

    /// What is held and missed of a shard. Reads the whole table of missing blocks. *Blocks.*
    pub fn holding(&self, replica: &dyn ShardReplica) -> Result<Holding, ReplicaError> {
        let (comparing, refill) = {
            let progress = self.progress.lock();
            let of = progress.get(&replica.shard());
            let whole = of.is_some_and(|p| p.reconciled == Reconciled::Whole && p.again.is_none());
            (!whole, of.and_then(|p| p.refill))
        };
        // After the look at the comparison: what that has found is in the table.
        let view = replica.view()?;
        let everything = LogIndex(u64::MAX);
        let missing =
            node_state::local::count_missing_through(everything, view.local.as_ref(), u64::MAX);
        Ok(Holding {
            comparing,
            missing,
            refill,
        })
    }

    /// Compares every reference with what is held once more, and tries at once what was put off.
    pub fn repair_now(&self) {
        for progress in self.progress.lock().values_mut() {
            progress.again = Some(Reconciled::No);
        }
        let now = Instant::now();
        for back_off in self.back_offs.lock().values_mut() {
            back_off.due = back_off.due.min(now);
            back_off.wait = self.options.back_off_min;
        }
        self.wake();
    }

    pub(super) fn note_fetched(&self, shard: GroupId, bytes: u32) {
        metrics::counter!("reduit_blocks_repaired_total").increment(1);
        self.counts.repaired.fetch_add(1, Ordering::Relaxed);
        let mut progress = self.progress.lock();
        if let Some(refill) = progress.get_mut(&shard).and_then(|p| p.refill.as_mut()) {
            refill.fetched_blocks += 1;
            refill.fetched_bytes += u64::from(bytes);
        }
    }

    pub(super) fn note_not_fetched(&self) {
        metrics::counter!("reduit_block_repairs_failed_total").increment(1);
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of whether anything is missing in a shard.
    pub(super) fn note_missing(&self, shard: GroupId, any: bool) {
        if !any {
            // Of what was freed while it was missing.
            self.back_offs.lock().retain(|(of, _), _| *of != shard);
        }
        if let Some(progress) = self.progress.lock().get_mut(&shard) {
            match (any, progress.refill) {
                (true, None) => {
                    progress.refill = Some(Refill {
                        began_at: self.clock.now(),
                        began: Instant::now(),
                        fetched_blocks: 0,
                        fetched_bytes: 0,
                    });
                }
                (false, Some(_)) => progress.refill = None,
                _ => {}
            }
        }
    }
}
