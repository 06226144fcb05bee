//! Memory of bodies on their way: each transfer holds as much of a budget as its windows may fill.
//!
//! Refuses, after a short wait, what the budget has no room for: the client is slowed down and comes again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::chunked::SIGNED_CHUNK_BYTES_MAX;
use crate::error::ApiError;

/// How long a transfer waits for room.
const PATIENCE: Duration = Duration::from_secs(2);
const KIB: u64 = 1_024;
/// What one upload fills at most: three blocks in its window, one being sealed, one being cut, and a chunk whose
/// signature is being checked.
pub(crate) const UPLOAD_BYTES_MAX: u64 = 5 * 8 * KIB * KIB + SIGNED_CHUNK_BYTES_MAX;
/// What one download fills at most: two blocks read ahead, one sealed, one opened.
pub(crate) const DOWNLOAD_BYTES_MAX: u64 = 4 * 8 * KIB * KIB;
/// What the smallest transfer counts for.
const TRANSFER_BYTES_MIN: u64 = 64 * KIB;

/// The budget.
pub(crate) struct Transfers(Arc<Semaphore>);

/// A part of the budget, given back when it is dropped.
pub(crate) struct Room(#[allow(dead_code, reason = "held, not read")] Vec<OwnedSemaphorePermit>);

impl Room {
    /// Both at once.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl Transfers {
    /// A budget of so many bytes; at least one upload's.
    pub(crate) fn new(bytes: u64) -> Self {
        let kib = usize::try_from(bytes.max(UPLOAD_BYTES_MAX) / KIB).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for an upload of that length.
    pub(crate) async fn upload(&self, length: u64) -> Result<Room, ApiError> {
        self.room(length.saturating_mul(2), UPLOAD_BYTES_MAX).await
    }

    /// Room for a download of that length.
    pub(crate) async fn download(&self, length: u64) -> Result<Room, ApiError> {
        self.room(length.saturating_mul(2), DOWNLOAD_BYTES_MAX)
            .await
    }

    async fn room(&self, bytes: u64, most: u64) -> Result<Room, ApiError> {
        let kib = bytes.clamp(TRANSFER_BYTES_MIN, most).div_ceil(KIB);
        let kib = u32::try_from(kib).expect("a transfer's windows are megabytes");
        let permit = tokio::time::timeout(PATIENCE, self.0.clone().acquire_many_owned(kib)).await;
        match permit {
            Ok(Ok(permit)) => Ok(Room(vec![permit])),
            Ok(Err(_)) | Err(_) => Err(ApiError::SlowDown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_no_room_is_slowed_down_and_comes_in_later() {
        let transfers = Transfers::new(2 * UPLOAD_BYTES_MAX);
        let first = transfers.upload(u64::MAX).await.expect("room");
        let second = transfers.upload(u64::MAX).await.expect("room");
        let refused = transfers.upload(1).await.err().expect("no room");
        assert_eq!(refused.code(), "SlowDown");
        drop(first);
        let third = transfers.upload(1).await.expect("room again");
        drop(second.and(third));
        let _all = transfers.upload(u64::MAX).await.expect("all of it is back");
    }
}
