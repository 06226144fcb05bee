//! Conditions: every change says what it takes the place of, and of those that say the same one wins.
//!
//! Owns the count of winners. Whether what was answered fits one order of time, the register's judges say. Refuses a
//! change without a condition: it would excuse a loser.

use std::collections::BTreeMap;

use crate::history::{F, Op};
use crate::linear::by_key;
use crate::verdict::Anomaly;
use crate::{blocks, number};

/// Every anomaly in the operations of one workload.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (key, ops) in by_key(ops) {
        anomalies.extend(winners(key, &ops));
    }
    anomalies.extend(blocks::judge(ops));
    anomalies
}

/// A number is written once, so it is there once and is replaced or removed once.
fn winners(key: &str, ops: &[&Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut won: BTreeMap<u64, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        match (op.f, number(&op.old)) {
            (F::Read | F::Create, _) => {}
            (F::Cas | F::DeleteIf, Some(old)) if op.is_ok() => won.entry(old).or_default().push(op),
            (F::Cas | F::DeleteIf, Some(_)) => {}
            _ => anomalies.push(Anomaly::new(
                format!("{key}: a change without a condition"),
                [*op],
            )),
        }
    }
    for (old, won) in won.into_iter().filter(|(_, won)| won.len() > 1) {
        let what = format!("{key}: {} changes each took the place of {old}", won.len());
        anomalies.push(Anomaly::new(what, won));
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{because, fail, given, info, ok};

    fn nothing() -> serde_json::Value {
        serde_json::Value::Null
    }

    fn last(op: Op) -> Op {
        Op { last: true, ..op }
    }

    #[test]
    fn one_winner_and_a_loser_who_was_told_are_well() {
        let ops = [
            ok(1, F::Create, 1, 0, 10),
            given(1, ok(1, F::Cas, 2, 20, 40)),
            because("precondition-failed", given(1, fail(2, F::Cas, 3, 25, 45))),
            given(2, ok(1, F::DeleteIf, nothing(), 50, 60)),
            ok(2, F::Create, 4, 61, 70),
            last(ok(3, F::Read, 4, 80, 90)),
        ];
        assert_eq!(judge(&ops), []);
    }

    #[test]
    fn two_winners_of_one_condition_are_found() {
        let both = |second| {
            let ops = [
                ok(1, F::Create, 1, 0, 10),
                given(1, ok(1, F::Cas, 2, 20, 40)),
                given(1, second),
                last(ok(3, F::Read, 2, 80, 90)),
            ];
            judge(&ops)
        };
        for second in [
            ok(2, F::Cas, 3, 25, 45),
            ok(2, F::DeleteIf, nothing(), 25, 45),
        ] {
            assert!(both(second)[0].what.contains("2 changes each"));
        }
        assert_eq!(both(info(2, F::Cas, 3, 25)), []);
    }

    #[test]
    fn two_that_created_what_was_there_once_are_found() {
        let ops = [
            ok(1, F::Create, 1, 0, 10),
            ok(2, F::Create, 2, 5, 15),
            last(ok(3, F::Read, 2, 80, 90)),
        ];
        assert_eq!(judge(&ops).len(), 1);
    }

    #[test]
    fn a_change_without_a_condition_is_none_of_this_history() {
        let ops = [ok(1, F::Write, 1, 0, 10), last(ok(3, F::Read, 1, 80, 90))];
        assert!(judge(&ops)[0].what.contains("without a condition"));
    }
}
