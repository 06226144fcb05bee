//! The gRPC service `Blocks`: sealed blocks in, receipts out; blocks out to who may read them; what is held.
//!
//! Owns the bounds on what peers can make this node hold, and the receipt. Refuses: peers that are neither gateway
//! nor client (to write) nor node (to read for repair), uploads under an epoch outside the shard's window or under
//! another holder's lease, blocks that are not what they were announced as, and to sign for anything that is not
//! durable. An upload that is cut off leaves blocks, which garbage collection takes by their epoch.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use proto::ids::{DatasetId, NodeId, Role};
use proto::v1;
use proto::v1::blocks_server::BlocksServer;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};
use transport::fault::status_of;
use transport::{LocalIdentity, Peer, PeerConnection, SharedClock};

use crate::blocks::BlockStore;
use crate::repair::Shards;

mod error;
mod open;
mod outgoing;
mod receipt;
mod session;
#[cfg(test)]
mod tests;

pub use error::{HeldError, ReadBlockError, UploadError};
pub use receipt::{RECEIPT_LABEL, list_digest};

use self::open::OpenUploads;

/// Bytes a frame of an upload may have.
pub const FRAME_BYTES_MAX: usize = 512 << 10;
/// Uploads at once, over all peers; more are refused as busy. Those that wait for room are not read meanwhile.
pub const UPLOADS_MAX: usize = 256;
const _: () = assert!(
    UPLOADS_MAX * transport::SERVER_STREAM_WINDOW as usize
        <= transport::SERVER_CONNECTION_WINDOW as usize,
    "uploads that wait would keep those from ending that they wait for"
);
/// Block reads at once, over all peers, those that wait for their turn included; more are refused as busy.
pub const READS_MAX: usize = 256;
/// Block reads whose turn it is. Each holds two pieces of 256 KiB, and what HTTP/2 has of it and has not sent.
pub const READING_MAX: usize = 64;
/// Blocks of one upload that are complete and not yet durable. With the one being received, an upload has at most
/// this many and one blocks of 8 MiB in memory.
pub const BLOCKS_IN_FLIGHT_MAX: usize = 3;
/// Acknowledgements waiting for a peer to take them.
pub const ACKS_WAITING_MAX: usize = 64;
/// Blocks one `Held` may ask for.
pub const HELD_BLOCKS_MAX: usize = 4096;
/// Epochs by which an upload may be ahead of this replica, which may not have applied the last advances.
pub const EPOCHS_AHEAD_MAX: u64 = 24;

/// How long peers may take.
#[derive(Debug, Clone, Copy)]
pub struct UploadTimeouts {
    /// From one frame to the next, and for an acknowledgement or a piece to be taken.
    pub frame: Duration,
    /// From a block's header to its last byte, so that a peer that drips does not hold room for hours.
    pub block: Duration,
}

impl Default for UploadTimeouts {
    fn default() -> Self {
        Self {
            frame: Duration::from_secs(30),
            block: Duration::from_secs(120),
        }
    }
}

/// A peer may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not granted for this dataset")]
pub struct NotGranted;

/// What the region's grants say, asked at every request. Default deny is the implementor's.
pub trait Authority: Send + Sync + 'static {
    /// Whether a gateway or client may read blocks of a dataset.
    fn may_read_blocks(&self, peer: &Peer, dataset: DatasetId) -> Result<(), NotGranted>;

    /// Whether a gateway or client may upload blocks for a dataset.
    fn may_write_blocks(&self, peer: &Peer, dataset: DatasetId) -> Result<(), NotGranted>;

    /// Called before the two above: what they go by may have become newer for this peer a moment ago.
    fn learn<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// How full the disk is in percent, when that is too full for uploads: what could not be finished is not taken.
    fn disk_full(&self) -> Option<u64> {
        None
    }
}

/// The service, and everything its requests share.
pub struct BlocksService {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) node: NodeId,
    pub(crate) local: LocalIdentity,
    pub(crate) store: BlockStore,
    pub(crate) shards: Arc<dyn Shards>,
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) clock: SharedClock,
    pub(crate) timeouts: UploadTimeouts,
    pub(crate) open: OpenUploads,
    uploads: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

/// What a [`BlocksService`] is made of.
pub struct BlocksParts {
    /// This node's id, as receipts state it.
    pub node: NodeId,
    /// This node's identity: signs receipts.
    pub local: LocalIdentity,
    /// The blocks.
    pub store: BlockStore,
    /// The shards of this node.
    pub shards: Arc<dyn Shards>,
    /// The region's grants.
    pub authority: Arc<dyn Authority>,
    /// This node's clock.
    pub clock: SharedClock,
    /// How long peers may take.
    pub timeouts: UploadTimeouts,
}

impl BlocksService {
    /// Puts the service together.
    pub fn new(parts: BlocksParts) -> Self {
        let BlocksParts {
            node,
            local,
            store,
            shards,
            authority,
            clock,
            timeouts,
        } = parts;
        let inner = Inner {
            node,
            local,
            store,
            shards,
            authority,
            clock,
            timeouts,
            open: OpenUploads::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            reading: Arc::new(Semaphore::new(READING_MAX)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Reads by the same bounds, for a service that has looked at who asks.
    pub(crate) fn reads(&self) -> BlockReads {
        BlockReads(Arc::clone(&self.inner))
    }

    /// As a tonic service, with message sizes bounded.
    pub fn into_server(self) -> BlocksServer<Self> {
        // A frame and its tags; or a `Held` of the largest size, 60 bytes a block.
        BlocksServer::new(self).max_decoding_message_size(FRAME_BYTES_MAX + 1024)
    }
}

/// Reads of blocks whose readers others have looked at.
#[derive(Clone)]
pub(crate) struct BlockReads(Arc<Inner>);

impl BlockReads {
    /// A block of the dataset that is named, in pieces.
    pub(crate) async fn read(
        &self,
        request: v1::ReadBlockRequest,
    ) -> Result<BoxStream<'static, Result<v1::BlockData, Status>>, Status> {
        let permit = Arc::clone(&self.0.reads)
            .try_acquire_owned()
            .map_err(|_| status_of(&ReadBlockError::TooMany))?;
        let turn = Arc::clone(&self.0.reading).acquire_owned().await;
        let turn = turn.map_err(|_| status_of(&ReadBlockError::Stopping))?;
        let read = outgoing::open(&self.0, request).await;
        let (reader, first) = read.map_err(|error| status_of(&error))?;
        let permits = [permit, turn];
        Ok(outgoing::stream(
            Arc::clone(&self.0),
            reader,
            first,
            permits,
        ))
    }
}

#[tonic::async_trait]
impl v1::blocks_server::Blocks for BlocksService {
    type WriteStream = BoxStream<'static, Result<v1::BlockAck, Status>>;
    type ReadStream = BoxStream<'static, Result<v1::BlockData, Status>>;

    async fn write(
        &self,
        request: Request<Streaming<v1::BlockFrame>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let peer = transport::peer(&request)?;
        transport::require_role(&peer, &[Role::Gateway, Role::Client])?;
        let permit = Arc::clone(&self.inner.uploads)
            .try_acquire_owned()
            .map_err(|_| status_of(&UploadError::TooMany))?;
        let connection = request.extensions().get::<PeerConnection>().cloned();
        let frames = request.into_inner();
        let session = session::Session::new(Arc::clone(&self.inner), connection, permit);
        Ok(Response::new(session.answer(frames)))
    }

    async fn read(
        &self,
        request: Request<v1::ReadBlockRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let peer = transport::peer(&request)?;
        transport::require_role(&peer, &[Role::Node, Role::Gateway, Role::Client])?;
        self.inner.authority.learn(&peer).await;
        let request = request.into_inner();
        outgoing::may_read(&self.inner, &peer, &request).map_err(|error| status_of(&error))?;
        self.reads().read(request).await.map(Response::new)
    }

    async fn held(
        &self,
        request: Request<v1::HeldRequest>,
    ) -> Result<Response<v1::HeldReply>, Status> {
        let peer = transport::peer(&request)?;
        transport::require_role(&peer, &[Role::Node, Role::Gateway, Role::Client])?;
        let held = outgoing::held(&self.inner, &request.into_inner());
        let held = held.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::HeldReply { held }))
    }
}
