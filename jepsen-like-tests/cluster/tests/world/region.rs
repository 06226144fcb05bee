//! A live region: every fault once, healed, with a put and a get afterwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use jepsen::nemesis::{Area, Fault};
use jepsen::oracle::{Oracle, Watching};
use jepsen::world::{World, WorldPlan};
use local::{FederationPlan, Kind};
use proto::ids::NodeId;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{Test, binaries};

pub(super) const TESTS: &[Test] = &[
    ("region_survives_every_fault_once", || run(1, every_fault)),
    ("region_clock_jumps_are_seen_by_its_processes", || {
        run(1, clocks)
    }),
    ("region_nothing_leaves_two_regions", || run(2, residency)),
];

/// What the tests are replayed by.
const SEED: u64 = 20_261_125;
/// How long a put and a get are waited for while a fault lasts.
const DURING_MAX: Duration = Duration::from_secs(8);
/// What a service may have to say in a few minutes of faults.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Seeds tried until a fault chooses the victims that a test needs.
const TRIES: u64 = 40;

fn run(regions: usize, story: impl AsyncFnOnce(&mut World) -> Result<()>) {
    let Some(bin) = binaries() else {
        println!("skipped: the daemons are not built (cargo build --workspace --bins)");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut plan = WorldPlan::region(3, 1, &bin);
    if regions > 1 {
        plan.federation = FederationPlan::demo();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let outcome = runtime.block_on(async {
        let mut world = World::up(folder.path(), &plan).await?;
        let outcome = story(&mut world).await;
        world.down()?;
        outcome
    });
    if let Err(error) = outcome {
        let kept = folder.keep();
        panic!("{error:#}\nkept for a look: {}", kept.display());
    }
}

async fn every_fault(world: &mut World) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut written = Vec::new();
    for _ in 0..3 {
        written.push(world.probe_blocks(300_000).await?);
    }
    for fault in Fault::ALL.iter().copied() {
        if !fault.fits(world) || !fault.passes() {
            continue;
        }
        one_fault(world, fault, &mut rng)
            .await
            .with_context(|| format!("{fault}"))?;
        written.push(world.probe_blocks(300_000).await?);
    }
    let dataset = world.probe_dataset().await?;
    for (key, body) in &written {
        ensure!(
            dataset.get_bytes(key).await?[..] == body[..],
            "{key:?} differs"
        );
    }
    // Nobody who is away makes the others talk without end.
    for service in world.local.services() {
        let bytes = std::fs::metadata(&service.log)?.len();
        ensure!(
            bytes < LOG_BYTES_MAX,
            "the log of {} has {bytes} bytes",
            service.name
        );
    }
    let digests = world.digests().await?;
    ensure!(digests.forked().is_empty(), "replicas differ: {digests:?}");
    for (group, replicas) in &digests.groups {
        let at = replicas.first().map(|replica| replica.applied_index);
        println!("  {group}: {} replicas equal at {at:?}", replicas.len());
    }
    Ok(())
}

async fn one_fault(world: &mut World, fault: Fault, rng: &mut StdRng) -> Result<()> {
    let began = Instant::now();
    let injected = fault.inject(world, rng).await?;
    println!(
        "  {fault}: {} ({:.1} s)",
        injected.says,
        began.elapsed().as_secs_f64()
    );
    ensure!(injected.took_hold(), "it did not take hold");
    ensure!(injected.broken.is_none(), "BROKEN: {:?}", injected.broken);
    // While it lasts a minority is concerned, or all: who serves does, who does not comes back.
    let during = match tokio::time::timeout(DURING_MAX, world.probe()).await {
        Ok(Ok(took)) => format!("in {} ms", took.as_millis()),
        Ok(Err(error)) => format!("failed: {error:#}"),
        Err(_) => format!("not within {DURING_MAX:?}"),
    };
    let healed = fault.heal(world).await?;
    let recovery = world.heal_all().await?;
    let took = world.probe().await?;
    println!(
        "    put and get meanwhile {during}; healed: {healed}; whole after {:.1} s, put and get in {} ms",
        recovery.took.as_secs_f64(),
        took.as_millis()
    );
    // Healed twice is healed.
    fault.heal(world).await?;
    Ok(())
}

/// How far the clock of a replica is from ours, in seconds, as it says itself.
async fn clock_offset(world: &World, name: &str) -> Result<f64> {
    let id = world.local.federation.service(name)?.node_id;
    let status = world.operator().await?.kms_status(NodeId(id)).await?;
    let ours = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(status.clock_ms as f64 / 1e3 - ours.as_secs_f64())
}

async fn clocks(world: &mut World) -> Result<()> {
    const ROUNDING: f64 = 2.0;
    let replicas: Vec<_> = world.services(Some(Kind::Kms));
    let replicas: Vec<_> = replicas.into_iter().map(|replica| replica.name).collect();
    let mut seen = 0;
    for seed in 0..TRIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let injected = Fault::ClockJump.inject(world, &mut rng).await?;
        // One that goes back makes certificates of an hour ago unborn: such a replica does not even answer.
        let large = injected.says.contains("+95 s") || injected.says.contains("+3700 s");
        let of_kms = injected
            .victims
            .iter()
            .all(|victim| replicas.contains(victim));
        if large && of_kms {
            for name in &replicas {
                let offset = clock_offset(world, name).await?.abs();
                let moved = injected.victims.contains(name);
                ensure!(
                    moved == (offset > ROUNDING),
                    "{}: the clock of {name} is {offset} s away",
                    injected.says
                );
            }
            seen += 1;
        }
        Area::Clock.heal(world).await?;
    }
    ensure!(seen > 0, "no seed moved the clock of a replica");
    for name in &replicas {
        let offset = clock_offset(world, name).await?.abs();
        ensure!(
            offset < ROUNDING,
            "healed, the clock of {name} is {offset} s away"
        );
    }
    world.heal_all().await?;
    world.probe().await.map(drop)
}

async fn residency(world: &mut World) -> Result<()> {
    let canary = format!("CANARY-{:032x}", rand::random::<u128>());
    let wires = tempfile::tempdir()?;
    let watching = Watching {
        region_bytes_max: 1 << 20,
        link_bytes_max: 1 << 20,
        planted: Vec::new(),
    };
    let canaries = vec![canary.clone().into_bytes()];
    let oracle = Oracle::start(world, canaries, wires.path(), &watching)?;
    let dataset = world.probe_dataset().await?;
    let options = client::PutOptions::default();
    for (key, times) in [("small", 1), ("large", 20_000)] {
        let key = key.parse()?;
        let body = canary.repeat(times).into_bytes();
        dataset.put(&key, body, &options).await?;
        dataset.get_bytes(&key).await?;
    }
    // The link between the regions is of no use to either: cut and slow it goes unnoticed.
    let mut rng = StdRng::seed_from_u64(SEED);
    for fault in [Fault::LinkCut, Fault::LinkSlow] {
        let injected = fault.inject(world, &mut rng).await?;
        ensure!(
            injected.took_hold() && injected.broken.is_none(),
            "{injected:?}"
        );
        let took = world.probe().await?;
        ensure!(
            took < Duration::from_secs(5),
            "{fault} is noticed: {took:?}"
        );
        fault.heal(world).await?;
    }
    let found = oracle.finish(world, &[]).await?;
    println!("  {}", found.summary());
    ensure!(found.complaints().is_empty(), "{:?}", found.complaints());
    ensure!(
        found.wires.len() == 3 && found.wires[0].packets > 100,
        "{:?}",
        found.wires
    );
    let kept = std::fs::read_dir(wires.path())?.count();
    ensure!(kept == 3, "{kept} captures kept");
    Ok(())
}
