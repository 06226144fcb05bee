//! Changes of who can rebuild the root key, as people ask for them: begin, confirm, finish, abandon, erase, retire.
//!
//! Owns making a split and handing it out sealed, and looking at a share that its custodian shows. What is in force
//! stays so until the state has every word it takes. Refuses a share that is not the one that was made, and a change
//! by anybody but operators under dual control. Shares that were made, sealed to their custodians, stay in memory
//! until others are made or the replica is sealed, so that an answer that was lost can be asked for again.

use std::sync::Arc;

use envelope::{HpkeInfo, KeyError, RootKey, ShareSet};
use proto::ids::{Identity, Role, RootEpoch};
use proto::store::Reader;
use proto::transcript;
use proto::v1;
use proto::v1::kms_command::Command as What;
use tlog::{SignatureType, VerifierKey};
use transport::Peer;

use crate::approvals::{self, ApprovalError, sha256};
use crate::ceremony::{CeremonyError, bounded, holders, split_to};
use crate::core::{Core, LevelTooLow, StaleError};
use crate::custody::CustodyError;
use crate::keys::in_force;
use crate::ledger::{Command, CommitError};
use crate::seal::{Sealed, UnsealError};
use crate::sessions::NoSession;
use crate::token::TokenError;

/// Why custody was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReshareError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// Only operators change custody.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// Only its holder shows or erases a share.
    #[error("{0} is not a custodian of that split")]
    NotCustodian(Identity),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
    /// No such change is under way.
    #[error("no such change of custody is under way (see `reduit custody status`)")]
    NotUnderWay,
    /// The new root key went with the replicas that held it. Nothing stands under it.
    #[error(
        "this replica does not hold the new root key, and nothing stands under it yet: abandon the change and begin \
         it again; the shares in force stay in force"
    )]
    RootLost,
    /// Replicas that would have to be unsealed again.
    #[error("replicas that serve do not hold the new root key yet: {0}")]
    PeersBehind(String),
    /// Keys were born as fast as they were rewrapped.
    #[error("keys keep being made under the root key in force: ask again")]
    StillBorn,
    /// Approvals that do not hold.
    #[error("the approvals do not carry the change")]
    Approval(#[from] ApprovalError),
    /// The split could not be made.
    #[error("no split was made")]
    Ceremony(#[from] CeremonyError),
    /// No such session.
    #[error(transparent)]
    Session(#[from] NoSession),
    /// The share shown.
    #[error("the share is refused")]
    Share(#[from] UnsealError),
    /// The statement's signature.
    #[error("the statement is not signed by the custodian's enrolled key")]
    Signature,
    /// A token still has its half.
    #[error("the token")]
    Token(#[from] TokenError),
    /// A KEK was not rewrapped.
    #[error("a key could not be wrapped under the new root key")]
    Custody(#[from] CustodyError),
    /// Not recorded.
    #[error("not recorded")]
    Commit(#[from] CommitError),
}

/// What was made for a request whose record may or may not exist.
pub(crate) struct Made {
    asked: Vec<u8>,
    plan: v1::CustodyPlan,
    next: Option<Arc<RootKey>>,
    shares: Vec<v1::SealedShare>,
}

impl Core {
    pub(crate) fn may_change_custody(&self, peer: &Peer) -> Result<(), ReshareError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(ReshareError::NotOperator(peer.identity.clone()));
        }
        Ok(self.at_level(kms_state::LEVEL_CUSTODY)?)
    }

    /// A new split, of the root key in force or of a new one. Nothing that is in force changes.
    pub(crate) async fn begin_custody(
        &self,
        peer: &Peer,
        mut request: v1::BeginCustodyRequest,
    ) -> Result<v1::BeginCustodyReply, ReshareError> {
        self.may_change_custody(peer)?;
        // A custodian who was enrolled a moment ago through another replica is known here then.
        self.enrolments_current().await?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("BeginCustody", &request);
        let id = request.single_use_id.clone();
        // Before anything is made on its account.
        let claims = self.custody_claims(peer, &hash, &id, &approvals)?;
        drop(claims);
        let mut held = self.reshare.lock().await;
        // Never out of `held` while something is waited for: who asked may go meanwhile, and asks again.
        let made = match &mut *held {
            Some(made) if made.asked == hash => made,
            other => other.insert(self.split_anew(&request, hash.to_vec())?),
        };
        let claim = request.claim.unwrap_or_default();
        let what = What::BeginCustody(v1::BeginCustody {
            plan: Some(made.plan.clone()),
            claim: Some(stated(peer, claim)),
        });
        let outcome = self.by_approvals(peer, &hash, &id, &approvals, what).await;
        let leaf_index = match (outcome, self.recorded_plan(&made.plan.set_id)) {
            (Ok(done), _) => done.leaf_index,
            // An earlier try of unknown outcome made the record.
            (Err(_), Some(plan)) => plan.begun_leaf,
            (Err(error), None) => return Err(error),
        };
        // From here on the seal has it, and drops it when it is sealed.
        if let Some(next) = made.next.take() {
            self.seal.set_next(next);
        }
        let reply = v1::BeginCustodyReply {
            shares: made.shares.clone(),
            set_id: made.plan.set_id.clone(),
            root_epoch: made.plan.root_epoch,
            log_key: made.plan.log_key.clone(),
            leaf_index,
        };
        // The shares, sealed to their custodians, stay for who lost the answer.
        Ok(reply)
    }

    /// On a replica that holds no root key, drops one that was made here and is not on record.
    pub(crate) fn drop_unrecorded_root(&self) {
        // Who holds the lock records it, and lets go within a request's time.
        if self.serving().is_err()
            && let Ok(mut made) = self.reshare.try_lock()
        {
            *made = None;
        }
    }

    fn split_anew(
        &self,
        request: &v1::BeginCustodyRequest,
        asked: Vec<u8>,
    ) -> Result<Made, ReshareError> {
        let state = self.reader().map_err(StaleError::State)?;
        let region = kms_state::region(&*state).unwrap_or_default();
        drop(state);
        let root = self.seal.root_of(RootEpoch(region.root_epoch))?;
        let next = match request.new_root {
            true => {
                let epoch = RootEpoch(region.root_epoch + 1);
                let next = RootKey::generate(epoch).map_err(CeremonyError::Key)?;
                Some(Arc::new(next))
            }
            false => None,
        };
        let split = next.as_ref().unwrap_or(&root);
        let custodians = self.custodians(&request.custodians)?;
        let needed = bounded(request.needed.into());
        let (share_set, shares) = split_to(&region.region, split, needed, &custodians)?;
        let plan = v1::CustodyPlan {
            root_epoch: split.epoch().0,
            root_check: split.check_value().0.to_vec().into(),
            set_id: kms_state::set_id(&share_set).into(),
            share_set: share_set.into(),
            shares_needed: request.needed,
            custodians: holders(&shares),
            log_key: log_key(split, &region.log_origin).map_err(CeremonyError::Key)?,
            ..v1::CustodyPlan::default()
        };
        Ok(Made {
            asked,
            plan,
            next,
            shares,
        })
    }

    fn recorded_plan(&self, set_id: &[u8]) -> Option<v1::CustodyPlan> {
        let state = self.reader().ok()?;
        let pending = kms_state::custody(&*state)?.pending?;
        (pending.set_id == set_id).then_some(pending)
    }

    /// The change under way, where it is the one named.
    pub(crate) fn under_way(&self, set_id: &[u8]) -> Result<v1::CustodyPlan, ReshareError> {
        self.recorded_plan(set_id).ok_or(ReshareError::NotUnderWay)
    }

    /// A custodian shows its share of the split under way; this replica looks at the share itself.
    pub(crate) async fn confirm_share(
        &self,
        peer: &Peer,
        request: v1::ConfirmShareRequest,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_CUSTODY)?;
        let plan = self.under_way(&request.set_id)?;
        let caller = peer.identity.to_string();
        let mut holders = plan.custodians.iter();
        let holder = holders.find(|holder| holder.identity == caller);
        let not_custodian = || ReshareError::NotCustodian(peer.identity.clone());
        let index = holder.ok_or_else(not_custodian)?.share_index;
        let number = u8::try_from(index).map_err(|_| not_custodian())?;
        let set = ShareSet::from_bytes(&plan.share_set).map_err(UnsealError::Share)?;
        let session = self
            .sessions
            .of(&request.session_id, &peer.public_key, self.now())?;
        let info = HpkeInfo::of(&transcript::confirm_share_info(
            self.config.region.as_str(),
            &caller,
            &self.identity().to_string(),
            &session.id,
            &request.set_id,
        ));
        let sealed = &request.sealed_share;
        self.seal
            .shown(&(set, number), &info, &session.aad(), sealed)?;
        let set_id = request.set_id;
        let what = What::ConfirmShare(v1::ConfirmShare { set_id, index });
        self.recorded_for(peer, what).await
    }

    /// Gives up the change under way: what is in force stays in force.
    pub(crate) async fn abandon_custody(
        &self,
        peer: &Peer,
        request: v1::AbandonCustodyRequest,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.may_change_custody(peer)?;
        let seals = self.under_way(&request.set_id)?.token_seals;
        let what = What::AbandonCustody(v1::AbandonCustody {
            set_id: request.set_id,
            claim: Some(stated(peer, request.claim.unwrap_or_default())),
        });
        let done = self.recorded_for(peer, what).await?;
        self.forget_in_token(&seals).await;
        Ok(done)
    }

    /// Takes a custodian's signed word that a share is erased.
    pub(crate) async fn erase_share(
        &self,
        peer: &Peer,
        request: v1::EraseShareRequest,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_CUSTODY)?;
        let statement = transcript::share_erased(
            self.config.region.as_str(),
            &peer.identity.to_string(),
            request.root_epoch,
            &request.set_id,
            request.index,
        );
        peer.public_key
            .verify(
                transcript::LABEL_SHARE_ERASED,
                &statement,
                &request.signature,
            )
            .map_err(|_| ReshareError::Signature)?;
        let signed = [&statement[..], &request.signature].concat();
        let what = What::EraseShare(v1::EraseShare {
            root_epoch: request.root_epoch,
            set_id: request.set_id,
            index: request.index,
            statement_hash: sha256(&signed).to_vec().into(),
        });
        self.recorded_for(peer, what).await
    }

    /// Puts an end to a former root key.
    pub(crate) async fn retire_epoch(
        &self,
        peer: &Peer,
        mut request: v1::RetireEpochRequest,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.may_change_custody(peer)?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("RetireEpoch", &request);
        let id = request.single_use_id;
        drop(self.custody_claims(peer, &hash, &id, &approvals)?);
        let state = self.reader().map_err(StaleError::State)?;
        // A token's half is not given up for an epoch that stays.
        kms_state::retirable(&*state, self.group.level(), request.root_epoch).map_err(
            |refusal| {
                ReshareError::Commit(CommitError::Refused {
                    reason: refusal.reason(),
                })
            },
        )?;
        drop(state);
        let lost = request.seals_lost;
        let seals_deleted = self.delete_seals_of(request.root_epoch, &lost).await?;
        let what = What::RetireEpoch(v1::RetireEpoch {
            root_epoch: request.root_epoch,
            claim: Some(stated(peer, request.claim.unwrap_or_default())),
            seals_deleted,
            seals_lost: lost,
        });
        self.by_approvals(peer, &hash, &id, &approvals, what).await
    }

    /// The region's emergency seal, on record: every replica drops its keys once it has applied it.
    pub(crate) async fn seal_region(
        &self,
        peer: &Peer,
        request: v1::SealRegionRequest,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.may_change_custody(peer)?;
        let what = What::RecordSeal(v1::RecordSeal {
            claim: Some(stated(peer, request.claim.unwrap_or_default())),
        });
        self.recorded_for(peer, what).await
    }

    /// Who holds what, by this replica's state.
    pub(crate) fn find_custody(&self) -> Result<v1::FindCustodyReply, StaleError> {
        let state = self.reader().map_err(StaleError::State)?;
        Ok(v1::FindCustodyReply {
            custody: kms_state::custody(&*state),
            held_epoch: self.seal.held_epoch().map_or(0, |epoch| epoch.0),
            next_epoch: self.seal.next().map_or(0, |root| root.epoch().0),
        })
    }

    pub(crate) fn custody_claims(
        &self,
        peer: &Peer,
        hash: &[u8; 32],
        single_use_id: &[u8],
        approvals: &[v1::Approval],
    ) -> Result<Vec<v1::ApprovalClaim>, ApprovalError> {
        let (table, now) = (self.enrolments.current(), self.now());
        let claims = approvals::verified(&table, hash, Some(single_use_id), approvals, now)?;
        approvals::counted(&claims, &peer.identity, self.approvers_min())?;
        Ok(claims)
    }

    pub(crate) async fn by_approvals(
        &self,
        peer: &Peer,
        hash: &[u8; 32],
        single_use_id: &[u8],
        approvals: &[v1::Approval],
        what: What,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.ledger
            .command::<ReshareError>(&peer.identity, self.deadline(), |_state| {
                // Judged by one set and bound to its version: apply refuses if the authority has moved.
                let table = self.enrolments.current();
                Ok(Command {
                    authority_version: table.version(),
                    approvals: self.custody_claims(peer, hash, single_use_id, approvals)?,
                    what: what.clone(),
                })
            })
            .await
    }

    pub(crate) async fn recorded_for(
        &self,
        peer: &Peer,
        what: What,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.ledger
            .command::<ReshareError>(&peer.identity, self.deadline(), |state: &dyn Reader| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await
    }

    /// Wraps every KEK under the root key under way, a bounded number a command, and puts the split in force.
    pub(crate) async fn finish_custody(
        &self,
        peer: &Peer,
        request: v1::FinishCustodyRequest,
    ) -> Result<v1::KmsDone, ReshareError> {
        self.may_change_custody(peer)?;
        let _one = self.reshare.lock().await;
        let plan = self.under_way(&request.set_id)?;
        let state = self.reader().map_err(StaleError::State)?;
        let new_root = plan.root_epoch != in_force(&*state).0;
        drop(state);
        if new_root && plan.confirmed.len() == plan.custodians.len() {
            self.rewrap_all(&plan).await?;
        }
        if request.without_token {
            self.at_level(kms_state::LEVEL_SEALS)?;
        }
        let what = What::FinishCustody(v1::FinishCustody {
            set_id: request.set_id,
            without_token: request.without_token,
        });
        self.recorded_for(peer, what).await
    }
}

/// The claim of a request, by who makes it.
pub(crate) fn stated(peer: &Peer, claim: v1::Claim) -> v1::Claim {
    v1::Claim {
        actor: peer.identity.to_string(),
        ..claim
    }
}

/// The key that signs the log under a root key.
fn log_key(root: &RootKey, origin: &str) -> Result<String, KeyError> {
    let key = root.log_key(origin)?;
    let name = origin.parse().expect("a log's origin is a key name");
    let key = VerifierKey::new(name, SignatureType::Ed25519, key.public())
        .expect("an Ed25519 public key has 32 bytes");
    Ok(key.to_string())
}
