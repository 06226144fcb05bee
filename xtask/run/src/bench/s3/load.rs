//! The loader: one S3 client as SDKs are, that tries again what was not answered.
//!
//! Owns what is asked for and how often. It goes to whoever answers, over plain HTTP: what is compared is the servers.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use local::s3::{Client, Endpoint, Method, Request};

/// Tries of one request, as SDKs make them.
const TRIES: u32 = 5;

/// One bucket as one client sees it.
pub(super) struct Loader {
    client: Client,
    headers: Vec<(&'static str, &'static str)>,
    /// Requests that were answered 5xx, or not, and sent again.
    pub(super) retried: u64,
}

impl Loader {
    /// A client of `bucket` that sends `headers` with every put, signed.
    pub(super) fn new(
        endpoint: &Endpoint,
        bucket: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Self> {
        Ok(Self {
            client: Client::new(endpoint, bucket)?,
            headers: headers.to_vec(),
            retried: 0,
        })
    }

    pub(super) async fn create_bucket(&mut self) -> Result<()> {
        self.send(Request::new(Method::Put, "")).await.map(drop)
    }

    pub(super) async fn put(&mut self, key: &str, body: Bytes) -> Result<()> {
        let put = Request::new(Method::Put, key).body(body);
        let headers = self.headers.iter();
        let put = headers.fold(put, |put, (name, value)| put.header(name, *value));
        self.send(put).await.map(drop)
    }

    /// Reads an object to its end; how many bytes came.
    pub(super) async fn get(&mut self, key: &str) -> Result<u64> {
        self.send(Request::new(Method::Get, key)).await
    }

    /// Lists a page; how many bytes it has.
    pub(super) async fn list(&mut self, prefix: &str, keys: usize) -> Result<u64> {
        let list = Request::new(Method::Get, "")
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("prefix", prefix)
            .query("max-keys", keys.to_string());
        self.send(list).await
    }

    async fn send(&mut self, request: Request) -> Result<u64> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.once(&request).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if tries == TRIES || error.is::<Refused>() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "sent again");
                    self.client.hang_up();
                    self.retried += 1;
                    tokio::time::sleep(Duration::from_millis(50) * tries).await;
                }
            }
        }
    }

    async fn once(&mut self, request: &Request) -> Result<u64> {
        let answer = self.client.ask(request).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let (mut bytes, mut refusal) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            bytes += data.len() as u64;
            if !status.is_success() {
                refusal.extend_from_slice(&data);
            }
        }
        if status.is_success() {
            return Ok(bytes);
        }
        let refused = Refused(format!("{status}: {}", String::from_utf8_lossy(&refusal)));
        match status.is_client_error() {
            true => Err(refused.into()),
            false => bail!("{refused}"),
        }
    }
}

/// An answer that another try does not change.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
