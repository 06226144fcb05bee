//! A large stream, an object's or a part's, on its way to the shard's replicas: sealed, cut into blocks, sent to all at once.
//!
//! Owns the window. A block leaves memory when a majority has it on disk; a replica that is too slow is dropped
//! from this upload, never buffered for, and repairs itself later (DESIGN section 6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envelope::{Sealer, StreamHeader};
use proto::ids::{DatasetId, GroupId, LeaseId, NodeId, ObjectVersionId, UploadEpoch};
use proto::v1;
use proto::v1::block_ack::Ack;
use proto::v1::block_frame::Frame;
use proto::v1::blocks_client::BlocksClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument as _;
use transport::{Lane, Stated};

use crate::acting::ActingChannel;
use crate::body::Body;
use crate::error::Error;
use crate::region::Region;

/// Sealed bytes of one block; the last may be shorter.
pub(crate) const BLOCK_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of one frame on the wire.
const FRAME_BYTES: usize = 256 * 1024;
/// Plaintext read at once: whole chunks.
const READ_BYTES: usize = 64 * envelope::CHUNK_BYTES;
/// Blocks that wait for one replica, besides the one being sent.
const QUEUED_BLOCKS_MAX: usize = 2;
/// Frames that wait in one stream.
const QUEUED_FRAMES_MAX: usize = 4;
/// How long a full replica may hold up an upload that a majority keeps up with.
const SLOW_PATIENCE: Duration = Duration::from_secs(2);
/// How long the majority may take for one block before the upload fails.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long the last receipts are waited for once a majority signed.
const RECEIPT_GRACE: Duration = Duration::from_millis(200);
const NO_MAJORITY: &str = "no-majority";
const DISK_FULL: &str = "disk-full";

/// Where an upload goes.
pub(crate) struct Target {
    pub(crate) shard: GroupId,
    pub(crate) dataset: DatasetId,
    /// The id its blocks are kept under: the version's, or the part's.
    pub(crate) version: ObjectVersionId,
    /// Of a part: its upload.
    pub(crate) part_of: Option<ObjectVersionId>,
    pub(crate) upload_epoch: UploadEpoch,
    pub(crate) lease: LeaseId,
    pub(crate) replicas: Vec<NodeId>,
    /// What for.
    pub(crate) stated: Stated,
}

/// What is durable on a majority.
pub(crate) struct Uploaded {
    pub(crate) header: StreamHeader,
    pub(crate) plain_bytes: u64,
    pub(crate) sealed_bytes: u64,
    pub(crate) blocks: Vec<v1::BlockRef>,
    pub(crate) receipts: Vec<v1::Receipt>,
}

struct Block {
    number: u32,
    digest: [u8; 32],
    bytes: Bytes,
}

enum Said {
    Durable(NodeId, u32),
    Receipt(NodeId, v1::Receipt),
    Gone(NodeId, Why),
}

/// Why a replica takes no more of an upload.
struct Why {
    reason: &'static str,
    message: String,
}

/// Seals `head` and the rest of `body` and brings it to a majority.
pub(crate) async fn run(
    region: &Region,
    target: Target,
    mut sealer: Sealer,
    head: Vec<u8>,
    mut body: Body,
) -> Result<Uploaded, Error> {
    let mut upload = Upload::start(region, &target)?;
    let header = *sealer.header();
    let mut plain = head;
    let mut plain_bytes = plain.len() as u64;
    let mut sealed = Vec::with_capacity(BLOCK_BYTES + READ_BYTES);
    loop {
        sealer.update(&plain, &mut sealed)?;
        while sealed.len() >= BLOCK_BYTES {
            let rest = sealed.split_off(BLOCK_BYTES);
            let full = std::mem::replace(&mut sealed, rest);
            sealed.reserve(BLOCK_BYTES);
            upload.send(full.into()).await?;
        }
        plain.clear();
        let read = body.fill(&mut plain, READ_BYTES).await?;
        if read == 0 {
            break;
        }
        plain_bytes += read as u64;
    }
    sealer.finish(&mut sealed)?;
    while !sealed.is_empty() {
        let rest = sealed.split_off(BLOCK_BYTES.min(sealed.len()));
        upload
            .send(std::mem::replace(&mut sealed, rest).into())
            .await?;
    }
    let receipts = upload.finish().await?;
    let sealed_bytes = upload
        .blocks
        .iter()
        .map(|block| u64::from(block.bytes))
        .sum();
    Ok(Uploaded {
        header,
        plain_bytes,
        sealed_bytes,
        blocks: upload.blocks,
        receipts,
    })
}

/// Brings a stream that is sealed and cut already to a majority, each block as `read` gives it.
pub(crate) async fn resend<E: From<Error>, F: Future<Output = Result<Bytes, E>>>(
    region: &Region,
    target: Target,
    blocks: &[v1::BlockRef],
    read: impl Fn(v1::BlockRef) -> F,
) -> Result<Vec<v1::Receipt>, E> {
    let mut upload = Upload::start(region, &target)?;
    for block in blocks {
        let bytes = read(block.clone()).await?;
        upload.send(bytes).await?;
    }
    Ok(upload.finish().await?)
}

struct Upload {
    replicas: BTreeMap<NodeId, mpsc::Sender<Arc<Block>>>,
    voters: usize,
    said: mpsc::Receiver<Said>,
    blocks: Vec<v1::BlockRef>,
    /// Block number -> replicas that have it; only those not yet on a majority.
    open: BTreeMap<u32, Vec<NodeId>>,
    window: usize,
    receipts: BTreeMap<NodeId, v1::Receipt>,
    last_failure: Why,
}

impl Upload {
    fn start(region: &Region, target: &Target) -> Result<Self, Error> {
        let (tell, said) = mpsc::channel(64);
        let mut replicas = BTreeMap::new();
        for &node in &target.replicas {
            let Some(member) = region.0.nodes.member(node) else {
                continue;
            };
            let channel = region.0.nodes.channel(&member, Lane::Data, 0)?;
            let (sender, blocks) = mpsc::channel(QUEUED_BLOCKS_MAX);
            let open = v1::OpenUpload {
                shard: target.shard.0,
                dataset_id: target.dataset.into(),
                version_id: target.version.into(),
                upload_epoch: target.upload_epoch.0,
                lease_id: target.lease.into(),
                part_of: target.part_of.map(Bytes::from).unwrap_or_default(),
            };
            let served = serve(
                node,
                BlocksClient::new(region.1.over(channel)),
                (open, target.stated.clone()),
                blocks,
                tell.clone(),
            );
            tokio::spawn(served.in_current_span());
            replicas.insert(node, sender);
        }
        Ok(Self {
            replicas,
            voters: target.replicas.len(),
            said,
            blocks: Vec::new(),
            open: BTreeMap::new(),
            window: region.0.tuning.upload_window_blocks.max(1),
            receipts: BTreeMap::new(),
            last_failure: Why {
                reason: NO_MAJORITY,
                message: "no replica is known".to_owned(),
            },
        })
    }

    fn majority(&self) -> usize {
        self.voters / 2 + 1
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        let number = u32::try_from(self.blocks.len())
            .map_err(|_| Error::Seal(envelope::SealError::TooLong))?;
        let digest = *blake3::hash(&bytes).as_bytes();
        let length = u32::try_from(bytes.len()).expect("a block is 8 MiB at most");
        self.blocks.push(v1::BlockRef {
            digest: Bytes::copy_from_slice(&digest),
            bytes: length,
        });
        let block = Arc::new(Block {
            number,
            digest,
            bytes,
        });
        self.open.insert(number, Vec::new());
        self.offer(&block).await?;
        drop(block);
        while self.open.len() >= self.window {
            self.hear(Instant::now() + STALL_MAX).await?;
        }
        Ok(())
    }

    /// Gives the block to every live replica; one that stays full while a majority does not is dropped.
    async fn offer(&mut self, block: &Arc<Block>) -> Result<(), Error> {
        let deadline = Instant::now() + SLOW_PATIENCE;
        let mut waiting: Vec<_> = self.replicas.keys().copied().collect();
        loop {
            waiting.retain(|node| match self.replicas.get(node) {
                Some(sender) => matches!(
                    sender.try_send(block.clone()),
                    Err(mpsc::error::TrySendError::Full(_))
                ),
                None => false,
            });
            if waiting.is_empty() {
                return self.check();
            }
            let needed = self.replicas.len() - waiting.len() < self.majority();
            let until = if needed {
                Instant::now() + STALL_MAX
            } else {
                deadline
            };
            if Instant::now() >= until || self.hear(until).await.is_err() {
                if needed {
                    return Err(self.stalled());
                }
                for node in waiting {
                    tracing::info!(node = node.0, "too slow, dropped from this upload");
                    self.replicas.remove(&node);
                }
                return self.check();
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.replicas.len() < self.majority() {
            Err(self.stalled())
        } else {
            Ok(())
        }
    }

    fn stalled(&self) -> Error {
        Error::Unavailable {
            reason: self.last_failure.reason.to_owned(),
            message: format!(
                "fewer than a majority of replicas take this upload: {}",
                self.last_failure.message
            ),
        }
    }

    /// Takes in one thing a replica said; an error if none comes by `until` or the majority is gone.
    async fn hear(&mut self, until: Instant) -> Result<(), Error> {
        let Ok(Some(said)) = tokio::time::timeout_at(until, self.said.recv()).await else {
            return Err(self.stalled());
        };
        match said {
            Said::Durable(node, number) => {
                let majority = self.majority();
                if let Some(held) = self.open.get_mut(&number) {
                    held.push(node);
                    if held.len() >= majority {
                        self.open.remove(&number);
                    }
                }
            }
            Said::Receipt(node, receipt) => {
                self.receipts.insert(node, receipt);
            }
            Said::Gone(node, why) => {
                self.replicas.remove(&node);
                self.last_failure = why;
                self.check()?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<Vec<v1::Receipt>, Error> {
        // Closing the queues asks each replica for its receipt.
        let asked = self.replicas.len();
        let open: Vec<_> = std::mem::take(&mut self.replicas).into_keys().collect();
        let mut left = open.len();
        let stall = Instant::now() + STALL_MAX;
        let mut until = stall;
        while self.receipts.len() < asked && left > 0 {
            match tokio::time::timeout_at(until, self.said.recv()).await {
                Ok(Some(Said::Receipt(node, receipt))) => {
                    self.receipts.insert(node, receipt);
                    left -= 1;
                }
                Ok(Some(Said::Gone(_, why))) => {
                    self.last_failure = why;
                    left -= 1;
                }
                Ok(Some(Said::Durable(..))) => {}
                Ok(None) | Err(_) => break,
            }
            if self.receipts.len() >= self.majority() {
                until = until.min(Instant::now() + RECEIPT_GRACE);
            }
        }
        if self.receipts.len() < self.majority() {
            return Err(self.stalled());
        }
        Ok(std::mem::take(&mut self.receipts).into_values().collect())
    }
}

/// One replica's stream, from the opening to the receipt.
async fn serve(
    node: NodeId,
    mut client: BlocksClient<ActingChannel>,
    (open, stated): (v1::OpenUpload, Stated),
    blocks: mpsc::Receiver<Arc<Block>>,
    tell: mpsc::Sender<Said>,
) {
    let (frames, outgoing) = mpsc::channel(QUEUED_FRAMES_MAX);
    let sending = tokio::spawn(send_frames(open, blocks, frames));
    let ended = async {
        let mut acks = client
            .write(stated.of(ReceiverStream::new(outgoing)))
            .await?
            .into_inner();
        while let Some(ack) = acks.message().await? {
            match ack.ack {
                Some(Ack::Durable(number)) => drop(tell.send(Said::Durable(node, number)).await),
                Some(Ack::Receipt(receipt)) => {
                    drop(tell.send(Said::Receipt(node, receipt)).await);
                    return Ok(true);
                }
                None => {}
            }
        }
        Ok::<_, tonic::Status>(false)
    }
    .await;
    sending.abort();
    let why = match ended {
        Ok(true) => return,
        Ok(false) => Why {
            reason: NO_MAJORITY,
            message: "the stream ended without a receipt".to_owned(),
        },
        Err(status) => Why {
            // What somebody has to do something about keeps its name.
            reason: match transport::fault::reason(&status) {
                Some(DISK_FULL) => DISK_FULL,
                _ => NO_MAJORITY,
            },
            message: status.message().to_owned(),
        },
    };
    drop(tell.send(Said::Gone(node, why)).await);
}

async fn send_frames(
    open: v1::OpenUpload,
    mut blocks: mpsc::Receiver<Arc<Block>>,
    frames: mpsc::Sender<v1::BlockFrame>,
) {
    let frame = |frame| v1::BlockFrame { frame: Some(frame) };
    if frames.send(frame(Frame::Open(open))).await.is_err() {
        return;
    }
    while let Some(block) = blocks.recv().await {
        let header = v1::BlockHeader {
            number: block.number,
            bytes: u32::try_from(block.bytes.len()).expect("a block is 8 MiB at most"),
            digest: Bytes::copy_from_slice(&block.digest),
        };
        if frames.send(frame(Frame::Header(header))).await.is_err() {
            return;
        }
        let mut rest = block.bytes.clone();
        while !rest.is_empty() {
            let part = rest.split_to(FRAME_BYTES.min(rest.len()));
            if frames.send(frame(Frame::Data(part))).await.is_err() {
                return;
            }
        }
    }
    drop(frames.send(frame(Frame::Close(v1::CloseUpload {}))).await);
}
