//! The source has stopped changes: the few seconds in which all is compared and one side is chosen.
//!
//! Owns what has to be known before a move is proposed. Refuses the word of one fence for another, a cutover of anything
//! but all, and to end by itself: only the source's own word ends a fence.

use proto::danger::{Switch, broken};
use proto::ids::{DatasetEpoch, LogIndex};
use proto::relocation::{CatalogRoot, Moved, Released};

use super::approved::Approved;
use super::arrival::Phase;
use super::filling::Filling;
use super::steps::{CutOver, Opened, StepRefused};
use super::vouched::{FenceRecord, Paused, Reverted, Vouched};

/// What a comparison of all copies with the source's came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comparison {
    /// Under which fence.
    pub fence: LogIndex,
    /// The root of what the destination has.
    pub root: CatalogRoot,
    /// Copies that were read back and are equal.
    pub equal: u64,
    /// Copies there are.
    pub total: u64,
    /// Own log index of the state that was compared.
    pub at: LogIndex,
}

/// The source has stopped changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fenced {
    pub(super) filling: Filling,
    pub(super) record: FenceRecord,
    pub(super) equal: bool,
    pub(super) released: Option<Released>,
    pub(super) aborting: bool,
}

impl Fenced {
    /// What was being filled.
    pub fn filling(&self) -> &Filling {
        &self.filling
    }

    /// The source's word.
    pub fn record(&self) -> FenceRecord {
        self.record
    }

    /// Whether all copies were found equal.
    pub fn is_equal(&self) -> bool {
        self.equal
    }

    /// Whether somebody wants to abort: then a revert is to be proposed.
    pub fn is_aborting(&self) -> bool {
        self.aborting
    }

    /// Takes the result of a comparison. All or nothing: what differs is repaired and compared again.
    pub(super) fn compared(mut self, result: Comparison) -> Result<Self, StepRefused> {
        let (record, image) = (self.record, self.filling.image());
        if result.fence != record.fence {
            return Err(StepRefused::OtherFence(record.fence));
        }
        let (changes, requests) = (image.changes(), image.requests());
        let crossed = requests >= record.fence || broken(Switch::RequestsNotCrossed);
        if changes < record.fence || !crossed {
            return Err(StepRefused::Behind { changes, requests });
        }
        if result.at < image.changed() {
            return Err(StepRefused::ComparedBefore(image.changed()));
        }
        if result.equal != result.total || result.root != record.root {
            let (equal, total) = (result.equal, result.total);
            return Err(StepRefused::NotEqual { equal, total });
        }
        self.equal = true;
        Ok(self)
    }

    /// The source's KMS releases nothing more under this fence: now what was disclosed is known.
    pub(super) fn paused(mut self, said: &Vouched<Paused>) -> Result<Self, StepRefused> {
        if said.record().fence != self.record.fence {
            return Err(StepRefused::OtherFence(self.record.fence));
        }
        self.released = Some(said.record().released);
        Ok(self)
    }

    /// What to propose to the source: nothing before all copies are equal and all releases known, nor once somebody
    /// wants to abort.
    pub fn proposal(&self) -> Option<Moved> {
        (self.equal && self.released.is_some() && !self.aborting).then(|| self.would_be())
    }

    fn would_be(&self) -> Moved {
        Moved {
            relocation: self.record.relocation,
            epoch: DatasetEpoch(self.record.epoch.0 + 1),
            fence: self.record.fence,
            root: self.record.root,
        }
    }

    /// The source has moved, whatever somebody here wanted since it was proposed.
    pub(super) fn moved(self, said: &Vouched<Moved>) -> Result<CutOver, StepRefused> {
        if *said.record() != self.would_be() {
            return Err(StepRefused::OtherFence(self.record.fence));
        }
        self.opened(Opened::Moved)
    }

    /// Nobody of the source can be asked. What was written there after the fence, if it reverted, is not here.
    pub(super) fn forced(self, _: Approved) -> Result<CutOver, StepRefused> {
        self.opened(Opened::ByForce)
    }

    fn opened(self, opened: Opened) -> Result<CutOver, StepRefused> {
        let (true, Some(released)) = (self.equal, self.released) else {
            return Err(StepRefused::OutOfOrder(Phase::Fenced));
        };
        Ok(CutOver {
            moved: self.would_be(),
            opened,
            released,
        })
    }

    /// The source was active again after this fence.
    pub(super) fn reverted(self, said: &Vouched<Reverted>) -> Result<(Filling, bool), StepRefused> {
        if said.record().fence != self.record.fence {
            return Err(StepRefused::OtherFence(self.record.fence));
        }
        let mut filling = self.filling;
        filling.reverted = self.record.fence;
        Ok((filling, self.aborting))
    }
}
