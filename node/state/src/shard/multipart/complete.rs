//! Completion: the parts named become one version, at one log index.
//!
//! Owns the comparison of what is named with what is there. Refuses a part that is another stream than the one named,
//! and lengths that are not the parts'; what is not named is garbage at once. An upload is completed once: the same parts
//! named again, by whomever, are answered with the version they became.

use bytes::Bytes;
use proto::ids::{ObjectKey, ObjectVersionId};
use proto::v1;

use super::Upload;
use crate::keys::{self, table};
use crate::limits::{MANIFEST_BYTES_MAX, METADATA_BYTES_MAX, OBJECT_BYTES_MAX, PARTS_MAX};
use crate::record;
use crate::relocation::Change;
use crate::shard::config::within_quota;
use crate::shard::put::{FORMAT, precondition, well_formed};
use crate::shard::refusal::{Answer, malformed, refuse};
use crate::shard::versions::NewVersion;
use crate::shard::{Apply, Dataset};

impl Apply<'_> {
    pub(in crate::shard) fn complete_upload(
        &mut self,
        verdict: v1::Verdict,
        complete: &v1::CompleteUpload,
    ) -> Answer {
        let ascending = complete
            .parts
            .windows(2)
            .all(|pair| pair[0].number < pair[1].number);
        let shape = complete.key.parse::<ObjectKey>().is_ok()
            && well_formed(complete.precondition.as_ref())
            && (1..=PARTS_MAX as usize).contains(&complete.parts.len())
            && ascending
            && (1..=MANIFEST_BYTES_MAX).contains(&complete.sealed_manifest.len())
            && complete.sealed_metadata.len() <= METADATA_BYTES_MAX
            && complete.plain_bytes <= OBJECT_BYTES_MAX;
        if !shape {
            return malformed();
        }
        let mut dataset = self.writable(&complete.dataset_id, Change::Write)?;
        let upload = match self.upload(&dataset, &complete.key, &complete.version_id) {
            Err(refused) if refused.reason() == v1::Refusal::NoSuchUpload => {
                return self.completed_before(&dataset, complete).ok_or(refused);
            }
            found => found?,
        };
        self.upload_allowed(verdict, &dataset, &upload)?;
        let unnamed = self.unnamed(&upload.id, complete)?;
        let current = self.current(&dataset.id, &complete.key);
        precondition(complete.precondition.as_ref(), current.as_ref())?;
        // Its bytes were counted part by part.
        let covers_none = current.as_ref().is_none_or(|head| head.delete_marker);
        within_quota(&dataset, u64::from(covers_none), 0, 0)?;
        for part in &unnamed {
            self.free_part(&mut dataset, &upload.id, part);
        }
        self.end_upload(&mut dataset, &upload.place, &upload.record);
        let new = NewVersion {
            id: upload.id,
            entry: entry(&upload, complete),
        };
        let replaced = self.add_version(&mut dataset, &complete.key, current, new);
        self.save(&dataset);
        Ok(v1::Done {
            replaced_version_id: replaced,
            ..self.done_with(&upload.id)
        })
    }

    /// The parts that are not named, once those that are have been found to be as named and as long as stated.
    pub(in crate::shard) fn unnamed(
        &self,
        id: &ObjectVersionId,
        complete: &v1::CompleteUpload,
    ) -> Result<Vec<v1::PartRecord>, v1::Refused> {
        let mut named = complete.parts.iter().peekable();
        let (mut unnamed, mut plain, mut sealed) = (Vec::new(), 0, 0);
        for part in self.parts(id) {
            match named.next_if(|named| named.number == part.number) {
                Some(named) if named.part_id == part.part_id => {
                    plain += part.plain_bytes;
                    sealed += part.sealed_bytes;
                }
                Some(_) => return refuse(v1::Refusal::InvalidPart),
                None => unnamed.push(part),
            }
        }
        if named.peek().is_some()
            || (plain, sealed) != (complete.plain_bytes, complete.sealed_bytes)
        {
            return refuse(v1::Refusal::InvalidPart);
        }
        Ok(unnamed)
    }

    /// The answer to a completion that took effect before, if the version is there and has exactly the parts named.
    fn completed_before(
        &self,
        dataset: &Dataset,
        complete: &v1::CompleteUpload,
    ) -> Option<v1::Done> {
        let id = ObjectVersionId::try_from(complete.version_id.as_ref()).ok()?;
        let at: v1::VersionRecord =
            record::load(&*self.state, &keys::version(table::VERSION, &id))?;
        let same = at.kind() == v1::VersionKind::Object
            && at.key == complete.key
            && at.dataset_id == dataset.id.as_bytes()[..];
        let parts = self.parts(&id).into_iter().map(|part| v1::PartName {
            number: part.number,
            part_id: part.part_id,
        });
        (same && parts.eq(complete.parts.iter().cloned())).then(|| self.done_with(&id))
    }
}

fn entry(upload: &Upload, complete: &v1::CompleteUpload) -> v1::ObjectEntry {
    let begun = &upload.record;
    let (sealed_metadata, metadata_key_version) = match complete.sealed_metadata.is_empty() {
        true => (begun.sealed_metadata.clone(), begun.metadata_key_version),
        false => (
            complete.sealed_metadata.clone(),
            complete.metadata_key_version,
        ),
    };
    v1::ObjectEntry {
        format: FORMAT,
        version_id: Bytes::copy_from_slice(upload.id.as_bytes()),
        lease_id: begun.lease_id.clone(),
        dek_salt: begun.dek_salt.clone(),
        name_salt: begun.name_salt.clone(),
        plain_bytes: complete.plain_bytes,
        sealed_bytes: complete.sealed_bytes,
        sealed_manifest: complete.sealed_manifest.clone(),
        sealed_metadata,
        metadata_key_version,
        placement: begun.placement,
        // One that ended while the upload was under way keeps nothing, and stands there as it was asked for.
        retention: begun.retention,
        legal_hold: begun.legal_hold,
        parts: u32::try_from(complete.parts.len()).expect("bounded when it was checked"),
        ..Default::default()
    }
}
