//! The end of a source's key: asked for by people once its dataset has moved, on the evidence of both shards.
//!
//! Owns the collecting of that evidence: what the own shard states now, and the destination's nodes' signed words, counted by
//! the descriptor that is held. Refuses a dataset that was opened there by force. Whether the evidence is enough is the
//! state's to say.

use bytes::Bytes;
use proto::ids::Role;
use proto::relocation::{Named, words};
use proto::store::Reader;
use proto::v1;
use proto::v1::kms_command::Command as What;
use transport::Peer;
use transport::panel::Panel;

use super::{HandOverError, region_id};
use crate::approvals;
use crate::core::Core;
use crate::destruction::DAYS;
use crate::keys::{KeyError, UnderDualControl, claim};
use crate::opens::request_id;

/// By what the own shard states that a dataset moved.
fn moved(dataset: v1::DatasetRecord) -> Option<v1::MovedRecord> {
    let authority = dataset.authority?;
    match authority.standing() {
        v1::Standing::Moved => authority.moved,
        // Written here after it was opened there by force: its key opens what is nowhere else.
        _ => None,
    }
}

/// By what the dataset is served there, once its people have let the source destroy its key: the hold is over.
fn lets_go(word: &v1::ArrivalState) -> Option<v1::MovedRecord> {
    use v1::ArrivalPhase::{Certified, Shred};
    words::served(word).filter(|_| matches!(word.phase(), Shred | Certified))
}

impl Core {
    /// Schedules the end of a key whose dataset has moved. The approvals sign exactly this request, its words included. A
    /// retry has effect once.
    pub(crate) async fn shred_key(
        &self,
        peer: &Peer,
        mut request: v1::ShredKeyRequest,
    ) -> Result<v1::KeyInfo, HandOverError> {
        self.changes_relocations(peer)?;
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let dataset = named.dataset;
        let id = request_id(&request.request_id).ok_or(HandOverError::Malformed {
            field: "request id",
        })?;
        if !DAYS.contains(&request.days) {
            return Err(KeyError::Days { days: request.days }.into());
        }
        self.may_change_key(peer, dataset, request.claim.as_ref())?;
        let moved = self.ask_shard(dataset).await?.and_then(moved);
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ShredKey", &request);
        let stated = claim(request.claim.take(), &peer.identity);
        let asked = UnderDualControl {
            peer,
            dataset,
            stated: &stated,
            hash,
            single_use_id: &request.single_use_id,
            approvals: &given,
            takes: "enabled, disabled or compromised",
        };
        self.relocate_under_dual_control(&asked, |state| {
            let heard = self.served(state, named, &request.served)?;
            let key = kms_state::key(state, &dataset);
            let key = key.ok_or(HandOverError::NoSuchKey(dataset))?;
            Ok(What::ShredKey(v1::ShredKey {
                dataset_id: dataset.into(),
                state_version: key.state_version,
                relocation_id: named.relocation.into(),
                moved: moved.clone(),
                served: Some(heard.0),
                served_by: Some(heard.1),
                days: request.days,
                claim: Some(stated.clone()),
                request_id: Bytes::copy_from_slice(&id),
            }))
        })
        .await?;
        tracing::warn!(relocation = %named.relocation, %dataset, days = request.days, by = %peer.identity, "key of a moved dataset is to be destroyed");
        // Unwrapped copies are unfindable from now on; this frees their slots at once.
        self.custody.clear();
        self.confirm_shard(dataset).await;
        Ok(self.key_info(dataset)?)
    }

    /// By what a majority of the destination's nodes serve the dataset, and who they are.
    fn served(
        &self,
        state: &dyn Reader,
        named: Named,
        said: &[v1::SignedArrivalState],
    ) -> Result<(v1::MovedRecord, v1::Vouch), HandOverError> {
        let none = HandOverError::NoSuch(named.relocation);
        let grant = kms_state::hand_over_grant(state, &named.relocation);
        let terms = grant.and_then(|grant| grant.terms).ok_or(none)?;
        let destination = region_id(&terms.destination, "destination")?;
        let table = self.enrolments.current();
        let panel = Panel::abroad(&table, &destination, Role::Node, self.now())?;
        let heard = panel.hear(&named, said, lets_go)?;
        Ok((heard.record, heard.vouch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_that_diverged_did_not_move_for_good() {
        use v1::Standing::{Active, Diverged, Fenced, Moved, Unconfirmed};
        let stated = |standing: v1::Standing| {
            let record = v1::MovedRecord {
                fence: 9,
                ..v1::MovedRecord::default()
            };
            let authority = v1::AuthorityRecord {
                standing: standing.into(),
                moved: Some(record),
                ..v1::AuthorityRecord::default()
            };
            moved(v1::DatasetRecord {
                authority: Some(authority),
                ..v1::DatasetRecord::default()
            })
        };
        assert_eq!(stated(Moved).map(|moved| moved.fence), Some(9));
        for other in [Active, Fenced, Diverged, Unconfirmed] {
            assert_eq!(stated(other), None, "{other:?}");
        }
        assert_eq!(moved(v1::DatasetRecord::default()), None);
    }

    #[test]
    fn a_key_ends_once_the_hold_is_over_and_never_on_peoples_word_alone() {
        use v1::ArrivalPhase::{Certified, Cutover, Hold, Shred};
        let said = |phase: v1::ArrivalPhase, by_force| v1::ArrivalState {
            phase: phase.into(),
            moved: Some(v1::MovedRecord::default()),
            by_force,
            ..v1::ArrivalState::default()
        };
        let phases = [
            (Cutover, false),
            (Hold, false),
            (Shred, true),
            (Certified, true),
        ];
        for (phase, goes) in phases {
            assert_eq!(lets_go(&said(phase, false)).is_some(), goes, "{phase:?}");
            assert_eq!(lets_go(&said(phase, true)), None);
        }
    }
}
