//! Leases: the right to seal for up to an hour, and the dataset's metadata key for as long.
//!
//! Owns the terms. Refuses roles that never hold keys, and terms longer than configured. A lease key is kept nowhere,
//! so a retry is a lease of its own, with a leaf of its own.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{DatasetEpoch, DatasetId, Identity, LeaseId, UnixMs};
use proto::v1;
use transport::Peer;

use crate::approvals::sha256;
use crate::core::Core;
use crate::custody::CustodyError;
use crate::ledger::{CommitError, DatasetUse};
use crate::opens::{receives_keys, request_id};
use crate::random;
use crate::seal::Sealed;
use crate::sessions::NoSession;

/// A dataset begins at this epoch; callers that name none mean it.
const FIRST_EPOCH: DatasetEpoch = DatasetEpoch(1);

/// Why no lease was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only gateways and sealing clients receive keys.
    #[error("{actor} is of a role that never receives keys")]
    Role {
        /// Who asked.
        actor: Identity,
    },
    /// A field is not what it must be.
    #[error("the lease request's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// No such session.
    #[error(transparent)]
    Session(#[from] NoSession),
    /// Not recorded, so not given.
    #[error("the lease was not recorded")]
    Commit(#[from] CommitError),
    /// Recorded, and the key did not come out.
    #[error("the lease is on record and its key did not come out")]
    Custody(#[from] CustodyError),
}

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) issued_at: UnixMs,
    pub(crate) expires_at: UnixMs,
}

/// What both kinds of lease have.
struct Asked {
    actor: Identity,
    holder: [u8; 32],
    request_id: [u8; 16],
    dataset: DatasetId,
    dataset_epoch: DatasetEpoch,
    claim: v1::Claim,
    terms: Terms,
    id: LeaseId,
}

/// A lease to seal with.
pub(crate) struct Lease {
    actor: Identity,
    claim: v1::Claim,
    request_id: [u8; 16],
    pub(crate) holder: [u8; 32],
    pub(crate) dataset: DatasetId,
    pub(crate) dataset_epoch: DatasetEpoch,
    pub(crate) id: LeaseId,
    pub(crate) terms: Terms,
}

/// A lease of the metadata key.
pub(crate) struct MetadataLease {
    actor: Identity,
    claim: v1::Claim,
    request_id: [u8; 16],
    holder: [u8; 32],
    pub(crate) dataset: DatasetId,
    id: LeaseId,
    pub(crate) terms: Terms,
}

fn issue(id: LeaseId, holder: &[u8; 32], terms: Terms, key: &v1::KekRecord) -> v1::LeaseIssue {
    v1::LeaseIssue {
        lease_id: id.into(),
        holder: Bytes::copy_from_slice(holder),
        issued_at_ms: terms.issued_at.0,
        expires_at_ms: terms.expires_at.0,
        kek_version: key.current_version,
    }
}

macro_rules! release {
    ($lease:ty, $action:expr, $kind:path) => {
        impl DatasetUse for $lease {
            fn actor(&self) -> &Identity {
                &self.actor
            }

            fn dataset(&self) -> DatasetId {
                self.dataset
            }

            fn action(&self) -> v1::Action {
                $action
            }

            fn claim(&self) -> &v1::Claim {
                &self.claim
            }

            fn request_id(&self) -> [u8; 16] {
                self.request_id
            }

            fn kind(&self, key: &v1::KekRecord) -> v1::record::Kind {
                $kind(issue(self.id, &self.holder, self.terms, key))
            }
        }
    };
}

release!(Lease, v1::Action::Write, v1::record::Kind::Lease);
release!(
    MetadataLease,
    v1::Action::List,
    v1::record::Kind::MetadataLease
);

impl Core {
    /// Issues a lease, on the leader: policy, record, release.
    pub(crate) async fn issue_lease(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::IssueLeaseRequest,
    ) -> Result<v1::IssueLeaseReply, LeaseError> {
        let session_id = request.session_id.clone();
        let asked = self.asked(peer, request)?;
        let session = self
            .sessions
            .of(&session_id, &peer.public_key, self.now())?;
        let Asked {
            actor,
            holder,
            request_id,
            dataset,
            dataset_epoch,
            claim,
            terms,
            id,
        } = asked;
        let lease = Lease {
            actor,
            claim,
            request_id,
            holder,
            dataset,
            dataset_epoch,
            id,
            terms,
        };
        let recorded = self.ledger.commit(lease, self.deadline()).await?;
        let reply = self
            .custody
            .release_lease(recorded, &session, &self.local)?;
        metrics::counter!("reduit_kms_leases_total", "kind" => "seal").increment(1);
        Ok(reply)
    }

    /// Issues a metadata lease, on the leader: its issue is the record of the reads it allows.
    pub(crate) async fn issue_metadata_lease(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::IssueLeaseRequest,
    ) -> Result<v1::IssueMetadataLeaseReply, LeaseError> {
        let session_id = request.session_id.clone();
        let asked = self.asked(peer, request)?;
        let session = self
            .sessions
            .of(&session_id, &peer.public_key, self.now())?;
        let Asked {
            actor,
            holder,
            request_id,
            dataset,
            claim,
            terms,
            id,
            ..
        } = asked;
        let lease = MetadataLease {
            actor,
            claim,
            request_id,
            holder,
            dataset,
            id,
            terms,
        };
        let recorded = self.ledger.commit(lease, self.deadline()).await?;
        let reply = self.custody.release_metadata(recorded, &session)?;
        metrics::counter!("reduit_kms_leases_total", "kind" => "metadata").increment(1);
        Ok(reply)
    }

    fn asked(&self, peer: &Peer, request: v1::IssueLeaseRequest) -> Result<Asked, LeaseError> {
        let actor = peer.identity.clone();
        if !receives_keys(actor.role()) {
            return Err(LeaseError::Role { actor });
        }
        self.serving()?;
        let malformed = |field| LeaseError::Malformed { field };
        let request_id = request_id(&request.request_id).ok_or(malformed("request id"))?;
        let dataset = DatasetId::try_from(request.dataset_id.as_ref())
            .map_err(|_| malformed("dataset id"))?;
        let longest = self.config.lease_seconds_max;
        let seconds = match request.seconds {
            0 => longest,
            asked => asked.min(longest),
        };
        let issued_at = self.now();
        let expires_at = UnixMs(issued_at.0 + u64::from(seconds) * 1000);
        let holder = sha256(peer.public_key.as_spki());
        let dataset_epoch = match request.dataset_epoch {
            0 => FIRST_EPOCH,
            epoch => DatasetEpoch(epoch),
        };
        Ok(Asked {
            actor,
            id: LeaseId(random()),
            holder,
            request_id,
            dataset,
            dataset_epoch,
            claim: request.claim.unwrap_or_default(),
            terms: Terms {
                issued_at,
                expires_at,
            },
        })
    }
}
