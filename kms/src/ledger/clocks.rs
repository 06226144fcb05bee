//! The clocks of a majority: what region time follows when it has to move by more than a minute.
//!
//! Owns asking the voters. Refuses to call fewer than a majority of them one.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::v1;
use replica::host::Group;
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use transport::SharedClock;

use crate::peers::{CALL_MAX, Peers};

/// Asks voters what time it is.
pub(super) struct Clocks {
    group: Group,
    clock: SharedClock,
    peers: Arc<Peers>,
}

impl Clocks {
    pub(super) fn new(group: Group, clock: SharedClock, peers: Arc<Peers>) -> Self {
        Self {
            group,
            clock,
            peers,
        }
    }

    /// This replica's clock and those of voters that answered, as soon as they are a majority; `None` when they are
    /// not in time.
    pub(super) async fn of_majority(&self, deadline: Instant) -> Option<Vec<u64>> {
        let me = self.group.node_id();
        let voters = self.group.voters().all();
        let needed = voters.len() / 2 + 1;
        let mut clocks = vec![self.clock.now().0];
        let mut asked: FuturesUnordered<_> = voters
            .iter()
            .filter(|id| **id != me)
            .map(|id| async move {
                let mut client = self.peers.kms(*id).ok()?;
                let mut request = Request::new(v1::KmsStatusRequest {});
                request.set_timeout(CALL_MAX);
                let status = client.status(request).await.ok()?.into_inner();
                Some(status.clock_ms).filter(|clock| *clock > 0)
            })
            .collect();
        while clocks.len() < needed {
            let answer = timeout_at(deadline, asked.next()).await.ok()??;
            clocks.extend(answer);
        }
        Some(clocks)
    }
}
