//! What clients do in one exploration, and how much may go wrong.
//!
//! Owns the bounds. Refuses to be endless: every operation, crash, cut, fence and wish of a person is counted.

use std::str::FromStr;

use proto::ids::ObjectKey;

/// The number of an operation of a client, in its scenario. What it writes is this number.
pub type Op = usize;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes, whatever was there.
    Put,
    /// Writes if there was nothing.
    Create,
    /// Removes; nothing there is a final answer.
    Delete,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// On which key, by number.
    pub key: usize,
    /// The operation that its client has to have the answer of.
    pub after: Option<Op>,
}

impl FromStr for Operation {
    type Err = String;
    /// `put:0`, `create:1`, `delete:2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, key) = text.split_once(':').ok_or("not kind:key")?;
        let kind = match kind {
            "put" => Kind::Put,
            "create" => Kind::Create,
            "delete" => Kind::Delete,
            _ => return Err(format!("no kind of operation: {kind}")),
        };
        match key.parse() {
            Ok(key) if key < KEYS.len() => Ok(operation(kind, key)),
            _ => Err(format!("no key: {key}")),
        }
    }
}

/// One exploration.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What clients do.
    pub operations: Vec<Operation>,
    /// How many of those are done before the relocation is planned.
    pub before: usize,
    /// Whether it begins when all is prepared and copying begins; otherwise with the plan.
    pub begun: bool,
    /// Keys there are.
    pub keys: usize,
    /// Tombstones that the source keeps for a reader.
    pub tombstones: u64,
    /// Times that the source is fenced.
    pub fences: u32,
    /// Times that the mover forgets what it has not written down.
    pub crashes: u8,
    /// Times that the regions lose each other.
    pub cuts: u8,
    /// Times that somebody at the destination wants to end it.
    pub aborts: u8,
    /// Times that somebody at the source does.
    pub ends: u8,
    /// Whether the source's keys are destroyed in the end.
    pub shreds: bool,
    /// Whether two people may open the destination by force.
    pub force: bool,
}

impl Scenario {
    /// Those that every run explores: half a minute on two busy cores.
    pub fn all() -> Vec<Self> {
        vec![moves(), parts(), two_fences(), overrun(), aborts(), force()]
    }

    /// Those, with more going wrong in each: some minutes, and two gigabytes.
    pub fn full() -> Vec<Self> {
        let mut all = Self::all();
        for scenario in &mut all {
            match scenario.name {
                "moves" => (scenario.crashes, scenario.cuts) = (2, 1),
                "two fences" => (scenario.crashes, scenario.cuts) = (1, 1),
                "parts" | "aborts" | "overrun" => scenario.crashes += 1,
                _ => scenario.cuts += 1,
            }
        }
        all
    }
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// The object key of that number.
pub(crate) fn object_key(number: usize) -> ObjectKey {
    KEYS[number].parse().expect("one letter is a key")
}

/// The number of an object key.
pub(crate) fn number_of(key: &ObjectKey) -> usize {
    usize::from(key.as_str().as_bytes()[0] - b'a')
}

fn put(key: usize) -> Operation {
    operation(Kind::Put, key)
}

fn create(key: usize) -> Operation {
    operation(Kind::Create, key)
}

fn delete(key: usize) -> Operation {
    operation(Kind::Delete, key)
}

fn operation(kind: Kind, key: usize) -> Operation {
    let after = None;
    Operation { kind, key, after }
}

fn then(before: Op, operation: Operation) -> Operation {
    let after = Some(before);
    Operation { after, ..operation }
}

/// It moves through a crash, while clients remove, and write where there is nothing.
fn moves() -> Scenario {
    Scenario {
        name: "moves",
        operations: vec![put(0), put(1), delete(0), create(0)],
        before: 2,
        begun: true,
        keys: 2,
        tombstones: 2,
        fences: 1,
        crashes: 1,
        cuts: 0,
        aborts: 0,
        ends: 0,
        shreds: false,
        force: false,
    }
}

/// From the plan to the certificate, through a crash and a partition.
fn parts() -> Scenario {
    Scenario {
        name: "parts",
        operations: vec![put(0), put(0)],
        before: 1,
        begun: false,
        keys: 1,
        cuts: 1,
        shreds: true,
        ..moves()
    }
}

/// A fence that is reverted, writes after it, and another one.
fn two_fences() -> Scenario {
    Scenario {
        name: "two fences",
        fences: 2,
        crashes: 0,
        cuts: 0,
        begun: true,
        shreds: false,
        ..parts()
    }
}

/// More removals than the source keeps for a reader, one of them of what came and went meanwhile.
fn overrun() -> Scenario {
    Scenario {
        name: "overrun",
        operations: vec![put(0), create(1), then(1, delete(1)), then(2, delete(0))],
        before: 1,
        tombstones: 1,
        crashes: 0,
        ..moves()
    }
}

/// People at both sides want to end it, at any step.
fn aborts() -> Scenario {
    Scenario {
        name: "aborts",
        aborts: 1,
        ends: 1,
        cuts: 0,
        shreds: false,
        ..parts()
    }
}

/// The source cannot be asked, and is back later: fenced, or active after a revert.
fn force() -> Scenario {
    Scenario {
        name: "force",
        fences: 2,
        crashes: 0,
        force: true,
        begun: true,
        shreds: false,
        ..parts()
    }
}
