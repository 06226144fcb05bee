//! Slots: wiped, reused, fenced, bounded.

#![allow(
    unsafe_code,
    reason = "looking at a slot after it was given back needs its address"
)]

use super::*;

/// Runs a test in a process of its own, where no other test takes or gives back slots.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    const ROLE: &str = "REDUIT_TEST_ALONE";
    if std::env::var_os(ROLE).is_some() {
        return test();
    }
    let output = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env(ROLE, "1")
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn filled(byte: u8) -> Locked<64> {
    Locked::try_new::<KeyError>(|bytes| {
        bytes.fill(byte);
        Ok(())
    })
    .expect("room")
}

fn peek(address: *const [u8; 64]) -> [u8; 64] {
    // SAFETY: slots stay mapped and readable for the life of the process, and no other test runs
    // beside this one.
    unsafe { address.read_volatile() }
}

#[test]
fn a_dropped_slot_is_zero() {
    alone("locked::tests::a_dropped_slot_is_zero", || {
        let key = filled(0xA5);
        let address: *const [u8; 64] = key.bytes();
        assert_eq!(
            peek(address),
            [0xA5; 64],
            "the control: the key is there while it lives"
        );
        drop(key);
        assert_eq!(peek(address), [0; 64]);
        let again = filled(0x5A);
        assert_eq!(
            again.bytes().as_ptr(),
            address.cast(),
            "the slot is used again"
        );
    });
}

#[test]
fn what_a_failed_fill_wrote_is_wiped() {
    alone("locked::tests::what_a_failed_fill_wrote_is_wiped", || {
        let mut address: *const [u8; 64] = std::ptr::null();
        let failed = Locked::<64>::try_new::<KeyError>(|bytes| {
            bytes.fill(0x77);
            address = bytes;
            Err(KeyError::Random)
        });
        assert_eq!(failed.err(), Some(KeyError::Random));
        assert_eq!(peek(address), [0; 64]);
    });
}

#[test]
fn live_slots_never_overlap() {
    let keys: Vec<_> = (0..3000u32).map(|index| filled(index as u8)).collect();
    let mut addresses: Vec<_> = keys
        .iter()
        .map(|key| key.bytes().as_ptr() as usize)
        .collect();
    addresses.sort_unstable();
    assert!(
        addresses
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= SLOT_BYTES)
    );
    assert!(
        keys.iter()
            .zip(0u32..)
            .all(|(key, index)| key.bytes() == &[index as u8; 64])
    );
}

#[test]
fn a_full_arena_is_an_error_and_heals() {
    alone("locked::tests::a_full_arena_is_an_error_and_heals", || {
        let mut keys = Vec::new();
        let error = loop {
            match Locked::<32>::random() {
                Ok(key) => keys.push(key),
                Err(error) => break error,
            }
        };
        if keys.len() == KEY_SLOTS_MAX {
            assert_eq!(error, KeyError::Full);
        } else {
            // A machine that lets a process lock less than 4 MiB.
            assert!(
                matches!(error, KeyError::NotLockable { .. }),
                "{error:?} after {}",
                keys.len()
            );
        }
        assert_eq!(key_memory().slots_used, keys.len());
        keys.pop();
        assert!(Locked::<32>::random().is_ok(), "one was given back");
    });
}

/// What the kernel says of the mapping that holds `address`.
fn mapping_of(address: usize) -> (Vec<String>, Vec<String>) {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("this process has maps");
    let mut lines = maps.lines().peekable();
    let mut before = Vec::new();
    while let Some(line) = lines.next() {
        let range = line
            .split_ascii_whitespace()
            .next()
            .and_then(|range| range.split_once('-'));
        let parse = |text| usize::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(start, end)| (parse(start), parse(end)))
        else {
            continue;
        };
        let mut found = vec![line.to_owned()];
        while let Some(detail) = lines.next_if(|line| {
            line.split_once(':')
                .is_some_and(|(name, _)| !name.contains('-'))
        }) {
            found.push(detail.to_owned());
        }
        if (start..end).contains(&address) {
            return (before, found);
        }
        before = found;
    }
    panic!("no mapping holds the address");
}

#[test]
fn slots_are_locked_not_dumped_not_inherited_and_fenced() {
    let key = filled(1);
    let (before, mapping) = mapping_of(key.bytes().as_ptr() as usize);
    let flags = mapping
        .iter()
        .find(|line| line.starts_with("VmFlags:"))
        .expect("smaps has flags");
    for flag in ["lo", "dd", "dc"] {
        assert!(
            flags.split_ascii_whitespace().any(|have| have == flag),
            "{flag} in {flags}"
        );
    }
    assert!(
        before.first().is_some_and(|line| line.contains("---p")),
        "a guard page below: {before:?}"
    );
    let mode = key_memory().mode.expect("a key was made");
    let secret = mapping[0].contains("secretmem");
    assert_eq!(mode == MemoryMode::Secret, secret, "{}", mapping[0]);
    assert!(!(secret && cfg!(feature = "danger_scannable_keys")));
}

/// A child made by `fork` has no such memory: reading a slot there ends it.
#[test]
fn a_forked_child_has_no_keys() {
    let key = filled(3);
    let address: *const u8 = key.bytes().as_ptr();
    // SAFETY: the child calls nothing but a read and `_exit`, both of which are safe after fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "forks");
    if child == 0 {
        // SAFETY: in the parent this address is a live slot; here the read faults, which is what is
        // tested.
        let byte = unsafe { address.read_volatile() };
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if byte == 3 { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(
        libc::WIFSIGNALED(status),
        "the child read key memory: {status}"
    );
    assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
}
