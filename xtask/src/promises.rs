//! Each promise switched off once: the named test must go red, by failing and not by not compiling.
//!
//! The switches are cargo features of the shipped crates, refused by them in release builds.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// One promise, the switch that breaks it, and the test that must notice.
struct Promise {
    says: &'static str,
    package: &'static str,
    feature: &'static str,
    test: &'static str,
}

const PROMISES: &[Promise] = &[
    Promise {
        says: "P4 plaintext on a node",
        package: "reduit-local",
        feature: "danger_plaintext_on_node",
        test: "no_disk_of_a_region_holds_plaintext",
    },
];

/// Runs every switch whose feature contains `filter`. A switch that nothing notices is an error.
pub(crate) fn run(root: &Path, target: &Path, filter: Option<&str>) -> Result<()> {
    let chosen: Vec<_> =
        PROMISES.iter().filter(|p| filter.is_none_or(|f| p.feature.contains(f))).collect();
    let mut unnoticed = Vec::new();
    for promise in &chosen {
        let mut build = test(root, target, promise);
        build.arg("--no-run").stderr(Stdio::null());
        if !build.status().context("cannot start cargo")?.success() {
            bail!("{} does not build with {}", promise.package, promise.feature);
        }
        let mut run = test(root, target, promise);
        run.arg("--").arg(promise.test);
        let output = run.output().context("cannot start cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = text.contains("test result: FAILED");
        let verdict = if failed { "red, as it must be" } else { "NOT NOTICED" };
        println!("promise: {} [{}] {}: {verdict}", promise.says, promise.feature, promise.test);
        if !failed {
            println!("{text}{}", String::from_utf8_lossy(&output.stderr));
            unnoticed.push(promise.feature);
        }
    }
    println!("promises: {} passed, {} failed", chosen.len() - unnoticed.len(), unnoticed.len());
    if !unnoticed.is_empty() {
        bail!("switched off without a test going red: {}", unnoticed.join(", "));
    }
    Ok(())
}

fn test(root: &Path, target: &Path, promise: &Promise) -> Command {
    let mut command = crate::cargo(root, target);
    command.args(["test", "--package", promise.package, "--features", promise.feature, "--tests"]);
    command.env("REDUIT_BIN", target.join("debug"));
    command
}
