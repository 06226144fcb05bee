//! The calling end: tonic channels to peers whose identity is checked.
//!
//! Owns whom a channel may end at and what is known of its connection. Refuses a server whose certificate the
//! pinned CA did not sign, whose key is not enrolled, or that is not the one expected; DNS names prove nothing.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::certificate::RegionTrust;
use crate::clock::{SharedClock, SystemClock};
use crate::enrolment::{Enrolments, TrustedRegion};
use crate::fault::Chain;
use crate::handshake::{HandshakeError, KeyExchange, client_config};
use crate::identity::LocalIdentity;
use crate::lane::Lane;
use crate::peer::{Described, Expect, Federated, Judge, Peer, PeerConnection};
use crate::stream::{PeerStream, wire};

/// Makes connections as one identity. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    local: LocalIdentity,
    judge: Judge,
    clock: SharedClock,
    key_exchange: KeyExchange,
}

impl Connector {
    /// A connector that judges servers by the enrolment set.
    pub fn new(local: LocalIdentity, enrolments: Enrolments, key_exchange: KeyExchange) -> Self {
        let clock = enrolments.clock().clone();
        let judge = Judge::Enrolled(enrolments, local.identity().role());
        Self {
            local,
            judge,
            clock,
            key_exchange,
        }
    }

    /// A connector that holds no enrolment set (the command line): it pins the CA and checks whom it expects.
    /// It does not learn of withdrawn enrolments; who holds a set should use [`Connector::new`].
    pub fn pinned(local: LocalIdentity, trust: RegionTrust, key_exchange: KeyExchange) -> Self {
        let clock = SystemClock::shared();
        Self {
            local,
            judge: Judge::Pinned(trust),
            clock,
            key_exchange,
        }
    }

    /// A connector to the federation listeners of regions that this one trusts. Whom to expect is an identity there.
    pub fn federated(local: LocalIdentity, enrolments: Enrolments) -> Self {
        let clock = enrolments.clock().clone();
        let judge = Federated::listeners(enrolments, local.identity().role());
        Self {
            local,
            judge: Judge::Federated(judge),
            clock,
            key_exchange: KeyExchange::HybridOnly,
        }
    }

    /// As [`Connector::federated`], for a process that holds no enrolment set: to one region, by one descriptor of it. It does
    /// not learn of a newer one, nor that the trust ended: who uses it makes another one of what its region says now.
    pub fn described(local: LocalIdentity, region: TrustedRegion) -> Self {
        let clock = SystemClock::shared();
        let judge = Described::new(region, clock.clone());
        Self {
            local,
            judge: Judge::Described(judge),
            clock,
            key_exchange: KeyExchange::HybridOnly,
        }
    }

    /// Replaces the clock that certificates are judged by.
    pub fn with_clock(mut self, clock: SharedClock) -> Self {
        if let Judge::Described(described) = &mut self.judge {
            described.clock = clock.clone();
        }
        self.clock = clock;
        self
    }

    /// The identity it connects as.
    pub fn local(&self) -> &LocalIdentity {
        &self.local
    }

    /// A channel to `endpoint` (`host:port`), connected now. It reconnects by itself when used after a loss.
    pub async fn channel(
        &self,
        endpoint: &str,
        expect: Expect,
        lane: Lane,
    ) -> Result<Channel, tonic::transport::Error> {
        Ok(self.link(endpoint, expect, lane).await?.channel)
    }

    /// As [`Connector::channel`], connecting at first use.
    pub fn channel_lazy(
        &self,
        endpoint: &str,
        expect: Expect,
        lane: Lane,
    ) -> Result<Channel, tonic::transport::Error> {
        Ok(self.link_lazy(endpoint, expect, lane)?.channel)
    }

    /// A channel and what is known of its connection, connected now.
    pub async fn link(
        &self,
        endpoint: &str,
        expect: Expect,
        lane: Lane,
    ) -> Result<Link, tonic::transport::Error> {
        let (target, dial, state) = self.prepare(endpoint, expect, lane)?;
        Ok(Link {
            channel: target.connect_with_connector(dial).await?,
            state,
        })
    }

    /// As [`Connector::link`], connecting at first use.
    pub fn link_lazy(
        &self,
        endpoint: &str,
        expect: Expect,
        lane: Lane,
    ) -> Result<Link, tonic::transport::Error> {
        let (target, dial, state) = self.prepare(endpoint, expect, lane)?;
        Ok(Link {
            channel: target.connect_with_connector_lazy(dial),
            state,
        })
    }

    /// A bare stream to `endpoint` (`host:port`) for protocols other than gRPC. The server may still refuse our
    /// certificate after this returns; the first read says so.
    pub async fn connect(
        &self,
        endpoint: &str,
        expect: Expect,
    ) -> Result<PeerStream, HandshakeError> {
        dial(self.tls(expect), self.judge.clone(), endpoint.to_owned()).await
    }

    fn tls(&self, expect: Expect) -> TlsConnector {
        let judge = self.judge.clone();
        let config = client_config(&self.local, judge, expect, &self.clock, self.key_exchange);
        TlsConnector::from(Arc::new(config))
    }

    fn prepare(
        &self,
        endpoint: &str,
        expect: Expect,
        lane: Lane,
    ) -> Result<(Endpoint, Dial, watch::Receiver<LinkState>), tonic::transport::Error> {
        // The scheme is http because TLS is ours: tonic would refuse https without its own.
        let target = lane.apply(Endpoint::from_shared(format!("http://{endpoint}"))?);
        let state = watch::Sender::new(LinkState::default());
        let seen = state.subscribe();
        let tls = self.tls(expect.clone());
        let dial = Dial {
            tls,
            judge: self.judge.clone(),
            expect,
            state,
        };
        Ok((target, dial, seen))
    }
}

/// A channel and what is known of the connection under it.
#[derive(Debug, Clone)]
pub struct Link {
    /// The channel.
    pub channel: Channel,
    /// Changes with every connection made, lost or refused. A lost connection is restored by the next request,
    /// not before: who wants it back sends one.
    pub state: watch::Receiver<LinkState>,
}

/// Connections of one channel so far. Counters, so that a reader that was busy misses nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether a connection is up.
    pub up: bool,
    /// Connections made.
    pub made: u64,
    /// Connections lost: reset, closed by the peer, timed out, cut.
    pub lost: u64,
    /// Attempts that failed since the last connection was made.
    pub failed: u64,
    /// Why the last attempt failed, in words.
    pub failure: Option<String>,
}

/// Reports a connection's end to its link when it is dropped.
#[derive(Debug)]
pub(crate) struct LinkGuard(watch::Sender<LinkState>);

impl LinkGuard {
    fn up(state: watch::Sender<LinkState>) -> Self {
        state.send_modify(|state| {
            state.up = true;
            state.made += 1;
            state.failed = 0;
            state.failure = None;
        });
        Self(state)
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.0.send_modify(|state| {
            state.up = false;
            state.lost += 1;
        });
    }
}

/// What tonic calls to make a connection.
struct Dial {
    tls: TlsConnector,
    judge: Judge,
    expect: Expect,
    state: watch::Sender<LinkState>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<PeerStream>;
    type Error = HandshakeError;
    type Future = BoxFuture<'static, Result<Self::Response, HandshakeError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tls, judge, state) = (self.tls.clone(), self.judge.clone(), self.state.clone());
        let expect = self.expect.clone();
        async move {
            let endpoint = uri.authority().ok_or(HandshakeError::Endpoint)?.to_string();
            let attempt = async {
                let mut stream = dial(tls, judge, endpoint.clone()).await?;
                stream.until_accepted().await?;
                Ok(stream)
            };
            match attempt.await {
                Ok(mut stream) => {
                    stream.report_to(LinkGuard::up(state));
                    Ok(TokioIo::new(stream))
                }
                Err(error) => {
                    let why = Chain::<HandshakeError>(&error).to_string();
                    // Retried for as long as a peer is down: a line each would bury the others.
                    tracing::debug!(%endpoint, %expect, error = %why, "connection failed");
                    state.send_modify(|state| {
                        state.failed += 1;
                        state.failure = Some(why);
                    });
                    Err(error)
                }
            }
        }
        .boxed()
    }
}

async fn dial(
    tls: TlsConnector,
    judge: Judge,
    endpoint: String,
) -> Result<PeerStream, HandshakeError> {
    let tcp = TcpStream::connect(&endpoint).await?;
    tcp.set_nodelay(true)?;
    let remote = tcp.peer_addr()?;
    // Neither sent (SNI is off) nor checked (identities are).
    let name = ServerName::try_from("reduit.invalid").expect("a valid DNS name");
    let stream = tls.connect(name, wire(tcp)).await?;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let leaf = leaf.ok_or(HandshakeError::NoCertificate)?;
    // Whom to expect was checked in the handshake; asked again for the enrolment alone.
    let (identity, public_key, node_id) = judge.admit(leaf, None).map_err(HandshakeError::Peer)?;
    let peer = Arc::new(Peer {
        identity,
        public_key,
        node_id,
        remote,
        stated: crate::peer::Stated::default(),
    });
    Ok(PeerStream::new(
        stream.into(),
        PeerConnection { peer, judge },
        None,
    ))
}
