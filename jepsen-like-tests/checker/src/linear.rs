//! Linearizability of one register a key, by two judges that share no code.
//!
//! Owns the splitting by key, the demand that both judges agree, and the smallest history that still shows what is
//! wrong. Refuses to pass what was not decided: a judge that ran out of time is an anomaly, and so are two judges of
//! different opinion.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::history::Op;
use crate::verdict::Anomaly;

mod judges;
mod minimise;
mod register;

use register::{Event, Step};

/// Time for one judge and one key. Workloads rotate keys so that milliseconds are enough.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time to make one anomaly smaller.
const MINIMISE: Duration = Duration::from_secs(20);
/// Anomalies that are made smaller; of more, the key's whole history would be shown cut.
const MINIMISED_MAX: usize = 4;

/// What a judge makes of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// There is an order.
    Legal,
    /// There is none.
    Illegal,
    /// Not decided in time.
    Unknown,
}

/// Every anomaly in the operations of one workload.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (key, ops) in by_key(ops) {
        let events = match events(&ops) {
            Ok(events) => events,
            Err(anomaly) => {
                anomalies.push(anomaly);
                continue;
            }
        };
        let found = agreed(&events, PATIENCE);
        let what = match found {
            (Judgement::Legal, Judgement::Legal) => continue,
            (Judgement::Illegal, Judgement::Illegal) => {
                format!("{key}: no order of its operations explains what was answered")
            }
            (porcupine, todc) => {
                format!("{key}: not decided: porcupine says {porcupine:?}, todc says {todc:?}")
            }
        };
        let shown = if found.0 == Judgement::Illegal && anomalies.len() < MINIMISED_MAX {
            minimise::smallest(events, Instant::now() + MINIMISE)
        } else {
            events
        };
        anomalies.push(Anomaly::new(what, shown.into_iter().map(|event| event.op)));
    }
    anomalies
}

/// What both judges make of one key's operations, porcupine's word first.
pub fn judge_key(ops: &[&Op], patience: Duration) -> Result<(Judgement, Judgement), Anomaly> {
    Ok(agreed(&events(ops)?, patience))
}

fn agreed(events: &[Event<'_>], patience: Duration) -> (Judgement, Judgement) {
    (
        judges::porcupine(events, patience),
        judges::todc(events, patience),
    )
}

/// What the judges look at: operations without effect and without a word about the register are left out.
fn events<'a>(ops: &[&'a Op]) -> Result<Vec<Event<'a>>, Anomaly> {
    let mut events = Vec::new();
    for op in ops {
        match Step::of(op) {
            Ok(Some(step)) => events.push(Event { op, step }),
            Ok(None) => {}
            Err(what) => return Err(Anomaly::new(what, [*op])),
        }
    }
    Ok(events)
}

pub(crate) fn by_key(ops: &[Op]) -> BTreeMap<&str, Vec<&Op>> {
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        keys.entry(&op.key).or_default().push(op);
    }
    keys
}

#[cfg(test)]
mod tests;
