//! Claims about the init ceremony, enrolments, grants, member ids and unsealed replicas.

use kms_state::{CHANGES_MAX, prepare};
use proto::ids::{NodeId, Role, UnixMs};
use proto::store::MemoryStore;
use proto::v1::kms_command::Command;
use proto::v1::{
    Action, ChangeEnrolment, ChangeGrants, Enrolment, EnrolmentSet, Grant, KmsRefusal, KmsRegion,
    UnsealHow,
};
use tlog::{Field, Kind};

use crate::lab::{Lab, START, enrolment, genesis, grant, id, region};

#[test]
fn the_ceremony_sets_region_authority_time_and_the_first_leaf() {
    let lab = Lab::new();
    assert_eq!(kms_state::region(&lab.state), Some(region()));
    assert_eq!(kms_state::region_time(&lab.state), UnixMs(START));
    assert_eq!(kms_state::authority_version(&lab.state), 1);
    let set = kms_state::authority_set(&lab.state).expect("initialised");
    assert_eq!(
        set,
        EnrolmentSet {
            signed_at_ms: 0,
            ..genesis()
        }
    );
    let head = kms_state::tree_head(&lab.state).expect("initialised");
    assert_eq!(
        (head.origin.to_string(), head.size),
        ("ch-zrh/main/1".to_owned(), 1)
    );
    let (leaf, shown) = lab.last_leaf();
    assert_eq!((leaf.kind(), leaf.dataset()), (Kind::Initialised, None));
    assert!(shown.fields[&Field::Details].contains("custodian/c3"));
    assert_eq!(
        kms_state::member(&lab.state, Role::Kms, NodeId(3)),
        Some(id("kms/r3"))
    );
}

#[test]
fn there_is_one_ceremony_and_nothing_before_it() {
    let mut lab = Lab::new();
    let again = prepare::init(lab.asked("kms/r1"), region(), &genesis());
    assert_eq!(lab.refused(&again).0, KmsRefusal::AlreadyInitialised);
    let authority = lab.authority();
    let mut pristine = Lab::pristine();
    for command in [
        prepare::batch(lab.asked("kms/r1"), 0, Vec::new()),
        prepare::allocate_kms_id(&authority, lab.asked("operator/o1"), &id("kms/r4")),
        prepare::advance_time(lab.asked("kms/r1"), &[UnixMs(1); 2]),
    ] {
        assert_eq!(pristine.refused(&command).0, KmsRefusal::NotInitialised);
    }
    assert_eq!(pristine.state, MemoryStore::default());
}

fn init_bent(bend: impl FnOnce(&mut KmsRegion, &mut EnrolmentSet)) -> KmsRefusal {
    let mut lab = Lab::pristine();
    let (mut region, mut set) = (region(), genesis());
    bend(&mut region, &mut set);
    let command = prepare::init(lab.asked("kms/r1"), region, &set);
    lab.refused(&command).0
}

fn of<'a>(set: &'a mut EnrolmentSet, text: &str) -> &'a mut Enrolment {
    let name = id(text).to_string();
    set.enrolments
        .iter_mut()
        .find(|enrolment| enrolment.identity == name)
        .expect("there")
}

#[test]
fn a_malformed_ceremony_is_refused() {
    type Bend = fn(&mut KmsRegion, &mut EnrolmentSet);
    let bends: [Bend; 26] = [
        |_, set| set.version = 2,
        |_, set| set.format = 2,
        |_, set| set.ca_certificate.clear(),
        |_, set| set.enrolments.swap(0, 1),
        |_, set| set.grants.swap(0, 1),
        |_, set| set.grants.push(set.grants[2].clone()),
        |_, set| of(set, "gateway/g1").public_key = vec![1; 44].into(),
        |_, set| of(set, "gateway/g1").public_key = vec![0x30; 43].into(),
        |_, set| of(set, "gateway/g1").node_id = 7,
        |_, set| of(set, "kms/r1").node_id = 0,
        |_, set| of(set, "gateway/g1").hpke_public_key = vec![1; 1_216].into(),
        |_, set| of(set, "custodian/c1").hpke_public_key.clear(),
        |_, set| of(set, "custodian/c1").hpke_public_key = vec![1; 2_049].into(),
        |_, set| of(set, "gateway/g1").endpoint = "e".repeat(256),
        |_, set| of(set, "gateway/g1").identity = "g1".into(),
        |_, set| set.grants = vec![grant("gateway", &[Action::Read], &[])],
        |_, set| set.grants = vec![grant("role:root", &[Action::Read], &[])],
        |_, set| set.grants = vec![grant("role:gateway", &[], &[])],
        |_, set| set.grants = vec![grant("role:gateway", &[Action::Unspecified], &[])],
        |_, set| set.grants = vec![grant("role:gateway", &[Action::Read], &["Not one"])],
        |_, set| {
            let dataset = "D1".repeat(16);
            set.grants = vec![Grant {
                dataset,
                ..grant("role:gateway", &[Action::Read], &[])
            }];
        },
        |region, _| region.format = 2,
        |region, _| region.root_epoch = 0,
        |region, _| region.root_check.clear(),
        |region, _| region.shares_needed = 1,
        |region, _| region.shares_needed = 4,
    ];
    for (n, bend) in bends.into_iter().enumerate() {
        assert_eq!(init_bent(bend), KmsRefusal::Malformed, "bend {n}");
    }
    assert_eq!(
        init_bent(|region, _| region.log_origin = "x".into()),
        KmsRefusal::Malformed
    );
    let strange = init_bent(|_, set| {
        set.grants = vec![grant("spiffe://de-fra/gateway/g1", &[Action::Read], &[])];
    });
    assert_eq!(strange, KmsRefusal::Malformed);
}

#[test]
fn nothing_of_another_region_or_jurisdiction_is_enrolled() {
    type Bend = fn(&mut KmsRegion, &mut EnrolmentSet);
    let bends: [Bend; 6] = [
        |region, _| region.region = "de-fra".into(),
        |region, _| region.jurisdiction = "DE".into(),
        |region, _| region.log_origin = "de-fra/main/1".into(),
        |_, set| of(set, "kms/r1").jurisdiction = "DE".into(),
        |_, set| of(set, "gateway/g1").jurisdiction.clear(),
        |_, set| of(set, "node/n1").identity = "spiffe://de-fra/node/n1".into(),
    ];
    for bend in bends {
        assert_eq!(init_bent(bend), KmsRefusal::WrongJurisdiction);
    }
}

#[test]
fn keys_ids_and_shares_belong_to_one_identity() {
    let same_key = init_bent(|_, set| {
        let key = of(set, "operator/o1").public_key.clone();
        of(set, "operator/o2").public_key = key;
    });
    let same_node = init_bent(|_, set| of(set, "kms/r2").node_id = 1);
    let twice = init_bent(|_, set| set.enrolments[1] = set.enrolments[0].clone());
    let two_shares = init_bent(|region, _| region.custodians[1] = region.custodians[0].clone());
    for refusal in [same_key, same_node, twice, two_shares] {
        assert_eq!(refusal, KmsRefusal::AlreadyEnrolled);
    }
}

#[test]
fn shares_go_to_enrolled_custodians_and_the_ceremony_has_replicas() {
    let unknown = init_bent(|region, _| {
        region.custodians[0].identity = id("custodian/c9").to_string();
    });
    let operator = init_bent(|region, _| {
        region.custodians[0].identity = id("operator/o1").to_string();
    });
    assert_eq!([unknown, operator], [KmsRefusal::NotEnrolled; 2]);
    let none = init_bent(|_, set| set.enrolments.retain(|e| !e.identity.contains("/kms/")));
    assert_eq!(none, KmsRefusal::LocksOut);
}

fn change(
    lab: &Lab,
    single_use_id: u8,
    add: Vec<Enrolment>,
    remove: &[&str],
) -> proto::v1::KmsCommand {
    let remove = remove.iter().map(|text| id(text).to_string()).collect();
    let change = ChangeEnrolment {
        add,
        remove,
        ..ChangeEnrolment::default()
    };
    let asked = lab.approved("operator/o1", single_use_id);
    prepare::change_enrolment(&lab.authority(), asked, change)
}

#[test]
fn enrolling_and_removing_moves_the_authority_and_is_logged() {
    let mut lab = Lab::new();
    let command = change(&lab, 1, vec![enrolment("gateway/g9", 0)], &["gateway/g2"]);
    let done = lab.done(&command);
    assert_eq!((done.authority_version, done.leaf_index), (2, 1));
    let authority = lab.authority();
    assert!(authority.enrolment(&id("gateway/g9")).is_some());
    assert!(authority.enrolment(&id("gateway/g2")).is_none());
    let details = lab.last_leaf().1.fields[&Field::Details].clone();
    assert!(details.contains("gateway/g9") && details.contains("gateway/g2"));
    let command = change(&lab, 2, vec![], &["gateway/g2"]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = change(&lab, 2, vec![enrolment("gateway/g9", 0)], &[]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::AlreadyEnrolled);
}

#[test]
fn an_identity_changes_its_key_in_one_command() {
    let mut lab = Lab::new();
    let mut fresh = enrolment("kms/r3", 3);
    fresh.public_key = enrolment("kms/r3-new", 3).public_key;
    let command = change(&lab, 1, vec![fresh.clone()], &["kms/r3"]);
    lab.done(&command);
    assert_eq!(lab.authority().enrolment(&id("kms/r3")), Some(&fresh));
}

#[test]
fn another_identitys_key_is_refused() {
    let mut lab = Lab::new();
    let mut thief = enrolment("operator/o9", 0);
    thief.public_key = enrolment("operator/o2", 0).public_key;
    let command = change(&lab, 1, vec![thief], &[]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::AlreadyEnrolled);
    let mut abroad = enrolment("kms/r4", 4);
    abroad.jurisdiction = "DE".into();
    let command = change(&lab, 1, vec![abroad], &[]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongJurisdiction);
}

#[test]
fn a_change_that_nobody_could_undo_is_refused() {
    let mut lab = Lab::new();
    let command = change(&lab, 1, vec![], &["operator/o4"]);
    lab.done(&command);
    let command = change(&lab, 2, vec![], &["operator/o3"]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::LocksOut);
    let command = change(&lab, 2, vec![], &["kms/r1", "kms/r2", "kms/r3"]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::LocksOut);
}

#[test]
fn a_change_is_something_and_bounded() {
    let mut lab = Lab::new();
    let many = (0..=CHANGES_MAX)
        .map(|n| enrolment(&format!("gateway/x{n}"), 0))
        .collect();
    for add in [vec![], many] {
        let command = change(&lab, 1, add, &[]);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
    let grants = |lab: &Lab, add| {
        let change = ChangeGrants {
            add,
            ..ChangeGrants::default()
        };
        prepare::change_grants(&lab.authority(), lab.approved("operator/o1", 1), change)
    };
    let one = grant("role:client", &[Action::Read], &[]);
    for add in [vec![], vec![one; CHANGES_MAX + 1]] {
        let command = grants(&lab, add);
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
}

#[test]
fn grants_are_added_once_and_removed_as_they_stand() {
    let mut lab = Lab::new();
    let one = grant("role:client", &[Action::Read], &[]);
    let command = |lab: &Lab, single_use_id, add: &[Grant], remove: &[Grant]| {
        let change = ChangeGrants {
            add: add.to_vec(),
            remove: remove.to_vec(),
            ..ChangeGrants::default()
        };
        prepare::change_grants(
            &lab.authority(),
            lab.approved("operator/o1", single_use_id),
            change,
        )
    };
    let add = command(&lab, 1, std::slice::from_ref(&one), &[]);
    assert_eq!(lab.done(&add).authority_version, 2);
    assert_eq!(lab.last_leaf().0.kind(), Kind::GrantsChanged);
    let again = command(&lab, 2, std::slice::from_ref(&one), &[]);
    assert_eq!(lab.refused(&again).0, KmsRefusal::Malformed);
    let other = grant("role:client", &[Action::Write], &[]);
    let missing = command(&lab, 2, &[], &[other]);
    assert_eq!(lab.refused(&missing).0, KmsRefusal::NotGranted);
    let remove = command(&lab, 2, &[], &[one]);
    assert_eq!(lab.done(&remove).authority_version, 3);
}

#[test]
fn member_ids_are_allocated_by_log_index_and_never_reused() {
    let mut lab = Lab::new();
    let allocate = |lab: &Lab, by: &str, replica: &str| {
        prepare::allocate_kms_id(&lab.authority(), lab.asked(by), &id(replica))
    };
    let early = change(&lab, 1, vec![enrolment("kms/r4", 1_002)], &[]);
    assert_eq!(lab.refused(&early).0, KmsRefusal::NotEnrolled);
    let command = allocate(&lab, "gateway/g1", "kms/r4");
    assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    let command = allocate(&lab, "operator/o1", "node/n4");
    assert_eq!(lab.refused(&command).0, KmsRefusal::WrongJurisdiction);
    let index = lab.at().index.0;
    let command = allocate(&lab, "operator/o1", "kms/r4");
    let r4 = lab.done(&command).node_id;
    assert_eq!(r4, 1_000 + index);
    assert_eq!(lab.last_leaf().0.kind(), Kind::MemberAllocated);
    let command = allocate(&lab, "operator/o1", "kms/r5");
    assert_eq!(lab.done(&command).node_id, r4 + 1);
    let stolen = change(&lab, 1, vec![enrolment("kms/r5", r4)], &[]);
    assert_eq!(lab.refused(&stolen).0, KmsRefusal::AlreadyEnrolled);
    let own = change(&lab, 1, vec![enrolment("kms/r4", r4)], &[]);
    lab.done(&own);
    // Removed, its id stays its own; so does a founder's, and a storage node's.
    let gone = change(&lab, 2, vec![], &["kms/r4", "kms/r3", "node/n1"]);
    lab.done(&gone);
    for (text, node_id) in [("kms/r5", r4), ("kms/r5", 3), ("node/n7", 1)] {
        let reused = change(&lab, 3, vec![enrolment(text, node_id)], &[]);
        assert_eq!(
            lab.refused(&reused).0,
            KmsRefusal::AlreadyEnrolled,
            "{text} {node_id}"
        );
    }
    let node = change(&lab, 3, vec![enrolment("node/n7", 1_234)], &[]);
    lab.done(&node);
}

#[test]
fn a_boot_is_unsealed_once_and_recorded() {
    let mut lab = Lab::new();
    let unseal = |lab: &Lab, replica: &str, boot: u8, how| {
        let authority = lab.authority();
        prepare::record_unseal(
            &authority,
            lab.asked("kms/r1"),
            &id(replica),
            [boot; 16],
            how,
        )
    };
    let command = unseal(&lab, "kms/r1", 1, UnsealHow::Custodians);
    let leaf = lab.done(&command).leaf_index;
    assert_eq!(lab.last_leaf().0.kind(), Kind::Unsealed);
    assert_eq!(
        kms_state::boot(&lab.state, &[1; 16])
            .expect("recorded")
            .leaf_index,
        leaf
    );
    assert_eq!(lab.refused(&command).0, KmsRefusal::AlreadyUnsealed);
    let other = unseal(&lab, "kms/r2", 1, UnsealHow::Custodians);
    assert_eq!(lab.refused(&other).0, KmsRefusal::AlreadyUnsealed);
    for replica in ["kms/r9", "node/n1"] {
        let command = unseal(&lab, replica, 2, UnsealHow::Custodians);
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled);
    }
    let command = unseal(&lab, "kms/r2", 2, UnsealHow::Unspecified);
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    let mut command = unseal(&lab, "kms/r2", 2, UnsealHow::Custodians);
    let Some(Command::RecordUnseal(body)) = &mut command.command else {
        panic!("an unseal")
    };
    body.boot_id = vec![2; 15].into();
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
}

#[test]
fn who_asks_is_enrolled() {
    let mut lab = Lab::new();
    let authority = lab.authority();
    let replica = id("kms/r2");
    for (requester, refusal) in [
        ("kms/r9", KmsRefusal::NotEnrolled),
        ("", KmsRefusal::Malformed),
    ] {
        let how = UnsealHow::Custodians;
        let asked = lab.asked("kms/r1");
        let mut command = prepare::record_unseal(&authority, asked, &replica, [1; 16], how);
        command.requester = if requester.is_empty() {
            String::new()
        } else {
            id(requester).to_string()
        };
        assert_eq!(lab.refused(&command).0, refusal);
    }
}
