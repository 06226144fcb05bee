//! What holds in every world, and what has to happen in some.
//!
//! Owns both lists. Refuses to ask the decisions that are under test: each is stated over what regions hold, and over a
//! register that is kept apart from them.

use node_state::relocation::{Authority, Opened, Phase, Standing, State};
use proto::ids::{DatasetEpoch, ObjectKey};
use proto::relocation::Released;
use stateright::Property;

use crate::message::{Message, Reply, Request};
use crate::register::Outcome;
use crate::scenario::{Op, Scenario, object_key};
use crate::world::{DESTINATION_KEK, EPOCH, World};

type Claim = (&'static str, fn(&World) -> bool);

/// Holds always.
const ALWAYS: [Claim; 12] = [
    ("one writer", one_writer),
    ("no write lost", no_write_lost),
    ("no deleted key resurrected", nothing_resurrected),
    ("no import goes back", |world| !world.destination.went_back),
    ("a cursor hides no change", a_cursor_hides_nothing),
    ("nothing served before moved", nothing_served_before_moved),
    ("sealed anew", sealed_anew),
    ("keys handed over under a live grant", |world| {
        !world.source_kms.released_late
    }),
    ("disclosed as stated", disclosed_as_stated),
    ("no shred before a verified cutover", no_early_shred),
    ("an abort leaves nothing", an_abort_leaves_nothing),
    ("a request has effect once", exactly_once),
];

/// Happens in some world of some scenario.
const SOMETIMES: [Claim; 14] = [
    ("certified", |world| phase(world) == Phase::Certified),
    ("moved after a crash and a partition", |world| {
        world.crashed && world.parted && phase(world) == Phase::Cutover && !forced(world)
    }),
    ("moved under a second fence", |world| {
        phase(world) == Phase::Cutover && fences(world) == 2
    }),
    ("aborted while copying", |world| {
        phase(world) == Phase::Aborted
            && disclosed(world) > 0
            && !said(world, |message| matches!(message, Message::Fence(_)))
    }),
    ("aborted under a fence", |world| {
        phase(world) == Phase::Aborted && wished(world)
    }),
    ("too late to abort", |world| {
        !forced(world) && phase(world) == Phase::Cutover && wished(world)
    }),
    ("aborted before it was prepared", |world| {
        phase(world) == Phase::Aborted && world.destination_kms.hand_over.is_none()
    }),
    ("listed again after an overrun", |world| {
        world.overran && phase(world) == Phase::Cutover
    }),
    ("answered by the other region", answered_elsewhere),
    ("sealed anew by a client", |world| {
        said(
            world,
            |message| matches!(message, Message::Reply(request, Reply::Ran(_)) if request.epoch != EPOCH),
        )
    }),
    ("refused for good, in the region that took over", |world| {
        let mut answers = world.destination.answers.values();
        serves(world).is_some() && answers.any(|(_, outcome)| *outcome == Outcome::Refused)
    }),
    ("opened by force", |world| {
        opened(world) == Some(Opened::ByForce)
    }),
    ("opened by force, and the source says it moved", |world| {
        opened(world) == Some(Opened::ByForceThenMoved)
    }),
    ("opened by force, and the source diverged", |world| {
        matches!(world.authority().standing(), Standing::Diverged(_))
    }),
];

/// Both lists, as stateright takes them.
pub(crate) fn properties() -> Vec<Property<Scenario>> {
    macro_rules! named {
        ($of:ident, $list:ident: $($at:literal)*) => {
            vec![$(Property::$of($list[$at].0, |_, world| ($list[$at].1)(world))),*]
        };
    }
    let mut all = named!(always, ALWAYS: 0 1 2 3 4 5 6 7 8 9 10 11);
    all.extend(named!(sometimes, SOMETIMES: 0 1 2 3 4 5 6 7 8 9 10 11 12 13));
    all
}

/// Names of what has to happen.
pub(crate) fn sometimes() -> impl Iterator<Item = &'static str> {
    SOMETIMES.iter().map(|(name, _)| *name)
}

/// Names of what has to hold.
pub(crate) fn always() -> impl Iterator<Item = &'static str> {
    ALWAYS.iter().map(|(name, _)| *name)
}

/// No two regions take writes, and above all not of one epoch. By force, two may, of different ones.
fn one_writer(world: &World) -> bool {
    let (Some(here), Some(there)) = (takes_writes(world.authority()), serves(world)) else {
        return true;
    };
    here != there && forced(world)
}

/// Who serves has what every client was told, and what was accepted without anybody having been told.
fn no_write_lost(world: &World) -> bool {
    diverges(world) || every_key(world, |written, held| written.is_none() || held == written)
}

/// Who serves has nothing that was removed.
fn nothing_resurrected(world: &World) -> bool {
    diverges(world) || every_key(world, |written, held| written.is_some() || held.is_none())
}

/// Whatever a cursor has passed is as the source had it.
fn a_cursor_hides_nothing(world: &World) -> bool {
    let (Some(filling), false) = (world.arrival().filling(), phase(world) == Phase::Copying) else {
        return true;
    };
    let through = filling.image().changes();
    let mut changes = world.register.source_changes.iter();
    changes.all(|(key, (index, written))| {
        let passed = *index <= through;
        // One of after the cursor may be here already: an import of a listing, or of a batch out of order.
        let newer = world.destination.known.get(&object_key(*key));
        let newer = newer.is_some_and(|known| known.index > *index);
        !passed || newer || held(world, &object_key(*key)) == *written
    })
}

fn nothing_served_before_moved(world: &World) -> bool {
    serves(world).is_none() || world.moved().is_some() || forced(world)
}

/// What the source's keys open is not stored in the destination, whoever sent it.
fn sealed_anew(world: &World) -> bool {
    let mut objects = world.destination.objects.values();
    objects.all(|object| object.kek == DESTINATION_KEK)
}

/// What is stated as disclosed is all that was.
fn disclosed_as_stated(world: &World) -> bool {
    let on_record = world.source_kms.on_record();
    let stated = match world.arrival().state() {
        State::Aborted(aborted) => aborted.disclosed,
        State::CutOver(cut) => cut.released(),
        State::Held(held) => held.cut().released(),
        State::Shredding(shredding) => shredding.cut().released(),
        State::Certified(certified) => certified.cut.released(),
        _ => on_record,
    };
    stated == on_record
}

/// Source keys are destroyed only after everything was found equal and moved, and never while only the source has it.
fn no_early_shred(world: &World) -> bool {
    let shredded = world.source_kms.shredded;
    !shredded || (world.moved().is_some() && serves(world).is_some())
}

/// The source takes writes as before, and nothing of it is left in the destination.
fn an_abort_leaves_nothing(world: &World) -> bool {
    if phase(world) != Phase::Aborted {
        return true;
    }
    let there = &world.destination;
    takes_writes(world.authority()) == Some(EPOCH)
        && world.authority().departure().is_none()
        && serves(world).is_none()
        && there.objects.is_empty()
        && there.known.is_empty()
        && there.answers.is_empty()
        && world
            .destination_kms
            .hand_over
            .is_none_or(|key| key.destroyed)
}

/// Once, or where it was refused, never; and no client is told two things.
fn exactly_once(world: &World) -> bool {
    let mut each = world.register.effects.iter().enumerate();
    diverges(world)
        || each.all(|(op, effects)| {
            let told = |request: &Request| request.op == op;
            let ran = said(world, |message| {
                matches!(message, Message::Reply(request, Reply::Ran(Outcome::Done)) if told(request))
            });
            let refused = said(world, |message| {
                matches!(message, Message::Reply(request, Reply::Ran(Outcome::Refused)) if told(request))
            });
            *effects == u8::from(ran) && !(ran && refused)
        })
}

fn phase(world: &World) -> Phase {
    world.arrival().phase()
}

fn takes_writes(authority: &Authority) -> Option<DatasetEpoch> {
    (authority.standing() == Standing::Active).then(|| authority.epoch())
}

fn serves(world: &World) -> Option<DatasetEpoch> {
    let authority = world.destination.authority.as_ref();
    authority.and_then(takes_writes)
}

fn opened(world: &World) -> Option<Opened> {
    match world.arrival().state() {
        State::CutOver(cut) => Some(cut.opened()),
        State::Held(held) => Some(held.cut().opened()),
        State::Shredding(shredding) => Some(shredding.cut().opened()),
        State::Certified(certified) => Some(certified.cut.opened()),
        _ => None,
    }
}

fn forced(world: &World) -> bool {
    matches!(
        opened(world),
        Some(Opened::ByForce | Opened::ByForceThenMoved)
    )
}

/// Opened by force, and the source has not said that it moved: each side may have what the other has not.
fn diverges(world: &World) -> bool {
    forced(world) && world.moved().is_none()
}

fn every_key(world: &World, holds: impl Fn(Option<Op>, Option<Op>) -> bool) -> bool {
    let serving = if serves(world).is_some() {
        &world.destination
    } else {
        &world.source
    };
    world.register.truth.iter().all(|(key, written)| {
        let object = serving.objects.get(&object_key(*key));
        holds(*written, object.map(|object| object.op))
    })
}

fn held(world: &World, key: &ObjectKey) -> Option<Op> {
    world.destination.objects.get(key).map(|object| object.op)
}

fn fences(world: &World) -> u32 {
    let departure = world.authority().departure();
    departure.map_or(0, |departure| departure.fences.0)
}

fn disclosed(world: &World) -> u64 {
    match world.arrival().state() {
        State::Aborted(aborted) => aborted.disclosed.objects,
        _ => Released::default().objects,
    }
}

/// Somebody wanted to abort under a fence.
fn wished(world: &World) -> bool {
    said(world, |message| matches!(message, Message::Revert(_)))
}

fn said(world: &World, of: impl Fn(&Message) -> bool) -> bool {
    world.network.iter().any(|message| of(message))
}

/// An operation that ran in the source has its answer in the destination.
fn answered_elsewhere(world: &World) -> bool {
    let mut answers = world.destination.answers.keys();
    serves(world).is_some() && answers.any(|request| request.epoch == EPOCH)
}
