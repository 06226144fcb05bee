//! Unsealing a restarted replica by one of its peers, with a second person's approval.
//!
//! Owns both ends. The sealed end refuses a root key that is not the region's. The unsealed end refuses whoever is
//! not an enrolled replica that signed the offer, an approval of anything else, and to release before the unseal
//! is on record: once per boot, so a stolen key of a replica yields one release that everyone can see.

use std::sync::Arc;

use envelope::{
    Encapsulated, OfferPublic, RootCheck, SealedKey, SessionError, SessionInfo, establish,
};
use proto::ids::{Identity, Role, RootEpoch};
use proto::transcript;
use proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use transport::fault::leader_hint;
use transport::{Peer, PublicKey};

use crate::approvals::{self, ApprovalError};
use crate::core::Core;
use crate::keys::in_force;
use crate::ledger::CommitError;
use crate::peers::CALL_MAX;
use crate::seal::{BootId, Posture, Sealed, UnsealError};
use crate::unseal::Unseal;

/// Replicas asked for one approval: every other one, and a leader named by one of them once more.
const ASKS_MAX: usize = 16;

/// Why a sealed replica stayed sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Only an operator brings an approval, and never its own.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// There is nothing to unseal.
    #[error("this replica is not sealed")]
    NotSealed,
    /// The approval is of another life of this replica.
    #[error("the approval names another boot of this replica")]
    OtherBoot,
    /// No approval.
    #[error("an approval is needed")]
    NoApproval,
    /// The approval does not hold.
    #[error("the approval does not hold")]
    Approval(#[from] ApprovalError),
    /// This replica has not learnt of the region yet.
    #[error("not initialised, or still catching up: this replica cannot check the root key yet")]
    NotInitialised,
    /// No unsealed replica released.
    #[error("no peer unsealed this replica: {0}")]
    Nobody(String),
    /// The peer's answer is not signed by it.
    #[error("the peer's answer is not signed by an enrolled replica")]
    Signature,
    /// The peer's answer does not unseal.
    #[error("the peer's answer does not unseal")]
    Unseal(#[from] UnsealError),
}

/// Why an unsealed replica released nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// This replica is sealed itself.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only replicas are unsealed.
    #[error("{0} is not a KMS replica")]
    NotReplica(Identity),
    /// A field is not what it must be.
    #[error("the unseal request's {0} is malformed")]
    Malformed(&'static str),
    /// The offer is not signed by the replica's enrolled key.
    #[error("the offer is not signed by the replica's enrolled key")]
    Signature,
    /// The approval does not hold.
    #[error("the approval does not hold")]
    Approval(#[from] ApprovalError),
    /// No approval, or the approver is the replica itself.
    #[error("an approval by an enrolled operator is needed")]
    NoApproval,
    /// Not recorded, so not released.
    #[error("the unseal was not recorded")]
    Commit(#[from] CommitError),
    /// Recorded, and the exchange failed.
    #[error("the unseal is on record and the exchange failed")]
    Session(#[source] SessionError),
}

impl Core {
    /// On the sealed replica: takes the second person's word to its peers.
    pub(crate) async fn approve_peer_unseal(
        &self,
        peer: &Peer,
        request: v1::ApprovePeerUnsealRequest,
    ) -> Result<v1::ApprovePeerUnsealReply, AskError> {
        if peer.identity.role() != Role::Operator {
            return Err(AskError::NotOperator(peer.identity.clone()));
        }
        let _one = self.unsealing.lock().await;
        if !matches!(self.seal.posture(), Posture::Sealed { .. }) {
            return Err(AskError::NotSealed);
        }
        let (boot, offer) = self.seal.offer();
        if request.boot_id.as_ref() != boot {
            return Err(AskError::OtherBoot);
        }
        let approval = request.approval.ok_or(AskError::NoApproval)?;
        // Checked here first: a bad approval is said by the replica it was given to.
        let hash = approvals::unseal_hash(self.identity(), &boot, &approvals::sha256(&offer));
        let table = self.enrolments.current();
        let claims = approvals::verified(
            &table,
            &hash,
            None,
            std::slice::from_ref(&approval),
            self.now(),
        )?;
        let caller = peer.identity.to_string();
        if claims.iter().any(|claim| claim.approver == caller) {
            // Who asks cannot be the second person.
            return Err(ApprovalError::SelfApproval {
                approver: peer.identity.clone(),
            }
            .into());
        }
        let deadline = self.deadline();
        let region = self
            .known_region(deadline)
            .await
            .ok_or(AskError::NotInitialised)?;
        let (reply, from) = self.ask(&boot, &offer, &approval, deadline).await?;
        // The root key may have moved on since this replica last heard.
        let region = self
            .region_of(RootEpoch(reply.root_epoch), deadline)
            .await
            .unwrap_or(region);
        self.take_root(&region, &boot, &offer, &reply, &from)?;
        self.group.set_may_campaign(true);
        tracing::info!(by = %from, approved_by = %peer.identity, "unsealed by a peer");
        Ok(v1::ApprovePeerUnsealReply {
            sealed: false,
            unsealed_by: from.to_string(),
            leaf_index: reply.leaf_index,
        })
    }

    /// The region's record, once this replica has caught up with it.
    async fn known_region(&self, deadline: Instant) -> Option<v1::KmsRegion> {
        let mut applied = self.group.watch_applied();
        let region = || {
            self.reader()
                .ok()
                .and_then(|state| kms_state::region(&*state))
        };
        loop {
            applied.borrow_and_update();
            if let Some(region) = region() {
                return Some(region);
            }
            timeout_at(deadline, applied.changed()).await.ok()?.ok()?;
        }
    }

    /// The region's record, once it is of a root epoch.
    async fn region_of(&self, epoch: RootEpoch, deadline: Instant) -> Option<v1::KmsRegion> {
        let mut applied = self.group.watch_applied();
        loop {
            applied.borrow_and_update();
            let region = self.known_region(deadline).await?;
            if region.root_epoch >= epoch.0 {
                return Some(region);
            }
            timeout_at(deadline, applied.changed()).await.ok()?.ok()?;
        }
    }

    async fn ask(
        &self,
        boot: &BootId,
        offer: &[u8],
        approval: &v1::Approval,
        deadline: Instant,
    ) -> Result<(v1::UnsealMeReply, Identity), AskError> {
        let own = self.identity().to_string();
        let signed = transcript::unseal_offer(offer, boot, &own);
        let message = v1::UnsealMeRequest {
            offer: offer.to_vec().into(),
            boot_id: boot.to_vec().into(),
            signature: self
                .local
                .sign(transcript::LABEL_UNSEAL_OFFER, &signed)
                .to_vec()
                .into(),
            approval: Some(approval.clone()),
        };
        let others = self.others();
        let leader = self.group.leader();
        let mut asked: Vec<_> = others.iter().map(|(id, _)| *id).collect();
        // Only the leader can record.
        asked.sort_by_key(|id| Some(*id) != leader);
        let mut asked = std::collections::VecDeque::from(asked);
        let mut why = Vec::new();
        for _ in 0..ASKS_MAX {
            let Some(id) = asked.pop_front().filter(|_| Instant::now() < deadline) else {
                break;
            };
            let Some((_, identity)) = others.iter().find(|(other, _)| *other == id) else {
                continue;
            };
            let mut client = match self.peers.peer(id) {
                Ok(client) => client,
                Err(error) => {
                    why.push(format!("{identity}: {error}"));
                    continue;
                }
            };
            let mut request = Request::new(message.clone());
            request.set_timeout(CALL_MAX);
            match client.unseal_me(request).await {
                Ok(reply) => return Ok((reply.into_inner(), identity.clone())),
                Err(status) => {
                    why.push(format!("{identity}: {}", status.message()));
                    if let Some(hint) = leader_hint(&status)
                        && hint.id != id
                        && !asked.contains(&hint.id)
                    {
                        asked.push_front(hint.id);
                    }
                }
            }
        }
        Err(AskError::Nobody(why.join("; ")))
    }

    fn take_root(
        &self,
        region: &v1::KmsRegion,
        boot: &BootId,
        offer: &[u8],
        reply: &v1::UnsealMeReply,
        from: &Identity,
    ) -> Result<(), AskError> {
        let signer = PublicKey::from_spki(&reply.signer).map_err(|_| AskError::Signature)?;
        let enrolled = self
            .enrolments
            .by_public_key(&signer)
            .ok_or(AskError::Signature)?;
        if enrolled.identity != *from {
            return Err(AskError::Signature);
        }
        signer
            .verify(
                transcript::LABEL_UNSEAL,
                &transcript::unseal_answer(offer, reply),
                &reply.signature,
            )
            .map_err(|_| AskError::Signature)?;
        let (sealed, unsealed) = (self.identity().to_string(), from.to_string());
        let info = SessionInfo::of(&transcript::unseal_info(
            &region.region,
            &sealed,
            &unsealed,
            boot,
            offer,
        ));
        let encapsulated =
            Encapsulated::try_from(reply.encapsulated.as_ref()).map_err(UnsealError::Answer)?;
        let root = SealedKey::try_from(reply.sealed_root.as_ref()).map_err(UnsealError::Answer)?;
        let check = RootCheck(
            region
                .root_check
                .as_ref()
                .try_into()
                .map_err(|_| UnsealError::NotTheRoot)?,
        );
        let epoch = RootEpoch(reply.root_epoch);
        let aad = transcript::session_aad(boot);
        self.seal
            .take_answer(&encapsulated, &info, &root, epoch, &aad, check)?;
        Ok(())
    }

    /// On an unsealed replica that leads: records the unseal, then releases the root key to the signed offer.
    pub(crate) async fn unseal_me(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::UnsealMeRequest,
    ) -> Result<v1::UnsealMeReply, ReleaseError> {
        let sealed = &peer.identity;
        if sealed.role() != Role::Kms || sealed == self.identity() {
            return Err(ReleaseError::NotReplica(sealed.clone()));
        }
        self.serving()?;
        let boot = BootId::try_from(request.boot_id.as_ref())
            .map_err(|_| ReleaseError::Malformed("boot id"))?;
        let offer = OfferPublic::try_from(request.offer.as_ref())
            .map_err(|_| ReleaseError::Malformed("offer"))?;
        let name = sealed.to_string();
        peer.public_key
            .verify(
                transcript::LABEL_UNSEAL_OFFER,
                &transcript::unseal_offer(&request.offer, &boot, &name),
                &request.signature,
            )
            .map_err(|_| ReleaseError::Signature)?;
        let approval = request.approval.ok_or(ReleaseError::NoApproval)?;
        let hash = approvals::unseal_hash(sealed, &boot, &approvals::sha256(&request.offer));
        let table = self.enrolments.current();
        let claims = approvals::verified(
            &table,
            &hash,
            None,
            std::slice::from_ref(&approval),
            self.now(),
        )?;
        let how = v1::UnsealHow::Peer;
        let in_force = in_force(&*self.reader().map_err(|_| CommitError::State)?);
        let unseal = Unseal::by(how, boot, in_force);
        let done = self
            .commit_unseal(sealed, unseal, claims, self.deadline())
            .await?;
        // On record. Sealed meanwhile means that the record stands and nothing leaves.
        let root = self.seal.root_of(in_force)?;
        let own = self.identity().to_string();
        let info = SessionInfo::of(&transcript::unseal_info(
            self.config.region.as_str(),
            &name,
            &own,
            &boot,
            &request.offer,
        ));
        let (encapsulated, sender) = establish(&offer, &info).map_err(ReleaseError::Session)?;
        let aad = transcript::session_aad(&boot);
        let sealed_root = sender
            .send_root(&root, &aad)
            .map_err(ReleaseError::Session)?;
        let mut reply = v1::UnsealMeReply {
            encapsulated: encapsulated.as_bytes().to_vec().into(),
            sealed_root: sealed_root.as_bytes().to_vec().into(),
            leaf_index: done.leaf_index,
            signature: Default::default(),
            signer: self.local.public_key().as_spki().to_vec().into(),
            root_epoch: root.epoch().0,
        };
        let answer = transcript::unseal_answer(&request.offer, &reply);
        reply.signature = self
            .local
            .sign(transcript::LABEL_UNSEAL, &answer)
            .to_vec()
            .into();
        tracing::info!(replica = %sealed, leaf = done.leaf_index, "released the root key to a peer");
        Ok(reply)
    }
}
