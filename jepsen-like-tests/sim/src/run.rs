//! One seed on replicas: found a group, serve clients while things go wrong, cut the power, start it again, judge,
//! and over again.
//!
//! Owns the scenario a seed stands for. Refuses to hide behind time: clocks are simulated, so an era of seconds is
//! run in milliseconds and nothing waits for the machine it runs on. In a process whose randomness comes from the
//! seed (the program `reduit-sim`) two runs of a seed are the same event for event; elsewhere the engine's election
//! jitter and the order in which waiting tasks wake come from the system.

use std::time::Duration;

use proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Group;
use replica::host::{Admission, Tuning};
use replica::log::Retired;
use tokio::time::{sleep, timeout};

use crate::cluster;
use crate::fleet::Fleet;
use crate::grid::Grid;
use crate::logbook::Logbook;
use crate::machine::{Ledger, Which};
use crate::nemesis::{Fault, Nemesis};
use crate::net::{Net, Weather};
use crate::roster::Roster;
use crate::work::Work;
use crate::{Broken, hold};

pub use crate::work::judge_all;

const FAULTS: &str = "faults";
const STATES: &str = "replica states";
/// Longest load of an era without a nemesis, in simulated time.
const LOAD_MAX: Duration = Duration::from_secs(3);
/// How long a replacement that was begun may take once nothing fails.
const REPLACED_MAX: Duration = Duration::from_secs(60);

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
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) which: Which,
    pub(crate) members: u64,
    eras: u64,
    weather: Weather,
    pub(crate) tuning: Tuning,
    pub(crate) segment_bytes: u64,
    pub(crate) retired: Retired,
    pub(crate) sync_max: Duration,
    think_max: Duration,
    /// What goes wrong besides the power; nothing in some runs, which are short and cut often.
    faults: Vec<Fault>,
}

impl Scenario {
    fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let ms = Duration::from_millis;
        let pick = |rng: &mut StdRng, of: &[u64]| of[rng.random_range(0..of.len())];
        let stormy = rng.random_ratio(1, 2);
        let kinds = rng.random_range(1..=4);
        let faults = (0..if stormy { kinds } else { 0 })
            .map(|_| Fault::ALL[rng.random_range(0..Fault::ALL.len())]);
        let faults: Vec<Fault> = faults.collect();
        let fills = faults.contains(&Fault::DiskFull);
        let mut scenario = Self {
            seed,
            which: if rng.random_ratio(2, 3) {
                Which::Shard
            } else {
                Which::Kms
            },
            members: pick(&mut rng, &[3, 3, 3, 3, 3, 1, 5]),
            eras: rng.random_range(1..=3),
            weather: Weather {
                delay_max: Duration::from_micros(pick(&mut rng, &[100, 1000, 5000])),
                breaks_one_in: pick(&mut rng, &[0, 0, 2000, 300]) as u32,
                loses_one_in: pick(&mut rng, &[0, 0, 500]) as u32,
                doubles_one_in: pick(&mut rng, &[0, 40]) as u32,
            },
            tuning: Tuning {
                // Short logs are purged and lagging members fed by snapshots; long ones are replayed whole.
                keep_entries: pick(&mut rng, &[8, 64, 100_000]),
                flush_every: ms(pick(&mut rng, &[50, 400, 20_000])),
                ..cluster::tuning()
            },
            segment_bytes: pick(&mut rng, &[96, 96, 256, 1024]) << 10,
            retired: if rng.random() {
                Retired::Reuse
            } else {
                Retired::Zero
            },
            sync_max: Duration::from_micros(pick(&mut rng, &[200, 1000, 4000])),
            think_max: if stormy {
                ms(pick(&mut rng, &[10, 40]))
            } else {
                Duration::from_micros(pick(&mut rng, &[0, 1000, 4000]))
            },
            faults,
        };
        if fills && rng.random() {
            // Otherwise a run is over before its disks are full.
            scenario.tuning.keep_entries = 100_000;
            scenario.segment_bytes = 96 << 10;
            scenario.think_max = ms(1);
        }
        scenario
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
pub fn seed(seed: u64, book: &Logbook) -> Result<(), Broken> {
    let scenario = Scenario::of(seed);
    let grid = Grid::new(scenario.members, seed);
    let ledger = Ledger::new(scenario.which, book.clone());
    let mut fleet = Fleet::new(&scenario, grid.clone(), ledger, book.clone());
    let work = Work::new(scenario.which, seed, scenario.think_max);
    book.count(STATES, &format!("runs of {:?}", scenario.which));
    book.count(STATES, &format!("runs of {} members", scenario.members));
    // One more era than cuts: the last one only judges.
    for era in 0..=scenario.eras {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|e| Broken(format!("no runtime: {e}")))?;
        let mut world = Era {
            scenario: &scenario,
            era,
            fleet: &mut fleet,
            work: &work,
            book,
        };
        let result = runtime.block_on(world.run());
        drop(runtime);
        result.map_err(|broken| Broken(format!("{broken}; era {era} of {scenario:?}")))?;
    }
    work.count(book);
    let faults = grid.faults();
    book.count_by(FAULTS, "power cuts of a disk", faults.power_cuts);
    book.count_by(FAULTS, "unsynced sectors kept", faults.sectors_kept);
    book.count_by(FAULTS, "unsynced sectors lost", faults.sectors_lost);
    book.count_by(FAULTS, "unsynced sectors torn", faults.sectors_torn);
    book.count_by(FAULTS, "unsynced names lost", faults.names_lost);
    book.count_by(FAULTS, "syncs failed", faults.syncs_failed);
    book.count_by(
        FAULTS,
        "writes refused for want of space",
        faults.writes_full,
    );
    Ok(())
}

/// One boot of everyone. A runtime ends with its era, so nothing of the old boot runs on.
struct Era<'a> {
    scenario: &'a Scenario,
    era: u64,
    fleet: &'a mut Fleet,
    work: &'a Work,
    book: &'a Logbook,
}

impl Era<'_> {
    fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.scenario.seed ^ (self.era << 56) ^ 0xE7A)
    }

    fn last(&self) -> bool {
        self.era == self.scenario.eras
    }

    async fn run(&mut self) -> Result<(), Broken> {
        self.book.note(format_args!("era {}", self.era));
        self.work.begin();
        let seed = self.scenario.seed ^ (self.era << 40);
        let nodes = self.fleet.ids();
        let net = Net::between(nodes, self.scenario.weather, seed, self.book.clone());
        let roster = Roster::default();
        let result = self.serve(&net, &roster).await;
        self.fleet.lose_power();
        let away = Duration::from_secs(self.rng().random_range(0..200));
        self.work.end(away);
        result?;
        self.book.check()
    }

    async fn serve(&mut self, net: &Net, roster: &Roster) -> Result<(), Broken> {
        for node in self.fleet.whole() {
            let started = self.fleet.start(net, roster, node, Admission::Found).await;
            started.map_err(|e| Broken(format!("member {node} does not start: {}", chain(&e))))?;
        }
        if self.era == 0 {
            let founders = roster.groups();
            cluster::found(&founders).await?;
            cluster::agree(&founders).await?;
            self.work.found(roster).await?;
        } else {
            let voters = self.voters(net, roster).await?;
            self.work.judge(&voters, roster, self.book).await?;
            self.book.count(STATES, "judged after a power cut");
        }
        if !self.last() {
            return self.until_cut(net, roster).await;
        }
        // Nothing fails any more: what was begun ends.
        self.fleet.go_on(net, roster, REPLACED_MAX).await?;
        let left = self.fleet.replacement;
        hold!(left.is_none(), "a replacement does not end: {left:?}");
        let voters = self.voters(net, roster).await?;
        self.work.judge(&voters, roster, self.book).await
    }

    /// Waits until the voters agree, and retires whoever is no member. Answers the voters.
    async fn voters(&mut self, net: &Net, roster: &Roster) -> Result<Vec<Group>, Broken> {
        let led = async {
            loop {
                if let Some(leader) = self.fleet.leader().await {
                    return leader.status();
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let view = timeout(cluster::AGREE_MAX, led).await;
        let Ok(view) = view else {
            let at: Vec<_> = roster.groups().iter().map(Group::status).collect();
            return Err(Broken(format!("nobody comes to lead: {at:?}")));
        };
        let voters = view.voters.all();
        let pending = self.fleet.replacement.map(|replacement| replacement.new);
        for node in self.fleet.ids() {
            let member = voters.contains(&node) || view.learners.contains(&node);
            if !member && pending != Some(node) {
                self.book.count(STATES, "members gone after a power cut");
                self.fleet.retire(net, roster, node).await;
            }
        }
        let replaced = self.fleet.replacement.is_some_and(|r| {
            voters.contains(&r.new) && !voters.contains(&r.old) && view.voters.configs.len() == 1
        });
        if replaced {
            self.fleet.replacement = None;
        }
        let groups: Vec<Group> = voters
            .iter()
            .filter_map(|node| self.fleet.group(*node))
            .collect();
        let lost: Vec<NodeId> = self.fleet.lost();
        let away = voters.iter().filter(|node| !lost.contains(node)).count();
        hold!(
            groups.len() == away,
            "voters {voters:?} do not all run: {:?}",
            self.fleet.running()
        );
        cluster::agree(&groups).await?;
        Ok(groups)
    }

    /// Serves clients until the power goes, while whatever the seed says goes wrong.
    async fn until_cut(&mut self, net: &Net, roster: &Roster) -> Result<(), Broken> {
        let mut rng = self.rng();
        let (scenario, book, fleet) = (self.scenario, self.book, &mut *self.fleet);
        let mut running = self.work.run(roster);
        let power = async {
            if !scenario.faults.is_empty() {
                let count = rng.random_range(1..=4);
                let mut nemesis = Nemesis {
                    fleet: &mut *fleet,
                    net,
                    roster,
                    book,
                    weather: scenario.weather,
                    rng: StdRng::seed_from_u64(rng.random()),
                };
                nemesis.run(&scenario.faults, count).await?;
            } else if scenario.members > 1 {
                minor_faults(fleet, net, &mut rng, book);
            }
            cut(&fleet.grid, &mut rng, book).await;
            // Everyone is in the middle of a write: what was accepted reaches the cache and not the platter.
            fleet.turn_logs();
            fleet.grid.cut();
            Ok(())
        };
        let ended = tokio::select! {
            biased;
            broken = book.blamed() => Err(broken),
            ended = running.join_next() => match ended {
                Some(Ok(Err(broken))) => Err(broken),
                other => Err(Broken(format!("a client ended: {other:?}"))),
            },
            power = power => power,
        };
        running.abort_all();
        while let Some(ended) = running.join_next().await {
            if let Ok(ended) = ended {
                ended?;
            }
        }
        ended
    }
}

/// A minority whose sync fails is out until the restart, and its disk keeps what it pleases; one that nothing
/// reaches stands still.
fn minor_faults(fleet: &Fleet, net: &Net, rng: &mut StdRng, book: &Logbook) {
    let nodes = fleet.running();
    let any = |rng: &mut StdRng| nodes[rng.random_range(0..nodes.len())];
    if rng.random_ratio(1, 4)
        && let Some(device) = fleet.device(any(rng))
    {
        device.fail_sync_in(rng.random_range(0..200));
    }
    if rng.random_ratio(1, 4) {
        book.count(FAULTS, "member isolated until the cut");
        net.isolate(any(rng));
    }
}

/// Waits until the voltage drops, everywhere at once.
async fn cut(grid: &Grid, rng: &mut StdRng, book: &Logbook) {
    let mut drops = grid.watch();
    drops.borrow_and_update();
    let cut = if rng.random() {
        Cut::After(Duration::from_micros(rng.random_range(0..300_000)))
    } else {
        Cut::AtCall(rng.random_range(0..1500))
    };
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
    book.note(format_args!("power {cut:?}"));
    book.count(FAULTS, "power cuts of all members");
}
