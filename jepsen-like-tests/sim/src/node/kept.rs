//! What no command may break, whatever the model says of it: locks and quotas.
//!
//! Owns the comparison of two states of the shard, before a command and after it. Refuses to go by the model: a lock that
//! both forgot would be no lock.

use node_state::keys::{self, table};
use node_state::{ShardMeta, read};
use proto::ids::{DatasetId, ObjectVersionId};
use proto::store::{MemoryStore, Reader as _};
use proto::v1;
use proto::v1::shard_command::Command;

use super::draw::DATASETS;
use super::model::version_id;
use crate::{Broken, hold};

/// What a state promises to keep.
pub(super) struct Before {
    locked: Vec<Locked>,
    datasets: Vec<(DatasetId, v1::DatasetRecord)>,
}

struct Locked {
    dataset: DatasetId,
    key: String,
    id: ObjectVersionId,
    retention: Option<v1::Retention>,
    legal_hold: bool,
}

impl Before {
    /// Of the state that a command is about to be applied to.
    pub(super) fn of(state: &MemoryStore) -> Self {
        let mut locked = Vec::new();
        for of in [table::CURRENT, table::OLDER] {
            let (start, end) = keys::range(of, &[]);
            state.scan(&start, &end, &mut |place, value| {
                let head = <v1::ObjectEntry as prost::Message>::decode(value).unwrap_or_default();
                let dataset = place.get(1..17).and_then(|id| DatasetId::try_from(id).ok());
                let key = keys::object_key(place).map(|(key, _)| key);
                let of_lock = head.legal_hold || head.retention.is_some();
                if let (true, Some(dataset), Some(key), Some(id)) =
                    (of_lock, dataset, key, version_id(&head.version_id))
                {
                    locked.push(Locked {
                        dataset,
                        key,
                        id,
                        retention: head.retention,
                        legal_hold: head.legal_hold,
                    });
                }
                true
            });
        }
        let datasets = DATASETS
            .into_iter()
            .filter_map(|id| Some((id, read::dataset(state, &id)?)));
        Self {
            locked,
            datasets: datasets.collect(),
        }
    }

    /// Of the state afterwards: what was locked is there and as locked as it was; nothing that is full holds more.
    pub(super) fn holds(
        &self,
        state: &MemoryStore,
        command: &v1::ShardCommand,
    ) -> Result<(), Broken> {
        let kind = command.command.as_ref();
        let time = ShardMeta::load(state).time.0;
        for locked in &self.locked {
            locked.holds(state, kind, time)?;
        }
        for (id, before) in &self.datasets {
            let now = read::dataset(state, id).unwrap_or_default();
            within_quota(id, before, &now, kind)?;
        }
        Ok(())
    }
}

impl Locked {
    fn holds(&self, state: &MemoryStore, kind: Option<&Command>, time: u64) -> Result<(), Broken> {
        let retention = self.retention.filter(|held| held.until_ms > time);
        let compliance = retention.filter(|held| held.mode() == v1::RetentionMode::Compliance);
        let passed_over = match kind {
            Some(Command::DeleteObject(delete)) => delete.bypass_governance,
            Some(Command::SetRetention(set)) => set.bypass_governance,
            _ => false,
        };
        let dropped = read::dataset(state, &self.dataset)
            .is_none_or(|held| held.status() == v1::DatasetStatus::Tombstoned);
        let for_ever = self.legal_hold || compliance.is_some();
        hold!(
            !(for_ever && dropped),
            "dataset {} was dropped, and {} of it is locked",
            self.dataset,
            self.id
        );
        if dropped || !(for_ever || (retention.is_some() && !passed_over)) {
            return Ok(());
        }
        let head = read::head(state, &self.dataset, &self.key, Some(&self.id));
        let Some(head) = head else {
            return Err(Broken(format!(
                "version {} of {:?} is locked and was removed",
                self.id, self.key
            )));
        };
        let lifted = matches!(kind, Some(Command::SetLegalHold(_)));
        hold!(
            head.legal_hold || lifted || !self.legal_hold,
            "the legal hold of {} was lifted by another command",
            self.id
        );
        let kept_as_long = retention.is_none_or(|held| {
            head.retention.is_some_and(|now| {
                now.until_ms >= held.until_ms && (compliance.is_none() || now.mode == held.mode)
            })
        });
        hold!(
            kept_as_long || (passed_over && compliance.is_none()),
            "the retention of {} was {:?} and is {:?}",
            self.id,
            self.retention,
            head.retention
        );
        Ok(())
    }
}

/// What a put, a part or a completion adds is within the quota. Deletes may uncover what was there.
fn within_quota(
    id: &DatasetId,
    before: &v1::DatasetRecord,
    now: &v1::DatasetRecord,
    kind: Option<&Command>,
) -> Result<(), Broken> {
    let Some(quota) = now.quota.filter(|_| now.quota == before.quota) else {
        return Ok(());
    };
    let uncovers = matches!(
        kind,
        Some(Command::DeleteObject(_) | Command::LifecycleStep(_))
    );
    let over = |max: u64, before: u64, now: u64| max > 0 && now > max && now > before;
    hold!(
        uncovers || !over(quota.objects_max, before.objects, now.objects),
        "dataset {id} came to {} objects, of {} it may have",
        now.objects,
        quota.objects_max
    );
    hold!(
        !over(
            quota.sealed_bytes_max,
            before.sealed_bytes,
            now.sealed_bytes
        ),
        "dataset {id} came to {} bytes, of {} it may have",
        now.sealed_bytes,
        quota.sealed_bytes_max
    );
    Ok(())
}
