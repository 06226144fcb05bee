//! The KMSs of both regions, as far as the relocation goes.
//!
//! Owns the leaves of releases. Refuses to release, pause or destroy but as decided by what ships.

use std::collections::BTreeSet;

use kms_state::relocation::{GrantStage, HandOverGrant, HandOverKey};
use proto::ids::{LeafIndex, LogIndex};
use proto::relocation::Released;

/// The source's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct SourceKms {
    pub(crate) grant: Option<HandOverGrant>,
    /// Object versions on record as handed over, by log index in the source.
    pub(crate) released: BTreeSet<LogIndex>,
    /// The last leaf of such a record.
    pub(crate) last: Option<LeafIndex>,
    /// Whether the dataset's keys are destroyed.
    pub(crate) shredded: bool,
    /// Whether a release was made when it should not have been; by what the world was then.
    pub(crate) released_late: bool,
}

/// The destination's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct DestinationKms {
    pub(crate) hand_over: Option<HandOverKey>,
}

impl SourceKms {
    /// What the log shows as released.
    pub(crate) fn on_record(&self) -> Released {
        Released {
            objects: self.released.len() as u64,
            through: self.last,
        }
    }

    /// Records the release of object versions; those on record already have their leaf.
    pub(crate) fn release(&self, versions: &[LogIndex]) -> Option<Self> {
        let grant = self.grant?;
        let new: Vec<_> = versions
            .iter()
            .filter(|version| !self.released.contains(version))
            .copied()
            .collect();
        if new.is_empty() {
            return (grant.stage() == GrantStage::Open).then(|| self.clone());
        }
        let leaf = LeafIndex(self.last.map_or(0, |last| last.0 + 1));
        let grant = grant.release(new.len() as u64, leaf).ok()?;
        let mut after = self.clone();
        after.grant = Some(grant);
        after.released.extend(new);
        after.last = Some(leaf);
        Some(after)
    }
}
