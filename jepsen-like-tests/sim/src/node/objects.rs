//! What becomes of objects: puts, blocks with their receipts, deletes, versions.
//!
//! Owns the list of an object's versions as a user of S3 would keep it.

use std::collections::BTreeSet;

use node_state::limits::EPOCHS_KEPT;
use proto::ids::{LeaseId, ObjectKey, ObjectVersionId};
use proto::v1;
use proto::v1::Refusal;

use super::model::{Dataset, Judging, Outcome, refuse, version_id};

/// One version of one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Version {
    pub(super) id: ObjectVersionId,
    /// Everything a reader gets.
    pub(super) entry: v1::ObjectEntry,
}

impl Version {
    fn index(&self) -> u64 {
        self.entry.finished_index
    }

    fn in_blocks(&self) -> bool {
        !self.entry.blocks.is_empty()
    }
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
        self.under_token(key_state, &commit, &lease, &[])?;
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
        let good_block = |block: &v1::BlockRef| {
            block.digest.len() == 32 && block.bytes > 0 && block.bytes <= 8 << 20
        };
        let sum: u64 = entry.blocks.iter().map(|b| u64::from(b.bytes)).sum();
        let in_blocks = (1..=8192).contains(&entry.blocks.len())
            && entry.blocks.iter().all(good_block)
            && sum == entry.sealed_bytes
            && entry.inline.is_empty();
        if !in_blocks {
            return refuse(Refusal::Malformed);
        }
        self.under_token(key_state, &commit, &lease, &finish.receipts)?;
        self.unused(&id)?;
        let epoch = self.model.epoch;
        if entry.upload_epoch > epoch {
            return refuse(Refusal::Malformed);
        }
        if entry.upload_epoch + EPOCHS_KEPT < epoch {
            return refuse(Refusal::UploadTooOld);
        }
        let blocks = entry.blocks.len() as u64;
        if finish.receipts.len() > 32 || !finish.receipts.iter().all(|r| ascending(r, blocks)) {
            return refuse(Refusal::Malformed);
        }
        for block in 0..blocks {
            let mut nodes = BTreeSet::new();
            for receipt in &finish.receipts {
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
        self.commit(&commit, id)
    }

    /// The dataset takes objects under this token now, or took the upload before the token ended.
    fn under_token(
        &mut self,
        key_state: u64,
        commit: &Commit<'_>,
        lease: &LeaseId,
        receipts: &[v1::ReceiptClaim],
    ) -> Result<(), v1::Refused> {
        let (time, at) = (self.model.time, self.at);
        let dataset = self.sealable(commit.dataset_id, key_state)?;
        let Some(token) = dataset.tokens.get(lease) else {
            return refuse(Refusal::NoSuchToken);
        };
        if token.holder != commit.holder {
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

    fn unused(&self, id: &ObjectVersionId) -> Result<(), v1::Refused> {
        let model = &*self.model;
        let lives = || {
            model
                .datasets
                .values()
                .any(|d| d.versions().any(|v| v.id == *id))
        };
        let kept = |epoch: &u64| *epoch + EPOCHS_KEPT >= model.epoch;
        let due = model.freed.contains_key(id) || model.limbo.contains(id);
        if model.freed.get(id).is_some_and(kept) || lives() || (due && (self.swept)(id)) {
            refuse(Refusal::VersionIdReused)
        } else {
            Ok(())
        }
    }

    fn commit(&mut self, commit: &Commit<'_>, id: ObjectVersionId) -> Outcome {
        let dataset = self.writable(commit.dataset_id)?;
        condition_holds(commit.condition, dataset.current(commit.key))?;
        let replaced = self.add(commit.dataset_id, commit.key, id, commit.entry.clone())?;
        Ok(v1::Done {
            version_id: id.into(),
            replaced_version_id: replaced.map(Into::into).unwrap_or_default(),
            ..self.done()
        })
    }

    /// Makes a version the current one; answers which one was.
    fn add(
        &mut self,
        dataset: &[u8],
        key: &str,
        id: ObjectVersionId,
        entry: v1::ObjectEntry,
    ) -> Result<Option<ObjectVersionId>, v1::Refused> {
        let (index, time) = (self.at.index, self.model.time);
        let dataset = self.writable(dataset)?;
        let versioning = dataset.record.versioning;
        let entry = v1::ObjectEntry {
            finished_index: index,
            finished_at_ms: time,
            versioned: versioning,
            version_id: id.into(),
            ..entry
        };
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: id.into(),
            delete_marker: entry.delete_marker,
            tombstone: false,
        };
        let versions = dataset.objects.entry(key.to_owned()).or_default();
        let replaced = versions.last().map(|version| version.id);
        // Kept for ever once it was made under versioning, as in S3.
        let overwritten = match versions.last() {
            Some(last) if !versioning && !last.entry.versioned => versions.pop(),
            _ => None,
        };
        versions.push(Version { id, entry });
        if let Some(gone) = &overwritten {
            dataset.changes.remove(&gone.index());
        }
        dataset.changes.insert(index, change);
        self.model.freed.remove(&id);
        self.model.limbo.remove(&id);
        if let Some(gone) = overwritten {
            self.free(&gone);
        }
        Ok(replaced)
    }

    fn free(&mut self, gone: &Version) {
        if gone.in_blocks() {
            self.model.freed.insert(gone.id, self.model.epoch);
        }
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
        let keeps = dataset.record.versioning
            || versions.len() > 1
            || current
                .as_ref()
                .is_some_and(|c| c.entry.versioned || c.entry.delete_marker);
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
            let entry = v1::ObjectEntry {
                format: 1,
                delete_marker: true,
                ..Default::default()
            };
            let replaced = self.add(&delete.dataset_id, &delete.key, marker, entry)?;
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
        self.remove(delete, &gone)?;
        Ok(v1::Done {
            version_id: gone.id.into(),
            replaced_version_id: gone.id.into(),
            ..self.done()
        })
    }

    /// The version is gone; the newest of those left is the current one.
    fn remove(&mut self, delete: &v1::DeleteObject, gone: &Version) -> Result<(), v1::Refused> {
        let index = self.at.index;
        let dataset = self.writable(&delete.dataset_id)?;
        let versions = dataset.objects.entry(delete.key.clone()).or_default();
        versions.retain(|version| version.id != gone.id);
        if versions.is_empty() {
            dataset.objects.remove(&delete.key);
        }
        dataset.changes.remove(&gone.index());
        let tombstone = v1::ChangeRecord {
            key: delete.key.clone(),
            version_id: gone.id.into(),
            delete_marker: gone.entry.delete_marker,
            tombstone: true,
        };
        dataset.changes.insert(index, tombstone);
        self.free(gone);
        Ok(())
    }
}

impl Dataset {
    /// The current version, a delete marker included.
    pub(super) fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key).and_then(|versions| versions.last())
    }
}

impl Commit<'_> {
    /// Version and lease, if the entry is one that a sealer makes.
    fn shape(&self) -> Result<(ObjectVersionId, LeaseId), v1::Refused> {
        let entry = self.entry;
        let set_by_apply = entry.finished_index != 0
            || entry.finished_at_ms != 0
            || entry.delete_marker
            || entry.versioned;
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

fn well_formed(condition: Option<&v1::Precondition>) -> bool {
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
fn condition_holds(
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
        moved_to: 0,
    })
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
