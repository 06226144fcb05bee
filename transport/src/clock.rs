//! Wall time, injected: certificates expire and enrolment sets go stale by it.
//!
//! Owns the one place of this crate that reads the system clock. In builds with `danger_clock_ahead`, which release builds
//! refuse, the file that `REDUIT_CLOCK_AHEAD` names says how many milliseconds it is ahead. Refuses to guess: a clock before 1970 reads 0,
//! at which every certificate is not yet valid, so nothing is accepted.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::ids::UnixMs;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

#[cfg(all(feature = "danger_clock_ahead", not(debug_assertions)))]
compile_error!("danger_clock_ahead moves clocks at will: it is refused in release builds");

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
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        UnixMs(since.saturating_add(ahead_ms()))
    }
}

#[cfg(not(feature = "danger_clock_ahead"))]
const fn ahead_ms() -> u64 {
    0
}

/// As the file says now; a process without the variable, or before the file is there, is not ahead.
///
/// # Panics
/// If the file holds something else than a number: a demo whose time did not pass would prove nothing.
#[cfg(feature = "danger_clock_ahead")]
fn ahead_ms() -> u64 {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("REDUIT_CLOCK_AHEAD").map(PathBuf::from));
    let text = file.as_ref().map(std::fs::read_to_string);
    match text {
        Some(Ok(text)) => match text.trim().parse() {
            Ok(ahead) => ahead,
            Err(_) => panic!("REDUIT_CLOCK_AHEAD names a file without a number: {text}"),
        },
        Some(Err(_)) | None => 0,
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
