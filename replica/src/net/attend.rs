//! Attends to every peer: one held-open call each, whose end says that the peer's process is gone.
//!
//! Owns the difference between a connection that broke and a peer that is lost: a broken one is dialled again at
//! once, and only when that has not worked for [`crate::host::options::Tuning::lost_after`] is the peer reported.
//! Refuses to judge a peer that is silent on a standing connection; that is what election time-outs are for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use proto::ids::NodeId;
use proto::v1;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::handler::{Identification, PeerHandler};
use super::link::{Dialer, Inbound, Lane};
use crate::raft::types::Member;

/// Pause between attempts to reach a peer whose loss is in doubt.
const DOUBT_STEP: Duration = Duration::from_millis(15);
/// Pause between attempts to reach a peer that is lost.
const LOST_STEP: Duration = Duration::from_millis(250);
/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// How often the members of the region are compared with who is attended to.
const ROLL_CALL: Duration = Duration::from_millis(500);

/// Attends to all enrolled members of the role until dropped.
pub(crate) struct Attendance {
    task: JoinHandle<()>,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Attendance {
    /// Starts attending.
    pub(crate) fn start(
        handler: Arc<PeerHandler>,
        dialer: Arc<dyn Dialer>,
        lost_after: Duration,
    ) -> Self {
        Self {
            task: tokio::spawn(call_roll(handler, dialer, lost_after)),
        }
    }
}

/// One peer's task; ends with it.
struct Attended(JoinHandle<()>);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn call_roll(handler: Arc<PeerHandler>, dialer: Arc<dyn Dialer>, lost_after: Duration) {
    let mut attended: BTreeMap<NodeId, Attended> = BTreeMap::new();
    loop {
        let peers: BTreeMap<NodeId, Member> = dialer.peers().into_iter().collect();
        attended.retain(|node, _| peers.contains_key(node));
        for (node, member) in peers {
            attended.entry(node).or_insert_with(|| {
                let peer = Peer {
                    node,
                    member,
                    handler: Arc::clone(&handler),
                    dialer: Arc::clone(&dialer),
                    lost_after,
                };
                Attended(tokio::spawn(peer.attend()))
            });
        }
        sleep(ROLL_CALL).await;
    }
}

struct Peer {
    node: NodeId,
    member: Member,
    handler: Arc<PeerHandler>,
    dialer: Arc<dyn Dialer>,
    lost_after: Duration,
}

/// A call that is held open, and the start of the process that answered it.
struct Presence {
    beats: Inbound<v1::RaftBeat>,
    boot: u64,
}

impl Peer {
    async fn attend(self) {
        loop {
            // Not yet attended, or lost and said so: no hurry.
            let mut presence = loop {
                match timeout(ATTEMPT_MAX, self.open()).await {
                    Ok(Some(presence)) => break presence,
                    _ => sleep(LOST_STEP).await,
                }
            };
            loop {
                let leaving = matches!(presence.beats.next().await, Some(Ok(beat)) if beat.leaving);
                // One that leaves in order does not come back in a tenth of a second.
                let back = if leaving { None } else { self.reopen().await };
                match back {
                    Some(again) => {
                        if again.boot != presence.boot {
                            self.report();
                        }
                        presence = again;
                    }
                    None => break,
                }
            }
            self.report();
        }
    }

    fn report(&self) {
        tracing::info!(peer = %self.node, "peer lost");
        for core in self.handler.cores() {
            core.peer_lost(self.node);
        }
    }

    async fn reopen(&self) -> Option<Presence> {
        let deadline = Instant::now() + self.lost_after;
        loop {
            match timeout_at(deadline, self.open()).await {
                Ok(Some(presence)) => return Some(presence),
                Ok(None) => sleep(DOUBT_STEP).await,
                Err(_) => return None,
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    async fn open(&self) -> Option<Presence> {
        let Identification { cluster, me, .. } = &self.handler.identification;
        let header = v1::RaftHeader {
            cluster: cluster.to_vec().into(),
            group: 0,
            from: me.0,
            to: self.node.0,
            seen: None,
        };
        let link = self
            .dialer
            .link(self.node, &self.member, Lane::Heartbeat)
            .ok()?;
        let mut beats = link
            .attend(v1::RaftAttend {
                header: Some(header),
            })
            .await
            .ok()?;
        let first = beats.next().await?.ok()?;
        Some(Presence {
            beats,
            boot: first.boot,
        })
    }
}
