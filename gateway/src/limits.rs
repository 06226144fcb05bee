//! What strangers may ask of a gateway at once, and what is refused before anybody looks at a signature.
//!
//! Owns the bounds on requests in flight, on their rate and on documents that are held whole: over them a client is told to slow down, at once, and holds
//! nothing here. Refuses what has no counterpart in what is offered: old signatures, browser forms, bodies without a
//! length, parameters that are there twice.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::s3::XML_BYTES_MAX;

/// The rate may be exceeded for as long as this many seconds of it last.
const BURST_SECONDS: f64 = 2.0;
/// The length of a body whose chunks are framed by S3's own coding.
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";
/// Bytes of a URI at most: a bucket, a key of 1024 bytes, each percent-encoded, and a presigned query.
const URI_BYTES_MAX: usize = 8_192;

/// Files that are open besides the connections of clients: those to the region, the logs.
const OTHER_FILES: u64 = 256;

/// Asks the system for as many open files as it allows. Services are commonly started with room for 1,024, and a client
/// that is one too many would be let in by nobody.
pub(crate) fn open_files(connections_max: u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let needed = u64::from(connections_max) + OTHER_FILES;
    if files.is_some_and(|files| files < needed) {
        tracing::warn!(
            files,
            needed,
            "fewer files may be open than connections_max needs: raise LimitNOFILE"
        );
    }
}

/// Bytes of XML that may be on their way in at once: it is held whole before it is read.
const DOCUMENT_BYTES_AT_ONCE: u64 = 64 << 20;
const KIB: u64 = 1_024;
/// Parameters of the query beside which a put is of an object, or of a part of one.
const OF_AN_OBJECT: [&str; 3] = ["partNumber", "uploadId", "x-id"];

/// The bounds of one gateway.
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    rate: Mutex<Rate>,
    documents: Arc<Semaphore>,
    domains: Vec<String>,
}

/// One request's place among those that are let in, given back when it is dropped.
pub(crate) struct Place(
    #[allow(dead_code, reason = "held, not read")] [Option<OwnedSemaphorePermit>; 2],
);

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
    pub(crate) fn new(requests_max: u32, requests_per_s_max: u32, domains: &[String]) -> Self {
        let per_second = f64::from(requests_per_s_max);
        let documents = usize::try_from(DOCUMENT_BYTES_AT_ONCE / KIB).unwrap_or(usize::MAX);
        Self {
            documents: Arc::new(Semaphore::new(documents)),
            domains: domains.to_vec(),
            requests: Arc::new(Semaphore::new(requests_max as usize)),
            rate: Mutex::new(Rate {
                per_second,
                tokens: per_second * BURST_SECONDS,
                at: Instant::now(),
            }),
        }
    }

    /// Lets one request in; it counts until its place is dropped.
    pub(crate) fn enter(&self, parts: &Parts) -> Result<Place, ApiError> {
        let permit = self.requests.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ApiError::SlowDown)?;
        if !self.rate.lock().take(Instant::now()) {
            return Err(ApiError::SlowDown);
        }
        let document = match self.document(parts) {
            0 => None,
            bytes => {
                let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
                let room = self.documents.clone().try_acquire_many_owned(kib);
                Some(room.map_err(|_| ApiError::SlowDown)?)
            }
        };
        Ok(Place([Some(permit), document]))
    }

    /// Bytes of a body that is held whole: of anything but a put of an object or a part.
    fn document(&self, parts: &Parts) -> u64 {
        let length = parts.headers.get(CONTENT_LENGTH);
        let length = match length.map(|length| length.to_str().ok()?.parse().ok()) {
            Some(length) => length.unwrap_or(u64::MAX),
            None if parts.headers.contains_key(TRANSFER_ENCODING) => u64::MAX,
            None => 0,
        };
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let mut names = form_urlencoded::parse(query).map(|(name, _)| name);
        let of_an_object = parts.method == http::Method::PUT
            && self.has_key(parts)
            && names.all(|name| name.starts_with("X-Amz-") || OF_AN_OBJECT.contains(&&*name));
        match of_an_object {
            true => 0,
            false => length.min(XML_BYTES_MAX as u64),
        }
    }

    /// Whether there is a key in the path, behind a bucket or alone.
    fn has_key(&self, parts: &Parts) -> bool {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host
            .unwrap_or_default()
            .split(':')
            .next()
            .unwrap_or_default();
        let bucket_is_host = self.domains.iter().any(|domain| {
            let before = host.strip_suffix(domain.as_str());
            before.is_some_and(|before| before.ends_with('.'))
        });
        let path = parts.uri.path().trim_start_matches('/');
        match bucket_is_host {
            true => !path.is_empty(),
            false => path.split_once('/').is_some_and(|(_, key)| !key.is_empty()),
        }
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
    let names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let mut names: Vec<_> = names.collect();
    if old
        || names
            .iter()
            .any(|name| name == "Signature" || name == "AWSAccessKeyId")
    {
        return Err(ApiError::InvalidRequest(
            "requests are signed with AWS4-HMAC-SHA256",
        ));
    }
    names.sort_unstable();
    if names.windows(2).any(|two| two[0] == two[1]) {
        return Err(ApiError::InvalidArgument(
            "a parameter of the query is there twice",
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
        let limits = Limits::new(2, 1_000, &[]);
        let get = parts("GET", "/b/k", &[]);
        let first = limits.enter(&get).expect("one");
        let _second = limits.enter(&get).expect("two");
        let refused = limits.enter(&get).err().expect("three");
        assert_eq!(refused.code(), "SlowDown");
        drop(first);
        let _third = limits.enter(&get).expect("two again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_too_often_is_slowed_down_and_served_later() {
        let limits = Limits::new(1_000, 10, &[]);
        let get = parts("GET", "/b/k", &[]);
        let served = || (0..100).filter(|_| limits.enter(&get).is_ok()).count();
        assert_eq!(served(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(served(), 10);
    }

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = http::Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).expect("a request").into_parts().0
    }

    #[tokio::test(start_paused = true)]
    async fn documents_have_room_for_some_and_objects_do_not_need_it() {
        let limits = Limits::new(1_000, 10_000, &["s3.example".to_owned()]);
        let large = [("content-length", "4000000")];
        let delete = parts("POST", "/b?delete", &large);
        let held: Vec<_> = (0..100).map_while(|_| limits.enter(&delete).ok()).collect();
        assert_eq!(held.len(), 16);
        for more in ["/b?delete", "/b/k?uploadId=x", "/b/k?select"] {
            assert!(
                limits.enter(&parts("POST", more, &large)).is_err(),
                "{more}"
            );
        }
        for more in [
            "/b",
            "/b/",
            "/b?acl",
            "/b/k?retention",
            "/b/k?X-Amz-Date=x&acl",
        ] {
            assert!(limits.enter(&parts("PUT", more, &large)).is_err(), "{more}");
        }
        let coded = parts("PUT", "/b/k?acl", &[("transfer-encoding", "chunked")]);
        assert!(limits.enter(&coded).is_err(), "of unknown length");
        for put in [
            "/b/k",
            "/b/k?partNumber=1&uploadId=x",
            "/b/k?x-id=PutObject&X-Amz-Date=x",
        ] {
            assert!(limits.enter(&parts("PUT", put, &large)).is_ok(), "{put}");
        }
        let hosted = [("content-length", "4000000"), ("host", "b.s3.example:9000")];
        assert!(
            limits.enter(&parts("PUT", "/k", &hosted)).is_ok(),
            "by host"
        );
        assert!(
            limits.enter(&parts("GET", "/b?list-type=2", &[])).is_ok(),
            "none"
        );
        drop(held);
        assert!(limits.enter(&delete).is_ok(), "room again");
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
        for twice in ["/b?prefix=a&prefix=b", "/b?acl&%61cl", "/b?a&b&a=1"] {
            assert_eq!(code(request("GET", twice)), Some("InvalidArgument"));
        }
        let spelt = request("GET", "/b/k?AWSAccess%4beyId=A&Expires=1");
        assert_eq!(code(spelt), Some("InvalidRequest"));
        let form = request("POST", "/b").header(CONTENT_TYPE, "Multipart/Form-Data; boundary=x");
        assert_eq!(code(form), Some("NotImplemented"));
        let chunked = || request("PUT", "/b/k").header(TRANSFER_ENCODING, "chunked");
        assert_eq!(code(chunked()), Some("MissingContentLength"));
        assert_eq!(code(chunked().header(DECODED_LENGTH, "5")), None);
        let long = format!("/b/{}", "k".repeat(URI_BYTES_MAX));
        assert_eq!(code(request("GET", &long)), Some("InvalidArgument"));
    }
}
