//! What the leader of a group does without being asked: time, upload epochs, authority, fences that are over, sweeps,
//! lifecycles; and what
//! every node does: open the shards the region has, look at its disk, notice failures.
//!
//! Owns the pace of these. Refuses to advance an epoch before its time by the reading that its command will carry: that
//! decides only how long epochs last, never what may be deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node_state::shard::{CONFIG_LEVEL, RELOCATION_LEVEL, lifecycle};
use node_state::{CatalogMeta, ShardMeta, feed};
use proto::ids::UnixMs;
use proto::store::Reader;
use proto::v1;
use proto::v1::shard_command::Command;
use replica::host::Group;
use transport::Faulty as _;
use transport::fault::Chain;

use crate::core::{Core, Decision, Room};
use crate::error::CallError;
use crate::groups::Shard;

/// Between two looks at every group.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Records one sweep of the driver removes.
const SWEEP_STEPS: u32 = 512;
/// Sweeps of one shard in one round: some thousands of records a second.
const SWEEPS_A_ROUND: u32 = 8;
/// Records one step of a lifecycle looks at; it removes one of them at most.
const LIFECYCLE_RECORDS: u32 = 512;
/// Steps of one shard in one round: 32 removals a second, near three million a day.
const LIFECYCLE_STEPS_A_ROUND: u32 = 32;

/// Runs for ever.
pub(crate) async fn run(core: Arc<Core>) {
    let mut rounds = tokio::time::interval(ROUND_EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut served = true;
    loop {
        rounds.tick().await;
        core.disk.refresh();
        core.roots.prune();
        core.copies.prune();
        served = lead_where_served(&core, served).await;
        if let Err(error) = lead_catalog(&core).await {
            complain("catalog", &error);
        }
        for shard in core.groups.shards() {
            confirm(&shard).await;
            if let Err(error) = lead_shard(&core, &shard.group).await {
                complain("shard", &error);
            }
            gauge(&core, &shard);
            shard.aged();
        }
    }
}

/// Opens the shards whenever the catalog names new ones. An error is one of the disk or of a lost folder: the caller
/// ends the process.
pub(crate) async fn follow_region(core: Arc<Core>) -> String {
    let mut applied = core.groups.catalog.watch_applied();
    loop {
        match core.groups.open_shards().await {
            // A region keeps the shards it was founded with.
            Ok(shards) if shards > 0 => std::future::pending().await,
            Ok(_) => {}
            Err(error) => return Chain(&error).to_string(),
        }
        if applied.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn complain(what: &'static str, error: &CallError) {
    // Not to lead any more is no news, and time-outs end by themselves.
    if error.fault().retriable() {
        tracing::debug!(what, error = %Chain(error), "driver put off");
    } else {
        tracing::warn!(what, error = %Chain(error), "driver failed");
    }
}

fn gauge(core: &Core, shard: &Shard) {
    let id = shard.group.id().to_string();
    let leads = if shard.group.is_leader() { 1.0 } else { 0.0 };
    metrics::gauge!("reduit_shard_leads", "group" => id.clone()).set(leads);
    let applied = shard.group.applied().unwrap_or_default();
    metrics::gauge!("reduit_shard_applied_index", "group" => id).set(applied.0 as f64);
    // Before a member has compared what it holds, nobody knows.
    if let Ok(missing) = core.missing(shard, shard.aged()) {
        let id = shard.group.id().to_string();
        metrics::gauge!("reduit_blocks_missing", "group" => id).set(missing.missing as f64);
    }
    shard.group.gauge_lag();
}

async fn confirm(shard: &Shard) {
    let asked_at = Instant::now();
    if shard.group.read_index().await.is_ok() {
        shard.confirmed(asked_at);
    }
}

/// A node that serves nobody leads nothing where another can: its enrolments are old, or its clock is days ahead.
/// Answers whether it serves; `served` is what it answered before.
async fn lead_where_served(core: &Core, served: bool) -> bool {
    let serves = !core.enrolments.stale();
    for group in core.groups.all() {
        // Only where it differs: a node that stops has said so itself.
        if !(serves && served) {
            group.set_may_campaign(serves);
        }
        if serves || !group.is_leader() {
            continue;
        }
        match group.hand_over().await {
            Ok(to) => tracing::warn!(
                group = group.id().0,
                %to,
                "enrolments are over 24 h old by this node's clock: leadership handed over"
            ),
            // Theirs are as old: nobody serves, whoever leads.
            Err(error) => tracing::debug!(group = group.id().0, %error, "leadership kept"),
        }
    }
    serves
}

async fn lead_catalog(core: &Core) -> Result<(), CallError> {
    let group = &core.groups.catalog;
    if !group.is_leader() {
        return Ok(());
    }
    let in_force = {
        let (view, _) = core.view(group)?;
        CatalogMeta::load(&*view.state).authority_version
    };
    core.keep_time(group).await?;
    core.at_one(group, in_force, core.enrolments.version())
        .await
        .map(drop)
}

async fn lead_shard(core: &Core, group: &Group) -> Result<(), CallError> {
    if !group.is_leader() {
        return Ok(());
    }
    let meta = |core: &Core| -> Result<ShardMeta, CallError> {
        let (view, _) = core.view(group)?;
        Ok(ShardMeta::load(&*view.state))
    };
    core.keep_time(group).await?;
    let now = meta(core)?;
    core.at_one(group, now.authority_version, core.enrolments.version())
        .await?;
    // Not this node's clock as such: one that is years ahead would end an epoch at every look.
    let reading = core.reading(group, now.time).await?;
    if epoch_is_due(&now, reading, core.config.upload_epoch()) {
        let from = now.upload_epoch.0;
        let advance = Command::AdvanceUploadEpoch(v1::AdvanceUploadEpoch { from });
        match core.drive_shard(group, advance).await {
            // An earlier attempt of unknown outcome, or another leader's.
            Err(CallError::Refused { refused }) if refused.reason() == v1::Refusal::StaleEpoch => {}
            Err(error) => return Err(error),
            Ok(done) => {
                tracing::info!(
                    group = group.id().0,
                    epoch = done.upload_epoch,
                    "upload epoch begins"
                );
            }
        }
    }
    revert_fences(core, group, reading).await?;
    for _ in 0..SWEEPS_A_ROUND {
        if !meta(core)?.sweeping {
            break;
        }
        let sweep = Command::Sweep(v1::Sweep { steps: SWEEP_STEPS });
        if !core.drive_shard(group, sweep).await?.more {
            break;
        }
    }
    step_lifecycles(core, group).await
}

/// Ends fences whose time is over by this reading: writes wait for a relocation for as long and no longer. Whatever was
/// proposed meanwhile, the log has one of the two.
async fn revert_fences(core: &Core, group: &Group, now: UnixMs) -> Result<(), CallError> {
    if group.level() < RELOCATION_LEVEL {
        return Ok(());
    }
    let mut due = Vec::new();
    {
        let (view, _) = core.view(group)?;
        feed::fences_due(&*view.state, now, &mut |dataset| due.push(dataset));
    }
    for dataset in due {
        let revert = |state: &dyn Reader| {
            let command = feed::revert(state, &dataset).ok_or(CallError::NoSuchDataset)?;
            Ok(Decision {
                key_state_version: 0,
                command,
            })
        };
        let reserved = Room::Reserved;
        let reverted = core
            .decide_shard(group, reserved, Bytes::new(), |_, state| revert(state))
            .await;
        match reverted {
            // It moved, or its relocation ended, meanwhile.
            Err(CallError::NoSuchDataset) => {}
            Err(CallError::Refused { refused })
                if matches!(
                    refused.reason(),
                    v1::Refusal::FenceOver
                        | v1::Refusal::NotUnderWay
                        | v1::Refusal::DatasetMoved
                        | v1::Refusal::DatasetGone
                ) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                tracing::warn!(group = group.id().0, %dataset, "a fence was reverted: its time was over");
            }
        }
    }
    Ok(())
}

/// Goes on with a round of lifecycles where one is under way or due.
async fn step_lifecycles(core: &Core, group: &Group) -> Result<(), CallError> {
    if group.level() < CONFIG_LEVEL {
        return Ok(());
    }
    let due = {
        let (view, _) = core.view(group)?;
        lifecycle::is_due(&*view.state, ShardMeta::load(&*view.state).time)
    };
    for _ in 0..if due { LIFECYCLE_STEPS_A_ROUND } else { 0 } {
        let steps = LIFECYCLE_RECORDS;
        let step = Command::LifecycleStep(v1::LifecycleStep { steps });
        if !core.drive_shard(group, step).await?.more {
            break;
        }
    }
    Ok(())
}

/// The first epoch begins at once: epoch 0 is before any leader's clock was known.
fn epoch_is_due(meta: &ShardMeta, now: UnixMs, epoch: Duration) -> bool {
    let lasts = u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX);
    meta.upload_epoch.0 == 0 || now.0.saturating_sub(meta.epoch_began.0) >= lasts
}

#[cfg(test)]
mod tests {
    use proto::ids::UploadEpoch;

    use super::*;

    #[test]
    fn an_epoch_lasts_its_time_whoever_leads_and_whatever_the_clock_was() {
        let meta = |epoch, began| ShardMeta {
            upload_epoch: UploadEpoch(epoch),
            epoch_began: UnixMs(began),
            ..ShardMeta::default()
        };
        let hour = Duration::from_secs(3600);
        assert!(epoch_is_due(&meta(0, 0), UnixMs(5), hour));
        assert!(!epoch_is_due(&meta(1, 1000), UnixMs(3_600_999), hour));
        assert!(epoch_is_due(&meta(1, 1000), UnixMs(3_601_000), hour));
        assert!(
            !epoch_is_due(&meta(1, 9_000_000), UnixMs(1000), hour),
            "a clock that went back"
        );
    }
}
