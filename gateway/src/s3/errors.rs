//! Our refusals as `s3s` writes them, and its errors of a body as ours.

use client::ids::RegionId;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, HeaderName, StatusCode};
use s3s::{S3Error, S3ErrorCode, StdError};

use super::{AnswerBody, XML_BYTES_MAX};
use crate::chunked::CHUNK_TOO_LARGE;
use crate::error::ApiError;
use crate::stall::Course;

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");
/// How `s3s` begins to say that a signature's scope names no region.
const NO_REGION: &str = "<Message>invalid credential region:";

impl From<ApiError> for S3Error {
    fn from(error: ApiError) -> Self {
        let code = S3ErrorCode::from_bytes(error.code().as_bytes()).expect("every code is a text");
        let mut headers = HeaderMap::new();
        if let Some(seconds) = error.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        match &error {
            ApiError::NotModified { etag } => {
                if let Ok(value) = HeaderValue::try_from(format!("\"{etag}\"")) {
                    headers.insert(http::header::ETAG, value);
                }
            }
            ApiError::AuthorizationHeaderMalformed(region)
            | ApiError::PermanentRedirect(region) => {
                if let Ok(value) = HeaderValue::from_str(region.as_str()) {
                    headers.insert(BUCKET_REGION, value);
                }
            }
            _ => {}
        }
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        );
        let mut s3 = S3Error::with_message(code, error.to_string());
        s3.set_status_code(error.status());
        s3.set_headers(headers);
        s3
    }
}

/// The answer that says so, for what is refused before `s3s` sees it.
pub(crate) fn answer_of(error: ApiError) -> http::Response<AnswerBody> {
    let status = error.status();
    match S3Error::from(error).to_http_response() {
        Ok(answer) => answer,
        Err(_) => {
            let mut bare = http::Response::new(AnswerBody::empty());
            *bare.status_mut() = status;
            bare
        }
    }
}

/// A signature for another region is answered as S3 does, with the right one in the text too, where tools look for it
/// before they try again: `s3s` writes no element of ours. What is not even a region's name, such as the `US` of s3cmd,
/// `s3s` refuses by itself.
pub(super) fn with_region(
    answer: http::Response<AnswerBody>,
    region: &RegionId,
) -> http::Response<AnswerBody> {
    let unknown = || {
        let text = answer.body().bytes().unwrap_or_default();
        String::from_utf8_lossy(&text).contains(NO_REGION)
    };
    let refused = answer.status() == StatusCode::BAD_REQUEST;
    if !refused || !(answer.headers().contains_key(BUCKET_REGION) || unknown()) {
        return answer;
    }
    let mut answer = answer_of(ApiError::AuthorizationHeaderMalformed(region.clone()));
    let text = answer.body().bytes().unwrap_or_default();
    let end = format!("<Region>{region}</Region></Error>");
    *answer.body_mut() = String::from_utf8_lossy(&text)
        .replace("</Error>", &end)
        .into();
    answer
}

/// An answer that `s3s` gives of a body which it did not get whole, and calls its own failure: whose it is, is known
/// here. Ours have a message.
pub(super) fn of_body(
    answer: http::Response<AnswerBody>,
    course: &Course,
    hashed: bool,
) -> http::Response<AnswerBody> {
    if answer.status() != StatusCode::INTERNAL_SERVER_ERROR || !course.was_asked() {
        return answer;
    }
    let text = answer.body().bytes().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if !text.contains("<Code>InternalError</Code>") || text.contains("<Message>") {
        return answer;
    }
    answer_of(if course.stalled() {
        ApiError::RequestTimeout
    } else if course.broken() {
        ApiError::IncompleteBody
    } else if course.bytes() > XML_BYTES_MAX as u64 {
        ApiError::MaxMessageLengthExceeded(XML_BYTES_MAX)
    } else if hashed {
        // It came whole, and is not what was signed.
        ApiError::ContentSha256Mismatch
    } else {
        return answer;
    })
}

/// Why a body broke off. `s3s` keeps the types of its body errors to itself: their texts tell them apart.
pub(super) fn body_error(error: &StdError) -> ApiError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&error.to_string());
        source = error.source();
    }
    if text.contains(CHUNK_TOO_LARGE) {
        ApiError::InvalidRequest(CHUNK_TOO_LARGE)
    } else if text.contains("Sha256Mismatch") {
        ApiError::ContentSha256Mismatch
    } else if text.contains("SignatureMismatch") {
        ApiError::SignatureDoesNotMatch
    } else if text.contains(crate::stall::STALLED) {
        ApiError::RequestTimeout
    } else {
        ApiError::IncompleteBody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_status_and_headers() {
        let slow = S3Error::from(ApiError::SlowDown);
        assert_eq!(slow.code().as_str(), "SlowDown");
        assert_eq!(slow.status_code().map(|s| s.as_u16()), Some(503));
        let headers = slow.headers().expect("headers");
        assert_eq!(headers[RETRY_AFTER], "1");
        let etag = "ab".to_owned();
        let not_modified = S3Error::from(ApiError::NotModified { etag });
        let headers = not_modified.headers().expect("headers");
        assert_eq!(headers[http::header::ETAG], "\"ab\"");
        let region: RegionId = "de-fra".parse().expect("a region");
        let elsewhere = S3Error::from(ApiError::PermanentRedirect(region));
        assert_eq!(elsewhere.status_code().map(|s| s.as_u16()), Some(301));
        let headers = elsewhere.headers().expect("headers");
        assert_eq!(headers[BUCKET_REGION], "de-fra");
        // One that S3's model does not have.
        let kms = S3Error::from(ApiError::KmsDisabled);
        assert_eq!(kms.code().as_str(), "KMS.DisabledException");
        assert_eq!(kms.status_code().map(|s| s.as_u16()), Some(400));
    }

    #[test]
    fn an_answer_without_a_request_is_xml() {
        let answer = answer_of(ApiError::NotImplemented("forms"));
        assert_eq!(answer.status().as_u16(), 501);
        let body = answer.into_body().bytes().expect("at hand");
        let text = String::from_utf8(body.to_vec()).expect("text");
        assert!(text.contains("<Code>NotImplemented</Code>"), "{text}");
    }

    #[test]
    fn a_signature_for_another_region_is_answered_with_this_one() {
        let region: RegionId = "ch-zrh".parse().expect("a region");
        let text = |answer: http::Response<AnswerBody>| {
            let body = answer.into_body().bytes().expect("at hand");
            String::from_utf8(body.to_vec()).expect("text")
        };
        let ours = answer_of(ApiError::AuthorizationHeaderMalformed(region.clone()));
        let no_region = "invalid credential region: invalid region: \"US\"";
        let theirs = S3Error::with_message(S3ErrorCode::InvalidRequest, no_region);
        let theirs = theirs.to_http_response().expect("an answer");
        for answer in [ours, theirs] {
            let answer = with_region(answer, &region);
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
            assert_eq!(answer.headers()[BUCKET_REGION], "ch-zrh");
            let text = text(answer);
            let code = "<Code>AuthorizationHeaderMalformed</Code>";
            assert!(text.contains(code), "{text}");
            assert!(text.ends_with("<Region>ch-zrh</Region></Error>"), "{text}");
        }
        let other = answer_of(ApiError::InvalidRequest("another reason"));
        let other = text(with_region(other, &region));
        assert!(!other.contains("Region"), "{other}");
    }

    #[test]
    fn what_broke_a_body_is_told_apart() {
        let of = |text: &str| body_error(&StdError::from(text)).code();
        let mismatch = "UploadStreamError: Sha256Mismatch";
        assert_eq!(of(mismatch), "XAmzContentSHA256Mismatch");
        let signature = "AwsChunkedStreamError: SignatureMismatch";
        assert_eq!(of(signature), "SignatureDoesNotMatch");
        let large = format!("Underlying: {CHUNK_TOO_LARGE}");
        assert_eq!(of(&large), "InvalidRequest");
        let stalled = format!("Underlying: {}", crate::stall::STALLED);
        assert_eq!(of(&stalled), "RequestTimeout");
        assert_eq!(of("connection reset"), "IncompleteBody");
    }
}
