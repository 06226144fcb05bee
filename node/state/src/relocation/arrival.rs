//! A dataset that arrives: the record in the destination's shard, from plan to certificate or abort.
//!
//! Owns which step follows which. Refuses everything out of order, and to serve before the source's word that it moved.
//! Every step may be sent again: one that was taken is refused as out of order, with the step it is at.

use proto::danger::{Switch, broken};
use proto::ids::{DatasetEpoch, LogIndex, RelocationId};
use proto::relocation::Moved;

use super::approved::Approved;
use super::authority::Authority;
use super::fenced::{Comparison, Fenced};
use super::filling::Filling;
use super::image::{Batch, ImportRefused};
use super::import::{Effect, Known};
use super::steps::{Aborted, Aborting, Certified, CutOver, Held, Prepared, Shredding, StepRefused};
use super::terms::Terms;
use super::unit::Unit;
use super::vouched::{DepartureRecord, FenceRecord, GrantRecord, Paused, Reverted, Vouched};

mod ending;
mod stored;

/// A relocation as its destination has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Arrival {
    terms: Terms,
    state: State,
}

/// The step it is at, with what that step has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as the phases, which say it")]
pub enum State {
    Plan,
    Prepared(Prepared),
    Copying(Filling),
    CatchingUp(Filling),
    Verifying(Filling),
    Fenced(Fenced),
    CutOver(CutOver),
    Held(Held),
    Shredding(Shredding),
    Certified(Certified),
    Aborting(Aborting),
    Aborted(Aborted),
}

/// Where a relocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Looked at; nothing is done.
    Plan,
    /// Destination keys are made and both sides have approved.
    Prepared,
    /// What there is, is being listed and copied.
    Copying,
    /// What has changed since is being followed.
    CatchUp,
    /// Copies are being read back and compared.
    Verifying,
    /// The source takes no changes.
    Fenced,
    /// The destination serves.
    Cutover,
    /// The source keeps its keys for a while.
    Hold,
    /// The source is to destroy its keys.
    Shred,
    /// It has, and both say so.
    Certified,
    /// Ending; what was disclosed is not known yet.
    Aborting,
    /// Ended, nothing is left here.
    Aborted,
}

type Step = Result<Arrival, StepRefused>;

impl Arrival {
    /// Begins with its plan.
    pub fn planned(terms: Terms) -> Self {
        let state = State::Plan;
        Self { terms, state }
    }

    /// What was planned.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The step it is at.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Plan => Phase::Plan,
            State::Prepared(_) => Phase::Prepared,
            State::Copying(_) => Phase::Copying,
            State::CatchingUp(_) => Phase::CatchUp,
            State::Verifying(_) => Phase::Verifying,
            State::Fenced(_) => Phase::Fenced,
            State::CutOver(_) => Phase::Cutover,
            State::Held(_) => Phase::Hold,
            State::Shredding(_) => Phase::Shred,
            State::Certified(_) => Phase::Certified,
            State::Aborting(_) => Phase::Aborting,
            State::Aborted(_) => Phase::Aborted,
        }
    }

    /// The authority of the dataset here, once it has arrived: before that there is none, and nothing is served.
    pub fn arrived(&self) -> Option<Authority> {
        let serves = match &self.state {
            State::CutOver(_) | State::Held(_) | State::Shredding(_) | State::Certified(_) => true,
            State::Fenced(fenced) => fenced.is_equal() && broken(Switch::ServeBeforeMoved),
            _ => false,
        };
        serves.then(|| Authority::founded(DatasetEpoch(self.terms.epoch.0 + 1)))
    }

    /// What is being filled, while imports are taken.
    pub fn filling(&self) -> Option<&Filling> {
        match &self.state {
            State::Copying(filling) | State::CatchingUp(filling) | State::Verifying(filling) => {
                Some(filling)
            }
            State::Fenced(fenced) => Some(fenced.filling()),
            _ => None,
        }
    }

    /// Keys are made, and both sides have approved what was planned.
    pub fn prepare(self, prepared: Prepared, _: Approved) -> Step {
        match self.state {
            State::Plan => Ok(self.to(State::Prepared(prepared))),
            _ => self.out_of_order(),
        }
    }

    /// The source has opened its change index and granted its keys.
    pub fn copy(self, opened: &Vouched<DepartureRecord>, granted: &Vouched<GrantRecord>) -> Step {
        self.same(opened.record().relocation)?;
        self.same(granted.record().relocation)?;
        let State::Prepared(prepared) = self.state else {
            return self.out_of_order();
        };
        let key = granted.record().hand_over;
        if key != prepared.hand_over {
            return Err(StepRefused::OtherKey(key));
        }
        let filling = Filling::new(prepared, opened.record().base);
        Ok(self.to(State::Copying(filling)))
    }

    /// Takes a batch whole or not at all; answers what each of its imports does. `at` is the own log index; `known` is
    /// what is known of a unit here.
    pub fn take(
        self,
        at: LogIndex,
        batch: &Batch,
        known: impl Fn(&Unit) -> Option<Known>,
    ) -> Result<(Self, Vec<Effect>), ImportRefused> {
        let Self { terms, state } = self;
        let refused = ImportRefused::NotTaking(batch.relocation);
        if terms.relocation != batch.relocation {
            return Err(refused);
        }
        let (state, effects) = match state {
            State::Copying(filling) => {
                let (filling, effects) = filling.take(at, batch, known)?;
                (State::Copying(filling), effects)
            }
            State::CatchingUp(filling) => {
                let (filling, effects) = filling.take(at, batch, known)?;
                (State::CatchingUp(filling), effects)
            }
            State::Verifying(filling) => {
                let (filling, effects) = filling.take(at, batch, known)?;
                (State::Verifying(filling), effects)
            }
            State::Fenced(fenced) if fenced.is_equal() => {
                return Err(ImportRefused::FoundEqual(fenced.record.fence));
            }
            State::Fenced(mut fenced) => {
                let (filling, effects) = fenced.filling.take(at, batch, known)?;
                fenced.filling = filling;
                (State::Fenced(fenced), effects)
            }
            _ => return Err(refused),
        };
        Ok((Self { terms, state }, effects))
    }

    /// All is listed: changes are followed.
    pub fn catch_up(self) -> Step {
        match self.state {
            State::Copying(ref filling) if filling.image().is_listed() => {
                let filling = filling.clone();
                Ok(self.to(State::CatchingUp(filling)))
            }
            _ => self.out_of_order(),
        }
    }

    /// The source has forgotten changes that were not taken: lists again, at log index `base` or later.
    pub fn copy_again(self, base: LogIndex) -> Step {
        match self.state {
            State::CatchingUp(ref filling) | State::Verifying(ref filling)
                if base > filling.image.changes() =>
            {
                let mut filling = filling.clone();
                filling.image = filling.image.listing_again(base);
                Ok(self.to(State::Copying(filling)))
            }
            _ => self.out_of_order(),
        }
    }

    /// Little is left to follow: copies are compared while it is.
    pub fn verify(self) -> Step {
        match self.state {
            State::CatchingUp(ref filling) => {
                let filling = filling.clone();
                Ok(self.to(State::Verifying(filling)))
            }
            _ => self.out_of_order(),
        }
    }

    /// The source takes no changes.
    pub fn fenced(self, said: &Vouched<FenceRecord>) -> Step {
        let record = *said.record();
        self.same(record.relocation)?;
        if record.epoch != self.terms.epoch {
            return Err(StepRefused::OtherEpoch(record.epoch));
        }
        match self.state {
            State::Verifying(ref filling) => {
                let fenced = filling.clone().fenced(record)?;
                Ok(self.to(State::Fenced(fenced)))
            }
            _ => self.out_of_order(),
        }
    }

    /// All copies were compared.
    pub fn compared(self, result: Comparison) -> Step {
        self.while_fenced(|fenced| fenced.compared(result))
    }

    /// The source's KMS releases nothing more under this fence.
    pub fn paused(self, said: &Vouched<Paused>) -> Step {
        self.same(said.record().relocation)?;
        self.while_fenced(|fenced| fenced.paused(said))
    }

    /// The source says that it moved.
    pub fn moved(self, said: &Vouched<Moved>) -> Step {
        self.same(said.record().relocation)?;
        match self.state {
            State::Fenced(ref fenced) => {
                let cut = fenced.clone().moved(said)?;
                Ok(self.to(State::CutOver(cut)))
            }
            State::CutOver(cut) => {
                let cut = cut.confirmed(said)?;
                Ok(self.to(State::CutOver(cut)))
            }
            State::Held(held) => {
                let cut = held.cut.confirmed(said)?;
                Ok(self.to(State::Held(Held { cut, ..held })))
            }
            _ => self.out_of_order(),
        }
    }

    /// Two people open it while nobody of the source can be asked.
    pub fn force(self, approved: Approved) -> Step {
        match self.state {
            State::Fenced(ref fenced) => {
                let cut = fenced.clone().forced(approved)?;
                Ok(self.to(State::CutOver(cut)))
            }
            _ => self.out_of_order(),
        }
    }

    /// The source was active again: changes are followed anew, or the relocation ends where somebody wanted that.
    pub fn reverted(self, said: &Vouched<Reverted>) -> Step {
        self.same(said.record().relocation)?;
        match self.state {
            State::Fenced(ref fenced) => match fenced.clone().reverted(said)? {
                (_, true) => Ok(self.to(State::Aborting(Aborting::default()))),
                (filling, false) => Ok(self.to(State::CatchingUp(filling))),
            },
            _ => self.out_of_order(),
        }
    }

    fn to(self, state: State) -> Self {
        Self { state, ..self }
    }

    fn while_fenced(self, step: impl FnOnce(Fenced) -> Result<Fenced, StepRefused>) -> Step {
        match self.state {
            State::Fenced(ref fenced) => {
                let fenced = step(fenced.clone())?;
                Ok(self.to(State::Fenced(fenced)))
            }
            _ => self.out_of_order(),
        }
    }

    fn same(&self, relocation: RelocationId) -> Result<(), StepRefused> {
        if relocation == self.terms.relocation {
            Ok(())
        } else {
            Err(StepRefused::OtherRelocation(relocation))
        }
    }

    fn out_of_order(&self) -> Step {
        Err(StepRefused::OutOfOrder(self.phase()))
    }
}
