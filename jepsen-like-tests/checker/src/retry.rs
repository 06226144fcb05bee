//! Requests that were sent more than once, at the same time or long after: one effect, one answer.
//!
//! Owns what sends of one request have to do with each other. That the effect is there, once, and at a time between
//! the first send and the first answer is what [`append`] judges of it as an append, and [`blocks`] as a write on keys
//! that hold one version.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::history::{F, Op, Outcome, UNAVAILABLE};
use crate::verdict::Anomaly;
use crate::{append, blocks, number};

/// Refusals that are kept under the request id and so are an answer for ever.
const FINAL: [&str; 2] = ["precondition-failed", "no-such-object"];
/// Of an answered request these may still be said: they are about the one who sends, or the disk, and come first.
const BEFORE_ALL: [&str; 3] = ["disk-full", "not-granted", "unauthenticated"];

/// Every anomaly in the operations of one workload. Each `send` names its request in `old`, which is also the number
/// that the request appends, or writes where its key is read and not listed.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut requests: BTreeMap<(&str, u64), Vec<&Op>> = BTreeMap::new();
    let plain = |op: &&Op| matches!(op.f, F::Read | F::Write);
    let plain: BTreeSet<&str> = ops.iter().filter(plain).map(|op| op.key.as_str()).collect();
    let (mut appends, mut registers) = (Vec::new(), Vec::new());
    for op in ops {
        if op.f == F::Send {
            match number(&op.old) {
                Some(request) => requests.entry((&op.key, request)).or_default().push(op),
                None => anomalies.push(Anomaly::new(format!("{}: no request", op.key), [op])),
            }
        } else if plain.contains(op.key.as_str()) {
            registers.push(op.clone());
        } else {
            appends.push(op.clone());
        }
    }
    for ((key, request), sends) in requests {
        if let Some(what) = contradiction(&sends) {
            let what = format!("{key}: request {request} {what}");
            anomalies.push(Anomaly::new(what, sends.iter().copied()));
        }
        if plain.contains(key) {
            registers.extend(as_one(request, F::Write, &sends));
        } else {
            appends.extend(as_one(request, F::Append, &sends));
        }
    }
    anomalies.extend(append::judge(&appends));
    anomalies.extend(blocks::judge(&registers));
    anomalies
}

fn contradiction(sends: &[&Op]) -> Option<&'static str> {
    let mut answers = sends.iter().filter(|send| send.is_ok());
    let first = answers.clone().min_by_key(|send| send.end())?;
    if answers.any(|other| other.value != first.value) {
        return Some("was answered in two ways");
    }
    if sends.iter().any(|send| is_final(send)) {
        return Some("was both done and refused");
    }
    let forgotten = |send: &&&Op| {
        let error = send.error.as_deref().unwrap_or_default();
        let refused = send.outcome == Outcome::Fail && first.before(send);
        refused && !error.starts_with(UNAVAILABLE) && !BEFORE_ALL.contains(&error)
    };
    let forgotten = sends.iter().any(|send| forgotten(&send));
    forgotten.then_some("was refused after it had been answered")
}

fn is_final(send: &Op) -> bool {
    FINAL.iter().any(|reason| send.refused(reason))
}

/// All sends of a request as the one operation they are.
fn as_one(request: u64, f: F, sends: &[&Op]) -> Option<Op> {
    let first = sends.iter().min_by_key(|send| send.call)?;
    let answered = sends.iter().filter(|send| send.is_ok());
    let answered = answered.filter_map(|send| send.ret).min();
    let refused = sends.iter().filter(|send| is_final(send));
    let refused = refused.filter_map(|send| send.ret).min();
    // A refusal that is not kept leaves a copy free that is still under way.
    let (outcome, ret) = match (answered, refused) {
        (Some(ret), _) => (Outcome::Ok, Some(ret)),
        (None, Some(ret)) => (Outcome::Fail, Some(ret)),
        (None, None) => (Outcome::Info, None),
    };
    Some(Op {
        f,
        value: request.into(),
        old: Value::Null,
        ret,
        outcome,
        error: None,
        ..(*first).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{because, fail, given, info, ok};

    fn listed(client: u64, versions: &[u64], call: u64, ret: u64) -> Op {
        Op {
            last: true,
            ..ok(client, F::Versions, versions.to_vec(), call, ret)
        }
    }

    #[test]
    fn a_request_sent_often_and_done_once_is_well() {
        let ops = [
            given(1, ok(1, F::Send, "v1", 0, 10)),
            given(1, ok(2, F::Send, "v1", 1, 9)),
            given(1, info(3, F::Send, "", 2)),
            ok(4, F::Append, 2, 11, 12),
            given(1, ok(5, F::Send, "v1", 20, 30)),
            listed(6, &[1, 2], 40, 50),
        ];
        assert_eq!(judge(&ops), []);
    }

    #[test]
    fn two_answers_to_one_request_are_found() {
        let ops = [
            given(1, ok(1, F::Send, "v1", 0, 10)),
            given(1, ok(2, F::Send, "v2", 1, 9)),
            listed(6, &[1], 40, 50),
        ];
        assert!(judge(&ops)[0].what.contains("in two ways"));
    }

    #[test]
    fn a_request_done_twice_is_found() {
        let ops = [
            given(1, ok(1, F::Send, "v1", 0, 10)),
            given(1, ok(2, F::Send, "v1", 20, 30)),
            listed(6, &[1, 1], 40, 50),
        ];
        assert!(judge(&ops)[0].what.contains("twice"));
    }

    #[test]
    fn a_late_retry_that_takes_effect_again_is_found() {
        let ops = [
            given(1, ok(1, F::Send, "v1", 0, 10)),
            ok(4, F::Append, 2, 11, 12),
            given(1, ok(5, F::Send, "v1", 20, 30)),
            listed(6, &[2, 1], 40, 50),
        ];
        assert!(!judge(&ops).is_empty());
    }

    #[test]
    fn a_refused_request_that_took_effect_is_found() {
        let refused = because("precondition-failed", given(1, fail(1, F::Send, "", 0, 10)));
        let both = [
            refused.clone(),
            given(1, ok(2, F::Send, "v1", 1, 9)),
            listed(6, &[1], 40, 50),
        ];
        assert!(judge(&both)[0].what.contains("both"));
        assert!(!judge(&[refused, listed(6, &[1], 40, 50)]).is_empty());
    }

    #[test]
    fn a_refusal_that_is_not_kept_leaves_the_outcome_open() {
        let busy = because("not-leader", given(1, fail(1, F::Send, "", 0, 10)));
        for found in [&[][..], &[1]] {
            assert_eq!(judge(&[busy.clone(), listed(6, found, 40, 50)]), []);
        }
    }

    #[test]
    fn an_acknowledged_request_without_effect_is_found() {
        let ops = [
            given(1, ok(1, F::Send, "v1", 0, 10)),
            listed(6, &[], 40, 50),
        ];
        assert!(judge(&ops)[0].what.contains("missing"));
    }

    #[test]
    fn an_answered_request_that_is_then_refused_is_found() {
        let late = |reason| {
            let ops = [
                given(1, ok(1, F::Send, "v1", 0, 10)),
                because(reason, given(1, fail(2, F::Send, "", 20, 30))),
                listed(6, &[1], 40, 50),
            ];
            judge(&ops)
        };
        assert!(
            late("version-id-reused")[0]
                .what
                .contains("had been answered")
        );
        for excused in ["unavailable:not-leader", "disk-full"] {
            assert_eq!(late(excused), [], "{excused}");
        }
    }

    /// On a key of one version an effect that comes again brings back what was replaced.
    #[test]
    fn a_late_retry_that_writes_again_is_found() {
        let seen = |number: u64| {
            let read = ok(7, F::Read, number, 40, 50);
            let ops = [
                given(1, ok(1, F::Send, "v1", 0, 10)),
                ok(4, F::Write, 2, 11, 12),
                given(1, ok(5, F::Send, "v1", 20, 30)),
                Op { last: true, ..read },
            ];
            judge(&ops)
        };
        assert_eq!(seen(2), []);
        assert_eq!(seen(1).len(), 1);
    }
}
