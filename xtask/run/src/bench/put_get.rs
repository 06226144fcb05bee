//! Objects through the SDK, real daemons, TLS, synced: 4 KiB, 1 MiB, 64 MiB at 1, 8, 64 clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use client::{CreateOptions, Dataset, GetOptions, PutOptions, Region, Tuning};
use local::{FederationPlan, Kind, Local};
use proto::ids::ObjectKey;
use rand::RngCore as _;
use serde_json::json;

use super::Report;
use super::measure::{Device, Latency, Used};

const SIZES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20)];
const CLIENTS: [usize; 3] = [1, 8, 64];
/// Large objects at many clients would only measure memory.
const IN_FLIGHT_BYTES_MAX: usize = 512 << 20;
const BLOCKS_BOUND: f64 = 1.15;
const INLINE_BOUND: f64 = 5.0;
const INLINE_AIM: f64 = 3.5;
/// Writes after which the log of a shard is as long as it gets: segments are reused, no new ones are made.
const LOG_FULL_AT: u64 = 110_000;
const FILLERS: u64 = 64;
/// Shorter windows would measure whether a flush falls into them.
const STEADY_SECONDS_MIN: f64 = 20.0;

pub(crate) async fn run(seconds: f64) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("reduit-bench-").tempdir()?;
    let dir = folder.path().join("regions");
    let mut plan = FederationPlan::demo();
    plan.regions.truncate(1);
    let mut local = Local::up(&dir, &plan).await?;
    let outcome = rows(&local, seconds).await;
    local.down()?;
    outcome
}

async fn rows(local: &Local, seconds: f64) -> Result<Report> {
    let mut report = Report::new();
    let idle: Vec<_> = local
        .services()
        .map(|service| Ok((service.name.clone(), Used::of(service.pid)?.rss_kib / 1024)))
        .collect::<Result<_>>()?;
    for (name, mib) in &idle {
        println!("idle {name}: {mib} MiB");
    }
    let largest = idle
        .iter()
        .filter(|(name, _)| name.contains("/n"))
        .map(|(_, mib)| *mib)
        .max()
        .unwrap_or(0);
    report.at_most("idle storage node, MiB", largest as f64, 80.0, 80.0);
    let context = local.federation.region("ch-zrh")?.context("app-1");
    let region = Region::connect(&context, Tuning::default()).await?;
    let dataset = region
        .create_dataset(&"bench".parse()?, &CreateOptions::default())
        .await?;
    println!(
        "{:<16} {:>7} {:>4} {:>10} {:>9} {:>9} {:>9} {:>22}",
        "size", "clients", "", "ops/s", "MB/s", "p50 ms", "p99 ms", "CPU ms/op by kind"
    );
    let mut inline = Vec::new();
    let mut blocks = Vec::new();
    for (label, size) in SIZES {
        for clients in CLIENTS {
            if clients > 1 && clients * size > IN_FLIGHT_BYTES_MAX {
                continue;
            }
            let limit = Duration::from_secs_f64(seconds);
            let row = Row {
                label,
                size,
                clients,
                limit,
            };
            let put = row.measure(local, &dataset, true).await?;
            let get = row.measure(local, &dataset, false).await?;
            if size <= 4 << 10 {
                inline.push(put.amplification)
            } else if clients > 1 {
                blocks.push(put.amplification)
            }
            for outcome in [put, get] {
                report.row(outcome.json);
            }
        }
        if size <= 4 << 10 {
            // A young region makes its log's segments, which writes each of them once more.
            fill(&dataset, size).await?;
            println!("once the log is as long as it gets:");
            for clients in CLIENTS {
                let row = Row {
                    label: "4 KiB, full log",
                    size,
                    clients,
                    limit: Duration::from_secs_f64(seconds.max(STEADY_SECONDS_MIN)),
                };
                let put = row.measure(local, &dataset, true).await?;
                inline.push(put.amplification);
                report.row(put.json);
            }
        }
    }
    let worst = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    report.at_most(
        "bytes written per sealed byte and replica, inline 4 KiB",
        worst(&inline),
        INLINE_BOUND,
        INLINE_AIM,
    );
    report.at_most(
        "bytes written per sealed byte and replica, blocks",
        worst(&blocks),
        BLOCKS_BOUND,
        BLOCKS_BOUND,
    );
    Ok(report)
}

/// Stores objects until the log is as long as it gets.
async fn fill(dataset: &Dataset, size: usize) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for filler in 0..FILLERS {
        let dataset = dataset.clone();
        tasks.spawn(async move {
            let body = Bytes::from(vec![0xF1; size]);
            for turn in 0..LOG_FULL_AT / FILLERS {
                let key = format!("fill/{filler}/{turn}").parse()?;
                dataset
                    .put(&key, body.clone(), &PutOptions::default())
                    .await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(one) = tasks.join_next().await {
        one??;
    }
    Ok(())
}

/// One line of the table.
struct Row {
    label: &'static str,
    size: usize,
    clients: usize,
    limit: Duration,
}

struct Measured {
    amplification: f64,
    json: serde_json::Value,
}

impl Row {
    async fn measure(&self, local: &Local, dataset: &Dataset, put: bool) -> Result<Measured> {
        let Self {
            label,
            size,
            clients,
            limit,
        } = *self;
        let mut body = vec![0; size];
        rand::rng().fill_bytes(&mut body);
        let body = Bytes::from(body);
        let name = move |client: usize, turn: u64| -> Result<ObjectKey> {
            Ok(format!("{label}/{clients}/{client}/{turn}").parse()?)
        };
        let device = Device::below(&local.federation.dir)?;
        let written_before = device.written()?;
        let before = used(local)?;
        let own = Used::of(std::process::id())?;
        let stored = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..clients {
            let (dataset, body, stored) = (dataset.clone(), body.clone(), stored.clone());
            tasks.spawn(async move {
                let mut latency = Latency::new();
                let mut turn = 0;
                while started.elapsed() < limit {
                    let began = Instant::now();
                    if put {
                        dataset
                            .put(&name(client, turn)?, body.clone(), &PutOptions::default())
                            .await?;
                    } else {
                        // What the put row before this one stored under this client, from the first on.
                        let object = dataset
                            .get(&name(client, turn)?, &GetOptions::default())
                            .await;
                        let object = match object {
                            Err(client::Error::NoSuchObject) if turn > 0 => {
                                turn = 0;
                                continue;
                            }
                            other => other?,
                        };
                        let mut reader = object.body;
                        let mut read = 0;
                        while let Some(chunk) = reader.chunk().await? {
                            read += chunk.len();
                        }
                        ensure!(read == size, "an object of another length came back");
                    }
                    latency.record(began.elapsed());
                    stored.fetch_add(1, Ordering::Relaxed);
                    turn += 1;
                }
                Ok::<_, anyhow::Error>(latency)
            });
        }
        let mut latency = Latency::new();
        while let Some(one) = tasks.join_next().await {
            latency.merge(&one??);
        }
        let took = started.elapsed().as_secs_f64();
        let ops = latency.count() as f64;
        let mut cpu = [0.0; 2];
        // Whatever the region writes, its KMS included; the machine should do nothing else meanwhile.
        let written = device.written()?.saturating_sub(written_before);
        let mut nodes = 0_u64;
        for ((kind, before), (_, after)) in before.into_iter().zip(used(local)?) {
            let delta = after.since(before);
            cpu[usize::from(kind == Kind::Kms)] += delta.cpu_ms;
            if kind == Kind::Node {
                nodes += 1;
            }
        }
        let client_cpu = Used::of(std::process::id())?.since(own).cpu_ms;
        let sealed = envelope::sealed_len(size as u64).unwrap_or(0) as f64 * ops;
        let amplification = if put {
            written as f64 / sealed.max(1.0) / nodes.max(1) as f64
        } else {
            0.0
        };
        let what = if put { "put" } else { "get" };
        let megabytes = ops * size as f64 / 1e6 / took;
        println!(
            "{label:<16} {clients:>7} {what:>4} {:>10.1} {megabytes:>9.1} {:>9.2} {:>9.2}   nodes {:.2} kms {:.2} client {:.2}  written/sealed {amplification:.2}",
            ops / took,
            latency.ms(0.5),
            latency.ms(0.99),
            cpu[0] / ops,
            cpu[1] / ops,
            client_cpu / ops,
        );
        let json = json!({
            "label": label, "size": size, "clients": clients, "op": what, "ops_per_s": ops / took, "mb_per_s": megabytes,
            "p50_ms": latency.ms(0.5), "p99_ms": latency.ms(0.99), "cpu_ms_per_op": {
                "nodes": cpu[0] / ops, "kms": cpu[1] / ops, "client": client_cpu / ops },
            "bytes_written_per_sealed_byte_and_replica": amplification,
        });
        Ok(Measured {
            amplification,
            json,
        })
    }
}

fn used(local: &Local) -> Result<Vec<(Kind, Used)>> {
    local
        .services()
        .map(|service| Ok((service.kind, Used::of(service.pid)?)))
        .collect()
}
