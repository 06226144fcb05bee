//! The shipping log and real RocksDB on a file system that forgets what was not synced: three members under load,
//! the power of all cut at once, over and over.
//!
//! 5 cuts, or 30 with `REDUIT_FULL=1`; `REDUIT_CUTS` says another number and `REDUIT_SEED` another seed. Skips,
//! saying why, where FUSE is not permitted. Goes red with feature `danger_ack_before_sync`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use faults::content::Survival;
use faults::control::Command;
use faults::mount::Mounted;
use proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Group;
use replica::disk::RealDisk;
use replica::host::{OpenError, Tuning};
use replica::log::{LogError, LogOptions};
use replica::state::StateError;
use sim::client::{Client, insist};
use sim::cluster::{self, Running, Site, Store};
use sim::judge::Judged;
use sim::load::{self, History, Outcome};
use sim::net::{Net, Weather};
use sim::{Broken, run};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const MEMBERS: u64 = 3;
const CLIENTS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

fn tuning(rng: &mut StdRng) -> Tuning {
    Tuning {
        // Two loaded cores and a file system in another process: real time needs room.
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(600),
        election_max: Duration::from_millis(1200),
        response_max: Duration::from_secs(2),
        propose_wait: Duration::from_secs(5),
        read_wait: Duration::from_secs(2),
        flush_every: Duration::from_millis([100, 600, 20_000][rng.random_range(0..3)]),
        keep_entries: [32, 500, 100_000][rng.random_range(0..3)],
        ..cluster::tuning()
    }
}

fn site(dir: &Path, node: u64) -> Site {
    Site {
        node: NodeId(node),
        dir: dir.join(format!("n{node}")),
        disk: Arc::new(RealDisk),
        store: Store::Rocks,
        log: LogOptions {
            segment_bytes: 1 << 20,
            payload_bytes_max: 128 << 10,
            space_bytes_min: 0,
            ..LogOptions::default()
        },
        sync_takes: Duration::ZERO,
    }
}

/// Threads of the boot that lost its power let go of the folder one after the other.
async fn start(net: &Net, dir: &Path, node: u64, tuning: &Tuning) -> Result<Running, Broken> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let error = match cluster::start(net, site(dir, node), tuning).await {
            Ok(running) => return Ok(running),
            Err(error) => error,
        };
        let held = matches!(
            error,
            OpenError::Log(LogError::InUse { .. })
                | OpenError::State {
                    source: StateError::InUse,
                    ..
                }
        );
        if !held || Instant::now() >= deadline {
            return Err(Broken(format!(
                "member {node} does not start: {}",
                run::chain(&error)
            )));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

struct Era<'a> {
    number: u64,
    cut: bool,
    mounted: &'a Mounted,
    clients: &'a [Client],
    history: &'a History,
    rng: &'a mut StdRng,
}

async fn one_era(era: Era<'_>) -> Result<(Judged, Vec<Running>), Broken> {
    let net = Net::new(MEMBERS, Weather::CALM, era.number);
    let tuning = tuning(era.rng);
    let mut members = Vec::new();
    for node in 1..=MEMBERS {
        members.push(start(&net, era.mounted.path(), node, &tuning).await?);
    }
    let groups: Vec<Group> = members.iter().map(|member| member.group.clone()).collect();
    let mut judged = Judged::default();
    if era.number == 0 {
        cluster::found(&members).await?;
        for command in load::founding() {
            let founded = timeout(cluster::AGREE_MAX, insist(&groups, &command)).await;
            let answer = founded.map_err(|_| Broken("the dataset is not founded".to_owned()))?;
            load::outcome(&answer)?;
        }
    } else {
        cluster::agree(&members).await?;
        judged = run::judge_all(&groups, era.clients, era.history).await?;
    }
    if !era.cut {
        return Ok((judged, members));
    }
    let mut running = JoinSet::new();
    for client in era.clients {
        let (client, groups) = (client.clone(), groups.clone());
        running.spawn(async move { client.run(&groups).await });
    }
    let load = Duration::from_millis(era.rng.random_range(50..700));
    if let Ok(Some(ended)) = timeout(load, running.join_next()).await {
        return Err(match ended {
            Ok(Err(broken)) => broken,
            other => Broken(format!("a client ended: {other:?}")),
        });
    }
    let survival = if era.rng.random_range(0..3) == 0 {
        Survival::Nothing
    } else {
        Survival::Mixed
    };
    let command = Command::DropUnsynced {
        survival,
        seed: era.rng.random(),
    };
    era.mounted
        .send(command)
        .map_err(|e| Broken(format!("the volume does not obey: {e}")))?;
    running.abort_all();
    while let Some(ended) = running.join_next().await {
        if let Ok(Err(broken)) = ended {
            return Err(broken);
        }
    }
    Ok((judged, members))
}

#[test]
fn thirty_power_cuts_with_real_rocksdb_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let faultfs = Path::new(env!("CARGO_BIN_EXE_reduit-faultfs"));
    let mounted = match Mounted::start(faultfs, dir.path()) {
        Ok(mounted) => mounted,
        Err(error) => {
            println!("skipped: {}", run::chain(&error));
            return;
        }
    };
    let full = std::env::var("REDUIT_FULL").is_ok_and(|value| value == "1");
    let cuts = number("REDUIT_CUTS").unwrap_or(if full { 30 } else { 5 });
    let seed = number("REDUIT_SEED").unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    let history = History::default();
    let think_max = Duration::from_millis(2);
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|n| Client::new(n, seed, history.clone(), think_max))
        .collect();
    let mut total = Judged::default();
    for number in 0..=cuts {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let era = Era {
            number,
            cut: number < cuts,
            mounted: &mounted,
            clients: &clients,
            history: &history,
            rng: &mut rng,
        };
        let (judged, members) = runtime
            .block_on(one_era(era))
            .unwrap_or_else(|broken| panic!("REDUIT_SEED={seed}, boot {number}: {broken}"));
        total.acknowledged += judged.acknowledged;
        total.repeated += judged.repeated;
        total.unknown += judged.unknown;
        runtime.block_on(async {
            for member in &members {
                member.host.abandon().await;
            }
        });
        drop(members);
        runtime.shutdown_timeout(Duration::from_secs(10));
        if number < cuts {
            mounted.send(Command::PowerOn).expect("the volume obeys");
        }
    }
    let counts = mounted.send(Command::Counts).expect("the volume obeys");
    let all = history.all();
    let acknowledged = all
        .iter()
        .filter(|r| matches!(r.outcome, Outcome::Done { .. }))
        .count();
    let reads: u64 = clients.iter().map(Client::reads).sum();
    println!(
        "{cuts} cuts: {} requests, {acknowledged} acknowledged, {reads} reads, {total:?}, {counts:?}",
        all.len()
    );
    assert_eq!(counts.cuts, cuts);
    assert!(total.acknowledged > 0 && total.repeated > 0, "{total:?}");
    assert!(counts.pages_lost > 0 && counts.syncs > 0, "{counts:?}");
}
