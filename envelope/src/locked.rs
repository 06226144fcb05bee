//! The locked arena: the only place where key bytes rest.
//!
//! Owns slots of 64 bytes in memory that is never swapped or dumped, not inherited by `fork`, and
//! fenced by guard pages: `memfd_secret(2)` where the kernel has it (not even the kernel's own
//! direct map or `/proc/self/mem` reaches it), `mlock(2)`ed anonymous memory where it has not. A
//! slot is zeroed when its key is dropped. Refuses, with an error and never a panic, to grow past
//! [`KEY_SLOTS_MAX`] or to hold a key in memory that could not be locked.
#![allow(
    unsafe_code,
    reason = "mapping, locking and wiping memory has no safe interface; this file alone may"
)]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

/// Bytes of one slot. A key is at most this long.
const SLOT_BYTES: usize = 64;
/// The page size this arena assumes: that of every platform Reduit runs on, checked at the first
/// mapping.
const PAGE_BYTES: usize = 4096;
/// Pages by which the arena grows. Each growth is one mapping and one guard page on either side.
const EXTENT_PAGES: usize = 16;
const SLOTS_PER_EXTENT: usize = EXTENT_PAGES * PAGE_BYTES / SLOT_BYTES;
/// Growths at most: 4 MiB, half of the 8 MiB that `RLIMIT_MEMLOCK` commonly allows a process.
const EXTENTS_MAX: usize = 64;

/// Keys that can be live in one process at a time.
pub const KEY_SLOTS_MAX: usize = EXTENTS_MAX * SLOTS_PER_EXTENT;

/// Why a key could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// [`KEY_SLOTS_MAX`] keys are live. Drop some and try again.
    #[error("key memory is full: {KEY_SLOTS_MAX} keys are live")]
    Full,
    /// The system would not map or lock memory for keys; `RLIMIT_MEMLOCK` is the usual cause.
    #[error("the system refused to lock key memory (errno {errno})")]
    NotLockable {
        /// As `errno(3)` gives it.
        errno: i32,
    },
    /// The random generator failed.
    #[error("the random generator failed")]
    Random,
}

/// How key memory is protected from the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMode {
    /// `memfd_secret(2)`: unmapped from the kernel's direct map as well.
    Secret,
    /// `mlock(2)`: not swapped, not dumped; root can still read it.
    Locked,
}

/// What key memory stands at, for `doctor` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMemory {
    /// The weakest protection of any mapping so far; `None` before the first key.
    pub mode: Option<MemoryMode>,
    /// Keys live now.
    pub slots_used: usize,
    /// Keys that fit at most: [`KEY_SLOTS_MAX`].
    pub slots_max: usize,
}

/// What key memory stands at now.
pub fn key_memory() -> KeyMemory {
    let arena = arena();
    KeyMemory {
        mode: arena.mode,
        slots_used: arena.extents * SLOTS_PER_EXTENT - arena.free.len(),
        slots_max: KEY_SLOTS_MAX,
    }
}

/// `N` secret bytes in a slot of their own. Zeroed on drop.
pub(crate) struct Locked<const N: usize> {
    slot: Slot,
}

impl<const N: usize> Locked<N> {
    const FITS: () = assert!(N <= SLOT_BYTES, "a key is at most one slot long");

    /// Takes a slot and has `fill` write the key straight into it, so that no other copy is ever
    /// made. If `fill` fails, what it wrote is wiped.
    pub(crate) fn try_new<E: From<KeyError>>(
        fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let () = Self::FITS;
        let mut slot = Slot::take()?;
        fill(slot.bytes_mut())?;
        #[cfg(feature = "danger_scannable_keys")]
        crate::fingerprints::record(slot.bytes::<N>());
        Ok(Self { slot })
    }

    /// `N` random bytes.
    pub(crate) fn random() -> Result<Self, KeyError> {
        Self::try_new(|bytes| aws_lc_rs::rand::fill(bytes).map_err(|_| KeyError::Random))
    }

    pub(crate) fn bytes(&self) -> &[u8; N] {
        self.slot.bytes()
    }
}

/// One slot of the arena, owned. Wiped and given back on drop, whatever state it is in.
struct Slot(NonNull<u8>);

// SAFETY: a `Slot` owns its 64 bytes alone: the arena hands an address out once and takes it back
// on drop. The mapping is never unmapped, so the address outlives every thread.
unsafe impl Send for Slot {}
// SAFETY: shared references give shared access to plain bytes only.
unsafe impl Sync for Slot {}

impl Slot {
    fn take() -> Result<Self, KeyError> {
        let mut arena = arena();
        if let Some(free) = arena.free.pop() {
            return Ok(free);
        }
        arena.grow()?;
        arena.free.pop().ok_or(KeyError::Full)
    }

    fn bytes<const N: usize>(&self) -> &[u8; N] {
        // SAFETY: `self.0` points at SLOT_BYTES >= N readable bytes that this slot alone owns
        // (`Locked::FITS`), and a byte array has no alignment or validity needs.
        unsafe { &*self.0.as_ptr().cast::<[u8; N]>() }
    }

    fn bytes_mut<const N: usize>(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `bytes`; `&mut self` makes the reference unique.
        unsafe { &mut *self.0.as_ptr().cast::<[u8; N]>() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.bytes_mut::<SLOT_BYTES>().zeroize();
        // Two values must not own one slot, so the arena gets a new one and `self` is gone after
        // this call.
        arena().free.push(Slot(self.0));
    }
}

struct Arena {
    mode: Option<MemoryMode>,
    extents: usize,
    free: Vec<Slot>,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena {
    mode: None,
    extents: 0,
    free: Vec::new(),
});

fn arena() -> MutexGuard<'static, Arena> {
    // No code under the lock can leave the arena half-changed, so a poisoned lock is still good.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    fn grow(&mut self) -> Result<(), KeyError> {
        if self.extents == EXTENTS_MAX {
            return Err(KeyError::Full);
        }
        let (start, mode) = map_extent()?;
        self.mode = match self.mode {
            Some(MemoryMode::Locked) => Some(MemoryMode::Locked),
            _ => Some(mode),
        };
        self.extents += 1;
        // Room for every slot there is, so that giving one back in `drop` never allocates.
        self.free.reserve(self.extents * SLOTS_PER_EXTENT);
        for index in (0..SLOTS_PER_EXTENT).rev() {
            // SAFETY: index * SLOT_BYTES is inside the extent of EXTENT_PAGES pages that was just
            // mapped.
            self.free
                .push(Slot(unsafe { start.add(index * SLOT_BYTES) }));
        }
        Ok(())
    }
}

/// Maps EXTENT_PAGES writable, locked, zeroed pages with an inaccessible page before and after.
fn map_extent() -> Result<(NonNull<u8>, MemoryMode), KeyError> {
    const DATA_BYTES: usize = EXTENT_PAGES * PAGE_BYTES;
    const WHOLE_BYTES: usize = DATA_BYTES + 2 * PAGE_BYTES;
    // SAFETY: sysconf reads a constant.
    if unsafe { libc::sysconf(libc::_SC_PAGESIZE) } != PAGE_BYTES as libc::c_long {
        return Err(KeyError::NotLockable {
            errno: libc::EINVAL,
        });
    }
    // SAFETY: a fresh private anonymous mapping; the kernel chooses the address. PROT_NONE makes it
    // the guard.
    let whole = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            WHOLE_BYTES,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if whole == libc::MAP_FAILED {
        return Err(last_error());
    }
    // SAFETY: one page into the WHOLE_BYTES just mapped.
    let data = unsafe { whole.cast::<u8>().add(PAGE_BYTES) }.cast::<c_void>();
    // SAFETY: `data..data + DATA_BYTES` lies inside the mapping made above, which nothing else
    // knows of.
    let mapped = unsafe { map_secret(data, DATA_BYTES).or_else(|_| map_mlocked(data, DATA_BYTES)) };
    let protected = mapped.and_then(|mode| {
        // SAFETY: the same range, mapped and owned by us.
        unsafe { keep_private(data, DATA_BYTES) }.map(|()| mode)
    });
    match protected {
        Ok(mode) => {
            // Faulted in now, so that an allocation that cannot be backed fails here and not inside
            // a key. SAFETY: DATA_BYTES writable bytes at `data`.
            unsafe { std::ptr::write_bytes(data.cast::<u8>(), 0, DATA_BYTES) };
            let start =
                NonNull::new(data.cast::<u8>()).ok_or(KeyError::NotLockable { errno: 0 })?;
            Ok((start, mode))
        }
        Err(error) => {
            // SAFETY: our own mapping, to which no pointer remains.
            unsafe { libc::munmap(whole, WHOLE_BYTES) };
            Err(error)
        }
    }
}

/// Puts secret memory at `data`.
///
/// # Safety
/// `data..data + bytes` must be page-aligned address space that the caller owns.
unsafe fn map_secret(data: *mut c_void, bytes: usize) -> Result<MemoryMode, KeyError> {
    if cfg!(feature = "danger_scannable_keys") {
        // A scanner cannot read secret memory, and would prove nothing by not finding keys there.
        return Err(KeyError::NotLockable {
            errno: libc::ENOSYS,
        });
    }
    let close_on_exec: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: takes a flag, gives a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, close_on_exec) };
    let Ok(fd @ 0..) = libc::c_int::try_from(fd) else {
        return Err(last_error());
    };
    // SAFETY: `fd` is ours; the range is the caller's by contract, and MAP_FIXED replaces nothing
    // else.
    let mapped = unsafe {
        if libc::ftruncate(fd, bytes as libc::off_t) == 0 {
            libc::mmap(
                data,
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd,
                0,
            )
        } else {
            libc::MAP_FAILED
        }
    };
    let error = last_error();
    // SAFETY: `fd` is ours and not used again; the mapping keeps the memory alive.
    unsafe { libc::close(fd) };
    if mapped == libc::MAP_FAILED {
        Err(error)
    } else {
        Ok(MemoryMode::Secret)
    }
}

/// Puts ordinary locked memory at `data`.
///
/// # Safety
/// As [`map_secret`].
unsafe fn map_mlocked(data: *mut c_void, bytes: usize) -> Result<MemoryMode, KeyError> {
    // SAFETY: the range is the caller's by contract; MAP_FIXED replaces nothing else.
    let mapped = unsafe {
        libc::mmap(
            data,
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    // SAFETY: the range was just mapped.
    if mapped == libc::MAP_FAILED || unsafe { libc::mlock(data, bytes) } != 0 {
        return Err(last_error());
    }
    Ok(MemoryMode::Locked)
}

/// Keeps a range out of core dumps and out of child processes.
///
/// # Safety
/// `data..data + bytes` must be a mapping that the caller owns.
unsafe fn keep_private(data: *mut c_void, bytes: usize) -> Result<(), KeyError> {
    for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
        // SAFETY: advice on the caller's own range; neither changes its contents.
        if unsafe { libc::madvise(data, bytes, advice) } != 0 {
            return Err(last_error());
        }
    }
    Ok(())
}

fn last_error() -> KeyError {
    KeyError::NotLockable {
        errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
    }
}

#[cfg(test)]
pub(crate) mod tests;
