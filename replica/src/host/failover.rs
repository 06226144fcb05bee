//! Replaces a leader whose process is gone, without waiting for the lease.
//!
//! Owns the steps: drop the own lease, wait for one's turn, ask for votes until someone leads. Refuses to overrule a
//! peer that still hears the leader: it asks by pre-vote, which such a peer denies, so a false alarm changes
//! nothing.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use proto::ids::NodeId;
use rand::Rng;
use tokio::time::sleep;

use super::core::GroupCore;
use crate::raft::types::Config;
use std::sync::atomic::Ordering;

/// A node id nobody has: in a transfer to it, everyone only gives up the lease.
const NOBODY: u64 = u64::MAX;

/// Goes on until the leader `lost` has a successor, this member has tried often enough, or the group stops.
pub(crate) async fn replace(core: &GroupCore, lost: NodeId) {
    let vote = core.raft.server_metrics().borrow_watched().vote;
    if !vote.committed || vote.leader_id.voted_for != lost.0 {
        return;
    }
    // The engine has no call for giving up the own lease; a transfer of this very leadership to someone else is
    // what does it. It disables the lease of this vote only.
    let give_up = TransferLeaderRequest::<Config>::new(vote, NOBODY, None);
    if core.raft.handle_transfer_leader(give_up).await.is_err() {
        return;
    }
    let Some(rank) = rank(core, lost, vote.leader_id.term) else {
        return;
    };
    tracing::info!(group = %core.id, %lost, rank, "leader lost; campaigning");
    sleep(core.tuning.campaign_step * rank).await;
    for attempt in 0..core.tuning.campaigns_max {
        if succeeded(core, lost) || !core.may_campaign.load(Ordering::Acquire) {
            return;
        }
        if core.raft.trigger().elect(true).await.is_err() {
            return;
        }
        // Room for two round trips and two syncs of a busy disk, and an odd part so that two members that split
        // the votes do not split them again.
        let step = Duration::from_millis(rand::rng().random_range(60..180));
        sleep(step + core.tuning.campaign_step * attempt.min(4) / 4).await;
    }
}

/// How many voters go before this member; `None` when it has no vote.
fn rank(core: &GroupCore, lost: NodeId, term: u64) -> Option<u32> {
    let voters: Vec<u64> = core
        .view()
        .voters
        .all()
        .into_iter()
        .filter(|node| *node != lost)
        .map(|n| n.0)
        .collect();
    let mine = voters.iter().position(|node| *node == core.me.0)?;
    // Turned by the term, so that one slow member is not always the first.
    let turn = (term % voters.len() as u64) as usize;
    let rank = (mine + voters.len() - turn) % voters.len();
    u32::try_from(rank).ok()
}

fn succeeded(core: &GroupCore, lost: NodeId) -> bool {
    let metrics = core.raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.vote.committed && metrics.vote.leader_id.voted_for != lost.0
}
