//! Versions under compliance retention, and clients who ask for their end: removal, no retention, a shorter one, another
//! kind.
//!
//! Owns who is asked for what. A version is put under a lock, or put and locked later by whoever comes; anybody tries to
//! remove any. Retention ends long after the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Workload};
use client::ids::{ObjectKey, ObjectVersionId, UnixMs};
use client::{Dataset, Error, GetOptions, Precondition, PutOptions, Retention, RetentionMode};
use local::files::{CLIENTS, now};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::append::{last_list, list};
use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::register::{number_of, numbered};
use super::session::insist;
use super::{Access, Stop};
use crate::recorder::{Asked, Client, Ended, Recorder};

const CLIENTS_MAX: u64 = 4;
const KEYS: usize = 2;
/// Operations on a key, of which a third puts a version: a listing stays one page.
const OPERATIONS_MAX: u32 = 150;
const PAUSE: Duration = Duration::from_millis(25);
const REST: Duration = Duration::from_millis(100);
/// Versions that are remembered, to be asked for.
const KNOWN_MAX: usize = 48;
/// Of a page of versions: more than a key gets.
const PAGE: u32 = 1_000;
/// Versions of one key that are read at the end.
const LAST_READ_MAX: usize = 40;
/// Retention: longer than any run and any clock that goes wrong in one.
const KEPT_MS: u64 = 400 * 24 * 3_600_000;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new(Shared {
        keys: Keys::new("l", KEYS, OPERATIONS_MAX),
        numbers: AtomicU64::new(1),
        known: Mutex::default(),
        until: UnixMs(now().0 + KEPT_MS),
    });
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        let name = Workload::Locks.name();
        let contact = access.contact(CLIENTS[0], name, true, &mut stop);
        let Some(dataset) = contact.await? else {
            break;
        };
        // The same however often it is asked for.
        while dataset.set_object_lock(None).await.is_err() && !stop.is_now() {
            stop.pause(REST).await;
        }
        let task = Task {
            dataset,
            shared: shared.clone(),
            client: recorder.client(Workload::Locks),
            rng: SmallRng::seed_from_u64(access.seed ^ (0x10c4 + client)),
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the locks panicked")??;
    }
    Ok(())
}

struct Shared {
    keys: Keys,
    numbers: AtomicU64,
    /// Whether they are locked, as far as is known, stands beside them.
    known: Mutex<Vec<(Version, bool)>>,
    until: UnixMs,
}

#[derive(Clone)]
struct Version {
    name: String,
    number: u64,
    id: ObjectVersionId,
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
            let name = self.shared.keys.pick(&mut self.rng);
            let asked_of = match self.rng.random_range(0..14) {
                0..3 => (F::Lock, None),
                3..5 => (F::Put, None),
                5..7 => (F::Lock, self.known(false)),
                7..9 => (F::Remove, self.known(true)),
                9 => (F::Remove, self.known(false)),
                10..12 => (F::Unlock, self.known(true)),
                12 => (F::Read, self.known(true)),
                _ => (F::Versions, None),
            };
            let rests = match asked_of {
                (F::Versions, _) => list(&self.dataset, &mut self.client, &name, false).await,
                (F::Read, Some(version)) => {
                    read(&self.dataset, &mut self.client, &version, false).await?
                }
                (f, Some(version)) => self.ask(f, version).await?,
                (f @ (F::Lock | F::Put), None) => self.put(f, &name).await?,
                (_, None) => false,
            };
            stop.pause(if rests { REST } else { PAUSE }).await;
        }
        Ok(())
    }

    /// One that is locked, or one that is not.
    fn known(&mut self, locked: bool) -> Option<Version> {
        let known = self.shared.known.lock();
        let mut of_kind = known.iter().filter(|(_, is)| *is == locked);
        let count = of_kind.clone().count();
        let at = self.rng.random_range(0..count.max(1));
        of_kind.nth(at).map(|(version, _)| version.clone())
    }

    fn remember(&mut self, version: Version, locked: bool) {
        let mut known = self.shared.known.lock();
        known.retain(|(held, _)| held.number != version.number);
        if known.len() >= KNOWN_MAX {
            let at = self.rng.random_range(0..known.len());
            known.swap_remove(at);
        }
        known.push((version, locked));
    }

    fn retention(&self) -> Retention {
        Retention {
            mode: RetentionMode::Compliance,
            until: self.shared.until,
        }
    }

    /// A new version, locked from its beginning or not.
    async fn put(&mut self, f: F, name: &str) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let locked = f == F::Lock;
        let options = PutOptions {
            retention: locked.then(|| self.retention()),
            ..numbered(number, Precondition::Any)
        };
        let body = Content::new(number, self.rng.random_range(16..30_000)).body();
        let asked = self.client.begin(name, f).value(number);
        let put = self.dataset.put(&key, body, &options);
        let ended = match timeout(OPERATION_MAX, put).await {
            Ok(Ok(done)) => {
                let version = Version {
                    name: name.to_owned(),
                    number,
                    id: done.version,
                };
                self.remember(version, locked);
                Ended::Ok(None)
            }
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        Ok(self.end(name, asked, ended))
    }

    /// Asks for the lock of a version, for the end of its lock, or for its removal.
    async fn ask(&mut self, f: F, version: Version) -> Result<bool> {
        let key: ObjectKey = version.name.parse()?;
        let (shorter, other) = (UnixMs(self.shared.until.0 - 1), self.retention());
        let retention = match (f, self.rng.random_range(0..3)) {
            (F::Lock, _) => Some(other),
            (_, 0) => None,
            (_, 1) => Some(Retention {
                until: shorter,
                ..other
            }),
            _ => Some(Retention {
                mode: RetentionMode::Governance,
                ..other
            }),
        };
        let asked = self.client.begin(&version.name, f).value(version.number);
        let dataset = &self.dataset;
        let change = async {
            match f {
                F::Remove => {
                    let deleted = dataset.delete(&key, Some(version.id), Precondition::Any);
                    deleted.await.map(drop)
                }
                _ => {
                    dataset
                        .set_retention(&key, version.id, retention, false)
                        .await
                }
            }
        };
        let ended = match timeout(OPERATION_MAX, change).await {
            Ok(Ok(())) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        let (done, name) = (matches!(ended, Ended::Ok(_)), version.name.clone());
        match f {
            F::Lock if done => self.remember(version, true),
            F::Remove if done => {
                let gone = version.number;
                self.shared
                    .known
                    .lock()
                    .retain(|(held, _)| held.number != gone);
            }
            _ => {}
        }
        Ok(self.end(&name, asked, ended))
    }

    fn end(&mut self, name: &str, asked: Asked, ended: Ended) -> bool {
        let rests = match &ended {
            Ended::Info(_) => {
                self.shared.keys.doubt(name);
                true
            }
            Ended::Fail(why) => !matches!(why.as_str(), "object-locked" | "no-such-object"),
            Ended::Ok(_) | Ended::At(..) => false,
        };
        self.client.end(asked, ended);
        rests
    }
}

/// Reads one version whole; whether that failed and may be tried again.
async fn read(
    dataset: &Dataset,
    client: &mut Client,
    version: &Version,
    last: bool,
) -> Result<bool> {
    let key: ObjectKey = version.name.parse()?;
    let asked = client.begin(&version.name, F::Read).old(version.number);
    let asked = if last { asked.last() } else { asked };
    let read = async {
        let options = GetOptions {
            version: Some(version.id),
            ..GetOptions::default()
        };
        dataset.get(&key, &options).await?.body.into_bytes().await
    };
    let ended = match timeout(OPERATION_MAX, read).await {
        Ok(Ok(bytes)) => {
            let content = Content::new(version.number, bytes.len() as u64);
            match content.bytes == bytes.len() as u64 && content.stands_at(0, &bytes) {
                true => Ended::Ok(Some(version.number.into())),
                false => Ended::Fail(ended::broken("wrong-bytes")),
            }
        }
        Ok(Err(Error::NoSuchObject)) => Ended::Ok(Some(Value::Null)),
        Ok(Err(error)) => ended::of_read(&error),
        Err(_) => Ended::Fail(ended::late()),
    };
    let again = matches!(&ended, Ended::Fail(why) if !why.starts_with(checker::BROKEN));
    client.end(asked, ended);
    Ok(again)
}

/// Lists every key once more, and reads what is listed.
pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let ops = recorder.recall(Workload::Locks)?;
    let keys = touched(&ops, |op| !matches!(op.f, F::Versions | F::Read));
    if keys.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let dataset = access.last_dataset(&region, Workload::Locks.name()).await?;
    let mut client = recorder.client(Workload::Locks);
    for name in keys {
        last_list(&dataset, &mut client, &name).await;
        let page = insist("listing versions", async || {
            dataset.list_versions(&name, None, PAGE).await
        });
        for info in page.await?.versions.iter().take(LAST_READ_MAX) {
            let Some(number) = number_of(info) else {
                continue;
            };
            let version = Version {
                name: name.clone(),
                number,
                id: info.version,
            };
            let end = Instant::now() + access.patience;
            while read(&dataset, &mut client, &version, true).await? && Instant::now() < end {
                tokio::time::sleep(REST).await;
            }
        }
    }
    Ok(())
}
