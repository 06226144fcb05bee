//! What lifecycles may end, and what they have to have ended when a round is over.
//!
//! Owns the ages by the group's time. Refuses to foretell which record a step comes to: what a step ended is taken from
//! the state, and has to have been due; of what is due when a round begins nothing may be there when it has ended.

use std::collections::BTreeMap;

use node_state::keys::{self, table};
use node_state::read;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId};
use proto::store::{MemoryStore, Reader as _};
use proto::v1;

use super::locks::DAY;
use super::model::{Dataset, Judging, Model, Position, version_id};
use super::objects::{New, Version};
use crate::{Broken, hold};

/// Where lifecycles are: a round over all datasets, at most one a day.
#[derive(Debug, Clone)]
pub(super) struct Round {
    began_ms: u64,
    /// It is over.
    pub(super) idle: bool,
    /// Versions of each object that have been removed since it began: they may have been counted before.
    removed: BTreeMap<(DatasetId, String), u32>,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            began_ms: 0,
            idle: true,
            removed: BTreeMap::new(),
        }
    }
}

impl Round {
    /// A version of an object is gone.
    pub(super) fn removed(&mut self, dataset: DatasetId, key: &str) {
        *self.removed.entry((dataset, key.to_owned())).or_default() += 1;
    }

    fn waits(&self, time: u64) -> bool {
        self.idle && self.began_ms > 0 && time - self.began_ms < DAY
    }
}

/// Something that a lifecycle ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    Upload(DatasetId, ObjectVersionId),
    /// A version that is not the current one, or a marker alone.
    Version(DatasetId, String, ObjectVersionId),
    /// The current version: gone, or under a marker.
    Current(DatasetId, String, ObjectVersionId),
}

fn old_enough(days: u32, since_ms: u64, time: u64) -> bool {
    days > 0 && time.saturating_sub(since_ms) >= u64::from(days) * DAY
}

/// Everything that is due at the model's time, each version's age counted from the one above it that is there.
pub(super) fn due(model: &Model) -> Vec<Due> {
    let mut found = Vec::new();
    let active = model
        .datasets
        .iter()
        .filter(|(_, dataset)| dataset.record.status() == v1::DatasetStatus::Active);
    for (id, dataset) in active {
        let rules = dataset.rules();
        for (of, upload) in &dataset.uploads {
            let mut rules = rules.iter().filter(|r| upload.key.starts_with(&r.prefix));
            if rules.any(|r| old_enough(r.abort_days, upload.begun_at_ms(), model.time)) {
                found.push(Due::Upload(*id, *of));
            }
        }
        for (key, versions) in &dataset.objects {
            let of_key: Vec<_> = rules
                .iter()
                .filter(|r| key.starts_with(&r.prefix))
                .collect();
            found.extend(due_of(*id, dataset, key, versions, &of_key, model.time));
        }
    }
    found
}

fn due_of(
    id: DatasetId,
    dataset: &Dataset,
    key: &str,
    versions: &[Version],
    rules: &[&v1::LifecycleRule],
    time: u64,
) -> Vec<Due> {
    let mut found = Vec::new();
    for (newer, pair) in versions.windows(2).rev().enumerate() {
        let (version, above) = (&pair[0], &pair[1]);
        let ends = rules.iter().any(|rule| {
            old_enough(rule.noncurrent_days, above.entry.finished_at_ms, time)
                && newer >= rule.newer_noncurrent as usize
        });
        if ends && !version.is_locked(time, false) {
            found.push(Due::Version(id, key.to_owned(), version.id));
        }
    }
    let Some(current) = versions.last() else {
        return found;
    };
    if current.entry.delete_marker {
        if versions.len() == 1 && rules.iter().any(|rule| rule.expire_markers) {
            found.push(Due::Version(id, key.to_owned(), current.id));
        }
    } else {
        let age = current.entry.finished_at_ms;
        let ends = rules.iter().any(|r| old_enough(r.expire_days, age, time));
        if ends && (dataset.keeps_versions(key) || !current.is_locked(time, false)) {
            found.push(Due::Current(id, key.to_owned(), current.id));
        }
    }
    found
}

/// Whether it is still as it was.
pub(super) fn stands(model: &Model, due: &Due) -> bool {
    let of = |id: &DatasetId| model.datasets.get(id);
    match due {
        Due::Upload(id, of_upload) => of(id).is_some_and(|d| d.uploads.contains_key(of_upload)),
        Due::Version(id, key, version) => of(id)
            .and_then(|dataset| dataset.objects.get(key))
            .is_some_and(|versions| versions.iter().any(|held| held.id == *version)),
        Due::Current(id, key, version) => of(id)
            .and_then(|dataset| dataset.current(key))
            .is_some_and(|current| current.id == *version),
    }
}

/// A step has been applied: what it ended in the state ends in the model, if it was due. Answers what that was.
pub(super) fn adopt(
    model: &mut Model,
    at: &Position,
    state: &MemoryStore,
    more: bool,
) -> Result<Option<&'static str>, Broken> {
    if model.round.waits(model.time) {
        hold!(!more, "a round goes on that has not begun");
        return Ok(None);
    }
    if model.round.idle {
        model.round = Round {
            began_ms: model.time,
            ..Round::default()
        };
    }
    model.round.idle = !more;
    let mut ended = None;
    for id in model.datasets.keys().copied().collect::<Vec<_>>() {
        let found = ended_of(model, at, state, &id)?;
        hold!(
            found.is_none() || ended.is_none(),
            "one step of a lifecycle ended two things, at index {}",
            at.index
        );
        ended = ended.or(found);
    }
    Ok(ended)
}

fn ended_of(
    model: &mut Model,
    at: &Position,
    state: &MemoryStore,
    id: &DatasetId,
) -> Result<Option<&'static str>, Broken> {
    let dataset = &model.datasets[id];
    if dataset.record.status() != v1::DatasetStatus::Active {
        return Ok(None);
    }
    let aborted = dataset
        .uploads
        .iter()
        .find(|(of, upload)| read::upload(state, id, &upload.key, of).is_none());
    if let Some((of, upload)) = aborted {
        let (of, key, since) = (*of, upload.key.clone(), upload.begun_at_ms());
        let due = rules_of(dataset, &key, |r| {
            old_enough(r.abort_days, since, model.time)
        });
        hold!(due, "upload {of} of {key:?} was ended before its time");
        judging(model, at, |judging| {
            drop(judging.end_upload(&id.0, of));
        });
        return Ok(Some("upload ended by its age"));
    }
    let change = read::changes(state, id, LogIndex(at.index - 1), 1).pop();
    let Some((_, change)) = change.filter(|(index, _)| index.0 == at.index) else {
        // The tombstone may have gone with those before it.
        let gone = |version: &&Version| {
            let place = keys::version(table::VERSION, &version.id);
            state.value(&place).is_none()
        };
        let mut all = dataset.objects.iter();
        let found = all.find_map(|(key, versions)| {
            let gone = versions.iter().find(gone)?;
            Some((key.clone(), gone.id))
        });
        return match found {
            Some((key, gone)) => removed(model, at, id, &key, gone).map(Some),
            None => Ok(None),
        };
    };
    let key = change.key.clone();
    let Some(changed) = version_id(&change.version_id) else {
        return Err(Broken(format!("a change of {key:?} without version")));
    };
    if change.tombstone {
        removed(model, at, id, &key, changed).map(Some)
    } else {
        covered(model, at, id, &key, changed).map(Some)
    }
}

/// A version is gone for good.
fn removed(
    model: &mut Model,
    at: &Position,
    id: &DatasetId,
    key: &str,
    gone: ObjectVersionId,
) -> Result<&'static str, Broken> {
    let dataset = &model.datasets[id];
    let versions = dataset.objects.get(key).map_or(&[][..], Vec::as_slice);
    let place = versions.iter().position(|version| version.id == gone);
    let Some(place) = place else {
        return Err(Broken(format!("{gone} of {key:?} ended and never was")));
    };
    let (version, newer) = (versions[place].clone(), versions.len() - 1 - place);
    let time = model.time;
    hold!(
        !version.is_locked(time, false),
        "locked version {gone} of {key:?} was ended by a lifecycle"
    );
    let entry = &version.entry;
    let (what, due) = match (newer, entry.delete_marker) {
        (0, true) => {
            let due = versions.len() == 1 && rules_of(dataset, key, |r| r.expire_markers);
            ("marker ended that stood alone", due)
        }
        (0, false) => {
            let age = entry.finished_at_ms;
            let due = rules_of(dataset, key, |r| old_enough(r.expire_days, age, time));
            let due = due && !dataset.keeps_versions(key);
            ("current version ended by its age", due)
        }
        _ => {
            let of_key = (*id, key.to_owned());
            let gone_since = model.round.removed.get(&of_key).copied().unwrap_or(0);
            let seen = newer as u32 - 1 + gone_since;
            let due = rules_of(dataset, key, |r| {
                old_enough(r.noncurrent_days, version.covered_at_ms, time)
                    && seen >= r.newer_noncurrent
            });
            ("older version ended by its age", due)
        }
    };
    hold!(
        due,
        "{gone} of {key:?}, covered at {} with {newer} above it, was ended before its time, at {time} by {:?}",
        version.covered_at_ms,
        dataset.rules()
    );
    judging(model, at, |judging| {
        drop(judging.remove(&id.0, key, &version));
    });
    Ok(what)
}

/// The current version is under a marker that nobody asked for.
fn covered(
    model: &mut Model,
    at: &Position,
    id: &DatasetId,
    key: &str,
    marker: ObjectVersionId,
) -> Result<&'static str, Broken> {
    let dataset = &model.datasets[id];
    let current = dataset.current(key).cloned();
    let age = current
        .filter(|current| !current.entry.delete_marker && dataset.keeps_versions(key))
        .map(|current| current.entry.finished_at_ms);
    let due = age
        .is_some_and(|age| rules_of(dataset, key, |r| old_enough(r.expire_days, age, model.time)));
    hold!(due, "{key:?} was deleted before its time");
    let free = judging(model, at, |judging| {
        let free = judging.unused(&marker).is_ok();
        drop(judging.add(&id.0, key, New::marker(marker)));
        free
    });
    hold!(free, "marker {marker} has the id of something else");
    Ok("current version covered by its age")
}

fn rules_of(dataset: &Dataset, key: &str, due: impl Fn(&v1::LifecycleRule) -> bool) -> bool {
    let rules = dataset.rules();
    rules
        .iter()
        .any(|rule| key.starts_with(&rule.prefix) && due(rule))
}

/// The rules of commands, for what no command names.
fn judging<T>(model: &mut Model, at: &Position, run: impl FnOnce(&mut Judging<'_>) -> T) -> T {
    let mut judging = Judging {
        model,
        at,
        decided_in: None,
        swept: &|_| false,
    };
    run(&mut judging)
}
