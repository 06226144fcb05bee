//! The mover: reads the source, has DEKs opened, sends what it sealed anew.
//!
//! Owns nothing durable: how far it has read is forgotten when it crashes, and then it asks the destination. What it
//! sent before stays on its way.

use std::sync::Arc;

use node_state::relocation::{
    Batch, Comparison, Content, Departure, Fence, Import, Phase, Position, Span, Standing, State,
    Unit,
};
use proto::ids::{LogIndex, ObjectKey};

use crate::message::{Cargo, Message};
use crate::scenario::{Scenario, number_of, object_key};
use crate::shard::Read;
use crate::world::{DESTINATION_KEK, EPOCH, RELOCATION, World};

/// What the mover knows by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Mover {
    /// Which pass of listing it is in, by the log index it counts from.
    pass: LogIndex,
    /// How far it has listed in that pass.
    listed: Position,
    /// How far it has read changes.
    read: LogIndex,
}

impl Default for Mover {
    fn default() -> Self {
        Self {
            pass: LogIndex(0),
            listed: Position::Start,
            read: LogIndex(0),
        }
    }
}

impl World {
    /// Lists the next key: what is there, or that it is not.
    pub(crate) fn read_page(&self, scenario: &Scenario) -> Option<Self> {
        let State::Copying(filling) = self.arrival().state() else {
            return None;
        };
        let image = filling.image();
        // In a pass it has begun it goes on; else it asks the destination how far it is.
        let after = if self.mover.pass == image.base() {
            self.mover.listed.clone()
        } else {
            image.listed().clone()
        };
        let next = match &after {
            Position::Start => 0,
            Position::After(key) | Position::Within(key, _) => number_of(key) + 1,
            Position::End => return None,
        };
        let key = object_key(next);
        let through = if next + 1 < scenario.keys {
            Position::After(key.clone())
        } else {
            Position::End
        };
        let at = self.source.index;
        let index = self.source.objects.get(&key).map(|object| object.index);
        let span = Span::Page {
            after,
            through: through.clone(),
            at,
        };
        // What neither side has is not spoken of: in a listing nobody knows the keys that are not there.
        let spoken_of = index.is_some() || self.destination.objects.contains_key(&key);
        let object = spoken_of.then_some((key, index, at));
        let mut sent = self.carries(span, object)?;
        sent.mover.pass = image.base();
        sent.mover.listed = through;
        Some(sent)
    }

    /// Reads the next change.
    pub(crate) fn read_change(&self) -> Option<Self> {
        let phase = self.arrival().phase();
        let filling = self.arrival().filling()?;
        if phase == Phase::Copying {
            return None;
        }
        let after = self.mover.read.max(filling.image().changes());
        let Ok(read) = self.source.read(after) else {
            return self.copies_again(after);
        };
        let (through, change) = match read {
            Read::Next(index, row) => {
                let live = (!row.tombstone).then_some(index);
                (index, Some((row.key, live, index)))
            }
            // Before there is a fence to reach, nothing is gained by it.
            Read::Nothing => match self.arrival().state() {
                State::Fenced(fenced) if fenced.record().fence > after => {
                    (fenced.record().fence, None)
                }
                _ => return None,
            },
        };
        let mut sent = self.carries(Span::Changes { after, through }, change)?;
        sent.mover.read = through;
        Some(sent)
    }

    fn copies_again(&self, after: LogIndex) -> Option<Self> {
        let again = Message::CopyAgain(self.source.index);
        if self.network.contains(&again) || self.source.index <= after {
            return None;
        }
        let mut sent = self.clone();
        sent.overran = true;
        sent.send(again);
        Some(sent)
    }

    /// Reads request ids that were answered, up to the fence.
    pub(crate) fn read_requests(&self) -> Option<Self> {
        let State::Fenced(fenced) = self.arrival().state() else {
            return None;
        };
        let image = fenced.filling().image();
        let (after, through) = (image.requests(), fenced.record().fence);
        if through <= after {
            return None;
        }
        let mut cargo = cargo(Span::Requests { after, through }, image.base());
        let answers = self.source.answers.iter();
        let answers = answers.filter(|(_, (index, _))| after < *index && *index <= through);
        cargo.answers = answers.map(|(id, (_, outcome))| (*id, *outcome)).collect();
        self.sends(Message::Take(cargo))
    }

    /// Asks for the fence.
    pub(crate) fn ask_fence(&self, scenario: &Scenario) -> Option<Self> {
        let fences = self
            .authority()
            .departure()
            .map(|departure: &Departure| departure.fences)?;
        let due = self.arrival().phase() == Phase::Verifying
            && self.authority().standing() == Standing::Active
            && fences.0 < scenario.fences;
        if !due {
            return None;
        }
        self.sends(Message::Fence(Fence {
            relocation: RELOCATION,
            epoch: EPOCH,
            from: fences,
        }))
    }

    /// Compares all copies, and says so where all are equal: what is not would be refused.
    pub(crate) fn compare(&self) -> Option<Self> {
        let State::Fenced(fenced) = self.arrival().state() else {
            return None;
        };
        let root = self.destination.root();
        let caught_up = fenced.filling().image().changes() >= fenced.record().fence;
        if fenced.is_equal() || !caught_up || root != fenced.record().root {
            return None;
        }
        let copies = self.destination.objects.len() as u64;
        self.sends(Message::Compared(Comparison {
            fence: fenced.record().fence,
            root,
            equal: copies,
            total: copies,
            at: self.destination.index,
        }))
    }

    /// Forgets what is not written down.
    pub(crate) fn crash(&self) -> Option<Self> {
        let crashes = self.left.crashes.checked_sub(1)?;
        let mut after = self.clone();
        after.left.crashes = crashes;
        after.crashed = true;
        after.mover = Mover::default();
        (after.mover != self.mover).then_some(after)
    }

    /// One object, or its absence, and the span it is all of. What is there takes a DEK of the source first.
    fn carries(
        &self,
        span: Span,
        object: Option<(ObjectKey, Option<LogIndex>, LogIndex)>,
    ) -> Option<Self> {
        let pass = self.arrival().filling()?.image().base();
        let mut cargo = cargo(span, pass);
        let mut sealed = false;
        if let Some((key, live, gone_at)) = object {
            let import = match live {
                Some(index) => Import {
                    index,
                    content: Content::Sealed(DESTINATION_KEK),
                },
                None => Import {
                    index: gone_at,
                    content: Content::Tombstone,
                },
            };
            if live.is_some() {
                sealed = true;
                let held = self.source.objects.get(&key);
                let op = held.expect("a live change has its object").op;
                cargo.written.push((key.clone(), op));
            }
            cargo.batch.imports.push((Unit::Null(key), import));
        }
        self.sends(if sealed {
            Message::Release(cargo)
        } else {
            Message::Take(cargo)
        })
    }

    fn sends(&self, message: Message) -> Option<Self> {
        if self.is_cut {
            return None;
        }
        let mut after = self.clone();
        after.send(message);
        (!Arc::ptr_eq(&after.network, &self.network)).then_some(after)
    }
}

fn cargo(span: Span, pass: LogIndex) -> Cargo {
    Cargo {
        batch: Batch {
            relocation: RELOCATION,
            pass,
            span,
            imports: Vec::new(),
        },
        written: Vec::new(),
        answers: Vec::new(),
    }
}
