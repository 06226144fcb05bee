//! Completion: the manifest over the parts named, and the command that makes them a version.
//!
//! Owns the comparison of what the caller names with what the shard lists: the manifest is sealed over streams whose
//! commitments begin with the ids that their uploaders saw. Refuses a part that is another stream by now.

use bytes::Bytes;
use envelope::{Commitment, Manifest, ManifestPart, OpenError, PartNumber};
use proto::ids::{ObjectKey, ObjectVersionId};
use proto::v1;

use super::{PartId, Upload, no_such_upload};
use crate::dataset::{Dataset, Invocation, Precondition, PutOutcome};
use crate::error::Error;

/// How to complete.
#[derive(Debug, Clone, Default)]
pub struct CompleteOptions {
    /// Condition on what is there.
    pub precondition: Precondition,
    /// Metadata in place of what was given when the upload began.
    pub metadata: Option<v1::UserMetadata>,
    /// Binds the request id to the caller's own retries, where those begin uploads of their own.
    pub invocation: Option<Invocation>,
}

impl Dataset {
    /// Makes the parts named, in ascending order of their numbers, the object's current version; others are removed.
    /// It has effect once: asked for again with the same parts, by whichever gateway, it is answered as before.
    pub async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[(u32, PartId)],
        options: &CompleteOptions,
    ) -> Result<PutOutcome, Error> {
        let (held, under_way) = self.all_parts(upload.key(), upload.id()).await?;
        if !under_way {
            return completed(upload.id(), &held, parts);
        }
        let manifest = manifest(&held, parts)?;
        let dek = match self.upload_dek(upload).await {
            // Completed meanwhile, by another.
            Err(error) if error.reason() == "no-such-upload" => {
                return self
                    .completed_upload(upload.key(), upload.id(), parts)
                    .await;
            }
            dek => dek?,
        };
        let (sealed_metadata, metadata_key_version) = match &options.metadata {
            Some(metadata) => {
                let (sealed, version) = self.seal_metadata(upload.id(), metadata).await?;
                (Bytes::copy_from_slice(sealed.as_bytes()), version)
            }
            None => (Bytes::new(), 0),
        };
        let named = parts.iter().map(|(number, id)| v1::PartName {
            number: *number,
            part_id: Bytes::copy_from_slice(&id.0),
        });
        let request = v1::CompleteUploadRequest {
            shard: self.shard().0,
            request_id: Bytes::new(),
            dataset_id: self.id().into(),
            key: upload.key().as_str().to_owned(),
            precondition: options.precondition.wire(),
            version_id: upload.id().into(),
            parts: named.collect(),
            sealed_manifest: dek.seal_manifest(&manifest)?.into(),
            plain_bytes: manifest.plain_total(),
            sealed_bytes: manifest.sealed_total(),
            sealed_metadata,
            metadata_key_version,
        };
        let done = self
            .write_once(
                &mut self.request_id(options.invocation)?,
                |mut shard, request_id| {
                    let request = v1::CompleteUploadRequest {
                        request_id,
                        ..request.clone()
                    };
                    async move { Ok(shard.complete_upload(request).await?.into_inner()) }
                },
            )
            .await?;
        Ok(PutOutcome {
            version: ObjectVersionId::try_from(&done.version_id[..])?,
            replaced: ObjectVersionId::try_from(&done.replaced_version_id[..]).ok(),
            bytes: manifest.plain_total(),
        })
    }

    /// What a completion of exactly these parts became, for who did not hear its answer: an upload that is a version by
    /// now is not found any more. No key is asked for.
    pub async fn completed_upload(
        &self,
        key: &ObjectKey,
        id: ObjectVersionId,
        parts: &[(u32, PartId)],
    ) -> Result<PutOutcome, Error> {
        match self.all_parts(key, id).await? {
            (held, false) => completed(id, &held, parts),
            (_, true) => Err(Error::Caller {
                reason: "upload-under-way".to_owned(),
                message: "the upload was not completed yet".to_owned(),
            }),
        }
    }
}

/// The outcome of a completion that took effect, if the version has exactly the parts named.
fn completed(
    id: ObjectVersionId,
    held: &[v1::PartRecord],
    named: &[(u32, PartId)],
) -> Result<PutOutcome, Error> {
    let parts = held.iter().map(|part| (part.number, &part.part_id[..]));
    let same = parts.eq(named.iter().map(|(number, id)| (*number, &id.0[..])));
    // A version that did not come in parts has none.
    if !same || held.is_empty() {
        return Err(no_such_upload());
    }
    Ok(PutOutcome {
        version: id,
        replaced: None,
        bytes: held.iter().map(|part| part.plain_bytes).sum(),
    })
}

/// The manifest of the parts named.
fn manifest(held: &[v1::PartRecord], named: &[(u32, PartId)]) -> Result<Manifest, Error> {
    let mut parts = Vec::with_capacity(named.len());
    for (number, id) in named {
        let at = held.binary_search_by_key(number, |part| part.number);
        let part = at.ok().map(|at| &held[at]);
        let part = part.filter(|part| part.part_id[..] == id.0);
        let part = part.ok_or_else(|| Error::Caller {
            reason: "invalid-part".to_owned(),
            message: format!("part {number} is not there, or was uploaded again since"),
        })?;
        let commitment = part.commitment[..].try_into().map(Commitment);
        let commitment = commitment.map_err(|_| Error::NotAuthentic(OpenError))?;
        // Another stream under the name of the one that was uploaded.
        if PartId::of(&commitment) != *id {
            return Err(Error::NotAuthentic(OpenError));
        }
        parts.push(ManifestPart {
            number: PartNumber(*number),
            plain: part.plain_bytes,
            sealed: part.sealed_bytes,
            commitment,
        });
    }
    Manifest::new(parts, Vec::new()).map_err(|error| Error::Caller {
        reason: "parts-invalid".to_owned(),
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(number: u32, seed: u8) -> v1::PartRecord {
        v1::PartRecord {
            number,
            part_id: Bytes::copy_from_slice(&[seed; 16]),
            commitment: Bytes::copy_from_slice(&[seed; 32]),
            plain_bytes: 3,
            sealed_bytes: envelope::sealed_len(3).expect("short"),
            ..v1::PartRecord::default()
        }
    }

    #[test]
    fn what_was_completed_is_answered_to_who_names_its_very_parts() {
        let all = [held(1, 1), held(7, 7)];
        let (version, id) = (ObjectVersionId([5; 16]), |seed| PartId([seed; 16]));
        let done = completed(version, &all, &[(1, id(1)), (7, id(7))]).expect("the same");
        assert_eq!((done.version, done.bytes), (version, 6));
        for named in [
            &[(1, id(1))][..],
            &[(1, id(1)), (7, id(8))],
            &[(1, id(1)), (8, id(7))],
            &[],
        ] {
            assert!(completed(version, &all, named).is_err(), "{named:?}");
        }
        assert!(completed(version, &[], &[]).is_err(), "one stream");
    }

    #[test]
    fn a_manifest_is_of_the_streams_that_were_named() {
        let all = [held(1, 1), held(2, 2), held(7, 7)];
        let id = |seed| PartId([seed; 16]);
        let made = manifest(&all, &[(1, id(1)), (7, id(7))]).expect("both are there");
        assert_eq!(made.plain_total(), 6);
        assert_eq!(made.parts()[1].commitment.0, [7; 32]);
        for named in [
            &[(1, id(2))][..],
            &[(3, id(3))],
            &[(2, id(2)), (1, id(1))],
            &[],
        ] {
            assert!(manifest(&all, named).is_err(), "{named:?}");
        }
        // The shard lists another stream under the id that was named.
        let mut other = held(1, 1);
        other.commitment = Bytes::from_static(&[9; 32]);
        let swapped = manifest(&[other], &[(1, id(1))]);
        assert!(matches!(swapped, Err(Error::NotAuthentic(_))));
    }
}
