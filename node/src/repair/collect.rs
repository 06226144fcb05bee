//! Which blocks may be unlinked, and their unlinking.
//!
//! Owns the two rules of DESIGN section 6. A block goes when (a) no entry refers to it and its upload epoch is more
//! than 24 behind the shard's, so that apply refuses every commit of it, or (b) its version was freed under an epoch
//! that has ended; and in both cases only when the entry that says so is applied *and flushed*: after a power cut the
//! state must not refer to what is gone. Refuses clocks and start-up scans.

use std::sync::Arc;

use node_state::limits::EPOCHS_KEPT;
use proto::danger::{Switch, broken};
use proto::ids::{LogIndex, ObjectVersionId, UploadEpoch};
use replica::state::View;

use super::shard::{self, ReplicaError, ShardReplica};
use crate::blocks::{BlockKey, BlockStore, Held, UNLINK_BLOCKS_MAX};

/// Epochs that must have ended since a version was freed: readers that found it before finish their reads.
pub const GARBAGE_GRACE_EPOCHS: u64 = 1;
/// Versions looked at in one step.
const STEP_VERSIONS: usize = 512;
/// Blocks looked at in one step of the sweep for abandoned uploads.
const STEP_BLOCKS: usize = 4096;

/// Rule (a), for a block that nothing refers to.
pub(crate) fn upload_is_over(upload: UploadEpoch, flushed: UploadEpoch) -> bool {
    upload.0.saturating_add(EPOCHS_KEPT) < flushed.0
}

/// Rule (b), for a version freed under `freed`.
pub(crate) fn garbage_is_due(freed: UploadEpoch, flushed: UploadEpoch) -> bool {
    freed.0.saturating_add(GARBAGE_GRACE_EPOCHS) <= flushed.0
}

/// What has been collected in one shard so far.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    /// An upload epoch and the index of a view that showed it; it counts once that index is flushed.
    seen: Option<(LogIndex, UploadEpoch)>,
    flushed: Option<UploadEpoch>,
    garbage_from: (UploadEpoch, Option<ObjectVersionId>),
    sweep_after: Option<BlockKey>,
    /// The flushed epoch at which the last whole sweep ended.
    swept: Option<UploadEpoch>,
}

/// Blocks to unlink together: none of them uploaded under a later epoch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) keys: Vec<BlockKey>,
    pub(crate) epoch_max: UploadEpoch,
}

impl Collector {
    /// The upload epoch that this replica has applied and flushed.
    pub(crate) fn flushed_epoch(&self) -> Option<UploadEpoch> {
        self.flushed
    }

    /// Takes note of how far the state is flushed.
    fn observe(&mut self, view: &View, flushed: Option<LogIndex>) {
        if let Some((index, epoch)) = self.seen
            && flushed.is_some_and(|flushed| flushed >= index)
        {
            self.flushed = Some(epoch);
            self.seen = None;
        }
        if self.seen.is_none()
            && let Some(applied) = &view.applied
        {
            let epoch = shard::upload_epoch(view.state.as_ref());
            if self.flushed.is_none_or(|flushed| epoch > flushed) {
                self.seen = Some((applied.index, epoch));
            }
        }
    }

    /// Decides a step's worth. *Blocks.*
    pub(crate) fn due(
        &mut self,
        replica: &dyn ShardReplica,
        store: &BlockStore,
    ) -> Result<Vec<Due>, ReplicaError> {
        let view = replica.view()?;
        self.observe(&view, replica.flushed());
        // What was flushed may have been seen in this very view.
        self.observe(&view, replica.flushed());
        let mut due = Vec::new();
        let Some(flushed) = self.flushed else {
            return Ok(due);
        };
        self.garbage(&view, store, flushed, &mut due);
        if self.swept.is_none_or(|swept| swept < flushed) {
            self.abandoned(&view, replica, store, flushed, &mut due);
        }
        Ok(due)
    }

    fn garbage(
        &mut self,
        view: &View,
        store: &BlockStore,
        flushed: UploadEpoch,
        due: &mut Vec<Due>,
    ) {
        let state = view.state.as_ref();
        let to = UploadEpoch(
            flushed
                .0
                .saturating_sub(GARBAGE_GRACE_EPOCHS)
                .saturating_add(1),
        );
        let found = shard::garbage(state, self.garbage_from, to, STEP_VERSIONS);
        let all = found.len() < STEP_VERSIONS;
        for (freed, version) in found {
            self.garbage_from = (freed, Some(version));
            if !garbage_is_due(freed, flushed) || shard::is_referenced(state, &version) {
                continue;
            }
            store.settle(version, false);
            let keys: Vec<_> = store
                .of_version(version)
                .iter()
                .map(|held| held.key)
                .collect();
            let cut = keys.chunks(UNLINK_BLOCKS_MAX);
            due.extend(cut.map(|keys| Due {
                keys: keys.to_vec(),
                epoch_max: freed,
            }));
        }
        if all && self.garbage_from.0 < to {
            // Nothing is freed under an epoch that has ended.
            self.garbage_from = (to, None);
        }
    }

    fn abandoned(
        &mut self,
        view: &View,
        replica: &dyn ShardReplica,
        store: &BlockStore,
        flushed: UploadEpoch,
        due: &mut Vec<Due>,
    ) {
        let state = view.state.as_ref();
        let (unsettled, next) = store.unsettled(self.sweep_after, STEP_BLOCKS);
        for held in unsettled
            .iter()
            .filter(|held| held.shard == replica.shard())
        {
            if !upload_over(held, flushed, store) {
                continue;
            }
            let version = &held.key.version;
            if shard::is_referenced(state, version) {
                store.settle(*version, true);
            } else if !shard::is_freed(state, version) {
                due.push(Due {
                    keys: vec![held.key],
                    epoch_max: held.upload_epoch,
                });
            }
        }
        self.sweep_after = next;
        if next.is_none() {
            self.swept = Some(flushed);
        }
    }
}

fn upload_over(held: &Held, flushed: UploadEpoch, store: &BlockStore) -> bool {
    if broken(Switch::UnlinkByClock) {
        return upload_is_old(held, store);
    }
    upload_is_over(held.upload_epoch, flushed)
}

/// The broken promise: an hour by this node's clock, as if no commit could be that late.
fn upload_is_old(held: &Held, store: &BlockStore) -> bool {
    const HOUR_MS: u64 = 3600 * 1000;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    store
        .head(held.key)
        .is_ok_and(|head| now_ms.saturating_sub(head.owner.begun_at.0) > HOUR_MS)
}

/// Does one step of collection in a shard; answers how many blocks went.
pub(crate) async fn collect(
    collector: &Arc<parking_lot::Mutex<Collector>>,
    replica: &Arc<dyn ShardReplica>,
    store: &BlockStore,
) -> Result<u64, super::RepairError> {
    let due = {
        let (collector, replica, store) =
            (Arc::clone(collector), Arc::clone(replica), store.clone());
        super::blocking(move || collector.lock().due(replica.as_ref(), &store)).await??
    };
    let mut unlinked = 0;
    for Due { keys, epoch_max } in due {
        if !keys.is_empty() {
            unlinked += store.unlink(keys, epoch_max).await?;
        }
    }
    if unlinked > 0 {
        metrics::counter!("reduit_blocks_collected_total").increment(unlinked);
    }
    Ok(unlinked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_over_only_when_apply_refuses_its_commit() {
        // Apply refuses a commit more than 24 epochs old: 25 behind.
        assert!(!upload_is_over(UploadEpoch(5), UploadEpoch(29)));
        assert!(upload_is_over(UploadEpoch(5), UploadEpoch(30)));
        assert!(!upload_is_over(
            UploadEpoch(u64::MAX),
            UploadEpoch(u64::MAX)
        ));
    }

    #[test]
    fn garbage_waits_for_the_end_of_the_epoch_it_was_freed_under() {
        assert!(!garbage_is_due(UploadEpoch(7), UploadEpoch(7)));
        assert!(garbage_is_due(UploadEpoch(7), UploadEpoch(8)));
        assert!(!garbage_is_due(UploadEpoch(u64::MAX), UploadEpoch(0)));
    }
}
