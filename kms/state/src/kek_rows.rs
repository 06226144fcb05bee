//! A key's record in the state: one row while it is short; beyond, its wrapped keys stand in rows of their own.
//!
//! Owns where wrapped keys stand. Refuses to let a long row hold one: a store keeps long values in files of their own,
//! which it collects by their share of garbage and for a log that only grows may never, so that what ended there stays.

use prost::Message as _;
use proto::ids::{DatasetId, FeatureLevel};
use proto::store::{Reader, Writer, prefix_end};
use proto::v1::{KekRecord, KekVersionRecord};

use crate::apply::LEVEL_ERASE;
use crate::layout;

/// Bytes that a row with a wrapped key in it has at most, from [`LEVEL_ERASE`] on.
pub const WRAPPED_ROW_BYTES_MAX: usize = 512;

/// By how much a record may grow before it is next stored in full: a use counts itself and its leaf, up to 9 bytes each.
const GROWS_MAX: usize = 32;

/// The tables whose rows hold wrapped keys.
pub fn wrapped_ranges() -> [std::ops::Range<Vec<u8>>; 7] {
    [
        layout::KEKS,
        layout::WRAPPED,
        layout::REWRAPPED,
        layout::ACCESS_SECRETS,
        layout::REWRAPPED_SECRETS,
        layout::HAND_OVER_PRIVATES,
        layout::REWRAPPED_HAND_OVERS,
    ]
    .map(|table| vec![table]..vec![table + 1])
}

/// Which of a version's wrapped keys.
const KEK: u8 = 1;
const METADATA_KEY: u8 = 2;

/// A record as its row has it, with the wrapped keys that stand apart.
pub(crate) fn filled(state: &dyn Reader, row: &[u8]) -> KekRecord {
    let mut key = bare(row);
    if key.wrapped_apart {
        let start = [&[layout::WRAPPED][..], &key.dataset_id].concat();
        let end = prefix_end(&start).expect("the table's byte is not 0xFF");
        state.scan(&start, &end, &mut |row, wrapped| {
            put_in_place(&mut key, &row[start.len()..], wrapped);
            true
        });
    }
    key
}

/// A record as its row has it.
pub(crate) fn bare(row: &[u8]) -> KekRecord {
    KekRecord::decode(row).expect("state holds what this machine wrote")
}

fn put_in_place(key: &mut KekRecord, place: &[u8], wrapped: &[u8]) {
    let version = place.split_last().and_then(|(which, version)| {
        let version = u32::from_be_bytes(version.try_into().ok()?);
        let at = usize::try_from(version.checked_sub(1)?).ok()?;
        Some((key.versions.get_mut(at)?, *which))
    });
    let wrapped = bytes::Bytes::copy_from_slice(wrapped);
    match version {
        Some((version, KEK)) => version.wrapped_kek = wrapped,
        Some((version, METADATA_KEY)) => version.wrapped_metadata_key = wrapped,
        _ => panic!("state holds what this machine wrote: a wrapped key of a version"),
    }
}

/// Stores a record, and its wrapped keys where it is too long to hold them.
pub(crate) fn put(
    state: &mut dyn Writer,
    level: FeatureLevel,
    dataset: &DatasetId,
    key: &KekRecord,
) {
    let long = || key.encoded_len() + GROWS_MAX > WRAPPED_ROW_BYTES_MAX;
    if !(key.wrapped_apart || (level >= LEVEL_ERASE && long())) {
        return put_used(state, dataset, key);
    }
    for version in &key.versions {
        for (which, wrapped) in wrapped_of(version) {
            let row = layout::wrapped(dataset, version.version, which);
            let stored = state.value(&row);
            match (stored, wrapped.is_empty()) {
                (Some(_), true) => state.delete(&row),
                (stored, false) if stored.as_ref() != Some(wrapped) => state.put(&row, wrapped),
                _ => {}
            }
        }
    }
    let apart = KekRecord {
        wrapped_apart: true,
        ..key.clone()
    };
    put_used(state, dataset, &apart);
}

/// Stores a record whose wrapped keys are as they are stored.
pub(crate) fn put_used(state: &mut dyn Writer, dataset: &DatasetId, key: &KekRecord) {
    let row = layout::kek(dataset);
    if !key.wrapped_apart {
        return state.put(&row, &key.encode_to_vec());
    }
    let mut key = key.clone();
    for version in &mut key.versions {
        version.wrapped_kek.clear();
        version.wrapped_metadata_key.clear();
    }
    state.put(&row, &key.encode_to_vec());
}

fn wrapped_of(version: &KekVersionRecord) -> [(u8, &bytes::Bytes); 2] {
    [
        (KEK, &version.wrapped_kek),
        (METADATA_KEY, &version.wrapped_metadata_key),
    ]
}
