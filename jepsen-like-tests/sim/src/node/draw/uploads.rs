//! Uploads in parts: begun, gone on with, completed once or again, aborted.

use bytes::Bytes;
use proto::ids::{DatasetId, ObjectVersionId};
use proto::v1;
use proto::v1::shard_command::Command;
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::{Draw, KEYS};
use crate::node::model::{Model, Position};
use crate::node::parts::{Part, Upload};

/// More parts than a command frees beside its own work.
const MANY: u32 = 14;

impl Draw {
    pub(super) fn upload(&mut self, model: &Model, at: &Position) -> v1::ShardCommand {
        let id = self.dataset(model);
        let uploads = model.datasets.get(&id).map(|dataset| &dataset.uploads);
        let longest = uploads.and_then(|all| all.values().map(|u| u.parts.len()).max());
        // Where parts may be many some have to be, or every command would free what it ends.
        let short = self.uploads.1 > MANY && longest.is_some_and(|parts| parts < MANY as usize);
        match self.rng.random_range(0..24) {
            _ if longest.is_none() && self.rng.random_ratio(4, 5) => self.begin_upload(model, &id),
            _ if short && self.rng.random_ratio(5, 6) => self.part(model, at, &id),
            0..3 => self.begin_upload(model, &id),
            3..17 => self.part(model, at, &id),
            17..20 => self.complete(model, &id),
            20 | 21 => self.complete_again(model, &id),
            _ => self.abort(model, &id),
        }
    }

    fn begin_upload(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let key = *KEYS.choose(&mut self.rng).expect("not empty");
        let (entry, holder) = self.entry(model, id);
        let create = v1::CreateUpload {
            dataset_id: (*id).into(),
            key: key.to_owned(),
            upload: Some(v1::UploadRecord {
                format: 1,
                version_id: entry.version_id,
                lease_id: entry.lease_id,
                dek_salt: entry.dek_salt,
                name_salt: entry.name_salt,
                sealed_metadata: entry.sealed_metadata,
                metadata_key_version: 1,
                placement: 1,
                ..Default::default()
            }),
            holder,
        };
        self.asked(model, id, Command::CreateUpload(create))
    }

    /// One under way, the longest more often than others; now and then one that is none, or under another key.
    fn some_upload(&mut self, model: &Model, id: &DatasetId) -> (ObjectVersionId, Option<Upload>) {
        let uploads = model.datasets.get(id).map(|dataset| &dataset.uploads);
        let uploads = uploads.into_iter().flatten();
        let found = if self.rng.random_ratio(2, 3) {
            uploads.max_by_key(|(_, upload)| upload.parts.len())
        } else {
            uploads.choose(&mut self.rng)
        };
        match found {
            Some((of, upload)) if !self.rng.random_ratio(1, 24) => (*of, Some(upload.clone())),
            _ => (self.mint(), None),
        }
    }

    fn key_of(&mut self, upload: Option<&Upload>) -> String {
        match upload {
            Some(upload) if !self.rng.random_ratio(1, 30) => upload.key.clone(),
            _ => (*KEYS.choose(&mut self.rng).expect("not empty")).to_owned(),
        }
    }

    fn part(&mut self, model: &Model, at: &Position, id: &DatasetId) -> v1::ShardCommand {
        let (of, upload) = self.some_upload(model, id);
        let highest = self.uploads.1;
        let (part_id, commitment) = self.stream();
        let in_blocks = self.rng.random();
        let blocks = if in_blocks { self.blocks() } else { Vec::new() };
        let inline = match in_blocks {
            true => Bytes::new(),
            false => Bytes::from(vec![self.rng.random(); self.rng.random_range(1..60)]),
        };
        let in_all: u64 = blocks.iter().map(|block| u64::from(block.bytes)).sum();
        let sealed_bytes = in_all + inline.len() as u64;
        let receipts = match in_blocks {
            true => self.receipts(model, at, blocks.len() as u32),
            false => Vec::new(),
        };
        let finish = v1::FinishPart {
            dataset_id: (*id).into(),
            key: self.key_of(upload.as_ref()),
            version_id: of.into(),
            part: Some(v1::PartRecord {
                number: self.rng.random_range(1..=highest),
                part_id,
                commitment,
                plain_bytes: self.rng.random_range(0..=sealed_bytes),
                sealed_bytes,
                ..Default::default()
            }),
            inline,
            blocks,
            upload_epoch: if in_blocks {
                self.upload_epoch(model)
            } else {
                0
            },
            receipts,
        };
        self.asked(model, id, Command::FinishPart(finish))
    }

    /// A stream nobody has sealed, or now and then one that somebody has; rarely one whose id is a version's.
    fn stream(&mut self) -> (Bytes, Bytes) {
        let mut commitment = [0xC0; 32];
        let n = if self.streams > 0 && self.rng.random_ratio(1, 16) {
            self.rng.random_range(0..self.streams)
        } else {
            self.streams += 1;
            self.streams - 1
        };
        commitment[8..16].copy_from_slice(&n.to_be_bytes());
        if self.rng.random_ratio(1, 60) {
            commitment[..16].copy_from_slice(&self.mint().0);
        }
        let commitment = Bytes::copy_from_slice(&commitment);
        (commitment.slice(..16), commitment)
    }

    /// Of all parts that are there, of some, or of one that is not.
    fn complete(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let (of, upload) = self.some_upload(model, id);
        let held = upload.as_ref().map(|upload| upload.parts.values());
        let mut named: Vec<Part> = held.into_iter().flatten().cloned().collect();
        if self.rng.random_ratio(1, 3) {
            named.retain(|_| self.rng.random_ratio(3, 4));
        }
        let key = self.key_of(upload.as_ref());
        self.completion(model, id, (&key, of), &named)
    }

    /// A version that came in parts, completed once more: by a second gateway, which never heard the answer.
    fn complete_again(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let objects = model.datasets.get(id).map(|dataset| &dataset.objects);
        let versions = objects
            .into_iter()
            .flatten()
            .flat_map(|(key, versions)| versions.iter().map(move |version| (key, version)))
            .filter(|(_, version)| !version.parts.is_empty());
        match versions.choose(&mut self.rng) {
            Some((key, version)) => {
                let mut named = version.parts.clone();
                if self.rng.random_ratio(1, 4) {
                    named.pop();
                }
                self.completion(model, id, (key, version.id), &named)
            }
            None => self.complete(model, id),
        }
    }

    fn completion(
        &mut self,
        model: &Model,
        id: &DatasetId,
        (key, of): (&str, ObjectVersionId),
        named: &[Part],
    ) -> v1::ShardCommand {
        let metadata = match self.rng.random() {
            true => Bytes::new(),
            false => Bytes::from_static(b"metadata with checksums"),
        };
        let complete = v1::CompleteUpload {
            dataset_id: (*id).into(),
            key: key.to_owned(),
            precondition: match self.rng.random_ratio(1, 3) {
                true => self.condition(model, id, key),
                false => None,
            },
            version_id: of.into(),
            parts: named.iter().map(Part::name).collect(),
            sealed_manifest: Bytes::from_static(b"manifest of parts"),
            plain_bytes: named.iter().map(|part| part.record().plain_bytes).sum(),
            sealed_bytes: named.iter().map(Part::sealed_bytes).sum(),
            metadata_key_version: 2 * u32::from(!metadata.is_empty()),
            sealed_metadata: metadata,
        };
        self.asked(model, id, Command::CompleteUpload(complete))
    }

    fn abort(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let (of, upload) = self.some_upload(model, id);
        let abort = v1::AbortUpload {
            dataset_id: (*id).into(),
            key: self.key_of(upload.as_ref()),
            version_id: of.into(),
        };
        self.asked(model, id, Command::AbortUpload(abort))
    }
}
