//! What locks, settings and quotas have to come to.
//!
//! Owns which version is locked until when, and what a dataset may still take. Refuses to know a kind of retention that
//! somebody may end who may not: who may was the leader's to say.

use node_state::limits::{CONFIG_BYTES_MAX, RULES_MAX};
use prost::Message as _;
use proto::ids::{DatasetId, ObjectKey};
use proto::v1;
use proto::v1::{ChangeKind, ConfigKind, Refusal, RetentionMode};

use super::model::{Dataset, Judging, Outcome, moved, refuse, version_id};
use super::objects::Version;

/// Milliseconds of a day.
pub(super) const DAY: u64 = 86_400_000;
/// Days in a hundred years: the longest default, and the oldest age of a rule.
const DAYS_MAX: u32 = 36_500;
/// The level from which a dataset says that its versioning is suspended.
const SUSPENDED_LEVEL: u32 = 5;

impl Version {
    /// Whether it may not be removed now, by who may pass over governance or not.
    pub(super) fn is_locked(&self, time: u64, bypass: bool) -> bool {
        let retained = self.entry.retention.is_some_and(|held| {
            let ends = bypass && held.mode() == RetentionMode::Governance;
            time < held.until_ms && !ends
        });
        retained || self.entry.legal_hold
    }
}

impl Dataset {
    /// What a new version is kept by: what was asked for, else the dataset's default.
    pub(super) fn retention_of_new(
        &self,
        time: u64,
        entry: &v1::ObjectEntry,
    ) -> Option<v1::Retention> {
        let default = self.record.lock.filter(|lock| lock.default_mode != 0);
        let default = default.map(|lock| v1::Retention {
            mode: lock.default_mode,
            until_ms: time + u64::from(lock.default_days) * DAY,
        });
        match entry.delete_marker {
            true => None,
            false => entry.retention.or(default),
        }
    }

    /// The dataset, and its key, are kept until the last end of compliance retention that was ever stated.
    pub(super) fn count_compliance(&mut self, stated: Option<v1::Retention>) {
        let compliance = stated.filter(|held| held.mode() == RetentionMode::Compliance);
        let kept = &mut self.record.compliance_until_ms;
        *kept = compliance.map_or(*kept, |held| held.until_ms.max(*kept));
    }

    /// The lifecycle rules that are on.
    pub(super) fn rules(&self) -> Vec<v1::LifecycleRule> {
        let held = self.settings.get(&ConfigKind::Lifecycle.into());
        let content = held.map(|held| held.content.clone()).unwrap_or_default();
        let rules = v1::Lifecycle::decode(content).unwrap_or_default().rules;
        rules.into_iter().filter(|rule| rule.enabled).collect()
    }
}

impl Judging<'_> {
    pub(super) fn set_versioning(&mut self, set: &v1::SetVersioning) -> Outcome {
        let (index, level) = (self.at.index, self.at.level);
        let dataset = self.writable(&set.dataset_id)?;
        let record = &mut dataset.record;
        if record.lock.is_some() && !set.enabled {
            return refuse(Refusal::LockKeepsVersions);
        }
        if level >= SUSPENDED_LEVEL {
            record.suspended = (record.versioning || record.suspended) && !set.enabled;
        }
        record.versioning = set.enabled;
        dataset.settings_changed(level, index);
        Ok(self.done())
    }

    pub(super) fn set_object_lock(&mut self, set: &v1::SetObjectLock) -> Outcome {
        let sound = |lock: &v1::ObjectLock| match lock.default_mode {
            0 => lock.default_days == 0,
            1 | 2 => (1..=DAYS_MAX).contains(&lock.default_days),
            _ => false,
        };
        let Some(lock) = set.lock.filter(sound) else {
            return refuse(Refusal::Malformed);
        };
        let (index, level) = (self.at.index, self.at.level);
        let dataset = self.writable(&set.dataset_id)?;
        let record = &mut dataset.record;
        record.lock = Some(lock);
        record.versioning = true;
        record.suspended = false;
        dataset.settings_changed(level, index);
        Ok(self.done())
    }

    /// Refuses a lock that a new version cannot have.
    pub(super) fn lock_allows(
        &mut self,
        dataset: &[u8],
        retention: Option<v1::Retention>,
        legal_hold: bool,
    ) -> Result<(), v1::Refused> {
        let time = self.model.time;
        let good = |asked: v1::Retention| (1..=2).contains(&asked.mode) && asked.until_ms > time;
        if retention.is_some_and(|asked| !good(asked)) {
            return refuse(Refusal::Malformed);
        }
        let none = self.writable(dataset)?.record.lock.is_none();
        if none && (retention.is_some() || legal_hold) {
            return refuse(Refusal::NoObjectLock);
        }
        Ok(())
    }

    /// A version that may have a lock of its own.
    fn lockable(
        &mut self,
        dataset: &[u8],
        key: &str,
        id: &bytes::Bytes,
    ) -> Result<&mut Version, v1::Refused> {
        let dataset = self.writable(dataset)?;
        let Some(id) = version_id(id) else {
            return refuse(Refusal::Malformed);
        };
        if dataset.record.lock.is_none() {
            return refuse(Refusal::NoObjectLock);
        }
        let versions = dataset.objects.get_mut(key).map(|all| all.iter_mut());
        let mut versions = versions.into_iter().flatten();
        let found = versions.find(|version| version.id == id && !version.entry.delete_marker);
        found.map_or_else(|| refuse(Refusal::NoSuchObject), Ok)
    }

    pub(super) fn set_retention(&mut self, set: &v1::SetRetention) -> Outcome {
        let time = self.model.time;
        let held = self.lockable(&set.dataset_id, &set.key, &set.version_id)?;
        let held = held.entry.retention;
        let asked = set.retention.filter(|asked| asked.mode != 0);
        self.lock_allows(&set.dataset_id, asked, false)?;
        if held == asked {
            return Ok(self.done());
        }
        let may = match held.filter(|held| held.until_ms > time) {
            None => true,
            Some(held) => {
                let extended = asked.is_some_and(|asked| asked.until_ms >= held.until_ms);
                match held.mode() {
                    RetentionMode::Compliance => {
                        extended && asked.is_some_and(|asked| asked.mode == held.mode)
                    }
                    _ => extended || set.bypass_governance,
                }
            }
        };
        if !may {
            return refuse(Refusal::ObjectLocked);
        }
        let version = self.lockable(&set.dataset_id, &set.key, &set.version_id)?;
        version.entry.retention = asked;
        self.writable(&set.dataset_id)?.count_compliance(asked);
        let of = (&set.dataset_id[..], &*set.key, &set.version_id);
        self.changed(of, ChangeKind::Lock)?;
        Ok(self.done())
    }

    pub(super) fn set_legal_hold(&mut self, set: &v1::SetLegalHold) -> Outcome {
        let version = self.lockable(&set.dataset_id, &set.key, &set.version_id)?;
        if version.entry.legal_hold != set.on {
            version.entry.legal_hold = set.on;
            let of = (&set.dataset_id[..], &*set.key, &set.version_id);
            self.changed(of, ChangeKind::Lock)?;
        }
        Ok(self.done())
    }

    pub(super) fn set_config(&mut self, set: &v1::SetConfig) -> Outcome {
        if set.kind() == ConfigKind::Unspecified || set.content.len() > CONFIG_BYTES_MAX {
            return refuse(Refusal::Malformed);
        }
        if set.kind() == ConfigKind::Lifecycle && !is_lifecycle(&set.content) {
            return refuse(Refusal::Malformed);
        }
        let (time, index, level) = (self.model.time, self.at.index, self.at.level);
        let dataset = self.writable(&set.dataset_id)?;
        let settings = &mut dataset.settings;
        let held = settings.get(&set.kind).cloned().unwrap_or_default();
        let here = set.any_version || set.from_version == held.version;
        let repeated = held.version > 0 && set.from_version == held.version - 1;
        if held.content == set.content && (here || repeated) {
            return Ok(self.done());
        }
        if !here {
            return moved(Refusal::ConfigMoved, held.version);
        }
        let record = v1::ConfigRecord {
            kind: set.kind,
            version: held.version + 1,
            content: set.content.clone(),
            changed_at_ms: time,
        };
        settings.insert(set.kind, record);
        dataset.settings_changed(level, index);
        Ok(self.done())
    }

    pub(super) fn set_quota(&mut self, set: &v1::SetQuota) -> Outcome {
        let bounds = |quota: &v1::Quota| (quota.objects_max, quota.sealed_bytes_max) != (0, 0);
        let (index, level) = (self.at.index, self.at.level);
        let dataset = self.writable(&set.dataset_id)?;
        dataset.record.quota = set.quota.filter(bounds);
        dataset.settings_changed(level, index);
        Ok(self.done())
    }

    /// Refuses what the dataset may not take in addition; what makes it no larger is always taken.
    pub(super) fn within_quota(
        &mut self,
        dataset: &[u8],
        objects: u64,
        bytes_in: u64,
        bytes_out: u64,
    ) -> Result<(), v1::Refused> {
        let held = self.writable(dataset)?;
        let Some(quota) = held.record.quota else {
            return Ok(());
        };
        let live = held.objects.values().filter_map(|versions| versions.last());
        let live = live.filter(|current| !current.entry.delete_marker).count() as u64;
        let id = DatasetId::try_from(dataset).unwrap_or(DatasetId([0; 16]));
        let bytes = self.model.sealed_bytes(&id) + bytes_in - bytes_out;
        let over = |max: u64, would: u64| (1..would).contains(&max);
        let too_many = objects > 0 && over(quota.objects_max, live + objects);
        let too_long = bytes_in > bytes_out && over(quota.sealed_bytes_max, bytes);
        match too_many || too_long {
            true => refuse(Refusal::QuotaExceeded),
            false => Ok(()),
        }
    }
}

fn is_lifecycle(content: &[u8]) -> bool {
    let Ok(lifecycle) = v1::Lifecycle::decode(content) else {
        return false;
    };
    let sound = |rule: &v1::LifecycleRule| {
        let oldest = rule
            .expire_days
            .max(rule.noncurrent_days)
            .max(rule.abort_days);
        oldest <= DAYS_MAX
            && rule.prefix.len() <= ObjectKey::BYTES_MAX
            && (rule.noncurrent_days > 0 || rule.newer_noncurrent == 0)
    };
    lifecycle.rules.len() <= RULES_MAX && lifecycle.rules.iter().all(sound)
}
