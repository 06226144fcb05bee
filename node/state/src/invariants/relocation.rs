//! What must hold of departures and arrivals.
//!
//! Owns the walk between a dataset's status, its authority or arrival, and what is known of its units. Refuses a dataset that
//! serves before its source said that it moved, and a unit that stands here and is not known.

use std::collections::BTreeSet;

use proto::ids::{LogIndex, ObjectVersionId, RequestId, UploadEpoch};
use proto::store::Reader;
use proto::v1;

use super::restore::is_filling;
use super::{Violation, dataset_of, rows};
use crate::keys::{self, table};
use crate::limits::CLAIM_MS_MAX;
use crate::record::{self, ShardMeta};
use crate::relocation::{Arrival, Authority, Standing};
use crate::root;

/// A dataset's status is what its authority says, and a fence has a time at which it is due to be reverted.
pub fn invariant_authority_and_status_agree(
    state: &(impl Reader + ?Sized),
) -> Result<(), Violation> {
    let mut fences: BTreeSet<_> = rows(state, table::FENCE)
        .iter()
        .map(|(key, _)| dataset_of(key))
        .collect();
    for (key, value) in rows(state, table::DATASET) {
        let (id, held): (_, v1::DatasetRecord) = (dataset_of(&key), record::decode(&value));
        let fenced = fences.remove(&id);
        if held.authority.is_none() {
            ensure!(
                !fenced && held.status() != v1::DatasetStatus::Moved,
                "authority_and_status_agree",
                "dataset {id} has no authority of its own"
            );
            continue;
        }
        let standing = Authority::stored(&held).standing();
        let agrees = match held.status() {
            v1::DatasetStatus::Active => standing == Standing::Active,
            v1::DatasetStatus::Fenced => {
                matches!(standing, Standing::Fenced { .. } | Standing::Unconfirmed)
            }
            v1::DatasetStatus::Moved => {
                matches!(standing, Standing::Moved(_) | Standing::Diverged(_))
            }
            v1::DatasetStatus::Tombstoned => !matches!(standing, Standing::Fenced { .. }),
            v1::DatasetStatus::Arriving | v1::DatasetStatus::Unspecified => false,
        };
        ensure!(
            agrees && fenced == matches!(standing, Standing::Fenced { .. }),
            "authority_and_status_agree",
            "dataset {id} is {:?}, its authority {standing:?}",
            held.status()
        );
    }
    ensure!(
        fences.is_empty(),
        "authority_and_status_agree",
        "fences of nothing: {fences:?}"
    );
    Ok(())
}

/// A dataset is arriving exactly as long as its arrival has made it and it has not arrived, or it is being restored.
pub fn invariant_arrivals_serve_once_moved(
    state: &(impl Reader + ?Sized),
) -> Result<(), Violation> {
    let mut arriving: BTreeSet<_> = rows(state, table::DATASET)
        .into_iter()
        .filter(|(_, value)| {
            let held: v1::DatasetRecord = record::decode(value);
            held.status() == v1::DatasetStatus::Arriving
        })
        .map(|(key, _)| dataset_of(&key))
        // From a backup, and not from a region.
        .filter(|id| !is_filling(state, id))
        .collect();
    for (key, value) in rows(state, table::ARRIVAL) {
        let (id, held): (_, v1::ArrivalRecord) = (dataset_of(&key), record::decode(&value));
        let arrival = Arrival::stored(id, &held);
        let made = held.phase() == v1::ArrivalPhase::Prepared || arrival.filling().is_some();
        ensure!(
            arriving.remove(&id) == (made && arrival.arrived().is_none()),
            "arrivals_serve_once_moved",
            "dataset {id} at {:?}",
            held.phase()
        );
    }
    ensure!(
        arriving.is_empty(),
        "arrivals_serve_once_moved",
        "arriving by no arrival: {arriving:?}"
    );
    Ok(())
}

/// A gateway that moves an arrival is named, and nobody else waits for it longer than one claim lasts.
pub fn invariant_claims_end_by_themselves(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let latest = ShardMeta::load(state).time.0.saturating_add(CLAIM_MS_MAX);
    for (key, value) in rows(state, table::ARRIVAL) {
        let (id, held): (_, v1::ArrivalRecord) = (dataset_of(&key), record::decode(&value));
        let Some(claim) = &held.mover else {
            continue;
        };
        ensure!(
            !claim.mover.is_empty()
                && claim.until_ms <= latest
                && held.phase() != v1::ArrivalPhase::Plan,
            "claims_end_by_themselves",
            "dataset {id} at {:?}, until {}, at most {latest}",
            held.phase(),
            claim.until_ms
        );
    }
    Ok(())
}

/// Of an arriving dataset every version is known as stored, at the source's index it has, and nothing else is.
pub fn invariant_imports_are_known(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    for (key, value) in rows(state, table::DATASET) {
        let (id, held): (_, v1::DatasetRecord) = (dataset_of(&key), record::decode(&value));
        if held.status() != v1::DatasetStatus::Arriving || is_filling(state, &id) {
            continue;
        }
        let mut stored = BTreeSet::new();
        let (start, end) = keys::range(table::KNOWN, id.as_bytes());
        state.scan(&start, &end, &mut |key, value| {
            let known: v1::KnownRecord = record::decode(value);
            if known.stored {
                stored.insert(key.to_vec());
            }
            true
        });
        let current = rows(state, table::CURRENT);
        for (place, _) in current.iter().filter(|(key, _)| dataset_of(key) == id) {
            let (object, _) = keys::object_key(place).expect("the key was written by us");
            for (head, is_null) in root::heads_of(state, &id, &object) {
                let version = ObjectVersionId::try_from(head.version_id.as_ref()).ok();
                let place = keys::known(&id, &object, version.filter(|_| !is_null).as_ref());
                let known: Option<v1::KnownRecord> = record::load(state, &place);
                ensure!(
                    stored.remove(&place)
                        && known.is_some_and(|known| known.index >= head.source_index)
                        && head.source_index > 0,
                    "imports_are_known",
                    "dataset {id}, index {}",
                    head.finished_index
                );
            }
        }
        ensure!(
            stored.is_empty(),
            "imports_are_known",
            "dataset {id} knows {} versions it has not",
            stored.len()
        );
    }
    Ok(())
}

/// What the index of request ids leads to is kept, or was answered for a dataset that is gone since.
pub fn invariant_request_index_leads(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    for (key, sent) in rows(state, table::REQUEST_AT) {
        let id = dataset_of(&key);
        let index = keys::change_index(&key).expect("the key was written by us");
        let offset = crate::read::dataset(state, &id).map_or(0, |held| held.request_offset);
        let sent = RequestId::try_from(sent.as_ref()).expect("the record was written by us");
        let epoch = UploadEpoch(sent.epoch.0.saturating_sub(offset));
        let place = keys::request(&RequestId { epoch, ..sent });
        let kept: Option<v1::RequestRecord> = record::load(state, &place);
        ensure!(
            kept.is_some_and(
                |kept| LogIndex(kept.log_index) == index && kept.dataset_id == id.as_bytes()[..]
            ),
            "request_index_leads",
            "dataset {id}, index {index}"
        );
    }
    Ok(())
}

/// What is due to go later is due, and what is due now is being swept.
pub fn invariant_due_records_go(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let meta = ShardMeta::load(state);
    for (key, _) in rows(state, table::DUE) {
        let (epoch, of, id) = keys::due_parts(&key).expect("the key was written by us");
        ensure!(
            (epoch > meta.upload_epoch || meta.sweeping)
                && [table::KNOWN, table::CROSSED].contains(&of),
            "due_records_go",
            "table {of:#x} of dataset {id}, epoch {epoch}"
        );
    }
    Ok(())
}
