//! Reading entries: from memory where they are kept, else from the segments.
//!
//! Owns the check that what is read is what was written. Takes the lock only to look up where entries lie, so a
//! reader never waits for a sync.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex};

use super::accepted::{Location, State};
use super::core::Shared;
use super::record::{Kind, Place, RECORD_HEADER_BYTES, RecordHeader, record_bytes};
use super::{LogEntry, LogError};
use crate::disk::DiskFile;

/// Bytes read from a segment at once, unless one record is longer.
const RUN_BYTES_MAX: u32 = 1 << 20;

/// Records that lie next to each other in one segment.
struct Run {
    file: Arc<dyn DiskFile>,
    salt: u64,
    first: LogIndex,
    locations: Vec<Location>,
    bytes: u32,
}

enum Found {
    InMemory(LogEntry),
    OnDisk(Run),
}

impl Shared {
    pub(super) fn read(
        &self,
        group: GroupId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Arc<LogError>> {
        let found = {
            let state = self.state.lock();
            if let Some(fatal) = &state.fatal {
                return Err(fatal.clone());
            }
            state.find(group, range, bytes_max)
        };
        let mut entries = Vec::new();
        for found in found {
            match found {
                Found::InMemory(entry) => entries.push(entry),
                Found::OnDisk(run) => self
                    .read_run(group, &run, &mut entries)
                    .map_err(|error| self.fail(error, Vec::new()))?,
            }
        }
        Ok(entries)
    }

    fn read_run(
        &self,
        group: GroupId,
        run: &Run,
        entries: &mut Vec<LogEntry>,
    ) -> Result<(), LogError> {
        let start = run.locations[0].at;
        let mut buffer = vec![0; run.bytes as usize];
        run.file
            .read_at(&mut buffer, u64::from(start.offset))
            .map_err(|source| self.device("read", start.segment, source))?;
        let buffer = Bytes::from(buffer);
        for (position, location) in run.locations.iter().enumerate() {
            let index = LogIndex(run.first.0 + position as u64);
            let from = (location.at.offset - start.offset) as usize;
            let to = from + record_bytes(location.payload_bytes) as usize;
            let place = Place {
                salt: run.salt,
                offset: location.at.offset,
            };
            let payload = check(place, &buffer.slice(from..to), group, index, location);
            let payload = payload.ok_or_else(|| LogError::Damaged {
                path: self.path(location.at.segment),
                offset: u64::from(location.at.offset),
                what: "an entry does not read back as it was written",
            })?;
            entries.push(LogEntry {
                term: location.term,
                index,
                payload,
            });
        }
        self.stats.lock().disk_reads += run.locations.len() as u64;
        Ok(())
    }
}

fn check(
    place: Place,
    record: &Bytes,
    group: GroupId,
    index: LogIndex,
    location: &Location,
) -> Option<Bytes> {
    let head = record.first_chunk::<RECORD_HEADER_BYTES>()?;
    let header = RecordHeader::parse(place, head)?;
    let same = matches!(header.kind, Kind::Entry | Kind::Moved)
        && header.group == group
        && header.index == index
        && header.term == location.term
        && header.payload_bytes == location.payload_bytes;
    let end = RECORD_HEADER_BYTES + location.payload_bytes as usize;
    let payload = record.slice(RECORD_HEADER_BYTES..end);
    (same && header.holds(&payload, &record[end..])).then_some(payload)
}

impl State {
    fn find(&self, group: GroupId, range: Range<LogIndex>, bytes_max: usize) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let Some(group) = self.groups.get(&group) else {
            return found;
        };
        let end = range.end.0.min(group.first + group.entries.len() as u64);
        let cached_from = end_of(group).saturating_sub(group.tail.len() as u64);
        let mut bytes = 0;
        for index in range.start.0.max(group.first)..end {
            let location = group.entries[(index - group.first) as usize];
            if bytes > 0 && bytes + location.payload_bytes as usize > bytes_max {
                break;
            }
            bytes += location.payload_bytes as usize + 1;
            if index >= cached_from {
                let payload = group.tail[(index - cached_from) as usize].clone();
                let index = LogIndex(index);
                found.push(Found::InMemory(LogEntry {
                    term: location.term,
                    index,
                    payload,
                }));
                continue;
            }
            let size = record_bytes(location.payload_bytes);
            if let Some(Found::OnDisk(run)) = found.last_mut() {
                let start = run.locations[0].at;
                let next = location.at.segment == start.segment
                    && location.at.offset == start.offset + run.bytes;
                if next && run.bytes + size <= RUN_BYTES_MAX {
                    run.bytes += size;
                    run.locations.push(location);
                    continue;
                }
            }
            let segment = self.segments.get(&location.at.segment);
            let segment = segment.expect("a segment stays while an entry in it is live");
            found.push(Found::OnDisk(Run {
                file: segment.file.clone(),
                salt: segment.salt,
                first: LogIndex(index),
                locations: vec![location],
                bytes: size,
            }));
        }
        found
    }
}

fn end_of(group: &super::accepted::Group) -> u64 {
    group.first + group.entries.len() as u64
}
