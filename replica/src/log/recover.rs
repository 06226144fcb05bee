//! Opening: reads every segment, rebuilds what was accepted, cuts a torn tail, refuses damage.
//!
//! Owns the line between the two. Each record tells how far its segment was known synced when it was written. A bad
//! record is a torn tail when no record after it tells that this place was synced: a power cut keeps any part of
//! what was not synced, so valid records may well lie behind a hole. Otherwise it is damage, and the log stays shut.
//! A segment that has a successor is whole up to the end the successor's header tells, or damaged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use proto::ids::{GroupId, LogIndex};
use tokio::sync::watch;

use super::core::{Group, Location, Point, Segment, Shared, State, Supply, segment_path};
use super::header::{
    GROUPS_MAX, GroupMeta, HEADER_REGION_BYTES, HeaderError, Purged, SegmentHeader,
};
use super::record::{Kind, Place, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, record_bytes};
use super::spares::{SPARE_PREFIX, SPARE_SUFFIX, Spare, UNREADY_PREFIX};
use super::writer::Writer;
use super::{LogError, LogOptions, LogStats};
use crate::disk::{Disk, DiskFile};

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 1 << 20;
/// Segments a folder may be configured to have: 4 KiB of alignment, and offsets fit 32 bits.
const SEGMENT_ALIGN: u64 = 4096;
const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// Opens the log in `dir`; everything it holds afterwards is durable.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
) -> Result<Shared, LogError> {
    check_options(&options)?;
    let device = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| LogError::Device {
            doing,
            path,
            source,
        }
    };
    disk.create_dir_all(dir).map_err(device("create", dir))?;
    let lock = disk.lock_dir(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => LogError::InUse {
            path: dir.to_owned(),
        },
        _ => LogError::Device {
            doing: "lock",
            path: dir.to_owned(),
            source,
        },
    })?;
    // Names a crash left in the cache only must not carry acknowledged data.
    disk.sync_dir(dir).map_err(device("sync", dir))?;
    let found = survey(&*disk, dir, options.segment_bytes)?;
    let shared = Shared {
        disk,
        dir: dir.to_owned(),
        state: Mutex::new(State {
            groups: BTreeMap::new(),
            segments: BTreeMap::new(),
            next: Point {
                segment: 0,
                offset: 0,
            },
            queue: VecDeque::new(),
            queue_bytes: 0,
            waiting: 0,
            written: Point {
                segment: 0,
                offset: 0,
            },
            cached_bytes: 0,
            spares: found.spares,
            spare_next: found.spare_next,
            supply: Supply::Open,
            retired: VecDeque::new(),
            moving: 0,
            fatal: None,
            closing: false,
            closed: false,
        }),
        // Stands for no segment until the last one is known.
        writer: Mutex::new(Writer {
            file: Arc::new(NoFile),
            number: 0,
            salt: 0,
            offset: 0,
            synced: 0,
            told: 0,
            buffer: Vec::new(),
        }),
        work: Condvar::new(),
        room: Condvar::new(),
        upkeep: Condvar::new(),
        fatal_tx: watch::Sender::new(None),
        stats: Mutex::new(LogStats::default()),
        lock: Mutex::new(Some(lock)),
        options,
    };
    if found.numbers.is_empty() {
        shared.found()?
    } else {
        shared.replay(&found.numbers)?
    }
    Ok(shared)
}

/// What lies in the folder.
struct Survey {
    numbers: Vec<u32>,
    spares: Vec<Spare>,
    spare_next: u32,
}

fn survey(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> Result<Survey, LogError> {
    let device = |doing: &'static str, path: PathBuf| {
        move |source| LogError::Device {
            doing,
            path,
            source,
        }
    };
    let mut found = Survey {
        numbers: Vec::new(),
        spares: Vec::new(),
        spare_next: 0,
    };
    for name in disk.list(dir).map_err(device("list", dir.to_owned()))? {
        let Some(name) = name.to_str() else { continue };
        let path = dir.join(name);
        let hex = |text: &str| {
            u32::from_str_radix(text, 16)
                .ok()
                .filter(|_| text.len() == 8)
        };
        let spare = name
            .strip_prefix(SPARE_PREFIX)
            .and_then(|n| n.strip_suffix(SPARE_SUFFIX));
        if let Some(number) = name.strip_suffix(".log").and_then(hex) {
            found.numbers.push(number);
        } else if let Some(number) = spare.and_then(hex) {
            found.spare_next = found.spare_next.max(number + 1);
            let file = disk.open(&path).map_err(device("open", path.clone()))?;
            if file.bytes().map_err(device("open", path.clone()))? == segment_bytes {
                found.spares.push(Spare { file, path });
            } else {
                disk.remove(&path).map_err(device("remove", path))?;
            }
        } else if name.starts_with(UNREADY_PREFIX) {
            disk.remove(&path).map_err(device("remove", path))?;
        }
    }
    found.numbers.sort_unstable();
    for pair in found.numbers.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(LogError::Missing {
                path: segment_path(dir, pair[0] + 1),
            });
        }
    }
    Ok(found)
}

fn check_options(options: &LogOptions) -> Result<(), LogError> {
    let bytes = options.segment_bytes;
    let region = u64::from(HEADER_REGION_BYTES);
    let bad = |option| Err(LogError::Options { option });
    if !bytes.is_multiple_of(SEGMENT_ALIGN) || bytes < 2 * region || bytes > SEGMENT_BYTES_MAX {
        return bad("segment_bytes");
    }
    let payload = u32::try_from(options.payload_bytes_max).unwrap_or(u32::MAX / 2);
    if u64::from(record_bytes(payload)) > (bytes - region) / 4 {
        return bad("payload_bytes_max");
    }
    if options.batch_bytes_max == 0 || options.queue_bytes_max == 0 {
        return bad("batch_bytes_max");
    }
    Ok(())
}

impl Shared {
    /// Makes the first segment of an empty folder.
    fn found(&self) -> Result<(), LogError> {
        let spare = self.state.lock().spares.pop();
        let spare = match spare {
            Some(spare) => spare,
            None => self.make_spare()?.ok_or(LogError::NoSpace)?,
        };
        let salt = (self.options.salt)();
        let header = SegmentHeader {
            number: FIRST_SEGMENT,
            salt,
            segment_bytes: self.options.segment_bytes,
            previous_end: 0,
            groups: BTreeMap::new(),
        };
        let path = self.path(FIRST_SEGMENT);
        let started = spare
            .file
            .write_at(&header.encode(), 0)
            .and_then(|()| spare.file.sync_data())
            .and_then(|()| self.disk.rename(&spare.path, &path))
            .and_then(|()| self.disk.sync_dir(&self.dir));
        started.map_err(|source| self.device("start", FIRST_SEGMENT, source))?;
        let offset = HEADER_REGION_BYTES;
        let segment = Segment {
            file: spare.file.clone(),
            salt,
            live: 0,
        };
        self.take_over(
            BTreeMap::from([(FIRST_SEGMENT, segment)]),
            BTreeMap::new(),
            Tail {
                offset,
                told: offset,
            },
        );
        Ok(())
    }

    fn replay(&self, numbers: &[u32]) -> Result<(), LogError> {
        let mut segments = BTreeMap::new();
        let mut groups: BTreeMap<GroupId, Replayed> = BTreeMap::new();
        let mut files = Vec::new();
        for number in numbers {
            files.push(self.open_segment(*number)?);
        }
        let mut tail = Tail {
            offset: HEADER_REGION_BYTES,
            told: HEADER_REGION_BYTES,
        };
        for (position, (header, file)) in files.iter().enumerate() {
            let reader = SegmentReader {
                path: self.path(header.number),
                file: &**file,
                salt: header.salt,
                bytes: self.options.segment_bytes,
            };
            if position == 0 {
                groups = header
                    .groups
                    .iter()
                    .map(|(id, meta)| (*id, Replayed::at(meta)))
                    .collect();
            } else if !agrees(&groups, &header.groups) {
                return Err(reader.damaged(0, "the header disagrees with the records before it"));
            }
            let end = files.get(position + 1).map(|(next, _)| next.previous_end);
            tail = reader.replay(header.number, end, &mut groups)?;
            if end.is_none() {
                self.secure_tail(&reader, &tail)?;
            }
            let segment = Segment {
                file: file.clone(),
                salt: header.salt,
                live: 0,
            };
            segments.insert(header.number, segment);
        }
        if groups.len() > GROUPS_MAX {
            return Err(LogError::TooManyGroups {
                groups_max: GROUPS_MAX,
            });
        }
        let mut accepted = BTreeMap::new();
        for (id, replayed) in groups {
            accepted.insert(id, replayed.finish(id, &mut segments)?);
        }
        self.take_over(segments, accepted, tail);
        Ok(())
    }

    fn open_segment(&self, number: u32) -> Result<(SegmentHeader, Arc<dyn DiskFile>), LogError> {
        let path = self.path(number);
        let failed = |source| self.device("open", number, source);
        let damaged = |what| LogError::Damaged {
            path: path.clone(),
            offset: 0,
            what,
        };
        let file = self.disk.open(&path).map_err(failed)?;
        let bytes = file.bytes().map_err(failed)?;
        if bytes < u64::from(HEADER_REGION_BYTES) {
            return Err(damaged("the file is cut short"));
        }
        let mut region = vec![0; HEADER_REGION_BYTES as usize];
        file.read_at(&mut region, 0)
            .map_err(|source| self.device("read", number, source))?;
        let header = SegmentHeader::parse(&region).map_err(|error| match error {
            HeaderError::Damaged(what) => damaged(what),
            HeaderError::Version(version) => LogError::Version {
                path: path.clone(),
                version,
            },
        })?;
        if header.number != number {
            return Err(damaged("the header names another segment"));
        }
        let configured = self.options.segment_bytes;
        if header.segment_bytes != configured {
            return Err(LogError::SegmentBytes {
                found: header.segment_bytes,
                configured,
            });
        }
        if bytes < configured {
            return Err(damaged("the file is cut short"));
        }
        Ok((header, file))
    }

    /// Makes what was read from the last segment durable and what lies behind it unreadable.
    ///
    /// After a crash of the process alone, what was written and not synced is still readable; acting on it and then
    /// losing it to a power cut would be a vote taken back. After a failed sync the system may even call those pages
    /// clean. So everything not told to be synced is written again and synced.
    fn secure_tail(&self, reader: &SegmentReader<'_>, tail: &Tail) -> Result<(), LogError> {
        let failed = |source| LogError::Device {
            doing: "repair",
            path: reader.path.clone(),
            source,
        };
        let stale_end = reader.stale_end(tail.offset)?;
        let mut offset = u64::from(tail.told);
        let end = u64::from(tail.offset);
        while offset < end {
            let mut buffer = vec![0; (end - offset).min(WINDOW_BYTES) as usize];
            reader.file.read_at(&mut buffer, offset).map_err(failed)?;
            reader.file.write_at(&buffer, offset).map_err(failed)?;
            offset += buffer.len() as u64;
        }
        // Valid records behind the cut would follow the next ones as if they had been acknowledged.
        let mut offset = end;
        while offset < stale_end {
            let zeros = vec![0; (stale_end - offset).min(WINDOW_BYTES) as usize];
            reader.file.write_at(&zeros, offset).map_err(failed)?;
            offset += zeros.len() as u64;
        }
        reader.file.sync_data().map_err(failed)
    }

    fn take_over(
        &self,
        segments: BTreeMap<u32, Segment>,
        groups: BTreeMap<GroupId, Group>,
        tail: Tail,
    ) {
        let (number, last) = segments.last_key_value().expect("a log has a segment");
        let (number, offset) = (*number, tail.offset);
        *self.writer.lock() = Writer {
            file: last.file.clone(),
            number,
            salt: last.salt,
            offset,
            synced: offset,
            told: tail.told,
            buffer: Vec::new(),
        };
        let mut state = self.state.lock();
        state.segments = segments;
        state.groups = groups;
        state.next = Point {
            segment: number,
            offset,
        };
        state.written = state.next;
        state.retire(number);
    }
}

const FIRST_SEGMENT: u32 = 1;

/// Where the last segment's records end, and how far they tell it was synced.
struct Tail {
    offset: u32,
    told: u32,
}

/// One group while its records are read.
struct Replayed {
    meta: GroupMeta,
    entries: BTreeMap<u64, Location>,
}

impl Replayed {
    fn at(meta: &GroupMeta) -> Self {
        Self {
            meta: meta.clone(),
            entries: BTreeMap::new(),
        }
    }

    fn apply(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        at: Point,
    ) -> Result<(), &'static str> {
        let position = (header.term, header.index);
        let location = Location {
            at,
            payload_bytes: header.payload_bytes,
            term: header.term,
        };
        let last = self.meta.last.map(|(_, index)| index.0);
        let purged = self.meta.purged.as_ref().map(|purged| purged.index.0);
        match header.kind {
            Kind::Entry => {
                if last.is_some_and(|last| last + 1 != header.index.0) {
                    return Err("an entry does not follow the one before it");
                }
                self.entries.insert(header.index.0, location);
                self.meta.last = Some(position);
            }
            Kind::Moved => {
                let live = last.is_some_and(|last| header.index.0 <= last)
                    && purged.is_none_or(|purged| header.index.0 > purged);
                if !live {
                    return Err("a moved entry is not one the group holds");
                }
                self.entries.insert(header.index.0, location);
            }
            Kind::Vote => self.meta.vote = Some(Bytes::copy_from_slice(payload)),
            Kind::Committed => self.meta.committed = Some(Bytes::copy_from_slice(payload)),
            Kind::TruncateAfter => {
                if last.is_none_or(|last| header.index.0 > last) {
                    return Err("a truncation is beyond the last entry");
                }
                self.entries.split_off(&(header.index.0 + 1));
                self.meta.last = Some(position);
            }
            Kind::TruncateAll => {
                self.entries.clear();
                self.meta.last = None;
            }
            Kind::Purge => {
                self.entries = self.entries.split_off(&(header.index.0 + 1));
                if last.is_none_or(|last| last <= header.index.0) {
                    self.meta.last = Some(position);
                }
                let log_id = Bytes::copy_from_slice(payload);
                let (term, index) = position;
                self.meta.purged = Some(Purged {
                    term,
                    index,
                    log_id,
                });
            }
            Kind::Mark => {}
        }
        Ok(())
    }

    /// Checks that every entry that should be held is, and counts it in its segment.
    fn finish(self, id: GroupId, segments: &mut BTreeMap<u32, Segment>) -> Result<Group, LogError> {
        let Self { meta, entries } = self;
        let purged = meta.purged.as_ref().map(|purged| purged.index);
        let last = meta
            .last
            .map(|(_, index)| index)
            .filter(|last| Some(*last) != purged);
        let hole = |index| LogError::Hole {
            group: id,
            index: LogIndex(index),
        };
        let first = match (purged, entries.keys().next()) {
            (Some(purged), _) => purged.0 + 1,
            (None, Some(first)) => *first,
            (None, None) => last.map_or(0, |last| last.0),
        };
        let mut group = Group {
            meta,
            first,
            ..Group::default()
        };
        let end = last.map_or(first, |last| last.0 + 1);
        for index in first..end {
            let location = *entries.get(&index).ok_or_else(|| hole(index))?;
            let segment = segments
                .get_mut(&location.at.segment)
                .ok_or_else(|| hole(index))?;
            segment.live += 1;
            group.bytes += u64::from(record_bytes(location.payload_bytes));
            group.entries.push_back(location);
        }
        Ok(group)
    }
}

fn agrees(groups: &BTreeMap<GroupId, Replayed>, header: &BTreeMap<GroupId, GroupMeta>) -> bool {
    let empty = GroupMeta::default();
    let told = |id| header.get(id).unwrap_or(&empty);
    groups.iter().all(|(id, group)| &group.meta == told(id))
        && header
            .iter()
            .all(|(id, meta)| groups.contains_key(id) || *meta == empty)
}

struct SegmentReader<'a> {
    path: PathBuf,
    file: &'a dyn DiskFile,
    salt: u64,
    bytes: u64,
}

impl SegmentReader<'_> {
    /// Applies the segment's records up to `end`, which another segment vouches for; without one, up to the tail.
    fn replay(
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
    fn stale_end(&self, offset: u32) -> Result<u64, LogError> {
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

    fn damaged(&self, offset: u32, what: &'static str) -> LogError {
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

/// The file of no segment: every use is an error.
struct NoFile;

impl DiskFile for NoFile {
    fn bytes(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
