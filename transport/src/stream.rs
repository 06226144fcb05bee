//! An established connection between two enrolled identities.
//!
//! Owns the cut: when a peer's enrolment is withdrawn its connections break, with whatever streams are on them,
//! and no request boundary is waited for. Tells the link of a channel when the connection is lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::connector::LinkGuard;
use crate::peer::{Judge, Peer, PeerConnection, PeerError};

/// What is read ahead of a client's first request: an HTTP/2 server's SETTINGS are a few dozen bytes.
const FIRST_BYTES_MAX: usize = 1024;

/// What is read from a socket at once. TLS asks for 4 KiB at a time, which is four calls of the system for a record.
const WIRE_BYTES: usize = 64 * 1024;

/// A socket below TLS: what is read ahead of it is sealed.
pub(crate) type Wire = BufReader<TcpStream>;

pub(crate) fn wire(tcp: TcpStream) -> Wire {
    BufReader::with_capacity(WIRE_BYTES, tcp)
}

/// A TLS stream and who is at its other end.
pub struct PeerStream {
    tls: TlsStream<Wire>,
    connection: PeerConnection,
    withdrawn: Option<Pin<Box<dyn Future<Output = PeerError> + Send>>>,
    cut: Option<PeerError>,
    first: BytesMut,
    link: Option<LinkGuard>,
    /// Counts this connection against its acceptor's bound for as long as it lives.
    _permit: Option<OwnedSemaphorePermit>,
}

impl PeerStream {
    pub(crate) fn new(
        tls: TlsStream<Wire>,
        connection: PeerConnection,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let peer = connection.at_handshake();
        let withdrawn = match &connection.judge {
            Judge::Enrolled(enrolments, _) => {
                let ended = enrolments
                    .clone()
                    .withdrawn(peer.identity.clone(), peer.public_key);
                Some(Box::pin(ended) as Pin<Box<_>>)
            }
            Judge::Federated(federated) => {
                let enrolments = federated.enrolments().clone();
                let ended = enrolments.distrusted(peer.identity.clone(), peer.public_key);
                Some(Box::pin(ended) as Pin<Box<_>>)
            }
            Judge::Pinned(_) | Judge::Described(_) => None,
        };
        let first = BytesMut::new();
        Self {
            tls,
            connection,
            withdrawn,
            cut: None,
            first,
            link: None,
            _permit: permit,
        }
    }

    /// Who is at the other end, as of the handshake.
    pub fn peer(&self) -> &Peer {
        self.connection.at_handshake()
    }

    /// The group that the keys were exchanged with, by its IANA number (0x11ec is X25519MLKEM768).
    pub fn key_exchange_group(&self) -> Option<u16> {
        let (_, session) = self.tls.get_ref();
        session
            .negotiated_key_exchange_group()
            .map(|group| u16::from(group.name()))
    }

    /// Waits for the server's first bytes, which it sends once it has accepted our certificate. In TLS 1.3 a
    /// client is done before its certificate is looked at: without this a refusal would surface in the first
    /// request, and whether that request was executed would be anyone's guess.
    pub(crate) async fn until_accepted(&mut self) -> io::Result<()> {
        let mut first = BytesMut::with_capacity(FIRST_BYTES_MAX);
        if self.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.first = first;
        Ok(())
    }

    pub(crate) fn report_to(&mut self, link: LinkGuard) {
        self.link = Some(link);
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(Poll::Ready(why)) = self.withdrawn.as_mut().map(|w| w.as_mut().poll(cx)) {
            let peer = self.connection.at_handshake();
            tracing::warn!(peer = %peer.identity, remote = %peer.remote, %why, "connection cut");
            self.withdrawn = None;
            self.cut = Some(why);
        }
        match &self.cut {
            Some(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone())),
            None => Ok(()),
        }
    }

    fn lost_if_over(&mut self, read: usize, result: &Poll<io::Result<()>>) {
        let over = match result {
            Poll::Ready(Ok(())) => read == 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if over {
            // Dropping the guard reports the loss, now rather than when the last clone of a channel lets go.
            self.link = None;
        }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.connection.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Checked on the read side, which an HTTP/2 connection always polls, so the cut wakes an idle one too.
        if let Err(cut) = this.check(cx) {
            this.link = None;
            return Poll::Ready(Err(cut));
        }
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.first.is_empty() {
            let len = this.first.len().min(buffer.remaining());
            buffer.put_slice(&this.first[..len]);
            this.first.advance(len);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.tls).poll_read(cx, buffer);
        this.lost_if_over(buffer.filled().len() - before, &result);
        result
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(why) = &self.cut {
            let why = why.clone();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(why) = &self.cut {
            let why = why.clone();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerStream({})", self.peer().identity)
    }
}
