//! Bringing this replica's tables of fresh and missing references in line with the blocks on its disk.
//!
//! Owns every step from "referenced" to "held" or "missing". Refuses to forget: a fresh reference goes only in the
//! batch that says what became of it, and a missing block only once it is durable here or nothing refers to it.

use node_state::local;
use proto::ids::{LogIndex, ObjectVersionId};
use proto::store::Writer;

use super::shard::{self, ReplicaError, ShardReplica};
use crate::blocks::{BlockKey, BlockNumber, BlockStore};

/// Fresh references resolved in one batch.
const STEP_FRESH: usize = 256;
/// Versions compared with the disk in one step after a start.
const STEP_VERSIONS: usize = 256;

/// How far the comparison of all references with the disk has come, after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reconciled {
    /// Not begun.
    #[default]
    No,
    /// Up to this version.
    Through(ObjectVersionId),
    /// All of them.
    Whole,
}

/// Turns fresh references into held or missing ones. Answers how many were fresh; 0 when there is nothing left.
/// *Blocks.*
pub(crate) fn resolve_fresh(
    replica: &dyn ShardReplica,
    store: &BlockStore,
) -> Result<usize, ReplicaError> {
    let view = replica.view()?;
    let fresh = shard::fresh(view.local.as_ref(), STEP_FRESH);
    let mut missing = Vec::new();
    for (index, version) in &fresh {
        // Gone since: apply has taken its keys back, or is about to.
        let Some(entry) = shard::referenced(view.state.as_ref(), version) else {
            continue;
        };
        store.settle(*version, true);
        missing.extend(not_held(store, *version, &entry).map(|key| (key, *index)));
    }
    if !fresh.is_empty() {
        replica.local_write(&mut |local| {
            for (index, version) in &fresh {
                local.delete(&local::fresh(*index, version));
            }
            put_missing(local, &missing);
        })?;
    }
    note_missing(missing.len());
    Ok(fresh.len())
}

/// Compares a step's worth of all references with the disk: what a damaged header or a lost file took has no name
/// but in the state. *Blocks.*
pub(crate) fn reconcile(
    replica: &dyn ShardReplica,
    store: &BlockStore,
    so_far: Reconciled,
) -> Result<Reconciled, ReplicaError> {
    let after = match so_far {
        Reconciled::No => None,
        Reconciled::Through(version) => Some(version),
        Reconciled::Whole => return Ok(so_far),
    };
    let view = replica.view()?;
    let (versions, next) = shard::versions_with_blocks(view.state.as_ref(), after, STEP_VERSIONS);
    let mut missing = Vec::new();
    for version in versions {
        let Some(entry) = shard::referenced(view.state.as_ref(), &version) else {
            continue;
        };
        store.settle(version, true);
        let known = |key: &BlockKey| {
            view.local
                .value(&local::missing(&key.version, key.number.0))
                .is_some()
        };
        let lost = not_held(store, version, &entry).filter(|key| !known(key));
        missing.extend(lost.map(|key| (key, entry.finished)));
    }
    if !missing.is_empty() {
        replica.local_write(&mut |local| put_missing(local, &missing))?;
    }
    note_missing(missing.len());
    Ok(next.map_or(Reconciled::Whole, Reconciled::Through))
}

/// Notes damaged blocks that the shard refers to as missing. *Blocks.*
pub(crate) fn note_damaged(
    replica: &dyn ShardReplica,
    store: &BlockStore,
) -> Result<usize, ReplicaError> {
    let damaged = store.damaged();
    let mut here = damaged
        .iter()
        .filter(|held| held.shard == replica.shard())
        .peekable();
    if here.peek().is_none() {
        return Ok(0);
    }
    let view = replica.view()?;
    let mut missing = Vec::new();
    for held in here {
        let key = held.key;
        if view
            .local
            .value(&local::missing(&key.version, key.number.0))
            .is_some()
        {
            continue;
        }
        if let Some(entry) = shard::referenced(view.state.as_ref(), &key.version)
            && entry.block(key.number).is_some()
        {
            missing.push((key, entry.finished));
        }
    }
    if !missing.is_empty() {
        replica.local_write(&mut |local| put_missing(local, &missing))?;
    }
    note_missing(missing.len());
    Ok(missing.len())
}

/// Takes blocks off the table of missing ones. *Blocks.*
pub(crate) fn clear_missing(
    replica: &dyn ShardReplica,
    found: &[BlockKey],
) -> Result<(), ReplicaError> {
    if found.is_empty() {
        return Ok(());
    }
    replica.local_write(&mut |local| {
        for key in found {
            local.delete(&local::missing(&key.version, key.number.0));
        }
    })
}

fn not_held<'a>(
    store: &'a BlockStore,
    version: ObjectVersionId,
    entry: &'a shard::Referenced,
) -> impl Iterator<Item = BlockKey> + 'a {
    (0u32..)
        .zip(&entry.blocks)
        .filter_map(move |(number, (digest, _))| {
            let key = BlockKey {
                version,
                number: BlockNumber(number),
            };
            (!store.holds(&key, digest)).then_some(key)
        })
}

fn put_missing(local: &mut dyn Writer, missing: &[(BlockKey, LogIndex)]) {
    for (key, index) in missing {
        local.put(
            &local::missing(&key.version, key.number.0),
            &index.0.to_be_bytes(),
        );
    }
}

fn note_missing(count: usize) {
    if count > 0 {
        metrics::counter!("reduit_blocks_missing_found_total").increment(count as u64);
    }
}
