//! What time it is in a group, as far as its leader may say.
//!
//! Owns the reading a command carries, asking the voters for their clocks, and moving the time of a group that is idle.
//! Refuses to go by this node's clock where it is more than a minute ahead of the group's time: then the clocks of a
//! majority count, and for half a minute what was heard of them.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use node_state::time::{TIME_BOUND_LEVEL, waits_for_operator};
use node_state::{CatalogMeta, ShardMeta};
use parking_lot::Mutex;
use proto::ids::{GroupId, NodeId, UnixMs};
use proto::time::{JUMP_MS_MAX, KEEP_TIME_MS, advanced, median};
use proto::v1;
use proto::v1::node_operate_client::NodeOperateClient;
use replica::host::Group;
use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::error::CallError;

/// How long voters have to say what time it is.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How long the others have once a majority has answered: with every clock the median is worth more.
const OTHERS_MAX: Duration = Duration::from_millis(200);
/// Between two tries of the driver to move one group's time.
const TRY_EVERY: Duration = Duration::from_secs(10);
/// How long what was heard of a majority's clocks stands for this node's.
const HEARD_FOR: Duration = Duration::from_millis(KEEP_TIME_MS);

/// What a leader heard and saw of time, by group.
#[derive(Default)]
pub(crate) struct GroupClocks(Mutex<HashMap<GroupId, Seen>>);

/// Of one group. Ages are of the monotonic clock, which does not jump.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The median of a majority, and when.
    heard: Option<(UnixMs, Instant)>,
    /// Where the group's time stood when the driver last saw it move, and when.
    stood: Option<(UnixMs, Instant)>,
    tried: Option<Instant>,
}

impl Seen {
    /// What time it is, if this node can say without asking.
    fn reading(&self, stands_at: UnixMs, own: UnixMs) -> Option<UnixMs> {
        if advanced(stands_at, own).is_ok() {
            return Some(own);
        }
        let (median, at) = self.heard?;
        let passed = at.elapsed();
        let now = UnixMs(median.0.saturating_add(millis(passed)));
        (passed < HEARD_FOR && advanced(stands_at, now).is_ok()).then_some(now)
    }

    /// Whether time has to be moved by a majority's clocks: it fell behind, or it stands still under a clock that went
    /// back.
    fn due(&mut self, stands_at: UnixMs, own: UnixMs) -> bool {
        let now = Instant::now();
        let since = match self.stood {
            Some((stood, since)) if stood == stands_at => since,
            _ => now,
        };
        self.stood = Some((stands_at, since));
        let behind = self
            .reading(stands_at, own)
            .is_none_or(|reading| reading.0.saturating_sub(stands_at.0) >= KEEP_TIME_MS);
        let still = now.duration_since(since) >= HEARD_FOR;
        let tried = self.tried.is_some_and(|tried| now < tried + TRY_EVERY);
        let due = (behind || still) && !tried;
        if due {
            self.tried = Some(now);
        }
        due
    }
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an operator lets time go on however far a majority's clocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nobody did: up to a day.
    ByNobody,
    /// An operator did.
    ByOperator,
}

impl Core {
    /// Where a group's time stands here.
    pub(crate) fn stands_at(&self, group: &Group) -> Result<UnixMs, CallError> {
        let (view, _) = self.view(group)?;
        Ok(match group.id() {
            GroupId::CATALOG => CatalogMeta::load(&*view.state).time,
            _ => ShardMeta::load(&*view.state).time,
        })
    }

    /// The reading a command of this leader carries. Where its own clock cannot be taken, time is moved on first.
    pub(crate) async fn reading(
        &self,
        group: &Group,
        stands_at: UnixMs,
    ) -> Result<UnixMs, CallError> {
        let own = self.clock.now();
        if group.level() < TIME_BOUND_LEVEL {
            return Ok(own);
        }
        let seen = |own| {
            let seen = self.clocks.0.lock().get(&group.id()).copied();
            seen.unwrap_or_default().reading(stands_at, own)
        };
        if let Some(reading) = seen(own) {
            return Ok(reading);
        }
        self.advance_time(group, Asked::ByNobody).await
    }

    /// Moves a group's time to the median of the clocks of a majority of its voters; answers that median.
    pub(crate) async fn advance_time(
        &self,
        group: &Group,
        asked: Asked,
    ) -> Result<UnixMs, CallError> {
        self.leading(group)?;
        if group.level() < TIME_BOUND_LEVEL {
            return Err(CallError::Malformed(
                "the group goes by its leader's clock: raise its feature level",
            ));
        }
        let id = group.id();
        let clocks = self.clocks_of_majority(group).await;
        let clocks = clocks.ok_or(CallError::NoClocks(id))?;
        let heard_at = Instant::now();
        let median = median(clocks.iter().map(|clock| clock.clock_ms).collect());
        let median = median.ok_or(CallError::NoClocks(id))?;
        let stands_at = self.stands_at(group)?;
        let by_operator = asked == Asked::ByOperator;
        if waits_for_operator(stands_at, median) && !by_operator {
            return Err(CallError::refused(v1::Refusal::ClockJump));
        }
        if stands_at.0 > 0 && median.0 > stands_at.0.saturating_add(JUMP_MS_MAX) {
            tracing::warn!(
                group = id.0,
                from_ms = stands_at.0,
                to_ms = median.0,
                by_operator,
                "the group's time jumps to the clocks of a majority"
            );
        }
        let advance = v1::AdvanceGroupTime {
            clocks,
            by_operator,
        };
        self.propose_advance(group, advance).await?;
        let mut seen = self.clocks.0.lock();
        seen.entry(id).or_default().heard = Some((median, heard_at));
        Ok(median)
    }

    /// Moves time on while no command does, so that the next one finds it current; for a leader, every second.
    pub(crate) async fn keep_time(&self, group: &Group) -> Result<(), CallError> {
        if group.level() < TIME_BOUND_LEVEL || !group.is_leader() {
            return Ok(());
        }
        let (stands_at, own) = (self.stands_at(group)?, self.clock.now());
        let due = {
            let mut seen = self.clocks.0.lock();
            seen.entry(group.id()).or_default().due(stands_at, own)
        };
        if !due {
            return Ok(());
        }
        let advanced = self.advance_time(group, Asked::ByNobody).await;
        if let Err(CallError::Refused { refused }) = &advanced
            && refused.reason() == v1::Refusal::ClockJump
        {
            tracing::error!(
                group = group.id().0,
                stands_at_ms = stands_at.0,
                "the clocks of a majority are over 24 h ahead of the group's time: it takes no writes until an \
                 operator lets time advance"
            );
        }
        advanced.map(drop)
    }

    /// The clocks of this node, where it votes, and of the voters that answered; `None` when they are no majority.
    async fn clocks_of_majority(&self, group: &Group) -> Option<Vec<v1::VoterClock>> {
        let voters = group.voters();
        let all = voters.all();
        let mut clocks = Vec::new();
        if all.contains(&self.node_id) {
            clocks.push(v1::VoterClock {
                node_id: self.node_id.0,
                clock_ms: self.clock.now().0,
            });
        }
        let mut asked: FuturesUnordered<_> = all
            .iter()
            .copied()
            .filter(|id| *id != self.node_id)
            .map(|id| self.clock_of(id))
            .collect();
        let majority = |clocks: &[v1::VoterClock]| {
            let nodes: Vec<_> = clocks.iter().map(|clock| NodeId(clock.node_id)).collect();
            voters.majority(&nodes)
        };
        let mut end = Instant::now() + ASK_MAX;
        loop {
            if majority(&clocks) {
                end = end.min(Instant::now() + OTHERS_MAX);
            }
            match timeout_at(end, asked.next()).await {
                Ok(Some(answer)) => clocks.extend(answer),
                Ok(None) | Err(_) => break,
            }
        }
        majority(&clocks).then_some(clocks)
    }

    async fn clock_of(&self, node: NodeId) -> Option<v1::VoterClock> {
        let mut peer = NodeOperateClient::new(self.peers.channel(node).ok()?);
        let mut request = tonic::Request::new(v1::ReadClockRequest {});
        request.set_timeout(ASK_MAX);
        let clock_ms = peer.read_clock(request).await.ok()?.into_inner().clock_ms;
        let node_id = node.0;
        Some(v1::VoterClock { node_id, clock_ms })
    }

    async fn propose_advance(
        &self,
        group: &Group,
        advance: v1::AdvanceGroupTime,
    ) -> Result<(), CallError> {
        // A clock reading beside the majority's clocks would say nothing.
        if group.id() == GroupId::CATALOG {
            let command = v1::CatalogCommand {
                now_ms: 0,
                verdict: None,
                command: Some(v1::catalog_command::Command::AdvanceTime(advance)),
            };
            return self.propose_catalog(command).await.map(drop);
        }
        let command = v1::ShardCommand {
            now_ms: 0,
            verdict: None,
            request_id: Bytes::new(),
            command: Some(v1::shard_command::Command::AdvanceTime(advance)),
        };
        self.propose_shard(group, command).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDS: UnixMs = UnixMs(1_000_000);
    const YEAR: UnixMs = UnixMs(31_536_000_000);

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_ahead_is_replaced_by_what_was_heard_while_that_is_fresh() {
        let mut seen = Seen::default();
        assert_eq!(
            seen.reading(STANDS, UnixMs(1_060_000)),
            Some(UnixMs(1_060_000))
        );
        assert_eq!(seen.reading(STANDS, UnixMs(5)), Some(UnixMs(5)));
        assert_eq!(seen.reading(STANDS, YEAR), None);
        seen.heard = Some((UnixMs(1_000_500), Instant::now()));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(seen.reading(STANDS, YEAR), Some(UnixMs(1_007_500)));
        tokio::time::advance(Duration::from_secs(23)).await;
        assert_eq!(seen.reading(STANDS, YEAR), None);
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_kept_where_it_falls_behind_or_stands_still_and_not_tried_at_every_look() {
        let mut seen = Seen::default();
        assert!(!seen.due(STANDS, UnixMs(1_029_999)));
        assert!(seen.due(STANDS, UnixMs(1_030_000)));
        assert!(!seen.due(STANDS, UnixMs(1_031_000)), "tried a moment ago");
        tokio::time::advance(TRY_EVERY).await;
        assert!(seen.due(STANDS, YEAR), "its own clock says nothing");
        let moved = UnixMs(STANDS.0 + 1);
        assert!(!seen.due(moved, UnixMs(5)));
        tokio::time::advance(HEARD_FOR).await;
        assert!(
            seen.due(moved, UnixMs(5)),
            "a clock that went back moves nothing"
        );
    }
}
