//! Datasets of the shard: admitted, configured, dropped.
//!
//! Owns the dataset's record. Refuses to bring a dropped one back: its id may stand in tokens and logs for ever.

use proto::ids::{DatasetId, DatasetName, KekId};
use proto::v1;

use super::config::CONFIG_LEVEL;
use super::refusal::{Answer, malformed, of, refuse};
use super::relocation::not_admitted;
use super::{Apply, Dataset, hold};
use crate::keys::{self, table};
use crate::relocation::{Authority, Change, NotAdmitted, Standing};

const FORMAT: u32 = 1;
const PSEUDONYM_BYTES: usize = 16;

impl Apply<'_> {
    /// Repeated with the same record it is done again, so that the catalog can go on after a crash.
    pub(super) fn create_dataset(&mut self, create: &v1::CreateDataset) -> Answer {
        let Some(asked) = &create.dataset else {
            return malformed();
        };
        let (id, _) = well_formed(asked)?;
        if let Some(held) = self.dataset(&id) {
            return match held.status() {
                v1::DatasetStatus::Tombstoned => refuse(v1::Refusal::DatasetGone),
                v1::DatasetStatus::Moved | v1::DatasetStatus::Arriving => {
                    refuse(v1::Refusal::DatasetExists)
                }
                _ if held.name == asked.name && held.kek_id == asked.kek_id => Ok(self.done()),
                _ => refuse(v1::Refusal::DatasetExists),
            };
        }
        let record = self.founded(asked);
        self.meta.datasets += 1;
        self.save(&Dataset { id, record });
        Ok(self.done())
    }

    /// As it is asked for, and empty: what it holds is not for who makes it to say.
    pub(super) fn founded(&self, asked: &v1::DatasetRecord) -> v1::DatasetRecord {
        v1::DatasetRecord {
            created_at_ms: self.meta.time.0,
            objects: 0,
            versions: 0,
            sealed_bytes: 0,
            tombstones: 0,
            tombstones_from: 0,
            hold: None,
            uploads: 0,
            lock: None,
            compliance_until_ms: 0,
            legal_holds: 0,
            suspended: false,
            quota: None,
            authority: None,
            settings_index: 0,
            request_offset: 0,
            never_served: false,
            ..asked.clone()
        }
    }

    /// From here on the dataset refuses everything; what it holds is removed a few records at a time.
    pub(super) fn tombstone_dataset(&mut self, tombstone: &v1::TombstoneDataset) -> Answer {
        let Ok(id) = DatasetId::try_from(tombstone.dataset_id.as_ref()) else {
            return malformed();
        };
        let Some(record) = self.dataset(&id) else {
            return refuse(v1::Refusal::NoSuchDataset);
        };
        match record.status() {
            v1::DatasetStatus::Tombstoned => return Ok(self.done()),
            v1::DatasetStatus::Fenced if is_unconfirmed(&record) => {
                return refuse(v1::Refusal::DatasetUnconfirmed);
            }
            v1::DatasetStatus::Fenced => return refuse(v1::Refusal::DatasetFenced),
            v1::DatasetStatus::Arriving => return refuse(v1::Refusal::DatasetArriving),
            v1::DatasetStatus::Moved => return Err(not_admitted(NotAdmitted::Moved, &record)),
            _ => {}
        }
        // Nobody would tell the destination, which may be about to serve it.
        if Authority::stored(&record).departure().is_some() {
            return refuse(v1::Refusal::DatasetDeparting);
        }
        if hold::is_held(&record, self.meta.time) {
            return refuse(v1::Refusal::DatasetHeld);
        }
        if record.versions > 0 && !tombstone.force {
            return refuse(v1::Refusal::DatasetNotEmpty);
        }
        let mut dataset = Dataset { id, record };
        dataset.record.set_status(v1::DatasetStatus::Tombstoned);
        self.drop_contents(&mut dataset);
        Ok(self.done())
    }

    /// Saves a dataset that has just been tombstoned; what it holds is due.
    pub(super) fn drop_contents(&mut self, dataset: &mut Dataset) {
        self.forget_change(dataset, dataset.record.settings_index);
        dataset.record.settings_index = 0;
        self.save(dataset);
        self.meta.datasets -= 1;
        self.meta.sweeping = true;
        let id = &dataset.id;
        self.state.put(&keys::dataset(table::PURGE, id), &[]);
        self.state.delete(&keys::dataset(table::RULES, id));
    }

    /// Takes effect for every commit after this position. Disabling cannot wait: it ends a fence, and a dataset that is
    /// arriving, or was restored and is not confirmed, takes it too.
    pub(super) fn set_key_state(&mut self, set: &v1::SetKeyState) -> Answer {
        let mut dataset = match self.held(&set.dataset_id)? {
            closed if closed.record.status() == v1::DatasetStatus::Arriving => closed,
            closed if is_unconfirmed(&closed.record) => closed,
            _ => self.writable(&set.dataset_id, Change::KeyState)?,
        };
        if set.state() == v1::KeyState::Unspecified {
            return malformed();
        }
        let held = &mut dataset.record;
        let same = set.version == held.key_state_version && set.state() == held.key_state();
        if same && set.min_kek_version <= held.min_kek_version {
            return Ok(self.done());
        }
        if set.version <= held.key_state_version {
            let moved_to = held.key_state_version;
            return Err(v1::Refused {
                moved_to,
                ..of(v1::Refusal::KeyStateMoved)
            });
        }
        held.key_state = set.state;
        held.key_state_version = set.version;
        // Never down: a token that was refused once stays refused.
        held.min_kek_version = held.min_kek_version.max(set.min_kek_version);
        self.save(&dataset);
        Ok(self.done())
    }

    pub(super) fn set_versioning(&mut self, set: &v1::SetVersioning) -> Answer {
        let mut dataset = self.writable(&set.dataset_id, Change::Config)?;
        if dataset.record.lock.is_some() && !set.enabled {
            return refuse(v1::Refusal::LockKeepsVersions);
        }
        if self.level >= CONFIG_LEVEL {
            let was_on = dataset.record.versioning || dataset.record.suspended;
            dataset.record.suspended = was_on && !set.enabled;
        }
        dataset.record.versioning = set.enabled;
        self.settings_changed(&mut dataset);
        self.save(&dataset);
        Ok(self.done())
    }
}

/// Whether it was restored from a backup, and nobody has confirmed that it is still here.
fn is_unconfirmed(record: &v1::DatasetRecord) -> bool {
    record.authority.is_some() && Authority::stored(record).standing() == Standing::Unconfirmed
}

/// Id and KEK of a dataset that is asked for, if it can be one.
pub(super) fn well_formed(asked: &v1::DatasetRecord) -> Result<(DatasetId, KekId), v1::Refused> {
    let (Ok(id), Ok(kek)) = (
        DatasetId::try_from(asked.dataset_id.as_ref()),
        KekId::try_from(asked.kek_id.as_ref()),
    ) else {
        return malformed();
    };
    let shape = asked.format == FORMAT
        && asked.name.parse::<DatasetName>().is_ok()
        && asked.pseudonym.len() == PSEUDONYM_BYTES
        && asked.status() == v1::DatasetStatus::Active
        && asked.key_state() == v1::KeyState::Enabled;
    match shape {
        true => Ok((id, kek)),
        false => malformed(),
    }
}
