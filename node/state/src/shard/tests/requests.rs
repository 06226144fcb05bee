//! Requests: had once, bound to what they were decided on, and in an order that never goes back.

use super::*;

#[test]
fn a_retried_request_has_effect_once() {
    let mut shard = Shard::new();
    let command = shard.command(Command::PutObject(put("a", version(1))));
    let first = shard.apply(command.clone());
    done(shard.run(Command::PutObject(put("a", version(2)))));
    let before = shard.state.clone();
    let again = v1::ShardCommand {
        now_ms: command.now_ms,
        ..command.clone()
    };
    assert_eq!(shard.apply(again), first);
    assert_eq!(shard.state, before, "the retry changed the state");
    assert_eq!(shard.current_id("a"), Some(version(2)));
    // Another leader, later, under a newer authority: still the same request.
    done(shard.run(Command::SetAuthority(v1::SetAuthority { version: 2 })));
    let later = v1::ShardCommand {
        now_ms: 5000,
        verdict: Some(shard.verdict()),
        ..command
    };
    assert_eq!(shard.apply(later), first);
}

#[test]
fn a_delete_that_found_nothing_stays_that_when_retried() {
    let mut shard = Shard::new();
    let command = shard.command(Command::DeleteObject(delete("a")));
    assert_eq!(reason(shard.apply(command.clone())), Refusal::NoSuchObject);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(reason(shard.apply(command)), Refusal::NoSuchObject);
    assert_eq!(shard.current_id("a"), Some(version(1)));
}

#[test]
fn a_retry_with_more_receipts_is_the_same_request() {
    let mut shard = Shard::new();
    let few = shard.command(Command::FinishObject(finish("a", version(1), &[1])));
    assert_eq!(reason(shard.apply(few.clone())), Refusal::NotOnMajority);
    let more = Some(Command::FinishObject(finish("a", version(1), &[1, 2])));
    let more = v1::ShardCommand {
        command: more,
        ..few.clone()
    };
    let first = shard.apply(more);
    assert!(matches!(
        first.answer,
        Some(v1::shard_answer::Answer::Done(_))
    ));
    assert_eq!(shard.apply(few), first);
}

#[test]
fn a_request_id_is_bound_to_its_request() {
    let mut shard = Shard::new();
    let command = shard.command(Command::PutObject(put("a", version(1))));
    done(shard.apply(command.clone()));
    for other in [
        Command::PutObject(put("b", version(1))),
        Command::PutObject(v1::PutObject {
            holder: Bytes::from_static(&[7; 32]),
            ..put("a", version(1))
        }),
        Command::DeleteObject(delete("a")),
    ] {
        let other = v1::ShardCommand {
            command: Some(other),
            ..command.clone()
        };
        assert_eq!(reason(shard.apply(other)), Refusal::RequestIdReused);
    }
}

/// Who seals each try anew cannot send the same request again, and has to be told what the first one made.
#[test]
fn an_id_that_is_used_says_which_version_it_made() {
    let mut shard = Shard::new();
    let first = shard.command(Command::PutObject(put("a", version(1))));
    let refused = shard.command(Command::DeleteObject(delete("nothing")));
    let again = |id: &v1::ShardCommand| v1::ShardCommand {
        command: Some(Command::PutObject(put("a", version(3)))),
        ..id.clone()
    };
    done(shard.apply(first.clone()));
    assert_eq!(reason(shard.apply(refused.clone())), Refusal::NoSuchObject);
    // It is gone by now.
    let other = shard.command(Command::PutObject(put("a", version(2))));
    done(shard.apply(other));
    let made = |answer: v1::ShardAnswer| match answer.answer {
        Some(v1::shard_answer::Answer::Refused(refused)) => {
            assert_eq!(refused.reason(), Refusal::RequestIdReused);
            refused.current_version_id
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(made(shard.apply(again(&first))), version(1).as_bytes()[..]);
    assert!(made(shard.apply(again(&refused))).is_empty());
}

#[test]
fn a_request_id_from_before_the_window_is_never_run() {
    let mut shard = Shard::new();
    let put = shard.command(Command::PutObject(put("a", version(1))));
    let late = shard.command(Command::DeleteObject(delete("zz")));
    let first = shard.apply(put.clone());
    shard.advance_epochs(limits::EPOCHS_KEPT);
    assert_eq!(
        shard.apply(put.clone()),
        first,
        "the last epoch of the window"
    );
    shard.advance_epoch();
    assert_eq!(reason(shard.apply(put)), Refusal::RequestTooOld);
    assert_eq!(reason(shard.apply(late)), Refusal::RequestTooOld);
    shard.sweep_all();
    let (start, end) = keys::range(keys::table::REQUEST, &[]);
    let mut kept = 0;
    shard.state.scan(&start, &end, &mut |_, _| {
        kept += 1;
        true
    });
    assert_eq!(kept, 0, "expired ids are removed");
}

#[test]
fn a_request_id_from_the_future_or_of_another_length_is_malformed() {
    let mut shard = Shard::new();
    let command = shard.command(Command::PutObject(put("a", version(1))));
    let future = RequestId {
        epoch: UploadEpoch(1),
        nonce: [0; 16],
    };
    for id in [&future.to_bytes()[..], &[1, 2, 3], &[]] {
        let request_id = Bytes::copy_from_slice(id);
        let command = v1::ShardCommand {
            request_id,
            ..command.clone()
        };
        assert_eq!(reason(shard.apply(command)), Refusal::Malformed);
    }
}

#[test]
fn a_verdict_on_what_has_moved_is_refused() {
    let mut shard = Shard::new();
    let command = shard.command(Command::PutObject(put("a", version(1))));
    done(shard.run(Command::SetAuthority(v1::SetAuthority { version: 2 })));
    let answer = refused(shard.apply(command.clone()));
    assert_eq!(
        (answer.reason(), answer.moved_to),
        (Refusal::AuthorityMoved, 2)
    );
    done(shard.run(key_state(v1::KeyState::Enabled, 2, 1)));
    let verdict = v1::Verdict {
        authority_version: 2,
        key_state_version: 1,
        ..Default::default()
    };
    let decided_before = v1::ShardCommand {
        verdict: Some(verdict),
        ..command.clone()
    };
    let answer = refused(shard.apply(decided_before));
    assert_eq!(
        (answer.reason(), answer.moved_to),
        (Refusal::KeyStateMoved, 2)
    );
    // Neither used the request id up.
    let decided_anew = v1::ShardCommand {
        verdict: Some(shard.verdict()),
        ..command
    };
    done(shard.apply(decided_anew));
}

#[test]
fn a_request_without_a_verdict_is_malformed() {
    let mut shard = Shard::new();
    for kind in [
        Command::PutObject(put("a", version(1))),
        Command::FinishObject(finish("a", version(1), &[1, 2])),
        Command::DeleteObject(delete("a")),
        create(DATASET, "cti"),
        register(LEASE, HOLDER),
        key_state(v1::KeyState::Disabled, 9, 1),
        Command::SetVersioning(v1::SetVersioning {
            dataset_id: DATASET.into(),
            enabled: true,
        }),
        Command::TombstoneDataset(v1::TombstoneDataset {
            dataset_id: DATASET.into(),
            force: true,
        }),
    ] {
        let command = v1::ShardCommand {
            verdict: None,
            ..shard.command(kind)
        };
        assert_eq!(reason(shard.apply(command)), Refusal::Malformed);
    }
}

#[test]
fn authority_and_upload_epoch_never_go_back() {
    let mut shard = Shard::new();
    done(shard.run(Command::SetAuthority(v1::SetAuthority { version: 5 })));
    done(shard.run(Command::SetAuthority(v1::SetAuthority { version: 5 })));
    let answer = refused(shard.run(Command::SetAuthority(v1::SetAuthority { version: 4 })));
    assert_eq!(
        (answer.reason(), answer.moved_to),
        (Refusal::AuthorityMoved, 5)
    );
    let advance = |from| Command::AdvanceUploadEpoch(v1::AdvanceUploadEpoch { from });
    done(shard.run(advance(0)));
    for from in [0, 2] {
        assert_eq!(reason(shard.run(advance(from))), Refusal::StaleEpoch);
    }
    assert_eq!(shard.meta().upload_epoch, UploadEpoch(1));
}

#[test]
fn state_time_never_goes_back() {
    let mut shard = Shard::new();
    shard.now_ms = 9000;
    done(shard.run(Command::PutObject(put("a", version(1)))));
    shard.now_ms = 2000;
    done(shard.run(Command::PutObject(put("b", version(2)))));
    let entry = read::head(&shard.state, &DATASET, "b", None).expect("it was put");
    assert_eq!(entry.finished_at_ms, 9000);
}

#[test]
fn an_unknown_command_stops_the_replica_and_writes_nothing() {
    let mut shard = Shard::new();
    let before = shard.state.clone();
    for bytes in [
        v1::ShardCommand {
            now_ms: 99_999,
            ..Default::default()
        }
        .encode_to_vec(),
        // Field 99, a message: a command of a later build.
        vec![0x08, 0x01, 0x9A, 0x06, 0x00],
        vec![0xFF, 0xFF],
    ] {
        shard
            .apply_bytes(bytes.into())
            .expect_err("not of this build");
        assert_eq!(shard.state, before);
    }
}
