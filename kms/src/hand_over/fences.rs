//! Grants that are paused under a fence, until their own shard says what became of it.
//!
//! Owns the only way out of a pause. Refuses to take silence for a revert: where the shard cannot be asked, nothing is
//! handed over.

use std::sync::Arc;
use std::time::Duration;

use proto::relocation::Named;
use proto::v1;
use proto::v1::set_hand_over::Step;
use transport::fault::Chain;

use super::{HandOverError, set};
use crate::confirm::ConfirmError;
use crate::core::Core;

/// Between two rounds: a fence stands for a few seconds.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Why a paused grant stays so for now.
#[derive(Debug, thiserror::Error)]
enum StillPaused {
    #[error("the dataset's shard was not heard")]
    NotAsked(#[from] ConfirmError),
    #[error("what it said was not put on record")]
    NotSaid(#[from] HandOverError),
}

/// What a dataset's shard, heard after a fence, says of that fence of a relocation.
fn became(dataset: &v1::DatasetRecord, named: Named, fence: u64) -> Option<Step> {
    let authority = dataset.authority.clone().unwrap_or_default();
    let departure = authority.departure.as_ref();
    let under_way =
        departure.is_some_and(|departure| departure.relocation_id[..] == named.relocation.0[..]);
    match (authority.standing(), under_way) {
        // Another fence of the same relocation: this one was reverted, and the pause is asked for again.
        (v1::Standing::Fenced, true) if authority.fence > fence => Some(Step::Resume(fence)),
        (v1::Standing::Active, true) => Some(Step::Resume(fence)),
        // It is over, and was not moved.
        (v1::Standing::Active, false) => Some(Step::Close(v1::CloseHandOver {})),
        _ => None,
    }
}

impl Core {
    /// Looks after paused grants while this replica leads, for as long as it runs.
    pub(crate) async fn follow_fences(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if !self.group.is_leader() || self.serving().is_err() {
                continue;
            }
            let Ok(state) = self.reader() else { return };
            let mut grants = kms_state::hand_over_grants(&*state);
            drop(state);
            grants.retain(|grant| grant.stage() == v1::HandOverStage::Paused);
            for grant in grants {
                let Ok(named) = Named::parse(&grant.dataset_id, &grant.relocation_id) else {
                    continue;
                };
                if let Err(error) = self.look_at_fence(named, grant.fence).await {
                    tracing::debug!(relocation = %named.relocation, error = %Chain(&error), "grant still paused");
                }
            }
        }
    }

    async fn look_at_fence(&self, named: Named, fence: u64) -> Result<(), StillPaused> {
        let Some(dataset) = self.ask_shard(named.dataset).await? else {
            return Ok(());
        };
        let Some(step) = became(&dataset, named, fence) else {
            return Ok(());
        };
        self.relocate(self.identity(), set(named, step)).await?;
        tracing::info!(relocation = %named.relocation, fence, "the shard has said what became of the fence");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{DatasetId, RelocationId};

    use super::*;

    const NAMED: Named = Named {
        relocation: RelocationId([7; 16]),
        dataset: DatasetId([8; 16]),
    };

    fn said(standing: v1::Standing, fence: u64, relocation: Option<u8>) -> Option<Step> {
        let departure = relocation.map(|n| v1::Departure {
            relocation_id: vec![n; 16].into(),
            ..v1::Departure::default()
        });
        let authority = v1::AuthorityRecord {
            standing: standing.into(),
            fence,
            departure,
            ..v1::AuthorityRecord::default()
        };
        let dataset = v1::DatasetRecord {
            authority: Some(authority),
            ..v1::DatasetRecord::default()
        };
        became(&dataset, NAMED, 9)
    }

    #[test]
    fn a_grant_opens_again_only_where_the_shard_is_past_that_fence_and_did_not_move() {
        use v1::Standing::{Active, Diverged, Fenced, Moved, Unconfirmed};
        assert_eq!(said(Fenced, 9, Some(7)), None);
        assert_eq!(said(Fenced, 8, Some(7)), None);
        assert_eq!(said(Fenced, 12, Some(7)), Some(Step::Resume(9)));
        assert_eq!(said(Active, 0, Some(7)), Some(Step::Resume(9)));
        let closes = Some(Step::Close(v1::CloseHandOver {}));
        assert_eq!(said(Active, 0, None), closes);
        assert_eq!(said(Active, 0, Some(1)), closes);
        for settled in [Moved, Diverged, Unconfirmed] {
            assert_eq!(said(settled, 0, Some(7)), None, "{settled:?}");
        }
    }
}
