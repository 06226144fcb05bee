//! How long writes stop when the storage leader is killed, paused or cut off.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use client::{PutOptions, Region, Tuning};
use local::{Kind, Local, process};
use proto::ids::ObjectKey;

use super::load::Load;

/// Writes resume within this at the 95th percentile after a kill.
const KILL_P95_MAX: Duration = Duration::from_secs(1);

pub(crate) async fn run(local: &mut Local, leaders: u32) -> Result<()> {
    let load = Load::start(local).await?;
    load.progress(100).await?;
    let context = local.federation.region("ch-zrh")?.context("app-2");
    // Short tries: the probe measures the region, not its own patience.
    let tuning = Tuning {
        try_timeout: Duration::from_millis(500),
        ..Tuning::default()
    };
    let region = Region::connect(&context, tuning).await?;
    let dataset = region.dataset(load.dataset.name()).await?;
    let mut killed = Vec::new();
    for turn in 0..leaders {
        let leader = leader(local, &region, dataset.shard().0).await?;
        let key: ObjectKey = format!("probe/{turn}").parse()?;
        dataset.put(&key, "before", &PutOptions::default()).await?;
        local.kill(&leader)?;
        let started = Instant::now();
        dataset
            .put(&key, "after", &PutOptions::default())
            .await
            .context("the first write after a kill")?;
        killed.push(started.elapsed());
        local.start(&leader)?;
        load.progress(20).await?;
    }
    let mut paused = Vec::new();
    for turn in 0..leaders.min(3) {
        let name = leader(local, &region, dataset.shard().0).await?;
        let service = local.federation.service(&name)?.clone();
        process::signal(&service, "STOP")?;
        let started = Instant::now();
        let key: ObjectKey = format!("probe/paused-{turn}").parse()?;
        let outcome = dataset.put(&key, "paused", &PutOptions::default()).await;
        paused.push(started.elapsed());
        process::signal(&service, "CONT")?;
        outcome.context("the first write after a pause")?;
        load.progress(20).await?;
    }
    let checked = load.check().await?;
    killed.sort();
    let at = |quantile: f64| killed[((killed.len() - 1) as f64 * quantile).round() as usize];
    println!(
        "  leader killed {} times: writes resume after p50 {} ms, p95 {} ms, at most {} ms",
        killed.len(),
        at(0.5).as_millis(),
        at(0.95).as_millis(),
        at(1.0).as_millis()
    );
    let texts: Vec<_> = paused
        .iter()
        .map(|took| format!("{} ms", took.as_millis()))
        .collect();
    println!("  leader paused: {}", texts.join(", "));
    println!("  {} acknowledged writes, 0 lost", checked.acknowledged);
    ensure!(
        at(0.95) < KILL_P95_MAX,
        "p95 after a kill is {} ms",
        at(0.95).as_millis()
    );
    Ok(())
}

async fn leader(local: &Local, region: &Region, shard: u64) -> Result<String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let status = region.status().await;
        let nodes = status
            .nodes
            .iter()
            .filter_map(|(_, _, node)| node.as_ref().ok());
        let id = nodes
            .filter_map(|node| node.groups.iter().find(|group| group.group == shard))
            .find_map(|group| (group.leader != 0).then_some(group.leader));
        let entry = local.federation.region("ch-zrh")?;
        let service = entry
            .living(Kind::Node)
            .find(|service| Some(service.node_id) == id);
        match service {
            Some(service) if process::is_running(service) => return Ok(service.name.clone()),
            _ if Instant::now() > end => anyhow::bail!("no leader within 20 s"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
