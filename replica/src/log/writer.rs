//! The one writer: takes what was accepted, in order, writes it, syncs once for all that wait, answers.
//!
//! Owns the position in the file and how far it is known synced. After the first error it fails everything that
//! waits, answers nothing with success any more, and never syncs again.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use proto::ids::{GroupId, LogIndex, Term};

use super::accepted::{Effect, Item, Point, Rotation, Work};
use super::core::Shared;
use super::header::HEADER_REGION_BYTES;
use super::record::{Kind, Place, RECORD_HEADER_BYTES, RecordHeader, encode_record};
use super::stats::SyncTimer;
use super::{Done, Driver, LogError};
use crate::disk::DiskFile;

/// Where the writer stands in the segment it writes.
pub(super) struct Writer {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) number: u32,
    pub(super) salt: u64,
    /// Everything before this offset is in the file.
    pub(super) offset: u32,
    /// Everything before this offset is durable.
    pub(super) synced: u32,
    /// The highest `synced` that a record in the file tells.
    pub(super) told: u32,
    pub(super) buffer: Vec<u8>,
}

/// The log's threads; none with [`Driver::Manual`].
pub(super) struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

enum Batch {
    Nothing,
    Records(Vec<Item>),
    Rotate(Rotation),
}

/// How long the log is idle before a mark is written. It tells a restart how far the segment was synced, so that
/// damage in what was synced is not taken for a torn tail.
const IDLE: Duration = Duration::from_millis(50);
/// How long a full disk is left alone before the next attempt to make a segment.
pub(super) const FULL_RETRY: Duration = Duration::from_millis(500);
/// Buffer capacity kept between batches.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

impl Shared {
    /// Writes one batch, or starts one segment. Answers whether there was anything to do.
    pub(super) fn write_step(&self) -> bool {
        let mut writer = self.writer.lock();
        let batch = {
            let mut state = self.state.lock();
            if state.fatal.is_some() {
                return false;
            }
            take_batch(&mut state.queue, self.options.batch_bytes_max)
        };
        let outcome = match batch {
            Batch::Nothing => return false,
            Batch::Rotate(rotation) => self
                .rotate(&mut writer, rotation)
                .map_err(|error| (error, Vec::new())),
            Batch::Records(items) => self.write_records(&mut writer, items),
        };
        if let Err((error, waiting)) = outcome {
            // With the writer still held: nobody may write, let alone sync, between the failure and its notice.
            self.fail(error, waiting);
        }
        drop(writer);
        true
    }

    fn write_records(
        &self,
        writer: &mut Writer,
        mut items: Vec<Item>,
    ) -> Result<(), (LogError, Vec<Done>)> {
        let wants_sync = items.iter().any(|item| item.wants_sync);
        let (start, synced) = (writer.offset, writer.synced);
        writer.buffer.clear();
        for item in &mut items {
            item.header.synced = synced;
            let place = Place {
                salt: writer.salt,
                offset: item.at.offset,
            };
            encode_record(&mut writer.buffer, place, &item.header, &item.payload);
        }
        let bytes = writer.buffer.len() as u32;
        let written = writer.file.write_at(&writer.buffer, u64::from(start));
        writer.buffer.shrink_to(BUFFER_KEPT_BYTES);
        if let Err(source) = written {
            return Err((self.device("write", writer.number, source), dones(items)));
        }
        writer.offset = start + bytes;
        writer.told = synced;
        self.mark_written(Point {
            segment: writer.number,
            offset: writer.offset,
        });
        if wants_sync && let Err(error) = self.sync(writer, items.len(), bytes) {
            return Err((error, dones(items)));
        }
        let mut stats = self.stats.lock();
        stats.records += items.len() as u64;
        stats.bytes += u64::from(bytes);
        drop(stats);
        self.settle(writer, items, bytes as usize, wants_sync);
        Ok(())
    }

    fn sync(&self, writer: &mut Writer, records: usize, bytes: u32) -> Result<(), LogError> {
        let timer = SyncTimer::start();
        writer
            .file
            .sync_data()
            .map_err(|source| self.device("sync", writer.number, source))?;
        writer.synced = writer.offset;
        let mut stats = self.stats.lock();
        stats.syncs += 1;
        stats.batch_records.record(records as u64);
        stats.batch_bytes.record(u64::from(bytes));
        let micros = timer.elapsed_us();
        stats.sync_us.record(micros);
        drop(stats);
        metrics::histogram!("reduit_log_sync_seconds").record(micros as f64 / 1e6);
        Ok(())
    }

    /// Makes what the old segment holds durable, then names the new one. A record in the new segment is proof that
    /// the old one is whole up to the end the header tells.
    fn rotate(&self, writer: &mut Writer, rotation: Rotation) -> Result<(), LogError> {
        if writer.synced < writer.offset {
            self.sync(writer, 0, 0)?;
        }
        let Rotation {
            number,
            salt,
            header,
            spare,
        } = rotation;
        let path = self.path(number);
        let failed = |doing| {
            let path = path.clone();
            move |source| LogError::Device {
                doing,
                path,
                source,
            }
        };
        spare
            .file
            .write_at(&header, 0)
            .map_err(failed("write the header of"))?;
        spare
            .file
            .sync_data()
            .map_err(failed("sync the header of"))?;
        self.disk
            .rename(&spare.path, &path)
            .map_err(failed("name"))?;
        self.disk
            .sync_dir(&self.dir)
            .map_err(failed("sync the name of"))?;
        let offset = HEADER_REGION_BYTES;
        let buffer = std::mem::take(&mut writer.buffer);
        *writer = Writer {
            file: spare.file,
            number,
            salt,
            offset,
            synced: offset,
            told: offset,
            buffer,
        };
        self.mark_written(Point {
            segment: number,
            offset,
        });
        self.stats.lock().rotations += 1;
        Ok(())
    }

    /// Notes what readers may find in the file, and drops what the cache need not keep.
    fn mark_written(&self, written: Point) {
        let mut state = self.state.lock();
        state.written = written;
        while state.cached_bytes > self.options.cache_bytes_max {
            // At most 32 groups: the longest tail gives first.
            let Some(group) = state
                .groups
                .values_mut()
                .filter(|group| group.oldest_cached().is_some_and(|at| at < written))
                .max_by_key(|group| group.tail.len())
            else {
                return;
            };
            let freed = group.tail.pop_front().map_or(0, |payload| payload.len());
            state.cached_bytes -= freed;
        }
    }

    /// Carries out what the batch's durability allows, then answers in order. An unsynced batch holds only records
    /// that nobody waits for and that have no effect.
    fn settle(&self, writer: &Writer, mut items: Vec<Item>, bytes: usize, synced: bool) {
        let mut state = self.state.lock();
        state.queue_bytes -= bytes;
        state.waiting -= items.iter().filter(|item| item.wants_sync).count();
        if synced {
            for item in &mut items {
                let effect = std::mem::replace(&mut item.effect, Effect::None);
                state.settle_effect(&item.header, effect);
            }
        }
        let upkeep = state.retire(writer.number) || self.wants_cleaning(&state);
        drop(state);
        if upkeep {
            self.upkeep.notify_one();
        }
        self.room.notify_all();
        for done in dones(items) {
            done(Ok(()));
        }
    }

    /// Ends the log: everything that waits, and everything that comes, gets this error.
    pub(super) fn fail(&self, error: LogError, waiting: Vec<Done>) -> Arc<LogError> {
        let error = Arc::new(error);
        let mut state = self.state.lock();
        let first = state.fatal.is_none();
        let fatal = state.fatal.get_or_insert_with(|| error.clone()).clone();
        let queued = std::mem::take(&mut state.queue);
        state.waiting = 0;
        state.queue_bytes = 0;
        drop(state);
        if first {
            tracing::error!(error = &*fatal as &dyn std::error::Error, "raft log failed");
            self.fatal_tx.send_replace(Some(fatal.clone()));
        }
        self.work.notify_all();
        self.room.notify_all();
        self.upkeep.notify_all();
        let queued = queued.into_iter().filter_map(|work| match work {
            Work::Record(item) => item.done,
            Work::Rotate(_) => None,
        });
        for done in waiting.into_iter().chain(queued) {
            done(Err(fatal.clone()));
        }
        error
    }

    /// Writes, unsynced, a record that tells how far the segment is synced, when none does yet. Answers whether it
    /// wrote one.
    pub(super) fn mark(&self) -> bool {
        let told = {
            let writer = self.writer.lock();
            let mut state = self.state.lock();
            let at = state.next;
            let fits =
                u64::from(at.offset) + RECORD_HEADER_BYTES as u64 <= self.options.segment_bytes;
            let due = writer.told < writer.synced && writer.synced == writer.offset;
            if !due || !fits || !state.queue.is_empty() || state.fatal.is_some() {
                return false;
            }
            state.next.offset += RECORD_HEADER_BYTES as u32;
            let header = RecordHeader {
                kind: Kind::Mark,
                group: GroupId(0),
                term: Term(0),
                index: LogIndex(0),
                synced: 0,
                payload_bytes: 0,
                payload_crc: crc32c::crc32c(&[]),
            };
            let (payload, effect) = (bytes::Bytes::new(), Effect::None);
            state.push(Item {
                at,
                header,
                payload,
                effect,
                done: None,
                wants_sync: false,
            });
            true
        };
        told && self.write_step()
    }

    /// Writes everything accepted, says how far it is synced, and syncs that too.
    pub(super) fn drain(&self) -> Result<(), LogError> {
        while self.write_step() {}
        let mut writer = self.writer.lock();
        if self.fatal().is_some() {
            return Ok(());
        }
        if writer.synced < writer.offset {
            self.sync(&mut writer, 0, 0)?;
        }
        drop(writer);
        if self.mark() {
            let mut writer = self.writer.lock();
            if self.fatal().is_none() {
                self.sync(&mut writer, 0, 0)?;
            }
        }
        Ok(())
    }

    /// One step of [`Driver::Manual`].
    pub(super) fn turn(&self) -> bool {
        self.options.driver == Driver::Manual
            && (self.write_step() || self.upkeep_step() || self.mark())
    }

    pub(super) fn device(
        &self,
        doing: &'static str,
        number: u32,
        source: std::io::Error,
    ) -> LogError {
        LogError::Device {
            doing,
            path: self.path(number),
            source,
        }
    }

    pub(super) fn fatal(&self) -> Option<Arc<LogError>> {
        self.state.lock().fatal.clone()
    }

    pub(super) fn watch_fatal(&self) -> tokio::sync::watch::Receiver<Option<Arc<LogError>>> {
        self.fatal_tx.subscribe()
    }

    pub(super) fn wait_fatal(&self) -> Option<Arc<LogError>> {
        let mut state = self.state.lock();
        while state.fatal.is_none() && !state.closed {
            self.room.wait(&mut state);
        }
        state.fatal.clone()
    }

    pub(super) fn stats(&self) -> super::LogStats {
        self.stats.lock().clone()
    }

    fn write_thread(&self) {
        loop {
            {
                let mut state = self.state.lock();
                while state.waiting == 0 && !state.closing && state.fatal.is_none() {
                    if self.work.wait_for(&mut state, IDLE).timed_out() && state.waiting == 0 {
                        MutexGuard::unlocked(&mut state, || {
                            while self.write_step() {}
                            if !self.mark() {
                                self.rest();
                            }
                        });
                    }
                }
                if state.fatal.is_some() || (state.closing && state.queue.is_empty()) {
                    return;
                }
            }
            self.write_step();
        }
    }

    /// Sleeps until something wants a sync or lies in the queue.
    fn rest(&self) {
        let mut state = self.state.lock();
        while state.queue.is_empty() && !state.closing && state.fatal.is_none() {
            self.work.wait(&mut state);
        }
    }
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self, LogError> {
        let mut handles = Vec::new();
        if shared.options.driver == Driver::Threads {
            let (write, keep) = (shared.clone(), shared.clone());
            let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
            handles.push(
                name("raft-log")
                    .spawn(move || write.write_thread())
                    .map_err(LogError::Thread)?,
            );
            handles.push(
                name("raft-log-upkeep")
                    .spawn(move || keep.upkeep_thread())
                    .map_err(LogError::Thread)?,
            );
        }
        Ok(Self {
            shared: shared.clone(),
            handles: Mutex::new(handles),
        })
    }

    pub(super) fn close(&self, shared: &Shared) -> Result<(), Arc<LogError>> {
        let first = {
            let mut state = shared.state.lock();
            !std::mem::replace(&mut state.closing, true)
        };
        shared.work.notify_all();
        shared.upkeep.notify_all();
        shared.room.notify_all();
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            // The last handle may be dropped by a callback, on the thread it would wait for.
            if handle.thread().id() != std::thread::current().id() {
                // A panic there was a panic in a callback and has been reported by it.
                let _ = handle.join();
            }
        }
        if first {
            if let Err(error) = shared.drain() {
                shared.fail(error, Vec::new());
            }
            shared.state.lock().closed = true;
            shared.room.notify_all();
            *shared.lock.lock() = None;
        }
        match shared.fatal() {
            Some(fatal) => Err(fatal),
            None => Ok(()),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        if shared.options.driver == Driver::Threads {
            // Nobody is left to hear the error; whoever watches `fatal` has it.
            let _ = self.close(&shared);
        }
    }
}

fn take_batch(queue: &mut std::collections::VecDeque<Work>, bytes_max: usize) -> Batch {
    let mut items = Vec::new();
    let mut bytes = 0;
    loop {
        match queue.pop_front() {
            Some(Work::Record(item)) => {
                bytes += item.header.record_bytes() as usize;
                items.push(item);
                if bytes >= bytes_max {
                    return Batch::Records(items);
                }
            }
            Some(Work::Rotate(rotation)) if items.is_empty() => return Batch::Rotate(rotation),
            Some(rotate) => {
                queue.push_front(rotate);
                return Batch::Records(items);
            }
            None if items.is_empty() => return Batch::Nothing,
            None => return Batch::Records(items),
        }
    }
}

fn dones(items: Vec<Item>) -> Vec<Done> {
    items.into_iter().filter_map(|item| item.done).collect()
}
