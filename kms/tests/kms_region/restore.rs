//! What a restore refuses, and what it survives.

use std::time::Duration;

use crate::common::{
    BODY, Backup, Begin, PATIENCE, Region, Sealed, TestWitness, policy_text, reason, sealed_object,
};
use kms::approvals::{approve, request_hash};
use proto::ids::UnixMs;
use proto::v1;

async fn lost(begin: Begin) -> (Region, Backup, Sealed, Vec<v1::SealedShare>) {
    let region = Region::initialised(begin).await;
    let app = region.caller("app");
    let object = sealed_object(&app).await;
    let backup = region.backup().await;
    let shares = region.shares.clone();
    let (_disks, people) = region.lost().await;
    let anew = Region::begin_anew(Begin::default(), people).await;
    (anew, backup, object, shares)
}

async fn opens(region: &Region, object: &Sealed) {
    let app = region.caller("app");
    assert_eq!(app.get_object(object).await.expect("opens"), BODY);
}

fn approved_by(
    region: &Region,
    request: &v1::RestoreRequest,
    names: &[&str],
) -> v1::RestoreRequest {
    let hash = request_hash("Restore", request);
    let id = request.single_use_id.as_ref().try_into().expect("16 bytes");
    let until = UnixMs(crate::common::now().0 + 600_000);
    let by = |name: &&str| approve(region.people.local(name), hash, id, until);
    v1::RestoreRequest {
        approvals: names.iter().map(by).collect(),
        ..request.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_takes_custodians_two_approvers_and_exactly_the_file_they_approved() {
    let (mut region, backup, object, shares) = lost(Begin::default()).await;
    let request = region.restore_request(&backup);
    let good = region.restore_approved(request.clone());
    let send = async |region: &Region, file: &[u8], request: &v1::RestoreRequest| {
        let refused = region.send_restore(0, file, request.clone()).await;
        reason(&refused.expect_err("refused")).to_owned()
    };
    let file = backup.file.clone();
    assert_eq!(send(&region, &file, &good).await, "not-prepared");
    // Nobody unseals a replica that waits for no backup.
    let early = region
        .give_share(0, &shares[0])
        .await
        .expect_err("no region");
    assert_eq!(reason(&early), "not-initialised");
    region.prepare_restore(0, &backup).await.expect("prepared");
    assert_eq!(send(&region, &file, &good).await, "sealed");
    for share in &shares[..2] {
        region.give_share(0, share).await.expect("taken");
    }
    assert_eq!(send(&region, &file, &good).await, "sealed", "two of three");
    region.give_share(0, &shares[2]).await.expect("taken");

    for (names, why) in [
        (&[][..], "too-few-approvals"),
        (&["op-2"][..], "too-few-approvals"),
        (&["op-2", "op-2"][..], "too-few-approvals"),
        (&["op-1", "op-2"][..], "self-approval"),
        (&["op-2", "app"][..], "approver-not-operator"),
    ] {
        let request = approved_by(&region, &request, names);
        assert_eq!(send(&region, &file, &request).await, why, "{names:?}");
    }
    let stated = v1::RestoreRequest {
        without_witnesses: true,
        ..good.clone()
    };
    let why = send(&region, &file, &stated).await;
    assert_eq!(why, "approval-of-other-request", "more than was approved");
    let by_app = {
        let mut operate = region.caller("app").operate(0);
        let begin = v1::RestoreChunk {
            begin: Some(good.clone()),
            ..v1::RestoreChunk::default()
        };
        operate.restore(futures::stream::iter([begin])).await
    };
    assert_eq!(reason(&by_app.expect_err("no operator")), "not-operator");

    // Cut anywhere, or with a byte changed anywhere, it comes to nothing; and nothing was in force meanwhile.
    for cut in [1, 31, 32, 33, file.len() / 2] {
        let why = send(&region, &file[..file.len() - cut], &good).await;
        assert!(["does-not-open", "cut"].contains(&why.as_str()), "{why}");
    }
    for at in [
        30,
        30_000.min(file.len() / 2),
        file.len() - 100,
        file.len() - 1,
    ] {
        let mut other = file.clone();
        other[at] ^= 1;
        let why = send(&region, &other, &good).await;
        let known = ["not-prepared", "does-not-open", "malformed"];
        assert!(known.contains(&why.as_str()), "{at}: {why}");
    }
    assert!(!region.status(0).await.initialised);
    let app = region.caller("app");
    let opened = app.open_at(0, &object).await;
    assert_eq!(reason(&opened.expect_err("no region")), "sealed");

    // Every replica dies in the middle; the custodians come again, to the one that leads now, and it goes on.
    region.restart_all().await;
    let leader = region.leader().await;
    let reply = region.restored_at(leader, &backup, &shares[2..]).await;
    assert_eq!(reply.tree_size, backup.record().tree_size);
    opens(&region, &object).await;
    let again = region.prepare_restore(0, &backup).await;
    assert_eq!(
        reason(&again.expect_err("it has a region")),
        "already-initialised"
    );
    let again = region.send_restore(0, &file, good).await;
    assert_eq!(
        reason(&again.expect_err("it has a region")),
        "already-initialised"
    );
    let auditor = region.caller("auditor-1");
    let leaves = crate::common::leaves(&auditor, 0, reply.leaf_index + 1).await;
    let kind = |leaf: &Vec<u8>| tlog::Leaf::parse(leaf).expect("a leaf").kind();
    assert_eq!(leaves.last().map(kind), Some(tlog::Kind::Restored));
    region.stop().await;
}

/// Whoever writes a genesis set does not appoint the approvers: those of the backup count, with their keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvers_that_the_backup_does_not_know_by_their_keys_do_not_count() {
    let region = Region::initialised(Begin::default()).await;
    let object = sealed_object(&region.caller("app")).await;
    let backup = region.backup().await;
    let shares = region.shares.clone();
    let (_disks, mut people) = region.lost().await;
    // An operator with the CA's help has certified new keys under the names of two others.
    people.add("op-2", "", 0);
    let region = Region::begin_anew(Begin::default(), people).await;
    region.prepare_restore(0, &backup).await.expect("prepared");
    for share in &shares[..3] {
        region.give_share(0, share).await.expect("taken");
    }
    let request = region.restore_approved(region.restore_request(&backup));
    let refused = region.send_restore(0, &backup.file, request).await;
    let refused = refused.expect_err("another key");
    assert_eq!(reason(&refused), "other-key-than-in-backup");
    assert!(!region.status(0).await.initialised);
    let opened = region.caller("app").open_at(0, &object).await;
    assert_eq!(reason(&opened.expect_err("no region")), "sealed");
    region.stop().await;
}

/// How long the region goes without its witness.
const UNWITNESSED_MS: u64 = 600_000;
const PAUSE: Duration = Duration::from_millis(50);

async fn found(region: &Region, at: usize) -> v1::FindCheckpointReply {
    let mut kms = region.caller("app").kms(at);
    let found = kms.find_checkpoint(v1::FindCheckpointRequest {}).await;
    found.expect("found").into_inner()
}

/// Does something once witnesses let it be done.
async fn once_witnessed<T, F>(act: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let done = async {
        loop {
            match act().await {
                Ok(done) => return done,
                Err(status) => {
                    let soon = ["unwitnessed", "no-checkpoint", "sealed"];
                    assert!(soon.contains(&reason(&status)), "{status}");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("in time")
}

/// A policy as `policy_text` makes it, for replicas that have no region yet.
async fn policy_to_come(
    region: &Region,
    log_key: &str,
    witness: &TestWitness,
) -> v1::WitnessPolicy {
    let mut text = format!("log {log_key}\n");
    for at in 0..region.places.len() {
        text += &format!("witness r{at} {}\n", found(region, at).await.cosigner_key);
    }
    text += &format!("witness w {} {}\n", witness.key(), witness.url());
    text += "group replicas 2 r0 r1 r2\ngroup both all replicas w\nquorum both\n";
    v1::WitnessPolicy {
        format: 1,
        policy: text.into_bytes().into(),
        unwitnessed_max_ms: UNWITNESSED_MS,
    }
}

/// Red where the leader does not ask the witnesses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_behind_a_witness_takes_the_gap_stated_and_goes_on_under_the_next_origin() {
    let region = Region::initialised(Begin::default()).await;
    let witness = TestWitness::start("witness.example/one", 41).await;
    let leader = region.leader().await;
    witness.follow(&found(&region, leader).await.log_key);
    let text = policy_text(&region, &[&witness]).await;
    once_witnessed(|| {
        let request = region.witness_change(&text, UNWITNESSED_MS);
        region.change_witnesses(request, &["op-2", "op-3"])
    })
    .await;
    let app = region.caller("app");
    app.create_key(crate::common::DATASET).await.expect("a key");
    let object = once_witnessed(|| app.put_object(crate::common::DATASET)).await;
    let backup = region.backup().await;
    let ours = backup.record().tree_size;
    // The region lives on for a while, and its witness sees it.
    once_witnessed(|| app.get_object(&object)).await;
    witness.has_seen(ours + 1).await;
    let shares = region.shares.clone();
    let (_disks, people) = region.lost().await;
    let seen = witness.size();

    let region = Region::begin_anew(Begin::default(), people).await;
    region.prepare_restore(0, &backup).await.expect("prepared");
    for share in &shares[..3] {
        region.give_share(0, share).await.expect("taken");
    }
    let ready = region.prepare_restore(0, &backup).await.expect("ready");
    assert!(ready.unsealed);
    let request = region.restore_request(&backup);
    let send = async |request: v1::RestoreRequest| {
        let request = region.restore_approved(request);
        region.send_restore(0, &backup.file, request).await
    };
    let refused = async |request: v1::RestoreRequest| {
        let refused = send(request).await.expect_err("refused");
        (reason(&refused).to_owned(), refused.message().to_owned())
    };
    let (why, words) = refused(request.clone()).await;
    assert_eq!(why, "behind-witness");
    assert!(words.contains(&format!("signed {seen} leaves")), "{words}");
    witness.silence(true);
    assert_eq!(refused(request.clone()).await.0, "witnesses-silent");
    witness.silence(false);
    // Less than it has signed is no statement of the gap.
    let stated = |witnessed_size, policy| v1::RestoreRequest {
        witnessed_size,
        policy,
        ..request.clone()
    };
    assert_eq!(refused(stated(seen - 1, None)).await.0, "behind-witness");
    assert_eq!(refused(stated(seen, None)).await.0, "leaves-lost");
    let of_old = policy_to_come(&region, &ready.log_key, &witness).await;
    assert_eq!(refused(stated(seen, Some(of_old))).await.0, "malformed");
    assert!(!region.status(0).await.initialised);

    let policy = policy_to_come(&region, &ready.next_log_key, &witness).await;
    let reply = send(stated(seen, Some(policy))).await.expect("restored");
    assert_eq!(reply.log_origin, "ch-zrh/main/2");
    assert_eq!((reply.lost_leaves, reply.leaf_index), (seen - ours, ours));
    region.unsealed_in_time(0).await;
    for at in 1..region.places.len() {
        region.unseal_by_peer(at).await.expect("by a peer");
    }
    // Nothing is released before the witness has seen the log under its next origin.
    let app = region.caller("app");
    let unseen = app.get_object(&object).await.expect_err("not witnessed");
    assert_eq!(reason(&unseen), "unwitnessed");
    witness.follow_anew(&ready.next_log_key);
    let body = once_witnessed(|| app.get_object(&object)).await;
    assert_eq!(body, BODY);
    assert!(witness.size() > ours);
    region.stop().await;
}
