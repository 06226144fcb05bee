//! One S3 client as SDKs are, for loads and tests: a connection that is kept, requests signed one by one.
//!
//! Owns connections and signatures: presigned URLs (AWS4-HMAC-SHA256, the body unsigned) over plain HTTP, to whoever
//! answers. Refuses to send anything twice: what another try means, its user knows.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rusty_s3::signing::sign;
use rusty_s3::{Bucket, UrlStyle};
use tokio::net::TcpStream;

pub use hyper::{HeaderMap, Response, StatusCode};
pub use rusty_s3::{Credentials, Method};

/// Seconds that a signature holds.
const SIGNED_FOR_SECONDS: u64 = 3_600;

/// A server, and as whom it is asked.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The access key.
    pub credentials: Credentials,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Bytes,
}

impl Request {
    /// Of an object, or of the bucket where the key is empty.
    pub fn new(method: Method, key: impl Into<String>) -> Self {
        Self {
            method,
            key: key.into(),
            query: BTreeMap::new(),
            headers: BTreeMap::new(),
            body: Bytes::new(),
        }
    }

    /// With one more parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.insert(name.to_owned(), value.into());
        self
    }

    /// With one more header, its name in lower case. It is signed.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// One bucket as one client sees it.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    bucket: Bucket,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client that connects when it is used.
    pub fn new(endpoint: &Endpoint, bucket: &str) -> Result<Self> {
        let url = format!("http://{}", endpoint.address).parse()?;
        let region = endpoint.region.clone();
        Ok(Self {
            endpoint: endpoint.clone(),
            bucket: Bucket::new(url, UrlStyle::Path, bucket.to_owned(), region)?,
            sender: None,
        })
    }

    /// Sends a request; its answer's body is still to be read, before the next one is sent.
    pub async fn ask(&mut self, request: &Request) -> Result<Response<Incoming>> {
        let url = self.signed(request);
        let mut sent = hyper::Request::builder()
            .method(request.method.to_str())
            .uri(path_of(&url)?)
            .header(HOST, &self.endpoint.address);
        for (name, value) in &request.headers {
            sent = sent.header(name, value);
        }
        let sent = sent.body(Full::new(request.body.clone()))?;
        let sender = self.connected().await?;
        Ok(sender.send_request(sent).await?)
    }

    /// Lets go of the connection: the next request makes another.
    pub fn hang_up(&mut self) {
        self.sender = None;
    }

    fn signed(&self, request: &Request) -> String {
        let url = match request.key.as_str() {
            "" => self.bucket.base_url().clone(),
            key => self.bucket.object_url(key),
        };
        let credentials = &self.endpoint.credentials;
        let url = sign(
            &Timestamp::now(),
            request.method,
            url,
            credentials.key(),
            credentials.secret(),
            credentials.token(),
            self.bucket.region(),
            SIGNED_FOR_SECONDS,
            request
                .query
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
            request
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        url.into()
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.endpoint.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().context("connected")?;
        sender.ready().await?;
        Ok(sender)
    }
}

/// Path and query of a URL.
fn path_of(url: &str) -> Result<&str> {
    let rest = url.strip_prefix("http://").context("a URL of http")?;
    let at = rest.find('/').context("a path")?;
    ensure!(at > 0, "a host");
    Ok(&rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_and_parameter_of_a_request_is_signed() {
        let endpoint = Endpoint {
            address: "127.0.0.1:9".to_owned(),
            region: "ch-zrh".to_owned(),
            credentials: Credentials::new("key", "secret"),
        };
        let client = Client::new(&endpoint, "bucket").expect("an address");
        let of = |request: Request| client.signed(&request);
        let put = || Request::new(Method::Put, "a b/c").header("if-none-match", "*");
        let url = of(put().query("partNumber", "3"));
        assert!(
            url.starts_with("http://127.0.0.1:9/bucket/a%20b/c?"),
            "{url}"
        );
        assert!(
            url.contains("X-Amz-SignedHeaders=host%3Bif-none-match"),
            "{url}"
        );
        assert!(url.contains("partNumber=3"), "{url}");
        let bucket = of(Request::new(Method::Get, "").query("list-type", "2"));
        assert!(
            path_of(&bucket).expect("a URL").starts_with("/bucket/?"),
            "{bucket}"
        );
    }
}
