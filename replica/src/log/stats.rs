//! What the log counts.
//!
//! Owns counters and two histograms with power-of-two buckets. Refuses to steer anything by them.

use std::time::{Duration, Instant};

/// Counters since opening.
#[derive(Debug, Clone, Default)]
pub struct LogStats {
    /// Syncs of segments.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Bytes of records written, headers and padding included.
    pub bytes: u64,
    /// Segments started.
    pub rotations: u64,
    /// Segments given up because nothing in them was live.
    pub retired: u64,
    /// Entries written again so that their old segment could go.
    pub moved: u64,
    /// Entries read from segments rather than memory.
    pub disk_reads: u64,
    /// Records per sync.
    pub batch_records: Histogram,
    /// Bytes per sync.
    pub batch_bytes: Histogram,
    /// Microseconds of each sync.
    pub sync_us: Histogram,
}

/// Counts by power of two: bucket `i` holds values of `i` significant bits.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Bucket 0 counts zeros, bucket `i` counts `2^(i-1)..2^i`.
    pub buckets: [u64; 65],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; 65] }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.buckets[(u64::BITS - value.leading_zeros()) as usize] += 1;
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound of the value below which `part` (0 to 1) of the counted ones lie; 0 when empty.
    pub fn quantile_bound(&self, part: f64) -> u64 {
        let count = self.count();
        let mut seen = 0;
        for (bits, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if count > 0 && seen as f64 >= part * count as f64 {
                return if bits == 64 {
                    u64::MAX
                } else {
                    (1 << bits) - 1
                };
            }
        }
        0
    }
}

/// Times one sync. The only clock in the log; it decides nothing.
pub(super) struct SyncTimer(Instant);

impl SyncTimer {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().min(Duration::from_secs(3600)).as_micros())
            .unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_bound_is_never_below_the_value() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 5, 900, u64::MAX] {
            histogram.record(value);
        }
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.quantile_bound(0.2), 0);
        assert_eq!(histogram.quantile_bound(0.6), 7);
        assert_eq!(histogram.quantile_bound(0.8), 1023);
        assert_eq!(histogram.quantile_bound(1.0), u64::MAX);
        assert_eq!(Histogram::default().quantile_bound(0.5), 0);
    }
}
