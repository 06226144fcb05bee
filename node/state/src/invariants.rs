//! What must hold in every state, whatever the log was. For tests, simulation and a doctor; reads everything.
//!
//! Owns one `invariant_*` a promise of the state format. Refuses to repair.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId, UploadEpoch};
use proto::store::Reader;
use proto::v1;

use crate::keys::{self, catalog_table, table};
use crate::record::{self, ShardMeta};

/// A state that no log can give. Names no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} is broken: {what}")]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// Where, in ids.
    pub what: String,
}

/// Checks every invariant of a shard's state.
pub fn shard(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    invariant_tables_are_known(state)?;
    invariant_counters_are_sums(state)?;
    invariant_current_is_newest(state)?;
    invariant_versions_and_entries_match(state)?;
    invariant_parts_belong(state)?;
    invariant_locks_are_counted(state)?;
    invariant_null_versions_are_found(state)?;
    invariant_rules_are_of_settings(state)?;
    invariant_changes_are_complete(state)?;
    invariant_tokens_are_there(state)?;
    invariant_garbage_is_unreferenced(state)?;
    invariant_authority_and_status_agree(state)?;
    invariant_arrivals_serve_once_moved(state)?;
    invariant_claims_end_by_themselves(state)?;
    invariant_imports_are_known(state)?;
    invariant_restores_stand(state)?;
    invariant_request_index_leads(state)?;
    invariant_due_records_go(state)?;
    invariant_requests_are_in_the_window(state)
}

/// Checks every invariant of the catalog's state.
pub fn catalog(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    invariant_names_and_ids_match(state)
}

macro_rules! ensure {
    ($ok:expr, $invariant:literal, $($what:tt)+) => {
        if !$ok {
            return Err(Violation { invariant: $invariant, what: format!($($what)+) });
        }
    };
}

// After the macro, which they use.
mod datasets;
mod multipart;
mod relocation;
mod restore;

pub use datasets::{
    invariant_locks_are_counted, invariant_null_versions_are_found, invariant_rules_are_of_settings,
};
pub use multipart::invariant_parts_belong;
pub use relocation::{
    invariant_arrivals_serve_once_moved, invariant_authority_and_status_agree,
    invariant_claims_end_by_themselves, invariant_due_records_go, invariant_imports_are_known,
    invariant_request_index_leads,
};
pub use restore::invariant_restores_stand;

/// No key stands outside the tables.
pub fn invariant_tables_are_known(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let mut foreign = None;
    state.scan(&[], &[0xFF], &mut |key, _| {
        foreign =
            Some(key.first().copied()).filter(|of| !of.is_some_and(|of| table::ALL.contains(&of)));
        foreign.is_none()
    });
    ensure!(
        foreign.is_none(),
        "tables_are_known",
        "a key in table {foreign:?}"
    );
    Ok(())
}

/// What each dataset and the shard say of themselves is the sum of what they hold.
pub fn invariant_counters_are_sums(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let mut sums: BTreeMap<DatasetId, (u64, u64, u64, u64)> = BTreeMap::new();
    for (of, id, head) in heads(state) {
        let sum = sums.entry(id).or_default();
        sum.0 += u64::from(of == table::CURRENT && !head.delete_marker);
        sum.1 += 1;
        // Parts count themselves, from when they are finished until they are removed.
        sum.2 += u64::from(head.parts == 0) * head.sealed_bytes;
    }
    for (id, part) in multipart::parts(state) {
        sums.entry(id).or_default().2 += part.sealed_bytes;
    }
    let mut uploads: BTreeMap<DatasetId, u64> = BTreeMap::new();
    for (key, _) in rows(state, table::UPLOAD) {
        *uploads.entry(dataset_of(&key)).or_default() += 1;
    }
    for (key, _) in rows(state, table::TOMBSTONE) {
        sums.entry(dataset_of(&key)).or_default().3 += 1;
    }
    let (mut datasets, mut bytes) = (0, 0);
    for (key, value) in rows(state, table::DATASET) {
        let (id, held): (_, v1::DatasetRecord) = (dataset_of(&key), record::decode(&value));
        let sum = sums.remove(&id).unwrap_or_default();
        let says = (
            held.objects,
            held.versions,
            held.sealed_bytes,
            held.tombstones,
        );
        ensure!(
            says == sum,
            "counters_are_sums",
            "dataset {id} says {says:?} and holds {sum:?}"
        );
        ensure!(
            held.uploads == uploads.remove(&id).unwrap_or_default(),
            "counters_are_sums",
            "dataset {id} says it has {} uploads",
            held.uploads
        );
        datasets += u64::from(held.status() != v1::DatasetStatus::Tombstoned);
        bytes += held.sealed_bytes;
    }
    ensure!(
        sums.is_empty() && uploads.is_empty(),
        "counters_are_sums",
        "contents of no dataset: {:?}, {:?}",
        sums.keys(),
        uploads.keys()
    );
    let meta = ShardMeta::load(state);
    let says = (meta.datasets, meta.sealed_bytes);
    ensure!(
        says == (datasets, bytes),
        "counters_are_sums",
        "the shard says {says:?} and holds {datasets} datasets, {bytes} bytes"
    );
    Ok(())
}

/// Versions are ordered by the index at which they were finished, and no object has only older ones.
pub fn invariant_current_is_newest(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    for (key, value) in rows(state, table::OLDER) {
        let id = dataset_of(&key);
        let (object, _) = keys::object_key(&key).expect("the key was written by us");
        let older: v1::ObjectEntry = record::decode(&value);
        let current: Option<v1::ObjectEntry> = record::load(state, &keys::current(&id, &object));
        ensure!(
            current.is_some_and(|current| current.finished_index > older.finished_index)
                && keys::older_index(&key) == Some(LogIndex(older.finished_index)),
            "current_is_newest",
            "dataset {id}, index {}",
            older.finished_index
        );
    }
    Ok(())
}

/// Every entry has one version record that leads back to it, and a body unless it is a delete marker; no record and
/// no body is without an entry: each block is referred to exactly once.
pub fn invariant_versions_and_entries_match(
    state: &(impl Reader + ?Sized),
) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    let mut bodies = 0;
    for (_, id, head) in heads(state) {
        let version = ObjectVersionId::try_from(head.version_id.as_ref()).ok();
        let at = version.and_then(|version| crate::read::version(state, &version));
        let (Some(version), Some(at)) = (version, at) else {
            ensure!(
                false,
                "versions_and_entries_match",
                "no record at index {}",
                head.finished_index
            );
            continue;
        };
        let body = crate::read::body(state, &version);
        let blocks = body.as_ref().map_or(0, |body| body.blocks.len());
        ensure!(
            seen.insert(version)
                && at.dataset_id == id.as_bytes()[..]
                && at.finished_index == head.finished_index
                && at.blocks as usize == blocks
                && at.kind() == v1::VersionKind::Object
                && body.is_some() != head.delete_marker,
            "versions_and_entries_match",
            "version {version}"
        );
        bodies += usize::from(body.is_some());
    }
    // Uploads have a record of their id, parts that and a body.
    let (uploads, parts) = (
        rows(state, table::UPLOAD).len(),
        rows(state, table::PART).len(),
    );
    for (of, count) in [
        (table::VERSION, seen.len() + uploads + parts),
        (table::BODY, bodies + parts),
    ] {
        let held = rows(state, of).len();
        ensure!(
            held == count,
            "versions_and_entries_match",
            "{held} rows in {of:#x}, {count} entries"
        );
    }
    Ok(())
}

/// Every living version stands in the change index at its finished index; everything else there is a tombstone of
/// what is gone.
pub fn invariant_changes_are_complete(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let (mut living, mut changed) = (BTreeMap::new(), BTreeMap::new());
    for (_, id, head) in heads(state) {
        if head.changed_index > 0 {
            changed.insert((id, head.changed_index), head.version_id.clone());
        }
        if head.metadata_index > 0 {
            changed.insert((id, head.metadata_index), head.version_id.clone());
        }
        // What was imported was no change here.
        if head.source_index == 0 {
            living.insert((id, head.finished_index), head.version_id);
        }
    }
    for (key, value) in rows(state, table::DATASET) {
        let held: v1::DatasetRecord = record::decode(&value);
        if held.settings_index > 0 {
            changed.insert((dataset_of(&key), held.settings_index), Bytes::new());
        }
    }
    let mut tombstones = 0;
    for (key, value) in rows(state, table::CHANGE) {
        let id = dataset_of(&key);
        let change: v1::ChangeRecord = record::decode(&value);
        let index = u64::from_be_bytes(key[17..].try_into().expect("the key ends in eight bytes"));
        if change.tombstone {
            tombstones += 1;
            let ordered = keys::change(table::TOMBSTONE, &id, LogIndex(index));
            ensure!(
                state.value(&ordered).is_some(),
                "changes_are_complete",
                "tombstone {index}"
            );
        } else {
            let of = match change.kind() {
                v1::ChangeKind::Version => &mut living,
                v1::ChangeKind::Lock | v1::ChangeKind::Settings | v1::ChangeKind::Metadata => {
                    &mut changed
                }
            };
            ensure!(
                of.remove(&(id, index)) == Some(change.version_id),
                "changes_are_complete",
                "dataset {id}, index {index} is of no living version"
            );
        }
    }
    ensure!(
        living.is_empty(),
        "changes_are_complete",
        "missing: {:?}",
        living.keys()
    );
    ensure!(
        changed.is_empty(),
        "changes_are_complete",
        "changes of locks, metadata or settings that are not there: {:?}",
        changed.keys()
    );
    let ordered = rows(state, table::TOMBSTONE).len();
    ensure!(
        ordered == tombstones,
        "changes_are_complete",
        "{ordered} of {tombstones} tombstones"
    );
    Ok(())
}

/// The token of every version and upload is there and counted; every token's dataset exists.
pub fn invariant_tokens_are_there(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let mut uses: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for (_, id, head) in heads(state)
        .into_iter()
        .filter(|(_, _, head)| !head.delete_marker)
    {
        let key = [&[table::TOKEN_USE], &id.as_bytes()[..], &head.lease_id].concat();
        *uses.entry(key).or_default() += 1;
    }
    for (id, upload) in multipart::uploads(state) {
        let key = [&[table::TOKEN_USE], &id.as_bytes()[..], &upload.lease_id];
        *uses.entry(key.concat()).or_default() += 1;
    }
    for key in uses.keys() {
        let mut token = key.clone();
        token[0] = table::TOKEN;
        ensure!(
            state.value(&token).is_some(),
            "tokens_are_there",
            "a version without its token"
        );
    }
    let counted: BTreeMap<_, _> = rows(state, table::TOKEN_USE)
        .into_iter()
        .map(|(key, value)| {
            (
                key,
                u64::from_be_bytes(value.try_into().expect("written as eight bytes")),
            )
        })
        .collect();
    ensure!(
        counted == uses,
        "tokens_are_there",
        "token uses are miscounted"
    );
    for (key, _) in rows(state, table::TOKEN) {
        let id = dataset_of(&key);
        ensure!(
            state.value(&keys::dataset(table::DATASET, &id)).is_some(),
            "tokens_are_there",
            "a token of dataset {id}, which is not there"
        );
    }
    Ok(())
}

/// What is garbage is no version any more, stands under one epoch, and not under one to come.
pub fn invariant_garbage_is_unreferenced(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let now = ShardMeta::load(state).upload_epoch;
    let garbage = rows(state, table::GARBAGE);
    for (key, _) in &garbage {
        let (epoch, id) = keys::garbage_parts(key).expect("the key was written by us");
        let freed = state.value(&keys::version(table::FREED, &id));
        ensure!(
            epoch <= now
                && crate::read::version(state, &id).is_none()
                && freed.is_some_and(|freed| freed == epoch.0.to_be_bytes()[..]),
            "garbage_is_unreferenced",
            "version {id}, epoch {epoch}"
        );
    }
    let freed = rows(state, table::FREED).len();
    ensure!(
        freed == garbage.len(),
        "garbage_is_unreferenced",
        "{freed} of {}",
        garbage.len()
    );
    Ok(())
}

/// No request id is from the future; what is older than the window is due to be removed.
pub fn invariant_requests_are_in_the_window(
    state: &(impl Reader + ?Sized),
) -> Result<(), Violation> {
    let meta = ShardMeta::load(state);
    for (key, _) in rows(state, table::REQUEST) {
        let epoch = key[1..9]
            .try_into()
            .map(u64::from_be_bytes)
            .map(UploadEpoch);
        let epoch = epoch.expect("eight bytes were taken");
        let expired = epoch.0 + crate::limits::EPOCHS_KEPT < meta.upload_epoch.0;
        ensure!(
            epoch <= meta.upload_epoch && (!expired || meta.sweeping),
            "requests_are_in_the_window",
            "a request id of epoch {epoch}"
        );
    }
    Ok(())
}

/// A name leads to one dataset and back, on the shard it was given.
pub fn invariant_names_and_ids_match(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    use crate::catalog;
    let names = rows(state, catalog_table::NAME);
    for (_, value) in &names {
        let held: v1::CatalogRecord = record::decode(value);
        let id = DatasetId::try_from(held.dataset_id.as_ref()).expect("checked when published");
        let back = catalog::find_by_id(state, &id);
        let placed = catalog::placement(state, &id);
        let founded =
            catalog::region(state).is_some_and(|region| region.shards.contains(&held.shard));
        ensure!(
            back.as_ref() == Some(&held) && placed.is_some_and(|on| on.0 == held.shard) && founded,
            "names_and_ids_match",
            "dataset {id}"
        );
    }
    let ids = rows(state, catalog_table::PUBLISHED).len();
    ensure!(
        ids == names.len(),
        "names_and_ids_match",
        "{ids} ids, {} names",
        names.len()
    );
    Ok(())
}

fn rows(state: &(impl Reader + ?Sized), of: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (start, end) = keys::range(of, &[]);
    let mut found = Vec::new();
    state.scan(&start, &end, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        true
    });
    found
}

fn heads(state: &(impl Reader + ?Sized)) -> Vec<(u8, DatasetId, v1::ObjectEntry)> {
    [table::CURRENT, table::OLDER]
        .into_iter()
        .flat_map(|of| rows(state, of).into_iter().map(move |row| (of, row)))
        .map(|(of, (key, value))| (of, dataset_of(&key), record::decode(&value)))
        .collect()
}

fn dataset_of(key: &[u8]) -> DatasetId {
    DatasetId::try_from(&key[1..17]).expect("the key was written by us")
}
