//! What a replicated state machine is to this crate: bytes in, bytes out, deterministic.
//!
//! Owns the contract between the consensus host and `node`, `kms`. Refuses: clocks, randomness and files in
//! `apply`; the same log must give the same state on every replica.

use bytes::Bytes;
use proto::ids::{FeatureLevel, LogIndex, NodeId, Term};
use proto::store::{Reader, Writer};

/// The voters in force at one log position: one set, or two while a change is joint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Voters {
    /// One or two sets; a decision needs a majority of each.
    pub configs: Vec<std::collections::BTreeSet<NodeId>>,
}

impl Voters {
    /// Whether `nodes` hold a majority of every configuration. An empty membership has no majority.
    pub fn majority<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId> + Clone) -> bool {
        !self.configs.is_empty()
            && self.configs.iter().all(|config| {
                let held: std::collections::BTreeSet<_> = nodes
                    .clone()
                    .into_iter()
                    .filter(|node| config.contains(node))
                    .collect();
                held.len() * 2 > config.len()
            })
    }

    /// Every voter once.
    pub fn all(&self) -> std::collections::BTreeSet<NodeId> {
        self.configs.iter().flatten().copied().collect()
    }
}

/// Where in the log a command stands.
#[derive(Debug, Clone, Copy)]
pub struct Position<'a> {
    /// Log index of the entry.
    pub index: LogIndex,
    /// Term of the entry.
    pub term: Term,
    /// Membership at that position.
    pub voters: &'a Voters,
    /// Feature level in force at that position.
    pub level: FeatureLevel,
}

/// A command this build does not know. The replica stops: going on would fork its state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log index {index} holds a command this build does not know: {what}")]
pub struct UnknownCommand {
    /// Where it stands.
    pub index: LogIndex,
    /// What could be read of it.
    pub what: String,
}

/// A deterministic state machine over an ordered key-value state.
pub trait Machine: Send + Sync + 'static {
    /// The highest feature level this build understands.
    fn level_max(&self) -> FeatureLevel;

    /// Applies one committed command. Reads and writes `state` only, which is replicated, snapshotted and
    /// digested; `local` is written in the same atomic batch but belongs to this replica alone (for instance
    /// the set of blocks it misses) and is neither digested nor sent to peers. A command refused by the state
    /// is a normal answer, the same on every replica.
    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand>;

    /// Called after a batch of commands has been written to the state store (readable, not yet flushed), with
    /// the last applied index. Wakes drivers; must not block.
    fn applied(&self, _through: LogIndex) {}

    /// Called after the state store has been flushed: everything up to `through` survives a power cut.
    fn flushed(&self, _through: LogIndex) {}

    /// Called after a snapshot from a peer replaced `state`; `local` is what this replica had, to be brought in
    /// line (for instance: recompute which referenced blocks are missing).
    fn installed(&self, _through: LogIndex, _state: &dyn Reader, _local: &mut dyn Writer) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> std::collections::BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn joint_membership_needs_both_majorities() {
        let voters = Voters {
            configs: vec![set(&[1, 2, 3]), set(&[3, 4, 5])],
        };
        let held =
            |ids: &[u64]| voters.majority(&ids.iter().copied().map(NodeId).collect::<Vec<_>>());
        assert!(held(&[1, 3, 4]));
        assert!(!held(&[1, 2, 3]));
        assert!(!held(&[3, 4, 5]));
        assert!(!held(&[1, 1, 3]));
        assert!(!Voters::default().majority(&[NodeId(1)]));
    }
}
