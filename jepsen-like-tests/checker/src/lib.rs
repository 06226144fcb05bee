//! Histories of what clients saw, and the judges of them.
//!
//! Owns the format of a history ([`history`]), a judge for each promise, and what a judge says ([`verdict`]). Refuses
//! to excuse: an outcome that is not known may be either, everything else counts; a judge that does not finish, two
//! judges that disagree and a history too short to mean anything are failures. Knows nothing of the product: it reads
//! what was recorded, so other programs can judge the same file (`jepsen-like-tests/README.md`).

pub mod history;
pub mod verdict;

#[cfg(test)]
mod testing;

pub use history::{BROKEN, F, HistoryError, Op, Outcome, Reader, Workload};
pub use verdict::{Anomaly, Verdict};
