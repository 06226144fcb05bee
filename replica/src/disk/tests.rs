//! The simulated disk forgets exactly what it may, and both disks answer alike.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::*;

fn write_synced(disk: &dyn Disk, path: &Path, data: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(path).expect("create");
    file.write_at(data, 0).expect("write");
    file.sync_data().expect("sync");
    file
}

#[test]
fn what_is_synced_survives_every_power_cut() {
    for seed in 0..200 {
        let sim = SimDisk::new(seed);
        let disk = sim.boot();
        let dir = Path::new("/d");
        disk.create_dir_all(dir).expect("dir");
        let file = write_synced(&*disk, &dir.join("a"), &[7; 3000]);
        disk.sync_dir(dir).expect("sync dir");
        file.write_at(&[9; 600], 2000).expect("write");
        sim.power_cut();
        assert!(file.bytes().is_err(), "a handle of the last boot is dead");
        let mut read = vec![0; 3000];
        sim.boot()
            .open(&dir.join("a"))
            .expect("name")
            .read_at(&mut read, 0)
            .expect("read");
        assert_eq!(
            read[..2000],
            [7; 2000],
            "outside the unsynced write, seed {seed}"
        );
        assert_eq!(
            read[2600..],
            [7; 400],
            "outside the unsynced write, seed {seed}"
        );
        assert!(
            read[2000..2600].iter().all(|byte| [7, 9].contains(byte)),
            "seed {seed}"
        );
    }
}

#[test]
fn unsynced_data_and_names_are_lost_by_some_seed_and_kept_by_another() {
    let (mut lost, mut kept, mut torn, mut names) = (0, 0, 0, 0);
    for seed in 0..100 {
        let sim = SimDisk::new(seed);
        let disk = sim.boot();
        let dir = Path::new("/d");
        disk.create_dir_all(dir).expect("dir");
        let file = disk.create(&dir.join("a")).expect("create");
        file.write_at(&[1; 4096], 0).expect("write");
        sim.power_cut();
        let faults = sim.faults();
        lost += faults.sectors_lost;
        kept += faults.sectors_kept;
        torn += faults.sectors_torn;
        names += faults.names_lost;
    }
    assert!(lost > 0 && kept > 0 && torn > 0 && names > 0);
}

#[test]
fn data_of_a_failed_sync_is_readable_until_the_power_cut_and_then_gone() {
    let mut lost = false;
    for seed in 0..50 {
        let sim = SimDisk::new(seed);
        let disk = sim.boot();
        let dir = Path::new("/d");
        disk.create_dir_all(dir).expect("dir");
        let file = write_synced(&*disk, &dir.join("a"), &[0; 512]);
        disk.sync_dir(dir).expect("sync dir");
        file.write_at(&[5; 512], 0).expect("write");
        sim.fail_sync_in(0);
        assert!(file.sync_data().is_err());
        file.sync_data()
            .expect("the second sync succeeds and proves nothing");
        let mut read = [0; 512];
        file.read_at(&mut read, 0).expect("read");
        assert_eq!(read, [5; 512]);
        sim.power_cut();
        sim.boot()
            .open(&dir.join("a"))
            .expect("name")
            .read_at(&mut read, 0)
            .expect("read");
        lost |= read == [0; 512];
    }
    assert!(lost);
}

#[test]
fn both_disks_answer_alike() {
    let temp = tempfile::tempdir().expect("tempdir");
    let disks: [(Arc<dyn Disk>, std::path::PathBuf); 2] = [
        (Arc::new(RealDisk), temp.path().join("x/y")),
        (SimDisk::new(1).boot(), "/x/y".into()),
    ];
    for (disk, dir) in disks {
        disk.create_dir_all(&dir).expect("dir");
        disk.create_dir_all(&dir).expect("again");
        let lock = disk.lock_dir(&dir).expect("lock");
        let second = disk.lock_dir(&dir).err().map(|error| error.kind());
        assert_eq!(second, Some(ErrorKind::WouldBlock));
        drop(lock);
        disk.lock_dir(&dir).expect("free again");
        let file = disk.create(&dir.join("b")).expect("create");
        assert_eq!(
            disk.create(&dir.join("b")).err().map(|error| error.kind()),
            Some(ErrorKind::AlreadyExists)
        );
        file.zero(4096).expect("zero");
        file.write_at(b"abc", 10).expect("write");
        let mut read = [9; 5];
        file.read_at(&mut read, 9).expect("read");
        assert_eq!(&read, b"\0abc\0");
        assert_eq!(
            file.read_at(&mut read, 4094)
                .err()
                .map(|error| error.kind()),
            Some(ErrorKind::UnexpectedEof)
        );
        assert_eq!(file.bytes().expect("bytes"), 4096);
        disk.create(&dir.join("a")).expect("create");
        disk.rename(&dir.join("b"), &dir.join("c")).expect("rename");
        assert_eq!(disk.list(&dir).expect("list"), ["a", "c"]);
        disk.remove(&dir.join("c")).expect("remove");
        file.read_at(&mut read, 9)
            .expect("a removed file stays readable");
        assert_eq!(
            disk.open(&dir.join("c")).err().map(|error| error.kind()),
            Some(ErrorKind::NotFound)
        );
        disk.sync_dir(&dir).expect("sync dir");
        assert!(disk.space_available(&dir).expect("space") > 4096);
    }
}

#[test]
fn a_full_simulated_disk_refuses_growth_and_allows_rewriting() {
    let sim = SimDisk::new(3);
    let disk = sim.boot();
    disk.create_dir_all(Path::new("/d")).expect("dir");
    sim.set_capacity(1000);
    let file = disk.create(Path::new("/d/a")).expect("create");
    file.write_at(&[1; 1000], 0).expect("fits");
    let error = file.write_at(&[1], 1000).expect_err("full");
    assert!(is_full(&error));
    file.write_at(&[2; 1000], 0)
        .expect("rewriting needs no space");
    assert_eq!(sim.faults().writes_full, 1);
}
