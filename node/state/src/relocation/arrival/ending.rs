//! How an arrival ends: aborted, or certified after the source's keys are destroyed.
//!
//! Owns both ways out. Refuses an abort where the source may have moved, and to be done before every part has spoken.

use proto::ids::UnixMs;
use proto::relocation::Released;

use super::{Arrival, State, Step};
use crate::relocation::approved::Approved;
use crate::relocation::steps::{Aborted, Aborting, Held, Shredding};
use crate::relocation::vouched::{Closed, Ended, HandOverEnded, Shredded, Vouched};

impl Arrival {
    /// Somebody wants to end it. Under a fence only the source can say whether it is too late.
    pub fn abort(self) -> Step {
        match self.state {
            // No key was made, so nothing can have been granted.
            State::Plan => {
                let disclosed = Released::default();
                Ok(self.to(State::Aborted(Aborted { disclosed })))
            }
            State::Prepared(_) | State::Copying(_) | State::CatchingUp(_) | State::Verifying(_) => {
                Ok(self.to(State::Aborting(Aborting::default())))
            }
            State::Fenced(_) => self.while_fenced(|mut fenced| {
                fenced.aborting = true;
                Ok(fenced)
            }),
            _ => self.out_of_order(),
        }
    }

    /// The source's shard has ended it, asked from here or there.
    pub fn ended(self, said: &Vouched<Ended>) -> Step {
        self.same(said.record().relocation)?;
        let so_far = match self.state {
            State::Aborting(aborting) => aborting,
            State::Prepared(_) => Aborting::default(),
            _ if self.filling().is_some() => Aborting::default(),
            _ => return self.out_of_order(),
        };
        Ok(self.ending(Aborting {
            ended: true,
            ..so_far
        }))
    }

    /// The source's KMS has closed the grant.
    pub fn closed(self, said: &Vouched<Closed>) -> Step {
        self.same(said.record().relocation)?;
        let State::Aborting(aborting) = self.state else {
            return self.out_of_order();
        };
        let closed = Some(said.record().released);
        Ok(self.ending(Aborting { closed, ..aborting }))
    }

    /// The own KMS has destroyed the hand-over key.
    pub fn hand_over_ended(self, said: &Vouched<HandOverEnded>) -> Step {
        self.same(said.record().relocation)?;
        let erased = true;
        match self.state {
            State::Aborting(aborting) => Ok(self.ending(Aborting { erased, ..aborting })),
            State::Shredding(shredding) => Ok(self.shredding(Shredding {
                erased,
                ..shredding
            })),
            _ => self.out_of_order(),
        }
    }

    /// The source keeps its keys until then.
    pub fn hold(self, until: UnixMs) -> Step {
        match self.state {
            State::CutOver(cut) => Ok(self.to(State::Held(Held { cut, until }))),
            _ => self.out_of_order(),
        }
    }

    /// Asks for the destruction of the source's keys.
    pub fn shred(self, approved: Approved, now: UnixMs) -> Step {
        match self.state {
            State::Held(held) => {
                let shredding = held.shred(approved, now)?;
                Ok(self.to(State::Shredding(shredding)))
            }
            _ => self.out_of_order(),
        }
    }

    /// The source's KMS has destroyed them.
    pub fn shredded(self, said: &Vouched<Shredded>) -> Step {
        self.same(said.record().relocation)?;
        let State::Shredding(shredding) = self.state else {
            return self.out_of_order();
        };
        let shredded = true;
        Ok(self.shredding(Shredding {
            shredded,
            ..shredding
        }))
    }

    fn ending(self, aborting: Aborting) -> Self {
        match aborting.done() {
            Some(aborted) => self.to(State::Aborted(aborted)),
            None => self.to(State::Aborting(aborting)),
        }
    }

    fn shredding(self, shredding: Shredding) -> Self {
        match shredding.done() {
            Some(certified) => self.to(State::Certified(certified)),
            None => self.to(State::Shredding(shredding)),
        }
    }
}
