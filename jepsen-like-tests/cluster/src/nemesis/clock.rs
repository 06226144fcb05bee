//! Wall clocks that are wrong. Monotonic clocks stay right, as they do in a kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use local::Kind;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::process::any_kind;
use super::{Done, Fault, names, some};
use crate::world::{RIGHT, Rooms, World};

/// Jumps of a minority's clocks, in seconds: within what time in a log may do, past it, past an hour's lease.
const JUMPS: [f64; 4] = [0.3, 8.0, 95.0, 3_700.0];
/// The largest jump of all clocks at once: a longer one waits for an operator, by design.
const JUMP_OF_ALL: f64 = 25.0;
/// The largest jump of a minority of the storage nodes' clocks: as of the KMS, past an hour's lease.
const JUMP_OF_NODE: f64 = 3_700.0;
/// As if every upload under way had begun long ago. By more than a day, nodes would know nobody.
const HOURS: f64 = 2.0 * 3_600.0;
/// How long a replica may take to flush what it has applied, and to sweep its blocks for what that ends.
const FLUSHED_MAX: Duration = Duration::from_secs(20);
/// Times of a strobe on either side.
const STROBE_MS: std::ops::RangeInclusive<u64> = 20..=400;

pub(super) async fn inject(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    if fault == Fault::ClockHours {
        return hours(world).await;
    }
    let kind = any_kind(rng);
    let members = world.services(Some(kind));
    let all = rng.random_range(0..4) == 0;
    let (count, most) = match all {
        true => (members.len(), JUMP_OF_ALL),
        false => (rng.random_range(1..=(members.len() / 2).max(1)), f64::MAX),
    };
    let most = match kind {
        Kind::Node => most.min(JUMP_OF_NODE),
        Kind::Kms | Kind::Gateway => most,
    };
    let victims = some(&members, count, rng);
    let magnitude = JUMPS.choose(rng).copied().unwrap_or(JUMPS[0]).min(most);
    let seconds = if rng.random() { magnitude } else { -magnitude };
    let whose = victims.join(", ");
    let says = match fault {
        Fault::ClockJump => {
            for name in &victims {
                world.rooms.set_clock(name, seconds)?;
            }
            format!("clocks of {whose} jump by {seconds:+} s")
        }
        _ => {
            let every = Duration::from_millis(rng.random_range(STROBE_MS));
            let rooms = Arc::clone(&world.rooms);
            world.strobe = None;
            world.strobe = Some(Strobe::start(rooms, victims.clone(), seconds, every)?);
            format!("clocks of {whose} jump by {seconds:+} s and back every {every:?}")
        }
    };
    Ok(Done::to(victims, says))
}

async fn hours(world: &World) -> Result<Done> {
    let victims = names(&world.services(Some(Kind::Node)));
    for name in &victims {
        world.rooms.set_clock(name, HOURS)?;
    }
    tokio::time::sleep(FLUSHED_MAX).await;
    let says = format!("clocks of {} jump by {HOURS:+} s", victims.join(", "));
    Ok(Done::to(victims, says))
}

/// Clocks that jump to and fro until this is dropped.
pub(crate) struct Strobe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Strobe {
    fn start(rooms: Arc<Rooms>, names: Vec<String>, seconds: f64, every: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let builder = std::thread::Builder::new().name("strobe".to_owned());
        let thread = builder.spawn(move || {
            let mut wrong = false;
            while !stopped.load(Ordering::Acquire) {
                wrong = !wrong;
                for name in &names {
                    let to = if wrong { seconds } else { RIGHT };
                    if let Err(error) = rooms.set_clock(name, to) {
                        tracing::error!(error = format!("{error:#}"), "a strobe has ended");
                        return;
                    }
                }
                std::thread::park_timeout(every);
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Strobe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It sets no clock after this.
            drop(thread.join());
        }
    }
}

/// Every clock is right.
pub(super) fn heal(world: &mut World) -> Result<Vec<String>> {
    if !world.rooms.has_clocks() {
        return Ok(Vec::new());
    }
    world.strobe = None;
    for service in world.services(None) {
        world.rooms.set_clock(&service.name, RIGHT)?;
    }
    Ok(Vec::new())
}
