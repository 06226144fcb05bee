//! `reduit-relocation-model`: explores relocations, prints how many worlds were seen, and exits 1 if one breaks a
//! promise.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use relocation_model::explore::{Explored, unreached};
use relocation_model::{Scenario, explore};

/// Explores a relocation between two regions, every interleaving within bounds.
#[derive(Parser)]
struct Arguments {
    /// Larger bounds: minutes, and gigabytes of memory.
    #[arg(long)]
    full: bool,
    /// Only scenarios whose name contains this.
    scenario: Option<String>,
    /// What clients do, such as `put:0,delete:0,create:1`.
    #[arg(long, value_delimiter = ',')]
    operations: Option<Vec<relocation_model::scenario::Operation>>,
    /// How many operations are done before the relocation is planned.
    #[arg(long)]
    before: Option<usize>,
    /// Keys there are.
    #[arg(long)]
    keys: Option<usize>,
    /// Times that the source is fenced.
    #[arg(long)]
    fences: Option<u32>,
    /// Times that the mover crashes.
    #[arg(long)]
    crashes: Option<u8>,
    /// Times that the regions lose each other.
    #[arg(long)]
    cuts: Option<u8>,
    /// Times that somebody at the destination wants to end it.
    #[arg(long)]
    aborts: Option<u8>,
    /// Times that somebody at the source does.
    #[arg(long)]
    ends: Option<u8>,
    /// Whether it begins with copying, or with the plan.
    #[arg(long)]
    begun: Option<bool>,
    /// Tombstones that the source keeps for a reader.
    #[arg(long)]
    tombstones: Option<u64>,
    /// Whether the source's keys are destroyed in the end.
    #[arg(long)]
    shreds: Option<bool>,
    /// Not beyond so many steps: then this is no proof of anything.
    #[arg(long)]
    steps_max: Option<usize>,
}

impl Arguments {
    fn bound(&self, mut scenario: Scenario) -> Scenario {
        fn set<T: Clone>(place: &mut T, to: &Option<T>) {
            if let Some(to) = to {
                *place = to.clone();
            }
        }
        set(&mut scenario.operations, &self.operations);
        set(&mut scenario.before, &self.before);
        set(&mut scenario.keys, &self.keys);
        set(&mut scenario.fences, &self.fences);
        set(&mut scenario.crashes, &self.crashes);
        set(&mut scenario.cuts, &self.cuts);
        set(&mut scenario.aborts, &self.aborts);
        set(&mut scenario.ends, &self.ends);
        set(&mut scenario.begun, &self.begun);
        set(&mut scenario.tombstones, &self.tombstones);
        set(&mut scenario.shreds, &self.shreds);
        scenario
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut scenarios = if arguments.full {
        Scenario::full()
    } else {
        Scenario::all()
    };
    if let Some(name) = &arguments.scenario {
        scenarios.retain(|scenario| scenario.name.contains(name));
    }
    let mut explored = Vec::new();
    for scenario in scenarios {
        let scenario = arguments.bound(scenario);
        let began = Instant::now();
        let one = explore(&scenario, arguments.steps_max);
        print(&one, began.elapsed().as_secs_f32());
        if let Some(broken) = &one.broken {
            bail!(
                "broken after {} steps: {}",
                broken.steps.len(),
                broken.claim
            );
        }
        explored.push(one);
    }
    let missed = unreached(&explored);
    if arguments.scenario.is_none() && !missed.is_empty() {
        bail!("never reached: {missed:?}");
    }
    Ok(())
}

fn print(one: &Explored, seconds: f32) {
    println!(
        "{}: {} worlds, {} steps deep, {seconds:.1} s; reached: {:?}",
        one.scenario, one.worlds, one.depth, one.reached
    );
    for step in one.broken.iter().flat_map(|broken| &broken.steps) {
        println!("  {step}");
    }
}
