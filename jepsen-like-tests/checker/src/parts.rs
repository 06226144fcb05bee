//! Uploads in parts: each becomes one object, whole and once, or none, whoever asks for it and how often.
//!
//! Owns what all completions and aborts of one upload come to together: one write of a register. That its bytes are
//! those of its parts is for the client to see; which upload a read may see, the register's judges say.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::history::{F, Op, Outcome};
use crate::verdict::Anomaly;
use crate::{blocks, number};

/// Every anomaly in the operations of one workload.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let (mut anomalies, mut registers) = (Vec::new(), Vec::new());
    let mut uploads: BTreeMap<(&str, u64), Upload<'_>> = BTreeMap::new();
    for op in ops {
        let upload = number(&op.value).map(|number| (op.key.as_str(), number));
        match (op.f, upload) {
            (F::Complete, Some(upload)) => uploads.entry(upload).or_default().completes.push(op),
            (F::Abort, Some(upload)) => uploads.entry(upload).or_default().aborts.push(op),
            (F::Complete | F::Abort, None) => {
                anomalies.push(Anomaly::new(format!("{}: no upload", op.key), [op]));
            }
            _ => registers.push(op.clone()),
        }
    }
    for ((key, number), upload) in uploads {
        if upload.aborted() && upload.completes.iter().any(|op| op.is_ok()) {
            let what = format!("{key}: upload {number} was both completed and aborted");
            anomalies.push(Anomaly::new(what, upload.history()));
        }
        registers.extend(upload.as_one(number));
    }
    anomalies.extend(blocks::judge(&registers));
    anomalies
}

#[derive(Default)]
struct Upload<'a> {
    completes: Vec<&'a Op>,
    aborts: Vec<&'a Op>,
}

impl<'a> Upload<'a> {
    fn aborted(&self) -> bool {
        self.aborts.iter().any(|op| op.is_ok())
    }

    fn history(&self) -> impl Iterator<Item = &'a Op> {
        self.completes.iter().chain(&self.aborts).copied()
    }

    /// All completions as the one write they are; one that an abort forestalled was none, whatever its clients know.
    fn as_one(&self, upload: u64) -> Option<Op> {
        let first = self.completes.iter().min_by_key(|op| op.call)?;
        let done = self.completes.iter().filter(|op| op.is_ok());
        let done = done.filter_map(|op| op.ret).min();
        let open = self.completes.iter().any(|op| op.outcome == Outcome::Info);
        let ended = self.completes.iter().filter_map(|op| op.ret).max();
        let (outcome, ret) = match done {
            Some(ret) => (Outcome::Ok, Some(ret)),
            None if open && !self.aborted() => (Outcome::Info, None),
            None => (Outcome::Fail, Some(ended.unwrap_or(first.call))),
        };
        Some(Op {
            f: F::Write,
            value: upload.into(),
            old: Value::Null,
            ret,
            outcome,
            error: None,
            ..(*first).clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fail, info, ok};

    fn last(client: u64, found: impl Into<Value>) -> Op {
        Op {
            last: true,
            ..ok(client, F::Read, found, 800, 900)
        }
    }

    #[test]
    fn an_upload_that_two_complete_is_one_object() {
        let ops = [
            ok(1, F::Complete, 1, 0, 50),
            ok(2, F::Complete, 1, 10, 20),
            ok(3, F::Read, 1, 30, 40),
            ok(3, F::Complete, 2, 60, 70),
            fail(4, F::Complete, 2, 60, 90),
            ok(4, F::Abort, 3, 91, 92),
            last(5, 2),
        ];
        assert_eq!(judge(&ops), []);
    }

    #[test]
    fn an_upload_nobody_knows_the_end_of_may_be_there_or_not() {
        for found in [Value::Null, 1.into()] {
            assert_eq!(judge(&[info(1, F::Complete, 1, 0), last(2, found)]), []);
        }
    }

    #[test]
    fn an_upload_that_was_completed_and_aborted_is_found() {
        let ops = [
            ok(1, F::Complete, 1, 0, 50),
            ok(2, F::Abort, 1, 10, 20),
            last(5, 1),
        ];
        assert!(judge(&ops)[0].what.contains("both completed and aborted"));
    }

    #[test]
    fn an_aborted_upload_that_is_seen_is_found() {
        let ops = |end| [end, ok(2, F::Abort, 1, 10, 20), last(5, 1)];
        assert_eq!(judge(&ops(info(1, F::Complete, 1, 0))).len(), 1);
        assert_eq!(judge(&ops(fail(1, F::Complete, 1, 0, 5))).len(), 1);
    }

    #[test]
    fn a_refused_upload_that_is_seen_is_found() {
        assert_eq!(judge(&[fail(1, F::Complete, 1, 0, 5), last(5, 1)]).len(), 1);
    }

    #[test]
    fn an_upload_that_is_lost_or_comes_again_is_found() {
        let lost = [ok(1, F::Complete, 1, 0, 50), last(5, Value::Null)];
        assert_eq!(judge(&lost).len(), 1);
        let again = [
            ok(1, F::Complete, 1, 0, 50),
            ok(1, F::Complete, 2, 60, 70),
            ok(3, F::Complete, 1, 80, 90),
            last(5, 1),
        ];
        assert_eq!(judge(&again).len(), 1);
    }

    #[test]
    fn an_upload_without_a_number_is_no_operation_of_this_history() {
        assert!(
            judge(&[ok(1, F::Abort, Value::Null, 0, 1)])[0]
                .what
                .contains("no upload")
        );
    }
}
