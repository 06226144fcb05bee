use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::history::Outcome;
use crate::testing::{because, fail, info, ok};

fn list(client: u64, elements: &[u64], index: u64, call: u64, ret: u64) -> Op {
    Op {
        index: Some(index),
        ..ok(client, F::List, elements.to_vec(), call, ret)
    }
}

fn last(op: Op) -> Op {
    Op { last: true, ..op }
}

/// The one anomaly of a history that ends with a full listing of what it should hold.
fn only(ops: &[Op]) -> String {
    let anomalies = judge(ops);
    assert!(!anomalies.is_empty(), "nothing found in {ops:#?}");
    anomalies[0].what.clone()
}

#[test]
fn snapshots_of_a_growing_and_shrinking_set_are_well() {
    let ops = [
        ok(1, F::Add, 1, 0, 10),
        ok(2, F::Add, 2, 5, 30),
        list(3, &[1], 10, 11, 20),
        list(4, &[1, 2], 11, 12, 21),
        ok(1, F::Remove, 1, 40, 60),
        list(3, &[2], 12, 45, 50),
        info(5, F::Add, 3, 41),
        info(6, F::Remove, 2, 70),
        list(3, &[2], 13, 71, 80),
        because("no-such-object", fail(1, F::Remove, 1, 61, 62)),
        last(list(3, &[3], 14, 90, 91)),
    ];
    assert_eq!(judge(&ops), []);
}

#[test]
fn a_missing_element_is_found() {
    let ops = [ok(1, F::Add, 1, 0, 10), last(list(2, &[], 9, 20, 30))];
    assert!(only(&ops).contains("acknowledged and is not listed"));
}

#[test]
fn a_phantom_and_a_refused_element_are_found() {
    assert!(only(&[last(list(2, &[7], 9, 20, 30))]).contains("never added"));
    let refused = [fail(1, F::Add, 7, 0, 10), last(list(2, &[7], 9, 20, 30))];
    assert!(only(&refused).contains("refused"));
    let early = [list(2, &[7], 9, 0, 10), ok(1, F::Add, 7, 20, 30)];
    assert!(only(&early).contains("before it was added"));
}

#[test]
fn a_resurrected_element_is_found() {
    let ops = [
        ok(1, F::Add, 1, 0, 10),
        ok(1, F::Remove, 1, 20, 30),
        last(list(2, &[1], 9, 40, 50)),
    ];
    assert!(only(&ops).contains("after its acknowledged removal"));
}

#[test]
fn an_element_that_comes_and_goes_is_found() {
    let flickers = [
        ok(1, F::Add, 1, 0, 10),
        info(2, F::Remove, 1, 11),
        list(3, &[1], 9, 12, 13),
        list(3, &[], 10, 14, 15),
        last(list(3, &[1], 11, 16, 17)),
    ];
    assert!(only(&flickers).contains("went and came back"));
    let vanishes = [
        info(1, F::Add, 1, 0),
        list(3, &[1], 9, 12, 13),
        last(list(3, &[], 10, 14, 15)),
    ];
    assert!(only(&vanishes).contains("was seen and is gone"));
}

#[test]
fn listings_of_one_index_are_equal_and_none_is_older_than_one_before() {
    let differ = [
        ok(1, F::Add, 1, 0, 100),
        list(2, &[1], 9, 20, 30),
        last(list(3, &[], 9, 20, 30)),
    ];
    assert!(only(&differ).contains("differ at one log index"));
    let older = [
        ok(1, F::Add, 1, 0, 100),
        list(2, &[], 9, 20, 30),
        last(list(3, &[], 8, 40, 50)),
    ];
    assert!(only(&older).contains("older than one that had ended"));
}

/// Two concurrent adds, each listed without the other: no order of the two explains both.
#[test]
fn listings_that_show_no_one_order_are_found() {
    let ops = [
        ok(1, F::Add, 1, 0, 100),
        ok(2, F::Add, 2, 0, 100),
        list(3, &[1], 9, 20, 30),
        list(4, &[2], 10, 20, 30),
        last(list(3, &[1, 2], 11, 200, 210)),
    ];
    assert!(only(&ops).contains("went and came back"));
}

/// Each element by itself is excused; together they leave the listing no moment.
#[test]
fn a_listing_of_no_one_moment_is_found() {
    let ops = [
        ok(1, F::Add, 1, 20, 60),
        ok(2, F::Remove, 2, 15, 18),
        ok(3, F::Add, 2, 0, 10),
        // Shows 1, which cannot be before 20, and 2, which is gone at 18.
        list(4, &[1, 2], 9, 12, 70),
        last(list(4, &[1], 10, 80, 90)),
    ];
    assert!(only(&ops).contains("no one moment"));
}

#[test]
fn an_element_removed_twice_or_not_found_is_found() {
    let twice = [
        ok(1, F::Add, 1, 0, 10),
        ok(1, F::Remove, 1, 20, 30),
        ok(2, F::Remove, 1, 20, 30),
        last(list(2, &[], 9, 40, 50)),
    ];
    assert!(only(&twice).contains("removed 2 times"));
    let missed = [
        ok(1, F::Add, 1, 0, 10),
        because("no-such-object", fail(1, F::Remove, 1, 20, 30)),
        last(list(2, &[1], 9, 40, 50)),
    ];
    assert!(only(&missed).contains("was not found"));
}

#[test]
fn a_set_that_nobody_looked_at_in_the_end_is_an_anomaly() {
    let ops = [ok(1, F::Add, 1, 0, 10), list(2, &[1], 9, 20, 30)];
    assert!(only(&ops).contains("not listed at the end"));
}

#[test]
fn a_history_of_no_set_is_an_anomaly() {
    assert!(only(&[ok(1, F::Write, 1, 0, 10)]).contains("no set has"));
    let twice = [ok(1, F::Add, 1, 0, 10), ok(1, F::Add, 1, 20, 30)];
    assert!(only(&twice).contains("second time"));
}

/// What a set that does one thing after the other would have shown, with calls and returns around each moment.
fn sequential(seed: u64) -> Vec<Op> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut held, mut ops) = (BTreeSet::new(), Vec::new());
    let mut added = 0;
    for n in 0..rng.random_range(1..60) {
        let at = 1_000 + 10 * n;
        let (call, ret) = (at - rng.random_range(0..40), at + rng.random_range(0..40));
        let element = rng.random_range(0..=added);
        let mut op = match rng.random_range(0..3) {
            0 => {
                added += 1;
                ok(n, F::Add, added, call, ret)
            }
            1 if held.contains(&element) => ok(n, F::Remove, element, call, ret),
            1 => because("no-such-object", fail(n, F::Remove, element, call, ret)),
            _ => {
                let shown: Vec<_> = held.iter().copied().collect();
                list(n, &shown, n, call, ret)
            }
        };
        let unknown = op.f != F::List && rng.random_range(0..8) == 0;
        let effect = op.is_ok() && !(unknown && rng.random());
        match op.f {
            F::Add if effect => drop(held.insert(added)),
            F::Remove if effect => drop(held.remove(&element)),
            _ => {}
        }
        if unknown {
            op = info(n, op.f, op.value, call);
        }
        ops.push(op);
    }
    let shown: Vec<_> = held.into_iter().collect();
    ops.push(last(list(9_999, &shown, 9_999, 90_000, 90_001)));
    ops
}

#[test]
fn what_a_set_would_have_shown_is_well() {
    for seed in 0..2_000 {
        assert_eq!(judge(&sequential(seed)), [], "seed {seed}");
    }
}

/// An element too many or too few in one listing of a set that is otherwise well.
#[test]
fn one_wrong_element_is_found() {
    let mut found = 0;
    for seed in 0..500 {
        let mut ops = sequential(seed);
        let end = ops.len() - 1;
        let mut shown = numbers(&ops[end].value).expect("elements");
        let certain = |op: &&Op| op.f == F::Remove && op.outcome == Outcome::Info;
        if shown.is_empty() || ops.iter().any(|op| certain(&op)) {
            continue;
        }
        let lost = shown.pop().expect("not empty");
        let add = ops.iter().find(|op| op.f == F::Add && op.value == lost);
        if !add.expect("somebody added it").is_ok() {
            continue;
        }
        ops[end].value = shown.into();
        assert!(!judge(&ops).is_empty(), "seed {seed}: {lost} is missing");
        found += 1;
    }
    assert!(found > 50, "{found}");
}
