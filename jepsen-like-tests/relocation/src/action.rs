//! What can happen next.
//!
//! Owns the list of steps and their order, which has to be the same for the same world. Refuses nothing: a step that
//! changes nothing is no step.

use std::sync::Arc;

use stateright::{Model, Property};

use crate::invariants;
use crate::message::{Message, Place};
use crate::scenario::Scenario;
use crate::world::World;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A message is delivered, perhaps again.
    Deliver(Arc<Message>, Place),
    /// Anything else.
    Do(Step),
}

/// A step that is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the functions they call")]
pub enum Step {
    Prepare,
    ReadPage,
    ReadChange,
    ReadRequests,
    CatchUp,
    Verify,
    AskFence,
    Compare,
    Crash,
    TimeOut,
    Abort,
    EndAtSource,
    Force,
    Hold,
    Shred,
    EndHandOver,
    Cut,
    Heal,
}

impl Step {
    const ALL: [Self; 18] = [
        Self::Prepare,
        Self::ReadPage,
        Self::ReadChange,
        Self::ReadRequests,
        Self::CatchUp,
        Self::Verify,
        Self::AskFence,
        Self::Compare,
        Self::Crash,
        Self::TimeOut,
        Self::Abort,
        Self::EndAtSource,
        Self::Force,
        Self::Hold,
        Self::Shred,
        Self::EndHandOver,
        Self::Cut,
        Self::Heal,
    ];

    fn of(self, world: &World, scenario: &Scenario) -> Option<World> {
        match self {
            Self::Prepare => world.prepare(),
            Self::ReadPage => world.read_page(scenario),
            Self::ReadChange => world.read_change(),
            Self::ReadRequests => world.read_requests(),
            Self::CatchUp => world.catch_up(),
            Self::Verify => world.verify(),
            Self::AskFence => world.ask_fence(scenario),
            Self::Compare => world.compare(),
            Self::Crash => world.crash(),
            Self::TimeOut => world.time_out(),
            Self::Abort => world.abort(),
            Self::EndAtSource => world.end_at_source(),
            Self::Force => world.force(),
            Self::Hold => world.hold(scenario),
            Self::Shred => world.shred(),
            Self::EndHandOver => world.end_hand_over(),
            Self::Cut => world.cut(),
            Self::Heal => world.heal(),
        }
    }
}

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(Step::ALL.map(Action::Do));
        for message in world.network.iter() {
            for place in message.places() {
                actions.push(Action::Deliver(Arc::clone(message), *place));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        match action {
            Action::Deliver(message, place) => world.deliver(self, &message, place),
            Action::Do(step) => step.of(world, self),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        invariants::properties()
    }
}
