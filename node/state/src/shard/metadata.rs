//! Sealed metadata of a version, changed in place: tags are changed without a new version.
//!
//! Owns the comparison with what the change was decided on, which is the sealed bytes themselves: every sealing is
//! another, so that of two who read the same one alone has effect, and whoever changes a lock is in nobody's way. Refuses
//! to seal under a key that is not enabled. Object lock keeps versions, not their tags, as in S3.

use prost::Message as _;
use proto::ids::{FeatureLevel, ObjectVersionId};
use proto::v1;

use super::refusal::{Answer, malformed, refuse};
use super::{Apply, Dataset};
use crate::limits::{DIGEST_BYTES, METADATA_BYTES_MAX};
use crate::relocation::Change;

/// The feature level from which `SetMetadata` is a command.
pub const METADATA_LEVEL: FeatureLevel = FeatureLevel(6);

impl Apply<'_> {
    pub(super) fn set_metadata(&mut self, verdict: v1::Verdict, set: &v1::SetMetadata) -> Answer {
        let shape = set.from_digest.len() == DIGEST_BYTES
            && (1..=METADATA_BYTES_MAX).contains(&set.sealed_metadata.len());
        let Ok(id) = ObjectVersionId::try_from(set.version_id.as_ref()) else {
            return malformed();
        };
        if !shape {
            return malformed();
        }
        let dataset = self.writable(&set.dataset_id, Change::Tags)?;
        self.key_allows(verdict, &dataset)?;
        let version = self.version_of(&dataset, &set.key, &id);
        let Some(mut version) = version.filter(|version| !version.head.delete_marker) else {
            return refuse(v1::Refusal::NoSuchObject);
        };
        let head = &mut version.head;
        // The same change again: what was done is as asked.
        if head.sealed_metadata == set.sealed_metadata
            && head.metadata_key_version == set.metadata_key_version
        {
            return Ok(self.done());
        }
        if blake3::hash(&head.sealed_metadata).as_bytes()[..] != set.from_digest[..] {
            return refuse(v1::Refusal::MetadataMoved);
        }
        head.sealed_metadata = set.sealed_metadata.clone();
        head.metadata_key_version = set.metadata_key_version;
        self.metadata_changed(&dataset, &set.key, head);
        self.state
            .put(&version.place, &version.head.encode_to_vec());
        Ok(self.done())
    }

    /// Leaves the change in the change index, of each version the last. The caller saves the head.
    fn metadata_changed(&mut self, dataset: &Dataset, key: &str, head: &mut v1::ObjectEntry) {
        self.forget_change(dataset, head.metadata_index);
        head.metadata_index = self.index.0;
        let change = v1::ChangeRecord {
            key: key.to_owned(),
            version_id: head.version_id.clone(),
            kind: v1::ChangeKind::Metadata.into(),
            ..Default::default()
        };
        self.note(dataset, &change);
    }
}

#[cfg(test)]
mod tests;
