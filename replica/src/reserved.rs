//! Keys of the replicated state that belong to this crate: the feature level and who ever was a member.
//!
//! Owns the prefix `FF FF`, so that they are digested and travel in snapshots like everything else. Refuses the
//! prefix to machines: a write there aborts, because it would change what the group believes about itself; reads
//! and scans do not see it.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use proto::ids::{FeatureLevel, NodeId};
use proto::store::{Reader, Writer, prefix_end};

/// First bytes of every reserved key.
const PREFIX: &[u8] = b"\xff\xff";
/// The feature level in force, `u32` big-endian.
pub(crate) const LEVEL: &[u8] = b"\xff\xfflevel";
/// Followed by a node id, `u64` big-endian: it was a member once.
const MEMBER: &[u8] = b"\xff\xffmember/";

/// The key that remembers `node`.
pub(crate) fn member_key(node: NodeId) -> Vec<u8> {
    [MEMBER, &node.0.to_be_bytes()].concat()
}

/// The feature level in force; 0 before the first raise.
pub(crate) fn level(state: &dyn Reader) -> io::Result<FeatureLevel> {
    let Some(value) = state.value(LEVEL) else {
        return Ok(FeatureLevel(0));
    };
    let bytes: [u8; 4] = value
        .as_ref()
        .try_into()
        .map_err(|_| damaged("feature level"))?;
    Ok(FeatureLevel(u32::from_be_bytes(bytes)))
}

/// Every id that ever was a member.
pub(crate) fn members(state: &dyn Reader) -> io::Result<BTreeSet<NodeId>> {
    let end = prefix_end(MEMBER).expect("the prefix does not end in 0xFF");
    let (mut found, mut whole) = (BTreeSet::new(), true);
    state.scan(MEMBER, &end, &mut |key, _| {
        match key[MEMBER.len()..].try_into() {
            Ok(id) => found.insert(NodeId(u64::from_be_bytes(id))),
            Err(_) => {
                whole = false;
                false
            }
        };
        whole
    });
    if whole {
        Ok(found)
    } else {
        Err(damaged("member record"))
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the {what} of the state is damaged"),
    )
}

/// Reads that do not see reserved keys.
pub(crate) struct GuardedReader<R>(pub(crate) R);

impl Reader for GuardedReader<Box<dyn Reader + Send + Sync>> {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        if key.starts_with(PREFIX) {
            None
        } else {
            self.0.value(key)
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(start, end.min(PREFIX), visit);
    }
}

impl Reader for GuardedReader<&dyn Reader> {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        if key.starts_with(PREFIX) {
            None
        } else {
            self.0.value(key)
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(start, end.min(PREFIX), visit);
    }
}

/// Writes that may not touch reserved keys.
pub(crate) struct GuardedWriter<'a>(pub(crate) &'a mut dyn Writer);

impl Reader for GuardedWriter<'_> {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        if key.starts_with(PREFIX) {
            None
        } else {
            self.0.value(key)
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.0.scan(start, end.min(PREFIX), visit);
    }
}

impl Writer for GuardedWriter<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        assert!(!key.starts_with(PREFIX), "a machine wrote a reserved key");
        self.0.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        assert!(!key.starts_with(PREFIX), "a machine deleted a reserved key");
        self.0.delete(key);
    }
}

#[cfg(test)]
mod tests {
    use proto::store::MemoryStore;

    use super::*;

    #[test]
    fn a_machine_neither_sees_nor_scans_reserved_keys() {
        let mut store = MemoryStore::default();
        store.put(LEVEL, &3u32.to_be_bytes());
        store.put(&member_key(NodeId(9)), &[]);
        store.put(b"\xfemine", b"v");
        assert_eq!(level(&store).expect("written above"), FeatureLevel(3));
        assert_eq!(
            members(&store).expect("written above"),
            BTreeSet::from([NodeId(9)])
        );
        let guarded = GuardedWriter(&mut store);
        assert_eq!(guarded.value(LEVEL), None);
        let mut seen = Vec::new();
        guarded.scan(b"", b"\xff\xff\xff", &mut |key, _| {
            seen.push(key.to_vec());
            true
        });
        assert_eq!(seen, [b"\xfemine".to_vec()]);
    }

    #[test]
    #[should_panic(expected = "reserved key")]
    fn a_machine_that_writes_a_reserved_key_aborts() {
        let mut store = MemoryStore::default();
        GuardedWriter(&mut store).put(b"\xff\xffx", b"");
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let mut store = MemoryStore::default();
        store.put(LEVEL, b"x");
        assert!(level(&store).is_err());
        store.put(b"\xff\xffmember/short", b"");
        assert!(members(&store).is_err());
    }
}
