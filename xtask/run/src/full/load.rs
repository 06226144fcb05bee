//! Load whose every acknowledged write is remembered and looked for at the end.
//!
//! Owns the bookkeeping. Each task has keys of its own, so what a key may hold is known: the last acknowledged
//! write, or one whose outcome is unknown (it may take effect at any later time).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use client::{CreateOptions, Dataset, Error, Fault, Precondition, PutOptions, Region, Tuning};
use local::Local;
use parking_lot::Mutex;
use proto::ids::ObjectKey;
use tokio::task::JoinSet;

/// Tasks that write.
const WRITERS: u64 = 8;
/// Keys of each.
const KEYS: u64 = 20;
/// Every so many writes one goes in blocks.
const BLOCKS_EVERY: u64 = 16;
const BLOCKS_BYTES: usize = 300_000;

/// What a key may hold.
#[derive(Default, Clone)]
struct Held {
    acknowledged: Option<Bytes>,
    deleted: bool,
    maybe: Vec<Option<Bytes>>,
}

/// Running load.
pub(crate) struct Load {
    pub(crate) dataset: Dataset,
    stop: Arc<AtomicBool>,
    pub(crate) done: Arc<AtomicU64>,
    longest_ms: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<String>>>,
    tasks: JoinSet<Result<BTreeMap<String, Held>>>,
}

/// What the check at the end found.
pub(crate) struct Checked {
    pub(crate) acknowledged: u64,
    pub(crate) keys: usize,
    pub(crate) longest_pause: Duration,
}

impl Load {
    pub(crate) async fn start(local: &Local) -> Result<Self> {
        let context = local.federation.region("ch-zrh")?.context("app-1");
        let tuning = Tuning {
            deadline: Duration::from_secs(60),
            ..Tuning::default()
        };
        let region = Region::connect(&context, tuning).await?;
        let dataset = region
            .create_dataset(&"load".parse()?, &CreateOptions::default())
            .await?;
        let stop = Arc::new(AtomicBool::new(false));
        let (done, longest_ms) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let failed = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let (dataset, stop) = (dataset.clone(), stop.clone());
            let (done, longest_ms) = (done.clone(), longest_ms.clone());
            let failed = failed.clone();
            tasks.spawn(async move {
                let written = write(dataset, writer, &stop, &done, &longest_ms).await;
                if let Err(error) = &written {
                    failed.lock().get_or_insert_with(|| format!("{error:#}"));
                }
                written
            });
        }
        Ok(Self {
            dataset,
            stop,
            done,
            longest_ms,
            failed,
            tasks,
        })
    }

    /// Waits until `more` further writes were acknowledged.
    pub(crate) async fn progress(&self, more: u64) -> Result<()> {
        let target = self.done.load(Ordering::Relaxed) + more;
        let end = Instant::now() + Duration::from_secs(90);
        while self.done.load(Ordering::Relaxed) < target {
            if let Some(error) = &*self.failed.lock() {
                bail!("{error}");
            }
            ensure!(Instant::now() < end, "no progress under load within 90 s");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Stops the load and looks for every acknowledged write.
    pub(crate) async fn check(mut self) -> Result<Checked> {
        self.stop.store(true, Ordering::Relaxed);
        let mut held = BTreeMap::new();
        while let Some(keys) = self.tasks.join_next().await {
            held.extend(keys??);
        }
        for (key, held) in &held {
            let found = match self.dataset.get_bytes(&key.parse()?).await {
                Ok(bytes) => Some(bytes),
                Err(Error::NoSuchObject) => None,
                Err(error) => return Err(error).context("reading an object back"),
            };
            let last = if held.deleted {
                None
            } else {
                held.acknowledged.clone()
            };
            if found != last && !held.maybe.contains(&found) {
                let say = |value: &Option<Bytes>| match value {
                    None => "nothing".to_owned(),
                    Some(bytes) => {
                        String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
                    }
                };
                bail!(
                    "LOST OR RESURRECTED: {key} holds {}, acknowledged was {}",
                    say(&found),
                    say(&last)
                );
            }
        }
        Ok(Checked {
            acknowledged: self.done.load(Ordering::Relaxed),
            keys: held.len(),
            longest_pause: Duration::from_millis(self.longest_ms.load(Ordering::Relaxed)),
        })
    }
}

async fn write(
    dataset: Dataset,
    writer: u64,
    stop: &AtomicBool,
    done: &AtomicU64,
    longest_ms: &AtomicU64,
) -> Result<BTreeMap<String, Held>> {
    let mut keys: BTreeMap<String, Held> = BTreeMap::new();
    let mut turn = 0_u64;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let name = format!("w{writer}/{}", turn % KEYS);
        let key: ObjectKey = name.parse()?;
        let held = keys.entry(name).or_default();
        if turn.is_multiple_of(11) && held.acknowledged.is_some() && !held.deleted {
            match dataset.delete(&key, None, Precondition::Any).await {
                Ok(_) => held.deleted = true,
                Err(error) => unknown(held, None, &error)?,
            }
            continue;
        }
        let mut body = format!("writer {writer} turn {turn} ").into_bytes();
        if turn.is_multiple_of(BLOCKS_EVERY) {
            body.resize(BLOCKS_BYTES, b'x');
        }
        let body = Bytes::from(body);
        match dataset
            .put(&key, body.clone(), &PutOptions::default())
            .await
        {
            Ok(_) => {
                *held = Held {
                    acknowledged: Some(body),
                    deleted: false,
                    maybe: Vec::new(),
                };
                done.fetch_add(1, Ordering::Relaxed);
                let pause = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
                longest_ms.fetch_max(pause, Ordering::Relaxed);
                last = Instant::now();
            }
            Err(error) => unknown(held, Some(body), &error)?,
        }
    }
    Ok(keys)
}

/// A write that failed: it may have happened, unless the error says that it had no effect.
fn unknown(held: &mut Held, value: Option<Bytes>, error: &Error) -> Result<()> {
    match error.fault() {
        Fault::Unknown | Fault::Unavailable | Fault::Busy => {
            held.maybe.push(value);
            Ok(())
        }
        Fault::Missing if value.is_none() => {
            // A retried delete of what a first try of unknown outcome had deleted.
            held.maybe.push(None);
            Ok(())
        }
        _ => bail!("a write failed under load: {error}"),
    }
}
