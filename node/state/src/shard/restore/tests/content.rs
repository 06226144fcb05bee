//! Arbitrary content of a dataset, and what of it has to be the same after a restore.

use bytes::Bytes;
use proptest::prelude::*;
use proto::ids::{ObjectVersionId, UploadEpoch};
use proto::v1;
use proto::v1::backup_item::Item;
use proto::v1::shard_command::Command;

use crate::read;
use crate::shard::RESTORE_LEVEL;
use crate::shard::fixture::parts::{Stream, complete, create_upload, finish_part};
use crate::shard::fixture::{
    DATASET, HOLDER, Shard, delete_version, delete_with_marker, done, finish, put, register,
    set_metadata, version,
};

const KEYS: [&str; 4] = ["a", "a/b", "b\0", "z"];
const YEAR_MS: u64 = 365 * 86_400_000;

/// Something that somebody does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Put(usize),
    Blocks(usize),
    Parts(usize, u32),
    Marker(usize),
    Remove(usize, usize),
    Versioning(bool),
    Lock,
    Retain(usize, u64),
    Hold(usize, bool),
    Retag(usize),
    Config(u8),
    Quota(u64),
    Token(u8),
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let key = 0..KEYS.len();
    prop_oneof![
        4 => key.clone().prop_map(Act::Put),
        2 => key.clone().prop_map(Act::Blocks),
        2 => (key.clone(), 1_u32..6).prop_map(|(key, parts)| Act::Parts(key, parts)),
        2 => key.clone().prop_map(Act::Marker),
        2 => (key.clone(), 0_usize..4).prop_map(|(key, nth)| Act::Remove(key, nth)),
        2 => any::<bool>().prop_map(Act::Versioning),
        1 => Just(Act::Lock),
        1 => (key.clone(), 1_u64..9).prop_map(|(key, years)| Act::Retain(key, years)),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, on)| Act::Hold(key, on)),
        1 => key.prop_map(Act::Retag),
        1 => any::<u8>().prop_map(Act::Config),
        1 => (1_000_000_u64..2_000_000).prop_map(Act::Quota),
        1 => any::<u8>().prop_map(Act::Token),
    ]
}

/// A shard in which it was done; what is refused was not.
pub(super) fn played(acts: &[Act]) -> Shard {
    let mut shard = Shard::new();
    shard.level = RESTORE_LEVEL;
    for (n, act) in (1..).zip(acts) {
        match *act {
            Act::Parts(key, parts) => in_parts(&mut shard, KEYS[key], n, parts),
            act => {
                if let Some(command) = command(&shard, act, n) {
                    shard.run(command);
                }
            }
        }
    }
    shard
}

fn in_parts(shard: &mut Shard, key: &str, n: u64, parts: u32) {
    let id = version(n);
    done(shard.run(Command::CreateUpload(create_upload(key, id))));
    let stream = |number: u32| Stream {
        number: number * 3,
        seed: n * 1000 + u64::from(number),
        blocks: number.is_multiple_of(2),
    };
    let streams: Vec<_> = (1..=parts).map(stream).collect();
    for stream in &streams {
        let part = finish_part(key, id, *stream, UploadEpoch(0));
        done(shard.run(Command::FinishPart(part)));
    }
    let completed = shard.run(Command::CompleteUpload(complete(key, id, &streams)));
    done(completed);
}

fn command(shard: &Shard, act: Act, n: u64) -> Option<Command> {
    let dataset_id: Bytes = DATASET.into();
    Some(match act {
        Act::Put(key) => Command::PutObject(put(KEYS[key], version(n))),
        Act::Blocks(key) => Command::FinishObject(finish(KEYS[key], version(n), &[1, 2])),
        Act::Marker(key) => Command::DeleteObject(delete_with_marker(KEYS[key], version(n))),
        Act::Remove(key, nth) => {
            let (id, _) = ids(shard, KEYS[key]).get(nth)?.clone();
            Command::DeleteObject(delete_version(KEYS[key], id))
        }
        Act::Versioning(enabled) => Command::SetVersioning(v1::SetVersioning {
            dataset_id,
            enabled,
        }),
        Act::Lock => Command::SetObjectLock(v1::SetObjectLock {
            dataset_id,
            lock: Some(v1::ObjectLock::default()),
        }),
        Act::Retain(key, years) => Command::SetRetention(v1::SetRetention {
            dataset_id,
            key: KEYS[key].to_owned(),
            version_id: ids(shard, KEYS[key]).first()?.0.into(),
            retention: Some(v1::Retention {
                mode: v1::RetentionMode::Compliance.into(),
                until_ms: years * YEAR_MS,
            }),
            bypass_governance: false,
        }),
        Act::Hold(key, on) => Command::SetLegalHold(v1::SetLegalHold {
            dataset_id,
            key: KEYS[key].to_owned(),
            version_id: ids(shard, KEYS[key]).first()?.0.into(),
            on,
        }),
        Act::Retag(key) => {
            let (id, sealed) = ids(shard, KEYS[key]).first()?.clone();
            set_metadata(KEYS[key], id, &sealed, &n.to_be_bytes())
        }
        Act::Config(content) => Command::SetConfig(v1::SetConfig {
            dataset_id,
            kind: v1::ConfigKind::Tagging.into(),
            content: vec![content; 9].into(),
            from_version: 0,
            any_version: true,
        }),
        Act::Quota(bytes) => Command::SetQuota(v1::SetQuota {
            dataset_id,
            quota: Some(v1::Quota {
                objects_max: 0,
                sealed_bytes_max: bytes,
            }),
        }),
        Act::Token(lease) => register([lease; 16], HOLDER),
        Act::Parts(..) => return None,
    })
}

/// Versions of a key, the newest first, with what is sealed beside each.
fn ids(shard: &Shard, key: &str) -> Vec<(ObjectVersionId, Bytes)> {
    let query = crate::listing::VersionsQuery {
        dataset: &DATASET,
        prefix: key,
        start_after_key: "",
        start_after_index: proto::ids::LogIndex(0),
        limit: 0,
    };
    let listed = crate::listing::versions(&shard.state, query).versions;
    let of_key = listed.into_iter().filter(|one| one.key == key);
    let entries = of_key.filter_map(|one| one.entry);
    entries
        .map(|entry| {
            let id = ObjectVersionId::try_from(entry.version_id.as_ref()).expect("an id");
            (id, entry.sealed_metadata)
        })
        .collect()
}

/// Items without their places in a log, which are each shard's own.
pub(super) fn plain(items: &[Item]) -> Vec<Item> {
    items.iter().cloned().map(one).collect()
}

fn one(item: Item) -> Item {
    match item {
        Item::Dataset(mut dataset) => {
            if let Some(record) = &mut dataset.record {
                (record.tombstones, record.tombstones_from) = (0, 0);
                (record.settings_index, record.request_offset) = (0, 0);
                (record.status, record.authority) = (0, None);
            }
            Item::Dataset(dataset)
        }
        Item::Version(mut version) => {
            if let Some(entry) = &mut version.entry {
                (entry.finished_index, entry.null_index) = (0, 0);
                (entry.changed_index, entry.metadata_index) = (0, 0);
                (entry.source_index, entry.upload_epoch) = (0, 0);
            }
            Item::Version(version)
        }
        Item::Part(mut part) => {
            let listed = part.part.as_mut().and_then(|listed| listed.part.as_mut());
            if let Some(part) = listed {
                part.finished_index = 0;
            }
            Item::Part(part)
        }
        token @ Item::Token(_) => token,
    }
}

/// Which version of each key is its null version.
pub(super) fn nulls(shard: &Shard) -> Vec<Option<Bytes>> {
    let null = |key: &&str| read::null_version(&shard.state, &DATASET, key);
    let all = KEYS.iter().map(null);
    all.map(|head| head.map(|head| head.version_id)).collect()
}
