//! A departure: a relocation out of a dataset's shard, and the requests that belong to it.
//!
//! Owns what makes a request that arrives late recognisable as late. Refuses to decide: [`Authority`] does.
//!
//! [`Authority`]: super::Authority

use proto::ids::{DatasetEpoch, LogIndex, RegionId, RelocationId};

/// Counts the departures a dataset has begun. A request to begin or end one names the version it was decided on, so that
/// one that arrives late finds the count moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DepartureVersion(pub u64);

/// Counts the fences of one departure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FenceCount(pub u32);

/// A relocation out of here that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Departure {
    /// Which one.
    pub relocation: RelocationId,
    /// Whereto.
    pub destination: RegionId,
    /// Fences so far.
    pub fences: FenceCount,
    /// What the destination has durably taken of the change index: tombstones up to here are not needed by it.
    pub taken: LogIndex,
}

/// A request to stop changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// For which relocation.
    pub relocation: RelocationId,
    /// In which epoch.
    pub epoch: DatasetEpoch,
    /// How many fences there were before: one that arrives late does not fence again.
    pub from: FenceCount,
}

/// Why a step of a departure did not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum AuthorityRefused {
    /// Another relocation, or none, is under way.
    #[error("relocation {0} is not under way")]
    NotUnderWay(RelocationId),
    /// Decided on a version that has moved on.
    #[error("departures are at version {}", .0.0)]
    VersionMoved(DepartureVersion),
    /// Of another dataset epoch.
    #[error("the dataset is in epoch {0}")]
    EpochMoved(DatasetEpoch),
    /// The fence it is of is not the one that stands.
    #[error("the fence at log index {0} does not stand")]
    FenceOver(LogIndex),
    /// The dataset is another region's.
    #[error("the dataset has moved")]
    Moved,
    /// Restored, and nobody has confirmed that the dataset is still here.
    #[error("the dataset was restored and is not confirmed")]
    Unconfirmed,
}
