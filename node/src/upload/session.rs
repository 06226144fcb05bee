//! One upload stream, from its first frame to its receipt.
//!
//! Owns the order of frames, the window of blocks not yet durable and the time-outs. Refuses to acknowledge a block
//! before it is durable and to sign before every block it acknowledged is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt as _, Stream, StreamExt as _};
use node_state::limits::BLOCKS_MAX;
use proto::v1;
use proto::v1::block_frame::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use transport::fault::{Chain, status_of};
use transport::{Fault, Faulty as _, PeerConnection, peer_in};

use super::error::UploadError;
use super::open::{self, Upload};
use super::{ACKS_WAITING_MAX, BLOCKS_IN_FLIGHT_MAX, Inner, receipt};
use crate::blocks::{
    BlockDigest, BlockDraft, BlockHead, BlockKey, BlockNumber, PutError, PutMode, Stored,
};

/// One upload.
pub(super) struct Session {
    inner: Arc<Inner>,
    connection: Option<PeerConnection>,
    _permit: OwnedSemaphorePermit,
}

type Frames = Streaming<v1::BlockFrame>;
type Acks = mpsc::Sender<Result<v1::BlockAck, Status>>;
type Pending<'a> =
    FuturesUnordered<Pin<Box<dyn Future<Output = (u32, Result<Stored, PutError>)> + Send + 'a>>>;

/// How long the next frame may take.
#[derive(Clone, Copy)]
enum Deadline {
    /// As long as a frame.
    Frame,
    /// As long as a frame, and not beyond the block's end.
    Block(Instant),
    /// While blocks of this upload wait for the disk.
    Never,
}

/// A day: longer than any disk takes, and far from the end of the clock.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// A block being received.
struct Receiving {
    number: u32,
    draft: BlockDraft,
    until: Instant,
}

impl Session {
    pub(super) fn new(
        inner: Arc<Inner>,
        connection: Option<PeerConnection>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            inner,
            connection,
            _permit: permit,
        }
    }

    /// Runs the upload on a task of its own; the stream of acknowledgements ends it when it is dropped.
    pub(super) fn answer(self, frames: Frames) -> BoxStream<'static, Result<v1::BlockAck, Status>> {
        let (acks, answers) = mpsc::channel(ACKS_WAITING_MAX);
        let task = tokio::spawn(async move {
            let Err(error) = self.run(frames, &acks).await else {
                return;
            };
            metrics::counter!("reduit_uploads_failed_total", "reason" => error.reason())
                .increment(1);
            match error.fault() {
                Fault::Internal | Fault::Unknown | Fault::Damaged => {
                    tracing::error!(error = %Chain(&error), "an upload failed");
                }
                _ => tracing::debug!(error = %Chain(&error), "an upload was refused"),
            }
            // The peer may be gone: then nobody needs to know.
            drop(acks.send(Err(status_of(&error))).await);
        });
        Answers { answers, task }.boxed()
    }

    async fn run(&self, mut frames: Frames, acks: &Acks) -> Result<(), UploadError> {
        let Some(Frame::Open(first)) = self.frame(&mut frames, Deadline::Frame).await? else {
            return Err(UploadError::Frame("the first frame opens the upload"));
        };
        let upload = self.open(first).await?;
        let mut pending: Pending<'_> = FuturesUnordered::new();
        let mut receiving: Option<Receiving> = None;
        loop {
            if pending.len() >= BLOCKS_IN_FLIGHT_MAX {
                self.acknowledge(pending.next().await, acks).await?;
                continue;
            }
            // A peer that waits for acknowledgements owes no frame; the disk's time is not its.
            let until = match &receiving {
                Some(receiving) => Deadline::Block(receiving.until),
                None if pending.is_empty() => Deadline::Frame,
                None => Deadline::Never,
            };
            let frame = tokio::select! {
                biased;
                stored = pending.next(), if !pending.is_empty() => {
                    self.acknowledge(stored, acks).await?;
                    continue;
                }
                frame = self.frame(&mut frames, until) => frame?,
            };
            match (frame, receiving.take()) {
                (None, _) => {
                    // Half closed: what was complete is still said to be durable, or why it is not.
                    while let stored @ Some(_) = pending.next().await {
                        self.acknowledge(stored, acks).await?;
                    }
                    return Err(UploadError::CutOff);
                }
                (Some(Frame::Open(_)), _) => {
                    return Err(UploadError::Frame("an upload is opened once"));
                }
                (Some(Frame::Header(header)), None) => {
                    receiving = Some(self.begin(&upload, &header).await?);
                }
                (Some(Frame::Data(data)), Some(mut block)) => {
                    let number = block.number;
                    let refused = |source| UploadError::Draft { number, source };
                    block.draft.push(data).map_err(refused)?;
                    if !block.draft.complete() {
                        receiving = Some(block);
                        continue;
                    }
                    let block = block.draft.finish().map_err(refused)?;
                    let mode = self.mode(&upload).await?;
                    let put = self.inner.store.put(block, mode);
                    pending.push(put.map(move |outcome| (number, outcome)).boxed());
                }
                (Some(Frame::Close(_)), None) => {
                    while let stored @ Some(_) = pending.next().await {
                        self.acknowledge(stored, acks).await?;
                    }
                    return self.close(upload, acks).await;
                }
                (Some(Frame::Header(_) | Frame::Close(_)), Some(_)) => {
                    return Err(UploadError::Frame("a block is not complete"));
                }
                (Some(Frame::Data(_)), None) => {
                    return Err(UploadError::Frame("bytes before a block's header"));
                }
            }
        }
    }

    /// The next frame, in time. Dropping the call loses nothing.
    async fn frame(
        &self,
        frames: &mut Frames,
        deadline: Deadline,
    ) -> Result<Option<Frame>, UploadError> {
        let timeout = self.inner.timeouts.frame;
        let at = match deadline {
            Deadline::Frame => Instant::now() + timeout,
            Deadline::Block(until) => until.min(Instant::now() + timeout),
            Deadline::Never => Instant::now() + FOREVER,
        };
        let next = tokio::time::timeout_at(at, frames.next()).await;
        match next.map_err(|_| stalled(timeout))? {
            None => Ok(None),
            Some(Err(_)) => Err(UploadError::CutOff),
            Some(Ok(frame)) => frame
                .frame
                .map(Some)
                .ok_or(UploadError::Frame("a frame of no known kind")),
        }
    }

    async fn open(&self, first: v1::OpenUpload) -> Result<Upload, UploadError> {
        let first_frame_at = self.inner.clock.now();
        let (inner, peer) = (Arc::clone(&self.inner), peer_in(self.connection.as_ref())?);
        blocking(move || open::open(&inner, &peer, &first, first_frame_at)).await?
    }

    async fn mode(&self, upload: &Upload) -> Result<PutMode, UploadError> {
        if !upload.may_replace() {
            return Ok(PutMode::Upload);
        }
        let (inner, version, owner) = (Arc::clone(&self.inner), upload.version, upload.owner);
        blocking(move || open::mode(&inner, &version, &owner)).await
    }

    async fn begin(
        &self,
        upload: &Upload,
        header: &v1::BlockHeader,
    ) -> Result<Receiving, UploadError> {
        let number = header.number;
        if usize::try_from(number).map_or(true, |number| number >= BLOCKS_MAX) {
            return Err(UploadError::Frame("the block number is over the limit"));
        }
        let digest = BlockDigest::try_from(header.digest.as_ref())
            .map_err(|_| UploadError::Frame("a digest has 32 bytes"))?;
        let head = BlockHead {
            key: BlockKey {
                version: upload.version,
                number: BlockNumber(number),
            },
            owner: upload.owner,
            digest,
            bytes: header.bytes,
        };
        // Backpressure: while memory is used up, this peer's next bytes stay in its windows.
        let room = self.inner.store.room(head.bytes).await;
        let room = room.map_err(|source| UploadError::Put { number, source })?;
        let draft =
            BlockDraft::new(head, room).map_err(|source| UploadError::Draft { number, source })?;
        Ok(Receiving {
            number,
            draft,
            until: Instant::now() + self.inner.timeouts.block,
        })
    }

    async fn acknowledge(
        &self,
        stored: Option<(u32, Result<Stored, PutError>)>,
        acks: &Acks,
    ) -> Result<(), UploadError> {
        let Some((number, outcome)) = stored else {
            return Ok(());
        };
        outcome.map_err(|source| UploadError::Put { number, source })?;
        self.send(v1::block_ack::Ack::Durable(number), acks).await
    }

    async fn close(&self, upload: Upload, acks: &Acks) -> Result<(), UploadError> {
        // Enrolment may have been withdrawn while the blocks came.
        peer_in(self.connection.as_ref())?;
        let inner = Arc::clone(&self.inner);
        let receipt =
            blocking(move || receipt::receipt(inner.node, &inner.local, &inner.store, &upload));
        self.send(v1::block_ack::Ack::Receipt(receipt.await?), acks)
            .await
    }

    async fn send(&self, ack: v1::block_ack::Ack, acks: &Acks) -> Result<(), UploadError> {
        let timeout = self.inner.timeouts.frame;
        let ack = v1::BlockAck { ack: Some(ack) };
        match acks.send_timeout(Ok(ack), timeout).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(stalled(timeout)),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(UploadError::CutOff),
        }
    }
}

fn stalled(after: Duration) -> UploadError {
    UploadError::Stalled {
        after_s: after.as_secs(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| UploadError::Stopping)
}

/// The acknowledgements, and the task that makes them: it ends with them.
struct Answers {
    answers: mpsc::Receiver<Result<v1::BlockAck, Status>>,
    task: JoinHandle<()>,
}

impl Stream for Answers {
    type Item = Result<v1::BlockAck, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_recv(cx)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
    }
}
