//! Real RocksDB on a volume that is suddenly full: the state store waits for room, loses nothing and goes on.
//!
//! Skips, saying why, where FUSE is not permitted. Goes red where a full disk ends the store or the engine of Raft.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use faults::control::Command;
use faults::mount::Mounted;
use proto::ids::{LogIndex, NodeId};
use replica::disk::RealDisk;
use replica::host::{Admission, Tuning};
use replica::log::LogOptions;
use replica::state::{RocksState, StateEnv, StateError, StateOptions, StateStore};
use sim::client::insist;
use sim::cluster::{self, Site, Store};
use sim::load;
use sim::machine::Shard;
use sim::net::{Net, Weather};
use sim::roster::Roster;
use tokio::time::{sleep, timeout};

/// The engine looks for room every few seconds.
const ROOM_SEEN_MAX: Duration = Duration::from_secs(60);
/// How long a refusal may take before a put is taken to wait.
const REFUSED_MAX: Duration = Duration::from_secs(20);
const LIVES_MAX: Duration = Duration::from_secs(120);
const VALUE_BYTES: usize = 64 << 10;
/// More than the engine keeps in memory under [`small`].
const VALUES_MAX: u64 = 400;

fn volume() -> Option<(tempfile::TempDir, Mounted)> {
    let dir = tempfile::tempdir().expect("a folder");
    let faultfs = Path::new(env!("CARGO_BIN_EXE_reduit-faultfs"));
    let mounted = Mounted::or_skip(faultfs, dir.path(), LIVES_MAX);
    Some((dir, mounted.expect("the volume's process starts")?))
}

fn fill(mounted: &Mounted, full: bool) {
    let done = mounted.send(Command::Enospc { full });
    done.expect("the volume obeys");
}

/// Write memory so small that the engine has to flush by itself.
fn small() -> StateEnv {
    StateEnv::new(StateOptions {
        write_bytes: 1 << 20,
        ..StateOptions::default()
    })
}

fn put(store: &RocksState, index: u64) -> Result<(), StateError> {
    let mut batch = store.begin()?;
    batch.state().put(&key(index), &value(index));
    store.commit(batch, LogIndex(index), Bytes::new())
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn value(index: u64) -> Vec<u8> {
    scattered(index).repeat(VALUE_BYTES / 8)
}

/// Something that differs from one index to the next.
fn scattered(index: u64) -> [u8; 8] {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// The first put that a full disk refuses, and how. One that comes while the engine tries to recover waits in the engine
/// until there is room, however that try ends: it is given some, and the disk is filled once more.
fn refused(store: &RocksState, mounted: &Mounted) -> (u64, StateError) {
    let mut next = 2;
    while next <= VALUES_MAX {
        fill(mounted, true);
        let outcome = std::thread::scope(|scope| {
            let filling = scope.spawn(|| {
                while next <= VALUES_MAX {
                    put(store, next)?;
                    next += 1;
                }
                Ok(())
            });
            let deadline = Instant::now() + REFUSED_MAX;
            while !filling.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let waits = !filling.is_finished();
            if waits {
                fill(mounted, false);
            }
            let filled = filling.join().expect("no panic");
            // Its refusal may have come just then: the disk is full for what follows all the same.
            fill(mounted, true);
            filled
        });
        if let Err(error) = outcome {
            return (next, error);
        }
    }
    panic!("the engine keeps no more in memory");
}

#[test]
fn a_state_store_on_a_full_disk_refuses_and_goes_on() {
    let Some((_dir, mounted)) = volume() else {
        return;
    };
    let at = mounted.path().join("state");
    let store = RocksState::open(&small(), &at).expect("an empty folder");
    put(&store, 1).expect("room");
    store.flush().expect("room");

    let (first, error) = refused(&store, &mounted);
    assert!(matches!(error, StateError::NoSpace { .. }), "{error:?}");
    assert!(matches!(store.flush(), Err(StateError::NoSpace { .. })));
    assert!(store.failed().is_none(), "{:?}", store.failed());
    let view = store.view().expect("reads go on");
    for index in 1..first {
        assert_eq!(
            view.state.value(&key(index)).as_deref(),
            Some(&*value(index))
        );
    }
    assert_eq!(view.state.value(&key(first)), None, "refused, and written");
    drop(view);

    fill(&mounted, false);
    let deadline = Instant::now() + ROOM_SEEN_MAX;
    while let Err(error) = put(&store, first) {
        assert!(matches!(error, StateError::NoSpace { .. }), "{error:?}");
        assert!(Instant::now() < deadline, "it does not see the room");
        std::thread::sleep(Duration::from_millis(100));
    }
    store.flush().expect("room");
    drop(store);

    let store = RocksState::open(&small(), &at).expect("a whole state");
    assert_eq!(store.flushed(), Some(LogIndex(first)));
    let view = store.view().expect("works");
    for index in 1..=first {
        assert_eq!(
            view.state.value(&key(index)).as_deref(),
            Some(&*value(index))
        );
    }
}

fn site(dir: &Path) -> Site {
    Site {
        node: NodeId(1),
        machine: Arc::new(Shard),
        admission: Admission::Found,
        dir: dir.join("n1"),
        disk: Arc::new(RealDisk),
        store: Store::Rocks,
        log: LogOptions {
            segment_bytes: 1 << 20,
            payload_bytes_max: 128 << 10,
            space_bytes_min: 0,
            ..LogOptions::default()
        },
        sync_takes: Duration::ZERO,
    }
}

/// What is applied and not flushed while the disk is full is flushed once there is room; nobody stops meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_on_a_full_disk_waits_with_its_flush() {
    let Some((_dir, mounted)) = volume() else {
        return;
    };
    let tuning = Tuning {
        flush_every: Duration::from_millis(100),
        ..cluster::tuning()
    };
    let net = Net::new(1, Weather::CALM, 1);
    let member = cluster::start(&net, site(mounted.path()), &tuning).await;
    let member = member.expect("an empty folder");
    let groups = [member.group.clone()];
    cluster::found(&groups).await.expect("one founder");
    let roster = Roster::from(groups.to_vec());
    fill(&mounted, true);
    for command in load::founding() {
        // There is room for it in the log.
        let answer = timeout(cluster::AGREE_MAX, insist(&roster, &command)).await;
        load::outcome(&answer.expect("it is decided")).expect("and not refused");
    }
    let group = member.group.clone();
    let flush = tokio::task::spawn_blocking(move || group.flush()).await;
    assert!(
        flush.expect("no panic").is_err(),
        "flushed onto a full disk"
    );
    // Longer than the keeper's step, so that it has tried too.
    sleep(Duration::from_secs(1)).await;
    assert!(cluster::failure(&member).await.is_none());
    cluster::agree(&groups).await.expect("it answers");

    fill(&mounted, false);
    let flushed = async {
        loop {
            let group = member.group.clone();
            let flush = tokio::task::spawn_blocking(move || group.flush()).await;
            if flush.expect("no panic").is_ok() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(ROOM_SEEN_MAX, flushed)
        .await
        .expect("it sees the room");

    // Whoever waits for room does not hold up a stop.
    fill(&mounted, true);
    for command in load::founding() {
        let _ = timeout(cluster::AGREE_MAX, insist(&roster, &command)).await;
    }
    sleep(Duration::from_secs(1)).await;
    timeout(Duration::from_secs(10), member.group.stop_at_once())
        .await
        .expect("it stops");
}
