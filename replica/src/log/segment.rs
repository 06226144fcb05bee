//! Reading a segment from its header to its end, and telling a torn tail from damage.
//!
//! Owns the line between the two. Each record tells how far its segment was known synced when it was written. A bad
//! record is a torn tail when no record after it tells that this place was synced: a power cut keeps any part of
//! what was not synced, so valid records may well lie behind a hole. Otherwise it is damage, and the log stays shut.
//! A segment that has a successor is whole up to the end the successor's header tells, or damaged.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::ids::GroupId;

use super::LogError;
use super::accepted::Point;
use super::header::{GroupMeta, HEADER_REGION_BYTES};
use super::record::{Kind, Place, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader};
use super::replayed::Replayed;
use crate::disk::DiskFile;

/// Bytes read at a time.
pub(super) const WINDOW_BYTES: u64 = 1 << 20;

/// Where the last segment's records end, and how far they tell it was synced.
pub(super) struct Tail {
    pub(super) offset: u32,
    pub(super) told: u32,
}

/// Reads the records of one segment.
pub(super) struct SegmentReader<'a> {
    pub(super) path: PathBuf,
    pub(super) file: &'a dyn DiskFile,
    pub(super) salt: u64,
    pub(super) bytes: u64,
}

impl SegmentReader<'_> {
    /// Applies the segment's records up to `end`, which another segment vouches for; without one, up to the tail.
    pub(super) fn replay(
        &self,
        number: u32,
        end: Option<u32>,
        groups: &mut BTreeMap<GroupId, Replayed>,
    ) -> Result<Tail, LogError> {
        let mut window = Window::default();
        let mut tail = Tail {
            offset: HEADER_REGION_BYTES,
            told: HEADER_REGION_BYTES,
        };
        while end.is_none_or(|end| tail.offset < end) {
            let Some((header, record)) = self.record(&mut window, tail.offset)? else {
                let Some(_) = end else {
                    return self.judge(tail);
                };
                return Err(self.damaged(tail.offset, "a record before the segment's end is bad"));
            };
            let at = Point {
                segment: number,
                offset: tail.offset,
            };
            let payload = &record[RECORD_HEADER_BYTES..];
            let payload = &payload[..header.payload_bytes as usize];
            let applied = match header.kind {
                Kind::Mark => Ok(()),
                _ => groups
                    .entry(header.group)
                    .or_insert_with(|| Replayed::at(&GroupMeta::default()))
                    .apply(&header, payload, at),
            };
            applied.map_err(|what| self.damaged(tail.offset, what))?;
            tail.told = tail.told.max(header.synced);
            tail.offset += header.record_bytes();
        }
        match end {
            Some(end) if tail.offset != end => Err(self.damaged(
                tail.offset,
                "records do not end where the next segment says",
            )),
            _ => Ok(tail),
        }
    }

    /// The valid record at `offset`, if there is one.
    fn record<'w>(
        &self,
        window: &'w mut Window,
        offset: u32,
    ) -> Result<Option<(RecordHeader, &'w [u8])>, LogError> {
        let head = RECORD_HEADER_BYTES as u64;
        if u64::from(offset) + head > self.bytes {
            return Ok(None);
        }
        self.fill(window, offset, head)?;
        let place = Place {
            salt: self.salt,
            offset,
        };
        let parsed = window
            .at(offset)
            .first_chunk()
            .and_then(|head| RecordHeader::parse(place, head));
        let Some(header) = parsed else {
            return Ok(None);
        };
        let bytes = u64::from(header.record_bytes());
        if u64::from(offset) + bytes > self.bytes {
            return Ok(None);
        }
        self.fill(window, offset, bytes)?;
        let record = &window.at(offset)[..bytes as usize];
        let end = RECORD_HEADER_BYTES + header.payload_bytes as usize;
        let good = header.holds(&record[RECORD_HEADER_BYTES..end], &record[end..]);
        Ok(good.then_some((header, record)))
    }

    /// Whether the bad record at the tail is a torn one, or damage that a later record gives away.
    fn judge(&self, tail: Tail) -> Result<Tail, LogError> {
        let mut damaged = false;
        self.scan(tail.offset, |_, header| {
            damaged |= header.synced > tail.offset
        })?;
        match damaged {
            true => Err(self.damaged(tail.offset, "a record that was synced is bad")),
            false => Ok(tail),
        }
    }

    /// Where the last record header behind `offset` says its record ends.
    pub(super) fn stale_end(&self, offset: u32) -> Result<u64, LogError> {
        let mut end = u64::from(offset);
        self.scan(offset, |at, header| {
            end = end.max(at + u64::from(header.record_bytes()))
        })?;
        Ok(end.min(self.bytes))
    }

    /// Visits every valid header from `offset` on, wherever it stands.
    fn scan(&self, offset: u32, mut visit: impl FnMut(u64, RecordHeader)) -> Result<(), LogError> {
        let mut window = Window::default();
        let mut at = u64::from(offset);
        while at + RECORD_HEADER_BYTES as u64 <= self.bytes {
            let place = Place {
                salt: self.salt,
                offset: at as u32,
            };
            self.fill(&mut window, place.offset, RECORD_HEADER_BYTES as u64)?;
            let head = window.at(place.offset).first_chunk();
            // The first byte of the kind field is zero in what was never written.
            let head = head.filter(|head: &&[u8; RECORD_HEADER_BYTES]| head[12] != 0);
            if let Some(header) = head.and_then(|head| RecordHeader::parse(place, head)) {
                visit(at, header);
            }
            at += RECORD_ALIGN as u64;
        }
        Ok(())
    }

    fn fill(&self, window: &mut Window, offset: u32, bytes: u64) -> Result<(), LogError> {
        let offset = u64::from(offset);
        let held = window.start..window.start + window.bytes.len() as u64;
        if held.contains(&offset) && offset + bytes <= held.end {
            return Ok(());
        }
        let length = bytes.max(WINDOW_BYTES).min(self.bytes - offset);
        window.start = offset;
        window.bytes.resize(length as usize, 0);
        self.file
            .read_at(&mut window.bytes, offset)
            .map_err(|source| LogError::Device {
                doing: "read",
                path: self.path.clone(),
                source,
            })
    }

    pub(super) fn damaged(&self, offset: u32, what: &'static str) -> LogError {
        LogError::Damaged {
            path: self.path.clone(),
            offset: u64::from(offset),
            what,
        }
    }
}

/// A stretch of a segment in memory.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn at(&self, offset: u32) -> &[u8] {
        &self.bytes[(u64::from(offset) - self.start) as usize..]
    }
}
