//! What must hold of uploads and parts.
//!
//! Owns the walk from each part to what it belongs to. Refuses a part of nothing: its blocks would be kept for ever.

use std::collections::BTreeMap;

use proto::ids::{DatasetId, LogIndex, ObjectVersionId};
use proto::store::Reader;
use proto::v1;

use super::{Violation, dataset_of, heads, rows};
use crate::keys::{self, table};
use crate::record::{self, ShardMeta};

/// Every part is of one upload, one version or something whose removal is due, which counts it; its record leads back
/// and it has a body. Every upload stands in its place. What is due to be removed is no version any more.
pub fn invariant_parts_belong(state: &(impl Reader + ?Sized)) -> Result<(), Violation> {
    let mut counted: BTreeMap<ObjectVersionId, (u32, u64)> = BTreeMap::new();
    for (_, part) in parts(state) {
        let id = ObjectVersionId::try_from(part.part_id.as_ref()).expect("checked when stored");
        let at = crate::read::version(state, &id);
        let of = at.as_ref().map(|at| at.part_of.clone()).unwrap_or_default();
        let body = crate::read::body(state, &id);
        let matches = at.is_some_and(|at| {
            at.kind() == v1::VersionKind::Part
                && at.part == part.number
                && at.finished_index == part.finished_index
                && body.is_some_and(|body| {
                    body.blocks.len() == at.blocks as usize
                        && body.blocks.is_empty() != body.inline.is_empty()
                })
        });
        let of = ObjectVersionId::try_from(of.as_ref()).unwrap_or(ObjectVersionId([0; 16]));
        let row = state.value(&keys::part(&of, part.number));
        ensure!(
            matches && row.is_some_and(|row| record::decode::<v1::PartRecord>(&row) == part),
            "parts_belong",
            "part {id}"
        );
        let sum = counted.entry(of).or_default();
        *sum = (sum.0 + 1, sum.1 + part.sealed_bytes);
    }
    for (_, _, head) in heads(state)
        .into_iter()
        .filter(|(_, _, head)| head.parts > 0)
    {
        let id = ObjectVersionId::try_from(head.version_id.as_ref()).expect("checked when stored");
        let sum = counted.remove(&id);
        ensure!(
            sum == Some((head.parts, head.sealed_bytes)),
            "parts_belong",
            "version {id} has {sum:?}"
        );
    }
    for (dataset, upload) in uploads(state) {
        let id =
            ObjectVersionId::try_from(upload.version_id.as_ref()).expect("checked when stored");
        let at = crate::read::version(state, &id).unwrap_or_default();
        let place = keys::upload(&dataset, &at.key, LogIndex(at.finished_index));
        let sum = counted.remove(&id).unwrap_or_default();
        ensure!(
            at.kind() == v1::VersionKind::Upload
                && at.finished_index == upload.begun_index
                && state.value(&place).is_some()
                && sum == (upload.parts, upload.sealed_bytes),
            "parts_belong",
            "upload {id} has {sum:?}"
        );
    }
    for (key, _) in rows(state, table::DOOMED) {
        let (_, id) = keys::doomed_parts(&key).expect("the key was written by us");
        counted.remove(&id);
        ensure!(
            crate::read::version(state, &id).is_none() && ShardMeta::load(state).sweeping,
            "parts_belong",
            "{id} is to be removed and is not gone"
        );
    }
    ensure!(
        counted.is_empty(),
        "parts_belong",
        "parts of nothing: {:?}",
        counted.keys()
    );
    Ok(())
}

/// Every part, with its dataset.
pub(super) fn parts(state: &(impl Reader + ?Sized)) -> Vec<(DatasetId, v1::PartRecord)> {
    let dataset = |part: &v1::PartRecord| {
        let id = ObjectVersionId::try_from(part.part_id.as_ref()).ok()?;
        DatasetId::try_from(crate::read::version(state, &id)?.dataset_id.as_ref()).ok()
    };
    let found = rows(state, table::PART).into_iter().map(|(_, value)| {
        let part: v1::PartRecord = record::decode(&value);
        // Of none: counted for a dataset that cannot be.
        (dataset(&part).unwrap_or(DatasetId([0; 16])), part)
    });
    found.collect()
}

/// Every upload, with its dataset.
pub(super) fn uploads(state: &(impl Reader + ?Sized)) -> Vec<(DatasetId, v1::UploadRecord)> {
    rows(state, table::UPLOAD)
        .into_iter()
        .map(|(key, value)| (dataset_of(&key), record::decode(&value)))
        .collect()
}
