//! The state that verdicts look at, shared by all that are reached between two entries.
//!
//! Owns one view, of the newest state applied when it was asked for, and what was read in it. Refuses to answer with an
//! older one.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::LogIndex;
use proto::store::Reader;
use replica::host::Group;
use replica::state::StateError;

/// Values that a view keeps at hand. Verdicts look at the same few: the authority's, the key's, the witnesses'.
const KEPT_MAX: usize = 256;

/// A view that its users share. What was read in it is kept: it does not change.
pub(super) struct View {
    state: Box<dyn Reader + Send + Sync>,
    kept: Mutex<HashMap<Box<[u8]>, Option<Bytes>>>,
}

impl Reader for View {
    fn value(&self, key: &[u8]) -> Option<Bytes> {
        if let Some(kept) = self.kept.lock().get(key) {
            return kept.clone();
        }
        let value = self.state.value(key);
        let mut kept = self.kept.lock();
        if kept.len() < KEPT_MAX {
            kept.insert(key.into(), value.clone());
        }
        value
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.state.scan(start, end, visit);
    }
}

/// The newest view, as long as nothing was applied since.
#[derive(Default)]
pub(super) struct Views {
    held: Mutex<Option<(Option<LogIndex>, Arc<View>)>>,
}

impl Views {
    /// The state with everything in it that was applied here before the call.
    pub(super) fn of(&self, group: &Group) -> Result<Arc<View>, StateError> {
        // Asked before the view is made: what is applied between the two is in it, and it is made anew next time.
        let applied = group.applied();
        if let Some((at, view)) = &*self.held.lock()
            && *at == applied
        {
            return Ok(view.clone());
        }
        let view = Arc::new(View {
            state: group.reader()?,
            kept: Mutex::default(),
        });
        // Let go of outside of the lock: the last view of a state that was replaced removes its files.
        let former = self.held.lock().replace((applied, view.clone()));
        drop(former);
        Ok(view)
    }

    /// Lets go of it.
    pub(super) fn clear(&self) {
        let former = self.held.lock().take();
        drop(former);
    }
}
