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
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use transport::Peer;
use transport::fault::status_of;

use super::error::{HeldError, ReadBlockError};
use super::{HELD_BLOCKS_MAX, Inner};
use crate::blocks::{BlockDigest, BlockKey, BlockNumber, BlockReader, ReadError};

/// Opens a block and reads its first piece, so that what is not held or damaged at once is an error of the call.
pub(super) async fn open(
    inner: &Arc<Inner>,
    peer: &Peer,
    request: v1::ReadBlockRequest,
) -> Result<(BlockReader, Option<Bytes>), ReadBlockError> {
    let dataset = DatasetId::try_from(request.dataset_id.as_ref())?;
    let version = ObjectVersionId::try_from(request.version_id.as_ref())?;
    if peer.identity.role() != Role::Node {
        inner.authority.may_read_blocks(peer, dataset)?;
    }
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

/// The pieces of a block, one read ahead of the peer.
pub(super) fn stream(
    inner: Arc<Inner>,
    reader: BlockReader,
    first: Option<Bytes>,
    permit: OwnedSemaphorePermit,
) -> BoxStream<'static, Result<v1::BlockData, Status>> {
    let state = Some((reader, first, permit, inner));
    stream::unfold(state, |state| async move {
        let (mut reader, piece, permit, inner) = state?;
        let data = piece?;
        let next = blocking(move || {
            let next = reader.piece();
            (reader, next)
        });
        let item = Ok(v1::BlockData { data });
        match next.await {
            Ok((reader, Ok(next))) => Some((item, Some((reader, next, permit, inner)))),
            // What has been read is whole; the error follows the piece by ending the stream in its place, because
            // a reader that was told less than the block must not take it for the end.
            Ok((_, Err(error))) => Some((Err(status_of(&ReadBlockError::Read(error))), None)),
            Err(error) => Some((Err(status_of(&error)), None)),
        }
    })
    .boxed()
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
