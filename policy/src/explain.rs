//! A decision in words: what allowed or forbade it, and which permits nearly did and by what they failed.

use std::fmt;

use cedar_policy::Effect;
use serde::Serialize;

use crate::bounds;
use crate::decide::{Decision, Why};
use crate::parts::{self, Unmet};
use crate::place::Place;
use crate::request::Request;
use crate::text::Policy;

/// Near misses told of one decision.
const NEAR_MAX: usize = 5;

/// A policy with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its name.
    pub policy: String,
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
}

/// A permit that did not apply, and everything it failed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Near {
    /// Which.
    #[serde(flatten)]
    pub named: Named,
    /// By what.
    pub unmet: Vec<Unmet>,
}

/// Why a request is allowed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The decision, as [`Policy::decide`] takes it.
    pub decision: Decision,
    /// The request in words.
    pub asked: String,
    /// Whether a yes also takes dual control.
    pub takes_approvals: bool,
    /// Permits that apply.
    pub permits: Vec<Named>,
    /// Forbids that apply.
    pub forbids: Vec<Named>,
    /// Permits that nearly apply: those that fail by the fewest parts.
    pub near: Vec<Near>,
    /// What the role may, where that is the reason.
    pub bound: Option<&'static str>,
}

impl Policy {
    /// Explains the decision on a request.
    pub fn explain(&self, request: &Request) -> Explanation {
        let decision = self.decide(request);
        let asked = request.asked();
        let (mut permits, mut forbids, mut near) = (Vec::new(), Vec::new(), Vec::new());
        for statement in &self.statements {
            let named = Named {
                policy: statement.name.clone(),
                place: statement.place,
            };
            let unmet = parts::unmet(statement, request, &asked);
            match (statement.policy.effect(), unmet.is_empty()) {
                (Effect::Permit, true) => permits.push(named),
                (Effect::Forbid, true) => forbids.push(named),
                (Effect::Permit, false) => near.push(Near { named, unmet }),
                (Effect::Forbid, false) => {}
            }
        }
        near.sort_by_key(|near| near.unmet.len());
        let fewest = near.first().map_or(0, |near| near.unmet.len());
        near.retain(|near| near.unmet.len() == fewest);
        near.truncate(NEAR_MAX);
        if decision.why != Why::NothingPermits {
            near.clear();
        }
        let role = request.principal.role();
        Explanation {
            bound: (decision.why == Why::RoleBound).then(|| bounds::in_words(role)),
            takes_approvals: bounds::is_human(&request.purpose),
            asked: in_words(request),
            decision,
            permits,
            forbids,
            near,
        }
    }
}

fn in_words(request: &Request) -> String {
    let dataset = match &request.dataset {
        Some(id) => format!("dataset {id}"),
        None => "the region as a whole".to_owned(),
    };
    let case = match &request.case {
        Some(case) => format!(", case {case:?}"),
        None => String::new(),
    };
    let time = request.time();
    format!(
        "{} asks to {} {dataset} for {}{case}, for a recipient in {}, on weekday {} at {:02}:{:02} UTC",
        request.principal,
        match request.action.as_str() {
            "keys" => "administer the keys of",
            action => action,
        },
        request.purpose,
        request.recipient_region,
        time.weekday,
        time.hour,
        time.minute,
    )
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal { wants } => write!(f, "it is for {wants}"),
            Self::Action { wants } => write!(f, "it is for the actions {wants}"),
            Self::Dataset { wants } => write!(f, "it is for {wants}"),
            Self::Condition { wants, found } => {
                write!(f, "it takes {wants}")?;
                match found.as_slice() {
                    [] => Ok(()),
                    found => write!(f, "; here {}", found.join(", ")),
                }
            }
            Self::Failing { condition, error } => {
                write!(f, "{condition} cannot be evaluated: {error}")
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.", self.asked)?;
        let list = |f: &mut fmt::Formatter<'_>, what: &str, policies: &[Named]| {
            policies
                .iter()
                .try_for_each(|named| writeln!(f, "  {what} {} at {}", named.policy, named.place))
        };
        match self.decision.why {
            Why::Permitted => {
                writeln!(f, "ALLOWED, and no policy forbids it.")?;
                list(f, "permitted by", &self.permits)?;
                if self.takes_approvals {
                    writeln!(f, "A person's purpose: each use also takes dual control.")?;
                }
            }
            Why::Forbidden => {
                writeln!(
                    f,
                    "DENIED: a policy forbids it, and that wins over any permit."
                )?;
                list(f, "forbidden by", &self.forbids)?;
                list(f, "would be permitted by", &self.permits)?;
            }
            Why::NothingPermits => {
                writeln!(f, "DENIED: no policy permits it.")?;
                for Near { named, unmet } in &self.near {
                    writeln!(f, "  nearly: {} at {}, but", named.policy, named.place)?;
                    for part in unmet {
                        writeln!(f, "    {part}")?;
                    }
                }
            }
            Why::RoleBound => {
                let bound = self.bound.unwrap_or("the role is bound");
                writeln!(f, "DENIED: {bound}. No policy widens this.")?;
            }
            Why::Error => {
                writeln!(f, "DENIED: a policy cannot be evaluated on this request.")?;
                for error in &self.decision.errors {
                    writeln!(f, "  {error}")?;
                }
            }
        }
        Ok(())
    }
}
