//! Elements of a prefix, each an object of its own, and listings of it.
//!
//! Owns the choice of elements: each is added once, and removed, if at all, after its add was acknowledged. A listing is
//! one page: the snapshot that is promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use checker::{F, Workload};
use client::ids::ObjectKey;
use client::{Dataset, Error, ListOptions, Precondition};
use local::files::CLIENTS;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::register::numbered;
use super::session::LAST_LOOK_MAX;
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const DATASET: &str = "set";
const CLIENTS_MAX: u64 = 4;
const PREFIXES: usize = 2;
/// Operations on a prefix, of which two in five add an element: a listing stays one small page.
const OPERATIONS_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(20);
const REST: Duration = Duration::from_millis(100);
/// Elements that are known to be there and may be removed.
const KNOWN_MAX: usize = 64;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new(Shared {
        prefixes: Keys::new("s", PREFIXES, OPERATIONS_MAX),
        elements: AtomicU64::new(1),
        known: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        let contact = access.contact(CLIENTS[0], DATASET, false, &mut stop);
        let Some(dataset) = contact.await? else {
            break;
        };
        let task = Task {
            dataset,
            shared: shared.clone(),
            client: recorder.client(Workload::Set),
            rng: SmallRng::seed_from_u64(access.seed ^ (0x5e7 + client)),
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the sets panicked")??;
    }
    Ok(())
}

struct Shared {
    prefixes: Keys,
    elements: AtomicU64,
    /// Prefix and element of acknowledged adds.
    known: Mutex<Vec<(String, u64)>>,
}

struct Task {
    dataset: Dataset,
    shared: Arc<Shared>,
    client: Client,
    rng: SmallRng,
}

impl Task {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let prefix = self.shared.prefixes.pick(&mut self.rng);
            let rests = match self.rng.random_range(0..10) {
                0..4 => self.add(&prefix).await?,
                4..6 => self.remove().await?,
                _ => list(&self.dataset, &mut self.client, &prefix, false).await,
            };
            stop.pause(if rests { REST } else { PAUSE }).await;
        }
        Ok(())
    }

    async fn add(&mut self, prefix: &str) -> Result<bool> {
        let element = self.shared.elements.fetch_add(1, Ordering::Relaxed);
        let key = key(prefix, element)?;
        let body = Content::new(element, 64).body();
        let options = numbered(element, Precondition::Any);
        let asked = self.client.begin(prefix, F::Add).value(element);
        let put = self.dataset.put(&key, body, &options);
        let ended = match timeout(OPERATION_MAX, put).await {
            Ok(Ok(_)) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        let rests = !matches!(ended, Ended::Ok(_));
        if !rests {
            let mut known = self.shared.known.lock();
            let at = self.rng.random_range(0..=known.len());
            let entry = (prefix.to_owned(), element);
            if known.len() < KNOWN_MAX {
                known.insert(at, entry);
            } else {
                known[at % KNOWN_MAX] = entry;
            }
        }
        self.client.end(asked, ended);
        Ok(rests)
    }

    /// Of what is known to be there; now and then of what somebody else removes just now.
    async fn remove(&mut self) -> Result<bool> {
        let chosen = {
            let mut known = self.shared.known.lock();
            match known.len() {
                0 => None,
                len => {
                    let at = self.rng.random_range(0..len);
                    let both = self.rng.random_range(0..4) == 0;
                    Some(if both {
                        known[at].clone()
                    } else {
                        known.swap_remove(at)
                    })
                }
            }
        };
        let Some((prefix, element)) = chosen else {
            return Ok(false);
        };
        let key = key(&prefix, element)?;
        let asked = self.client.begin(&prefix, F::Remove).value(element);
        let delete = self.dataset.delete(&key, None, Precondition::Any);
        let ended = match timeout(OPERATION_MAX, delete).await {
            Ok(Ok(_)) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        let rests = matches!(ended, Ended::Info(_));
        self.client.end(asked, ended);
        Ok(rests)
    }
}

fn key(prefix: &str, element: u64) -> Result<ObjectKey> {
    Ok(format!("{prefix}/{element:08}").parse()?)
}

fn element(prefix: &str, key: &ObjectKey) -> Option<u64> {
    let name = key.as_str().strip_prefix(prefix)?.strip_prefix('/')?;
    name.parse().ok()
}

/// Whether it went wrong.
async fn list(dataset: &Dataset, client: &mut Client, prefix: &str, last: bool) -> bool {
    let options = ListOptions {
        prefix: format!("{prefix}/"),
        ..ListOptions::default()
    };
    let asked = client.begin(prefix, F::List);
    let asked = if last { asked.last() } else { asked };
    let ended = match timeout(OPERATION_MAX, dataset.list(&options)).await {
        Ok(Ok(page)) => {
            let elements = page
                .objects
                .iter()
                .map(|object| element(prefix, &object.key));
            let elements: Option<Vec<u64>> = elements.collect();
            match elements.filter(|_| page.next.is_none()) {
                Some(elements) => Ended::At(page.at_index, elements.into()),
                None => Ended::Fail(ended::broken("wrong-listing")),
            }
        }
        Ok(Err(error)) => ended::of_read(&error),
        Err(_) => Ended::Fail(ended::late()),
    };
    let failed = matches!(ended, Ended::Fail(_));
    client.end(asked, ended);
    failed
}

pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let prefixes = touched(&recorder.recall(Workload::Set)?, |op| op.f == F::Add);
    if prefixes.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let dataset = access.last_dataset(&region, DATASET).await?;
    let mut client = recorder.client(Workload::Set);
    for prefix in prefixes {
        let end = Instant::now() + LAST_LOOK_MAX;
        while list(&dataset, &mut client, &prefix, true).await && Instant::now() < end {
            tokio::time::sleep(REST).await;
        }
    }
    last_page_after_page(&dataset).await
}

/// The whole dataset in pages of a few: page by page it is what it is at once.
async fn last_page_after_page(dataset: &Dataset) -> Result<()> {
    let names = |objects: Vec<client::ObjectInfo>| -> Vec<String> {
        objects
            .into_iter()
            .map(|object| object.key.as_str().to_owned())
            .collect()
    };
    let all = async |limit: u32| -> Result<Vec<String>, Error> {
        let (mut all, mut options) = (Vec::new(), ListOptions::default());
        options.limit = limit;
        loop {
            let page = dataset.list(&options).await?;
            all.extend(names(page.objects));
            match page.next {
                Some(next) => options.start_after = next,
                None => return Ok(all),
            }
        }
    };
    let (small, large) = (all(37).await?, all(1_000).await?);
    ensure!(
        small == large,
        "pages of a dataset at rest differ by their size"
    );
    Ok(())
}
