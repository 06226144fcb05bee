//! Who changes a bucket's backups: one object, written on conditions, for a while.
//!
//! Owns its renewal while a command works and its end. Refuses it to a second one until the first has given it back or
//! has not renewed it in time. A store that knows no conditional writes lets both have it, unless they come one after
//! the other: what is written then is named by its content, and an index by its own id.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::UnixMs;
use rusty_s3::Method;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::wire::{Asked, S3Error, Sent, Wire};
use crate::kms::now;
use crate::storage_backup::{Outcome, StorageBackupError};

/// How long one is good for that is not renewed.
const GOOD_FOR: Duration = Duration::from_secs(120);
const RENEWED_EVERY: Duration = Duration::from_secs(30);
const BYTES_MAX: u64 = 1 << 10;

/// A bucket that nobody else changes.
pub(in crate::storage_backup) struct Lease {
    held: Arc<Held>,
    renewing: JoinHandle<()>,
}

struct Held {
    wire: Arc<Wire>,
    key: String,
    /// Which one it is; others have others.
    own: String,
    /// When it was last taken or renewed; none, once somebody else has it.
    renewed: Mutex<Option<Instant>>,
}

/// The one that is there.
struct There {
    etag: String,
    own: String,
    until: UnixMs,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Lease {
    /// Takes it, where nobody has it.
    pub(super) async fn take(wire: &Arc<Wire>, key: String) -> Outcome<Self> {
        let id: [u8; 16] = crate::region::random().map_err(StorageBackupError::from)?;
        // Before it is asked for: it is good from there on.
        let held = Arc::new(Held {
            wire: wire.clone(),
            key,
            own: hex::encode(id),
            renewed: Mutex::new(Some(Instant::now())),
        });
        let etag = match held.write(("if-none-match", "*")).await {
            Err(error) if is_conflict(&error) => {
                let there = held.there().await?.ok_or(StorageBackupError::InUse)?;
                if there.until > now() {
                    return Err(StorageBackupError::InUse);
                }
                held.write(("if-match", &there.etag)).await
            }
            taken => taken,
        };
        let etag = etag.map_err(|error| match is_conflict(&error) {
            true => StorageBackupError::InUse,
            false => error.into(),
        })?;
        let renewing = tokio::spawn(held.clone().renew(etag));
        Ok(Self { held, renewing })
    }

    /// Whether nobody else can have it.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_good()
    }

    /// Gives it back. *Blocks.*
    pub(super) fn release(self) {
        self.renewing.abort();
        let given_back = tokio::runtime::Handle::current().block_on(self.held.remove());
        if let Err(error) = given_back {
            tracing::warn!(%error, "the bucket's lock was not given back: it ends in {GOOD_FOR:?}");
        }
    }
}

/// Somebody else's is there, or came meanwhile.
fn is_conflict(error: &S3Error) -> bool {
    matches!(error.status(), Some(409 | 412))
}

impl Held {
    fn is_good(&self) -> bool {
        let renewed = *self.renewed.lock();
        renewed.is_some_and(|at| at.elapsed() < GOOD_FOR)
    }

    /// Renews it until somebody else has it.
    async fn renew(self: Arc<Self>, mut etag: String) {
        loop {
            tokio::time::sleep(RENEWED_EVERY).await;
            let began = Instant::now();
            let error = match self.write(("if-match", &etag)).await {
                Ok(next) => {
                    etag = next;
                    *self.renewed.lock() = Some(began);
                    continue;
                }
                Err(error) => error,
            };
            tracing::warn!(%error, "the bucket's lock was not renewed");
            if !is_conflict(&error) {
                continue;
            }
            match self.there().await {
                // A renewal of its own, whose answer was lost.
                Ok(Some(there)) if there.own == self.own => etag = there.etag,
                Ok(_) => {
                    *self.renewed.lock() = None;
                    return;
                }
                Err(error) => tracing::warn!(%error, "the bucket's lock was not read"),
            }
        }
    }

    /// Writes it, on a condition; its entity tag.
    async fn write(&self, condition: (&str, &str)) -> Result<String, S3Error> {
        let until = UnixMs(now().0 + GOOD_FOR.as_millis() as u64);
        let text = format!("{} {}\n", self.own, until.0);
        let asked = Asked {
            method: Method::Put,
            key: &self.key,
            query: &[],
            headers: &[condition],
            sent: Sent::Bytes(text.into()),
            bytes_max: BYTES_MAX,
        };
        // Once: a second try would find what the first has written.
        let answer = self.wire.once(&asked).await?;
        Ok(etag(&answer.headers))
    }

    /// The one that is there.
    async fn there(&self) -> Result<Option<There>, S3Error> {
        let asked = Asked {
            method: Method::Get,
            key: &self.key,
            query: &[],
            headers: &[],
            sent: Sent::Nothing,
            bytes_max: BYTES_MAX,
        };
        match self.wire.ask(&asked).await {
            Ok(answer) => Ok(Some(There::read(etag(&answer.headers), &answer.body))),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes its own; another's stays.
    async fn remove(&self) -> Result<(), S3Error> {
        let there = self.there().await?;
        if there.is_none_or(|there| there.own != self.own) {
            return Ok(());
        }
        let asked = Asked {
            method: Method::Delete,
            key: &self.key,
            query: &[],
            headers: &[],
            sent: Sent::Nothing,
            bytes_max: BYTES_MAX,
        };
        self.wire.ask(&asked).await.map(drop)
    }
}

fn etag(headers: &hyper::HeaderMap) -> String {
    let etag = headers
        .get(hyper::header::ETAG)
        .and_then(|etag| etag.to_str().ok());
    etag.unwrap_or_default().to_owned()
}

impl There {
    /// One that does not read is nobody's, and over.
    fn read(etag: String, text: &Bytes) -> Self {
        let text = String::from_utf8_lossy(text);
        let (own, until) = text.trim().split_once(' ').unwrap_or_default();
        Self {
            etag,
            own: own.to_owned(),
            until: UnixMs(until.parse().unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_lock_is_is_read_back_and_what_is_none_is_over() {
        let of =
            |text: &'static str| There::read(String::new(), &Bytes::from_static(text.as_bytes()));
        let there = of("ab 17\n");
        assert_eq!((there.own.as_str(), there.until), ("ab", UnixMs(17)));
        for none in ["mine", ""] {
            assert_eq!(of(none).until, UnixMs(0), "{none}");
        }
    }
}
