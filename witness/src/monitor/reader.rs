//! What leaves say, one after the other: chains of datasets, kinds, purposes, hours and rates.
//!
//! Owns what must be remembered to judge the next leaf, and the findings. Pure: no clock, file or network, so that the
//! same leaves give the same findings. Refuses nothing and passes nothing over: bytes that are no leaf are a finding.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::ids::{LeafIndex, UnixMs};
use serde::{Deserialize, Serialize};
use tlog::{DatasetLink, Hash, Kind, Leaf, LeafError, Pseudonym, Purpose, leaf_hash};

use crate::alarm::Rule;
use crate::config::Rules;

/// Datasets whose chains are checked; leaves of any more are a finding each time one appears.
pub const DATASETS_MAX: usize = 500_000;
/// Purposes remembered; any more are new each time.
pub const PURPOSES_MAX: usize = 1024;
/// Region time may be so far ahead of the time here, which is nobody's fault.
const AHEAD_MAX_MS: u64 = 5 * 60_000;
/// Leaves of one moment may be dated in any order.
const BACK_MAX_MS: u64 = 60_000;
const MINUTE_MS: u64 = 60_000;
const MINUTES_AN_HOUR: u64 = 60;
/// Characters shown of what a leaf of an unknown kind calls itself.
const SHOWN_MAX: usize = 64;

/// What was read so far, as far as the next leaf is judged by it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    chains: BTreeMap<Pseudonym, ChainEnd>,
    purposes: BTreeSet<Purpose>,
    kinds: BTreeMap<Kind, u64>,
    strange: u64,
    windows: BTreeMap<Kind, Window>,
    /// The hour in which opens of a purpose outside of hours were last a finding.
    outside: BTreeMap<Purpose, u64>,
    newest_ms: u64,
    is_ahead: bool,
}

/// The newest leaf of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainEnd {
    next: u64,
    last: Hash,
}

/// How many of a kind fell into each of the last sixty minutes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    minutes: VecDeque<(u64, u64)>,
    is_over: bool,
}

/// Something to raise an alarm about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub rule: Rule,
    /// Which leaf.
    pub leaf: LeafIndex,
    /// Which dataset.
    pub dataset: Option<Pseudonym>,
    /// What happened, in words.
    pub text: String,
}

/// What is understood of a leaf that this build does not know.
struct Stranger {
    says: String,
    dataset: Option<DatasetLink>,
}

/// The leaf at hand.
struct At<'l> {
    leaf: LeafIndex,
    dataset: Option<&'l DatasetLink>,
}

impl At<'_> {
    fn finds(&self, rule: Rule, text: String) -> Finding {
        Finding {
            rule,
            leaf: self.leaf,
            dataset: self.dataset.map(|link| link.pseudonym),
            text,
        }
    }
}

impl Reader {
    /// Judges the leaf at `index`, whose bytes the tree has. `now` is the time here.
    pub fn read(
        &mut self,
        rules: &Rules,
        index: LeafIndex,
        bytes: &[u8],
        now: UnixMs,
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        match Leaf::parse(bytes) {
            Ok(leaf) => {
                let at = At {
                    leaf: index,
                    dataset: leaf.dataset(),
                };
                self.chain(&at, leaf_hash(bytes), &mut found);
                self.judge(rules, &at, &leaf, now, &mut found);
            }
            Err(error) => {
                self.strange += 1;
                let stranger = stranger(bytes, &error);
                let dataset = stranger.as_ref().and_then(|s| s.dataset.as_ref());
                let at = At {
                    leaf: index,
                    dataset,
                };
                self.chain(&at, leaf_hash(bytes), &mut found);
                found.push(match &stranger {
                    Some(stranger) => at.finds(
                        Rule::LeafUnknown,
                        format!(
                            "leaf {index} says {}, which this build does not know: update it; \
                             it may have been a release",
                            stranger.says
                        ),
                    ),
                    None => at.finds(
                        Rule::LeafMalformed,
                        format!("leaf {index} of the log is no leaf: {error}"),
                    ),
                });
            }
        }
        found
    }

    /// Datasets seen.
    pub fn datasets(&self) -> usize {
        self.chains.len()
    }

    /// Purposes seen.
    pub fn purposes(&self) -> impl Iterator<Item = &Purpose> {
        self.purposes.iter()
    }

    /// Leaves by kind.
    pub fn kinds(&self) -> &BTreeMap<Kind, u64> {
        &self.kinds
    }

    /// Leaves that are none, or of unknown kinds.
    pub fn strange(&self) -> u64 {
        self.strange
    }

    /// Each leaf of a dataset says how many there were before it and what the last one was.
    fn chain(&mut self, at: &At<'_>, hash: Hash, found: &mut Vec<Finding>) {
        let Some(link) = at.dataset else {
            return;
        };
        let known = self.chains.get(&link.pseudonym);
        let (next, last) = known.map_or((0, None), |end| (end.next, Some(end.last)));
        if (link.sequence, link.previous) != (next, last) {
            let what = match link.sequence {
                sequence if sequence > next => {
                    format!("leaves {next} to {} are missing", sequence - 1)
                }
                sequence if sequence < next => format!("it is its leaf {sequence} a second time"),
                sequence => {
                    format!("its leaf {sequence} names another predecessor than the log has")
                }
            };
            let leaf = at.leaf;
            let text = format!("the chain of the dataset breaks at leaf {leaf}: {what}");
            found.push(at.finds(Rule::ChainBroken, text));
        }
        if known.is_none() && self.chains.len() >= DATASETS_MAX {
            let text =
                format!("more than {DATASETS_MAX} datasets: this one's chain is not checked");
            found.push(at.finds(Rule::ChainBroken, text));
            return;
        }
        let end = ChainEnd {
            next: link.sequence.saturating_add(1),
            last: hash,
        };
        self.chains.insert(link.pseudonym, end);
    }

    fn judge(
        &mut self,
        rules: &Rules,
        at: &At<'_>,
        leaf: &Leaf,
        now: UnixMs,
        found: &mut Vec<Finding>,
    ) {
        let (kind, time) = (leaf.kind(), leaf.time_ms());
        *self.kinds.entry(kind).or_default() += 1;
        let name = kind_name(kind);
        if rules.watches(kind) {
            let text = format!("{name}, for {}", leaf.purpose());
            found.push(at.finds(Rule::Watched, text));
        }
        self.purpose(rules, at, leaf.purpose(), found);
        self.time(at, time, now, found);
        if kind == Kind::Open {
            self.hours(rules, at, leaf.purpose(), time, found);
        }
        let objects = leaf.objects().len() as u64;
        let count = if kind == Kind::Open {
            objects.max(1)
        } else {
            1
        };
        for rate in rules.rates.iter().filter(|rate| rate.kind == kind) {
            let window = self.windows.entry(kind).or_default();
            if let Some(most) = window.add(time, count, rate.per_hour_max) {
                let most_allowed = rate.per_hour_max;
                let text = format!("{most} of {name} within an hour, more than {most_allowed}");
                found.push(at.finds(Rule::Rate, text));
            }
        }
    }

    fn purpose(&mut self, rules: &Rules, at: &At<'_>, purpose: &Purpose, found: &mut Vec<Finding>) {
        if self.purposes.contains(purpose) {
            return;
        }
        if self.purposes.len() < PURPOSES_MAX {
            self.purposes.insert(purpose.clone());
        }
        if !rules.purposes.contains(purpose) {
            let text = format!("the purpose {purpose} was never seen before");
            found.push(at.finds(Rule::NewPurpose, text));
        }
    }

    fn time(&mut self, at: &At<'_>, time: UnixMs, now: UnixMs, found: &mut Vec<Finding>) {
        if time.0.saturating_add(BACK_MAX_MS) < self.newest_ms {
            let back = (self.newest_ms - time.0) / 1000;
            let text = format!("region time went back by {back} s");
            found.push(at.finds(Rule::RegionTime, text));
        }
        self.newest_ms = self.newest_ms.max(time.0);
        let is_ahead = time.0 > now.0.saturating_add(AHEAD_MAX_MS);
        // One finding for a clock that is wrong, not one for each leaf.
        if is_ahead && !self.is_ahead {
            let ahead = (time.0 - now.0) / 1000;
            let text = format!("region time is {ahead} s ahead of the time here");
            found.push(at.finds(Rule::RegionTime, text));
        }
        self.is_ahead = is_ahead;
    }

    fn hours(
        &mut self,
        rules: &Rules,
        at: &At<'_>,
        purpose: &Purpose,
        time: UnixMs,
        found: &mut Vec<Finding>,
    ) {
        let Some(hours) = &rules.open_hours else {
            return;
        };
        let within = |hours: &crate::Hours| hours.contains(time, rules.utc_offset_minutes);
        if rules.open_hours_exempt.contains(purpose) || hours.iter().any(within) {
            return;
        }
        let hour = time.0 / MINUTE_MS / MINUTES_AN_HOUR;
        if self.outside.get(purpose) == Some(&hour) {
            return;
        }
        if self.outside.len() < PURPOSES_MAX || self.outside.contains_key(purpose) {
            self.outside.insert(purpose.clone(), hour);
        }
        let text = format!("opened for {purpose} outside the given hours; said once an hour");
        found.push(at.finds(Rule::OutsideHours, text));
    }
}

impl Window {
    /// Counts, and answers the sum of sixty minutes when it goes over the most.
    fn add(&mut self, time: UnixMs, count: u64, most: u64) -> Option<u64> {
        let newest = self.minutes.back().map_or(0, |(minute, _)| *minute);
        let minute = (time.0 / MINUTE_MS).max(newest);
        match self.minutes.back_mut() {
            Some((last, sum)) if *last == minute => *sum = sum.saturating_add(count),
            _ => self.minutes.push_back((minute, count)),
        }
        while self
            .minutes
            .front()
            .is_some_and(|(m, _)| m + MINUTES_AN_HOUR <= minute)
        {
            self.minutes.pop_front();
        }
        let sums = self.minutes.iter().map(|(_, sum)| *sum);
        let sum = sums.fold(0_u64, u64::saturating_add);
        let (is_over, was_over) = (sum > most, self.is_over);
        self.is_over = is_over;
        (is_over && !was_over).then_some(sum)
    }
}

/// Tells a leaf of a newer build from bytes that are no leaf at all.
fn stranger(bytes: &[u8], error: &LeafError) -> Option<Stranger> {
    let newer = match error {
        LeafError::UnknownSchema(_) => true,
        LeafError::Malformed => false,
        LeafError::TooLarge(_) | LeafError::NotCanonical | LeafError::BrokenLink(_) => return None,
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let kind = value.get("kind")?.as_str()?;
    let unknown = serde_json::from_value::<Kind>(value["kind"].clone()).is_err();
    if !newer && !unknown {
        return None;
    }
    let dataset = value.get("dataset").cloned();
    let shown: String = kind.chars().take(SHOWN_MAX).collect();
    Some(Stranger {
        says: format!("kind {shown:?}"),
        dataset: dataset.and_then(|dataset| serde_json::from_value(dataset).ok()),
    })
}

/// As in leaves.
pub(crate) fn kind_name(kind: Kind) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{kind:?}"),
    }
}

#[cfg(test)]
mod tests;
