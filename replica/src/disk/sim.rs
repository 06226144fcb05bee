//! A disk in memory that forgets what was not synced, tears what it was writing, and lies when told to.
//!
//! Owns its faults: every one is drawn from the seed or asked for by name, and counted. Refuses clocks. Folders are
//! durable at once; names in them are not before `sync_dir`. At a power cut each 512-byte sector written since the
//! last sync is kept, lost or torn, and each name changed since the last `sync_dir` is kept or lost, independently.
//! After a failed sync the dirty sectors stay readable until the power cut, are never written, and later syncs
//! succeed without them: what Linux does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{DirLock, Disk, DiskFile};

/// Bytes the device writes or loses as one.
pub const SECTOR_BYTES: usize = 512;

/// Faults injected so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimFaults {
    /// Power cuts.
    pub power_cuts: u64,
    /// Unsynced sectors that survived a cut.
    pub sectors_kept: u64,
    /// Unsynced sectors that were lost in a cut.
    pub sectors_lost: u64,
    /// Unsynced sectors that survived in part.
    pub sectors_torn: u64,
    /// Unsynced names lost in a cut.
    pub names_lost: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Writes refused for want of space.
    pub writes_full: u64,
    /// Writes and reads that failed otherwise.
    pub io_failed: u64,
    /// Bits flipped.
    pub bits_flipped: u64,
}

/// The device. Cloning gives another handle on the same one; it outlives every boot.
#[derive(Clone)]
pub struct SimDisk {
    device: Arc<Mutex<Device>>,
}

struct Device {
    rng: StdRng,
    /// Counts power cuts: handles of an earlier boot are dead.
    boot: u64,
    files: BTreeMap<u64, SimContent>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    names_durable: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync of their folder, in order.
    renames: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    capacity_bytes: u64,
    /// Operations until one fails; `None` for never.
    sync_fails_in: Option<u64>,
    write_fails_in: Option<u64>,
    read_fails_in: Option<u64>,
    syncs: u64,
    faults: SimFaults,
}

#[derive(Clone)]
enum NameChange {
    Add {
        path: PathBuf,
        file: u64,
    },
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        file: u64,
    },
}

#[derive(Default)]
struct SimContent {
    /// What reads see.
    current: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// Sectors of `current` that a sync will write.
    dirty: BTreeSet<usize>,
}

impl SimDisk {
    /// An empty disk without limits whose faults follow `seed`.
    pub fn new(seed: u64) -> Self {
        let device = Device {
            rng: StdRng::seed_from_u64(seed),
            boot: 0,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            renames: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            capacity_bytes: u64::MAX,
            sync_fails_in: None,
            write_fails_in: None,
            read_fails_in: None,
            syncs: 0,
            faults: SimFaults::default(),
        };
        Self {
            device: Arc::new(Mutex::new(device)),
        }
    }

    /// The disk as the process of the present boot sees it. Dead after the next power cut.
    pub fn boot(&self) -> Arc<dyn Disk> {
        let boot = self.device.lock().boot;
        Arc::new(Booted {
            device: self.device.clone(),
            boot,
        })
    }

    /// Cuts the power: handles die, locks are gone, and what was not synced is kept, lost or torn by the seed.
    pub fn power_cut(&self) {
        let mut device = self.device.lock();
        device.faults.power_cuts += 1;
        device.boot += 1;
        device.locks.clear();
        device.cut_names();
        let Device {
            rng, files, faults, ..
        } = &mut *device;
        for content in files.values_mut() {
            content.cut(rng, faults);
        }
        let named: BTreeSet<u64> = device.names.values().copied().collect();
        device.files.retain(|file, _| named.contains(file));
        (
            device.sync_fails_in,
            device.write_fails_in,
            device.read_fails_in,
        ) = (None, None, None);
    }

    /// Kills the process and leaves the machine running: handles die, locks are gone, the page cache stays.
    pub fn kill(&self) {
        let mut device = self.device.lock();
        device.boot += 1;
        device.locks.clear();
        (
            device.sync_fails_in,
            device.write_fails_in,
            device.read_fails_in,
        ) = (None, None, None);
    }

    /// Lets the sync after the next `syncs` fail, once. Of the data it was to keep some sectors get written.
    pub fn fail_sync_in(&self, syncs: u64) {
        self.device.lock().sync_fails_in = Some(syncs);
    }

    /// Lets the write after the next `writes` fail, once, with an I/O error and nothing written.
    pub fn fail_write_in(&self, writes: u64) {
        self.device.lock().write_fails_in = Some(writes);
    }

    /// Lets the read after the next `reads` fail, once.
    pub fn fail_read_in(&self, reads: u64) {
        self.device.lock().read_fails_in = Some(reads);
    }

    /// Limits the bytes files may take together. Writes that need more are refused.
    pub fn set_capacity(&self, bytes: u64) {
        self.device.lock().capacity_bytes = bytes;
    }

    /// Bytes named files take; what was removed takes none, though open handles still read it.
    pub fn used_bytes(&self) -> u64 {
        self.device.lock().used_bytes()
    }

    /// Syncs of files that succeeded.
    pub fn syncs(&self) -> u64 {
        self.device.lock().syncs
    }

    /// Faults so far.
    pub fn faults(&self) -> SimFaults {
        self.device.lock().faults
    }

    /// Flips one bit of what is on the platter and in the cache. `false` when the file has no such bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> bool {
        let mut device = self.device.lock();
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        let Some(file) = device.names.get(path).copied() else {
            return false;
        };
        let Some(content) = device.files.get_mut(&file) else {
            return false;
        };
        if byte >= content.current.len() {
            return false;
        }
        content.current[byte] ^= mask;
        if let Some(byte) = content.durable.get_mut(byte) {
            *byte ^= mask;
        }
        device.faults.bits_flipped += 1;
        true
    }

    /// Cuts a file short, on the platter and in the cache. `false` when there is no such file.
    pub fn cut_file(&self, path: &Path, bytes: usize) -> bool {
        let mut device = self.device.lock();
        let Some(file) = device.names.get(path).copied() else {
            return false;
        };
        let Some(content) = device.files.get_mut(&file) else {
            return false;
        };
        content.current.truncate(bytes);
        content.durable.truncate(bytes);
        content.dirty.retain(|sector| sector * SECTOR_BYTES < bytes);
        true
    }

    /// What reads of a file see now, for tests that look at bytes.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let device = self.device.lock();
        let file = device.names.get(path)?;
        device
            .files
            .get(file)
            .map(|content| content.current.clone())
    }

    /// Paths of all files, ascending.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.device.lock().names.keys().cloned().collect()
    }
}

impl SimContent {
    fn write(&mut self, data: &[u8], offset: usize) {
        let end = offset + data.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(data);
        if !data.is_empty() {
            self.dirty
                .extend(offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    fn sector(&self, sector: usize) -> std::ops::Range<usize> {
        let start = sector * SECTOR_BYTES;
        start.min(self.current.len())..(start + SECTOR_BYTES).min(self.current.len())
    }

    /// Brings the first `bytes` of a sector to the platter.
    fn persist(&mut self, sector: usize, bytes: usize) {
        let range = self.sector(sector);
        let range = range.start..range.start + bytes.min(range.len());
        if self.durable.len() < range.end {
            self.durable.resize(range.end, 0);
        }
        self.durable[range.clone()].copy_from_slice(&self.current[range]);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector, SECTOR_BYTES);
        }
        if self.durable.len() < self.current.len() {
            self.durable.resize(self.current.len(), 0);
        }
    }

    fn cut(&mut self, rng: &mut StdRng, faults: &mut SimFaults) {
        for sector in std::mem::take(&mut self.dirty) {
            match rng.random_range(0..3) {
                0 => {
                    faults.sectors_kept += 1;
                    self.persist(sector, SECTOR_BYTES);
                }
                1 => faults.sectors_lost += 1,
                _ => {
                    faults.sectors_torn += 1;
                    let bytes = rng.random_range(0..SECTOR_BYTES);
                    self.persist(sector, bytes);
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl Device {
    fn used_bytes(&self) -> u64 {
        let bytes = |file| {
            self.files
                .get(file)
                .map_or(0, |content| content.current.len() as u64)
        };
        self.names.values().map(bytes).sum()
    }

    fn cut_names(&mut self) {
        for change in std::mem::take(&mut self.renames) {
            if self.rng.random_bool(0.5) {
                change.apply(&mut self.names_durable);
            } else {
                self.faults.names_lost += 1;
            }
        }
        self.names = self.names_durable.clone();
    }

    fn content(&mut self, file: u64) -> io::Result<&mut SimContent> {
        self.files
            .get_mut(&file)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Add { path, file } => {
                names.insert(path.clone(), *file);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Add { path, .. } | Self::Remove { path } => path.parent() == Some(dir),
            Self::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

/// The disk of one boot.
#[derive(Clone)]
struct Booted {
    device: Arc<Mutex<Device>>,
    boot: u64,
}

struct SimFile {
    disk: Booted,
    file: u64,
}

struct SimLock {
    disk: Booted,
    dir: PathBuf,
}

impl Booted {
    fn device(&self) -> io::Result<parking_lot::MutexGuard<'_, Device>> {
        let device = self.device.lock();
        match device.boot == self.boot {
            true => Ok(device),
            false => Err(io::Error::other(
                "the machine this handle belonged to is off",
            )),
        }
    }

    fn file(&self, file: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            file,
        })
    }
}

impl Disk for Booted {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut device = self.device()?;
        device.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        match self.device()?.locks.insert(dir.to_owned()) {
            true => Ok(DirLock::new(SimLock {
                disk: self.clone(),
                dir: dir.to_owned(),
            })),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut device = self.device()?;
        if device.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| device.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = device.next_file;
        device.next_file += 1;
        device.files.insert(file, SimContent::default());
        device.names.insert(path.to_owned(), file);
        device.renames.push(NameChange::Add {
            path: path.to_owned(),
            file,
        });
        Ok(self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let device = self.device()?;
        let file = *device.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut device = self.device()?;
        let file = device.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        device.names.insert(to.to_owned(), file);
        let (from, to) = (from.to_owned(), to.to_owned());
        device.renames.push(NameChange::Rename { from, to, file });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut device = self.device()?;
        device.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        device.renames.push(NameChange::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let device = self.device()?;
        if !device.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = device
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir));
        Ok(here
            .filter_map(|path| path.file_name().map(OsString::from))
            .collect())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut device = self.device()?;
        let inside: Vec<PathBuf> = device
            .names
            .keys()
            .filter(|path| path.starts_with(dir))
            .cloned()
            .collect();
        for path in inside {
            device.names.remove(&path);
            device.renames.push(NameChange::Remove { path });
        }
        device.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut device = self.device()?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = std::mem::take(&mut device.renames)
            .into_iter()
            .partition(|change| change.is_in(dir));
        device.renames = elsewhere;
        for change in here {
            change.apply(&mut device.names_durable);
        }
        Ok(())
    }

    fn space_available(&self, _dir: &Path) -> io::Result<u64> {
        let device = self.device()?;
        Ok(device.capacity_bytes.saturating_sub(device.used_bytes()))
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.device()?.content(self.file)?.current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut device = self.disk.device()?;
        if count_down(&mut device.read_fails_in) {
            device.faults.io_failed += 1;
            return Err(io::Error::other("injected read fault"));
        }
        let content = device.content(self.file)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let from = start
            .checked_add(buffer.len())
            .and_then(|end| content.current.get(start..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut device = self.disk.device()?;
        if count_down(&mut device.write_fails_in) {
            device.faults.io_failed += 1;
            return Err(io::Error::other("injected write fault"));
        }
        let (capacity, used) = (device.capacity_bytes, device.used_bytes());
        let end = offset + data.len() as u64;
        let grows = end.saturating_sub(device.content(self.file)?.current.len() as u64);
        if grows > 0 && used.saturating_add(grows) > capacity {
            device.faults.writes_full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        device.content(self.file)?.write(data, start);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut device = self.disk.device()?;
        if count_down(&mut device.sync_fails_in) {
            device.faults.syncs_failed += 1;
            let Device { rng, files, .. } = &mut *device;
            let content = files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            for sector in std::mem::take(&mut content.dirty) {
                if rng.random_bool(0.5) {
                    content.persist(sector, SECTOR_BYTES);
                }
            }
            return Err(io::Error::other("injected sync fault"));
        }
        device.content(self.file)?.sync();
        device.syncs += 1;
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut device) = self.disk.device() {
            device.locks.remove(&self.dir);
        }
    }
}

fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            true
        }
        Some(count) => {
            *count -= 1;
            false
        }
        None => false,
    }
}
