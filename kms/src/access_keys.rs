//! Access keys: born here, shown to the operator who asked, given to gateways for up to an hour.
//!
//! Owns who may ask for what: bringing a service principal in, or back, takes dual control as an enrolment does; taking one
//! out takes one operator. A secret leaves sealed to its receiver's session, after its record. Refuses it to everybody but
//! gateways, and to whoever asks for one that is disabled.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{AccessKeyId, Identity, LeafIndex, Role, RootEpoch, UnixMs};
use proto::store::Reader;
use proto::v1;
use proto::v1::kms_command::Command as What;
use transport::Peer;

use crate::approvals::{self, ApprovalError};
use crate::core::{Core, LevelTooLow, StaleError};
use crate::custody::CustodyError;
use crate::keys::{claim, in_force};
use crate::ledger::{Command, CommitError, New, Release, stated};
use crate::opens::request_id;
use crate::policy::{Denied, Permit, Policy};
use crate::seal::Sealed;
use crate::sessions::NoSession;

/// Access keys in one answer.
const PAGE_MAX: usize = 500;
const GIVEN_SECONDS_MAX: u32 = (kms_state::ACCESS_GIVEN_MS_MAX / 1_000) as u32;

/// Why nothing was done with an access key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessKeyError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only gateways receive secrets.
    #[error("{actor} is of a role that receives no secrets of access keys")]
    Role {
        /// Who asked.
        actor: Identity,
    },
    /// Only operators change access keys.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// Only operators and auditors see them.
    #[error("{0} is neither an operator nor an auditor")]
    NotAuditor(Identity),
    /// A field is not what it must be.
    #[error("the request's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// No such access key.
    #[error("there is no access key {id}")]
    NoSuch {
        /// Which.
        id: AccessKeyId,
    },
    /// It may still be used.
    #[error("access key {id} is enabled: disable it before it is deleted")]
    StillEnabled {
        /// Which.
        id: AccessKeyId,
    },
    /// It is not what the approvers saw.
    #[error(
        "access key {id} has changed since its enabling was asked for, or is of another principal: ask anew"
    )]
    Moved {
        /// Which.
        id: AccessKeyId,
    },
    /// It was disabled since.
    #[error("access key {id} was disabled since it was made: its secret is not shown")]
    NotEnabled {
        /// Which.
        id: AccessKeyId,
    },
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
    /// Recorded, and the secret did not come out.
    #[error("the request is on record and the secret did not come out")]
    Custody(#[from] CustodyError),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
}

/// An access key with its wrapped secret, of one view of the state.
pub(crate) struct AccessKey {
    pub(crate) id: AccessKeyId,
    pub(crate) record: v1::AccessKeyRecord,
    pub(crate) wrapped: Bytes,
}

impl AccessKey {
    pub(crate) fn find(state: &dyn Reader, id: &AccessKeyId) -> Option<Self> {
        Some(Self {
            id: *id,
            record: kms_state::access_key(state, id)?,
            wrapped: kms_state::access_secret(state, id)?,
        })
    }
}

/// A gateway's request for a secret.
pub(crate) struct SecretAsked {
    actor: Identity,
    id: AccessKeyId,
    request_id: [u8; 16],
    claim: v1::Claim,
    pub(crate) seconds: u32,
}

impl Release for SecretAsked {
    type Key = AccessKey;

    fn actor(&self) -> &Identity {
        &self.actor
    }

    fn claim(&self) -> &v1::Claim {
        &self.claim
    }

    fn permit(&self, policy: &Policy, state: &dyn Reader) -> Result<Permit<AccessKey>, Denied> {
        policy.permit_access(state, &self.actor, &self.id)
    }

    fn record(&self, key: &AccessKey) -> v1::Record {
        v1::Record {
            request_id: Bytes::copy_from_slice(&self.request_id),
            dataset_id: Bytes::new(),
            state_version: key.record.state_version,
            claim: Some(stated(self)),
            kind: Some(v1::record::Kind::AccessKey(v1::AccessKeyIssue {
                access_key_id: key.record.access_key_id.clone(),
                seconds: self.seconds,
            })),
        }
    }
}

/// A secret that is born, for the operator who asked for it.
pub(crate) struct NewSecret {
    actor: Identity,
    id: AccessKeyId,
    principal: String,
    request_id: [u8; 16],
    claim: v1::Claim,
}

impl New for NewSecret {
    type Key = AccessKey;

    fn requester(&self) -> &Identity {
        &self.actor
    }

    fn purpose(&self) -> &str {
        &self.claim.purpose
    }

    fn found(&self, state: &dyn Reader, leaf: LeafIndex) -> Option<AccessKey> {
        AccessKey::find(state, &self.id).filter(|key| key.record.created_leaf == leaf.0)
    }
}

fn id(bytes: &[u8]) -> Result<AccessKeyId, AccessKeyError> {
    AccessKeyId::try_from(bytes).map_err(|_| AccessKeyError::Malformed {
        field: "access key id",
    })
}

impl Core {
    /// Gives a gateway the secret of an access key: on record first.
    pub(crate) async fn issue_access_secret(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::IssueAccessSecretRequest,
    ) -> Result<v1::IssueAccessSecretReply, AccessKeyError> {
        let actor = peer.identity.clone();
        if actor.role() != Role::Gateway {
            return Err(AccessKeyError::Role { actor });
        }
        self.serving()?;
        self.at_level(kms_state::LEVEL_ACCESS_KEYS)?;
        let session = self
            .sessions
            .of(&request.session_id, &peer.public_key, self.now())?;
        let request_id = request_id(&request.request_id).ok_or(AccessKeyError::Malformed {
            field: "request id",
        })?;
        let asked = SecretAsked {
            actor,
            id: id(&request.access_key_id)?,
            request_id,
            claim: request.claim.unwrap_or_default(),
            seconds: match request.seconds {
                0 => GIVEN_SECONDS_MAX,
                asked => asked.min(GIVEN_SECONDS_MAX),
            },
        };
        let recorded = self.ledger.commit(asked, self.deadline()).await?;
        let reply = self.custody.release_access_secret(recorded, &session)?;
        metrics::counter!("reduit_kms_access_secrets_total").increment(1);
        Ok(reply)
    }

    /// Makes an access key, and shows its secret to the operator who asked. The approvals sign exactly this request, by
    /// this operator; sent again with them, it has effect once and the same secret is shown.
    pub(crate) async fn create_access_key(
        self: &Arc<Self>,
        peer: &Peer,
        request: v1::CreateAccessKeyRequest,
    ) -> Result<v1::CreateAccessKeyReply, AccessKeyError> {
        self.changes_access_keys(peer)?;
        let session = self
            .sessions
            .of(&request.session_id, &peer.public_key, self.now())?;
        let malformed = |field| AccessKeyError::Malformed { field };
        let hash = approvals::access_key_hash(&peer.identity, &request);
        let principal: Identity = request
            .principal
            .parse()
            .map_err(|_| malformed("principal"))?;
        if principal.role() != Role::Service || principal.region() != &self.config.region {
            return Err(malformed(
                "principal (a service principal of this region: spiffe://<region>/service/<name>)",
            ));
        }
        let id = id(&request.access_key_id)?;
        let request_id = request_id(&request.single_use_id).ok_or(malformed("single-use id"))?;
        if id != kms_state::access_key_id(&request_id) {
            return Err(malformed(
                "access key id (it is made of the request's single-use id)",
            ));
        }
        let new = NewSecret {
            actor: peer.identity.clone(),
            id,
            principal: principal.to_string(),
            request_id,
            claim: claim(request.claim, &peer.identity),
        };
        let (deadline, single_use_id) = (self.deadline(), request.single_use_id);
        let recorded = self
            .ledger
            .commit_new::<_, AccessKeyError>(new, deadline, |new, state| {
                let given = &request.approvals;
                let (authority_version, approvals) =
                    self.approved_by(&peer.identity, &hash, &single_use_id, given)?;
                let wrapped = self.custody.born_access_secret(new.id, in_force(state))?;
                Ok(Command {
                    authority_version,
                    approvals,
                    what: What::CreateAccessKey(v1::CreateAccessKey {
                        access_key_id: new.id.as_str().to_owned().into(),
                        principal: new.principal.clone(),
                        wrapped_secret: wrapped.into(),
                        root_epoch: in_force(state).0,
                        claim: Some(new.claim.clone()),
                        request_id: Bytes::copy_from_slice(&new.request_id),
                    }),
                })
            })
            .await?;
        self.custody
            .show_new_secret(recorded, &session)?
            .ok_or(AccessKeyError::NotEnabled { id })
    }

    /// Enables or disables an access key: the one under dual control, the other by one operator.
    pub(crate) async fn set_access_key_state(
        &self,
        peer: &Peer,
        mut request: v1::SetAccessKeyStateRequest,
    ) -> Result<v1::AccessKeyRecord, AccessKeyError> {
        self.changes_access_keys(peer)?;
        let target = request.state();
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("SetAccessKeyState", &request);
        if target == v1::AccessKeyState::Unspecified {
            return Err(AccessKeyError::Malformed { field: "state" });
        }
        let id = id(&request.access_key_id)?;
        let stated = claim(request.claim, &peer.identity);
        self.ledger
            .command::<AccessKeyError>(&peer.identity, self.deadline(), |state| {
                let record =
                    kms_state::access_key(state, &id).ok_or(AccessKeyError::NoSuch { id })?;
                let (authority_version, approvals) = match target {
                    // Enabled already, it was done, and its answer was lost.
                    v1::AccessKeyState::Enabled => {
                        let seen = (record.state_version, &record.principal);
                        let asked = (request.state_version, &request.principal);
                        if record.state() != target && asked != seen {
                            return Err(AccessKeyError::Moved { id });
                        }
                        self.approved_by(&peer.identity, &hash, &request.single_use_id, &given)?
                    }
                    _ => (kms_state::authority_version(state), Vec::new()),
                };
                Ok(Command {
                    authority_version,
                    approvals,
                    what: What::SetAccessKeyState(v1::SetAccessKeyState {
                        access_key_id: record.access_key_id,
                        state_version: record.state_version,
                        state: target.into(),
                        claim: Some(stated.clone()),
                    }),
                })
            })
            .await?;
        let state = self.reader().map_err(StaleError::State)?;
        kms_state::access_key(&*state, &id).ok_or(AccessKeyError::NoSuch { id })
    }

    /// Deletes a disabled access key; the replicas erase its wrapped secret from their files.
    pub(crate) async fn delete_access_key(
        &self,
        peer: &Peer,
        request: v1::DeleteAccessKeyRequest,
    ) -> Result<v1::KmsDone, AccessKeyError> {
        self.changes_access_keys(peer)?;
        let id = id(&request.access_key_id)?;
        let stated = claim(request.claim, &peer.identity);
        self.ledger
            .command::<AccessKeyError>(&peer.identity, self.deadline(), |state| {
                let record =
                    kms_state::access_key(state, &id).ok_or(AccessKeyError::NoSuch { id })?;
                if record.state() != v1::AccessKeyState::Disabled {
                    return Err(AccessKeyError::StillEnabled { id });
                }
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: What::DeleteAccessKey(v1::DeleteAccessKey {
                        access_key_id: record.access_key_id,
                        state_version: record.state_version,
                        claim: Some(stated.clone()),
                    }),
                })
            })
            .await
    }

    /// Access keys in order of their ids, without secrets: for who runs or audits the region.
    pub(crate) async fn list_access_keys(
        &self,
        peer: &Peer,
        request: &v1::ListAccessKeysRequest,
    ) -> Result<v1::ListAccessKeysReply, AccessKeyError> {
        if !matches!(peer.identity.role(), Role::Operator | Role::Auditor) {
            return Err(AccessKeyError::NotAuditor(peer.identity.clone()));
        }
        let after = match request.start_after.is_empty() {
            true => None,
            false => Some(id(&request.start_after)?),
        };
        let limit = match request.limit as usize {
            0 => PAGE_MAX,
            asked => asked.min(PAGE_MAX),
        };
        let state = self.current().await?;
        let mut keys = kms_state::access_keys(&*state, after.as_ref(), limit + 1);
        let more = keys.len() > limit;
        keys.truncate(limit);
        let not_erased = kms_state::not_erased_at_all(&*state);
        Ok(v1::ListAccessKeysReply {
            keys,
            more,
            not_erased: not_erased.iter().map(ToString::to_string).collect(),
        })
    }

    fn changes_access_keys(&self, peer: &Peer) -> Result<(), AccessKeyError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(AccessKeyError::NotOperator(peer.identity.clone()));
        }
        Ok(self.at_level(kms_state::LEVEL_ACCESS_KEYS)?)
    }

    /// The approvals of a request, judged by one set and bound to its version: apply refuses if the authority has moved.
    fn approved_by(
        &self,
        requester: &Identity,
        hash: &[u8; 32],
        single_use_id: &[u8],
        given: &[v1::Approval],
    ) -> Result<(u64, Vec<v1::ApprovalClaim>), AccessKeyError> {
        let table = self.enrolments.current();
        let claims = approvals::verified(&table, hash, Some(single_use_id), given, self.now())?;
        approvals::counted(&claims, requester, self.approvers_min())?;
        Ok((table.version(), claims))
    }
}

/// Until when a gateway may use a secret: counted from its leaf, which a retry does not move.
pub(crate) fn given_until(recorded_at: UnixMs, seconds: u32) -> UnixMs {
    UnixMs(recorded_at.0 + u64::from(seconds) * 1_000)
}

/// The epoch of the root key around an access key's secret.
pub(crate) fn epoch_of(key: &AccessKey) -> RootEpoch {
    RootEpoch(key.record.root_epoch)
}
