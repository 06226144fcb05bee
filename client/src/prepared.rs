//! A put that is sealed and has its request id, and is not sent yet: what is sent again is the same request.
//!
//! Owns the one request. However often and from however many tasks it is sent, within 24 upload epochs it has effect
//! once, and every answer is that of the one time: so a caller who was told that the outcome is unknown can ask.

use bytes::Bytes;
use proto::ids::ObjectVersionId;
use proto::v1;

use crate::dataset::{Dataset, PutOutcome};
use crate::error::Error;

/// A put, ready to be sent. Made by [`Dataset::prepare`].
#[derive(Clone)]
pub struct Prepared {
    pub(crate) dataset: Dataset,
    pub(crate) version: ObjectVersionId,
    pub(crate) bytes: u64,
    pub(crate) request: Request,
}

/// The commit: with the sealed bytes in it, or with receipts for blocks that are on a majority's disks.
#[derive(Clone)]
pub(crate) enum Request {
    Inline(v1::PutObjectRequest),
    Blocks(v1::FinishObjectRequest),
}

impl Prepared {
    /// The version there will be once it has taken effect.
    pub fn version(&self) -> ObjectVersionId {
        self.version
    }

    /// The id it is sent under.
    pub fn request_id(&self) -> &Bytes {
        match &self.request {
            Request::Inline(put) => &put.request_id,
            Request::Blocks(finish) => &finish.request_id,
        }
    }

    /// Sends it, for the first time or again. A refusal for want of a lease, a key or a majority is not kept: sent
    /// again, the same request may succeed.
    pub async fn send(&self) -> Result<PutOutcome, Error> {
        let done = match &self.request {
            Request::Inline(put) => {
                self.dataset
                    .write(|mut shard| {
                        let put = put.clone();
                        async move { Ok(shard.put_object(put).await?.into_inner()) }
                    })
                    .await?
            }
            Request::Blocks(finish) => {
                self.dataset
                    .write(|mut shard| {
                        let finish = finish.clone();
                        async move { Ok(shard.finish_object(finish).await?.into_inner()) }
                    })
                    .await?
            }
        };
        Ok(PutOutcome {
            version: ObjectVersionId::try_from(&done.version_id[..])?,
            replaced: ObjectVersionId::try_from(&done.replaced_version_id[..]).ok(),
            bytes: self.bytes,
        })
    }
}
