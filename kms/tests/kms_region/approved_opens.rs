//! Opens by people, on real replicas with the witness as it ships: two operators approve each single one, and its key
//! leaves once the witness has seen its record.

use crate::common::{
    Begin, Caller, OutsideWitness, PATIENCE, Region, Sealed, Session, identity, now, open, random,
    reason, seal,
};
use bytes::Bytes;
use kms::approvals::{approve, open_hash};
use proto::ids::UnixMs;
use proto::v1;

const DATASET: [u8; 16] = [0xD6; 16];
const BODY: &[u8] = b"what the investigation is about";
const UNWITNESSED_MS: u64 = 24 * 3_600_000;
const TWO: [&str; 2] = ["op-2", "op-3"];

/// The application may do everything for the service, auditors open for two purposes of people.
fn begin() -> Begin {
    let mut begin = Begin {
        request_ms_max: 4_000,
        ..Begin::default()
    };
    begin.grants.push(v1::Grant {
        principal: "role:auditor".to_owned(),
        dataset: "*".to_owned(),
        actions: vec![v1::Action::Read.into()],
        purposes: vec!["investigation".to_owned(), "third-party-request".to_owned()],
    });
    begin
}

/// An object that the application sealed.
async fn sealed(region: &Region) -> Sealed {
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let (lease, session) = app.lease(DATASET).await.expect("a lease");
    seal(DATASET, BODY, &lease, &session)
}

/// Waits until the witness has cosigned a first checkpoint under the policy: before, nothing is released at all.
async fn first_word(region: &Region) {
    let app = region.caller("app");
    let leased = async {
        while let Err(status) = app.lease(DATASET).await {
            assert_eq!(reason(&status), "unwitnessed", "{status}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, leased)
        .await
        .expect("in time");
}

/// What is asked for, without approvals.
fn asked(sealed: &Sealed, purpose: &str) -> v1::OpenRequest {
    v1::OpenRequest {
        request_id: Bytes::copy_from_slice(&random::<16>()),
        dataset_id: Bytes::copy_from_slice(&DATASET),
        claim: Some(v1::Claim {
            purpose: purpose.to_owned(),
            case_id: "2026-17".to_owned(),
            on_behalf_of: "prosecutor of the canton".to_owned(),
            ..v1::Claim::default()
        }),
        items: vec![sealed.item.clone()],
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::OpenRequest::default()
    }
}

/// The approval of one, until then, of exactly this request by this caller.
fn approval(
    region: &Region,
    by: &str,
    who: &str,
    request: &v1::OpenRequest,
    until: UnixMs,
) -> v1::Approval {
    let hash = open_hash(&identity(who), request);
    let id = request.single_use_id.as_ref().try_into().expect("16 bytes");
    approve(region.people.local(by), hash, id, until)
}

fn approved(
    region: &Region,
    by: &[&str],
    who: &str,
    mut request: v1::OpenRequest,
) -> v1::OpenRequest {
    let until = UnixMs(now().0 + 120_000);
    let approvals = by
        .iter()
        .map(|by| approval(region, by, who, &request, until));
    request.approvals = approvals.collect();
    request
}

/// Sends it to whoever leads, in a session of its own.
async fn send(
    caller: &Caller,
    request: &v1::OpenRequest,
) -> Result<(v1::OpenReply, Session), tonic::Status> {
    caller
        .at_leader(|at| async move {
            let session = caller.session(at).await?;
            let request = v1::OpenRequest {
                session_id: session.id.clone(),
                ..request.clone()
            };
            Ok((caller.kms(at).open(request).await?.into_inner(), session))
        })
        .await
}

/// Promise P3, red with `ignore_witnesses`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_open_is_released_once_the_witness_has_seen_its_record() {
    let region = Region::initialised(begin()).await;
    let sealed = sealed(&region).await;
    let mut witness = OutsideWitness::start(&region).await;
    region.raise_level(2).await;
    witness.vouches(&region, UNWITNESSED_MS).await;
    first_word(&region).await;
    let auditor = region.caller("auditor-1");
    let first = approved(&region, &TWO, "auditor-1", asked(&sealed, "investigation"));
    let (reply, session) = send(&auditor, &first)
        .await
        .expect("witnessed and released");
    assert_eq!(open(&sealed, &reply, &session), BODY);

    witness.stop().await;
    let second = asked(&sealed, "third-party-request");
    let second = approved(&region, &TWO, "auditor-1", second);
    let unseen = send(&auditor, &second).await.map(drop);
    let unseen = unseen.expect_err("on record, and seen by nobody else");
    assert_eq!(reason(&unseen), "not-witnessed-in-time", "{unseen}");
    let leaf = reply.leaf_index + 1;
    let says = format!("on record as leaf {leaf}");
    assert!(unseen.message().contains(&says), "{unseen}");
    assert!(
        unseen.message().contains("nothing was released"),
        "{unseen}"
    );

    // The same request again, once the witness is back: the record it has, and the key.
    witness.resume().await;
    let (again, session) = send(&auditor, &second).await.expect("seen by now");
    assert_eq!(again.leaf_index, leaf);
    assert_eq!(open(&sealed, &again, &session), BODY);
    the_record_names_its_approvers(&region, leaf).await;
    witness.stop().await;
    region.stop().await;
}

async fn the_record_names_its_approvers(region: &Region, leaf: u64) {
    let auditor = region.caller("auditor-1");
    let request = v1::ReadLeavesRequest {
        start: leaf,
        limit: 1,
        with_openings: true,
    };
    let leader = region.leader().await;
    let read = auditor.kms(leader).read_leaves(request).await;
    let entry = read.expect("leaves").into_inner().leaves.remove(0);
    let leaf = tlog::Leaf::parse(&entry.leaf).expect("a leaf");
    assert_eq!(leaf.kind(), tlog::Kind::Open);
    let openings = tlog::Openings::parse(&entry.openings).expect("openings");
    let shown = tlog::openings_of(&leaf, &openings).expect("they belong together");
    let approvals = &shown.fields[&tlog::Field::Approvals];
    for approver in TWO {
        let name = identity(approver).to_string();
        assert!(approvals.contains(&name), "{approvals}");
    }
    assert_eq!(shown.fields[&tlog::Field::Case], "2026-17");
}

/// Who, by whom, for what, changed how: and what the answer says.
struct Row {
    who: &'static str,
    by: &'static [&'static str],
    purpose: &'static str,
    changed: fn(&mut v1::OpenRequest),
    reason: &'static str,
    says: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        who: "auditor-1",
        by: &[],
        purpose: "investigation",
        changed: |request| request.single_use_id.clear(),
        reason: "needs-approvals",
        says: "reduit approve ask",
    },
    // Red with `ignore_approvals`.
    Row {
        who: "auditor-1",
        by: &["op-2"],
        purpose: "investigation",
        changed: |_| {},
        reason: "too-few-approvals",
        says: "1 distinct approvers are not enough, 2 are needed",
    },
    Row {
        who: "auditor-1",
        by: &["op-2", "op-2"],
        purpose: "investigation",
        changed: |_| {},
        reason: "too-few-approvals",
        says: "1 distinct approvers are not enough, 2 are needed",
    },
    Row {
        who: "auditor-1",
        by: &["op-2", "auditor-1"],
        purpose: "investigation",
        changed: |_| {},
        reason: "approver-not-operator",
        says: "spiffe://ch-zrh/auditor/auditor-1 is not an enrolled operator",
    },
    // The region's own CA has certified it, and nobody has enrolled it.
    Row {
        who: "auditor-1",
        by: &["op-2", "op-9"],
        purpose: "investigation",
        changed: |_| {},
        reason: "approver-not-operator",
        says: "spiffe://ch-zrh/operator/op-9 is not an enrolled operator",
    },
    Row {
        who: "auditor-1",
        by: &TWO,
        purpose: "investigation",
        changed: |request| request.claim.as_mut().expect("there").case_id = "2026-18".to_owned(),
        reason: "approval-of-other-request",
        says: "is of another request",
    },
    Row {
        who: "auditor-1",
        by: &TWO,
        purpose: "investigation",
        changed: |request| request.items[0].bytes += 1,
        reason: "approval-of-other-request",
        says: "is of another request",
    },
    Row {
        who: "auditor-2",
        by: &TWO,
        purpose: "investigation",
        changed: |request| request.claim.as_mut().expect("there").actor.clear(),
        reason: "approval-of-other-request",
        says: "is of another request",
    },
    Row {
        who: "auditor-1",
        by: &TWO,
        purpose: "support",
        changed: |_| {},
        reason: "not-granted",
        says: "no grant covers",
    },
    // Purposes are bound to roles: red with `anyones_purpose`.
    Row {
        who: "gateway-1",
        by: &TWO,
        purpose: "investigation",
        changed: |_| {},
        reason: "role-may-not",
        says: "the identity's role may never do this for this purpose",
    },
    Row {
        who: "auditor-1",
        by: &TWO,
        purpose: "service",
        changed: |_| {},
        reason: "role-may-not",
        says: "the identity's role may never do this for this purpose",
    },
];

/// Promise P2 and P3: red with `ignore_approvals` and with `anyones_purpose`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_for_a_persons_purpose_is_refused_unless_two_others_approved_exactly_it() {
    let mut begin = begin();
    // As wide as a grant can be: what a role may never do is not for grants.
    begin.grants.push(v1::Grant {
        principal: "role:gateway".to_owned(),
        dataset: "*".to_owned(),
        actions: vec![v1::Action::Read.into()],
        purposes: vec!["investigation".to_owned()],
    });
    let mut region = Region::initialised(begin).await;
    region.people.add("op-9", "", 0);
    let sealed = sealed(&region).await;
    let mut witness = OutsideWitness::start(&region).await;
    region.raise_level(2).await;
    witness.vouches(&region, UNWITNESSED_MS).await;
    first_word(&region).await;
    for row in ROWS {
        // Approved for the first auditor, whoever sends it.
        let signed_for = match row.who {
            "auditor-2" => "auditor-1",
            who => who,
        };
        let request = asked(&sealed, row.purpose);
        let mut request = approved(&region, row.by, signed_for, request);
        (row.changed)(&mut request);
        let refused = send(&region.caller(row.who), &request).await.map(drop);
        let refused = refused.expect_err(row.says);
        assert_eq!(reason(&refused), row.reason, "{}: {refused}", row.says);
        assert!(refused.message().contains(row.says), "{refused}");
    }
    approvals_serve_once_and_in_time(&region, &sealed).await;
    witness.stop().await;
    region.stop().await;
}

async fn approvals_serve_once_and_in_time(region: &Region, sealed: &Sealed) {
    let auditor = region.caller("auditor-1");
    let mut late = asked(sealed, "investigation");
    let past = UnixMs(now().0.saturating_sub(1));
    let expired = TWO.map(|by| approval(region, by, "auditor-1", &late, past));
    late.approvals = expired.to_vec();
    let refused = send(&auditor, &late).await.map(drop).expect_err("expired");
    assert_eq!(reason(&refused), "approval-expired", "{refused}");
    assert!(refused.message().contains("op-2 has expired"), "{refused}");

    let once = approved(region, &TWO, "auditor-1", asked(sealed, "investigation"));
    send(&auditor, &once).await.expect("once");
    // Another request under the same single-use id, approved all over.
    let twice = v1::OpenRequest {
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..once
    };
    let twice = approved(region, &TWO, "auditor-1", twice);
    let refused = send(&auditor, &twice).await.map(drop).expect_err("twice");
    assert_eq!(reason(&refused), "approval-replayed", "{refused}");
    assert!(refused.message().contains("used before"), "{refused}");
}

/// Without anybody to witness it, a person's purpose is refused, and everyday use is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_without_witnesses_opens_nothing_for_a_persons_purpose() {
    let region = Region::initialised(begin()).await;
    let sealed = sealed(&region).await;
    let request = approved(&region, &TWO, "auditor-1", asked(&sealed, "investigation"));
    let refused = send(&region.caller("auditor-1"), &request).await.map(drop);
    let refused = refused.expect_err("nobody to witness it");
    assert_eq!(reason(&refused), "no-witnesses", "{refused}");
    assert!(refused.message().contains("outside witness"), "{refused}");
    region.stop().await;
}
