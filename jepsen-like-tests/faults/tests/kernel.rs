//! The volume through the kernel: what programs see of it before and after a cut.
//!
//! Skips, saying why, where FUSE is not permitted. No call outlasts the volume's process, and that ends in time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use faults::content::Survival;
use faults::control::Command;
use faults::mount::Mounted;

/// Longest life of a volume: what of a test hangs in it fails then.
const LIVES_MAX: Duration = Duration::from_secs(60);

fn mounted(dir: &Path, lives_max: Duration) -> Option<Mounted> {
    let faultfs = Path::new(env!("CARGO_BIN_EXE_reduit-faultfs"));
    Mounted::or_skip(faultfs, dir, lives_max).expect("the volume's process starts")
}

fn is_mount_point(at: &Path) -> bool {
    let at = at.to_str().expect("a name of ours");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("Linux has it");
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(at))
}

fn cut(mounted: &Mounted) {
    let survival = Survival::Nothing;
    mounted
        .send(Command::DropUnsynced { survival, seed: 1 })
        .expect("the volume obeys");
    mounted.send(Command::PowerOn).expect("the volume obeys");
}

fn write(path: &Path, data: &[u8], sync: bool) {
    let mut file = File::create(path).expect("a file");
    file.write_all(data).expect("room");
    if sync {
        file.sync_data().expect("works");
    }
}

#[test]
fn a_program_finds_after_a_cut_what_it_synced_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mounted) = mounted(dir.path(), LIVES_MAX) else {
        return;
    };
    let at = mounted.path();
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    write(&at.join("synced"), &large, true);
    write(&at.join("not-synced"), b"gone", false);
    fs::create_dir(at.join("d")).expect("room");
    File::open(at).and_then(|d| d.sync_all()).expect("works");
    write(&at.join("synced-without-name"), b"gone", true);
    write(&at.join("d/tmp"), b"first", true);
    fs::rename(at.join("d/tmp"), at.join("d/CURRENT")).expect("there");
    File::open(at.join("d"))
        .and_then(|d| d.sync_all())
        .expect("works");
    write(&at.join("d/tmp"), b"second", true);
    fs::rename(at.join("d/tmp"), at.join("d/CURRENT")).expect("there");
    assert_eq!(fs::read(at.join("d/CURRENT")).expect("there"), b"second");
    let mut open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(at.join("synced"))
        .expect("there");
    cut(&mounted);
    assert!(
        open.write_all(b"x").is_err() && open.read(&mut [0]).is_err(),
        "a dead handle works"
    );
    assert_eq!(fs::read(at.join("synced")).expect("there"), large);
    assert_eq!(
        fs::read(at.join("not-synced")).expect("its name was synced"),
        b""
    );
    assert!(!at.join("synced-without-name").exists());
    assert_eq!(fs::read(at.join("d/CURRENT")).expect("there"), b"first");
}

#[test]
fn a_failed_sync_and_a_full_volume_reach_the_program() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mounted) = mounted(dir.path(), LIVES_MAX) else {
        return;
    };
    let path = mounted.path().join("f");
    let mut file = File::create(&path).expect("a file");
    file.write_all(b"data").expect("room");
    mounted
        .send(Command::FailSync { after: 0 })
        .expect("the volume obeys");
    assert!(file.sync_data().is_err());
    assert_eq!(fs::read(&path).expect("there"), b"data");
    mounted
        .send(Command::Enospc { full: true })
        .expect("the volume obeys");
    let full = file.write_all(b"more").expect_err("no room");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let left = rustix::fs::statvfs(mounted.path()).expect("works").f_bavail;
    assert_eq!(left, 0);
    mounted
        .send(Command::Enospc { full: false })
        .expect("the volume obeys");
    file.write_all(b"more").expect("room");
    let counts = mounted.send(Command::Counts).expect("the volume obeys");
    assert_eq!((counts.syncs_failed, counts.cuts), (1, 0));
    assert!(counts.writes_full > 0);
}

#[test]
fn a_slow_volume_takes_its_time_over_syncs_and_nothing_else_changes() {
    const SLOW: Duration = Duration::from_millis(100);
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mounted) = mounted(dir.path(), LIVES_MAX) else {
        return;
    };
    let slow = |millis| Command::SlowSync { millis };
    mounted.send(slow(100)).expect("the volume obeys");
    let began = Instant::now();
    write(&mounted.path().join("f"), b"data", true);
    assert!(
        began.elapsed() >= SLOW,
        "the sync took {:?}",
        began.elapsed()
    );
    let counts = mounted.send(slow(0)).expect("the volume obeys");
    assert_eq!((counts.syncs_slowed, counts.syncs), (1, 1));
    write(&mounted.path().join("f"), b"data", true);
    let counts = mounted.send(Command::Counts).expect("the volume obeys");
    assert_eq!((counts.syncs_slowed, counts.syncs), (1, 2));
}

#[test]
fn a_folder_of_many_names_is_listed_whole_and_emptied_while_it_is_listed() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mounted) = mounted(dir.path(), LIVES_MAX) else {
        return;
    };
    let many = mounted.path().join("d");
    fs::create_dir(&many).expect("room");
    for n in 0..1000 {
        File::create(many.join(format!("a-name-of-some-length-{n}"))).expect("room");
    }
    assert_eq!(fs::read_dir(&many).expect("there").count(), 1000);
    fs::remove_dir_all(&many).expect("is empty in the end");
    assert!(!many.exists());
}

#[test]
fn a_dropped_mount_is_gone_though_a_file_in_it_is_open() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mounted) = mounted(dir.path(), LIVES_MAX) else {
        return;
    };
    let at = mounted.path().to_owned();
    let mut open = File::create(at.join("f")).expect("room");
    assert!(is_mount_point(&at));
    drop(mounted);
    assert!(!is_mount_point(&at));
    assert!(open.write_all(b"x").is_err(), "written to nobody");
}

#[test]
fn a_volume_whose_time_is_up_fails_calls_and_hangs_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mounted) = mounted(dir.path(), Duration::from_secs(1)) else {
        return;
    };
    let mut open = File::create(mounted.path().join("f")).expect("room");
    let deadline = Instant::now() + LIVES_MAX;
    while open.write_all(b"x").is_ok() {
        assert!(Instant::now() < deadline, "it lives on");
    }
    assert!(mounted.send(Command::Counts).is_err());
    let at = mounted.path().to_owned();
    drop(mounted);
    assert!(!is_mount_point(&at));
}
