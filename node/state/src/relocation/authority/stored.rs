//! A dataset's authority as it stands in its record.
//!
//! Owns both directions. A dataset that no relocation ever left has no record of it: its authority is that of its epoch.

use proto::ids::{DatasetEpoch, LogIndex, RelocationId};
use proto::v1;

use super::{Authority, Standing};
use crate::relocation::departure::{Departure, DepartureVersion, FenceCount};
use crate::relocation::{moved, moved_record};

const OURS: &str = "records are written by this crate alone";

impl Authority {
    /// As a dataset's record has it.
    pub fn stored(dataset: &v1::DatasetRecord) -> Self {
        let founded = Self::founded(DatasetEpoch(dataset.epoch));
        let Some(record) = &dataset.authority else {
            let standing = match dataset.status() {
                v1::DatasetStatus::Fenced => Standing::Fenced { at: LogIndex(0) },
                _ => Standing::Active,
            };
            return Self {
                standing,
                ..founded
            };
        };
        let moved = || record.moved.as_ref().and_then(moved).expect(OURS);
        let standing = match record.standing() {
            v1::Standing::Active => Standing::Active,
            v1::Standing::Fenced => Standing::Fenced {
                at: LogIndex(record.fence),
            },
            v1::Standing::Moved => Standing::Moved(moved()),
            v1::Standing::Diverged => Standing::Diverged(moved()),
            v1::Standing::Unconfirmed => Standing::Unconfirmed,
        };
        Self {
            version: DepartureVersion(record.version),
            standing,
            departure: record.departure.as_ref().map(departure),
            ..founded
        }
    }

    /// As it stands in the record, beside the epoch and the status that follow from it.
    pub(crate) fn record(&self) -> v1::AuthorityRecord {
        let (standing, fence, moved) = match self.standing {
            Standing::Active => (v1::Standing::Active, 0, None),
            Standing::Fenced { at } => (v1::Standing::Fenced, at.0, None),
            Standing::Moved(moved) => (v1::Standing::Moved, 0, Some(moved)),
            Standing::Diverged(moved) => (v1::Standing::Diverged, 0, Some(moved)),
            Standing::Unconfirmed => (v1::Standing::Unconfirmed, 0, None),
        };
        v1::AuthorityRecord {
            version: self.version.0,
            standing: standing.into(),
            fence,
            moved: moved.as_ref().map(moved_record),
            departure: self.departure.as_ref().map(|departure| v1::Departure {
                relocation_id: departure.relocation.into(),
                destination: departure.destination.as_str().to_owned(),
                fences: departure.fences.0,
                taken: departure.taken.0,
            }),
        }
    }
}

fn departure(record: &v1::Departure) -> Departure {
    Departure {
        relocation: RelocationId::try_from(record.relocation_id.as_ref()).expect(OURS),
        destination: record.destination.parse().expect(OURS),
        fences: FenceCount(record.fences),
        taken: LogIndex(record.taken),
    }
}
