//! Access keys as operators make them and gateways use them.

use bytes::Bytes;
use envelope::SealedKey;
use kms::approvals::{access_key_hash, request_hash};
use proto::ids::AccessKeyId;
use proto::v1;
use tonic::Status;
use zeroize::Zeroizing;

use super::{Caller, Region, Session, random, region_id};

/// Whom the access keys of the tests act for.
pub(crate) const PRINCIPAL: &str = "spiffe://ch-zrh/service/backup";

/// An access key whose secret was shown.
pub(crate) struct Shown {
    pub id: AccessKeyId,
    pub secret: Zeroizing<String>,
    pub record: v1::AccessKeyRecord,
    /// What it was made with, to be sent again.
    pub request: v1::CreateAccessKeyRequest,
}

impl Session {
    /// The text of a secret that was sent in this session.
    pub(crate) fn secret(&self, id: AccessKeyId, sealed: &[u8]) -> Zeroizing<String> {
        let sealed = SealedKey::try_from(sealed).expect("a sealed secret");
        let secret = self
            .receiver
            .receive_access_secret(&sealed, region_id(), id, &self.aad())
            .expect("the secret of this access key, in this session");
        secret.text()
    }
}

impl Caller {
    /// Asks for a new access key, and opens its secret.
    pub(crate) async fn create_access_key(
        &self,
        request: &v1::CreateAccessKeyRequest,
    ) -> Result<Shown, Status> {
        let id = AccessKeyId::try_from(&request.access_key_id[..]).expect("an id");
        let (reply, session) = self
            .at_leader(|at| async move {
                let session = self.session(at).await?;
                let request = v1::CreateAccessKeyRequest {
                    session_id: session.id.clone(),
                    ..request.clone()
                };
                let reply = self.kms(at).create_access_key(request).await?;
                Ok((reply.into_inner(), session))
            })
            .await?;
        Ok(Shown {
            id,
            secret: session.secret(id, &reply.sealed_secret),
            record: reply.key.expect("a record"),
            request: request.clone(),
        })
    }

    /// Asks for a secret as gateways do, and opens it.
    pub(crate) async fn access_secret(
        &self,
        id: AccessKeyId,
        request_id: [u8; 16],
    ) -> Result<(Zeroizing<String>, v1::IssueAccessSecretReply), Status> {
        let (reply, session) = self
            .at_leader(|at| async move {
                let session = self.session(at).await?;
                let request = v1::IssueAccessSecretRequest {
                    session_id: session.id.clone(),
                    access_key_id: id.as_str().to_owned().into(),
                    request_id: Bytes::copy_from_slice(&request_id),
                    ..v1::IssueAccessSecretRequest::default()
                };
                let reply = self.kms(at).issue_access_secret(request).await?;
                Ok((reply.into_inner(), session))
            })
            .await?;
        Ok((session.secret(id, &reply.sealed_secret), reply))
    }

    /// Enables or disables an access key.
    pub(crate) async fn set_access_key(
        &self,
        request: v1::SetAccessKeyStateRequest,
    ) -> Result<v1::AccessKeyRecord, Status> {
        self.at_leader(|at| {
            let (mut kms, request) = (self.kms(at), request.clone());
            async move { Ok(kms.set_access_key_state(request).await?.into_inner()) }
        })
        .await
    }

    pub(crate) async fn disable_access_key(
        &self,
        id: AccessKeyId,
    ) -> Result<v1::AccessKeyRecord, Status> {
        let request = v1::SetAccessKeyStateRequest {
            access_key_id: id.as_str().to_owned().into(),
            state: v1::AccessKeyState::Disabled.into(),
            ..v1::SetAccessKeyStateRequest::default()
        };
        self.set_access_key(request).await
    }

    pub(crate) async fn delete_access_key(&self, id: AccessKeyId) -> Result<v1::KmsDone, Status> {
        self.at_leader(|at| {
            let mut kms = self.kms(at);
            let request = v1::DeleteAccessKeyRequest {
                access_key_id: id.as_str().to_owned().into(),
                claim: None,
            };
            async move { Ok(kms.delete_access_key(request).await?.into_inner()) }
        })
        .await
    }

    pub(crate) async fn list_access_keys(&self) -> Result<v1::ListAccessKeysReply, Status> {
        self.at_leader(|at| {
            let mut kms = self.kms(at);
            async move {
                let request = v1::ListAccessKeysRequest::default();
                Ok(kms.list_access_keys(request).await?.into_inner())
            }
        })
        .await
    }
}

impl Region {
    /// A request for a new access key that nobody has approved.
    pub(crate) fn access_key_request(&self, principal: &str) -> v1::CreateAccessKeyRequest {
        let single_use_id = random::<16>();
        let id = kms_state::access_key_id(&single_use_id);
        v1::CreateAccessKeyRequest {
            access_key_id: id.as_str().to_owned().into(),
            principal: principal.to_owned(),
            single_use_id: Bytes::copy_from_slice(&single_use_id),
            ..v1::CreateAccessKeyRequest::default()
        }
    }

    /// The same, approved for the first operator by two others.
    pub(crate) fn access_key_approved(
        &self,
        mut request: v1::CreateAccessKeyRequest,
    ) -> v1::CreateAccessKeyRequest {
        let hash = access_key_hash(self.people.local("op-1").identity(), &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        request
    }

    /// A new access key of a principal.
    pub(crate) async fn access_key(&self, principal: &str) -> Shown {
        let request = self.access_key_approved(self.access_key_request(principal));
        let created = self.caller("op-1").create_access_key(&request).await;
        created.expect("a new access key")
    }

    /// Adds grants, as three operators do.
    pub(crate) async fn add_grants(&self, add: Vec<v1::Grant>) -> Result<v1::KmsDone, Status> {
        let mut request = v1::ChangeGrantsRequest {
            add,
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            ..v1::ChangeGrantsRequest::default()
        };
        let hash = request_hash("ChangeGrants", &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        let operator = self.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { Ok(operate.change_grants(request).await?.into_inner()) }
            })
            .await
    }

    /// A request to enable an access key as it stands, approved by two others than who asks.
    pub(crate) async fn enable_approved(&self, id: AccessKeyId) -> v1::SetAccessKeyStateRequest {
        let listed = self.caller("op-1").list_access_keys().await;
        let mut keys = listed.expect("listed").keys.into_iter();
        let record = keys.find(|held| held.access_key_id == id.as_str().as_bytes());
        let record = record.expect("there");
        let request = v1::SetAccessKeyStateRequest {
            access_key_id: record.access_key_id,
            state: v1::AccessKeyState::Enabled.into(),
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            state_version: record.state_version,
            principal: record.principal,
            ..v1::SetAccessKeyStateRequest::default()
        };
        self.approve_enable(request)
    }

    /// The same of any such request.
    pub(crate) fn approve_enable(
        &self,
        mut request: v1::SetAccessKeyStateRequest,
    ) -> v1::SetAccessKeyStateRequest {
        request.approvals.clear();
        let hash = request_hash("SetAccessKeyState", &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        request
    }

    /// Enables an access key again, as three operators do.
    pub(crate) async fn enable_access_key(&self, id: AccessKeyId) -> v1::AccessKeyRecord {
        let request = self.enable_approved(id).await;
        let enabled = self.caller("op-1").set_access_key(request).await;
        enabled.expect("enabled")
    }
}
