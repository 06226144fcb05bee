//! The catalog root: one value for all that a dataset is, the same on both sides of a relocation.
//!
//! Owns what it covers: of every version and delete marker its key, id, order, time, length, retention, legal hold and a
//! digest of all that is sealed there; and the settings. A destination has other ciphertext: it puts the source's digest of
//! each version in its place, and that the content is equal was shown by opening both. Versions are summed as LtHash does
//! (Bellare and Micciancio 1997; Lewi et al., IACR 2019/227), so that a driver can follow changes from one root to the next
//! and a fence need not wait until all is read. Refuses to leave out anything that moves; uploads in parts under way do not.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId};
use proto::relocation::CatalogRoot;
use proto::store::Reader;
use proto::v1;

use crate::keys::{self, table};
use crate::limits::IMPORTS_MAX;
use crate::relocation::Overrun;
use crate::shard::tombstone;
use crate::{read, record};

const ROOT_LABEL: &[u8] = b"reduit/v1/catalog-root\n";
const ROW_LABEL: &[u8] = b"reduit/v1/catalog-row\n";
const CONTENT_LABEL: &[u8] = b"reduit/v1/catalog-content\n";
/// Sums of 16 bits: with these LtHash has over 200 bits of security.
const SUMS: usize = 1024;

/// Which side of a relocation a state is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The dataset leaves: order and digests are its own.
    Source,
    /// It arrives: order and digests are the source's, as they were imported.
    Destination,
}

/// The sum over all versions.
#[derive(Clone, PartialEq, Eq)]
pub struct Sum {
    sums: Box<[u16; SUMS]>,
    rows: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            sums: Box::new([0; SUMS]),
            rows: 0,
        }
    }
}

impl Sum {
    /// With one version more.
    pub fn add(&mut self, row: &[u8; 32]) {
        self.each(row, u16::wrapping_add);
        self.rows += 1;
    }

    /// With one version less, which was added before.
    pub fn remove(&mut self, row: &[u8; 32]) {
        self.each(row, u16::wrapping_sub);
        self.rows -= 1;
    }

    fn each(&mut self, row: &[u8; 32], with: fn(u16, u16) -> u16) {
        let mut stream = blake3::Hasher::new();
        stream.update(ROW_LABEL).update(row);
        let mut expanded = [0; 2 * SUMS];
        stream.finalize_xof().fill(&mut expanded);
        for (sum, pair) in self.sums.iter_mut().zip(expanded.chunks_exact(2)) {
            *sum = with(*sum, u16::from_le_bytes([pair[0], pair[1]]));
        }
    }

    /// The root of a dataset with these versions and settings.
    pub fn root(&self, settings: &v1::ImportedSettings) -> CatalogRoot {
        let settings = settings.encode_to_vec();
        let mut root = blake3::Hasher::new();
        root.update(ROOT_LABEL);
        root.update(&(settings.len() as u64).to_be_bytes());
        root.update(&settings).update(&self.rows.to_be_bytes());
        for sum in self.sums.iter() {
            root.update(&sum.to_le_bytes());
        }
        CatalogRoot(root.finalize().into())
    }
}

/// The root of a dataset. Reads all of it: its state must stand still, as under a fence or on a snapshot.
pub fn catalog_root(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    side: Side,
) -> Option<CatalogRoot> {
    root_of(state, dataset, &sum_of(state, dataset, side))
}

/// The root of a dataset whose versions have this sum.
pub fn root_of(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    sum: &Sum,
) -> Option<CatalogRoot> {
    let record = read::dataset(state, dataset)?;
    Some(sum.root(&settings(state, dataset, &record)))
}

/// The sum over all versions of a dataset. Reads all of them.
pub fn sum_of(state: &(impl Reader + ?Sized), dataset: &DatasetId, side: Side) -> Sum {
    let mut sum = Sum::default();
    let (start, end) = keys::range(table::CURRENT, dataset.as_bytes());
    state.scan(&start, &end, &mut |place, _| {
        let (key, _) = keys::object_key(place).expect("the key was written by us");
        rows_of(state, dataset, &key, side, &mut |row| sum.add(row));
        true
    });
    sum
}

/// Follows the sum of a source from a state that has applied `from` to a later one, by what changed between them: reads
/// the keys that did, in both. Where removals were forgotten it does not know them all, and the sum stays as it was.
pub fn follow(
    sum: &mut Sum,
    dataset: &DatasetId,
    (before, from): (&(impl Reader + ?Sized), LogIndex),
    after: &(impl Reader + ?Sized),
) -> Result<(), Overrun> {
    if let Some(record) = read::dataset(after, dataset) {
        tombstone::of_record(&record).readable(from)?;
    }
    let mut changed = BTreeSet::new();
    let mut through = from;
    loop {
        let changes = read::changes(after, dataset, through, IMPORTS_MAX);
        let Some((last, _)) = changes.last() else {
            break;
        };
        through = *last;
        let of_objects = changes
            .into_iter()
            .filter(|(_, change)| change.kind() != v1::ChangeKind::Settings);
        changed.extend(of_objects.map(|(_, change)| change.key));
    }
    follow_keys(sum, dataset, Side::Source, (before, after), &changed);
    Ok(())
}

/// Follows a sum from one state to another, between which no other keys changed.
pub fn follow_keys<'a>(
    sum: &mut Sum,
    dataset: &DatasetId,
    side: Side,
    (before, after): (&(impl Reader + ?Sized), &(impl Reader + ?Sized)),
    keys: impl IntoIterator<Item = &'a String>,
) {
    for key in keys {
        rows_of(before, dataset, key, side, &mut |row| sum.remove(row));
        rows_of(after, dataset, key, side, &mut |row| sum.add(row));
    }
}

fn rows_of(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &str,
    side: Side,
    with: &mut dyn FnMut(&[u8; 32]),
) {
    for (head, is_null) in heads_of(state, dataset, key) {
        with(&row(state, dataset, (key, is_null), &head, side));
    }
}

/// The digest of one version, for [`Sum::add`] and [`Sum::remove`].
pub fn row(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    (key, is_null): (&str, bool),
    head: &v1::ObjectEntry,
    side: Side,
) -> [u8; 32] {
    let retention = head.retention.unwrap_or_default();
    let bit = |set: bool, at: u8| u8::from(set) << at;
    let flags = bit(head.delete_marker, 0) | bit(is_null, 1) | bit(head.legal_hold, 2);
    let (index, content) = match side {
        Side::Source => (head.finished_index, content_digest(state, head)),
        Side::Destination => (
            head.source_index,
            stated_digest(state, dataset, (key, is_null), head),
        ),
    };
    let mut row = blake3::Hasher::new();
    row.update(ROW_LABEL);
    row.update(&(key.len() as u64).to_be_bytes());
    row.update(key.as_bytes());
    row.update(&head.version_id);
    row.update(&[flags]);
    for number in [
        index,
        head.finished_at_ms,
        head.plain_bytes,
        u64::from(head.parts),
        u64::from(retention.mode.unsigned_abs()),
        retention.until_ms,
    ] {
        row.update(&number.to_be_bytes());
    }
    row.update(&content);
    row.finalize().into()
}

/// A digest of everything that is sealed of a version, parts included; of neither its place nor its lock.
pub(crate) fn content_digest(state: &(impl Reader + ?Sized), head: &v1::ObjectEntry) -> [u8; 32] {
    let mut digest = blake3::Hasher::new();
    digest.update(CONTENT_LABEL);
    let mut with = |bytes: Vec<u8>| {
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(&bytes);
    };
    let sealed = v1::ObjectEntry {
        format: head.format,
        version_id: head.version_id.clone(),
        delete_marker: head.delete_marker,
        lease_id: head.lease_id.clone(),
        dek_salt: head.dek_salt.clone(),
        name_salt: head.name_salt.clone(),
        plain_bytes: head.plain_bytes,
        sealed_bytes: head.sealed_bytes,
        sealed_metadata: head.sealed_metadata.clone(),
        metadata_key_version: head.metadata_key_version,
        parts: head.parts,
        ..Default::default()
    };
    with(sealed.encode_to_vec());
    let id = ObjectVersionId::try_from(head.version_id.as_ref());
    let id = id.expect("checked before it was stored");
    with(read::body(state, &id).unwrap_or_default().encode_to_vec());
    let (start, end) = keys::range(table::PART, id.as_bytes());
    state.scan(&start, &end, &mut |_, value| {
        let part = v1::PartRecord {
            finished_index: 0,
            finished_at_ms: 0,
            ..record::decode(value)
        };
        with(part.encode_to_vec());
        let body = ObjectVersionId::try_from(part.part_id.as_ref());
        let body = body.ok().and_then(|part| read::body(state, &part));
        with(body.unwrap_or_default().encode_to_vec());
        true
    });
    digest.finalize().into()
}

/// The source's digest of a version, as it was imported; zero for none, which no source states.
fn stated_digest(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    (key, is_null): (&str, bool),
    head: &v1::ObjectEntry,
) -> [u8; 32] {
    let id = ObjectVersionId::try_from(head.version_id.as_ref()).ok();
    let place = keys::known(dataset, key, id.filter(|_| !is_null).as_ref());
    let known: Option<v1::KnownRecord> = record::load(state, &place);
    let digest = known.map(|known| known.source_digest).unwrap_or_default();
    digest.as_ref().try_into().unwrap_or_default()
}

/// Heads of all versions of a key, newest first, and of each whether it is the key's null version.
pub(crate) fn heads_of(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    key: &str,
) -> Vec<(v1::ObjectEntry, bool)> {
    let current: Option<v1::ObjectEntry> = record::load(state, &keys::current(dataset, key));
    let Some(current) = current else {
        return Vec::new();
    };
    let null_at = match current.versioned {
        true => LogIndex(current.null_index),
        false => LogIndex(current.finished_index),
    };
    let mut found = vec![current];
    let start = keys::older_prefix(dataset, key);
    state.scan(&start, &keys::end_of(&start), &mut |_, value| {
        found.push(record::decode(value));
        true
    });
    let is_null = |head: &v1::ObjectEntry| LogIndex(head.finished_index) == null_at;
    found
        .into_iter()
        .map(|head| (head.clone(), is_null(&head)))
        .collect()
}

/// The settings of a dataset, as they move.
pub(crate) fn settings(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    record: &v1::DatasetRecord,
) -> v1::ImportedSettings {
    let (start, end) = keys::range(table::CONFIG, dataset.as_bytes());
    let mut configs = Vec::new();
    state.scan(&start, &end, &mut |_, value| {
        configs.push(record::decode(value));
        true
    });
    v1::ImportedSettings {
        versioning: record.versioning,
        suspended: record.suspended,
        lock: record.lock,
        hold: record.hold,
        quota: record.quota,
        configs,
        created_at_ms: record.created_at_ms,
    }
}

#[cfg(test)]
mod tests;
