//! What changes of a version's sealed metadata have to come to, and what level 6 adds to the change index.
//!
//! Owns the list of changes as a reader that follows it would want it: of each version its making and the last change of its
//! lock and of its metadata, of the settings the last change, and tombstones while they are kept.

use proto::v1;
use proto::v1::{ChangeKind, Refusal};

use super::model::{Dataset, Judging, Outcome, refuse, version_id};
use super::objects::Version;

/// The level from which locks, metadata and settings leave changes, and tombstones that nobody reads go.
pub(super) const INDEX_LEVEL: u32 = 6;
/// Tombstones that go with each removal, while there are that many.
const TOMBSTONES_GONE: usize = 2;

impl Version {
    /// Log indexes of the changes that stand for it.
    pub(super) fn changes(&self) -> [u64; 3] {
        let entry = &self.entry;
        [
            entry.finished_index,
            entry.changed_index,
            entry.metadata_index,
        ]
    }
}

impl Dataset {
    /// The settings have changed here.
    pub(super) fn settings_changed(&mut self, level: u32, index: u64) {
        if level < INDEX_LEVEL {
            return;
        }
        self.changes.remove(&self.record.settings_index);
        self.record.settings_index = index;
        let change = v1::ChangeRecord {
            kind: ChangeKind::Settings.into(),
            ..Default::default()
        };
        self.changes.insert(index, change);
    }

    /// A tombstone of before level 6 stays; from then on the oldest two go with each that comes, as nobody departs.
    pub(super) fn drop_tombstones(&mut self, level: u32) {
        if level < INDEX_LEVEL {
            return;
        }
        for _ in 0..TOMBSTONES_GONE {
            let mut changes = self.changes.iter();
            let oldest = changes.find(|(_, change)| change.tombstone);
            let Some(oldest) = oldest.map(|(index, _)| *index) else {
                return;
            };
            self.changes.remove(&oldest);
            self.record.tombstones_from = oldest;
        }
    }

    /// A fence has ended because something could not wait for it.
    pub(super) fn unfence(&mut self, level: u32) {
        if level < INDEX_LEVEL || self.record.status() != v1::DatasetStatus::Fenced {
            return;
        }
        self.record.set_status(v1::DatasetStatus::Active);
        let authority = self.record.authority.get_or_insert_default();
        authority.set_standing(v1::Standing::Active);
        authority.fence = 0;
    }
}

impl Judging<'_> {
    pub(super) fn set_metadata(&mut self, key_state: u64, set: &v1::SetMetadata) -> Outcome {
        let lengths = (set.from_digest.len(), set.sealed_metadata.len());
        let good = lengths.0 == 32 && (1..=17 << 10).contains(&lengths.1);
        let Some(id) = version_id(&set.version_id).filter(|_| good) else {
            return refuse(Refusal::Malformed);
        };
        let dataset = self.sealable(&set.dataset_id, key_state)?;
        let versions = dataset.objects.get_mut(&set.key);
        let mut versions = versions.into_iter().flatten();
        let found = versions.find(|version| version.id == id && !version.entry.delete_marker);
        let Some(version) = found else {
            return refuse(Refusal::NoSuchObject);
        };
        let entry = &mut version.entry;
        let sealed = (&set.sealed_metadata, set.metadata_key_version);
        if (&entry.sealed_metadata, entry.metadata_key_version) == sealed {
            return Ok(self.done());
        }
        if blake3::hash(&entry.sealed_metadata).as_bytes()[..] != set.from_digest[..] {
            return refuse(Refusal::MetadataMoved);
        }
        entry.sealed_metadata = set.sealed_metadata.clone();
        entry.metadata_key_version = set.metadata_key_version;
        let of = (&set.dataset_id[..], &*set.key, &set.version_id);
        self.changed(of, ChangeKind::Metadata)?;
        Ok(self.done())
    }

    /// A version's lock or metadata has changed here.
    pub(super) fn changed(
        &mut self,
        (dataset, key, id): (&[u8], &str, &bytes::Bytes),
        kind: ChangeKind,
    ) -> Result<(), v1::Refused> {
        let (index, level) = (self.at.index, self.at.level);
        let dataset = self.writable(dataset)?;
        let versions = dataset.objects.get_mut(key).into_iter().flatten();
        let found = versions
            .into_iter()
            .find(|version| Some(version.id) == version_id(id));
        let Some(version) = found.filter(|_| level >= INDEX_LEVEL) else {
            return Ok(());
        };
        let at = match kind {
            ChangeKind::Metadata => &mut version.entry.metadata_index,
            _ => &mut version.entry.changed_index,
        };
        let before = std::mem::replace(at, index);
        dataset.changes.remove(&before);
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: id.clone(),
            kind: kind.into(),
            ..Default::default()
        };
        dataset.changes.insert(index, change);
        Ok(())
    }
}
