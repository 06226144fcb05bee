//! Segment files that are removed, cut or written over while the store runs.

use std::path::PathBuf;

use super::*;

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|found| found == "blocks"));
    paths
}

/// A store of two segments: one that is closed, with two blocks, and one being written, with one.
fn two_segments(disk: &SimDisk) -> BlockStore {
    let (store, _) = open(disk);
    put(&store, key(1, 0), 5, &data(1, 20_000)).expect("room");
    put(&store, key(1, 1), 5, &data(2, 20_000)).expect("room");
    store.roll().expect("a healthy disk");
    put(&store, key(2, 0), 5, &data(3, 20_000)).expect("room");
    store
}

#[test]
fn segments_that_stand_are_left_alone() {
    let disk = SimDisk::new(40);
    let store = two_segments(&disk);
    let whole = SegmentsChecked {
        segments: 2,
        ..SegmentsChecked::default()
    };
    assert_eq!(store.check_segments().expect("a healthy disk"), whole);
    assert_eq!(store.stats().damaged_found, 0);
}

/// Both copies of the header are gone: every block of the segment would be missing after the next start.
#[test]
fn a_segment_header_that_went_bad_is_written_again() {
    for copies in [&[0][..], &[1], &[0, 1]] {
        let disk = SimDisk::new(41);
        let store = two_segments(&disk);
        for path in segments(&disk) {
            for copy in copies {
                assert!(disk.flip_bit(&path, (copy * 512 + 17) * 8));
            }
        }
        let checked = store.check_segments().expect("it can be written");
        assert_eq!((checked.mended, checked.lost), (2, 0), "{copies:?}");
        drop(store);
        disk.power_cut();
        let (store, report) = open(&disk);
        assert_eq!(
            (report.blocks, report.unreadable_segments, report.torn),
            (3, 0, 0)
        );
        assert_eq!(read(&store, key(2, 0)), Ok(data(3, 20_000)));
    }
}

/// Open handles go on reading a file that has no name any more: nothing but a look at the name tells.
#[test]
fn blocks_of_a_removed_segment_are_damaged_and_can_be_stored_again() {
    for lost in [0, 1] {
        let disk = SimDisk::new(42);
        let store = two_segments(&disk);
        let path = segments(&disk).remove(lost);
        disk.boot().remove(&path).expect("it is there");
        // Or a power cut would bring it back.
        let folder = path.parent().expect("the store's folder");
        disk.boot().sync_dir(folder).expect("a healthy disk");
        let checked = store.check_segments().expect("a healthy disk");
        let keys: &[_] = match lost {
            0 => &[key(1, 0), key(1, 1)],
            _ => &[key(2, 0)],
        };
        assert_eq!((checked.lost, checked.lost_blocks), (1, keys.len() as u64));
        assert_eq!(store.stats().damaged_found, keys.len() as u64);
        let damaged: Vec<_> = store.damaged().iter().map(|held| held.key).collect();
        assert_eq!(damaged, keys);
        for (n, at) in keys.iter().enumerate() {
            assert_eq!(read(&store, *at), Err(ReadError::Damaged));
            let bytes = data(70 + n as u64, 20_000);
            let again = put_mode(&store, *at, 5, &bytes, PutMode::Repair);
            assert_eq!(again.expect("room"), Stored::Written);
        }
        // Tombstones for what stood in the lost file have nowhere to go, and that ends nothing.
        assert!(store.failed().is_none());
        assert_eq!(unlink(&store, vec![keys[0]], 5).expect("due"), 1);
        let checked = store.check_segments().expect("a healthy disk");
        assert_eq!((checked.lost, checked.mended), (0, 0));
        drop(store);
        disk.power_cut();
        let (store, report) = open(&disk);
        assert_eq!((report.blocks, report.torn), (2, 0), "{report:?}");
        assert_eq!(read(&store, keys[0]), Err(ReadError::NotHeld));
    }
}

#[test]
fn a_segment_cut_short_loses_what_stood_behind_the_cut_and_no_more() {
    let disk = SimDisk::new(43);
    let store = two_segments(&disk);
    let path = segments(&disk).remove(0);
    assert!(disk.cut_file(&path, 4096 + 512 + 20_480 + 512 + 5_000));
    assert_eq!(
        store.check_segments().expect("a healthy disk").lost,
        0,
        "its header is there"
    );
    let step = store.scrub(&mut ScrubCursor::default(), u64::MAX);
    assert_eq!((step.blocks, step.damaged), (2, 1));
    assert_eq!(read(&store, key(1, 1)), Err(ReadError::Damaged));
    assert!(disk.cut_file(&path, 0));
    let checked = store.check_segments().expect("a healthy disk");
    assert_eq!((checked.lost, checked.mended), (0, 1));
    let step = store.scrub(&mut ScrubCursor::default(), u64::MAX);
    assert_eq!((step.blocks, step.damaged), (1, 1));
    assert_eq!(store.stats().damaged_found, 2);
}

/// Whatever has the name by now is not ours: it is neither read nor written.
#[test]
fn another_file_under_a_segments_name_is_left_alone() {
    let disk = SimDisk::new(44);
    let store = two_segments(&disk);
    let path = segments(&disk).remove(0);
    let machine = disk.boot();
    machine.remove(&path).expect("it is there");
    let other = machine.create(&path).expect("the name is free");
    other.write_at(&[7; 5_000], 0).expect("room");
    let checked = store.check_segments().expect("a healthy disk");
    assert_eq!((checked.lost, checked.lost_blocks), (1, 2));
    assert_eq!(disk.content(&path), Some(vec![7; 5_000]));
}

#[test]
fn a_round_reads_every_block_once_wherever_it_begins() {
    let disk = SimDisk::new(45);
    let (store, _) = open(&disk);
    for n in 1..=6 {
        put(&store, key(n, 0), 5, &data(u64::from(n), 10_000)).expect("room");
    }
    for begin in [0, 0x0404_0404_0404_0404, u64::MAX] {
        let mut cursor = ScrubCursor::starting_near(begin);
        for _ in 0..2 {
            let (mut blocks, mut done) = (0, false);
            while !done {
                let step = store.scrub(&mut cursor, 10_000);
                blocks += step.blocks;
                done = step.round_done;
            }
            assert_eq!(blocks, 6, "from {begin:x}");
        }
    }
    let (empty, _) = open(&SimDisk::new(46));
    assert!(
        empty
            .scrub(&mut ScrubCursor::starting_near(9), 1)
            .round_done
    );
}
