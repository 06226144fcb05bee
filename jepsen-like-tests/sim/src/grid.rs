//! The power supply of all members, and the disks that hang on it.
//!
//! Owns the moment of the cut: at once for everyone, between two calls to any of the disks, so also between a write
//! and its sync. First the voltage drops: writes still reach the caches and no sync succeeds any more, anywhere; then
//! the power is gone. Refuses to be selective: whatever was not synced is kept, lost or torn by each disk's own seed.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use replica::disk::{DirLock, Disk, DiskFile, SimDisk, SimFaults};
use replica::state::TwinMedium;
use tokio::sync::watch;

/// Never: no call count reaches it.
const NEVER: u64 = u64::MAX;

/// Power for one disk and one state medium a member. Clones are handles on the same supply.
#[derive(Clone)]
pub struct Grid {
    inner: Arc<Inner>,
}

struct Inner {
    supplies: Mutex<Vec<(SimDisk, TwinMedium)>>,
    /// Faults of devices that were thrown away.
    gone: Mutex<Vec<SimDisk>>,
    seed: u64,
    /// Calls to any disk so far.
    calls: AtomicU64,
    /// The voltage drops with this call.
    drop_at: AtomicU64,
    low: AtomicBool,
    /// Counts drops of the voltage.
    drops: watch::Sender<u64>,
}

impl Grid {
    /// A supply for `members` members whose disks follow `seed`.
    pub fn new(members: u64, seed: u64) -> Self {
        let inner = Inner {
            supplies: Mutex::new((0..members).map(|member| supply(seed, member)).collect()),
            gone: Mutex::default(),
            seed,
            calls: AtomicU64::new(0),
            drop_at: AtomicU64::new(NEVER),
            low: AtomicBool::new(false),
            drops: watch::Sender::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The disk of the member at `at`, as the process of the present boot sees it.
    pub fn disk(&self, at: usize) -> Arc<dyn Disk> {
        Arc::new(Powered {
            inner: self.device(at).boot(),
            grid: self.clone(),
        })
    }

    /// The device under [`Grid::disk`], to inject faults.
    pub fn device(&self, at: usize) -> SimDisk {
        self.inner.supplies.lock()[at].0.clone()
    }

    /// The state medium of the member at `at`.
    pub fn medium(&self, at: usize) -> TwinMedium {
        self.inner.supplies.lock()[at].1.clone()
    }

    /// One more member's disk and medium, empty. Answers where they are.
    pub fn add(&self) -> usize {
        let mut supplies = self.inner.supplies.lock();
        let at = supplies.len();
        supplies.push(supply(self.inner.seed, at as u64));
        at
    }

    /// Kills the process at `at`: its handles are dead, what it wrote is still in the machine's cache.
    pub fn kill(&self, at: usize) {
        self.device(at).kill();
        self.medium(at).power_cut();
    }

    /// Cuts the power of the member at `at` alone.
    pub fn cut_one(&self, at: usize) {
        self.device(at).power_cut();
        self.medium(at).power_cut();
    }

    /// The disk at `at` is lost; an empty one takes its place.
    pub fn wipe(&self, at: usize) {
        self.cut_one(at);
        let mut supplies = self.inner.supplies.lock();
        let fresh = supply(self.inner.seed ^ 0xE4A5ED, at as u64);
        let (lost, _) = std::mem::replace(&mut supplies[at], fresh);
        self.inner.gone.lock().push(lost);
    }

    /// From now on no sync succeeds at any member.
    pub fn drop_voltage(&self) {
        self.inner.drop_at.store(NEVER, Ordering::SeqCst);
        self.inner.low.store(true, Ordering::SeqCst);
        self.inner.drops.send_modify(|drops| *drops += 1);
    }

    /// Drops the voltage with the disk call after the next `calls`, whoever makes it.
    pub fn drop_voltage_after(&self, calls: u64) {
        let at = self
            .inner
            .calls
            .load(Ordering::SeqCst)
            .saturating_add(calls);
        self.inner.drop_at.store(at, Ordering::SeqCst);
    }

    /// Changes with every drop of the voltage.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.drops.subscribe()
    }

    /// Cuts the power at every member now. What is booted after it has power again.
    pub fn cut(&self) {
        self.inner.drop_at.store(NEVER, Ordering::SeqCst);
        for (disk, medium) in &*self.inner.supplies.lock() {
            disk.power_cut();
            medium.power_cut();
        }
        self.inner.low.store(false, Ordering::SeqCst);
    }

    /// Faults of all disks together.
    pub fn faults(&self) -> SimFaults {
        let supplies = self.inner.supplies.lock();
        let gone = self.inner.gone.lock();
        let disks = supplies.iter().map(|(disk, _)| disk).chain(gone.iter());
        disks
            .map(SimDisk::faults)
            .fold(SimFaults::default(), |a, b| SimFaults {
                power_cuts: a.power_cuts + b.power_cuts,
                sectors_kept: a.sectors_kept + b.sectors_kept,
                sectors_lost: a.sectors_lost + b.sectors_lost,
                sectors_torn: a.sectors_torn + b.sectors_torn,
                names_lost: a.names_lost + b.names_lost,
                syncs_failed: a.syncs_failed + b.syncs_failed,
                writes_full: a.writes_full + b.writes_full,
                io_failed: a.io_failed + b.io_failed,
                bits_flipped: a.bits_flipped + b.bits_flipped,
            })
    }

    fn call(&self) {
        let call = self.inner.calls.fetch_add(1, Ordering::SeqCst);
        if call >= self.inner.drop_at.load(Ordering::SeqCst) {
            self.drop_voltage();
        }
    }

    /// A call that makes something durable.
    fn sync_call(&self) -> io::Result<()> {
        self.call();
        if self.inner.low.load(Ordering::SeqCst) {
            return Err(io::Error::other("no power"));
        }
        Ok(())
    }
}

/// An empty disk and medium whose faults follow the seed.
fn supply(seed: u64, member: u64) -> (SimDisk, TwinMedium) {
    let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ member;
    (SimDisk::new(seed), TwinMedium::new(seed ^ 0x5EED))
}

/// A disk whose every changing call may be the one with which the power goes.
struct Powered {
    inner: Arc<dyn Disk>,
    grid: Grid,
}

struct PoweredFile {
    inner: Arc<dyn DiskFile>,
    grid: Grid,
}

impl Powered {
    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(PoweredFile {
            inner,
            grid: self.grid.clone(),
        })
    }
}

impl Disk for Powered {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.grid.sync_call()?;
        self.inner.create_dir_all(dir)
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        self.inner.lock_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.grid.call();
        Ok(self.file(self.inner.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.grid.call();
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.grid.call();
        self.inner.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(dir)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.grid.call();
        self.inner.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.grid.sync_call()?;
        self.inner.sync_dir(dir)
    }

    fn space_available(&self, dir: &Path) -> io::Result<u64> {
        self.inner.space_available(dir)
    }
}

impl DiskFile for PoweredFile {
    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.grid.call();
        self.inner.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.grid.sync_call()?;
        self.inner.sync_data()
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.grid.call();
        self.inner.punch(offset, bytes)
    }

    fn zero(&self, bytes: u64) -> io::Result<()> {
        self.grid.call();
        self.inner.zero(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_low_voltage_writes_reach_the_cache_and_no_sync_succeeds() {
        let grid = Grid::new(2, 1);
        let dir = Path::new("/d");
        let files: Vec<_> = (0..2)
            .map(|at| {
                let disk = grid.disk(at);
                disk.create_dir_all(dir).expect("power");
                let file = disk.create(&dir.join("f")).expect("power");
                file.write_at(b"synced", 0).expect("power");
                file.sync_data().expect("power");
                disk.sync_dir(dir).expect("power");
                file
            })
            .collect();
        grid.drop_voltage_after(1);
        files[0].write_at(b"first", 0).expect("power");
        files[1]
            .write_at(b"with this call", 0)
            .expect("the cache works");
        for file in &files {
            assert!(file.sync_data().is_err());
        }
        grid.cut();
        assert!(
            files.iter().all(|file| file.bytes().is_err()),
            "a dead handle works"
        );
        for at in 0..2 {
            let file = grid
                .disk(at)
                .open(&dir.join("f"))
                .expect("its name was synced");
            let mut held = [0; 6];
            file.read_at(&mut held, 0).expect("synced");
            file.sync_data().expect("power");
        }
        let faults = grid.faults();
        assert_eq!(faults.power_cuts, 2);
        assert_eq!(
            faults.sectors_kept + faults.sectors_lost + faults.sectors_torn,
            2
        );
    }
}
