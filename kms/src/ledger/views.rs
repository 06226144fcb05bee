//! The state that verdicts look at, shared by all that are reached between two entries.
//!
//! Owns one view, of the newest state applied when it was asked for. Refuses to answer with an older one.

use std::sync::Arc;

use parking_lot::Mutex;
use proto::ids::LogIndex;
use proto::store::Reader;
use replica::host::Group;
use replica::state::StateError;

/// A view that its users share.
type Shared = Arc<Box<dyn Reader + Send + Sync>>;

/// The newest view, as long as nothing was applied since.
#[derive(Default)]
pub(super) struct Views {
    held: Mutex<Option<(Option<LogIndex>, Shared)>>,
}

impl Views {
    /// The state with everything in it that was applied here before the call.
    pub(super) fn of(&self, group: &Group) -> Result<Shared, StateError> {
        // Asked before the view is made: what is applied between the two is in it, and it is made anew next time.
        let applied = group.applied();
        if let Some((at, view)) = &*self.held.lock()
            && *at == applied
        {
            return Ok(view.clone());
        }
        let view = Shared::new(group.reader()?);
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
