//! Explorations, and what they came to.
//!
//! Owns the report. Refuses to call a small exploration a proof, and one that ran out of memory or was stopped a whole
//! one: it ends when every reachable world was seen, or at the first that breaks a promise.

use std::collections::BTreeSet;

use stateright::{Checker as _, HasDiscoveries, Model as _};

use crate::invariants;
use crate::scenario::Scenario;

/// Workers, as many as the reference machine has cores.
const THREADS: usize = 2;

/// What one exploration came to.
#[derive(Debug, Clone)]
pub struct Explored {
    /// Of which scenario.
    pub scenario: &'static str,
    /// Worlds seen, each once.
    pub worlds: usize,
    /// Steps from the first world to the farthest.
    pub depth: usize,
    /// What was to happen in some world, and did.
    pub reached: BTreeSet<&'static str>,
    /// What was to hold and did not, with the steps that lead there.
    pub broken: Option<Counterexample>,
}

/// Steps to a world that breaks a promise.
#[derive(Debug, Clone)]
pub struct Counterexample {
    /// Which promise.
    pub claim: &'static str,
    /// The steps.
    pub steps: Vec<String>,
}

/// Explores every world of a scenario, breadth first, until a promise is broken; not beyond `steps_max` steps, where
/// that is given.
pub fn explore(scenario: &Scenario, steps_max: Option<usize>) -> Explored {
    let checker = scenario.clone().checker();
    let checker = checker
        .threads(THREADS)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = match steps_max {
        Some(steps) => checker.target_max_depth(steps),
        None => checker,
    };
    let checker = checker.spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let broken = invariants::always().filter_map(|claim| {
        let path = discoveries.remove(claim)?;
        let steps = path
            .into_actions()
            .into_iter()
            .map(|step| format!("{step:?}"));
        Some(Counterexample {
            claim,
            steps: steps.collect(),
        })
    });
    let broken = broken.min_by_key(|counterexample| counterexample.steps.len());
    let reached = invariants::sometimes().filter(|name| discoveries.contains_key(name));
    Explored {
        scenario: scenario.name,
        worlds: checker.unique_state_count(),
        depth: checker.max_depth(),
        reached: reached.collect(),
        broken,
    }
}

/// What is to happen and has not, in any of the explorations.
pub fn unreached(explored: &[Explored]) -> BTreeSet<&'static str> {
    let reached = |name: &&str| explored.iter().any(|one| one.reached.contains(name));
    invariants::sometimes()
        .filter(|name| !reached(name))
        .collect()
}
