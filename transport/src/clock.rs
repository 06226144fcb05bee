//! Wall time, injected: certificates expire and enrolment sets go stale by it.
//!
//! Owns the one place of this crate that reads the system clock. Refuses to guess: a clock before 1970 reads 0,
//! at which every certificate is not yet valid, so nothing is accepted.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::ids::UnixMs;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// Where the time of day comes from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now, in milliseconds since the Unix epoch, UTC.
    fn now(&self) -> UnixMs;
}

/// A clock that parts of a process share.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The system clock as a shared one.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixMs {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The injected clock as rustls asks for it.
#[derive(Debug)]
pub(crate) struct TlsTime(pub(crate) SharedClock);

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(
            self.0.now().0,
        )))
    }
}
