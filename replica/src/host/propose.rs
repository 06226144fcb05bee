//! Proposals: into the engine, bounded, with an honest answer.
//!
//! Owns the difference between a proposal that certainly was not made and one that may have been. Refuses what is
//! too large, what there is no room for, and what would make the queue longer than its bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, ForwardReason};
use proto::ids::{LogIndex, NodeId};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::core::{GroupCore, hinted};
use super::options::ENTRY_BYTES_MAX;
use crate::raft::codec::{Order, PREFIX_BYTES};
use crate::raft::types::Reply;

/// Pause between attempts while a new leader gets its lease: a round trip.
const LEASE_STEP: Duration = Duration::from_millis(3);

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another member leads, or none. The proposal was not made.
    #[error("this member does not lead the group")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// The command is over the limit. The proposal was not made.
    #[error("command of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too many proposals are in flight. The proposal was not made.
    #[error("too many proposals are in flight")]
    Overloaded,
    /// The disk is full. The proposal was not made.
    #[error("disk full: only what frees room is taken")]
    Full,
    /// The proposal may or may not take effect.
    #[error("the proposal may or may not take effect")]
    Unknown,
    /// The group has stopped here. The proposal was not made.
    #[error("the group has stopped here")]
    Stopped,
}

/// Where an entry stands and what the machine answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its log index.
    pub index: LogIndex,
    /// The machine's answer.
    pub answer: Bytes,
}

/// Bounds what is in flight.
pub(crate) struct Gate {
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(count: usize, bytes: usize) -> Self {
        let bytes = bytes.clamp(ENTRY_BYTES_MAX, u32::MAX as usize);
        Self {
            count: Arc::new(Semaphore::new(count)),
            bytes: Arc::new(Semaphore::new(bytes)),
        }
    }
}

/// Proposes `order` and waits for its answer.
pub(crate) async fn propose(
    core: &GroupCore,
    gate: &Gate,
    order: &Order,
) -> Result<Applied, ProposeError> {
    let bytes = match order {
        Order::Machine(body) | Order::Reserved(body) => body.len(),
        Order::RaiseLevel(_) | Order::AllocateNodeId => 0,
    };
    let bytes_max = ENTRY_BYTES_MAX - PREFIX_BYTES;
    if bytes > bytes_max {
        return Err(ProposeError::TooLarge { bytes, bytes_max });
    }
    if matches!(order, Order::Machine(_)) && core.log.is_full() {
        return Err(ProposeError::Full);
    }
    let _count = gate
        .count
        .try_acquire()
        .map_err(|_| ProposeError::Overloaded)?;
    let permits = u32::try_from(bytes.max(1)).map_err(|_| ProposeError::Overloaded)?;
    let _bytes = gate
        .bytes
        .try_acquire_many(permits)
        .map_err(|_| ProposeError::Overloaded)?;
    let command = order.encode();
    let deadline = Instant::now() + core.tuning.lease_wait;
    loop {
        let (reply, answer) = Reply::pair();
        let sent = core
            .raft
            .client_write_ff(command.clone(), Some(reply))
            .await;
        if sent.is_err() {
            return Err(ProposeError::Stopped);
        }
        let answer = match timeout(core.tuning.propose_wait, answer).await {
            Ok(answer) => answer,
            // Cut off from the majority: the entry is in the log and may yet be committed.
            Err(_) => return Err(ProposeError::Unknown),
        };
        match answer {
            Ok(Ok(done)) => {
                return Ok(Applied {
                    index: LogIndex(done.log_id.index),
                    answer: done.data,
                });
            }
            // A leader without the majority's word yet: it was not appended, and the word is a round trip away.
            Ok(Err(ClientWriteError::ForwardToLeader(forward)))
                if forward.reason == ForwardReason::LeaseExpired && Instant::now() < deadline =>
            {
                sleep(LEASE_STEP).await;
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                return Err(ProposeError::NotLeader {
                    leader: hinted(&forward),
                });
            }
            // Appended here and then cut off or overtaken by a snapshot, or the engine ended with it in flight.
            Ok(Err(_)) | Err(_) => return Err(ProposeError::Unknown),
        }
    }
}
