//! A destination that is being filled: copying, catching up, verifying, and under the fence.
//!
//! Owns how a batch is taken: whole, with its cursor, or not at all. Refuses one that is not what it says it is.

use proto::ids::LogIndex;

use super::fenced::Fenced;
use super::image::{Batch, Image, ImportRefused};
use super::import::{Effect, Known, import};
use super::steps::{Prepared, StepRefused};
use super::unit::Unit;
use super::vouched::FenceRecord;

/// The destination is being filled: copying, catching up, verifying.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filling {
    pub(super) prepared: Prepared,
    pub(super) image: Image,
    pub(super) reverted: LogIndex,
}

impl Filling {
    pub(super) fn new(prepared: Prepared, base: LogIndex) -> Self {
        Self {
            prepared,
            image: Image::from(base),
            reverted: LogIndex(0),
        }
    }

    /// Keys.
    pub fn prepared(&self) -> Prepared {
        self.prepared
    }

    /// What has been taken.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Source log index of the last fence that was reverted: word of it that arrives again stops nothing.
    pub fn reverted(&self) -> LogIndex {
        self.reverted
    }

    pub(super) fn fenced(self, record: FenceRecord) -> Result<Fenced, StepRefused> {
        if record.fence <= self.reverted {
            return Err(StepRefused::OtherFence(self.reverted));
        }
        Ok(Fenced {
            filling: self,
            record,
            equal: false,
            released: None,
            aborting: false,
        })
    }

    pub(super) fn take(
        mut self,
        at: LogIndex,
        batch: &Batch,
        known: impl Fn(&Unit) -> Option<Known>,
    ) -> Result<(Self, Vec<Effect>), ImportRefused> {
        if !batch.is_ordered() {
            return Err(ImportRefused::Malformed);
        }
        self.image = self.image.advance(batch)?;
        let kek = self.prepared.kek;
        let judged = batch
            .imports
            .iter()
            .map(|(unit, one)| import(known(unit), *one, kek));
        let effects: Vec<_> = judged
            .collect::<Result<_, _>>()
            .map_err(ImportRefused::NotResealed)?;
        if effects.iter().any(|effect| *effect != Effect::Nothing) {
            self.image = self.image.touched(at);
        }
        Ok((self, effects))
    }
}
