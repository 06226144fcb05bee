//! What clients ask of a shard: puts with and without conditions, objects in blocks and in parts, deletes, epoch
//! advances.
//!
//! Owns the bytes of every request and the record of what became of it. Refuses to ask the same twice under two
//! request ids: a retry is the same request under its own id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use node_state::limits::EPOCHS_KEPT;
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{DatasetId, NodeId, ObjectVersionId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::shard_command::Command;

pub mod parts;

/// The one dataset.
pub const DATASET: DatasetId = DatasetId([0xD5; 16]);
const LEASE: [u8; 16] = [0x1E; 16];
const HOLDER: [u8; 32] = [0x40; 32];
/// No lease of the load expires: state time stays at the one reading every command carries.
const EXPIRES_AT_MS: u64 = 3_600_000;
const NOW_MS: u64 = 1000;

/// What a request is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An inline object.
    Put(ObjectVersionId),
    /// An object in two blocks that every node of the receipts holds.
    Finish(ObjectVersionId),
    /// An object in parts, completed once they are finished.
    Complete(ObjectVersionId),
    /// Removes the current version.
    Delete,
}

impl Kind {
    /// The version it makes.
    pub fn version(&self) -> Option<ObjectVersionId> {
        match self {
            Self::Put(version) | Self::Finish(version) | Self::Complete(version) => Some(*version),
            Self::Delete => None,
        }
    }
}

/// On what condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// None.
    Always,
    /// Only if there is no such object.
    Absent,
    /// Only if this is the current version.
    Is(ObjectVersionId),
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Sent; nobody knows.
    Unknown,
    /// Acknowledged.
    Done {
        /// Where in the log it took effect.
        index: u64,
        /// What it replaced or removed.
        replaced: Option<ObjectVersionId>,
    },
    /// Refused by the state, for good.
    Refused(v1::Refusal),
}

/// A request and what became of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// The object.
    pub key: String,
    /// What it is to do.
    pub kind: Kind,
    /// On what condition.
    pub condition: Condition,
    /// What is sent each time, but for the receipts.
    pub command: v1::ShardCommand,
    /// What became of it.
    pub outcome: Outcome,
    /// Times it was sent.
    pub sent: u32,
}

/// Every request of a run, by number. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<Request>>>);

impl History {
    /// Records a request about to be sent for the first time.
    pub fn add(&self, request: Request) -> usize {
        let mut requests = self.0.lock();
        requests.push(request);
        requests.len() - 1
    }

    /// Records that `number` is sent once more, and gives its bytes: with receipts of `signers`, where the object is
    /// in blocks.
    pub fn send(&self, number: usize, signers: &BTreeSet<NodeId>) -> Bytes {
        let mut requests = self.0.lock();
        requests[number].sent += 1;
        let mut command = requests[number].command.clone();
        if let Some(Command::FinishObject(finish)) = &mut command.command {
            finish.receipts = signers.iter().copied().map(receipt).collect();
        }
        command.encode_to_vec().into()
    }

    /// Records what became of `number`.
    pub fn settle(&self, number: usize, outcome: Outcome) {
        self.0.lock()[number].outcome = outcome;
    }

    /// One request.
    pub fn request(&self, number: usize) -> Request {
        self.0.lock()[number].clone()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Request> {
        self.0.lock().clone()
    }

    /// Per key, what a map would hold after the acknowledged requests in the order of their log indexes, or the two
    /// acknowledgements that contradict each other.
    pub fn replay(&self) -> Result<BTreeMap<String, ObjectVersionId>, crate::Broken> {
        let mut effects: Vec<(u64, Option<ObjectVersionId>, Request)> = self
            .all()
            .into_iter()
            .filter_map(|request| match request.outcome {
                Outcome::Done { index, replaced } => Some((index, replaced, request)),
                Outcome::Unknown | Outcome::Refused(_) => None,
            })
            .collect();
        effects.sort_by_key(|(index, ..)| *index);
        let mut held: BTreeMap<String, ObjectVersionId> = BTreeMap::new();
        let mut last = 0;
        for (index, replaced, request) in effects {
            let (key, id) = (&request.key, request.id);
            crate::hold!(
                index > last,
                "two requests took effect at index {index}: {id:?}"
            );
            last = index;
            let before = held.get(key).copied();
            let allowed = match request.condition {
                Condition::Always => true,
                Condition::Absent => before.is_none(),
                Condition::Is(version) => before == Some(version),
            };
            crate::hold!(
                allowed,
                "{id:?} on {key} at {index} was acknowledged against its condition {:?} with {before:?} there",
                request.condition
            );
            crate::hold!(
                replaced == before,
                "{id:?} on {key} at {index} replaced {replaced:?}, acknowledged before it was {before:?}"
            );
            match request.kind.version() {
                Some(version) => held.insert(key.clone(), version),
                None => {
                    crate::hold!(
                        before.is_some(),
                        "{id:?} at {index} deleted what was not there"
                    );
                    held.remove(key)
                }
            };
        }
        Ok(held)
    }
}

/// What the shard is given before any client comes.
pub fn founding() -> Vec<Bytes> {
    let dataset = v1::DatasetRecord {
        format: 1,
        dataset_id: DATASET.into(),
        name: "load".to_owned(),
        epoch: 1,
        status: v1::DatasetStatus::Active.into(),
        kek_id: Bytes::from_static(&[0x6B; 16]),
        min_kek_version: 1,
        key_state: v1::KeyState::Enabled.into(),
        key_state_version: 1,
        pseudonym: Bytes::from_static(&[0x9D; 16]),
        ..Default::default()
    };
    let token = v1::TokenRecord {
        token: Bytes::from_static(b"token"),
        holder: Bytes::copy_from_slice(&HOLDER),
        expires_at_ms: EXPIRES_AT_MS,
        kek_version: 1,
        dataset_id: DATASET.into(),
    };
    let register = v1::RegisterToken {
        lease_id: Bytes::copy_from_slice(&LEASE),
        token: Some(token),
    };
    let steps = [
        (Command::SetAuthority(v1::SetAuthority { version: 1 }), 0, 0),
        (
            Command::CreateDataset(v1::CreateDataset {
                dataset: Some(dataset),
            }),
            1,
            0,
        ),
        (Command::RegisterToken(register), 1, 1),
    ];
    steps
        .into_iter()
        .map(|(kind, authority, key_state)| command(Bytes::new(), authority, key_state, kind))
        .map(|command| command.encode_to_vec().into())
        .collect()
}

/// The advance from upload epoch `from`, while the window still holds every request id of the run.
pub fn advance(from: u64) -> Option<Bytes> {
    let kind = Command::AdvanceUploadEpoch(v1::AdvanceUploadEpoch { from });
    let advance = command(Bytes::new(), 1, 1, kind).encode_to_vec();
    (from + 1 < EPOCHS_KEPT).then(|| advance.into())
}

/// A request, not yet sent.
pub fn request(nonce: u64, epoch: u64, key: String, kind: Kind, condition: Condition) -> Request {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&nonce.to_be_bytes());
    let id = RequestId {
        epoch: UploadEpoch(epoch),
        nonce: bytes,
    };
    let precondition = match condition {
        Condition::Always => None,
        Condition::Absent => Some(v1::Precondition {
            if_none_match_any: true,
            ..Default::default()
        }),
        Condition::Is(version) => Some(v1::Precondition {
            if_match: version.into(),
            ..Default::default()
        }),
    };
    let holder = Bytes::copy_from_slice(&HOLDER);
    let asked = match kind {
        Kind::Put(version) => Command::PutObject(v1::PutObject {
            dataset_id: DATASET.into(),
            key: key.clone(),
            precondition,
            entry: Some(entry(version, false, epoch)),
            holder,
        }),
        Kind::Finish(version) => Command::FinishObject(v1::FinishObject {
            dataset_id: DATASET.into(),
            key: key.clone(),
            precondition,
            entry: Some(entry(version, true, epoch)),
            holder,
            receipts: Vec::new(),
        }),
        Kind::Complete(version) => {
            let entry = parts::entry(version);
            Command::CompleteUpload(v1::CompleteUpload {
                dataset_id: DATASET.into(),
                key: key.clone(),
                precondition,
                version_id: version.into(),
                parts: parts::named(version).map(|part| part.name()).to_vec(),
                sealed_manifest: entry.sealed_manifest,
                plain_bytes: entry.plain_bytes,
                sealed_bytes: entry.sealed_bytes,
                ..Default::default()
            })
        }
        Kind::Delete => Command::DeleteObject(v1::DeleteObject {
            dataset_id: DATASET.into(),
            key: key.clone(),
            precondition,
            ..Default::default()
        }),
    };
    let id_bytes = Bytes::copy_from_slice(&id.to_bytes());
    Request {
        id,
        key,
        kind,
        condition,
        command: command(id_bytes, 1, 1, asked),
        outcome: Outcome::Unknown,
        sent: 0,
    }
}

/// The entry a version was sent with: what must come back but for the two fields apply sets.
pub fn entry(version: ObjectVersionId, in_blocks: bool, epoch: u64) -> v1::ObjectEntry {
    let fill = |tag, length| fill(version, tag, length);
    let sealed = 20 + usize::from(version.0[15]) * 4;
    let plain = v1::ObjectEntry {
        format: 1,
        version_id: version.into(),
        lease_id: Bytes::copy_from_slice(&LEASE),
        dek_salt: fill(1, 32),
        name_salt: fill(2, 32),
        plain_bytes: 3,
        sealed_manifest: fill(3, 40),
        sealed_metadata: fill(4, 24),
        metadata_key_version: 1,
        placement: 1,
        ..Default::default()
    };
    if in_blocks {
        let block = |tag| v1::BlockRef {
            digest: fill(tag, 32),
            bytes: 50,
        };
        v1::ObjectEntry {
            blocks: vec![block(5), block(6)],
            sealed_bytes: 100,
            upload_epoch: epoch,
            ..plain
        }
    } else {
        v1::ObjectEntry {
            inline: fill(7, sealed),
            sealed_bytes: sealed as u64,
            ..plain
        }
    }
}

/// Every byte depends on the version, and lengths differ, so that no other entry passes for it.
fn fill(version: ObjectVersionId, tag: u8, length: usize) -> Bytes {
    let byte = |at: usize| version.0[at % 16] ^ tag ^ (at / 16) as u8;
    (0..length).map(byte).collect()
}

fn receipt(node: NodeId) -> v1::ReceiptClaim {
    v1::ReceiptClaim {
        node_id: node.0,
        begun_at_ms: NOW_MS,
        held: vec![v1::BlockRange { first: 0, count: 2 }],
    }
}

fn command(request_id: Bytes, authority: u64, key_state: u64, kind: Command) -> v1::ShardCommand {
    v1::ShardCommand {
        now_ms: NOW_MS,
        verdict: Some(v1::Verdict {
            authority_version: authority,
            key_state_version: key_state,
            dataset_epoch: 1,
        }),
        request_id,
        command: Some(kind),
    }
}

/// What an answer says, `None` if it is to be asked again with other receipts; an error is no answer of a shard or
/// one the load cannot lead to.
pub fn outcome(answer: &Bytes) -> Result<Option<Outcome>, crate::Broken> {
    use v1::shard_answer::Answer;
    let decoded = v1::ShardAnswer::decode(answer.clone());
    match decoded.map(|answer| answer.answer) {
        Ok(Some(Answer::Done(done))) => Ok(Some(Outcome::Done {
            index: done.log_index,
            replaced: ObjectVersionId::try_from(done.replaced_version_id.as_ref()).ok(),
        })),
        Ok(Some(Answer::Refused(refused))) => match refused.reason() {
            reason @ (v1::Refusal::PreconditionFailed | v1::Refusal::NoSuchObject) => {
                Ok(Some(Outcome::Refused(reason)))
            }
            v1::Refusal::NotOnMajority => Ok(None),
            reason => Err(crate::Broken(format!("refused for {reason:?}"))),
        },
        _ => Err(crate::Broken("an answer that is none".to_owned())),
    }
}
