//! What movers and operators are shown of arrivals.
//!
//! Owns where each is read: one at the shard's leader, all of them as this node has them. Refuses everybody else, and to
//! show who may move some datasets those that it may not.

use node_state::{ShardMeta, read};
use proto::ids::{DatasetId, GroupId, LogIndex};
use proto::store::Reader;
use proto::v1;
use transport::Peer;

use super::moves_by;
use crate::core::Core;
use crate::error::CallError;

/// Arrivals in one listing: under 4 MiB, and more than are ever moved at once.
const LISTED_MAX: usize = 1000;

impl Core {
    pub(super) async fn arrival_status(
        &self,
        peer: &Peer,
        of: v1::Relocated,
    ) -> Result<v1::ArrivalStatus, CallError> {
        let (shard, named) = self.relocated(Some(&of))?;
        self.may_move(&self.enrolments.current(), peer, &named.dataset)?;
        let (view, index) = self.read(&shard.group).await?;
        let arrival = read::arrival(&*view.state, &named.dataset)
            .filter(|held| held.relocation_id == named.relocation.as_bytes()[..])
            .ok_or_else(|| CallError::refused(v1::Refusal::NotUnderWay))?;
        Ok(status(
            &*view.state,
            (shard.group.id(), index),
            &named.dataset,
            arrival,
        ))
    }

    /// Arrivals of datasets that the caller may move, as this node has them: those under way first.
    pub(super) fn list_arrivals(&self, peer: &Peer) -> Result<v1::ListArrivalsReply, CallError> {
        let needed = moves_by(peer)?;
        let table = self.enrolments.current();
        let mut arrivals = Vec::new();
        for shard in self.groups.shards() {
            let (view, index) = self.view(&shard.group)?;
            let mine = read::arrivals(&*view.state)
                .into_iter()
                .filter(|(dataset, _)| self.may(&table, peer, Some(dataset), &[needed]));
            let shown = mine.map(|(dataset, arrival)| {
                status(&*view.state, (shard.group.id(), index), &dataset, arrival)
            });
            arrivals.extend(shown);
        }
        arrivals.sort_by_key(is_over);
        arrivals.truncate(LISTED_MAX);
        Ok(v1::ListArrivalsReply { arrivals })
    }
}

fn status(
    state: &dyn Reader,
    (shard, index): (GroupId, LogIndex),
    dataset: &DatasetId,
    arrival: v1::ArrivalRecord,
) -> v1::ArrivalStatus {
    let meta = ShardMeta::load(state);
    v1::ArrivalStatus {
        shard: shard.0,
        arrival: Some(arrival),
        dataset: read::dataset(state, dataset),
        at_index: index.0,
        upload_epoch: meta.upload_epoch.0,
        time_ms: meta.time.0,
    }
}

fn is_over(status: &v1::ArrivalStatus) -> bool {
    use v1::ArrivalPhase::{Aborted, Certified};
    let arrival = status.arrival.as_ref();
    arrival.is_some_and(|arrival| matches!(arrival.phase(), Aborted | Certified))
}
