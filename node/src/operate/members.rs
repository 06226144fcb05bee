//! A node in or out of every group of the region, step by step, told as it goes.
//!
//! Owns the order: a new node joins the catalog first, which tells it the shards; one that leaves goes from the catalog
//! last. Refuses to begin a second change here while one is under way. Repeated, a change goes on where it stopped.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use proto::ids::{GroupId, NodeId};
use proto::v1;
use proto::v1::change_group_request::Change as Step;
use proto::v1::node_operate_client::NodeOperateClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use crate::core::Core;
use crate::error::CallError;

/// How long a change may take in all: a new node fetches every block meanwhile.
const CHANGE_MAX: Duration = Duration::from_secs(6 * 3600);
/// How long a new node may take to open the shards its catalog names.
const OPEN_MAX: Duration = Duration::from_secs(120);
const OPEN_PAUSE: Duration = Duration::from_millis(200);
const STATUS_MAX: Duration = Duration::from_secs(5);
/// Steps told and not yet taken; a slow listener misses some of the words, never the end.
const TOLD_MAX: usize = 64;

type Told = BoxStream<'static, Result<v1::Progress, Status>>;

/// Adds an enrolled node to every group.
pub(super) async fn add(core: Arc<Core>, node: NodeId) -> Result<Told, CallError> {
    core.leading(&core.groups.catalog)?;
    core.enrolled_node(node).await?;
    Ok(run(core, move |core, teller| {
        Box::pin(async move { add_everywhere(&core, node, &teller).await })
    }))
}

/// Removes a node from every group.
pub(super) fn remove(core: Arc<Core>, node: NodeId) -> Result<Told, CallError> {
    core.leading(&core.groups.catalog)?;
    Ok(run(core, move |core, teller| {
        Box::pin(async move { remove_everywhere(&core, node, &teller).await })
    }))
}

/// Tells the operator's stream what happens.
#[derive(Clone)]
struct Teller {
    told: mpsc::Sender<Result<v1::Progress, Status>>,
    total: u64,
}

impl Teller {
    fn tell(&self, step: String, done: u64) {
        let (total, finished) = (self.total, false);
        // Full or gone: the change goes on without a listener.
        drop(self.told.try_send(Ok(v1::Progress {
            step,
            done,
            total,
            finished,
        })));
    }
}

type Running = std::pin::Pin<Box<dyn Future<Output = Result<(), CallError>> + Send>>;

fn run(
    core: Arc<Core>,
    change: impl FnOnce(Arc<Core>, Teller) -> Running + Send + 'static,
) -> Told {
    let (told, listener) = mpsc::channel(TOLD_MAX);
    let total = core.groups.all().len() as u64;
    let teller = Teller {
        told: told.clone(),
        total,
    };
    // A task of its own: a change that has begun is better finished, even if the operator's connection is lost.
    tokio::spawn(async move {
        let changed = match core.membership.try_lock() {
            Ok(_one) => change(Arc::clone(&core), teller).await,
            Err(_) => Err(CallError::Member(replica::host::MemberError::InProgress)),
        };
        let last = match changed {
            Ok(()) => {
                let (step, done, finished) = ("done".to_owned(), total, true);
                Ok(v1::Progress {
                    step,
                    done,
                    total,
                    finished,
                })
            }
            Err(error) => {
                tracing::warn!(error = %transport::fault::Chain(&error), "membership not changed");
                Err(error.into_status())
            }
        };
        // The listener may have gone.
        drop(told.send(last).await);
    });
    let next = |mut listener: mpsc::Receiver<_>| async move {
        listener.recv().await.map(|item| (item, listener))
    };
    stream::unfold(listener, next).boxed()
}

async fn add_everywhere(core: &Core, node: NodeId, teller: &Teller) -> Result<(), CallError> {
    let deadline = Instant::now() + CHANGE_MAX;
    let shards: Vec<GroupId> = core
        .groups
        .shards()
        .iter()
        .map(|shard| shard.group.id())
        .collect();
    join(core, GroupId::CATALOG, node, deadline, teller, 0).await?;
    opened(core, node, &shards, teller).await?;
    for (done, shard) in (1..).zip(shards) {
        join(core, shard, node, deadline, teller, done).await?;
    }
    Ok(())
}

async fn join(
    core: &Core,
    group: GroupId,
    node: NodeId,
    deadline: Instant,
    teller: &Teller,
    done: u64,
) -> Result<(), CallError> {
    teller.tell(format!("node {node} learns group {group}"), done);
    let waiting = |why| teller.tell(format!("group {group} waits: {why}"), done);
    core.change_at_leader(group, Step::AddLearner(node.0), deadline, &waiting)
        .await?;
    core.change_at_leader(group, Step::Promote(node.0), deadline, &waiting)
        .await?;
    teller.tell(format!("node {node} votes in group {group}"), done + 1);
    Ok(())
}

/// Waits until the new node has opened every shard: one that is added before would find itself remembered by its
/// peers, and take its own folder for a lost one.
async fn opened(
    core: &Core,
    node: NodeId,
    shards: &[GroupId],
    teller: &Teller,
) -> Result<(), CallError> {
    let deadline = Instant::now() + OPEN_MAX;
    loop {
        let mut peer = NodeOperateClient::new(core.peers.channel(node)?);
        let asked = tokio::time::timeout(STATUS_MAX, peer.status(v1::NodeStatusRequest {})).await;
        let why = match asked {
            Ok(Ok(status)) => {
                let groups = status.into_inner().groups;
                let open = |shard: &GroupId| groups.iter().any(|group| group.group == shard.0);
                if shards.iter().all(open) {
                    return Ok(());
                }
                format!(
                    "node {node} has opened {} of {} groups",
                    groups.len(),
                    shards.len() + 1
                )
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => format!("node {node} does not answer"),
        };
        if Instant::now() + OPEN_PAUSE >= deadline {
            return Err(CallError::NoAnswer {
                group: GroupId::CATALOG,
                why,
            });
        }
        teller.tell(why, 1);
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

async fn remove_everywhere(core: &Core, node: NodeId, teller: &Teller) -> Result<(), CallError> {
    let deadline = Instant::now() + CHANGE_MAX;
    let shards = core.groups.shards();
    let shards = shards.iter().map(|shard| shard.group.id());
    for (done, group) in (0..).zip(shards.chain([GroupId::CATALOG])) {
        teller.tell(format!("node {node} leaves group {group}"), done);
        let waiting = |why| teller.tell(format!("group {group} waits: {why}"), done);
        core.change_at_leader(group, Step::Remove(node.0), deadline, &waiting)
            .await?;
    }
    Ok(())
}
