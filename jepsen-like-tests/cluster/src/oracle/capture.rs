//! One wire, watched: every packet counted and searched as it passes.
//!
//! Owns tcpdump and the reading of what it writes. A text that is spread over two segments of a connection is found
//! too: the end of one is searched with the beginning of the next. Refuses to grow: of packets a bounded part is
//! kept, of connections a bounded number is remembered.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem::Finder;
use parking_lot::Mutex;

/// Where controls are sent: "discard".
pub(super) const CONTROL_PORT: u16 = 9;
/// What tcpdump holds until it is read, in KiB: one that is full loses packets.
const BUFFER_KIB: &str = "65536";
/// The longest packet, whole.
const PACKET_BYTES: usize = 262_144;
/// Connections whose last bytes are remembered; all are forgotten when there are more.
const FLOWS_MAX: usize = 4_096;
/// Pairs of a protocol and two addresses that are counted apart.
const CROSSINGS_MAX: usize = 1_024;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;

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
    pub(super) fn is_by(&self, ports: &[u16]) -> bool {
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
    reader: JoinHandle<Result<()>>,
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
        match self.reader.join() {
            Ok(read) => read.with_context(|| format!("the capture of the {}", self.name))?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
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

/// Reads packets as tcpdump writes them, until it ends.
fn read(
    mut packets: impl Read,
    mut kept: File,
    keep_bytes_max: u64,
    watch: &Mutex<Watch>,
) -> Result<()> {
    const MAGIC: [u8; 4] = 0xA1B2_C3D4_u32.to_le_bytes();
    let mut header = [0; 24];
    packets
        .read_exact(&mut header)
        .context("no capture at all")?;
    ensure!(header[..4] == MAGIC, "not a capture as expected here");
    kept.write_all(&header)?;
    let mut left = keep_bytes_max;
    let (mut head, mut packet) = ([0; 16], Vec::new());
    loop {
        match packets.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (held, whole) = (word(8) as usize, word(12) as usize);
        if held > PACKET_BYTES {
            bail!("a packet of {held} bytes");
        }
        packet.resize(held, 0);
        packets.read_exact(&mut packet)?;
        watch.lock().packet(&packet, whole);
        let size = (head.len() + held) as u64;
        if size <= left {
            left -= size;
            kept.write_all(&head)?;
            kept.write_all(&packet)?;
        }
    }
}

type Pair = (u8, Ipv4Addr, Ipv4Addr, u16);
type Flow = (Ipv4Addr, u16, Ipv4Addr, u16);

struct Watch {
    needles: Vec<Finder<'static>>,
    found: Vec<bool>,
    overlap: usize,
    packets: u64,
    bytes: u64,
    cut_short: u64,
    crossings: BTreeMap<Pair, u64>,
    /// The last bytes of each direction of a connection, and the number of the byte after them.
    tails: HashMap<Flow, (u32, Vec<u8>)>,
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
            overlap: longest - 1,
            packets: 0,
            bytes: 0,
            cut_short: 0,
            crossings: BTreeMap::new(),
            tails: HashMap::new(),
        }
    }

    fn packet(&mut self, packet: &[u8], whole: usize) {
        self.packets += 1;
        self.bytes += whole as u64;
        self.cut_short += u64::from(packet.len() < whole);
        // Whatever it is, no byte of it is left out.
        self.search(packet);
        let Some(ip) = Ip::of(packet) else {
            return;
        };
        if let Some(pair) = ip.pair() {
            let full = self.crossings.len() >= CROSSINGS_MAX;
            if !full || self.crossings.contains_key(&pair) {
                *self.crossings.entry(pair).or_default() += whole as u64;
            }
        }
        if let Some((flow, sequence, payload)) = ip.segment() {
            self.segment(flow, sequence, payload);
        }
    }

    fn segment(&mut self, flow: Flow, sequence: u32, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        if self.tails.len() >= FLOWS_MAX && !self.tails.contains_key(&flow) {
            self.tails.clear();
        }
        let (next, mut tail) = self.tails.remove(&flow).unwrap_or_default();
        if next != sequence {
            tail.clear();
        }
        let head = payload.len().min(self.overlap);
        tail.extend_from_slice(&payload[..head]);
        self.search(&tail);
        tail.extend_from_slice(&payload[head..]);
        tail.drain(..tail.len().saturating_sub(self.overlap));
        let next = sequence.wrapping_add(payload.len() as u32);
        self.tails.insert(flow, (next, tail));
    }

    fn search(&mut self, bytes: &[u8]) {
        for (found, needle) in self.found.iter_mut().zip(&self.needles) {
            *found = *found || needle.find(bytes).is_some();
        }
    }
}

/// A packet of IPv4.
struct Ip<'a> {
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
    body: &'a [u8],
}

impl<'a> Ip<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        if half(packet, 12)? != IPV4 {
            return None;
        }
        let ip = packet.get(ETHERNET..)?;
        let header = usize::from(ip.first()? & 0x0F) * 4;
        // Zero where the kernel hands a segment on that no card has cut yet.
        let total = match usize::from(half(ip, 2)?) {
            0 => ip.len(),
            total => total.min(ip.len()),
        };
        let address = |at: usize| -> Option<Ipv4Addr> {
            let four: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
            Some(four.into())
        };
        Some(Self {
            protocol: *ip.get(9)?,
            from: address(12)?,
            to: address(16)?,
            body: ip.get(header..total)?,
        })
    }

    /// Between whom it counts; nothing for a control and what answers it.
    fn pair(&self) -> Option<Pair> {
        let port = match self.protocol {
            TCP | UDP => half(self.body, 0)?.min(half(self.body, 2)?),
            _ => 0,
        };
        let control = match self.protocol {
            UDP => port == CONTROL_PORT,
            // "Unreachable", about a datagram it carries the head of.
            ICMP => {
                let about = self.body.get(8..)?;
                self.body[0] == 3 && *about.get(9)? == UDP && half(about, 22)? == CONTROL_PORT
            }
            // The kernel's own reports of the groups it listens to. They are searched like everything else.
            IGMP => true,
            _ => false,
        };
        (!control).then_some((self.protocol, self.from, self.to, port))
    }

    fn segment(&self) -> Option<(Flow, u32, &'a [u8])> {
        if self.protocol != TCP {
            return None;
        }
        let body = self.body;
        let header = usize::from(body.get(12)? >> 4) * 4;
        let sequence: [u8; 4] = body.get(4..8)?.try_into().ok()?;
        let flow = (self.from, half(body, 0)?, self.to, half(body, 2)?);
        Some((flow, u32::from_be_bytes(sequence), body.get(header..)?))
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let two: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(two))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDLE: &[u8] = b"CANARY-0123456789";

    fn packet(protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; ETHERNET];
        packet[12..14].copy_from_slice(&IPV4.to_be_bytes());
        let total = (20 + body.len()) as u16;
        packet.extend_from_slice(&[0x45, 0]);
        packet.extend_from_slice(&total.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0]);
        packet.extend_from_slice(&[10, 77, 1, 10, 10, 77, 2, 10]);
        packet.extend_from_slice(body);
        packet
    }

    fn segment(port: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&40_000_u16.to_be_bytes());
        body.extend_from_slice(&port.to_be_bytes());
        body.extend_from_slice(&sequence.to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(payload);
        packet(TCP, &body)
    }

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
