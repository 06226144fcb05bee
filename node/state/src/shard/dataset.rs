//! Datasets of the shard: admitted, configured, dropped.
//!
//! Owns the dataset's record. Refuses to bring a dropped one back: its id may stand in tokens and logs for ever.

use proto::ids::{DatasetId, DatasetName, KekId};
use proto::v1;

use super::config::CONFIG_LEVEL;
use super::refusal::{Answer, malformed, of, refuse};
use super::{Apply, Dataset, hold};
use crate::keys::{self, table};

const FORMAT: u32 = 1;
const PSEUDONYM_BYTES: usize = 16;

impl Apply<'_> {
    /// Repeated with the same record it is done again, so that the catalog can go on after a crash.
    pub(super) fn create_dataset(&mut self, create: &v1::CreateDataset) -> Answer {
        let Some(asked) = &create.dataset else {
            return malformed();
        };
        let Ok(id) = DatasetId::try_from(asked.dataset_id.as_ref()) else {
            return malformed();
        };
        let shape = asked.format == FORMAT
            && asked.name.parse::<DatasetName>().is_ok()
            && KekId::try_from(asked.kek_id.as_ref()).is_ok()
            && asked.pseudonym.len() == PSEUDONYM_BYTES
            && asked.status() == v1::DatasetStatus::Active
            && asked.key_state() == v1::KeyState::Enabled;
        if !shape {
            return malformed();
        }
        if let Some(held) = self.dataset(&id) {
            return match held.status() {
                v1::DatasetStatus::Tombstoned => refuse(v1::Refusal::DatasetGone),
                _ if held.name == asked.name && held.kek_id == asked.kek_id => Ok(self.done()),
                _ => refuse(v1::Refusal::DatasetExists),
            };
        }
        let record = v1::DatasetRecord {
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
            ..asked.clone()
        };
        self.meta.datasets += 1;
        self.save(&Dataset { id, record });
        Ok(self.done())
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
            v1::DatasetStatus::Fenced => return refuse(v1::Refusal::DatasetFenced),
            _ => {}
        }
        if hold::is_held(&record, self.meta.time) {
            return refuse(v1::Refusal::DatasetHeld);
        }
        if record.versions > 0 && !tombstone.force {
            return refuse(v1::Refusal::DatasetNotEmpty);
        }
        let mut dataset = Dataset { id, record };
        dataset.record.set_status(v1::DatasetStatus::Tombstoned);
        self.save(&dataset);
        self.meta.datasets -= 1;
        self.meta.sweeping = true;
        self.state.put(&keys::dataset(table::PURGE, &id), &[]);
        self.state.delete(&keys::dataset(table::RULES, &id));
        Ok(self.done())
    }

    /// Takes effect for every commit after this position. A fenced dataset takes it too: disabling cannot wait.
    pub(super) fn set_key_state(&mut self, set: &v1::SetKeyState) -> Answer {
        let mut dataset = self.existing(&set.dataset_id)?;
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
        let mut dataset = self.writable(&set.dataset_id)?;
        if dataset.record.lock.is_some() && !set.enabled {
            return refuse(v1::Refusal::LockKeepsVersions);
        }
        if self.level >= CONFIG_LEVEL {
            let was_on = dataset.record.versioning || dataset.record.suspended;
            dataset.record.suspended = was_on && !set.enabled;
        }
        dataset.record.versioning = set.enabled;
        self.save(&dataset);
        Ok(self.done())
    }
}
