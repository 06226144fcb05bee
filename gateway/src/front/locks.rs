//! Object lock: of a bucket, and of versions.
//!
//! Owns what a bucket has to have before anything in it is locked. Who may pass over governance retention or lift a legal
//! hold is the region's to say: a request that asks to pass is first made as one that does not, so that it asks for more
//! than others only where something keeps the version.

use client::ids::DatasetName;
use client::{ObjectInfo, Retention, RetentionMode};
use proto::v1;

use super::read::Read;
use super::{Bucket, Front};
use crate::error::ApiError;

/// Why the region removes or changes nothing of a version.
pub(super) const LOCKED: &str = "object-locked";

/// How versions are kept that are put without a retention: how, and for how many days.
pub(crate) type DefaultRetention = (RetentionMode, u32);

/// What a version is locked by from the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Locks {
    pub(crate) retention: Option<Retention>,
    pub(crate) legal_hold: bool,
}

impl Front {
    /// What is known of a bucket, asked for now.
    pub(super) async fn bucket_anew(&self, name: &DatasetName) -> Result<Bucket, ApiError> {
        self.forget(name).await;
        self.bucket(name).await
    }

    /// The bucket, which has object lock: whatever that is asked for takes it.
    async fn locking(&self, name: &DatasetName) -> Result<Bucket, ApiError> {
        let mut bucket = self.bucket(name).await?;
        if bucket.info.lock.is_none() {
            bucket = self.bucket_anew(name).await?;
        }
        match bucket.info.lock {
            Some(_) => Ok(bucket),
            None => Err(no_lock()),
        }
    }

    /// Refuses locks where the bucket has no object lock, before anything is stored.
    pub(super) async fn may_lock(&self, name: &DatasetName, locks: Locks) -> Result<(), ApiError> {
        match locks == Locks::default() {
            true => Ok(()),
            false => self.locking(name).await.map(drop),
        }
    }

    /// Turns object lock on for ever, or changes its default.
    pub(crate) async fn set_object_lock(
        &self,
        name: &DatasetName,
        default: Option<DefaultRetention>,
    ) -> Result<(), ApiError> {
        let bucket = self.bucket_anew(name).await?;
        if bucket.info.lock.is_none() && !bucket.info.versioning {
            return Err(ApiError::InvalidBucketState(
                "object lock takes versioning, which has to be on",
            ));
        }
        let done = bucket.dataset.set_object_lock(default).await;
        let done = self.answer(name, done).await;
        self.forget(name).await;
        done
    }

    /// The bucket's default retention.
    pub(crate) async fn object_lock(
        &self,
        name: &DatasetName,
    ) -> Result<Option<DefaultRetention>, ApiError> {
        let bucket = self.bucket(name).await?;
        let lock = bucket.info.lock;
        let lock = lock.ok_or(ApiError::ObjectLockConfigurationNotFound)?;
        Ok(default_of(lock))
    }

    /// What a version is locked by.
    pub(crate) async fn locked(&self, read: &Read) -> Result<ObjectInfo, ApiError> {
        let bucket = self.locking(&read.bucket).await?;
        let info = self.resolve(&bucket, &read.key, read.version).await?;
        match info.delete_marker {
            true => Err(ApiError::MethodNotAllowed),
            false => Ok(info),
        }
    }

    /// Sets a version's retention, or ends it.
    pub(crate) async fn set_retention(
        &self,
        read: &Read,
        retention: Option<Retention>,
        bypass_governance: bool,
    ) -> Result<(), ApiError> {
        let version = self.locked(read).await?.version;
        let bucket = self.bucket(&read.bucket).await?;
        let set = |bypass| {
            bucket
                .dataset
                .set_retention(&read.key, version, retention, bypass)
        };
        let done = match set(false).await {
            Err(error) if bypass_governance && error.reason() == LOCKED => set(true).await,
            done => done,
        };
        self.answer(&read.bucket, done).await
    }

    /// Puts a version under a legal hold, or lifts it.
    pub(crate) async fn set_legal_hold(&self, read: &Read, on: bool) -> Result<(), ApiError> {
        let version = self.locked(read).await?.version;
        let bucket = self.bucket(&read.bucket).await?;
        let done = bucket.dataset.set_legal_hold(&read.key, version, on).await;
        self.answer(&read.bucket, done).await
    }
}

fn no_lock() -> ApiError {
    ApiError::InvalidRequest("the bucket is missing an object lock configuration")
}

fn default_of(lock: v1::ObjectLock) -> Option<DefaultRetention> {
    let mode = match lock.default_mode() {
        v1::RetentionMode::Governance => RetentionMode::Governance,
        v1::RetentionMode::Compliance => RetentionMode::Compliance,
        v1::RetentionMode::Unspecified => return None,
    };
    Some((mode, lock.default_days))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_with_object_lock_may_have_a_default() {
        assert_eq!(default_of(v1::ObjectLock::default()), None);
        let lock = v1::ObjectLock {
            default_mode: v1::RetentionMode::Compliance.into(),
            default_days: 7,
        };
        assert_eq!(default_of(lock), Some((RetentionMode::Compliance, 7)));
    }
}
