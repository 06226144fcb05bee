//! Claims about how a command finds what it has to forget.

use std::cell::RefCell;

use bytes::Bytes;
use kms_state::{USABLE_MS, apply, layout};
use proto::store::{MemoryStore, Reader, Writer};

use crate::lab::Lab;

/// A state that remembers where the queue of request ids was looked at from.
struct Watched {
    held: MemoryStore,
    starts: RefCell<Vec<Vec<u8>>>,
}

impl Reader for Watched {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.held.value(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if start.first() == Some(&layout::REQUEST_QUEUE) {
            self.starts.borrow_mut().push(start.to_vec());
        }
        self.held.scan(start, end, visit);
    }
}

impl Writer for Watched {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.held.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.held.delete(key);
    }
}

/// Goes red where each command passes over all that was forgotten before it: a replica that catches up is slower then
/// the further it has to go.
#[test]
fn a_queue_is_looked_at_from_behind_what_was_taken_from_it_last() {
    let mut lab = Lab::with_key();
    for request in 0..40 {
        let open = lab.open(request).expect("granted");
        lab.record(open);
        lab.wait(USABLE_MS / 8);
    }
    let mut replayed = Watched {
        held: MemoryStore::default(),
        starts: RefCell::default(),
    };
    let mut forgot = 0;
    for (index, bytes) in (1..).zip(&lab.log) {
        let head = replayed.value(layout::REQUEST_QUEUE_HEAD);
        let at = lab.at_index(index);
        apply(at, bytes, &mut replayed).expect("known");
        for start in replayed.starts.take() {
            assert!(head.as_ref().is_none_or(|head| start[..] > head[..]));
        }
        forgot += usize::from(replayed.value(layout::REQUEST_QUEUE_HEAD) != head);
    }
    assert!(forgot > 10, "{forgot} commands forgot something");
    assert_eq!(replayed.held, lab.state);
}
