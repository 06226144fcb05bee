//! Claims about custody: a split comes into force whole or not at all, and a root key ends when nobody can rebuild it.

use kms_state::prepare::{self, Asked};
use kms_state::{
    custody, hand_over_keys_not_rewrapped, not_rewrapped, recoverable_under, secrets_not_rewrapped,
};
use proto::v1::kms_command::Command;
use proto::v1::{
    AbandonCustody, BackupRecord, BeginCustody, ConfirmBackup, ConfirmShare, CustodyPlan,
    EraseShare, FinishCustody, KeyState, KmsCommand, KmsRefusal, RecordSeal, RecordUnseal,
    RetireEpoch, RewrapKeks, RewrappedHandOverKey, RewrappedKek, RewrappedSecret, SendRoot,
    ShareHolder, UnsealHow,
};
use tlog::{Kind, SignatureType, SignerKey};

use crate::lab::{DATASET, HOUR, Lab, OTHER, approval, id, region};
use crate::witnesses::{one_witness, policy};

pub(crate) const PEOPLE: [&str; 3] = ["custodian/c1", "custodian/c2", "custodian/c3"];
pub(crate) const WRAPPED: [u8; 150] = [0xA2; 150];

fn log_key(seed: u8) -> String {
    let name = "ch-zrh/main/1".parse().expect("a name");
    let key = SignerKey::from_seed(name, SignatureType::Ed25519, &[seed; 32]);
    key.expect("a key").verifier().to_string()
}

/// A split named by one byte; `epoch` 1 is of the root key in force at first.
pub(crate) fn plan(name: u8, epoch: u32, needed: u32, people: &[&str]) -> CustodyPlan {
    let share_set = [&[1][..], &[name; 16], b"rest"].concat();
    CustodyPlan {
        root_epoch: epoch,
        root_check: match epoch {
            1 => region().root_check,
            epoch => vec![epoch as u8; 16].into(),
        },
        set_id: vec![name; 16].into(),
        share_set: share_set.into(),
        shares_needed: needed,
        custodians: (1..)
            .zip(people)
            .map(|(share_index, name)| ShareHolder {
                identity: id(name).to_string(),
                share_check: vec![0xC4; 32].into(),
                share_index,
            })
            .collect(),
        log_key: log_key(epoch as u8),
        ..CustodyPlan::default()
    }
}

pub(crate) fn step(lab: &Lab, by: &str, what: Command) -> KmsCommand {
    prepare::custody(&lab.authority(), lab.asked(by), what)
}

pub(crate) fn approved(lab: &Lab, single_use_id: u8, what: Command) -> KmsCommand {
    let asked = lab.approved("operator/o1", single_use_id);
    prepare::custody(&lab.authority(), asked, what)
}

pub(crate) fn begun(lab: &Lab, single_use_id: u8, plan: CustodyPlan) -> KmsCommand {
    let begin = BeginCustody {
        plan: Some(plan),
        claim: None,
    };
    approved(lab, single_use_id, Command::BeginCustody(begin))
}

pub(crate) fn confirm(lab: &Lab, by: &str, name: u8, index: u32) -> KmsCommand {
    let set_id = vec![name; 16].into();
    step(
        lab,
        by,
        Command::ConfirmShare(ConfirmShare { set_id, index }),
    )
}

pub(crate) fn finish(lab: &Lab, name: u8) -> KmsCommand {
    let set_id = vec![name; 16].into();
    step(
        lab,
        "operator/o1",
        Command::FinishCustody(FinishCustody {
            set_id,
            ..FinishCustody::default()
        }),
    )
}

pub(crate) fn rewrap(lab: &Lab, name: u8) -> KmsCommand {
    let missing = not_rewrapped(&lab.state, 10).into_iter();
    let keks = missing.map(|(dataset, version, _)| RewrappedKek {
        dataset_id: dataset.into(),
        version,
        wrapped_kek: WRAPPED.to_vec().into(),
    });
    let missing = secrets_not_rewrapped(&lab.state, 10).into_iter();
    let secrets = missing.map(|record| RewrappedSecret {
        access_key_id: record.access_key_id,
        wrapped_secret: WRAPPED.to_vec().into(),
    });
    let missing = hand_over_keys_not_rewrapped(&lab.state, 10).into_iter();
    let hand_overs = missing.map(|record| RewrappedHandOverKey {
        relocation_id: record.relocation_id,
        wrapped_private: WRAPPED.to_vec().into(),
    });
    let rewrap = RewrapKeks {
        set_id: vec![name; 16].into(),
        keks: keks.collect(),
        secrets: secrets.collect(),
        hand_over_keys: hand_overs.collect(),
    };
    step(lab, "kms/r1", Command::RewrapKeks(rewrap))
}

pub(crate) fn erase(lab: &Lab, by: &str, epoch: u32, set_id: &[u8], index: u32) -> KmsCommand {
    let erase = EraseShare {
        root_epoch: epoch,
        set_id: set_id.to_vec().into(),
        index,
        statement_hash: vec![0xEE; 32].into(),
    };
    step(lab, by, Command::EraseShare(erase))
}

pub(crate) fn retire(lab: &Lab, single_use_id: u8, root_epoch: u32) -> KmsCommand {
    let retire = RetireEpoch {
        root_epoch,
        ..RetireEpoch::default()
    };
    approved(lab, single_use_id, Command::RetireEpoch(retire))
}

/// An operator holds a backup of the state as it stands.
pub(crate) fn backed_up(lab: &mut Lab, root_epoch: u32) {
    let tree = kms_state::frontier(&lab.state);
    let backup = BackupRecord {
        digest: vec![root_epoch as u8; 32].into(),
        tree_size: tree.size(),
        root_hash: tree.root().0.to_vec().into(),
        root_epoch,
        ..BackupRecord::default()
    };
    let confirm = ConfirmBackup {
        backup: Some(backup),
        claim: None,
    };
    let command = step(lab, "operator/o1", Command::ConfirmBackup(confirm));
    lab.done(&command);
}

pub(crate) fn all_confirm(lab: &mut Lab, name: u8) {
    for (index, who) in (1..).zip(PEOPLE) {
        let command = confirm(lab, who, name, index);
        lab.done(&command);
    }
}

pub(crate) fn first_split(lab: &Lab) -> Vec<u8> {
    let custody = custody(&lab.state).expect("initialised");
    custody.epochs[0].splits[0].set_id.to_vec()
}

/// Everything up to the new root key in force; single-use ids from 10 on.
pub(crate) fn rotated(lab: &mut Lab, name: u8, epoch: u32) {
    let command = begun(lab, 9 + name, plan(name, epoch, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(lab, name);
    let command = rewrap(lab, name);
    lab.done(&command);
    let command = finish(lab, name);
    lab.done(&command);
}

#[test]
fn the_split_in_force_stays_so_until_every_new_share_was_seen() {
    let mut lab = Lab::new();
    let before = kms_state::region(&lab.state);
    let command = begun(&lab, 1, plan(7, 1, 3, &PEOPLE));
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::CustodyBegun);
    for (index, who) in (1..).zip(PEOPLE) {
        let early = finish(&lab, 7);
        assert_eq!(lab.refused(&early).0, KmsRefusal::NotConfirmed);
        assert_eq!(kms_state::region(&lab.state), before);
        let command = confirm(&lab, who, 7, index);
        lab.done(&command);
        assert_eq!(lab.last_leaf().0.kind(), Kind::ShareConfirmed);
        // Again, after an answer that was lost: no second leaf.
        let size = kms_state::frontier(&lab.state).size();
        let again = confirm(&lab, who, 7, index);
        lab.done(&again);
        assert_eq!(kms_state::frontier(&lab.state).size(), size);
    }
    let command = finish(&lab, 7);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::CustodyFinished);
    let region = kms_state::region(&lab.state).expect("initialised");
    assert_eq!((region.root_epoch, region.shares_needed), (1, 3));
    assert_eq!(kms_state::set_id(&region.share_set), [7; 16]);
    let again = finish(&lab, 7);
    assert_eq!(lab.refused(&again).0, KmsRefusal::NoSuchSplit);
}

/// Red with `ignore_approvals`.
#[test]
fn a_change_of_custody_takes_dual_control() {
    let mut lab = Lab::new();
    for approvals in [vec![], vec![approval("operator/o2", 1)]] {
        let asked = Asked {
            approvals,
            ..lab.asked("operator/o1")
        };
        let begin = BeginCustody {
            plan: Some(plan(7, 1, 2, &PEOPLE)),
            claim: None,
        };
        let command = prepare::custody(&lab.authority(), asked, Command::BeginCustody(begin));
        assert_eq!(lab.refused(&command).0, KmsRefusal::TooFewApprovals);
    }
    rotated(&mut lab, 8, 2);
    let command = retire(&lab, 30, 1);
    let alone = KmsCommand {
        approvals: Vec::new(),
        ..command
    };
    assert_eq!(lab.refused(&alone).0, KmsRefusal::TooFewApprovals);
}

#[test]
fn a_split_is_of_enrolled_custodians_with_one_share_each_and_never_of_one_person() {
    let wrong: [(CustodyPlan, KmsRefusal); 6] = [
        (plan(7, 1, 1, &PEOPLE), KmsRefusal::Malformed),
        (plan(7, 1, 4, &PEOPLE), KmsRefusal::Malformed),
        (
            plan(7, 1, 2, &["custodian/c1", "custodian/c1"]),
            KmsRefusal::AlreadyEnrolled,
        ),
        (
            plan(7, 1, 2, &["custodian/c1", "custodian/stranger"]),
            KmsRefusal::NotEnrolled,
        ),
        (
            plan(7, 1, 2, &["custodian/c1", "operator/o1"]),
            KmsRefusal::NotEnrolled,
        ),
        (plan(7, 3, 2, &PEOPLE), KmsRefusal::RootMoved),
    ];
    for (number, (plan, why)) in (1..).zip(wrong) {
        let mut lab = Lab::new();
        let command = begun(&lab, number, plan);
        assert_eq!(lab.refused(&command).0, why, "{number}");
    }
}

#[test]
fn a_share_is_confirmed_and_erased_by_its_holder_alone() {
    let mut lab = Lab::new();
    let old = first_split(&lab);
    let command = begun(&lab, 1, plan(7, 1, 2, &PEOPLE));
    lab.done(&command);
    for (who, index) in [("custodian/c2", 1), ("operator/o1", 1), ("custodian/c1", 4)] {
        let command = confirm(&lab, who, 7, index);
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{who}");
    }
    // The split in force is nobody's to give up.
    let command = erase(&lab, "custodian/c1", 1, &old, 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
    all_confirm(&mut lab, 7);
    let command = finish(&lab, 7);
    lab.done(&command);
    let command = erase(&lab, "custodian/c2", 1, &old, 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = erase(&lab, "custodian/c1", 1, &old, 1);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::ShareErased);
}

#[test]
fn a_new_root_key_comes_into_force_with_every_key_under_it() {
    let mut lab = Lab::with_key();
    let command = lab.rotate().expect("granted");
    lab.done(&command);
    let command = begun(&lab, 1, plan(8, 2, 2, &PEOPLE));
    lab.done(&command);
    // Nothing is wrapped under a root key that its custodians might not hold.
    let command = rewrap(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotConfirmed);
    all_confirm(&mut lab, 8);
    let command = finish(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotRewrapped);
    let command = rewrap(&lab, 8);
    lab.done(&command);
    // Born meanwhile, under the root key in force: waited for.
    let command = lab.create(OTHER, 2).expect("granted");
    lab.done(&command);
    let command = finish(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotRewrapped);
    assert!(lab.key().versions.iter().all(|v| v.root_epoch == 1));
    let command = rewrap(&lab, 8);
    lab.done(&command);
    let command = finish(&lab, 8);
    lab.done(&command);
    for dataset in [DATASET, OTHER] {
        let key = kms_state::key(&lab.state, &dataset).expect("created");
        let moved = |v: &proto::v1::KekVersionRecord| {
            v.root_epoch == 2 && v.wrapped_kek == WRAPPED.as_slice()
        };
        assert!(key.versions.iter().all(moved));
    }
    let custody = custody(&lab.state).expect("initialised");
    assert_eq!(custody.epochs.len(), 2);
    assert_ne!(custody.epochs[0].superseded_at_ms, 0);
    // Whoever unsealed with the old shares holds a root key that opens nothing.
    let unseal = |root_epoch| RecordUnseal {
        replica: id("kms/r2").to_string(),
        boot_id: vec![5; 16].into(),
        how: UnsealHow::Custodians.into(),
        root_epoch,
        ..RecordUnseal::default()
    };
    let command = step(&lab, "kms/r2", Command::RecordUnseal(unseal(1)));
    assert_eq!(lab.refused(&command), (KmsRefusal::RootMoved, 2));
    let command = step(&lab, "kms/r2", Command::RecordUnseal(unseal(2)));
    lab.done(&command);
}

#[test]
fn only_a_replica_rewraps_and_never_with_a_key_in_the_clear() {
    let mut lab = Lab::with_key();
    let command = begun(&lab, 1, plan(8, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 8);
    let command = rewrap(&lab, 8);
    for who in ["operator/o1", "custodian/c1", "gateway/g1"] {
        let by = KmsCommand {
            requester: id(who).to_string(),
            ..command.clone()
        };
        assert_eq!(lab.refused(&by).0, KmsRefusal::NotEnrolled, "{who}");
    }
    let rewrap = RewrapKeks {
        set_id: vec![8; 16].into(),
        keks: vec![RewrappedKek {
            dataset_id: DATASET.into(),
            version: 1,
            wrapped_kek: vec![7; 32].into(),
        }],
        ..RewrapKeks::default()
    };
    let command = step(&lab, "kms/r1", Command::RewrapKeks(rewrap));
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
}

/// The copy under the new root key goes with the key.
#[test]
fn a_key_destroyed_during_a_rotation_leaves_no_copy_under_the_new_root_key() {
    let mut lab = Lab::with_key();
    let command = begun(&lab, 1, plan(8, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 8);
    let command = rewrap(&lab, 8);
    lab.done(&command);
    lab.bring_to(KeyState::Destroyed);
    let row = kms_state::layout::rewrapped(&DATASET, 1);
    use proto::store::Reader as _;
    assert!(lab.state.value(&row).is_none());
    // A leader that looked before cannot bring it back.
    let late = RewrapKeks {
        set_id: vec![8; 16].into(),
        keks: vec![RewrappedKek {
            dataset_id: DATASET.into(),
            version: 1,
            wrapped_kek: WRAPPED.to_vec().into(),
        }],
        ..RewrapKeks::default()
    };
    let command = step(&lab, "kms/r1", Command::RewrapKeks(late));
    lab.done(&command);
    assert!(lab.state.value(&row).is_none());
    let command = finish(&lab, 8);
    lab.done(&command);
    assert_eq!(lab.key().versions[0].root_epoch, 1);
}

#[test]
fn a_change_given_up_or_begun_again_leaves_nothing_behind() {
    let mut lab = Lab::with_key();
    let before = kms_state::region(&lab.state);
    let command = begun(&lab, 1, plan(8, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 8);
    let command = rewrap(&lab, 8);
    lab.done(&command);
    let command = begun(&lab, 2, plan(9, 2, 2, &PEOPLE));
    lab.done(&command);
    assert_eq!(not_rewrapped(&lab.state, 10).len(), 1);
    let command = finish(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchSplit);
    let abandon = |name: u8| AbandonCustody {
        set_id: vec![name; 16].into(),
        claim: None,
    };
    let command = step(&lab, "custodian/c1", Command::AbandonCustody(abandon(9)));
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = step(&lab, "operator/o1", Command::AbandonCustody(abandon(9)));
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::CustodyAbandoned);
    assert_eq!(kms_state::region(&lab.state), before);
    assert!(custody(&lab.state).is_some_and(|c| c.pending.is_none()));
}

#[test]
fn an_epoch_is_retired_once_too_few_shares_of_every_split_are_left() {
    let mut lab = Lab::with_key();
    let first = first_split(&lab);
    // A second split of the first root key: both have to go.
    let command = begun(&lab, 1, plan(7, 1, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 7);
    let command = finish(&lab, 7);
    lab.done(&command);
    let command = retire(&lab, 2, 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
    rotated(&mut lab, 8, 2);
    let mut id = 50;
    // 2 of 3: a split is beyond rebuilding when two holders have erased.
    for (set_id, index) in [(&first[..], 1), (&first, 3), (&[7; 16], 2), (&[7; 16], 3)] {
        id += 1;
        let command = retire(&lab, id, 1);
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotErased);
        let who = PEOPLE[index as usize - 1];
        let command = erase(&lab, who, 1, set_id, index);
        lab.done(&command);
    }
    // A root key ends when what stood under it is in a backup that a later one opens.
    let command = retire(&lab, 59, 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotBackedUp);
    backed_up(&mut lab, 2);
    let command = retire(&lab, 60, 1);
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::RootEpochRetired);
    let command = retire(&lab, 61, 1);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
    let command = retire(&lab, 62, 2);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongState);
}

#[test]
fn a_destroyed_key_names_the_epochs_by_which_a_backup_of_it_still_opens() {
    let mut lab = Lab::with_key();
    let first = first_split(&lab);
    rotated(&mut lab, 8, 2);
    lab.bring_to(KeyState::Destroyed);
    lab.wait(60_000);
    rotated(&mut lab, 9, 3);
    // It stood under 1 and 2, and was gone before 3.
    assert_eq!(recoverable_under(&lab.state, &lab.key()), [1, 2]);
    let info = kms_state::key_info(&lab.state, &DATASET).expect("known");
    assert_eq!(info.recoverable_under, [1, 2]);
    for index in [1, 2] {
        let who = PEOPLE[index as usize - 1];
        for (epoch, split) in [(1, first.as_slice()), (2, &[8; 16])] {
            let command = erase(&lab, who, epoch, split, index);
            lab.done(&command);
        }
    }
    backed_up(&mut lab, 3);
    let command = retire(&lab, 70, 1);
    lab.done(&command);
    assert_eq!(recoverable_under(&lab.state, &lab.key()), [2]);
    let command = retire(&lab, 71, 2);
    lab.done(&command);
    assert!(recoverable_under(&lab.state, &lab.key()).is_empty());
    // A key that lives says nothing of the kind.
    let command = lab.create(OTHER, 2).map(|mut command| {
        if let Some(Command::CreateKek(create)) = &mut command.command
            && let Some(version) = &mut create.version
        {
            version.root_epoch = 3;
        }
        command
    });
    lab.done(&command.expect("granted"));
    let info = kms_state::key_info(&lab.state, &OTHER).expect("known");
    assert!(info.recoverable_under.is_empty());
}

/// The log is signed under the root key: witnesses have to know the next key before it signs.
#[test]
fn with_witnesses_a_new_root_key_waits_until_their_policy_names_its_log_key() {
    let mut lab = Lab::new();
    let change = |text: &str| proto::v1::ChangeWitnesses {
        policy: Some(policy(text)),
        ..Default::default()
    };
    let asked = lab.approved("operator/o1", 1);
    let command = prepare::change_witnesses(&lab.authority(), asked, change(&one_witness()));
    lab.done(&command);
    let command = begun(&lab, 2, plan(8, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 8);
    let command = finish(&lab, 8);
    assert_eq!(lab.refused(&command).0, KmsRefusal::LogKeyUnknown);
    let both = format!("log {}\n{}", log_key(2), one_witness());
    let asked = lab.approved("operator/o1", 3);
    let command = prepare::change_witnesses(&lab.authority(), asked, change(&both));
    lab.done(&command);
    let command = finish(&lab, 8);
    lab.done(&command);
}

#[test]
fn the_root_key_under_way_is_sent_on_record_and_a_seal_by_one_operator() {
    let mut lab = Lab::new();
    let send = |epoch| SendRoot {
        replica: id("kms/r2").to_string(),
        boot_id: vec![5; 16].into(),
        root_epoch: epoch,
    };
    let command = step(&lab, "kms/r1", Command::SendRoot(send(2)));
    assert_eq!(lab.refused(&command).0, KmsRefusal::RootMoved);
    let command = begun(&lab, 2, plan(8, 2, 2, &PEOPLE));
    lab.done(&command);
    for epoch in [1, 3] {
        let command = step(&lab, "kms/r1", Command::SendRoot(send(epoch)));
        assert_eq!(lab.refused(&command).0, KmsRefusal::RootMoved);
    }
    let command = step(&lab, "operator/o1", Command::SendRoot(send(2)));
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = step(&lab, "kms/r1", Command::SendRoot(send(2)));
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::RootSent);
    let seal = Command::RecordSeal(RecordSeal { claim: None });
    let command = step(&lab, "custodian/c1", seal.clone());
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = step(&lab, "operator/o1", seal);
    let done = lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::RegionSealed);
    let sealed = custody(&lab.state).map(|custody| custody.sealed_leaf);
    assert_eq!(sealed, Some(done.leaf_index + 1));
    lab.wait(HOUR);
}
