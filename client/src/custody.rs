//! Custody of the root key, as operators and custodians change it.
//!
//! Owns the callers' half: what approvers sign, and a share on its way from its custodian to the leader, which looks at
//! it and keeps nothing. Refuses to hand on a share that is not the one that its split's public record names.

use bytes::Bytes;
use envelope::{HpkeInfo, HpkePublicKey, Share, ShareSet, hpke_open, hpke_seal};
use prost::Message as _;
use proto::ids::{GroupId, Identity, NodeId};
use proto::transcript;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_operate_client::KmsOperateClient;
use transport::LocalIdentity;

use crate::error::Error;
use crate::operator::{CustodianShare, answer, approved};
use crate::region::{Region, random_id};
use crate::session;

/// Bytes of a split's public record that name it, and its root epoch after them.
const SET_ID: std::ops::Range<usize> = 1..17;
const EPOCH: std::ops::Range<usize> = 17..21;

/// Which split a share belongs to, by the split's public record.
pub(crate) struct ShareName {
    /// The split: 16 bytes.
    pub(crate) set_id: Bytes,
    /// The epoch of its root key.
    pub(crate) root_epoch: u32,
}

impl ShareName {
    /// Reads it off a share as it was handed out.
    pub(crate) fn of(share: &v1::SealedShare) -> Result<Self, Error> {
        let not = || Error::Caller {
            reason: "not-a-share".to_owned(),
            message: "the share names no split".to_owned(),
        };
        let record = &share.share_set;
        let epoch = record.get(EPOCH).and_then(|epoch| epoch.try_into().ok());
        if record.len() < SET_ID.end {
            return Err(not());
        }
        Ok(Self {
            set_id: record.slice(SET_ID),
            root_epoch: u32::from_be_bytes(epoch.ok_or_else(not)?),
        })
    }
}

/// What one emergency seal came to.
pub struct SealedRegion {
    /// The leaf, or why there is none.
    pub recorded: Result<u64, Error>,
    /// Each replica, and why it may still hold keys.
    pub replicas: Vec<(NodeId, Option<Identity>, Result<(), Error>)>,
}

impl CustodianShare<'_> {
    /// The share in the clear, checked against its split's public record.
    pub(crate) fn opened(
        &self,
        region: &str,
        own: &str,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        let (share, refused) = (self.share, |message: &str| Error::Caller {
            reason: "not-my-share".to_owned(),
            message: message.to_owned(),
        });
        let info = HpkeInfo::of(&transcript::custodian_share_info(
            region,
            &share.share_set,
            &share.index.to_be_bytes(),
            own,
        ));
        let plain = hpke_open(self.key, &info, b"", &share.sealed)
            .map_err(|_| refused("the share does not open with this custodian's key"))?;
        let set = ShareSet::from_bytes(&share.share_set)
            .map_err(|_| refused("the share names no split that this build knows"))?;
        let checked = Share::from_bytes(&plain).and_then(|share| set.verify(&share));
        checked.map_err(|error| refused(&error.to_string()))?;
        Ok(plain)
    }
}

impl Region {
    /// Custody as the leader's state has it, or any replica's where none leads.
    pub async fn custody(&self) -> Result<v1::FindCustodyReply, Error> {
        let led = self
            .on_kms_leader(|mut kms| async move {
                let request = v1::FindCustodyRequest {};
                Ok(kms.find_custody(request).await?.into_inner())
            })
            .await;
        let Err(mut last) = led else {
            return led;
        };
        for member in self.keys().pool().members() {
            let channel = self.keys().replica_channel(member.id)?;
            let mut kms = KmsOperateClient::new(channel);
            match answer(kms.find_custody(v1::FindCustodyRequest {}).await) {
                Ok(reply) => return Ok(reply),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Begins a new split of the root key, or of a new root key, among the custodians named; among every enrolled one
    /// when none is. The shares come back sealed to their custodians, and what is in force stays in force.
    pub async fn begin_custody(
        &self,
        custodians: &[Identity],
        needed: u32,
        new_root: bool,
        approvers: &[LocalIdentity],
    ) -> Result<v1::BeginCustodyReply, Error> {
        let mut request = v1::BeginCustodyRequest {
            custodians: self.enrolled_as(custodians).await?,
            needed,
            new_root,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        request.approvals = approved("BeginCustody", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.begin_custody(request).await?.into_inner()) }
        })
        .await
    }

    /// Enrolments with their keys: what approvers sign names keys, not only names.
    pub(crate) async fn enrolled_as(
        &self,
        named: &[Identity],
    ) -> Result<Vec<v1::Enrolment>, Error> {
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let fetch = |_, channel| async move {
            let request = v1::FetchEnrolmentsRequest { newer_than: 0 };
            let reply = KmsClient::new(channel).fetch_enrolments(request).await?;
            Ok(reply.into_inner())
        };
        let (pool, tuning) = (self.keys().pool(), &self.0.tuning);
        let signed = pool.on_leader(GroupId::KMS, tuning, fetch).await?;
        let set = v1::EnrolmentSet::decode(signed.set).map_err(|_| Error::Protocol {
            what: "an enrolment set that does not decode",
        })?;
        let find = |name: &Identity| {
            let name = name.to_string();
            let mut enrolments = set.enrolments.iter();
            let found = enrolments.find(|enrolment| enrolment.identity == name);
            found.cloned().ok_or_else(|| Error::Caller {
                reason: "not-enrolled".to_owned(),
                message: format!("{name} is not enrolled"),
            })
        };
        named.iter().map(find).collect()
    }

    /// Shows this custodian's share of the split under way to the leader. The region is connected to as the custodian.
    pub async fn confirm_share(&self, custodian: CustodianShare<'_>) -> Result<v1::KmsDone, Error> {
        let own = self.identity().to_string();
        let plain = custodian.opened(self.id().as_str(), &own)?;
        let set_id = ShareName::of(custodian.share)?.set_id;
        let (own, plain, set_id) = (&own, &plain, &set_id);
        let (pool, tuning) = (self.keys().pool(), &self.0.tuning);
        pool.on_leader(GroupId::KMS, tuning, |member, channel| async move {
            let (reply, session) =
                session::open_with_reply(self.id(), &self.0.local, &member, channel.clone())
                    .await?;
            let name = member.identity.as_ref().map(Identity::to_string);
            let no_key = || tonic::Status::internal("a replica without a key for shares");
            let to = HpkePublicKey::try_from(&reply.share_key[..]).map_err(|_| no_key())?;
            let info = HpkeInfo::of(&transcript::confirm_share_info(
                self.id().as_str(),
                own,
                &name.unwrap_or_default(),
                &session.id,
                set_id,
            ));
            let sealed = hpke_seal(&to, &info, &session.aad(), plain).map_err(|_| no_key())?;
            let request = v1::ConfirmShareRequest {
                session_id: session.id.clone(),
                sealed_share: sealed.into(),
                set_id: set_id.clone(),
            };
            let mut kms = KmsOperateClient::new(channel);
            Ok(kms.confirm_share(request).await?.into_inner())
        })
        .await
    }

    /// Brings the split under way into force. Asked again, it goes on where it was.
    /// `without_token` lets a new root key have no token's seal although the one in force has one.
    pub async fn finish_custody(
        &self,
        set_id: Bytes,
        without_token: bool,
    ) -> Result<v1::KmsDone, Error> {
        self.on_kms_leader(move |mut kms| {
            let request = v1::FinishCustodyRequest {
                set_id: set_id.clone(),
                without_token,
            };
            async move { Ok(kms.finish_custody(request).await?.into_inner()) }
        })
        .await
    }

    /// Gives up the split under way.
    pub async fn abandon_custody(&self, set_id: Bytes) -> Result<v1::KmsDone, Error> {
        self.on_kms_leader(move |mut kms| {
            let request = v1::AbandonCustodyRequest {
                set_id: set_id.clone(),
                claim: None,
            };
            async move { Ok(kms.abandon_custody(request).await?.into_inner()) }
        })
        .await
    }

    /// This custodian's signed word that a share is erased, every copy of it included. Connected to as the custodian.
    pub async fn erase_share(&self, share: &v1::SealedShare) -> Result<v1::KmsDone, Error> {
        let name = ShareName::of(share)?;
        let statement = transcript::share_erased(
            self.id().as_str(),
            &self.identity().to_string(),
            name.root_epoch,
            &name.set_id,
            share.index,
        );
        let local = &self.0.local;
        let signature = local.sign(transcript::LABEL_SHARE_ERASED, &statement);
        let request = v1::EraseShareRequest {
            root_epoch: name.root_epoch,
            set_id: name.set_id,
            index: share.index,
            signature: Bytes::copy_from_slice(&signature),
        };
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.erase_share(request).await?.into_inner()) }
        })
        .await
    }

    /// Puts an end to a former root key, approved by at least two other operators. The leader deletes the keys of its
    /// seals from the token, but those of the seals that are named as lost.
    pub async fn retire_epoch(
        &self,
        root_epoch: u32,
        seals_lost: Vec<Bytes>,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KmsDone, Error> {
        let mut request = v1::RetireEpochRequest {
            root_epoch,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
            seals_lost,
        };
        request.approvals = approved("RetireEpoch", &request, &request.single_use_id, approvers);
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.retire_epoch(request).await?.into_inner()) }
        })
        .await
    }

    /// Emergency seal: on record where a majority is there, then every replica by itself, recorded or not.
    pub async fn seal_region(&self) -> SealedRegion {
        let recorded = self
            .on_kms_leader(|mut kms| async move {
                let request = v1::SealRegionRequest { claim: None };
                Ok(kms.seal_region(request).await?.into_inner().leaf_index)
            })
            .await;
        let members = self.keys().pool().members();
        let seals = members.into_iter().map(|member| async move {
            let sealed = self.seal(member.id).await.map(drop);
            (member.id, member.identity, sealed)
        });
        SealedRegion {
            recorded,
            replicas: futures::future::join_all(seals).await,
        }
    }
}
