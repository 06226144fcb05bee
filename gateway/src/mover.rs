//! Moves datasets into this region: which relocations this gateway works on, and that no other one does.
//!
//! Every gateway of a region looks for arrivals and claims those that nobody moves. Owns claims and their number. Refuses to
//! remember anything: where a relocation is, its record says, so that whoever claims it next goes on from there. What a
//! mover may do is decided by the shards of both regions; a second one at work does no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::Region;
use client::relocation::Mover;
use proto::v1;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transport::fault::Chain;

mod backoff;
mod decide;
mod fence;
mod shared;
mod throttle;
mod work;

use backoff::Backoff;
use shared::Shared;
use work::{Left, Work};

/// Relocations that one gateway moves at once, besides those for which clients wait.
const MOVES_MAX: usize = 4;
/// Between two looks for arrivals.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How long a claim lasts by the shard's time.
const CLAIM_MS: u32 = 30_000;
/// How often it is renewed: two tries may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long giving a claim up may take.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);
/// Before a relocation that could not be begun is tried again, and at most.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Looks for arrivals and moves them, until `stop`.
pub(crate) async fn run(region: Region, stop: CancellationToken) {
    let own = region.identity().to_string();
    let mut at_work = AtWork::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => {}
            () = stop.cancelled() => break,
        }
        at_work.ended();
        let found = tokio::select! {
            found = Mover::arrivals(&region) => found,
            () = stop.cancelled() => break,
        };
        match found {
            Ok(arrivals) => at_work.begin(&region, &own, arrivals, &stop),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "arrivals were not listed");
            }
        }
    }
    at_work.all_ended().await;
}

/// What this gateway moves, and what it tried to.
#[derive(Default)]
struct AtWork {
    moves: JoinSet<Outcome>,
    moving: HashMap<tokio::task::Id, Bytes>,
    /// Relocations that could not be begun, with when to try them again. Those that are listed no more are forgotten.
    tried: HashMap<Bytes, (Backoff, Instant)>,
    /// Others want to be moved and find no place: who only waits gives way.
    crowded: Arc<AtomicBool>,
}

/// How a relocation was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was claimed: it is over, another gateway's, or this one stops.
    Worked,
    /// It was not claimed, its task failed, or it waits for others and gave way.
    NotBegun,
}

impl AtWork {
    /// Takes note of those that were left.
    fn ended(&mut self) {
        while let Some(left) = self.moves.try_join_next_with_id() {
            let (task, outcome) = match left {
                Ok(left) => left,
                // It is tried again, later each time.
                Err(error) => {
                    tracing::error!(%error, "a mover ended");
                    (error.id(), Outcome::NotBegun)
                }
            };
            if let Some(relocation) = self.moving.remove(&task) {
                self.left(relocation, outcome);
            }
        }
        metrics::gauge!("reduit_mover_moves").set(self.moves.len() as f64);
    }

    fn left(&mut self, relocation: Bytes, outcome: Outcome) {
        if outcome == Outcome::Worked {
            self.tried.remove(&relocation);
            return;
        }
        let fresh = || (Backoff::new(TRY_AGAIN), Instant::now());
        let (backoff, again_at) = self.tried.entry(relocation).or_insert_with(fresh);
        *again_at = Instant::now() + backoff.wait();
    }

    fn begin(
        &mut self,
        region: &Region,
        own: &str,
        mut arrivals: Vec<v1::ArrivalStatus>,
        stop: &CancellationToken,
    ) {
        arrivals.sort_by_key(|arrival| !decide::is_urgent(arrival));
        let mut crowded = false;
        let listed = |id: &Bytes| arrivals.iter().any(|one| id_of(one) == *id);
        self.tried.retain(|id, _| listed(id));
        for arrival in arrivals {
            let relocation = id_of(&arrival);
            let waits = self.tried.get(&relocation);
            let waits = waits.is_some_and(|(_, again_at)| *again_at > Instant::now());
            let anothers = decide::is_claimed_by_another(&arrival, own);
            if waits || anothers || !decide::is_for_movers(&arrival) {
                continue;
            }
            if self.moving.values().any(|one| *one == relocation) {
                continue;
            }
            if self.moving.len() >= MOVES_MAX && !decide::is_urgent(&arrival) {
                crowded = true;
                continue;
            }
            let crowded = Arc::clone(&self.crowded);
            let task = move_one(region.clone(), arrival, crowded, stop.clone());
            let task = self.moves.spawn(task);
            self.moving.insert(task.id(), relocation);
        }
        self.crowded.store(crowded, Ordering::Relaxed);
        metrics::gauge!("reduit_mover_moves").set(self.moves.len() as f64);
    }

    /// Claims are given up one by one.
    async fn all_ended(mut self) {
        while self.moves.join_next().await.is_some() {}
        metrics::gauge!("reduit_mover_moves").set(0.0);
    }
}

fn id_of(arrival: &v1::ArrivalStatus) -> Bytes {
    let record = arrival.arrival.as_ref();
    record.map_or_else(Bytes::new, |record| record.relocation_id.clone())
}

/// Claims one relocation, and moves it until it is over, lost to another gateway, or `stop`.
async fn move_one(
    region: Region,
    arrival: v1::ArrivalStatus,
    crowded: Arc<AtomicBool>,
    stop: CancellationToken,
) -> Outcome {
    let relocation = hex::encode(id_of(&arrival));
    let claimed = async {
        // The source is found by its newest descriptor.
        region.refresh().await?;
        let mover = Mover::connect(&region, &arrival).await?;
        let shared = Shared::new(mover, &arrival);
        shared.claim(CLAIM_MS).await?;
        Ok::<_, client::Error>(shared)
    };
    let claimed = tokio::select! {
        claimed = claimed => claimed,
        () = stop.cancelled() => return Outcome::NotBegun,
    };
    let shared = match claimed {
        Ok(shared) => shared,
        Err(error) if error.reason() == "mover-at-work" => return Outcome::Worked,
        Err(error) => {
            shared::count_failure(&error);
            tracing::warn!(%relocation, error = %Chain(&error), "a relocation cannot be moved yet");
            return Outcome::NotBegun;
        }
    };
    tracing::info!(%relocation, "moving a dataset into this region");
    let outcome = tokio::select! {
        left = Work::new(shared.clone(), relocation.clone(), crowded).go() => match left {
            Left::Over => Outcome::Worked,
            Left::GaveWay => Outcome::NotBegun,
        },
        () = shared.keep() => {
            tracing::warn!(%relocation, "the claim is lost: another gateway goes on");
            Outcome::Worked
        }
        () = stop.cancelled() => Outcome::Worked,
    };
    // Another one need not wait until it lapses.
    let given_up = tokio::time::timeout(GIVE_UP_MAX, shared.claim(0)).await;
    if !matches!(given_up, Ok(Ok(()))) {
        tracing::debug!(%relocation, "the claim was not given up and lapses by itself");
    }
    outcome
}
