//! Moves live entries out of the oldest segment, so that one idle group cannot pin every segment after its own.
//!
//! Owns when and which. An entry is written again as it is; the old copy stays readable until the new one is
//! durable. Cost is bounded: it runs only while about half of the log is dead, so a byte is moved about once for each
//! byte appended.

use proto::ids::{GroupId, LogIndex};

use super::accepted::{Effect, Item, Location, State, Supply};
use super::core::Shared;
use super::header::HEADER_REGION_BYTES;
use super::record::{Kind, RecordHeader, record_bytes};
use super::{LogEntry, LogError};

/// Entries moved in one step.
const STEP_ENTRIES: usize = 1024;
/// Payload bytes moved in one step, about.
const STEP_BYTES: usize = 1 << 20;

impl Shared {
    /// Whether entries should be moved: there are about twice the segments that the live entries need, and too many;
    /// or the disk is full and a fifth of them could go; or the log was turned over.
    pub(super) fn wants_cleaning(&self, state: &State) -> bool {
        if state.moving > 0 {
            return false;
        }
        if state.must_clear() {
            return true;
        }
        let segments = state.segments.len() as u64;
        let live: u64 = state.groups.values().map(|group| group.bytes).sum();
        // A record is a quarter of a segment at most, so moving fills three quarters at least; moving everything
        // ends in no more segments than this, and then it stops.
        let usable = (self.options.segment_bytes - u64::from(HEADER_REGION_BYTES)) / 4 * 3;
        let needed = live.div_ceil(usable) + 1;
        match state.supply {
            Supply::Open => segments > (2 * needed).max(self.options.segments_soft_max as u64),
            Supply::Full => segments * 4 > needed * 5,
        }
    }

    /// Moves one step's worth out of the oldest segment. Answers whether anything was moved.
    pub(super) fn clean(&self) -> Result<bool, LogError> {
        let chosen = self.choose();
        if chosen.is_empty() {
            return Ok(false);
        }
        let mut read = Vec::with_capacity(chosen.len());
        for (group, index, location) in chosen {
            let range = index..LogIndex(index.0 + 1);
            let entry = match self.read(group, range, 0) {
                Ok(mut entries) => entries.pop(),
                // It was recorded as the log's end already.
                Err(_) => return Ok(false),
            };
            // Purged or truncated since, if not there.
            read.extend(
                entry
                    .filter(|entry| entry.index == index)
                    .map(|entry| (group, location, entry)),
            );
        }
        let mut moved = 0;
        let mut state = self.state.lock();
        for (group, from, entry) in read {
            if state
                .groups
                .get(&group)
                .and_then(|group| group.location(entry.index))
                != Some(from)
            {
                continue;
            }
            if !self.move_entry(&mut state, group, from, &entry) {
                break;
            }
            moved += 1;
        }
        drop(state);
        self.stats.lock().moved += moved;
        self.work.notify_one();
        Ok(moved > 0)
    }

    /// Accepts one moved entry if there is room for it right now. A full disk lends it the reserve: what it frees is
    /// a whole segment.
    fn move_entry(
        &self,
        state: &mut State,
        group: GroupId,
        from: Location,
        entry: &LogEntry,
    ) -> bool {
        let header = RecordHeader {
            kind: Kind::Moved,
            group,
            term: entry.term,
            index: entry.index,
            synced: 0,
            payload_bytes: entry.payload.len() as u32,
            payload_crc: crc32c::crc32c(&entry.payload),
        };
        let bytes = header.record_bytes();
        let rotates = u64::from(state.next.offset) + u64::from(bytes) > self.options.segment_bytes;
        if state.fatal.is_some() || state.closing || (rotates && state.spares.is_empty()) {
            return false;
        }
        let at = self.place(state, bytes);
        let to = Location { at, ..from };
        state
            .segments
            .get_mut(&at.segment)
            .expect("a place lies in a segment")
            .live += 1;
        state.moving += 1;
        state.push(Item {
            at,
            header,
            payload: entry.payload.clone(),
            effect: Effect::Moved { from, to },
            done: None,
            wants_sync: true,
        });
        true
    }

    fn choose(&self) -> Vec<(GroupId, LogIndex, Location)> {
        let state = self.state.lock();
        let Some(oldest) = state.segments.keys().next().copied() else {
            return Vec::new();
        };
        let mut chosen = Vec::new();
        let mut bytes = 0;
        if oldest >= state.written.segment {
            return chosen;
        }
        for (id, group) in &state.groups {
            for (position, location) in group.entries.iter().enumerate() {
                if location.at.segment != oldest {
                    continue;
                }
                if chosen.len() >= STEP_ENTRIES || bytes >= STEP_BYTES {
                    return chosen;
                }
                bytes += record_bytes(location.payload_bytes) as usize;
                chosen.push((*id, LogIndex(group.first + position as u64), *location));
            }
        }
        chosen
    }
}
