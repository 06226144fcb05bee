//! What has been accepted: each group's entries and where they lie, the queue, the segments and their live counts.
//!
//! Owns the order. A record gets its segment and offset when it is accepted, under one lock that is never held over
//! a disk call, so the writer has only to follow, and a record is accepted only if its blocks exist. Refuses gaps.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use proto::ids::{GroupId, LogIndex, Term};
use tokio::sync::watch;

use super::header::{
    GROUPS_MAX, GroupMeta, HEADER_REGION_BYTES, META_BYTES_MAX, Purged, SegmentHeader,
};
use super::record::{Kind, RecordHeader, record_bytes};
use super::spares::Spare;
use super::writer::Writer;
use super::{Done, Driver, GroupState, LogEntry, LogError, LogOptions, LogStats, Priority};
use crate::disk::{DirLock, Disk, DiskFile};

/// Everything the handles and threads of one log share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) state: Mutex<State>,
    /// Taken by whoever writes: the thread, or [`Shared::turn`]. Always before `state`.
    pub(super) writer: Mutex<Writer>,
    /// Something wants a sync, or the log ends.
    pub(super) work: Condvar,
    /// The queue shrank, a spare is ready, the disk is full, or the log ended.
    pub(super) room: Condvar,
    /// A spare was used, a segment retired, or the log ends.
    pub(super) upkeep: Condvar,
    pub(super) fatal_tx: watch::Sender<Option<Arc<LogError>>>,
    pub(super) stats: Mutex<LogStats>,
    pub(super) lock: Mutex<Option<DirLock>>,
}

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
    pub(super) supply: Supply,
    /// Segments without live entries, oldest first, still under their names.
    pub(super) retired: VecDeque<(u32, Segment)>,
    /// Moved entries accepted and not yet durable.
    pub(super) moving: usize,
    pub(super) fatal: Option<Arc<LogError>>,
    pub(super) closing: bool,
    pub(super) closed: bool,
}

impl Shared {
    pub(super) fn append(
        &self,
        group: GroupId,
        priority: Priority,
        entries: Vec<LogEntry>,
        done: Done,
    ) {
        // The payload checksums are the bulk of the work and need no lock.
        let crcs: Vec<u32> = entries
            .iter()
            .map(|entry| crc32c::crc32c(&entry.payload))
            .collect();
        if let Err((refused, done)) = self.accept_entries(group, priority, entries, &crcs, done) {
            done(Err(refused));
        }
    }

    fn accept_entries(
        &self,
        group: GroupId,
        priority: Priority,
        entries: Vec<LogEntry>,
        crcs: &[u32],
        done: Done,
    ) -> Result<(), (Arc<LogError>, Done)> {
        let payload_max = self.options.payload_bytes_max;
        let sizes: Vec<u32> = entries
            .iter()
            .map(|entry| record_bytes(entry.payload.len() as u32))
            .collect();
        let mut state = self.state.lock();
        let checked = entries
            .iter()
            .find(|entry| entry.payload.len() > payload_max)
            .map_or(Ok(()), |entry| {
                Err(too_long("payload", entry.payload.len(), payload_max))
            })
            .and_then(|()| state.admit_group(group))
            .and_then(|()| self.wait_for_queue(&mut state))
            .and_then(|()| self.make_room(&mut state, &sizes, priority))
            .and_then(|()| state.check_contiguous(group, &entries));
        if let Err(refused) = checked {
            return Err((refused, done));
        }
        let count = entries.len();
        let mut done = Some(done);
        for (position, (entry, crc)) in entries.into_iter().zip(crcs).enumerate() {
            let header = RecordHeader {
                kind: Kind::Entry,
                group,
                term: entry.term,
                index: entry.index,
                synced: 0,
                payload_bytes: entry.payload.len() as u32,
                payload_crc: *crc,
            };
            let at = self.place(&mut state, header.record_bytes());
            state.add_entry(group, &header, at, entry.payload.clone());
            let done = if position + 1 == count {
                done.take()
            } else {
                None
            };
            state.push(Item {
                at,
                header,
                payload: entry.payload,
                effect: Effect::None,
                done,
                wants_sync: true,
            });
        }
        drop(state);
        match done {
            // No entries: nothing to wait for.
            Some(done) => done(Ok(())),
            None => {
                self.work.notify_one();
            }
        }
        Ok(())
    }

    pub(super) fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        let plan = Plan {
            kind: Kind::Vote,
            term: Term(0),
            index: LogIndex(0),
            payload: vote,
        };
        self.accept_meta(group, plan.payload.len(), done, |_| Ok(plan));
    }

    pub(super) fn save_committed(
        &self,
        group: GroupId,
        committed: Bytes,
    ) -> Result<(), Arc<LogError>> {
        check_meta(committed.len())?;
        let mut state = self.state.lock();
        state.admit_group(group)?;
        if state.group(group).meta.committed.as_ref() == Some(&committed) {
            return Ok(());
        }
        let plan = Plan {
            kind: Kind::Committed,
            term: Term(0),
            index: LogIndex(0),
            payload: committed,
        };
        match self.make_room(&mut state, &[plan.record_bytes()], Priority::Normal) {
            Ok(()) => {
                self.take(&mut state, group, plan, None);
                drop(state);
                // Not for a sync: so that it is written before long when nothing else comes.
                self.work.notify_one();
            }
            // It is a hint: an older one on disk costs time at restart and nothing else.
            Err(error) if matches!(*error, LogError::NoSpace) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn truncate_after(&self, group: GroupId, after: Option<LogIndex>, done: Done) {
        self.accept_meta(group, 0, done, |state| state.plan_truncate(group, after));
    }

    pub(super) fn purge(
        &self,
        group: GroupId,
        term: Term,
        index: LogIndex,
        log_id: Bytes,
        done: Done,
    ) {
        self.accept_meta(group, log_id.len(), done, |state| {
            let group = state.group(group);
            let purged = group.meta.purged.as_ref();
            let already = purged.is_some_and(|purged| index <= purged.index);
            // A log that did not start at its first index holds nothing there to purge.
            let before = purged.is_none() && !group.entries.is_empty() && index.0 < group.first;
            Ok(match already || before {
                true => Plan::nothing(),
                false => Plan {
                    kind: Kind::Purge,
                    term,
                    index,
                    payload: log_id,
                },
            })
        });
    }

    /// Accepts one record that is no entry: `plan` says which, once there is room for it.
    fn accept_meta(
        &self,
        group: GroupId,
        payload_bytes: usize,
        done: Done,
        plan: impl FnOnce(&mut State) -> Result<Plan, Arc<LogError>>,
    ) {
        let mut state = self.state.lock();
        let planned = check_meta(payload_bytes)
            .and_then(|()| state.admit_group(group))
            .and_then(|()| {
                let bytes = record_bytes(payload_bytes as u32);
                self.make_room(&mut state, &[bytes], Priority::Reserve)
            })
            .and_then(|()| plan(&mut state));
        match planned {
            Err(refused) => {
                drop(state);
                done(Err(refused));
            }
            Ok(plan) => {
                self.take(&mut state, group, plan, Some(done));
                drop(state);
                self.work.notify_one();
            }
        }
    }

    /// Gives the planned record its place, changes the group's state and queues it. There is room.
    fn take(&self, state: &mut State, group: GroupId, plan: Plan, done: Option<Done>) {
        let header = RecordHeader {
            kind: plan.kind,
            group,
            term: plan.term,
            index: plan.index,
            synced: 0,
            payload_bytes: plan.payload.len() as u32,
            payload_crc: crc32c::crc32c(&plan.payload),
        };
        // A rotation copies the groups' states into the new segment's header: before the change, which comes after.
        let at = self.place(state, header.record_bytes());
        let effect = state.change(group, &plan);
        let wants_sync = done.is_some();
        state.push(Item {
            at,
            header,
            payload: plan.payload,
            effect,
            done,
            wants_sync,
        });
    }

    /// Waits while more is queued than may be.
    fn wait_for_queue(&self, state: &mut MutexGuard<'_, State>) -> Result<(), Arc<LogError>> {
        while self.options.driver == Driver::Threads
            && state.queue_bytes > self.options.queue_bytes_max
        {
            state.check_open()?;
            self.room.wait(state);
        }
        Ok(())
    }

    /// Sees to it that records of these sizes have blocks, waiting for a segment in preparation. May release the
    /// lock while it waits.
    pub(super) fn make_room(
        &self,
        state: &mut MutexGuard<'_, State>,
        sizes: &[u32],
        priority: Priority,
    ) -> Result<(), Arc<LogError>> {
        // With nobody else to prepare a segment, one attempt is made for each that is needed, and then it is full.
        let mut attempts = sizes.len() + 2;
        loop {
            state.check_open()?;
            let rotations = self.rotations(state.next.offset, sizes);
            let kept = match priority {
                Priority::Normal => 1,
                Priority::Reserve => 0,
            };
            let enough = state.spares.len() >= rotations + kept;
            // Within the segment in use a missing reserve is only a reason to refuse when none can be made.
            if enough || (rotations == 0 && (kept == 0 || state.supply == Supply::Open)) {
                return Ok(());
            }
            match self.options.driver {
                Driver::Threads if state.supply == Supply::Full => {
                    self.upkeep.notify_one();
                    return Err(Arc::new(LogError::NoSpace));
                }
                Driver::Threads => {
                    self.upkeep.notify_one();
                    self.room.wait(state);
                }
                Driver::Manual if attempts == 0 => return Err(Arc::new(LogError::NoSpace)),
                Driver::Manual => {
                    attempts -= 1;
                    MutexGuard::unlocked(state, || self.prepare_for_caller(rotations + kept));
                }
            }
        }
    }

    /// How many new segments records of these sizes need when the next one goes to `offset`.
    fn rotations(&self, mut offset: u32, sizes: &[u32]) -> usize {
        let mut rotations = 0;
        for size in sizes {
            if self.fits(offset, *size) {
                offset += size;
            } else {
                rotations += 1;
                offset = HEADER_REGION_BYTES + size;
            }
        }
        rotations
    }

    fn fits(&self, offset: u32, size: u32) -> bool {
        u64::from(offset) + u64::from(size) <= self.options.segment_bytes
    }

    /// Takes the next place, starting a new segment where the record does not fit. There is room.
    pub(super) fn place(&self, state: &mut State, bytes: u32) -> Point {
        if !self.fits(state.next.offset, bytes) {
            let spare = state
                .spares
                .pop()
                .expect("make_room counted the spares under this lock");
            let number = state.next.segment + 1;
            let salt = (self.options.salt)();
            let header = SegmentHeader {
                number,
                salt,
                segment_bytes: self.options.segment_bytes,
                previous_end: state.next.offset,
                groups: state
                    .groups
                    .iter()
                    .map(|(id, group)| (*id, group.meta.clone()))
                    .collect(),
            };
            let segment = Segment {
                file: spare.file.clone(),
                salt,
                live: 0,
            };
            state.segments.insert(number, segment);
            let header = header.encode();
            state.queue.push_back(Work::Rotate(Rotation {
                number,
                salt,
                header,
                spare,
            }));
            state.next = Point {
                segment: number,
                offset: HEADER_REGION_BYTES,
            };
            self.upkeep.notify_one();
        }
        let at = state.next;
        state.next.offset += bytes;
        at
    }

    pub(super) fn groups(&self) -> Vec<GroupId> {
        let state = self.state.lock();
        let used = |group: &Group| group.meta != GroupMeta::default();
        state
            .groups
            .iter()
            .filter(|(_, group)| used(group))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn state(&self, group: GroupId) -> GroupState {
        let state = self.state.lock();
        let Some(group) = state.groups.get(&group) else {
            return GroupState::default();
        };
        GroupState {
            vote: group.meta.vote.clone(),
            committed: group.meta.committed.clone(),
            purged: group
                .meta
                .purged
                .as_ref()
                .map(|at| (at.index, at.log_id.clone())),
            first: (!group.entries.is_empty()).then_some(LogIndex(group.first)),
            last: group.meta.last,
            bytes: group.bytes,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let state = self.state.lock();
        let largest = record_bytes(self.options.payload_bytes_max as u32);
        let rotates = usize::from(!self.fits(state.next.offset, largest));
        state.supply == Supply::Full && state.spares.len() < rotates + 1
    }

    pub(super) fn path(&self, number: u32) -> PathBuf {
        segment_path(&self.dir, number)
    }
}

/// A record to be accepted that is no new entry.
struct Plan {
    kind: Kind,
    term: Term,
    index: LogIndex,
    payload: Bytes,
}

impl Plan {
    /// A record that says nothing, so that the caller is answered in its turn.
    fn nothing() -> Self {
        Self {
            kind: Kind::Mark,
            term: Term(0),
            index: LogIndex(0),
            payload: Bytes::new(),
        }
    }

    fn record_bytes(&self) -> u32 {
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

    fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_default()
    }

    fn admit_group(&self, group: GroupId) -> Result<(), Arc<LogError>> {
        match self.groups.contains_key(&group) || self.groups.len() < GROUPS_MAX {
            true => Ok(()),
            false => Err(Arc::new(LogError::TooManyGroups {
                groups_max: GROUPS_MAX,
            })),
        }
    }

    fn check_contiguous(&self, group: GroupId, entries: &[LogEntry]) -> Result<(), Arc<LogError>> {
        let last = self.groups.get(&group).and_then(|group| group.meta.last);
        let mut expected = last.map(|(_, index)| LogIndex(index.0 + 1));
        for entry in entries {
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

    fn add_entry(&mut self, id: GroupId, header: &RecordHeader, at: Point, payload: Bytes) {
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

    fn plan_truncate(
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
    fn change(&mut self, id: GroupId, plan: &Plan) -> Effect {
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

fn check_meta(bytes: usize) -> Result<(), Arc<LogError>> {
    if bytes > META_BYTES_MAX {
        return Err(too_long("vote or log id", bytes, META_BYTES_MAX));
    }
    Ok(())
}

fn too_long(what: &'static str, bytes: usize, bytes_max: usize) -> Arc<LogError> {
    Arc::new(LogError::TooLong {
        what,
        bytes,
        bytes_max,
    })
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.log"))
}
