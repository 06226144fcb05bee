use std::collections::BTreeSet;

use policy::{Action, Request, Why, role_may};
use proto::ids::{Identity, Role};
use tlog::Purpose;

use super::{grants, parse, request};

const EVERYTHING: &str = "permit (principal, action, resource);";

fn purposes() -> Vec<Purpose> {
    let everyday = ["service", "multipart", "relocation", "anything-else"];
    policy::HUMAN_PURPOSES
        .iter()
        .chain(&everyday)
        .map(|text| text.parse().unwrap())
        .collect()
}

fn of_role(role: Role) -> Identity {
    Identity::new("ch-zrh".parse().unwrap(), role, "any").unwrap()
}

/// Decision 0008 word for word, with a text that permits everything.
#[test]
fn no_policy_widens_what_a_role_may() {
    let policy = parse(EVERYTHING);
    let allowed = |role, action, purpose: &Purpose| {
        let asked = Request {
            principal: of_role(role),
            action,
            purpose: purpose.clone(),
            ..request()
        };
        let decision = policy.decide(&asked);
        assert_eq!(decision.why == Why::Permitted, decision.allowed);
        assert!(decision.allowed || decision.why == Why::RoleBound);
        decision.allowed
    };
    for purpose in purposes() {
        let human = policy::is_human(&purpose);
        for action in Action::ALL {
            for role in [Role::Node, Role::Kms, Role::Custodian] {
                assert!(!allowed(role, action, &purpose), "{role:?} uses no keys");
            }
            let operator = !human && matches!(action, Action::Create | Action::Keys);
            assert_eq!(
                allowed(Role::Operator, action, &purpose),
                operator,
                "{action} {purpose}"
            );
            let gateway = !human && action != Action::Keys;
            assert_eq!(
                allowed(Role::Gateway, action, &purpose),
                gateway,
                "{action} {purpose}"
            );
            assert_eq!(
                allowed(Role::Service, action, &purpose),
                gateway,
                "{action} {purpose}"
            );
            assert_eq!(
                allowed(Role::Client, action, &purpose),
                !human,
                "{action} {purpose}"
            );
            let auditor = (human && action == Action::Read) || (!human && action == Action::List);
            assert_eq!(
                allowed(Role::Auditor, action, &purpose),
                auditor,
                "{action} {purpose}"
            );
        }
    }
}

/// The bounds stand in `kms-state` too, which imports no policy engine. They must not part.
#[test]
fn the_bounds_are_those_of_the_state_machine() {
    let grants: Vec<_> = Role::ALL
        .map(|role| proto::v1::Grant {
            principal: format!("role:{}", role.as_str()),
            dataset: "*".to_owned(),
            actions: vec![1, 2, 3, 4, 5],
            purposes: purposes().iter().map(ToString::to_string).collect(),
        })
        .into();
    let identities: BTreeSet<_> = Role::ALL.map(of_role).into();
    let authority = grants::authority(&identities, grants);
    for role in Role::ALL {
        for purpose in purposes() {
            for action in Action::ALL {
                let asked = Request {
                    principal: of_role(role),
                    action,
                    purpose: purpose.clone(),
                    ..request()
                };
                let theirs = grants::may(&authority, &asked);
                assert_eq!(
                    role_may(role, action, &purpose),
                    theirs,
                    "{role:?} {action} {purpose}"
                );
                assert_eq!(
                    policy::is_human(&purpose),
                    kms_state::is_human_purpose(&purpose)
                );
            }
        }
    }
}

/// One text fits one command of the KMS, as both see it.
#[test]
fn the_state_takes_texts_as_long_as_the_parser_does() {
    assert_eq!(policy::TEXT_BYTES_MAX, kms_state::TEXT_BYTES_MAX);
}
