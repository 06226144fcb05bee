//! A new root key on its way into force: to the other replicas, around every KEK, and in place of the old one.
//!
//! Owns both ends of sending it and the moment at which a replica exchanges the one for the other. A new root key is
//! never stored under an old one: it goes by HPKE to replicas that serve, after a record. Refuses an asker that does
//! not hold the root key in force, and to go on holding a root key that is not the region's.

use std::sync::Arc;
use std::time::Duration;

use envelope::{
    Encapsulated, KeyError, OfferPublic, RootCheck, RootKey, SealedKey, SessionError, SessionInfo,
    SessionOffer, establish,
};
use proto::ids::{AccessKeyId, RelocationId, RootEpoch};
use proto::transcript;
use proto::v1;
use proto::v1::kms_command::Command as What;
use tonic::Request;
use transport::{Peer, PublicKey};

use crate::access_keys::AccessKey;
use crate::core::Core;
use crate::custody::HeldHandOver;
use crate::ledger::{Command, CommitError};
use crate::peers::CALL_MAX;
use crate::reshare::ReshareError;
use crate::seal::{BootId, Posture, Sealed};

/// Between attempts to fetch the root key under way.
const FETCH_EVERY: Duration = Duration::from_millis(500);
/// Commands that one request rewraps keys with: a quarter of a million keys, and an end where keys are born faster.
const REWRAPS_MAX: usize = 1_000;

/// Why the root key under way was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendRootError {
    /// This replica is sealed itself.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// A field is not what it must be.
    #[error("the request's {0} is malformed")]
    Malformed(&'static str),
    /// Not signed by the asker's enrolled key.
    #[error("the offer is not signed by the replica's enrolled key")]
    Signature,
    /// The asker does not hold the root key in force.
    #[error("the asker does not show that it holds the root key in force")]
    NoProof,
    /// No such change is under way.
    #[error("no such root key is under way")]
    NotUnderWay,
    /// It is not here either.
    #[error("this replica does not hold the root key under way")]
    RootLost,
    /// Not recorded, so not released.
    #[error("the release was not recorded")]
    Commit(#[from] CommitError),
    /// The exchange failed.
    #[error("the exchange")]
    Session(#[from] SessionError),
}

/// Why the root key under way did not come.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Sealed(#[from] Sealed),
    #[error("no leader to ask")]
    NoLeader,
    #[error("no key memory")]
    Key(#[from] KeyError),
    #[error("the leader cannot be called")]
    Unreachable(#[from] crate::peers::PeerUnreachable),
    #[error("the leader refused")]
    Refused(#[from] tonic::Status),
    #[error("the answer is not signed by the leader")]
    Signature,
    #[error("the answer does not open")]
    Session(#[from] SessionError),
    #[error("what came is not the root key under way")]
    NotTheRoot,
}

/// What the state says that bears on the keys held here.
struct HeldTo {
    /// The root key under way as it was here before the state was read: one that comes later is of a later state.
    next: Option<Arc<RootKey>>,
    region: v1::KmsRegion,
    custody: v1::CustodyRecord,
    boot: Option<v1::UnsealRecord>,
}

impl Core {
    /// Follows what the state says of custody, for as long as the replica runs.
    pub(crate) async fn follow_custody(self: Arc<Self>) {
        let mut changes = self.changes.clone();
        let mut durable_epoch = 0;
        loop {
            let told = changes.borrow_and_update().custody_version;
            let settled = match self.held_to() {
                // A new root key is taken once it is durable that it is in force: what opens a cold replica it has to
                // know by itself. Then looked at again, for that takes its time.
                Some(held_to) if held_to.region.root_epoch > durable_epoch => {
                    self.flush_state().await;
                    durable_epoch = held_to.region.root_epoch;
                    continue;
                }
                Some(held_to) if held_to.custody.version >= told => self.settle(held_to).await,
                // Told while the entry was being applied: readable a moment later.
                Some(_) => false,
                None => true,
            };
            let changed = changes.changed();
            let outcome = if settled {
                Some(changed.await)
            } else {
                tokio::time::timeout(FETCH_EVERY, changed).await.ok()
            };
            if matches!(outcome, Some(Err(_))) {
                return;
            }
        }
    }

    /// Makes every change of custody durable soon: shares and seals are what a cold replica asks for. Beside
    /// [`Self::follow_custody`], whose keys wait for no disk but where a new root key comes into force.
    pub(crate) async fn keep_custody(self: Arc<Self>) {
        let mut changes = self.changes.clone();
        let mut durable = 0;
        loop {
            let told = changes.borrow_and_update().custody_version;
            if told > durable {
                // Told while the entry was being applied: readable a moment later.
                let mut applied = self.group.watch_applied();
                while self.applied_custody() < told {
                    if applied.changed().await.is_err() {
                        return;
                    }
                }
                durable = told;
                self.flush_state().await;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn applied_custody(&self) -> u64 {
        self.reader()
            .map(|state| kms_state::custody_version(&*state))
            .unwrap_or(u64::MAX)
    }

    fn held_to(&self) -> Option<HeldTo> {
        let next = self.seal.next();
        let state = self.reader().ok()?;
        Some(HeldTo {
            next,
            region: kms_state::region(&*state)?,
            custody: kms_state::custody(&*state)?,
            boot: kms_state::boot(&*state, &self.seal.boot_id()),
        })
    }

    /// Brings the keys held here into line with the state. `false` if something is left to be tried again.
    async fn settle(&self, held_to: HeldTo) -> bool {
        let HeldTo {
            next,
            region,
            custody,
            boot,
        } = held_to;
        if self.seal.posture() != Posture::Unsealed {
            // Looked at again once it serves.
            return custody.version == 0;
        }
        if boot.is_none() && !self.seal.made_here() {
            // A peer recorded it, and this replica is not there yet: what is older than that is not about this life.
            return false;
        }
        let unsealed_at = boot.map_or(0, |boot| boot.leaf_index);
        if custody.sealed_leaf > unsealed_at + 1 {
            tracing::warn!("the region was sealed: dropping the root key");
            self.drop_root_loudly().await;
            return true;
        }
        let Ok(root) = self.seal.root() else {
            return false;
        };
        if root.epoch().0 != region.root_epoch {
            drop(root);
            let check = region.root_check.as_ref().try_into().map(RootCheck);
            if check.is_ok_and(|check| self.seal.advance(check)) {
                self.custody.clear();
                tracing::info!(epoch = region.root_epoch, "the new root key is in force");
            } else {
                tracing::error!(
                    epoch = region.root_epoch,
                    "another root key is in force and it is not here: sealed; unseal this replica by a peer, or by the \
                     shares of the split in force"
                );
                self.drop_root_loudly().await;
            }
            return true;
        }
        let Some(plan) = custody
            .pending
            .filter(|p| p.root_epoch != region.root_epoch)
        else {
            return self.seal.replace_next(next.as_ref(), None);
        };
        if holds(next.as_deref(), &plan) {
            return true;
        }
        if self.group.is_leader() {
            // Only where it was lost: who made it holds it. Said to who wants to finish.
            return false;
        }
        match self.fetch_root(&root, &plan).await {
            Ok(fetched) => {
                if !self
                    .seal
                    .replace_next(next.as_ref(), Some(Arc::new(fetched)))
                {
                    return false;
                }
                tracing::info!(epoch = plan.root_epoch, "received the root key under way");
                true
            }
            Err(error) => {
                tracing::debug!(error = %transport::fault::Chain(&error), "no root key under way yet");
                false
            }
        }
    }

    async fn drop_root_loudly(&self) {
        if let Err(error) = self.drop_root().await {
            tracing::warn!(%error, "sealed without a new life");
        }
    }

    async fn fetch_root(
        &self,
        root: &RootKey,
        plan: &v1::CustodyPlan,
    ) -> Result<RootKey, FetchError> {
        let leader = self.group.leader().ok_or(FetchError::NoLeader)?;
        let offer = SessionOffer::generate()?;
        let public = offer.public().as_bytes().to_vec();
        let (own, boot) = (self.identity().to_string(), self.seal.boot_id());
        let signed = transcript::root_offer(&public, &boot, &own, &plan.set_id);
        let message = v1::FetchRootRequest {
            offer: public.clone().into(),
            boot_id: boot.to_vec().into(),
            signature: self
                .local
                .sign(transcript::LABEL_ROOT_OFFER, &signed)
                .to_vec()
                .into(),
            set_id: plan.set_id.clone(),
            proof: root.prove(&signed).to_vec().into(),
        };
        let mut request = Request::new(message);
        request.set_timeout(CALL_MAX);
        let reply = self.peers.peer(leader)?.fetch_root(request).await?;
        let reply = reply.into_inner();
        let signer = PublicKey::from_spki(&reply.signer).map_err(|_| FetchError::Signature)?;
        let sender = self
            .enrolments
            .by_public_key(&signer)
            .filter(|enrolled| enrolled.node_id == Some(leader))
            .ok_or(FetchError::Signature)?;
        let answer = transcript::unseal_answer(&public, &reply);
        signer
            .verify(transcript::LABEL_UNSEAL, &answer, &reply.signature)
            .map_err(|_| FetchError::Signature)?;
        let sender = sender.identity.to_string();
        let info = SessionInfo::of(&transcript::root_info(
            self.config.region.as_str(),
            &own,
            &sender,
            &boot,
            &public,
            &plan.set_id,
        ));
        let receiver = offer.accept(&Encapsulated::try_from(&reply.encapsulated[..])?, &info)?;
        let sealed = SealedKey::try_from(&reply.sealed_root[..])?;
        let aad = transcript::session_aad(&boot);
        let next = receiver.receive_root(&sealed, RootEpoch(plan.root_epoch), &aad)?;
        if holds(Some(&next), plan) {
            Ok(next)
        } else {
            Err(FetchError::NotTheRoot)
        }
    }

    /// On the leader: sends the root key under way to a replica that holds the one in force.
    pub(crate) async fn send_root(
        &self,
        peer: &Peer,
        request: v1::FetchRootRequest,
    ) -> Result<v1::UnsealMeReply, SendRootError> {
        self.ledger.leading()?;
        let root = self.seal.root()?;
        let boot: BootId = (&request.boot_id[..])
            .try_into()
            .map_err(|_| SendRootError::Malformed("boot id"))?;
        let name = peer.identity.to_string();
        let signed = transcript::root_offer(&request.offer, &boot, &name, &request.set_id);
        peer.public_key
            .verify(transcript::LABEL_ROOT_OFFER, &signed, &request.signature)
            .map_err(|_| SendRootError::Signature)?;
        if !root.proves(&signed, &request.proof) {
            return Err(SendRootError::NoProof);
        }
        let plan = self.under_way(&request.set_id);
        let plan = plan.map_err(|_| SendRootError::NotUnderWay)?;
        let next = self.seal.next().filter(|next| holds(Some(next), &plan));
        let next = next.ok_or(SendRootError::RootLost)?;
        let offer = OfferPublic::try_from(&request.offer[..])
            .map_err(|_| SendRootError::Malformed("offer"))?;
        let what = What::SendRoot(v1::SendRoot {
            replica: name.clone(),
            boot_id: request.boot_id.clone(),
            root_epoch: plan.root_epoch,
        });
        let done = self
            .ledger
            .command::<CommitError>(self.identity(), self.deadline(), |state| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await?;
        // On record. Sealed meanwhile means that the record stands and nothing leaves.
        self.serving()?;
        let own = self.identity().to_string();
        let info = SessionInfo::of(&transcript::root_info(
            self.config.region.as_str(),
            &name,
            &own,
            &boot,
            &request.offer,
            &request.set_id,
        ));
        let (encapsulated, sender) = establish(&offer, &info)?;
        let sealed_root = sender.send_root(&next, &transcript::session_aad(&boot))?;
        let mut reply = v1::UnsealMeReply {
            encapsulated: encapsulated.as_bytes().to_vec().into(),
            sealed_root: sealed_root.as_bytes().to_vec().into(),
            leaf_index: done.leaf_index,
            signature: Default::default(),
            signer: self.local.public_key().as_spki().to_vec().into(),
            root_epoch: plan.root_epoch,
        };
        let answer = transcript::unseal_answer(&request.offer, &reply);
        let signature = self.local.sign(transcript::LABEL_UNSEAL, &answer);
        reply.signature = signature.to_vec().into();
        tracing::info!(replica = %name, leaf = done.leaf_index, "sent the root key under way");
        Ok(reply)
    }

    /// Wraps every KEK, access key's secret and hand-over key under the root key under way, once every replica that serves holds it.
    pub(crate) async fn rewrap_all(&self, plan: &v1::CustodyPlan) -> Result<(), ReshareError> {
        let next = self.seal.next().filter(|next| holds(Some(next), plan));
        let next = next.ok_or(ReshareError::RootLost)?;
        self.peers_hold(plan).await?;
        for _ in 0..REWRAPS_MAX {
            let state = self
                .reader()
                .map_err(|error| ReshareError::Stale(crate::core::StaleError::State(error)))?;
            let missing = kms_state::not_rewrapped(&*state, kms_state::REWRAP_MAX);
            let bare = kms_state::secrets_not_rewrapped(&*state, kms_state::REWRAP_MAX);
            let bare: Vec<_> = bare
                .iter()
                .filter_map(|record| AccessKeyId::try_from(&record.access_key_id[..]).ok())
                .filter_map(|id| AccessKey::find(&*state, &id))
                .collect();
            let crossing = kms_state::hand_over_keys_not_rewrapped(&*state, kms_state::REWRAP_MAX);
            let crossing: Vec<_> = crossing
                .iter()
                .filter_map(|record| RelocationId::try_from(&record.relocation_id[..]).ok())
                .filter_map(|relocation| HeldHandOver::find(&*state, &relocation))
                .collect();
            let authority_version = kms_state::authority_version(&*state);
            drop(state);
            if missing.is_empty() && bare.is_empty() && crossing.is_empty() {
                return Ok(());
            }
            let mut hand_over_keys = Vec::with_capacity(crossing.len());
            for held in &crossing {
                hand_over_keys.push(v1::RewrappedHandOverKey {
                    relocation_id: held.record.relocation_id.clone(),
                    wrapped_private: self.custody.rewrapped_hand_over(held, &next)?.into(),
                });
            }
            let mut secrets = Vec::with_capacity(bare.len());
            for key in &bare {
                secrets.push(v1::RewrappedSecret {
                    access_key_id: key.record.access_key_id.clone(),
                    wrapped_secret: self.custody.rewrapped_secret(key, &next)?.into(),
                });
            }
            let mut keks = Vec::with_capacity(missing.len());
            for (dataset, version, key) in &missing {
                keks.push(v1::RewrappedKek {
                    dataset_id: (*dataset).into(),
                    version: *version,
                    wrapped_kek: self.custody.rewrapped(key, *version, &next)?.into(),
                });
            }
            let set_id = plan.set_id.clone();
            let what = What::RewrapKeks(v1::RewrapKeks {
                set_id,
                keks,
                secrets,
                hand_over_keys,
            });
            self.ledger
                .command::<CommitError>(self.identity(), self.deadline(), |_| {
                    Ok(Command {
                        authority_version,
                        approvals: Vec::new(),
                        what: what.clone(),
                    })
                })
                .await?;
        }
        Err(ReshareError::StillBorn)
    }

    /// Replicas that serve and do not hold the root key under way would have to be unsealed again. Who is sealed has to
    /// be in any case, and who does not answer is not waited for.
    async fn peers_hold(&self, plan: &v1::CustodyPlan) -> Result<(), ReshareError> {
        let mut behind = Vec::new();
        for (id, identity) in self.others() {
            let Ok(mut client) = self.peers.kms(id) else {
                continue;
            };
            let mut request = Request::new(v1::KmsStatusRequest {});
            request.set_timeout(CALL_MAX);
            let Ok(status) = client.status(request).await else {
                continue;
            };
            let status = status.into_inner();
            if !status.sealed && status.next_epoch != plan.root_epoch {
                behind.push(identity.to_string());
            }
        }
        if behind.is_empty() {
            Ok(())
        } else {
            Err(ReshareError::PeersBehind(behind.join(", ")))
        }
    }
}

/// Whether a root key is the one of a plan.
fn holds(root: Option<&RootKey>, plan: &v1::CustodyPlan) -> bool {
    root.is_some_and(|root| {
        root.epoch().0 == plan.root_epoch && root.check_value().0[..] == plan.root_check[..]
    })
}
