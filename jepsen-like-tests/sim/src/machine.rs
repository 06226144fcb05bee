//! The shard machine as the consensus host runs it.
//!
//! Owns the translation of log positions. Refuses to look for blocks: nothing here has any.

use std::collections::BTreeSet;

use bytes::Bytes;
use node_state::{At, ShardMachine, local};
use proto::ids::{FeatureLevel, LogIndex, NodeId};
use proto::store::{Reader, Writer};
use replica::machine::{Machine, Position, UnknownCommand};

/// A shard on a replica.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shard;

impl Machine for Shard {
    fn level_max(&self) -> FeatureLevel {
        FeatureLevel(1)
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
