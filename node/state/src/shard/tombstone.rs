//! Tombstones: what is gone, in the change index, while somebody has to learn of it.
//!
//! Owns their place in the index and the order in which they go. Which ones go is decided by [`Tombstones`]; below level 6
//! all are kept within the bound. Refuses to drop one from the middle: a reader is told how far back the index reaches.

use prost::Message as _;
use proto::ids::LogIndex;
use proto::v1;

use super::relocation::RELOCATION_LEVEL;
use super::versions::less;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::{TOMBSTONE_STEPS, TOMBSTONES_MAX};
use crate::relocation::{Authority, Tombstones};

impl Apply<'_> {
    /// Records in the change index that a version is gone, and drops what nobody needs or is too much. `null` says that
    /// it was the key's null version.
    pub(super) fn entomb(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        gone: &v1::ObjectEntry,
        null: bool,
    ) -> v1::Done {
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: gone.version_id.clone(),
            delete_marker: gone.delete_marker,
            tombstone: true,
            null_version: null && self.level >= RELOCATION_LEVEL,
            ..Default::default()
        };
        let id = &dataset.id;
        self.state.put(
            &keys::change(table::CHANGE, id, self.index),
            &change.encode_to_vec(),
        );
        self.state
            .put(&keys::change(table::TOMBSTONE, id, self.index), &[]);
        let kept = tombstones(dataset).added();
        dataset.record.tombstones = kept.kept;
        self.drop_tombstones(dataset, TOMBSTONE_STEPS);
        let id = &gone.version_id;
        v1::Done {
            version_id: id.clone(),
            replaced_version_id: id.clone(),
            ..self.done()
        }
    }

    /// Drops up to `steps` of the oldest, while they go.
    pub(super) fn drop_tombstones(&mut self, dataset: &mut Dataset, steps: u32) {
        let authority = Authority::stored(&dataset.record);
        for _ in 0..steps {
            let held = tombstones(dataset);
            let by_number = self.level < RELOCATION_LEVEL;
            if held.kept == 0 || by_number && held.kept <= TOMBSTONES_MAX {
                return;
            }
            let (key, oldest) = self.oldest_tombstone(dataset);
            if !by_number && !held.drops(oldest, authority.departure(), TOMBSTONES_MAX) {
                return;
            }
            self.drop_tombstone(dataset, &key);
            let left = held.dropped(oldest);
            dataset.record.tombstones_from = left.dropped_through.0;
        }
    }

    fn oldest_tombstone(&self, dataset: &Dataset) -> (Vec<u8>, LogIndex) {
        // From the last one dropped: the store may still hold markers of all those before it.
        let from = LogIndex(dataset.record.tombstones_from);
        let start = keys::change(table::TOMBSTONE, &dataset.id, from);
        let (_, end) = keys::range(table::TOMBSTONE, dataset.id.as_bytes());
        let (key, _) = self
            .some_records(&start, &end, 1)
            .pop()
            .expect("counters cover everything that is stored");
        let index = keys::change_index(&key).expect("the key was written by us");
        (key, index)
    }

    /// Removes a tombstone by its key in the order of tombstones.
    pub(super) fn drop_tombstone(&mut self, dataset: &mut Dataset, key: &[u8]) {
        self.state.delete(key);
        let mut change = key.to_vec();
        change[0] = table::CHANGE;
        self.state.delete(&change);
        dataset.record.tombstones = less(dataset.record.tombstones, 1);
    }
}

/// What a dataset's record says of its tombstones.
pub(crate) fn of_record(record: &v1::DatasetRecord) -> Tombstones {
    Tombstones {
        kept: record.tombstones,
        dropped_through: LogIndex(record.tombstones_from),
    }
}

fn tombstones(dataset: &Dataset) -> Tombstones {
    of_record(&dataset.record)
}
