//! What a message does where it is delivered.
//!
//! Owns which decision each message asks for. Refuses to deliver what would change nothing.

use std::sync::Arc;

use kms_state::relocation::{HandOverGrant, may_shred};
use node_state::relocation::{
    Arrival, Authority, AuthorityRefused, Closed, Content, DepartureRecord, Ended, FenceRecord,
    GrantRecord, Paused, Phase, Reverted, Shredded, StepRefused,
};
use proto::ids::LogIndex;

use crate::message::{Cargo, Message, Place, Reply, Request};
use crate::register::Outcome;
use crate::scenario::Scenario;
use crate::shard::{Judged, Shard};
use crate::world::{DESTINATION_KEK, HAND_OVER, RELOCATION, SOURCE_KEK, World, vouched};

impl World {
    /// The world after `message` is delivered at `place`; `None` where nothing changes.
    pub(crate) fn deliver(
        &self,
        scenario: &Scenario,
        message: &Message,
        place: Place,
    ) -> Option<Self> {
        if self.is_cut && message.crosses() {
            return None;
        }
        match place {
            Place::Source => match message {
                Message::Request(request) => self.request(scenario, *request, place),
                _ => self.at_source(message),
            },
            Place::SourceKms => self.at_source_kms(message),
            Place::Destination => match message {
                Message::Request(request) => self.request(scenario, *request, place),
                Message::Take(cargo) => self.take(cargo),
                _ => self.at_destination(message),
            },
        }
    }

    fn request(&self, scenario: &Scenario, request: Request, place: Place) -> Option<Self> {
        let waits_for = scenario.operations[request.op].after;
        if waits_for.is_some_and(|before| self.outcome(before).is_none()) {
            return None;
        }
        let at_source = place == Place::Source;
        let shard = if at_source {
            &self.source
        } else {
            &self.destination
        };
        let mut after;
        let reply = match shard.judge(request).ok()? {
            Judged::Replies(reply) => {
                if self.network.contains(&Message::Reply(request, reply)) {
                    return None;
                }
                after = self.clone();
                reply
            }
            Judged::Runs(authority) => {
                after = self.clone();
                let shard: &mut Shard = Arc::make_mut(if at_source {
                    &mut after.source
                } else {
                    &mut after.destination
                });
                shard.authority = Some(authority);
                // Who seals for an epoch has a lease of the region that has it.
                let kek = if request.epoch == crate::world::EPOCH {
                    SOURCE_KEK
                } else {
                    DESTINATION_KEK
                };
                let (outcome, index) = shard.run(scenario, request, kek);
                if outcome == Outcome::Done {
                    let register = Arc::make_mut(&mut after.register);
                    register.effect(scenario, request.op, at_source.then_some(index));
                }
                Reply::Ran(outcome)
            }
        };
        after.send(Message::Reply(request, reply));
        if let Reply::NeverRan(epoch) = reply {
            // Its client seals anew, under a new id.
            let op = request.op;
            after.send(Message::Request(Request { op, epoch }));
        }
        Some(after)
    }

    fn at_source(&self, message: &Message) -> Option<Self> {
        let held = self.authority().clone();
        let at = LogIndex(self.source.index.0 + 1);
        let terms = self.arrival().terms();
        let relocation = RELOCATION;
        let answer: Result<Authority, AuthorityRefused> = match message {
            Message::Open => held.open(
                relocation,
                terms.destination.clone(),
                terms.from_version,
                at,
            ),
            Message::Fence(asked) => held.fence(*asked, at),
            Message::Propose(moved) => held.moved(*moved),
            Message::Revert(fence) => held.revert(relocation, *fence),
            Message::End => held.end(relocation, terms.from_version),
            Message::Supersede(moved) => held.superseded(*moved),
            _ => return None,
        };
        let authority = answer.ok().filter(|after| after != self.authority())?;
        let mut after = self.in_source(authority);
        let root = self.source.root();
        match message {
            Message::Open => after.send(Message::Departed(DepartureRecord {
                relocation,
                base: at,
            })),
            Message::Fence(asked) => after.send(Message::Fenced(FenceRecord {
                relocation,
                epoch: asked.epoch,
                fence: at,
                root,
            })),
            Message::Revert(fence) => after.say_reverted(*fence),
            Message::End => after.send(Message::Ended(Ended { relocation })),
            _ => {}
        }
        if let Some(moved) = after.moved() {
            after.send(Message::Moved(moved));
        }
        Some(after)
    }

    /// The source's own time is out, or a revert was asked for.
    pub(crate) fn say_reverted(&mut self, fence: LogIndex) {
        let relocation = RELOCATION;
        self.send(Message::Reverted(Reverted { relocation, fence }));
    }

    fn at_source_kms(&self, message: &Message) -> Option<Self> {
        let mut after = self.clone();
        let kms = Arc::make_mut(&mut after.source_kms);
        let relocation = RELOCATION;
        let said = match message {
            Message::Grant => {
                let grant = HandOverGrant::grant(kms.grant, relocation, HAND_OVER).ok()?;
                kms.grant = Some(grant);
                Message::Granted(GrantRecord {
                    relocation,
                    hand_over: HAND_OVER,
                })
            }
            Message::Release(cargo) => return self.release(cargo),
            Message::Pause(fence) => {
                kms.grant = Some(kms.grant?.pause(*fence).ok()?);
                Message::Paused(Paused {
                    relocation,
                    fence: *fence,
                    released: kms.grant?.released(),
                })
            }
            Message::Resume(fence) => {
                kms.grant = Some(kms.grant?.resume(*fence).ok()?);
                return (after != *self).then_some(after);
            }
            Message::Close => {
                let grant = HandOverGrant::close(kms.grant, relocation);
                kms.grant = Some(grant);
                let released = grant.released();
                Message::Closed(Closed {
                    relocation,
                    released,
                })
            }
            Message::Shred(served) => {
                may_shred(kms.grant.as_ref(), self.moved(), *served).ok()?;
                kms.shredded = true;
                Message::Shredded(Shredded { relocation })
            }
            _ => return None,
        };
        after.send(said);
        (after != *self).then_some(after)
    }

    fn release(&self, cargo: &Cargo) -> Option<Self> {
        let sealed = cargo.batch.imports.iter();
        let sealed = sealed.filter(|(_, import)| import.content != Content::Tombstone);
        let versions: Vec<_> = sealed.map(|(_, import)| import.index).collect();
        let mut kms = self.source_kms.release(&versions)?;
        let grew = kms != *self.source_kms;
        // An abort that the source has not heard of yet is the one time at which more may be released than serves.
        let due = matches!(
            self.arrival().phase(),
            Phase::Copying | Phase::CatchUp | Phase::Verifying | Phase::Fenced | Phase::Aborting
        );
        kms.released_late |= grew && (!due || self.moved().is_some());
        let mut after = self.clone();
        after.source_kms = Arc::new(kms);
        let opens = self.destination_kms.hand_over;
        if opens.is_some_and(|key| key.opens(RELOCATION).is_ok()) {
            after.send(Message::Take(cargo.clone()));
        }
        (after != *self).then_some(after)
    }

    fn take(&self, cargo: &Cargo) -> Option<Self> {
        let shard = self.destination.take(cargo).ok()?;
        if shard == *self.destination {
            return None;
        }
        let mut after = self.clone();
        after.destination = Arc::new(shard);
        Some(after)
    }

    fn at_destination(&self, message: &Message) -> Option<Self> {
        let held = self.arrival().clone();
        let answer: Result<Arrival, StepRefused> = match message {
            Message::Granted(granted) => {
                // The driver waits for both.
                let departed = self.network.iter().find_map(|said| match &**said {
                    Message::Departed(departed) => Some(*departed),
                    _ => None,
                })?;
                held.copy(&vouched(departed), &vouched(*granted))
            }
            Message::CopyAgain(base) => held.copy_again(*base),
            Message::Fenced(record) => held.fenced(&vouched(*record)),
            Message::Compared(result) => held.compared(*result),
            Message::Paused(said) => held.paused(&vouched(*said)),
            Message::Moved(said) => held.moved(&vouched(*said)),
            Message::Reverted(said) => held.reverted(&vouched(*said)),
            Message::Ended(said) => held.ended(&vouched(*said)),
            Message::Closed(said) => held.closed(&vouched(*said)),
            Message::HandOverEnded(said) => held.hand_over_ended(&vouched(*said)),
            Message::Shredded(said) => held.shredded(&vouched(*said)),
            _ => return None,
        };
        let arrival = answer.ok().filter(|after| after != self.arrival())?;
        Some(self.in_destination(arrival))
    }
}
