//! Listings: pages over objects, over versions and over uploads, in key order.
//!
//! Owns delimiter folding by seeking past each common prefix, and the bounds of a page: entries, bytes, records
//! looked at. A page is a snapshot because its reader is one; the next page goes on by key. Refuses to show delete
//! markers as objects.

use prost::Message as _;
use proto::ids::{DatasetId, LogIndex};
use proto::store::Reader;
use proto::v1;

use crate::keys::{self, table};
use crate::limits::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_SCANS_MAX};
use crate::record;

mod uploads;

pub use uploads::{PartsQuery, UploadsQuery, parts, uploads};

/// Which objects a page is asked for.
#[derive(Clone, Copy)]
pub struct ObjectsQuery<'a> {
    /// Of this dataset.
    pub dataset: &'a DatasetId,
    /// Whose keys start with this.
    pub prefix: &'a str,
    /// Keys with this after the prefix are folded into one common prefix; empty folds nothing.
    pub delimiter: &'a str,
    /// After this key, or after everything under this common prefix of an earlier page.
    pub start_after: &'a str,
    /// At most so many; 0 means as many as a page may have.
    pub limit: usize,
}

/// What one page has taken so far.
struct Page {
    limit: usize,
    entries: usize,
    bytes: usize,
    scans: usize,
}

impl Page {
    fn new(limit: usize) -> Self {
        let limit = if limit == 0 {
            PAGE_ENTRIES_MAX
        } else {
            limit.min(PAGE_ENTRIES_MAX)
        };
        Self {
            limit,
            entries: 0,
            bytes: 0,
            scans: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.entries >= self.limit || self.bytes >= PAGE_BYTES_MAX
    }

    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    /// Counts a record looked at; `false` when it was one too many.
    fn look(&mut self) -> bool {
        self.scans += 1;
        self.scans <= PAGE_SCANS_MAX
    }
}

/// A page of current objects and common prefixes. `at_index` is the caller's to set.
pub fn objects(state: &(impl Reader + ?Sized), query: ObjectsQuery<'_>) -> v1::ListObjectsReply {
    let mut page = Page::new(query.limit);
    let mut reply = v1::ListObjectsReply::default();
    // What a further page would start after: the last one shown, or the last one looked at.
    let mut last = String::new();
    let under_prefix = keys::object_prefix(table::CURRENT, query.dataset, query.prefix);
    let end = keys::end_of(&under_prefix);
    let mut start = under_prefix.max(first_key(query));
    while start < end {
        let mut fold_past = None;
        state.scan(&start, &end, &mut |record_key, value| {
            let (key, _) = keys::object_key(record_key).expect("the key was written by us");
            if !page.look() {
                reply.truncated = true;
                return false;
            }
            let head: v1::ObjectEntry = record::decode(value);
            if head.delete_marker {
                last = key;
                return true;
            }
            if page.is_full() {
                reply.truncated = true;
                return false;
            }
            if let Some(folded) = common_prefix(query.prefix, query.delimiter, &key) {
                page.add(folded.len());
                folded.clone_into(&mut last);
                reply.common_prefixes.push(folded.to_owned());
                let under = keys::object_prefix(table::CURRENT, query.dataset, folded);
                fold_past = Some(keys::end_of(&under));
                return false;
            }
            page.add(key.len() + head.encoded_len());
            last.clone_from(&key);
            reply.objects.push(v1::ListedObject {
                key,
                entry: Some(head),
                is_current: true,
            });
            true
        });
        match fold_past {
            Some(past) => start = past,
            None => break,
        }
    }
    if reply.truncated {
        reply.next_start_after = last;
    }
    reply
}

fn first_key(query: ObjectsQuery<'_>) -> Vec<u8> {
    let after = query.start_after;
    if after.is_empty() {
        return Vec::new();
    }
    if common_prefix(query.prefix, query.delimiter, after) == Some(after) {
        return keys::end_of(&keys::object_prefix(table::CURRENT, query.dataset, after));
    }
    let mut key = keys::current(query.dataset, after);
    key.push(0);
    key
}

/// Prefix, then everything up to and with the first delimiter after it.
fn common_prefix<'k>(prefix: &str, delimiter: &str, key: &'k str) -> Option<&'k str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Which versions a page is asked for.
#[derive(Clone, Copy)]
pub struct VersionsQuery<'a> {
    /// Of this dataset.
    pub dataset: &'a DatasetId,
    /// Of objects whose keys start with this.
    pub prefix: &'a str,
    /// After this key; empty for the first page.
    pub start_after_key: &'a str,
    /// Within that key, after the version finished at this log index; 0: after all of them.
    pub start_after_index: LogIndex,
    /// At most so many; 0 means as many as a page may have.
    pub limit: usize,
}

/// A page of versions and delete markers: keys in order, of one key the newest first. `at_index` is the caller's to
/// set.
pub fn versions(state: &(impl Reader + ?Sized), query: VersionsQuery<'_>) -> v1::ListVersionsReply {
    let mut page = Page::new(query.limit);
    let mut reply = v1::ListVersionsReply::default();
    let under_prefix = keys::object_prefix(table::CURRENT, query.dataset, query.prefix);
    let end = keys::end_of(&under_prefix);
    let mut start = under_prefix;
    if !query.start_after_key.is_empty() {
        let mut after = keys::current(query.dataset, query.start_after_key);
        after.push(0);
        start = start.max(after);
        if query.start_after_index.0 > 0 && query.start_after_key.starts_with(query.prefix) {
            let from = query.start_after_index;
            older_versions(
                state,
                query,
                query.start_after_key,
                Some(from),
                &mut page,
                &mut reply,
            );
        }
    }
    if !reply.truncated && start < end {
        state.scan(&start, &end, &mut |record_key, value| {
            let (key, _) = keys::object_key(record_key).expect("the key was written by us");
            let head: v1::ObjectEntry = record::decode(value);
            add_version(&mut page, &mut reply, &key, head, true)
                && older_versions(state, query, &key, None, &mut page, &mut reply)
        });
    }
    if let Some(last) = reply.versions.last().filter(|_| reply.truncated) {
        reply.next_index = last.entry.as_ref().map_or(0, |entry| entry.finished_index);
        reply.next_key = last.key.clone();
    }
    reply
}

/// Adds the older versions of one object; `false` when the page is full.
fn older_versions(
    state: &(impl Reader + ?Sized),
    query: VersionsQuery<'_>,
    key: &str,
    after: Option<LogIndex>,
    page: &mut Page,
    reply: &mut v1::ListVersionsReply,
) -> bool {
    let all = keys::older_prefix(query.dataset, key);
    let start = match after {
        Some(index) => [keys::older(query.dataset, key, index), vec![0]].concat(),
        None => all.clone(),
    };
    let mut room = true;
    state.scan(&start, &keys::end_of(&all), &mut |_, value| {
        room = add_version(page, reply, key, record::decode(value), false);
        room
    });
    room
}

fn add_version(
    page: &mut Page,
    reply: &mut v1::ListVersionsReply,
    key: &str,
    head: v1::ObjectEntry,
    is_current: bool,
) -> bool {
    if page.is_full() {
        reply.truncated = true;
        return false;
    }
    page.add(key.len() + head.encoded_len());
    reply.versions.push(v1::ListedObject {
        key: key.to_owned(),
        entry: Some(head),
        is_current,
    });
    true
}
