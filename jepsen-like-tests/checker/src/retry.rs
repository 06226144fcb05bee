//! Requests that were sent more than once, at the same time or long after: one effect, one answer.
//!
//! Owns what sends of one request have to do with each other. That the effect is there, once, and at a time between
//! the first send and the first answer is what [`append`] judges of it as an append.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::append;
use crate::history::{F, Op, Outcome};
use crate::number;
use crate::verdict::Anomaly;

/// Refusals that are kept under the request id and so are an answer for ever.
const FINAL: [&str; 2] = ["precondition-failed", "no-such-object"];

/// Every anomaly in the operations of one workload. Each `send` names its request in `old`, which is also the value
/// that the request appends.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut requests: BTreeMap<(&str, u64), Vec<&Op>> = BTreeMap::new();
    let mut appends = Vec::new();
    for op in ops {
        if op.f != F::Send {
            appends.push(op.clone());
            continue;
        }
        match number(&op.old) {
            Some(request) => requests.entry((&op.key, request)).or_default().push(op),
            None => anomalies.push(Anomaly::new(format!("{}: no request", op.key), [op])),
        }
    }
    for ((key, request), sends) in requests {
        if let Some(what) = contradiction(&sends) {
            let what = format!("{key}: request {request} {what}");
            anomalies.push(Anomaly::new(what, sends.iter().copied()));
        }
        appends.extend(as_append(request, &sends));
    }
    anomalies.extend(append::judge(&appends));
    anomalies
}

fn contradiction(sends: &[&Op]) -> Option<&'static str> {
    let mut answers = sends.iter().filter(|send| send.is_ok());
    let refused = sends.iter().any(|send| is_final(send));
    let first = answers.next()?;
    if answers.any(|other| other.value != first.value) {
        return Some("was answered in two ways");
    }
    refused.then_some("was both done and refused")
}

fn is_final(send: &Op) -> bool {
    FINAL.iter().any(|reason| send.refused(reason))
}

/// All sends of a request as the one append they are.
fn as_append(request: u64, sends: &[&Op]) -> Option<Op> {
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
        f: F::Append,
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
}
