//! A walk tells everything there is of a dataset, in order, whatever the pages are cut by.

use proto::v1::shard_command::Command;

use super::*;
use crate::shard::fixture::parts::{Stream, complete, create_upload, finish_part};
use crate::shard::fixture::{
    DATASET, Shard, create, delete_with_marker, done, finish, put, register, version,
};
use proto::ids::{FeatureLevel, UploadEpoch};

fn told(shard: &Shard) -> Vec<Item> {
    let mut walk = Walk::new(DATASET);
    let mut all = Vec::new();
    while let Some(page) = walk.page(&shard.state) {
        all.extend(page.into_iter().map(|item| item.item.expect("an item")));
    }
    assert!(walk.page(&shard.state).is_none(), "it stays at its end");
    all
}

fn collected<'a, T>(all: &'a [Item], one: impl Fn(&'a Item) -> Option<T>) -> Vec<T> {
    all.iter().filter_map(one).collect()
}

/// A versioned dataset with histories, blocks, parts, an upload under way; and another dataset beside it.
fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.level = FeatureLevel(5);
    let other = DatasetId([0xD6; 16]);
    done(shard.run(create(other, "other")));
    done(shard.run(Command::SetVersioning(v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled: true,
    })));
    for lease in 0..200_u8 {
        done(shard.run(register([lease; 16], [0x40; 32])));
    }
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(Command::PutObject(put("a", version(2)))));
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(3)))));
    done(shard.run(Command::FinishObject(finish("b", version(4), &[1, 2]))));
    done(shard.run(Command::CreateUpload(create_upload("c", version(5)))));
    done(shard.run(Command::CreateUpload(create_upload(
        "under way",
        version(6),
    ))));
    let streams: Vec<_> = (1..=150)
        .map(|number| Stream {
            number,
            seed: u64::from(number),
            blocks: number == 7,
        })
        .collect();
    for stream in &streams {
        let part = finish_part("c", version(5), *stream, UploadEpoch(0));
        done(shard.run(Command::FinishPart(part)));
    }
    done(shard.run(Command::CompleteUpload(complete("c", version(5), &streams))));
    for n in 0..600 {
        done(shard.run(Command::PutObject(put("many", version(1000 + n)))));
    }
    done(shard.run(Command::PutObject(put("z\0/", version(7)))));
    shard
}

#[test]
fn everything_is_told_once_and_in_order() {
    let shard = shard();
    let all = told(&shard);
    let Some(Item::Dataset(first)) = all.first() else {
        panic!("the dataset comes first");
    };
    assert_eq!(first.record, read::dataset(&shard.state, &DATASET));
    let leases: Vec<_> = collected(&all, |item| match item {
        Item::Token(token) => Some(token.lease_id.clone()),
        _ => None,
    });
    assert_eq!(leases.len(), 200, "the one it was made with among them");
    assert!(leases.is_sorted());
    let versions: Vec<_> = collected(&all, |item| match item {
        Item::Version(version) => Some(version),
        _ => None,
    });
    let record = first.record.clone().expect("a record");
    assert_eq!(versions.len() as u64, record.versions);
    let place = |version: &&v1::BackedVersion| {
        let entry = version.entry.clone().expect("an entry");
        (version.key.clone(), u64::MAX - entry.finished_index)
    };
    assert!(
        versions.iter().map(place).is_sorted(),
        "newest first within a key"
    );
    for version in &versions {
        let entry = version.entry.as_ref().expect("an entry");
        let id = ObjectVersionId::try_from(entry.version_id.as_ref()).expect("an id");
        let held = read::object(&shard.state, &DATASET, &version.key, Some(&id));
        assert_eq!(held.as_ref(), Some(entry), "whole");
    }
    let numbers: Vec<_> = collected(&all, |item| match item {
        Item::Part(part) => part.part.as_ref()?.part.as_ref().map(|part| part.number),
        _ => None,
    });
    assert_eq!(numbers, (1..=150).collect::<Vec<_>>());
    let parts_at = all.iter().position(|item| matches!(item, Item::Part(_)));
    let before = &all[parts_at.expect("parts") - 1];
    assert!(matches!(before, Item::Version(version) if version.key == "c"));
    let blocks = all.iter().any(|item| {
        matches!(item, Item::Part(part) if part.part.as_ref().is_some_and(|part| !part.blocks.is_empty()))
    });
    assert!(blocks, "a part comes with where its bytes are");
}

#[test]
fn a_dataset_that_holds_nothing_is_told_by_itself() {
    let shard = Shard::new();
    let all = told(&shard);
    assert_eq!(all.len(), 2, "its record and its token");
}
