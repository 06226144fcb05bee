//! One dataset: put, get, head, delete.
//!
//! Owns the life of an object on this side: which keys it is sealed under, what goes where, what is checked on the
//! way back. A get serves nothing before the sealed manifest opened and agrees with the catalog entry.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use envelope::{
    DekSalt, Manifest, ManifestPart, MetadataContext, NameCommitment, NameSalt, ObjectContext,
    PartNumber, SealDek, SealedMetadata, StreamHeader, Suite,
};
use parking_lot::Mutex;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{
    DatasetId, DatasetName, GroupId, NodeId, ObjectKey, ObjectVersionId, RequestId, UnixMs,
    UploadEpoch,
};
use proto::v1;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_client::ShardClient;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use transport::{Fault, Stated};

use crate::approval::{Approvable, ApprovalRequest};
use crate::body::Body;
use crate::download::{Found, ObjectReader, Source};
use crate::error::Error;
use crate::kms::now;
use crate::lease::SealLease;
use crate::opens::{self, Ask, Opened, Opens};
use crate::prepared::{Prepared, Request};
use crate::region::{Region, random, random_id};
use crate::upload;

/// Sealed bytes up to this ride in the Raft entry; more goes in blocks. Settled by measurement.
pub(crate) const INLINE_SEALED_MAX: u64 = 16 * 1024;
/// Tries of one put whose lease or upload epoch went out of date on the way.
const PUT_TRIES: u32 = 3;
/// Before an upload is tried again.
const UPLOAD_PAUSE: Duration = Duration::from_millis(100);

/// A dataset of a region. Cheap to clone.
#[derive(Clone)]
pub struct Dataset(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) region: Region,
    pub(crate) id: DatasetId,
    pub(crate) name: DatasetName,
    pub(crate) shard: GroupId,
    pub(crate) replicas: Mutex<Vec<NodeId>>,
    upload_epoch: AtomicU64,
    opens: Mutex<HashMap<Claimed, Opens>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Claimed {
    purpose: String,
    case: String,
    on_behalf_of: String,
}

/// What the region says of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Its name.
    pub name: DatasetName,
    /// Its id.
    pub id: DatasetId,
    /// Its shard.
    pub shard: GroupId,
    /// Its epoch: one more with each cutover.
    pub epoch: u64,
    /// Whether overwritten and deleted versions are kept.
    pub versioning: bool,
    /// Live current objects.
    pub objects: u64,
    /// Versions and delete markers kept.
    pub versions: u64,
    /// Sealed bytes of all versions.
    pub sealed_bytes: u64,
    /// When it was created.
    pub created_at: UnixMs,
    /// The pseudonym under which the log speaks of it.
    pub pseudonym: Vec<u8>,
    /// Its key's state, as the shard has committed it.
    pub key_state: v1::KeyState,
}

impl TryFrom<v1::DatasetInfo> for DatasetInfo {
    type Error = Error;
    fn try_from(info: v1::DatasetInfo) -> Result<Self, Error> {
        let record = info.dataset.ok_or(Error::Protocol {
            what: "no dataset in the answer",
        })?;
        Ok(Self {
            key_state: record.key_state(),
            name: record.name.parse()?,
            id: DatasetId::try_from(&record.dataset_id[..])?,
            shard: GroupId(info.shard),
            epoch: record.epoch,
            versioning: record.versioning,
            objects: record.objects,
            versions: record.versions,
            sealed_bytes: record.sealed_bytes,
            created_at: UnixMs(record.created_at_ms),
            pseudonym: record.pseudonym.to_vec(),
        })
    }
}

/// A condition on the current version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precondition {
    /// None.
    #[default]
    Any,
    /// Only if there is no object under this key (S3: `If-None-Match: *`).
    Absent,
    /// Only if the current version is this one (S3: `If-Match`).
    Is(ObjectVersionId),
}

impl Precondition {
    fn wire(self) -> Option<v1::Precondition> {
        match self {
            Self::Any => None,
            Self::Absent => Some(v1::Precondition {
                if_none_match_any: true,
                if_match: Bytes::new(),
            }),
            Self::Is(version) => Some(v1::Precondition {
                if_none_match_any: false,
                if_match: version.into(),
            }),
        }
    }
}

/// How to put.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Condition on what is there.
    pub precondition: Precondition,
    /// MIME type; sealed.
    pub content_type: Option<String>,
    /// User metadata; sealed.
    pub metadata: BTreeMap<String, String>,
    /// Tags; sealed.
    pub tags: BTreeMap<String, String>,
}

/// What a put did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOutcome {
    /// The new version.
    pub version: ObjectVersionId,
    /// The version it replaced or, with versioning, covers.
    pub replaced: Option<ObjectVersionId>,
    /// Plaintext bytes.
    pub bytes: u64,
}

/// How to get.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// This version instead of the current one.
    pub version: Option<ObjectVersionId>,
    /// Only these plaintext bytes, as start and end (exclusive); the end is cut to the object's length.
    pub range: Option<(u64, u64)>,
    /// Why it is opened; recorded. Empty means `service`. `multipart` is refused: it opens nothing.
    pub purpose: String,
    /// Case number; recorded as a commitment.
    pub case: String,
    /// For whom; recorded as a commitment.
    pub on_behalf_of: String,
}

impl GetOptions {
    /// As nodes are told of it.
    pub(crate) fn stated(&self) -> Stated {
        Stated {
            purpose: self.purpose.clone(),
            case: self.case.clone(),
        }
    }
}

/// What head and list tell of an object version.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its version; also its ETag.
    pub version: ObjectVersionId,
    /// Plaintext bytes.
    pub bytes: u64,
    /// When it was finished.
    pub finished_at: UnixMs,
    /// Whether it is a delete marker.
    pub delete_marker: bool,
    /// Whether it is the key's current version.
    pub is_current: bool,
    /// Content type, user metadata, tags, checksums; opened with the metadata lease.
    pub metadata: v1::UserMetadata,
}

/// What a delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// The delete marker written, where versioning is on and no version was named.
    pub marker: Option<ObjectVersionId>,
    /// What was removed or covered.
    pub removed: Option<ObjectVersionId>,
}

/// An object that was found, recorded and opened.
pub struct Object {
    /// What it is.
    pub info: ObjectInfo,
    /// The leaf that records this opening.
    pub leaf_index: u64,
    /// Its bytes.
    pub body: ObjectReader,
}

impl Dataset {
    pub(crate) fn new(region: Region, info: v1::DatasetInfo) -> Result<Self, Error> {
        let epoch = info.upload_epoch;
        let info = DatasetInfo::try_from(info)?;
        Ok(Self(Arc::new(Inner {
            region,
            id: info.id,
            name: info.name,
            shard: info.shard,
            replicas: Mutex::default(),
            upload_epoch: AtomicU64::new(epoch),
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

    /// Seals and stores an object. Acknowledged means: on disk on a majority, and visible.
    pub async fn put(
        &self,
        key: &ObjectKey,
        body: impl Into<Body>,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let mut body = body.into();
        let inline_plain = envelope::plain_len(INLINE_SEALED_MAX).unwrap_or(0) as usize;
        let mut head = Vec::new();
        body.fill(&mut head, inline_plain + 1).await?;
        if head.len() > inline_plain {
            return self.put_large(key, head, body, options).await;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let sealing = self.sealing(key, options).await?;
            let lease = sealing.lease.clone();
            let put = self.prepare_inline(key, &head, options, &sealing)?;
            match put.send().await {
                Err(Error::Caller { reason, .. })
                    if tries < PUT_TRIES && LEASE_REASONS.contains(&reason.as_str()) =>
                {
                    self.keys().drop_lease(self.0.id, &lease).await;
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

    /// Seals a put, and stores its blocks where it has some, without committing it: [`Prepared::send`] does, any
    /// number of times with one effect. Its lease and its upload go out of date like those of any put.
    pub async fn prepare(
        &self,
        key: &ObjectKey,
        body: impl Into<Body>,
        options: &PutOptions,
    ) -> Result<Prepared, Error> {
        let mut body = body.into();
        let inline_plain = envelope::plain_len(INLINE_SEALED_MAX).unwrap_or(0) as usize;
        let mut head = Vec::new();
        body.fill(&mut head, inline_plain + 1).await?;
        let sealing = self.sealing(key, options).await?;
        if head.len() > inline_plain {
            let request_id = self.request_id()?;
            return self
                .prepare_blocks(key, head, body, options, sealing, &request_id)
                .await;
        }
        self.prepare_inline(key, &head, options, &sealing)
    }

    fn prepare_inline(
        &self,
        key: &ObjectKey,
        plain: &[u8],
        options: &PutOptions,
        sealing: &Sealing,
    ) -> Result<Prepared, Error> {
        let stream = sealing.dek.seal_part(PartNumber::FIRST, plain)?;
        let (header, _) = StreamHeader::split(&stream).map_err(Error::NotAuthentic)?;
        let mut entry = sealing.entry(plain.len() as u64, &header)?;
        entry.sealed_bytes = stream.len() as u64;
        entry.inline = stream.into();
        if broken(Switch::PlaintextOnNode) {
            entry.sealed_bytes = plain.len() as u64;
            entry.inline = Bytes::copy_from_slice(plain);
        }
        Ok(Prepared {
            dataset: self.clone(),
            version: sealing.dek.context().version,
            bytes: plain.len() as u64,
            request: Request::Inline(v1::PutObjectRequest {
                shard: self.0.shard.0,
                request_id: self.request_id()?,
                dataset_id: self.0.id.into(),
                key: key.as_str().to_owned(),
                precondition: options.precondition.wire(),
                entry: Some(entry),
            }),
        })
    }

    /// In blocks; again from the start where the upload itself was the trouble and the bytes are still at hand. A
    /// stream has gone by: its caller is told, and nothing was stored.
    async fn put_large(
        &self,
        key: &ObjectKey,
        head: Vec<u8>,
        mut body: Body,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let rest = match &body {
            Body::Bytes(rest) => Some(rest.clone()),
            Body::Stream(_) => None,
        };
        let deadline = Instant::now() + self.0.region.0.tuning.deadline;
        // One id for all uploads: a refusal for want of a majority is not final, and a copy of the refused request
        // that is still under way must not take effect beside the next one.
        let mut request_id = self.request_id()?;
        loop {
            let sealing = self.sealing(key, options).await?;
            let lease = sealing.lease.clone();
            let put = self.prepare_blocks(key, head.clone(), body, options, sealing, &request_id);
            let put = async { put.await?.send().await };
            let error = match put.await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            // Each of these but the first says that the object was not stored.
            match error.reason() {
                "request-id-reused" => {
                    let message = "an earlier try of this put took effect".to_owned();
                    return Err(Error::Unknown { message });
                }
                reason if LEASE_REASONS.contains(&reason) => {
                    self.keys().drop_lease(self.0.id, &lease).await;
                }
                "request-too-old" | "upload-too-old" => {
                    self.learn_epoch().await?;
                    // Refused for good under the old one.
                    request_id = self.request_id()?;
                }
                // Replicas went, or are others by now.
                "not-on-majority" | "no-majority" => self.forget_replicas(),
                _ => return Err(error),
            }
            let Some(rest) = rest.clone() else {
                return Err(error);
            };
            if Instant::now() + UPLOAD_PAUSE >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "uploading again");
            tokio::time::sleep(UPLOAD_PAUSE).await;
            body = Body::Bytes(rest);
        }
    }

    async fn prepare_blocks(
        &self,
        key: &ObjectKey,
        head: Vec<u8>,
        body: Body,
        options: &PutOptions,
        sealing: Sealing,
        request_id: &Bytes,
    ) -> Result<Prepared, Error> {
        let target = upload::Target {
            shard: self.0.shard,
            dataset: self.0.id,
            version: sealing.dek.context().version,
            upload_epoch: UploadEpoch(self.0.upload_epoch.load(Ordering::Relaxed)),
            lease: sealing.lease.id(),
            replicas: self.replicas().await?,
        };
        let epoch = target.upload_epoch;
        let uploaded = upload::run(&self.0.region, target, &sealing.dek, head, body)
            .await
            .inspect_err(|_| self.forget_replicas())?;
        let mut entry = sealing.entry(uploaded.plain_bytes, &uploaded.header)?;
        entry.sealed_bytes = uploaded.sealed_bytes;
        entry.blocks = uploaded.blocks;
        entry.upload_epoch = epoch.0;
        Ok(Prepared {
            dataset: self.clone(),
            version: sealing.dek.context().version,
            bytes: uploaded.plain_bytes,
            request: Request::Blocks(v1::FinishObjectRequest {
                shard: self.0.shard.0,
                request_id: request_id.clone(),
                dataset_id: self.0.id.into(),
                key: key.as_str().to_owned(),
                precondition: options.precondition.wire(),
                entry: Some(entry),
                receipts: uploaded.receipts,
            }),
        })
    }

    /// Lease, salts, ids and sealed metadata for one new version.
    async fn sealing(&self, key: &ObjectKey, options: &PutOptions) -> Result<Sealing, Error> {
        let lease = self.keys().seal_lease(self.0.id).await?;
        if !lease.registered() {
            let request = v1::RegisterLeaseRequest {
                shard: self.0.shard.0,
                dataset_id: self.0.id.into(),
                token: lease.token.clone(),
            };
            self.write(|mut shard| {
                let request = request.clone();
                async move { Ok(shard.register_lease(request).await?.into_inner()) }
            })
            .await?;
            lease.set_registered();
        }
        let version = ObjectVersionId(random()?);
        let (salt, name_salt) = (DekSalt::random()?, NameSalt::random()?);
        let context = self.context(version, NameCommitment::of(&name_salt, key));
        let dek = lease.key.seal_dek(&salt, &context)?;
        let plain = v1::UserMetadata {
            format: 1,
            content_type: options.content_type.clone().unwrap_or_default(),
            user: options.metadata.clone(),
            tags: options.tags.clone(),
            checksums: BTreeMap::new(),
        };
        let keys = self.keys().metadata_keys(self.0.id, None).await?;
        let metadata = keys.current()?;
        let sealed = metadata.seal(&self.metadata_context(version), &plain.encode_to_vec())?;
        Ok(Sealing {
            lease,
            dek,
            salt,
            name_salt,
            metadata_version: metadata.version(),
            metadata: sealed,
        })
    }

    /// Finds an object, has its opening recorded, and starts reading it.
    pub async fn get(&self, key: &ObjectKey, options: &GetOptions) -> Result<Object, Error> {
        if options.purpose == UPLOADS {
            return Err(Error::Caller {
                reason: "purpose-not-for-reading".to_owned(),
                message: format!("under the purpose {UPLOADS} a key seals, and opens nothing"),
            });
        }
        let reply = self
            .find(key, options.version, false, &options.stated())
            .await?;
        let entry = reply.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker {
            return Err(Error::NoSuchObject);
        }
        let (start, end) = options.range.unwrap_or((0, entry.plain_bytes));
        let plain = start..end.min(entry.plain_bytes);
        let found = Arc::new(Found {
            dataset: self.clone(),
            key: key.clone(),
            entry,
            token: reply.token,
            replicas: reply.replicas.into_iter().map(NodeId).collect(),
            options: options.clone(),
        });
        // Sealed bytes are asked for first: the KMS answers while they are on their way.
        let source = Source::start(&found, plain.clone())?;
        let (opened, info) = tokio::join!(
            self.open(&found),
            self.info(key.clone(), &found.entry, options.version.is_none()),
        );
        // Why it is not opened comes first: who may not open may have no metadata lease either.
        let (opened, info) = (opened?, info?);
        let leaf_index = opened.leaf_index;
        let body = ObjectReader::open(found, source, opened, plain).await?;
        Ok(Object {
            info,
            leaf_index,
            body,
        })
    }

    /// Reads a whole object into memory.
    pub async fn get_bytes(&self, key: &ObjectKey) -> Result<Bytes, Error> {
        self.get(key, &GetOptions::default())
            .await?
            .body
            .into_bytes()
            .await
    }

    /// Asks for approvals to open an object for a person's purpose: nothing is opened or recorded yet.
    pub async fn ask_open(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        claim: v1::Claim,
    ) -> Result<ApprovalRequest, Error> {
        let requester = self.0.region.identity().clone();
        let stated = Stated {
            purpose: claim.purpose.clone(),
            case: claim.case_id.clone(),
        };
        let reply = self.find(key, version, true, &stated).await?;
        let entry = reply.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker {
            return Err(Error::NoSuchObject);
        }
        let claim = v1::Claim {
            actor: requester.to_string(),
            ..claim
        };
        let (ask, name_salt) = self.ask_of(key, &entry, reply.token)?;
        let request = v1::OpenRequest {
            request_id: random_id()?,
            dataset_id: self.0.id.into(),
            claim: Some(claim),
            items: vec![ask.item()],
            single_use_id: random_id()?,
            ..v1::OpenRequest::default()
        };
        Ok(ApprovalRequest {
            region: self.0.region.id().clone(),
            requester,
            what: Approvable::Open {
                request,
                dataset: self.0.name.clone(),
                key: key.clone(),
                name_salt,
            },
        })
    }

    /// Opens what was approved, with the approvals, and starts reading it. Answers the leaf that records it. The key
    /// serves for a minute: what takes longer to read takes another request.
    pub async fn get_approved(
        &self,
        asked: &ApprovalRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<(u64, ObjectReader), Error> {
        let Approvable::Open { request, key, .. } = &asked.what else {
            return Err(not_approved("that request does not open an object"));
        };
        let [item] = request.items.as_slice() else {
            return Err(not_approved("that request opens other than one object"));
        };
        if request.dataset_id[..] != self.0.id.0[..] {
            return Err(not_approved("that request is of another dataset"));
        }
        let version = ObjectVersionId::try_from(&item.version_id[..])?;
        let claim = request.claim.clone().unwrap_or_default();
        let options = GetOptions {
            version: Some(version),
            purpose: claim.purpose,
            case: claim.case_id,
            on_behalf_of: claim.on_behalf_of,
            ..GetOptions::default()
        };
        let reply = self
            .find(key, options.version, false, &options.stated())
            .await?;
        let entry = reply.entry.ok_or(Error::NoSuchObject)?;
        let (ask, _) = self.ask_of(key, &entry, reply.token.clone())?;
        if ask.item() != *item {
            return Err(not_approved(
                "the object is stored otherwise than when approvals were asked for: ask again",
            ));
        }
        let plain = 0..entry.plain_bytes;
        let found = Arc::new(Found {
            dataset: self.clone(),
            key: key.clone(),
            entry,
            token: reply.token,
            replicas: reply.replicas.into_iter().map(NodeId).collect(),
            options,
        });
        let source = Source::start(&found, plain.clone())?;
        let request = v1::OpenRequest {
            approvals,
            ..request.clone()
        };
        let opened = opens::send(&self.0.region.0, request, vec![ask]).await?;
        let opened = opened.into_iter().next().ok_or(Error::Protocol {
            what: "no key in the answer",
        })??;
        let leaf_index = opened.leaf_index;
        let body = ObjectReader::open(found, source, opened, plain).await?;
        Ok((leaf_index, body))
    }

    fn ask_of(
        &self,
        key: &ObjectKey,
        entry: &v1::ObjectEntry,
        token: Bytes,
    ) -> Result<(Ask, NameSalt), Error> {
        let version = ObjectVersionId::try_from(&entry.version_id[..])?;
        let name_salt = NameSalt::try_from(&entry.name_salt[..]).map_err(|_| Error::Protocol {
            what: "a name salt of another length",
        })?;
        let ask = Ask {
            context: self.context(version, NameCommitment::of(&name_salt, key)),
            token,
            dek_salt: entry.dek_salt.clone(),
            plain_bytes: entry.plain_bytes,
        };
        Ok((ask, name_salt))
    }

    /// Has the KMS record the opening and release the object's DEK.
    pub(crate) async fn open(&self, found: &Found) -> Result<Opened, Error> {
        let claimed = Claimed {
            purpose: found.options.purpose.clone(),
            case: found.options.case.clone(),
            on_behalf_of: found.options.on_behalf_of.clone(),
        };
        let (ask, _) = self.ask_of(&found.key, &found.entry, found.token.clone())?;
        self.opens(claimed).open(ask).await
    }

    fn opens(&self, claimed: Claimed) -> Opens {
        let mut opens = self.0.opens.lock();
        let start = || {
            let claim = v1::Claim {
                actor: String::new(),
                on_behalf_of: claimed.on_behalf_of.clone(),
                purpose: claimed.purpose.clone(),
                case_id: claimed.case.clone(),
                legal_basis: String::new(),
            };
            Opens::start(self.0.region.0.clone(), self.0.id, claim)
        };
        if let Some(opens) = opens.get(&claimed) {
            return opens.clone();
        }
        if opens.len() >= CLAIMS_MAX {
            opens.clear();
        }
        let started = start();
        opens.insert(claimed, started.clone());
        started
    }

    /// What is known of an object without opening it.
    pub async fn head(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
    ) -> Result<ObjectInfo, Error> {
        let found = self.find(key, version, true, &Stated::default()).await?;
        let entry = found.entry.ok_or(Error::NoSuchObject)?;
        if entry.delete_marker && version.is_none() {
            return Err(Error::NoSuchObject);
        }
        self.info(key.clone(), &entry, version.is_none()).await
    }

    /// Deletes the current version (a marker, where versioning is on) or the one named.
    pub async fn delete(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        precondition: Precondition,
    ) -> Result<Deleted, Error> {
        let marker = ObjectVersionId(random()?);
        let request = v1::DeleteObjectRequest {
            shard: self.0.shard.0,
            request_id: self.request_id()?,
            dataset_id: self.0.id.into(),
            key: key.as_str().to_owned(),
            precondition: precondition.wire(),
            version_id: version.map(Bytes::from).unwrap_or_default(),
            new_marker_id: marker.into(),
        };
        let done = self
            .write(|mut shard| {
                let request = request.clone();
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

    async fn find(
        &self,
        key: &ObjectKey,
        version: Option<ObjectVersionId>,
        head_only: bool,
        stated: &Stated,
    ) -> Result<v1::GetObjectReply, Error> {
        let request = v1::GetObjectRequest {
            shard: self.0.shard.0,
            dataset_id: self.0.id.into(),
            key: key.as_str().to_owned(),
            version_id: version.map(Bytes::from).unwrap_or_default(),
            head_only,
            allow_stale: false,
        };
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
        let metadata = if entry.sealed_metadata.is_empty() {
            v1::UserMetadata::default()
        } else {
            let sealed = SealedMetadata::from_bytes(entry.sealed_metadata.to_vec())
                .map_err(Error::NotAuthentic)?;
            let keys = self
                .keys()
                .metadata_keys(self.0.id, Some(sealed.key_version()))
                .await?;
            let lease = keys.version(sealed.key_version()).ok_or(Error::Protocol {
                what: "the kms does not give this metadata key's version",
            })?;
            let plain = lease
                .open(&self.metadata_context(version), &sealed)
                .map_err(Error::NotAuthentic)?;
            v1::UserMetadata::decode(&plain[..]).map_err(|_| Error::Protocol {
                what: "metadata of an unknown format",
            })?
        };
        Ok(ObjectInfo {
            key,
            version,
            bytes: entry.plain_bytes,
            finished_at: UnixMs(entry.finished_at_ms),
            delete_marker: entry.delete_marker,
            is_current,
            metadata,
        })
    }

    fn context(&self, version: ObjectVersionId, name: NameCommitment) -> ObjectContext {
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

    fn keys(&self) -> &crate::kms::Keys {
        self.0.region.keys()
    }

    fn request_id(&self) -> Result<Bytes, Error> {
        let epoch = UploadEpoch(self.0.upload_epoch.load(Ordering::Relaxed));
        let id = RequestId {
            epoch,
            nonce: random()?,
        };
        Ok(Bytes::copy_from_slice(&id.to_bytes()))
    }

    async fn learn_epoch(&self) -> Result<(), Error> {
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
        self.0
            .upload_epoch
            .fetch_max(status.upload_epoch, Ordering::Relaxed);
        Ok(())
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
    fn forget_replicas(&self) {
        self.0.replicas.lock().clear();
    }

    /// A write to the shard: its answer is an answer of apply.
    pub(crate) async fn write<F, Fut>(&self, call: F) -> Result<v1::Done, Error>
    where
        F: Fn(ShardClient<Channel>) -> Fut,
        Fut: Future<Output = Result<v1::ShardAnswer, Status>>,
    {
        let region = &self.0.region.0;
        let answer = region
            .nodes
            .change(self.0.shard, &region.tuning, |_, channel| {
                call(shard_client(channel))
            })
            .await?;
        match answer.answer {
            Some(Answer::Done(done)) => {
                self.0
                    .upload_epoch
                    .fetch_max(done.upload_epoch, Ordering::Relaxed);
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

    pub(crate) async fn ask_shard<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(ShardClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let region = &self.0.region.0;
        region
            .nodes
            .on_leader(self.0.shard, &region.tuning, |_, channel| {
                call(shard_client(channel))
            })
            .await
    }
}

pub(crate) fn shard_client(channel: Channel) -> ShardClient<Channel> {
    ShardClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// What one new version is sealed with.
struct Sealing {
    lease: Arc<SealLease>,
    dek: SealDek,
    salt: DekSalt,
    name_salt: NameSalt,
    metadata_version: u32,
    metadata: SealedMetadata,
}

impl Sealing {
    /// The entry but for where its bytes are. One stream, part 1.
    fn entry(&self, plain: u64, header: &StreamHeader) -> Result<v1::ObjectEntry, Error> {
        let part = ManifestPart::new(PartNumber::FIRST, plain, header);
        let manifest = part
            .and_then(|part| Manifest::new(vec![part], Vec::new()))
            .map_err(|_| Error::Seal(envelope::SealError::TooLong))?;
        Ok(v1::ObjectEntry {
            format: 1,
            version_id: self.dek.context().version.into(),
            lease_id: self.lease.id().into(),
            dek_salt: Bytes::copy_from_slice(self.salt.as_bytes()),
            name_salt: Bytes::copy_from_slice(self.name_salt.as_bytes()),
            plain_bytes: plain,
            sealed_manifest: self.dek.seal_manifest(&manifest)?.into(),
            sealed_metadata: Bytes::copy_from_slice(self.metadata.as_bytes()),
            metadata_key_version: self.metadata_version,
            placement: 1,
            ..v1::ObjectEntry::default()
        })
    }
}

fn not_approved(why: &str) -> Error {
    Error::Caller {
        reason: "other-request".to_owned(),
        message: why.to_owned(),
    }
}

/// The sealed manifest is the truth; an entry that says otherwise was tampered with or mixed up.
pub(crate) fn agree(manifest: &Manifest, entry: &v1::ObjectEntry) -> Result<(), Error> {
    let blocks: u64 = entry
        .blocks
        .iter()
        .map(|block| u64::from(block.bytes))
        .sum();
    let stored = if entry.blocks.is_empty() {
        entry.inline.len() as u64
    } else {
        blocks
    };
    if manifest.plain_total() != entry.plain_bytes || manifest.sealed_total() != stored {
        return Err(Error::NotAuthentic(envelope::OpenError));
    }
    Ok(())
}

/// Time left to use a released key; zero when it is over.
pub(crate) fn time_left(until: UnixMs) -> std::time::Duration {
    std::time::Duration::from_millis(until.0.saturating_sub(now().0))
}

/// Refusals after which a new lease helps.
const LEASE_REASONS: [&str; 3] = ["token-expired", "token-too-old", "no-such-token"];
/// Claims with queues of their own at one time.
const CLAIMS_MAX: usize = 64;
/// A reply carries at most one entry of 1 MiB, or a page of listings.
/// The purpose under which the KMS releases a key to go on with an upload.
const UPLOADS: &str = "multipart";
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
