//! Claims about rotation by plan: what is counted, when it is due, that retired versions stay retired, and what it takes
//! to end one.

use kms_state::prepare::{self, Asked};
use kms_state::{RotationDue, rotation_due};
use proto::ids::UnixMs;
use proto::v1::{KekVersionRecord, KeyState, KmsCommand, KmsRefusal, RewrappedMetadataKey};
use tlog::Kind;

use crate::lab::{DATASET, HOUR, Lab, item, key_change};

fn plan_as(lab: &Lab, asked: Asked, id: u8, age: u64, uses: u64) -> KmsCommand {
    let change = key_change(&DATASET, [id; 16]);
    let planned =
        prepare::plan_key_rotation(&lab.state, &lab.authority(), asked, change, age, uses);
    planned.expect("granted")
}

fn plan(lab: &Lab, id: u8, age: u64, uses: u64) -> KmsCommand {
    plan_as(lab, lab.asked("operator/o1"), id, age, uses)
}

fn raise(lab: &Lab, id: u8, oldest: u32) -> KmsCommand {
    let (authority, asked) = (lab.authority(), lab.asked("operator/o1"));
    let change = key_change(&DATASET, [id; 16]);
    prepare::raise_min_version(&lab.state, &authority, asked, change, oldest).expect("granted")
}

fn due(lab: &Lab) -> Option<RotationDue> {
    rotation_due(&lab.key(), kms_state::region_time(&lab.state))
}

#[test]
fn a_key_without_a_plan_is_never_due_and_counts_nothing() {
    let mut lab = Lab::with_key();
    lab.record(lab.lease(1, 1).expect("granted"));
    lab.wait(20 * HOUR);
    assert_eq!(due(&lab), None);
    assert_eq!(lab.key().rotation, None);
}

#[test]
fn a_key_is_due_by_age_from_the_birth_of_its_newest_version() {
    let mut lab = Lab::with_key();
    lab.done(&plan(&lab, 1, 2 * HOUR, 0));
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyRotationPlanned);
    lab.wait(2 * HOUR - 1);
    assert_eq!(due(&lab), None);
    lab.wait(1);
    assert_eq!(due(&lab), Some(RotationDue::Age));
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    assert_eq!(due(&lab), None, "a new version is young");
    lab.wait(2 * HOUR);
    for state in [KeyState::Disabled, KeyState::PendingDestruction] {
        let mut lab = lab.clone();
        lab.bring_to(state);
        assert_eq!(due(&lab), None, "{state:?}");
    }
}

#[test]
fn leases_and_opened_versions_count_as_uses_until_the_next_rotation() {
    let mut lab = Lab::with_key();
    lab.done(&plan(&lab, 11, 0, 256));
    lab.record(lab.lease(1, 1).expect("granted"));
    lab.record(lab.metadata_lease(2, 2).expect("granted"));
    let open = lab.open_as("gateway/g1", 3, "", vec![item(1, 10); 200]);
    let open = open.expect("granted").record;
    lab.record(open.clone());
    let uses = |lab: &Lab| lab.key().rotation.unwrap_or_default().uses;
    assert_eq!(uses(&lab), 202);
    assert!(lab.record(open).reused);
    assert_eq!(uses(&lab), 202, "a retry is no use of its own");
    assert_eq!(due(&lab), None);
    let open = lab.open_as("gateway/g1", 4, "", vec![item(1, 10); 54]);
    lab.record(open.expect("granted").record);
    assert_eq!(due(&lab), Some(RotationDue::Use));
    // Another plan does not forget what was used.
    lab.done(&plan(&lab, 15, HOUR, 512));
    assert_eq!(uses(&lab), 256);
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    assert_eq!(uses(&lab), 0);
}

#[test]
fn a_plan_out_of_its_bounds_is_refused_and_a_retry_has_effect_once() {
    let mut lab = Lab::with_key();
    for (age, uses) in [(HOUR - 1, 0), (u64::MAX, 0), (0, 255), (0, u64::MAX)] {
        let command = plan(&lab, 1, age, uses);
        assert_eq!(
            lab.refused(&command).0,
            KmsRefusal::Malformed,
            "{age} {uses}"
        );
    }
    lab.done(&plan(&lab, 2, HOUR, 256));
    let version = lab.key().state_version;
    let (size, again) = (lab.size(), plan(&lab, 2, HOUR, 256));
    lab.done(&again);
    assert_eq!((lab.key().state_version, lab.size()), (version, size));
    let by_another = plan_as(&lab, lab.asked("operator/o2"), 2, HOUR, 256);
    assert_eq!(lab.refused(&by_another).0, KmsRefusal::RequestIdReused);
    lab.bring_to(KeyState::PendingDestruction);
    let late = plan(&lab, 3, 0, 0);
    assert_eq!(lab.refused(&late).0, KmsRefusal::WrongState);
}

#[test]
fn retired_versions_stay_retired() {
    let mut lab = Lab::with_key();
    for _ in 0..2 {
        let rotate = lab.rotate().expect("granted");
        lab.done(&rotate);
    }
    for oldest in [0, 1, 4] {
        let command = raise(&lab, 1, oldest);
        assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState, "{oldest}");
    }
    let first = raise(&lab, 2, 2);
    lab.done(&first);
    assert_eq!(lab.key().min_version, 2);
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyVersionsRetired);
    assert_eq!(lab.refused(&raise(&lab, 3, 2)).0, KmsRefusal::WrongState);
    lab.done(&raise(&lab, 4, 3));
    assert_eq!(lab.key().min_version, 3);
    // Decided before: refused, or answered as its retry.
    let version = lab.key().state_version;
    lab.done(&raise(&lab, 2, 2));
    assert_eq!(
        (lab.key().min_version, lab.key().state_version),
        (3, version)
    );
    lab.bring_to(KeyState::Destroyed);
    let late = raise(&lab, 5, 3);
    assert_eq!(lab.refused(&late).0, KmsRefusal::WrongState);
    assert_eq!(rotation_due(&lab.key(), UnixMs(u64::MAX)), None);
}

fn rewrapped(version: u32) -> RewrappedMetadataKey {
    RewrappedMetadataKey {
        version,
        wrapped_metadata_key: vec![0xDD; 150].into(),
    }
}

fn end_as(lab: &Lab, asked: Asked, id: u8, below: u32, keys: &[u32]) -> KmsCommand {
    let change = key_change(&DATASET, [id; 16]);
    let keys = keys.iter().copied().map(rewrapped).collect();
    let ended = prepare::end_kek_versions(&lab.state, &lab.authority(), asked, change, below, keys);
    ended.expect("granted")
}

fn end(lab: &Lab, id: u8, below: u32, keys: &[u32]) -> KmsCommand {
    end_as(lab, lab.approved("operator/o1", id), id, below, keys)
}

fn confirmed(lab: &mut Lab) {
    let version = lab.key().state_version;
    let command = prepare::confirm_shard(&lab.authority(), lab.asked("kms/r1"), &DATASET, version);
    lab.done(&command);
}

/// A key of so many versions, all but the newest retired, and the shard said so.
fn retired(versions: u32) -> Lab {
    let mut lab = Lab::with_key();
    let shard = prepare::register_shard(&lab.authority(), lab.asked("kms/r1"), &DATASET, 9);
    lab.done(&shard);
    for _ in 1..versions {
        let rotate = lab.rotate().expect("granted");
        lab.done(&rotate);
    }
    let raised = raise(&lab, 1, versions);
    lab.done(&raised);
    confirmed(&mut lab);
    lab
}

#[test]
fn an_ended_version_is_purged_and_its_metadata_key_stays_under_the_newest() {
    let mut lab = retired(3);
    let command = end(&lab, 2, 2, &[1]);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyVersionsEnded);
    assert_eq!(kms_state::oldest_living(&lab.key()), 2);
    confirmed(&mut lab);
    let command = end(&lab, 3, 3, &[2]);
    lab.done(&command);
    let key = lab.key();
    let held = |v: &KekVersionRecord| (v.wrapped_kek.is_empty(), v.wrapped_metadata_key.is_empty());
    let all: Vec<_> = key.versions.iter().map(held).collect();
    assert_eq!(all, [(true, false), (true, false), (false, false)]);
    let under: Vec<_> = key.versions.iter().map(kms_state::metadata_under).collect();
    assert_eq!(under, [3, 3, 3]);
    assert_eq!(kms_state::oldest_living(&key), 3);
    // And on with the next: what was under version 3 goes under version 4.
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    let raised = raise(&lab, 4, 4);
    lab.done(&raised);
    confirmed(&mut lab);
    let incomplete = end(&lab, 5, 4, &[3]);
    assert_eq!(lab.refused(&incomplete).0, KmsRefusal::Malformed);
    let command = end(&lab, 6, 4, &[1, 2, 3]);
    lab.done(&command);
    // Seen from the API: no keys, and which versions there still are.
    let info = kms_state::key_info(&lab.state, &DATASET).expect("a key");
    assert_eq!(info.oldest_version, 4);
}

#[test]
fn a_version_is_ended_by_two_others_once_the_shard_takes_no_commit_under_it() {
    let mut lab = retired(2);
    let alone = end_as(&lab, lab.asked("operator/o1"), 2, 2, &[1]);
    assert_eq!(lab.refused(&alone).0, KmsRefusal::TooFewApprovals);
    let own = end_as(&lab, lab.approved("operator/o2", 3), 3, 2, &[1]);
    let own = lab.refused(&own).0;
    assert!(matches!(
        own,
        KmsRefusal::SelfApproval | KmsRefusal::TooFewApprovals
    ));
    for below in [0, 1, 3] {
        let command = end(&lab, 4, below, &[1]);
        assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState, "{below}");
    }
    // What the shard has not confirmed, it may still take commits by.
    let planned = plan(&lab, 5, HOUR, 0);
    lab.done(&planned);
    let unconfirmed = end(&lab, 6, 2, &[1]);
    assert_eq!(lab.refused(&unconfirmed).0, KmsRefusal::WrongState);
    confirmed(&mut lab);
    for keys in [&[][..], &[2], &[1, 2], &[1, 1]] {
        let command = end(&lab, 7, 2, keys);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed, "{keys:?}");
    }
    let command = end(&lab, 8, 2, &[1]);
    lab.done(&command);
    let (version, size) = (lab.key().state_version, lab.size());
    lab.done(&command);
    assert_eq!((lab.key().state_version, lab.size()), (version, size));
    confirmed(&mut lab);
    let again = end(&lab, 9, 2, &[]);
    assert_eq!(lab.refused(&again).0, KmsRefusal::WrongState);
}

#[test]
fn a_key_in_the_clear_is_never_kept_for_an_ended_version() {
    let mut lab = retired(2);
    let keys = vec![RewrappedMetadataKey {
        version: 1,
        wrapped_metadata_key: vec![1; 32].into(),
    }];
    let change = key_change(&DATASET, [2; 16]);
    let asked = lab.approved("operator/o1", 2);
    let bare = prepare::end_kek_versions(&lab.state, &lab.authority(), asked, change, 2, keys);
    assert_eq!(
        lab.refused(&bare.expect("granted")).0,
        KmsRefusal::Malformed
    );
}
