//! The volume against a model of it: what a power cut may and may not leave.

use super::*;

fn volume() -> (tempfile::TempDir, Volume) {
    let dir = tempfile::tempdir().expect("a folder");
    let volume = Volume::open(dir.path()).expect("an empty volume");
    (dir, volume)
}

fn read(volume: &Volume, inode: u64) -> Vec<u8> {
    volume
        .file(inode)
        .and_then(|file| file.read(0, 1 << 20))
        .expect("a file")
}

fn cut(volume: &mut Volume, survival: Survival, seed: u64) {
    volume
        .cut(survival, seed)
        .expect("the backing folder works");
    assert!(
        volume
            .lookup(ROOT, "any")
            .is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
    );
    volume.power_on();
}

#[test]
fn what_was_synced_survives_and_what_was_not_is_gone() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.write(file, 0, b"synced").expect("room");
    volume.sync(file).expect("works");
    volume.sync_dir(ROOT).expect("works");
    volume.write(file, 3, b"later and longer").expect("room");
    assert_eq!(read(&volume, file), b"synlater and longer");
    cut(&mut volume, Survival::Nothing, 1);
    assert_eq!(read(&volume, file), b"synced");
    assert_eq!(volume.lookup(ROOT, "f").expect("durable"), file);
}

#[test]
fn a_synced_file_whose_folder_was_not_synced_has_no_name() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.write(file, 0, b"synced").expect("room");
    volume.sync(file).expect("works");
    cut(&mut volume, Survival::Nothing, 1);
    assert!(volume.lookup(ROOT, "f").is_err());
}

#[test]
fn a_folder_is_as_durable_as_its_own_name() {
    let (_dir, mut volume) = volume();
    let dir = volume.create(ROOT, "d", true).expect("room");
    volume.create(dir, "f", false).expect("room");
    volume.sync_dir(dir).expect("works");
    cut(&mut volume, Survival::Nothing, 1);
    assert!(volume.lookup(ROOT, "d").is_err());
    assert_eq!(volume.inodes.len(), 1, "nothing unreachable is kept");
}

#[test]
fn an_unsynced_rename_leaves_the_old_name_and_a_synced_one_the_new() {
    let (_dir, mut volume) = volume();
    let (old, new) = (
        volume.create(ROOT, "f", false),
        volume.create(ROOT, "tmp", false),
    );
    let (old, new) = (old.expect("room"), new.expect("room"));
    volume.sync_dir(ROOT).expect("works");
    volume
        .rename((ROOT, "tmp"), (ROOT, "f"))
        .expect("both there");
    cut(&mut volume, Survival::Nothing, 1);
    assert_eq!(volume.lookup(ROOT, "f").expect("durable"), old);
    assert_eq!(volume.lookup(ROOT, "tmp").expect("durable"), new);
    volume
        .rename((ROOT, "tmp"), (ROOT, "f"))
        .expect("both there");
    volume.sync_dir(ROOT).expect("works");
    cut(&mut volume, Survival::Nothing, 1);
    assert_eq!(volume.lookup(ROOT, "f").expect("durable"), new);
    assert!(volume.lookup(ROOT, "tmp").is_err());
    assert!(volume.inode(old).is_err());
}

#[test]
fn a_truncation_is_undone_by_a_cut_and_reads_as_zeros_before_it() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.write(file, 0, &[7; 9000]).expect("room");
    volume.sync(file).expect("works");
    volume.sync_dir(ROOT).expect("works");
    volume.resize(file, 5000).expect("works");
    volume.resize(file, 9000).expect("works");
    let held = read(&volume, file);
    assert!(held[..5000].iter().all(|b| *b == 7) && held[5000..].iter().all(|b| *b == 0));
    cut(&mut volume, Survival::Nothing, 1);
    assert_eq!(read(&volume, file), vec![7; 9000]);
    volume.resize(file, 5000).expect("works");
    volume.resize(file, 9000).expect("works");
    volume.sync(file).expect("works");
    cut(&mut volume, Survival::Nothing, 1);
    assert_eq!(read(&volume, file), held);
}

#[test]
fn pages_survive_a_mixed_cut_whole_torn_and_not_at_all() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.write(file, 0, &[1; 64 * 4096]).expect("room");
    volume.sync(file).expect("works");
    volume.sync_dir(ROOT).expect("works");
    volume.write(file, 0, &[2; 64 * 4096]).expect("room");
    cut(&mut volume, Survival::Mixed, 1);
    let counts = volume.counts();
    assert!(
        counts.pages_kept > 0 && counts.pages_lost > 0 && counts.pages_torn > 0,
        "{counts:?}"
    );
    let held = read(&volume, file);
    let sectors = held.chunks(512);
    assert!(
        sectors.into_iter().all(|s| s.iter().all(|b| *b == s[0])),
        "a sector is torn"
    );
    assert!(held.contains(&1) && held.contains(&2));
}

#[test]
fn after_a_failed_sync_the_data_is_readable_and_lost_though_the_next_sync_succeeds() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.sync_dir(ROOT).expect("works");
    volume.write(file, 0, b"data").expect("room");
    volume.fail_sync_in(0);
    assert!(volume.sync(file).is_err());
    volume.sync(file).expect("works, and proves nothing");
    assert_eq!(read(&volume, file), b"data");
    cut(&mut volume, Survival::Mixed, 1);
    assert_ne!(read(&volume, file), b"data");
}

#[test]
fn a_read_at_or_past_the_end_is_empty() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.write(file, 0, &[1; 10]).expect("room");
    for offset in [10, 11, 4096, 1 << 40] {
        let held = volume.file(file).and_then(|file| file.read(offset, 4096));
        assert_eq!(held.expect("works"), b"", "at {offset}");
    }
}

#[test]
fn an_unsynced_length_survives_a_mixed_cut_or_not_and_shows_zeros_or_what_was_there() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..20 {
        let (_dir, mut volume) = volume();
        let file = volume.create(ROOT, "f", false).expect("room");
        volume.write(file, 0, &[7; 9000]).expect("room");
        volume.sync(file).expect("works");
        volume.sync_dir(ROOT).expect("works");
        volume.resize(file, 100).expect("works");
        volume.resize(file, 20_000).expect("works");
        cut(&mut volume, Survival::Mixed, seed);
        let held = read(&volume, file);
        match held.len() {
            9000 => lost += 1,
            20_000 => kept += 1,
            other => panic!("{other} bytes"),
        }
        let sevens = held.iter().take_while(|b| **b == 7).count();
        assert_eq!(sevens, if held.len() == 9000 { 9000 } else { 100 });
        assert!(held[sevens..].iter().all(|b| *b == 0));
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[test]
fn ignored_syncs_succeed_and_keep_nothing() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.write(file, 0, b"kept").expect("room");
    volume.sync(file).expect("works");
    volume.sync_dir(ROOT).expect("works");
    volume.ignore_syncs(true);
    volume.write(file, 0, b"lost").expect("room");
    volume.sync(file).expect("says so");
    volume.create(ROOT, "g", false).expect("room");
    volume.sync_dir(ROOT).expect("says so");
    cut(&mut volume, Survival::Nothing, 1);
    assert_eq!(read(&volume, file), b"kept");
    assert!(volume.lookup(ROOT, "g").is_err());
    assert_eq!(volume.counts().syncs_ignored, 2);
}

#[test]
fn handles_of_an_earlier_boot_are_dead() {
    let (_dir, mut volume) = volume();
    let boot = volume.boot();
    volume.handle(boot).expect("of this boot");
    cut(&mut volume, Survival::Nothing, 1);
    assert!(volume.handle(boot).is_err());
    volume.handle(volume.boot()).expect("of this boot");
}

#[test]
fn a_full_volume_refuses_to_grow_and_still_overwrites_and_removes() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    let held = volume.create(ROOT, "h", false).expect("room");
    volume.write(held, 0, b"before").expect("room");
    volume.set_full(true);
    volume.write(held, 0, b"behind").expect("its own room");
    let full =
        |result: io::Result<()>| result.is_err_and(|e| e.raw_os_error() == Some(libc::ENOSPC));
    assert!(full(volume.write(file, 0, b"x")));
    assert!(full(volume.write(held, 3, b"longer")));
    assert_eq!(read(&volume, held), b"behind");
    assert!(full(volume.create(ROOT, "g", false).map(drop)));
    volume.remove(ROOT, "f", false).expect("frees room");
    volume.set_full(false);
    volume.create(ROOT, "g", false).expect("room");
}

#[test]
fn a_removed_file_is_readable_while_it_is_open() {
    let (_dir, mut volume) = volume();
    let file = volume.create(ROOT, "f", false).expect("room");
    volume.sync_dir(ROOT).expect("works");
    volume.opened(file).expect("there");
    volume.write(file, 0, b"data").expect("room");
    volume.remove(ROOT, "f", false).expect("there");
    volume.sync_dir(ROOT).expect("works");
    assert_eq!(read(&volume, file), b"data");
    volume.closed(file, volume.boot()).expect("works");
    assert!(volume.inode(file).is_err());
}

#[test]
fn what_was_renamed_over_since_it_was_looked_up_is_stale() {
    let (_dir, mut volume) = volume();
    volume.create(ROOT, "f", false).expect("room");
    volume.sync_dir(ROOT).expect("works");
    let old = volume.lookup(ROOT, "f").expect("there");
    let fresh = volume.create(ROOT, "f.new", false).expect("room");
    volume.rename((ROOT, "f.new"), (ROOT, "f")).expect("there");
    volume.sync_dir(ROOT).expect("works");
    // "Stale" has the kernel look the name up again; "no such file" would be a lie about it.
    let refused = volume.opened(old).expect_err("it is gone");
    assert_eq!(refused.raw_os_error(), Some(libc::ESTALE));
    assert_eq!(volume.lookup(ROOT, "f").expect("there"), fresh);
}

#[test]
fn a_volume_opened_again_holds_what_was_durable() {
    let (dir, mut volume) = volume();
    let sub = volume.create(ROOT, "d", true).expect("room");
    let file = volume.create(sub, "f", false).expect("room");
    volume.link(file, sub, "g").expect("room");
    volume.write(file, 0, b"synced").expect("room");
    volume.sync(file).expect("works");
    volume.sync_dir(sub).expect("works");
    volume.sync_dir(ROOT).expect("works");
    volume.write(file, 0, b"not it").expect("room");
    drop(volume);
    let again = Volume::open(dir.path()).expect("a volume");
    let sub = again.lookup(ROOT, "d").expect("durable");
    let file = again.lookup(sub, "f").expect("durable");
    assert_eq!(again.lookup(sub, "g").expect("durable"), file);
    assert_eq!(read(&again, file), b"synced");
}
