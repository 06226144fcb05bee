//! The blocks of a storage node: its folder after damage, and blocks as they come in.
//!
//! Owns an encoder of its own, written from `docs/FORMATS.md` section 10, so that headers with fitting checksums are
//! tried too. Besides no panic: what was held after opening is held after a power cut, and the store goes on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use node::blocks::{
    BlockDigest, BlockDraft, BlockHead, BlockKey, BlockNumber, BlockOwner, BlockStore, Driver,
    FRAME_BYTES_MIN, Held, PutMode, StoreOptions,
};
use proto::ids::{GroupId, ObjectVersionId, UnixMs, UploadEpoch};
use replica::disk::SimDisk;

use crate::input::{Input, edited};
use crate::known::DATASET;
use crate::{Memory, Shape, Source, Target};

pub(super) const BLOCK_FOLDER: Target = Target {
    name: "block-folder",
    from: Source::Disk,
    parses: &["node/src/blocks/header.rs: decode"],
    shape: Shape::Bytes,
    len_max: 1024,
    memory: Memory {
        // Steps of 1 MiB while looking for the next header, twice; pieces of 256 KiB.
        fixed: 16 << 20,
        per_byte: 1024,
    },
    check,
    seeds,
};

pub(super) const BLOCK_DRAFT: Target = Target {
    name: "block-draft",
    from: Source::Network,
    parses: &["node/src/blocks/block.rs: TryFrom<&[u8]>"],
    shape: Shape::Bytes,
    len_max: 256,
    memory: Memory {
        // A block of 8 MiB, and what its digest was made of.
        fixed: 10 << 20,
        per_byte: 1024,
    },
    check: draft,
    seeds: || vec![vec![0, 16, 0, 16], vec![0, 1, 200, 0, 1, 0]],
};

const DIR: &str = "/blocks";
const RECORDS_AT: usize = 4096;
const SECTOR: usize = 512;

fn open(disk: &SimDisk) -> Option<BlockStore> {
    let salts = AtomicU64::new(0x5A17);
    let options = StoreOptions {
        segment_bytes: 16 << 10,
        room_bytes_max: 16 << 20,
        space_reserve_bytes: 0,
        driver: Driver::Manual,
        ..StoreOptions::new(Arc::new(move || salts.fetch_add(1, Ordering::Relaxed)))
    };
    let opened = BlockStore::open(disk.boot(), Path::new(DIR), options);
    opened.ok().map(|(store, _)| store)
}

fn key(version: u8, number: u32) -> BlockKey {
    BlockKey {
        version: ObjectVersionId([version; 16]),
        number: BlockNumber(number),
    }
}

fn owner() -> BlockOwner {
    BlockOwner {
        shard: GroupId(16),
        dataset: DATASET,
        upload_epoch: UploadEpoch(3),
        begun_at: UnixMs(1),
    }
}

fn put(store: &BlockStore, key: BlockKey, bytes: &[u8]) -> bool {
    let head = BlockHead {
        key,
        owner: owner(),
        digest: BlockDigest(*blake3::hash(bytes).as_bytes()),
        bytes: bytes.len() as u32,
    };
    let room = store
        .try_room(head.bytes)
        .expect("nothing else is on its way");
    let mut draft = BlockDraft::new(head, room).expect("a length");
    draft
        .push(Bytes::copy_from_slice(bytes))
        .expect("as announced");
    let block = draft.finish().expect("its digest");
    let stored = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stored);
    let done =
        Box::new(move |outcome: Result<_, _>| told.store(outcome.is_ok(), Ordering::Relaxed));
    store.put_with(block, PutMode::Repair, done);
    while store.turn() {}
    stored.load(Ordering::Relaxed)
}

/// The two files of a store with blocks, an unlinked one among them; the second is the one that was written last.
fn valid() -> &'static [Vec<u8>; 2] {
    static VALID: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    VALID.get_or_init(|| {
        let disk = SimDisk::new(1);
        let store = open(&disk).expect("an empty folder");
        for segment in 0..2 {
            for number in 0..3 {
                let bytes = vec![number as u8; 700 * (number as usize + 1)];
                assert!(put(&store, key(segment, number), &bytes), "room");
            }
            store.unlink_with(vec![key(segment, 1)], UploadEpoch(9), Box::new(drop));
            while store.turn() {}
            if segment == 0 {
                store.roll().expect("the simulated disk does not fail");
            }
        }
        drop(store);
        [0, 1].map(|number| {
            let path = path(number);
            let file = disk.boot().open(Path::new(&path)).expect("it was written");
            let mut bytes = vec![0; file.bytes().expect("a length") as usize];
            file.read_at(&mut bytes, 0).expect("its length");
            bytes
        })
    })
}

fn path(number: u32) -> String {
    format!("{DIR}/segment-{number:08x}.blocks")
}

fn disk_of(files: &[Vec<u8>], sync_failed: bool) -> SimDisk {
    let disk = SimDisk::new(1);
    let booted = disk.boot();
    let dir = Path::new(DIR);
    booted.create_dir_all(dir).expect("an empty disk");
    for (number, bytes) in (0..).zip(files) {
        let file = booted.create(Path::new(&path(number))).expect("a new name");
        file.write_at(bytes, 0)
            .and_then(|()| file.sync_data())
            .expect("room");
    }
    if sync_failed {
        booted.create(&dir.join("sync-failed")).expect("a new name");
    }
    booted.sync_dir(dir).expect("room");
    disk
}

fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, sync_failed) = (input.u8() % 2, input.u8() % 4 == 1);
    let files = match mode {
        0 => {
            let mut files = valid().clone();
            let at = usize::from(input.u8()) % 2;
            files[at] = edited(&files[at], input.rest());
            files.to_vec()
        }
        _ => vec![written(input)],
    };
    let disk = disk_of(&files, sync_failed);
    let Some(store) = open(&disk) else {
        return;
    };
    let held = readable(&store);
    drop(store);
    disk.power_cut();
    let store = open(&disk).expect("what was opened once opens after a power cut");
    assert_eq!(readable(&store), held, "what was held is durable");
    // Damaged ones are repaired, everything else is unlinked, and the store goes on.
    for damaged in store.damaged() {
        assert!(put(&store, damaged.key, b"repaired"), "a repair");
    }
    let keys: Vec<_> = store
        .page(None, usize::MAX)
        .iter()
        .map(|held| held.key)
        .collect();
    store.unlink_with(keys, UploadEpoch(u64::MAX), Box::new(drop));
    while store.turn() {}
    assert_eq!(store.page(None, usize::MAX).len(), 0, "unlinked");
    assert!(put(&store, key(0x77, 0), b"next"), "the store goes on");
}

/// Blocks that are held and can be read whole.
fn readable(store: &BlockStore) -> Vec<Held> {
    let mut whole = Vec::new();
    for held in store.page(None, usize::MAX) {
        let Ok(mut reader) = store.read(held.key, 0..0) else {
            continue;
        };
        let mut bytes = 0;
        let complete = loop {
            match reader.piece() {
                Ok(Some(piece)) => bytes += piece.len(),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if complete && !held.damaged {
            assert_eq!(bytes, held.bytes as usize, "whole is whole");
            whole.push(held);
        }
    }
    whole
}

const SALT: u64 = 0x0102_0304_0506_0708;

/// A first segment of the records that the input asks for, each with fitting checksums.
fn written(mut input: Input<'_>) -> Vec<u8> {
    let mut header = [0; 40];
    header[..8].copy_from_slice(b"RDUTSEG\0");
    header[8] = 1;
    header[24..32].copy_from_slice(&SALT.to_le_bytes());
    let crc = crc32c::crc32c(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut out = vec![0; RECORDS_AT];
    out[..40].copy_from_slice(&header);
    out[SECTOR..SECTOR + 40].copy_from_slice(&header);
    while !input.is_empty() && out.len() < 48 << 10 {
        record(&mut out, &mut input);
    }
    out
}

fn record(out: &mut Vec<u8>, input: &mut Input<'_>) {
    let offset = out.len() as u64;
    let (version, number) = (input.u8() % 4, input.u32());
    let data = vec![input.u8(); usize::from(input.u16() % 2000) + 1];
    let bytes = match input.u8() {
        0xF0.. => input.u32(),
        _ => data.len() as u32,
    };
    let table = crc32c::crc32c(&data).to_le_bytes();
    let digest = match input.u8() {
        0xF0.. => [7; 32],
        _ => *blake3::hash(&data).as_bytes(),
    };
    let mut fixed = [0; 160];
    fixed[..8].copy_from_slice(b"RDUTBLK\0");
    fixed[8] = 1;
    fixed[16..24].copy_from_slice(&SALT.to_le_bytes());
    fixed[24..40].fill(version);
    fixed[40..56].copy_from_slice(DATASET.as_bytes());
    fixed[56..64].copy_from_slice(&16_u64.to_le_bytes());
    fixed[64..72].copy_from_slice(&input.number().to_le_bytes());
    fixed[72..80].copy_from_slice(&input.number().to_le_bytes());
    fixed[80..84].copy_from_slice(&number.to_le_bytes());
    fixed[84..88].copy_from_slice(&bytes.to_le_bytes());
    fixed[88..120].copy_from_slice(&digest);
    fixed[120..124].copy_from_slice(&crc32c::crc32c(&table).to_le_bytes());
    fixed[124..128].copy_from_slice(&u32::from(input.u8() % 5).to_le_bytes());
    let crc = crc32c::crc32c(&0_u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &fixed);
    fixed[12..16].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(&table);
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    out.extend_from_slice(&data);
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

fn seeds() -> Vec<Vec<u8>> {
    let record = |version: u8, kind: u8| [version, 1, 0, 0, 0, 9, 100, 0, 0, 0, 3, 1, kind];
    let records = [record(0, 1), record(1, 2), record(2, 3), record(0, 1)];
    let written = [vec![1, 0], records.concat()].concat();
    vec![vec![0, 0, 0], vec![0, 0, 1], vec![0, 1, 1], written]
}

/// A block as a committer sends it: announced, then in frames.
fn draft(data: &[u8]) {
    static ROOM: OnceLock<BlockStore> = OnceLock::new();
    let store = ROOM.get_or_init(|| open(&SimDisk::new(1)).expect("an empty folder"));
    let mut input = Input::new(data);
    let announced = match input.u8() {
        0xF0.. => input.u32(),
        _ => u32::from(input.u16()),
    };
    let honest = input.u8() < 0xF0;
    let body = vec![0xAB; announced.min(1 << 20) as usize];
    let digest = match honest {
        true => *blake3::hash(&body).as_bytes(),
        false => [0; 32],
    };
    let head = BlockHead {
        key: key(1, 0),
        owner: owner(),
        digest: BlockDigest::try_from(&digest[..]).expect("32 bytes"),
        bytes: announced,
    };
    let Some(room) = store.try_room(announced.min(8 << 20)) else {
        return;
    };
    let Ok(mut draft) = BlockDraft::new(head, room) else {
        assert!(announced == 0 || announced > node::blocks::BLOCK_BYTES_MAX);
        return;
    };
    let mut sent = 0;
    while !input.is_empty() && !draft.complete() {
        let frame = Bytes::from(vec![0xAB; usize::from(input.u16())]);
        let length = frame.len();
        let dust = length < FRAME_BYTES_MIN && sent + length < announced as usize;
        let taken = draft.push(frame).is_ok();
        assert_eq!(
            taken,
            length > 0 && !dust && sent + length <= announced as usize
        );
        if !taken {
            return;
        }
        sent += length;
    }
    let complete = draft.complete();
    assert_eq!(
        draft.finish().is_ok(),
        complete && honest && announced as usize <= body.len()
    );
}
