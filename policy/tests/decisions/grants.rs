//! Grants and their Cedar text decide the same: asked of the state machine's own evaluation.

use std::collections::BTreeSet;

use kms_state::{Authority, Question};
use policy::{Action, GrantsError, PolicyText, Request};
use proptest::prelude::*;
use prost::Message as _;
use proto::ids::{DatasetId, Identity, Role};
use proto::v1::{self, Enrolment, EnrolmentSet, Grant};

use super::{parse, request};

const SPKI: [u8; 12] = [
    0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The authority of a region in which these are enrolled.
pub(crate) fn authority(identities: &BTreeSet<Identity>, mut grants: Vec<Grant>) -> Authority {
    let mut enrolments: Vec<_> = identities
        .iter()
        .filter(|identity| identity.role() != Role::Service)
        .enumerate()
        .map(|(at, identity)| {
            let at = u8::try_from(at + 1).unwrap();
            let member = matches!(identity.role(), Role::Node | Role::Kms);
            let custodian = identity.role() == Role::Custodian;
            Enrolment {
                identity: identity.to_string(),
                public_key: [&SPKI[..], &[at; 32]].concat().into(),
                node_id: if member { u64::from(at) } else { 0 },
                endpoint: String::new(),
                jurisdiction: "CH".to_owned(),
                hpke_public_key: if custodian {
                    vec![1].into()
                } else {
                    Vec::new().into()
                },
            }
        })
        .collect();
    enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    grants.sort_by_key(Grant::encode_to_vec);
    grants.dedup();
    Authority::parse(EnrolmentSet {
        format: 1,
        region: "ch-zrh".to_owned(),
        jurisdiction: "CH".to_owned(),
        version: 1,
        ca_certificate: vec![1].into(),
        enrolments,
        signed_at_ms: 1,
        grants,
        approvals_min: 2,
        policy: String::new(),
        service_principals: identities
            .iter()
            .filter(|identity| identity.role() == Role::Service)
            .map(ToString::to_string)
            .collect(),
        trusted_regions: Vec::new(),
        descriptor: None,
    })
    .unwrap()
}

pub(crate) fn may(authority: &Authority, asked: &Request) -> bool {
    let action = match asked.action {
        Action::Create => v1::Action::Create,
        Action::List => v1::Action::List,
        Action::Read => v1::Action::Read,
        Action::Write => v1::Action::Write,
        Action::Keys => v1::Action::Keys,
    };
    let question = Question {
        principal: &asked.principal,
        dataset: asked.dataset.as_ref().unwrap(),
        action,
        purpose: &asked.purpose,
    };
    authority.may(question).is_ok()
}

const PURPOSES: [&str; 6] = [
    "service",
    "multipart",
    "investigation",
    "support",
    "a",
    "b-2",
];

/// Roles that use keys more often than those that may not, or hardly a request would be allowed.
const ROLES: [Role; 8] = [
    Role::Client,
    Role::Client,
    Role::Client,
    Role::Gateway,
    Role::Service,
    Role::Auditor,
    Role::Operator,
    Role::Kms,
];

fn identity() -> impl Strategy<Value = Identity> {
    (0..ROLES.len(), 0..2_u8).prop_map(|(role, name)| {
        Identity::new("ch-zrh".parse().unwrap(), ROLES[role], &format!("n{name}")).unwrap()
    })
}

fn dataset() -> impl Strategy<Value = DatasetId> {
    (0..2_u8).prop_map(|at| DatasetId([at; 16]))
}

fn grant() -> impl Strategy<Value = Grant> {
    let principal = prop_oneof![
        identity().prop_map(|identity| identity.to_string()),
        identity().prop_map(|identity| format!("role:{}", identity.role().as_str())),
    ];
    let dataset = prop_oneof![
        Just("*".to_owned()),
        dataset().prop_map(|dataset| dataset.to_string()),
    ];
    let actions = prop::collection::vec(1..=5_i32, 1..5);
    let purposes = prop::collection::vec(0..PURPOSES.len(), 0..4);
    (principal, dataset, actions, purposes).prop_map(|(principal, dataset, actions, purposes)| {
        let purposes = purposes.into_iter().map(|at| PURPOSES[at].to_owned());
        Grant {
            principal,
            dataset,
            actions,
            purposes: purposes.collect(),
        }
    })
}

fn asked() -> impl Strategy<Value = Request> {
    let action = (0..Action::ALL.len()).prop_map(|at| Action::ALL[at]);
    let purpose = (0..PURPOSES.len()).prop_map(|at| PURPOSES[at].parse().unwrap());
    (identity(), dataset(), action, purpose).prop_map(|(principal, dataset, action, purpose)| {
        Request {
            principal,
            dataset: Some(dataset),
            action,
            purpose,
            ..request()
        }
    })
}

proptest! {
    #[test]
    fn grants_and_their_text_decide_the_same(
        grants in prop::collection::vec(grant(), 0..12),
        requests in prop::collection::vec(asked(), 40),
    ) {
        let policy = parse(PolicyText::from_grants(&grants).unwrap().as_str());
        let identities = requests.iter().map(|asked| asked.principal.clone()).collect();
        let authority = authority(&identities, grants);
        for asked in &requests {
            let decision = policy.decide(asked);
            prop_assert_eq!(decision.allowed, may(&authority, asked), "{:?}: {:?}", asked, decision);
        }
    }
}

/// Without both answers the property would hold of a policy that says no to everything.
#[test]
fn the_property_meets_both_answers() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut yes, mut no) = (0, 0);
    for _ in 0..50 {
        let grants = prop::collection::vec(grant(), 6..12)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let policy = parse(PolicyText::from_grants(&grants).unwrap().as_str());
        for _ in 0..40 {
            let asked = asked().new_tree(&mut runner).unwrap().current();
            if policy.decide(&asked).allowed {
                yes += 1
            } else {
                no += 1
            }
        }
    }
    assert!(yes > 50 && no > 50, "{yes} yes, {no} no");
}

/// A grant without purposes is for `service` alone, a grant on one dataset not for the region.
#[test]
fn the_text_of_a_grant_reads_as_it_means() {
    let grants = [Grant {
        principal: "role:client".to_owned(),
        dataset: "*".to_owned(),
        actions: vec![3, 2, 3],
        purposes: Vec::new(),
    }];
    let text = PolicyText::from_grants(&grants).unwrap();
    let permit = "@id(\"grant-0\")\npermit (principal in Role::\"client\", action in \
                  [Action::\"list\", Action::\"read\"], resource)\n\
                  when { [\"service\"].contains(context.purpose) };\n";
    assert!(text.as_str().ends_with(permit), "{}", text.as_str());
}

#[test]
fn what_the_kms_refuses_as_a_grant_makes_no_text() {
    let good = Grant {
        principal: "role:client".to_owned(),
        dataset: "01010101010101010101010101010101".to_owned(),
        actions: vec![3],
        purposes: vec!["service".to_owned()],
    };
    assert!(PolicyText::from_grants(std::slice::from_ref(&good)).is_ok());
    let bad = [
        (
            "principal",
            Grant {
                principal: "role:client\", x".to_owned(),
                ..good.clone()
            },
        ),
        (
            "principal",
            Grant {
                principal: "spiffe://ch-zrh/client/\"".to_owned(),
                ..good.clone()
            },
        ),
        (
            "dataset",
            Grant {
                dataset: "0101010101010101010101010101010A".to_owned(),
                ..good.clone()
            },
        ),
        (
            "action",
            Grant {
                actions: vec![0],
                ..good.clone()
            },
        ),
        (
            "action",
            Grant {
                actions: vec![6],
                ..good.clone()
            },
        ),
        (
            "actions",
            Grant {
                actions: Vec::new(),
                ..good.clone()
            },
        ),
        (
            "purpose",
            Grant {
                purposes: vec!["a\"b".to_owned()],
                ..good.clone()
            },
        ),
    ];
    for (what, grant) in bad {
        let found = PolicyText::from_grants(&[good.clone(), grant]);
        assert_eq!(found, Err(GrantsError::Grant { at: 1, what }));
    }
    let many = vec![good; policy::POLICIES_MAX + 1];
    assert_eq!(PolicyText::from_grants(&many), Err(GrantsError::TooMany));
}
