//! What Prometheus asks a daemon: numbers of the service and of its process.
//!
//! Owns the buckets of histograms, the same in every daemon, so that they add up over a region. Refuses quantiles, which
//! do not.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// Of durations, in seconds: from a sync of a fast disk to the longest wait that anybody has.
const SECONDS: [f64; 17] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Of counts.
const COUNTS: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

/// Why numbers cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be kept")]
pub struct NumbersError(#[from] BuildError);

/// The numbers of this process.
#[derive(Debug, Clone)]
pub struct Numbers {
    handle: PrometheusHandle,
    process: Collector,
}

impl Numbers {
    /// Keeps numbers from here on. Once a process.
    pub fn keep() -> Result<Self, NumbersError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_per_entry".to_owned()), &COUNTS)?
            .install_recorder()?;
        let process = Collector::default();
        process.describe();
        metrics::gauge!("reduit_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { handle, process })
    }

    /// All of them, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.process.collect();
        // Histograms grow until they are drained into their buckets.
        self.handle.run_upkeep();
        self.handle.render()
    }
}
