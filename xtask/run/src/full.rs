//! `cargo xtask test --full`: what takes minutes, on real daemons: kills, replacements, failover times, big objects.
//!
//! Owns the order and the summary. Each part stands alone and can be named.

mod failover;
mod giant;
mod kills;
mod kms_failover;
mod load;
mod replace;
mod upgrade;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use local::{FederationPlan, Local, process};

/// Which parts to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// kills, replace, upgrade, failover, kms-failover, giant; default: all.
    parts: Vec<String>,
    /// Rounds of kills: each kills every process once.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Leaders killed for the failover times.
    #[arg(long, default_value_t = 20)]
    leaders: u32,
    /// Leaders of the KMS killed for its failover times.
    #[arg(long, default_value_t = 50)]
    kms_leaders: u32,
    /// GiB of the giant object.
    #[arg(long, default_value_t = 4)]
    gib: u64,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let all = [
        "kills",
        "replace",
        "upgrade",
        "failover",
        "kms-failover",
        "giant",
    ];
    let parts: Vec<_> = if options.parts.is_empty() {
        all.iter().map(|part| (*part).to_owned()).collect()
    } else {
        options.parts.clone()
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for part in &parts {
        println!("full: {part}");
        let outcome = match part.as_str() {
            "kills" => with_region(async |local| kills::run(local, options.rounds).await).await,
            "replace" => with_region(replace::run).await,
            "upgrade" => upgraded().await,
            "failover" => {
                with_region(async |local| failover::run(local, options.leaders).await).await
            }
            "kms-failover" => {
                let leaders = options.kms_leaders;
                with_region(async |local| kms_failover::run(local, leaders).await).await
            }
            "giant" => with_region(async |local| giant::run(local, options.gib).await).await,
            other => bail!("no part {other}; there are {}", all.join(", ")),
        };
        match outcome {
            Ok(()) => passed += 1,
            Err(error) => {
                println!("full: {part} FAILED: {error:#}");
                failed.push(part.clone());
            }
        }
    }
    println!("full: {passed} passed, {} failed", failed.len());
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("failed: {}", failed.join(", "))
    }
}

/// One region of three nodes and three KMS replicas, taken down afterwards; kept when something failed.
pub(crate) async fn with_region(story: impl AsyncFnOnce(&mut Local) -> Result<()>) -> Result<()> {
    with_region_of(&process::binaries()?, 0, story).await
}

/// The same with an S3 gateway.
#[cfg(feature = "danger_scannable_keys")]
pub(crate) async fn with_gateway(story: impl AsyncFnOnce(&mut Local) -> Result<()>) -> Result<()> {
    with_region_of(&process::binaries()?, 1, story).await
}

async fn upgraded() -> Result<()> {
    let old = std::env::var_os("REDUIT_BIN_OLD")
        .context("REDUIT_BIN_OLD names no older daemons: `cargo xtask full upgrade` builds them")?;
    let new = process::binaries()?;
    with_region_of(Path::new(&old), 0, async |local| {
        upgrade::run(local, &new).await
    })
    .await
}

/// As [`with_region`], with the daemons of a folder.
async fn with_region_of(
    bin: &Path,
    gateways: u32,
    story: impl AsyncFnOnce(&mut Local) -> Result<()>,
) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("reduit-region-")
        .tempdir()?;
    let dir = folder.path().join("regions");
    let mut plan = FederationPlan::demo();
    plan.regions.truncate(1);
    let plan = plan.with_gateways(gateways);
    let outcome = match Local::up_with(&dir, &plan, bin).await {
        Ok(mut local) => {
            let outcome = story(&mut local).await;
            local.down()?;
            outcome
        }
        Err(error) => {
            if let Ok(mut local) = Local::load(&dir) {
                local.down()?;
            }
            Err(error)
        }
    };
    if outcome.is_err() {
        println!("kept for a look: {}", folder.keep().display());
    }
    outcome
}
