//! One part: finished, replaced, removed.
//!
//! Owns what refers to a part: its row under the upload or version, and, under its own id, where its blocks are, so that
//! nodes keep, compare, fetch and collect them like a version's. Refuses a part whose id is not its stream's commitment:
//! who names parts by their ids names streams.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, ObjectVersionId};
use proto::v1;

use super::Upload;
use crate::keys::{self, table};
use crate::limits::{INLINE_BYTES_MAX, PART_METADATA_BYTES_MAX, PARTS_MAX};
use crate::shard::config::within_quota;
use crate::shard::put::block_count;
use crate::shard::refusal::{Answer, malformed};
use crate::shard::{Apply, Dataset};
use crate::{local, record};

/// Bytes of a stream's key commitment; the first 16 are the part's id.
const COMMITMENT_BYTES: usize = 32;

impl Apply<'_> {
    pub(in crate::shard) fn finish_part(
        &mut self,
        verdict: v1::Verdict,
        finish: &v1::FinishPart,
    ) -> Answer {
        let Some(asked) = &finish.part else {
            return malformed();
        };
        let id = part_id(asked)?;
        let blocks = layout(finish, asked)?;
        let mut dataset = self.receiving(&finish.dataset_id)?;
        let mut upload = self.upload(&dataset, &finish.key, &finish.version_id)?;
        self.upload_allowed(verdict, &dataset, &upload)?;
        let place = keys::part(&upload.id, asked.number);
        let held: Option<v1::PartRecord> = record::load(&*self.state, &place);
        // The same stream again: what was done is as asked.
        if held
            .as_ref()
            .is_some_and(|held| held.part_id == asked.part_id)
        {
            return Ok(self.done_with(&id));
        }
        self.unused(&id)?;
        if blocks > 0 {
            self.young_enough(finish.upload_epoch)?;
            self.on_majority(&finish.receipts, blocks)?;
        }
        let replaced = held.as_ref().map_or(0, |held| held.sealed_bytes);
        within_quota(&dataset, 0, asked.sealed_bytes, replaced)?;
        if let Some(held) = &held {
            self.free_part(&mut dataset, &upload.id, held);
            upload.record.sealed_bytes -= held.sealed_bytes;
        }
        upload.record.parts += u32::from(held.is_none());
        upload.record.sealed_bytes += asked.sealed_bytes;
        let now = self.meta.time.0;
        self.store_part(&dataset.id, &upload, (finish, now), blocks, &id);
        self.save_upload(&upload);
        self.count_bytes(&mut dataset, asked.sealed_bytes);
        self.save(&dataset);
        Ok(self.done_with(&id))
    }

    /// Puts everything that refers to a part, finished at a time that a backup may have.
    pub(in crate::shard) fn store_part(
        &mut self,
        dataset: &DatasetId,
        upload: &Upload,
        (finish, finished_at_ms): (&v1::FinishPart, u64),
        blocks: u32,
        id: &ObjectVersionId,
    ) {
        let asked = finish.part.clone().unwrap_or_default();
        let part = v1::PartRecord {
            finished_index: self.index.0,
            finished_at_ms,
            ..asked
        };
        let at = v1::VersionRecord {
            dataset_id: Bytes::copy_from_slice(dataset.as_bytes()),
            key: String::new(),
            finished_index: self.index.0,
            blocks,
            upload_epoch: finish.upload_epoch,
            kind: v1::VersionKind::Part.into(),
            part_of: Bytes::copy_from_slice(upload.id.as_bytes()),
            part: part.number,
        };
        let body = v1::ObjectEntry {
            inline: finish.inline.clone(),
            blocks: finish.blocks.clone(),
            ..Default::default()
        };
        self.state
            .put(&keys::part(&upload.id, part.number), &part.encode_to_vec());
        self.state
            .put(&keys::version(table::VERSION, id), &at.encode_to_vec());
        self.state
            .put(&keys::version(table::BODY, id), &body.encode_to_vec());
        if blocks > 0 {
            self.local.put(&local::fresh(self.index, id), &[]);
        }
    }

    /// Takes back everything that refers to a part, and its bytes. Its upload's record is the caller's.
    pub(in crate::shard) fn free_part(
        &mut self,
        dataset: &mut Dataset,
        of: &ObjectVersionId,
        part: &v1::PartRecord,
    ) {
        let id = ObjectVersionId::try_from(part.part_id.as_ref());
        let id = id.expect("checked before it was stored");
        let place = keys::version(table::VERSION, &id);
        let at: v1::VersionRecord =
            record::load(&*self.state, &place).expect("every part has its record");
        self.state.delete(&place);
        self.state.delete(&keys::version(table::BODY, &id));
        self.state.delete(&keys::part(of, part.number));
        self.free_blocks(&id, at);
        self.uncount_bytes(dataset, part.sealed_bytes);
    }

    /// The parts of an upload or version that is no more are due: a sweep removes them.
    pub(in crate::shard) fn doom_parts(&mut self, dataset: &DatasetId, of: &ObjectVersionId) {
        let place = keys::doomed(self.index, of);
        self.state.put(&place, &doomed(dataset, 0));
        self.meta.sweeping = true;
    }

    /// Removes up to `steps` doomed parts; answers how many steps are left.
    pub(in crate::shard) fn sweep_parts(&mut self, steps: usize) -> usize {
        let cursor = keys::sweep(table::DOOMED);
        let (first, end) = keys::range(table::DOOMED, &[]);
        let mut left = steps;
        while left > 0 {
            // What has been removed stands before it: no scan meets that again.
            let start = self.state.value(&cursor);
            let start = start.map_or_else(|| first.clone(), |start| start.to_vec());
            let Some((place, due)) = self.some_records(&start, &end, 1).pop() else {
                break;
            };
            let (index, of) = keys::doomed_parts(&place).expect("the key was written by us");
            left = self.sweep_parts_of(&of, &place, &due, left);
            // Not past the index: more may be doomed by the very command that is sweeping.
            self.state.put(&cursor, &keys::doomed_start(index));
        }
        left
    }

    fn sweep_parts_of(
        &mut self,
        of: &ObjectVersionId,
        place: &[u8],
        due: &[u8],
        steps: usize,
    ) -> usize {
        let (id, next) = doomed_parts(due).expect("the record was written by us");
        let record = self
            .dataset(&id)
            .expect("a dropped dataset keeps its record");
        let mut dataset = Dataset { id, record };
        let (_, end) = keys::range(table::PART, of.as_bytes());
        let found = self.some_records(&keys::part(of, next), &end, steps);
        for (_, value) in &found {
            self.free_part(&mut dataset, of, &record::decode(value));
        }
        match found.last() {
            Some((last, _)) if found.len() == steps => {
                let last = keys::part_number(last).expect("the key was written by us");
                self.state.put(place, &doomed(&id, last + 1));
            }
            _ => self.state.delete(place),
        }
        self.save(&dataset);
        steps - found.len()
    }

    /// Whether an id has parts, be they of something that is gone.
    pub(in crate::shard) fn has_parts(&self, of: &ObjectVersionId) -> bool {
        let (start, end) = keys::range(table::PART, of.as_bytes());
        !self.some_records(&start, &end, 1).is_empty()
    }

    /// Every part of an upload or version, in order.
    pub(super) fn parts(&self, of: &ObjectVersionId) -> Vec<v1::PartRecord> {
        let (start, end) = keys::range(table::PART, of.as_bytes());
        let mut found = Vec::new();
        self.state.scan(&start, &end, &mut |_, value| {
            found.push(record::decode(value));
            true
        });
        found
    }
}

/// The part's id, if the part is one.
pub(in crate::shard) fn part_id(part: &v1::PartRecord) -> Result<ObjectVersionId, v1::Refused> {
    let shape = (1..=PARTS_MAX).contains(&part.number)
        && part.commitment.len() == COMMITMENT_BYTES
        && part.part_id.len() == ObjectVersionId::BYTES
        && part.commitment.starts_with(&part.part_id)
        && part.plain_bytes <= part.sealed_bytes
        && part.sealed_metadata.len() <= PART_METADATA_BYTES_MAX
        && (part.finished_index, part.finished_at_ms) == (0, 0);
    match ObjectVersionId::try_from(part.part_id.as_ref()) {
        Ok(id) if shape => Ok(id),
        _ => malformed(),
    }
}

/// How many blocks the part has: none where it is inline, and then no receipts or epoch either.
pub(in crate::shard) fn layout(
    finish: &v1::FinishPart,
    part: &v1::PartRecord,
) -> Result<u32, v1::Refused> {
    if finish.inline.is_empty() {
        return block_count(&finish.blocks, part.sealed_bytes);
    }
    let inline = finish.blocks.is_empty()
        && finish.receipts.is_empty()
        && finish.upload_epoch == 0
        && finish.inline.len() <= INLINE_BYTES_MAX
        && finish.inline.len() as u64 == part.sealed_bytes;
    match inline {
        true => Ok(0),
        false => malformed(),
    }
}

/// Dataset, and the part number to go on with: 20 bytes.
fn doomed(dataset: &DatasetId, next: u32) -> Vec<u8> {
    [&dataset.as_bytes()[..], &next.to_be_bytes()].concat()
}

fn doomed_parts(record: &[u8]) -> Option<(DatasetId, u32)> {
    let (dataset, next) = record.split_at_checked(DatasetId::BYTES)?;
    let next = u32::from_be_bytes(next.try_into().ok()?);
    Some((DatasetId::try_from(dataset).ok()?, next))
}

const _: () = assert!(ObjectVersionId::BYTES <= COMMITMENT_BYTES);
