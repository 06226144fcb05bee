//! Restores of datasets from a backup of storage: that two people besides who asks have said yes, on record.
//!
//! Owns the record by which a warrant for storage nodes is made, and a leaf in the chain of each dataset. The shard in which
//! a dataset comes back is found anew: it has to commit the state of the key again, whatever the lost one had committed.
//! Refuses a dataset whose key is not here, or is not one that its backup opens under.

use prost::Message as _;
use proto::ids::{BackupId, DatasetId, DatasetName};
use proto::store::Reader;
use proto::v1::{
    ApproveRestore, ApprovedRestore, DatasetRestore, KekRecord, KeyState, KmsDone, RestoreTarget,
    RestoreWhat,
};
use serde::Serialize;
use tlog::Kind;

use crate::append::{Applying, array};
use crate::apply::Stop;
use crate::authority::Authority;
use crate::kek_rows;
use crate::keys::dataset_id;
use crate::layout;
use crate::members::{DualControlled, of_operator};
use crate::read;
use crate::refusal::Refusal;

/// Datasets that one approval names.
pub const RESTORE_DATASETS_MAX: usize = 256;
const FORMAT: u32 = 1;
const DIGEST_BYTES: usize = 32;

/// A restore that was approved.
pub fn approved_restore(state: &dyn Reader, id: &[u8; 16]) -> Option<ApprovedRestore> {
    let bytes = state.value(&layout::approved_restore(id))?;
    Some(ApprovedRestore::decode(bytes).expect("state holds what this machine wrote"))
}

#[derive(Serialize)]
struct RestoreDetails {
    restore: String,
    dataset: String,
    name: String,
    epoch: u64,
    backup: String,
    index_blake3: String,
}

impl RestoreDetails {
    fn of(id: &[u8; 16], terms: &DatasetRestore, target: &RestoreTarget) -> Self {
        Self {
            restore: hex::encode(id),
            dataset: hex::encode(&target.dataset_id),
            name: target.name.clone(),
            epoch: target.epoch,
            backup: hex::encode(&terms.backup_id),
            index_blake3: hex::encode(&terms.index_digest),
        }
    }
}

pub(crate) fn approve(
    applying: &mut Applying<'_>,
    command: &ApproveRestore,
) -> Result<KmsDone, Stop> {
    let id = array::<16>(&command.request_id).ok_or(Refusal::Malformed("request id"))?;
    let terms = command
        .terms
        .as_ref()
        .ok_or(Refusal::Malformed("no terms"))?;
    let Ok(what) = RestoreWhat::try_from(terms.what) else {
        return Err(Stop::Unknown("a kind of restore this build does not know"));
    };
    check_terms(terms, what)?;
    let authority = applying.authority()?;
    if let Some(held) = approved_restore(&*applying.state, &id) {
        return approved_before(applying, &authority, terms, &held);
    }
    // Used up with the approvals, for ever: no other restore is ever of this id.
    let mut approvals = applying.command.approvals.iter();
    if approvals.any(|one| one.single_use_id != id[..]) {
        return Err(Refusal::Malformed("the approvals are of another request").into());
    }
    let mut keys = Vec::with_capacity(terms.datasets.len());
    for target in &terms.datasets {
        let dataset = dataset_id(&target.dataset_id)?;
        let key = read::key(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
        keys.push((dataset, key_of(what, key)?));
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let mut approvers: Vec<_> = applying
        .command
        .approvals
        .iter()
        .map(|one| one.approver.clone())
        .collect();
    approvers.sort();
    approvers.dedup();
    let record = ApprovedRestore {
        format: FORMAT,
        terms: Some(terms.clone()),
        requester: applying.command.requester.clone(),
        approvers,
        leaf_index: applying.next_leaf().0,
        time_ms: applying.now.0,
    };
    let row = layout::approved_restore(&id);
    applying.state.put(&row, &record.encode_to_vec());
    let kind = match what {
        RestoreWhat::Confirm => Kind::RestoreConfirmed,
        RestoreWhat::Restore | RestoreWhat::Unspecified => Kind::RestoreApproved,
    };
    let shown = keys.iter_mut().zip(&terms.datasets).map(|(of, target)| {
        let (_, key) = of;
        (key, RestoreDetails::of(&id, terms, target))
    });
    let done = change.record_each(applying, kind, shown);
    for (dataset, key) in &keys {
        kek_rows::put(applying.state, applying.at.level, dataset, key);
    }
    Ok(done)
}

/// The same request again by who made it: the warrant is made again, of the same leaves.
fn approved_before(
    applying: &Applying<'_>,
    authority: &Authority,
    terms: &DatasetRestore,
    held: &ApprovedRestore,
) -> Result<KmsDone, Stop> {
    let operator = of_operator(applying, authority)?;
    if held.terms.as_ref() != Some(terms) || held.requester != operator.to_string() {
        return Err(Refusal::RequestIdReused.into());
    }
    Ok(KmsDone {
        leaf_index: held.leaf_index,
        ..applying.answer()
    })
}

/// The key as it is afterwards. To restore, the backup has to open, and the shard is to be found.
fn key_of(what: RestoreWhat, key: KekRecord) -> Result<KekRecord, Refusal> {
    match (what, key.state()) {
        (RestoreWhat::Restore, KeyState::Enabled | KeyState::Compromised) => Ok(KekRecord {
            shard: 0,
            confirmed_state_version: 0,
            ..key
        }),
        (RestoreWhat::Confirm, KeyState::Destroyed) | (RestoreWhat::Restore, _) => {
            Err(Refusal::KeyDisabled)
        }
        _ => Ok(key),
    }
}

fn check_terms(terms: &DatasetRestore, what: RestoreWhat) -> Result<(), Refusal> {
    let of_backup = terms.format == FORMAT
        && BackupId::try_from(&terms.backup_id[..]).is_ok()
        && terms.index_digest.len() == DIGEST_BYTES;
    if !of_backup || what == RestoreWhat::Unspecified {
        return Err(Refusal::Malformed("the terms of a restore"));
    }
    let datasets = &terms.datasets;
    let ordered = datasets
        .windows(2)
        .all(|pair| pair[0].dataset_id < pair[1].dataset_id);
    if !ordered || !(1..=RESTORE_DATASETS_MAX).contains(&datasets.len()) {
        return Err(Refusal::Malformed("the datasets of a restore"));
    }
    // In which epoch it stands is known once it stands.
    let named = |target: &RestoreTarget| {
        DatasetId::try_from(&target.dataset_id[..]).is_ok()
            && target.name.parse::<DatasetName>().is_ok()
            && (target.epoch > 0) == (what == RestoreWhat::Confirm)
    };
    match datasets.iter().all(named) {
        true => Ok(()),
        false => Err(Refusal::Malformed("a dataset of a restore")),
    }
}
