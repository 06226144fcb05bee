//! Large objects and the read-back at the end: every key that was ever written is read once more, and holds what the
//! acknowledged writes left or one of unknown outcome.
//!
//! Owns the demand for a last look. That bytes are right is for the client to see, which knows what each write put
//! there: bytes of no write are recorded as `broken:wrong-bytes`. Which write it may be, the register's judges say.

use crate::history::{F, Op};
use crate::linear::{self, by_key};
use crate::verdict::Anomaly;

/// Every anomaly in the operations of one workload on registers or objects.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = linear::judge(ops);
    anomalies.extend(unread(ops));
    anomalies
}

/// Keys that may hold something and were not read at the end, or not to the end.
fn unread(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (key, ops) in by_key(ops) {
        let writes = |op: &&&Op| op.f != F::Read && op.may_count();
        let Some(write) = ops.iter().find(writes) else {
            continue;
        };
        let last = |op: &&&Op| op.f == F::Read && op.last;
        if ops.iter().filter(last).any(|read| read.is_ok()) {
            continue;
        }
        let what = match ops.iter().find(last) {
            None => "was written and not read at the end",
            Some(_) => "could not be read at the end",
        };
        let shown = ops.iter().filter(|op| op.last).take(1);
        let history = std::iter::once(write).chain(shown).copied();
        anomalies.push(Anomaly::new(format!("{key} {what}"), history));
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fail, info, ok};

    fn last(op: Op) -> Op {
        Op { last: true, ..op }
    }

    #[test]
    fn an_object_read_back_is_well() {
        let ops = [ok(1, F::Write, 1, 0, 1), last(ok(2, F::Read, 1, 5, 6))];
        assert_eq!(judge(&ops), []);
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not() {
        for found in [serde_json::json!(1), serde_json::json!(2)] {
            let ops = [
                ok(1, F::Write, 1, 0, 1),
                info(2, F::Write, 2, 2),
                last(ok(3, F::Read, found, 5, 6)),
            ];
            assert_eq!(judge(&ops), []);
        }
    }

    #[test]
    fn a_lost_object_is_found() {
        let nothing = serde_json::Value::Null;
        let ops = [
            ok(1, F::Write, 1, 0, 1),
            last(ok(2, F::Read, nothing, 5, 6)),
        ];
        assert_eq!(judge(&ops).len(), 1);
    }

    #[test]
    fn a_key_that_nobody_could_read_at_the_end_is_an_anomaly() {
        let written = ok(1, F::Write, 1, 0, 1);
        let unread = judge(&[written.clone(), ok(2, F::Read, 1, 5, 6)]);
        assert!(unread[0].what.contains("not read at the end"));
        let nothing = serde_json::Value::Null;
        let failed = last(fail(2, F::Read, nothing, 5, 6));
        let unreadable = judge(&[written, failed]);
        assert!(unreadable[0].what.contains("could not be read"));
    }
}
