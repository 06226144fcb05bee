//! The end of a key: scheduled by people under dual control, performed by the leader when it is due.
//!
//! Owns what a schedule asks of policy and approvals, and the driver that destroys. Refuses to schedule or destroy while
//! a hold keeps the dataset or its shard cannot be asked; and to destroy before region time is past due, and where the
//! region has witnesses before they have stated a time past due: a clock that lies must not end a key. Does not reach
//! what stands in logs, snapshots and backups.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::ids::{DatasetId, UnixMs};
use proto::store::Reader;
use proto::v1;
use transport::Peer;
use transport::fault::Chain;

use crate::approvals;
use crate::core::{Core, StaleError};
use crate::keys::{KeyError, UnderDualControl, claim, named};
use crate::ledger::{Command, CommitError};
use crate::word_of_shard::HeldError;

/// Days that a destruction waits.
pub(crate) const DAYS: RangeInclusive<u32> = kms_state::DESTRUCTION_DAYS;
/// Between two rounds of the driver: nobody waits for a destruction.
const ROUND_EVERY: Duration = Duration::from_secs(10);
/// Keys looked at in one round.
const ROUND_KEYS_MAX: usize = 256;
/// Keys of which it is remembered what was said last.
const SAID_MAX: usize = 4096;

/// Why a key is not destroyed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum NotYet {
    /// It was cancelled or is done.
    #[error("its destruction is not pending")]
    OtherState,
    /// By region time.
    #[error("its destruction is not due")]
    Early,
    /// By the time that witnesses state.
    #[error("its destruction is due, and the region's witnesses have stated no time past due yet")]
    Unwitnessed,
}

/// Why this round did not destroy a key.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error(transparent)]
    NotYet(#[from] NotYet),
    #[error("something keeps it, or may")]
    Held(#[from] HeldError),
    #[error("the destruction was not recorded")]
    Commit(#[from] CommitError),
}

/// What witnesses say of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stated {
    /// The region asks none.
    NobodyAsked,
    /// Their quorum's newest word, 0 before the first.
    At(UnixMs),
}

/// Whether a key's destruction is due, and the witnesses' time that says so too.
fn due(key: &v1::KekRecord, now: UnixMs, stated: Stated) -> Result<UnixMs, NotYet> {
    if key.state() != v1::KeyState::PendingDestruction {
        return Err(NotYet::OtherState);
    }
    let due = UnixMs(key.destroy_after_ms);
    if now < due {
        return Err(NotYet::Early);
    }
    match stated {
        Stated::NobodyAsked => Ok(UnixMs(0)),
        Stated::At(at) if at >= due => Ok(at),
        Stated::At(_) => Err(NotYet::Unwitnessed),
    }
}

impl Core {
    /// Schedules the destruction of a disabled or compromised key. The approvals sign exactly this request. A retry has
    /// effect once.
    pub(crate) async fn schedule_destruction(
        &self,
        peer: &Peer,
        mut request: v1::ScheduleKeyDestructionRequest,
    ) -> Result<v1::KeyInfo, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_DESTRUCTION)?;
        let (dataset, request_id) = named(&request.dataset_id, &request.request_id)?;
        if !DAYS.contains(&request.days) {
            return Err(KeyError::Days { days: request.days });
        }
        self.may_change_key(peer, dataset, request.claim.as_ref())?;
        self.not_held(dataset).await?;
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ScheduleKeyDestruction", &request);
        let stated = claim(request.claim.take(), &peer.identity);
        let asked = UnderDualControl {
            peer,
            dataset,
            stated: &stated,
            hash,
            single_use_id: &request.single_use_id,
            approvals: &given,
            takes: "disabled or compromised",
        };
        self.change_under_dual_control(&asked, |key| {
            let change = v1::ChangeKeyState {
                dataset_id: dataset.into(),
                state_version: key.state_version,
                state: v1::KeyState::PendingDestruction.into(),
                claim: Some(stated.clone()),
                destruction_days: request.days,
                request_id: Bytes::copy_from_slice(&request_id),
            };
            Ok(v1::kms_command::Command::ChangeKeyState(change))
        })
        .await?;
        tracing::warn!(%dataset, days = request.days, by = %peer.identity, "key destruction scheduled");
        self.confirm_shard(dataset).await;
        self.key_info(dataset)
    }

    /// Refuses who may not change the key, before a shard is asked on its account.
    pub(crate) fn may_change_key(
        &self,
        peer: &Peer,
        dataset: DatasetId,
        stated: Option<&v1::Claim>,
    ) -> Result<(), KeyError> {
        let state = self.reader().map_err(StaleError::State)?;
        let stated = claim(stated.cloned(), &peer.identity);
        let policy = self.ledger.policy();
        let may = policy.may(&*state, &peer.identity, dataset, v1::Action::Keys, &stated);
        may.map(drop).map_err(KeyError::Denied)
    }

    /// Destroys keys that are due while this replica leads, a page of all keys in each round.
    pub(crate) async fn destroy_due_keys(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut after = None;
        // What was last said of each key that is due and still there: a hold may keep one for years.
        let mut said = HashMap::new();
        loop {
            rounds.tick().await;
            let may = self.at_level(kms_state::LEVEL_DESTRUCTION).is_ok();
            if !may || !self.group.is_leader() || self.serving().is_err() {
                continue;
            }
            let Ok(state) = self.reader() else { return };
            let page = kms_state::keys(&*state, after.as_ref(), ROUND_KEYS_MAX);
            let now = kms_state::region_time(&*state);
            drop(state);
            let id = |key: &v1::KekRecord| DatasetId::try_from(key.dataset_id.as_ref()).ok();
            after = page
                .last()
                .and_then(id)
                .filter(|_| page.len() == ROUND_KEYS_MAX);
            let is_due = |key: &&v1::KekRecord| due(key, now, Stated::NobodyAsked).is_ok();
            for dataset in page.iter().filter(is_due).filter_map(id) {
                match self.destroy_when_due(dataset).await {
                    Ok(()) => {
                        said.remove(&dataset);
                        tracing::warn!(%dataset, "key destroyed: it was due");
                    }
                    Err(error) => {
                        let why = Chain(&error).to_string();
                        if said.get(&dataset) != Some(&why) {
                            tracing::warn!(%dataset, error = %why, "due key not destroyed");
                        }
                        if said.len() < SAID_MAX || said.contains_key(&dataset) {
                            said.insert(dataset, why);
                        }
                    }
                }
            }
        }
    }

    async fn destroy_when_due(&self, dataset: DatasetId) -> Result<(), EndError> {
        self.not_held(dataset).await?;
        self.ledger
            .command::<EndError>(self.identity(), self.deadline(), |state| {
                let key = kms_state::key(state, &dataset).ok_or(NotYet::OtherState)?;
                let now = kms_state::region_time(state);
                let witnessed_at = due(&key, now, self.stated_time(state))?;
                let destroy = v1::DestroyKek {
                    dataset_id: dataset.into(),
                    state_version: key.state_version,
                    witnessed_at_ms: witnessed_at.0,
                };
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: v1::kms_command::Command::DestroyKek(destroy),
                })
            })
            .await?;
        self.custody.clear();
        self.confirm_shard(dataset).await;
        Ok(())
    }

    fn stated_time(&self, state: &dyn Reader) -> Stated {
        let Some(rule) = self.rules.in_force(state) else {
            return Stated::NobodyAsked;
        };
        let held = self.checkpoints.now();
        let heard = held.witnessed_under(&rule);
        let seconds = heard.map_or(0, |witnessed| witnessed.as_of.get());
        Stated::At(UnixMs(seconds.saturating_mul(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> v1::KekRecord {
        let mut key = v1::KekRecord {
            destroy_after_ms: 5_000,
            ..v1::KekRecord::default()
        };
        key.set_state(v1::KeyState::PendingDestruction);
        key
    }

    #[test]
    fn a_key_is_due_by_region_time_and_by_what_witnesses_state() {
        let at = |now, stated| due(&pending(), UnixMs(now), stated);
        let witness = |ms| Stated::At(UnixMs(ms));
        assert_eq!(at(4_999, Stated::NobodyAsked), Err(NotYet::Early));
        assert_eq!(at(4_999, witness(9_000)), Err(NotYet::Early));
        assert_eq!(at(5_000, witness(4_999)), Err(NotYet::Unwitnessed));
        assert_eq!(at(5_000, witness(0)), Err(NotYet::Unwitnessed));
        assert_eq!(at(5_000, witness(5_000)), Ok(UnixMs(5_000)));
        assert_eq!(at(5_000, Stated::NobodyAsked), Ok(UnixMs(0)));
    }

    #[test]
    fn a_key_in_any_other_state_is_not_due() {
        for state in [
            v1::KeyState::Enabled,
            v1::KeyState::Disabled,
            v1::KeyState::Compromised,
            v1::KeyState::Destroyed,
        ] {
            let mut key = pending();
            key.set_state(state);
            let judged = due(&key, UnixMs(u64::MAX), Stated::NobodyAsked);
            assert_eq!(judged, Err(NotYet::OtherState), "{state:?}");
        }
    }
}
