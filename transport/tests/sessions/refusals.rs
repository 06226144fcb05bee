//! Who is turned away in the handshake, and what each side is told. All on real sockets.

use std::sync::Arc;
use std::time::Duration;

use crate::region::{HYBRID, NOW, PATIENCE, Region, YEAR, certified, id};
use proto::ids::{NodeId, Role};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use transport::{
    Acceptor, AcceptorLimits, Connector, Enrolments, Expect, HandshakeError, KeyExchange, KeyPair,
    LocalIdentity, PeerError, PeerStream, Refusal, RegionCa,
};

struct World {
    region: Region,
    server: LocalIdentity,
    client: LocalIdentity,
    enrolments: Enrolments,
}

fn world() -> World {
    let mut region = Region::new();
    region.member(Role::Kms, "k1", 1);
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Gateway, "g1", 0);
    let enrolments = region.enrolments();
    World {
        region,
        server,
        client,
        enrolments,
    }
}

/// What the server made of one connection, and what its client read: `Ok` on end of stream.
struct Met {
    server: Result<PeerStream, HandshakeError>,
    client: Result<PeerStream, HandshakeError>,
}

async fn meet(world: &World, client: Connector, expect: Expect) -> Met {
    let acceptor = Acceptor::new(&world.server, world.enrolments.clone(), HYBRID);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let serving = async {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut stream = acceptor.accept(tcp).await?;
        stream.write_all(b"!").await.expect("written");
        stream.flush().await.expect("flushed");
        Ok(stream)
    };
    let calling = async {
        let mut stream = client.connect(&endpoint, expect).await?;
        let mut first = [0];
        stream.read_exact(&mut first).await?;
        Ok(stream)
    };
    let both = async { tokio::join!(serving, calling) };
    let (server, client) = timeout(PATIENCE, both).await.expect("nobody hangs");
    Met { server, client }
}

fn any_node() -> Expect {
    Expect::Role(Role::Node)
}

/// A client that judges the server as it should and is itself `local`.
fn as_client(world: &World, local: &LocalIdentity) -> Connector {
    world.region.connector(local, &world.enrolments)
}

#[tokio::test]
async fn two_enrolled_identities_meet_over_the_hybrid_exchange_and_know_each_other() {
    let world = world();
    let met = meet(&world, as_client(&world, &world.client), any_node()).await;
    let (server, client) = (
        met.server.expect("accepted"),
        met.client.expect("connected"),
    );
    assert_eq!(server.peer().identity, *world.client.identity());
    assert_eq!(server.peer().public_key, world.client.public_key());
    assert_eq!(client.peer().identity, *world.server.identity());
    assert_eq!(client.peer().node_id, Some(NodeId(1)));
    for end in [&server, &client] {
        assert_eq!(end.key_exchange_group(), Some(0x11ec), "X25519MLKEM768");
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_by_either_side() {
    let mut world = world();
    let other = Region::new();
    // An enrolled key and its identity: all that is wrong is who signed. Both CAs bear the same name.
    let key = KeyPair::generate();
    let again = KeyPair::from_pem(&key.to_pem()).expect("the same key");
    let name = id("ch-zrh", Role::Gateway, "g2");
    let enrolled = certified(&world.region.ca, &name, key, YEAR);
    world.region.enrol(&enrolled, 0);
    world.enrolments = world.region.enrolments();
    let met = meet(&world, as_client(&world, &enrolled), any_node()).await;
    assert!(met.server.is_ok(), "{:?}", met.server);
    let stranger = certified(&other.ca, &name, again, YEAR);
    let met = meet(&world, as_client(&world, &stranger), any_node()).await;
    assert!(
        matches!(met.server, Err(HandshakeError::UnknownCa)),
        "{:?}",
        met.server
    );
    assert!(matches!(
        met.client,
        Err(HandshakeError::Refused(Refusal::UnknownCa))
    ));

    let pinned = Connector::pinned(world.client.clone(), other.ca.trust(), HYBRID);
    let pinned = pinned.with_clock(world.region.clock.clone());
    let met = meet(&world, pinned, any_node()).await;
    assert!(
        matches!(met.client, Err(HandshakeError::UnknownCa)),
        "{:?}",
        met.client
    );
    assert!(matches!(
        met.server,
        Err(HandshakeError::Refused(Refusal::UnknownCa))
    ));
}

#[tokio::test]
async fn an_identity_of_another_region_is_refused_even_under_our_ca() {
    let world = world();
    let ca = &world.region.ca;
    let key = KeyPair::from_pem(&ca.key().to_pem()).expect("the CA's key");
    let pem = ca.certificate_pem().to_owned();
    let abroad = RegionCa::from_pem("de-fra".parse().expect("a region"), pem, key).expect("a CA");
    let guest = id("de-fra", Role::Gateway, "g1");
    let guest = certified(&abroad, &guest, KeyPair::generate(), YEAR);
    let met = meet(&world, as_client(&world, &guest), any_node()).await;
    let Err(HandshakeError::Peer(PeerError::OtherRegion { identity, .. })) = met.server else {
        panic!("{:?}", met.server)
    };
    assert_eq!(identity, *guest.identity());
    assert!(matches!(
        met.client,
        Err(HandshakeError::Refused(Refusal::NotEnrolled))
    ));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_side() {
    let world = world();
    world.region.clock.advance(2 * YEAR);
    let met = meet(&world, as_client(&world, &world.client), any_node()).await;
    assert!(
        matches!(met.client, Err(HandshakeError::Expired)),
        "{:?}",
        met.client
    );
    assert!(matches!(
        met.server,
        Err(HandshakeError::Refused(Refusal::Expired))
    ));

    // A client whose clock stands still does not see it; the server does.
    let held_back = transport::testing::ManualClock::at(NOW);
    let pinned = Connector::pinned(world.client.clone(), world.region.ca.trust(), HYBRID);
    let met = meet(&world, pinned.with_clock(Arc::new(held_back)), any_node()).await;
    assert!(
        matches!(met.server, Err(HandshakeError::Expired)),
        "{:?}",
        met.server
    );
    assert!(matches!(
        met.client,
        Err(HandshakeError::Refused(Refusal::Expired))
    ));
}

#[tokio::test]
async fn a_valid_certificate_without_enrolment_is_refused_by_either_side() {
    let world = world();
    let stranger = world.region.stranger(Role::Gateway, "g2");
    let met = meet(&world, as_client(&world, &stranger), any_node()).await;
    let Err(HandshakeError::Peer(PeerError::NotEnrolled { identity })) = met.server else {
        panic!("{:?}", met.server)
    };
    assert_eq!(identity, *stranger.identity());
    assert!(matches!(
        met.client,
        Err(HandshakeError::Refused(Refusal::NotEnrolled))
    ));

    let server = world.region.stranger(Role::Node, "n2");
    let world = World { server, ..world };
    let met = meet(&world, as_client(&world, &world.client), any_node()).await;
    let refused = Err::<(), _>(HandshakeError::Peer(PeerError::NotEnrolled {
        identity: world.server.identity().clone(),
    }));
    assert_eq!(
        format!("{:?}", met.client.map(|_| ())),
        format!("{refused:?}")
    );
}

#[tokio::test]
async fn an_enrolled_key_under_another_role_is_refused() {
    let mut world = world();
    let key = KeyPair::generate();
    let again = KeyPair::from_pem(&key.to_pem()).expect("the same key");
    let ca = &world.region.ca;
    let client = certified(ca, &id("ch-zrh", Role::Client, "app"), key, YEAR);
    let as_gateway = certified(ca, &id("ch-zrh", Role::Gateway, "app"), again, YEAR);
    world.region.enrol(&client, 0);
    world.enrolments = world.region.enrolments();
    let met = meet(&world, as_client(&world, &as_gateway), any_node()).await;
    let Err(HandshakeError::Peer(PeerError::EnrolledAsOther {
        presented,
        enrolled,
    })) = met.server
    else {
        panic!("{:?}", met.server)
    };
    assert_eq!(
        (presented.role(), enrolled.role()),
        (Role::Gateway, Role::Client)
    );
    let met = meet(&world, as_client(&world, &client), any_node()).await;
    assert!(
        met.server.is_ok() && met.client.is_ok(),
        "under its own role it is welcome"
    );
}

#[tokio::test]
async fn a_server_other_than_the_one_expected_is_refused() {
    let world = world();
    let expectations = [
        Expect::Role(Role::Kms),
        Expect::Identity(id("ch-zrh", Role::Node, "n2")),
        Expect::Node(Role::Node, NodeId(2)),
        Expect::Node(Role::Kms, NodeId(1)),
    ];
    for expect in expectations {
        let met = meet(&world, as_client(&world, &world.client), expect.clone()).await;
        let Err(HandshakeError::Peer(PeerError::Unexpected { expected, found })) = met.client
        else {
            panic!("{expect:?}: {:?}", met.client)
        };
        assert_eq!((expected, found), (expect, world.server.identity().clone()));
        assert!(matches!(
            met.server,
            Err(HandshakeError::Refused(Refusal::NotEnrolled))
        ));
    }
    let pinned = Connector::pinned(world.client.clone(), world.region.ca.trust(), HYBRID)
        .with_clock(world.region.clock.clone());
    let met = meet(
        &world,
        pinned.clone(),
        Expect::Identity(world.server.identity().clone()),
    )
    .await;
    assert!(
        met.client.is_ok(),
        "the command line needs no set: {:?}",
        met.client
    );
    let met = meet(&world, pinned, Expect::Role(Role::Kms)).await;
    assert!(matches!(
        met.client,
        Err(HandshakeError::Peer(PeerError::Unexpected { .. }))
    ));
}

/// Runs the server side of one connection against a client that is not ours.
async fn against<F: Future>(
    world: &World,
    key_exchange: KeyExchange,
    client: impl FnOnce(TcpStream) -> F,
) -> (Result<PeerStream, HandshakeError>, F::Output) {
    let acceptor = Acceptor::new(&world.server, world.enrolments.clone(), key_exchange);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = async {
        let (tcp, _) = listener.accept().await.expect("a connection");
        acceptor.accept(tcp).await
    };
    let calling = async { client(TcpStream::connect(address).await.expect("connected")).await };
    timeout(PATIENCE, async { tokio::join!(serving, calling) })
        .await
        .expect("nobody hangs")
}

/// RFC 5246 section 7.4.1.2: a ClientHello as a TLS 1.2 client sends it.
fn tls12_client_hello() -> Vec<u8> {
    let extensions = [
        &[0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x1d][..], // supported_groups: x25519
        &[0x00, 0x0d, 0, 6, 0, 4, 0x08, 0x07, 0x04, 0x03], // ed25519, ecdsa_secp256r1_sha256
        &[0x00, 0x0b, 0, 2, 1, 0],                 // ec_point_formats: uncompressed
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([0x5a; 32]); // random
    body.push(0); // session id
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM
    body.extend([1, 0]); // no compression
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut record = vec![
        0x16,
        3,
        1,
        0,
        body.len() as u8 + 4,
        1,
        0,
        0,
        body.len() as u8,
    ];
    record.extend(body);
    record
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let world = world();
    for key_exchange in [KeyExchange::HybridOnly, KeyExchange::HybridPreferred] {
        let (server, alert) = against(&world, key_exchange, async |mut tcp: TcpStream| {
            tcp.write_all(&tls12_client_hello()).await.expect("sent");
            let mut alert = Vec::new();
            tcp.read_to_end(&mut alert).await.expect("an answer");
            alert
        })
        .await;
        assert!(matches!(server, Err(HandshakeError::Version)), "{server:?}");
        assert_eq!(
            alert,
            [0x15, 3, 3, 0, 2, 2, 70],
            "fatal alert protocol_version"
        );
    }
}

fn classical_client(world: &World) -> tokio_rustls::TlsConnector {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from(world.region.ca.certificate_der().to_vec());
    roots.add(ca).expect("a CA");
    let time = Arc::new(At(NOW.0 / 1_000));
    let config = rustls::ClientConfig::builder_with_details(Arc::new(provider), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(world.client.clone()));
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct At(u64);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(
            Duration::from_secs(self.0),
        ))
    }
}

#[tokio::test]
async fn a_client_without_the_hybrid_exchange_is_refused_where_it_is_required() {
    let world = world();
    let client = async |tcp: TcpStream| {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        classical_client(&world)
            .connect(name, tcp)
            .await
            .map_err(HandshakeError::from)
    };
    let (server, called) = against(&world, KeyExchange::HybridOnly, client).await;
    assert!(
        matches!(server, Err(HandshakeError::KeyExchange)),
        "{server:?}"
    );
    let refused = called.err();
    assert!(matches!(
        refused,
        Some(HandshakeError::Refused(Refusal::NothingInCommon))
    ));

    let (server, called) = against(&world, KeyExchange::HybridPreferred, client).await;
    assert!(called.is_ok(), "{:?}", called.err());
    let group = server.expect("offered to others").key_exchange_group();
    assert_eq!(group, Some(0x001d), "X25519");
}

/// A resumed session does not show its certificate again: it would outlive its enrolment.
#[tokio::test]
async fn a_client_that_would_resume_its_session_gets_a_full_handshake_every_time() {
    let world = world();
    let tls = classical_client(&world);
    // One acceptor for both rounds: what a server remembers, it remembers there.
    let (enrolments, preferred) = (world.enrolments.clone(), KeyExchange::HybridPreferred);
    let acceptor = Acceptor::new(&world.server, enrolments, preferred);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    for _ in 0..2 {
        let serving = async {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let mut stream = acceptor.accept(tcp).await.expect("accepted");
            // A ticket would leave with the first bytes written.
            stream.write_all(b"!").await.expect("written");
            stream.shutdown().await.expect("closed");
        };
        let calling = async {
            let tcp = TcpStream::connect(address).await.expect("connected");
            let name = ServerName::try_from("127.0.0.1").expect("an address");
            let mut stream = tls.connect(name, tcp).await.expect("connected");
            let mut read = Vec::new();
            stream
                .read_to_end(&mut read)
                .await
                .expect("a byte and a clean end");
            stream
        };
        let both = async { tokio::join!(serving, calling) };
        let ((), stream) = timeout(PATIENCE, both).await.expect("nobody hangs");
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = world();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from(world.region.ca.certificate_der().to_vec());
    roots.add(ca).expect("a CA");
    let time = Arc::new(At(NOW.0 / 1_000));
    let config = rustls::ClientConfig::builder_with_details(Arc::new(provider), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = tokio_rustls::TlsConnector::from(Arc::new(config));
    let (server, ()) = against(&world, KeyExchange::HybridOnly, async |tcp: TcpStream| {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let mut stream = client
            .connect(name, tcp)
            .await
            .expect("TLS 1.3 clients are done early");
        let error = stream.read_u8().await.expect_err("refused");
        let error = HandshakeError::from(error);
        assert!(
            matches!(error, HandshakeError::Refused(Refusal::NoCertificate)),
            "{error:?}"
        );
    })
    .await;
    assert!(
        matches!(server, Err(HandshakeError::NoCertificate)),
        "{server:?}"
    );
}

#[tokio::test]
async fn a_silent_connection_is_let_go_and_holds_nobody_up() {
    let world = world();
    let limits = AcceptorLimits {
        handshakes_max: 1,
        handshake_timeout: Duration::from_millis(200),
        ..AcceptorLimits::default()
    };
    let acceptor = Acceptor::with_limits(&world.server, world.enrolments.clone(), HYBRID, limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut incoming = acceptor.incoming(listener);
    // Takes the only place and says nothing.
    let mut silent = TcpStream::connect(address).await.expect("connected");
    let client = as_client(&world, &world.client);
    let endpoint = address.to_string();
    let calling = client.connect(&endpoint, any_node());
    let accepting = futures::StreamExt::next(&mut incoming);
    let both = async { tokio::join!(accepting, calling) };
    let (accepted, called) = timeout(PATIENCE, both).await.expect("nobody hangs");
    let accepted = accepted.expect("goes on").expect("never an error");
    assert_eq!(accepted.peer().identity, *world.client.identity());
    assert!(called.is_ok());
    assert_eq!(silent.read(&mut [0; 8]).await.expect("closed"), 0);
}
