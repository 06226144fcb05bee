//! Region time: how far one command moves it, the same in every group of a region.
//!
//! Owns the two bounds and the rule by which a leader's reading and the clocks of a majority become time. Refuses to
//! know a clock: what is read comes in, and what time becomes goes out.

use crate::ids::UnixMs;

/// Milliseconds by which one command of the leader may move region time.
pub const JUMP_MS_MAX: u64 = 60_000;
/// Milliseconds by which the clocks of a majority may move region time without an operator.
pub const IDLE_JUMP_MS_MAX: u64 = 24 * 3_600_000;
/// How far region time may fall behind while nothing happens: half of what one command may move it.
pub const KEEP_TIME_MS: u64 = JUMP_MS_MAX / 2;

/// A reading that is more than [`JUMP_MS_MAX`] ahead of region time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a clock is more than a minute ahead of region time, {stands_at}")]
pub struct Ahead {
    /// Where region time stands.
    pub stands_at: UnixMs,
}

/// Region time after a command that carries the leader's reading; 0 means no reading. It never goes back.
pub fn advanced(stands_at: UnixMs, reading: UnixMs) -> Result<UnixMs, Ahead> {
    if reading.0 > stands_at.0.saturating_add(JUMP_MS_MAX) {
        return Err(Ahead { stands_at });
    }
    Ok(stands_at.max(reading))
}

/// The median of some clocks, the lower one of two: `None` of none.
pub fn median(mut clocks: Vec<u64>) -> Option<UnixMs> {
    clocks.sort_unstable();
    let middle = clocks.len().checked_sub(1)? / 2;
    clocks.get(middle).copied().map(UnixMs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_moves_time_by_a_minute_at_most_and_never_back() {
        let at = |stands, reading| advanced(UnixMs(stands), UnixMs(reading)).map(|time| time.0);
        assert_eq!(at(1000, 0), Ok(1000), "no reading");
        assert_eq!(at(1000, 999), Ok(1000));
        assert_eq!(at(1000, 61_000), Ok(61_000));
        let stands_at = UnixMs(1000);
        assert_eq!(at(1000, 61_001), Err(Ahead { stands_at }));
        assert_eq!(at(u64::MAX - 1, u64::MAX), Ok(u64::MAX));
    }

    #[test]
    fn one_clock_of_three_and_one_of_two_that_is_ahead_moves_no_median() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![7]), Some(UnixMs(7)));
        assert_eq!(median(vec![u64::MAX, 5]), Some(UnixMs(5)));
        assert_eq!(median(vec![6, u64::MAX, 5]), Some(UnixMs(6)));
    }
}
