//! Keys that are handed over: the release of a source, and what a destination gives to whoever moves the data.
//!
//! Owns both leaves; a source's counts in its grant before anything leaves. Refuses any purpose but `relocation`, a
//! release that the grant does not allow now or to another region than it names, and what a destroyed hand-over key would
//! open.

use proto::ids::{DatasetId, Identity, Role};
use proto::v1::{HandOver, HandedOver, KekRecord, KeyState, OpenedItem, Record, RecordAnswer};
use serde::Serialize;
use tlog::{Field, Kind, OpenedObject};

use super::opens::objects_of;
use super::{HeldKey, USABLE_MS, answer_of, request_hash, use_it};
use crate::append::{Applying, Private, array, details, stated};
use crate::hand_over::{
    RELOCATION, at_level, hand_over_grant, hand_over_key, put_grant, relocation_id,
};
use crate::keys::{check_state_version, dataset_id};
use crate::read;
use crate::refusal::Refusal;
use crate::relocation::{HandOverGrant, HandOverKey};
use crate::requests::Request;

/// Versions of a metadata key that one record names: the leaf stays small.
const METADATA_VERSIONS_MAX: usize = 256;

/// Versions of a dataset's metadata key that are there, in their order.
pub fn living_metadata(key: &KekRecord) -> Vec<u32> {
    let living = key
        .versions
        .iter()
        .filter(|version| !version.wrapped_metadata_key.is_empty());
    living.map(|version| version.version).collect()
}

#[derive(Serialize)]
struct ReleasedDetails<'a> {
    relocation: String,
    hand_over_key: String,
    /// Of the dataset's metadata key, where those were released.
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    metadata_versions: &'a [u32],
}

#[derive(Serialize)]
struct OpenedDetails<'a> {
    usable_ms: u64,
    relocation: String,
    hand_over_key: String,
    source: &'a str,
    /// Of the release, in the source's log.
    source_leaf: u64,
    batch_sha256: String,
    /// Of the source's metadata key, where those were opened.
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    metadata_versions: &'a [u32],
}

/// What both records state alike.
struct Asked {
    dataset: DatasetId,
    actor: Identity,
    private: Private,
    request_id: [u8; 16],
    objects: Vec<OpenedObject>,
    bytes: u64,
}

impl Asked {
    fn check(
        applying: &Applying<'_>,
        record: &Record,
        items: &[OpenedItem],
        metadata: &[u32],
    ) -> Result<Self, Refusal> {
        at_level(applying)?;
        let request_id = array::<16>(&record.request_id).ok_or(Refusal::Malformed("request id"))?;
        let dataset = dataset_id(&record.dataset_id)?;
        let (actor, purpose, private) = stated(record.claim.as_ref())?;
        if purpose.as_str() != RELOCATION {
            return Err(Refusal::Malformed("keys are handed over for a relocation"));
        }
        let (objects, bytes) = match (items, metadata) {
            ([], [_, ..]) => (Vec::new(), 0),
            (_, []) => objects_of(items)?,
            _ => {
                return Err(Refusal::Malformed(
                    "object versions or metadata keys, not both",
                ));
            }
        };
        if metadata.len() > METADATA_VERSIONS_MAX {
            return Err(Refusal::Malformed("metadata keys of too many versions"));
        }
        Ok(Self {
            dataset,
            actor,
            private,
            request_id,
            objects,
            bytes,
        })
    }

    /// The key it is decided on, usable and as it was.
    fn check_key(
        &self,
        applying: &mut Applying<'_>,
        key: &mut HeldKey,
        record: &Record,
    ) -> Result<(), Refusal> {
        let held = key.of(applying.state, &self.dataset)?;
        check_state_version(held, record.state_version)?;
        match held.state() {
            KeyState::Enabled => Ok(()),
            _ => Err(Refusal::KeyDisabled),
        }
    }

    /// Puts it on record in the dataset's chain, and remembers its request.
    fn append(
        mut self,
        applying: &mut Applying<'_>,
        key: &mut HeldKey,
        request: &Request,
        (kind, recipient): (Kind, &str),
        said: &impl Serialize,
    ) -> RecordAnswer {
        let uses = (self.objects.len() as u64).max(1);
        self.private.objects = self.objects;
        self.private.fields.extend([
            (Field::RequestId, request.hex()),
            (Field::RecipientRegion, recipient.to_owned()),
            (Field::Bytes, self.bytes.to_string()),
        ]);
        details(&mut self.private, said);
        let key = key.changing(applying.state, &self.dataset);
        if kind != Kind::HandOverOpened {
            use_it(key, uses);
        }
        let purpose = crate::hand_over::purpose();
        let leaf = applying.append(kind, purpose, Some(key), self.private);
        let memory = request.memory_of(&leaf, applying.now);
        request.remember(applying.state, &memory);
        answer_of(&memory, false)
    }
}

/// A source releases keys to the region its grant names.
pub(super) fn release(
    applying: &mut Applying<'_>,
    key: &mut HeldKey,
    record: &Record,
    asked: &HandOver,
) -> Result<RecordAnswer, Refusal> {
    let versions = &asked.metadata_versions;
    let who = Asked::check(applying, record, &asked.items, versions)?;
    let relocation = relocation_id(&asked.relocation_id)?;
    let mut stored = hand_over_grant(&*applying.state, &relocation)
        .filter(|stored| stored.dataset_id == record.dataset_id)
        .ok_or(Refusal::NoSuchRelocation)?;
    let objects = who.objects.len() as u64;
    let grant = HandOverGrant::of(&stored);
    // A retry, too, is answered only while keys may leave.
    let counted = grant.release(objects, applying.next_leaf())?;
    let terms = stored.terms.clone().unwrap_or_default();
    if terms.hand_over_key_id != asked.hand_over_key_id {
        return Err(Refusal::OtherHandOver);
    }
    let theirs = who.actor.region().as_str() == terms.destination;
    if !theirs || !matches!(who.actor.role(), Role::Kms | Role::Gateway) {
        return Err(Refusal::NotGranted);
    }
    who.check_key(applying, key, record)?;
    if !versions.is_empty() {
        let whole = read::key(&*applying.state, &who.dataset).ok_or(Refusal::NoSuchKey)?;
        if *versions != living_metadata(&whole) {
            return Err(Refusal::Malformed("other metadata keys than there are"));
        }
    }
    let request = Request::look(applying, who.request_id, request_hash(record));
    if let Some(memory) = request.known(applying.now)? {
        return Ok(answer_of(memory, true));
    }
    put_grant(applying, &relocation, &counted, &mut stored);
    let said = ReleasedDetails {
        relocation: relocation.to_string(),
        hand_over_key: hex::encode(&asked.hand_over_key_id),
        metadata_versions: versions,
    };
    let kind = match versions.is_empty() {
        true => Kind::Open,
        false => Kind::MetadataLease,
    };
    let leaf = (kind, terms.destination.as_str());
    Ok(who.append(applying, key, &request, leaf, &said))
}

/// A destination gives what it received to a gateway of its own.
pub(super) fn receive(
    applying: &mut Applying<'_>,
    key: &mut HeldKey,
    record: &Record,
    asked: &HandedOver,
    region: &str,
) -> Result<RecordAnswer, Refusal> {
    let versions = &asked.metadata_versions;
    let who = Asked::check(applying, record, &asked.items, versions)?;
    let relocation = relocation_id(&asked.relocation_id)?;
    let stored = hand_over_key(&*applying.state, &relocation)
        .filter(|stored| stored.dataset_id == record.dataset_id)
        .ok_or(Refusal::NoSuchRelocation)?;
    HandOverKey::of(&stored).opens(relocation)?;
    if stored.hand_over_key_id != asked.hand_over_key_id {
        return Err(Refusal::OtherHandOver);
    }
    if asked.batch_sha256.len() != 32 {
        return Err(Refusal::Malformed("the digest of a batch"));
    }
    if who.actor.region().as_str() != region {
        return Err(Refusal::WrongJurisdiction);
    }
    if who.actor.role() != Role::Gateway {
        return Err(Refusal::NotGranted);
    }
    who.check_key(applying, key, record)?;
    let request = Request::look(applying, who.request_id, request_hash(record));
    if let Some(memory) = request.known(applying.now)? {
        return Ok(answer_of(memory, true));
    }
    let said = OpenedDetails {
        usable_ms: USABLE_MS,
        relocation: relocation.to_string(),
        hand_over_key: hex::encode(&asked.hand_over_key_id),
        source: &stored.source,
        source_leaf: asked.source_leaf,
        batch_sha256: hex::encode(&asked.batch_sha256),
        metadata_versions: versions,
    };
    let leaf = (Kind::HandOverOpened, region);
    Ok(who.append(applying, key, &request, leaf, &said))
}
