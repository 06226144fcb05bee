//! A state as it is stored: written out, read back, and taken up again.
//!
//! Owns the form in which the pure runs carry a state across a restart. Refuses to share memory with the state it
//! was made from.

use proto::store::{MemoryStore, Writer};

/// Writes a state out and reads it back.
pub(crate) fn reloaded(store: &MemoryStore) -> MemoryStore {
    let mut rows = Vec::new();
    for (key, value) in store.iter() {
        rows.push((key.to_vec(), value.to_vec()));
    }
    let mut read = MemoryStore::default();
    for (key, value) in &rows {
        read.put(key, value);
    }
    read
}
