//! The gateway of a region: S3 over HTTP and HTTPS, in front of its nodes and its KMS.
//!
//! The place where plaintext and keys meet: it seals what clients put and opens, on record, what they get. Owns the
//! words of S3, the bounds on what strangers can make it hold, and who a request is made on behalf of. **Invariant:**
//! keys are inside the SDK's types; nothing that a client may not see is logged; what S3 has and is not offered answers
//! 501, never something that looks like it.

mod access;
mod body;
mod checksum;
mod chunked;
mod conditions;
mod config;
mod cors;
mod encryption;
mod error;
mod front;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod limits;
mod metadata;
mod metered;
mod mover;
mod range;
mod s3;
mod server;
mod signing;
mod stall;
mod tls;
mod token;
mod transfers;

use std::time::{SystemTime, UNIX_EPOCH};

use client::ids::UnixMs;

pub use config::{Config, ConfigError, EXAMPLE as CONFIG_EXAMPLE, LogFormat, MoverConfig};
pub use error::ApiError;
pub use s3::DomainError;
pub use server::{Gateway, StartError};
pub use tls::TlsError;

/// The wall clock.
fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    UnixMs(u64::try_from(ms).unwrap_or(u64::MAX))
}
