use prost::Message as _;
use proto::ids::UploadEpoch;
use proto::v1::Refusal;
use proto::v1::shard_command::Command;

use super::super::fixture::parts::*;
use super::super::fixture::*;
use super::*;
use crate::limits::{EPOCHS_KEPT, PARTS_MAX};
use crate::listing::{PartsQuery, UploadsQuery, parts, uploads};
use crate::{local, read};

const KEY: &str = "cases/7/dump";

fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.level = MULTIPART_LEVEL;
    shard
}

fn stream(number: u32, seed: u64, blocks: bool) -> Stream {
    Stream {
        number,
        seed,
        blocks,
    }
}

impl Shard {
    fn begin(&mut self, id: u64) {
        done(self.run(Command::CreateUpload(create_upload(KEY, version(id)))));
    }

    fn part(&mut self, id: u64, part: Stream) -> v1::ShardAnswer {
        let epoch = self.meta().upload_epoch;
        self.run(Command::FinishPart(finish_part(
            KEY,
            version(id),
            part,
            epoch,
        )))
    }

    fn complete(&mut self, id: u64, parts: &[Stream]) -> v1::ShardAnswer {
        self.run(Command::CompleteUpload(complete(KEY, version(id), parts)))
    }

    fn numbers(&self, id: u64) -> Vec<u32> {
        let query = PartsQuery {
            of: &version(id),
            start_after: 0,
            limit: 0,
            with_bodies: true,
        };
        let (found, truncated) = parts(&self.state, query);
        assert!(!truncated);
        found
            .into_iter()
            .map(|listed| listed.part.expect("listed with its record").number)
            .collect()
    }

    fn garbage(&self) -> Vec<ObjectVersionId> {
        let mut found = Vec::new();
        read::garbage(&self.state, UploadEpoch(u64::MAX), &mut |_, id, _| {
            found.push(id);
            true
        });
        found.sort();
        found
    }
}

fn sorted(parts: &[Stream]) -> Vec<ObjectVersionId> {
    let mut ids: Vec<_> = parts.iter().map(Stream::id).collect();
    ids.sort();
    ids
}

#[test]
fn parts_become_one_version_at_completion_and_not_before() {
    let mut shard = shard();
    shard.begin(1);
    let (first, last) = (stream(1, 1, true), stream(5, 2, false));
    // In any order.
    done(shard.part(1, last));
    done(shard.part(1, first));
    assert!(read::object(&shard.state, &DATASET, KEY, None).is_none());
    assert_eq!(shard.dataset().versions, 0);
    assert_eq!(
        (shard.dataset().uploads, shard.dataset().sealed_bytes),
        (1, 113)
    );
    let answer = done(shard.complete(1, &[first, last]));
    assert_eq!(answer.version_id, version(1).as_bytes()[..]);
    let entry = read::object(&shard.state, &DATASET, KEY, None).expect("it is complete");
    assert_eq!(
        (entry.plain_bytes, entry.sealed_bytes, entry.parts),
        (73, 113, 2)
    );
    assert_eq!(entry.finished_index, answer.log_index);
    assert_eq!(&entry.sealed_manifest[..], b"manifest of parts");
    assert!(entry.blocks.is_empty() && entry.inline.is_empty());
    assert_eq!(shard.numbers(1), [1, 5]);
    let record = shard.dataset();
    assert_eq!((record.uploads, record.objects, record.versions), (0, 1, 1));
    assert_eq!((record.sealed_bytes, shard.meta().sealed_bytes), (113, 113));
    let upload = read::upload(&shard.state, &DATASET, KEY, &version(1));
    assert_eq!(upload, None);
}

#[test]
fn what_was_done_is_done_again_and_has_effect_once() {
    let mut shard = shard();
    let create = shard.command(Command::CreateUpload(create_upload(KEY, version(1))));
    done(shard.apply(create.clone()));
    done(shard.apply(create));
    assert_eq!(shard.dataset().uploads, 1);
    // Another upload under the id of one is refused.
    let again = shard.run(Command::CreateUpload(create_upload("other", version(1))));
    assert_eq!(reason(again), Refusal::VersionIdReused);
    let part = stream(1, 1, true);
    done(shard.part(1, part));
    // The same stream under another request id.
    done(shard.part(1, part));
    assert_eq!(shard.dataset().sealed_bytes, 100);
    assert_eq!(shard.garbage(), []);
    let first = done(shard.complete(1, &[part]));
    let objects = shard.dataset().objects;
    // By a gateway that does not know that another was answered.
    let second = done(shard.complete(1, &[part]));
    assert_eq!(second.version_id, first.version_id);
    assert_eq!(shard.dataset().objects, objects);
    // Named otherwise it is not what was done.
    let other = shard.complete(1, &[stream(1, 9, true)]);
    assert_eq!(reason(other), Refusal::NoSuchUpload);
    assert_eq!(reason(shard.part(1, part)), Refusal::NoSuchUpload);
    assert_eq!(
        reason(shard.run(abort(KEY, version(1)))),
        Refusal::NoSuchUpload
    );
}

#[test]
fn a_part_sent_again_takes_the_place_of_the_one_before() {
    let mut shard = shard();
    shard.begin(1);
    let (old, new) = (stream(3, 1, true), stream(3, 2, true));
    done(shard.part(1, old));
    done(shard.part(1, new));
    assert_eq!(shard.garbage(), [old.id()]);
    assert_eq!(shard.dataset().sealed_bytes, 100);
    assert!(local::complete_through(
        proto::ids::LogIndex(0),
        &shard.local
    ));
    // Who names the first one completes nothing.
    assert_eq!(reason(shard.complete(1, &[old])), Refusal::InvalidPart);
    done(shard.complete(1, &[new]));
    // Its blocks are being removed: the stream cannot come back.
    shard.begin(2);
    assert_eq!(reason(shard.part(2, old)), Refusal::VersionIdReused);
    assert_eq!(reason(shard.part(2, new)), Refusal::VersionIdReused);
}

#[test]
fn what_completion_does_not_name_is_garbage() {
    let mut shard = shard();
    shard.begin(1);
    let all: Vec<_> = (1..=4).map(|n| stream(n, u64::from(n), true)).collect();
    for part in &all {
        done(shard.part(1, *part));
    }
    done(shard.complete(1, &[all[1], all[3]]));
    assert_eq!(shard.numbers(1), [2, 4]);
    assert_eq!(shard.garbage(), sorted(&[all[0], all[2]]));
    assert_eq!(shard.dataset().sealed_bytes, 200);
}

#[test]
fn a_completion_that_does_not_add_up_changes_nothing() {
    let mut shard = shard();
    shard.begin(1);
    let (one, two) = (stream(1, 1, true), stream(2, 2, false));
    done(shard.part(1, one));
    let before = shard.state.clone();
    let ask = complete(KEY, version(1), &[one]);
    let change = |change: fn(&mut v1::CompleteUpload)| {
        let mut asked = ask.clone();
        change(&mut asked);
        Command::CompleteUpload(asked)
    };
    let malformed = [
        change(|c| c.parts.clear()),
        change(|c| c.parts.push(c.parts[0].clone())),
        change(|c| c.sealed_manifest.clear()),
        change(|c| c.version_id.clear()),
        change(|c| c.key.clear()),
        change(|c| c.plain_bytes = (5 << 40) + 1),
    ];
    for command in malformed {
        assert_eq!(reason(shard.run(command)), Refusal::Malformed);
    }
    let invalid = [
        Command::CompleteUpload(complete(KEY, version(1), &[one, two])),
        change(|c| c.plain_bytes += 1),
        change(|c| c.sealed_bytes -= 1),
        change(|c| c.parts[0].number = 2),
    ];
    for command in invalid {
        assert_eq!(reason(shard.run(command)), Refusal::InvalidPart);
    }
    let elsewhere = Command::CompleteUpload(complete("other", version(1), &[one]));
    assert_eq!(reason(shard.run(elsewhere)), Refusal::NoSuchUpload);
    let conditional = v1::CompleteUpload {
        precondition: Some(v1::Precondition {
            if_match: version(9).into(),
            ..Default::default()
        }),
        ..ask
    };
    let conditional = shard.run(Command::CompleteUpload(conditional));
    assert_eq!(reason(conditional), Refusal::PreconditionFailed);
    // But the answer that is kept under the last one's id.
    let kept = crate::keys::range(table::REQUEST, &[]);
    let rows = |state: &proto::store::MemoryStore| {
        let mut rows = Vec::new();
        use proto::store::Reader as _;
        state.scan(&[2], &[0xFF], &mut |key, value| {
            if !(kept.0[..] <= *key && *key < kept.1[..]) {
                rows.push((key.to_vec(), value.to_vec()));
            }
            true
        });
        rows
    };
    assert_eq!(rows(&before), rows(&shard.state));
}

#[test]
fn a_part_that_does_not_add_up_is_refused() {
    let mut shard = shard();
    shard.begin(1);
    let epoch = UploadEpoch(0);
    let blocks = finish_part(KEY, version(1), stream(1, 1, true), epoch);
    let inline = finish_part(KEY, version(1), stream(1, 1, false), epoch);
    fn part(finish: &mut v1::FinishPart) -> &mut v1::PartRecord {
        finish.part.as_mut().expect("the fixture has one")
    }
    let of_blocks: [fn(&mut v1::FinishPart); 9] = [
        |f| f.part = None,
        |f| part(f).number = 0,
        |f| part(f).number = PARTS_MAX + 1,
        |f| part(f).part_id = Bytes::from_static(&[9; 16]),
        |f| part(f).commitment.truncate(31),
        |f| part(f).sealed_bytes += 1,
        |f| part(f).finished_index = 1,
        |f| part(f).sealed_metadata = vec![0; 1025].into(),
        |f| f.blocks.clear(),
    ];
    for change in of_blocks {
        let mut asked = blocks.clone();
        change(&mut asked);
        let answer = shard.run(Command::FinishPart(asked));
        assert_eq!(reason(answer), Refusal::Malformed);
    }
    let of_inline: [fn(&mut v1::FinishPart); 4] = [
        |f| f.inline.truncate(12),
        |f| f.upload_epoch = 1,
        |f| f.receipts = vec![receipt(1, &[])],
        |f| part(f).plain_bytes = 14,
    ];
    for change in of_inline {
        let mut asked = inline.clone();
        change(&mut asked);
        let answer = shard.run(Command::FinishPart(asked));
        assert_eq!(reason(answer), Refusal::Malformed);
    }
    let one = v1::FinishPart {
        receipts: vec![receipt(1, &[(0, 2)])],
        ..blocks
    };
    let answer = shard.run(Command::FinishPart(one));
    assert_eq!(reason(answer), Refusal::NotOnMajority);
    assert!(shard.numbers(1).is_empty());
}

#[test]
fn only_the_holder_begins_and_whoever_may_write_goes_on() {
    let mut shard = shard();
    let others = v1::CreateUpload {
        holder: Bytes::from_static(&[9; 32]),
        ..create_upload(KEY, version(1))
    };
    let others = shard.run(Command::CreateUpload(others));
    assert_eq!(reason(others), Refusal::TokenNotHolders);
    shard.begin(1);
    shard.level = FeatureLevel(0);
    shard.now_ms = EXPIRY_MS;
    done(shard.run(Command::Sweep(v1::Sweep { steps: 0 })));
    shard.level = MULTIPART_LEVEL;
    let late = shard.run(Command::CreateUpload(create_upload(KEY, version(2))));
    assert_eq!(reason(late), Refusal::TokenExpired);
    // Begun before: what comes later counts, from whatever gateway.
    let part = stream(1, 1, true);
    done(shard.part(1, part));
    let raise = |version, state: v1::KeyState, min_kek_version| {
        Command::SetKeyState(v1::SetKeyState {
            dataset_id: DATASET.into(),
            state: state.into(),
            version,
            min_kek_version,
        })
    };
    done(shard.run(raise(2, v1::KeyState::Enabled, 2)));
    assert_eq!(reason(shard.complete(1, &[part])), Refusal::TokenTooOld);
    assert_eq!(
        reason(shard.part(1, stream(2, 2, true))),
        Refusal::TokenTooOld
    );
    done(shard.run(Command::RegisterToken(v1::RegisterToken {
        lease_id: Bytes::copy_from_slice(&LEASE),
        token: Some(token(HOLDER, 2, EXPIRY_MS)),
    })));
    done(shard.run(raise(3, v1::KeyState::Disabled, 2)));
    assert_eq!(reason(shard.complete(1, &[part])), Refusal::KeyDisabled);
    done(shard.run(raise(4, v1::KeyState::Enabled, 2)));
    done(shard.complete(1, &[part]));
}

#[test]
fn no_epoch_ends_a_finished_part_and_a_late_one_is_refused() {
    let mut shard = shard();
    shard.begin(1);
    let (kept, late) = (stream(1, 1, true), stream(2, 2, true));
    done(shard.part(1, kept));
    let asked = finish_part(KEY, version(1), late, shard.meta().upload_epoch);
    shard.advance_epochs(EPOCHS_KEPT + 1);
    shard.sweep_all();
    let answer = shard.run(Command::FinishPart(asked));
    assert_eq!(reason(answer), Refusal::UploadTooOld);
    assert_eq!(shard.garbage(), []);
    done(shard.complete(1, &[kept]));
    assert!(read::body(&shard.state, &kept.id()).is_some());
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let mut shard = shard();
    shard.begin(1);
    let all: Vec<_> = (1..=40)
        .map(|n| stream(n, u64::from(n), n % 2 == 0))
        .collect();
    for part in &all {
        done(shard.part(1, *part));
    }
    done(shard.run(abort(KEY, version(1))));
    // Its id stays taken until the last part is gone.
    let early = shard.run(Command::CreateUpload(create_upload(KEY, version(1))));
    assert_eq!(reason(early), Refusal::VersionIdReused);
    shard.sweep_all();
    let record = shard.dataset();
    assert_eq!((record.uploads, record.sealed_bytes), (0, 0));
    let blocks: Vec<_> = all.iter().filter(|part| part.blocks).copied().collect();
    assert_eq!(shard.garbage(), sorted(&blocks));
    assert!(shard.numbers(1).is_empty());
    shard.begin(1);
}

#[test]
fn a_version_in_parts_is_overwritten_deleted_and_dropped_like_any() {
    for drop in 0..3 {
        let mut shard = shard();
        shard.begin(1);
        let all: Vec<_> = (1..=20).map(|n| stream(n, u64::from(n), true)).collect();
        for part in &all {
            done(shard.part(1, *part));
        }
        done(shard.complete(1, &all));
        shard.begin(2);
        done(shard.part(2, stream(1, 99, true)));
        let command = match drop {
            0 => Command::PutObject(put(KEY, version(3))),
            1 => Command::DeleteObject(delete_version(KEY, version(1))),
            _ => Command::TombstoneDataset(v1::TombstoneDataset {
                dataset_id: DATASET.into(),
                force: true,
            }),
        };
        done(shard.run(command));
        shard.sweep_all();
        let mut gone = all.clone();
        if drop == 2 {
            gone.push(stream(1, 99, true));
        }
        assert_eq!(shard.garbage(), sorted(&gone), "{drop}");
        let left = [113, 100, 0][drop];
        assert_eq!(shard.meta().sealed_bytes, left, "{drop}");
        assert!(read::version(&shard.state, &version(1)).is_none());
    }
}

#[test]
fn a_part_or_upload_is_no_version_to_a_delete_or_a_read() {
    let mut shard = shard();
    shard.begin(1);
    let part = stream(1, 1, true);
    done(shard.part(1, part));
    for id in [version(1), part.id()] {
        let gone = shard.run(Command::DeleteObject(delete_version(KEY, id)));
        assert_eq!(reason(gone), Refusal::NoSuchObject);
        assert!(read::object(&shard.state, &DATASET, KEY, Some(&id)).is_none());
    }
    done(shard.run(Command::PutObject(put(KEY, version(2)))));
    for id in [version(1), part.id()] {
        let gone = shard.run(Command::DeleteObject(delete_version(KEY, id)));
        assert_eq!(reason(gone), Refusal::NoSuchObject);
        assert!(read::object(&shard.state, &DATASET, KEY, Some(&id)).is_none());
    }
}

#[test]
fn uploads_are_listed_oldest_first_within_a_key_and_page_by_page() {
    let mut shard = shard();
    for (id, key) in [(1, "a/1"), (2, "b"), (3, "a/1"), (4, "a/2"), (5, "c")] {
        done(shard.run(Command::CreateUpload(create_upload(key, version(id)))));
    }
    let list = |prefix: &str, delimiter: &str| {
        let (mut all, mut after) = (Vec::new(), (String::new(), 0));
        loop {
            let query = UploadsQuery {
                dataset: &DATASET,
                prefix,
                delimiter,
                start_after_key: &after.0,
                start_after_index: LogIndex(after.1),
                limit: 1,
            };
            let page = uploads(&shard.state, query);
            all.extend(page.common_prefixes);
            all.extend(page.uploads.into_iter().map(|listed| {
                let id = listed.upload.expect("listed with its record").version_id;
                format!("{} {}", listed.key, id[15])
            }));
            if !page.truncated {
                return all;
            }
            after = (page.next_key, page.next_index);
        }
    };
    assert_eq!(list("", ""), ["a/1 1", "a/1 3", "a/2 4", "b 2", "c 5"]);
    assert_eq!(list("a/", ""), ["a/1 1", "a/1 3", "a/2 4"]);
    assert_eq!(list("", "/"), ["a/", "b 2", "c 5"]);
}

#[test]
fn ten_thousand_parts_fit_in_a_completion() {
    let parts: Vec<_> = (1..=PARTS_MAX)
        .map(|n| stream(n, u64::from(n), true))
        .collect();
    let mut ask = complete(KEY, version(1), &parts);
    ask.sealed_manifest = vec![7; crate::limits::MANIFEST_BYTES_MAX].into();
    ask.sealed_metadata = vec![7; crate::limits::METADATA_BYTES_MAX].into();
    let mut shard = shard();
    let command = shard.command(Command::CompleteUpload(ask));
    assert!(command.encoded_len() <= crate::limits::COMMAND_BYTES_MAX);
}

#[test]
fn below_their_level_they_are_unknown_and_their_bytes_are_fixed() {
    let part = stream(1, 1, true);
    let all = [
        Command::CreateUpload(create_upload(KEY, version(1))),
        Command::FinishPart(finish_part(KEY, version(1), part, UploadEpoch(0))),
        Command::CompleteUpload(complete(KEY, version(1), &[part])),
        abort(KEY, version(1)),
    ];
    for kind in all.clone() {
        let mut shard = Shard::new();
        shard.level = FeatureLevel(2);
        let command = shard.command(kind);
        assert!(shard.apply_bytes(command.encode_to_vec().into()).is_err());
    }
    let fixed = [
        "06e46309975754c5",
        "c1c7a60aaf8a5d04",
        "7c3f45e4c525c5f8",
        "672fb1498ace27ac",
    ];
    assert_eq!(hashes(all.into()), fixed);
}
