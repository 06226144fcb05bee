//! The network: who hears whom, and how well.
//!
//! Clients are outside of every partition, as in a data centre whose machines lose each other and not the world:
//! what a deposed leader answers is seen.

use std::time::Duration;

use anyhow::{Context as _, Result};
use local::{Kind, Service};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::{Done, Fault, names, some};
use crate::net::{Shape, link_of};
use crate::world::{World, until};

/// How long connections may take to carry something that is reset.
const RESET_MAX: Duration = Duration::from_secs(5);

pub(super) async fn inject(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    match fault {
        Fault::IsolateLeader => isolate_leader(world, rng).await,
        Fault::PartitionHalves => halves(world, rng),
        Fault::PartitionBridge => bridge(world, rng),
        Fault::PartitionRing => ring(world, rng),
        Fault::OneWayIn | Fault::OneWayOut => one_way(fault, world, rng).await,
        Fault::Loss => loss(world, rng),
        Fault::Reset => reset(world, rng).await,
        Fault::LinkCut => link_cut(world).await,
        Fault::LinkSlow => link_slow(world, rng),
        _ => shaped(fault, world, rng),
    }
}

/// Storage nodes and KMS replicas in pairs: a machine of the region has one of each.
fn machines(world: &World) -> Vec<Vec<String>> {
    let named = |kind| names(&world.services(Some(kind)));
    let (nodes, kms) = (named(Kind::Node), named(Kind::Kms));
    let count = nodes.len().max(kms.len());
    let at = |names: &[String], at: usize| names.get(at).cloned();
    (0..count)
        .map(|n| [at(&nodes, n), at(&kms, n)].into_iter().flatten().collect())
        .collect()
}

/// Every pair of two that do not hear each other, both ways.
fn apart(one: &[String], other: &[String]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
        pairs.push((a.clone(), b.clone()));
        pairs.push((b.clone(), a.clone()));
    }
    pairs
}

async fn leading_machine(world: &World, rng: &mut StdRng) -> Result<(Vec<String>, Vec<String>)> {
    let group = *world.groups().await?.choose(rng).context("no groups")?;
    let leader = world.leader(group).await?;
    let mut machines = machines(world);
    let at = machines
        .iter()
        .position(|machine| machine.contains(&leader));
    let machine = machines.remove(at.context("a leader of no machine")?);
    // Now the process alone, now the whole machine.
    let alone = rng.random::<bool>();
    let mut rest: Vec<_> = machines.concat();
    let (side, beside) = machine
        .into_iter()
        .partition(|name| !alone || *name == leader);
    rest.extend::<Vec<String>>(beside);
    Ok((side, rest))
}

async fn isolate_leader(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let (side, rest) = leading_machine(world, rng).await?;
    world.net().cut(&apart(&side, &rest))?;
    let says = format!("{} and the rest do not hear each other", side.join(", "));
    Ok(Done::to(side, says))
}

fn halves(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let mut machines = machines(world);
    if machines.len() < 2 {
        return Ok(Done::not_now("there is one machine"));
    }
    machines.shuffle(rng);
    let minority = machines.split_off(machines.len() / 2 + 1).concat();
    let majority = machines.concat();
    world.net().cut(&apart(&majority, &minority))?;
    let says = format!("{} | {}", majority.join(" "), minority.join(" "));
    Ok(Done::to(minority, says))
}

fn bridge(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let mut machines = machines(world);
    machines.shuffle(rng);
    let Some(middle) = machines.pop().filter(|_| machines.len() >= 2) else {
        return Ok(Done::not_now("a bridge needs three machines"));
    };
    let right = machines.split_off(machines.len() / 2).concat();
    let left = machines.concat();
    world.net().cut(&apart(&left, &right))?;
    let (left, right) = (left.join(" "), right.join(" "));
    let says = format!("{left} | {right}; {} hears both", middle.join(" "));
    Ok(Done::to(middle, says))
}

fn ring(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let mut machines = machines(world);
    let count = machines.len();
    if count < 3 {
        return Ok(Done::not_now("a ring needs three machines"));
    }
    machines.shuffle(rng);
    // With three everybody has everybody for a neighbour: there each hears only the one before.
    let one_way = count == 3;
    let mut pairs = Vec::new();
    for (to, hears) in machines.iter().enumerate() {
        for (from, speaks) in machines.iter().enumerate() {
            let before = (from + 1) % count == to;
            let after = (to + 1) % count == from;
            if from != to && !before && (one_way || !after) {
                let all = speaks
                    .iter()
                    .flat_map(|from| hears.iter().map(move |to| (from, to)));
                pairs.extend(all.map(|(from, to)| (from.clone(), to.clone())));
            }
        }
    }
    world.net().cut(&pairs)?;
    let order: Vec<_> = machines.iter().map(|machine| machine.join(" ")).collect();
    let arrow = if one_way { " > " } else { " - " };
    let says = format!("ring {}{arrow}", order.join(arrow));
    Ok(Done::to(machines.concat(), says))
}

async fn one_way(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let (side, rest) = leading_machine(world, rng).await?;
    let pairs = apart(&side, &rest).into_iter();
    let (pairs, says) = if fault == Fault::OneWayIn {
        let pairs: Vec<_> = pairs.filter(|(_, to)| side.contains(to)).collect();
        (pairs, "hears nobody, and is heard")
    } else {
        let pairs: Vec<_> = pairs.filter(|(from, _)| side.contains(from)).collect();
        (pairs, "hears everybody, and is not heard")
    };
    world.net().cut(&pairs)?;
    let says = format!("{} {says}", side.join(", "));
    Ok(Done::to(side, says))
}

fn by_chance(world: &World, rng: &mut StdRng) -> Vec<String> {
    let services: Vec<Service> = world.services(None);
    let count = rng.random_range(1..=services.len().div_ceil(2));
    some(&services, count, rng)
}

fn loss(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let victims = by_chance(world, rng);
    let share = rng.random_range(3..=25);
    for name in &victims {
        world
            .net()
            .filter(name, |filter| filter.loss_percent = share)?;
    }
    let says = format!(
        "{share} % of what is sent to {} is lost",
        victims.join(", ")
    );
    Ok(Done::to(victims, says))
}

async fn reset(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let victims = by_chance(world, rng);
    for name in &victims {
        world.net().filter(name, |filter| filter.reset = true)?;
    }
    let seen = until("a connection to reset", RESET_MAX, async || {
        let mut resets = 0;
        for name in &victims {
            resets += world.net().stopped(name)?.reset;
        }
        Ok((resets > 0).then_some(resets))
    });
    let seen = match seen.await {
        Ok(resets) => format!("{resets} already"),
        Err(error) => format!("{error:#}"),
    };
    let says = format!("connections of {} are reset ({seen})", victims.join(", "));
    Ok(Done::to(victims, says))
}

fn shaped(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let ms = |range: std::ops::RangeInclusive<u64>, rng: &mut StdRng| {
        Duration::from_millis(rng.random_range(range))
    };
    let victims = by_chance(world, rng);
    let (shape, what) = match fault {
        Fault::Delay => {
            let (delay, jitter) = (ms(10..=250, rng), ms(0..=100, rng));
            let shape = Shape {
                delay,
                jitter,
                ..Shape::default()
            };
            (shape, format!("{delay:?} and up to {jitter:?} late"))
        }
        Fault::Reorder => {
            let (percent, by) = (rng.random_range(5..=40), ms(2..=40, rng));
            let shape = Shape {
                reorder_percent: percent,
                reorder_by: by,
                ..Shape::default()
            };
            (shape, format!("{percent} % are overtaken within {by:?}"))
        }
        _ => {
            let kib = rng.random_range(64..=1_024);
            let shape = Shape {
                bytes_per_s: kib * 1_024,
                ..Shape::default()
            };
            (shape, format!("{kib} KiB/s"))
        }
    };
    for name in &victims {
        world.net().shape(name, shape, rng.random())?;
    }
    let says = format!("packets to and from {}: {what}", victims.join(", "));
    Ok(Done::to(victims, says))
}

async fn link_cut(world: &mut World) -> Result<Done> {
    let region = world.home()?.region.to_string();
    world.net().link_region(&region, false)?;
    let mut done = Done::to(
        vec![link_of(&region)],
        format!("{region} is cut off from the other regions"),
    );
    // P1 has a region depend on no other: nothing in it may notice.
    if let Err(error) = world.probe().await {
        done.broken = Some(format!(
            "cut off from other regions, {region} fails: {error:#}"
        ));
    }
    Ok(done)
}

fn link_slow(world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let link = link_of(world.home()?.region.as_str());
    let delay = Duration::from_millis(rng.random_range(20..=200));
    let shape = Shape {
        delay,
        bytes_per_s: rng.random_range(64..=1_024) * 1_024,
        ..Shape::default()
    };
    world.net().shape(&link, shape, rng.random())?;
    let says = format!(
        "{link}: {delay:?} late, {} KiB/s",
        shape.bytes_per_s / 1_024
    );
    Ok(Done::to(vec![link], says))
}

/// Everybody hears everybody, at once.
pub(super) fn heal(world: &mut World) -> Result<Vec<String>> {
    let net = world.net();
    let mut healed = Vec::new();
    let stopped = net.unfilter()?;
    if stopped.total() > 0 {
        healed.push(format!(
            "packets stopped meanwhile: {} cut off, {} lost, {} reset",
            stopped.cut, stopped.lost, stopped.reset
        ));
    }
    let passed = net.unshape_all()?;
    if passed.frames > 0 {
        healed.push(format!(
            "packets shaped meanwhile: {}, of which {} overtaken; {} did not fit",
            passed.frames, passed.reordered, passed.dropped
        ));
    }
    for region in net.regions() {
        net.link_region(&region, true)?;
    }
    Ok(healed)
}
