//! Claims about keys that are handed over: what a source releases and counts, what a destination opens, and what ends both.

use bytes::Bytes;
use kms_state::prepare::{self, Asked};
use kms_state::{
    HAND_OVER_KEY_BYTES, LEVEL_RELOCATION, erase_due, hand_over_grant, hand_over_key,
    hand_over_keys_not_rewrapped, hand_over_private, known_region, not_erased_at_all,
    region_fingerprint,
};
use proto::ids::{DatasetId, FeatureLevel, HandOverKeyId, RelocationId, UnixMs};
use proto::v1::kms_command::Command;
use proto::v1::record::Kind as Use;
use proto::v1::set_hand_over::Step;
use proto::v1::{
    Claim, CloseHandOver, CreateHandOverKey, EndHandOverKey, GrantHandOver, HandOver,
    HandOverStage, HandOverTerms, HandedOver, KeyState, KmsCommand, KmsRefusal, MovedRecord,
    OpenedItem, Record, RecordAnswer, ReleasedRecord, SetHandOver, ShredKey, Vouch,
};
use tlog::{Field, Kind};

use crate::custody::{PEOPLE, WRAPPED, all_confirm, begun, finish, plan, rewrap, step};
use crate::lab::{DATASET, HOUR, Lab, OTHER, approval, claim, id, item, reason};
use crate::regions;

pub(crate) const MOVER: &str = "spiffe://de-fra/gateway/mover";
const PRIVATE: [u8; 150] = [0x7E; 150];

pub(crate) fn relocation(n: u8) -> RelocationId {
    RelocationId([n; 16])
}

fn by_operator() -> Option<Claim> {
    Some(Claim {
        actor: id("operator/o1").to_string(),
        ..claim("")
    })
}

/// A region with a key of [`DATASET`] that trusts the other one.
pub(crate) fn lab() -> Lab {
    let mut lab = Lab::with_key();
    let told = regions::Told::at("de-fra", lab.now);
    let command = regions::trust(&lab, 0xF0, &told.signed());
    lab.done(&command);
    lab
}

/// The other region's descriptor as it is held; of a region that is not known, one that nobody has.
fn descriptor(lab: &Lab) -> (u64, Bytes) {
    let known = known_region(&lab.state, &"de-fra".parse().expect("a region"));
    known.map_or((1, vec![0xDE; 32].into()), |known| {
        let fingerprint = region_fingerprint(&known.descriptor.signed().descriptor);
        (known.descriptor.version(), fingerprint.to_vec().into())
    })
}

pub(crate) fn terms(lab: &Lab, key: u8) -> HandOverTerms {
    let (descriptor_version, descriptor_fingerprint) = descriptor(lab);
    HandOverTerms {
        destination: "de-fra".into(),
        jurisdiction: "DE".into(),
        descriptor_version,
        descriptor_fingerprint,
        hand_over_key_id: HandOverKeyId([key; 16]).into(),
        hand_over_key: vec![key; HAND_OVER_KEY_BYTES].into(),
    }
}

pub(crate) fn granting(lab: &Lab, n: u8, terms: HandOverTerms) -> GrantHandOver {
    GrantHandOver {
        dataset_id: DATASET.into(),
        state_version: kms_state::key(&lab.state, &DATASET).map_or(0, |key| key.state_version),
        relocation_id: relocation(n).into(),
        terms: Some(terms),
        claim: by_operator(),
    }
}

pub(crate) fn grant(lab: &Lab, asked: Asked, grant: GrantHandOver) -> KmsCommand {
    prepare::custody(&lab.authority(), asked, Command::GrantHandOver(grant))
}

/// Relocation `n`, to be sealed to the key of the same number.
fn granted(lab: &mut Lab, n: u8) -> u64 {
    let asked = lab.approved("operator/o1", 10 + n);
    let command = grant(lab, asked, granting(lab, n, terms(lab, n)));
    lab.done(&command).leaf_index
}

pub(crate) fn set(lab: &Lab, by: &str, n: u8, to: Step) -> KmsCommand {
    let set = SetHandOver {
        dataset_id: DATASET.into(),
        relocation_id: relocation(n).into(),
        step: Some(to),
    };
    step(lab, by, Command::SetHandOver(set))
}

pub(crate) fn close() -> Step {
    Step::Close(CloseHandOver {})
}

fn asked_by(lab: &Lab, by: &str, request: u8, kind: Use) -> Record {
    Record {
        request_id: vec![request; 16].into(),
        dataset_id: DATASET.into(),
        state_version: lab.key().state_version,
        claim: Some(Claim {
            actor: by.into(),
            ..claim("relocation")
        }),
        kind: Some(kind),
    }
}

pub(crate) fn release(lab: &Lab, n: u8, request: u8, items: Vec<OpenedItem>) -> Record {
    let asked = HandOver {
        relocation_id: relocation(n).into(),
        hand_over_key_id: vec![n; 16].into(),
        items,
        ..HandOver::default()
    };
    asked_by(lab, MOVER, request, Use::HandOver(asked))
}

pub(crate) fn receive(lab: &Lab, n: u8, request: u8) -> Record {
    let asked = HandedOver {
        relocation_id: relocation(n).into(),
        hand_over_key_id: vec![n; 16].into(),
        items: vec![item(1, 10), item(2, 20)],
        source_leaf: 77,
        batch_sha256: vec![0xBA; 32].into(),
        ..HandedOver::default()
    };
    let mover = id("gateway/g1").to_string();
    asked_by(lab, &mover, request, Use::HandedOver(asked))
}

fn released(lab: &mut Lab, n: u8, request: u8, objects: u8) -> RecordAnswer {
    let items = (1..=objects).map(|version| item(version, 10)).collect();
    let record = release(lab, n, request, items);
    lab.record(record)
}

/// Metadata keys in place of object versions.
fn metadata(lab: &Lab, n: u8, request: u8, versions: Vec<u32>) -> Record {
    let mut record = release(lab, n, request, Vec::new());
    if let Some(Use::HandOver(asked)) = &mut record.kind {
        asked.metadata_versions = versions;
    }
    record
}

fn stage(lab: &Lab, n: u8) -> HandOverStage {
    let grant = hand_over_grant(&lab.state, &relocation(n));
    grant.expect("granted").stage()
}

fn counted(lab: &Lab, n: u8) -> (u64, u64) {
    let grant = hand_over_grant(&lab.state, &relocation(n)).expect("granted");
    let ReleasedRecord { objects, leaves } = grant.released.unwrap_or_default();
    (objects, leaves)
}

/// Red with `ignore_approvals`.
#[test]
fn keys_are_granted_to_a_relocation_by_dual_control_and_on_record() {
    let mut lab = lab();
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
        let command = grant(&lab, asked, granting(&lab, 1, terms(&lab, 1)));
        assert_eq!(lab.refused(&command).0, refused);
    }
    for by in ["gateway/g1", "kms/r1", "operator/stranger"] {
        let command = grant(&lab, lab.approved(by, 1), granting(&lab, 1, terms(&lab, 1)));
        assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{by}");
    }
    let chain = lab.key().leaf_sequence;
    let leaf = granted(&mut lab, 1);
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::HandOverGranted);
    let link = said.dataset().expect("of the dataset");
    assert_eq!(link.sequence, chain);
    assert!(shown.fields[&Field::Approvals].contains("operator/o3"));
    let details = format!(
        "{{\"dataset\":\"{DATASET}\",\"relocation\":\"{}\",\"destination\":\"de-fra\",\
         \"jurisdiction\":\"DE\",\"descriptor_version\":1,\"descriptor_fingerprint\":\"{}\",\
         \"hand_over_key\":\"{}\",\"public_key_sha256\":\"{}\"}}",
        relocation(1),
        hex::encode(terms(&lab, 1).descriptor_fingerprint),
        "01".repeat(16),
        hex::encode(tlog::sha256(&[&[1; HAND_OVER_KEY_BYTES]]).0),
    );
    assert_eq!(shown.fields[&Field::Details], details);
    let held = hand_over_grant(&lab.state, &relocation(1)).expect("granted");
    assert_eq!((held.leaf_index, held.stage()), (leaf, HandOverStage::Open));
    assert_eq!(held.terms, Some(terms(&lab, 1)));
    assert_eq!(lab.key().relocation_id, relocation(1).0[..]);
}

#[test]
fn terms_that_lead_nowhere_are_refused() {
    let mut lab = lab();
    let bent = |bend: &dyn Fn(&mut HandOverTerms)| {
        let mut bent = terms(&lab, 1);
        bend(&mut bent);
        granting(&lab, 1, bent)
    };
    let malformed = KmsRefusal::Malformed;
    let other = KmsRefusal::OtherFingerprint;
    let mut tried = vec![
        (
            bent(&|terms| terms.destination = "ch-zrh".into()),
            malformed,
        ),
        (
            bent(&|terms| terms.destination = "DE FRA".into()),
            malformed,
        ),
        (
            bent(&|terms| terms.destination = "fr-par".into()),
            KmsRefusal::RegionNotTrusted,
        ),
        (
            bent(&|terms| terms.jurisdiction = "CH".into()),
            KmsRefusal::WrongJurisdiction,
        ),
        (bent(&|terms| terms.descriptor_version = 2), other),
        (
            bent(&|terms| terms.descriptor_fingerprint = vec![1; 32].into()),
            other,
        ),
        (
            bent(&|terms| terms.hand_over_key = vec![1; 32].into()),
            malformed,
        ),
        (
            bent(&|terms| terms.hand_over_key_id = vec![1; 15].into()),
            malformed,
        ),
    ];
    let good = granting(&lab, 1, terms(&lab, 1));
    let termless = GrantHandOver {
        terms: None,
        ..good.clone()
    };
    let short = GrantHandOver {
        relocation_id: vec![1; 15].into(),
        ..good.clone()
    };
    tried.extend([(termless, malformed), (short, malformed)]);
    for (bent, refused) in tried {
        let command = grant(&lab, lab.approved("operator/o1", 1), bent.clone());
        assert_eq!(lab.refused(&command).0, refused, "{bent:?}");
    }
    let moved = GrantHandOver {
        state_version: good.state_version + 1,
        ..good.clone()
    };
    let command = grant(&lab, lab.approved("operator/o1", 1), moved);
    assert_eq!(lab.refused(&command).0, KmsRefusal::KeyStateMoved);
    let keyless = GrantHandOver {
        dataset_id: OTHER.into(),
        ..good
    };
    let command = grant(&lab, lab.approved("operator/o1", 1), keyless);
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchKey);
    lab.bring_to(KeyState::Disabled);
    let command = grant(
        &lab,
        lab.approved("operator/o1", 1),
        granting(&lab, 1, terms(&lab, 1)),
    );
    assert_eq!(lab.refused(&command).0, KmsRefusal::KeyDisabled);
}

#[test]
fn a_relocation_has_one_grant_and_a_dataset_one_relocation_at_a_time() {
    let mut lab = lab();
    let leaf = granted(&mut lab, 1);
    let size = lab.size();
    // Again, by who saw no answer: the approvals have served, and are not asked for.
    let again = grant(
        &lab,
        lab.asked("operator/o4"),
        granting(&lab, 1, terms(&lab, 1)),
    );
    assert_eq!(lab.done(&again).leaf_index, leaf);
    assert_eq!(lab.size(), size);
    let elsewhere = HandOverTerms {
        destination: "fr-par".into(),
        ..terms(&lab, 1)
    };
    for other in [terms(&lab, 2), elsewhere] {
        let command = grant(
            &lab,
            lab.approved("operator/o1", 2),
            granting(&lab, 1, other),
        );
        assert_eq!(lab.refused(&command).0, KmsRefusal::OtherHandOver);
    }
    let second = |lab: &Lab| {
        grant(
            lab,
            lab.approved("operator/o1", 2),
            granting(lab, 2, terms(lab, 2)),
        )
    };
    let command = second(&lab);
    assert_eq!(lab.refused(&command).0, KmsRefusal::RelocationUnderWay);
    let closed = set(&lab, "operator/o4", 1, close());
    lab.done(&closed);
    let command = second(&lab);
    lab.done(&command);
    assert_eq!(lab.key().relocation_id, relocation(2).0[..]);
}

#[test]
fn a_release_names_every_object_counts_once_and_goes_where_the_grant_says() {
    let mut lab = lab();
    granted(&mut lab, 1);
    let size = lab.size();
    let answer = released(&mut lab, 1, 1, 3);
    assert_eq!((answer.refused, answer.leaf_index), (0, size));
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::Open);
    assert_eq!(said.purpose().as_str(), "relocation");
    assert_eq!(said.objects().len(), 3);
    assert_eq!(shown.fields[&Field::Actor], MOVER);
    assert_eq!(shown.fields[&Field::RecipientRegion], "de-fra");
    assert_eq!(shown.fields[&Field::Bytes], "30");
    let details = format!(
        "{{\"relocation\":\"{}\",\"hand_over_key\":\"{}\"}}",
        relocation(1),
        "01".repeat(16)
    );
    assert_eq!(shown.fields[&Field::Details], details);
    assert_eq!(counted(&lab, 1), (3, size + 1));
    // A retry has its leaf and counts no more; another request counts the same objects again.
    let again = released(&mut lab, 1, 1, 3);
    assert!(again.reused && again.leaf_index == size);
    assert_eq!(counted(&lab, 1), (3, size + 1));
    released(&mut lab, 1, 2, 2);
    assert_eq!(counted(&lab, 1), (5, size + 2));
    let other = release(&lab, 1, 2, vec![item(9, 1)]);
    assert_eq!(reason(&lab.record(other)), KmsRefusal::RequestIdReused);

    let (size, count) = (lab.size(), counted(&lab, 1));
    let bent = |lab: &Lab, bend: &dyn Fn(&mut Record)| {
        let mut record = release(lab, 1, 9, vec![item(1, 10)]);
        bend(&mut record);
        record
    };
    let by = |record: &mut Record, who: &str| {
        record.claim.as_mut().expect("claimed").actor = who.into();
    };
    let asked = |record: &mut Record, bend: &dyn Fn(&mut HandOver)| match &mut record.kind {
        Some(Use::HandOver(asked)) => bend(asked),
        _ => panic!("of another kind"),
    };
    let own = id("gateway/g1").to_string();
    let tried = [
        (bent(&lab, &|r| by(r, &own)), KmsRefusal::NotGranted),
        (
            bent(&lab, &|r| by(r, "spiffe://fr-par/gateway/mover")),
            KmsRefusal::NotGranted,
        ),
        (
            bent(&lab, &|r| by(r, "spiffe://de-fra/operator/o1")),
            KmsRefusal::NotGranted,
        ),
        (bent(&lab, &|r| by(r, "nobody")), KmsRefusal::Malformed),
        (
            bent(&lab, &|r| {
                r.claim.as_mut().expect("claimed").purpose.clear()
            }),
            KmsRefusal::Malformed,
        ),
        (bent(&lab, &|r| r.claim = None), KmsRefusal::Malformed),
        (
            bent(&lab, &|r| r.state_version += 1),
            KmsRefusal::KeyStateMoved,
        ),
        (
            bent(&lab, &|r| r.dataset_id = OTHER.into()),
            KmsRefusal::NoSuchRelocation,
        ),
        (
            bent(&lab, &|r| {
                asked(r, &|a| a.relocation_id = vec![2; 16].into())
            }),
            KmsRefusal::NoSuchRelocation,
        ),
        (
            bent(&lab, &|r| {
                asked(r, &|a| a.hand_over_key_id = vec![2; 16].into());
            }),
            KmsRefusal::OtherHandOver,
        ),
        (
            bent(&lab, &|r| asked(r, &|a| a.items.clear())),
            KmsRefusal::Malformed,
        ),
        (
            bent(&lab, &|r| asked(r, &|a| a.items = vec![item(1, 1); 257])),
            KmsRefusal::Malformed,
        ),
    ];
    for (record, refused) in tried {
        let answer = lab.record(record.clone());
        assert_eq!(reason(&answer), refused, "{record:?}");
    }
    assert_eq!((lab.size(), counted(&lab, 1)), (size, count));
    lab.bring_to(KeyState::Compromised);
    let answer = released(&mut lab, 1, 9, 1);
    assert_eq!(reason(&answer), KmsRefusal::KeyDisabled);
}

/// Opens wait for a shared leaf, a release does not: what the grant counts is where the release stands.
#[test]
fn metadata_keys_leave_all_together_on_record_as_what_they_are() {
    let mut lab = lab();
    granted(&mut lab, 1);
    let mixed = {
        let mut record = metadata(&lab, 1, 1, vec![1]);
        if let Some(Use::HandOver(asked)) = &mut record.kind {
            asked.items = vec![item(1, 10)];
        }
        record
    };
    let refused = [
        mixed,
        metadata(&lab, 1, 1, vec![2]),
        metadata(&lab, 1, 1, vec![1, 1]),
        metadata(&lab, 1, 1, vec![1; 257]),
        metadata(&lab, 1, 1, Vec::new()),
    ];
    let size = lab.size();
    for record in refused {
        assert_eq!(reason(&lab.record(record)), KmsRefusal::Malformed);
    }
    assert_eq!(lab.size(), size);
    let record = metadata(&lab, 1, 2, vec![1]);
    let answer = lab.record(record);
    assert_eq!((answer.refused, answer.leaf_index), (0, size));
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::MetadataLease);
    assert_eq!(shown.fields[&Field::RecipientRegion], "de-fra");
    assert!(shown.fields[&Field::Details].contains("\"metadata_versions\":[1]"));
    // No object, and one more leaf than its own.
    assert_eq!(counted(&lab, 1), (0, size + 1));
}

#[test]
fn releases_and_opens_share_an_entry_and_no_leaf() {
    let mut lab = lab();
    granted(&mut lab, 1);
    let size = lab.size();
    let records = vec![
        lab.open(1).expect("granted"),
        release(&lab, 1, 2, vec![item(1, 10)]),
        lab.open(3).expect("granted"),
        release(&lab, 1, 4, vec![item(2, 10)]),
    ];
    let answers = lab.records(records);
    let leaves = [&answers[1], &answers[3]].map(|answer| answer.leaf_index);
    assert_eq!(leaves, [size, size + 1]);
    assert_eq!(answers[0].leaf_index, size + 2);
    assert_eq!(answers[2].leaf_index, size + 2);
    assert_eq!(counted(&lab, 1), (2, size + 2));
}

#[test]
fn under_a_fence_nothing_leaves_until_that_fence_is_reverted() {
    let mut lab = lab();
    granted(&mut lab, 1);
    released(&mut lab, 1, 1, 2);
    let count = counted(&lab, 1);
    for to in [Step::Pause(9), Step::Resume(9)] {
        for by in ["operator/o1", "gateway/g1", "node/n1"] {
            let command = set(&lab, by, 1, to);
            assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{by}");
        }
    }
    let size = lab.size();
    let pause = set(&lab, "kms/r1", 1, Step::Pause(9));
    lab.done(&pause);
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::HandOverPaused);
    let details = format!(
        "{{\"relocation\":\"{}\",\"fence\":9,\"objects\":{},\"leaves\":{}}}",
        relocation(1),
        count.0,
        count.1
    );
    assert_eq!(shown.fields[&Field::Details], details);
    // Said again it is on record once.
    lab.done(&pause);
    assert_eq!(lab.size(), size + 1);
    assert_eq!(stage(&lab, 1), HandOverStage::Paused);
    // Neither a new request nor the retry of one that was answered.
    for request in [1, 5] {
        let answer = released(&mut lab, 1, request, 2);
        assert_eq!(reason(&answer), KmsRefusal::HandOverNotOpen);
    }
    let late = set(&lab, "kms/r1", 1, Step::Resume(8));
    assert_eq!(lab.refused(&late).0, KmsRefusal::OtherFence);
    let earlier = set(&lab, "kms/r1", 1, Step::Pause(8));
    assert_eq!(lab.refused(&earlier).0, KmsRefusal::OtherFence);
    let resume = set(&lab, "kms/r1", 1, Step::Resume(9));
    lab.done(&resume);
    assert_eq!(lab.last_leaf().0.kind(), Kind::HandOverResumed);
    assert_eq!(lab.refused(&pause).0, KmsRefusal::OtherFence);
    let answer = released(&mut lab, 1, 5, 2);
    assert_eq!(answer.refused, 0);
    assert_eq!(counted(&lab, 1).0, count.0 + 2);
    let unknown = set(&lab, "kms/r1", 2, Step::Pause(9));
    assert_eq!(lab.refused(&unknown).0, KmsRefusal::NoSuchRelocation);
}

#[test]
fn a_closed_grant_never_opens_again_even_if_it_never_began() {
    for began in [true, false] {
        let mut lab = lab();
        if began {
            granted(&mut lab, 1);
        }
        for by in ["gateway/g1", "auditor/a1"] {
            let command = set(&lab, by, 1, close());
            assert_eq!(lab.refused(&command).0, KmsRefusal::NotEnrolled, "{by}");
        }
        let by = if began { "operator/o4" } else { "kms/r2" };
        let closing = set(&lab, by, 1, close());
        lab.done(&closing);
        assert_eq!(lab.last_leaf().0.kind(), Kind::HandOverClosed);
        assert_eq!(stage(&lab, 1), HandOverStage::Closed);
        assert!(lab.key().relocation_id.is_empty());
        let size = lab.size();
        lab.done(&closing);
        assert_eq!(lab.size(), size);
        let late = grant(
            &lab,
            lab.approved("operator/o1", 2),
            granting(&lab, 1, terms(&lab, 1)),
        );
        assert_eq!(lab.refused(&late).0, KmsRefusal::HandOverClosed);
        let answer = released(&mut lab, 1, 1, 1);
        assert_eq!(reason(&answer), KmsRefusal::HandOverNotOpen);
        for to in [Step::Pause(9), Step::Resume(9)] {
            let command = set(&lab, "kms/r1", 1, to);
            assert_eq!(lab.refused(&command).0, KmsRefusal::HandOverClosed);
        }
        if !began {
            // Whatever anybody says of it, nothing moved by what was never granted.
            let command = shred(&lab, 3, shredding(&lab, 3));
            assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchRelocation);
        }
    }
    let mut lab = lab();
    let nobodys = SetHandOver {
        dataset_id: OTHER.into(),
        relocation_id: relocation(1).into(),
        step: Some(close()),
    };
    let command = step(&lab, "kms/r1", Command::SetHandOver(nobodys.clone()));
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchKey);
    granted(&mut lab, 1);
    let command = step(&lab, "kms/r1", Command::SetHandOver(nobodys));
    assert_eq!(lab.refused(&command).0, KmsRefusal::NoSuchRelocation);
}

fn moved(fence: u64) -> MovedRecord {
    MovedRecord {
        relocation_id: relocation(1).into(),
        epoch: 2,
        fence,
        root: vec![9; 32].into(),
    }
}

pub(crate) fn shredding(lab: &Lab, request: u8) -> ShredKey {
    ShredKey {
        dataset_id: DATASET.into(),
        state_version: kms_state::key(&lab.state, &DATASET).map_or(0, |key| key.state_version),
        relocation_id: relocation(1).into(),
        moved: Some(moved(9)),
        served: Some(moved(9)),
        served_by: Some(Vouch {
            signers: vec![1, 3],
            voters: vec![1, 2, 3],
            descriptor_version: 1,
        }),
        days: 7,
        claim: by_operator(),
        request_id: vec![request; 16].into(),
    }
}

pub(crate) fn shred(lab: &Lab, single_use: u8, what: ShredKey) -> KmsCommand {
    let asked = lab.approved("operator/o1", single_use);
    prepare::custody(&lab.authority(), asked, Command::ShredKey(what))
}

/// Red with `shred_before_verify` and `ignore_approvals`.
#[test]
fn a_sources_key_ends_on_the_evidence_of_both_shards_and_no_sooner() {
    let mut lab = lab();
    let unknown = shred(&lab, 1, shredding(&lab, 1));
    assert_eq!(lab.refused(&unknown).0, KmsRefusal::NoSuchRelocation);
    granted(&mut lab, 1);
    let open = shred(&lab, 1, shredding(&lab, 1));
    assert_eq!(lab.refused(&open).0, KmsRefusal::StillGranted);
    let pause = set(&lab, "kms/r1", 1, Step::Pause(9));
    lab.done(&pause);
    let voted = |signers: &[u64], descriptor_version| {
        Some(Vouch {
            signers: signers.to_vec(),
            voters: vec![1, 2, 3],
            descriptor_version,
        })
    };
    type Bend<'a> = &'a dyn Fn(&mut ShredKey);
    let tried: [(Bend<'_>, KmsRefusal); 13] = [
        (&|shred| shred.moved = None, KmsRefusal::NotMoved),
        (&|shred| shred.served = None, KmsRefusal::NotServed),
        (
            &|shred| shred.served = Some(moved(8)),
            KmsRefusal::NotServed,
        ),
        (&|shred| shred.served_by = None, KmsRefusal::NotServed),
        (
            &|shred| shred.served_by = voted(&[1], 1),
            KmsRefusal::NotServed,
        ),
        (
            &|shred| shred.served_by = voted(&[1, 1, 1], 1),
            KmsRefusal::NotServed,
        ),
        (
            &|shred| shred.served_by = voted(&[1, 4], 1),
            KmsRefusal::NotServed,
        ),
        (
            &|shred| shred.served_by = voted(&[1, 2], 0),
            KmsRefusal::NotServed,
        ),
        // Both name another fence than the one that the grant is paused under.
        (
            &|shred| {
                shred.moved = Some(moved(8));
                shred.served = Some(moved(8));
            },
            KmsRefusal::StillGranted,
        ),
        (
            &|shred| shred.moved.as_mut().expect("there").root = vec![9; 31].into(),
            KmsRefusal::Malformed,
        ),
        (&|shred| shred.days = 6, KmsRefusal::Malformed),
        (&|shred| shred.days = 31, KmsRefusal::Malformed),
        (&|shred| shred.state_version += 1, KmsRefusal::KeyStateMoved),
    ];
    for (number, (bend, refused)) in tried.into_iter().enumerate() {
        let mut bent = shredding(&lab, 1);
        bend(&mut bent);
        let command = shred(&lab, 1, bent);
        assert_eq!(lab.refused(&command).0, refused, "{number}");
    }
    let good = shredding(&lab, 1);
    let alone = KmsCommand {
        approvals: vec![approval("operator/o2", 1)],
        ..shred(&lab, 1, good.clone())
    };
    assert_eq!(lab.refused(&alone).0, KmsRefusal::TooFewApprovals);
    // The usual way is closed while keys are granted.
    lab.bring_to(KeyState::Disabled);
    let usual = lab.change(KeyState::PendingDestruction, 7, Some(2));
    let usual = usual.expect("an allowed step");
    assert_eq!(lab.refused(&usual).0, KmsRefusal::RelocationUnderWay);
    let enable = lab.change(KeyState::Enabled, 0, None).expect("allowed");
    lab.done(&enable);

    let good = shredding(&lab, 1);
    let command = shred(&lab, 1, good.clone());
    let leaf = lab.done(&command).leaf_index;
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::KeyDestructionPending);
    for part in [
        "\"destination\":\"de-fra\"".to_owned(),
        "\"epoch\":2,\"fence\":9".to_owned(),
        format!("\"catalog_root\":\"{}\"", "09".repeat(32)),
        "\"signers\":[1,3],\"voters\":[1,2,3],\"descriptor_version\":1".to_owned(),
    ] {
        let details = &shown.fields[&Field::Details];
        assert!(details.contains(&part), "{details}");
    }
    assert!(shown.fields[&Field::Approvals].contains("operator/o3"));
    // Again, by who saw no answer.
    assert_eq!(lab.done(&command).leaf_index, leaf);
    assert_eq!(lab.key().state(), KeyState::PendingDestruction);
    assert_eq!(stage(&lab, 1), HandOverStage::Closed);
    let held = hand_over_grant(&lab.state, &relocation(1)).expect("granted");
    assert_eq!(held.moved, Some(moved(9)));
    let resume = set(&lab, "kms/r1", 1, Step::Resume(9));
    assert_eq!(lab.refused(&resume).0, KmsRefusal::HandOverClosed);
    let ending = shred(&lab, 3, shredding(&lab, 3));
    assert_eq!(lab.refused(&ending).0, KmsRefusal::WrongState);

    // From here on it is a destruction like any other.
    let destroy = |lab: &Lab| {
        let (authority, asked) = (lab.authority(), lab.asked("kms/r1"));
        let version = lab.key().state_version;
        prepare::destroy_kek(&authority, asked, &DATASET, version, UnixMs(0))
    };
    let early = destroy(&lab);
    assert_eq!(lab.refused(&early).0, KmsRefusal::WrongState);
    lab.wait(7 * 24 * HOUR);
    let due = destroy(&lab);
    lab.done(&due);
    assert_eq!(lab.key().state(), KeyState::Destroyed);
}

#[test]
fn a_shred_that_was_cancelled_leaves_a_key_that_nobody_uses_and_may_be_asked_for_again() {
    let mut lab = lab();
    granted(&mut lab, 1);
    let pause = set(&lab, "kms/r1", 1, Step::Pause(9));
    lab.done(&pause);
    let command = shred(&lab, 1, shredding(&lab, 1));
    lab.done(&command);
    let back = lab.change(KeyState::Disabled, 0, None).expect("allowed");
    lab.done(&back);
    assert_eq!(lab.key().state(), KeyState::Disabled);
    let command = shred(&lab, 2, shredding(&lab, 2));
    lab.done(&command);
    assert_eq!(lab.key().state(), KeyState::PendingDestruction);
}

pub(crate) fn creating(lab: &Lab, n: u8, dataset: DatasetId) -> CreateHandOverKey {
    let (descriptor_version, descriptor_fingerprint) = descriptor(lab);
    CreateHandOverKey {
        hand_over_key_id: vec![n; 16].into(),
        relocation_id: relocation(n).into(),
        dataset_id: dataset.into(),
        source: "de-fra".into(),
        descriptor_version,
        descriptor_fingerprint,
        public_key: vec![n; HAND_OVER_KEY_BYTES].into(),
        wrapped_private: PRIVATE.to_vec().into(),
        root_epoch: 1,
        claim: by_operator(),
    }
}

pub(crate) fn create(lab: &Lab, asked: Asked, create: CreateHandOverKey) -> KmsCommand {
    prepare::custody(&lab.authority(), asked, Command::CreateHandOverKey(create))
}

fn created(lab: &mut Lab, n: u8) -> u64 {
    let asked = lab.approved("operator/o1", 10 + n);
    let command = create(lab, asked, creating(lab, n, DATASET));
    lab.done(&command).leaf_index
}

pub(crate) fn end(lab: &Lab, by: &str, n: u8) -> KmsCommand {
    let end = EndHandOverKey {
        hand_over_key_id: vec![n; 16].into(),
        relocation_id: relocation(n).into(),
        dataset_id: DATASET.into(),
    };
    step(lab, by, Command::EndHandOverKey(end))
}

/// Red with `ignore_approvals`.
#[test]
fn a_hand_over_key_is_made_by_dual_control_for_one_relocation_of_a_dataset_with_a_key() {
    let mut lab = lab();
    let alone = create(&lab, lab.asked("operator/o1"), creating(&lab, 1, DATASET));
    assert_eq!(lab.refused(&alone).0, KmsRefusal::TooFewApprovals);
    let by_gateway = create(
        &lab,
        lab.approved("gateway/g1", 1),
        creating(&lab, 1, DATASET),
    );
    assert_eq!(lab.refused(&by_gateway).0, KmsRefusal::NotEnrolled);
    let made = creating(&lab, 1, DATASET);
    let good = || made.clone();
    let malformed = KmsRefusal::Malformed;
    for (bent, refused) in [
        (
            CreateHandOverKey {
                source: "ch-zrh".into(),
                ..good()
            },
            malformed,
        ),
        (
            // The length of a key that nobody wrapped.
            CreateHandOverKey {
                wrapped_private: vec![7; 32].into(),
                ..good()
            },
            malformed,
        ),
        (
            CreateHandOverKey {
                public_key: vec![7; 32].into(),
                ..good()
            },
            malformed,
        ),
        (
            CreateHandOverKey {
                descriptor_version: 2,
                ..good()
            },
            KmsRefusal::OtherFingerprint,
        ),
        (
            CreateHandOverKey {
                source: "fr-par".into(),
                ..good()
            },
            KmsRefusal::RegionNotTrusted,
        ),
        (
            CreateHandOverKey {
                hand_over_key_id: vec![1; 15].into(),
                ..good()
            },
            malformed,
        ),
        (
            CreateHandOverKey {
                root_epoch: 2,
                ..good()
            },
            KmsRefusal::RootMoved,
        ),
        (creating(&lab, 1, OTHER), KmsRefusal::NoSuchKey),
    ] {
        let command = create(&lab, lab.approved("operator/o1", 1), bent.clone());
        assert_eq!(lab.refused(&command).0, refused, "{bent:?}");
    }
    let leaf = created(&mut lab, 1);
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::HandOverKeyCreated);
    assert!(said.dataset().is_some());
    assert!(shown.fields[&Field::Approvals].contains("operator/o2"));
    assert!(shown.fields[&Field::Details].contains("\"source\":\"de-fra\""));
    let private = hand_over_private(&lab.state, &relocation(1)).expect("made");
    assert_eq!(private, PRIVATE[..]);
    // The leader has made another pair for the retry: the first one stays.
    let size = lab.size();
    let again = CreateHandOverKey {
        public_key: vec![0x55; HAND_OVER_KEY_BYTES].into(),
        wrapped_private: vec![0x55; 150].into(),
        ..good()
    };
    let again = create(&lab, lab.asked("operator/o1"), again);
    assert_eq!(lab.done(&again).leaf_index, leaf);
    assert_eq!(lab.size(), size);
    let private = hand_over_private(&lab.state, &relocation(1)).expect("made");
    assert_eq!(private, PRIVATE[..]);
    let second = CreateHandOverKey {
        hand_over_key_id: vec![2; 16].into(),
        ..good()
    };
    let second = create(&lab, lab.approved("operator/o1", 2), second);
    assert_eq!(lab.refused(&second).0, KmsRefusal::OtherHandOver);
    lab.bring_to(KeyState::Disabled);
    let late = create(
        &lab,
        lab.approved("operator/o1", 3),
        creating(&lab, 3, DATASET),
    );
    assert_eq!(lab.refused(&late).0, KmsRefusal::KeyDisabled);
}

#[test]
fn a_destroyed_hand_over_key_leaves_nothing_and_every_replica_is_to_erase_it() {
    let mut lab = lab();
    created(&mut lab, 1);
    let by_gateway = end(&lab, "gateway/g1", 1);
    assert_eq!(lab.refused(&by_gateway).0, KmsRefusal::NotEnrolled);
    let mut other = end(&lab, "kms/r1", 1);
    if let Some(Command::EndHandOverKey(end)) = &mut other.command {
        end.hand_over_key_id = vec![2; 16].into();
    }
    assert_eq!(lab.refused(&other).0, KmsRefusal::OtherHandOver);
    assert_eq!(erase_due(&lab.state), None);
    let ending = end(&lab, "kms/r1", 1);
    let leaf = lab.done(&ending).leaf_index;
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::HandOverKeyDestroyed);
    assert!(shown.fields[&Field::Details].contains("\"made\":true"));
    let holds = |value: &[u8]| value.windows(PRIVATE.len()).any(|at| at == PRIVATE);
    assert!(!lab.state.iter().any(|(_, value)| holds(value)));
    let due = erase_due(&lab.state).expect("something ended");
    assert_eq!((due.leaf.0, due.index.0), (leaf, lab.log.len() as u64));
    assert_eq!(not_erased_at_all(&lab.state).len(), 3);
    // Said again it is done, and on record once.
    let size = lab.size();
    lab.done(&ending);
    assert_eq!(lab.size(), size);
    let anew = create(
        &lab,
        lab.approved("operator/o1", 2),
        creating(&lab, 1, DATASET),
    );
    assert_eq!(lab.refused(&anew).0, KmsRefusal::HandOverEnded);
}

/// A request that was on its way while its relocation was aborted makes no key that nobody will destroy.
#[test]
fn a_hand_over_key_that_was_ended_before_it_was_made_is_never_made() {
    let mut lab = lab();
    let ending = end(&lab, "operator/o1", 1);
    lab.done(&ending);
    let (_, shown) = lab.last_leaf();
    assert!(shown.fields[&Field::Details].contains("\"made\":false"));
    assert_eq!(erase_due(&lab.state), None);
    let late = create(
        &lab,
        lab.approved("operator/o1", 2),
        creating(&lab, 1, DATASET),
    );
    assert_eq!(lab.refused(&late).0, KmsRefusal::HandOverEnded);
    assert!(hand_over_private(&lab.state, &relocation(1)).is_none());
}

#[test]
fn what_was_handed_over_goes_to_a_gateway_of_the_region_on_record_while_its_key_lives() {
    let mut lab = lab();
    created(&mut lab, 1);
    let size = lab.size();
    let record = receive(&lab, 1, 1);
    let answer = lab.record(record.clone());
    assert_eq!((answer.refused, answer.leaf_index), (0, size));
    let (said, shown) = lab.last_leaf();
    assert_eq!(said.kind(), Kind::HandOverOpened);
    assert_eq!(said.purpose().as_str(), "relocation");
    assert_eq!(said.objects().len(), 2);
    assert!(said.dataset().is_some());
    assert_eq!(shown.fields[&Field::RecipientRegion], "ch-zrh");
    let details = format!(
        "{{\"usable_ms\":60000,\"relocation\":\"{}\",\"hand_over_key\":\"{}\",\"source\":\"de-fra\",\
         \"source_leaf\":77,\"batch_sha256\":\"{}\"}}",
        relocation(1),
        "01".repeat(16),
        "ba".repeat(32)
    );
    assert_eq!(shown.fields[&Field::Details], details);
    let again = lab.record(record);
    assert!(again.reused && again.leaf_index == size);

    let bent = |lab: &Lab, bend: &dyn Fn(&mut Record, &mut HandedOver)| {
        let mut record = receive(lab, 1, 9);
        let Some(Use::HandedOver(mut asked)) = record.kind.take() else {
            panic!("of another kind");
        };
        bend(&mut record, &mut asked);
        record.kind = Some(Use::HandedOver(asked));
        record
    };
    let by = |record: &mut Record, who: &str| {
        record.claim.as_mut().expect("claimed").actor = who.into();
    };
    let own = |name: &str| id(name).to_string();
    let tried = [
        (
            bent(&lab, &|r, _| by(r, MOVER)),
            KmsRefusal::WrongJurisdiction,
        ),
        (
            bent(&lab, &|r, _| by(r, &own("client/s1"))),
            KmsRefusal::NotGranted,
        ),
        (
            bent(&lab, &|r, _| by(r, &own("operator/o1"))),
            KmsRefusal::NotGranted,
        ),
        (
            bent(&lab, &|r, _| {
                r.claim.as_mut().expect("claimed").purpose.clear()
            }),
            KmsRefusal::Malformed,
        ),
        (
            bent(&lab, &|r, _| r.state_version += 1),
            KmsRefusal::KeyStateMoved,
        ),
        (
            bent(&lab, &|_, a| a.relocation_id = vec![2; 16].into()),
            KmsRefusal::NoSuchRelocation,
        ),
        (
            bent(&lab, &|_, a| a.hand_over_key_id = vec![2; 16].into()),
            KmsRefusal::OtherHandOver,
        ),
        (
            bent(&lab, &|_, a| a.batch_sha256 = vec![1; 31].into()),
            KmsRefusal::Malformed,
        ),
        (bent(&lab, &|_, a| a.items.clear()), KmsRefusal::Malformed),
    ];
    for (record, refused) in tried {
        let answer = lab.record(record.clone());
        assert_eq!(reason(&answer), refused, "{record:?}");
    }
    assert_eq!(lab.size(), size + 1);
    // A retry, too, gets nothing once the key is destroyed.
    let ending = end(&lab, "kms/r1", 1);
    lab.done(&ending);
    for request in [1, 9] {
        let late = receive(&lab, 1, request);
        assert_eq!(reason(&lab.record(late)), KmsRefusal::HandOverEnded);
    }
}

#[test]
fn a_new_root_key_comes_into_force_with_every_living_hand_over_key_under_it() {
    let mut lab = lab();
    created(&mut lab, 1);
    created(&mut lab, 2);
    let command = begun(&lab, 3, plan(7, 2, 2, &PEOPLE));
    lab.done(&command);
    all_confirm(&mut lab, 7);
    let early = finish(&lab, 7);
    assert_eq!(lab.refused(&early).0, KmsRefusal::NotRewrapped);
    let mut bare = rewrap(&lab, 7);
    if let Some(Command::RewrapKeks(rewrap)) = &mut bare.command {
        rewrap.hand_over_keys[0].wrapped_private = vec![7; 32].into();
    }
    assert_eq!(lab.refused(&bare).0, KmsRefusal::Malformed);
    let behind = rewrap(&lab, 7);
    // One destroyed meanwhile: the leader that rewraps has not seen it, and its entry is erased once more.
    let ending = end(&lab, "kms/r1", 2);
    lab.done(&ending);
    let first = erase_due(&lab.state).expect("something ended");
    lab.done(&behind);
    let due = erase_due(&lab.state).expect("something ended");
    assert_eq!((due.leaf, due.index.0), (first.leaf, lab.log.len() as u64));
    assert_eq!(hand_over_keys_not_rewrapped(&lab.state, 9), []);
    // And one made meanwhile, under the root key in force.
    created(&mut lab, 4);
    let early = finish(&lab, 7);
    assert_eq!(lab.refused(&early).0, KmsRefusal::NotRewrapped);
    let command = rewrap(&lab, 7);
    lab.done(&command);
    let command = finish(&lab, 7);
    lab.done(&command);
    let (_, shown) = lab.last_leaf();
    assert!(shown.fields[&Field::Details].contains("\"hand_over_keys\":2"));
    for n in [1, 4] {
        let held = hand_over_key(&lab.state, &relocation(n)).expect("made");
        assert_eq!(held.root_epoch, 2);
        let private = hand_over_private(&lab.state, &relocation(n)).expect("made");
        assert_eq!(private, WRAPPED[..]);
    }
    assert!(hand_over_private(&lab.state, &relocation(2)).is_none());
    let late = create(
        &lab,
        lab.approved("operator/o1", 40),
        creating(&lab, 5, DATASET),
    );
    assert_eq!(lab.refused(&late), (KmsRefusal::RootMoved, 2));
}

/// Builds of before stop at these commands; this one says so below the level, alike on every replica.
#[test]
fn below_its_level_nothing_of_a_relocation_is_taken() {
    let mut lab = lab();
    let commands = [
        grant(
            &lab,
            lab.approved("operator/o1", 1),
            granting(&lab, 1, terms(&lab, 1)),
        ),
        set(&lab, "kms/r1", 1, close()),
        shred(&lab, 1, shredding(&lab, 1)),
        create(
            &lab,
            lab.approved("operator/o1", 1),
            creating(&lab, 1, DATASET),
        ),
        end(&lab, "kms/r1", 1),
    ];
    lab.level = FeatureLevel(LEVEL_RELOCATION.0 - 1);
    for command in &commands {
        assert_eq!(lab.refused(command).0, KmsRefusal::Malformed);
    }
    for record in [release(&lab, 1, 1, vec![item(1, 1)]), receive(&lab, 1, 2)] {
        assert_eq!(reason(&lab.record(record)), KmsRefusal::Malformed);
    }
    lab.level = LEVEL_RELOCATION;
    lab.done(&commands[0]);
}
