//! The world's network: a bridge a region, a namespace a service, one link between the regions.
//!
//! Owns addresses, interfaces and what is done to them, until it is dropped. Refuses to be careful: it belongs inside
//! [`isolate`](crate::world::isolate()), where no interface is anybody else's.
//!
//! Region `r` has 10.77.r.0/24: its router is .254, this process .1 (the workload's clients live here), services .10
//! and up. Between the routers lies the link 10.77.0.0/24, which is all that regions have of each other.

mod filter;
mod shape;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use proto::ids::RegionId;

pub use filter::{Filter, Stopped};
use shape::Shaped;
pub use shape::{Passed, Shape};

/// Regions one world may have: the third number of an address counts them.
const REGIONS_MAX: usize = 200;
/// Where services' addresses begin, and how many a region gives out in its life: none twice.
const HOSTS: std::ops::Range<u8> = 10..250;
const ROUTER: u8 = 254;
/// What the name of a region's end of the link ends with.
const WAN: &str = "/wan";
/// The bridge that is the link between the regions.
pub const LINK: &str = "wan";

/// The network of a world.
pub struct Net {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    regions: Vec<RegionNet>,
    ports: BTreeMap<String, Port>,
    filters: BTreeMap<String, Filter>,
    shapes: BTreeMap<String, Shaped>,
    /// Interfaces made so far: their names are short and never used again.
    made: u32,
}

struct RegionNet {
    id: String,
    given: u8,
}

/// Where a namespace's interface is plugged in.
#[derive(Clone)]
struct Port {
    /// The end outside the namespace.
    outer: String,
    /// The bridge it belongs to.
    bridge: String,
    address: Ipv4Addr,
}

impl Net {
    /// Bridges, routers and the link for these regions.
    pub fn build(regions: &[&RegionId]) -> Result<Self> {
        ensure!(regions.len() <= REGIONS_MAX, "too many regions");
        let net = Self {
            state: Mutex::new(State::default()),
        };
        run("ip", &["link", "set", "lo", "up"])?;
        bridge(LINK)?;
        let count = regions.len();
        for (at, region) in regions.iter().enumerate() {
            let bridge_name = bridge_of(at);
            bridge(&bridge_name)?;
            run(
                "ip",
                &["addr", "add", &wide(host(at, 1)), "dev", &bridge_name],
            )?;
            net.state.lock().regions.push(RegionNet {
                id: region.to_string(),
                given: HOSTS.start,
            });
            net.route(region, at, count)?;
        }
        Ok(net)
    }

    /// The router of one region, with the ways to all others.
    fn route(&self, region: &RegionId, at: usize, count: usize) -> Result<()> {
        let name = format!("{region}/gw");
        let namespace = namespace_of(&name);
        make_namespace(&namespace)?;
        self.plug(&name, &namespace, "lan", &bridge_of(at), host(at, ROUTER))?;
        self.plug(
            &link_of(region.as_str()),
            &namespace,
            "wan",
            LINK,
            on_link(at),
        )?;
        write_within(&namespace, "/proc/sys/net/ipv4/ip_forward", "1")?;
        for other in (0..count).filter(|other| *other != at) {
            let (there, via) = (network(other), on_link(other).to_string());
            let route = ["-n", &namespace, "route", "add", &there, "via", &via];
            run("ip", &route)?;
        }
        Ok(())
    }

    /// A namespace with an address for the service `REGION/NAME`.
    pub fn attach(&self, name: &str) -> Result<Ipv4Addr> {
        let region = name.split('/').next().unwrap_or_default();
        let (at, address) = {
            let regions = &mut self.state.lock().regions;
            let at = regions.iter().position(|known| known.id == region);
            let at = at.with_context(|| format!("no region {region} in this world"))?;
            let given = regions[at].given;
            ensure!(HOSTS.contains(&given), "{region} has no address left");
            regions[at].given += 1;
            (at, host(at, given))
        };
        let namespace = namespace_of(name);
        make_namespace(&namespace)?;
        self.plug(name, &namespace, "eth0", &bridge_of(at), address)?;
        let router = host(at, ROUTER).to_string();
        let route = [
            "-n",
            &namespace,
            "route",
            "add",
            "10.77.0.0/16",
            "via",
            &router,
        ];
        run("ip", &route)?;
        Ok(address)
    }

    /// Takes a service's namespace away, and all that was done to it.
    pub fn detach(&self, name: &str) -> Result<()> {
        self.unshape(name)?;
        let gone = {
            let mut state = self.state.lock();
            state.filters.remove(name);
            state.ports.remove(name)
        };
        if let Some(port) = gone {
            // A process that is still ending may hold the namespace for a moment: its interface goes first.
            run("ip", &["link", "del", &port.outer])?;
            run("ip", &["netns", "del", &namespace_of(name)])?;
        }
        Ok(())
    }

    /// The address of a service.
    pub fn address(&self, name: &str) -> Result<Ipv4Addr> {
        let state = self.state.lock();
        let port = state.ports.get(name);
        Ok(port
            .with_context(|| format!("{name} has no place"))?
            .address)
    }

    /// Unplugs a region from the link between the regions, or plugs it in again.
    pub fn link_region(&self, region: &str, plugged: bool) -> Result<()> {
        let port = self.port(&link_of(region))?;
        if !plugged {
            return run("ip", &["link", "set", &port.outer, "nomaster"]).map(drop);
        }
        if !self.state.lock().shapes.contains_key(&link_of(region)) {
            run("ip", &["link", "set", &port.outer, "master", LINK])?;
        }
        Ok(())
    }

    /// Every region's name.
    pub fn regions(&self) -> Vec<String> {
        let state = self.state.lock();
        state.regions.iter().map(|one| one.id.clone()).collect()
    }

    /// The bridge of a region.
    pub fn bridge(&self, region: &str) -> Result<String> {
        let state = self.state.lock();
        let at = state.regions.iter().position(|known| known.id == region);
        at.map(bridge_of)
            .with_context(|| format!("no region {region}"))
    }

    fn port(&self, name: &str) -> Result<Port> {
        let state = self.state.lock();
        let port = state.ports.get(name).cloned();
        port.with_context(|| format!("{name} has no place in the network"))
    }

    fn plug(
        &self,
        name: &str,
        namespace: &str,
        inner: &str,
        bridge: &str,
        address: Ipv4Addr,
    ) -> Result<()> {
        let outer = format!("v{}", self.number());
        let peer = ["peer", "name", inner, "netns", namespace];
        run(
            "ip",
            &[&["link", "add", &outer, "type", "veth"], &peer[..]].concat(),
        )?;
        run("ip", &["link", "set", &outer, "master", bridge, "up"])?;
        let wide = wide(address);
        run("ip", &["-n", namespace, "addr", "add", &wide, "dev", inner])?;
        run("ip", &["-n", namespace, "link", "set", inner, "up"])?;
        let port = Port {
            outer,
            bridge: bridge.to_owned(),
            address,
        };
        self.state.lock().ports.insert(name.to_owned(), port);
        Ok(())
    }

    fn number(&self) -> u32 {
        let mut state = self.state.lock();
        state.made += 1;
        state.made
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let outcome = self.unshape_all().and_then(|_| {
            let state = self.state.get_mut();
            let mut links: Vec<_> = state
                .ports
                .values()
                .map(|port| port.outer.clone())
                .collect();
            links.extend((0..state.regions.len()).map(bridge_of));
            links.push(LINK.to_owned());
            for link in links {
                run("ip", &["link", "del", &link])?;
            }
            for name in state.ports.keys().filter(|name| !name.ends_with(WAN)) {
                run("ip", &["netns", "del", &namespace_of(name)])?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::warn!(
                error = format!("{error:#}"),
                "a network is left to the end of the run"
            );
        }
    }
}

/// The name under which [`Net::shape`] knows a region's end of the link between the regions.
pub fn link_of(region: &str) -> String {
    format!("{region}{WAN}")
}

/// The file that stands for a service's namespace.
pub fn namespace_file(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace_of(name))
}

/// Runs `work` on a thread in the network namespace of a service, or of a region's router (`REGION/gw`).
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(namespace_file(name)).with_context(|| format!("namespace of {name}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn namespace_of(name: &str) -> String {
    name.replace('/', ".")
}

fn make_namespace(namespace: &str) -> Result<()> {
    run("ip", &["netns", "add", namespace])?;
    run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
    let ipv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    if std::path::Path::new(ipv6).exists() {
        write_within(namespace, ipv6, "1")?;
    }
    Ok(())
}

/// Writes a setting of the kernel as seen inside a namespace: which one a file of /proc/sys means is decided by who
/// opens it.
fn write_within(namespace: &str, path: &str, value: &str) -> Result<()> {
    within(namespace, || Ok(std::fs::write(path, value)?))
        .with_context(|| format!("writing {path} in {namespace}"))
}

fn bridge(name: &str) -> Result<()> {
    run("ip", &["link", "add", name, "type", "bridge"])?;
    run("ip", &["link", "set", name, "up"]).map(drop)
}

fn bridge_of(region: usize) -> String {
    format!("br{}", region + 1)
}

// Below REGIONS_MAX, so that it fits.
fn host(region: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, region as u8 + 1, host)
}

fn on_link(region: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, region as u8 + 1)
}

fn network(region: usize) -> String {
    format!("{}/24", host(region, 0))
}

fn wide(address: Ipv4Addr) -> String {
    format!("{address}/24")
}

/// Runs a program and answers what it says.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    feed(Command::new(program).args(arguments), "")
}

/// Runs a program with `input` and answers what it says.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!(
            "{command:?} ended with {}: {} {input}",
            out.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
