//! Records against releases: whoever saw a key finds its leaf in the log, and the log never changes.
//!
//! Owns the comparison of what clients were given with what an auditor reads at the end, and of tree heads with roots
//! recomputed from the leaves. A release is in the log before it is answered, so releases that follow each other in
//! time have leaves that follow each other. A request without an answer counts as released or unknown: its leaf may
//! be there. The log's head may lag (any replica may answer), so a smaller head after a larger one is no anomaly.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::history::{F, Op};
use crate::verdict::Anomaly;

/// What a client was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The leaf that the answer names.
    pub leaf: u64,
    /// The object version whose key was released.
    pub version: String,
    /// Who was given it.
    pub principal: String,
    /// What for.
    pub purpose: String,
}

/// A leaf as an auditor read it, its openings checked against its commitments. In the file it is a list of its fields
/// in this order: a long run reads hundreds of thousands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct LeafRead {
    /// Where it stands.
    pub index: u64,
    /// Its RFC 6962 hash.
    pub hash: String,
    /// What it records.
    pub kind: String,
    /// Who, where it says.
    pub principal: Option<String>,
    /// What for.
    pub purpose: String,
    /// Object versions whose keys it records as released.
    pub versions: Vec<String>,
}

type Row = (u64, String, String, Option<String>, String, Vec<String>);

impl From<Row> for LeafRead {
    fn from((index, hash, kind, principal, purpose, versions): Row) -> Self {
        Self {
            index,
            hash,
            kind,
            principal,
            purpose,
            versions,
        }
    }
}

impl From<LeafRead> for Row {
    fn from(leaf: LeafRead) -> Self {
        let LeafRead {
            index,
            hash,
            kind,
            principal,
            purpose,
            versions,
        } = leaf;
        (index, hash, kind, principal, purpose, versions)
    }
}

/// Size and root of the log: as a replica answered, or (in final operations) as recomputed from all leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHead {
    /// Leaves.
    pub size: u64,
    /// Root hash.
    pub root: String,
}

/// Kind of the leaf of a release.
const OPEN: &str = "open";

/// Every anomaly in the operations of one workload. `leaves` operations carry a list of [`LeafRead`] in the order of
/// the log; those that are final carry all of it.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let releases: Vec<(&Op, Release)> = read(ops, F::Release, &mut anomalies);
    let pages: Vec<(&Op, Vec<LeafRead>)> = read(ops, F::Leaves, &mut anomalies);
    let heads: Vec<(&Op, TreeHead)> = read(ops, F::TreeHead, &mut anomalies);
    let strange = ops
        .iter()
        .find(|op| !matches!(op.f, F::Release | F::Leaves | F::TreeHead));
    anomalies.extend(strange.map(|op| Anomaly::new("an operation no log has", [op])));
    let log = leaves(&pages, &mut anomalies);
    if log.is_empty() && !releases.is_empty() {
        anomalies.push(Anomaly::new("the log was not read at the end", []));
        return anomalies;
    }
    for (op, release) in &releases {
        if let Some(what) = unrecorded(release, &log) {
            let what = format!(
                "a key of {} was released: leaf {} {what}",
                op.key, release.leaf
            );
            anomalies.push(Anomaly::new(what, [*op]));
        }
    }
    out_of_order(releases, &heads, &mut anomalies);
    judge_heads(&heads, log.len() as u64, &mut anomalies);
    anomalies
}

fn read<'a, T: DeserializeOwned>(
    ops: &'a [Op],
    f: F,
    anomalies: &mut Vec<Anomaly>,
) -> Vec<(&'a Op, T)> {
    let mut all = Vec::new();
    for op in ops.iter().filter(|op| op.f == f && op.is_ok()) {
        match serde_json::from_value(op.value.clone()) {
            Ok(value) => all.push((op, value)),
            Err(_) => anomalies.push(Anomaly::new(format!("{f:?} has no such value"), [op])),
        }
    }
    all
}

/// The log as it was read at the end. Every page is dense, and no leaf was ever read in two ways.
fn leaves<'a>(
    pages: &'a [(&Op, Vec<LeafRead>)],
    anomalies: &mut Vec<Anomaly>,
) -> BTreeMap<u64, &'a LeafRead> {
    let mut first: BTreeMap<u64, (&Op, &LeafRead)> = BTreeMap::new();
    let mut log = BTreeMap::new();
    for (op, page) in pages {
        let gap = page
            .windows(2)
            .find(|pair| pair[1].index != pair[0].index + 1);
        if let Some(gap) = gap {
            let what = format!("the log has a gap after leaf {}", gap[0].index);
            anomalies.push(Anomaly::new(what, [*op]));
        }
        for leaf in page {
            let (before, held) = *first.entry(leaf.index).or_insert((*op, leaf));
            if held != leaf {
                let what = format!("leaf {} changed", leaf.index);
                anomalies.push(Anomaly::new(what, [before, *op]));
            }
            if op.last {
                log.insert(leaf.index, leaf);
            }
        }
    }
    let missing: Vec<_> = (0..log.len() as u64)
        .filter(|at| !log.contains_key(at))
        .collect();
    if let Some(missing) = missing.first() {
        let what = format!("leaf {missing} was not read at the end");
        anomalies.push(Anomaly::new(what, []));
    }
    let lost = first
        .iter()
        .find(|(index, _)| !log.is_empty() && !log.contains_key(index));
    if let Some((index, (op, _))) = lost {
        anomalies.push(Anomaly::new(format!("leaf {index} is gone"), [*op]));
    }
    log
}

fn unrecorded(release: &Release, log: &BTreeMap<u64, &LeafRead>) -> Option<String> {
    let Some(leaf) = log.get(&release.leaf) else {
        return Some("is not in the log".to_owned());
    };
    if leaf.kind != OPEN {
        return Some(format!("records a {}", leaf.kind));
    }
    if !leaf.versions.contains(&release.version) {
        return Some("does not name this version".to_owned());
    }
    if leaf.principal.as_ref() != Some(&release.principal) {
        return Some("names another principal".to_owned());
    }
    (leaf.purpose != release.purpose).then(|| "names another purpose".to_owned())
}

/// The leaf of a release is made after it was asked for, and stands when it is answered.
fn out_of_order(
    mut releases: Vec<(&Op, Release)>,
    heads: &[(&Op, TreeHead)],
    anomalies: &mut Vec<Anomaly>,
) {
    let answered = releases.iter().map(|(op, release)| (*op, release.leaf + 1));
    let seen = heads.iter().filter(|(op, _)| !op.last);
    let seen = seen.map(|(op, head)| (*op, head.size));
    // What was known, when, of how many leaves there are at least.
    let mut known: Vec<_> = answered.chain(seen).collect();
    known.sort_by_key(|(op, _)| op.end());
    releases.sort_by_key(|(op, _)| op.call);
    let mut known = known.into_iter().peekable();
    let mut most: Option<(&Op, u64)> = None;
    for (op, release) in releases {
        while let Some((by, size)) = known.next_if(|(by, _)| by.before(op)) {
            if most.is_none_or(|(_, held)| held < size) {
                most = Some((by, size));
            }
        }
        if let Some((by, size)) = most.filter(|(_, size)| *size > release.leaf) {
            let leaf = release.leaf;
            let what = format!(
                "leaf {leaf} of a release was there before it was asked for: the log had {size} leaves"
            );
            anomalies.push(Anomaly::new(what, [by, op]));
        }
    }
}

/// Every head that was answered is that of the log as it is now, cut to its size.
fn judge_heads(heads: &[(&Op, TreeHead)], leaves: u64, anomalies: &mut Vec<Anomaly>) {
    let recomputed = heads.iter().filter(|(op, _)| op.last);
    let recomputed: BTreeMap<u64, &str> = recomputed
        .map(|(_, head)| (head.size, head.root.as_str()))
        .collect();
    let mut sizes = BTreeSet::new();
    for (op, head) in heads.iter().filter(|(op, _)| !op.last) {
        let what = match recomputed.get(&head.size) {
            Some(root) if *root == head.root => continue,
            Some(_) => "is not that of its leaves",
            None if head.size > leaves => "is of more leaves than there are at the end",
            None => "was not compared with its leaves",
        };
        if sizes.insert((head.size, what)) {
            let what = format!("the tree head of size {} {what}", head.size);
            anomalies.push(Anomaly::new(what, [*op]));
        }
    }
}

#[cfg(test)]
mod tests;
