//! What operators and custodians do to a region: the ceremony, unsealing, enrolment, membership.
//!
//! Owns the callers' half of dual control: which bytes an approver signs. An approver signs with a key of their own;
//! nobody approves what they asked for themselves. Refuses nothing by itself: the region does.

use bytes::Bytes;
use envelope::{HpkeInfo, HpkePrivateKey, HpkePublicKey, hpke_seal};
use prost::Message as _;
use proto::ids::{DatasetName, GroupId, Identity, NodeId, RegionId};
use proto::transcript;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_operate_client::KmsOperateClient;
use proto::v1::node_operate_client::NodeOperateClient;
use proto::v1::shard_client::ShardClient;
use tonic::transport::Channel;
use transport::LocalIdentity;

use crate::error::Error;
use crate::kms::now;
use crate::region::{Region, random_id};
use crate::route::Member;
use crate::session;

/// How long an approval made here stays good.
const APPROVAL_MS: u64 = 5 * 60 * 1000;

/// What to change of a dataset's hold; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hold {
    /// Compliance retention until then: milliseconds since 1970.
    pub retain_until_ms: Option<u64>,
    /// Legal hold, or none.
    pub legal: Option<bool>,
}

/// A custodian's share as the ceremony handed it out, and the key that opens it.
pub struct CustodianShare<'a> {
    /// Sealed to the custodian.
    pub share: &'a v1::SealedShare,
    /// The custodian's X-Wing key.
    pub key: &'a HpkePrivateKey,
}

/// Signs an approval: this operator's word on exactly the request that hashes to `request_hash`.
pub fn approve(
    approver: &LocalIdentity,
    request_hash: [u8; 32],
    single_use_id: Bytes,
) -> v1::Approval {
    approve_until(approver, request_hash, single_use_id, APPROVAL_MS)
}

/// As [`approve`], good for so many milliseconds from now.
pub(crate) fn approve_until(
    approver: &LocalIdentity,
    request_hash: [u8; 32],
    single_use_id: Bytes,
    lasts_ms: u64,
) -> v1::Approval {
    let body = v1::ApprovalBody {
        approver: approver.identity().to_string(),
        request_hash: Bytes::copy_from_slice(&request_hash),
        single_use_id,
        expires_at_ms: now().0 + lasts_ms,
    }
    .encode_to_vec();
    let signature = approver.sign(transcript::LABEL_APPROVAL, &body);
    v1::Approval {
        body: body.into(),
        signature: Bytes::copy_from_slice(&signature),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// What approvers of a request of `method` sign, the request's approvals being left out.
pub fn request_hash(method: &str, request: &impl prost::Message) -> [u8; 32] {
    sha256(&transcript::approved_request(
        method,
        &request.encode_to_vec(),
    ))
}

/// Approvals of a request of `method`, one by each approver, for one use.
pub(crate) fn approved(
    method: &str,
    request: &impl prost::Message,
    single_use_id: &Bytes,
    approvers: &[LocalIdentity],
) -> Vec<v1::Approval> {
    let hash = request_hash(method, request);
    let one = |who| approve(who, hash, single_use_id.clone());
    approvers.iter().map(one).collect()
}

impl Region {
    /// The init ceremony on one replica of a pristine cluster. Shares come back sealed to their custodians.
    pub async fn initialise(
        &self,
        replica: NodeId,
        custodians: Vec<v1::Enrolment>,
        needed: u32,
    ) -> Result<v1::InitialiseReply, Error> {
        let request = v1::InitialiseRequest {
            shares: u32::try_from(custodians.len()).unwrap_or(u32::MAX),
            needed,
            custodians,
            genesis: None,
        };
        answer(self.kms_operate(replica)?.initialise(request).await)
    }

    /// Status of one KMS replica.
    pub async fn kms_status(&self, replica: NodeId) -> Result<v1::KmsStatusReply, Error> {
        let channel = self.keys().replica_channel(replica)?;
        answer(
            KmsClient::new(channel)
                .status(v1::KmsStatusRequest {})
                .await,
        )
    }

    /// Gives a sealed replica the second person's word, so that its peers unseal it. `approver` is not the caller.
    pub async fn approve_unseal(
        &self,
        replica: NodeId,
        approver: &LocalIdentity,
    ) -> Result<v1::ApprovePeerUnsealReply, Error> {
        let status = self.kms_status(replica).await?;
        let hash = sha256(&transcript::approved_unseal(
            &status.identity,
            &status.boot_id,
            &status.unseal_offer_hash,
        ));
        let approval = approve(approver, hash, random_id()?);
        let request = v1::ApprovePeerUnsealRequest {
            boot_id: status.boot_id,
            approval: Some(approval),
        };
        answer(
            self.kms_operate(replica)?
                .approve_peer_unseal(request)
                .await,
        )
    }

    /// Gives this custodian's share to a sealed replica. The region is connected to as the custodian.
    pub async fn unseal(
        &self,
        replica: NodeId,
        custodian: CustodianShare<'_>,
    ) -> Result<v1::UnsealReply, Error> {
        let member = self.replica(replica)?;
        let channel = self.keys().replica_channel(replica)?;
        give_share(self.id(), &self.0.local, &member, channel, custodian).await
    }

    /// Seals one replica: its root key and every unwrapped key leave its memory.
    pub async fn seal(&self, replica: NodeId) -> Result<v1::SealReply, Error> {
        answer(self.kms_operate(replica)?.seal(v1::SealRequest {}).await)
    }

    /// Enrols and removes identities, approved by at least two other operators.
    pub async fn change_enrolment(
        &self,
        add: Vec<v1::Enrolment>,
        remove: Vec<String>,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KmsDone, Error> {
        let mut request = v1::ChangeEnrolmentRequest {
            add,
            remove,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        request.approvals = approved(
            "ChangeEnrolment",
            &request,
            &request.single_use_id,
            approvers,
        );
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.change_enrolment(request).await?.into_inner()) }
        })
        .await
    }

    /// Adds and removes grants, approved by at least two other operators.
    pub async fn change_grants(
        &self,
        add: Vec<v1::Grant>,
        remove: Vec<v1::Grant>,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KmsDone, Error> {
        let mut request = v1::ChangeGrantsRequest {
            add,
            remove,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        request.approvals = approved("ChangeGrants", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.change_grants(request).await?.into_inner()) }
        })
        .await
    }

    /// Replaces the policy text, with the approvals that were signed for this very request.
    pub async fn change_policy(
        &self,
        request: v1::ChangePolicyRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<v1::KmsDone, Error> {
        let request = v1::ChangePolicyRequest {
            approvals,
            ..request
        };
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.change_policy(request).await?.into_inner()) }
        })
        .await
    }

    /// Has datasets approved to be restored, or confirmed after it, with the approvals that were signed for this very
    /// request. Sent again it has effect once, and the warrant comes again.
    pub async fn approve_restore(
        &self,
        request: v1::ApproveRestoreRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<v1::ApproveRestoreReply, Error> {
        let request = v1::ApproveRestoreRequest {
            approvals,
            ..request
        };
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.approve_restore(request).await?.into_inner()) }
        })
        .await
    }

    /// Enrolments, and the grants or the policy text in force, as the KMS states them now.
    pub async fn authority(&self) -> Result<v1::EnrolmentSet, Error> {
        let request = v1::FetchEnrolmentsRequest { newer_than: 0 };
        let signed = self
            .keys()
            .call(
                move |mut kms| async move { Ok(kms.fetch_enrolments(request).await?.into_inner()) },
            )
            .await?;
        v1::EnrolmentSet::decode(signed.set).map_err(|_| Error::Protocol {
            what: "an enrolment set that does not decode",
        })
    }

    /// Sets compliance retention and legal hold of a dataset, both as they are to be from now on. Retention never ends
    /// earlier than was stated; lifting a legal hold takes two approvers other than the caller, anything else none.
    pub async fn set_hold(
        &self,
        name: &DatasetName,
        hold: Hold,
        approvers: &[LocalIdentity],
    ) -> Result<(), Error> {
        let info = self.dataset_info(name).await?;
        let mut request = v1::SetHoldRequest {
            shard: info.shard.0,
            dataset_id: info.id.into(),
            from_version: info.hold.version,
            retain_until_ms: hold.retain_until_ms.unwrap_or(info.hold.retain_until_ms),
            legal: hold.legal.unwrap_or(info.hold.legal),
            single_use_id: random_id()?,
            approvals: Vec::new(),
        };
        let hash = request_hash("SetHold", &request);
        let id = request.single_use_id.clone();
        request.approvals = approvers
            .iter()
            .map(|who| approve(who, hash, id.clone()))
            .collect();
        let call = |_, channel| {
            let (mut shard, request) = (ShardClient::new(channel), request.clone());
            async move { shard.set_hold(request).await.map(drop) }
        };
        self.0.nodes.change(info.shard, &self.0.tuning, call).await
    }

    /// An id for a new KMS replica; never given out twice.
    pub async fn allocate_kms_id(&self, identity: &Identity) -> Result<NodeId, Error> {
        let request = v1::AllocateKmsIdRequest {
            identity: identity.to_string(),
        };
        let done = self
            .on_kms_leader(move |mut kms| {
                let request = request.clone();
                async move { Ok(kms.allocate_kms_id(request).await?.into_inner()) }
            })
            .await?;
        Ok(NodeId(done.node_id))
    }

    /// Adds an enrolled replica to the KMS and waits until it votes.
    pub async fn add_kms(&self, id: NodeId, approvers: &[LocalIdentity]) -> Result<(), Error> {
        let mut request = v1::AddReplicaRequest {
            node_id: id.0,
            single_use_id: random_id()?,
            approvals: Vec::new(),
        };
        request.approvals = approved("AddReplica", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { drain(kms.add_replica(request).await?.into_inner()).await }
        })
        .await
    }

    /// Removes a replica from the KMS.
    pub async fn remove_kms(&self, id: NodeId, approvers: &[LocalIdentity]) -> Result<(), Error> {
        let mut request = v1::RemoveReplicaRequest {
            node_id: id.0,
            single_use_id: random_id()?,
            approvals: Vec::new(),
            force: false,
        };
        request.approvals = approved("RemoveReplica", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { drain(kms.remove_replica(request).await?.into_inner()).await }
        })
        .await
    }

    /// Founds the region's storage groups on the nodes enrolled.
    pub async fn found(&self, shards: u32) -> Result<Vec<u64>, Error> {
        let reply = self
            .on_node_leader(move |mut node| async move {
                Ok(node.found(v1::FoundRequest { shards }).await?.into_inner())
            })
            .await?;
        Ok(reply.groups)
    }

    /// An id for a new storage node; never given out twice.
    pub async fn allocate_node_id(&self, identity: &Identity) -> Result<NodeId, Error> {
        let request = v1::AllocateNodeIdRequest {
            identity: identity.to_string(),
        };
        let reply = self
            .on_node_leader(move |mut node| {
                let request = request.clone();
                async move { Ok(node.allocate_node_id(request).await?.into_inner()) }
            })
            .await?;
        Ok(NodeId(reply.node_id))
    }

    /// Adds an enrolled node to every group and waits until it has every block and votes.
    pub async fn add_node(&self, id: NodeId) -> Result<(), Error> {
        self.on_node_leader(move |mut node| async move {
            drain(
                node.add_node(v1::AddNodeRequest { node_id: id.0 })
                    .await?
                    .into_inner(),
            )
            .await
        })
        .await
    }

    /// Removes a node from every group; refused while it alone holds something, unless forced.
    pub async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), Error> {
        self.on_node_leader(move |mut node| async move {
            let request = v1::RemoveNodeRequest {
                node_id: id.0,
                force,
            };
            drain(node.remove_node(request).await?.into_inner()).await
        })
        .await
    }

    /// Raises the feature level of every storage group once all voters support it.
    pub async fn raise_level(&self, level: u32) -> Result<u32, Error> {
        let reply = self
            .on_node_leader(move |mut node| async move {
                Ok(node
                    .raise_level(v1::RaiseLevelRequest { level })
                    .await?
                    .into_inner())
            })
            .await?;
        Ok(reply.level)
    }

    /// Raises the feature level of the KMS once all its members support it.
    pub async fn raise_kms_level(&self, level: u32) -> Result<u32, Error> {
        let reply = self
            .on_kms_leader(move |mut kms| async move {
                let request = v1::RaiseKmsLevelRequest { level };
                Ok(kms.raise_level(request).await?.into_inner())
            })
            .await?;
        Ok(reply.level)
    }

    /// Lets region time follow the clocks of a majority of the KMS's replicas however far ahead they are, approved by at
    /// least two other operators. It works while every replica is sealed: an unseal is recorded with a time too.
    pub async fn advance_kms_time(&self, approvers: &[LocalIdentity]) -> Result<(), Error> {
        let mut request = v1::AdvanceTimeRequest {
            single_use_id: random_id()?,
            approvals: Vec::new(),
        };
        request.approvals = approved("AdvanceTime", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { kms.advance_time(request).await.map(drop) }
        })
        .await
    }

    /// Lets the time of every storage group follow the clocks of a majority of its voters however far ahead they are.
    pub async fn advance_storage_time(&self) -> Result<(), Error> {
        self.on_node_leader(move |mut node| async move {
            let request = v1::AdvanceGroupsRequest {};
            node.advance_time(request).await.map(drop)
        })
        .await
    }

    /// A digest of one group's state on one storage node, to compare replicas at an equal applied index.
    pub async fn digest(&self, node: NodeId, group: GroupId) -> Result<v1::DigestReply, Error> {
        let mut node = NodeOperateClient::new(self.node_channel(node)?);
        answer(node.digest(v1::DigestRequest { group: group.0 }).await)
    }

    /// As [`Region::digest`], of one KMS replica.
    pub async fn kms_digest(&self, replica: NodeId) -> Result<v1::KmsDigestReply, Error> {
        let mut kms = self.kms_operate(replica)?;
        answer(kms.digest(v1::KmsDigestRequest {}).await)
    }

    pub(crate) fn replica(&self, id: NodeId) -> Result<Member, Error> {
        self.keys().pool().member(id).ok_or(Error::Caller {
            reason: "no-such-member".to_owned(),
            message: format!("no kms replica {id} is enrolled"),
        })
    }

    pub(crate) fn kms_operate(&self, replica: NodeId) -> Result<KmsOperateClient<Channel>, Error> {
        self.keys()
            .replica_channel(replica)
            .map(KmsOperateClient::new)
    }

    pub(crate) async fn on_kms_leader<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(KmsOperateClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, tonic::Status>>,
    {
        self.keys()
            .pool()
            .on_leader_at_work(GroupId::KMS, &self.0.tuning, |_, channel| {
                call(KmsOperateClient::new(channel))
            })
            .await
    }

    async fn on_node_leader<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(NodeOperateClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, tonic::Status>>,
    {
        self.0
            .nodes
            .on_leader_at_work(GroupId::CATALOG, &self.0.tuning, |_, channel| {
                call(NodeOperateClient::new(channel))
            })
            .await
    }
}

/// Gives a custodian's share to a sealed replica.
pub(crate) async fn give_share(
    region: &RegionId,
    local: &LocalIdentity,
    member: &Member,
    channel: Channel,
    custodian: CustodianShare<'_>,
) -> Result<v1::UnsealReply, Error> {
    let name = member.identity.as_ref().map(Identity::to_string);
    let own = local.identity().to_string();
    let plain = custodian.opened(region.as_str(), &own)?;
    let (reply, session) = session::open_with_reply(region, local, member, channel.clone())
        .await
        .map_err(|status| Error::from_status(&status))?;
    let to = HpkePublicKey::try_from(&reply.share_key[..]).map_err(|_| Error::Protocol {
        what: "a replica without a key for shares",
    })?;
    let info = HpkeInfo::of(&transcript::unseal_share_info(
        region.as_str(),
        &own,
        &name.unwrap_or_default(),
        &session.id,
    ));
    let sealed = hpke_seal(&to, &info, &session.aad(), &plain).map_err(|_| Error::Protocol {
        what: "a replica's key for shares that is none",
    })?;
    let request = v1::UnsealRequest {
        session_id: session.id.clone(),
        sealed_share: sealed.into(),
    };
    answer(KmsOperateClient::new(channel).unseal(request).await)
}

pub(crate) fn answer<T>(reply: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
    reply
        .map(tonic::Response::into_inner)
        .map_err(|status| Error::from_status(&status))
}

async fn drain(mut progress: tonic::Streaming<v1::Progress>) -> Result<(), tonic::Status> {
    let mut finished = false;
    while let Some(step) = progress.message().await? {
        tracing::info!(step = %step.step, done = step.done, total = step.total, "membership");
        finished = step.finished;
    }
    if finished {
        return Ok(());
    }
    Err(transport::fault::status(
        transport::Fault::Unavailable,
        "unfinished",
        "the change of membership ended before it was done",
    ))
}
