//! What the parts of one group share: the engine and what is known beside it.
//!
//! Owns the record of when the leader was last heard, and the view of role, term and membership that others watch.
//! Refuses to be a second source of truth: everything here is derived from the engine, the log or the state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use proto::danger::{Switch, broken};
use proto::ids::{FeatureLevel, GroupId, NodeId, Term};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failover;
use super::failure::{Failure, HostFailure};
use super::options::Tuning;
use super::reads::Reads;
use crate::machine::Voters;
use crate::net::client::Context;
use crate::net::handler::Refusal;
use crate::net::seen::Seen;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Shared;
use crate::raft::types::{Config, Raft, Vote, voters};

/// What a member is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRole {
    /// It leads.
    Leader,
    /// It votes and follows.
    Follower,
    /// It asks to lead.
    Candidate,
    /// It follows and has no vote.
    Learner,
    /// The group has stopped here.
    Stopped,
}

/// A group as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// What this member is.
    pub role: GroupRole,
    /// The term it is in.
    pub term: Term,
    /// Who leads, as far as it knows; may be out of date.
    pub leader: Option<NodeId>,
    /// Voters in effect here: the newest in the log, committed or not.
    pub voters: Voters,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Feature level in force in the applied state.
    pub level: FeatureLevel,
}

/// The parts of one group.
pub(crate) struct GroupCore {
    pub(crate) id: GroupId,
    pub(crate) me: NodeId,
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: LogStore,
    pub(crate) reads: Reads,
    pub(crate) context: Arc<Context>,
    pub(crate) tuning: Arc<Tuning>,
    pub(crate) failure: Failure,
    pub(crate) may_campaign: AtomicBool,
    pub(crate) stopping: AtomicBool,
    view: watch::Sender<GroupView>,
    runtime: tokio::runtime::Handle,
    // Who was heard as leader, and when: milliseconds after `since`, 0 for never.
    heard_from: AtomicU64,
    heard_at: AtomicU64,
    since: Instant,
    failing_over: AtomicBool,
}

impl GroupCore {
    #[allow(
        clippy::too_many_arguments,
        reason = "called once, by the host that has made each of them"
    )]
    pub(crate) fn new(
        id: GroupId,
        raft: Raft,
        shared: Arc<Shared>,
        log: LogStore,
        reads: Reads,
        context: Arc<Context>,
        tuning: Arc<Tuning>,
        failure: Failure,
    ) -> Arc<Self> {
        let view = watch::Sender::new(view_of(&raft, &shared));
        Arc::new(Self {
            id,
            me: context.me,
            raft,
            shared,
            log,
            reads,
            context,
            tuning,
            failure,
            may_campaign: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            view,
            runtime: tokio::runtime::Handle::current(),
            heard_from: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            since: Instant::now(),
            failing_over: AtomicBool::new(false),
        })
    }

    fn now_ms(&self) -> u64 {
        // Never 0, which says never.
        u64::try_from(self.since.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    /// A leader's append or heartbeat has arrived.
    pub(crate) fn heard(&self, vote: &Vote) {
        if vote.committed {
            self.heard_from
                .store(vote.leader_id.voted_for, Ordering::Relaxed);
            self.heard_at.store(self.now_ms(), Ordering::Release);
        }
    }

    /// Whether a leader other than `candidate` was heard within what heartbeats may take.
    pub(crate) fn hears_leader_other_than(&self, candidate: NodeId) -> bool {
        let at = self.heard_at.load(Ordering::Acquire);
        // A heartbeat may be left out when an append went instead, and then comes up to a tick late.
        let fresh = self.tuning.heartbeat * 3 + Duration::from_millis(250);
        let within = Duration::from_millis(self.now_ms().saturating_sub(at)) <= fresh;
        at != 0 && within && self.heard_from.load(Ordering::Relaxed) != candidate.0
    }

    /// Whether this disk still holds what a peer has seen of it.
    pub(crate) fn has_kept(&self, seen: &Seen) -> Result<bool, Refusal> {
        if *seen == Seen::default() || broken(Switch::ReuseNodeId) {
            return Ok(true);
        }
        // A snapshot is in the state before the log says so.
        let last = self.log.last().max(self.shared.applied().last);
        Ok(seen.is_kept_by(self.log.vote()?.as_ref(), last))
    }

    /// A peer's process is gone.
    pub(crate) fn peer_lost(self: &Arc<Self>, node: NodeId) {
        if self.heard_from.load(Ordering::Relaxed) == node.0 {
            self.heard_at.store(0, Ordering::Release);
        }
        let led = self.view.borrow().leader == Some(node)
            || self.raft.server_metrics().borrow_watched().current_leader == Some(node.0);
        if !led || self.stopping.load(Ordering::Acquire) {
            return;
        }
        if !self.failing_over.swap(true, Ordering::AcqRel) {
            let core = Arc::clone(self);
            self.runtime.spawn(async move {
                failover::replace(&core, node).await;
                core.failing_over.store(false, Ordering::Release);
            });
        }
    }

    /// The group as seen here.
    pub(crate) fn view(&self) -> GroupView {
        let mut view = self.view.borrow().clone();
        view.level = self.shared.level();
        view
    }

    /// Changes with [`GroupCore::view`].
    pub(crate) fn watch(&self) -> watch::Receiver<GroupView> {
        self.view.subscribe()
    }

    /// Keeps the view current until the engine ends, and reports an end that nobody asked for.
    pub(crate) async fn observe(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let view = view_of(&self.raft, &self.shared);
            self.view.send_if_modified(|held| {
                let changed = *held != view;
                if changed {
                    tracing::info!(
                        group = %self.id, role = ?view.role, term = %view.term, leader = ?view.leader,
                        "group changed"
                    );
                    *held = view;
                }
                changed
            });
            if metrics.changed().await.is_err() {
                break;
            }
        }
        self.view.send_modify(|view| view.role = GroupRole::Stopped);
        if !self.stopping.load(Ordering::Acquire) {
            let state = self.raft.metrics().borrow_watched().running_state.clone();
            // The engine publishes no reason when it panics.
            let why = state
                .err()
                .map_or_else(|| "the engine panicked".to_owned(), |e| e.to_string());
            tracing::error!(group = %self.id, %why, "group stopped");
            self.failure.fail(HostFailure::Group {
                group: self.id,
                why,
            });
        }
    }
}

fn view_of(raft: &Raft, shared: &Shared) -> GroupView {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    GroupView {
        role: match metrics.state {
            ServerState::Leader => GroupRole::Leader,
            ServerState::Follower => GroupRole::Follower,
            ServerState::Candidate => GroupRole::Candidate,
            ServerState::Learner => GroupRole::Learner,
            ServerState::Shutdown => GroupRole::Stopped,
        },
        term: Term(metrics.vote.leader_id.term),
        leader: metrics.current_leader.map(NodeId),
        voters: voters(membership),
        learners: membership.learner_ids().map(NodeId).collect(),
        level: shared.level(),
    }
}

/// The engine's errors that name another leader.
pub(crate) fn hinted(forward: &openraft::errors::ForwardToLeader<Config>) -> Option<NodeId> {
    forward.leader_id.map(NodeId)
}
