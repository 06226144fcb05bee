//! Clients that stop in the middle: a body that does not come, an answer that is not taken.
//!
//! Owns how long a client is waited for: a while at a time, and longer only as bytes come or go. Refuses to hold windows
//! of an upload or a download for who holds still, or moves a byte now and then so as not to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a body that stalled ends with.
pub(crate) const STALLED: &str = "no data came for too long";

/// Bytes a second that a client has to send or take, of the time that it is waited for.
const BYTES_PER_S_MIN: u64 = 1_024;

/// How long a client is still waited for. Waiting uses it up, bytes earn it again, and it is never more than the
/// patience there is.
struct Credit {
    patience: Duration,
    left: Duration,
    since: Option<Instant>,
    over: Option<Pin<Box<Sleep>>>,
}

impl Credit {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            left: patience,
            since: None,
            over: None,
        }
    }

    /// The client is waited for: ready once that was too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            let end = now + self.left;
            match &mut self.over {
                Some(over) => over.as_mut().reset(end),
                None => self.over = Some(Box::pin(tokio::time::sleep_until(end))),
            }
        }
        match &mut self.over {
            Some(over) => over.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// So many bytes came or went. What the region takes between two waits is not the client's time.
    fn earn(&mut self, bytes: usize) {
        let waited = self
            .since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
        let earned = Duration::from_secs_f64(bytes as f64 / BYTES_PER_S_MIN as f64);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.patience);
    }
}

/// A connection whose reader has to keep reading.
pub(crate) struct Paced<S> {
    stream: S,
    credit: Credit,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            credit: Credit::new(patience),
        }
    }

    fn paced<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(wrote) = wrote {
            self.credit.earn(wrote.as_ref().map_or(0, bytes));
            return Poll::Ready(wrote);
        }
        ready!(self.credit.wait(cx));
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
        self.paced(cx, wrote, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.paced(cx, wrote, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.paced(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.paced(cx, shut, |()| 0)
    }
}

/// What became of a body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Course(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    asked: AtomicBool,
    bytes: AtomicU64,
    stalled: AtomicBool,
    broken: AtomicBool,
}

impl Course {
    /// Whether it was asked for.
    pub(crate) fn was_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Bytes that came.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether it was given up because nothing came.
    pub(crate) fn stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// Whether the connection broke it off.
    pub(crate) fn broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }
}

/// A request's body, frame by frame within its time.
pub(crate) struct Patient<B> {
    body: B,
    course: Course,
    credit: Credit,
}

impl<B> Patient<B> {
    pub(crate) fn new(body: B, course: Course, patience: Duration) -> Self {
        Self {
            body,
            course,
            credit: Credit::new(patience),
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
        let this = &mut *self;
        let progress = &this.course.0;
        progress.asked.store(true, Ordering::Relaxed);
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                progress.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                this.credit.earn(bytes);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                progress.broken.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(this.credit.wait(cx));
                progress.stalled.store(true, Ordering::Relaxed);
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
            let frame = Frame::data(Bytes::from_static(&[0; 1 << 14]));
            Some((Ok::<_, io::Error>(frame), at + 1))
        });
        let course = Course::default();
        let body = StreamBody::new(Box::pin(frames));
        let mut body = Patient::new(body, course.clone(), PATIENCE);
        assert!(!course.was_asked());
        for _ in 0..3 {
            let frame = body.frame().await.expect("a frame");
            frame.expect("slow, and in time");
        }
        assert!(course.was_asked() && !course.stalled());
        assert_eq!(course.bytes(), 3 << 14);
        let stalled = body
            .frame()
            .await
            .expect("an error")
            .expect_err("it stopped");
        assert_eq!(stalled.to_string(), STALLED);
        assert!(course.stalled() && !course.broken());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_crawls_is_given_up() {
        for (bytes, held) in [
            (1, false),
            (BYTES_PER_S_MIN as usize - 24, false),
            (2_048, true),
        ] {
            let frames = stream::unfold((), move |()| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let frame = Frame::data(Bytes::from(vec![0; bytes]));
                Some((Ok::<_, io::Error>(frame), ()))
            });
            let body = StreamBody::new(Box::pin(frames));
            let mut body = Patient::new(body, Course::default(), PATIENCE);
            let began = Instant::now();
            let mut frames = 0;
            while let Some(Ok(_)) = body.frame().await {
                frames += 1;
                if frames == 3_000 {
                    break;
                }
            }
            assert_eq!(frames == 3_000, held, "{bytes} bytes a second");
            let given_up = Duration::from_secs(1_400);
            assert!(held || began.elapsed() < given_up, "{bytes} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_byte_by_byte_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut paced = Paced::new(ours, PATIENCE);
        let began = Instant::now();
        let reader = tokio::spawn(async move {
            while tokio::io::AsyncReadExt::read_u8(&mut theirs).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let given_up = paced.write_all(&[0; 1_000]).await.expect_err("too slow");
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < 2 * PATIENCE);
        reader.abort();
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
