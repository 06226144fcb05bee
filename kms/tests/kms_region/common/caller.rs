//! Someone who calls the replicas: channels, sessions, and a call that finds the leader.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use envelope::{
    Encapsulated, HpkeInfo, HpkePublicKey, SessionInfo, SessionOffer, SessionReceiver, hpke_seal,
};
use proto::ids::{Identity, RegionId};
use proto::transcript;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_operate_client::KmsOperateClient;
use proto::v1::kms_peer_client::KmsPeerClient;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use transport::{Connector, Expect, KeyExchange, Lane, LocalIdentity};

use super::{PATIENCE, People, role_of};

/// Between two rounds over the replicas while none leads.
const ROUND: Duration = Duration::from_millis(50);

/// One identity and its channels.
pub(crate) struct Caller {
    pub local: LocalIdentity,
    /// Of the replicas.
    region: RegionId,
    channels: Vec<Channel>,
}

/// A session with one replica.
pub(crate) struct Session {
    pub at: usize,
    pub id: Bytes,
    pub receiver: SessionReceiver,
    share_key: Bytes,
}

impl Caller {
    pub(crate) fn new(people: &People, name: &str, addresses: Vec<SocketAddr>) -> Self {
        Self::with(people, people.local(name).clone(), addresses)
    }

    /// Whoever holds this key and certificate.
    pub(crate) fn with(people: &People, local: LocalIdentity, addresses: Vec<SocketAddr>) -> Self {
        let trust = people.ca().trust();
        let connector = Connector::pinned(local.clone(), trust, KeyExchange::HybridOnly);
        let channels = addresses
            .iter()
            .enumerate()
            .map(|(at, address)| {
                let expect = Expect::Identity(people.identity(&format!("kms-{}", at + 1)));
                connector
                    .channel_lazy(&address.to_string(), expect, Lane::Control)
                    .expect("a lazy channel")
            })
            .collect();
        let region = people.region().clone();
        Self {
            local,
            region,
            channels,
        }
    }

    /// Who a replica is.
    fn replica(&self, at: usize) -> String {
        let name = format!("kms-{}", at + 1);
        let identity = Identity::new(self.region.clone(), role_of(&name), &name);
        identity.expect("an identity").to_string()
    }

    pub(crate) fn kms(&self, at: usize) -> KmsClient<Channel> {
        KmsClient::new(self.channels[at].clone())
    }

    /// A request of plain HTTP on a replica's mTLS port: status and body.
    pub(crate) async fn get(&self, at: usize, path: &str) -> (u16, Vec<u8>) {
        use tower::{Service as _, ServiceExt as _};
        let mut channel = self.channels[at].clone();
        let request = axum::http::Request::get(path).body(tonic::body::Body::empty());
        let ready = channel.ready().await.expect("connected");
        let response = ready.call(request.expect("a request")).await;
        let (head, body) = response.expect("an answer").into_parts();
        let body = axum::body::to_bytes(axum::body::Body::new(body), 64 << 20).await;
        (head.status.as_u16(), body.expect("a body").to_vec())
    }

    pub(crate) fn operate(&self, at: usize) -> KmsOperateClient<Channel> {
        KmsOperateClient::new(self.channels[at].clone())
    }

    /// What replicas ask of each other.
    pub(crate) fn peer(&self, at: usize) -> KmsPeerClient<Channel> {
        KmsPeerClient::new(self.channels[at].clone())
    }

    /// Opens a session and checks the replica's signature.
    pub(crate) async fn session(&self, at: usize) -> Result<Session, Status> {
        let offer = SessionOffer::generate().expect("room");
        let public = offer.public().as_bytes().to_vec();
        let replica = self.replica(at);
        let signed = transcript::session_offer(&public, &replica);
        let signature = self.local.sign(transcript::LABEL_SESSION_OFFER, &signed);
        let request = v1::OpenSessionRequest {
            offer: public.clone().into(),
            signature: signature.to_vec().into(),
            replica: replica.clone(),
        };
        let reply = self.kms(at).open_session(request).await?.into_inner();
        transport::verify(
            &reply.signer,
            transcript::LABEL_SESSION,
            &transcript::session_answer(&public, &reply),
            &reply.signature,
        )
        .expect("signed by the replica");
        let own = self.local.public_key();
        let region = self.region.as_str();
        let parts = transcript::session_info(region, own.as_spki(), &replica, &public);
        let encapsulated = Encapsulated::try_from(reply.encapsulated.as_ref()).expect("its length");
        let receiver = offer
            .accept(&encapsulated, &SessionInfo::of(&parts))
            .expect("accepted");
        Ok(Session {
            at,
            id: reply.session_id,
            receiver,
            share_key: reply.share_key,
        })
    }

    /// Calls replica after replica until one does not say that another leads, or cannot be reached.
    pub(crate) async fn at_leader<T, F>(&self, call: impl Fn(usize) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut last = Status::unavailable("no replica");
            for at in 0..self.channels.len() {
                match call(at).await {
                    Err(status) if elsewhere(&status) => last = status,
                    outcome => return outcome,
                }
            }
            if Instant::now() >= deadline {
                return Err(last);
            }
            // Rounds, not synchronisation: an election ends when it ends.
            tokio::time::sleep(ROUND).await;
        }
    }

    pub(crate) async fn create_key(&self, dataset: [u8; 16]) -> Result<v1::KeyInfo, Status> {
        let request_id = Bytes::copy_from_slice(&super::random::<16>());
        self.at_leader(|at| {
            let request = v1::CreateKeyRequest {
                dataset_id: Bytes::copy_from_slice(&dataset),
                request_id: request_id.clone(),
                claim: None,
            };
            let mut kms = self.kms(at);
            async move { Ok(kms.create_key(request).await?.into_inner()) }
        })
        .await
    }

    /// A lease, within a fresh session with the leader.
    pub(crate) async fn lease(
        &self,
        dataset: [u8; 16],
    ) -> Result<(v1::IssueLeaseReply, Session), Status> {
        let request_id = Bytes::copy_from_slice(&super::random::<16>());
        self.at_leader(|at| {
            let request_id = request_id.clone();
            async move {
                let session = self.session(at).await?;
                let request = v1::IssueLeaseRequest {
                    session_id: session.id.clone(),
                    dataset_id: Bytes::copy_from_slice(&dataset),
                    request_id,
                    seconds: 600,
                    claim: None,
                    dataset_epoch: 1,
                };
                let reply = self.kms(at).issue_lease(request).await?.into_inner();
                Ok((reply, session))
            }
        })
        .await
    }

    /// Asks one replica, whatever it is, to open an object.
    pub(crate) async fn open_at(&self, at: usize, object: &super::Sealed) -> Result<(), Status> {
        let session = self.session(at).await?;
        let request = v1::OpenRequest {
            request_id: Bytes::copy_from_slice(&super::random::<16>()),
            session_id: session.id.clone(),
            dataset_id: object.context.dataset.into(),
            claim: Some(v1::Claim::default()),
            items: vec![object.item.clone()],
            ..v1::OpenRequest::default()
        };
        self.kms(at).open(request).await.map(drop)
    }

    /// Opens items, within a fresh session with the leader.
    pub(crate) async fn open(
        &self,
        dataset: [u8; 16],
        request_id: [u8; 16],
        claim: v1::Claim,
        items: Vec<v1::OpenItem>,
    ) -> Result<(v1::OpenReply, Session), Status> {
        self.at_leader(|at| {
            let (claim, items) = (claim.clone(), items.clone());
            async move {
                let session = self.session(at).await?;
                let request = v1::OpenRequest {
                    request_id: Bytes::copy_from_slice(&request_id),
                    session_id: session.id.clone(),
                    dataset_id: Bytes::copy_from_slice(&dataset),
                    claim: Some(claim),
                    items,
                    ..v1::OpenRequest::default()
                };
                Ok((self.kms(at).open(request).await?.into_inner(), session))
            }
        })
        .await
    }
}

impl Session {
    /// Seals a custodian's share to this session's share key.
    pub(crate) fn seal_share(&self, caller: &Caller, share: &[u8]) -> Vec<u8> {
        let own = caller.local.identity().to_string();
        let (region, replica) = (caller.region.as_str(), caller.replica(self.at));
        let info = HpkeInfo::of(&transcript::unseal_share_info(
            region, &own, &replica, &self.id,
        ));
        let key = HpkePublicKey::try_from(self.share_key.as_ref()).expect("a public key");
        hpke_seal(&key, &info, &transcript::session_aad(&self.id), share).expect("sealed")
    }

    /// Seals a share of the split under way, to be shown and not kept.
    pub(crate) fn show_share(&self, caller: &Caller, share: &[u8], set_id: &[u8]) -> Vec<u8> {
        let own = caller.local.identity().to_string();
        let (region, replica) = (caller.region.as_str(), caller.replica(self.at));
        let info = HpkeInfo::of(&transcript::confirm_share_info(
            region, &own, &replica, &self.id, set_id,
        ));
        let key = HpkePublicKey::try_from(self.share_key.as_ref()).expect("a public key");
        hpke_seal(&key, &info, &transcript::session_aad(&self.id), share).expect("sealed")
    }

    /// Seals a holder's half of a token's seal to this session's share key.
    pub(crate) fn seal_half(&self, caller: &Caller, half: &[u8], seal_id: &[u8]) -> Vec<u8> {
        let own = caller.local.identity().to_string();
        let (region, replica) = (caller.region.as_str(), caller.replica(self.at));
        let info = HpkeInfo::of(&transcript::unseal_half_info(
            region, &own, &replica, &self.id, seal_id,
        ));
        let key = HpkePublicKey::try_from(self.share_key.as_ref()).expect("a public key");
        hpke_seal(&key, &info, &transcript::session_aad(&self.id), half).expect("sealed")
    }

    pub(crate) fn aad(&self) -> Vec<u8> {
        transcript::session_aad(&self.id)
    }
}

/// Whether a status asks to go to another replica, or later to this one.
fn elsewhere(status: &Status) -> bool {
    match transport::fault::reason(status) {
        Some(reason) => matches!(reason, "not-leader" | "not-current" | "sealed"),
        None => matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown
        ),
    }
}
