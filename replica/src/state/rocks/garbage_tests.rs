//! Garbage in blob files is collected where there is some, and what lives is not moved where there is none.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use proto::ids::LogIndex;

use super::*;
use crate::state::StateOptions;

const VALUE_BYTES: usize = 4 << 10;
const ROUND: u64 = 64;

fn store(dir: &Path) -> RocksState {
    let env = StateEnv::new(StateOptions {
        cache_bytes: 1 << 20,
        write_bytes: 1 << 20,
        ..StateOptions::default()
    });
    RocksState::open(&env, dir).expect("opens")
}

/// Keys in no order, as version ids are.
fn key(number: u64) -> [u8; 8] {
    number
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(17)
        .to_be_bytes()
}

fn change(store: &RocksState, index: u64, value: Option<Vec<u8>>, number: u64) {
    let mut batch = store.begin().expect("begins");
    match value {
        Some(value) => batch.state().put(&key(number), &value),
        None => batch.state().delete(&key(number)),
    }
    store
        .commit(batch, LogIndex(index), Bytes::new())
        .expect("commits");
}

/// Flushes, and compacts as the engine would sooner or later.
fn settle(store: &RocksState) {
    store.flush().expect("flushes");
    let database = store.database();
    let family = database.family(STATE).expect("there");
    database
        .db()
        .compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
}

fn blob_files(store: &RocksState) -> BTreeSet<OsString> {
    let database = store.database();
    let names = RealDisk.list(&database.path).expect("lists");
    names
        .into_iter()
        .filter(|name| name.as_encoded_bytes().ends_with(b".blob"))
        .collect()
}

fn blob_bytes(store: &RocksState) -> u64 {
    let database = store.database();
    let family = database.family(STATE).expect("there");
    let bytes = database.db().property_int_value_cf(family, BLOB_BYTES);
    bytes.expect("readable").expect("known")
}

#[test]
fn what_lives_is_written_once_and_garbage_is_collected() {
    let dir = tempfile::tempdir().expect("folder");
    let store = store(&dir.path().join("state"));
    let mut index = 0;
    let mut first = BTreeSet::new();
    for round in 0..20 {
        for number in 0..ROUND {
            index += 1;
            let value = vec![index as u8; VALUE_BYTES];
            change(&store, index, Some(value), round * ROUND + number);
        }
        settle(&store);
        if round == 0 {
            first = blob_files(&store);
        }
    }
    assert!(!first.is_empty());
    assert!(
        blob_files(&store).is_superset(&first),
        "values that all live were moved by compactions"
    );
    let full = blob_bytes(&store);
    assert!(full >= 20 * ROUND * VALUE_BYTES as u64);

    let (live, mut rounds) = (20 * ROUND / 4, 0);
    for number in live..20 * ROUND {
        index += 1;
        change(&store, index, None, number);
    }
    while blob_bytes(&store) > full / 2 {
        rounds += 1;
        assert!(
            rounds < 40,
            "garbage stays: {} of {full}",
            blob_bytes(&store)
        );
        index += 1;
        change(&store, index, Some(vec![1; VALUE_BYTES]), 0);
        settle(&store);
    }
    let view = store.view().expect("readable");
    for number in 0..live {
        assert!(view.state.value(&key(number)).is_some(), "{number} is lost");
    }
}

/// Whether any file of the store holds the bytes.
fn on_disk(store: &RocksState, bytes: &[u8]) -> bool {
    store.flush().expect("flushes");
    let path = &store.database().path;
    let names = RealDisk.list(path).expect("lists");
    names.iter().any(|name| {
        let content = std::fs::read(path.join(name)).expect("reads");
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn what_was_replaced_leaves_the_files_once_no_view_may_see_it() {
    // Not to be compressed, and shorter than what lies in files of its own.
    let secret: Vec<u8> = (0..9_u8)
        .flat_map(|n| *blake3::hash(&[n]).as_bytes())
        .collect();
    let dir = tempfile::tempdir().expect("folder");
    let store = store(&dir.path().join("state"));
    for (index, number) in (1..).zip(0..2 * ROUND) {
        change(&store, index, Some(vec![7; 300]), number);
    }
    let index = 2 * ROUND + 1;
    change(&store, index, Some(secret.clone()), 3);
    settle(&store);
    assert!(on_disk(&store, &secret));
    let seen = store.view().expect("a view");
    change(&store, index + 1, Some(vec![0; 4]), 3);
    let start = key(3).to_vec();
    let end = [&start[..], &[0]].concat();
    let ranges = [KeyRange { start, end }];
    let erase = || store.erase_replaced(LogIndex(index + 1), &ranges);
    assert!(!erase().expect("asked"), "a view may still see it");
    assert_eq!(seen.state.value(&key(3)).as_deref(), Some(&secret[..]));
    drop(seen);
    // Younger views do not matter.
    change(&store, index + 2, Some(vec![1; 4]), 4);
    let young = store.view().expect("a view");
    assert!(erase().expect("erased"));
    assert!(!on_disk(&store, &secret), "it is still there");
    assert_eq!(young.state.value(&key(3)).as_deref(), Some(&[0; 4][..]));
}
