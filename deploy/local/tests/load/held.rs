//! Many clients at once: connections that are held, and streams of big objects, in a memory that stays small.
//!
//! Owns the numbers: 1,000 idle and 500 active connections at one gateway, 64 streams at once, under 300 MiB a node.
//! Streams have 32 MiB, and 1 GiB with `REDUIT_FULL`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use local::s3::{Client, Endpoint, Method, Request, StatusCode};
use local::{Local, s3::Credentials};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

use crate::common::memory::bounded;
use crate::common::s3::{access_key, gateway_of};
use crate::common::with_plan;

const BUCKET: &str = "held";
const IDLE: usize = 1_000;
const ACTIVE: usize = 500;
const STREAMS: usize = 64;
/// No storage node takes more, and neither does the gateway before connections.
const NODE_MIB_MAX: u64 = 300;
/// 64 streams fill 48 MiB each at most.
const TRANSFER_BYTES: u64 = 4 << 30;
const GATEWAY_MIB_MAX: u64 = 4_096;
/// How long the idle ones are idle; a gateway keeps a connection for 30 s.
const IDLE_FOR: Duration = Duration::from_secs(15);
/// Bytes of a part.
const PART_BYTES: usize = 32 << 20;
/// A request that is slowed down comes again this often.
const TRIES: u32 = 100;

fn full() -> bool {
    std::env::var_os("REDUIT_FULL").is_some()
}

async fn endpoint(local: &Local) -> Result<Endpoint> {
    let key = access_key(local, "held").await?;
    Ok(Endpoint {
        address: gateway_of(local)?.endpoint,
        region: "ch-zrh".to_owned(),
        credentials: Credentials::new(key.secret.id().to_string(), key.secret.text().as_str()),
    })
}

/// Asks until it is not slowed down; how often it was.
async fn ask(s3: &mut Client, request: &Request) -> Result<(Bytes, u64)> {
    for slowed in 0..TRIES {
        let answer = s3.ask(request).await?;
        let status = answer.status();
        let etag = answer.headers().get("etag").cloned();
        let body = answer.into_body().collect().await?.to_bytes();
        match (status, etag) {
            (StatusCode::OK, Some(etag)) if body.is_empty() => {
                return Ok((Bytes::copy_from_slice(etag.as_bytes()), slowed.into()));
            }
            (StatusCode::OK, _) => return Ok((body, slowed.into())),
            (StatusCode::SERVICE_UNAVAILABLE, _) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => bail!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    }
    bail!("slowed down {TRIES} times")
}

/// The ports of clients that are connected to a gateway, as the kernel knows them.
fn connected(endpoint: &Endpoint) -> Result<BTreeSet<u16>> {
    let port = endpoint.address.rsplit_once(':').context("a port")?.1;
    let port: u16 = port.parse()?;
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let port_of = |field: &str| u16::from_str_radix(field.rsplit_once(':')?.1, 16).ok();
    let clients = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (here, there, state) = (fields.get(1)?, fields.get(2)?, fields.get(3)?);
        let of_it = port_of(here) == Some(port) && *state == "01";
        of_it.then(|| port_of(there)).flatten()
    });
    Ok(clients.collect())
}

/// How many files this process, and what it starts, may have open, as `prlimit` takes it.
fn open_files(limit: &str) -> Result<()> {
    let own = std::process::id().to_string();
    let mut prlimit = std::process::Command::new("prlimit");
    prlimit.args(["--pid", &own, &format!("--nofile={limit}")]);
    ensure!(prlimit.status()?.success(), "prlimit failed");
    Ok(())
}

#[test]
fn a_gateway_holds_a_thousand_idle_and_five_hundred_active_connections() {
    with_plan(&[("ch-zrh", "CH", 3)], 1, async |local| {
        // As services are started: a gateway asks for as many files as it may have.
        let hard = std::process::Command::new("sh")
            .args(["-c", "ulimit -Hn"])
            .output()?;
        let hard = String::from_utf8(hard.stdout)?;
        open_files("1024:")?;
        local.restart(&gateway_of(local)?.name).await?;
        open_files(&format!("{}:", hard.trim()))?;
        let endpoint = endpoint(local).await?;
        let mut first = Client::new(&endpoint, BUCKET)?;
        ask(&mut first, &Request::new(Method::Put, "")).await?;
        let put = Request::new(Method::Put, "one").body("held");
        ask(&mut first, &put).await?;
        drop(first);
        let get = Request::new(Method::Get, "one");
        let before = connected(&endpoint)?;
        let idle = (0..IDLE).map(|_| Client::new(&endpoint, BUCKET));
        let mut idle = each_asks(idle.collect::<Result<_>>()?, &get).await?;
        let held: BTreeSet<_> = connected(&endpoint)?.difference(&before).copied().collect();
        ensure!(held.len() >= IDLE, "{} are connected", held.len());

        let rounds = if full() { 8 } else { 1 };
        for round in 1..=rounds {
            let began = Instant::now();
            let (done, slowed, longest) = active(&endpoint).await?;
            tokio::time::sleep(IDLE_FOR.saturating_sub(began.elapsed())).await;
            let there = connected(&endpoint)?;
            ensure!(held.is_subset(&there), "an idle connection was let go");
            // Each is good for another request, on the very same connection.
            idle = each_asks(idle, &get).await?;
            ensure!(
                held.is_subset(&connected(&endpoint)?),
                "an idle connection did not serve"
            );
            println!(
                "round {round}: {IDLE} idle for {:.0} s; {ACTIVE} active: {done} requests, {slowed} slowed down, \
                 {longest} ms at most",
                began.elapsed().as_secs_f64()
            );
        }
        bounded(local, "1,500 connections", NODE_MIB_MAX)
    });
}

/// Each client asks once, some of them at a time.
async fn each_asks(clients: Vec<Client>, request: &Request) -> Result<Vec<Client>> {
    let (some, mut tasks) = (Arc::new(Semaphore::new(ACTIVE / 10)), JoinSet::new());
    for mut client in clients {
        let (some, request) = (some.clone(), request.clone());
        tasks.spawn(async move {
            let _turn = some.acquire().await?;
            ask(&mut client, &request).await?;
            Ok::<_, anyhow::Error>(client)
        });
    }
    let mut asked = Vec::new();
    while let Some(client) = tasks.join_next().await {
        asked.push(client??);
    }
    Ok(asked)
}

/// 500 connections that put and get without a pause, all of them at once: requests, how often they were slowed down,
/// and the longest.
async fn active(endpoint: &Endpoint) -> Result<(u64, u64, u64)> {
    let seconds = if full() { 12 } else { 6 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let (done, slowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let longest = Arc::new(AtomicU64::new(0));
    let (all, mut tasks) = (Arc::new(Barrier::new(ACTIVE)), JoinSet::new());
    for number in 0..ACTIVE {
        let mut client = Client::new(endpoint, BUCKET)?;
        let (done, slowed, longest) = (done.clone(), slowed.clone(), longest.clone());
        let all = all.clone();
        tasks.spawn(async move {
            let (key, body) = (format!("active/{number}"), Bytes::from(vec![7; 1_000]));
            let put = Request::new(Method::Put, &*key).body(body.clone());
            let get = Request::new(Method::Get, &*key);
            ask(&mut client, &put).await?;
            all.wait().await;
            while Instant::now() < end {
                for request in [&put, &get] {
                    let began = Instant::now();
                    let (said, times) = ask(&mut client, request).await?;
                    ensure!(
                        !std::ptr::eq(request, &get) || said == body,
                        "another object"
                    );
                    let took = u64::try_from(began.elapsed().as_millis())?;
                    longest.fetch_max(took, Ordering::Relaxed);
                    done.fetch_add(1, Ordering::Relaxed);
                    slowed.fetch_add(times, Ordering::Relaxed);
                }
            }
            Ok(())
        });
    }
    while let Some(one) = tasks.join_next().await {
        one??;
    }
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    ensure!(read(&done) > ACTIVE as u64, "hardly anybody was served");
    Ok((read(&done), read(&slowed), read(&longest)))
}

#[test]
fn nodes_stay_small_with_64_streams_at_once() {
    with_plan(&[("ch-zrh", "CH", 3)], 1, async |local| {
        let gateway = gateway_of(local)?;
        let config = std::fs::read_to_string(&gateway.config)?;
        let config = format!("transfer_bytes_max = {TRANSFER_BYTES}\n{config}");
        std::fs::write(&gateway.config, config)?;
        local.restart(&gateway.name).await?;
        let endpoint = endpoint(local).await?;
        let mut client = Client::new(&endpoint, BUCKET)?;
        ask(&mut client, &Request::new(Method::Put, "")).await?;

        let (parts, puts) = match full() {
            true => (32, PART_BYTES),
            false => (1, PART_BYTES / 8),
        };
        let part = pattern(PART_BYTES);
        let began = Instant::now();
        let put = part.slice(..puts);
        streams(|number, all| put_one(endpoint.clone(), number, put.clone(), all)).await?;
        report("put", STREAMS * puts, began);
        bounded(local, "64 puts at once", GATEWAY_MIB_MAX)?;

        big(&mut client, &part, parts).await?;
        let began = Instant::now();
        let whole = Arc::new((part, parts));
        streams(|_, all| read_one(endpoint.clone(), whole.clone(), all)).await?;
        report("read", STREAMS * parts * PART_BYTES, began);
        for one in crate::common::memory::taken(local)? {
            let (name, most) = (&one.name, one.most_mib);
            ensure!(
                one.kind != local::Kind::Node || most < NODE_MIB_MAX,
                "{name} took {most} MiB"
            );
        }
        bounded(local, "64 reads at once", GATEWAY_MIB_MAX)
    });
}

fn report(what: &str, bytes: usize, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let megabytes = bytes as f64 / 1e6;
    println!(
        "{STREAMS} streams {what}: {megabytes:.0} MB in {seconds:.1} s, {:.0} MB/s",
        megabytes / seconds
    );
}

/// Bytes that differ from one place to the next.
fn pattern(bytes: usize) -> Bytes {
    let mut pattern = BytesMut::with_capacity(bytes + 8);
    let mut word = 0x9E37_79B9_7F4A_7C15_u64;
    while pattern.len() < bytes {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pattern.extend_from_slice(&word.to_le_bytes());
    }
    pattern.truncate(bytes);
    pattern.freeze()
}

/// One big object of that part, so many times.
async fn big(client: &mut Client, part: &Bytes, parts: usize) -> Result<()> {
    let begin = Request::new(Method::Post, "big").query("uploads", "");
    let (begun, _) = ask(client, &begin).await?;
    let begun = String::from_utf8_lossy(&begun).into_owned();
    let id = begun.split_once("<UploadId>").context("an upload id")?.1;
    let id = id.split_once('<').context("an upload id")?.0;
    let mut named = String::new();
    for number in 1..=parts {
        let put = Request::new(Method::Put, "big")
            .query("partNumber", number.to_string())
            .query("uploadId", id)
            .body(part.clone());
        let (etag, _) = ask(client, &put).await?;
        let etag = String::from_utf8_lossy(&etag);
        named += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let complete = Request::new(Method::Post, "big")
        .query("uploadId", id)
        .body(format!(
            "<CompleteMultipartUpload>{named}</CompleteMultipartUpload>"
        ));
    let (done, _) = ask(client, &complete).await?;
    let done = String::from_utf8_lossy(&done);
    ensure!(done.contains("<ETag>"), "not completed: {done}");
    Ok(())
}

/// 64 of them at once.
async fn streams<F>(mut one: impl FnMut(usize, Arc<Barrier>) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (all, mut tasks) = (Arc::new(Barrier::new(STREAMS)), JoinSet::new());
    for number in 0..STREAMS {
        tasks.spawn(one(number, all.clone()));
    }
    while let Some(one) = tasks.join_next().await {
        one??;
    }
    Ok(())
}

async fn put_one(endpoint: Endpoint, number: usize, body: Bytes, all: Arc<Barrier>) -> Result<()> {
    let mut client = Client::new(&endpoint, BUCKET)?;
    all.wait().await;
    let put = Request::new(Method::Put, format!("put/{number}")).body(body);
    ask(&mut client, &put).await.map(drop)
}

/// Reads the big object, and goes on from its first bytes once everybody has theirs.
async fn read_one(endpoint: Endpoint, whole: Arc<(Bytes, usize)>, all: Arc<Barrier>) -> Result<()> {
    let mut client = Client::new(&endpoint, BUCKET)?;
    let mut answer = client.ask(&Request::new(Method::Get, "big")).await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    let (part, parts) = &*whole;
    let (mut at, mut first) = (0, true);
    while let Some(frame) = answer.frame().await {
        let Ok(mut bytes) = frame?.into_data() else {
            continue;
        };
        while !bytes.is_empty() {
            let offset = at % part.len();
            let piece = bytes.split_to(bytes.len().min(part.len() - offset));
            ensure!(
                piece == part[offset..offset + piece.len()],
                "a wrong byte after {at}"
            );
            at += piece.len();
        }
        if std::mem::take(&mut first) {
            all.wait().await;
        }
    }
    ensure!(at == part.len() * parts, "{at} bytes of the big object");
    Ok(())
}
