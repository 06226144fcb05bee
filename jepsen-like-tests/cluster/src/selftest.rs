//! The suite itself under test: with a promise switched off, a run must turn red.
//!
//! Owns which switch is looked for with which load and faults, and how long that may take. Refuses a red for another
//! reason: the verdict of a named workload, what a named fault saw, or the simulator has to say it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use checker::Workload;

use crate::nemesis::{Area, Fault};
use crate::report::Report;
use crate::run::{Plan, run};
use crate::world::WorldPlan;

/// A promise switched off, and what has to see it.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// As in `REDUIT_DANGER`.
    pub switch: &'static str,
    /// What is broken by it, in words.
    pub says: &'static str,
    /// What it is looked for with.
    pub by: By,
}

/// What a mutation is looked for with.
#[derive(Debug, Clone)]
pub enum By {
    /// Real daemons.
    Daemons {
        /// The load.
        workloads: &'static [Workload],
        /// How long one try of it lasts.
        load: Duration,
        /// The faults.
        faults: &'static [Fault],
        /// What must turn red.
        seen_by: Seen,
    },
    /// The simulator, where it takes a history of members that no run of a minute has.
    Simulation {
        /// What is simulated.
        kind: &'static str,
        /// Seeds tried.
        seeds: u64,
    },
}

/// Who has to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The judge of one of the workloads.
    Judges,
    /// A fault that was to be refused.
    Fault,
    /// Nobody's clock gives a reason to refuse an operation so: of an upload, that what was acknowledged block by
    /// block is there no more when it is to be committed.
    Refusal(&'static str),
}

/// Tries, each with another seed; all have to begin within [`FOUND_MAX`].
const TRIES: u64 = 4;
/// The stated time in which each mutation is found.
pub const FOUND_MAX: Duration = Duration::from_secs(90);
/// Epochs that end while a clock is wrong. An upload lives for 24 of them.
const EPOCH_SECONDS: u32 = 3;
/// What is lost because of a switch does not come back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Every mutation.
pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        switch: "ack_before_sync",
        says: "the log acknowledges what is not synced",
        by: By::Daemons {
            workloads: &[Workload::Register, Workload::Set],
            load: Duration::from_secs(8),
            faults: &[Fault::PowerCutAll],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "read_without_barrier",
        says: "a deposed leader answers reads",
        by: By::Daemons {
            workloads: &[Workload::Register],
            load: Duration::from_secs(25),
            faults: &[Fault::IsolateLeader, Fault::PauseLeader],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "ignore_precondition",
        says: "a precondition that does not hold refuses nothing",
        by: By::Daemons {
            workloads: &[Workload::Register],
            load: Duration::from_secs(4),
            faults: &[],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "ignore_precondition",
        says: "a race for a condition has more winners than one",
        by: By::Daemons {
            workloads: &[Workload::Conditions],
            load: Duration::from_secs(4),
            faults: &[],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "ignore_locks",
        says: "what is locked is removed by whoever asks",
        by: By::Daemons {
            workloads: &[Workload::Locks],
            load: Duration::from_secs(6),
            faults: &[],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "retry_twice",
        says: "a request sent again has effect again",
        by: By::Daemons {
            workloads: &[Workload::Retry],
            load: Duration::from_secs(4),
            faults: &[],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "release_before_record",
        says: "a key leaves before its record is committed",
        by: By::Daemons {
            workloads: &[Workload::Records],
            load: Duration::from_secs(15),
            faults: &[Fault::KillLeader, Fault::IsolateLeader],
            seen_by: Seen::Judges,
        },
    },
    Mutation {
        switch: "reuse_node_id",
        says: "a member that forgot what it promised comes back under its id",
        by: By::Daemons {
            workloads: &[Workload::Register],
            load: Duration::from_secs(6),
            faults: &[Fault::RolledBackDisk],
            seen_by: Seen::Fault,
        },
    },
    Mutation {
        switch: "unlink_by_clock",
        says: "a block goes by the age of its upload",
        by: By::Daemons {
            workloads: &[Workload::Blocks],
            // One jump of all clocks, and the end of the upload that it fell into.
            load: Duration::from_secs(24),
            faults: &[Fault::ClockHours],
            seen_by: Seen::Refusal("not-on-majority"),
        },
    },
    Mutation {
        switch: "receipts_of_anyone",
        says: "receipts count whoever votes",
        by: By::Simulation {
            kind: "node",
            seeds: 100,
        },
    },
];

/// What came of one mutation.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which.
    pub switch: &'static str,
    /// What saw it, if anything did.
    pub by: Option<String>,
    /// From the first world to the verdict.
    pub took: Duration,
    /// Runs that it took.
    pub tries: u64,
}

impl Found {
    /// Whether it was found, and in time.
    pub fn is_good(&self) -> bool {
        self.by.is_some() && self.took <= FOUND_MAX
    }
}

/// Throws each switch whose name contains `only`, and looks whether a run turns red; `each` is told what came of it.
/// `bin` holds daemons built with `danger_switches`.
pub async fn all(
    bin: &Path,
    out: &Path,
    only: Option<&str>,
    seed: u64,
    mut each: impl FnMut(&Found),
) -> Result<()> {
    let chosen: Vec<_> = MUTATIONS
        .iter()
        .filter(|mutation| only.is_none_or(|only| mutation.switch.contains(only)))
        .collect();
    if chosen.is_empty() {
        bail!("no such switch");
    }
    for mutation in chosen {
        each(&look(mutation, bin, &out.join(mutation.switch), seed).await?);
    }
    Ok(())
}

async fn look(mutation: &Mutation, bin: &Path, out: &Path, seed: u64) -> Result<Found> {
    println!("self-test: {}: {}", mutation.switch, mutation.says);
    let began = Instant::now();
    let mut tries = 0;
    let mut by = None;
    while by.is_none() && tries < TRIES && began.elapsed() < FOUND_MAX {
        by = match &mutation.by {
            By::Simulation { kind, seeds } => {
                simulate(mutation.switch, bin, kind, tries * seeds, *seeds)?
            }
            By::Daemons { .. } => on_daemons(mutation, bin, out, seed + tries).await?,
        };
        tries += 1;
    }
    Ok(Found {
        switch: mutation.switch,
        by,
        took: began.elapsed(),
        tries,
    })
}

async fn on_daemons(
    mutation: &Mutation,
    bin: &Path,
    out: &Path,
    seed: u64,
) -> Result<Option<String>> {
    let By::Daemons {
        workloads,
        load,
        faults,
        seen_by,
    } = mutation.by
    else {
        return Ok(None);
    };
    let mut world = WorldPlan::region(3, 1, bin);
    world.furniture.clocks = faults.iter().any(|fault| fault.area() == Area::Clock);
    if world.furniture.clocks {
        // Blocks are swept when an epoch has ended.
        world.federation.upload_epoch_seconds = Some(EPOCH_SECONDS);
    }
    let plan = Plan {
        workloads: workloads.to_vec(),
        faults: faults.to_vec(),
        load,
        seed,
        world,
        patience: PATIENCE,
        residency: false,
        out: out.to_owned(),
        danger: Some(mutation.switch.to_owned()),
        replay: format!(
            "cargo xtask jepsen self-test --only {} --seed {seed}",
            mutation.switch
        ),
    };
    let report = run(&plan).await?;
    Ok(match seen_by {
        Seen::Judges => seen_by_judges(&report),
        Seen::Fault => seen_by_fault(faults, &report),
        Seen::Refusal(why) => seen_as_refusal(why, &report),
    })
}

fn seen_by_judges(report: &Report) -> Option<String> {
    // A run that broke off looked at nothing at its end, and judges say that, too.
    let counts = |what: &str| report.broken.is_none() || !what.contains("at the end");
    report.verdicts.iter().find_map(|verdict| {
        let mut anomalies = verdict.anomalies.iter();
        let red = anomalies.find(|anomaly| counts(&anomaly.what))?;
        Some(format!("{}: {}", verdict.workload, red.what))
    })
}

fn seen_by_fault(faults: &[Fault], report: &Report) -> Option<String> {
    let broken = report.broken.as_deref()?;
    // What could not be healed afterwards begins with another word.
    let named = faults.iter().any(|fault| broken.starts_with(fault.name()));
    named.then(|| broken.to_owned())
}

fn seen_as_refusal(why: &str, report: &Report) -> Option<String> {
    let times = report.refused.get(why)?;
    Some(format!("{times} operations refused: {why}"))
}

/// Seeds of the simulator with the switch thrown, until one is red.
fn simulate(switch: &str, bin: &Path, kind: &str, from: u64, seeds: u64) -> Result<Option<String>> {
    let (from, seeds) = (from.to_string(), seeds.to_string());
    let output = Command::new(bin.join("reduit-sim"))
        .args([
            "--quiet", "--only", kind, "--from", &from, "--seeds", &seeds,
        ])
        .env("REDUIT_DANGER", switch)
        .output()
        .context("cannot start reduit-sim")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let red = text.lines().find(|line| line.contains(": BROKEN: "));
    Ok(red.map(|line| format!("simulation: {line}")))
}

#[cfg(test)]
mod tests {
    use checker::{Anomaly, Verdict};

    use super::*;

    fn report(what: &str, broken: Option<&str>) -> Report {
        let verdict = Verdict::new(Workload::Register, &[], &[], vec![Anomaly::new(what, [])]);
        Report {
            verdicts: vec![verdict],
            broken: broken.map(str::to_owned),
            ..Report::default()
        }
    }

    #[test]
    fn a_run_that_broke_off_is_no_red_for_what_it_did_not_look_at() {
        let unread = "r/1 was written and not read at the end";
        assert_eq!(seen_by_judges(&report(unread, Some("it broke off"))), None);
        assert!(seen_by_judges(&report(unread, None)).is_some());
        assert!(seen_by_judges(&report("r/1 is not linear", Some("it broke off"))).is_some());
    }

    #[test]
    fn a_fault_that_could_not_be_healed_has_seen_nothing() {
        let seen = |broken| seen_by_fault(&[Fault::WipedDisk], &report("", Some(broken)));
        assert!(seen("wiped-disk: ch-zrh/n1 runs under its old id").is_some());
        assert_eq!(seen("healing wiped-disk: a member has ended"), None);
        assert_eq!(seen_by_fault(&[Fault::WipedDisk], &report("", None)), None);
    }

    #[test]
    fn every_mutation_of_the_issues_is_there() {
        let mut switches: Vec<_> = MUTATIONS.iter().map(|one| one.switch).collect();
        switches.sort_unstable();
        switches.dedup();
        assert_eq!(switches.len(), 9);
        let known = proto::danger::Switch::ALL.map(proto::danger::Switch::name);
        assert!(switches.iter().all(|one| known.contains(one)));
    }
}
