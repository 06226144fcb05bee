//! Region time of a group: how clocks become state.
//!
//! Owns the rule, from feature level 1 that of the KMS ([`proto::time`]). Time never goes back; a command of the leader
//! moves it by at most a minute and is refused where its clock is further ahead; anything more takes the clocks of a
//! majority of the voters, and more than a day an operator too. Below level 1 it is the largest clock any leader had:
//! a log written there applies as it did.
//!
//! A refused command had no effect, so that the first one after a quiet hour is never judged by the time before it:
//! the leader proposes `AdvanceTime` with its peers' clocks and then its command again. A leader whose own clock is off
//! goes by what it heard, and can move time no further than a majority's clocks are.

use std::collections::BTreeSet;

use proto::ids::{FeatureLevel, NodeId, UnixMs};
use proto::time::{IDLE_JUMP_MS_MAX, advanced, median};
use proto::v1;

use crate::at::At;

/// The feature level from which a leader's clock is bounded and `AdvanceTime` is a command.
pub const TIME_BOUND_LEVEL: FeatureLevel = FeatureLevel(1);

/// The group's time after a command, or the refusal of one whose clock is too far ahead.
pub(crate) fn after(
    at: At<'_>,
    stands_at: UnixMs,
    now_ms: u64,
    by_majority: Option<&v1::AdvanceGroupTime>,
) -> Result<UnixMs, v1::Refused> {
    if at.level < TIME_BOUND_LEVEL {
        return Ok(stands_at.max(UnixMs(now_ms)));
    }
    match by_majority {
        Some(advance) => of_majority(at, stands_at, advance),
        None => advanced(stands_at, UnixMs(now_ms)).map_err(|ahead| clock_jump(ahead.stands_at)),
    }
}

fn of_majority(
    at: At<'_>,
    stands_at: UnixMs,
    advance: &v1::AdvanceGroupTime,
) -> Result<UnixMs, v1::Refused> {
    let malformed = || v1::Refused {
        reason: v1::Refusal::Malformed.into(),
        ..Default::default()
    };
    let clocks = &advance.clocks;
    let nodes: BTreeSet<NodeId> = clocks.iter().map(|clock| NodeId(clock.node_id)).collect();
    if nodes.len() != clocks.len() || !at.voters.majority(&nodes) {
        return Err(malformed());
    }
    let median = median(clocks.iter().map(|clock| clock.clock_ms).collect());
    let median = median.ok_or_else(malformed)?;
    if waits_for_operator(stands_at, median) && !advance.by_operator {
        return Err(clock_jump(stands_at));
    }
    Ok(stands_at.max(median))
}

/// Whether the clocks of a majority are too far ahead to be followed without an operator. A group that has no time yet
/// holds nothing that a wrong one could end.
pub fn waits_for_operator(stands_at: UnixMs, median: UnixMs) -> bool {
    stands_at.0 > 0 && median.0.saturating_sub(stands_at.0) > IDLE_JUMP_MS_MAX
}

fn clock_jump(stands_at: UnixMs) -> v1::Refused {
    v1::Refused {
        reason: v1::Refusal::ClockJump.into(),
        moved_to: stands_at.0,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
