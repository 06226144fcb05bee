//! Outside witnesses: their policy under dual control, their word in checkpoints, and no release without it.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{
    Begin, Caller, PATIENCE, REPLICAS, Region, TestWitness, now, policy_text, random, reason,
};
use kms::approvals::{approve, request_hash};
use proto::ids::UnixMs;
use proto::v1;
use tlog::{Note, Policy, SignatureType, SignerKey};

const DATASET: [u8; 16] = [0xD9; 16];
const DAY_MS: u64 = 24 * 3_600_000;

async fn raise_level(region: &Region, level: u32) {
    let operator = region.caller("op-1");
    let raised = operator.at_leader(|at| {
        let mut operate = operator.operate(at);
        async move {
            operate
                .raise_level(v1::RaiseKmsLevelRequest { level })
                .await
        }
    });
    raised.await.expect("raised");
}

async fn change_witnesses(
    region: &Region,
    text: &str,
    approvers: &[&str],
) -> Result<v1::KmsDone, tonic::Status> {
    let operator = region.caller("op-1");
    let single_use_id = random::<16>();
    let mut request = v1::ChangeWitnessesRequest {
        policy: Some(v1::WitnessPolicy {
            format: 1,
            policy: Bytes::copy_from_slice(text.as_bytes()),
            unwitnessed_max_ms: DAY_MS,
        }),
        single_use_id: Bytes::copy_from_slice(&single_use_id),
        ..v1::ChangeWitnessesRequest::default()
    };
    let hash = request_hash("ChangeWitnesses", &request);
    let expires = UnixMs(now().0 + 60_000);
    let by = |name: &&str| approve(region.people.local(name), hash, single_use_id, expires);
    request.approvals = approvers.iter().map(by).collect();
    let changed = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { Ok(operate.change_witnesses(request).await?.into_inner()) }
    });
    changed.await
}

async fn found(caller: &Caller, at: usize) -> v1::FindCheckpointReply {
    let mut kms = caller.kms(at);
    let found = kms.find_checkpoint(v1::FindCheckpointRequest {}).await;
    found.expect("found").into_inner()
}

/// A region with one witness whose policy is in force; the witness is silent if so asked.
async fn witnessed(silent: bool) -> (Region, TestWitness) {
    let region = Region::initialised(Begin::default()).await;
    let witness = TestWitness::start("witness.example/one", 41).await;
    witness.silence(silent);
    let leader = region.leader().await;
    witness.follow(&found(&region.caller("app"), leader).await.log_key);
    raise_level(&region, 2).await;
    let text = policy_text(&region, &[&witness]).await;
    change_witnesses(&region, &text, &["op-2", "op-3"])
        .await
        .expect("changed");
    (region, witness)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_of_witnesses_takes_a_level_dual_control_and_this_regions_log() {
    let region = Region::initialised(Begin::default()).await;
    let witness = TestWitness::start("witness.example/one", 41).await;
    let text = policy_text(&region, &[&witness]).await;
    let two = ["op-2", "op-3"];
    let refused = change_witnesses(&region, &text, &two).await;
    assert_eq!(
        reason(&refused.expect_err("an older build would stop")),
        "level-too-low"
    );
    raise_level(&region, 2).await;
    let refused = change_witnesses(&region, &text, &["op-2"]).await;
    assert_eq!(
        reason(&refused.expect_err("one is not two")),
        "too-few-approvals"
    );
    let refused = change_witnesses(&region, &text, &["op-1", "op-2"]).await;
    assert_eq!(
        reason(&refused.expect_err("its own request")),
        "self-approval"
    );
    let name = "ch-zrh/main/1".parse().expect("a name");
    let other = SignerKey::from_seed(name, SignatureType::Ed25519, &[5; 32]).expect("a key");
    let other = other.verifier();
    for bad in [
        "quorum none\n".to_owned(),
        // Witnesses without an address, or one that is not asked that way.
        text.replace(&witness.url(), ""),
        text.replace("http://", "https://"),
        // The region's replicas by themselves.
        text.replace(
            "group both all replicas outside",
            "group both any replicas outside",
        ),
        // Another key in the log's place.
        format!("log {other}\nquorum none\n"),
    ] {
        let refused = change_witnesses(&region, &bad, &two).await;
        let refused = refused.expect_err(&bad);
        assert_eq!(reason(&refused), "bad-witness-policy", "{bad}{refused}");
    }
    let size = region.status(region.leader().await).await.tree_size;
    let done = change_witnesses(&region, &text, &two)
        .await
        .expect("changed");
    assert_eq!(done.leaf_index, size, "on record");
    for at in 0..REPLICAS {
        let found = async {
            loop {
                let caller = region.caller("stranger");
                let mut kms = caller.kms(at);
                let found = kms.find_checkpoint(v1::FindCheckpointRequest {}).await;
                if let Some(policy) = found.expect("found").into_inner().policy {
                    return policy;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let policy = tokio::time::timeout(PATIENCE, found)
            .await
            .expect("applied");
        assert_eq!(policy.policy, text.as_bytes(), "as it was approved");
    }
    region.stop().await;
}

/// Promise P3, red with `ignore_witnesses`: without the word of the witnesses nothing is released, and with it all is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_released_without_the_word_of_the_witnesses() {
    let (region, witness) = witnessed(true).await;
    let app = region.caller("app");
    // Making a key releases nothing.
    app.create_key(DATASET).await.expect("a key");
    let size = region.status(region.leader().await).await.tree_size;
    let refused = app.lease(DATASET).await.map(drop);
    let refused = refused.expect_err("nobody vouches for this log");
    assert_eq!(reason(&refused), "unwitnessed");
    assert!(refused.message().contains("witnesses"), "{refused}");
    let after = region.status(region.leader().await).await.tree_size;
    assert_eq!(after, size, "and nothing is recorded");

    witness.silence(false);
    witness.has_seen(size).await;
    let leased = async {
        loop {
            match app.lease(DATASET).await {
                Ok((lease, _)) => return lease,
                Err(status) => assert_eq!(reason(&status), "unwitnessed"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let lease = tokio::time::timeout(PATIENCE, leased)
        .await
        .expect("served");

    // Its receipt has the witness's word in it, and holds by the very policy that was approved.
    let request = v1::ReceiptRequest {
        leaf_index: lease.leaf_index,
    };
    let leader = region.leader().await;
    let receipt = app.kms(leader).receipt(request).await.expect("a receipt");
    let file = tlog::ProofFile::parse(&receipt.into_inner().proof).expect("a proof file");
    let found = found(&app, leader).await;
    let policy = Policy::parse(&found.policy.expect("in force").policy).expect("a policy");
    let trusted = policy.check(file.checkpoint()).expect("both quorums");
    let names: Vec<_> = trusted
        .cosigned()
        .iter()
        .map(|c| c.witness.to_string())
        .collect();
    assert!(names.contains(&"w0".to_owned()), "{names:?}");
    let served = Note::parse(&found.witnessed).expect("a note");
    policy.check(&served).expect("witnessed");
    region.stop().await;
}

/// A replica that was sealed has not seen what happened meanwhile: it releases only after the witnesses have seen its
/// own unsealing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cold_unseal_the_witnesses_speak_first() {
    let (mut region, witness) = witnessed(false).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    for at in 0..REPLICAS {
        region.kill(at).await;
    }
    witness.silence(true);
    for at in 0..REPLICAS {
        region.restart(at).await;
    }
    region
        .unseal_by_custodians(0, common::NEEDED as usize)
        .await;
    let refused = app.lease(DATASET).await.map(drop);
    let refused = refused.expect_err("not seen by anybody yet");
    assert_eq!(reason(&refused), "unwitnessed");
    witness.silence(false);
    let leased = async {
        while let Err(status) = app.lease(DATASET).await {
            assert_eq!(reason(&status), "unwitnessed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, leased)
        .await
        .expect("served again");
    region.stop().await;
}

/// A witness that lost its memory, or was asked by somebody else, says where it stands and is asked from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_is_asked_from_the_size_it_states() {
    let (region, witness) = witnessed(false).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    // The leader changes, and the next one knows nothing of the witness: it learns the size by a conflict.
    let leader = region.leader().await;
    let operator = region.caller("op-1");
    operator
        .operate(leader)
        .seal(v1::SealRequest {})
        .await
        .expect("sealed");
    let done = app.at_leader(|at| {
        let mut kms = app.kms(at);
        let request = v1::KeyChangeRequest {
            dataset_id: Bytes::copy_from_slice(&DATASET),
            claim: None,
            request_id: Bytes::copy_from_slice(&[7; 16]),
        };
        async move { kms.rotate_key(request).await.map(drop) }
    });
    done.await.expect("rotated");
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    region.stop().await;
}
