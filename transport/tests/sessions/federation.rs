//! Peers of other regions: whom a federation listener admits, by what, and when that ends. All on real sockets.

use std::time::Duration;

use crate::region::{
    NOW, PATIENCE, Region, Served, WAIT, WHO, YEAR, call, certified, id, serve, serve_with,
};
use prost::Message as _;
use proto::ids::{Role, UnixMs};
use proto::transcript::LABEL_REGION_DESCRIPTOR;
use proto::v1;
use tokio::time::timeout;
use transport::enrolment::{UntrustedDescriptor, sign_set, verify_descriptor};
use transport::{
    Acceptor, Connector, Enrolments, Expect, HandshakeError, KeyPair, Lane, LocalIdentity, Refusal,
    RegionCa,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a region says of itself, signed by its replica.
fn described(region: &Region, kms: &LocalIdentity, version: u64) -> v1::SignedRegionDescriptor {
    let set = region.set(1, NOW);
    let met = ["/kms/", "/node/", "/gateway/"];
    let members = set
        .enrolments
        .iter()
        .filter(|one| met.iter().any(|role| one.identity.contains(role)))
        .map(|one| v1::RegionMember {
            identity: one.identity.clone(),
            public_key: one.public_key.clone(),
            endpoint: String::new(),
        });
    let origin = format!("{}/main/1", set.region);
    let stated = v1::RegionDescriptor {
        format: 1,
        members: members.collect(),
        region: set.region,
        jurisdiction: set.jurisdiction,
        version,
        issued_at_ms: NOW.0,
        expires_at_ms: NOW.0 + 90 * 24 * 3_600_000,
        ca_certificate: set.ca_certificate,
        log_key: format!("{origin}+00000000+AQ=="),
        log_origin: origin,
        witness_policy: Default::default(),
    };
    let descriptor = stated.encode_to_vec();
    v1::SignedRegionDescriptor {
        signer: kms.public_key().as_spki().to_vec().into(),
        signature: kms
            .sign(LABEL_REGION_DESCRIPTOR, &descriptor)
            .to_vec()
            .into(),
        descriptor: descriptor.into(),
    }
}

struct World {
    /// The region that listens.
    home: Region,
    home_kms: LocalIdentity,
    node: LocalIdentity,
    enrolments: Enrolments,
    /// The region that calls.
    abroad: Region,
    peer: LocalIdentity,
    gateway: LocalIdentity,
    theirs: Enrolments,
}

impl World {
    /// Both know each other.
    fn new() -> Self {
        let mut home = Region::new();
        let home_kms = home.member(Role::Kms, "k1", 1);
        let node = home.member(Role::Node, "n1", 1);
        home.member(Role::Gateway, "g1", 0);
        let mut abroad = Region::called("de-fra", "DE");
        let peer = abroad.member(Role::Kms, "k1", 1);
        let gateway = abroad.member(Role::Gateway, "g1", 0);
        abroad.member(Role::Node, "n1", 1);
        let (enrolments, theirs) = (home.enrolments(), abroad.enrolments());
        let world = Self {
            home,
            home_kms,
            node,
            enrolments,
            abroad,
            peer,
            gateway,
            theirs,
        };
        world.trust(2, Some(described(&world.abroad, &world.peer, 1)));
        let set = v1::EnrolmentSet {
            trusted_regions: vec![v1::TrustedRegion {
                region: "ch-zrh".to_owned(),
                descriptor: Some(described(&world.home, &world.home_kms, 1)),
            }],
            ..world.abroad.set(2, NOW)
        };
        let taken = world.theirs.offer(&sign_set(&world.peer, &set));
        assert!(taken.expect("follows"));
        world
    }

    /// The next set of the region that listens, with or without the other one.
    fn trust(&self, version: u64, descriptor: Option<v1::SignedRegionDescriptor>) {
        let trusted = descriptor.map(|descriptor| v1::TrustedRegion {
            region: "de-fra".to_owned(),
            descriptor: Some(descriptor),
        });
        let set = v1::EnrolmentSet {
            trusted_regions: trusted.into_iter().collect(),
            ..self.home.set(version, UnixMs(NOW.0 + version))
        };
        let taken = self.enrolments.offer(&sign_set(&self.home_kms, &set));
        assert!(taken.expect("follows"));
    }

    async fn listen(&self) -> Served {
        serve_with(Acceptor::federated(&self.node, self.enrolments.clone())).await
    }

    fn as_peer(&self, local: &LocalIdentity) -> Connector {
        Connector::federated(local.clone(), self.theirs.clone())
    }

    fn node(&self) -> Expect {
        Expect::Identity(self.node.identity().clone())
    }
}

/// Why a connection was not made.
async fn refused(world: &World, connector: Connector, served: &Served) -> HandshakeError {
    let endpoint = served.address.to_string();
    let link = connector.link_lazy(&endpoint, world.node(), Lane::Control);
    let status = call(link.expect("an endpoint").channel, WHO)
        .await
        .expect_err("refused");
    let why = HandshakeError::find(&status).unwrap_or_else(|| panic!("{status:?}"));
    match why {
        HandshakeError::Refused(refusal) => HandshakeError::Refused(*refusal),
        HandshakeError::UnknownCa => HandshakeError::UnknownCa,
        HandshakeError::Peer(why) => HandshakeError::Peer(why.clone()),
        other => panic!("{other:?}"),
    }
}

async fn who(connector: Connector, served: &Served, expect: Expect) -> String {
    let endpoint = served.address.to_string();
    let channel = connector.channel(&endpoint, expect, Lane::Control).await;
    let answer = call(channel.expect("connected"), WHO).await;
    answer.expect("answered").identity
}

#[tokio::test]
async fn a_peer_of_a_trusted_region_is_admitted_on_the_federation_listener_and_nowhere_else() {
    let world = World::new();
    let served = world.listen().await;
    let name = who(world.as_peer(&world.peer), &served, world.node()).await;
    assert_eq!(name, world.peer.identity().to_string());
    // The region's own listener knows its own CA alone.
    let own = serve(&world.node, &world.enrolments).await;
    let why = refused(&world, world.as_peer(&world.peer), &own).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::UnknownCa)),
        "{why:?}"
    );
    // And nobody of its own is met on the one for others.
    let own_kms = world.home.connector(&world.home_kms, &world.enrolments);
    let why = refused(&world, own_kms, &served).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );
}

#[tokio::test]
async fn a_gateway_is_admitted_and_a_node_of_a_trusted_region_is_not() {
    let mut world = World::new();
    let served = world.listen().await;
    let endpoint = served.address.to_string();
    let gateway = world.as_peer(&world.gateway);
    let channel = gateway
        .channel(&endpoint, world.node(), Lane::Control)
        .await;
    let status = call(channel.expect("admitted"), WHO).await;
    // Past the handshake: the service of this test serves replicas and nodes alone.
    assert_eq!(
        transport::fault::reason(&status.expect_err("another role")),
        Some("peer-role")
    );
    let node = world.abroad.member(Role::Node, "n2", 2);
    world.trust(3, Some(described(&world.abroad, &world.peer, 2)));
    let why = refused(&world, world.as_peer(&node), &served).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );
}

#[tokio::test]
async fn a_key_that_the_descriptor_does_not_name_is_refused() {
    let world = World::new();
    let served = world.listen().await;
    // A good certificate of the other region's CA, for a name that is described, with another key; and for one that is not.
    let same_name = world.abroad.stranger(Role::Kms, "k1");
    let stranger = world.abroad.stranger(Role::Kms, "k9");
    for local in [same_name, stranger] {
        let why = refused(&world, world.as_peer(&local), &served).await;
        assert!(
            matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
            "{why:?}"
        );
    }
}

#[tokio::test]
async fn no_ca_speaks_for_another_region() {
    let world = World::new();
    let served = world.listen().await;
    // The own region's CA mints an identity of the other one, with a key that is described there or not.
    let ca = &world.home.ca;
    let key = KeyPair::from_pem(&ca.key().to_pem()).expect("the CA's key");
    let minting = RegionCa::from_pem(
        "de-fra".parse().expect("a region"),
        ca.certificate_pem().to_owned(),
        key,
    );
    let minting = minting.expect("a CA");
    let forged = id("de-fra", Role::Kms, "k1");
    let forged = certified(&minting, &forged, KeyPair::generate(), YEAR);
    let why = refused(&world, world.as_peer(&forged), &served).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::UnknownCa)),
        "{why:?}"
    );
    // The other way round: a trusted region's CA mints an identity of this one.
    let ca = &world.abroad.ca;
    let key = KeyPair::from_pem(&ca.key().to_pem()).expect("the CA's key");
    let minting = RegionCa::from_pem(
        "ch-zrh".parse().expect("a region"),
        ca.certificate_pem().to_owned(),
        key,
    );
    let minting = minting.expect("a CA");
    let forged = id("ch-zrh", Role::Kms, "k1");
    let forged = certified(&minting, &forged, KeyPair::generate(), YEAR);
    let why = refused(&world, world.as_peer(&forged), &served).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );
    let own = serve(&world.node, &world.enrolments).await;
    let why = refused(&world, world.as_peer(&forged), &own).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::UnknownCa)),
        "{why:?}"
    );
}

#[tokio::test]
async fn distrust_cuts_the_living_connection_and_what_runs_on_it() {
    let world = World::new();
    let served = world.listen().await;
    let endpoint = served.address.to_string();
    let link = world
        .as_peer(&world.peer)
        .link(&endpoint, world.node(), Lane::Control)
        .await
        .expect("connected");
    call(link.channel.clone(), WHO).await.expect("trusted");
    let running = tokio::spawn(call(link.channel.clone(), WAIT));
    call(link.channel.clone(), WHO)
        .await
        .expect("and the call that waits is on its way");
    world.trust(3, None);
    let ended = timeout(PATIENCE, running).await.expect("in time");
    ended.expect("no panic").expect_err("cut");
    let why = refused(&world, world.as_peer(&world.peer), &served).await;
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );
}

#[tokio::test]
async fn a_descriptor_that_expires_ends_what_it_allowed_by_the_next_request() {
    let world = World::new();
    let served = world.listen().await;
    let endpoint = served.address.to_string();
    let connector = world.as_peer(&world.peer);
    let channel = connector
        .channel(&endpoint, world.node(), Lane::Control)
        .await;
    let channel = channel.expect("connected");
    call(channel.clone(), WHO).await.expect("good");
    world.home.clock.advance(91 * DAY);
    let status = call(channel, WHO).await.expect_err("over");
    assert_eq!(
        transport::fault::reason(&status),
        Some("peer-region-expired"),
        "{status:?}"
    );
}

#[tokio::test]
async fn the_caller_knows_whom_it_meets_by_the_same_rules() {
    let world = World::new();
    let served = world.listen().await;
    // Not the one that was expected.
    let endpoint = served.address.to_string();
    let other = Expect::Identity(id("ch-zrh", Role::Node, "n7"));
    let connector = world.as_peer(&world.peer);
    let link = connector.link_lazy(&endpoint, other, Lane::Control);
    let status = call(link.expect("an endpoint").channel, WHO).await;
    let status = status.expect_err("somebody else");
    let why = HandshakeError::find(&status).expect("typed");
    assert!(matches!(why, HandshakeError::Peer(_)), "{why:?}");
    // A process without an enrolment set goes by one descriptor: its CA, its keys, its time.
    let meets = |version, by: &LocalIdentity| {
        let signed = described(&world.home, by, version);
        let region = transport::verify_descriptor(&signed).expect("signed");
        Connector::described(world.peer.clone(), region).with_clock(world.home.clock.clone())
    };
    let name = who(meets(1, &world.home_kms), &served, world.node()).await;
    assert_eq!(name, world.peer.identity().to_string());
    // A listener whose region the caller does not trust.
    let alone = Region::called("fr-par", "FR");
    let stranger = alone.stranger(Role::Kms, "k1");
    let connector = Connector::federated(stranger, world.enrolments.clone());
    let why = refused(&world, connector, &served).await;
    assert!(
        matches!(
            why,
            HandshakeError::Peer(transport::PeerError::NotTrusted { .. })
        ),
        "{why:?}"
    );
}

#[tokio::test]
async fn the_hybrid_key_exchange_is_no_choice_on_a_federation_listener() {
    let world = World::new();
    let served = world.listen().await;
    let expect = world.node();
    let stream = world
        .as_peer(&world.peer)
        .connect(&served.address.to_string(), expect)
        .await
        .expect("connected");
    assert_eq!(stream.key_exchange_group(), Some(0x11ec));
}

#[test]
fn a_descriptor_is_verified_by_the_key_that_it_names_and_by_its_ca() {
    let world = World::new();
    let good = described(&world.abroad, &world.peer, 1);
    let trusted = verify_descriptor(&good).expect("good");
    assert_eq!(trusted.trust().region().as_str(), "de-fra");
    let mut bent = good.clone();
    bent.signature = vec![1; 64].into();
    assert!(matches!(
        verify_descriptor(&bent),
        Err(UntrustedDescriptor::Signature(_))
    ));
    let mut stated = v1::RegionDescriptor::decode(good.descriptor.clone()).expect("decodes");
    stated.ca_certificate = vec![1].into();
    let descriptor = stated.encode_to_vec();
    let no_ca = v1::SignedRegionDescriptor {
        signature: world
            .peer
            .sign(LABEL_REGION_DESCRIPTOR, &descriptor)
            .to_vec()
            .into(),
        descriptor: descriptor.into(),
        ..good
    };
    assert!(matches!(
        verify_descriptor(&no_ca),
        Err(UntrustedDescriptor::Ca(_))
    ));
}
