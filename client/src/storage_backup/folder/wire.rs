//! Requests to an S3 store: signed, sent over HTTP or HTTPS, sent again where that may help.
//!
//! Owns what is tried again, for how long, and what an answer that is no success is called. Each request here has effect
//! once however often it is sent. Refuses answers longer than their reader takes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use rusty_s3::signing::sign;
use rusty_s3::{Bucket, Credentials, Method};
use tokio_util::io::ReaderStream;

/// Seconds that a signature holds: for one try.
const SIGNED_FOR_SECONDS: u64 = 900;
/// Tries of one request.
const TRIES: u32 = 7;
/// Before the second try; twice as long before each one after it.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a try may take, besides what its bytes take at [`SLOWEST`].
const TRY: Duration = Duration::from_secs(30);
/// Bytes a second below which a try is given up.
const SLOWEST: u64 = 128 << 10;
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of an answer that says what went wrong.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

type Body = BoxBody<Bytes, std::io::Error>;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// It says no.
    #[error("the store answered {status} {code}: {message}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// S3's code.
        code: String,
        /// In words.
        message: String,
    },
    /// It was not reached, or broke off.
    #[error("the store was not reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer in time.
    #[error("the store did not answer in time")]
    TimedOut,
    /// Its answer is longer than it may be.
    #[error("the store's answer is longer than {0} bytes")]
    TooLong(u64),
    /// A file to be sent.
    #[error("a file to be sent")]
    File(#[source] std::io::Error),
}

impl S3Error {
    /// Whether another try may end otherwise.
    fn passes(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::Unreachable(_) | Self::TimedOut => true,
            Self::TooLong(_) | Self::File(_) => false,
        }
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// What is sent along.
#[derive(Clone)]
pub(super) enum Sent {
    Nothing,
    Bytes(Bytes),
    /// A file on the disk, read anew by each try.
    File {
        path: std::path::PathBuf,
        bytes: u64,
    },
}

impl Sent {
    fn length(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    async fn body(&self) -> Result<Body, S3Error> {
        let whole = |bytes: Bytes| Full::new(bytes).map_err(|never| match never {}).boxed();
        Ok(match self {
            Self::Nothing => whole(Bytes::new()),
            Self::Bytes(bytes) => whole(bytes.clone()),
            Self::File { path, .. } => {
                let file = tokio::fs::File::open(path).await.map_err(S3Error::File)?;
                let frames = ReaderStream::with_capacity(file, 256 << 10);
                http_body_util::BodyExt::boxed(StreamBody::new(
                    frames.map(|read| read.map(Frame::data)),
                ))
            }
        })
    }
}

/// One request, as often as it is sent.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    /// Of an object, or of the bucket where it is empty.
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    /// In lower case and in order; signed.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) sent: Sent,
    /// Bytes of its answer at most.
    pub(super) bytes_max: u64,
}

/// What it was answered.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A store, and as whom it is asked.
pub(super) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    bucket: Bucket,
    credentials: Credentials,
}

impl Wire {
    pub(super) fn new(bucket: Bucket, credentials: Credentials) -> std::io::Result<Self> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            bucket,
            credentials,
        })
    }

    /// Asks until it is answered, or refused for good.
    pub(super) async fn ask(&self, asked: &Asked<'_>) -> Result<Answer, S3Error> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.once(asked).await {
                Err(error) if error.passes() => tracing::debug!(%error, "asked again"),
                ended => return ended,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.once(asked).await
    }

    /// Asks once: for what must not be sent twice, since the second would be answered otherwise.
    pub(super) async fn once(&self, asked: &Asked<'_>) -> Result<Answer, S3Error> {
        let slow = asked.sent.length().max(asked.bytes_max) / SLOWEST;
        let allowed = TRY + Duration::from_secs(slow);
        let tried = tokio::time::timeout(allowed, self.tried(asked)).await;
        tried.unwrap_or(Err(S3Error::TimedOut))
    }

    async fn tried(&self, asked: &Asked<'_>) -> Result<Answer, S3Error> {
        let mut request = Request::builder()
            .method(asked.method.to_str())
            .uri(self.signed(asked))
            .header(CONTENT_LENGTH, asked.sent.length());
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        let unreachable = |error| S3Error::Unreachable(Box::new(error));
        let body = asked.sent.body().await?;
        let request = request.body(body);
        let request = request.map_err(|error| S3Error::Unreachable(error.into()))?;
        let answer = self.client.request(request).await.map_err(unreachable)?;
        match answer.status() {
            status if status.is_success() => {
                let headers = answer.headers().clone();
                let body = read(answer, asked.bytes_max).await?;
                Ok(Answer { headers, body })
            }
            status => Err(refusal(status, &read(answer, REFUSAL_BYTES_MAX).await?)),
        }
    }

    fn signed(&self, asked: &Asked<'_>) -> String {
        let url = match asked.key {
            "" => self.bucket.base_url().clone(),
            key => self.bucket.object_url(key),
        };
        let credentials = &self.credentials;
        let url = sign(
            &Timestamp::now(),
            asked.method,
            url,
            credentials.key(),
            credentials.secret(),
            credentials.token(),
            self.bucket.region(),
            SIGNED_FOR_SECONDS,
            asked.query.iter().copied(),
            asked.headers.iter().copied(),
        );
        url.into()
    }
}

async fn read(answer: Response<Incoming>, bytes_max: u64) -> Result<Bytes, S3Error> {
    let mut body = answer.into_body();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| S3Error::Unreachable(Box::new(error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if all.len() as u64 + data.len() as u64 > bytes_max {
            return Err(S3Error::TooLong(bytes_max));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// S3's own words, where there are any: `HEAD` is answered without.
fn refusal(status: StatusCode, body: &[u8]) -> S3Error {
    let text = String::from_utf8_lossy(body);
    let of = |name: &str| {
        let rest = text.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once('<')?.0.to_owned())
    };
    S3Error::Refused {
        status: status.as_u16(),
        code: of("Code").unwrap_or_default(),
        message: of("Message").unwrap_or_else(|| {
            let reason = status.canonical_reason();
            reason.unwrap_or_default().to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_stores_words() {
        let body = b"<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>";
        let refused = refusal(StatusCode::NOT_FOUND, body);
        assert_eq!(
            refused.to_string(),
            "the store answered 404 NoSuchBucket: no such bucket"
        );
        assert_eq!(refused.status(), Some(404));
        assert!(!refused.passes());
        assert!(refusal(StatusCode::SERVICE_UNAVAILABLE, b"").passes());
        assert!(S3Error::TimedOut.passes());
    }
}
