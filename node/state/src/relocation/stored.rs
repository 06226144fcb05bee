//! The values of a relocation as they stand in commands and records.
//!
//! Owns their two directions. Refuses what is no id or digest: `None` is malformed where it comes from a command, and
//! where it comes from the state the replica stops.

use proto::ids::{DatasetEpoch, LeafIndex, LogIndex, RelocationId};
use proto::relocation::{CatalogRoot, Moved, Released};
use proto::v1;

/// The record that moves a dataset.
pub(crate) fn moved(record: &v1::MovedRecord) -> Option<Moved> {
    Some(Moved {
        relocation: RelocationId::try_from(record.relocation_id.as_ref()).ok()?,
        epoch: DatasetEpoch(record.epoch),
        fence: LogIndex(record.fence),
        root: CatalogRoot(record.root.as_ref().try_into().ok()?),
    })
}

/// The record that moves a dataset, as it is stored and sent.
pub fn moved_record(moved: &Moved) -> v1::MovedRecord {
    v1::MovedRecord {
        relocation_id: moved.relocation.into(),
        epoch: moved.epoch.0,
        fence: moved.fence.0,
        root: bytes::Bytes::copy_from_slice(&moved.root.0),
    }
}

/// What a source's KMS released.
pub(crate) fn released(record: &v1::ReleasedRecord) -> Released {
    Released {
        objects: record.objects,
        through: record.leaves.checked_sub(1).map(LeafIndex),
    }
}

/// As it is stored and sent.
pub(crate) fn released_record(released: &Released) -> v1::ReleasedRecord {
    v1::ReleasedRecord {
        objects: released.objects,
        leaves: released.through.map_or(0, |leaf| leaf.0.saturating_add(1)),
    }
}
