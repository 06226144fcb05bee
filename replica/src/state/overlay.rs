//! A batch in the making: writes laid over one consistent state, which reads see.
//!
//! Owns the merge of the two. Refuses nothing; what is wrong with a batch is found at commit.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::store::{Reader, Writer};

use super::View;

/// Writes that take effect together, over the state they were made on.
pub struct Batch {
    state: Overlay,
    local: Overlay,
    /// Commits before this batch began: it is lost if another comes between.
    pub(super) token: u64,
}

impl Batch {
    pub(super) fn new(view: View, token: u64) -> Self {
        Self {
            state: Overlay::new(view.state),
            local: Overlay::new(view.local),
            token,
        }
    }

    /// The replicated keys.
    pub fn state(&mut self) -> &mut dyn Writer {
        &mut self.state
    }

    /// This replica's own keys.
    pub fn local(&mut self) -> &mut dyn Writer {
        &mut self.local
    }

    /// Both at once: replicated keys first.
    pub fn split(&mut self) -> (&mut dyn Writer, &mut dyn Writer) {
        (&mut self.state, &mut self.local)
    }

    /// Bytes of keys and values written.
    pub fn bytes(&self) -> u64 {
        self.state.bytes() + self.local.bytes()
    }

    /// The writes: replicated, then own.
    pub(super) fn into_writes(self) -> (Writes, Writes) {
        (self.state.writes, self.local.writes)
    }
}

/// What to put (`Some`) or delete (`None`), by key.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// Writes over a base.
pub(super) struct Overlay {
    base: Box<dyn Reader + Send + Sync>,
    pub(super) writes: Writes,
}

impl Overlay {
    pub(super) fn new(base: Box<dyn Reader + Send + Sync>) -> Self {
        Self {
            base,
            writes: Writes::new(),
        }
    }

    fn bytes(&self) -> u64 {
        let value = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        self.writes
            .iter()
            .map(|(key, written)| (key.len() + value(written)) as u64)
            .sum()
    }
}

impl Reader for Overlay {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        match self.writes.get(key) {
            Some(written) => written.clone(),
            None => self.base.value(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if start >= end {
            return;
        }
        let mut written = self.writes.range(start.to_vec()..end.to_vec()).peekable();
        let mut going = true;
        self.base.scan(start, end, &mut |key, value| {
            while let Some((over, new)) = written.next_if(|(over, _)| over.as_slice() < key) {
                if let Some(new) = new {
                    going = visit(over, new);
                    if !going {
                        return false;
                    }
                }
            }
            going = match written.next_if(|(over, _)| over.as_slice() == key) {
                Some((_, Some(new))) => visit(key, new),
                Some((_, None)) => true,
                None => visit(key, value),
            };
            going
        });
        for (over, new) in written {
            if !going {
                return;
            }
            if let Some(new) = new {
                going = visit(over, new);
            }
        }
    }
}

impl Writer for Overlay {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.writes
            .insert(key.to_vec(), Some(Bytes::copy_from_slice(value)));
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.insert(key.to_vec(), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::store::MemoryStore;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..4, 0..3)
    }

    proptest! {
        #[test]
        fn an_overlay_reads_like_a_store_that_was_written(
            base in proptest::collection::vec((key(), any::<u8>()), 0..12),
            over in proptest::collection::vec((key(), proptest::option::of(any::<u8>())), 0..12),
            start in key(), end in key(), limit in 0usize..8,
        ) {
            let mut expected = MemoryStore::default();
            for (key, value) in &base {
                expected.put(key, &[*value]);
            }
            let mut overlay = Overlay::new(Box::new(expected.clone()));
            for (key, value) in &over {
                match value {
                    Some(value) => {
                        expected.put(key, &[*value]);
                        overlay.put(key, &[*value]);
                    }
                    None => {
                        expected.delete(key);
                        overlay.delete(key);
                    }
                }
            }
            let seen = |reader: &dyn Reader| {
                let mut seen = Vec::new();
                reader.scan(&start, &end, &mut |key, value| {
                    seen.push((key.to_vec(), value.to_vec()));
                    seen.len() <= limit
                });
                seen
            };
            prop_assert_eq!(seen(&overlay), seen(&expected));
            for (key, _) in &over {
                prop_assert_eq!(overlay.value(key), expected.value(key));
            }
        }
    }
}
