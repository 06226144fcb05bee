//! Opens of our KMS beside encrypts of OpenBao's transit engine, in one run on one machine.
//!
//! Owns the rows and the floors. Ours are three replicas, TLS 1.3 with a hybrid exchange between all, every open
//! committed by a majority, synced and in a leaf of the log before its key is sent; theirs is one server. Callers are of
//! one identity and claim, so that opens that are recorded together share a leaf; one row, and the log's, are of requests
//! that share none.

mod openbao;
mod ours;

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use client::CreateOptions;
use local::{FederationPlan, Kind, Local, ceremony};
use serde_json::json;

use self::openbao::OpenBao;
use self::ours::Caller;
use super::Report;
use super::measure::{Latency, Used};

const CLIENTS: [usize; 3] = [1, 16, 64];
/// Items of a batch, and clients that send them.
const BATCH: usize = 100;
const BATCH_CLIENTS: usize = 16;
/// Streams that fill the log, with 128 opens under way in each: more would only wait longer for their turn, and the
/// receipts behind them.
const STREAMS: usize = 2;
const OPENS_FLOOR: f64 = 2.0;
const OPENS_AIM: f64 = 3.0;
const PIPELINED_FLOOR: f64 = 5.0;
const BATCH_FLOOR: f64 = 2.0;
const RECORDS_FLOOR: f64 = 10_000.0;
const RECEIPT_BOUND_MS: f64 = 200.0;

pub(crate) async fn run(seconds: f64) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("reduit-bench-").tempdir()?;
    let window = Duration::from_secs_f64(seconds);
    let mut report = Report::new();
    let theirs = {
        let server = OpenBao::start(&folder.path().join("openbao")).await?;
        Theirs::measure(&server, window, &mut report).await?
    };
    let mut plan = FederationPlan::demo();
    plan.regions.truncate(1);
    let mut local = Local::up(&folder.path().join("regions"), &plan).await?;
    let measured = Ours::measure(&local, window, &mut report).await;
    local.down()?;
    judge(&measured?, &theirs, &mut report);
    Ok(report)
}

/// What one row came to.
#[derive(Clone, Copy)]
struct Row {
    per_s: f64,
    p99_ms: f64,
}

struct Theirs {
    encrypts: Vec<Row>,
    batch_items_per_s: f64,
    cpu_ms: f64,
}

struct Ours {
    opens: Vec<Row>,
    pipelined: Row,
    batch_items_per_s: f64,
    cpu_ms: f64,
    leader_cpu_ms: f64,
    records: Row,
    receipt_p99_ms: f64,
}

/// Runs `task` once a caller until the window closes; each counts `items` a call.
async fn row<C, F, Fut>(
    label: &str,
    callers: Vec<C>,
    items: usize,
    window: Duration,
    task: F,
    report: &mut Report,
) -> Result<Row>
where
    C: Send + 'static,
    F: Fn(C, Instant) -> Fut,
    Fut: Future<Output = Result<Latency>> + Send + 'static,
{
    let clients = callers.len();
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in callers {
        tasks.spawn(task(caller, started + window));
    }
    let mut latency = Latency::new();
    while let Some(one) = tasks.join_next().await {
        latency.merge(&one??);
    }
    let per_s = latency.count() as f64 * items as f64 / started.elapsed().as_secs_f64();
    let row = Row {
        per_s,
        p99_ms: latency.ms(0.99),
    };
    println!(
        "{label:<28} {clients:>3} {per_s:>10.0}/s  p50 {:>8.2} ms  p99 {:>8.2} ms",
        latency.ms(0.5),
        row.p99_ms
    );
    report.row(json!({
        "label": label, "clients": clients, "per_s": per_s, "p50_ms": latency.ms(0.5), "p99_ms": row.p99_ms,
    }));
    Ok(row)
}

impl Theirs {
    async fn measure(server: &OpenBao, window: Duration, report: &mut Report) -> Result<Self> {
        let encrypts = |items: usize| {
            move |mut caller: openbao::Caller, until: Instant| async move {
                let mut latency = Latency::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    caller.encrypt(items).await?;
                    latency.record(began.elapsed());
                }
                Ok(latency)
            }
        };
        let callers = async |count: usize| {
            let mut all = Vec::new();
            for _ in 0..count {
                all.push(server.caller().await?);
            }
            Ok::<_, anyhow::Error>(all)
        };
        let mut rows = Vec::new();
        let mut cpu_ms = 0.0;
        let unaudited = server.audited()?;
        for clients in CLIENTS {
            let before = Used::of(server.pid())?;
            let started = Instant::now();
            let callers = callers(clients).await?;
            let done = row("OpenBao encrypt", callers, 1, window, encrypts(1), report).await?;
            let used = Used::of(server.pid())?.since(before).cpu_ms;
            cpu_ms = used / (done.per_s * started.elapsed().as_secs_f64());
            rows.push(done);
        }
        let callers = callers(BATCH_CLIENTS).await?;
        let task = encrypts(BATCH);
        let batch = row(
            "OpenBao encrypt, batch",
            callers,
            BATCH,
            window,
            task,
            report,
        )
        .await?;
        let audited = server.audited()? - unaudited;
        ensure!(audited > 0, "OpenBao wrote no audit line");
        println!("OpenBao's audit file grew by {} MiB", audited >> 20);
        Ok(Self {
            encrypts: rows,
            batch_items_per_s: batch.per_s,
            cpu_ms,
        })
    }
}

impl Ours {
    async fn measure(local: &Local, window: Duration, report: &mut Report) -> Result<Self> {
        let region = local.federation.region("ch-zrh")?;
        let app = ceremony::connect(region, "app-1").await?;
        let dataset = app
            .create_dataset(&"bench".parse()?, &CreateOptions::default())
            .await?;
        let dataset = dataset.id().into();
        let callers = async |count: usize| {
            let mut all = Vec::new();
            for _ in 0..count {
                all.push(Caller::new(local, &dataset).await?);
            }
            Ok::<_, anyhow::Error>(all)
        };
        let opens = |items: usize| {
            move |mut caller: Caller, until: Instant| async move {
                let mut latency = Latency::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    caller.open(items).await?;
                    latency.record(began.elapsed());
                }
                Ok(latency)
            }
        };
        let streamed =
            |mut caller: Caller, until: Instant| async move { caller.pipelined(until).await };
        let (_, _, leading) = ours::leader(local).await?;
        let mut rows = Vec::new();
        let (mut cpu_ms, mut leader_cpu_ms) = (0.0, 0.0);
        for clients in CLIENTS {
            let callers = callers(clients).await?;
            let before = used(local, leading)?;
            let started = Instant::now();
            let done = row("reduit open", callers, 1, window, opens(1), report).await?;
            let after = used(local, leading)?;
            let count = done.per_s * started.elapsed().as_secs_f64();
            cpu_ms = (after.0 - before.0) / count;
            leader_cpu_ms = (after.1 - before.1) / count;
            rows.push(done);
        }
        let alone = callers(CLIENTS[2]).await?;
        let alone = alone.into_iter().map(Caller::with_own_cases).collect();
        row(
            "reduit open, a leaf each",
            alone,
            1,
            window,
            opens(1),
            report,
        )
        .await?;
        let one = callers(1).await?;
        let pipelined = row("reduit open, one stream", one, 1, window, streamed, report).await?;
        let batched = callers(BATCH_CLIENTS).await?;
        let task = opens(BATCH);
        let batch = row("reduit open, batch", batched, BATCH, window, task, report).await?;
        let mut sampler = callers(1).await?.pop().context("a caller")?;
        let streams = callers(STREAMS).await?;
        let streams = streams.into_iter().map(Caller::with_own_cases).collect();
        let sampling = async {
            let mut latency = Latency::new();
            let until = Instant::now() + window;
            while Instant::now() < until {
                latency.record(sampler.receipt_time().await?);
            }
            Ok::<_, anyhow::Error>(latency)
        };
        let filling = row("reduit log, records", streams, 1, window, streamed, report);
        let (records, receipts) = tokio::try_join!(filling, sampling)?;
        Ok(Self {
            opens: rows,
            pipelined,
            batch_items_per_s: batch.per_s,
            cpu_ms,
            leader_cpu_ms,
            records,
            receipt_p99_ms: receipts.ms(0.99),
        })
    }
}

/// CPU of every replica, and of the leading one, in ms.
fn used(local: &Local, leading: u32) -> Result<(f64, f64)> {
    let mut all = 0.0;
    for service in local.services().filter(|s| s.kind == Kind::Kms) {
        all += Used::of(service.pid)?.cpu_ms;
    }
    Ok((all, Used::of(leading)?.cpu_ms))
}

fn judge(ours: &Ours, theirs: &Theirs, report: &mut Report) {
    for (at, clients) in CLIENTS.iter().enumerate() {
        let ratio = ours.opens[at].per_s / theirs.encrypts[at].per_s;
        let what = format!("opens over OpenBao's encrypts, {clients} clients");
        // The floor is of many clients; one client's open waits for a sync that an encrypt does not wait for.
        let floor = if *clients == CLIENTS[2] {
            OPENS_FLOOR
        } else {
            0.0
        };
        report.at_least(&what, ratio, floor, OPENS_AIM);
    }
    let (mine, other) = (ours.opens[2].p99_ms, theirs.encrypts[2].p99_ms);
    report.at_most("p99 over OpenBao's, 64 clients", mine / other, 1.0, 1.0);
    let ratio = ours.pipelined.per_s / theirs.encrypts[0].per_s;
    let what = "one pipelined stream over OpenBao's one client";
    report.at_least(what, ratio, PIPELINED_FLOOR, PIPELINED_FLOOR);
    let ratio = ours.batch_items_per_s / theirs.batch_items_per_s;
    let what = "items of batches of 100 over OpenBao's";
    report.at_least(what, ratio, BATCH_FLOOR, BATCH_FLOOR);
    println!(
        "CPU ms of an operation at 64 clients: all our replicas {:.3}, the leading one {:.3}, OpenBao {:.3}",
        ours.cpu_ms, ours.leader_cpu_ms, theirs.cpu_ms
    );
    report.row(json!({
        "cpu_ms_per_op_64": { "replicas": ours.cpu_ms, "leader": ours.leader_cpu_ms, "openbao": theirs.cpu_ms },
    }));
    let per_s = ours.records.per_s;
    report.at_least("records/s of the log", per_s, RECORDS_FLOOR, RECORDS_FLOOR);
    let p99 = ours.receipt_p99_ms;
    report.at_most(
        "ms to a receipt, p99, meanwhile",
        p99,
        RECEIPT_BOUND_MS,
        RECEIPT_BOUND_MS,
    );
}
