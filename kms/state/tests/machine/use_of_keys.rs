//! Claims about leases, metadata leases and opens.

use kms_state::{
    CLAIM_TEXT_MAX, LEASE_MS_MAX, LEVEL_SHARED_LEAVES, OPEN_ITEMS_MAX, RECORDS_MAX, Refusal,
    USABLE_MS, prepare,
};
use proto::ids::{DatasetId, FeatureLevel, LeaseId, UnixMs};
use proto::v1::record::Kind as Use;
use proto::v1::{KeyState, KmsRefusal, LeaseIssue, Record};
use tlog::{Field, Kind};

use crate::lab::{DATASET, HOUR, Lab, OTHER, START, id, item, reason};

#[test]
fn an_open_is_one_leaf_that_names_every_object_and_who() {
    let mut lab = Lab::with_key();
    let record = lab
        .open_as("gateway/g1", 1, "", vec![item(1, 10), item(2, 32)])
        .expect("granted");
    let answer = lab.record(record.record);
    assert_eq!(reason(&answer), KmsRefusal::Unspecified);
    assert_eq!(
        (answer.leaf_index, answer.reused, answer.time_ms),
        (2, false, START)
    );
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.kind(), Kind::Open);
    assert_eq!(leaf.hash().expect("small").0.as_slice(), answer.leaf_hash);
    assert_eq!(leaf.dataset().expect("of a dataset").sequence, 1);
    assert_eq!(shown.fields[&Field::Actor], id("gateway/g1").to_string());
    assert_eq!(shown.fields[&Field::Bytes], "42");
    assert_eq!(shown.fields[&Field::RecipientRegion], "ch-zrh");
    assert_eq!(shown.fields[&Field::Details], r#"{"usable_ms":60000}"#);
    let second = shown.objects[1].as_ref().expect("shown");
    assert!(second.contains(&"02".repeat(16)) && second.ends_with("\"bytes\":32}"));
}

#[test]
fn uses_of_several_keys_in_one_command_each_join_the_chain_of_their_own() {
    let mut lab = Lab::with_key();
    let create = lab.create(OTHER, 2).expect("granted");
    lab.done(&create);
    let of = |lab: &Lab, request: u8, dataset: DatasetId| {
        let key = kms_state::key(&lab.state, &dataset).expect("created");
        Record {
            dataset_id: dataset.into(),
            state_version: key.state_version,
            ..lab.open(request).expect("granted")
        }
    };
    lab.level = FeatureLevel(LEVEL_SHARED_LEAVES.0 - 1);
    let order = [DATASET, OTHER, DATASET, DATASET, OTHER];
    let records = (10..).zip(order).map(|(n, dataset)| of(&lab, n, dataset));
    let answers = lab.records(records.collect());
    let sequences: Vec<_> = answers
        .iter()
        .map(|answer| {
            assert_eq!(reason(answer), KmsRefusal::Unspecified);
            let (leaf, _) = lab.leaf(answer.leaf_index);
            leaf.dataset().expect("of a dataset").sequence
        })
        .collect();
    assert_eq!(sequences, [1, 1, 2, 3, 2]);
    for (dataset, leaves) in [(DATASET, 4), (OTHER, 3)] {
        let key = kms_state::key(&lab.state, &dataset).expect("created");
        assert_eq!(key.leaf_sequence, leaves);
    }
}

/// Opens as a leader batches them: of two gateways, one of them for two purposes.
fn several_opens(lab: &Lab) -> Vec<Record> {
    let asked = [
        ("gateway/g1", "", vec![item(1, 10)]),
        ("gateway/g2", "", vec![item(2, 20)]),
        ("gateway/g1", "", vec![item(3, 30), item(4, 40)]),
        ("gateway/g1", "reseal", vec![item(5, 50)]),
        ("gateway/g1", "", vec![item(6, 60)]),
    ];
    let records = (10..).zip(asked).map(|(request, (who, purpose, items))| {
        let open = lab.open_as(who, request, purpose, items);
        open.expect("granted").record
    });
    records.collect()
}

#[test]
fn opens_that_are_recorded_together_share_a_leaf_where_dataset_and_claim_are_the_same() {
    let mut lab = Lab::with_key();
    let opens = several_opens(&lab);
    let answers = lab.records(opens.clone());
    let leaves: Vec<_> = answers.iter().map(|answer| answer.leaf_index).collect();
    assert_eq!(leaves, [2, 3, 2, 4, 2]);
    let (leaf, shown) = lab.leaf(2);
    assert_eq!(leaf.kind(), Kind::Open);
    let ids = [10, 12, 14].map(|id| hex::encode([id; 16])).join(",");
    assert_eq!(shown.fields[&Field::RequestId], ids);
    assert_eq!(shown.fields[&Field::Bytes], "140");
    assert_eq!(shown.fields[&Field::Actor], id("gateway/g1").to_string());
    let details = r#"{"usable_ms":60000,"objects_of":[1,2,1]}"#;
    assert_eq!(shown.fields[&Field::Details], details);
    let versions = shown.objects.iter().map(|object| {
        let object: tlog::ObjectItem =
            serde_json::from_str(object.as_ref().expect("shown")).expect("an item");
        object.version[..2].to_owned()
    });
    assert_eq!(versions.collect::<Vec<_>>(), ["01", "03", "04", "06"]);
    // Each is remembered by itself.
    for (open, first) in opens.into_iter().zip(answers) {
        let again = lab.record(open);
        assert!(again.reused);
        assert_eq!(
            (again.leaf_index, again.leaf_hash),
            (first.leaf_index, first.leaf_hash)
        );
    }
}

#[test]
fn below_its_level_no_leaf_is_shared() {
    let mut lab = Lab::with_key();
    lab.level = FeatureLevel(LEVEL_SHARED_LEAVES.0 - 1);
    let answers = lab.records(several_opens(&lab));
    let leaves: Vec<_> = answers.iter().map(|answer| answer.leaf_index).collect();
    assert_eq!(leaves, [2, 3, 4, 5, 6]);
}

#[test]
fn a_shared_leaf_names_no_more_objects_and_bytes_than_one_open_may() {
    let mut lab = Lab::with_key();
    let open = |lab: &Lab, request, items| {
        let open = lab.open_as("gateway/g1", request, "", items);
        open.expect("granted").record
    };
    let half = vec![item(1, 1); OPEN_ITEMS_MAX / 2];
    let mut opens: Vec<_> = (1..=3).map(|n| open(&lab, n, half.clone())).collect();
    opens.push(open(&lab, 4, vec![item(1, u64::MAX)]));
    let answers = lab.records(opens);
    let leaves: Vec<_> = answers.iter().map(|answer| answer.leaf_index).collect();
    assert_eq!(leaves, [2, 2, 3, 4]);
    let (_, shown) = lab.leaf(2);
    assert_eq!(shown.objects.len(), OPEN_ITEMS_MAX);
}

#[test]
fn a_lease_among_opens_has_its_own_leaf_and_what_is_refused_is_in_none() {
    let mut lab = Lab::with_key();
    let lease = lab.lease(2, 1).expect("granted");
    let mut refused = lab.open(3).expect("granted");
    refused.state_version += 1;
    let opens = [1, 4].map(|request| lab.open(request).expect("granted"));
    let [first, last] = opens;
    let answers = lab.records(vec![first, lease, refused, last]);
    let reasons: Vec<_> = answers.iter().map(reason).collect();
    let fine = KmsRefusal::Unspecified;
    assert_eq!(reasons, [fine, fine, KmsRefusal::KeyStateMoved, fine]);
    assert_eq!(answers[0].leaf_index, answers[3].leaf_index);
    assert_ne!(answers[0].leaf_index, answers[1].leaf_index);
    let (_, shown) = lab.leaf(answers[0].leaf_index);
    let ids = [1, 4].map(|id| hex::encode([id; 16])).join(",");
    assert_eq!(shown.fields[&Field::RequestId], ids);
    assert_eq!(lab.key().leaf_sequence, 3);
}

#[test]
fn a_request_id_that_waits_for_its_leaf_serves_no_other_request() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    let mut other = open.clone();
    other.claim.as_mut().expect("there").case_id = "another".into();
    let third = lab.open(2).expect("granted");
    let answers = lab.records(vec![open, other, third]);
    assert_eq!(reason(&answers[1]), KmsRefusal::RequestIdReused);
    assert_ne!(answers[0].leaf_index, answers[2].leaf_index);
}

#[test]
fn what_the_requester_states_is_in_the_leaf_and_bounded() {
    let mut lab = Lab::with_key();
    let caller = id("gateway/g1");
    let mut used = lab.used(&caller, 1, "reseal");
    used.claim.on_behalf_of = "user 7".into();
    used.claim.case_id = "c-1".into();
    used.claim.legal_basis = "art. 6".into();
    used.claim.actor = "spiffe://ch-zrh/gateway/g2".into();
    let prepared = prepare::opens(&lab.state, &lab.authority(), used, vec![item(1, 1)])
        .expect("granted")
        .0;
    lab.record(prepared.record.clone());
    let (leaf, shown) = lab.last_leaf();
    assert_eq!(leaf.purpose().as_str(), "reseal");
    let said = [
        Field::OnBehalfOf,
        Field::Case,
        Field::LegalBasis,
        Field::Actor,
    ]
    .map(|field| shown.fields[&field].clone());
    assert_eq!(said, ["user 7", "c-1", "art. 6", &caller.to_string()]);
    let bends: [fn(&mut proto::v1::Claim); 3] = [
        |claim| claim.case_id = "x".repeat(CLAIM_TEXT_MAX + 1),
        |claim| claim.on_behalf_of = "x".repeat(CLAIM_TEXT_MAX + 1),
        |claim| claim.legal_basis = "x".repeat(CLAIM_TEXT_MAX + 1),
    ];
    for bend in bends {
        let mut record = prepared.record.clone();
        record.request_id = vec![2; 16].into();
        bend(record.claim.as_mut().expect("there"));
        assert_eq!(reason(&lab.record(record)), KmsRefusal::Malformed);
    }
}

#[test]
fn a_retry_within_a_minute_reuses_the_leaf_and_a_later_one_gets_its_own() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    let first = lab.record(open.clone());
    lab.now += USABLE_MS - 1;
    let again = lab.record(open.clone());
    assert!(again.reused);
    assert_eq!(
        (again.leaf_index, &again.leaf_hash),
        (first.leaf_index, &first.leaf_hash)
    );
    assert_eq!(
        again.time_ms, START,
        "what is left of the minute counts from the leaf"
    );
    lab.now += 1;
    let late = lab.record(open);
    assert!(!late.reused && late.leaf_index > first.leaf_index);
}

#[test]
fn a_retry_in_the_same_batch_reuses_the_leaf() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    let answers = lab.records(vec![open.clone(), open]);
    assert_eq!(
        answers
            .iter()
            .map(|answer| answer.reused)
            .collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(answers[0].leaf_index, answers[1].leaf_index);
}

#[test]
fn a_request_id_is_bound_to_its_request() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    lab.record(open.clone());
    let mut others = vec![open.clone(); 3];
    others[0].claim.as_mut().expect("there").actor = id("gateway/g2").to_string();
    others[1].claim.as_mut().expect("there").purpose = "reseal".into();
    others[2].kind = lab
        .open_as("gateway/g1", 1, "", vec![item(2, 10)])
        .expect("granted")
        .record
        .kind;
    others.push(lab.lease(1, 1).expect("granted"));
    for other in others {
        assert_eq!(reason(&lab.record(other)), KmsRefusal::RequestIdReused);
    }
}

#[test]
fn a_retry_under_a_key_that_was_disabled_since_is_refused() {
    let mut lab = Lab::with_key();
    let open = lab.open(1).expect("granted");
    lab.record(open.clone());
    lab.bring_to(KeyState::Disabled);
    let mut retried = open;
    retried.state_version = lab.key().state_version;
    assert_eq!(reason(&lab.record(retried)), KmsRefusal::KeyDisabled);
}

#[test]
fn a_retried_lease_is_a_new_lease_unless_it_is_the_same() {
    let mut lab = Lab::with_key();
    let first = lab.lease(1, 1).expect("granted");
    let answer = lab.record(first.clone());
    assert!(lab.record(first).reused);
    // The leader minted another: its key is another, so it has its own leaf.
    let again = lab.lease(1, 2).expect("granted");
    let second = lab.record(again);
    assert!(!second.reused && second.leaf_index > answer.leaf_index);
    for lease in [1, 2] {
        assert!(kms_state::lease(&lab.state, &DATASET, &LeaseId([lease; 16])).is_some());
    }
}

#[test]
fn a_lease_id_is_not_shared() {
    let mut lab = Lab::with_key();
    let first = lab.lease(1, 1).expect("granted");
    lab.record(first);
    let other = lab.lease(2, 1).expect("granted");
    assert_eq!(reason(&lab.record(other)), KmsRefusal::Malformed);
}

#[test]
fn leases_and_metadata_leases_are_kinds_of_their_own() {
    let mut lab = Lab::with_key();
    let records = vec![
        lab.lease(1, 1).expect("granted"),
        lab.metadata_lease(2, 2).expect("granted"),
    ];
    let answers = lab.records(records);
    let kinds: Vec<_> = answers
        .iter()
        .map(|answer| lab.leaf(answer.leaf_index).0.kind())
        .collect();
    assert_eq!(kinds, [Kind::Lease, Kind::MetadataLease]);
    let stored = |lease| kms_state::lease(&lab.state, &DATASET, &LeaseId([lease; 16]));
    let metadata = [1, 2].map(|lease| stored(lease).expect("there").metadata);
    assert_eq!(metadata, [false, true]);
    let details = lab.last_leaf().1.fields[&Field::Details].clone();
    assert!(details.contains(&"02".repeat(16)) && details.contains("expires_at_ms"));
}

fn lease_bent(bend: impl FnOnce(&mut LeaseIssue)) -> KmsRefusal {
    let mut lab = Lab::with_key();
    let rotate = lab.rotate().expect("granted");
    lab.done(&rotate);
    let mut record = lab.lease(1, 1).expect("granted");
    let Some(Use::Lease(issue)) = &mut record.kind else {
        panic!("a lease")
    };
    bend(issue);
    reason(&lab.record(record))
}

#[test]
fn a_lease_lasts_at_most_an_hour_of_region_time_under_the_current_version() {
    assert_eq!(lease_bent(|_| ()), KmsRefusal::Unspecified);
    let malformed: [fn(&mut LeaseIssue); 7] = [
        |issue| issue.expires_at_ms += 1,
        |issue| issue.expires_at_ms = issue.issued_at_ms,
        |issue| {
            issue.issued_at_ms -= 2 * HOUR;
            issue.expires_at_ms = issue.issued_at_ms + HOUR;
        },
        |issue| {
            issue.issued_at_ms += 1;
            issue.expires_at_ms = issue.issued_at_ms + LEASE_MS_MAX;
        },
        |issue| issue.holder = vec![1; 31].into(),
        |issue| issue.lease_id.clear(),
        |issue| issue.kek_version = 3,
    ];
    for bend in malformed {
        assert_eq!(lease_bent(bend), KmsRefusal::Malformed);
    }
    assert_eq!(
        lease_bent(|issue| issue.kek_version = 1),
        KmsRefusal::VersionTooOld
    );
}

#[test]
fn a_key_that_is_not_enabled_gives_no_lease_and_opens_nothing() {
    use KeyState::{Compromised, Destroyed, Disabled, PendingDestruction};
    for state in [Disabled, PendingDestruction, Destroyed, Compromised] {
        let mut lab = Lab::with_key();
        let mut stale =
            [lab.open(1), lab.lease(2, 2), lab.metadata_lease(3, 3)].map(|r| r.expect("granted"));
        lab.bring_to(state);
        let now = lab.new_lease(9);
        for record in &mut stale {
            record.state_version = lab.key().state_version;
            if let Some(Use::Lease(issue) | Use::MetadataLease(issue)) = &mut record.kind {
                (issue.issued_at_ms, issue.expires_at_ms) = (now.issued.0, now.expires.0);
            }
        }
        for record in stale {
            assert_eq!(
                reason(&lab.record(record)),
                KmsRefusal::KeyDisabled,
                "{state:?}"
            );
        }
        assert_eq!(lab.lease(4, 4), Err(Refusal::KeyDisabled));
        assert_eq!(lab.metadata_lease(5, 5), Err(Refusal::KeyDisabled));
    }
}

#[test]
fn a_compromised_key_opens_to_reseal_and_for_nothing_else() {
    let mut lab = Lab::with_key();
    lab.bring_to(KeyState::Compromised);
    let items = || vec![item(1, 1)];
    let reseal = lab
        .open_as("gateway/g1", 1, "reseal", items())
        .expect("granted");
    assert_eq!(reason(&lab.record(reseal.record)), KmsRefusal::Unspecified);
    let service = lab.open_as("gateway/g1", 2, "", items()).expect("granted");
    assert_eq!(reason(&lab.record(service.record)), KmsRefusal::KeyDisabled);
    // What is sealed beside the content as well, and a lease that would seal never.
    let metadata = lab.metadata_lease_for("reseal", 3, 3).expect("granted");
    assert_eq!(
        reason(&lab.record(metadata.clone())),
        KmsRefusal::Unspecified
    );
    let mut sealing = metadata;
    sealing.request_id = vec![4; 16].into();
    if let Some(Use::MetadataLease(issue)) = sealing.kind.take() {
        sealing.kind = Some(Use::Lease(issue));
    }
    assert_eq!(reason(&lab.record(sealing)), KmsRefusal::KeyDisabled);
}

fn open_bent(bend: impl FnOnce(&mut Record)) -> KmsRefusal {
    let mut lab = Lab::with_key();
    let mut record = lab.open(1).expect("granted");
    bend(&mut record);
    reason(&lab.record(record))
}

fn opens(record: &mut Record) -> &mut proto::v1::Opens {
    match &mut record.kind {
        Some(Use::Opens(opens)) => opens,
        other => panic!("no open: {other:?}"),
    }
}

#[test]
fn a_malformed_open_is_refused() {
    let bends: [fn(&mut Record); 11] = [
        |record| record.request_id = vec![1; 15].into(),
        |record| record.dataset_id.clear(),
        |record| record.claim = None,
        |record| record.claim.as_mut().expect("there").actor = "g1".into(),
        |record| record.claim.as_mut().expect("there").purpose = "Not one".into(),
        |record| opens(record).items.clear(),
        |record| opens(record).items = vec![item(1, 1); OPEN_ITEMS_MAX + 1],
        |record| opens(record).items[0].version_id.clear(),
        |record| opens(record).items[0].name_commitment = vec![1; 31].into(),
        |record| opens(record).items[0].lease_id.clear(),
        |record| opens(record).items = vec![item(1, u64::MAX), item(2, 1)],
    ];
    for bend in bends {
        assert_eq!(open_bent(bend), KmsRefusal::Malformed);
    }
    let other = open_bent(|record| record.dataset_id = vec![1; 16].into());
    assert_eq!(other, KmsRefusal::NoSuchKey);
}

#[test]
fn keys_are_released_into_the_region_alone() {
    let abroad = open_bent(|record| opens(record).recipient_region = "de-fra".into());
    assert_eq!(abroad, KmsRefusal::WrongJurisdiction);
    let unsaid = open_bent(|record| opens(record).recipient_region.clear());
    assert_eq!(unsaid, KmsRefusal::Unspecified);
}

#[test]
fn the_largest_open_fits_a_leaf() {
    let mut lab = Lab::with_key();
    let items = (0..OPEN_ITEMS_MAX)
        .map(|n| item(n as u8, u64::from(u32::MAX)))
        .collect();
    let record = lab
        .open_as("gateway/g1", 1, "", items)
        .expect("granted")
        .record;
    assert_eq!(reason(&lab.record(record)), KmsRefusal::Unspecified);
    assert_eq!(lab.last_leaf().0.objects().len(), OPEN_ITEMS_MAX);
}

#[test]
fn one_bad_record_spoils_no_other() {
    let mut lab = Lab::with_key();
    let good = [lab.open(1).expect("granted"), lab.open(3).expect("granted")];
    let mut bad = lab.open(2).expect("granted");
    bad.state_version = 7;
    let answers = lab.records(vec![good[0].clone(), bad, good[1].clone()]);
    let reasons: Vec<_> = answers.iter().map(reason).collect();
    let (fine, moved) = (KmsRefusal::Unspecified, KmsRefusal::KeyStateMoved);
    assert_eq!(reasons, [fine, moved, fine]);
    assert_eq!(answers[2].leaf_index, answers[0].leaf_index);
}

#[test]
fn a_batch_is_bounded() {
    let mut lab = Lab::with_key();
    let record = lab.open(1).expect("granted");
    let command = prepare::batch(lab.asked("kms/r1"), 1, vec![record; RECORDS_MAX + 1]);
    assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
}

#[test]
fn what_ran_out_is_forgotten() {
    let mut lab = Lab::with_key();
    for n in 0..100 {
        let records = vec![
            lab.lease(n, n).expect("granted"),
            lab.open(n + 100).expect("granted"),
        ];
        lab.records(records);
    }
    assert_eq!(
        kms_state::latest_lease_expiry(&lab.state, &DATASET),
        UnixMs(START + HOUR)
    );
    lab.wait(HOUR);
    lab.wait(1);
    lab.wait(1);
    lab.wait(1);
    assert_eq!(
        kms_state::latest_lease_expiry(&lab.state, &DATASET),
        UnixMs(0)
    );
    let left = |table: u8| {
        lab.state
            .iter()
            .filter(|(key, _)| key.first() == Some(&table))
            .count()
    };
    use kms_state::layout::{LEASE_QUEUE, LEASES, REQUEST_QUEUE, REQUESTS};
    assert_eq!(
        [LEASES, LEASE_QUEUE, REQUESTS, REQUEST_QUEUE].map(left),
        [0; 4]
    );
}

#[test]
fn salts_are_a_commands_own() {
    let mut lab = Lab::with_key();
    let record = lab.open(1).expect("granted");
    let mut command = prepare::batch(lab.asked("kms/r1"), 1, vec![record]);
    for length in [0, 31, 33] {
        command.salts = vec![1; length].into();
        assert_eq!(lab.refused(&command).0, KmsRefusal::Malformed);
    }
}
