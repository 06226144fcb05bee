//! Claims about dual control: distinct others, once, in time.

use kms_state::prepare::{self, Asked};
use proto::v1::{
    ApprovalClaim, ChangeEnrolment, Claim, KeyState, KmsCommand, KmsRefusal, UnsealHow,
};

use crate::lab::{Lab, START, approval, enrolment, genesis, id, item, reason, region};

fn enrol(lab: &Lab, approvals: Vec<ApprovalClaim>) -> KmsCommand {
    let change = ChangeEnrolment {
        add: vec![enrolment("gateway/g9", 0)],
        ..ChangeEnrolment::default()
    };
    let asked = Asked {
        approvals,
        ..lab.asked("operator/o1")
    };
    prepare::change_enrolment(&lab.authority(), asked, change)
}

/// Red with `ignore_approvals`.
#[test]
fn dual_control_takes_two_distinct_others() {
    let mut lab = Lab::new();
    for approvals in [
        vec![],
        vec![approval("operator/o2", 1)],
        vec![approval("operator/o2", 1), approval("operator/o2", 1)],
    ] {
        let command = enrol(&lab, approvals);
        assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    }
    let command = enrol(
        &lab,
        vec![approval("operator/o2", 1), approval("operator/o3", 1)],
    );
    lab.done(&command);
    assert!(lab.authority().enrolment(&id("gateway/g9")).is_some());
}

#[test]
fn nobody_approves_their_own_request() {
    let mut lab = Lab::new();
    let three = ["operator/o1", "operator/o2", "operator/o3"]
        .map(|who| approval(who, 1))
        .to_vec();
    let command = enrol(&lab, three);
    assert_eq!(lab.refused(&command).0, KmsRefusal::SelfApproval);
}

#[test]
fn only_enrolled_operators_approve() {
    let mut lab = Lab::new();
    for other in ["gateway/g1", "custodian/c1", "operator/unknown", "kms/r1"] {
        let command = enrol(&lab, vec![approval("operator/o2", 1), approval(other, 1)]);
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{other}");
    }
}

#[test]
fn an_approval_expires_by_region_time() {
    let mut lab = Lab::new();
    let expiring = |expires_at_ms| {
        let mut late = approval("operator/o3", 1);
        late.expires_at_ms = expires_at_ms;
        vec![approval("operator/o2", 1), late]
    };
    let command = enrol(&lab, expiring(START));
    assert_eq!(lab.refused(&command).0, KmsRefusal::ApprovalExpired);
    let command = enrol(&lab, expiring(START + 1));
    lab.done(&command);
}

#[test]
fn approvals_serve_once_and_are_remembered_for_ever() {
    let mut lab = Lab::new();
    let command = enrol(
        &lab,
        vec![approval("operator/o2", 1), approval("operator/o3", 1)],
    );
    lab.done(&command);
    let remove = |lab: &Lab, id: u8, by: [&str; 2]| {
        let change = ChangeEnrolment {
            remove: vec![crate::lab::id("gateway/g9").to_string()],
            ..ChangeEnrolment::default()
        };
        let approvals = by.map(|who| approval(who, id)).to_vec();
        let asked = Asked {
            approvals,
            ..lab.asked("operator/o1")
        };
        prepare::change_enrolment(&lab.authority(), asked, change)
    };
    let replayed = remove(&lab, 1, ["operator/o2", "operator/o3"]);
    assert_eq!(lab.refused(&replayed).0, KmsRefusal::ApprovalReplayed);
    // Other approvers who also signed for the same id change nothing, a year later neither.
    lab.wait(300 * 24 * crate::lab::HOUR);
    let replayed = remove(&lab, 1, ["operator/o4", "operator/o3"]);
    assert_eq!(lab.refused(&replayed).0, KmsRefusal::ApprovalReplayed);
    let fresh = remove(&lab, 3, ["operator/o2", "operator/o3"]);
    lab.done(&fresh);
}

#[test]
fn approvals_are_of_one_request_and_complete() {
    let mut lab = Lab::new();
    let mixed = vec![approval("operator/o2", 1), approval("operator/o3", 2)];
    let mut short_id = vec![approval("operator/o2", 1), approval("operator/o3", 1)];
    short_id[1].single_use_id = vec![1; 15].into();
    let mut short_hash = vec![approval("operator/o2", 1), approval("operator/o3", 1)];
    short_hash[0].approval_hash = vec![1; 31].into();
    let mut nobody = vec![approval("operator/o2", 1), approval("operator/o3", 1)];
    nobody[0].approver = "o2".into();
    let many = vec![approval("operator/o2", 1); kms_state::APPROVALS_MAX + 1];
    for approvals in [mixed, short_id, short_hash, nobody, many] {
        let command = enrol(&lab, approvals);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
}

#[test]
fn fewer_than_two_approvers_does_not_parse() {
    for approvals_min in [0, 1] {
        let mut lab = Lab::pristine();
        let mut set = genesis();
        set.approvals_min = approvals_min;
        let command = prepare::init(lab.asked("kms/r1"), region(), &set);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
}

#[test]
fn more_approvers_than_two_are_needed_where_the_region_says_so() {
    let mut lab = Lab::pristine();
    let mut set = genesis();
    set.approvals_min = 3;
    let command = prepare::init(lab.asked("kms/r1"), region(), &set);
    lab.done(&command);
    let two = ["operator/o2", "operator/o3"]
        .map(|who| approval(who, 1))
        .to_vec();
    let command = enrol(&lab, two.clone());
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    let three = [two, vec![approval("operator/o4", 1)]].concat();
    let command = enrol(&lab, three);
    lab.done(&command);
}

#[test]
fn the_leaf_keeps_who_approved() {
    let mut lab = Lab::new();
    let command = enrol(
        &lab,
        vec![approval("operator/o2", 1), approval("operator/o3", 1)],
    );
    lab.done(&command);
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), tlog::Kind::EnrolmentChanged);
    let approvals = &shown.fields[&tlog::Field::Approvals];
    assert!(approvals.contains("operator/o2") && approvals.contains("operator/o3"));
    assert_eq!(
        shown.fields[&tlog::Field::Actor],
        id("operator/o1").to_string()
    );
}

#[test]
fn destroying_a_key_takes_dual_control_twice() {
    let mut lab = Lab::with_key();
    lab.bring_to(KeyState::Disabled);
    let command = lab
        .change(KeyState::PendingDestruction, 7, None)
        .expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    let command = lab
        .change(KeyState::PendingDestruction, 7, Some(1))
        .expect("granted");
    lab.done(&command);
    lab.wait(7 * 24 * crate::lab::HOUR);
    let command = lab.change(KeyState::Destroyed, 0, None).expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    let command = lab
        .change(KeyState::Destroyed, 0, Some(1))
        .expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::ApprovalReplayed);
    let command = lab
        .change(KeyState::Destroyed, 0, Some(2))
        .expect("granted");
    lab.done(&command);
}

#[test]
fn a_peer_unseal_takes_a_second_person() {
    let mut lab = Lab::new();
    let unseal = |lab: &Lab, asked| {
        let (authority, replica) = (lab.authority(), id("kms/r2"));
        prepare::record_unseal(&authority, asked, &replica, [4; 16], UnsealHow::Peer)
    };
    let command = unseal(&lab, lab.asked("kms/r2"));
    assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    let approvals = vec![approval("operator/o1", 1)];
    let command = unseal(
        &lab,
        Asked {
            approvals,
            ..lab.asked("kms/r2")
        },
    );
    lab.done(&command);
}

#[test]
fn a_persons_open_is_recorded_alone_and_with_approvals() {
    let mut lab = Lab::with_key();
    let prepared = lab
        .open_as("auditor/a1", 1, "investigation", vec![item(1, 5)])
        .expect("granted");
    assert_eq!(prepared.verdict.approvals_needed, 2);
    let record = prepared.record;
    let answer = lab.record(record.clone());
    assert_eq!(reason(&answer), KmsRefusal::TooFewApprovals);
    let other = lab.open(2).expect("granted");
    let answers = lab.records(vec![record.clone(), other]);
    assert_eq!(reason(&answers[0]), KmsRefusal::Malformed);
    assert_eq!(reason(&answers[1]), KmsRefusal::Unspecified);
    let asked = lab.approved("auditor/a1", 1);
    let command = prepare::batch(asked, 1, vec![record.clone()]);
    lab.apply(&command);
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.purpose().as_str(), "investigation");
    assert!(shown.fields.contains_key(&tlog::Field::Approvals));
    // A retry needs no second act of dual control: it is the same leaf.
    let size = lab.size();
    let answer = lab.record(record);
    assert!(answer.reused && lab.size() == size);
}

#[test]
fn what_changes_authority_is_asked_for_by_an_operator_in_its_own_name() {
    let mut lab = Lab::new();
    let change = || ChangeEnrolment {
        add: vec![enrolment("gateway/g9", 0)],
        claim: Some(Claim {
            actor: id("operator/o4").to_string(),
            ..Claim::default()
        }),
        ..ChangeEnrolment::default()
    };
    let asked = lab.approved("gateway/g1", 1);
    let command = prepare::change_enrolment(&lab.authority(), asked, change());
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let mut command =
        prepare::change_enrolment(&lab.authority(), lab.approved("operator/o1", 1), change());
    // The driver's claim names who was authenticated, whatever the caller wrote.
    command.requester = id("operator/o4").to_string();
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
}
