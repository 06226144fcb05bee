//! Repair against a real machine's state and the shipping block store on a simulated disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::ids::{ObjectVersionId, UnixMs, UploadEpoch};
use replica::disk::SimDisk;
use transport::testing::ManualClock;

use super::testing::{DATASET, ME, OneShard, Replica, SHARD, digest};
use super::*;
use crate::blocks::{
    BlockDraft, BlockNumber, Driver, NewBlock, OpenReport, ReadError, Room, StoreOptions, Stored,
};

/// Peers that answer out of a map: what a peer sends goes through the same draft as what comes over the wire.
#[derive(Default)]
struct MapPeers {
    blocks: Mutex<BTreeMap<(NodeId, BlockKey), Vec<u8>>>,
    asked: Mutex<Vec<NodeId>>,
}

impl Peers for MapPeers {
    fn fetch(
        &self,
        node: NodeId,
        _shard: GroupId,
        head: BlockHead,
        room: Room,
    ) -> BoxFuture<'_, Result<NewBlock, FetchError>> {
        self.asked.lock().push(node);
        let data = self.blocks.lock().get(&(node, head.key)).cloned();
        Box::pin(async move {
            let data = data.ok_or(FetchError::Stalled(node))?;
            let refused = |source| FetchError::Draft { node, source };
            let mut draft = BlockDraft::new(head, room).map_err(refused)?;
            draft.push(Bytes::from(data)).map_err(refused)?;
            draft.finish().map_err(refused)
        })
    }
}

struct Bench {
    disk: SimDisk,
    store: BlockStore,
    replica: Arc<Replica>,
    peers: Arc<MapPeers>,
    repair: Arc<Repair>,
}

fn open(disk: &SimDisk) -> (BlockStore, OpenReport) {
    let salt = AtomicU64::new(1);
    let options = StoreOptions {
        space_reserve_bytes: 0,
        driver: Driver::Thread,
        ..StoreOptions::new(Arc::new(move || salt.fetch_add(1, Ordering::Relaxed)))
    };
    BlockStore::open(disk.boot(), Path::new("/blocks"), options).expect("a folder of our own")
}

impl Bench {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        let (store, _) = open(&disk);
        let replica = Replica::new();
        let peers = Arc::new(MapPeers::default());
        let repair = repair(&store, &replica, &peers);
        Self {
            disk,
            store,
            replica,
            peers,
            repair,
        }
    }

    /// The process starts again on what the disk has.
    fn restart(&mut self) -> OpenReport {
        self.store.close();
        self.disk.power_cut();
        let (store, report) = open(&self.disk);
        self.store = store;
        self.repair = repair(&self.store, &self.replica, &self.peers);
        report
    }

    async fn upload(&self, key: BlockKey, epoch: u64, data: &[u8]) {
        let head = BlockHead {
            key,
            owner: BlockOwner {
                shard: SHARD,
                dataset: DATASET,
                upload_epoch: UploadEpoch(epoch),
                // Years ago by any clock: no clock may matter.
                begun_at: UnixMs(1),
            },
            digest: digest(data),
            bytes: u32::try_from(data.len()).expect("small"),
        };
        let room = self.store.room(head.bytes).await.expect("open");
        let mut draft = BlockDraft::new(head, room).expect("length is fine");
        draft.push(Bytes::copy_from_slice(data)).expect("fits");
        let block = draft.finish().expect("the digest is of these bytes");
        assert_eq!(
            self.store.put(block, PutMode::Upload).await.expect("room"),
            Stored::Written
        );
    }

    fn readable(&self, key: BlockKey) -> Result<(), ReadError> {
        let mut reader = self.store.read(key, 0..0)?;
        while reader.piece()?.is_some() {}
        Ok(())
    }

    fn missing_through(&self, index: LogIndex) -> Option<u64> {
        let missing = self
            .repair
            .missing(self.replica.as_ref(), index, 100)
            .expect("a view");
        missing.map(|missing| missing.count)
    }

    async fn rounds(&self, count: usize) {
        for _ in 0..count {
            self.repair.round().await;
        }
    }
}

fn repair(store: &BlockStore, replica: &Arc<Replica>, peers: &Arc<MapPeers>) -> Arc<Repair> {
    let options = RepairOptions {
        pause: Duration::ZERO,
        back_off_min: Duration::ZERO,
        scrub_bytes_per_s: 0,
        ..RepairOptions::default()
    };
    let shards = Arc::new(OneShard(Arc::clone(replica)));
    let clock = Arc::new(ManualClock::at(UnixMs(1_790_000_000_000)));
    let peers: Arc<dyn Peers> = Arc::clone(peers) as _;
    Repair::new(ME, store.clone(), shards, peers, clock, options)
}

fn missing_keys(replica: &Replica) -> Vec<BlockKey> {
    shard::missing(&*replica.local.lock(), None, 1_000)
}

fn version(id: u8) -> ObjectVersionId {
    ObjectVersionId([id; 16])
}

fn key(id: u8, number: u32) -> BlockKey {
    BlockKey {
        version: version(id),
        number: BlockNumber(number),
    }
}

fn data(seed: u8) -> Vec<u8> {
    vec![seed; 9_000]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_reference_becomes_held_or_missing_and_what_is_missing_is_fetched() {
    let bench = Bench::new();
    bench.upload(key(1, 0), 5, &data(10)).await;
    let index = bench.replica.finish(version(1), 5, &[data(10), data(11)]);
    assert_eq!(
        bench.missing_through(index),
        None,
        "nobody compared anything yet"
    );
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(1));
    assert_eq!(bench.missing_through(LogIndex(index.0 - 1)), Some(0));
    assert_eq!(missing_keys(&bench.replica), [key(1, 1)]);
    // No peer has it; then one sends other bytes; then one has it.
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(2), key(1, 1)), data(66));
    bench.rounds(2).await;
    assert_eq!(
        bench.missing_through(index),
        Some(1),
        "other bytes are not taken"
    );
    assert_eq!(bench.readable(key(1, 1)), Err(ReadError::NotHeld));
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(3), key(1, 1)), data(11));
    bench.rounds(2).await;
    assert_eq!(bench.missing_through(index), Some(0));
    assert_eq!(bench.readable(key(1, 1)), Ok(()));
    let asked: BTreeSet<_> = bench.peers.asked.lock().iter().copied().collect();
    assert_eq!(
        asked,
        BTreeSet::from([NodeId(2), NodeId(3)]),
        "it does not ask itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_fetched_again() {
    let mut bench = Bench::new();
    bench.upload(key(1, 0), 5, &data(10)).await;
    let index = bench.replica.finish(version(1), 5, &[data(10)]);
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(0));
    let path = bench.disk.paths().pop().expect("a segment");
    assert!(bench.disk.flip_bit(&path, (4096 + 512 + 77) * 8));
    assert_eq!(bench.readable(key(1, 0)), Err(ReadError::Damaged));
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(2), key(1, 0)), data(10));
    bench.rounds(2).await;
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
    assert_eq!(bench.missing_through(index), Some(0));
    assert_eq!(bench.restart().torn, 0);
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
}

/// The header is gone, and with it the name: only the state knows what stood there.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_header_is_lost_is_missed_after_a_start() {
    let mut bench = Bench::new();
    bench.upload(key(1, 0), 5, &data(10)).await;
    bench.upload(key(2, 0), 5, &data(20)).await;
    bench.replica.finish(version(1), 5, &[data(10)]);
    let index = bench.replica.finish(version(2), 5, &[data(20)]);
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(0));
    let path = bench.disk.paths().pop().expect("a segment");
    assert!(bench.disk.flip_bit(&path, (4096 + 30) * 8));
    assert_eq!(bench.restart().gaps, 1);
    assert_eq!(bench.missing_through(index), None);
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(1));
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(3), key(1, 0)), data(10));
    bench.rounds(2).await;
    assert_eq!(bench.missing_through(index), Some(0));
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
}

/// P5: no clock deletes a block. The upload began long ago by every clock; its commit may still come.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_upload_stays_until_the_shard_itself_has_moved_on() {
    let mut bench = Bench::new();
    bench.upload(key(1, 0), 5, &data(10)).await;
    for epoch in [5, 20, 29] {
        bench.replica.set_epoch(epoch);
        bench.replica.flush();
        bench.rounds(3).await;
        assert_eq!(
            bench.readable(key(1, 0)),
            Ok(()),
            "at epoch {epoch} its commit is accepted"
        );
    }
    bench.restart();
    bench.rounds(3).await;
    assert_eq!(bench.readable(key(1, 0)), Ok(()), "and no start deletes it");
    // One more, and apply refuses its commit; but only a flushed epoch counts.
    bench.replica.set_epoch(30);
    bench.rounds(3).await;
    assert_eq!(
        bench.readable(key(1, 0)),
        Ok(()),
        "a power cut would take the epoch back"
    );
    bench.replica.flush();
    bench.rounds(3).await;
    assert_eq!(bench.readable(key(1, 0)), Err(ReadError::NotHeld));
    assert_eq!(bench.repair.flushed_epoch(SHARD), Some(UploadEpoch(30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_referenced_block_stays_however_old_it_is() {
    let mut bench = Bench::new();
    bench.upload(key(1, 0), 5, &data(10)).await;
    bench.replica.finish(version(1), 5, &[data(10)]);
    bench.replica.set_epoch(500);
    bench.replica.flush();
    bench.rounds(3).await;
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
    bench.restart();
    bench.rounds(3).await;
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freed_version_goes_one_epoch_after_it_was_freed() {
    let bench = Bench::new();
    bench.replica.set_epoch(9);
    bench.upload(key(1, 0), 9, &data(10)).await;
    bench.upload(key(1, 1), 9, &data(11)).await;
    bench.replica.finish(version(1), 9, &[data(10), data(11)]);
    bench.replica.flush();
    bench.rounds(2).await;
    bench.replica.free(version(1), 9);
    bench.replica.flush();
    bench.rounds(2).await;
    assert_eq!(bench.readable(key(1, 0)), Ok(()), "its readers still read");
    bench.replica.set_epoch(10);
    bench.rounds(2).await;
    assert_eq!(
        bench.readable(key(1, 0)),
        Ok(()),
        "the epoch is not flushed"
    );
    bench.replica.flush();
    bench.rounds(2).await;
    for number in 0..2 {
        assert_eq!(bench.readable(key(1, number)), Err(ReadError::NotHeld));
    }
}

/// A version id that is uploaded anew after it was freed: what belongs to the new upload stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_after_the_freeing_stays() {
    let bench = Bench::new();
    bench.replica.set_epoch(9);
    bench.upload(key(1, 0), 9, &data(10)).await;
    bench.replica.finish(version(1), 9, &[data(10)]);
    bench.replica.free(version(1), 9);
    bench.replica.set_epoch(10);
    bench.upload(key(1, 0), 10, &data(10)).await;
    bench.replica.flush();
    bench.rounds(3).await;
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_makes_everything_fresh_again() {
    let bench = Bench::new();
    bench.upload(key(1, 0), 5, &data(10)).await;
    bench.replica.finish(version(1), 5, &[data(10)]);
    bench.rounds(1).await;
    // The peer's state knows another version too.
    let index = bench.replica.finish(version(2), 5, &[data(20)]);
    local::reset(
        index,
        &*bench.replica.state.lock(),
        &mut *bench.replica.local.lock(),
    );
    bench.repair.state_replaced(SHARD);
    assert_eq!(
        bench.missing_through(index),
        Some(2),
        "unresolved counts as missing"
    );
    bench.rounds(1).await;
    assert_eq!(missing_keys(&bench.replica), [key(2, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_and_freed_is_forgotten() {
    let bench = Bench::new();
    let index = bench.replica.finish(version(1), 5, &[data(10)]);
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(1));
    bench.replica.free(version(1), 5);
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_runs_until_it_is_stopped() {
    let bench = Bench::new();
    let index = bench.replica.finish(version(1), 5, &[data(10)]);
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(2), key(1, 0)), data(10));
    run_until(&bench, || bench.missing_through(index) == Some(0)).await;
}

/// Runs repair until `done` says so.
async fn run_until(bench: &Bench, done: impl Fn() -> bool) {
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&bench.repair).run(stop.clone(), 7));
    let waited = async {
        while !done() {
            bench.repair.wake();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .expect("it comes to that");
    stop.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(30), running).await;
    stopped.expect("it stops").expect("it does not panic");
}

fn holding(bench: &Bench) -> Holding {
    let replica: &dyn ShardReplica = bench.replica.as_ref();
    bench.repair.holding(replica).expect("a view")
}

/// What a client never reads is found by the pass that was asked for, where none goes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_was_asked_for_finds_damage_and_it_is_repaired() {
    let bench = Bench::new();
    for n in 0..3 {
        bench.upload(key(1, n), 5, &data(10)).await;
    }
    bench
        .replica
        .finish(version(1), 5, &[data(10), data(10), data(10)]);
    bench.rounds(1).await;
    let path = bench.disk.paths().pop().expect("a segment");
    assert!(bench.disk.flip_bit(&path, (4096 + 512 + 77) * 8));
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(2), key(1, 0)), data(10));
    let number = bench.repair.scrub_now(0);
    assert_eq!(
        bench.repair.scrub_now(64 << 20),
        number,
        "it has not begun: the same pass, at another pace"
    );
    run_until(&bench, || {
        bench.repair.passes().last_asked.is_some() && bench.repair.repaired().0 == 1
    })
    .await;
    let passes = bench.repair.passes();
    let pass = passes.last_asked.expect("it ended");
    assert_eq!(
        (pass.number, pass.asked, pass.bytes_per_s),
        (number, true, 64 << 20)
    );
    assert_eq!(
        (pass.damaged(), pass.blocks.blocks, pass.total_blocks),
        (1, 2, 3)
    );
    assert_eq!((passes.last, passes.now), (Some(pass), None));
    assert_eq!(bench.readable(key(1, 0)), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_a_removed_segment_come_back_from_peers() {
    let bench = Bench::new();
    let mut blocks = Vec::new();
    for n in 0..4u8 {
        bench.upload(key(1, n.into()), 5, &data(n)).await;
        let at = (NodeId(3), key(1, n.into()));
        bench.peers.blocks.lock().insert(at, data(n));
        blocks.push(data(n));
    }
    let index = bench.replica.finish(version(1), 5, &blocks);
    bench.rounds(1).await;
    let mut paths = bench.disk.paths();
    paths.retain(|path| path.extension().is_some());
    for path in &paths {
        bench.disk.boot().remove(path).expect("it is there");
    }
    bench.repair.scrub_now(0);
    run_until(&bench, || bench.repair.repaired().0 == 4).await;
    bench.rounds(1).await;
    assert_eq!(bench.missing_through(index), Some(0));
    for n in 0..4 {
        assert_eq!(bench.readable(key(1, n)), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refill_is_counted_from_the_first_block_missed_to_the_last_one_fetched() {
    let bench = Bench::new();
    let blocks: Vec<_> = (0..3).map(data).collect();
    bench.replica.finish(version(1), 5, &blocks);
    assert!(holding(&bench).comparing, "nobody compared anything yet");
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(2), key(1, 0)), data(0));
    bench.rounds(2).await;
    let held = holding(&bench);
    assert_eq!((held.comparing, held.missing), (false, 2));
    let refill = held.refill.expect("under way");
    assert_eq!((refill.fetched_blocks, refill.fetched_bytes), (1, 9_000));
    for n in 1..3u8 {
        let at = (NodeId(2), key(1, n.into()));
        bench.peers.blocks.lock().insert(at, data(n));
    }
    bench.rounds(2).await;
    let held = holding(&bench);
    assert_eq!((held.missing, held.refill), (0, None));
    assert_eq!(bench.repair.repaired().0, 3);
}

/// The operator's question is answered once everything was compared after it was asked.
#[tokio::test(flavor = "multi_thread")]
async fn repair_that_was_asked_for_compares_everything_again_and_tries_at_once() {
    let bench = Bench::new();
    bench.replica.finish(version(1), 5, &[data(10)]);
    bench.rounds(1).await;
    assert_eq!(holding(&bench).missing, 1);
    // As after many tries in vain.
    for back_off in bench.repair.back_offs.lock().values_mut() {
        back_off.due = Instant::now() + Duration::from_secs(3600);
    }
    bench
        .peers
        .blocks
        .lock()
        .insert((NodeId(2), key(1, 0)), data(10));
    bench.rounds(2).await;
    assert_eq!(holding(&bench).missing, 1, "it was put off");
    bench.repair.repair_now();
    assert!(holding(&bench).comparing);
    bench.rounds(2).await;
    let held = holding(&bench);
    assert_eq!((held.comparing, held.missing), (false, 0));
}
