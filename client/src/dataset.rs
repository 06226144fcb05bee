//! One dataset: put, get, head, delete.
//!
//! Owns the life of an object on this side: which keys it is sealed under, what goes where, what is checked on the
//! way back. A get serves nothing before the sealed manifest opened and agrees with the catalog entry.

mod get;
pub(crate) mod put;
mod types;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use envelope::{
    Manifest, MetadataContext, NameCommitment, ObjectContext, PartNumber, SealedMetadata, Suite,
};
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{
    DatasetId, DatasetName, GroupId, LogIndex, NodeId, ObjectKey, ObjectVersionId, RequestId,
    UnixMs, UploadEpoch,
};
use proto::v1;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_client::ShardClient;
use tokio::time::Instant;
use tonic::Status;
use transport::{Fault, Stated};

use crate::acting::{Acting, ActingChannel};
use crate::error::Error;
use crate::kms::now;
use crate::lease::SealLease;
use crate::locks::Retention;
use crate::opens::Opens;
use crate::region::{Region, random};
use crate::reseal::RESEAL;

pub use self::types::{
    Checksums, DatasetInfo, Deleted, GetOptions, Invocation, Object, ObjectInfo, Precondition,
    PutOptions, PutOutcome,
};

/// Sealed bytes up to this ride in the Raft entry; more goes in blocks. Settled by measurement.
pub(crate) const INLINE_SEALED_MAX: u64 = 16 * 1024;

/// A dataset of a region. Cheap to clone.
#[derive(Clone)]
pub struct Dataset(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) region: Region,
    pub(crate) id: DatasetId,
    pub(crate) name: DatasetName,
    pub(crate) shard: GroupId,
    /// Which is in the tokens of its leases.
    epoch: u64,
    /// Why it is listed and looked at, where that is no everyday service.
    pub(crate) stated: Stated,
    pub(crate) replicas: Mutex<Vec<NodeId>>,
    pub(crate) upload_epoch: AtomicU64,
    /// The epoch of its request ids: ahead of the shard's where it came from a shard ahead.
    request_epoch: AtomicU64,
    opens: Mutex<HashMap<Claimed, Opens>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Claimed {
    purpose: String,
    case: String,
    on_behalf_of: String,
}

impl Dataset {
    pub(crate) fn new(
        region: Region,
        info: v1::DatasetInfo,
        stated: Stated,
    ) -> Result<Self, Error> {
        let epoch = info.upload_epoch;
        let request_epoch = epoch.max(info.request_epoch);
        let info = DatasetInfo::try_from(info)?;
        Ok(Self(Arc::new(Inner {
            region,
            id: info.id,
            name: info.name,
            shard: info.shard,
            epoch: info.epoch,
            stated,
            replicas: Mutex::default(),
            upload_epoch: AtomicU64::new(epoch),
            request_epoch: AtomicU64::new(request_epoch),
            opens: Mutex::default(),
        })))
    }

    /// Its id.
    pub fn id(&self) -> DatasetId {
        self.0.id
    }

    /// Its name.
    pub fn name(&self) -> &DatasetName {
        &self.0.name
    }

    /// Its shard's Raft group.
    pub fn shard(&self) -> GroupId {
        self.0.shard
    }

    /// What is known of an object without opening it.
    pub async fn head(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
    ) -> Result<ObjectInfo, Error> {
        let found = self.find(key, version, true, &self.0.stated).await?;
        let entry = found.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker && version.is_none() {
            return Err(Error::NoSuchObject);
        }
        self.info(key.clone(), &entry, version.is_none()).await
    }

    /// What is known of a key's null version, which was put while versioning was off or suspended. A delete marker may
    /// be one.
    pub async fn head_null(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        let request = v1::GetObjectRequest {
            null_version: true,
            ..self.get_request(key, None, true)
        };
        let found = self.find_by(request, &self.0.stated).await?;
        let entry = found.entry.ok_or(Error::NoSuchObject)?;
        self.info(key.clone(), &entry, false).await
    }

    /// Deletes the current version (a marker, where versioning is on) or the one named.
    pub async fn delete(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        precondition: Precondition,
    ) -> Result<Deleted, Error> {
        let invocation = Invocation(random()?);
        self.delete_as(key, version, precondition, invocation).await
    }

    /// As [`Self::delete`], with the request id of the caller's own retries.
    pub async fn delete_as(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        precondition: Precondition,
        invocation: Invocation,
    ) -> Result<Deleted, Error> {
        let how = (invocation, false);
        self.delete_with(key, version, precondition, how).await
    }

    /// `how`: the caller's own retries, and whether governance retention is passed by.
    pub(crate) async fn delete_with(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        precondition: Precondition,
        (invocation, bypass_governance): (Invocation, bool),
    ) -> Result<Deleted, Error> {
        let mut request_id = self.request_id(Some(invocation))?;
        // The same in every try, so that they are the same request.
        let marker = ObjectVersionId(invocation.0);
        let request = v1::DeleteObjectRequest {
            shard: self.0.shard.0,
            request_id: Bytes::new(),
            dataset_id: self.0.id.into(),
            key: key.as_str().to_owned(),
            precondition: precondition.wire(),
            version_id: version.map(Bytes::from).unwrap_or_default(),
            new_marker_id: marker.into(),
            bypass_governance,
        };
        let done = self
            .write_once(&mut request_id, |mut shard, request_id| {
                let request = v1::DeleteObjectRequest {
                    request_id,
                    ..request.clone()
                };
                async move { Ok(shard.delete_object(request).await?.into_inner()) }
            })
            .await?;
        let id = |bytes: &Bytes| ObjectVersionId::try_from(&bytes[..]).ok();
        let written = id(&done.version_id).filter(|written| *written == marker);
        Ok(Deleted {
            marker: written,
            removed: id(&done.replaced_version_id),
        })
    }

    /// Turns versioning on or off.
    pub async fn set_versioning(&self, enabled: bool) -> Result<(), Error> {
        let request = v1::SetVersioningRequest {
            shard: self.0.shard.0,
            dataset_id: self.0.id.into(),
            enabled,
        };
        self.write(|mut shard| {
            let request = request.clone();
            async move { Ok(shard.set_versioning(request).await?.into_inner()) }
        })
        .await
        .map(|_| ())
    }

    pub(crate) async fn find(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        head_only: bool,
        stated: &Stated,
    ) -> Result<v1::GetObjectReply, Error> {
        self.find_by(self.get_request(key, version, head_only), stated)
            .await
    }

    fn get_request(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        head_only: bool,
    ) -> v1::GetObjectRequest {
        v1::GetObjectRequest {
            shard: self.0.shard.0,
            dataset_id: self.0.id.into(),
            key: key.as_str().to_owned(),
            version_id: version.map(Bytes::from).unwrap_or_default(),
            head_only,
            allow_stale: false,
            null_version: false,
        }
    }

    async fn find_by(
        &self,
        request: v1::GetObjectRequest,
        stated: &Stated,
    ) -> Result<v1::GetObjectReply, Error> {
        self.ask_shard(|mut shard| {
            let request = stated.of(request.clone());
            async move { Ok(shard.get_object(request).await?.into_inner()) }
        })
        .await
    }

    /// Opens an entry's metadata; a delete marker has none.
    pub(crate) async fn info(
        &self,
        key: ObjectKey,
        entry: &v1::ObjectEntry,
        is_current: bool,
    ) -> Result<ObjectInfo, Error> {
        let version = ObjectVersionId::try_from(&entry.version_id[..])?;
        let metadata = self.object_metadata(version, &entry.sealed_metadata);
        let metadata = metadata.await?;
        Ok(ObjectInfo {
            key,
            version,
            bytes: entry.plain_bytes,
            finished_at: UnixMs(entry.finished_at_ms),
            delete_marker: entry.delete_marker,
            is_current,
            parts: entry.parts,
            versioned: entry.versioned,
            finished_index: LogIndex(entry.finished_index),
            retention: entry.retention.and_then(Retention::of),
            legal_hold: entry.legal_hold,
            metadata,
        })
    }

    /// Opens what is sealed beside a version; what was sealed beside a part of it is not taken for that.
    pub(crate) async fn object_metadata(
        &self,
        version: ObjectVersionId,
        sealed: &Bytes,
    ) -> Result<v1::UserMetadata, Error> {
        of_object(self.open_metadata(version, sealed).await?)
    }

    /// Opens what is sealed beside a version or a part of it; nothing is no metadata.
    pub(crate) async fn open_metadata(
        &self,
        version: ObjectVersionId,
        sealed: &Bytes,
    ) -> Result<v1::UserMetadata, Error> {
        let plain = self.opened_metadata(version, sealed).await?;
        v1::UserMetadata::decode(&plain[..]).map_err(|_| Error::Protocol {
            what: "metadata of an unknown format",
        })
    }

    /// As [`Self::open_metadata`], as it was sealed.
    pub(crate) async fn opened_metadata(
        &self,
        version: ObjectVersionId,
        sealed: &Bytes,
    ) -> Result<Vec<u8>, Error> {
        if sealed.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = SealedMetadata::from_bytes(sealed.to_vec()).map_err(Error::NotAuthentic)?;
        let keys = self
            .keys()
            .metadata_keys(
                self.0.id,
                Some(sealed.key_version()),
                self.purpose(),
                self.acting(),
            )
            .await?;
        let lease = keys.version(sealed.key_version()).ok_or(Error::Protocol {
            what: "the kms does not give this metadata key's version",
        })?;
        lease
            .open(&self.metadata_context(version), &sealed)
            .map_err(Error::NotAuthentic)
    }

    /// Seals metadata of a version, or of a part of it, under the newest metadata key. Answers that key's version too.
    pub(crate) async fn seal_metadata(
        &self,
        version: ObjectVersionId,
        plain: &v1::UserMetadata,
    ) -> Result<(SealedMetadata, u32), Error> {
        self.seal_plain_metadata(version, &plain.encode_to_vec())
            .await
    }

    /// As [`Self::seal_metadata`], encoded already.
    pub(crate) async fn seal_plain_metadata(
        &self,
        version: ObjectVersionId,
        plain: &[u8],
    ) -> Result<(SealedMetadata, u32), Error> {
        let keys = self
            .keys()
            .metadata_keys(self.0.id, None, "", self.acting())
            .await?;
        let key = keys.current()?;
        let sealed = key.seal(&self.metadata_context(version), plain)?;
        Ok((sealed, key.version()))
    }

    /// The lease that its objects are sealed under.
    pub(crate) async fn seal_lease(&self) -> Result<Arc<SealLease>, Error> {
        let of = (self.0.id, self.0.epoch);
        self.keys().seal_lease(of, self.acting()).await
    }

    pub(crate) fn context(&self, version: ObjectVersionId, name: NameCommitment) -> ObjectContext {
        ObjectContext {
            suite: Suite::Cobblestone256,
            region: self.0.region.id().clone(),
            dataset: self.0.id,
            version,
            name,
        }
    }

    fn metadata_context(&self, version: ObjectVersionId) -> MetadataContext {
        MetadataContext {
            suite: Suite::Cobblestone256,
            region: self.0.region.id().clone(),
            dataset: self.0.id,
            version,
        }
    }

    /// What a metadata lease is asked for: everyday service, or what a compromised key's are given for alone.
    fn purpose(&self) -> &'static str {
        match self.0.stated.purpose.as_str() {
            RESEAL => RESEAL,
            _ => "",
        }
    }

    pub(crate) fn acting(&self) -> &Acting {
        &self.0.region.1
    }

    pub(crate) fn keys(&self) -> &crate::kms::Keys {
        self.0.region.keys()
    }

    pub(crate) fn request_id(&self, invocation: Option<Invocation>) -> Result<Bytes, Error> {
        let epoch = UploadEpoch(self.0.request_epoch.load(Ordering::Relaxed));
        let nonce = match invocation {
            Some(invocation) => invocation.0,
            None => random()?,
        };
        let id = RequestId { epoch, nonce };
        Ok(Bytes::copy_from_slice(&id.to_bytes()))
    }

    pub(crate) async fn learn_epoch(&self) -> Result<(), Error> {
        let request = v1::ShardStatusRequest {
            shard: self.0.shard.0,
            dataset_id: self.0.id.into(),
        };
        let status = self
            .ask_shard(|mut shard| {
                let request = request.clone();
                async move { Ok(shard.shard_status(request).await?.into_inner()) }
            })
            .await?;
        self.learn(status.upload_epoch, status.request_epoch);
        Ok(())
    }

    /// Takes note of the shard's upload epoch and, where that is another, the one of this dataset's request ids.
    pub(crate) fn learn(&self, upload_epoch: u64, request_epoch: u64) {
        let inner = &self.0;
        inner
            .upload_epoch
            .fetch_max(upload_epoch, Ordering::Relaxed);
        let request_epoch = upload_epoch.max(request_epoch);
        inner
            .request_epoch
            .fetch_max(request_epoch, Ordering::Relaxed);
    }

    /// The shard's voters; asked once and again when an upload found one gone.
    pub(crate) async fn replicas(&self) -> Result<Vec<NodeId>, Error> {
        let held = self.0.replicas.lock().clone();
        if !held.is_empty() {
            return Ok(held);
        }
        let shard = self.0.shard.0;
        let reply = self
            .0
            .region
            .0
            .nodes
            .on_leader(
                self.0.shard,
                &self.0.region.0.tuning,
                |_, channel| async move {
                    let mut catalog = v1::catalog_client::CatalogClient::new(channel);
                    let reply = catalog.describe(v1::DescribeRequest {}).await?.into_inner();
                    let group = reply.groups.into_iter().find(|group| group.group == shard);
                    group.ok_or_else(|| {
                        transport::fault::status(
                            Fault::Unavailable,
                            "no-such-group",
                            "this node is not in the shard",
                        )
                    })
                },
            )
            .await?;
        let voters: Vec<_> = reply.voters.into_iter().map(NodeId).collect();
        self.0.replicas.lock().clone_from(&voters);
        Ok(voters)
    }

    /// Membership may have changed under an upload that failed.
    pub(crate) fn forget_replicas(&self) {
        self.0.replicas.lock().clear();
    }

    /// A write to the shard: its answer is an answer of apply.
    pub(crate) async fn write<F, Fut>(&self, call: F) -> Result<v1::Done, Error>
    where
        F: Fn(ShardClient<ActingChannel>) -> Fut,
        Fut: Future<Output = Result<v1::ShardAnswer, Status>>,
    {
        let region = &self.0.region.0;
        let answer = region
            .nodes
            .change(self.0.shard, &region.tuning, |_, channel| {
                call(shard_client(self.acting().over(channel)))
            })
            .await?;
        match answer.answer {
            Some(Answer::Done(done)) => {
                self.learn(done.upload_epoch, done.request_epoch);
                Ok(done)
            }
            Some(Answer::Refused(_)) => Err(Error::Protocol {
                what: "a refusal that is no status",
            }),
            None => Err(Error::Protocol {
                what: "an answer without content",
            }),
        }
    }

    /// A write under a request id, which is the same for all its tries. Where that is of an upload epoch that is over it
    /// never ran, and is replaced once. While the token of an upload's lease waits to be rewrapped after a rotation
    /// of the key, it waits too.
    pub(crate) async fn write_once<F, Fut>(
        &self,
        request_id: &mut Bytes,
        call: F,
    ) -> Result<v1::Done, Error>
    where
        F: Fn(ShardClient<ActingChannel>, Bytes) -> Fut,
        Fut: Future<Output = Result<v1::ShardAnswer, Status>>,
    {
        let deadline = Instant::now() + self.0.region.0.tuning.deadline;
        let (mut renewed, mut pause) = (false, TOKEN_PAUSE);
        loop {
            let answer = self.write(|shard| call(shard, request_id.clone())).await;
            let Err(error) = &answer else {
                return answer;
            };
            match error.reason() {
                "request-too-old" if !renewed => {
                    self.learn_epoch().await?;
                    let old = RequestId::try_from(&request_id[..])?;
                    *request_id = self.request_id(Some(Invocation(old.nonce)))?;
                    renewed = true;
                }
                "token-too-old" if Instant::now() + pause < deadline => {
                    tracing::debug!(%error, "waiting for a token to be rewrapped");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(TOKEN_PAUSE_MAX);
                }
                _ => return answer,
            }
        }
    }

    pub(crate) async fn ask_shard<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(ShardClient<ActingChannel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let region = &self.0.region.0;
        region
            .nodes
            .on_leader(self.0.shard, &region.tuning, |_, channel| {
                call(shard_client(self.acting().over(channel)))
            })
            .await
    }
}

pub(crate) fn shard_client(channel: ActingChannel) -> ShardClient<ActingChannel> {
    ShardClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The sealed manifest is the truth; an entry that says otherwise was tampered with or mixed up.
pub(crate) fn agree(manifest: &Manifest, entry: &v1::ObjectEntry) -> Result<(), Error> {
    let blocks = entry.blocks.iter().map(|block| u64::from(block.bytes));
    let stored = match (entry.parts, entry.blocks.is_empty()) {
        (0, true) => entry.inline.len() as u64,
        (0, false) => blocks.sum(),
        // Compared part by part as they are read.
        _ => entry.sealed_bytes,
    };
    let parts = match entry.parts {
        0 => manifest.parts().len() == 1 && manifest.parts()[0].number == PartNumber::FIRST,
        parts => manifest.parts().len() == parts as usize,
    };
    if !parts || manifest.plain_total() != entry.plain_bytes || manifest.sealed_total() != stored {
        return Err(Error::NotAuthentic(envelope::OpenError));
    }
    Ok(())
}

/// Metadata of an object, if that is what was sealed: parts of a version have theirs under the same key and context.
fn of_object(metadata: v1::UserMetadata) -> Result<v1::UserMetadata, Error> {
    match metadata.part == 0 && metadata.part_id.is_empty() {
        true => Ok(metadata),
        false => Err(Error::NotAuthentic(envelope::OpenError)),
    }
}

/// Time left to use a released key; zero when it is over.
pub(crate) fn time_left(until: UnixMs) -> Duration {
    Duration::from_millis(until.0.saturating_sub(now().0))
}

/// Between tries of a write whose token waits to be rewrapped.
const TOKEN_PAUSE: Duration = Duration::from_millis(100);
const TOKEN_PAUSE_MAX: Duration = Duration::from_secs(2);
/// A reply carries at most one entry of 1 MiB, or a page of listings.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
