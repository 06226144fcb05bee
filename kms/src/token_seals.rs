//! The seal by a token and a person: made, used, given up, and told of.
//!
//! Owns the order of it. A seal is opened with both halves before it is recorded, and its person's half goes sealed to
//! its holders; a sealed replica takes a holder's half, its own token's half and operators' approvals, and serves once
//! the unseal is on record. Refuses one person: a holder without operators, operators without a holder, and either
//! without the token.

use std::sync::Arc;

use envelope::{
    HpkeInfo, KeyError, PersonHalf, RootCheck, RootKey, SealedRoot, TokenSealError, TokenSealId,
    token_challenge,
};
use proto::ids::{Identity, Role, RootEpoch};
use proto::transcript;
use proto::v1;
use proto::v1::kms_command::Command as What;
use tokio::time::timeout_at;
use transport::Peer;

use crate::approvals::{self, ApprovalError};
use crate::ceremony::CeremonyError;
use crate::core::{Core, StaleError};
use crate::ledger::CommitError;
use crate::random;
use crate::reshare::{ReshareError, stated};
use crate::seal::{ByToken, Posture, UnsealError};
use crate::sessions::NoSession;
use crate::token::{Token, TokenError};

/// Why a token's seal was not made, used or given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenSealRefused {
    /// The replica does not lead, is sealed, is of an older level, or the caller is no operator.
    #[error(transparent)]
    Change(#[from] ReshareError),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// There is no region here yet.
    #[error("not initialised, or still catching up: this replica does not know the seals yet")]
    NotInitialised,
    /// Only a holder brings a half.
    #[error("{0} holds no half of that seal")]
    NotHolder(Identity),
    /// No such seal.
    #[error(
        "no such token's seal of the root key in force or under way, as far as this replica knows: see `reduit kms \
         seals`; a cold region is unsealed first at the replica that led last"
    )]
    NoSuchSeal,
    /// No new root key to seal.
    #[error("no new root key is under way")]
    NotUnderWay,
    /// A holder without a key to seal to.
    #[error("no half was made")]
    Holders(#[source] CeremonyError),
    /// Approvals that do not hold.
    #[error("the approvals do not carry it")]
    Approval(#[from] ApprovalError),
    /// The token.
    #[error("the token")]
    Token(#[from] TokenError),
    /// The halves.
    #[error("the halves")]
    Halves(#[from] TokenSealError),
    /// No such session.
    #[error(transparent)]
    Session(#[from] NoSession),
    /// Not unsealed.
    #[error("not unsealed")]
    Unseal(#[from] UnsealError),
    /// No room for a key.
    #[error("no key memory")]
    Key(#[from] KeyError),
    /// Not recorded.
    #[error("not recorded")]
    Commit(#[from] CommitError),
}

/// What was made for a request whose record may or may not exist.
pub(crate) struct MadeSeal {
    asked: Vec<u8>,
    seal: v1::TokenSealRecord,
    halves: Vec<v1::SealedHalf>,
}

impl Core {
    fn token(&self) -> Result<&Arc<Token>, TokenError> {
        self.token.as_ref().ok_or(TokenError::NotConfigured)
    }

    /// A token's seal of the root key in force, or of the one under way.
    pub(crate) async fn provision_seal(
        &self,
        peer: &Peer,
        mut request: v1::ProvisionSealRequest,
    ) -> Result<v1::ProvisionSealReply, TokenSealRefused> {
        self.may_change_custody(peer)?;
        self.at_level(kms_state::LEVEL_SEALS)
            .map_err(ReshareError::Level)?;
        self.token()?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ProvisionSeal", &request);
        let id = request.single_use_id.clone();
        // Before the token makes anything on its account.
        drop(self.custody_claims(peer, &hash, &id, &approvals)?);
        let mut held = self.token_seal.lock().await;
        // Never out of `held` while something is waited for: who asked may go meanwhile, and asks again.
        let made = match &mut *held {
            Some(made) if made.asked == hash => made,
            other => other.insert(self.make_seal(&request, hash.to_vec()).await?),
        };
        let what = What::ProvisionSeal(v1::ProvisionSeal {
            seal: Some(made.seal.clone()),
            claim: Some(stated(peer, request.claim.unwrap_or_default())),
        });
        let outcome = self.by_approvals(peer, &hash, &id, &approvals, what).await;
        let recorded = self
            .reader()
            .ok()
            .and_then(|state| kms_state::token_seal(&*state, &made.seal.seal_id));
        let leaf_index = match (outcome, recorded) {
            (Ok(done), _) => done.leaf_index,
            // An earlier try of unknown outcome made the record.
            (Err(_), Some(seal)) => seal.provisioned_leaf,
            (Err(error), None) => {
                if let ReshareError::Commit(CommitError::Refused { .. }) = &error {
                    let seal = made.seal.clone();
                    *held = None;
                    self.forget_in_token(&[seal]).await;
                }
                return Err(error.into());
            }
        };
        // Whoever hears of it may count on it when the region is cold the next moment.
        self.flush_state().await;
        tracing::info!(
            seal = hex::encode(&made.seal.seal_id),
            token = made.seal.token_serial,
            "the root key is sealed under a token and a person's half"
        );
        Ok(v1::ProvisionSealReply {
            seal: Some(v1::TokenSealRecord {
                provisioned_leaf: leaf_index,
                ..made.seal.clone()
            }),
            halves: made.halves.clone(),
            leaf_index,
        })
    }

    fn root_to_seal(&self, next: bool) -> Result<Arc<RootKey>, TokenSealRefused> {
        let state = self.reader().map_err(StaleError::State)?;
        let region = kms_state::region(&*state).unwrap_or_default();
        if !next {
            let root = self.seal.root_of(RootEpoch(region.root_epoch));
            return Ok(root.map_err(ReshareError::Sealed)?);
        }
        let plan = kms_state::custody(&*state).and_then(|custody| custody.pending);
        let plan = plan.filter(|plan| plan.root_epoch != region.root_epoch);
        let plan = plan.ok_or(TokenSealRefused::NotUnderWay)?;
        let root = self.seal.next();
        let root = root.filter(|root| root.check_value().0[..] == plan.root_check[..]);
        Ok(root.ok_or(ReshareError::RootLost)?)
    }

    async fn make_seal(
        &self,
        request: &v1::ProvisionSealRequest,
        asked: Vec<u8>,
    ) -> Result<MadeSeal, TokenSealRefused> {
        let token = self.token()?;
        let root = self.root_to_seal(request.next)?;
        let holders = self.custodians(&request.holders);
        let holders = holders.map_err(TokenSealRefused::Holders)?;
        let (id, region) = (TokenSealId(random()), &self.config.region);
        let challenge = token_challenge(region, root.epoch(), id);
        let asks = challenge.clone();
        let (seen, half) = token.run(move |token| token.provision(id, &asks)).await?;
        let (sealed, person) = root.seal_under_token(region, id, &half)?;
        drop(half);
        let seal = v1::TokenSealRecord {
            seal_id: id.0.to_vec().into(),
            root_epoch: root.epoch().0,
            sealed_root: sealed.to_bytes().into(),
            token_serial: seen.serial.clone(),
            token_label: seen.label,
            key_label: token.key_label().to_owned(),
            holders: holders
                .iter()
                .map(|(holder, _)| holder.identity.to_string())
                .collect(),
            provisioned_leaf: 0,
        };
        let outcome = async {
            // As an unseal will: by the public record, and with what the token says when it is asked anew.
            let serial = seen.serial;
            let again = token
                .run(move |token| token.half(&serial, id, &challenge))
                .await?;
            SealedRoot::from_bytes(&seal.sealed_root)?.open(&again, &person)?;
            let region = region.as_str();
            let halves = holders.iter().map(|(holder, key)| {
                let name = holder.identity.to_string();
                let info = transcript::holder_half_info(region, &id.0, &name);
                let sealed = person.seal_to(key, &HpkeInfo::of(&info), b"");
                let not = |_| CeremonyError::NotCustodian(name.clone());
                let sealed = sealed.map_err(not).map_err(TokenSealRefused::Holders)?;
                Ok(v1::SealedHalf {
                    holder: name,
                    sealed: sealed.into(),
                    seal_id: seal.seal_id.clone(),
                    root_epoch: seal.root_epoch,
                })
            });
            halves.collect::<Result<Vec<_>, TokenSealRefused>>()
        };
        match outcome.await {
            Ok(halves) => Ok(MadeSeal {
                asked,
                seal,
                halves,
            }),
            Err(error) => {
                self.forget_in_token(&[seal]).await;
                Err(error)
            }
        }
    }

    /// Deletes the token's keys of seals that are not to be, or not any more; says so where it cannot.
    pub(crate) async fn forget_in_token(&self, seals: &[v1::TokenSealRecord]) {
        for seal in seals {
            if let Err(error) = self.delete_in_token(seal).await {
                tracing::warn!(
                    seal = hex::encode(&seal.seal_id),
                    token = seal.token_serial,
                    %error,
                    "the token's key of a seal that is given up was not deleted: delete it by its CKA_ID"
                );
            }
        }
    }

    async fn delete_in_token(&self, seal: &v1::TokenSealRecord) -> Result<(), TokenError> {
        let token = self.token()?;
        let id = named(&seal.seal_id).ok_or_else(|| TokenError::NoKey("?".to_owned()))?;
        let serial = seal.token_serial.clone();
        token.run(move |token| token.delete(&serial, id)).await
    }

    /// Deletes every key that tokens hold for an epoch, but those named as lost; the names of what was deleted.
    pub(crate) async fn delete_seals_of(
        &self,
        root_epoch: u32,
        lost: &[bytes::Bytes],
    ) -> Result<Vec<bytes::Bytes>, ReshareError> {
        let state = self.reader().map_err(StaleError::State)?;
        let seals = kms_state::token_seals(&*state);
        drop(state);
        let mut deleted = Vec::new();
        for seal in seals {
            if seal.root_epoch == root_epoch && !lost.contains(&seal.seal_id) {
                self.delete_in_token(&seal).await?;
                deleted.push(seal.seal_id);
            }
        }
        Ok(deleted)
    }

    /// Gives up a seal: its key leaves the token, then its sealed root key the state.
    pub(crate) async fn drop_seal(
        &self,
        peer: &Peer,
        mut request: v1::DropSealRequest,
    ) -> Result<v1::KmsDone, TokenSealRefused> {
        self.may_change_custody(peer)?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("DropSeal", &request);
        let id = request.single_use_id.clone();
        drop(self.custody_claims(peer, &hash, &id, &approvals)?);
        let _one = self.token_seal.lock().await;
        let state = self.reader().map_err(StaleError::State)?;
        let seal = kms_state::token_seal(&*state, &request.seal_id);
        drop(state);
        let seal = seal.ok_or(TokenSealRefused::NoSuchSeal)?;
        if !request.lost {
            self.delete_in_token(&seal).await?;
        }
        let what = What::DropSeal(v1::DropSeal {
            seal_id: request.seal_id,
            lost: request.lost,
            claim: Some(stated(peer, request.claim.unwrap_or_default())),
        });
        Ok(self
            .by_approvals(peer, &hash, &id, &approvals, what)
            .await?)
    }

    /// On a sealed replica: a holder's half, this replica's token, and the word of operators.
    pub(crate) async fn unseal_by_token(
        &self,
        peer: &Peer,
        request: v1::UnsealByTokenRequest,
    ) -> Result<v1::UnsealReply, TokenSealRefused> {
        let state = self.reader().map_err(StaleError::State)?;
        let region = kms_state::region(&*state).ok_or(TokenSealRefused::NotInitialised)?;
        // One of the root key under way too: it may be in force by the time this replica hears of it.
        let seal = kms_state::token_seal(&*state, &request.seal_id);
        drop(state);
        let seal = seal.filter(|seal| seal.root_epoch >= region.root_epoch);
        let seal = seal.ok_or(TokenSealRefused::NoSuchSeal)?;
        let caller = peer.identity.to_string();
        if peer.identity.role() != Role::Custodian || !seal.holders.contains(&caller) {
            return Err(TokenSealRefused::NotHolder(peer.identity.clone()));
        }
        let _one = self.unsealing.lock().await;
        if !matches!(self.seal.posture(), Posture::Sealed { .. }) {
            return Err(UnsealError::NotSealed.into());
        }
        let boot = self.seal.boot_id();
        let hash = approvals::token_unseal_hash(self.identity(), &boot, &seal.seal_id);
        self.custody_claims(peer, &hash, &request.single_use_id, &request.approvals)?;
        let session = self
            .sessions
            .of(&request.session_id, &peer.public_key, self.now())?;
        let info = HpkeInfo::of(&transcript::unseal_half_info(
            &region.region,
            &caller,
            &self.identity().to_string(),
            &session.id,
            &seal.seal_id,
        ));
        let person: PersonHalf =
            self.seal
                .open_half(&info, &session.aad(), &request.sealed_half)?;
        let sealed = SealedRoot::from_bytes(&seal.sealed_root)?;
        // Last: a token is asked only where everything else is there.
        let (token, serial, id) = (self.token()?, seal.token_serial.clone(), sealed.id());
        let challenge = sealed.challenge();
        let half = token
            .run(move |token| token.half(&serial, id, &challenge))
            .await?;
        let by = ByToken {
            seal_id: request.seal_id,
            single_use_id: request.single_use_id,
            approvals: request.approvals,
        };
        let check = self.check_of(&seal).ok_or(UnsealError::NotTheRoot)?;
        self.seal
            .take_halves(boot, &sealed, &half, &person, check, by)?;
        drop((half, person));
        tracing::info!(holder = %peer.identity, seal = hex::encode(&seal.seal_id), "unsealed by a token");
        self.group.set_may_campaign(true);
        // The driver records it; an answer that says `sealed` is of a replica that still waits for a majority.
        let mut watch = self.seal.watch();
        let served = watch.wait_for(|posture| *posture != Posture::Unrecorded);
        // Nothing to do about a time-out: the reply says how it stands.
        let _ = timeout_at(self.deadline(), served).await;
        Ok(v1::UnsealReply {
            sealed: self.seal.posture() != Posture::Unsealed,
            have: 0,
            needed: 0,
        })
    }

    /// What the root key of a seal has to be, by the state.
    fn check_of(&self, seal: &v1::TokenSealRecord) -> Option<RootCheck> {
        let state = self.reader().ok()?;
        let custody = kms_state::custody(&*state)?;
        let of_epochs = custody.epochs.iter().map(|e| (e.epoch, &e.root_check));
        let next = custody
            .pending
            .iter()
            .map(|p| (p.root_epoch, &p.root_check));
        let (_, check) = of_epochs
            .chain(next)
            .find(|(epoch, _)| *epoch == seal.root_epoch)?;
        check.as_ref().try_into().map(RootCheck).ok()
    }

    /// The seals on record, and how this replica's token is.
    pub(crate) async fn find_seals(&self) -> Result<v1::FindSealsReply, StaleError> {
        let state = self.reader().map_err(StaleError::State)?;
        let custody = kms_state::custody(&*state);
        drop(state);
        let mut reply = v1::FindSealsReply {
            custody,
            configured: self.token.is_some(),
            ..v1::FindSealsReply::default()
        };
        if let Ok(token) = self.token() {
            match token.run(Token::look).await {
                Ok(seen) => {
                    reply.token_serial = seen.serial;
                    reply.token_label = seen.label;
                }
                Err(error) => reply.problem = error.to_string(),
            }
        }
        Ok(reply)
    }
}

fn named(seal_id: &[u8]) -> Option<TokenSealId> {
    seal_id.try_into().map(TokenSealId).ok()
}
