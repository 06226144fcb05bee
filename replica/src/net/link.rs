//! One member as another reaches it: the calls, without how they travel.
//!
//! Owns the traits [`Link`] and [`Dialer`]. Refuses retries: the engine and the host decide what to do about an
//! error, and a retried vote or append would hide how the network behaves.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use proto::ids::NodeId;
use proto::v1;

use crate::raft::types::Member;

/// Which connection a call takes. Each is a connection of its own, so that a snapshot does not hold up an append
/// nor an append a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Heartbeats, votes and small questions.
    Heartbeat,
    /// Replication.
    Append,
    /// Snapshots.
    Snapshot,
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// No connection.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The connection broke, or the peer failed.
    Broken,
    /// The peer answered and refused.
    Refused,
}

/// A call that failed, with the peer's reason where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError {
    /// What kind of failure.
    pub fault: LinkFault,
    /// For the log: no payloads, no names of objects.
    pub reason: String,
}

impl LinkError {
    /// An error of `fault`.
    pub fn new(fault: LinkFault, reason: impl Into<String>) -> Self {
        Self {
            fault,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            LinkFault::Unreachable => "peer unreachable",
            LinkFault::TimedOut => "no answer from peer in time",
            LinkFault::Broken => "connection to peer broke",
            LinkFault::Refused => "peer refused",
        };
        write!(f, "{what}: {}", self.reason)
    }
}

impl std::error::Error for LinkError {}

/// The result of one call.
pub type LinkResult<T> = Result<T, LinkError>;
/// A stream of messages to a peer.
pub type Outbound<T> = BoxStream<'static, T>;
/// A stream of messages from a peer.
pub type Inbound<T> = BoxStream<'static, LinkResult<T>>;

/// One lane to one member. See the service `RaftPeer` for what each call means.
pub trait Link: Send + Sync {
    /// `RaftPeer.Append`. Resolves when the peer has taken the stream, before it has answered anything.
    fn append(
        &self,
        requests: Outbound<v1::RaftAppend>,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftAppended>>>;
    /// `RaftPeer.Vote`.
    fn vote(&self, ballot: v1::RaftBallot) -> BoxFuture<'static, LinkResult<v1::RaftBallotResult>>;
    /// `RaftPeer.Transfer`.
    fn transfer(
        &self,
        transfer: v1::RaftTransfer,
    ) -> BoxFuture<'static, LinkResult<v1::RaftTransferred>>;
    /// `RaftPeer.Snapshot`.
    fn snapshot(
        &self,
        frames: Outbound<v1::RaftSnapshotFrame>,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSnapshotResult>>;
    /// `RaftPeer.ReadIndex`.
    fn read_index(
        &self,
        request: v1::RaftReadIndex,
    ) -> BoxFuture<'static, LinkResult<v1::RaftReadIndexResult>>;
    /// `RaftPeer.Attend`.
    fn attend(
        &self,
        request: v1::RaftAttend,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftBeat>>>;
    /// `RaftPeer.Survey`.
    fn survey(
        &self,
        request: v1::RaftSurvey,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSurveyResult>>;
}

/// Finds links to members. Connecting happens with the first call, not here.
pub trait Dialer: Send + Sync + 'static {
    /// The lane to `to`; `member` is what the membership says of it.
    fn link(&self, to: NodeId, member: &Member, lane: Lane) -> LinkResult<Arc<dyn Link>>;
    /// This member's own record.
    fn own(&self) -> Member;
    /// Every enrolled member of the own role and region but the own one.
    fn peers(&self) -> Vec<(NodeId, Member)>;
}
