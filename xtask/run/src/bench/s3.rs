//! Our S3 beside SeaweedFS's, in one run on one machine, by one loader.
//!
//! Owns the rows and the floors. Ours are three storage nodes, three KMS replicas and a gateway: every object sealed, on a
//! majority and synced before its put is answered, every get recorded by a majority and synced before its key is
//! released, hybrid TLS between all processes. Clients speak plain HTTP to both.

mod load;
mod seaweed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::{Identity, Role};
use local::files::OPERATORS;
use local::s3::{Credentials, Endpoint};
use local::{FederationPlan, Kind, Local, ceremony};
use rand::RngCore as _;
use serde_json::json;

use self::load::Loader;
use self::seaweed::Seaweed;
use super::Report;
use super::measure::{Device, Latency, Used};

const REGION: &str = "ch-zrh";
const BUCKET: &str = "bench";
/// A page of a listing.
const PAGE: usize = 1_000;
const PAGE_CLIENTS: usize = 8;

/// Size and clients of a row.
#[derive(Clone, Copy)]
struct Shape {
    label: &'static str,
    size: usize,
    clients: usize,
}

const ONE: Shape = Shape {
    label: "4 KiB",
    size: 4 << 10,
    clients: 1,
};
/// What is compared: the floor and aim of puts over their synced row, and the aim of gets over their sealed row; the floor of those is 1.
const COMPARED: [(Shape, [f64; 2], f64); 3] = [
    (
        Shape {
            label: "4 KiB",
            size: 4 << 10,
            clients: 64,
        },
        [2.0, 4.0],
        2.0,
    ),
    (
        Shape {
            label: "1 MiB",
            size: 1 << 20,
            clients: 8,
        },
        [2.5, 4.0],
        1.0,
    ),
    (
        Shape {
            label: "64 MiB",
            size: 64 << 20,
            clients: 2,
        },
        [2.5, 5.0],
        1.0,
    ),
];
const PUT_P50_BOUND_MS: f64 = 2.5;
const GET_P50_BOUND_MS: f64 = 2.0;
const LIST_BOUND_MS: f64 = 10.0;

pub(crate) async fn run(seconds: f64) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("reduit-bench-").tempdir()?;
    let window = Duration::from_secs_f64(seconds);
    let mut report = Report::new();
    let mut theirs = Vec::new();
    {
        let weed = Seaweed::start(&folder.path().join("seaweedfs")).await?;
        let used = || weed.used();
        for (shape, ..) in COMPARED {
            let meter = Meter::new(folder.path(), &used, window)?;
            let at = &weed.endpoint;
            let put = meter.row(
                "SeaweedFS fsync",
                At::new(at, seaweed::SYNCED, &[]),
                shape,
                Op::Put,
            );
            let put = put.await?;
            let sealed = At::new(at, seaweed::SEALED, &seaweed::SEALED_HEADERS);
            let sealed_put = meter
                .row("SeaweedFS SSE-S3", sealed, shape, Op::Put)
                .await?;
            let get = Op::Get(&sealed_put.stored);
            let get = meter.row("SeaweedFS SSE-S3", sealed, shape, get).await?;
            let rows = [put, sealed_put, get];
            for row in &rows {
                report.row(row.json.clone());
            }
            let [put, _, get] = rows;
            theirs.push((put.per_s, get.per_s));
        }
    }
    let mut plan = FederationPlan::demo();
    plan.regions.truncate(1);
    let mut local = Local::up(&folder.path().join("regions"), &plan.with_gateways(1)).await?;
    let measured = ours(&local, folder.path(), window, &theirs, &mut report).await;
    local.down()?;
    measured?;
    Ok(report)
}

async fn ours(
    local: &Local,
    dir: &std::path::Path,
    window: Duration,
    theirs: &[(f64, f64)],
    report: &mut Report,
) -> Result<()> {
    let endpoint = endpoint(local).await?;
    Loader::new(&endpoint, BUCKET, &[])?.create_bucket().await?;
    let used = || {
        let mut all = (0.0, 0);
        for service in local.services() {
            let used = Used::of(service.pid)?;
            all = (all.0 + used.cpu_ms, all.1 + used.rss_kib);
        }
        Ok(all)
    };
    let at = At::new(&endpoint, BUCKET, &[]);
    for ((shape, [floor, aim], get_aim), theirs) in COMPARED.into_iter().zip(theirs) {
        let meter = Meter::new(dir, &used, window)?;
        let put = meter.row("reduit", at, shape, Op::Put).await?;
        let get = meter.row("reduit", at, shape, Op::Get(&put.stored)).await?;
        for row in [&put, &get] {
            report.row(row.json.clone());
        }
        let Shape { label, clients, .. } = shape;
        let what = format!("PUT {label} at {clients} over SeaweedFS's fsync row");
        report.at_least(&what, put.per_s / theirs.0, floor, aim);
        let what = format!("GET {label} at {clients} over SeaweedFS's SSE-S3 row");
        report.at_least(&what, get.per_s / theirs.1, 1.0, get_aim);
    }
    let meter = Meter::new(dir, &used, window)?;
    let put = meter.row("reduit", at, ONE, Op::Put).await?;
    let get = meter.row("reduit", at, ONE, Op::Get(&put.stored)).await?;
    for row in [&put, &get] {
        report.row(row.json.clone());
    }
    let (put, get) = (put.p50_ms, get.p50_ms);
    report.at_most(
        "PUT 4 KiB, one client, p50 ms",
        put,
        PUT_P50_BOUND_MS,
        PUT_P50_BOUND_MS,
    );
    report.at_most(
        "GET 4 KiB, one client, p50 ms",
        get,
        GET_P50_BOUND_MS,
        GET_P50_BOUND_MS,
    );
    let listed = listing(&endpoint, window).await?;
    report.at_most(
        "a page of 1,000 keys, p50 ms",
        listed,
        LIST_BOUND_MS,
        LIST_BOUND_MS,
    );
    Ok(())
}

/// The gateway, and an access key that operators made.
pub(super) async fn endpoint(local: &Local) -> Result<Endpoint> {
    let region = local.federation.region(REGION)?;
    let gateway = region.living(Kind::Gateway).next().context("a gateway")?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let principal = Identity::new(region.region.clone(), Role::Service, "bench")?;
    let approvers = ceremony::approvers(region)?;
    let key = operator.create_access_key(&principal, &approvers).await?;
    Ok(Endpoint {
        address: gateway.endpoint.clone(),
        region: REGION.to_owned(),
        credentials: Credentials::new(key.secret.id().to_string(), key.secret.text().as_str()),
    })
}

/// p50 in ms of a page of a thousand keys.
async fn listing(endpoint: &Endpoint, window: Duration) -> Result<f64> {
    let mut filling = tokio::task::JoinSet::new();
    for client in 0..PAGE_CLIENTS {
        let mut loader = Loader::new(endpoint, BUCKET, &[])?;
        filling.spawn(async move {
            for at in (client..PAGE).step_by(PAGE_CLIENTS) {
                let key = format!("page/{at:06}");
                loader.put(&key, Bytes::from_static(b"listed")).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(one) = filling.join_next().await {
        one??;
    }
    let mut loader = Loader::new(endpoint, BUCKET, &[])?;
    let (mut latency, started) = (Latency::new(), Instant::now());
    while started.elapsed() < window {
        let began = Instant::now();
        let bytes = loader.list("page/", PAGE).await?;
        ensure!(bytes > 100 * PAGE as u64, "a page of {bytes} bytes");
        latency.record(began.elapsed());
    }
    let (p50, p99) = (latency.ms(0.5), latency.ms(0.99));
    println!("reduit, a page of {PAGE} keys: p50 {p50:.2} ms, p99 {p99:.2} ms");
    Ok(p50)
}

/// Where a row goes.
#[derive(Clone, Copy)]
struct At<'a> {
    endpoint: &'a Endpoint,
    bucket: &'static str,
    headers: &'a [(&'static str, &'static str)],
}

impl<'a> At<'a> {
    fn new(
        endpoint: &'a Endpoint,
        bucket: &'static str,
        headers: &'a [(&'static str, &'static str)],
    ) -> Self {
        Self {
            endpoint,
            bucket,
            headers,
        }
    }
}

struct Row {
    per_s: f64,
    p50_ms: f64,
    /// How many objects each client stored.
    stored: Vec<u64>,
    json: serde_json::Value,
}

#[derive(Clone, Copy)]
enum Op<'a> {
    Put,
    /// Of so many objects of each client.
    Get(&'a [u64]),
}

/// What is measured beside the clients' times.
struct Meter<'a> {
    device: Device,
    used: &'a dyn Fn() -> Result<(f64, u64)>,
    window: Duration,
}

impl<'a> Meter<'a> {
    fn new(
        dir: &std::path::Path,
        used: &'a dyn Fn() -> Result<(f64, u64)>,
        window: Duration,
    ) -> Result<Self> {
        Ok(Self {
            device: Device::below(dir)?,
            used,
            window,
        })
    }

    /// Puts, or gets what the put row before stored, until the window closes.
    async fn row(&self, server: &str, at: At<'_>, shape: Shape, op: Op<'_>) -> Result<Row> {
        let Shape {
            label,
            size,
            clients,
        } = shape;
        let mut body = vec![0; size];
        rand::rng().fill_bytes(&mut body);
        let body = Bytes::from(body);
        let written = self.device.written()?;
        let before = (self.used)()?;
        let own = Used::of(std::process::id())?;
        let retried = Arc::new(AtomicU64::new(0));
        let (started, window) = (Instant::now(), self.window);
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..clients {
            let mut loader = Loader::new(at.endpoint, at.bucket, at.headers)?;
            let (body, retried) = (body.clone(), retried.clone());
            let there = match op {
                Op::Put => None,
                Op::Get(stored) => Some(stored[client].max(1)),
            };
            tasks.spawn(async move {
                let (mut latency, mut turn) = (Latency::new(), 0);
                while started.elapsed() < window {
                    let began = Instant::now();
                    let key = |turn: u64| format!("{size}/{clients}/{client}/{turn}");
                    match there {
                        None => loader.put(&key(turn), body.clone()).await?,
                        Some(there) => {
                            let bytes = loader.get(&key(turn % there)).await?;
                            ensure!(bytes == size as u64, "another length came back");
                        }
                    }
                    latency.record(began.elapsed());
                    turn += 1;
                }
                retried.fetch_add(loader.retried, Ordering::Relaxed);
                Ok::<_, anyhow::Error>((client, turn, latency))
            });
        }
        let (mut latency, mut stored) = (Latency::new(), vec![0; clients]);
        while let Some(one) = tasks.join_next().await {
            let (client, turns, one) = one??;
            stored[client] = turns;
            latency.merge(&one);
        }
        let took = started.elapsed().as_secs_f64();
        let (cpu_ms, rss_kib) = (self.used)()?;
        let loader = Used::of(std::process::id())?.since(own).cpu_ms;
        let written = self.device.written()?.saturating_sub(written);
        let ops = latency.count() as f64;
        let per_s = ops / took;
        let megabytes = per_s * size as f64 / 1e6;
        let cpu = (cpu_ms - before.0) / ops;
        let amplification = written as f64 / (ops * size as f64);
        let retried = retried.load(Ordering::Relaxed);
        let (p50_ms, p99_ms) = (latency.ms(0.5), latency.ms(0.99));
        let op = match op {
            Op::Put => "PUT",
            Op::Get(_) => "GET",
        };
        println!(
            "{server:<18} {label:>7} {clients:>3} {op} {per_s:>9.1}/s {megabytes:>8.1} MB/s  p50 {p50_ms:>8.2} ms  p99 {p99_ms:>8.2} ms  CPU {cpu:.2} ms/op, loader {:.2}  {} MiB  written {amplification:.1}x  sent again {retried}",
            loader / ops,
            rss_kib >> 10,
        );
        let json = json!({
            "server": server, "label": label, "size": size, "clients": clients, "op": op, "per_s": per_s,
            "mb_per_s": megabytes, "p50_ms": p50_ms, "p99_ms": p99_ms, "cpu_ms_per_op": cpu,
            "loader_cpu_ms_per_op": loader / ops, "rss_mib": rss_kib >> 10,
            "bytes_written_per_byte": amplification, "sent_again": retried,
        });
        Ok(Row {
            per_s,
            p50_ms,
            stored,
            json,
        })
    }
}
