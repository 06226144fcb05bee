//! The custody drill: everything that happens to a root key in a region's life, in one life.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{
    AheadClock, BODY, Begin, DATASET, Region, Sealed, change, now, random, reason,
};
use bytes::Bytes;
use kms::approvals::request_hash;
use proto::ids::LogIndex;
use proto::v1;
use replica::host::Tuning;

const FIRST: [u8; 16] = [0xD1; 16];
const LATER: [u8; 16] = [0xD2; 16];
const NEW: [u8; 16] = [0xD3; 16];
/// Custodians after two were lost and two others took their place.
const CUSTODIANS: [&str; 5] = [
    "custodian-1",
    "custodian-2",
    "custodian-3",
    "custodian-6",
    "custodian-7",
];

/// A log that is cut behind a handful of entries.
fn short_log() -> Tuning {
    Tuning {
        flush_every: Duration::from_millis(500),
        keep_entries: 4,
        keep_bytes: 0,
        ..Tuning::default()
    }
}

async fn object_in(region: &Region, dataset: [u8; 16]) -> Sealed {
    let app = region.caller("app");
    app.create_key(dataset).await.expect("a key");
    app.put_object(dataset).await.expect("sealed")
}

async fn reads(region: &Region, objects: &[&Sealed]) {
    let app = region.caller("app");
    for object in objects {
        assert_eq!(app.get_object(object).await.expect("opens"), BODY);
    }
}

/// Two shares of three open nothing, on any replica.
async fn two_shares_open_nothing(region: &Region, shares: &[v1::SealedShare], object: &Sealed) {
    let app = region.caller("app");
    for at in 0..region.places.len() {
        for share in &shares[..2] {
            let reply = region.give_share(at, share).await.expect("taken");
            assert!(reply.sealed && reply.needed == 3, "{reply:?}");
        }
        let refused = app.open_at(at, object).await.expect_err("sealed");
        assert_eq!(reason(&refused), "sealed", "{refused:?}");
    }
}

/// Waits until the log of every replica that runs begins behind what it began with.
async fn compacted(region: &Region) {
    let deadline = tokio::time::Instant::now() + crate::common::PATIENCE;
    let begins = |at: usize| region.replica(at).group().first_log_index();
    for at in 0..region.places.len() {
        while begins(at).is_none_or(|first| first <= LogIndex(4)) {
            let late = tokio::time::Instant::now() >= deadline;
            assert!(!late, "the log of replica {at} begins at {:?}", begins(at));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_data_stays_readable_through_the_life_of_its_root_keys() {
    let mut region = Region::initialised(Begin {
        tuning: Some(short_log()),
        ..Begin::default()
    })
    .await;
    let first = object_in(&region, FIRST).await;

    // Two of five custodians are lost. The other three unseal, and the shares are split anew.
    let ceremony = region.shares[..3].to_vec();
    region.restart_all().await;
    region.unseal_all(&ceremony, 3).await;
    reads(&region, &[&first]).await;
    for name in &CUSTODIANS[3..] {
        region.people.add_custodian(name);
    }
    let added = CUSTODIANS[3..]
        .iter()
        .map(|name| region.people.enrolment(name));
    let added = added.collect();
    let gone = ["custodian-4", "custodian-5"].map(|name| crate::common::identity(name).to_string());
    let changed = region.change_enrolment(added, gone.to_vec()).await;
    changed.expect("enrolled");
    let second = region.change_custody(&CUSTODIANS, 3, false).await;

    // A new root key takes over, and the one before ends.
    let third = region.change_custody(&CUSTODIANS, 3, true).await;
    let later = object_in(&region, LATER).await;
    for share in ceremony.iter().chain(&second[..3]) {
        let early = region.retire_epoch(1).await.expect_err("too few");
        assert_eq!(reason(&early), "not-erased");
        region.erase_share(share).await.expect("erased");
    }
    let early = region.retire_epoch(1).await.expect_err("no backup");
    assert_eq!(reason(&early), "not-backed-up");
    region.backup().await;
    region.retire_epoch(1).await.expect("retired");

    // Dead as a whole: two shares open nothing, those of former splits are refused, three open everything.
    region.level().await;
    region.restart_all().await;
    two_shares_open_nothing(&region, &third, &first).await;
    for former in [&ceremony[0], &second[0]] {
        let refused = region.give_share(0, former).await.expect_err("former");
        assert_eq!(reason(&refused), "bad-share");
    }
    region.unseal_all(&third[1..], 3).await;
    reads(&region, &[&first, &later]).await;

    // The log is cut: who joins now learns the state from a snapshot.
    compacted(&region).await;
    let new = region.add_replica("kms-4").await;
    region.unseal_by_peer(new).await.expect("by a peer");
    let leader = region.leader().await;
    region.kill(leader).await;
    reads(&region, &[&first, &later]).await;
    region.restart(leader).await;
    region.unseal_by_peer(leader).await.expect("by a peer");

    // The whole cluster is lost, and a new one goes on from the backup.
    let backup = region.backup().await;
    let head = tree_head(&region, region.leader().await).await;
    let (_disks, people) = region.lost().await;
    let region = Region::begin_anew(Begin::default(), people).await;
    let reply = region.restored_from(&backup, &third[..3]).await;
    assert_eq!(
        (reply.tree_size, reply.lost_leaves),
        (backup.record().tree_size, 0)
    );
    assert_eq!(
        reply.leaf_index, reply.tree_size,
        "the next leaf of the same tree"
    );
    assert!(reply.tree_size <= head.size && head.origin == reply.log_origin);
    reads(&region, &[&first, &later]).await;
    // It is a region like any other: keys are born, and its replicas survive their leader.
    let new = object_in(&region, NEW).await;
    let mut region = region;
    let leader = region.leader().await;
    region.kill(leader).await;
    reads(&region, &[&first, &later, &new]).await;
    region.restart_all().await;
    region.unseal_all(&third[2..], 3).await;
    reads(&region, &[&first, &later, &new]).await;
    region.stop().await;
}

async fn tree_head(region: &Region, at: usize) -> v1::TreeHeadReply {
    let mut kms = region.caller("op-1").kms(at);
    let head = kms.tree_head(v1::TreeHeadRequest {}).await;
    head.expect("a head").into_inner()
}

/// As far as a majority's clocks move region time without an operator.
const STEP_MS: u64 = 23 * 3_600_000;
/// Longer than the driver takes to look at every key again.
const LOOKED_AT: Duration = Duration::from_secs(90);

/// Disables the key of the tests' dataset, schedules its end, and lets the time pass.
async fn destroyed(region: &Region, clock: &AheadClock) {
    let app = region.caller("app");
    let disabled = app.at_leader(|at| {
        let mut kms = app.kms(at);
        async move { kms.disable_key(change()).await.map(drop) }
    });
    disabled.await.expect("disabled");
    let mut request = v1::ScheduleKeyDestructionRequest {
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        days: 7,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ScheduleKeyDestructionRequest::default()
    };
    let hash = request_hash("ScheduleKeyDestruction", &request);
    request.approvals = region.approvals(hash, &request.single_use_id);
    let scheduled = app.at_leader(|at| {
        let (mut kms, request) = (app.kms(at), request.clone());
        async move { kms.schedule_key_destruction(request).await.map(drop) }
    });
    scheduled.await.expect("scheduled");
    // No further at a time than a majority's clocks may move it without an operator.
    for _ in 0..8 {
        let reached = now().0 + clock.0.fetch_add(STEP_MS, Ordering::Relaxed) + STEP_MS;
        let followed = async {
            loop {
                let leader = region.leader().await;
                let state = region.replica(leader).group().reader().expect("a state");
                if kms_state::region_time(&*state).0 + 60_000 >= reached {
                    return;
                }
                drop(state);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let followed = tokio::time::timeout(LOOKED_AT, followed).await;
        followed.expect("region time follows the clocks");
    }
    let gone = async {
        while key_info(region).await.key.expect("a key").state() != v1::KeyState::Destroyed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let gone = tokio::time::timeout(LOOKED_AT, gone).await;
    gone.expect("the leader destroys what is due");
}

async fn key_info(region: &Region) -> v1::KeyInfo {
    let app = region.caller("app");
    let found = app.at_leader(|at| {
        let mut kms = app.kms(at);
        let request = v1::FindKeyRequest {
            dataset_id: Bytes::copy_from_slice(&DATASET),
            ..Default::default()
        };
        async move { Ok(kms.find_key(request).await?.into_inner()) }
    });
    found.await.expect("a key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_key_is_named_recoverable_and_is_until_the_epoch_of_its_backup_ends() {
    let clock = Arc::new(AheadClock::default());
    let anew = || Begin {
        clock: Some(clock.clone()),
        ..Begin::default()
    };
    let (region, storage, object) = Region::with_storage(anew()).await;
    let ceremony = region.shares.clone();
    let old = region.backup().await;
    destroyed(&region, &clock).await;
    storage.abandon().await;
    assert_eq!(key_info(&region).await.recoverable_under, [1]);
    // A new root key: the key did not live to stand under it, and a new backup does not hold it.
    let shares = region.change_custody(&[], 3, true).await;
    assert_eq!(key_info(&region).await.recoverable_under, [1]);
    for share in &ceremony[..3] {
        region.erase_share(share).await.expect("erased");
    }
    let new = region.backup().await;

    // Named truly: with three shares, which their holders say are gone, the old backup opens what it held.
    let (_disks, people) = region.lost().await;
    let region = Region::begin_anew(anew(), people).await;
    region.restored_from(&old, &ceremony[..3]).await;
    reads(&region, &[&object]).await;
    let (_disks, people) = region.lost().await;

    // The region goes on from the new one, where the key is gone for good, and the epoch ends.
    let region = Region::begin_anew(anew(), people).await;
    region.restored_from(&new, &shares[..3]).await;
    let info = key_info(&region).await;
    assert_eq!(info.key.expect("a key").state(), v1::KeyState::Destroyed);
    assert_eq!(info.recoverable_under, [1]);
    let refused = region.caller("app").get_object(&object).await;
    assert_eq!(reason(&refused.expect_err("gone")), "key-disabled");
    region.retire_epoch(1).await.expect("retired");
    assert_eq!(key_info(&region).await.recoverable_under, [0_u32; 0]);
    let (_disks, people) = region.lost().await;

    // Two shares are left of the old epoch. The old backup opens nothing, nor does the new root key open it.
    let region = Region::begin_anew(anew(), people).await;
    region.prepare_restore(0, &old).await.expect("prepared");
    for share in &ceremony[3..] {
        let reply = region.give_share(0, share).await.expect("taken");
        assert!(reply.sealed && reply.needed == 3, "{reply:?}");
    }
    let refused = region.give_share(0, &shares[0]).await;
    assert_eq!(reason(&refused.expect_err("another epoch")), "bad-share");
    let request = region.restore_approved(region.restore_request(&old));
    let refused = region.send_restore(0, &old.file, request).await;
    assert_eq!(reason(&refused.expect_err("sealed")), "sealed");
    assert!(!region.status(0).await.initialised);
    region.stop().await;
}
