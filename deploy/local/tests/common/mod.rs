//! A fresh region of real processes for one test, taken down whatever happens.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip. CI builds them first.

use std::path::PathBuf;

use anyhow::Result;
use local::{FederationPlan, Local, RegionPlan};

/// Where the daemons are.
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
    let plan = FederationPlan {
        regions: vec![RegionPlan {
            region: "ch-zrh".parse().expect("valid"),
            jurisdiction: "CH".parse().expect("valid"),
            nodes: members,
            kms: members,
            shards: 1,
            custodians: (3, 2),
        }],
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
