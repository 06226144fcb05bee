//! Every world within the bounds keeps every promise, and the bounds are wide enough to mean something.

use relocation_model::explore::unreached;
use relocation_model::{Scenario, explore};

/// Fewer worlds than this in all, and a bound has been set so low that little was looked at.
const WORLDS_MIN: usize = 500_000;

#[test]
fn no_interleaving_breaks_a_promise() {
    let full = std::env::var_os("REDUIT_FULL").is_some();
    let scenarios = if full {
        Scenario::full()
    } else {
        Scenario::all()
    };
    let mut explored = Vec::new();
    for scenario in &scenarios {
        let one = explore(scenario, None);
        if let Some(broken) = &one.broken {
            let (claim, length) = (broken.claim, broken.steps.len());
            let steps = broken.steps.join("\n  ");
            panic!(
                "{}: \"{claim}\" is broken after {length} steps:\n  {steps}",
                one.scenario
            );
        }
        println!(
            "{}: {} worlds, {} steps deep",
            one.scenario, one.worlds, one.depth
        );
        explored.push(one);
    }
    let worlds: usize = explored.iter().map(|one| one.worlds).sum();
    println!("{worlds} worlds");
    assert!(worlds >= WORLDS_MIN, "{worlds} worlds are too few");
    let missed = unreached(&explored);
    assert!(missed.is_empty(), "never reached: {missed:?}");
}
