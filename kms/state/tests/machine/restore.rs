//! Claims about backups: on record, waited for, and restored whole or not at all.

use kms_state::prepare;
use kms_state::{AUTHORITY_STEP, At, Refusal, apply, custody, invariant, layout, restoring};
use prost::Message as _;
use proto::ids::{FeatureLevel, LogIndex, NodeId, Role};
use proto::store::{MemoryStore, Reader as _, Writer as _};
use proto::v1::kms_command::Command;
use proto::v1::{
    AccessKeyRecord, AccessKeyState, BackupRecord, BeginBackup, ChangeEnrolment, ConfirmBackup,
    EnrolmentSet, FinishRestore, HandOverStage, KmsAnswer, KmsCommand, KmsRefusal, KmsRegion,
    RestoreRows, StateRow, WitnessPolicy, kms_answer,
};
use tlog::{Field, Kind, SignatureType, SignerKey};

use crate::hand_over;
use crate::lab::{DATASET, HOUR, Lab, approval, claim, enrolment, genesis, id, region};
use crate::regions;

fn record(lab: &Lab, root_epoch: u32, digest: u8) -> BackupRecord {
    let tree = kms_state::frontier(&lab.state);
    BackupRecord {
        digest: vec![digest; 32].into(),
        tree_size: tree.size(),
        root_hash: tree.root().0.to_vec().into(),
        root_epoch,
        taken_at_ms: lab.now,
        bytes: 1,
    }
}

fn confirm(lab: &Lab, by: &str, backup: BackupRecord) -> KmsCommand {
    let confirm = ConfirmBackup {
        backup: Some(backup),
        claim: None,
    };
    prepare::custody(
        &lab.authority(),
        lab.asked(by),
        Command::ConfirmBackup(confirm),
    )
}

#[test]
fn a_backup_is_an_operators_to_take_and_to_confirm_and_both_are_on_record() {
    let mut lab = Lab::with_key();
    let begin = |lab: &Lab, by: &str| {
        let begin = Command::BeginBackup(BeginBackup { claim: None });
        prepare::custody(&lab.authority(), lab.asked(by), begin)
    };
    let by_gateway = begin(&lab, "gateway/g1");
    assert_eq!(lab.refused(&by_gateway).0, KmsRefusal::NotEnrolled);
    let begun = begin(&lab, "operator/o1");
    lab.done(&begun);
    assert_eq!(lab.last_leaf().0.kind(), Kind::BackupBegun);
    let (first, earlier) = (record(&lab, 1, 1), record(&lab, 1, 2));
    let by_gateway = confirm(&lab, "gateway/g1", first.clone());
    assert_eq!(lab.refused(&by_gateway).0, KmsRefusal::NotEnrolled);
    let of_another_root = confirm(&lab, "operator/o1", record(&lab, 2, 1));
    assert_eq!(lab.refused(&of_another_root).0, KmsRefusal::RootMoved);
    let mut short = first.clone();
    short.digest = vec![1; 31].into();
    let short = confirm(&lab, "operator/o1", short);
    assert_eq!(lab.refused(&short).0, KmsRefusal::Malformed);
    let confirmed = confirm(&lab, "operator/o1", first.clone());
    lab.done(&confirmed);
    assert_eq!(lab.last_leaf().0.kind(), Kind::BackupConfirmed);
    let held = |lab: &Lab| custody(&lab.state).expect("initialised").backup;
    assert_eq!(held(&lab), Some(first.clone()));
    // Again, from who saw no answer: no second leaf. An earlier one does not take its place.
    let size = kms_state::frontier(&lab.state).size();
    let again = confirm(&lab, "operator/o1", first.clone());
    lab.done(&again);
    assert_eq!(kms_state::frontier(&lab.state).size(), size);
    let earlier = confirm(&lab, "operator/o1", earlier);
    lab.done(&earlier);
    assert_eq!(held(&lab), Some(first));
}

/// A cluster that has no region.
struct Anew {
    state: MemoryStore,
    index: u64,
}

impl Anew {
    fn new() -> Self {
        Self {
            state: MemoryStore::default(),
            index: 0,
        }
    }

    fn apply(&mut self, command: &KmsCommand) -> Result<(), KmsRefusal> {
        self.index += 1;
        let at = At {
            index: LogIndex(self.index),
            voters: 3,
            level: FeatureLevel(4),
        };
        let before = self.state.clone();
        let answer = apply(at, &command.encode_to_vec(), &mut self.state).expect("known");
        match KmsAnswer::decode(answer).expect("an answer").answer {
            Some(kms_answer::Answer::Refused(refused)) => {
                assert_eq!(self.state, before, "a refused command changed the state");
                Err(refused.reason())
            }
            Some(kms_answer::Answer::Done(_)) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn rows(&mut self, digest: u8, number: u64, rows: &[StateRow]) -> Result<(), KmsRefusal> {
        let rows = RestoreRows {
            digest: vec![digest; 32].into(),
            number,
            rows: rows.to_vec(),
        };
        self.apply(&command(Command::RestoreRows(rows), 0))
    }

    /// Everything of a backup but its end.
    fn filled(lab: &Lab) -> Self {
        let mut anew = Self::new();
        for (number, rows) in (0..).zip(rows_of(lab).chunks(7)) {
            anew.rows(9, number, rows).expect("in order");
        }
        anew
    }
}

fn command(what: Command, now_ms: u64) -> KmsCommand {
    KmsCommand {
        now_ms,
        authority_version: 0,
        salts: vec![0x77; 32].into(),
        approvals: vec![approval("operator/o2", 0xE0), approval("operator/o3", 0xE0)],
        requester: id("operator/o1").to_string(),
        command: Some(what),
    }
}

fn rows_of(lab: &Lab) -> Vec<StateRow> {
    let rows = lab.state.iter().filter(|(key, _)| *key != layout::REGION);
    rows.map(|(key, value)| StateRow {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
    })
    .collect()
}

/// The first set of a new cluster: other replicas, the same people.
fn genesis_anew() -> EnrolmentSet {
    let mut set = genesis();
    set.enrolments
        .retain(|held| !held.identity.contains("/kms/"));
    for (name, node_id) in [("kms/s1", 11), ("kms/s2", 12), ("kms/s3", 13)] {
        set.enrolments.push(enrolment(name, node_id));
    }
    set.enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    set
}

fn finish(lab: &Lab) -> FinishRestore {
    FinishRestore {
        backup: Some(record(lab, 1, 9)),
        region: Some(region()),
        rows: rows_of(lab).len() as u64,
        enrolment_set: genesis_anew().encode_to_vec().into(),
        witnessed_size: 0,
        policy: None,
        claim: Some(proto::v1::Claim {
            actor: id("operator/o1").to_string(),
            ..claim("")
        }),
    }
}

fn finished(anew: &mut Anew, what: FinishRestore, now: u64) -> Result<(), KmsRefusal> {
    anew.apply(&command(Command::FinishRestore(what), now))
}

#[test]
fn a_restored_region_is_the_backups_with_new_replicas_and_its_log_goes_on() {
    let lab = Lab::with_key();
    let mut anew = Anew::filled(&lab);
    // Nothing of it counts before the last command, whatever a driver looks at.
    assert!(kms_state::region(&anew.state).is_none());
    assert_eq!(kms_state::authority_version(&anew.state), 0);
    assert_eq!(kms_state::region_time(&anew.state).0, 0);
    assert!(kms_state::witness_policy(&anew.state).is_none());
    let later = lab.now + 300 * HOUR;
    finished(&mut anew, finish(&lab), later).expect("restored");
    invariant::all(&anew.state).expect("all hold");
    assert!(restoring(&anew.state).is_none());
    assert_eq!(kms_state::region_time(&anew.state).0, later);
    for (key, value) in lab.state.iter() {
        let own = [layout::AUTHORITY, layout::AUTHORITY_VERSION, layout::TIME];
        let changed = own.contains(&key) || key == layout::FRONTIER || key[0] == layout::HASHES;
        assert!(
            changed || anew.state.value(key).as_deref() == Some(value),
            "{key:?} is another"
        );
    }
    let tree = kms_state::frontier(&lab.state);
    assert_eq!(kms_state::frontier(&anew.state).size(), tree.size() + 1);
    let leaf = anew
        .state
        .value(&layout::leaf(tree.size()))
        .expect("a leaf");
    assert_eq!(
        tlog::Leaf::parse(&leaf).expect("a leaf").kind(),
        Kind::Restored
    );
    let set = kms_state::authority_set(&anew.state).expect("a set");
    assert_eq!(set.version, lab.authority().version() + AUTHORITY_STEP);
    let replicas = |set: &EnrolmentSet| {
        let names = set.enrolments.iter().map(|held| held.identity.clone());
        names
            .filter(|name| name.contains("/kms/"))
            .collect::<Vec<_>>()
    };
    assert_eq!(replicas(&set), replicas(&genesis_anew()));
    for (node_id, owner) in [(1, "kms/r1"), (11, "kms/s1")] {
        let found = kms_state::member(&anew.state, Role::Kms, NodeId(node_id));
        assert_eq!(found, Some(id(owner)));
    }
    // That the backup is there, it has shown.
    let held = custody(&anew.state).expect("initialised").backup;
    assert_eq!(held, Some(record(&lab, 1, 9)));
    let again = finished(&mut anew, finish(&lab), later);
    assert_eq!(again, Err(KmsRefusal::AlreadyInitialised));
    let rows = anew.rows(9, 0, &rows_of(&lab));
    assert_eq!(rows, Err(KmsRefusal::AlreadyInitialised));
}

/// An access key that was revoked after the backup is in it as it was before. What is under the root key opens after the
/// restore all the same, once three operators enable it.
#[test]
fn a_restored_region_has_its_access_keys_and_none_of_them_enabled() {
    use crate::access_keys::{PRINCIPAL, create, named, new_key, set_state};
    let mut lab = Lab::with_key();
    for (bits, principal) in [(1, PRINCIPAL), (2, "spiffe://ch-zrh/service/analysis")] {
        let asked = lab.approved("operator/o1", bits);
        let command = create(&lab, asked, new_key(bits, principal, bits));
        lab.done(&command);
    }
    let by_one = lab.asked("operator/o4");
    let command = set_state(&lab, 2, by_one, AccessKeyState::Disabled).expect("there");
    lab.done(&command);
    let mut anew = Anew::filled(&lab);
    finished(&mut anew, finish(&lab), lab.now).expect("restored");
    invariant::all(&anew.state).expect("all hold");
    let held = |state: &MemoryStore, bits| {
        let id = named(bits);
        let record = kms_state::access_key(state, &id).expect("there");
        (record, kms_state::access_secret(state, &id).expect("there"))
    };
    let (before, secret) = held(&lab.state, 1);
    let disabled = AccessKeyRecord {
        state: AccessKeyState::Disabled.into(),
        state_version: before.state_version + 1,
        ..before
    };
    assert_eq!(held(&anew.state, 1), (disabled, secret));
    assert_eq!(held(&anew.state, 2), held(&lab.state, 2));
    let set = kms_state::authority_set(&anew.state).expect("a set");
    assert_eq!(set.service_principals, [""; 0]);
    let restored = Lab {
        state: anew.state.clone(),
        ..lab.clone()
    };
    let (_, shown) = restored.last_leaf();
    assert!(shown.fields[&Field::Details].contains("\"access_keys_disabled\":1"));
}

#[test]
fn rows_are_of_one_backup_in_order_each_once_and_decode() {
    let lab = Lab::with_key();
    let rows = rows_of(&lab);
    let mut anew = Anew::new();
    assert_eq!(anew.rows(9, 1, &rows[..2]), Err(KmsRefusal::OtherRestore));
    anew.rows(9, 0, &rows[..2]).expect("the first");
    let before = anew.state.clone();
    anew.rows(9, 0, &rows[..2]).expect("sent again");
    assert_eq!(anew.state, before);
    assert_eq!(anew.rows(8, 1, &rows[2..4]), Err(KmsRefusal::OtherRestore));
    assert_eq!(anew.rows(9, 2, &rows[2..4]), Err(KmsRefusal::OtherRestore));
    assert_eq!(anew.rows(9, 1, &rows[1..4]), Err(KmsRefusal::Malformed));
    let row = |key: &[u8], value: &[u8]| StateRow {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
    };
    for bad in [
        row(b"", b""),
        row(layout::REGION, &region().encode_to_vec()),
        row(layout::RESTORE, b""),
        row(&layout::restored(b"A"), b""),
        row(&[layout::KEKS; 16], b""),
        row(&[layout::KEKS; 17], &[0xFF]),
        row(layout::TIME, b"late"),
        row(layout::WITNESSES, &[0xFF]),
        row(&[layout::HASHES; 10], &[0; 31]),
        row(&[layout::ACCESS_KEYS; 21], b""),
        row(&[layout::ACCESS_KEYS; 17], b""),
        row(&[layout::ACCESS_SECRETS; 21], b""),
        row(&[layout::MEMBERS; 10], b"nobody"),
        row(&[layout::REGIONS; 7], b""),
        row(&[layout::REGIONS; 34], b""),
    ] {
        let refused = Anew::new().rows(9, 0, std::slice::from_ref(&bad));
        assert_eq!(refused, Err(KmsRefusal::Malformed), "{bad:?}");
    }
    // The ceremony does not begin in the middle of it.
    let init = prepare::init(lab.asked("kms/r1"), region(), &genesis());
    assert_eq!(anew.apply(&init), Err(KmsRefusal::OtherRestore));
}

#[test]
fn a_restore_that_is_not_whole_or_not_approved_by_people_of_the_backup_changes_nothing() {
    let lab = Lab::with_key();
    let now = lab.now;
    let mut anew = Anew::filled(&lab);
    let good = || finish(&lab);
    let mut refused = |change: &dyn Fn(&mut FinishRestore)| {
        let mut what = good();
        change(&mut what);
        finished(&mut anew, what, now).expect_err("refused")
    };
    let fewer = refused(&|what| what.rows -= 1);
    assert_eq!(fewer, KmsRefusal::OtherRestore);
    let backup = |change: &dyn Fn(&mut BackupRecord)| {
        let mut backup = record(&lab, 1, 9);
        change(&mut backup);
        Some(backup)
    };
    let other = backup(&|backup| backup.digest = vec![8; 32].into());
    let other = refused(&|what| what.backup = other.clone());
    assert_eq!(other, KmsRefusal::OtherRestore);
    let size = backup(&|backup| backup.tree_size += 1);
    let size = refused(&|what| what.backup = size.clone());
    assert_eq!(size, KmsRefusal::Malformed);
    let tree = backup(&|backup| backup.root_hash = vec![8; 32].into());
    let tree = refused(&|what| what.backup = tree.clone());
    assert_eq!(tree, KmsRefusal::Malformed);
    for abroad in [
        |region: &mut KmsRegion| region.region = "de-fra".to_owned(),
        |region: &mut KmsRegion| region.jurisdiction = "DE".to_owned(),
    ] {
        let abroad = refused(&|what| abroad(what.region.as_mut().expect("there")));
        assert_eq!(abroad, KmsRefusal::WrongJurisdiction);
    }
    let genesis_with = |change: &dyn Fn(&mut EnrolmentSet)| {
        let mut set = genesis_anew();
        change(&mut set);
        bytes::Bytes::from(set.encode_to_vec())
    };
    let abroad = genesis_with(&|set| {
        set.jurisdiction = "DE".into();
        set.enrolments
            .iter_mut()
            .for_each(|held| held.jurisdiction = "DE".into());
    });
    let abroad = refused(&|what| what.enrolment_set = abroad.clone());
    assert_eq!(abroad, KmsRefusal::WrongJurisdiction);
    let none = genesis_with(&|set| set.enrolments.retain(|e| !e.identity.contains("/kms/")));
    let none = refused(&|what| what.enrolment_set = none.clone());
    assert_eq!(none, KmsRefusal::LocksOut);
    let taken = genesis_with(&|set| {
        let mut kms = set.enrolments.iter_mut();
        let first = kms.find(|held| held.identity.contains("/kms/s1"));
        first.expect("there").node_id = 1;
    });
    let taken = refused(&|what| what.enrolment_set = taken.clone());
    assert_eq!(taken, KmsRefusal::AlreadyEnrolled);
    for person in ["operator/o1", "operator/o2"] {
        let rekeyed = genesis_with(&|set| {
            let other = enrolment("operator/another", 0).public_key;
            let mut people = set.enrolments.iter_mut();
            let person = people.find(|held| held.identity == id(person).to_string());
            person.expect("there").public_key = other;
        });
        let rekeyed = refused(&|what| what.enrolment_set = rekeyed.clone());
        assert_eq!(rekeyed, KmsRefusal::OtherKey, "{person}");
        let missing = genesis_with(&|set| {
            set.enrolments
                .retain(|held| held.identity != id(person).to_string());
        });
        let missing = refused(&|what| what.enrolment_set = missing.clone());
        assert_eq!(missing, KmsRefusal::NotEnrolled, "{person}");
    }
    let mut few = command(Command::FinishRestore(good()), now);
    few.approvals.pop();
    assert_eq!(anew.apply(&few), Err(KmsRefusal::TooFewApprovals));
    let mut own = command(Command::FinishRestore(good()), now);
    own.approvals[0] = approval("operator/o1", 0xE0);
    assert_eq!(anew.apply(&own), Err(KmsRefusal::SelfApproval));
    let mut unsalted = command(Command::FinishRestore(good()), now);
    unsalted.salts.clear();
    assert_eq!(anew.apply(&unsalted), Err(KmsRefusal::Malformed));
    finished(&mut anew, good(), now).expect("restored");
}

/// People leave between two changes of custody, and their shares stay what they are.
#[test]
fn a_custodian_who_is_not_enrolled_any_more_does_not_stop_a_restore() {
    let mut lab = Lab::with_key();
    let gone = ChangeEnrolment {
        remove: vec![id("custodian/c3").to_string()],
        ..ChangeEnrolment::default()
    };
    let asked = lab.approved("operator/o1", 0x51);
    let gone = prepare::change_enrolment(&lab.authority(), asked, gone);
    lab.done(&gone);
    let mut anew = Anew::filled(&lab);
    finished(&mut anew, finish(&lab), lab.now).expect("restored");
}

/// What was paused, closed or destroyed after the backup is open in it, and nothing in it says so.
#[test]
fn a_restored_region_hands_nothing_over_and_receives_nothing() {
    let mut lab = hand_over::lab();
    let asked = lab.approved("operator/o1", 0x51);
    let grant = hand_over::grant(
        &lab,
        asked,
        hand_over::granting(&lab, 1, hand_over::terms(&lab, 1)),
    );
    lab.done(&grant);
    let asked = lab.approved("operator/o1", 0x52);
    let create = hand_over::create(&lab, asked, hand_over::creating(&lab, 2, DATASET));
    lab.done(&create);
    let mut anew = Anew::filled(&lab);
    finished(&mut anew, finish(&lab), lab.now).expect("restored");
    invariant::all(&anew.state).expect("all hold");
    let grant = kms_state::hand_over_grant(&anew.state, &hand_over::relocation(1));
    let grant = grant.expect("kept");
    assert_eq!(grant.stage(), HandOverStage::Closed);
    let key = kms_state::key(&anew.state, &DATASET).expect("restored");
    assert!(key.relocation_id.is_empty());
    let received = kms_state::hand_over_key(&anew.state, &hand_over::relocation(2));
    assert!(received.expect("kept").destroyed);
    let private = kms_state::hand_over_private(&anew.state, &hand_over::relocation(2));
    assert!(private.is_none());
    // Its wrapped bytes came in by the log of this cluster, and are to leave its files.
    let due = kms_state::erase_due(&anew.state).expect("something ended");
    let size = kms_state::frontier(&anew.state).size();
    assert_eq!((due.leaf.0, due.index.0), (size - 1, anew.index));
}

fn policy_of(origin: &str) -> WitnessPolicy {
    let key = |name: &str, kind, seed| {
        let key = SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]);
        key.expect("a key").verifier().to_string()
    };
    let log = key(origin, SignatureType::Ed25519, 1);
    let witness = key("w.example", SignatureType::Ed25519Cosignature, 2);
    let text = format!("log {log}\nwitness w {witness} http://w.example\nquorum w\n");
    WitnessPolicy {
        format: 1,
        policy: text.into_bytes().into(),
        unwitnessed_max_ms: HOUR,
    }
}

#[test]
fn lost_leaves_move_the_log_to_its_next_origin_with_a_policy_of_it() {
    let mut lab = Lab::with_key();
    let policy = policy_of("ch-zrh/main/1").encode_to_vec();
    lab.state.put(layout::WITNESSES, &policy);
    let (now, ours) = (lab.now, kms_state::frontier(&lab.state).size());
    let lost = |witnessed_size, policy| FinishRestore {
        witnessed_size,
        policy,
        ..finish(&lab)
    };
    let mut anew = Anew::filled(&lab);
    let next = policy_of("ch-zrh/main/2");
    for (what, why) in [
        (lost(ours + 3, None), KmsRefusal::Gap),
        (
            lost(ours + 3, Some(policy_of("ch-zrh/main/1"))),
            KmsRefusal::Malformed,
        ),
        (lost(ours, Some(next.clone())), KmsRefusal::Malformed),
    ] {
        assert_eq!(finished(&mut anew, what, now), Err(why));
    }
    finished(&mut anew, lost(ours + 3, Some(next.clone())), now).expect("restored");
    invariant::all(&anew.state).expect("all hold");
    let region = kms_state::region(&anew.state).expect("a region");
    assert_eq!(region.log_origin, "ch-zrh/main/2");
    assert_eq!(kms_state::witness_policy(&anew.state), Some(next));
    // With nothing lost, origin and policy stay; or a policy for the new replicas takes its place.
    let mut same = Anew::filled(&lab);
    finished(&mut same, lost(ours, None), now).expect("restored");
    let region = kms_state::region(&same.state).expect("a region");
    assert_eq!(region.log_origin, "ch-zrh/main/1");
    assert_eq!(Refusal::Gap.reason(), KmsRefusal::Gap);
}

/// What was distrusted after the backup was taken is in it trusted: nothing of that comes back by itself. The pins do, so
/// that no older descriptor is taken.
#[test]
fn a_restored_region_trusts_no_other_until_people_say_so_again() {
    let mut lab = Lab::with_key();
    let told = regions::Told::at("de-fra", lab.now).signed();
    for command in [regions::trust(&lab, 1, &told), regions::publish(&lab, 1)] {
        let command = KmsCommand {
            authority_version: lab.authority().version(),
            ..command
        };
        lab.done(&command);
    }
    let mut anew = Anew::filled(&lab);
    finished(&mut anew, finish(&lab), lab.now).expect("restored");
    invariant::all(&anew.state).expect("all hold");
    let region = "de-fra".parse().expect("a region");
    let known = kms_state::known_region(&anew.state, &region).expect("its pins are kept");
    assert!(!known.trusted());
    let set = kms_state::authority_set(&anew.state).expect("a set");
    assert!(set.trusted_regions.is_empty());
    assert!(set.descriptor.is_some(), "what it said of itself it said");
}
