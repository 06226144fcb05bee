//! A warrant of the KMS, as a file: that datasets may be restored, or are confirmed.
//!
//! Owns its form. Refuses a file that is none. What it says counts by its signature, which storage nodes check; here it is
//! only read.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, DatasetName, UnixMs};
use proto::storage_backup::IndexFile;
use proto::v1;
use serde::{Deserialize, Serialize};

use super::restore::index_digest;
use super::{Outcome, StorageBackupError};

const FORMAT: u32 = 1;

/// A warrant, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Warrant {
    encoded: Bytes,
    body: v1::RestoreWarrantBody,
    terms: v1::DatasetRestore,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    reduit_restore_warrant: u32,
    warrant: String,
}

fn refused(why: impl Into<String>) -> StorageBackupError {
    StorageBackupError::Warrant { why: why.into() }
}

impl Warrant {
    /// As the KMS gave it.
    pub fn new(warrant: &v1::RestoreWarrant) -> Outcome<Self> {
        Self::read(warrant.encode_to_vec().into())
    }

    fn read(encoded: Bytes) -> Outcome<Self> {
        let none = |_| refused("it does not decode");
        let warrant = v1::RestoreWarrant::decode(encoded.clone()).map_err(none)?;
        let body = v1::RestoreWarrantBody::decode(warrant.body).map_err(none)?;
        let approved = body.approved.clone().unwrap_or_default();
        let terms = approved.terms.unwrap_or_default();
        if body.format != FORMAT || terms.format != FORMAT {
            return Err(refused("it is of a later build"));
        }
        Ok(Self {
            encoded,
            body,
            terms,
        })
    }

    /// As a file.
    pub fn to_text(&self) -> String {
        let file = File {
            reduit_restore_warrant: FORMAT,
            warrant: hex::encode(&self.encoded),
        };
        let mut text = serde_json::to_string_pretty(&file).expect("text and numbers always encode");
        text.push('\n');
        text
    }

    /// From a file.
    pub fn parse(text: &str) -> Outcome<Self> {
        let none = "that file is no warrant for a restore";
        let file: File = serde_json::from_str(text).map_err(|_| refused(none))?;
        if file.reduit_restore_warrant != FORMAT {
            return Err(refused("it is of a later build"));
        }
        let bytes = hex::decode(&file.warrant).map_err(|_| refused(none))?;
        Self::read(bytes.into())
    }

    /// As nodes take it.
    pub(super) fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    /// What two people approved.
    pub fn terms(&self) -> &v1::DatasetRestore {
        &self.terms
    }

    /// The restore's id.
    pub fn id(&self) -> Bytes {
        self.body.restore_id.clone()
    }

    /// Until when it counts.
    pub fn expires(&self) -> UnixMs {
        UnixMs(self.body.expires_at_ms)
    }

    /// Its datasets.
    pub fn datasets(&self) -> Outcome<Vec<(DatasetId, DatasetName)>> {
        let one = |target: &v1::RestoreTarget| {
            let id = DatasetId::try_from(&target.dataset_id[..]).ok()?;
            Some((id, target.name.parse().ok()?))
        };
        let all: Option<Vec<_>> = self.terms.datasets.iter().map(one).collect();
        all.ok_or_else(|| refused("it names what is no dataset"))
    }

    /// Refuses one that is for another step.
    pub(super) fn is_to(&self, what: v1::RestoreWhat) -> Outcome<()> {
        match (self.terms.what() == what, what) {
            (true, _) => Ok(()),
            (false, v1::RestoreWhat::Confirm) => Err(refused("it confirms nothing")),
            (false, _) => Err(refused("it is to confirm what was restored")),
        }
    }

    /// Refuses another backup than the one that was approved.
    pub(super) fn is_of(&self, file: &IndexFile) -> Outcome<()> {
        let same = self.terms.backup_id == file.index.backup_id
            && self.terms.index_digest[..] == index_digest(file);
        match same {
            true => Ok(()),
            false => Err(refused(format!(
                "it is of backup {}, as that was when it was approved",
                hex::encode(&self.terms.backup_id)
            ))),
        }
    }

    /// What it says of a dataset, and of its key.
    pub(super) fn of_dataset(
        &self,
        dataset: &DatasetId,
    ) -> Outcome<(&v1::RestoreTarget, &v1::RestorableKey)> {
        let id = dataset.as_bytes();
        let is = |of: &Bytes| of[..] == id[..];
        let target = self.terms.datasets.iter().find(|one| is(&one.dataset_id));
        let key = self.body.keys.iter().find(|key| is(&key.dataset_id));
        target
            .zip(key)
            .ok_or_else(|| refused(format!("it does not name dataset {dataset}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warrant(what: v1::RestoreWhat) -> v1::RestoreWarrant {
        let dataset: Bytes = vec![0xD5; 16].into();
        let terms = v1::DatasetRestore {
            format: 1,
            what: what.into(),
            backup_id: vec![1; 16].into(),
            index_digest: vec![2; 32].into(),
            datasets: vec![v1::RestoreTarget {
                dataset_id: dataset.clone(),
                name: "cti".to_owned(),
                epoch: 0,
            }],
        };
        let body = v1::RestoreWarrantBody {
            format: 1,
            approved: Some(v1::ApprovedRestore {
                terms: Some(terms),
                ..Default::default()
            }),
            keys: vec![v1::RestorableKey {
                dataset_id: dataset,
                ..Default::default()
            }],
            ..Default::default()
        };
        v1::RestoreWarrant {
            body: body.encode_to_vec().into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_file_gives_back_the_warrant_and_other_files_are_none() {
        let held = Warrant::new(&warrant(v1::RestoreWhat::Restore)).expect("a warrant");
        assert_eq!(Warrant::parse(&held.to_text()).expect("the same"), held);
        held.is_to(v1::RestoreWhat::Restore).expect("for that");
        held.is_to(v1::RestoreWhat::Confirm).expect_err("not that");
        held.of_dataset(&DatasetId([0xD5; 16])).expect("named");
        held.of_dataset(&DatasetId([1; 16])).expect_err("not named");
        for other in ["", "{}", "{\"reduit_restore_warrant\":2,\"warrant\":\"\"}"] {
            assert!(Warrant::parse(other).is_err(), "{other}");
        }
        let later = held.to_text().replace("warrant\": 1", "warrant\": 2");
        assert!(Warrant::parse(&later).is_err());
    }
}
