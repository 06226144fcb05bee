//! What becomes of uploads in parts: begun, parts finished and replaced, completed, aborted, and their bytes until the
//! last of them is gone.
//!
//! Owns the map of parts of each upload and version. Refuses to say when a sweep comes by: what it has freed is seen in
//! the state, and what it has not still counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::ids::{DatasetId, LeaseId, ObjectKey, ObjectVersionId};
use proto::v1;
use proto::v1::Refusal;

use super::model::{Dataset, Judging, Model, Outcome, refuse, version_id};
use super::objects::{New, Under, Version, add_up, condition_holds, well_formed};

/// One finished part.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) id: ObjectVersionId,
    /// As a listing shows it, with its bytes.
    pub(super) listed: v1::ListedPart,
}

impl Part {
    pub(super) fn record(&self) -> v1::PartRecord {
        self.listed.part.clone().unwrap_or_default()
    }

    pub(super) fn sealed_bytes(&self) -> u64 {
        self.listed
            .part
            .as_ref()
            .map_or(0, |part| part.sealed_bytes)
    }

    pub(super) fn in_blocks(&self) -> bool {
        !self.listed.blocks.is_empty()
    }

    /// As a completion names it.
    pub(super) fn name(&self) -> v1::PartName {
        v1::PartName {
            number: self.record().number,
            part_id: self.id.into(),
        }
    }
}

/// An upload under way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Upload {
    pub(super) key: String,
    /// As it was begun; what it has by now is in its parts.
    begun: v1::UploadRecord,
    pub(super) parts: BTreeMap<u32, Part>,
}

impl Upload {
    /// As a listing shows it.
    pub(super) fn record(&self) -> v1::UploadRecord {
        v1::UploadRecord {
            parts: self.parts.len() as u32,
            sealed_bytes: self.parts.values().map(Part::sealed_bytes).sum(),
            ..self.begun.clone()
        }
    }

    pub(super) fn begun_at_ms(&self) -> u64 {
        self.begun.begun_at_ms
    }
}

/// A part of what is gone.
#[derive(Debug, Clone)]
pub(super) struct Doomed {
    dataset: DatasetId,
    /// What it was a part of.
    pub(super) of: ObjectVersionId,
    sealed_bytes: u64,
    pub(super) in_blocks: bool,
}

impl Model {
    /// Parts of what is gone are due.
    pub(super) fn doom(&mut self, dataset: DatasetId, of: ObjectVersionId, parts: &[Part]) {
        for part in parts {
            let doomed = Doomed {
                dataset,
                of,
                sealed_bytes: part.sealed_bytes(),
                in_blocks: part.in_blocks(),
            };
            self.doomed.insert(part.id, doomed);
        }
    }

    /// What `stands` no more has been freed by the command just applied.
    pub(super) fn settle(&mut self, stands: &dyn Fn(&ObjectVersionId) -> bool) {
        let gone: Vec<_> = self
            .doomed
            .extract_if(.., |id, _| !stands(id))
            .filter(|(_, doomed)| doomed.in_blocks)
            .collect();
        for (id, _) in gone {
            self.freed.insert(id, self.epoch);
        }
    }

    /// What a dataset's sealed bytes have to be: of its versions and parts, doomed ones among them until they are freed.
    pub(super) fn sealed_bytes(&self, id: &DatasetId) -> u64 {
        let living = self.datasets.get(id).map_or(0, |dataset| {
            let versions = dataset.versions().map(Version::own_bytes);
            let parts = dataset.parts().map(Part::sealed_bytes);
            versions.sum::<u64>() + parts.sum::<u64>()
        });
        let doomed = self.doomed.values().filter(|part| part.dataset == *id);
        living + doomed.map(|part| part.sealed_bytes).sum::<u64>()
    }
}

impl Version {
    /// Those it counts itself: parts count their own.
    pub(super) fn own_bytes(&self) -> u64 {
        match self.parts.is_empty() {
            true => self.entry.sealed_bytes,
            false => 0,
        }
    }
}

impl Dataset {
    /// Every part that belongs to something here.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        let of_uploads = self
            .uploads
            .values()
            .flat_map(|upload| upload.parts.values());
        self.versions()
            .flat_map(|version| &version.parts)
            .chain(of_uploads)
    }
}

impl Judging<'_> {
    pub(super) fn create_upload(&mut self, key_state: u64, create: &v1::CreateUpload) -> Outcome {
        let Some(asked) = &create.upload else {
            return refuse(Refusal::Malformed);
        };
        let good = create.key.parse::<ObjectKey>().is_ok()
            && create.holder.len() == 32
            && (asked.format, asked.placement) == (1, 1)
            && asked.dek_salt.len() == 32
            && asked.name_salt.len() == 32
            && asked.sealed_metadata.len() <= 17 << 10
            && (asked.begun_index, asked.begun_at_ms) == (0, 0)
            && (asked.parts, asked.sealed_bytes) == (0, 0);
        let lease = LeaseId::try_from(&asked.lease_id[..]);
        let (Some(id), Ok(lease), true) = (version_id(&asked.version_id), lease, good) else {
            return refuse(Refusal::Malformed);
        };
        let under = Under {
            dataset_id: &create.dataset_id,
            lease,
            holder: &create.holder,
        };
        self.under_token(key_state, &under, &[])?;
        self.unused(&id)?;
        self.lock_allows(&create.dataset_id, asked.retention, asked.legal_hold)?;
        let begun = v1::UploadRecord {
            begun_index: self.at.index,
            begun_at_ms: self.model.time,
            ..asked.clone()
        };
        let upload = Upload {
            key: create.key.clone(),
            begun,
            parts: BTreeMap::new(),
        };
        self.writable(&create.dataset_id)?
            .uploads
            .insert(id, upload);
        self.model.take_id(&id);
        Ok(self.done_with(id))
    }

    pub(super) fn finish_part(&mut self, key_state: u64, finish: &v1::FinishPart) -> Outcome {
        let Some(asked) = &finish.part else {
            return refuse(Refusal::Malformed);
        };
        let inline = finish.inline.len() as u64;
        let laid_out = match inline {
            0 => add_up(&finish.blocks, asked.sealed_bytes),
            _ => {
                finish.blocks.is_empty()
                    && finish.receipts.is_empty()
                    && finish.upload_epoch == 0
                    && inline <= 64 << 10
                    && inline == asked.sealed_bytes
            }
        };
        let good = (1..=10_000).contains(&asked.number)
            && asked.commitment.len() == 32
            && asked.commitment.starts_with(&asked.part_id)
            && asked.plain_bytes <= asked.sealed_bytes
            && asked.sealed_metadata.len() <= 1 << 10
            && (asked.finished_index, asked.finished_at_ms) == (0, 0)
            && laid_out;
        let Some(id) = version_id(&asked.part_id).filter(|_| good) else {
            return refuse(Refusal::Malformed);
        };
        let (of, upload) = self.upload(&finish.dataset_id, &finish.key, &finish.version_id)?;
        self.may_go_on(key_state, &finish.dataset_id, &upload)?;
        let held = upload.parts.get(&asked.number);
        if held.is_some_and(|held| held.id == id) {
            return Ok(self.done_with(id));
        }
        self.unused(&id)?;
        if inline == 0 {
            self.young_enough(finish.upload_epoch)?;
            self.on_majority(&finish.receipts, finish.blocks.len() as u64)?;
        }
        let replaced = held.map_or(0, Part::sealed_bytes);
        self.within_quota(&finish.dataset_id, 0, asked.sealed_bytes, replaced)?;
        if let Some(held) = held {
            self.free_part(held);
        }
        let record = v1::PartRecord {
            finished_index: self.at.index,
            finished_at_ms: self.model.time,
            ..asked.clone()
        };
        let part = Part {
            id,
            listed: v1::ListedPart {
                part: Some(record),
                inline: finish.inline.clone(),
                blocks: finish.blocks.clone(),
            },
        };
        let dataset = self.writable(&finish.dataset_id)?;
        let upload = dataset.uploads.get_mut(&of).expect("found above");
        upload.parts.insert(asked.number, part);
        self.model.take_id(&id);
        Ok(self.done_with(id))
    }

    pub(super) fn complete_upload(
        &mut self,
        key_state: u64,
        complete: &v1::CompleteUpload,
    ) -> Outcome {
        let ascending = complete.parts.is_sorted_by(|a, b| a.number < b.number);
        let good = complete.key.parse::<ObjectKey>().is_ok()
            && well_formed(complete.precondition.as_ref())
            && (1..=10_000).contains(&complete.parts.len())
            && ascending
            && (1..=512 << 10).contains(&complete.sealed_manifest.len())
            && complete.sealed_metadata.len() <= 17 << 10
            && complete.plain_bytes <= 5 << 40;
        if !good {
            return refuse(Refusal::Malformed);
        }
        let found = self.upload(&complete.dataset_id, &complete.key, &complete.version_id);
        let (id, upload) = match found {
            Err(refused) if refused.reason() == Refusal::NoSuchUpload => {
                return self.completed_before(complete).ok_or(refused);
            }
            found => found?,
        };
        self.may_go_on(key_state, &complete.dataset_id, &upload)?;
        let named = |part: &Part| complete.parts.contains(&part.name());
        let (named, unnamed): (Vec<Part>, Vec<Part>) =
            upload.parts.values().cloned().partition(named);
        let lengths = named.iter().fold((0, 0), |(plain, sealed), part| {
            (
                plain + part.record().plain_bytes,
                sealed + part.sealed_bytes(),
            )
        });
        let stated = (complete.plain_bytes, complete.sealed_bytes);
        if named.len() != complete.parts.len() || lengths != stated {
            return refuse(Refusal::InvalidPart);
        }
        let dataset = self.writable(&complete.dataset_id)?;
        let current = dataset.current(&complete.key).cloned();
        condition_holds(complete.precondition.as_ref(), current.as_ref())?;
        let covers_none = current.is_none_or(|current| current.entry.delete_marker);
        self.within_quota(&complete.dataset_id, u64::from(covers_none), 0, 0)?;
        for part in &unnamed {
            self.free_part(part);
        }
        self.writable(&complete.dataset_id)?.uploads.remove(&id);
        let new = New {
            id,
            entry: entry(&upload.begun, complete),
            parts: named,
        };
        let replaced = self.add(&complete.dataset_id, &complete.key, new)?;
        Ok(v1::Done {
            replaced_version_id: replaced.map(Into::into).unwrap_or_default(),
            ..self.done_with(id)
        })
    }

    pub(super) fn abort_upload(&mut self, abort: &v1::AbortUpload) -> Outcome {
        let (id, _) = self.upload(&abort.dataset_id, &abort.key, &abort.version_id)?;
        self.end_upload(&abort.dataset_id, id)?;
        Ok(self.done_with(id))
    }

    /// The upload is no more, and its parts are due.
    pub(super) fn end_upload(
        &mut self,
        dataset: &[u8],
        id: ObjectVersionId,
    ) -> Result<(), v1::Refused> {
        let dataset_id = DatasetId::try_from(dataset).unwrap_or(DatasetId([0; 16]));
        if let Some(gone) = self.writable(dataset)?.uploads.remove(&id) {
            let parts: Vec<Part> = gone.parts.into_values().collect();
            self.model.doom(dataset_id, id, &parts);
        }
        Ok(())
    }

    fn upload(
        &mut self,
        dataset: &[u8],
        key: &str,
        id: &Bytes,
    ) -> Result<(ObjectVersionId, Upload), v1::Refused> {
        let dataset = self.writable(dataset)?;
        let Some(id) = version_id(id) else {
            return refuse(Refusal::Malformed);
        };
        match dataset.uploads.get(&id).filter(|upload| upload.key == key) {
            Some(upload) => Ok((id, upload.clone())),
            None => refuse(Refusal::NoSuchUpload),
        }
    }

    /// The key seals, and the token the upload began under is not too old; whose it is and until when was asked then.
    fn may_go_on(
        &mut self,
        key_state: u64,
        dataset: &[u8],
        upload: &Upload,
    ) -> Result<(), v1::Refused> {
        let dataset = self.sealable(dataset, key_state)?;
        let lease = LeaseId::try_from(&upload.begun.lease_id[..]).ok();
        match lease.and_then(|lease| dataset.tokens.get(&lease)) {
            None => refuse(Refusal::NoSuchToken),
            Some(token) if token.kek_version < dataset.record.min_kek_version => {
                refuse(Refusal::TokenTooOld)
            }
            Some(_) => Ok(()),
        }
    }

    /// A version that has exactly the parts named: whoever asks again is told so.
    fn completed_before(&mut self, complete: &v1::CompleteUpload) -> Option<v1::Done> {
        let id = version_id(&complete.version_id)?;
        let dataset = self.writable(&complete.dataset_id).ok()?;
        let versions = dataset.objects.get(&complete.key)?;
        let version = versions.iter().find(|version| version.id == id)?;
        let same = version
            .parts
            .iter()
            .map(Part::name)
            .eq(complete.parts.iter().cloned());
        same.then(|| self.done_with(id))
    }

    /// At once, unlike what a sweep comes to.
    fn free_part(&mut self, part: &Part) {
        if part.in_blocks() {
            self.model.freed.insert(part.id, self.model.epoch);
        }
    }

    fn done_with(&self, id: ObjectVersionId) -> v1::Done {
        v1::Done {
            version_id: id.into(),
            ..self.done()
        }
    }
}

/// The version an upload becomes: as it was begun, but for metadata that came with the completion.
fn entry(begun: &v1::UploadRecord, complete: &v1::CompleteUpload) -> v1::ObjectEntry {
    let metadata = match complete.sealed_metadata.len() {
        0 => (&begun.sealed_metadata, begun.metadata_key_version),
        _ => (&complete.sealed_metadata, complete.metadata_key_version),
    };
    v1::ObjectEntry {
        format: 1,
        lease_id: begun.lease_id.clone(),
        dek_salt: begun.dek_salt.clone(),
        name_salt: begun.name_salt.clone(),
        plain_bytes: complete.plain_bytes,
        sealed_bytes: complete.sealed_bytes,
        sealed_manifest: complete.sealed_manifest.clone(),
        sealed_metadata: metadata.0.clone(),
        metadata_key_version: metadata.1,
        placement: 1,
        parts: complete.parts.len() as u32,
        retention: begun.retention,
        legal_hold: begun.legal_hold,
        ..Default::default()
    }
}
