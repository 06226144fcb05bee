//! Beginning an upload, and ending one that is not to become an object.

use client::ids::{DatasetName, ObjectKey, ObjectVersionId};

use super::{Found, UploadName};
use crate::encryption::Requested;
use crate::error::ApiError;
use crate::front::{Front, Locks};
use crate::metadata::Described;

/// An upload to begin.
pub(crate) struct Begin {
    pub(crate) bucket: DatasetName,
    pub(crate) key: ObjectKey,
    /// What the object will have.
    pub(crate) described: Described,
    pub(crate) encryption: Requested,
    pub(crate) locks: Locks,
}

/// One that has begun.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) id: ObjectVersionId,
    pub(crate) kek: String,
}

impl Front {
    /// Begins an upload in parts. A retry begins another: this one is listed until it is aborted.
    pub(crate) async fn begin_upload(&self, begin: Begin) -> Result<Begun, ApiError> {
        let bucket = self.bucket(&begin.bucket).await?;
        begin.encryption.check(bucket.kek())?;
        self.may_lock(&begin.bucket, begin.locks).await?;
        let mut options = begin.described.options()?;
        (options.retention, options.legal_hold) = (begin.locks.retention, begin.locks.legal_hold);
        let upload = bucket.dataset.create_upload(&begin.key, &options).await;
        let upload = self.answer(&begin.bucket, upload).await?;
        let id = upload.id();
        let summed = begin.described.summed;
        self.hold(&bucket, Found { upload, summed });
        Ok(Begun {
            id,
            kek: bucket.kek().to_string(),
        })
    }

    /// Ends an upload; what was put of it is removed.
    pub(crate) async fn abort_upload(&self, name: &UploadName) -> Result<(), ApiError> {
        let bucket = self.bucket(&name.bucket).await?;
        self.let_go(&bucket, name.id);
        let done = bucket.dataset.abort_upload(&name.key, name.id).await;
        self.answer(&name.bucket, done).await
    }
}
