//! The residency oracle: did anything that must not be read leave where it may be read?
//!
//! Owns the captures of every region's network and of the link between the regions, and the search of captures, disks
//! and memory of storage nodes for canaries: texts that occur in plaintext alone. Refuses a clean verdict without its
//! positive controls: a text planted in each kind of place must be found there.

mod capture;
#[cfg(feature = "danger_scannable_keys")]
mod keys;
#[cfg(not(feature = "danger_scannable_keys"))]
mod no_keys;
mod packets;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use local::{Kind, process, search};
use memchr::memmem::Finder;

use crate::net::{self, LINK, link_of};
use crate::world::{World, until};

use capture::Capture;
pub use capture::{Crossing, Seen};
#[cfg(feature = "danger_scannable_keys")]
pub use keys::Keys;
#[cfg(not(feature = "danger_scannable_keys"))]
pub use no_keys::Keys;
use packets::CONTROL_PORT;

/// How long a planted text may take to be seen on a wire.
const CONTROL_MAX: Duration = Duration::from_secs(10);
const LINK_NAME: &str = "link between the regions";
/// Bytes of memory or disk that a search has to have seen to count.
const SEARCHED_MIN: u64 = 1_000_000;

/// How wires are watched. Of each at most so many bytes of packets are kept, for a look; all are searched.
#[derive(Debug, Clone, Default)]
pub struct Watching {
    /// Of a region's network.
    pub region_bytes_max: u64,
    /// Of the link between the regions.
    pub link_bytes_max: u64,
    /// What is sent over each in the clear behind the control, for who searches what was kept.
    pub planted: Vec<u8>,
}

/// Watching.
pub struct Oracle {
    canaries: Vec<Vec<u8>>,
    control: Vec<u8>,
    planted: Vec<u8>,
    captures: Vec<Capture>,
}

/// Where a canary was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The place, in words.
    pub place: String,
    /// Which canary, by its number.
    pub canary: usize,
}

/// What a search for keys saw.
#[derive(Debug, Clone, Default)]
pub struct KeySearch {
    /// Keys looked for, by their fingerprints.
    pub fingerprints: usize,
    /// Bytes searched.
    pub bytes: u64,
    /// Where one of them stands. None, if the promise holds.
    pub hits: usize,
    /// Where the planted key stands.
    pub controls: usize,
}

/// What the oracle saw.
#[derive(Debug, Clone, Default)]
pub struct Residency {
    /// Canaries found. Empty, if the promise holds.
    pub hits: Vec<Hit>,
    /// What went over each wire: regions first, the link between them last.
    pub wires: Vec<Seen>,
    /// What crossed between the regions and should not have.
    pub crossings: Vec<Crossing>,
    /// Files searched, and their bytes.
    pub files: (u64, u64),
    /// Storage nodes whose memory was searched, and the bytes.
    pub memory: (u64, u64),
    /// Positive controls that were found.
    pub controls: Vec<String>,
}

impl Residency {
    /// What is wrong, in words; nothing, if the promise holds and the search was sharp.
    pub fn complaints(&self) -> Vec<String> {
        let hits = self.hits.iter();
        let mut all: Vec<_> = hits
            .map(|hit| format!("canary {} in {}", hit.canary, hit.place))
            .collect();
        all.extend(self.crossings.iter().map(|crossing| {
            format!("{crossing} crossed between the regions, which exchange nothing of the kind")
        }));
        for wire in self.wires.iter().filter(|wire| wire.missed > 0) {
            all.push(format!(
                "{} packets on {} were not captured: what was in them is not known",
                wire.missed, wire.name
            ));
        }
        all
    }

    fn hit(&mut self, place: &str, canaries: &[bool]) {
        let hits = canaries.iter().enumerate().filter(|(_, hit)| **hit);
        self.hits.extend(hits.map(|(canary, _)| Hit {
            place: place.to_owned(),
            canary,
        }));
    }

    /// The verdict in one line.
    pub fn summary(&self) -> String {
        format!(
            "{}; {} files of {} MB; memory of {} nodes, {} MB",
            self.of_wires(),
            self.files.0,
            self.files.1 / 1_000_000,
            self.memory.0,
            self.memory.1 / 1_000_000
        )
    }

    /// As [`Self::summary`], where wires alone were searched.
    pub fn of_wires(&self) -> String {
        let wires: Vec<_> = self.wires.iter().map(ToString::to_string).collect();
        format!(
            "{} canaries found; {}; controls: {}",
            self.hits.len(),
            wires.join("; "),
            self.controls.join(", ")
        )
    }

    /// The link between the regions; nothing in a world of one region.
    pub fn link(&self) -> Option<&Seen> {
        self.wires.iter().find(|wire| wire.name == LINK_NAME)
    }
}

impl Oracle {
    /// Begins to watch every wire of the world; packets are kept in `dir`.
    pub fn start(
        world: &World,
        canaries: Vec<Vec<u8>>,
        dir: &Path,
        watching: &Watching,
    ) -> Result<Self> {
        ensure!(
            canaries.iter().all(|canary| canary.len() >= 16),
            "a canary must be long enough to occur by itself nowhere"
        );
        std::fs::create_dir_all(dir)?;
        let control = format!("reduit-control-{:032x}", rand::random::<u128>()).into_bytes();
        let mut needles = canaries.clone();
        needles.push(control.clone());
        let mut captures = Vec::new();
        let mut watch = |wire: &str, name: &str, bytes_max: u64| -> Result<()> {
            let file = dir.join(format!("{}.pcap", name.replace(' ', "-")));
            captures.push(Capture::start(wire, name, &needles, file, bytes_max)?);
            Ok(())
        };
        let regions = world.net().regions();
        for region in &regions {
            watch(
                &world.net().bridge(region)?,
                &format!("network of {region}"),
                watching.region_bytes_max,
            )?;
        }
        if regions.len() > 1 {
            watch(LINK, LINK_NAME, watching.link_bytes_max)?;
        }
        Ok(Self {
            canaries,
            control,
            planted: watching.planted.clone(),
            captures,
        })
    }

    /// Stops watching, searches, and says what was found. `may_cross` are the ports by which regions may talk.
    pub async fn finish(mut self, world: &World, may_cross: &[u16]) -> Result<Residency> {
        let mut found = self.search_wires(world, may_cross).await?;
        tokio::task::block_in_place(|| {
            self.search_disks(world, &mut found)?;
            self.search_memory(world, &mut found)
        })?;
        Ok(found)
    }

    /// As [`Self::finish`], of wires alone.
    pub async fn finish_wires(mut self, world: &World, may_cross: &[u16]) -> Result<Residency> {
        self.search_wires(world, may_cross).await
    }

    async fn search_wires(&mut self, world: &World, may_cross: &[u16]) -> Result<Residency> {
        let mut found = Residency::default();
        self.control_wires(world, &mut found).await?;
        for capture in self.captures.drain(..) {
            let (seen, hits) = capture.stop()?;
            for canary in hits.into_iter().filter(|at| *at < self.canaries.len()) {
                let place = format!("the {}", seen.name);
                found.hits.push(Hit { place, canary });
            }
            if seen.name == LINK_NAME {
                let crossings = seen.crossings.iter();
                let unexpected = crossings.filter(|crossing| !crossing.is_by(may_cross));
                found.crossings = unexpected.cloned().collect();
            }
            found.wires.push(seen);
        }
        Ok(found)
    }

    /// Sends the control over every wire in the clear, and sees it there.
    async fn control_wires(&self, world: &World, found: &mut Residency) -> Result<()> {
        let regions = world.net().regions();
        for (at, region) in regions.iter().enumerate() {
            let service = first_of(world, region)?;
            let router = router_of(world, &service)?;
            self.send(&service, router)?;
            if let Some(other) = regions.get(at + 1) {
                let there = world.net().address(&first_of(world, other)?)?;
                self.send(&service, there)?;
            }
        }
        for capture in &self.captures {
            let what = format!("the control on the {}", capture.name());
            let control = self.canaries.len();
            until(&what, CONTROL_MAX, async || {
                Ok(capture.has_found(control).then_some(()))
            })
            .await?;
            found.controls.push(what);
        }
        Ok(())
    }

    fn send(&self, from: &str, to: Ipv4Addr) -> Result<()> {
        net::within(from, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let datagram = [&self.control[..], &self.planted[..]].concat();
            socket.send_to(&datagram, (to, CONTROL_PORT))?;
            Ok(())
        })
    }

    /// Every file of every service, removed members included, and what volumes keep below them.
    fn search_disks(&self, world: &World, found: &mut Residency) -> Result<()> {
        let mut places: Vec<PathBuf> = Vec::new();
        for region in &world.local.federation.regions {
            for service in &region.services {
                let own = [&service.data, &service.log, &service.config];
                places.extend(own.into_iter().cloned());
                places.push(world.backing(&service.name));
            }
        }
        // A removed member's volume is not mounted any more; what it held is in its backing.
        places.retain(|place| place.exists());
        let all = self.needles();
        for place in &places {
            search::walk(place, &mut |path| {
                let mut hits = vec![false; all.len()];
                let read = search::file(path, overlap(&all), &mut |window| {
                    mark(&mut hits, &all, window)
                })?;
                found.files.0 += 1;
                found.files.1 += read;
                found.hit(&path.display().to_string(), &hits);
                Ok(())
            })?;
        }
        ensure!(
            found.files.0 > 20 && found.files.1 > SEARCHED_MIN,
            "the search saw only {:?} files and bytes",
            found.files
        );
        self.control_disk(world, found)
    }

    fn control_disk(&self, world: &World, found: &mut Residency) -> Result<()> {
        let service = world
            .services(None)
            .into_iter()
            .next()
            .context("a service")?;
        let control = Finder::new(&self.control);
        let mut edge = vec![b'.'; search::WINDOW - self.control.len() / 2];
        edge.extend_from_slice(&self.control);
        for (path, content) in [
            (service.data.join("planted.bin"), &self.control),
            (service.log.with_extension("planted.log"), &edge),
        ] {
            std::fs::write(&path, content)?;
            let mut seen = false;
            search::file(&path, self.control.len(), &mut |window| {
                seen |= control.find(window).is_some();
            })?;
            std::fs::remove_file(&path)?;
            ensure!(seen, "the control in {} is not found", path.display());
        }
        found
            .controls
            .push("the control on a disk and in a log".to_owned());
        Ok(())
    }

    fn search_memory(&self, world: &World, found: &mut Residency) -> Result<()> {
        let all = self.needles();
        let nodes = world.local.services().filter(|s| s.kind == Kind::Node);
        // One that has ended has no memory; who ran the world says that it has.
        for service in nodes.filter(|node| process::is_running(node)) {
            let mut read = 0;
            let mut hits = vec![false; all.len()];
            search::memory(service.pid, overlap(&all), &mut |window| {
                read += window.len() as u64;
                mark(&mut hits, &all, window);
            })?;
            ensure!(
                read > SEARCHED_MIN,
                "only {read} bytes of {}'s memory could be read",
                service.name
            );
            found.memory.0 += 1;
            found.memory.1 += read;
            found.hit(&format!("the memory of {}", service.name), &hits);
        }
        self.control_memory(found)
    }

    /// Another process that holds the control in its environment: found in its memory.
    fn control_memory(&self, found: &mut Residency) -> Result<()> {
        let text = String::from_utf8(self.control.clone())?;
        let mut holder = Command::new("sleep")
            .arg("60")
            .env("PLANTED", text)
            .stdin(Stdio::null())
            .spawn()?;
        let control = Finder::new(&self.control);
        let mut seen = false;
        let searched = search::memory(holder.id(), self.control.len(), &mut |window| {
            seen |= control.find(window).is_some();
        });
        holder.kill()?;
        holder.wait()?;
        searched?;
        ensure!(seen, "the control in a process's memory is not found");
        found.controls.push("the control in a memory".to_owned());
        Ok(())
    }

    fn needles(&self) -> Vec<Finder<'_>> {
        self.canaries.iter().map(Finder::new).collect()
    }
}

fn mark(hits: &mut [bool], finders: &[Finder<'_>], window: &[u8]) {
    for (hit, finder) in hits.iter_mut().zip(finders) {
        *hit |= finder.find(window).is_some();
    }
}

fn overlap(finders: &[Finder<'_>]) -> usize {
    let longest = finders.iter().map(|finder| finder.needle().len()).max();
    longest.unwrap_or_default()
}

fn first_of(world: &World, region: &str) -> Result<String> {
    let region = world.local.federation.region(region)?;
    let service = region.living(Kind::Node).next();
    Ok(service.context("a region without nodes")?.name.clone())
}

/// The router of a service's region, on its side: what is sent there passes the region's bridge.
fn router_of(world: &World, service: &str) -> Result<Ipv4Addr> {
    let region = service.split('/').next().unwrap_or_default();
    // The link's port has to be there too, or the world has no router.
    world.net().address(&link_of(region))?;
    world.net().address(&format!("{region}/gw"))
}
