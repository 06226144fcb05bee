//! Putting an object: its body checked as it is sealed, and a retry that meets what its first try did.

use client::ids::{DatasetName, ObjectKey, ObjectVersionId};
use client::{Dataset, Error, Invocation, ObjectInfo, Precondition, PutOptions};

use super::locks::Locks;
use super::versions::version_text;
use super::{Bucket, Front};
use crate::body::{Checked, Incoming, Stated};
use crate::conditions::{EtagCondition, version_of};
use crate::encryption::Requested;
use crate::error::ApiError;
use crate::metadata::Described;

/// Bytes of one body at most, as S3 bounds them; what is larger is put in parts.
pub(crate) const PUT_BYTES_MAX: u64 = 5 << 30;
/// Versions of one page when a version is looked for.
const PAGE: u32 = 100;
/// Pages that are looked through for what an earlier try did: it is among the newest.
const PAGES_MAX: u32 = 10;

/// What has to hold of what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PutCondition {
    pub(crate) if_match: Option<EtagCondition>,
    pub(crate) if_none_match: Option<EtagCondition>,
}

/// An object to be put.
pub(crate) struct Put {
    pub(crate) bucket: DatasetName,
    pub(crate) key: ObjectKey,
    pub(crate) described: Described,
    pub(crate) condition: PutCondition,
    pub(crate) encryption: Requested,
    pub(crate) locks: Locks,
    pub(crate) stated: Stated,
    pub(crate) body: Incoming,
}

/// What a put did.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) version: ObjectVersionId,
    /// As S3 names the version, where the bucket has versions.
    pub(crate) version_id: Option<String>,
    pub(crate) kek: String,
    pub(crate) checksums: std::collections::BTreeMap<String, bytes::Bytes>,
}

impl Front {
    /// Stores an object.
    pub(crate) async fn put(&self, put: Put) -> Result<Stored, ApiError> {
        let bucket = self.bucket(&put.bucket).await?;
        put.encryption.check(bucket.kek())?;
        if put.stated.length > PUT_BYTES_MAX {
            return Err(ApiError::EntityTooLarge(PUT_BYTES_MAX));
        }
        let described = Described {
            invocation: self.caller.invocation("put", &put.bucket, &put.key),
            ..put.described
        };
        self.may_lock(&put.bucket, put.locks).await?;
        let mut options = described.options()?;
        (options.retention, options.legal_hold) = (put.locks.retention, put.locks.legal_hold);
        options.precondition = self.precondition(&bucket, &put.key, &put.condition).await?;
        let room = self.shared.transfers.upload(put.stated.length).await?;
        let body = Checked::new(put.body, put.stated, options.checksums.clone());
        let body = body.into_body().await?;
        let stored = bucket.dataset.put(&put.key, body, &options).await;
        drop(room);
        match stored {
            Ok(outcome) => Ok(stored_as(&bucket, outcome.version, &options)),
            Err(error) => self.after_failure(&bucket, &put.key, &options, error).await,
        }
    }

    /// The SDK's precondition for S3's. `If-Match: *` is of the version that is there now.
    pub(super) async fn precondition(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<Precondition, ApiError> {
        match (&condition.if_match, &condition.if_none_match) {
            (None, None) => Ok(Precondition::Any),
            (None, Some(EtagCondition::Any)) => Ok(Precondition::Absent),
            (Some(EtagCondition::Is(etag)), None) => match version_of(etag) {
                Some(version) => Ok(Precondition::Is(version)),
                None => {
                    // No object here has such an ETag; what is said of it depends on whether there is one.
                    self.resolve(bucket, key, None).await?;
                    Err(ApiError::PreconditionFailed)
                }
            },
            (Some(EtagCondition::Any), None) => {
                let info = self.resolve(bucket, key, None).await?;
                Ok(Precondition::Is(info.version))
            }
            (None, Some(EtagCondition::Is(_))) => Err(ApiError::NotImplemented(
                "If-None-Match of a write with anything but *",
            )),
            (Some(_), Some(_)) => Err(ApiError::NotImplemented(
                "If-Match and If-None-Match of one write",
            )),
        }
    }

    /// What a put that failed came to. One whose earlier try took effect is done: the version that it made says so.
    pub(super) async fn after_failure(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        options: &PutOptions,
        error: Error,
    ) -> Result<Stored, ApiError> {
        // Under its invocation's id, sealed in another try.
        if let Error::AlreadyDone { version } = error {
            return Ok(stored_as(bucket, version, options));
        }
        let had_effect =
            matches!(error, Error::Unknown { .. }) || error.reason() == "request-id-reused";
        if let Some(invocation) = options.invocation.filter(|_| had_effect)
            && let Some(info) = made_by(&bucket.dataset, key, invocation).await
        {
            return Ok(Stored {
                version_id: bucket.has_versions().then(|| version_text(&info)),
                version: info.version,
                kek: bucket.kek().to_string(),
                checksums: info.metadata.checksums,
            });
        }
        if let (Error::PreconditionFailed { .. }, Precondition::Is(_)) =
            (&error, options.precondition)
        {
            // S3 says of an object that is not there that it is not there.
            self.resolve(bucket, key, None).await?;
        }
        self.answer(bucket.dataset.name(), Err(error)).await
    }
}

fn stored_as(bucket: &Bucket, version: ObjectVersionId, options: &PutOptions) -> Stored {
    Stored {
        version,
        version_id: bucket.version_id(version),
        kek: bucket.kek().to_string(),
        checksums: options.checksums.all(),
    }
}

/// The version that an earlier try made, if it is there still.
async fn made_by(dataset: &Dataset, key: &ObjectKey, invocation: Invocation) -> Option<ObjectInfo> {
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let page = dataset
            .list_versions(key.as_str(), after, PAGE)
            .await
            .ok()?;
        for info in page.versions {
            if info.key != *key {
                return None;
            }
            let described = Described::read(&info.metadata).ok();
            if described.is_some_and(|described| described.invocation == Some(invocation)) {
                return Some(info);
            }
        }
        after = Some(page.next?);
    }
    None
}
