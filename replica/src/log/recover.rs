//! Opening: reads every segment, rebuilds what was accepted, cuts a torn tail, refuses damage.
//!
//! Owns that everything readable afterwards is durable, and that nothing behind the cut can ever be read again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use proto::ids::GroupId;
use tokio::sync::watch;

use super::accepted::{Group, Point, Segment, State, Supply};
use super::core::{Shared, segment_path};
use super::header::{GROUPS_MAX, HEADER_REGION_BYTES, HeaderError, SegmentHeader};
use super::record::record_bytes;
use super::replayed::{Replayed, agrees};
use super::segment::{SegmentReader, Tail, WINDOW_BYTES};
use super::spares::{SPARE_PREFIX, SPARE_SUFFIX, Spare, UNREADY_PREFIX};
use super::writer::Writer;
use super::{LogError, LogOptions, LogStats};
use crate::disk::{Disk, DiskFile};

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
            spares_wanted: 0,
            supply: Supply::Open,
            retired: VecDeque::new(),
            retiring: 0,
            clear_below: 0,
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

    pub(super) fn open_segment(
        &self,
        number: u32,
    ) -> Result<(SegmentHeader, Arc<dyn DiskFile>), LogError> {
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
