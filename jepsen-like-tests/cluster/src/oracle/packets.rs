//! Packets as tcpdump writes them, and which connections they are of.
//!
//! Owns the reading of a capture, the headers of IPv4, and the joints: bytes spread over two segments of a connection.
//! Refuses a packet that is longer than any, and to remember more than a bounded number of connections.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};

/// Where controls are sent: "discard".
pub(super) const CONTROL_PORT: u16 = 9;
/// The longest packet, whole.
pub(super) const PACKET_BYTES: usize = 262_144;
/// Connections whose last bytes are remembered; all are forgotten when there are more.
const FLOWS_MAX: usize = 4_096;

const MAGIC: [u8; 4] = 0xA1B2_C3D4_u32.to_le_bytes();
const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const ICMP: u8 = 1;
pub(super) const IGMP: u8 = 2;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// A protocol, from whom, to whom, and the lower of both ports.
pub(super) type Pair = (u8, Ipv4Addr, Ipv4Addr, u16);
/// One direction of a connection.
pub(super) type Flow = (Ipv4Addr, u16, Ipv4Addr, u16);

/// A capture that is being read.
pub(super) struct Packets<R> {
    from: R,
    /// What a capture begins with.
    pub(super) header: [u8; 24],
    head: [u8; 16],
    bytes: Vec<u8>,
}

/// One packet of it.
pub(super) struct Packet<'a> {
    /// What stands before it in a capture.
    pub(super) head: &'a [u8; 16],
    /// As much of it as was captured.
    pub(super) bytes: &'a [u8],
    /// How long it was.
    pub(super) whole: usize,
}

impl<R: Read> Packets<R> {
    pub(super) fn open(mut from: R) -> Result<Self> {
        let mut header = [0; 24];
        from.read_exact(&mut header).context("no capture at all")?;
        ensure!(header[..4] == MAGIC, "not a capture as expected here");
        Ok(Self {
            from,
            header,
            head: [0; 16],
            bytes: Vec::new(),
        })
    }

    /// The next one; nothing at the end.
    pub(super) fn take(&mut self) -> Result<Option<Packet<'_>>> {
        match self.from.read_exact(&mut self.head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let head = &self.head;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (held, whole) = (word(8) as usize, word(12) as usize);
        ensure!(held <= PACKET_BYTES, "a packet of {held} bytes");
        self.bytes.resize(held, 0);
        self.from.read_exact(&mut self.bytes)?;
        Ok(Some(Packet {
            head: &self.head,
            bytes: &self.bytes,
            whole,
        }))
    }
}

/// The ends of what connections carried so far.
pub(super) struct Tails {
    overlap: usize,
    /// The last bytes of each direction of a connection, and the number of the byte after them.
    of: HashMap<Flow, (u32, Vec<u8>)>,
}

impl Tails {
    /// Joints have `overlap` bytes of each side: one less than what is looked for.
    pub(super) fn new(overlap: usize) -> Self {
        Self {
            overlap,
            of: HashMap::new(),
        }
    }

    /// Takes the next segment, and has `search` look at the bytes around where it follows on the one before.
    pub(super) fn follow(&mut self, packet: &Ip<'_>, search: &mut dyn FnMut(&[u8])) {
        let Some((flow, sequence, payload)) = packet.segment() else {
            return;
        };
        if payload.is_empty() {
            return;
        }
        if self.of.len() >= FLOWS_MAX && !self.of.contains_key(&flow) {
            self.of.clear();
        }
        let (next, mut tail) = self.of.remove(&flow).unwrap_or_default();
        if next != sequence {
            tail.clear();
        }
        let head = payload.len().min(self.overlap);
        tail.extend_from_slice(&payload[..head]);
        search(&tail);
        tail.extend_from_slice(&payload[head..]);
        tail.drain(..tail.len().saturating_sub(self.overlap));
        let next = sequence.wrapping_add(payload.len() as u32);
        self.of.insert(flow, (next, tail));
    }
}

/// A packet of IPv4.
pub(super) struct Ip<'a> {
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
    body: &'a [u8],
}

impl<'a> Ip<'a> {
    pub(super) fn of(packet: &'a [u8]) -> Option<Self> {
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
    pub(super) fn pair(&self) -> Option<Pair> {
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

    /// The bytes that a connection carries in it.
    pub(super) fn segment(&self) -> Option<(Flow, u32, &'a [u8])> {
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
pub(super) mod testing {
    use super::*;

    pub(crate) fn packet(protocol: u8, body: &[u8]) -> Vec<u8> {
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

    /// From port 40,000.
    pub(crate) fn segment(port: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&40_000_u16.to_be_bytes());
        body.extend_from_slice(&port.to_be_bytes());
        body.extend_from_slice(&sequence.to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(payload);
        packet(TCP, &body)
    }

    /// A capture of `packets`, each of them whole.
    pub(crate) fn capture(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[0; 20][..]].concat();
        for packet in packets {
            let length = (packet.len() as u32).to_le_bytes();
            bytes.extend_from_slice(&[[0; 4], [0; 4], length, length].concat());
            bytes.extend_from_slice(packet);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{capture, segment};
    use super::*;

    #[test]
    fn packets_are_read_one_after_the_other_and_an_end_within_one_is_an_error() {
        let (one, two) = (segment(7000, 1, b"one"), segment(7000, 4, b"two"));
        let bytes = capture(&[one.clone(), two.clone()]);
        let mut packets = Packets::open(&bytes[..]).expect("a capture");
        for wanted in [&one, &two] {
            let packet = packets.take().expect("readable").expect("one more");
            assert_eq!((packet.bytes, packet.whole), (&wanted[..], wanted.len()));
        }
        assert!(packets.take().expect("readable").is_none());
        let mut cut = Packets::open(&bytes[..bytes.len() - 1]).expect("a capture");
        assert!(cut.take().is_ok());
        assert!(cut.take().is_err());
        assert!(Packets::open(&bytes[1..]).is_err());
    }
}
