//! Versions, their locks and metadata, and removals that are imported.
//!
//! Owns where an imported version stands: its own log index orders it, as everything here, and the source's is kept beside
//! it. Refuses one that would come under a newer one of its key, and content that is not as durable as a commit's. No quota
//! and no lock stand in the way: what the source took is taken.

use prost::Message as _;
use proto::ids::{FeatureLevel, LeaseId, LogIndex, ObjectVersionId};
use proto::v1;

use crate::keys;
use crate::limits::{DIGEST_BYTES, INLINE_BYTES_MAX, METADATA_BYTES_MAX};
use crate::relocation::Unit;
use crate::shard::lock::{Version, count_compliance};
use crate::shard::put::{Commit, block_count};
use crate::shard::refusal::malformed;
use crate::shard::versions::{less, uncount_object};
use crate::shard::{Apply, Dataset};

/// The feature level from which a version in parts may be imported after its lease has ended.
pub const LATE_PARTS_LEVEL: FeatureLevel = FeatureLevel(9);

impl Apply<'_> {
    pub(super) fn version_importable(
        &self,
        verdict: v1::Verdict,
        dataset: &Dataset,
        unit: &Unit,
        index: u64,
        version: &v1::ImportedVersion,
    ) -> Result<(), v1::Refused> {
        let (Some(entry), Some(key)) = (&version.entry, unit.key()) else {
            return malformed();
        };
        let Ok(id) = ObjectVersionId::try_from(entry.version_id.as_ref()) else {
            return malformed();
        };
        let named = match unit {
            Unit::Version(_, named) => *named == id,
            _ => true,
        };
        let current = self.current(&dataset.id, key.as_str());
        let follows = current.is_none_or(|head| head.source_index < index);
        if !named || !follows || version.source_digest.len() != DIGEST_BYTES {
            return malformed();
        }
        if entry.delete_marker {
            let marker = v1::ObjectEntry {
                format: entry.format,
                version_id: entry.version_id.clone(),
                finished_at_ms: entry.finished_at_ms,
                delete_marker: true,
                ..Default::default()
            };
            let bare = *entry == marker && version.parts.is_empty();
            return if bare { self.unused(&id) } else { malformed() };
        }
        let asked = v1::ObjectEntry {
            finished_at_ms: 0,
            ..entry.clone()
        };
        let commit = Commit::new(key.as_str(), None, &asked, &version.holder)?;
        self.key_allows(verdict, dataset)?;
        let (now, receipts) = (self.meta.time, &version.receipts);
        // Its upload was begun by the lease's holder while the lease lived, and `parts_there` asks for just that upload.
        let begun_in_time = self.level >= LATE_PARTS_LEVEL && !version.parts.is_empty();
        self.token_allows(dataset, &commit.lease, commit.holder, |expiry| {
            now < expiry || self.begun_before(receipts, expiry) || begun_in_time
        })?;
        if !version.parts.is_empty() {
            return self.parts_there(
                dataset,
                (key.as_str(), &commit.lease),
                entry,
                &version.parts,
            );
        }
        self.unused(&id)?;
        self.durable(entry, receipts)
    }

    /// The bytes of one stream ride along, or lie in blocks that are durable on a majority.
    pub(in crate::shard) fn durable(
        &self,
        entry: &v1::ObjectEntry,
        receipts: &[v1::ReceiptClaim],
    ) -> Result<(), v1::Refused> {
        if entry.blocks.is_empty() {
            let inline = (1..=INLINE_BYTES_MAX).contains(&entry.inline.len())
                && entry.sealed_bytes == entry.inline.len() as u64
                && receipts.is_empty();
            return if inline { Ok(()) } else { malformed() };
        }
        if !entry.inline.is_empty() {
            return malformed();
        }
        let blocks = block_count(&entry.blocks, entry.sealed_bytes)?;
        self.young_enough(entry.upload_epoch)?;
        self.on_majority(receipts, blocks)
    }

    /// The upload of the version's id is there, under its lease, and has the parts that are named.
    pub(in crate::shard) fn parts_there(
        &self,
        dataset: &Dataset,
        (key, lease): (&str, &LeaseId),
        entry: &v1::ObjectEntry,
        parts: &[v1::PartName],
    ) -> Result<(), v1::Refused> {
        let upload = self.upload(dataset, key, &entry.version_id)?;
        let begun = &upload.record;
        let same = begun.lease_id == lease.as_bytes()[..]
            && begun.dek_salt == entry.dek_salt
            && begun.name_salt == entry.name_salt;
        let bare = entry.inline.is_empty() && entry.blocks.is_empty();
        let ascending = parts.windows(2).all(|pair| pair[0].number < pair[1].number);
        if !same || !bare || !ascending || entry.sealed_manifest.is_empty() {
            return malformed();
        }
        self.unnamed(&upload.id, &completion(entry, parts))?;
        Ok(())
    }

    pub(super) fn take_version(
        &mut self,
        dataset: &mut Dataset,
        unit: &Unit,
        index: LogIndex,
        version: &v1::ImportedVersion,
    ) {
        let (Some(entry), Some(key)) = (version.entry.clone(), unit.key()) else {
            return;
        };
        self.take_away(dataset, unit);
        if entry.retention.is_some() || entry.legal_hold {
            locks(dataset);
        }
        let versioned = matches!(unit, Unit::Version(..));
        self.stand(
            dataset,
            key.as_str(),
            entry,
            &version.parts,
            (versioned, index.0),
        );
    }

    /// Makes it the current version of its key, above what stands there. Of one in parts the upload ends.
    pub(in crate::shard) fn stand(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        entry: v1::ObjectEntry,
        parts: &[v1::PartName],
        (versioned, source_index): (bool, u64),
    ) {
        if !parts.is_empty() {
            self.take_parts(dataset, key, &entry, parts);
        }
        let mut null_index = 0;
        if let Some(covered) = self.current(&dataset.id, key) {
            uncount_object(dataset, &covered);
            if versioned {
                null_index = match covered.versioned {
                    true => covered.null_index,
                    false => covered.finished_index,
                };
            }
            let older = v1::ObjectEntry {
                null_index: 0,
                ..covered
            };
            let place = keys::older(&dataset.id, key, LogIndex(older.finished_index));
            self.state.put(&place, &older.encode_to_vec());
        }
        let body = v1::ObjectEntry {
            sealed_manifest: entry.sealed_manifest,
            inline: entry.inline,
            blocks: entry.blocks,
            ..Default::default()
        };
        let head = v1::ObjectEntry {
            finished_index: self.index.0,
            source_index,
            versioned,
            parts: u32::try_from(parts.len()).expect("bounded by the parts there are"),
            null_index,
            sealed_manifest: bytes::Bytes::new(),
            inline: bytes::Bytes::new(),
            blocks: Vec::new(),
            ..entry
        };
        let id = ObjectVersionId::try_from(head.version_id.as_ref());
        let id = id.expect("checked before the first was stored");
        self.state
            .put(&keys::current(&dataset.id, key), &head.encode_to_vec());
        self.refer(dataset, key, &id, &head, &body);
    }

    fn take_parts(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        entry: &v1::ObjectEntry,
        parts: &[v1::PartName],
    ) {
        let Ok(upload) = self.upload(dataset, key, &entry.version_id) else {
            return;
        };
        let unnamed = self.unnamed(&upload.id, &completion(entry, parts));
        for part in unnamed.unwrap_or_default() {
            self.free_part(dataset, &upload.id, &part);
        }
        self.end_upload(dataset, &upload.place, &upload.record);
    }

    pub(super) fn take_lock(
        &mut self,
        dataset: &mut Dataset,
        unit: &Unit,
        lock: &v1::ImportedLock,
    ) {
        let Some(mut version) = self.standing(dataset, unit) else {
            return;
        };
        let holds = &mut dataset.record.legal_holds;
        *holds = less(
            *holds + u64::from(lock.legal_hold),
            u64::from(version.head.legal_hold),
        );
        version.head.retention = lock.retention.filter(|asked| asked.mode != 0);
        version.head.legal_hold = lock.legal_hold;
        count_compliance(dataset, version.head.retention);
        locks(dataset);
        self.state
            .put(&version.place, &version.head.encode_to_vec());
    }

    /// The last change of it the source knows: what was sealed with the version when it came is behind.
    pub(super) fn take_metadata(
        &mut self,
        dataset: &Dataset,
        unit: &Unit,
        metadata: &v1::ImportedMetadata,
    ) {
        let Some(mut version) = self.standing(dataset, unit) else {
            return;
        };
        version.head.sealed_metadata = metadata.sealed_metadata.clone();
        version.head.metadata_key_version = metadata.metadata_key_version;
        self.state
            .put(&version.place, &version.head.encode_to_vec());
    }

    /// Takes a unit away, if it is there.
    pub(super) fn take_away(&mut self, dataset: &mut Dataset, unit: &Unit) {
        let (Some(version), Some(key)) = (self.standing(dataset, unit), unit.key()) else {
            return;
        };
        let (head, key) = (version.head, key.as_str());
        match self.current(&dataset.id, key) {
            Some(current) if current.version_id == head.version_id => {
                self.take_current(dataset, key, &current);
            }
            current => {
                self.take_older(dataset, key, current, head.finished_index);
            }
        }
    }

    /// Where a unit stands, if it is there.
    pub(super) fn standing(&self, dataset: &Dataset, unit: &Unit) -> Option<Version> {
        match unit {
            Unit::Settings => None,
            Unit::Version(key, id) => self.version_of(dataset, key.as_str(), id),
            Unit::Null(key) => {
                let key = key.as_str();
                let current = self.current(&dataset.id, key)?;
                let (place, head) = match (current.versioned, current.null_index) {
                    (false, _) => (keys::current(&dataset.id, key), current),
                    (true, 0) => return None,
                    (true, at) => (
                        keys::older(&dataset.id, key, LogIndex(at)),
                        self.older(&dataset.id, key, at),
                    ),
                };
                Some(Version { place, head })
            }
        }
    }
}

pub(super) fn metadata_well_formed(metadata: &v1::ImportedMetadata) -> Result<(), v1::Refused> {
    let shape = (1..=METADATA_BYTES_MAX).contains(&metadata.sealed_metadata.len())
        && metadata.source_digest.len() == DIGEST_BYTES;
    if shape { Ok(()) } else { malformed() }
}

/// Locks are where object lock is, whichever of the two came first.
fn locks(dataset: &mut Dataset) {
    dataset.record.lock.get_or_insert_default();
    dataset.record.versioning = true;
    dataset.record.suspended = false;
}

/// What completes the upload that the mover put the parts in.
fn completion(entry: &v1::ObjectEntry, parts: &[v1::PartName]) -> v1::CompleteUpload {
    v1::CompleteUpload {
        version_id: entry.version_id.clone(),
        parts: parts.to_vec(),
        plain_bytes: entry.plain_bytes,
        sealed_bytes: entry.sealed_bytes,
        ..Default::default()
    }
}
