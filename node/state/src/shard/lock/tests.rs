use bytes::Bytes;
use proto::ids::UnixMs;
use proto::v1::shard_command::Command;
use proto::v1::{Refusal, RetentionMode};

use super::super::fixture::parts::*;
use super::super::fixture::*;
use super::super::is_held;
use super::*;

const KEY: &str = "evidence";
const YEAR: u64 = 365 * DAY_MS;

fn retention(mode: RetentionMode, until_ms: u64) -> Option<v1::Retention> {
    Some(v1::Retention {
        mode: mode.into(),
        until_ms,
    })
}

fn set_lock(mode: RetentionMode, days: u32) -> Command {
    Command::SetObjectLock(v1::SetObjectLock {
        dataset_id: DATASET.into(),
        lock: Some(v1::ObjectLock {
            default_mode: mode.into(),
            default_days: days,
        }),
    })
}

/// A shard whose dataset has object lock and no default.
fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.level = LOCK_LEVEL;
    done(shard.run(set_lock(RetentionMode::Unspecified, 0)));
    shard
}

impl Shard {
    fn put_with(
        &mut self,
        n: u64,
        retention: Option<v1::Retention>,
        hold: bool,
    ) -> v1::ShardAnswer {
        let mut asked = put(KEY, version(n));
        let entry = asked.entry.as_mut().expect("it has one");
        entry.retention = retention;
        entry.legal_hold = hold;
        self.run(Command::PutObject(asked))
    }

    fn retain(
        &mut self,
        n: u64,
        retention: Option<v1::Retention>,
        bypass: bool,
    ) -> v1::ShardAnswer {
        self.run(Command::SetRetention(v1::SetRetention {
            dataset_id: DATASET.into(),
            key: KEY.to_owned(),
            version_id: version(n).into(),
            retention,
            bypass_governance: bypass,
        }))
    }

    fn hold(&mut self, n: u64, on: bool) -> v1::ShardAnswer {
        self.run(Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: DATASET.into(),
            key: KEY.to_owned(),
            version_id: version(n).into(),
            on,
        }))
    }

    fn remove(&mut self, n: u64, bypass_governance: bool) -> v1::ShardAnswer {
        self.run(Command::DeleteObject(v1::DeleteObject {
            bypass_governance,
            ..delete_version(KEY, version(n))
        }))
    }

    /// Time as a majority's clocks say.
    fn at(&mut self, now_ms: u64) {
        let clock = |node_id| v1::VoterClock {
            node_id,
            clock_ms: now_ms,
        };
        done(self.run(Command::AdvanceTime(v1::AdvanceGroupTime {
            clocks: vec![clock(1), clock(2)],
            by_operator: true,
        })));
        self.now_ms = now_ms;
    }

    fn held(&self) -> bool {
        is_held(&self.dataset(), self.meta().time)
    }
}

fn locked(answer: v1::ShardAnswer) {
    assert_eq!(reason(answer), Refusal::ObjectLocked);
}

#[test]
fn compliance_is_passed_over_by_nobody_and_only_extended() {
    let mut shard = shard();
    done(shard.put_with(1, retention(RetentionMode::Compliance, YEAR), false));
    done(shard.put_with(2, None, false));
    for bypass in [false, true] {
        locked(shard.remove(1, bypass));
        locked(shard.retain(1, None, bypass));
        locked(shard.retain(1, retention(RetentionMode::Compliance, YEAR - 1), bypass));
        locked(shard.retain(1, retention(RetentionMode::Governance, 2 * YEAR), bypass));
    }
    done(shard.retain(1, retention(RetentionMode::Compliance, 2 * YEAR), false));
    assert!(shard.held());
    shard.at(2 * YEAR - 1);
    locked(shard.remove(1, true));
    assert!(shard.held());
    shard.at(2 * YEAR);
    assert!(!shard.held());
    done(shard.remove(1, false));
    done(shard.remove(2, false));
}

#[test]
fn governance_ends_earlier_by_who_may_and_is_extended_by_anybody() {
    let mut shard = shard();
    done(shard.put_with(1, retention(RetentionMode::Governance, YEAR), false));
    locked(shard.remove(1, false));
    locked(shard.retain(1, retention(RetentionMode::Governance, YEAR - 1), false));
    done(shard.retain(1, retention(RetentionMode::Governance, 2 * YEAR), false));
    done(shard.retain(1, retention(RetentionMode::Governance, YEAR), true));
    // It keeps no key: it is the dataset's own people's to end.
    assert!(!shard.held());
    done(shard.remove(1, true));
}

#[test]
fn a_legal_hold_of_a_version_keeps_it_and_the_key_until_it_is_off() {
    let mut shard = shard();
    done(shard.put_with(1, None, true));
    done(shard.hold(1, true));
    assert_eq!(shard.dataset().legal_holds, 1);
    assert!(is_held(&shard.dataset(), UnixMs(u64::MAX)));
    locked(shard.remove(1, true));
    let drop = Command::TombstoneDataset(v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    });
    assert_eq!(reason(shard.run(drop.clone())), Refusal::DatasetHeld);
    done(shard.hold(1, false));
    assert!(!shard.held());
    done(shard.run(drop));
}

#[test]
fn a_locked_dataset_keeps_versions_and_a_delete_covers_them() {
    let mut shard = shard();
    let off = Command::SetVersioning(v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled: false,
    });
    assert_eq!(reason(shard.run(off)), Refusal::LockKeepsVersions);
    done(shard.put_with(1, retention(RetentionMode::Compliance, YEAR), false));
    done(shard.put_with(2, None, false));
    done(shard.run(Command::DeleteObject(delete_with_marker(KEY, version(3)))));
    // What is covered is there, and kept; a marker is nothing to keep.
    locked(shard.remove(1, true));
    assert_eq!(reason(shard.hold(3, true)), Refusal::NoSuchObject);
    done(shard.remove(3, false));
    done(shard.remove(2, false));
    assert_eq!(shard.current_id(KEY), Some(version(1)));
}

#[test]
fn a_default_is_of_what_is_put_from_then_on() {
    let mut shard = shard();
    done(shard.put_with(1, None, false));
    done(shard.run(set_lock(RetentionMode::Compliance, 30)));
    done(shard.put_with(2, None, false));
    done(shard.put_with(3, retention(RetentionMode::Governance, YEAR), false));
    done(shard.remove(1, false));
    let until = |n| {
        let head = crate::read::head(&shard.state, &DATASET, KEY, Some(&version(n)));
        head.and_then(|head| head.retention)
    };
    assert_eq!(
        until(2),
        retention(RetentionMode::Compliance, 1000 + 30 * DAY_MS)
    );
    assert_eq!(until(3), retention(RetentionMode::Governance, YEAR));
    for (mode, days) in [
        (RetentionMode::Unspecified, 1),
        (RetentionMode::Compliance, 0),
        (RetentionMode::Governance, 36_501),
    ] {
        assert_eq!(reason(shard.run(set_lock(mode, days))), Refusal::Malformed);
    }
}

#[test]
fn an_upload_in_parts_is_locked_as_was_asked_when_it_began() {
    let mut shard = shard();
    let mut asked = create_upload(KEY, version(1));
    let upload = asked.upload.as_mut().expect("it has one");
    upload.retention = retention(RetentionMode::Compliance, YEAR);
    upload.legal_hold = true;
    done(shard.run(Command::CreateUpload(asked)));
    assert!(!shard.held());
    let part = Stream {
        number: 1,
        seed: 1,
        blocks: false,
    };
    let finish = finish_part(KEY, version(1), part, proto::ids::UploadEpoch(0));
    done(shard.run(Command::FinishPart(finish)));
    done(shard.run(Command::CompleteUpload(complete(KEY, version(1), &[part]))));
    done(shard.hold(1, false));
    locked(shard.remove(1, true));
    assert!(shard.held());
}

#[test]
fn without_object_lock_nothing_is_locked() {
    let mut shard = Shard::new();
    shard.level = LOCK_LEVEL;
    let refused = shard.put_with(1, retention(RetentionMode::Compliance, YEAR), false);
    assert_eq!(reason(refused), Refusal::NoObjectLock);
    let refused = shard.put_with(1, None, true);
    assert_eq!(reason(refused), Refusal::NoObjectLock);
    done(shard.put_with(1, None, false));
    assert_eq!(reason(shard.hold(1, true)), Refusal::NoObjectLock);
    done(shard.run(set_lock(RetentionMode::Unspecified, 0)));
    // One that is over, and one of no kind.
    for wrong in [
        retention(RetentionMode::Compliance, 1000),
        retention(RetentionMode::Unspecified, YEAR),
    ] {
        let refused = shard.put_with(2, wrong, false);
        assert_eq!(reason(refused), Refusal::Malformed, "{wrong:?}");
    }
    // What was there before is the null version, and can be locked.
    done(shard.retain(1, retention(RetentionMode::Compliance, YEAR), false));
    locked(shard.remove(1, true));
}

#[test]
fn below_their_level_they_are_unknown_and_their_bytes_are_fixed() {
    let all = vec![
        set_lock(RetentionMode::Compliance, 30),
        Command::SetRetention(v1::SetRetention {
            dataset_id: DATASET.into(),
            key: KEY.to_owned(),
            version_id: version(1).into(),
            retention: retention(RetentionMode::Governance, YEAR),
            bypass_governance: true,
        }),
        Command::SetLegalHold(v1::SetLegalHold {
            dataset_id: DATASET.into(),
            key: KEY.to_owned(),
            version_id: version(1).into(),
            on: true,
        }),
    ];
    for kind in all.clone() {
        let mut shard = Shard::new();
        shard.level = FeatureLevel(3);
        let command = shard.command(kind);
        let bytes = Bytes::from(command.encode_to_vec());
        assert!(shard.apply_bytes(bytes).is_err());
    }
    let fixed = ["5b8a291746a2653a", "b624baefb3677695", "daaf46864e074a56"];
    assert_eq!(hashes(all), fixed);
}
