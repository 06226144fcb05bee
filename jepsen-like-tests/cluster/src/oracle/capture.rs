//! One wire, watched: every packet counted and searched as it passes.
//!
//! Owns tcpdump. A text that is spread over two segments of a connection is found too: the end of one is searched with
//! the beginning of the next. Refuses to grow: of packets a bounded part is kept, and how many were not is told.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use memchr::memmem::Finder;
use parking_lot::Mutex;

use super::packets::{Ip, PACKET_BYTES, Packets, Pair, TCP, Tails};

/// What tcpdump holds until it is read, in KiB: one that is full loses packets.
const BUFFER_KIB: &str = "65536";
/// Pairs of a protocol and two addresses that are counted apart.
const CROSSINGS_MAX: usize = 1_024;

/// What went over a wire.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The wire, in words.
    pub name: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were there and not captured, or not whole.
    pub missed: u64,
    /// Where packets are kept.
    pub file: PathBuf,
    /// Packets that were searched and that the file does not have: it was full.
    pub left_out: u64,
    /// Who sent how much to whom.
    pub crossings: Vec<Crossing>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            packets,
            bytes,
            ..
        } = self;
        write!(f, "{name}: {packets} packets, {bytes} bytes")
    }
}

/// What one address sent to another, without the controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// Protocol of IPv4.
    pub protocol: u8,
    /// Who.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// The lower of both ports; 0 for a protocol without.
    pub port: u16,
    /// How many bytes.
    pub bytes: u64,
}

impl Crossing {
    /// Whether it is TCP by one of these ports.
    pub(crate) fn is_by(&self, ports: &[u16]) -> bool {
        self.protocol == TCP && ports.contains(&self.port)
    }
}

impl fmt::Display for Crossing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes of protocol {} from {} to {}, port {}",
            self.bytes, self.protocol, self.from, self.to, self.port
        )
    }
}

/// A wire that is being watched.
pub(super) struct Capture {
    name: String,
    tcpdump: Child,
    said: BufReader<ChildStderr>,
    /// How many packets were not kept.
    reader: JoinHandle<Result<u64>>,
    file: PathBuf,
    watch: Arc<Mutex<Watch>>,
}

impl Capture {
    /// Watches an interface of this namespace.
    pub(super) fn start(
        interface: &str,
        name: &str,
        needles: &[Vec<u8>],
        file: PathBuf,
        keep_bytes_max: u64,
    ) -> Result<Self> {
        let mut tcpdump = Command::new("tcpdump")
            .args(["-i", interface, "-n", "-U", "-w", "-"])
            .args(["-s", &PACKET_BYTES.to_string(), "-B", BUFFER_KIB])
            .args(["-Z", "root"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let packets = tcpdump.stdout.take().context("no packets of tcpdump")?;
        let mut said = BufReader::new(tcpdump.stderr.take().context("no words of tcpdump")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(said.read_line(&mut line)? > 0, "tcpdump does not listen");
        }
        let watch = Arc::new(Mutex::new(Watch::new(needles)));
        let kept = File::create(&file).with_context(|| format!("making {}", file.display()))?;
        let watching = Arc::clone(&watch);
        let builder = std::thread::Builder::new().name("capture".to_owned());
        let reader = builder.spawn(move || {
            let packets = BufReader::with_capacity(1 << 20, packets);
            read(packets, kept, keep_bytes_max, &watching)
        })?;
        Ok(Self {
            name: name.to_owned(),
            tcpdump,
            said,
            reader,
            file,
            watch,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the needle of that number has been seen.
    pub(super) fn has_found(&self, needle: usize) -> bool {
        self.watch.lock().found[needle]
    }

    /// Stops watching: what was seen, and the numbers of the needles found.
    pub(super) fn stop(mut self) -> Result<(Seen, Vec<usize>)> {
        let pid = self.tcpdump.id().to_string();
        // Asked to end, it says what it has lost.
        Command::new("kill").args(["-INT", &pid]).status()?;
        let mut words = String::new();
        self.said.read_to_string(&mut words)?;
        self.tcpdump.wait()?;
        let left_out = match self.reader.join() {
            Ok(read) => read.with_context(|| format!("the capture of the {}", self.name))?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let lost = dropped(&words).with_context(|| format!("tcpdump said only: {words}"))?;
        let watch = self.watch.lock();
        let found = watch.found.iter().enumerate();
        let found = found.filter(|(_, found)| **found).map(|(at, _)| at);
        let crossings = watch.crossings.iter();
        let crossings = crossings.map(|((protocol, from, to, port), bytes)| Crossing {
            protocol: *protocol,
            from: *from,
            to: *to,
            port: *port,
            bytes: *bytes,
        });
        let seen = Seen {
            name: self.name.clone(),
            packets: watch.packets,
            bytes: watch.bytes,
            missed: watch.cut_short + lost,
            file: self.file,
            left_out,
            crossings: crossings.collect(),
        };
        Ok((seen, found.collect()))
    }
}

/// What tcpdump says it has lost.
fn dropped(words: &str) -> Option<u64> {
    let line = words
        .lines()
        .find(|line| line.contains("dropped by kernel"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Reads packets as tcpdump writes them, until it ends. How many were not kept.
fn read(
    packets: impl Read,
    mut kept: File,
    keep_bytes_max: u64,
    watch: &Mutex<Watch>,
) -> Result<u64> {
    let mut packets = Packets::open(packets)?;
    kept.write_all(&packets.header)?;
    let (mut left, mut left_out) = (keep_bytes_max, 0);
    while let Some(packet) = packets.take()? {
        watch.lock().packet(packet.bytes, packet.whole);
        let size = (packet.head.len() + packet.bytes.len()) as u64;
        if size > left {
            left_out += 1;
            continue;
        }
        left -= size;
        kept.write_all(packet.head)?;
        kept.write_all(packet.bytes)?;
    }
    Ok(left_out)
}

struct Watch {
    needles: Vec<Finder<'static>>,
    found: Vec<bool>,
    packets: u64,
    bytes: u64,
    cut_short: u64,
    crossings: BTreeMap<Pair, u64>,
    tails: Tails,
}

impl Watch {
    fn new(needles: &[Vec<u8>]) -> Self {
        let longest = needles.iter().map(Vec::len).max().unwrap_or(1);
        let finders = needles
            .iter()
            .map(|needle| Finder::new(needle).into_owned());
        Self {
            needles: finders.collect(),
            found: vec![false; needles.len()],
            packets: 0,
            bytes: 0,
            cut_short: 0,
            crossings: BTreeMap::new(),
            tails: Tails::new(longest - 1),
        }
    }

    fn packet(&mut self, packet: &[u8], whole: usize) {
        self.packets += 1;
        self.bytes += whole as u64;
        self.cut_short += u64::from(packet.len() < whole);
        // Whatever it is, no byte of it is left out.
        search(&self.needles, &mut self.found, packet);
        let Some(ip) = Ip::of(packet) else {
            return;
        };
        if let Some(pair) = ip.pair() {
            let full = self.crossings.len() >= CROSSINGS_MAX;
            if !full || self.crossings.contains_key(&pair) {
                *self.crossings.entry(pair).or_default() += whole as u64;
            }
        }
        let Self {
            tails,
            needles,
            found,
            ..
        } = self;
        tails.follow(&ip, &mut |joint| search(needles, found, joint));
    }
}

fn search(needles: &[Finder<'static>], found: &mut [bool], bytes: &[u8]) {
    for (found, needle) in found.iter_mut().zip(needles) {
        *found = *found || needle.find(bytes).is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::super::packets::testing::{packet, segment};
    use super::super::packets::{CONTROL_PORT, IGMP, UDP};
    use super::*;

    const NEEDLE: &[u8] = b"CANARY-0123456789";

    fn watched(packets: &[Vec<u8>]) -> Watch {
        let mut watch = Watch::new(&[NEEDLE.to_vec()]);
        for packet in packets {
            watch.packet(packet, packet.len());
        }
        watch
    }

    #[test]
    fn a_text_in_one_packet_is_found() {
        assert!(watched(&[segment(7000, 1, NEEDLE)]).found[0]);
        assert!(!watched(&[segment(7000, 1, &NEEDLE[1..])]).found[0]);
    }

    #[test]
    fn a_text_spread_over_segments_is_found_and_only_where_they_follow() {
        let [one, two] = [&NEEDLE[..5], &NEEDLE[5..]];
        let follows = |sequence| watched(&[segment(7000, 1, one), segment(7000, sequence, two)]);
        assert!(follows(6).found[0]);
        assert!(!follows(7).found[0], "a gap lies between them");
        let bytes: Vec<_> = (0..NEEDLE.len())
            .map(|at| segment(7000, at as u32, &NEEDLE[at..=at]))
            .collect();
        assert!(watched(&bytes).found[0], "byte by byte");
    }

    #[test]
    fn crossings_are_counted_by_pair_and_controls_are_not() {
        let mut datagram = [0; 8 + 20];
        datagram[..2].copy_from_slice(&40_000_u16.to_be_bytes());
        datagram[2..4].copy_from_slice(&CONTROL_PORT.to_be_bytes());
        let data = segment(7000, 1, b"data");
        let report = packet(IGMP, &[0x22, 0, 0, 0]);
        let watch = watched(&[data.clone(), data.clone(), packet(UDP, &datagram), report]);
        let pair = (TCP, [10, 77, 1, 10].into(), [10, 77, 2, 10].into(), 7000);
        assert_eq!(watch.crossings, [(pair, 2 * data.len() as u64)].into());
        assert_eq!(watch.packets, 4);
    }

    #[test]
    fn a_packet_cut_short_counts_as_missed() {
        let whole = segment(7000, 1, NEEDLE);
        let mut watch = watched(&[]);
        watch.packet(&whole[..60], whole.len());
        assert_eq!((watch.cut_short, watch.found[0]), (1, false));
    }

    #[test]
    fn what_tcpdump_lost_is_read_from_its_words() {
        let words =
            "10 packets captured\n12 packets received by filter\n2 packets dropped by kernel\n";
        assert_eq!(dropped(words), Some(2));
        assert_eq!(dropped("tcpdump: permission denied"), None);
    }
}
