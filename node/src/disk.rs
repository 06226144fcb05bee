//! How full the file system is that everything of this node lies on.
//!
//! Owns the mark at which puts are refused, so that deletes, collection, snapshots and the log keep room to work in.
//! Refuses to guess: a file system that cannot be asked counts as full.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::CallError;

/// Bytes of the file system, as an unprivileged process sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Space {
    /// In all.
    pub(crate) bytes: u64,
    /// Free.
    pub(crate) free: u64,
}

/// The last reading.
pub(crate) struct DiskGauge {
    dir: PathBuf,
    full_percent: u64,
    bytes: AtomicU64,
    free: AtomicU64,
}

impl DiskGauge {
    pub(crate) fn new(dir: &Path, full_percent: u64) -> Self {
        let (bytes, free) = (AtomicU64::new(0), AtomicU64::new(0));
        let gauge = Self {
            dir: dir.to_owned(),
            full_percent,
            bytes,
            free,
        };
        gauge.refresh();
        gauge
    }

    /// Asks the file system again. *Blocks*, briefly.
    pub(crate) fn refresh(&self) {
        let space = match rustix::fs::statvfs(&self.dir) {
            // What is reserved for root is neither free nor counted, as in df.
            Ok(stat) => {
                let used = stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize;
                let free = stat.f_bavail * stat.f_frsize;
                Space {
                    bytes: used + free,
                    free,
                }
            }
            Err(_) => Space { bytes: 1, free: 0 },
        };
        self.bytes.store(space.bytes, Ordering::Relaxed);
        self.free.store(space.free, Ordering::Relaxed);
        metrics::gauge!("reduit_disk_bytes").set(space.bytes as f64);
        metrics::gauge!("reduit_disk_free_bytes").set(space.free as f64);
    }

    pub(crate) fn space(&self) -> Space {
        Space {
            bytes: self.bytes.load(Ordering::Relaxed),
            free: self.free.load(Ordering::Relaxed),
        }
    }

    /// Refuses when the disk is full.
    pub(crate) fn check(&self) -> Result<(), CallError> {
        let percent = used_percent(self.space());
        if percent < self.full_percent {
            return Ok(());
        }
        Err(CallError::DiskFull { percent })
    }
}

fn used_percent(space: Space) -> u64 {
    let used = u128::from(space.bytes.saturating_sub(space.free));
    u64::try_from(used * 100 / u128::from(space.bytes.max(1))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_full_at_the_mark_and_not_before() {
        let percent = |bytes, free| used_percent(Space { bytes, free });
        assert_eq!(percent(100, 11), 89);
        assert_eq!(percent(100, 10), 90);
        assert_eq!(percent(0, 0), 0);
        assert_eq!(percent(u64::MAX, 0), 100);
    }

    #[test]
    fn a_disk_that_cannot_be_asked_counts_as_full() {
        let gauge = DiskGauge::new(Path::new("/nowhere/at/all"), 90);
        assert!(matches!(
            gauge.check(),
            Err(CallError::DiskFull { percent: 100 })
        ));
        let temp = tempfile::tempdir().expect("a folder");
        let gauge = DiskGauge::new(temp.path(), 98);
        assert!(gauge.space().bytes > 0);
    }
}
