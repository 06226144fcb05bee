//! What the dataset is, whoever holds it: kept apart from both regions, by what they said to clients.
//!
//! Owns the one history of effects. Refuses to look at a region's objects.

use std::collections::BTreeMap;

use proto::ids::LogIndex;

use crate::scenario::{Kind, Op, Scenario};

/// What came of an operation that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It has effect.
    Done,
    /// It has none, for ever: its condition did not hold, or there was nothing.
    Refused,
}

/// What operations made of the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    /// How often each operation had effect.
    pub(crate) effects: Vec<u8>,
    /// By key: the operation that wrote what is there; `None` for nothing.
    pub(crate) truth: BTreeMap<usize, Option<Op>>,
    /// By key: the source's log index of the last change there, and what it wrote.
    pub(crate) source_changes: BTreeMap<usize, (LogIndex, Option<Op>)>,
}

impl Register {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            effects: vec![0; scenario.operations.len()],
            truth: BTreeMap::new(),
            source_changes: BTreeMap::new(),
        }
    }

    /// An operation had effect; `at` is the log index where that was the source.
    pub(crate) fn effect(&mut self, scenario: &Scenario, op: Op, at: Option<LogIndex>) {
        let operation = scenario.operations[op];
        let now = (operation.kind != Kind::Delete).then_some(op);
        self.effects[op] += 1;
        self.truth.insert(operation.key, now);
        if let Some(at) = at {
            self.source_changes.insert(operation.key, (at, now));
        }
    }
}
