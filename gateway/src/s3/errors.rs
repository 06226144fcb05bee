//! Our refusals as `s3s` writes them, and its errors of a body as ours.

use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, HeaderName};
use s3s::{S3Error, S3ErrorCode, StdError};

use super::AnswerBody;
use crate::error::ApiError;

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

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
            ApiError::AuthorizationHeaderMalformed(region) => {
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

/// Why a body broke off. `s3s` keeps the types of its body errors to itself: their texts tell them apart.
pub(super) fn body_error(error: &StdError) -> ApiError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&error.to_string());
        source = error.source();
    }
    if text.contains("Sha256Mismatch") {
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
    fn what_broke_a_body_is_told_apart() {
        let of = |text: &str| body_error(&StdError::from(text)).code();
        let mismatch = "UploadStreamError: Sha256Mismatch";
        assert_eq!(of(mismatch), "XAmzContentSHA256Mismatch");
        let signature = "AwsChunkedStreamError: SignatureMismatch";
        assert_eq!(of(signature), "SignatureDoesNotMatch");
        let stalled = format!("Underlying: {}", crate::stall::STALLED);
        assert_eq!(of(&stalled), "RequestTimeout");
        assert_eq!(of("connection reset"), "IncompleteBody");
    }
}
