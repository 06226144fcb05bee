//! Claims about changes of a key that are sent again: each has effect once.
//!
//! A try is prepared on the state as it stands, as a leader does that knows nothing of the one before it.

use kms_state::{CHANGE_REMEMBERED_MS, USABLE_MS, layout};
use proto::store::Reader;
use proto::v1::kms_command::Command;
use proto::v1::{KeyState, KmsCommand, KmsRefusal};
use tlog::Field;

use crate::lab::{DATASET, HOUR, Lab, OTHER, id, reason};

use KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};

const REQUEST: [u8; 16] = [0xAB; 16];

fn rotate(lab: &Lab) -> KmsCommand {
    lab.rotate_as(&DATASET, REQUEST).expect("granted")
}

#[test]
fn a_retried_rotation_has_effect_once() {
    let mut lab = Lab::with_key();
    let first = rotate(&lab);
    let done = lab.done(&first);
    assert_eq!((done.version, done.leaf_index), (2, 2));
    assert_eq!(
        lab.last_leaf().1.fields[&Field::RequestId],
        hex::encode(REQUEST)
    );
    let (size, key) = (lab.size(), lab.key());
    // A try on the new state, with a new key in it; and the first entry itself a second time.
    let anew = rotate(&lab);
    for again in [anew, first] {
        assert_eq!(lab.done(&again), done);
        assert_eq!((lab.size(), lab.key()), (size, key.clone()));
    }
    let another = lab.rotate_as(&DATASET, [0xAC; 16]).expect("granted");
    assert_eq!(lab.done(&another).version, 3);
    assert_eq!(lab.size(), size + 1);
}

#[test]
fn a_retried_change_of_state_undoes_nothing_that_came_after_it() {
    let mut lab = Lab::with_key();
    let disable = |lab: &Lab| lab.change_as(REQUEST, Disabled, 0, None).expect("granted");
    let first = disable(&lab);
    let done = lab.done(&first);
    let again = disable(&lab);
    assert_eq!(lab.done(&again), done);
    let enable = lab.change(Enabled, 0, None).expect("granted");
    lab.done(&enable);
    let size = lab.size();
    let late = disable(&lab);
    assert_eq!(lab.done(&late).leaf_index, done.leaf_index);
    assert_eq!((lab.key().state(), lab.size()), (Enabled, size));
}

/// What the first try did, or what came after it, is no reason to refuse the retry.
#[test]
fn a_retry_is_answered_whatever_became_of_the_key() {
    let mut lab = Lab::with_key();
    let first = rotate(&lab);
    let done = lab.done(&first);
    lab.bring_to(Disabled);
    let again = rotate(&lab);
    assert_eq!(lab.done(&again).leaf_index, done.leaf_index);

    let mut lab = Lab::with_key();
    lab.bring_to(Compromised);
    let destroy = |lab: &Lab| lab.change_as(REQUEST, PendingDestruction, 7, Some(1));
    let first = destroy(&lab).expect("granted");
    let done = lab.done(&first);
    let after = lab.key().destroy_after_ms;
    lab.now += 1_000;
    let again = destroy(&lab).expect("granted");
    assert_eq!(lab.done(&again), done);
    assert_eq!(lab.key().destroy_after_ms, after);
}

#[test]
fn the_id_of_a_change_is_bound_to_it() {
    let mut lab = Lab::with_key();
    let other = lab.create(OTHER, 2).expect("granted");
    lab.done(&other);
    let first = rotate(&lab);
    lab.done(&first);
    let mut claimed = rotate(&lab);
    let Some(Command::RotateKek(body)) = &mut claimed.command else {
        panic!("a rotation")
    };
    body.claim.as_mut().expect("there").case_id = "another".to_owned();
    let mut asked = rotate(&lab);
    asked.requester = id("operator/o2").to_string();
    let others = [
        lab.rotate_as(&OTHER, REQUEST).expect("granted"),
        lab.change_as(REQUEST, Disabled, 0, None).expect("granted"),
        claimed,
        asked,
    ];
    for other in others {
        assert_eq!(lab.refused(&other).0, KmsRefusal::RequestIdReused);
    }
    // Uses of keys and changes of keys share one memory.
    let mut open = lab.open(1).expect("granted");
    open.request_id = REQUEST.to_vec().into();
    assert_eq!(reason(&lab.record(open)), KmsRefusal::RequestIdReused);
    let open = lab.open(2).expect("granted");
    assert_eq!(reason(&lab.record(open)), KmsRefusal::Unspecified);
    let taken = lab.rotate_as(&DATASET, [2; 16]).expect("granted");
    assert_eq!(lab.refused(&taken).0, KmsRefusal::RequestIdReused);
}

#[test]
fn a_refused_change_leaves_its_id_free() {
    let mut lab = Lab::with_key();
    let mut behind = rotate(&lab);
    let Some(Command::RotateKek(body)) = &mut behind.command else {
        panic!("a rotation")
    };
    body.state_version += 1;
    assert_eq!(lab.refused(&behind).0, KmsRefusal::KeyStateMoved);
    let anew = rotate(&lab);
    assert_eq!(lab.done(&anew).version, 2);
}

#[test]
fn a_change_is_remembered_for_an_hour_and_then_forgotten() {
    let mut lab = Lab::with_key();
    let first = rotate(&lab);
    lab.done(&first);
    lab.wait(USABLE_MS);
    lab.wait(CHANGE_REMEMBERED_MS - USABLE_MS - 1);
    let again = rotate(&lab);
    assert_eq!(lab.done(&again).version, 2);
    lab.wait(1);
    assert!(lab.state.value(&layout::request(&REQUEST)).is_none());
    let late = rotate(&lab);
    assert_eq!(lab.done(&late).version, 3);
    lab.wait(HOUR - 1);
    let again = rotate(&lab);
    assert_eq!(lab.done(&again).version, 3);
}

#[test]
fn a_change_without_an_id_is_not_remembered_and_one_with_half_an_id_is_refused() {
    let mut lab = Lab::with_key();
    let bent = |lab: &Lab, id: &'static [u8]| {
        let mut command = rotate(lab);
        let Some(Command::RotateKek(body)) = &mut command.command else {
            panic!("a rotation")
        };
        body.request_id = id.into();
        command
    };
    for version in [2, 3] {
        let command = bent(&lab, &[]);
        assert_eq!(lab.done(&command).version, version);
    }
    let half = bent(&lab, &[1; 15]);
    assert_eq!(lab.refused(&half).0, KmsRefusal::Malformed);
    let mut half = lab.change(Disabled, 0, None).expect("granted");
    let Some(Command::ChangeKeyState(body)) = &mut half.command else {
        panic!("a change of state")
    };
    body.request_id = vec![1; 17].into();
    assert_eq!(lab.refused(&half).0, KmsRefusal::Malformed);
    lab.bring_to(Destroyed);
}
