//! One claim a test.

use proptest::prelude::*;
use proto::v1;
use proto::v1::shard_command::Command;

use super::*;
use crate::shard::RELOCATION_LEVEL;
use crate::shard::fixture::regions::{Regions, begin};
use crate::shard::fixture::*;

fn root_of_all(shard: &Shard) -> CatalogRoot {
    catalog_root(&shard.state, &DATASET, Side::Source).expect("the fixture has it")
}

/// Each of these is a change that a copy of before it has not.
#[test]
fn everything_that_moves_is_in_it() {
    let mut shard = Shard::new();
    shard.level = RELOCATION_LEVEL;
    let mut seen = vec![root_of_all(&shard)];
    let set_lock = |on| {
        Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: DATASET.into(),
            key: "b".to_owned(),
            version_id: version(2).into(),
            on,
        })
    };
    let steps = [
        Command::PutObject(put("a", version(1))),
        Command::SetObjectLock(v1::SetObjectLock {
            dataset_id: DATASET.into(),
            lock: Some(v1::ObjectLock::default()),
        }),
        Command::FinishObject(finish("b", version(2), &[1, 2])),
        set_lock(true),
        Command::SetRetention(v1::SetRetention {
            dataset_id: DATASET.into(),
            key: "b".to_owned(),
            version_id: version(2).into(),
            retention: Some(v1::Retention {
                mode: v1::RetentionMode::Governance.into(),
                until_ms: 9_000_000,
            }),
            bypass_governance: false,
        }),
        set_metadata("b", version(2), b"metadata", b"other"),
        Command::DeleteObject(delete_with_marker("a", version(3))),
        Command::SetHold(v1::SetHold {
            dataset_id: DATASET.into(),
            legal: true,
            ..Default::default()
        }),
        Command::SetQuota(v1::SetQuota {
            dataset_id: DATASET.into(),
            quota: Some(v1::Quota {
                objects_max: 9,
                sealed_bytes_max: 0,
            }),
        }),
        Command::SetConfig(v1::SetConfig {
            dataset_id: DATASET.into(),
            kind: v1::ConfigKind::Cors.into(),
            content: bytes::Bytes::from_static(b"cors"),
            any_version: true,
            ..Default::default()
        }),
        Command::DeleteObject(delete_version("a", version(1))),
        Command::DeleteObject(delete_version("a", version(3))),
        set_lock(false),
    ];
    for step in steps {
        done(shard.run(step.clone()));
        let root = root_of_all(&shard);
        assert!(!seen.contains(&root), "{step:?}");
        seen.push(root);
    }
}

/// What a replica has at hand under a fence is what a reader of all comes to.
#[test]
fn a_sum_that_follows_changes_is_that_of_a_reader_of_all() {
    let mut regions = Regions::new();
    let shard = &mut regions.source;
    let lock = |on| {
        Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: DATASET.into(),
            key: "b".to_owned(),
            version_id: version(2).into(),
            on,
        })
    };
    let quota = Command::SetQuota(v1::SetQuota {
        dataset_id: DATASET.into(),
        quota: Some(v1::Quota {
            objects_max: 9,
            sealed_bytes_max: 0,
        }),
    });
    let rounds = [
        vec![
            Command::PutObject(put("a", version(1))),
            Command::SetObjectLock(v1::SetObjectLock {
                dataset_id: DATASET.into(),
                lock: Some(v1::ObjectLock::default()),
            }),
            Command::FinishObject(finish("b", version(2), &[1, 2])),
        ],
        vec![
            begin(0),
            lock(true),
            Command::PutObject(put("a", version(3))),
        ],
        vec![],
        vec![
            Command::DeleteObject(delete_version("a", version(1))),
            Command::DeleteObject(delete_with_marker("a", version(4))),
            lock(false),
            quota,
        ],
        vec![
            Command::DeleteObject(delete_version("b", version(2))),
            Command::PutObject(put("c", version(5))),
            Command::DeleteObject(delete_version("c", version(5))),
        ],
    ];
    let mut sum = sum_of(&shard.state, &DATASET, Side::Source);
    for round in rounds {
        let (before, from) = (shard.state.clone(), LogIndex(shard.index));
        for step in round {
            done(shard.run(step));
        }
        follow(&mut sum, &DATASET, (&before, from), &shard.state).expect("nothing was forgotten");
        let followed = root_of(&shard.state, &DATASET, &sum);
        assert_eq!(followed, Some(root_of_all(shard)));
    }
}

#[test]
fn an_upload_under_way_is_not_in_it() {
    let mut shard = Shard::new();
    shard.level = RELOCATION_LEVEL;
    let before = root_of_all(&shard);
    let upload = parts::create_upload("a", version(1));
    done(shard.run(Command::CreateUpload(upload)));
    assert_eq!(root_of_all(&shard), before);
}

#[test]
fn golden_bytes_of_a_root() {
    let mut shard = Shard::new();
    shard.level = RELOCATION_LEVEL;
    let empty = hex::encode(root_of_all(&shard).0);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    let one = hex::encode(root_of_all(&shard).0);
    assert_eq!(
        (&empty[..16], &one[..16]),
        ("607e5cb7ebcb7adf", "b4e37ece9b4310b7")
    );
}

proptest! {
    /// A driver that follows changes comes to the root that a reader of all comes to.
    #[test]
    fn a_sum_is_of_what_is_in_it_whatever_the_order(
        rows in prop::collection::vec((any::<[u8; 32]>(), any::<bool>()), 1..20)
    ) {
        let settings = v1::ImportedSettings::default();
        let (mut followed, mut kept) = (Sum::default(), Sum::default());
        for (row, _) in &rows {
            followed.add(row);
        }
        for (row, _) in rows.iter().filter(|(_, stays)| !stays) {
            followed.remove(row);
        }
        for (row, _) in rows.iter().rev().filter(|(_, stays)| *stays) {
            kept.add(row);
        }
        prop_assert_eq!(followed.root(&settings), kept.root(&settings));
        let (first, _) = &rows[0];
        kept.add(first);
        prop_assert_ne!(followed.root(&settings), kept.root(&settings));
    }
}
