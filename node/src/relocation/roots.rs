//! Catalog roots of datasets that are leaving, at hand before their fence: within it nobody can wait until all is read.
//!
//! Owns the sum of a dataset's versions with the view that it is of. Refuses to keep one that nobody asks for: a view keeps
//! the state's old files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_state::root::{Side, Sum, follow, root_of, sum_of};
use parking_lot::Mutex;
use proto::ids::{DatasetId, LogIndex};
use proto::relocation::CatalogRoot;
use replica::host::ReadError;
use replica::state::View;
use tokio::sync::OwnedMutexGuard;

use crate::error::CallError;

/// How long a sum is kept after it was last asked for.
const KEPT: Duration = Duration::from_secs(600);

/// The sums of this node's shards.
#[derive(Default)]
pub(crate) struct Roots(Mutex<BTreeMap<DatasetId, Slot>>);

type Slot = Arc<tokio::sync::Mutex<Held>>;

/// What is held of one dataset.
#[derive(Default)]
pub(super) struct Held(Option<Followed>);

struct Followed {
    sum: Sum,
    view: View,
    at: LogIndex,
    asked: Instant,
}

impl Roots {
    /// The place of one dataset. One at a time works in it.
    pub(super) fn slot(&self, dataset: &DatasetId) -> Slot {
        Arc::clone(self.0.lock().entry(*dataset).or_default())
    }

    /// Drops what nobody asked for in a while.
    pub(crate) fn prune(&self) {
        let asked_lately = |followed: &Followed| followed.asked.elapsed() < KEPT;
        self.0.lock().retain(|_, slot| match slot.try_lock() {
            Ok(held) => held.0.as_ref().is_some_and(asked_lately),
            // Somebody works in it.
            Err(_) => true,
        });
    }
}

/// The root of the dataset in this view, which is not older than the last one: what changed since is read, or all. Who asks
/// may give up meanwhile: the sum is finished, and at hand for whoever asks next.
pub(super) async fn root_at(
    mut held: OwnedMutexGuard<Held>,
    dataset: DatasetId,
    view: View,
    at: LogIndex,
) -> Result<Option<CatalogRoot>, CallError> {
    let reading = move || {
        let sum = summed(held.0.take(), &dataset, &view);
        let root = root_of(&*view.state, &dataset, &sum);
        let asked = Instant::now();
        held.0 = Some(Followed {
            sum,
            view,
            at,
            asked,
        });
        root
    };
    let read = tokio::task::spawn_blocking(reading).await;
    // Cancelled: the runtime is going down.
    read.map_err(|_| CallError::Read(ReadError::Stopped))
}

fn summed(before: Option<Followed>, dataset: &DatasetId, view: &View) -> Sum {
    if let Some(mut before) = before {
        let from = (&*before.view.state, before.at);
        if follow(&mut before.sum, dataset, from, &*view.state).is_ok() {
            return before.sum;
        }
        tracing::info!(%dataset, "removals were forgotten: the catalog is summed again");
    }
    sum_of(&*view.state, dataset, Side::Source)
}
