//! Opening the folder: the index from the headers of all segments, and what a power cut left behind.
//!
//! Owns the walk from header to header. Refuses to delete: a torn record is marked so, a header that cannot be read
//! is a gap that is counted, and the walk goes on at the next one. What is answered as held afterwards is durable:
//! the last segment, the only one that can hold what was not synced, is verified whole and synced.

use std::io;
use std::path::Path;
use std::sync::Arc;

use replica::disk::{Disk, DiskFile};

use super::error::OpenError;
use super::header::{
    Place, RECORDS_AT, RecordHeader, RecordKind, SECTOR_BYTES, SegmentHeader, SegmentId, extent,
};
use super::index::{Index, Location};
use super::read::verify_units;
use super::segments::{Segment, Segments};
use super::writer::Superseded;

/// Bytes read at a time while looking for the next header, or rewriting.
const STEP_BYTES: usize = 1 << 20;
/// Stands in the folder from a sync that failed until the next open.
const SYNC_FAILED_FILE: &str = "sync-failed";

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// Segments whose header is whole.
    pub segments: u64,
    /// Segments of which neither header copy can be read. Their blocks are missing; the files are kept.
    pub unreadable_segments: u64,
    /// Blocks indexed.
    pub blocks: u64,
    /// Records whose bytes were torn by a power cut, or damaged since.
    pub torn: u64,
    /// Stretches between records where no header could be read: blocks may be missing.
    pub gaps: u64,
    /// Bytes after the last readable record of the last segment: writes that were under way.
    pub tail_cut_bytes: u64,
    /// Whether the last run ended with a failed sync, so that what it wrote was written once more.
    pub rewritten: bool,
}

/// What the store starts from.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) superseded: Vec<Superseded>,
    pub(super) next: SegmentId,
    pub(super) report: OpenReport,
}

/// Leaves word for the next open that a sync failed: the page cache may show what the disk does not have, and a
/// later sync would not write it.
pub(super) fn note_sync_failed(disk: &Arc<dyn Disk>, dir: &Path) {
    // The disk is failing: what cannot be written down now is beyond help, and the process exits anyway.
    let _ = disk
        .create(&dir.join(SYNC_FAILED_FILE))
        .and_then(|_| disk.sync_dir(dir));
}

pub(super) fn recover(segments: &Segments) -> Result<Recovered, OpenError> {
    let (disk, dir) = (Arc::clone(segments.disk()), segments.dir().to_owned());
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File {
            doing,
            path,
            source,
        }
    };
    let names = disk.list(&dir).map_err(failed("listing", &dir))?;
    let marker = dir.join(SYNC_FAILED_FILE);
    let rewrite = names.iter().any(|name| name == SYNC_FAILED_FILE);
    let mut ids: Vec<_> = names
        .iter()
        .filter_map(|name| Segments::parse(name))
        .collect();
    ids.sort_unstable();
    let mut report = OpenReport {
        rewritten: rewrite,
        ..OpenReport::default()
    };
    let mut readable = Vec::new();
    for id in &ids {
        let path = segments.path(*id);
        let file = disk.open(&path).map_err(failed("opening", &path))?;
        let bytes = file.bytes().map_err(failed("measuring", &path))?;
        match segment_header(&file, bytes).map_err(failed("reading", &path))? {
            Some(header) if header.id == *id => readable.push((header, file, bytes)),
            // A cut while it was being made: records are accepted only once the header is durable.
            _ if bytes <= RECORDS_AT && Some(id) == ids.last() => {
                disk.remove(&path).map_err(failed("removing", &path))?;
            }
            _ => {
                tracing::error!(
                    segment = id.0,
                    "a segment's header cannot be read; its blocks are missing"
                );
                report.unreadable_segments += 1;
            }
        }
    }
    let mut out = Recovered {
        index: Index::default(),
        superseded: Vec::new(),
        next: SegmentId(ids.last().map_or(0, |id| id.0 + 1)),
        report,
    };
    let last = readable.last().map(|(header, ..)| header.id);
    for (header, file, bytes) in &readable {
        let is_last = last == Some(header.id);
        let path = segments.path(header.id);
        let segment = scan(&mut out, *header, file, *bytes, Scan { is_last, rewrite })
            .map_err(failed("reading", &path))?;
        segments.add(segment);
        segments.keep(header.id, file);
    }
    disk.sync_dir(&dir).map_err(failed("syncing", &dir))?;
    if rewrite {
        disk.remove(&marker).map_err(failed("removing", &marker))?;
        disk.sync_dir(&dir).map_err(failed("syncing", &dir))?;
    }
    out.report.segments = readable.len() as u64;
    out.report.blocks = out.index.blocks();
    Ok(out)
}

fn segment_header(file: &Arc<dyn DiskFile>, bytes: u64) -> io::Result<Option<SegmentHeader>> {
    let mut buffer = vec![0; (2 * SECTOR_BYTES as u64).min(bytes) as usize];
    match file.read_at(&mut buffer, 0) {
        Ok(()) => Ok(SegmentHeader::decode(&buffer)),
        // A medium error on the header: as unreadable as a wrong checksum.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy)]
struct Scan {
    is_last: bool,
    rewrite: bool,
}

fn scan(
    out: &mut Recovered,
    header: SegmentHeader,
    file: &Arc<dyn DiskFile>,
    file_bytes: u64,
    how: Scan,
) -> io::Result<Segment> {
    let mut segment = Segment {
        header,
        live: 0,
        gaps: 0,
        closed: true,
    };
    let mut rewrite = Vec::new();
    let mut torn = Vec::new();
    let end = walk(file, header, file_bytes, &mut |offset, record| {
        let Some(at) = Location::new(header.id, offset, record.head.bytes) else {
            return Ok(());
        };
        let mut damaged = match record.kind {
            RecordKind::Tombstone => {
                rewrite.push((offset, record));
                return Ok(());
            }
            RecordKind::Torn => {
                rewrite.push((offset, record));
                true
            }
            RecordKind::Block => false,
        };
        if how.is_last && !damaged {
            match verify_units(file, &record, offset) {
                Ok(true) => {}
                Ok(false) => {
                    damaged = true;
                    let kind = RecordKind::Torn;
                    torn.push((offset, RecordHeader { kind, ..record }));
                }
                // The medium, perhaps for now: not written down as torn, and not believed either.
                Err(error) => {
                    tracing::error!(segment = header.id.0, %error, "a block could not be verified");
                    damaged = true;
                }
            }
        }
        segment.live += 1;
        out.report.torn += u64::from(damaged);
        keep_better(out, record, at, damaged);
        Ok(())
    })?;
    segment.gaps = end.gaps;
    out.report.gaps += end.gaps;
    if how.is_last {
        out.report.tail_cut_bytes = end.tail_bytes;
    } else if end.tail_bytes > 0 {
        segment.gaps += 1;
        out.report.gaps += 1;
    }
    // What is not marked now would be believed once this is no longer the last segment.
    let marks = torn
        .iter()
        .chain(if how.rewrite { rewrite.as_slice() } else { &[] });
    let mut changed = false;
    if how.rewrite && how.is_last {
        write_again(file, file_bytes)?;
        changed = true;
    }
    for (offset, record) in marks {
        let place = Place {
            segment: header,
            offset: *offset,
        };
        file.write_at(&record.encode_sector(place), *offset)?;
        changed = true;
    }
    if changed || how.is_last {
        file.sync_data()?;
    }
    Ok(segment)
}

/// Of two records of one key, the healthy one counts, else the later one; the other waits for its tombstone.
fn keep_better(out: &mut Recovered, record: RecordHeader, at: Location, damaged: bool) {
    let key = record.head.key;
    let old = out.index.slot(&key).copied();
    if old.is_some_and(|old| !old.damaged && damaged) {
        out.superseded.push(Superseded { key, at });
        return;
    }
    if let Some(old) = out.index.insert(&record.head, at, damaged) {
        out.superseded.push(Superseded { key, at: old.at });
    }
}

/// Where a walk ended.
pub(super) struct End {
    /// Stretches before the last record where no header could be read.
    pub(super) gaps: u64,
    /// Bytes after the last record that are not zero.
    pub(super) tail_bytes: u64,
}

/// Visits every record of a segment that has a whole header, in order.
pub(super) fn walk(
    file: &Arc<dyn DiskFile>,
    segment: SegmentHeader,
    file_bytes: u64,
    visit: &mut dyn FnMut(u64, RecordHeader) -> io::Result<()>,
) -> io::Result<End> {
    let mut end = End {
        gaps: 0,
        tail_bytes: 0,
    };
    let mut at = RECORDS_AT;
    let mut sector = [0; SECTOR_BYTES];
    while at + SECTOR_BYTES as u64 <= file_bytes {
        let place = Place {
            segment,
            offset: at,
        };
        let record = match file.read_at(&mut sector, at) {
            Ok(()) => RecordHeader::decode(&sector, place),
            Err(_) => None,
        };
        if let Some(record) = record {
            visit(at, record)?;
            at += extent(record.head.bytes);
            continue;
        }
        let found = next_header(file, segment, at, file_bytes);
        match found.next {
            Some(next) => {
                end.gaps += u64::from(found.bytes > 0);
                at = next;
            }
            None => {
                end.tail_bytes = found.bytes;
                break;
            }
        }
    }
    Ok(end)
}

struct Found {
    next: Option<u64>,
    /// Bytes passed over that are not zero, in whole sectors.
    bytes: u64,
}

/// Looks for the next header, sector by sector. What cannot be read counts as damage and is passed over.
fn next_header(
    file: &Arc<dyn DiskFile>,
    segment: SegmentHeader,
    from: u64,
    file_bytes: u64,
) -> Found {
    let mut found = Found {
        next: None,
        bytes: 0,
    };
    let mut at = from;
    let mut buffer = vec![0; STEP_BYTES];
    while at < file_bytes {
        let step = (file_bytes - at).min(STEP_BYTES as u64) as usize;
        let piece = &mut buffer[..step];
        if file.read_at(piece, at).is_err() {
            // Sector by sector, so that one bad one does not hide a mebibyte.
            read_what_can_be(file, piece, at);
        }
        for (i, sector) in piece.chunks(SECTOR_BYTES).enumerate() {
            let offset = at + (i * SECTOR_BYTES) as u64;
            if RecordHeader::decode(sector, Place { segment, offset }).is_some() {
                found.next = Some(offset);
                return found;
            }
            if sector.iter().any(|byte| *byte != 0) {
                found.bytes += sector.len() as u64;
            }
        }
        at += step as u64;
    }
    found
}

fn read_what_can_be(file: &Arc<dyn DiskFile>, piece: &mut [u8], at: u64) {
    for (i, sector) in piece.chunks_mut(SECTOR_BYTES).enumerate() {
        if file
            .read_at(sector, at + (i * SECTOR_BYTES) as u64)
            .is_err()
        {
            // Not zero: an unreadable sector is damage, not a hole.
            sector.fill(0xFF);
        }
    }
}

/// Makes every byte of the file dirty again, so that the next sync writes it.
fn write_again(file: &Arc<dyn DiskFile>, file_bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < file_bytes {
        let step = (file_bytes - at).min(STEP_BYTES as u64) as usize;
        file.read_at(&mut buffer[..step], at)?;
        file.write_at(&buffer[..step], at)?;
        at += step as u64;
    }
    Ok(())
}
