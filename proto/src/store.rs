//! The ordered key-value view that pure state machines read and write.
//!
//! Owns no storage: `replica` gives a RocksDB one and, for simulation, a twin that loses what was not flushed.
//! Iteration is in byte order of the keys, so that every replica sees the same sequence.

use bytes::Bytes;

/// Reads of one consistent state.
pub trait Reader {
    /// The value at `key`, if any. Sees writes made earlier in the same batch.
    fn value(&self, key: &[u8]) -> Option<Bytes>;

    /// Visits keys in `start..end` in ascending order until `visit` answers `false` or the range ends.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool);
}

/// Writes that become durable together with the log index that caused them.
pub trait Writer: Reader {
    /// Sets `key` to `value`.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Removes `key`; removing what is not there is no error.
    fn delete(&mut self, key: &[u8]);
}

/// The first key after every key that starts with `prefix`, or `None` when there is none (all 0xFF).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// An in-memory state, for tests and for checks that replay a log.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct MemoryStore {
    entries: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    /// Every key and value in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries
            .iter()
            .map(|(k, v)| (k.as_slice(), v.as_slice()))
    }
}

impl Reader for MemoryStore {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.entries.get(key).map(|v| Bytes::copy_from_slice(v))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if start >= end {
            return;
        }
        for (key, value) in self.entries.range(start.to_vec()..end.to_vec()) {
            if !visit(key, value) {
                return;
            }
        }
    }
}

impl Writer for MemoryStore {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.entries.insert(key.to_vec(), value.to_vec());
    }

    fn delete(&mut self, key: &[u8]) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_the_first_key_beyond() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xFF, 0xFF]), None);
    }
}
