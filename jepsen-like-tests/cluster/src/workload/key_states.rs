//! States of a dataset's key: an operator disables, enables and rotates it while applications put, open and lease.
//!
//! Owns the order of changes, one operator a dataset. Applications go on all the time: what they are refused and what
//! they are given while the key is disabled is what is judged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use checker::states::KeyAnswer;
use checker::{F, Workload};
use client::ids::ObjectKey;
use client::{Dataset, Error, KeyChange, Precondition, Region};
use local::files::{CLIENTS, OPERATORS};
use parking_lot::Mutex;
use proto::v1;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::register::numbered;
use super::session::insist;
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const DATASETS: [&str; 2] = ["keys-a", "keys-b"];
/// Applications of one dataset.
const APPLICATIONS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(30);
/// Between new processes that take leases.
const LEASE_PAUSE: Duration = Duration::from_millis(400);
/// How long a state lasts, by chance between these.
const LASTS_MS: std::ops::Range<u64> = 150..900;
/// Objects of a dataset that are looked at in the end.
const REMEMBERED_MAX: usize = 256;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let Some(region) = access.connect(CLIENTS[0], &mut stop).await? else {
        return Ok(());
    };
    let Some(operator) = access.connect(OPERATORS[0], &mut stop).await? else {
        return Ok(());
    };
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for (at, name) in (0_u64..).zip(DATASETS) {
        let Some(dataset) = access.dataset(&region, name, false, &mut stop).await? else {
            break;
        };
        let seed = access.seed ^ (0x6e7 + 100 * at);
        let operator = Operator {
            region: operator.clone(),
            dataset: dataset.clone(),
            name,
            client: recorder.client(Workload::KeyStates),
            rng: SmallRng::seed_from_u64(seed),
        };
        tasks.spawn(operator.run(stop.clone()));
        let objects = Arc::new(Objects::default());
        for application in 0..APPLICATIONS {
            let application = Application {
                dataset: dataset.clone(),
                name,
                objects: objects.clone(),
                client: recorder.client(Workload::KeyStates),
                rng: SmallRng::seed_from_u64(seed + 1 + application),
            };
            tasks.spawn(application.run(stop.clone()));
        }
        let client = recorder.client(Workload::KeyStates);
        tasks.spawn(lease(access.clone(), name, objects, client, stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the key states panicked")??;
    }
    Ok(())
}

struct Operator {
    region: Region,
    dataset: Dataset,
    name: &'static str,
    client: Client,
    rng: SmallRng,
}

impl Operator {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let (region, dataset, client) = (&self.region, &self.dataset, &mut self.client);
            change(
                region,
                dataset,
                self.name,
                client,
                (F::Disable, KeyChange::Disable),
            )
            .await;
            let lasts = self.rng.random_range(LASTS_MS);
            stop.pause(Duration::from_millis(lasts)).await;
            change(
                region,
                dataset,
                self.name,
                client,
                (F::Enable, KeyChange::Enable),
            )
            .await;
            if self.rng.random_range(0..3) == 0 {
                change(
                    region,
                    dataset,
                    self.name,
                    client,
                    (F::Rotate, KeyChange::Rotate),
                )
                .await;
            }
            key_info(region, dataset, self.name, client, false).await;
            let lasts = self.rng.random_range(LASTS_MS);
            stop.pause(Duration::from_millis(lasts)).await;
        }
        Ok(())
    }
}

async fn change(
    region: &Region,
    dataset: &Dataset,
    name: &str,
    client: &mut Client,
    (f, change): (F, KeyChange),
) {
    let asked = client.begin(name, f);
    let changed = region.keys().change_key(dataset.id(), change);
    let ended = match timeout(OPERATION_MAX, changed).await {
        Ok(Ok(info)) => answered(&info),
        Ok(Err(error)) => ended::of_write(&error),
        Err(_) => Ended::Info(ended::late()),
    };
    client.end(asked, ended);
}

async fn key_info(region: &Region, dataset: &Dataset, name: &str, client: &mut Client, last: bool) {
    let asked = client.begin(name, F::KeyInfo);
    let asked = if last { asked.last() } else { asked };
    let info = region.keys().key_info(dataset.id());
    let ended = match timeout(OPERATION_MAX, info).await {
        Ok(Ok(info)) => answered(&info),
        Ok(Err(error)) => ended::of_read(&error),
        Err(_) => Ended::Fail(ended::late()),
    };
    client.end(asked, ended);
}

fn answered(info: &v1::KeyInfo) -> Ended {
    let Some(key) = &info.key else {
        return Ended::Info(ended::broken("no-key"));
    };
    let answer = KeyAnswer {
        state_version: key.state_version,
        kek_version: key.current_version.into(),
        enabled: key.state() == v1::KeyState::Enabled,
        confirmed: info.shard_confirmed,
    };
    match serde_json::to_value(answer) {
        Ok(value) => Ended::Ok(Some(value)),
        Err(_) => Ended::Info(ended::broken("no-key")),
    }
}

/// What was put and acknowledged.
#[derive(Default)]
struct Objects {
    next: AtomicU64,
    known: Mutex<Vec<u64>>,
}

struct Application {
    dataset: Dataset,
    name: &'static str,
    objects: Arc<Objects>,
    client: Client,
    rng: SmallRng,
}

impl Application {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            match self.rng.random_range(0..2) {
                0 => self.put().await?,
                _ => self.open().await?,
            }
            stop.pause(PAUSE).await;
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<()> {
        let number = self.objects.next.fetch_add(1, Ordering::Relaxed);
        let key = key(number)?;
        let body = Content::new(number, 64).body();
        let options = numbered(number, Precondition::Any);
        let asked = self.client.begin(self.name, F::Put).value(number);
        let put = self.dataset.put(&key, body, &options);
        let ended = match timeout(OPERATION_MAX, put).await {
            Ok(Ok(_)) => {
                let mut known = self.objects.known.lock();
                if known.len() < REMEMBERED_MAX {
                    known.push(number);
                } else {
                    known[self.rng.random_range(0..REMEMBERED_MAX)] = number;
                }
                Ended::Ok(None)
            }
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        self.client.end(asked, ended);
        Ok(())
    }

    async fn open(&mut self) -> Result<()> {
        let number = {
            let known = self.objects.known.lock();
            match known.len() {
                0 => return Ok(()),
                len => known[self.rng.random_range(0..len)],
            }
        };
        let key = key(number)?;
        let asked = self.client.begin(self.name, F::Open).value(number);
        let opened = timeout(OPERATION_MAX, self.dataset.get_bytes(&key)).await;
        let ended = match opened {
            Ok(Ok(bytes)) if bytes == Content::new(number, 64).body() => Ended::Ok(None),
            Ok(Ok(_)) => Ended::Fail(ended::broken("wrong-bytes")),
            // Acknowledged and never deleted.
            Ok(Err(Error::NoSuchObject)) => Ended::Fail(ended::broken("lost")),
            Ok(Err(error)) => ended::of_read(&error),
            Err(_) => Ended::Fail(ended::late()),
        };
        self.client.end(asked, ended);
        Ok(())
    }
}

fn key(number: u64) -> Result<ObjectKey> {
    Ok(format!("k/{number:08}").parse()?)
}

/// New processes, each of which needs a lease for its first look at an object's metadata.
async fn lease(
    access: Access,
    name: &'static str,
    objects: Arc<Objects>,
    mut client: Client,
    mut stop: Stop,
) -> Result<()> {
    while let Some(region) = access.connect(CLIENTS[1], &mut stop).await? {
        let Some(dataset) = access.dataset(&region, name, false, &mut stop).await? else {
            break;
        };
        let number = objects.known.lock().last().copied();
        if let Some(number) = number {
            let key = key(number)?;
            let asked = client.begin(name, F::Lease).value(number);
            let ended = match timeout(OPERATION_MAX, dataset.head(&key, None)).await {
                Ok(Ok(_)) => Ended::Ok(None),
                Ok(Err(Error::NoSuchObject)) => Ended::Fail(ended::broken("lost")),
                Ok(Err(error)) => ended::of_read(&error),
                Err(_) => Ended::Fail(ended::late()),
            };
            client.end(asked, ended);
        }
        stop.pause(LEASE_PAUSE).await;
    }
    Ok(())
}

/// Enables every key, asks for its versions, and opens what was acknowledged.
pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let ops = recorder.recall(Workload::KeyStates)?;
    let region = access.last_connect(CLIENTS[0]).await?;
    let operator = access.last_connect(OPERATORS[0]).await?;
    let mut client = recorder.client(Workload::KeyStates);
    for name in DATASETS {
        if !ops.iter().any(|op| op.key == name) {
            continue;
        }
        let dataset = access.last_dataset(&region, name).await?;
        insist("enabling a key", async || {
            change(
                &operator,
                &dataset,
                name,
                &mut client,
                (F::Enable, KeyChange::Enable),
            )
            .await;
            let info = operator.keys().key_info(dataset.id()).await?;
            let enabled = info
                .key
                .is_some_and(|key| key.state() == v1::KeyState::Enabled);
            match enabled && info.shard_confirmed {
                true => Ok(()),
                false => Err(Error::Unavailable {
                    reason: "not-enabled".to_owned(),
                    message: "the key is not enabled yet".to_owned(),
                }),
            }
        })
        .await?;
        key_info(&operator, &dataset, name, &mut client, true).await;
        let put = ops
            .iter()
            .filter(|op| op.key == name && op.f == F::Put && op.is_ok());
        for op in put.rev().take(REMEMBERED_MAX) {
            let number = op.value.as_u64().context("a put without its number")?;
            last_open(&dataset, name, number, &mut client).await?;
        }
    }
    Ok(())
}

async fn last_open(dataset: &Dataset, name: &str, number: u64, client: &mut Client) -> Result<()> {
    let key = key(number)?;
    let asked = client
        .begin(name, F::Open)
        .value(Value::from(number))
        .last();
    let opened = insist("opening what was acknowledged", async || {
        match dataset.get_bytes(&key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NoSuchObject) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await;
    let ended = match &opened {
        Ok(Some(bytes)) if *bytes == Content::new(number, 64).body() => Ended::Ok(None),
        Ok(Some(_)) => Ended::Fail(ended::broken("wrong-bytes")),
        Ok(None) => Ended::Fail(ended::broken("lost")),
        Err(_) => Ended::Fail(ended::broken("unreadable")),
    };
    client.end(asked, ended);
    ensure!(opened.is_ok(), "{name}: {number} cannot be opened");
    Ok(())
}
