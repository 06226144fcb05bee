//! Versions in parts that take longer than their lease lives.

use super::*;
use crate::shard::LATE_PARTS_LEVEL;

const OTHER_LEASE: [u8; 16] = [0x1F; 16];

fn stream() -> parts::Stream {
    parts::Stream {
        number: 1,
        seed: 1,
        blocks: true,
    }
}

/// A version of one part, under the key's null version.
fn in_parts(index: u64, key: &str, id: ObjectVersionId) -> v1::ImportedUnit {
    let (plain_bytes, sealed_bytes) = stream().bytes();
    edited(stored(index, key, id, true), |version| {
        version.parts = vec![stream().name()];
        let entry = entry_of(version);
        entry.inline = Bytes::new();
        entry.plain_bytes = plain_bytes;
        entry.sealed_bytes = sealed_bytes;
    })
}

/// Ends every lease. A leader's clock moves time that far only below the level that bounds it.
fn expire(shard: &mut Shard) {
    let level = std::mem::replace(&mut shard.level, FeatureLevel(0));
    shard.now_ms = EXPIRY_MS;
    done(shard.run(Command::Sweep(v1::Sweep { steps: 0 })));
    shard.level = level;
}

/// The upload of version 1 was begun in time, its part came after that.
fn late() -> (Shard, u64) {
    let (mut shard, at) = following();
    done(shard.run(register(OTHER_LEASE, HOLDER)));
    let upload = parts::create_upload("a", version(1));
    done(shard.run(Command::CreateUpload(upload)));
    expire(&mut shard);
    let epoch = shard.meta().upload_epoch;
    let part = parts::finish_part("a", version(1), stream(), epoch);
    done(shard.run(Command::FinishPart(part)));
    (shard, at)
}

fn one(at: u64, unit: v1::ImportedUnit) -> Command {
    take(span(at, at + 1), vec![unit], at)
}

#[test]
fn a_version_in_parts_outlasts_the_lease_that_its_upload_was_begun_under() {
    let (mut shard, at) = late();
    let late = || one(at, in_parts(at + 1, "a", version(1)));
    shard.level = FeatureLevel(LATE_PARTS_LEVEL.0 - 1);
    assert_eq!(refuses(&mut shard, late()).reason(), Refusal::TokenExpired);
    shard.level = LATE_PARTS_LEVEL;
    done(shard.run(late()));
    assert_eq!(shard.current_id("a"), Some(version(1)));
    assert_eq!((shard.dataset().versions, shard.dataset().uploads), (1, 0));
}

#[test]
fn nothing_else_outlasts_its_lease() {
    let (mut shard, at) = late();
    shard.level = LATE_PARTS_LEVEL;
    let good = || in_parts(at + 1, "a", version(1));
    let cases = [
        // Of one stream.
        (stored(at + 1, "a", version(2), true), Refusal::TokenExpired),
        // Without an upload that was begun in time.
        (in_parts(at + 1, "b", version(2)), Refusal::NoSuchUpload),
        (in_parts(at + 1, "b", version(1)), Refusal::NoSuchUpload),
        // Under another lease than its upload, of the same holder.
        (
            edited(good(), |v| {
                entry_of(v).lease_id = Bytes::copy_from_slice(&OTHER_LEASE);
            }),
            Refusal::Malformed,
        ),
        (
            edited(good(), |v| v.holder = Bytes::from_static(&[1; 32])),
            Refusal::TokenNotHolders,
        ),
    ];
    for (unit, expected) in cases {
        let mut shard = shard.clone();
        let answer = refuses(&mut shard, one(at, unit.clone()));
        assert_eq!(answer.reason(), expected, "{unit:?}");
    }
    let begun_late = parts::create_upload("b", version(2));
    assert_eq!(
        reason(shard.run(Command::CreateUpload(begun_late))),
        Refusal::TokenExpired
    );
    // Under a version of the key that nothing is to be sealed under any more.
    done(shard.run(Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: v1::KeyState::Enabled.into(),
        version: 2,
        min_kek_version: 2,
    })));
    assert_eq!(
        refuses(&mut shard, one(at, good())).reason(),
        Refusal::TokenTooOld
    );
}
