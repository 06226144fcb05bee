//! The shard and the catalog as pure machines, under commands drawn from a seed.
//!
//! Owns the run: two replicas of each machine are fed one log; after every command their answers and states are
//! compared with each other and with a model, and every invariant is checked. A replica is now and then thrown away
//! and taken up from its stored form, and in the end the whole log is replayed. Refuses clocks, threads and sockets:
//! a seed is one sequence of bytes.

mod bend;
mod catalog;
mod compare;
mod draw;
mod model;
mod objects;

use std::collections::BTreeSet;

use bytes::Bytes;
use node_state::{At, ShardMachine, invariants, local};
use prost::Message as _;
use proto::ids::{FeatureLevel, LogIndex, NodeId, ObjectVersionId};
use proto::store::{MemoryStore, Reader as _, Writer as _};
use proto::v1;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_command::Command;
use rand::Rng;

use self::draw::{DATASETS, Draw, NODES};
use self::model::{Model, Position};
use crate::logbook::{Logbook, short};
use crate::stored::reloaded;
use crate::{Broken, hold};

const COMMANDS: &str = "shard commands";
const REFUSALS: &str = "shard refusals";
const STATES: &str = "shard states";
const EVENTS: &str = "shard events";
/// Seeds of a turn of the mix ([`crate::kinds`]).
const TURN: u64 = 5;

/// One replica of the shard.
#[derive(Clone, Default, PartialEq)]
struct Replica {
    state: MemoryStore,
    local: MemoryStore,
}

impl Replica {
    fn apply(&mut self, at: &Position, command: &Bytes) -> Result<Bytes, String> {
        let voters = |nodes: &BTreeSet<NodeId>| {
            at.majority(&nodes.iter().map(|node| node.0).collect::<BTreeSet<_>>())
        };
        let position = At {
            index: LogIndex(at.index),
            voters: &voters,
            level: FeatureLevel(at.level),
        };
        ShardMachine
            .apply(position, command, &mut self.state, &mut self.local)
            .map_err(|unknown| unknown.to_string())
    }
}

/// A shard under its model.
struct Run<'a> {
    book: &'a Logbook,
    draw: Draw,
    model: Model,
    at: Position,
    one: Replica,
    other: Replica,
    /// Everything applied so far; nothing once a record was written beside the log.
    log: Option<Vec<(Position, Bytes)>>,
}

/// Runs one seed.
pub fn seed(seed: u64, book: &Logbook) -> Result<(), Broken> {
    let mut draw = Draw::new(seed);
    let steps = draw.rng.random_range(60..320);
    // Every other seed in its turn of the mix goes by the newest level, from its first command.
    let level = 2 * u32::from((seed / TURN).is_multiple_of(2));
    let mut catalog = catalog::Run::new(draw.rng.random(), level);
    let mut run = Run {
        book,
        draw,
        model: Model::default(),
        at: Position {
            index: 0,
            voters: vec![BTreeSet::from([1, 2, 3])],
            level,
        },
        one: Replica::default(),
        other: Replica::default(),
        log: Some(Vec::new()),
    };
    for step in 0..steps {
        let told = |broken: Broken| Broken(format!("{broken}; step {step}"));
        run.step().map_err(told)?;
        if run.draw.rng.random_ratio(1, 5) {
            catalog.step(book).map_err(told)?;
        }
    }
    run.end()?;
    catalog.end()
}

impl Run<'_> {
    fn step(&mut self) -> Result<(), Broken> {
        match self.draw.rng.random_range(0..40) {
            0 | 1 => self.change_membership(),
            2 => self.restart()?,
            3 => self.fence(),
            4 => self.unknown()?,
            _ => {}
        }
        // Elections and changes of membership take indexes too.
        self.at.index += self.draw.rng.random_range(1..3);
        let command = self.draw.next(&self.model, &self.at);
        let state = &self.one.state;
        let mut expected = self
            .model
            .expect(&self.at, &command, &|id| stands_in(state, id));
        let bytes = Bytes::from(command.encode_to_vec());
        let known = |unknown| Broken(format!("a known command is unknown: {unknown}"));
        let answer = self.one.apply(&self.at, &bytes).map_err(known)?;
        let again = self.other.apply(&self.at, &bytes).map_err(known)?;
        if let Some(log) = &mut self.log {
            log.push((self.at.clone(), bytes.clone()));
        }
        let index = self.at.index;
        self.book.note(format_args!(
            "{index} {} {} {}",
            short(&bytes),
            short(&answer),
            self.at.voters.len()
        ));
        hold!(
            answer == again && self.one == self.other,
            "two replicas differ after the same log, at index {index}"
        );
        let mut told = v1::ShardAnswer::decode(answer)
            .map_err(|_| Broken(format!("an answer that is none, at index {index}")))?;
        self.count(&command, &told);
        // How much a sweep leaves is bounded, not promised.
        let more = without_more(&mut told);
        without_more(&mut expected);
        hold!(
            told == expected,
            "index {index}: {command:?} was answered {told:?}, the model says {expected:?}"
        );
        // One that was refused for its clock swept nothing.
        if let (Some(Command::Sweep(_)), Some(Answer::Done(_))) = (&command.command, &told.answer)
            && !more
        {
            compare::nothing_is_due(&self.one.state, &self.model)?;
        }
        invariants::shard(&self.one.state)
            .map_err(|violation| Broken(format!("{violation}, after index {index}")))?;
        let subject = draw::subject(&command);
        compare::meta(&self.one.state, &self.model)?;
        if let Some(id) = subject {
            compare::dataset(&self.one.state, &self.model, &id)?;
        }
        if self.draw.rng.random_ratio(1, 12) {
            self.compare_all()?;
        }
        Ok(())
    }

    fn compare_all(&mut self) -> Result<(), Broken> {
        for id in &DATASETS {
            compare::dataset(&self.one.state, &self.model, id)?;
            compare::listings(&self.one.state, &self.model, id, &mut self.draw.rng)?;
        }
        compare::memory(&self.one.state, &self.one.local, &self.model)
    }

    /// Voters come and go as the host lets them: by a joint set, or by one node at a time.
    fn change_membership(&mut self) {
        let rng = &mut self.draw.rng;
        let voters = &mut self.at.voters;
        if voters.len() == 2 {
            voters.remove(0);
            self.book.count(STATES, "joint membership left");
            return;
        }
        let count = [1, 3, 3, 3, 4, 5][rng.random_range(0..6)];
        let mut next = BTreeSet::new();
        while next.len() < count {
            next.insert(rng.random_range(1..=NODES));
        }
        voters.push(next);
        self.book.count(STATES, "joint membership entered");
        if rng.random_ratio(1, 3) {
            voters.remove(0);
        }
    }

    /// A replica is lost and taken up from the stored form of the other; so is one that a snapshot was sent to.
    fn restart(&mut self) -> Result<(), Broken> {
        self.book
            .count(EVENTS, "state taken up from its stored form");
        self.other = Replica {
            state: reloaded(&self.one.state),
            local: reloaded(&self.one.local),
        };
        let mut sent = Replica {
            state: reloaded(&self.one.state),
            local: MemoryStore::default(),
        };
        local::reset(LogIndex(self.at.index), &sent.state, &mut sent.local);
        hold!(
            sent.state == self.one.state,
            "a snapshot differs from the state it was made of"
        );
        // Nobody looks for blocks here: a replica that applied the log and one that got a snapshot must look for
        // the same ones.
        hold!(
            sent.local == self.one.local,
            "a replica that got a snapshot looks for other blocks than one that applied the log"
        );
        Ok(())
    }

    /// A relocation fences a dataset or gives it back. There is no command for it yet: the record is written as one
    /// would, on both replicas.
    fn fence(&mut self) {
        let id = self.draw.dataset(&self.model);
        let Some(dataset) = self.model.datasets.get_mut(&id) else {
            return;
        };
        let to = match dataset.record.status() {
            v1::DatasetStatus::Active if self.draw.rng.random_ratio(1, 4) => {
                v1::DatasetStatus::Fenced
            }
            v1::DatasetStatus::Fenced => v1::DatasetStatus::Active,
            _ => return,
        };
        self.book.count(EVENTS, &format!("dataset to {to:?}"));
        dataset.record.set_status(to);
        let key = node_state::keys::dataset(node_state::keys::table::DATASET, &id);
        for replica in [&mut self.one, &mut self.other] {
            let held = node_state::read::dataset(&replica.state, &id);
            let mut record = held.expect("the model has it, and compared it");
            record.set_status(to);
            replica.state.put(&key, &record.encode_to_vec());
        }
        // A replay of the log alone would miss it.
        self.log = None;
    }

    /// A command of a later build stops the replica and leaves its state alone.
    fn unknown(&mut self) -> Result<(), Broken> {
        self.book.count(EVENTS, "unknown command");
        let bytes = if self.draw.rng.random() {
            Bytes::from_static(&[0xFF; 9])
        } else {
            v1::ShardCommand::default().encode_to_vec().into()
        };
        let before = self.one.clone();
        let at = Position {
            index: self.at.index + 1,
            ..self.at.clone()
        };
        hold!(
            self.one.apply(&at, &bytes).is_err() && self.one == before,
            "a command that no build knows was applied"
        );
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.compare_all()?;
        // Everything due goes in bounded steps, and nothing else with it.
        let sweep = v1::ShardCommand {
            command: Some(Command::Sweep(v1::Sweep { steps: 1024 })),
            ..Default::default()
        };
        let bytes = Bytes::from(sweep.encode_to_vec());
        let mut more = true;
        for _ in 0..64 {
            self.at.index += 1;
            let answer = self.one.apply(&self.at, &bytes);
            let answer = answer.map_err(|unknown| Broken(format!("a sweep: {unknown}")))?;
            let mut told = v1::ShardAnswer::decode(answer).unwrap_or_default();
            more = without_more(&mut told);
            if !more {
                break;
            }
        }
        hold!(!more, "a sweep of a small shard does not end");
        compare::nothing_is_due(&self.one.state, &self.model)?;
        invariants::shard(&self.one.state).map_err(|violation| Broken(violation.to_string()))?;
        self.replay()
    }

    /// The same log gives the same bytes.
    fn replay(&self) -> Result<(), Broken> {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let mut replica = Replica::default();
        for (at, bytes) in log {
            let known = replica.apply(at, bytes);
            known.map_err(|unknown| Broken(format!("in a replay: {unknown}")))?;
        }
        self.book.count(EVENTS, "whole log replayed");
        hold!(
            replica == self.other,
            "a replay of {} commands gives another state",
            log.len()
        );
        Ok(())
    }

    fn count(&self, command: &v1::ShardCommand, told: &v1::ShardAnswer) {
        let kind = kind(command);
        match &told.answer {
            Some(Answer::Done(_)) => self.book.count(COMMANDS, &format!("{kind} done")),
            Some(Answer::Refused(refused)) => {
                self.book.count(COMMANDS, &format!("{kind} refused"));
                self.book
                    .count(REFUSALS, &format!("{:?}", refused.reason()));
            }
            None => {}
        }
        let subject = draw::subject(command);
        if let Some(dataset) = subject.and_then(|id| self.model.datasets.get(&id)) {
            let record = &dataset.record;
            self.book
                .count(STATES, &format!("dataset {:?}", record.status()));
            self.book
                .count(STATES, &format!("key {:?}", record.key_state()));
        }
        if self.at.voters.len() == 2 {
            self.book.count(STATES, "joint membership at a command");
        }
    }
}

/// Whether the state still knows a version id.
fn stands_in(state: &MemoryStore, id: &ObjectVersionId) -> bool {
    use node_state::keys::{table, version};
    [table::VERSION, table::FREED]
        .into_iter()
        .any(|of| state.value(&version(of, id)).is_some())
}

/// Takes `more` out of an answer.
fn without_more(answer: &mut v1::ShardAnswer) -> bool {
    match &mut answer.answer {
        Some(Answer::Done(done)) => std::mem::take(&mut done.more),
        _ => false,
    }
}

fn kind(command: &v1::ShardCommand) -> &'static str {
    match &command.command {
        Some(Command::AdvanceUploadEpoch(_)) => "AdvanceUploadEpoch",
        Some(Command::SetAuthority(_)) => "SetAuthority",
        Some(Command::CreateDataset(_)) => "CreateDataset",
        Some(Command::TombstoneDataset(_)) => "TombstoneDataset",
        Some(Command::SetKeyState(_)) => "SetKeyState",
        Some(Command::RegisterToken(_)) => "RegisterToken",
        Some(Command::PutObject(_)) => "PutObject",
        Some(Command::FinishObject(_)) => "FinishObject",
        Some(Command::DeleteObject(_)) => "DeleteObject",
        Some(Command::SetVersioning(_)) => "SetVersioning",
        Some(Command::SetHold(_)) => "SetHold",
        Some(Command::CreateUpload(_)) => "CreateUpload",
        Some(Command::FinishPart(_)) => "FinishPart",
        Some(Command::CompleteUpload(_)) => "CompleteUpload",
        Some(Command::AbortUpload(_)) => "AbortUpload",
        Some(Command::SetObjectLock(_)) => "SetObjectLock",
        Some(Command::SetRetention(_)) => "SetRetention",
        Some(Command::SetLegalHold(_)) => "SetLegalHold",
        Some(Command::SetConfig(_)) => "SetConfig",
        Some(Command::SetQuota(_)) => "SetQuota",
        Some(Command::LifecycleStep(_)) => "LifecycleStep",
        Some(Command::Sweep(_)) => "Sweep",
        Some(Command::AdvanceTime(_)) => "AdvanceTime",
        None => "none",
    }
}
