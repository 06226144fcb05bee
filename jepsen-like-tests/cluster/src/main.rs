//! `reduit-jepsen`: faults on real daemons in network namespaces, and the judges of what clients saw.
//!
//! Owns the command line. Refuses to run where it would be a different test: it says why it skips.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use checker::Workload;
use clap::{Args, Parser, Subcommand};
use jepsen::nemesis::Fault;
use jepsen::relocate::{Relocations, Scope};
use jepsen::run::{Plan, run};
use jepsen::world::{WorldPlan, isolate};
use jepsen::{selftest, workload};
use local::{FederationPlan, process};

/// Try hard to break every promise of a region of real daemons.
#[derive(Parser)]
#[command(
    name = "reduit-jepsen",
    after_help = "Examples:\n  reduit-jepsen run --minutes 3\n  reduit-jepsen run --workload register --nemesis \
                  isolate-leader --seed 7\n  reduit-jepsen self-test --only ack_before_sync\n  reduit-jepsen \
                  relocate --runs 20 --seed 7 --out relocations\n  reduit-jepsen relocate --matrix --sample 3\n  \
                  reduit-jepsen judge jepsen/history.jsonl\n\nExit codes: 0 good, 1 not good, 2 the harness failed, 77 skipped."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Workloads under faults, then the verdicts.
    Run(Run),
    /// Promises switched off one by one: each has to be found.
    SelfTest(SelfTest),
    /// Datasets that move between two regions, with faults on their way.
    #[command(after_help = RELOCATE_HELP)]
    Relocate(Relocate),
    /// Judges a history that was recorded.
    Judge {
        /// A file of one operation a line.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Workloads and faults there are.
    List,
}

#[derive(Args)]
struct Run {
    /// What clients do; default: everything.
    #[arg(long, value_parser = named)]
    workload: Vec<Workload>,
    /// What goes wrong; default: everything. `none` for nothing.
    #[arg(long)]
    nemesis: Vec<String>,
    /// How long the load lasts.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Of everything chosen by chance; default: by chance.
    #[arg(long)]
    seed: Option<u64>,
    /// Storage nodes, and as many KMS replicas.
    #[arg(long, default_value_t = 3)]
    members: u32,
    /// Without a second region: less to run, and nothing is captured between regions.
    #[arg(long)]
    one_region: bool,
    /// Without captures and searches.
    #[arg(long)]
    no_residency: bool,
    /// Where report, history and captures go.
    #[arg(long, default_value = "jepsen")]
    out: PathBuf,
    /// A promise switched off, in daemons that were built for it.
    #[arg(long)]
    danger: Option<String>,
}

#[derive(Args)]
struct SelfTest {
    /// Only switches whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Of the first try of each.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the reports go.
    #[arg(long, default_value = "jepsen-self-test")]
    out: PathBuf,
}

const RELOCATE_HELP: &str = "Examples:
  reduit-jepsen relocate --runs 20 --seed 7 --out relocations
  reduit-jepsen relocate --matrix --seed 7
  reduit-jepsen relocate --matrix --sample 3
  reduit-jepsen relocate --runs 1 --capture-keys      with daemons that `cargo xtask promises` builds";

#[derive(Args)]
struct Relocate {
    /// Relocations, each with the link between the regions cut at every transition.
    #[arg(long, default_value_t = 20, conflicts_with = "matrix")]
    runs: u32,
    /// Every fault at every point of a relocation instead, one relocation for each.
    #[arg(long)]
    matrix: bool,
    /// Only so many of the matrix, by chance.
    #[arg(long, requires = "matrix")]
    sample: Option<usize>,
    /// Of everything chosen by chance; default: by chance.
    #[arg(long)]
    seed: Option<u64>,
    /// Where histories, captures, the report and, if something is wrong, logs go.
    #[arg(long, default_value = "jepsen-relocate")]
    out: PathBuf,
    /// Keeps what went over the link between the regions and searches it for every key that KMS replicas write the
    /// fingerprint of, into the file REDUIT_FINGERPRINTS, under REDUIT_FINGERPRINT_SALT.
    #[arg(long)]
    capture_keys: bool,
}

/// What clients can do; replicas are compared at the end of every run.
fn workloads() -> Vec<Workload> {
    let all = Workload::ALL.into_iter();
    all.filter(|workload| *workload != Workload::Replicas)
        .collect()
}

fn named(name: &str) -> Result<Workload, String> {
    let found = workloads()
        .into_iter()
        .find(|workload| workload.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = workloads().into_iter().map(Workload::name).collect();
        format!("there are {}", names.join(", "))
    })
}

const NOT_GOOD: u8 = 1;
const HARNESS: u8 = 2;
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(
        arguments.task,
        Task::Run(_) | Task::SelfTest(_) | Task::Relocate(_)
    ) && let Err(skipped) = isolate()
    {
        println!("reduit-jepsen: {skipped}");
        return ExitCode::from(SKIPPED);
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::Level::WARN.into())
                .from_env_lossy(),
        )
        .with_writer(std::io::stderr)
        .init();
    let outcome = tokio::runtime::Runtime::new()
        .context("a runtime")
        .and_then(|runtime| runtime.block_on(task(arguments.task)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_GOOD),
        Err(error) => {
            eprintln!("reduit-jepsen: {error:#}");
            ExitCode::from(HARNESS)
        }
    }
}

async fn task(task: Task) -> Result<bool> {
    match task {
        Task::Run(options) => one(options).await,
        Task::SelfTest(options) => self_test(options).await,
        Task::Relocate(options) => relocate(options).await,
        Task::Judge { file, json } => judge(&file, json),
        Task::List => {
            let workloads = workloads().into_iter().map(Workload::name);
            println!("workloads: {}", workloads.collect::<Vec<_>>().join(", "));
            let faults = Fault::ALL.iter().map(|fault| fault.name());
            println!("nemeses: {}", faults.collect::<Vec<_>>().join(", "));
            Ok(true)
        }
    }
}

async fn one(options: Run) -> Result<bool> {
    let seed = options
        .seed
        .unwrap_or_else(|| rand::random_range(0..1_000_000));
    let faults = match options.nemesis.as_slice() {
        [] => Fault::ALL
            .iter()
            .copied()
            .filter(|fault| fault.passes())
            .collect(),
        [none] if none == "none" => Vec::new(),
        some => some
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_>>()?,
    };
    let workloads = match options.workload.is_empty() {
        true => workloads(),
        false => options.workload.clone(),
    };
    let mut world = WorldPlan::region(options.members, 1, &process::binaries()?);
    if !options.one_region {
        world.federation.regions = FederationPlan::demo().regions;
        for region in world.federation.regions.iter_mut().take(1) {
            (region.nodes, region.kms) = (options.members, options.members);
        }
    }
    let plan = Plan {
        workloads,
        faults,
        load: Duration::from_secs_f64(options.minutes * 60.0),
        seed,
        world,
        patience: workload::PATIENCE,
        residency: !options.no_residency && !options.one_region,
        replay: replay(&options, seed),
        out: options.out,
        danger: options.danger,
    };
    let report = run(&plan).await?;
    print!("{}", report.table());
    println!("report: {}", plan.out.join("report.html").display());
    Ok(report.is_good())
}

async fn relocate(options: Relocate) -> Result<bool> {
    let plan = Relocations {
        scope: match options.matrix {
            true => Scope::Matrix(options.sample),
            false => Scope::Runs(options.runs),
        },
        seed: options
            .seed
            .unwrap_or_else(|| rand::random_range(0..1_000_000)),
        bin: process::binaries()?,
        out: options.out,
        capture_keys: options.capture_keys,
    };
    println!("seed {}", plan.seed);
    jepsen::relocate::run(&plan).await
}

fn replay(options: &Run, seed: u64) -> String {
    let mut command = format!(
        "cargo xtask jepsen --minutes {} --seed {seed}",
        options.minutes
    );
    for workload in &options.workload {
        command.push_str(&format!(" --workload {workload}"));
    }
    for nemesis in &options.nemesis {
        command.push_str(&format!(" --nemesis {nemesis}"));
    }
    if options.one_region {
        command.push_str(" --one-region");
    }
    if options.members != 3 {
        command.push_str(&format!(" --members {}", options.members));
    }
    command
}

async fn self_test(options: SelfTest) -> Result<bool> {
    let (mut all, mut number) = (true, 0);
    let began = std::time::Instant::now();
    selftest::all(
        &process::binaries()?,
        &options.out,
        options.only.as_deref(),
        options.seed,
        |one| {
            let (verdict, by) = match &one.by {
                Some(by) if one.is_good() => ("red, as it must be", by.as_str()),
                Some(by) => ("red TOO LATE", by.as_str()),
                None => ("NOT FOUND", "nothing turned red"),
            };
            all &= one.is_good();
            number += 1;
            println!(
                "self-test: {} {verdict} after {} s, {} runs: {by}",
                one.switch,
                one.took.as_secs(),
                one.tries
            );
        },
    )
    .await?;
    println!(
        "self-test: {number} switches in {} s: {}",
        began.elapsed().as_secs(),
        if all { "each found" } else { "NOT EACH FOUND" }
    );
    Ok(all)
}

fn judge(file: &std::path::Path, json: bool) -> Result<bool> {
    let mut good = true;
    let workloads = checker::read_file(file)?;
    if workloads.is_empty() {
        bail!("{} holds no operation", file.display());
    }
    for (which, ops) in workloads {
        let verdict = workload::judge(which, &ops);
        good &= verdict.valid;
        if json {
            println!("{}", serde_json::to_string(&verdict)?);
        } else {
            let word = if verdict.valid { "valid" } else { "NOT VALID" };
            println!(
                "{which}: {} operations, {} ok, {} fail, {} info, {} anomalies: {word}",
                verdict.operations, verdict.ok, verdict.fail, verdict.info, verdict.found
            );
            for anomaly in &verdict.anomalies {
                println!("  {}", anomaly.what);
            }
        }
    }
    Ok(good)
}
