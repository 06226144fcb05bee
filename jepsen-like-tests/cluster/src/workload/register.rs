//! One register a key: reads, writes, and writes on conditions that the client has seen.
//!
//! Owns the choice of operations. Every write has a number of its own, which its body and its metadata say, so that a
//! read tells which write it saw. Conditions are on versions that the client saw, current or not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use checker::{F, Workload};
use client::ids::{ObjectKey, ObjectVersionId};
use client::{Dataset, Error, GetOptions, ObjectInfo, Precondition, PutOptions};
use futures::StreamExt as _;
use local::files::CLIENTS;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::session::LAST_LOOK_MAX;
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const DATASET: &str = "register";
const CLIENTS_MAX: u64 = 6;
/// Of these, how many only read: no write tells them that their leader is one no more.
const READERS: u64 = 2;
const KEYS: usize = 3;
const OPERATIONS_MAX: u32 = 250;
/// Between operations: a run of an hour must fit into memory.
const PAUSE: Duration = Duration::from_millis(12);
/// After a failure that says nothing of the register.
const REST: Duration = Duration::from_millis(100);
/// User metadata with the number of the write.
pub(super) const NUMBER: &str = "number";
/// One in so many bodies goes in blocks.
const BLOCKS_ONE_IN: u32 = 24;
/// Keys read back at once.
const LAST_AT_ONCE: usize = 8;

/// What a client saw last under a key.
pub(super) type Seen = (u64, ObjectVersionId);

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new(Shared {
        keys: Keys::new("r", KEYS, OPERATIONS_MAX),
        numbers: AtomicU64::new(1),
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
            client: recorder.client(Workload::Register),
            reads_only: client < READERS,
            rng: SmallRng::seed_from_u64(access.seed ^ (client + 1)),
            seen: HashMap::new(),
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the registers panicked")??;
    }
    Ok(())
}

struct Shared {
    keys: Keys,
    numbers: AtomicU64,
}

struct Task {
    dataset: Dataset,
    shared: Arc<Shared>,
    client: Client,
    rng: SmallRng,
    reads_only: bool,
    seen: HashMap<String, Seen>,
}

impl Task {
    /// What was seen of keys that are gone is forgotten beyond this.
    const SEEN_MAX: usize = 32;

    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let key = self.shared.keys.pick(&mut self.rng);
            if self.seen.len() > Self::SEEN_MAX {
                self.seen.clear();
            }
            let mut seen = self.seen.get(&key).copied();
            let f = match (self.rng.random_range(0..100_u32), seen) {
                _ if self.reads_only => F::Read,
                (0..20, _) => F::Read,
                (20..64, _) => F::Write,
                (64..72, _) => F::Create,
                (72..88, Some(_)) => F::Cas,
                (88..94, Some(_)) => F::DeleteIf,
                (94.., _) => F::Delete,
                (_, None) => F::Read,
            };
            // Half of the conditions are on what was there a moment ago, half on what may long be gone.
            if f == F::Cas && self.rng.random() {
                self.read(&key).await?;
                seen = self.seen.get(&key).copied();
            }
            let rests = match f {
                F::Read => self.read(&key).await?,
                F::Delete | F::DeleteIf => self.delete(&key, f, seen).await?,
                _ => self.put(&key, f, seen).await?,
            };
            stop.pause(if rests { REST } else { PAUSE }).await;
        }
        Ok(())
    }

    /// Whether to rest, as of all that follow.
    async fn read(&mut self, name: &str) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let asked = self.client.begin(name, F::Read);
        // Two ways to see a register: its metadata, which takes no KMS, and its bytes.
        let read = async {
            match self.rng.random_range(0..3) {
                0 => get(&self.dataset, &key).await,
                _ => head(&self.dataset, &key).await,
            }
        };
        let (ended, seen) = ended_read(timeout(OPERATION_MAX, read).await);
        if let Some(seen) = seen {
            self.seen.insert(name.to_owned(), seen);
        }
        let rests = matches!(ended, Ended::Fail(_));
        self.client.end(asked, ended);
        Ok(rests)
    }

    async fn put(&mut self, name: &str, f: F, seen: Option<Seen>) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let bytes = match self.rng.random_range(0..BLOCKS_ONE_IN) {
            0 => self.rng.random_range(20_000..60_000),
            _ => self.rng.random_range(16..2_000),
        };
        let body = Content::new(number, bytes).body();
        let precondition = match (f, seen) {
            (F::Create, _) => Precondition::Absent,
            (F::Cas, Some((_, version))) => Precondition::Is(version),
            _ => Precondition::Any,
        };
        let options = numbered(number, precondition);
        let mut asked = self.client.begin(name, f).value(number);
        if let (F::Cas, Some((old, _))) = (f, seen) {
            asked = asked.old(old);
        }
        let put = self.dataset.put(&key, body, &options);
        let ended = match timeout(OPERATION_MAX, put).await {
            Ok(Ok(done)) => {
                self.seen.insert(name.to_owned(), (number, done.version));
                Ended::Ok(None)
            }
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        Ok(self.end(name, asked, ended))
    }

    async fn delete(&mut self, name: &str, f: F, seen: Option<Seen>) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let mut asked = self.client.begin(name, f);
        let precondition = match (f, seen) {
            (F::DeleteIf, Some((old, version))) => {
                asked = asked.old(old);
                Precondition::Is(version)
            }
            _ => Precondition::Any,
        };
        let delete = self.dataset.delete(&key, None, precondition);
        let ended = match timeout(OPERATION_MAX, delete).await {
            Ok(Ok(_)) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        Ok(self.end(name, asked, ended))
    }

    fn end(&mut self, name: &str, asked: crate::recorder::Asked, ended: Ended) -> bool {
        let rests = match &ended {
            Ended::Info(_) => {
                self.shared.keys.doubt(name);
                true
            }
            Ended::Fail(why) => !matches!(why.as_str(), "precondition-failed" | "no-such-object"),
            Ended::Ok(_) | Ended::At(..) => false,
        };
        self.client.end(asked, ended);
        rests
    }
}

/// A put that says its number in its metadata.
pub(super) fn numbered(number: u64, precondition: Precondition) -> PutOptions {
    PutOptions {
        precondition,
        metadata: [(NUMBER.to_owned(), number.to_string())].into(),
        ..PutOptions::default()
    }
}

/// The number that metadata says.
pub(super) fn number_of(info: &ObjectInfo) -> Option<u64> {
    info.metadata.user.get(NUMBER)?.parse().ok()
}

/// What is there, what is wrong with it, or nothing.
pub(super) type Read = Option<Result<Seen, String>>;

pub(super) async fn head(dataset: &Dataset, key: &ObjectKey) -> Result<Read, Error> {
    match dataset.head(key, None).await {
        Ok(info) => {
            let seen = number_of(&info).map(|number| (number, info.version));
            Ok(Some(seen.ok_or_else(|| ended::broken("wrong-metadata"))))
        }
        Err(Error::NoSuchObject) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn get(dataset: &Dataset, key: &ObjectKey) -> Result<Read, Error> {
    let object = match dataset.get(key, &GetOptions::default()).await {
        Ok(object) => object,
        Err(Error::NoSuchObject) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (number, version) = (number_of(&object.info), object.info.version);
    let bytes: Bytes = object.body.into_bytes().await?;
    let content = Content::from_head(&bytes);
    let whole = content.filter(|content| {
        content.bytes == bytes.len() as u64
            && content.stands_at(0, &bytes)
            && Some(content.number) == number
    });
    let seen = whole.map(|content| (content.number, version));
    Ok(Some(seen.ok_or_else(|| ended::broken("wrong-bytes"))))
}

pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let keys = touched(&recorder.recall(Workload::Register)?, |op| op.f != F::Read);
    if keys.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let dataset = access.last_dataset(&region, DATASET).await?;
    let reads = keys.into_iter().map(|name| {
        let (dataset, mut client) = (dataset.clone(), recorder.client(Workload::Register));
        async move { last_read(&dataset, &mut client, &name).await }
    });
    let mut reads = futures::stream::iter(reads).buffer_unordered(LAST_AT_ONCE);
    while let Some(read) = reads.next().await {
        read?;
    }
    Ok(())
}

/// The last look at one register.
pub(super) async fn last_read(dataset: &Dataset, client: &mut Client, name: &str) -> Result<()> {
    let end = Instant::now() + LAST_LOOK_MAX;
    while read(dataset, client, name, true).await? && Instant::now() < end {
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

/// Reads an object whole; whether that failed and may be tried again.
pub(super) async fn read(
    dataset: &Dataset,
    client: &mut Client,
    name: &str,
    last: bool,
) -> Result<bool> {
    let key: ObjectKey = name.parse()?;
    let asked = client.begin(name, F::Read);
    let asked = if last { asked.last() } else { asked };
    let (ended, _) = ended_read(timeout(OPERATION_MAX, get(dataset, &key)).await);
    let again = matches!(&ended, Ended::Fail(why) if !why.starts_with(checker::BROKEN));
    client.end(asked, ended);
    Ok(again)
}

pub(super) fn ended_read(read: Result<Result<Read, Error>, Elapsed>) -> (Ended, Option<Seen>) {
    match read {
        Ok(Ok(Some(Ok(seen)))) => (Ended::Ok(Some(seen.0.into())), Some(seen)),
        Ok(Ok(Some(Err(broken)))) => (Ended::Fail(broken), None),
        Ok(Ok(None)) => (Ended::Ok(Some(Value::Null)), None),
        Ok(Err(error)) => (ended::of_read(&error), None),
        Err(_) => (Ended::Fail(ended::late()), None),
    }
}
