//! Pages of uploads under way and of their parts.

use proto::ids::{ObjectKey, ObjectVersionId, UnixMs};
use proto::v1;

use super::{Part, PartId, UploadInfo, no_such_upload};
use crate::dataset::Dataset;
use crate::error::Error;

/// Which uploads to list.
#[derive(Debug, Clone, Default)]
pub struct UploadsQuery {
    /// Only keys that start with this.
    pub prefix: String,
    /// Keys that share what stands before this, after the prefix, are one common prefix.
    pub delimiter: String,
    /// After this key, and within it after the upload begun at this log index; 0: after all of that key.
    pub start_after: (String, u64),
    /// Entries of one page; 0 lets the server choose.
    pub limit: u32,
}

/// One page of uploads under way, by key, oldest first within one.
#[derive(Debug, Clone)]
pub struct UploadsPage {
    /// The uploads.
    pub uploads: Vec<UploadInfo>,
    /// Common prefixes, in byte order.
    pub common_prefixes: Vec<String>,
    /// Where the next page starts.
    pub next: Option<(String, u64)>,
}

/// One page of parts, by number.
#[derive(Debug, Clone)]
pub struct PartsPage {
    /// The parts.
    pub parts: Vec<Part>,
    /// The number after which the next page starts.
    pub next: Option<u32>,
}

impl Dataset {
    /// One page of uploads under way.
    pub async fn list_uploads(&self, query: &UploadsQuery) -> Result<UploadsPage, Error> {
        let request = v1::ListUploadsRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
            start_after_key: query.start_after.0.clone(),
            start_after_index: query.start_after.1,
            limit: query.limit,
        };
        let reply = self
            .ask_shard(|mut shard| {
                let request = self.0.stated.of(request.clone());
                async move { Ok(shard.list_uploads(request).await?.into_inner()) }
            })
            .await?;
        let uploads = reply.uploads.into_iter().map(|listed| {
            let record = listed.upload.ok_or(Error::Protocol {
                what: "a listed upload without record",
            })?;
            UploadInfo::of(listed.key.parse()?, &record)
        });
        Ok(UploadsPage {
            uploads: uploads.collect::<Result<_, Error>>()?,
            common_prefixes: reply.common_prefixes,
            next: reply
                .truncated
                .then_some((reply.next_key, reply.next_index)),
        })
    }

    /// One page of the parts of an upload under way, or of a version that came in parts.
    pub async fn list_parts(
        &self,
        key: &ObjectKey,
        id: ObjectVersionId,
        start_after: u32,
        limit: u32,
    ) -> Result<PartsPage, Error> {
        let reply = self.ask_parts(key, id, start_after, limit).await?;
        let mut parts = Vec::with_capacity(reply.parts.len());
        for listed in reply.parts {
            let record = listed.part.ok_or_else(no_record)?;
            let metadata = self.open_metadata(id, &record.sealed_metadata).await?;
            if !is_beside(&metadata, &record) {
                return Err(Error::NotAuthentic(envelope::OpenError));
            }
            let part_id = record.part_id[..].try_into().map_err(|_| Error::Protocol {
                what: "a part id of another length",
            })?;
            parts.push(Part {
                number: record.number,
                id: PartId(part_id),
                bytes: record.plain_bytes,
                finished_at: UnixMs(record.finished_at_ms),
                checksums: metadata.checksums.into_iter().collect(),
            });
        }
        let last = parts.last().map(|part| part.number);
        Ok(PartsPage {
            next: last.filter(|_| reply.truncated),
            parts,
        })
    }

    pub(super) async fn ask_parts(
        &self,
        key: &ObjectKey,
        id: ObjectVersionId,
        start_after: u32,
        limit: u32,
    ) -> Result<v1::ListPartsReply, Error> {
        let request = v1::ListPartsRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            key: key.as_str().to_owned(),
            version_id: id.into(),
            start_after,
            limit,
            with_bodies: false,
        };
        self.ask_shard(|mut shard| {
            let request = self.0.stated.of(request.clone());
            async move { Ok(shard.list_parts(request).await?.into_inner()) }
        })
        .await
    }

    /// Every part there is, by number, and whether the upload is still under way: else it is a version's.
    pub(super) async fn all_parts(
        &self,
        key: &ObjectKey,
        id: ObjectVersionId,
    ) -> Result<(Vec<v1::PartRecord>, bool), Error> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let reply = self.ask_parts(key, id, after, 0).await?;
            for listed in reply.parts {
                all.push(listed.part.ok_or_else(no_record)?);
            }
            match all.last() {
                Some(last) if reply.truncated => after = last.number,
                None if reply.upload.is_none() => return Err(no_such_upload()),
                _ => return Ok((all, reply.upload.is_some())),
            }
        }
    }
}

/// Whether what was opened was sealed beside this very stream; a part without checksums has nothing beside it.
fn is_beside(metadata: &v1::UserMetadata, part: &v1::PartRecord) -> bool {
    part.sealed_metadata.is_empty()
        || (metadata.part == part.number && metadata.part_id == part.part_id)
}

fn no_record() -> Error {
    Error::Protocol {
        what: "a listed part without record",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_sealed_beside_one_stream_of_a_part_is_not_taken_for_another_s() {
        let part = v1::PartRecord {
            number: 7,
            part_id: Bytes::from_static(&[1; 16]),
            sealed_metadata: Bytes::from_static(b"sealed"),
            ..v1::PartRecord::default()
        };
        let of = |part, id| v1::UserMetadata {
            part,
            part_id: Bytes::copy_from_slice(id),
            ..v1::UserMetadata::default()
        };
        assert!(is_beside(&of(7, &[1; 16]), &part));
        assert!(!is_beside(&of(7, &[2; 16]), &part), "it was put again");
        assert!(!is_beside(&of(8, &[1; 16]), &part));
        assert!(!is_beside(&of(0, &[]), &part), "of an object");
        let nothing = v1::PartRecord {
            sealed_metadata: Bytes::new(),
            ..part
        };
        assert!(is_beside(&of(0, &[]), &nothing));
    }
}
