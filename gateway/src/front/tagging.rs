//! Tags: of versions, changed in place, and of buckets.

use std::collections::BTreeMap;

use client::ids::DatasetName;

use super::Front;
use super::read::Read;
use super::versions::{VersionSelector, version_text};
use crate::error::ApiError;

impl Front {
    /// Puts these tags in place of a version's. Answers how S3 names the version, where the bucket has versions.
    pub(crate) async fn set_tags(
        &self,
        read: &Read,
        tags: &BTreeMap<String, String>,
    ) -> Result<Option<String>, ApiError> {
        let bucket = self.bucket(&read.bucket).await?;
        let version = match read.version {
            None => None,
            Some(VersionSelector::Id(id)) => Some(id),
            Some(VersionSelector::Null) => {
                let info = self.resolve(&bucket, &read.key, read.version).await?;
                Some(info.version)
            }
        };
        let done = bucket.dataset.set_tags(&read.key, version, tags).await;
        let info = match self.answer(&read.bucket, done).await {
            Err(ApiError::NoSuchKey) if read.version.is_some() => {
                return Err(ApiError::NoSuchVersion);
            }
            done => done?,
        };
        let has_versions = bucket.has_versions() || info.versioned;
        Ok(has_versions.then(|| version_text(&info)))
    }

    /// A bucket's own tags, where it has some.
    pub(crate) async fn bucket_tags(
        &self,
        name: &DatasetName,
    ) -> Result<Vec<(String, String)>, ApiError> {
        let bucket = self.bucket(name).await?;
        let tags = bucket.dataset.dataset_tags().await;
        let tags = self.answer(name, tags).await?;
        match tags.is_empty() {
            true => Err(ApiError::NoSuchTagSet),
            false => Ok(tags),
        }
    }

    /// Sets a bucket's own tags in place of those there are.
    pub(crate) async fn set_bucket_tags(
        &self,
        name: &DatasetName,
        tags: &[(String, String)],
    ) -> Result<(), ApiError> {
        let bucket = self.bucket(name).await?;
        let done = bucket.dataset.set_dataset_tags(tags).await;
        self.answer(name, done).await
    }
}
