//! Replicas of a group: at one applied index their states are the same bytes.
//!
//! Owns the demand that all members of a group were compared at one index once the faults were healed: replicas that
//! never meet at an index have proved nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{F, Op};
use crate::linear::by_key;
use crate::verdict::Anomaly;

/// A replica's state in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Which replica.
    pub node: u64,
    /// How many the group has.
    pub members: u64,
    /// The log index it has applied.
    pub applied: u64,
    /// Of its state there.
    pub digest: String,
}

/// Every anomaly in the operations of one workload; each key is a group.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (group, ops) in by_key(ops) {
        let mut at: BTreeMap<u64, Vec<(&Op, Digest)>> = BTreeMap::new();
        for op in ops.iter().filter(|op| op.is_ok()) {
            match serde_json::from_value::<Digest>(op.value.clone()) {
                Ok(digest) if op.f == F::Digest => {
                    at.entry(digest.applied).or_default().push((op, digest));
                }
                Ok(_) | Err(_) => {
                    let what = format!("{group}: an answer that is no digest");
                    anomalies.push(Anomaly::new(what, [*op]));
                }
            }
        }
        let mut compared = false;
        for (index, digests) in &at {
            let (first, rest) = (&digests[0], &digests[1..]);
            if let Some(other) = rest
                .iter()
                .find(|(_, other)| other.digest != first.1.digest)
            {
                let what = format!("{group}: replicas differ at index {index}");
                anomalies.push(Anomaly::new(what, [first.0, other.0]));
            }
            let mut nodes: Vec<_> = digests.iter().map(|(_, digest)| digest.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            compared |= nodes.len() as u64 >= first.1.members.max(1);
        }
        if !compared {
            let what = format!("{group}: its replicas were not all compared at one index");
            anomalies.push(Anomaly::new(what, ops.iter().copied()));
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ok;

    fn digest(node: u64, applied: u64, digest: &str) -> Op {
        let digest = Digest {
            node,
            members: 3,
            applied,
            digest: digest.to_owned(),
        };
        let value = serde_json::to_value(digest).expect("plain data");
        ok(node, F::Digest, value, 0, 1)
    }

    #[test]
    fn equal_replicas_are_well() {
        let met = [digest(1, 9, "a"), digest(2, 9, "a"), digest(3, 9, "a")];
        assert_eq!(judge(&met), []);
    }

    #[test]
    fn replicas_that_differ_are_found() {
        let met = [digest(1, 9, "a"), digest(2, 9, "b"), digest(3, 9, "a")];
        assert!(judge(&met)[0].what.contains("differ at index 9"));
    }

    #[test]
    fn replicas_that_never_met_prove_nothing() {
        let apart = [digest(1, 9, "a"), digest(2, 9, "a"), digest(3, 8, "c")];
        assert!(judge(&apart)[0].what.contains("not all compared"));
    }
}
