//! Clients that stop in the middle: a body that does not come, an answer that is not taken.
//!
//! Owns how long a connection may be without a byte while one is waited for. Refuses to hold windows of an upload or a
//! download for who holds still.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a body that stalled ends with.
pub(crate) const STALLED: &str = "no data came for too long";

/// A connection whose reader has to keep reading.
pub(crate) struct Paced<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    fn paced<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.paced(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.paced(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.paced(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.paced(cx, shut)
    }
}

/// Whether a body was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Whether it was.
    pub(crate) fn already(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body, frame by frame within its time.
pub(crate) struct Patient<B> {
    body: B,
    asked: Asked,
    patience: Duration,
    over: Pin<Box<Sleep>>,
}

impl<B> Patient<B> {
    pub(crate) fn new(body: B, asked: Asked, patience: Duration) -> Self {
        Self {
            body,
            asked,
            patience,
            over: Box::pin(tokio::time::sleep(patience)),
        }
    }
}

impl<B> Body for Patient<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.asked.0.store(true, Ordering::Relaxed);
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                // What the region takes to store a frame is not the client's time.
                let next = Instant::now() + self.patience;
                self.over.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
            Poll::Pending => {
                ready!(self.over.as_mut().poll(cx));
                Poll::Ready(Some(Err(io::Error::other(STALLED))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up() {
        let frames = stream::unfold(0, |at| async move {
            if at == 3 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(PATIENCE / 2).await;
            let frame = Frame::data(Bytes::from_static(b"x"));
            Some((Ok::<_, io::Error>(frame), at + 1))
        });
        let asked = Asked::default();
        let body = StreamBody::new(Box::pin(frames));
        let mut body = Patient::new(body, asked.clone(), PATIENCE);
        assert!(!asked.already());
        for _ in 0..3 {
            let frame = body.frame().await.expect("a frame");
            frame.expect("slow, and in time");
        }
        assert!(asked.already());
        let stalled = body
            .frame()
            .await
            .expect("an error")
            .expect_err("it stopped");
        assert_eq!(stalled.to_string(), STALLED);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(16);
        let mut paced = Paced::new(ours, PATIENCE);
        let began = Instant::now();
        let given_up = paced.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= PATIENCE);
        drop(theirs);
    }
}
