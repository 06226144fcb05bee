//! Sessions with KMS replicas: one HPKE exchange, signed by both ends, then symmetric.
//!
//! Owns who the session key belongs to. Refuses an answer that the replica's certificate key did not sign.

use std::sync::Arc;

use bytes::Bytes;
use envelope::{Encapsulated, SessionInfo, SessionOffer, SessionReceiver};
use proto::ids::{RegionId, UnixMs};
use proto::transcript;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use tonic::Status;
use tonic::transport::Channel;
use transport::{Fault, LocalIdentity, PublicKey};

use crate::route::Member;

/// Renewed this long before it ends.
const MARGIN_MS: u64 = 60_000;

/// An established session with one replica.
pub(crate) struct Session {
    pub(crate) id: Bytes,
    pub(crate) receiver: SessionReceiver,
    expires: UnixMs,
}

impl Session {
    pub(crate) fn aad(&self) -> Vec<u8> {
        transcript::session_aad(&self.id)
    }

    pub(crate) fn usable(&self, now: UnixMs) -> bool {
        now.0 + MARGIN_MS < self.expires.0
    }
}

fn broken(what: &'static str) -> Status {
    transport::fault::status(Fault::Internal, "session", what)
}

/// Makes a session with the replica behind `channel`.
pub(crate) async fn open(
    region: &RegionId,
    local: &LocalIdentity,
    replica: &Member,
    channel: Channel,
) -> Result<Arc<Session>, Status> {
    open_with_reply(region, local, replica, channel)
        .await
        .map(|(_, session)| session)
}

/// As [`open`], with what the replica answered: custodians need its key for shares.
pub(crate) async fn open_with_reply(
    region: &RegionId,
    local: &LocalIdentity,
    replica: &Member,
    channel: Channel,
) -> Result<(v1::OpenSessionReply, Arc<Session>), Status> {
    let identity = replica
        .identity
        .as_ref()
        .ok_or_else(|| broken("the replica's identity is not known yet"))?;
    let identity = identity.to_string();
    let offer = SessionOffer::generate().map_err(|_| broken("no key memory for a session"))?;
    let public = offer.public();
    let offered = public.as_bytes();
    let signature = local.sign(
        transcript::LABEL_SESSION_OFFER,
        &transcript::session_offer(offered, &identity),
    );
    let request = v1::OpenSessionRequest {
        offer: Bytes::copy_from_slice(offered),
        signature: Bytes::copy_from_slice(&signature),
        replica: identity.clone(),
    };
    let reply = KmsClient::new(channel)
        .open_session(request)
        .await?
        .into_inner();
    // The channel ended at this identity's certificate; its key signs the answer.
    let signer =
        PublicKey::from_spki(&reply.signer).map_err(|_| broken("the answer names no key"))?;
    if replica
        .public_key
        .as_ref()
        .is_some_and(|expected| *expected != signer)
    {
        return Err(broken(
            "the answer is signed by another key than the replica's enrolled one",
        ));
    }
    signer
        .verify(
            transcript::LABEL_SESSION,
            &transcript::session_answer(offered, &reply),
            &reply.signature,
        )
        .map_err(|_| broken("the answer's signature does not verify"))?;
    let own_key = local.public_key();
    let info = SessionInfo::of(&transcript::session_info(
        region.as_str(),
        own_key.as_spki(),
        &identity,
        offered,
    ));
    let encapsulated = Encapsulated::try_from(&reply.encapsulated[..])
        .map_err(|_| broken("no encapsulated key"))?;
    let receiver = offer
        .accept(&encapsulated, &info)
        .map_err(|_| broken("the session key does not open"))?;
    let session = Session {
        id: reply.session_id.clone(),
        receiver,
        expires: UnixMs(reply.expires_at_ms),
    };
    Ok((reply, Arc::new(session)))
}
