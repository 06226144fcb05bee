//! The seconds in which writes wait at the source: what is left is brought, all is compared, and the source is asked to move.
//!
//! Owns their order and their measure. Refuses to have writes wait for nothing: where a step fails before the source is
//! asked to move, the fence is reverted at once. After that the source's record alone says what became of it.

use std::time::Duration;

use client::Error;
use proto::v1;
use proto::v1::arrival_step_request::Step as Arrives;
use proto::v1::departure_step_request::Step as Departs;
use tokio::time::Instant;
use transport::fault::Chain;

use super::work::{PATIENCE, Turn, Work, image_of};

/// How long words are gathered while writes wait.
const FENCE_PATIENCE: Duration = Duration::from_secs(2);

impl Work {
    /// Stops writes at the source.
    pub(super) async fn fence(&mut self, fence: v1::Fence) -> Result<Turn, Error> {
        let fenced = self
            .shared
            .mover
            .depart(Departs::Fence(fence), PATIENCE)
            .await?;
        self.fenced_at = Some(Instant::now());
        tracing::info!(
            relocation = %self.relocation,
            fence = fenced.log_index,
            pause_ms = fence.pause_ms,
            "writes wait at the source"
        );
        self.under_fence(fenced.log_index).await
    }

    /// All that is left under a fence that stands, whoever asked for it.
    pub(super) async fn under_fence(&mut self, fence: u64) -> Result<Turn, Error> {
        self.shared.bucket.hurry(true);
        let proposed = self.proposed(fence).await;
        self.shared.bucket.hurry(false);
        if let Err(error) = proposed {
            self.rest();
            self.refused(&error);
            let revert = Departs::Revert(fence);
            if let Err(revert) = self.shared.mover.depart(revert, FENCE_PATIENCE).await {
                tracing::debug!(error = %Chain(&revert), "the fence was not reverted and ends by itself");
            }
            return Err(error);
        }
        let moved = Departs::Moved(true);
        self.shared.mover.depart(moved, FENCE_PATIENCE).await?;
        self.moved();
        self.shared.all_moved(self.compared.equal());
        self.arrive(Arrives::Moved(true)).await
    }

    /// What all has to be so that the own side proposes the move.
    async fn proposed(&mut self, fence: u64) -> Result<(), Error> {
        let mut here = self.shared.mover.status().await?;
        if phase_of(&here) == v1::ArrivalPhase::Verifying {
            let fenced = Arrives::Fenced(true);
            self.shared.mover.arrive(fenced, FENCE_PATIENCE).await?;
            here = self.shared.mover.status().await?;
        }
        loop {
            let image = image_of(&here)?;
            let (changes, requests) = (image.changes >= fence, image.requests >= fence);
            if changes && requests {
                break;
            }
            if !changes {
                let brought = self.shared.mover.bring_changes(image, &self.how).await?;
                self.shared.brought(&brought);
            }
            if !requests {
                let brought = self.shared.mover.bring_requests(image).await?;
                self.shared.brought(&brought);
            }
            here = self.shared.mover.status().await?;
        }
        let record = here.arrival.as_ref();
        let (equal, released) = record.map_or((false, false), |record| {
            (record.equal, record.released.is_some())
        });
        if !equal {
            while self.compare().await? {}
            let copies = v1::ComparedCopies {
                fence,
                equal: self.compared.equal(),
            };
            let compared = Arrives::Compared(copies);
            self.shared.mover.arrive(compared, FENCE_PATIENCE).await?;
        }
        if !released {
            self.shared.mover.pause_keys(fence).await?;
            let paused = Arrives::Paused(true);
            self.shared.mover.arrive(paused, FENCE_PATIENCE).await?;
        }
        Ok(())
    }

    /// The source has moved.
    pub(super) fn moved(&mut self) {
        if let Some(fenced_at) = self.fenced_at.take() {
            let pause = fenced_at.elapsed();
            self.shared.paused_for(pause, "moved");
            tracing::info!(
                relocation = %self.relocation,
                pause_ms = pause.as_millis() as u64,
                "the dataset has moved here"
            );
        }
    }
}

fn phase_of(here: &v1::ArrivalStatus) -> v1::ArrivalPhase {
    let record = here.arrival.as_ref();
    record.map_or(v1::ArrivalPhase::Plan, v1::ArrivalRecord::phase)
}
