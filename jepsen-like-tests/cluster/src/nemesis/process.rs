//! Processes that end, pause or are restarted.

use std::time::Instant;

use anyhow::{Context as _, Result};
use local::{Kind, process};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Done, Fault, names, some};
use crate::world::World;

pub(super) async fn inject(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    match fault {
        Fault::KillLeader => {
            let group = *world.groups().await?.choose(rng).context("no groups")?;
            let leader = world.leader(group).await?;
            kill(world, vec![leader], &format!("leader of {group}"))
        }
        Fault::KillMinority | Fault::KillMajority => {
            let kind = any_kind(rng);
            let living = world.living(Some(kind));
            let half = world.services(Some(kind)).len() / 2;
            let count = match fault {
                Fault::KillMinority => rng.random_range(1..=half.max(1)),
                _ => half + 1,
            };
            kill(world, some(&living, count, rng), "chosen by chance")
        }
        Fault::KillAll => {
            let all = names(&world.living(None));
            kill(world, all, "every process")
        }
        Fault::PauseLeader => pause(world, rng).await,
        _ => rolling_restart(world).await,
    }
}

/// A storage node or a KMS replica: one as likely as the other.
pub(super) fn any_kind(rng: &mut StdRng) -> Kind {
    match rng.random() {
        true => Kind::Node,
        false => Kind::Kms,
    }
}

fn kill(world: &mut World, victims: Vec<String>, what: &str) -> Result<Done> {
    if victims.is_empty() {
        return Ok(Done::not_now("nobody is left to be killed"));
    }
    tokio::task::block_in_place(|| world.local.kill_all_of(&victims))?;
    let says = format!("killed {} ({what})", victims.join(", "));
    Ok(Done::to(victims, says))
}

async fn pause(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let group = *world.groups().await?.choose(rng).context("no groups")?;
    let leader = world.leader(group).await?;
    process::signal(world.local.federation.service(&leader)?, "STOP")?;
    let began = Instant::now();
    // Past its lease: somebody else leads, and it does not know.
    let next = world.leader_other_than(group, Some(&leader)).await;
    let says = match &next {
        Ok(next) => format!(
            "paused {leader}, which led {group}; {next} leads after {} ms",
            began.elapsed().as_millis()
        ),
        Err(error) => format!("paused {leader}, which led {group}; {error:#}"),
    };
    Ok(Done::to(vec![leader], says))
}

async fn rolling_restart(world: &mut World) -> Result<Done> {
    let all = names(&world.living(None));
    for name in &all {
        world.local.restart(name).await?;
        world.whole().await?;
    }
    let says = format!("restarted {} one after the other", all.join(", "));
    Ok(Done::to(all, says))
}

/// Everybody runs.
pub(super) fn heal(world: &mut World) -> Result<Vec<String>> {
    for service in world.living(None) {
        // One that is not stopped does not mind.
        process::signal(&service, "CONT")?;
    }
    let started = world.start_stopped()?;
    Ok(match started.is_empty() {
        true => Vec::new(),
        false => vec![format!("started {}", started.join(", "))],
    })
}
