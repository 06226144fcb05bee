//! What holds of approved restores in every state.

use prost::Message as _;
use proto::store::Reader;
use proto::v1::{ApprovedRestore, RestoreWhat};
use tlog::{Kind, Leaf};

use super::{Broken, Checked, hold, table};
use crate::layout;
use crate::restores::RESTORE_DATASETS_MAX;

/// Approvers besides who asked, whatever a region asks for more.
const APPROVERS_MIN: usize = 2;

/// Each names the leaf of its first dataset, and two people besides who asked.
pub fn invariant_restores_are_on_record(state: &dyn Reader) -> Checked {
    const NAME: &str = "approved restores are on record";
    for (row, value) in table(state, &[layout::APPROVED_RESTORES]) {
        let broken = |what: String| Broken {
            invariant: NAME,
            what,
        };
        let record = ApprovedRestore::decode(&value[..]).map_err(|e| broken(e.to_string()))?;
        let terms = record.terms.clone().unwrap_or_default();
        let leaf = state
            .value(&layout::leaf(record.leaf_index))
            .unwrap_or_default();
        let leaf = Leaf::parse(&leaf).map_err(|error| broken(error.to_string()))?;
        let kind = match terms.what() {
            RestoreWhat::Restore => Some(Kind::RestoreApproved),
            RestoreWhat::Confirm => Some(Kind::RestoreConfirmed),
            RestoreWhat::Unspecified => None,
        };
        hold(row.len() == 17 && kind == Some(leaf.kind()), NAME, || {
            format!("leaf {} is of something else", record.leaf_index)
        })?;
        let approvers = &record.approvers;
        let people = approvers.len() >= APPROVERS_MIN
            && approvers.is_sorted_by(|a, b| a < b)
            && !approvers.contains(&record.requester);
        let some = (1..=RESTORE_DATASETS_MAX).contains(&terms.datasets.len());
        hold(people && some, NAME, || {
            format!("leaf {}: approvers or datasets", record.leaf_index)
        })?;
    }
    Ok(())
}
