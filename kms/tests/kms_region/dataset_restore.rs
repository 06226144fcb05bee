//! Restores of datasets, as people approve them: what the KMS puts on record, and the warrant it gives.

use crate::common::{
    BODY, Begin, Caller, DATASET, Region, identity, now, random, reason, sealed_object,
};
use bytes::Bytes;
use kms::approvals::{approve, request_hash};
use prost::Message as _;
use proto::ids::UnixMs;
use proto::transcript::LABEL_RESTORE_WARRANT;
use proto::v1;
use tonic::Status;
use transport::PublicKey;

const WEEK_MS: u64 = 7 * 24 * 3_600_000;

async fn asked(
    caller: &Caller,
    request: &v1::ApproveRestoreRequest,
) -> Result<v1::ApproveRestoreReply, Status> {
    caller
        .at_leader(|at| {
            let mut operate = caller.operate(at);
            let request = request.clone();
            async move { Ok(operate.approve_restore(request).await?.into_inner()) }
        })
        .await
}

async fn refused(caller: &Caller, request: &v1::ApproveRestoreRequest) -> String {
    let refused = asked(caller, request).await;
    reason(&refused.map(drop).expect_err("refused")).to_owned()
}

fn request(what: v1::RestoreWhat, epoch: u64) -> v1::ApproveRestoreRequest {
    let target = v1::RestoreTarget {
        dataset_id: Bytes::copy_from_slice(&DATASET),
        name: "cti".to_owned(),
        epoch,
    };
    v1::ApproveRestoreRequest {
        terms: Some(v1::DatasetRestore {
            format: 1,
            what: what.into(),
            backup_id: Bytes::copy_from_slice(&random::<16>()),
            index_digest: Bytes::copy_from_slice(&random::<32>()),
            datasets: vec![target],
        }),
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ApproveRestoreRequest::default()
    }
}

fn approved(
    region: &Region,
    mut request: v1::ApproveRestoreRequest,
    by: &[&str],
) -> v1::ApproveRestoreRequest {
    request.approvals.clear();
    let hash = request_hash("ApproveRestore", &request);
    let id: [u8; 16] = request.single_use_id[..].try_into().expect("16 bytes");
    let until = UnixMs(now().0 + 60_000);
    let one = |name: &&str| approve(region.people.local(name), hash, id, until);
    request.approvals = by.iter().map(one).collect();
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warrant_says_what_two_people_approved_and_how_the_keys_stand() {
    let region = Region::initialised(Begin::default()).await;
    let object = sealed_object(&region.caller("app")).await;
    let operator = region.caller("op-1");
    let restore = request(v1::RestoreWhat::Restore, 0);

    assert_eq!(refused(&operator, &restore).await, "too-few-approvals");
    let one = approved(&region, restore.clone(), &["op-2", "op-2"]);
    assert_eq!(refused(&operator, &one).await, "too-few-approvals");
    let own = approved(&region, restore.clone(), &["op-1", "op-2"]);
    assert_eq!(refused(&operator, &own).await, "self-approval");
    let both = approved(&region, restore.clone(), &["op-2", "op-3"]);
    let bent = v1::ApproveRestoreRequest {
        terms: request(v1::RestoreWhat::Restore, 0).terms,
        ..both.clone()
    };
    assert_eq!(refused(&operator, &bent).await, "approval-of-other-request");
    assert_eq!(refused(&region.caller("app"), &both).await, "not-operator");

    let given = asked(&operator, &both).await.expect("approved");
    let warrant = given.warrant.expect("a warrant");
    let signer = PublicKey::from_spki(&warrant.signer).expect("a key");
    signer
        .verify(LABEL_RESTORE_WARRANT, &warrant.body, &warrant.signature)
        .expect("signed by a replica");
    let body = v1::RestoreWarrantBody::decode(warrant.body.clone()).expect("a body");
    let held = body.approved.clone().expect("what was approved");
    assert_eq!(held.terms, restore.terms);
    assert_eq!(held.requester, identity("op-1").to_string());
    assert_eq!(
        held.approvers,
        [identity("op-2").to_string(), identity("op-3").to_string()]
    );
    assert_eq!(body.expires_at_ms, held.time_ms + WEEK_MS);
    let key = &body.keys[0];
    assert_eq!(
        (key.state(), key.oldest_version, key.current_version),
        (v1::KeyState::Enabled, 1, 1)
    );

    // The answer was lost: the same again, of the same leaf, and nobody else's.
    let again = asked(&operator, &both).await.expect("again");
    assert_eq!(again.leaf_index, given.leaf_index);
    let retold = again.warrant.expect("a warrant").body;
    let retold = v1::RestoreWarrantBody::decode(retold).expect("a body");
    assert_eq!(retold, body);
    // To let it be restored ends nothing that is alive.
    let opened = region.caller("app").get_object(&object).await;
    assert_eq!(opened.expect("it opens"), BODY);

    let confirm = request(v1::RestoreWhat::Confirm, 3);
    let confirm = approved(&region, confirm, &["op-2", "op-3"]);
    let given = asked(&operator, &confirm).await.expect("confirmed");
    let body = given.warrant.expect("a warrant").body;
    let body = v1::RestoreWarrantBody::decode(body).expect("a body");
    let terms = body.approved.and_then(|held| held.terms);
    assert_eq!(terms, confirm.terms);
}
