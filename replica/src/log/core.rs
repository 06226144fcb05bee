//! Acceptance: every write gets its segment and offset here, under one lock that is never held over a disk call.
//!
//! Owns the order. The writer has only to follow it, and a record is accepted only if its blocks exist. Refuses gaps,
//! what is too long, and what the disk has no room for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use proto::ids::{GroupId, LogIndex, Term};
use tokio::sync::watch;

use super::accepted::{
    Effect, Group, Item, Plan, Point, Rotation, Segment, State, Supply, Work, check_index,
};
use super::header::{GroupMeta, HEADER_REGION_BYTES, META_BYTES_MAX, SegmentHeader};
use super::record::{Kind, RecordHeader, record_bytes};
use super::writer::Writer;
use super::{Done, Driver, GroupState, LogEntry, LogError, LogOptions, LogStats, Priority};
use crate::disk::{DirLock, Disk};

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
            check_index(group, index)?;
            let group = state.group(group);
            let purged = group.meta.purged.as_ref();
            let already = purged.is_some_and(|purged| index <= purged.index);
            // A log that did not start at its first index holds nothing there to purge. Right before its first entry
            // the purge says what that entry follows.
            let gap = index.0 + 1 < group.first;
            let before = purged.is_none() && !group.entries.is_empty() && gap;
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
                if std::mem::take(&mut state.spares_wanted) > 0 {
                    // Whoever else waits for more says so again.
                    self.room.notify_all();
                }
                return Ok(());
            }
            match self.options.driver {
                Driver::Threads if state.supply == Supply::Full => {
                    state.spares_wanted = 0;
                    self.upkeep.notify_one();
                    return Err(Arc::new(LogError::NoSpace));
                }
                Driver::Threads => {
                    state.spares_wanted = state.spares_wanted.max(rotations + kept);
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
            self.start_segment(state);
        }
        let at = state.next;
        state.next.offset += bytes;
        at
    }

    /// Goes on in a new segment, and gives up every one before it as soon as nothing that is held lies there.
    pub(super) fn turn_over(&self) -> Result<(), Arc<LogError>> {
        let mut state = self.state.lock();
        // As if for a record that fills a segment: where nothing was written to this one yet, it is new enough.
        let whole = self.options.segment_bytes - u64::from(HEADER_REGION_BYTES);
        let whole = u32::try_from(whole).expect("offsets in a segment are 32 bits");
        self.make_room(&mut state, &[whole], Priority::Normal)?;
        if state.next.offset > HEADER_REGION_BYTES {
            self.start_segment(&mut state);
        }
        state.clear_below = state.next.segment;
        drop(state);
        self.work.notify_one();
        self.upkeep.notify_one();
        Ok(())
    }

    /// Waits, blocking, until the segments that a turn-over gives up are zeroed or gone. Answers whether they are.
    pub(super) fn turned_over(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut state = self.state.lock();
        loop {
            let older = state.segments.first_key_value();
            let cleared = older.is_none_or(|(number, _)| *number >= state.clear_below);
            if cleared && state.retired.is_empty() && state.retiring == 0 {
                return true;
            }
            if state.check_open().is_err() || self.room.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
    }

    /// Starts a new segment. There is a spare.
    fn start_segment(&self, state: &mut State) {
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
