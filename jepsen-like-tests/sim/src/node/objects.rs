//! What becomes of objects: puts, blocks with their receipts, deletes, versions.
//!
//! Owns the list of an object's versions as a user of S3 would keep it.

use std::collections::BTreeSet;

use node_state::limits::EPOCHS_KEPT;
use proto::ids::{DatasetId, LeaseId, ObjectKey, ObjectVersionId};
use proto::v1;
use proto::v1::Refusal;

use super::metadata::INDEX_LEVEL;
use super::model::{Dataset, Judging, Model, Outcome, refuse, version_id};
use super::parts::Part;

/// The level from which what is put while versioning is off takes the place of the null version, wherever that stands.
const NULL_LEVEL: u32 = 5;

/// One version of one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Version {
    pub(super) id: ObjectVersionId,
    /// Everything a reader gets, but for where the null version stands.
    pub(super) entry: v1::ObjectEntry,
    /// Its parts by number, where it came in parts.
    pub(super) parts: Vec<Part>,
    /// When another took its place.
    pub(super) covered_at_ms: u64,
    /// Covered before null versions were found again: it stays until it is deleted by its id.
    forgotten: bool,
}

impl Version {
    fn index(&self) -> u64 {
        self.entry.finished_index
    }

    fn in_blocks(&self) -> bool {
        !self.entry.blocks.is_empty()
    }

    /// Whether it is the one null version of its object.
    pub(super) fn is_null(&self) -> bool {
        !self.entry.versioned && !self.forgotten
    }
}

/// A version that is about to be the current one.
pub(super) struct New {
    pub(super) id: ObjectVersionId,
    pub(super) entry: v1::ObjectEntry,
    pub(super) parts: Vec<Part>,
}

/// What the two kinds of commit share.
struct Commit<'a> {
    dataset_id: &'a [u8],
    key: &'a str,
    condition: Option<&'a v1::Precondition>,
    entry: &'a v1::ObjectEntry,
    holder: &'a [u8],
}

impl Judging<'_> {
    pub(super) fn put(&mut self, key_state: u64, put: &v1::PutObject) -> Outcome {
        let Some(entry) = &put.entry else {
            return refuse(Refusal::Malformed);
        };
        let commit = Commit {
            dataset_id: &put.dataset_id,
            key: &put.key,
            condition: put.precondition.as_ref(),
            entry,
            holder: &put.holder,
        };
        let (id, lease) = commit.shape()?;
        let bytes = entry.inline.len();
        let inline = entry.blocks.is_empty()
            && (1..=64 << 10).contains(&bytes)
            && entry.sealed_bytes == bytes as u64;
        if !inline {
            return refuse(Refusal::Malformed);
        }
        self.under_token(key_state, &commit.under(lease), &[])?;
        self.unused(&id)?;
        self.commit(&commit, id)
    }

    pub(super) fn finish(&mut self, key_state: u64, finish: &v1::FinishObject) -> Outcome {
        let Some(entry) = &finish.entry else {
            return refuse(Refusal::Malformed);
        };
        let commit = Commit {
            dataset_id: &finish.dataset_id,
            key: &finish.key,
            condition: finish.precondition.as_ref(),
            entry,
            holder: &finish.holder,
        };
        let (id, lease) = commit.shape()?;
        if !entry.inline.is_empty() || !add_up(&entry.blocks, entry.sealed_bytes) {
            return refuse(Refusal::Malformed);
        }
        self.under_token(key_state, &commit.under(lease), &finish.receipts)?;
        self.unused(&id)?;
        self.young_enough(entry.upload_epoch)?;
        self.on_majority(&finish.receipts, entry.blocks.len() as u64)?;
        self.commit(&commit, id)
    }

    /// The epoch of an upload has come, and is not so long ago that its blocks may be gone.
    pub(super) fn young_enough(&self, upload_epoch: u64) -> Result<(), v1::Refused> {
        let epoch = self.model.epoch;
        if upload_epoch > epoch {
            return refuse(Refusal::Malformed);
        }
        if upload_epoch + EPOCHS_KEPT < epoch {
            return refuse(Refusal::UploadTooOld);
        }
        Ok(())
    }

    /// Every block is on a majority of whoever votes here.
    pub(super) fn on_majority(
        &self,
        receipts: &[v1::ReceiptClaim],
        blocks: u64,
    ) -> Result<(), v1::Refused> {
        if receipts.len() > 32 || !receipts.iter().all(|r| ascending(r, blocks)) {
            return refuse(Refusal::Malformed);
        }
        for block in 0..blocks {
            let mut nodes = BTreeSet::new();
            for receipt in receipts {
                let held = receipt.held.iter().any(|range| {
                    let first = u64::from(range.first);
                    (first..first + u64::from(range.count)).contains(&block)
                });
                if held {
                    nodes.insert(receipt.node_id);
                }
            }
            if !self.at.majority(&nodes) {
                return refuse(Refusal::NotOnMajority);
            }
        }
        Ok(())
    }

    /// The dataset takes objects under this token now, or took the upload before the token ended.
    pub(super) fn under_token(
        &mut self,
        key_state: u64,
        under: &Under<'_>,
        receipts: &[v1::ReceiptClaim],
    ) -> Result<(), v1::Refused> {
        let (time, at) = (self.model.time, self.at);
        let dataset = self.sealable(under.dataset_id, key_state)?;
        let Some(token) = dataset.tokens.get(&under.lease) else {
            return refuse(Refusal::NoSuchToken);
        };
        if token.holder != under.holder {
            return refuse(Refusal::TokenNotHolders);
        }
        if token.kek_version < dataset.record.min_kek_version {
            return refuse(Refusal::TokenTooOld);
        }
        let began_in_time: BTreeSet<u64> = receipts
            .iter()
            .filter(|r| (1..token.expires_at_ms).contains(&r.begun_at_ms))
            .map(|r| r.node_id)
            .collect();
        if time < token.expires_at_ms || at.majority(&began_in_time) {
            Ok(())
        } else {
            refuse(Refusal::TokenExpired)
        }
    }

    pub(super) fn unused(&self, id: &ObjectVersionId) -> Result<(), v1::Refused> {
        let model = &*self.model;
        let kept = |epoch: &u64| *epoch + EPOCHS_KEPT >= model.epoch;
        let due = model.freed.contains_key(id) || model.limbo.contains(id);
        // An id is taken until the last part of what it stood for is gone.
        let doomed = model
            .doomed
            .iter()
            .any(|(part, doomed)| part == id || doomed.of == *id);
        let taken = doomed
            || model.freed.get(id).is_some_and(kept)
            || model.datasets.values().any(|dataset| dataset.holds(id));
        if taken || (due && (self.swept)(id)) {
            refuse(Refusal::VersionIdReused)
        } else {
            Ok(())
        }
    }

    fn commit(&mut self, commit: &Commit<'_>, id: ObjectVersionId) -> Outcome {
        let dataset = self.writable(commit.dataset_id)?;
        let current = dataset.current(commit.key).cloned();
        condition_holds(commit.condition, current.as_ref())?;
        let entry = commit.entry;
        self.lock_allows(commit.dataset_id, entry.retention, entry.legal_hold)?;
        let versioning = self.writable(commit.dataset_id)?.record.versioning;
        let overwritten = current
            .as_ref()
            .filter(|current| !versioning && !current.entry.versioned);
        self.within_quota(
            commit.dataset_id,
            u64::from(current.as_ref().is_none_or(|c| c.entry.delete_marker)),
            entry.sealed_bytes,
            overwritten.map_or(0, Version::own_bytes),
        )?;
        let new = New {
            id,
            entry: entry.clone(),
            parts: Vec::new(),
        };
        let replaced = self.add(commit.dataset_id, commit.key, new)?;
        Ok(v1::Done {
            version_id: id.into(),
            replaced_version_id: replaced.map(Into::into).unwrap_or_default(),
            ..self.done()
        })
    }

    /// Makes a version the current one; answers which one was.
    pub(super) fn add(
        &mut self,
        dataset: &[u8],
        key: &str,
        new: New,
    ) -> Result<Option<ObjectVersionId>, v1::Refused> {
        let (index, time, level) = (self.at.index, self.model.time, self.at.level);
        let dataset_id = DatasetId::try_from(dataset).unwrap_or(DatasetId([0; 16]));
        let dataset = self.writable(dataset)?;
        let versioning = dataset.record.versioning;
        let id = new.id;
        let entry = v1::ObjectEntry {
            finished_index: index,
            finished_at_ms: time,
            versioned: versioning,
            version_id: id.into(),
            retention: dataset.retention_of_new(time, &new.entry),
            ..new.entry
        };
        dataset.count_compliance(entry.retention);
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: id.into(),
            delete_marker: entry.delete_marker,
            ..Default::default()
        };
        let versions = dataset.objects.entry(key.to_owned()).or_default();
        let replaced = versions.last().map(|version| version.id);
        // Kept for ever once it was made under versioning, as in S3; what is put without is the null version.
        let overwritten: Vec<Version> = match versions.last() {
            Some(last) if !versioning && !last.entry.versioned => {
                versions.pop().into_iter().collect()
            }
            _ if !versioning && level >= NULL_LEVEL => versions
                .extract_if(.., |version| version.is_null())
                .collect(),
            _ => Vec::new(),
        };
        if let Some(last) = versions.last_mut().filter(|last| Some(last.id) == replaced) {
            last.forgotten = !last.entry.versioned && level < NULL_LEVEL;
            last.covered_at_ms = time;
        }
        versions.push(Version {
            id,
            entry,
            parts: new.parts,
            covered_at_ms: 0,
            forgotten: false,
        });
        for index in overwritten.iter().flat_map(Version::changes) {
            dataset.changes.remove(&index);
        }
        dataset.changes.insert(index, change);
        self.model.take_id(&id);
        for gone in overwritten {
            self.model.round.removed(dataset_id, key);
            self.free(dataset_id, &gone);
        }
        Ok(replaced)
    }

    fn free(&mut self, dataset: DatasetId, gone: &Version) {
        if gone.in_blocks() {
            self.model.freed.insert(gone.id, self.model.epoch);
        }
        self.model.doom(dataset, gone.id, &gone.parts);
    }

    pub(super) fn delete(&mut self, delete: &v1::DeleteObject) -> Outcome {
        let an_id = |id: &[u8]| id.is_empty() || id.len() == 16;
        let good = delete.key.parse::<ObjectKey>().is_ok()
            && well_formed(delete.precondition.as_ref())
            && an_id(&delete.version_id)
            && an_id(&delete.new_marker_id);
        if !good {
            return refuse(Refusal::Malformed);
        }
        let dataset = self.writable(&delete.dataset_id)?;
        let versions = dataset.objects.get(&delete.key).cloned();
        let versions = versions.unwrap_or_default();
        let current = versions.last().cloned();
        let named = version_id(&delete.version_id);
        let keeps = dataset.keeps_versions(&delete.key);
        let marker = if named.is_none() && keeps {
            let Some(marker) = version_id(&delete.new_marker_id) else {
                return refuse(Refusal::Malformed);
            };
            self.unused(&marker)?;
            Some(marker)
        } else {
            None
        };
        condition_holds(delete.precondition.as_ref(), current.as_ref())?;
        if let Some(marker) = marker {
            let replaced = self.add(&delete.dataset_id, &delete.key, New::marker(marker))?;
            return Ok(v1::Done {
                version_id: marker.into(),
                replaced_version_id: replaced.map(Into::into).unwrap_or_default(),
                ..self.done()
            });
        }
        let gone = match named {
            Some(id) => versions.into_iter().find(|version| version.id == id),
            None => current,
        };
        let Some(gone) = gone else {
            return refuse(Refusal::NoSuchObject);
        };
        if named.is_some() && gone.is_locked(self.model.time, delete.bypass_governance) {
            return refuse(Refusal::ObjectLocked);
        }
        self.remove(&delete.dataset_id, &delete.key, &gone)?;
        Ok(v1::Done {
            version_id: gone.id.into(),
            replaced_version_id: gone.id.into(),
            ..self.done()
        })
    }

    /// The version is gone; the newest of those left is the current one.
    pub(super) fn remove(
        &mut self,
        dataset: &[u8],
        key: &str,
        gone: &Version,
    ) -> Result<(), v1::Refused> {
        let (index, level) = (self.at.index, self.at.level);
        let dataset_id = DatasetId::try_from(dataset).unwrap_or(DatasetId([0; 16]));
        let dataset = self.writable(dataset)?;
        let versions = dataset.objects.entry(key.to_owned()).or_default();
        let null = match versions.last() {
            Some(current) if current.id == gone.id => !gone.entry.versioned,
            current => current.is_some_and(|c| c.entry.versioned) && gone.is_null(),
        };
        versions.retain(|version| version.id != gone.id);
        if versions.is_empty() {
            dataset.objects.remove(key);
        }
        for index in gone.changes() {
            dataset.changes.remove(&index);
        }
        let tombstone = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: gone.id.into(),
            delete_marker: gone.entry.delete_marker,
            tombstone: true,
            null_version: null && level >= INDEX_LEVEL,
            ..Default::default()
        };
        dataset.changes.insert(index, tombstone);
        dataset.drop_tombstones(level);
        self.model.round.removed(dataset_id, key);
        self.free(dataset_id, gone);
        Ok(())
    }
}

impl New {
    /// A delete marker.
    pub(super) fn marker(id: ObjectVersionId) -> Self {
        Self {
            id,
            entry: v1::ObjectEntry {
                format: 1,
                delete_marker: true,
                ..Default::default()
            },
            parts: Vec::new(),
        }
    }
}

impl Model {
    /// An id that was free stands for something again.
    pub(super) fn take_id(&mut self, id: &ObjectVersionId) {
        self.freed.remove(id);
        self.limbo.remove(id);
    }
}

impl Dataset {
    /// The current version, a delete marker included.
    pub(super) fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key).and_then(|versions| versions.last())
    }

    /// Whether a delete that names no version leaves a marker.
    pub(super) fn keeps_versions(&self, key: &str) -> bool {
        let versions = self.objects.get(key).map_or(&[][..], Vec::as_slice);
        self.record.versioning
            || versions.len() > 1
            || versions
                .last()
                .is_some_and(|c| c.entry.versioned || c.entry.delete_marker)
    }

    /// What a reader of the current version gets.
    pub(super) fn current_entry(&self, key: &str) -> Option<v1::ObjectEntry> {
        let (current, older) = self.objects.get(key)?.split_last()?;
        let null = older.iter().find(|version| version.is_null());
        let null = null.filter(|_| current.entry.versioned);
        Some(v1::ObjectEntry {
            null_index: null.map_or(0, Version::index),
            ..current.entry.clone()
        })
    }

    /// Whether an id stands for a version, an upload or a part here.
    fn holds(&self, id: &ObjectVersionId) -> bool {
        let of_version = |version: &Version| {
            version.id == *id || version.parts.iter().any(|part| part.id == *id)
        };
        self.versions().any(of_version)
            || self.uploads.contains_key(id)
            || self
                .uploads
                .values()
                .any(|upload| upload.parts.values().any(|part| part.id == *id))
    }
}

/// Under which token something is sealed.
pub(super) struct Under<'a> {
    pub(super) dataset_id: &'a [u8],
    pub(super) lease: LeaseId,
    pub(super) holder: &'a [u8],
}

impl<'a> Commit<'a> {
    fn under(&self, lease: LeaseId) -> Under<'a> {
        Under {
            dataset_id: self.dataset_id,
            lease,
            holder: self.holder,
        }
    }
}

impl Commit<'_> {
    /// Version and lease, if the entry is one that a sealer makes.
    fn shape(&self) -> Result<(ObjectVersionId, LeaseId), v1::Refused> {
        let entry = self.entry;
        let set_by_apply = entry.finished_index != 0
            || entry.finished_at_ms != 0
            || entry.delete_marker
            || entry.versioned
            || entry.parts != 0
            || entry.null_index != 0
            || entry.changed_index != 0
            || entry.source_index != 0
            || entry.metadata_index != 0;
        let good = self.key.parse::<ObjectKey>().is_ok()
            && well_formed(self.condition)
            && self.holder.len() == 32
            && (entry.format, entry.placement) == (1, 1)
            && !set_by_apply
            && entry.dek_salt.len() == 32
            && entry.name_salt.len() == 32
            && entry.plain_bytes <= entry.sealed_bytes
            && entry.sealed_manifest.len() <= 512 << 10
            && entry.sealed_metadata.len() <= 17 << 10;
        let lease = LeaseId::try_from(&entry.lease_id[..]).ok();
        match (version_id(&entry.version_id), lease) {
            (Some(version), Some(lease)) if good => Ok((version, lease)),
            _ => refuse(Refusal::Malformed),
        }
    }
}

pub(super) fn well_formed(condition: Option<&v1::Precondition>) -> bool {
    let Some(condition) = condition else {
        return true;
    };
    match condition.if_match.len() {
        0 => true,
        16 => !condition.if_none_match_any,
        _ => false,
    }
}

/// Conditions are on what a reader sees; a delete marker shows nothing.
pub(super) fn condition_holds(
    condition: Option<&v1::Precondition>,
    current: Option<&Version>,
) -> Result<(), v1::Refused> {
    let seen = current.filter(|version| !version.entry.delete_marker);
    let holds = match condition {
        None => true,
        Some(asked) if asked.if_none_match_any => seen.is_none(),
        Some(asked) if asked.if_match.is_empty() => true,
        Some(asked) => seen.is_some_and(|version| version.id.0[..] == asked.if_match[..]),
    };
    if holds {
        return Ok(());
    }
    Err(v1::Refused {
        reason: Refusal::PreconditionFailed.into(),
        current_version_id: seen.map(|version| version.id.into()).unwrap_or_default(),
        ..Default::default()
    })
}

/// Blocks of one stream of so many bytes.
pub(super) fn add_up(blocks: &[v1::BlockRef], sealed_bytes: u64) -> bool {
    let good = |block: &v1::BlockRef| {
        block.digest.len() == 32 && block.bytes > 0 && block.bytes <= 8 << 20
    };
    let sum: u64 = blocks.iter().map(|b| u64::from(b.bytes)).sum();
    (1..=8192).contains(&blocks.len()) && blocks.iter().all(good) && sum == sealed_bytes
}

/// Ranges follow one another, hold something, and lie within the object.
fn ascending(receipt: &v1::ReceiptClaim, blocks: u64) -> bool {
    let mut from = 0;
    receipt.held.len() <= 256
        && receipt.held.iter().all(|range| {
            let (first, count) = (u64::from(range.first), u64::from(range.count));
            let fits = first >= from && count > 0 && first + count <= blocks;
            from = first + count;
            fits
        })
}
