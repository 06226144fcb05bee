//! Hours of the week, such as `Mon-Fri 07:00-19:00`.
//!
//! Owns their text form and whether a moment is within them. Refuses spans over midnight, which would leave open whose
//! day they belong to: they are two spans.

use std::str::FromStr;

use proto::ids::UnixMs;
use serde::Deserialize;

const MINUTES_A_DAY: u64 = 24 * 60;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// 1970-01-01 was a Thursday.
const FIRST_DAY: u64 = 3;

/// A span of the same hours on consecutive days of a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hours {
    first_day: u64,
    last_day: u64,
    /// Minutes after midnight, the second one excluded.
    minutes: (u64, u64),
}

/// Text that is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hours are written as `Mon-Fri 07:00-19:00` or `Sat 08:00-24:00`, within one day")]
pub struct HoursError;

impl Hours {
    /// Whether `time` is within, on a clock that is `offset` minutes ahead of UTC.
    pub fn contains(&self, time: UnixMs, offset: i32) -> bool {
        let shifted = i64::try_from(time.0 / 60_000).unwrap_or(i64::MAX);
        let minutes = shifted.saturating_add(i64::from(offset)).max(0) as u64;
        let day = (minutes / MINUTES_A_DAY + FIRST_DAY) % 7;
        let minute = minutes % MINUTES_A_DAY;
        (self.first_day..=self.last_day).contains(&day)
            && (self.minutes.0..self.minutes.1).contains(&minute)
    }
}

impl FromStr for Hours {
    type Err = HoursError;
    fn from_str(text: &str) -> Result<Self, HoursError> {
        let (days, times) = text.split_once(' ').ok_or(HoursError)?;
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let (from, to) = times.split_once('-').ok_or(HoursError)?;
        let hours = Self {
            first_day: day(first)?,
            last_day: day(last)?,
            minutes: (minute(from)?, minute(to)?),
        };
        let in_order = hours.first_day <= hours.last_day && hours.minutes.0 < hours.minutes.1;
        in_order.then_some(hours).ok_or(HoursError)
    }
}

impl TryFrom<String> for Hours {
    type Error = HoursError;
    fn try_from(text: String) -> Result<Self, HoursError> {
        text.parse()
    }
}

fn day(name: &str) -> Result<u64, HoursError> {
    let position = DAYS.iter().position(|day| *day == name);
    position.map(|day| day as u64).ok_or(HoursError)
}

fn minute(text: &str) -> Result<u64, HoursError> {
    let (hour, minute) = text.split_once(':').ok_or(HoursError)?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return Err(HoursError);
    }
    let (hour, minute): (u64, u64) = (
        hour.parse().map_err(|_| HoursError)?,
        minute.parse().map_err(|_| HoursError)?,
    );
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= MINUTES_A_DAY)
        .then_some(of_day)
        .ok_or(HoursError)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thursday, 2026-11-26 01:00:00 UTC.
    const THURSDAY_ONE: UnixMs = UnixMs(1_795_654_800_000);

    fn later(minutes: u64) -> UnixMs {
        UnixMs(THURSDAY_ONE.0 + minutes * 60_000)
    }

    #[test]
    fn a_moment_is_within_its_day_and_minutes() {
        let hours: Hours = "Mon-Fri 07:00-19:00".parse().expect("hours");
        for (after, offset, within) in [
            (0, 0, false),
            (359, 0, false),
            (360, 0, true),
            (1_079, 0, true),
            (1_080, 0, false),
            (300, 60, true),
            (360, -60, false),
            // Saturday and Monday, 08:00.
            (2 * 1_440 + 420, 0, false),
            (4 * 1_440 + 420, 0, true),
        ] {
            assert_eq!(
                hours.contains(later(after), offset),
                within,
                "{after} {offset}"
            );
        }
        let night: Hours = "Thu 00:00-24:00".parse().expect("hours");
        assert!(night.contains(later(0), 0) && night.contains(later(1_379), 0));
        assert!(!night.contains(later(1_380), 0));
    }

    #[test]
    fn other_text_is_refused() {
        for bad in [
            "",
            "Mon",
            "Mon-Fri",
            "Fri-Mon 07:00-19:00",
            "Mon 19:00-07:00",
            "Mon 07:00-07:00",
            "Mon 7:00-19:00",
            "Mon 07:60-19:00",
            "Mon 07:00-24:01",
            "mon 07:00-19:00",
            "Mon  07:00-19:00",
            "Mon +7:00-19:00",
        ] {
            assert_eq!(bad.parse::<Hours>(), Err(HoursError), "{bad}");
        }
    }
}
