//! What readers of the shard see against what the model says.
//!
//! Owns the comparison of every read the crate offers: datasets, objects, versions, tokens, settings, changes, garbage,
//! request ids, listings and what a replica has to look for on its disk.

mod uploads;

use std::collections::{BTreeMap, BTreeSet};

use node_state::keys::{self, table};
use node_state::limits::EPOCHS_KEPT;
use node_state::listing::{ObjectsQuery, VersionsQuery, objects, versions};
use node_state::{ShardMeta, local, read};
use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId, UploadEpoch};
use proto::store::{MemoryStore, Reader as _};
use proto::v1;
use rand::Rng;
use rand::rngs::StdRng;

use super::draw::KEYS;
use super::model::{Dataset, Model, version_id};
use crate::{Broken, hold};

/// The shard's own clocks.
pub(super) fn meta(state: &MemoryStore, model: &Model) -> Result<(), Broken> {
    let meta = ShardMeta::load(state);
    let living = model.datasets.values().filter(|d| !d.dropped()).count() as u64;
    let held = (
        meta.time.0,
        meta.authority_version,
        meta.upload_epoch.0,
        meta.datasets,
    );
    let wanted = (model.time, model.authority, model.epoch, living);
    hold!(
        held == wanted,
        "the shard says {held:?}, the model {wanted:?}"
    );
    Ok(())
}

/// One dataset with everything in it.
pub(super) fn dataset(state: &MemoryStore, model: &Model, id: &DatasetId) -> Result<(), Broken> {
    let held = read::dataset(state, id);
    let Some(dataset) = model.datasets.get(id) else {
        hold!(
            held.is_none(),
            "dataset {id} is there and was never created"
        );
        return Ok(());
    };
    let held = held.ok_or_else(|| Broken(format!("dataset {id} is not there")))?;
    if dataset.dropped() {
        hold!(
            held.status() == v1::DatasetStatus::Tombstoned,
            "dataset {id} was dropped and is {:?}",
            held.status()
        );
        return Ok(());
    }
    let counted = counted(model, id, dataset);
    hold!(
        held == counted,
        "dataset {id} says {held:?}, the model {counted:?}"
    );
    for key in KEYS {
        object(state, dataset, id, key)?;
    }
    uploads::of(state, dataset, id)?;
    for (kind, setting) in &dataset.settings {
        let kind = v1::ConfigKind::try_from(*kind).unwrap_or_default();
        let held = read::config(state, id, kind);
        hold!(
            held.as_ref() == Some(setting),
            "{kind:?} of dataset {id} is {held:?}, the model says {setting:?}"
        );
    }
    let tokens = dataset
        .tokens
        .iter()
        .all(|(lease, token)| read::token(state, id, lease).is_some_and(|held| held == *token));
    hold!(tokens, "a token of dataset {id} is not what was registered");
    let (start, end) = keys::range(table::TOKEN, id.as_bytes());
    hold!(
        rows(state, &start, &end) == dataset.tokens.len(),
        "dataset {id} has tokens nobody registered"
    );
    let changes = read::changes(state, id, LogIndex(0), usize::MAX);
    let changes: BTreeMap<u64, v1::ChangeRecord> =
        changes.into_iter().map(|(index, c)| (index.0, c)).collect();
    hold!(
        changes == dataset.changes,
        "the change index of {id} is {changes:?}, the model's {:?}",
        dataset.changes
    );
    Ok(())
}

/// The dataset's record with the sums of what it holds.
fn counted(model: &Model, id: &DatasetId, dataset: &Dataset) -> v1::DatasetRecord {
    let current = dataset.objects.values().filter_map(|v| v.last());
    v1::DatasetRecord {
        objects: current.filter(|c| !c.entry.delete_marker).count() as u64,
        versions: dataset.versions().count() as u64,
        sealed_bytes: model.sealed_bytes(id),
        uploads: dataset.uploads.len() as u64,
        legal_holds: dataset.versions().filter(|v| v.entry.legal_hold).count() as u64,
        tombstones: dataset.changes.values().filter(|c| c.tombstone).count() as u64,
        ..dataset.record.clone()
    }
}

fn object(state: &MemoryStore, dataset: &Dataset, id: &DatasetId, key: &str) -> Result<(), Broken> {
    let held = read::object(state, id, key, None);
    let wanted = dataset.current_entry(key);
    hold!(
        held == wanted,
        "{key:?} of {id} reads as {held:?}, the model says {wanted:?}"
    );
    let versions = dataset.objects.get(key).map_or(&[][..], Vec::as_slice);
    let older = versions.split_last().map_or(&[][..], |(_, older)| older);
    for version in older {
        let held = read::object(state, id, key, Some(&version.id));
        hold!(
            held.as_ref() == Some(&version.entry),
            "version {} of {key:?} reads as {held:?}, the model says {:?}",
            version.id,
            version.entry
        );
    }
    for version in versions {
        uploads::parts(state, &version.id, version.parts.iter())?;
    }
    let current_is = versions.last().filter(|current| !current.entry.versioned);
    let null = current_is.or_else(|| older.iter().find(|version| version.is_null()));
    let held = read::null_version(state, id, key).map(|head| head.version_id);
    let wanted = null.map(|version| version.id.into());
    hold!(
        held == wanted,
        "the null version of {key:?} is {held:?}, the model says {wanted:?}"
    );
    Ok(())
}

/// Pages of objects and of versions, however they are cut, are the model's lists.
pub(super) fn listings(
    state: &MemoryStore,
    model: &Model,
    id: &DatasetId,
    rng: &mut StdRng,
) -> Result<(), Broken> {
    let Some(dataset) = model.datasets.get(id).filter(|d| !d.dropped()) else {
        return Ok(());
    };
    let limit = rng.random_range(0..4);
    let prefix = ["", "a", "a/", "b"][rng.random_range(0..4)];
    let delimiter = ["", "/"][rng.random_range(0..2)];
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let query = ObjectsQuery {
            dataset: id,
            prefix,
            delimiter,
            start_after: &after,
            limit,
        };
        let page = objects(state, query);
        hold!(
            limit == 0 || page.objects.len() + page.common_prefixes.len() <= limit,
            "a page of {limit} is longer"
        );
        listed.extend(page.objects.into_iter().map(|object| object.key));
        listed.extend(page.common_prefixes);
        if !page.truncated {
            break;
        }
        after = page.next_start_after;
    }
    listed.sort();
    let wanted = wanted_objects(dataset, prefix, delimiter);
    hold!(
        listed == wanted,
        "{prefix:?} {delimiter:?} lists {listed:?}, the model {wanted:?}"
    );
    let (mut listed, mut key, mut index) = (Vec::new(), String::new(), 0);
    loop {
        let query = VersionsQuery {
            dataset: id,
            prefix,
            start_after_key: &key,
            start_after_index: LogIndex(index),
            limit,
        };
        let page = versions(state, query);
        for version in page.versions {
            let id = version
                .entry
                .and_then(|entry| version_id(&entry.version_id));
            listed.push((version.key, id));
        }
        if !page.truncated {
            break;
        }
        (key, index) = (page.next_key, page.next_index);
    }
    let under = |(key, _): &(&String, _)| key.starts_with(prefix);
    let wanted: Vec<_> = dataset
        .objects
        .iter()
        .filter(under)
        .flat_map(|(key, all)| all.iter().rev().map(|v| (key.clone(), Some(v.id))))
        .collect();
    hold!(
        listed == wanted,
        "{prefix:?} lists versions {listed:?}, the model {wanted:?}"
    );
    uploads::listing(state, dataset, id, prefix, limit)
}

fn wanted_objects(dataset: &Dataset, prefix: &str, delimiter: &str) -> Vec<String> {
    let mut names = BTreeSet::new();
    for (key, versions) in &dataset.objects {
        let shown = versions.last().is_some_and(|v| !v.entry.delete_marker);
        let Some(rest) = key.strip_prefix(prefix).filter(|_| shown) else {
            continue;
        };
        let folded = Some(delimiter)
            .filter(|delimiter| !delimiter.is_empty())
            .and_then(|delimiter| rest.split_once(delimiter))
            .map(|(head, _)| format!("{prefix}{head}{delimiter}"));
        names.insert(folded.unwrap_or_else(|| key.clone()));
    }
    names.into_iter().collect()
}

/// What the shard remembers of requests and garbage, and what the replica has to look for.
pub(super) fn memory(
    state: &MemoryStore,
    local: &MemoryStore,
    model: &Model,
) -> Result<(), Broken> {
    for (id, answer) in model.answered() {
        let kept = read::answered(state, id).map(v1::ShardAnswer::decode);
        hold!(
            kept == Some(Ok(answer.clone())),
            "request {id:?} is remembered as {kept:?}, it was answered {answer:?}"
        );
    }
    let mut garbage = BTreeMap::new();
    read::garbage(state, UploadEpoch(u64::MAX), &mut |epoch, id, _| {
        garbage.insert(id, epoch.0);
        true
    });
    let kept = |epoch: &u64| *epoch + EPOCHS_KEPT >= model.epoch;
    for (id, epoch) in model.freed.iter().filter(|(_, epoch)| kept(epoch)) {
        hold!(
            garbage.get(id) == Some(epoch),
            "version {id} went in epoch {epoch}, the shard says {:?}",
            garbage.get(id)
        );
    }
    let mut living: BTreeSet<ObjectVersionId> = BTreeSet::new();
    for dataset in model.datasets.values() {
        living.extend(dataset.versions().map(|version| version.id));
        living.extend(dataset.uploads.keys());
        living.extend(dataset.parts().map(|part| part.id));
    }
    hold!(
        garbage.keys().all(|id| !living.contains(id)),
        "a version or part that lives is garbage"
    );
    let versions = model.datasets.values().flat_map(Dataset::versions);
    let parts = model.datasets.values().flat_map(Dataset::parts);
    let in_blocks = versions.filter(|v| !v.entry.blocks.is_empty()).count()
        + parts.filter(|part| part.in_blocks()).count()
        + model.doomed.values().filter(|part| part.in_blocks).count();
    let in_blocks = in_blocks as u64;
    let looked_for = local::count_missing_through(LogIndex(u64::MAX), local, u64::MAX);
    // Versions of dropped datasets go as the sweep comes by.
    let least_and_most = in_blocks..=in_blocks + model.limbo.len() as u64;
    hold!(
        least_and_most.contains(&looked_for),
        "{looked_for} versions are looked for on disk, the model has {in_blocks} in blocks"
    );
    Ok(())
}

/// After a sweep that says that nothing is left, nothing is.
pub(super) fn nothing_is_due(state: &MemoryStore, model: &Model) -> Result<(), Broken> {
    for of in [table::REQUEST, table::GARBAGE] {
        let oldest = UploadEpoch(model.epoch.saturating_sub(EPOCHS_KEPT));
        let end = keys::epoch_start(of, oldest);
        let due = rows(state, &[of], &end);
        hold!(
            due == 0,
            "{due} rows of table {of:#x} are due and were left"
        );
    }
    let (start, end) = keys::range(table::PURGE, &[]);
    let purges = rows(state, &start, &end);
    hold!(purges == 0, "{purges} dropped datasets were left");
    uploads::nothing_is_due(state, model)?;
    for (id, dataset) in model.datasets.iter().filter(|(_, d)| d.dropped()) {
        let held = read::dataset(state, id).unwrap_or_default();
        let left = (held.objects, held.versions, held.sealed_bytes);
        hold!(
            left == (0, 0, 0),
            "dropped dataset {id} ({}) still holds {left:?}",
            dataset.record.name
        );
    }
    Ok(())
}

fn rows(state: &MemoryStore, start: &[u8], end: &[u8]) -> usize {
    let mut count = 0;
    state.scan(start, end, &mut |_, _| {
        count += 1;
        true
    });
    count
}
