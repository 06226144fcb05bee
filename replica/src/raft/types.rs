//! The type configuration of the Raft engine.
//!
//! Owns [`Config`], a member's [`Member`] record, a [`Command`] as it stands in an entry, and the one-shot
//! [`Reply`]. Standard Raft leader ids: one leader a term, so a log id is (term, index) as in the paper.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use proto::ids::{LogIndex, NodeId, Term};
use tokio::sync::oneshot;

use crate::machine::Voters;

/// Types of every Raft group of Reduit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Config;

#[allow(
    deprecated,
    reason = "the re-export saves a dependency on the runtime's own alpha crate"
)]
impl openraft::RaftTypeConfig for Config {
    type D = Command;
    type R = Bytes;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, Member>;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::alias::LogIdOf<Config>;
pub(crate) type Vote = openraft::alias::VoteOf<Config>;
pub(crate) type Entry = openraft::alias::EntryOf<Config>;
pub(crate) type Payload = openraft::EntryPayload<Command, u64, Member>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Config>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Config>;
pub(crate) type Raft = openraft::Raft<Config, crate::raft::machine::StateMachine>;

/// A member as the membership entry states it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// `spiffe://<region>/<role>/<name>`.
    pub identity: String,
    /// Where it listens, `host:port`. A newer endpoint in the enrolment set wins.
    pub endpoint: String,
    /// Its jurisdiction, ISO 3166-1 alpha-2.
    pub jurisdiction: String,
}

/// The encoded payload of a normal entry: format byte, kind byte, body. See [`super::codec`].
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Command(pub(crate) Bytes);

// Lengths only: a command's bytes are customer data and stay out of logs.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Delivers one result to whoever waits; a waiter that went away is no error.
pub(crate) struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply and the end it arrives at.
    pub(crate) fn pair() -> (Self, oneshot::Receiver<T>) {
        let (tx, rx) = oneshot::channel();
        (Self(tx), rx)
    }
}

impl<T: Send + 'static> Responder<Config, T> for Reply<T> {
    fn on_complete(self, result: T) {
        // The waiter may have been dropped by its caller's deadline; the entry stands all the same.
        let _ = self.0.send(result);
    }
}

/// The log id at `term` and `index`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// Term and index of a log id.
pub(crate) fn position(id: &LogId) -> (Term, LogIndex) {
    (Term(id.leader_id.term), LogIndex(id.index))
}

/// The voters of a membership, as the state machine sees them.
pub(crate) fn voters(membership: &Membership) -> Voters {
    Voters {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|config| config.iter().copied().map(NodeId).collect())
            .collect(),
    }
}
