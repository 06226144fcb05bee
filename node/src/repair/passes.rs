//! The scrubber's passes: when one begins, how fast it reads, and what it found.
//!
//! Owns the pace and the record of passes. Refuses to call a pass finished that did not read everything: one that
//! another takes the place of leaves no record.

use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::UnixMs;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Repair, RepairError, RestRead, blocking};
use crate::blocks::{ScrubCursor, Scrubbed, SegmentsChecked};

/// Bytes are read in steps of this length.
const STEP: Duration = Duration::from_millis(500);
const STEPS_A_SECOND: u64 = 2;
/// The longest pause after one step, in seconds: a block, or a segment of the log, at a byte a second is no pace.
const PAUSE_MAX: f64 = 3_600.0;
/// The pace of a pass that was asked for without one, where the scrubber is off.
const ASKED_BYTES_PER_S: u64 = 8 << 20;

/// One pass over everything held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pass {
    /// Its place among the passes of this process, from 1.
    pub number: u64,
    /// An operator asked for it.
    pub asked: bool,
    /// When it began.
    pub began_at: UnixMs,
    /// When everything had been read.
    pub ended_at: Option<UnixMs>,
    /// How fast it reads.
    pub bytes_per_s: u64,
    /// Blocks held when it began.
    pub total_blocks: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// What the look at segments found.
    pub segments: SegmentsChecked,
    /// What the reading of blocks found so far.
    pub blocks: Scrubbed,
    /// What the reading of states and log found so far.
    pub rest: RestRead,
    /// Blocks fetched from peers since it began.
    pub repaired: u64,
}

impl Pass {
    /// Blocks it found damaged, those of lost segments included.
    pub fn damaged(&self) -> u64 {
        self.blocks.damaged + self.segments.lost_blocks
    }

    fn add(&mut self, step: Scrubbed) {
        self.blocks.blocks += step.blocks;
        self.blocks.bytes += step.bytes;
        self.blocks.damaged += step.damaged;
        self.blocks.unread += step.unread;
        self.blocks.round_done = step.round_done;
    }
}

/// The passes that are known of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passes {
    /// Under way.
    pub now: Option<Pass>,
    /// The last that was finished.
    pub last: Option<Pass>,
    /// The last of those that an operator asked for.
    pub last_asked: Option<Pass>,
}

/// A pass that an operator asked for and that has not begun.
#[derive(Clone, Copy)]
struct Wanted {
    number: u64,
    bytes_per_s: u64,
}

#[derive(Default)]
struct Inner {
    numbers: u64,
    wanted: Option<Wanted>,
    passes: Passes,
    /// Blocks that had been repaired when the pass under way began.
    repaired_before: u64,
}

/// Who asks for passes, and who runs them.
#[derive(Default)]
pub(super) struct Scrubber {
    inner: Mutex<Inner>,
    asked: Notify,
}

impl Scrubber {
    fn ask(&self, bytes_per_s: u64) -> u64 {
        let mut inner = self.inner.lock();
        let number = match inner.wanted {
            Some(wanted) => wanted.number,
            None => {
                inner.numbers += 1;
                inner.numbers
            }
        };
        inner.wanted = Some(Wanted {
            number,
            bytes_per_s,
        });
        drop(inner);
        self.asked.notify_one();
        number
    }

    /// Completes while a pass is asked for that has not begun.
    async fn wanted(&self) {
        while self.inner.lock().wanted.is_none() {
            self.asked.notified().await;
        }
    }

    pub(super) fn change(&self, repaired: u64, change: impl FnOnce(&mut Pass)) {
        let mut inner = self.inner.lock();
        let before = inner.repaired_before;
        if let Some(pass) = &mut inner.passes.now {
            change(pass);
            pass.repaired = repaired - before;
        }
    }

    /// Waits until the next step is due. Says `false` where another pass is asked for meanwhile.
    pub(super) async fn undisturbed(&self, pace: &Pace) -> bool {
        tokio::select! {
            biased;
            () = self.wanted() => false,
            () = tokio::time::sleep_until(pace.due) => true,
        }
    }

    fn end(&self, at: UnixMs) {
        let mut inner = self.inner.lock();
        let passes = &mut inner.passes;
        if let Some(mut pass) = passes.now.take() {
            pass.ended_at = Some(at);
            if pass.asked {
                passes.last_asked = Some(pass.clone());
            }
            passes.last = Some(pass);
        }
    }
}

/// How fast a pass reads.
pub(super) struct Pace {
    bytes_per_s: u64,
    due: Instant,
}

impl Pace {
    /// The first step is due after a pause: of an empty disk a pass is over at once, and the next one begins.
    fn of(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            due: Instant::now() + STEP,
        }
    }

    /// Bytes of one step, about.
    pub(super) fn step_bytes(&self) -> u64 {
        (self.bytes_per_s / STEPS_A_SECOND).max(1)
    }

    /// What was read is paid for by waiting; a slow disk is not asked to catch up.
    pub(super) fn pay(&mut self, bytes: u64) {
        let seconds = bytes as f64 / self.bytes_per_s as f64;
        self.due = self.due.max(Instant::now()) + Duration::from_secs_f64(seconds.min(PAUSE_MAX));
    }
}

impl Repair {
    /// Asks for a pass that begins now, with the first block; 0 is the configured pace. Answers its number.
    pub fn scrub_now(&self, bytes_per_s: u64) -> u64 {
        let configured = self.options.scrub_bytes_per_s;
        let pace = [bytes_per_s, configured, ASKED_BYTES_PER_S];
        self.scrubber
            .ask(pace.into_iter().find(|pace| *pace > 0).unwrap_or_default())
    }

    /// The pace of passes that nobody asked for; 0 for none.
    pub fn scrub_bytes_per_s(&self) -> u64 {
        self.options.scrub_bytes_per_s
    }

    /// The pass under way, and the last ones.
    pub fn passes(&self) -> Passes {
        self.scrubber.inner.lock().passes.clone()
    }

    /// One pass after the other, for ever.
    pub(super) async fn scrub(&self, seed: u64) -> RepairError {
        loop {
            if self.options.scrub_bytes_per_s == 0 {
                self.scrubber.wanted().await;
            }
            let cursor = self.begin_pass(seed);
            if let Err(error) = self.pass(cursor).await {
                return error;
            }
        }
    }

    fn begin_pass(&self, seed: u64) -> ScrubCursor {
        let stats = self.store.stats();
        let mut inner = self.scrubber.inner.lock();
        let wanted = inner.wanted.take();
        let number = wanted.map_or_else(
            || {
                inner.numbers += 1;
                inner.numbers
            },
            |wanted| wanted.number,
        );
        inner.repaired_before = self.counts.repaired();
        inner.passes.now = Some(Pass {
            number,
            asked: wanted.is_some(),
            began_at: self.clock.now(),
            bytes_per_s: wanted.map_or(self.options.scrub_bytes_per_s, |w| w.bytes_per_s),
            total_blocks: stats.blocks,
            total_bytes: stats.bytes,
            ..Pass::default()
        });
        match wanted {
            Some(_) => ScrubCursor::default(),
            None => ScrubCursor::starting_near(seed),
        }
    }

    /// Reads everything once, or until another pass is asked for.
    async fn pass(&self, mut cursor: ScrubCursor) -> Result<(), RepairError> {
        let Some(pass) = self.passes().now else {
            return Ok(());
        };
        let mut pace = Pace::of(pass.bytes_per_s);
        if !self.scrubber.undisturbed(&pace).await {
            return Ok(());
        }
        self.look_at_segments().await?;
        loop {
            if !self.scrubber.undisturbed(&pace).await {
                return Ok(());
            }
            let (store, bytes_max) = (self.store.clone(), pace.step_bytes());
            let (moved, done) = blocking(move || {
                let done = store.scrub(&mut cursor, bytes_max);
                (cursor, done)
            })
            .await?;
            cursor = moved;
            pace.pay(done.bytes);
            metrics::counter!("reduit_scrubbed_blocks_total").increment(done.blocks);
            metrics::counter!("reduit_scrubbed_bytes_total").increment(done.bytes);
            metrics::counter!("reduit_scrub_damaged_total").increment(done.damaged);
            metrics::counter!("reduit_scrub_rounds_total").increment(u64::from(done.round_done));
            self.scrubber
                .change(self.counts.repaired(), |pass| pass.add(done));
            if done.round_done {
                break;
            }
        }
        if self.read_rest(&mut pace).await? {
            self.scrubber.end(self.clock.now());
        }
        Ok(())
    }

    async fn look_at_segments(&self) -> Result<(), RepairError> {
        let store = self.store.clone();
        let checked = blocking(move || store.check_segments()).await?;
        let checked = checked.map_err(RepairError::Store)?;
        metrics::counter!("reduit_scrub_damaged_total").increment(checked.lost_blocks);
        metrics::counter!("reduit_scrub_segments_lost_total").increment(checked.lost);
        metrics::counter!("reduit_scrub_headers_mended_total").increment(checked.mended);
        self.scrubber
            .change(self.counts.repaired(), |pass| pass.segments = checked);
        Ok(())
    }
}
