//! What strangers may ask of a gateway at once, and what is refused before anybody looks at a signature.
//!
//! Owns the bounds on requests in flight and on their rate: over them a client is told to slow down, at once, and holds
//! nothing here. Refuses what has no counterpart in what is offered: old signatures, browser forms, bodies without a
//! length.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::ApiError;

/// The rate may be exceeded for as long as this many seconds of it last.
const BURST_SECONDS: f64 = 2.0;
/// The length of a body whose chunks are framed by S3's own coding.
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";
/// Bytes of a URI at most: a bucket, a key of 1024 bytes, each percent-encoded, and a presigned query.
const URI_BYTES_MAX: usize = 8_192;

/// The bounds of one gateway.
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    rate: Mutex<Rate>,
}

/// A bucket of tokens.
struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn take(&mut self, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.at = now;
        let full = self.per_second * BURST_SECONDS;
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(full);
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

impl Limits {
    pub(crate) fn new(requests_max: u32, requests_per_s_max: u32) -> Self {
        let per_second = f64::from(requests_per_s_max);
        Self {
            requests: Arc::new(Semaphore::new(requests_max as usize)),
            rate: Mutex::new(Rate {
                per_second,
                tokens: per_second * BURST_SECONDS,
                at: Instant::now(),
            }),
        }
    }

    /// Lets one request in; it counts until the permit is dropped.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = self.requests.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ApiError::SlowDown)?;
        if !self.rate.lock().take(Instant::now()) {
            return Err(ApiError::SlowDown);
        }
        Ok(permit)
    }
}

/// Refuses what is not offered, by the head of a request alone.
pub(crate) fn head(parts: &Parts) -> Result<(), ApiError> {
    let text = |name: http::HeaderName| parts.headers.get(name)?.to_str().ok();
    let query = parts.uri.query().unwrap_or_default();
    let uri = parts.uri.path().len() + query.len();
    if uri > URI_BYTES_MAX {
        return Err(ApiError::InvalidArgument(
            "the URI is longer than 8192 bytes",
        ));
    }
    let old = text(AUTHORIZATION).is_some_and(|value| value.trim_start().starts_with("AWS "));
    let mut names = query.split('&').filter_map(|pair| pair.split('=').next());
    if old || names.any(|name| name == "Signature" || name == "AWSAccessKeyId") {
        return Err(ApiError::InvalidRequest(
            "requests are signed with AWS4-HMAC-SHA256",
        ));
    }
    let form = text(CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("multipart/form-data")
    });
    if form && parts.method == http::Method::POST {
        return Err(ApiError::NotImplemented("browser forms"));
    }
    let chunked = parts.headers.contains_key(TRANSFER_ENCODING)
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !parts.headers.contains_key(DECODED_LENGTH);
    if chunked {
        return Err(ApiError::MissingContentLength);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_one_too_many_is_slowed_down() {
        let limits = Limits::new(2, 1_000);
        let first = limits.enter().expect("one");
        let _second = limits.enter().expect("two");
        assert_eq!(limits.enter().expect_err("three").code(), "SlowDown");
        drop(first);
        let _third = limits.enter().expect("two again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_too_often_is_slowed_down_and_served_later() {
        let limits = Limits::new(1_000, 10);
        let served = (0..100).filter(|_| limits.enter().is_ok()).count();
        assert_eq!(served, 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        let served = (0..100).filter(|_| limits.enter().is_ok()).count();
        assert_eq!(served, 10);
    }

    fn code(request: http::request::Builder) -> Option<&'static str> {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        head(&parts).err().map(|error| error.code())
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_head() {
        let request = |method: &str, uri: &str| http::Request::builder().method(method).uri(uri);
        assert_eq!(code(request("GET", "/bucket/key?versionId=null")), None);
        let v2 = request("GET", "/b/k").header(AUTHORIZATION, "AWS AKIA:sum");
        assert_eq!(code(v2), Some("InvalidRequest"));
        let presigned = request("GET", "/b/k?AWSAccessKeyId=A&Signature=s&Expires=1");
        assert_eq!(code(presigned), Some("InvalidRequest"));
        let form = request("POST", "/b").header(CONTENT_TYPE, "Multipart/Form-Data; boundary=x");
        assert_eq!(code(form), Some("NotImplemented"));
        let chunked = || request("PUT", "/b/k").header(TRANSFER_ENCODING, "chunked");
        assert_eq!(code(chunked()), Some("MissingContentLength"));
        assert_eq!(code(chunked().header(DECODED_LENGTH, "5")), None);
        let long = format!("/b/{}", "k".repeat(URI_BYTES_MAX));
        assert_eq!(code(request("GET", &long)), Some("InvalidArgument"));
    }
}
