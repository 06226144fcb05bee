//! The Raft log's folder after damage: segment headers and records, as `replica` opens them.
//!
//! Owns an encoder of its own, written from `docs/FORMATS.md` section 7, so that damage with fitting checksums is tried
//! too: what a confused build or a hostile disk would leave. Besides no panic: what is readable after opening is in
//! order and survives a power cut, and the log goes on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex, Term};
use replica::disk::{Disk, SimDisk};
use replica::log::{Driver, GroupState, LogEntry, LogError, LogOptions, RaftLog};

use crate::input::{Input, edited};
use crate::{Memory, Shape, Source, Target};

pub(super) const RAFT_LOG: Target = Target {
    name: "raft-log",
    from: Source::Disk,
    parses: &[
        "replica/src/log/header.rs: parse",
        "replica/src/log/record.rs: parse",
    ],
    shape: Shape::Bytes,
    len_max: 1024,
    memory: Memory {
        // Disks of a few segments of 64 KiB, twice over, windows of 1 MiB, and zeros of as much.
        fixed: 16 << 20,
        per_byte: 256,
    },
    check,
    seeds,
};

/// The smallest segment there is, half of which is header.
const SEGMENT_BYTES: usize = 64 << 10;
const RECORDS_AT: usize = 32 << 10;
/// Bytes of a header that are looked at: all that a few groups take.
const HEADER_BYTES: usize = 512;
const DIR: &str = "/log";

fn options() -> LogOptions {
    let salts = AtomicU64::new(0x5A17);
    LogOptions {
        segment_bytes: SEGMENT_BYTES as u64,
        payload_bytes_max: 4096,
        space_bytes_min: 0,
        driver: Driver::Manual,
        salt: Arc::new(move || salts.fetch_add(1, Ordering::Relaxed)),
        ..LogOptions::default()
    }
}

fn open(disk: &SimDisk) -> Result<RaftLog, LogError> {
    RaftLog::open(disk.boot(), Path::new(DIR), options())
}

/// Segments by number, each without its zeros: the header's beginning and the records.
type Image = Vec<(u32, Vec<u8>)>;

/// A log with all that a log can hold, over two segments.
fn valid() -> &'static Image {
    static VALID: OnceLock<Image> = OnceLock::new();
    VALID.get_or_init(|| {
        let disk = SimDisk::new(1);
        let log = open(&disk).expect("an empty folder");
        let settle = || while log.turn() {};
        settle();
        let entry = |index: u64, bytes: usize| LogEntry {
            term: Term(2),
            index: LogIndex(index),
            payload: Bytes::from(vec![index as u8; bytes]),
        };
        for id in [1, 16, 17] {
            let group = log.group(GroupId(id));
            group.save_vote(Bytes::from_static(b"vote"), Box::new(drop));
            group.append((1..=4).map(|at| entry(at, 20)).collect(), Box::new(drop));
            group
                .save_committed(Bytes::from_static(b"committed"))
                .expect("short");
            group.truncate_after(Some(LogIndex(3)), Box::new(drop));
            group.append(vec![entry(4, 40), entry(5, 0)], Box::new(drop));
            group.purge(
                Term(2),
                LogIndex(1),
                Bytes::from_static(b"purged"),
                Box::new(drop),
            );
            settle();
        }
        let group = log.group(GroupId(18));
        for index in 1..=9 {
            group.append(vec![entry(index, 4000)], Box::new(drop));
            settle();
        }
        log.group(GroupId(1))
            .append(vec![entry(6, 3)], Box::new(drop));
        settle();
        log.close().expect("the simulated disk does not fail");
        read(&*disk.boot())
    })
}

fn read(disk: &dyn Disk) -> Image {
    let mut image = Vec::new();
    for name in disk.list(Path::new(DIR)).expect("the folder") {
        let Some(number) = name.to_str().and_then(|name| name.strip_suffix(".log")) else {
            continue;
        };
        let number = u32::from_str_radix(number, 16).expect("a segment's number");
        let file = disk.open(&Path::new(DIR).join(name)).expect("listed");
        let mut whole = vec![0; SEGMENT_BYTES];
        file.read_at(&mut whole, 0).expect("a whole segment");
        let used = whole
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        let used = used.next_multiple_of(8).max(RECORDS_AT);
        let mut compact = whole[..HEADER_BYTES].to_vec();
        compact.extend_from_slice(&whole[RECORDS_AT..used]);
        image.push((number, compact));
    }
    image
}

/// A disk with these segments.
fn disk_of(image: &[(u32, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new(1);
    let booted = disk.boot();
    let dir = Path::new(DIR);
    booted.create_dir_all(dir).expect("an empty disk");
    for (number, compact) in image {
        let (header, records) = compact.split_at(compact.len().min(HEADER_BYTES));
        let mut whole = vec![0; SEGMENT_BYTES];
        whole[..header.len()].copy_from_slice(header);
        let records = &records[..records.len().min(SEGMENT_BYTES - RECORDS_AT)];
        whole[RECORDS_AT..RECORDS_AT + records.len()].copy_from_slice(records);
        let path = dir.join(format!("{number:08x}.log"));
        let file = booted.create(&path).expect("a new name");
        file.write_at(&whole, 0)
            .and_then(|()| file.sync_data())
            .expect("room");
    }
    booted.sync_dir(dir).expect("room");
    disk
}

fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.u8();
    let image = match mode % 3 {
        0 => {
            let mut image = valid().clone();
            let at = usize::from(input.u8()) % image.len();
            image[at].1 = edited(&image[at].1, input.rest());
            image
        }
        1 => {
            // The same with a header whose checksum fits.
            let mut image = valid().clone();
            let at = usize::from(input.u8()) % image.len();
            image[at].1 = edited(&image[at].1, input.rest());
            seal_header(&mut image[at].1);
            image
        }
        _ => vec![(1, written(input))],
    };
    let disk = disk_of(&image);
    let Ok(log) = open(&disk) else {
        return;
    };
    let held = contents(&log);
    drop(log);
    disk.power_cut();
    let log = open(&disk).expect("what was opened once opens after a power cut");
    assert_eq!(contents(&log), held, "what was readable is durable");
    goes_on(&log);
}

type Contents = Vec<(GroupId, GroupState, Vec<LogEntry>)>;

fn contents(log: &RaftLog) -> Contents {
    let of = |id| {
        let group = log.group(id);
        let state = group.state();
        let mut entries = Vec::new();
        if let (Some(first), Some((_, last))) = (state.first, state.last) {
            assert!(first <= last, "entries of {id} are reversed");
            let range = first..LogIndex(last.0.saturating_add(1));
            entries = group
                .read(range, usize::MAX)
                .expect("what is held is readable");
            let indexes = entries.iter().map(|entry| entry.index.0);
            assert!(indexes.eq(first.0..=last.0), "a gap in {id}");
        }
        (id, state, entries)
    };
    log.groups().into_iter().map(of).collect()
}

/// The next entry of each group is taken and durable.
fn goes_on(log: &RaftLog) {
    for id in log.groups() {
        let group = log.group(id);
        let next = group.state().last.map_or(1, |(_, at)| at.0 + 1);
        if next == u64::MAX {
            // The last one has no next.
            continue;
        }
        let durable = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&durable);
        let entry = LogEntry {
            term: Term(u64::MAX),
            index: LogIndex(next),
            payload: Bytes::from_static(b"next"),
        };
        group.append(
            vec![entry],
            Box::new(move |outcome| told.store(outcome.is_ok(), Ordering::Relaxed)),
        );
        while log.turn() {}
        assert!(durable.load(Ordering::Relaxed), "the log does not go on");
    }
}

/// Corrects a header's checksum, where its length is one it can have.
fn seal_header(compact: &mut [u8]) {
    let Some(length) = compact.get(16..20) else {
        return;
    };
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    if (20..=HEADER_BYTES.min(compact.len())).contains(&length) {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&compact[..12]), &compact[16..length]);
        compact[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

const SALT: u64 = 0x0102_0304_0506_0708;

/// A first segment of the records that the input asks for, each with fitting checksums.
fn written(mut input: Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"RDTRLOG1");
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&SALT.to_le_bytes());
    out.extend_from_slice(&(SEGMENT_BYTES as u64).to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    let groups = u32::from(input.u8() % 4);
    out.extend_from_slice(&groups.to_le_bytes());
    for group in 0..groups {
        header_group(&mut out, group.into(), &mut input);
    }
    let length = out.len() as u32;
    out[16..20].copy_from_slice(&length.to_le_bytes());
    out.resize(HEADER_BYTES, 0);
    seal_header(&mut out);
    while !input.is_empty() && out.len() < SEGMENT_BYTES - RECORDS_AT {
        record(&mut out, &mut input);
    }
    out
}

fn header_group(out: &mut Vec<u8>, group: u64, input: &mut Input<'_>) {
    out.extend_from_slice(&group.to_le_bytes());
    let has = input.u8();
    for bit in [1, 2] {
        if has & bit == 0 {
            out.extend_from_slice(&[0xFF, 0xFF]);
        } else {
            out.extend_from_slice(&[2, 0, b'o', b'k']);
        }
    }
    let position = |out: &mut Vec<u8>, input: &mut Input<'_>| {
        out.push(1);
        out.extend_from_slice(&input.number().to_le_bytes());
        out.extend_from_slice(&input.number().to_le_bytes());
    };
    if has & 4 == 0 {
        out.push(0);
    } else {
        position(out, input);
        out.extend_from_slice(&[2, 0, b'i', b'd']);
    }
    if has & 8 == 0 {
        out.push(0);
    } else {
        position(out, input);
    }
}

fn record(out: &mut Vec<u8>, input: &mut Input<'_>) {
    let offset = (out.len() - HEADER_BYTES + RECORDS_AT) as u64;
    let kind = input.u8() % 10;
    let group = u64::from(input.u8() % 4);
    let (term, index) = (input.number(), input.number());
    let synced = match input.u8() % 4 {
        0 => input.u32(),
        1 => offset as u32,
        _ => RECORDS_AT as u32,
    };
    let payload = input.short();
    let length = match input.u8() {
        0xFF => input.u32(),
        _ => payload.len() as u32,
    };
    let mut header = [0; 48];
    header[4..8].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12] = kind;
    header[13] = 1;
    header[16..20].copy_from_slice(&synced.to_le_bytes());
    header[24..32].copy_from_slice(&group.to_le_bytes());
    header[32..40].copy_from_slice(&term.to_le_bytes());
    header[40..48].copy_from_slice(&index.to_le_bytes());
    let place = [SALT.to_le_bytes(), offset.to_le_bytes()].concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&place), &header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn seeds() -> Vec<Vec<u8>> {
    // An entry, a vote, an entry, a truncation, a purge, of one group.
    let record = |kind: u8, index: u8| [kind, 1, 1, index, 2, 2, b'o', b'k', 0];
    let records = [
        (1, 1),
        (2, 0),
        (1, 2),
        (3, 1),
        (1, 2),
        (4, 1),
        (5, 0),
        (6, 2),
        (8, 0),
        (7, 0),
    ];
    let mut written = vec![2, 1, 0x0F, 1, 0, 1, 0];
    written.extend(
        records
            .into_iter()
            .flat_map(|(kind, index)| record(kind, index)),
    );
    let bare: Vec<u8> = [2, 0]
        .into_iter()
        .chain(
            records
                .into_iter()
                .flat_map(|(kind, index)| record(kind, index)),
        )
        .collect();
    vec![vec![0, 0], vec![0, 1], vec![1, 1], written, bare]
}
