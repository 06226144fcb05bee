//! The network without daemons: what a direct probe between namespaces sees before, during and after each fault.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jepsen::net::{Net, Shape, link_of, namespace_file, within};
use proto::ids::RegionId;

use super::Test;

pub(super) const TESTS: &[Test] = &[
    ("wire_everybody_hears_everybody", || run(everybody)),
    ("wire_a_cut_stops_the_named_pairs_and_no_other", || run(cut)),
    ("wire_loss_loses_about_its_share", || run(loss)),
    ("wire_a_reset_reaches_both_ends", || run(reset)),
    ("wire_a_delay_delays_both_ways", || run(delay)),
    ("wire_reordered_packets_overtake_each_other", || {
        run(reorder)
    }),
    ("wire_a_rate_limits", || run(rate)),
    ("wire_a_connection_survives_a_detour", || run(survives)),
    ("wire_a_cut_link_leaves_each_region_alone", || run(link)),
];

const NAMES: [&str; 5] = ["aa/n1", "aa/n2", "aa/n3", "bb/n1", "bb/n2"];
const PORT: u16 = 7_000;
/// How long a packet that is not stopped may take.
const ARRIVES_MAX: Duration = Duration::from_secs(2);
/// How long none is waited for that is to be stopped.
const STOPPED_FOR: Duration = Duration::from_millis(150);

fn build() -> Result<Net> {
    let regions: Vec<RegionId> = vec!["aa".parse()?, "bb".parse()?];
    let net = Net::build(&regions.iter().collect::<Vec<_>>())?;
    for name in NAMES {
        net.attach(name)?;
    }
    Ok(net)
}

fn run(test: fn(&Net) -> Result<()>) {
    let net = build().expect("the network is built");
    if let Err(error) = test(&net) {
        panic!("{error:#}");
    }
}

fn address(net: &Net, name: &str) -> Result<SocketAddr> {
    Ok((net.address(name)?, PORT).into())
}

/// Whether a datagram from one to the other arrives.
fn hears(net: &Net, from: &str, to: &str, patience: Duration) -> Result<bool> {
    let to_address = address(net, to)?;
    let listener = within(to, || Ok(UdpSocket::bind(to_address)?))?;
    listener.set_read_timeout(Some(patience))?;
    within(from, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        Ok(socket.send_to(b"hello", to_address)?)
    })?;
    Ok(listener.recv(&mut [0; 16]).is_ok())
}

/// Every ordered pair that does not hear, the named ones being waited for only briefly.
fn deaf(net: &Net, expected: &BTreeSet<(&str, &str)>) -> Result<BTreeSet<(String, String)>> {
    let mut deaf = BTreeSet::new();
    for from in NAMES {
        for to in NAMES.iter().filter(|to| **to != from) {
            let patience = match expected.contains(&(from, *to)) {
                true => STOPPED_FOR,
                false => ARRIVES_MAX,
            };
            if !hears(net, from, to, patience)? {
                deaf.insert((from.to_owned(), (*to).to_owned()));
            }
        }
    }
    Ok(deaf)
}

fn expect_deaf(net: &Net, pairs: &[(&str, &str)]) -> Result<()> {
    let expected: BTreeSet<_> = pairs.iter().copied().collect();
    let owned = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
    let found = deaf(net, &expected)?;
    let expected: BTreeSet<_> = expected.iter().map(owned).collect();
    ensure!(found == expected, "deaf are {found:?}, to be {expected:?}");
    Ok(())
}

fn everybody(net: &Net) -> Result<()> {
    expect_deaf(net, &[])?;
    // This process, where the clients are, reaches everybody too.
    for name in NAMES {
        let listener = within(name, || Ok(UdpSocket::bind(address(net, name)?)?))?;
        listener.set_read_timeout(Some(ARRIVES_MAX))?;
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"hi", address(net, name)?)?;
        listener
            .recv(&mut [0; 16])
            .with_context(|| format!("{name} from here"))?;
    }
    ping("aa/n1", net.address("bb/n1")?)
}

fn ping(from: &str, to: Ipv4Addr) -> Result<()> {
    let net = format!("--net={}", namespace_file(from).display());
    let mut ping = Command::new("nsenter");
    ping.args([&net, "ping", "-c", "1", "-W", "2", &to.to_string()]);
    let out = ping.output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );
    Ok(())
}

fn cut(net: &Net) -> Result<()> {
    let pairs = [("aa/n1", "aa/n2"), ("aa/n3", "aa/n1"), ("aa/n2", "bb/n1")];
    net.cut(&pairs.map(|(from, to)| (from.to_owned(), to.to_owned())))?;
    expect_deaf(net, &pairs)?;
    let stopped = net.unfilter()?;
    ensure!(stopped.cut >= 3, "counted {stopped:?}");
    expect_deaf(net, &[])
}

/// How many of `count` numbered datagrams arrive, in which order.
fn volley(net: &Net, from: &str, to: &str, count: u32) -> Result<Vec<u32>> {
    let to_address = address(net, to)?;
    let listener = within(to, || Ok(UdpSocket::bind(to_address)?))?;
    listener.set_read_timeout(Some(Duration::from_millis(500)))?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            within(from, || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                for number in 0..count {
                    socket.send_to(&number.to_be_bytes(), to_address)?;
                    // The receiver's buffer is not what is tested.
                    if number % 32 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Ok(())
            })
        });
        let mut order = Vec::new();
        let mut number = [0; 4];
        while listener.recv(&mut number).is_ok() {
            order.push(u32::from_be_bytes(number));
        }
        sender.join().expect("the sender does not panic")?;
        Ok(order)
    })
}

fn loss(net: &Net) -> Result<()> {
    const SENT: u32 = 2_000;
    ensure!(
        volley(net, "aa/n1", "aa/n2", SENT)?.len() == 2_000,
        "lost before"
    );
    net.filter("aa/n2", |filter| filter.loss_percent = 20)?;
    let arrived = volley(net, "aa/n1", "aa/n2", SENT)?.len();
    // Six standard deviations on either side.
    ensure!(
        (1_490..=1_710).contains(&arrived),
        "{arrived} of {SENT} arrived at 20 % loss"
    );
    ensure!(
        volley(net, "aa/n2", "aa/n3", 500)?.len() == 500,
        "others lose too"
    );
    let lost = net.unfilter()?.lost;
    ensure!(
        lost as usize == SENT as usize - arrived,
        "{lost} counted, {arrived} arrived"
    );
    ensure!(
        volley(net, "aa/n1", "aa/n2", SENT)?.len() == 2_000,
        "lost after"
    );
    Ok(())
}

/// Both ends of a connection.
fn connect(net: &Net, from: &str, to: &str) -> Result<(TcpStream, TcpStream)> {
    let to_address = address(net, to)?;
    let listener = within(to, || Ok(TcpListener::bind(to_address)?))?;
    let near = within(from, || {
        Ok(TcpStream::connect_timeout(&to_address, ARRIVES_MAX)?)
    })?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_read_timeout(Some(Duration::from_secs(20)))?;
        end.set_nodelay(true)?;
    }
    Ok((near, far))
}

fn talks(near: &mut TcpStream, far: &mut TcpStream) -> std::io::Result<()> {
    let mut heard = [0; 4];
    near.write_all(b"ping")?;
    far.read_exact(&mut heard)?;
    far.write_all(b"pong")?;
    near.read_exact(&mut heard)
}

fn reset(net: &Net) -> Result<()> {
    let (mut near, mut far) = connect(net, "aa/n1", "aa/n2")?;
    let (mut other_near, mut other_far) = connect(net, "aa/n1", "aa/n3")?;
    talks(&mut near, &mut far)?;
    net.filter("aa/n2", |filter| filter.reset = true)?;
    // The answer to a first segment is a reset, to the sender at once and to the receiver at its own first segment.
    near.write_all(b"x")?;
    let at_near = near.read(&mut [0; 1]);
    ensure!(is_reset(&at_near), "the near end: {at_near:?}");
    let at_far = far.write_all(b"x").and_then(|()| far.read(&mut [0; 1]));
    ensure!(is_reset(&at_far), "the far end: {at_far:?}");
    talks(&mut other_near, &mut other_far).context("a connection of others")?;
    let stopped = net.unfilter()?;
    ensure!(stopped.reset >= 2, "counted {stopped:?}");
    let (mut near, mut far) = connect(net, "aa/n1", "aa/n2")?;
    Ok(talks(&mut near, &mut far)?)
}

fn is_reset(outcome: &std::io::Result<usize>) -> bool {
    let reset = std::io::ErrorKind::ConnectionReset;
    outcome.as_ref().is_err_and(|error| error.kind() == reset)
}

/// The shortest of some round trips.
fn round_trip(net: &Net, from: &str, to: &str) -> Result<Duration> {
    let (mut near, mut far) = connect(net, from, to)?;
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        talks(&mut near, &mut far)?;
        shortest = shortest.min(began.elapsed());
    }
    Ok(shortest)
}

fn delay(net: &Net) -> Result<()> {
    const DELAY: Duration = Duration::from_millis(60);
    let before = round_trip(net, "aa/n1", "aa/n2")?;
    ensure!(before < DELAY / 2, "slow before: {before:?}");
    let shape = Shape {
        delay: DELAY,
        ..Shape::default()
    };
    net.shape("aa/n2", shape, 1)?;
    let during = round_trip(net, "aa/n1", "aa/n2")?;
    ensure!(
        during >= 2 * DELAY && during < 3 * DELAY,
        "a round trip takes {during:?} with {DELAY:?} each way"
    );
    let others = round_trip(net, "aa/n1", "aa/n3")?;
    ensure!(others < DELAY / 2, "others are slow too: {others:?}");
    let passed = net.unshape_all()?;
    ensure!(passed.frames > 10, "{passed:?}");
    let after = round_trip(net, "aa/n1", "aa/n2")?;
    ensure!(after < DELAY / 2, "slow after: {after:?}");
    Ok(())
}

/// How many came after one that was sent later.
fn overtaken(order: &[u32]) -> usize {
    let mut newest = 0;
    let late = order.iter().filter(|at| {
        newest = newest.max(**at);
        **at < newest
    });
    late.count()
}

fn reorder(net: &Net) -> Result<()> {
    let before = volley(net, "aa/n1", "aa/n2", 1_000)?;
    ensure!(overtaken(&before) == 0 && before.len() == 1_000, "before");
    let shape = Shape {
        reorder_percent: 20,
        reorder_by: Duration::from_millis(5),
        ..Shape::default()
    };
    net.shape("aa/n2", shape, 1)?;
    let during = volley(net, "aa/n1", "aa/n2", 1_000)?;
    ensure!(during.len() == 1_000, "{} arrived", during.len());
    ensure!(overtaken(&during) > 20, "{} overtaken", overtaken(&during));
    let passed = net.unshape_all()?;
    ensure!(
        (120..=280).contains(&passed.reordered),
        "{passed:?} at 20 %"
    );
    ensure!(
        overtaken(&volley(net, "aa/n1", "aa/n2", 1_000)?) == 0,
        "after"
    );
    Ok(())
}

/// How long a megabyte takes.
fn megabyte(net: &Net) -> Result<Duration> {
    let (mut near, mut far) = connect(net, "aa/n1", "aa/n2")?;
    let (sent, received) = sync_channel::<()>(1);
    let began = Instant::now();
    let writer = std::thread::spawn(move || {
        let outcome = near.write_all(&vec![7; 1 << 20]);
        // The connection is open until the other end has read.
        let _ = received.recv();
        outcome
    });
    far.read_exact(&mut vec![0; 1 << 20])?;
    let took = began.elapsed();
    drop(sent);
    writer.join().expect("the writer does not panic")?;
    Ok(took)
}

fn rate(net: &Net) -> Result<()> {
    let before = megabyte(net)?;
    ensure!(before < Duration::from_secs(1), "slow before: {before:?}");
    let shape = Shape {
        bytes_per_s: 512 << 10,
        ..Shape::default()
    };
    net.shape("aa/n2", shape, 1)?;
    let during = megabyte(net)?;
    let expected = Duration::from_secs(2);
    ensure!(
        during > expected * 9 / 10 && during < expected * 4,
        "1 MiB took {during:?} at 512 KiB/s"
    );
    net.unshape_all()?;
    let after = megabyte(net)?;
    ensure!(after < Duration::from_secs(1), "slow after: {after:?}");
    Ok(())
}

fn survives(net: &Net) -> Result<()> {
    let (mut near, mut far) = connect(net, "aa/n1", "bb/n1")?;
    for name in ["aa/n1", "bb/n1", &link_of("aa")] {
        talks(&mut near, &mut far)?;
        net.shape(name, Shape::default(), 1)?;
        talks(&mut near, &mut far).with_context(|| format!("over a detour at {name}"))?;
        ensure!(
            net.unshape(name)?.frames > 0,
            "nothing took the detour at {name}"
        );
        talks(&mut near, &mut far).with_context(|| format!("after the detour at {name}"))?;
    }
    Ok(())
}

fn link(net: &Net) -> Result<()> {
    net.link_region("bb", false)?;
    let across = |a: &str, b: &str| a[..2] != b[..2];
    let mut pairs = Vec::new();
    for from in NAMES {
        pairs.extend(
            NAMES
                .iter()
                .filter(|to| across(from, to))
                .map(|to| (from, *to)),
        );
    }
    let during = expect_deaf(net, &pairs);
    net.link_region("bb", true)?;
    during?;
    expect_deaf(net, &[])
}
