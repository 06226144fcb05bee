//! Lifecycles: versions, markers and uploads that end by their age.
//!
//! Owns where a round over all datasets with rules goes on: of each its older versions, then its current ones, then its
//! uploads. A command looks at a bounded number of records and removes at most one, because a dataset's change index has
//! one place a log index. Ages are by the group's time. Refuses what object lock keeps, and datasets that are fenced.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId, UnixMs};
use proto::store::Reader;
use proto::v1;

use super::lock::DAY_MS;
use super::refusal::Answer;
use super::relocation::takes_lifecycle;
use super::versions::NewVersion;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::SWEEP_STEPS_MAX;
use crate::record;

/// In this order: what is removed of the older versions may leave a marker alone.
const STAGES: [u8; 3] = [table::OLDER, table::CURRENT, table::UPLOAD];
/// Label of the ids of delete markers that no user minted.
const MARKER_LABEL: &[u8] = b"reduit/v1/lifecycle-marker\n";

/// Whether a round is under way or due at this time.
pub fn is_due(state: &(impl Reader + ?Sized), now: UnixMs) -> bool {
    let (first, end) = keys::range(table::RULES, &[]);
    let mut any = false;
    state.scan(&first, &end, &mut |_, _| {
        any = true;
        false
    });
    any && !waits(&cursor(state), now)
}

fn cursor(state: &(impl Reader + ?Sized)) -> v1::LifecycleCursor {
    record::load(state, &keys::sweep(table::RULES)).unwrap_or(v1::LifecycleCursor {
        idle: true,
        ..Default::default()
    })
}

/// A round has ended and the next is not due.
fn waits(cursor: &v1::LifecycleCursor, now: UnixMs) -> bool {
    cursor.idle && cursor.began_ms > 0 && now.0.saturating_sub(cursor.began_ms) < DAY_MS
}

/// A record that a round has come to.
struct Looked<'a> {
    table: u8,
    key: &'a [u8],
    value: &'a [u8],
}

impl Apply<'_> {
    /// Answers whether more is to be looked at.
    pub(super) fn lifecycle_step(&mut self, step: &v1::LifecycleStep) -> Answer {
        let mut cursor = cursor(&*self.state);
        if waits(&cursor, self.meta.time) {
            return Ok(self.done());
        }
        if cursor.idle {
            cursor = v1::LifecycleCursor {
                began_ms: self.meta.time.0,
                ..Default::default()
            };
        }
        let mut left = step.steps.clamp(1, SWEEP_STEPS_MAX) as usize;
        while left > 0 && !cursor.idle {
            let Some((dataset, rules)) = self.subject(&mut cursor) else {
                cursor.idle = true;
                break;
            };
            left = self.go_on(dataset, &rules, &mut cursor, left);
        }
        let more = !cursor.idle;
        self.state
            .put(&keys::sweep(table::RULES), &cursor.encode_to_vec());
        Ok(v1::Done {
            more,
            ..self.done()
        })
    }

    /// The dataset that the round has come to, and its rules; `None` when there is none left.
    fn subject(&self, cursor: &mut v1::LifecycleCursor) -> Option<(Dataset, v1::Lifecycle)> {
        loop {
            let under_way = DatasetId::try_from(cursor.next.get(1..17).unwrap_or_default()).ok();
            let (first, end) = keys::range(table::RULES, &[]);
            let start = under_way.map_or(first, |id| keys::dataset(table::RULES, &id));
            let (key, value) = self.some_records(&start, &end, 1).pop()?;
            let id = DatasetId::try_from(&key[1..]).expect("the key was written by us");
            if under_way != Some(id) {
                cursor.next = stage_start(STAGES[0], &id).into();
                // An object of the same key here is another: what was counted of the last one is not its.
                cursor.key.clear();
            }
            let record = self.dataset(&id).expect("only datasets have rules");
            if takes_lifecycle(&record) {
                return Some((Dataset { id, record }, record::decode(&value)));
            }
            cursor.next = past(&id)?.into();
        }
    }

    /// Looks at up to `steps` records of one table of the dataset, up to the first that it changes something for.
    fn go_on(
        &mut self,
        mut dataset: Dataset,
        rules: &v1::Lifecycle,
        cursor: &mut v1::LifecycleCursor,
        steps: usize,
    ) -> usize {
        let table = cursor.next[0];
        let (_, end) = keys::range(table, dataset.id.as_bytes());
        let found = self.some_records(&cursor.next, &end, steps);
        for (key, value) in &found {
            cursor.next = [key, &[0][..]].concat().into();
            let looked = Looked { table, key, value };
            if self.look(&mut dataset, rules, cursor, &looked) {
                self.save(&dataset);
                return 0;
            }
        }
        if found.len() < steps {
            let at = STAGES.iter().position(|stage| *stage == table);
            let next = at.and_then(|at| STAGES.get(at + 1));
            match next {
                Some(next) => cursor.next = stage_start(*next, &dataset.id).into(),
                None => match past(&dataset.id) {
                    Some(next) => cursor.next = next.into(),
                    None => cursor.idle = true,
                },
            }
        }
        // An empty table costs a step too: there may be many.
        steps - found.len().max(1)
    }

    /// Whether it removed something.
    fn look(
        &mut self,
        dataset: &mut Dataset,
        rules: &v1::Lifecycle,
        cursor: &mut v1::LifecycleCursor,
        looked: &Looked<'_>,
    ) -> bool {
        let (key, _) = keys::object_key(looked.key).expect("the key was written by us");
        let now = self.meta.time.0;
        let due = |days: u32, since_ms: u64| {
            days > 0 && now.saturating_sub(since_ms) >= u64::from(days) * DAY_MS
        };
        let mut of_key = rules
            .rules
            .iter()
            .filter(|rule| key.starts_with(&rule.prefix));
        if looked.table == table::UPLOAD {
            let upload: v1::UploadRecord = record::decode(looked.value);
            let ends = of_key.any(|rule| due(rule.abort_days, upload.begun_at_ms));
            if ends {
                self.drop_upload(dataset, looked.key, &upload);
            }
            return ends;
        }
        let head: v1::ObjectEntry = record::decode(looked.value);
        let current = self.current(&dataset.id, &key);
        if looked.table == table::CURRENT {
            let alone = head.delete_marker && self.newest_older(&dataset.id, &key).is_none();
            let ends = of_key.any(|rule| match head.delete_marker {
                true => rule.expire_markers && alone,
                false => due(rule.expire_days, head.finished_at_ms),
            });
            return ends && self.end_current(dataset, &key, head);
        }
        if cursor.key != key {
            let covered_at = current.as_ref().map_or(now, |head| head.finished_at_ms);
            (cursor.key, cursor.newer, cursor.newer_at_ms) = (key.clone(), 0, covered_at);
        }
        let ends = of_key.any(|rule| {
            due(rule.noncurrent_days, cursor.newer_at_ms) && cursor.newer >= rule.newer_noncurrent
        });
        cursor.newer = cursor.newer.saturating_add(1);
        cursor.newer_at_ms = head.finished_at_ms;
        if !ends || self.removable(&head, false).is_err() {
            return false;
        }
        self.remove_older(dataset, &key, current, head.finished_index);
        true
    }

    /// As a user's delete would: by a marker where versions are kept.
    fn end_current(&mut self, dataset: &mut Dataset, key: &str, head: v1::ObjectEntry) -> bool {
        if !head.delete_marker && self.keeps_versions(dataset, key, Some(&head)) {
            let id = marker_id(&head.version_id, self.index);
            // One of the ids there are: nobody chose it.
            if self.unused(&id).is_err() {
                return false;
            }
            let entry = v1::ObjectEntry {
                format: 1,
                delete_marker: true,
                ..Default::default()
            };
            self.add_version(dataset, key, Some(head), NewVersion { id, entry });
            return true;
        }
        if self.removable(&head, false).is_err() {
            return false;
        }
        self.remove_current(dataset, key, &head);
        true
    }
}

fn stage_start(table: u8, dataset: &DatasetId) -> Vec<u8> {
    keys::range(table, dataset.as_bytes()).0
}

/// Beyond a dataset, as [`Apply::subject`] takes it: the next id there could be.
fn past(dataset: &DatasetId) -> Option<Vec<u8>> {
    let next = u128::from_be_bytes(dataset.0).checked_add(1)?;
    Some(stage_start(STAGES[0], &DatasetId(next.to_be_bytes())))
}

fn marker_id(of: &Bytes, index: LogIndex) -> ObjectVersionId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MARKER_LABEL).update(of);
    hasher.update(&index.0.to_be_bytes());
    let mut id = [0; ObjectVersionId::BYTES];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..ObjectVersionId::BYTES]);
    ObjectVersionId(id)
}

#[cfg(test)]
mod tests;
