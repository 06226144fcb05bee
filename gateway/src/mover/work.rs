//! The work on one relocation, round by round: look at both sides, choose, do one thing.
//!
//! Owns how often it is tried again, and what one round brings. Refuses to go on from what it did itself: each round reads
//! where the relocation is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::Error;
use client::relocation::{Compared, How};
use proto::v1;
use proto::v1::arrival_step_request::Step as Arrives;
use proto::v1::departure_step_request::Step as Departs;
use tokio::time::Instant;
use transport::fault::Chain;

use super::CLAIM_MS;
use super::backoff::Backoff;
use super::decide::{self, Ending, Next, Seen, There};
use super::shared::Shared;

/// Units of one page, and of one turn of comparing.
const PAGE_UNITS: u32 = 500;
/// Turns of comparing in one round at most: a page of changes has more keys than one turn looks at.
const COMPARES_MAX: usize = 4;
/// Between two rounds where nothing was left to do.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// The same where writes are about to be stopped.
const SOON_PAUSE: Duration = Duration::from_millis(50);
/// How long words of a majority are gathered for a step that is known to be due.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The same where another side may not have got there: the next round asks again.
const BRIEFLY: Duration = Duration::from_millis(500);
/// How often roots are asked for, so that they are at hand when writes are stopped.
const WARM_EVERY: Duration = Duration::from_secs(60);
/// Before a try that failed is made again, and at most.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After a fence that was reverted, and at most.
const FENCE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Rounds in a row that failed or met others' work to be done first, before the place goes to who wants it.
const IN_VAIN_MAX: u32 = 30;
/// After a fence that came to nothing until people do something.
const FENCE_REFUSED: Duration = Duration::from_secs(3_600);

/// One relocation under the claim of this gateway.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    pub(super) relocation: String,
    pub(super) how: How,
    pub(super) compared: Compared,
    /// When the fence that this gateway asked for was acknowledged.
    pub(super) fenced_at: Option<Instant>,
    caught_up: bool,
    settled: bool,
    overrun: bool,
    warmed: Option<Instant>,
    failures: Backoff,
    fences: Backoff,
    /// No fence is asked for before.
    rests_until: Instant,
    /// Clients wait for this one.
    urgent: bool,
    /// Others want the place.
    crowded: Arc<AtomicBool>,
}

/// Why the work on a relocation was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There is nothing to do any more.
    Over,
    /// Others can use the place meanwhile.
    GaveWay,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing to do any more.
    Over,
    /// There is more to do.
    Again,
    /// There may be more to do in a moment.
    Soon,
    /// There may be more to do in a while.
    Later,
}

impl Work {
    pub(super) fn new(shared: Arc<Shared>, relocation: String, crowded: Arc<AtomicBool>) -> Self {
        let how = How {
            limit: PAGE_UNITS,
            throttle: shared.bucket.clone(),
        };
        Self {
            shared,
            relocation,
            how,
            compared: Compared::default(),
            fenced_at: None,
            caught_up: false,
            settled: false,
            overrun: false,
            warmed: None,
            failures: Backoff::new(TRY_AGAIN),
            fences: Backoff::new(FENCE_AGAIN),
            rests_until: Instant::now(),
            urgent: false,
            crowded,
        }
    }

    /// Round by round, until there is nothing to do any more, or nothing to do for a while and others want the place.
    pub(super) async fn go(mut self) -> Left {
        let mut in_vain = 0;
        loop {
            let shared = self.shared.clone();
            let round = tokio::select! {
                round = self.round() => round,
                // What is under way may take long, or wait for operators: nothing of it is of use any more.
                () = shared.given_up() => Ok(Turn::Again),
            };
            let pause = match round {
                Ok(Turn::Over) => return Left::Over,
                Ok(turn) => {
                    self.failures.reset();
                    match turn == Turn::Later && self.shared.is_waiting() {
                        true => in_vain += 1,
                        false => in_vain = 0,
                    }
                    match turn {
                        Turn::Over | Turn::Again => Duration::ZERO,
                        Turn::Soon => SOON_PAUSE,
                        Turn::Later => IDLE_PAUSE,
                    }
                }
                Err(error) => {
                    in_vain += 1;
                    self.failed(&error)
                }
            };
            let may_give_way = in_vain >= IN_VAIN_MAX && !self.urgent;
            if may_give_way && self.crowded.load(Ordering::Relaxed) {
                return Left::GaveWay;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Counts and logs a round that failed; how long to wait.
    fn failed(&mut self, error: &Error) -> Duration {
        self.shared.failed(error);
        let pause = self.failures.wait();
        tracing::warn!(
            relocation = %self.relocation,
            error = %Chain(error),
            again_in_s = pause.as_secs(),
            "a step of a relocation failed"
        );
        pause
    }

    async fn round(&mut self) -> Result<Turn, Error> {
        let here = self.shared.mover.status().await?;
        self.shared.follow(&here);
        self.urgent = decide::is_urgent(&here);
        let Some(record) = &here.arrival else {
            return Ok(Turn::Over);
        };
        let departure = match decide::needs_source(record) {
            true => Some(self.departure().await?),
            false => None,
        };
        let there = match &departure {
            Some(Some(departure)) => There::Known(departure),
            Some(None) => There::NotUnderWay,
            None => There::Unasked,
        };
        if let There::Known(departure) = there {
            self.shared.counted(departure, self.compared.equal());
        }
        let next = decide::next(&Seen {
            here: &here,
            there,
            compared: self.compared.equal(),
            caught_up: self.caught_up,
            settled: self.settled,
            overrun: self.overrun,
            rests: Instant::now() < self.rests_until,
        });
        tracing::debug!(relocation = %self.relocation, ?next, "next");
        self.carry_out(next, &here, there).await
    }

    /// What the source says of the departure; `None` where it is not under way there.
    async fn departure(&self) -> Result<Option<v1::DepartureStatus>, Error> {
        match self.shared.mover.departure().await {
            Ok(departure) => Ok(Some(departure)),
            Err(error) if error.reason() == "not-under-way" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(
        &mut self,
        next: Next,
        here: &v1::ArrivalStatus,
        there: There<'_>,
    ) -> Result<Turn, Error> {
        match next {
            Next::Over => Ok(Turn::Over),
            Next::Wait(why) => Ok(self.waits_for(why)),
            Next::Copy => self.begin().await,
            Next::List => self.list(here).await,
            Next::CatchUp => self.arrive(Arrives::CatchUp(true)).await,
            Next::CopyAgain(base) => {
                self.overrun = false;
                tracing::warn!(relocation = %self.relocation, "the source has forgotten changes: listing again");
                self.arrive(Arrives::CopyAgain(base)).await
            }
            Next::Follow => self.follow(here, there).await,
            Next::Verify => self.arrive(Arrives::Verify(true)).await,
            Next::Fence(fence) => self.fence(fence).await,
            Next::GoOn(fence) => self.under_fence(fence).await,
            Next::Revert(fence) => {
                let revert = Departs::Revert(fence);
                self.shared.mover.depart(revert, PATIENCE).await?;
                Ok(Turn::Again)
            }
            Next::HearReverted(fence) => self.reverted(fence).await,
            Next::HearMoved => {
                self.arrive(Arrives::Moved(true)).await?;
                self.moved();
                Ok(Turn::Again)
            }
            Next::HearEnded => self.heard_or_waits(Arrives::Ended(true)).await,
            Next::Hold(until) => {
                // How long writes waited stands there before the hold does.
                if let Err(error) = self.shared.claim(CLAIM_MS).await {
                    tracing::debug!(error = %Chain(&error), "the last word of the move was not taken");
                }
                self.arrive(Arrives::HoldUntilMs(until)).await
            }
            Next::Supersede => {
                let superseded = Departs::Superseded(true);
                self.shared.mover.depart(superseded, PATIENCE).await?;
                self.arrive(Arrives::Moved(true)).await
            }
            Next::End(ending) => self.end(ending).await,
        }
    }

    pub(super) async fn arrive(&mut self, step: Arrives) -> Result<Turn, Error> {
        self.shared.mover.arrive(step, PATIENCE).await?;
        self.shared.waits_for("");
        Ok(Turn::Again)
    }

    fn waits_for(&self, why: &'static str) -> Turn {
        self.shared.waits_for(why);
        Turn::Later
    }

    /// A step that others may not have words for yet.
    async fn heard_or_waits(&mut self, step: Arrives) -> Result<Turn, Error> {
        match self.shared.mover.arrive(step, BRIEFLY).await {
            Ok(_) => Ok(Turn::Again),
            Err(error) if is_unsaid(&error) => Ok(self.waits_for("waiting-for-source")),
            Err(error) => Err(error),
        }
    }

    /// Both sides' people have to have begun.
    async fn begin(&mut self) -> Result<Turn, Error> {
        match self.shared.mover.arrive(Arrives::Copy(true), BRIEFLY).await {
            Ok(_) => {
                self.shared.waits_for("");
                Ok(Turn::Again)
            }
            // Or those of the source have ended it before.
            Err(error) if is_unsaid(&error) => self.heard_or_waits(Arrives::Ended(true)).await,
            Err(error) => Err(error),
        }
    }

    async fn list(&mut self, here: &v1::ArrivalStatus) -> Result<Turn, Error> {
        let image = image_of(here)?;
        let brought = self.shared.mover.bring_page(image, &self.how).await?;
        self.shared.brought(&brought);
        self.shared.waits_for("");
        Ok(Turn::Again)
    }

    /// One page of changes, one of request ids, some turns of comparing.
    async fn follow(&mut self, here: &v1::ArrivalStatus, there: There<'_>) -> Result<Turn, Error> {
        let image = image_of(here)?;
        if let There::Known(there) = there
            && decide::taken(there) < image.changes
        {
            let taken = Departs::Taken(image.changes);
            self.shared.mover.depart(taken, PATIENCE).await?;
        }
        (self.caught_up, self.settled) = (false, false);
        let changes = match self.shared.mover.bring_changes(image, &self.how).await {
            Err(error) if error.reason() == "feed-overrun" => {
                self.overrun = true;
                return Ok(Turn::Again);
            }
            changes => changes?,
        };
        self.shared.brought(&changes);
        let requests = self.shared.mover.bring_requests(image).await?;
        self.shared.brought(&requests);
        self.caught_up = !changes.more && !requests.more;
        let uploads = here.dataset.as_ref().map_or(0, |dataset| dataset.uploads);
        if uploads > 0 {
            // None is this mover's: its own are over with what was brought.
            self.shared.mover.end_left_uploads().await?;
        }
        let phase = here.arrival.as_ref().map(v1::ArrivalRecord::phase);
        if phase != Some(v1::ArrivalPhase::Verifying) {
            return Ok(Turn::Again);
        }
        self.warm().await?;
        for _ in 0..COMPARES_MAX {
            self.settled = !self.compare().await?;
            // A look at all goes on in turn with changes: the source forgets those that wait for long.
            if self.settled || !self.compared.is_whole() {
                break;
            }
        }
        self.shared.waits_for("");
        Ok(
            match (self.caught_up && self.settled, self.is_wanted(here)) {
                (false, _) => Turn::Again,
                (true, true) => Turn::Soon,
                (true, false) => Turn::Later,
            },
        )
    }

    /// Whether writes are to be stopped as soon as nothing is left.
    fn is_wanted(&self, here: &v1::ArrivalStatus) -> bool {
        let pace = here.arrival.as_ref().and_then(|record| record.pace);
        let rests = Instant::now() < self.rests_until;
        let uploads = here.dataset.as_ref().map_or(0, |dataset| dataset.uploads);
        pace.is_some_and(|pace| pace.cutover) && !rests && uploads == 0
    }

    /// One turn of comparing; whether there is more.
    pub(super) async fn compare(&mut self) -> Result<bool, Error> {
        let (mover, how) = (&self.shared.mover, &self.how);
        let compared = mover.compare(&mut self.compared, how).await?;
        self.shared.brought(&compared);
        Ok(compared.more)
    }

    /// Roots are at hand on both sides, once a minute.
    async fn warm(&mut self) -> Result<(), Error> {
        let due = |warmed: Instant| warmed.elapsed() >= WARM_EVERY;
        if self.warmed.is_none_or(due) {
            self.shared.mover.warm().await?;
            self.warmed = Some(Instant::now());
        }
        Ok(())
    }

    /// A fence is over: writers go on, and the next one waits a while.
    async fn reverted(&mut self, fence: u64) -> Result<Turn, Error> {
        self.shared.bucket.hurry(false);
        self.arrive(Arrives::Reverted(fence)).await?;
        if let Some(fenced_at) = self.fenced_at.take() {
            self.shared.paused_for(fenced_at.elapsed(), "reverted");
        }
        self.rest();
        tracing::warn!(relocation = %self.relocation, fence, "a fence was reverted: the source goes on");
        Ok(Turn::Again)
    }

    /// What can be done about a fence under which a step was refused, besides trying it again.
    pub(super) fn refused(&mut self, error: &Error) {
        match error.reason() {
            // Closed by people, or by a restore of the source's KMS: writes there need not wait for what cannot be.
            "hand-over-closed" => {
                self.shared.waits_for("waiting-for-operators");
                self.rests_until = Instant::now() + FENCE_REFUSED;
            }
            // Something is here, or not, that no change will tell of.
            "not-equal" => self.overrun = true,
            _ => {}
        }
    }

    /// Writes are not stopped again for a while.
    pub(super) fn rest(&mut self) {
        if self.rests_until <= Instant::now() {
            self.rests_until = Instant::now() + self.fences.wait();
        }
    }

    /// What is left of an end, as far as the others have got. The own hand-over key is ended by people.
    async fn end(&mut self, left: Ending) -> Result<Turn, Error> {
        let mover = &self.shared.mover;
        if left.shard {
            if let Some(from) = left.ask {
                mover.depart(Departs::End(from), PATIENCE).await?;
            }
            // One that never was opened there is ended by people there.
            self.heard_or_waits(Arrives::Ended(true)).await?;
        }
        let mover = &self.shared.mover;
        if left.keys {
            match mover.close_keys().await {
                Ok(()) => {}
                // Nothing was granted to this region, or people have closed it.
                Err(Error::Denied { .. }) => {}
                Err(error) => return Err(error),
            }
            self.heard_or_waits(Arrives::Closed(true)).await?;
        }
        if left.hand_over_key {
            let ended = Arrives::HandOverEnded(true);
            match self.shared.mover.arrive(ended, BRIEFLY).await {
                Ok(_) => {}
                Err(error) if is_unsaid(&error) => self.shared.waits_for("waiting-for-operators"),
                Err(error) => return Err(error),
            }
        }
        Ok(Turn::Later)
    }
}

/// Too few of those whose word it takes have said it.
fn is_unsaid(error: &Error) -> bool {
    error.reason() == "too-few-words"
}

pub(super) fn image_of(here: &v1::ArrivalStatus) -> Result<&v1::ImageRecord, Error> {
    let record = here.arrival.as_ref();
    let image = record.and_then(|record| record.image.as_ref());
    image.ok_or(Error::Protocol {
        what: "an arrival that is being filled has no image",
    })
}
