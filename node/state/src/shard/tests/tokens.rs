//! Tokens, and the states of the keys behind them.

use super::*;

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
