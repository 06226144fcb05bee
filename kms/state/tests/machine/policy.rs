//! Claims about the verdict: default deny, roles, purposes, and its binding to the versions it was given on.

use kms_state::prepare::{self, Asked};
use kms_state::{Denied, Question, Refusal, Verdict, may};
use proto::v1::{Action, ChangeGrants, ChangePolicy, KeyState, KmsCommand, KmsRefusal};
use tlog::{Field, Kind, Purpose};

use crate::lab::{DATASET, Lab, OTHER, grant, id, reason};

fn ask(lab: &Lab, who: &str, action: Action, purpose: &str) -> Result<Verdict, Denied> {
    let (principal, purpose) = (id(who), purpose.parse::<Purpose>().expect("a purpose"));
    may(
        &lab.state,
        Question {
            principal: &principal,
            dataset: &DATASET,
            action,
            purpose: &purpose,
        },
    )
}

#[test]
fn what_no_grant_covers_is_denied() {
    let lab = Lab::new();
    let allowed = Ok(Verdict {
        authority_version: 1,
        approvals_needed: 0,
    });
    assert_eq!(ask(&lab, "gateway/g1", Action::Read, "service"), allowed);
    assert_eq!(ask(&lab, "gateway/g1", Action::Read, "reseal"), allowed);
    assert_eq!(
        ask(&lab, "gateway/g1", Action::Read, "multipart"),
        Err(Denied::NoGrant)
    );
    // A role is not a grant.
    assert_eq!(
        ask(&lab, "client/s1", Action::Read, "service"),
        Err(Denied::NoGrant)
    );
    assert_eq!(
        ask(&lab, "gateway/nobody", Action::Read, "service"),
        Err(Denied::NotEnrolled)
    );
    let pristine = Lab::pristine();
    assert_eq!(
        ask(&pristine, "gateway/g1", Action::Read, "service"),
        Err(Denied::NotInitialised)
    );
}

#[test]
fn roles_bound_what_can_be_granted() {
    let lab = Lab::new();
    // Granted to the role all the same: an operator reads no customer data.
    for action in [Action::Read, Action::List, Action::Write] {
        for purpose in ["service", "investigation"] {
            let denied = ask(&lab, "operator/o1", action, purpose);
            assert_eq!(denied, Err(Denied::Role), "{action:?}");
        }
    }
    assert!(ask(&lab, "operator/o1", Action::Keys, "service").is_ok());
    assert_eq!(
        ask(&lab, "gateway/g1", Action::Keys, "service"),
        Err(Denied::Role)
    );
    for who in ["node/n1", "kms/r1", "custodian/c1"] {
        assert_eq!(
            ask(&lab, who, Action::Read, "service"),
            Err(Denied::Role),
            "{who}"
        );
    }
    assert_eq!(
        ask(&lab, "gateway/g1", Action::Unspecified, "service"),
        Err(Denied::Role)
    );
}

#[test]
fn a_machine_cannot_state_a_persons_purpose_and_a_person_needs_dual_control() {
    let mut lab = Lab::new();
    let add = vec![
        grant(
            "role:gateway",
            &[Action::Read],
            &["investigation", "third-party-request"],
        ),
        grant("role:client", &[Action::Read], &["investigation"]),
    ];
    let change = ChangeGrants {
        add,
        ..ChangeGrants::default()
    };
    let asked = lab.approved("operator/o1", 1);
    let command = prepare::change_grants(&lab.authority(), asked, change);
    lab.done(&command);
    for who in ["gateway/g1", "client/s1"] {
        assert_eq!(
            ask(&lab, who, Action::Read, "investigation"),
            Err(Denied::Role),
            "{who}"
        );
    }
    assert_eq!(
        ask(&lab, "gateway/g1", Action::Read, "third-party-request"),
        Err(Denied::Role)
    );
    let verdict = ask(&lab, "auditor/a1", Action::Read, "investigation").expect("granted");
    assert_eq!(verdict.approvals_needed, 2);
    assert_eq!(
        ask(&lab, "auditor/a1", Action::Read, "service"),
        Err(Denied::Role)
    );
}

#[test]
fn apply_holds_purposes_to_roles_even_where_a_leader_did_not() {
    let mut lab = Lab::with_key();
    let mut record = lab.open(1).expect("granted");
    record.claim.as_mut().expect("there").purpose = "investigation".into();
    let answer = lab.record(record.clone());
    assert_eq!(reason(&answer), KmsRefusal::NotGranted);
    let claim = record.claim.as_mut().expect("there");
    claim.purpose = String::new();
    for who in [
        "operator/o1",
        "node/n1",
        "kms/r1",
        "custodian/c1",
        "auditor/a1",
    ] {
        record.claim.as_mut().expect("there").actor = id(who).to_string();
        let answer = lab.record(record.clone());
        assert_eq!(reason(&answer), KmsRefusal::NotGranted, "{who}");
    }
    record.claim.as_mut().expect("there").actor = "spiffe://de-fra/gateway/g1".into();
    assert_eq!(reason(&lab.record(record)), KmsRefusal::WrongJurisdiction);
}

#[test]
fn a_grant_of_one_dataset_is_none_of_another() {
    let mut lab = Lab::new();
    let mut only = grant(&id("client/s1").to_string(), &[Action::Read], &[]);
    only.dataset = OTHER.to_string();
    let change = ChangeGrants {
        add: vec![only],
        ..ChangeGrants::default()
    };
    let command = prepare::change_grants(&lab.authority(), lab.approved("operator/o1", 1), change);
    lab.done(&command);
    assert_eq!(
        ask(&lab, "client/s1", Action::Read, "service"),
        Err(Denied::NoGrant)
    );
    let (principal, purpose) = (id("client/s1"), Purpose::service());
    let other = |action| Question {
        principal: &principal,
        dataset: &OTHER,
        action,
        purpose: &purpose,
    };
    assert!(may(&lab.state, other(Action::Read)).is_ok());
    assert_eq!(may(&lab.state, other(Action::Write)), Err(Denied::NoGrant));
}

#[test]
fn the_leader_refuses_before_it_proposes() {
    let lab = Lab::with_key();
    let denied = lab.open_as("client/s1", 1, "", Vec::new());
    assert_eq!(denied.map(|_| ()), Err(Refusal::NotGranted));
    let denied = lab.open_as("gateway/none", 1, "", Vec::new());
    assert_eq!(denied.map(|_| ()), Err(Refusal::NotEnrolled));
    let denied = lab.open_as("gateway/g1", 1, "Not A Purpose", Vec::new());
    assert_eq!(denied.map(|_| ()), Err(Refusal::Malformed("purpose")));
}

/// The leader decides, apply holds it to that: an identity that was removed, or a key that was disabled, in
/// between gets nothing. Red with `unbound_verdict`.
#[test]
fn a_verdict_is_bound_to_the_versions_it_was_given_on() {
    let mut lab = Lab::with_key();
    let (open, lease) = (
        lab.open(1).expect("granted"),
        lab.lease(2, 2).expect("granted"),
    );
    let stale_batch = prepare::batch(lab.asked("kms/r1"), 1, vec![open.clone()]);
    let stale_create = lab.create(OTHER, 9).expect("granted");

    let stale_rotate = lab.rotate_as(&DATASET, [9; 16]).expect("granted");

    // The key moved.
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    for record in [open, lease] {
        assert_eq!(reason(&lab.record(record)), KmsRefusal::KeyStateMoved);
    }
    assert_eq!(lab.refused(&stale_rotate), (KmsRefusal::KeyStateMoved, 2));

    // The authority moved.
    let remove = vec![grant(
        "role:gateway",
        &[Action::Create, Action::List, Action::Read, Action::Write],
        &["service", "reseal"],
    )];
    let change = ChangeGrants {
        remove,
        ..ChangeGrants::default()
    };
    let command = prepare::change_grants(&lab.authority(), lab.approved("operator/o1", 1), change);
    assert_eq!(lab.done(&command).authority_version, 2);
    assert_eq!(lab.refused(&stale_batch), (KmsRefusal::AuthorityMoved, 2));
    assert_eq!(lab.refused(&stale_create), (KmsRefusal::AuthorityMoved, 2));
    assert_eq!(lab.open(3), Err(Refusal::NotGranted));
}

#[test]
fn an_open_decided_before_a_key_was_disabled_is_refused_after() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    lab.bring_to(KeyState::Disabled);
    assert_ne!(reason(&lab.record(open)), KmsRefusal::Unspecified);
    assert_eq!(lab.open(2), Err(Refusal::KeyDisabled));
}

fn text(lab: &Lab, text: &str, asked: Asked) -> KmsCommand {
    let change = ChangePolicy {
        text: text.to_owned(),
        claim: None,
    };
    prepare::change_policy(&lab.authority(), asked, change)
}

/// Red with `ignore_approvals`.
#[test]
fn a_policy_text_takes_dual_control_and_goes_on_record() {
    let mut lab = Lab::new();
    let one = lab.asked("operator/o1");
    let command = text(&lab, "// none", one);
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    let long = "/".repeat(kms_state::TEXT_BYTES_MAX + 1);
    for bad in ["", " \n", &long] {
        let command = text(&lab, bad, lab.approved("operator/o1", 1));
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
    let command = text(&lab, "// none", lab.approved("operator/o1", 1));
    let done = lab.done(&command);
    assert_eq!(done.authority_version, 2, "verdicts are bound to it");
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), Kind::PolicyChanged);
    let digest = hex::encode(tlog::sha256(&[b"// none"]).0);
    let details = &shown.fields[&Field::Details];
    assert!(details.contains(&digest), "{details}");
    assert!(details.contains("\"grants_ended\":3"), "{details}");
}

/// What was decided on another text, or on grants, has no effect. Red with `unbound_verdict`.
#[test]
fn with_the_first_text_grants_end_and_verdicts_on_them_are_refused() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    let decided = prepare::batch(lab.asked("kms/r1"), 1, vec![open]);
    let command = text(&lab, "// one", lab.approved("operator/o1", 1));
    lab.done(&command);
    assert_eq!(lab.refused(&decided), (KmsRefusal::AuthorityMoved, 2));
    assert_eq!(lab.authority().policy_text(), Some("// one"));
    assert!(lab.authority().set().grants.is_empty());
    // The text is the driver's to ask: the state itself allows nothing any more.
    assert_eq!(
        ask(&lab, "gateway/g1", Action::Read, "service"),
        Err(Denied::NoGrant)
    );
    let change = ChangeGrants {
        add: vec![grant("role:client", &[Action::Read], &[])],
        ..ChangeGrants::default()
    };
    let command = prepare::change_grants(&lab.authority(), lab.approved("operator/o1", 2), change);
    assert_eq!(lab.refused(&command).0, KmsRefusal::PolicyRules);
    let command = text(&lab, "// two", lab.approved("operator/o1", 2));
    assert_eq!(lab.done(&command).authority_version, 3);
}
