//! How far back a dataset's change index reaches.
//!
//! Owns which tombstones are kept: all that a departure has not taken, within a bound. Refuses to let a reader go on
//! from before the oldest one dropped: it would never learn of that removal, and has to compare listings instead.

use proto::danger::{Switch, broken};
use proto::ids::LogIndex;

use super::departure::Departure;

/// What a dataset's shard knows of its tombstones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tombstones {
    /// How many are kept.
    pub kept: u64,
    /// Log index of the newest one that was dropped.
    pub dropped_through: LogIndex,
}

/// Removals after the cursor are forgotten: list what there is, and go on from the index of that listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("tombstones up to log index {dropped_through} were dropped")]
pub struct Overrun {
    /// Log index of the newest tombstone that was dropped.
    pub dropped_through: LogIndex,
}

impl Tombstones {
    /// One more is kept.
    pub fn added(self) -> Self {
        Self {
            kept: self.kept + 1,
            ..self
        }
    }

    /// Whether the oldest one, of log index `oldest`, goes: nobody needs it, or there are more than `bound`. State that
    /// grows with what a slow reader has not read would let a relocation fill the shard.
    pub fn drops(&self, oldest: LogIndex, reader: Option<&Departure>, bound: u64) -> bool {
        let needed = reader.is_some_and(|departure| departure.taken < oldest);
        self.kept > 0 && (self.kept > bound || !needed)
    }

    /// The oldest one, of log index `oldest`, is gone.
    pub fn dropped(self, oldest: LogIndex) -> Self {
        Self {
            kept: self.kept.saturating_sub(1),
            dropped_through: self.dropped_through.max(oldest),
        }
    }

    /// Whether what the index holds after `after` is all that changed since.
    pub fn readable(&self, after: LogIndex) -> Result<(), Overrun> {
        if after < self.dropped_through && !broken(Switch::TombstoneForgotten) {
            let dropped_through = self.dropped_through;
            return Err(Overrun { dropped_through });
        }
        Ok(())
    }
}
