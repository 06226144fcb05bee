//! Who is a member: added, removed, replaced; and disks that their member may not come back from.
//!
//! Owns the check that a member whose disk lost or changed what it had promised to keep is refused under its old id.
//! One that starts all the same is a promise broken. Healed, it is replaced under a new id.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use local::{Kind, Service, process};
use rand::rngs::StdRng;

use super::damage::{self, Damage};
use super::process::any_kind;
use super::{Done, Fault, one};
use crate::world::{LOOK, Lost, World, until};

/// How long a process that must not start may take to end.
const REFUSES_MAX: Duration = Duration::from_secs(30);
/// Times a member that must not start is started.
const STARTS: usize = 2;
/// How long a member may take to apply what the others have applied.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(60);
/// Writes between a copy of a disk and its return.
const WRITES_BETWEEN: usize = 8;
/// Tries of one step of a change of members: the group may be electing.
const CHANGE_MAX: Duration = Duration::from_secs(120);
/// As [`CHANGE_MAX`] while another fault may last; what did not come about is finished when all is healed.
const CHANGE_AMID_MAX: Duration = Duration::from_secs(30);

pub(super) async fn inject(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    if !world.lost.is_empty() || world.leaving.is_some() {
        return Ok(Done::not_now("another member is lost or leaving"));
    }
    let kind = any_kind(rng);
    let members = world.living(Some(kind));
    let Some(victim) = weakest(world, &members, rng) else {
        return Ok(Done::not_now("nobody runs"));
    };
    if members.len() < world.services(Some(kind)).len() {
        return Ok(Done::not_now("a member is down"));
    }
    // A member that is lost must leave a majority behind, which alone can replace it.
    if fault != Fault::AddRemove && fault != Fault::Replace && members.len() < 3 {
        return Ok(Done::not_now("a member less is no majority"));
    }
    match fault {
        Fault::AddRemove => add_one(world, kind, rng).await,
        Fault::Replace => {
            world.lose(&victim.name, "replaced");
            let says = match put_right(world, CHANGE_AMID_MAX).await {
                Ok(done) => done.join("; "),
                Err(error) => format!("{} is to be replaced; not yet: {error:#}", victim.name),
            };
            Ok(Done::to(vec![victim.name], says))
        }
        Fault::WipedDisk => wiped(world, &victim).await,
        Fault::RolledBackDisk => rolled_back(world, &victim).await,
        _ => flipped_log(world, &victim, rng).await,
    }
}

/// By chance; but whose blocks may be damaged goes before another: the others have them all.
fn weakest(world: &World, members: &[Service], rng: &mut StdRng) -> Option<Service> {
    let damaged = |member: &&Service| world.damaged.contains(&member.name);
    let damaged = members.iter().find(damaged).cloned();
    damaged.or_else(|| one(members, rng))
}

async fn add_one(world: &mut World, kind: Kind, rng: &mut StdRng) -> Result<Done> {
    let region = world.home()?.region.to_string();
    let fresh = enrol(world, &region, kind, CHANGE_AMID_MAX).await?;
    // Known before it is admitted: whatever fails from here, somebody leaves and the number is right again.
    world.leaving = Some(fresh.clone());
    if let Err(error) = admit(world, &fresh, CHANGE_AMID_MAX).await {
        let says = format!("{fresh} is half added and to leave: {error:#}");
        return Ok(Done::to(vec![fresh], says));
    }
    let leaving = weakest(world, &world.living(Some(kind)), rng).context("no members")?;
    let says = format!("added {fresh}; {} is to leave", leaving.name);
    world.leaving = Some(leaving.name);
    Ok(Done::to(vec![fresh], says))
}

async fn wiped(world: &mut World, victim: &Service) -> Result<Done> {
    tokio::task::block_in_place(|| -> Result<()> {
        world.local.kill(&victim.name)?;
        empty(&victim.data)
    })?;
    must_refuse(world, victim, "its disk was wiped", "").await
}

async fn flipped_log(world: &mut World, victim: &Service, rng: &mut StdRng) -> Result<Done> {
    tokio::task::block_in_place(|| world.local.kill(&victim.name))?;
    let log = victim.data.join("raft/log");
    let Some(says) = damage::below(&log, "log", Damage::Bit, rng)? else {
        world.local.restart(&victim.name).await?;
        return Ok(Done::not_now("nothing is in the log yet"));
    };
    must_refuse(world, victim, "its log was damaged", &says).await
}

async fn rolled_back(world: &mut World, victim: &Service) -> Result<Done> {
    let name = &victim.name;
    let copy = world.local.federation.dir.join("rolled-back");
    tokio::task::block_in_place(|| -> Result<()> {
        world.local.kill(name)?;
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        copy_folder(&victim.data, &copy)
    })?;
    world.local.restart(name).await?;
    world.whole().await?;
    for _ in 0..WRITES_BETWEEN {
        world.probe().await?;
    }
    caught_up(world, victim).await?;
    tokio::task::block_in_place(|| -> Result<()> {
        world.local.kill(name)?;
        empty(&victim.data)?;
        copy_folder(&copy, &victim.data)?;
        Ok(fs::remove_dir_all(&copy)?)
    })?;
    must_refuse(world, victim, "its disk was rolled back", "").await
}

/// The member has applied everything that any other had applied at the call, so that its acknowledgement was seen.
async fn caught_up(world: &World, victim: &Service) -> Result<()> {
    let claims = world.claims().await?;
    let groups = claims.groups.into_iter();
    let groups = groups.filter(|(group, _)| group.kind == victim.kind);
    let target: Vec<_> = groups
        .map(|(group, said)| (group, said.iter().map(|claim| claim.applied_index).max()))
        .collect();
    until("the member is level", CAUGHT_UP_MAX, async || {
        let claims = world.claims().await?;
        let level = target.iter().all(|(group, target)| {
            let mut own = claims.of(victim).filter(|claim| claim.group == *group);
            own.any(|claim| Some(claim.applied_index) >= *target)
        });
        Ok(level.then_some(()))
    })
    .await
}

/// Starts a member that must not start, and sees it refuse; and again, as a supervisor does, in what it left.
async fn must_refuse(
    world: &mut World,
    victim: &Service,
    why: &'static str,
    detail: &str,
) -> Result<Done> {
    let name = &victim.name;
    let mut done = Done::to(vec![name.clone()], String::new());
    for attempt in 1..=STARTS {
        if refuses(world, name).await? {
            let words = world.last_words(name);
            let last = words.lines().last().unwrap_or_default();
            done.says = format!("{name}: {why} {detail}; it refused: {last}");
            continue;
        }
        tokio::task::block_in_place(|| world.local.kill(name))?;
        let broken = format!("{name} runs under its old id although {why}, at start {attempt}");
        done.says = broken.clone();
        done.broken = Some(broken);
        break;
    }
    world.lose(name, why);
    Ok(done)
}

/// Whether a service ends by itself when it is started.
async fn refuses(world: &mut World, name: &str) -> Result<bool> {
    let started = tokio::task::block_in_place(|| world.local.start(name)).is_ok();
    let service = world.local.federation.service(name)?.clone();
    let end = Instant::now() + REFUSES_MAX;
    while started && process::is_running(&service) && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
    Ok(!process::is_running(&service))
}

impl World {
    fn lose(&mut self, name: &str, why: &'static str) {
        self.damaged.remove(name);
        let lost = Lost {
            why,
            removed: false,
            fresh: None,
            admitted: false,
        };
        self.lost.insert(name.to_owned(), lost);
    }
}

/// Nobody is lost, nobody is leaving.
pub(super) async fn heal(world: &mut World) -> Result<Vec<String>> {
    put_right(world, CHANGE_MAX).await
}

async fn put_right(world: &mut World, within: Duration) -> Result<Vec<String>> {
    let mut healed = Vec::new();
    if let Some(name) = world.leaving.clone() {
        remove(world, &name, within).await?;
        world.leaving = None;
        world.damaged.remove(&name);
        healed.push(format!("{name} left"));
    }
    for (name, lost) in world.lost.clone() {
        // A learner is promoted on the word of all voters, so one that cannot give it any more has to go first.
        let dead = !process::is_running(world.local.federation.service(&name)?);
        if dead && !lost.removed {
            remove(world, &name, within).await?;
            progress(world, &name, |lost| lost.removed = true);
        }
        let fresh = match lost.fresh {
            Some(fresh) => fresh,
            None => {
                let region = world.home()?.region.to_string();
                let kind = world.local.federation.service(&name)?.kind;
                let fresh = enrol(world, &region, kind, within).await?;
                progress(world, &name, |lost| lost.fresh = Some(fresh.clone()));
                fresh
            }
        };
        if !lost.admitted {
            admit(world, &fresh, within).await?;
            progress(world, &name, |lost| lost.admitted = true);
        }
        if !dead && !lost.removed {
            remove(world, &name, within).await?;
        }
        world.lost.remove(&name);
        world.damaged.remove(&name);
        healed.push(format!("{name} ({}) replaced by {fresh}", lost.why));
    }
    Ok(healed)
}

fn progress(world: &mut World, name: &str, change: impl FnOnce(&mut Lost)) {
    if let Some(lost) = world.lost.get_mut(name) {
        change(lost);
    }
}

/// A new member, known and not started. Where the KMS is sealed or without a majority that may be the other fault's doing,
/// which is healed after this: no step of it waits for longer than the others do.
async fn enrol(world: &mut World, region: &str, kind: Kind, within: Duration) -> Result<String> {
    let enrolled = tokio::time::timeout(within, world.local.enrol(region, kind)).await;
    enrolled.unwrap_or_else(|_| bail!("nobody enrolled within {within:?}"))
}

async fn admit(world: &mut World, name: &str, within: Duration) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        world.members_changed();
        let left = end.saturating_duration_since(Instant::now());
        let attempt = tokio::time::timeout(left, world.local.admit(name)).await;
        match attempt.unwrap_or_else(|_| bail!("not within {within:?}")) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("admitting {name}")));
            }
            Err(error) => tracing::warn!(%name, error = format!("{error:#}"), "not admitted yet"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn remove(world: &mut World, name: &str, within: Duration) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        world.members_changed();
        let left = end.saturating_duration_since(Instant::now());
        let attempt = tokio::time::timeout(left, world.local.remove(name)).await;
        match attempt.unwrap_or_else(|_| bail!("not within {within:?}")) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("removing {name}")));
            }
            Err(error) => tracing::warn!(%name, error = format!("{error:#}"), "not removed yet"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn empty(data: &Path) -> Result<()> {
    fs::remove_dir_all(data)?;
    fs::create_dir(data)?;
    let parent = data.parent().context("a data folder at the root")?;
    Ok(File::open(parent)?.sync_all()?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("copying {}", entry.path().display()))?;
            File::open(&target)?.sync_all()?;
        }
    }
    Ok(File::open(to)?.sync_all()?)
}
