//! What a region of nodes makes of clocks that are off.

use std::time::Duration;

use crate::region::*;
use proto::ids::GroupId;
use transport::{Clock as _, SystemClock};

const HOUR: Duration = Duration::from_secs(3600);
/// How far the time of an object may be from the truth: one command's bound.
const BOUND_MS: u64 = proto::time::JUMP_MS_MAX;

/// The time an object was finished at, as its shard says.
async fn finished_at(region: &Region, key: &str) -> u64 {
    let got = region.get("c1", key).await.expect("it was put");
    got.entry.expect("found").finished_at_ms
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_by_hours_goes_on_and_moves_no_time() {
    let region = Region::with_dataset(3).await;
    let shard = GroupId(SHARD);
    region.put("c1", put("before", 1)).await.expect("put");
    let leader = region.leader(shard).expect("somebody leads");
    // Past the end of every lease, and before the node's enrolment set counts as old.
    region.set_clock_ahead(leader, 20 * HOUR);
    for n in 2..12 {
        let key = format!("after/{n}");
        region.put("c1", put(&key, n)).await.expect("writes go on");
        let (is, should_be) = (finished_at(&region, &key).await, SystemClock.now().0);
        assert!(is.abs_diff(should_be) < BOUND_MS, "{is}, not {should_be}");
    }
    assert_eq!(region.leader(shard), Some(leader), "the same one leads");
    // New leases are taken too.
    region
        .register("c1", [7; 16])
        .await
        .expect("a lease of an hour");
    // And whoever leads next has the time of the others.
    region.set_clock_ahead(leader, Duration::ZERO);
    region.put("c1", put("healed", 20)).await.expect("put");
    let is = finished_at(&region, "healed").await;
    assert!(is.abs_diff(SystemClock.now().0) < BOUND_MS);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_by_years_leaves_nothing_of_it_behind() {
    let mut region = Region::with_dataset(3).await;
    let shard = GroupId(SHARD);
    region.put("c1", put("before", 1)).await.expect("put");
    let leader = region.leader(shard).expect("somebody leads");
    region.set_clock_ahead(leader, 5 * 365 * 24 * HOUR);
    region
        .put("c1", put("after", 2))
        .await
        .expect("writes go on");
    let is = finished_at(&region, "after").await;
    assert!(is.abs_diff(SystemClock.now().0) < BOUND_MS, "{is}");
    // What it may have proposed while it led has moved nothing for its successor.
    region.kill(leader.0).await;
    region
        .put("c1", put("later", 3))
        .await
        .expect("writes go on");
    let is = finished_at(&region, "later").await;
    assert!(is.abs_diff(SystemClock.now().0) < BOUND_MS, "{is}");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_region_bounds_clocks_from_the_beginning() {
    let region = Region::start(3).await;
    region.found().await;
    for group in region.node(1).groups() {
        assert!(
            group.level() >= node_state::time::TIME_BOUND_LEVEL,
            "{}",
            group.id()
        );
    }
    region.stop().await;
}
