//! What every daemon of a region has around its service: threads, log lines, numbers, spans.
//!
//! Owns how they look to who operates it, so that all daemons look alike. Refuses to know what is served. None of them
//! may hold a name, a key or a byte of a customer: what is told here leaves the process, and with spans its host.

mod logging;
mod numbers;
mod runtime;
mod spans;

pub use logging::{LogError, Logging};
pub use numbers::{Numbers, NumbersError};
pub use runtime::Serving;
pub use spans::{Exporting, Otlp};
