//! One statement against one request, part by part: scope, then each condition that `&&` joins.
//!
//! Owns saying which parts fail. It asks Cedar for each condition by itself, out of Cedar's JSON form, so that what it
//! says of a part is what Cedar says. For people; decisions are not made here.

use cedar_policy::{
    ActionConstraint, Authorizer, Decision, EntityUid, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::request::{Asked, Request};
use crate::schema::Kind;
use crate::text::Statement;

/// A part of a policy that a request does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "part")]
pub enum Unmet {
    /// It is for somebody else.
    Principal {
        /// For whom.
        wants: String,
    },
    /// It is for other actions.
    Action {
        /// For which.
        wants: String,
    },
    /// It is for another dataset.
    Dataset {
        /// For which.
        wants: String,
    },
    /// A condition is false, or an `unless` is true.
    Condition {
        /// As Cedar writes it.
        wants: String,
        /// What the request has of what the condition reads.
        found: Vec<String>,
    },
    /// A condition could not be evaluated.
    Failing {
        /// As Cedar writes it.
        condition: String,
        /// Why not.
        error: String,
    },
}

/// The parts that fail; none where the statement applies.
pub(crate) fn unmet(statement: &Statement, request: &Request, asked: &Asked) -> Vec<Unmet> {
    let policy = &statement.policy;
    let mut unmet = Vec::new();
    if let Some(wants) = principal(&policy.principal_constraint(), asked) {
        unmet.push(Unmet::Principal { wants });
    }
    if let Some(wants) = action(&policy.action_constraint(), asked) {
        unmet.push(Unmet::Action { wants });
    }
    if let Some(wants) = resource(&policy.resource_constraint(), asked) {
        unmet.push(Unmet::Dataset { wants });
    }
    if let Ok(json) = policy.to_json() {
        let clauses = json["conditions"].as_array();
        for clause in clauses.into_iter().flatten() {
            conditions(clause, request, asked, &mut unmet);
        }
    }
    unmet
}

fn principal(constraint: &PrincipalConstraint, asked: &Asked) -> Option<String> {
    match constraint {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        PrincipalConstraint::Eq(uid) => (*uid != asked.principal).then(|| name(uid)),
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
            (*uid != asked.principal && *uid != asked.role).then(|| name(uid))
        }
    }
}

fn action(constraint: &ActionConstraint, asked: &Asked) -> Option<String> {
    let wants: Vec<&EntityUid> = match constraint {
        ActionConstraint::Any => return None,
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids.iter().collect(),
    };
    (!wants.contains(&&asked.action)).then(|| {
        let names: Vec<_> = wants.into_iter().map(name).collect();
        names.join(", ")
    })
}

fn resource(constraint: &ResourceConstraint, asked: &Asked) -> Option<String> {
    let of_kind = |kind: &cedar_policy::EntityTypeName| kind == asked.resource.type_name();
    match constraint {
        ResourceConstraint::Any => None,
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => {
            (*uid != asked.resource).then(|| name(uid))
        }
        ResourceConstraint::Is(kind) => (!of_kind(kind)).then(|| format!("any {kind}")),
        ResourceConstraint::IsIn(kind, uid) => {
            (!of_kind(kind) || *uid != asked.resource).then(|| name(uid))
        }
    }
}

/// An entity as people say it.
fn name(uid: &EntityUid) -> String {
    let id: &str = uid.id().as_ref();
    match Kind::of(uid) {
        Some(Kind::Role) => format!("role {id}"),
        Some(Kind::Dataset) => format!("dataset {id}"),
        Some(Kind::Region) => format!("region {id} as a whole"),
        _ => id.to_owned(),
    }
}

fn conditions(clause: &Value, request: &Request, asked: &Asked, unmet: &mut Vec<Unmet>) {
    let is_when = clause["kind"] == "when";
    let mut joined = Vec::new();
    if is_when {
        split(&clause["body"], &mut joined);
    } else {
        joined.push(&clause["body"]);
    }
    let mut failing = Vec::new();
    let before = unmet.len();
    for body in joined {
        let Some((text, outcome)) = evaluate(body, is_when, asked) else {
            continue;
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => unmet.push(Unmet::Condition {
                wants: text,
                found: found(body, request),
            }),
            Err(error) => failing.push(Unmet::Failing {
                condition: text,
                error,
            }),
        }
    }
    // What stands behind a false guard is not evaluated, so it does not fail.
    if unmet.len() == before {
        unmet.extend(failing);
    }
}

fn split<'a>(body: &'a Value, into: &mut Vec<&'a Value>) {
    match body.get("&&") {
        Some(both) => {
            split(&both["left"], into);
            split(&both["right"], into);
        }
        None => into.push(body),
    }
}

/// The condition as text, and whether it lets the request through; `None` for what is no condition of Cedar's.
fn evaluate(body: &Value, is_when: bool, asked: &Asked) -> Option<(String, Result<bool, String>)> {
    let json = json!({
        "effect": "permit",
        "principal": { "op": "All" }, "action": { "op": "All" }, "resource": { "op": "All" },
        "conditions": [{ "kind": if is_when { "when" } else { "unless" }, "body": body }],
    });
    let alone = cedar_policy::Policy::from_json(None, json).ok()?;
    let text = shown(&alone).unwrap_or_else(|| "a condition".to_owned());
    let set = PolicySet::from_policies([alone]).ok()?;
    let answer = Authorizer::new().is_authorized(&asked.request, &set, &asked.entities);
    let error = answer.diagnostics().errors().next();
    Some(match error {
        Some(cedar_policy::AuthorizationError::PolicyEvaluationError(error)) => {
            (text, Err(error.inner().to_string()))
        }
        None => (text, Ok(answer.decision() == Decision::Allow)),
    })
}

/// The one condition of a policy, on one line. Cedar writes an `unless` as a `when` that is negated.
fn shown(alone: &cedar_policy::Policy) -> Option<String> {
    let text = alone.to_cedar()?;
    let (_, body) = text.split_once("when {")?;
    let body = body.trim_end().strip_suffix("};")?;
    Some(body.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What the request has of everything the condition reads.
fn found(body: &Value, request: &Request) -> Vec<String> {
    let mut reads = crate::literals::Literals::default();
    reads.walk(body);
    let time = request.time();
    let one = |attribute: &str| {
        let value = match attribute {
            "purpose" => request.purpose.to_string(),
            "case" => match &request.case {
                Some(case) => format!("{case:?}"),
                None => "not stated".to_owned(),
            },
            "recipient_region" => request.recipient_region.to_string(),
            "name" => request.principal.name().to_owned(),
            "unix_ms" => time.unix_ms.to_string(),
            "weekday" => time.weekday.to_string(),
            "hour" => time.hour.to_string(),
            "minute" => time.minute.to_string(),
            _ => return None,
        };
        Some(format!("{} is {value}", attribute.replace('_', " ")))
    };
    reads.reads.iter().filter_map(|name| one(name)).collect()
}
