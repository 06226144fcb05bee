//! Workers that ask S3 for everything a storm mixes.
//!
//! Owns the mix, the keys in use and what workers know of each other's objects. Refuses nothing and ends for nothing but
//! the end: a request that failed in all its tries is counted, and the worker goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use local::s3::{Endpoint, Request};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::history::History;
use super::locked::Locked;
use super::s3::{Answer, Bucket, Tally};

pub(crate) const PLAIN: &str = "storm";
pub(crate) const LOCKED: &str = "storm-locked";
/// Keys that are written at one time, and operations on one: judging stays cheap.
const KEYS: usize = 4;
const OPERATIONS_MAX: u32 = 150;
/// Outcomes of a key that may be unknown: the orders to try double with each.
const DOUBTS_MAX: u32 = 4;
/// Between two operations of a worker.
const PAUSE_MS: std::ops::Range<u64> = 5..40;
/// Plaintext of large objects, at first and then by the second: disks hold three sealed copies, and what is replaced
/// goes late.
const LARGE_BYTES_FIRST: u64 = 96 << 20;
const LARGE_BYTES_A_SECOND: u64 = 2 << 20;

/// An object that is never written again, to be copied.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) key: String,
    pub(crate) content: u64,
    pub(crate) bytes: u64,
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) history: History,
    pub(crate) keys: Keys,
    pub(crate) sources: Vec<Source>,
    /// Keys of large objects, each written by one worker.
    pub(crate) large: Mutex<Vec<String>>,
    pub(crate) locked: Mutex<Vec<Locked>>,
    pub(crate) tally: Arc<Mutex<Tally>>,
    began: Instant,
    bytes: AtomicU64,
}

impl Shared {
    pub(crate) fn new(history: History, sources: Vec<Source>, tally: Arc<Mutex<Tally>>) -> Self {
        Self {
            history,
            keys: Keys::default(),
            sources,
            large: Mutex::default(),
            locked: Mutex::default(),
            tally,
            began: Instant::now(),
            bytes: AtomicU64::new(0),
        }
    }

    /// Whether so many bytes more may be stored by now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let granted = LARGE_BYTES_FIRST + self.began.elapsed().as_secs() * LARGE_BYTES_A_SECOND;
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= granted || {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            false
        }
    }

    /// What no S3 may answer.
    pub(crate) fn wrong(&self, what: String) {
        self.tally.lock().failed.push(what);
    }
}

/// Keys in use: each for so many operations.
#[derive(Default)]
pub(crate) struct Keys(Mutex<Used>);

#[derive(Default)]
struct Used {
    /// Name, operations, doubts.
    active: Vec<(String, u32, u32)>,
    all: Vec<String>,
}

impl Keys {
    /// One of them, for one more operation.
    pub(crate) fn pick(&self, rng: &mut SmallRng) -> String {
        let mut used = self.0.lock();
        let at = rng.random_range(0..KEYS);
        while used.active.len() < KEYS {
            let fresh = used.fresh();
            used.active.push((fresh, 0, 0));
        }
        let (_, operations, doubts) = used.active[at];
        if operations >= OPERATIONS_MAX || doubts >= DOUBTS_MAX {
            used.active[at] = (used.fresh(), 0, 0);
        }
        used.active[at].1 += 1;
        used.active[at].0.clone()
    }

    /// An outcome on it is not known.
    pub(crate) fn doubt(&self, name: &str) {
        let mut used = self.0.lock();
        let mut active = used.active.iter_mut();
        if let Some((_, _, doubts)) = active.find(|(active, ..)| active == name) {
            *doubts += 1;
        }
    }

    /// Those that are written now.
    pub(crate) fn active(&self) -> Vec<String> {
        let used = self.0.lock();
        used.active.iter().map(|(name, ..)| name.clone()).collect()
    }

    /// Every one that was ever used.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().all.clone()
    }
}

impl Used {
    fn fresh(&mut self) -> String {
        let name = format!("r/{:04}", self.all.len());
        self.all.push(name.clone());
        name
    }
}

/// One of those who ask.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plain: Bucket,
    pub(crate) vault: Bucket,
    pub(crate) rng: SmallRng,
    pub(crate) name: String,
    /// Its key of large objects, and how often it was written.
    pub(crate) own: Option<(String, u32)>,
    pub(crate) generation: u32,
}

impl Worker {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        gateways: &[Endpoint],
        name: String,
        seed: u64,
    ) -> Result<Self> {
        let bucket = |name, salt| Bucket::new(gateways, name, seed ^ salt, &shared.tally);
        Ok(Self {
            shared: shared.clone(),
            plain: bucket(PLAIN, 0xa1)?,
            vault: bucket(LOCKED, 0xb2)?,
            rng: SmallRng::seed_from_u64(seed),
            name,
            own: None,
            generation: 0,
        })
    }

    /// Asks until it is told to stop. What it asked for last comes to its end.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let key = self.shared.keys.pick(&mut self.rng);
            match self.rng.random_range(0..100) {
                0..18 => self.put(&key).await,
                18..34 => drop(self.read(&key, false, false).await),
                34..42 => drop(self.read(&key, true, false).await),
                42..50 => self.create(&key).await,
                50..62 => self.swap(&key).await,
                62..68 => self.clear(&key).await,
                68..74 => self.list().await,
                74..78 => self.copy(&key).await,
                78..86 => self.upload().await,
                86..92 => self.read_large().await,
                _ => self.in_the_vault().await,
            }
            let pause = self.rng.random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// An answer of the plain bucket; none where the request failed in every try.
    pub(crate) async fn ask(&mut self, what: &str, request: Request) -> Option<Answer> {
        self.plain.ask(what, request).await.ok()
    }

    /// Counts an answer that is none of this request.
    pub(crate) fn unexpected(&self, what: &str, answer: &Answer) {
        let said = format!(
            "{what} was answered {} after {} tries: {}",
            answer.status,
            answer.tries,
            answer.text()
        );
        self.shared.wrong(said);
    }
}
