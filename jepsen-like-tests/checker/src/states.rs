//! Key states: after an acknowledged disable nothing is opened, leased or committed until somebody may have enabled
//! the key again; versions never go back, and each comes from a rotation that was asked for.
//!
//! Owns which uses a disable forbids: opens and leases once it is acknowledged, commits once the dataset's shard has
//! confirmed it (DESIGN section 5, "Disable is acknowledged once …; without a shard quorum the answer is pending").
//! A refused enable counts as one that may have happened: a second try of an enable that took effect is refused.

use serde::{Deserialize, Serialize};

use crate::history::{F, Op};
use crate::linear::by_key;
use crate::verdict::Anomaly;

/// What the KMS answers to a change of a key, and to a question about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyAnswer {
    /// The number of the key's state: one more with each change.
    pub state_version: u64,
    /// The key's current version.
    pub kek_version: u64,
    /// The key may be used.
    pub enabled: bool,
    /// The dataset's shard has committed this state.
    pub confirmed: bool,
}

/// Every anomaly in the operations of one workload; each key is a dataset.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (dataset, ops) in by_key(ops) {
        let answers = match answers(dataset, &ops) {
            Ok(answers) => answers,
            Err(anomaly) => {
                anomalies.push(anomaly);
                continue;
            }
        };
        used_while_disabled(dataset, &ops, &answers, &mut anomalies);
        gone_back(dataset, answers.clone(), &mut anomalies);
        rotations(dataset, &ops, &answers, &mut anomalies);
    }
    anomalies
}

type Answered<'a> = Vec<(&'a Op, KeyAnswer)>;

fn answers<'a>(dataset: &str, ops: &[&'a Op]) -> Result<Answered<'a>, Anomaly> {
    let mut answers = Vec::new();
    for op in ops {
        match op.f {
            F::Disable | F::Enable | F::Rotate | F::KeyInfo if op.is_ok() => {
                let answer = serde_json::from_value(op.value.clone()).map_err(|_| {
                    Anomaly::new(format!("{dataset}: an answer that is no key's"), [*op])
                })?;
                answers.push((*op, answer));
            }
            F::Disable | F::Enable | F::Rotate | F::KeyInfo => {}
            F::Put | F::Open | F::Lease => {}
            _ => {
                let what = format!("{dataset}: an operation no key has");
                return Err(Anomaly::new(what, [*op]));
            }
        }
    }
    Ok(answers)
}

fn used_while_disabled(
    dataset: &str,
    ops: &[&Op],
    answers: &[(&Op, KeyAnswer)],
    anomalies: &mut Vec<Anomaly>,
) {
    let enables: Vec<_> = ops.iter().filter(|op| op.f == F::Enable).collect();
    let disables = answers.iter().filter(|(op, _)| op.f == F::Disable);
    let disables: Vec<_> = disables.collect();
    for used in ops.iter().filter(|op| op.is_ok()) {
        let needs_shard = match used.f {
            F::Open | F::Lease => false,
            F::Put => true,
            _ => continue,
        };
        for (disable, answer) in &disables {
            let stops = disable.before(used) && (answer.confirmed || !needs_shard);
            // Only an enable that had ended before the disable began, or began after the use, did surely not help.
            let helps = |enable: &&&&Op| !enable.before(disable) && !used.before(enable);
            if stops && !enables.iter().any(|enable| helps(&enable)) {
                let what = match used.f {
                    F::Open => "an object was opened",
                    F::Lease => "a lease was issued",
                    _ => "an object was committed",
                };
                let what = format!("{dataset}: {what} after the key was disabled");
                anomalies.push(Anomaly::new(what, [*disable, *used]));
                break;
            }
        }
    }
}

/// Numbers of an answer are not below those of an answer that was there before it was asked for.
fn gone_back(dataset: &str, mut answers: Answered<'_>, anomalies: &mut Vec<Anomaly>) {
    let mut ended = answers.clone();
    answers.sort_by_key(|(op, _)| op.call);
    ended.sort_by_key(|(op, _)| op.end());
    let mut ended = ended.into_iter().peekable();
    let mut highest: [Option<(&Op, u64)>; 2] = [None, None];
    for (op, answer) in answers {
        while let Some((earlier, said)) = ended.next_if(|(other, _)| other.before(op)) {
            for (highest, said) in highest.iter_mut().zip(numbers(said)) {
                if highest.is_none_or(|(_, held)| held < said) {
                    *highest = Some((earlier, said));
                }
            }
        }
        let names = ["state", "key"];
        for ((highest, says), name) in highest.iter().zip(numbers(answer)).zip(names) {
            if let Some((earlier, held)) = highest.filter(|(_, held)| *held > says) {
                let what = format!("{dataset}: {name} version {says} after {held}");
                anomalies.push(Anomaly::new(what, [earlier, op]));
            }
        }
    }
}

fn numbers(answer: KeyAnswer) -> [u64; 2] {
    [answer.state_version, answer.kek_version]
}

/// A key of version n was rotated n-1 times, and everybody who was told so is among those who asked.
fn rotations(
    dataset: &str,
    ops: &[&Op],
    answers: &[(&Op, KeyAnswer)],
    anomalies: &mut Vec<Anomaly>,
) {
    let Some((op, last)) = answers.iter().rfind(|(op, _)| op.last) else {
        if let Some(op) = ops.iter().find(|op| op.f == F::Rotate && op.may_count()) {
            let what = format!("{dataset}: the key was not asked for at the end");
            anomalies.push(Anomaly::new(what, [*op]));
        }
        return;
    };
    let rotations = || ops.iter().filter(|op| op.f == F::Rotate);
    let done = rotations().filter(|op| op.is_ok()).count() as u64;
    let maybe = rotations().filter(|op| op.may_count()).count() as u64;
    let rotated = last.kek_version.saturating_sub(1);
    if rotated < done || rotated > maybe {
        let what = format!(
            "{dataset}: the key was rotated {rotated} times; {maybe} rotations were asked for and {done} acknowledged"
        );
        let history = rotations().filter(|op| op.may_count()).copied();
        anomalies.push(Anomaly::new(what, std::iter::once(*op).chain(history)));
    }
}

#[cfg(test)]
mod tests;
