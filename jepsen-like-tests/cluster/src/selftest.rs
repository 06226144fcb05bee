//! The suite itself under test: with a promise switched off, a run must turn red.
//!
//! Owns which switch is looked for with which load and faults, and how long that may take. Refuses a red for another
//! reason: the verdict of a named workload, or what a named fault saw, has to say it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use checker::Workload;

use crate::nemesis::Fault;
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
    /// The load.
    pub workloads: &'static [Workload],
    /// The faults.
    pub faults: &'static [Fault],
    /// What must turn red.
    pub seen_by: Seen,
}

/// Who has to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The judge of one of the workloads.
    Judges,
    /// A fault that was to be refused.
    Fault,
}

/// Load of one try.
const LOAD: Duration = Duration::from_secs(25);
/// Tries, each with another seed; all have to be within [`FOUND_MAX`].
const TRIES: u64 = 3;
/// The stated time in which each mutation is found.
pub const FOUND_MAX: Duration = Duration::from_secs(180);

/// Every mutation that a run of real daemons finds. Those that take a membership or an age which no run of a minute
/// has are found by simulation (`reduit-sim`).
pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        switch: "ack_before_sync",
        says: "the log acknowledges what is not synced",
        workloads: &[Workload::Register, Workload::Set],
        faults: &[Fault::PowerCutAll],
        seen_by: Seen::Judges,
    },
    Mutation {
        switch: "read_without_barrier",
        says: "a deposed leader answers reads",
        workloads: &[Workload::Register],
        faults: &[Fault::IsolateLeader, Fault::PauseLeader],
        seen_by: Seen::Judges,
    },
    Mutation {
        switch: "ignore_precondition",
        says: "a precondition that does not hold refuses nothing",
        workloads: &[Workload::Register],
        faults: &[],
        seen_by: Seen::Judges,
    },
    Mutation {
        switch: "retry_twice",
        says: "a request sent again has effect again",
        workloads: &[Workload::Retry],
        faults: &[],
        seen_by: Seen::Judges,
    },
    Mutation {
        switch: "release_before_record",
        says: "a key leaves before its record is committed",
        workloads: &[Workload::Records],
        faults: &[Fault::KillLeader, Fault::IsolateLeader],
        seen_by: Seen::Judges,
    },
    Mutation {
        switch: "reuse_node_id",
        says: "an emptied member comes back under its id",
        workloads: &[Workload::Register],
        faults: &[Fault::WipedDisk],
        seen_by: Seen::Fault,
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

/// Throws each switch whose name contains `only`, and looks whether a run turns red. `bin` holds daemons built with
/// `danger_switches`.
pub async fn all(bin: &Path, out: &Path, only: Option<&str>, seed: u64) -> Result<Vec<Found>> {
    let chosen = MUTATIONS
        .iter()
        .filter(|mutation| only.is_none_or(|only| mutation.switch.contains(only)));
    let mut found = Vec::new();
    for mutation in chosen {
        found.push(look(mutation, bin, &out.join(mutation.switch), seed).await?);
    }
    if found.is_empty() {
        bail!("no such switch");
    }
    Ok(found)
}

async fn look(mutation: &Mutation, bin: &Path, out: &Path, seed: u64) -> Result<Found> {
    let began = Instant::now();
    let mut tries = 0;
    let mut by = None;
    while by.is_none() && tries < TRIES && began.elapsed() < FOUND_MAX {
        let mut world = WorldPlan::region(3, 1, bin);
        world.furniture.clocks = false;
        let plan = Plan {
            workloads: mutation.workloads.to_vec(),
            faults: mutation.faults.to_vec(),
            load: LOAD,
            seed: seed + tries,
            world,
            residency: false,
            out: out.to_owned(),
            danger: Some(mutation.switch.to_owned()),
            replay: format!("cargo xtask jepsen self-test --only {}", mutation.switch),
        };
        tries += 1;
        let report = run(&plan).await?;
        by = seen(mutation, &report);
    }
    let took = began.elapsed();
    Ok(Found {
        switch: mutation.switch,
        by,
        took,
        tries,
    })
}

fn seen(mutation: &Mutation, report: &Report) -> Option<String> {
    match mutation.seen_by {
        Seen::Judges => {
            let mut verdicts = report.verdicts.iter();
            let red = verdicts.find(|verdict| verdict.found > 0)?;
            let first = red.anomalies.first().map(|anomaly| anomaly.what.as_str());
            Some(format!("{}: {}", red.workload, first.unwrap_or_default()))
        }
        Seen::Fault => {
            let broken = report.broken.as_deref()?;
            let named = mutation
                .faults
                .iter()
                .any(|fault| broken.contains(fault.name()));
            named.then(|| broken.to_owned())
        }
    }
}
