//! Region time that passes: days in seconds, on every clock of both regions and of their people at once.
//!
//! Owns the file that says how far clocks are ahead. Daemons read it in a build with `danger_clock_ahead` alone, which
//! release builds refuse; what moves is clocks, and region time follows them by its own rules.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use transport::{Clock as _, SystemClock};

use super::people::{People, until};

/// Names the file, for every process of the demo.
pub(super) const CLOCK_AHEAD: &str = "REDUIT_CLOCK_AHEAD";
const HOUR_MS: u64 = 3_600_000;
/// Enrolments are stale after a day: less than that at a time.
const STEP_MS: u64 = 20 * HOUR_MS;
/// Replicas publish fresh enrolments and nodes fetch them meanwhile.
const SETTLE: Duration = Duration::from_secs(10);

pub(crate) struct RegionClock {
    file: PathBuf,
    ahead_ms: u64,
}

impl RegionClock {
    /// The clock as it is, before any process is started.
    pub(crate) fn start() -> Result<Self> {
        let file = std::env::var_os(CLOCK_AHEAD)
            .map(PathBuf::from)
            .context("REDUIT_CLOCK_AHEAD names no file: `cargo xtask demo --relocate` sets it")?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut clock = Self { file, ahead_ms: 0 };
        clock.set(0)?;
        // Seen by this process, so by daemons of the same build.
        let before = SystemClock.now().0;
        clock.set(HOUR_MS)?;
        let moved = SystemClock.now().0.saturating_sub(before);
        clock.set(0)?;
        ensure!(
            moved >= HOUR_MS,
            "built without danger_clock_ahead, so no region time can pass: `cargo xtask demo --relocate` builds with it"
        );
        Ok(clock)
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    fn set(&mut self, ahead_ms: u64) -> Result<()> {
        self.ahead_ms = ahead_ms;
        // Whoever reads it sees one or the other.
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, ahead_ms.to_string())?;
        std::fs::rename(&fresh, &self.file)
            .with_context(|| format!("writing {}", self.file.display()))
    }

    /// Days pass, and some hours more.
    pub(super) async fn pass(&mut self, days: u64, regions: [&People; 2]) -> Result<()> {
        let mut left = days * 24 * HOUR_MS + 2 * HOUR_MS;
        while left > 0 {
            let step = left.min(STEP_MS);
            left -= step;
            self.set(self.ahead_ms + step)?;
            for people in regions {
                until("the KMS's time follows", async || {
                    people.approved(&["operator", "advance-time", "kms"]).await
                })
                .await?;
                tokio::time::sleep(SETTLE).await;
                until("the time of storage follows", async || {
                    people
                        .operator(&["operator", "advance-time", "storage"])
                        .await
                })
                .await?;
            }
        }
        Ok(())
    }
}
