//! What policy is asked: who, to do what, on what, what for, for which case, to go where, when.
//!
//! Owns the request and its form as Cedar sees it. Time is the region's and enters here; nothing reads a clock.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use cedar_policy::{Context, Entities, Entity, EntityUid, RestrictedExpression};
use proto::ids::{DatasetId, Identity, RegionId, UnixMs};
use proto::v1;
use tlog::Purpose;

use crate::schema::Kind;

/// What can be done. `v1::Action` without the one that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Create and delete datasets.
    Create,
    /// Head, list, metadata lease.
    List,
    /// Open objects.
    Read,
    /// Seal leases, put, delete.
    Write,
    /// Rotate, disable, enable.
    Keys,
}

/// Text or a number that is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an action is create, list, read, write or keys")]
pub struct NoAction;

impl Action {
    /// Every action.
    pub const ALL: [Self; 5] = [
        Self::Create,
        Self::List,
        Self::Read,
        Self::Write,
        Self::Keys,
    ];

    /// As policy texts name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Keys => "keys",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = NoAction;
    fn from_str(text: &str) -> Result<Self, NoAction> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or(NoAction)
    }
}

impl TryFrom<v1::Action> for Action {
    type Error = NoAction;
    fn try_from(action: v1::Action) -> Result<Self, NoAction> {
        match action {
            v1::Action::Unspecified => Err(NoAction),
            v1::Action::Create => Ok(Self::Create),
            v1::Action::List => Ok(Self::List),
            v1::Action::Read => Ok(Self::Read),
            v1::Action::Write => Ok(Self::Write),
            v1::Action::Keys => Ok(Self::Keys),
        }
    }
}

/// One question to policy. Whether the principal is enrolled is asked elsewhere, and first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who, authenticated.
    pub principal: Identity,
    /// To do what.
    pub action: Action,
    /// On which dataset; `None` for what concerns none in particular.
    pub dataset: Option<DatasetId>,
    /// What for, as stated.
    pub purpose: Purpose,
    /// The case, as stated, if there is one.
    pub case: Option<String>,
    /// Where what is released goes.
    pub recipient_region: RegionId,
    /// The region's time.
    pub at: UnixMs,
}

/// A request as Cedar takes it.
pub(crate) struct Asked {
    pub(crate) principal: EntityUid,
    pub(crate) role: EntityUid,
    pub(crate) action: EntityUid,
    pub(crate) resource: EntityUid,
    pub(crate) request: cedar_policy::Request,
    pub(crate) entities: Entities,
}

impl Request {
    pub(crate) fn asked(&self) -> Asked {
        let principal = Kind::Identity.uid(&self.principal.to_string());
        let role = Kind::Role.uid(self.principal.role().as_str());
        let action = Kind::Action.uid(self.action.as_str());
        let resource = match &self.dataset {
            Some(id) => Kind::Dataset.uid(&id.to_string()),
            None => Kind::Region.uid(self.principal.region().as_str()),
        };
        let name = RestrictedExpression::new_string(self.principal.name().to_owned());
        let who = Entity::new(
            principal.clone(),
            HashMap::from([("name".to_owned(), name)]),
            HashSet::from([role.clone()]),
        )
        .expect("a string always evaluates");
        let entities =
            Entities::from_entities([who], None).expect("one entity has neither double nor cycle");
        // Not validated against the schema: this function is the only maker, and a test validates what it makes.
        let request = cedar_policy::Request::new(
            principal.clone(),
            action.clone(),
            resource.clone(),
            self.context(),
            None,
        )
        .expect("without a schema nothing is refused");
        Asked {
            principal,
            role,
            action,
            resource,
            request,
            entities,
        }
    }

    pub(crate) fn time(&self) -> Instant {
        self.at.into()
    }

    fn context(&self) -> Context {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let mut pairs = vec![
            ("purpose".to_owned(), text(self.purpose.as_str())),
            (
                "recipient_region".to_owned(),
                text(self.recipient_region.as_str()),
            ),
            ("time".to_owned(), self.time().record()),
        ];
        if let Some(case) = &self.case {
            pairs.push(("case".to_owned(), text(case)));
        }
        Context::from_pairs(pairs).expect("the names are distinct and the values plain")
    }
}

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The region's time as policies see it, in UTC.
pub(crate) struct Instant {
    pub(crate) unix_ms: u64,
    /// 1 is Monday.
    pub(crate) weekday: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
}

impl From<UnixMs> for Instant {
    fn from(UnixMs(unix_ms): UnixMs) -> Self {
        Self {
            unix_ms,
            // 1970-01-01 was a Thursday, the fourth day.
            weekday: (unix_ms / DAY_MS + 3) % 7 + 1,
            hour: unix_ms % DAY_MS / HOUR_MS,
            minute: unix_ms % HOUR_MS / MINUTE_MS,
        }
    }
}

impl Instant {
    fn record(&self) -> RestrictedExpression {
        let long =
            |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
        RestrictedExpression::new_record([
            ("unix_ms".to_owned(), long(self.unix_ms)),
            ("weekday".to_owned(), long(self.weekday)),
            ("hour".to_owned(), long(self.hour)),
            ("minute".to_owned(), long(self.minute)),
        ])
        .expect("the names are distinct")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    /// Requests are built without the schema, for speed: what is built has to fit it all the same.
    #[test]
    fn every_request_fits_the_schema() {
        let region: RegionId = "ch-zrh".parse().expect("a region");
        for action in Action::ALL {
            for dataset in [None, Some(DatasetId([7; 16]))] {
                for case in [None, Some("2026-17".to_owned())] {
                    let request = Request {
                        principal: "spiffe://ch-zrh/client/app".parse().expect("an identity"),
                        action,
                        dataset,
                        purpose: Purpose::service(),
                        case,
                        recipient_region: region.clone(),
                        at: UnixMs(u64::MAX),
                    };
                    let asked = request.asked();
                    let schema = schema::validator().schema();
                    let checked = cedar_policy::Request::new(
                        asked.principal,
                        asked.action,
                        asked.resource,
                        request.context(),
                        Some(schema),
                    );
                    assert!(checked.is_ok(), "{request:?}: {:?}", checked.err());
                    let entities = asked.entities.into_iter();
                    let checked = Entities::from_entities(entities, Some(schema));
                    assert!(checked.is_ok(), "{:?}", checked.err());
                }
            }
        }
    }

    #[test]
    fn time_is_utc_and_monday_is_one() {
        // 2026-11-26T01:36:47Z, a Thursday.
        let time = Instant::from(UnixMs(1_795_657_007_000));
        assert_eq!((time.weekday, time.hour, time.minute), (4, 1, 36));
        // 2026-11-23T00:00:00Z, a Monday.
        assert_eq!(Instant::from(UnixMs(1_795_392_000_000)).weekday, 1);
        assert_eq!(Instant::from(UnixMs(1_795_392_000_000 - 1)).weekday, 7);
    }
}
