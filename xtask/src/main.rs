//! `cargo xtask`: one word for everything a person or CI does with this repository.
//!
//! Owns set-up and the order of cargo calls. Stays small on purpose: it is built before RocksDB is. What needs
//! the product (demo, benchmarks) lives in `xtask/run`.

mod fuzz;
mod jepsen;
mod promises;
mod setup;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// Work on Reduit.
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --data ~/cti --keep\n  cargo xtask demo --relocate --large-mib 256\n  cargo xtask test\n  \
                  cargo xtask test --full\n  cargo xtask bench envelope"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Two regions on this machine, real data, two kills, and the enemy; exits 1 if a promise breaks.
    Demo {
        /// A folder to store; default: this project's own files.
        #[arg(long)]
        data: Option<PathBuf>,
        /// Leave the regions running and their folder in place.
        #[arg(long)]
        keep: bool,
        /// Size in MiB of the one large generated file, 256 by default; with --relocate of several together, 2048.
        #[arg(long)]
        large_mib: Option<u32>,
        /// Instead: a dataset moves from ru-mow to ch-zrh while it is written, and ru-mow's keys are destroyed. Stores what
        /// `REDUIT_CTI` names, if it is set.
        #[arg(long)]
        relocate: bool,
    },
    /// Every test, then every promise switched off once to see its test go red.
    Test {
        /// Adds what is long: soaks, real-disk power cuts, rolling upgrade.
        #[arg(long)]
        full: bool,
        /// Only the tests whose name contains this; leaves the promises out.
        filter: Option<String>,
    },
    /// Only the second half of `test`: each promise switched off in turn.
    Promises {
        /// Only switches whose feature contains this.
        filter: Option<String>,
    },
    /// Only what `test --full` adds on real daemons: kills, replace, upgrade, failover, kms-failover, giant.
    Full {
        /// Parts, and options after `--`; see `--help` there.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Faults on real daemons in namespaces, judged; `jepsen --help` has the rest.
    Jepsen(jepsen::Arguments),
    /// Fuzz every parser of bytes from network, disk or person; exits 1 on a crash.
    Fuzz(fuzz::Arguments),
    /// Formatting, lints, crate graph; writes nothing.
    Check,
    /// Rewrites what `check` can mend.
    Fix,
    /// A benchmark: envelope, growth, kms, put-get, relocate, replica, s3. Exits 1 below a floor, writes JSON.
    Bench {
        /// Which one.
        name: String,
        /// Where the JSON goes; default: bench-NAME.json in the target folder.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Everything after `--` goes to the benchmark.
        #[arg(last = true)]
        rest: Vec<String>,
    },
}

fn main() -> Result<()> {
    if let Some(error) = fuzz::as_rustc() {
        return Err(error);
    }
    let arguments = Arguments::parse();
    let root = root()?;
    let target = setup::target_dir()?;
    match arguments.task {
        Task::Demo {
            data,
            keep,
            large_mib,
            relocate,
        } => {
            setup::build_needs()?;
            let mut run = match relocate {
                true => relocating(&root, &target)?,
                false => {
                    build_daemons(&root, &target)?;
                    product(&target)
                }
            };
            run.arg("demo");
            if relocate {
                run.arg("--relocate");
            }
            if let Some(large_mib) = large_mib {
                run.arg("--large-mib").arg(large_mib.to_string());
            }
            if let Some(data) = data {
                run.arg("--data").arg(data);
            }
            if keep {
                run.arg("--keep");
            }
            call(&mut run)
        }
        Task::Test { full, filter } => {
            setup::build_needs()?;
            setup::jepsen_needs()?;
            setup::test_needs()?;
            // Daemons as they ship; the tests themselves are built once, with the switches in and none thrown, and
            // serve the promises too.
            let plain = daemons_with(&root, &target, "", "plain")?;
            let mut test = cargo(&root, &target);
            test.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
            test.args(["--features", promises::FEATURES]);
            if full {
                test.env("REDUIT_FULL", "1");
            }
            if let Some(filter) = &filter {
                test.arg("--").arg(filter);
            }
            test.env("REDUIT_BIN", plain);
            test.env("REDUIT_PYTHON", setup::python(&target)?);
            test.env("REDUIT_S3_PYTHON", setup::boto3(&target)?);
            test.env("REDUIT_S3_TOOLS", setup::s3_tools(&target)?);
            if let Some(witness) = setup::aics_witness(&target) {
                test.env("REDUIT_AICS_WITNESS", witness);
            }
            call(&mut test)?;
            if filter.is_some() {
                return Ok(());
            }
            // How keys lie in memory is another matter with the switches in: the crate that holds them as it ships.
            call(cargo(&root, &target).args(["test", "--lib", "-p", "reduit-envelope"]))?;
            call(cargo(&root, &target).args(["test", "--doc", "-p", "reduit-envelope"]))?;
            promises::run(&root, &target, None)?;
            if full {
                long(&root, &target, &[])?;
                jepsen::matrix(&root, &target)?;
            }
            Ok(())
        }
        Task::Full { rest } => {
            setup::build_needs()?;
            long(&root, &target, &rest)
        }
        Task::Promises { filter } => {
            setup::build_needs()?;
            setup::jepsen_needs()?;
            promises::run(&root, &target, filter.as_deref())
        }
        Task::Fuzz(arguments) => {
            setup::build_needs()?;
            fuzz::run(&root, &target, &arguments)
        }
        Task::Jepsen(arguments) => {
            setup::build_needs()?;
            setup::jepsen_needs()?;
            jepsen::run(&root, &target, &arguments)
        }
        Task::Check => {
            setup::build_needs()?;
            check(&root, &target)
        }
        Task::Fix => {
            call(cargo(&root, &target).args(["fmt", "--all"]))?;
            let mut fix = cargo(&root, &target);
            fix.args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--fix",
                "--allow-dirty",
                "--allow-staged",
            ]);
            call(&mut fix)
        }
        Task::Bench { name, json, rest } => {
            setup::build_needs()?;
            setup::bench_needs(&name)?;
            if name == "replica" {
                return bench_replica(&root, &target, &rest);
            }
            build_benched(&root, &target)?;
            let json = json.unwrap_or_else(|| target.join(format!("bench-{name}.json")));
            let mut run = Command::new(target.join("release/xtask-run"));
            run.env("REDUIT_BIN", target.join("release"));
            if name == "kms" {
                run.env("REDUIT_BAO", setup::openbao(&target)?);
            }
            if name == "s3" {
                run.env("REDUIT_WEED", setup::seaweedfs(&target)?);
            }
            call(
                run.arg("bench")
                    .arg(name)
                    .arg("--json")
                    .arg(json)
                    .args(rest),
            )
        }
    }
}

/// The long tests on real daemons, the older ones for the upgrade among them.
fn long(root: &std::path::Path, target: &std::path::Path, rest: &[String]) -> Result<()> {
    let upgrade =
        rest.iter().all(|word| word.starts_with('-')) || rest.iter().any(|w| w == "upgrade");
    let older = if upgrade {
        Some(daemons_with(root, target, OLDER, "older")?)
    } else {
        None
    };
    build_daemons(root, target)?;
    let mut run = product(target);
    if let Some(older) = older {
        run.env("REDUIT_BIN_OLD", older);
    }
    call(run.arg("full").args(rest))
}

/// Three members of the consensus host alone, against a three-member etcd.
fn bench_replica(root: &std::path::Path, target: &std::path::Path, rest: &[String]) -> Result<()> {
    build_benched(root, target)?;
    call(
        Command::new(target.join("release/replica-bench"))
            .arg("run")
            .args(rest),
    )
}

/// What benchmarks start and measure, in release; the crates of tests alone are left out.
fn build_benched(root: &std::path::Path, target: &std::path::Path) -> Result<()> {
    let mut build = cargo(root, target);
    build.args(["build", "--release", "--bins"]);
    for package in [
        "xtask-run",
        "reduit-node",
        "reduit-kms",
        "reduit-gateway",
        "reduit-replica",
    ] {
        build.args(["--package", package]);
    }
    call(build.args(["--features", "reduit-replica/bench"]))
}

/// What end-to-end tests start.
const DAEMONS: [&str; 10] = [
    "reduit",
    "reduit-node",
    "reduit-kms",
    "reduit-gateway",
    "reduit-local",
    "reduit-faultfs",
    "reduit-jepsen",
    "reduit-sim",
    "reduit-witness",
    "xtask-run",
];
/// The build before the newest feature level.
const OLDER: &str = "reduit-node/level_0,reduit-kms-state/level_0";

/// Clocks that a file moves; release builds refuse it.
const CLOCKS: &str = "xtask-run/danger_clock_ahead";

/// Builds the daemons with `features` and puts them into the folder `name` of the target folder, where no other
/// build replaces them.
fn daemons_with(
    root: &std::path::Path,
    target: &std::path::Path,
    features: &str,
    name: &str,
) -> Result<PathBuf> {
    let mut build = cargo(root, target);
    // All packages, so that features unify as in the tests; of their programs those that are started.
    build.args(["build", "--workspace", "--features", features]);
    DAEMONS.iter().for_each(|daemon| {
        build.args(["--bin", daemon]);
    });
    call(&mut build)?;
    placed(target, name)
}

/// The daemons built last, in a folder of their own.
pub(crate) fn placed(target: &std::path::Path, name: &str) -> Result<PathBuf> {
    let bin = target.join(name);
    std::fs::create_dir_all(&bin).context("a folder for the daemons")?;
    for daemon in DAEMONS {
        let (from, to) = (target.join("debug").join(daemon), bin.join(daemon));
        // Renamed into place: a copy over a running daemon fails.
        let part = bin.join(format!("{daemon}.part"));
        std::fs::copy(&from, &part).with_context(|| format!("copying {}", from.display()))?;
        std::fs::rename(&part, &to).with_context(|| format!("placing {}", to.display()))?;
    }
    Ok(bin)
}

fn check(root: &std::path::Path, target: &std::path::Path) -> Result<()> {
    call(cargo(root, target).args(["fmt", "--all", "--check"]))?;
    let mut clippy = cargo(root, target);
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    call(&mut clippy)?;
    call(cargo(root, target).args(["test", "--package", "xtask"]))?;
    let deny = Command::new("cargo").args(["deny", "--version"]).output();
    if deny.is_ok_and(|out| out.status.success()) {
        call(cargo(root, target).args([
            "deny",
            "--offline",
            "check",
            "bans",
            "licenses",
            "sources",
        ]))?;
    } else {
        println!(
            "check: cargo-deny is not installed, deny.toml is not enforced here (cargo install cargo-deny)"
        );
    }
    Ok(())
}

pub(crate) fn build_daemons(root: &std::path::Path, target: &std::path::Path) -> Result<()> {
    let mut build = cargo(root, target);
    // The whole workspace, as the tests are built: another selection would unify features otherwise and build twice.
    build.args(["build", "--workspace", "--bins"]);
    call(&mut build)
}

fn product(target: &std::path::Path) -> Command {
    let mut run = Command::new(target.join("debug/xtask-run"));
    run.env("REDUIT_BIN", target.join("debug"));
    if let Ok(root) = root() {
        run.env("REDUIT_REPOSITORY", root);
    }
    run
}

/// The demo of a relocation, with daemons whose clocks can be moved: keys wait for days before they are destroyed.
fn relocating(root: &std::path::Path, target: &std::path::Path) -> Result<Command> {
    let bin = daemons_with(root, target, CLOCKS, "clocks")?;
    let mut run = Command::new(bin.join("xtask-run"));
    run.env("REDUIT_REPOSITORY", root);
    let clock = bin.join(format!("clock-{}", std::process::id()));
    run.env("REDUIT_CLOCK_AHEAD", clock).env("REDUIT_BIN", bin);
    Ok(run)
}

/// A cargo call in the repository with the shared target folder.
pub(crate) fn cargo(root: &std::path::Path, target: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env("CARGO_TARGET_DIR", target);
    command
}

pub(crate) fn call(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}

fn root() -> Result<PathBuf> {
    // As cargo says it at the start: a shared target folder may hold what another checkout has built.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run it as `cargo xtask`")?;
    let manifest = PathBuf::from(manifest);
    let root = manifest.parent().context("xtask lies in the repository")?;
    Ok(root.to_owned())
}
