//! What all copies of a dataset that arrives come to, at hand before the source is fenced: within a fence nobody can wait
//! until all is read.
//!
//! Owns the sum of a dataset's copies with the view that it is of, and the keys of every batch that this leader has proposed
//! since. An arrival leaves no changes behind that could be followed. Refuses to go by a sum of another term, in which
//! another leader may have proposed, and to forget a batch whose outcome is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node_state::read;
use node_state::root::{Side, Sum, follow_keys, root_of, sum_of};
use parking_lot::Mutex;
use proto::ids::{DatasetId, LogIndex, Term};
use proto::relocation::Named;
use replica::host::ReadError;
use replica::state::View;

use crate::core::Core;
use crate::error::CallError;
use crate::groups::Shard;

/// How long a sum is kept after it was last asked for.
const KEPT: Duration = Duration::from_secs(600);
/// Keys that are remembered between two counts: more, and all is read.
const KEYS_MAX: usize = 100_000;
/// Batches whose outcome nobody knows: more, and all is read each time.
const OPEN_MAX: usize = 256;

/// Copies of every dataset that arrives in a shard of this node.
#[derive(Default)]
pub(crate) struct Copies(Mutex<BTreeMap<DatasetId, Arc<Place>>>);

#[derive(Default)]
struct Place {
    summed: Arc<tokio::sync::Mutex<Option<Summed>>>,
    touched: Mutex<Touched>,
}

struct Summed {
    sum: Sum,
    view: View,
    term: Term,
    asked: Instant,
}

/// Keys of batches.
#[derive(Default)]
struct Touched {
    /// Of those that are applied, or never will be.
    settled: BTreeSet<String>,
    /// Of those that may be applied yet.
    open: BTreeMap<u64, Vec<String>>,
    next: u64,
    /// Not all keys are here.
    lost: bool,
    /// Nor will they ever be.
    doubtful: bool,
}

/// A batch that is about to be proposed.
pub(super) struct Touching {
    place: Arc<Place>,
    number: u64,
}

/// What all copies come to.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) root: Bytes,
    pub(super) total: u64,
    pub(super) at: LogIndex,
}

impl Copies {
    fn place(&self, dataset: &DatasetId) -> Arc<Place> {
        Arc::clone(self.0.lock().entry(*dataset).or_default())
    }

    /// Notes a batch before it is proposed.
    pub(super) fn touching(&self, dataset: &DatasetId, keys: Vec<String>) -> Touching {
        let place = self.place(dataset);
        let number = place.touched.lock().begin(keys);
        Touching { place, number }
    }

    /// Drops what nobody asked for in a while.
    pub(crate) fn prune(&self) {
        self.0.lock().retain(|_, place| {
            let Ok(mut summed) = place.summed.try_lock() else {
                // Somebody counts.
                return true;
            };
            if summed
                .as_ref()
                .is_some_and(|held| held.asked.elapsed() < KEPT)
            {
                return true;
            }
            *summed = None;
            let mut touched = place.touched.lock();
            touched.settled.clear();
            touched.lost = true;
            touched.doubtful || !touched.open.is_empty()
        });
    }
}

impl Touched {
    fn begin(&mut self, keys: Vec<String>) -> u64 {
        self.next += 1;
        self.open.insert(self.next, keys);
        if self.open.len() > OPEN_MAX {
            self.open.clear();
            self.doubtful = true;
        }
        self.next
    }

    fn settle(&mut self, number: u64) {
        self.settled
            .extend(self.open.remove(&number).unwrap_or_default());
        if self.settled.len() > KEYS_MAX {
            self.settled.clear();
            self.lost = true;
        }
    }

    /// Keys that may have changed since this was last asked; `None` where that is not known.
    fn take(&mut self) -> Option<BTreeSet<String>> {
        let mut keys = std::mem::take(&mut self.settled);
        keys.extend(self.open.values().flatten().cloned());
        let lost = std::mem::take(&mut self.lost) || self.doubtful;
        (!lost).then_some(keys)
    }

    /// What was taken, and did not come to a count.
    fn put_back(&mut self, taken: Option<BTreeSet<String>>) {
        match taken {
            Some(keys) => self.settled.extend(keys),
            None => self.lost = true,
        }
    }
}

impl Touching {
    /// It is known whether the batch was applied.
    pub(super) fn settled(self) {
        self.place.touched.lock().settle(self.number);
    }
}

/// Keys that were told for a count: told again where it does not come to it.
struct Taken {
    place: Arc<Place>,
    keys: Option<Option<BTreeSet<String>>>,
}

impl Taken {
    fn of(place: Arc<Place>) -> Self {
        let keys = Some(place.touched.lock().take());
        Self { place, keys }
    }

    fn counted(mut self) -> Option<BTreeSet<String>> {
        self.keys.take().flatten()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(keys) = self.keys.take() {
            self.place.touched.lock().put_back(keys);
        }
    }
}

impl Core {
    /// Root and number of all copies, at the leader. Who asks may give up meanwhile: the count is finished, and at hand for
    /// whoever asks next.
    pub(super) async fn counted(&self, shard: &Shard, named: &Named) -> Result<Counted, CallError> {
        let dataset = named.dataset;
        let place = self.copies.place(&dataset);
        let mut held = Arc::clone(&place.summed).lock_owned().await;
        // Before the view: a batch that is known to be applied is in it.
        let taken = Taken::of(place);
        let (view, at) = self.read(&shard.group).await?;
        let term = shard.group.status().term;
        let counting = move || {
            let before = held.take().filter(|before| before.term == term);
            let sum = summed(before, taken.counted(), &dataset, &view);
            let root = root_of(&*view.state, &dataset, &sum)?;
            let counted = Counted {
                root: Bytes::copy_from_slice(&root.0),
                total: read::dataset(&*view.state, &dataset)?.versions,
                at,
            };
            let asked = Instant::now();
            *held = Some(Summed {
                sum,
                view,
                term,
                asked,
            });
            Some(counted)
        };
        let counted = tokio::task::spawn_blocking(counting).await;
        // Cancelled: the runtime is going down.
        let stopped = |_| CallError::Read(ReadError::Stopped);
        counted.map_err(stopped)?.ok_or(CallError::NoSuchDataset)
    }
}

fn summed(
    before: Option<Summed>,
    touched: Option<BTreeSet<String>>,
    dataset: &DatasetId,
    view: &View,
) -> Sum {
    let (Some(before), Some(keys)) = (before, touched) else {
        return sum_of(&*view.state, dataset, Side::Destination);
    };
    let mut sum = before.sum;
    let states = (&*before.view.state, &*view.state);
    follow_keys(&mut sum, dataset, Side::Destination, states, &keys);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &[&str]) -> Vec<String> {
        of.iter().map(|key| (*key).to_owned()).collect()
    }

    /// Forgotten with the count before it, it would be missing from every one after.
    #[test]
    fn a_batch_is_told_until_it_is_known_what_became_of_it() {
        let mut touched = Touched::default();
        let first = touched.begin(keys(&["a"]));
        let second = touched.begin(keys(&["b", "c"]));
        touched.settle(second);
        let told = |touched: &mut Touched| {
            let keys = touched.take()?;
            Some(keys.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(told(&mut touched), Some(keys(&["a", "b", "c"])));
        assert_eq!(told(&mut touched), Some(keys(&["a"])));
        touched.settle(first);
        assert_eq!(told(&mut touched), Some(keys(&["a"])));
        assert_eq!(told(&mut touched), Some(keys(&[])));
    }

    #[test]
    fn who_asks_for_a_count_and_gives_up_takes_no_keys_along() {
        let place = Arc::new(Place::default());
        let touch = |key: &str| {
            let number = place.touched.lock().begin(keys(&[key]));
            place.touched.lock().settle(number);
        };
        let told = || Taken::of(Arc::clone(&place)).counted();
        assert_eq!(told(), Some(BTreeSet::new()));
        touch("a");
        let given_up = Taken::of(Arc::clone(&place));
        touch("b");
        drop(given_up);
        assert_eq!(told(), Some(keys(&["a", "b"]).into_iter().collect()));
        place.touched.lock().lost = true;
        drop(Taken::of(Arc::clone(&place)));
        assert_eq!(told(), None);
    }

    #[test]
    fn where_not_all_keys_are_known_all_is_read() {
        let mut touched = Touched::default();
        let many = (0..=KEYS_MAX).map(|n| n.to_string()).collect();
        let number = touched.begin(many);
        touched.settle(number);
        assert_eq!(touched.take(), None);
        assert_eq!(touched.take(), Some(BTreeSet::new()), "the next time it is");
        for _ in 0..=OPEN_MAX {
            touched.begin(keys(&["a"]));
        }
        assert_eq!(touched.take(), None);
        assert_eq!(
            touched.take(),
            None,
            "what may still be applied is not known"
        );
    }
}
