//! One claim a test: each refusal, each table's upkeep, golden bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, RequestId, UploadEpoch};
use proto::store::{MemoryStore, Reader as _, Writer as _};
use proto::v1;
use proto::v1::Refusal;
use proto::v1::shard_command::Command;

use super::fixture::*;
use crate::listing::{ObjectsQuery, VersionsQuery, objects, versions};
use crate::{keys, limits, local, read};

type Spoil<T> = fn(&mut T);

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

#[test]
fn a_command_over_the_entry_bound_is_malformed() {
    let mut shard = Shard::new();
    let mut command = shard.command(Command::PutObject(put("a", version(1))));
    if let Some(Command::PutObject(put)) = &mut command.command {
        put.key = "k".repeat(limits::COMMAND_BYTES_MAX);
    }
    assert_eq!(reason(shard.apply(command)), Refusal::Malformed);
}

#[test]
fn an_entry_whose_parts_do_not_add_up_is_malformed() {
    let mut shard = Shard::new();
    fn entry(put: &mut v1::PutObject) -> &mut v1::ObjectEntry {
        put.entry.as_mut().expect("the fixture has one")
    }
    let spoils: [Spoil<v1::PutObject>; 23] = [
        |p| p.key = String::new(),
        |p| p.key = "k".repeat(1025),
        |p| p.dataset_id = Bytes::from_static(b"short"),
        |p| p.holder = Bytes::from_static(b"short"),
        |p| p.entry = None,
        |p| {
            p.precondition = Some(v1::Precondition {
                if_match: Bytes::from_static(b"x"),
                ..Default::default()
            })
        },
        |p| {
            let if_match = Bytes::from_static(&[1; 16]);
            p.precondition = Some(v1::Precondition {
                if_none_match_any: true,
                if_match,
            });
        },
        |p| entry(p).format = 2,
        |p| entry(p).version_id = Bytes::new(),
        |p| entry(p).lease_id = Bytes::from_static(&[1; 15]),
        |p| entry(p).finished_index = 1,
        |p| entry(p).finished_at_ms = 1,
        |p| entry(p).delete_marker = true,
        |p| entry(p).versioned = true,
        |p| entry(p).dek_salt = Bytes::from_static(&[1; 31]),
        |p| entry(p).name_salt = Bytes::new(),
        |p| entry(p).plain_bytes = 14,
        |p| entry(p).placement = 2,
        |p| entry(p).sealed_manifest = Bytes::from(vec![0; limits::MANIFEST_BYTES_MAX + 1]),
        |p| entry(p).sealed_metadata = Bytes::from(vec![0; limits::METADATA_BYTES_MAX + 1]),
        |p| entry(p).inline = Bytes::new(),
        |p| {
            entry(p).inline = Bytes::from(vec![0; limits::INLINE_BYTES_MAX + 1]);
            entry(p).sealed_bytes = entry(p).inline.len() as u64;
        },
        |p| entry(p).blocks = vec![v1::BlockRef::default()],
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut asked = put("a", version(1));
        spoil(&mut asked);
        assert_eq!(
            reason(shard.run(Command::PutObject(asked))),
            Refusal::Malformed,
            "case {at}"
        );
    }
    done(shard.run(Command::PutObject(put("a", version(1)))));
}

#[test]
fn blocks_or_receipts_that_do_not_add_up_are_malformed() {
    let mut shard = Shard::new();
    fn entry(finish: &mut v1::FinishObject) -> &mut v1::ObjectEntry {
        finish.entry.as_mut().expect("the fixture has one")
    }
    let spoils: [Spoil<v1::FinishObject>; 13] = [
        |f| entry(f).blocks.clear(),
        |f| entry(f).sealed_bytes = 99,
        |f| entry(f).inline = Bytes::from_static(b"x"),
        |f| entry(f).blocks[0].digest = Bytes::from_static(b"short"),
        |f| entry(f).blocks[0].bytes = 0,
        |f| {
            entry(f).blocks[0].bytes = limits::BLOCK_BYTES_MAX + 1;
            entry(f).sealed_bytes = u64::from(limits::BLOCK_BYTES_MAX) + 51;
        },
        |f| {
            entry(f).blocks = vec![entry(f).blocks[0].clone(); limits::BLOCKS_MAX + 1];
            entry(f).sealed_bytes = 50 * (limits::BLOCKS_MAX as u64 + 1);
        },
        |f| entry(f).upload_epoch = 1,
        |f| f.receipts[0] = receipt(1, &[(0, 0), (0, 2)]),
        |f| f.receipts[0] = receipt(1, &[(0, 3)]),
        |f| f.receipts[0] = receipt(1, &[(1, 1), (0, 1)]),
        |f| f.receipts[0] = receipt(1, &[(0, 1), (0, 1)]),
        |f| f.receipts[0] = receipt(1, &[(1, u32::MAX)]),
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut asked = finish("a", version(1), &[1, 2]);
        spoil(&mut asked);
        assert_eq!(
            reason(shard.run(Command::FinishObject(asked))),
            Refusal::Malformed,
            "case {at}"
        );
    }
    let many = (0..=limits::RECEIPTS_MAX as u64).collect::<Vec<_>>();
    let asked = finish("a", version(1), &many);
    assert_eq!(
        reason(shard.run(Command::FinishObject(asked))),
        Refusal::Malformed
    );
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
}

#[test]
fn one_receipt_is_no_majority() {
    let mut shard = Shard::new();
    for nodes in [&[][..], &[1], &[1, 1], &[1, 7], &[7, 8, 9]] {
        let asked = finish("a", version(1), nodes);
        assert_eq!(
            reason(shard.run(Command::FinishObject(asked))),
            Refusal::NotOnMajority,
            "{nodes:?}"
        );
    }
    assert_eq!(shard.current_id("a"), None);
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 3]))));
}

#[test]
fn every_block_needs_a_majority_of_its_own() {
    let mut shard = Shard::new();
    let with = |receipts: Vec<v1::ReceiptClaim>| {
        Command::FinishObject(v1::FinishObject {
            receipts,
            ..finish("a", version(1), &[])
        })
    };
    let thin = with(vec![
        receipt(1, &[(0, 2)]),
        receipt(2, &[(0, 1)]),
        receipt(7, &[(1, 1)]),
    ]);
    assert_eq!(reason(shard.run(thin)), Refusal::NotOnMajority);
    // No node but one has both, and yet each block is on two.
    let woven = with(vec![
        receipt(1, &[(0, 2)]),
        receipt(2, &[(0, 1)]),
        receipt(3, &[(1, 1)]),
    ]);
    done(shard.run(woven));
}

#[test]
fn while_membership_is_joint_both_majorities_count() {
    let mut shard = Shard::new();
    shard.voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
    for nodes in [&[1, 2, 3][..], &[3, 4, 5]] {
        let asked = finish("a", version(1), nodes);
        assert_eq!(
            reason(shard.run(Command::FinishObject(asked))),
            Refusal::NotOnMajority
        );
    }
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 3, 4]))));
}

#[test]
fn an_upload_more_than_24_epochs_old_is_refused() {
    let mut shard = Shard::new();
    shard.now_ms = 1000;
    shard.advance_epochs(limits::EPOCHS_KEPT);
    let at =
        |n, epoch| Command::FinishObject(finish_at("a", version(n), &[1, 2], UploadEpoch(epoch)));
    done(shard.run(at(1, 0)));
    shard.advance_epoch();
    assert_eq!(reason(shard.run(at(2, 0))), Refusal::UploadTooOld);
    done(shard.run(at(2, 1)));
}

#[test]
fn a_commit_needs_a_living_token_of_the_committer() {
    let mut shard = Shard::new();
    let mut other_lease = put("a", version(1));
    other_lease.entry.as_mut().expect("it has one").lease_id = Bytes::from_static(&[9; 16]);
    assert_eq!(
        reason(shard.run(Command::PutObject(other_lease))),
        Refusal::NoSuchToken
    );
    let stranger = v1::PutObject {
        holder: Bytes::from_static(&[9; 32]),
        ..put("a", version(1))
    };
    assert_eq!(
        reason(shard.run(Command::PutObject(stranger))),
        Refusal::TokenNotHolders
    );
    let mut early = shard.clone();
    early.now_ms = EXPIRY_MS - 1;
    done(early.run(Command::PutObject(put("a", version(1)))));
    shard.now_ms = EXPIRY_MS;
    assert_eq!(
        reason(shard.run(Command::PutObject(put("a", version(1))))),
        Refusal::TokenExpired
    );
}

#[test]
fn an_upload_begun_before_expiry_may_be_finished_after_it() {
    let mut shard = Shard::new();
    shard.now_ms = EXPIRY_MS + 5;
    let begun = |times: [u64; 3]| {
        let mut asked = finish("a", version(1), &[1, 2, 3]);
        for (receipt, begun) in asked.receipts.iter_mut().zip(times) {
            receipt.begun_at_ms = begun;
        }
        Command::FinishObject(asked)
    };
    for times in [
        [EXPIRY_MS, EXPIRY_MS, EXPIRY_MS],
        [1, EXPIRY_MS, EXPIRY_MS],
        [0, 0, 1],
    ] {
        assert_eq!(
            reason(shard.run(begun(times))),
            Refusal::TokenExpired,
            "{times:?}"
        );
    }
    done(shard.run(begun([1, EXPIRY_MS - 1, EXPIRY_MS])));
}

#[test]
fn tokens_below_the_minimum_version_are_refused_until_rewrapped() {
    let mut shard = Shard::new();
    done(shard.run(key_state(v1::KeyState::Enabled, 2, 2)));
    let asked = Command::PutObject(put("a", version(1)));
    assert_eq!(reason(shard.run(asked.clone())), Refusal::TokenTooOld);
    assert_eq!(
        reason(shard.run(register([2; 16], HOLDER))),
        Refusal::TokenTooOld
    );
    let rewrap = |token| {
        Command::RegisterToken(v1::RegisterToken {
            lease_id: Bytes::copy_from_slice(&LEASE),
            token: Some(token),
        })
    };
    assert_eq!(
        reason(shard.run(rewrap(token([9; 32], 2, EXPIRY_MS)))),
        Refusal::TokenNotHolders
    );
    assert_eq!(
        reason(shard.run(rewrap(token(HOLDER, 2, EXPIRY_MS + 1)))),
        Refusal::Malformed
    );
    done(shard.run(rewrap(token(HOLDER, 2, EXPIRY_MS))));
    done(shard.run(asked));
    // And never back, though the minimum would allow it.
    done(shard.run(rewrap(token(HOLDER, 3, EXPIRY_MS))));
    assert_eq!(
        reason(shard.run(rewrap(token(HOLDER, 2, EXPIRY_MS)))),
        Refusal::TokenTooOld
    );
}

#[test]
fn tokens_under_older_versions_are_found_page_by_page_each_once() {
    let mut shard = Shard::new();
    let lease = |number: u8| [number.wrapping_mul(37); 16];
    for number in 1..=9 {
        let register = v1::RegisterToken {
            lease_id: Bytes::copy_from_slice(&lease(number)),
            token: Some(token(HOLDER, 1 + u32::from(number % 3), EXPIRY_MS)),
        };
        done(shard.run(Command::RegisterToken(register)));
    }
    let found = |below: u32, limit: usize| {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let (page, next) =
                read::tokens_below(&shard.state, &DATASET, below, after.as_ref(), limit);
            assert!(page.len() <= limit, "pages are bounded");
            assert!(next.is_none() || next != after, "it goes on");
            found.extend(page.into_iter().map(|token| token.kek_version));
            pages += 1;
            match next {
                Some(next) => after = Some(next),
                None => return (found, pages),
            }
        }
    };
    // Shard::new has one of its own, under version 1.
    for limit in [1, 2, 3, 10, 11, 256] {
        let (all, pages) = found(u32::MAX, limit);
        assert_eq!(all.len(), 10, "pages of {limit}");
        assert!(pages >= 10_usize.div_ceil(limit));
        let (older, _) = found(3, limit);
        assert_eq!(older.len(), 7, "pages of {limit}");
        assert!(older.iter().all(|version| *version < 3));
        assert!(found(1, limit).0.is_empty(), "none is below version 1");
    }
    let other = proto::ids::DatasetId([0xD6; 16]);
    let elsewhere = read::tokens_below(&shard.state, &other, 9, None, 9);
    assert_eq!(elsewhere, (Vec::new(), None));
}

#[test]
fn a_token_is_registered_once_and_not_after_expiry() {
    let mut shard = Shard::new();
    done(shard.run(register(LEASE, HOLDER)));
    assert_eq!(
        reason(shard.run(register(LEASE, [9; 32]))),
        Refusal::TokenNotHolders
    );
    shard.now_ms = EXPIRY_MS;
    done(shard.run(register(LEASE, HOLDER)));
    assert_eq!(
        reason(shard.run(register([2; 16], HOLDER))),
        Refusal::TokenExpired
    );
    let spoils: [Spoil<v1::TokenRecord>; 4] = [
        |t| t.token = Bytes::new(),
        |t| t.token = Bytes::from(vec![0; limits::TOKEN_BYTES_MAX + 1]),
        |t| t.holder = Bytes::from_static(b"short"),
        |t| t.dataset_id = Bytes::from_static(b"short"),
    ];
    for spoil in spoils {
        let mut token = token(HOLDER, 1, EXPIRY_MS * 2);
        spoil(&mut token);
        let lease_id = Bytes::from_static(&[3; 16]);
        let asked = Command::RegisterToken(v1::RegisterToken {
            lease_id,
            token: Some(token),
        });
        assert_eq!(reason(shard.run(asked)), Refusal::Malformed);
    }
}

#[test]
fn a_key_that_is_not_enabled_takes_no_objects_but_deletes() {
    use v1::KeyState::*;
    let mut shard = Shard::new();
    done(shard.run(Command::PutObject(put("a", version(1)))));
    for (at, state) in [Disabled, Compromised, PendingDestruction, Destroyed]
        .into_iter()
        .enumerate()
    {
        done(shard.run(key_state(state, 2 + at as u64, 1)));
        for asked in [
            Command::PutObject(put("b", version(2))),
            Command::FinishObject(finish("b", version(2), &[1, 2])),
            register([2; 16], HOLDER),
        ] {
            assert_eq!(reason(shard.run(asked)), Refusal::KeyDisabled, "{state:?}");
        }
    }
    done(shard.run(Command::DeleteObject(delete("a"))));
    done(shard.run(key_state(Enabled, 9, 1)));
    done(shard.run(Command::PutObject(put("b", version(2)))));
}

#[test]
fn key_states_are_taken_in_the_order_of_the_kms() {
    let mut shard = Shard::new();
    done(shard.run(key_state(v1::KeyState::Disabled, 5, 3)));
    done(shard.run(key_state(v1::KeyState::Disabled, 5, 3)));
    let older = refused(shard.run(key_state(v1::KeyState::Enabled, 4, 1)));
    assert_eq!(
        (older.reason(), older.moved_to),
        (Refusal::KeyStateMoved, 5)
    );
    assert_eq!(
        reason(shard.run(key_state(v1::KeyState::Enabled, 5, 3))),
        Refusal::KeyStateMoved
    );
    assert_eq!(
        reason(shard.run(key_state(v1::KeyState::Unspecified, 6, 3))),
        Refusal::Malformed
    );
    done(shard.run(key_state(v1::KeyState::Enabled, 6, 1)));
    assert_eq!(shard.dataset().min_kek_version, 3, "the minimum went down");
}

#[test]
fn a_version_id_is_used_once() {
    let mut shard = Shard::new();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    let again = [
        Command::PutObject(put("b", version(1))),
        Command::FinishObject(finish("b", version(1), &[1, 2])),
    ];
    for asked in &again {
        assert_eq!(reason(shard.run(asked.clone())), Refusal::VersionIdReused);
    }
    set_versioning(&mut shard, true);
    let marker = Command::DeleteObject(delete_with_marker("a", version(1)));
    assert_eq!(reason(shard.run(marker)), Refusal::VersionIdReused);
    // Its blocks are garbage now: what receipts say of them does not count any more.
    done(shard.run(Command::DeleteObject(delete_version("a", version(1)))));
    for asked in again {
        assert_eq!(reason(shard.run(asked)), Refusal::VersionIdReused);
    }
}

#[test]
fn no_command_goes_to_a_dataset_that_is_not_there() {
    let mut shard = Shard::empty();
    for asked in on_dataset() {
        assert_eq!(reason(shard.run(asked)), Refusal::NoSuchDataset);
    }
}

#[test]
fn a_dropped_dataset_refuses_everything_and_does_not_come_back() {
    let mut shard = Shard::new();
    let drop = |force| {
        Command::TombstoneDataset(v1::TombstoneDataset {
            dataset_id: DATASET.into(),
            force,
        })
    };
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(reason(shard.run(drop(false))), Refusal::DatasetNotEmpty);
    done(shard.run(drop(true)));
    done(shard.run(drop(false)));
    for asked in on_dataset() {
        assert_eq!(reason(shard.run(asked)), Refusal::DatasetGone);
    }
    assert_eq!(
        reason(shard.run(create(DATASET, "cti"))),
        Refusal::DatasetGone
    );
}

#[test]
fn a_fenced_dataset_takes_key_states_only() {
    let mut shard = Shard::new();
    let mut record = shard.dataset();
    record.set_status(v1::DatasetStatus::Fenced);
    shard.state.put(
        &keys::dataset(keys::table::DATASET, &DATASET),
        &record.encode_to_vec(),
    );
    let drop = v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    };
    assert_eq!(
        reason(shard.run(Command::TombstoneDataset(drop))),
        Refusal::DatasetFenced
    );
    for asked in on_dataset() {
        match asked {
            Command::SetKeyState(_) => drop_done(shard.run(asked)),
            _ => assert_eq!(reason(shard.run(asked)), Refusal::DatasetFenced),
        }
    }
}

#[test]
fn a_dataset_is_admitted_once_and_again_only_as_itself() {
    let mut shard = Shard::new();
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(create(DATASET, "cti")));
    assert_eq!(
        shard.dataset().objects,
        1,
        "admitting again emptied the counters"
    );
    assert_eq!(
        reason(shard.run(create(DATASET, "other"))),
        Refusal::DatasetExists
    );
    let mut counted = create(DatasetId([0xDD; 16]), "counted");
    if let Command::CreateDataset(v1::CreateDataset {
        dataset: Some(dataset),
    }) = &mut counted
    {
        (dataset.objects, dataset.uploads) = (3, 3);
    }
    done(shard.run(counted));
    let counted = read::dataset(&shard.state, &DatasetId([0xDD; 16])).expect("admitted");
    assert_eq!((counted.objects, counted.uploads), (0, 0));
    let spoils: [Spoil<v1::DatasetRecord>; 7] = [
        |d| d.format = 2,
        |d| d.dataset_id = Bytes::new(),
        |d| d.name = "No".to_owned(),
        |d| d.kek_id = Bytes::new(),
        |d| d.pseudonym = Bytes::new(),
        |d| d.set_status(v1::DatasetStatus::Fenced),
        |d| d.set_key_state(v1::KeyState::Disabled),
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut asked = create(proto::ids::DatasetId([1; 16]), "other");
        if let Command::CreateDataset(v1::CreateDataset {
            dataset: Some(dataset),
        }) = &mut asked
        {
            spoil(dataset);
        }
        assert_eq!(reason(shard.run(asked)), Refusal::Malformed, "case {at}");
    }
}

#[test]
fn dropping_a_large_dataset_takes_bounded_steps_and_leaves_nothing() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    for n in 0..20 {
        let key = format!("k{}", n % 7);
        done(shard.run(Command::FinishObject(finish(&key, version(n), &[1, 2]))));
    }
    done(shard.run(Command::DeleteObject(delete_with_marker(
        "k1",
        version(100),
    ))));
    done(shard.run(Command::DeleteObject(delete_version("k2", version(2)))));
    let drop = v1::TombstoneDataset {
        dataset_id: DATASET.into(),
        force: true,
    };
    done(shard.run(Command::TombstoneDataset(drop)));
    assert!(
        shard.dataset().versions >= 20 - u64::from(limits::SWEEP_STEPS),
        "unbounded work"
    );
    for _ in 0..10 {
        // Each command checks all invariants over what is left.
        let answer = shard.run(Command::Sweep(v1::Sweep { steps: 3 }));
        drop_done(answer);
    }
    shard.sweep_all();
    let left = shard.dataset();
    let counts = (
        left.objects,
        left.versions,
        left.sealed_bytes,
        left.tombstones,
    );
    assert_eq!(counts, (0, 0, 0, 0));
    for table in [
        keys::table::CHANGE,
        keys::table::TOKEN,
        keys::table::TOKEN_USE,
        keys::table::PURGE,
    ] {
        let (start, end) = keys::range(table, &[]);
        shard.state.scan(&start, &end, &mut |_, _| {
            panic!("a row is left in table {table:#x}")
        });
    }
    let mut garbage = 0;
    read::garbage(&shard.state, UploadEpoch(0), &mut |_, _, record| {
        garbage += record.blocks;
        true
    });
    assert_eq!(garbage, 40, "every block of every version is garbage");
    assert_eq!(
        shard.local,
        MemoryStore::default(),
        "nothing has to be looked for any more"
    );
}

#[test]
fn without_versioning_an_overwrite_turns_the_old_blocks_into_garbage() {
    let mut shard = Shard::new();
    shard.advance_epoch();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    let fresh = local::fresh(LogIndex(shard.index), &version(1));
    assert!(
        shard.local.value(&fresh).is_some(),
        "a new reference is to be resolved"
    );
    let answer = done(shard.run(Command::PutObject(put("a", version(2)))));
    assert_eq!(answer.replaced_version_id, version(1).as_bytes()[..]);
    assert!(shard.local.value(&fresh).is_none(), "a freed one is not");
    let mut found = Vec::new();
    read::garbage(&shard.state, UploadEpoch(1), &mut |epoch, id, record| {
        found.push((epoch, id, record.blocks));
        true
    });
    assert_eq!(found, [(UploadEpoch(1), version(1), 2)]);
    read::garbage(&shard.state, UploadEpoch(0), &mut |_, _, _| {
        panic!("freed too early")
    });
    assert!(read::object(&shard.state, &DATASET, "a", Some(&version(1))).is_none());
}

#[test]
fn garbage_records_go_when_no_upload_of_their_time_can_be_finished() {
    let mut shard = Shard::new();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    done(shard.run(Command::DeleteObject(delete("a"))));
    shard.advance_epochs(limits::EPOCHS_KEPT);
    shard.sweep_all();
    let again = || finish_at("a", version(1), &[1, 2], UploadEpoch(0));
    assert_eq!(
        reason(shard.run(Command::FinishObject(again()))),
        Refusal::VersionIdReused
    );
    shard.advance_epoch();
    shard.sweep_all();
    read::garbage(&shard.state, UploadEpoch(99), &mut |_, _, _| {
        panic!("it stayed")
    });
    assert_eq!(
        reason(shard.run(Command::FinishObject(again()))),
        Refusal::UploadTooOld
    );
}

#[test]
fn with_versioning_nothing_is_lost_until_it_is_named() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    done(shard.run(Command::PutObject(put("a", version(2)))));
    let marker = done(shard.run(Command::DeleteObject(delete_with_marker("a", version(3)))));
    assert_eq!(marker.version_id, version(3).as_bytes()[..]);
    assert_eq!(shard.current_id("a"), None);
    assert!(
        read::object(&shard.state, &DATASET, "a", None)
            .expect("a marker")
            .delete_marker
    );
    for n in [1, 2] {
        let old = read::object(&shard.state, &DATASET, "a", Some(&version(n))).expect("kept");
        assert_eq!(old.version_id, version(n).as_bytes()[..]);
    }
    assert!(
        read::object(&shard.state, &DATASET, "b", Some(&version(1))).is_none(),
        "other key"
    );
    // Without the marker the newest is current again, and so on down.
    done(shard.run(Command::DeleteObject(delete_version("a", version(3)))));
    assert_eq!(shard.current_id("a"), Some(version(2)));
    done(shard.run(Command::DeleteObject(delete_version("a", version(2)))));
    assert_eq!(shard.current_id("a"), Some(version(1)));
    let missing = Command::DeleteObject(delete_version("b", version(1)));
    assert_eq!(reason(shard.run(missing)), Refusal::NoSuchObject);
    done(shard.run(Command::DeleteObject(delete_version("a", version(1)))));
    let gone = Command::DeleteObject(delete_version("a", version(1)));
    assert_eq!(reason(shard.run(gone)), Refusal::NoSuchObject);
    assert_eq!(shard.dataset().versions, 0);
}

#[test]
fn with_versioning_a_delete_needs_an_id_for_its_marker() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(
        reason(shard.run(Command::DeleteObject(delete("a")))),
        Refusal::Malformed
    );
    let spoils: [Spoil<v1::DeleteObject>; 4] = [
        |d| d.key = String::new(),
        |d| d.version_id = Bytes::from_static(b"x"),
        |d| d.new_marker_id = Bytes::from_static(b"x"),
        |d| {
            d.precondition = Some(v1::Precondition {
                if_match: Bytes::from_static(b"x"),
                ..Default::default()
            })
        },
    ];
    for spoil in spoils {
        let mut asked = delete_with_marker("a", version(2));
        spoil(&mut asked);
        assert_eq!(
            reason(shard.run(Command::DeleteObject(asked))),
            Refusal::Malformed
        );
    }
}

#[test]
fn versions_made_under_versioning_outlive_it() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    set_versioning(&mut shard, false);
    done(shard.run(Command::PutObject(put("a", version(2)))));
    done(shard.run(Command::PutObject(put("a", version(3)))));
    let ids = |shard: &Shard| {
        all_versions(shard)
            .into_iter()
            .map(|(_, id)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&shard),
        [version(3).to_string(), version(1).to_string()]
    );
    // A plain delete hides the key and drops only what was not kept.
    assert_eq!(
        reason(shard.run(Command::DeleteObject(delete("a")))),
        Refusal::Malformed
    );
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(4)))));
    assert_eq!(
        ids(&shard),
        [version(4).to_string(), version(1).to_string()]
    );
    assert_eq!(shard.current_id("a"), None);
}

#[test]
fn the_change_index_tells_what_lives_and_what_is_gone() {
    let mut shard = Shard::new();
    done(shard.run(Command::PutObject(put("a", version(1)))));
    let first = shard.index;
    done(shard.run(Command::PutObject(put("a", version(2)))));
    done(shard.run(Command::PutObject(put("b", version(3)))));
    done(shard.run(Command::DeleteObject(delete("a"))));
    let changes = read::changes(&shard.state, &DATASET, LogIndex(0), 10);
    let seen: Vec<_> = changes
        .iter()
        .map(|(at, change)| (at.0 - first, change.key.as_str(), change.tombstone))
        .collect();
    assert_eq!(seen, [(2, "b", false), (3, "a", true)]);
    assert_eq!(
        read::changes(&shard.state, &DATASET, LogIndex(first + 2), 10).len(),
        1
    );
    assert_eq!(
        read::changes(&shard.state, &DATASET, LogIndex(0), 1).len(),
        1
    );
}

#[test]
fn the_oldest_tombstones_go_when_there_are_too_many_and_a_cursor_can_tell() {
    let mut shard = Shard::new();
    shard.index = limits::TOMBSTONES_MAX + 10;
    let mut record = shard.dataset();
    record.tombstones = limits::TOMBSTONES_MAX;
    shard.state.put(
        &keys::dataset(keys::table::DATASET, &DATASET),
        &record.encode_to_vec(),
    );
    let tombstone = v1::ChangeRecord {
        tombstone: true,
        ..Default::default()
    };
    for index in (1..=limits::TOMBSTONES_MAX).map(LogIndex) {
        let change = keys::change(keys::table::CHANGE, &DATASET, index);
        shard.state.put(&change, &tombstone.encode_to_vec());
        shard
            .state
            .put(&keys::change(keys::table::TOMBSTONE, &DATASET, index), &[]);
    }
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(Command::DeleteObject(delete("a"))));
    let held = shard.dataset();
    assert_eq!(
        (held.tombstones, held.tombstones_from),
        (limits::TOMBSTONES_MAX, 1)
    );
    let first = read::changes(&shard.state, &DATASET, LogIndex(0), 1);
    assert_eq!(first[0].0, LogIndex(2));
}

#[test]
fn listings_fold_page_and_skip_markers() {
    let mut shard = Shard::new();
    let keys = ["a/1", "a/2", "a/b/3", "b", "c/", "c/1", "d\0e", "é/x"];
    for (n, key) in keys.iter().enumerate() {
        done(shard.run(Command::PutObject(put(key, version(n as u64)))));
    }
    set_versioning(&mut shard, true);
    done(shard.run(Command::DeleteObject(delete_with_marker(
        "a/2",
        version(50),
    ))));
    let list = |prefix: &str, delimiter: &str, start_after: &str, limit| {
        let dataset = &DATASET;
        objects(
            &shard.state,
            ObjectsQuery {
                dataset,
                prefix,
                delimiter,
                start_after,
                limit,
            },
        )
    };
    let shown = |reply: &v1::ListObjectsReply| {
        (
            reply
                .objects
                .iter()
                .map(|o| o.key.clone())
                .collect::<Vec<_>>()
                .join(" "),
            reply.common_prefixes.join(" "),
        )
    };
    let all = list("", "", "", 0);
    assert_eq!(shown(&all).0, "a/1 a/b/3 b c/ c/1 d\0e é/x");
    assert!(!all.truncated);
    assert_eq!(
        shown(&list("", "/", "", 0)),
        ("b d\0e".into(), "a/ c/ é/".into())
    );
    assert_eq!(
        shown(&list("a/", "/", "", 0)),
        ("a/1".into(), "a/b/".into())
    );
    assert_eq!(shown(&list("c/", "/", "", 0)), ("c/ c/1".into(), "".into()));
    assert_eq!(shown(&list("zz", "/", "", 0)), ("".into(), "".into()));
    assert_eq!(shown(&list("", "", "c/", 0)).0, "c/1 d\0e é/x");
    assert_eq!(
        shown(&list("", "/", "a/1", 0)).1,
        "a/ c/ é/",
        "the prefix goes on after a key in it"
    );
    assert_eq!(
        shown(&list("b", "", "a", 0)).0,
        "b",
        "a start before the prefix"
    );
    assert_eq!(
        shown(&list("a/", "", "b", 0)).0,
        "",
        "a start after the prefix"
    );
    // Page by page gives what one page gives, whatever the page size.
    for (delimiter, limit) in [("", 1), ("", 2), ("", 3), ("/", 1), ("/", 2), ("/", 3)] {
        let whole = list("", delimiter, "", 0);
        let (mut after, mut seen, mut folded) = (String::new(), Vec::new(), Vec::new());
        loop {
            let page = list("", delimiter, &after, limit);
            assert!(page.objects.len() + page.common_prefixes.len() <= limit);
            seen.extend(page.objects);
            folded.extend(page.common_prefixes);
            if !page.truncated {
                break;
            }
            after = page.next_start_after;
        }
        assert_eq!(
            (seen, folded),
            (whole.objects, whole.common_prefixes),
            "{delimiter:?} {limit}"
        );
    }
}

#[test]
fn listings_of_versions_page_within_one_key() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    for n in 0..9 {
        let key = ["a", "b", "ba"][n as usize % 3];
        done(shard.run(Command::PutObject(put(key, version(n)))));
    }
    done(shard.run(Command::DeleteObject(delete_with_marker("b", version(9)))));
    let whole = all_versions(&shard);
    let order: Vec<_> = whole.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(order, ["a", "a", "a", "b", "b", "b", "b", "ba", "ba", "ba"]);
    assert_eq!(whole[3].1, version(9).to_string(), "the newest first");
    for limit in 1..5 {
        let (mut seen, mut key, mut index) = (Vec::new(), String::new(), 0);
        loop {
            let page = versions(
                &shard.state,
                VersionsQuery {
                    dataset: &DATASET,
                    prefix: "",
                    start_after_key: &key,
                    start_after_index: LogIndex(index),
                    limit,
                },
            );
            assert!(page.versions.len() <= limit);
            seen.extend(names(&page));
            if !page.truncated {
                break;
            }
            (key, index) = (page.next_key, page.next_index);
        }
        assert_eq!(seen, whole, "{limit}");
    }
}

#[test]
fn what_is_local_does_not_change_the_state() {
    let mut shard = Shard::new();
    for n in 0..6 {
        done(shard.run(Command::FinishObject(finish(
            ["a", "b"][n as usize % 2],
            version(n),
            &[1, 2],
        ))));
    }
    let mut other = Shard::empty();
    for (at, command) in shard.log.clone().into_iter().enumerate() {
        other.local = MemoryStore::default();
        other
            .local
            .put(&local::missing(&version(at as u64), 0), &1u64.to_be_bytes());
        other.apply_bytes(command).expect("a known command");
    }
    assert_eq!(other.state, shard.state);
}

#[test]
fn after_a_snapshot_every_referenced_block_is_looked_for_again() {
    let mut shard = Shard::new();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    let finished = shard.index;
    done(shard.run(Command::PutObject(put("b", version(2)))));
    let mut replica = MemoryStore::default();
    replica.put(&local::missing(&version(77), 0), &1u64.to_be_bytes());
    local::reset(LogIndex(shard.index), &shard.state, &mut replica);
    let keys: Vec<_> = replica.iter().map(|(key, _)| key.to_vec()).collect();
    assert_eq!(keys, [local::fresh(LogIndex(finished), &version(1))]);
}

/// The state a fixed log leaves, byte for byte. A difference is a change of the disk format: it needs a feature
/// level and a migration, not a new golden file.
#[test]
fn golden_bytes_of_the_state() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(Command::FinishObject(finish("a", version(2), &[1, 2]))));
    done(shard.run(Command::FinishObject(finish("b/c", version(3), &[1, 2]))));
    shard.advance_epoch();
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(4)))));
    done(shard.run(Command::DeleteObject(delete_version("b/c", version(3)))));
    let mut dump = String::new();
    for (of, store) in [("state", &shard.state), ("local", &shard.local)] {
        for (key, value) in store.iter() {
            dump += &format!("{of} {} {}\n", hex::encode(key), hex::encode(value));
        }
    }
    let golden = include_str!("golden_state.txt");
    assert!(
        dump == golden,
        "the state differs from golden_state.txt; it is now:\n{dump}"
    );
}

fn set_versioning(shard: &mut Shard, enabled: bool) {
    let set = v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled,
    };
    done(shard.run(Command::SetVersioning(set)));
}

fn key_state(state: v1::KeyState, version: u64, min_kek_version: u32) -> Command {
    Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: state.into(),
        version,
        min_kek_version,
    })
}

/// One command of each kind that names a dataset, but for creating and dropping it.
fn on_dataset() -> Vec<Command> {
    vec![
        Command::PutObject(put("a", version(1))),
        Command::FinishObject(finish("a", version(1), &[1, 2])),
        Command::DeleteObject(delete("a")),
        register([2; 16], HOLDER),
        key_state(v1::KeyState::Disabled, 9, 1),
        Command::SetVersioning(v1::SetVersioning {
            dataset_id: DATASET.into(),
            enabled: true,
        }),
    ]
}

fn names(page: &v1::ListVersionsReply) -> Vec<(String, String)> {
    let id = |listed: &v1::ListedObject| {
        hex::encode(
            &listed
                .entry
                .as_ref()
                .expect("listed with its entry")
                .version_id,
        )
    };
    page.versions
        .iter()
        .map(|listed| (listed.key.clone(), id(listed)))
        .collect()
}

fn all_versions(shard: &Shard) -> Vec<(String, String)> {
    let page = versions(
        &shard.state,
        VersionsQuery {
            dataset: &DATASET,
            prefix: "",
            start_after_key: "",
            start_after_index: LogIndex(0),
            limit: 0,
        },
    );
    names(&page)
}

fn drop_done(answer: v1::ShardAnswer) {
    done(answer);
}
