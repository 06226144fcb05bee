//! Histories of what clients saw, and the judges of them.
//!
//! Owns the format of a history ([`history`]), a judge for each promise, and what a judge says ([`verdict`]). Refuses
//! to excuse: an outcome that is not known may be either, everything else counts; a judge that does not finish, two
//! judges that disagree and a history too short to mean anything are failures. Knows nothing of the product: it reads
//! what was recorded, so other programs can judge the same file (`jepsen-like-tests/README.md`).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

pub mod append;
pub mod blocks;
pub mod conditions;
pub mod history;
pub mod linear;
pub mod locks;
pub mod parts;
pub mod records;
pub mod replicas;
pub mod retry;
pub mod set;
mod snapshot;
pub mod states;
pub mod verdict;

#[cfg(test)]
mod testing;

pub use history::{BROKEN, F, HistoryError, Op, Outcome, Reader, UNAVAILABLE, Workload};
pub use verdict::{Anomaly, Needed, Verdict};

/// What the workload's judge says of its operations; others must not be among them.
pub fn judge(workload: Workload, ops: &[Op], needed: Needed<'_>) -> Verdict {
    let found = match workload {
        Workload::Register | Workload::Blocks => blocks::judge(ops),
        Workload::Set => set::judge(ops),
        Workload::Append => append::judge(ops),
        Workload::Retry => retry::judge(ops),
        Workload::KeyStates => states::judge(ops),
        Workload::Records => records::judge(ops),
        Workload::Conditions => conditions::judge(ops),
        Workload::Parts => parts::judge(ops),
        Workload::Locks => locks::judge(ops),
        Workload::Replicas => replicas::judge(ops),
    };
    Verdict::new(workload, ops, needed, found)
}

/// A file's operations by workload.
pub fn read_file(path: &Path) -> Result<BTreeMap<Workload, Vec<Op>>, HistoryError> {
    let mut ops: BTreeMap<Workload, Vec<Op>> = BTreeMap::new();
    for op in Reader::open(path)? {
        let op = op?;
        ops.entry(op.workload).or_default().push(op);
    }
    Ok(ops)
}

/// What the judges say of a file: one verdict for each workload in it. `needed` says what it takes to judge one.
pub fn judge_file(
    path: &Path,
    needed: impl Fn(Workload) -> Vec<(F, u64)>,
) -> Result<Vec<Verdict>, HistoryError> {
    let workloads = read_file(path)?;
    let verdict = |(workload, ops): (Workload, Vec<Op>)| judge(workload, &ops, &needed(workload));
    Ok(workloads.into_iter().map(verdict).collect())
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64()
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(Value::as_u64).collect()
}
