//! One run: a world, workloads on it, faults by seed, everything healed, and the judges.
//!
//! Owns the order and the deck of faults: every kind that fits comes once before any comes twice. Refuses to stop at
//! a workload's error or a fault that cannot be injected; what broke stands in the report.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use checker::{F, Op, Outcome, Workload};
use client::{CreateOptions, PutOptions, Region, Tuning};
use local::files::CLIENTS;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::nemesis::Fault;
use crate::oracle::{Oracle, Residency, Watching};
use crate::recorder::Recorder;
use crate::report::{FaultEvent, Report, Search};
use crate::workload::{self, Access};
use crate::world::{World, WorldPlan};

/// Load before the first fault, so that there is something to lose.
const WARM_UP: Duration = Duration::from_secs(3);
/// Of disk, as an hour of everything takes.
const ROOM_A_SECOND: u64 = 15 << 20;
/// How long a fault lasts, by chance between these.
const LASTS_MS: std::ops::Range<u64> = 1_500..6_000;
/// Between faults.
const QUIET_MS: std::ops::Range<u64> = 500..2_500;
/// One in so many faults comes with a second one that goes with it.
const SECOND_ONE_IN: u32 = 3;
/// Packets of each wire kept for a look.
const PACKETS_KEPT_BYTES: u64 = 4 << 20;
/// How long workloads may take to come to an end, and to read everything back.
const END_MAX: Duration = Duration::from_secs(60);
const FINISH_MAX: Duration = Duration::from_secs(240);
/// A canary is longer than chance.
const CANARY_BYTES: usize = 32;
const CANARY_BLOCK_BYTES: usize = 300_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What clients do.
    pub workloads: Vec<Workload>,
    /// What goes wrong; those that the world cannot have are left out, and said.
    pub faults: Vec<Fault>,
    /// How long the load lasts.
    pub load: Duration,
    /// Of everything that is chosen by chance.
    pub seed: u64,
    /// The world.
    pub world: WorldPlan,
    /// How long an object that cannot be read is tried again at the end.
    pub patience: Duration,
    /// Whether wires, disks and memory are watched and searched.
    pub residency: bool,
    /// Where history and report go.
    pub out: PathBuf,
    /// What is switched off on purpose: as `REDUIT_DANGER`.
    pub danger: Option<String>,
    /// The command that runs it again.
    pub replay: String,
}

/// Says so before a run that a full disk would break off: what members that left had on theirs is kept to be searched.
fn enough_room(folder: &Path, load: Duration) -> Result<()> {
    let stat = rustix::fs::statvfs(folder)?;
    let free = stat.f_bavail * stat.f_frsize;
    // Nodes refuse puts where a tenth of the disk is left.
    let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
    let needed = load.as_secs() * ROOM_A_SECOND + (used + free) / 10;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    ensure!(
        free >= needed,
        "{} has {:.1} GiB free, and a run of {} s takes {:.1}: make room, set TMPDIR to a larger disk, or run fewer minutes",
        folder.parent().unwrap_or(folder).display(),
        gib(free),
        load.as_secs(),
        gib(needed)
    );
    Ok(())
}

/// Runs it. An error is about the harness; what the product did is in the report.
pub async fn run(plan: &Plan) -> Result<Report> {
    std::fs::create_dir_all(&plan.out)?;
    let folder = tempfile::Builder::new()
        .prefix("reduit-jepsen-")
        .tempdir()?;
    enough_room(folder.path(), plan.load)?;
    let mut world = WorldPlan::clone(&plan.world);
    if let Some(danger) = &plan.danger {
        let switch = ("REDUIT_DANGER".to_owned(), danger.clone());
        world.furniture.environment.push(switch);
    }
    println!(
        "building a world of {} regions",
        world.federation.regions.len()
    );
    let mut world = World::up(folder.path(), &world).await?;
    let outcome = in_world(plan, &mut world).await;
    let kept = !matches!(&outcome, Ok(report) if report.is_good());
    world.down()?;
    if kept {
        keep_logs(folder.path(), &plan.out)?;
    }
    let report = outcome?.without(folder.path())?;
    std::fs::write(
        plan.out.join("report.json"),
        serde_json::to_vec_pretty(&report)?,
    )?;
    std::fs::write(plan.out.join("report.html"), report.html())?;
    Ok(report)
}

async fn in_world(plan: &Plan, world: &mut World) -> Result<Report> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let canaries = Canaries::new(&mut rng);
    let oracle = match plan.residency {
        true => {
            let dir = plan.out.join("captures");
            let watching = Watching {
                region_bytes_max: PACKETS_KEPT_BYTES,
                link_bytes_max: PACKETS_KEPT_BYTES,
                planted: Vec::new(),
            };
            Some(Oracle::start(world, canaries.all(), &dir, &watching)?)
        }
        false => None,
    };
    canaries
        .store(world)
        .await
        .context("storing the canaries")?;
    let recorder = Recorder::create(&plan.out.join("history.jsonl"))?;
    let access = Access {
        region: world.home()?.clone(),
        seed: plan.seed,
        patience: plan.patience,
    };
    let (stop, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    for workload in plan.workloads.clone() {
        let (access, recorder, stopped) = (access.clone(), recorder.clone(), stopped.clone());
        running.spawn(async move {
            let ended = workload::run(workload, &access, recorder, stopped).await;
            ended.with_context(|| format!("workload {workload}"))
        });
    }
    let mut report = Report::new(plan);
    let began = Instant::now();
    let mut nemesis = Nemesis::new(plan, world, &mut report, began);
    if let Err(error) = nemesis
        .torment(world, &mut rng, &mut report, &mut running)
        .await
    {
        report.broken = Some(format!("{error:#}"));
    }
    report.seconds = began.elapsed().as_secs();
    println!("healing");
    let healed = Instant::now();
    let recovered = world.heal_all().await;
    report.recovery_ms = millis(healed.elapsed());
    if let Err(error) = recovered {
        let broken = format!("the region did not recover: {error:#}");
        report.broken.get_or_insert(broken);
    }
    stop.send_replace(true);
    if let Err(error) = ended(running).await {
        report.broken.get_or_insert(format!("{error:#}"));
    }
    if report.broken.is_none() {
        println!("reading everything back");
        // Members may have changed since.
        let access = Access {
            region: world.home()?.clone(),
            seed: plan.seed,
            patience: plan.patience,
        };
        for workload in &plan.workloads {
            let finished = workload::finish(*workload, &access, recorder.clone());
            let finished = tokio::time::timeout(FINISH_MAX, finished).await;
            let finished = finished.unwrap_or_else(|_| bail!("not within {FINISH_MAX:?}"));
            if let Err(error) = finished {
                let broken = format!("{workload}: reading back: {error:#}");
                report.broken.get_or_insert(broken);
            }
        }
        replicas(world, &mut report).await;
    }
    let (ops, series) = recorder.close()?;
    report.series = series;
    report.write_pause_ms = write_pause_ms(&ops, report.seconds);
    for why in ops.iter().filter_map(|op| op.error.clone()) {
        *report.refused.entry(why).or_default() += 1;
    }
    println!("judging {} operations", ops.len());
    for workload in &plan.workloads {
        let own: Vec<Op> = ops
            .iter()
            .filter(|op| op.workload == *workload)
            .cloned()
            .collect();
        report.verdicts.push(workload::judge(*workload, &own));
    }
    if let Some(oracle) = oracle {
        let residency = oracle.finish(world, &[]).await?;
        report.take_residency(&residency);
    }
    Ok(report)
}

/// The deck of faults and what comes of them.
struct Nemesis {
    fitting: Vec<Fault>,
    deck: Vec<Fault>,
    began: Instant,
    until: Instant,
}

impl Nemesis {
    fn new(plan: &Plan, world: &World, report: &mut Report, began: Instant) -> Self {
        let (fitting, others): (Vec<_>, Vec<_>) = plan
            .faults
            .iter()
            .copied()
            .partition(|fault| fault.fits(world));
        let others = others
            .iter()
            .map(|fault| format!("{fault}: this world cannot have it"));
        report.not_injected.extend(others);
        Self {
            fitting,
            deck: Vec::new(),
            began,
            until: began + plan.load,
        }
    }

    async fn torment(
        &mut self,
        world: &mut World,
        rng: &mut StdRng,
        report: &mut Report,
        running: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        self.pass(WARM_UP, running).await?;
        while Instant::now() < self.until {
            if self.fitting.is_empty() {
                self.pass(self.until - Instant::now(), running).await?;
                break;
            }
            let mut faults = vec![self.deal(rng)];
            if rng.random_ratio(1, SECOND_ONE_IN) {
                let second = self.deal(rng);
                if second.goes_with(faults[0]) {
                    faults.push(second);
                } else {
                    self.deck.push(second);
                }
            }
            let lasts = Duration::from_millis(rng.random_range(LASTS_MS));
            let quiet = Duration::from_millis(rng.random_range(QUIET_MS));
            self.round(world, rng, report, running, &faults, lasts)
                .await?;
            self.pass(quiet, running).await?;
        }
        Ok(())
    }

    async fn round(
        &mut self,
        world: &mut World,
        rng: &mut StdRng,
        report: &mut Report,
        running: &mut JoinSet<Result<()>>,
        faults: &[Fault],
        lasts: Duration,
    ) -> Result<()> {
        let mut injected = Vec::new();
        for fault in faults {
            let from_ms = millis(self.began.elapsed());
            // A fault beside another may find its victim gone: it is healed as if it had happened.
            match fault.inject(world, rng).await {
                Ok(done) => {
                    if let Some(broken) = done.broken {
                        bail!("{fault}: {broken}");
                    }
                    if done.victims.is_empty() {
                        report.not_injected.push(format!("{fault}: {}", done.says));
                    } else {
                        println!("{:>7.1} s  {fault}: {}", from_ms as f64 / 1e3, done.says);
                        injected.push((*fault, done.says, from_ms));
                    }
                }
                Err(error) => report.not_injected.push(format!("{fault}: {error:#}")),
            }
        }
        if !injected.is_empty() {
            self.pass(lasts, running).await?;
        }
        for fault in faults.iter().rev() {
            fault
                .heal(world)
                .await
                .with_context(|| format!("healing {fault}"))?;
        }
        let healed = Instant::now();
        let until_ms = millis(self.began.elapsed());
        world.whole().await?;
        let recovery_ms = millis(healed.elapsed());
        report.faults.extend(
            injected
                .into_iter()
                .map(|(fault, what, from_ms)| FaultEvent {
                    name: fault.name().to_owned(),
                    what,
                    from_ms,
                    until_ms,
                    recovery_ms,
                }),
        );
        Ok(())
    }

    /// The next fault of a shuffled deck that holds each kind once.
    fn deal(&mut self, rng: &mut StdRng) -> Fault {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.fitting);
            self.deck.shuffle(rng);
        }
        self.deck
            .pop()
            .expect("there is a fault, or the deck is not asked")
    }

    /// Lets time pass, unless a workload ends.
    async fn pass(&self, time: Duration, running: &mut JoinSet<Result<()>>) -> Result<()> {
        tokio::select! {
            biased;
            Some(ended) = running.join_next() => {
                ended.context("a workload panicked")??;
                bail!("a workload ended while the load was to run")
            }
            () = tokio::time::sleep(time) => Ok(()),
        }
    }
}

async fn ended(mut running: JoinSet<Result<()>>) -> Result<()> {
    let all = async {
        while let Some(ended) = running.join_next().await {
            ended.context("a workload panicked")??;
        }
        Ok(())
    };
    let all = tokio::time::timeout(END_MAX, all).await;
    all.unwrap_or_else(|_| bail!("workloads do not end within {END_MAX:?}"))
}

async fn replicas(world: &World, report: &mut Report) {
    match world.digests().await {
        Ok(digests) => {
            report.replicas_compared = digests.groups.values().map(Vec::len).sum();
            let forked = digests.forked();
            report.replicas.extend(
                forked
                    .iter()
                    .map(|group| format!("replicas of {group} hold different states")),
            );
        }
        Err(error) => report.replicas.push(format!("{error:#}")),
    }
}

/// The longest time without an acknowledged write, between the first and the last.
fn write_pause_ms(ops: &[Op], seconds: u64) -> u64 {
    let last_ns = seconds.saturating_mul(1_000_000_000);
    let mut ends: Vec<u64> = ops
        .iter()
        .filter(|op| op.outcome == Outcome::Ok && writes(op.f))
        .filter_map(|op| op.ret)
        .filter(|ret| *ret <= last_ns)
        .collect();
    ends.sort_unstable();
    let longest = ends
        .windows(2)
        .map(|two| two[1] - two[0])
        .max()
        .unwrap_or(0);
    longest / 1_000_000
}

fn writes(f: F) -> bool {
    matches!(
        f,
        F::Write
            | F::Create
            | F::Cas
            | F::Delete
            | F::DeleteIf
            | F::Add
            | F::Remove
            | F::Append
            | F::Put
            | F::Complete
            | F::Lock
    )
}

/// Texts that are in the data and must be nowhere else.
struct Canaries {
    body: Vec<u8>,
    metadata: String,
}

impl Canaries {
    fn new(rng: &mut StdRng) -> Self {
        let text = |rng: &mut StdRng| -> String {
            (0..CANARY_BYTES)
                .map(|_| rng.random_range(b'a'..=b'z') as char)
                .collect()
        };
        Self {
            body: text(rng).into_bytes(),
            metadata: text(rng),
        }
    }

    fn all(&self) -> Vec<Vec<u8>> {
        vec![self.body.clone(), self.metadata.clone().into_bytes()]
    }

    /// As content of an inline object and of one in blocks, and as user metadata.
    async fn store(&self, world: &World) -> Result<()> {
        let tuning = Tuning::default();
        let region = Region::connect(&world.home()?.context(CLIENTS[0]), tuning).await?;
        let options = CreateOptions::default();
        let dataset = region.create_dataset(&"canary".parse()?, &options).await?;
        let mut options = PutOptions::default();
        options
            .metadata
            .insert("canary".to_owned(), self.metadata.clone());
        for bytes in [CANARY_BYTES * 4, CANARY_BLOCK_BYTES] {
            let body: Vec<u8> = self.body.iter().copied().cycle().take(bytes).collect();
            let key = format!("canary/{bytes}").parse()?;
            dataset.put(&key, body, &options).await?;
            dataset.get_bytes(&key).await?;
        }
        Ok(())
    }
}

/// What the daemons said, for a look at a run that is not good.
pub(crate) fn keep_logs(world: &Path, out: &Path) -> Result<()> {
    let logs = out.join("logs");
    std::fs::create_dir_all(&logs)?;
    for region in std::fs::read_dir(world.join("regions"))?.filter_map(Result::ok) {
        let Ok(files) = std::fs::read_dir(region.path()) else {
            continue;
        };
        for file in files.filter_map(Result::ok) {
            if file
                .path()
                .extension()
                .is_some_and(|extension| extension == "log")
            {
                let name = format!(
                    "{}-{}",
                    region.file_name().to_string_lossy(),
                    file.file_name().to_string_lossy()
                );
                std::fs::copy(file.path(), logs.join(name))?;
            }
        }
    }
    println!("logs of the daemons: {}", logs.display());
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    fn new(plan: &Plan) -> Self {
        Self {
            seed: plan.seed,
            replay: plan.replay.clone(),
            danger: plan.danger.clone(),
            ..Self::default()
        }
    }

    /// The same with `folder`, which is gone and was nobody's but this machine's, called `WORLD`.
    fn without(&self, folder: &Path) -> Result<Self> {
        let folder = folder.to_str().context("a folder's name is text")?;
        let text = serde_json::to_string(self)?.replace(folder, "WORLD");
        Ok(serde_json::from_str(&text)?)
    }

    fn take_residency(&mut self, residency: &Residency) {
        let found = |part: &str| -> Vec<String> {
            let hits = residency
                .hits
                .iter()
                .filter(|hit| place_of(&hit.place) == part);
            hits.map(|hit| format!("canary {} in {}", hit.canary, hit.place))
                .collect()
        };
        let control = |word: &str| {
            residency
                .controls
                .iter()
                .any(|control| control.contains(word))
        };
        self.searches.push(Search {
            place: "disks and logs".to_owned(),
            bytes: residency.files.1,
            found: found("disk"),
            control_found: control("disk"),
        });
        self.searches.push(Search {
            place: "memory of storage nodes".to_owned(),
            bytes: residency.memory.1,
            found: found("memory"),
            control_found: control("memory"),
        });
        self.searches.push(Search {
            place: "wires".to_owned(),
            bytes: residency.wires.iter().map(|wire| wire.bytes).sum(),
            found: found("wire"),
            control_found: control("network"),
        });
        self.link_bytes = residency.link().map_or(0, |wire| wire.bytes);
        let others = residency.complaints().into_iter();
        self.complaints
            .extend(others.filter(|what| !what.starts_with("canary ")));
    }
}

/// Which kind of place the oracle's words mean.
fn place_of(place: &str) -> &'static str {
    if place.starts_with("the memory") {
        "memory"
    } else if place.starts_with('/') {
        "disk"
    } else {
        "wire"
    }
}
