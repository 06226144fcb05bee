//! One claim each, on the simulated disk.

use super::*;

#[test]
fn a_block_reads_back_whole_and_in_ranges() {
    let disk = SimDisk::new(1);
    let (store, _) = open(&disk);
    let bytes = data(1, 300_000);
    assert_eq!(
        put(&store, key(1, 0), 5, &bytes).expect("room"),
        Stored::Written
    );
    assert_eq!(read(&store, key(1, 0)).expect("held"), bytes);
    let to_the_end = Range { start: 7, end: 0 };
    for range in [
        0..1,
        65_535..65_537,
        10..270_000,
        262_144..262_145,
        299_999..300_000,
        to_the_end,
    ] {
        let end = if range.end == 0 { 300_000 } else { range.end };
        let got = read_range(&store, key(1, 0), range.clone()).expect("held");
        assert_eq!(got, bytes[range.start as usize..end as usize], "{range:?}");
    }
    for range in [300_000..300_001, 0..300_001, 5..5] {
        let refused = ReadError::OutOfRange { bytes: 300_000 };
        assert_eq!(read_range(&store, key(1, 0), range), Err(refused));
    }
    assert_eq!(read(&store, key(1, 1)), Err(ReadError::NotHeld));
}

#[test]
fn the_same_block_again_is_held_and_another_under_its_id_is_refused() {
    let disk = SimDisk::new(2);
    let (store, _) = open(&disk);
    let (bytes, others) = (data(1, 9_000), data(2, 9_000));
    assert_eq!(
        put(&store, key(1, 0), 5, &bytes).expect("room"),
        Stored::Written
    );
    assert_eq!(
        put(&store, key(1, 0), 5, &bytes).expect("same"),
        Stored::Held
    );
    assert!(matches!(
        put(&store, key(1, 0), 5, &others),
        Err(PutError::Conflict)
    ));
    // Two at once: the second must not slip past the first, which is not in the index yet.
    let first = submit_put(&store, block(&store, key(2, 0), 5, &bytes), PutMode::Upload);
    let second = submit_put(
        &store,
        block(&store, key(2, 0), 5, &others),
        PutMode::Upload,
    );
    let third = submit_put(&store, block(&store, key(2, 0), 5, &bytes), PutMode::Upload);
    while store.turn() {}
    assert!(matches!(first.lock().take(), Some(Ok(Stored::Written))));
    assert!(matches!(
        second.lock().take(),
        Some(Err(PutError::Conflict))
    ));
    assert!(matches!(third.lock().take(), Some(Ok(Stored::Held))));
    // What the shard's state says counts more than what was uploaded.
    let repaired = put_mode(&store, key(1, 0), 5, &others, PutMode::Repair);
    assert_eq!(repaired.expect("room"), Stored::Written);
    assert_eq!(read(&store, key(1, 0)).expect("held"), others);
    drop(store);
    disk.power_cut();
    let (store, report) = open(&disk);
    assert_eq!(report.blocks, 2);
    assert_eq!(read(&store, key(1, 0)).expect("held"), others);
}

/// Garbage collection goes by the epoch on disk: a receipt for a newer upload needs the newer one there.
#[test]
fn an_upload_under_a_newer_epoch_moves_the_block_to_it() {
    let disk = SimDisk::new(3);
    let (store, _) = open(&disk);
    let bytes = data(1, 9_000);
    put(&store, key(1, 0), 5, &bytes).expect("room");
    assert_eq!(
        put(&store, key(1, 0), 7, &bytes).expect("room"),
        Stored::Written
    );
    assert_eq!(
        put(&store, key(1, 0), 6, &bytes).expect("newer is there"),
        Stored::Held
    );
    assert_eq!(unlink(&store, vec![key(1, 0)], 6).expect("nothing due"), 0);
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk);
    assert_eq!(
        store.head(key(1, 0)).expect("held").owner.upload_epoch,
        UploadEpoch(7)
    );
    assert_eq!(unlink(&store, vec![key(1, 0)], 7).expect("due"), 1);
    drop(store);
    disk.power_cut();
    let (store, report) = open(&disk);
    assert_eq!(report.blocks, 0);
    assert_eq!(read(&store, key(1, 0)), Err(ReadError::NotHeld));
}

#[test]
fn nothing_is_answered_before_the_sync() {
    let disk = SimDisk::new(4);
    let (store, _) = open(&disk);
    put(&store, key(9, 9), 5, &data(9, 5_000)).expect("a segment is there");
    let outcomes: Vec<_> = (0..3)
        .map(|n| {
            submit_put(
                &store,
                block(&store, key(1, n), 5, &data(1, 9_000)),
                PutMode::Upload,
            )
        })
        .collect();
    assert!(outcomes.iter().all(|outcome| outcome.lock().is_none()));
    let before = disk.syncs();
    disk.fail_sync_in(0);
    store.turn();
    for outcome in outcomes {
        assert!(matches!(
            outcome.lock().take(),
            Some(Err(PutError::Failed(_)))
        ));
    }
    assert_eq!(disk.syncs(), before, "one sync was shared, and it failed");
    assert!(store.failed().is_some());
    assert!(matches!(
        put(&store, key(2, 0), 5, &data(1, 9_000)),
        Err(PutError::Failed(_))
    ));
    assert_eq!(
        disk.syncs(),
        before,
        "a failed sync is not followed by another"
    );
}

/// After a failed sync the page cache shows what the disk does not have, and a plain sync would not write it.
#[test]
fn what_is_held_after_a_failed_sync_and_a_restart_survives_a_power_cut() {
    let mut came_back = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (store, _) = open(&disk);
        put(&store, key(9, 9), 5, &data(9, 5_000)).expect("a segment is there");
        disk.fail_sync_in(0);
        put(&store, key(1, 0), 5, &data(1, 9_000)).expect_err("the sync fails");
        drop(store);
        disk.kill();
        let (store, report) = open(&disk);
        assert!(report.rewritten);
        let held = read(&store, key(1, 0)).is_ok();
        came_back += u32::from(held);
        drop(store);
        disk.power_cut();
        let (store, report) = open(&disk);
        assert!(!report.rewritten);
        assert_eq!(read(&store, key(1, 0)).is_ok(), held, "seed {seed}");
        assert!(read(&store, key(9, 9)).is_ok());
    }
    assert!(came_back > 0, "the cache showed the block in no run");
}

/// A killed process leaves complete records in the page cache that nobody synced.
#[test]
fn what_is_held_after_a_kill_survives_a_power_cut() {
    let written = SimDisk::new(20);
    let (store, _) = open(&written);
    put(&store, key(1, 0), 5, &data(1, 9_000)).expect("room");
    drop(store);
    let disk = SimDisk::new(21);
    let running = disk.boot();
    running.create_dir_all(Path::new(DIR)).expect("a folder");
    for path in written.paths() {
        let file = running.create(&path).expect("a fresh disk");
        file.write_at(&written.content(&path).expect("a file"), 0)
            .expect("room");
    }
    running
        .sync_dir(Path::new(DIR))
        .expect("names are durable, contents are not");
    disk.kill();
    let (store, _) = open(&disk);
    assert!(store.holds(&key(1, 0), &digest(&data(1, 9_000))));
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk);
    assert!(read(&store, key(1, 0)).is_ok());
}

#[test]
fn a_block_that_did_not_fit_leaves_nothing_behind() {
    let disk = SimDisk::new(22);
    let (store, _) = open(&disk);
    // Room by the count, but not for the header of a fresh segment beside the block.
    disk.set_capacity(20_992 + 100);
    assert!(matches!(
        put(&store, key(1, 0), 5, &data(1, 20_000)),
        Err(PutError::Full { .. })
    ));
    assert!(store.failed().is_none());
    drop(store);
    disk.kill();
    let (store, report) = open(&disk);
    assert_eq!((report.blocks, report.torn), (0, 0));
    disk.set_capacity(u64::MAX);
    assert!(put(&store, key(1, 0), 5, &data(2, 20_000)).is_ok());
}

#[test]
fn a_flipped_bit_in_the_data_is_found_said_and_repaired() {
    let disk = SimDisk::new(5);
    let (store, _) = open(&disk);
    let bytes = data(1, 80_000);
    put(&store, key(1, 0), 5, &bytes).expect("room");
    let path = disk
        .paths()
        .into_iter()
        .find(|p| p.extension().is_some())
        .expect("a segment");
    // In the second unit, so that a range in the first is still good.
    assert!(disk.flip_bit(&path, (4096 + 512 + 70_000) * 8));
    assert_eq!(
        read_range(&store, key(1, 0), 0..65_536).expect("good"),
        bytes[..65_536]
    );
    assert_eq!(
        read_range(&store, key(1, 0), 70_000..70_001),
        Err(ReadError::Damaged)
    );
    assert_eq!(read(&store, key(1, 0)), Err(ReadError::Damaged));
    assert!(!store.holds(&key(1, 0), &digest(&bytes)));
    assert_eq!(store.damaged().len(), 1);
    let repaired = put_mode(&store, key(1, 0), 5, &bytes, PutMode::Repair);
    assert_eq!(repaired.expect("room"), Stored::Written);
    assert_eq!(read(&store, key(1, 0)).expect("repaired"), bytes);
    assert_eq!(store.stats().damaged, 0);
}

#[test]
fn a_read_that_fails_for_another_reason_does_not_make_a_good_copy_count_as_damaged() {
    let disk = SimDisk::new(23);
    let (store, _) = open(&disk);
    put(&store, key(1, 0), 5, &data(1, 9_000)).expect("room");
    for reads in [0, 1] {
        disk.fail_read_in(reads);
        assert_eq!(read(&store, key(1, 0)), Err(ReadError::Unreadable));
    }
    assert_eq!(store.stats().damaged, 0);
    assert!(read(&store, key(1, 0)).is_ok());
}

#[test]
fn a_scrub_finds_damage_that_nobody_reads() {
    let disk = SimDisk::new(6);
    let (store, _) = open(&disk);
    for n in 0..6 {
        put(&store, key(1, n), 5, &data(u64::from(n), 20_000)).expect("room");
    }
    let mut cursor = ScrubCursor::default();
    let mut seen = Scrubbed::default();
    let mut steps = 0;
    while !seen.round_done {
        let step = store.scrub(&mut cursor, 30_000);
        assert!(
            step.bytes <= 50_000,
            "a step is bounded to a block beyond what was asked for"
        );
        seen.blocks += step.blocks;
        seen.round_done = step.round_done;
        steps += 1;
    }
    assert_eq!((seen.blocks, steps), (6, 4));
    let path = disk
        .paths()
        .into_iter()
        .find(|p| p.extension().is_some())
        .expect("a segment");
    assert!(disk.flip_bit(&path, (4096 + 600) * 8));
    // And one in a header, which a walk over the file would pass by.
    assert!(disk.flip_bit(&path, (4096 + 512 + 20_480 + 30) * 8));
    let step = store.scrub(&mut ScrubCursor::default(), u64::MAX);
    assert_eq!((step.blocks, step.damaged, step.round_done), (4, 2, true));
    assert_eq!(store.damaged().len(), 2);
}

#[test]
fn the_walk_goes_on_behind_a_damaged_header() {
    let disk = SimDisk::new(7);
    let (store, _) = open(&disk);
    for n in 0..3 {
        put(&store, key(1, n), 5, &data(u64::from(n), 10_000)).expect("room");
    }
    drop(store);
    let path = disk
        .paths()
        .into_iter()
        .find(|p| p.extension().is_some())
        .expect("a segment");
    assert!(disk.flip_bit(&path, (4096 + 512 + 10_240 + 100) * 8));
    disk.kill();
    let (store, report) = open(&disk);
    assert_eq!((report.blocks, report.gaps, report.torn), (2, 1, 0));
    assert!(read(&store, key(1, 0)).is_ok());
    assert_eq!(read(&store, key(1, 1)), Err(ReadError::NotHeld));
    assert!(read(&store, key(1, 2)).is_ok());
}

/// Block bytes are chosen by clients: one that holds what looks like a record must not become one when the header
/// before it is lost.
#[test]
fn bytes_of_a_block_are_never_taken_for_a_header() {
    let disk = SimDisk::new(8);
    let (store, _) = open(&disk);
    let first = data(1, 10_000);
    put(&store, key(1, 0), 5, &first).expect("room");
    let path = disk
        .paths()
        .into_iter()
        .find(|p| p.extension().is_some())
        .expect("a segment");
    // A whole record of another segment, aligned as a record is.
    let stolen = disk.content(&path).expect("a file")[4096..4096 + 512 + 10_000].to_vec();
    store.roll().expect("synced");
    put(&store, key(2, 0), 5, &stolen).expect("room");
    put(&store, key(3, 0), 5, &data(3, 10_000)).expect("room");
    unlink(&store, vec![key(1, 0)], 5).expect("due");
    drop(store);
    let second = disk.paths().into_iter().rfind(|p| p.extension().is_some());
    assert!(disk.flip_bit(&second.expect("a segment"), (4096 + 20) * 8));
    disk.kill();
    let (store, report) = open(&disk);
    assert_eq!((report.gaps, report.blocks), (1, 1));
    assert_eq!(read(&store, key(1, 0)), Err(ReadError::NotHeld));
    assert!(read(&store, key(3, 0)).is_ok());
}

#[test]
fn an_empty_segment_is_removed_and_numbers_go_on() {
    let disk = SimDisk::new(9);
    let (store, _) = open(&disk);
    let keys: Vec<_> = (0..12).map(|n| key(1, n)).collect();
    for key in &keys {
        put(&store, *key, 5, &data(u64::from(key.number.0), 20_000)).expect("room");
    }
    let before = store.stats().segments;
    assert!(before >= 3);
    assert_eq!(unlink(&store, keys, 5).expect("due"), 12);
    assert_eq!(store.stats().segments, 1, "the one being written stays");
    drop(store);
    disk.power_cut();
    let (store, report) = open(&disk);
    assert_eq!((report.segments, report.blocks), (1, 0));
    put(&store, key(2, 0), 5, &data(2, 5_000)).expect("room");
    assert_eq!(store.stats().segments, 2);
}

#[test]
fn a_full_disk_refuses_blocks_and_still_unlinks_them() {
    let disk = SimDisk::new(10);
    let reserve = 50_000;
    let (store, _) = open_with(
        disk.boot(),
        StoreOptions {
            space_reserve_bytes: reserve,
            ..options()
        },
    );
    disk.set_capacity(200_000);
    let mut stored = Vec::new();
    let refused = loop {
        let key = key(1, u32::try_from(stored.len()).expect("few"));
        match put(&store, key, 5, &data(1, 20_000)) {
            Ok(_) => stored.push(key),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            refused,
            PutError::Full {
                reserve: 50_000,
                ..
            }
        ),
        "{refused}"
    );
    assert!(store.failed().is_none());
    assert!(
        200_000 - disk.used_bytes() >= reserve,
        "the reserve is untouched"
    );
    assert!(stored.len() > 3);
    // The disk of others fills up to the last byte: tombstones are written in place.
    disk.set_capacity(disk.used_bytes());
    assert_eq!(
        unlink(&store, stored.clone(), 5).expect("due"),
        stored.len() as u64
    );
    drop(store);
    disk.power_cut();
    disk.set_capacity(200_000);
    let (store, report) = open_with(
        disk.boot(),
        StoreOptions {
            space_reserve_bytes: reserve,
            ..options()
        },
    );
    assert_eq!(report.blocks, 0);
    assert!(
        put(&store, key(2, 0), 5, &data(1, 20_000)).is_ok(),
        "and there is room again"
    );
}

#[test]
fn a_folder_in_use_is_refused() {
    let disk = SimDisk::new(11);
    let (store, _) = open(&disk);
    let second = BlockStore::open(disk.boot(), Path::new(DIR), options());
    assert!(matches!(second.err(), Some(OpenError::InUse)));
    drop(store);
    assert!(BlockStore::open(disk.boot(), Path::new(DIR), options()).is_ok());
}

#[test]
fn a_block_replaced_while_it_is_read_is_not_called_damaged() {
    let disk = SimDisk::new(12);
    let (store, _) = open(&disk);
    put(&store, key(1, 0), 5, &data(1, 600_000)).expect("room");
    let mut reader = store.read(key(1, 0), 0..0).expect("held");
    assert!(reader.piece().expect("good").is_some());
    unlink(&store, vec![key(1, 0)], 5).expect("due");
    assert_eq!(reader.piece().err(), Some(ReadError::NotHeld));
    assert_eq!(store.stats().damaged, 0);
}

#[test]
fn what_is_settled_is_passed_by_until_it_is_not() {
    let disk = SimDisk::new(13);
    let (store, _) = open(&disk);
    for n in 0..3 {
        put(&store, key(n, 0), 5, &data(1, 5_000)).expect("room");
    }
    let unsettled = || {
        let (held, next) = store.unsettled(None, 10);
        assert_eq!(next, None);
        held.into_iter()
            .map(|held| held.key.version.0[0])
            .collect::<Vec<_>>()
    };
    store.settle(key(1, 0).version, true);
    assert_eq!(unsettled(), [0, 2]);
    store.unsettle(SHARD);
    assert_eq!(unsettled(), [0, 1, 2]);
    let (held, next) = store.unsettled(None, 2);
    assert_eq!((held.len(), next), (2, Some(key(1, 0))));
    assert_eq!(store.unsettled(next, 2).0.len(), 1);
}
