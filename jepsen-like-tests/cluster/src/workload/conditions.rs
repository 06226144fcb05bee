//! Registers of which every change is on a condition, and whose clients race for the next one.
//!
//! Owns the race: each looks, and then asks for a change of what it saw, or of what was there before. The dataset keeps
//! versions: what a delete leaves is a marker, which is no version to a condition. Some changes are completions of
//! uploads in parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Workload};
use client::ids::ObjectKey;
use client::{
    CompleteOptions, Dataset, Error, PartId, PartOptions, Precondition, PutOutcome, Upload,
};
use local::files::CLIENTS;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::register::{Seen, ended_read, get, head, last_read, numbered};
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const CLIENTS_MAX: u64 = 5;
const KEYS: usize = 2;
const OPERATIONS_MAX: u32 = 160;
const PAUSE: Duration = Duration::from_millis(15);
/// After a failure that says nothing of the register.
const REST: Duration = Duration::from_millis(100);
/// One in so many changes is the completion of an upload.
const PARTS_ONE_IN: u32 = 6;
/// One in so many conditions is on what was there before.
const STALE_ONE_IN: u32 = 5;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new((Keys::new("c", KEYS, OPERATIONS_MAX), AtomicU64::new(1)));
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        let name = Workload::Conditions.name();
        let contact = access.contact(CLIENTS[0], name, true, &mut stop);
        let Some(dataset) = contact.await? else {
            break;
        };
        let task = Task {
            dataset,
            shared: shared.clone(),
            client: recorder.client(Workload::Conditions),
            rng: SmallRng::seed_from_u64(access.seed ^ (0xc04d + client)),
            before: None,
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the conditions panicked")??;
    }
    Ok(())
}

struct Task {
    dataset: Dataset,
    shared: Arc<(Keys, AtomicU64)>,
    client: Client,
    rng: SmallRng,
    /// What it saw last, and under which key.
    before: Option<(String, Seen)>,
}

/// An upload with all its parts.
type Ready = (Upload, Vec<(u32, PartId)>);

impl Task {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let name = self.shared.0.pick(&mut self.rng);
            let rests = match self.look(&name).await? {
                None => true,
                Some(seen) => self.change(&name, seen).await?,
            };
            stop.pause(if rests { REST } else { PAUSE }).await;
        }
        Ok(())
    }

    /// What is there, where that could be seen.
    async fn look(&mut self, name: &str) -> Result<Option<Option<Seen>>> {
        let key: ObjectKey = name.parse()?;
        let asked = self.client.begin(name, F::Read);
        let look = async {
            match self.rng.random_range(0..4) {
                0 => get(&self.dataset, &key).await,
                _ => head(&self.dataset, &key).await,
            }
        };
        let (ended, seen) = ended_read(timeout(OPERATION_MAX, look).await);
        let looked = matches!(ended, Ended::Ok(_));
        self.client.end(asked, ended);
        Ok(looked.then_some(seen))
    }

    /// Whether to rest.
    async fn change(&mut self, name: &str, seen: Option<Seen>) -> Result<bool> {
        let stale = self.rng.random_range(0..STALE_ONE_IN) == 0;
        let before = self.before.take().filter(|(key, _)| stale && key == name);
        let on = before.map(|(_, seen)| seen).or(seen);
        self.before = seen.map(|seen| (name.to_owned(), seen));
        let f = match (on, self.rng.random_range(0..10)) {
            (None, _) | (_, 0) => F::Create,
            (_, 1) => F::DeleteIf,
            _ => F::Cas,
        };
        let on = on.filter(|_| f != F::Create);
        match f {
            F::DeleteIf => self.delete(name, on).await,
            _ => self.put(name, f, on).await,
        }
    }

    async fn put(&mut self, name: &str, f: F, on: Option<Seen>) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let number = self.shared.1.fetch_add(1, Ordering::Relaxed);
        let content = Content::new(number, self.rng.random_range(16..40_000));
        let precondition = on.map_or(Precondition::Absent, |(_, seen)| Precondition::Is(seen));
        let ready = match self.rng.random_range(0..PARTS_ONE_IN) {
            0 => match timeout(OPERATION_MAX, self.ready(&key, content)).await {
                Ok(Ok(ready)) => Some(ready),
                // Nobody asked for the object yet.
                Ok(Err(_)) | Err(_) => return Ok(true),
            },
            _ => None,
        };
        let mut asked = self.client.begin(name, f).value(number);
        if let Some((old, _)) = on {
            asked = asked.old(old);
        }
        let put = self.commit(&key, content, precondition, ready);
        let ended = match timeout(OPERATION_MAX, put).await {
            Ok(Ok(done)) => {
                self.before = Some((name.to_owned(), (number, done.version)));
                Ended::Ok(None)
            }
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        Ok(self.end(name, asked, ended))
    }

    /// An upload of which all is there but its end.
    async fn ready(&self, key: &ObjectKey, content: Content) -> Result<Ready, Error> {
        let options = numbered(content.number, Precondition::Any);
        let upload = self.dataset.create_upload(key, &options).await?;
        let options = PartOptions::default();
        let part = self
            .dataset
            .upload_part(&upload, 1, content.body(), &options);
        let part = part.await?;
        Ok((upload, vec![(part.number, part.id)]))
    }

    async fn commit(
        &self,
        key: &ObjectKey,
        content: Content,
        precondition: Precondition,
        ready: Option<Ready>,
    ) -> Result<PutOutcome, Error> {
        let Some((upload, parts)) = ready else {
            let options = numbered(content.number, precondition);
            return self.dataset.put(key, content.body(), &options).await;
        };
        let options = CompleteOptions {
            precondition,
            ..CompleteOptions::default()
        };
        self.dataset
            .complete_upload(&upload, &parts, &options)
            .await
    }

    async fn delete(&mut self, name: &str, on: Option<Seen>) -> Result<bool> {
        let (key, Some((old, seen))): (ObjectKey, _) = (name.parse()?, on) else {
            return Ok(false);
        };
        let asked = self.client.begin(name, F::DeleteIf).old(old);
        let delete = self.dataset.delete(&key, None, Precondition::Is(seen));
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
                self.shared.0.doubt(name);
                true
            }
            Ended::Fail(why) => why != "precondition-failed",
            Ended::Ok(_) | Ended::At(..) => false,
        };
        self.client.end(asked, ended);
        rests
    }
}

/// Reads every key once more.
pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let ops = recorder.recall(Workload::Conditions)?;
    let keys = touched(&ops, |op| op.f != F::Read);
    if keys.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let name = Workload::Conditions.name();
    let dataset = access.last_dataset(&region, name).await?;
    let mut client = recorder.client(Workload::Conditions);
    for name in keys {
        last_read(&dataset, &mut client, &name).await?;
    }
    Ok(())
}
