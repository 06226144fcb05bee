//! A put of what is too long for one stream: an upload in parts, by one caller, as one call.
//!
//! Owns how long parts are. Refuses a body that is shorter than was said: nothing of it is stored then.

use envelope::PARTS_MAX;
use proto::ids::ObjectKey;

use super::{CompleteOptions, PartOptions, Upload};
use crate::body::Body;
use crate::dataset::{Dataset, PutOptions, PutOutcome};
use crate::error::Error;

impl Dataset {
    /// Puts `bytes` of a body in parts. What was begun is aborted where it fails, but for a completion of unknown outcome.
    pub(crate) async fn put_in_parts(
        &self,
        key: &ObjectKey,
        body: Body,
        bytes: u64,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let upload = self.create_upload(key, options).await?;
        let outcome = self.put_parts(&upload, body, bytes, options).await;
        if let Err(error) = &outcome
            && !matches!(error, Error::Unknown { .. })
            && let Err(left) = self.abort_upload(key, upload.id()).await
        {
            tracing::debug!(%left, "an upload that failed is left behind");
        }
        outcome
    }

    async fn put_parts(
        &self,
        upload: &Upload,
        body: Body,
        bytes: u64,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let stream_max = self.0.region.0.tuning.stream_bytes_max.max(1);
        let part_bytes = stream_max.max(bytes.div_ceil(PARTS_MAX as u64));
        let (source, mut left, mut parts) = (body.shared(), bytes, Vec::new());
        for number in 1.. {
            let next = left.min(part_bytes);
            if next == 0 {
                break;
            }
            let part = self
                .upload_part(upload, number, source.next(next), &PartOptions::default())
                .await?;
            if part.bytes != next {
                return Err(Error::Caller {
                    reason: "body-too-short".to_owned(),
                    message: format!("the body ended {} bytes early", left - part.bytes),
                });
            }
            left -= next;
            parts.push((number, part.id));
        }
        let options = CompleteOptions {
            precondition: options.precondition,
            // Checksums are known now that the body has been read.
            metadata: Some(options.metadata()),
            invocation: options.invocation,
        };
        self.complete_upload(upload, &parts, &options).await
    }
}
