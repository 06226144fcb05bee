//! One claim a test, on a shard; the catalog where it differs.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use proto::ids::LogIndex;
use proto::store::MemoryStore;
use proto::time::JUMP_MS_MAX;
use proto::v1::Refusal;
use proto::v1::shard_command::Command;

use super::*;
use crate::record::{CatalogMeta, ShardMeta};
use crate::shard::fixture::*;
use crate::{CatalogMachine, ShardMachine};

const YEAR: u64 = 365 * 24 * 3_600_000;

fn bounded() -> Shard {
    let mut shard = Shard::new();
    shard.level = TIME_BOUND_LEVEL;
    shard
}

fn clocks(of: &[(u64, u64)]) -> v1::AdvanceGroupTime {
    let clock = |&(node_id, clock_ms): &(u64, u64)| v1::VoterClock { node_id, clock_ms };
    v1::AdvanceGroupTime {
        clocks: of.iter().map(clock).collect(),
        by_operator: false,
    }
}

fn advance(shard: &mut Shard, of: &[(u64, u64)]) -> v1::ShardAnswer {
    shard.run(Command::AdvanceTime(clocks(of)))
}

fn time(shard: &Shard) -> u64 {
    shard.meta().time.0
}

#[test]
fn a_clock_that_is_years_ahead_stops_no_write_and_ends_no_token() {
    let mut shard = bounded();
    let before = (shard.state.clone(), shard.local.clone());
    shard.now_ms = 50 * YEAR;
    let put = |shard: &mut Shard| shard.run(Command::PutObject(put("a", version(1))));
    let answer = refused(put(&mut shard));
    assert_eq!(answer.reason(), Refusal::ClockJump);
    assert_eq!(answer.moved_to, 1000);
    assert!(
        (shard.state.clone(), shard.local.clone()) == before,
        "no effect"
    );
    // The leader asks its peers, and goes by them.
    done(advance(&mut shard, &[(1, 50 * YEAR), (2, 9_000)]));
    assert_eq!(time(&shard), 9_000);
    shard.now_ms = 0;
    done(put(&mut shard));
    assert_eq!(time(&shard), 9_000);
}

#[test]
fn a_reading_within_a_minute_moves_time_and_an_earlier_one_does_not() {
    let mut shard = bounded();
    shard.now_ms = 1000 + JUMP_MS_MAX;
    done(shard.run(Command::PutObject(put("a", version(1)))));
    assert_eq!(time(&shard), 61_000);
    shard.now_ms = 500;
    done(shard.run(Command::PutObject(put("b", version(2)))));
    assert_eq!(time(&shard), 61_000);
    shard.now_ms = 61_001 + JUMP_MS_MAX;
    assert_eq!(
        reason(shard.run(Command::PutObject(put("c", version(3))))),
        Refusal::ClockJump
    );
}

#[test]
fn after_a_quiet_hour_a_token_that_ended_meanwhile_is_refused() {
    let mut shard = bounded();
    shard.now_ms = EXPIRY_MS;
    let put = |shard: &mut Shard| shard.run(Command::PutObject(put("a", version(1))));
    assert_eq!(reason(put(&mut shard)), Refusal::ClockJump);
    let now = shard.now_ms;
    done(advance(&mut shard, &[(1, now), (2, now), (3, now)]));
    assert_eq!(reason(put(&mut shard)), Refusal::TokenExpired);
}

#[test]
fn the_clocks_of_a_majority_of_the_voters_and_no_others_move_time() {
    let mut shard = bounded();
    let cases: [&[(u64, u64)]; 4] = [
        &[],
        &[(1, 9000)],
        &[(1, 9000), (1, 9000)],
        &[(1, 9000), (7, 9000)],
    ];
    for case in cases {
        assert_eq!(reason(advance(&mut shard, case)), Refusal::Malformed);
    }
    assert_eq!(time(&shard), 1000);
    // While a change is joint, of both sets.
    shard.voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
    assert_eq!(
        reason(advance(&mut shard, &[(1, 9000), (2, 9000)])),
        Refusal::Malformed
    );
    done(advance(&mut shard, &[(1, 9000), (3, 9000), (4, 9000)]));
    assert_eq!(time(&shard), 9000);
    done(advance(&mut shard, &[(1, 1), (3, 1), (4, 1)]));
    assert_eq!(time(&shard), 9000, "never back");
}

#[test]
fn over_a_day_waits_for_an_operator() {
    let mut shard = bounded();
    let late = 1000 + IDLE_JUMP_MS_MAX + 1;
    let by_two = |at| clocks(&[(1, at), (2, at)]);
    let answer = refused(shard.run(Command::AdvanceTime(by_two(late))));
    assert_eq!(
        (answer.reason(), answer.moved_to),
        (Refusal::ClockJump, 1000)
    );
    let day = clocks(&[(1, late), (2, late - 1)]);
    done(shard.run(Command::AdvanceTime(day)));
    assert_eq!(time(&shard), late - 1);
    let asked = v1::AdvanceGroupTime {
        by_operator: true,
        ..by_two(9 * YEAR)
    };
    done(shard.run(Command::AdvanceTime(asked)));
    assert_eq!(time(&shard), 9 * YEAR);
}

#[test]
fn a_group_without_a_time_takes_that_of_a_majority() {
    let mut shard = Shard::empty();
    shard.level = TIME_BOUND_LEVEL;
    shard.now_ms = 50 * YEAR;
    let set = Command::SetAuthority(v1::SetAuthority { version: 1 });
    assert_eq!(reason(shard.run(set.clone())), Refusal::ClockJump);
    let now = shard.now_ms;
    done(advance(&mut shard, &[(2, now), (3, now)]));
    done(shard.run(set));
    assert_eq!(time(&shard), now);
}

#[test]
fn below_the_level_a_log_applies_as_it_did_when_it_was_written() {
    let mut shard = Shard::new();
    shard.now_ms = YEAR;
    assert_eq!(
        reason(shard.run(Command::PutObject(put("a", version(1))))),
        Refusal::TokenExpired
    );
    assert_eq!(time(&shard), YEAR);
    let command = shard.command(Command::AdvanceTime(clocks(&[(1, 1), (2, 1)])));
    let unknown = shard.apply_bytes(command.encode_to_vec().into());
    assert!(unknown.is_err(), "to a build of that level it is unknown");
}

#[test]
fn the_catalog_goes_by_the_same_rule() {
    use v1::catalog_command::Command;
    let mut state = MemoryStore::default();
    let mut index = 0;
    let mut run = |level, now_ms, kind: Command| {
        index += 1;
        let voters = |nodes: &BTreeSet<NodeId>| nodes.len() >= 2;
        let at = At {
            index: LogIndex(index),
            voters: &voters,
            level,
        };
        let command = v1::CatalogCommand {
            now_ms,
            verdict: None,
            command: Some(kind),
        };
        let command = Bytes::from(command.encode_to_vec());
        let answer = CatalogMachine.apply(at, &command, &mut state).ok()?;
        let answer = v1::CatalogAnswer::decode(answer).expect("an answer");
        let reason = match answer.answer.expect("one of two") {
            v1::catalog_answer::Answer::Done(_) => Refusal::Unspecified,
            v1::catalog_answer::Answer::Refused(refused) => refused.reason(),
        };
        Some((reason, CatalogMeta::load(&state).time.0))
    };
    let set = || Command::SetAuthority(v1::SetAuthority { version: 1 });
    let (old, new) = (FeatureLevel(0), TIME_BOUND_LEVEL);
    let by = |at| Command::AdvanceTime(clocks(&[(1, at), (2, at)]));
    assert_eq!(run(old, 1000, set()), Some((Refusal::Unspecified, 1000)));
    assert_eq!(run(old, 0, by(9)), None);
    assert_eq!(run(old, YEAR, set()), Some((Refusal::Unspecified, YEAR)));
    let ahead = YEAR + JUMP_MS_MAX + 1;
    assert_eq!(run(new, ahead, set()), Some((Refusal::ClockJump, YEAR)));
    assert_eq!(run(new, 0, by(ahead)), Some((Refusal::Unspecified, ahead)));
    assert_eq!(run(new, ahead, set()), Some((Refusal::Unspecified, ahead)));
    assert_eq!(run(new, 0, by(9 * YEAR)), Some((Refusal::ClockJump, ahead)));
}

#[test]
fn golden_bytes_of_the_order_that_moves_time() {
    let command = v1::ShardCommand {
        command: Some(Command::AdvanceTime(v1::AdvanceGroupTime {
            by_operator: true,
            ..clocks(&[(1, 1000), (2, 2000)])
        })),
        ..Default::default()
    };
    assert_eq!(
        hex::encode(command.encode_to_vec()),
        "aa01100a05080110e8070a05080210d00f1001"
    );
    let catalog = v1::CatalogCommand {
        command: Some(v1::catalog_command::Command::AdvanceTime(clocks(&[(
            1, 1000,
        )]))),
        ..Default::default()
    };
    assert_eq!(hex::encode(catalog.encode_to_vec()), "8201070a05080110e807");
}

proptest! {
    /// Whatever one voter's clock says, as leader or as one of those asked, time stays within a minute of the others'.
    #[test]
    fn one_wrong_clock_of_three_moves_time_nowhere(
        wrong in any::<u64>(),
        steps in prop::collection::vec((any::<bool>(), 1u64..50_000), 1..60),
    ) {
        let mut shard = bounded();
        let mut truth = 1000;
        for (leads, passes) in steps {
            truth += passes;
            shard.now_ms = if leads { wrong } else { truth };
            let before: ShardMeta = shard.meta();
            let answer = shard.run(Command::Sweep(v1::Sweep { steps: 0 }));
            if let Some(v1::shard_answer::Answer::Refused(refused)) = answer.answer {
                prop_assert_eq!(refused.reason(), Refusal::ClockJump);
                prop_assert_eq!(before, shard.meta());
                done(advance(&mut shard, &[(1, wrong), (2, truth), (3, truth)]));
                prop_assert_eq!(time(&shard), truth.max(before.time.0));
            }
            prop_assert!(shard.meta().time >= before.time);
            prop_assert!(time(&shard) <= truth + JUMP_MS_MAX);
        }
    }
}

/// The same log under the same levels gives the same bytes.
#[test]
fn a_replay_across_the_raise_gives_the_same_state() {
    let mut shard = Shard::new();
    let raised_after = shard.log.len();
    shard.level = TIME_BOUND_LEVEL;
    shard.now_ms = 9 * YEAR;
    refused(shard.run(Command::PutObject(put("a", version(1)))));
    done(advance(&mut shard, &[(1, 9 * YEAR), (3, 5000)]));
    shard.now_ms = 6000;
    done(shard.run(Command::PutObject(put("a", version(1)))));
    let (mut state, mut local) = (MemoryStore::default(), MemoryStore::default());
    for (n, command) in shard.log.iter().enumerate() {
        let at = At {
            index: LogIndex(n as u64 + 1),
            voters: &|nodes: &BTreeSet<NodeId>| nodes.len() >= 2,
            level: FeatureLevel(u32::from(n >= raised_after)),
        };
        ShardMachine
            .apply(at, command, &mut state, &mut local)
            .expect("known");
    }
    assert!(state == shard.state && local == shard.local);
}
