use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::register::{MISSING, PRECONDITION};
use super::*;
use crate::history::{F, Outcome};
use crate::testing::{because, fail, given, info, ok};

const PATIENCE_HERE: Duration = Duration::from_secs(20);

fn of_both(ops: &[Op]) -> Judgement {
    let ops: Vec<_> = ops.iter().collect();
    let (porcupine, todc) = judge_key(&ops, PATIENCE_HERE).expect("register operations");
    assert_eq!(porcupine, todc, "{ops:#?}");
    porcupine
}

fn nothing() -> serde_json::Value {
    serde_json::Value::Null
}

#[test]
fn legal_histories_are_legal() {
    let read_concurrently = [
        ok(1, F::Write, 1, 0, 100),
        ok(2, F::Read, nothing(), 10, 20),
        ok(2, F::Read, 1, 30, 40),
    ];
    let unknown_write_seen_late = [
        ok(1, F::Write, 1, 0, 10),
        info(2, F::Write, 2, 20),
        ok(3, F::Read, 1, 30, 40),
        ok(3, F::Read, 2, 50, 60),
    ];
    let unknown_write_never_seen = [
        ok(1, F::Write, 1, 0, 10),
        info(2, F::Write, 2, 20),
        ok(3, F::Read, 1, 30, 40),
    ];
    let conditions = [
        ok(1, F::Create, 1, 0, 10),
        because(PRECONDITION, fail(1, F::Create, 2, 11, 12)),
        ok(1, F::Write, 3, 13, 14),
        because(PRECONDITION, given(1, fail(1, F::Cas, 4, 15, 16))),
        given(3, ok(1, F::Cas, 5, 17, 18)),
        because(
            PRECONDITION,
            given(3, fail(1, F::DeleteIf, nothing(), 19, 20)),
        ),
        given(5, ok(1, F::DeleteIf, nothing(), 21, 22)),
        because(MISSING, fail(1, F::Delete, nothing(), 23, 24)),
        ok(1, F::Create, 6, 25, 26),
        ok(1, F::Delete, nothing(), 27, 28),
        ok(1, F::Read, nothing(), 29, 30),
    ];
    let unknown_cas_explains_a_refusal = [
        ok(1, F::Write, 1, 0, 10),
        given(1, info(2, F::Cas, 2, 12)),
        because(PRECONDITION, given(1, fail(3, F::Cas, 3, 20, 30))),
    ];
    let cleared_whatever_was_there = [
        ok(1, F::Clear, nothing(), 0, 10),
        ok(1, F::Write, 1, 11, 12),
        ok(1, F::Clear, nothing(), 13, 14),
        ok(1, F::Read, nothing(), 15, 16),
        info(2, F::Clear, nothing(), 17),
        ok(1, F::Write, 2, 18, 19),
        ok(1, F::Read, nothing(), 20, 21),
    ];
    // Refused for another reason: says nothing of the register.
    let refused_for_want_of_rights = [
        ok(1, F::Write, 1, 0, 10),
        because("not-granted", given(1, fail(3, F::Cas, 3, 20, 30))),
    ];
    for legal in [
        &read_concurrently[..],
        &unknown_write_seen_late,
        &unknown_write_never_seen,
        &conditions,
        &unknown_cas_explains_a_refusal,
        &cleared_whatever_was_there,
        &refused_for_want_of_rights,
    ] {
        assert_eq!(of_both(legal), Judgement::Legal, "{legal:#?}");
        assert_eq!(judge(legal), []);
    }
}

#[test]
fn illegal_histories_are_illegal() {
    let stale_read = [
        ok(1, F::Write, 1, 0, 10),
        ok(1, F::Write, 2, 20, 30),
        ok(2, F::Read, 1, 40, 50),
    ];
    let lost_write = [ok(1, F::Write, 1, 0, 10), ok(2, F::Read, nothing(), 20, 30)];
    let unknown_write_seen_and_unseen = [
        ok(1, F::Write, 1, 0, 10),
        info(2, F::Write, 2, 20),
        ok(3, F::Read, 2, 30, 40),
        ok(3, F::Read, 1, 50, 60),
    ];
    let resurrected_delete = [
        ok(1, F::Write, 1, 0, 10),
        ok(1, F::Delete, nothing(), 20, 30),
        ok(2, F::Read, 1, 40, 50),
    ];
    let resurrected_clear = [
        ok(1, F::Write, 1, 0, 10),
        ok(1, F::Clear, nothing(), 20, 30),
        ok(2, F::Read, 1, 40, 50),
    ];
    let refused_write_seen = [
        ok(1, F::Write, 1, 0, 10),
        because(PRECONDITION, given(9, fail(1, F::Cas, 2, 20, 30))),
        ok(2, F::Read, 2, 40, 50),
    ];
    let precondition_ignored = [
        ok(1, F::Write, 1, 0, 10),
        ok(1, F::Write, 2, 20, 30),
        given(1, ok(2, F::Cas, 3, 40, 50)),
    ];
    let refused_although_it_held = [
        ok(1, F::Write, 1, 0, 10),
        because(PRECONDITION, given(1, fail(2, F::Cas, 3, 40, 50))),
    ];
    let created_twice = [ok(1, F::Create, 1, 0, 10), ok(2, F::Create, 2, 20, 30)];
    let deleted_twice = [
        ok(1, F::Create, 1, 0, 10),
        ok(1, F::Delete, nothing(), 20, 30),
        ok(2, F::Delete, nothing(), 40, 50),
    ];
    let from_nowhere = [ok(1, F::Read, 7, 0, 10)];
    let before_its_time = [ok(1, F::Read, 7, 0, 10), ok(1, F::Write, 7, 20, 30)];
    for illegal in [
        &stale_read[..],
        &lost_write,
        &unknown_write_seen_and_unseen,
        &resurrected_delete,
        &resurrected_clear,
        &refused_write_seen,
        &precondition_ignored,
        &refused_although_it_held,
        &created_twice,
        &deleted_twice,
        &from_nowhere,
        &before_its_time,
    ] {
        assert_eq!(of_both(illegal), Judgement::Illegal, "{illegal:#?}");
        assert_eq!(judge(illegal).len(), 1);
    }
}

#[test]
fn keys_are_registers_of_their_own() {
    let mut elsewhere = ok(2, F::Read, nothing(), 20, 30);
    elsewhere.key = "other".to_owned();
    let ops = [ok(1, F::Write, 1, 0, 10), elsewhere];
    assert_eq!(judge(&ops), []);
}

#[test]
fn an_operation_no_register_has_is_an_anomaly() {
    let anomalies = judge(&[ok(1, F::List, 1, 0, 10)]);
    assert_eq!(anomalies.len(), 1);
    assert_eq!(judge(&[ok(1, F::Write, "one", 0, 10)]).len(), 1);
}

/// Many unknown writes, all of which may come at any time, and a read that none explains: exponentially many orders.
#[test]
fn a_judge_that_does_not_finish_says_so() {
    let mut ops: Vec<_> = (0..40).map(|n| info(n, F::Write, n, n)).collect();
    ops.extend((0..200).map(|n| ok(100, F::Read, n % 40, 1_000 + 2 * n, 1_001 + 2 * n)));
    let events: Vec<_> = ops.iter().collect();
    let events = events_of(&events);
    let patience = Duration::from_millis(200);
    let began = Instant::now();
    let found = agreed(&events, patience);
    assert!(began.elapsed() < 40 * patience, "{:?}", began.elapsed());
    assert_ne!(found, (Judgement::Legal, Judgement::Legal));
    assert_eq!(found.1, Judgement::Unknown);
}

fn events_of<'a>(ops: &[&'a Op]) -> Vec<Event<'a>> {
    events(ops).expect("register operations")
}

#[test]
fn an_illegal_history_is_shown_small_and_for_its_own_reason() {
    let mut ops = sequential(7, 200, Faults::default()).ops;
    let late = ops.iter().map(Op::end).max().expect("operations") + 10;
    ops.push(ok(900, F::Write, 9_001, late, late + 1));
    ops.push(ok(901, F::Write, 9_002, late + 2, late + 3));
    ops.push(ok(902, F::Read, 9_001, late + 4, late + 5));
    let anomalies = judge(&ops);
    assert_eq!(anomalies.len(), 1);
    let shown = &anomalies[0].history;
    assert!(shown.len() <= 4, "{} operations are shown", shown.len());
    let wrote = |value: u64| shown.iter().any(|op| op.f != F::Read && op.value == value);
    assert!(wrote(9_001), "what the stale read saw is shown: {shown:#?}");
    assert!(shown.iter().any(|op| op.f == F::Read && op.value == 9_001));
}

#[derive(Clone, Copy, Default)]
struct Faults {
    /// Of a hundred operations, how many end without a known outcome.
    unknown: u32,
    /// Whether deletes are among the operations.
    deletes: bool,
}

struct Sequential {
    ops: Vec<Op>,
    /// What the register holds in the end.
    holds: Option<u64>,
}

/// What a register that does one thing after the other would have answered, with calls and returns around each
/// moment of effect: legal by construction. Every written value is unique.
fn sequential(seed: u64, count: u64, faults: Faults) -> Sequential {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut holds, mut ops) = (None, Vec::new());
    let mut seen = 0;
    for n in 0..count {
        let at = 1_000 + 10 * n;
        let call = at - rng.random_range(0..40);
        let ret = at + rng.random_range(0..40);
        let value = n + 1;
        // Half of the conditions are on what is there, half on something that was.
        let old = if rng.random() {
            holds.unwrap_or(seen)
        } else {
            seen
        };
        let kinds = if faults.deletes { 6 } else { 4 };
        let (f, value, old) = match rng.random_range(0..kinds) {
            0 => (F::Read, None, None),
            1 => (F::Write, Some(value), None),
            2 => (F::Create, Some(value), None),
            3 => (F::Cas, Some(value), Some(old)),
            4 => (F::Delete, None, None),
            _ => (F::DeleteIf, None, Some(old)),
        };
        let mut op = ok(n, f, serde_json::json!(value), call, ret);
        op.old = serde_json::json!(old);
        let happens = match f {
            F::Create => holds.is_none(),
            F::Cas | F::DeleteIf => holds == old,
            F::Delete => holds.is_some(),
            _ => true,
        };
        let unknown = rng.random_range(0..100) < faults.unknown;
        // An outcome nobody knows may have been no effect.
        let effect = f != F::Read && happens && !(unknown && rng.random());
        if unknown {
            (op.outcome, op.ret) = (Outcome::Info, None);
        } else if f == F::Read {
            op.value = serde_json::json!(holds);
        } else if !happens {
            op.outcome = Outcome::Fail;
            let reason = if f == F::Delete {
                MISSING
            } else {
                PRECONDITION
            };
            op.error = Some(reason.to_owned());
        }
        if effect {
            holds = value;
        }
        seen = holds.unwrap_or(seen);
        ops.push(op);
    }
    Sequential { ops, holds }
}

/// A change of a legal history after which it must be illegal.
#[derive(Debug, Clone, Copy)]
enum Mutation {
    /// A value is read that two later writes have replaced.
    Stale,
    /// An acknowledged write is not there.
    Lost,
    /// A write of unknown outcome is seen, replaced, and seen again.
    FlipFlop,
    /// What was deleted is back.
    Resurrected,
    /// What nobody wrote is read.
    Phantom,
    /// What was refused is read.
    RefusedSeen,
    /// Two compare-and-swaps from one value succeed.
    SwappedTwice,
    /// A condition that holds is refused.
    WronglyRefused,
}

const MUTATIONS: [Mutation; 8] = [
    Mutation::Stale,
    Mutation::Lost,
    Mutation::FlipFlop,
    Mutation::Resurrected,
    Mutation::Phantom,
    Mutation::RefusedSeen,
    Mutation::SwappedTwice,
    Mutation::WronglyRefused,
];

impl Mutation {
    /// Whether writes that may still come could excuse it.
    fn needs_certainty(self) -> bool {
        matches!(self, Self::WronglyRefused)
    }

    /// Adds the operations that cannot be, after everything else.
    fn onto(self, ops: &mut Vec<Op>) {
        let ends = ops.iter().filter_map(|op| op.ret);
        let mut clock = ends.max().unwrap_or(0) + 10;
        let mut client = 10_000;
        let mut next = || {
            clock += 10;
            client += 1;
            (client, clock, clock + 5)
        };
        let mut add = |f, value: Option<u64>, old: Option<u64>, refused: Option<&str>| {
            let (client, call, ret) = next();
            let mut op = ok(client, f, serde_json::json!(value), call, ret);
            op.old = serde_json::json!(old);
            if let Some(reason) = refused {
                op.outcome = Outcome::Fail;
                op.error = Some(reason.to_owned());
            }
            ops.push(op);
        };
        match self {
            Self::Stale => {
                add(F::Write, Some(50_001), None, None);
                add(F::Write, Some(50_002), None, None);
                add(F::Read, Some(50_001), None, None);
            }
            Self::Lost => {
                add(F::Write, Some(50_001), None, None);
                add(F::Read, None, None, None);
            }
            Self::FlipFlop => {
                let (client, call, _) = next();
                ops.push(info(client, F::Write, 50_001, call));
                let mut add = |f, value: u64| {
                    let (client, call, ret) = next();
                    ops.push(ok(client, f, value, call, ret));
                };
                add(F::Read, 50_001);
                add(F::Write, 50_002);
                add(F::Read, 50_001);
            }
            Self::Resurrected => {
                add(F::Write, Some(50_001), None, None);
                add(F::Delete, None, None, None);
                add(F::Read, Some(50_001), None, None);
            }
            Self::Phantom => add(F::Read, Some(60_000), None, None),
            Self::RefusedSeen => {
                add(F::Cas, Some(50_001), Some(60_000), Some(PRECONDITION));
                add(F::Read, Some(50_001), None, None);
            }
            Self::SwappedTwice => {
                add(F::Write, Some(50_001), None, None);
                add(F::Cas, Some(50_002), Some(50_001), None);
                add(F::Cas, Some(50_003), Some(50_001), None);
            }
            Self::WronglyRefused => {
                add(F::Write, Some(50_001), None, None);
                add(F::Cas, Some(50_002), Some(50_001), Some(PRECONDITION));
            }
        }
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    })
}

#[test]
fn what_a_register_would_have_answered_is_legal() {
    let faults = (0_u32..8, any::<bool>());
    let outcome = runner(200).run(
        &(any::<u64>(), 1_u64..80, faults),
        |(seed, count, faults)| {
            let (unknown, deletes) = faults;
            let run = sequential(seed, count, Faults { unknown, deletes });
            prop_assert_eq!(of_both(&run.ops), Judgement::Legal);
            Ok(())
        },
    );
    outcome.expect("legal");
}

#[test]
fn every_mutation_is_found() {
    for mutation in MUTATIONS {
        let outcome = runner(60).run(&(any::<u64>(), 0_u64..60, 0_u32..6), |case| {
            let (seed, count, unknown) = case;
            let faults = Faults {
                unknown: if mutation.needs_certainty() {
                    0
                } else {
                    unknown
                },
                // An unknown delete excuses a lost write.
                deletes: !matches!(mutation, Mutation::Lost),
            };
            let mut ops = sequential(seed, count, faults).ops;
            prop_assert_eq!(of_both(&ops), Judgement::Legal);
            mutation.onto(&mut ops);
            prop_assert_eq!(of_both(&ops), Judgement::Illegal);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{mutation:?}: {error}"));
    }
}

#[test]
fn the_last_read_is_the_last_effect() {
    for seed in 0..50 {
        let mut run = sequential(
            seed,
            40,
            Faults {
                unknown: 5,
                deletes: true,
            },
        );
        let read = ok(9_999, F::Read, serde_json::json!(run.holds), 90_000, 90_001);
        run.ops.push(read);
        assert_eq!(of_both(&run.ops), Judgement::Legal, "seed {seed}");
    }
}

/// Every order, one after the other: the third opinion.
fn by_force(events: &[Event<'_>], done: &mut Vec<bool>, held: Option<u64>) -> bool {
    let left = |done: &[bool]| done.iter().filter(|done| !**done).count();
    if left(done) == 0 {
        return true;
    }
    for at in 0..events.len() {
        let blocked = |other: usize| !done[other] && events[other].op.before(events[at].op);
        if done[at] || (0..events.len()).any(blocked) {
            continue;
        }
        let (possible, next) = events[at].step.apply(held);
        if possible {
            done[at] = true;
            if by_force(events, done, next) {
                return true;
            }
            done[at] = false;
        }
    }
    false
}

/// Small histories of few values, most of them nonsense.
fn small(rng: &mut SmallRng) -> Vec<Op> {
    let count = rng.random_range(1..=7);
    let op = |n: u64| {
        let call = rng.random_range(0..30);
        let ret = call + rng.random_range(0..20);
        let f = [F::Read, F::Write, F::Create, F::Cas, F::Delete, F::DeleteIf];
        let f = f[rng.random_range(0..f.len())];
        let mut value = || rng.random_range(0..3_u64);
        let mut op = ok(n, f, value(), call, ret);
        op.old = value().into();
        if f == F::Read && value() == 0 {
            op.value = nothing();
        }
        match rng.random_range(0..6) {
            0 => (op.outcome, op.ret) = (Outcome::Info, None),
            1 => {
                op.outcome = Outcome::Fail;
                let reason = if f == F::Delete {
                    MISSING
                } else {
                    PRECONDITION
                };
                op.error = Some(reason.to_owned());
            }
            _ => {}
        }
        op
    };
    (0..count).map(op).collect()
}

#[test]
fn both_judges_and_brute_force_agree_on_thousands_of_small_histories() {
    let mut rng = SmallRng::seed_from_u64(20_261_101);
    let (mut legal, mut illegal) = (0, 0);
    for _ in 0..4_000 {
        let ops = small(&mut rng);
        let refs: Vec<_> = ops.iter().collect();
        let events = events_of(&refs);
        let judged = of_both(&ops);
        let force = by_force(&events, &mut vec![false; events.len()], None);
        assert_eq!(judged == Judgement::Legal, force, "{ops:#?}");
        match judged {
            Judgement::Legal => legal += 1,
            Judgement::Illegal => illegal += 1,
            Judgement::Unknown => panic!("not decided: {ops:#?}"),
        }
    }
    assert!(
        legal > 300 && illegal > 300,
        "{legal} legal, {illegal} illegal"
    );
}
