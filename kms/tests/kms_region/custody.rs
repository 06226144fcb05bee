//! Custody on real replicas: who can rebuild the root key changes, and at no step is the region without its shares.

use crate::common::{BODY, Begin, REPLICAS, Region, member, reason};
use proto::v1;
use tokio::sync::oneshot::error::TryRecvError;

const DATASET: [u8; 16] = [0xC0; 16];
const LATER: [u8; 16] = [0xC1; 16];

async fn region_with(dataset: [u8; 16]) -> (Region, crate::common::Sealed) {
    let region = Region::initialised(Begin::default()).await;
    region.raise_level(4).await;
    let app = region.caller("app");
    app.create_key(dataset).await.expect("a key");
    let object = app.put_object(dataset).await.expect("sealed");
    (region, object)
}

async fn reads(region: &Region, objects: &[&crate::common::Sealed]) {
    let app = region.caller("app");
    for object in objects {
        assert_eq!(app.get_object(object).await.expect("opens"), BODY);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_takes_over_once_every_share_was_shown_and_until_then_the_old_one_unseals() {
    let (mut region, object) = region_with(DATASET).await;
    let old = region.shares.clone();
    // Two custodians are lost; two others take their place, and one hands over an old share by mistake.
    let names = ["custodian-1", "custodian-2", "custodian-3"];
    let begun = region.begin_custody(&names, 2, false).await.expect("begun");
    assert_eq!((begun.shares.len(), begun.root_epoch), (3, 1));
    let stale = v1::SealedShare {
        share_set: old[0].share_set.clone(),
        ..old[0].clone()
    };
    let refused = region.confirm_share(&stale).await.expect_err("the old one");
    assert_eq!(reason(&refused), "no-such-split");
    for share in &begun.shares[..2] {
        region.confirm_share(share).await.expect("shown");
    }
    let early = region.finish_custody(&begun.set_id).await;
    assert_eq!(reason(&early.expect_err("one is missing")), "not-confirmed");

    // The region dies half way: the old shares are good, and the status says which are.
    region.restart_all().await;
    let status = region.status(0).await;
    assert!(status.sealed && status.shares_needed == 3 && status.root_epoch == 1);
    region.unseal_all(&old, 3).await;
    reads(&region, &[&object]).await;

    region.confirm_share(&begun.shares[2]).await.expect("shown");
    region
        .finish_custody(&begun.set_id)
        .await
        .expect("in force");
    // A replica that has not heard of it yet takes shares of both.
    region.level().await;
    region.restart_all().await;
    let refused = region
        .give_share(0, &old[0])
        .await
        .expect_err("of the old split");
    assert_eq!(reason(&refused), "bad-share");
    // 2 of 3 now.
    region.unseal_all(&begun.shares, 2).await;
    reads(&region, &[&object]).await;
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_key_reaches_the_replicas_takes_over_while_in_use_and_the_old_epoch_is_retired()
{
    let (mut region, object) = region_with(DATASET).await;
    let old = region.shares.clone();
    let begun = region.begin_custody(&[], 3, true).await.expect("begun");
    assert_eq!((begun.shares.len(), begun.root_epoch), (5, 2));
    for share in &begun.shares {
        region.confirm_share(share).await.expect("shown");
    }
    // Opens go on from the first step to the last.
    let app = region.caller("app");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let opening = async {
        let mut opened = 0_u32;
        while matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
            assert_eq!(app.get_object(&object).await.expect("opens"), BODY);
            opened += 1;
        }
        opened
    };
    let finishing = async {
        let done = region.finish_when_sent(&begun.set_id).await;
        drop(stop);
        done
    };
    let (opened, _) = tokio::join!(opening, finishing);
    assert!(opened > 0, "nothing was opened meanwhile");
    app.create_key(LATER)
        .await
        .expect("a key under the new root key");
    let later = app.put_object(LATER).await.expect("sealed");

    // Every replica serves under it: each leads in turn.
    region.all_hold(2).await;
    for at in 0..REPLICAS {
        let status = region.status(at).await;
        assert_eq!(
            (status.root_epoch, status.held_epoch, status.sealed),
            (2, 2, false),
            "{at}"
        );
    }
    let leader = region.leader().await;
    region.kill(leader).await;
    region.restart(leader).await;
    reads(&region, &[&object, &later]).await;
    region.unseal_by_peer(leader).await.expect("by a peer");

    // Dead as a whole: only the new shares open it.
    region.level().await;
    region.restart_all().await;
    let refused = region
        .give_share(0, &old[0])
        .await
        .expect_err("of the old root key");
    assert_eq!(reason(&refused), "bad-share");
    region.unseal_all(&begun.shares, 3).await;
    reads(&region, &[&object, &later]).await;

    // 3 of 5: the epoch ends with the third erased share.
    for share in &old[..3] {
        let early = region.retire_epoch(1).await.expect_err("too few");
        assert_eq!(reason(&early), "not-erased");
        region.erase_share(share).await.expect("erased");
    }
    region.backup().await;
    region.retire_epoch(1).await.expect("retired");
    let operator = region.caller("op-1");
    let mut operate = operator.operate(0);
    let reply = operate.find_custody(v1::FindCustodyRequest {}).await;
    let custody = reply.expect("status").into_inner().custody.expect("known");
    assert_ne!(custody.epochs[0].retired_at_ms, 0);
    region.stop().await;
}

/// The new root key is in force and a replica has not heard of it: shares of the old one bring it up, and it finds out
/// and says so instead of serving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_lost_with_the_new_root_key_leaves_the_old_one_in_force() {
    let (mut region, object) = region_with(DATASET).await;
    let old = region.shares.clone();
    let begun = region.begin_custody(&[], 3, true).await.expect("begun");
    region.restart_all().await;
    region.unseal_all(&old, 3).await;
    for share in &begun.shares {
        region.confirm_share(share).await.expect("shown");
    }
    let lost = region
        .finish_custody(&begun.set_id)
        .await
        .expect_err("it is lost");
    assert_eq!(reason(&lost), "new-root-lost");
    reads(&region, &[&object]).await;
    // Begun again: it takes the place of the one that was lost.
    let again = region
        .begin_custody(&[], 3, true)
        .await
        .expect("begun again");
    let refused = region
        .confirm_share(&begun.shares[0])
        .await
        .expect_err("given up");
    assert_eq!(reason(&refused), "no-such-split");
    for share in &again.shares {
        region.confirm_share(share).await.expect("shown");
    }
    region.finish_when_sent(&again.set_id).await;
    // At once: what a replica holds follows the record by a moment, in which a backup is of the new root key already.
    region.backup().await;
    reads(&region, &[&object]).await;
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_regions_emergency_seal_is_on_record_and_leaves_no_replica_unsealed() {
    let (region, object) = region_with(DATASET).await;
    let seal = async |name: &str| {
        let caller = region.caller(name);
        let sealed = caller.at_leader(|at| {
            let mut operate = caller.operate(at);
            async move {
                let request = v1::SealRegionRequest::default();
                operate.seal_region(request).await.map(drop)
            }
        });
        sealed.await
    };
    let refused = seal("app").await.expect_err("no operator");
    assert_eq!(reason(&refused), "not-operator");
    seal("op-1").await.expect("on record");
    let deadline = tokio::time::Instant::now() + crate::common::PATIENCE;
    for at in 0..REPLICAS {
        while !region.status(at).await.sealed {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} serves",
                member(at)
            );
        }
    }
    let shares = region.shares.clone();
    region.unseal_all(&shares, 3).await;
    reads(&region, &[&object]).await;
    // Not sealed anew by the record of before.
    for at in 0..REPLICAS {
        assert!(!region.status(at).await.sealed);
    }
    region.stop().await;
}
