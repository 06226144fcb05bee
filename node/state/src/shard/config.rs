//! Settings of a dataset that its front doors keep here, and how much it may hold.
//!
//! Owns one record a kind and the comparison with the quota. Content is opaque, but for the lifecycle, which apply goes
//! by and therefore reads. Refuses a change decided on another version of a setting, and what would exceed the quota.

use prost::Message as _;
use proto::ids::FeatureLevel;
use proto::v1;

use super::refusal::{Answer, malformed, of, refuse};
use super::relocation::RELOCATION_LEVEL;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::{CONFIG_BYTES_MAX, RULES_MAX};
use crate::record;
use crate::relocation::Change;

/// The feature level from which datasets have settings, quotas and lifecycles.
pub const CONFIG_LEVEL: FeatureLevel = FeatureLevel(5);
/// Days of the longest age a rule may name: a hundred years.
const DAYS_MAX: u32 = 36_500;

impl Apply<'_> {
    pub(super) fn set_config(&mut self, set: &v1::SetConfig) -> Answer {
        let kind = set.kind();
        if kind == v1::ConfigKind::Unspecified || set.content.len() > CONFIG_BYTES_MAX {
            return malformed();
        }
        let rules = match kind {
            v1::ConfigKind::Lifecycle => Some(rules(&set.content)?),
            _ => None,
        };
        let mut dataset = self.writable(&set.dataset_id, Change::Config)?;
        let place = keys::config(&dataset.id, set.kind);
        let held: v1::ConfigRecord = record::load(&*self.state, &place).unwrap_or_default();
        let moved = held.version != set.from_version && !set.any_version;
        // The same change again: what was done is as asked.
        let done = Some(held.version) == set.from_version.checked_add(1);
        if held.content == set.content && (!moved || done) {
            return Ok(self.done());
        }
        if moved {
            return Err(v1::Refused {
                moved_to: held.version,
                ..of(v1::Refusal::ConfigMoved)
            });
        }
        let record = v1::ConfigRecord {
            kind: set.kind,
            version: held.version + 1,
            content: set.content.clone(),
            changed_at_ms: self.meta.time.0,
        };
        self.state.put(&place, &record.encode_to_vec());
        if let Some(rules) = rules {
            let place = keys::dataset(table::RULES, &dataset.id);
            match rules.rules.is_empty() {
                true => self.state.delete(&place),
                false => self.state.put(&place, &rules.encode_to_vec()),
            }
        }
        if self.level >= RELOCATION_LEVEL {
            self.settings_changed(&mut dataset);
            self.save(&dataset);
        }
        Ok(self.done())
    }

    pub(super) fn set_quota(&mut self, set: &v1::SetQuota) -> Answer {
        let mut dataset = self.writable(&set.dataset_id, Change::Config)?;
        let any = |quota: &v1::Quota| quota.objects_max > 0 || quota.sealed_bytes_max > 0;
        dataset.record.quota = set.quota.filter(any);
        self.settings_changed(&mut dataset);
        self.save(&dataset);
        Ok(self.done())
    }
}

/// Refuses what a dataset may not hold in addition. What is over already may shrink.
pub(super) fn within_quota(
    dataset: &Dataset,
    objects: u64,
    bytes_in: u64,
    bytes_out: u64,
) -> Result<(), v1::Refused> {
    // What the source took is taken, also while it comes part by part.
    let arriving = dataset.record.status() == v1::DatasetStatus::Arriving;
    let quota = dataset.record.quota.filter(|_| !arriving);
    let (Some(quota), held) = (quota, &dataset.record) else {
        return Ok(());
    };
    let over = |max: u64, would: u64| max > 0 && would > max;
    let bytes = held.sealed_bytes.saturating_add(bytes_in);
    let more_bytes = bytes_in > bytes_out && over(quota.sealed_bytes_max, bytes - bytes_out);
    if more_bytes || (objects > 0 && over(quota.objects_max, held.objects + objects)) {
        return refuse(v1::Refusal::QuotaExceeded);
    }
    Ok(())
}

/// The rules in force of a lifecycle, if it is one.
pub(super) fn rules(content: &[u8]) -> Result<v1::Lifecycle, v1::Refused> {
    let Ok(mut lifecycle) = v1::Lifecycle::decode(content) else {
        return malformed();
    };
    let sound = |rule: &v1::LifecycleRule| {
        let days = [rule.expire_days, rule.noncurrent_days, rule.abort_days];
        days.iter().all(|days| *days <= DAYS_MAX)
            // How many are kept says nothing without an age.
            && (rule.newer_noncurrent == 0 || rule.noncurrent_days > 0)
            && rule.prefix.len() <= proto::ids::ObjectKey::BYTES_MAX
    };
    if lifecycle.rules.len() > RULES_MAX || !lifecycle.rules.iter().all(sound) {
        return malformed();
    }
    lifecycle.rules.retain(|rule| rule.enabled);
    Ok(lifecycle)
}

#[cfg(test)]
mod tests;
