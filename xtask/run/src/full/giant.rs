//! One object of several GiB in and out, with the client's memory bounded.

use anyhow::{Context as _, Result, ensure};
use client::{Body, CreateOptions, GetOptions, PutOptions, Region, Tuning};
use local::{Kind, Local};

use crate::bench::measure::Used;
use crate::demo::objects::Large;

/// The client process, this one, stays below.
const CLIENT_MIB_MAX: u64 = 128;
/// An idle storage node stays below.
const NODE_MIB_MAX: u64 = 80;

/// Resident memory of the largest storage node.
fn nodes_mib(local: &Local) -> Result<u64> {
    let nodes = local
        .services()
        .filter(|service| service.kind == Kind::Node);
    let used: Vec<_> = nodes
        .map(|service| Ok(Used::of(service.pid)?.rss_kib / 1024))
        .collect::<Result<_>>()?;
    used.into_iter().max().context("a storage node")
}

pub(crate) async fn run(local: &mut Local, gib: u64) -> Result<()> {
    let idle = nodes_mib(local)?;
    println!("  idle storage nodes: at most {idle} MiB");
    ensure!(idle < NODE_MIB_MAX, "an idle node takes {idle} MiB");
    let context = local.federation.region("ch-zrh")?.context("app-1");
    let region = Region::connect(&context, Tuning::default()).await?;
    let dataset = region
        .create_dataset(&"giant".parse()?, &CreateOptions::default())
        .await?;
    let large = Large::new(gib << 30);
    let key = "giant".parse()?;
    let peak = tokio::spawn(async {
        let mut peak = 0;
        loop {
            peak = peak.max(
                Used::of(std::process::id())
                    .map(|used| used.rss_kib / 1024)
                    .unwrap_or(0),
            );
            if peak > CLIENT_MIB_MAX {
                return peak;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let started = std::time::Instant::now();
    dataset
        .put(&key, Body::stream(large.reader()), &PutOptions::default())
        .await
        .context("putting")?;
    let put = started.elapsed();
    let started = std::time::Instant::now();
    let mut object = dataset
        .get(&key, &GetOptions::default())
        .await
        .context("getting")?;
    let mut compare = large.comparer();
    while let Some(chunk) = object.body.chunk().await? {
        compare.take(&chunk)?;
    }
    compare.finish()?;
    let get = started.elapsed();
    let now = Used::of(std::process::id())?.rss_kib / 1024;
    ensure!(
        !peak.is_finished(),
        "the client's memory went over {CLIENT_MIB_MAX} MiB"
    );
    peak.abort();
    println!(
        "  {gib} GiB in {:.1} s, out {:.1} s, equal; client memory {now} MiB, never over {CLIENT_MIB_MAX} MiB; storage nodes at most {} MiB",
        put.as_secs_f64(),
        get.as_secs_f64(),
        nodes_mib(local)?
    );
    Ok(())
}
