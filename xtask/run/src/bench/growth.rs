//! Cost as work grows: puts, pages of a listing and a rotation of the key, in one dataset of 10^3, 10^5 and 10^6 objects.
//!
//! Owns the sizes and the bound: what costs a millisecond among a thousand objects costs no more than half as much again
//! among a million. A region of three nodes, three KMS replicas and a gateway; objects are a few bytes, and measured
//! through S3. A small dataset stands beside the growing one and is measured with it each time: what the machine does
//! besides, and a region that has worked for long, count for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use client::{CreateOptions, Dataset, KeyChange, PutOptions, Region, Tuning};
use http_body_util::BodyExt as _;
use local::files::OPERATORS;
use local::s3::{Client, Endpoint, Method, Request};
use local::{FederationPlan, Kind, Local, ceremony};
use serde_json::json;
use tokio::task::JoinSet;

use super::Report;
use super::measure::{Latency, Used};

const SIZES: [u64; 3] = [1_000, 100_000, 1_000_000];
/// What is compared with the smallest.
const RATIO_MAX: f64 = 1.5;
const ROTATION_MS_MAX: f64 = 1_000.0;
/// Puts under way while a dataset is filled.
const FILLERS: u64 = 96;
/// Clients while puts are measured.
const CLIENTS: u64 = 4;
/// Keys of a page.
const PAGE: u64 = 1_000;
/// Windows of each measurement; the middle one counts.
const WINDOWS: usize = 3;
const TRIES: u32 = 20;
/// Nodes are at rest once all of them together take less than this in a second, for some seconds.
const QUIET_CPU_MS: f64 = 100.0;
const QUIET_SECONDS: u32 = 5;
const SETTLED_MAX: Duration = Duration::from_secs(180);
/// Which key comes next when many are put: a prime that divides no number of them, so that each is met once.
const STRIDE: u64 = 7_919;

/// One dataset, and how many objects it has.
struct Grown {
    name: String,
    dataset: Dataset,
    objects: u64,
}

/// p50 and p99 in ms.
#[derive(Clone, Copy)]
struct Cost {
    p50: f64,
    p99: f64,
}

/// What one size costs.
struct Row {
    objects: u64,
    put: Cost,
    /// A page at the beginning, in the middle, and the last whole one.
    pages: [Cost; 3],
    rotation_ms: f64,
}

pub(crate) async fn run(seconds: f64, objects_max: u64) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("reduit-bench-").tempdir()?;
    let mut plan = FederationPlan::demo();
    plan.regions.truncate(1);
    let plan = plan.with_gateways(1);
    let mut local = Local::up(&folder.path().join("regions"), &plan).await?;
    let measured = measured(&local, seconds, objects_max).await;
    local.down()?;
    measured
}

async fn measured(local: &Local, seconds: f64, objects_max: u64) -> Result<Report> {
    let sizes: Vec<_> = SIZES
        .into_iter()
        .filter(|objects| *objects <= objects_max)
        .collect();
    ensure!(sizes.len() > 1, "nothing grows below {} objects", SIZES[1]);
    let window = Duration::from_secs_f64(seconds / WINDOWS as f64);
    let endpoint = super::s3::endpoint(local).await?;
    let context = local.federation.region("ch-zrh")?.context("app-1");
    let region = Region::connect(&context, Tuning::default()).await?;
    let operator = ceremony::connect(local.federation.region("ch-zrh")?, OPERATORS[0]).await?;
    let mut report = Report::new();
    // The smallest stands beside the growing one, so that both are measured on the same day.
    let small = Grown::fill(&region, "growth-small", sizes[0], &mut report).await?;
    let mut grown = Grown::fill(&region, "growth", 0, &mut report).await?;
    let mut rows = Vec::new();
    for objects in sizes {
        grown.grow(objects, &mut report).await?;
        settled(local, &mut report).await?;
        let beside = small.row(&endpoint, &operator, window).await?;
        let row = grown.row(&endpoint, &operator, window).await?;
        memory(local, objects, &mut report)?;
        for (name, row) in [(&small.name, &beside), (&grown.name, &row)] {
            report.row(row.json(name));
        }
        rows.push((beside, row));
    }
    // The first two are as large as each other.
    for (beside, row) in rows.iter().skip(1) {
        compare(beside, row, &mut report);
    }
    Ok(report)
}

/// Waits until the nodes have sorted what was put at full speed: what is measured is what a put costs, and not what the
/// million before it still owe.
async fn settled(local: &Local, report: &mut Report) -> Result<()> {
    let used = || {
        let nodes = local.services().filter(|one| one.kind == Kind::Node);
        nodes
            .map(|node| Ok(Used::of(node.pid)?.cpu_ms))
            .sum::<Result<f64>>()
    };
    let (began, mut quiet, mut before) = (Instant::now(), 0, used()?);
    while quiet < QUIET_SECONDS && began.elapsed() < SETTLED_MAX {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = used()?;
        quiet = if now - before < QUIET_CPU_MS {
            quiet + 1
        } else {
            0
        };
        before = now;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("  settled in {seconds:.0} s");
    report.row(json!({ "settled_seconds": seconds }));
    Ok(())
}

/// Resident memory of each process.
fn memory(local: &Local, objects: u64, report: &mut Report) -> Result<()> {
    for service in local.services() {
        let mib = Used::of(service.pid)?.rss_kib >> 10;
        report.row(json!({ "objects": objects, "service": service.name, "rss_mib": mib }));
    }
    Ok(())
}

fn compare(beside: &Row, row: &Row, report: &mut Report) {
    let objects = row.objects;
    let mut ratio = |what: String, value: f64, base: f64| {
        report.at_most(&what, value / base, RATIO_MAX, RATIO_MAX);
    };
    let [small, ..] = beside.pages;
    let [first, middle, last] = row.pages;
    for (quantile, of) in [
        ("p50", (|c: Cost| c.p50) as fn(Cost) -> f64),
        ("p99", |c| c.p99),
    ] {
        let put = format!("put among {objects} over {}, {quantile}", beside.objects);
        ratio(put, of(row.put), of(beside.put));
        for (place, page) in [("first", first), ("middle", middle), ("last", last)] {
            let page_of = format!(
                "{place} page of {objects} over {}, {quantile}",
                beside.objects
            );
            ratio(page_of, of(page), of(small));
        }
    }
    let rotation = format!("rotating the key of {objects} objects, ms");
    report.at_most(&rotation, row.rotation_ms, ROTATION_MS_MAX, ROTATION_MS_MAX);
}

impl Grown {
    async fn fill(region: &Region, name: &str, objects: u64, report: &mut Report) -> Result<Self> {
        let dataset = region
            .create_dataset(&name.parse()?, &CreateOptions::default())
            .await?;
        let mut grown = Self {
            name: name.to_owned(),
            dataset,
            objects: 0,
        };
        grown.grow(objects, report).await?;
        Ok(grown)
    }

    /// Puts what is missing, many at once, in an order that is not the keys'.
    async fn grow(&mut self, objects: u64, report: &mut Report) -> Result<()> {
        let (began, before) = (Instant::now(), self.objects);
        let next = Arc::new(AtomicU64::new(before));
        let mut tasks = JoinSet::new();
        for _ in 0..FILLERS {
            let (dataset, next) = (self.dataset.clone(), next.clone());
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= objects {
                        return Ok::<_, anyhow::Error>(());
                    }
                    put(
                        &dataset,
                        before + (number - before) * STRIDE % (objects - before),
                    )
                    .await?;
                    if number > 0 && number.is_multiple_of(100_000) {
                        let took = began.elapsed().as_secs_f64();
                        let per_s = (number - before) as f64 / took;
                        println!("  {number} objects, {per_s:.0}/s");
                    }
                }
            });
        }
        while let Some(one) = tasks.join_next().await {
            one??;
        }
        self.objects = self.objects.max(objects);
        let (took, put) = (began.elapsed().as_secs_f64(), self.objects - before);
        if put > 0 {
            println!("{}: {put} objects put in {took:.0} s", self.name);
            report.row(json!({ "dataset": self.name, "put": put, "seconds": took }));
        }
        Ok(())
    }

    async fn row(&self, endpoint: &Endpoint, operator: &Region, window: Duration) -> Result<Row> {
        let put = middle(async || self.puts(endpoint, window).await).await?;
        let last = self.objects.saturating_sub(PAGE);
        let mut pages = [put; 3];
        for (page, from) in pages.iter_mut().zip([0, last / 2, last]) {
            *page = middle(async || self.pages(endpoint, from, window).await).await?;
        }
        let rotation_ms = self.rotation(operator).await?;
        let row = Row {
            objects: self.objects,
            put,
            pages,
            rotation_ms,
        };
        row.print(&self.name);
        Ok(row)
    }

    /// Overwrites, anywhere in the dataset.
    async fn puts(&self, endpoint: &Endpoint, window: Duration) -> Result<Latency> {
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let mut client = Client::new(endpoint, &self.name)?;
            let objects = self.objects;
            tasks.spawn(async move {
                let (mut latency, began, mut turn) = (Latency::new(), Instant::now(), number);
                while began.elapsed() < window {
                    let put = Request::new(Method::Put, key(spread(turn) % objects));
                    latency.record(said(&mut client, &put.body(body(turn))).await?.0);
                    turn += CLIENTS;
                }
                Ok::<_, anyhow::Error>(latency)
            });
        }
        let mut latency = Latency::new();
        while let Some(one) = tasks.join_next().await {
            latency.merge(&one??);
        }
        Ok(latency)
    }

    /// Whole pages that start after so many keys, or near to it.
    async fn pages(&self, endpoint: &Endpoint, from: u64, window: Duration) -> Result<Latency> {
        let mut client = Client::new(endpoint, &self.name)?;
        let (mut latency, began) = (Latency::new(), Instant::now());
        while began.elapsed() < window {
            let page = Request::new(Method::Get, "")
                .query("list-type", "2")
                .query("max-keys", PAGE.to_string());
            let page = match from {
                0 => page,
                from => page.query("start-after", key(from - 1)),
            };
            let (took, answer) = said(&mut client, &page).await?;
            let keys = memchr::memmem::find_iter(&answer, b"<Key>").count() as u64;
            ensure!(keys == PAGE, "a page of {keys} keys after {from}");
            latency.record(took);
        }
        Ok(latency)
    }

    /// A new version of the key, every token under it, and the old one not taken any more: in ms.
    async fn rotation(&self, operator: &Region) -> Result<f64> {
        let (keys, id) = (operator.keys(), self.dataset.id());
        let began = Instant::now();
        keys.change_key(id, KeyChange::Rotate).await?;
        let mut rewrapped = 0;
        for again in [true, false] {
            let mut after = Bytes::new();
            loop {
                let page = keys.rewrap_tokens(id, after).await?;
                rewrapped += page.rewrapped;
                after = page.next_start_after;
                if after.is_empty() {
                    break;
                }
            }
            if again {
                let info = keys.change_key(id, KeyChange::RetireVersions).await?;
                let key = info.key.unwrap_or_default();
                ensure!(
                    info.shard_confirmed && key.min_version == key.current_version,
                    "the rotation is not whole"
                );
            }
        }
        let took = began.elapsed().as_secs_f64() * 1_000.0;
        ensure!(rewrapped > 0, "a rotation that rewrapped no token");
        Ok(took)
    }
}

impl Row {
    fn json(&self, name: &str) -> serde_json::Value {
        let cost = |cost: &Cost| json!({ "p50_ms": cost.p50, "p99_ms": cost.p99 });
        let [first, middle, last] = &self.pages;
        json!({
            "dataset": name, "objects": self.objects, "put": cost(&self.put), "first_page": cost(first),
            "middle_page": cost(middle), "last_page": cost(last), "rotation_ms": self.rotation_ms,
        })
    }

    fn print(&self, name: &str) {
        let cost = |cost: Cost| format!("{:.2}/{:.2}", cost.p50, cost.p99);
        let [first, middle, last] = self.pages.map(cost);
        println!(
            "{name}, {} objects, p50/p99 ms: put {}; page first {first}, middle {middle}, last {last}; rotation {:.0} ms",
            self.objects,
            cost(self.put),
            self.rotation_ms
        );
    }
}

/// The middle of a few windows, by its p50.
async fn middle(one: impl AsyncFn() -> Result<Latency>) -> Result<Cost> {
    let mut costs = Vec::new();
    for _ in 0..WINDOWS {
        let latency = one().await?;
        ensure!(latency.count() > 0, "nothing was measured");
        costs.push(Cost {
            p50: latency.ms(0.5),
            p99: latency.ms(0.99),
        });
    }
    let middle_of = |of: fn(&Cost) -> f64| {
        let mut all: Vec<_> = costs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[WINDOWS / 2]
    };
    Ok(Cost {
        p50: middle_of(|cost| cost.p50),
        p99: middle_of(|cost| cost.p99),
    })
}

/// Numbers in an order of their own: an odd multiplier meets each once.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

/// Keys in the order of their numbers.
fn key(number: u64) -> String {
    format!("2026/{:03}/{number:09}.json", number / 10_000)
}

/// 1 to 100 bytes.
fn body(number: u64) -> Bytes {
    Bytes::from(vec![b'g'; 1 + (number % 100) as usize])
}

async fn put(dataset: &Dataset, number: u64) -> Result<()> {
    let key = key(number).parse()?;
    let mut tries = 0;
    loop {
        tries += 1;
        match dataset
            .put(&key, body(number), &PutOptions::default())
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if tries == TRIES => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "put again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// How long an answer took, and what it is. One that is slowed down comes again, and is not what is measured.
async fn said(client: &mut Client, request: &Request) -> Result<(Duration, Bytes)> {
    for _ in 0..TRIES {
        let began = Instant::now();
        let answer = client.ask(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok((began.elapsed(), body));
        }
        ensure!(
            status.as_u16() == 503,
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("slowed down {TRIES} times")
}
