//! What is on its way.
//!
//! Owns the kinds of messages and where each goes. Refuses to forget: a message that was sent once can be delivered at
//! any later time, any number of times, or never. That is loss, delay, duplication and reordering at once.

use node_state::relocation::{
    Batch, Closed, Comparison, DepartureRecord, Ended, Fence, FenceRecord, GrantRecord,
    HandOverEnded, Paused, Reverted, Shredded,
};
use proto::ids::{DatasetEpoch, LogIndex, ObjectKey};
use proto::relocation::Moved;

use crate::register::Outcome;
use crate::scenario::Op;

/// A request id: a client that seals anew takes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// What for.
    pub op: Op,
    /// The dataset epoch under whose lease it is sealed.
    pub epoch: DatasetEpoch,
}

/// A request's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// It ran, once, and this came of it.
    Ran(Outcome),
    /// It did not run and never will under this id: seal anew for the epoch named.
    NeverRan(DatasetEpoch),
}

/// What a batch brings beside its imports: which operation wrote each object, or which requests were answered how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cargo {
    /// The batch.
    pub batch: Batch,
    /// What the objects among the imports hold.
    pub written: Vec<(ObjectKey, Op)>,
    /// Request ids with their answers.
    pub answers: Vec<(Request, Outcome)>,
}

/// A message, named by what it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "as the records and steps they are named after")]
pub enum Message {
    // Clients and either shard.
    Request(Request),
    Reply(Request, Reply),
    // Destination to the source shard.
    Open,
    Fence(Fence),
    Propose(Moved),
    Revert(LogIndex),
    End,
    Supersede(Moved),
    // Destination to the source KMS.
    Grant,
    Release(Cargo),
    Pause(LogIndex),
    Resume(LogIndex),
    Close,
    Shred(Option<Moved>),
    // To the destination shard.
    Departed(DepartureRecord),
    Granted(GrantRecord),
    Take(Cargo),
    CopyAgain(LogIndex),
    Fenced(FenceRecord),
    Compared(Comparison),
    Paused(Paused),
    Moved(Moved),
    Reverted(Reverted),
    Ended(Ended),
    Closed(Closed),
    HandOverEnded(HandOverEnded),
    Shredded(Shredded),
}

/// Where a message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The source's shard.
    Source,
    /// The source's KMS.
    SourceKms,
    /// The destination's shard.
    Destination,
}

impl Message {
    /// Where it may be delivered.
    pub fn places(&self) -> &'static [Place] {
        match self {
            Self::Request(_) => &[Place::Source, Place::Destination],
            // What was said to a client stays said, whether it arrives or not.
            Self::Reply(..) => &[],
            Self::Open
            | Self::Fence(_)
            | Self::Propose(_)
            | Self::Revert(_)
            | Self::End
            | Self::Supersede(_) => &[Place::Source],
            Self::Grant
            | Self::Release(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Close
            | Self::Shred(_) => &[Place::SourceKms],
            _ => &[Place::Destination],
        }
    }

    /// Whether it crosses from one region to the other. What comes from the mover and the destination's own KMS does
    /// not.
    pub fn crosses(&self) -> bool {
        !matches!(
            self,
            Self::Request(_)
                | Self::Reply(..)
                | Self::Take(_)
                | Self::CopyAgain(_)
                | Self::Compared(_)
                | Self::HandOverEnded(_)
        )
    }
}
