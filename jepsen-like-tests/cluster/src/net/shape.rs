//! A slow, jittery, reordering or narrow way to one namespace, in user space: this kernel has no netem.
//!
//! Owns the detour: the outer end of a namespace's interface moves to a bridge of its own, and two TAP devices with a
//! thread between them lead from there to the region's bridge. Inside the namespace nothing changes: same interface,
//! same address, live connections. Refuses to queue without bound: what does not fit is dropped, as a router does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::{Net, Port, run};

/// Frames under way in one direction.
const QUEUE_FRAMES: usize = 4_096;
/// How long frames may wait for a narrow way before they are dropped.
const QUEUE_WAIT: Duration = Duration::from_millis(400);
/// Room for the largest frame.
const FRAME_BYTES: usize = 65_536;

/// What happens to frames, in each direction by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Every frame takes so long.
    pub delay: Duration,
    /// And up to so much more, by chance; the order stays.
    pub jitter: Duration,
    /// Share of frames that are held back, in percent, so that later ones overtake them.
    pub reorder_percent: u8,
    /// How long those are held back.
    pub reorder_by: Duration,
    /// Bytes a second that fit through; 0 for no limit.
    pub bytes_per_s: u64,
}

/// Frames counted on a detour, both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// That went through.
    pub frames: u64,
    /// That were held back.
    pub reordered: u64,
    /// That did not fit.
    pub dropped: u64,
}

/// A detour in use.
pub(super) struct Shaped {
    port: Port,
    made: [String; 3],
    ways: [Arc<Way>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Net {
    /// Leads everything to and from a service over a detour; `seed` decides by chance.
    pub fn shape(&self, name: &str, shape: Shape, seed: u64) -> Result<()> {
        self.unshape(name)?;
        let port = self.port(name)?;
        let number = self.number();
        let [inner, outer] = [format!("t{number}i"), format!("t{number}o")];
        let own = format!("s{number}");
        let (near, far) = (tap(&inner)?, tap(&outer)?);
        super::bridge(&own)?;
        let ways = [seed, !seed].map(|seed| Arc::new(Way::new(shape, seed)));
        let mut threads = Vec::new();
        for (way, from, to) in [(&ways[0], &near, &far), (&ways[1], &far, &near)] {
            let (entry, exit) = (Arc::clone(way), Arc::clone(way));
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            threads.push(spawn("way-in", move || entry.take(&from))?);
            threads.push(spawn("way-out", move || exit.give(&to))?);
        }
        let shaped = Shaped {
            port: port.clone(),
            made: [outer.clone(), inner.clone(), own.clone()],
            ways,
            threads,
        };
        self.state.lock().shapes.insert(name.to_owned(), shaped);
        run("ip", &["link", "set", &inner, "master", &own, "up"])?;
        run("ip", &["link", "set", &outer, "master", &port.bridge, "up"])?;
        run("ip", &["link", "set", &port.outer, "master", &own])?;
        Ok(())
    }

    /// Takes the detour of one service away, if it has one.
    pub fn unshape(&self, name: &str) -> Result<Passed> {
        let Some(mut shaped) = self.state.lock().shapes.remove(name) else {
            return Ok(Passed::default());
        };
        let port = &shaped.port;
        run("ip", &["link", "set", &port.outer, "master", &port.bridge])?;
        for device in &shaped.made {
            run("ip", &["link", "del", device])?;
        }
        for way in &shaped.ways {
            way.close();
        }
        // Whoever reads from a device that is gone is answered by an error.
        for thread in shaped.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(%name, "a thread of a detour has panicked");
            }
        }
        Ok(shaped.passed())
    }

    /// Takes every detour away.
    pub fn unshape_all(&self) -> Result<Passed> {
        let names: Vec<_> = self.state.lock().shapes.keys().cloned().collect();
        let mut all = Passed::default();
        for name in names {
            let passed = self.unshape(&name)?;
            all.frames += passed.frames;
            all.reordered += passed.reordered;
            all.dropped += passed.dropped;
        }
        Ok(all)
    }
}

impl Shaped {
    fn passed(&self) -> Passed {
        let sum = |count: fn(&Way) -> &AtomicU64| {
            self.ways
                .iter()
                .map(|way| count(way).load(Ordering::Relaxed))
                .sum()
        };
        Passed {
            frames: sum(|way| &way.frames),
            reordered: sum(|way| &way.reordered),
            dropped: sum(|way| &way.dropped),
        }
    }
}

fn tap(name: &str) -> Result<Arc<SyncDevice>> {
    let device = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .with(|options| {
            options.packet_information(false);
        })
        .enable(false)
        .build_sync()
        .with_context(|| format!("making the TAP device {name}"))?;
    Ok(Arc::new(device))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    Ok(builder.spawn(work)?)
}

/// One direction.
struct Way {
    shape: Shape,
    held: Mutex<Held>,
    moved: Condvar,
    frames: AtomicU64,
    reordered: AtomicU64,
    dropped: AtomicU64,
}

struct Held {
    queue: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    sequence: u64,
    /// When the narrow way is free again.
    free: Instant,
    /// When the last frame that keeps its order is due.
    last: Instant,
    rng: StdRng,
    closed: bool,
}

impl Way {
    fn new(shape: Shape, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            shape,
            held: Mutex::new(Held {
                queue: BinaryHeap::new(),
                sequence: 0,
                free: now,
                last: now,
                rng: StdRng::seed_from_u64(seed),
                closed: false,
            }),
            moved: Condvar::new(),
            frames: AtomicU64::new(0),
            reordered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn take(&self, from: &SyncDevice) {
        let mut frame = vec![0; FRAME_BYTES];
        while let Ok(bytes) = from.recv(&mut frame) {
            self.queue(Instant::now(), &frame[..bytes]);
        }
        self.close();
    }

    fn queue(&self, now: Instant, frame: &[u8]) {
        let held = &mut *self.held.lock();
        let Some(due) = self.due(held, now, frame.len()) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        held.sequence += 1;
        held.queue
            .push(Reverse((due, held.sequence, frame.to_vec())));
        self.moved.notify_one();
    }

    /// When a frame arrives at the other end, unless it is dropped.
    fn due(&self, held: &mut Held, now: Instant, bytes: usize) -> Option<Instant> {
        let shape = &self.shape;
        let through = match shape.bytes_per_s {
            0 => now,
            rate => {
                let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
                held.free.max(now) + takes
            }
        };
        if held.queue.len() >= QUEUE_FRAMES || through - now > QUEUE_WAIT {
            return None;
        }
        held.free = through;
        let chance = held.rng.random::<f64>();
        let due = through + shape.delay + shape.jitter.mul_f64(chance);
        if held.rng.random_range(0..100) < shape.reorder_percent {
            self.reordered.fetch_add(1, Ordering::Relaxed);
            return Some(due + shape.reorder_by);
        }
        held.last = held.last.max(due);
        Some(held.last)
    }

    fn give(&self, to: &SyncDevice) {
        while let Some(frame) = self.next() {
            self.frames.fetch_add(1, Ordering::Relaxed);
            // A device that is down or gone loses it, as a cable would.
            if to.send(&frame).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits for the next frame that is due; `None` once closed.
    fn next(&self) -> Option<Vec<u8>> {
        let mut held = self.held.lock();
        loop {
            if held.closed {
                return None;
            }
            let due = held.queue.peek().map(|Reverse((due, ..))| *due);
            match due {
                None => self.moved.wait(&mut held),
                Some(due) if due <= Instant::now() => {
                    return held.queue.pop().map(|Reverse((.., frame))| frame);
                }
                Some(due) => drop(self.moved.wait_until(&mut held, due)),
            }
        }
    }

    fn close(&self) {
        self.held.lock().closed = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(shape: Shape, frames: usize, bytes: usize) -> (Vec<Option<Duration>>, Way) {
        let way = Way::new(shape, 1);
        let now = Instant::now();
        let mut dues = Vec::new();
        for _ in 0..frames {
            let due = way.due(&mut way.held.lock(), now, bytes);
            dues.push(due.map(|due| due - now));
        }
        (dues, way)
    }

    #[test]
    fn jitter_keeps_the_order() {
        let shape = Shape {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(50),
            ..Shape::default()
        };
        let (dues, _) = dues(shape, 100, 100);
        let dues: Vec<_> = dues.into_iter().flatten().collect();
        assert_eq!(dues.len(), 100);
        assert!(dues.is_sorted(), "{dues:?}");
        assert!(dues[0] >= shape.delay && dues[99] <= shape.delay + shape.jitter);
        assert!(dues[0] < dues[99], "no jitter at all");
    }

    #[test]
    fn some_frames_are_overtaken() {
        let shape = Shape {
            reorder_percent: 25,
            reorder_by: Duration::from_millis(5),
            ..Shape::default()
        };
        let (dues, way) = dues(shape, 1_000, 100);
        let late = dues
            .iter()
            .flatten()
            .filter(|due| **due >= shape.reorder_by);
        let late = late.count() as u64;
        assert_eq!(late, way.reordered.load(Ordering::Relaxed));
        assert!((150..350).contains(&late), "{late} of 1000 at 25 %");
    }

    #[test]
    fn a_narrow_way_takes_its_time_and_drops_what_waits_too_long() {
        let shape = Shape {
            bytes_per_s: 1_000_000,
            ..Shape::default()
        };
        // One frame takes a millisecond: so many fit into the longest wait.
        let (dues, _) = dues(shape, 1_000, 1_000);
        let fit = dues.iter().flatten().count();
        assert_eq!(fit, QUEUE_WAIT.as_millis() as usize);
        let last = dues[fit - 1].expect("it fits");
        assert!(
            last.abs_diff(QUEUE_WAIT) < Duration::from_millis(1),
            "{last:?}"
        );
    }
}
