//! Seals of the root key by a token and a person, as operators and holders use them.
//!
//! Owns the callers' half: what approvers sign, and a holder's half on its way into a sealed replica. Refuses to hand on
//! a half that does not open for this holder.

use bytes::Bytes;
use envelope::{HpkeInfo, HpkePrivateKey, HpkePublicKey, hpke_open, hpke_seal};
use proto::ids::{Identity, NodeId};
use proto::transcript;
use proto::v1;
use proto::v1::kms_operate_client::KmsOperateClient;
use transport::LocalIdentity;

use crate::approval::ApprovalRequest;
use crate::error::Error;
use crate::operator::{answer, approved};
use crate::region::{Region, random_id};
use crate::session;

/// A holder's half as it was handed out, and the key that opens it.
pub struct HolderHalf<'a> {
    /// Sealed to the holder.
    pub half: &'a v1::SealedHalf,
    /// The holder's X-Wing key.
    pub key: &'a HpkePrivateKey,
}

/// What one replica says of seals.
pub struct ReplicaSeals {
    /// Which replica.
    pub id: NodeId,
    /// Its name, where it is enrolled.
    pub identity: Option<Identity>,
    /// What it says.
    pub said: Result<v1::FindSealsReply, Error>,
}

impl Region {
    /// The seals on record and every replica's token.
    pub async fn seals(&self) -> Vec<ReplicaSeals> {
        let members = self.keys().pool().members();
        let asked = members.into_iter().map(|member| async move {
            let said = async {
                let mut kms = self.kms_operate(member.id)?;
                answer(kms.find_seals(v1::FindSealsRequest {}).await)
            };
            ReplicaSeals {
                id: member.id,
                identity: member.identity.clone(),
                said: said.await,
            }
        });
        futures::future::join_all(asked).await
    }

    /// Seals the root key in force, or the one under way, under the leader's token and a half for the holders named;
    /// for every enrolled custodian when none is. The half comes back sealed to each.
    pub async fn provision_seal(
        &self,
        holders: &[Identity],
        next: bool,
        approvers: &[LocalIdentity],
    ) -> Result<v1::ProvisionSealReply, Error> {
        let mut request = v1::ProvisionSealRequest {
            next,
            holders: self.enrolled_as(holders).await?,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        request.approvals = approved("ProvisionSeal", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.provision_seal(request).await?.into_inner()) }
        })
        .await
    }

    /// Gives up a seal. `lost` says that nobody has its token any more, else the leader deletes the token's key.
    pub async fn drop_seal(
        &self,
        seal_id: Bytes,
        lost: bool,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KmsDone, Error> {
        let mut request = v1::DropSealRequest {
            seal_id,
            lost,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        request.approvals = approved("DropSeal", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.drop_seal(request).await?.into_inner()) }
        })
        .await
    }

    /// Asks for approvals of an unseal of a replica, in its present life, by the seal that this half is of.
    pub async fn ask_token_unseal(
        &self,
        replica: NodeId,
        half: &v1::SealedHalf,
    ) -> Result<ApprovalRequest, Error> {
        let status = self.kms_status(replica).await?;
        ApprovalRequest::token_unseal(self.identity(), &status, half.seal_id.clone())
    }

    /// Unseals a replica by its token and this holder's half, with the approvals that operators gave to the request.
    /// Connected to as the holder.
    pub async fn unseal_by_token(
        &self,
        replica: NodeId,
        holder: HolderHalf<'_>,
        asked: &v1::TokenUnsealAsked,
        approvals: Vec<v1::Approval>,
    ) -> Result<v1::UnsealReply, Error> {
        let own = self.identity().to_string();
        let region = self.id().as_str();
        let seal_id = &holder.half.seal_id;
        let info = HpkeInfo::of(&transcript::holder_half_info(region, seal_id, &own));
        let plain =
            hpke_open(holder.key, &info, b"", &holder.half.sealed).map_err(|_| Error::Caller {
                reason: "not-my-half".to_owned(),
                message: "the half does not open with this holder's key".to_owned(),
            })?;
        let (member, channel) = (
            self.replica(replica)?,
            self.keys().replica_channel(replica)?,
        );
        let (reply, session) = session::open_with_reply(self.id(), &self.0.local, &member, channel)
            .await
            .map_err(|status| Error::from_status(&status))?;
        let no_key = || Error::Protocol {
            what: "a replica without a key for halves",
        };
        let to = HpkePublicKey::try_from(&reply.share_key[..]).map_err(|_| no_key())?;
        let info = HpkeInfo::of(&transcript::unseal_half_info(
            region,
            &own,
            &asked.replica,
            &session.id,
            seal_id,
        ));
        let sealed = hpke_seal(&to, &info, &session.aad(), &plain).map_err(|_| no_key())?;
        let request = v1::UnsealByTokenRequest {
            session_id: session.id.clone(),
            sealed_half: sealed.into(),
            seal_id: seal_id.clone(),
            single_use_id: asked.single_use_id.clone(),
            approvals,
        };
        let mut kms: KmsOperateClient<_> = self.kms_operate(replica)?;
        answer(kms.unseal_by_token(request).await)
    }
}
