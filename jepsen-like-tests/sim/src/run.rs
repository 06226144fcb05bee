//! One seed: found a group, load it, cut the power, start it again, judge, and over again.
//!
//! Owns the scenario a seed stands for. Refuses to hide behind time: clocks are simulated, so an era of seconds is
//! run in milliseconds and nothing waits for the machine it runs on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Group;
use replica::disk::SimFaults;
use replica::host::Tuning;
use replica::log::{Driver, LogOptions, Retired};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Client, insist};
use crate::cluster::{self, Running, Site, Store};
use crate::grid::Grid;
use crate::judge::{self, Judged};
use crate::load::{self, History, Outcome};
use crate::net::{Net, Weather};
use crate::{Broken, hold};

/// Clients of a run.
const CLIENTS: u64 = 4;

/// What one seed, or many, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Seeds run.
    pub seeds: u64,
    /// Times the power of all members was cut.
    pub cuts: u64,
    /// Requests sent, retries not counted.
    pub requests: u64,
    /// Of these acknowledged.
    pub acknowledged: u64,
    /// Linearizable reads compared under load.
    pub reads: u64,
    /// Acknowledged writes and deletes compared after cuts.
    pub checked: u64,
    /// Answered requests sent again after cuts and answered the same.
    pub repeated: u64,
    /// Requests whose outcome was unknown at a cut.
    pub unknown: u64,
    /// What the disks did.
    pub faults: SimFaults,
}

impl Counts {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.cuts += other.cuts;
        self.requests += other.requests;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.checked += other.checked;
        self.repeated += other.repeated;
        self.unknown += other.unknown;
        let (a, b) = (&mut self.faults, &other.faults);
        a.power_cuts += b.power_cuts;
        a.sectors_kept += b.sectors_kept;
        a.sectors_lost += b.sectors_lost;
        a.sectors_torn += b.sectors_torn;
        a.names_lost += b.names_lost;
        a.syncs_failed += b.syncs_failed;
    }
}

/// When the power goes.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// So long after the load has begun.
    After(Duration),
    /// With the disk call after so many, of any member: between a write and its sync as likely as anywhere.
    AtCall(u64),
}

/// What a seed stands for.
#[derive(Debug, Clone)]
struct Scenario {
    seed: u64,
    members: u64,
    eras: u64,
    weather: Weather,
    tuning: Tuning,
    segment_bytes: u64,
    retired: Retired,
    sync_max: Duration,
    think_max: Duration,
}

impl Scenario {
    fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let ms = Duration::from_millis;
        let pick = |rng: &mut StdRng, of: &[u64]| of[rng.random_range(0..of.len())];
        Self {
            seed,
            members: pick(&mut rng, &[3, 3, 3, 3, 3, 1, 5]),
            eras: rng.random_range(1..=3),
            weather: Weather {
                delay_max: Duration::from_micros(pick(&mut rng, &[100, 1000, 5000])),
                breaks_one_in: pick(&mut rng, &[0, 0, 2000, 300]) as u32,
            },
            tuning: Tuning {
                // Short logs are purged and lagging members fed by snapshots; long ones are replayed whole.
                keep_entries: pick(&mut rng, &[8, 64, 100_000]),
                flush_every: ms(pick(&mut rng, &[50, 400, 20_000])),
                ..cluster::tuning()
            },
            segment_bytes: pick(&mut rng, &[256, 512, 1024]) << 10,
            retired: if rng.random() {
                Retired::Reuse
            } else {
                Retired::Zero
            },
            sync_max: Duration::from_micros(pick(&mut rng, &[200, 1000, 4000])),
            think_max: Duration::from_micros(pick(&mut rng, &[0, 1000, 4000])),
        }
    }

    /// How the members start in `era`. A runtime ends with its era, so nothing of the old boot runs on.
    async fn boot(&self, grid: &Grid, era: u64) -> Result<(Net, Vec<Running>), Broken> {
        let net = Net::new(self.members, self.weather, self.seed ^ (era << 40));
        let mut rng = StdRng::seed_from_u64(self.seed ^ (era << 48) ^ 0xB007);
        let mut members = Vec::new();
        for at in 0..self.members as usize {
            let mut salts = StdRng::seed_from_u64(rng.random());
            let first: u64 = salts.random();
            let next = std::sync::atomic::AtomicU64::new(first);
            let options = LogOptions {
                segment_bytes: self.segment_bytes,
                payload_bytes_max: 8 << 10,
                space_bytes_min: 0,
                retired: self.retired,
                driver: Driver::Manual,
                salt: Arc::new(move || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                ..LogOptions::default()
            };
            let least = self.sync_max / 4;
            let site = Site {
                node: NodeId(at as u64 + 1),
                dir: Path::new("/simulated").join(format!("n{}", at + 1)),
                disk: grid.disk(at),
                store: Store::Twin(grid.medium(at).clone()),
                log: options,
                sync_takes: least + (self.sync_max - least).mul_f64(rng.random()),
            };
            let started = cluster::start(&net, site, &self.tuning).await;
            let member = started.map_err(|e| {
                Broken(format!(
                    "member {} does not start in era {era}: {}",
                    at + 1,
                    chain(&e)
                ))
            })?;
            members.push(member);
        }
        Ok((net, members))
    }
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Runs one seed. Blocks; makes runtimes of its own with simulated clocks.
pub fn seed(seed: u64) -> Result<Counts, Broken> {
    let scenario = Scenario::of(seed);
    let grid = Grid::new(scenario.members, seed);
    let history = History::default();
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|number| Client::new(number, seed, history.clone(), scenario.think_max))
        .collect();
    let mut counts = Counts {
        seeds: 1,
        ..Counts::default()
    };
    // One more era than cuts: the last one only judges.
    for era in 0..=scenario.eras {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|e| Broken(format!("no runtime: {e}")))?;
        let judged = runtime
            .block_on(one_era(&scenario, &grid, era, &clients, &history))
            .map_err(|broken| Broken(format!("{broken}; era {era} of {scenario:?}")))?;
        drop(runtime);
        counts.checked += judged.acknowledged;
        counts.repeated += judged.repeated;
        counts.unknown += judged.unknown;
    }
    let all = history.all();
    counts.cuts = scenario.eras;
    counts.requests = all.len() as u64;
    counts.acknowledged = all
        .iter()
        .filter(|r| matches!(r.outcome, Outcome::Done { .. }))
        .count() as u64;
    counts.reads = clients.iter().map(Client::reads).sum();
    counts.faults = grid.faults();
    Ok(counts)
}

async fn one_era(
    scenario: &Scenario,
    grid: &Grid,
    era: u64,
    clients: &[Client],
    history: &History,
) -> Result<Judged, Broken> {
    let mut rng = StdRng::seed_from_u64(scenario.seed ^ (era << 56) ^ 0xE7A);
    let (net, members) = scenario.boot(grid, era).await?;
    let groups: Vec<Group> = members.iter().map(|member| member.group.clone()).collect();
    let mut judged = Judged::default();
    if era == 0 {
        cluster::found(&members).await?;
        cluster::agree(&members).await?;
        for command in load::founding() {
            let founded = timeout(cluster::AGREE_MAX, insist(&groups, &command)).await;
            let answer = founded.map_err(|_| Broken("the dataset is not founded".to_owned()))?;
            load::outcome(&answer)?;
        }
    } else {
        cluster::agree(&members).await?;
        judged = judge_all(&groups, clients, history).await?;
    }
    if era < scenario.eras {
        let cut = if rng.random() {
            Cut::After(Duration::from_micros(rng.random_range(0..300_000)))
        } else {
            Cut::AtCall(rng.random_range(0..1500))
        };
        // A minority whose sync fails is out until the restart, and its disk keeps what it pleases.
        if scenario.members > 1 && rng.random_range(0..4) == 0 {
            let at = rng.random_range(0..scenario.members as usize);
            grid.device(at).fail_sync_in(rng.random_range(0..200));
        }
        let isolated = (scenario.members > 1 && rng.random_range(0..4) == 0)
            .then(|| NodeId(rng.random_range(1..=scenario.members)));
        until_cut(grid, &net, &members, clients, cut, isolated).await?;
    }
    Ok(judged)
}

/// Everything that has to hold once the members are back.
pub async fn judge_all(
    groups: &[Group],
    clients: &[Client],
    history: &History,
) -> Result<Judged, Broken> {
    let reader = |group: &Group| {
        group
            .reader()
            .map_err(|e| Broken(format!("no reader: {e}")))
    };
    let mut judged = judge::survived(reader(&groups[0])?.as_ref(), history)?;
    judge::same_everywhere(groups).await?;
    let settled = async {
        for client in clients {
            client.settle(groups).await?;
        }
        judge::repeat(groups, history).await
    };
    let settled = timeout(cluster::AGREE_MAX, settled).await;
    judged.repeated = settled.map_err(|_| Broken("requests are not answered".to_owned()))??;
    judge::same_everywhere(groups).await?;
    for group in groups {
        judge::exact(reader(group)?.as_ref(), history)?;
    }
    Ok(judged)
}

async fn until_cut(
    grid: &Grid,
    net: &Net,
    members: &[Running],
    clients: &[Client],
    cut: Cut,
    isolated: Option<NodeId>,
) -> Result<(), Broken> {
    let mut drops = grid.watch();
    drops.borrow_and_update();
    let mut running = JoinSet::new();
    for client in clients {
        let client = client.clone();
        let groups: Vec<Group> = members.iter().map(|member| member.group.clone()).collect();
        running.spawn(async move { client.run(&groups).await });
    }
    let power = async {
        if let Some(node) = isolated {
            net.isolate(node);
        }
        match cut {
            Cut::After(delay) => {
                sleep(delay).await;
                grid.drop_voltage();
            }
            Cut::AtCall(calls) => {
                grid.drop_voltage_after(calls);
                // A group that has lost its majority may never make that many calls.
                if timeout(LOAD_MAX, drops.changed()).await.is_err() {
                    grid.drop_voltage();
                }
            }
        }
        // Everyone is in the middle of a write: what was accepted reaches the cache and not the platter.
        for member in members {
            member.host.log().turn();
        }
        grid.cut();
    };
    tokio::select! {
        biased;
        broken = running.join_next() => match broken {
            Some(Ok(Err(broken))) => Err(broken),
            other => Err(Broken(format!("a client ended: {other:?}"))),
        },
        () = power => {
            running.abort_all();
            while let Some(ended) = running.join_next().await {
                if let Ok(ended) = ended {
                    hold!(ended.is_ok(), "{}", ended.err().map_or(String::new(), |e| e.0));
                }
            }
            Ok(())
        }
    }
}

/// Longest load of an era, in simulated time.
const LOAD_MAX: Duration = Duration::from_secs(3);
