//! A rolling upgrade under load between two builds that differ in feature level.
//!
//! Owns the order in which operators do it: every process one after the other, then the level. `REDUIT_BIN_OLD`
//! names the daemons of the older build.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use local::{Kind, Local, process};

use super::load::Load;

const REFUSE_MAX: Duration = Duration::from_secs(30);
/// How long a level that a majority has may take to be everybody's.
const RAISED_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn run(local: &mut Local, new: &Path) -> Result<()> {
    let old = local.binaries().to_owned();
    let load = Load::start(local).await?;
    load.progress(200).await?;
    let operator = operator(local).await?;
    let (before, highest) = levels(&operator).await?;
    ensure!(
        before == 0 && highest == 0,
        "the older build is at level {before} of {highest}"
    );

    let names: Vec<_> = local
        .services()
        .map(|service| service.name.clone())
        .collect();
    local.use_binaries(new);
    for (turn, name) in names.iter().enumerate() {
        if turn > 0 && local.federation.service(name)?.kind == Kind::Node {
            // Builds of both levels are members: the level cannot be raised.
            let mixed = names[turn..].iter().any(|name| {
                local
                    .federation
                    .service(name)
                    .is_ok_and(|s| s.kind == Kind::Node)
            });
            if mixed && operator.raise_level(1).await.is_ok() {
                bail!("the level was raised while {name} does not understand it");
            }
        }
        local.restart(name).await?;
        load.progress(20).await?;
    }
    println!("  {} processes upgraded one by one", names.len());
    let raised = operator.raise_level(1).await.context("raising the level")?;
    let raised_kms = operator
        .raise_kms_level(1)
        .await
        .context("raising the KMS's level")?;
    ensure!(
        raised == 1 && raised_kms == 1,
        "the levels are {raised} and {raised_kms}"
    );
    load.progress(100).await?;
    // A follower of an idle group hears of it with the next heartbeat.
    let end = Instant::now() + RAISED_MAX;
    loop {
        let (level, _) = levels(&operator).await?;
        if level == 1 {
            break;
        }
        ensure!(
            Instant::now() < end,
            "the level is {level} after it was raised"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The older build must not take up what it does not understand.
    let name = names
        .iter()
        .find(|name| {
            local
                .federation
                .service(name)
                .is_ok_and(|s| s.kind == Kind::Node)
        })
        .context("a storage node")?;
    local.kill(name)?;
    let said = refuses(local, name, &old)?;
    ensure!(
        said.contains("feature level"),
        "the older build did not say why it does not start: {said}"
    );
    local.restart(name).await?;
    load.progress(50).await?;
    let checked = load.check().await?;
    println!(
        "  level 0 -> 1, an older build refuses to start on it; {} acknowledged writes over {} keys, 0 lost; longest wait of one writer {} ms",
        checked.acknowledged,
        checked.keys,
        checked.longest_pause.as_millis()
    );
    Ok(())
}

async fn operator(local: &Local) -> Result<client::Region> {
    let region = local.federation.region("ch-zrh")?;
    local::ceremony::connect(region, local::files::OPERATORS[0]).await
}

/// The lowest level in force in any group of any node, and the highest that every node understands.
async fn levels(region: &client::Region) -> Result<(u32, u32)> {
    let status = region.status().await;
    let (mut level, mut highest) = (u32::MAX, u32::MAX);
    for (_, name, node) in &status.nodes {
        let node = node
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        highest = highest.min(node.level_max);
        for group in &node.groups {
            level = level.min(group.level);
        }
    }
    Ok((level, highest))
}

/// Starts the older daemon, waits until it has ended by itself, and answers what it said.
fn refuses(local: &Local, name: &str, old: &Path) -> Result<String> {
    let service = local.federation.service(name)?;
    let mut child = Command::new(process::binary_in(old, service.kind)?)
        .arg("--config")
        .arg(&service.config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let end = Instant::now() + REFUSE_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("the older build runs on a state of a newer level");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    ensure!(
        !output.status.success(),
        "the older build ended without an error"
    );
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}
