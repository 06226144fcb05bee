//! What a backup takes of a dataset: its record and settings, tokens, versions with their bodies, parts, a page at a time.
//!
//! Owns the order in which they are told, and that nothing is left out but uploads under way. Refuses nothing: whoever
//! walks holds one view of the state from the first page to the last, and so everything is as of one log index.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, LeaseId, LogIndex, ObjectVersionId};
use proto::store::Reader;
use proto::v1;
use proto::v1::backup_item::Item;

use crate::keys::{self, table};
use crate::limits::PAGE_BYTES_MAX;
use crate::listing::{self, PartsQuery, VersionsQuery};
use crate::{read, record, root};

/// Versions whose heads are held at a time.
const HEADS_MAX: usize = 256;
/// Tokens or parts that are read at a time.
const ROWS_MAX: usize = 64;

#[cfg(test)]
mod tests;

/// A walk over one dataset.
#[derive(Debug)]
pub struct Walk {
    dataset: DatasetId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Dataset,
    Tokens(Option<LeaseId>),
    Versions(Versions),
    End,
}

#[derive(Debug, Default)]
struct Versions {
    /// Heads that were listed and not told yet.
    listed: VecDeque<v1::ListedObject>,
    /// After which key, and which version of it, the next are listed.
    after: Option<(String, LogIndex)>,
    all_listed: bool,
    /// The version whose parts are being told, and the number to go on after.
    parts: Option<(ObjectVersionId, u32)>,
}

impl Walk {
    /// From the beginning.
    pub fn new(dataset: DatasetId) -> Self {
        Self {
            dataset,
            stage: Stage::Dataset,
        }
    }

    /// The next items, of about a page's bytes; `None` once all were told. `state` is the same in every call.
    pub fn page(&mut self, state: &(impl Reader + ?Sized)) -> Option<Vec<v1::BackupItem>> {
        let mut page = Page::default();
        while !page.is_full() {
            let dataset = self.dataset;
            match &mut self.stage {
                Stage::Dataset => {
                    page.add(Item::Dataset(described(state, &dataset)));
                    self.stage = Stage::Tokens(None);
                }
                Stage::Tokens(after) => match tokens(state, &dataset, after.as_ref(), &mut page) {
                    Some(last) => *after = Some(last),
                    None => self.stage = Stage::Versions(Versions::default()),
                },
                Stage::Versions(versions) => {
                    if !versions.step(state, &dataset, &mut page) {
                        self.stage = Stage::End;
                    }
                }
                Stage::End => break,
            }
        }
        (!page.items.is_empty()).then_some(page.items)
    }
}

#[derive(Default)]
struct Page {
    items: Vec<v1::BackupItem>,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES_MAX
    }

    fn add(&mut self, item: Item) {
        let item = v1::BackupItem { item: Some(item) };
        self.bytes += item.encoded_len();
        self.items.push(item);
    }
}

fn described(state: &(impl Reader + ?Sized), dataset: &DatasetId) -> v1::BackedDataset {
    let record = read::dataset(state, dataset);
    let configs = match &record {
        Some(record) => root::settings(state, dataset, record).configs,
        None => Vec::new(),
    };
    v1::BackedDataset { record, configs }
}

/// Tells some tokens; the last one's lease while there may be more.
fn tokens(
    state: &(impl Reader + ?Sized),
    dataset: &DatasetId,
    after: Option<&LeaseId>,
    page: &mut Page,
) -> Option<LeaseId> {
    let (first, end) = keys::range(table::TOKEN, dataset.as_bytes());
    let first = match after {
        Some(lease) => keys::end_of(&keys::token(table::TOKEN, dataset, lease)),
        None => first,
    };
    let (mut told, mut last) = (0, None);
    state.scan(&first, &end, &mut |key, value| {
        let lease = key.get(1 + DatasetId::BYTES..).unwrap_or_default();
        let lease = LeaseId::try_from(lease).expect("the key was written by us");
        page.add(Item::Token(v1::BackedToken {
            lease_id: lease.into(),
            token: Some(record::decode(value)),
        }));
        told += 1;
        last = Some(lease);
        told < ROWS_MAX
    });
    last.filter(|_| told == ROWS_MAX)
}

impl Versions {
    /// Tells one version, or some parts of the last one; `false` once there are no more.
    fn step(
        &mut self,
        state: &(impl Reader + ?Sized),
        dataset: &DatasetId,
        page: &mut Page,
    ) -> bool {
        if let Some((version, after)) = self.parts {
            self.parts = parts(state, &version, after, page).map(|last| (version, last));
            return true;
        }
        if self.listed.is_empty() && !self.all_listed {
            self.list(state, dataset);
        }
        let Some(listed) = self.listed.pop_front() else {
            return !self.all_listed;
        };
        let head = listed.entry.unwrap_or_default();
        let id = ObjectVersionId::try_from(head.version_id.as_ref());
        let id = id.expect("checked before it was stored");
        if head.parts > 0 {
            self.parts = Some((id, 0));
        }
        page.add(Item::Version(v1::BackedVersion {
            key: listed.key,
            entry: Some(whole(state, &id, head)),
        }));
        true
    }

    fn list(&mut self, state: &(impl Reader + ?Sized), dataset: &DatasetId) {
        let (key, index) = match &self.after {
            Some((key, index)) => (key.as_str(), *index),
            None => ("", LogIndex(0)),
        };
        let query = VersionsQuery {
            dataset,
            prefix: "",
            start_after_key: key,
            start_after_index: index,
            limit: HEADS_MAX,
        };
        let reply = listing::versions(state, query);
        self.all_listed = !reply.truncated;
        self.listed = reply.versions.into();
        self.after = Some((reply.next_key, LogIndex(reply.next_index)));
    }
}

/// An entry with its body; a delete marker has none.
fn whole(
    state: &(impl Reader + ?Sized),
    id: &ObjectVersionId,
    head: v1::ObjectEntry,
) -> v1::ObjectEntry {
    let body = match head.delete_marker {
        true => None,
        false => read::body(state, id),
    };
    let body = body.unwrap_or_default();
    v1::ObjectEntry {
        sealed_manifest: body.sealed_manifest,
        inline: body.inline,
        blocks: body.blocks,
        ..head
    }
}

/// Tells some parts of a version; the last one's number while there are more.
fn parts(
    state: &(impl Reader + ?Sized),
    version: &ObjectVersionId,
    start_after: u32,
    page: &mut Page,
) -> Option<u32> {
    let query = PartsQuery {
        of: version,
        start_after,
        limit: ROWS_MAX,
        with_bodies: true,
    };
    let (parts, more) = listing::parts(state, query);
    let number = |part: &v1::ListedPart| part.part.as_ref().map_or(0, |part| part.number);
    let last = parts.last().map(number);
    for part in parts {
        page.add(Item::Part(v1::BackedPart {
            version_id: Bytes::copy_from_slice(version.as_bytes()),
            part: Some(part),
        }));
    }
    last.filter(|_| more)
}
