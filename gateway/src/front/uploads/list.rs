//! Listings of uploads under way and of their parts.

use client::ids::DatasetName;
use client::{Part, UploadInfo, UploadsQuery};

use super::UploadName;
use crate::checksum::Summed;
use crate::error::ApiError;
use crate::front::Front;
use crate::front::list::PAGE_MAX;
use crate::token::VersionMarker;

/// What uploads are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListUploads {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    pub(crate) key_marker: String,
    /// Within that key, the upload after which the page starts; without, all of the key's are passed by.
    pub(crate) upload_marker: Option<VersionMarker>,
    pub(crate) max_uploads: u32,
}

/// One page of uploads.
#[derive(Debug, Clone, Default)]
pub(crate) struct UploadsPage {
    pub(crate) uploads: Vec<UploadInfo>,
    pub(crate) common_prefixes: Vec<String>,
    /// Key and log index after which the next page starts.
    pub(crate) next: Option<(String, u64)>,
}

/// One page of the parts of an upload.
#[derive(Debug, Clone)]
pub(crate) struct ListedParts {
    pub(crate) parts: Vec<Part>,
    /// The number after which the next page starts.
    pub(crate) next: Option<u32>,
    /// How the upload said it is summed.
    pub(crate) summed: Option<Summed>,
}

impl Front {
    /// One page of uploads under way, by key, oldest first within one.
    pub(crate) async fn list_uploads(
        &self,
        name: &DatasetName,
        wanted: &ListUploads,
    ) -> Result<UploadsPage, ApiError> {
        let bucket = self.bucket(name).await?;
        if wanted.max_uploads == 0 {
            return Ok(UploadsPage::default());
        }
        let index = match wanted
            .upload_marker
            .filter(|_| !wanted.key_marker.is_empty())
        {
            None => 0,
            Some(VersionMarker::Index(index)) => index.0,
            Some(VersionMarker::Version(id)) => {
                let key = wanted.key_marker.parse();
                let key = key.map_err(|_| ApiError::KeyTooLong)?;
                let found = bucket.dataset.find_upload(&key, id).await;
                self.answer(name, found).await?.info().begun_index
            }
        };
        let mut query = UploadsQuery {
            prefix: wanted.prefix.clone(),
            delimiter: wanted.delimiter.clone(),
            start_after: (wanted.key_marker.clone(), index),
            limit: wanted.max_uploads.min(PAGE_MAX),
        };
        loop {
            let page = bucket.dataset.list_uploads(&query).await;
            let page = self.answer(name, page).await?;
            match page.next {
                Some(next) if page.uploads.is_empty() && page.common_prefixes.is_empty() => {
                    query.start_after = next;
                }
                next => {
                    return Ok(UploadsPage {
                        uploads: page.uploads,
                        common_prefixes: page.common_prefixes,
                        next,
                    });
                }
            }
        }
    }

    /// One page of the parts of an upload under way.
    pub(crate) async fn list_parts(
        &self,
        of: &UploadName,
        after: u32,
        max_parts: u32,
    ) -> Result<ListedParts, ApiError> {
        let bucket = self.bucket(&of.bucket).await?;
        // Parts of a version that was completed are the object's, and no upload's.
        let summed = self.find_upload(&bucket, of).await?.summed;
        let mut listed = ListedParts {
            parts: Vec::new(),
            next: None,
            summed,
        };
        if max_parts > 0 {
            let limit = max_parts.min(PAGE_MAX);
            let page = bucket.dataset.list_parts(&of.key, of.id, after, limit);
            let page = self.answer(&of.bucket, page.await).await?;
            (listed.parts, listed.next) = (page.parts, page.next);
        }
        Ok(listed)
    }
}
