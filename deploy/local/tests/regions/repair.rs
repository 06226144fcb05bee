//! Damage to a node's files while it serves, and a member beyond repair that is replaced: regions of real processes.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::common::damage::{Damage, Kind};
use crate::common::reduit::Reduit;
use crate::common::{dataset, find, key, region_as, with_region};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use client::ids::{NodeId, ObjectKey};
use client::{Dataset, PutOptions, Region};
use local::Local;
use local::files::CLIENTS;
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use proto::v1::shard_client::ShardClient;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Whose files are damaged, and its member id.
const VICTIM: (&str, u64) = ("ch-zrh/n1", 1);
/// A node whose files nobody touches.
const WHOLE: NodeId = NodeId(2);
const SEED: u64 = 20_261_127;
const DAMAGES: usize = 200;
/// Lives of the victim before: each begins a segment file of its own.
const LIVES: u64 = 5;
const OBJECTS_A_LIFE: u64 = 100;
const READERS: u64 = 3;
const WRITERS: u64 = 2;
/// Reads between two damages, so that load and damage mix.
const DAMAGE_EVERY: u64 = 10;
/// Reads between two puts of one writer: the files are read whole for every damage.
const WRITE_EVERY: u64 = 30;
/// One object in so many has several blocks.
const LONG_EVERY: u64 = 125;
const LONG_BYTES: u64 = (8 << 20) + 300_000;
/// In a segment of the Raft log, behind its header and far before what was written last.
const LOG_AT: u64 = 36 << 10;

/// What an object holds: sizes over what rides in an entry, so that all of it goes in blocks.
fn body(number: u64) -> Vec<u8> {
    let bytes = match number % LONG_EVERY {
        0 => LONG_BYTES,
        _ => 20_000 + number * 7_919 % 100_000,
    };
    let byte = |at: u64| (number * 31 + at % 241 + at / 4_096) as u8;
    (0..bytes).map(byte).collect()
}

fn name(number: u64) -> ObjectKey {
    key(&format!("{number:08}"))
}

/// Numbers of the objects whose put was acknowledged.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u64>>>);

impl Written {
    async fn put(&self, dataset: &Dataset, number: u64) -> Result<()> {
        let options = PutOptions::default();
        dataset.put(&name(number), body(number), &options).await?;
        self.numbers(|numbers| numbers.push(number));
        Ok(())
    }

    fn numbers<T>(&self, with: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all(&self) -> Vec<u64> {
        self.numbers(|numbers| numbers.clone())
    }
}

/// Puts and gets that go on until they are ended. A wrong byte or an error ends them all.
struct Load {
    stop: Arc<AtomicBool>,
    /// How many there were. Readers alone hold its other end: it closes with the last of them.
    reads: watch::Receiver<u64>,
    tasks: JoinSet<Result<u64>>,
}

/// Waits for so many reads more; an error where nobody reads any more.
async fn passed(reads: &mut watch::Receiver<u64>, more: u64) -> Result<()> {
    let end = *reads.borrow() + more;
    reads.wait_for(|reads| *reads >= end).await?;
    Ok(())
}

impl Load {
    fn start(dataset: &Dataset, written: &Written) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (read, reads_seen) = watch::channel(0);
        let read = Arc::new(read);
        let mut tasks = JoinSet::new();
        for reader in 0..READERS {
            let (dataset, written, stop) = (dataset.clone(), written.clone(), stop.clone());
            let read = read.clone();
            tasks.spawn(async move {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Strides that differ, through everything there is by now.
                    let turn = (reads * (2 * reader + 7) + reader * 31) as usize;
                    let number = written.numbers(|numbers| numbers[turn % numbers.len()]);
                    let got = dataset.get_bytes(&name(number)).await;
                    let got = got.with_context(|| format!("reading object {number}"))?;
                    ensure!(got[..] == body(number), "object {number} has a wrong byte");
                    reads += 1;
                    read.send_modify(|all| *all += 1);
                }
                Ok(reads)
            });
        }
        for writer in 1..=WRITERS {
            let (dataset, written, stop) = (dataset.clone(), written.clone(), stop.clone());
            let mut reads = reads_seen.clone();
            tasks.spawn(async move {
                let mut writes = 0;
                while !stop.load(Ordering::Relaxed) {
                    // No long ones: they would fill the file that is cut and removed.
                    let number = writer * 10_000_000 + writes * LONG_EVERY + 1;
                    written.put(&dataset, number).await?;
                    writes += 1;
                    if passed(&mut reads, WRITE_EVERY).await.is_err() {
                        break;
                    }
                }
                Ok(writes)
            });
        }
        let reads = reads_seen;
        Self { stop, reads, tasks }
    }

    /// How many operations there were.
    async fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut operations = 0;
        while let Some(ended) = self.tasks.join_next().await {
            operations += ended??;
        }
        Ok(operations)
    }
}

/// What one command printed as its one JSON value.
fn told(reduit: &Reduit, words: &[&str]) -> Result<Value> {
    let said = reduit.said("op-1", words)?;
    let line = said.lines().last().context("nothing was printed")?;
    Ok(serde_json::from_str(line)?)
}

/// What a node says of its files.
fn status(reduit: &Reduit, node: u64) -> Result<Value> {
    let said = reduit.said("op-1", &["region", "status", "--json"])?;
    for line in said.lines() {
        let value: Value = serde_json::from_str(line)?;
        if value["node"] == node {
            return Ok(value);
        }
    }
    bail!("node {node} is not in {said}")
}

fn count(value: &Value, field: &str) -> Result<u64> {
    let count = value[field].as_u64();
    count.with_context(|| format!("{field} in {value}"))
}

fn repaired(reduit: &Reduit, node: u64) -> Result<()> {
    let id = node.to_string();
    let said = told(
        reduit,
        &["region", "repair", "--node", &id, "--wait", "--json"],
    )?;
    ensure!(said["missing_blocks"] == 0, "{said}");
    Ok(())
}

/// From its next start on the victim's scrubber reads when it is asked to, so that what it finds can be counted.
fn scrub_when_asked(local: &Local) -> Result<()> {
    let config = &local.federation.service(VICTIM.0)?.config;
    let mut file = OpenOptions::new().append(true).open(config)?;
    writeln!(file, "\nscrub_bytes_per_s = 0")?;
    Ok(())
}

/// Every block of every object on two nodes, each read from its own disk.
struct Copies {
    region: Region,
    shard: u64,
    dataset: Bytes,
}

impl Copies {
    async fn of(local: &Local, dataset: &Dataset) -> Result<Self> {
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        let info = region.dataset_info(dataset.name()).await?;
        Ok(Self {
            region,
            shard: info.shard.0,
            dataset: info.id.into(),
        })
    }

    /// Fails where `node` has not every block as the untouched node has it. Answers how many there are.
    async fn equal(&self, node: NodeId, written: &Written) -> Result<u64> {
        let mut blocks = 0;
        for number in written.all() {
            let entry = self.entry(number).await?;
            ensure!(
                !entry.blocks.is_empty(),
                "object {number} is not in blocks: this proves nothing"
            );
            for block in 0..u32::try_from(entry.blocks.len())? {
                let whole = self.block(WHOLE, &entry, block).await?;
                let other = self.block(node, &entry, block).await;
                let other =
                    other.with_context(|| format!("object {number} block {block} of {node}"))?;
                ensure!(
                    !whole.is_empty() && whole == other,
                    "object {number} block {block} differs on {node}"
                );
                blocks += 1;
            }
        }
        Ok(blocks)
    }

    async fn entry(&self, number: u64) -> Result<v1::ObjectEntry> {
        let mut shard = ShardClient::new(self.region.node_channel(WHOLE)?);
        let request = v1::GetObjectRequest {
            shard: self.shard,
            dataset_id: self.dataset.clone(),
            key: name(number).as_str().to_owned(),
            allow_stale: true,
            ..v1::GetObjectRequest::default()
        };
        let reply = shard.get_object(request).await?.into_inner();
        reply.entry.context("an entry")
    }

    async fn block(&self, node: NodeId, entry: &v1::ObjectEntry, number: u32) -> Result<Vec<u8>> {
        let mut blocks = BlocksClient::new(self.region.node_channel(node)?);
        let request = v1::ReadBlockRequest {
            shard: self.shard,
            dataset_id: self.dataset.clone(),
            version_id: entry.version_id.clone(),
            number,
            ..v1::ReadBlockRequest::default()
        };
        let mut pieces = blocks.read(request).await?.into_inner();
        let mut read = Vec::new();
        while let Some(piece) = pieces.message().await? {
            read.extend_from_slice(&piece.data);
        }
        Ok(read)
    }
}

/// P5. Goes red where what a scrub finds is not fetched again, where a file that is gone is not noticed, and where a
/// reader is given what it did not check.
#[test]
fn damage_to_one_node_s_files_is_found_and_repaired_under_load() {
    with_region(3, async |local| {
        let (victim, id) = VICTIM;
        let reduit = Reduit::new(local)?;
        for words in [
            ["region", "status"],
            ["region", "scrub"],
            ["region", "repair"],
        ] {
            reduit.refused("app-1", &words, 5)?;
        }
        reduit.refused("op-1", &["region", "scrub", "--node", "77"], 3)?;
        let dataset = dataset(local).await?;
        let written = Written::default();
        scrub_when_asked(local)?;
        for life in 0..LIVES {
            local.restart(victim).await?;
            for number in 0..OBJECTS_A_LIFE {
                written
                    .put(&dataset, life * OBJECTS_A_LIFE + number)
                    .await?;
            }
        }
        repaired(&reduit, id)?;
        let before = status(&reduit, id)?;
        let clean = [
            "region", "scrub", "--node", "1", "--rate", "500", "--wait", "--json",
        ];
        let pass = told(&reduit, &clean)?;
        ensure!(
            pass["damaged_blocks"] == 0 && pass["unread_blocks"] == 0,
            "{pass}"
        );
        ensure!(
            pass["blocks"] == before["blocks"] && pass["asked"] == true,
            "{pass}"
        );

        let mut load = Load::start(&dataset, &written);
        let blocks = local.federation.service(victim)?.data.join("blocks");
        let mut damage = Damage::to(&blocks, SEED);
        let mut kinds = vec![Kind::FlipHeader, Kind::Cut, Kind::Remove];
        let mut done = 0;
        for _ in 0..10 * DAMAGES {
            let kind = kinds.pop().unwrap_or_else(|| damage.any_kind());
            done += usize::from(damage.one(kind)?);
            if done == DAMAGES {
                break;
            }
            if passed(&mut load.reads, DAMAGE_EVERY).await.is_err() {
                break;
            }
        }
        if done < DAMAGES {
            load.end().await?;
            bail!("only {done} damages found a place");
        }
        for kind in [Kind::Flip, Kind::FlipHeader, Kind::Cut, Kind::Remove] {
            ensure!(damage.done(kind) > 0, "{kind:?} never happened");
        }

        // All of it happened before this pass begins, and the load goes on beside it.
        let headers = damage.headers();
        let pass = told(&reduit, &clean)?;
        repaired(&reduit, id)?;
        let operations = load.end().await?;
        // What was put last may be on its way still.
        repaired(&reduit, id)?;
        ensure!(operations > 100, "{operations} operations are no load");
        let after = status(&reduit, id)?;
        let found = count(&after, "damaged_found")? - count(&before, "damaged_found")?;
        ensure!(
            found >= damage.blocks(),
            "{found} found of {} damaged: {after}",
            damage.blocks()
        );
        // A file of which nothing is needed any more, the node removes itself.
        let (lost, mended) = (
            count(&pass, "lost_segments")?,
            count(&pass, "mended_headers")?,
        );
        let removed = damage.done(Kind::Remove) as u64;
        ensure!((1..=removed).contains(&lost), "{removed} removed: {pass}");
        let headers = damage.headers()..=headers;
        ensure!(
            mended > 0 && headers.contains(&mended),
            "{headers:?}: {pass}"
        );
        let fetched = count(&after, "repaired_blocks")? - count(&before, "repaired_blocks")?;
        ensure!(fetched >= damage.blocks(), "{fetched} fetched: {after}");

        let pass = told(&reduit, &clean)?;
        for field in [
            "damaged_blocks",
            "lost_segments",
            "mended_headers",
            "unread_blocks",
        ] {
            ensure!(pass[field] == 0, "left over: {pass}");
        }
        let copies = Copies::of(local, &dataset).await?;
        copies.equal(NodeId(id), &written).await?;
        // And by what a start finds on the disk.
        local.restart(victim).await?;
        repaired(&reduit, id)?;
        ensure!(
            status(&reduit, id)?["repaired_blocks"] == 0,
            "a start missed blocks"
        );
        copies.equal(NodeId(id), &written).await?;
        for number in written.all() {
            let got = dataset.get_bytes(&name(number)).await?;
            ensure!(got[..] == body(number), "object {number} has a wrong byte");
        }
        Ok(())
    });
}

/// A log that is damaged before its tail is beyond repair: the member does not start, and another takes its place.
#[test]
fn a_member_beyond_repair_is_replaced_and_the_new_one_refills() {
    with_region(3, async |local| {
        let (victim, _) = VICTIM;
        let reduit = Reduit::new(local)?;
        let dataset = dataset(local).await?;
        let written = Written::default();
        for number in 1..OBJECTS_A_LIFE {
            written.put(&dataset, number).await?;
        }
        local.kill(victim)?;
        let log = local.federation.service(victim)?.data.join("raft/log");
        let log = find(&log, "log")?;
        let file = OpenOptions::new().read(true).write(true).open(&log)?;
        // Where something is written: what follows tells that it was synced.
        let mut byte = [0];
        let mut at = LOG_AT;
        while byte[0] == 0 {
            at += 1;
            file.read_exact_at(&mut byte, at)?;
        }
        file.write_all_at(&[byte[0] ^ 1], at)?;
        let refused = local.start(victim).expect_err("its log is damaged");
        let refused = format!("{refused:#}");
        ensure!(refused.contains("raft log is damaged"), "{refused}");

        let fresh = local.replace(victim).await?;
        let id = local.federation.service(&fresh)?.node_id;
        repaired(&reduit, id)?;
        let held = status(&reduit, id)?;
        let groups = held["groups"].as_array().context("groups")?;
        ensure!(groups.len() == 2, "the catalog and a shard: {held}");
        for group in groups {
            let is_in = group["role"] == "follower" || group["role"] == "leader";
            ensure!(is_in && group["comparing"] == false, "{held}");
            ensure!(
                group["refill"].is_null() && group["missing_blocks"] == 0,
                "{held}"
            );
        }
        let copies = Copies::of(local, &dataset).await?;
        let blocks = copies.equal(NodeId(id), &written).await?;
        ensure!(
            held["repaired_blocks"] == blocks && held["blocks"] == blocks,
            "{blocks} blocks are all it has to have fetched: {held}"
        );
        Ok(())
    });
}
