//! Promise P3, with a switch that breaks it: `release_before_record` turns the named test red.

use std::time::Duration;

use crate::common::{Begin, PRINCIPAL, Region, random, reason};
use bytes::Bytes;
use proto::v1;

const DATASET: [u8; 16] = [0xD3; 16];

/// With the quorum gone no record can be committed, so nothing may be released: not a lease, not a DEK, not the secret of
/// an access key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_released_before_its_record_is_committed() {
    let begin = Begin {
        request_ms_max: 3_000,
        ..Begin::default()
    };
    let region = Region::initialised(begin).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let (lease, _) = app.lease(DATASET).await.expect("a lease");
    let shown = region.access_key(PRINCIPAL).await;
    let gateway = region.caller("gateway-1");
    let leader = region.leader().await;
    let session = app.session(leader).await.expect("a session");
    let of_gateway = gateway.session(leader).await.expect("a session");
    let size = region.status(leader).await.tree_size;

    region.cut_off(leader);
    let open = v1::OpenRequest {
        request_id: Bytes::copy_from_slice(&random::<16>()),
        session_id: session.id.clone(),
        dataset_id: Bytes::copy_from_slice(&DATASET),
        claim: None,
        items: vec![v1::OpenItem {
            token: lease.token.clone(),
            version_id: Bytes::copy_from_slice(&random::<16>()),
            dek_salt: Bytes::copy_from_slice(&[1; 32]),
            name_commitment: Bytes::copy_from_slice(&[2; 32]),
            bytes: 1,
        }],
        ..v1::OpenRequest::default()
    };
    let another = v1::IssueLeaseRequest {
        session_id: session.id,
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::IssueLeaseRequest::default()
    };
    let secret = v1::IssueAccessSecretRequest {
        session_id: of_gateway.id,
        access_key_id: shown.id.as_str().to_owned().into(),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::IssueAccessSecretRequest::default()
    };
    let (mut kms, mut other) = (app.kms(leader), app.kms(leader));
    let mut third = gateway.kms(leader);
    let (opened, leased, given) = tokio::join!(
        kms.open(open.clone()),
        other.issue_lease(another),
        third.issue_access_secret(secret)
    );
    let refused = opened.expect_err("nothing is opened without its record");
    assert!(
        matches!(reason(&refused), "maybe-recorded" | "not-leader"),
        "{refused}"
    );
    let refused = leased.expect_err("nothing is leased without its record");
    assert!(
        matches!(reason(&refused), "maybe-recorded" | "not-leader"),
        "{refused}"
    );
    let refused = given.expect_err("no secret is given without its record");
    assert!(
        matches!(reason(&refused), "maybe-recorded" | "not-leader"),
        "{refused}"
    );
    assert_eq!(
        region.status(leader).await.tree_size,
        size,
        "and nothing is recorded"
    );

    // Healed, the same request has its one leaf, whoever leads by then.
    region.heal();
    let id: [u8; 16] = open.request_id.as_ref().try_into().expect("16 bytes");
    let answered = tokio::time::timeout(
        Duration::from_secs(30),
        app.open(DATASET, id, v1::Claim::default(), open.items.clone()),
    );
    let (reply, _) = answered.await.expect("in time").expect("opened");
    assert!(!reply.keys[0].sealed_dek.is_empty());
    region.stop().await;
}
