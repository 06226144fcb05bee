//! Relocations in the KMS of either region: what operators ask, and what a replica says of them.
//!
//! Owns the requests under dual control (a hand-over key in the destination, a grant in the source), their ends, and the
//! signed word that the other region counts. Refuses an offered hand-over key that no KMS replica of a trusted region has
//! signed, and everybody but operators. What crosses is `source`'s and `destination`'s.

mod certify;
mod destination;
mod fences;
mod service;
mod shred;
mod source;

use bytes::Bytes;
use envelope::HpkePublicKey;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{
    DatasetId, HandOverKeyId, IdError, Identity, LeafIndex, RegionId, RelocationId, Role,
};
use proto::relocation::Named;
use proto::store::Reader;
use proto::transcript;
use proto::v1;
use proto::v1::kms_command::Command as What;
use transport::panel::WordError;
use transport::{Peer, PublicKey};

use crate::approvals::{self, ApprovalError};
use crate::confirm::ConfirmError;
use crate::core::{Core, LevelTooLow, StaleError};
use crate::custody::CustodyError;
use crate::keys::{KeyError, UnderDualControl, claim, in_force};
use crate::ledger::{Command, CommitError};
use crate::opens::{self, OpenError, OpenItem};
use crate::seal::Sealed;
use crate::sessions::NoSession;

pub(crate) use certify::CertifyError;
pub(crate) use destination::HandedOverAsked;
pub(crate) use service::{HandOverService, ShredService};
pub(crate) use source::{Granted, HandOverAsked};

/// Why nothing was done for a relocation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOverError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only operators change relocations.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// Only gateways move data.
    #[error("{0} is not a gateway: keys that were handed over go to gateways alone")]
    NotAGateway(Identity),
    /// A field is not what it must be.
    #[error("the request's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// An item is not what it must be.
    #[error("an item of the request is not taken")]
    Item(#[source] OpenError),
    /// Its descriptor is not held, or has expired.
    #[error("region {0} is not trusted here now: trust it first (`reduit region trust`)")]
    NotTrusted(RegionId),
    /// What it offers was not signed there.
    #[error("no KMS replica of region {0} has signed it")]
    Signature(RegionId),
    /// Made for another region.
    #[error("the hand-over key was made for keys of region {0}, which is not this one")]
    OtherSource(String),
    /// Nothing of that name.
    #[error("relocation {0} has no grant and no hand-over key here")]
    NoSuch(RelocationId),
    /// What was handed over opens no more.
    #[error("the hand-over key of relocation {0} is destroyed")]
    Ended(RelocationId),
    /// No key of the dataset.
    #[error("dataset {0} has no key here: create it first")]
    NoSuchKey(DatasetId),
    /// No such session.
    #[error(transparent)]
    Session(#[from] NoSession),
    /// The state could not be confirmed.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// Approvals that do not hold.
    #[error("the approvals do not carry the request")]
    Approval(#[from] ApprovalError),
    /// Not recorded, so not done.
    #[error("the request was not recorded")]
    Commit(#[from] CommitError),
    /// Recorded, and the keys did not come out.
    #[error("the request is on record and its keys did not come out")]
    Custody(#[from] CustodyError),
    /// The own region's side of what moved.
    #[error("the dataset's shard did not say whether it moved")]
    NotAsked(#[from] ConfirmError),
    /// The other region's side of it.
    #[error("the destination's nodes do not say that they serve the dataset")]
    Words(#[from] WordError),
    /// Nothing of the key, or not in this state.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
}

fn key_id(bytes: &[u8]) -> Result<HandOverKeyId, HandOverError> {
    HandOverKeyId::try_from(bytes).map_err(|_| HandOverError::Malformed {
        field: "hand-over key id",
    })
}

fn region_id(text: &str, field: &'static str) -> Result<RegionId, HandOverError> {
    text.parse().map_err(|_| HandOverError::Malformed { field })
}

/// The object versions of a request for keys: none where it asks for metadata keys.
fn asked_items(
    request: &v1::HandOverRequest,
    dataset: DatasetId,
    region: &str,
) -> Result<Vec<OpenItem>, HandOverError> {
    match (request.metadata, request.items.is_empty()) {
        (true, true) => Ok(Vec::new()),
        (true, false) => Err(HandOverError::Malformed {
            field: "items: metadata keys are asked for by themselves",
        }),
        (false, _) => {
            opens::items(request.items.clone(), dataset, region).map_err(HandOverError::Item)
        }
    }
}

/// Refuses a signature that no KMS replica of a region trusted now has made.
fn signed_by_region(
    state: &dyn Reader,
    region: &RegionId,
    (signer, signature): (&[u8], &[u8]),
    label: &'static str,
    signed: &[u8],
) -> Result<(), HandOverError> {
    let descriptor = kms_state::trusted_region(state, region);
    let descriptor = descriptor.ok_or_else(|| HandOverError::NotTrusted(region.clone()))?;
    let verified = descriptor.may_sign(signer)
        && PublicKey::from_spki(signer)
            .is_ok_and(|key| key.verify(label, signed, signature).is_ok());
    match verified || broken(Switch::UnsignedHandOver) {
        true => Ok(()),
        false => Err(HandOverError::Signature(region.clone())),
    }
}

impl Core {
    fn changes_relocations(&self, peer: &Peer) -> Result<(), HandOverError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(HandOverError::NotOperator(peer.identity.clone()));
        }
        Ok(self.at_level(kms_state::LEVEL_RELOCATION)?)
    }

    /// Commits what two besides who asks approved, made anew for every try. Who asks may change the dataset's key.
    async fn relocate_under_dual_control(
        &self,
        asked: &UnderDualControl<'_>,
        what: impl Fn(&dyn Reader) -> Result<What, HandOverError>,
    ) -> Result<v1::KmsDone, HandOverError> {
        let actor = &asked.peer.identity;
        self.ledger
            .command::<HandOverError>(actor, self.deadline(), |state| {
                let policy = self.ledger.policy();
                let granted_at = policy
                    .may(state, actor, asked.dataset, v1::Action::Keys, asked.stated)
                    .map_err(CommitError::Denied)?;
                let table = self.enrolments.current();
                let id = Some(asked.single_use_id);
                let approvals =
                    approvals::verified(&table, &asked.hash, id, asked.approvals, self.now())?;
                approvals::counted(&approvals, actor, self.approvers_min())?;
                Ok(Command {
                    // Judged by two views of the authority: where one is behind, apply refuses.
                    authority_version: granted_at.min(table.version()),
                    approvals,
                    what: what(state)?,
                })
            })
            .await
    }

    /// Makes the key that a relocation's keys are received under. Sent again it has effect once, and answers alike.
    pub(crate) async fn create_hand_over_key(
        &self,
        peer: &Peer,
        mut request: v1::CreateHandOverKeyRequest,
    ) -> Result<v1::SignedHandOverKey, HandOverError> {
        self.changes_relocations(peer)?;
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("CreateHandOverKey", &request);
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let id = key_id(&request.single_use_id)?;
        let source = region_id(&request.source, "source")?;
        {
            let state = self.reader().map_err(StaleError::State)?;
            kms_state::trusted_region(&*state, &source)
                .ok_or_else(|| HandOverError::NotTrusted(source.clone()))?;
        }
        let stated = claim(request.claim.take(), &peer.identity);
        let build = |state: &dyn Reader| {
            let root_epoch = in_force(state);
            let born = self.custody.born_hand_over(id, root_epoch)?;
            Ok(What::CreateHandOverKey(v1::CreateHandOverKey {
                hand_over_key_id: id.into(),
                relocation_id: named.relocation.into(),
                dataset_id: named.dataset.into(),
                source: source.to_string(),
                descriptor_version: request.descriptor_version,
                descriptor_fingerprint: request.descriptor_fingerprint.clone(),
                public_key: born.public,
                wrapped_private: born.wrapped,
                root_epoch: root_epoch.0,
                claim: Some(stated.clone()),
            }))
        };
        let asked = UnderDualControl {
            peer,
            dataset: named.dataset,
            stated: &stated,
            hash,
            single_use_id: &request.single_use_id,
            approvals: &given,
            takes: "enabled",
        };
        self.relocate_under_dual_control(&asked, build).await?;
        tracing::warn!(relocation = %named.relocation, dataset = %named.dataset, %source, by = %peer.identity, "hand-over key made");
        self.signed_hand_over_key(named)
    }

    fn signed_hand_over_key(&self, named: Named) -> Result<v1::SignedHandOverKey, HandOverError> {
        let state = self.reader().map_err(StaleError::State)?;
        let key = kms_state::hand_over_key(&*state, &named.relocation);
        let key = key.ok_or(HandOverError::NoSuch(named.relocation))?;
        let destination = self.config.region.to_string();
        let signed = transcript::hand_over_key(&destination, &key);
        let signature = self.local.sign(transcript::LABEL_HAND_OVER_KEY, &signed);
        Ok(v1::SignedHandOverKey {
            destination,
            key: Some(key),
            signer: self.local.public_key().as_spki().to_vec().into(),
            signature: signature.to_vec().into(),
        })
    }

    /// Destroys a hand-over key: what was sealed to it opens no more.
    pub(crate) async fn end_hand_over_key(
        &self,
        peer: &Peer,
        request: v1::EndHandOverKeyRequest,
    ) -> Result<v1::KmsDone, HandOverError> {
        self.changes_relocations(peer)?;
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let id = key_id(&request.hand_over_key_id)?;
        let what = What::EndHandOverKey(v1::EndHandOverKey {
            hand_over_key_id: id.into(),
            relocation_id: named.relocation.into(),
            dataset_id: named.dataset.into(),
        });
        let done = self.relocate(&peer.identity, what).await?;
        tracing::warn!(relocation = %named.relocation, by = %peer.identity, "hand-over key destroyed");
        Ok(done)
    }

    /// Grants keys of a dataset to a relocation, sealed to the key that its destination offers.
    pub(crate) async fn grant_hand_over(
        &self,
        peer: &Peer,
        mut request: v1::GrantHandOverRequest,
    ) -> Result<v1::KmsDone, HandOverError> {
        self.changes_relocations(peer)?;
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("GrantHandOver", &request);
        let malformed = |field| HandOverError::Malformed { field };
        let signed = request.key.take().ok_or(malformed("key"))?;
        let key = signed.key.as_ref().ok_or(malformed("key"))?;
        let named = Named::parse(&key.dataset_id, &key.relocation_id)?;
        let terms = {
            let state = self.reader().map_err(StaleError::State)?;
            self.offered_terms(&*state, &signed, key, &request)?
        };
        let stated = claim(request.claim.take(), &peer.identity);
        let build = |state: &dyn Reader| {
            let held = kms_state::key(state, &named.dataset);
            let held = held.ok_or(HandOverError::NoSuchKey(named.dataset))?;
            Ok(What::GrantHandOver(v1::GrantHandOver {
                dataset_id: named.dataset.into(),
                state_version: held.state_version,
                relocation_id: named.relocation.into(),
                terms: Some(terms.clone()),
                claim: Some(stated.clone()),
            }))
        };
        let asked = UnderDualControl {
            peer,
            dataset: named.dataset,
            stated: &stated,
            hash,
            single_use_id: &request.single_use_id,
            approvals: &given,
            takes: "enabled",
        };
        let done = self.relocate_under_dual_control(&asked, build).await?;
        tracing::warn!(relocation = %named.relocation, dataset = %named.dataset, to = terms.destination, by = %peer.identity, "keys granted to a relocation");
        Ok(done)
    }

    /// What is granted to an offered key, once its signature has been checked.
    fn offered_terms(
        &self,
        state: &dyn Reader,
        signed: &v1::SignedHandOverKey,
        key: &v1::HandOverKeyRecord,
        request: &v1::GrantHandOverRequest,
    ) -> Result<v1::HandOverTerms, HandOverError> {
        let destination = region_id(&signed.destination, "destination")?;
        if key.source != self.config.region.as_str() {
            return Err(HandOverError::OtherSource(key.source.clone()));
        }
        let label = transcript::LABEL_HAND_OVER_KEY;
        let said = transcript::hand_over_key(&signed.destination, key);
        let by = (&signed.signer[..], &signed.signature[..]);
        signed_by_region(state, &destination, by, label, &said)?;
        HpkePublicKey::try_from(&key.public_key[..]).map_err(|_| HandOverError::Malformed {
            field: "hand-over key",
        })?;
        let descriptor = kms_state::trusted_region(state, &destination);
        let descriptor = descriptor.ok_or(HandOverError::NotTrusted(destination))?;
        Ok(v1::HandOverTerms {
            destination: signed.destination.clone(),
            jurisdiction: descriptor.jurisdiction().to_string(),
            descriptor_version: request.descriptor_version,
            descriptor_fingerprint: request.descriptor_fingerprint.clone(),
            hand_over_key_id: key.hand_over_key_id.clone(),
            hand_over_key: key.public_key.clone(),
        })
    }

    /// Closes a grant for good: the alarm, which takes one operator.
    pub(crate) async fn close_hand_over(
        &self,
        peer: &Peer,
        request: v1::CloseHandOverRequest,
    ) -> Result<v1::KmsDone, HandOverError> {
        self.changes_relocations(peer)?;
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let done = self.relocate(&peer.identity, closing(named)).await?;
        tracing::warn!(relocation = %named.relocation, by = %peer.identity, "grant of keys closed");
        Ok(done)
    }

    /// Commits a step of a relocation that takes no approvals.
    async fn relocate(&self, by: &Identity, what: What) -> Result<v1::KmsDone, HandOverError> {
        self.ledger
            .command::<HandOverError>(by, self.deadline(), |state| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await
    }

    /// What this replica has applied of a relocation, signed by it. A sealed one says it too.
    pub(crate) fn state_hand_over(
        &self,
        peer: &Peer,
        request: &v1::StateHandOverRequest,
    ) -> Result<v1::SignedHandOverState, HandOverError> {
        let named = Named::parse(&request.dataset_id, &request.relocation_id)?;
        let none = HandOverError::NoSuch(named.relocation);
        let state = self.reader().map_err(StaleError::State)?;
        let of_dataset = |dataset: &Bytes| *dataset == request.dataset_id;
        let grant = kms_state::hand_over_grant(&*state, &named.relocation);
        let grant = grant.filter(|grant| of_dataset(&grant.dataset_id));
        let key = kms_state::hand_over_key(&*state, &named.relocation);
        let key = key.filter(|key| of_dataset(&key.dataset_id));
        if grant.is_none() && key.is_none() {
            return Err(none);
        }
        let from = peer.identity.region();
        if *from != self.config.region {
            // Another region learns of its own relocations alone.
            let terms = grant.as_ref().and_then(|grant| grant.terms.as_ref());
            let theirs = terms.is_some_and(|terms| terms.destination == from.as_str())
                || key.as_ref().is_some_and(|key| key.source == from.as_str());
            if !theirs {
                return Err(none);
            }
        }
        let dataset_key = kms_state::key(&*state, &named.dataset);
        let dataset_key = dataset_key.ok_or(HandOverError::NoSuchKey(named.dataset))?;
        let ended = LeafIndex(dataset_key.ended_leaf);
        let erased = kms_state::erased_through(&*state, self.config.node_id());
        let said = v1::HandOverState {
            format: 1,
            region: self.config.region.to_string(),
            replica: self.identity().to_string(),
            relocation_id: named.relocation.into(),
            dataset_id: named.dataset.into(),
            grant,
            key,
            key_state: dataset_key.state,
            erased: ended.0 > 0 && erased >= ended,
            at_ms: kms_state::region_time(&*state).0,
        };
        let said = said.encode_to_vec();
        let signature = self.local.sign(transcript::LABEL_HAND_OVER_STATE, &said);
        Ok(v1::SignedHandOverState {
            state: said.into(),
            signer: self.local.public_key().as_spki().to_vec().into(),
            signature: signature.to_vec().into(),
        })
    }
}

fn closing(named: Named) -> What {
    set(named, v1::set_hand_over::Step::Close(v1::CloseHandOver {}))
}

fn set(named: Named, step: v1::set_hand_over::Step) -> What {
    What::SetHandOver(v1::SetHandOver {
        dataset_id: named.dataset.into(),
        relocation_id: named.relocation.into(),
        step: Some(step),
    })
}
