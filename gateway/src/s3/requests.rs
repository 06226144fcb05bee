//! What requests state of an object: its headers, checksums, encryption; and what they must not ask for.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::HeaderMap;
use s3s::TrailingHeaders;
use s3s::dto::{ChecksumAlgorithm, ETagCondition, StreamingBlob, Timestamp};

use super::convert;
use super::errors::body_error;
use crate::body::{Incoming, Stated};
use crate::checksum::{self, Algorithm};
use crate::encryption::Requested;
use crate::error::ApiError;
use crate::front::PutCondition;
use crate::metadata::Headers;
use crate::range::ByteRange;

/// The length of a body without S3's own coding.
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";
/// Lists the checksums that come after the body.
const TRAILER: &str = "x-amz-trailer";
/// Names a checksum without its value.
const SDK_ALGORITHM: &str = "x-amz-sdk-checksum-algorithm";
/// The prefix of headers that carry checksums.
const CHECKSUM: &str = "x-amz-checksum-";

/// Headers that an object keeps, as both a put and a copy state them.
pub(super) struct StatedHeaders {
    pub(super) content_type: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) expires: Option<Timestamp>,
    pub(super) metadata: Option<HashMap<String, String>>,
}

impl StatedHeaders {
    pub(super) fn read(self) -> Result<Headers, ApiError> {
        let user = self.metadata.unwrap_or_default();
        let user: BTreeMap<_, _> = user
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        Ok(Headers {
            content_type: self.content_type.filter(|text| !text.is_empty()),
            cache_control: self.cache_control,
            content_disposition: self.content_disposition,
            content_encoding: convert::stored_encoding(self.content_encoding),
            content_language: self.content_language,
            expires: self.expires.as_ref().map(convert::http_date).transpose()?,
            user,
        })
    }
}

/// What no object here has; each is refused where it is asked for.
#[derive(Default)]
pub(super) struct Unoffered<'a> {
    pub(super) acl: Option<&'a str>,
    pub(super) grants: bool,
    pub(super) storage_class: Option<&'a str>,
    pub(super) website: bool,
    pub(super) offset: bool,
    pub(super) expected_owner: [Option<&'a str>; 2],
}

impl Unoffered<'_> {
    pub(super) fn check(&self, owner: &str) -> Result<(), ApiError> {
        let mut owners = self.expected_owner.iter().flatten();
        if owners.any(|expected| *expected != owner) {
            return Err(ApiError::AccessDenied);
        }
        if self.grants || !acl_is_private(self.acl) {
            return Err(ApiError::AccessControlListNotSupported);
        }
        if !matches!(self.storage_class, None | Some("STANDARD")) {
            return Err(ApiError::NotImplemented(
                "storage classes other than STANDARD",
            ));
        }
        if self.website {
            return Err(ApiError::NotImplemented("websites"));
        }
        if self.offset {
            return Err(ApiError::NotImplemented("appending to an object"));
        }
        Ok(())
    }
}

/// Canned lists that give nobody else access.
pub(super) fn acl_is_private(acl: Option<&str>) -> bool {
    matches!(acl, None | Some("private" | "bucket-owner-full-control"))
}

/// Which checksums a request states, in headers, after its body, or by name alone.
pub(super) fn stated(
    headers: &HeaderMap,
    trailing: Option<TrailingHeaders>,
    length: u64,
    content_md5: Option<&str>,
) -> Result<Stated, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut sums = Vec::new();
    for algorithm in Algorithm::ALL {
        if let Some(value) = text(algorithm.header()) {
            sums.push((algorithm, Some(algorithm.parse(value)?)));
        }
    }
    let names = text(TRAILER).unwrap_or_default().split(',');
    for name in names.map(str::trim).filter(|name| !name.is_empty()) {
        let named = |algorithm: &Algorithm| name.eq_ignore_ascii_case(algorithm.header());
        match Algorithm::ALL.into_iter().find(named) {
            Some(algorithm) => sums.push((algorithm, None)),
            None if name.to_ascii_lowercase().starts_with(CHECKSUM) => {
                return Err(ApiError::NotImplemented("a checksum of another kind"));
            }
            None => {}
        }
    }
    if sums.len() > 1 {
        return Err(ApiError::InvalidRequest(
            "one checksum is stated, not several",
        ));
    }
    if let Some(name) = text(SDK_ALGORITHM) {
        let named = Algorithm::named(name).ok_or(ApiError::InvalidRequest(
            "the checksum algorithm is not known",
        ))?;
        match sums.first() {
            Some((stated, _)) if *stated != named => {
                return Err(ApiError::InvalidRequest(
                    "the checksum is of another algorithm than the request names",
                ));
            }
            Some(_) => {}
            None => sums.push((named, None)),
        }
    }
    let trailer = trailing.map(|trailing| {
        let read = move |algorithm: Algorithm| {
            let value = trailing.read(|headers| headers.get(algorithm.header()).cloned());
            value.flatten()?.to_str().ok().map(str::to_owned)
        };
        Box::new(read) as crate::body::Trailer
    });
    Ok(Stated {
        length,
        sums,
        trailer,
        md5: content_md5.map(checksum::parse_md5).transpose()?,
    })
}

/// A checksum's algorithm that a request names.
pub(super) fn algorithm(named: Option<&ChecksumAlgorithm>) -> Result<Option<Algorithm>, ApiError> {
    let Some(named) = named else {
        return Ok(None);
    };
    let known = Algorithm::named(named.as_str());
    known.map(Some).ok_or(ApiError::InvalidRequest(
        "the checksum algorithm is not known",
    ))
}

/// Checksums that a completion states of a part or of the object; of a composite one without its count of parts.
pub(super) fn sums(
    stated: [(Algorithm, Option<String>); 5],
) -> Result<Vec<(Algorithm, Bytes)>, ApiError> {
    let stated = stated.into_iter().filter_map(|(algorithm, text)| {
        let text = text?;
        let value = text.split_once('-').map_or(&*text, |(value, _)| value);
        Some(algorithm.parse(value).map(|value| (algorithm, value)))
    });
    stated.collect()
}

/// The range of a source that becomes a part, which has a first and a last byte.
pub(crate) fn copied_range(text: &str) -> Result<ByteRange, ApiError> {
    let range = text.strip_prefix("bytes=").and_then(|range| {
        let (first, last) = range.split_once('-')?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let both = plain(first) && plain(last);
        Some((first.parse().ok()?, last.parse().ok()?)).filter(|_| both)
    });
    let (first, last) = range.ok_or(ApiError::InvalidArgument(
        "a range to copy is bytes=first-last",
    ))?;
    let last = Some(last);
    Ok(ByteRange::From { first, last })
}

/// The body of a request.
pub(super) fn incoming(body: Option<StreamingBlob>) -> Incoming {
    match body {
        Some(body) => Box::pin(body.map_err(|error| body_error(&error))),
        None => Box::pin(futures::stream::empty()),
    }
}

/// Bytes of a body without the framing of S3's own coding: `Content-Length` as `s3s` has corrected it or, where the
/// connection frames the body too, what the client states beside it.
pub(super) fn length(stated: Option<i64>, headers: &HeaderMap) -> Result<u64, ApiError> {
    let decoded = || headers.get(DECODED_LENGTH)?.to_str().ok()?.parse().ok();
    let stated = stated.map(u64::try_from);
    match stated {
        Some(length) => length.map_err(|_| ApiError::MissingContentLength),
        None => decoded().ok_or(ApiError::MissingContentLength),
    }
}

pub(super) fn encryption(
    algorithm: Option<&str>,
    key_id: Option<String>,
    customer_key: bool,
    extras: bool,
) -> Requested {
    Requested {
        algorithm: algorithm.map(str::to_owned),
        key_id,
        customer_key,
        extras,
    }
}

pub(super) fn put_condition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> PutCondition {
    PutCondition {
        if_match: if_match.map(convert::etag_condition),
        if_none_match: if_none_match.map(convert::etag_condition),
    }
}

/// A condition on a copy's destination, which `s3s` does not read.
pub(super) fn header_condition(
    headers: &HeaderMap,
    name: http::HeaderName,
) -> Result<Option<ETagCondition>, ApiError> {
    let bad = || ApiError::InvalidArgument("a condition is no ETag");
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let parsed = ETagCondition::parse_http_header(value.as_bytes());
    parsed.map(Some).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let value = http::HeaderValue::from_str(value).expect("a value");
            (http::HeaderName::from_static(name), value)
        };
        pairs.iter().map(pair).collect()
    }

    fn read(pairs: &[(&'static str, &str)]) -> Result<Vec<(Algorithm, bool)>, &'static str> {
        let stated = stated(&headers(pairs), None, 0, None).map_err(|error| error.code())?;
        let sums = stated.sums.into_iter();
        Ok(sums
            .map(|(algorithm, value)| (algorithm, value.is_some()))
            .collect())
    }

    #[test]
    fn a_checksum_is_stated_in_one_place() {
        let crc = ("x-amz-checksum-crc32", "y/Q5Jg==");
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[crc]), Ok(vec![(Algorithm::Crc32, true)]));
        let trailer = ("x-amz-trailer", "X-Amz-Checksum-Sha256");
        assert_eq!(read(&[trailer]), Ok(vec![(Algorithm::Sha256, false)]));
        let named = ("x-amz-sdk-checksum-algorithm", "CRC32");
        assert_eq!(read(&[named]), Ok(vec![(Algorithm::Crc32, false)]));
        assert_eq!(read(&[named, crc]), Ok(vec![(Algorithm::Crc32, true)]));
        assert_eq!(read(&[crc, trailer]), Err("InvalidRequest"));
        assert_eq!(read(&[named, trailer]), Err("InvalidRequest"));
        let unknown = ("x-amz-sdk-checksum-algorithm", "MD5");
        assert_eq!(read(&[unknown]), Err("InvalidRequest"));
        let other = ("x-amz-trailer", "x-amz-checksum-sha512");
        assert_eq!(read(&[other]), Err("NotImplemented"));
        let bad = ("x-amz-checksum-crc32", "?");
        assert_eq!(read(&[bad]), Err("InvalidDigest"));
    }

    #[test]
    fn a_range_to_copy_has_a_first_and_a_last_byte() {
        let first_and_last = ByteRange::From {
            first: 3,
            last: Some(7),
        };
        assert_eq!(copied_range("bytes=3-7").ok(), Some(first_and_last));
        for bad in [
            "",
            "3-7",
            "bytes=3",
            "bytes=3-",
            "bytes=-7",
            "bytes=+3-7",
            "bytes=0-1,3-4",
        ] {
            assert!(copied_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_composite_checksum_is_stated_with_its_count_or_without() {
        let crc = |text: &str| {
            let none = || None;
            sums([
                (Algorithm::Crc32, Some(text.to_owned())),
                (Algorithm::Crc32c, none()),
                (Algorithm::Crc64Nvme, none()),
                (Algorithm::Sha1, none()),
                (Algorithm::Sha256, none()),
            ])
        };
        for text in ["AQIDBA==", "AQIDBA==-3"] {
            let value = Bytes::from_static(&[1, 2, 3, 4]);
            assert_eq!(crc(text).ok(), Some(vec![(Algorithm::Crc32, value)]));
        }
        assert!(crc("AQID").is_err());
    }

    #[test]
    fn a_body_without_a_length_is_refused() {
        let decoded = headers(&[("x-amz-decoded-content-length", "7")]);
        assert_eq!(length(Some(5), &decoded).ok(), Some(5));
        assert_eq!(length(None, &decoded).ok(), Some(7));
        assert!(length(None, &headers(&[])).is_err());
        assert!(length(Some(-1), &decoded).is_err());
        let bad = headers(&[("x-amz-decoded-content-length", "-7")]);
        assert!(length(None, &bad).is_err());
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_code() {
        let owner = "owner";
        let none = Unoffered::default;
        let code = |asked: Unoffered<'_>| asked.check(owner).err().map(|error| error.code());
        assert_eq!(code(none()), None);
        let acl = |acl| Unoffered {
            acl: Some(acl),
            ..none()
        };
        assert_eq!(code(acl("private")), None);
        assert_eq!(
            code(acl("public-read")),
            Some("AccessControlListNotSupported")
        );
        let grants = Unoffered {
            grants: true,
            ..none()
        };
        assert_eq!(code(grants), Some("AccessControlListNotSupported"));
        let class = |class| Unoffered {
            storage_class: Some(class),
            ..none()
        };
        assert_eq!(code(class("STANDARD")), None);
        assert_eq!(code(class("GLACIER")), Some("NotImplemented"));
        for asked in [
            Unoffered {
                website: true,
                ..none()
            },
            Unoffered {
                offset: true,
                ..none()
            },
        ] {
            assert_eq!(code(asked), Some("NotImplemented"));
        }
        let expected = |owner| Unoffered {
            expected_owner: [None, Some(owner)],
            ..none()
        };
        assert_eq!(code(expected("owner")), None);
        assert_eq!(code(expected("123456789012")), Some("AccessDenied"));
    }
}
