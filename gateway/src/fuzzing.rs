//! Side doors for fuzz targets, in no shipped build.
//!
//! Owns nothing. Each door answers with what a request would work with, or with nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri};
use proto::v1;

use crate::checksum::{Algorithm, parse_md5};
use crate::chunked::Framing;
use crate::conditions::version_of;
use crate::metadata::{self, Described};
use crate::s3::copied_range;
use crate::signing;
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

/// What the decoder of S3's coding is given of a body that comes in pieces of so many bytes, chunks over 16 bytes that
/// nobody signed cut; nothing where the framing is none.
pub fn chunked(body: &[u8], piece: usize) -> Option<Vec<u8>> {
    let (mut framing, mut on) = (Framing::cutting(16), VecDeque::new());
    for piece in body.chunks(piece.max(1)) {
        framing.take(Bytes::copy_from_slice(piece), &mut on).ok()?;
    }
    framing.end().ok()?;
    Some(Vec::from(on).concat())
}

/// First and last byte of a range to copy.
pub fn range_to_copy(text: &str) -> Option<(u64, u64)> {
    let range = copied_range(text).ok()?;
    let taken = range.of(u64::MAX).ok()?;
    Some((taken.start, taken.end - 1))
}

/// Whether a text is a value of some checksum, an MD5 or an ETag of ours.
pub fn value(text: &str) -> bool {
    let sum = Algorithm::ALL
        .into_iter()
        .any(|algorithm| algorithm.parse(text).is_ok());
    Algorithm::named(text).is_some() || sum || parse_md5(text).is_ok() || version_of(text).is_some()
}

/// Whether a request's signature covers what it has to, were it right.
pub fn covers(target: &str, authorization: &str, header: &'static str) -> Option<bool> {
    let uri: Uri = target.parse().ok()?;
    let mut headers = HeaderMap::new();
    let authorization = HeaderValue::from_str(authorization).ok()?;
    headers.insert(http::header::AUTHORIZATION, authorization);
    headers.insert(header, HeaderValue::from_static("x"));
    Some(signing::covers(&uri, &headers).is_ok())
}
