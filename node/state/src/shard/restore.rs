//! A dataset that comes back from a backup: the steps of its restore.
//!
//! Owns the row of the restore and what each step does to the dataset: made when two people have approved that, filled while
//! it serves nothing, then read and closed to changes until two people have said that it is still here. Refuses to mix it
//! with a dataset that is here, and to open one that lacks something its backup counts. That the rows are the backup's is
//! the word of who brings them: what they say, nodes cannot open.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{BackupId, DatasetEpoch, DatasetId, FeatureLevel};
use proto::v1;
use proto::v1::restore_dataset::Step;

use super::import::settings;
use super::refusal::{Answer, malformed, of, refuse};
use super::relocation::{approved, not_authorised};
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::{DIGEST_BYTES, RESTORED_EPOCHS};
use crate::read;
use crate::relocation::Authority;

mod batch;
mod parts;
#[cfg(test)]
mod tests;

/// The feature level from which datasets are restored.
pub const RESTORE_LEVEL: FeatureLevel = FeatureLevel(7);

const FORMAT: u32 = 1;
const RESTORE_ID_BYTES: usize = 16;

/// A restore being worked on, and the dataset that it is of.
struct Restoring {
    dataset: Dataset,
    record: v1::RestoreRecord,
}

impl Apply<'_> {
    pub(super) fn restore(&mut self, restore: &v1::RestoreDataset) -> Answer {
        let (Some(step), Ok(id)) = (
            &restore.step,
            DatasetId::try_from(restore.dataset_id.as_ref()),
        ) else {
            return malformed();
        };
        if restore.restore_id.len() != RESTORE_ID_BYTES {
            return malformed();
        }
        if let Step::Begin(begin) = step {
            return self.begin_restore(id, &restore.restore_id, begin);
        }
        let held = read::restore(&*self.state, &id);
        let held = held.filter(|held| held.restore_id == restore.restore_id);
        let (Some(record), Some(dataset)) = (held, self.dataset(&id)) else {
            return refuse(v1::Refusal::NotRestoring);
        };
        let dataset = Dataset {
            id,
            record: dataset,
        };
        let restoring = Restoring { dataset, record };
        match step {
            Step::Batch(batch) => self.restore_batch(restoring, batch),
            Step::End(true) => self.end_restore(restoring),
            Step::Confirm(confirm) => self.confirm_restore(restoring, confirm),
            Step::Abandon(true) => self.abandon_restore(restoring),
            Step::Begin(_) | Step::End(false) | Step::Abandon(false) => malformed(),
        }
    }

    fn begin_restore(
        &mut self,
        id: DatasetId,
        restore_id: &Bytes,
        begin: &v1::RestoreBegin,
    ) -> Answer {
        approved(begin.approvals.as_ref())?;
        let Some(asked) = &begin.dataset else {
            return malformed();
        };
        let settings = settings_of(asked, &begin.configs);
        settings::well_formed(&settings)?;
        if !well_formed(&id, asked)? || !names_a_backup(begin) {
            return malformed();
        }
        let held = read::restore(&*self.state, &id);
        if let Some(held) = held.filter(|held| held.restore_id == *restore_id) {
            return self.bring_the_rest(&id, held, begin);
        }
        self.vacant(&id, DatasetEpoch(asked.epoch))?;
        let mut record = self.founded(asked);
        record.set_status(v1::DatasetStatus::Arriving);
        record.compliance_until_ms = asked.compliance_until_ms;
        // What ran in the shard that was lost must not look like a fresh request here.
        record.request_offset = asked.request_offset.saturating_add(RESTORED_EPOCHS);
        let mut dataset = Dataset { id, record };
        self.take_settings(&mut dataset, &settings);
        self.meta.datasets += 1;
        self.save(&dataset);
        let record = v1::RestoreRecord {
            format: FORMAT,
            restore_id: restore_id.clone(),
            phase: v1::RestorePhase::Filling.into(),
            backup_id: begin.backup_id.clone(),
            index_digest: begin.index_digest.clone(),
            restorer: begin.restorer.clone(),
            oldest_kek_version: begin.oldest_kek_version,
            items: begin.items,
            taken: 0,
            versions: asked.versions,
            objects: asked.objects,
            legal_holds: asked.legal_holds,
            departures: asked.authority.as_ref().map_or(0, |held| held.version),
            begun_at_ms: self.meta.time.0,
            changed_at_ms: self.meta.time.0,
        };
        self.save_restore(&id, record);
        Ok(self.done())
    }

    /// Begun before by the same warrant: whoever asks brings the rest.
    fn bring_the_rest(
        &mut self,
        id: &DatasetId,
        held: v1::RestoreRecord,
        begin: &v1::RestoreBegin,
    ) -> Answer {
        let same = held.backup_id == begin.backup_id
            && held.index_digest == begin.index_digest
            && held.items == begin.items;
        match held.phase() {
            _ if !same => malformed(),
            v1::RestorePhase::Filling => {
                let restorer = begin.restorer.clone();
                self.save_restore(id, v1::RestoreRecord { restorer, ..held });
                Ok(self.done())
            }
            v1::RestorePhase::Standing | v1::RestorePhase::Confirmed => Ok(self.done()),
            v1::RestorePhase::Abandoned => refuse(v1::Refusal::NotRestoring),
        }
    }

    /// Everything that the backup counts is here: from now on it is read.
    fn end_restore(&mut self, restoring: Restoring) -> Answer {
        let Restoring {
            mut dataset,
            mut record,
        } = restoring;
        match record.phase() {
            v1::RestorePhase::Filling => {}
            v1::RestorePhase::Standing | v1::RestorePhase::Confirmed => return Ok(self.done()),
            v1::RestorePhase::Abandoned => return refuse(v1::Refusal::NotRestoring),
        }
        let held = &dataset.record;
        let counts = (held.versions, held.objects, held.legal_holds);
        let whole = record.taken == record.items
            && counts == (record.versions, record.objects, record.legal_holds)
            && held.uploads == 0;
        if !whole {
            return Err(v1::Refused {
                moved_to: held.versions,
                ..of(v1::Refusal::RestoreIncomplete)
            });
        }
        dataset.record.set_status(v1::DatasetStatus::Active);
        dataset.record.authority = Some(v1::AuthorityRecord {
            version: record.departures,
            ..Default::default()
        });
        let authority = Authority::stored(&dataset.record).restored();
        dataset.settle(&authority);
        self.save(&dataset);
        record.set_phase(v1::RestorePhase::Standing);
        self.save_restore(&dataset.id, record);
        Ok(self.done())
    }

    /// Two people say that it is this region's, in the epoch in which it stands: from now on it takes changes.
    fn confirm_restore(&mut self, restoring: Restoring, confirm: &v1::RestoreConfirm) -> Answer {
        let Restoring {
            mut dataset,
            mut record,
        } = restoring;
        approved(confirm.approvals.as_ref())?;
        match record.phase() {
            v1::RestorePhase::Standing => {}
            v1::RestorePhase::Confirmed => return Ok(self.done()),
            v1::RestorePhase::Filling | v1::RestorePhase::Abandoned => {
                return refuse(v1::Refusal::NotRestoring);
            }
        }
        let authority = Authority::stored(&dataset.record);
        let confirmed = authority
            .confirmed(DatasetEpoch(confirm.epoch))
            .map_err(|refused| not_authorised(refused, &dataset.record))?;
        dataset.settle(&confirmed);
        self.save(&dataset);
        record.set_phase(v1::RestorePhase::Confirmed);
        self.save_restore(&dataset.id, record);
        Ok(self.done())
    }

    fn abandon_restore(&mut self, restoring: Restoring) -> Answer {
        let Restoring {
            mut dataset,
            mut record,
        } = restoring;
        match record.phase() {
            v1::RestorePhase::Filling | v1::RestorePhase::Standing => {}
            v1::RestorePhase::Abandoned => return Ok(self.done()),
            v1::RestorePhase::Confirmed => return refuse(v1::Refusal::NotRestoring),
        }
        dataset.record.set_status(v1::DatasetStatus::Tombstoned);
        dataset.record.never_served = true;
        self.drop_contents(&mut dataset);
        record.set_phase(v1::RestorePhase::Abandoned);
        self.save_restore(&dataset.id, record);
        Ok(self.done())
    }

    fn save_restore(&mut self, id: &DatasetId, mut record: v1::RestoreRecord) {
        record.changed_at_ms = self.meta.time.0;
        let place = keys::dataset(table::RESTORE, id);
        self.state.put(&place, &record.encode_to_vec());
    }
}

/// What a backup has of a dataset's settings, as imports bring them.
fn settings_of(asked: &v1::DatasetRecord, configs: &[v1::ConfigRecord]) -> v1::ImportedSettings {
    v1::ImportedSettings {
        versioning: asked.versioning,
        suspended: asked.suspended,
        lock: asked.lock,
        hold: asked.hold,
        quota: asked.quota,
        configs: configs.to_vec(),
        created_at_ms: asked.created_at_ms,
    }
}

/// Whether a record can be that of this dataset, whatever state its key is in.
fn well_formed(id: &DatasetId, asked: &v1::DatasetRecord) -> Result<bool, v1::Refused> {
    let as_new = v1::DatasetRecord {
        status: v1::DatasetStatus::Active.into(),
        key_state: v1::KeyState::Enabled.into(),
        ..asked.clone()
    };
    let (named, _) = super::dataset::well_formed(&as_new)?;
    let epoch = 0 < asked.epoch && asked.epoch < u64::MAX;
    Ok(named == *id && epoch && asked.key_state() != v1::KeyState::Unspecified)
}

fn names_a_backup(begin: &v1::RestoreBegin) -> bool {
    BackupId::try_from(begin.backup_id.as_ref()).is_ok()
        && begin.index_digest.len() == DIGEST_BYTES
        && begin.restorer.len() == DIGEST_BYTES
}
