//! A shard as the block side of the node sees it: its state, and what this replica keeps for itself beside it.
//!
//! Owns the reads of the state's tables that concern blocks. Refuses to write the replicated state: only apply does.
//! Every call here may wait for the disk.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use node_state::keys::{self, table};
use node_state::{ShardMeta, local};
use prost::Message as _;
use proto::ids::{DatasetId, GroupId, LeaseId, LogIndex, NodeId, ObjectVersionId, UploadEpoch};
use proto::store::{Reader, Writer};
use proto::v1;
use replica::state::View;

use crate::blocks::{BlockDigest, BlockKey, BlockNumber};

/// The replica cannot answer: it has stopped, or its state store has failed.
#[derive(Debug, thiserror::Error)]
#[error("the shard's replica cannot answer")]
pub struct ReplicaError(#[source] pub Box<dyn Error + Send + Sync>);

/// This node's replica of one shard.
pub trait ShardReplica: Send + Sync + 'static {
    /// Which shard.
    fn shard(&self) -> GroupId;

    /// A consistent view of everything applied. *Blocks.*
    fn view(&self) -> Result<View, ReplicaError>;

    /// Changes keys of this replica alone; `write` sees them as they are now, not as in an earlier view. Durable
    /// with the next flush, in one order with what apply writes. *Blocks.*
    fn local_write(&self, write: &mut dyn FnMut(&mut dyn Writer)) -> Result<(), ReplicaError>;

    /// The highest log index whose effects survive a power cut.
    fn flushed(&self) -> Option<LogIndex>;

    /// The members that hold the shard's blocks, this node included.
    fn replicas(&self) -> Vec<NodeId>;
}

/// The shards of this node.
pub trait Shards: Send + Sync + 'static {
    /// This node's replica of a shard, if it has one.
    fn shard(&self, shard: GroupId) -> Option<Arc<dyn ShardReplica>>;

    /// Every shard this node has a replica of.
    fn all(&self) -> Vec<Arc<dyn ShardReplica>>;
}

/// A version or part that the state refers to, and its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Referenced {
    pub(crate) dataset: DatasetId,
    pub(crate) upload_epoch: UploadEpoch,
    pub(crate) finished: LogIndex,
    pub(crate) blocks: Vec<(BlockDigest, u32)>,
}

impl Referenced {
    pub(crate) fn block(&self, number: BlockNumber) -> Option<(BlockDigest, u32)> {
        self.blocks.get(usize::try_from(number.0).ok()?).copied()
    }
}

/// The shard's upload epoch.
pub(crate) fn upload_epoch(state: &dyn Reader) -> UploadEpoch {
    ShardMeta::load(state).upload_epoch
}

/// Who holds a lease, as SHA-256 of its public key, if the shard has its token.
pub(crate) fn lease_holder(
    state: &dyn Reader,
    dataset: &DatasetId,
    lease: &LeaseId,
) -> Option<Bytes> {
    let record = state.value(&keys::token(table::TOKEN, dataset, lease))?;
    v1::TokenRecord::decode(record)
        .ok()
        .map(|token| token.holder)
}

/// Whether the state refers to a version, blocks or not.
pub(crate) fn is_referenced(state: &dyn Reader, version: &ObjectVersionId) -> bool {
    state
        .value(&keys::version(table::VERSION, version))
        .is_some()
}

/// Whether an id is an object version's, as far as is applied here.
pub(crate) fn is_object(state: &dyn Reader, version: &ObjectVersionId) -> bool {
    let at = state.value(&keys::version(table::VERSION, version));
    let at = at.and_then(|at| v1::VersionRecord::decode(at).ok());
    at.is_some_and(|at| at.kind() == v1::VersionKind::Object)
}

/// Whether a version was freed and stands in the garbage table.
pub(crate) fn is_freed(state: &dyn Reader, version: &ObjectVersionId) -> bool {
    state.value(&keys::version(table::FREED, version)).is_some()
}

/// A version and its blocks, if the state refers to it.
pub(crate) fn referenced(state: &dyn Reader, version: &ObjectVersionId) -> Option<Referenced> {
    let at = state.value(&keys::version(table::VERSION, version))?;
    let at = v1::VersionRecord::decode(at).ok()?;
    let blocks = match at.blocks {
        0 => Vec::new(),
        _ => {
            let body = state.value(&keys::version(table::BODY, version))?;
            let body = v1::ObjectEntry::decode(body).ok()?;
            let block = |block: &v1::BlockRef| {
                BlockDigest::try_from(block.digest.as_ref())
                    .ok()
                    .map(|digest| (digest, block.bytes))
            };
            body.blocks.iter().map(block).collect::<Option<_>>()?
        }
    };
    Some(Referenced {
        dataset: DatasetId::try_from(at.dataset_id.as_ref()).ok()?,
        upload_epoch: UploadEpoch(at.upload_epoch),
        finished: LogIndex(at.finished_index),
        blocks,
    })
}

/// Up to `limit` versions with blocks after `after`, and whether there may be more.
pub(crate) fn versions_with_blocks(
    state: &dyn Reader,
    after: Option<ObjectVersionId>,
    limit: usize,
) -> (Vec<ObjectVersionId>, Option<ObjectVersionId>) {
    let (start, end) = keys::range(table::VERSION, &[]);
    let start = match after {
        // The first key after the id's own.
        Some(id) => [keys::version(table::VERSION, &id), vec![0]].concat(),
        None => start,
    };
    let (mut found, mut seen, mut last) = (Vec::new(), 0, None);
    state.scan(&start, &end, &mut |key, value| {
        if let Ok(id) = ObjectVersionId::try_from(&key[1..]) {
            last = Some(id);
            if v1::VersionRecord::decode(value).is_ok_and(|at| at.blocks > 0) {
                found.push(id);
            }
        }
        seen += 1;
        seen < limit
    });
    (found, if seen < limit { None } else { last })
}

/// Up to `limit` versions freed at epochs in `from..to`, oldest first.
pub(crate) fn garbage(
    state: &dyn Reader,
    from: (UploadEpoch, Option<ObjectVersionId>),
    to: UploadEpoch,
    limit: usize,
) -> Vec<(UploadEpoch, ObjectVersionId)> {
    let start = match from {
        (epoch, Some(id)) => [keys::garbage(epoch, &id), vec![0]].concat(),
        (epoch, None) => keys::epoch_start(table::GARBAGE, epoch),
    };
    let mut found = Vec::new();
    state.scan(
        &start,
        &keys::epoch_start(table::GARBAGE, to),
        &mut |key, _| {
            found.extend(keys::garbage_parts(key));
            found.len() < limit
        },
    );
    found
}

/// Up to `limit` references nobody compared with the disk yet, oldest first.
pub(crate) fn fresh(local: &dyn Reader, limit: usize) -> Vec<(LogIndex, ObjectVersionId)> {
    let mut found = Vec::new();
    local.scan(&[local::FRESH], &[local::FRESH + 1], &mut |key, _| {
        found.extend(local::fresh_parts(key));
        found.len() < limit
    });
    found
}

/// Up to `limit` blocks known to be missing, after `after`, in order of key.
pub(crate) fn missing(local: &dyn Reader, after: Option<BlockKey>, limit: usize) -> Vec<BlockKey> {
    let start = match after {
        Some(key) => [local::missing(&key.version, key.number.0), vec![0]].concat(),
        None => vec![local::MISSING],
    };
    let mut found = Vec::new();
    local.scan(&start, &[local::MISSING + 1], &mut |key, _| {
        found.extend(local::missing_parts(key).map(|(version, number)| BlockKey {
            version,
            number: BlockNumber(number),
        }));
        found.len() < limit
    });
    found
}
