//! Removal of what is due: expired request ids and garbage records, parts of what is gone, contents of dropped datasets.
//!
//! Owns where each sweep goes on, so that no scan meets again what was removed. Refuses to do more than a bounded
//! number of steps in one apply, and to remove anything by a clock.

use proto::ids::{DatasetId, LogIndex, UploadEpoch};
use proto::v1;

use super::versions::uncount_object;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::EPOCHS_KEPT;
use crate::record;

/// Both are ordered by epoch and kept for the same number of epochs. A garbage record may go then: what a node that
/// slept through it still has on disk belongs to an upload that is too old to be finished.
const EXPIRING: [u8; 2] = [table::REQUEST, table::GARBAGE];

/// In this order the counters and references of a dataset stay true at every step.
const PURGED: [u8; 11] = [
    table::OLDER,
    table::CURRENT,
    table::UPLOAD,
    table::TOMBSTONE,
    table::CHANGE,
    table::TOKEN_USE,
    table::TOKEN,
    table::CONFIG,
    table::KNOWN,
    table::REQUEST_AT,
    table::CROSSED,
];

impl Apply<'_> {
    /// The upload epoch has moved on: what the window has left behind is due.
    pub(super) fn expire(&mut self) {
        let before = UploadEpoch(self.expired_before().0.saturating_sub(1));
        for of in EXPIRING {
            let cursor = keys::sweep(of);
            // A sweep that is under way has not yet come to what is due now.
            if self.state.value(&cursor).is_none() {
                self.state.put(&cursor, &keys::epoch_start(of, before));
            }
        }
        self.meta.sweeping = true;
    }

    fn expired_before(&self) -> UploadEpoch {
        UploadEpoch(self.meta.upload_epoch.0.saturating_sub(EPOCHS_KEPT))
    }

    /// Removes up to `steps` records; answers whether more may be due.
    pub(super) fn sweep(&mut self, steps: u32) -> bool {
        if !self.meta.sweeping {
            return false;
        }
        let mut left = steps as usize;
        for of in EXPIRING {
            left = self.sweep_expired(of, left);
        }
        left = self.sweep_due(left);
        left = self.sweep_parts(left);
        while left > 0 {
            let Some((id, cursor)) = self.next_purge() else {
                break;
            };
            left = self.purge(id, cursor, left);
            left = self.sweep_parts(left);
        }
        self.meta.sweeping = left == 0;
        self.meta.sweeping
    }

    fn sweep_expired(&mut self, of: u8, steps: usize) -> usize {
        let place = keys::sweep(of);
        let Some(cursor) = self.state.value(&place).filter(|_| steps > 0) else {
            return steps;
        };
        let end = keys::epoch_start(of, self.expired_before());
        let found = self.some_records(&cursor, &end, steps);
        for (key, value) in &found {
            self.state.delete(key);
            if of == table::GARBAGE {
                let (_, id) = keys::garbage_parts(key).expect("the key was written by us");
                self.state.delete(&keys::version(table::FREED, &id));
            }
            if of == table::REQUEST {
                self.unindex_request(value);
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == steps => self.state.put(&place, &after(last)),
            _ => self.state.delete(&place),
        }
        steps - found.len()
    }

    /// Records that an arrival needed and whose time is over.
    fn sweep_due(&mut self, steps: usize) -> usize {
        let mut left = steps;
        let (first, end) = keys::range(table::DUE, &[]);
        while left > 0 {
            let Some((place, cursor)) = self.some_records(&first, &end, 1).pop() else {
                break;
            };
            let (epoch, of, dataset) = keys::due_parts(&place).expect("the key was written by us");
            if epoch > self.meta.upload_epoch {
                break;
            }
            let (start, end) = keys::range(of, dataset.as_bytes());
            let start = Some(cursor)
                .filter(|cursor| !cursor.is_empty())
                .unwrap_or(start);
            let found = self.some_records(&start, &end, left);
            for (key, _) in &found {
                self.state.delete(key);
            }
            match found.last() {
                Some((last, _)) if found.len() == left => self.state.put(&place, &after(last)),
                _ => self.state.delete(&place),
            }
            left -= found.len();
        }
        left
    }

    fn unindex_request(&mut self, value: &[u8]) {
        let kept: v1::RequestRecord = record::decode(value);
        if let Ok(dataset) = DatasetId::try_from(kept.dataset_id.as_ref()) {
            let place = keys::change(table::REQUEST_AT, &dataset, LogIndex(kept.log_index));
            self.state.delete(&place);
        }
    }

    fn next_purge(&self) -> Option<(DatasetId, Vec<u8>)> {
        let (start, end) = keys::range(table::PURGE, &[]);
        let (key, cursor) = self.some_records(&start, &end, 1).pop()?;
        Some((
            DatasetId::try_from(&key[1..]).expect("the key was written by us"),
            cursor,
        ))
    }

    /// Goes on with one dropped dataset. The cursor is the next key to look at; empty at the beginning.
    fn purge(&mut self, id: DatasetId, cursor: Vec<u8>, mut left: usize) -> usize {
        let record = self
            .dataset(&id)
            .expect("a dropped dataset keeps its record");
        let mut dataset = Dataset { id, record };
        let stage = cursor
            .first()
            .and_then(|of| PURGED.iter().position(|stage| stage == of));
        let mut from = Some(cursor).filter(|cursor| !cursor.is_empty());
        for of in &PURGED[stage.unwrap_or(0)..] {
            let (start, end) = keys::range(*of, id.as_bytes());
            let from = from.take().unwrap_or(start);
            let found = self.some_records(&from, &end, left);
            for (key, value) in &found {
                self.purge_record(&mut dataset, *of, key, value);
            }
            left -= found.len();
            if left == 0 {
                let next = found.last().map_or(from, |(last, _)| after(last));
                self.state.put(&keys::dataset(table::PURGE, &id), &next);
                self.save(&dataset);
                return 0;
            }
        }
        self.state.delete(&keys::dataset(table::PURGE, &id));
        self.save(&dataset);
        left
    }

    fn purge_record(&mut self, dataset: &mut Dataset, of: u8, key: &[u8], value: &[u8]) {
        if of == table::TOMBSTONE {
            return self.drop_tombstone(dataset, key);
        }
        if of == table::UPLOAD {
            return self.drop_upload(dataset, key, &record::decode(value));
        }
        if of == table::OLDER || of == table::CURRENT {
            let head: v1::ObjectEntry = record::decode(value);
            if of == table::CURRENT {
                uncount_object(dataset, &head);
            }
            self.retire(dataset, &head);
        }
        self.state.delete(key);
    }

    pub(super) fn some_records(
        &self,
        start: &[u8],
        end: &[u8],
        count: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        if count == 0 {
            return found;
        }
        self.state.scan(start, end, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            found.len() < count
        });
        found
    }
}

/// The first key after `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
