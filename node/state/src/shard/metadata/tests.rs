//! One claim a test.

use bytes::Bytes;
use proto::ids::{FeatureLevel, LogIndex, ObjectVersionId};
use proto::v1::shard_command::Command;
use proto::v1::{KeyState, Refusal};

use super::super::fixture::parts::*;
use super::super::fixture::*;
use super::*;
use crate::read;

const KEY: &str = "report";

fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.level = METADATA_LEVEL;
    shard
}

fn versioned() -> Shard {
    let mut shard = shard();
    done(shard.run(Command::SetVersioning(v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled: true,
    })));
    shard
}

fn edited(command: Command, change: impl FnOnce(&mut v1::SetMetadata)) -> Command {
    let Command::SetMetadata(mut set) = command else {
        unreachable!("it sets metadata");
    };
    change(&mut set);
    Command::SetMetadata(set)
}

impl Shard {
    fn head(&self, id: ObjectVersionId) -> v1::ObjectEntry {
        read::head(&self.state, &DATASET, KEY, Some(&id)).expect("it is there")
    }

    fn tag(&mut self, n: u64, from: &str, to: &str) -> v1::ShardAnswer {
        self.run(set_metadata(
            KEY,
            version(n),
            from.as_bytes(),
            to.as_bytes(),
        ))
    }
}

/// Whether it is current or older, in one stream or in parts: everything else of it stays.
#[test]
fn a_version_has_other_metadata_and_is_the_same_version() {
    let mut shard = versioned();
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    done(shard.run(Command::FinishObject(finish(KEY, version(2), &[1, 2]))));
    let stream = Stream {
        number: 1,
        seed: 7,
        blocks: false,
    };
    let epoch = shard.meta().upload_epoch;
    done(shard.run(Command::CreateUpload(create_upload(KEY, version(3)))));
    done(shard.run(Command::FinishPart(finish_part(
        KEY,
        version(3),
        stream,
        epoch,
    ))));
    done(shard.run(Command::CompleteUpload(complete(
        KEY,
        version(3),
        &[stream],
    ))));
    for n in 1..=3 {
        let before = shard.head(version(n));
        let from = before.sealed_metadata.clone();
        let set = set_metadata(KEY, version(n), &from, b"tagged");
        let at = done(shard.run(edited(set, |set| set.metadata_key_version = 4))).log_index;
        let expected = v1::ObjectEntry {
            sealed_metadata: Bytes::from_static(b"tagged"),
            metadata_key_version: 4,
            metadata_index: at,
            ..before
        };
        assert_eq!(shard.head(version(n)), expected);
    }
    assert_eq!(shard.current_id(KEY), Some(version(3)));
    assert_eq!(shard.dataset().versions, 3);
}

#[test]
fn of_two_who_read_the_same_one_has_effect() {
    let mut shard = shard();
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    done(shard.tag(1, "metadata", "one"));
    assert_eq!(
        reason(shard.tag(1, "metadata", "two")),
        Refusal::MetadataMoved
    );
    assert_eq!(&shard.head(version(1)).sealed_metadata[..], b"one");
    // The same change again is done, whatever its request id.
    done(shard.tag(1, "metadata", "one"));
    done(shard.tag(1, "one", "two"));
    assert_eq!(&shard.head(version(1)).sealed_metadata[..], b"two");
    // An overwrite is another version.
    done(shard.run(Command::PutObject(put(KEY, version(2)))));
    assert_eq!(reason(shard.tag(1, "two", "three")), Refusal::NoSuchObject);
}

#[test]
fn a_request_that_is_sent_again_has_effect_once() {
    let mut shard = shard();
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    let first = shard.command(set_metadata(KEY, version(1), b"metadata", b"one"));
    let answer = shard.apply(first.clone());
    done(shard.tag(1, "one", "two"));
    assert_eq!(shard.apply(first.clone()), answer);
    assert_eq!(&shard.head(version(1)).sealed_metadata[..], b"two");
    let unnamed = v1::ShardCommand {
        request_id: Bytes::new(),
        ..first
    };
    assert_eq!(reason(shard.apply(unnamed)), Refusal::Malformed);
}

/// Locks keep versions; who changes them and who changes tags are in nobody's way.
#[test]
fn locks_and_tags_do_not_touch_each_other() {
    let mut shard = shard();
    done(shard.run(Command::SetObjectLock(v1::SetObjectLock {
        dataset_id: DATASET.into(),
        lock: Some(v1::ObjectLock::default()),
    })));
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    let retention = Some(v1::Retention {
        mode: v1::RetentionMode::Governance.into(),
        until_ms: 9_000_000,
    });
    let retain = Command::SetRetention(v1::SetRetention {
        dataset_id: DATASET.into(),
        key: KEY.to_owned(),
        version_id: version(1).into(),
        retention,
        bypass_governance: false,
    });
    let hold = |on| {
        Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: DATASET.into(),
            key: KEY.to_owned(),
            version_id: version(1).into(),
            on,
        })
    };
    done(shard.run(retain));
    // Decided before the hold, applied after it.
    let tag = shard.command(set_metadata(KEY, version(1), b"metadata", b"one"));
    done(shard.run(hold(true)));
    done(shard.apply(tag));
    let head = shard.head(version(1));
    assert_eq!((head.retention, head.legal_hold), (retention, true));
    assert_eq!(&head.sealed_metadata[..], b"one");
    done(shard.run(hold(false)));
    assert_eq!(&shard.head(version(1)).sealed_metadata[..], b"one");
    // Both changes leave the index with the version, as the invariants say.
    assert!(head.metadata_index > head.changed_index);
    done(shard.run(Command::DeleteObject(v1::DeleteObject {
        bypass_governance: true,
        ..delete_version(KEY, version(1))
    })));
    let changes = read::changes(&shard.state, &DATASET, LogIndex(0), 100);
    let kinds: Vec<_> = changes.iter().map(|(_, change)| change.kind()).collect();
    assert_eq!(kinds, [v1::ChangeKind::Settings]);
}

#[test]
fn what_is_no_such_change_is_refused() {
    let mut shard = versioned();
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    done(shard.run(Command::DeleteObject(delete_with_marker(KEY, version(2)))));
    let good = || set_metadata(KEY, version(1), b"metadata", b"one");
    let cases = [
        (
            edited(good(), |set| set.from_digest = Bytes::new()),
            Refusal::Malformed,
        ),
        (
            edited(good(), |set| set.sealed_metadata = Bytes::new()),
            Refusal::Malformed,
        ),
        (
            edited(good(), |set| {
                set.sealed_metadata = vec![0; METADATA_BYTES_MAX + 1].into()
            }),
            Refusal::Malformed,
        ),
        (
            edited(good(), |set| set.version_id = Bytes::new()),
            Refusal::Malformed,
        ),
        (
            edited(good(), |set| set.dataset_id = Bytes::new()),
            Refusal::Malformed,
        ),
        (
            edited(good(), |set| set.key = "other".to_owned()),
            Refusal::NoSuchObject,
        ),
        (
            set_metadata(KEY, version(2), b"", b"one"),
            Refusal::NoSuchObject,
        ),
        (
            set_metadata(KEY, version(3), b"", b"one"),
            Refusal::NoSuchObject,
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(reason(shard.run(command.clone())), expected, "{command:?}");
    }
    done(shard.run(good()));
}

/// Whoever holds a metadata lease yet seals nothing more once the shard knows.
#[test]
fn nothing_is_sealed_under_a_key_that_is_not_enabled() {
    let mut shard = shard();
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    let decided = shard.command(set_metadata(KEY, version(1), b"metadata", b"one"));
    done(shard.run(Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: KeyState::Disabled.into(),
        version: 2,
        min_kek_version: 1,
    })));
    assert_eq!(
        refused(shard.apply(decided)).reason(),
        Refusal::KeyStateMoved
    );
    assert_eq!(
        reason(shard.tag(1, "metadata", "one")),
        Refusal::KeyDisabled
    );
}

#[test]
fn below_the_level_it_stops_the_replica() {
    let mut shard = shard();
    done(shard.run(Command::PutObject(put(KEY, version(1)))));
    let command = shard.command(set_metadata(KEY, version(1), b"metadata", b"one"));
    shard.level = FeatureLevel(METADATA_LEVEL.0 - 1);
    assert!(shard.apply_bytes(command.encode_to_vec().into()).is_err());
}
