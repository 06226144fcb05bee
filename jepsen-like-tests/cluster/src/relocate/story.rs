//! One relocation under clients, with things going wrong where the story says so, and what has to hold of it.
//!
//! Owns the order and the verdicts: it completes or is given up; one region serves; histories of both regions are those
//! of one register a key; no key was ended. Refuses to excuse: what could not be looked at is wrong.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use checker::Workload;
use local::Kind;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::course::Course;
use super::people::People;
use super::point::{Fault, Point, Sight};
use crate::recorder::Recorder;
use crate::workload;
use crate::workload::moving::{Load, Served, Sides, Texts, only_one_accepts, read_back};
use crate::world::World;

/// Bytes a second at which it is copied, so that there is a middle.
const RATE: &str = "150K";
/// How long a fault lasts, by chance between these.
const LASTS_MS: std::ops::Range<u64> = 500..2_500;
/// How long it may take to be served, or to be given up, once everybody is well.
const SERVED_MAX: Duration = Duration::from_secs(150);
const GIVEN_UP_MAX: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_secs(1);
/// Load before it begins, and after it has ended.
const WARM_UP: Duration = Duration::from_secs(1);
const COOL_DOWN: Duration = Duration::from_secs(2);
/// Writes that each region that served has to have acknowledged.
const WRITES_MIN: u64 = 10;

/// What is to happen.
#[derive(Debug, Clone)]
pub(super) struct Story {
    /// Of files; the dataset's begins with it.
    pub(super) name: String,
    pub(super) seed: u64,
    /// In the order of points.
    pub(super) strikes: Vec<(Point, Fault)>,
    /// Whether people give it up before the cutover.
    pub(super) is_given_up: bool,
}

impl Story {
    /// The dataset's name.
    pub(super) fn dataset(&self, texts: &Texts) -> String {
        format!("{}-{}", self.name, texts.dataset)
    }
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// Which relocation.
    pub name: String,
    /// `moved`, `aborted`, or how far it was seen to be.
    pub ended: String,
    /// What went wrong on purpose, and when.
    pub struck: Vec<String>,
    /// Points that it had passed before they were seen.
    pub missed: Vec<Point>,
    /// What must not be.
    pub wrong: Vec<String>,
    /// Operations judged.
    pub operations: u64,
    /// Writes acknowledged in each region.
    pub source_writes: u64,
    /// See `source_writes`.
    pub destination_writes: u64,
    /// How long it took.
    pub seconds: u64,
}

/// Plays it. An error is the harness's; what is wrong with the product is told.
pub(super) async fn play(
    world: &mut World,
    people: (&People, &People),
    story: &Story,
    texts: &Texts,
    out: &Path,
) -> Result<Told> {
    let began = Instant::now();
    let sides = Sides {
        source: people.0.region.clone(),
        destination: people.1.region.clone(),
        name: story.dataset(texts).parse()?,
        seed: story.seed,
    };
    let recorder = Recorder::create(&out.join(format!("{}.jsonl", story.name)))?;
    let load = Load::begin(&sides, texts, &recorder).await?;
    let mut told = Told {
        name: story.name.clone(),
        ended: "not begun".to_owned(),
        struck: Vec::new(),
        missed: Vec::new(),
        wrong: Vec::new(),
        operations: 0,
        source_writes: 0,
        destination_writes: 0,
        seconds: 0,
    };
    tokio::time::sleep(WARM_UP).await;
    let of = (load.dataset, load.shard);
    match Course::begun(people, &story.dataset(texts), of).await {
        Ok(course) => {
            let moved = told.course(world, story, &course).await;
            course.go_on(world);
            heal(world, people.1).await?;
            tokio::time::sleep(COOL_DOWN).await;
            let served = load.end().await?;
            match moved {
                Ok(moved) => told.check(&sides, &course, moved, served, &recorder).await,
                Err(error) => {
                    let said = course.said();
                    told.wrong.push(format!("{error:#}; at the end: {said}"));
                }
            }
        }
        Err(error) => {
            load.end().await?;
            told.wrong.push(format!("it did not begin: {error:#}"));
        }
    }
    let (ops, _) = recorder.close()?;
    let verdict = workload::judge(Workload::Register, &ops);
    told.operations = verdict.operations;
    for anomaly in &verdict.anomalies {
        told.wrong
            .push(format!("not one register: {}", anomaly.what));
    }
    for short in &verdict.shortfalls {
        let (f, ok, needed) = (short.f, short.ok, short.needed);
        told.wrong
            .push(format!("too little to judge: {ok} of {needed} {f:?}"));
    }
    told.seconds = began.elapsed().as_secs();
    Ok(told)
}

/// Everybody runs, is unsealed and ready, and the regions hear each other.
async fn heal(world: &mut World, destination: &People) -> Result<()> {
    let region = destination.region.region.as_str();
    world.net().link_region(region, true)?;
    world.local.resume().await.context("healing")
}

impl Told {
    /// Whether all is as it has to be.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// The relocation from its grant to its end, with all that goes wrong; whether it moved.
    async fn course(
        &mut self,
        world: &mut World,
        story: &Story,
        course: &Course<'_>,
    ) -> Result<bool> {
        let mut rng = StdRng::seed_from_u64(story.seed);
        self.strike_at(world, story, course, Point::Prepared, &mut rng)
            .await?;
        course.operator("throttle", &[RATE]).await?;
        course.granted().context("the grant")?;
        if let Err(error) = course.shred_is_refused() {
            self.wrong.push(format!("keys before a cutover: {error:#}"));
        }
        for point in [Point::Copying, Point::CatchUp, Point::Verifying] {
            self.strike_at(world, story, course, point, &mut rng)
                .await?;
        }
        course.operator("throttle", &["off"]).await?;
        if story.is_given_up {
            // Its mover has a part in the end: without it that is met. It ends with 4 while it waits for that part.
            course.hold(world);
            course.once("abort")?;
            self.strike_at(world, story, course, Point::Aborting, &mut rng)
                .await?;
            course.go_on(world);
            return self.given_up(world, course).await;
        }
        course.operator("cutover", &[]).await?;
        for point in [Point::Fenced, Point::Moved, Point::Cutover] {
            self.strike_at(world, story, course, point, &mut rng)
                .await?;
        }
        let over = |sight: Sight| sight.is_served() || sight.is_given_up();
        match course.until(world, SERVED_MAX, over).await? {
            Some(sight) if sight.is_served() => {
                self.ended = super::MOVED.to_owned();
                Ok(true)
            }
            _ => {
                // Whatever struck it is over: a mover that comes to nothing is wrong, though it has to end all the same.
                let said = course.said();
                self.wrong
                    .push(format!("not served in {SERVED_MAX:?}: {said}"));
                self.given_up(world, course).await
            }
        }
    }

    async fn given_up(&mut self, world: &World, course: &Course<'_>) -> Result<bool> {
        let end = Instant::now() + GIVEN_UP_MAX;
        loop {
            let sight = course.look(world).await?;
            if sight.phase == proto::v1::ArrivalPhase::Aborted {
                self.ended = "aborted".to_owned();
                return Ok(false);
            }
            if Instant::now() > end {
                self.ended = format!("{:?}", sight.phase);
                bail!("it neither completes nor ends: {sight:?}");
            }
            // The mover says that it ends on both sides; the hand-over key is ended by people.
            course.once("abort")?;
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn strike_at(
        &mut self,
        world: &mut World,
        story: &Story,
        course: &Course<'_>,
        point: Point,
        rng: &mut StdRng,
    ) -> Result<()> {
        let faults = story.strikes.iter().filter(|(at, _)| *at == point);
        for (_, fault) in faults {
            if !course.reach(world, point).await? {
                self.missed.push(point);
                continue;
            }
            let struck = strike(world, course, *fault).await;
            course.go_on(world);
            let lasts = Duration::from_millis(rng.random_range(LASTS_MS));
            let done = struck.with_context(|| format!("{} at {}", fault.name(), point.name()))?;
            self.struck
                .push(format!("{}: {done} for {lasts:?}", point.name()));
            tokio::time::sleep(lasts).await;
            heal(world, course.destination()).await?;
        }
        Ok(())
    }

    /// What has to hold at the end.
    async fn check(
        &mut self,
        sides: &Sides,
        course: &Course<'_>,
        moved: bool,
        served: Served,
        recorder: &Recorder,
    ) {
        (self.source_writes, self.destination_writes) = (served.source, served.destination);
        let mut wrong = Vec::new();
        if served.two_writers() {
            wrong.push("the source took a write after the destination had".to_owned());
        }
        if !moved && served.destination > 0 {
            wrong.push("the destination took writes of a dataset that it never served".to_owned());
        }
        if served.source < WRITES_MIN || (moved && served.destination < WRITES_MIN) {
            wrong.push(format!("too few writes to say anything: {served:?}"));
        }
        let shred = if moved {
            Ok(())
        } else {
            course.shred_is_refused()
        };
        let checks = [
            ("one region serves", only_one_accepts(sides, moved).await),
            ("all is read back", read_back(sides, moved, recorder).await),
            ("the source's key is kept", course.key_is_kept().await),
            ("keys are not ended after an abort", shred),
        ];
        for (what, outcome) in checks {
            if let Err(error) = outcome {
                wrong.push(format!("{what}: {error:#}"));
            }
        }
        self.wrong.extend(wrong);
    }
}

/// Lets it go wrong; what it was, in words.
async fn strike(world: &mut World, course: &Course<'_>, fault: Fault) -> Result<String> {
    let victims = match fault {
        Fault::Cut => {
            let region = course.destination().region.region.as_str();
            world.net().link_region(region, false)?;
            return Ok(format!("cut {region} off"));
        }
        Fault::Mover => vec![course.mover_name()],
        Fault::SourceLeader => vec![course.leader(world, false, Kind::Node).await?],
        Fault::DestinationLeader => vec![course.leader(world, true, Kind::Node).await?],
        Fault::SourceKms => vec![course.leader(world, false, Kind::Kms).await?],
        Fault::DestinationKms => vec![course.leader(world, true, Kind::Kms).await?],
        Fault::Source => course.members(world, false)?,
        Fault::Destination => course.members(world, true)?,
    };
    tokio::task::block_in_place(|| world.local.kill_all_of(&victims))?;
    Ok(format!("killed {}", victims.join(", ")))
}
