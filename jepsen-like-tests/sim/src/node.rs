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
mod kept;
mod lifecycle;
mod locks;
mod metadata;
mod model;
mod objects;
mod parts;

use std::collections::BTreeSet;

use bytes::Bytes;
use node_state::keys::{self, table};
use node_state::{At, ShardMachine, invariants, local, shard};
use prost::Message as _;
use proto::ids::{FeatureLevel, LogIndex, NodeId, ObjectVersionId, UnixMs};
use proto::store::{MemoryStore, Reader as _, Writer as _};
use proto::v1;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_command::Command;
use rand::Rng;
use rand::seq::IteratorRandom as _;

use self::draw::{DATASETS, Draw, NODES};
use self::model::{Model, Position};
use crate::logbook::{Logbook, short};
use crate::stored::reloaded;
use crate::{Broken, hold};

const COMMANDS: &str = "shard commands";
const REFUSALS: &str = "shard refusals";
const STATES: &str = "shard states";
const EVENTS: &str = "shard events";
const ENDED: &str = "shard endings";
/// Seeds of a turn of the mix ([`crate::kinds`]).
const TURN: u64 = 5;
/// The newest level of a shard, and that of each turn of seeds from its first command.
const LEVEL_MAX: u32 = 9;
const LEVELS: [u32; 4] = [LEVEL_MAX, 0, LEVEL_MAX, 2];
/// Steps that a round of lifecycles over so little may take.
const ROUND_STEPS_MAX: u32 = 4000;

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
    let level = LEVELS[(seed / TURN % LEVELS.len() as u64) as usize];
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
            5 if self.at.level < LEVEL_MAX && self.draw.rng.random_ratio(1, 4) => {
                self.at.level = self.draw.rng.random_range(self.at.level..=LEVEL_MAX);
                self.book.count(EVENTS, "feature level raised");
            }
            6 if self.at.level == LEVEL_MAX => self.round()?,
            // Few commands leave parts to be freed, and the next sweep frees them.
            _ if !self.model.doomed.is_empty() && self.draw.rng.random_ratio(1, 3) => {
                self.restart()?;
            }
            _ => {}
        }
        let command = self.draw.next(&self.model, &self.at);
        self.play(&command).map(drop)
    }

    /// A day passes, and lifecycles have their round of it: nothing that was due is left.
    fn round(&mut self) -> Result<(), Broken> {
        if !self.model.round.idle {
            self.steps()?;
        }
        let voters: BTreeSet<u64> = self.at.voters.iter().flatten().copied().collect();
        let clock_ms = self.model.time + locks::DAY;
        let advance = v1::AdvanceGroupTime {
            clocks: voters
                .into_iter()
                .map(|node_id| v1::VoterClock { node_id, clock_ms })
                .collect(),
            by_operator: true,
        };
        self.play(&by_the_shard(Command::AdvanceTime(advance)))?;
        let due = lifecycle::due(&self.model);
        hold!(
            due.is_empty() || self.round_is_due(),
            "{due:?} is due and no driver would know"
        );
        self.steps()?;
        for due in due {
            hold!(
                !lifecycle::stands(&self.model, &due),
                "{due:?} was due when a round began, and is there at its end"
            );
        }
        self.book.count(EVENTS, "round of lifecycles");
        Ok(())
    }

    /// Goes on with a round to its end.
    fn steps(&mut self) -> Result<(), Broken> {
        let steps = [1, 5, 1024][self.draw.rng.random_range(0..3)];
        let step = Command::LifecycleStep(v1::LifecycleStep { steps });
        for _ in 0..ROUND_STEPS_MAX {
            let due = self.round_is_due();
            let more = self.play(&by_the_shard(step.clone()))?;
            hold!(
                due || !more,
                "a round of lifecycles goes on and no driver would know"
            );
            if !more {
                return Ok(());
            }
        }
        Err(Broken("a round of lifecycles does not end".to_owned()))
    }

    fn round_is_due(&self) -> bool {
        shard::lifecycle::is_due(&self.one.state, UnixMs(self.model.time))
    }

    /// Applies one command and compares everything; answers whether more is to be done.
    fn play(&mut self, command: &v1::ShardCommand) -> Result<bool, Broken> {
        // Elections and changes of membership take indexes too.
        self.at.index += self.draw.rng.random_range(1..3);
        let before = kept::Before::of(&self.one.state);
        let state = &self.one.state;
        let mut expected = self
            .model
            .expect(&self.at, command, &|id| stands_in(state, id));
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
        self.count(command, &told);
        // How much a sweep or a lifecycle leaves is bounded, not promised.
        let more = without_more(&mut told);
        without_more(&mut expected.answer);
        hold!(
            told == expected.answer,
            "index {index}: {command:?} was answered {told:?}, the model says {:?}",
            expected.answer
        );
        if expected.runs {
            self.model.told_of_more(command, more);
        }
        self.take_over(command, &told, expected.runs, more)?;
        before
            .holds(&self.one.state, command)
            .map_err(|Broken(what)| Broken(format!("{what}, after index {index}")))?;
        invariants::shard(&self.one.state)
            .map_err(|violation| Broken(format!("{violation}, after index {index}")))?;
        let subject = draw::subject(command);
        compare::meta(&self.one.state, &self.model)?;
        if let Some(id) = subject {
            compare::dataset(&self.one.state, &self.model, &id)?;
        }
        if self.draw.rng.random_ratio(1, 12) {
            self.compare_all()?;
        }
        Ok(more)
    }

    /// What no command names the model takes from the state: what a lifecycle has ended, which parts are freed.
    fn take_over(
        &mut self,
        command: &v1::ShardCommand,
        told: &v1::ShardAnswer,
        ran: bool,
        more: bool,
    ) -> Result<(), Broken> {
        let state = &self.one.state;
        let ran = ran && matches!(told.answer, Some(Answer::Done(_)));
        let is_step = matches!(command.command, Some(Command::LifecycleStep(_)));
        if is_step && ran {
            let ended = lifecycle::adopt(&mut self.model, &self.at, state, more)?;
            if let Some(ended) = ended {
                self.book.count(ENDED, ended);
            }
        }
        let doomed = self.model.doomed.len();
        self.model
            .settle(&|id| state.value(&keys::version(table::VERSION, id)).is_some());
        let left = self.model.doomed.len();
        if left < doomed {
            let freed = (doomed - left) as u64;
            self.book.count_by(ENDED, "doomed parts freed", freed);
        }
        if left > 0 {
            self.book.count(STATES, "doomed parts left by a command");
        }
        if is_step {
            for id in &DATASETS {
                compare::dataset(state, &self.model, id)?;
            }
        }
        if matches!(command.command, Some(Command::Sweep(_))) && ran && !more {
            compare::nothing_is_due(state, &self.model)?;
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
        if !self.model.doomed.is_empty() {
            let what = "state taken up with parts still to be freed";
            self.book.count(EVENTS, what);
        }
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

    /// A relocation fences a dataset or gives it back. Worlds of two regions are drawn elsewhere: the record is written as
    /// their commands would, on both replicas.
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
        stand(&mut dataset.record, to);
        let (key, fence) = (
            keys::dataset(table::DATASET, &id),
            keys::dataset(table::FENCE, &id),
        );
        for replica in [&mut self.one, &mut self.other] {
            let held = node_state::read::dataset(&replica.state, &id);
            let mut record = held.expect("the model has it, and compared it");
            stand(&mut record, to);
            replica.state.put(&key, &record.encode_to_vec());
            match record.authority.is_some() && to == v1::DatasetStatus::Fenced {
                true => replica.state.put(&fence, &u64::MAX.to_be_bytes()),
                false => replica.state.delete(&fence),
            }
        }
        // A replay of the log alone would miss it.
        self.log = None;
    }

    /// A command of a later build stops the replica and leaves its state alone.
    fn unknown(&mut self) -> Result<(), Broken> {
        let later = [
            (3, Command::CreateUpload(v1::CreateUpload::default())),
            (4, Command::SetObjectLock(v1::SetObjectLock::default())),
            (5, Command::SetQuota(v1::SetQuota::default())),
            (6, Command::Depart(v1::Depart::default())),
            (6, Command::Arrive(v1::Arrive::default())),
            (6, Command::Import(v1::Import::default())),
            (6, Command::SetMetadata(v1::SetMetadata::default())),
            (7, Command::Restore(v1::RestoreDataset::default())),
        ];
        let later = later
            .into_iter()
            .filter(|(level, _)| *level > self.at.level);
        let bytes = match self.draw.rng.random_range(0..3) {
            0 => Bytes::from_static(&[0xFF; 9]),
            1 => v1::ShardCommand::default().encode_to_vec().into(),
            _ => {
                let Some((_, later)) = later.choose(&mut self.draw.rng) else {
                    return Ok(());
                };
                self.book.count(EVENTS, "command of a later level");
                Bytes::from(by_the_shard(later).encode_to_vec())
            }
        };
        self.book.count(EVENTS, "unknown command");
        let before = self.one.clone();
        let at = Position {
            index: self.at.index + 1,
            ..self.at.clone()
        };
        hold!(
            self.one.apply(&at, &bytes).is_err() && self.one == before,
            "a command that nobody here knows was applied"
        );
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.compare_all()?;
        // Everything due goes in bounded steps, and nothing else with it.
        let sweep = by_the_shard(Command::Sweep(v1::Sweep { steps: 1024 }));
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
        let state = &self.one.state;
        self.model
            .settle(&|id| state.value(&keys::version(table::VERSION, id)).is_some());
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

    /// What a command met in its dataset.
    fn count_held(&self, dataset: &model::Dataset) {
        let time = self.model.time;
        let record = &dataset.record;
        let retained = |mode: v1::RetentionMode| {
            let mut held = dataset.versions().filter_map(|v| v.entry.retention);
            held.any(|held| held.mode() == mode && held.until_ms > time)
        };
        let governance = retained(v1::RetentionMode::Governance);
        let compliance = retained(v1::RetentionMode::Compliance);
        let met = [
            ("upload under way", !dataset.uploads.is_empty()),
            (
                "version in parts",
                dataset.versions().any(|v| !v.parts.is_empty()),
            ),
            ("object lock", record.lock.is_some()),
            ("versioning suspended", record.suspended),
            ("version under governance", governance),
            ("version under compliance", compliance),
            (
                "version under a legal hold",
                dataset.versions().any(|v| v.entry.legal_hold),
            ),
            (
                "version with other metadata",
                dataset.versions().any(|v| v.entry.metadata_index > 0),
            ),
            ("quota", record.quota.is_some()),
            ("lifecycle", !dataset.rules().is_empty()),
        ];
        for (what, _) in met.into_iter().filter(|(_, met)| *met) {
            self.book.count(STATES, what);
        }
    }

    fn count(&self, command: &v1::ShardCommand, told: &v1::ShardAnswer) {
        let kind = kind(command);
        match &told.answer {
            Some(Answer::Done(_)) => {
                self.book.count(COMMANDS, &format!("{kind} done"));
                if let Some(Command::DeleteObject(delete)) = &command.command
                    && delete.bypass_governance
                {
                    self.book
                        .count(ENDED, "version deleted by who passes over governance");
                }
            }
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
            self.count_held(dataset);
        }
        if self.at.voters.len() == 2 {
            self.book.count(STATES, "joint membership at a command");
        }
    }
}

/// A dataset is under a fence, or is not; where it has an authority of its own that says so too.
fn stand(record: &mut v1::DatasetRecord, status: v1::DatasetStatus) {
    record.set_status(status);
    if let Some(authority) = &mut record.authority {
        authority.set_standing(match status {
            v1::DatasetStatus::Fenced => v1::Standing::Fenced,
            _ => v1::Standing::Active,
        });
    }
}

/// A command of the shard's own driver, whose clock says nothing new.
fn by_the_shard(kind: Command) -> v1::ShardCommand {
    v1::ShardCommand {
        command: Some(kind),
        ..Default::default()
    }
}

/// Whether the state still knows an id: of a version, an upload, a part, or of what still has parts.
fn stands_in(state: &MemoryStore, id: &ObjectVersionId) -> bool {
    let stands = [table::VERSION, table::FREED]
        .into_iter()
        .any(|of| state.value(&keys::version(of, id)).is_some());
    let (start, end) = keys::range(table::PART, id.as_bytes());
    let mut has_parts = false;
    state.scan(&start, &end, &mut |_, _| {
        has_parts = true;
        false
    });
    stands || has_parts
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
        Some(Command::Depart(_)) => "Depart",
        Some(Command::Arrive(_)) => "Arrive",
        Some(Command::Import(_)) => "Import",
        Some(Command::SetMetadata(_)) => "SetMetadata",
        Some(Command::Restore(_)) => "Restore",
        Some(Command::Sweep(_)) => "Sweep",
        Some(Command::AdvanceTime(_)) => "AdvanceTime",
        None => "none",
    }
}
