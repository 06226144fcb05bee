//! What must hold of restores from a backup.
//!
//! Owns the walk between a restore's row and its dataset. Refuses a restored dataset that takes changes before it was
//! confirmed, and one whose rows are counted otherwise than they came.

use proto::ids::DatasetId;
use proto::store::Reader;
use proto::v1;

use super::{Violation, dataset_of, heads, rows};
use crate::keys::table;
use crate::read;
use crate::record;
use crate::relocation::{Authority, Standing};

/// Whether rows of a backup are being taken for the dataset.
pub(super) fn is_filling(state: &(impl Reader + ?Sized), id: &DatasetId) -> bool {
    read::restore(state, id).is_some_and(|held| held.phase() == v1::RestorePhase::Filling)
}

/// While it is filled the dataset is arriving and has as many versions, markers and parts as were taken; from its end until
/// two people confirm it, it stands unconfirmed; and nothing else does.
pub fn invariant_restores_stand(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    for (key, value) in rows(state, table::RESTORE) {
        let (id, held): (_, v1::RestoreRecord) = (dataset_of(&key), record::decode(&value));
        let dataset = read::dataset(state, &id).unwrap_or_default();
        let standing = Authority::stored(&dataset).standing();
        let agrees = match held.phase() {
            v1::RestorePhase::Filling => {
                dataset.status() == v1::DatasetStatus::Arriving && taken(state, &id) == held.taken
            }
            v1::RestorePhase::Standing => {
                dataset.status() == v1::DatasetStatus::Fenced && standing == Standing::Unconfirmed
            }
            v1::RestorePhase::Confirmed | v1::RestorePhase::Abandoned => true,
        };
        ensure!(
            agrees && held.taken <= held.items,
            "restores_stand",
            "dataset {id} is {:?}, its restore {:?}",
            dataset.status(),
            held.phase()
        );
    }
    for (key, value) in rows(state, table::DATASET) {
        let (id, held): (_, v1::DatasetRecord) = (dataset_of(&key), record::decode(&value));
        let phase = read::restore(state, &id).map(|held| held.phase());
        let unconfirmed = held.status() == v1::DatasetStatus::Fenced
            && Authority::stored(&held).standing() == Standing::Unconfirmed;
        ensure!(
            !unconfirmed || phase == Some(v1::RestorePhase::Standing),
            "restores_stand",
            "dataset {id} stands unconfirmed by no restore"
        );
    }
    Ok(())
}

fn taken(state: &(impl Reader + ?Sized), id: &DatasetId) -> u64 {
    let of = heads(state).into_iter().filter(|(_, of, _)| of == id);
    of.map(|(_, _, head)| 1 + u64::from(head.parts)).sum()
}
