//! The end of a key whose destruction is due.
//!
//! Owns when that is: by region time, and by the witnesses' time where the region has witnesses. Refuses anybody but a
//! KMS replica, which adds nothing of its own: who approved stands in the leaf that scheduled it. What stands in
//! files of the replicas they erase; what stands in backups is not reached.

use proto::v1::{DestroyKek, KekRecord, KeyState, KmsDone};
use tlog::{Kind, Purpose};

use crate::append::Applying;
use crate::apply::Stop;
use crate::erase;
use crate::keys;
use crate::read;
use crate::refusal::Refusal;
use crate::witnesses::WitnessRule;

pub(crate) fn destroy(applying: &mut Applying<'_>, command: &DestroyKek) -> Result<KmsDone, Stop> {
    keys::of_replica(applying)?;
    let (dataset, mut key) = keys::moved_by(applying, &command.dataset_id, command.state_version)?;
    let due = key.destroy_after_ms;
    let pending = key.state() == KeyState::PendingDestruction;
    let witnessed = !asks_witnesses(applying)? || command.witnessed_at_ms >= due;
    if !pending || applying.now.0 < due || !witnessed {
        return Err(Refusal::WrongState.into());
    }
    purge(&mut key);
    erase::ended(applying, &mut key);
    key.destroy_after_ms = 0;
    key.set_state(KeyState::Destroyed);
    key.state_version += 1;
    let private = applying.private_of_requester();
    let service = Purpose::service();
    let leaf = keys::append(applying, Kind::KeyDestroyed, service, &mut key, private);
    Ok(keys::store(applying, &dataset, &key, &leaf))
}

/// Empties what held the key's bytes, wrapped.
pub(crate) fn purge(key: &mut KekRecord) {
    for version in &mut key.versions {
        version.wrapped_kek.clear();
        version.wrapped_metadata_key.clear();
    }
}

/// One replica's clock moves region time by up to a minute a command: what cannot be undone does not rest on it alone.
fn asks_witnesses(applying: &Applying<'_>) -> Result<bool, Refusal> {
    let Some(stored) = read::witness_policy(&*applying.state) else {
        return Ok(false);
    };
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    Ok(WitnessRule::parse(&stored, &region.region, &region.log_origin)?.witnessed())
}
