//! Uploads in parts: begun here or by another gateway, gone on with, completed, aborted, listed.
//!
//! Owns the handle of an upload and its DEK. Who begins one seals under its own lease for as long as that lasts; a
//! second gateway, or hour two, has the KMS release the DEK under the purpose `multipart`, on record, as a key that seals
//! and opens nothing. Refuses to begin a stream under a key whose time is over; one that was begun is sealed to its end.

use std::sync::Arc;

use bytes::Bytes;
use envelope::{DekSalt, NameCommitment, NameSalt, ObjectContext, SealDek};
use parking_lot::Mutex;
use proto::ids::{LeaseId, ObjectKey, ObjectVersionId, UnixMs};
use proto::v1;

use crate::dataset::put::{LEASE_REASONS, PUT_TRIES, Sealing};
use crate::dataset::{Dataset, PutOptions, time_left};
use crate::error::Error;
use crate::locks::Retention;
use crate::opens::{self, Ask};

mod complete;
mod listing;
mod part;
mod put;

pub use complete::CompleteOptions;
pub use listing::{PartsPage, UploadsPage, UploadsQuery};
pub use part::{Part, PartId, PartOptions};

/// A key with less time than this begins no stream.
const DEK_TIME_MIN: std::time::Duration = std::time::Duration::from_secs(5);

/// An upload in parts that is under way. Cheap to clone; parts may be put from many tasks at once.
#[derive(Clone)]
pub struct Upload(Arc<Inner>);

struct Inner {
    info: UploadInfo,
    lease: LeaseId,
    salt: DekSalt,
    context: ObjectContext,
    sealed_metadata: Bytes,
    dek: Mutex<Option<Held>>,
}

/// A DEK, and until when streams may begin under it.
#[derive(Clone)]
struct Held {
    dek: Arc<SealDek>,
    until: UnixMs,
}

/// What is known of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// The object's key.
    pub key: ObjectKey,
    /// Its id: of the version that it is completed to.
    pub id: ObjectVersionId,
    /// Log index at which it began: the order of uploads of one key.
    pub begun_index: u64,
    /// When it began.
    pub begun_at: UnixMs,
    /// Parts that are finished.
    pub parts: u32,
    /// Their sealed bytes.
    pub sealed_bytes: u64,
}

impl UploadInfo {
    fn of(key: ObjectKey, record: &v1::UploadRecord) -> Result<Self, Error> {
        Ok(Self {
            key,
            id: ObjectVersionId::try_from(&record.version_id[..])?,
            begun_index: record.begun_index,
            begun_at: UnixMs(record.begun_at_ms),
            parts: record.parts,
            sealed_bytes: record.sealed_bytes,
        })
    }
}

impl Upload {
    /// What was known of it when this handle was made.
    pub fn info(&self) -> &UploadInfo {
        &self.0.info
    }

    /// Its id: of the version that it is completed to.
    pub fn id(&self) -> ObjectVersionId {
        self.0.info.id
    }

    /// The object's key.
    pub fn key(&self) -> &ObjectKey {
        &self.0.info.key
    }
}

impl Dataset {
    /// Begins an upload in parts. `options` are what the object will have; its precondition is left alone: that of the
    /// completion counts.
    pub async fn create_upload(
        &self,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<Upload, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let sealing = self.sealing(key).await?;
            let lease = sealing.lease.clone();
            match self.begin(key, options, sealing).await {
                Err(Error::Caller { reason, .. })
                    if tries < PUT_TRIES && LEASE_REASONS.contains(&reason.as_str()) =>
                {
                    self.keys()
                        .drop_lease(self.id(), self.acting(), &lease)
                        .await;
                }
                Err(Error::Caller { reason, .. })
                    if tries < PUT_TRIES && reason == "request-too-old" =>
                {
                    self.learn_epoch().await?;
                }
                answer => return answer,
            }
        }
    }

    async fn begin(
        &self,
        key: &ObjectKey,
        options: &PutOptions,
        sealing: Sealing,
    ) -> Result<Upload, Error> {
        let context = sealing.dek.context().clone();
        let (metadata, metadata_key_version) = sealing.sealed_metadata(options)?;
        let sealed_metadata = Bytes::copy_from_slice(metadata.as_bytes());
        let record = v1::UploadRecord {
            format: 1,
            version_id: context.version.into(),
            lease_id: sealing.lease.id().into(),
            dek_salt: Bytes::copy_from_slice(sealing.salt.as_bytes()),
            name_salt: Bytes::copy_from_slice(sealing.name_salt.as_bytes()),
            sealed_metadata: sealed_metadata.clone(),
            metadata_key_version,
            placement: 1,
            retention: options.retention.map(Retention::wire),
            legal_hold: options.legal_hold,
            ..v1::UploadRecord::default()
        };
        let request = v1::CreateUploadRequest {
            shard: self.shard().0,
            request_id: self.request_id(None)?,
            dataset_id: self.id().into(),
            key: key.as_str().to_owned(),
            upload: Some(record.clone()),
        };
        let done = self
            .write(|mut shard| {
                let request = request.clone();
                async move { Ok(shard.create_upload(request).await?.into_inner()) }
            })
            .await?;
        let info = UploadInfo {
            begun_index: done.log_index,
            ..UploadInfo::of(key.clone(), &record)?
        };
        let held = Held {
            dek: Arc::new(sealing.dek),
            until: sealing.lease.expires(),
        };
        Ok(Upload(Arc::new(Inner {
            info,
            lease: sealing.lease.id(),
            salt: sealing.salt,
            context,
            sealed_metadata,
            dek: Mutex::new(Some(held)),
        })))
    }

    /// An upload that was begun here before or by another gateway. Nothing is opened until a part is put.
    pub async fn find_upload(&self, key: &ObjectKey, id: ObjectVersionId) -> Result<Upload, Error> {
        let reply = self.ask_parts(key, id, 0, 1).await?;
        let record = reply.upload.ok_or_else(no_such_upload)?;
        let wrong = |_| Error::Protocol {
            what: "a salt of another length",
        };
        let name_salt = NameSalt::try_from(&record.name_salt[..]).map_err(wrong)?;
        let info = UploadInfo::of(key.clone(), &record)?;
        Ok(Upload(Arc::new(Inner {
            context: self.context(info.id, NameCommitment::of(&name_salt, key)),
            info,
            lease: LeaseId::try_from(&record.lease_id[..])?,
            salt: DekSalt::try_from(&record.dek_salt[..]).map_err(wrong)?,
            sealed_metadata: record.sealed_metadata,
            dek: Mutex::new(None),
        })))
    }

    /// What the object was said to have when its upload began.
    pub async fn upload_metadata(&self, upload: &Upload) -> Result<v1::UserMetadata, Error> {
        self.object_metadata(upload.id(), &upload.0.sealed_metadata)
            .await
    }

    /// Ends an upload; what was put of it is removed.
    pub async fn abort_upload(&self, key: &ObjectKey, id: ObjectVersionId) -> Result<(), Error> {
        let request = v1::AbortUploadRequest {
            shard: self.shard().0,
            request_id: Bytes::new(),
            dataset_id: self.id().into(),
            key: key.as_str().to_owned(),
            version_id: id.into(),
        };
        self.write_once(&mut self.request_id(None)?, |mut shard, request_id| {
            let request = v1::AbortUploadRequest {
                request_id,
                ..request.clone()
            };
            async move { Ok(shard.abort_upload(request).await?.into_inner()) }
        })
        .await
        .map(drop)
    }

    /// A key to begin a stream of the upload with: the one held, or one that the KMS releases now, on record.
    async fn upload_dek(&self, upload: &Upload) -> Result<Arc<SealDek>, Error> {
        let upload = &upload.0;
        let held = upload.dek.lock().clone();
        if let Some(held) = held.filter(|held| time_left(held.until) >= DEK_TIME_MIN) {
            return Ok(held.dek);
        }
        // As it is wrapped by now: the key may have been rotated since the upload was found.
        let reply = self.ask_parts(&upload.info.key, upload.info.id, 0, 1);
        let reply = reply.await?;
        if reply.upload.is_none() {
            return Err(no_such_upload());
        }
        let ask = Ask {
            context: upload.context.clone(),
            token: reply.token,
            dek_salt: Bytes::copy_from_slice(upload.salt.as_bytes()),
            plain_bytes: 0,
        };
        let (dek, until) = opens::go_on(&self.0.region, self.id(), ask).await?;
        let dek = Arc::new(dek);
        *upload.dek.lock() = Some(Held {
            dek: dek.clone(),
            until,
        });
        Ok(dek)
    }
}

fn no_such_upload() -> Error {
    Error::Caller {
        reason: "no-such-upload".to_owned(),
        message: "no such upload: it was completed, aborted, or never begun".to_owned(),
    }
}
