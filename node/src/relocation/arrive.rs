//! Steps of an arrival at the shard's leader.
//!
//! Owns what each step has to show: words of the source's replicas, of its KMS or of the own one, or two operators besides
//! who asks. Refuses everybody but this region's operators and the gateways that move the dataset. What all copies come to
//! is counted here, and not taken from who compared them.

use bytes::Bytes;
use node_state::read;
use node_state::shard::MOVER_LEVEL;
use proto::ids::{LogIndex, RegionId, Role, UnixMs};
use proto::relocation::{Named, words};
use proto::v1;
use proto::v1::arrival_step_request::Step as Asks;
use proto::v1::arrive::Step;
use proto::v1::shard_command::Command;
use transport::Peer;
use transport::enrolment::EnrolmentTable;
use transport::panel::{Heard, Panel};

use super::Who;
use super::copies::Counted;
use super::depart::{by, not_granted};
use crate::approvals::{Asked, approvers, request_hash};
use crate::core::{Core, Decision, Room};
use crate::error::CallError;
use crate::groups::Shard;
use crate::shard::at_level;

/// Words and approvals of one request.
struct Shown<'a> {
    request: &'a v1::ArrivalStepRequest,
    source: RegionId,
    from_version: u64,
    named: Named,
    /// What all copies come to.
    counted: Option<Counted>,
}

type Stepped = Result<(Step, Option<v1::Vouch>, Option<v1::Approvals>), CallError>;

impl Core {
    pub(super) async fn step_arrival(
        &self,
        peer: &Peer,
        request: v1::ArrivalStepRequest,
    ) -> Result<v1::Done, CallError> {
        let (shard, named) = self.relocated(request.of.as_ref())?;
        let none = CallError::Malformed("it has no step");
        let asks = request.step.as_ref().ok_or(none)?;
        // Before the signatures, and before all is read.
        self.leading(&shard.group)?;
        self.may_move(&self.enrolments.current(), peer, &named.dataset)?;
        self.may_ask(peer, asks)?;
        if matches!(asks, Asks::Pace(_) | Asks::Claim(_)) {
            at_level(&shard.group, MOVER_LEVEL)?;
        }
        let counted = match asks {
            Asks::Compared(_) => Some(self.counted(&shard, &named).await?),
            _ => None,
        };
        let terms = self.terms_of(&shard, &named)?;
        let shown = Shown {
            request: &request,
            source: terms.source.parse()?,
            from_version: terms.from_version,
            named,
            counted,
        };
        self.decide_shard(&shard.group, Room::Reserved, Bytes::new(), |table, _| {
            self.may_move(table, peer, &named.dataset)?;
            let (step, vouch, approvals) = self.arrival_step(table, peer, &shown, asks)?;
            Ok(arrives(&named, step, vouch, approvals))
        })
        .await
    }

    /// Some steps are for people alone, and one is for who moves.
    fn may_ask(&self, peer: &Peer, asks: &Asks) -> Result<(), CallError> {
        let may = match asks {
            Asks::Force(_) | Asks::Shred(_) | Asks::Pace(_) => self.who(peer)? == Who::Operator,
            Asks::Claim(_) => peer.identity.role() == Role::Gateway,
            _ => true,
        };
        match may {
            true => Ok(()),
            false => Err(not_granted(peer)),
        }
    }

    /// What was planned.
    fn terms_of(&self, shard: &Shard, named: &Named) -> Result<v1::ArrivalTerms, CallError> {
        let (view, _) = self.view(&shard.group)?;
        let none = || CallError::refused(v1::Refusal::NotUnderWay);
        let held = read::arrival(&*view.state, &named.dataset)
            .filter(|held| held.relocation_id == named.relocation.as_bytes()[..])
            .ok_or_else(none)?;
        held.terms.ok_or_else(none)
    }

    fn arrival_step(
        &self,
        table: &EnrolmentTable,
        peer: &Peer,
        shown: &Shown<'_>,
        asks: &Asks,
    ) -> Stepped {
        let now = self.clock.now();
        let plain = |step: v1::ArrivalStep| Step::Plain(step.into());
        let alone = |step| Ok((step, None, None));
        match asks {
            Asks::CopyAgain(base) => alone(Step::CopyAgain(*base)),
            Asks::CatchUp(_) => alone(plain(v1::ArrivalStep::CatchUp)),
            Asks::Verify(_) => alone(plain(v1::ArrivalStep::Verify)),
            Asks::Abort(_) => alone(plain(v1::ArrivalStep::Abort)),
            Asks::HoldUntilMs(until) => alone(Step::HoldUntilMs(*until)),
            Asks::Compared(copies) => alone(shown.comparison(copies)?),
            Asks::Pace(pace) => alone(Step::Pace(*pace)),
            Asks::Claim(claim) => alone(Step::Claim(v1::ClaimArrival {
                mover: peer.identity.to_string(),
                ..claim.clone()
            })),
            Asks::Force(_) => {
                let approvals = self.approved(table, peer, shown, "ForceRelocation")?;
                Ok((plain(v1::ArrivalStep::Force), None, Some(approvals)))
            }
            Asks::Shred(shred) => {
                let approvals = self.approved(table, peer, shown, "ShredRelocation")?;
                let witnessed_ms = witnessed(table, &shred.checkpoint)?;
                let step = Step::Shred(v1::Shred { witnessed_ms });
                Ok((step, None, Some(approvals)))
            }
            Asks::HandOverEnded(_) => {
                let ended = |said: &v1::HandOverState| words::receives_no_more(said).then_some(());
                let own = Panel::own_kms(table);
                let heard = own.hear(&shown.named, &shown.request.keys, ended)?;
                let step = plain(v1::ArrivalStep::HandOverEnded);
                Ok((step, Some(heard.vouch), None))
            }
            _ => shown.heard(table, now, asks),
        }
    }

    /// Two operators besides who asks, as the region wants them.
    fn approved(
        &self,
        table: &EnrolmentTable,
        peer: &Peer,
        shown: &Shown<'_>,
        method: &str,
    ) -> Result<v1::Approvals, CallError> {
        let asked_for = v1::ArrivalStepRequest {
            approvals: Vec::new(),
            ..shown.request.clone()
        };
        let asked = Asked {
            requester: &peer.identity,
            request_hash: request_hash(method, &asked_for),
            single_use_id: &shown.request.single_use_id,
            now: self.clock.now(),
        };
        let approvers = approvers(table, &asked, &shown.request.approvals)?;
        Ok(by(&peer.identity, approvers))
    }
}

impl Shown<'_> {
    fn comparison(&self, copies: &v1::ComparedCopies) -> Result<Step, CallError> {
        let none = CallError::Malformed("nothing was counted");
        let counted = self.counted.clone().ok_or(none)?;
        Ok(Step::Compared(v1::Compared {
            fence: copies.fence,
            root: counted.root,
            equal: copies.equal,
            total: counted.total,
            at: counted.at.0,
        }))
    }

    /// What another region's replicas have to say.
    fn heard(&self, table: &EnrolmentTable, now: UnixMs, asks: &Asks) -> Stepped {
        let nodes = || Panel::abroad(table, &self.source, Role::Node, now);
        let kms = || Panel::abroad(table, &self.source, Role::Kms, now);
        let (said, keys) = (&self.request.said, &self.request.keys);
        let named = &self.named;
        let by = |step, vouch| Ok((step, Some(vouch), None));
        match asks {
            Asks::Copy(_) => {
                let opened = nodes()?.hear(named, said, words::opened)?;
                let own = table.region().as_str();
                let to_us = |said: &v1::HandOverState| {
                    words::granted(said).filter(|(to, _)| to.as_str() == own)
                };
                let granted = kms()?.hear(named, keys, to_us)?;
                let copy = v1::BeginCopy {
                    base: opened.record.0,
                    hand_over_key_id: granted.record.1,
                    granted: Some(granted.vouch),
                };
                by(Step::Copy(copy), opened.vouch)
            }
            Asks::Fenced(_) => {
                let heard: Heard<words::Fenced, v1::DepartureState> =
                    nodes()?.hear(named, said, words::fenced)?;
                let epochs = heard.words.iter().map(|word| word.request_epoch);
                let fence = v1::ArrivalFence {
                    epoch: heard.record.epoch,
                    fence: heard.record.fence,
                    root: Bytes::copy_from_slice(&heard.record.root),
                    upload_epoch: epochs.max().unwrap_or_default(),
                };
                by(Step::Fenced(fence), heard.vouch)
            }
            Asks::Paused(_) => {
                let heard = kms()?.hear(named, keys, words::paused)?;
                let (fence, released) = heard.record;
                let paused = v1::Paused {
                    fence: fence.0,
                    released: Some(released),
                };
                by(Step::Paused(paused), heard.vouch)
            }
            Asks::Moved(_) => {
                let heard = nodes()?.hear(named, said, words::moved)?;
                by(Step::Moved(heard.record), heard.vouch)
            }
            Asks::Reverted(fence) => {
                let over = |word: &v1::DepartureState| {
                    words::reverted(word, LogIndex(*fence)).then_some(())
                };
                let heard = nodes()?.hear(named, said, over)?;
                by(Step::Reverted(*fence), heard.vouch)
            }
            Asks::Ended(_) => {
                let from = self.from_version;
                let over = |word: &v1::DepartureState| words::ended(word, from).then_some(());
                let heard = nodes()?.hear(named, said, over)?;
                by(Step::Plain(v1::ArrivalStep::Ended.into()), heard.vouch)
            }
            Asks::Closed(_) => {
                let heard = kms()?.hear(named, keys, words::closed)?;
                by(Step::Closed(heard.record), heard.vouch)
            }
            Asks::Shredded(_) => {
                let heard = kms()?.hear_all(named, keys, words::shredded)?;
                by(Step::Plain(v1::ArrivalStep::Shredded.into()), heard.vouch)
            }
            _ => Err(CallError::Malformed("it is not a step that others say")),
        }
    }
}

/// The time that a quorum of the region's witnesses states, in a checkpoint of its log; 0 where the region has none.
fn witnessed(table: &EnrolmentTable, checkpoint: &[u8]) -> Result<u64, CallError> {
    let own = table.descriptor();
    let own = own.and_then(|signed| proto::descriptor::Descriptor::parse(signed).ok());
    let policy = own.as_ref().map(|own| &own.witness_policy()[..]);
    let Some(policy) = policy.filter(|policy| !policy.is_empty()) else {
        return Ok(0);
    };
    let none =
        || CallError::Malformed("it takes a checkpoint that the region's witnesses have cosigned");
    let policy = tlog::Policy::parse(policy).map_err(|_| none())?;
    let note = tlog::Note::parse(checkpoint).map_err(|_| none())?;
    let trusted = policy.check(&note).map_err(|_| none())?;
    Ok(trusted
        .as_of()
        .map_or(0, |time| time.get().saturating_mul(1000)))
}

pub(super) fn arrives(
    named: &Named,
    step: Step,
    vouch: Option<v1::Vouch>,
    approvals: Option<v1::Approvals>,
) -> Decision {
    Decision {
        key_state_version: 0,
        command: Command::Arrive(v1::Arrive {
            dataset_id: named.dataset.into(),
            relocation_id: named.relocation.into(),
            vouch,
            approvals,
            step: Some(step),
        }),
    }
}
