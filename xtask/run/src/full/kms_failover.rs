//! How long opens stop when the leader of the KMS is killed, and what the log says of every key that came out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use client::{CreateOptions, Dataset, GetOptions, PutOptions, Region, Tuning};
use local::files::AUDITOR;
use local::{Kind, Local, process};
use parking_lot::Mutex;
use proto::ids::ObjectKey;
use tokio::task::JoinSet;

/// Opens resume within this at the 95th percentile.
const P95_MAX: Duration = Duration::from_secs(1);
/// Tasks that open.
const READERS: u64 = 8;
/// Objects they read.
const OBJECTS: u64 = 16;
/// Opens of each round before a leader is killed and after it is back.
const PROGRESS: u64 = 50;
/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(50);

/// Running opens.
struct Opens {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    leaves: Arc<Mutex<BTreeSet<u64>>>,
    tasks: JoinSet<Result<()>>,
}

fn body(object: u64) -> String {
    format!("object {object} of the failover")
}

fn key(object: u64) -> Result<ObjectKey> {
    Ok(format!("object/{object}").parse()?)
}

/// Opens one object and compares it. Answers the leaf that records it.
async fn open(dataset: &Dataset, object: u64) -> Result<u64> {
    let opened = dataset.get(&key(object)?, &GetOptions::default()).await?;
    let leaf = opened.leaf_index;
    let bytes = opened.body.into_bytes().await?;
    ensure!(bytes == body(object).as_bytes(), "another object's bytes");
    Ok(leaf)
}

impl Opens {
    fn start(dataset: &Dataset) -> Self {
        let mut opens = Self {
            stop: Arc::default(),
            done: Arc::default(),
            leaves: Arc::default(),
            tasks: JoinSet::new(),
        };
        for reader in 0..READERS {
            let (stop, done) = (opens.stop.clone(), opens.done.clone());
            let (leaves, dataset) = (opens.leaves.clone(), dataset.clone());
            opens.tasks.spawn(async move {
                let mut turn = reader;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let leaf = open(&dataset, turn % OBJECTS).await?;
                    leaves.lock().insert(leaf);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        opens
    }

    async fn progress(&mut self) -> Result<()> {
        let wanted = self.done.load(Ordering::Relaxed) + PROGRESS;
        while self.done.load(Ordering::Relaxed) < wanted {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => ended??,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(u64, BTreeSet<u64>)> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let leaves = std::mem::take(&mut *self.leaves.lock());
        Ok((self.done.load(Ordering::Relaxed), leaves))
    }
}

pub(crate) async fn run(local: &mut Local, leaders: u32) -> Result<()> {
    let app = region_as(local, "app-1", Tuning::default()).await?;
    let name = "kms-failover".parse()?;
    let dataset = app.create_dataset(&name, &CreateOptions::default()).await?;
    for object in 0..OBJECTS {
        let (key, bytes) = (key(object)?, body(object).into_bytes());
        let put = dataset.put(&key, bytes, &PutOptions::default()).await;
        put.context("an object to open")?;
    }
    let mut opens = Opens::start(&dataset);
    // Short tries: the probe measures the region, not its own patience.
    let tuning = Tuning {
        try_timeout: Duration::from_millis(500),
        ..Tuning::default()
    };
    let probe = region_as(local, "app-2", tuning).await?;
    let probe = probe.dataset(&name).await?;
    let (mut killed, mut probed) = (Vec::new(), BTreeSet::new());
    for _ in 0..leaders {
        opens.progress().await?;
        let leader = leader(local, &app).await?;
        probed.insert(open(&probe, 0).await?);
        local.kill(&leader)?;
        let started = Instant::now();
        let leaf = open(&probe, 0)
            .await
            .context("the first open after a kill")?;
        killed.push(started.elapsed());
        probed.insert(leaf);
        local.restart(&leader).await?;
    }
    opens.progress().await?;
    let (answered, mut leaves) = opens.end().await?;
    leaves.append(&mut probed);
    let released = answered + 2 * u64::from(leaders);
    let unanswered = every_release_has_its_record(local, &leaves, released).await?;
    report(&mut killed);
    println!(
        "  {answered} opens under load and {} probes, each after its record; {unanswered} records of opens whose answer \
         was cut: they read as released or unknown",
        2 * leaders
    );
    let p95 = at(&killed, 0.95);
    ensure!(p95 < P95_MAX, "p95 after a kill is {} ms", p95.as_millis());
    Ok(())
}

/// Looks up the leaves that came with the keys that were released, so many of them. Answers how many more are on record.
async fn every_release_has_its_record(
    local: &Local,
    leaves: &BTreeSet<u64>,
    released: u64,
) -> Result<u64> {
    let auditor = region_as(local, AUDITOR, Tuning::default()).await?;
    let mut reader = auditor.keys().leaves(0, false);
    let (mut recorded, mut objects) = (BTreeSet::new(), 0);
    loop {
        let page = reader.page().await?;
        if page.is_empty() {
            break;
        }
        for entry in page {
            let leaf = tlog::Leaf::parse(&entry.leaf)?;
            if leaf.kind() == tlog::Kind::Open {
                recorded.insert(entry.index);
                objects += leaf.objects().len() as u64;
            }
        }
    }
    let without: Vec<_> = leaves.difference(&recorded).collect();
    ensure!(
        without.is_empty(),
        "keys came out under leaves that record no open: {without:?}"
    );
    ensure!(
        objects >= released,
        "{released} keys came out, and {objects} are on record"
    );
    Ok(objects - released)
}

fn at(sorted: &[Duration], quantile: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * quantile).round() as usize]
}

fn report(killed: &mut [Duration]) {
    killed.sort();
    println!(
        "  KMS leader killed {} times: opens resume after p50 {} ms, p95 {} ms, at most {} ms",
        killed.len(),
        at(killed, 0.5).as_millis(),
        at(killed, 0.95).as_millis(),
        at(killed, 1.0).as_millis()
    );
}

async fn region_as(local: &Local, who: &str, tuning: Tuning) -> Result<Region> {
    let context = local.federation.region("ch-zrh")?.context(who);
    Ok(Region::connect(&context, tuning).await?)
}

/// The running replica that leads, by the word of any.
async fn leader(local: &Local, region: &Region) -> Result<String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let status = region.status().await;
        let replies = status
            .kms
            .iter()
            .filter_map(|(_, _, reply)| reply.as_ref().ok());
        let id = replies
            .map(|reply| reply.leader)
            .find(|leader| *leader != 0);
        let entry = local.federation.region("ch-zrh")?;
        let service = entry
            .living(Kind::Kms)
            .find(|service| Some(service.node_id) == id);
        match service {
            Some(service) if process::is_running(service) => return Ok(service.name.clone()),
            _ if Instant::now() > end => anyhow::bail!("no leader of the KMS within 20 s"),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}
