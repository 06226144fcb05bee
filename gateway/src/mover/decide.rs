//! What a mover does next, from what both sides say: no clock, no socket, no memory but what this round has shown.
//!
//! Owns the order of steps as a mover goes through them, whoever began. Refuses to decide what the records decide: a step
//! that is out of order is refused there.

use proto::v1;
use proto::v1::{ArrivalPhase, Opened, Standing};

/// A hold is stated to begin with some time ahead: the shard's goes on until the step is applied.
const HOLD_MS_MIN: u64 = 10_000;
/// How long writes may wait where operators have not said.
const PAUSE_MS_DEFAULT: u64 = 5_000;
/// Changes that may be left when writes are stopped: so many are re-sealed within the fence.
const LEFT_MAX: u32 = 256;

/// What is known when the next step is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// This side's record and counts.
    pub(super) here: &'a v1::ArrivalStatus,
    /// The other side's.
    pub(super) there: There<'a>,
    /// Copies that were found equal.
    pub(super) compared: u64,
    /// The last round left nothing of changes and request ids.
    pub(super) caught_up: bool,
    /// The last round left nothing to compare.
    pub(super) settled: bool,
    /// The source has forgotten changes that were not taken.
    pub(super) overrun: bool,
    /// A fence was reverted a moment ago.
    pub(super) rests: bool,
}

/// What the source says.
#[derive(Debug, Clone, Copy)]
pub(super) enum There<'a> {
    /// The departure is under way, or has taken the dataset away.
    Known(&'a v1::DepartureStatus),
    /// It is not.
    NotUnderWay,
    /// It was not asked: this phase does not need it.
    Unasked,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// Nothing, for good.
    Over,
    /// Nothing now: why, in a word.
    Wait(&'static str),
    /// Say that the source is open.
    Copy,
    /// Bring a page of the listing.
    List,
    /// Say that all is listed.
    CatchUp,
    /// List again, at this source log index or later.
    CopyAgain(u64),
    /// Bring changes and request ids, and compare.
    Follow,
    /// Say that little is left.
    Verify,
    /// Stop writes at the source.
    Fence(v1::Fence),
    /// Under this fence: bring what is left, compare, propose.
    GoOn(u64),
    /// Somebody wants to abort: end this fence at the source.
    Revert(u64),
    /// Say that this fence is over.
    HearReverted(u64),
    /// Say that the source has moved.
    HearMoved,
    /// Say that the source has ended it.
    HearEnded,
    /// The source keeps its keys until then, by the own shard's time.
    Hold(u64),
    /// It was opened by force: have the source say that it moved.
    Supersede,
    /// End it on both sides.
    End(Ending),
}

/// What is left of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    /// The source can be asked to end it: the version of departures that it was planned on.
    pub(super) ask: Option<u64>,
    /// The source's shard has not said that it ended.
    pub(super) shard: bool,
    /// Its KMS has not said that it hands nothing over any more.
    pub(super) keys: bool,
    /// The own KMS has not said that the hand-over key is destroyed.
    pub(super) hand_over_key: bool,
}

/// Whether a mover has anything to do.
pub(super) fn is_for_movers(status: &v1::ArrivalStatus) -> bool {
    let Some(record) = &status.arrival else {
        return false;
    };
    match record.phase() {
        ArrivalPhase::Prepared
        | ArrivalPhase::Copying
        | ArrivalPhase::CatchUp
        | ArrivalPhase::Verifying
        | ArrivalPhase::Fenced
        | ArrivalPhase::Cutover
        | ArrivalPhase::Aborting => true,
        ArrivalPhase::Hold => record.opened() == Opened::ByForce,
        ArrivalPhase::Plan
        | ArrivalPhase::Shred
        | ArrivalPhase::Certified
        | ArrivalPhase::Aborted => false,
    }
}

/// Whether clients wait: the dataset is served nowhere, or takes no writes, until a mover goes on.
pub(super) fn is_urgent(status: &v1::ArrivalStatus) -> bool {
    let record = status.arrival.as_ref();
    record.is_some_and(|record| {
        matches!(record.phase(), ArrivalPhase::Fenced | ArrivalPhase::Cutover)
            || record.phase() == ArrivalPhase::Hold && record.opened() == Opened::ByForce
    })
}

/// Whether another gateway's claim lasts, by the time of the shard that has it.
pub(super) fn is_claimed_by_another(status: &v1::ArrivalStatus, own: &str) -> bool {
    let claim = status.arrival.as_ref();
    let claim = claim.and_then(|record| record.mover.as_ref());
    claim.is_some_and(|claim| claim.mover != own && claim.until_ms > status.time_ms)
}

/// Whether the source has to be asked before a step is chosen.
pub(super) fn needs_source(record: &v1::ArrivalRecord) -> bool {
    matches!(
        record.phase(),
        ArrivalPhase::Copying
            | ArrivalPhase::CatchUp
            | ArrivalPhase::Verifying
            | ArrivalPhase::Fenced
            | ArrivalPhase::Aborting
    )
}

/// Chooses the next step.
pub(super) fn next(seen: &Seen<'_>) -> Next {
    let Some(record) = seen.here.arrival.as_ref() else {
        return Next::Over;
    };
    let pace = record.pace.unwrap_or_default();
    match record.phase() {
        ArrivalPhase::Plan => Next::Wait("planned"),
        ArrivalPhase::Prepared if pace.paused => Next::Wait("paused"),
        ArrivalPhase::Prepared => Next::Copy,
        ArrivalPhase::Copying | ArrivalPhase::CatchUp | ArrivalPhase::Verifying => {
            match seen.there {
                There::Known(there) => filling(seen, record, &pace, there),
                There::NotUnderWay => Next::HearEnded,
                There::Unasked => Next::Wait("waiting-for-source"),
            }
        }
        ArrivalPhase::Fenced => match seen.there {
            There::Known(there) => fenced(record, there),
            There::NotUnderWay => Next::HearEnded,
            There::Unasked => Next::Wait("waiting-for-source"),
        },
        ArrivalPhase::Cutover => {
            let hold_ms = pace.hold_ms.max(HOLD_MS_MIN);
            Next::Hold(seen.here.time_ms.saturating_add(hold_ms))
        }
        ArrivalPhase::Hold if record.opened() == Opened::ByForce => Next::Supersede,
        ArrivalPhase::Aborting => Next::End(ending(record, seen.there)),
        ArrivalPhase::Hold
        | ArrivalPhase::Shred
        | ArrivalPhase::Certified
        | ArrivalPhase::Aborted => Next::Over,
    }
}

/// While imports are taken and the source takes writes.
fn filling(
    seen: &Seen<'_>,
    record: &v1::ArrivalRecord,
    pace: &v1::ArrivalPace,
    there: &v1::DepartureStatus,
) -> Next {
    let (standing, fence) = standing(there);
    let phase = record.phase();
    // A fence that stands goes on, whoever asked for it.
    if phase == ArrivalPhase::Verifying && standing == Standing::Fenced && fence > record.reverted {
        return Next::GoOn(fence);
    }
    if pace.paused {
        return Next::Wait("paused");
    }
    match (phase, standing) {
        (_, Standing::Moved | Standing::Diverged | Standing::Unconfirmed) => {
            Next::Wait("source-not-active")
        }
        (ArrivalPhase::Copying, _) if is_listed(record) => Next::CatchUp,
        (ArrivalPhase::Copying, _) => Next::List,
        _ if seen.overrun => Next::CopyAgain(there.at_index),
        (ArrivalPhase::CatchUp, _) if seen.caught_up => Next::Verify,
        (ArrivalPhase::Verifying, Standing::Active)
            if pace.cutover && !seen.rests && is_ready(seen, there) =>
        {
            Next::Fence(v1::Fence {
                epoch: record.terms.as_ref().map_or(0, |terms| terms.epoch),
                from: fences(there),
                pause_ms: match pace.pause_ms {
                    0 => PAUSE_MS_DEFAULT,
                    pause => pause.into(),
                },
            })
        }
        _ => Next::Follow,
    }
}

/// All that there was a moment ago is here and compared.
fn is_ready(seen: &Seen<'_>, there: &v1::DepartureStatus) -> bool {
    let here = seen.here.dataset.as_ref();
    let all_equal = here.is_some_and(|here| here.uploads == 0 && here.versions == seen.compared);
    seen.caught_up && seen.settled && all_equal && there.changes <= LEFT_MAX
}

fn fenced(record: &v1::ArrivalRecord, there: &v1::DepartureStatus) -> Next {
    let fence = record.fence.as_ref().map_or(0, |fence| fence.fence);
    match standing(there) {
        (Standing::Moved | Standing::Diverged, _) if is_moved_by(record, there) => Next::HearMoved,
        (Standing::Fenced, at) if at == fence && record.aborting => Next::Revert(fence),
        (Standing::Fenced, at) if at == fence => Next::GoOn(fence),
        _ => Next::HearReverted(fence),
    }
}

fn ending(record: &v1::ArrivalRecord, there: There<'_>) -> Ending {
    let from = record.terms.as_ref().map_or(0, |terms| terms.from_version);
    Ending {
        ask: matches!(there, There::Known(_)).then_some(from),
        shard: !record.ended,
        keys: record.released.is_none(),
        hand_over_key: !record.erased,
    }
}

fn authority(there: &v1::DepartureStatus) -> Option<&v1::AuthorityRecord> {
    there.dataset.as_ref()?.authority.as_ref()
}

fn standing(there: &v1::DepartureStatus) -> (Standing, u64) {
    authority(there).map_or((Standing::Active, 0), |authority| {
        (authority.standing(), authority.fence)
    })
}

/// Fences that the departure had so far.
fn fences(there: &v1::DepartureStatus) -> u32 {
    let departure = authority(there).and_then(|authority| authority.departure.as_ref());
    departure.map_or(0, |departure| departure.fences)
}

/// Changes that the source was told to be durably here.
pub(super) fn taken(there: &v1::DepartureStatus) -> u64 {
    let departure = authority(there).and_then(|authority| authority.departure.as_ref());
    departure.map_or(0, |departure| departure.taken)
}

fn is_moved_by(record: &v1::ArrivalRecord, there: &v1::DepartureStatus) -> bool {
    let moved = authority(there).and_then(|authority| authority.moved.as_ref());
    moved.is_some_and(|moved| moved.relocation_id == record.relocation_id)
}

fn is_listed(record: &v1::ArrivalRecord) -> bool {
    let listed = record.image.as_ref();
    let listed = listed.and_then(|image| image.listed.as_ref());
    listed.is_some_and(|listed| listed.end)
}

#[cfg(test)]
mod tests;
