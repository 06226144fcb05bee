//! Uploads under way, and the parts of uploads and versions, as readers see them.

use node_state::keys::{self, table};
use node_state::listing::{PartsQuery, UploadsQuery, parts as listed_parts, uploads};
use node_state::read;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId};
use proto::store::MemoryStore;
use proto::v1;

use super::rows;
use crate::node::model::{Dataset, Model};
use crate::node::parts::Part;
use crate::{Broken, hold};

/// Every upload with its parts.
pub(super) fn of(state: &MemoryStore, dataset: &Dataset, id: &DatasetId) -> Result<(), Broken> {
    for (of, upload) in &dataset.uploads {
        let held = read::upload(state, id, &upload.key, of);
        hold!(
            held.as_ref() == Some(&upload.record()),
            "upload {of} is {held:?}, the model says {:?}",
            upload.record()
        );
        parts(state, of, upload.parts.values())?;
    }
    let (start, end) = keys::range(table::UPLOAD, id.as_bytes());
    let held = rows(state, &start, &end);
    hold!(
        held == dataset.uploads.len(),
        "dataset {id} has {held} uploads, the model {}",
        dataset.uploads.len()
    );
    Ok(())
}

/// The parts of an upload or version, with their bytes, in pages.
pub(super) fn parts<'a>(
    state: &MemoryStore,
    of: &ObjectVersionId,
    wanted: impl Iterator<Item = &'a Part>,
) -> Result<(), Broken> {
    let mut held = Vec::new();
    loop {
        let last = held
            .last()
            .and_then(|part: &v1::ListedPart| part.part.as_ref());
        let query = PartsQuery {
            of,
            start_after: last.map_or(0, |part| part.number),
            limit: 7,
            with_bodies: true,
        };
        let (page, truncated) = listed_parts(state, query);
        held.extend(page);
        if !truncated {
            break;
        }
    }
    let wanted: Vec<v1::ListedPart> = wanted.map(|part| part.listed.clone()).collect();
    hold!(
        held == wanted,
        "{of} has the parts {held:?}, the model says {wanted:?}"
    );
    Ok(())
}

/// Pages of uploads are the model's list: by key, oldest first.
pub(super) fn listing(
    state: &MemoryStore,
    dataset: &Dataset,
    id: &DatasetId,
    prefix: &str,
    limit: usize,
) -> Result<(), Broken> {
    let (mut listed, mut key, mut index) = (Vec::new(), String::new(), 0);
    loop {
        let query = UploadsQuery {
            dataset: id,
            prefix,
            delimiter: "",
            start_after_key: &key,
            start_after_index: LogIndex(index),
            limit,
        };
        let page = uploads(state, query);
        let found = page.uploads.into_iter();
        listed.extend(found.map(|listed| (listed.key, listed.upload.unwrap_or_default())));
        if !page.truncated {
            break;
        }
        (key, index) = (page.next_key, page.next_index);
    }
    let under = dataset
        .uploads
        .values()
        .filter(|u| u.key.starts_with(prefix));
    let mut wanted: Vec<_> = under.map(|u| (u.key.clone(), u.record())).collect();
    wanted.sort_by_key(|(key, record)| (key.clone(), record.begun_index));
    hold!(
        listed == wanted,
        "{prefix:?} lists uploads {listed:?}, the model {wanted:?}"
    );
    Ok(())
}

/// Nothing of what is gone is left when a sweep says so: each row of a part is of something that is there.
pub(super) fn nothing_is_due(state: &MemoryStore, model: &Model) -> Result<(), Broken> {
    hold!(
        model.doomed.is_empty(),
        "parts of what is gone were left: {:?}",
        model.doomed
    );
    let (start, end) = keys::range(table::DOOMED, &[]);
    let doomed = rows(state, &start, &end);
    hold!(doomed == 0, "{doomed} removals of parts were left");
    let living = model.datasets.values();
    let wanted: usize = living.map(|dataset| dataset.parts().count()).sum();
    let (start, end) = keys::range(table::PART, &[]);
    let held = rows(state, &start, &end);
    hold!(held == wanted, "{held} parts are there, {wanted} should be");
    Ok(())
}
