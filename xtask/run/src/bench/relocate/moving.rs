//! One relocation on its way, as its destination's shard has it.
//!
//! Owns the looks at it. They go to the shard alone and are exact; what a mover reports of itself is up to ten seconds old.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use client::Region;
use client::ids::{GroupId, RelocationId};
use client::moving::{RelocationPlan, RelocationProgress, is_served};
use proto::relocation::Named;
use proto::v1;
use proto::v1::ArrivalPhase as Phase;

use super::super::measure::Latency;

/// Between two looks: so exact is every time.
const LOOK: Duration = Duration::from_millis(25);
/// How long a relocation may take, and how much longer with each object.
const LIMIT: Duration = Duration::from_secs(600);
const LIMIT_PER_OBJECT: Duration = Duration::from_millis(10);
/// Calls that the median of a status is of.
const STATUS_CALLS: u32 = 50;

/// A relocation that was granted.
pub(super) struct Moving {
    operator: Region,
    relocation: RelocationId,
    named: Named,
    shard: GroupId,
    limit: Instant,
}

/// What there was at a moment.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) phase: Phase,
    /// Copies that are imported, and their sealed bytes.
    pub(super) versions: u64,
    pub(super) bytes: u64,
}

impl Look {
    /// Whether all copies have been found equal. A mover that is told to cut over stops writes once they are, and not before.
    pub(super) fn is_equal(&self) -> bool {
        self.phase == Phase::Fenced || is_served(self.phase)
    }
}

impl Moving {
    pub(super) fn new(operator: Region, plan: &RelocationPlan, shard: GroupId) -> Self {
        let objects = u32::try_from(plan.objects).unwrap_or(u32::MAX);
        Self {
            operator,
            relocation: plan.relocation,
            named: plan.named(),
            shard,
            limit: Instant::now() + LIMIT + LIMIT_PER_OBJECT * objects,
        }
    }

    pub(super) async fn look(&self) -> Result<Look> {
        let status = self.operator.arrival_again(&self.named, self.shard).await?;
        let at = Instant::now();
        let arrival = status.arrival.unwrap_or_default();
        let dataset = status.dataset.unwrap_or_default();
        let phase = arrival.phase();
        ensure!(
            !matches!(phase, Phase::Aborting | Phase::Aborted),
            "the relocation was given up"
        );
        Ok(Look {
            at,
            phase,
            versions: dataset.versions,
            bytes: dataset.sealed_bytes,
        })
    }

    /// The first look that finds it so.
    pub(super) async fn until(
        &self,
        what: &str,
        mut wanted: impl FnMut(&Look) -> bool,
    ) -> Result<Look> {
        loop {
            let look = self.look().await?;
            if wanted(&look) {
                return Ok(look);
            }
            if look.at > self.limit {
                let progress = RelocationProgress::of(&self.status().await?);
                bail!("{what}: not in time: {progress:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until it is being copied; the moment of the last look that did not find it so.
    pub(super) async fn begins(&self) -> Result<Instant> {
        let mut before = Instant::now();
        self.until("it is being copied", |look| {
            let waits = matches!(look.phase, Phase::Plan | Phase::Prepared);
            if waits {
                before = look.at;
            }
            !waits
        })
        .await?;
        Ok(before)
    }

    /// As `reduit relocate status` asks.
    async fn status(&self) -> Result<v1::ArrivalStatus> {
        Ok(self.operator.arrival(&self.relocation).await?)
    }

    /// p50 of a status, in ms.
    pub(super) async fn status_ms(&self) -> Result<f64> {
        let mut latency = Latency::new();
        for _ in 0..STATUS_CALLS {
            let began = Instant::now();
            self.status().await?;
            latency.record(began.elapsed());
        }
        Ok(latency.ms(0.5))
    }
}
