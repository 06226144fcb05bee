//! Registers of a dataset that moves from one region to another: both regions are one system to their clients.
//!
//! Owns clients that begin in the source and follow, and clients that wait in the destination from the beginning: what
//! is served there too early is seen. Owns as well what lies there before it moves, what was deleted before, and the
//! word on two writers: a write acknowledged in the source that began after one was acknowledged in the destination.

mod served;
mod sides;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Workload};
use client::ids::{DatasetId, GroupId, ObjectKey};
use client::{CreateOptions, Dataset, Error, Precondition, PutOptions};
use local::files::CLIENTS;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Stop;
use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::Keys;
use super::register::{Seen, ended_read, get, head, numbered};
use crate::recorder::{Asked, Client, Ended, Recorder};

pub(crate) use served::Served;
pub(crate) use sides::{Sides, only_one_accepts, read_back};

/// Who uses the data, in both regions.
const APP: &str = CLIENTS[0];
/// Clients that begin in the source and follow; one of them only reads.
const FOLLOWERS: u64 = 4;
/// Clients that wait in the destination.
const WAITING: u64 = 2;
const KEYS: usize = 3;
const OPERATIONS_MAX: u32 = 120;
/// The number of the first write.
const FIRST: u64 = 1;
const PAUSE: Duration = Duration::from_millis(15);
const REST: Duration = Duration::from_millis(100);
/// What lies there before it moves: objects in the log, objects in blocks, objects that are deleted.
const SMALL: u64 = 24;
const LARGE: u64 = 8;
const GONE: u64 = 8;
const SMALL_BYTES: u64 = 3_000;
const LARGE_BYTES: u64 = 60_000;
/// Objects that lie there when it moves, and their bytes.
pub(crate) const LAID: u64 = SMALL + LARGE;
/// See `LAID`.
pub(crate) const LAID_BYTES: u64 = SMALL * SMALL_BYTES + LARGE * LARGE_BYTES;
/// Where bytes are taken out of each of them, and how many.
const PIECE_AT: u64 = 1_024;
const PIECE_BYTES: u64 = 32;
/// What is forgotten of keys beyond this.
const SEEN_MAX: usize = 32;

/// Texts of a dataset that moves which may be read by its clients alone.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    /// An object's bytes.
    pub(crate) content: String,
    /// Its user metadata, and its tags.
    pub(crate) metadata: String,
    /// An object's name: nodes see it.
    pub(crate) object: String,
    /// The end of the dataset's name: nodes see it.
    pub(crate) dataset: String,
}

impl Texts {
    /// What may be seen on no wire.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        let all = [&self.content, &self.metadata, &self.object, &self.dataset];
        all.map(|text| text.clone().into_bytes()).into()
    }

    /// What may be seen by nodes neither.
    pub(crate) fn sealed(&self) -> [&[u8]; 2] {
        [self.content.as_bytes(), self.metadata.as_bytes()]
    }
}

/// What is written before it moves, in order; the first has the number 1.
fn laid() -> impl Iterator<Item = (String, u64)> {
    let sized = |prefix: &'static str, count: u64, bytes: u64| {
        (0..count).map(move |at| (format!("{prefix}/{at:03}"), bytes))
    };
    let all = sized("small", SMALL, SMALL_BYTES).chain(sized("large", LARGE, LARGE_BYTES));
    all.chain(sized("gone", GONE, SMALL_BYTES))
}

/// Bytes out of every object that lies there when it moves: as they stand in plaintext alone.
pub(crate) fn plaintexts() -> Vec<Vec<u8>> {
    let objects = laid().take(LAID as usize).zip(FIRST..);
    let pieces = objects.map(|((_, bytes), number)| {
        Content::new(number, bytes).slice(PIECE_AT, PIECE_AT + PIECE_BYTES)
    });
    pieces.map(|piece| piece.to_vec()).collect()
}

struct Shared {
    keys: Keys,
    numbers: AtomicU64,
    served: Mutex<Served>,
}

/// Clients at work on a dataset that moves.
pub(crate) struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
    /// The dataset, and where it is in the source.
    pub(crate) dataset: DatasetId,
    pub(crate) shard: GroupId,
}

impl Load {
    /// Makes the dataset in the source with what lies in it, and begins.
    pub(crate) async fn begin(sides: &Sides, texts: &Texts, recorder: &Recorder) -> Result<Self> {
        let shared = Arc::new(Shared {
            keys: Keys::new("r", KEYS, OPERATIONS_MAX),
            numbers: AtomicU64::new(FIRST),
            served: Mutex::default(),
        });
        let region = sides.access(false).last_connect(APP).await?;
        let options = CreateOptions::default();
        let made = region.create_dataset(&sides.name, &options);
        let dataset = made.await.context("making the dataset that moves")?;
        fill(&dataset, &shared, recorder, texts).await?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..FOLLOWERS + WAITING {
            let task = Task {
                sides: sides.clone(),
                shared: shared.clone(),
                client: recorder.client(Workload::Register),
                begins_there: number >= FOLLOWERS,
                reads_only: number == 0,
                rng: SmallRng::seed_from_u64(sides.seed ^ (number + 1)),
                seen: HashMap::new(),
            };
            tasks.spawn(task.run(Stop(stopped.clone())));
        }
        Ok(Self {
            shared,
            stop,
            tasks,
            dataset: dataset.id(),
            shard: dataset.shard(),
        })
    }

    /// So many writes were acknowledged in each region up to now.
    pub(crate) fn served(&self) -> Served {
        *self.shared.served.lock()
    }

    /// Ends between operations, and says where writes were acknowledged.
    pub(crate) async fn end(mut self) -> Result<Served> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a client of a dataset that moves panicked")??;
        }
        Ok(self.served())
    }
}

async fn fill(
    dataset: &Dataset,
    shared: &Shared,
    recorder: &Recorder,
    texts: &Texts,
) -> Result<()> {
    let options = PutOptions {
        metadata: [("canary".to_owned(), texts.metadata.clone())].into(),
        tags: [("canary".to_owned(), texts.metadata.clone())].into(),
        ..PutOptions::default()
    };
    let key: ObjectKey = texts.object.parse()?;
    let put = dataset.put(&key, texts.content.clone().into_bytes(), &options);
    put.await.context("the canary")?;
    let mut client = recorder.client(Workload::Register);
    for (name, bytes) in laid() {
        let key: ObjectKey = name.parse()?;
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
        let asked = client.begin(&name, F::Write).value(number);
        let body = Content::new(number, bytes).body();
        let options = numbered(number, Precondition::Any);
        let put = dataset.put(&key, body, &options);
        put.await.with_context(|| format!("filling {name}"))?;
        client.end(asked, Ended::Ok(None));
        if name.starts_with("gone") {
            let asked = client.begin(&name, F::Delete);
            let deleted = dataset.delete(&key, None, Precondition::Any);
            deleted.await.with_context(|| format!("deleting {name}"))?;
            client.end(asked, Ended::Ok(None));
        }
    }
    Ok(())
}

struct Task {
    sides: Sides,
    shared: Arc<Shared>,
    client: Client,
    begins_there: bool,
    reads_only: bool,
    rng: SmallRng,
    seen: HashMap<String, Seen>,
}

/// What comes after an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Rest,
    /// The dataset has moved: it is looked for.
    Follow,
}

impl Task {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        let access = self.sides.access(self.begins_there);
        let Some(region) = access.connect(APP, &mut stop).await? else {
            return Ok(());
        };
        if !self.begins_there {
            region.follow_to([self.sides.destination.context(APP)]);
        }
        let (mut held, mut moved) = (None, self.begins_there);
        while !stop.is_now() {
            let dataset = match held.take() {
                Some(dataset) => dataset,
                // In the destination nobody is served before the cutover: refused, again and again.
                None => match region.dataset(&self.sides.name).await {
                    Ok(dataset) => dataset,
                    Err(_) => {
                        stop.pause(REST).await;
                        continue;
                    }
                },
            };
            let then = self.operation(&dataset, moved).await?;
            match then {
                Then::Follow => moved = true,
                Then::GoOn | Then::Rest => held = Some(dataset),
            }
            let pause = if then == Then::GoOn { PAUSE } else { REST };
            stop.pause(pause).await;
        }
        Ok(())
    }

    async fn operation(&mut self, dataset: &Dataset, moved: bool) -> Result<Then> {
        let name = self.shared.keys.pick(&mut self.rng);
        if self.seen.len() > SEEN_MAX {
            self.seen.clear();
        }
        let seen = self.seen.get(&name).copied();
        let f = match (self.rng.random_range(0..100_u32), seen) {
            _ if self.reads_only => F::Read,
            (0..30, _) => F::Read,
            (30..64, _) => F::Write,
            (64..74, _) => F::Create,
            (74..86, Some(_)) => F::Cas,
            (86..92, Some(_)) => F::DeleteIf,
            (92.., _) => F::Delete,
            (_, None) => F::Read,
        };
        match f {
            F::Read => self.read(dataset, &name).await,
            F::Delete | F::DeleteIf => self.delete(dataset, &name, f, seen, moved).await,
            _ => self.put(dataset, &name, f, seen, moved).await,
        }
    }

    async fn read(&mut self, dataset: &Dataset, name: &str) -> Result<Then> {
        let key: ObjectKey = name.parse()?;
        let asked = self.client.begin(name, F::Read);
        let whole = self.rng.random_range(0..3) == 0;
        let read = async {
            match whole {
                true => get(dataset, &key).await,
                false => head(dataset, &key).await,
            }
        };
        let read = timeout(OPERATION_MAX, read).await;
        let follow = matches!(read, Ok(Err(Error::Moved { .. })));
        let (ended, seen) = ended_read(read);
        if let Some(seen) = seen {
            self.seen.insert(name.to_owned(), seen);
        }
        let rests = matches!(ended, Ended::Fail(_));
        self.client.end(asked, ended);
        Ok(match (follow, rests) {
            (true, _) => Then::Follow,
            (false, true) => Then::Rest,
            (false, false) => Then::GoOn,
        })
    }

    async fn put(
        &mut self,
        dataset: &Dataset,
        name: &str,
        f: F,
        seen: Option<Seen>,
        moved: bool,
    ) -> Result<Then> {
        let key: ObjectKey = name.parse()?;
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let body = Content::new(number, self.rng.random_range(16..2_000)).body();
        let precondition = match (f, seen) {
            (F::Create, _) => Precondition::Absent,
            (F::Cas, Some((_, version))) => Precondition::Is(version),
            _ => Precondition::Any,
        };
        let mut asked = self.client.begin(name, f).value(number);
        if let (F::Cas, Some((old, _))) = (f, seen) {
            asked = asked.old(old);
        }
        let (sent, options) = (Instant::now(), numbered(number, precondition));
        let put = timeout(OPERATION_MAX, dataset.put(&key, body, &options)).await;
        if let Ok(Ok(done)) = &put {
            self.shared.served.lock().count(moved, sent);
            self.seen.insert(name.to_owned(), (number, done.version));
        }
        Ok(self.changed(name, asked, put.map(|done| done.map(drop))))
    }

    async fn delete(
        &mut self,
        dataset: &Dataset,
        name: &str,
        f: F,
        seen: Option<Seen>,
        moved: bool,
    ) -> Result<Then> {
        let key: ObjectKey = name.parse()?;
        let mut asked = self.client.begin(name, f);
        let precondition = match (f, seen) {
            (F::DeleteIf, Some((old, version))) => {
                asked = asked.old(old);
                Precondition::Is(version)
            }
            _ => Precondition::Any,
        };
        let sent = Instant::now();
        let delete = dataset.delete(&key, None, precondition);
        let deleted = timeout(OPERATION_MAX, delete).await;
        if matches!(deleted, Ok(Ok(_))) {
            self.shared.served.lock().count(moved, sent);
        }
        Ok(self.changed(name, asked, deleted.map(|done| done.map(drop))))
    }

    fn changed(
        &mut self,
        name: &str,
        asked: Asked,
        change: Result<Result<(), Error>, tokio::time::error::Elapsed>,
    ) -> Then {
        let (ended, then) = match change {
            Ok(Ok(())) => (Ended::Ok(None), Then::GoOn),
            Ok(Err(error)) => {
                let then = match &error {
                    Error::Moved { .. } => Then::Follow,
                    Error::PreconditionFailed { .. } | Error::NoSuchObject => Then::GoOn,
                    _ => Then::Rest,
                };
                (ended::of_write(&error), then)
            }
            Err(_) => (Ended::Info(ended::late()), Then::Rest),
        };
        if matches!(ended, Ended::Info(_)) {
            self.shared.keys.doubt(name);
        }
        self.client.end(asked, ended);
        then
    }
}
