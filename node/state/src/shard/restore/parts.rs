//! Parts of a version that a restore is to bring: stored under an upload of its id until the version names them.
//!
//! Owns that all parts of one are under one lease and salt. Refuses a part in another's place; one that is there already is
//! there.

use std::collections::BTreeSet;

use proto::ids::{LeaseId, ObjectKey, ObjectVersionId};
use proto::v1;

use super::batch::held_part;
use crate::limits::DIGEST_BYTES;
use crate::shard::multipart::{Upload, layout, part_id};
use crate::shard::put::{FORMAT, PLACEMENT};
use crate::shard::refusal::{malformed, refuse};
use crate::shard::{Apply, Dataset};

/// A part that was checked, and where its bytes are.
struct Checked {
    id: ObjectVersionId,
    finish: v1::FinishPart,
    blocks: u32,
    finished_at_ms: u64,
    sealed_bytes: u64,
}

impl Apply<'_> {
    /// Checks all of them before it stores the first.
    pub(super) fn restore_parts(
        &mut self,
        dataset: &mut Dataset,
        parts: &v1::RestoredParts,
    ) -> Result<(), v1::Refused> {
        let Some(asked) = &parts.upload else {
            return malformed();
        };
        let (Ok(id), Ok(lease)) = (
            ObjectVersionId::try_from(asked.version_id.as_ref()),
            LeaseId::try_from(asked.lease_id.as_ref()),
        ) else {
            return malformed();
        };
        if !is_bare(&parts.key, asked) {
            return malformed();
        }
        self.token(dataset, &lease)?;
        let held = match self.upload(dataset, &parts.key, &asked.version_id) {
            Ok(held) if same(&held.record, asked) => Some(held),
            Ok(_) => return malformed(),
            Err(refused) if refused.reason() == v1::Refusal::NoSuchUpload => None,
            Err(refused) => return Err(refused),
        };
        if held.is_none() {
            self.unused(&id)?;
        }
        let new = self.new_parts(&id, parts)?;
        let mut upload = match held {
            Some(held) => held,
            None => self.begin_upload(dataset, &parts.key, &id, asked),
        };
        for part in new {
            self.take_part(dataset, &mut upload, &part);
        }
        self.save_upload(&upload);
        Ok(())
    }

    fn new_parts(
        &self,
        of: &ObjectVersionId,
        parts: &v1::RestoredParts,
    ) -> Result<Vec<Checked>, v1::Refused> {
        let (mut numbers, mut ids, mut new) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for restored in &parts.parts {
            let Some(part) = &restored.part else {
                return malformed();
            };
            if !numbers.insert(part.number) || !ids.insert(&part.part_id) {
                return malformed();
            }
            match held_part(self, of, part.number) {
                Some(held) if held.part_id == part.part_id => continue,
                Some(_) => return refuse(v1::Refusal::InvalidPart),
                None => new.push(self.part_restorable(restored, part)?),
            }
        }
        Ok(new)
    }

    fn part_restorable(
        &self,
        restored: &v1::RestoredPart,
        part: &v1::PartRecord,
    ) -> Result<Checked, v1::Refused> {
        let finish = v1::FinishPart {
            part: Some(v1::PartRecord {
                finished_index: 0,
                finished_at_ms: 0,
                ..part.clone()
            }),
            inline: restored.inline.clone(),
            blocks: restored.blocks.clone(),
            upload_epoch: restored.upload_epoch,
            receipts: restored.receipts.clone(),
            ..Default::default()
        };
        let asked = finish.part.clone().unwrap_or_default();
        let id = part_id(&asked)?;
        let blocks = layout(&finish, &asked)?;
        self.unused(&id)?;
        if blocks > 0 {
            self.young_enough(finish.upload_epoch)?;
            self.on_majority(&finish.receipts, blocks)?;
        }
        Ok(Checked {
            id,
            finish,
            blocks,
            finished_at_ms: part.finished_at_ms,
            sealed_bytes: part.sealed_bytes,
        })
    }

    fn take_part(&mut self, dataset: &mut Dataset, upload: &mut Upload, part: &Checked) {
        upload.record.parts += 1;
        upload.record.sealed_bytes += part.sealed_bytes;
        let finish = (&part.finish, part.finished_at_ms);
        self.store_part(&dataset.id, upload, finish, part.blocks, &part.id);
        self.count_bytes(dataset, part.sealed_bytes);
    }
}

/// Whether it is as much of an upload as parts need: what is sealed beside the version comes with the version.
fn is_bare(key: &str, asked: &v1::UploadRecord) -> bool {
    let bare = v1::UploadRecord {
        format: FORMAT,
        version_id: asked.version_id.clone(),
        lease_id: asked.lease_id.clone(),
        dek_salt: asked.dek_salt.clone(),
        name_salt: asked.name_salt.clone(),
        placement: PLACEMENT,
        ..Default::default()
    };
    key.parse::<ObjectKey>().is_ok()
        && asked.dek_salt.len() == DIGEST_BYTES
        && asked.name_salt.len() == DIGEST_BYTES
        && *asked == bare
}

fn same(held: &v1::UploadRecord, asked: &v1::UploadRecord) -> bool {
    held.lease_id == asked.lease_id
        && held.dek_salt == asked.dek_salt
        && held.name_salt == asked.name_salt
}
