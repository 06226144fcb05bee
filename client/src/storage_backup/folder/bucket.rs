//! A bucket of an S3 store: files are objects under a prefix.
//!
//! Owns their names there, and a list of what is there as of when the bucket was locked, so that a backup asks once and
//! not for each file. Credentials come from the environment, as every client of S3 takes them. Refuses a place without
//! a region and plain HTTP to another host: names of files tell nothing, and signatures are worth having.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::BackupId;
use proto::storage_backup::Kind;
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Credentials, Method, UrlStyle};
use tokio::runtime::Handle;

use super::disk::file;
use super::lease::Lease;
use super::wire::{Asked, S3Error, Sent, Wire};
use crate::storage_backup::{Outcome, StorageBackupError};

const LOCK: &str = "lock";
/// Bytes of one page of a listing.
const LISTING_BYTES_MAX: u64 = 8 << 20;
/// Bytes of an answer that says nothing.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// What one request may put: S3's own bound.
const PUT_BYTES_MAX: u64 = 5 << 30;

/// Why a place is none.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Not `s3://BUCKET[/PREFIX]`.
    #[error("not s3://BUCKET or s3://BUCKET/PREFIX")]
    Malformed,
    /// No region.
    #[error("AWS_REGION does not say the store's region")]
    NoRegion,
    /// No key.
    #[error("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do not say an access key")]
    NoCredentials,
    /// No URL.
    #[error("AWS_ENDPOINT_URL is no URL of a store")]
    Endpoint,
    /// In clear, and not to this host.
    #[error("AWS_ENDPOINT_URL is of http: only a store on this host is spoken to so")]
    Clear,
}

/// A bucket, and a prefix of names in it.
pub struct S3Place {
    bucket: rusty_s3::Bucket,
    prefix: String,
    credentials: Credentials,
}

impl S3Place {
    /// Reads `s3://BUCKET[/PREFIX]`, and from the environment `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` (without one,
    /// AWS's own), `AWS_REGION` or `AWS_DEFAULT_REGION`, and the access key.
    pub fn parse(text: &str) -> Result<Self, BucketError> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = var("AWS_REGION").or_else(|| var("AWS_DEFAULT_REGION"));
        let endpoint = var("AWS_ENDPOINT_URL_S3").or_else(|| var("AWS_ENDPOINT_URL"));
        let credentials = Credentials::from_env().ok_or(BucketError::NoCredentials)?;
        Self::at(text, endpoint.as_deref(), region.as_deref(), credentials)
    }

    /// As [`Self::parse`], told all of it.
    pub fn at(
        text: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
        credentials: Credentials,
    ) -> Result<Self, BucketError> {
        let rest = text.strip_prefix("s3://").ok_or(BucketError::Malformed)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        if bucket.is_empty() || prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(BucketError::Malformed);
        }
        let region = region.ok_or(BucketError::NoRegion)?;
        let own = format!("https://s3.{region}.amazonaws.com");
        // Stores beside AWS's have their buckets in the path.
        let (endpoint, style) = match endpoint {
            Some(stated) => (stated, UrlStyle::Path),
            None => (own.as_str(), UrlStyle::VirtualHost),
        };
        let url: url::Url = endpoint.parse().map_err(|_| BucketError::Endpoint)?;
        match (url.scheme(), url.host_str()) {
            ("https", Some(_)) | ("http", Some("127.0.0.1" | "localhost" | "[::1]")) => {}
            ("http", Some(_)) => return Err(BucketError::Clear),
            _ => return Err(BucketError::Endpoint),
        }
        let bucket = rusty_s3::Bucket::new(url, style, bucket.to_owned(), region.to_owned());
        Ok(Self {
            bucket: bucket.map_err(|_| BucketError::Endpoint)?,
            prefix: match prefix {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            },
            credentials,
        })
    }
}

pub(super) struct Bucket {
    wire: Arc<Wire>,
    name: String,
    prefix: String,
    runtime: Handle,
    /// Files that are there, once the bucket was locked.
    there: Mutex<HashMap<String, u64>>,
    /// Of this host, for files that have to lie on a disk.
    scratch: Mutex<Option<tempfile::TempDir>>,
}

impl Bucket {
    pub(super) fn new(place: S3Place) -> Outcome<Self> {
        let name = place.bucket.name().to_owned();
        let wire = Wire::new(place.bucket, place.credentials);
        let trust = |source| StorageBackupError::File {
            path: "the host's certificates".into(),
            source,
        };
        Ok(Self {
            wire: Arc::new(wire.map_err(trust)?),
            name,
            prefix: place.prefix,
            runtime: Handle::current(),
            there: Mutex::default(),
            scratch: Mutex::default(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn lock(&self) -> Outcome<Lease> {
        let taken = Lease::take(&self.wire, self.key(LOCK));
        let lease = self.runtime.block_on(taken)?;
        let mut there = HashMap::new();
        for kind in Kind::ALL {
            there.extend(self.names(kind.folder())?);
        }
        *self.there.lock() = there;
        Ok(lease)
    }

    pub(super) fn length(&self, name: &str) -> Option<u64> {
        self.there.lock().get(name).copied()
    }

    pub(super) fn write(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.runtime.block_on(self.put(name, bytes))
    }

    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.sent(name, Sent::Bytes(bytes)).await
    }

    async fn sent(&self, name: &str, sent: Sent) -> Outcome<()> {
        let length = match &sent {
            Sent::Nothing => 0,
            Sent::Bytes(bytes) => bytes.len() as u64,
            Sent::File { bytes, .. } => *bytes,
        };
        if length > PUT_BYTES_MAX {
            return Err(S3Error::TooLong(PUT_BYTES_MAX).into());
        }
        let asked = Asked {
            method: Method::Put,
            key: &self.key(name),
            query: &[],
            headers: &[],
            sent,
            bytes_max: ANSWER_BYTES_MAX,
        };
        self.wire.ask(&asked).await?;
        self.there.lock().insert(name.to_owned(), length);
        Ok(())
    }

    pub(super) fn incoming(&self, id: &BackupId) -> Outcome<PathBuf> {
        let mut scratch = self.scratch.lock();
        let dir = match scratch.take() {
            Some(dir) => dir,
            None => tempfile::tempdir().map_err(file(&std::env::temp_dir()))?,
        };
        let path = dir.path().join(format!("incoming-{id}"));
        *scratch = Some(dir);
        Ok(path)
    }

    pub(super) fn take(&self, from: &Path, name: &str) -> Outcome<()> {
        let bytes = std::fs::metadata(from).map_err(file(from))?.len();
        let sent = Sent::File {
            path: from.to_owned(),
            bytes,
        };
        self.runtime.block_on(self.sent(name, sent))?;
        std::fs::remove_file(from).map_err(file(from))
    }

    pub(super) fn fetch(&self, name: &str) -> Outcome<tempfile::TempPath> {
        let bytes = self.read(name, PUT_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| StorageBackupError::Damaged {
            name: name.to_owned(),
        })?;
        let to = tempfile::NamedTempFile::new().map_err(file(&std::env::temp_dir()))?;
        let path = to.into_temp_path();
        std::fs::write(&path, &bytes).map_err(file(&path))?;
        Ok(path)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Outcome<()> {
        let source = format!("{}/{}", self.name, self.key(from));
        let asked = Asked {
            method: Method::Put,
            key: &self.key(to),
            query: &[],
            headers: &[("x-amz-copy-source", &source)],
            sent: Sent::Nothing,
            bytes_max: ANSWER_BYTES_MAX,
        };
        self.runtime.block_on(self.wire.ask(&asked))?;
        self.remove(from)
    }

    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Outcome<Option<Bytes>> {
        let asked = Asked {
            method: Method::Get,
            key: &self.key(name),
            query: &[],
            headers: &[],
            sent: Sent::Nothing,
            bytes_max,
        };
        match self.runtime.block_on(self.wire.ask(&asked)) {
            Ok(answer) => Ok(Some(answer.body)),
            Err(error) if error.status() == Some(404) => no_bucket(error).map(|()| None),
            Err(S3Error::TooLong(_)) => Err(StorageBackupError::Damaged {
                name: name.to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Outcome<()> {
        let asked = Asked {
            method: Method::Delete,
            key: &self.key(name),
            query: &[],
            headers: &[],
            sent: Sent::Nothing,
            bytes_max: ANSWER_BYTES_MAX,
        };
        match self.runtime.block_on(self.wire.ask(&asked)) {
            Err(error) if error.status() != Some(404) => return Err(error.into()),
            Err(error) => no_bucket(error)?,
            Ok(_) => {}
        }
        self.there.lock().remove(name);
        Ok(())
    }

    pub(super) fn names(&self, under: &str) -> Outcome<Vec<(String, u64)>> {
        let prefix = self.key(&format!("{under}/"));
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix.as_str())];
            if let Some(token) = &token {
                query.insert(0, ("continuation-token", token));
            }
            let asked = Asked {
                method: Method::Get,
                key: "",
                query: &query,
                headers: &[],
                sent: Sent::Nothing,
                bytes_max: LISTING_BYTES_MAX,
            };
            let answer = self.runtime.block_on(self.wire.ask(&asked))?;
            let text = String::from_utf8_lossy(&answer.body);
            let page = ListObjectsV2::parse_response(&text)
                .map_err(|error| S3Error::Unreachable(error.to_string().into()))?;
            for object in page.contents {
                if let Some(name) = object.key.strip_prefix(&self.prefix) {
                    found.push((name.to_owned(), object.size.unwrap_or(0)));
                }
            }
            match page.next_continuation_token {
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                _ => break,
            }
        }
        found.sort();
        Ok(found)
    }
}

/// An object that is not there is one thing, a bucket that is not there another.
fn no_bucket(error: S3Error) -> Outcome<()> {
    match &error {
        S3Error::Refused { code, .. } if code == "NoSuchBucket" => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_its_bucket_and_store_and_is_not_spoken_to_in_clear_elsewhere() {
        let key = || Credentials::new("key", "secret");
        let at = |text, endpoint| S3Place::at(text, endpoint, Some("ch-zrh"), key());
        let place = at("s3://b/a/c/", Some("https://store.example:9000")).expect("a place");
        assert_eq!((place.bucket.name(), place.prefix.as_str()), ("b", "a/c/"));
        assert_eq!(at("s3://b", None).expect("a place").prefix, "");
        at("s3://b", Some("http://127.0.0.1:9000")).expect("this host");
        for (text, endpoint) in [
            ("s3://", None),
            ("/folder", None),
            ("s3://b/../c", None),
            ("s3://b", Some("http://store.example")),
            ("s3://b", Some("ftp://store.example")),
            ("s3://b", Some("store")),
        ] {
            assert!(at(text, endpoint).is_err(), "{text} {endpoint:?}");
        }
        assert!(matches!(
            S3Place::at("s3://b", None, None, key()),
            Err(BucketError::NoRegion)
        ));
    }
}
