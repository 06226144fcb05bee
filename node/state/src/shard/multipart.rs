//! Uploads in parts: begun, listed while under way, ended without a version.
//!
//! Owns the record of an upload. All parts of one are streams of one DEK, so it keeps the lease's token in use until it
//! ends, and its id is the version's from the beginning. Refuses a beginning by anyone but the lease's holder or after
//! expiry; whoever may write goes on with it afterwards, under an opening that the KMS recorded. No upload epoch ends
//! it: a finished part is referenced state until the upload is completed or aborted.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{FeatureLevel, LeaseId, LogIndex, ObjectKey, ObjectVersionId};
use proto::v1;

use super::put::{FORMAT, PLACEMENT};
use super::refusal::{Answer, malformed, refuse};
use super::versions::less;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::{DIGEST_BYTES, METADATA_BYTES_MAX};
use crate::record;

mod complete;
mod part;
#[cfg(test)]
mod tests;

pub(super) use part::{layout, part_id};

/// The feature level from which uploads in parts are commands.
pub const MULTIPART_LEVEL: FeatureLevel = FeatureLevel(3);

/// An upload being worked on. Written back with [`Apply::save_upload`].
pub(super) struct Upload {
    pub(super) id: ObjectVersionId,
    pub(super) place: Vec<u8>,
    pub(super) record: v1::UploadRecord,
}

impl Apply<'_> {
    pub(super) fn create_upload(
        &mut self,
        verdict: v1::Verdict,
        create: &v1::CreateUpload,
    ) -> Answer {
        let Some(asked) = &create.upload else {
            return malformed();
        };
        let (Ok(id), Ok(lease)) = (
            ObjectVersionId::try_from(asked.version_id.as_ref()),
            LeaseId::try_from(asked.lease_id.as_ref()),
        ) else {
            return malformed();
        };
        let shape = create.key.parse::<ObjectKey>().is_ok()
            && create.holder.len() == DIGEST_BYTES
            && asked.format == FORMAT
            && asked.placement == PLACEMENT
            && asked.dek_salt.len() == DIGEST_BYTES
            && asked.name_salt.len() == DIGEST_BYTES
            && asked.sealed_metadata.len() <= METADATA_BYTES_MAX
            // Apply says when it began and what it has, nobody else.
            && (asked.begun_index, asked.begun_at_ms) == (0, 0)
            && (asked.parts, asked.sealed_bytes) == (0, 0);
        if !shape {
            return malformed();
        }
        let mut dataset = self.receiving(&create.dataset_id)?;
        self.key_allows(verdict, &dataset)?;
        let now = self.meta.time;
        self.token_allows(&dataset, &lease, &create.holder, |expiry| now < expiry)?;
        self.unused(&id)?;
        self.lock_allows(&dataset, asked.retention, asked.legal_hold)?;
        self.begin_upload(&mut dataset, &create.key, &id, asked);
        self.save(&dataset);
        Ok(self.done_with(&id))
    }

    /// Puts everything that refers to a new upload.
    pub(super) fn begin_upload(
        &mut self,
        dataset: &mut Dataset,
        key: &str,
        id: &ObjectVersionId,
        asked: &v1::UploadRecord,
    ) -> Upload {
        let at = v1::VersionRecord {
            dataset_id: Bytes::copy_from_slice(dataset.id.as_bytes()),
            key: key.to_owned(),
            finished_index: self.index.0,
            kind: v1::VersionKind::Upload.into(),
            ..Default::default()
        };
        let upload = Upload {
            id: *id,
            place: keys::upload(&dataset.id, key, self.index),
            record: v1::UploadRecord {
                begun_index: self.index.0,
                begun_at_ms: self.meta.time.0,
                ..asked.clone()
            },
        };
        self.state
            .put(&keys::version(table::VERSION, id), &at.encode_to_vec());
        self.save_upload(&upload);
        self.use_token(&dataset.id, &upload.record.lease_id);
        dataset.record.uploads += 1;
        upload
    }

    pub(super) fn abort_upload(&mut self, abort: &v1::AbortUpload) -> Answer {
        let mut dataset = self.receiving(&abort.dataset_id)?;
        let upload = self.upload(&dataset, &abort.key, &abort.version_id)?;
        self.drop_upload(&mut dataset, &upload.place, &upload.record);
        self.save(&dataset);
        Ok(self.done_with(&upload.id))
    }

    /// Takes back an upload and whatever refers to it; its parts are removed a few at a time.
    pub(super) fn drop_upload(
        &mut self,
        dataset: &mut Dataset,
        place: &[u8],
        record: &v1::UploadRecord,
    ) {
        let id = ObjectVersionId::try_from(record.version_id.as_ref());
        let id = id.expect("checked before it was stored");
        self.state.delete(&keys::version(table::VERSION, &id));
        if record.parts > 0 {
            self.doom_parts(&dataset.id, &id);
        }
        self.end_upload(dataset, place, record);
    }

    /// The upload is no more; its parts are a version's now, or doomed.
    pub(super) fn end_upload(
        &mut self,
        dataset: &mut Dataset,
        place: &[u8],
        record: &v1::UploadRecord,
    ) {
        self.state.delete(place);
        self.release_token(&dataset.id, &record.lease_id);
        dataset.record.uploads = less(dataset.record.uploads, 1);
    }

    /// The upload of this id and key, if it is under way.
    pub(super) fn upload(
        &self,
        dataset: &Dataset,
        key: &str,
        id: &[u8],
    ) -> Result<Upload, v1::Refused> {
        let Ok(id) = ObjectVersionId::try_from(id) else {
            return malformed();
        };
        let of_key = |at: &v1::VersionRecord| {
            at.kind() == v1::VersionKind::Upload
                && at.key == key
                && at.dataset_id == dataset.id.as_bytes()[..]
        };
        let at: Option<v1::VersionRecord> =
            record::load(&*self.state, &keys::version(table::VERSION, &id));
        let Some(at) = at.filter(of_key) else {
            return refuse(v1::Refusal::NoSuchUpload);
        };
        let place = keys::upload(&dataset.id, key, LogIndex(at.finished_index));
        let record = record::load(&*self.state, &place).expect("every upload has its record");
        Ok(Upload { id, place, record })
    }

    pub(super) fn save_upload(&mut self, upload: &Upload) {
        self.state
            .put(&upload.place, &upload.record.encode_to_vec());
    }

    /// The upload's key is one that may seal, and its token is wrapped under a KEK version that may still be used.
    /// Expiry was asked when it began; whoever goes on with it has its DEK by a record of the KMS.
    fn upload_allowed(
        &self,
        verdict: v1::Verdict,
        dataset: &Dataset,
        upload: &Upload,
    ) -> Result<(), v1::Refused> {
        self.key_allows(verdict, dataset)?;
        let lease = LeaseId::try_from(upload.record.lease_id.as_ref());
        let lease = lease.expect("checked before it was stored");
        self.token_in_use(dataset, &lease)
    }

    fn done_with(&self, id: &ObjectVersionId) -> v1::Done {
        v1::Done {
            version_id: Bytes::copy_from_slice(id.as_bytes()),
            ..self.done()
        }
    }
}
