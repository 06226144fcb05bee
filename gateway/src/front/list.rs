//! Listings of current objects.
//!
//! Owns how S3's markers and delimiters become pages of the region: each of those is a snapshot. Refuses to answer an
//! empty page that goes on: who lists by markers would stop there.

use client::ids::{DatasetName, ObjectKey, ObjectVersionId, UnixMs};
use client::{ListOptions, ObjectInfo};

use super::Front;
use crate::checksum::{Algorithm, Kind};
use crate::error::ApiError;
use crate::metadata::Described;

/// Entries of one page, as S3 bounds them.
pub(super) const PAGE_MAX: u32 = 1_000;

/// What is listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct List {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    pub(crate) start_after: String,
    pub(crate) max_keys: u32,
}

/// An object in a listing.
#[derive(Debug, Clone)]
pub(crate) struct ListedObject {
    pub(crate) key: String,
    pub(crate) version: ObjectVersionId,
    pub(crate) bytes: u64,
    pub(crate) finished_at: UnixMs,
    pub(crate) algorithms: Vec<&'static str>,
    pub(crate) kind: Kind,
}

/// One page of objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListedPage {
    pub(crate) objects: Vec<ListedObject>,
    pub(crate) common_prefixes: Vec<String>,
    /// The key or common prefix after which the next page starts.
    pub(crate) next: Option<String>,
}

impl Front {
    /// One page of current objects.
    pub(crate) async fn list(
        &self,
        name: &DatasetName,
        wanted: &List,
    ) -> Result<ListedPage, ApiError> {
        let bucket = self.bucket(name).await?;
        if wanted.max_keys == 0 {
            return Ok(ListedPage::default());
        }
        let mut options = ListOptions {
            prefix: wanted.prefix.clone(),
            delimiter: wanted.delimiter.clone(),
            start_after: wanted.start_after.clone(),
            limit: wanted.max_keys.min(PAGE_MAX),
        };
        loop {
            let page = bucket.dataset.list(&options).await;
            let page = self.answer(name, page).await?;
            let empty = page.objects.is_empty() && page.common_prefixes.is_empty();
            match page.next {
                // Nothing but delete markers so far.
                Some(next) if empty => options.start_after = next,
                next => {
                    return Ok(ListedPage {
                        objects: page.objects.iter().map(listed).collect(),
                        common_prefixes: page.common_prefixes,
                        next,
                    });
                }
            }
        }
    }
}

fn listed(info: &ObjectInfo) -> ListedObject {
    ListedObject {
        key: info.key.as_str().to_owned(),
        version: info.version,
        bytes: info.bytes,
        finished_at: info.finished_at,
        algorithms: algorithms(info),
        kind: kind(info),
    }
}

/// Names of the checksums that are kept with an object.
pub(super) fn algorithms(info: &ObjectInfo) -> Vec<&'static str> {
    let kept = Algorithm::ALL.into_iter().map(Algorithm::name);
    kept.filter(|name| info.metadata.checksums.contains_key(*name))
        .collect()
}

/// What the checksum of an object is over: of one that came in parts it is sealed with it.
pub(super) fn kind(info: &ObjectInfo) -> Kind {
    match info.parts {
        0 => Kind::FullObject,
        _ => Described::read(&info.metadata).map_or(Kind::default(), |described| described.kind()),
    }
}

/// Which common prefix keys fold into, and which one was the last: keys come in order.
pub(super) struct Folded<'a> {
    prefix: &'a str,
    delimiter: &'a str,
    last: Option<String>,
}

impl<'a> Folded<'a> {
    /// `start_after` may be a common prefix of an earlier page.
    pub(super) fn new(prefix: &'a str, delimiter: &'a str, start_after: &str) -> Self {
        let mut folded = Self {
            prefix,
            delimiter,
            last: None,
        };
        if folded.prefix_of(start_after) == Some(start_after) {
            folded.last = Some(start_after.to_owned());
        }
        folded
    }

    /// Prefix, then everything up to and with the first delimiter after it.
    pub(super) fn prefix_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let at = key.strip_prefix(self.prefix)?.find(self.delimiter)?;
        Some(&key[..self.prefix.len() + at + self.delimiter.len()])
    }

    pub(super) fn is_last(&self, prefix: &str) -> bool {
        self.last.as_deref() == Some(prefix)
    }

    pub(super) fn take(&mut self, prefix: &str) {
        self.last = Some(prefix.to_owned());
    }
}

/// A key after almost all that begin with `prefix`: what is left of them is folded into it. No key of the region is
/// longer than what it takes as a place to start, so a prefix that leaves no room is walked through.
pub(super) fn past(prefix: &str) -> String {
    if prefix.len() + char::MAX.len_utf8() > ObjectKey::BYTES_MAX {
        return prefix.to_owned();
    }
    format!("{prefix}{}", char::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fold_up_to_the_first_delimiter_after_the_prefix() {
        let folded = Folded::new("a/", "/", "");
        assert_eq!(folded.prefix_of("a/b/c/d"), Some("a/b/"));
        assert_eq!(folded.prefix_of("a/b"), None);
        assert_eq!(folded.prefix_of("b/c/d"), None);
        assert_eq!(Folded::new("", "", "").prefix_of("a/b"), None);
        assert!(*past("a/b/") > *"a/b/zzz");
        assert_eq!(past(&"k".repeat(1021)).len(), 1021);
    }

    #[test]
    fn a_page_that_ended_with_a_common_prefix_goes_on_after_it() {
        let mut folded = Folded::new("", "/", "a/");
        assert!(folded.is_last("a/"));
        folded.take("b/");
        assert!(folded.is_last("b/") && !folded.is_last("a/"));
        assert!(!Folded::new("", "/", "a/b").is_last("a/"));
    }
}
