//! On the machine's disk: the thread, the hole, and the numbers.

use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use replica::disk::RealDisk;

use super::*;

fn real(dir: &Path, segment_bytes: u64) -> BlockStore {
    let options = StoreOptions {
        segment_bytes,
        space_reserve_bytes: 1 << 20,
        driver: Driver::Thread,
        room_bytes_max: 64 << 20,
        batch_bytes_max: 64 << 20,
        ..options()
    };
    BlockStore::open(Arc::new(RealDisk), dir, options)
        .expect("a fresh folder")
        .0
}

fn allocated(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("the folder is there");
    files
        .map(|file| {
            file.and_then(|f| f.metadata())
                .map_or(0, |m| m.blocks() * 512)
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinked_blocks_give_their_space_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = real(dir.path(), 64 << 20);
    let bytes = data(1, 4 << 20);
    for n in 0..4 {
        let new = block(&store, key(1, n), 5, &bytes);
        assert_eq!(
            store.put(new, PutMode::Upload).await.expect("room"),
            Stored::Written
        );
    }
    let before = allocated(dir.path());
    let gone = vec![key(1, 1), key(1, 2)];
    assert_eq!(store.unlink(gone, UploadEpoch(5)).await.expect("due"), 2);
    // The hole is punched after the answer: the next job shows that it is done.
    assert_eq!(
        store
            .unlink(Vec::new(), UploadEpoch(5))
            .await
            .expect("nothing"),
        0
    );
    let after = allocated(dir.path());
    assert!(
        before - after >= 2 * ((4 << 20) - 8192),
        "{before} to {after}"
    );
    for n in [0, 3] {
        assert_eq!(read(&store, key(1, n)).expect("held"), bytes);
    }
    store.close();
    drop(store);
    let store = real(dir.path(), 64 << 20);
    let numbers: Vec<_> = store
        .page(None, 10)
        .iter()
        .map(|held| held.key.number.0)
        .collect();
    assert_eq!(numbers, [0, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_folder_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let _store = real(dir.path(), 1 << 20);
    let second = BlockStore::open(Arc::new(RealDisk), dir.path(), options());
    assert!(matches!(second.err(), Some(OpenError::InUse)));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_for_blocks_is_bounded_and_given_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = real(dir.path(), 64 << 20);
    let rooms: Vec<_> = (0..8)
        .map(|_| store.try_room(8 << 20).expect("64 MiB in all"))
        .collect();
    assert!(store.try_room(1).is_none());
    drop(rooms);
    for n in 0..32 {
        let bytes = data(n, 1 << 20);
        let number = u32::try_from(n).expect("small");
        store
            .put(block(&store, key(1, number), 5, &bytes), PutMode::Upload)
            .await
            .expect("room");
    }
    assert!(
        store.try_room(64 << 20).is_some(),
        "all of it is back once blocks are durable"
    );
}

/// Prints; asserts only that the store is not an order of magnitude away from the disk.
#[tokio::test(flavor = "multi_thread")]
async fn writing_blocks_is_within_a_factor_of_raw_writes() {
    const BLOCKS: u32 = 16;
    let bytes = data(1, 8 << 20);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let raw = {
        let disk = RealDisk;
        let file = disk.create(&dir.path().join("raw")).expect("a file");
        let start = Instant::now();
        for n in 0..u64::from(BLOCKS) {
            file.write_at(&bytes, n * bytes.len() as u64).expect("room");
            file.sync_data().expect("synced");
        }
        start.elapsed()
    };
    let store = real(&dir.path().join("blocks"), 256 << 20);
    let start = Instant::now();
    let mut hashing = std::time::Duration::ZERO;
    for n in 0..BLOCKS {
        let begun = Instant::now();
        let new = block(&store, key(1, n), 5, &bytes);
        hashing += begun.elapsed();
        store.put(new, PutMode::Upload).await.expect("room");
    }
    let one = start.elapsed();
    let start = Instant::now();
    let many = (0..BLOCKS).map(|n| {
        let store = store.clone();
        let bytes = bytes.clone();
        async move {
            let making = store.clone();
            let new = tokio::task::spawn_blocking(move || block(&making, key(2, n), 5, &bytes));
            store
                .put(new.await.expect("no panic"), PutMode::Upload)
                .await
                .expect("room");
        }
    });
    // Four at a time: an upload's window and one more.
    use futures::StreamExt as _;
    futures::stream::iter(many)
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await;
    let four = start.elapsed();
    let rate = |elapsed: std::time::Duration| f64::from(BLOCKS * 8) / elapsed.as_secs_f64();
    println!(
        "8 MiB blocks: raw write+fdatasync {:.0} MiB/s; store, one at a time {:.0} MiB/s (of it making and hashing \
         {:.0} ms a block), four at a time {:.0} MiB/s; {} syncs",
        rate(raw),
        rate(one),
        hashing.as_secs_f64() * 1000.0 / f64::from(BLOCKS),
        rate(four),
        store.stats().syncs,
    );
    assert!(rate(four) * 10.0 > rate(raw));
}
