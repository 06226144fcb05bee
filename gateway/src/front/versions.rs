//! Versions of objects: by their ids, the one that S3 calls `null`, and listings of them.
//!
//! Owns which text names a version. One that was made while the bucket was not versioned, or versioning was suspended, is
//! `null`, and there is at most one of those under a key.

use std::str::FromStr;

use client::ObjectInfo;
use client::ids::{DatasetName, ObjectKey, ObjectVersionId, UnixMs};

use super::list::{self, Folded};
use super::{Bucket, Front};
use crate::checksum::Kind;
use crate::error::ApiError;
use crate::token::VersionMarker;

/// S3's name for the version that was made without versioning, or while it was suspended.
pub(super) const NULL: &str = "null";
/// Entries of one page of the region.
const PAGE: u32 = 1_000;

/// Which version a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionSelector {
    /// The one made without versioning, or while it was suspended; a delete marker may be one.
    Null,
    /// One by its id.
    Id(ObjectVersionId),
}

impl FromStr for VersionSelector {
    type Err = ApiError;
    fn from_str(text: &str) -> Result<Self, ApiError> {
        if text == NULL {
            return Ok(Self::Null);
        }
        let id = text.parse();
        id.map(Self::Id)
            .map_err(|_| ApiError::InvalidArgument("this is no version id"))
    }
}

/// The text that names a version.
pub(crate) fn version_text(info: &ObjectInfo) -> String {
    if info.versioned {
        info.version.to_string()
    } else {
        NULL.to_owned()
    }
}

/// What versions are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListVersions {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    pub(crate) key_marker: String,
    pub(crate) version_marker: Option<VersionMarker>,
    pub(crate) max_keys: u32,
}

/// A version in a listing.
#[derive(Debug, Clone)]
pub(crate) struct ListedVersion {
    pub(crate) key: String,
    pub(crate) version_id: String,
    pub(crate) version: ObjectVersionId,
    pub(crate) bytes: u64,
    pub(crate) finished_at: UnixMs,
    pub(crate) delete_marker: bool,
    pub(crate) is_latest: bool,
    pub(crate) algorithms: Vec<&'static str>,
    pub(crate) kind: Kind,
}

/// One page of versions.
#[derive(Debug, Clone, Default)]
pub(crate) struct VersionsPage {
    pub(crate) versions: Vec<ListedVersion>,
    pub(crate) common_prefixes: Vec<String>,
    /// Key and log index after which the next page starts.
    pub(crate) next: Option<(String, u64)>,
}

impl Front {
    /// What a request reads: one version by its id, or the current one. A delete marker is an answer only where its id
    /// was named.
    pub(super) async fn resolve(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        version: Option<VersionSelector>,
    ) -> Result<ObjectInfo, ApiError> {
        let name = bucket.dataset.name();
        let found = match version {
            None => bucket.dataset.head(key, None).await,
            Some(VersionSelector::Id(id)) => {
                let found = bucket.dataset.head(key, Some(id)).await;
                return match self.answer(name, found).await {
                    Err(ApiError::NoSuchKey) => Err(ApiError::NoSuchVersion),
                    other => other,
                };
            }
            Some(VersionSelector::Null) => return self.null_version(bucket, key).await,
        };
        self.answer(name, found).await
    }

    async fn null_version(&self, bucket: &Bucket, key: &ObjectKey) -> Result<ObjectInfo, ApiError> {
        let found = bucket.dataset.head_null(key).await;
        match self.answer(bucket.dataset.name(), found).await {
            Err(ApiError::NoSuchKey) => Err(ApiError::NoSuchVersion),
            other => other,
        }
    }

    /// One page of versions, newest first within a key.
    pub(crate) async fn list_versions(
        &self,
        name: &DatasetName,
        wanted: &ListVersions,
    ) -> Result<VersionsPage, ApiError> {
        let bucket = self.bucket(name).await?;
        let mut page = VersionsPage::default();
        if wanted.max_keys == 0 {
            return Ok(page);
        }
        let mut folded = Folded::new(&wanted.prefix, &wanted.delimiter, &wanted.key_marker);
        let mut after = match folded.is_last(&wanted.key_marker) {
            true => Some((list::past(&wanted.key_marker), 0)),
            false => self.version_start(&bucket, wanted).await?,
        };
        let mut room = wanted.max_keys.min(list::PAGE_MAX) as usize;
        // Of the last entry of this page: a version, or a common prefix.
        let mut last = None;
        loop {
            let part = bucket
                .dataset
                .list_versions(&wanted.prefix, after.clone(), PAGE);
            let part = self.answer(name, part.await).await?;
            let mut next = part.next;
            for info in part.versions {
                let key = info.key.as_str();
                let prefix = folded.prefix_of(key).map(str::to_owned);
                if prefix.as_ref().is_some_and(|prefix| folded.is_last(prefix)) {
                    continue;
                }
                if room == 0 {
                    page.next = last;
                    return Ok(page);
                }
                room -= 1;
                let Some(prefix) = prefix else {
                    last = Some((key.to_owned(), info.finished_index.0));
                    page.versions.push(listed(info));
                    continue;
                };
                // What lies under it need not be looked at.
                next = Some((list::past(&prefix), 0));
                last = Some((prefix.clone(), 0));
                folded.take(&prefix);
                page.common_prefixes.push(prefix);
                break;
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(page),
            }
        }
    }

    async fn version_start(
        &self,
        bucket: &Bucket,
        wanted: &ListVersions,
    ) -> Result<Option<(String, u64)>, ApiError> {
        if wanted.key_marker.is_empty() {
            return match wanted.version_marker {
                Some(_) => Err(ApiError::InvalidArgument(
                    "a version id marker goes with a key marker",
                )),
                None => Ok(None),
            };
        }
        let index = match wanted.version_marker {
            None => 0,
            Some(VersionMarker::Index(index)) => index.0,
            Some(VersionMarker::Version(version)) => {
                let key: ObjectKey = wanted
                    .key_marker
                    .parse()
                    .map_err(|_| ApiError::KeyTooLong)?;
                let selector = Some(VersionSelector::Id(version));
                self.resolve(bucket, &key, selector).await?.finished_index.0
            }
        };
        Ok(Some((wanted.key_marker.clone(), index)))
    }
}

fn listed(info: ObjectInfo) -> ListedVersion {
    ListedVersion {
        version_id: version_text(&info),
        algorithms: list::algorithms(&info),
        kind: list::kind(&info),
        key: info.key.as_str().to_owned(),
        version: info.version,
        bytes: info.bytes,
        finished_at: info.finished_at,
        delete_marker: info.delete_marker,
        is_latest: info.is_current,
    }
}
