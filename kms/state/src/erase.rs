//! Erasing keys that were ended: what replicas still have to erase from their files, and which have said that they did.
//!
//! Owns the record of it, and the leaf of each replica's word. Refuses the word of anybody but an enrolled replica, and
//! one of an end that is not the last: what was ended since may still be there. How a replica erases is the driver's.

use prost::Message as _;
use proto::ids::{Identity, LeafIndex, LogIndex, NodeId, Role};
use proto::store::{Reader, Writer};
use proto::v1::{ConfirmErased, EraseRecord, ErasedReplica, KekRecord, KmsDone};
use serde::Serialize;
use tlog::{Kind, Purpose};

use crate::append::{Applying, details};
use crate::apply::{At, LEVEL_ACCESS_KEYS, LEVEL_ERASE, Stop};
use crate::authority::Authority;
use crate::keys::of_replica;
use crate::layout;
use crate::refusal::Refusal;

/// What a replica has to erase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EraseDue {
    /// The entry that ended the last key, and every one before it.
    pub index: LogIndex,
    /// Its leaf, by which a replica says that it has erased them.
    pub leaf: LeafIndex,
}

#[derive(Serialize)]
struct ErasedDetails {
    node_id: u64,
    through_leaf: u64,
    /// Replicas that have not said so.
    waiting_for: Vec<String>,
}

fn stored(state: &dyn Reader) -> Option<EraseRecord> {
    let bytes = state.value(layout::ERASE)?;
    Some(EraseRecord::decode(bytes).expect("state holds what this machine wrote"))
}

/// What replicas have to erase; `None` while no key was ended since [`LEVEL_ERASE`].
pub fn erase_due(state: &dyn Reader) -> Option<EraseDue> {
    let record = stored(state)?;
    Some(EraseDue {
        index: LogIndex(record.ended_index),
        leaf: LeafIndex(record.ended_leaf),
    })
}

/// Through which leaf's end a replica has said that it erased what was ended; 0 before it said anything.
pub fn erased_through(state: &dyn Reader, node: NodeId) -> LeafIndex {
    stored(state).map_or(LeafIndex(0), |record| through(&record, node))
}

fn through(record: &EraseRecord, node: NodeId) -> LeafIndex {
    let mut replicas = record.replicas.iter();
    let said = replicas.find(|replica| replica.node_id == node.0);
    LeafIndex(said.map_or(0, |replica| replica.through_leaf))
}

/// Replicas that have not said that they erased what was last ended of a key; none where nothing was, since
/// [`LEVEL_ERASE`].
pub fn not_erased(state: &dyn Reader, key: &KekRecord) -> Vec<Identity> {
    let (Some(record), Some(authority)) = (stored(state), Authority::load(state)) else {
        return Vec::new();
    };
    waiting(&record, &authority, LeafIndex(key.ended_leaf))
}

fn waiting(record: &EraseRecord, authority: &Authority, leaf: LeafIndex) -> Vec<Identity> {
    let replicas = authority.of_role(Role::Kms);
    replicas
        .filter(|(_, enrolment)| through(record, NodeId(enrolment.node_id)) < leaf)
        .map(|(identity, _)| identity.clone())
        .collect()
}

/// Replicas that have not said that they erased what was last ended of any key.
pub fn not_erased_at_all(state: &dyn Reader) -> Vec<Identity> {
    let (Some(record), Some(authority)) = (stored(state), Authority::load(state)) else {
        return Vec::new();
    };
    waiting(&record, &authority, LeafIndex(record.ended_leaf))
}

/// Notes that the command's leaf, which comes next, ends something of a key.
pub(crate) fn ended(applying: &mut Applying<'_>, key: &mut KekRecord) {
    if applying.at.level < LEVEL_ERASE {
        return;
    }
    key.ended_leaf = applying.next_leaf().0;
    note(applying);
}

/// Notes that the command's leaf, which comes next, ends wrapped bytes.
pub(crate) fn note(applying: &mut Applying<'_>) {
    let leaf = applying.next_leaf();
    let mut record = stored(&*applying.state).unwrap_or_default();
    record.ended_index = applying.at.index.0;
    record.ended_leaf = leaf.0;
    applying.state.put(layout::ERASE, &record.encode_to_vec());
}

/// Notes that the command's entry, whose leader had not seen the end of a key, brings that key's wrapped bytes to every
/// log again: what replicas have said of the last end did not cover it, and they have to erase once more.
pub(crate) fn brought_again(applying: &mut Applying<'_>) {
    if applying.at.level < LEVEL_ACCESS_KEYS {
        return;
    }
    let Some(mut record) = stored(&*applying.state) else {
        return;
    };
    record.ended_index = applying.at.index.0;
    for said in &mut record.replicas {
        said.through_leaf = said.through_leaf.min(record.ended_leaf.saturating_sub(1));
    }
    applying.state.put(layout::ERASE, &record.encode_to_vec());
}

/// A replica's word that none of its files holds what was ended.
pub(crate) fn confirm(
    applying: &mut Applying<'_>,
    command: &ConfirmErased,
) -> Result<KmsDone, Stop> {
    let replica = of_replica(applying)?;
    let authority = applying.authority()?;
    let mut record = stored(&*applying.state).ok_or(Refusal::WrongState)?;
    if command.through_leaf != record.ended_leaf {
        return Err(Refusal::WrongState.into());
    }
    let node_id = authority
        .enrolment(&replica)
        .ok_or(Refusal::NotEnrolled)?
        .node_id;
    let leaf = LeafIndex(record.ended_leaf);
    if through(&record, NodeId(node_id)) == leaf {
        return Ok(applying.answer());
    }
    let members: Vec<_> = authority
        .of_role(Role::Kms)
        .map(|(_, enrolment)| enrolment.node_id)
        .collect();
    record
        .replicas
        .retain(|said| said.node_id != node_id && members.contains(&said.node_id));
    record.replicas.push(ErasedReplica {
        node_id,
        through_leaf: leaf.0,
    });
    record.replicas.sort_by_key(|said| said.node_id);
    let mut private = applying.private_of_requester();
    let waiting = waiting(&record, &authority, leaf);
    let said = ErasedDetails {
        node_id,
        through_leaf: leaf.0,
        waiting_for: waiting.iter().map(ToString::to_string).collect(),
    };
    details(&mut private, &said);
    let leaf = applying.append(Kind::KeysErased, Purpose::service(), None, private);
    applying.state.put(layout::ERASE, &record.encode_to_vec());
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}

/// On a restored cluster, whose replicas have another log and have said nothing yet.
pub(crate) fn restored(at: At, state: &mut dyn Writer) {
    if let Some(mut record) = stored(&*state) {
        record.ended_index = at.index.0;
        record.replicas.clear();
        state.put(layout::ERASE, &record.encode_to_vec());
    }
}
