//! The steps of an arrival before it is filled and after it was, each made of the one before it.
//!
//! Owns what each step has to have seen, and what it leaves for the next. Refuses to destroy a source's keys before the
//! hold is over and the source has said that it moved, and to state what was disclosed before its KMS has.

use proto::danger::{Switch, broken};
use proto::ids::{DatasetEpoch, HandOverKeyId, KekId, LogIndex, RelocationId, UnixMs};
use proto::relocation::{Moved, Released};

use super::approved::Approved;
use super::arrival::Phase;
use super::vouched::Vouched;

/// Why a step was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum StepRefused {
    /// It does not follow on the step the relocation is at.
    #[error("the relocation is at {0:?}")]
    OutOfOrder(Phase),
    /// Of another relocation.
    #[error("of relocation {0}")]
    OtherRelocation(RelocationId),
    /// Of another dataset epoch.
    #[error("of dataset epoch {0}")]
    OtherEpoch(DatasetEpoch),
    /// For another hand-over key.
    #[error("for hand-over key {0}")]
    OtherKey(HandOverKeyId),
    /// Of another fence, or of other content.
    #[error("of another fence than the one at log index {0}")]
    OtherFence(LogIndex),
    /// Not everything up to the fence has been taken.
    #[error("changes are taken through log index {changes}, request ids through {requests}")]
    Behind {
        /// Through which log index of the source changes were taken.
        changes: LogIndex,
        /// Through which one request ids were.
        requests: LogIndex,
    },
    /// Copies have changed since they were compared.
    #[error("copies changed at log index {0}, after they were compared")]
    ComparedBefore(LogIndex),
    /// Not all copies are equal.
    #[error("{equal} of {total} copies are equal")]
    NotEqual {
        /// How many are.
        equal: u64,
        /// How many there are.
        total: u64,
    },
    /// The source has not said that it moved.
    #[error("the source has not said that it moved")]
    NotMoved,
    /// Before the hold is over.
    #[error("the hold ends at {0}")]
    Held(UnixMs),
}

/// The destination is ready to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prepared {
    /// The destination's own KEK for the dataset.
    pub kek: KekId,
    /// The key that DEKs are handed over under; it is destroyed when the keys of the source are, or at abort.
    pub hand_over: HandOverKeyId,
}

/// On whose word a destination serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opened {
    /// The source's, from a majority of its replicas.
    Moved,
    /// Two people's, while the source could not be asked. The certificate says so.
    ByForce,
    /// Two people's; since then the source has said that nothing was written after the fence.
    ByForceThenMoved,
}

/// The destination serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CutOver {
    pub(super) moved: Moved,
    pub(super) opened: Opened,
    pub(super) released: Released,
}

impl CutOver {
    /// The record that moved the dataset, or would have.
    pub fn moved(&self) -> Moved {
        self.moved
    }

    /// On whose word.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// What the source's KMS released.
    pub fn released(&self) -> Released {
        self.released
    }

    /// The source is back, and has moved as it would have.
    pub(super) fn confirmed(mut self, said: &Vouched<Moved>) -> Result<Self, StepRefused> {
        if *said.record() != self.moved {
            return Err(StepRefused::OtherFence(self.moved.fence));
        }
        if self.opened == Opened::ByForce {
            self.opened = Opened::ByForceThenMoved;
        }
        Ok(self)
    }
}

/// The source keeps its keys for a while; nothing goes back there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    pub(super) cut: CutOver,
    pub(super) until: UnixMs,
}

impl Held {
    /// Asks for the destruction of the source's keys. `now` is region time, or where the region has a witness the
    /// earlier of that and the witness's word.
    pub(super) fn shred(self, _: Approved, now: UnixMs) -> Result<Shredding, StepRefused> {
        if now < self.until {
            return Err(StepRefused::Held(self.until));
        }
        if self.cut.opened == Opened::ByForce {
            return Err(StepRefused::NotMoved);
        }
        Ok(Shredding {
            cut: self.cut,
            shredded: false,
            erased: false,
        })
    }

    /// What was cut over.
    pub fn cut(&self) -> CutOver {
        self.cut
    }
}

/// The source is to destroy its keys, and the destination its hand-over key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shredding {
    pub(super) cut: CutOver,
    pub(super) shredded: bool,
    pub(super) erased: bool,
}

impl Shredding {
    /// What was cut over.
    pub fn cut(&self) -> CutOver {
        self.cut
    }

    pub(super) fn done(&self) -> Option<Certified> {
        let cut = self.cut;
        (self.shredded && self.erased).then_some(Certified { cut })
    }
}

/// All is done that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Certified {
    /// The cutover.
    pub cut: CutOver,
}

/// The relocation ends here: imports are refused and removed, the hand-over key is to be destroyed. What the source
/// released is not known before its KMS has closed the grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Aborting {
    pub(super) ended: bool,
    pub(super) erased: bool,
    pub(super) closed: Option<Released>,
}

impl Aborting {
    /// Aborted, once both parts of the source have said that nothing follows, and the own KMS that nothing of it opens.
    pub(super) fn done(&self) -> Option<Aborted> {
        let disclosed = match self.closed {
            None if broken(Switch::GrantOutlivesAbort) => Released::default(),
            closed => closed?,
        };
        (self.ended && self.erased).then_some(Aborted { disclosed })
    }
}

/// Nothing is here any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aborted {
    /// What this region was given, and could open until its hand-over key was destroyed.
    pub disclosed: Released,
}
