//! Relocations between two regions of real daemons under clients of both, with faults at every point of their way.
//!
//! Owns the two plans: runs with the link cut at every transition, and every fault at every point. Both regions, their
//! people and their network serve one relocation after the other; each has a dataset and a history of its own. Refuses
//! to count a point that was not met, or a plan of which nothing was judged.

mod course;
mod people;
mod point;
mod story;
mod wires;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use local::{FederationPlan, Local, search};
use memchr::memmem::Finder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use people::{People, trust_each_other};
pub use point::{Fault, Point, matrix};
use story::Story;
pub use story::Told;
use wires::Wires;

use crate::oracle::Keys;
use crate::run::keep_logs;
use crate::workload::moving::Texts;
use crate::world::{Furniture, World, WorldPlan};

/// How often a relocation is begun anew that had passed the point before it was seen there.
const TRIES_MAX: u32 = 3;
/// One in so many of the matrix that could move is given up instead.
const GIVEN_UP_ONE_IN: usize = 4;
/// A canary is longer than chance; what a dataset's name ends in leaves room for the rest of the name.
const CANARY_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
/// How a story ends in which a dataset moved.
const MOVED: &str = "moved";
const MEMBERS: u32 = 3;

/// What to play.
#[derive(Debug, Clone)]
pub enum Scope {
    /// So many relocations, each with the link cut at every transition.
    Runs(u32),
    /// Every fault at every point, or so many of them by chance.
    Matrix(Option<usize>),
}

/// A plan of relocations.
#[derive(Debug, Clone)]
pub struct Relocations {
    /// What to play.
    pub scope: Scope,
    /// Of everything that is chosen by chance.
    pub seed: u64,
    /// The folder of the daemons and the `reduit` command.
    pub bin: PathBuf,
    /// Where histories, captures and the report go.
    pub out: PathBuf,
    /// Whether the link between the regions is searched for keys, whose fingerprints the daemons write down.
    pub capture_keys: bool,
}

/// Plays it and says of each relocation how it went; whether all is as it has to be.
pub async fn run(plan: &Relocations) -> Result<bool> {
    std::fs::create_dir_all(&plan.out)?;
    // Before this process has any key.
    let keys = plan.capture_keys.then(Keys::watched).transpose()?;
    let folder = tempfile::Builder::new()
        .prefix("reduit-jepsen-")
        .tempdir()?;
    let mut federation = FederationPlan::demo().with_gateways(1);
    for region in &mut federation.regions {
        (region.nodes, region.kms, region.shards) = (MEMBERS, MEMBERS, 1);
    }
    let world = WorldPlan {
        federation,
        bin: plan.bin.clone(),
        furniture: Furniture::default(),
    };
    println!("building two regions that trust each other");
    let mut world = World::up(folder.path(), &world).await?;
    let outcome = in_world(plan, &mut world, keys).await;
    world.down()?;
    if !matches!(outcome, Ok(true)) {
        keep_logs(folder.path(), &plan.out)?;
    }
    outcome
}

async fn in_world(plan: &Relocations, world: &mut World, keys: Option<Keys>) -> Result<bool> {
    let regions = world.local.federation.regions.iter();
    let regions: Vec<String> = regions.map(|region| region.region.to_string()).collect();
    let [from, to] = &regions[..] else {
        anyhow::bail!("a relocation takes two regions");
    };
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let content = text(&mut rng, CANARY_BYTES);
    let stories = stories(plan, &mut rng);
    let texts = Texts {
        content,
        metadata: text(&mut rng, CANARY_BYTES),
        object: text(&mut rng, CANARY_BYTES),
        dataset: text(&mut rng, NAME_BYTES),
    };
    let wires = Wires::watched(world, &texts, keys, &plan.out)?;
    let source = People::of(&world.local, from)?;
    let destination = People::of(&world.local, to)?;
    trust_each_other(&source, &destination).await?;
    let people = (&source, &destination);
    let mut told = Vec::new();
    for (at, story) in stories.iter().enumerate() {
        let one = met(plan, world, people, story, &texts).await?;
        println!("{}/{}: {}", at + 1, stories.len(), line(&one));
        for wrong in &one.wrong {
            println!("  WRONG: {wrong}");
        }
        told.push(one);
        // After every one: a run that is broken off says what it saw.
        let report = serde_json::to_vec_pretty(&told)?;
        std::fs::write(plan.out.join("relocate.json"), report)?;
    }
    let mut good = told.iter().all(Told::is_good) && !told.is_empty();
    for point in unmet(plan, &told) {
        println!("WRONG: no relocation was met at {}", point.name());
        good = false;
    }
    let moved = told.iter().filter(|one| one.ended == MOVED).count();
    for wrong in wires.judged(world, from, moved as u64).await? {
        println!("WRONG: {wrong}");
        good = false;
    }
    for canary in texts.sealed() {
        for place in unsealed(&world.local, canary)? {
            println!("WRONG: {} holds what clients wrote", place.display());
            good = false;
        }
    }
    let count = told.iter().filter(|one| one.is_good()).count();
    println!(
        "relocate: {count} of {} good; report: {}",
        told.len(),
        plan.out.join("relocate.json").display()
    );
    Ok(good)
}

fn text(rng: &mut StdRng, bytes: usize) -> String {
    let letters = (0..bytes).map(|_| rng.random_range(b'a'..=b'z') as char);
    letters.collect()
}

fn line(one: &Told) -> String {
    format!(
        "{} {} in {} s, {} operations, {} and {} writes; {}",
        one.name,
        one.ended,
        one.seconds,
        one.operations,
        one.source_writes,
        one.destination_writes,
        one.struck.join("; ")
    )
}

/// Plays a story until its points were met, as often as makes sense.
async fn met(
    plan: &Relocations,
    world: &mut World,
    people: (&People, &People),
    story: &Story,
    texts: &Texts,
) -> Result<Told> {
    let mut tries = 1;
    loop {
        let again = Story {
            name: format!("{}-{tries}", story.name),
            ..story.clone()
        };
        let played = story::play(world, people, &again, texts, &plan.out).await;
        let mut told = played.with_context(|| again.name.clone())?;
        let is_one_of_matrix = matches!(plan.scope, Scope::Matrix(_));
        if told.missed.is_empty() || !told.is_good() || !is_one_of_matrix {
            return Ok(told);
        }
        if tries == TRIES_MAX {
            let missed = told.missed.iter().map(|point| point.name());
            let missed: Vec<_> = missed.collect();
            told.wrong.push(format!("not met at {}", missed.join(", ")));
            return Ok(told);
        }
        tries += 1;
    }
}

fn stories(plan: &Relocations, rng: &mut StdRng) -> Vec<Story> {
    match plan.scope {
        Scope::Runs(runs) => (0..runs)
            .map(|at| Story {
                name: format!("run-{:x}-{at:02}", plan.seed),
                seed: plan.seed.wrapping_add(at.into()),
                strikes: Point::ON_THE_WAY.map(|point| (point, Fault::Cut)).into(),
                is_given_up: false,
            })
            .collect(),
        Scope::Matrix(sample) => {
            let mut all: Vec<_> = matrix().into_iter().enumerate().collect();
            if let Some(count) = sample {
                all.shuffle(rng);
                all.truncate(count);
            }
            let one = |(at, (point, fault)): (usize, (Point, Fault))| Story {
                name: format!("{}-{}-{:x}", point.name(), fault.name(), plan.seed),
                seed: plan.seed.wrapping_add(at as u64),
                strikes: vec![(point, fault)],
                is_given_up: is_given_up(at, point),
            };
            all.into_iter().map(one).collect()
        }
    }
}

/// Whether people give a relocation of the matrix up: those that meet it where it is given up anyway, and some others
/// that are before the cutover then.
fn is_given_up(at: usize, point: Point) -> bool {
    match point {
        Point::Aborting => true,
        Point::Fenced | Point::Moved | Point::Cutover => false,
        Point::Prepared | Point::Copying | Point::CatchUp | Point::Verifying => {
            at % GIVEN_UP_ONE_IN == GIVEN_UP_ONE_IN - 1
        }
    }
}

/// Transitions at which no run lost its link.
fn unmet(plan: &Relocations, told: &[Told]) -> Vec<Point> {
    let Scope::Runs(_) = plan.scope else {
        return Vec::new();
    };
    let missed = |point: &Point| told.iter().all(|one| one.missed.contains(point));
    Point::ON_THE_WAY.into_iter().filter(missed).collect()
}

/// Files of both regions, data and logs, that hold the canary.
fn unsealed(local: &Local, canary: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut files = 0_u64;
    for service in local.services() {
        for place in [&service.data, &service.log] {
            // A gateway has no data.
            if place.exists() {
                files += search_for(place, canary, &mut found)?;
            }
        }
    }
    ensure!(files > 0, "no file of any region was searched");
    Ok(found)
}

/// How many files were looked at.
fn search_for(place: &Path, canary: &[u8], found: &mut Vec<PathBuf>) -> Result<u64> {
    let finder = Finder::new(canary);
    let mut files = 0;
    search::walk(place, &mut |path| {
        let mut here = false;
        search::file(path, canary.len(), &mut |window| {
            here |= finder.find(window).is_some();
        })?;
        files += 1;
        if here {
            found.push(path.to_owned());
        }
        Ok(())
    })?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scope: Scope) -> Relocations {
        Relocations {
            scope,
            seed: 7,
            bin: PathBuf::new(),
            out: PathBuf::new(),
            capture_keys: false,
        }
    }

    fn names(scope: Scope) -> Vec<String> {
        let mut rng = StdRng::seed_from_u64(7);
        let stories = stories(&plan(scope), &mut rng);
        stories.into_iter().map(|story| story.name).collect()
    }

    #[test]
    fn a_sample_is_the_same_for_a_seed_and_of_the_matrix() {
        let (all, some) = (names(Scope::Matrix(None)), names(Scope::Matrix(Some(3))));
        assert_eq!(some, names(Scope::Matrix(Some(3))));
        assert_eq!((all.len(), some.len()), (matrix().len(), 3));
        assert!(some.iter().all(|name| all.contains(name)), "{some:?}");
    }

    #[test]
    fn names_of_stories_are_names_of_datasets() {
        for name in names(Scope::Matrix(None))
            .iter()
            .chain(&names(Scope::Runs(20)))
        {
            let tried = format!("{name}-{TRIES_MAX}-{}", "z".repeat(NAME_BYTES));
            assert!(tried.parse::<client::ids::DatasetName>().is_ok(), "{tried}");
        }
    }

    #[test]
    fn some_of_each_point_before_the_fence_are_given_up() {
        let mut rng = StdRng::seed_from_u64(7);
        let all = stories(&plan(Scope::Matrix(None)), &mut rng);
        for point in [
            Point::Prepared,
            Point::Copying,
            Point::CatchUp,
            Point::Verifying,
        ] {
            let of = all.iter().filter(|story| story.strikes[0].0 == point);
            let (up, on): (Vec<_>, Vec<_>) = of.partition(|story| story.is_given_up);
            assert!(!up.is_empty() && !on.is_empty(), "{point:?}");
        }
    }

    #[test]
    fn a_canary_is_found_where_it_lies_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("sealed"), [7; 10_000]).expect("a file");
        let mut found = Vec::new();
        let looked = search_for(dir.path(), b"the canary", &mut found).expect("searched");
        assert_eq!((looked, found.len()), (1, 0));
        let open = dir.path().join("open");
        std::fs::write(&open, b"here is the canary.").expect("a file");
        search_for(dir.path(), b"the canary", &mut found).expect("searched");
        assert_eq!(found, [open]);
    }
}
