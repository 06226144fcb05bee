//! The pure machines of `node_state` as the consensus host runs them, and what the block side has to hear of it.
//!
//! Owns the translation of log positions and the note of how far a shard is flushed. Refuses to let a snapshot take
//! effect before every reference in it counts as unresolved here.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use node_state::{At, CatalogMachine, ShardMachine, local};
use proto::ids::{FeatureLevel, GroupId, LogIndex, NodeId};
use proto::store::{Reader, Writer};
use replica::machine::{Machine, Position, UnknownCommand};

use crate::repair::Repair;

/// The highest feature level this build understands.
pub const LEVEL_MAX: FeatureLevel = FeatureLevel(if cfg!(feature = "level_0") { 0 } else { 9 });

/// How far a shard's state survives a power cut here.
#[derive(Debug, Default)]
pub(crate) struct Flushed(AtomicU64);

impl Flushed {
    /// `None` until the first flush since the start: what was flushed before is not known to be flushed.
    pub(crate) fn index(&self) -> Option<LogIndex> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            index => Some(LogIndex(index)),
        }
    }
}

/// Repair, once it runs: groups are opened before it. Weak, because repair holds the groups, and they their machines.
#[derive(Clone, Default)]
pub(crate) struct RepairSlot(Arc<OnceLock<Weak<Repair>>>);

impl RepairSlot {
    /// Takes note of repair. The first one counts.
    pub(crate) fn fill(&self, repair: &Arc<Repair>) {
        let _ = self.0.set(Arc::downgrade(repair));
    }

    /// Repair, if it runs.
    pub(crate) fn repair(&self) -> Option<Arc<Repair>> {
        self.0.get()?.upgrade()
    }
}

/// A shard's machine.
pub(crate) struct ShardAdapter {
    pub(crate) shard: GroupId,
    pub(crate) flushed: Arc<Flushed>,
    pub(crate) repair: RepairSlot,
}

impl Machine for ShardAdapter {
    fn level_max(&self) -> FeatureLevel {
        LEVEL_MAX
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let voters = |nodes: &BTreeSet<NodeId>| at.voters.majority(nodes);
        let at = At {
            index: at.index,
            voters: &voters,
            level: at.level,
        };
        ShardMachine
            .apply(at, command, state, local)
            .map_err(unknown)
    }

    fn flushed(&self, through: LogIndex) {
        self.flushed.0.fetch_max(through.0, Ordering::AcqRel);
        if let Some(repair) = self.repair.repair() {
            repair.wake();
        }
    }

    fn installed(&self, through: LogIndex, state: &dyn Reader, local: &mut dyn Writer) {
        local::reset(through, state, local);
        if let Some(repair) = self.repair.repair() {
            repair.state_replaced(self.shard);
        }
    }
}

/// The catalog's machine.
pub(crate) struct CatalogAdapter;

impl Machine for CatalogAdapter {
    fn level_max(&self) -> FeatureLevel {
        LEVEL_MAX
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        _local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let voters = |nodes: &BTreeSet<NodeId>| at.voters.majority(nodes);
        let at = At {
            index: at.index,
            voters: &voters,
            level: at.level,
        };
        CatalogMachine.apply(at, command, state).map_err(unknown)
    }
}

fn unknown(unknown: node_state::Unknown) -> UnknownCommand {
    UnknownCommand {
        index: unknown.index,
        what: unknown.what.to_owned(),
    }
}
