//! Whom to ask: members, channels, leaders, and how a call is tried again.
//!
//! Owns the rule of DESIGN section 6: a definite refusal is the caller's; "not the leader", "not now" and an unknown
//! outcome are tried again. That is harmless because every call of this SDK is a read, is idempotent by itself, or
//! carries a request id: none may come here without.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::{GroupId, Identity, NodeId, Role};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use transport::{Connector, Expect, Fault, Lane, PublicKey};

use crate::error::Error;
use crate::settings::Tuning;

const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// After a leader hint that named the member just asked: it does not lead yet.
const HINT_PAUSE: Duration = Duration::from_millis(20);

/// How long a member may work on one try of what waits for data to move: a day, as terabytes take.
const WORK_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A member of the region.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) identity: Option<Identity>,
    pub(crate) public_key: Option<PublicKey>,
    pub(crate) endpoint: String,
}

/// Why there is no answer that counts.
struct Unanswered {
    /// One of the tries may have had effect.
    maybe: bool,
    /// What the last one came to.
    last: Error,
}

impl Unanswered {
    fn of_change(self) -> Error {
        match self.last {
            kept @ (Error::PreconditionFailed { .. } | Error::NoSuchObject) => kept,
            last if self.maybe => Error::Unknown {
                message: format!("an earlier try was not answered, and then: {last}"),
            },
            last => last,
        }
    }
}

/// Who can be asked: storage nodes or KMS replicas.
pub(crate) struct Pool {
    role: Role,
    connector: Connector,
    members: Mutex<BTreeMap<NodeId, Member>>,
    channels: Mutex<HashMap<(String, Lane, usize), Channel>>,
    leaders: Mutex<HashMap<GroupId, NodeId>>,
    turn: std::sync::atomic::AtomicUsize,
    stale: Arc<Notify>,
}

impl Pool {
    /// Tells `stale` when what is known of the members is seen to be old.
    pub(crate) fn new(
        role: Role,
        connector: Connector,
        endpoints: &[String],
        stale: Arc<Notify>,
    ) -> Self {
        // Until the enrolments are known, members stand under ids that no member has.
        let members = endpoints.iter().enumerate().map(|(at, endpoint)| {
            let id = NodeId(u64::MAX - at as u64);
            (
                id,
                Member {
                    id,
                    identity: None,
                    public_key: None,
                    endpoint: endpoint.clone(),
                },
            )
        });
        Self {
            role,
            connector,
            members: Mutex::new(members.collect()),
            channels: Mutex::default(),
            leaders: Mutex::default(),
            turn: std::sync::atomic::AtomicUsize::new(0),
            stale,
        }
    }

    /// Replaces the members by those of the enrolment set.
    pub(crate) fn learn(&self, members: Vec<Member>) {
        if !members.is_empty() {
            *self.members.lock() = members
                .into_iter()
                .map(|member| (member.id, member))
                .collect();
        }
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        self.members.lock().values().cloned().collect()
    }

    pub(crate) fn member(&self, id: NodeId) -> Option<Member> {
        let member = self.members.lock().get(&id).cloned();
        if member.is_none() {
            self.stale.notify_one();
        }
        member
    }

    /// A channel to a member; `slot` tells several data connections apart.
    pub(crate) fn channel(
        &self,
        member: &Member,
        lane: Lane,
        slot: usize,
    ) -> Result<Channel, Error> {
        let key = (member.endpoint.clone(), lane, slot);
        if let Some(channel) = self.channels.lock().get(&key) {
            return Ok(channel.clone());
        }
        let expect = match &member.identity {
            Some(identity) => Expect::Identity(identity.clone()),
            None => Expect::Role(self.role),
        };
        let channel = self
            .connector
            .channel_lazy(&member.endpoint, expect, lane)
            .map_err(|error| Error::Caller {
                reason: "bad-endpoint".to_owned(),
                message: error.to_string(),
            })?;
        Ok(self.channels.lock().entry(key).or_insert(channel).clone())
    }

    fn pick(&self, group: GroupId, avoid: Option<NodeId>) -> Option<Member> {
        let members = self.members.lock();
        if let Some(leader) = self.leaders.lock().get(&group)
            && let Some(member) = members.get(leader)
        {
            return Some(member.clone());
        }
        let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let others: Vec<_> = members.values().filter(|m| Some(m.id) != avoid).collect();
        let others = if others.is_empty() {
            members.values().collect()
        } else {
            others
        };
        others
            .get(turn % others.len().max(1))
            .map(|member| (*member).clone())
    }

    /// Calls the leader of `group`, finding it on the way, until it answers or the deadline passes.
    pub(crate) async fn on_leader<T, F, Fut>(
        &self,
        group: GroupId,
        tuning: &Tuning,
        call: F,
    ) -> Result<T, Error>
    where
        F: Fn(Member, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let answer = self.ask(group, tuning, None, call).await;
        answer.map_err(|unanswered| unanswered.last)
    }

    /// As [`Self::on_leader`], for what waits for data to move: a member may work on one try for as long as it needs, and
    /// one that is gone is noticed by its connection. What is refused is tried again within the deadline all the same,
    /// of which the time that a member worked is no part.
    pub(crate) async fn on_leader_at_work<T, F, Fut>(
        &self,
        group: GroupId,
        tuning: &Tuning,
        call: F,
    ) -> Result<T, Error>
    where
        F: Fn(Member, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let answer = self.ask(group, tuning, Some(WORK_MAX), call).await;
        answer.map_err(|unanswered| unanswered.last)
    }

    /// As [`Self::on_leader`], for what has effect: a refusal says nothing of an earlier try whose outcome is not
    /// known, unless it is one that is kept under the request id, which is the same for all tries.
    pub(crate) async fn change<T, F, Fut>(
        &self,
        group: GroupId,
        tuning: &Tuning,
        call: F,
    ) -> Result<T, Error>
    where
        F: Fn(Member, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let answer = self.ask(group, tuning, None, call).await;
        answer.map_err(Unanswered::of_change)
    }

    async fn ask<T, F, Fut>(
        &self,
        group: GroupId,
        tuning: &Tuning,
        work_max: Option<Duration>,
        call: F,
    ) -> Result<T, Unanswered>
    where
        F: Fn(Member, Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut maybe = false;
        let mut deadline = Instant::now() + tuning.deadline;
        let mut backoff = BACKOFF_FIRST;
        let mut avoid = None;
        loop {
            let unanswered = |maybe, last| Unanswered { maybe, last };
            let Some(member) = self.pick(group, avoid) else {
                let last = Error::Unavailable {
                    reason: "no-members".to_owned(),
                    message: format!("no {} of this region is known", self.role.as_str()),
                };
                return Err(unanswered(maybe, last));
            };
            let id = member.id;
            let channel = self.channel(&member, Lane::Control, 0);
            let channel = channel.map_err(|error| unanswered(maybe, error))?;
            let asked = Instant::now();
            let left = deadline.saturating_duration_since(asked);
            let limit = work_max.unwrap_or(tuning.try_timeout.min(left));
            let status = match tokio::time::timeout(limit, call(member, channel)).await {
                Ok(Ok(answer)) => {
                    self.leaders.lock().insert(group, id);
                    return Ok(answer);
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer from this member in time"),
            };
            if work_max.is_some() {
                deadline += asked.elapsed();
            }
            avoid = Some(id);
            let fault = Fault::of(&status);
            let hint = transport::fault::leader_hint(&status);
            maybe |= fault == Fault::Unknown;
            let may = fault.retriable() || fault == Fault::Unknown;
            if !may {
                return Err(unanswered(maybe, Error::from_status(&status)));
            }
            tracing::debug!(group = group.0, member = id.0, code = ?status.code(), "trying again");
            let pause = match hint {
                Some(hint) if hint.id != id => {
                    if self.member(hint.id).is_some() {
                        self.leaders.lock().insert(group, hint.id);
                        backoff = BACKOFF_FIRST;
                        Duration::ZERO
                    } else {
                        // A member that came after the last look; it is being looked up.
                        self.forget(group, id);
                        HINT_PAUSE
                    }
                }
                Some(_) => HINT_PAUSE,
                None => {
                    self.forget(group, id);
                    let pause = backoff;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    if backoff == BACKOFF_MAX {
                        // Nobody known is of use: there may be others by now.
                        self.stale.notify_one();
                    }
                    pause
                }
            };
            if Instant::now() + pause >= deadline {
                return Err(unanswered(maybe, Error::from_status(&status)));
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn forget(&self, group: GroupId, id: NodeId) {
        let mut leaders = self.leaders.lock();
        if leaders.get(&group) == Some(&id) {
            leaders.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Error {
        Error::Caller {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn a_refusal_after_a_try_without_answer_leaves_the_outcome_open() {
        let late = |last| Unanswered { maybe: true, last }.of_change();
        for reason in ["key-disabled", "disk-full", "request-too-old"] {
            assert_eq!(late(refused(reason)).fault(), Fault::Unknown, "{reason}");
        }
        let unavailable = Error::Unavailable {
            reason: "not-leader".to_owned(),
            message: String::new(),
        };
        assert_eq!(late(unavailable).fault(), Fault::Unknown);
    }

    #[test]
    fn a_refusal_that_is_kept_under_the_request_id_holds_for_all_tries() {
        let late = |last| Unanswered { maybe: true, last }.of_change();
        let failed = Error::PreconditionFailed { current: None };
        assert_eq!(late(failed).reason(), "precondition-failed");
        assert_eq!(late(Error::NoSuchObject).reason(), "no-such-object");
    }

    #[test]
    fn a_refusal_of_the_only_try_is_what_it_says() {
        let only = |last| Unanswered { maybe: false, last }.of_change();
        assert_eq!(only(refused("disk-full")).reason(), "disk-full");
    }
}
