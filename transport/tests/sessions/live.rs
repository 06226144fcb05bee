//! Living connections: gRPC between enrolled identities, withdrawal, losses, faulty networks.

use std::time::Duration;

use crate::region::{HYBRID, NOW, PATIENCE, Region, WAIT, WHO, call, serve};
use proto::ids::{NodeId, Role, UnixMs};
use tokio::time::timeout;
use tonic::Code;
use transport::enrolment::sign_set;
use transport::testing::FlakyProxy;
use transport::{Connector, Expect, Fault, HandshakeError, Lane, LinkState, Refusal, fault};

async fn until(
    state: &mut tokio::sync::watch::Receiver<LinkState>,
    wanted: impl FnMut(&LinkState) -> bool,
) -> LinkState {
    timeout(PATIENCE, state.wait_for(wanted))
        .await
        .expect("in time")
        .expect("held")
        .clone()
}

#[tokio::test]
async fn every_lane_carries_calls_and_the_server_knows_who_calls() {
    let mut region = Region::new();
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Node, "n2", 2);
    let enrolments = region.enrolments();
    let served = serve(&server, &enrolments).await;
    let connector = region.connector(&client, &enrolments);
    for lane in Lane::ALL {
        let expect = Expect::Node(Role::Node, NodeId(1));
        let endpoint = served.address.to_string();
        let eager = connector
            .channel(&endpoint, expect.clone(), lane)
            .await
            .expect("connected");
        let lazy = connector
            .channel_lazy(&endpoint, expect, lane)
            .expect("an endpoint");
        for channel in [eager, lazy] {
            let answer = call(channel, WHO).await.expect("answered");
            assert_eq!(
                (answer.identity, answer.node_id),
                (client.identity().to_string(), 2)
            );
        }
    }
}

#[tokio::test]
async fn a_role_that_may_not_is_told_so() {
    let mut region = Region::new();
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Auditor, "a1", 0);
    let enrolments = region.enrolments();
    let served = serve(&server, &enrolments).await;
    let connector = region.connector(&client, &enrolments);
    let endpoint = served.address.to_string();
    let channel = connector.channel_lazy(&endpoint, Expect::Role(Role::Node), Lane::Control);
    let status = call(channel.expect("an endpoint"), WHO)
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(fault::reason(&status), Some("peer-role"));
    assert_eq!(Fault::of(&status), Fault::Denied);
}

#[tokio::test]
async fn a_client_that_is_not_enrolled_learns_it_when_connecting_and_nothing_was_sent() {
    let mut region = Region::new();
    let server = region.member(Role::Node, "n1", 1);
    let stranger = region.stranger(Role::Node, "n2");
    let enrolments = region.enrolments();
    let served = serve(&server, &enrolments).await;
    let connector =
        Connector::pinned(stranger, region.ca.trust(), HYBRID).with_clock(region.clock.clone());
    let (endpoint, expect) = (served.address.to_string(), Expect::Role(Role::Node));
    let error = connector
        .channel(&endpoint, expect.clone(), Lane::Control)
        .await;
    let error = error.expect_err("refused");
    let why = HandshakeError::find(&error).expect("typed");
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );

    let link = connector
        .link_lazy(&endpoint, expect, Lane::Control)
        .expect("an endpoint");
    let status = call(link.channel, WHO).await.expect_err("refused");
    let why = HandshakeError::find(&status).expect("typed");
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );
    assert_eq!(
        Fault::of(&status),
        Fault::Unavailable,
        "never sent, so never done"
    );
    let state = link.state.borrow().clone();
    assert_eq!((state.up, state.made, state.failed), (false, 0, 1));
    assert!(state.failure.expect("says why").contains("not enrolled"));
}

#[tokio::test]
async fn withdrawing_an_enrolment_cuts_the_living_connection_and_what_runs_on_it() {
    let mut region = Region::new();
    let kms = region.member(Role::Kms, "k1", 1);
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Node, "n2", 2);
    let at_server = region.enrolments();
    let at_client = region.enrolments();
    let served = serve(&server, &at_server).await;
    let connector = region.connector(&client, &at_client);
    let (endpoint, expect) = (served.address.to_string(), Expect::Role(Role::Node));
    let mut link = connector
        .link(&endpoint, expect, Lane::Append)
        .await
        .expect("connected");
    call(link.channel.clone(), WHO)
        .await
        .expect("still enrolled");
    let running = tokio::spawn(call(link.channel.clone(), WAIT));
    call(link.channel.clone(), WHO)
        .await
        .expect("and the call that waits is on its way");

    region.withdraw(&client);
    let second = sign_set(&kms, &region.set(2, UnixMs(NOW.0 + 1)));
    assert!(at_server.offer(&second).expect("follows"));
    let ended = timeout(PATIENCE, running)
        .await
        .expect("cut")
        .expect("joined");
    assert_eq!(Fault::of(&ended.expect_err("cut off")), Fault::Unknown);
    let state = until(&mut link.state, |state| !state.up).await;
    assert_eq!((state.made, state.lost), (1, 1));

    let status = call(link.channel.clone(), WHO)
        .await
        .expect_err("not let in again");
    let why = HandshakeError::find(&status).expect("typed");
    assert!(
        matches!(why, HandshakeError::Refused(Refusal::NotEnrolled)),
        "{why:?}"
    );
}

/// The check of each request does not lean on the cut: a request that was read before it is refused too.
#[tokio::test]
async fn every_request_asks_again_whether_its_key_is_enrolled() {
    let mut region = Region::new();
    let kms = region.member(Role::Kms, "k1", 1);
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Gateway, "g1", 0);
    let enrolments = region.enrolments();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let acceptor = transport::Acceptor::new(&server, enrolments.clone(), HYBRID);
    let connector = region.connector(&client, &enrolments);
    let (accepted, called) = tokio::join!(
        async {
            acceptor
                .accept(listener.accept().await.expect("a connection").0)
                .await
        },
        connector.connect(&endpoint, Expect::Role(Role::Node)),
    );
    let (accepted, _called) = (accepted.expect("accepted"), called.expect("connected"));
    let mut request = tonic::Request::new(());
    let none = transport::peer(&request).expect_err("nobody");
    assert_eq!(fault::reason(&none), Some("peer-unauthenticated"));
    let info = tonic::transport::server::Connected::connect_info(&accepted);
    request.extensions_mut().insert(info);
    assert_eq!(
        transport::peer(&request).expect("enrolled").identity,
        *client.identity()
    );

    region.withdraw(&client);
    let second = sign_set(&kms, &region.set(2, UnixMs(NOW.0 + 1)));
    assert!(enrolments.offer(&second).expect("follows"));
    let gone = transport::peer(&request).expect_err("withdrawn");
    assert_eq!(gone.code(), Code::Unauthenticated);
    assert_eq!(fault::reason(&gone), Some("peer-not-enrolled"));

    // Enrolled again, the same key under another role: still not who the connection is.
    let mut again = region.set(3, UnixMs(NOW.0 + 2));
    again.enrolments.push(proto::v1::Enrolment {
        identity: "spiffe://ch-zrh/operator/g1".to_owned(),
        public_key: client.public_key().as_spki().to_vec().into(),
        ..Default::default()
    });
    again.enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    assert!(enrolments.offer(&sign_set(&kms, &again)).expect("follows"));
    let other = transport::peer(&request).expect_err("another role");
    assert_eq!(fault::reason(&other), Some("peer-enrolled-as-other"));
}

#[tokio::test]
async fn a_reset_is_noticed_at_once_and_the_next_call_reconnects() {
    let mut region = Region::new();
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Node, "n2", 2);
    let enrolments = region.enrolments();
    let served = serve(&server, &enrolments).await;
    let proxy = FlakyProxy::to(served.address).await.expect("a proxy");
    let connector = region.connector(&client, &enrolments);
    let expect = Expect::Role(Role::Node);
    let mut link = connector
        .link(&proxy.endpoint(), expect, Lane::Heartbeat)
        .await
        .expect("connected");
    let state = link.state.borrow_and_update().clone();
    assert_eq!((state.up, state.made, state.lost), (true, 1, 0));
    proxy.reset();
    // Nothing is being asked on it: the loss is reported all the same.
    let state = until(&mut link.state, |state| state.lost == 1).await;
    assert!(!state.up);
    call(link.channel.clone(), WHO).await.expect("reconnected");
    assert_eq!(until(&mut link.state, |state| state.up).await.made, 2);

    proxy.refuse();
    proxy.reset();
    until(&mut link.state, |state| state.lost == 2).await;
    let status = call(link.channel.clone(), WHO)
        .await
        .expect_err("closed at once");
    assert_eq!(Fault::of(&status), Fault::Unavailable);
    assert_eq!(
        until(&mut link.state, |state| state.failed > 0).await.made,
        2
    );
}

#[tokio::test]
async fn a_call_into_a_cut_network_is_of_unknown_outcome_and_goes_on_after_it_heals() {
    let mut region = Region::new();
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Node, "n2", 2);
    let enrolments = region.enrolments();
    let served = serve(&server, &enrolments).await;
    let proxy = FlakyProxy::to(served.address).await.expect("a proxy");
    let connector = region.connector(&client, &enrolments);
    let channel = connector
        .channel(&proxy.endpoint(), Expect::Role(Role::Node), Lane::Control)
        .await
        .expect("connected");
    for cut in [
        FlakyProxy::cut,
        FlakyProxy::cut_to_server,
        FlakyProxy::cut_to_client,
    ] {
        cut(&proxy);
        let waited = timeout(Duration::from_millis(100), call(channel.clone(), WHO)).await;
        assert!(waited.is_err(), "nothing passes");
        proxy.heal();
        call(channel.clone(), WHO).await.expect("passes again");
    }
    proxy.delay(Duration::from_millis(50));
    let begun = std::time::Instant::now();
    call(channel, WHO).await.expect("late");
    assert!(
        begun.elapsed() >= Duration::from_millis(100),
        "held back both ways"
    );
}

#[tokio::test]
async fn a_renewed_certificate_serves_new_connections_of_the_same_identity_alone() {
    let mut region = Region::new();
    let kms = region.member(Role::Kms, "k1", 1);
    let server = region.member(Role::Node, "n1", 1);
    let client = region.member(Role::Node, "n2", 2);
    let enrolments = region.enrolments();
    let served = serve(&server, &enrolments).await;
    let connector = region.connector(&client, &enrolments);
    let endpoint = served.address.to_string();
    let connect = || connector.connect(&endpoint, Expect::Role(Role::Node));
    region.clock.advance(2 * crate::region::YEAR);
    // Both certificates are past their year; each process is given a new one while it runs.
    let error = connect().await.expect_err("expired");
    assert!(matches!(error, HandshakeError::Expired), "{error:?}");
    for local in [&server, &client] {
        let request = transport::ca::Request {
            identity: local.identity(),
            public_key: local.public_key(),
            dns_names: &[],
            ip_addresses: &[],
            now: UnixMs(NOW.0 + 2 * 31_536_000_000),
            validity: crate::region::YEAR,
        };
        let pem = region.ca.issue(&request).expect("issued");
        local
            .renew(pem.as_bytes())
            .expect("same key, same identity");
    }
    // The set is two years old by now, and neither end is the KMS.
    let error = connect().await.expect_err("stale");
    let stale = matches!(
        error,
        HandshakeError::Peer(transport::PeerError::Stale { .. })
    );
    assert!(stale, "{error:?}");
    let refreshed = region.set(1, UnixMs(NOW.0 + 2 * 31_536_000_000));
    assert!(
        enrolments
            .offer(&sign_set(&kms, &refreshed))
            .expect("a refresh")
    );
    connect().await.expect("renewed and refreshed");

    let other = region.stranger(Role::Node, "n9");
    let request = transport::ca::Request {
        identity: other.identity(),
        public_key: server.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: NOW,
        validity: crate::region::YEAR,
    };
    let pem = region.ca.issue(&request).expect("issued");
    assert!(
        server.renew(pem.as_bytes()).is_err(),
        "another identity is no renewal"
    );
}
