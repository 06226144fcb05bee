//! Preconditions: what has to hold of what is there.

use super::*;

#[test]
fn an_object_put_is_there_with_all_its_parts() {
    let mut shard = Shard::new();
    let answer = done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(answer.version_id, version(1).as_bytes()[..]);
    assert_eq!(answer.log_index, shard.index);
    let entry = read::object(&shard.state, &DATASET, "a", None).expect("it was put");
    let asked = put("a", version(1)).entry.expect("the fixture has one");
    assert_eq!(
        entry,
        v1::ObjectEntry {
            finished_index: shard.index,
            finished_at_ms: shard.now_ms,
            ..asked
        }
    );
    let head = read::head(&shard.state, &DATASET, "a", None).expect("it was put");
    assert!(head.inline.is_empty() && head.sealed_manifest.is_empty());
    assert!(read::object(&shard.state, &DATASET, "b", None).is_none());
}

#[test]
fn a_precondition_that_does_not_hold_refuses_the_put() {
    let mut shard = Shard::new();
    let none = v1::Precondition {
        if_none_match_any: true,
        ..Default::default()
    };
    let matches = |n| v1::Precondition {
        if_match: version(n).into(),
        ..Default::default()
    };
    let with = |n, precondition| {
        Command::PutObject(v1::PutObject {
            precondition: Some(precondition),
            ..put("a", version(n))
        })
    };
    assert_eq!(
        reason(shard.run(with(1, matches(9)))),
        Refusal::PreconditionFailed
    );
    done(shard.run(with(1, none.clone())));
    let answer = refused(shard.run(with(2, none.clone())));
    assert_eq!(answer.reason(), Refusal::PreconditionFailed);
    assert_eq!(answer.current_version_id, version(1).as_bytes()[..]);
    assert_eq!(
        reason(shard.run(with(2, matches(9)))),
        Refusal::PreconditionFailed
    );
    assert_eq!(
        done(shard.run(with(2, matches(1)))).replaced_version_id,
        version(1).as_bytes()[..]
    );
    let stale = v1::DeleteObject {
        precondition: Some(matches(1)),
        ..delete("a")
    };
    assert_eq!(
        reason(shard.run(Command::DeleteObject(stale))),
        Refusal::PreconditionFailed
    );
    assert_eq!(shard.current_id("a"), Some(version(2)));
    let fresh = v1::DeleteObject {
        precondition: Some(matches(2)),
        ..delete("a")
    };
    done(shard.run(Command::DeleteObject(fresh)));
    done(shard.run(with(3, none)));
}

#[test]
fn a_delete_marker_counts_as_absent_to_a_condition() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(2)))));
    let on_marker = v1::Precondition {
        if_match: version(2).into(),
        ..Default::default()
    };
    let asked = v1::PutObject {
        precondition: Some(on_marker),
        ..put("a", version(3))
    };
    assert_eq!(
        reason(shard.run(Command::PutObject(asked))),
        Refusal::PreconditionFailed
    );
    let none = v1::Precondition {
        if_none_match_any: true,
        ..Default::default()
    };
    let asked = v1::PutObject {
        precondition: Some(none),
        ..put("a", version(3))
    };
    done(shard.run(Command::PutObject(asked)));
}
