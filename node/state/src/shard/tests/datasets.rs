//! Datasets that are there, fenced, dropped, or not.

use super::*;

#[test]
fn a_version_id_is_used_once() {
    let mut shard = Shard::new();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    let again = [
        Command::PutObject(put("b", version(1))),
        Command::FinishObject(finish("b", version(1), &[1, 2])),
    ];
    for asked in &again {
        assert_eq!(reason(shard.run(asked.clone())), Refusal::VersionIdReused);
    }
    set_versioning(&mut shard, true);
    let marker = Command::DeleteObject(delete_with_marker("a", version(1)));
    assert_eq!(reason(shard.run(marker)), Refusal::VersionIdReused);
    // Its blocks are garbage now: what receipts say of them does not count any more.
    done(shard.run(Command::DeleteObject(delete_version("a", version(1)))));
    for asked in again {
        assert_eq!(reason(shard.run(asked)), Refusal::VersionIdReused);
    }
}

#[test]
fn no_command_goes_to_a_dataset_that_is_not_there() {
    let mut shard = Shard::empty();
    for asked in on_dataset() {
        assert_eq!(reason(shard.run(asked)), Refusal::NoSuchDataset);
    }
}

#[test]
fn a_dropped_dataset_refuses_everything_and_does_not_come_back() {
    let mut shard = Shard::new();
    let drop = |force| {
        Command::TombstoneDataset(v1::TombstoneDataset {
            dataset_id: DATASET.into(),
            force,
        })
    };
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(reason(shard.run(drop(false))), Refusal::DatasetNotEmpty);
    done(shard.run(drop(true)));
    done(shard.run(drop(false)));
    for asked in on_dataset() {
        assert_eq!(reason(shard.run(asked)), Refusal::DatasetGone);
    }
    assert_eq!(
        reason(shard.run(create(DATASET, "cti"))),
        Refusal::DatasetGone
    );
}

#[test]
fn a_fenced_dataset_takes_key_states_only() {
    let mut shard = Shard::new();
    let mut record = shard.dataset();
    record.set_status(v1::DatasetStatus::Fenced);
    shard.state.put(
        &keys::dataset(keys::table::DATASET, &DATASET),
        &record.encode_to_vec(),
    );
    let drop = v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    };
    assert_eq!(
        reason(shard.run(Command::TombstoneDataset(drop))),
        Refusal::DatasetFenced
    );
    for asked in on_dataset() {
        match asked {
            Command::SetKeyState(_) => drop_done(shard.run(asked)),
            _ => assert_eq!(reason(shard.run(asked)), Refusal::DatasetFenced),
        }
    }
}

#[test]
fn a_dataset_is_admitted_once_and_again_only_as_itself() {
    let mut shard = Shard::new();
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(create(DATASET, "cti")));
    assert_eq!(
        shard.dataset().objects,
        1,
        "admitting again emptied the counters"
    );
    assert_eq!(
        reason(shard.run(create(DATASET, "other"))),
        Refusal::DatasetExists
    );
    let mut counted = create(DatasetId([0xDD; 16]), "counted");
    if let Command::CreateDataset(v1::CreateDataset {
        dataset: Some(dataset),
    }) = &mut counted
    {
        (dataset.objects, dataset.uploads) = (3, 3);
    }
    done(shard.run(counted));
    let counted = read::dataset(&shard.state, &DatasetId([0xDD; 16])).expect("admitted");
    assert_eq!((counted.objects, counted.uploads), (0, 0));
    let spoils: [Spoil<v1::DatasetRecord>; 7] = [
        |d| d.format = 2,
        |d| d.dataset_id = Bytes::new(),
        |d| d.name = "No".to_owned(),
        |d| d.kek_id = Bytes::new(),
        |d| d.pseudonym = Bytes::new(),
        |d| d.set_status(v1::DatasetStatus::Fenced),
        |d| d.set_key_state(v1::KeyState::Disabled),
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut asked = create(proto::ids::DatasetId([1; 16]), "other");
        if let Command::CreateDataset(v1::CreateDataset {
            dataset: Some(dataset),
        }) = &mut asked
        {
            spoil(dataset);
        }
        assert_eq!(reason(shard.run(asked)), Refusal::Malformed, "case {at}");
    }
}

#[test]
fn dropping_a_large_dataset_takes_bounded_steps_and_leaves_nothing() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    for n in 0..20 {
        let key = format!("k{}", n % 7);
        done(shard.run(Command::FinishObject(finish(&key, version(n), &[1, 2]))));
    }
    done(shard.run(Command::DeleteObject(delete_with_marker(
        "k1",
        version(100),
    ))));
    done(shard.run(Command::DeleteObject(delete_version("k2", version(2)))));
    let drop = v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    };
    done(shard.run(Command::TombstoneDataset(drop)));
    assert!(
        shard.dataset().versions >= 20 - u64::from(limits::SWEEP_STEPS),
        "unbounded work"
    );
    for _ in 0..10 {
        // Each command checks all invariants over what is left.
        let answer = shard.run(Command::Sweep(v1::Sweep { steps: 3 }));
        drop_done(answer);
    }
    shard.sweep_all();
    let left = shard.dataset();
    let counts = (
        left.objects,
        left.versions,
        left.sealed_bytes,
        left.tombstones,
    );
    assert_eq!(counts, (0, 0, 0, 0));
    for table in [
        keys::table::CHANGE,
        keys::table::TOKEN,
        keys::table::TOKEN_USE,
        keys::table::PURGE,
    ] {
        let (start, end) = keys::range(table, &[]);
        shard.state.scan(&start, &end, &mut |_, _| {
            panic!("a row is left in table {table:#x}")
        });
    }
    let mut garbage = 0;
    read::garbage(&shard.state, UploadEpoch(0), &mut |_, _, record| {
        garbage += record.blocks;
        true
    });
    assert_eq!(garbage, 40, "every block of every version is garbage");
    assert_eq!(
        shard.local,
        MemoryStore::default(),
        "nothing has to be looked for any more"
    );
}
