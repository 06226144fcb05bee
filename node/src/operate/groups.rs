//! One step of a change of membership or level, at the leader of one group.
//!
//! Owns the promotion guard: no vote comes or goes before every voter that remains reports that it misses no block up
//! to the change. Refuses a step where this node does not lead; each is done again when repeated.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_state::time::TIME_BOUND_LEVEL;
use proto::ids::{FeatureLevel, GroupId, LogIndex, NodeId};
use proto::v1;
use proto::v1::change_group_request::Change as Step;
use proto::v1::node_operate_client::NodeOperateClient;
use replica::host::{
    Change, Force, Group, MemberError, NothingBeside, PromotionGuard, RaiseError, Withheld,
};
use tokio::time::Instant;
use tonic::Status;

use crate::core::Core;
use crate::error::CallError;
use crate::time::Asked;

/// How long a learner may take to catch up within one attempt; the caller tries again.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long a voter may take to say what it misses.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How long voters may take to get what they miss before the change is held back. Less than a step.
const CLEAR_MAX: Duration = Duration::from_secs(40);
/// How long one step may take at another node.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Pause before a step is tried again.
const STEP_PAUSE: Duration = Duration::from_millis(200);

/// Asks every voter that remains what it misses.
struct BlocksHeld<'a> {
    core: &'a Core,
    shard: GroupId,
}

impl PromotionGuard for BlocksHeld<'_> {
    fn clear<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), Withheld>> {
        async move {
            // One position for the whole wait: under load a replica that takes no uploads always misses what was
            // written last, and gets what was written up to here.
            let end = Instant::now() + CLEAR_MAX;
            for node in change.remaining.iter().copied() {
                while let Err(withheld) = self.holds_everything(node, change.through).await {
                    if Instant::now() > end {
                        return Err(withheld);
                    }
                    tokio::time::sleep(STEP_PAUSE).await;
                }
            }
            Ok(())
        }
        .boxed()
    }
}

impl BlocksHeld<'_> {
    async fn holds_everything(&self, node: NodeId, through: LogIndex) -> Result<(), Withheld> {
        let withheld = |why: String| Withheld { node, why };
        let asked = v1::MissingRequest {
            shard: self.shard.0,
            at_least_index: through.0,
        };
        let reply = self.core.ask_missing(node, asked).await;
        let reply = reply.map_err(|error| withheld(transport::fault::Chain(&error).to_string()))?;
        if reply.applied_index < through.0 {
            return Err(withheld(format!(
                "it has applied {} only",
                reply.applied_index
            )));
        }
        if reply.missing > 0 {
            return Err(withheld(format!(
                "{} blocks are missing there",
                reply.missing
            )));
        }
        Ok(())
    }
}

impl Core {
    async fn ask_missing(
        &self,
        node: NodeId,
        request: v1::MissingRequest,
    ) -> Result<v1::MissingReply, CallError> {
        if node == self.node_id {
            let shard = self.shard(request.shard)?;
            return self.missing(&shard, LogIndex(request.at_least_index));
        }
        let mut peer = NodeOperateClient::new(self.peers.channel(node)?);
        let answer = tokio::time::timeout(ASK_MAX, peer.missing(request)).await;
        answer
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
            .map(tonic::Response::into_inner)
            .map_err(|status| CallError::Peer(status.into()))
    }

    /// One step at this node, which must lead the group.
    pub(crate) async fn change_here(
        &self,
        request: v1::ChangeGroupRequest,
    ) -> Result<v1::ChangeGroupReply, CallError> {
        let id = GroupId(request.group);
        let group = self.groups.group(id).ok_or(CallError::NoSuchGroup(id))?;
        self.leading(&group)?;
        let step = request
            .change
            .ok_or(CallError::Malformed("it names no change"))?;
        let mut level = group.level();
        let changed = match step {
            Step::AddLearner(node) => {
                self.enrolled_node(NodeId(node)).await?;
                group.add_learner(NodeId(node)).await
            }
            Step::Promote(node) => self.with_guard(&group, step, NodeId(node)).await,
            Step::Remove(node) => match self.with_guard(&group, step, NodeId(node)).await {
                Err(MemberError::NotAMember(_)) => Ok(()),
                changed => changed,
            },
            Step::RaiseLevel(to) => {
                level = self.raise_here(&group, FeatureLevel(to)).await?;
                Ok(())
            }
            Step::AdvanceTime(_) => {
                self.advance_time(&group, Asked::ByOperator).await?;
                Ok(())
            }
        };
        changed.map_err(|error| match error {
            MemberError::NotLeader { leader } => self.not_leader(id, leader),
            error => CallError::Member(error),
        })?;
        Ok(v1::ChangeGroupReply { level: level.0 })
    }

    async fn with_guard(&self, group: &Group, step: Step, node: NodeId) -> Result<(), MemberError> {
        let (blocks, nothing);
        let guard: &dyn PromotionGuard = if group.id() == GroupId::CATALOG {
            nothing = NothingBeside;
            &nothing
        } else {
            blocks = BlocksHeld {
                core: self,
                shard: group.id(),
            };
            &blocks
        };
        match step {
            Step::Promote(_) => group.promote(node, guard, Force::No, CATCH_UP).await,
            _ => group.remove(node, guard, Force::No).await,
        }
    }

    async fn raise_here(
        &self,
        group: &Group,
        level: FeatureLevel,
    ) -> Result<FeatureLevel, CallError> {
        if group.level() < level {
            group
                .raise_level(level)
                .await
                .map_err(|error| match error {
                    RaiseError::Propose(replica::host::ProposeError::NotLeader { leader }) => {
                        self.not_leader(group.id(), leader)
                    }
                    error => CallError::Raise(error),
                })?;
        }
        // An operator asked for the level. Below it a quiet catalog's time stands still for weeks, and from it on
        // would wait for an operator.
        if group.level() >= TIME_BOUND_LEVEL {
            self.advance_time(group, Asked::ByOperator).await?;
        }
        Ok(group.level())
    }

    /// One step at whoever leads the group, tried again until `deadline`. `told` hears why it is not done yet.
    pub(crate) async fn change_at_leader(
        &self,
        group: GroupId,
        step: Step,
        deadline: Instant,
        told: &(dyn Fn(String) + Send + Sync),
    ) -> Result<v1::ChangeGroupReply, CallError> {
        let replica = self
            .groups
            .group(group)
            .ok_or(CallError::NoSuchGroup(group))?;
        loop {
            let request = v1::ChangeGroupRequest {
                group: group.0,
                change: Some(step),
            };
            let answer = match replica.leader() {
                Some(leader) if leader == self.node_id => self.change_here(request).await,
                Some(leader) => self.change_there(leader, request).await,
                None => Err(self.not_leader(group, None)),
            };
            let error = match answer {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let fault = transport::Faulty::fault(&error);
            if !fault.retriable() && fault != transport::Fault::Unknown {
                return Err(error);
            }
            let why = transport::fault::Chain(&error).to_string();
            if Instant::now() + STEP_PAUSE >= deadline {
                return Err(CallError::NoAnswer { group, why });
            }
            told(why);
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }

    async fn change_there(
        &self,
        leader: NodeId,
        request: v1::ChangeGroupRequest,
    ) -> Result<v1::ChangeGroupReply, CallError> {
        let mut peer = NodeOperateClient::new(self.peers.channel(leader)?);
        let answer = tokio::time::timeout(STEP_MAX, peer.change_group(request)).await;
        answer
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
            .map(tonic::Response::into_inner)
            .map_err(|status| CallError::Peer(status.into()))
    }

    /// Lets the time of every group follow the clocks of a majority, however far they are.
    pub(crate) async fn advance_time_everywhere(&self) -> Result<(), CallError> {
        let deadline = Instant::now() + STEP_MAX;
        for group in self.groups.all() {
            let step = Step::AdvanceTime(true);
            self.change_at_leader(group.id(), step, deadline, &|_| {})
                .await?;
        }
        Ok(())
    }

    /// Raises the level of every group, the catalog last: until then operators see that it is not everywhere.
    pub(crate) async fn raise_everywhere(&self, level: u32) -> Result<u32, CallError> {
        let _one = self.membership.lock().await;
        let deadline = Instant::now() + STEP_MAX;
        let mut lowest = u32::MAX;
        for group in self.groups.all().iter().rev() {
            let step = Step::RaiseLevel(level);
            let reply = self
                .change_at_leader(group.id(), step, deadline, &|_| {})
                .await?;
            lowest = lowest.min(reply.level);
        }
        Ok(lowest)
    }
}
