//! Connections of strangers to the log's open port, bounded in number and in time.
//!
//! Owns that whoever opens connections and says nothing keeps readers of the log out for a while, and never takes the
//! file descriptors that the KMS itself needs. Refuses nobody by who they are: the port is for everyone.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections alive at once; further ones wait in the kernel's backlog.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// How long one may live: enough for a reader to fetch many tiles, which are small.
pub(crate) const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// A listener that hands out at most so many connections at once.
pub(crate) struct BoundedListener {
    listener: TcpListener,
    free: Arc<Semaphore>,
    time: Duration,
}

impl BoundedListener {
    pub(crate) fn new(listener: TcpListener, connections: usize, time: Duration) -> Self {
        Self {
            listener,
            free: Arc::new(Semaphore::new(connections)),
            time,
        }
    }
}

impl Listener for BoundedListener {
    type Io = Stranger;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stranger, SocketAddr) {
        let permit = self.free.clone().acquire_owned().await;
        let permit = permit.expect("nobody closes the semaphore");
        // It logs and retries what accept(2) fails with.
        let (stream, remote) = Listener::accept(&mut self.listener).await;
        let stranger = Stranger {
            stream,
            over: Box::pin(tokio::time::sleep(self.time)),
            _permit: permit,
        };
        (stranger, remote)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
pub(crate) struct Stranger {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Stranger {
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.over.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Stranger {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Stranger {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// One connection at a time, and the first says nothing: the second is served once the first one's time is over.
    #[tokio::test]
    async fn who_says_nothing_keeps_others_waiting_for_a_while_and_no_longer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let bounded = BoundedListener::new(listener, 1, Duration::from_millis(300));
        let router = Router::new().route("/", get(|| async { "served" }));
        let server = tokio::spawn(async move { axum::serve(bounded, router).await });

        let mut silent = TcpStream::connect(address).await.expect("connected");
        let mut reader = TcpStream::connect(address).await.expect("connected");
        let request = b"GET / HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n";
        reader.write_all(request).await.expect("sent");
        let (mut first, mut answer) = (Vec::new(), Vec::new());
        let answered = async {
            let (closed, read) = tokio::join!(
                silent.read_to_end(&mut first),
                reader.read_to_end(&mut answer)
            );
            // Closed or reset: either way it was told nothing.
            closed.map_or(Ok(0), Ok).and(read)
        };
        let answered = tokio::time::timeout(Duration::from_secs(30), answered).await;
        answered.expect("in time").expect("an answer");
        assert!(first.is_empty() && answer.ends_with(b"served"));
        server.abort();
    }
}
