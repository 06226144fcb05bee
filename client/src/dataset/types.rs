//! What callers say and are told of datasets and objects.
//!
//! Owns the types alone; what becomes of them is in [`super`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::{
    DatasetId, DatasetName, GroupId, KekId, LogIndex, ObjectKey, ObjectVersionId, UnixMs,
};
use proto::v1;
use transport::Stated;

use crate::download::ObjectReader;
use crate::error::Error;
use crate::locks::Retention;

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
    /// Its KEK.
    pub kek_id: KekId,
    /// Its key's state, as the shard has committed it.
    pub key_state: v1::KeyState,
    /// Compliance retention and legal hold, as the shard has committed them.
    pub hold: v1::DatasetHold,
    /// Whether versioning was on and is suspended.
    pub suspended: bool,
    /// Object lock, with its default, where it was turned on.
    pub lock: Option<v1::ObjectLock>,
    /// What it may hold.
    pub quota: v1::Quota,
    /// Uploads in parts under way.
    pub uploads: u64,
}

impl TryFrom<v1::DatasetInfo> for DatasetInfo {
    type Error = Error;
    fn try_from(info: v1::DatasetInfo) -> Result<Self, Error> {
        let record = info.dataset.ok_or(Error::Protocol {
            what: "no dataset in the answer",
        })?;
        Ok(Self {
            key_state: record.key_state(),
            hold: record.hold.unwrap_or_default(),
            suspended: record.suspended,
            lock: record.lock,
            quota: record.quota.unwrap_or_default(),
            uploads: record.uploads,
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
            kek_id: KekId::try_from(&record.kek_id[..])?,
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
    pub(crate) fn wire(self) -> Option<v1::Precondition> {
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
    /// Checksums of the plaintext; sealed. Looked at when the body has been read.
    pub checksums: Checksums,
    /// Binds the request id to the caller's own retries.
    pub invocation: Option<Invocation>,
    /// Until when the version is not removed, in place of the dataset's default. Takes object lock.
    pub retention: Option<Retention>,
    /// Whether it is under a legal hold from the beginning. Takes object lock.
    pub legal_hold: bool,
}

impl PutOptions {
    /// What is sealed beside the version, as far as it is known now.
    pub(crate) fn metadata(&self) -> v1::UserMetadata {
        v1::UserMetadata {
            format: 1,
            content_type: self.content_type.clone().unwrap_or_default(),
            user: self.metadata.clone(),
            tags: self.tags.clone(),
            checksums: self.checksums.all(),
            part: 0,
            part_id: Bytes::new(),
        }
    }
}

/// Checksums of a body, by their names: whoever gives the body sets them when it has seen the body's end. Clones share
/// them.
#[derive(Debug, Clone, Default)]
pub struct Checksums(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Checksums {
    /// Sets one.
    pub fn set(&self, name: &str, value: Bytes) {
        self.0.lock().insert(name.to_owned(), value);
    }

    /// Those that were set.
    pub fn all(&self) -> BTreeMap<String, Bytes> {
        self.0.lock().clone()
    }
}

impl From<BTreeMap<String, Bytes>> for Checksums {
    fn from(known: BTreeMap<String, Bytes>) -> Self {
        Self(Arc::new(Mutex::new(known)))
    }
}

/// What a caller's tries of one and the same change have in common, and no other change has: the request id is made of
/// it, so that of those within one upload epoch one has effect. A put is sealed anew in each try, so that all but one
/// are refused as `request-id-reused`; a delete is answered as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invocation(pub [u8; 16]);

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
    /// As nodes are told of it: of whom it is for, where policy is asked about that one too. Words stay with the KMS.
    pub(crate) fn stated(&self) -> Stated {
        let named = self.on_behalf_of.starts_with("spiffe://");
        Stated {
            purpose: self.purpose.clone(),
            case: self.case.clone(),
            on_behalf_of: if named {
                self.on_behalf_of.clone()
            } else {
                String::new()
            },
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
    /// How many parts it came in; 0 where it is one stream.
    pub parts: u32,
    /// Whether it was made while versioning was on; else it is the key's null version.
    pub versioned: bool,
    /// The log index at which it was finished: the order of a key's versions.
    pub finished_index: LogIndex,
    /// Until when it is not removed.
    pub retention: Option<Retention>,
    /// Whether it is under a legal hold.
    pub legal_hold: bool,
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
