//! Pages over uploads under way, oldest first within a key, and over the parts of an upload or version.
//!
//! Owns where the next page goes on. Refuses nothing: that the id is one of the dataset is the caller's to know.

use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, ObjectVersionId};
use proto::store::Reader;
use proto::v1;

use super::{Page, common_prefix};
use crate::keys::{self, table};
use crate::{read, record};

/// Which uploads a page is asked for.
#[derive(Clone, Copy)]
pub struct UploadsQuery<'a> {
    /// Of this dataset.
    pub dataset: &'a DatasetId,
    /// Of objects whose keys start with this.
    pub prefix: &'a str,
    /// Keys with this after the prefix are folded into one common prefix; empty folds nothing.
    pub delimiter: &'a str,
    /// After this key, or after everything under this common prefix of an earlier page; empty for the first page.
    pub start_after_key: &'a str,
    /// Within that key, after the upload begun at this log index; 0: after all of them.
    pub start_after_index: LogIndex,
    /// At most so many; 0 means as many as a page may have.
    pub limit: usize,
}

/// A page of uploads and common prefixes. `at_index` is the caller's to set.
pub fn uploads(state: &(impl Reader + ?Sized), query: UploadsQuery<'_>) -> v1::ListUploadsReply {
    let mut page = Page::new(query.limit);
    let mut reply = v1::ListUploadsReply::default();
    let mut last = (String::new(), 0);
    let under_prefix = keys::object_prefix(table::UPLOAD, query.dataset, query.prefix);
    let end = keys::end_of(&under_prefix);
    let mut start = under_prefix.max(first_key(query));
    while start < end {
        let mut fold_past = None;
        state.scan(&start, &end, &mut |record_key, value| {
            if page.is_full() || !page.look() {
                reply.truncated = true;
                return false;
            }
            let (key, _) = keys::object_key(record_key).expect("the key was written by us");
            if let Some(folded) = common_prefix(query.prefix, query.delimiter, &key) {
                page.add(folded.len());
                last = (folded.to_owned(), 0);
                reply.common_prefixes.push(folded.to_owned());
                let under = keys::object_prefix(table::UPLOAD, query.dataset, folded);
                fold_past = Some(keys::end_of(&under));
                return false;
            }
            let upload: v1::UploadRecord = record::decode(value);
            page.add(key.len() + upload.encoded_len());
            last = (key.clone(), upload.begun_index);
            reply.uploads.push(v1::ListedUpload {
                key,
                upload: Some(upload),
            });
            true
        });
        match fold_past {
            Some(past) => start = past,
            None => break,
        }
    }
    if reply.truncated {
        (reply.next_key, reply.next_index) = last;
    }
    reply
}

fn first_key(query: UploadsQuery<'_>) -> Vec<u8> {
    let after = query.start_after_key;
    if after.is_empty() {
        return Vec::new();
    }
    let under = keys::object_prefix(table::UPLOAD, query.dataset, after);
    if common_prefix(query.prefix, query.delimiter, after) == Some(after) {
        return keys::end_of(&under);
    }
    let index = match query.start_after_index.0 {
        0 => LogIndex(u64::MAX),
        _ => query.start_after_index,
    };
    [keys::upload(query.dataset, after, index), vec![0]].concat()
}

/// Which parts a page is asked for.
#[derive(Clone, Copy)]
pub struct PartsQuery<'a> {
    /// Of this upload or version.
    pub of: &'a ObjectVersionId,
    /// With numbers above this.
    pub start_after: u32,
    /// At most so many; 0 means as many as a page may have.
    pub limit: usize,
    /// Whether inline bytes and blocks come along.
    pub with_bodies: bool,
}

/// A page of parts, by number, and whether more follow.
pub fn parts(state: &(impl Reader + ?Sized), query: PartsQuery<'_>) -> (Vec<v1::ListedPart>, bool) {
    let mut page = Page::new(query.limit);
    let (mut found, mut truncated) = (Vec::new(), false);
    let start = keys::part(query.of, query.start_after.saturating_add(1));
    let (_, end) = keys::range(table::PART, query.of.as_bytes());
    state.scan(&start, &end, &mut |_, value| {
        if page.is_full() {
            truncated = true;
            return false;
        }
        let part: v1::PartRecord = record::decode(value);
        let id = ObjectVersionId::try_from(part.part_id.as_ref());
        let body = id.ok().filter(|_| query.with_bodies);
        let body = body.and_then(|id| read::body(state, &id));
        let body = body.unwrap_or_default();
        let listed = v1::ListedPart {
            part: Some(part),
            inline: body.inline,
            blocks: body.blocks,
        };
        page.add(listed.encoded_len());
        found.push(listed);
        true
    });
    (found, truncated)
}
