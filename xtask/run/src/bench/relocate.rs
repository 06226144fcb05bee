//! A relocation beside a plain `get | put` of the same objects by the SDK, between two regions on one machine.
//!
//! Owns sizes, floors and the order. Data is moved by the destination's gateway as operators of both regions have it moved:
//! every object sealed anew, read back, opened and compared. A plain copy does half of that: what it puts it never reads.

mod content;
mod moving;
mod people;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use client::ids::DatasetName;
use client::moving::is_served;
use local::{FederationPlan, Local, RegionPlan};
use proto::v1::ArrivalPace;
use serde_json::json;

use self::moving::{Look, Moving};
use self::people::Pair;
use super::Report;
use super::measure::Peak;

const SOURCE: &str = "de-fra";
const DESTINATION: &str = "ch-zrh";
/// The one that moves.
const GATEWAY: &str = "ch-zrh/g1";

const SETS: [Set; 2] = [
    Set {
        objects: 24,
        bytes: 8 << 20,
    },
    Set {
        objects: 2_000,
        bytes: 4 << 10,
    },
];
/// Bytes of each of many objects.
const MANY_BYTES: u64 = 1 << 10;
/// How many of them are there when it is looked at, in hundredths.
const EARLY_AND_LATE: [u64; 2] = [5, 80];

/// Rate of a relocation over that of a plain copy: floor and aim.
const RATIO: [f64; 2] = [0.7, 1.0];
/// MiB resident in the gateway that moves: bound and aim.
const MEMORY_MIB: [f64; 2] = [512.0, 256.0];
/// How far a throttled rate is from what was asked for, in hundredths: bound and aim.
const THROTTLE_OFF: [f64; 2] = [10.0, 5.0];
/// What is asked of a relocation, late over early: bound and aim.
const LATE_OVER_EARLY: [f64; 2] = [1.5, 1.2];

/// How long a throttled copy lasts beyond its first batch.
const THROTTLED_SECONDS: u64 = 22;
/// A mover has no more sealed bytes than these imported at once, and no more versions.
const BATCH: Set = Set {
    objects: 500,
    bytes: 64 << 20,
};
/// Plain copies of a dataset, of which the fastest counts: a young region has its logs' files to make.
const PLAIN_COPIES: u32 = 2;
/// Fewer objects are moved before a status can be asked for often.
const STATUS_OBJECTS_MIN: u64 = 1_000;

/// What `bench relocate` moves, and between regions of which size.
#[derive(clap::Args)]
pub(crate) struct Sizes {
    /// Nodes, and KMS replicas, of each of the two regions of `relocate`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
    nodes: u32,
    /// Objects of the dataset that `relocate` moves, in place of 24 of 8 MiB and 2,000 of 4 KiB.
    #[arg(long, requires = "bytes", value_parser = clap::value_parser!(u64).range(1..))]
    objects: Option<u64>,
    /// Bytes of each of those objects, at most 256 MiB.
    #[arg(long, requires = "objects", value_parser = clap::value_parser!(u64).range(1..=256 << 20))]
    bytes: Option<u64>,
    /// One dataset more, of so many objects of 1 KiB, in which `relocate` measures what a status and a resumption cost.
    #[arg(long, value_parser = clap::value_parser!(u64).range(50_000..))]
    many: Option<u64>,
}

impl Sizes {
    fn sets(&self) -> Vec<Set> {
        match (self.objects, self.bytes) {
            (Some(objects), Some(bytes)) => vec![Set { objects, bytes }],
            _ => SETS.to_vec(),
        }
    }
}

/// So many objects of so many bytes.
#[derive(Clone, Copy)]
struct Set {
    objects: u64,
    bytes: u64,
}

impl Set {
    fn words(self) -> String {
        let Self { objects, bytes } = self;
        match bytes {
            bytes if bytes.is_multiple_of(1 << 20) => format!("{objects} of {} MiB", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => format!("{objects} of {} KiB", bytes >> 10),
            bytes => format!("{objects} of {bytes} bytes"),
        }
    }

    fn total(self) -> u64 {
        self.objects.saturating_mul(self.bytes)
    }

    /// Prints how long they took.
    fn row(self, what: &str, took: Duration) {
        let seconds = took.as_secs_f64();
        println!(
            "{:<18} {what:<22} {seconds:>8.2} s {:>10.1} objects/s {:>8.2} MiB/s",
            self.words(),
            self.objects as f64 / seconds,
            mib(self.total() as f64 / seconds)
        );
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn plan(nodes: u32) -> FederationPlan {
    let region = |id: &str, jurisdiction: &str| RegionPlan {
        region: id.parse().expect("a valid region id"),
        jurisdiction: jurisdiction.parse().expect("a valid jurisdiction"),
        nodes,
        kms: nodes,
        gateways: 1,
        shards: 1,
        custodians: (3, 2),
    };
    FederationPlan {
        regions: vec![region(DESTINATION, "CH"), region(SOURCE, "DE")],
        upload_epoch_seconds: None,
    }
}

pub(crate) async fn run(sizes: &Sizes) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("reduit-bench-").tempdir()?;
    let dir = folder.path().join("regions");
    let mut local = Local::up(&dir, &plan(sizes.nodes)).await?;
    let measured = measured(&mut local, sizes).await;
    local.down()?;
    measured
}

async fn measured(local: &mut Local, sizes: &Sizes) -> Result<Report> {
    let pair = Pair::of(local).await?;
    pair.trust_each_other().await?;
    let mut report = Report::new();
    let mut first = None;
    for (set, number) in sizes.sets().into_iter().zip(1..) {
        let name = format!("set-{number}");
        let per_s = beside_plain(local, &pair, (name.as_str(), set), &mut report).await?;
        first.get_or_insert((set, per_s));
    }
    let (set, per_s) = first.context("no dataset was moved")?;
    throttled(&pair, set, per_s / 3.0, &mut report).await?;
    if let Some(objects) = sizes.many {
        let bytes = MANY_BYTES;
        many(local, &pair, Set { objects, bytes }, &mut report).await?;
    }
    Ok(report)
}

/// Copies a dataset plainly, then moves it; at how many bytes a second it was copied as it moved.
async fn beside_plain(
    local: &Local,
    pair: &Pair,
    (name, set): (&str, Set),
    report: &mut Report,
) -> Result<f64> {
    let dataset: DatasetName = name.parse()?;
    let from = content::fill(&pair.source.app, &dataset, set).await?;
    let mut plain = Duration::MAX;
    for copy in 1..=PLAIN_COPIES {
        let to: DatasetName = format!("{name}-plain-{copy}").parse()?;
        let took = content::copy(&from, (&pair.destination.app, &to), set).await?;
        plain = plain.min(took);
    }
    set.row("plain get | put", plain);
    let memory = Peak::of(local.federation.service(GATEWAY)?.pid);
    // Writes are stopped at the very moment at which all copies are found equal: no report says it sooner.
    let pace = ArrivalPace {
        cutover: true,
        ..ArrivalPace::default()
    };
    let moving = pair.begin(&dataset, set.objects, pace).await?;
    let began = moving.begins().await?;
    let asks = set.objects >= STATUS_OBJECTS_MIN;
    let mut status_ms = Vec::new();
    if asks {
        moving.until("a copy", |look| look.versions > 0).await?;
        status_ms.push(moving.status_ms().await?);
    }
    let all = |look: &Look| look.versions >= set.objects;
    let copied = moving.until("all copies", all).await?.at - began;
    if asks {
        status_ms.push(moving.status_ms().await?);
    }
    let equal = |look: &Look| look.is_equal();
    let verified = moving.until("all are equal", equal).await?.at - began;
    let memory = memory.mib()?;
    let served = |look: &Look| is_served(look.phase);
    moving.until("it is served", served).await?;
    set.row("relocated", copied);
    set.row("relocated and verified", verified);
    let ratio = |took: Duration| plain.as_secs_f64() / took.as_secs_f64();
    println!(
        "{:<18} copied at {:.2} of the plain rate; the gateway had {memory:.0} MiB",
        set.words(),
        ratio(copied)
    );
    if let [early, late] = status_ms[..] {
        println!("status p50 {early:.2} ms at the first copy, {late:.2} ms at the last");
    }
    report.row(json!({
        "set": set.words(), "objects": set.objects, "bytes": set.bytes, "plain_s": plain.as_secs_f64(),
        "copied_s": copied.as_secs_f64(), "verified_s": verified.as_secs_f64(), "copied_over_plain": ratio(copied),
        "status_p50_ms": status_ms, "gateway_peak_mib": memory,
    }));
    let what = format!("relocated and verified over plain, {}", set.words());
    let [floor, aim] = RATIO;
    report.at_least(&what, ratio(verified), floor, aim);
    within_memory(report, set, memory);
    Ok(set.total() as f64 / copied.as_secs_f64())
}

fn within_memory(report: &mut Report, set: Set, mib: f64) {
    let what = format!("the moving gateway's peak, MiB, {}", set.words());
    let [bound, aim] = MEMORY_MIB;
    report.at_most(&what, mib, bound, aim);
}

/// Moves a dataset at a third of the rate at which it goes, and measures from its first batch to its last.
async fn throttled(pair: &Pair, of: Set, rate: f64, report: &mut Report) -> Result<()> {
    let wanted = rate as u64;
    let batch = BATCH.bytes.min(of.bytes.saturating_mul(BATCH.objects));
    let bytes = wanted.saturating_mul(THROTTLED_SECONDS) + batch;
    let set = Set {
        objects: bytes.div_ceil(of.bytes),
        bytes: of.bytes,
    };
    let dataset: DatasetName = "throttled".parse()?;
    content::fill(&pair.source.app, &dataset, set).await?;
    let pace = ArrivalPace {
        bytes_per_s: wanted,
        cutover: true,
        ..ArrivalPace::default()
    };
    let moving = pair.begin(&dataset, set.objects, pace).await?;
    let mut imports: Vec<(Instant, u64)> = Vec::new();
    moving
        .until("all copies", |look| {
            if imports.last().map_or(0, |(_, bytes)| *bytes) < look.bytes {
                imports.push((look.at, look.bytes));
            }
            look.versions >= set.objects
        })
        .await?;
    let served = |look: &Look| is_served(look.phase);
    moving.until("it is served", served).await?;
    let ends = imports.first().zip(imports.last());
    let ((began, before), (ended, after)) = ends.context("nothing was imported")?;
    let seconds = (*ended - *began).as_secs_f64();
    ensure!(
        seconds > 0.0,
        "all was imported at once, throttled as it was"
    );
    let measured = (after - before) as f64 / seconds;
    let off = (measured / wanted as f64 - 1.0).abs() * 100.0;
    println!(
        "{:<18} throttled to {:.2} MiB/s: {:.2} MiB/s over {seconds:.1} s",
        set.words(),
        mib(wanted as f64),
        mib(measured)
    );
    report.row(json!({
        "set": set.words(), "throttle_bytes_per_s": wanted, "bytes_per_s": measured, "seconds": seconds,
    }));
    let [bound, aim] = THROTTLE_OFF;
    report.at_most("throttled rate, off by %", off, bound, aim);
    Ok(())
}

/// What a status costs, and how long the next copy takes after a kill -9 of who moves, early and late in a large dataset.
async fn many(local: &mut Local, pair: &Pair, set: Set, report: &mut Report) -> Result<()> {
    let dataset: DatasetName = "many".parse()?;
    content::fill(&pair.source.app, &dataset, set).await?;
    let moving = pair
        .begin(&dataset, set.objects, ArrivalPace::default())
        .await?;
    let began = moving.begins().await?;
    let (mut status_ms, mut resumed_s) = (Vec::new(), Vec::new());
    for percent in EARLY_AND_LATE {
        let mark = set.objects * percent / 100;
        let there = |look: &Look| look.versions >= mark;
        moving.until("copies", there).await?;
        let status = moving.status_ms().await?;
        let resumed = resumed(local, &moving, set).await?.as_secs_f64();
        println!(
            "{:<18} at {percent} %: status p50 {status:.2} ms; next copy {resumed:.2} s after a kill",
            set.words()
        );
        status_ms.push(status);
        resumed_s.push(resumed);
    }
    let all = |look: &Look| look.versions >= set.objects;
    let copied = moving.until("all copies", all).await?.at - began;
    set.row("relocated, 2 kills", copied);
    // Since it was started last.
    let memory = Peak::since_start(local.federation.service(GATEWAY)?.pid).mib()?;
    report.row(json!({
        "set": set.words(), "copied_s": copied.as_secs_f64(), "status_p50_ms": status_ms, "resumed_s": resumed_s,
        "gateway_peak_mib": memory,
    }));
    let [bound, aim] = LATE_OVER_EARLY;
    for (what, cost) in [("status", &status_ms), ("resumption", &resumed_s)] {
        let [early, late] = cost[..] else {
            continue;
        };
        let what = format!("{what} late over early, {}", set.words());
        report.at_most(&what, late / early, bound, aim);
    }
    within_memory(report, set, memory);
    Ok(())
}

/// From the kill of the gateway to the next object that it has copied.
async fn resumed(local: &mut Local, moving: &Moving, set: Set) -> Result<Duration> {
    let killed = Instant::now();
    local.kill(GATEWAY)?;
    local.start(GATEWAY)?;
    // What was under way at the kill is there by now, and it has not looked for work yet.
    let before = moving.look().await?.versions;
    ensure!(
        before < set.objects,
        "all was copied before the gateway was killed: more objects"
    );
    let next = moving.until("the next copy", |look| look.versions > before);
    Ok(next.await?.at - killed)
}
