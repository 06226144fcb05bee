//! Claims about the end of a key: due by region time and by the witnesses' time, by a replica, once, and for good.

use kms_state::prepare::{self, Asked};
use proto::ids::UnixMs;
use proto::v1::{ChangeWitnesses, KeyState, KmsCommand, KmsRefusal};
use tlog::Kind;

use crate::lab::{DATASET, HOUR, Lab, approval};
use crate::witnesses::{one_witness, policy};

const WEEK: u64 = 7 * 24 * HOUR;

fn destroy(lab: &Lab, by: &str, witnessed_at: u64) -> KmsCommand {
    let version = lab.key().state_version;
    let (authority, asked) = (lab.authority(), lab.asked(by));
    prepare::destroy_kek(&authority, asked, &DATASET, version, UnixMs(witnessed_at))
}

fn pending() -> Lab {
    let mut lab = Lab::with_key();
    lab.bring_to(KeyState::PendingDestruction);
    lab
}

#[test]
fn a_replica_destroys_a_key_when_it_is_due_and_not_before() {
    let mut lab = pending();
    lab.wait(WEEK - 1);
    let early = destroy(&lab, "kms/r1", 0);
    assert_eq!(lab.refused(&early).0, KmsRefusal::WrongState);
    lab.wait(1);
    let due = destroy(&lab, "kms/r1", 0);
    lab.done(&due);
    let key = lab.key();
    assert_eq!(key.state(), KeyState::Destroyed);
    assert_eq!(key.destroy_after_ms, 0);
    let purged = |v: &proto::v1::KekVersionRecord| {
        v.wrapped_kek.is_empty() && v.wrapped_metadata_key.is_empty()
    };
    assert!(key.versions.iter().all(purged));
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyDestroyed);
    let moved = (KmsRefusal::KeyStateMoved, key.state_version);
    assert_eq!(lab.refused(&due), moved);
    let again = destroy(&lab, "kms/r1", 0);
    assert_eq!(lab.refused(&again).0, KmsRefusal::WrongState);
}

#[test]
fn nobody_but_a_replica_destroys_a_key_without_approvals() {
    let mut lab = pending();
    lab.wait(WEEK);
    for who in ["operator/o1", "gateway/g1", "node/n1", "kms/stranger"] {
        let command = destroy(&lab, who, 0);
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{who}");
    }
}

#[test]
fn a_key_whose_destruction_was_not_scheduled_or_was_cancelled_is_not_destroyed() {
    for state in [KeyState::Enabled, KeyState::Disabled, KeyState::Compromised] {
        let mut lab = Lab::with_key();
        lab.bring_to(state);
        lab.wait(WEEK);
        let command = destroy(&lab, "kms/r1", u64::MAX);
        assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState, "{state:?}");
    }
    let mut lab = pending();
    let late = destroy(&lab, "kms/r1", 0);
    let cancel = lab.change(KeyState::Disabled, 0, None).expect("granted");
    lab.done(&cancel);
    lab.wait(WEEK);
    assert_eq!(lab.refused(&late).0, KmsRefusal::KeyStateMoved);
    let command = destroy(&lab, "kms/r1", 0);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
}

#[test]
fn where_there_are_witnesses_the_time_they_state_is_past_due_too() {
    let mut lab = pending();
    let asked = Asked {
        approvals: vec![approval("operator/o2", 1), approval("operator/o3", 1)],
        ..lab.asked("operator/o1")
    };
    let change = ChangeWitnesses {
        policy: Some(policy(&one_witness())),
        ..ChangeWitnesses::default()
    };
    let command = prepare::change_witnesses(&lab.authority(), asked, change);
    lab.done(&command);
    let due = lab.key().destroy_after_ms;
    lab.wait(WEEK);
    for stated in [0, due - 1] {
        let command = destroy(&lab, "kms/r1", stated);
        assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState, "{stated}");
    }
    let command = destroy(&lab, "kms/r1", due);
    lab.done(&command);
    assert_eq!(lab.key().state(), KeyState::Destroyed);
}

#[test]
fn a_cancelled_destruction_leads_back_once_and_never_by_what_is_left_behind() {
    let cancels_to = |lab: &Lab, id| prepare::cancels_to(&lab.state, &lab.key(), &id);
    for before in [KeyState::Disabled, KeyState::Compromised] {
        let mut lab = Lab::with_key();
        lab.bring_to(before);
        assert_eq!(cancels_to(&lab, [1; 16]), None, "nothing is pending");
        let pending = lab.change(KeyState::PendingDestruction, 7, Some(9));
        lab.done(&pending.expect("granted"));
        assert_eq!(cancels_to(&lab, [1; 16]), Some(before));
        let cancel = lab.change_as([1; 16], before, 0, None).expect("granted");
        lab.done(&cancel);
        assert_eq!(lab.key().state(), before);
        assert_eq!(
            cancels_to(&lab, [1; 16]),
            Some(before),
            "its retry is known as one"
        );
        assert_eq!(
            cancels_to(&lab, [2; 16]),
            None,
            "another has nothing to cancel"
        );
    }
    // Enabled since: the state of before is still in the record, and leads nowhere.
    let mut lab = Lab::with_key();
    lab.bring_to(KeyState::PendingDestruction);
    for target in [KeyState::Disabled, KeyState::Enabled] {
        let change = lab.change(target, 0, None).expect("granted");
        lab.done(&change);
    }
    assert_eq!(lab.key().state_before_destruction(), KeyState::Disabled);
    assert_eq!(cancels_to(&lab, [2; 16]), None);
    for (target, days) in [(KeyState::Disabled, 0), (KeyState::PendingDestruction, 7)] {
        let change = lab.change(target, days, Some(9)).expect("granted");
        lab.done(&change);
    }
    lab.wait(WEEK);
    let due = destroy(&lab, "kms/r1", 0);
    lab.done(&due);
    assert_eq!(cancels_to(&lab, [2; 16]), None);
}
