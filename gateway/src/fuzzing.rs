//! Side doors for fuzz targets, in no shipped build.
//!
//! Owns nothing. Each door answers with what a request would work with, or with nothing.

use proto::v1;

use crate::metadata::{self, Described};
use crate::token::{self, VersionMarker};

/// The key a continuation token leads to, and the token of that key.
pub fn continuation(text: &str) -> Option<(String, String)> {
    let key = token::parse_continuation(text).ok()?;
    let token = token::continuation(&key);
    Some((key, token))
}

/// Whether a text is a version marker.
pub fn version_marker(text: &str) -> bool {
    VersionMarker::parse(text).is_ok()
}

/// What is read from an object's metadata, sealed again and read again: the same, where it may be sealed at all.
pub fn metadata(sealed: &v1::UserMetadata) -> Option<bool> {
    let read = Described::read(sealed).ok()?;
    let options = read.options().ok()?;
    let again = v1::UserMetadata {
        format: 1,
        content_type: options.content_type.unwrap_or_default(),
        user: options.metadata,
        tags: options.tags,
        ..v1::UserMetadata::default()
    };
    Some(Described::read(&again).ok() == Some(read))
}

/// How many tags a header has.
pub fn tags(header: &str) -> Option<usize> {
    metadata::parse_tags(header).ok().map(|tags| tags.len())
}
