//! What a signature has to cover.
//!
//! Owns that nothing which tells S3 what to do is added to a request after it was signed: who holds a link to put one
//! object has no leave to copy another into it, or to pass over a lock. Refuses links for longer than S3 has them. That
//! the signature is right is checked before, by the border.

use http::header::AUTHORIZATION;
use http::{HeaderMap, Uri};

use crate::error::ApiError;

/// The one algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Headers by which S3 is told what to do begin so.
const PREFIX: &str = "x-amz-";
/// The header that a link's holder may add: it only makes sure of the body.
const CONTENT_HASH: &str = "x-amz-content-sha256";
/// Seconds that a link holds at most, as S3 bounds them.
const LINK_SECONDS_MAX: u32 = 7 * 24 * 3_600;

/// Refuses a signed request with headers that should have been signed and were not.
pub(crate) fn covers(uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let query = uri.query().unwrap_or_default().as_bytes();
    let query: Vec<_> = form_urlencoded::parse(query).collect();
    let of = |name: &str| {
        let pair = query.iter().find(|(found, _)| found == name);
        pair.map(|(_, value)| &**value)
    };
    let (signed, linked) = match of("X-Amz-Signature") {
        Some(_) => {
            let seconds = of("X-Amz-Expires").and_then(|text| text.parse().ok());
            if seconds.is_none_or(|seconds: u32| seconds > LINK_SECONDS_MAX) {
                return Err(ApiError::AuthorizationQueryParameters(
                    "X-Amz-Expires is at most a week, in seconds",
                ));
            }
            (of("X-Amz-SignedHeaders").unwrap_or_default(), true)
        }
        None => (named_in_header(headers)?, false),
    };
    let is_signed = |name: &str| signed.split(';').any(|signed| signed == name);
    let must_be = |name: &str| name.starts_with(PREFIX) && !(linked && name == CONTENT_HASH);
    let mut names = headers.keys().map(http::HeaderName::as_str);
    if !is_signed("host") || names.any(|name| must_be(name) && !is_signed(name)) {
        return Err(ApiError::HeadersNotSigned);
    }
    Ok(())
}

/// The headers that `Authorization` says are signed.
fn named_in_header(headers: &HeaderMap) -> Result<&str, ApiError> {
    let text = headers
        .get(AUTHORIZATION)
        .and_then(|text| text.to_str().ok());
    let text = text.ok_or(ApiError::AccessDenied)?;
    let algorithm = text.split_ascii_whitespace().next();
    if algorithm != Some(ALGORITHM) {
        return Err(ApiError::InvalidRequest(
            "requests are signed with AWS4-HMAC-SHA256",
        ));
    }
    let (_, names) = text
        .split_once("SignedHeaders=")
        .ok_or(ApiError::AccessDenied)?;
    Ok(names.split(',').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().copied();
        pairs
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect()
    }

    fn code(uri: &str, pairs: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let uri = uri.parse().expect("a URI");
        covers(&uri, &headers(pairs))
            .err()
            .map(|error| error.code())
    }

    const SIGNED: (&str, &str) = (
        "authorization",
        "AWS4-HMAC-SHA256 Credential=id/d/r/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0",
    );
    const DATE: (&str, &str) = ("x-amz-date", "20261127T000000Z");
    const LINK: &str =
        "/b/k?X-Amz-Expires=604800&X-Amz-SignedHeaders=host%3Bx-amz-acl&X-Amz-Signature=0";

    #[test]
    fn headers_that_say_what_to_do_are_signed() {
        let host = ("host", "s3.example");
        assert_eq!(code("/b/k", &[SIGNED, host, DATE]), None);
        let plain = [
            SIGNED,
            host,
            DATE,
            ("range", "bytes=0-1"),
            ("amz-sdk-request", "attempt=1"),
        ];
        assert_eq!(code("/b/k", &plain), None);
        for added in [
            ("x-amz-copy-source", "/b/secret"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-bypass-governance-retention", "true"),
        ] {
            assert_eq!(code("/b/k", &[SIGNED, DATE, added]), Some("AccessDenied"));
        }
        let text = "AWS4-HMAC-SHA256 Credential=i, SignedHeaders=x-amz-date, Signature=0";
        let unhosted = ("authorization", text);
        assert_eq!(code("/b/k", &[unhosted, DATE]), Some("AccessDenied"));
        let other = "AWS4-HMAC-SHA1 Credential=i, SignedHeaders=host, Signature=0";
        let other = ("authorization", other);
        assert_eq!(code("/b/k", &[other]), Some("InvalidRequest"));
        assert_eq!(code("/b/k", &[]), Some("AccessDenied"));
    }

    #[test]
    fn who_holds_a_link_adds_nothing_to_it() {
        assert_eq!(code(LINK, &[("x-amz-acl", "private")]), None);
        let hashed = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        assert_eq!(code(LINK, &[hashed]), None);
        let steals = ("x-amz-copy-source", "/b/secret");
        assert_eq!(code(LINK, &[steals]), Some("AccessDenied"));
        // What a header says of signed headers is not what the link says.
        let both = [
            steals,
            (
                "authorization",
                "AWS4-HMAC-SHA256 SignedHeaders=host;x-amz-copy-source,",
            ),
        ];
        assert_eq!(code(LINK, &both), Some("AccessDenied"));
        // The names of a query are what they decode to.
        let spelt = LINK.replace("X-Amz-Signature", "X-Amz-S%69gnature");
        assert_eq!(code(&spelt, &both), Some("AccessDenied"));
        for long in ["604801", "99999999999", "x"] {
            let link = LINK.replace("604800", long);
            assert_eq!(code(&link, &[]), Some("AuthorizationQueryParametersError"));
        }
    }
}
