//! `cargo xtask jepsen`: builds the daemons, and lets `reduit-jepsen` and `reduit-sim` try to break them.
//!
//! Owns which build serves which part: runs take the ordinary daemons, the self-test those with switches.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// `cargo xtask jepsen`.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  cargo xtask jepsen --minutes 10 --seed 7\n  cargo xtask jepsen --workload register \
                  --nemesis isolate-leader\n  cargo xtask jepsen self-test\n  cargo xtask jepsen sim --seeds 10000\n  \
                  cargo xtask jepsen relocate --runs 20\n  cargo xtask jepsen ci"
)]
pub(crate) struct Arguments {
    /// `self-test`, `sim`, `relocate`, `judge FILE`, `list`, `ci`, or the options of a run (`--help` there).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// The answer of `reduit-jepsen` where a machine cannot hold a world.
const SKIPPED: i32 = 77;
/// What CI runs: every workload under a mixed nemesis.
const CI_MINUTES: &str = "2";
const CI_SEED: &str = "20";
const CI_SIM_SEEDS: &str = "250";
const CI_RUNS: &[&str] = &["--runs", "1"];
const CI_MATRIX: &[&str] = &["--matrix", "--sample", "3"];

pub(crate) fn run(root: &Path, target: &Path, arguments: &Arguments) -> Result<()> {
    let rest: Vec<&str> = arguments.rest.iter().map(String::as_str).collect();
    match rest.as_slice() {
        ["sim", options @ ..] => {
            crate::build_daemons(root, target)?;
            crate::call(Command::new(target.join("debug/reduit-sim")).args(options))
        }
        ["self-test", options @ ..] => self_test(root, target, options),
        ["relocate" | "judge" | "list", ..] => {
            crate::build_daemons(root, target)?;
            program(&target.join("debug"), root, &rest)
        }
        ["ci"] => {
            crate::build_daemons(root, target)?;
            let out = target.join("jepsen-ci");
            let out = out.to_str().context("a target folder with a plain name")?;
            let debug = target.join("debug");
            crate::call(Command::new(debug.join("reduit-sim")).args(["--seeds", CI_SIM_SEEDS]))?;
            let options = [
                "run",
                "--minutes",
                CI_MINUTES,
                "--seed",
                CI_SEED,
                "--out",
                out,
            ];
            program(&debug, root, &options)?;
            relocations(&debug, root, &target.join("jepsen-ci/relocations"), CI_RUNS)?;
            relocations(&debug, root, &target.join("jepsen-ci/matrix"), CI_MATRIX)?;
            self_test(root, target, &["--out", out])
        }
        options => {
            crate::build_daemons(root, target)?;
            let mut all = vec!["run"];
            all.extend(options);
            program(&target.join("debug"), root, &all)
        }
    }
}

/// Every fault at every point of a relocation: an hour and more.
pub(crate) fn matrix(root: &Path, target: &Path) -> Result<()> {
    crate::build_daemons(root, target)?;
    let out = target.join("jepsen-matrix");
    relocations(&target.join("debug"), root, &out, &["--matrix"])
}

fn relocations(bin: &Path, root: &Path, out: &Path, options: &[&str]) -> Result<()> {
    let out = out.to_str().context("a target folder with a plain name")?;
    let all = ["relocate", "--seed", CI_SEED, "--out", out];
    program(bin, root, &[&all[..], options].concat())
}

fn self_test(root: &Path, target: &Path, options: &[&str]) -> Result<()> {
    let bin = crate::promises::build(root, target)?;
    let mut all = vec!["self-test"];
    all.extend(options);
    program(&bin, root, &all)
}

/// One relocation of daemons that write fingerprints of their keys, as `environment` says: none of these keys may be
/// seen between the regions. Whether it was played: outside of CI a machine that cannot hold a world skips it.
pub(crate) fn captured_keys(
    bin: &Path,
    root: &Path,
    out: &Path,
    environment: &[(&str, &OsStr)],
) -> Result<bool> {
    let out = out.to_str().context("a target folder with a plain name")?;
    let options = ["relocate", "--seed", CI_SEED, "--out", out];
    let of_keys = ["--runs", "1", "--capture-keys"];
    played(bin, root, &[&options[..], &of_keys].concat(), environment)
}

fn program(bin: &Path, root: &Path, options: &[&str]) -> Result<()> {
    played(bin, root, options, &[]).map(drop)
}

/// Whether it was played, and not skipped.
fn played(
    bin: &Path,
    root: &Path,
    options: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<bool> {
    let mut run = Command::new(bin.join("reduit-jepsen"));
    run.args(options).env("REDUIT_BIN", bin).current_dir(root);
    run.envs(environment.iter().copied());
    let status = run.status().context("cannot start reduit-jepsen")?;
    let ci = std::env::var_os("CI").is_some();
    match status.code() {
        Some(0) => Ok(true),
        Some(SKIPPED) if !ci => Ok(false),
        Some(SKIPPED) => bail!("skipped, which CI must not"),
        _ => bail!("reduit-jepsen ended with {status}"),
    }
}
