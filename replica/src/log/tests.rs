//! The log that ships, on simulated and real disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::{GroupId, LogIndex, Term};

use super::*;

mod cases;
mod faults;
mod model;
mod space;

const DIR: &str = "/node/raft-log";

/// Small segments, the caller's turns, salts that differ and repeat with the seed.
fn options(salts: &Arc<AtomicU64>) -> LogOptions {
    let salts = salts.clone();
    LogOptions {
        segment_bytes: 80 * 1024,
        payload_bytes_max: 4096,
        batch_bytes_max: 4096,
        queue_bytes_max: 1 << 20,
        cache_bytes_max: 8192,
        segments_soft_max: 3,
        space_bytes_min: 0,
        retired: Retired::Reuse,
        driver: Driver::Manual,
        salt: Arc::new(move || {
            // An odd multiplier: distinct inputs give distinct salts.
            salts
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        }),
    }
}

fn salts(seed: u64) -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(seed << 20))
}

fn dir() -> PathBuf {
    PathBuf::from(DIR)
}

fn entry(term: u64, index: u64, payload: impl Into<Vec<u8>>) -> LogEntry {
    LogEntry {
        term: Term(term),
        index: LogIndex(index),
        payload: Bytes::from(payload.into()),
    }
}

/// What became of one call.
#[derive(Clone, Default)]
struct Answer(Arc<Mutex<Option<Outcome>>>);

type Outcome = Result<(), Arc<LogError>>;

impl Answer {
    fn done(&self) -> Done {
        let slot = self.0.clone();
        Box::new(move |outcome| {
            let before = slot.lock().replace(outcome);
            assert!(before.is_none(), "answered twice");
        })
    }

    fn is_ok(&self) -> bool {
        matches!(&*self.0.lock(), Some(Ok(())))
    }

    fn is_open(&self) -> bool {
        self.0.lock().is_none()
    }

    fn error(&self) -> Option<Arc<LogError>> {
        match &*self.0.lock() {
            Some(Err(error)) => Some(error.clone()),
            _ => None,
        }
    }
}

fn finish(log: &RaftLog) {
    while log.turn() {}
}

/// Appends and does the work until it is answered.
fn append_now(log: &RaftLog, group: &GroupLog, entries: Vec<LogEntry>) -> Answer {
    let answer = Answer::default();
    group.append(entries, answer.done());
    finish(log);
    answer
}

fn everything(group: &GroupLog) -> Vec<LogEntry> {
    group
        .read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX)
        .expect("readable")
}

fn segment(number: u32) -> PathBuf {
    super::core::segment_path(Path::new(DIR), number)
}
