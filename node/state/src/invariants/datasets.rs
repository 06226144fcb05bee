//! What must hold of object lock, null versions and settings.
//!
//! Owns what a dataset's record and rules say of what the dataset holds. Refuses a lock that is not counted: the key of
//! what it keeps could be ended.

use std::collections::BTreeMap;

use proto::ids::{DatasetId, LogIndex};
use proto::store::Reader;
use proto::v1;

use super::{Violation, dataset_of, heads, rows};
use crate::keys::{self, table};
use crate::record;

/// A dataset counts the legal holds of its versions, and is kept at least as long as the longest compliance retention.
/// Locks are where object lock is, and with it versioning.
pub fn invariant_locks_are_counted(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let mut counted: BTreeMap<DatasetId, (u64, u64, bool)> = BTreeMap::new();
    for (_, id, head) in heads(state) {
        let sum = counted.entry(id).or_default();
        let compliance = head
            .retention
            .filter(|held| held.mode() == v1::RetentionMode::Compliance);
        sum.0 += u64::from(head.legal_hold);
        sum.1 = sum.1.max(compliance.map_or(0, |held| held.until_ms));
        sum.2 |= head.legal_hold || head.retention.is_some();
    }
    for (key, value) in rows(state, table::DATASET) {
        let (id, held): (_, v1::DatasetRecord) = (dataset_of(&key), record::decode(&value));
        let (holds, until, locked) = counted.remove(&id).unwrap_or_default();
        ensure!(
            held.legal_holds == holds
                && held.compliance_until_ms >= until
                && (!locked || held.lock.is_some())
                && (held.lock.is_none() || held.versioning),
            "locks_are_counted",
            "dataset {id} says {} holds, until {}",
            held.legal_holds,
            held.compliance_until_ms
        );
    }
    Ok(())
}

/// Where a current version says that the null version stands, it stands; no other version says so.
pub fn invariant_null_versions_are_found(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    for (key, value) in rows(state, table::CURRENT) {
        let head: v1::ObjectEntry = record::decode(&value);
        if head.null_index == 0 {
            continue;
        }
        let id = dataset_of(&key);
        let (object, _) = keys::object_key(&key).expect("the key was written by us");
        let place = keys::older(&id, &object, LogIndex(head.null_index));
        let null: Option<v1::ObjectEntry> = record::load(state, &place);
        ensure!(
            head.versioned && null.is_some_and(|null| !null.versioned),
            "null_versions_are_found",
            "dataset {id}, index {}",
            head.null_index
        );
    }
    for (_, value) in rows(state, table::OLDER) {
        let older: v1::ObjectEntry = record::decode(&value);
        ensure!(
            older.null_index == 0,
            "null_versions_are_found",
            "an older version at index {}",
            older.finished_index
        );
    }
    Ok(())
}

/// Rules in force are of a living dataset and its lifecycle.
pub fn invariant_rules_are_of_settings(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    for (key, _) in rows(state, table::RULES) {
        let id = dataset_of(&key);
        let held = crate::read::dataset(state, &id);
        let living = held.is_some_and(|held| held.status() != v1::DatasetStatus::Tombstoned);
        let config = crate::read::config(state, &id, v1::ConfigKind::Lifecycle);
        ensure!(
            living && config.is_some_and(|config| !config.content.is_empty()),
            "rules_are_of_settings",
            "dataset {id}"
        );
    }
    Ok(())
}
