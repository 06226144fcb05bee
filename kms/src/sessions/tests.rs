use std::net::SocketAddr;
use std::time::Duration;

use envelope::{Encapsulated, LeaseKey, SealedKey, SessionOffer};
use proto::ids::{Identity, LeaseId, RegionId, Role};
use transport::ca::Request;
use transport::{KeyPair, RegionCa};

use super::*;

const NOW: UnixMs = UnixMs(1_800_000_000_000);

fn region() -> RegionId {
    "ch-zrh".parse().expect("a region id")
}

fn identity(ca: &RegionCa, role: Role, name: &str) -> LocalIdentity {
    let key = KeyPair::generate();
    let identity = Identity::new(region(), role, name).expect("an identity");
    let request = Request {
        identity: &identity,
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: NOW,
        validity: Duration::from_secs(3600),
    };
    let pem = ca.issue(&request).expect("issued");
    LocalIdentity::new(pem.as_bytes(), key).expect("joined")
}

fn peer(of: &LocalIdentity) -> Peer {
    Peer {
        identity: of.identity().clone(),
        public_key: of.public_key(),
        node_id: None,
        remote: SocketAddr::from(([127, 0, 0, 1], 1)),
        stated: transport::Stated::default(),
    }
}

fn request(
    caller: &LocalIdentity,
    replica: &LocalIdentity,
) -> (SessionOffer, v1::OpenSessionRequest) {
    let offer = SessionOffer::generate().expect("room");
    let public = offer.public().as_bytes().to_vec();
    let replica = replica.identity().to_string();
    let signed = transcript::session_offer(&public, &replica);
    let signature = caller
        .sign(transcript::LABEL_SESSION_OFFER, &signed)
        .to_vec()
        .into();
    (
        offer,
        v1::OpenSessionRequest {
            offer: public.into(),
            signature,
            replica,
        },
    )
}

#[test]
fn a_session_carries_a_key_to_its_caller_and_to_no_other() {
    let ca = RegionCa::create(region(), NOW, Duration::from_secs(3600)).expect("a CA");
    let (replica, caller) = (
        identity(&ca, Role::Kms, "k1"),
        identity(&ca, Role::Client, "c1"),
    );
    let sessions = Sessions::new();
    let (offer, request) = request(&caller, &replica);
    let reply = sessions
        .open(&replica, &peer(&caller), &request, b"share key", NOW)
        .expect("a session");
    transport::verify(
        &reply.signer,
        transcript::LABEL_SESSION,
        &transcript::session_answer(&request.offer, &reply),
        &reply.signature,
    )
    .expect("signed by the replica");

    let session = sessions
        .of(&reply.session_id, &caller.public_key(), NOW)
        .expect("its own");
    let lease = LeaseKey::generate(region(), LeaseId([7; 16])).expect("room");
    let sealed = session
        .sender
        .send_lease(&lease, &session.aad())
        .expect("sealed");

    let (spki, identity) = (caller.public_key(), replica.identity().to_string());
    let info = SessionInfo::of(&transcript::session_info(
        "ch-zrh",
        spki.as_spki(),
        &identity,
        &request.offer,
    ));
    let encapsulated = Encapsulated::try_from(reply.encapsulated.as_ref()).expect("1120 bytes");
    let receiver = offer.accept(&encapsulated, &info).expect("accepted");
    let sealed = SealedKey::try_from(&sealed.as_bytes()[..]).expect("a sealed key");
    let aad = transcript::session_aad(&reply.session_id);
    assert_eq!(
        receiver
            .receive_lease(&sealed, lease.id(), &aad)
            .expect("opens")
            .id(),
        lease.id()
    );

    let other = KeyPair::generate().public_key();
    assert_eq!(
        sessions.of(&reply.session_id, &other, NOW).err(),
        Some(NoSession::Unknown)
    );
    let late = UnixMs(NOW.0 + SESSION_MS);
    let ended = sessions.of(&reply.session_id, &caller.public_key(), late);
    assert_eq!(ended.err(), Some(NoSession::Unknown));
    assert_eq!(
        sessions.len(),
        0,
        "an ended session gives its key slot back"
    );
}

#[test]
fn an_offer_for_another_replica_or_signed_by_another_is_refused() {
    let ca = RegionCa::create(region(), NOW, Duration::from_secs(3600)).expect("a CA");
    let (replica, other) = (
        identity(&ca, Role::Kms, "k1"),
        identity(&ca, Role::Kms, "k2"),
    );
    let caller = identity(&ca, Role::Client, "c1");
    let sessions = Sessions::new();
    let open = |request: &v1::OpenSessionRequest, caller: &LocalIdentity| {
        sessions
            .open(&replica, &peer(caller), request, b"", NOW)
            .map(drop)
    };
    let (_, elsewhere) = request(&caller, &other);
    assert!(matches!(
        open(&elsewhere, &caller),
        Err(OpenSessionError::OtherReplica)
    ));
    let (_, good) = request(&caller, &replica);
    assert!(matches!(
        open(&good, &other),
        Err(OpenSessionError::Signature)
    ));
    let mut short = good.clone();
    short.offer.truncate(10);
    assert!(matches!(
        open(&short, &caller),
        Err(OpenSessionError::Signature)
    ));
    open(&good, &caller).expect("the untouched one is taken");
}
