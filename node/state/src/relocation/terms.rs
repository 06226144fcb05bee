//! What a relocation was planned to be.
//!
//! Owns the values that no later step may change. Refuses nothing: the plan's dry run is the driver's.

use proto::ids::{DatasetEpoch, DatasetId, RegionId, RelocationId};

use super::departure::DepartureVersion;

/// One relocation, as planned and approved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Its id.
    pub relocation: RelocationId,
    /// What moves.
    pub dataset: DatasetId,
    /// From here.
    pub source: RegionId,
    /// To here.
    pub destination: RegionId,
    /// The dataset's epoch while it is planned: it moves out of this one and no other.
    pub epoch: DatasetEpoch,
    /// Version of the source's departures that the plan was made on.
    pub from_version: DepartureVersion,
}
