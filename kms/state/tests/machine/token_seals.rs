//! Claims about seals by a token and a person: on record under dual control, never of a root key that they are not of,
//! and gone before the epoch of their root key is retired.

use kms_state::{LEVEL_MAX, TOKEN_SEALS_MAX, token_seal, token_seals};
use proto::v1::kms_command::Command;
use proto::v1::{
    AbandonCustody, DropSeal, FinishCustody, KmsCommand, KmsRefusal, ProvisionSeal, RecordUnseal,
    RetireEpoch, TokenSealRecord, UnsealHow,
};
use tlog::Kind;

use crate::custody::{
    PEOPLE, all_confirm, approved, backed_up, begun, erase, finish, first_split, plan, retire,
    rewrap, step,
};
use crate::lab::{Lab, approval, id};

fn seal(name: u8, root_epoch: u32) -> TokenSealRecord {
    TokenSealRecord {
        seal_id: vec![name; 16].into(),
        root_epoch,
        sealed_root: vec![0x5E; 150].into(),
        token_serial: "0123".to_owned(),
        token_label: "reduit".to_owned(),
        key_label: "root-1".to_owned(),
        holders: vec![id(PEOPLE[0]).to_string()],
        provisioned_leaf: 0,
    }
}

fn provision(lab: &Lab, single_use_id: u8, seal: TokenSealRecord) -> KmsCommand {
    let provision = ProvisionSeal {
        seal: Some(seal),
        claim: None,
    };
    approved(lab, single_use_id, Command::ProvisionSeal(provision))
}

fn unsealed(lab: &Lab, boot: u8, seal: u8) -> KmsCommand {
    let what = Command::RecordUnseal(RecordUnseal {
        replica: id("kms/r2").to_string(),
        boot_id: vec![boot; 16].into(),
        how: UnsealHow::Token.into(),
        root_epoch: 0,
        seal_id: vec![seal; 16].into(),
    });
    step(lab, "kms/r2", what)
}

fn by(mut command: KmsCommand, approvers: &[&str], single_use_id: u8) -> KmsCommand {
    let approvers = approvers.iter();
    command.approvals = approvers.map(|who| approval(who, single_use_id)).collect();
    command
}

fn count(lab: &Lab) -> usize {
    token_seals(&lab.state).len()
}

/// The new root key under way, every share of it shown and every KEK wrapped under it.
fn under_way(lab: &mut Lab, single_use_id: u8, name: u8, epoch: u32) {
    let command = begun(lab, single_use_id, plan(name, epoch, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(lab, name);
    let command = rewrap(lab, name);
    lab.done(&command);
}

#[test]
fn a_seal_is_made_by_two_approvers_for_enrolled_custodians_and_a_root_key_of_the_region() {
    let mut lab = Lab::with_key();
    let one = by(provision(&lab, 1, seal(1, 1)), &["operator/o2"], 1);
    assert_eq!(lab.refused(&one).0, KmsRefusal::TooFewApprovals);
    let stranger = TokenSealRecord {
        holders: vec![id("custodian/stranger").to_string()],
        ..seal(1, 1)
    };
    let nobody = TokenSealRecord {
        holders: Vec::new(),
        ..seal(1, 1)
    };
    let empty = TokenSealRecord {
        sealed_root: Default::default(),
        ..seal(1, 1)
    };
    for (wrong, reason) in [
        (stranger, KmsRefusal::NotEnrolled),
        (nobody, KmsRefusal::Malformed),
        (empty, KmsRefusal::Malformed),
        (seal(1, 2), KmsRefusal::RootMoved),
    ] {
        let command = provision(&lab, 1, wrong);
        assert_eq!(lab.refused(&command).0, reason);
    }
    let command = provision(&lab, 1, seal(1, 1));
    let done = lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::SealProvisioned);
    let stored = token_seal(&lab.state, &[1; 16]).expect("on record");
    assert_eq!(stored.provisioned_leaf, done.leaf_index);
    // Its name is its own, and there is an end to how many there are.
    let command = provision(&lab, 2, seal(1, 1));
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
    for name in 2..=TOKEN_SEALS_MAX as u8 {
        let command = provision(&lab, name, seal(name, 1));
        lab.done(&command);
    }
    let command = provision(&lab, 50, seal(50, 1));
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
}

#[test]
fn an_unseal_by_a_token_takes_two_operators_and_a_seal_of_the_root_key_in_force() {
    let mut lab = Lab::with_key();
    let command = provision(&lab, 1, seal(1, 1));
    lab.done(&command);
    let both = ["operator/o2", "operator/o3"];
    for (command, reason) in [
        (unsealed(&lab, 5, 1), KmsRefusal::TooFewApprovals),
        (
            by(unsealed(&lab, 5, 1), &["operator/o2"], 2),
            KmsRefusal::TooFewApprovals,
        ),
        (
            by(unsealed(&lab, 5, 1), &["operator/o2", "operator/o2"], 2),
            KmsRefusal::TooFewApprovals,
        ),
        (by(unsealed(&lab, 5, 9), &both, 2), KmsRefusal::NoSuchSeal),
    ] {
        assert_eq!(lab.refused(&command).0, reason);
    }
    let command = by(unsealed(&lab, 5, 1), &both, 2);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::Unsealed);
    let command = by(unsealed(&lab, 6, 1), &both, 2);
    assert_eq!(lab.refused(&command).0, KmsRefusal::ApprovalReplayed);
    // Given up, it opens no replica any more.
    let what = Command::DropSeal(DropSeal {
        seal_id: vec![1; 16].into(),
        ..DropSeal::default()
    });
    let command = approved(&lab, 3, what.clone());
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::SealDropped);
    let command = approved(&lab, 4, what);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchSeal);
    let command = by(unsealed(&lab, 6, 1), &both, 5);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchSeal);
}

#[test]
fn a_new_root_key_is_not_in_force_without_a_tokens_seal_where_the_one_before_had_one() {
    let mut lab = Lab::with_key();
    let command = provision(&lab, 1, seal(1, 1));
    lab.done(&command);
    under_way(&mut lab, 2, 8, 2);
    let command = finish(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::SealMissing);
    // The old one's seals say nothing about the new one.
    let command = provision(&lab, 3, seal(2, 1));
    lab.done(&command);
    let command = finish(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::SealMissing);
    let command = provision(&lab, 4, seal(3, 2));
    lab.done(&command);
    let command = finish(&lab, 8);
    lab.done(&command);
    let both = ["operator/o2", "operator/o3"];
    let command = by(unsealed(&lab, 5, 1), &both, 5);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchSeal);
    let command = by(unsealed(&lab, 5, 3), &both, 5);
    lab.done(&command);
    // Said aloud, it may.
    under_way(&mut lab, 6, 9, 3);
    let what = Command::FinishCustody(FinishCustody {
        set_id: vec![9; 16].into(),
        without_token: true,
    });
    let command = step(&lab, "operator/o1", what);
    lab.done(&command);
}

#[test]
fn a_change_that_is_given_up_takes_its_seals_with_it() {
    let mut lab = Lab::with_key();
    under_way(&mut lab, 1, 8, 2);
    let command = provision(&lab, 2, seal(2, 2));
    lab.done(&command);
    assert_eq!(count(&lab), 1);
    let what = Command::AbandonCustody(AbandonCustody {
        set_id: vec![8; 16].into(),
        claim: None,
    });
    let command = step(&lab, "operator/o1", what);
    lab.done(&command);
    assert_eq!(count(&lab), 0);
}

#[test]
fn an_epoch_is_retired_only_once_every_token_has_given_up_its_half() {
    let mut lab = Lab::with_key();
    let first = first_split(&lab);
    for name in [1, 2] {
        let command = provision(&lab, name, seal(name, 1));
        lab.done(&command);
    }
    under_way(&mut lab, 3, 8, 2);
    let command = provision(&lab, 4, seal(3, 2));
    lab.done(&command);
    let command = finish(&lab, 8);
    lab.done(&command);
    let retirable = |lab: &Lab| kms_state::retirable(&lab.state, LEVEL_MAX, 1);
    assert_eq!(retirable(&lab), Err(kms_state::Refusal::NotErased));
    for index in [1, 2] {
        let command = erase(&lab, PEOPLE[index as usize - 1], 1, &first, index);
        lab.done(&command);
    }
    // No token gives its half up for an epoch that a backup still stands under.
    assert_eq!(retirable(&lab), Err(kms_state::Refusal::NotBackedUp));
    backed_up(&mut lab, 2);
    assert_eq!(retirable(&lab), Ok(()));
    let command = retire(&lab, 5, 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::SealNotDeleted);
    let ending = |deleted: &[u8], lost: &[u8]| {
        let names = |of: &[u8]| of.iter().map(|name| vec![*name; 16].into()).collect();
        Command::RetireEpoch(RetireEpoch {
            root_epoch: 1,
            claim: None,
            seals_deleted: names(deleted),
            seals_lost: names(lost),
        })
    };
    let command = approved(&lab, 5, ending(&[1], &[3]));
    assert_eq!(lab.refused(&command).0, KmsRefusal::SealNotDeleted);
    let command = approved(&lab, 5, ending(&[1], &[2]));
    lab.done(&command);
    let said = lab.last_leaf().1;
    let said = format!("{said:?}");
    let (deleted, lost) = (
        format!("{} deleted", hex::encode([1; 16])),
        format!("{} lost", hex::encode([2; 16])),
    );
    assert!(said.contains(&deleted) && said.contains(&lost), "{said}");
    let left = token_seals(&lab.state);
    assert_eq!((left.len(), left[0].root_epoch), (1, 2));
}
