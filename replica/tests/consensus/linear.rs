//! Concurrent clients while leaders die: every read and write fits one order that respects real time.
//!
//! Each write's answer and each read's answer carry the log index of the write they stand for, so the order is
//! known and checking it needs no search. Goes red with the switch `read_without_barrier`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{GROUP, Region, get, put, quick};
use parking_lot::Mutex;
use replica::host::{Admission, Group, ProposeError};

#[derive(Debug, Clone, Copy)]
struct Op {
    key: u64,
    write: bool,
    /// Index of the write that was made or seen; 0 for none.
    version: u64,
    start: Instant,
    end: Instant,
}

/// The members' groups, for clients that outlive members.
type Groups = Arc<Mutex<BTreeMap<u64, Group>>>;

async fn client(number: u64, groups: Groups, stop: Arc<AtomicBool>, done: Arc<Mutex<Vec<Op>>>) {
    let mut turn = number;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let (key, write) = (turn % 3, turn.is_multiple_of(2));
        let all: Vec<Group> = groups.lock().values().cloned().collect();
        // A client may ask any member, also one that wrongly believes that it leads.
        let Some(group) = all.get((turn as usize / 3) % all.len().max(1)) else {
            continue;
        };
        let start = Instant::now();
        let version = if write {
            let answered = group
                .propose_at(put(&format!("k{key}"), &turn.to_be_bytes()))
                .await;
            match answered {
                Ok(applied) => Some(applied.index.0),
                Err(ProposeError::NotLeader { .. }) => None,
                Err(_) => None,
            }
        } else {
            let read = group.read_index().await;
            read.ok()
                .map(|_| get(group, &format!("k{key}")).map_or(0, |(version, _)| version))
        };
        match version {
            Some(version) => {
                let op = Op {
                    key,
                    write,
                    version,
                    start,
                    end: Instant::now(),
                };
                done.lock().push(op);
            }
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

fn check(ops: &[Op]) {
    for key in 0..3 {
        let of_key: Vec<Op> = ops.iter().copied().filter(|op| op.key == key).collect();
        let mut by_end = of_key.clone();
        by_end.sort_by_key(|op| op.end);
        let mut by_start = of_key;
        by_start.sort_by_key(|op| op.start);
        let (mut ended, mut newest) = (by_end.into_iter().peekable(), 0);
        for op in by_start {
            while let Some(before) = ended.next_if(|before| before.end < op.start) {
                newest = newest.max(before.version);
            }
            if op.write {
                assert!(
                    op.version > newest,
                    "{op:?} stands before {newest}, which had ended"
                );
            } else {
                assert!(
                    op.version >= newest,
                    "{op:?} did not see {newest}, which had ended"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_fit_one_order_while_leaders_die() {
    let region = Region::new(3, quick());
    let mut cluster = region.founded(3, &[GROUP]).await;
    let groups: Groups = Arc::default();
    let refill = |cluster: &crate::support::Cluster| {
        *groups.lock() = cluster
            .nodes
            .iter()
            .map(|(id, node)| (*id, node.group().clone()))
            .collect();
    };
    refill(&cluster);
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let clients: Vec<_> = (0..8)
        .map(|i| tokio::spawn(client(i * 7, groups.clone(), stop.clone(), done.clone())))
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.leader().await;
        groups.lock().remove(&leader);
        cluster.nodes.get_mut(&leader).expect("leads").kill();
        cluster.nodes.remove(&leader);
        tokio::time::sleep(Duration::from_millis(900)).await;
        let node = region.start(leader, Admission::Resume).expect("own folder");
        cluster.nodes.insert(leader, node);
        refill(&cluster);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no panic");
    }
    let ops = done.lock().clone();
    let (writes, reads) = (ops.iter().filter(|op| op.write).count(), ops.len());
    assert!(
        writes > 100 && reads - writes > 100,
        "too little happened: {writes} of {reads}"
    );
    check(&ops);
}
