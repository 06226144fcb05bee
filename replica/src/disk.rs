//! The disk as this crate sees it: files, names, and what is needed to make both durable.
//!
//! Owns the traits [`Disk`] and [`DiskFile`], so that the log code that ships also runs on a simulated disk that
//! forgets, tears and lies. Refuses policy: nothing here retries, and an error is handed up as it came, because a
//! failed sync may have dropped the data it was asked to keep.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub mod real;
pub mod sim;

pub use real::RealDisk;
pub use sim::{SimDisk, SimFaults};

/// A folder tree. A name created, renamed or removed is durable only after [`Disk::sync_dir`] on its folder.
///
/// Every call may block on the device: call from a thread that may.
pub trait Disk: Send + Sync {
    /// Creates `dir` and its parents where they do not exist, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Takes the folder for this process: `WouldBlock` when another holds it. Released on drop and by the end of
    /// the process.
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock>;

    /// Creates an empty file for reading and writing; `AlreadyExists` when the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing; `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Moves `from` to `to`, replacing what `to` named, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Open handles go on reading it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the files in `dir`, sorted; folders are left out. `NotFound` when there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Removes a folder with everything in it; one that is not there is no error.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes every creation, rename and removal in `dir` survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes an unprivileged process can still write on the file system that holds `dir`.
    fn space_available(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. Reads and writes are positioned, so that readers need no lock.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file is shorter.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`. Not durable before [`DiskFile::sync_data`].
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the content, and the length needed to read it, survive a power cut. After an error nothing is known
    /// about what was written since the last success, and a second call that succeeds proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes a stretch read as zeros and, where the file system can, gives its space back; the length stays. Not
    /// durable before [`DiskFile::sync_data`]. Where it cannot be done for free, zeros are written.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let block =
            vec![0; ZERO_BLOCK_BYTES.min(usize::try_from(bytes).unwrap_or(ZERO_BLOCK_BYTES))];
        let end = offset.saturating_add(bytes).min(self.bytes()?);
        let mut at = offset;
        while at < end {
            // The step is at most the block's length, so the cast cannot cut.
            let step = (end - at).min(ZERO_BLOCK_BYTES as u64);
            self.write_at(&block[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    /// Writes zeros over the first `bytes`, so that later writes there find allocated blocks. Not durable before
    /// [`DiskFile::sync_data`].
    fn zero(&self, bytes: u64) -> io::Result<()> {
        let block = vec![0; ZERO_BLOCK_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let step = (bytes - offset).min(ZERO_BLOCK_BYTES as u64);
            // The step is at most the block's length, so the cast cannot cut.
            self.write_at(&block[..step as usize], offset)?;
            offset += step;
        }
        Ok(())
    }
}

/// Holds a folder until dropped.
pub struct DirLock {
    _guard: Box<dyn Send + Sync>,
}

impl DirLock {
    /// Wraps what releases the folder when dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self {
            _guard: Box::new(guard),
        }
    }
}

/// Whether an error says that the disk, or the quota, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Bytes written at a time while zeroing.
const ZERO_BLOCK_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests;
