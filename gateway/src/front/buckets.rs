//! Buckets: datasets by another name.

use client::CreateOptions;
use client::ids::{DatasetName, UnixMs};

use super::Front;
use crate::error::ApiError;

/// Buckets of one page at most.
const BUCKETS_PAGE: u32 = 1_000;

/// A bucket in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: DatasetName,
    pub(crate) created_at: UnixMs,
}

/// One page of buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BucketPage {
    pub(crate) buckets: Vec<Listed>,
    /// The name after which the next page starts.
    pub(crate) next: Option<String>,
}

impl Front {
    /// Buckets whose names start with `prefix`, after `start_after`: all of them where no limit is named.
    pub(crate) async fn list_buckets(
        &self,
        prefix: &str,
        start_after: &str,
        limit: Option<u32>,
    ) -> Result<BucketPage, ApiError> {
        let wanted = limit.map_or(usize::MAX, |limit| limit as usize);
        let mut page = BucketPage::default();
        let mut start_after = start_after.to_owned();
        loop {
            let part = self
                .region
                .datasets_page(&start_after, BUCKETS_PAGE)
                .await?;
            let (names_end, next) = (part.datasets.len(), part.next);
            for (at, dataset) in part.datasets.into_iter().enumerate() {
                let name = dataset.name.as_str();
                if name > prefix && !name.starts_with(prefix) {
                    return Ok(page);
                }
                if !name.starts_with(prefix) {
                    continue;
                }
                page.buckets.push(Listed {
                    name: dataset.name.clone(),
                    created_at: dataset.created_at,
                });
                let more = at + 1 < names_end || next.is_some();
                if page.buckets.len() >= wanted && more {
                    page.next = Some(dataset.name.to_string());
                    return Ok(page);
                }
            }
            match next {
                Some(next) => start_after = next,
                None => return Ok(page),
            }
        }
    }

    /// Makes a bucket; one that is to have object lock and does not get it is not left behind.
    pub(crate) async fn create_bucket(
        &self,
        name: &DatasetName,
        object_lock: bool,
    ) -> Result<(), ApiError> {
        // A dataset begins with its key: a name that is taken is to leave none behind.
        match self.region.dataset_info(name).await {
            Ok(_) => return Err(ApiError::BucketAlreadyOwnedByYou),
            Err(client::Error::NoSuchDataset) => {}
            Err(error) => return Err(error.into()),
        }
        let made = self
            .region
            .create_dataset(name, &CreateOptions::default())
            .await;
        self.forget(name).await;
        let made = made?;
        if object_lock && let Err(error) = made.set_object_lock(None).await {
            if let Err(left) = self.region.delete_dataset(name, false).await {
                tracing::warn!(%left, "a bucket that was to have object lock is there without");
            }
            return Err(error.into());
        }
        Ok(())
    }

    pub(crate) async fn delete_bucket(&self, name: &DatasetName) -> Result<(), ApiError> {
        let deleted = self.region.delete_dataset(name, false).await;
        self.forget(name).await;
        let Err(error) = deleted else {
            return Ok(());
        };
        // Where versions are kept by locks, that there are some is what S3 says.
        let info = match error.reason() {
            "dataset-held" => self.region.dataset_info(name).await.ok(),
            _ => None,
        };
        match info.is_some_and(|info| info.versions > 0) {
            true => Err(ApiError::BucketNotEmpty),
            false => Err(error.into()),
        }
    }

    /// Turns versioning on, or suspends it.
    pub(crate) async fn set_versioning(
        &self,
        name: &DatasetName,
        enabled: bool,
    ) -> Result<(), ApiError> {
        let bucket = self.bucket(name).await?;
        let done = bucket.dataset.set_versioning(enabled).await;
        let done = self.answer(name, done).await;
        self.forget(name).await;
        done
    }
}
