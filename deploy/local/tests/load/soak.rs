//! Memory under load that lasts: flat, in every process, once it is warm.
//!
//! Owns what flat means. It takes half an hour and runs with `REDUIT_FULL`, or for as many minutes as
//! `REDUIT_SOAK_MINUTES` says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use local::Local;
use local::s3::{Client, Credentials, Endpoint, Method, Request};
use tokio::task::JoinSet;

use crate::common::memory::taken;
use crate::common::s3::{access_key, gateway_of};
use crate::common::with_plan;

const BUCKET: &str = "soak";
const CLIENTS: u64 = 16;
/// Keys of each client, written over and over.
const KEYS: u64 = 200;
/// Sizes in turn: in the entry, in a block, in blocks.
const SIZES: [usize; 8] = [100, 1_000, 4_000, 10_000, 1_000, 50_000, 4_000, 300_000];
/// Every so many turns one is large.
const LARGE_EVERY: u64 = 500;
const LARGE: usize = 10 << 20;
const MINUTES: f64 = 30.0;
/// The part of the time that is for warming up: caches and buffers fill to their bounds.
const WARM: f64 = 0.4;
const SAMPLE: Duration = Duration::from_secs(5);
/// What the last of a process's samples may have over the first after warm-up.
const GROWTH_MAX: f64 = 1.10;
const GROWTH_MIB_MAX: f64 = 16.0;

fn minutes() -> Option<f64> {
    let stated = std::env::var("REDUIT_SOAK_MINUTES").ok();
    let stated = stated.map(|text| text.parse().expect("REDUIT_SOAK_MINUTES is a number"));
    let full = std::env::var_os("REDUIT_FULL").map(|_| MINUTES);
    stated.or(full)
}

#[test]
fn memory_is_flat_under_load_that_lasts() {
    let Some(minutes) = minutes() else {
        println!("skipped: half an hour: REDUIT_FULL=1, or REDUIT_SOAK_MINUTES");
        return;
    };
    with_plan(&[("ch-zrh", "CH", 3)], 1, async |local| {
        let key = access_key(local, "soak").await?;
        let endpoint = Endpoint {
            address: gateway_of(local)?.endpoint,
            region: "ch-zrh".to_owned(),
            credentials: Credentials::new(key.secret.id().to_string(), key.secret.text().as_str()),
        };
        let mut client = Client::new(&endpoint, BUCKET)?;
        done(&mut client, &Request::new(Method::Put, "")).await?;
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client::new(&endpoint, BUCKET)?;
            tasks.spawn(load(client, number, stop.clone(), count.clone()));
        }
        let sampled = sample(local, &mut tasks, &count, minutes * 60.0).await;
        stop.store(true, Ordering::Relaxed);
        while let Some(one) = tasks.join_next().await {
            one??;
        }
        flat(&sampled?)
    });
}

/// Samples of one process.
struct Samples {
    name: String,
    mib: Vec<f64>,
}

async fn sample(
    local: &Local,
    tasks: &mut JoinSet<Result<()>>,
    count: &AtomicU64,
    seconds: f64,
) -> Result<Vec<Samples>> {
    let started = Instant::now();
    let mut all: Vec<Samples> = Vec::new();
    let mut turn = 0_u64;
    while started.elapsed().as_secs_f64() < seconds {
        tokio::time::sleep(SAMPLE).await;
        if let Some(ended) = tasks.try_join_next() {
            ended??;
            bail!("a client ended early");
        }
        let now = taken(local)?;
        if all.is_empty() {
            let fresh = now.iter().map(|one| Samples {
                name: one.name.clone(),
                mib: Vec::new(),
            });
            all = fresh.collect();
        }
        for (samples, one) in all.iter_mut().zip(&now) {
            samples.mib.push(one.mib as f64);
        }
        if turn.is_multiple_of(12) {
            let said: Vec<_> = now
                .iter()
                .map(|one| format!("{} {}", one.name.rsplit('/').next().unwrap_or(""), one.mib))
                .collect();
            println!(
                "{:>5.0} s, {} requests, MiB: {}",
                started.elapsed().as_secs_f64(),
                count.load(Ordering::Relaxed),
                said.join(", ")
            );
        }
        turn += 1;
    }
    ensure!(
        count.load(Ordering::Relaxed) > CLIENTS * 100,
        "hardly any load"
    );
    Ok(all)
}

/// The middle of some samples: one flush more or less is no growth.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// A process whose memory grew after it was warm.
fn grew(samples: &[f64]) -> Option<(f64, f64)> {
    let warm = &samples[(samples.len() as f64 * WARM) as usize..];
    let quarter = warm.len().div_ceil(4);
    let (first, last) = (&warm[..quarter], &warm[warm.len() - quarter..]);
    let (first, last) = (median(first), median(last));
    (last > first * GROWTH_MAX + GROWTH_MIB_MAX).then_some((first, last))
}

fn flat(all: &[Samples]) -> Result<()> {
    let mut grown = Vec::new();
    for Samples { name, mib } in all {
        let warm = &mib[(mib.len() as f64 * WARM) as usize..];
        let most = mib.iter().copied().fold(0.0, f64::max);
        println!("{name}: warm {:.0} MiB, at most {most:.0}", median(warm));
        if let Some((first, last)) = grew(mib) {
            grown.push(format!("{name}: from {first:.0} to {last:.0} MiB"));
        }
    }
    ensure!(grown.is_empty(), "memory grew: {}", grown.join("; "));
    Ok(())
}

/// One client: puts, reads, lists and deletes over its own keys.
async fn load(
    mut client: Client,
    number: u64,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Result<()> {
    let large = Bytes::from(vec![b'l'; LARGE]);
    let mut turn = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let key = format!("{number}/{}", turn % KEYS);
        let body = match turn.is_multiple_of(LARGE_EVERY) {
            true => large.clone(),
            false => Bytes::from(vec![b's'; SIZES[turn as usize % SIZES.len()]]),
        };
        let put = Request::new(Method::Put, &*key)
            .header("x-amz-meta-turn", turn.to_string())
            .body(body.clone());
        done(&mut client, &put).await?;
        let read = done(&mut client, &Request::new(Method::Get, &*key)).await?;
        ensure!(read == body, "{key} is not what was put");
        count.fetch_add(2, Ordering::Relaxed);
        if turn.is_multiple_of(20) {
            let list = Request::new(Method::Get, "")
                .query("list-type", "2")
                .query("prefix", format!("{number}/"));
            done(&mut client, &list).await?;
            done(&mut client, &Request::new(Method::Delete, &*key)).await?;
            count.fetch_add(2, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// What a request is answered with; one that is slowed down comes again.
async fn done(client: &mut Client, request: &Request) -> Result<Bytes> {
    for _ in 0..100 {
        let answer = client.ask(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        ensure!(
            status.as_u16() == 503,
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None.context("slowed down a hundred times")
}

#[test]
fn growth_is_told_from_what_comes_and_goes() {
    let level: Vec<f64> = (0..100).map(|n| 100.0 + f64::from(n % 7) * 5.0).collect();
    assert!(grew(&level).is_none());
    let leak: Vec<f64> = (0..100).map(|n| 100.0 + f64::from(n)).collect();
    assert!(grew(&leak).is_some());
    let warming: Vec<f64> = (0..100).map(|n| 100.0 + f64::from(n.min(30) * 9)).collect();
    assert!(grew(&warming).is_none());
}
