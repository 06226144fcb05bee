//! The destination's ends: an abort before the cutover, and after it the end of the source's keys and of the own one.
//!
//! Owns the order of what is ended, and that what was done before is not done again. Refuses words of another region or
//! relocation.

use proto::ids::{GroupId, RegionId, RelocationId};
use proto::relocation::{Named, words};
use proto::v1;
use proto::v1::ArrivalPhase as Phase;
use proto::v1::arrival_step_request::Step;
use proto::v1::kms_client::KmsClient;

use super::destination::{named_of, phase_of};
use super::words::{RelocationWords, known_key, saying};
use super::{malformed, relocated};
use crate::error::Error;
use crate::region::{Region, random_id};

/// What an end came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Where it is now.
    pub phase: Phase,
    /// Whether the own hand-over key is destroyed.
    pub key_ended: bool,
}

impl Region {
    /// Gives a relocation up before its cutover. With words of the source it comes to its end: that its shard has ended it, and
    /// that its KMS hands nothing over any more. Under a fence it is a wish: what the source says decides.
    pub async fn abort_arrival(
        &self,
        relocation: &RelocationId,
        said: Option<&RelocationWords>,
    ) -> Result<v1::ArrivalStatus, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let of = relocated(&named, GroupId(status.shard));
        if let Some(said) = said {
            said.are_of(&source_of(&status)?, &named)?;
        }
        if !matches!(phase_of(&status), Phase::Aborting | Phase::Aborted) {
            self.step_arrival(v1::ArrivalStepRequest {
                of: Some(of.clone()),
                step: Some(Step::Abort(true)),
                ..Default::default()
            })
            .await?;
        }
        let now = self.arrival_again(&named, GroupId(of.shard)).await?;
        if phase_of(&now) != Phase::Aborting {
            return Ok(now);
        }
        let brought = self.bring_ends(&now, &named, said).await;
        let now = self.arrival_again(&named, GroupId(of.shard)).await?;
        match brought {
            // A gateway brings the same, and may have been faster.
            Err(error) if phase_of(&now) != Phase::Aborted => Err(error),
            _ => Ok(now),
        }
    }

    /// What is left of an abort: the end of the own key, and what the source has said.
    async fn bring_ends(
        &self,
        status: &v1::ArrivalStatus,
        named: &Named,
        said: Option<&RelocationWords>,
    ) -> Result<(), Error> {
        self.end_hand_over(status, named).await?;
        let Some(said) = said else {
            return Ok(());
        };
        let held = status.arrival.clone().unwrap_or_default();
        let step = |step| v1::ArrivalStepRequest {
            of: Some(relocated(named, GroupId(status.shard))),
            step: Some(step),
            ..Default::default()
        };
        if !held.ended && !said.departures.is_empty() {
            self.step_arrival(v1::ArrivalStepRequest {
                said: said.departures.clone(),
                ..step(Step::Ended(true))
            })
            .await?;
        }
        if held.released.is_none() && !said.keys.is_empty() {
            self.step_arrival(v1::ArrivalStepRequest {
                keys: said.keys.clone(),
                ..step(Step::Closed(true))
            })
            .await?;
        }
        Ok(())
    }

    /// Destroys the own hand-over key, and tells the shard. What was done of it before is not done again.
    async fn end_hand_over(&self, status: &v1::ArrivalStatus, named: &Named) -> Result<(), Error> {
        let held = status.arrival.clone().unwrap_or_default();
        if held.erased {
            return Ok(());
        }
        let heard = self.hand_over_words(named).await;
        let ended = |state: &v1::HandOverState| words::receives_no_more(state).then_some(());
        if saying(&heard, ended) == 0 {
            let known = known_key(&heard).map(|key| key.hand_over_key_id);
            let known = known.unwrap_or(held.hand_over_key_id);
            let request = v1::EndHandOverKeyRequest {
                relocation_id: named.relocation.into(),
                dataset_id: named.dataset.into(),
                hand_over_key_id: known,
            };
            let end = |_, channel| {
                let (mut kms, request) = (KmsClient::new(channel), request.clone());
                async move { Ok(kms.end_hand_over_key(request).await?.into_inner()) }
            };
            let pool = self.keys().pool();
            pool.on_leader(GroupId::KMS, &self.0.tuning, end).await?;
        }
        self.once_applied(|| async {
            self.step_arrival(v1::ArrivalStepRequest {
                of: Some(relocated(named, GroupId(status.shard))),
                keys: self.hand_over_words(named).await,
                step: Some(Step::HandOverEnded(true)),
                ..Default::default()
            })
            .await
        })
        .await
        .map(drop)
    }

    /// A request to let the source destroy its keys, after the hold. Where the region has witnesses their newest word on the
    /// time goes with it.
    pub async fn shred_request(
        &self,
        relocation: &RelocationId,
    ) -> Result<v1::ArrivalStepRequest, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let checkpoint = self.keys().checkpoint().await?.witnessed;
        Ok(v1::ArrivalStepRequest {
            of: Some(relocated(&named, GroupId(status.shard))),
            single_use_id: random_id()?,
            step: Some(Step::Shred(v1::ShredRelocation { checkpoint })),
            ..Default::default()
        })
    }

    /// Lets the source destroy its keys, as two operators approved it.
    pub async fn shred_relocation(
        &self,
        request: v1::ArrivalStepRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<(), Error> {
        if !matches!(request.step, Some(Step::Shred(_))) {
            return Err(malformed("what was approved shreds nothing"));
        }
        let request = v1::ArrivalStepRequest {
            approvals,
            ..request
        };
        self.step_arrival(request).await.map(drop)
    }

    /// The end: takes the source's word that its keys are destroyed, and destroys the own hand-over key.
    pub async fn finish_arrival(
        &self,
        relocation: &RelocationId,
        said: Option<&RelocationWords>,
    ) -> Result<Finished, Error> {
        let status = self.arrival(relocation).await?;
        let named = named_of(&status)?;
        let shard = GroupId(status.shard);
        if phase_of(&status) == Phase::Shred {
            self.end_hand_over(&status, &named).await?;
            let held = status.arrival.clone().unwrap_or_default();
            if let Some(said) = said.filter(|_| !held.shredded) {
                said.are_of(&source_of(&status)?, &named)?;
                self.step_arrival(v1::ArrivalStepRequest {
                    of: Some(relocated(&named, shard)),
                    keys: said.keys.clone(),
                    step: Some(Step::Shredded(true)),
                    ..Default::default()
                })
                .await?;
            }
        }
        let now = self.arrival_again(&named, shard).await?;
        let phase = phase_of(&now);
        let erased = now.arrival.is_some_and(|arrival| arrival.erased);
        Ok(Finished {
            phase,
            key_ended: erased || phase == Phase::Certified,
        })
    }
}

fn source_of(status: &v1::ArrivalStatus) -> Result<RegionId, Error> {
    let terms = status
        .arrival
        .as_ref()
        .and_then(|arrival| arrival.terms.clone());
    Ok(terms.unwrap_or_default().source.parse()?)
}
