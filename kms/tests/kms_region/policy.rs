//! The policy text of a region, on real replicas: set under dual control, ruling every use of keys from then on.

use crate::common::{Begin, Caller, REPLICAS, Region, now, random, reason};
use bytes::Bytes;
use kms::approvals::{approve, request_hash};
use proto::ids::UnixMs;
use proto::v1;

const DATASET: [u8; 16] = [0xDA; 16];
const OTHER: [u8; 16] = [0xDB; 16];

/// The application with one dataset, for the service; what concerns case 2026-17 stands still.
const TEXT: &str = r#"
@id("app")
permit (
    principal == Identity::"spiffe://ch-zrh/client/app",
    action,
    resource == Dataset::"dadadadadadadadadadadadadadadada"
) when { context.purpose == "service" };

@id("case-closed")
forbid (principal, action == Action::"read", resource)
when { context has case && context.case == "2026-17" };

@id("nothing-leaves")
forbid (principal, action, resource)
when { context.recipient_region != "ch-zrh" };
"#;

async fn set_policy(
    region: &Region,
    text: &str,
    approvers: &[&str],
) -> Result<v1::KmsDone, tonic::Status> {
    let operator = region.caller("op-1");
    let single_use_id = random::<16>();
    let mut request = v1::ChangePolicyRequest {
        text: text.to_owned(),
        single_use_id: Bytes::copy_from_slice(&single_use_id),
        ..v1::ChangePolicyRequest::default()
    };
    let hash = request_hash("ChangePolicy", &request);
    let expires = UnixMs(now().0 + 60_000);
    let by = |name: &&str| approve(region.people.local(name), hash, single_use_id, expires);
    request.approvals = approvers.iter().map(by).collect();
    let changed = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { Ok(operate.change_policy(request).await?.into_inner()) }
    });
    changed.await
}

fn item(lease: &v1::IssueLeaseReply) -> v1::OpenItem {
    v1::OpenItem {
        token: lease.token.clone(),
        version_id: Bytes::copy_from_slice(&random::<16>()),
        dek_salt: Bytes::copy_from_slice(&[1; 32]),
        name_commitment: Bytes::copy_from_slice(&[2; 32]),
        bytes: 1,
    }
}

fn claim(case: &str) -> v1::Claim {
    v1::Claim {
        case_id: case.to_owned(),
        ..v1::Claim::default()
    }
}

fn denied(outcome: Result<(), tonic::Status>) -> (String, String) {
    let status = outcome.expect_err("denied");
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    (reason(&status).to_owned(), status.message().to_owned())
}

async fn metadata_lease(caller: &Caller, dataset: [u8; 16]) -> Result<(), tonic::Status> {
    let request_id = Bytes::copy_from_slice(&random::<16>());
    caller
        .at_leader(|at| {
            let request_id = request_id.clone();
            async move {
                let session = caller.session(at).await?;
                let request = v1::IssueLeaseRequest {
                    session_id: session.id,
                    dataset_id: Bytes::copy_from_slice(&dataset),
                    request_id,
                    ..v1::IssueLeaseRequest::default()
                };
                caller.kms(at).issue_metadata_lease(request).await.map(drop)
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_text_takes_dual_control_and_is_valid() {
    let region = Region::initialised(Begin::default()).await;
    let two = ["op-2", "op-3"];
    for (approvers, why) in [
        (&["op-2"][..], "too-few-approvals"),
        (&["op-2", "op-2"][..], "too-few-approvals"),
        (&["op-1", "op-2"][..], "self-approval"),
        (&["op-2", "auditor-1"][..], "approver-not-operator"),
    ] {
        let refused = set_policy(&region, TEXT, approvers).await;
        assert_eq!(reason(&refused.expect_err(why)), why, "{approvers:?}");
    }
    for (bad, says) in [
        ("permit (principal, action, resource", "1:"),
        (
            "permit (principal, action == Action::\"reed\", resource);",
            "1:1",
        ),
        ("", "empty"),
        ("  \n", "empty"),
    ] {
        let refused = set_policy(&region, bad, &two).await.expect_err(says);
        let why = if says == "empty" {
            "malformed"
        } else {
            "bad-policy-text"
        };
        assert_eq!(reason(&refused), why, "{bad}: {refused}");
        if why == "bad-policy-text" {
            assert!(refused.message().contains(says), "{refused}");
        }
    }
    let before = region.status(region.leader().await).await;
    let done = set_policy(&region, TEXT, &two).await.expect("set");
    assert_eq!(done.leaf_index, before.tree_size, "on record");
    assert_eq!(done.authority_version, before.authority_version + 1);
    region.stop().await;
}

/// Promise P3, red with `ignore_policy`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_policy_permits_is_denied_and_a_forbid_is_named() {
    let region = Region::initialised(Begin::default()).await;
    region.raise_level(3).await;
    let app = region.caller("app");
    for dataset in [DATASET, OTHER] {
        app.create_key(dataset).await.expect("granted");
    }
    let (other, _) = app.lease(OTHER).await.expect("granted");
    set_policy(&region, TEXT, &["op-2", "op-3"])
        .await
        .expect("set");

    let (lease, _) = app.lease(DATASET).await.expect("permitted");
    metadata_lease(&app, DATASET).await.expect("permitted");
    let open = async |dataset, case: &str, lease| {
        let opened = app.open(dataset, random(), claim(case), vec![item(lease)]);
        opened.await.map(drop)
    };
    open(DATASET, "2026-18", &lease).await.expect("permitted");
    let (why, says) = denied(open(DATASET, "2026-17", &lease).await);
    assert_eq!(why, "forbidden-by-policy");
    assert!(says.contains("case-closed"), "{says}");

    // What was granted, and is not permitted.
    let (why, says) = denied(open(OTHER, "", &other).await);
    assert_eq!(why, "not-permitted");
    assert!(says.contains("no policy permits"), "{says}");
    assert_eq!(denied(app.lease(OTHER).await.map(drop)).0, "not-permitted");
    let leased = metadata_lease(&app, OTHER).await;
    assert_eq!(denied(leased).0, "not-permitted");
    let created = app.create_key([0xDC; 16]).await.map(drop);
    assert_eq!(denied(created).0, "not-permitted");
    let rotated = app.at_leader(|at| {
        let mut kms = app.kms(at);
        let request = v1::KeyChangeRequest {
            dataset_id: Bytes::copy_from_slice(&OTHER),
            claim: None,
            request_id: Bytes::copy_from_slice(&[7; 16]),
        };
        async move { kms.rotate_key(request).await.map(drop) }
    });
    assert_eq!(denied(rotated.await).0, "not-permitted");
    what_goes_abroad_is_asked_of_policy(&app, &lease).await;
    the_next_leader_says_the_same(region, &lease).await;
}

async fn what_goes_abroad_is_asked_of_policy(app: &Caller, lease: &v1::IssueLeaseReply) {
    let request_id = Bytes::copy_from_slice(&random::<16>());
    let opened = app.at_leader(|at| {
        let request_id = request_id.clone();
        async move {
            let session = app.session(at).await?;
            let request = v1::OpenRequest {
                request_id,
                session_id: session.id,
                dataset_id: Bytes::copy_from_slice(&DATASET),
                items: vec![item(lease)],
                recipient_region: "de-fra".to_owned(),
                ..v1::OpenRequest::default()
            };
            app.kms(at).open(request).await.map(drop)
        }
    });
    let (why, says) = denied(opened.await);
    assert_eq!(why, "forbidden-by-policy");
    assert!(says.contains("nothing-leaves"), "{says}");
}

async fn the_next_leader_says_the_same(mut region: Region, lease: &v1::IssueLeaseReply) {
    region.kill(region.leader().await).await;
    let app = region.caller("app");
    let opened = app.open(DATASET, random(), claim("2026-17"), vec![item(lease)]);
    assert_eq!(denied(opened.await.map(drop)).0, "forbidden-by-policy");
    let opened = app.open(DATASET, random(), claim(""), vec![item(lease)]);
    opened.await.map(drop).expect("permitted");
    region.stop().await;
}

/// A removal that was acknowledged wins: what was decided before it is decided anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_first_text_grants_end_and_a_new_text_rules_at_once() {
    let region = Region::initialised(Begin::default()).await;
    region.raise_level(3).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("granted");
    let two = ["op-2", "op-3"];
    set_policy(&region, TEXT, &two).await.expect("set");
    app.lease(DATASET).await.expect("permitted");

    let refused = add_grant(&region).await.expect_err("there is a text");
    assert_eq!(reason(&refused), "policy-rules", "{refused}");

    let done = set_policy(&region, "// Nobody may do anything.\n", &two)
        .await
        .expect("set");
    let leased = app.lease(DATASET).await.map(drop);
    assert_eq!(denied(leased).0, "not-permitted");
    // Every replica signs the set with the text, for nodes to go by.
    for at in 0..REPLICAS {
        let fetched = app
            .kms(at)
            .fetch_enrolments(v1::FetchEnrolmentsRequest::default())
            .await;
        let set = fetched.expect("fetched").into_inner().set;
        let set: v1::EnrolmentSet = prost::Message::decode(set).expect("a set");
        assert_eq!(set.version, done.authority_version);
        assert_eq!(set.policy, "// Nobody may do anything.\n");
        assert!(set.grants.is_empty(), "they ended with the first text");
    }
    region.stop().await;
}

async fn add_grant(region: &Region) -> Result<v1::KmsDone, tonic::Status> {
    let operator = region.caller("op-1");
    let single_use_id = random::<16>();
    let mut request = v1::ChangeGrantsRequest {
        add: vec![v1::Grant {
            principal: "role:client".to_owned(),
            dataset: "*".to_owned(),
            actions: vec![v1::Action::Read.into()],
            purposes: Vec::new(),
        }],
        single_use_id: Bytes::copy_from_slice(&single_use_id),
        ..v1::ChangeGrantsRequest::default()
    };
    let hash = request_hash("ChangeGrants", &request);
    let expires = UnixMs(now().0 + 60_000);
    let by = |name: &&str| approve(region.people.local(name), hash, single_use_id, expires);
    request.approvals = ["op-2", "op-3"].iter().map(by).collect();
    let changed = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { Ok(operate.change_grants(request).await?.into_inner()) }
    });
    changed.await
}
