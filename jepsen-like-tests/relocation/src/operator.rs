//! What people and clocks do: prepare, abort, force, let time run out, destroy.
//!
//! Owns when each may be wished for, which is nearly always. Refuses to grant a wish: that is decided by what ships.

use node_state::relocation::{Arrival, Ended, HandOverEnded, Standing, State, StepRefused};
use proto::ids::UnixMs;

use crate::message::Message;
use crate::scenario::Scenario;
use crate::world::{RELOCATION, World, approved};

impl World {
    /// Keys are made in the destination, and two people have approved.
    pub(crate) fn prepare(&self) -> Option<Self> {
        let (prepared, key) = Self::prepared();
        let mut after = self.stepped(|arrival| arrival.prepare(prepared, approved()))?;
        after.destination_kms.hand_over = Some(key);
        Some(after)
    }

    /// All is listed.
    pub(crate) fn catch_up(&self) -> Option<Self> {
        self.stepped(Arrival::catch_up)
    }

    /// Copies are compared from here on.
    pub(crate) fn verify(&self) -> Option<Self> {
        self.stepped(Arrival::verify)
    }

    /// Somebody at the destination wants to end it.
    pub(crate) fn abort(&self) -> Option<Self> {
        let aborts = self.left.aborts.checked_sub(1)?;
        let mut after = self.stepped(Arrival::abort)?;
        after.left.aborts = aborts;
        Some(after)
    }

    /// Somebody at the source wants to end it.
    pub(crate) fn end_at_source(&self) -> Option<Self> {
        let ends = self.left.ends.checked_sub(1)?;
        let from = self.arrival().terms().from_version;
        let authority = self.authority().clone().end(RELOCATION, from).ok()?;
        let mut after = self.in_source(authority);
        after.left.ends = ends;
        let relocation = RELOCATION;
        after.send(Message::Ended(Ended { relocation }));
        after.send(Message::Close);
        Some(after)
    }

    /// The fence has stood for too long.
    pub(crate) fn time_out(&self) -> Option<Self> {
        let Standing::Fenced { at } = self.authority().standing() else {
            return None;
        };
        let authority = self.authority().clone().revert(RELOCATION, at).ok()?;
        let mut after = self.in_source(authority);
        after.say_reverted(at);
        Some(after)
    }

    /// Two people open the destination because the source does not answer.
    pub(crate) fn force(&self) -> Option<Self> {
        if !self.left.force || !self.is_cut {
            return None;
        }
        let mut after = self.stepped(|arrival| arrival.force(approved()))?;
        after.left.force = false;
        Some(after)
    }

    /// The hold begins.
    pub(crate) fn hold(&self, scenario: &Scenario) -> Option<Self> {
        if !scenario.shreds {
            return None;
        }
        self.stepped(|arrival| arrival.hold(UnixMs(1)))
    }

    /// Two people want the source's keys destroyed, after the hold.
    pub(crate) fn shred(&self) -> Option<Self> {
        self.stepped(|arrival| arrival.shred(approved(), UnixMs(1)))
    }

    /// The destination's KMS destroys the hand-over key where its shard says that it is not needed.
    pub(crate) fn end_hand_over(&self) -> Option<Self> {
        let over = matches!(
            self.arrival().state(),
            State::Aborting(_) | State::Shredding(_)
        );
        if !over {
            return None;
        }
        let mut after = self.clone();
        // One that was aborted before it was made is never made.
        let key = self.destination_kms.hand_over.unwrap_or(Self::prepared().1);
        after.destination_kms.hand_over = Some(key.destroy());
        let relocation = RELOCATION;
        after.send(Message::HandOverEnded(HandOverEnded { relocation }));
        (after != *self).then_some(after)
    }

    /// The regions lose each other.
    pub(crate) fn cut(&self) -> Option<Self> {
        let cuts = self.left.cuts.checked_sub(1)?;
        let mut after = self.clone();
        after.left.cuts = cuts;
        after.is_cut = true;
        after.parted = true;
        Some(after)
    }

    /// They have each other again.
    pub(crate) fn heal(&self) -> Option<Self> {
        let mut after = self.clone();
        after.is_cut = false;
        self.is_cut.then_some(after)
    }

    fn stepped(&self, step: impl FnOnce(Arrival) -> Result<Arrival, StepRefused>) -> Option<Self> {
        let arrival = step(self.arrival().clone()).ok()?;
        (arrival != *self.arrival()).then(|| self.in_destination(arrival))
    }
}
