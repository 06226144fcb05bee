//! What is kept, becomes garbage, and stands in the change index.

use super::*;

#[test]
fn without_versioning_an_overwrite_turns_the_old_blocks_into_garbage() {
    let mut shard = Shard::new();
    shard.advance_epoch();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    let fresh = local::fresh(LogIndex(shard.index), &version(1));
    assert!(
        shard.local.value(&fresh).is_some(),
        "a new reference is to be resolved"
    );
    let answer = done(shard.run(Command::PutObject(put("a", version(2)))));
    assert_eq!(answer.replaced_version_id, version(1).as_bytes()[..]);
    assert!(shard.local.value(&fresh).is_none(), "a freed one is not");
    let mut found = Vec::new();
    read::garbage(&shard.state, UploadEpoch(1), &mut |epoch, id, record| {
        found.push((epoch, id, record.blocks));
        true
    });
    assert_eq!(found, [(UploadEpoch(1), version(1), 2)]);
    read::garbage(&shard.state, UploadEpoch(0), &mut |_, _, _| {
        panic!("freed too early")
    });
    assert!(read::object(&shard.state, &DATASET, "a", Some(&version(1))).is_none());
}

#[test]
fn garbage_records_go_when_no_upload_of_their_time_can_be_finished() {
    let mut shard = Shard::new();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    done(shard.run(Command::DeleteObject(delete("a"))));
    shard.advance_epochs(limits::EPOCHS_KEPT);
    shard.sweep_all();
    let again = || finish_at("a", version(1), &[1, 2], UploadEpoch(0));
    assert_eq!(
        reason(shard.run(Command::FinishObject(again()))),
        Refusal::VersionIdReused
    );
    shard.advance_epoch();
    shard.sweep_all();
    read::garbage(&shard.state, UploadEpoch(99), &mut |_, _, _| {
        panic!("it stayed")
    });
    assert_eq!(
        reason(shard.run(Command::FinishObject(again()))),
        Refusal::UploadTooOld
    );
}

#[test]
fn with_versioning_nothing_is_lost_until_it_is_named() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    done(shard.run(Command::PutObject(put("a", version(2)))));
    let marker = done(shard.run(Command::DeleteObject(delete_with_marker("a", version(3)))));
    assert_eq!(marker.version_id, version(3).as_bytes()[..]);
    assert_eq!(shard.current_id("a"), None);
    assert!(
        read::object(&shard.state, &DATASET, "a", None)
            .expect("a marker")
            .delete_marker
    );
    for n in [1, 2] {
        let old = read::object(&shard.state, &DATASET, "a", Some(&version(n))).expect("kept");
        assert_eq!(old.version_id, version(n).as_bytes()[..]);
    }
    assert!(
        read::object(&shard.state, &DATASET, "b", Some(&version(1))).is_none(),
        "other key"
    );
    // Without the marker the newest is current again, and so on down.
    done(shard.run(Command::DeleteObject(delete_version("a", version(3)))));
    assert_eq!(shard.current_id("a"), Some(version(2)));
    done(shard.run(Command::DeleteObject(delete_version("a", version(2)))));
    assert_eq!(shard.current_id("a"), Some(version(1)));
    let missing = Command::DeleteObject(delete_version("b", version(1)));
    assert_eq!(reason(shard.run(missing)), Refusal::NoSuchObject);
    done(shard.run(Command::DeleteObject(delete_version("a", version(1)))));
    let gone = Command::DeleteObject(delete_version("a", version(1)));
    assert_eq!(reason(shard.run(gone)), Refusal::NoSuchObject);
    assert_eq!(shard.dataset().versions, 0);
}

#[test]
fn with_versioning_a_delete_needs_an_id_for_its_marker() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(
        reason(shard.run(Command::DeleteObject(delete("a")))),
        Refusal::Malformed
    );
    let spoils: [Spoil<v1::DeleteObject>; 4] = [
        |d| d.key = String::new(),
        |d| d.version_id = Bytes::from_static(b"x"),
        |d| d.new_marker_id = Bytes::from_static(b"x"),
        |d| {
            d.precondition = Some(v1::Precondition {
                if_match: Bytes::from_static(b"x"),
                ..Default::default()
            })
        },
    ];
    for spoil in spoils {
        let mut asked = delete_with_marker("a", version(2));
        spoil(&mut asked);
        assert_eq!(
            reason(shard.run(Command::DeleteObject(asked))),
            Refusal::Malformed
        );
    }
}

#[test]
fn versions_made_under_versioning_outlive_it() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    set_versioning(&mut shard, false);
    done(shard.run(Command::PutObject(put("a", version(2)))));
    done(shard.run(Command::PutObject(put("a", version(3)))));
    let ids = |shard: &Shard| {
        all_versions(shard)
            .into_iter()
            .map(|(_, id)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&shard),
        [version(3).to_string(), version(1).to_string()]
    );
    // A plain delete hides the key and drops only what was not kept.
    assert_eq!(
        reason(shard.run(Command::DeleteObject(delete("a")))),
        Refusal::Malformed
    );
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(4)))));
    assert_eq!(
        ids(&shard),
        [version(4).to_string(), version(1).to_string()]
    );
    assert_eq!(shard.current_id("a"), None);
}

#[test]
fn the_change_index_tells_what_lives_and_what_is_gone() {
    let mut shard = Shard::new();
    done(shard.run(Command::PutObject(put("a", version(1)))));
    let first = shard.index;
    done(shard.run(Command::PutObject(put("a", version(2)))));
    done(shard.run(Command::PutObject(put("b", version(3)))));
    done(shard.run(Command::DeleteObject(delete("a"))));
    let changes = read::changes(&shard.state, &DATASET, LogIndex(0), 10);
    let seen: Vec<_> = changes
        .iter()
        .map(|(at, change)| (at.0 - first, change.key.as_str(), change.tombstone))
        .collect();
    assert_eq!(seen, [(2, "b", false), (3, "a", true)]);
    assert_eq!(
        read::changes(&shard.state, &DATASET, LogIndex(first + 2), 10).len(),
        1
    );
    assert_eq!(
        read::changes(&shard.state, &DATASET, LogIndex(0), 1).len(),
        1
    );
}

#[test]
fn the_oldest_tombstones_go_when_there_are_too_many_and_a_cursor_can_tell() {
    let mut shard = Shard::new();
    shard.index = limits::TOMBSTONES_MAX + 10;
    let mut record = shard.dataset();
    record.tombstones = limits::TOMBSTONES_MAX;
    shard.state.put(
        &keys::dataset(keys::table::DATASET, &DATASET),
        &record.encode_to_vec(),
    );
    let tombstone = v1::ChangeRecord {
        tombstone: true,
        ..Default::default()
    };
    for index in (1..=limits::TOMBSTONES_MAX).map(LogIndex) {
        let change = keys::change(keys::table::CHANGE, &DATASET, index);
        shard.state.put(&change, &tombstone.encode_to_vec());
        shard
            .state
            .put(&keys::change(keys::table::TOMBSTONE, &DATASET, index), &[]);
    }
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(Command::DeleteObject(delete("a"))));
    let held = shard.dataset();
    assert_eq!(
        (held.tombstones, held.tombstones_from),
        (limits::TOMBSTONES_MAX, 1)
    );
    let first = read::changes(&shard.state, &DATASET, LogIndex(0), 1);
    assert_eq!(first[0].0, LogIndex(2));
}
