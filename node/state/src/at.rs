//! Where in the log a command stands, and whose word counts there.
//!
//! Owns nothing but the contract with the consensus host. Refuses to know how memberships are made.

use std::collections::BTreeSet;

use proto::ids::{FeatureLevel, LogIndex, NodeId};

/// Whether nodes are a majority of the voters at one log position; of both sets while a change is joint.
pub trait Majority {
    /// Whether `nodes` hold a majority of every configuration in force.
    fn majority(&self, nodes: &BTreeSet<NodeId>) -> bool;
}

impl<F: Fn(&BTreeSet<NodeId>) -> bool> Majority for F {
    fn majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        self(nodes)
    }
}

/// Where in the log a command stands.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// Log index of the entry; higher than of any command applied before.
    pub index: LogIndex,
    /// Membership at that position.
    pub voters: &'a dyn Majority,
    /// Feature level in force at that position.
    pub level: FeatureLevel,
}

/// A command this build does not know. The replica stops: going on would fork its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("log index {index} holds {what}")]
pub struct Unknown {
    /// Where it stands.
    pub index: LogIndex,
    /// What could be read of it.
    pub what: &'static str,
}
