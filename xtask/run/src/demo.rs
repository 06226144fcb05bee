//! `cargo xtask demo`: two regions, real data, two kills, and the enemy; or a relocation between two (`--relocate`).
//!
//! Owns the first story and its table. Every line of it was measured in this run; a promise that does not hold ends it
//! with exit code 1.

mod conditions;
mod enemy;
pub(crate) mod objects;
mod relocate;
pub(crate) mod s3;
pub(crate) mod search;
pub(crate) mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use client::{CreateOptions, Dataset, GetOptions, PutOptions, Region, Tuning};
use local::{FederationPlan, Kind, Local};
use proto::ids::{DatasetName, GroupId, ObjectKey};

use self::objects::{Large, Source, Work};
use self::relocate::RegionClock;
use self::table::Table;

/// Requests in flight while the folder is stored and read back.
const PARALLEL: usize = 48;
const DATASET: &str = "demo";

/// What the demo is run with.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A folder to store; default: this project's own files. With --relocate: what `REDUIT_CTI` names, if it is set.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave the regions running and their folder in place.
    #[arg(long)]
    keep: bool,
    /// Size in MiB of the one large generated file, 256 by default; with --relocate of several together, 2048.
    #[arg(long)]
    large_mib: Option<u32>,
    /// A dataset moves from one region to the other while it is written.
    #[arg(long)]
    relocate: bool,
}

const LARGE_MIB_DEFAULT: u32 = 256;

/// Runs it; always takes the regions down again unless told to keep them.
pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("reduit-demo-").tempdir()?;
    let dir = folder.path().join("regions");
    let mut table = Table::start();
    let (clock, plan) = match options.relocate {
        true => {
            table.step("two regions: ru-mow, ch-zrh (3 nodes, 3 KMS, a gateway each)");
            (Some(RegionClock::start()?), relocate::plan())
        }
        false => {
            table.step("two regions: ch-zrh (3 nodes, 3 KMS, an S3 gateway), de-fra (1 and 1)");
            let mut plan = FederationPlan::demo();
            plan.regions[0].gateways = 1;
            (None, plan)
        }
    };
    let local = Local::up(&dir, &plan).await;
    let outcome = match local {
        Ok(mut local) => {
            let outcome = match clock {
                Some(mut clock) => {
                    relocate::story(&mut local, &options, &mut clock, &mut table).await
                }
                None => story(&mut local, &options, &mut table).await,
            };
            if !options.keep {
                local.down().context("ending the regions")?;
            }
            outcome
        }
        Err(error) => {
            if let Ok(mut local) = Local::load(&dir) {
                local.down().ok();
            }
            Err(error)
        }
    };
    table.print();
    if options.keep || outcome.is_err() {
        let kept = folder.keep();
        println!("kept: {}", kept.display());
        println!(
            "      REDUIT_CONFIG={}/regions/contexts.toml",
            kept.display()
        );
    }
    if outcome.is_ok() {
        println!("demo: every promise shown here held");
    }
    outcome
}

async fn story(local: &mut Local, options: &Options, table: &mut Table) -> Result<()> {
    let region = connect(local, "ch-zrh", "app-1").await?;
    let name: DatasetName = DATASET.parse()?;
    let dataset = region
        .create_dataset(&name, &CreateOptions::default())
        .await?;
    table.row(
        "dataset",
        format!("{DATASET} created, key born in the KMS of ch-zrh"),
    );

    let work = Work::collect(options.data.clone().unwrap_or_else(crate::repository))?;
    table.step("store the folder; kill -9 the storage leader and the KMS leader on the way");
    let stored = store(local, &region, &dataset, &work, table).await?;
    ensure!(stored == work.sources.len(), "not everything was stored");

    table.step("one large object, streamed in and out");
    let mib = options.large_mib.unwrap_or(LARGE_MIB_DEFAULT);
    let large = Large::new(u64::from(mib) << 20);
    stream(&dataset, &large, table).await?;

    table.step("read everything back and compare byte for byte");
    read_back(&dataset, &work, table).await?;

    table.step("list, overwrite with a precondition, delete");
    conditions::run(&dataset, &work, table).await?;

    table.step("by S3: objects, parts, a copy, with metadata and tags");
    let by_s3 = s3::store(local, table).await?;

    table.step("the enemy: all disks of ch-zrh, and an unsealed KMS of de-fra");
    enemy::run(local, &dataset, &work, table).await?;

    table.step("search every disk, a backup and every storage node's memory for the canaries");
    let backup = by_s3.back_up(local).await?;
    let mut needles = by_s3.needles()?;
    needles.push(search::Needle::new("the canary", work.canary.as_bytes()));
    // What is read meanwhile lies open in the gateway, and nowhere else.
    let reading = by_s3.reading().await?;
    search::run(local, &needles, &backup, table)?;
    reading.rest().await
}

async fn connect(local: &Local, region: &str, identity: &str) -> Result<Region> {
    let context = local.federation.region(region)?.context(identity);
    Region::connect(&context, Tuning::default())
        .await
        .with_context(|| format!("connecting to {region}"))
}

/// Longest time between two completed writes, and when each was.
struct Pauses {
    last: Instant,
    longest: Duration,
}

async fn store(
    local: &mut Local,
    region: &Region,
    dataset: &Dataset,
    work: &Work,
    table: &mut Table,
) -> Result<usize> {
    use futures::StreamExt as _;
    let started = Instant::now();
    let total = work.sources.len();
    let pauses = Arc::new(std::sync::Mutex::new(Pauses {
        last: Instant::now(),
        longest: Duration::ZERO,
    }));
    let (progress, mut seen) = tokio::sync::watch::channel(0_usize);
    let puts = futures::stream::iter(work.sources.clone()).map(|source| {
        let dataset = dataset.clone();
        async move { put(&dataset, &source).await }
    });
    let mut puts = puts.buffer_unordered(PARALLEL);
    let storing = async {
        let mut stored = 0;
        while let Some(outcome) = puts.next().await {
            outcome?;
            stored += 1;
            let mut pauses = pauses.lock().expect("nobody panics with it");
            let gap = pauses.last.elapsed();
            pauses.longest = pauses.longest.max(gap);
            pauses.last = Instant::now();
            drop(pauses);
            progress.send_replace(stored);
        }
        Ok::<_, anyhow::Error>(stored)
    };
    let killing = async {
        seen.wait_for(|stored| *stored >= total / 3).await?;
        let node = leader(local, region, Kind::Node, dataset.shard()).await?;
        local.kill(&node)?;
        let killed_node = Instant::now();
        let before = *seen.borrow();
        seen.wait_for(|stored| *stored > before).await?;
        let first = killed_node.elapsed();
        seen.wait_for(|stored| *stored >= total / 2).await?;
        local.start(&node)?;
        seen.wait_for(|stored| *stored >= total * 2 / 3).await?;
        let kms = leader(local, region, Kind::Kms, GroupId::KMS).await?;
        local.kill(&kms)?;
        local.restart(&kms).await?;
        Ok::<_, anyhow::Error>((node, kms, first))
    };
    let (stored, killed) = tokio::join!(storing, killing);
    let stored = stored?;
    let (node, kms, _) = killed.context("killing leaders")?;
    let took = started.elapsed();
    let bytes: u64 = work.sources.iter().map(|source| source.bytes).sum();
    table.row(
        "stored",
        format!("{stored} objects, {} MB", bytes / 1_000_000),
    );
    table.rate("store", stored as u64, bytes, took);
    table.row(
        "killed -9",
        format!("{node} (leads the dataset's shard), {kms} (leads the KMS); both are back"),
    );
    let longest = pauses.lock().expect("nobody panics with it").longest;
    table.row("longest write pause", format!("{} ms", longest.as_millis()));
    Ok(stored)
}

async fn put(dataset: &Dataset, source: &Source) -> Result<()> {
    let bytes = source.read()?;
    let options = PutOptions {
        content_type: Some("application/octet-stream".to_owned()),
        metadata: [("origin".to_owned(), source.note.clone())].into(),
        ..PutOptions::default()
    };
    dataset
        .put(&source.key, bytes, &options)
        .await
        .map(|_| ())
        .context("storing an object")
}

/// The service that leads a group now.
async fn leader(local: &Local, region: &Region, kind: Kind, group: GroupId) -> Result<String> {
    let end = Instant::now() + Duration::from_secs(20);
    let id = loop {
        let status = region.status().await;
        let found = match kind {
            Kind::Node => status
                .nodes
                .iter()
                .filter_map(|(_, _, node)| node.as_ref().ok())
                .find_map(|node| {
                    let info = node.groups.iter().find(|info| info.group == group.0)?;
                    (info.leader != 0).then_some(info.leader)
                }),
            Kind::Kms => status
                .kms
                .iter()
                .filter_map(|(_, _, kms)| kms.as_ref().ok())
                .find_map(|kms| (kms.leader != 0).then_some(kms.leader)),
            Kind::Gateway => bail!("gateways have no leader"),
        };
        match found {
            Some(id) => break id,
            None if Instant::now() > end => bail!("no leader of group {group} within 20 s"),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let region = local.federation.region(region.id().as_str())?;
    let service = region.living(kind).find(|service| service.node_id == id);
    Ok(service
        .with_context(|| format!("member {id} is not one of ours"))?
        .name
        .clone())
}

async fn stream(dataset: &Dataset, large: &Large, table: &mut Table) -> Result<()> {
    let key: ObjectKey = "generated/large.bin".parse()?;
    let started = Instant::now();
    dataset
        .put(
            &key,
            client::Body::stream(large.reader()),
            &PutOptions::default(),
        )
        .await
        .context("storing the large object")?;
    table.rate("large object in", 1, large.bytes, started.elapsed());
    let started = Instant::now();
    let mut object = dataset
        .get(&key, &GetOptions::default())
        .await
        .context("opening the large object")?;
    let mut compare = large.comparer();
    while let Some(chunk) = object
        .body
        .chunk()
        .await
        .context("reading the large object")?
    {
        compare.take(&chunk)?;
    }
    compare.finish()?;
    table.rate("large object out, equal", 1, large.bytes, started.elapsed());
    let range = (large.bytes / 2 - 5, large.bytes / 2 + 70_000);
    let part = GetOptions {
        range: Some(range),
        ..GetOptions::default()
    };
    let part = dataset.get(&key, &part).await?.body.into_bytes().await?;
    ensure!(
        part == large.range(range),
        "a range of the large object differs"
    );
    table.row(
        "range read",
        format!("{} bytes from the middle, equal", part.len()),
    );
    Ok(())
}

async fn read_back(dataset: &Dataset, work: &Work, table: &mut Table) -> Result<()> {
    use futures::{StreamExt as _, TryStreamExt as _};
    let started = Instant::now();
    let reads = futures::stream::iter(work.sources.clone()).map(|source| {
        let dataset = dataset.clone();
        async move {
            let object = dataset
                .get(&source.key, &GetOptions::default())
                .await
                .context("reading an object")?;
            ensure!(
                object.info.metadata.user.get("origin") == Some(&source.note),
                "metadata differs"
            );
            let bytes = object.body.into_bytes().await?;
            ensure!(
                bytes[..] == source.read()?[..],
                "an object differs from its file"
            );
            Ok(bytes.len() as u64)
        }
    });
    let bytes: u64 = reads
        .buffer_unordered(PARALLEL)
        .try_fold(0, async |sum, n| Ok(sum + n))
        .await?;
    table.row(
        "read back, every byte equal",
        format!("{} objects", work.sources.len()),
    );
    table.rate(
        "read (each recorded first)",
        work.sources.len() as u64,
        bytes,
        started.elapsed(),
    );
    Ok(())
}
