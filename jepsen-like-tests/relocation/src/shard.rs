//! A region's shard: one log, applied whole, driven by the decisions that ship.
//!
//! Owns what the decisions leave to their caller: the objects, the change index, the request ids. Refuses to say who may
//! write or what is imported.

use std::collections::BTreeMap;

use node_state::relocation::{
    Arrival, Authority, Content, Effect, Known, Overrun, Retry, Tombstones, Unit, retry,
};
use node_state::relocation::{Change, ImportRefused, NotAdmitted};
use proto::ids::{KekId, LogIndex, ObjectKey};
use proto::relocation::CatalogRoot;

use crate::message::{Cargo, Reply, Request};
use crate::register::Outcome;
use crate::scenario::{Kind, Op, Operation, Scenario, object_key};

/// What is stored of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Object {
    /// Which operation wrote it.
    pub(crate) op: Op,
    /// Log index at which it came to be, in its region of origin.
    pub(crate) index: LogIndex,
    /// Under which KEK it is sealed.
    pub(crate) kek: KekId,
}

/// A change index record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) key: ObjectKey,
    pub(crate) tombstone: bool,
}

/// A shard, as far as it holds the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shard {
    pub(crate) index: LogIndex,
    pub(crate) authority: Option<Authority>,
    pub(crate) arrival: Option<Arrival>,
    pub(crate) objects: BTreeMap<ObjectKey, Object>,
    pub(crate) changes: BTreeMap<LogIndex, Row>,
    pub(crate) tombstones: Tombstones,
    pub(crate) answers: BTreeMap<Request, (LogIndex, Outcome)>,
    pub(crate) known: BTreeMap<ObjectKey, Known>,
    /// Whether an import replaced something newer; looked at by what it did, not by what was decided.
    pub(crate) went_back: bool,
}

/// What reading the change index gave.
pub(crate) enum Read {
    /// The next change.
    Next(LogIndex, Row),
    /// None.
    Nothing,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            index: LogIndex(0),
            authority: None,
            arrival: None,
            objects: BTreeMap::new(),
            changes: BTreeMap::new(),
            tombstones: Tombstones::default(),
            answers: BTreeMap::new(),
            known: BTreeMap::new(),
            went_back: false,
        }
    }

    /// The next log index.
    pub(crate) fn step(&mut self) -> LogIndex {
        self.index = LogIndex(self.index.0 + 1);
        self.index
    }

    /// What it answers to a request, before anything is changed; `Err` where it says nothing that a client could go by.
    pub(crate) fn judge(&self, request: Request) -> Result<Judged, NotAdmitted> {
        let Some(authority) = &self.authority else {
            return Err(NotAdmitted::Unconfirmed);
        };
        let known = self.answers.get(&request).map(|(_, outcome)| *outcome);
        match retry(known, authority, Change::Write, request.epoch) {
            Retry::Answered(outcome) => Ok(Judged::Replies(Reply::Ran(outcome))),
            Retry::Runs(authority) => Ok(Judged::Runs(authority)),
            Retry::NotRun(NotAdmitted::EpochMoved(epoch)) if epoch > request.epoch => {
                Ok(Judged::Replies(Reply::NeverRan(epoch)))
            }
            Retry::NotRun(refused) => Err(refused),
        }
    }

    /// Runs an operation that was admitted. Its answer is kept whatever it is.
    pub(crate) fn run(
        &mut self,
        scenario: &Scenario,
        request: Request,
        kek: KekId,
    ) -> (Outcome, LogIndex) {
        let index = self.step();
        let Operation { kind, key, .. } = scenario.operations[request.op];
        let key = object_key(key);
        let there = self.objects.contains_key(&key);
        let outcome = match kind {
            Kind::Create if there => Outcome::Refused,
            Kind::Delete if !there => Outcome::Refused,
            Kind::Put | Kind::Create => {
                let op = request.op;
                self.replace(&key, Some(Object { op, index, kek }));
                let tombstone = false;
                self.changes.insert(index, Row { key, tombstone });
                Outcome::Done
            }
            Kind::Delete => {
                self.replace(&key, None);
                let tombstone = true;
                self.changes.insert(index, Row { key, tombstone });
                self.tombstones = self.tombstones.added();
                self.drop_tombstones(scenario.tombstones);
                Outcome::Done
            }
        };
        self.answers.insert(request, (index, outcome));
        (outcome, index)
    }

    /// The change after `after`.
    pub(crate) fn read(&self, after: LogIndex) -> Result<Read, Overrun> {
        self.tombstones.readable(after)?;
        let next = self.changes.range(LogIndex(after.0 + 1)..).next();
        Ok(match next {
            Some((index, row)) => Read::Next(*index, row.clone()),
            None => Read::Nothing,
        })
    }

    /// Takes a batch, where the arrival does.
    pub(crate) fn take(&self, cargo: &Cargo) -> Result<Self, ImportRefused> {
        let refused = ImportRefused::NotTaking(cargo.batch.relocation);
        let arrival = self.arrival.clone().ok_or(refused)?;
        let at = LogIndex(self.index.0 + 1);
        let known = |unit: &Unit| self.known.get(unit.key()?).copied();
        let (arrival, effects) = arrival.take(at, &cargo.batch, known)?;
        let mut after = self.clone();
        after.arrival = Some(arrival);
        for ((unit, import), effect) in cargo.batch.imports.iter().zip(effects) {
            let key = unit.key().expect("nothing but objects moves here");
            let stored = match (effect, import.content) {
                (Effect::Stores, Content::Sealed(kek)) => {
                    let index = import.index;
                    let written = cargo.written.iter().find(|(of, _)| of == key);
                    let (_, op) = *written.expect("every object says what wrote it");
                    after.objects.insert(key.clone(), Object { op, index, kek });
                    true
                }
                (Effect::Nothing, _) => continue,
                _ => {
                    after.objects.remove(key);
                    false
                }
            };
            let index = import.index;
            let before = after.known.insert(key.clone(), Known { index, stored });
            after.went_back |= before.is_some_and(|before| before.index > index);
        }
        for (request, outcome) in &cargo.answers {
            after.answers.insert(*request, (LogIndex(0), *outcome));
        }
        if after.known != self.known {
            after.index = at;
        }
        Ok(after)
    }

    /// What there is, as one value.
    pub(crate) fn root(&self) -> CatalogRoot {
        let mut root = [0; 32];
        let bytes = self.objects.iter().flat_map(|(key, object)| {
            let op = u8::try_from(object.op).expect("operations are few");
            [key.as_str().as_bytes()[0], op]
        });
        for (place, byte) in root.iter_mut().zip(bytes) {
            *place = byte;
        }
        CatalogRoot(root)
    }

    fn replace(&mut self, key: &ObjectKey, with: Option<Object>) {
        let before = match with {
            Some(object) => self.objects.insert(key.clone(), object),
            None => self.objects.remove(key),
        };
        if let Some(before) = before {
            self.changes.remove(&before.index);
        }
    }

    fn drop_tombstones(&mut self, bound: u64) {
        let reader = self.authority.as_ref().and_then(Authority::departure);
        let mut rows = self.changes.iter().filter(|(_, row)| row.tombstone);
        if let Some((&oldest, _)) = rows.next()
            && self.tombstones.drops(oldest, reader, bound)
        {
            self.changes.remove(&oldest);
            self.tombstones = self.tombstones.dropped(oldest);
        }
    }
}

/// What a shard makes of a request.
pub(crate) enum Judged {
    /// It has an answer.
    Replies(Reply),
    /// It runs, and the authority is then this.
    Runs(Authority),
}
