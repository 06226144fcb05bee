//! Where this program's randomness comes from: from the seed, all of it.
//!
//! Owns the function by which the standard library and every random generator ask the system, `getrandom`. The
//! engine's election jitter, the order in which tokio wakes waiting tasks and the order of hash maps all come from
//! there, so that with this in its place two runs of a seed are the same event for event. Refuses to be used by
//! anything that ships: it is linked into this program alone.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Everything random from here on follows `seed`.
pub(crate) fn seed(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
}

/// Whether generators do ask here: a program that was linked otherwise would not replay.
pub(crate) fn in_force() -> bool {
    use std::hash::BuildHasher as _;
    let before = ASKED.load(Ordering::SeqCst);
    let asks = || {
        let rng = rand::random::<u64>();
        std::hash::RandomState::new().hash_one(rng)
    };
    // In a thread of its own, which has asked for nothing yet.
    let asked = std::thread::spawn(asks).join();
    asked.is_ok() && ASKED.load(Ordering::SeqCst) >= before + 2
}

/// SplitMix64: the next of a sequence that is as good as random.
fn next() -> u64 {
    let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Fills `buffer` as getrandom(2) does, from the seed. Never fails and never blocks.
#[allow(
    unsafe_code,
    reason = "stands in for the C library's function, whose caller gives a place and a length"
)]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: usize, _: c_uint) -> isize {
    ASKED.fetch_add(1, Ordering::SeqCst);
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller of getrandom(2) gives `length` bytes at `buffer` to be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let random = next().to_le_bytes();
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
