//! What S3's operations come to, in words of the SDK: buckets are datasets, and every answer is the region's.
//!
//! Owns the handles of datasets and how old what is known of them may be. Knows nothing of S3's wire, which is in
//! [`crate::s3`].

mod buckets;
mod copy;
mod cors;
mod delete;
mod lifecycle;
mod list;
mod locks;
mod parts;
mod put;
mod read;
mod tagging;
mod uploads;
mod versions;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use client::ids::{DatasetName, Identity, KekId, ObjectKey, ObjectVersionId, RegionId};
use client::{Dataset, DatasetInfo, Invocation, Region};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use buckets::BucketPage;
pub(crate) use copy::{Copy, Directive};
pub(crate) use delete::{Delete, DeletedObject};
pub(crate) use list::{List, ListedPage};
pub(crate) use locks::{DefaultRetention, Locks};
pub(crate) use parts::ObjectParts;
pub(crate) use put::{Put, PutCondition};
pub(crate) use read::{Read, Reading, View};
pub(crate) use uploads::{
    Begin, Complete, Completed, CopyPart, ListUploads, NamedPart, PARTS_MAX, PutPart, UploadName,
    WholeStated,
};
pub(crate) use versions::{ListVersions, ListedVersion, VersionSelector};

use crate::error::ApiError;
use crate::transfers::Transfers;
use cors::HeldRules;
use uploads::HeldUploads;

/// Handles of buckets held at once.
const BUCKETS_MAX: usize = 10_000;
/// How old what is known of a bucket may be: whether it is versioned, which key it has.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// On whose behalf it is done: the access key's principal.
    pub(crate) principal: Identity,
    /// What the client calls all tries of one and the same request.
    pub(crate) invocation_id: Option<String>,
}

impl Caller {
    /// What the tries of one change of one object have in common, where the client says which belong together. It is of
    /// this principal, change, bucket and object alone: nobody meets another's.
    fn invocation(
        &self,
        change: &str,
        bucket: &DatasetName,
        key: &ObjectKey,
    ) -> Option<Invocation> {
        let id = self.invocation_id.as_ref()?;
        let mut context = digest::Context::new(&digest::SHA256);
        let principal = self.principal.to_string();
        let parts = ["reduit/v1 s3 invocation", change, &principal, id];
        for part in parts.into_iter().chain([bucket.as_str(), key.as_str()]) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.finish().as_ref()[..16]);
        Some(Invocation(bytes))
    }
}

/// A bucket, as it is known here.
#[derive(Clone)]
pub(crate) struct Bucket {
    pub(crate) dataset: Dataset,
    pub(crate) info: DatasetInfo,
}

impl Bucket {
    /// The id of its key, as S3 shows it.
    pub(crate) fn kek(&self) -> KekId {
        self.info.kek_id
    }

    /// Whether versioning is on, or was.
    fn has_versions(&self) -> bool {
        self.info.versioning || self.info.suspended
    }

    /// As S3 names a version that was put now, where the bucket has versions.
    fn version_id(&self, version: ObjectVersionId) -> Option<String> {
        match self.info.versioning {
            true => Some(version.to_string()),
            false => self.has_versions().then(|| versions::NULL.to_owned()),
        }
    }
}

#[derive(Default)]
struct Known {
    bucket: Option<(Bucket, Instant)>,
}

/// What is known of buckets, by the principal that asked: what one may see says nothing of another.
type KnownBuckets = HashMap<(Identity, DatasetName), Arc<tokio::sync::Mutex<Known>>>;

/// What all requests share.
pub(crate) struct Shared {
    region: Region,
    transfers: Transfers,
    owner: String,
    known: Mutex<KnownBuckets>,
    uploads: HeldUploads,
    cors: HeldRules,
}

/// The region behind the gateway, for one request and on behalf of who makes it.
pub(crate) struct Front {
    shared: Arc<Shared>,
    region: Region,
    caller: Caller,
}

impl Shared {
    pub(crate) fn new(region: Region, transfers: Transfers) -> Self {
        let owner = format!("reduit/v1 s3 owner {}", region.id());
        let owner = digest::digest(&digest::SHA256, owner.as_bytes());
        Self {
            owner: hex::encode(owner),
            region,
            transfers,
            known: Mutex::default(),
            uploads: HeldUploads::default(),
            cors: HeldRules::default(),
        }
    }

    pub(crate) fn region_id(&self) -> &RegionId {
        self.region.id()
    }

    /// The region for one request.
    pub(crate) fn front(self: &Arc<Self>, caller: Caller) -> Front {
        Front {
            shared: self.clone(),
            region: self.region.on_behalf_of(&caller.principal),
            caller,
        }
    }
}

impl Front {
    pub(crate) fn region_id(&self) -> &RegionId {
        self.shared.region_id()
    }

    /// Who owns every bucket, as a canonical user id: the region.
    pub(crate) fn owner(&self) -> &str {
        &self.shared.owner
    }

    /// The bucket of that name.
    pub(crate) async fn bucket(&self, name: &DatasetName) -> Result<Bucket, ApiError> {
        let slot = self.slot(name);
        let mut known = slot.lock().await;
        if let Some((bucket, at)) = &known.bucket
            && at.elapsed() < KNOWN_FOR
        {
            return Ok(bucket.clone());
        }
        let asked = Instant::now();
        let info = match self.region.dataset_info(name).await {
            Ok(info) => info,
            Err(error) => {
                *known = Known::default();
                return Err(error.into());
            }
        };
        let held = known.bucket.take().map(|(bucket, _)| bucket.dataset);
        // A handle has queues of its own: the same one goes on for as long as the dataset is the same.
        let dataset = match held.filter(|dataset| dataset.id() == info.id) {
            Some(dataset) => dataset,
            None => self.region.dataset(name).await?,
        };
        if dataset.id() != info.id {
            return Err(ApiError::ServiceUnavailable);
        }
        let bucket = Bucket { dataset, info };
        known.bucket = Some((bucket.clone(), asked));
        Ok(bucket)
    }

    fn slot(&self, name: &DatasetName) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.shared.known.lock();
        let whose = (self.caller.principal.clone(), name.clone());
        if let Some(slot) = known.get(&whose) {
            return slot.clone();
        }
        if known.len() >= BUCKETS_MAX {
            // Names that lead nowhere, and buckets nobody has asked for in a while.
            known.retain(|_, slot| match slot.try_lock() {
                Ok(held) => held
                    .bucket
                    .as_ref()
                    .is_some_and(|(_, at)| at.elapsed() < KNOWN_FOR),
                Err(_) => true,
            });
            if known.len() >= BUCKETS_MAX {
                known.clear();
            }
        }
        known.entry(whose).or_default().clone()
    }

    /// What is known of a bucket is old, whoever knew it.
    async fn forget(&self, name: &DatasetName) {
        let slots: Vec<_> = {
            let known = self.shared.known.lock();
            let of_it = known.iter().filter(|((_, known), _)| known == name);
            of_it.map(|(_, slot)| slot.clone()).collect()
        };
        for slot in slots {
            *slot.lock().await = Known::default();
        }
    }

    /// An answer of a dataset. One that is gone may have a successor of the same name: then the client, who tries again,
    /// meets that one.
    async fn answer<T>(
        &self,
        name: &DatasetName,
        answer: Result<T, client::Error>,
    ) -> Result<T, ApiError> {
        match answer {
            Err(client::Error::NoSuchDataset) => {
                self.forget(name).await;
                self.bucket(name).await?;
                Err(ApiError::ServiceUnavailable)
            }
            other => other.map_err(ApiError::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_is_of_one_principal_change_bucket_and_object() {
        let caller = |principal: &str, id: &str| Caller {
            principal: format!("spiffe://ch-zrh/service/{principal}")
                .parse()
                .expect("valid"),
            invocation_id: Some(id.to_owned()),
        };
        let bucket: DatasetName = "bucket".parse().expect("a name");
        let other: DatasetName = "other".parse().expect("a name");
        let key = |text: &str| text.parse::<ObjectKey>().expect("a key");
        let one = caller("a", "1").invocation("put", &bucket, &key("k"));
        assert!(one.is_some());
        assert_eq!(one, caller("a", "1").invocation("put", &bucket, &key("k")));
        for differs in [
            caller("b", "1").invocation("put", &bucket, &key("k")),
            caller("a", "2").invocation("put", &bucket, &key("k")),
            caller("a", "1").invocation("delete", &bucket, &key("k")),
            caller("a", "1").invocation("put", &other, &key("k")),
            caller("a", "1").invocation("put", &bucket, &key("j")),
        ] {
            assert_ne!(one, differs);
        }
        let unnamed = Caller {
            principal: caller("a", "1").principal,
            invocation_id: None,
        };
        assert_eq!(unnamed.invocation("put", &bucket, &key("k")), None);
    }
}
