//! Large objects: put whole or not at all, read whole or in part, to the byte.
//!
//! Owns sizes and the comparison of bytes as they come. Nothing is kept: an object's bytes follow from the number of
//! its write. A key is a register, so that what a read sees can be judged.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as Poll1, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Workload};
use client::ids::ObjectKey;
use client::{Body, Dataset, Error, GetOptions, Precondition};
use local::files::CLIENTS;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::content::{Content, HEAD_BYTES};
use super::ended;
use super::keys::{Keys, touched};
use super::register::{number_of, numbered};
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const DATASET: &str = "blocks";
const CLIENTS_MAX: u64 = 3;
/// Of these, how many upload from sources that stall.
const SLOW: u64 = 1;
const KEYS: usize = 3;
const OPERATIONS_MAX: u32 = 24;
const PAUSE: Duration = Duration::from_millis(150);
const REST: Duration = Duration::from_millis(250);
/// An upload waits up to 30 s for a majority, a download's block 20 s for a replica.
const OPERATION_MAX: Duration = Duration::from_secs(45);

const SMALL: std::ops::Range<u64> = (40 << 10)..(200 << 10);
const MIDDLE: std::ops::Range<u64> = (1 << 20)..(4 << 20);
const LARGE: std::ops::Range<u64> = (8 << 20)..(20 << 20);
/// Where a slow source stalls: a block is stored and nothing refers to it.
const STALL_AT: u64 = 9 << 20;
/// For how long: until an epoch that began meanwhile is flushed, and what goes with it is unlinked.
const STALL: Duration = Duration::from_secs(25);
/// Plaintext of large objects, at first and then by the second: disks hold three sealed copies, what is replaced goes
/// late, and a scrubber is to come round.
const LARGE_BYTES_FIRST: u64 = 256 << 20;
const LARGE_BYTES_A_SECOND: u64 = 1 << 20;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let Some(region) = access.connect(CLIENTS[0], &mut stop).await? else {
        return Ok(());
    };
    let Some(dataset) = access.dataset(&region, DATASET, false, &mut stop).await? else {
        return Ok(());
    };
    let shared = Arc::new(Shared {
        keys: Keys::new("b", KEYS, OPERATIONS_MAX),
        numbers: AtomicU64::new(1),
        bytes: AtomicU64::new(0),
        began: Instant::now(),
    });
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        let task = Task {
            dataset: dataset.clone(),
            shared: shared.clone(),
            client: recorder.client(Workload::Blocks),
            rng: SmallRng::seed_from_u64(access.seed ^ (0xb10 + client)),
            slow: client < SLOW,
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the blocks panicked")??;
    }
    Ok(())
}

struct Shared {
    keys: Keys,
    numbers: AtomicU64,
    bytes: AtomicU64,
    began: Instant,
}

struct Task {
    dataset: Dataset,
    shared: Arc<Shared>,
    client: Client,
    rng: SmallRng,
    slow: bool,
}

impl Task {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let name = self.shared.keys.pick(&mut self.rng);
            let rests = match self.rng.random_range(0..20) {
                _ if self.slow => self.put(&name, Some(stop.clone())).await?,
                0..9 => self.put(&name, None).await?,
                9 => self.delete(&name).await?,
                _ => {
                    let part = self.rng.random_range(0..3) == 0;
                    let (dataset, client) = (&self.dataset, &mut self.client);
                    read(dataset, client, &name, part.then_some(&mut self.rng)).await?
                }
            };
            stop.pause(if rests { REST } else { PAUSE }).await;
        }
        Ok(())
    }

    fn bytes(&mut self) -> u64 {
        let granted =
            LARGE_BYTES_FIRST + self.shared.began.elapsed().as_secs() * LARGE_BYTES_A_SECOND;
        let spent = self.shared.bytes.load(Ordering::Relaxed) >= granted;
        let range = match self.rng.random_range(0..20) {
            _ if spent => SMALL,
            0 => LARGE,
            1..4 => MIDDLE,
            _ => SMALL,
        };
        self.rng.random_range(range)
    }

    /// With `stalls`, from a source that stalls unless the run ends.
    async fn put(&mut self, name: &str, stalls: Option<Stop>) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let bytes = match &stalls {
            Some(_) => STALL_AT + self.rng.random_range(SMALL),
            None => self.bytes(),
        };
        let content = Content::new(number, bytes);
        self.shared
            .bytes
            .fetch_add(content.bytes, Ordering::Relaxed);
        // A stream goes by once; bytes at hand are sent again.
        let body = match (stalls, self.rng.random_range(0..3)) {
            (Some(mut stop), _) => {
                let over = async move { stop.pause(STALL).await };
                Body::stream(Stream::new(content, Some(Box::pin(over))))
            }
            (None, 0) => Body::stream(Stream::new(content, None)),
            (None, _) => content.body().into(),
        };
        let options = numbered(number, Precondition::Any);
        let asked = self.client.begin(name, F::Write).value(number);
        let put = self.dataset.put(&key, body, &options);
        let ended = match timeout(OPERATION_MAX, put).await {
            Ok(Ok(_)) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        Ok(self.end(name, asked, ended))
    }

    async fn delete(&mut self, name: &str) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let asked = self.client.begin(name, F::Delete);
        let delete = self.dataset.delete(&key, None, Precondition::Any);
        let ended = match timeout(OPERATION_MAX, delete).await {
            Ok(Ok(_)) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        Ok(self.end(name, asked, ended))
    }

    fn end(&mut self, name: &str, asked: crate::recorder::Asked, ended: Ended) -> bool {
        let rests = !matches!(ended, Ended::Ok(_));
        if matches!(ended, Ended::Info(_)) {
            self.shared.keys.doubt(name);
        }
        self.client.end(asked, ended);
        rests
    }
}

/// Whether it went wrong. With `part`, only a range by chance is read.
pub(super) async fn read(
    dataset: &Dataset,
    client: &mut Client,
    name: &str,
    part: Option<&mut SmallRng>,
) -> Result<bool> {
    let key: ObjectKey = name.parse()?;
    let asked = client.begin(name, F::Read);
    let read = timeout(OPERATION_MAX, compare(dataset, &key, part)).await;
    let ended = ended_read(read);
    let failed = matches!(ended, Ended::Fail(_));
    client.end(asked, ended);
    Ok(failed)
}

fn ended_read(
    read: Result<Result<Option<Result<u64, String>>, Error>, tokio::time::error::Elapsed>,
) -> Ended {
    match read {
        Ok(Ok(Some(Ok(number)))) => Ended::Ok(Some(number.into())),
        Ok(Ok(Some(Err(broken)))) => Ended::Fail(broken),
        Ok(Ok(None)) => Ended::Ok(Some(Value::Null)),
        Ok(Err(error)) => ended::of_read(&error),
        Err(_) => Ended::Fail(ended::late()),
    }
}

/// Which write's bytes are there, what is wrong with them, or nothing.
async fn compare(
    dataset: &Dataset,
    key: &ObjectKey,
    part: Option<&mut SmallRng>,
) -> Result<Option<Result<u64, String>>, Error> {
    let wrong = |what: &str| Ok(Some(Err(ended::broken(what))));
    let range = part.map(|rng| {
        let start = rng.random_range(0..SMALL.start);
        (start, start + rng.random_range(1..LARGE.end))
    });
    let options = GetOptions {
        range,
        ..GetOptions::default()
    };
    let mut object = match dataset.get(key, &options).await {
        Ok(object) => object,
        Err(Error::NoSuchObject) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(number) = number_of(&object.info) else {
        return wrong("wrong-metadata");
    };
    let content = Content::new(number, object.info.bytes);
    let (start, end) = range.unwrap_or((0, content.bytes));
    let mut at = start;
    while let Some(piece) = object.body.chunk().await? {
        if !content.stands_at(at, &piece) {
            return wrong("wrong-bytes");
        }
        at += piece.len() as u64;
    }
    if content.bytes < HEAD_BYTES || at != end.min(content.bytes) {
        return wrong("wrong-length");
    }
    Ok(Some(Ok(number)))
}

/// The end of a stall.
type Over = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A body that is made as it is read.
struct Stream {
    content: Content,
    at: u64,
    stall: Option<Over>,
}

impl Stream {
    fn new(content: Content, stall: Option<Over>) -> Self {
        Self {
            content,
            at: 0,
            stall,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Poll1<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.at >= STALL_AT
            && let Some(stall) = &mut self.stall
        {
            ready!(stall.as_mut().poll(context));
            self.stall = None;
        }
        let end = self.at + out.remaining() as u64;
        let piece = self.content.slice(self.at, end);
        self.at += piece.len() as u64;
        out.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let keys = touched(&recorder.recall(Workload::Blocks)?, |op| op.f != F::Read);
    if keys.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let dataset = access.last_dataset(&region, DATASET).await?;
    let mut client = recorder.client(Workload::Blocks);
    for name in keys {
        last_read(&dataset, &mut client, &name, access.patience).await?;
    }
    Ok(())
}

/// The last look at one object; one that cannot be read is tried again for as long as `patience` lasts.
pub(super) async fn last_read(
    dataset: &Dataset,
    client: &mut Client,
    name: &str,
    patience: Duration,
) -> Result<()> {
    let key: ObjectKey = name.parse()?;
    let end = Instant::now() + patience;
    loop {
        let asked = client.begin(name, F::Read).last();
        let read = timeout(OPERATION_MAX, compare(dataset, &key, None)).await;
        let ended = ended_read(read);
        let again = matches!(&ended, Ended::Fail(why) if !why.starts_with(checker::BROKEN));
        client.end(asked, ended);
        if !again || Instant::now() > end {
            return Ok(());
        }
        tokio::time::sleep(REST).await;
    }
}
