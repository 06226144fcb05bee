//! What a run came to: faults over throughput and latency, verdicts, recovery, and how to run it again.
//!
//! Owns the shape of `report.json` and the judgement over all parts: correctness, coverage and recovery are three
//! verdicts, and a run is good only if all three are. Refuses to call a run good that did nothing.

mod chart;
mod html;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use checker::Verdict;
use serde::{Deserialize, Serialize};

/// One fault, from its injection to its healing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultEvent {
    /// The nemesis.
    pub name: String,
    /// What was done to whom, in words.
    pub what: String,
    /// Milliseconds from the start of the run.
    pub from_ms: u64,
    /// When it was healed; the same clock.
    pub until_ms: u64,
    /// From the end of healing until every service was ready and every group led.
    pub recovery_ms: u64,
}

/// One second of one workload.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Second {
    /// Operations that succeeded.
    pub ok: u64,
    /// Operations that had no effect.
    pub fail: u64,
    /// Operations of unknown outcome.
    pub info: u64,
    /// Median latency of what succeeded, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
}

/// What was searched for what must not be there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Search {
    /// Disks, memory, captures.
    pub place: String,
    /// Bytes looked at.
    pub bytes: u64,
    /// Finds; each breaks a promise.
    pub found: Vec<String>,
    /// Whether what was planted was found there.
    pub control_found: bool,
}

/// A run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whole world and order of faults come from it.
    pub seed: u64,
    /// The command that runs it again.
    pub replay: String,
    /// What was switched off on purpose, if anything.
    pub danger: Option<String>,
    /// Seconds of load.
    pub seconds: u64,
    /// Verdict of each workload.
    pub verdicts: Vec<Verdict>,
    /// Why operations had no effect or an unknown one, and how many.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Faults in the order of their injection.
    pub faults: Vec<FaultEvent>,
    /// Faults that could not be injected, and why.
    pub not_injected: Vec<String>,
    /// Per workload, second by second.
    pub series: BTreeMap<String, Vec<Second>>,
    /// From healing everything to a region that is ready.
    pub recovery_ms: u64,
    /// The longest time in which no write of any workload was acknowledged, milliseconds.
    pub write_pause_ms: u64,
    /// What replicas of a group hold differently, in words.
    pub replicas: Vec<String>,
    /// Replicas compared.
    pub replicas_compared: usize,
    /// The search for what must not be there.
    pub searches: Vec<Search>,
    /// What else the search found wrong.
    pub complaints: Vec<String>,
    /// Bytes that crossed the link between the regions.
    pub link_bytes: u64,
    /// What ended the run early, if anything.
    pub broken: Option<String>,
}

/// The longest that the region may take to be ready after the last fault was healed.
pub const RECOVERY_MS_MAX: u64 = 120_000;

impl Report {
    /// Whether everything promised was kept, and enough was tried to say so.
    pub fn is_good(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Why the run is not good; empty if it is.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.broken.iter().cloned().collect();
        for verdict in &self.verdicts {
            if !verdict.valid {
                let first = verdict
                    .anomalies
                    .first()
                    .map(|anomaly| anomaly.what.as_str());
                let short = verdict.shortfalls.first();
                let short =
                    short.map(|short| format!("{} of {} {:?}", short.ok, short.needed, short.f));
                reasons.push(format!(
                    "{}: {} anomalies, {}",
                    verdict.workload,
                    verdict.found,
                    match (first, short) {
                        (Some(first), _) => format!("the first: {first}"),
                        (None, short) =>
                            format!("too little for a verdict: {}", short.unwrap_or_default()),
                    }
                ));
            }
        }
        reasons.extend(self.replicas.iter().map(|what| format!("replicas: {what}")));
        for search in &self.searches {
            if !search.control_found {
                reasons.push(format!("{}: what was planted was not found", search.place));
            }
            let found = search
                .found
                .iter()
                .map(|what| format!("{}: {what}", search.place));
            reasons.extend(found);
        }
        reasons.extend(self.complaints.iter().cloned());
        if self.verdicts.is_empty() {
            reasons.push("no workload was judged".to_owned());
        }
        if self.recovery_ms > RECOVERY_MS_MAX {
            reasons.push(format!("recovery took {} ms", self.recovery_ms));
        }
        reasons
    }

    /// Anomalies of all judges: each is at least one operation that was lost or wrong. Of a run that broke off nothing
    /// was read back, and judges call that wrong, too: it has no such number.
    pub(crate) fn wrong(&self) -> String {
        match self.broken {
            Some(_) => "not known, the run broke off".to_owned(),
            None => {
                let found: u64 = self.verdicts.iter().map(|verdict| verdict.found).sum();
                found.to_string()
            }
        }
    }

    /// Operations of all workloads: ok, fail, info.
    pub fn totals(&self) -> (u64, u64, u64) {
        let sum = |of: fn(&Verdict) -> u64| self.verdicts.iter().map(of).sum();
        (sum(|v| v.ok), sum(|v| v.fail), sum(|v| v.info))
    }

    /// Faults by kind: how many, and the mean and longest recovery in milliseconds.
    pub fn by_kind(&self) -> BTreeMap<&str, (usize, u64, u64)> {
        let mut kinds: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
        for fault in &self.faults {
            let kind = kinds.entry(&fault.name).or_default();
            kind.0 += 1;
            kind.1 += fault.recovery_ms;
            kind.2 = kind.2.max(fault.recovery_ms);
        }
        for kind in kinds.values_mut() {
            kind.1 /= kind.0 as u64;
        }
        kinds
    }

    /// The page: one file, nothing fetched.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// The summary for a terminal.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<12} {:>9} {:>9} {:>7} {:>7}  verdict",
            "workload", "ops", "ok", "fail", "info"
        );
        for verdict in &self.verdicts {
            let _ = writeln!(
                out,
                "{:<12} {:>9} {:>9} {:>7} {:>7}  {}",
                verdict.workload.name(),
                verdict.operations,
                verdict.ok,
                verdict.fail,
                verdict.info,
                if verdict.valid { "valid" } else { "NOT VALID" }
            );
        }
        let _ = writeln!(
            out,
            "{:<24} {:>5} {:>14} {:>14}",
            "fault", "times", "recovery ms", "at most"
        );
        for (kind, (times, mean, most)) in self.by_kind() {
            let _ = writeln!(out, "{kind:<24} {times:>5} {mean:>14} {most:>14}");
        }
        for why in &self.not_injected {
            let _ = writeln!(out, "not injected: {why}");
        }
        for search in &self.searches {
            let _ = writeln!(
                out,
                "searched {}: {} bytes, {} found, control {}",
                search.place,
                search.bytes,
                search.found.len(),
                if search.control_found {
                    "found"
                } else {
                    "NOT FOUND"
                }
            );
        }
        let _ = writeln!(
            out,
            "acknowledged operations lost or wrong: {} of {}",
            self.wrong(),
            self.totals().0
        );
        let _ = writeln!(
            out,
            "longest write pause {} ms; recovered after {} ms; {} replicas compared; {} bytes between regions",
            self.write_pause_ms, self.recovery_ms, self.replicas_compared, self.link_bytes
        );
        for reason in self.reasons() {
            let _ = writeln!(out, "NOT GOOD: {reason}");
        }
        let _ = writeln!(out, "seed {}: {}", self.seed, self.replay);
        out
    }
}
