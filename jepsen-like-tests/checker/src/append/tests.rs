use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::testing::{fail, info, ok};

fn versions(client: u64, versions: &[u64], call: u64, ret: u64) -> Op {
    ok(client, F::Versions, versions.to_vec(), call, ret)
}

fn last(op: Op) -> Op {
    Op { last: true, ..op }
}

fn only(ops: &[Op]) -> String {
    let anomalies = judge(ops);
    assert!(!anomalies.is_empty(), "nothing found in {ops:#?}");
    anomalies[0].what.clone()
}

#[test]
fn versions_in_the_order_of_time_are_well() {
    let ops = [
        ok(1, F::Append, 1, 0, 10),
        ok(2, F::Append, 2, 5, 20),
        info(3, F::Append, 3, 6),
        versions(4, &[2], 6, 9),
        ok(1, F::Append, 4, 30, 40),
        versions(4, &[2, 1], 21, 29),
        last(versions(4, &[2, 1, 3, 4], 50, 60)),
    ];
    assert_eq!(judge(&ops), []);
}

#[test]
fn a_missing_version_is_found() {
    let ops = [
        ok(1, F::Append, 1, 0, 10),
        ok(1, F::Append, 2, 20, 30),
        last(versions(4, &[2], 50, 60)),
    ];
    assert!(only(&ops).contains("version 1 is missing"));
}

#[test]
fn a_duplicate_version_is_found() {
    let ops = [
        ok(1, F::Append, 1, 0, 10),
        last(versions(4, &[1, 1], 50, 60)),
    ];
    assert!(only(&ops).contains("twice"));
}

#[test]
fn a_phantom_and_a_refused_version_are_found() {
    assert!(only(&[last(versions(4, &[1], 50, 60))]).contains("never appended"));
    let refused = [
        fail(1, F::Append, 1, 0, 10),
        last(versions(4, &[1], 50, 60)),
    ];
    assert!(only(&refused).contains("refused"));
}

#[test]
fn an_order_against_time_is_found() {
    let ops = [
        ok(1, F::Append, 1, 0, 10),
        ok(1, F::Append, 2, 20, 30),
        last(versions(4, &[2, 1], 50, 60)),
    ];
    assert!(only(&ops).contains("stands after a later one"));
}

#[test]
fn lists_that_contradict_each_other_are_found() {
    let ops = [
        ok(1, F::Append, 1, 0, 100),
        ok(2, F::Append, 2, 0, 100),
        versions(3, &[1], 10, 20),
        last(versions(3, &[2, 1], 200, 210)),
    ];
    assert!(only(&ops).contains("contradict"));
}

#[test]
fn a_version_that_vanishes_is_found() {
    let ops = [
        info(1, F::Append, 1, 0),
        versions(3, &[1], 10, 20),
        last(versions(3, &[], 30, 40)),
    ];
    assert!(only(&ops).contains("no one moment"));
}

#[test]
fn a_key_that_nobody_looked_at_in_the_end_is_an_anomaly() {
    let ops = [ok(1, F::Append, 1, 0, 10), versions(4, &[1], 50, 60)];
    assert!(only(&ops).contains("not listed at the end"));
}

/// What a list that does one thing after the other would have shown, with calls and returns around each moment.
fn sequential(seed: u64) -> Vec<Op> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut held, mut ops) = (Vec::new(), Vec::new());
    for n in 0..rng.random_range(1..60) {
        let at = 1_000 + 10 * n;
        let (call, ret) = (at - rng.random_range(0..40), at + rng.random_range(0..40));
        if rng.random() {
            ops.push(versions(n, &held, call, ret));
            continue;
        }
        let unknown = rng.random_range(0..8) == 0;
        ops.push(match unknown {
            true => info(n, F::Append, n, call),
            false => ok(n, F::Append, n, call, ret),
        });
        if !unknown || rng.random() {
            held.push(n);
        }
    }
    ops.push(last(versions(9_999, &held, 90_000, 90_001)));
    ops
}

#[test]
fn what_a_list_would_have_shown_is_well() {
    for seed in 0..2_000 {
        assert_eq!(judge(&sequential(seed)), [], "seed {seed}");
    }
}

/// A list that is otherwise well and shows one version less, one twice, or two in the other order.
#[test]
fn one_wrong_version_is_found() {
    let mut found = 0;
    for seed in 0..2_000 {
        let mut ops = sequential(seed);
        let end = ops.len() - 1;
        let mut shown = numbers(&ops[end].value).expect("versions");
        if ops.iter().any(|op| op.ret.is_none()) || shown.len() < 10 {
            continue;
        }
        match seed % 3 {
            0 => drop(shown.remove(4)),
            1 => shown.insert(7, shown[2]),
            // Far enough apart to have followed each other in time.
            _ => shown.swap(0, 9),
        }
        ops[end].value = shown.into();
        assert!(!judge(&ops).is_empty(), "seed {seed}");
        found += 1;
    }
    assert!(found > 50, "{found}");
}
