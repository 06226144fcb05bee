//! Changes of membership: learner, voter, out.
//!
//! Owns the order of the steps and their checks, which begin with the majority's word that this member leads: one
//! that was deposed unawares would refuse for good what it has not heard of. Refuses an id that ever was a member, a member that is not enrolled
//! in the own jurisdiction and role, and, unless forced, a change before every voter that remains has said that it
//! holds everything the change relies on.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use proto::danger::{Switch, broken};
use proto::ids::{LogIndex, NodeId};
use tokio::time::{Instant, sleep};

use super::core::hinted;
use super::group::{Group, HandOverError};
use super::reads::ReadError;
use crate::raft::types::Config;

/// Entries a learner may be behind when it gets a vote.
const LAG_MAX: u64 = 1024;
/// Pause between looks at a learner's progress, and between attempts while an earlier change is under way.
const STEP: std::time::Duration = std::time::Duration::from_millis(20);
/// How long the leader waits for a membership that another leader may have made.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(2);

/// A change that is about to be proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Voters after the change.
    pub remaining: BTreeSet<NodeId>,
    /// Who gets a vote.
    pub adding: Option<NodeId>,
    /// Who loses it.
    pub removing: Option<NodeId>,
    /// Everything up to here must be held by all who remain.
    pub through: LogIndex,
}

/// Why a guard holds a change back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("member {node} does not hold everything yet: {why}")]
pub struct Withheld {
    /// Who.
    pub node: NodeId,
    /// What it lacks, in words.
    pub why: String,
}

/// Asked before a voter comes or goes: whether every voter that remains reports that it misses nothing up to the
/// change. Supplied by whoever keeps data beside the log.
pub trait PromotionGuard: Send + Sync {
    /// Holds the change back with an error.
    fn clear<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), Withheld>>;
}

/// A guard for groups that keep nothing beside the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingBeside;

impl PromotionGuard for NothingBeside {
    fn clear<'a>(&'a self, _: &'a Change) -> BoxFuture<'a, Result<(), Withheld>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Whether the guard decides. Overruling it needs dual approval: what is missing may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// The guard decides.
    No,
    /// The guard is not asked.
    Yes,
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Another member leads, or none.
    #[error("this member does not lead the group")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// The id was a member before. Its disk may remember, and two disks under one id can make two majorities.
    #[error("node id {0} was a member before and is never used again")]
    Reused(NodeId),
    /// Not enrolled in this region's role and jurisdiction.
    #[error("node {0} is not enrolled in this jurisdiction and role")]
    NotEnrolled(NodeId),
    /// Not a learner.
    #[error("node {0} is not a learner of the group")]
    NotALearner(NodeId),
    /// Not a member.
    #[error("node {0} is not a member of the group")]
    NotAMember(NodeId),
    /// The last voter cannot go.
    #[error("node {0} is the last voter")]
    LastVoter(NodeId),
    /// The learner has not caught up in time.
    #[error("node {0} has not caught up in time")]
    Lagging(NodeId),
    /// The guard holds it back.
    #[error("the change would lose data")]
    Withheld(#[source] Withheld),
    /// A change under way did not end in time.
    #[error("another change of membership is under way")]
    InProgress,
    /// The change may or may not take effect.
    #[error("the change may or may not take effect")]
    Unknown,
    /// This member leads, is to go, and could not hand over.
    #[error("the leadership could not be handed over")]
    HandOver(#[source] HandOverError),
    /// No majority said that this member leads.
    #[error("no majority confirmed that this member leads")]
    Unconfirmed(#[source] ReadError),
    /// The group has stopped here.
    #[error("the group has stopped here")]
    Stopped,
}

impl Group {
    /// Adds `node` without a vote; done where it is a member, with a vote or without. It must be running and enrolled,
    /// and its id never used before.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MemberError> {
        self.confirmed().await?;
        let core = &self.inner.core;
        let view = core.view();
        if view.learners.contains(&node) || view.voters.all().contains(&node) {
            return Ok(());
        }
        if core.shared.ever_member(node) && !broken(Switch::ReuseNodeId) {
            return Err(MemberError::Reused(node));
        }
        let member = self
            .enrolled()
            .remove(&node)
            .ok_or(MemberError::NotEnrolled(node))?;
        let change = ChangeMembers::AddNodes([(node.0, member)].into());
        self.change(change, true).await
    }

    /// Gives a learner its vote, once it has caught up and the guard agrees.
    pub async fn promote(
        &self,
        node: NodeId,
        guard: &dyn PromotionGuard,
        force: Force,
        within: std::time::Duration,
    ) -> Result<(), MemberError> {
        self.confirmed().await?;
        let voters = self.inner.core.view().voters.all();
        if voters.contains(&node) {
            return Ok(());
        }
        self.caught_up(node, within).await?;
        let remaining: BTreeSet<NodeId> = voters.into_iter().chain([node]).collect();
        self.ask(guard, force, &remaining, Some(node), None).await?;
        self.change(ChangeMembers::AddVoterIds([node.0].into()), true)
            .await
    }

    /// Takes a member out: a learner at once, a voter once the guard agrees. A leader that is to go hands over
    /// first, and the call is then the new leader's to take.
    pub async fn remove(
        &self,
        node: NodeId,
        guard: &dyn PromotionGuard,
        force: Force,
    ) -> Result<(), MemberError> {
        self.confirmed().await?;
        let view = self.inner.core.view();
        if view.learners.contains(&node) {
            return self
                .change(ChangeMembers::RemoveNodes([node.0].into()), true)
                .await;
        }
        let mut remaining = view.voters.all();
        if !remaining.remove(&node) {
            return Err(MemberError::NotAMember(node));
        }
        if remaining.is_empty() {
            return Err(MemberError::LastVoter(node));
        }
        self.ask(guard, force, &remaining, None, Some(node)).await?;
        self.make_way(node).await?;
        self.change(ChangeMembers::RemoveVoters([node.0].into()), false)
            .await
    }

    /// Gives the learner `new` the vote of `old` in one joint change. For groups that keep nothing beside the log:
    /// what is written between the guard's answer and the change may be held by `old` and one more voter only. With
    /// data beside the log, promote and then remove.
    pub async fn replace(
        &self,
        old: NodeId,
        new: NodeId,
        guard: &dyn PromotionGuard,
        force: Force,
        within: std::time::Duration,
    ) -> Result<(), MemberError> {
        self.confirmed().await?;
        let mut remaining = self.inner.core.view().voters.all();
        if !remaining.remove(&old) {
            return Err(MemberError::NotAMember(old));
        }
        self.caught_up(new, within).await?;
        remaining.insert(new);
        self.ask(guard, force, &remaining, Some(new), Some(old))
            .await?;
        self.make_way(old).await?;
        let voters = remaining.iter().map(|node| node.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), false)
            .await
    }

    /// This member leads by the word of a majority, and has applied what any member had when it was asked.
    async fn confirmed(&self) -> Result<(), MemberError> {
        match self.read_index_as_leader().await {
            Ok(_) => Ok(()),
            Err(ReadError::NotLeader { leader }) => Err(MemberError::NotLeader { leader }),
            Err(ReadError::Stopped) => Err(MemberError::Stopped),
            Err(error) => Err(MemberError::Unconfirmed(error)),
        }
    }

    async fn ask(
        &self,
        guard: &dyn PromotionGuard,
        force: Force,
        remaining: &BTreeSet<NodeId>,
        adding: Option<NodeId>,
        removing: Option<NodeId>,
    ) -> Result<(), MemberError> {
        let core = &self.inner.core;
        if force == Force::Yes {
            tracing::warn!(
                group = %core.id, ?adding, ?removing,
                "membership change forced: what the remaining voters miss may be lost"
            );
            return Ok(());
        }
        let change = Change {
            remaining: remaining.clone(),
            adding,
            removing,
            through: core.shared.applied_index().unwrap_or_default(),
        };
        guard.clear(&change).await.map_err(MemberError::Withheld)
    }

    /// Hands over when the member that is to go is this one.
    async fn make_way(&self, leaving: NodeId) -> Result<(), MemberError> {
        if leaving != self.inner.core.me {
            return Ok(());
        }
        let leader = self.hand_over().await.map_err(MemberError::HandOver)?;
        Err(MemberError::NotLeader {
            leader: Some(leader),
        })
    }

    async fn caught_up(
        &self,
        node: NodeId,
        within: std::time::Duration,
    ) -> Result<(), MemberError> {
        let core = &self.inner.core;
        let deadline = Instant::now() + within;
        // A leader that has just come to office, or a member that is none, may not have seen the learner come.
        let settled = Instant::now() + SETTLE;
        loop {
            let known = core.view().learners.contains(&node);
            let caught_up = {
                let metrics = core.raft.data_metrics();
                let metrics = metrics.borrow_watched();
                let last = metrics.last_log.map_or(0, |id| id.index);
                let Some(replication) = &metrics.replication else {
                    return Err(MemberError::NotLeader {
                        leader: self.leader(),
                    });
                };
                let matched = replication.get(&node.0).and_then(|m| m.map(|id| id.index));
                matched.is_some_and(|matched| matched + LAG_MAX >= last)
            };
            if known && caught_up {
                return Ok(());
            }
            if !known && Instant::now() >= settled {
                return Err(MemberError::NotALearner(node));
            }
            if Instant::now() >= deadline {
                return Err(MemberError::Lagging(node));
            }
            sleep(STEP).await;
        }
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, crate::raft::types::Member>,
        retain: bool,
    ) -> Result<(), MemberError> {
        let core = &self.inner.core;
        let deadline = Instant::now() + core.tuning.propose_wait;
        loop {
            let again = match core.raft.change_membership(change.clone(), retain).await {
                Ok(_) => return Ok(()),
                Err(error) => refused(error)?,
            };
            if Instant::now() >= deadline {
                return Err(again);
            }
            sleep(STEP).await;
        }
    }
}

/// `Ok` with what to say in the end when it is worth another attempt.
fn refused(error: RaftError<Config, ClientWriteError<Config>>) -> Result<MemberError, MemberError> {
    let error = match error {
        RaftError::Fatal(_) => return Err(MemberError::Stopped),
        RaftError::APIError(error) => error,
    };
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            use openraft::errors::ForwardReason;
            let not_leader = MemberError::NotLeader {
                leader: hinted(&forward),
            };
            match forward.reason {
                ForwardReason::LeaseExpired => Ok(not_leader),
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => Err(not_leader),
            }
        }
        ClientWriteError::LogEntryDiscarded(_) => Err(MemberError::Unknown),
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_) => Ok(MemberError::InProgress),
            ChangeMembershipError::LearnerNotFound(error) => {
                Err(MemberError::NotALearner(NodeId(error.node_id)))
            }
            ChangeMembershipError::EmptyMembership(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_) => Err(MemberError::InProgress),
        },
        ClientWriteError::PreconditionFailed(_) => Ok(MemberError::InProgress),
    }
}
