//! Both regions, what is between them, and who uses them.
//!
//! Owns the state that is explored. Parts are shared between states until they change.

use std::collections::BTreeSet;
use std::sync::Arc;

use kms_state::relocation::HandOverKey;
use node_state::relocation::{
    Approved, Arrival, Authority, DepartureVersion, GrantRecord, Opened, Prepared, Standing, State,
    Terms, Vouched,
};
use proto::ids::{DatasetEpoch, DatasetId, HandOverKeyId, KekId, NodeId, RelocationId};
use proto::relocation::Moved;

use crate::kms::{DestinationKms, SourceKms};
use crate::message::{Message, Place, Reply, Request};
use crate::mover::Mover;
use crate::register::{Outcome, Register};
use crate::scenario::{Op, Scenario};
use crate::shard::Shard;

/// The relocation of every scenario.
pub(crate) const RELOCATION: RelocationId = RelocationId([0xA1; 16]);
/// The key that its destination receives under.
pub(crate) const HAND_OVER: HandOverKeyId = HandOverKeyId([0xA2; 16]);
/// The KEK of the dataset in the source.
pub(crate) const SOURCE_KEK: KekId = KekId([0x51; 16]);
/// The KEK of the dataset in the destination.
pub(crate) const DESTINATION_KEK: KekId = KekId([0xD1; 16]);
/// The dataset's epoch in the source.
pub(crate) const EPOCH: DatasetEpoch = DatasetEpoch(7);

/// What can still go wrong, or be wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) crashes: u8,
    pub(crate) cuts: u8,
    pub(crate) aborts: u8,
    pub(crate) ends: u8,
    pub(crate) force: bool,
}

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub(crate) source: Arc<Shard>,
    pub(crate) destination: Arc<Shard>,
    pub(crate) source_kms: Arc<SourceKms>,
    pub(crate) destination_kms: DestinationKms,
    pub(crate) register: Arc<Register>,
    pub(crate) network: Arc<BTreeSet<Arc<Message>>>,
    pub(crate) mover: Mover,
    pub(crate) left: Left,
    pub(crate) is_cut: bool,
    /// Whether the mover crashed once.
    pub(crate) crashed: bool,
    /// Whether the regions lost each other once.
    pub(crate) parted: bool,
    /// Whether the source had forgotten changes once.
    pub(crate) overran: bool,
}

impl World {
    /// Before the relocation is planned.
    pub fn new(scenario: &Scenario) -> Self {
        let mut source = Shard::new();
        source.authority = Some(Authority::founded(EPOCH));
        let mut register = Register::new(scenario);
        // Somebody orders the destruction of the source's keys, and clients send all they have: when it arrives is open.
        let mut network = BTreeSet::from([Arc::new(Message::Shred(None))]);
        for op in 0..scenario.operations.len() {
            let epoch = EPOCH;
            network.insert(Arc::new(Message::Request(Request { op, epoch })));
        }
        for op in 0..scenario.before {
            let request = Request { op, epoch: EPOCH };
            let (outcome, index) = source.run(scenario, request, SOURCE_KEK);
            register.effect(scenario, op, Some(index));
            network.insert(Arc::new(Message::Reply(request, Reply::Ran(outcome))));
        }
        let mut destination = Shard::new();
        let region = |name: &str| name.parse().expect("a region's name");
        destination.arrival = Some(Arrival::planned(Terms {
            relocation: RELOCATION,
            dataset: DatasetId([0xDA; 16]),
            source: region("ch-zrh"),
            destination: region("de-fra"),
            epoch: EPOCH,
            from_version: DepartureVersion(0),
        }));
        let Scenario {
            crashes,
            cuts,
            aborts,
            ends,
            force,
            ..
        } = *scenario;
        let planned = Self {
            source: Arc::new(source),
            destination: Arc::new(destination),
            source_kms: Arc::default(),
            destination_kms: DestinationKms::default(),
            register: Arc::new(register),
            network: Arc::new(network),
            mover: Mover::default(),
            left: Left {
                crashes,
                cuts,
                aborts,
                ends,
                force,
            },
            is_cut: false,
            crashed: false,
            parted: false,
            overran: false,
        };
        if scenario.begun {
            planned.begun(scenario)
        } else {
            planned
        }
    }

    /// Prepared, granted and copying, all by the same steps as ever, one after the other.
    fn begun(self, scenario: &Scenario) -> Self {
        let mut world = self.prepare().expect("planned");
        for (message, place) in [
            (Message::Open, Place::Source),
            (Message::Grant, Place::SourceKms),
        ] {
            let delivered = world.deliver(scenario, &message, place);
            world = delivered.expect("nothing hinders it");
        }
        let granted = Message::Granted(GrantRecord {
            relocation: RELOCATION,
            hand_over: HAND_OVER,
        });
        let copying = world.deliver(scenario, &granted, Place::Destination);
        copying.expect("both sides have said so")
    }

    /// The relocation as its destination has it.
    pub(crate) fn arrival(&self) -> &Arrival {
        let arrival = self.destination.arrival.as_ref();
        arrival.expect("every world begins with a plan")
    }

    /// The source's authority.
    pub(crate) fn authority(&self) -> &Authority {
        let authority = self.source.authority.as_ref();
        authority.expect("every world begins with the dataset in the source")
    }

    /// What the source says that it moved, if it does.
    pub(crate) fn moved(&self) -> Option<Moved> {
        match self.authority().standing() {
            Standing::Moved(moved) => Some(moved),
            _ => None,
        }
    }

    /// What was prepared, with the key that was made for it.
    pub(crate) fn prepared() -> (Prepared, HandOverKey) {
        let prepared = Prepared {
            kek: DESTINATION_KEK,
            hand_over: HAND_OVER,
        };
        let key = HandOverKey {
            relocation: RELOCATION,
            id: HAND_OVER,
            destroyed: false,
        };
        (prepared, key)
    }

    /// What some client was told of an operation.
    pub(crate) fn outcome(&self, op: Op) -> Option<Outcome> {
        self.network.iter().find_map(|said| match **said {
            Message::Reply(request, Reply::Ran(outcome)) if request.op == op => Some(outcome),
            _ => None,
        })
    }

    pub(crate) fn send(&mut self, message: Message) {
        if !self.network.contains(&message) {
            Arc::make_mut(&mut self.network).insert(Arc::new(message));
        }
    }

    /// The source's shard applies a command.
    pub(crate) fn in_source(&self, authority: Authority) -> Self {
        let mut after = self.clone();
        let source = Arc::make_mut(&mut after.source);
        source.step();
        source.authority = Some(authority);
        after
    }

    /// The destination's shard commits a step; only what changes objects counts as an index there. What follows from it may be sent from now on.
    pub(crate) fn in_destination(&self, arrival: Arrival) -> Self {
        let mut after = self.clone();
        let shard = Arc::make_mut(&mut after.destination);
        if shard.authority.is_none() {
            shard.authority = arrival.arrived();
        }
        if matches!(arrival.state(), State::Aborting(_) | State::Aborted(_)) {
            shard.objects.clear();
            shard.known.clear();
            shard.answers.clear();
        }
        shard.arrival = Some(arrival);
        after.say_what_follows(self);
        after
    }

    fn say_what_follows(&mut self, before: &Self) {
        let arrival = self.arrival().clone();
        match arrival.state() {
            State::Prepared(_) => {
                self.send(Message::Open);
                self.send(Message::Grant);
            }
            State::CatchingUp(_) => {
                if let State::Fenced(over) = before.arrival().state() {
                    self.send(Message::Resume(over.record().fence));
                }
            }
            State::Fenced(fenced) => {
                let fence = fenced.record().fence;
                self.send(Message::Pause(fence));
                if fenced.is_aborting() {
                    self.send(Message::Revert(fence));
                }
                if let Some(moved) = fenced.proposal() {
                    self.send(Message::Propose(moved));
                }
            }
            State::CutOver(cut) if cut.opened() == Opened::ByForce => {
                self.send(Message::Supersede(cut.moved()));
            }
            State::Shredding(shredding) => {
                self.send(Message::Shred(Some(shredding.cut().moved())));
            }
            State::Aborting(_) => {
                self.send(Message::End);
                self.send(Message::Close);
            }
            _ => {}
        }
    }
}

/// A record for which all three replicas of a region vouch: its log is one here.
pub(crate) fn vouched<R>(record: R) -> Vouched<R> {
    let three = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
    let majority = |nodes: &BTreeSet<NodeId>| nodes.len() >= 2;
    Vouched::by_majority(record, &three, &majority).expect("three of three are a majority")
}

/// Two people besides the one who asked.
pub(crate) fn approved() -> Approved {
    Approved::by_two_others("o1", ["o2", "o3"]).expect("two others")
}
