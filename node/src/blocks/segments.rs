//! The segment files of the store: their names, open handles, and how much of each is still needed.
//!
//! Owns the count of records that are not unlinked. Refuses to remove a file that holds one, or that has a stretch
//! nobody could read: what stood there may yet be asked for.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use replica::disk::{Disk, DiskFile};

use super::header::{Place, SegmentHeader, SegmentId};

/// Handles kept open for reading.
pub const OPEN_FILES_MAX: usize = 256;

/// What is known of one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    /// Records that are not unlinked.
    pub(super) live: u64,
    /// Stretches between records where no header could be read.
    pub(super) gaps: u64,
    /// Nothing is appended any more, and everything in it is durable.
    pub(super) closed: bool,
}

impl Segment {
    fn removable(&self) -> bool {
        self.closed && self.live == 0 && self.gaps == 0
    }
}

/// All segments and their files.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    table: Mutex<BTreeMap<SegmentId, Segment>>,
    files: Mutex<HashMap<SegmentId, Arc<dyn DiskFile>>>,
}

impl Segments {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            table: Mutex::default(),
            files: Mutex::default(),
        }
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, id: SegmentId) -> PathBuf {
        self.dir.join(format!("{PREFIX}{:08x}{SUFFIX}", id.0))
    }

    /// The segment a file name stands for.
    pub(super) fn parse(name: &OsStr) -> Option<SegmentId> {
        let digits = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        (digits.len() == 8)
            .then(|| u32::from_str_radix(digits, 16).ok().map(SegmentId))
            .flatten()
    }

    /// The file, from the handles kept open or opened now.
    pub(super) fn file(&self, id: SegmentId) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.files.lock().get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&self.path(id))?;
        self.keep(id, &file);
        Ok(file)
    }

    pub(super) fn keep(&self, id: SegmentId, file: &Arc<dyn DiskFile>) {
        let mut files = self.files.lock();
        if files.len() >= OPEN_FILES_MAX
            && let Some(any) = files.keys().next().copied()
        {
            files.remove(&any);
        }
        files.insert(id, Arc::clone(file));
    }

    pub(super) fn add(&self, segment: Segment) {
        self.table.lock().insert(segment.header.id, segment);
    }

    pub(super) fn change(&self, id: SegmentId, change: impl FnOnce(&mut Segment)) {
        if let Some(segment) = self.table.lock().get_mut(&id) {
            change(segment);
        }
    }

    /// Where an offset of a segment is; `None` when the segment is gone.
    pub(super) fn place(&self, id: SegmentId, offset: u64) -> Option<Place> {
        let table = self.table.lock();
        table.get(&id).map(|segment| Place {
            segment: segment.header,
            offset,
        })
    }

    /// The header of every segment, in order.
    pub(super) fn headers(&self) -> Vec<SegmentHeader> {
        let table = self.table.lock();
        table.values().map(|segment| segment.header).collect()
    }

    /// Lets go of a segment whose file is lost. Says whether it was there.
    pub(super) fn forget(&self, id: SegmentId) -> bool {
        let held = self.table.lock().remove(&id).is_some();
        self.files.lock().remove(&id);
        held
    }

    pub(super) fn last(&self) -> Option<SegmentId> {
        self.table.lock().keys().next_back().copied()
    }

    /// Removes the files of segments of which nothing is needed. The last one stays, so that numbers only go up.
    pub(super) fn remove_empty(&self) -> io::Result<u64> {
        let mut empty: Vec<_> = {
            let table = self.table.lock();
            table
                .values()
                .filter(|s| s.removable())
                .map(|s| s.header.id)
                .collect()
        };
        if empty.last() == self.last().as_ref() {
            empty.pop();
        }
        for id in &empty {
            self.table.lock().remove(id);
            self.files.lock().remove(id);
            self.disk.remove(&self.path(*id))?;
        }
        if !empty.is_empty() {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(empty.len() as u64)
    }

    /// Segments, and stretches that could not be read.
    pub(super) fn counts(&self) -> (u64, u64) {
        let table = self.table.lock();
        (
            table.len() as u64,
            table.values().map(|segment| segment.gaps).sum(),
        )
    }
}

const PREFIX: &str = "segment-";
const SUFFIX: &str = ".blocks";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_one_to_one() {
        let disk: Arc<dyn Disk> = Arc::new(replica::disk::RealDisk);
        let segments = Segments::new(disk, Path::new("x"));
        for id in [0, 1, 0xabc, u32::MAX].map(SegmentId) {
            let path = segments.path(id);
            assert_eq!(Segments::parse(path.file_name().expect("a name")), Some(id));
        }
        for other in [
            "segment-1.blocks",
            "segment-0000000g.blocks",
            "LOCK",
            "segment-00000001",
        ] {
            assert_eq!(Segments::parse(OsStr::new(other)), None, "{other}");
        }
    }
}
