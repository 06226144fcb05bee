//! Small conversions, each a table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::ids::{DatasetName, ObjectKey, UnixMs};
use s3s::dto::{
    self, ChecksumType, ETag, ETagCondition, EncodingType, ServerSideEncryption, Timestamp,
    TimestampFormat,
};

use crate::checksum::Kind;
use crate::conditions::{Conditions, EtagCondition};
use crate::error::ApiError;
use crate::front::VersionSelector;
use crate::range::ByteRange;

/// Bytes of a prefix, delimiter or marker at most.
const TEXT_BYTES_MAX: usize = ObjectKey::BYTES_MAX;

pub(super) fn bucket(name: &str) -> Result<DatasetName, ApiError> {
    name.parse().map_err(|_| ApiError::InvalidBucketName)
}

pub(super) fn key(text: &str) -> Result<ObjectKey, ApiError> {
    match text.parse() {
        Ok(key) => Ok(key),
        Err(_) if text.is_empty() => Err(ApiError::InvalidArgument("a key has at least one byte")),
        Err(_) => Err(ApiError::KeyTooLong),
    }
}

pub(super) fn version(text: Option<&str>) -> Result<Option<VersionSelector>, ApiError> {
    text.map(str::parse).transpose()
}

/// A prefix, delimiter or marker: none where there is none.
pub(super) fn listed_text(text: Option<String>) -> Result<String, ApiError> {
    let text = text.unwrap_or_default();
    if text.len() > TEXT_BYTES_MAX {
        return Err(ApiError::InvalidArgument(
            "a prefix, delimiter or marker has at most 1024 bytes",
        ));
    }
    Ok(text)
}

pub(super) fn max_keys(stated: Option<i32>) -> Result<u32, ApiError> {
    u32::try_from(stated.unwrap_or(1_000))
        .map(|keys| keys.min(1_000))
        .map_err(|_| ApiError::InvalidArgument("max-keys is not negative"))
}

pub(super) fn timestamp(time: UnixMs) -> Timestamp {
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(time.0);
    time.into()
}

pub(super) fn unix_ms(time: Timestamp) -> UnixMs {
    let time = time::OffsetDateTime::from(time);
    let ms = time.unix_timestamp_nanos() / 1_000_000;
    UnixMs(u64::try_from(ms.max(0)).unwrap_or(u64::MAX))
}

/// As an HTTP date, the form in which `Expires` is kept.
pub(super) fn http_date(time: &Timestamp) -> Result<String, ApiError> {
    let mut text = Vec::new();
    let written = time.format(TimestampFormat::HttpDate, &mut text);
    let bad = ApiError::InvalidArgument("Expires is not a time");
    written.map_err(|_| ApiError::InvalidArgument("Expires is not a time"))?;
    String::from_utf8(text).map_err(|_| bad)
}

pub(super) fn parse_http_date(text: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text).ok()
}

pub(super) fn etag(version: client::ids::ObjectVersionId) -> ETag {
    ETag::Strong(crate::conditions::etag(version))
}

/// A weak ETag matches no object here, as RFC 9110 says of strong comparison.
pub(super) fn etag_condition(condition: ETagCondition) -> EtagCondition {
    match condition {
        ETagCondition::Any => EtagCondition::Any,
        ETagCondition::ETag(ETag::Strong(value)) => EtagCondition::Is(value),
        ETagCondition::ETag(ETag::Weak(value)) => EtagCondition::Is(format!("W/{value}")),
    }
}

pub(super) fn conditions(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
) -> Conditions {
    Conditions {
        if_match: if_match.map(etag_condition),
        if_none_match: if_none_match.map(etag_condition),
        if_modified_since: if_modified_since.map(unix_ms),
        if_unmodified_since: if_unmodified_since.map(unix_ms),
    }
}

pub(super) fn range(range: dto::Range) -> ByteRange {
    match range {
        dto::Range::Int { first, last } => ByteRange::From { first, last },
        dto::Range::Suffix { length } => ByteRange::Last(length),
    }
}

pub(super) fn part(part: Option<i32>) -> Result<Option<u32>, ApiError> {
    part.map(|part| u32::try_from(part).map_err(|_| ApiError::InvalidPartNumber))
        .transpose()
}

/// A length, which is far below what the type of the wire holds.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn checksum_type(kind: Kind) -> ChecksumType {
    ChecksumType::from_static(kind.name())
}

pub(super) fn aws_kms() -> ServerSideEncryption {
    ServerSideEncryption::from_static(ServerSideEncryption::AWS_KMS)
}

/// How keys stand in a listing: as they are, or percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Plain,
    Url,
}

impl Spelling {
    pub(super) fn of(encoding: Option<&EncodingType>) -> Result<Self, ApiError> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(ApiError::InvalidArgument(
                "encoding-type is url or not there",
            )),
        }
    }

    pub(super) fn write(self, text: &str) -> String {
        if self == Self::Plain {
            return text.to_owned();
        }
        let mut written = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    written.push(char::from(byte));
                }
                other => written.push_str(&format!("%{other:02X}")),
            }
        }
        written
    }

    /// A text that is left out where there is none.
    pub(super) fn write_some(self, text: &str) -> Option<String> {
        (!text.is_empty()).then(|| self.write(text))
    }
}

/// `Content-Encoding` without the coding of the upload itself, which is gone by now.
pub(super) fn stored_encoding(stated: Option<String>) -> Option<String> {
    let stated = stated?;
    let kept: Vec<_> = stated
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

#[cfg(test)]
mod tests {
    use client::ids::ObjectVersionId;

    use super::*;

    #[test]
    fn times_go_there_and_back() {
        let time = UnixMs(1_790_000_000_123);
        assert_eq!(unix_ms(timestamp(time)), time);
        let text = "Wed, 21 Oct 2026 07:28:00 GMT";
        let parsed = parse_http_date(text).expect("an HTTP date");
        assert_eq!(http_date(&parsed).ok().as_deref(), Some(text));
        assert!(parse_http_date("tomorrow").is_none());
    }

    #[test]
    fn names_that_are_none_have_codes_of_s3() {
        assert_eq!(
            bucket("A").expect_err("upper case").code(),
            "InvalidBucketName"
        );
        assert_eq!(key("").expect_err("empty").code(), "InvalidArgument");
        assert_eq!(
            key(&"k".repeat(1025)).expect_err("long").code(),
            "KeyTooLongError"
        );
        let bad = version(Some("x")).expect_err("no version").code();
        assert_eq!(bad, "InvalidArgument");
        assert_eq!(
            version(Some("null")).ok(),
            Some(Some(VersionSelector::Null))
        );
        let id = ObjectVersionId([5; 16]);
        let found = version(Some(&id.to_string())).ok();
        assert_eq!(found, Some(Some(VersionSelector::Id(id))));
        assert!(listed_text(Some("k".repeat(1025))).is_err());
    }

    #[test]
    fn a_page_has_between_none_and_a_thousand_keys() {
        assert_eq!(max_keys(None).ok(), Some(1_000));
        assert_eq!(max_keys(Some(0)).ok(), Some(0));
        assert_eq!(max_keys(Some(5_000)).ok(), Some(1_000));
        assert!(max_keys(Some(-1)).is_err());
    }

    #[test]
    fn keys_of_a_listing_are_spelt_as_asked() {
        let url = EncodingType::from_static(EncodingType::URL);
        let url = Spelling::of(Some(&url)).expect("known");
        assert_eq!(url.write("a b+c/é\u{1}"), "a%20b%2Bc/%C3%A9%01");
        assert_eq!(Spelling::of(None).expect("none").write("a b"), "a b");
        assert_eq!(url.write_some(""), None);
        let other = EncodingType::from_static("base64");
        assert!(Spelling::of(Some(&other)).is_err());
    }

    #[test]
    fn the_coding_of_the_upload_is_not_the_objects() {
        let stored = |text: &str| stored_encoding(Some(text.to_owned()));
        assert_eq!(stored("aws-chunked"), None);
        assert_eq!(stored("aws-chunked,gzip").as_deref(), Some("gzip"));
        assert_eq!(stored("gzip").as_deref(), Some("gzip"));
        assert_eq!(stored(""), None);
    }

    #[test]
    fn a_weak_etag_is_no_strong_one() {
        let weak = ETagCondition::ETag(ETag::Weak("ab".to_owned()));
        assert_ne!(etag_condition(weak), EtagCondition::Is("ab".to_owned()));
        assert_eq!(etag_condition(ETagCondition::Any), EtagCondition::Any);
    }
}
