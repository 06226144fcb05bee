//! The versions of an object and everything that refers to them, kept in step.
//!
//! Owns the tables of current and older versions, bodies, the change index and garbage. Refuses to leave a version
//! half there: each function here moves all tables or none.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId};
use proto::v1;

use super::config::CONFIG_LEVEL;
use super::lock::count_lock;
use super::refusal::refuse;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::{local, record};

/// A version that is about to become the current one. `entry` is complete but for what apply sets.
pub(super) struct NewVersion {
    pub(super) id: ObjectVersionId,
    pub(super) entry: v1::ObjectEntry,
}

impl Apply<'_> {
    /// The head of the current version, a delete marker included.
    pub(super) fn current(&self, dataset: &DatasetId, key: &str) -> Option<v1::ObjectEntry> {
        record::load(&*self.state, &keys::current(dataset, key))
    }

    /// Refuses an id that stands for a version, or whose blocks or parts are being removed.
    pub(super) fn unused(&self, id: &ObjectVersionId) -> Result<(), v1::Refused> {
        let taken = [table::VERSION, table::FREED]
            .into_iter()
            .any(|of| self.state.value(&keys::version(of, id)).is_some());
        if taken || self.has_parts(id) {
            refuse(v1::Refusal::VersionIdReused)
        } else {
            Ok(())
        }
    }

    /// Makes `new` the current version, keeping or dropping the one before. Answers the id of that one.
    pub(super) fn add_version(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        current: Option<v1::ObjectEntry>,
        mut new: NewVersion,
    ) -> Bytes {
        let replaced = current
            .as_ref()
            .map(|entry| entry.version_id.clone())
            .unwrap_or_default();
        if let Some(current) = current {
            uncount_object(dataset, &current);
            new.entry.null_index = self.cover(dataset, key, current);
        }
        self.store(dataset, key, new);
        replaced
    }

    /// Keeps or drops what was the current version, and the null version that a new one takes the place of. Answers
    /// where the null version stands from then on.
    fn cover(&mut self, dataset: &mut Dataset, key: &str, current: v1::ObjectEntry) -> u64 {
        if !keeps(dataset, &current) {
            self.retire(dataset, &current);
            return 0;
        }
        let null = match current.versioned || self.level < CONFIG_LEVEL {
            true => current.null_index,
            false => current.finished_index,
        };
        let older = v1::ObjectEntry {
            null_index: 0,
            ..current
        };
        let place = keys::older(&dataset.id, key, LogIndex(older.finished_index));
        self.state.put(&place, &older.encode_to_vec());
        if dataset.record.versioning || null == 0 {
            return null;
        }
        // What is put while versioning is suspended is the null version, and there is one.
        let before = self.older(&dataset.id, key, null);
        self.state
            .delete(&keys::older(&dataset.id, key, LogIndex(null)));
        self.retire(dataset, &before);
        0
    }

    /// Removes the current version, and leaves a tombstone.
    pub(super) fn remove_current(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        current: &v1::ObjectEntry,
    ) -> v1::Done {
        self.take_current(dataset, key, current);
        self.entomb(dataset, key, current, !current.versioned)
    }

    /// Takes the current version away; the newest older one takes its place.
    pub(super) fn take_current(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        current: &v1::ObjectEntry,
    ) {
        uncount_object(dataset, current);
        self.retire(dataset, current);
        let place = keys::current(&dataset.id, key);
        match self.newest_older(&dataset.id, key) {
            Some((from, mut promoted)) => {
                self.state.delete(&from);
                if promoted.finished_index != current.null_index {
                    promoted.null_index = current.null_index;
                }
                self.state.put(&place, &promoted.encode_to_vec());
                dataset.record.objects += u64::from(!promoted.delete_marker);
            }
            None => self.state.delete(&place),
        }
    }

    /// The head of an older version, which must be there.
    pub(super) fn older(
        &self,
        dataset: &DatasetId,
        key: &str,
        finished_index: u64,
    ) -> v1::ObjectEntry {
        let place = keys::older(dataset, key, LogIndex(finished_index));
        record::load(&*self.state, &place)
            .expect("a version that is not the current one is among the older ones")
    }

    /// Removes an older version, which must be there, and leaves a tombstone.
    pub(super) fn remove_older(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        current: Option<v1::ObjectEntry>,
        finished_index: u64,
    ) -> v1::Done {
        let null = current
            .as_ref()
            .is_some_and(|head| head.null_index == finished_index);
        let older = self.take_older(dataset, key, current, finished_index);
        self.entomb(dataset, key, &older, null)
    }

    /// Takes an older version away, which must be there.
    pub(super) fn take_older(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        current: Option<v1::ObjectEntry>,
        finished_index: u64,
    ) -> v1::ObjectEntry {
        let older = self.older(&dataset.id, key, finished_index);
        self.state
            .delete(&keys::older(&dataset.id, key, LogIndex(finished_index)));
        self.retire(dataset, &older);
        if let Some(mut current) = current.filter(|head| head.null_index == finished_index) {
            current.null_index = 0;
            self.state
                .put(&keys::current(&dataset.id, key), &current.encode_to_vec());
        }
        older
    }

    /// Record key and head of the newest older version.
    pub(super) fn newest_older(
        &self,
        dataset: &DatasetId,
        key: &str,
    ) -> Option<(Vec<u8>, v1::ObjectEntry)> {
        let start = keys::older_prefix(dataset, key);
        let mut found = None;
        self.state
            .scan(&start, &keys::end_of(&start), &mut |record_key, value| {
                found = Some((record_key.to_vec(), record::decode(value)));
                false
            });
        found
    }

    /// Takes back everything that refers to a version, but its place among current or older ones.
    pub(super) fn retire(&mut self, dataset: &mut Dataset, head: &v1::ObjectEntry) {
        let id = version_id(head);
        let place = keys::version(table::VERSION, &id);
        let at: v1::VersionRecord =
            record::load(&*self.state, &place).expect("every version has its record");
        self.state.delete(&place);
        if !head.delete_marker {
            self.state.delete(&keys::version(table::BODY, &id));
            self.release_token(&dataset.id, &head.lease_id);
        }
        self.free_blocks(&id, at);
        if head.parts > 0 {
            self.doom_parts(&dataset.id, &id);
        }
        let finished = LogIndex(head.finished_index);
        self.state
            .delete(&keys::change(table::CHANGE, &dataset.id, finished));
        self.forget_change(dataset, head.changed_index);
        self.forget_change(dataset, head.metadata_index);
        let counts = &mut dataset.record;
        counts.versions = less(counts.versions, 1);
        counts.legal_holds = less(counts.legal_holds, u64::from(head.legal_hold));
        self.uncount_bytes(dataset, own_bytes(head));
    }

    /// Makes garbage of the blocks that an id stood for, if it had any.
    pub(super) fn free_blocks(&mut self, id: &ObjectVersionId, at: v1::VersionRecord) {
        if at.blocks == 0 {
            return;
        }
        let epoch = self.meta.upload_epoch;
        let garbage = v1::GarbageRecord {
            dataset_id: at.dataset_id,
            blocks: at.blocks,
            upload_epoch: at.upload_epoch,
        };
        self.state
            .put(&keys::garbage(epoch, id), &garbage.encode_to_vec());
        self.state
            .put(&keys::version(table::FREED, id), &epoch.0.to_be_bytes());
        local::forget(self.local, LogIndex(at.finished_index), id);
    }

    pub(super) fn count_bytes(&mut self, dataset: &mut Dataset, bytes: u64) {
        dataset.record.sealed_bytes += bytes;
        self.meta.sealed_bytes += bytes;
    }

    pub(super) fn uncount_bytes(&mut self, dataset: &mut Dataset, bytes: u64) {
        dataset.record.sealed_bytes = less(dataset.record.sealed_bytes, bytes);
        self.meta.sealed_bytes = less(self.meta.sealed_bytes, bytes);
    }

    fn store(&mut self, dataset: &mut Dataset, key: &str, new: NewVersion) {
        let NewVersion { id, entry } = new;
        let retention = self.retention_of_new(dataset, &entry);
        let body = v1::ObjectEntry {
            sealed_manifest: entry.sealed_manifest,
            inline: entry.inline,
            blocks: entry.blocks,
            ..Default::default()
        };
        let head = v1::ObjectEntry {
            version_id: Bytes::copy_from_slice(id.as_bytes()),
            finished_index: self.index.0,
            finished_at_ms: self.meta.time.0,
            versioned: dataset.record.versioning,
            retention,
            sealed_manifest: Bytes::new(),
            inline: Bytes::new(),
            blocks: Vec::new(),
            ..entry
        };
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: head.version_id.clone(),
            delete_marker: head.delete_marker,
            ..Default::default()
        };
        self.state
            .put(&keys::current(&dataset.id, key), &head.encode_to_vec());
        let place = keys::change(table::CHANGE, &dataset.id, self.index);
        self.state.put(&place, &change.encode_to_vec());
        self.refer(dataset, key, &id, &head, &body);
    }

    /// Puts everything that refers to a new version, but its place among current or older ones and in the change index.
    pub(super) fn refer(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        id: &ObjectVersionId,
        head: &v1::ObjectEntry,
        body: &v1::ObjectEntry,
    ) {
        let at = v1::VersionRecord {
            dataset_id: Bytes::copy_from_slice(dataset.id.as_bytes()),
            key: key.to_owned(),
            finished_index: self.index.0,
            blocks: u32::try_from(body.blocks.len()).expect("bounded when it was checked"),
            upload_epoch: head.upload_epoch,
            ..Default::default()
        };
        self.state
            .put(&keys::version(table::VERSION, id), &at.encode_to_vec());
        if !head.delete_marker {
            self.state
                .put(&keys::version(table::BODY, id), &body.encode_to_vec());
            self.use_token(&dataset.id, &head.lease_id);
        }
        if at.blocks > 0 {
            self.local.put(&local::fresh(self.index, id), &[]);
        }
        let counts = &mut dataset.record;
        counts.objects += u64::from(!head.delete_marker);
        counts.versions += 1;
        count_lock(dataset, head);
        self.count_bytes(dataset, own_bytes(head));
    }
}

/// Whether a version that is covered by another is kept: one made under versioning is, even after it is off, as in S3.
pub(super) fn keeps(dataset: &Dataset, current: &v1::ObjectEntry) -> bool {
    dataset.record.versioning || current.versioned
}

/// The current version leaves its place.
pub(super) fn uncount_object(dataset: &mut Dataset, current: &v1::ObjectEntry) {
    let counts = &mut dataset.record;
    counts.objects = less(counts.objects, u64::from(!current.delete_marker));
}

/// Sealed bytes that a version counts for itself: those of parts are counted by each, from when it is finished until
/// it is removed.
pub(super) fn own_bytes(head: &v1::ObjectEntry) -> u64 {
    match head.parts {
        0 => head.sealed_bytes,
        _ => 0,
    }
}

fn version_id(head: &v1::ObjectEntry) -> ObjectVersionId {
    ObjectVersionId::try_from(head.version_id.as_ref()).expect("checked before it was stored")
}

pub(super) fn less(count: u64, by: u64) -> u64 {
    count
        .checked_sub(by)
        .expect("counters cover everything that is stored")
}
