//! Many seeds: on all cores, until one fails or all are green.
//!
//! Owns the order in which seeds are handed out and the table at the end. Refuses to go on after a failure: the
//! first failing seed is what matters.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sim::Broken;
use sim::kinds::Kind;
use sim::logbook::{Coverage, Logbook};

use crate::child::{self, Outcome};

/// One seed of so many is run twice, and has to come to the same digest.
const TWICE_ONE_IN: u64 = 97;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// What many seeds came to.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) coverage: Coverage,
    pub(crate) events: u64,
    /// Seeds run, by kind.
    pub(crate) seeds: [u64; 3],
    /// Seeds run twice with the same digest, by kind.
    pub(crate) exact: [u64; 3],
    /// The first that failed.
    pub(crate) failed: Option<(Kind, u64, Broken)>,
}

/// Runs seeds on `jobs` threads.
pub(crate) struct Batch {
    pub(crate) program: PathBuf,
    pub(crate) jobs: usize,
    pub(crate) quiet: bool,
}

impl Batch {
    /// Runs `seeds` until one fails.
    pub(crate) fn run(&self, seeds: &[(Kind, u64)]) -> Result<Total> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let total: Mutex<Total> = Mutex::default();
        let trouble: Mutex<Option<anyhow::Error>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let at = next.fetch_add(1, Ordering::SeqCst);
                        let Some((kind, seed)) = seeds.get(at) else {
                            return;
                        };
                        match self.one(*kind, *seed, &total) {
                            Ok(true) => {}
                            Ok(false) => stop.store(true, Ordering::SeqCst),
                            Err(error) => {
                                stop.store(true, Ordering::SeqCst);
                                held(&trouble).get_or_insert(error);
                            }
                        }
                    }
                });
            }
            if !self.quiet {
                let told = || next.load(Ordering::SeqCst).min(seeds.len());
                tell(told, seeds.len(), &stop);
            }
        });
        match trouble.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Runs one seed, some twice. Answers whether it is green.
    fn one(&self, kind: Kind, seed: u64, total: &Mutex<Total>) -> Result<bool> {
        let (report, result) = self.outcome(kind, seed)?;
        let place = Kind::ALL
            .iter()
            .position(|one| *one == kind)
            .context("a kind")?;
        let mut exact = None;
        if result.is_ok() && seed.is_multiple_of(TWICE_ONE_IN) {
            let (again, _) = self.outcome(kind, seed)?;
            exact = Some(again.digest == report.digest);
        }
        let mut total = held(total);
        total.coverage.merge(&report.coverage);
        total.events += report.events;
        total.seeds[place] += 1;
        total.exact[place] += u64::from(exact == Some(true));
        let result = match exact {
            Some(false) => Err(Broken("two runs of this seed differ".to_owned())),
            _ => result,
        };
        match result {
            Ok(()) => Ok(true),
            Err(broken) => {
                total.failed.get_or_insert((kind, seed, broken));
                Ok(false)
            }
        }
    }

    fn outcome(&self, kind: Kind, seed: u64) -> Result<Outcome> {
        match kind {
            Kind::Replica => child::run(&self.program, kind, seed),
            Kind::Node | Kind::Kms => Ok(here(kind, seed, &Logbook::default())),
        }
    }
}

/// Runs one seed in this process; a panic of the product breaks every promise.
pub(crate) fn here(kind: Kind, seed: u64, book: &Logbook) -> Outcome {
    let run = AssertUnwindSafe(|| kind.run(seed, book));
    let result = catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken(format!("panicked: {}", text.unwrap_or_default())))
    });
    (book.report(), result)
}

/// Assertions of the engine's debug builds that its release builds do without. The stream of a leader that was
/// replaced looks at its successor's log, which may be shorter: it has nothing to send, asks whether the leader has
/// changed, and ends (openraft 0.10.0-alpha.37, `replication/stream_state.rs`; the check came with #1793).
const HARMLESS: [&str; 1] = ["read_log_entries received reversed range"];

/// Panics of whatever thread or task, from here on.
#[derive(Clone, Default)]
pub(crate) struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    /// Begins to watch.
    pub(crate) fn watch() -> Self {
        let panics = Self::default();
        let seen = panics.clone();
        std::panic::set_hook(Box::new(move |panic| held(&seen.0).push(panic.to_string())));
        panics
    }

    /// Fails for the first that says anything about the product.
    pub(crate) fn none(&self, book: &Logbook) -> Result<(), Broken> {
        for panic in held(&self.0).iter() {
            let Some(harmless) = HARMLESS.iter().find(|text| panic.contains(**text)) else {
                return Err(Broken(panic.clone()));
            };
            book.count("harmless panics", harmless);
        }
        Ok(())
    }
}

fn held<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says from time to time how far it is, until all are handed out.
fn tell(told: impl Fn() -> usize, all: usize, stop: &AtomicBool) {
    let begun = Instant::now();
    let mut last = begun;
    while told() < all && !stop.load(Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_millis(100));
        if last.elapsed() >= PROGRESS {
            last = Instant::now();
            eprintln!("{} of {all} seeds, {} s", told(), begun.elapsed().as_secs());
        }
    }
}
