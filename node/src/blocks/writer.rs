//! The one path by which blocks get onto the disk and off it.
//!
//! Owns the order of writes: everything that waits is written, shares one sync, enters the index and is answered.
//! Refuses to sync again after a failed sync, to answer before the sync, and to punch a hole before the tombstone is
//! durable: a block whose unlinking was answered does not come back.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};
use proto::ids::UploadEpoch;
use replica::disk::{DirLock, DiskFile, is_full};
use tokio::sync::{Notify, Semaphore, watch};

use super::block::{BlockDigest, BlockKey, NewBlock};
use super::error::{PutError, StoreFailed, UnlinkError};
use super::header::{
    Place, RECORDS_AT, RecordHeader, RecordKind, SECTOR_BYTES, SegmentHeader, SegmentId, extent,
};
use super::index::{Index, Location};
use super::recover::{Recovered, note_sync_failed};
use super::segments::{Segment, Segments};
use super::{PutMode, StoreOptions, Stored};

/// Called once when a block is durable, or was refused. Runs on the writing thread and must not block.
pub type PutDone = Box<dyn FnOnce(Result<Stored, PutError>) + Send>;
/// Called once when blocks are gone for good, with how many; or on failure.
pub type UnlinkDone = Box<dyn FnOnce(Result<u64, UnlinkError>) + Send>;

/// A record that another one of the same block has taken the place of; its tombstone is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Superseded {
    pub(super) key: BlockKey,
    pub(super) at: Location,
}

struct Put {
    block: NewBlock,
    mode: PutMode,
    done: PutDone,
}

struct Unlink {
    keys: Vec<BlockKey>,
    epoch_max: UploadEpoch,
    done: UnlinkDone,
}

enum Job {
    Put(Put),
    Unlink(Unlink),
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Jobs of one kind that share a sync.
enum Batch {
    Puts(Vec<Put>),
    Unlinks(Vec<Unlink>),
    Nothing,
}

struct Active {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    tail: u64,
}

/// What only the writing thread has.
pub(super) struct Writer {
    active: Option<Active>,
    next: SegmentId,
    superseded: Vec<Superseded>,
    /// The header of a record that did not fit was taken back, and that is not durable yet.
    tail_forgotten: bool,
}

/// Counts since opening.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) written_blocks: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) unlinked_blocks: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) punch_failures: AtomicU64,
    pub(super) damaged_found: AtomicU64,
}

/// Everything of an open store.
pub(super) struct Shared {
    pub(super) segments: Segments,
    pub(super) index: RwLock<Index>,
    pub(super) options: StoreOptions,
    pub(super) damage_noted: Notify,
    pub(super) room: Arc<Semaphore>,
    pub(super) unlink_room: Arc<Semaphore>,
    pub(super) counts: Counts,
    queue: Mutex<Queue>,
    wake: Condvar,
    writer: Mutex<Writer>,
    failed: watch::Sender<Option<Arc<StoreFailed>>>,
    _lock: DirLock,
}

/// Why a record was not appended.
enum AppendError {
    Full { available: u64 },
    Failed(Arc<StoreFailed>),
}

struct Written {
    put: Put,
    at: Location,
}

impl Shared {
    pub(super) fn new(
        segments: Segments,
        recovered: Recovered,
        options: StoreOptions,
        lock: DirLock,
    ) -> Self {
        let room = options.room_bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            segments,
            index: RwLock::new(recovered.index),
            damage_noted: Notify::new(),
            room: Arc::new(Semaphore::new(room)),
            unlink_room: Arc::new(Semaphore::new(super::UNLINKS_QUEUED_MAX)),
            counts: Counts::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            writer: Mutex::new(Writer {
                active: None,
                next: recovered.next,
                superseded: recovered.superseded,
                tail_forgotten: false,
            }),
            failed: watch::Sender::new(None),
            options,
            _lock: lock,
        }
    }

    pub(super) fn submit_put(&self, block: NewBlock, mode: PutMode, done: PutDone) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return done(Err(PutError::Closed));
        }
        queue.jobs.push_back(Job::Put(Put { block, mode, done }));
        self.wake.notify_one();
    }

    pub(super) fn submit_unlink(
        &self,
        keys: Vec<BlockKey>,
        epoch_max: UploadEpoch,
        done: UnlinkDone,
    ) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            return done(Err(UnlinkError::Closed));
        }
        queue.jobs.push_back(Job::Unlink(Unlink {
            keys,
            epoch_max,
            done,
        }));
        self.wake.notify_one();
    }

    pub(super) fn failed(&self) -> Option<Arc<StoreFailed>> {
        self.failed.borrow().clone()
    }

    pub(super) fn watch_failed(&self) -> watch::Receiver<Option<Arc<StoreFailed>>> {
        self.failed.subscribe()
    }

    /// Takes no more jobs; what waits is still done.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_all();
    }

    /// The writing thread's life: until closed and drained.
    pub(super) fn run(&self) {
        loop {
            while self.turn() {}
            let mut queue = self.queue.lock();
            if queue.jobs.is_empty() {
                if queue.closed {
                    return;
                }
                self.wake.wait(&mut queue);
            }
        }
    }

    /// One batch with its sync and answers. Says whether there was any.
    pub(super) fn turn(&self) -> bool {
        let mut writer = self.writer.lock();
        match self.take() {
            Batch::Puts(puts) => self.put(&mut writer, puts),
            Batch::Unlinks(unlinks) => self.unlink(&mut writer, unlinks),
            Batch::Nothing if writer.superseded.is_empty() || self.failed().is_some() => {
                return false;
            }
            Batch::Nothing => self.unlink(&mut writer, Vec::new()),
        }
        true
    }

    /// Jobs from the front of the queue, of one kind: a put and the unlinking of the same block keep their order.
    fn take(&self) -> Batch {
        let mut queue = self.queue.lock();
        let (mut puts, mut unlinks) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        loop {
            match queue.jobs.front() {
                Some(Job::Put(put))
                    if unlinks.is_empty() && bytes < self.options.batch_bytes_max =>
                {
                    bytes += extent(put.block.head.bytes);
                }
                Some(Job::Unlink(_)) if puts.is_empty() => {}
                _ => break,
            }
            match queue.jobs.pop_front() {
                Some(Job::Put(put)) => puts.push(put),
                Some(Job::Unlink(unlink)) => unlinks.push(unlink),
                None => break,
            }
        }
        match (puts.is_empty(), unlinks.is_empty()) {
            (false, _) => Batch::Puts(puts),
            (true, false) => Batch::Unlinks(unlinks),
            (true, true) => Batch::Nothing,
        }
    }

    fn put(&self, writer: &mut Writer, puts: Vec<Put>) {
        let mut written: Vec<Written> = Vec::new();
        let mut held = Vec::new();
        let mut staged: HashMap<BlockKey, (BlockDigest, UploadEpoch)> = HashMap::new();
        let mut waiting = puts.into_iter();
        let mut failed = self.failed();
        while failed.is_none()
            && let Some(put) = waiting.next()
        {
            let head = put.block.head;
            match self.judge(&put, staged.get(&head.key)) {
                Judgement::Conflict => (put.done)(Err(PutError::Conflict)),
                Judgement::Held => held.push(put.done),
                Judgement::Write => match self.append(writer, &put.block) {
                    Ok(at) => {
                        staged.insert(head.key, (head.digest, head.owner.upload_epoch));
                        written.push(Written { put, at });
                    }
                    Err(AppendError::Full { available }) => {
                        let reserve = self.options.space_reserve_bytes;
                        (put.done)(Err(PutError::Full { available, reserve }));
                    }
                    Err(AppendError::Failed(error)) => {
                        (put.done)(Err(PutError::Failed(Arc::clone(&error))));
                        failed = Some(error);
                    }
                },
            }
        }
        if failed.is_none() && !written.is_empty() {
            failed = self.sync_active(writer).err();
        }
        if let Some(error) = failed {
            let dones = written.into_iter().map(|w| w.put.done).chain(held);
            for done in dones.chain(waiting.map(|put| put.done)) {
                done(Err(PutError::Failed(Arc::clone(&error))));
            }
            return;
        }
        {
            let mut index = self.index.write();
            for Written { put, at } in &written {
                let head = &put.block.head;
                if let Some(old) = index.insert(head, *at, false) {
                    writer.superseded.push(Superseded {
                        key: head.key,
                        at: old.at,
                    });
                }
            }
        }
        for Written { put, .. } in written {
            self.counts.written_blocks.fetch_add(1, Ordering::Relaxed);
            let bytes = u64::from(put.block.head.bytes);
            self.counts
                .written_bytes
                .fetch_add(bytes, Ordering::Relaxed);
            // The room is given back before the answer: who waits for both has it.
            drop(put.block);
            (put.done)(Ok(Stored::Written));
        }
        held.into_iter().for_each(|done| done(Ok(Stored::Held)));
    }

    fn judge(&self, put: &Put, staged: Option<&(BlockDigest, UploadEpoch)>) -> Judgement {
        let head = &put.block.head;
        let (same, epoch) = match staged {
            Some((digest, epoch)) => (*digest == head.digest, *epoch),
            None => match self.index.read().slot(&head.key) {
                Some(slot) if !slot.damaged => (slot.is(&head.digest), slot.upload_epoch()),
                _ => return Judgement::Write,
            },
        };
        match (same, put.mode) {
            // Under a newer epoch it is written again: garbage collection goes by the epoch on disk, and a receipt
            // for this upload promises the newer one.
            (true, _) if epoch < head.owner.upload_epoch => Judgement::Write,
            (true, _) => Judgement::Held,
            (false, PutMode::Repair) => Judgement::Write,
            (false, PutMode::Upload) => Judgement::Conflict,
        }
    }

    fn append(&self, writer: &mut Writer, block: &NewBlock) -> Result<Location, AppendError> {
        let bytes = extent(block.head.bytes);
        let available = self
            .segments
            .disk()
            .space_available(self.segments.dir())
            .map_err(|source| AppendError::Failed(self.fail("measure the space left", source)))?;
        if available < self.options.space_reserve_bytes.saturating_add(bytes) {
            return Err(AppendError::Full { available });
        }
        let outcome = self.append_record(writer, block);
        outcome.map_err(|(doing, source)| {
            if !is_full(&source) {
                return AppendError::Failed(self.fail(doing, source));
            }
            // The tail stays where it was: the next record is written over this one.
            self.forget_tail(writer);
            AppendError::Full { available }
        })
    }

    /// Takes back the header of a record that did not fit, so that a start does not find it; the next sync of the
    /// segment, before anything else is acknowledged, makes that durable. The sector is there, so this needs no
    /// space; where it fails all the same, a start finds the record and says that it is damaged.
    fn forget_tail(&self, writer: &mut Writer) {
        writer.tail_forgotten = true;
        let Some(Active { file, tail, .. }) = &writer.active else {
            return;
        };
        if file
            .bytes()
            .is_ok_and(|bytes| bytes >= tail + SECTOR_BYTES as u64)
            && let Err(error) = file.write_at(&[0; SECTOR_BYTES], *tail)
        {
            tracing::warn!(%error, "a block that did not fit could not be taken back");
        }
    }

    fn append_record(
        &self,
        writer: &mut Writer,
        block: &NewBlock,
    ) -> Result<Location, (&'static str, io::Error)> {
        let bytes = extent(block.head.bytes);
        if writer
            .active
            .as_ref()
            .is_some_and(|a| a.tail + bytes > self.options.segment_bytes)
        {
            self.close_active(writer)
                .map_err(|source| ("sync a full segment", source))?;
        }
        if writer.active.is_none() {
            let active = self
                .create(writer)
                .map_err(|source| ("make a segment", source))?;
            writer.active = Some(active);
        }
        let active = writer.active.as_mut().expect("made above");
        let at = Location::new(active.header.id, active.tail, block.head.bytes)
            .expect("the tail is aligned and below the segment size");
        let place = Place {
            segment: active.header,
            offset: active.tail,
        };
        let (header, table) = RecordHeader::of_block(block.head, &block.sums);
        let mut offset = active.tail;
        let write = |data: &[u8], offset: &mut u64| {
            active
                .file
                .write_at(data, *offset)
                .map_err(|source| ("write a block", source))?;
            *offset += data.len() as u64;
            Ok(())
        };
        write(&header.encode(place, &table), &mut offset)?;
        for frame in &block.frames {
            write(frame, &mut offset)?;
        }
        active.tail += bytes;
        self.segments
            .change(active.header.id, |segment| segment.live += 1);
        Ok(at)
    }

    /// A new segment, durable by name and header before it takes a record.
    fn create(&self, writer: &mut Writer) -> io::Result<Active> {
        let header = SegmentHeader {
            id: writer.next,
            salt: (self.options.salt)(),
        };
        let (disk, path) = (self.segments.disk(), self.segments.path(header.id));
        let file = match disk.create(&path) {
            // Left by an attempt that found the disk full; it holds no record.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(&path)?,
            other => other?,
        };
        file.write_at(&header.encode(), 0)?;
        self.sync(file.as_ref())?;
        disk.sync_dir(self.segments.dir())?;
        writer.next = SegmentId(header.id.0 + 1);
        self.segments.add(Segment {
            header,
            live: 0,
            gaps: 0,
            closed: false,
        });
        self.segments.keep(header.id, &file);
        Ok(Active {
            header,
            file,
            tail: RECORDS_AT,
        })
    }

    fn close_active(&self, writer: &mut Writer) -> io::Result<()> {
        let Some(active) = writer.active.take() else {
            return Ok(());
        };
        self.sync(active.file.as_ref())?;
        self.segments
            .change(active.header.id, |segment| segment.closed = true);
        Ok(())
    }

    fn sync_active(&self, writer: &mut Writer) -> Result<(), Arc<StoreFailed>> {
        let Some(active) = &writer.active else {
            return Ok(());
        };
        self.sync(active.file.as_ref())
            .map_err(|source| self.fail("sync blocks", source))?;
        writer.tail_forgotten = false;
        Ok(())
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync_data()
    }

    fn unlink(&self, writer: &mut Writer, unlinks: Vec<Unlink>) {
        match self.unlink_durably(writer, &unlinks) {
            Ok(counts) => {
                for (unlink, count) in unlinks.into_iter().zip(counts) {
                    self.counts
                        .unlinked_blocks
                        .fetch_add(count, Ordering::Relaxed);
                    (unlink.done)(Ok(count));
                }
            }
            Err(error) => {
                for unlink in unlinks {
                    (unlink.done)(Err(UnlinkError::Failed(Arc::clone(&error))));
                }
                return;
            }
        }
        if let Err(source) = self.segments.remove_empty() {
            // The files hold only tombstones; the next batch tries again.
            tracing::warn!(error = %source, "removing an empty segment failed");
        }
    }

    /// Tombstones for all that is asked for and for every record that was superseded: an older record of a block
    /// must not outlive the block's own.
    fn unlink_durably(
        &self,
        writer: &mut Writer,
        unlinks: &[Unlink],
    ) -> Result<Vec<u64>, Arc<StoreFailed>> {
        if let Some(error) = self.failed() {
            return Err(error);
        }
        let mut gone: HashMap<BlockKey, Location> = HashMap::new();
        let mut counts = Vec::with_capacity(unlinks.len());
        {
            let index = self.index.read();
            for unlink in unlinks {
                let before = gone.len();
                for key in &unlink.keys {
                    if let Some(slot) = index.slot(key)
                        && slot.upload_epoch() <= unlink.epoch_max
                    {
                        gone.insert(*key, slot.at);
                    }
                }
                counts.push((gone.len() - before) as u64);
            }
        }
        let mut records: Vec<Superseded> = writer.superseded.clone();
        records.extend(
            gone.iter()
                .map(|(key, at)| Superseded { key: *key, at: *at }),
        );
        let fail = |source| self.fail("write a tombstone", source);
        if writer.tail_forgotten {
            // The torn record may be of a block whose unlinking is asked for.
            self.sync_active(writer)?;
        }
        let mut touched = BTreeSet::new();
        for record in &records {
            if self.write_tombstone(record).map_err(fail)? {
                touched.insert(record.at.segment);
            }
        }
        for id in &touched {
            let file = self.segments.file(*id).map_err(fail)?;
            self.sync(file.as_ref()).map_err(fail)?;
        }
        writer.superseded.clear();
        {
            let mut index = self.index.write();
            for key in gone.keys() {
                index.remove(key);
            }
        }
        for record in &records {
            self.segments
                .change(record.at.segment, |segment| segment.live -= 1);
            if touched.contains(&record.at.segment) {
                self.punch(record);
            }
        }
        Ok(counts)
    }

    /// Says whether there was a file to write to: what was in one that is gone does not come back.
    fn write_tombstone(&self, record: &Superseded) -> io::Result<bool> {
        let Some(place) = self.segments.place(record.at.segment, record.at.offset()) else {
            return Ok(false);
        };
        let header = RecordHeader::tombstone(record.key, record.at.bytes);
        let file = match self.segments.file(record.at.segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        file.write_at(&header.encode_sector(place), record.at.offset())?;
        Ok(true)
    }

    /// Gives the space back. Not needed for correctness, so a file system that cannot is no error.
    fn punch(&self, record: &Superseded) {
        let (at, header_bytes) = (record.at.offset(), SECTOR_BYTES as u64);
        let punched = self
            .segments
            .file(record.at.segment)
            .and_then(|file| file.punch(at + header_bytes, record.at.extent() - header_bytes));
        if let Err(error) = punched
            && self.counts.punch_failures.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(%error, "unlinked blocks keep their space until their segment is empty");
        }
    }

    fn fail(&self, doing: &'static str, source: io::Error) -> Arc<StoreFailed> {
        tracing::error!(doing, error = %source, "the block store failed; the process must exit");
        note_sync_failed(self.segments.disk(), self.segments.dir());
        let error = Arc::new(StoreFailed { doing, source });
        self.failed.send_replace(Some(Arc::clone(&error)));
        error
    }

    /// Closes the segment being written, so that it may be removed once empty and is not verified at the next start.
    pub(super) fn roll(&self) -> Result<(), Arc<StoreFailed>> {
        let mut writer = self.writer.lock();
        if let Some(error) = self.failed() {
            return Err(error);
        }
        self.close_active(&mut writer)
            .map_err(|source| self.fail("sync a segment", source))
    }

    /// Writes a segment's header once more. Says `false` where there is no room for it.
    pub(super) fn write_header_again(
        &self,
        header: SegmentHeader,
    ) -> Result<bool, Arc<StoreFailed>> {
        // A failed sync here may be one of blocks: nobody writes meanwhile.
        let _writer = self.writer.lock();
        if let Some(error) = self.failed() {
            return Err(error);
        }
        let file = match self.segments.file(header.id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file,
        };
        let written = file.and_then(|file| {
            file.write_at(&header.encode(), 0)?;
            self.sync(file.as_ref())
        });
        match written {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(self.fail("write a segment's header again", error)),
        }
    }

    /// Lets go of a segment whose file is lost: nothing more is written there, and its blocks count as damaged.
    /// Answers how many; `None` where it was removed as it should be.
    pub(super) fn give_up_segment(&self, id: SegmentId) -> Result<Option<u64>, Arc<StoreFailed>> {
        let mut writer = self.writer.lock();
        if let Some(error) = self.failed() {
            return Err(error);
        }
        if writer.active.as_ref().is_some_and(|a| a.header.id == id) {
            self.close_active(&mut writer)
                .map_err(|source| self.fail("sync a lost segment", source))?;
        }
        if !self.segments.forget(id) {
            return Ok(None);
        }
        // After it was forgotten: whoever reads by a slot of it until here is told that the block is damaged.
        Ok(Some(self.index.write().mark_segment_damaged(id)))
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.lock().jobs.len()
    }
}

enum Judgement {
    Write,
    Held,
    Conflict,
}

impl RecordHeader {
    /// What takes the place of a block's header: its extent, and nothing of its content.
    fn tombstone(key: BlockKey, bytes: u32) -> Self {
        use proto::ids::{DatasetId, GroupId, UnixMs};

        use super::block::{BlockHead, BlockOwner};
        let owner = BlockOwner {
            shard: GroupId(0),
            dataset: DatasetId([0; 16]),
            upload_epoch: UploadEpoch(0),
            begun_at: UnixMs(0),
        };
        let head = BlockHead {
            key,
            owner,
            digest: BlockDigest([0; 32]),
            bytes,
        };
        Self {
            kind: RecordKind::Tombstone,
            head,
            table_crc: 0,
        }
    }
}
