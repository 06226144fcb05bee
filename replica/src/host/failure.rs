//! The one way a host ends by itself.
//!
//! Owns the first reason; later ones are consequences. Refuses recovery in place: after any of these what memory
//! says about the disk is not known to be true, so the process exits and starts over from the disk.

use std::sync::Arc;

use proto::ids::{GroupId, NodeId};
use tokio::sync::watch;

use crate::log::LogError;

/// Why the process has to exit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostFailure {
    /// The Raft log failed.
    #[error("the raft log failed")]
    Log(#[source] Arc<LogError>),
    /// A group's engine stopped: its state store failed, or it met a command it does not know.
    #[error("group {group} stopped: {why}")]
    Group {
        /// Which group.
        group: GroupId,
        /// What the engine says.
        why: String,
    },
    /// A peer has seen more of this disk than is on it.
    #[error(
        "the disk of group {group} is behind what member {peer} has seen of it: acknowledged data is lost here; \
         remove this member and join again under a new id"
    )]
    Behind {
        /// Which group.
        group: GroupId,
        /// Who saw more.
        peer: NodeId,
    },
}

/// Reports failures; the first one counts.
#[derive(Clone)]
pub(crate) struct Failure(Arc<watch::Sender<Option<HostFailure>>>);

impl Failure {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Reports `failure`, unless one was reported before.
    pub(crate) fn fail(&self, failure: HostFailure) {
        self.0.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(failure);
            }
            first
        });
    }

    /// Changes once, to the failure.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<HostFailure>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts() {
        let failure = Failure::new();
        let seen = failure.watch();
        let behind = |peer| HostFailure::Behind {
            group: GroupId(1),
            peer: NodeId(peer),
        };
        failure.fail(behind(2));
        failure.fail(behind(3));
        let held = seen.borrow().clone();
        assert!(
            matches!(
                held,
                Some(HostFailure::Behind {
                    peer: NodeId(2),
                    ..
                })
            ),
            "{held:?}"
        );
    }
}
