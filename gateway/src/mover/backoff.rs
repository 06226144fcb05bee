//! How long to wait before the next try: twice as long each time, up to a bound.

use std::time::Duration;

/// Waits between tries of one thing.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// From the first wait up to the longest.
    pub(super) fn new((first, max): (Duration, Duration)) -> Self {
        let next = first;
        Self { first, max, next }
    }

    /// How long to wait now.
    pub(super) fn wait(&mut self) -> Duration {
        let now = self.next;
        self.next = (2 * now).min(self.max);
        now
    }

    /// It went well: the next wait is the first one again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new((seconds(1), seconds(30)));
        let waits: Vec<_> = (0..7).map(|_| backoff.wait().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.wait(), seconds(1));
    }
}
