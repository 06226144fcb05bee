//! Request ids: what each was used for, so that a retry has effect once.
//!
//! Owns the memory of them, what it is bound to and how long it lasts. Refuses: an id that served another request.

use prost::Message;
use proto::danger::{Switch, broken};
use proto::ids::UnixMs;
use proto::store::Writer;
use proto::v1::kms_command::Command;
use proto::v1::{KmsCommand, RequestMemory};
use tlog::{Field, Hash};

use crate::append::{Appended, Applying, Private, array};
use crate::layout;
use crate::read;
use crate::records::USABLE_MS;
use crate::refusal::Refusal;

/// Milliseconds of region time for which a change of a key is remembered. One replica's clock may move region time
/// by up to a minute, so the minute for which uses are remembered could pass while a client still tries.
pub const CHANGE_REMEMBERED_MS: u64 = 3_600_000;
const _: () = assert!(CHANGE_REMEMBERED_MS > USABLE_MS);

/// A request id, and what state holds of it.
pub(crate) struct Request {
    id: [u8; 16],
    hash: Hash,
    /// Whether or not it still counts.
    stored: Option<RequestMemory>,
}

impl Request {
    /// `hash` is of what the id is bound to.
    pub(crate) fn look(applying: &Applying<'_>, id: [u8; 16], hash: Hash) -> Self {
        let stored = read::request(&*applying.state, &id);
        Self { id, hash, stored }
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// As its leaf names it.
    pub(crate) fn hex(&self) -> String {
        hex::encode(self.id)
    }

    /// What the id was used for, if that is still remembered.
    pub(crate) fn known(&self, now: UnixMs) -> Result<Option<&RequestMemory>, Refusal> {
        let memory = self
            .stored
            .as_ref()
            .filter(|memory| queued_at(memory).0.saturating_add(USABLE_MS) > now.0)
            .filter(|_| !broken(Switch::RetryTwice));
        match memory {
            Some(memory) if memory.request_hash != self.hash.0.as_slice() => {
                Err(Refusal::RequestIdReused)
            }
            memory => Ok(memory),
        }
    }

    /// The memory of what a leaf says.
    pub(crate) fn memory_of(&self, leaf: &Appended, now: UnixMs) -> RequestMemory {
        RequestMemory {
            request_hash: bytes::Bytes::copy_from_slice(&self.hash.0),
            leaf_index: leaf.index.0,
            leaf_hash: bytes::Bytes::copy_from_slice(&leaf.hash.0),
            time_ms: now.0,
            ..RequestMemory::default()
        }
    }

    /// Remembers what the id was used for, and queues it to be forgotten.
    pub(crate) fn remember(&self, state: &mut dyn Writer, memory: &RequestMemory) {
        self.put(state, memory);
        state.put(&layout::request_queue(queued_at(memory), &self.id), &[]);
    }

    /// Remembers what the id was used for; [`queue`] is to follow.
    pub(crate) fn put(&self, state: &mut dyn Writer, memory: &RequestMemory) {
        if let Some(old) = &self.stored {
            self.leave_queue(state, old);
        }
        state.put(&layout::request(&self.id), &memory.encode_to_vec());
    }

    /// A forgotten id may still stand in the queue, and must not take the new memory with it.
    fn leave_queue(&self, state: &mut dyn Writer, old: &RequestMemory) {
        let shared = layout::request_queue_of_leaf(queued_at(old), old.leaf_index);
        let Some(ids) = state.value(&shared) else {
            state.delete(&layout::request_queue(queued_at(old), &self.id));
            return;
        };
        let others: Vec<u8> = ids
            .chunks(self.id.len())
            .filter(|id| *id != self.id)
            .flatten()
            .copied()
            .collect();
        match others.is_empty() {
            true => state.delete(&shared),
            false => state.put(&shared, &others),
        }
    }
}

/// Queues the ids of one leaf to be forgotten together: a queue costs as much for each of its rows as the memory itself.
pub(crate) fn queue(state: &mut dyn Writer, at: UnixMs, leaf: &Appended, ids: &[[u8; 16]]) {
    let key = layout::request_queue_of_leaf(at, leaf.index.0);
    state.put(&key, ids.as_flattened());
}

/// Where in the queue a memory stands: [`USABLE_MS`] before it is forgotten.
pub(crate) fn queued_at(memory: &RequestMemory) -> UnixMs {
    UnixMs(memory.time_ms.saturating_add(memory.kept_ms))
}

/// The request of a change of a key, by which a retry is known.
pub(crate) struct ChangeRequest(Request);

impl ChangeRequest {
    /// `bound` is the change without what the leader adds anew for each attempt. None where it has no id: entries
    /// from before changes had any.
    pub(crate) fn of(
        applying: &Applying<'_>,
        id: &[u8],
        bound: Command,
    ) -> Result<Option<Self>, Refusal> {
        if id.is_empty() {
            return Ok(None);
        }
        let id = array::<16>(id).ok_or(Refusal::Malformed("request id"))?;
        let bound = KmsCommand {
            requester: applying.command.requester.clone(),
            command: Some(bound),
            ..KmsCommand::default()
        };
        let hash = tlog::sha256(&[b"reduit/v1/kms-key-change\n", &bound.encode_to_vec()]);
        Ok(Some(Self(Request::look(applying, id, hash))))
    }

    pub(crate) fn known(&self, now: UnixMs) -> Result<Option<&RequestMemory>, Refusal> {
        self.0.known(now)
    }

    /// Names the request in its leaf.
    pub(crate) fn name_in(&self, private: &mut Private) {
        private.fields.insert(Field::RequestId, self.0.hex());
    }

    pub(crate) fn remember(&self, applying: &mut Applying<'_>, leaf: &Appended) {
        let memory = RequestMemory {
            kept_ms: CHANGE_REMEMBERED_MS - USABLE_MS,
            ..self.0.memory_of(leaf, applying.now)
        };
        self.0.remember(applying.state, &memory);
    }
}
