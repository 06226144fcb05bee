//! Deleting objects, one and many. That there is nothing to delete is no error, as in S3.

use client::ids::{DatasetName, ObjectKey};
use client::{Deleted, Invocation, Precondition};
use futures::{FutureExt as _, StreamExt as _, stream};

use super::locks::LOCKED;
use super::put::PutCondition;
use super::versions::VersionSelector;
use super::{Bucket, Front};
use crate::error::ApiError;

/// Deletes of one request under way at once.
const DELETES_AT_ONCE: usize = 16;

/// What is to be deleted.
#[derive(Debug, Clone)]
pub(crate) struct Delete {
    pub(crate) key: ObjectKey,
    pub(crate) version: Option<VersionSelector>,
    pub(crate) condition: PutCondition,
    /// Whether governance retention is passed over, by who may.
    pub(crate) bypass_governance: bool,
}

/// What a delete did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeletedObject {
    /// Whether it wrote a delete marker, or removed one.
    pub(crate) delete_marker: bool,
    /// The version that was removed, as the request named it.
    pub(crate) version_id: Option<String>,
    /// The delete marker that was written.
    pub(crate) marker_id: Option<String>,
}

impl Front {
    /// Deletes the current version, or the one named.
    pub(crate) async fn delete(
        &self,
        name: &DatasetName,
        delete: &Delete,
    ) -> Result<DeletedObject, ApiError> {
        let bucket = self.bucket(name).await?;
        self.delete_from(&bucket, delete).await
    }

    /// Deletes many, each by itself: what becomes of one says nothing of the others.
    pub(crate) async fn delete_many(
        &self,
        name: &DatasetName,
        deletes: &[Delete],
    ) -> Result<Vec<Result<DeletedObject, ApiError>>, ApiError> {
        let bucket = self.bucket(name).await?;
        let mut done = Vec::with_capacity(deletes.len());
        for one in deletes {
            done.push(self.delete_from(&bucket, one).boxed());
        }
        let done = stream::iter(done).buffered(DELETES_AT_ONCE);
        Ok(done.collect().await)
    }

    async fn delete_from(
        &self,
        bucket: &Bucket,
        delete: &Delete,
    ) -> Result<DeletedObject, ApiError> {
        let (version, was_marker) = match delete.version {
            None => (None, false),
            Some(selector) => match self.resolve(bucket, &delete.key, Some(selector)).await {
                Ok(info) => (Some(info.version), info.delete_marker),
                Err(ApiError::NoSuchVersion) => {
                    return Ok(DeletedObject {
                        version_id: Some(text_of(selector)),
                        ..DeletedObject::default()
                    });
                }
                Err(error) => return Err(error),
            },
        };
        let precondition = self
            .precondition(bucket, &delete.key, &delete.condition)
            .await?;
        // Deletes of several versions of one key may be one request's.
        let change = match version {
            Some(version) => format!("delete {version}"),
            None => "delete".to_owned(),
        };
        let name = bucket.dataset.name();
        let invocation = self.caller.invocation(&change, name, &delete.key);
        let mut done = sdk_delete(bucket, delete, version, precondition, invocation).await;
        if let (Err(error), Some(version), true) = (&done, version, delete.bypass_governance)
            && error.reason() == LOCKED
        {
            let change = format!("delete over governance {version}");
            let invocation = self.caller.invocation(&change, name, &delete.key);
            done = bucket
                .dataset
                .delete_bypassing_governance(&delete.key, version, precondition, invocation)
                .await;
        }
        let done = match done {
            Err(error) if is_nothing(&error) => Ok(Deleted {
                marker: None,
                removed: None,
            }),
            other => other,
        };
        let done = self.answer(bucket.dataset.name(), done).await?;
        Ok(DeletedObject {
            delete_marker: was_marker || done.marker.is_some(),
            version_id: delete.version.map(text_of),
            marker_id: done.marker.and_then(|marker| bucket.version_id(marker)),
        })
    }
}

async fn sdk_delete(
    bucket: &Bucket,
    delete: &Delete,
    version: Option<client::ids::ObjectVersionId>,
    precondition: Precondition,
    invocation: Option<Invocation>,
) -> Result<Deleted, client::Error> {
    let dataset = &bucket.dataset;
    match invocation {
        Some(invocation) => {
            dataset
                .delete_as(&delete.key, version, precondition, invocation)
                .await
        }
        None => dataset.delete(&delete.key, version, precondition).await,
    }
}

/// There was nothing to delete; or an earlier try, in an upload epoch that is over, left its marker.
fn is_nothing(error: &client::Error) -> bool {
    matches!(error, client::Error::NoSuchObject) || error.reason() == "version-id-reused"
}

fn text_of(selector: VersionSelector) -> String {
    match selector {
        VersionSelector::Null => "null".to_owned(),
        VersionSelector::Id(id) => id.to_string(),
    }
}
