//! What a mover reads of a departing dataset: its settings, versions, changes and request ids, a page at a time.
//!
//! Owns the order in which units are told: of one key by log index, so that no version comes under a newer one. Refuses to
//! go on from before the oldest tombstone that was dropped. Bodies come along; their blocks are read from the nodes.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{
    DatasetId, LeaseId, LogIndex, ObjectKey, ObjectVersionId, RequestId, UnixMs, UploadEpoch,
};
use proto::store::Reader;
use proto::v1;
use proto::v1::imported_unit::Content;

use crate::keys::{self, table};
use crate::limits::{IMPORTS_MAX, PAGE_BYTES_MAX};
use crate::relocation::{Authority, Overrun, Position, Standing, Unit};
use crate::shard::tombstone;
use crate::{read, record, root};

/// One unit as the source has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Log index of the change.
    pub index: LogIndex,
    /// Of what.
    pub unit: Unit,
    /// What it is. A version comes with its entry as it is stored here, sealed under this region's keys, and the digest
    /// of that; so does metadata that was changed.
    pub content: Content,
}

impl Told {
    /// As it is sent. What a mover brings of it is the same, sealed anew.
    pub fn into_unit(self) -> v1::ImportedUnit {
        let (key, version_id) = match self.unit {
            Unit::Settings => (String::new(), Bytes::new()),
            Unit::Null(key) => (key.as_str().to_owned(), Bytes::new()),
            Unit::Version(key, id) => (key.as_str().to_owned(), id.into()),
        };
        v1::ImportedUnit {
            index: self.index.0,
            key,
            version_id,
            content: Some(self.content),
        }
    }
}

/// Units in order, and what they are all of.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// In order.
    pub told: Vec<Told>,
    /// Through where they are all there is.
    pub through: T,
}

/// Settings, then every version of every key after a place, oldest first within a key.
pub fn page(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    after: &Position,
    limit: usize,
) -> Page<Position> {
    let mut room = Room::new(limit);
    let mut told = Vec::new();
    if *after == Position::Start
        && let Some(settings) = settings(state, dataset)
    {
        room.take(&settings);
        told.push(settings);
    }
    let (first, end) = keys::range(table::CURRENT, dataset.as_bytes());
    let (mut from, floor) = match after {
        Position::Start => (first, LogIndex(0)),
        Position::Within(key, index) => (keys::current(dataset, key.as_str()), *index),
        Position::After(key) => {
            let mut past = keys::current(dataset, key.as_str());
            past.push(0);
            (past, LogIndex(0))
        }
        Position::End => {
            return Page {
                told,
                through: Position::End,
            };
        }
    };
    let mut floor = Some(floor);
    let mut through = after.clone();
    loop {
        let Some((key, next)) = next_key(state, &from, &end) else {
            return Page {
                told,
                through: Position::End,
            };
        };
        let within = floor.take().unwrap_or_default();
        for one in of_key(state, dataset, &key, within) {
            if !room.has(told.len()) {
                return Page { told, through };
            }
            room.take(&one);
            through = Position::Within(key.clone(), one.index);
            told.push(one);
        }
        through = Position::After(key);
        from = next;
    }
}

/// Every change after a log index, as of a state that has applied `at`.
pub fn changes(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    after: LogIndex,
    at: LogIndex,
    limit: usize,
) -> Result<Page<LogIndex>, Overrun> {
    if let Some(record) = read::dataset(state, dataset) {
        tombstone::of_record(&record).readable(after)?;
    }
    let mut room = Room::new(limit);
    let (mut told, mut through) = (Vec::new(), after);
    let rows = read::changes(state, dataset, after, limit.clamp(1, IMPORTS_MAX));
    let all = rows.len() < limit.clamp(1, IMPORTS_MAX);
    for (index, change) in rows {
        if !room.has(told.len()) {
            return Ok(Page { told, through });
        }
        if let Some(one) = of_change(state, dataset, index, &change) {
            room.take(&one);
            told.push(one);
        }
        through = index;
    }
    let through = if all { at } else { through };
    Ok(Page { told, through })
}

/// Every request id of a dataset that was answered after a log index, while the window keeps it, and through where these
/// are all, as of a state that has applied `at`.
pub fn requests(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    after: LogIndex,
    at: LogIndex,
    limit: usize,
) -> (Vec<v1::CrossedRequest>, LogIndex) {
    let limit = limit.clamp(1, IMPORTS_MAX);
    let offset = read::dataset(state, dataset).map_or(0, |record| record.request_offset);
    let after = LogIndex(after.0.saturating_add(1));
    let start = keys::change(table::REQUEST_AT, dataset, after);
    let (_, end) = keys::range(table::REQUEST_AT, dataset.as_bytes());
    let (mut found, mut through, mut bytes) = (Vec::new(), at, 0);
    let mut rows = 0;
    state.scan(&start, &end, &mut |key, sent| {
        let index = keys::change_index(key).expect("the key was written by us");
        if rows == limit || bytes >= PAGE_BYTES_MAX {
            through = LogIndex(index.0 - 1);
            return false;
        }
        rows += 1;
        let sent = RequestId::try_from(sent).expect("the record was written by us");
        let kept = RequestId {
            epoch: UploadEpoch(sent.epoch.0 - offset),
            ..sent
        };
        let kept: Option<v1::RequestRecord> = record::load(state, &keys::request(&kept));
        if let Some(kept) = kept {
            let one = v1::CrossedRequest {
                index: index.0,
                request_id: Bytes::copy_from_slice(&sent.to_bytes()),
                request_hash: kept.request_hash,
                answer: kept.answer,
            };
            bytes += one.encoded_len();
            found.push(one);
        }
        true
    });
    (found, through)
}

/// Tokens of the leases that what was told is sealed under, each once.
pub fn tokens(state: &(impl Reader + ?Sized), dataset: &DatasetId, told: &[Told]) -> Vec<Bytes> {
    let leases: BTreeSet<LeaseId> = told
        .iter()
        .filter_map(|one| match &one.content {
            Content::Version(version) => version.entry.as_ref(),
            _ => None,
        })
        .filter_map(|entry| LeaseId::try_from(entry.lease_id.as_ref()).ok())
        .collect();
    let held = leases
        .iter()
        .filter_map(|lease| read::token(state, dataset, lease));
    held.map(|held| held.token).collect()
}

/// When the fence of a dataset is due to be reverted, by the shard's time; `None` where none stands.
pub fn fence_due(state: &(impl Reader + ?Sized), dataset: &DatasetId) -> Option<UnixMs> {
    let due = state.value(&keys::dataset(table::FENCE, dataset))?;
    let due = due.as_ref().try_into().expect("written as eight bytes");
    Some(UnixMs(u64::from_be_bytes(due)))
}

/// Visits fenced datasets whose fence is due to be reverted at this time.
pub fn fences_due(state: &(impl Reader + ?Sized), now: UnixMs, visit: &mut dyn FnMut(DatasetId)) {
    let (first, end) = keys::range(table::FENCE, &[]);
    state.scan(&first, &end, &mut |key, due| {
        let due = due.try_into().map(u64::from_be_bytes);
        if due.is_ok_and(|due| due <= now.0)
            && let Ok(id) = DatasetId::try_from(&key[1..])
        {
            visit(id);
        }
        true
    });
}

/// The command that reverts the fence of a dataset, if one stands.
pub fn revert(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
) -> Option<v1::shard_command::Command> {
    let authority = Authority::stored(&read::dataset(state, dataset)?);
    let Standing::Fenced { at } = authority.standing() else {
        return None;
    };
    Some(v1::shard_command::Command::Depart(v1::Depart {
        dataset_id: (*dataset).into(),
        relocation_id: authority.departure()?.relocation.into(),
        vouch: None,
        step: Some(v1::depart::Step::Revert(at.0)),
    }))
}

fn settings(state: &(impl Reader + ?Sized), dataset: &DatasetId) -> Option<Told> {
    let record = read::dataset(state, dataset)?;
    Some(Told {
        // They were made with the dataset, where they never changed.
        index: LogIndex(record.settings_index.max(1)),
        unit: Unit::Settings,
        content: Content::Settings(root::settings(state, dataset, &record)),
    })
}

fn next_key(
    state: &(impl Reader + ?Sized),
    from: &[u8],
    end: &[u8],
) -> Option<(ObjectKey, Vec<u8>)> {
    let mut found = None;
    state.scan(from, end, &mut |key, _| {
        let (object, _) = keys::object_key(key).expect("the key was written by us");
        let object = object.parse().expect("checked before it was stored");
        found = Some((object, [key, &[0][..]].concat()));
        false
    });
    found
}

/// Versions, their locks and metadata of one key after a log index, in the order in which they came.
fn of_key(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &ObjectKey,
    after: LogIndex,
) -> Vec<Told> {
    let heads = root::heads_of(state, dataset, key.as_str());
    let mut all: Vec<(LogIndex, Unit, v1::ObjectEntry, v1::ChangeKind)> = Vec::new();
    for (head, is_null) in heads {
        let unit = unit(key, &head, is_null);
        for (index, kind) in [
            (head.finished_index, v1::ChangeKind::Version),
            (head.changed_index, v1::ChangeKind::Lock),
            (head.metadata_index, v1::ChangeKind::Metadata),
        ] {
            if LogIndex(index) > after {
                all.push((LogIndex(index), unit.clone(), head.clone(), kind));
            }
        }
    }
    all.sort_by_key(|(index, ..)| *index);
    all.into_iter()
        .map(|(index, unit, head, kind)| Told {
            index,
            unit,
            content: of_kind(state, &head, kind),
        })
        .collect()
}

fn of_change(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    index: LogIndex,
    change: &v1::ChangeRecord,
) -> Option<Told> {
    if change.kind() == v1::ChangeKind::Settings {
        return settings(state, dataset).map(|settings| Told { index, ..settings });
    }
    let key: ObjectKey = change.key.parse().expect("checked before it was stored");
    let id = ObjectVersionId::try_from(change.version_id.as_ref());
    let id = id.expect("checked before it was stored");
    if change.tombstone {
        let unit = match change.null_version {
            true => Unit::Null(key),
            false => Unit::Version(key, id),
        };
        let content = Content::Gone(true);
        return Some(Told {
            index,
            unit,
            content,
        });
    }
    let heads = root::heads_of(state, dataset, key.as_str());
    let found = heads
        .into_iter()
        .find(|(head, _)| head.version_id == change.version_id);
    let (head, is_null) = found.expect("a living change has its version");
    Some(Told {
        index,
        unit: unit(&key, &head, is_null),
        content: of_kind(state, &head, change.kind()),
    })
}

/// What a change of this kind made of a version, as that is now.
fn of_kind(
    state: &(impl Reader + ?Sized),
    head: &v1::ObjectEntry,
    kind: v1::ChangeKind,
) -> Content {
    match kind {
        v1::ChangeKind::Lock => lock(head),
        v1::ChangeKind::Metadata => metadata(state, head),
        v1::ChangeKind::Version | v1::ChangeKind::Settings => version(state, head),
    }
}

fn unit(key: &ObjectKey, head: &v1::ObjectEntry, is_null: bool) -> Unit {
    match ObjectVersionId::try_from(head.version_id.as_ref()) {
        Ok(id) if !is_null => Unit::Version(key.clone(), id),
        _ => Unit::Null(key.clone()),
    }
}

fn lock(head: &v1::ObjectEntry) -> Content {
    Content::Lock(v1::ImportedLock {
        retention: head.retention,
        legal_hold: head.legal_hold,
    })
}

fn metadata(state: &(impl Reader + ?Sized), head: &v1::ObjectEntry) -> Content {
    let digest = root::content_digest(state, head);
    Content::Metadata(v1::ImportedMetadata {
        sealed_metadata: head.sealed_metadata.clone(),
        metadata_key_version: head.metadata_key_version,
        source_digest: Bytes::copy_from_slice(&digest),
    })
}

fn version(state: &(impl Reader + ?Sized), head: &v1::ObjectEntry) -> Content {
    let digest = root::content_digest(state, head);
    let id = ObjectVersionId::try_from(head.version_id.as_ref());
    let body = id.ok().and_then(|id| read::body(state, &id));
    let body = body.unwrap_or_default();
    Content::Version(v1::ImportedVersion {
        entry: Some(v1::ObjectEntry {
            sealed_manifest: body.sealed_manifest,
            inline: body.inline,
            blocks: body.blocks,
            ..head.clone()
        }),
        source_digest: Bytes::copy_from_slice(&digest),
        ..Default::default()
    })
}

/// What a page may still take: at least one unit, and then by number and bytes.
struct Room {
    units: usize,
    bytes: usize,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self {
            units: limit.clamp(1, IMPORTS_MAX),
            bytes: 0,
        }
    }

    fn has(&self, told: usize) -> bool {
        told == 0 || told < self.units && self.bytes < PAGE_BYTES_MAX
    }

    fn take(&mut self, told: &Told) {
        let unit = v1::ImportedUnit {
            content: Some(told.content.clone()),
            ..Default::default()
        };
        self.bytes += unit.encoded_len();
    }
}
