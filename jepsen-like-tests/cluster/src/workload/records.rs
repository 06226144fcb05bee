//! Releases and their records: clients open objects and keep what they were told; an auditor reads the log.
//!
//! Owns the comparison that only who has all leaves can make: roots of every size that was answered, and the chain of
//! each dataset's leaves. Refuses openings that are not what their leaf committed to.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use checker::records::{LeafRead, Release, TreeHead};
use checker::{F, Op, Workload};
use client::ids::{NodeId, ObjectKey};
use client::{Dataset, Error, GetOptions, Precondition, Region};
use local::Kind;
use local::files::{AUDITOR, CLIENTS};
use proto::v1;
use proto::v1::kms_client::KmsClient;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tlog::{Field, Frontier, Hash, Leaf, ObjectItem, Openings, openings_of};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::content::Content;
use super::ended::{self, OPERATION_MAX};
use super::register::numbered;
use super::session::{LAST_LOOK_MAX, insist};
use super::{Access, Stop};
use crate::recorder::{Client, Ended, Recorder};

const DATASET: &str = "records";
/// All operations are on one log.
const LOG: &str = "log";
const OBJECTS: u64 = 12;
/// Readers of each application.
const READERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(60);
/// Between looks of the auditor.
const AUDIT_PAUSE: Duration = Duration::from_millis(400);
/// What clients open for; nothing said counts as the same.
const PURPOSE: &str = "service";
/// What else they say: opens under different words do not share a request.
const CASES: [&str; 3] = ["", "case-1", "case-2"];
/// How long one replica may take to say its head.
const HEAD_MAX: Duration = Duration::from_secs(2);

pub(super) async fn run(access: &Access, recorder: Recorder, mut stop: Stop) -> Result<()> {
    let Some(region) = access.connect(CLIENTS[0], &mut stop).await? else {
        return Ok(());
    };
    let Some(dataset) = access.dataset(&region, DATASET, false, &mut stop).await? else {
        return Ok(());
    };
    if !fill(&dataset, &mut stop).await? {
        return Ok(());
    }
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for (at, identity) in (0..).zip(CLIENTS) {
        let Some(region) = access.connect(identity, &mut stop).await? else {
            break;
        };
        let Some(dataset) = access.dataset(&region, DATASET, false, &mut stop).await? else {
            break;
        };
        for reader in 0..READERS {
            let reader = Reader {
                principal: region.identity().to_string(),
                dataset: dataset.clone(),
                client: recorder.client(Workload::Records),
                rng: SmallRng::seed_from_u64(access.seed ^ (0x4ec + 10 * at + reader)),
            };
            tasks.spawn(reader.run(stop.clone()));
        }
    }
    if let Some(auditor) = access.connect(AUDITOR, &mut stop).await? {
        let client = recorder.client(Workload::Records);
        tasks.spawn(audit(access.clone(), auditor, client, stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client of the records panicked")??;
    }
    Ok(())
}

fn key(number: u64) -> Result<ObjectKey> {
    Ok(format!("o/{number:04}").parse()?)
}

/// Puts the objects; false if the run ended before.
async fn fill(dataset: &Dataset, stop: &mut Stop) -> Result<bool> {
    for number in 0..OBJECTS {
        let key = key(number)?;
        let options = numbered(number, Precondition::Any);
        loop {
            if stop.is_now() {
                return Ok(false);
            }
            let body = Content::new(number, 64).body();
            if dataset.put(&key, body, &options).await.is_ok() {
                break;
            }
            stop.pause(PAUSE).await;
        }
    }
    Ok(true)
}

struct Reader {
    principal: String,
    dataset: Dataset,
    client: Client,
    rng: SmallRng,
}

impl Reader {
    async fn run(mut self, mut stop: Stop) -> Result<()> {
        while !stop.is_now() {
            self.open().await?;
            stop.pause(PAUSE).await;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<()> {
        let key = key(self.rng.random_range(0..OBJECTS))?;
        let said = if self.rng.random() { PURPOSE } else { "" };
        let options = GetOptions {
            purpose: said.to_owned(),
            case: CASES[self.rng.random_range(0..CASES.len())].to_owned(),
            ..GetOptions::default()
        };
        let asked = self.client.begin(key.as_str(), F::Release);
        let object = timeout(OPERATION_MAX, self.dataset.get(&key, &options)).await;
        let ended = match object {
            Ok(Ok(object)) => {
                let release = Release {
                    leaf: object.leaf_index,
                    version: object.info.version.to_string(),
                    principal: self.principal.clone(),
                    purpose: PURPOSE.to_owned(),
                };
                Ended::Ok(Some(serde_json::to_value(release)?))
            }
            Ok(Err(Error::NoSuchObject)) => Ended::Fail(ended::broken("lost")),
            // Released or not: nobody was told.
            Ok(Err(error)) => ended::of_read(&error),
            Err(_) => Ended::Fail(ended::late()),
        };
        self.client.end(asked, ended);
        Ok(())
    }
}

/// Heads of all replicas, and now and then some of the newest leaves.
async fn audit(access: Access, auditor: Region, mut client: Client, mut stop: Stop) -> Result<()> {
    let mut newest = 0_u64;
    while !stop.is_now() {
        for replica in access.region.living(Kind::Kms) {
            let asked = client.begin(LOG, F::TreeHead);
            let head = timeout(HEAD_MAX, head_of(&auditor, NodeId(replica.node_id))).await;
            let ended = match head {
                Ok(Ok(head)) => {
                    newest = newest.max(head.size);
                    let head = TreeHead {
                        size: head.size,
                        root: hex::encode(&head.root_hash),
                    };
                    Ended::Ok(Some(serde_json::to_value(head)?))
                }
                Ok(Err(why)) => Ended::Fail(why),
                Err(_) => Ended::Fail(ended::late()),
            };
            client.end(asked, ended);
        }
        let asked = client.begin(LOG, F::Leaves);
        let mut leaves = auditor.keys().leaves(newest.saturating_sub(8), true);
        let ended = match timeout(OPERATION_MAX, leaves.page()).await {
            Ok(Ok(entries)) => match entries.iter().map(leaf_read).collect::<Result<Vec<_>>>() {
                Ok(leaves) => Ended::Ok(Some(serde_json::to_value(leaves)?)),
                Err(_) => Ended::Fail(ended::broken("bad-leaf")),
            },
            Ok(Err(error)) => ended::of_read(&error),
            Err(_) => Ended::Fail(ended::late()),
        };
        client.end(asked, ended);
        stop.pause(AUDIT_PAUSE).await;
    }
    Ok(())
}

async fn head_of(auditor: &Region, replica: NodeId) -> Result<v1::TreeHeadReply, String> {
    let channel = auditor.keys().replica_channel(replica);
    let channel = channel.map_err(|error| error.reason().to_owned())?;
    let head = KmsClient::new(channel)
        .tree_head(v1::TreeHeadRequest {})
        .await;
    match head {
        Ok(head) => Ok(head.into_inner()),
        Err(status) => {
            let reason = transport::fault::reason(&status);
            Err(reason.unwrap_or("connection").to_owned())
        }
    }
}

/// A leaf and what its openings show, checked against it.
fn leaf_read(entry: &v1::LeafEntry) -> Result<LeafRead> {
    let leaf = Leaf::parse(&entry.leaf)?;
    let openings = Openings::parse(&entry.openings)?;
    let shown = openings_of(&leaf, &openings)?;
    let objects = shown.objects.iter().flatten();
    let versions = objects.map(|value| {
        let item: ObjectItem = serde_json::from_str(value)?;
        Ok(item.version)
    });
    let kind = serde_json::to_value(leaf.kind())?;
    Ok(LeafRead {
        index: entry.index,
        hash: hex::encode(leaf.hash()?.as_bytes()),
        kind: kind.as_str().unwrap_or_default().to_owned(),
        principal: shown.fields.get(&Field::Actor).cloned(),
        purpose: leaf.purpose().as_str().to_owned(),
        versions: versions.collect::<Result<_>>()?,
    })
}

/// Reads the whole log, recomputes every root that was answered, and follows each dataset's chain.
pub(super) async fn finish(access: &Access, recorder: Recorder) -> Result<()> {
    let ops = recorder.recall(Workload::Records)?;
    if ops.is_empty() {
        return Ok(());
    }
    let auditor = access.last_connect(AUDITOR).await?;
    let mut client = recorder.client(Workload::Records);
    let (sizes, leaves) = seen(&ops)?;
    let mut log = Log {
        sizes,
        frontier: Frontier::default(),
        chains: HashMap::new(),
    };
    log.root(&mut client)?;
    let mut reader = auditor.keys().leaves(0, true);
    let end = Instant::now() + LAST_LOOK_MAX;
    loop {
        let asked = client.begin(LOG, F::Leaves).last();
        let page = insist("reading the log", async || reader.page().await).await?;
        if page.is_empty() {
            client.end(asked, Ended::Ok(Some(Vec::<u64>::new().into())));
            if log.frontier.size() >= leaves || Instant::now() > end {
                return Ok(());
            }
            // A replica that lags answered.
            tokio::time::sleep(AUDIT_PAUSE).await;
            continue;
        }
        let read: Result<Vec<_>> = page.iter().map(leaf_read).collect();
        match read {
            Ok(read) => client.end(asked, Ended::Ok(Some(serde_json::to_value(read)?))),
            Err(error) => {
                client.end(asked, Ended::Fail(ended::broken("bad-leaf")));
                return Err(error).context("a leaf of the log");
            }
        }
        for entry in &page {
            log.take(entry, &mut client)?;
        }
    }
}

/// Sizes of the log that were answered, and how many leaves there must be at least.
fn seen(ops: &[Op]) -> Result<(BTreeSet<u64>, u64)> {
    let (mut sizes, mut leaves) = (BTreeSet::new(), 0);
    for op in ops.iter().filter(|op| op.is_ok()) {
        match op.f {
            F::TreeHead => {
                let head: TreeHead = serde_json::from_value(op.value.clone())?;
                sizes.insert(head.size);
                leaves = leaves.max(head.size);
            }
            F::Release => {
                let release: Release = serde_json::from_value(op.value.clone())?;
                leaves = leaves.max(release.leaf + 1);
            }
            _ => {}
        }
    }
    Ok((sizes, leaves))
}

struct Log {
    sizes: BTreeSet<u64>,
    frontier: Frontier,
    /// Each dataset's next number and the hash of its last leaf.
    chains: HashMap<[u8; 16], (u64, Hash)>,
}

impl Log {
    fn take(&mut self, entry: &v1::LeafEntry, client: &mut Client) -> Result<()> {
        if entry.index != self.frontier.size() {
            bail!("leaf {} stands at {}", entry.index, self.frontier.size());
        }
        let leaf = Leaf::parse(&entry.leaf)?;
        let hash = leaf.hash()?;
        if let Some(link) = leaf.dataset() {
            let held = self.chains.get(&link.pseudonym.0).copied();
            let (sequence, previous) = held.map_or((0, None), |(next, hash)| (next, Some(hash)));
            if (link.sequence, link.previous) != (sequence, previous) {
                let asked = client.begin(LOG, F::Leaves).last();
                client.end(asked, Ended::Fail(ended::broken("broken-chain")));
            }
            self.chains
                .insert(link.pseudonym.0, (link.sequence + 1, hash));
        }
        self.frontier.append(hash, &mut |_, _| {})?;
        self.root(client)
    }

    /// Records the root of this size, if somebody was told one.
    fn root(&self, client: &mut Client) -> Result<()> {
        if self.sizes.contains(&self.frontier.size()) {
            let head = TreeHead {
                size: self.frontier.size(),
                root: hex::encode(self.frontier.root().as_bytes()),
            };
            let asked = client.begin(LOG, F::TreeHead).last();
            client.end(asked, Ended::Ok(Some(serde_json::to_value(head)?)));
        }
        Ok(())
    }
}
