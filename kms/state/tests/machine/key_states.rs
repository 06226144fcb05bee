//! Claims about KEKs: birth, versions, states.

use kms_state::prepare;
use kms_state::{KEK_VERSIONS_MAX, Refusal};
use proto::ids::{DatasetId, UnixMs};
use proto::v1::kms_command::Command;
use proto::v1::{KeyState, KmsCommand, KmsRefusal};
use tlog::{Field, Kind};

use crate::lab::{DATASET, HOUR, Lab, OTHER, START, claim, id, key_change, reason, version};

use KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};

#[test]
fn a_key_is_born_enabled_with_a_leaf_that_starts_its_chain() {
    let mut lab = Lab::new();
    let command = lab.create(DATASET, 1).expect("granted");
    let done = lab.done(&command);
    assert_eq!(
        (done.leaf_index, done.state_version, done.version),
        (1, 1, 1)
    );
    assert_eq!(done.authority_version, 1);
    let key = lab.key();
    assert_eq!(key.state(), Enabled);
    assert_eq!(
        (done.kek_id, done.pseudonym),
        (key.kek_id.clone(), key.pseudonym.clone())
    );
    assert_eq!(key.versions[0].created_at_ms, START);
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), Kind::KeyCreated);
    let link = leaf.dataset().expect("of a dataset");
    assert_eq!((link.sequence, link.previous), (0, None));
    assert_eq!(link.pseudonym.0.as_slice(), key.pseudonym);
    assert_eq!(shown.fields[&Field::Actor], id("gateway/g1").to_string());
    assert_eq!(shown.fields[&Field::RequestId], "01".repeat(16));
    assert!(shown.fields[&Field::Details].contains(&DATASET.to_string()));
    // What everyone sees names neither dataset nor key nor actor.
    let text = String::from_utf8(leaf.encode().expect("small")).expect("JSON");
    for hidden in [
        DATASET.to_string(),
        hex::encode(&key.kek_id),
        "gateway".to_owned(),
    ] {
        assert!(!text.contains(&hidden), "{hidden}");
    }
    let pseudonym = key.pseudonym[..].try_into().expect("16 bytes");
    assert_eq!(
        kms_state::pseudonym_owner(&lab.state, &pseudonym),
        Some(DATASET)
    );
}

#[test]
fn a_creation_retried_at_any_time_answers_as_it_did() {
    let mut lab = Lab::new();
    let command = lab.create(DATASET, 1).expect("granted");
    let first = lab.done(&command);
    lab.wait(20 * HOUR);
    let again = lab.create(DATASET, 1).expect("granted");
    let size = lab.size();
    assert_eq!(lab.done(&again), first);
    assert_eq!(lab.size(), size);
}

#[test]
fn a_dataset_has_one_key_and_ids_are_not_shared() {
    let mut lab = Lab::with_key();
    let command = lab.create(DATASET, 2).expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::KeyExists);
    for same in ["kek", "pseudonym"] {
        let mut command = lab.create(OTHER, 2).expect("granted");
        let Some(Command::CreateKek(create)) = &mut command.command else {
            panic!("a creation")
        };
        let key = lab.key();
        if same == "kek" {
            create.kek_id = key.kek_id
        } else {
            create.pseudonym = key.pseudonym
        }
        assert_eq!(lab.refused(&command).0, KmsRefusal::KeyExists, "{same}");
    }
    let command = lab.create(OTHER, 2).expect("granted");
    lab.done(&command);
    let found = kms_state::keys(&lab.state, None, 10);
    assert_eq!(found.len(), 2);
    let after = kms_state::keys(&lab.state, Some(&DATASET), 10);
    assert_eq!(after[0].dataset_id, OTHER.0.as_slice());
    assert_eq!(kms_state::keys(&lab.state, None, 1).len(), 1);
    assert!(kms_state::keys(&lab.state, Some(&OTHER), 10).is_empty());
}

fn create_bent(bend: impl FnOnce(&mut proto::v1::CreateKek)) -> KmsRefusal {
    let mut lab = Lab::new();
    let mut command = lab.create(DATASET, 1).expect("granted");
    let Some(Command::CreateKek(create)) = &mut command.command else {
        panic!("a creation")
    };
    bend(create);
    lab.refused(&command).0
}

#[test]
fn a_bare_key_in_a_wrapped_keys_place_is_refused() {
    for length in [0, 32, 64, 103, 513] {
        let kek = create_bent(|create| {
            create.version.as_mut().expect("there").wrapped_kek = vec![1; length].into();
        });
        let metadata = create_bent(|create| {
            create.version.as_mut().expect("there").wrapped_metadata_key = vec![1; length].into();
        });
        assert_eq!(
            (kek, metadata),
            (KmsRefusal::Malformed, KmsRefusal::Malformed),
            "{length}"
        );
    }
}

#[test]
fn a_malformed_creation_is_refused() {
    let bends: [fn(&mut proto::v1::CreateKek); 7] = [
        |create| create.kek_id = vec![1; 15].into(),
        |create| create.dataset_id = vec![1; 17].into(),
        |create| create.pseudonym.clear(),
        |create| create.request_id.clear(),
        |create| create.version = None,
        |create| create.version.as_mut().expect("there").version = 2,
        |create| create.claim = None,
    ];
    for bend in bends {
        assert_eq!(create_bent(bend), KmsRefusal::Malformed);
    }
    let someone_else = create_bent(|create| {
        create.claim.as_mut().expect("there").actor = id("gateway/g2").to_string();
    });
    assert_eq!(someone_else, KmsRefusal::Malformed);
    let other_root = create_bent(|create| create.version.as_mut().expect("there").root_epoch = 2);
    assert_eq!(other_root, KmsRefusal::RootMoved);
}

#[test]
fn a_rotation_adds_a_version_and_moves_the_state() {
    let mut lab = Lab::with_key();
    let command = lab.rotate().expect("granted");
    let done = lab.done(&command);
    assert_eq!((done.version, done.state_version), (2, 2));
    assert_eq!(lab.key().versions.len(), 2);
    assert_eq!(lab.key().min_version, 1);
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyRotated);
    let mut nameless = command;
    let Some(Command::RotateKek(rotate)) = &mut nameless.command else {
        panic!("a rotation")
    };
    rotate.request_id.clear();
    assert_eq!(lab.refused(&nameless), (KmsRefusal::KeyStateMoved, 2));
    let mut skipping = lab.rotate().expect("granted");
    let Some(Command::RotateKek(rotate)) = &mut skipping.command else {
        panic!("a rotation")
    };
    rotate.version = Some(version(4));
    assert_eq!(lab.refused(&skipping).0, KmsRefusal::Malformed);
}

#[test]
fn a_key_has_a_bounded_number_of_versions() {
    let mut lab = Lab::with_key();
    // Straight into the state: a thousand rotations under all invariants take long and show no more.
    let mut key = lab.key();
    key.versions = (1..=KEK_VERSIONS_MAX).map(version).collect();
    key.current_version = KEK_VERSIONS_MAX;
    let bytes = prost::Message::encode_to_vec(&key);
    proto::store::Writer::put(&mut lab.state, &kms_state::layout::kek(&DATASET), &bytes);
    let command = lab.rotate().expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
}

#[test]
fn states_lead_only_where_they_may() {
    let all = [
        Enabled,
        Disabled,
        Compromised,
        PendingDestruction,
        Destroyed,
    ];
    let allowed = [
        (Enabled, Disabled),
        (Enabled, Compromised),
        (Disabled, Enabled),
        (Disabled, Compromised),
        (Disabled, PendingDestruction),
        (Compromised, PendingDestruction),
        (PendingDestruction, Disabled),
        (PendingDestruction, Destroyed),
    ];
    for from in all {
        for to in all {
            let mut lab = Lab::with_key();
            lab.bring_to(from);
            assert_eq!(lab.key().state(), from);
            lab.wait(7 * 24 * HOUR);
            let days = if to == PendingDestruction { 7 } else { 0 };
            let answer = lab.change(to, days, Some(9));
            if allowed.contains(&(from, to)) {
                let before = lab.key().state_version;
                let done = lab.done(&answer.expect("allowed"));
                assert_eq!(done.state_version, before + 1);
                assert_eq!(lab.key().state(), to, "{from:?} to {to:?}");
            } else {
                assert_eq!(answer, Err(Refusal::WrongState), "{from:?} to {to:?}");
                // And apply refuses what a leader proposes all the same.
                let command = forced(&lab, to, days);
                assert_eq!(
                    lab.refused(&command).0,
                    KmsRefusal::WrongState,
                    "{from:?} to {to:?}"
                );
            }
        }
    }
}

fn forced(lab: &Lab, target: KeyState, destruction_days: u32) -> KmsCommand {
    let change = proto::v1::ChangeKeyState {
        dataset_id: DATASET.into(),
        state_version: lab.key().state_version,
        state: target.into(),
        claim: Some(proto::v1::Claim {
            actor: id("operator/o1").to_string(),
            ..claim("")
        }),
        destruction_days,
        request_id: bytes::Bytes::new(),
    };
    let mut command = prepare::confirm_shard(
        &lab.authority(),
        lab.approved("operator/o1", 8),
        &DATASET,
        0,
    );
    command.command = Some(Command::ChangeKeyState(change));
    command
}

#[test]
fn a_cancelled_destruction_does_not_launder_a_compromised_key() {
    let mut lab = Lab::with_key();
    lab.bring_to(Compromised);
    let command = lab
        .change(PendingDestruction, 30, Some(1))
        .expect("granted");
    lab.done(&command);
    for target in [Disabled, Enabled] {
        assert_eq!(
            lab.change(target, 0, None).map(|_| ()),
            Err(Refusal::WrongState)
        );
    }
    let command = lab
        .change(Compromised, 0, None)
        .expect("back to what it was");
    lab.done(&command);
    assert_eq!(lab.key().destroy_after_ms, 0);
}

#[test]
fn a_destruction_waits_seven_to_thirty_days_and_purges_every_version() {
    let mut lab = Lab::with_key();
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    lab.bring_to(Disabled);
    for days in [0, 6, 31] {
        let command = lab
            .change(PendingDestruction, days, Some(1))
            .expect("granted");
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed, "{days}");
    }
    let command = lab.change(PendingDestruction, 7, Some(1)).expect("granted");
    lab.done(&command);
    assert_eq!(lab.key().destroy_after_ms, lab.now + 7 * 24 * HOUR);
    lab.wait(7 * 24 * HOUR - 1);
    let command = lab.change(Destroyed, 0, Some(2)).expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
    lab.wait(1);
    let command = lab.change(Destroyed, 7, Some(2)).expect("granted");
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    let command = lab.change(Destroyed, 0, Some(2)).expect("granted");
    lab.done(&command);
    let versions = lab.key().versions;
    assert_eq!(versions.len(), 2);
    assert!(
        versions
            .iter()
            .all(|v| v.wrapped_kek.is_empty() && v.wrapped_metadata_key.is_empty())
    );
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyDestroyed);
}

#[test]
fn a_disabled_key_is_pending_until_its_shard_has_committed_it() {
    let mut lab = Lab::with_key();
    let confirm = |lab: &Lab, by: &str, state_version| {
        prepare::confirm_shard(&lab.authority(), lab.asked(by), &DATASET, state_version)
    };
    let register = |lab: &Lab, by: &str, shard| {
        prepare::register_shard(&lab.authority(), lab.asked(by), &DATASET, shard)
    };
    let info = |lab: &Lab| kms_state::key_info(&lab.state, &DATASET).expect("there");
    let command = confirm(&lab, "kms/r1", 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
    for command in [
        register(&lab, "node/n1", 16),
        register(&lab, "operator/o1", 16),
    ] {
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    }
    let command = register(&lab, "kms/r1", 0);
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    let command = register(&lab, "kms/r1", 16);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::ShardRegistered);
    let size = lab.size();
    lab.done(&command);
    assert_eq!(lab.size(), size, "the same again is no event");
    let command = register(&lab, "kms/r1", 17);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);

    lab.bring_to(Disabled);
    assert!(!info(&lab).shard_confirmed);
    let command = confirm(&lab, "kms/r1", 1);
    assert_eq!(lab.refused(&command), (KmsRefusal::KeyStateMoved, 2));
    let command = confirm(&lab, "gateway/g1", 2);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = confirm(&lab, "kms/r1", 2);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::KeyStateAcknowledged);
    assert!(info(&lab).shard_confirmed);
    let size = lab.size();
    lab.done(&command);
    assert_eq!(lab.size(), size);
    let command = lab.change(Enabled, 0, None).expect("granted");
    lab.done(&command);
    assert!(
        !info(&lab).shard_confirmed,
        "a new state is to be confirmed anew"
    );
}

#[test]
fn key_info_shows_no_wrapped_key_and_names_the_last_lease() {
    let mut lab = Lab::with_key();
    let lease = lab.lease(1, 1).expect("granted");
    assert_eq!(reason(&lab.record(lease)), KmsRefusal::Unspecified);
    let info = kms_state::key_info(&lab.state, &DATASET).expect("there");
    assert_eq!(UnixMs(info.latest_lease_expiry_ms), UnixMs(START + HOUR));
    let key = info.key.expect("there");
    assert_eq!(key.versions.len(), 1);
    let shown =
        |v: &proto::v1::KekVersionRecord| v.wrapped_kek.len() + v.wrapped_metadata_key.len();
    assert_eq!(key.versions.iter().map(shown).sum::<usize>(), 0);
    assert_eq!(kms_state::key_info(&lab.state, &OTHER), None);
}

#[test]
fn what_has_no_key_cannot_be_changed() {
    let mut lab = Lab::with_key();
    let nothing = DatasetId([1; 16]);
    let (authority, asked) = (lab.authority(), || lab.asked("operator/o1"));
    let rotated = prepare::rotate_kek(
        &lab.state,
        &authority,
        asked(),
        key_change(&nothing, [1; 16]),
        version(2),
    );
    assert_eq!(rotated.map(|_| ()), Err(Refusal::NoSuchKey));
    let target = (Disabled, 0);
    let changed = prepare::change_key_state(
        &lab.state,
        &authority,
        asked(),
        key_change(&nothing, [1; 16]),
        target,
    );
    assert_eq!(changed.map(|_| ()), Err(Refusal::NoSuchKey));
    let confirm = prepare::confirm_shard(&authority, lab.asked("kms/r1"), &nothing, 1);
    let register = prepare::register_shard(&authority, lab.asked("kms/r1"), &nothing, 16);
    for command in [confirm, register] {
        assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchKey);
    }
    let mut rotate = lab.rotate().expect("granted");
    let Some(Command::RotateKek(body)) = &mut rotate.command else {
        panic!("a rotation")
    };
    body.dataset_id = nothing.into();
    assert_eq!(lab.refused(&rotate).0, KmsRefusal::NoSuchKey);
}

#[test]
fn a_disabled_key_is_not_rotated() {
    let mut lab = Lab::with_key();
    let rotate = lab.rotate().expect("granted");
    lab.bring_to(Disabled);
    assert_eq!(lab.rotate().map(|_| ()), Err(Refusal::KeyDisabled));
    let mut forced = rotate;
    let Some(Command::RotateKek(body)) = &mut forced.command else {
        panic!("a rotation")
    };
    body.state_version = 2;
    assert_eq!(lab.refused(&forced).0, KmsRefusal::KeyDisabled);
}
