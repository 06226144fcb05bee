//! Requests that are sent again: at the same time from several tasks, and long after they were answered.
//!
//! Owns the memory of requests to send again. Between the sends others write to the same key, so that an effect that
//! comes twice, or late, stands in the wrong place: in the list of versions, or, on keys that hold one version, in place
//! of what replaced it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Op, Workload};
use client::ids::{ObjectKey, ObjectVersionId};
use client::{Dataset, Precondition, Prepared};
use local::files::CLIENTS;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::append::{last_list, list, put};
use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::register::{last_read, numbered, read};
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

/// Of the dataset without versions.
const PLAIN: &str = "retry-plain";
const CLIENTS_MAX: u64 = 3;
const KEYS: usize = 2;
const OPERATIONS_MAX: u32 = 90;
const PAUSE: Duration = Duration::from_millis(25);
/// Sends of one request at one time.
const AT_ONCE: usize = 3;
/// Requests of one client that are sent again later.
const REMEMBERED_MAX: usize = 24;
/// One in so many requests goes in blocks.
const BLOCKS_ONE_IN: u32 = 6;

/// A refusal of an exact copy of a request that is known: the copies were taken for different requests, or the window
/// for shorter than it is.
const NEVER: [&str; 2] = ["request-id-reused", "request-too-old"];

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new(Shared {
        versioned: Keys::new("t", KEYS, OPERATIONS_MAX),
        plain: Keys::new("u", KEYS, OPERATIONS_MAX),
        numbers: AtomicU64::new(1),
    });
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        // The last of them on keys of one version.
        let plain = client + 1 == CLIENTS_MAX;
        let name = if plain { PLAIN } else { Workload::Retry.name() };
        let contact = access.contact(CLIENTS[0], name, !plain, &mut stop);
        let Some(dataset) = contact.await? else {
            break;
        };
        let senders = (0..AT_ONCE).map(|_| recorder.client(Workload::Retry));
        let task = Task {
            dataset,
            plain,
            shared: shared.clone(),
            senders: senders.collect(),
            rng: SmallRng::seed_from_u64(access.seed ^ (0x4e7 + client)),
            remembered: VecDeque::new(),
            saw: None,
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the retries panicked")??;
    }
    Ok(())
}

impl Shared {
    fn keys(&self, plain: bool) -> &Keys {
        match plain {
            true => &self.plain,
            false => &self.versioned,
        }
    }
}

struct Request {
    key: String,
    number: u64,
    prepared: Prepared,
}

struct Shared {
    versioned: Keys,
    plain: Keys,
    numbers: AtomicU64,
}

struct Task {
    dataset: Dataset,
    plain: bool,
    shared: Arc<Shared>,
    /// Of one request's sends at one time; each a client of the history.
    senders: Vec<Client>,
    rng: SmallRng,
    remembered: VecDeque<Request>,
    saw: Option<(String, ObjectVersionId)>,
}

impl Task {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let name = self.shared.keys(self.plain).pick(&mut self.rng);
            match self.rng.random_range(0..10) {
                0..3 => self.fresh(&name).await?,
                3..6 => self.again().await,
                6..8 => {
                    let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
                    let f = if self.plain { F::Write } else { F::Append };
                    let (dataset, client) = (&self.dataset, &mut self.senders[0]);
                    let done = put(dataset, client, &name, f, number, Precondition::Any).await?;
                    self.saw = done.map(|version| (name, version));
                }
                _ if self.plain => {
                    read(&self.dataset, &mut self.senders[0], &name, false).await?;
                }
                _ => drop(list(&self.dataset, &mut self.senders[0], &name, false).await),
            }
            stop.pause(PAUSE).await;
        }
        Ok(())
    }

    /// A new request, sent more than once at the same time.
    async fn fresh(&mut self, name: &str) -> Result<()> {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let key: ObjectKey = name.parse()?;
        let seen = self.saw.take().filter(|(key, _)| key == name);
        let precondition = match seen {
            Some((_, version)) if self.rng.random() => Precondition::Is(version),
            _ => Precondition::Any,
        };
        let bytes = match self.rng.random_range(0..BLOCKS_ONE_IN) {
            0 => 40_000,
            _ => 64,
        };
        let options = numbered(number, precondition);
        let body = Content::new(number, bytes).body();
        let prepare = self.dataset.prepare(&key, body, &options);
        // One that was not made was not sent.
        let Ok(Ok(prepared)) = timeout(OPERATION_MAX, prepare).await else {
            return Ok(());
        };
        let request = Request {
            key: name.to_owned(),
            number,
            prepared,
        };
        let times = self.rng.random_range(1..=AT_ONCE);
        let unknown = self.send(&request, times).await;
        if unknown {
            self.shared.keys(self.plain).doubt(name);
        }
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(request);
        Ok(())
    }

    /// One that was sent before, whatever its answer was.
    async fn again(&mut self) {
        if self.remembered.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.remembered.len());
        let Some(request) = self.remembered.remove(at) else {
            return;
        };
        let times = self.rng.random_range(1..=AT_ONCE);
        self.send(&request, times).await;
        self.remembered.push_back(request);
    }

    /// Whether none of the sends was answered.
    async fn send(&mut self, request: &Request, times: usize) -> bool {
        let sends = self.senders.iter_mut().take(times);
        let sent = futures::future::join_all(sends.map(|client| send(request, client))).await;
        sent.into_iter().all(|answered| !answered)
    }
}

async fn send(request: &Request, client: &mut Client) -> bool {
    let asked = client.begin(&request.key, F::Send).old(request.number);
    let ended = match timeout(OPERATION_MAX, request.prepared.send()).await {
        Ok(Ok(done)) => {
            let replaced = done.replaced.map(|version| version.to_string());
            let answer = format!("{} for {}", done.version, replaced.unwrap_or_default());
            Ended::Ok(Some(answer.into()))
        }
        Ok(Err(error)) if NEVER.contains(&error.reason()) => {
            Ended::Fail(ended::broken(error.reason()))
        }
        Ok(Err(error)) => ended::of_write(&error),
        Err(_) => Ended::Info(ended::late()),
    };
    let answered = matches!(ended, Ended::Ok(_));
    client.end(asked, ended);
    answered
}

/// Keys to look at in the end: of every request, whatever its sends were answered. A refusal that is not kept under the
/// request's id leaves a copy free that is under way, as the judge sees it.
fn looked_at(ops: &[Op]) -> BTreeSet<String> {
    let written = touched(ops, |op| !matches!(op.f, F::Versions | F::Read));
    let sent = ops.iter().filter(|op| op.f == F::Send);
    written
        .into_iter()
        .chain(sent.map(|op| op.key.clone()))
        .collect()
}

pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let ops = recorder.recall(Workload::Retry)?;
    let plain = |key: &str| key.starts_with("u/");
    let keys = looked_at(&ops);
    let (plain, versioned): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| plain(key));
    let region = access.last_connect(CLIENTS[0]).await?;
    let mut client = recorder.client(Workload::Retry);
    if !versioned.is_empty() {
        let dataset = access.last_dataset(&region, Workload::Retry.name()).await?;
        for name in versioned {
            last_list(&dataset, &mut client, &name).await;
        }
    }
    if !plain.is_empty() {
        let dataset = access.last_dataset(&region, PLAIN).await?;
        for name in plain {
            last_read(&dataset, &mut client, &name).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_requests_were_all_refused_for_now_is_looked_at_all_the_same() {
        let line = |client: u32, f: &str, key: &str, kind: &str| {
            format!(
                r#"{{"client":{client},"workload":"retry","key":"{key}","f":"{f}","old":1,"call":1,"ret":2,"type":"{kind}","error":"disk-full"}}"#
            )
        };
        let lines = [
            line(1, "send", "t/1", "fail"),
            line(2, "append", "t/2", "fail"),
            line(3, "versions", "t/3", "ok"),
            line(4, "append", "t/4", "ok"),
        ];
        let lines = lines.join("\n");
        let ops: Result<Vec<Op>, _> = checker::Reader::new(lines.as_bytes()).collect();
        let ops = ops.expect("a history");
        let keys: Vec<_> = looked_at(&ops).into_iter().collect();
        assert_eq!(keys, ["t/1", "t/4"]);
    }
}
