//! Uploads in parts, by two sessions: begun by one, gone on with by both, completed by either or by both at once, or
//! aborted while they are completed.
//!
//! Owns what becomes of each upload. Nothing of it is recorded before somebody asks for the object: what fails until then
//! is as if it had never begun. A key is a register, and its bytes say of which upload they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Workload};
use client::ids::ObjectKey;
use client::{CompleteOptions, Dataset, Error, PartId, PartOptions, Precondition, Upload};
use local::files::CLIENTS;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::blocks;
use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::register::numbered;
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const CLIENTS_MAX: u64 = 3;
const KEYS: usize = 2;
const OPERATIONS_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_millis(30);
const REST: Duration = Duration::from_millis(150);
/// Bytes of a part: some ride in their entry, the others go in blocks.
const PART: std::ops::Range<u64> = 1_000..60_000;
/// One in so many parts is put twice, by either session.
const AGAIN_ONE_IN: u32 = 5;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new((Keys::new("m", KEYS, OPERATIONS_MAX), AtomicU64::new(1)));
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let name = Workload::Parts.name();
            let contact = access.contact(CLIENTS[0], name, false, &mut stop);
            sessions.extend(contact.await?);
        }
        let Ok(sessions) = <[Dataset; 2]>::try_from(sessions) else {
            break;
        };
        let task = Task {
            sessions,
            clients: [(); 2].map(|()| recorder.client(Workload::Parts)),
            shared: shared.clone(),
            rng: SmallRng::seed_from_u64(access.seed ^ (0x9a87 + client)),
        };
        tasks.spawn(task.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the parts panicked")??;
    }
    Ok(())
}

struct Task {
    sessions: [Dataset; 2],
    /// Of the history, one a session.
    clients: [Client; 2],
    shared: Arc<(Keys, AtomicU64)>,
    rng: SmallRng,
}

/// An upload whose parts are all there, as both sessions hold it.
struct Ready {
    name: String,
    number: u64,
    uploads: [Upload; 2],
    parts: Vec<(u32, PartId)>,
}

impl Task {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            let name = self.shared.0.pick(&mut self.rng);
            let rests = match self.rng.random_range(0..10) {
                0..5 => self.upload(&name).await?,
                5 => self.delete(&name).await?,
                _ => {
                    let part = self.rng.random_range(0..3) == 0;
                    let by = self.rng.random_range(0..2);
                    let (dataset, client) = (&self.sessions[by], &mut self.clients[by]);
                    blocks::read(dataset, client, &name, part.then_some(&mut self.rng)).await?
                }
            };
            stop.pause(if rests { REST } else { PAUSE }).await;
        }
        Ok(())
    }

    /// Whether to rest.
    async fn upload(&mut self, name: &str) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let ready = timeout(OPERATION_MAX, self.ready(name, &key)).await;
        let Ok(Ok(ready)) = ready else {
            return Ok(true);
        };
        let by = self.rng.random_range(0..2);
        let end = self.rng.random_range(0..10);
        let [here, there] = &self.sessions;
        let [one, other] = &mut self.clients;
        let sure = match end {
            0..4 => complete(&self.sessions[by], &mut self.clients[by], &ready, by).await,
            4..7 => {
                let both = tokio::join!(
                    complete(here, one, &ready, 0),
                    complete(there, other, &ready, 1)
                );
                both.0 && both.1
            }
            7 => {
                let both =
                    tokio::join!(complete(here, one, &ready, 0), abort(there, other, &ready));
                both.0 && both.1
            }
            8 => abort(here, one, &ready).await && complete(there, other, &ready, 1).await,
            // Nobody ends it.
            _ => true,
        };
        if !sure {
            self.shared.0.doubt(name);
        }
        Ok(!sure)
    }

    async fn ready(&mut self, name: &str, key: &ObjectKey) -> Result<Ready, Error> {
        let number = self.shared.1.fetch_add(1, Ordering::Relaxed);
        let count = self.rng.random_range(2..=4);
        let lengths: Vec<_> = (0..count).map(|_| self.rng.random_range(PART)).collect();
        let content = Content::new(number, lengths.iter().sum());
        let [here, there] = &self.sessions;
        let options = numbered(number, Precondition::Any);
        let upload = here.create_upload(key, &options).await?;
        let found = there.find_upload(key, upload.id()).await?;
        let uploads = [upload, found];
        let (mut parts, mut start) = (Vec::new(), 0);
        for (number, length) in (1..).zip(lengths) {
            let by = self.rng.random_range(0..2);
            let put = async |by: usize, content: Content| {
                let body = content.slice(start, start + length);
                let options = PartOptions::default();
                let session = &self.sessions[by];
                session
                    .upload_part(&uploads[by], number, body, &options)
                    .await
            };
            if self.rng.random_range(0..AGAIN_ONE_IN) == 0 {
                // What another stream takes the place of: it must never be seen.
                let other = Content {
                    number: !content.number,
                    ..content
                };
                put(1 - by, other).await?;
            }
            parts.push((number, put(by, content).await?.id));
            start += length;
        }
        Ok(Ready {
            name: name.to_owned(),
            number,
            uploads,
            parts,
        })
    }

    async fn delete(&mut self, name: &str) -> Result<bool> {
        let key: ObjectKey = name.parse()?;
        let client = &mut self.clients[0];
        let asked = client.begin(name, F::Delete);
        let delete = self.sessions[0].delete(&key, None, Precondition::Any);
        let ended = match timeout(OPERATION_MAX, delete).await {
            Ok(Ok(_)) => Ended::Ok(None),
            Ok(Err(error)) => ended::of_write(&error),
            Err(_) => Ended::Info(ended::late()),
        };
        let sure = !matches!(ended, Ended::Info(_));
        if !sure {
            self.shared.0.doubt(name);
        }
        client.end(asked, ended);
        Ok(!sure)
    }
}

/// Whether its outcome is known.
async fn complete(session: &Dataset, client: &mut Client, ready: &Ready, by: usize) -> bool {
    let asked = client.begin(&ready.name, F::Complete).value(ready.number);
    let options = CompleteOptions::default();
    let complete = session.complete_upload(&ready.uploads[by], &ready.parts, &options);
    let ended = match timeout(OPERATION_MAX, complete).await {
        Ok(Ok(_)) => Ended::Ok(None),
        Ok(Err(error)) => ended::of_write(&error),
        Err(_) => Ended::Info(ended::late()),
    };
    let sure = !matches!(ended, Ended::Info(_));
    client.end(asked, ended);
    sure
}

/// Whether its outcome is known.
async fn abort(session: &Dataset, client: &mut Client, ready: &Ready) -> bool {
    let asked = client.begin(&ready.name, F::Abort).value(ready.number);
    let upload = &ready.uploads[0];
    let abort = session.abort_upload(upload.key(), upload.id());
    let ended = match timeout(OPERATION_MAX, abort).await {
        Ok(Ok(())) => Ended::Ok(None),
        Ok(Err(error)) => ended::of_write(&error),
        Err(_) => Ended::Info(ended::late()),
    };
    let sure = !matches!(ended, Ended::Info(_));
    client.end(asked, ended);
    sure
}

/// Reads every key once more.
pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let ops = recorder.recall(Workload::Parts)?;
    let keys = touched(&ops, |op| op.f != F::Read);
    if keys.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let dataset = access.last_dataset(&region, Workload::Parts.name()).await?;
    let mut client = recorder.client(Workload::Parts);
    for name in keys {
        blocks::last_read(&dataset, &mut client, &name, access.patience).await?;
    }
    Ok(())
}
