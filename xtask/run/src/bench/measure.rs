//! Latencies, fsync; CPU, memory and bytes written of processes.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

pub(crate) struct Fsync {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// fdatasync of 4 KiB over written pages of one file, 200 times.
pub(crate) fn fsync(dir: &Path) -> Result<Fsync> {
    use std::os::unix::fs::FileExt as _;
    let mut file = tempfile::tempfile_in(dir)?;
    file.write_all(&vec![0; 1 << 20])?;
    file.sync_all()?;
    let mut latency = Latency::new();
    for turn in 0..200_u64 {
        file.write_all_at(&[turn as u8; 4096], turn * 4096 % (1 << 20))?;
        let started = Instant::now();
        file.sync_data()?;
        latency.record(started.elapsed());
    }
    debug_assert!(file.as_raw_fd() >= 0);
    Ok(Fsync {
        p50_ms: latency.ms(0.5),
        p99_ms: latency.ms(0.99),
    })
}

/// A histogram of microseconds up to a minute.
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds"))
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.0
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// The block device below a folder.
///
/// Not `write_bytes` of the processes: on a file system with large folios the kernel charges 2 MiB for a synced page,
/// of which the device sees 4 KiB.
pub(crate) struct Device(PathBuf);

impl Device {
    pub(crate) fn below(path: &Path) -> Result<Self> {
        let dev = std::fs::metadata(path)
            .with_context(|| format!("{}", path.display()))?
            .dev();
        let stat = format!(
            "/sys/dev/block/{}:{}/stat",
            libc::major(dev),
            libc::minor(dev)
        );
        ensure!(
            Path::new(&stat).is_file(),
            "no statistics of the device of {}",
            path.display()
        );
        Ok(Self(stat.into()))
    }

    /// Bytes written to it so far, by whomever, once everything that waits has been written.
    pub(crate) fn written(&self) -> Result<u64> {
        let synced = std::process::Command::new("sync")
            .status()
            .context("sync")?;
        ensure!(synced.success(), "sync failed");
        let stat = std::fs::read_to_string(&self.0).context("statistics of the device")?;
        let sectors = stat.split_whitespace().nth(6).context("sectors written")?;
        Ok(sectors.parse::<u64>().context("sectors written")? * 512)
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu_ms: f64,
    pub(crate) rss_kib: u64,
}

impl Used {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).context("process statistics")?;
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        // Fields 14 and 15 of proc(5), in ticks of 10 ms; the text after the name begins with field 3.
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|t| t.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        let status =
            std::fs::read_to_string(format!("/proc/{pid}/status")).context("process status")?;
        Ok(Self {
            cpu_ms: (ticks(11) + ticks(12)) * 10.0,
            rss_kib: number(&status, "VmRSS:"),
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms - before.cpu_ms,
            rss_kib: self.rss_kib,
        }
    }
}

/// The most memory that a process had resident.
pub(crate) struct Peak(u32);

impl Peak {
    /// From now on; where the kernel lets nobody begin anew, since the process began.
    pub(crate) fn of(pid: u32) -> Self {
        // proc(5): 5 sets the peak to what is resident now.
        let anew = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        if let Err(error) = anew {
            tracing::warn!(pid, %error, "its memory is measured since it began");
        }
        Self(pid)
    }

    /// Since the process began.
    pub(crate) fn since_start(pid: u32) -> Self {
        Self(pid)
    }

    pub(crate) fn mib(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.0);
        let status = std::fs::read_to_string(path).context("process status")?;
        let kib = number(&status, "VmHWM:");
        ensure!(kib > 0, "a process without a peak of memory");
        Ok(kib as f64 / 1024.0)
    }
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
