//! A shard's replica in memory, for the tests of repair and upload.
//!
//! Its epochs are advanced by the real machine; versions are written by hand in node-state's own records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use node_state::keys::{self, table};
use node_state::{At, ShardMachine, local};
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{
    DatasetId, FeatureLevel, GroupId, LogIndex, NodeId, ObjectVersionId, UploadEpoch,
};
use proto::store::{MemoryStore, Writer};
use proto::v1;
use replica::state::{Applied, View};

use super::shard::upload_epoch;
use super::{ReplicaError, ShardReplica, Shards};
use crate::blocks::BlockDigest;

pub(crate) const SHARD: GroupId = GroupId(16);
pub(crate) const DATASET: DatasetId = DatasetId([0xD5; 16]);
pub(crate) const ME: NodeId = NodeId(1);

/// A replica whose state is written by hand, in node-state's own records, and flushed when told.
pub(crate) struct Replica {
    pub(crate) state: Mutex<MemoryStore>,
    pub(crate) local: Mutex<MemoryStore>,
    applied: AtomicU64,
    flushed: AtomicU64,
}

impl Replica {
    pub(crate) fn new() -> Arc<Self> {
        let (applied, flushed) = (AtomicU64::new(1), AtomicU64::new(1));
        Arc::new(Self {
            state: Mutex::default(),
            local: Mutex::default(),
            applied,
            flushed,
        })
    }

    pub(crate) fn apply(
        &self,
        change: impl FnOnce(u64, &mut MemoryStore, &mut MemoryStore),
    ) -> LogIndex {
        let index = self.applied.fetch_add(1, Ordering::SeqCst) + 1;
        change(index, &mut self.state.lock(), &mut self.local.lock());
        LogIndex(index)
    }

    pub(crate) fn flush(&self) {
        self.flushed
            .store(self.applied.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        loop {
            let from = upload_epoch(&*self.state.lock());
            if from == UploadEpoch(epoch) {
                return;
            }
            assert!(from < UploadEpoch(epoch), "epochs only go up");
            let advance = v1::AdvanceUploadEpoch { from: from.0 };
            let command = v1::ShardCommand {
                command: Some(v1::shard_command::Command::AdvanceUploadEpoch(advance)),
                ..Default::default()
            };
            let command = Bytes::from(command.encode_to_vec());
            self.apply(|index, state, local| {
                let at = At {
                    index: LogIndex(index),
                    voters: &|_: &_| true,
                    level: FeatureLevel(0),
                };
                ShardMachine
                    .apply(at, &command, state, local)
                    .expect("a known command");
            });
        }
    }

    pub(crate) fn finish(
        &self,
        version: ObjectVersionId,
        epoch: u64,
        blocks: &[Vec<u8>],
    ) -> LogIndex {
        self.apply(|index, state, local| {
            let record = v1::VersionRecord {
                dataset_id: DATASET.into(),
                key: "k".to_owned(),
                finished_index: index,
                blocks: u32::try_from(blocks.len()).expect("few"),
                upload_epoch: epoch,
                ..Default::default()
            };
            let refs = blocks.iter().map(|data| v1::BlockRef {
                digest: Bytes::copy_from_slice(&digest(data).0),
                bytes: u32::try_from(data.len()).expect("small"),
            });
            let body = v1::ObjectEntry {
                blocks: refs.collect(),
                ..Default::default()
            };
            state.put(
                &keys::version(table::VERSION, &version),
                &record.encode_to_vec(),
            );
            state.put(&keys::version(table::BODY, &version), &body.encode_to_vec());
            local.put(&local::fresh(LogIndex(index), &version), &[]);
        })
    }

    pub(crate) fn free(&self, version: ObjectVersionId, epoch: u64) {
        self.apply(|_, state, _| {
            state.delete(&keys::version(table::VERSION, &version));
            state.delete(&keys::version(table::BODY, &version));
            state.put(&keys::garbage(UploadEpoch(epoch), &version), &[]);
            state.put(&keys::version(table::FREED, &version), &epoch.to_be_bytes());
        });
    }
}

impl ShardReplica for Replica {
    fn shard(&self) -> GroupId {
        SHARD
    }

    fn view(&self) -> Result<View, ReplicaError> {
        let index = LogIndex(self.applied.load(Ordering::SeqCst));
        Ok(View {
            state: Box::new(self.state.lock().clone()),
            local: Box::new(self.local.lock().clone()),
            applied: Some(Applied {
                index,
                note: Bytes::new(),
            }),
        })
    }

    fn local_write(&self, write: &mut dyn FnMut(&mut dyn Writer)) -> Result<(), ReplicaError> {
        write(&mut *self.local.lock());
        Ok(())
    }

    fn flushed(&self) -> Option<LogIndex> {
        Some(LogIndex(self.flushed.load(Ordering::SeqCst)))
    }

    fn replicas(&self) -> Vec<NodeId> {
        vec![ME, NodeId(2), NodeId(3)]
    }
}

pub(crate) struct OneShard(pub(crate) Arc<Replica>);

impl Shards for OneShard {
    fn shard(&self, shard: GroupId) -> Option<Arc<dyn ShardReplica>> {
        (shard == SHARD).then(|| Arc::clone(&self.0) as _)
    }

    fn all(&self) -> Vec<Arc<dyn ShardReplica>> {
        vec![Arc::clone(&self.0) as _]
    }
}

pub(crate) fn digest(data: &[u8]) -> BlockDigest {
    BlockDigest(*blake3::hash(data).as_bytes())
}
