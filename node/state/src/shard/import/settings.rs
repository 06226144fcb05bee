//! Settings of a dataset that are imported, or restored.
//!
//! Owns all of them at once: the source's as of one log index. Refuses what could be no dataset's, and never turns object
//! lock off: a lock that was imported before it may be what turned it on.

use prost::Message as _;
use proto::v1;

use crate::keys::{self, table};
use crate::limits::CONFIG_BYTES_MAX;
use crate::shard::config::rules;
use crate::shard::refusal::malformed;
use crate::shard::{Apply, Dataset};

/// Kinds of settings there may ever be.
const KINDS_MAX: usize = 64;

impl Apply<'_> {
    pub(in crate::shard) fn take_settings(
        &mut self,
        dataset: &mut Dataset,
        settings: &v1::ImportedSettings,
    ) {
        let lock = settings.lock.or(dataset.record.lock);
        let record = &mut dataset.record;
        record.lock = lock;
        record.versioning = settings.versioning || lock.is_some();
        record.suspended = settings.suspended && !record.versioning;
        record.hold = settings.hold;
        record.quota = settings.quota;
        record.created_at_ms = settings.created_at_ms;
        let (first, end) = keys::range(table::CONFIG, dataset.id.as_bytes());
        for (key, _) in self.some_records(&first, &end, KINDS_MAX) {
            self.state.delete(&key);
        }
        let place = keys::dataset(table::RULES, &dataset.id);
        self.state.delete(&place);
        for config in &settings.configs {
            let at = keys::config(&dataset.id, config.kind);
            self.state.put(&at, &config.encode_to_vec());
            if config.kind() == v1::ConfigKind::Lifecycle
                && let Ok(rules) = rules(&config.content)
                && !rules.rules.is_empty()
            {
                self.state.put(&place, &rules.encode_to_vec());
            }
        }
    }
}

/// Whether a dataset may have these.
pub(in crate::shard) fn well_formed(settings: &v1::ImportedSettings) -> Result<(), v1::Refused> {
    let ascending = settings
        .configs
        .windows(2)
        .all(|pair| pair[0].kind < pair[1].kind);
    let each = settings.configs.iter().all(|config| {
        let lifecycle = config.kind() == v1::ConfigKind::Lifecycle;
        config.kind() != v1::ConfigKind::Unspecified
            && config.version > 0
            && config.content.len() <= CONFIG_BYTES_MAX
            && (!lifecycle || rules(&config.content).is_ok())
    });
    match ascending && each {
        true => Ok(()),
        false => malformed(),
    }
}
