//! The shipping log and real RocksDB on a file system that forgets what was not synced: three members under load,
//! the power of all cut at once, over and over.
//!
//! 5 cuts, or 30 with `REDUIT_FULL=1`; `REDUIT_CUTS` says another number and `REDUIT_SEED` another seed. Skips,
//! saying why, where FUSE is not permitted. Goes red with the switch `ack_before_sync`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use faults::content::Survival;
use faults::control::Command;
use faults::mount::Mounted;
use faults::volume::Counts;
use proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Group;
use replica::disk::RealDisk;
use replica::host::{Admission, Tuning};
use replica::log::LogOptions;
use sim::client::{Client, insist};
use sim::cluster::{self, Running, Site, Store};
use sim::judge::Judged;
use sim::load::{self, History, Kind, Outcome};
use sim::machine::Shard;
use sim::net::{Net, Weather};
use sim::roster::Roster;
use sim::{Broken, judge, run};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MEMBERS: u64 = 3;
const CLIENTS: u64 = 4;
/// Longest time the threads of a boot that lost its power may take to end.
const ENDS_MAX: Duration = Duration::from_secs(20);

/// A run: one volume, the members on it, and what their clients were told.
struct Cuts {
    mounted: Mounted,
    clients: Vec<Client>,
    history: History,
    rng: StdRng,
    judged: Judged,
    boots: u64,
    // The volume's folder goes after the volume.
    _dir: tempfile::TempDir,
}

/// What a boot ends with.
#[derive(Clone, Copy)]
enum End {
    /// The power goes under load; what was not synced survives by the seed, or not at all.
    Cut,
    /// The same, and the volume has ignored every sync since the load began: nothing survives.
    CutAfterLies,
    /// Judged, and stopped.
    Stop,
}

impl Cuts {
    fn new(cuts: u64, seed: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let faultfs = Path::new(env!("CARGO_BIN_EXE_reduit-faultfs"));
        // What hangs in the volume fails then.
        let lives_max = Duration::from_secs(60 + 20 * cuts);
        let mounted = Mounted::or_skip(faultfs, dir.path(), lives_max);
        let history = History::default();
        let think_max = Duration::from_millis(2);
        Some(Self {
            mounted: mounted.expect("the volume's process starts")?,
            clients: (0..CLIENTS)
                .map(|n| Client::new(n, seed, history.clone(), think_max))
                .collect(),
            history,
            rng: StdRng::seed_from_u64(seed),
            judged: Judged::default(),
            boots: 0,
            _dir: dir,
        })
    }

    /// Starts every member, judges what they hold, loads them, and cuts the power.
    fn boot(&mut self, end: End) -> Result<(), Broken> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut members = Vec::new();
        let result = runtime.block_on(self.era(end, &mut members));
        end_boot(runtime, members, self.mounted.path())?;
        self.boots += 1;
        self.command(Command::PowerOn)?;
        result
    }

    async fn era(&mut self, end: End, members: &mut Vec<Running>) -> Result<(), Broken> {
        let net = Net::new(MEMBERS, Weather::CALM, self.boots);
        let tuning = tuning(&mut self.rng);
        for node in 1..=MEMBERS {
            let started = cluster::start(&net, site(self.mounted.path(), node), &tuning).await;
            members.push(started.map_err(|error| {
                Broken(format!(
                    "member {node} does not start: {}",
                    run::chain(&error)
                ))
            })?);
        }
        let groups: Vec<Group> = members.iter().map(|member| member.group.clone()).collect();
        let roster = Roster::from(groups.clone());
        if self.boots == 0 {
            cluster::found(&groups).await?;
            for command in load::founding() {
                let founded = timeout(cluster::AGREE_MAX, insist(&roster, &command)).await;
                let answer =
                    founded.map_err(|_| Broken("the dataset is not founded".to_owned()))?;
                load::outcome(&answer)?;
            }
        } else {
            cluster::agree(&groups).await?;
            let judged = run::judge_all(&groups, &roster, &self.clients, &self.history).await?;
            judge::invariants_hold(&groups)?;
            self.judged.acknowledged += judged.acknowledged;
            self.judged.repeated += judged.repeated;
            self.judged.unknown += judged.unknown;
        }
        match end {
            End::Stop => Ok(()),
            End::Cut => {
                let survival = match self.rng.random_range(0..3) {
                    0 => Survival::Nothing,
                    _ => Survival::Mixed,
                };
                self.load_until_cut(&roster, survival, 0).await
            }
            End::CutAfterLies => {
                self.command(Command::IgnoreSyncs { ignored: true })?;
                self.load_until_cut(&roster, Survival::Nothing, 10).await?;
                self.command(Command::IgnoreSyncs { ignored: false })
            }
        }
    }

    /// Loads the group for a while, and until `least` more requests are acknowledged; then the power goes.
    async fn load_until_cut(
        &mut self,
        roster: &Roster,
        survival: Survival,
        least: usize,
    ) -> Result<(), Broken> {
        let wanted = self.acknowledged(|_, _| true) + least;
        let mut running = JoinSet::new();
        for client in &self.clients {
            let (client, roster) = (client.clone(), roster.clone());
            running.spawn(async move { client.run(&roster).await });
        }
        let load = Duration::from_millis(self.rng.random_range(50..700));
        let deadline = Instant::now() + cluster::AGREE_MAX;
        loop {
            if let Ok(Some(ended)) = timeout(load, running.join_next()).await {
                return Err(match ended {
                    Ok(Err(broken)) => broken,
                    other => Broken(format!("a client ended: {other:?}")),
                });
            }
            if self.acknowledged(|_, _| true) >= wanted {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Broken("nothing is acknowledged".to_owned()));
            }
        }
        let seed = self.rng.random();
        self.command(Command::DropUnsynced { survival, seed })?;
        running.abort_all();
        while let Some(ended) = running.join_next().await {
            if let Ok(Err(broken)) = ended {
                return Err(broken);
            }
        }
        Ok(())
    }

    fn command(&self, command: Command) -> Result<(), Broken> {
        let done = self.mounted.send(command);
        done.map(drop)
            .map_err(|error| Broken(format!("the volume does not obey: {error}")))
    }

    fn counts(&self) -> Counts {
        let counts = self.mounted.send(Command::Counts);
        counts.expect("the volume obeys")
    }

    /// Requests acknowledged that `counts` holds for: what they were to do, and whether they replaced something.
    fn acknowledged(&self, counts: impl Fn(&Kind, bool) -> bool) -> usize {
        let all = self.history.all();
        let acknowledged = all.iter().filter(|request| match request.outcome {
            Outcome::Done { replaced, .. } => counts(&request.kind, replaced.is_some()),
            Outcome::Unknown | Outcome::Refused(_) => false,
        });
        acknowledged.count()
    }
}

/// Ends a boot whose power is gone, and waits until none of its threads has a file open: nothing of it runs on into
/// the next.
fn end_boot(runtime: Runtime, members: Vec<Running>, at: &Path) -> Result<(), Broken> {
    runtime.block_on(async {
        for member in &members {
            member.host.abandon().await;
        }
    });
    drop(members);
    runtime.shutdown_timeout(ENDS_MAX);
    let deadline = Instant::now() + ENDS_MAX;
    loop {
        let open = open_below(at);
        if open.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Broken(format!(
                "a boot without power does not end: {open:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Files below `at` that this process has open.
fn open_below(at: &Path) -> Vec<PathBuf> {
    let handles = fs::read_dir("/proc/self/fd").expect("Linux has it");
    handles
        .filter_map(|handle| fs::read_link(handle.ok()?.path()).ok())
        .filter(|path| path.starts_with(at))
        .collect()
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
        machine: Arc::new(Shard),
        admission: Admission::Found,
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

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn thirty_power_cuts_with_real_rocksdb_lose_nothing() {
    let full = std::env::var("REDUIT_FULL").is_ok_and(|value| value == "1");
    let cuts = number("REDUIT_CUTS").unwrap_or(if full { 30 } else { 5 });
    let seed = number("REDUIT_SEED").unwrap_or(1);
    let started = Instant::now();
    let Some(mut run) = Cuts::new(cuts, seed) else {
        return;
    };
    for boot in 0..=cuts {
        let end = if boot < cuts { End::Cut } else { End::Stop };
        run.boot(end)
            .unwrap_or_else(|broken| panic!("REDUIT_SEED={seed}, boot {boot}: {broken}"));
    }
    let counts = run.counts();
    let acknowledged = run.acknowledged(|_, _| true);
    let replaced = run.acknowledged(|kind, replaced| replaced && *kind != Kind::Delete);
    let deleted = run.acknowledged(|kind, _| *kind == Kind::Delete);
    let reads: u64 = run.clients.iter().map(Client::reads).sum();
    println!(
        "{cuts} cuts in {} s: {} requests, {acknowledged} acknowledged, {replaced} of them overwrites and {deleted} \
         deletes, {reads} reads; {:?}; {counts:?}",
        started.elapsed().as_secs(),
        run.history.all().len(),
        run.judged,
    );
    assert_eq!(counts.cuts, cuts);
    // What was meant to happen did.
    assert!(replaced > 0 && deleted > 0 && run.judged.repeated > 0);
    assert!(counts.syncs > 0 && counts.pages_lost > 0, "{counts:?}");
    assert!(
        cuts < 30 || (counts.pages_torn > 0 && counts.names_lost > 0),
        "{counts:?}"
    );
}

/// The control: were a sync not what makes an acknowledged write survive, the test above would prove nothing.
#[test]
fn a_volume_that_lies_about_syncs_is_found_out() {
    let Some(mut run) = Cuts::new(2, 1) else {
        return;
    };
    run.boot(End::Cut).expect("an honest volume");
    run.boot(End::CutAfterLies).expect("it lies so far");
    let Broken(found) = run.boot(End::Stop).expect_err("what was lost is missed");
    println!("{found}; {:?}", run.counts());
    assert!(found.contains("lost"), "{found}");
    assert!(run.counts().syncs_ignored > 0);
}
