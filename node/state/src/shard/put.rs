//! Commits of objects: inline in the entry, or in blocks that receipts vouch for.
//!
//! Owns what an entry may look like. Refuses one whose parts do not add up, under a token that does not allow it, or
//! against its precondition.

use bytes::Bytes;
use proto::danger::{Switch, broken};
use proto::ids::{LeaseId, ObjectKey, ObjectVersionId};
use proto::v1;

use super::Apply;
use super::config::within_quota;
use super::refusal::{Answer, malformed, of, refuse};
use super::versions::{NewVersion, keeps, own_bytes};
use crate::limits::{
    BLOCK_BYTES_MAX, BLOCKS_MAX, DIGEST_BYTES, EPOCHS_KEPT, INLINE_BYTES_MAX, MANIFEST_BYTES_MAX,
    METADATA_BYTES_MAX,
};
use crate::relocation::Change;

pub(super) const FORMAT: u32 = 1;
/// On the voters of the shard.
pub(super) const PLACEMENT: u32 = 1;

impl Apply<'_> {
    pub(super) fn put_object(&mut self, verdict: v1::Verdict, put: &v1::PutObject) -> Answer {
        let Some(entry) = &put.entry else {
            return malformed();
        };
        let commit = Commit::new(&put.key, put.precondition.as_ref(), entry, &put.holder)?;
        let inline = entry.blocks.is_empty()
            && !entry.inline.is_empty()
            && entry.inline.len() <= INLINE_BYTES_MAX
            && entry.sealed_bytes == entry.inline.len() as u64;
        if !inline {
            return malformed();
        }
        let dataset = self.writable(&put.dataset_id, Change::Write)?;
        self.key_allows(verdict, &dataset)?;
        let now = self.meta.time;
        self.token_allows(&dataset, &commit.lease, commit.holder, |expiry| {
            now < expiry
        })?;
        self.unused(&commit.version)?;
        self.finish_commit(dataset, commit)
    }

    pub(super) fn finish_object(
        &mut self,
        verdict: v1::Verdict,
        finish: &v1::FinishObject,
    ) -> Answer {
        let Some(entry) = &finish.entry else {
            return malformed();
        };
        let commit = Commit::new(
            &finish.key,
            finish.precondition.as_ref(),
            entry,
            &finish.holder,
        )?;
        if !entry.inline.is_empty() {
            return malformed();
        }
        let blocks = block_count(&entry.blocks, entry.sealed_bytes)?;
        let dataset = self.writable(&finish.dataset_id, Change::Write)?;
        self.key_allows(verdict, &dataset)?;
        let (now, receipts) = (self.meta.time, &finish.receipts);
        self.token_allows(&dataset, &commit.lease, commit.holder, |expiry| {
            now < expiry || self.begun_before(receipts, expiry)
        })?;
        self.unused(&commit.version)?;
        self.young_enough(entry.upload_epoch)?;
        self.on_majority(receipts, blocks)?;
        self.finish_commit(dataset, commit)
    }

    /// Refuses blocks that were uploaded under an epoch to come, or so long ago that nodes may have removed them.
    pub(super) fn young_enough(&self, upload_epoch: u64) -> Result<(), v1::Refused> {
        let epoch = self.meta.upload_epoch.0;
        if upload_epoch > epoch {
            return malformed();
        }
        if epoch - upload_epoch > EPOCHS_KEPT {
            return refuse(v1::Refusal::UploadTooOld);
        }
        Ok(())
    }

    fn finish_commit(&mut self, mut dataset: super::Dataset, commit: Commit<'_>) -> Answer {
        let current = self.current(&dataset.id, commit.key);
        precondition(commit.precondition, current.as_ref())?;
        self.lock_allows(&dataset, commit.entry.retention, commit.entry.legal_hold)?;
        let replaced = current.as_ref().filter(|current| !keeps(&dataset, current));
        within_quota(
            &dataset,
            u64::from(current.as_ref().is_none_or(|head| head.delete_marker)),
            commit.entry.sealed_bytes,
            replaced.map_or(0, own_bytes),
        )?;
        let new = NewVersion {
            id: commit.version,
            entry: commit.entry.clone(),
        };
        let replaced = self.add_version(&mut dataset, commit.key, current, new);
        self.save(&dataset);
        Ok(v1::Done {
            version_id: Bytes::copy_from_slice(commit.version.as_bytes()),
            replaced_version_id: replaced,
            ..self.done()
        })
    }
}

/// What both kinds of commit have, checked for shape.
pub(super) struct Commit<'a> {
    key: &'a str,
    precondition: Option<&'a v1::Precondition>,
    entry: &'a v1::ObjectEntry,
    pub(super) holder: &'a [u8],
    version: ObjectVersionId,
    pub(super) lease: LeaseId,
}

impl<'a> Commit<'a> {
    pub(super) fn new(
        key: &'a str,
        precondition: Option<&'a v1::Precondition>,
        entry: &'a v1::ObjectEntry,
        holder: &'a Bytes,
    ) -> Result<Self, v1::Refused> {
        let (Ok(version), Ok(lease)) = (
            ObjectVersionId::try_from(entry.version_id.as_ref()),
            LeaseId::try_from(entry.lease_id.as_ref()),
        ) else {
            return malformed();
        };
        let shape = key.parse::<ObjectKey>().is_ok()
            && well_formed(precondition)
            && holder.len() == DIGEST_BYTES
            && entry.format == FORMAT
            && entry.placement == PLACEMENT
            // Apply says when and how a version was finished, nobody else.
            && entry.finished_index == 0
            && entry.finished_at_ms == 0
            && !entry.delete_marker
            && !entry.versioned
            && (entry.parts, entry.null_index) == (0, 0)
            && (entry.changed_index, entry.source_index, entry.metadata_index) == (0, 0, 0)
            && entry.dek_salt.len() == DIGEST_BYTES
            && entry.name_salt.len() == DIGEST_BYTES
            && entry.plain_bytes <= entry.sealed_bytes
            && entry.sealed_manifest.len() <= MANIFEST_BYTES_MAX
            && entry.sealed_metadata.len() <= METADATA_BYTES_MAX;
        if shape {
            Ok(Self {
                key,
                precondition,
                entry,
                holder,
                version,
                lease,
            })
        } else {
            malformed()
        }
    }
}

/// The number of blocks, if they are a stream's of so many bytes.
pub(super) fn block_count(blocks: &[v1::BlockRef], sealed_bytes: u64) -> Result<u32, v1::Refused> {
    let each = blocks.iter().all(|block| {
        block.digest.len() == DIGEST_BYTES && (1..=BLOCK_BYTES_MAX).contains(&block.bytes)
    });
    let sum: u64 = blocks.iter().map(|block| u64::from(block.bytes)).sum();
    match u32::try_from(blocks.len()) {
        Ok(count) if (1..=BLOCKS_MAX).contains(&blocks.len()) && each && sum == sealed_bytes => {
            Ok(count)
        }
        _ => malformed(),
    }
}

/// Whether a precondition can be one.
pub(super) fn well_formed(precondition: Option<&v1::Precondition>) -> bool {
    precondition.is_none_or(|asked| match asked.if_match.len() {
        0 => true,
        ObjectVersionId::BYTES => !asked.if_none_match_any,
        _ => false,
    })
}

/// Compares with the current version; a delete marker is no version to a condition.
pub(super) fn precondition(
    asked: Option<&v1::Precondition>,
    current: Option<&v1::ObjectEntry>,
) -> Result<(), v1::Refused> {
    let live = current
        .filter(|entry| !entry.delete_marker)
        .map(|entry| &entry.version_id);
    let met = asked.is_none_or(|asked| {
        if asked.if_none_match_any {
            live.is_none()
        } else {
            asked.if_match.is_empty() || live == Some(&asked.if_match)
        }
    });
    if met || broken(Switch::IgnorePrecondition) {
        return Ok(());
    }
    Err(v1::Refused {
        current_version_id: live.cloned().unwrap_or_default(),
        ..of(v1::Refusal::PreconditionFailed)
    })
}
