//! The decision: role bounds, then Cedar. Default deny; forbid wins; an error denies.
//!
//! Owns the index that keeps a decision's cost to the policies that could apply: one Cedar policy set for each
//! combination of action, principal and resource that a scope names. A policy outside the request's sets has a scope
//! that does not match, so it could neither apply nor fail.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Authorizer, Decision as Verdict, EntityUid, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};
use serde::Serialize;

use crate::bounds;
use crate::request::{Action, Asked, Request};
use crate::schema::Kind;
use crate::text::{Policy, Statement};

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// At least one policy permits it and none forbids it.
    Permitted,
    /// A policy forbids it, whatever others permit.
    Forbidden,
    /// No policy permits it.
    NothingPermits,
    /// The role may never do this, whatever policies say.
    RoleBound,
    /// A policy could not be evaluated.
    Error,
}

/// The decision on one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// What decided.
    pub why: Why,
    /// The policies that decided, by name, sorted: the permits of a yes, the forbids of a no.
    pub by: Vec<String>,
    /// Policies that could not be evaluated, and why. Any of them denies.
    pub errors: Vec<String>,
}

impl Decision {
    fn no(why: Why) -> Self {
        Self {
            allowed: false,
            why,
            by: Vec::new(),
            errors: Vec::new(),
        }
    }
}

impl Policy {
    /// Decides. Says nothing of enrolment or of approvals, which come besides.
    pub fn decide(&self, request: &Request) -> Decision {
        let role = request.principal.role();
        if !bounds::role_may(role, request.action, &request.purpose) {
            return Decision::no(Why::RoleBound);
        }
        self.ask(&request.asked(), request.action)
    }

    /// Cedar's part of it, without the role bounds.
    pub(crate) fn ask(&self, asked: &Asked, action: Action) -> Decision {
        let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let authorizer = Authorizer::new();
        for set in self.index.sets(asked, action) {
            let answer = authorizer.is_authorized(&asked.request, set, &asked.entities);
            let said = answer.diagnostics();
            let by = match answer.decision() {
                Verdict::Allow => &mut permits,
                // With nothing to say, its reasons are none.
                Verdict::Deny => &mut forbids,
            };
            by.extend(said.reason().map(ToString::to_string));
            errors.extend(said.errors().map(ToString::to_string));
        }
        let (why, mut by) = if !errors.is_empty() {
            (Why::Error, Vec::new())
        } else if !forbids.is_empty() {
            (Why::Forbidden, forbids)
        } else if permits.is_empty() {
            (Why::NothingPermits, Vec::new())
        } else {
            (Why::Permitted, permits)
        };
        // Cedar's order is that of a hash map.
        by.sort();
        errors.sort();
        Decision {
            allowed: why == Why::Permitted,
            why,
            by,
            errors,
        }
    }
}

/// What a scope says of principals or resources, as far as the index tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Named {
    /// This identity or dataset, or whoever has this role.
    Only(EntityUid),
    /// Anything the scope's own evaluation lets through.
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    action: Action,
    principal: Named,
    resource: Named,
}

/// The statements by what their scopes name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    sets: HashMap<Key, PolicySet>,
}

impl Index {
    pub(crate) fn build(statements: &[Statement]) -> Self {
        let mut index = Self::default();
        for Statement { policy, .. } in statements {
            let principal = match policy.principal_constraint() {
                PrincipalConstraint::Eq(uid) => Named::Only(uid),
                PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
                    Named::Only(uid)
                }
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => Named::Any,
            };
            let resource = match policy.resource_constraint() {
                ResourceConstraint::Eq(uid)
                | ResourceConstraint::In(uid)
                | ResourceConstraint::IsIn(_, uid) => Named::Only(uid),
                ResourceConstraint::Any | ResourceConstraint::Is(_) => Named::Any,
            };
            for action in actions(&policy.action_constraint()) {
                let key = Key {
                    action,
                    principal: principal.clone(),
                    resource: resource.clone(),
                };
                let added = index.sets.entry(key).or_default().add(policy.clone());
                // Names are unique in a text, and an action stands once in what `actions` gives.
                added.expect("a policy is in a set once");
            }
        }
        index
    }

    /// The sets that could have something to say.
    fn sets(&self, asked: &Asked, action: Action) -> impl Iterator<Item = &PolicySet> {
        // `in` reaches an entity from itself and from its one parent, the role.
        let principals = [
            Named::Any,
            Named::Only(asked.role.clone()),
            Named::Only(asked.principal.clone()),
        ];
        let resources = [Named::Any, Named::Only(asked.resource.clone())];
        principals.into_iter().flat_map(move |principal| {
            let resources = resources.clone();
            resources.into_iter().filter_map(move |resource| {
                let key = Key {
                    action,
                    principal: principal.clone(),
                    resource,
                };
                self.sets.get(&key)
            })
        })
    }
}

/// The actions that a scope lets through. The schema has no action that is a group.
pub(crate) fn actions(constraint: &ActionConstraint) -> Vec<Action> {
    let named = |action: Action, uid: &EntityUid| *uid == Kind::Action.uid(action.as_str());
    let through = |action: &Action| match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => named(*action, uid),
        ActionConstraint::In(uids) => uids.iter().any(|uid| named(*action, uid)),
    };
    Action::ALL.into_iter().filter(through).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::ids::{DatasetId, UnixMs};

    use super::*;
    use crate::text::PolicyText;

    const PRINCIPALS: [&str; 8] = [
        "principal",
        "principal is Identity",
        "principal in Role::\"client\"",
        "principal is Identity in Role::\"gateway\"",
        "principal in Role::\"gateway\"",
        "principal == Identity::\"spiffe://ch-zrh/client/a\"",
        "principal in Identity::\"spiffe://ch-zrh/client/b\"",
        "principal is Identity in Identity::\"spiffe://ch-zrh/client/a\"",
    ];
    const ACTIONS: [&str; 4] = [
        "action",
        "action == Action::\"read\"",
        "action in Action::\"list\"",
        "action in [Action::\"read\", Action::\"write\", Action::\"read\"]",
    ];
    const RESOURCES: [&str; 7] = [
        "resource",
        "resource is Dataset",
        "resource is Region",
        "resource == Dataset::\"00000000000000000000000000000000\"",
        "resource in Dataset::\"01010101010101010101010101010101\"",
        "resource is Dataset in Dataset::\"01010101010101010101010101010101\"",
        "resource == Region::\"ch-zrh\"",
    ];
    const CONDITIONS: [&str; 4] = [
        "",
        "when { context.purpose == \"service\" }",
        "unless { principal.name == \"a\" }",
        "when { context.time.unix_ms * 9223372036854775807 > 0 || context.purpose == \"service\" }",
    ];

    fn statement() -> impl Strategy<Value = String> {
        // Few forbids and fewer failures, or the answer were always no.
        let effect = prop_oneof![6 => Just("permit"), 1 => Just("forbid")];
        let condition = prop_oneof![12 => 0..3_usize, 1 => Just(3_usize)];
        let scope = (0..PRINCIPALS.len(), 0..ACTIONS.len(), 0..RESOURCES.len());
        (effect, scope, condition).prop_map(|(effect, (principal, action, resource), condition)| {
            let (principal, action) = (PRINCIPALS[principal], ACTIONS[action]);
            let (resource, condition) = (RESOURCES[resource], CONDITIONS[condition]);
            format!("{effect} ({principal}, {action}, {resource}) {condition};\n")
        })
    }

    fn requests() -> Vec<Request> {
        let mut requests = Vec::new();
        for name in ["client/a", "client/b", "client/c", "gateway/a"] {
            for action in Action::ALL {
                for dataset in [None, Some(0), Some(1), Some(2)] {
                    for purpose in ["service", "other"] {
                        let identity = format!("spiffe://ch-zrh/{name}");
                        requests.push(Request {
                            principal: identity.parse().expect("an identity"),
                            action,
                            dataset: dataset.map(|at| DatasetId([at; 16])),
                            purpose: purpose.parse().expect("a purpose"),
                            case: None,
                            recipient_region: "ch-zrh".parse().expect("a region"),
                            at: UnixMs(1_795_687_200_000),
                        });
                    }
                }
            }
        }
        requests
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// The index leaves out only what Cedar would pass over.
        #[test]
        fn the_index_decides_as_all_policies_together(
            statements in prop::collection::vec(statement(), 1..10),
        ) {
            let policy = PolicyText::parse(&statements.concat()).expect("it is valid");
            let all = PolicySet::from_policies(
                policy.statements.iter().map(|statement| statement.policy.clone()),
            ).expect("names are unique");
            for request in requests() {
                let asked = request.asked();
                let decision = policy.ask(&asked, request.action);
                let answer =
                    Authorizer::new().is_authorized(&asked.request, &all, &asked.entities);
                let failed = answer.diagnostics().errors().count();
                prop_assert_eq!(decision.errors.len(), failed, "{:?}", request);
                let allowed = answer.decision() == Verdict::Allow && failed == 0;
                prop_assert_eq!(decision.allowed, allowed, "{:?} {:?}", request, decision);
                if failed == 0 {
                    let reasons = answer.diagnostics().reason();
                    let mut by: Vec<_> = reasons.map(ToString::to_string).collect();
                    by.sort();
                    prop_assert_eq!(decision.by, by, "{:?}", request);
                }
                // And explanations say the same of each policy.
                let explained = policy.explain(&request);
                if failed == 0 {
                    let named = if explained.forbids.is_empty() { explained.permits } else { explained.forbids };
                    let mut named: Vec<_> = named.into_iter().map(|named| named.policy).collect();
                    named.sort();
                    let answer = answer.diagnostics().reason();
                    let mut by: Vec<_> = answer.map(ToString::to_string).collect();
                    by.sort();
                    prop_assert_eq!(named, by, "{:?}", request);
                }
            }
        }
    }
}
