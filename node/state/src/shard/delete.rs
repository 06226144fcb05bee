//! Deletes: of the current version, by a marker where versions are kept, or of one version by its id.
//!
//! Owns what S3 says of them. Refuses to forget: each delete leaves a tombstone or a marker in the change index.

use bytes::Bytes;
use proto::ids::{ObjectKey, ObjectVersionId};
use proto::v1;

use super::put::{precondition, well_formed};
use super::refusal::{Answer, malformed, refuse};
use super::versions::NewVersion;
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::record;
use crate::relocation::Change;

impl Apply<'_> {
    pub(super) fn delete_object(&mut self, delete: &v1::DeleteObject) -> Answer {
        let id_or_none = |id: &Bytes| matches!(id.len(), 0 | ObjectVersionId::BYTES);
        let shape = delete.key.parse::<ObjectKey>().is_ok()
            && well_formed(delete.precondition.as_ref())
            && id_or_none(&delete.version_id)
            && id_or_none(&delete.new_marker_id);
        if !shape {
            return malformed();
        }
        let mut dataset = self.writable(&delete.dataset_id, Change::Write)?;
        let current = self.current(&dataset.id, &delete.key);
        let version = ObjectVersionId::try_from(delete.version_id.as_ref()).ok();
        // Before the precondition, which would hide that the request can never be run.
        let marker = self.marker(delete, &dataset, current.as_ref())?;
        precondition(delete.precondition.as_ref(), current.as_ref())?;
        let done = match (version, marker) {
            (Some(id), _) => self.delete_version(&mut dataset, delete, current, &id)?,
            (None, Some(marker)) => {
                let version_id = Bytes::copy_from_slice(marker.id.as_bytes());
                let replaced = self.add_version(&mut dataset, &delete.key, current, marker);
                v1::Done {
                    version_id,
                    replaced_version_id: replaced,
                    ..self.done()
                }
            }
            (None, None) => {
                let Some(current) = current else {
                    return refuse(v1::Refusal::NoSuchObject);
                };
                self.remove_current(&mut dataset, &delete.key, &current)
            }
        };
        self.save(&dataset);
        Ok(done)
    }

    /// The delete marker to write, where one is: versioning is on, or was and kept something of this key.
    fn marker(
        &self,
        delete: &v1::DeleteObject,
        dataset: &Dataset,
        current: Option<&v1::ObjectEntry>,
    ) -> Result<Option<NewVersion>, v1::Refused> {
        let keeps = self.keeps_versions(dataset, &delete.key, current);
        if !delete.version_id.is_empty() || !keeps {
            return Ok(None);
        }
        let Ok(id) = ObjectVersionId::try_from(delete.new_marker_id.as_ref()) else {
            return malformed();
        };
        self.unused(&id)?;
        let entry = v1::ObjectEntry {
            format: 1,
            delete_marker: true,
            ..Default::default()
        };
        Ok(Some(NewVersion { id, entry }))
    }

    /// Whether a delete that names no version writes a marker.
    pub(super) fn keeps_versions(
        &self,
        dataset: &Dataset,
        key: &str,
        current: Option<&v1::ObjectEntry>,
    ) -> bool {
        dataset.record.versioning
            || current.is_some_and(|current| {
                current.versioned
                    || current.delete_marker
                    || self.newest_older(&dataset.id, key).is_some()
            })
    }

    fn delete_version(
        &mut self,
        dataset: &mut Dataset,
        delete: &v1::DeleteObject,
        current: Option<v1::ObjectEntry>,
        id: &ObjectVersionId,
    ) -> Answer {
        let key = delete.key.as_str();
        let at: Option<v1::VersionRecord> =
            record::load(&*self.state, &keys::version(table::VERSION, id));
        let of_key = |at: &v1::VersionRecord| {
            at.kind() == v1::VersionKind::Object
                && at.key == key
                && at.dataset_id == dataset.id.as_bytes()[..]
        };
        let Some(at) = at.filter(of_key) else {
            return refuse(v1::Refusal::NoSuchObject);
        };
        match current {
            Some(current) if current.version_id == id.as_bytes()[..] => {
                self.removable(&current, delete.bypass_governance)?;
                Ok(self.remove_current(dataset, key, &current))
            }
            current => {
                let older = self.older(&dataset.id, key, at.finished_index);
                self.removable(&older, delete.bypass_governance)?;
                Ok(self.remove_older(dataset, key, current, at.finished_index))
            }
        }
    }
}
