use bytes::Bytes;
use proto::v1::shard_command::Command;
use proto::v1::{ConfigKind, Refusal};

use super::super::fixture::parts::*;
use super::super::fixture::*;
use super::*;
use crate::read;

fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.level = CONFIG_LEVEL;
    shard
}

fn set(kind: ConfigKind, content: &[u8], from_version: u64) -> Command {
    Command::SetConfig(v1::SetConfig {
        dataset_id: DATASET.into(),
        kind: kind.into(),
        content: Bytes::copy_from_slice(content),
        from_version,
        any_version: false,
    })
}

fn held(shard: &Shard, kind: ConfigKind) -> (u64, Bytes) {
    let record = read::config(&shard.state, &DATASET, kind).unwrap_or_default();
    (record.version, record.content)
}

#[test]
fn a_setting_is_changed_from_one_version_and_once() {
    let mut shard = shard();
    let cors = ConfigKind::Cors;
    done(shard.run(set(cors, b"one", 0)));
    done(shard.run(set(cors, b"one", 0)));
    assert_eq!(held(&shard, cors), (1, Bytes::from_static(b"one")));
    let moved = refused(shard.run(set(cors, b"two", 0)));
    assert_eq!((moved.reason(), moved.moved_to), (Refusal::ConfigMoved, 1));
    done(shard.run(set(cors, b"two", 1)));
    assert_eq!(held(&shard, ConfigKind::Tagging), (0, Bytes::new()));
    let whatever = v1::SetConfig {
        dataset_id: DATASET.into(),
        kind: cors.into(),
        any_version: true,
        ..Default::default()
    };
    done(shard.run(Command::SetConfig(whatever)));
    assert_eq!(held(&shard, cors), (3, Bytes::new()));
    for wrong in [
        set(ConfigKind::Unspecified, b"", 0),
        set(cors, &vec![0; CONFIG_BYTES_MAX + 1], 3),
        set(ConfigKind::Lifecycle, b"\xFF", 0),
    ] {
        assert_eq!(reason(shard.run(wrong)), Refusal::Malformed);
    }
    // Gone with its dataset.
    done(shard.run(Command::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    })));
    shard.sweep_all();
    assert_eq!(held(&shard, cors), (0, Bytes::new()));
}

fn set_quota(objects_max: u64, sealed_bytes_max: u64) -> Command {
    Command::SetQuota(v1::SetQuota {
        dataset_id: DATASET.into(),
        quota: Some(v1::Quota {
            objects_max,
            sealed_bytes_max,
        }),
    })
}

#[test]
fn a_dataset_holds_no_more_than_its_quota() {
    let mut shard = shard();
    // An inline object of the fixture has 13 sealed bytes, one in blocks 100.
    done(shard.run(set_quota(2, 113)));
    done(shard.run(Command::PutObject(put("a", version(1)))));
    let blocks = |key: &str, id| Command::FinishObject(finish(key, version(id), &[1, 2]));
    done(shard.run(blocks("b", 2)));
    let over = shard.run(Command::PutObject(put("c", version(3))));
    assert_eq!(reason(over), Refusal::QuotaExceeded);
    // In the place of another it is no object more; and no bytes more where that one goes.
    done(shard.run(blocks("b", 4)));
    assert_eq!(reason(shard.run(blocks("a", 5))), Refusal::QuotaExceeded);
    done(shard.run(set_quota(0, 150)));
    let upload = Command::CreateUpload(create_upload("c", version(6)));
    done(shard.run(upload));
    let part = |seed, blocks| Stream {
        number: 1,
        seed,
        blocks,
    };
    let finish = |part| {
        let epoch = proto::ids::UploadEpoch(0);
        Command::FinishPart(finish_part("c", version(6), part, epoch))
    };
    let over = shard.run(finish(part(1, true)));
    assert_eq!(reason(over), Refusal::QuotaExceeded);
    done(shard.run(finish(part(2, false))));
    done(shard.run(set_quota(2, 0)));
    let complete = Command::CompleteUpload(complete("c", version(6), &[part(2, false)]));
    assert_eq!(reason(shard.run(complete.clone())), Refusal::QuotaExceeded);
    done(shard.run(set_quota(0, 0)));
    assert_eq!(shard.dataset().quota, None);
    done(shard.run(complete));
}

#[test]
fn suspended_is_said_of_what_was_on() {
    let mut shard = shard();
    let set = |enabled| {
        Command::SetVersioning(v1::SetVersioning {
            dataset_id: DATASET.into(),
            enabled,
        })
    };
    for (enabled, suspended) in [(false, false), (true, false), (false, true), (false, true)] {
        done(shard.run(set(enabled)));
        assert_eq!(shard.dataset().suspended, suspended);
    }
}

#[test]
fn while_versioning_is_suspended_there_is_one_null_version() {
    let mut shard = shard();
    let versioning = |enabled| {
        Command::SetVersioning(v1::SetVersioning {
            dataset_id: DATASET.into(),
            enabled,
        })
    };
    let null = |shard: &Shard| {
        let head = read::null_version(&shard.state, &DATASET, "k")?;
        Some(head.version_id[15])
    };
    done(shard.run(Command::PutObject(put("k", version(1)))));
    assert_eq!(null(&shard), Some(1));
    done(shard.run(versioning(true)));
    done(shard.run(Command::PutObject(put("k", version(2)))));
    done(shard.run(Command::PutObject(put("k", version(3)))));
    assert_eq!(null(&shard), Some(1));
    done(shard.run(versioning(false)));
    // Takes the place of the first one, which stood under two others.
    done(shard.run(Command::PutObject(put("k", version(4)))));
    assert_eq!(null(&shard), Some(4));
    assert_eq!(shard.dataset().versions, 3);
    assert!(read::version(&shard.state, &version(1)).is_none());
    done(shard.run(versioning(true)));
    done(shard.run(Command::PutObject(put("k", version(5)))));
    // Removed by its id it is nobody's place; a marker under suspension is a null version too.
    done(shard.run(Command::DeleteObject(delete_version("k", version(4)))));
    assert_eq!(null(&shard), None);
    done(shard.run(versioning(false)));
    done(shard.run(Command::DeleteObject(delete_with_marker("k", version(6)))));
    assert_eq!(null(&shard), Some(6));
    done(shard.run(Command::PutObject(put("k", version(7)))));
    assert_eq!(null(&shard), Some(7));
    assert_eq!(shard.dataset().versions, 4);
}

#[test]
fn below_their_level_they_are_unknown_and_their_bytes_are_fixed() {
    let rules = v1::Lifecycle {
        rules: vec![v1::LifecycleRule {
            id: "r".to_owned(),
            enabled: true,
            prefix: "tmp/".to_owned(),
            expire_days: 1,
            expire_markers: true,
            noncurrent_days: 2,
            newer_noncurrent: 3,
            abort_days: 4,
        }],
    };
    let all = vec![
        set(ConfigKind::Lifecycle, &rules.encode_to_vec(), 7),
        set_quota(1, 2),
        Command::LifecycleStep(v1::LifecycleStep { steps: 3 }),
    ];
    for kind in all.clone() {
        let mut shard = Shard::new();
        shard.level = FeatureLevel(4);
        let command = shard.command(kind);
        assert!(shard.apply_bytes(command.encode_to_vec().into()).is_err());
    }
    let fixed = ["394dadf95de4b5a5", "d87b6a11e673a0c6", "210a40d3ba585c34"];
    assert_eq!(hashes(all), fixed);
}
