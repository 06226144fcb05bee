//! One part: sealed as a stream of the upload's DEK, stored, finished.
//!
//! Owns the part's id, which is the beginning of its stream's key commitment: who names a part by it names that stream.
//! Refuses to call a part finished before its shard has committed it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use envelope::{Commitment, PartNumber, SealDek, StreamHeader};
use proto::ids::{ObjectKey, ObjectVersionId, UnixMs, UploadEpoch};
use proto::v1;
use tokio::time::Instant;
use transport::Stated;

use super::Upload;
use crate::body::Body;
use crate::dataset::put::UPLOAD_PAUSE;
use crate::dataset::{Checksums, Dataset, GetOptions, INLINE_SEALED_MAX};
use crate::error::Error;
use crate::reseal::streamed;
use crate::upload;

/// Names one stream of a part: the first 16 bytes of its key commitment. An S3 client's ETag of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartId(pub [u8; 16]);

impl PartId {
    pub(super) fn of(commitment: &Commitment) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&commitment.0[..16]);
        Self(id)
    }
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for PartId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| Error::Caller {
            reason: "bad-id".to_owned(),
            message: "a part id has 32 hexadecimal digits".to_owned(),
        })?;
        Ok(Self(id))
    }
}

/// A finished part.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its number: 1 to 10,000.
    pub number: u32,
    /// Which stream of that number it is.
    pub id: PartId,
    /// Plaintext bytes.
    pub bytes: u64,
    /// When it was finished; 0 where this is the answer to a put.
    pub finished_at: UnixMs,
    /// Checksums of its plaintext, as they were sealed with it.
    pub checksums: BTreeMap<String, Bytes>,
}

/// How to put a part.
#[derive(Debug, Clone, Default)]
pub struct PartOptions {
    /// Checksums of its plaintext by S3's names of their algorithms; sealed beside it. Looked at when the body has been
    /// read.
    pub checksums: Checksums,
}

impl Dataset {
    /// Seals and stores one part. It takes the place of an earlier one of its number. Acknowledged means: on disk on a
    /// majority, and kept until the upload is completed or aborted.
    pub async fn upload_part(
        &self,
        upload: &Upload,
        number: u32,
        body: impl Into<Body>,
        options: &PartOptions,
    ) -> Result<Part, Error> {
        let mut body = body.into();
        let inline_plain = envelope::plain_len(INLINE_SEALED_MAX).unwrap_or(0) as usize;
        let mut head = Vec::new();
        body.fill(&mut head, inline_plain + 1).await?;
        let whole = match &body {
            _ if head.len() <= inline_plain => Some(Bytes::new()),
            Body::Bytes(rest) => Some(rest.clone()),
            Body::Stream(_) | Body::Sized(..) => None,
        };
        let deadline = Instant::now() + self.0.region.0.tuning.deadline;
        // One id for all tries: a refusal for want of a majority is not final, and a copy of the refused request that comes
        // late would put its stream in the place of the one that was acknowledged.
        let mut request_id = self.request_id(None)?;
        loop {
            let finished = self.put_part(upload, number, &head, body, options, &mut request_id);
            let error = match finished.await {
                Ok((id, bytes)) => {
                    return Ok(Part {
                        number,
                        id,
                        bytes,
                        finished_at: UnixMs(0),
                        checksums: options.checksums.all(),
                    });
                }
                Err(error) => error,
            };
            // Each of these but the first says that the part was not finished: the next try is another stream.
            match error.reason() {
                "request-id-reused" => {
                    let message = "an earlier try of this part took effect".to_owned();
                    return Err(Error::Unknown { message });
                }
                "request-too-old" | "upload-too-old" => {
                    self.learn_epoch().await?;
                    // Refused for good under the old one.
                    request_id = self.request_id(None)?;
                }
                // Replicas went, or are others by now.
                "not-on-majority" | "no-majority" => self.forget_replicas(),
                _ => return Err(error),
            }
            let Some(rest) = whole.clone() else {
                return Err(error);
            };
            if Instant::now() + UPLOAD_PAUSE >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, number, "uploading a part again");
            tokio::time::sleep(UPLOAD_PAUSE).await;
            body = Body::Bytes(rest);
        }
    }

    /// Puts a part that is read from another object, or from a range of it: opened on record, sealed anew.
    pub async fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: (&Dataset, &ObjectKey, &GetOptions),
    ) -> Result<Part, Error> {
        let (dataset, key, options) = from;
        let object = dataset.get(key, options).await?;
        let body = Body::Stream(streamed(object.body));
        self.upload_part(upload, number, body, &PartOptions::default())
            .await
    }

    async fn put_part(
        &self,
        upload: &Upload,
        number: u32,
        head: &[u8],
        body: Body,
        options: &PartOptions,
        request_id: &mut Bytes,
    ) -> Result<(PartId, u64), Error> {
        let dek = self.upload_dek(upload).await?;
        let inline_plain = envelope::plain_len(INLINE_SEALED_MAX).unwrap_or(0) as usize;
        let (header, plain_bytes, mut request) = match head.len() <= inline_plain {
            true => self.part_inline(&dek, number, head)?,
            false => {
                let head = head.to_vec();
                self.part_blocks(upload, &dek, number, head, body).await?
            }
        };
        let commitment = header.commitment();
        let id = PartId::of(&commitment);
        let sealed_bytes = envelope::sealed_len(plain_bytes);
        let (sealed_metadata, metadata_key_version) =
            self.part_metadata(upload, number, id, options).await?;
        request.part = Some(v1::PartRecord {
            number,
            part_id: Bytes::copy_from_slice(&id.0),
            commitment: Bytes::copy_from_slice(&commitment.0),
            plain_bytes,
            sealed_bytes: sealed_bytes.ok_or(Error::Seal(envelope::SealError::TooLong))?,
            sealed_metadata,
            metadata_key_version,
            ..v1::PartRecord::default()
        });
        request.shard = self.shard().0;
        request.dataset_id = self.id().into();
        request.key = upload.key().as_str().to_owned();
        request.version_id = upload.id().into();
        self.write_once(request_id, |mut shard, request_id| {
            let request = v1::FinishPartRequest {
                request_id,
                ..request.clone()
            };
            async move { Ok(shard.finish_part(request).await?.into_inner()) }
        })
        .await?;
        Ok((id, plain_bytes))
    }

    fn part_inline(
        &self,
        dek: &SealDek,
        number: u32,
        plain: &[u8],
    ) -> Result<(StreamHeader, u64, v1::FinishPartRequest), Error> {
        let stream = dek.seal_part(PartNumber(number), plain)?;
        let (header, _) = StreamHeader::split(&stream).map_err(Error::NotAuthentic)?;
        let request = v1::FinishPartRequest {
            inline: stream.into(),
            ..v1::FinishPartRequest::default()
        };
        Ok((header, plain.len() as u64, request))
    }

    async fn part_blocks(
        &self,
        upload: &Upload,
        dek: &SealDek,
        number: u32,
        head: Vec<u8>,
        body: Body,
    ) -> Result<(StreamHeader, u64, v1::FinishPartRequest), Error> {
        let sealer = dek.sealer(PartNumber(number))?;
        let id = PartId::of(&sealer.header().commitment());
        let upload_epoch = UploadEpoch(self.0.upload_epoch.load(Ordering::Relaxed));
        let target = upload::Target {
            shard: self.shard(),
            dataset: self.id(),
            version: ObjectVersionId(id.0),
            part_of: Some(upload.id()),
            upload_epoch,
            lease: upload.0.lease,
            replicas: self.replicas().await?,
            stated: Stated::default(),
        };
        let uploaded = upload::run(&self.0.region, target, sealer, head, body)
            .await
            .inspect_err(|_| self.forget_replicas())?;
        let request = v1::FinishPartRequest {
            blocks: uploaded.blocks,
            upload_epoch: upload_epoch.0,
            receipts: uploaded.receipts,
            ..v1::FinishPartRequest::default()
        };
        Ok((uploaded.header, uploaded.plain_bytes, request))
    }

    /// Sealed with the number and the stream's id in it: what stands beside one part, or beside an earlier stream of it, is
    /// not taken for another's.
    async fn part_metadata(
        &self,
        upload: &Upload,
        number: u32,
        id: PartId,
        options: &PartOptions,
    ) -> Result<(Bytes, u32), Error> {
        let checksums = options.checksums.all();
        if checksums.is_empty() {
            return Ok((Bytes::new(), 0));
        }
        let plain = v1::UserMetadata {
            format: 1,
            checksums,
            part: number,
            part_id: Bytes::copy_from_slice(&id.0),
            ..v1::UserMetadata::default()
        };
        let (sealed, version) = self.seal_metadata(upload.id(), &plain).await?;
        Ok((Bytes::copy_from_slice(sealed.as_bytes()), version))
    }
}
