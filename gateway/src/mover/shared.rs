//! What the work on one relocation and its claim share: the mover, what is said of the work, and how fast it may go.
//!
//! Owns the report that goes with each claim, and how long a claim is held without one that was taken. Totals go on from
//! those of whoever moved it before.

use std::sync::Arc;
use std::time::Duration;

use client::Error;
use client::relocation::{Brought, Mover};
use parking_lot::Mutex;
use proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use transport::fault::Chain;

use super::throttle::Bucket;
use super::{CLAIM_MS, RENEW_EVERY};

/// Between two looks at what operators want of the pace.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What is waited for, as reports have it in place of a failure.
const WAITS: [&str; 5] = [
    "paused",
    "planned",
    "source-not-active",
    "waiting-for-operators",
    "waiting-for-source",
];
/// Bytes of a reason that a record takes.
const REASON_BYTES_MAX: usize = 64;

/// One relocation that this gateway has claimed.
pub(super) struct Shared {
    pub(super) mover: Mover,
    pub(super) bucket: Arc<Bucket>,
    said: Mutex<Said>,
    /// Whether operators have given it up.
    aborting: watch::Sender<bool>,
}

/// What there is to say of the work.
struct Said {
    /// Its failure is the last one's reason.
    report: v1::MoverReport,
    /// What is waited for, in its place.
    waits_for: &'static str,
}

impl Shared {
    pub(super) fn new(mover: Mover, arrival: &v1::ArrivalStatus) -> Arc<Self> {
        let record = arrival.arrival.clone().unwrap_or_default();
        let before = record.mover.and_then(|claim| claim.report);
        let mut report = before.unwrap_or_default();
        if WAITS.contains(&report.failure.as_str()) {
            report.failure.clear();
        }
        Arc::new(Self {
            mover,
            bucket: Arc::new(Bucket::new(&record.pace.unwrap_or_default())),
            said: Mutex::new(Said {
                report,
                waits_for: "",
            }),
            aborting: watch::Sender::new(false),
        })
    }

    /// Claims the relocation for so long, with what there is to say of the work; 0 gives it up.
    pub(super) async fn claim(&self, for_ms: u32) -> Result<(), Error> {
        let report = self.said.lock().told();
        self.mover.claim(for_ms, &report).await
    }

    /// Renews the claim and follows what operators want, until the claim is lost.
    pub(super) async fn keep(&self) {
        let lasts = Duration::from_millis(CLAIM_MS.into());
        let mut claimed = Instant::now();
        let mut tried = claimed;
        // What the first round saw is said soon.
        let mut renew_in = LOOK_EVERY;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if tried.elapsed() >= renew_in {
                renew_in = RENEW_EVERY;
                tried = Instant::now();
                let renewed = tokio::time::timeout(RENEW_EVERY, self.claim(CLAIM_MS)).await;
                match renewed {
                    Ok(Ok(())) => claimed = tried,
                    Ok(Err(error)) if error.reason() == "mover-at-work" => return,
                    Ok(Err(error)) => {
                        tracing::debug!(error = %Chain(&error), "the claim was not renewed");
                    }
                    Err(_) => tracing::debug!("the claim was not renewed in time"),
                }
            }
            if claimed.elapsed() >= lasts {
                return;
            }
            if let Ok(Ok(here)) = tokio::time::timeout(LOOK_EVERY, self.mover.status()).await {
                self.follow(&here);
            }
        }
    }

    /// Goes by what operators want now.
    pub(super) fn follow(&self, here: &v1::ArrivalStatus) {
        let record = here.arrival.as_ref();
        let pace = record.and_then(|record| record.pace.as_ref());
        self.bucket.follow(&pace.copied().unwrap_or_default());
        let phase = record.map_or(v1::ArrivalPhase::Plan, v1::ArrivalRecord::phase);
        if phase == v1::ArrivalPhase::Aborting {
            self.aborting.send_replace(true);
        }
    }

    /// Until it is given up; for ever where that was known before.
    pub(super) async fn given_up(&self) {
        let mut aborting = self.aborting.subscribe();
        if *aborting.borrow_and_update() {
            return std::future::pending().await;
        }
        // The sender lives in `self`, so it cannot have gone.
        drop(aborting.wait_for(|aborting| *aborting).await);
    }

    /// What the source has, and how much of it is known to be here.
    pub(super) fn counted(&self, there: &v1::DepartureStatus, compared: u64) {
        let dataset = there.dataset.as_ref();
        let mut said = self.said.lock();
        let report = &mut said.report;
        report.source_versions = dataset.map_or(0, |dataset| dataset.versions);
        report.source_bytes = dataset.map_or(0, |dataset| dataset.sealed_bytes);
        report.source_index = there.at_index;
        report.changes_behind = there.changes;
        report.compared = compared;
    }

    /// Nothing is left at the source, and all that is here was compared.
    pub(super) fn all_moved(&self, compared: u64) {
        let mut said = self.said.lock();
        said.report.changes_behind = 0;
        said.report.compared = compared;
        said.report.source_versions = compared;
    }

    pub(super) fn brought(&self, brought: &Brought) {
        self.said.lock().report.moved_bytes += brought.bytes;
        metrics::counter!("reduit_mover_units_total").increment(brought.units);
        metrics::counter!("reduit_mover_bytes_total").increment(brought.bytes);
    }

    /// What is waited for, in a word; nothing once it goes on.
    pub(super) fn waits_for(&self, what: &'static str) {
        self.said.lock().waits_for = what;
    }

    /// Whether others have to do something first.
    pub(super) fn is_waiting(&self) -> bool {
        !self.said.lock().waits_for.is_empty()
    }

    pub(super) fn failed(&self, error: &Error) {
        count_failure(error);
        let mut said = self.said.lock();
        said.waits_for = "";
        said.report.failures += 1;
        said.report.failure = reason_of(error);
    }

    /// How long writes waited at the source.
    pub(super) fn paused_for(&self, time: Duration, outcome: &'static str) {
        let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.said.lock().report.pause_ms = ms;
        metrics::counter!("reduit_mover_fences_total", "outcome" => outcome).increment(1);
        metrics::histogram!("reduit_mover_pause_seconds").record(time.as_secs_f64());
    }
}

impl Said {
    fn told(&self) -> v1::MoverReport {
        let mut report = self.report.clone();
        if !self.waits_for.is_empty() {
            report.failure = self.waits_for.to_owned();
        }
        report
    }
}

/// Counts a try that failed.
pub(super) fn count_failure(error: &Error) {
    metrics::counter!("reduit_mover_failures_total", "reason" => reason_of(error)).increment(1);
}

/// A reason as a record takes it.
fn reason_of(error: &Error) -> String {
    let reason = error.reason().chars();
    let reason = reason.filter(char::is_ascii_graphic);
    reason.take(REASON_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_as_short_as_a_record_takes_it() {
        let long = Error::Caller {
            reason: "naïve-".repeat(40),
            message: String::new(),
        };
        let reason = reason_of(&long);
        assert_eq!(reason.len(), REASON_BYTES_MAX);
        assert!(reason.starts_with("nave-nave-"), "{reason}");
    }

    #[test]
    fn what_is_waited_for_hides_the_last_failure_until_it_is_there() {
        let mut said = Said {
            report: v1::MoverReport {
                failures: 3,
                failure: "not-equal".to_owned(),
                ..Default::default()
            },
            waits_for: "paused",
        };
        assert_eq!(said.told().failure, "paused");
        said.waits_for = "";
        assert_eq!(said.told(), said.report);
    }
}
