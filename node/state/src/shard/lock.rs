//! Object lock: versions that are not removed before their time.
//!
//! Owns retention and legal hold of single versions, the default of a dataset, and what of them keeps the dataset and
//! its key. Retention is compared with the group's time, which enters by command. Refuses to end or pass over
//! compliance retention, whoever asks; whether somebody may pass over governance was the leader's to decide.

use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{FeatureLevel, LogIndex, ObjectVersionId};
use proto::v1;

use super::refusal::{Answer, malformed, refuse};
use super::versions::less;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::record;
use crate::relocation::Change;

/// The feature level from which object lock is known.
pub const LOCK_LEVEL: FeatureLevel = FeatureLevel(4);
/// Days of the longest default retention: a hundred years.
const DEFAULT_DAYS_MAX: u32 = 36_500;
/// Milliseconds of a day.
pub(super) const DAY_MS: u64 = 86_400_000;

/// A version's head and where it stands.
pub(super) struct Version {
    pub(super) place: Vec<u8>,
    pub(super) head: v1::ObjectEntry,
}

impl Apply<'_> {
    /// Turned on it stays on; only its default changes.
    pub(super) fn set_object_lock(&mut self, set: &v1::SetObjectLock) -> Answer {
        let Some(lock) = set.lock else {
            return malformed();
        };
        let default = match lock.default_mode() {
            v1::RetentionMode::Unspecified => lock.default_mode == 0 && lock.default_days == 0,
            _ => (1..=DEFAULT_DAYS_MAX).contains(&lock.default_days),
        };
        if !default {
            return malformed();
        }
        let mut dataset = self.writable(&set.dataset_id, Change::Config)?;
        dataset.record.lock = Some(lock);
        dataset.record.versioning = true;
        dataset.record.suspended = false;
        self.settings_changed(&mut dataset);
        self.save(&dataset);
        Ok(self.done())
    }

    pub(super) fn set_retention(&mut self, set: &v1::SetRetention) -> Answer {
        let mut dataset = self.writable(&set.dataset_id, Change::Lock)?;
        let mut version = self.lockable(&dataset, &set.key, &set.version_id)?;
        let asked = set.retention.filter(|asked| asked.mode != 0);
        self.lock_allows(&dataset, asked, false)?;
        if version.head.retention == asked {
            return Ok(self.done());
        }
        let now = self.meta.time.0;
        let held = version.head.retention.filter(|held| held.until_ms > now);
        let longer =
            |held: v1::Retention| asked.is_some_and(|asked| asked.until_ms >= held.until_ms);
        let kept = match held.map(|held| (held.mode(), held)) {
            None => false,
            Some((v1::RetentionMode::Compliance, held)) => {
                let compliance = asked.is_some_and(|asked| asked.mode == held.mode);
                !(compliance && longer(held))
            }
            Some((_, held)) => !longer(held) && !set.bypass_governance,
        };
        if kept && !broken(Switch::IgnoreLocks) {
            return refuse(v1::Refusal::ObjectLocked);
        }
        version.head.retention = asked;
        count_compliance(&mut dataset, asked);
        self.lock_changed(&dataset, &set.key, &mut version.head);
        self.state
            .put(&version.place, &version.head.encode_to_vec());
        self.save(&dataset);
        Ok(self.done())
    }

    pub(super) fn set_legal_hold(&mut self, set: &v1::SetLegalHold) -> Answer {
        let mut dataset = self.writable(&set.dataset_id, Change::Lock)?;
        let mut version = self.lockable(&dataset, &set.key, &set.version_id)?;
        if version.head.legal_hold != set.on {
            version.head.legal_hold = set.on;
            let holds = &mut dataset.record.legal_holds;
            *holds = less(*holds + u64::from(set.on), u64::from(!set.on));
            self.lock_changed(&dataset, &set.key, &mut version.head);
            self.state
                .put(&version.place, &version.head.encode_to_vec());
            self.save(&dataset);
        }
        Ok(self.done())
    }

    /// Refuses what a new version cannot have: a lock where the dataset has none, or one that is over.
    pub(super) fn lock_allows(
        &self,
        dataset: &Dataset,
        retention: Option<v1::Retention>,
        legal_hold: bool,
    ) -> Result<(), v1::Refused> {
        if retention.is_none() && !legal_hold {
            return Ok(());
        }
        let over = |asked: v1::Retention| {
            asked.mode() == v1::RetentionMode::Unspecified || asked.until_ms <= self.meta.time.0
        };
        if retention.is_some_and(over) {
            return malformed();
        }
        match dataset.record.lock {
            Some(_) => Ok(()),
            None => refuse(v1::Refusal::NoObjectLock),
        }
    }

    /// What a new version is kept by: what was asked for, or the dataset's default from now on.
    pub(super) fn retention_of_new(
        &self,
        dataset: &Dataset,
        entry: &v1::ObjectEntry,
    ) -> Option<v1::Retention> {
        if entry.delete_marker {
            return None;
        }
        let default = |lock: v1::ObjectLock| {
            (lock.default_mode != 0).then(|| v1::Retention {
                mode: lock.default_mode,
                until_ms: self
                    .meta
                    .time
                    .0
                    .saturating_add(u64::from(lock.default_days) * DAY_MS),
            })
        };
        entry
            .retention
            .or_else(|| dataset.record.lock.and_then(default))
    }

    /// Refuses to remove a version that retention or a legal hold keeps.
    pub(super) fn removable(
        &self,
        head: &v1::ObjectEntry,
        bypass_governance: bool,
    ) -> Result<(), v1::Refused> {
        let kept = head.retention.is_some_and(|held| {
            let passed_over = bypass_governance && held.mode() == v1::RetentionMode::Governance;
            held.until_ms > self.meta.time.0 && !passed_over
        });
        if (kept || head.legal_hold) && !broken(Switch::IgnoreLocks) {
            return refuse(v1::Refusal::ObjectLocked);
        }
        Ok(())
    }

    /// A version of a dataset with object lock; a delete marker is none.
    fn lockable(&self, dataset: &Dataset, key: &str, id: &[u8]) -> Result<Version, v1::Refused> {
        let Ok(id) = ObjectVersionId::try_from(id) else {
            return malformed();
        };
        if dataset.record.lock.is_none() {
            return refuse(v1::Refusal::NoObjectLock);
        }
        let version = self.version_of(dataset, key, &id);
        match version.filter(|version| !version.head.delete_marker) {
            None => refuse(v1::Refusal::NoSuchObject),
            Some(version) => Ok(version),
        }
    }

    /// The version of this id, if it is one of this key.
    pub(super) fn version_of(
        &self,
        dataset: &Dataset,
        key: &str,
        id: &ObjectVersionId,
    ) -> Option<Version> {
        let at: Option<v1::VersionRecord> =
            record::load(&*self.state, &keys::version(table::VERSION, id));
        let at = at.filter(|at| {
            at.kind() == v1::VersionKind::Object
                && at.key == key
                && at.dataset_id == dataset.id.as_bytes()[..]
        })?;
        let current = keys::current(&dataset.id, key);
        let older = keys::older(&dataset.id, key, LogIndex(at.finished_index));
        let found = [current, older].into_iter().find_map(|place| {
            let head: v1::ObjectEntry = record::load(&*self.state, &place)?;
            let same = head.version_id == id.as_bytes()[..];
            same.then_some(Version { place, head })
        });
        let found = found.expect("every version stands among the current or the older ones");
        Some(found)
    }
}

/// What keeps a version keeps its dataset's key as long.
pub(super) fn count_lock(dataset: &mut Dataset, head: &v1::ObjectEntry) {
    count_compliance(dataset, head.retention);
    dataset.record.legal_holds += u64::from(head.legal_hold);
}

/// The latest end ever stated: compliance retention is only extended, and what it keeps stays until then.
pub(super) fn count_compliance(dataset: &mut Dataset, retention: Option<v1::Retention>) {
    let compliance = retention.filter(|held| held.mode() == v1::RetentionMode::Compliance);
    let until = compliance.map_or(0, |held| held.until_ms);
    let kept = &mut dataset.record.compliance_until_ms;
    *kept = until.max(*kept);
}

#[cfg(test)]
mod tests;
