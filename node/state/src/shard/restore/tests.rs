//! What a backup tells of a dataset is what a restore brings back, and nothing is served of it before it is whole.

use proptest::prelude::*;
use proto::ids::LogIndex;
use proto::v1::Refusal;
use proto::v1::backup_item::Item;
use proto::v1::shard_command::Command;

use super::*;
use crate::backup::Walk;
use crate::shard::fixture::{
    DATASET, HOLDER, LEASE, Shard, create, delete_with_marker, done, finish, hashes, put, reason,
    receipt, refused, token, version,
};

mod content;

const RESTORE: [u8; 16] = [0x5E; 16];
const RESTORER: [u8; 32] = [0x77; 32];

/// Everything that a backup would tell.
fn told(shard: &Shard) -> Vec<Item> {
    let mut walk = Walk::new(DATASET);
    let mut all = Vec::new();
    while let Some(page) = walk.page(&shard.state) {
        all.extend(page.into_iter().map(|item| item.item.expect("an item")));
    }
    all
}

fn step(restore_id: [u8; 16], step: Step) -> Command {
    Command::Restore(v1::RestoreDataset {
        dataset_id: DATASET.into(),
        restore_id: Bytes::copy_from_slice(&restore_id),
        step: Some(step),
    })
}

fn by(approvers: &[&str]) -> Option<v1::Approvals> {
    Some(v1::Approvals {
        requester: "o1".to_owned(),
        approvers: approvers.iter().map(|who| (*who).to_owned()).collect(),
    })
}

fn is_row(item: &Item) -> bool {
    matches!(item, Item::Version(_) | Item::Part(_))
}

/// The first step, of what a backup told.
fn begin_of(items: &[Item]) -> v1::RestoreBegin {
    let Some(Item::Dataset(dataset)) = items.first() else {
        panic!("the dataset comes first");
    };
    v1::RestoreBegin {
        dataset: dataset.record.clone(),
        configs: dataset.configs.clone(),
        backup_id: Bytes::from_static(&[0xB0; 16]),
        index_digest: Bytes::from_static(&[0xD1; 32]),
        restorer: Bytes::copy_from_slice(&RESTORER),
        oldest_kek_version: 1,
        items: items.iter().filter(|item| is_row(item)).count() as u64,
        approvals: by(&["o2", "o3"]),
    }
}

/// A shard of another region's life: its log is elsewhere, and it is in another epoch.
fn elsewhere() -> Shard {
    let mut shard = Shard::empty();
    shard.level = RESTORE_LEVEL;
    shard.index = 7000;
    done(shard.run(Command::SetAuthority(v1::SetAuthority { version: 1 })));
    shard.advance_epochs(3);
    shard
}

fn batch(shard: &mut Shard, batch: v1::RestoreBatch) -> v1::ShardAnswer {
    shard.run(step(RESTORE, Step::Batch(batch)))
}

/// A version as it is brought: its blocks were uploaded in this shard's epoch, to a majority.
fn brought(
    shard: &Shard,
    told: &v1::BackedVersion,
    parts: &[v1::ListedPart],
) -> v1::RestoredVersion {
    let mut entry = told.entry.clone().expect("an entry");
    (entry.null_index, entry.changed_index) = (0, 0);
    (entry.source_index, entry.metadata_index) = (0, 0);
    let blocks = u32::try_from(entry.blocks.len()).expect("a few");
    let receipts = match blocks {
        0 => Vec::new(),
        _ => vec![receipt(1, &[(0, blocks)]), receipt(3, &[(0, blocks)])],
    };
    if blocks > 0 {
        entry.upload_epoch = shard.meta().upload_epoch.0;
    }
    let name = |part: &v1::ListedPart| {
        let part = part.part.as_ref().expect("a part");
        v1::PartName {
            number: part.number,
            part_id: part.part_id.clone(),
        }
    };
    v1::RestoredVersion {
        key: told.key.clone(),
        entry: Some(entry),
        receipts,
        parts: parts.iter().map(name).collect(),
    }
}

fn brought_part(shard: &Shard, told: &v1::ListedPart) -> v1::RestoredPart {
    let blocks = u32::try_from(told.blocks.len()).expect("a few");
    let receipts = match blocks {
        0 => Vec::new(),
        _ => vec![receipt(2, &[(0, blocks)]), receipt(3, &[(0, blocks)])],
    };
    v1::RestoredPart {
        part: told.part.clone(),
        inline: told.inline.clone(),
        blocks: told.blocks.clone(),
        upload_epoch: match blocks {
            0 => 0,
            _ => shard.meta().upload_epoch.0,
        },
        receipts,
    }
}

fn parts_of(version: &v1::BackedVersion, parts: Vec<v1::RestoredPart>) -> v1::RestoredParts {
    let entry = version.entry.clone().expect("an entry");
    v1::RestoredParts {
        key: version.key.clone(),
        upload: Some(v1::UploadRecord {
            format: 1,
            version_id: entry.version_id,
            lease_id: entry.lease_id,
            dek_salt: entry.dek_salt,
            name_salt: entry.name_salt,
            placement: 1,
            ..Default::default()
        }),
        parts,
    }
}

fn bring_tokens(shard: &mut Shard, items: &[Item]) {
    let tokens = items.iter().filter_map(|item| match item {
        Item::Token(told) => Some(v1::RestoredToken {
            lease_id: told.lease_id.clone(),
            token: told.token.clone(),
        }),
        _ => None,
    });
    let tokens: Vec<_> = tokens.collect();
    for some in tokens.chunks(3) {
        let tokens = some.to_vec();
        done(batch(
            shard,
            v1::RestoreBatch {
                tokens,
                ..Default::default()
            },
        ));
    }
}

/// Brings the rows of a backup, the last one first, so many versions a batch; each batch comes twice.
fn bring_rows(shard: &mut Shard, items: &[Item], at_once: usize) {
    let (mut taken, mut parts, mut versions) = (0, Vec::new(), Vec::<v1::RestoredVersion>::new());
    let send = |shard: &mut Shard, versions: &mut Vec<v1::RestoredVersion>, taken: &mut u64| {
        let versions = std::mem::take(versions);
        let items: usize = versions.iter().map(|one| 1 + one.parts.len()).sum();
        let sent = v1::RestoreBatch {
            from: *taken,
            versions,
            ..Default::default()
        };
        if items > 0 {
            for _ in 0..2 {
                done(batch(shard, sent.clone()));
            }
        }
        *taken += items as u64;
    };
    for item in items.iter().rev() {
        match item {
            Item::Part(told) => parts.push(told.part.clone().expect("a part")),
            Item::Version(told) => {
                let repeats = versions.iter().any(|one| one.key == told.key);
                if repeats || versions.len() >= at_once || !parts.is_empty() {
                    send(shard, &mut versions, &mut taken);
                }
                parts.reverse();
                for some in parts.chunks(2) {
                    let some = some.iter().map(|part| brought_part(shard, part)).collect();
                    let sent = v1::RestoreBatch {
                        from: taken,
                        parts: Some(parts_of(told, some)),
                        ..Default::default()
                    };
                    for _ in 0..2 {
                        done(batch(shard, sent.clone()));
                    }
                }
                versions.push(brought(shard, told, &std::mem::take(&mut parts)));
            }
            Item::Dataset(_) | Item::Token(_) => {}
        }
    }
    send(shard, &mut versions, &mut taken);
}

/// A shard into which all of it was brought.
fn restored(items: &[Item], at_once: usize) -> Shard {
    let mut shard = elsewhere();
    done(shard.run(step(RESTORE, Step::Begin(begin_of(items)))));
    bring_tokens(&mut shard, items);
    bring_rows(&mut shard, items, at_once);
    done(shard.run(step(RESTORE, Step::End(true))));
    shard
}

fn small() -> Shard {
    let mut shard = Shard::new();
    shard.level = RESTORE_LEVEL;
    done(shard.run(Command::SetVersioning(v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled: true,
    })));
    for n in 1..=3 {
        done(shard.run(Command::PutObject(put("a", version(n)))));
    }
    done(shard.run(Command::FinishObject(finish("b", version(4), &[1, 2]))));
    shard
}

fn confirm(approvers: &[&str], epoch: u64) -> Command {
    let approvals = by(approvers);
    step(
        RESTORE,
        Step::Confirm(v1::RestoreConfirm { epoch, approvals }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Arbitrary content, told, brought into an empty shard, told again: the same, but for the places in two logs.
    #[test]
    fn what_was_told_is_told_again(
        acts in prop::collection::vec(content::act(), 0..50), at_once in 1_usize..9,
    ) {
        let source = content::played(&acts);
        let items = told(&source);
        let shard = restored(&items, at_once);
        prop_assert_eq!(content::plain(&told(&shard)), content::plain(&items));
        prop_assert_eq!(content::nulls(&shard), content::nulls(&source));
    }
}

#[test]
fn it_serves_nothing_then_reads_alone_and_takes_changes_once_two_people_say_so() {
    let items = told(&small());
    let mut shard = elsewhere();
    done(shard.run(step(RESTORE, Step::Begin(begin_of(&items)))));
    let why = |shard: &Shard| crate::shard::unserved(&shard.dataset()).map(|why| why.reason());
    assert_eq!(why(&shard), Some(Refusal::DatasetArriving));
    let write = |n| Command::PutObject(put("new", version(n)));
    assert_eq!(reason(shard.run(write(90))), Refusal::DatasetArriving);
    bring_tokens(&mut shard, &items);
    bring_rows(&mut shard, &items, 2);
    assert_eq!(why(&shard), Some(Refusal::DatasetArriving));
    done(shard.run(step(RESTORE, Step::End(true))));
    assert_eq!(why(&shard), None, "it is read");
    assert_eq!(reason(shard.run(write(91))), Refusal::DatasetUnconfirmed);
    let dropped = Command::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    });
    assert_eq!(reason(shard.run(dropped)), Refusal::DatasetUnconfirmed);
    // What ends the use of its key cannot wait for people.
    let disable = Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: v1::KeyState::Disabled.into(),
        version: 9,
        min_kek_version: 1,
    });
    done(shard.run(disable));
    assert_eq!(shard.dataset().key_state(), v1::KeyState::Disabled);
    let enable = Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: v1::KeyState::Enabled.into(),
        version: 10,
        min_kek_version: 1,
    });
    done(shard.run(enable));
    for few in [&[][..], &["o2"], &["o2", "o2"], &["o1", "o2"]] {
        let answer = shard.run(confirm(few, 1));
        assert_eq!(reason(answer), Refusal::TooFewApprovals, "{few:?}");
    }
    let other_epoch = refused(shard.run(confirm(&["o2", "o3"], 2)));
    assert_eq!(other_epoch.reason(), Refusal::DatasetEpochMoved);
    assert_eq!(reason(shard.run(write(92))), Refusal::DatasetUnconfirmed);
    for _ in 0..2 {
        done(shard.run(confirm(&["o2", "o3"], 1)));
    }
    done(shard.run(write(93)));
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(94)))));
    assert_eq!(
        reason(shard.run(step(RESTORE, Step::Abandon(true)))),
        Refusal::NotRestoring
    );
}

/// An id of the shard that was lost is of an epoch that is over here, whatever epoch this shard is in.
#[test]
fn request_ids_of_the_lost_shard_are_too_old() {
    let source = small();
    let mut shard = restored(&told(&source), 4);
    done(shard.run(confirm(&["o2", "o3"], 1)));
    for epoch in [0, 3, 900_000] {
        let mut command = shard.command(Command::PutObject(put("late", version(50))));
        let id = proto::ids::RequestId {
            epoch: proto::ids::UploadEpoch(epoch),
            nonce: [1; 16],
        };
        command.request_id = Bytes::copy_from_slice(&id.to_bytes());
        assert_eq!(
            reason(shard.apply(command)),
            Refusal::RequestTooOld,
            "{epoch}"
        );
    }
    assert_eq!(shard.dataset().request_offset, RESTORED_EPOCHS);
}

#[test]
fn it_begins_with_two_approvers_and_where_nothing_is() {
    let items = told(&small());
    let begin = |edit: &dyn Fn(&mut v1::RestoreBegin)| {
        let mut begin = begin_of(&items);
        edit(&mut begin);
        step(RESTORE, Step::Begin(begin))
    };
    let mut shard = elsewhere();
    for few in [&[][..], &["o2"], &["o2", "o2"], &["o1", "o2"]] {
        let answer = shard.run(begin(&|begin| begin.approvals = by(few)));
        assert_eq!(reason(answer), Refusal::TooFewApprovals, "{few:?}");
    }
    let record = |edit: fn(&mut v1::DatasetRecord)| {
        begin(&|begin| edit(begin.dataset.as_mut().expect("a record")))
    };
    for malformed in [
        record(|record| record.format = 2),
        record(|record| record.dataset_id = vec![1; 16].into()),
        record(|record| record.name = "Not A Name".to_owned()),
        record(|record| record.epoch = 0),
        record(|record| record.key_state = 0),
        record(|record| record.kek_id = Bytes::new()),
        begin(&|begin| begin.backup_id = Bytes::new()),
        begin(&|begin| begin.index_digest = Bytes::new()),
        begin(&|begin| begin.restorer = Bytes::new()),
        begin(&|begin| begin.dataset = None),
        begin(&|begin| begin.configs = vec![v1::ConfigRecord::default()]),
    ] {
        assert_eq!(reason(shard.run(malformed)), Refusal::Malformed);
    }
    let other = step(RESTORE, Step::End(true));
    assert_eq!(reason(shard.run(other)), Refusal::NotRestoring);
    done(shard.run(begin(&|_| {})));
    // Begun again it goes on, for whoever shows the warrant; another warrant's is another.
    done(shard.run(begin(&|begin| begin.restorer = vec![5; 32].into())));
    let held = read::restore(&shard.state, &DATASET).expect("a restore");
    assert_eq!(held.restorer[..], [5; 32]);
    assert_eq!(
        reason(shard.run(begin(&|begin| begin.items = 1))),
        Refusal::Malformed
    );
    let again = step([1; 16], Step::Begin(begin_of(&items)));
    assert_eq!(reason(shard.run(again)), Refusal::DatasetExists);
    assert_eq!(
        reason(shard.run(step([1; 16], Step::End(true)))),
        Refusal::NotRestoring
    );
    // A dataset that lives, and one that was dropped for good.
    let mut living = small();
    assert_eq!(reason(living.run(begin(&|_| {}))), Refusal::DatasetExists);
    done(living.run(Command::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    })));
    living.sweep_all();
    assert_eq!(reason(living.run(begin(&|_| {}))), Refusal::DatasetGone);
}

#[test]
fn a_batch_goes_on_where_the_last_one_ended_or_is_not_taken() {
    let items = told(&small());
    let mut shard = elsewhere();
    done(shard.run(step(RESTORE, Step::Begin(begin_of(&items)))));
    let versions = items.iter().rev().filter_map(|item| match item {
        Item::Version(told) => Some(brought(&shard, told, &[])),
        _ => None,
    });
    let versions: Vec<_> = versions.collect();
    let of = |from, versions: &[v1::RestoredVersion]| v1::RestoreBatch {
        from,
        versions: versions.to_vec(),
        ..Default::default()
    };
    // b, and then a's three from the oldest on.
    let none = batch(&mut shard, of(0, &versions[..1]));
    assert_eq!(reason(none), Refusal::NoSuchToken);
    bring_tokens(&mut shard, &items);
    let gap = refused(batch(&mut shard, of(1, &versions[1..2])));
    assert_eq!((gap.reason(), gap.moved_to), (Refusal::RestoreGap, 0));
    done(batch(&mut shard, of(0, &versions[..2])));
    done(batch(&mut shard, of(0, &versions[..1])));
    let overlaps = refused(batch(&mut shard, of(1, &versions[1..3])));
    assert_eq!(
        (overlaps.reason(), overlaps.moved_to),
        (Refusal::RestoreGap, 2)
    );
    let twice = batch(&mut shard, of(2, &versions[2..4]));
    assert_eq!(reason(twice), Refusal::Malformed, "two versions of one key");
    done(batch(&mut shard, of(2, &versions[3..4])));
    let older = batch(&mut shard, of(3, &versions[2..3]));
    assert_eq!(reason(older), Refusal::Malformed, "under a newer one");
    let incomplete = refused(shard.run(step(RESTORE, Step::End(true))));
    assert_eq!(
        (incomplete.reason(), incomplete.moved_to),
        (Refusal::RestoreIncomplete, 3)
    );
    let beyond = batch(
        &mut shard,
        of(3, &[versions[2].clone(), versions[0].clone()]),
    );
    assert_eq!(reason(beyond), Refusal::Malformed, "more than there is");
    let empty = batch(&mut shard, of(3, &[]));
    assert_eq!(reason(empty), Refusal::Malformed);
}

#[test]
fn content_is_as_durable_as_a_commits_and_under_tokens_that_open() {
    let items = told(&small());
    let mut shard = elsewhere();
    let mut begin = begin_of(&items);
    begin.oldest_kek_version = 2;
    done(shard.run(step(RESTORE, Step::Begin(begin))));
    let of = |token: v1::TokenRecord| v1::RestoreBatch {
        tokens: vec![v1::RestoredToken {
            lease_id: Bytes::copy_from_slice(&LEASE),
            token: Some(token),
        }],
        ..Default::default()
    };
    let ended = batch(&mut shard, of(token(HOLDER, 1, 5)));
    assert_eq!(reason(ended), Refusal::TokenTooOld);
    let mut elses = token(HOLDER, 2, 5);
    elses.dataset_id = vec![1; 16].into();
    assert_eq!(reason(batch(&mut shard, of(elses))), Refusal::Malformed);
    for _ in 0..2 {
        done(batch(&mut shard, of(token(HOLDER, 2, 5))));
    }
    let other = batch(&mut shard, of(token([9; 32], 2, 5)));
    assert_eq!(reason(other), Refusal::TokenNotHolders);
    let Some(Item::Version(told)) = items.last() else {
        panic!("a version comes last");
    };
    let whole = brought(&shard, told, &[]);
    let version = |edit: &dyn Fn(&mut v1::RestoredVersion)| {
        let mut version = whole.clone();
        edit(&mut version);
        v1::RestoreBatch {
            versions: vec![version],
            ..Default::default()
        }
    };
    let entry = |edit: fn(&mut v1::ObjectEntry)| {
        version(&|version| edit(version.entry.as_mut().expect("an entry")))
    };
    let cases = [
        (
            version(&|version| version.receipts.truncate(1)),
            Refusal::NotOnMajority,
        ),
        (entry(|entry| entry.finished_index = 0), Refusal::Malformed),
        (entry(|entry| entry.null_index = 5), Refusal::Malformed),
        (entry(|entry| entry.source_index = 5), Refusal::Malformed),
        (entry(|entry| entry.upload_epoch = 99), Refusal::Malformed),
        (entry(|entry| entry.sealed_bytes += 1), Refusal::Malformed),
        (entry(|entry| entry.legal_hold = true), Refusal::Malformed),
        (entry(|entry| entry.parts = 1), Refusal::Malformed),
        (
            entry(|entry| entry.delete_marker = true),
            Refusal::Malformed,
        ),
        (
            entry(|entry| entry.lease_id = vec![1; 16].into()),
            Refusal::NoSuchToken,
        ),
        (version(&|version| version.key.clear()), Refusal::Malformed),
    ];
    for (sent, expected) in cases {
        assert_eq!(reason(batch(&mut shard, sent)), expected);
    }
    let sent = version(&|_| {});
    done(batch(&mut shard, sent));
}

#[test]
fn an_abandoned_restore_leaves_nothing_and_another_may_begin() {
    let mut source = Shard::new();
    source.level = RESTORE_LEVEL;
    done(source.run(Command::PutObject(put("a", version(1)))));
    let items = told(&source);
    let mut shard = restored(&items, 1);
    for _ in 0..2 {
        done(shard.run(step(RESTORE, Step::Abandon(true))));
    }
    let same = step(RESTORE, Step::Begin(begin_of(&items)));
    assert_eq!(reason(shard.run(same)), Refusal::NotRestoring);
    let other = step([1; 16], Step::Begin(begin_of(&items)));
    shard.sweep_all();
    done(shard.run(other));
    let held = read::restore(&shard.state, &DATASET).expect("a restore");
    assert_eq!((held.phase(), held.taken), (v1::RestorePhase::Filling, 0));
    assert_eq!(shard.dataset().versions, 0);
    let created = shard.run(create(DATASET, "cti"));
    assert_eq!(reason(created), Refusal::DatasetExists);
}

#[test]
fn golden_bytes_of_its_commands_and_its_row() {
    let record = v1::RestoreRecord {
        format: 1,
        restore_id: vec![2].into(),
        phase: v1::RestorePhase::Standing.into(),
        backup_id: vec![4].into(),
        index_digest: vec![5].into(),
        restorer: vec![6].into(),
        oldest_kek_version: 7,
        items: 8,
        taken: 9,
        versions: 10,
        objects: 11,
        legal_holds: 12,
        departures: 13,
        begun_at_ms: 14,
        changed_at_ms: 15,
    };
    let golden =
        "0801 120102 1801 220104 2a0105 320106 3807 4008 4809 500a 580b 600c 680d 700e 780f";
    assert_eq!(hex::encode(record.encode_to_vec()), golden.replace(' ', ""));
    let only = v1::ShardCommand {
        command: Some(step(RESTORE, Step::End(true))),
        ..Default::default()
    };
    let (dataset, restore) = ("d5".repeat(16), "5e".repeat(16));
    assert_eq!(
        hex::encode(only.encode_to_vec()),
        format!("e203260a10{dataset}1210{restore}6001")
    );
    let mut shard = elsewhere();
    shard.level = FeatureLevel(6);
    let command = shard.command(step(RESTORE, Step::End(true)));
    assert!(shard.apply_bytes(command.encode_to_vec().into()).is_err());
    let items = told(&small());
    let kinds = vec![
        step(RESTORE, Step::Begin(begin_of(&items))),
        confirm(&["o2", "o3"], 1),
        step(RESTORE, Step::Abandon(true)),
    ];
    assert_eq!(hashes(kinds).len(), 3);
}

#[test]
fn a_place_in_the_lost_log_is_kept_beside_the_own() {
    let source = small();
    let shard = restored(&told(&source), 4);
    let of = |shard: &Shard| read::head(&shard.state, &DATASET, "a", None).expect("a version");
    let (was, is) = (of(&source), of(&shard));
    assert_eq!(is.source_index, was.finished_index);
    assert!(LogIndex(is.finished_index) > LogIndex(7000));
}
