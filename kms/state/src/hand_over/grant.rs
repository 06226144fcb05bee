//! A source's grant: whether keys of one dataset may leave for one relocation, sealed to one key.
//!
//! Owns its birth under dual control, and its pause, resume and close on record. Refuses terms that name this region, and a
//! second relocation of a dataset while the first one's grant is not closed.

use proto::ids::{HandOverKeyId, LogIndex, RegionId, Role};
use proto::v1::set_hand_over::Step;
use proto::v1::{
    GrantHandOver, HandOverGrantRecord, HandOverTerms, KeyState, KmsDone, ReleasedRecord,
    SetHandOver,
};
use serde::Serialize;
use tlog::Kind;

use super::{
    FORMAT, HAND_OVER_KEY_BYTES, at_level, hand_over_grant, purpose, put_grant, relocation_id,
    trusted_by,
};
use crate::append::{Applying, details};
use crate::apply::Stop;
use crate::kek_rows;
use crate::keys::{dataset_id, moved_by};
use crate::members::{DualControlled, of_operator};
use crate::read;
use crate::refusal::Refusal;
use crate::relocation::HandOverGrant;
use crate::relocation::stored::released_record;

#[derive(Serialize)]
struct GrantedDetails<'a> {
    dataset: String,
    relocation: String,
    destination: &'a str,
    jurisdiction: &'a str,
    descriptor_version: u64,
    descriptor_fingerprint: String,
    hand_over_key: String,
    public_key_sha256: String,
}

/// What people approved, in one spelling; answers whereto, and the key that everything is sealed to.
fn checked(terms: &HandOverTerms, own: &str) -> Result<(RegionId, HandOverKeyId), Refusal> {
    let destination: RegionId = terms
        .destination
        .parse()
        .map_err(|_| Refusal::Malformed("destination"))?;
    if destination.as_str() == own {
        return Err(Refusal::Malformed("a relocation leads to another region"));
    }
    if terms.hand_over_key.len() != HAND_OVER_KEY_BYTES {
        return Err(Refusal::Malformed("hand-over key"));
    }
    let id = HandOverKeyId::try_from(&terms.hand_over_key_id[..]);
    let id = id.map_err(|_| Refusal::Malformed("hand-over key id"))?;
    Ok((destination, id))
}

pub(crate) fn grant(applying: &mut Applying<'_>, command: &GrantHandOver) -> Result<KmsDone, Stop> {
    at_level(applying)?;
    let relocation = relocation_id(&command.relocation_id)?;
    let terms = command.terms.as_ref();
    let terms = terms.ok_or(Refusal::Malformed("no terms of a hand-over"))?;
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    let (destination, hand_over) = checked(terms, &region.region)?;
    let authority = applying.authority()?;
    of_operator(applying, &authority)?;
    let stored = hand_over_grant(&*applying.state, &relocation);
    let held = stored.as_ref().map(HandOverGrant::of);
    let granted = HandOverGrant::grant(held, relocation, hand_over).map_err(Refusal::from)?;
    if let Some(stored) = stored {
        // Granted before, and its answer was lost. Other terms would be another grant under the same name.
        if stored.dataset_id != command.dataset_id || stored.terms.as_ref() != Some(terms) {
            return Err(Refusal::OtherHandOver.into());
        }
        return Ok(KmsDone {
            leaf_index: stored.leaf_index,
            ..applying.answer()
        });
    }
    let approved = (terms.descriptor_version, &terms.descriptor_fingerprint[..]);
    let descriptor = trusted_by(applying, &destination, approved)?;
    if descriptor.jurisdiction().as_str() != terms.jurisdiction {
        return Err(Refusal::WrongJurisdiction.into());
    }
    let (dataset, mut key) = moved_by(applying, &command.dataset_id, command.state_version)?;
    if !key.relocation_id.is_empty() {
        return Err(Refusal::RelocationUnderWay.into());
    }
    if key.state() != KeyState::Enabled {
        return Err(Refusal::KeyDisabled.into());
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let shown = GrantedDetails {
        dataset: dataset.to_string(),
        relocation: relocation.to_string(),
        destination: &terms.destination,
        jurisdiction: &terms.jurisdiction,
        descriptor_version: terms.descriptor_version,
        descriptor_fingerprint: hex::encode(&terms.descriptor_fingerprint),
        hand_over_key: hand_over.to_string(),
        public_key_sha256: hex::encode(tlog::sha256(&[&terms.hand_over_key]).0),
    };
    key.relocation_id = command.relocation_id.clone();
    let done = change.record_of(applying, Kind::HandOverGranted, &mut key, &shown);
    kek_rows::put(applying.state, applying.at.level, &dataset, &key);
    let mut record = HandOverGrantRecord {
        format: FORMAT,
        relocation_id: command.relocation_id.clone(),
        dataset_id: command.dataset_id.clone(),
        terms: Some(terms.clone()),
        leaf_index: done.leaf_index,
        ..HandOverGrantRecord::default()
    };
    put_grant(applying, &relocation, &granted, &mut record);
    Ok(done)
}

#[derive(Serialize)]
struct SetDetails {
    relocation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    /// Object versions whose keys were released so far, each time they were.
    objects: u64,
    /// One more than the last leaf that records a release; 0: there is none.
    leaves: u64,
}

pub(crate) fn set(applying: &mut Applying<'_>, command: &SetHandOver) -> Result<KmsDone, Stop> {
    at_level(applying)?;
    let relocation = relocation_id(&command.relocation_id)?;
    let dataset = dataset_id(&command.dataset_id)?;
    let step = command.step.as_ref().ok_or(Refusal::Malformed("no step"))?;
    let authority = applying.authority()?;
    let may = match (applying.requester(&authority)?.role(), step) {
        (Role::Kms, _) => true,
        // The alarm, which waits for nobody: what is not handed over is not lost.
        (role, Step::Close(_)) => role == Role::Operator,
        (_, Step::Pause(_) | Step::Resume(_)) => false,
    };
    if !may {
        return Err(Refusal::NotEnrolled.into());
    }
    let stored = hand_over_grant(&*applying.state, &relocation);
    let of_another = |stored: &HandOverGrantRecord| stored.dataset_id != command.dataset_id;
    if stored.as_ref().is_some_and(of_another) {
        return Err(Refusal::NoSuchRelocation.into());
    }
    let held = stored.as_ref().map(HandOverGrant::of);
    let begun = held.ok_or(Refusal::NoSuchRelocation);
    let (kind, fence, after) = match step {
        Step::Pause(fence) => {
            let paused = begun?.pause(LogIndex(*fence)).map_err(Refusal::from)?;
            (Kind::HandOverPaused, Some(*fence), paused)
        }
        Step::Resume(fence) => {
            let resumed = begun?.resume(LogIndex(*fence)).map_err(Refusal::from)?;
            (Kind::HandOverResumed, Some(*fence), resumed)
        }
        Step::Close(_) => {
            let closed = HandOverGrant::close(held, relocation);
            (Kind::HandOverClosed, None, closed)
        }
    };
    if held == Some(after) {
        return Ok(applying.answer());
    }
    let mut key = read::key_bare(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
    let ReleasedRecord { objects, leaves } = released_record(&after.released());
    let shown = SetDetails {
        relocation: relocation.to_string(),
        fence,
        objects,
        leaves,
    };
    let mut private = applying.private_of_requester();
    details(&mut private, &shown);
    let closes = matches!(step, Step::Close(_));
    if closes && key.relocation_id == command.relocation_id {
        key.relocation_id.clear();
    }
    let leaf = applying.append(kind, purpose(), Some(&mut key), private);
    kek_rows::put_used(applying.state, &dataset, &key);
    let mut record = stored.unwrap_or_else(|| HandOverGrantRecord {
        format: FORMAT,
        relocation_id: command.relocation_id.clone(),
        dataset_id: command.dataset_id.clone(),
        leaf_index: leaf.index.0,
        ..HandOverGrantRecord::default()
    });
    put_grant(applying, &relocation, &after, &mut record);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}
