//! Access keys: what operators make of them, and what a gateway is given.
//!
//! Owns the callers' half: the session that a secret comes sealed in, and how long a gateway may go by what it was given.
//! Refuses a secret that is not of the access key that was asked for. Whether it may be given is the region's to say.

use std::sync::Arc;

use bytes::Bytes;
use envelope::{AccessSecret, SealedKey};
use proto::ids::{AccessKeyId, Identity, Role, UnixMs};
use proto::transcript;
use proto::v1;
use transport::{Fault, LocalIdentity};

use crate::error::Error;
use crate::kms::now;
use crate::operator::{approve, request_hash, sha256};
use crate::region::{Region, random_id};
use crate::session::Session;

/// Longest that a secret may be used without asking again.
const GIVEN_MS_MAX: u64 = 3_600_000;

/// What a gateway is given of an access key: with it it checks signatures, and learns for whom they are.
pub struct AccessGrant {
    /// What the client signs with.
    pub secret: AccessSecret,
    /// Whom the access key acts for: see [`Region::on_behalf_of`].
    pub principal: Identity,
    /// Until when it may be gone by; then it is asked for again, and a disabled access key is found out.
    pub expires: UnixMs,
    /// The leaf that records it.
    pub leaf_index: u64,
}

impl AccessGrant {
    /// Whether it may still be gone by.
    pub fn is_usable(&self) -> bool {
        now() < self.expires
    }
}

/// A new access key. Its secret is here and, wrapped, in the KMS: nobody shows it again.
pub struct NewAccessKey {
    /// What the client is to sign with.
    pub secret: AccessSecret,
    /// What the region holds of it.
    pub record: v1::AccessKeyRecord,
}

/// Access keys of a region, without secrets.
#[derive(Debug, Clone, Default)]
pub struct AccessKeys {
    /// In order of their ids.
    pub keys: Vec<v1::AccessKeyRecord>,
    /// Replicas whose files may hold what was last deleted.
    pub not_erased: Vec<String>,
}

/// A service principal of a region by its name.
pub fn service_principal(region: &Region, name: &str) -> Result<Identity, Error> {
    Ok(Identity::new(region.id().clone(), Role::Service, name)?)
}

/// The id of the access key that a request of this single-use id makes.
pub(crate) fn id_of(single_use_id: &[u8]) -> AccessKeyId {
    AccessKeyId::of_request(&sha256(&transcript::access_key_id(single_use_id)))
}

/// A request for an access key of a principal, to be approved for `requester` alone.
pub(crate) fn new_request(
    requester: &Identity,
    principal: &Identity,
) -> Result<v1::CreateAccessKeyRequest, Error> {
    let single_use_id = random_id()?;
    let id = id_of(&single_use_id);
    Ok(v1::CreateAccessKeyRequest {
        access_key_id: Bytes::copy_from_slice(id.as_str().as_bytes()),
        principal: principal.to_string(),
        single_use_id,
        claim: Some(v1::Claim {
            actor: requester.to_string(),
            ..v1::Claim::default()
        }),
        ..v1::CreateAccessKeyRequest::default()
    })
}

/// A request to enable an access key as it stands in `record`, to be approved: disabled once more, it takes another.
pub(crate) fn enable_request(
    requester: &Identity,
    record: &v1::AccessKeyRecord,
) -> Result<v1::SetAccessKeyStateRequest, Error> {
    Ok(v1::SetAccessKeyStateRequest {
        access_key_id: record.access_key_id.clone(),
        state: v1::AccessKeyState::Enabled.into(),
        single_use_id: random_id()?,
        state_version: record.state_version,
        principal: record.principal.clone(),
        claim: Some(v1::Claim {
            actor: requester.to_string(),
            ..v1::Claim::default()
        }),
        ..v1::SetAccessKeyStateRequest::default()
    })
}

/// What approvers of a new access key sign.
pub(crate) fn new_hash(requester: &Identity, request: &v1::CreateAccessKeyRequest) -> [u8; 32] {
    let actor = requester.to_string();
    sha256(&transcript::approved_access_key(&actor, request))
}

impl Region {
    /// The secret of an access key, for a gateway to check signatures with: good for an hour at most. Recorded before it
    /// is released. Refused to everybody but gateways, and for an access key that is disabled or that there is none of.
    pub async fn access_secret(&self, id: &AccessKeyId) -> Result<AccessGrant, Error> {
        let (asked, request_id) = (now(), random_id()?);
        let (reply, secret) = self
            .keys()
            .call_in_session(|mut kms, session| {
                let request = v1::IssueAccessSecretRequest {
                    session_id: session.id.clone(),
                    access_key_id: Bytes::copy_from_slice(id.as_str().as_bytes()),
                    request_id: request_id.clone(),
                    ..v1::IssueAccessSecretRequest::default()
                };
                async move {
                    let reply = kms.issue_access_secret(request).await?.into_inner();
                    let secret = self.opened(&session, *id, &reply.sealed_secret)?;
                    Ok((reply, secret))
                }
            })
            .await?;
        let principal: Identity = reply.principal.parse()?;
        if principal.role() != Role::Service || principal.region() != self.id() {
            return Err(Error::Protocol {
                what: "an access key that acts for no service principal of this region",
            });
        }
        // By the region's time; by ours no longer than an hour from when it was asked for.
        let expires = UnixMs(reply.expires_at_ms.min(asked.0 + GIVEN_MS_MAX));
        Ok(AccessGrant {
            secret,
            principal,
            expires,
            leaf_index: reply.leaf_index,
        })
    }

    /// Makes an access key of a service principal, approved by at least two operators other than the caller. Its secret
    /// is shown in this answer and never again.
    pub async fn create_access_key(
        &self,
        principal: &Identity,
        approvers: &[LocalIdentity],
    ) -> Result<NewAccessKey, Error> {
        let request = new_request(self.identity(), principal)?;
        let hash = new_hash(self.identity(), &request);
        let id = &request.single_use_id;
        let approvals = approvers.iter().map(|who| approve(who, hash, id.clone()));
        let approvals = approvals.collect();
        self.create_access_key_approved(&request, approvals).await
    }

    /// As [`Self::create_access_key`], with the approvals that were signed for this very request. Sent again with them, it
    /// has effect once and the secret is shown again.
    pub async fn create_access_key_approved(
        &self,
        request: &v1::CreateAccessKeyRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<NewAccessKey, Error> {
        let id = AccessKeyId::try_from(&request.access_key_id[..])?;
        let (request, approvals) = (&request, &approvals);
        let (reply, secret) = self
            .keys()
            .call_in_session(|mut kms, session| {
                let request = v1::CreateAccessKeyRequest {
                    session_id: session.id.clone(),
                    approvals: approvals.clone(),
                    ..(*request).clone()
                };
                async move {
                    let reply = kms.create_access_key(request).await?.into_inner();
                    let secret = self.opened(&session, id, &reply.sealed_secret)?;
                    Ok((reply, secret))
                }
            })
            .await?;
        let record = reply.key.ok_or(Error::Protocol {
            what: "no access key in the answer",
        })?;
        Ok(NewAccessKey { secret, record })
    }

    /// Disables an access key: no gateway is given its secret any more. What one holds ends within the hour, and the
    /// record says when.
    pub async fn disable_access_key(&self, id: &AccessKeyId) -> Result<v1::AccessKeyRecord, Error> {
        let request = v1::SetAccessKeyStateRequest {
            access_key_id: Bytes::copy_from_slice(id.as_str().as_bytes()),
            state: v1::AccessKeyState::Disabled.into(),
            ..v1::SetAccessKeyStateRequest::default()
        };
        self.set_access_key(request).await
    }

    /// Enables a disabled access key again, approved by at least two operators other than the caller.
    pub async fn enable_access_key(
        &self,
        id: &AccessKeyId,
        approvers: &[LocalIdentity],
    ) -> Result<v1::AccessKeyRecord, Error> {
        let record = self.access_key(id).await?.ok_or_else(|| Error::Caller {
            reason: "no-such-access-key".to_owned(),
            message: format!("there is no access key {id}"),
        })?;
        let request = enable_request(self.identity(), &record)?;
        let hash = request_hash("SetAccessKeyState", &request);
        let id = &request.single_use_id;
        let approvals = approvers.iter().map(|who| approve(who, hash, id.clone()));
        let approvals = approvals.collect();
        self.enable_access_key_approved(&request, approvals).await
    }

    /// As [`Self::enable_access_key`], with the approvals that were signed for this very request.
    pub async fn enable_access_key_approved(
        &self,
        request: &v1::SetAccessKeyStateRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<v1::AccessKeyRecord, Error> {
        let request = v1::SetAccessKeyStateRequest {
            approvals,
            ..request.clone()
        };
        self.set_access_key(request).await
    }

    async fn set_access_key(
        &self,
        request: v1::SetAccessKeyStateRequest,
    ) -> Result<v1::AccessKeyRecord, Error> {
        self.keys()
            .call(move |mut kms| {
                let request = request.clone();
                async move { Ok(kms.set_access_key_state(request).await?.into_inner()) }
            })
            .await
    }

    /// Deletes a disabled access key, and its secret from the replicas' files.
    pub async fn delete_access_key(&self, id: &AccessKeyId) -> Result<v1::KmsDone, Error> {
        let request = v1::DeleteAccessKeyRequest {
            access_key_id: Bytes::copy_from_slice(id.as_str().as_bytes()),
            claim: None,
        };
        self.keys()
            .call(move |mut kms| {
                let request = request.clone();
                async move { Ok(kms.delete_access_key(request).await?.into_inner()) }
            })
            .await
    }

    /// Every access key of the region: for operators and auditors.
    pub async fn access_keys(&self) -> Result<AccessKeys, Error> {
        let (mut all, mut start_after) = (AccessKeys::default(), Bytes::new());
        loop {
            let request = v1::ListAccessKeysRequest {
                start_after: start_after.clone(),
                limit: 0,
            };
            let page = self.keys().call(move |mut kms| {
                let request = request.clone();
                async move { Ok(kms.list_access_keys(request).await?.into_inner()) }
            });
            let page = page.await?;
            let last = page.keys.last().map(|key| key.access_key_id.clone());
            all.keys.extend(page.keys);
            all.not_erased = page.not_erased;
            match last {
                Some(last) if page.more => start_after = last,
                _ => return Ok(all),
            }
        }
    }

    /// One access key, without its secret, if there is one of that id: for operators and auditors.
    pub async fn access_key(&self, id: &AccessKeyId) -> Result<Option<v1::AccessKeyRecord>, Error> {
        let mut keys = self.access_keys().await?.keys.into_iter();
        Ok(keys.find(|held| held.access_key_id == id.as_str().as_bytes()))
    }

    fn opened(
        &self,
        session: &Arc<Session>,
        id: AccessKeyId,
        sealed: &[u8],
    ) -> Result<AccessSecret, tonic::Status> {
        let bad = |_| {
            let why = "the secret does not open";
            transport::fault::status(Fault::Internal, "access-secret", why)
        };
        let sealed = SealedKey::try_from(sealed).map_err(bad)?;
        let receiver = &session.receiver;
        receiver
            .receive_access_secret(&sealed, self.id().clone(), id, &session.aad())
            .map_err(bad)
    }
}
