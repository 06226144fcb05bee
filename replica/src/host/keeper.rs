//! Keeps the log short: flushes the state store in the background and purges what is below.
//!
//! Owns when to flush, by bytes and age, and how much log to keep. Refuses to purge above what the state store has
//! flushed: until then the log is the only durable copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::ids::LogIndex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::core::GroupCore;

/// How often the bounds are looked at.
const STEP: Duration = Duration::from_millis(500);

/// Runs until the group stops.
pub(crate) async fn keep(core: Arc<GroupCore>) {
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut flushed = core.shared.store.flushed();
    let mut flushed_at = Instant::now();
    let mut purged: Option<LogIndex> = None;
    loop {
        steps.tick().await;
        if core.stopping.load(Ordering::Acquire) {
            return;
        }
        if due(&core, flushed, flushed_at) {
            // The engine flushes by "building a snapshot", so that it knows below what it may purge.
            if core.raft.trigger().snapshot().await.is_err() {
                return;
            }
            flushed_at = Instant::now();
        }
        flushed = core.shared.store.flushed();
        let upto = purge_to(&core, flushed);
        if upto > purged {
            let Some(index) = upto else { continue };
            if core.raft.trigger().purge_log(index.0).await.is_err() {
                return;
            }
            purged = upto;
        }
    }
}

fn due(core: &GroupCore, flushed: Option<LogIndex>, flushed_at: Instant) -> bool {
    let applied = core.shared.applied().last.map(|id| LogIndex(id.index));
    if applied <= flushed {
        return false;
    }
    let tuning = &core.tuning;
    core.shared.store.unflushed_bytes() >= tuning.flush_bytes
        || flushed_at.elapsed() >= tuning.flush_every
        || core.log.is_full()
        || core.log.bytes() >= tuning.log_bytes_max
}

/// Up to where the log may go. The engine itself goes no further than the last flush it knows of.
fn purge_to(core: &GroupCore, flushed: Option<LogIndex>) -> Option<LogIndex> {
    let flushed = flushed?;
    // On a full disk, or with a log out of proportion, keeping entries for slow peers is a luxury: they get a
    // snapshot.
    if core.log.is_full() || core.log.bytes() >= core.tuning.log_bytes_max {
        return Some(flushed);
    }
    let kept = core
        .shared
        .purge_point(core.tuning.keep_entries, core.tuning.keep_bytes)?;
    Some(kept.min(flushed))
}
