//! The power of all members is cut at once, over and over: what was acknowledged is there, once.
//!
//! `REDUIT_SEEDS` says how many seeds (200 where it is not set), `REDUIT_SEED` replays one. Goes red with the switch
//! `ack_before_sync`, and with `retry_twice`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sim::Broken;
use sim::run::{self, Counts};

const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn power_cut_of_all_members_loses_no_acknowledged_write() {
    let (first, seeds) = match number("REDUIT_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("REDUIT_SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    let failed = AtomicBool::new(false);
    let total: Mutex<(Counts, Option<(u64, Broken)>)> = Mutex::default();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + seeds {
                        return;
                    }
                    let result = run::seed(seed);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(counts) => total.0.add(&counts),
                        Err(broken) => {
                            failed.store(true, Ordering::SeqCst);
                            total.1.get_or_insert((seed, broken));
                        }
                    }
                }
            });
        }
    });
    let (counts, broken) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{counts:#?}");
    if let Some((seed, broken)) = broken {
        panic!("REDUIT_SEED={seed}: {broken}");
    }
    assert_eq!(counts.seeds, seeds);
    // What was meant to happen did: a run without cuts in the middle of writes would show nothing.
    assert!(
        counts.cuts >= seeds && counts.checked > 0 && counts.repeated > 0,
        "{counts:?}"
    );
    if seeds >= 100 {
        let faults = counts.faults;
        assert!(
            counts.unknown > 0 && faults.sectors_lost > 0 && faults.sectors_torn > 0,
            "{counts:?}"
        );
    }
}
