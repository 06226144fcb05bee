//! Erasing: what was replaced in the state leaves this member's files.
//!
//! Owns the order: the state is flushed, the log goes on in a new segment with nothing older held, its old segments are
//! zeroed, then the state's files are written anew. Refuses to say it is done while anything may hold what was replaced:
//! it does what can be done at once, and is called again for the rest.

use std::sync::Arc;
use std::time::Duration;

use proto::ids::LogIndex;

use super::group::Group;
use crate::blocking::away;
use crate::log::LogError;
use crate::state::{KeyRange, StateError};

/// How long the log's old segments are waited for in one call.
const TURN_OVER_MAX: Duration = Duration::from_secs(10);

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// Call again: this goes on by itself.
    #[error("not yet: {0}")]
    NotYet(&'static str),
    /// The log could not go on in a new segment.
    #[error("the log could not be turned over")]
    Log(#[source] Arc<LogError>),
    /// The state could not be written anew.
    #[error("the state could not be written anew")]
    State(#[source] StateError),
    /// The group has stopped here.
    #[error("the group has stopped here")]
    Stopped,
}

impl Group {
    /// Has neither log nor state nor a snapshot of this member's keep, in a file, an entry up to `through`, or a value
    /// of the replicated keys in `ranges` that was replaced or deleted by one. The process's log has to zero what it
    /// retires ([`crate::log::Retired::Zero`]), and the values to be too short for files of their own. Peers that are
    /// behind `through` get a snapshot.
    pub async fn erase_replaced(
        &self,
        through: LogIndex,
        ranges: &[KeyRange],
    ) -> Result<(), EraseError> {
        let core = &self.inner.core;
        let shared = core.shared.clone();
        if shared.applied_index() < Some(through) {
            return Err(EraseError::NotYet("the log is still being applied"));
        }
        let held = core.log.first().is_some_and(|first| first <= through);
        if held || shared.store.flushed() < Some(through) {
            let stopped = |_| EraseError::Stopped;
            let trigger = core.raft.trigger();
            trigger.snapshot().await.map_err(stopped)?;
            if let Some(flushed) = shared.store.flushed() {
                trigger.purge_log(flushed.0).await.map_err(stopped)?;
            }
            return Err(EraseError::NotYet("the log is being shortened"));
        }
        if !shared.snapshots.is_empty().map_err(file)? {
            return Err(EraseError::NotYet("a snapshot is on its way"));
        }
        let log = core.log.whole().clone();
        let turned = away(move || log.turn_over().map(|()| log.turned_over(TURN_OVER_MAX)));
        let turned = turned.await.map_err(|_| EraseError::Stopped)?;
        if !turned.map_err(EraseError::Log)? {
            return Err(EraseError::NotYet(
                "the log's old segments are being zeroed",
            ));
        }
        let ranges = ranges.to_vec();
        let erased = away(move || shared.store.erase_replaced(through, &ranges));
        let erased = erased.await.map_err(|_| EraseError::Stopped)?;
        match erased.map_err(EraseError::State)? {
            true => Ok(()),
            false => Err(EraseError::NotYet("somebody reads an older state")),
        }
    }
}

fn file(source: std::io::Error) -> EraseError {
    EraseError::State(StateError::File {
        doing: "list the snapshots",
        source,
    })
}
