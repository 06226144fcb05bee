//! openraft's own suite over the log and state that ship, on the real disk and on the simulated one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use openraft::storage::RaftStateMachine as _;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use proto::ids::{FeatureLevel, GroupId, LogIndex};
use proto::store::Writer;
use tempfile::TempDir;

use super::log_store::LogStore;
use super::machine::{Shared, StateMachine};
use super::snapshot::SnapshotDir;
use super::types::{Config, Entry, log_id};
use crate::disk::{Disk, RealDisk, SimDisk};
use crate::log::{LogOptions, RaftLog};
use crate::machine::{Machine, Position, UnknownCommand};
use crate::state::{RocksState, StateEnv, StateOptions, StateStore, TwinMedium, TwinState};

const GROUP: GroupId = GroupId(16);

/// Takes everything and keeps nothing.
struct Empty;

impl Machine for Empty {
    fn level_max(&self) -> FeatureLevel {
        FeatureLevel(0)
    }

    fn apply(
        &self,
        _: Position<'_>,
        _: &Bytes,
        _: &mut dyn Writer,
        _: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        Ok(Bytes::new())
    }
}

fn stores(disk: Arc<dyn Disk>, dir: &Path, state: Arc<dyn StateStore>) -> (LogStore, StateMachine) {
    let options = LogOptions {
        segment_bytes: 1 << 20,
        payload_bytes_max: 1 << 17,
        ..LogOptions::default()
    };
    let log = RaftLog::open(Arc::clone(&disk), &dir.join("log"), options).expect("a new log");
    let snapshots = SnapshotDir::open(disk, dir.join("snapshots")).expect("a new folder");
    let jurisdiction = "CH".parse().expect("valid");
    let shared = Shared::open(Arc::new(Empty), state, snapshots, jurisdiction);
    let shared = Arc::new(shared.expect("a new state"));
    shared.running.store(true, Ordering::Release);
    (LogStore::new(log.group(GROUP)), StateMachine { shared })
}

struct Real;

impl StoreBuilder<Config, LogStore, StateMachine, TempDir> for Real {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Config>> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let env = StateEnv::new(StateOptions::default());
        let state = RocksState::open(&env, &dir.path().join("state")).expect("a new state");
        let (log, machine) = stores(Arc::new(RealDisk), dir.path(), Arc::new(state));
        Ok((dir, log, machine))
    }
}

/// Each store in a folder of its own on one device: the suite moves a snapshot between two of them.
struct Simulated {
    disk: SimDisk,
    built: AtomicU64,
}

impl StoreBuilder<Config, LogStore, StateMachine, ()> for Simulated {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<Config>> {
        let number = self.built.fetch_add(1, Ordering::Relaxed);
        let disk = self.disk.boot();
        let dir = Path::new("/members").join(number.to_string());
        let medium = TwinMedium::new(number);
        let state = TwinState::open(&medium, &dir.join("state"), Arc::clone(&disk));
        let (log, machine) = stores(disk, &dir, Arc::new(state));
        Ok(((), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_suite_passes_on_the_real_disk() {
    Suite::test_all(Real).await.expect("the suite passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_suite_passes_on_the_simulated_disk() {
    let stores = Simulated {
        disk: SimDisk::new(1),
        built: AtomicU64::new(0),
    };
    Suite::test_all(stores).await.expect("the suite passes");
}

/// Goes red where who stops while it catches up applies all there is first, which takes minutes for a long log.
#[tokio::test]
async fn once_the_engine_has_ended_what_is_left_to_apply_is_left() {
    const ALL: u64 = 5_000;
    const ENDS_AT: u64 = 1_500;
    let medium = TwinMedium::new(1);
    let disk = SimDisk::new(1).boot();
    let state = TwinState::open(&medium, Path::new("/member/state"), Arc::clone(&disk));
    let (_log, mut machine) = stores(disk, Path::new("/member"), Arc::new(state));
    let shared = Arc::clone(&machine.shared);
    let read = AtomicU64::new(0);
    let entries = (1..=ALL).map(|index| {
        shared.ended.store(index >= ENDS_AT, Ordering::Release);
        read.store(index, Ordering::Relaxed);
        let (log_id, payload) = (log_id(1, index), EntryPayload::Blank);
        Ok((Entry { log_id, payload }, None))
    });
    let applied = machine.apply(futures::stream::iter(entries)).await;
    applied.expect("nothing is wrong");
    assert_eq!(
        read.into_inner(),
        ALL,
        "the engine counts what it was given"
    );
    let applied = shared.applied_index().expect("the first chunk");
    assert!(
        applied < LogIndex(ENDS_AT),
        "{applied} of {ALL} were applied"
    );
}
