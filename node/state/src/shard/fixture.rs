//! A shard in memory and the commands to put to it.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{
    DatasetId, FeatureLevel, LogIndex, NodeId, ObjectVersionId, RequestId, UploadEpoch,
};
use proto::store::MemoryStore;
use proto::v1;
use proto::v1::shard_command::Command;

use super::ShardMachine;
use crate::at::{At, Unknown};
use crate::record::ShardMeta;
use crate::{invariants, limits};

pub(crate) mod parts;
pub(crate) mod regions;

pub(crate) const DATASET: DatasetId = DatasetId([0xD5; 16]);
pub(crate) const LEASE: [u8; 16] = [0x1E; 16];
pub(crate) const HOLDER: [u8; 32] = [0x40; 32];
pub(crate) const EXPIRY_MS: u64 = 3_600_000;

/// A shard with one dataset, a token, and three voters. Checks every invariant after every command.
#[derive(Clone)]
pub(crate) struct Shard {
    pub(crate) state: MemoryStore,
    pub(crate) local: MemoryStore,
    pub(crate) index: u64,
    pub(crate) now_ms: u64,
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) log: Vec<Bytes>,
    pub(crate) level: FeatureLevel,
    nonce: u64,
}

impl Shard {
    pub(crate) fn empty() -> Self {
        Self {
            state: MemoryStore::default(),
            local: MemoryStore::default(),
            index: 0,
            now_ms: 1000,
            voters: vec![BTreeSet::from([1, 2, 3])],
            log: Vec::new(),
            level: FeatureLevel(0),
            nonce: 0,
        }
    }

    pub(crate) fn new() -> Self {
        let mut shard = Self::empty();
        done(shard.run(Command::SetAuthority(v1::SetAuthority { version: 1 })));
        done(shard.run(create(DATASET, "cti")));
        done(shard.run(register(LEASE, HOLDER)));
        shard
    }

    pub(crate) fn meta(&self) -> ShardMeta {
        ShardMeta::load(&self.state)
    }

    pub(crate) fn dataset(&self) -> v1::DatasetRecord {
        crate::read::dataset(&self.state, &DATASET).expect("the fixture has it")
    }

    /// The verdict a leader would give now.
    pub(crate) fn verdict(&self) -> v1::Verdict {
        let dataset = crate::read::dataset(&self.state, &DATASET);
        v1::Verdict {
            authority_version: self.meta().authority_version,
            key_state_version: dataset
                .as_ref()
                .map_or(0, |dataset| dataset.key_state_version),
            dataset_epoch: dataset.map_or(0, |dataset| dataset.epoch),
        }
    }

    pub(crate) fn fresh_id(&mut self) -> RequestId {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
        let dataset = crate::read::dataset(&self.state, &DATASET);
        let offset = dataset.map_or(0, |dataset| dataset.request_offset);
        RequestId {
            epoch: UploadEpoch(self.meta().upload_epoch.0 + offset),
            nonce,
        }
    }

    /// As a leader would propose it, under a request id of its own where one is needed.
    pub(crate) fn run(&mut self, kind: Command) -> v1::ShardAnswer {
        let command = self.command(kind);
        self.apply(command)
    }

    pub(crate) fn command(&mut self, kind: Command) -> v1::ShardCommand {
        let needs_id = matches!(
            kind,
            Command::PutObject(_)
                | Command::FinishObject(_)
                | Command::DeleteObject(_)
                | Command::CreateUpload(_)
                | Command::FinishPart(_)
                | Command::CompleteUpload(_)
                | Command::AbortUpload(_)
                | Command::SetRetention(_)
                | Command::SetLegalHold(_)
                | Command::SetMetadata(_)
        );
        let request_id = match needs_id {
            true => Bytes::copy_from_slice(&self.fresh_id().to_bytes()),
            false => Bytes::new(),
        };
        v1::ShardCommand {
            now_ms: self.now_ms,
            verdict: Some(self.verdict()),
            request_id,
            command: Some(kind),
        }
    }

    pub(crate) fn apply(&mut self, command: v1::ShardCommand) -> v1::ShardAnswer {
        let answer = self
            .apply_bytes(command.encode_to_vec().into())
            .expect("a known command");
        v1::ShardAnswer::decode(answer).expect("an answer")
    }

    pub(crate) fn apply_bytes(&mut self, command: Bytes) -> Result<Bytes, Unknown> {
        self.index += 1;
        self.log.push(command.clone());
        let configs = self.voters.clone();
        let voters = move |nodes: &BTreeSet<NodeId>| {
            configs.iter().all(|config| {
                config
                    .iter()
                    .filter(|node| nodes.contains(&NodeId(**node)))
                    .count()
                    * 2
                    > config.len()
            })
        };
        let at = At {
            index: LogIndex(self.index),
            voters: &voters,
            level: self.level,
        };
        let answer = ShardMachine.apply(at, &command, &mut self.state, &mut self.local)?;
        if let Err(violation) = invariants::shard(&self.state) {
            panic!(
                "{violation}, after command {} of {:?}",
                self.index, self.log
            );
        }
        Ok(answer)
    }

    pub(crate) fn advance_epoch(&mut self) {
        let from = self.meta().upload_epoch.0;
        done(self.run(Command::AdvanceUploadEpoch(v1::AdvanceUploadEpoch { from })));
    }

    pub(crate) fn advance_epochs(&mut self, by: u64) {
        for _ in 0..by {
            self.advance_epoch();
        }
    }

    pub(crate) fn sweep_all(&mut self) {
        for _ in 0..1000 {
            let answer = self.run(Command::Sweep(v1::Sweep {
                steps: limits::SWEEP_STEPS_MAX,
            }));
            if !done(answer).more {
                return;
            }
        }
        panic!("the sweep does not end");
    }

    pub(crate) fn current_id(&self, key: &str) -> Option<ObjectVersionId> {
        crate::read::head(&self.state, &DATASET, key, None)
            .filter(|entry| !entry.delete_marker)
            .map(|entry| ObjectVersionId::try_from(entry.version_id.as_ref()).expect("an id"))
    }
}

pub(crate) fn create(id: DatasetId, name: &str) -> Command {
    Command::CreateDataset(v1::CreateDataset {
        dataset: Some(v1::DatasetRecord {
            format: 1,
            dataset_id: id.into(),
            name: name.to_owned(),
            epoch: 1,
            status: v1::DatasetStatus::Active.into(),
            kek_id: Bytes::from_static(&[0x6B; 16]),
            min_kek_version: 1,
            key_state: v1::KeyState::Enabled.into(),
            key_state_version: 1,
            pseudonym: Bytes::from_static(&[0x9D; 16]),
            ..Default::default()
        }),
    })
}

pub(crate) fn token(holder: [u8; 32], kek_version: u32, expires_at_ms: u64) -> v1::TokenRecord {
    v1::TokenRecord {
        token: Bytes::from_static(b"token"),
        holder: Bytes::copy_from_slice(&holder),
        expires_at_ms,
        kek_version,
        dataset_id: DATASET.into(),
    }
}

pub(crate) fn register(lease: [u8; 16], holder: [u8; 32]) -> Command {
    Command::RegisterToken(v1::RegisterToken {
        lease_id: Bytes::copy_from_slice(&lease),
        token: Some(token(holder, 1, EXPIRY_MS)),
    })
}

pub(crate) fn version(n: u64) -> ObjectVersionId {
    let mut id = [0xAB; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    ObjectVersionId(id)
}

pub(crate) fn entry(id: ObjectVersionId) -> v1::ObjectEntry {
    v1::ObjectEntry {
        format: 1,
        version_id: id.into(),
        lease_id: Bytes::copy_from_slice(&LEASE),
        dek_salt: Bytes::from_static(&[1; 32]),
        name_salt: Bytes::from_static(&[2; 32]),
        plain_bytes: 3,
        sealed_manifest: Bytes::from_static(b"manifest"),
        sealed_metadata: Bytes::from_static(b"metadata"),
        metadata_key_version: 1,
        placement: 1,
        ..Default::default()
    }
}

pub(crate) fn put(key: &str, id: ObjectVersionId) -> v1::PutObject {
    v1::PutObject {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: None,
        entry: Some(v1::ObjectEntry {
            inline: Bytes::from_static(b"sealed stream"),
            sealed_bytes: 13,
            ..entry(id)
        }),
        holder: Bytes::copy_from_slice(&HOLDER),
    }
}

/// An object of two blocks, held by the nodes given.
pub(crate) fn finish(key: &str, id: ObjectVersionId, nodes: &[u64]) -> v1::FinishObject {
    let block = v1::BlockRef {
        digest: Bytes::from_static(&[3; 32]),
        bytes: 50,
    };
    v1::FinishObject {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: None,
        entry: Some(v1::ObjectEntry {
            blocks: vec![block.clone(), block],
            sealed_bytes: 100,
            ..entry(id)
        }),
        holder: Bytes::copy_from_slice(&HOLDER),
        receipts: nodes.iter().map(|node| receipt(*node, &[(0, 2)])).collect(),
    }
}

pub(crate) fn finish_at(
    key: &str,
    id: ObjectVersionId,
    nodes: &[u64],
    epoch: UploadEpoch,
) -> v1::FinishObject {
    let mut finish = finish(key, id, nodes);
    finish.entry.as_mut().expect("it has one").upload_epoch = epoch.0;
    finish
}

pub(crate) fn receipt(node_id: u64, ranges: &[(u32, u32)]) -> v1::ReceiptClaim {
    v1::ReceiptClaim {
        node_id,
        begun_at_ms: 1000,
        held: ranges
            .iter()
            .map(|&(first, count)| v1::BlockRange { first, count })
            .collect(),
    }
}

/// Other metadata in place of `from`.
pub(crate) fn set_metadata(key: &str, id: ObjectVersionId, from: &[u8], to: &[u8]) -> Command {
    Command::SetMetadata(v1::SetMetadata {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: id.into(),
        from_digest: Bytes::copy_from_slice(blake3::hash(from).as_bytes()),
        sealed_metadata: Bytes::copy_from_slice(to),
        metadata_key_version: 1,
    })
}

pub(crate) fn delete(key: &str) -> v1::DeleteObject {
    v1::DeleteObject {
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn delete_version(key: &str, id: ObjectVersionId) -> v1::DeleteObject {
    v1::DeleteObject {
        version_id: id.into(),
        ..delete(key)
    }
}

pub(crate) fn delete_with_marker(key: &str, marker: ObjectVersionId) -> v1::DeleteObject {
    v1::DeleteObject {
        new_marker_id: marker.into(),
        ..delete(key)
    }
}

pub(crate) fn done(answer: v1::ShardAnswer) -> v1::Done {
    match answer.answer {
        Some(v1::shard_answer::Answer::Done(done)) => done,
        other => panic!("not done: {other:?}"),
    }
}

pub(crate) fn refused(answer: v1::ShardAnswer) -> v1::Refused {
    match answer.answer {
        Some(v1::shard_answer::Answer::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn reason(answer: v1::ShardAnswer) -> v1::Refusal {
    refused(answer).reason()
}

/// The bytes of commands as they stand in a log, hashed: a change of any is a change of the format.
pub(crate) fn hashes(kinds: Vec<Command>) -> Vec<String> {
    let hash = |kind| {
        let only = v1::ShardCommand {
            command: Some(kind),
            ..Default::default()
        };
        blake3::hash(&only.encode_to_vec()).to_hex()[..16].to_owned()
    };
    kinds.into_iter().map(hash).collect()
}
