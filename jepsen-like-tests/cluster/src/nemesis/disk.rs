//! Disks of members that come back: full, slow, failing, without power, and with blocks that are damaged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use faults::content::Survival;
use faults::control::Command;
use local::{Kind, Service, process};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::process::any_kind;
use super::{Done, Fault, damage, names, one, some};
use crate::world::{LOOK, World};

/// How long a process may take to sync something, and then to end because that failed.
const SYNC_ERROR_MAX: Duration = Duration::from_secs(30);
/// How long it may run on after a sync has failed.
const RUNS_ON_MAX: Duration = Duration::from_secs(10);
/// How long disks are busy before the power goes, a few syncs long.
const BUSY: Duration = Duration::from_millis(800);
/// A sync that is never reached.
const NEVER: Command = Command::FailSync { after: u64::MAX };

pub(super) async fn inject(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    match fault {
        Fault::DiskFull => {
            let living = world.living(None);
            let victims = some(&living, rng.random_range(1..=living.len().div_ceil(2)), rng);
            for name in &victims {
                world.rooms.volume(name, Command::Enospc { full: true })?;
            }
            let says = format!("disks of {} are full", victims.join(", "));
            Ok(Done::to(victims, says))
        }
        Fault::DiskSlow => {
            let living = world.living(None);
            let victims = some(&living, rng.random_range(1..=living.len().div_ceil(2)), rng);
            let millis = rng.random_range(20..=300);
            for name in &victims {
                world.rooms.volume(name, Command::SlowSync { millis })?;
            }
            let says = format!("syncs of {} take {millis} ms longer", victims.join(", "));
            Ok(Done::to(victims, says))
        }
        Fault::SyncError => sync_error(world, rng).await,
        Fault::PowerCut => {
            let victims = one(&world.living(Some(any_kind(rng))), rng);
            power_cut(world, victims.into_iter().collect(), Survival::Nothing, rng).await
        }
        Fault::PowerCutAll => {
            let all = world.living(None);
            let survival = match rng.random() {
                true => Survival::Mixed,
                false => Survival::Nothing,
            };
            power_cut(world, all, survival, rng).await
        }
        Fault::TornWrite => {
            let victims = one(&world.living(Some(any_kind(rng))), rng);
            power_cut(world, victims.into_iter().collect(), Survival::Mixed, rng).await
        }
        _ => damage_blocks(fault, world, rng),
    }
}

async fn sync_error(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let living = world.living(Some(any_kind(rng)));
    let Some(victim) = one(&living, rng) else {
        return Ok(Done::not_now("nobody runs"));
    };
    let after = rng.random_range(0..4);
    let name = victim.name.clone();
    let failed = |world: &World| -> Result<u64> {
        Ok(world.rooms.volume(&name, Command::Counts)?.syncs_failed)
    };
    let before = failed(world)?;
    world.rooms.volume(&name, Command::FailSync { after })?;
    let end = Instant::now() + SYNC_ERROR_MAX;
    let mut failed_at = None;
    let mut done = Done::to(vec![name.clone()], "");
    loop {
        if !process::is_running(&victim) {
            let words = world.last_words(&name);
            let last = words.lines().last().unwrap_or_default();
            done.says = format!("a sync of {name} failed, it ended: {last}");
            return Ok(done);
        }
        if failed_at.is_none() && failed(world)? > before {
            failed_at = Some(Instant::now());
        }
        if failed_at.is_some_and(|at| at.elapsed() > RUNS_ON_MAX) {
            done.says = format!("a sync of {name} failed, and it runs on");
            done.broken = Some(done.says.clone());
            return Ok(done);
        }
        if Instant::now() > end {
            done.says = format!("{name} did not sync within {SYNC_ERROR_MAX:?}");
            return Ok(done);
        }
        // Something to sync, where the workload has nothing. That it may fail is the point.
        match failed_at {
            None => drop(world.probe().await),
            Some(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Keeps the victims' disks busy, so that syncs are under way; kills all, then takes from the disks what was not
/// synced.
async fn power_cut(
    world: &mut World,
    victims: Vec<Service>,
    survival: Survival,
    rng: &mut StdRng,
) -> Result<Done> {
    let victims = names(&victims);
    if victims.is_empty() {
        return Ok(Done::not_now("nobody runs"));
    }
    let millis = u64::try_from(BUSY.as_millis())? / 4;
    for name in &victims {
        world.rooms.volume(name, Command::SlowSync { millis })?;
    }
    tokio::time::sleep(BUSY).await;
    tokio::task::block_in_place(|| world.local.kill_all_of(&victims))?;
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for name in &victims {
        let before = world.rooms.volume(name, Command::Counts)?;
        let seed = rng.random();
        let cut = Command::DropUnsynced { survival, seed };
        let after = world.rooms.volume(name, cut)?;
        kept += after.pages_kept - before.pages_kept;
        lost += after.pages_lost - before.pages_lost;
        torn += after.pages_torn - before.pages_torn;
    }
    let says = format!(
        "{} lost power: of unsynced pages {kept} kept, {lost} lost, {torn} torn",
        victims.join(", ")
    );
    Ok(Done::to(victims, says))
}

fn damage_blocks(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    // Blocks of one node at a time: two damaged copies of three are more than the design promises to survive.
    if !world.lost.is_empty() || world.leaving.is_some() {
        return Ok(Done::not_now("a member is lost or leaves"));
    }
    let mut nodes = world.living(Some(Kind::Node));
    nodes.retain(|node| world.damaged.is_empty() || world.damaged.contains(&node.name));
    let Some(node) = one(&nodes, rng) else {
        return Ok(Done::not_now("another node's blocks are damaged"));
    };
    let how = match fault {
        Fault::FlipBlock => damage::Damage::Bit,
        _ => damage::Damage::Sectors,
    };
    let blocks = node.data.join("blocks");
    let Some(where_) = damage::below(&blocks, "blocks", how, rng)? else {
        return Ok(Done::not_now("no block is stored yet"));
    };
    world.damaged.insert(node.name.clone());
    let says = format!("{where_} of {}", node.name);
    Ok(Done::to(vec![node.name], says))
}

/// Every disk works. Who ended because one did not is started as a process.
pub(super) fn heal(world: &mut World) -> Result<Vec<String>> {
    if !world.rooms.has_volumes() {
        return Ok(Vec::new());
    }
    for service in world.services(None) {
        for command in [
            NEVER,
            Command::Enospc { full: false },
            Command::SlowSync { millis: 0 },
            Command::PowerOn,
        ] {
            let volume = world.rooms.volume(&service.name, command);
            volume.context("healing a volume")?;
        }
    }
    Ok(Vec::new())
}
