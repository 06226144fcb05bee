//! The values of a relocation as they stand in the KMS's commands and records.
//!
//! Owns their two directions. Refuses what is no id or digest: `None` is malformed where it comes from a command, and
//! where it comes from the state the replica stops.

use proto::ids::{DatasetEpoch, HandOverKeyId, LeafIndex, LogIndex, RelocationId};
use proto::relocation::{CatalogRoot, Moved, Released};
use proto::v1::{
    HandOverGrantRecord, HandOverKeyRecord, HandOverStage, MovedRecord, ReleasedRecord,
};

use super::{GrantStage, HandOverGrant, HandOverKey};

const OURS: &str = "state holds what this machine wrote";

impl HandOverGrant {
    /// As its record has it.
    pub(crate) fn of(record: &HandOverGrantRecord) -> Self {
        let stage = match record.stage() {
            HandOverStage::Open => GrantStage::Open,
            HandOverStage::Paused => GrantStage::Paused(LogIndex(record.fence)),
            HandOverStage::Closed => GrantStage::Closed,
            HandOverStage::Unspecified => panic!("{OURS}"),
        };
        let terms = record.terms.as_ref();
        let hand_over = terms.map(|terms| key_id(&terms.hand_over_key_id));
        let released = record.released.as_ref();
        Self {
            relocation: relocation(&record.relocation_id),
            hand_over,
            stage,
            reverted: LogIndex(record.reverted),
            released: released.map(released_of).unwrap_or_default(),
        }
    }

    /// Puts it into its record, beside what apply keeps with it.
    pub(crate) fn put_into(&self, record: &mut HandOverGrantRecord) {
        let (stage, fence) = match self.stage {
            GrantStage::Open => (HandOverStage::Open, 0),
            GrantStage::Paused(fence) => (HandOverStage::Paused, fence.0),
            GrantStage::Closed => (HandOverStage::Closed, 0),
        };
        record.set_stage(stage);
        record.fence = fence;
        record.reverted = self.reverted.0;
        let released = released_record(&self.released);
        record.released = Some(released).filter(|released| *released != ReleasedRecord::default());
    }
}

impl HandOverKey {
    /// As its record has it.
    pub(crate) fn of(record: &HandOverKeyRecord) -> Self {
        Self {
            relocation: relocation(&record.relocation_id),
            id: key_id(&record.hand_over_key_id),
            destroyed: record.destroyed,
        }
    }
}

fn relocation(bytes: &[u8]) -> RelocationId {
    RelocationId::try_from(bytes).expect(OURS)
}

fn key_id(bytes: &[u8]) -> HandOverKeyId {
    HandOverKeyId::try_from(bytes).expect(OURS)
}

fn released_of(record: &ReleasedRecord) -> Released {
    Released {
        objects: record.objects,
        through: record.leaves.checked_sub(1).map(LeafIndex),
    }
}

/// As it is stored and sent.
pub(crate) fn released_record(released: &Released) -> ReleasedRecord {
    ReleasedRecord {
        objects: released.objects,
        leaves: released.through.map_or(0, |leaf| leaf.0.saturating_add(1)),
    }
}

/// The record that moves a dataset.
pub(crate) fn moved(record: &MovedRecord) -> Option<Moved> {
    Some(Moved {
        relocation: RelocationId::try_from(record.relocation_id.as_ref()).ok()?,
        epoch: DatasetEpoch(record.epoch),
        fence: LogIndex(record.fence),
        root: CatalogRoot(record.root.as_ref().try_into().ok()?),
    })
}
