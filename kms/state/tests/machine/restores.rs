//! Restores of datasets from a backup: who may say so, of what, and what is on record of it.

use bytes::Bytes;
use kms_state::prepare::{self, Asked};
use kms_state::{RESTORE_DATASETS_MAX, approved_restore, layout};
use prost::Message;
use proto::ids::DatasetId;
use proto::v1::{
    ApproveRestore, ApprovedRestore, DatasetRestore, KeyState, KmsCommand, KmsRefusal,
    RestoreTarget, RestoreWhat,
};
use tlog::{Field, Kind};

use crate::lab::{DATASET, Lab, OTHER, approval, id};

fn target(dataset: DatasetId, epoch: u64) -> RestoreTarget {
    RestoreTarget {
        dataset_id: dataset.into(),
        name: "cti".to_owned(),
        epoch,
    }
}

fn terms(what: RestoreWhat, datasets: Vec<RestoreTarget>) -> DatasetRestore {
    DatasetRestore {
        format: 1,
        what: what.into(),
        backup_id: vec![0xB0; 16].into(),
        index_digest: vec![0xD1; 32].into(),
        datasets,
    }
}

fn restore() -> DatasetRestore {
    terms(RestoreWhat::Restore, vec![target(DATASET, 0)])
}

fn command(lab: &Lab, asked: Asked, request: u8, terms: DatasetRestore) -> KmsCommand {
    let approve = ApproveRestore {
        terms: Some(terms),
        claim: None,
        request_id: Bytes::copy_from_slice(&[request; 16]),
    };
    prepare::approve_restore(&lab.authority(), asked, approve)
}

/// The shard knows the key's state, as it does in a region that lives.
fn confirmed() -> Lab {
    let mut lab = Lab::with_key();
    let authority = lab.authority();
    let registered = prepare::register_shard(&authority, lab.asked("kms/r1"), &DATASET, 7);
    lab.done(&registered);
    let acknowledged = prepare::confirm_shard(&authority, lab.asked("kms/r1"), &DATASET, 1);
    lab.done(&acknowledged);
    assert_eq!(lab.key().shard, 7);
    lab
}

/// Red with `ignore_approvals`.
#[test]
fn it_takes_two_operators_besides_who_asks_and_goes_on_record() {
    let mut lab = confirmed();
    let one = Asked {
        approvals: vec![approval("operator/o2", 5)],
        ..lab.asked("operator/o1")
    };
    let twice = Asked {
        approvals: vec![approval("operator/o2", 5), approval("operator/o2", 5)],
        ..lab.asked("operator/o1")
    };
    for few in [lab.asked("operator/o1"), one, twice] {
        let few = command(&lab, few, 5, restore());
        assert_eq!(lab.refused(&few).0, KmsRefusal::TooFewApprovals);
    }
    let own = Asked {
        approvals: vec![approval("operator/o1", 5), approval("operator/o2", 5)],
        ..lab.asked("operator/o1")
    };
    let own = command(&lab, own, 5, restore());
    assert_eq!(lab.refused(&own).0, KmsRefusal::SelfApproval);
    let by_gateway = command(&lab, lab.approved("gateway/g1", 5), 5, restore());
    assert_eq!(lab.refused(&by_gateway).0, KmsRefusal::NotEnrolled);
    let of_other = command(&lab, lab.approved("operator/o1", 6), 5, restore());
    assert_eq!(lab.refused(&of_other).0, KmsRefusal::Malformed);

    let sequence = lab.key().leaf_sequence;
    let approve = command(&lab, lab.approved("operator/o1", 5), 5, restore());
    let done = lab.done(&approve);
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), Kind::RestoreApproved);
    let details = &shown.fields[&Field::Details];
    for part in [&"b0".repeat(16), &"d1".repeat(32), "\"name\":\"cti\""] {
        assert!(details.contains(part), "{details}");
    }
    assert!(shown.fields[&Field::Approvals].contains("operator/o2"));
    // In the dataset's own chain, and its shard is to be found and told the key's state again.
    let key = lab.key();
    assert_eq!(key.leaf_sequence, sequence + 1);
    assert_eq!((key.shard, key.confirmed_state_version), (0, 0));
    let held = approved_restore(&lab.state, &[5; 16]).expect("stored");
    assert_eq!(held.leaf_index, done.leaf_index);
    assert_eq!(held.requester, id("operator/o1").to_string());
    let approvers = ["operator/o2", "operator/o3"].map(|name| id(name).to_string());
    assert_eq!(held.approvers, approvers);
}

#[test]
fn sent_again_it_has_effect_once_and_another_request_is_another() {
    let mut lab = confirmed();
    let approve = command(&lab, lab.approved("operator/o1", 5), 5, restore());
    let first = lab.done(&approve);
    let size = kms_state::frontier(&lab.state).size();
    // Whoever asked, with or without the approvals, which are used up.
    for asked in [lab.approved("operator/o1", 5), lab.asked("operator/o1")] {
        let again = command(&lab, asked, 5, restore());
        assert_eq!(lab.done(&again).leaf_index, first.leaf_index);
    }
    assert_eq!(kms_state::frontier(&lab.state).size(), size);
    let by_other = command(&lab, lab.asked("operator/o2"), 5, restore());
    assert_eq!(lab.refused(&by_other).0, KmsRefusal::RequestIdReused);
    let confirm = terms(RestoreWhat::Confirm, vec![target(DATASET, 1)]);
    let other = command(&lab, lab.approved("operator/o1", 5), 5, confirm.clone());
    assert_eq!(lab.refused(&other).0, KmsRefusal::RequestIdReused);
    let other = command(&lab, lab.approved("operator/o1", 6), 6, confirm);
    lab.done(&other);
    assert_eq!(lab.last_leaf().0.kind(), Kind::RestoreConfirmed);
}

#[test]
fn several_datasets_have_a_leaf_each() {
    let mut lab = confirmed();
    let other = lab.create(OTHER, 9).expect("granted");
    lab.done(&other);
    let both = vec![target(DATASET, 0), target(OTHER, 0)];
    let size = kms_state::frontier(&lab.state).size();
    let both = terms(RestoreWhat::Restore, both);
    let approve = command(&lab, lab.approved("operator/o1", 5), 5, both);
    assert_eq!(lab.done(&approve).leaf_index, size);
    assert_eq!(kms_state::frontier(&lab.state).size(), size + 2);
}

#[test]
fn terms_that_cannot_be_are_refused() {
    let mut lab = confirmed();
    let edited = |edit: fn(&mut DatasetRestore)| {
        let mut terms = restore();
        edit(&mut terms);
        terms
    };
    let many = |count: usize| {
        let of = |n: usize| {
            let mut dataset = [0; 16];
            dataset[8..].copy_from_slice(&(n as u64).to_be_bytes());
            target(DatasetId(dataset), 0)
        };
        terms(RestoreWhat::Restore, (0..count).map(of).collect())
    };
    for malformed in [
        edited(|terms| terms.format = 2),
        edited(|terms| terms.what = 0),
        edited(|terms| terms.backup_id = Bytes::new()),
        edited(|terms| terms.index_digest = vec![1; 31].into()),
        edited(|terms| terms.datasets.clear()),
        edited(|terms| terms.datasets[0].epoch = 1),
        edited(|terms| terms.datasets[0].name = "Not A Name".to_owned()),
        edited(|terms| terms.datasets[0].dataset_id = vec![1; 15].into()),
        edited(|terms| terms.datasets.push(terms.datasets[0].clone())),
        terms(RestoreWhat::Confirm, vec![target(DATASET, 0)]),
        many(RESTORE_DATASETS_MAX + 1),
    ] {
        let command = command(&lab, lab.approved("operator/o1", 5), 5, malformed);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
    let none = many(RESTORE_DATASETS_MAX);
    let none = command(&lab, lab.approved("operator/o1", 5), 5, none);
    assert_eq!(lab.refused(&none).0, KmsRefusal::NoSuchKey);
}

/// A backup opens under an enabled or a compromised key alone; that a dataset is this region's can be said under more.
#[test]
fn a_key_that_opens_nothing_restores_nothing() {
    use KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};
    for state in [
        Enabled,
        Compromised,
        Disabled,
        PendingDestruction,
        Destroyed,
    ] {
        let mut lab = confirmed();
        lab.bring_to(state);
        let opens = matches!(state, Enabled | Compromised);
        let approve = command(&lab, lab.approved("operator/o1", 5), 5, restore());
        match opens {
            true => drop(lab.done(&approve)),
            false => assert_eq!(lab.refused(&approve).0, KmsRefusal::KeyDisabled),
        }
        let confirm = terms(RestoreWhat::Confirm, vec![target(DATASET, 1)]);
        let confirm = command(&lab, lab.approved("operator/o1", 6), 6, confirm);
        match state {
            Destroyed => assert_eq!(lab.refused(&confirm).0, KmsRefusal::KeyDisabled),
            _ => drop(lab.done(&confirm)),
        }
    }
}

#[test]
fn golden_bytes_of_its_command_and_its_row() {
    let record = ApprovedRestore {
        format: 1,
        terms: Some(DatasetRestore {
            format: 1,
            what: RestoreWhat::Confirm.into(),
            backup_id: vec![3].into(),
            index_digest: vec![4].into(),
            datasets: vec![RestoreTarget {
                dataset_id: vec![1].into(),
                name: "n".to_owned(),
                epoch: 3,
            }],
        }),
        requester: "r".to_owned(),
        approvers: vec!["a".to_owned()],
        leaf_index: 5,
        time_ms: 6,
    };
    let golden = "0801 1214 08011002 1a0103 220104 2a08 0a0101 12016e 1803 1a0172 220161 2805 3006";
    assert_eq!(hex::encode(record.encode_to_vec()), golden.replace(' ', ""));
    let only = KmsCommand {
        command: Some(proto::v1::kms_command::Command::ApproveRestore(
            ApproveRestore {
                request_id: vec![9].into(),
                ..ApproveRestore::default()
            },
        )),
        ..KmsCommand::default()
    };
    assert_eq!(hex::encode(only.encode_to_vec()), "c207031a0109");
    assert_eq!(layout::approved_restore(&[0; 16])[0], b'j');
}
