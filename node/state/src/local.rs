//! What a replica keeps for itself beside the state: which referenced blocks it has not got.
//!
//! Owns the layout of the `local` tables and who writes them: apply adds a fresh reference and drops what a freed
//! version left; the block store turns fresh ones into held or missing. A replica holds everything up to a log index
//! when neither table has anything up to it. Refuses to know about files.

use proto::ids::{LogIndex, ObjectVersionId};
use proto::store::{Reader, Writer};
use proto::v1;

use crate::keys::{self, table};
use crate::record;

/// Newly referenced versions, by log index, that nobody compared with the disk yet: `01 index version` to nothing.
pub const FRESH: u8 = 0x01;
/// Blocks that are referenced and not held: `02 version number` to the log index that referenced them.
pub const MISSING: u8 = 0x02;

/// Key of a fresh reference.
pub fn fresh(index: LogIndex, id: &ObjectVersionId) -> Vec<u8> {
    let mut out = fresh_start(index);
    out.extend_from_slice(id.as_bytes());
    out
}

/// First key of fresh references at or after `index`.
pub fn fresh_start(index: LogIndex) -> Vec<u8> {
    let mut out = vec![FRESH];
    out.extend_from_slice(&index.0.to_be_bytes());
    out
}

/// Log index and version in the key of a fresh reference.
pub fn fresh_parts(key: &[u8]) -> Option<(LogIndex, ObjectVersionId)> {
    let (index, id) = key.strip_prefix(&[FRESH])?.split_at_checked(8)?;
    let index = LogIndex(u64::from_be_bytes(index.try_into().ok()?));
    Some((index, ObjectVersionId::try_from(id).ok()?))
}

/// Key of a missing block.
pub fn missing(id: &ObjectVersionId, number: u32) -> Vec<u8> {
    let mut out = missing_prefix(id);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// What the keys of all missing blocks of one version start with.
pub fn missing_prefix(id: &ObjectVersionId) -> Vec<u8> {
    let mut out = vec![MISSING];
    out.extend_from_slice(id.as_bytes());
    out
}

/// Version and block number in the key of a missing block.
pub fn missing_parts(key: &[u8]) -> Option<(ObjectVersionId, u32)> {
    let (id, number) = key
        .strip_prefix(&[MISSING])?
        .split_at_checked(ObjectVersionId::BYTES)?;
    Some((
        ObjectVersionId::try_from(id).ok()?,
        u32::from_be_bytes(number.try_into().ok()?),
    ))
}

/// Takes a version's references back: nothing of it needs to be held any more.
pub(crate) fn forget(local: &mut dyn Writer, index: LogIndex, id: &ObjectVersionId) {
    local.delete(&fresh(index, id));
    for key in keys_with_prefix(&*local, &missing_prefix(id)) {
        local.delete(&key);
    }
}

/// After a snapshot replaced the state: every version with blocks is fresh again, and what was known to be missing
/// is found out anew. Writes one small key a version with blocks.
pub fn reset(through: LogIndex, state: &dyn Reader, local: &mut dyn Writer) {
    for prefix in [FRESH, MISSING] {
        for key in keys_with_prefix(&*local, &[prefix]) {
            local.delete(&key);
        }
    }
    let (start, end) = keys::range(table::VERSION, &[]);
    state.scan(&start, &end, &mut |key, value| {
        let at: v1::VersionRecord = record::decode(value);
        if at.blocks > 0 {
            let id = ObjectVersionId::try_from(&key[1..]).expect("the key was written by us");
            local.put(&fresh(LogIndex(at.finished_index.min(through.0)), &id), &[]);
        }
        true
    });
}

/// Whether every block referenced up to `index` has been found on this replica's disk.
pub fn complete_through(index: LogIndex, local: &dyn Reader) -> bool {
    count_missing_through(index, local, 1) == 0
}

/// How many references up to `index` are unresolved or missing: fresh ones count one a version. Stops at `limit`.
pub fn count_missing_through(index: LogIndex, local: &dyn Reader, limit: u64) -> u64 {
    let mut count = 0;
    let end = fresh_start(LogIndex(index.0.saturating_add(1)));
    local.scan(&[FRESH], &end, &mut |_, _| {
        count += 1;
        count < limit
    });
    if count < limit {
        local.scan(&[MISSING], &[MISSING + 1], &mut |_, value| {
            let since = value.try_into().map(u64::from_be_bytes);
            // A value of another length is a record of a later build: counting it errs on the safe side.
            if since.is_ok_and(|since| since > index.0) {
                return true;
            }
            count += 1;
            count < limit
        });
    }
    count
}

fn keys_with_prefix(reader: &(impl Reader + ?Sized), prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    reader.scan(prefix, &keys::end_of(prefix), &mut |key, _| {
        found.push(key.to_vec());
        true
    });
    found
}

#[cfg(test)]
mod tests {
    use proto::store::MemoryStore;

    use super::*;

    const VERSION: ObjectVersionId = ObjectVersionId([7; 16]);

    #[test]
    fn a_replica_is_complete_up_to_the_first_unresolved_reference() {
        let mut local = MemoryStore::default();
        assert!(complete_through(LogIndex(u64::MAX), &local));
        local.put(&fresh(LogIndex(5), &VERSION), &[]);
        assert!(complete_through(LogIndex(4), &local));
        assert!(!complete_through(LogIndex(5), &local));
        local.delete(&fresh(LogIndex(5), &VERSION));
        local.put(&missing(&VERSION, 3), &5u64.to_be_bytes());
        assert!(complete_through(LogIndex(4), &local));
        assert_eq!(count_missing_through(LogIndex(9), &local, 100), 1);
        forget(&mut local, LogIndex(5), &VERSION);
        assert_eq!(local, MemoryStore::default());
    }

    #[test]
    fn golden_bytes_of_local_keys() {
        let id = "07".repeat(16);
        assert_eq!(
            hex::encode(fresh(LogIndex(2), &VERSION)),
            format!("010000000000000002{id}")
        );
        assert_eq!(hex::encode(missing(&VERSION, 9)), format!("02{id}00000009"));
        assert_eq!(
            fresh_parts(&fresh(LogIndex(2), &VERSION)),
            Some((LogIndex(2), VERSION))
        );
        assert_eq!(missing_parts(&missing(&VERSION, 9)), Some((VERSION, 9)));
        assert_eq!(fresh_parts(&missing(&VERSION, 9)), None);
    }
}
