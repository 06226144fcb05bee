//! The shipping store on a disk that forgets, tears and flips, against a model; and on the real one.

mod model;
mod real;
mod seeds;
mod single;
mod standing;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::{DatasetId, GroupId, ObjectVersionId, UnixMs, UploadEpoch};
use replica::disk::{Disk, SimDisk};

use super::*;

const DIR: &str = "/blocks";
const SHARD: GroupId = GroupId(16);
const DATASET: DatasetId = DatasetId([0xD5; 16]);
const SEGMENT_BYTES: u64 = 96 << 10;

/// Small segments, no thread, salts by counting.
fn options() -> StoreOptions {
    let salt = AtomicU64::new(1);
    StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        room_bytes_max: 16 << 20,
        batch_bytes_max: 64 << 10,
        space_reserve_bytes: 0,
        driver: Driver::Manual,
        ..StoreOptions::new(Arc::new(move || salt.fetch_add(1, Ordering::Relaxed)))
    }
}

fn open(disk: &SimDisk) -> (BlockStore, OpenReport) {
    open_with(disk.boot(), options())
}

fn open_with(disk: Arc<dyn Disk>, options: StoreOptions) -> (BlockStore, OpenReport) {
    BlockStore::open(disk, Path::new(DIR), options).expect("nothing holds the folder")
}

fn key(version: u8, number: u32) -> BlockKey {
    BlockKey {
        version: ObjectVersionId([version; 16]),
        number: BlockNumber(number),
    }
}

fn digest(data: &[u8]) -> BlockDigest {
    BlockDigest(*blake3::hash(data).as_bytes())
}

fn block(store: &BlockStore, key: BlockKey, epoch: u64, data: &[u8]) -> NewBlock {
    let head = BlockHead {
        key,
        owner: BlockOwner {
            shard: SHARD,
            dataset: DATASET,
            upload_epoch: UploadEpoch(epoch),
            begun_at: UnixMs(1_000),
        },
        digest: digest(data),
        bytes: u32::try_from(data.len()).expect("a test's block is small"),
    };
    let room = store
        .try_room(head.bytes)
        .expect("tests stay within the room");
    let mut draft = BlockDraft::new(head, room).expect("length is fine");
    for frame in data.chunks(50_000) {
        // The last frame may be short, the others are not.
        draft.push(Bytes::copy_from_slice(frame)).expect("fits");
    }
    draft.finish().expect("the digest is of these bytes")
}

type Outcome<T> = Arc<Mutex<Option<T>>>;

fn submit_put(
    store: &BlockStore,
    block: NewBlock,
    mode: PutMode,
) -> Outcome<Result<Stored, PutError>> {
    let outcome = Outcome::default();
    let tell = Arc::clone(&outcome);
    store.put_with(
        block,
        mode,
        Box::new(move |result| *tell.lock() = Some(result)),
    );
    outcome
}

fn submit_unlink(
    store: &BlockStore,
    keys: Vec<BlockKey>,
    epoch_max: u64,
) -> Outcome<Result<u64, UnlinkError>> {
    let outcome = Outcome::default();
    let tell = Arc::clone(&outcome);
    let done = Box::new(move |result| *tell.lock() = Some(result));
    store.unlink_with(keys, UploadEpoch(epoch_max), done);
    outcome
}

fn put(store: &BlockStore, key: BlockKey, epoch: u64, data: &[u8]) -> Result<Stored, PutError> {
    put_mode(store, key, epoch, data, PutMode::Upload)
}

fn put_mode(
    store: &BlockStore,
    key: BlockKey,
    epoch: u64,
    data: &[u8],
    mode: PutMode,
) -> Result<Stored, PutError> {
    let outcome = submit_put(store, block(store, key, epoch, data), mode);
    while store.turn() {}
    outcome
        .lock()
        .take()
        .expect("the store answers everything it takes")
}

fn unlink(store: &BlockStore, keys: Vec<BlockKey>, epoch_max: u64) -> Result<u64, UnlinkError> {
    let outcome = submit_unlink(store, keys, epoch_max);
    while store.turn() {}
    outcome
        .lock()
        .take()
        .expect("the store answers everything it takes")
}

fn read(store: &BlockStore, key: BlockKey) -> Result<Vec<u8>, ReadError> {
    read_range(store, key, 0..0)
}

fn read_range(store: &BlockStore, key: BlockKey, range: Range<u32>) -> Result<Vec<u8>, ReadError> {
    let mut reader = store.read(key, range)?;
    let mut out = Vec::new();
    while let Some(piece) = reader.piece()? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// Bytes that differ from call to call with another seed.
fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}
