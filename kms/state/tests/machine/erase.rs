//! Claims about what was ended and leaves the replicas' files: where wrapped keys stand, and who has said what.

use kms_state::{
    EraseDue, LEVEL_ERASE, WRAPPED_ROW_BYTES_MAX, erase_due, erased_through, layout, not_erased,
    prepare, wrapped_ranges,
};
use proto::ids::{FeatureLevel, LeafIndex, LogIndex, NodeId, UnixMs};
use proto::store::Reader as _;
use proto::v1::{KekRecord, KeyState, KmsCommand, KmsRefusal};
use tlog::{Field, Kind};

use crate::lab::{DATASET, HOUR, Lab, OTHER, key_change};

fn confirm(lab: &Lab, by: &str, leaf: u64) -> KmsCommand {
    prepare::confirm_erased(&lab.authority(), lab.asked(by), LeafIndex(leaf))
}

fn waited_for(lab: &Lab) -> Vec<String> {
    let names = not_erased(&lab.state, &lab.key());
    names.iter().map(|id| id.name().to_owned()).collect()
}

#[test]
fn a_destroyed_key_is_to_be_erased_and_every_replica_says_on_record_that_it_did() {
    let mut lab = Lab::with_key();
    assert_eq!(erase_due(&lab.state), None);
    let early = confirm(&lab, "kms/r1", 1);
    assert_eq!(lab.refused(&early).0, KmsRefusal::WrongState);
    lab.bring_to(KeyState::Destroyed);
    let (leaf, at) = (lab.size() - 1, lab.log.len() as u64);
    assert_eq!(lab.leaf(leaf).0.kind(), Kind::KeyDestroyed);
    let due = EraseDue {
        index: LogIndex(at),
        leaf: LeafIndex(leaf),
    };
    assert_eq!(erase_due(&lab.state), Some(due));
    assert_eq!(lab.key().ended_leaf, leaf);
    assert_eq!(waited_for(&lab), ["r1", "r2", "r3"]);

    for (by, refused) in [
        ("gateway/g1", KmsRefusal::NotEnrolled),
        ("operator/o1", KmsRefusal::NotEnrolled),
        ("kms/stranger", KmsRefusal::NotEnrolled),
    ] {
        let command = confirm(&lab, by, leaf);
        assert_eq!(lab.refused(&command).0, refused, "{by}");
    }
    for other in [0, leaf - 1, leaf + 1] {
        let command = confirm(&lab, "kms/r1", other);
        assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState, "{other}");
    }
    for (by, node_id, left) in [
        ("kms/r2", 2, vec!["r1", "r3"]),
        ("kms/r1", 1, vec!["r3"]),
        ("kms/r3", 3, vec![]),
    ] {
        let command = confirm(&lab, by, leaf);
        lab.done(&command);
        assert_eq!(waited_for(&lab), left);
        assert_eq!(erased_through(&lab.state, NodeId(node_id)).0, leaf);
        let (said, shown) = lab.last_leaf();
        assert_eq!(said.kind(), Kind::KeysErased);
        assert!(shown.fields[&Field::Actor].ends_with(by));
        let names: Vec<_> = left
            .iter()
            .map(|name| format!("\"spiffe://ch-zrh/kms/{name}\""))
            .collect();
        let details = format!(
            "{{\"node_id\":{node_id},\"through_leaf\":{leaf},\"waiting_for\":[{}]}}",
            names.join(",")
        );
        assert_eq!(shown.fields[&Field::Details], details);
        // Said twice, it is on record once.
        let size = lab.size();
        let again = confirm(&lab, by, leaf);
        lab.done(&again);
        assert_eq!(lab.size(), size);
    }
}

#[test]
fn what_is_ended_later_is_to_be_erased_again() {
    let mut lab = Lab::with_key();
    let other = lab.create(OTHER, 2).expect("granted");
    lab.done(&other);
    lab.bring_to(KeyState::Destroyed);
    let first = erase_due(&lab.state).expect("something ended");
    let said = confirm(&lab, "kms/r1", first.leaf.0);
    lab.done(&said);
    let mut state_version = 0;
    for state in [KeyState::Disabled, KeyState::PendingDestruction] {
        let key = kms_state::key(&lab.state, &OTHER).expect("there");
        state_version = key.state_version;
        let (authority, asked) = (
            lab.authority(),
            lab.approved("operator/o1", 40 + state as u8),
        );
        let request = [70 + state as u8; 16];
        let change = key_change(&OTHER, request);
        let days = if state == KeyState::Disabled { 0 } else { 7 };
        let command =
            prepare::change_key_state(&lab.state, &authority, asked, change, (state, days));
        lab.done(&command.expect("granted"));
    }
    lab.wait(7 * 24 * HOUR);
    let (authority, asked) = (lab.authority(), lab.asked("kms/r1"));
    let command = prepare::destroy_kek(&authority, asked, &OTHER, state_version + 1, UnixMs(0));
    lab.done(&command);
    let second = erase_due(&lab.state).expect("something ended");
    assert!(second.leaf > first.leaf && second.index > first.index);
    // Of the first key r1's word stands; of the second it has said nothing.
    assert_eq!(waited_for(&lab), ["r2", "r3"]);
    let late = confirm(&lab, "kms/r2", first.leaf.0);
    assert_eq!(lab.refused(&late).0, KmsRefusal::WrongState);
    let said = confirm(&lab, "kms/r2", second.leaf.0);
    lab.done(&said);
    assert_eq!(waited_for(&lab), ["r3"]);
}

/// Rows that may hold a wrapped key, with their tables.
fn rows(lab: &Lab) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for range in wrapped_ranges() {
        lab.state.scan(&range.start, &range.end, &mut |row, value| {
            rows.push((row.to_vec(), value.to_vec()));
            true
        });
    }
    rows
}

#[test]
fn no_long_row_holds_a_wrapped_key_and_a_use_writes_none_anew() {
    let mut lab = Lab::with_key();
    let wrapped = |key: &KekRecord| {
        let versions = key.versions.iter();
        versions
            .flat_map(|v| [v.wrapped_kek.clone(), v.wrapped_metadata_key.clone()])
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(&lab).len(), 1, "a short record is one row");
    for count in 2..=5_usize {
        let rotate = lab.rotate().expect("granted");
        lab.done(&rotate);
        let key = lab.key();
        assert_eq!(wrapped(&key).len(), 2 * count);
        assert!(wrapped(&key).iter().all(|wrapped| wrapped.len() == 150));
        for (row, value) in rows(&lab) {
            let holds = value
                .windows(150)
                .any(|at| at == [0xAA; 150] || at == [0xBB; 150]);
            assert!(!holds || value.len() <= WRAPPED_ROW_BYTES_MAX, "{row:?}");
        }
        assert_eq!(rows(&lab).len(), 1 + 2 * count);
    }
    let (before, keys) = (rows(&lab), wrapped(&lab.key()));
    let open = lab.open(1).expect("granted");
    lab.record(open);
    assert_eq!(wrapped(&lab.key()), keys);
    let after = rows(&lab);
    let both = before.iter().zip(&after);
    let differ: Vec<_> = both.filter(|(was, is)| was != is).collect();
    assert!(differ.len() == 1 && differ[0].1.0[0] == layout::KEKS);
    lab.bring_to(KeyState::Destroyed);
    assert_eq!(rows(&lab).len(), 1, "what was ended has no rows");
    assert!(wrapped(&lab.key()).iter().all(bytes::Bytes::is_empty));
}

#[test]
fn a_record_that_uses_make_longer_is_taken_apart_before_it_is_too_long() {
    for label in 0..=90 {
        let mut lab = Lab::with_key();
        let days = 24 * HOUR;
        let (authority, asked) = (lab.authority(), lab.asked("operator/o1"));
        let plan = prepare::plan_key_rotation(
            &lab.state,
            &authority,
            asked,
            key_change(&DATASET, [1; 16]),
            365 * days,
            0,
        );
        lab.done(&plan.expect("granted"));
        let labels = proto::v1::LabelKey {
            set_tags: vec![proto::v1::KeyTag {
                name: "a".into(),
                value: "v".repeat(label),
            }],
            ..Default::default()
        };
        let (authority, asked) = (lab.authority(), lab.asked("operator/o1"));
        let change = key_change(&DATASET, [2; 16]);
        let labelled = prepare::label_key(&lab.state, &authority, asked, change, labels);
        lab.done(&labelled.expect("granted"));
        // Uses count up; what they count is at its longest here.
        let row = layout::kek(&DATASET);
        let mut key: KekRecord =
            prost::Message::decode(lab.state.value(&row).expect("stored")).expect("a record");
        if !key.wrapped_apart {
            key.leaf_sequence = u64::MAX;
            key.rotation.as_mut().expect("planned").uses = u64::MAX;
            let bytes = prost::Message::encoded_len(&key);
            assert!(
                bytes <= WRAPPED_ROW_BYTES_MAX,
                "{bytes} with a tag of {label}"
            );
        }
        assert!(
            label < 90 || key.wrapped_apart,
            "the test reaches long records"
        );
    }
}

#[test]
fn below_its_level_records_stay_whole_and_nobody_is_waited_for() {
    let mut lab = Lab::with_key();
    lab.level = FeatureLevel(LEVEL_ERASE.0 - 1);
    for _ in 0..4 {
        let rotate = lab.rotate().expect("granted");
        lab.done(&rotate);
    }
    assert_eq!(rows(&lab).len(), 1);
    // From the level on the next change takes them apart.
    lab.level = LEVEL_ERASE;
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    assert_eq!(rows(&lab).len(), 13);
    lab.level = FeatureLevel(LEVEL_ERASE.0 - 1);
    lab.bring_to(KeyState::Destroyed);
    assert_eq!(erase_due(&lab.state), None);
    assert!(waited_for(&lab).is_empty());
}
