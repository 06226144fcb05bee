//! The listening end: connections of enrolled peers, ready for tonic.
//!
//! Owns the bounds on what strangers can make this process hold: handshakes under way, their time, connections.
//! Refuses, in the handshake, everyone whose certificate or enrolment does not hold, and logs each refusal once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::clock::SharedClock;
use crate::enrolment::Enrolments;
use crate::fault::Chain;
use crate::handshake::{HandshakeError, KeyExchange, server_config};
use crate::identity::LocalIdentity;
use crate::peer::{Federated, Judge, Peer, PeerConnection};
use crate::stream::{PeerStream, wire};

/// Handshakes under way at once; further connections wait in the kernel's backlog.
pub const HANDSHAKES_MAX: usize = 256;
/// How long one handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections alive at once; beyond, no handshake is begun until one ends.
pub const CONNECTIONS_MAX: usize = 4096;
/// Accepted connections waiting for the server to take them.
const READY_MAX: usize = 64;
/// Pause after accept(2) fails, mostly for want of file descriptors: spinning would not free one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of a federation listener: its callers are few, and strangers on it are nobody's own.
const FEDERATION_LIMITS: AcceptorLimits = AcceptorLimits {
    handshakes_max: 32,
    handshake_timeout: HANDSHAKE_TIMEOUT,
    connections_max: 512,
};

/// Bounds of an acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptorLimits {
    /// Handshakes under way at once.
    pub handshakes_max: usize,
    /// How long one may take.
    pub handshake_timeout: Duration,
    /// Connections alive at once.
    pub connections_max: usize,
}

impl Default for AcceptorLimits {
    fn default() -> Self {
        Self {
            handshakes_max: HANDSHAKES_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            connections_max: CONNECTIONS_MAX,
        }
    }
}

/// Accepts peers that may act: of this process's own region, or of regions that it trusts. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    judge: Judge,
    limits: AcceptorLimits,
    connections: Arc<Semaphore>,
}

impl Acceptor {
    /// An acceptor with the default bounds.
    pub fn new(local: &LocalIdentity, enrolments: Enrolments, key_exchange: KeyExchange) -> Self {
        Self::with_limits(local, enrolments, key_exchange, AcceptorLimits::default())
    }

    /// An acceptor of a federation listener: for KMS replicas and gateways of regions that this one trusts, and for
    /// nobody of its own. The hybrid key exchange is no choice here.
    pub fn federated(local: &LocalIdentity, enrolments: Enrolments) -> Self {
        let clock = enrolments.clock().clone();
        let judge = Federated::callers(enrolments, local.identity().role());
        Self::judging(
            local,
            Judge::Federated(judge),
            &clock,
            KeyExchange::HybridOnly,
            FEDERATION_LIMITS,
        )
    }

    /// An acceptor with bounds of the caller's.
    pub fn with_limits(
        local: &LocalIdentity,
        enrolments: Enrolments,
        key_exchange: KeyExchange,
        limits: AcceptorLimits,
    ) -> Self {
        let clock = enrolments.clock().clone();
        let judge = Judge::Enrolled(enrolments, local.identity().role());
        Self::judging(local, judge, &clock, key_exchange, limits)
    }

    fn judging(
        local: &LocalIdentity,
        judge: Judge,
        clock: &SharedClock,
        key_exchange: KeyExchange,
        limits: AcceptorLimits,
    ) -> Self {
        let config = server_config(local, judge.clone(), clock, key_exchange);
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            judge,
            limits,
            connections,
        }
    }

    /// Carries out the handshake on one accepted TCP connection.
    pub async fn accept(&self, tcp: TcpStream) -> Result<PeerStream, HandshakeError> {
        self.handshake(tcp, None).await
    }

    /// Accepts connections on `listener` until the answer is dropped. Give it to tonic's
    /// `serve_with_incoming`; its items are never errors, refusals are logged here.
    pub fn incoming(self, listener: TcpListener) -> Incoming {
        let (ready, accepted) = mpsc::channel(READY_MAX);
        let task = tokio::spawn(self.accept_all(listener, ready));
        Incoming { accepted, task }
    }

    async fn accept_all(self, listener: TcpListener, ready: mpsc::Sender<PeerStream>) {
        // In a JoinSet, so that handshakes end with the acceptor.
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            while handshakes.len() >= self.limits.handshakes_max {
                handshakes.join_next().await;
            }
            let Ok(permit) = self.connections.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((tcp, remote)) => {
                    let (this, ready) = (self.clone(), ready.clone());
                    handshakes.spawn(this.accept_one(tcp, remote, permit, ready));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept_one(
        self,
        tcp: TcpStream,
        remote: SocketAddr,
        permit: OwnedSemaphorePermit,
        ready: mpsc::Sender<PeerStream>,
    ) {
        match self.handshake(tcp, Some(permit)).await {
            // An error here is a server that has stopped; the stream is dropped with it.
            Ok(stream) => drop(ready.send(stream).await),
            Err(error) if error.is_of_ours() => {
                tracing::warn!(%remote, error = %Chain(&error), "connection refused");
            }
            Err(error) => tracing::info!(%remote, error = %Chain(&error), "connection refused"),
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<PeerStream, HandshakeError> {
        // tonic's own setting is ignored for streams it did not accept itself.
        tcp.set_nodelay(true)?;
        let remote = tcp.peer_addr()?;
        let tls = tokio::time::timeout(self.limits.handshake_timeout, self.tls.accept(wire(tcp)))
            .await
            .map_err(|_| HandshakeError::TimedOut)??;
        // Admitted again after the handshake: the enrolment may have gone meanwhile, and the peer's name is
        // taken from the certificate that TLS verified.
        let leaf = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let leaf = leaf.ok_or(HandshakeError::NoCertificate)?;
        let (identity, public_key, node_id) =
            self.judge.admit(leaf, None).map_err(HandshakeError::Peer)?;
        let peer = Arc::new(Peer {
            identity,
            public_key,
            node_id,
            remote,
            stated: crate::peer::Stated::default(),
        });
        let connection = PeerConnection {
            peer,
            judge: self.judge.clone(),
        };
        Ok(PeerStream::new(tls.into(), connection, permit))
    }
}

/// The connections of an [`Acceptor`]. Dropping it closes the listener and ends handshakes under way.
#[derive(Debug)]
pub struct Incoming {
    accepted: mpsc::Receiver<PeerStream>,
    task: JoinHandle<()>,
}

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}
