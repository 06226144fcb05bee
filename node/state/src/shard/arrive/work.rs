//! The work on an arrival: how fast operators want it done, and which gateway does it.
//!
//! Owns what stands of both beside the arrival. Refuses a second mover while the claim of one lasts, and a pace that was
//! decided on another one than stands. No step of an [`Arrival`](crate::relocation::Arrival) goes by it: a mover without a
//! claim is only one that works in vain.

use proto::ids::{FeatureLevel, UnixMs};
use proto::v1;
use proto::v1::arrive::Step;

use super::{Arriving, Stepped};
use crate::limits::{
    CLAIM_MS_MAX, FAILURE_BYTES_MAX, FENCE_MS_MAX, FENCE_MS_MIN, HOLD_MS_MAX, MOVER_BYTES_MAX,
};
use crate::relocation::{Phase, StepRefused};
use crate::shard::RELOCATION_LEVEL;
use crate::shard::refusal::{malformed, of};

/// The feature level from which arrivals have a pace and a mover.
pub const MOVER_LEVEL: FeatureLevel = FeatureLevel(8);

/// The feature level from which a pace has a version and its hold a bound.
pub const PACE_LEVEL: FeatureLevel = FeatureLevel(9);

/// The feature level that a step takes.
pub(in crate::shard) fn takes(arrive: &v1::Arrive) -> FeatureLevel {
    match arrive.step {
        Some(Step::Pace(_) | Step::Claim(_)) => MOVER_LEVEL,
        _ => RELOCATION_LEVEL,
    }
}

/// What stands of the work.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) pace: Option<v1::ArrivalPace>,
    pub(super) mover: Option<v1::MoverClaim>,
}

impl Work {
    pub(super) fn stored(record: &v1::ArrivalRecord) -> Self {
        Self {
            pace: record.pace,
            mover: record.mover.clone(),
        }
    }
}

impl Arriving {
    /// Takes a pace over whole; from [`PACE_LEVEL`] on, if it was decided on the one that stands: of two people who each
    /// change a part of it neither takes back what the other did.
    pub(super) fn paced(&mut self, pace: &v1::ArrivalPace, level: FeatureLevel) -> Stepped {
        let pause = u64::from(pace.pause_ms);
        if pause != 0 && !(FENCE_MS_MIN..=FENCE_MS_MAX).contains(&pause) {
            return malformed();
        }
        let phase = self.arrival.phase();
        if is_over(phase) {
            return Ok(Err(StepRefused::OutOfOrder(phase)));
        }
        let held = self.work.pace.unwrap_or_default();
        let version = match level >= PACE_LEVEL {
            true if pace.version != held.version => {
                return Err(v1::Refused {
                    moved_to: held.version,
                    ..of(v1::Refusal::PaceMoved)
                });
            }
            // One of before may be longer: who pauses it is not refused for that.
            true if pace.hold_ms > HOLD_MS_MAX && pace.hold_ms != held.hold_ms => {
                return malformed();
            }
            // The hold has begun, as long as it was said before.
            true if pace.hold_ms != held.hold_ms && has_moved(phase) => {
                return Ok(Err(StepRefused::OutOfOrder(phase)));
            }
            true => held.version + 1,
            // Builds of before do not know the field and drop it.
            false => 0,
        };
        self.work.pace = Some(v1::ArrivalPace { version, ..*pace });
        Ok(Ok(self.arrival.clone()))
    }

    /// Whether a hold until then is longer than any pace may ask for from [`PACE_LEVEL`] on, and than the one that stands does.
    pub(super) fn holds_too_long(&self, until_ms: u64, now: UnixMs, level: FeatureLevel) -> bool {
        let said = self.work.pace.unwrap_or_default().hold_ms;
        let longest = now.0.saturating_add(said.max(HOLD_MS_MAX));
        level >= PACE_LEVEL && until_ms > longest
    }

    /// Lets a gateway move it from now on for as long as it asks, unless another one may.
    pub(super) fn claimed(&mut self, asked: &v1::ClaimArrival, now: UnixMs) -> Stepped {
        let for_ms = u64::from(asked.for_ms);
        let report = asked.report.as_ref();
        let failure_bytes = report.map_or(0, |report| report.failure.len());
        if !(1..=MOVER_BYTES_MAX).contains(&asked.mover.len())
            || for_ms > CLAIM_MS_MAX
            || failure_bytes > FAILURE_BYTES_MAX
        {
            return malformed();
        }
        let phase = self.arrival.phase();
        if phase == Phase::Plan || is_over(phase) {
            return Ok(Err(StepRefused::OutOfOrder(phase)));
        }
        let held = self.work.mover.as_ref();
        if let Some(other) = held.filter(|held| held.mover != asked.mover && held.until_ms > now.0)
        {
            return Err(v1::Refused {
                moved_to: other.until_ms,
                ..of(v1::Refusal::MoverAtWork)
            });
        }
        let last = held.and_then(|held| held.report.as_ref());
        self.work.mover = Some(v1::MoverClaim {
            mover: asked.mover.clone(),
            until_ms: now.0.saturating_add(for_ms),
            report: reported(last, report),
        });
        Ok(Ok(self.arrival.clone()))
    }
}

/// The newest report. Totals are of all movers together, and one that woke up late knows less than was said.
fn reported(
    last: Option<&v1::MoverReport>,
    new: Option<&v1::MoverReport>,
) -> Option<v1::MoverReport> {
    match (last, new) {
        (Some(last), Some(new)) => Some(v1::MoverReport {
            moved_bytes: new.moved_bytes.max(last.moved_bytes),
            failures: new.failures.max(last.failures),
            ..new.clone()
        }),
        (last, new) => new.or(last).cloned(),
    }
}

/// Its hold began by what the pace said then.
fn has_moved(phase: Phase) -> bool {
    matches!(phase, Phase::Hold | Phase::Shred)
}

fn is_over(phase: Phase) -> bool {
    matches!(phase, Phase::Certified | Phase::Aborted)
}
