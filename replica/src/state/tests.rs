//! Both stores keep the contract, RocksDB keeps it through crashes, and the twin tells the same story.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::LogIndex;
use proto::store::{MemoryStore, Reader, Writer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checkpoint::END_OF_KEYS;
use super::*;
use crate::disk::{Disk, RealDisk, SimDisk};

fn env() -> StateEnv {
    StateEnv::new(StateOptions {
        cache_bytes: 1 << 20,
        write_bytes: 1 << 20,
        ..StateOptions::default()
    })
}

fn contents(reader: &dyn Reader) -> MemoryStore {
    let mut store = MemoryStore::default();
    reader.scan(&[], &END_OF_KEYS, &mut |key, value| {
        store.put(key, value);
        true
    });
    store
}

fn note(index: u64) -> Bytes {
    Bytes::from(format!("note {index}"))
}

/// What a store holds: replicated, own, index.
fn held(store: &dyn StateStore) -> (MemoryStore, MemoryStore, Option<Applied>) {
    let view = store.view().expect("readable");
    (contents(&*view.state), contents(&*view.local), view.applied)
}

fn put(store: &dyn StateStore, index: u64, key: &[u8], value: &[u8], own: &[u8]) {
    let mut batch = store.begin().expect("begin");
    batch.state().put(key, value);
    batch.local().put(key, own);
    store
        .commit(batch, LogIndex(index), note(index))
        .expect("commit");
}

fn nothing(_: LogIndex, _: &dyn Reader, _: &mut dyn Writer) {}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        // The engine removes files of its own while this runs.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy_tree(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), target) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

/// A copy of a folder whose engine compacts behind our back: of one moment, which is when no MANIFEST changed.
fn copy_at_one_moment(from: &Path, to: &Path) {
    let manifests = || {
        let mut found = Vec::new();
        for folder in std::fs::read_dir(from)
            .expect("list")
            .filter_map(Result::ok)
        {
            let Ok(files) = std::fs::read_dir(folder.path()) else {
                continue;
            };
            for file in files.filter_map(Result::ok) {
                if file.file_name().to_string_lossy().starts_with("MANIFEST") {
                    found.push((file.path(), std::fs::read(file.path()).ok()));
                }
            }
        }
        found.sort();
        found
    };
    loop {
        let before = manifests();
        copy_tree(from, to);
        if manifests() == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("removed");
    }
}

#[test]
fn what_is_flushed_survives_and_what_is_not_may_be_lost_but_only_whole() {
    let temp = tempfile::tempdir().expect("tempdir");
    let dir = temp.path().join("state");
    let store = RocksState::open(&env(), &dir).expect("opens");
    assert_eq!(store.applied(), None);
    put(&store, 1, b"a", b"1", b"own 1");
    put(&store, 2, b"b", &[7; 5000], b"own 2");
    assert_eq!(store.flush().expect("flush"), Some(LogIndex(2)));
    let flushed = held(&store);
    put(&store, 3, b"a", b"3", b"own 3");
    assert_eq!(
        (store.flushed(), store.applied().map(|at| at.index)),
        (Some(LogIndex(2)), Some(LogIndex(3)))
    );
    // The engine has no log of its own: its files at this moment are what a power cut would leave.
    let crashed = temp.path().join("crashed");
    copy_at_one_moment(&dir, &crashed);
    let after = RocksState::open(&env(), &crashed).expect("opens after the crash");
    assert_eq!(held(&after), flushed);
    assert_eq!(
        after.applied(),
        Some(Applied {
            index: LogIndex(2),
            note: note(2)
        })
    );
    assert_eq!(after.flushed(), Some(LogIndex(2)));
}

#[test]
fn a_view_does_not_move() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = RocksState::open(&env(), temp.path()).expect("opens");
    put(&store, 1, b"a", b"1", b"o");
    let view = store.view().expect("view");
    put(&store, 2, b"a", b"2", b"o");
    assert_eq!(view.state.value(b"a"), Some(Bytes::from_static(b"1")));
    assert_eq!(view.applied.as_ref().map(|at| at.index), Some(LogIndex(1)));
    assert_eq!(
        store.reader().expect("reader").value(b"a"),
        Some(Bytes::from_static(b"2"))
    );
}

fn both(temp: &Path) -> [Box<dyn StateStore>; 2] {
    let medium = TwinMedium::new(1);
    [
        Box::new(RocksState::open(&env(), &temp.join("rocks")).expect("opens")),
        Box::new(TwinState::open(
            &medium,
            Path::new("twin"),
            SimDisk::new(1).boot(),
        )),
    ]
}

#[test]
fn commits_that_do_not_fit_are_refused_and_change_nothing() {
    let temp = tempfile::tempdir().expect("tempdir");
    for store in both(temp.path()) {
        put(&*store, 5, b"a", b"5", b"o");
        let before = held(&*store);
        let (first, second) = (store.begin().expect("begin"), store.begin().expect("begin"));
        let backwards = store.begin().expect("begin");
        assert!(matches!(
            store.commit(backwards, LogIndex(4), note(4)),
            Err(StateError::Backwards {
                from: LogIndex(5),
                to: LogIndex(4)
            })
        ));
        let long = store.begin().expect("begin");
        let bytes = Bytes::from(vec![0; NOTE_BYTES_MAX + 1]);
        assert!(matches!(
            store.commit(long, LogIndex(6), bytes),
            Err(StateError::NoteTooLong { .. })
        ));
        assert_eq!(held(&*store), before);
        store
            .commit(first, LogIndex(5), note(5))
            .expect("the same index again");
        let mut second = second;
        second.state().put(b"lost", b"update");
        assert!(matches!(
            store.commit(second, LogIndex(6), note(6)),
            Err(StateError::Overtaken)
        ));
        assert_eq!(held(&*store), before);
        assert!(store.failed().is_none());
    }
}

#[test]
fn a_batch_reads_its_own_writes_over_the_state() {
    let temp = tempfile::tempdir().expect("tempdir");
    for store in both(temp.path()) {
        put(&*store, 1, b"a", b"1", b"own");
        let mut batch = store.begin().expect("begin");
        let (state, local) = batch.split();
        state.put(b"b", b"2");
        state.delete(b"a");
        local.put(b"c", b"3");
        assert_eq!(
            contents(state).iter().collect::<Vec<_>>(),
            [(&b"b"[..], &b"2"[..])]
        );
        assert_eq!(local.value(b"a"), Some(Bytes::from_static(b"own")));
        assert_eq!(
            store.reader().expect("reader").value(b"b"),
            None,
            "not before commit"
        );
        store.commit(batch, LogIndex(2), note(2)).expect("commit");
        assert_eq!(store.reader().expect("reader").value(b"a"), None);
    }
}

#[test]
fn one_folder_has_one_store() {
    let temp = tempfile::tempdir().expect("tempdir");
    let first = RocksState::open(&env(), temp.path()).expect("opens");
    assert!(matches!(
        RocksState::open(&env(), temp.path()).err(),
        Some(StateError::InUse)
    ));
    drop(first);
    RocksState::open(&env(), temp.path()).expect("free again");
}

#[test]
fn the_digest_covers_the_replicated_keys_and_nothing_else() {
    let temp = tempfile::tempdir().expect("tempdir");
    let [rocks, twin] = both(temp.path());
    put(&*rocks, 3, b"a", b"1", b"mine");
    put(&*twin, 3, b"a", b"1", b"another's");
    let digest = rocks.digest().expect("digest");
    assert_eq!(digest, twin.digest().expect("digest"));
    assert_eq!(digest.applied, Some(LogIndex(3)));
    put(&*twin, 4, b"a", b"2", b"another's");
    assert_ne!(digest.blake3, twin.digest().expect("digest").blake3);
}

/// A sender at index 50 and a receiver at index 7 with keys of its own; the sender's checkpoint.
fn sender_and_receiver(temp: &Path) -> (MemoryStore, PathBuf, Checkpoint, PathBuf) {
    let sender = RocksState::open(&env(), &temp.join("sender")).expect("opens");
    for index in 1..=50u64 {
        put(
            &sender,
            index,
            &index.to_be_bytes(),
            &vec![index as u8; 100 * index as usize],
            b"the sender's",
        );
    }
    let made = temp.join("checkpoint");
    let checkpoint = sender.checkpoint(&made).expect("checkpoint");
    assert_eq!(
        checkpoint.applied,
        Some(Applied {
            index: LogIndex(50),
            note: note(50)
        })
    );
    assert!(checkpoint.bytes() > 100_000, "blobs are in it");
    let state = held(&sender).0;
    // The sender goes on; the checkpoint does not.
    put(&sender, 51, b"later", b"x", b"");
    let receiver = temp.join("receiver");
    let store = RocksState::open(&env(), &receiver).expect("opens");
    put(&store, 7, b"old", b"state", b"my own");
    store.flush().expect("flush");
    (state, made, checkpoint, receiver)
}

fn mark_missing(index: LogIndex, state: &dyn Reader, local: &mut dyn Writer) {
    assert_eq!(local.value(b"old"), Some(Bytes::from_static(b"my own")));
    assert!(state.value(&50u64.to_be_bytes()).is_some());
    local.put(b"missing", &index.0.to_be_bytes());
}

#[test]
fn an_install_takes_the_state_keeps_own_keys_and_brings_them_in_line() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (state, made, checkpoint, receiver) = sender_and_receiver(temp.path());
    let store = RocksState::open(&env(), &receiver).expect("opens");
    let old_view = store.view().expect("view");
    store
        .install(&made, &checkpoint, &mut mark_missing)
        .expect("installs");
    let check = |store: &RocksState| {
        let (found, own, applied) = held(store);
        assert_eq!(found, state);
        assert_eq!(applied, checkpoint.applied);
        let own: Vec<_> = own.iter().map(|(key, _)| key.to_vec()).collect();
        assert_eq!(
            own,
            [b"missing".to_vec(), b"old".to_vec()],
            "none of the sender's"
        );
    };
    check(&store);
    assert_eq!(store.flushed(), Some(LogIndex(50)));
    assert_eq!(
        old_view.state.value(b"old"),
        Some(Bytes::from_static(b"state")),
        "views stay"
    );
    drop(old_view);
    assert!(!made.exists());
    put(&store, 51, b"goes", b"on", b"");
    drop(store);
    let folders = std::fs::read_dir(&receiver)
        .expect("list")
        .filter_map(Result::ok);
    let folders = folders.filter(|entry| entry.path().is_dir()).count();
    assert_eq!(folders, 1, "the replaced state is gone");
    RocksState::open(&env(), &receiver).expect("opens");
}

#[test]
fn a_crash_between_any_two_steps_of_an_install_leaves_the_old_or_the_new_state_whole() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (state, made, checkpoint, receiver) = sender_and_receiver(temp.path());
    let store = RocksState::open(&env(), &receiver).expect("opens");
    let crashes: Arc<Mutex<Vec<(&'static str, PathBuf)>>> = Arc::default();
    {
        let (crashes, receiver) = (crashes.clone(), receiver.clone());
        let temp = temp.path().to_owned();
        store.set_step_hook(move |step| {
            let to = temp.join("crash").join(step);
            copy_at_one_moment(&receiver, &to);
            crashes.lock().push((step, to));
        });
    }
    store
        .install(&made, &checkpoint, &mut mark_missing)
        .expect("installs");
    let crashes = crashes.lock().clone();
    let steps: Vec<_> = crashes.iter().map(|(step, _)| *step).collect();
    assert_eq!(
        steps,
        [
            "before anything",
            "files taken",
            "own keys copied",
            "complete",
            "current swapped"
        ]
    );
    for (step, dir) in crashes {
        let store =
            RocksState::open(&env(), &dir).unwrap_or_else(|error| panic!("{step}: {error:?}"));
        let (found, own, applied) = held(&store);
        assert_eq!(
            own.value(b"old"),
            Some(Bytes::from_static(b"my own")),
            "{step}"
        );
        if step == "current swapped" {
            assert_eq!(
                (found, applied),
                (state.clone(), checkpoint.applied.clone()),
                "{step}"
            );
            assert!(
                own.value(b"missing").is_some(),
                "{step}: own keys belong to the state"
            );
        } else {
            assert_eq!(
                found.value(b"old"),
                Some(Bytes::from_static(b"state")),
                "{step}"
            );
            assert_eq!(applied.map(|at| at.index), Some(LogIndex(7)), "{step}");
            assert_eq!(own.value(b"missing"), None, "{step}");
        }
        let folders = std::fs::read_dir(&dir)
            .expect("list")
            .filter_map(Result::ok);
        assert_eq!(
            folders.filter(|entry| entry.path().is_dir()).count(),
            1,
            "{step}: leftovers"
        );
    }
}

#[test]
fn a_checkpoint_that_is_not_the_one_listed_is_refused_and_the_old_state_stays() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (_, made, checkpoint, receiver) = sender_and_receiver(temp.path());
    let store = RocksState::open(&env(), &receiver).expect("opens");
    let largest = checkpoint
        .files
        .iter()
        .max_by_key(|file| file.bytes)
        .expect("files");
    let path = made.join(&largest.name);
    let good = std::fs::read(&path).expect("read");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    let refused = |checkpoint: &Checkpoint| {
        let error = store
            .install(&made, checkpoint, &mut nothing)
            .expect_err("refused");
        assert!(
            matches!(error, StateError::NotTheCheckpoint { .. }),
            "{error}"
        );
    };
    std::fs::write(&path, &bad).expect("write");
    refused(&checkpoint);
    std::fs::write(&path, &good[..good.len() - 1]).expect("write");
    refused(&checkpoint);
    std::fs::remove_file(&path).expect("remove");
    refused(&checkpoint);
    std::fs::write(&path, &good).expect("write");
    for name in ["../CURRENT", "a/b", "", ".hidden"] {
        let mut escaping = checkpoint.clone();
        escaping.files[0].name = name.to_owned();
        refused(&escaping);
    }
    assert_eq!(held(&store).2.map(|at| at.index), Some(LogIndex(7)));
    assert!(store.failed().is_none());
    store
        .install(&made, &checkpoint, &mut nothing)
        .expect("the right one installs");
}

#[test]
fn an_older_checkpoint_is_refused() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (_, made, checkpoint, _) = sender_and_receiver(temp.path());
    let ahead = RocksState::open(&env(), &temp.path().join("ahead")).expect("opens");
    put(&ahead, 60, b"a", b"b", b"c");
    let error = ahead
        .install(&made, &checkpoint, &mut nothing)
        .expect_err("refused");
    assert!(matches!(
        error,
        StateError::Backwards {
            from: LogIndex(60),
            to: LogIndex(50)
        }
    ));
}

#[test]
fn damage_on_the_disk_is_a_typed_error_that_ends_the_store() {
    let temp = tempfile::tempdir().expect("tempdir");
    let dir = temp.path().join("state");
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let env = {
        let told = told.clone();
        StateEnv::new(StateOptions {
            cache_bytes: 64 << 10,
            on_failed: Some(Arc::new(move |error| told.lock().push(error.to_string()))),
            ..StateOptions::default()
        })
    };
    let store = RocksState::open(&env, &dir).expect("opens");
    for index in 1..200u64 {
        put(
            &store,
            index,
            &index.to_be_bytes(),
            &[index as u8; 3000],
            b"",
        );
    }
    store.flush().expect("flush");
    drop(store);
    let live = dir.join("live-00000001");
    let mut damaged = 0;
    for entry in std::fs::read_dir(&live).expect("list") {
        let path = entry.expect("entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "blob")
        {
            let mut bytes = std::fs::read(&path).expect("read");
            for at in (100..bytes.len() - 100).step_by(500) {
                bytes[at] ^= 0xFF;
            }
            std::fs::write(&path, bytes).expect("write");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "the values lie in blob files");
    let store = RocksState::open(&env, &dir).expect("opens");
    let view = store.view().expect("view");
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        view.state.value(&9u64.to_be_bytes())
    }));
    assert!(read.is_err(), "no answer is better than a wrong one");
    assert!(matches!(
        store.failed().as_deref(),
        Some(StateError::Engine { .. })
    ));
    assert_eq!(told.lock().len(), 1);
    assert!(matches!(store.begin().err(), Some(StateError::Failed(_))));
    assert!(matches!(store.flush(), Err(StateError::Failed(_))));
}

#[test]
fn a_current_that_names_nothing_is_not_an_empty_state() {
    let temp = tempfile::tempdir().expect("tempdir");
    drop(RocksState::open(&env(), temp.path()).expect("opens"));
    std::fs::remove_dir_all(temp.path().join("live-00000001")).expect("remove");
    assert!(matches!(
        RocksState::open(&env(), temp.path()).err(),
        Some(StateError::Unreadable { .. })
    ));
}

#[test]
fn the_twin_and_the_engine_tell_the_same_story() {
    for seed in 0..6 {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut rng = StdRng::seed_from_u64(seed);
        let env = env();
        let mut rocks_dir = temp.path().join("rocks-0");
        let sim = SimDisk::new(seed);
        let medium = TwinMedium::new(seed);
        let mut rocks = RocksState::open(&env, &rocks_dir).expect("opens");
        let mut twin = TwinState::open(&medium, Path::new("twin"), sim.boot());
        let mut index = 0;
        for step in 0..150 {
            match rng.random_range(0..20) {
                0..15 => {
                    index += rng.random_range(1..4);
                    let mut batches = [rocks.begin().expect("begin"), twin.begin().expect("begin")];
                    let writes = rng.random_range(0..5);
                    for _ in 0..writes {
                        let key = vec![rng.random_range(0..20u8); rng.random_range(1..4)];
                        let value = vec![rng.random::<u8>(); rng.random_range(0..3000)];
                        let (delete, own) = (rng.random_ratio(1, 4), rng.random_ratio(1, 3));
                        for batch in &mut batches {
                            let writer = if own { batch.local() } else { batch.state() };
                            if delete {
                                writer.delete(&key)
                            } else {
                                writer.put(&key, &value)
                            }
                        }
                    }
                    let [first, second] = batches;
                    rocks
                        .commit(first, LogIndex(index), note(index))
                        .expect("commit");
                    twin.commit(second, LogIndex(index), note(index))
                        .expect("commit");
                }
                15..17 => assert_eq!(rocks.flush().expect("flush"), twin.flush().expect("flush")),
                17 => {
                    // A crash right after a flush: both come back to it.
                    rocks.flush().expect("flush");
                    twin.flush().expect("flush");
                    let next = temp.path().join(format!("rocks-{}", step + 1));
                    copy_at_one_moment(&rocks_dir, &next);
                    rocks_dir = next;
                    rocks = RocksState::open(&env, &rocks_dir).expect("opens");
                    medium.power_cut();
                    twin = TwinState::open(&medium, Path::new("twin"), sim.boot());
                }
                _ => {
                    let from_rocks = temp.path().join(format!("checkpoint-{step}"));
                    let from_twin = PathBuf::from(format!("/checkpoint-{step}"));
                    let of_rocks = rocks.checkpoint(&from_rocks).expect("checkpoint");
                    let of_twin = twin.checkpoint(&from_twin).expect("checkpoint");
                    assert_eq!(of_rocks.applied, of_twin.applied);
                    let mut adjust =
                        |index: LogIndex, state: &dyn Reader, local: &mut dyn Writer| {
                            let keys = contents(state).iter().count() as u64;
                            local.put(
                                b"adjusted",
                                &[index.0.to_be_bytes(), keys.to_be_bytes()].concat(),
                            );
                        };
                    rocks
                        .install(&from_rocks, &of_rocks, &mut adjust)
                        .expect("installs");
                    twin.install(&from_twin, &of_twin, &mut adjust)
                        .expect("installs");
                }
            }
            assert_eq!(held(&rocks), held(&twin), "seed {seed} step {step}");
        }
        assert_eq!(
            rocks.digest().expect("digest"),
            twin.digest().expect("digest"),
            "seed {seed}"
        );
    }
}

#[test]
fn the_twin_loses_what_was_not_flushed_and_only_whole_batches() {
    let mut lost = 0;
    for seed in 0..100 {
        let sim = SimDisk::new(seed);
        let medium = TwinMedium::new(seed);
        let twin = TwinState::open(&medium, Path::new("twin"), sim.boot());
        for index in 1..20u64 {
            put(
                &twin,
                index,
                b"key",
                &index.to_be_bytes(),
                &index.to_be_bytes(),
            );
            if index == 5 {
                twin.flush().expect("flush");
            }
        }
        medium.power_cut();
        assert!(
            matches!(twin.flush(), Err(StateError::Failed(_))),
            "the old handle is dead"
        );
        let twin = TwinState::open(&medium, Path::new("twin"), sim.boot());
        let (state, own, applied) = held(&twin);
        let index = applied.expect("flushed once").index.0;
        assert!((5..20).contains(&index));
        assert_eq!(
            state.value(b"key").as_deref(),
            Some(&index.to_be_bytes()[..])
        );
        assert_eq!(own.value(b"key").as_deref(), Some(&index.to_be_bytes()[..]));
        lost += u64::from(index < 19);
    }
    assert!(lost > 50);
}

#[test]
fn commits_go_on_while_a_checkpoint_is_made_and_it_holds_the_index_it_says() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = RocksState::open(&env(), &temp.path().join("state")).expect("opens");
    put(&store, 1, b"count", &1u64.to_be_bytes(), b"");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for index in 2..2000u64 {
                put(&store, index, b"count", &index.to_be_bytes(), b"");
            }
        });
        let mut number = 0;
        while !writer.is_finished() {
            number += 1;
            let dir = temp.path().join(format!("checkpoint-{number}"));
            let checkpoint = store.checkpoint(&dir).expect("checkpoint");
            let other = RocksState::open(&env(), &temp.path().join(format!("other-{number}")))
                .expect("opens");
            other
                .install(&dir, &checkpoint, &mut nothing)
                .expect("installs");
            let (state, _, applied) = held(&other);
            let index = applied.expect("applied").index.0;
            assert_eq!(
                Some(index),
                checkpoint.applied.as_ref().map(|at| at.index.0)
            );
            assert_eq!(
                state.value(b"count").as_deref(),
                Some(&index.to_be_bytes()[..])
            );
        }
        assert!(number > 0);
    });
    assert!(
        RealDisk.list(temp.path()).expect("list").is_empty(),
        "only folders"
    );
}
