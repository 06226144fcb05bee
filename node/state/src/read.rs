//! Point reads of a shard's state.
//!
//! Owns how an entry is put together from its head and its body. Refuses nothing: freshness and permission are the
//! caller's, who passes a reader of the right index.

use bytes::Bytes;
use proto::ids::{DatasetId, LeaseId, LogIndex, ObjectVersionId, UploadEpoch};
use proto::store::Reader;
use proto::v1;

use crate::keys::{self, table};
use crate::record;

/// A dataset's record, dropped ones included.
pub fn dataset(state: &(impl Reader + ?Sized), id: &DatasetId) -> Option<v1::DatasetRecord> {
    record::load(state, &keys::dataset(table::DATASET, id))
}

/// A relocation into this shard as it stands, ended ones included.
pub fn arrival(state: &(impl Reader + ?Sized), dataset: &DatasetId) -> Option<v1::ArrivalRecord> {
    record::load(state, &keys::dataset(table::ARRIVAL, dataset))
}

/// Every relocation into this shard, ended ones included, in order of datasets.
pub fn arrivals(state: &(impl Reader + ?Sized)) -> Vec<(DatasetId, v1::ArrivalRecord)> {
    let (start, end) = keys::range(table::ARRIVAL, &[]);
    let mut found = Vec::new();
    state.scan(&start, &end, &mut |key, value| {
        let id = DatasetId::try_from(&key[1..]).expect("the key was written by us");
        found.push((id, record::decode(value)));
        true
    });
    found
}

/// The current version of an object, or the one asked for, with manifest, inline bytes and blocks. A delete marker
/// is answered as one.
pub fn object(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &str,
    version: Option<&ObjectVersionId>,
) -> Option<v1::ObjectEntry> {
    let head = head(state, dataset, key, version)?;
    if head.delete_marker {
        return Some(head);
    }
    let id = ObjectVersionId::try_from(head.version_id.as_ref()).ok()?;
    let body = body(state, &id)?;
    Some(v1::ObjectEntry {
        sealed_manifest: body.sealed_manifest,
        inline: body.inline,
        blocks: body.blocks,
        ..head
    })
}

/// As [`object`], without manifest, inline bytes and blocks: what a listing shows.
pub fn head(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &str,
    version: Option<&ObjectVersionId>,
) -> Option<v1::ObjectEntry> {
    let current: v1::ObjectEntry = record::load(state, &keys::current(dataset, key))?;
    let Some(asked) = version else {
        return Some(current);
    };
    if current.version_id == asked.as_bytes()[..] {
        return Some(current);
    }
    let at = self::version(state, asked)?;
    let is_object = at.kind() == v1::VersionKind::Object;
    if !is_object || at.key != key || at.dataset_id != dataset.as_bytes()[..] {
        return None;
    }
    record::load(
        state,
        &keys::older(dataset, key, LogIndex(at.finished_index)),
    )
}

/// The head of an object's null version: made while versioning was off, or is suspended. A delete marker may be one.
pub fn null_version(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &str,
) -> Option<v1::ObjectEntry> {
    let current: v1::ObjectEntry = record::load(state, &keys::current(dataset, key))?;
    match (current.versioned, current.null_index) {
        (false, _) => Some(current),
        (true, 0) => None,
        (true, index) => record::load(state, &keys::older(dataset, key, LogIndex(index))),
    }
}

/// A dataset's restore, ended ones included.
pub fn restore(state: &(impl Reader + ?Sized), id: &DatasetId) -> Option<v1::RestoreRecord> {
    record::load(state, &keys::dataset(table::RESTORE, id))
}

/// A setting of a dataset, removed ones included.
pub fn config(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    kind: v1::ConfigKind,
) -> Option<v1::ConfigRecord> {
    record::load(state, &keys::config(dataset, kind.into()))
}

/// The record of an upload under way, if this is one's id and key.
pub fn upload(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &str,
    id: &ObjectVersionId,
) -> Option<v1::UploadRecord> {
    let at = version(state, id)?;
    let of_key = at.kind() == v1::VersionKind::Upload
        && at.key == key
        && at.dataset_id == dataset.as_bytes()[..];
    let place = keys::upload(dataset, key, LogIndex(at.finished_index));
    of_key.then(|| record::load(state, &place)).flatten()
}

/// Where a version, upload or part is.
pub fn version(state: &(impl Reader + ?Sized), id: &ObjectVersionId) -> Option<v1::VersionRecord> {
    record::load(state, &keys::version(table::VERSION, id))
}

/// Manifest, inline bytes and blocks of a version or part: what repair goes by. `None` for delete markers, uploads and
/// unknown ids.
pub fn body(state: &(impl Reader + ?Sized), id: &ObjectVersionId) -> Option<v1::ObjectEntry> {
    record::load(state, &keys::version(table::BODY, id))
}

/// A lease's token.
pub fn token(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    lease: &LeaseId,
) -> Option<v1::TokenRecord> {
    record::load(state, &keys::token(table::TOKEN, dataset, lease))
}

/// What a request id did, while the window keeps it: an encoded `ShardAnswer`.
pub fn answered(state: &(impl Reader + ?Sized), id: &proto::ids::RequestId) -> Option<Bytes> {
    record::load::<v1::RequestRecord>(state, &keys::request(id)).map(|kept| kept.answer)
}

/// Visits versions whose blocks became garbage at or before `through`, oldest epoch first, until `visit` answers
/// `false`. A node may unlink them once an epoch of grace has passed and is flushed.
pub fn garbage(
    state: &(impl Reader + ?Sized),
    through: UploadEpoch,
    visit: &mut dyn FnMut(UploadEpoch, ObjectVersionId, v1::GarbageRecord) -> bool,
) {
    let start = keys::epoch_start(table::GARBAGE, UploadEpoch(0));
    let end = match through.0.checked_add(1) {
        Some(next) => keys::epoch_start(table::GARBAGE, UploadEpoch(next)),
        None => keys::end_of(&[table::GARBAGE]),
    };
    state.scan(&start, &end, &mut |key, value| {
        let (epoch, id) = keys::garbage_parts(key).expect("the key was written by us");
        visit(epoch, id, record::decode(value))
    });
}

/// Changes of a dataset after a log index, in order, at most `limit`.
pub fn changes(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    after: LogIndex,
    limit: usize,
) -> Vec<(LogIndex, v1::ChangeRecord)> {
    let start = keys::change(table::CHANGE, dataset, LogIndex(after.0.saturating_add(1)));
    let (_, end) = keys::range(table::CHANGE, dataset.as_bytes());
    let mut found = Vec::new();
    if limit == 0 {
        return found;
    }
    state.scan(&start, &end, &mut |key, value| {
        let index = key[key.len() - 8..]
            .try_into()
            .expect("the key ends in eight bytes of index");
        found.push((LogIndex(u64::from_be_bytes(index)), record::decode(value)));
        found.len() < limit
    });
    found
}

/// Tokens of a dataset under KEK versions below one, in order of lease ids, and the id to go on from. Looks at no more
/// than `limit` tokens of any version a call, so that a page costs the same wherever it begins.
pub fn tokens_below(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    below_version: u32,
    start_after: Option<&LeaseId>,
    limit: usize,
) -> (Vec<v1::TokenRecord>, Option<LeaseId>) {
    let (first, end) = keys::range(table::TOKEN, dataset.as_bytes());
    let first = match start_after {
        Some(lease) => keys::end_of(&keys::token(table::TOKEN, dataset, lease)),
        None => first,
    };
    let (mut found, mut looked, mut last) = (Vec::new(), 0, None);
    state.scan(&first, &end, &mut |key, value| {
        if looked == limit {
            return false;
        }
        looked += 1;
        last = key
            .get(1 + DatasetId::BYTES..)
            .and_then(|id| LeaseId::try_from(id).ok());
        let token: v1::TokenRecord = record::decode(value);
        if token.kek_version < below_version {
            found.push(token);
        }
        true
    });
    (found, last.filter(|_| looked == limit))
}
