//! Blocks to who may read them, and which blocks are held.
//!
//! Owns the check of each reader: nodes of the region, for repair, and gateways and clients with a grant for the
//! dataset. Refuses a block of another dataset than the one named: a grant for one must not open another.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use proto::ids::{DatasetId, IdError, ObjectVersionId, Role};
use proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;
use transport::Peer;
use transport::fault::status_of;

use super::error::{HeldError, ReadBlockError};
use super::{HELD_BLOCKS_MAX, Inner};
use crate::blocks::{BlockDigest, BlockKey, BlockNumber, BlockReader, ReadError};

/// Refuses who may not read blocks of the dataset that is named.
pub(super) fn may_read(
    inner: &Inner,
    peer: &Peer,
    request: &v1::ReadBlockRequest,
) -> Result<(), ReadBlockError> {
    let dataset = DatasetId::try_from(request.dataset_id.as_ref())?;
    if peer.identity.role() != Role::Node {
        inner.authority.may_read_blocks(peer, dataset)?;
    }
    Ok(())
}

/// Opens a block and reads its first piece, so that what is not held or damaged at once is an error of the call.
pub(super) async fn open(
    inner: &Arc<Inner>,
    request: v1::ReadBlockRequest,
) -> Result<(BlockReader, Option<Bytes>), ReadBlockError> {
    let dataset = DatasetId::try_from(request.dataset_id.as_ref())?;
    let version = ObjectVersionId::try_from(request.version_id.as_ref())?;
    let key = BlockKey {
        version,
        number: BlockNumber(request.number),
    };
    let end = match request.length {
        0 => 0,
        // Past 4 GiB is past every block.
        length => request.offset.saturating_add(length),
    };
    let store = inner.store.clone();
    blocking(move || {
        let mut reader = store.read(key, request.offset..end)?;
        if reader.head().owner.dataset != dataset {
            return Err(ReadError::NotHeld.into());
        }
        let first = reader.piece()?;
        Ok((reader, first))
    })
    .await?
}

/// The pieces of a block, one read ahead of the peer. A peer that takes none in time gives its turn up: others wait for it.
pub(super) fn stream(
    inner: Arc<Inner>,
    reader: BlockReader,
    first: Option<Bytes>,
    permits: [OwnedSemaphorePermit; 2],
) -> BoxStream<'static, Result<v1::BlockData, Status>> {
    let (pieces, taken) = mpsc::channel(1);
    let reading = tokio::spawn(async move {
        let _permits = permits;
        send(&inner, reader, first, &pieces).await
    });
    stream::unfold((taken, Some(reading)), |(mut taken, reading)| async move {
        if let Some(data) = taken.recv().await {
            return Some((Ok(v1::BlockData { data }), (taken, reading)));
        }
        // A reader that was told less than the block must not take it for the end.
        let error = match reading?.await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(_) => ReadBlockError::Stopping,
        };
        Some((Err(status_of(&error)), (taken, None)))
    })
    .boxed()
}

async fn send(
    inner: &Inner,
    mut reader: BlockReader,
    first: Option<Bytes>,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<(), ReadBlockError> {
    let timeout = inner.timeouts.frame;
    let mut piece = first;
    while let Some(data) = piece {
        let slot = tokio::time::timeout(timeout, pieces.reserve()).await;
        let slot = slot.map_err(|_| ReadBlockError::Stalled {
            after_s: timeout.as_secs(),
        })?;
        let Ok(slot) = slot else {
            // The peer has gone.
            return Ok(());
        };
        slot.send(data);
        let read = blocking(move || {
            let next = reader.piece();
            (reader, next)
        });
        let next;
        (reader, next) = read.await?;
        piece = next?;
    }
    Ok(())
}

/// Which of the blocks are held, durably and as far as known whole.
pub(super) fn held(inner: &Inner, request: &v1::HeldRequest) -> Result<Vec<bool>, HeldError> {
    if request.blocks.len() > HELD_BLOCKS_MAX {
        return Err(HeldError::TooMany {
            max: HELD_BLOCKS_MAX,
        });
    }
    let one = |block: &v1::BlockKey| {
        let version = ObjectVersionId::try_from(block.version_id.as_ref())?;
        let digest = BlockDigest::try_from(block.digest.as_ref()).map_err(|_| IdError {
            what: "digest",
            why: "not 32 bytes",
        })?;
        let key = BlockKey {
            version,
            number: BlockNumber(block.number),
        };
        Ok(inner.store.holds(&key, &digest))
    };
    request.blocks.iter().map(one).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadBlockError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ReadBlockError::Stopping)
}
