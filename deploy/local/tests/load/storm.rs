//! Kill -9 of any one process every two seconds, and a rolling restart of all, under a mixed load of S3: no request fails
//! after its retries, no byte is lost or wrong.
//!
//! The storm takes 20 s, or 180 s with `REDUIT_FULL`; `REDUIT_SEED` says another seed than chance. The daemons are taken from `REDUIT_BIN`,
//! else from beside the test's own folder; where they are not built the test says that it skips.

mod content;
mod history;
mod kills;
mod large;
mod load;
mod locked;
mod objects;
mod s3;

use std::sync::Arc;
use std::time::Duration;

use crate::common::s3::access_key;
use crate::common::with_plan;
use anyhow::{Context as _, Result, bail, ensure};
use checker::{F, Needed, Op, Verdict, Workload};
use local::s3::{Credentials, Endpoint, Method, Request};
use local::{Kind, Local};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use content::content;
use history::History;
use kills::{Kills, rolling_restart, storm};
use load::{LOCKED, PLAIN, Shared, Source, Worker};
use s3::{Bucket, Tally};

const MEMBERS: u32 = 3;
/// A client goes to the one or to the other.
const GATEWAYS: u32 = 2;
const WORKERS: u64 = 8;
const SOURCES: u64 = 4;
/// Requests that are answered before anything is disturbed, so that there is something to lose.
const ANSWERED_BEFORE: usize = 150;
/// How long they may take.
const WARM_UP_MAX: Duration = Duration::from_secs(60);
/// How long workers may take to come to an end, and to read everything back.
const END_MAX: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(180);
const SHORT: Duration = Duration::from_secs(20);
/// Turns of two seconds of which each has to be a kill, but for those that a slow start took.
const TURN_SECONDS: u64 = 3;

/// What it takes for a verdict on objects.
const OBJECTS: Needed<'static> = &[
    (F::Read, 60),
    (F::Write, 20),
    (F::Create, 3),
    (F::Cas, 3),
    (F::Clear, 5),
];
/// And on what is locked.
const LOCKS: Needed<'static> = &[(F::Lock, 4), (F::Versions, 2), (F::Read, 2)];

fn endpoints(local: &Local, credentials: &Credentials) -> Result<Vec<Endpoint>> {
    let region = local.federation.region("ch-zrh")?;
    let endpoint = |service: &local::Service| Endpoint {
        address: service.endpoint.clone(),
        region: "ch-zrh".to_owned(),
        credentials: credentials.clone(),
    };
    Ok(region.living(Kind::Gateway).map(endpoint).collect())
}

/// Both buckets, and objects to be copied.
async fn prepared(
    gateways: &[Endpoint],
    history: &History,
    tally: &Arc<Mutex<Tally>>,
) -> Result<Vec<Source>> {
    let mut vault = Bucket::new(gateways, LOCKED, 1, tally)?;
    let create = Request::new(Method::Put, "").header("x-amz-bucket-object-lock-enabled", "true");
    let made = vault.ask("a bucket with object lock", create).await?;
    ensure!(made.status == 200, "{}", made.text());
    let mut plain = Bucket::new(gateways, PLAIN, 2, tally)?;
    let made = plain.ask("a bucket", Request::new(Method::Put, "")).await?;
    ensure!(made.status == 200, "{}", made.text());
    let mut sources = Vec::new();
    for at in 0..SOURCES {
        let source = Source {
            key: format!("source/{at}"),
            content: history.number(),
            bytes: 1 + at * 70_000,
        };
        let put = Request::new(Method::Put, source.key.as_str());
        let body = content(source.content, 0..source.bytes);
        let put = plain.ask("a source", put.body(body)).await?;
        ensure!(put.status == 200, "{}", put.text());
        sources.push(source);
    }
    Ok(sources)
}

/// Everything that was written, read once more.
async fn read_back(mut worker: Worker, shared: &Shared) {
    let keys = shared.keys.all();
    let large = shared.large.lock().clone();
    for key in keys.iter().chain(&large) {
        drop(worker.read(key, false, true).await);
    }
    for key in locked::keys() {
        worker.list_versions(&key, true).await;
    }
    let versions = shared.locked.lock().clone();
    for version in &versions {
        worker.read_version(version, true).await;
    }
}

fn judged(ops: &[Op]) -> Result<()> {
    let of = |workload: Workload, needed| {
        let own = ops.iter().filter(|op| op.workload == workload).cloned();
        checker::judge(workload, &own.collect::<Vec<_>>(), needed)
    };
    let verdicts = [of(Workload::Register, OBJECTS), of(Workload::Locks, LOCKS)];
    for verdict in &verdicts {
        println!(
            "  {}: {} operations, {} ok, {} refused, {} unknown; {:?}",
            verdict.workload,
            verdict.operations,
            verdict.ok,
            verdict.fail,
            verdict.info,
            verdict.by_kind
        );
    }
    let wrong: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.valid).collect();
    ensure!(
        wrong.is_empty(),
        "not valid: {}",
        serde_json::to_string_pretty(&wrong)?
    );
    Ok(())
}

fn told(tally: &mut Tally, what: &str, ended: &Kills) {
    let took = &mut tally.took;
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 1_000].as_millis();
    println!("  {} {what}: {ended:?}", ended.values().sum::<u32>(),);
    println!(
        "  {} requests, {} tries more than one; p50 {} ms, p99 {} ms, p99.9 {} ms, longest {} ms",
        took.len(),
        tally.tried_again,
        at(500),
        at(990),
        at(999),
        at(1_000)
    );
}

/// Has processes ended by `disturb` while workers go on, and judges what these saw.
async fn under_load(
    local: &mut Local,
    seed: u64,
    what: &str,
    disturb: impl AsyncFnOnce(&mut Local) -> Result<Kills>,
) -> Result<Kills> {
    let key = access_key(local, "storm").await?;
    let credentials = Credentials::new(key.secret.id().to_string(), key.secret.text().as_str());
    let gateways = endpoints(local, &credentials)?;
    let (history, tally) = (History::begin(), Arc::<Mutex<Tally>>::default());
    let sources = prepared(&gateways, &history, &tally).await?;
    let shared = Arc::new(Shared::new(history, sources, tally.clone()));
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    for at in 0..WORKERS {
        let worker = Worker::new(&shared, &gateways, at.to_string(), seed ^ (at + 1))?;
        workers.spawn(worker.run(stopped.clone()));
    }
    let mut answered = tally.lock().answered.subscribe();
    let warm = answered.wait_for(|answered| *answered >= ANSWERED_BEFORE);
    let warm = tokio::time::timeout(WARM_UP_MAX, warm).await;
    warm.context("clients are hardly answered")??;
    let disturbed = disturb(local).await;
    stop.send_replace(true);
    let disturbed = disturbed?;
    let ended = async {
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        let reader = Worker::new(&shared, &gateways, "last".to_owned(), seed)?;
        read_back(reader, &shared).await;
        anyhow::Ok(())
    };
    match tokio::time::timeout(END_MAX, ended).await {
        Ok(ended) => ended?,
        Err(_) => bail!("the end takes longer than {END_MAX:?}"),
    }
    told(&mut tally.lock(), what, &disturbed);
    let failed = std::mem::take(&mut tally.lock().failed);
    let Ok(shared) = Arc::try_unwrap(shared) else {
        bail!("a worker goes on");
    };
    let (ops, nameless) = shared.history.close();
    let verdict = judged(&ops);
    ensure!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
    verdict?;
    ensure!(nameless.is_empty(), "listed and never put: {nameless:?}");
    Ok(disturbed)
}

fn seed() -> u64 {
    let named = std::env::var("REDUIT_SEED").ok();
    let seed = named.map(|seed| seed.parse().expect("REDUIT_SEED is a number"));
    seed.unwrap_or_else(|| rand::random_range(0..1_000_000))
}

/// P5, P6, with S3's own clients' patience.
#[test]
fn no_request_fails_and_no_byte_is_lost_while_processes_are_killed() {
    let full = std::env::var_os("REDUIT_FULL").is_some();
    let length = if full { LONG } else { SHORT };
    let seed = seed();
    println!("storm: seed {seed}, {length:?}");
    with_plan(&[("ch-zrh", "CH", MEMBERS)], GATEWAYS, async |local| {
        let kills = under_load(local, seed, "kills", async |local| {
            storm(local, StdRng::seed_from_u64(seed), length).await
        });
        let killed: u32 = kills.await?.values().sum();
        let least = length.as_secs() / TURN_SECONDS;
        ensure!(u64::from(killed) >= least, "only {killed} kills");
        Ok(())
    });
}

/// As an operator brings a new version in: each process is asked to end, and comes back before the next is.
#[test]
fn no_request_fails_and_no_byte_is_lost_in_a_rolling_restart() {
    let seed = seed();
    println!("rolling restart: seed {seed}");
    with_plan(&[("ch-zrh", "CH", MEMBERS)], GATEWAYS, async |local| {
        let restarts = under_load(local, seed, "restarts", rolling_restart);
        let restarted = restarts.await?;
        let all = local.services().count();
        ensure!(restarted.len() == all, "{} of {all}", restarted.len());
        Ok(())
    });
}
