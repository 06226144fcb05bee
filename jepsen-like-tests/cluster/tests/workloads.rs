//! Every workload on a plain region of real processes, without faults: it has to be valid, with coverage.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip. CI builds them first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use checker::Workload;
use jepsen::recorder::Recorder;
use jepsen::workload::{self, Access};
use local::{FederationPlan, Local};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long each workload runs.
const LOAD: Duration = Duration::from_secs(8);
/// How long the last look at all of them may take.
const FINISH_MAX: Duration = Duration::from_secs(120);

const WORKLOADS: [Workload; 10] = [
    Workload::Register,
    Workload::Set,
    Workload::Append,
    Workload::Blocks,
    Workload::Retry,
    Workload::KeyStates,
    Workload::Records,
    Workload::Conditions,
    Workload::Parts,
    Workload::Locks,
];

fn binaries() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("REDUIT_BIN") {
        return Some(dir.into());
    }
    let exe = std::env::current_exe().ok()?;
    let dir = exe.parent()?.parent()?.to_owned();
    dir.join("reduit-node").is_file().then_some(dir)
}

/// Runs `story` on a fresh region and takes it down whatever happens.
fn with_region(story: impl AsyncFnOnce(&mut Local, &Path) -> Result<()>) {
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
    let mut plan = FederationPlan::demo();
    plan.regions.truncate(1);
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
        let outcome = story(&mut local, folder.path()).await;
        local.down()?;
        outcome
    });
    if let Err(error) = outcome {
        let kept = folder.keep();
        panic!("{error:#}\nkept for a look: {}", kept.display());
    }
}

/// Runs workloads at the same time until `until` is over; the recorder has what they did.
async fn run(
    access: &Access,
    recorder: &Recorder,
    workloads: &[Workload],
    until: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    for workload in workloads.iter().copied() {
        let (access, recorder, stopped) = (access.clone(), recorder.clone(), stopped.clone());
        running.spawn(async move { workload::run(workload, &access, recorder, stopped).await });
    }
    let until = until.await;
    stop.send_replace(true);
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    until?;
    let finish = async {
        for workload in workloads {
            workload::finish(*workload, access, recorder.clone()).await?;
        }
        Ok(())
    };
    match tokio::time::timeout(FINISH_MAX, finish).await {
        Ok(finished) => finished,
        Err(_) => bail!("the last look takes longer than {FINISH_MAX:?}"),
    }
}

/// What the judges say of the file, as anyone may read it.
fn judge(file: &Path, workloads: &[Workload]) -> Result<()> {
    let ops = checker::read_file(file)?;
    let mut wrong = Vec::new();
    for workload in workloads {
        let none = Vec::new();
        let verdict = workload::judge(*workload, ops.get(workload).unwrap_or(&none));
        println!(
            "{workload}: valid {}, {} ok, {} fail, {} info; {:?}",
            verdict.valid, verdict.ok, verdict.fail, verdict.info, verdict.by_kind
        );
        if !verdict.valid {
            wrong.push(serde_json::to_string_pretty(&verdict)?);
        }
    }
    ensure!(wrong.is_empty(), "not valid: {}", wrong.join("\n"));
    Ok(())
}

fn access(local: &Local, seed: u64) -> Result<Access> {
    Ok(Access {
        region: local.federation.region("ch-zrh")?.clone(),
        seed,
        patience: workload::PATIENCE,
    })
}

#[test]
fn each_workload_is_valid_on_a_region_without_faults() {
    with_region(async |local, folder| {
        for workload in WORKLOADS {
            let file = folder.join(format!("{workload}.jsonl"));
            let recorder = Recorder::create(&file)?;
            let access = access(local, 7)?;
            let load = async {
                tokio::time::sleep(LOAD).await;
                Ok(())
            };
            run(&access, &recorder, &[workload], load).await?;
            let (ops, series) = recorder.close()?;
            ensure!(!ops.is_empty() && !series.is_empty(), "nothing happened");
            judge(&file, &[workload])?;
        }
        Ok(())
    });
}

/// Every process is killed and started again while all workloads run at the same time.
#[test]
fn all_workloads_are_valid_while_processes_die() {
    with_region(async |local, folder| {
        let file = folder.join("history.jsonl");
        let recorder = Recorder::create(&file)?;
        let access = access(local, 8)?;
        let names: Vec<_> = local.services().map(|s| s.name.clone()).collect();
        let kills = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            for name in &names {
                local.kill(name)?;
                tokio::time::sleep(Duration::from_secs(2)).await;
                local.restart(name).await?;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        };
        run(&access, &recorder, &WORKLOADS, kills).await?;
        recorder.close()?;
        judge(&file, &WORKLOADS)
    });
}
