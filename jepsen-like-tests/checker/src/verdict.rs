//! What a judge says of a history.
//!
//! Owns the rule that a verdict on nothing is no verdict: a history is valid only if nothing in it is wrong and
//! enough of each kind of operation was acknowledged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{BROKEN, F, Op, Outcome, Workload};

/// Anomalies kept with their histories; more are counted.
pub const ANOMALIES_MAX: usize = 32;
/// Operations shown with one anomaly.
pub const SHOWN_MAX: usize = 64;

/// Something that was promised and not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// What is wrong, for people.
    pub what: String,
    /// The operations that show it, as few as were cheap to find.
    pub history: Vec<Op>,
}

impl Anomaly {
    /// With the operations that show it.
    pub fn new<'a>(what: impl Into<String>, history: impl IntoIterator<Item = &'a Op>) -> Self {
        Self {
            what: what.into(),
            history: history.into_iter().take(SHOWN_MAX).cloned().collect(),
        }
    }
}

/// How operations of one kind ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Acknowledged.
    pub ok: u64,
    /// Without effect.
    pub fail: u64,
    /// Unknown.
    pub info: u64,
}

/// A kind of operation of which too few were acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Which.
    pub f: F,
    /// How many were.
    pub ok: u64,
    /// How many it takes.
    pub needed: u64,
}

/// How many operations must have been acknowledged for a verdict to mean something.
pub type Needed<'a> = &'a [(F, u64)];

/// What a judge says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Of which workload.
    pub workload: Workload,
    /// Nothing is wrong and there was enough to judge.
    pub valid: bool,
    /// Operations judged.
    pub operations: u64,
    /// Of these, acknowledged.
    pub ok: u64,
    /// Of these, without effect.
    pub fail: u64,
    /// Of these, unknown.
    pub info: u64,
    /// The same by kind.
    pub by_kind: BTreeMap<F, Counts>,
    /// What there was too little of.
    pub shortfalls: Vec<Shortfall>,
    /// How many anomalies were found.
    pub found: u64,
    /// The first of them.
    pub anomalies: Vec<Anomaly>,
}

impl Verdict {
    /// Counts the operations, adds those that break a promise by themselves, and compares with what is needed.
    pub fn new(workload: Workload, ops: &[Op], needed: Needed<'_>, found: Vec<Anomaly>) -> Self {
        let mut by_kind: BTreeMap<F, Counts> = BTreeMap::new();
        let mut all = Counts::default();
        for op in ops {
            for counts in [&mut all, by_kind.entry(op.f).or_default()] {
                match op.outcome {
                    Outcome::Ok => counts.ok += 1,
                    Outcome::Fail => counts.fail += 1,
                    Outcome::Info => counts.info += 1,
                }
            }
        }
        let short = |(f, needed): &(F, u64)| {
            let ok = by_kind.get(f).map_or(0, |counts| counts.ok);
            (ok < *needed).then_some(Shortfall {
                f: *f,
                ok,
                needed: *needed,
            })
        };
        let shortfalls: Vec<_> = needed.iter().filter_map(short).collect();
        let mut anomalies: Vec<_> = ops.iter().filter_map(broken).collect();
        anomalies.extend(found);
        let found = anomalies.len() as u64;
        anomalies.truncate(ANOMALIES_MAX);
        Self {
            workload,
            valid: shortfalls.is_empty() && found == 0,
            operations: ops.len() as u64,
            ok: all.ok,
            fail: all.fail,
            info: all.info,
            by_kind,
            shortfalls,
            found,
            anomalies,
        }
    }
}

/// What a client saw that is wrong by itself.
fn broken(op: &Op) -> Option<Anomaly> {
    let error = op.error.as_deref()?.strip_prefix(BROKEN)?;
    Some(Anomaly::new(format!("{} answered {error}", op.key), [op]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fail, info, ok};

    #[test]
    fn a_verdict_on_nothing_is_not_valid() {
        let needed = [(F::Write, 1)];
        let verdict = Verdict::new(Workload::Register, &[], &needed, Vec::new());
        assert!(!verdict.valid);
        assert_eq!(verdict.shortfalls[0].needed, 1);
    }

    #[test]
    fn failed_and_unknown_operations_cover_nothing() {
        let ops = [fail(1, F::Write, 1, 0, 1), info(2, F::Write, 2, 0)];
        let needed = [(F::Write, 1)];
        let verdict = Verdict::new(Workload::Register, &ops, &needed, Vec::new());
        assert!(!verdict.valid);
        assert_eq!((verdict.ok, verdict.fail, verdict.info), (0, 1, 1));
    }

    #[test]
    fn an_operation_that_saw_wrong_bytes_is_an_anomaly_by_itself() {
        let mut op = fail(1, F::Read, 1, 0, 1);
        op.error = Some("broken:wrong-bytes".to_owned());
        let verdict = Verdict::new(
            Workload::Register,
            &[ok(2, F::Write, 1, 0, 1), op],
            &[],
            Vec::new(),
        );
        assert!(!verdict.valid);
        assert!(verdict.anomalies[0].what.contains("wrong-bytes"));
    }
}
