//! How fast sealed bytes are read of a source: as its operators say, and slower for no other reason.
//!
//! A token bucket of one second. What is larger than that is let through once the bucket is full, and paid off before the
//! next one. Under a fence nobody waits here: writes wait at the source, and what was read then is paid off afterwards.

use std::time::Duration;

use client::relocation::Throttle;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::v1;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a wait lasts before the bucket is looked at again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The bucket of one relocation.
#[derive(Debug)]
pub(super) struct Bucket {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes a second; 0: no bound.
    rate: u64,
    paused: bool,
    urgent: bool,
    /// Bytes that may be read now; below 0 they are owed.
    left: f64,
    at: Instant,
}

impl Bucket {
    /// At the pace that operators want, full.
    pub(super) fn new(pace: &v1::ArrivalPace) -> Self {
        let state = State {
            rate: pace.bytes_per_s,
            paused: pace.paused,
            urgent: false,
            left: pace.bytes_per_s as f64,
            at: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    /// From now on at this pace: who waits, waits by it.
    pub(super) fn follow(&self, pace: &v1::ArrivalPace) {
        {
            let mut state = self.state.lock();
            if (state.rate, state.paused) == (pace.bytes_per_s, pace.paused) {
                return;
            }
            state.fill(Instant::now());
            (state.rate, state.paused) = (pace.bytes_per_s, pace.paused);
            // Without a bound nothing is owed.
            state.left = match state.rate {
                0 => 0.0,
                rate => state.left.min(rate as f64),
            };
        }
        self.changed.notify_waiters();
    }

    /// While a fence stands nobody waits.
    pub(super) fn hurry(&self, urgent: bool) {
        {
            let mut state = self.state.lock();
            state.fill(Instant::now());
            state.urgent = urgent;
        }
        self.changed.notify_waiters();
    }

    async fn wait_for(&self, bytes: u64) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // Told of a change from before the bucket is looked at.
            changed.as_mut().enable();
            let wait = self.state.lock().take(bytes, Instant::now());
            match wait {
                Wait::Taken => return,
                Wait::For(time) => {
                    tokio::select! {
                        () = tokio::time::sleep(time.min(WAIT_MAX)) => {}
                        () = changed => {}
                    }
                }
                Wait::Paused => changed.await,
            }
        }
    }
}

/// What a look into the bucket came to.
enum Wait {
    Taken,
    For(Duration),
    Paused,
}

impl State {
    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        let rate = self.rate as f64;
        self.left = (self.left + seconds * rate).min(rate);
        self.at = now;
    }

    fn take(&mut self, bytes: u64, now: Instant) -> Wait {
        self.fill(now);
        let bytes = bytes as f64;
        if !self.urgent {
            if self.paused {
                return Wait::Paused;
            }
            if self.rate == 0 {
                return Wait::Taken;
            }
            let needed = bytes.min(self.rate as f64);
            if self.left < needed {
                let seconds = (needed - self.left) / self.rate as f64;
                // A moment more than it takes, for what rounding takes off.
                let seconds = seconds.clamp(0.001, WAIT_MAX.as_secs_f64());
                return Wait::For(Duration::from_secs_f64(seconds));
            }
        }
        if self.rate > 0 {
            self.left -= bytes;
        }
        Wait::Taken
    }
}

impl Throttle for Bucket {
    fn take(&self, bytes: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.wait_for(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pace(bytes_per_s: u64) -> v1::ArrivalPace {
        v1::ArrivalPace {
            bytes_per_s,
            ..Default::default()
        }
    }

    /// Seconds until so many pieces of so many bytes were let through.
    async fn seconds(bucket: &Bucket, pieces: u64, bytes: u64) -> f64 {
        let began = Instant::now();
        for _ in 0..pieces {
            bucket.take(bytes).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_within_a_tenth_of_what_was_asked_for() {
        for (rate, bytes) in [(1 << 20, 64 << 10), (1 << 20, 8 << 20), (1_000, 700)] {
            let bucket = Bucket::new(&pace(rate));
            let pieces = 30 * rate / bytes + 1;
            let took = seconds(&bucket, pieces, bytes).await;
            // One second was there from the beginning, and the last piece is paid off by who comes next.
            let moved = (pieces * bytes) as f64 - rate as f64;
            let last = bytes.saturating_sub(rate) as f64;
            let expected = (moved - last) / rate as f64;
            assert!((took / expected - 1.0).abs() < 0.1, "{took} {expected}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nobody_waits() {
        let bucket = Bucket::new(&pace(0));
        assert!(seconds(&bucket, 1_000, 8 << 20).await < 0.001);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_follows_a_change() {
        let bucket = Arc::new(Bucket::new(&pace(1)));
        seconds(&bucket, 1, 1_000_000).await;
        let waiting = bucket.clone();
        let waits = tokio::spawn(async move { waiting.take(1).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waits.is_finished(), "a million bytes are owed");
        bucket.follow(&pace(0));
        let went = tokio::time::timeout(Duration::from_secs(1), waits).await;
        went.expect("at once").expect("it went on");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_paused_waits_and_under_a_fence_nobody_does() {
        let paused = v1::ArrivalPace {
            paused: true,
            ..Default::default()
        };
        let bucket = Arc::new(Bucket::new(&paused));
        let waiting = bucket.clone();
        let waits = tokio::spawn(async move { waiting.take(1).await });
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!waits.is_finished(), "it is paused");
        bucket.hurry(true);
        let went = tokio::time::timeout(Duration::from_secs(1), waits).await;
        went.expect("at once").expect("it went on");
        bucket.hurry(false);
        let again = tokio::time::timeout(Duration::from_secs(600), bucket.take(1)).await;
        assert!(again.is_err(), "it is paused again");
    }
}
