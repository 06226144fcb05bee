//! The handle on one group.
//!
//! Owns what `node` and `kms` may ask of consensus: propose, read, watch, hand over, stop. Refuses a linearizable
//! answer without the majority's word.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use proto::ids::{FeatureLevel, GroupId, LogIndex, NodeId};
use proto::store::{Reader, Writer};
use proto::v1;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::core::{GroupCore, GroupRole, GroupView};
use super::propose::{self, Applied, Gate, ProposeError};
use super::reads::{self, ReadError};
use crate::blocking::away;
use crate::machine::Voters;
use crate::net::link::{Lane, LinkResult};
use crate::raft::codec::Order;
use crate::raft::types::Member;
use crate::state::{StateDigest, StateError, View};

/// How long one successor may take to lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// How long a member may take to say what it supports.
const SURVEY_MAX: Duration = Duration::from_secs(2);

/// One group of this process. Clones are handles on it.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<GroupCore>,
    gate: Gate,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in self.tasks.get_mut() {
            task.abort();
        }
    }
}

/// Why a group could not be founded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoundError {
    /// It has a history already, here or elsewhere.
    #[error("the group is founded already")]
    NotPristine,
    /// The founders must contain this member.
    #[error("this member is not among the founders")]
    NotAFounder,
    /// A founder is not enrolled, or of another jurisdiction.
    #[error("founder {0} is not enrolled in this jurisdiction and role")]
    NotEnrolled(NodeId),
    /// The group has stopped here.
    #[error("the group has stopped here")]
    Stopped,
}

/// Why a level was not raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaiseError {
    /// This build does not understand it.
    #[error("this build understands feature levels up to {0}")]
    Unknown(FeatureLevel),
    /// A member does not understand it.
    #[error("member {node} understands feature levels up to {level_max}")]
    NotSupported {
        /// Which member.
        node: NodeId,
        /// What it understands.
        level_max: FeatureLevel,
    },
    /// A member did not say.
    #[error("member {0} did not say which feature levels it understands")]
    NoAnswer(NodeId),
    /// It could not be proposed.
    #[error("the level could not be proposed")]
    Propose(#[source] ProposeError),
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// This member does not lead.
    #[error("this member does not lead the group")]
    NotLeader,
    /// No other voter took over.
    #[error("no other voter could take over the leadership")]
    NoSuccessor,
    /// The group has stopped here.
    #[error("the group has stopped here")]
    Stopped,
}

impl Group {
    pub(crate) fn new(core: Arc<GroupCore>, tasks: Vec<JoinHandle<()>>) -> Self {
        let tuning = &core.tuning;
        let gate = Gate::new(tuning.proposals_max, tuning.proposal_bytes_max);
        Self {
            inner: Arc::new(Inner {
                core,
                gate,
                tasks: parking_lot::Mutex::new(tasks),
            }),
        }
    }

    fn core(&self) -> &Arc<GroupCore> {
        &self.inner.core
    }

    /// Its id.
    pub fn id(&self) -> GroupId {
        self.core().id
    }

    /// This member's id.
    pub fn node_id(&self) -> NodeId {
        self.core().me
    }

    /// Founds the group with `founders`, all voters, this member among them. Call it on one founder only.
    pub async fn initialize(
        &self,
        founders: impl IntoIterator<Item = NodeId>,
    ) -> Result<(), FoundError> {
        let mut members: BTreeMap<u64, Member> = BTreeMap::new();
        let enrolled: BTreeMap<NodeId, Member> = self.enrolled();
        for node in founders {
            let member = enrolled
                .get(&node)
                .cloned()
                .ok_or(FoundError::NotEnrolled(node))?;
            members.insert(node.0, member);
        }
        if !self.core().log.is_pristine() {
            return Err(FoundError::NotPristine);
        }
        self.core()
            .raft
            .initialize(members)
            .await
            .map_err(|e| match e {
                RaftError::APIError(InitializeError::NotAllowed(_)) => FoundError::NotPristine,
                RaftError::APIError(InitializeError::NotInMembers(_)) => FoundError::NotAFounder,
                RaftError::Fatal(_) => FoundError::Stopped,
            })
    }

    /// Enrolled members of the own role and jurisdiction, this one included.
    pub(crate) fn enrolled(&self) -> BTreeMap<NodeId, Member> {
        let own = self.core().shared.jurisdiction().as_str();
        let dialer = &self.core().context.dialer;
        let me = std::iter::once((self.core().me, dialer.own()));
        let all = me.chain(dialer.peers());
        all.filter(|(_, member)| member.jurisdiction == own)
            .collect()
    }

    /// Proposes a command and answers what the machine said of it.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        Ok(self.propose_at(command).await?.answer)
    }

    /// As [`Group::propose`], with the index at which the command stands.
    pub async fn propose_at(&self, command: Bytes) -> Result<Applied, ProposeError> {
        propose::propose(self.core(), &self.inner.gate, &Order::Machine(command)).await
    }

    /// As [`Group::propose_at`], for a command that is taken on a full disk too: deletion, collection, keys.
    pub async fn propose_reserved(&self, command: Bytes) -> Result<Applied, ProposeError> {
        propose::propose(self.core(), &self.inner.gate, &Order::Reserved(command)).await
    }

    /// A node id that nobody has or ever had.
    pub async fn allocate_node_id(&self) -> Result<NodeId, ProposeError> {
        let order = Order::AllocateNodeId;
        let applied = propose::propose(self.core(), &self.inner.gate, &order).await?;
        let id: [u8; 8] = applied
            .answer
            .as_ref()
            .try_into()
            .map_err(|_| ProposeError::Unknown)?;
        Ok(NodeId(u64::from_be_bytes(id)))
    }

    /// Waits until what is read here next contains everything that was acknowledged anywhere before the call, and
    /// answers the index that took. On a follower the leader is asked.
    pub async fn read_index(&self) -> Result<LogIndex, ReadError> {
        let read = reads::index_of(&self.core().reads.confirm_anywhere().await?);
        self.applied_at_least(read).await?;
        Ok(read)
    }

    /// As [`Group::read_index`], refused unless this member leads.
    pub async fn read_index_as_leader(&self) -> Result<LogIndex, ReadError> {
        let read = reads::index_of(&self.core().reads.confirm().await?);
        self.applied_at_least(read).await?;
        Ok(read)
    }

    async fn applied_at_least(&self, index: LogIndex) -> Result<(), ReadError> {
        if self.core().shared.applied_index() >= Some(index) {
            return Ok(());
        }
        let mut applied = self.core().shared.watch_applied();
        let reached = applied.wait_for(|applied| *applied >= Some(index));

        match timeout(self.core().tuning.read_wait, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind),
        }
    }

    /// The state as applied here, and this replica's own keys, at one index. Stale unless [`Group::read_index`]
    /// came before. Reads of a view may block, and panic once the store has failed.
    pub fn view(&self) -> Result<View, StateError> {
        self.core().shared.view()
    }

    /// The replicated part of [`Group::view`].
    pub fn reader(&self) -> Result<Box<dyn Reader + Send + Sync>, StateError> {
        Ok(self.view()?.state)
    }

    /// This replica's own part of [`Group::view`].
    pub fn local_reader(&self) -> Result<Box<dyn Reader + Send + Sync>, StateError> {
        Ok(self.view()?.local)
    }

    /// Writes this replica's own keys. Durable with the next flush. *Blocks*: call it where that is allowed.
    pub fn local_write(&self, write: impl FnOnce(&mut dyn Writer)) -> Result<(), StateError> {
        self.core().shared.local_write(write)
    }

    /// A digest of the replicated state, to compare replicas. *Blocks*, reads everything.
    pub fn digest(&self) -> Result<StateDigest, StateError> {
        self.core().shared.store.digest()
    }

    /// Makes what is applied here durable in the state store now. *Blocks.*
    pub fn flush(&self) -> std::io::Result<()> {
        self.core().shared.flush().map(drop)
    }

    /// Changes with the last applied index.
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogIndex>> {
        self.core().shared.watch_applied()
    }

    /// The last applied index.
    pub fn applied(&self) -> Option<LogIndex> {
        self.core().shared.applied_index()
    }

    /// The last index known here to be committed.
    pub fn committed(&self) -> Option<LogIndex> {
        let metrics = self.core().raft.metrics();
        let committed = metrics.borrow_watched().local_committed;
        committed.map(|id| LogIndex(id.index))
    }

    /// Says in numbers how far the other members are behind: entries that each of them lacks, where this one leads.
    pub fn gauge_lag(&self) {
        let core = self.core();
        let metrics = core.raft.metrics();
        let (last, matched) = {
            let metrics = metrics.borrow_watched();
            (metrics.last_log_index, metrics.replication.clone())
        };
        let last = last.unwrap_or_default();
        let view = core.view();
        let members = view.voters.all().into_iter().chain(view.learners);
        for member in members.filter(|member| *member != core.me) {
            let matched = matched.as_ref().and_then(|matched| matched.get(&member.0));
            let lag = matched.map_or(0, |matched| {
                last.saturating_sub(matched.map_or(0, |id| id.index))
            });
            let labels = [
                ("group", core.id.to_string()),
                ("member", member.0.to_string()),
            ];
            metrics::gauge!("reduit_raft_lag_entries", &labels).set(lag as f64);
        }
    }

    /// The group as seen here.
    pub fn status(&self) -> GroupView {
        self.core().view()
    }

    /// Changes with role, term, leader and membership.
    pub fn watch(&self) -> watch::Receiver<GroupView> {
        self.core().watch()
    }

    /// Who leads, as far as is known here.
    pub fn leader(&self) -> Option<NodeId> {
        self.core().watch().borrow().leader
    }

    /// Whether this member believes that it leads. It may be wrong: only [`Group::read_index`] knows.
    pub fn is_leader(&self) -> bool {
        self.core().watch().borrow().role == GroupRole::Leader
    }

    /// The first index still in the log here; `None` when it holds no entry.
    pub fn first_log_index(&self) -> Option<LogIndex> {
        self.core().log.first()
    }

    /// The voters at the last applied index.
    pub fn voters(&self) -> Voters {
        self.core().shared.voters()
    }

    /// Whether `node` is a member by the applied state, or was one.
    pub fn ever_member(&self, node: NodeId) -> bool {
        self.core().shared.ever_member(node)
    }

    /// The feature level in force in the applied state.
    pub fn level(&self) -> FeatureLevel {
        self.core().shared.level()
    }

    /// Waits until the state here has caught up with everything this disk may have shown before a restart. Serve
    /// nothing before. Needs a majority of the group.
    pub async fn recovered(&self) -> Result<(), ReadError> {
        loop {
            match self
                .core()
                .raft
                .wait_for_recovery(Some(self.core().tuning.read_wait))
                .await
            {
                Ok(_) => return Ok(()),
                Err(openraft::metrics::WaitError::Timeout(..)) => {}
                Err(openraft::metrics::WaitError::ShuttingDown) => return Err(ReadError::Stopped),
            }
        }
    }

    /// Whether this member may ask to lead. It votes in any case. One that leads goes on: see
    /// [`Group::hand_over`].
    pub fn set_may_campaign(&self, may: bool) {
        self.core().may_campaign.store(may, Ordering::Release);
        self.core().raft.runtime_config().elect(may);
    }

    /// Gives the leadership to another voter that may campaign, the one with the longest log first.
    pub async fn hand_over(&self) -> Result<NodeId, HandOverError> {
        let core = self.core();
        let mut watch = core.watch();
        if !self.is_leader() {
            return Err(HandOverError::NotLeader);
        }
        let answers = self.survey(core.view().voters.all()).await;
        let matched = core
            .raft
            .data_metrics()
            .borrow_watched()
            .replication
            .clone()
            .unwrap_or_default();
        let mut successors: Vec<(u64, NodeId)> = answers
            .into_iter()
            .filter(|(_, answer)| answer.as_ref().is_ok_and(|a| a.may_campaign))
            .map(|(node, _)| {
                (
                    matched.get(&node.0).and_then(|m| m.map(|id| id.index)),
                    node,
                )
            })
            .map(|(index, node)| (index.unwrap_or(0), node))
            .collect();
        successors.sort_by(|a, b| b.cmp(a));
        for (_, node) in successors {
            if core.raft.trigger().transfer_leader(node.0).await.is_err() {
                return Err(HandOverError::Stopped);
            }
            let led = watch.wait_for(|v| v.leader.is_some_and(|leader| leader != core.me));
            if let Ok(Ok(view)) = timeout(HAND_OVER_MAX, led).await
                && let Some(leader) = view.leader
            {
                return Ok(leader);
            }
        }
        Err(HandOverError::NoSuccessor)
    }

    /// Raises the feature level, once every member, learners included, has said that it understands it.
    pub async fn raise_level(&self, level: FeatureLevel) -> Result<FeatureLevel, RaiseError> {
        let own = self.core().shared.machine.level_max();
        if level > own {
            return Err(RaiseError::Unknown(own));
        }
        let view = self.core().view();
        let members = view.voters.all().into_iter().chain(view.learners);
        for (node, answer) in self.survey(members).await {
            let level_max = answer
                .map(|a| FeatureLevel(a.level_max))
                .map_err(|_| RaiseError::NoAnswer(node))?;
            if level_max < level {
                return Err(RaiseError::NotSupported { node, level_max });
            }
        }
        let order = Order::RaiseLevel(level);
        propose::propose(self.core(), &self.inner.gate, &order)
            .await
            .map_err(RaiseError::Propose)?;
        Ok(self.level().max(level))
    }

    /// Asks `nodes` but this one what they support and remember.
    pub(crate) async fn survey(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> Vec<(NodeId, LinkResult<v1::RaftSurveyResult>)> {
        let core = self.core();
        let metrics = core
            .raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let asked: FuturesUnordered<_> = nodes
            .into_iter()
            .filter(|node| *node != core.me)
            .map(|node| {
                let member = metrics
                    .membership()
                    .get_node(&node.0)
                    .cloned()
                    .unwrap_or_default();
                async move { (node, survey_one(core, node, &member).await) }
            })
            .collect();
        asked.collect().await
    }

    /// Stops this member's part in the group: hands leadership over when it leads, ends the engine, and makes the
    /// state durable.
    pub async fn stop(&self) {
        let core = self.core();
        if core.stopping.load(Ordering::Acquire) {
            return;
        }
        if self.is_leader() && self.core().view().voters.all().len() > 1 {
            // A leader that cannot hand over is replaced as one that was lost.
            let _ = self.hand_over().await;
        }
        self.stop_at_once().await;
    }

    /// As [`Group::stop`], without handing over.
    pub async fn stop_at_once(&self) {
        let core = self.core();
        if core.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        core.shared.stopping.store(true, Ordering::Release);
        // In a task of its own, because the engine's join is not safe to cancel: where whoever came first was
        // cancelled in it, a proposal whose client went while the engine died, everyone after panics. The engine has
        // ended then, and the state is still to be flushed and let go. Another error is a runtime that ends.
        let raft = core.raft.clone();
        let _ = tokio::spawn(async move { raft.shutdown().await }).await;
        core.shared.ended.store(true, Ordering::Release);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            task.abort();
        }
        let shared = Arc::clone(&core.shared);
        match away(move || shared.flush()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(group = %core.id, %error, "state not flushed at stop"),
            Err(_) => {}
        }
    }

    /// Waits until this member leads the group or another does; mostly for tests and start-up.
    pub async fn led(&self) -> Option<NodeId> {
        loop {
            let view = self.status();
            if view.role == GroupRole::Stopped {
                return None;
            }
            if view.role == GroupRole::Leader && self.read_index_as_leader().await.is_ok() {
                return Some(self.core().me);
            }
            if view.role != GroupRole::Leader
                && let Some(leader) = view.leader
                && self.core().hears_leader_other_than(self.core().me)
            {
                return Some(leader);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Asks one member.
pub(crate) async fn survey_one(
    core: &GroupCore,
    node: NodeId,
    member: &Member,
) -> LinkResult<v1::RaftSurveyResult> {
    survey_with(&core.context, node, member).await
}

/// Asks one member before there is an engine.
pub(crate) async fn survey_with(
    context: &crate::net::client::Context,
    node: NodeId,
    member: &Member,
) -> LinkResult<v1::RaftSurveyResult> {
    use crate::net::link::{LinkError, LinkFault};
    let link = context.dialer.link(node, member, Lane::Heartbeat)?;
    let request = v1::RaftSurvey {
        header: Some(context.header(node)),
    };
    match timeout(SURVEY_MAX, link.survey(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::new(LinkFault::TimedOut, "survey not answered")),
    }
}

/// The index up to which a member has to have applied the log to be current, if it leads by the majority's word.
pub(crate) async fn current_with(
    context: &crate::net::client::Context,
    node: NodeId,
    member: &Member,
) -> Option<LogIndex> {
    let link = context.dialer.link(node, member, Lane::Heartbeat).ok()?;
    let request = v1::RaftReadIndex {
        header: Some(context.header(node)),
    };
    let answer = timeout(SURVEY_MAX, link.read_index(request)).await;
    let read = answer.ok()?.ok()?.read?;
    Some(LogIndex(read.index))
}
