//! What alarms, as a configuration says it.
//!
//! Owns the rules' defaults: whatever is not known to be everyday is loud. The rules are kept by `monitor::reader`.

use std::collections::BTreeSet;

use serde::Deserialize;
use tlog::{Kind, Purpose};

use super::Hours;

/// What alarms. Hours and rates go by the region's time as it stands in the leaves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Opens at other times alarm; absent: at none.
    pub open_hours: Option<Vec<Hours>>,
    /// Purposes that open around the clock.
    pub open_hours_exempt: BTreeSet<Purpose>,
    /// How far the clock of `open_hours` is ahead of UTC; summer time is not followed.
    pub utc_offset_minutes: i32,
    /// Purposes that are known beforehand. Any other alarms when it is first seen.
    pub purposes: BTreeSet<Purpose>,
    /// How many of a kind may fall into any sixty minutes.
    pub rates: Vec<Rate>,
    /// Kinds that alarm whenever they happen; absent: all but [`Rules::EVERYDAY`].
    pub watch: Option<BTreeSet<Kind>>,
    /// Minutes without a newer checkpoint that alarm.
    pub silence_minutes: u64,
}

/// How many of a kind may fall into any sixty minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Which kind; of opens, objects are counted and not leaves.
    pub kind: Kind,
    /// The most that does not alarm.
    pub per_hour_max: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            open_hours: None,
            open_hours_exempt: BTreeSet::new(),
            utc_offset_minutes: 0,
            purposes: BTreeSet::new(),
            rates: Vec::new(),
            watch: None,
            silence_minutes: 15,
        }
    }
}

impl Rules {
    /// What happens every day: the use of keys and their life, which the other rules look at. A kind that is added to
    /// the log later alarms until somebody says that it is one of these.
    pub const EVERYDAY: [Kind; 8] = [
        Kind::Lease,
        Kind::MetadataLease,
        Kind::Open,
        Kind::AccessSecret,
        Kind::KeyCreated,
        Kind::KeyRotated,
        Kind::KeyStateAcknowledged,
        Kind::ShardRegistered,
    ];

    /// Whether a leaf of this kind alarms by itself.
    pub fn watches(&self, kind: Kind) -> bool {
        match &self.watch {
            Some(kinds) => kinds.contains(&kind),
            None => !Self::EVERYDAY.contains(&kind),
        }
    }
}
