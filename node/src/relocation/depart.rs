//! Steps of a departure at the shard's leader.
//!
//! Owns what each step has to show: a grant that two operators approved, or words of the destination's replicas. Refuses
//! everybody but operators of this region, and gateways and KMS replicas of the one that the departure names.

use bytes::Bytes;
use node_state::relocation::Authority;
use node_state::{ShardMeta, feed, limits, read};
use proto::ids::{DatasetId, Identity, LogIndex, RegionId, Role};
use proto::relocation::{Named, words};
use proto::store::Reader;
use proto::v1;
use proto::v1::Action;
use proto::v1::depart::Step;
use proto::v1::departure_step_request::Step as Asks;
use proto::v1::shard_command::Command;
use transport::Peer;
use transport::enrolment::EnrolmentTable;
use transport::panel::{Panel, WordError};

use super::Who;
use super::states::leaving;
use crate::approvals::{Asked, approvers, request_hash};
use crate::core::{Core, Decision, Room};
use crate::error::CallError;

impl Core {
    /// Lets a destination read changes. What two operators approved for who asks is the KMS's grant; a majority of the KMS's
    /// replicas has to say that it is open.
    pub(super) async fn open_departure(
        &self,
        peer: &Peer,
        request: v1::OpenDepartureRequest,
    ) -> Result<v1::Done, CallError> {
        let Who::Operator = self.who(peer)? else {
            return Err(not_granted(peer));
        };
        let none = CallError::Malformed("it has no grant of keys");
        let mut grant = request.grant.ok_or(none)?;
        let given = std::mem::take(&mut grant.approvals);
        let none = || CallError::Malformed("its grant names no hand-over key");
        let signed = grant.key.as_ref().ok_or_else(none)?;
        let key = signed.key.as_ref().ok_or_else(none)?;
        let destination: RegionId = signed.destination.parse()?;
        let (shard, named) = self.relocated(Some(&v1::Relocated {
            shard: request.shard,
            dataset_id: key.dataset_id.clone(),
            relocation_id: key.relocation_id.clone(),
        }))?;
        let asked = Asked {
            requester: &peer.identity,
            request_hash: request_hash("GrantHandOver", &grant),
            single_use_id: &grant.single_use_id,
            now: self.clock.now(),
        };
        let open = (destination.as_str(), &key.hand_over_key_id);
        self.decide_shard(&shard.group, Room::Reserved, Bytes::new(), |table, _| {
            self.check(table, peer, Some(&named.dataset), &[Action::Keys])?;
            let approvers = approvers(table, &asked, &given)?;
            if table.trusted(&destination).is_none() {
                return Err(WordError::NotTrusted(destination.clone()).into());
            }
            let granted = |said: &v1::HandOverState| {
                words::granted(said).filter(|(to, key)| (to.as_str(), key) == open)
            };
            Panel::own_kms(table).hear(&named, &request.keys, granted)?;
            let begin = Step::Begin(v1::BeginDeparture {
                destination: destination.to_string(),
                from_version: request.from_version,
                approvals: Some(by(&peer.identity, approvers)),
            });
            Ok(departs(&named, begin, None))
        })
        .await
    }

    /// One step of a departure that is open, or its end.
    pub(super) async fn step_departure(
        &self,
        peer: &Peer,
        request: v1::DepartureStepRequest,
    ) -> Result<v1::Done, CallError> {
        let who = self.who(peer)?;
        let (shard, named) = self.relocated(request.of.as_ref())?;
        let none = CallError::Malformed("it has no step");
        let asks = request.step.as_ref().ok_or(none)?;
        // Before the signatures: who does not lead need not check them.
        self.leading(&shard.group)?;
        self.decide_shard(
            &shard.group,
            Room::Reserved,
            Bytes::new(),
            |table, state| {
                self.may_step(table, state, (peer, &who), &named, asks)?;
                let (step, vouch) = match asks {
                    Asks::Taken(through) => (Step::Taken(*through), None),
                    Asks::Fence(fence) => (Step::Fence(*fence), None),
                    Asks::Revert(fence) => (Step::Revert(*fence), None),
                    Asks::End(from) => (Step::End(*from), None),
                    Asks::Moved(_) => {
                        let heard = self.destination(table, state, &named)?.hear(
                            &named,
                            &request.said,
                            words::proposed,
                        )?;
                        (Step::Moved(heard.record), Some(heard.vouch))
                    }
                    Asks::Superseded(_) => {
                        let heard = self.destination(table, state, &named)?.hear(
                            &named,
                            &request.said,
                            words::forced,
                        )?;
                        (Step::Superseded(heard.record), Some(heard.vouch))
                    }
                    Asks::Finish(_) => {
                        let kms = Panel::own_kms(table);
                        let heard = kms.hear_all(&named, &request.keys, words::shredded)?;
                        (Step::Finish(true), Some(heard.vouch))
                    }
                };
                Ok(departs(&named, step, vouch))
            },
        )
        .await
    }

    /// Storage nodes of the region that the departure leads to.
    fn destination(
        &self,
        table: &EnrolmentTable,
        state: &dyn Reader,
        named: &Named,
    ) -> Result<Panel, CallError> {
        let to = leaving(state, named);
        let to = to.ok_or_else(|| CallError::refused(v1::Refusal::NotUnderWay))?;
        Ok(Panel::abroad(table, &to, Role::Node, self.clock.now())?)
    }

    /// The destination's mover goes from step to step, and anybody who is concerned may stop. What would begin nothing, the
    /// end of a relocation that never was, is for operators: it is in the way of any other.
    fn may_step(
        &self,
        table: &EnrolmentTable,
        state: &dyn Reader,
        (peer, who): (&Peer, &Who),
        named: &Named,
        asks: &Asks,
    ) -> Result<(), CallError> {
        match (who, asks) {
            (
                Who::Operator,
                Asks::Revert(_) | Asks::End(_) | Asks::Superseded(_) | Asks::Finish(_),
            ) => self.check(table, peer, Some(&named.dataset), &[Action::Keys]),
            (Who::OwnKms, Asks::Finish(_)) => Ok(()),
            (
                Who::Abroad(_),
                Asks::Taken(_)
                | Asks::Fence(_)
                | Asks::Revert(_)
                | Asks::Moved(_)
                | Asks::Superseded(_)
                | Asks::End(_),
            ) => leads_there(state, who, named),
            _ => Err(not_granted(peer)),
        }
    }

    /// Where a departure is, by counts that stand in the state.
    pub(super) async fn departure_status(
        &self,
        peer: &Peer,
        of: v1::Relocated,
    ) -> Result<v1::DepartureStatus, CallError> {
        let who = self.who(peer)?;
        let (shard, named) = self.relocated(Some(&of))?;
        if who == Who::Operator {
            let table = self.enrolments.current();
            self.check(&table, peer, Some(&named.dataset), &[Action::Keys])?;
        }
        let (view, index) = self.read(&shard.group).await?;
        let state = &*view.state;
        leads_there(state, &who, &named)?;
        let dataset = read::dataset(state, &named.dataset).ok_or(CallError::NoSuchDataset)?;
        let authority = Authority::stored(&dataset);
        let taken = authority.departure().map(|departure| departure.taken);
        let changes = taken.map_or(0, |taken| changes_after(state, &named.dataset, taken));
        let meta = ShardMeta::load(state);
        Ok(v1::DepartureStatus {
            shard: shard.group.id().0,
            at_index: index.0,
            upload_epoch: meta.upload_epoch.0,
            changes,
            fence_ends_ms: feed::fence_due(state, &named.dataset).map_or(0, |due| due.0),
            time_ms: meta.time.0,
            level: shard.group.level().0,
            dataset: Some(dataset),
        })
    }
}

/// Refuses those abroad where the relocation does not lead to their region; there is no more to be said to them.
pub(super) fn leads_there(state: &dyn Reader, who: &Who, named: &Named) -> Result<(), CallError> {
    let Who::Abroad(region) = who else {
        return Ok(());
    };
    match leaving(state, named) {
        Some(to) if to == *region => Ok(()),
        _ => Err(CallError::refused(v1::Refusal::NotUnderWay)),
    }
}

pub(super) fn not_granted(peer: &Peer) -> CallError {
    CallError::NotGranted {
        identity: peer.identity.clone(),
    }
}

pub(super) fn by(requester: &Identity, approvers: Vec<String>) -> v1::Approvals {
    v1::Approvals {
        requester: requester.to_string(),
        approvers,
    }
}

fn changes_after(state: &dyn Reader, dataset: &DatasetId, after: LogIndex) -> u32 {
    let changes = read::changes(state, dataset, after, limits::IMPORTS_MAX);
    u32::try_from(changes.len()).unwrap_or(u32::MAX)
}

fn departs(named: &Named, step: Step, vouch: Option<v1::Vouch>) -> Decision {
    Decision {
        key_state_version: 0,
        command: Command::Depart(v1::Depart {
            dataset_id: named.dataset.into(),
            relocation_id: named.relocation.into(),
            vouch,
            step: Some(step),
        }),
    }
}
