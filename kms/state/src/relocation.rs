//! Relocation as the KMSs of both regions see it: what may be handed over, until when, and when keys may end.
//!
//! Owns the grant of a source, the hand-over key of a destination, and the evidence that destroying a source's keys
//! takes. Refuses a release outside the grant's life, and to destroy what nobody shows to be elsewhere. Pure decisions
//! over plain values: approvals, records and leaves are those of every command, and counted before.

use proto::danger::{Switch, broken};
use proto::ids::{HandOverKeyId, LeafIndex, LogIndex, RelocationId};
use proto::relocation::{Moved, Released};

/// What a source's KMS holds of one relocation. It is kept for ever: a request that arrives late must not begin it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandOverGrant {
    relocation: RelocationId,
    hand_over: Option<HandOverKeyId>,
    stage: GrantStage,
    reverted: LogIndex,
    released: Released,
}

/// Whether a grant releases anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantStage {
    /// It does.
    Open,
    /// Not under this fence of the source shard, nor after it, unless the shard says that it was reverted.
    Paused(LogIndex),
    /// Never again.
    Closed,
}

/// Why a grant does not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum GrantRefused {
    /// It releases nothing now.
    #[error("relocation {0} is granted no keys now")]
    NotOpen(RelocationId),
    /// It is over, or was refused before it began.
    #[error("the grant of relocation {0} is closed")]
    Closed(RelocationId),
    /// Granted already, to be sealed to another key.
    #[error("relocation {0} was granted for another hand-over key")]
    OtherKey(RelocationId),
    /// The fence it is of is over, or another one stands.
    #[error("of another fence than the one at log index {0}")]
    OtherFence(LogIndex),
}

impl HandOverGrant {
    /// Grants DEKs, sealed to `hand_over`. Sent twice it has effect once.
    pub fn grant(
        held: Option<Self>,
        relocation: RelocationId,
        hand_over: HandOverKeyId,
    ) -> Result<Self, GrantRefused> {
        match held {
            Some(held) if held.stage == GrantStage::Closed => Err(GrantRefused::Closed(relocation)),
            Some(held) if held.hand_over == Some(hand_over) => Ok(held),
            Some(_) => Err(GrantRefused::OtherKey(relocation)),
            None => Ok(Self {
                relocation,
                hand_over: Some(hand_over),
                stage: GrantStage::Open,
                reverted: LogIndex(0),
                released: Released::default(),
            }),
        }
    }

    /// Whether it releases anything.
    pub fn stage(&self) -> GrantStage {
        self.stage
    }

    /// What it released.
    pub fn released(&self) -> Released {
        self.released
    }

    /// The key it releases under; `None` where it was closed before it was granted.
    pub fn hand_over(&self) -> Option<HandOverKeyId> {
        self.hand_over
    }

    /// Counts the release of `objects` DEKs that `leaf` records, before any of them leaves.
    pub fn release(mut self, objects: u64, leaf: LeafIndex) -> Result<Self, GrantRefused> {
        if self.stage != GrantStage::Open {
            return Err(GrantRefused::NotOpen(self.relocation));
        }
        self.released = Released {
            objects: self.released.objects.saturating_add(objects),
            through: self.released.through.max(Some(leaf)),
        };
        Ok(self)
    }

    /// Releases nothing while that fence of the source shard stands: what was released can then be stated, and nothing
    /// follows if the dataset moves.
    pub fn pause(mut self, fence: LogIndex) -> Result<Self, GrantRefused> {
        match self.stage {
            GrantStage::Closed => return Err(GrantRefused::Closed(self.relocation)),
            // One that arrives late is of a fence that is over.
            _ if fence <= self.reverted => return Err(GrantRefused::OtherFence(self.reverted)),
            GrantStage::Paused(held) if held > fence => {
                return Err(GrantRefused::OtherFence(held));
            }
            GrantStage::Open | GrantStage::Paused(_) => self.stage = GrantStage::Paused(fence),
        }
        Ok(self)
    }

    /// The source shard says that this fence was reverted.
    pub fn resume(mut self, reverted: LogIndex) -> Result<Self, GrantRefused> {
        match self.stage {
            GrantStage::Closed => return Err(GrantRefused::Closed(self.relocation)),
            GrantStage::Paused(held) if held > reverted => {
                return Err(GrantRefused::OtherFence(held));
            }
            GrantStage::Open | GrantStage::Paused(_) => {}
        }
        self.reverted = self.reverted.max(reverted);
        self.stage = GrantStage::Open;
        Ok(self)
    }

    /// Ends it, also where it has not begun.
    pub fn close(held: Option<Self>, relocation: RelocationId) -> Self {
        let held = held.unwrap_or(Self {
            relocation,
            hand_over: None,
            stage: GrantStage::Closed,
            reverted: LogIndex(0),
            released: Released::default(),
        });
        Self {
            stage: GrantStage::Closed,
            ..held
        }
    }
}

/// What a destination's KMS holds of the key it receives under. It is kept for ever, without its bytes once they are
/// destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandOverKey {
    /// For this relocation and no other.
    pub relocation: RelocationId,
    /// Its id.
    pub id: HandOverKeyId,
    /// Whether its bytes are destroyed.
    pub destroyed: bool,
}

/// A hand-over key that is not this relocation's, or is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("hand-over key {0} opens nothing of this relocation")]
pub struct NoHandOver(pub HandOverKeyId);

impl HandOverKey {
    /// Whether it opens what was released for a relocation.
    pub fn opens(&self, relocation: RelocationId) -> Result<(), NoHandOver> {
        if self.destroyed || self.relocation != relocation {
            return Err(NoHandOver(self.id));
        }
        Ok(())
    }

    /// Without its bytes.
    pub fn destroy(self) -> Self {
        Self {
            destroyed: true,
            ..self
        }
    }
}

/// Why a source's keys are not destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ShredRefused {
    /// The own shard does not say that the dataset moved.
    #[error("the own shard does not say that the dataset moved")]
    NotMoved,
    /// The destination does not say that it serves what was found equal under the same fence.
    #[error("the destination does not say that it serves what moved")]
    NotServed,
    /// Keys may still be released under the grant.
    #[error("relocation {0} is still granted keys")]
    StillGranted(RelocationId),
}

/// Whether a source's keys may be destroyed: its own shard says what moved, and the destination, by a majority of its
/// replicas, that it serves exactly that.
pub fn may_shred(
    grant: Option<&HandOverGrant>,
    moved: Option<Moved>,
    served: Option<Moved>,
) -> Result<(), ShredRefused> {
    if broken(Switch::ShredBeforeVerify) {
        return Ok(());
    }
    let moved = moved.ok_or(ShredRefused::NotMoved)?;
    if served != Some(moved) {
        return Err(ShredRefused::NotServed);
    }
    let ended = grant.is_some_and(|grant| {
        let over = matches!(grant.stage, GrantStage::Closed)
            || grant.stage == GrantStage::Paused(moved.fence);
        grant.relocation == moved.relocation && over
    });
    if ended {
        Ok(())
    } else {
        Err(ShredRefused::StillGranted(moved.relocation))
    }
}

pub(crate) mod stored;
#[cfg(test)]
mod tests;
