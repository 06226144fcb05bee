//! What a member does with its peers' messages, however they came.
//!
//! Owns the checks that come before the engine sees anything: who calls, for which group, whether this disk still
//! holds what the caller has seen of it. Refuses members of another jurisdiction in an entry, entries for which
//! there is no room, and a pre-vote while the leader is well.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use openraft::{EntryPayload, Snapshot};
use parking_lot::{Mutex, RwLock};
use proto::ids::{GroupId, Identity, Jurisdiction, NodeId, RegionId, Role};
use proto::v1;
use tokio::sync::{Semaphore, watch};
use transport::{Fault, Faulty};

use super::link::Inbound;
use super::seen::{Seen, SeenTable};
use super::{snapshot_recv, wellformed};
use crate::host::core::GroupCore;
use crate::host::failure::{Failure, HostFailure};
use crate::raft::codec::{self, AppliedState};
use crate::raft::snapshot::SnapshotData;
use crate::raft::types::{Config, Entry, SnapshotMeta};

/// Snapshots received at once by a process; a further one waits.
const SNAPSHOTS_MAX: usize = 2;

/// An authenticated member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its enrolled id.
    pub node: NodeId,
    /// Who it is.
    pub identity: Identity,
}

/// Why a peer's message is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another region's, or from before the region was founded anew.
    #[error("message is of another cluster")]
    OtherCluster,
    /// Not the member it claims to be, or of another region or role.
    #[error("{caller} is not the member {claimed} of this role and region")]
    NotTheMember {
        /// Who was authenticated.
        caller: Identity,
        /// Which id the message claims.
        claimed: NodeId,
    },
    /// Meant for another member: an address was reused.
    #[error("message is for member {wanted}, this is {me}")]
    NotForMe {
        /// For whom it is.
        wanted: NodeId,
        /// Who this is.
        me: NodeId,
    },
    /// No such group here.
    #[error("no group {0} here")]
    NoGroup(GroupId),
    /// This member's disk is behind what the peer saw of it. It stops.
    #[error("this member has lost acknowledged data and must rejoin under a new id")]
    Behind,
    /// An entry makes a member of another jurisdiction.
    #[error("member {0} is of another jurisdiction")]
    ForeignMember(NodeId),
    /// No room for normal entries.
    #[error("disk full: only what frees room is taken")]
    Full,
    /// Bytes that are not the message they should be.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The stream ended before its end.
    #[error("stream was cut")]
    Cut,
    /// A file's content is not what was announced.
    #[error("snapshot file differs from its digest")]
    Digest,
    /// The snapshot could not be written.
    #[error("snapshot could not be written")]
    Disk,
    /// Only the leader answers this.
    #[error("this member does not lead the group")]
    NotLeader,
    /// The engine has stopped.
    #[error("the group has stopped")]
    Stopped,
}

impl Faulty for Refusal {
    fn fault(&self) -> Fault {
        match self {
            Self::OtherCluster | Self::NotTheMember { .. } | Self::ForeignMember(_) => {
                Fault::Denied
            }
            Self::NotForMe { .. } | Self::Malformed(_) => Fault::Caller,
            Self::NoGroup(_) => Fault::Missing,
            Self::Behind | Self::Digest => Fault::Damaged,
            Self::Full => Fault::Busy,
            Self::Cut | Self::Disk | Self::NotLeader | Self::Stopped => Fault::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::OtherCluster => "other-cluster",
            Self::NotTheMember { .. } => "not-the-member",
            Self::NotForMe { .. } => "not-for-me",
            Self::NoGroup(_) => "no-group",
            Self::Behind => "behind",
            Self::ForeignMember(_) => "foreign-member",
            Self::Full => "disk-full",
            Self::Malformed(_) => "malformed",
            Self::Cut => "cut",
            Self::Digest => "digest",
            Self::Disk => "snapshot-disk",
            Self::NotLeader => "not-leader",
            Self::Stopped => "stopped",
        }
    }
}

impl From<codec::CodecError> for Refusal {
    fn from(_: codec::CodecError) -> Self {
        Self::Malformed("raft message")
    }
}

/// Who this member is.
#[derive(Debug, Clone)]
pub(crate) struct Identification {
    pub(crate) cluster: [u8; 16],
    pub(crate) me: NodeId,
    pub(crate) region: RegionId,
    pub(crate) role: Role,
    pub(crate) jurisdiction: Jurisdiction,
}

/// Answers peers for every group of a process.
pub struct PeerHandler {
    pub(crate) identification: Identification,
    pub(crate) seen: Arc<SeenTable>,
    pub(crate) failure: Failure,
    groups: RwLock<HashMap<GroupId, Arc<GroupCore>>>,
    stopping: watch::Sender<bool>,
    receiving: Semaphore,
    /// Made anew with every start, so that peers notice a restart that is faster than their attention.
    boot: u64,
}

impl PeerHandler {
    pub(crate) fn new(
        identification: Identification,
        seen: Arc<SeenTable>,
        failure: Failure,
    ) -> Self {
        Self {
            identification,
            seen,
            failure,
            groups: RwLock::default(),
            stopping: watch::Sender::new(false),
            receiving: Semaphore::new(SNAPSHOTS_MAX),
            boot: rand::random(),
        }
    }

    pub(crate) fn add(&self, core: Arc<GroupCore>) {
        self.groups.write().insert(core.id, core);
    }

    pub(crate) fn remove(&self, group: GroupId) {
        self.groups.write().remove(&group);
    }

    pub(crate) fn cores(&self) -> Vec<Arc<GroupCore>> {
        self.groups.read().values().cloned().collect()
    }

    /// Tells attending peers that this process leaves in order.
    pub(crate) fn leave(&self) {
        self.stopping.send_replace(true);
    }

    fn identify(&self, caller: &Caller, header: Option<&v1::RaftHeader>) -> Result<(), Refusal> {
        let header = header.ok_or(Refusal::Malformed("message without header"))?;
        let ours = &self.identification;
        if header.cluster.as_ref() != ours.cluster {
            return Err(Refusal::OtherCluster);
        }
        let claimed = NodeId(header.from);
        if caller.node != claimed
            || caller.identity.region() != &ours.region
            || caller.identity.role() != ours.role
        {
            return Err(Refusal::NotTheMember {
                caller: caller.identity.clone(),
                claimed,
            });
        }
        if header.to != ours.me.0 {
            return Err(Refusal::NotForMe {
                wanted: NodeId(header.to),
                me: ours.me,
            });
        }
        Ok(())
    }

    fn core(&self, header: Option<&v1::RaftHeader>) -> Result<Arc<GroupCore>, Refusal> {
        let group = GroupId(header.map_or(0, |h| h.group));
        self.groups
            .read()
            .get(&group)
            .cloned()
            .ok_or(Refusal::NoGroup(group))
    }

    /// Everything that is checked before a message reaches a group.
    fn admit(
        &self,
        caller: &Caller,
        header: Option<&v1::RaftHeader>,
    ) -> Result<Arc<GroupCore>, Refusal> {
        self.identify(caller, header)?;
        let core = self.core(header)?;
        let seen = Seen::from_wire(header.and_then(|h| h.seen));
        if !core.has_kept(&seen)? {
            let (group, peer) = (core.id, caller.node);
            tracing::error!(%group, %peer, "this disk lacks what the peer saw of it; stopping");
            self.failure.fail(HostFailure::Behind { group, peer });
            return Err(Refusal::Behind);
        }
        Ok(core)
    }

    /// `RaftPeer.Append`.
    pub fn append(
        self: Arc<Self>,
        caller: Caller,
        mut requests: Inbound<v1::RaftAppend>,
    ) -> BoxStream<'static, Result<v1::RaftAppended, Refusal>> {
        let answers = async move {
            let Some(Ok(first)) = requests.next().await else {
                return Ok(futures::stream::empty().boxed());
            };
            let core = self.admit(&caller, first.header.as_ref())?;
            let rest = futures::stream::iter([Ok(first)]).chain(requests);
            let jurisdiction = self.identification.jurisdiction.clone();
            Ok(append_all(core, caller.node, jurisdiction, rest).boxed())
        };
        futures::stream::once(answers)
            .flat_map(
                |opened: Result<BoxStream<'static, _>, Refusal>| match opened {
                    Ok(answers) => answers,
                    Err(refusal) => futures::stream::iter([Err(refusal)]).boxed(),
                },
            )
            .boxed()
    }

    /// `RaftPeer.Vote`.
    pub async fn vote(
        &self,
        caller: &Caller,
        ballot: v1::RaftBallot,
    ) -> Result<v1::RaftBallotResult, Refusal> {
        let core = self.admit(caller, ballot.header.as_ref())?;
        let vote = wellformed::vote_of(caller.node, false, ballot.vote)?;
        let request = VoteRequest::<Config> {
            last_log_id: wellformed::position(&vote, ballot.last)?,
            vote,
            leadership_transfer: ballot.transfer,
        };
        // The engine forgets its lease for the rest of the term once a false alarm made it drop it; what this
        // member hears of the leader does not.
        if ballot.pre && !ballot.transfer && core.hears_leader_other_than(caller.node) {
            let vote = core.raft.server_metrics().borrow_watched().vote;
            return Ok(v1::RaftBallotResult {
                vote: Some(codec::vote_to_wire(&vote)),
                granted: false,
                last: core.log.last().as_ref().map(codec::log_id_to_wire),
            });
        }
        let answered = if ballot.pre {
            core.raft.pre_vote(request).await
        } else {
            core.raft.vote(request).await
        };
        let answer = answered.map_err(|_| Refusal::Stopped)?;
        Ok(v1::RaftBallotResult {
            vote: Some(codec::vote_to_wire(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(codec::log_id_to_wire),
        })
    }

    /// `RaftPeer.Transfer`.
    pub async fn transfer(
        &self,
        caller: &Caller,
        transfer: v1::RaftTransfer,
    ) -> Result<v1::RaftTransferred, Refusal> {
        let core = self.admit(caller, transfer.header.as_ref())?;
        // Only the leader may give its leadership away.
        let leader = wellformed::vote_of(caller.node, true, transfer.leader)?;
        let to_me = transfer.to_node == self.identification.me.0;
        if to_me && !core.may_campaign.load(Ordering::Acquire) {
            return Ok(v1::RaftTransferred { accepted: false });
        }
        let last = wellformed::position(&leader, transfer.last)?;
        let request = TransferLeaderRequest::<Config>::new(leader, transfer.to_node, last);
        let answer = core
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(|_| Refusal::Stopped)?;
        Ok(v1::RaftTransferred {
            accepted: answer.is_ok(),
        })
    }

    /// `RaftPeer.Snapshot`.
    pub async fn snapshot(
        &self,
        caller: &Caller,
        mut frames: Inbound<v1::RaftSnapshotFrame>,
    ) -> Result<v1::RaftSnapshotResult, Refusal> {
        let Some(Ok(first)) = frames.next().await else {
            return Err(Refusal::Cut);
        };
        let Some(v1::raft_snapshot_frame::Frame::Begin(begin)) = first.frame else {
            return Err(Refusal::Malformed("snapshot without begin"));
        };
        let core = self.admit(caller, begin.header.as_ref())?;
        let vote = wellformed::vote_of(caller.node, true, begin.vote)?;
        let mine = core.raft.server_metrics().borrow_watched().vote;
        // Said at once, before gigabytes have come in vain.
        if mine.leader_id.term > vote.leader_id.term {
            return Ok(v1::RaftSnapshotResult {
                vote: Some(codec::vote_to_wire(&mine)),
            });
        }
        let wire = begin
            .applied
            .clone()
            .ok_or(Refusal::Malformed("snapshot without position"))?;
        let membership_at = wellformed::position(&vote, wire.membership_at)?;
        if wellformed::position(&vote, wire.last)? < membership_at {
            return Err(Refusal::Malformed("snapshot position"));
        }
        let applied = AppliedState::from_wire(wire)?;
        self.check_members(applied.membership.membership().nodes())?;
        let _turn = self
            .receiving
            .acquire()
            .await
            .map_err(|_| Refusal::Stopped)?;
        let files =
            snapshot_recv::receive(&core.shared.snapshots, &begin, &applied, frames).await?;
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership,
            },
            snapshot: SnapshotData::Files(files),
        };
        let answer = core
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|_| Refusal::Stopped)?;
        Ok(v1::RaftSnapshotResult {
            vote: Some(codec::vote_to_wire(&answer.vote)),
        })
    }

    fn check_members<'a>(
        &self,
        nodes: impl Iterator<Item = (&'a u64, &'a crate::raft::types::Member)>,
    ) -> Result<(), Refusal> {
        check_members(&self.identification.jurisdiction, nodes)
    }

    /// `RaftPeer.ReadIndex`.
    pub async fn read_index(
        &self,
        caller: &Caller,
        request: v1::RaftReadIndex,
    ) -> Result<v1::RaftReadIndexResult, Refusal> {
        let core = self.admit(caller, request.header.as_ref())?;
        let read = core.reads.confirm().await.map_err(|_| Refusal::NotLeader)?;
        Ok(v1::RaftReadIndexResult {
            read: Some(codec::log_id_to_wire(&read)),
        })
    }

    /// `RaftPeer.Attend`.
    pub fn attend(
        &self,
        caller: &Caller,
        request: &v1::RaftAttend,
    ) -> Result<BoxStream<'static, Result<v1::RaftBeat, Refusal>>, Refusal> {
        self.identify(caller, request.header.as_ref())?;
        let (mut stopping, boot) = (self.stopping.subscribe(), self.boot);
        let leaving = async move {
            // An error means that the handler is gone, which is leaving too.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            Ok(v1::RaftBeat {
                leaving: true,
                boot,
            })
        };
        let present = Ok(v1::RaftBeat {
            leaving: false,
            boot,
        });
        Ok(futures::stream::iter([present])
            .chain(futures::stream::once(leaving))
            .boxed())
    }

    /// `RaftPeer.Survey`.
    pub fn survey(
        &self,
        caller: &Caller,
        request: &v1::RaftSurvey,
    ) -> Result<v1::RaftSurveyResult, Refusal> {
        self.identify(caller, request.header.as_ref())?;
        let core = self.core(request.header.as_ref())?;
        // In the log is enough: who stands there is counted on before that is committed.
        let view = core.view();
        let in_effect =
            view.voters.all().contains(&caller.node) || view.learners.contains(&caller.node);
        Ok(v1::RaftSurveyResult {
            level_max: core.shared.machine.level_max().0,
            level: core.shared.level().0,
            may_campaign: core.may_campaign.load(Ordering::Acquire),
            ever_member: in_effect || core.shared.ever_member(caller.node),
            seen: Some(self.seen.of(core.id, caller.node).to_wire()),
            applied: core.shared.applied().last.map_or(0, |id| id.index),
            hears_leader: core.hears_leader_other_than(caller.node),
            member_now: core.shared.member_now(caller.node),
        })
    }
}

fn check_members<'a>(
    jurisdiction: &Jurisdiction,
    mut nodes: impl Iterator<Item = (&'a u64, &'a crate::raft::types::Member)>,
) -> Result<(), Refusal> {
    match nodes.find(|(_, member)| member.jurisdiction != jurisdiction.as_str()) {
        Some((node, _)) => Err(Refusal::ForeignMember(NodeId(*node))),
        None => Ok(()),
    }
}

/// Feeds a stream of appends to the engine and turns its answers round.
fn append_all(
    core: Arc<GroupCore>,
    leader: NodeId,
    jurisdiction: Jurisdiction,
    requests: impl Stream<Item = Result<v1::RaftAppend, super::link::LinkError>> + Send + 'static,
) -> impl Stream<Item = Result<v1::RaftAppended, Refusal>> + Send + 'static {
    let refused: Arc<Mutex<Option<Refusal>>> = Arc::default();
    let slot = Arc::clone(&refused);
    let receiver = Arc::clone(&core);
    let decoded = requests.scan((), move |(), request| {
        let taken = match request {
            Ok(request) => match decode_append(&receiver, leader, &jurisdiction, request) {
                Ok(request) => Some(request),
                Err(refusal) => {
                    *slot.lock() = Some(refusal);
                    None
                }
            },
            // The caller is gone; there is no one to tell.
            Err(_) => None,
        };
        futures::future::ready(taken)
    });
    let answers = OwnedAnswers::new(core, |core| {
        let answers = core.raft.stream_append(decoded).map(|answer| match answer {
            Ok(result) => Ok(encode_answer(result)),
            Err(_) => Err(Refusal::Stopped),
        });
        answers.boxed()
    });
    // What was asked before the refused request is answered first.
    let last = futures::stream::once(async move { refused.lock().take() });
    answers.chain(last.filter_map(|refusal| futures::future::ready(refusal.map(Err))))
}

type Answers<'a> = BoxStream<'a, Result<v1::RaftAppended, Refusal>>;

// The engine's stream borrows the engine although it needs nothing of it.
self_cell::self_cell!(
    struct OwnedAnswers {
        owner: Arc<GroupCore>,
        #[covariant]
        dependent: Answers,
    }
);

impl Stream for OwnedAnswers {
    type Item = Result<v1::RaftAppended, Refusal>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.with_dependent_mut(|_, answers| answers.poll_next_unpin(cx))
    }
}

fn decode_append(
    core: &GroupCore,
    leader: NodeId,
    jurisdiction: &Jurisdiction,
    request: v1::RaftAppend,
) -> Result<AppendEntriesRequest<Config>, Refusal> {
    let vote = wellformed::vote_of(leader, true, request.vote)?;
    let prev_log_id = wellformed::position(&vote, request.prev)?;
    let leader_commit = wellformed::position(&vote, request.commit)?;
    wellformed::in_order(&vote, &request)?;
    let full = !request.entries.is_empty() && core.log.is_full();
    if full
        && request
            .entries
            .iter()
            .any(|entry| codec::needs_room(&entry.payload))
    {
        return Err(Refusal::Full);
    }
    let entries: Vec<Entry> = request
        .entries
        .into_iter()
        .map(codec::entry_from_wire)
        .collect::<Result<_, _>>()?;
    for entry in &entries {
        if let EntryPayload::Membership(membership) = &entry.payload {
            check_members(jurisdiction, membership.nodes())?;
        }
    }
    core.heard(&vote);
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

fn encode_answer(result: StreamAppendResult<Config>) -> v1::RaftAppended {
    use v1::raft_appended::Outcome;
    let (outcome, log_id, vote) = match &result {
        Ok(at) => (Outcome::Matched, at.as_ref(), None),
        Err(StreamAppendError::Conflict(at)) => (Outcome::Conflict, Some(at), None),
        Err(StreamAppendError::HigherVote(vote)) => (Outcome::HigherVote, None, Some(vote)),
    };
    v1::RaftAppended {
        outcome: outcome.into(),
        log_id: log_id.map(codec::log_id_to_wire),
        vote: vote.map(codec::vote_to_wire),
    }
}
