//! Regions for a test, and what every test of them does.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use client::ids::{DatasetName, ObjectKey};
use client::{CreateOptions, Dataset, Region, Tuning};
use local::files::CLIENTS;
use local::{FederationPlan, Local, RegionPlan};

pub(crate) mod content;
pub(crate) mod damage;
pub(crate) mod federated;
pub(crate) mod grants;
pub(crate) mod memory;
pub(crate) mod reduit;
pub(crate) mod s3;

pub(crate) fn binaries() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("REDUIT_BIN") {
        return Some(dir.into());
    }
    let exe = std::env::current_exe().ok()?;
    let dir = exe.parent()?.parent()?.to_owned();
    dir.join("reduit-node").is_file().then_some(dir)
}

/// Runs `story` on a fresh region and takes it down whatever happens.
pub(crate) fn with_region(members: u32, story: impl AsyncFnOnce(&mut Local) -> Result<()>) {
    with_regions(&[("ch-zrh", "CH", members)], story);
}

/// The same with several, each with so many nodes and as many KMS replicas.
pub(crate) fn with_regions(
    regions: &[(&str, &str, u32)],
    story: impl AsyncFnOnce(&mut Local) -> Result<()>,
) {
    with_plan(regions, 0, story);
}

/// The same with so many gateways in each region.
pub(crate) fn with_plan(
    regions: &[(&str, &str, u32)],
    gateways: u32,
    story: impl AsyncFnOnce(&mut Local) -> Result<()>,
) {
    let Some(bin) = binaries() else {
        println!(
            "skipped: the daemons are not built (cargo build --bins) and REDUIT_BIN is not set"
        );
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("regions");
    let region = |(region, jurisdiction, members): &(&str, &str, u32)| RegionPlan {
        region: region.parse().expect("valid"),
        jurisdiction: jurisdiction.parse().expect("valid"),
        nodes: *members,
        kms: *members,
        gateways,
        shards: 1,
        custodians: (3, 2),
    };
    let plan = FederationPlan {
        regions: regions.iter().map(region).collect(),
        upload_epoch_seconds: None,
    };
    let outcome = runtime.block_on(async {
        let mut local = match Local::up_with(&dir, &plan, &bin).await {
            Ok(local) => local,
            Err(error) => {
                if let Ok(mut local) = Local::load(&dir) {
                    local.down()?;
                }
                return Err(error.context("starting the region"));
            }
        };
        let outcome = story(&mut local).await;
        local.down()?;
        outcome
    });
    if let Err(error) = outcome {
        let kept = folder.keep();
        panic!("{error:#}\nkept for a look: {}", kept.display());
    }
}

/// `ch-zrh`, seen as one of its identities.
pub(crate) async fn region_as(local: &Local, identity: &str, deadline: Duration) -> Result<Region> {
    connected(local, "ch-zrh", identity, deadline).await
}

/// A region, seen as one of its identities.
pub(crate) async fn connected(
    local: &Local,
    region: &str,
    identity: &str,
    deadline: Duration,
) -> Result<Region> {
    let context = local.federation.region(region)?.context(identity);
    Ok(Region::connect(
        &context,
        Tuning {
            deadline,
            ..Tuning::default()
        },
    )
    .await?)
}

pub(crate) async fn dataset(local: &Local) -> Result<Dataset> {
    let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
    let name: DatasetName = "test".parse()?;
    Ok(region
        .create_dataset(&name, &CreateOptions::default())
        .await?)
}

pub(crate) fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

pub(crate) fn contains(place: &Path, needle: &[u8]) -> Result<Option<PathBuf>> {
    if place.is_dir() {
        for entry in std::fs::read_dir(place)? {
            if let Some(found) = contains(&entry?.path(), needle)? {
                return Ok(Some(found));
            }
        }
        return Ok(None);
    }
    let bytes = std::fs::read(place)?;
    Ok(bytes
        .windows(needle.len())
        .any(|window| window == needle)
        .then(|| place.to_owned()))
}

pub(crate) fn find(dir: &Path, extension: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            return Ok(path);
        }
    }
    bail!("no .{extension} in {}", dir.display())
}
