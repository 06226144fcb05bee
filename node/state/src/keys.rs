//! Layout of the shard's and the catalog's state keys: one prefix byte a table, big-endian numbers, escaped names.
//!
//! Owns the order in which a scan meets records. Object keys are escaped (00 becomes 00 FF) and end in 00 01, so
//! that byte order is key order and no key is a prefix of another's record. Refuses the prefix FF, which belongs to
//! the consensus host.

use proto::ids::{DatasetId, LeaseId, LogIndex, NodeId, ObjectVersionId, RequestId, UploadEpoch};
use proto::store::prefix_end;

/// Tables of a shard.
pub mod table {
    /// One record: counters and clocks of the shard.
    pub const META: u8 = 0x01;
    /// Where a sweep of expired records goes on.
    pub const SWEEP: u8 = 0x02;
    /// One record: the upload epoch from which on request ids stand in `REQUEST_AT`.
    pub const INDEXED: u8 = 0x03;
    /// Dataset id to `DatasetRecord`.
    pub const DATASET: u8 = 0x10;
    /// Dropped datasets whose contents are being removed: dataset id to where the removal goes on.
    pub const PURGE: u8 = 0x11;
    /// Dataset and kind of a setting to `ConfigRecord`.
    pub const CONFIG: u8 = 0x12;
    /// Dataset to the lifecycle rules in force (`Lifecycle`).
    pub const RULES: u8 = 0x13;
    /// Dataset to `ArrivalRecord`.
    pub const ARRIVAL: u8 = 0x14;
    /// Fenced datasets: when each fence is due to be reverted.
    pub const FENCE: u8 = 0x15;
    /// Upload epoch, table and dataset: records that go then, and where their removal goes on.
    pub const DUE: u8 = 0x16;
    /// Dataset to `RestoreRecord`.
    pub const RESTORE: u8 = 0x17;
    /// Dataset and object key to the current version's head.
    pub const CURRENT: u8 = 0x20;
    /// Dataset, object key and inverted finished index to an older version's head: newest first.
    pub const OLDER: u8 = 0x21;
    /// Version, upload or part id to `VersionRecord`.
    pub const VERSION: u8 = 0x22;
    /// Version or part id to manifest, inline bytes and blocks (an `ObjectEntry` with only those).
    pub const BODY: u8 = 0x23;
    /// Dataset, object key and index at which it began to `UploadRecord`.
    pub const UPLOAD: u8 = 0x24;
    /// Version id, of an upload or an object, and part number to `PartRecord`.
    pub const PART: u8 = 0x25;
    /// Log index and id of a version or upload that is gone, whose parts are to be removed: its dataset, and the part
    /// number to go on with.
    pub const DOOMED: u8 = 0x26;
    /// Dataset and log index to `ChangeRecord`.
    pub const CHANGE: u8 = 0x30;
    /// Dataset and log index of a tombstone in the change index: the order in which they are dropped.
    pub const TOMBSTONE: u8 = 0x31;
    /// Dataset, object key and version id, none for a null version, to `KnownRecord`.
    pub const KNOWN: u8 = 0x32;
    /// Upload epoch and version id to `GarbageRecord`.
    pub const GARBAGE: u8 = 0x40;
    /// Version id to the epoch under which it stands in `GARBAGE`.
    pub const FREED: u8 = 0x41;
    /// Request id to `RequestRecord`; its epoch comes first, so expiry is one range.
    pub const REQUEST: u8 = 0x50;
    /// Dataset and log index to the request id that was answered there.
    pub const REQUEST_AT: u8 = 0x51;
    /// Dataset and request id to the `RequestRecord` of the region it came from.
    pub const CROSSED: u8 = 0x52;
    /// Dataset and lease id to `TokenRecord`.
    pub const TOKEN: u8 = 0x60;
    /// Dataset and lease id to the number of versions that need the token.
    pub const TOKEN_USE: u8 = 0x61;

    /// All of them.
    pub const ALL: [u8; 28] = [
        META, SWEEP, INDEXED, DATASET, PURGE, CONFIG, RULES, ARRIVAL, FENCE, DUE, RESTORE, CURRENT,
        OLDER, VERSION, BODY, UPLOAD, PART, DOOMED, CHANGE, TOMBSTONE, KNOWN, GARBAGE, FREED,
        REQUEST, REQUEST_AT, CROSSED, TOKEN, TOKEN_USE,
    ];
}

/// Tables of the catalog.
pub mod catalog_table {
    /// One record: clocks of the catalog.
    pub const META: u8 = 0x01;
    /// One record: region, jurisdiction, shards (`FoundRegion`).
    pub const REGION: u8 = 0x02;
    /// Dataset name to `CatalogRecord`.
    pub const NAME: u8 = 0x10;
    /// Dataset id to its name, while published.
    pub const PUBLISHED: u8 = 0x11;
    /// Dataset id to its shard (`u64`), from before it is admitted there, for ever.
    pub const PLACEMENT: u8 = 0x12;
    /// Node id to the identity it was allocated for.
    pub const NODE: u8 = 0x20;

    /// All of them.
    pub const ALL: [u8; 6] = [META, REGION, NAME, PUBLISHED, PLACEMENT, NODE];
}

/// The one record of a table that has one.
pub fn single(table: u8) -> [u8; 1] {
    [table]
}

/// `start..end` of all records of `table` whose key goes on with `prefix`.
pub fn range(table: u8, prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let start = join(table, &[prefix]);
    let end = end_of(&start);
    (start, end)
}

/// The first key beyond all that start with `prefix`, a key of ours.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    prefix_end(prefix).expect("tables are numbered below 0xFF, so every prefix has an end")
}

fn join(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(table);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Key of a setting of a dataset.
pub fn config(dataset: &DatasetId, kind: i32) -> Vec<u8> {
    join(table::CONFIG, &[dataset.as_bytes(), &kind.to_be_bytes()])
}

/// Key of a dataset's record in `table` ([`table::DATASET`], [`table::PURGE`], [`table::RULES`], [`table::ARRIVAL`],
/// [`table::FENCE`] or [`table::RESTORE`]).
pub fn dataset(table: u8, id: &DatasetId) -> Vec<u8> {
    join(table, &[id.as_bytes()])
}

/// Key of the head of the current version of an object.
pub fn current(dataset: &DatasetId, key: &str) -> Vec<u8> {
    let mut out = object_prefix(table::CURRENT, dataset, key);
    out.extend_from_slice(&TERMINATOR);
    out
}

/// Key of the head of an older version of an object.
pub fn older(dataset: &DatasetId, key: &str, finished: LogIndex) -> Vec<u8> {
    let mut out = older_prefix(dataset, key);
    out.extend_from_slice(&(!finished.0).to_be_bytes());
    out
}

/// What the keys of all older versions of one object start with.
pub fn older_prefix(dataset: &DatasetId, key: &str) -> Vec<u8> {
    let mut out = object_prefix(table::OLDER, dataset, key);
    out.extend_from_slice(&TERMINATOR);
    out
}

/// What the records of all objects whose keys start with `prefix` start with.
pub fn object_prefix(table: u8, dataset: &DatasetId, prefix: &str) -> Vec<u8> {
    let mut out = join(table, &[dataset.as_bytes()]);
    out.reserve(prefix.len() + TERMINATOR.len() + 8);
    for byte in prefix.bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(ESCAPED);
        }
    }
    out
}

/// The object key in a record's key after table and dataset, and what follows its terminator.
pub fn object_key(record_key: &[u8]) -> Option<(String, &[u8])> {
    let escaped = record_key.get(1 + DatasetId::BYTES..)?;
    let mut out = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter().enumerate();
    while let Some((_, &byte)) = bytes.next() {
        if byte != 0 {
            out.push(byte);
            continue;
        }
        match bytes.next()? {
            (_, &ESCAPED) => out.push(0),
            (at, &END) => return Some((String::from_utf8(out).ok()?, &escaped[at + 1..])),
            _ => return None,
        }
    }
    None
}

/// The finished index in the key of an older version.
pub fn older_index(record_key: &[u8]) -> Option<LogIndex> {
    let (_, rest) = object_key(record_key)?;
    Some(LogIndex(!u64::from_be_bytes(rest.try_into().ok()?)))
}

/// Key of an upload's record.
pub fn upload(dataset: &DatasetId, key: &str, begun: LogIndex) -> Vec<u8> {
    let mut out = object_prefix(table::UPLOAD, dataset, key);
    out.extend_from_slice(&TERMINATOR);
    out.extend_from_slice(&begun.0.to_be_bytes());
    out
}

/// Key of a part's record.
pub fn part(of: &ObjectVersionId, number: u32) -> Vec<u8> {
    join(table::PART, &[of.as_bytes(), &number.to_be_bytes()])
}

/// Part number in the key of a part's record.
pub fn part_number(record_key: &[u8]) -> Option<u32> {
    let number = record_key.get(1 + ObjectVersionId::BYTES..)?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

/// Key under which the parts of what was removed at a log index are due.
pub fn doomed(index: LogIndex, of: &ObjectVersionId) -> Vec<u8> {
    join(table::DOOMED, &[&index.0.to_be_bytes(), of.as_bytes()])
}

/// First key of what was removed at or after a log index.
pub fn doomed_start(index: LogIndex) -> Vec<u8> {
    join(table::DOOMED, &[&index.0.to_be_bytes()])
}

/// Log index and id in the key of what was removed.
pub fn doomed_parts(record_key: &[u8]) -> Option<(LogIndex, ObjectVersionId)> {
    let (index, id) = record_key.get(1..)?.split_at_checked(8)?;
    let index = LogIndex(u64::from_be_bytes(index.try_into().ok()?));
    Some((index, ObjectVersionId::try_from(id).ok()?))
}

/// Key of a version's record in `table` ([`table::VERSION`], [`table::BODY`] or [`table::FREED`]).
pub fn version(table: u8, id: &ObjectVersionId) -> Vec<u8> {
    join(table, &[id.as_bytes()])
}

/// Key in the change index ([`table::CHANGE`]), its order of tombstones ([`table::TOMBSTONE`]), or the index of request
/// ids ([`table::REQUEST_AT`]).
pub fn change(table: u8, dataset: &DatasetId, index: LogIndex) -> Vec<u8> {
    join(table, &[dataset.as_bytes(), &index.0.to_be_bytes()])
}

/// The log index in such a key.
pub fn change_index(record_key: &[u8]) -> Option<LogIndex> {
    let index = record_key.get(1 + DatasetId::BYTES..)?;
    Some(LogIndex(u64::from_be_bytes(index.try_into().ok()?)))
}

/// Key of what is known of a unit of the source: a version, or without one the key's null version.
pub fn known(dataset: &DatasetId, key: &str, version: Option<&ObjectVersionId>) -> Vec<u8> {
    let mut out = object_prefix(table::KNOWN, dataset, key);
    out.extend_from_slice(&TERMINATOR);
    out.extend(version.iter().flat_map(|id| id.as_bytes()));
    out
}

/// Key of what a request id did in the region that a dataset came from.
pub fn crossed(dataset: &DatasetId, id: &RequestId) -> Vec<u8> {
    join(table::CROSSED, &[dataset.as_bytes(), &id.to_bytes()])
}

/// Key of a dataset's records in `of` that go once the upload epoch is `epoch`.
pub fn due(epoch: UploadEpoch, of: u8, dataset: &DatasetId) -> Vec<u8> {
    join(
        table::DUE,
        &[&epoch.0.to_be_bytes(), &[of], dataset.as_bytes()],
    )
}

/// Epoch, table and dataset in such a key.
pub fn due_parts(record_key: &[u8]) -> Option<(UploadEpoch, u8, DatasetId)> {
    let (epoch, rest) = record_key.get(1..)?.split_at_checked(8)?;
    let (of, dataset) = rest.split_first()?;
    let epoch = UploadEpoch(u64::from_be_bytes(epoch.try_into().ok()?));
    Some((epoch, *of, DatasetId::try_from(dataset).ok()?))
}

/// Key of a garbage record.
pub fn garbage(epoch: UploadEpoch, id: &ObjectVersionId) -> Vec<u8> {
    join(table::GARBAGE, &[&epoch.0.to_be_bytes(), id.as_bytes()])
}

/// Epoch and version id in the key of a garbage record.
pub fn garbage_parts(record_key: &[u8]) -> Option<(UploadEpoch, ObjectVersionId)> {
    let (epoch, id) = record_key.get(1..)?.split_at_checked(8)?;
    let epoch = UploadEpoch(u64::from_be_bytes(epoch.try_into().ok()?));
    Some((epoch, ObjectVersionId::try_from(id).ok()?))
}

/// First key of `table` ([`table::GARBAGE`] or [`table::REQUEST`]) at or after `epoch`.
pub fn epoch_start(table: u8, epoch: UploadEpoch) -> Vec<u8> {
    join(table, &[&epoch.0.to_be_bytes()])
}

/// Key of what a request id did.
pub fn request(id: &RequestId) -> Vec<u8> {
    join(table::REQUEST, &[&id.to_bytes()])
}

/// Key of a lease's record in `table` ([`table::TOKEN`] or [`table::TOKEN_USE`]).
pub fn token(table: u8, dataset: &DatasetId, lease: &LeaseId) -> Vec<u8> {
    join(table, &[dataset.as_bytes(), lease.as_bytes()])
}

/// Key under which a sweep of `of` keeps where it goes on.
pub fn sweep(of: u8) -> [u8; 2] {
    [table::SWEEP, of]
}

/// Key of a published name.
pub fn name(name: &str) -> Vec<u8> {
    join(catalog_table::NAME, &[name.as_bytes()])
}

/// Key of a dataset's record in `table` of the catalog.
pub fn placed(table: u8, id: &DatasetId) -> Vec<u8> {
    join(table, &[id.as_bytes()])
}

/// Key of an allocated node id.
pub fn node(id: NodeId) -> Vec<u8> {
    join(catalog_table::NODE, &[&id.0.to_be_bytes()])
}

const ESCAPED: u8 = 0xFF;
const END: u8 = 0x01;
const TERMINATOR: [u8; 2] = [0, END];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATASET: DatasetId = DatasetId([0xD5; 16]);

    #[test]
    fn golden_bytes_of_keys() {
        let version_id = ObjectVersionId([0xAB; 16]);
        let hex = |key: &[u8]| hex::encode(key);
        let (d, v) = ("d5".repeat(16), "ab".repeat(16));
        assert_eq!(hex(&single(table::META)), "01");
        assert_eq!(hex(&sweep(table::REQUEST)), "0250");
        assert_eq!(hex(&dataset(table::DATASET, &DATASET)), format!("10{d}"));
        assert_eq!(hex(&config(&DATASET, 2)), format!("12{d}00000002"));
        assert_eq!(hex(&dataset(table::RULES, &DATASET)), format!("13{d}"));
        assert_eq!(hex(&dataset(table::RESTORE, &DATASET)), format!("17{d}"));
        assert_eq!(
            hex(&current(&DATASET, "a\0b")),
            format!("20{d}6100ff620001")
        );
        assert_eq!(
            hex(&older(&DATASET, "k", LogIndex(1))),
            format!("21{d}6b0001fffffffffffffffe")
        );
        assert_eq!(hex(&version(table::VERSION, &version_id)), format!("22{v}"));
        assert_eq!(hex(&version(table::BODY, &version_id)), format!("23{v}"));
        assert_eq!(
            hex(&upload(&DATASET, "k", LogIndex(258))),
            format!("24{d}6b00010000000000000102")
        );
        assert_eq!(hex(&part(&version_id, 10_000)), format!("25{v}00002710"));
        assert_eq!(part_number(&part(&version_id, 7)), Some(7));
        let gone = doomed(LogIndex(258), &version_id);
        assert_eq!(hex(&gone), format!("260000000000000102{v}"));
        assert_eq!(doomed_parts(&gone), Some((LogIndex(258), version_id)));
        assert_eq!(
            hex(&change(table::CHANGE, &DATASET, LogIndex(258))),
            format!("30{d}0000000000000102")
        );
        assert_eq!(
            change_index(&change(0x51, &DATASET, LogIndex(7))),
            Some(LogIndex(7))
        );
        assert_eq!(hex(&known(&DATASET, "k", None)), format!("32{d}6b0001"));
        assert_eq!(
            hex(&known(&DATASET, "k", Some(&version_id))),
            format!("32{d}6b0001{v}")
        );
        let later = due(UploadEpoch(3), table::KNOWN, &DATASET);
        assert_eq!(hex(&later), format!("16000000000000000332{d}"));
        assert_eq!(
            due_parts(&later),
            Some((UploadEpoch(3), table::KNOWN, DATASET))
        );
        assert_eq!(
            hex(&garbage(UploadEpoch(3), &version_id)),
            format!("400000000000000003{v}")
        );
        let id = RequestId {
            epoch: UploadEpoch(7),
            nonce: [9; 16],
        };
        assert_eq!(
            hex(&request(&id)),
            format!("500000000000000007{}", "09".repeat(16))
        );
        assert_eq!(
            hex(&crossed(&DATASET, &id)),
            format!("52{d}0000000000000007{}", "09".repeat(16))
        );
        assert_eq!(
            hex(&token(table::TOKEN, &DATASET, &LeaseId([0x1E; 16]))),
            format!("60{d}{}", "1e".repeat(16))
        );
        assert_eq!(hex(&name("cti")), "10637469");
        assert_eq!(hex(&node(NodeId(1007))), "2000000000000003ef");
    }

    #[test]
    fn a_damaged_record_key_is_no_key() {
        let mut key = current(&DATASET, "a\0b");
        assert!(object_key(&key[..key.len() - 1]).is_none());
        let at = key
            .iter()
            .position(|byte| *byte == ESCAPED)
            .expect("escaped above");
        key[at] = 7;
        assert!(object_key(&key).is_none());
        assert!(older_index(&current(&DATASET, "k")).is_none());
        assert!(garbage_parts(&[table::GARBAGE, 1, 2]).is_none());
    }

    fn any_key() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec!['\0', '\u{1}', 'a', 'b', '/', 'é']),
            1..6,
        )
        .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn byte_order_is_key_order(a in any_key(), b in any_key()) {
            prop_assert_eq!(current(&DATASET, &a).cmp(&current(&DATASET, &b)), a.cmp(&b));
        }

        #[test]
        fn object_keys_come_back(key in any_key(), index in 1u64..) {
            let stored = current(&DATASET, &key);
            prop_assert_eq!(object_key(&stored), Some((key.clone(), &b""[..])));
            let stored = older(&DATASET, &key, LogIndex(index));
            prop_assert_eq!(older_index(&stored), Some(LogIndex(index)));
        }

        #[test]
        fn a_prefix_covers_exactly_the_keys_that_start_with_it(prefix in any_key(), key in any_key()) {
            let start = object_prefix(table::CURRENT, &DATASET, &prefix);
            let end = end_of(&start);
            let stored = current(&DATASET, &key);
            prop_assert_eq!(start <= stored && stored < end, key.starts_with(&prefix));
        }
    }
}
