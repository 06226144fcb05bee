use super::*;
use crate::testing::{fail, info, ok};

fn answer(f: F, state_version: u64, kek_version: u64, call: u64, ret: u64) -> Op {
    let answer = KeyAnswer {
        state_version,
        kek_version,
        enabled: f != F::Disable,
        confirmed: true,
    };
    let value = serde_json::to_value(answer).expect("plain data");
    ok(1, f, value, call, ret)
}

fn pending(op: Op) -> Op {
    let mut op = op;
    op.value["confirmed"] = false.into();
    op
}

fn nothing() -> serde_json::Value {
    serde_json::Value::Null
}

fn used(f: F, call: u64, ret: u64) -> Op {
    ok(7, f, nothing(), call, ret)
}

const USES: [F; 3] = [F::Put, F::Open, F::Lease];

#[test]
fn use_before_during_and_after_a_disable_is_well() {
    for f in USES {
        let ops = [
            used(f, 0, 5),
            used(f, 9, 15),
            answer(F::Disable, 2, 1, 10, 20),
            fail(8, f, nothing(), 21, 25),
            answer(F::Enable, 3, 1, 30, 40),
            used(f, 29, 35),
            used(f, 50, 60),
        ];
        assert_eq!(judge(&ops), []);
    }
}

#[test]
fn use_after_an_acknowledged_disable_is_found() {
    for f in USES {
        let ops = [
            answer(F::Disable, 2, 1, 10, 20),
            used(f, 21, 25),
            answer(F::Enable, 3, 1, 30, 40),
        ];
        assert!(judge(&ops)[0].what.contains("after the key was disabled"));
    }
}

#[test]
fn a_pending_disable_stops_opens_and_leases_alone() {
    let disable = pending(answer(F::Disable, 2, 1, 10, 20));
    assert_eq!(judge(&[disable.clone(), used(F::Put, 21, 25)]), []);
    assert_eq!(judge(&[disable.clone(), used(F::Open, 21, 25)]).len(), 1);
    assert_eq!(judge(&[disable, used(F::Lease, 21, 25)]).len(), 1);
}

#[test]
fn an_enable_that_may_have_happened_excuses() {
    let disable = answer(F::Disable, 2, 1, 10, 20);
    let unknown = info(3, F::Enable, nothing(), 19);
    assert_eq!(
        judge(&[disable.clone(), unknown, used(F::Open, 50, 60)]),
        []
    );
    let refused = fail(3, F::Enable, nothing(), 30, 40);
    assert_eq!(
        judge(&[disable.clone(), refused, used(F::Open, 50, 60)]),
        []
    );
    let before = answer(F::Enable, 1, 1, 0, 5);
    assert_eq!(judge(&[before, disable, used(F::Open, 50, 60)]).len(), 1);
}

#[test]
fn versions_that_go_back_are_found() {
    let state = [
        answer(F::KeyInfo, 5, 2, 0, 10),
        answer(F::KeyInfo, 4, 2, 20, 30),
    ];
    assert!(judge(&state)[0].what.contains("state version 4 after 5"));
    let key = [
        answer(F::KeyInfo, 5, 2, 0, 10),
        answer(F::KeyInfo, 5, 1, 20, 30),
    ];
    assert!(judge(&key)[0].what.contains("key version 1 after 2"));
    let at_once = [
        answer(F::KeyInfo, 5, 2, 0, 10),
        answer(F::KeyInfo, 4, 1, 9, 30),
    ];
    assert_eq!(judge(&at_once), []);
}

#[test]
fn rotations_are_those_that_were_asked_for() {
    let end = |kek_version| Op {
        last: true,
        ..answer(F::KeyInfo, 9, kek_version, 90, 91)
    };
    let rotated = answer(F::Rotate, 3, 2, 0, 10);
    let unknown = info(5, F::Rotate, nothing(), 20);
    for kek_version in [2, 3] {
        assert_eq!(
            judge(&[rotated.clone(), unknown.clone(), end(kek_version)]),
            []
        );
    }
    for kek_version in [1, 4] {
        let ops = [rotated.clone(), unknown.clone(), end(kek_version)];
        let found = judge(&ops);
        let rotations = found
            .iter()
            .filter(|a| a.what.contains("rotations were asked for"));
        assert_eq!(rotations.count(), 1, "{found:#?}");
    }
    assert_eq!(judge(&[rotated]).len(), 1, "nobody looked at the end");
}
