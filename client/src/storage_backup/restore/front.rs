//! What a backup has of a dataset before its versions: its record, its settings, its tokens.
//!
//! Owns the pass over all pages that begins a restore. Refuses a backup under another name or key than was approved, and a
//! token that would open nothing.

use proto::ids::DatasetId;
use proto::v1;
use proto::v1::backup_item::Item;

use super::{Outcome, Reading, Restored, StorageBackupError, Warrant};

/// Tokens of one batch, about 500 bytes each.
const TOKENS_MAX: usize = 500;

/// The first items of a dataset.
pub(super) struct Front {
    pub(super) record: v1::DatasetRecord,
    pub(super) configs: Vec<v1::ConfigRecord>,
    pub(super) tokens: Vec<v1::RestoredToken>,
}

impl Front {
    /// Opens every page, in order. The caller finishes the reading.
    pub(super) async fn read(
        reading: &mut Reading<'_>,
        done: &mut Restored,
        progress: &dyn Fn(&Restored),
    ) -> Outcome<Self> {
        let mut front = Self {
            record: v1::DatasetRecord::default(),
            configs: Vec::new(),
            tokens: Vec::new(),
        };
        while let Some(items) = reading.next().await? {
            for item in items {
                match item.item {
                    Some(Item::Dataset(told)) => {
                        front.record = told.record.unwrap_or_default();
                        front.configs = told.configs;
                    }
                    Some(Item::Token(told)) => front.tokens.push(v1::RestoredToken {
                        lease_id: told.lease_id,
                        token: told.token,
                    }),
                    Some(Item::Version(_) | Item::Part(_)) => done.items += 1,
                    None => {}
                }
            }
            done.pages = reading.rows.len() as u64;
            progress(done);
        }
        Ok(front)
    }

    /// Whether the KMS has what opens it, and people have approved it under this name. Nodes ask the same.
    pub(super) fn allowed(&self, warrant: &Warrant, id: &DatasetId) -> Outcome<()> {
        let (target, key) = warrant.of_dataset(id)?;
        let refused = |why: String| StorageBackupError::Warrant { why };
        if target.name != self.record.name {
            return Err(refused(format!(
                "dataset {id} has another name in the backup than {}",
                target.name
            )));
        }
        if key.kek_id != self.record.kek_id {
            return Err(refused(format!(
                "the kms has another key for dataset {id} than the backup"
            )));
        }
        let versions = self.tokens.iter().filter_map(|restored| {
            let token = restored.token.as_ref()?;
            Some(token.kek_version)
        });
        let there = key.oldest_version..=key.current_version;
        match versions
            .into_iter()
            .find(|version| !there.contains(version))
        {
            None => Ok(()),
            Some(version) => Err(StorageBackupError::NoKeyVersion {
                dataset: id.to_string(),
                version,
            }),
        }
    }
}

/// Tokens in batches.
pub(super) fn batches(tokens: Vec<v1::RestoredToken>) -> Vec<Vec<v1::RestoredToken>> {
    tokens.chunks(TOKENS_MAX).map(<[_]>::to_vec).collect()
}
