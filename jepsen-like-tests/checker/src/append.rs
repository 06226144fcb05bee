//! Versions of a key: every acknowledged append is there once, all observers see one order, and it is that of time.
//!
//! Owns the comparison of lists: each is a beginning of each longer one. Refuses a value that is appended twice: each
//! is appended at most once in a history.

use std::collections::BTreeMap;

use crate::history::{F, Op};
use crate::linear::by_key;
use crate::snapshot::{Moment, impossible};
use crate::verdict::Anomaly;
use crate::{number, numbers};

/// Every anomaly in the operations of one workload.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (key, ops) in by_key(ops) {
        match Versions::of(key, &ops) {
            Ok(versions) => versions.judge(&mut anomalies),
            Err(anomaly) => anomalies.push(anomaly),
        }
    }
    anomalies
}

struct List<'a> {
    op: &'a Op,
    versions: Vec<u64>,
}

struct Versions<'a> {
    key: &'a str,
    appends: BTreeMap<u64, &'a Op>,
    /// Shortest first, at equal length in the order of time.
    lists: Vec<List<'a>>,
}

impl<'a> Versions<'a> {
    fn of(key: &'a str, ops: &[&'a Op]) -> Result<Self, Anomaly> {
        let malformed = |op: &Op, what: &str| Anomaly::new(format!("{key}: {what}"), [op]);
        let (mut appends, mut lists) = (BTreeMap::new(), Vec::new());
        for op in ops {
            match op.f {
                F::Append => {
                    let value = number(&op.value).ok_or_else(|| malformed(op, "no value"))?;
                    if appends.insert(value, *op).is_some() {
                        return Err(malformed(op, "a value is appended a second time"));
                    }
                }
                F::Versions if op.is_ok() => {
                    let versions = numbers(&op.value);
                    let versions = versions.ok_or_else(|| malformed(op, "no versions"))?;
                    lists.push(List { op, versions });
                }
                F::Versions => {}
                _ => return Err(malformed(op, "an operation no list of versions has")),
            }
        }
        lists.sort_by_key(|list| (list.versions.len(), list.op.call));
        Ok(Self {
            key,
            appends,
            lists,
        })
    }

    fn judge(&self, anomalies: &mut Vec<Anomaly>) {
        let before = anomalies.len();
        self.judge_lists(anomalies);
        self.judge_prefixes(anomalies);
        if anomalies.len() == before {
            self.judge_time(anomalies);
            self.judge_moments(anomalies);
        }
        let mut appended = self.appends.values().filter(|op| op.may_count()).peekable();
        let listed = self.lists.iter().any(|list| list.op.last);
        if appended.peek().is_some() && !listed {
            let what = format!("{}: versions not listed at the end", self.key);
            anomalies.push(Anomaly::new(what, appended.take(1).copied()));
        }
    }

    /// Each list by itself: nothing twice, nothing from nowhere, nothing missing.
    fn judge_lists(&self, anomalies: &mut Vec<Anomaly>) {
        for list in &self.lists {
            let mut seen = BTreeMap::new();
            for version in &list.versions {
                let append = self.appends.get(version);
                let what = match append {
                    _ if seen.insert(*version, ()).is_some() => "is there twice",
                    None => "was never appended",
                    Some(append) if !append.may_count() => "was refused and is there",
                    Some(append) if list.op.before(append) => "is there before it was appended",
                    Some(_) => continue,
                };
                let what = format!("{}: version {version} {what}", self.key);
                anomalies.push(Anomaly::new(
                    what,
                    append.copied().into_iter().chain([list.op]),
                ));
            }
            for (version, append) in &self.appends {
                let due = append.is_ok() && append.before(list.op);
                if due && !seen.contains_key(version) {
                    let what = format!("{}: acknowledged version {version} is missing", self.key);
                    anomalies.push(Anomaly::new(what, [*append, list.op]));
                }
            }
        }
    }

    /// Neighbours in length suffice: to be a beginning of is transitive.
    fn judge_prefixes(&self, anomalies: &mut Vec<Anomaly>) {
        for pair in self.lists.windows(2) {
            if !pair[1].versions.starts_with(&pair[0].versions) {
                let what = format!("{}: two lists of versions contradict each other", self.key);
                anomalies.push(Anomaly::new(what, [pair[0].op, pair[1].op]));
            }
        }
    }

    /// What had ended before another began stands before it.
    fn judge_time(&self, anomalies: &mut Vec<Anomaly>) {
        let Some(longest) = self.lists.last() else {
            return;
        };
        let mut latest: Option<&Op> = None;
        for version in &longest.versions {
            let Some(append) = self.appends.get(version) else {
                continue;
            };
            if let Some(latest) = latest.filter(|latest| append.before(latest)) {
                let what = format!("{}: version {version} stands after a later one", self.key);
                anomalies.push(Anomaly::new(what, [*append, latest, longest.op]));
            }
            if latest.is_none_or(|latest| append.call > latest.call) {
                latest = Some(append);
            }
        }
    }

    /// Each list shows the versions at one moment, a longer list at a later one.
    fn judge_moments(&self, anomalies: &mut Vec<Anomaly>) {
        let moments = self.lists.iter().map(|list| {
            let mut moment = Moment::of(list.op);
            let calls = list.versions.iter().filter_map(|v| self.appends.get(v));
            calls.for_each(|append| moment.not_before(append.call));
            let missing = self
                .appends
                .iter()
                .filter(|(version, append)| append.is_ok() && !list.versions.contains(version));
            missing.for_each(|(_, append)| moment.not_after(append.end()));
            moment
        });
        let moments: Vec<_> = moments.collect();
        if let Some((at, holds_back)) = impossible(&moments) {
            let what = format!("{}: a list shows the versions of no one moment", self.key);
            let lists = [self.lists[holds_back].op, self.lists[at].op];
            let appends = self.appends.values().copied();
            anomalies.push(Anomaly::new(what, lists.into_iter().chain(appends)));
        }
    }
}

#[cfg(test)]
mod tests;
