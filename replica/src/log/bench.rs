//! How much one log takes: appends that wait for their sync, by waiters and size, beside the bare device.
//!
//! Owns a closed loop of one loader thread: each waiter has one append out at a time and sends the next when it is
//! answered. Refuses to leave out the device: every row carries the latency of a bare write and sync measured just
//! before it, because that is what the row is to be read against.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex, Term};

use super::{Done, LogEntry, LogError, LogOptions, RaftLog};
use crate::disk::{Disk, RealDisk};

/// One measured load.
#[derive(Debug, Clone)]
pub struct BenchRow {
    /// Appends out at a time.
    pub waiters: usize,
    /// Bytes of each entry's payload.
    pub payload_bytes: usize,
    /// Durable appends a second.
    pub appends_per_s: f64,
    /// Median of accept to answer, microseconds.
    pub p50_us: u64,
    /// 99th percentile of the same.
    pub p99_us: u64,
    /// Appends that shared one sync, on average.
    pub appends_per_sync: f64,
    /// Median of a bare write and sync of as many bytes, microseconds.
    pub bare_p50_us: u64,
    /// 99th percentile of the same.
    pub bare_p99_us: u64,
}

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The log failed.
    #[error("the log failed under load")]
    Log(#[source] Arc<LogError>),
    /// The bare device failed.
    #[error("the bare device failed")]
    Device(#[source] std::io::Error),
}

/// Loads of the design: waiters by payload bytes.
pub const LOADS: [(usize, usize); 8] = [
    (1, 256),
    (16, 256),
    (64, 256),
    (256, 256),
    (1, 4096),
    (16, 4096),
    (64, 4096),
    (256, 4096),
];

/// Groups the appends are spread over.
const GROUPS: u64 = 4;
/// Entries after which a group purges all but the last few, so that segments come round.
const PURGE_EVERY: u64 = 10_000;

/// Measures one load for `time` in `dir`, which should be empty.
pub fn measure(
    dir: &Path,
    waiters: usize,
    payload_bytes: usize,
    time: Duration,
) -> Result<BenchRow, BenchError> {
    let (bare_p50_us, bare_p99_us) = bare_sync(dir, payload_bytes).map_err(BenchError::Device)?;
    let log = RaftLog::open(Arc::new(RealDisk), &dir.join("log"), LogOptions::default());
    let log = log.map_err(|error| BenchError::Log(Arc::new(error)))?;
    let mut loader = Loader::new(&log, waiters, payload_bytes);
    for waiter in 0..waiters {
        loader.send(waiter);
    }
    let before = log.stats();
    let started = Instant::now();
    let mut latencies = Vec::new();
    while started.elapsed() < time {
        let (waiter, latency) = loader.next_answer()?;
        latencies.push(latency);
        loader.send(waiter);
    }
    let elapsed = started.elapsed();
    let after = log.stats();
    for _ in 0..waiters {
        loader.next_answer()?;
    }
    log.close().map_err(BenchError::Log)?;
    latencies.sort_unstable();
    let syncs = (after.syncs - before.syncs).max(1);
    Ok(BenchRow {
        waiters,
        payload_bytes,
        appends_per_s: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_us: quantile(&latencies, 0.50),
        p99_us: quantile(&latencies, 0.99),
        appends_per_sync: latencies.len() as f64 / syncs as f64,
        bare_p50_us,
        bare_p99_us,
    })
}

type Answered = (usize, Instant, Result<(), Arc<LogError>>);

struct Loader<'a> {
    log: &'a RaftLog,
    payload: Bytes,
    next: Vec<u64>,
    sent: Vec<Instant>,
    send: mpsc::Sender<Answered>,
    receive: mpsc::Receiver<Answered>,
}

impl<'a> Loader<'a> {
    fn new(log: &'a RaftLog, waiters: usize, payload_bytes: usize) -> Self {
        let (send, receive) = mpsc::channel();
        Self {
            log,
            payload: Bytes::from(vec![0xA5; payload_bytes]),
            next: vec![0; GROUPS as usize],
            sent: vec![Instant::now(); waiters],
            send,
            receive,
        }
    }

    fn send(&mut self, waiter: usize) {
        let slot = waiter % GROUPS as usize;
        let group = self.log.group(GroupId(GroupId::FIRST_SHARD + slot as u64));
        let index = self.next[slot];
        self.next[slot] += 1;
        if index % PURGE_EVERY == PURGE_EVERY - 1 {
            let up_to = LogIndex(index - PURGE_EVERY / 2);
            group.purge(
                Term(1),
                up_to,
                Bytes::from_static(b"bench"),
                Box::new(|_| {}),
            );
        }
        let send = self.send.clone();
        self.sent[waiter] = Instant::now();
        let done: Done = Box::new(move |outcome| {
            // The loader stops listening when it has failed.
            drop(send.send((waiter, Instant::now(), outcome)));
        });
        let entry = LogEntry {
            term: Term(1),
            index: LogIndex(index),
            payload: self.payload.clone(),
        };
        group.append(vec![entry], done);
    }

    fn next_answer(&self) -> Result<(usize, u64), BenchError> {
        let (waiter, at, outcome) = self.receive.recv().expect("this loader holds a sender");
        outcome.map_err(BenchError::Log)?;
        Ok((
            waiter,
            at.duration_since(self.sent[waiter]).as_micros() as u64,
        ))
    }
}

/// Median and 99th percentile, in microseconds, of writing `bytes` into allocated blocks and syncing them.
fn bare_sync(dir: &Path, bytes: usize) -> std::io::Result<(u64, u64)> {
    const WRITES: usize = 500;
    RealDisk.create_dir_all(dir)?;
    let path = dir.join("bare");
    let file = RealDisk.create(&path)?;
    file.zero((WRITES * bytes) as u64)?;
    file.sync_data()?;
    let data = vec![0x5A; bytes];
    let mut latencies = Vec::with_capacity(WRITES);
    for write in 0..WRITES {
        let started = Instant::now();
        file.write_at(&data, (write * bytes) as u64)?;
        file.sync_data()?;
        latencies.push(started.elapsed().as_micros() as u64);
    }
    RealDisk.remove(&path)?;
    latencies.sort_unstable();
    Ok((quantile(&latencies, 0.50), quantile(&latencies, 0.99)))
}

fn quantile(sorted: &[u64], part: f64) -> u64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_measured_and_printed() {
        let temp = tempfile::tempdir().expect("tempdir");
        for (number, (waiters, bytes)) in LOADS.into_iter().enumerate() {
            let dir = temp.path().join(number.to_string());
            let row = measure(&dir, waiters, bytes, Duration::from_millis(800)).expect("measured");
            assert!(row.appends_per_s > 0.0 && row.p50_us <= row.p99_us);
            println!("{row:?}");
            std::fs::remove_dir_all(&dir).expect("removed");
        }
    }
}
