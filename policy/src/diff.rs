//! What changes between two texts: which principal may do which action for which purpose on which dataset.
//!
//! Owns the combinations that are asked: everything that either text names, and one of each kind that neither names.
//! Texts that match by pattern, or compute, may differ where none of these is; the answer says so.

use std::collections::BTreeSet;

use proto::ids::{DatasetId, Identity, RegionId, Role, UnixMs};
use serde::Serialize;
use tlog::Purpose;

use crate::bounds::{self, HUMAN_PURPOSES};
use crate::literals::Literals;
use crate::request::{Action, Request};
use crate::text::Policy;

/// Requests asked of both texts: some seconds of work.
pub const COMBINATIONS_MAX: usize = 500_000;
/// Monday, 2026-11-23T00:00:00Z: any week serves.
const MONDAY: u64 = 1_795_392_000_000;
const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;
/// Smaller numbers are hours, minutes or weekdays.
const UNIX_MS_MIN: i64 = 100_000_000_000;
/// Purposes that services state (docs/decisions/0008), besides those that texts name.
const SERVICE_PURPOSES: [&str; 3] = ["service", "multipart", "relocation"];
/// Who and what no text names goes by this, or by this with a number.
const OTHER: &str = "any-other";

/// Two texts name more than is compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the texts name {0} combinations of principal, action, purpose, dataset, case, region and time; \
     {COMBINATIONS_MAX} are compared"
)]
pub struct TooMany(usize);

/// One of a kind, by name or as any that is not named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labelled<T> {
    label: String,
    value: T,
}

/// What of a request is beside who, what, which and what for.
#[derive(Debug, Clone)]
struct Circumstance {
    case: Option<String>,
    recipient_region: RegionId,
    at: UnixMs,
}

/// The requests by which two texts are compared.
#[derive(Debug, Clone)]
pub struct Dimensions {
    principals: Vec<Labelled<Identity>>,
    purposes: Vec<Labelled<Purpose>>,
    datasets: Vec<Labelled<Option<DatasetId>>>,
    circumstances: Vec<Circumstance>,
    sampled: bool,
}

/// A combination for which the texts differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// An identity, or any other of a role.
    pub principal: String,
    /// The action.
    pub action: &'static str,
    /// The purpose.
    pub purpose: String,
    /// A dataset, any other, or the region as a whole.
    pub dataset: String,
    /// Cases, recipient regions and times in which the new text allows what the old one did not.
    pub newly_allowed: usize,
    /// Those in which it no longer allows what the old one did.
    pub newly_denied: usize,
    /// Those that were asked.
    pub circumstances: usize,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Every combination that changes.
    pub changes: Vec<Change>,
    /// How many requests were asked of both.
    pub requests: usize,
    /// Whether a text matches by pattern or compares numbers, so that the requests are a sample.
    pub sampled: bool,
}

impl Dimensions {
    /// Everything that either text names, and one of each kind that neither does.
    pub fn of(old: &Policy, new: &Policy) -> Result<Self, TooMany> {
        let mut named = Literals::default();
        for statement in old.statements.iter().chain(&new.statements) {
            named.join(&statement.literals);
        }
        let identities: Vec<Identity> = parsed(&named.identities);
        let region = identities
            .first()
            .map(|identity| identity.region().clone())
            .or_else(|| parsed(&named.regions).into_iter().next())
            .unwrap_or_else(|| fresh(&BTreeSet::new()));
        let principals = principals(identities, &region);
        let purposes = purposes(&named.purposes);
        let datasets = datasets(&named.datasets);
        let circumstances = circumstances(&named, &region);
        let count = [
            principals.len(),
            Action::ALL.len(),
            purposes.len(),
            datasets.len(),
            circumstances.len(),
        ];
        let count = count
            .iter()
            .fold(1, |count: usize, more| count.saturating_mul(*more));
        if count > COMBINATIONS_MAX {
            return Err(TooMany(count));
        }
        let numbers = ["unix_ms", "weekday", "hour", "minute"];
        let sampled = named.patterns || numbers.iter().any(|name| named.reads.contains(*name));
        Ok(Self {
            principals,
            purposes,
            datasets,
            circumstances,
            sampled,
        })
    }
}

/// What changes from one text to another, over `dimensions`.
pub fn diff(old: &Policy, new: &Policy, dimensions: &Dimensions) -> Difference {
    let mut changes = Vec::new();
    let mut requests = 0;
    for principal in &dimensions.principals {
        for dataset in &dimensions.datasets {
            for action in Action::ALL {
                for purpose in &dimensions.purposes {
                    if !bounds::role_may(principal.value.role(), action, &purpose.value) {
                        continue;
                    }
                    let (mut allowed, mut denied) = (0, 0);
                    for circumstance in &dimensions.circumstances {
                        requests += 1;
                        let request = Request {
                            principal: principal.value.clone(),
                            action,
                            dataset: dataset.value,
                            purpose: purpose.value.clone(),
                            case: circumstance.case.clone(),
                            recipient_region: circumstance.recipient_region.clone(),
                            at: circumstance.at,
                        };
                        match (old.decide(&request).allowed, new.decide(&request).allowed) {
                            (false, true) => allowed += 1,
                            (true, false) => denied += 1,
                            _ => {}
                        }
                    }
                    if allowed + denied > 0 {
                        changes.push(Change {
                            principal: principal.label.clone(),
                            action: action.as_str(),
                            purpose: purpose.label.clone(),
                            dataset: dataset.label.clone(),
                            newly_allowed: allowed,
                            newly_denied: denied,
                            circumstances: dimensions.circumstances.len(),
                        });
                    }
                }
            }
        }
    }
    Difference {
        changes,
        requests,
        sampled: dimensions.sampled,
    }
}

/// Of the requests given, those on which the texts decide differently.
pub fn differing<'r>(old: &Policy, new: &Policy, requests: &'r [Request]) -> Vec<&'r Request> {
    requests
        .iter()
        .filter(|request| old.decide(request).allowed != new.decide(request).allowed)
        .collect()
}

fn parsed<T: std::str::FromStr>(texts: &BTreeSet<String>) -> Vec<T> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A label that is not taken.
fn fresh<T: std::str::FromStr>(taken: &BTreeSet<String>) -> T
where
    T::Err: std::fmt::Debug,
{
    let text = (0..=taken.len())
        .map(|at| {
            if at == 0 {
                OTHER.to_owned()
            } else {
                format!("{OTHER}-{at}")
            }
        })
        .find(|text| !taken.contains(text))
        .expect("there is one more candidate than names taken");
    text.parse()
        .expect("small letters, digits and hyphens are a label")
}

fn principals(named: Vec<Identity>, region: &RegionId) -> Vec<Labelled<Identity>> {
    let names: BTreeSet<String> = named
        .iter()
        .map(|identity| identity.name().to_owned())
        .collect();
    let other: String = fresh(&names);
    // The others use no keys, whatever a text says.
    let roles = [Role::Gateway, Role::Client, Role::Operator, Role::Auditor];
    let others = roles.into_iter().map(|role| Labelled {
        label: format!("any other {}", role.as_str()),
        value: Identity::new(region.clone(), role, &other).expect("a label is a name"),
    });
    let named = named.into_iter().map(|identity| Labelled {
        label: identity.to_string(),
        value: identity,
    });
    named.chain(others).collect()
}

fn purposes(named: &BTreeSet<String>) -> Vec<Labelled<Purpose>> {
    let known = HUMAN_PURPOSES.into_iter().chain(SERVICE_PURPOSES);
    let all: BTreeSet<String> = known
        .map(str::to_owned)
        .chain(named.iter().cloned())
        .collect();
    let mut purposes: Vec<_> = parsed(&all)
        .into_iter()
        .map(|purpose: Purpose| Labelled {
            label: purpose.to_string(),
            value: purpose,
        })
        .collect();
    purposes.push(Labelled {
        label: "any other".to_owned(),
        value: fresh(&all),
    });
    purposes
}

fn datasets(named: &BTreeSet<String>) -> Vec<Labelled<Option<DatasetId>>> {
    let named: BTreeSet<DatasetId> = parsed(named).into_iter().collect();
    let other = (0..=named.len() as u128)
        .map(|at| DatasetId((u128::MAX - at).to_be_bytes()))
        .find(|id| !named.contains(id))
        .expect("there is one more candidate than names taken");
    let mut datasets: Vec<_> = named
        .iter()
        .map(|id| Labelled {
            label: id.to_string(),
            value: Some(*id),
        })
        .collect();
    datasets.push(Labelled {
        label: "any other".to_owned(),
        value: Some(other),
    });
    datasets.push(Labelled {
        label: "the region".to_owned(),
        value: None,
    });
    datasets
}

fn circumstances(named: &Literals, region: &RegionId) -> Vec<Circumstance> {
    let mut cases = vec![None];
    if named.reads.contains("case") {
        cases.extend(named.cases.iter().cloned().map(Some));
        cases.push(Some(fresh(&named.cases)));
    }
    let mut regions = vec![region.clone()];
    if named.reads.contains("recipient_region") {
        let mut taken = named.recipient_regions.clone();
        let named = parsed(&taken).into_iter();
        regions.extend(named.filter(|named: &RegionId| named != region));
        taken.insert(region.to_string());
        regions.push(fresh(&taken));
    }
    let times = times(named);
    let mut circumstances = Vec::new();
    for case in &cases {
        for recipient_region in &regions {
            circumstances.extend(times.iter().map(|at| Circumstance {
                case: case.clone(),
                recipient_region: recipient_region.clone(),
                at: UnixMs(*at),
            }));
        }
    }
    circumstances
}

/// Each hour of a week where hours or weekdays matter, each minute named with its neighbours, and the instants named.
fn times(named: &Literals) -> BTreeSet<u64> {
    let reads = |what: &str| named.reads.contains(what);
    let mut minutes = BTreeSet::from([0]);
    if reads("minute") {
        let around = |number: &i64| [number - 1, *number, number + 1];
        let numbers = named
            .numbers
            .iter()
            .filter(|number| (0..60).contains(*number));
        let minute = |number| u64::try_from(number).ok().filter(|minute| *minute < 60);
        minutes.extend(numbers.flat_map(around).filter_map(minute));
    }
    let mut times = BTreeSet::from([MONDAY]);
    if reads("weekday") || reads("hour") || reads("minute") {
        for hour in 0..7 * 24 {
            times.extend(
                minutes
                    .iter()
                    .map(|minute| MONDAY + hour * HOUR_MS + minute * MINUTE_MS),
            );
        }
    }
    if reads("unix_ms") {
        let instants = named
            .numbers
            .iter()
            .filter(|number| **number >= UNIX_MS_MIN);
        let instant = |number: &i64| u64::try_from(*number).ok();
        times.extend(
            instants
                .filter_map(instant)
                .flat_map(|at| [at - 1, at, at + 1]),
        );
    }
    times
}
