//! What has been accepted: each group's entries and where they lie, the queue, the segments and their live counts.
//!
//! Owns the effect of each record on a group, at once when it is accepted, and on segments, only when it is durable:
//! a segment whose entries were purged by a record that a power cut takes back is needed again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex, Term};

use super::header::{GROUPS_MAX, GroupMeta, Purged};
use super::record::{INDEX_MAX, Kind, RecordHeader, record_bytes};
use super::spares::Spare;
use super::{Done, LogEntry, LogError};
use crate::disk::DiskFile;

/// A point in the log: a segment and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// Where an entry's record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) at: Point,
    pub(super) payload_bytes: u32,
    pub(super) term: Term,
}

/// One group as accepted.
#[derive(Default)]
pub(super) struct Group {
    pub(super) meta: GroupMeta,
    /// Index of `entries[0]`.
    pub(super) first: u64,
    pub(super) entries: VecDeque<Location>,
    /// Payloads of the last `tail.len()` entries. What is not yet written is always here.
    pub(super) tail: VecDeque<Bytes>,
    /// Record bytes of `entries`.
    pub(super) bytes: u64,
}

/// There is always a next index.
pub(super) fn check_index(group: GroupId, index: LogIndex) -> Result<(), Arc<LogError>> {
    match index.0 {
        ..=INDEX_MAX => Ok(()),
        _ => Err(Arc::new(LogError::NoNextIndex { group, index })),
    }
}

/// A segment that holds records.
pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u64,
    /// Entries in it that some group may still need after a power cut.
    pub(super) live: u64,
}

/// Entries that cease to need their segments once a record is durable.
pub(super) type Released = Vec<(u32, u64)>;

/// What a record does once it is durable.
pub(super) enum Effect {
    None,
    /// A truncation or purge lets go of segments.
    Release(Released),
    /// An entry now lies elsewhere.
    Moved {
        from: Location,
        to: Location,
    },
}

/// A record with its place.
pub(super) struct Item {
    pub(super) at: Point,
    pub(super) header: RecordHeader,
    pub(super) payload: Bytes,
    pub(super) effect: Effect,
    pub(super) done: Option<Done>,
    /// Whether somebody waits for it to be durable.
    pub(super) wants_sync: bool,
}

/// A new segment is to be named and started.
pub(super) struct Rotation {
    pub(super) number: u32,
    pub(super) salt: u64,
    pub(super) header: Vec<u8>,
    pub(super) spare: Spare,
}

/// The queue's elements, in order.
pub(super) enum Work {
    Record(Item),
    Rotate(Rotation),
}

/// Whether the disk lets us make segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Supply {
    /// As far as is known, it does.
    Open,
    /// The last attempt found it full.
    Full,
}

/// Everything under the lock.
pub(super) struct State {
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) segments: BTreeMap<u32, Segment>,
    /// Where the next record goes.
    pub(super) next: Point,
    pub(super) queue: VecDeque<Work>,
    pub(super) queue_bytes: usize,
    /// Records in the queue for which somebody waits.
    pub(super) waiting: usize,
    /// Everything before this is in the file, synced or not.
    pub(super) written: Point,
    pub(super) cached_bytes: usize,
    /// Prepared segments, the last of which is the reserve.
    pub(super) spares: Vec<Spare>,
    pub(super) spare_next: u32,
    /// Spares that a caller waits for, where it needs more than there are to be.
    pub(super) spares_wanted: usize,
    pub(super) supply: Supply,
    /// Segments without live entries, oldest first, still under their names.
    pub(super) retired: VecDeque<(u32, Segment)>,
    /// Taken from `retired` and not done with.
    pub(super) retiring: usize,
    /// Segments below this one are to be given up, whatever it costs to move what is held in them.
    pub(super) clear_below: u32,
    /// Moved entries accepted and not yet durable.
    pub(super) moving: usize,
    pub(super) fatal: Option<Arc<LogError>>,
    pub(super) closing: bool,
    pub(super) closed: bool,
}

/// A record to be accepted that is no new entry.
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) term: Term,
    pub(super) index: LogIndex,
    pub(super) payload: Bytes,
}

impl Plan {
    /// A record that says nothing, so that the caller is answered in its turn.
    pub(super) fn nothing() -> Self {
        Self {
            kind: Kind::Mark,
            term: Term(0),
            index: LogIndex(0),
            payload: Bytes::new(),
        }
    }

    pub(super) fn record_bytes(&self) -> u32 {
        record_bytes(self.payload.len() as u32)
    }
}

impl State {
    pub(super) fn check_open(&self) -> Result<(), Arc<LogError>> {
        match &self.fatal {
            Some(fatal) => Err(fatal.clone()),
            None if self.closing => Err(Arc::new(LogError::Closed)),
            None => Ok(()),
        }
    }

    pub(super) fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    pub(super) fn admit_group(&self, group: GroupId) -> Result<(), Arc<LogError>> {
        match self.groups.contains_key(&group) || self.groups.len() < GROUPS_MAX {
            true => Ok(()),
            false => Err(Arc::new(LogError::TooManyGroups {
                groups_max: GROUPS_MAX,
            })),
        }
    }

    pub(super) fn check_contiguous(
        &self,
        group: GroupId,
        entries: &[LogEntry],
    ) -> Result<(), Arc<LogError>> {
        let last = self.groups.get(&group).and_then(|group| group.meta.last);
        let mut expected = last.map(|(_, index)| LogIndex(index.0 + 1));
        for entry in entries {
            check_index(group, entry.index)?;
            if let Some(expected) = expected.filter(|expected| *expected != entry.index) {
                let got = entry.index;
                return Err(Arc::new(LogError::NotContiguous {
                    group,
                    expected,
                    got,
                }));
            }
            expected = Some(LogIndex(entry.index.0 + 1));
        }
        Ok(())
    }

    pub(super) fn add_entry(
        &mut self,
        id: GroupId,
        header: &RecordHeader,
        at: Point,
        payload: Bytes,
    ) {
        self.cached_bytes += payload.len();
        self.segments
            .get_mut(&at.segment)
            .expect("a place lies in a segment")
            .live += 1;
        let group = self.group(id);
        if group.entries.is_empty() {
            group.first = header.index.0;
        }
        let payload_bytes = header.payload_bytes;
        group.entries.push_back(Location {
            at,
            payload_bytes,
            term: header.term,
        });
        group.tail.push_back(payload);
        group.bytes += u64::from(header.record_bytes());
        group.meta.last = Some((header.term, header.index));
    }

    pub(super) fn plan_truncate(
        &mut self,
        id: GroupId,
        after: Option<LogIndex>,
    ) -> Result<Plan, Arc<LogError>> {
        let group = self.group(id);
        let Some((_, last)) = group.meta.last else {
            return Ok(Plan::nothing());
        };
        let purged = group
            .meta
            .purged
            .as_ref()
            .map(|purged| (purged.term, purged.index));
        let after = match (after, purged) {
            (Some(after), Some((_, purged))) if after < purged => {
                return Err(Arc::new(LogError::BelowPurged {
                    group: id,
                    after,
                    purged,
                }));
            }
            (Some(after), _) => Some(after),
            (None, purged) => purged.map(|(_, index)| index),
        };
        let plan = |kind, term, index| Plan {
            kind,
            term,
            index,
            payload: Bytes::new(),
        };
        Ok(match after {
            None => plan(Kind::TruncateAll, Term(0), LogIndex(0)),
            Some(after) if after >= last => Plan::nothing(),
            Some(after) if purged.is_some_and(|(_, index)| index == after) => {
                let (term, index) = purged.expect("just compared");
                plan(Kind::TruncateAfter, term, index)
            }
            Some(after) => match group.location(after) {
                Some(location) => plan(Kind::TruncateAfter, location.term, after),
                // Below the first entry of a log that was never purged: nothing is left.
                None => plan(Kind::TruncateAll, Term(0), LogIndex(0)),
            },
        })
    }

    /// Changes the group's state as the record says, and answers what its durability will release.
    pub(super) fn change(&mut self, id: GroupId, plan: &Plan) -> Effect {
        let group = self.group(id);
        let (released, payload_bytes) = match plan.kind {
            Kind::Vote => {
                group.meta.vote = Some(plan.payload.clone());
                return Effect::None;
            }
            Kind::Committed => {
                group.meta.committed = Some(plan.payload.clone());
                return Effect::None;
            }
            Kind::Mark | Kind::Entry | Kind::Moved => return Effect::None,
            Kind::TruncateAll => {
                group.meta.last = None;
                group.drop_from(0)
            }
            Kind::TruncateAfter => {
                group.meta.last = Some((plan.term, plan.index));
                group.drop_from(plan.index.0 + 1)
            }
            Kind::Purge => {
                let (term, index, log_id) = (plan.term, plan.index, plan.payload.clone());
                group.meta.purged = Some(Purged {
                    term,
                    index,
                    log_id,
                });
                if group.meta.last.is_none_or(|(_, last)| last <= index) {
                    group.meta.last = Some((term, index));
                }
                group.drop_through(index.0)
            }
        };
        self.cached_bytes -= payload_bytes;
        Effect::Release(released)
    }

    /// Does what a record's durability allows.
    pub(super) fn settle_effect(&mut self, header: &RecordHeader, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Release(released) => {
                for (segment, count) in released {
                    self.release(segment, count);
                }
            }
            Effect::Moved { from, to } => {
                self.moving -= 1;
                let group = self.group(header.group);
                let position = header.index.0.wrapping_sub(group.first);
                let held = usize::try_from(position)
                    .ok()
                    .and_then(|at| group.entries.get_mut(at));
                match held {
                    Some(location) if *location == from => {
                        *location = to;
                        self.release(from.at.segment, 1);
                    }
                    // Truncated or purged since: the copy is needed by nobody.
                    _ => self.release(to.at.segment, 1),
                }
            }
        }
    }

    fn release(&mut self, segment: u32, count: u64) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.live -= count;
        }
    }

    /// Gives up the oldest segments in which nothing is live, before the one being written. Oldest first, because a
    /// restart takes a missing segment between others for damage. Answers whether there were any.
    pub(super) fn retire(&mut self, writing: u32) -> bool {
        let before = self.retired.len();
        while let Some(entry) = self.segments.first_entry() {
            if *entry.key() >= writing || entry.get().live > 0 {
                break;
            }
            let number = *entry.key();
            self.retired.push_back((number, entry.remove()));
        }
        self.retired.len() > before
    }

    /// Whether the oldest segment is to be given up, and may be.
    pub(super) fn must_clear(&self) -> bool {
        let oldest = self.segments.first_key_value();
        oldest
            .is_some_and(|(number, _)| *number < self.clear_below && *number < self.written.segment)
    }

    /// Appends to the queue.
    pub(super) fn push(&mut self, item: Item) {
        self.queue_bytes += item.header.record_bytes() as usize;
        self.waiting += usize::from(item.wants_sync);
        self.queue.push_back(Work::Record(item));
    }
}

impl Group {
    /// Where the oldest entry that is kept in memory lies.
    pub(super) fn oldest_cached(&self) -> Option<Point> {
        let position = self.entries.len().checked_sub(self.tail.len())?;
        self.entries.get(position).map(|location| location.at)
    }

    /// Where the entry at `index` lies, if it is held.
    pub(super) fn location(&self, index: LogIndex) -> Option<Location> {
        let position = index.0.checked_sub(self.first)?;
        self.entries.get(usize::try_from(position).ok()?).copied()
    }

    /// Drops entries from `index` on: what they release, and the cached payload bytes dropped.
    fn drop_from(&mut self, index: u64) -> (Released, usize) {
        let mut dropped = Dropped::default();
        while self.first + self.entries.len() as u64 > index {
            let Some(location) = self.entries.pop_back() else {
                break;
            };
            dropped.count(self, location);
            if let Some(payload) = self.tail.pop_back() {
                dropped.payload_bytes += payload.len();
            }
        }
        (dropped.released, dropped.payload_bytes)
    }

    /// Drops entries up to and with `index`.
    fn drop_through(&mut self, index: u64) -> (Released, usize) {
        let mut dropped = Dropped::default();
        while self.first <= index {
            let Some(location) = self.entries.pop_front() else {
                break;
            };
            self.first += 1;
            dropped.count(self, location);
        }
        while self.tail.len() > self.entries.len() {
            dropped.payload_bytes += self.tail.pop_front().map_or(0, |payload| payload.len());
        }
        (dropped.released, dropped.payload_bytes)
    }
}

#[derive(Default)]
struct Dropped {
    released: Released,
    payload_bytes: usize,
}

impl Dropped {
    fn count(&mut self, group: &mut Group, location: Location) {
        group.bytes -= u64::from(record_bytes(location.payload_bytes));
        match self.released.last_mut() {
            Some((segment, count)) if *segment == location.at.segment => *count += 1,
            _ => self.released.push((location.at.segment, 1)),
        }
    }
}
