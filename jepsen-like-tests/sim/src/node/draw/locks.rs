//! Object lock, sealed metadata, settings, lifecycles and quotas.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::DatasetId;
use proto::v1;
use proto::v1::shard_command::Command;
use proto::v1::{ConfigKind, RetentionMode};
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::{Draw, KEYS};
use crate::node::locks::DAY;
use crate::node::model::{Model, version_id};

/// What a new version is to be kept by stands in its entry, or its upload.
struct Asked<'a> {
    dataset: &'a [u8],
    retention: &'a mut Option<v1::Retention>,
    legal_hold: &'a mut bool,
}

fn asked(command: &mut v1::ShardCommand) -> Option<Asked<'_>> {
    let (dataset, retention, legal_hold) = match command.command.as_mut()? {
        Command::PutObject(v1::PutObject {
            dataset_id, entry, ..
        })
        | Command::FinishObject(v1::FinishObject {
            dataset_id, entry, ..
        }) => {
            let entry = entry.as_mut()?;
            (dataset_id, &mut entry.retention, &mut entry.legal_hold)
        }
        Command::CreateUpload(create) => {
            let upload = create.upload.as_mut()?;
            (
                &mut create.dataset_id,
                &mut upload.retention,
                &mut upload.legal_hold,
            )
        }
        _ => return None,
    };
    Some(Asked {
        dataset,
        retention,
        legal_hold,
    })
}

impl Draw {
    /// A new version may be asked for with a lock, mostly where there can be one.
    pub(super) fn lock_new(&mut self, model: &Model, command: &mut v1::ShardCommand) {
        let Some(asked) = asked(command) else {
            return;
        };
        let id = DatasetId::try_from(asked.dataset).ok();
        let held = id.and_then(|id| model.datasets.get(&id));
        let lockable = held.is_some_and(|dataset| dataset.record.lock.is_some());
        if !lockable && !self.rng.random_ratio(1, 30) {
            return;
        }
        *asked.legal_hold = self.rng.random_ratio(1, 12);
        if self.rng.random_ratio(1, 5) {
            *asked.retention = Some(self.retention(model));
        }
    }

    fn retention(&mut self, model: &Model) -> v1::Retention {
        let lasts = [1, 3_600_000, DAY, 2 * DAY];
        let modes = [RetentionMode::Governance, RetentionMode::Compliance];
        v1::Retention {
            mode: (*modes.choose(&mut self.rng).expect("not empty")).into(),
            until_ms: model.time + *lasts.choose(&mut self.rng).expect("not empty"),
        }
    }

    pub(super) fn lock(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        let locked = model.datasets.get(&id);
        let locked = locked.is_some_and(|dataset| dataset.record.lock.is_some());
        match self.rng.random_range(0..6) {
            0 => self.object_lock(model, &id),
            // Not every dataset at once: what comes without it stays drawn.
            1..4 if !locked && self.rng.random_ratio(1, 4) => self.object_lock(model, &id),
            1..4 => self.set_retention(model, &id),
            _ => self.legal_hold(model, &id),
        }
    }

    fn object_lock(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let mode = [
            RetentionMode::Unspecified,
            RetentionMode::Unspecified,
            RetentionMode::Governance,
            RetentionMode::Compliance,
        ];
        let mode = *mode.choose(&mut self.rng).expect("not empty");
        let days = match mode {
            RetentionMode::Unspecified => 0,
            _ => self.rng.random_range(1..3),
        };
        let set = Command::SetObjectLock(v1::SetObjectLock {
            dataset_id: (*id).into(),
            lock: Some(v1::ObjectLock {
                default_mode: mode.into(),
                default_days: days,
            }),
        });
        self.decided(model, id, set)
    }

    /// Key and id of some version, markers among them; rarely of none.
    fn some_version(&mut self, model: &Model, id: &DatasetId) -> (String, Bytes) {
        let objects = model.datasets.get(id).map(|dataset| &dataset.objects);
        let versions = objects
            .into_iter()
            .flatten()
            .flat_map(|(key, versions)| versions.iter().map(move |version| (key, version.id)));
        match versions.choose(&mut self.rng) {
            Some((key, version)) if !self.rng.random_ratio(1, 30) => (key.clone(), version.into()),
            _ => {
                let key = *KEYS.choose(&mut self.rng).expect("not empty");
                (key.to_owned(), self.mint().into())
            }
        }
    }

    fn set_retention(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let (key, version) = self.some_version(model, id);
        let versions = model.datasets.get(id).and_then(|d| d.objects.get(&key));
        let held = versions
            .into_iter()
            .flatten()
            .find(|held| version_id(&version) == Some(held.id))
            .and_then(|held| held.entry.retention);
        let retention = match (self.rng.random_range(0..6), held) {
            (0, _) => None,
            (1 | 2, Some(held)) => Some(v1::Retention {
                until_ms: held.until_ms + DAY / 2,
                ..held
            }),
            (3, Some(held)) => Some(v1::Retention {
                until_ms: held.until_ms.saturating_sub(1000),
                ..held
            }),
            _ => Some(self.retention(model)),
        };
        let set = Command::SetRetention(v1::SetRetention {
            dataset_id: (*id).into(),
            key,
            version_id: version,
            retention,
            bypass_governance: self.rng.random_ratio(1, 3),
        });
        self.asked(model, id, set)
    }

    fn legal_hold(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let (key, version_id) = self.some_version(model, id);
        let set = Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: (*id).into(),
            key,
            version_id,
            on: self.rng.random_ratio(1, 3),
        });
        self.asked(model, id, set)
    }

    /// Other metadata for some version, mostly decided on what is there; of few values, so that it may be the same.
    pub(super) fn metadata(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        let (key, version) = self.some_version(model, &id);
        let versions = model.datasets.get(&id).and_then(|d| d.objects.get(&key));
        let mut versions = versions.into_iter().flatten();
        let held = versions.find(|held| version_id(&version) == Some(held.id));
        let held = held.map(|held| held.entry.sealed_metadata.clone());
        let from = match held.filter(|_| !self.rng.random_ratio(1, 6)) {
            Some(held) => held,
            None => Bytes::from_static(b"metadata"),
        };
        let set = Command::SetMetadata(v1::SetMetadata {
            dataset_id: id.into(),
            key,
            version_id: version,
            from_digest: Bytes::copy_from_slice(blake3::hash(&from).as_bytes()),
            sealed_metadata: Bytes::copy_from_slice(&[b't', self.rng.random_range(0..8)]),
            metadata_key_version: self.rng.random_range(1..3),
        });
        self.asked(model, &id, set)
    }

    pub(super) fn setting(&mut self, model: &Model) -> v1::ShardCommand {
        let id = self.dataset(model);
        match self.rng.random_range(0..8) {
            0..3 => self.config(model, &id),
            3 | 4 => self.quota(model, &id),
            _ => {
                let steps = *[0, 1, 4, 64].choose(&mut self.rng).expect("not empty");
                let step = Command::LifecycleStep(v1::LifecycleStep { steps });
                self.by_itself(model, step)
            }
        }
    }

    fn config(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let kind = [
            ConfigKind::Lifecycle,
            ConfigKind::Lifecycle,
            ConfigKind::Lifecycle,
            ConfigKind::Cors,
        ];
        let kind = *kind.choose(&mut self.rng).expect("not empty");
        let content = match kind {
            _ if self.rng.random_ratio(1, 8) => Bytes::new(),
            ConfigKind::Lifecycle => self.lifecycle(),
            _ => Bytes::copy_from_slice(&[self.rng.random_range(0..3)]),
        };
        let held = model.datasets.get(id).and_then(|dataset| {
            let held = dataset.settings.get(&kind.into())?;
            Some(held.version)
        });
        let stale = u64::from(self.rng.random_ratio(1, 6));
        let set = Command::SetConfig(v1::SetConfig {
            dataset_id: (*id).into(),
            kind: kind.into(),
            content,
            from_version: held.unwrap_or(0).saturating_sub(stale),
            any_version: self.rng.random_ratio(1, 3),
        });
        self.decided(model, id, set)
    }

    fn lifecycle(&mut self) -> Bytes {
        let rules = (0..self.rng.random_range(1..4)).map(|n| {
            let mut days = || match self.rng.random_range(0..2) {
                0 => 0,
                _ => self.rng.random_range(1..4),
            };
            let (expire_days, noncurrent_days, abort_days) = (days(), days(), days());
            v1::LifecycleRule {
                id: format!("r{n}"),
                enabled: self.rng.random_ratio(4, 5),
                prefix: ["", "", "a", "a/"][self.rng.random_range(0..4)].to_owned(),
                expire_days,
                expire_markers: self.rng.random(),
                noncurrent_days,
                newer_noncurrent: match noncurrent_days {
                    0 => 0,
                    _ => self.rng.random_range(0..3),
                },
                abort_days,
            }
        });
        let rules = v1::Lifecycle {
            rules: rules.collect(),
        };
        rules.encode_to_vec().into()
    }

    /// Around what is there, so that the next commands meet it; mostly lifted again.
    fn quota(&mut self, model: &Model, id: &DatasetId) -> v1::ShardCommand {
        let held = model.datasets.get(id);
        let live = held.map_or(0, |dataset| dataset.objects.len() as u64);
        let bytes = model.sealed_bytes(id);
        let objects = [0, live, live + 1, live.saturating_sub(1)];
        let sealed = [
            0,
            bytes + self.rng.random_range(0..1500),
            bytes,
            bytes.saturating_sub(10),
        ];
        let quota = v1::Quota {
            objects_max: *objects.choose(&mut self.rng).expect("not empty"),
            sealed_bytes_max: *sealed.choose(&mut self.rng).expect("not empty"),
        };
        let set = Command::SetQuota(v1::SetQuota {
            dataset_id: (*id).into(),
            quota: Some(quota).filter(|_| self.rng.random()),
        });
        self.decided(model, id, set)
    }
}
