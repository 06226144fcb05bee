//! Claims about access keys: who brings in a service principal, who is given its secret, and what ends it.

use kms_state::prepare::{self, Asked};
use kms_state::{
    ACCESS_GIVEN_MS_MAX, Denied, LEVEL_ACCESS_KEYS, Question, Refusal, access_key, access_key_id,
    access_keys, access_secret, erase_due, layout, not_erased_at_all, secrets_not_rewrapped,
};
use proto::ids::{AccessKeyId, FeatureLevel};
use proto::store::Reader as _;
use proto::v1::kms_command::Command;
use proto::v1::record::Kind as Use;
use proto::v1::{
    AbandonCustody, AccessKeyRecord, AccessKeyState, Action, ChangeEnrolment, ChangeGrants,
    ChangePolicy, Claim, CreateAccessKey, KmsCommand, KmsRefusal, Record,
};
use tlog::{Field, Kind, Purpose};

use crate::custody::{PEOPLE, WRAPPED, all_confirm, begun, finish, plan, rewrap, step};
use crate::lab::{DATASET, Lab, approval, claim, enrolment, grant, id, reason};

pub(crate) const PRINCIPAL: &str = "spiffe://ch-zrh/service/backup";
const SECRET: [u8; 150] = [0x5E; 150];

/// The access key that the request of this single-use id makes.
pub(crate) fn named(single_use: u8) -> AccessKeyId {
    access_key_id(&[single_use; 16])
}

pub(crate) fn new_key(bits: u8, principal: &str, request: u8) -> CreateAccessKey {
    CreateAccessKey {
        access_key_id: named(bits).as_str().to_owned().into(),
        principal: principal.to_owned(),
        wrapped_secret: SECRET.to_vec().into(),
        root_epoch: 1,
        claim: None,
        request_id: vec![request; 16].into(),
    }
}

pub(crate) fn create(lab: &Lab, asked: Asked, new: CreateAccessKey) -> KmsCommand {
    prepare::create_access_key(&lab.authority(), asked, Claim::default(), new)
}

/// The access key of this single-use id.
fn created(lab: &mut Lab, single_use: u8, principal: &str) -> u64 {
    let asked = lab.approved("operator/o1", single_use);
    let command = create(lab, asked, new_key(single_use, principal, single_use));
    lab.done(&command).leaf_index
}

pub(crate) fn set_state(
    lab: &Lab,
    bits: u8,
    asked: Asked,
    target: AccessKeyState,
) -> Result<KmsCommand, Refusal> {
    let which = (named(bits), target);
    prepare::set_access_key_state(&lab.state, &lab.authority(), asked, claim(""), which)
}

fn disabled(lab: &mut Lab, bits: u8) {
    let asked = lab.asked("operator/o4");
    let command = set_state(lab, bits, asked, AccessKeyState::Disabled).expect("there");
    lab.done(&command);
}

pub(crate) fn delete(lab: &Lab, bits: u8, by: &str) -> Result<KmsCommand, Refusal> {
    let (authority, asked) = (lab.authority(), lab.asked(by));
    prepare::delete_access_key(&lab.state, &authority, asked, claim(""), named(bits))
}

pub(crate) fn given(lab: &Lab, bits: u8, by: &str, request: u8) -> Result<Record, Refusal> {
    let which = (named(bits), 3_600);
    let given =
        prepare::access_secret(&lab.state, &id(by), [request; 16], Claim::default(), which)?;
    Ok(given.0)
}

fn record(lab: &Lab, bits: u8) -> AccessKeyRecord {
    access_key(&lab.state, &named(bits)).expect("created")
}

fn principals(lab: &Lab) -> Vec<String> {
    lab.authority().set().service_principals.clone()
}

/// Red with `ignore_approvals`.
#[test]
fn a_service_principal_comes_in_by_dual_control_and_its_secret_is_shown_to_who_asked() {
    let mut lab = Lab::new();
    let version = lab.authority().version();
    for (approvals, refused) in [
        (vec![], KmsRefusal::TooFewApprovals),
        (
            vec![approval("operator/o2", 1)],
            KmsRefusal::TooFewApprovals,
        ),
        (
            vec![approval("operator/o2", 1), approval("operator/o1", 1)],
            KmsRefusal::SelfApproval,
        ),
    ] {
        let asked = Asked {
            approvals,
            ..lab.asked("operator/o1")
        };
        let command = create(&lab, asked, new_key(1, PRINCIPAL, 1));
        assert_eq!(lab.refused(&command).0, refused);
    }
    for by in ["gateway/g1", "client/s1", "kms/r1", "operator/stranger"] {
        let command = create(&lab, lab.approved(by, 1), new_key(1, PRINCIPAL, 1));
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{by}");
    }
    let size = lab.size();
    let leaf = created(&mut lab, 1, PRINCIPAL);
    assert_eq!((leaf, lab.size()), (size, size + 1));
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::AccessKeyCreated);
    assert_eq!(shown.fields[&Field::Actor], id("operator/o1").to_string());
    assert!(shown.fields[&Field::Approvals].contains("operator/o3"));
    let details = format!(
        "{{\"access_key\":\"{}\",\"principal\":\"{PRINCIPAL}\",\"state_version\":1,\"root_epoch\":1,\
         \"shown_to\":\"spiffe://ch-zrh/operator/o1\",\"authority_version\":{}}}",
        named(1),
        version + 1
    );
    assert_eq!(shown.fields[&Field::Details], details);
    // Nothing in the clear but that one was made.
    let public = lab.state.value(&layout::leaf(leaf)).expect("stored");
    let public = String::from_utf8(public.to_vec()).expect("JSON");
    assert!(
        !public.contains("backup") && !public.contains("RDT"),
        "{public}"
    );
    assert_eq!(principals(&lab), [PRINCIPAL]);
    assert_eq!(lab.authority().version(), version + 1);
    let held = record(&lab, 1);
    assert_eq!(held.state(), AccessKeyState::Enabled);
    assert_eq!((held.created_leaf, held.root_epoch), (leaf, 1));
    let secret = access_secret(&lab.state, &named(1)).expect("stored");
    assert_eq!(secret, SECRET[..]);
}

#[test]
fn what_is_no_access_key_of_the_region_is_refused() {
    let mut lab = Lab::new();
    let new = || new_key(1, PRINCIPAL, 1);
    let malformed = KmsRefusal::Malformed;
    for (bent, refused) in [
        (
            CreateAccessKey {
                access_key_id: "AKIAAAAAAAAAAAAAAAAA".into(),
                ..new()
            },
            malformed,
        ),
        (new_key(2, PRINCIPAL, 1), malformed),
        (new_key(2, PRINCIPAL, 2), malformed),
        (
            CreateAccessKey {
                principal: id("client/s1").to_string(),
                ..new()
            },
            malformed,
        ),
        (
            CreateAccessKey {
                principal: "backup".into(),
                ..new()
            },
            malformed,
        ),
        (
            CreateAccessKey {
                principal: "spiffe://de-fra/service/backup".into(),
                ..new()
            },
            KmsRefusal::WrongJurisdiction,
        ),
        (
            // The length of a secret that nobody wrapped.
            CreateAccessKey {
                wrapped_secret: vec![7; 32].into(),
                ..new()
            },
            malformed,
        ),
        (
            CreateAccessKey {
                root_epoch: 2,
                ..new()
            },
            KmsRefusal::RootMoved,
        ),
        (
            CreateAccessKey {
                request_id: vec![1; 15].into(),
                ..new()
            },
            malformed,
        ),
    ] {
        let command = create(&lab, lab.approved("operator/o1", 1), bent.clone());
        assert_eq!(lab.refused(&command).0, refused, "{bent:?}");
    }
    // Shown, a secret has left: what a person asks for is released once witnesses have seen its record, and this is not.
    for person in ["investigation", "support"] {
        let asked = lab.approved("operator/o1", 1);
        let command = prepare::create_access_key(&lab.authority(), asked, claim(person), new());
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotGranted, "{person}");
    }
    // It has no key: nobody connects as a service principal, whoever approves it.
    let enrol = ChangeEnrolment {
        add: vec![enrolment("service/backup", 0)],
        ..ChangeEnrolment::default()
    };
    let asked = lab.approved("operator/o1", 1);
    let enrol = prepare::change_enrolment(&lab.authority(), asked, enrol);
    assert_eq!(lab.refused(&enrol).0, malformed);
}

/// The set travels in one message: a principal that did not fit would keep every other change from the nodes.
#[test]
fn no_principal_comes_in_that_the_enrolment_set_has_no_room_for() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    disabled(&mut lab, 1);
    let text = |lab: &mut Lab, bytes: usize, approvals: u8| {
        let change = ChangePolicy {
            text: "/".repeat(bytes),
            claim: None,
        };
        let asked = lab.approved("operator/o1", approvals);
        let command = prepare::change_policy(&lab.authority(), asked, change);
        lab.done(&command);
    };
    text(&mut lab, kms_state::TEXT_BYTES_MAX, 20);
    let full = KmsRefusal::TooManyAccessKeys;
    let asked = lab.approved("operator/o1", 2);
    let command = create(&lab, asked, new_key(2, PRINCIPAL, 2));
    assert_eq!(lab.refused(&command).0, full);
    let asked = lab.approved("operator/o1", 3);
    let command = set_state(&lab, 1, asked, AccessKeyState::Enabled).expect("there");
    assert_eq!(lab.refused(&command).0, full);
    text(&mut lab, kms_state::TEXT_BYTES_MAX / 2, 21);
    created(&mut lab, 2, PRINCIPAL);
    // Another of a principal that is in takes no room.
    text(&mut lab, kms_state::TEXT_BYTES_MAX, 22);
    created(&mut lab, 4, PRINCIPAL);
    disabled(&mut lab, 2);
}

#[test]
fn a_creation_that_is_asked_for_again_has_effect_once_and_is_nobody_elses() {
    let mut lab = Lab::new();
    let leaf = created(&mut lab, 1, PRINCIPAL);
    let size = lab.size();
    // Another leader has made another secret for the retry: the first one stays.
    let again = CreateAccessKey {
        wrapped_secret: vec![0x77; 150].into(),
        ..new_key(1, PRINCIPAL, 1)
    };
    let command = create(&lab, lab.approved("operator/o1", 1), again);
    assert_eq!(lab.done(&command).leaf_index, leaf);
    assert_eq!(lab.size(), size);
    let secret = access_secret(&lab.state, &named(1)).expect("stored");
    assert_eq!(secret, SECRET[..]);
    for (by, new) in [
        ("operator/o4", new_key(1, PRINCIPAL, 1)),
        (
            "operator/o1",
            new_key(1, "spiffe://ch-zrh/service/other", 1),
        ),
    ] {
        let command = create(&lab, lab.approved(by, 9), new);
        assert_eq!(lab.refused(&command).0, KmsRefusal::AccessKeyExists, "{by}");
    }
    // The approvals served once, and for no other access key.
    let command = create(
        &lab,
        lab.approved("operator/o1", 1),
        new_key(2, PRINCIPAL, 2),
    );
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
}

/// Red with `ignore_approvals`.
#[test]
fn one_operator_takes_a_principal_out_and_three_bring_it_back() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    let before = lab.authority().version();
    for by in ["gateway/g1", "auditor/a1", "kms/r1"] {
        let command = set_state(&lab, 1, lab.asked(by), AccessKeyState::Disabled);
        let command = command.expect("there");
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{by}");
    }
    disabled(&mut lab, 1);
    assert_eq!(lab.last_leaf().0.kind(), Kind::AccessKeyDisabled);
    assert_eq!(principals(&lab), [""; 0]);
    assert_eq!(lab.authority().version(), before + 1);
    // Done again, it is done and not on record twice.
    let size = lab.size();
    disabled(&mut lab, 1);
    assert_eq!(lab.size(), size);

    let alone = set_state(&lab, 1, lab.asked("operator/o1"), AccessKeyState::Enabled);
    let alone = alone.expect("there");
    assert_eq!(lab.refused(&alone).0, KmsRefusal::TooFewApprovals);
    let asked = lab.approved("operator/o1", 2);
    let command = set_state(&lab, 1, asked, AccessKeyState::Enabled).expect("there");
    lab.done(&command);
    assert_eq!(lab.last_leaf().0.kind(), Kind::AccessKeyEnabled);
    assert_eq!(principals(&lab), [PRINCIPAL]);
    assert_eq!(record(&lab, 1).state_version, 3);
    let stale = lab.refused(&alone);
    assert_eq!(stale.0, KmsRefusal::AuthorityMoved);
}

#[test]
fn a_principal_stays_while_one_of_its_access_keys_is_enabled() {
    let mut lab = Lab::new();
    let other = "spiffe://ch-zrh/service/analysis";
    created(&mut lab, 1, PRINCIPAL);
    let version = lab.authority().version();
    created(&mut lab, 2, PRINCIPAL);
    assert_eq!(lab.authority().version(), version, "it is in already");
    created(&mut lab, 3, other);
    assert_eq!(principals(&lab), [other, PRINCIPAL]);
    disabled(&mut lab, 1);
    assert_eq!(principals(&lab), [other, PRINCIPAL]);
    disabled(&mut lab, 2);
    assert_eq!(principals(&lab), [other]);
    let mut ids = [1, 2, 3].map(named);
    ids.sort();
    let listed = access_keys(&lab.state, Some(&ids[0]), 10);
    let names: Vec<_> = listed.iter().map(|held| &held.access_key_id[..]).collect();
    assert_eq!(
        names,
        [ids[1].as_str().as_bytes(), ids[2].as_str().as_bytes()]
    );
}

/// A principal of no enabled access key may do nothing, whatever is granted to it.
#[test]
fn grants_to_a_service_principal_count_while_it_is_in() {
    let mut lab = Lab::with_key();
    let granted = grant(PRINCIPAL, &[Action::Read, Action::Keys], &["service"]);
    let change = ChangeGrants {
        add: vec![granted],
        ..ChangeGrants::default()
    };
    let command = prepare::change_grants(&lab.authority(), lab.approved("operator/o1", 9), change);
    lab.done(&command);
    let principal = PRINCIPAL.parse().expect("an identity");
    let may = |lab: &Lab, action, purpose: &str| {
        let question = Question {
            principal: &principal,
            dataset: &DATASET,
            action,
            purpose: &purpose.parse::<Purpose>().expect("a purpose"),
        };
        lab.authority().may(question).map(drop)
    };
    assert_eq!(may(&lab, Action::Read, "service"), Err(Denied::NotEnrolled));
    created(&mut lab, 1, PRINCIPAL);
    assert_eq!(may(&lab, Action::Read, "service"), Ok(()));
    assert_eq!(may(&lab, Action::List, "service"), Err(Denied::NoGrant));
    assert_eq!(may(&lab, Action::Keys, "service"), Err(Denied::Role));
    assert_eq!(may(&lab, Action::Read, "support"), Err(Denied::Role));
    disabled(&mut lab, 1);
    assert_eq!(may(&lab, Action::Read, "service"), Err(Denied::NotEnrolled));
}

/// A verdict on what a gateway does for a principal is bound to the set that names it. Red with `unbound_verdict`.
#[test]
fn an_open_decided_before_its_principal_was_taken_out_is_refused() {
    let mut lab = Lab::with_key();
    created(&mut lab, 1, PRINCIPAL);
    let open = lab.open(1).expect("granted");
    let version = lab.authority().version();
    let decided = prepare::batch(lab.asked("kms/r1"), version, vec![open]);
    disabled(&mut lab, 1);
    assert_eq!(
        lab.refused(&decided),
        (KmsRefusal::AuthorityMoved, version + 1)
    );
}

#[test]
fn a_secret_is_given_to_gateways_alone_on_record_and_for_an_hour_at_most() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    let size = lab.size();
    for by in [
        "client/s1",
        "operator/o1",
        "auditor/a1",
        "kms/r1",
        "node/n1",
    ] {
        let asked = given(&lab, 1, by, 9).expect("there");
        let answer = lab.record(asked);
        assert_eq!(reason(&answer), KmsRefusal::NotGranted, "{by}");
    }
    let bent = |change: &dyn Fn(&mut Record)| {
        let mut asked = given(&lab, 1, "gateway/g1", 9).expect("there");
        change(&mut asked);
        asked
    };
    let seconds = |asked: &mut Record, seconds| match &mut asked.kind {
        Some(Use::AccessKey(issue)) => issue.seconds = seconds,
        _ => panic!("of another kind"),
    };
    let tried = [
        (bent(&|a| seconds(a, 0)), KmsRefusal::Malformed),
        (bent(&|a| seconds(a, 3_601)), KmsRefusal::Malformed),
        (bent(&|a| seconds(a, u32::MAX)), KmsRefusal::Malformed),
        (bent(&|a| a.state_version += 1), KmsRefusal::KeyStateMoved),
        (
            bent(&|a| a.dataset_id = vec![1; 16].into()),
            KmsRefusal::Malformed,
        ),
        (
            bent(&|a| a.claim = Some(claim("investigation"))),
            KmsRefusal::Malformed,
        ),
    ];
    for (asked, refused) in tried {
        let answer = lab.record(asked.clone());
        assert_eq!(reason(&answer), refused, "{asked:?}");
    }
    assert_eq!(lab.size(), size, "nothing of it is on record");

    let asked = given(&lab, 1, "gateway/g1", 1).expect("there");
    let answer = lab.record(asked.clone());
    assert_eq!((answer.refused, answer.leaf_index), (0, size));
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::AccessSecret);
    assert_eq!(shown.fields[&Field::Actor], id("gateway/g1").to_string());
    let until = lab.now + ACCESS_GIVEN_MS_MAX;
    let details = format!(
        "{{\"access_key\":\"{}\",\"principal\":\"{PRINCIPAL}\",\"expires_at_ms\":{until}}}",
        named(1)
    );
    assert_eq!(shown.fields[&Field::Details], details);
    assert_eq!(record(&lab, 1).given_until_ms, until);
    // A retry reuses the leaf and gives no longer; another request has its own.
    lab.wait(30_000);
    let again = lab.record(asked);
    assert!(again.reused && again.leaf_index == size);
    assert_eq!(record(&lab, 1).given_until_ms, until);
    let other = given(&lab, 1, "gateway/g2", 2).expect("there");
    assert_eq!(lab.record(other).leaf_index, size + 1);
    assert_eq!(record(&lab, 1).given_until_ms, until + 30_000);

    let late = given(&lab, 1, "gateway/g1", 3).expect("there");
    disabled(&mut lab, 1);
    let answer = lab.record(late);
    assert_eq!(reason(&answer), KmsRefusal::KeyStateMoved);
    let refused = given(&lab, 1, "gateway/g1", 3);
    assert_eq!(refused.err(), Some(Refusal::AccessKeyDisabled));
    let unknown = given(&lab, 2, "gateway/g1", 3);
    assert_eq!(unknown.err(), Some(Refusal::NoSuchAccessKey));
}

/// An access key has no dataset, and a leaf of one stands in no dataset's chain: beside opens in one entry, too.
#[test]
fn secrets_and_opens_share_an_entry_and_no_leaf() {
    let mut lab = Lab::with_key();
    created(&mut lab, 1, PRINCIPAL);
    let size = lab.size();
    let records = vec![
        lab.open(1).expect("granted"),
        given(&lab, 1, "gateway/g1", 2).expect("there"),
        lab.open(3).expect("granted"),
        // The id of what waits, and of what was given: each is another request.
        given(&lab, 1, "gateway/g1", 3).expect("there"),
        lab.open(2).expect("granted"),
    ];
    let answers = lab.records(records);
    let reused = KmsRefusal::RequestIdReused;
    assert_eq!(reason(&answers[3]), reused);
    assert_eq!(reason(&answers[4]), reused);
    assert_eq!(lab.size(), size + 2);
    assert_eq!(answers[0].leaf_index, answers[2].leaf_index);
    assert_ne!(answers[0].leaf_index, answers[1].leaf_index);
}

#[test]
fn a_deleted_access_key_leaves_no_secret_and_every_replica_is_to_erase_it() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    let early = delete(&lab, 1, "operator/o1").expect("there");
    assert_eq!(lab.refused(&early).0, KmsRefusal::WrongState);
    disabled(&mut lab, 1);
    let by_gateway = delete(&lab, 1, "gateway/g1").expect("there");
    assert_eq!(lab.refused(&by_gateway).0, KmsRefusal::NotEnrolled);
    assert_eq!(erase_due(&lab.state), None);
    let command = delete(&lab, 1, "operator/o1").expect("there");
    let leaf = lab.done(&command).leaf_index;
    assert_eq!(lab.last_leaf().0.kind(), Kind::AccessKeyDeleted);
    assert!(access_key(&lab.state, &named(1)).is_none());
    let holds = |value: &[u8]| value.windows(SECRET.len()).any(|at| at == SECRET);
    assert!(!lab.state.iter().any(|(_, value)| holds(value)));
    let due = erase_due(&lab.state).expect("something ended");
    assert_eq!((due.leaf.0, due.index.0), (leaf, lab.log.len() as u64));
    assert_eq!(not_erased_at_all(&lab.state).len(), 3);
    for by in ["kms/r1", "kms/r2", "kms/r3"] {
        let said = prepare::confirm_erased(&lab.authority(), lab.asked(by), due.leaf);
        lab.done(&said);
    }
    assert_eq!(not_erased_at_all(&lab.state), []);
    assert_eq!(
        delete(&lab, 1, "operator/o1").err(),
        Some(Refusal::NoSuchAccessKey)
    );
    // Its id is not free again: the approvals that it is made of served once, and others do not make it.
    for (approvals, request, refused) in [
        (1, 1, KmsRefusal::ApprovalReplayed),
        (7, 1, KmsRefusal::Malformed),
        (7, 7, KmsRefusal::Malformed),
    ] {
        let new = new_key(1, PRINCIPAL, request);
        let command = create(&lab, lab.approved("operator/o1", approvals), new);
        assert_eq!(lab.refused(&command).0, refused, "{approvals} {request}");
    }
}

#[test]
fn a_new_root_key_comes_into_force_with_every_secret_under_it() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    created(&mut lab, 2, PRINCIPAL);
    let command = begun(&lab, 3, plan(7, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 7);
    let early = finish(&lab, 7);
    assert_eq!(lab.refused(&early).0, KmsRefusal::NotRewrapped);
    let mut bare = rewrap(&lab, 7);
    if let Some(Command::RewrapKeks(rewrap)) = &mut bare.command {
        rewrap.secrets[0].wrapped_secret = vec![7; 32].into();
    }
    assert_eq!(lab.refused(&bare).0, KmsRefusal::Malformed);
    let command = rewrap(&lab, 7);
    lab.done(&command);
    assert_eq!(secrets_not_rewrapped(&lab.state, 9), []);
    // One deleted meanwhile, and one made meanwhile under the root key in force.
    disabled(&mut lab, 2);
    let command = delete(&lab, 2, "operator/o1").expect("there");
    lab.done(&command);
    created(&mut lab, 4, PRINCIPAL);
    let early = finish(&lab, 7);
    assert_eq!(lab.refused(&early).0, KmsRefusal::NotRewrapped);
    let command = rewrap(&lab, 7);
    lab.done(&command);
    let command = finish(&lab, 7);
    lab.done(&command);
    let (_, shown) = lab.last_leaf();
    assert!(shown.fields[&Field::Details].contains("\"access_keys\":2"));
    for bits in [1, 4] {
        assert_eq!(record(&lab, bits).root_epoch, 2);
        let secret = access_secret(&lab.state, &named(bits)).expect("stored");
        assert_eq!(secret, WRAPPED[..]);
    }
    let late = create(
        &lab,
        lab.approved("operator/o1", 8),
        new_key(8, PRINCIPAL, 8),
    );
    assert_eq!(lab.refused(&late), (KmsRefusal::RootMoved, 2));
}

/// The leader that rewraps has not seen the deletion: its entry has the secret in it, and stands after what was erased.
#[test]
fn a_secret_that_is_rewrapped_after_its_deletion_is_erased_once_more() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    created(&mut lab, 2, PRINCIPAL);
    let command = begun(&lab, 3, plan(7, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 7);
    let behind = rewrap(&lab, 7);
    disabled(&mut lab, 2);
    let command = delete(&lab, 2, "operator/o1").expect("there");
    lab.done(&command);
    let all_erase = |lab: &mut Lab| {
        let due = erase_due(&lab.state).expect("something ended");
        for by in ["kms/r1", "kms/r2", "kms/r3"] {
            let said = prepare::confirm_erased(&lab.authority(), lab.asked(by), due.leaf);
            lab.done(&said);
        }
        due
    };
    let first = all_erase(&mut lab);
    assert_eq!(not_erased_at_all(&lab.state), []);
    lab.done(&behind);
    let due = erase_due(&lab.state).expect("something ended");
    assert_eq!((due.leaf, due.index.0), (first.leaf, lab.log.len() as u64));
    assert_eq!(not_erased_at_all(&lab.state).len(), 3);
    let size = lab.size();
    all_erase(&mut lab);
    assert_eq!(not_erased_at_all(&lab.state), []);
    assert_eq!(lab.size(), size + 3, "each says so on record");
    // Of keys that are all there nothing is to be erased.
    created(&mut lab, 4, PRINCIPAL);
    let command = rewrap(&lab, 7);
    lab.done(&command);
    assert_eq!(erase_due(&lab.state), Some(due));
}

#[test]
fn secrets_wrapped_for_a_change_that_was_given_up_are_dropped() {
    let mut lab = Lab::new();
    created(&mut lab, 1, PRINCIPAL);
    let command = begun(&lab, 3, plan(7, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 7);
    let command = rewrap(&lab, 7);
    lab.done(&command);
    let abandon = AbandonCustody {
        set_id: vec![7; 16].into(),
        ..AbandonCustody::default()
    };
    let command = step(&lab, "operator/o1", Command::AbandonCustody(abandon));
    lab.done(&command);
    assert_eq!(secrets_not_rewrapped(&lab.state, 9).len(), 1);
    assert_eq!(record(&lab, 1).root_epoch, 1);
}

/// Builds from before service principals refuse such a grant: taken by one and refused by the other, states would part.
#[test]
fn below_its_level_no_grant_speaks_of_service_principals() {
    for principal in [PRINCIPAL, "role:service"] {
        let mut lab = Lab::new();
        lab.level = FeatureLevel(LEVEL_ACCESS_KEYS.0 - 1);
        let change = ChangeGrants {
            add: vec![grant(principal, &[Action::Read], &["service"])],
            ..ChangeGrants::default()
        };
        let command = prepare::change_grants(
            &lab.authority(),
            lab.approved("operator/o1", 9),
            change.clone(),
        );
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
        lab.level = LEVEL_ACCESS_KEYS;
        lab.done(&command);
    }
}
