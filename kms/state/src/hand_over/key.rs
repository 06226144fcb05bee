//! A destination's hand-over key: what another region's keys are sealed to, for one relocation.
//!
//! Owns its birth under dual control, its end, and that its wrapped private half goes with it. Refuses a second one for the
//! same relocation, and one that was ended before it was asked for: a request that arrives late makes no key.

use proto::ids::{HandOverKeyId, RegionId, Role};
use proto::v1::{CreateHandOverKey, EndHandOverKey, HandOverKeyRecord, KeyState, KmsDone};
use serde::Serialize;
use tlog::Kind;

use super::{
    FORMAT, HAND_OVER_KEY_BYTES, at_level, drop_private, hand_over_key, purpose, put_key,
    relocation_id, trusted_by,
};
use crate::append::{Applying, details};
use crate::apply::Stop;
use crate::erase;
use crate::kek_rows;
use crate::keys::{WRAPPED_BYTES, dataset_id};
use crate::layout;
use crate::members::{DualControlled, of_operator};
use crate::read;
use crate::refusal::Refusal;
use crate::relocation::HandOverKey;

#[derive(Serialize)]
struct CreatedDetails<'a> {
    dataset: String,
    relocation: String,
    hand_over_key: String,
    public_key_sha256: String,
    source: &'a str,
    descriptor_version: u64,
    descriptor_fingerprint: String,
    root_epoch: u32,
}

fn key_id(bytes: &[u8]) -> Result<HandOverKeyId, Refusal> {
    HandOverKeyId::try_from(bytes).map_err(|_| Refusal::Malformed("hand-over key id"))
}

pub(crate) fn create(
    applying: &mut Applying<'_>,
    command: &CreateHandOverKey,
) -> Result<KmsDone, Stop> {
    at_level(applying)?;
    let relocation = relocation_id(&command.relocation_id)?;
    let id = key_id(&command.hand_over_key_id)?;
    let dataset = dataset_id(&command.dataset_id)?;
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    let source: RegionId = command
        .source
        .parse()
        .map_err(|_| Refusal::Malformed("source"))?;
    if source.as_str() == region.region {
        return Err(Refusal::Malformed("a relocation comes from another region").into());
    }
    let authority = applying.authority()?;
    of_operator(applying, &authority)?;
    if let Some(held) = hand_over_key(&*applying.state, &relocation) {
        return created_before(applying, command, &held);
    }
    if command.root_epoch != region.root_epoch {
        return Err(Refusal::RootMoved {
            to: region.root_epoch,
        }
        .into());
    }
    // 32 bytes here would be a key in the clear, replicated for ever.
    if !WRAPPED_BYTES.contains(&command.wrapped_private.len()) {
        return Err(Refusal::Malformed("a hand-over key is not wrapped").into());
    }
    if command.public_key.len() != HAND_OVER_KEY_BYTES {
        return Err(Refusal::Malformed("hand-over key").into());
    }
    let approved = (
        command.descriptor_version,
        &command.descriptor_fingerprint[..],
    );
    trusted_by(applying, &source, approved)?;
    let mut key = read::key_bare(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
    if key.state() != KeyState::Enabled {
        return Err(Refusal::KeyDisabled.into());
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let shown = CreatedDetails {
        dataset: dataset.to_string(),
        relocation: relocation.to_string(),
        hand_over_key: id.to_string(),
        public_key_sha256: hex::encode(tlog::sha256(&[&command.public_key]).0),
        source: &command.source,
        descriptor_version: command.descriptor_version,
        descriptor_fingerprint: hex::encode(&command.descriptor_fingerprint),
        root_epoch: command.root_epoch,
    };
    let done = change.record_of(applying, Kind::HandOverKeyCreated, &mut key, &shown);
    kek_rows::put_used(applying.state, &dataset, &key);
    let record = HandOverKeyRecord {
        format: FORMAT,
        hand_over_key_id: command.hand_over_key_id.clone(),
        relocation_id: command.relocation_id.clone(),
        dataset_id: command.dataset_id.clone(),
        source: command.source.clone(),
        descriptor_version: command.descriptor_version,
        descriptor_fingerprint: command.descriptor_fingerprint.clone(),
        public_key: command.public_key.clone(),
        root_epoch: command.root_epoch,
        created_leaf: done.leaf_index,
        destroyed: false,
    };
    put_key(applying, &relocation, &record);
    let private = layout::hand_over_private(&relocation);
    applying.state.put(&private, &command.wrapped_private);
    Ok(done)
}

/// The same request again: the leader has made another pair for it, and the first one stays.
fn created_before(
    applying: &Applying<'_>,
    command: &CreateHandOverKey,
    held: &HandOverKeyRecord,
) -> Result<KmsDone, Stop> {
    if held.destroyed {
        return Err(Refusal::HandOverEnded.into());
    }
    let again = held.hand_over_key_id == command.hand_over_key_id
        && held.dataset_id == command.dataset_id
        && held.source == command.source
        && held.descriptor_fingerprint == command.descriptor_fingerprint;
    match again {
        true => Ok(KmsDone {
            leaf_index: held.created_leaf,
            ..applying.answer()
        }),
        false => Err(Refusal::OtherHandOver.into()),
    }
}

#[derive(Serialize)]
struct EndedDetails {
    relocation: String,
    hand_over_key: String,
    /// Whether there was one.
    made: bool,
}

pub(crate) fn end(applying: &mut Applying<'_>, command: &EndHandOverKey) -> Result<KmsDone, Stop> {
    at_level(applying)?;
    let relocation = relocation_id(&command.relocation_id)?;
    let id = key_id(&command.hand_over_key_id)?;
    let dataset = dataset_id(&command.dataset_id)?;
    let authority = applying.authority()?;
    let role = applying.requester(&authority)?.role();
    if !matches!(role, Role::Kms | Role::Operator) {
        return Err(Refusal::NotEnrolled.into());
    }
    let held = hand_over_key(&*applying.state, &relocation);
    if let Some(held) = &held {
        if held.hand_over_key_id != command.hand_over_key_id
            || held.dataset_id != command.dataset_id
        {
            return Err(Refusal::OtherHandOver.into());
        }
        if held.destroyed {
            return Ok(applying.answer());
        }
    }
    let mut key = read::key_bare(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
    let made = held.is_some();
    let mut record = held.unwrap_or_else(|| HandOverKeyRecord {
        format: FORMAT,
        hand_over_key_id: command.hand_over_key_id.clone(),
        relocation_id: command.relocation_id.clone(),
        dataset_id: command.dataset_id.clone(),
        created_leaf: applying.next_leaf().0,
        ..HandOverKeyRecord::default()
    });
    record.destroyed = HandOverKey::of(&record).destroy().destroyed;
    if made {
        erase::note(applying);
        drop_private(applying, &relocation);
    }
    put_key(applying, &relocation, &record);
    let shown = EndedDetails {
        relocation: relocation.to_string(),
        hand_over_key: id.to_string(),
        made,
    };
    let mut private = applying.private_of_requester();
    details(&mut private, &shown);
    let leaf = applying.append(
        Kind::HandOverKeyDestroyed,
        purpose(),
        Some(&mut key),
        private,
    );
    kek_rows::put_used(applying.state, &dataset, &key);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}
