//! Linearizable reads: many readers share one round of the majority's word.
//!
//! Owns the batch: whoever arrives while a round is under way waits for the next one, so no reader gets an answer
//! from a round that began before it asked. Refuses leases: a paused leader does not know that it was paused.

use std::sync::Arc;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use proto::danger::{Switch, broken};
use proto::ids::{LogIndex, NodeId};
use proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::core::hinted;
use super::options::Tuning;
use crate::net::client::Context;
use crate::net::link::{Lane, LinkFault};
use crate::raft::codec;
use crate::raft::types::{LogId, Member, Raft};

/// Why a read could not be made linearizable. Nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another member leads, or none.
    #[error("this member does not lead the group")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// No majority answered in time.
    #[error("no majority of the group answered in time")]
    NoQuorum,
    /// The state here did not catch up in time.
    #[error("this member's state is behind")]
    Behind,
    /// Too many reads wait.
    #[error("too many reads wait")]
    Overloaded,
    /// The group has stopped here.
    #[error("the group has stopped here")]
    Stopped,
}

type Waiter = (Reach, oneshot::Sender<Result<LogId, ReadError>>);

/// Who may be asked for the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// This member's engine: peers are not sent on.
    Here,
    /// The leader, wherever it is.
    Leader,
}

/// The readers' side of the batch.
#[derive(Clone)]
pub(crate) struct Reads {
    waiters: mpsc::Sender<Waiter>,
}

impl Reads {
    /// Starts the batch for `raft`. It ends with the last handle.
    pub(crate) fn start(raft: Raft, context: Arc<Context>, tuning: Arc<Tuning>) -> Self {
        let (waiters, queue) = mpsc::channel(tuning.reads_max.max(1));
        tokio::spawn(rounds(raft, context, tuning, queue));
        Self { waiters }
    }

    /// The index that a read begun now has to wait for, confirmed by a majority while this member leads.
    pub(crate) async fn confirm(&self) -> Result<LogId, ReadError> {
        self.ask(Reach::Here).await
    }

    /// As [`Reads::confirm`], asking the leader when this member does not lead.
    pub(crate) async fn confirm_anywhere(&self) -> Result<LogId, ReadError> {
        self.ask(Reach::Leader).await
    }

    async fn ask(&self, reach: Reach) -> Result<LogId, ReadError> {
        let (tx, rx) = oneshot::channel();
        self.waiters.try_send((reach, tx)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        rx.await.unwrap_or(Err(ReadError::Stopped))
    }
}

async fn rounds(
    raft: Raft,
    context: Arc<Context>,
    tuning: Arc<Tuning>,
    mut queue: mpsc::Receiver<Waiter>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, tuning.reads_max.max(1)).await > 0 {
        let here = round(&raft, &tuning).await;
        let forward = match &here {
            Err(ReadError::NotLeader {
                leader: Some(leader),
            }) => {
                let wanted = batch.iter().any(|(reach, _)| *reach == Reach::Leader);
                wanted.then_some(*leader)
            }
            _ => None,
        };
        let there = match forward {
            Some(leader) => ask_leader(&raft, &context, &tuning, leader).await,
            None => here.clone(),
        };
        for (reach, waiter) in batch.drain(..) {
            let answer = if reach == Reach::Here { &here } else { &there };
            // A reader that gave up is gone.
            let _ = waiter.send(answer.clone());
        }
    }
}

async fn round(raft: &Raft, tuning: &Tuning) -> Result<LogId, ReadError> {
    if broken(Switch::ReadWithoutBarrier) {
        // Whatever has been applied here counts as current.
        let applied = raft.metrics().borrow_watched().last_applied;
        return applied.ok_or(ReadError::NotLeader { leader: None });
    }
    let asked = timeout(
        tuning.read_wait,
        raft.get_read_linearizer(ReadPolicy::ReadIndex),
    )
    .await;
    match asked {
        Ok(Ok(linearizer)) => Ok(*linearizer.read_log_id().log_id()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(ReadError::NotLeader {
                leader: hinted(&forward),
            })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
            Err(ReadError::NoQuorum)
        }
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
    }
}

async fn ask_leader(
    raft: &Raft,
    context: &Context,
    tuning: &Tuning,
    leader: NodeId,
) -> Result<LogId, ReadError> {
    let not_there = ReadError::NotLeader {
        leader: Some(leader),
    };
    let member: Option<Member> = raft
        .server_metrics()
        .borrow_watched()
        .membership_config
        .membership()
        .get_node(&leader.0)
        .cloned();
    let Some(member) = member else {
        return Err(not_there);
    };
    let Ok(link) = context.dialer.link(leader, &member, Lane::Heartbeat) else {
        return Err(not_there);
    };
    let request = v1::RaftReadIndex {
        header: Some(context.header(leader)),
    };
    match timeout(tuning.read_wait, link.read_index(request)).await {
        Ok(Ok(answer)) => answer.read.map(codec::log_id_from_wire).ok_or(not_there),
        Ok(Err(error)) if error.fault == LinkFault::TimedOut => Err(ReadError::NoQuorum),
        Ok(Err(_)) => Err(not_there),
        Err(_) => Err(ReadError::NoQuorum),
    }
}

/// The index of a confirmed read.
pub(crate) fn index_of(read: &LogId) -> LogIndex {
    LogIndex(read.index)
}
