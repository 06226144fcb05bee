//! Versions of a key in a versioned dataset: each put appends one, listings show all of them.
//!
//! Owns the choice of keys and conditions. Each version says its number in its metadata. One append in four has a
//! condition on the version that its client saw last: refused, it must never be seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::{F, Workload};
use client::ids::{ObjectKey, ObjectVersionId};
use client::{Dataset, Precondition};
use local::files::CLIENTS;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::keys::{Keys, touched};
use super::register::{number_of, numbered};
use super::session::LAST_LOOK_MAX;
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const CLIENTS_MAX: u64 = 4;
const KEYS: usize = 2;
/// Operations on a key, of which three in five append: a listing stays one small page.
const OPERATIONS_MAX: u32 = 160;
const PAUSE: Duration = Duration::from_millis(20);
const REST: Duration = Duration::from_millis(100);
/// Versions of one page: more than a key gets.
const PAGE: u32 = 1_000;

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let shared = Arc::new((Keys::new("a", KEYS, OPERATIONS_MAX), AtomicU64::new(1)));
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS_MAX {
        let name = Workload::Append.name();
        let contact = access.contact(CLIENTS[0], name, true, &mut stop);
        let Some(dataset) = contact.await? else {
            break;
        };
        let (shared, mut stop) = (shared.clone(), stop.clone());
        let mut client_of = recorder.client(Workload::Append);
        let mut rng = SmallRng::seed_from_u64(access.seed ^ (0xa99 + client));
        tasks.spawn(async move {
            let (keys, numbers) = &*shared;
            let mut saw: Option<(String, ObjectVersionId)> = None;
            while !stop.is_now() {
                let name = keys.pick(&mut rng);
                let rests = if rng.random_range(0..5) < 3 {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let condition = saw.take().filter(|(key, _)| *key == name);
                    let precondition = match condition {
                        Some((_, version)) if rng.random_range(0..4) == 0 => {
                            Precondition::Is(version)
                        }
                        _ => Precondition::Any,
                    };
                    let client = &mut client_of;
                    let put = put(&dataset, client, &name, F::Append, number, precondition);
                    let done = put.await?;
                    saw = done.map(|version| (name, version));
                    done.is_none()
                } else {
                    list(&dataset, &mut client_of, &name, false).await
                };
                stop.pause(if rests { REST } else { PAUSE }).await;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the versions panicked")??;
    }
    Ok(())
}

/// Puts one version; the version it became, where that is known.
pub(super) async fn put(
    dataset: &Dataset,
    client: &mut Client,
    name: &str,
    f: F,
    number: u64,
    precondition: Precondition,
) -> Result<Option<ObjectVersionId>> {
    let key: ObjectKey = name.parse()?;
    let options = numbered(number, precondition);
    let asked = client.begin(name, f).value(number);
    let put = dataset.put(&key, Content::new(number, 64).body(), &options);
    let (ended, version) = match timeout(OPERATION_MAX, put).await {
        Ok(Ok(done)) => (Ended::Ok(None), Some(done.version)),
        Ok(Err(error)) => (ended::of_write(&error), None),
        Err(_) => (Ended::Info(ended::late()), None),
    };
    client.end(asked, ended);
    Ok(version)
}

/// Whether it went wrong.
pub(super) async fn list(dataset: &Dataset, client: &mut Client, name: &str, last: bool) -> bool {
    let asked = client.begin(name, F::Versions);
    let asked = if last { asked.last() } else { asked };
    let page = dataset.list_versions(name, None, PAGE);
    let ended = match timeout(OPERATION_MAX, page).await {
        Ok(Ok(page)) => {
            // Newest first; the history has them oldest first.
            let numbers = page.versions.iter().rev().map(number_of);
            let numbers: Option<Vec<u64>> = numbers.collect();
            let newest = page.versions.first();
            let sound = page.next.is_none()
                && newest.is_none_or(|newest| newest.is_current)
                && page.versions.iter().skip(1).all(|older| !older.is_current)
                && page
                    .versions
                    .iter()
                    .all(|version| version.key.as_str() == name);
            match numbers.filter(|_| sound) {
                Some(numbers) => Ended::At(page.at_index, numbers.into()),
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

/// Lists the versions of every key once more.
pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let keys = touched(&recorder.recall(Workload::Append)?, |op| {
        op.f != F::Versions
    });
    if keys.is_empty() {
        return Ok(());
    }
    let region = access.last_connect(CLIENTS[0]).await?;
    let dataset = access
        .last_dataset(&region, Workload::Append.name())
        .await?;
    let mut client = recorder.client(Workload::Append);
    for name in keys {
        last_list(&dataset, &mut client, &name).await;
    }
    Ok(())
}

/// The last look at one key.
pub(super) async fn last_list(dataset: &Dataset, client: &mut Client, name: &str) {
    let end = Instant::now() + LAST_LOOK_MAX;
    while list(dataset, client, name, true).await && Instant::now() < end {
        tokio::time::sleep(REST).await;
    }
}
