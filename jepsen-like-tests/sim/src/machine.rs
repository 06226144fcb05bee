//! The machines as the consensus host runs them, watched: every member's every apply is compared and checked.
//!
//! Owns the ledger of what was applied at which index, for all members and all boots of a run. Refuses to look for
//! blocks: nothing here has any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use node_state::{At, ShardMachine, invariants, local};
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{FeatureLevel, LogIndex, NodeId};
use proto::store::{Reader, Writer};
use proto::v1;
use replica::machine::{Machine, Position, UnknownCommand, Voters};

use crate::logbook::{Logbook, short};
use crate::{Broken, hold};

const STATES: &str = "replica states";
/// Rows of a state up to which every invariant is checked after every command.
const ROWS_ALWAYS: usize = 400;
/// Beyond that, after one command of so many.
const ONE_IN: u64 = 16;

/// The newest feature level of a shard.
pub const SHARD_LEVEL_MAX: FeatureLevel = FeatureLevel(9);

/// Which machine a group runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// A shard of the storage nodes.
    Shard,
    /// The KMS.
    Kms,
}

/// A shard on a replica, unwatched.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shard;

impl Machine for Shard {
    fn level_max(&self) -> FeatureLevel {
        SHARD_LEVEL_MAX
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let voters = |nodes: &BTreeSet<NodeId>| at.voters.majority(nodes);
        let position = At {
            index: at.index,
            voters: &voters,
            level: at.level,
        };
        ShardMachine
            .apply(position, command, state, local)
            .map_err(|unknown| UnknownCommand {
                index: unknown.index,
                what: unknown.what.to_owned(),
            })
    }

    fn installed(&self, through: LogIndex, state: &dyn Reader, local: &mut dyn Writer) {
        local::reset(through, state, local);
    }
}

/// The KMS on a replica, unwatched.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kms;

impl Machine for Kms {
    fn level_max(&self) -> FeatureLevel {
        kms_state::LEVEL_MAX
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        _: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let voters = u32::try_from(at.voters.all().len()).unwrap_or(u32::MAX);
        let index = at.index;
        let level = at.level;
        let at = kms_state::At {
            index,
            voters,
            level,
        };
        kms_state::apply(at, command, state).map_err(|unknown| UnknownCommand {
            index,
            what: unknown.what.to_owned(),
        })
    }
}

/// What was applied at every index, whoever applied it first. Clones are handles on the same one.
#[derive(Clone)]
pub struct Ledger {
    applied: Arc<Mutex<Applied>>,
    which: Which,
    book: Logbook,
}

#[derive(Default)]
struct Applied {
    entries: BTreeMap<u64, (String, String)>,
    term: u64,
}

impl Ledger {
    /// An empty one.
    pub fn new(which: Which, book: Logbook) -> Self {
        Self {
            applied: Arc::default(),
            which,
            book,
        }
    }

    /// The machine of one member, watched.
    pub fn machine(&self, node: NodeId) -> Arc<dyn Machine> {
        let inner: Box<dyn Machine> = match self.which {
            Which::Shard => Box::new(Shard),
            Which::Kms => Box::new(Kms),
        };
        Arc::new(Watched {
            inner,
            node,
            ledger: self.clone(),
        })
    }

    /// One member has applied one command.
    fn applied(&self, node: NodeId, at: &Position<'_>, done: &Done<'_>) -> Result<(), Broken> {
        let index = at.index.0;
        let (command, answer) = (short(done.command), short(done.answer));
        self.book
            .note(format_args!("{node} applies {index} {command} {answer}"));
        let known = {
            let mut applied = self.applied.lock();
            if at.term.0 > applied.term {
                applied.term = at.term.0;
                self.book.count(STATES, "terms in which commands committed");
            }
            let entry = (command.clone(), answer.clone());
            applied.entries.entry(index).or_insert(entry).clone()
        };
        hold!(
            known.0 == command,
            "member {node} applies another command at index {index} than was applied there before"
        );
        hold!(
            known.1 == answer,
            "member {node} answers otherwise at index {index} than was answered there before"
        );
        if at.voters.configs.len() > 1 {
            self.book.count(STATES, "applied in joint membership");
        }
        if self.which == Which::Shard {
            on_majority(at, done)?;
        }
        let due = index.is_multiple_of(ONE_IN) || rows(done.state) <= ROWS_ALWAYS;
        if due {
            self.invariants(node, done.state)?;
        }
        Ok(())
    }

    fn invariants(&self, node: NodeId, state: &dyn Reader) -> Result<(), Broken> {
        self.book
            .count(STATES, "states checked for every invariant");
        let broken = match self.which {
            Which::Shard => invariants::shard(state).err().map(|v| v.to_string()),
            Which::Kms => kms_state::invariant::all(state)
                .err()
                .map(|b| b.to_string()),
        };
        match broken {
            Some(broken) => Err(Broken(format!("on member {node}: {broken}"))),
            None => Ok(()),
        }
    }
}

/// A command that was applied.
struct Done<'a> {
    command: &'a Bytes,
    answer: &'a Bytes,
    state: &'a dyn Reader,
}

struct Watched {
    inner: Box<dyn Machine>,
    node: NodeId,
    ledger: Ledger,
}

impl Machine for Watched {
    fn level_max(&self) -> FeatureLevel {
        self.inner.level_max()
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let answer = self.inner.apply(at, command, state, local)?;
        let state: &dyn Writer = state;
        let done = Done {
            command,
            answer: &answer,
            state: &View(state),
        };
        if let Err(broken) = self.ledger.applied(self.node, &at, &done) {
            self.ledger.book.blame(broken);
        }
        Ok(answer)
    }

    fn installed(&self, through: LogIndex, state: &dyn Reader, local: &mut dyn Writer) {
        self.ledger.book.count(STATES, "snapshots installed");
        self.ledger
            .book
            .note(format_args!("{} installs {through}", self.node));
        self.inner.installed(through, state, local);
        if let Err(broken) = self.ledger.invariants(self.node, state) {
            self.ledger.book.blame(broken);
        }
    }
}

/// A writer, read.
struct View<'a>(&'a dyn Writer);

impl Reader for View<'_> {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.0.value(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(start, end, visit);
    }
}

/// Rows of a state, counted no further than matters.
fn rows(state: &dyn Reader) -> usize {
    let mut count = 0;
    state.scan(&[], &[0xFF], &mut |_, _| {
        count += 1;
        count <= ROWS_ALWAYS
    });
    count
}

/// An object or a part in blocks that was committed came with receipts of a majority of whoever voted there.
fn on_majority(at: &Position<'_>, done: &Done<'_>) -> Result<(), Broken> {
    use v1::shard_answer::Answer;
    use v1::shard_command::Command;
    let Ok(command) = v1::ShardCommand::decode(done.command.clone()) else {
        return Ok(());
    };
    let receipts = match &command.command {
        Some(Command::FinishObject(finish)) => &finish.receipts,
        Some(Command::FinishPart(finish)) if finish.inline.is_empty() => &finish.receipts,
        _ => return Ok(()),
    };
    let answer = v1::ShardAnswer::decode(done.answer.clone());
    let Ok(Some(Answer::Done(told))) = answer.map(|answer| answer.answer) else {
        return Ok(());
    };
    // An answer given again is of the try that took effect.
    if told.log_index != at.index.0 {
        return Ok(());
    }
    let signed: BTreeSet<NodeId> = receipts.iter().map(|r| NodeId(r.node_id)).collect();
    hold!(
        majority(at.voters, &signed),
        "index {}: blocks were committed with receipts of {signed:?}, the voters there are {:?}",
        at.index,
        at.voters
    );
    Ok(())
}

fn majority(voters: &Voters, nodes: &BTreeSet<NodeId>) -> bool {
    let half_of = |set: &BTreeSet<NodeId>| 2 * set.intersection(nodes).count() > set.len();
    !voters.configs.is_empty() && voters.configs.iter().all(half_of)
}
