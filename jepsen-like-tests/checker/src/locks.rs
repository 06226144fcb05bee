//! Locks: a version under compliance retention is there until that ends, whoever asks for what.
//!
//! Owns what follows from an acknowledged lock: no removal and no shorter lock after it, and every later look finds the
//! version. Retention outlasts a history, so there is no clock in it. Refuses versions from nowhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{F, Op};
use crate::linear::by_key;
use crate::verdict::Anomaly;
use crate::{number, numbers};

/// Reason of a refusal for what is not there.
const MISSING: &str = "no-such-object";

/// Every anomaly in the operations of one workload.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (key, ops) in by_key(ops) {
        match Key::of(key, &ops) {
            Ok(held) => held.judge(&mut anomalies),
            Err(anomaly) => anomalies.push(anomaly),
        }
    }
    anomalies
}

/// What was asked of one version.
#[derive(Default)]
struct Version<'a> {
    puts: Vec<&'a Op>,
    locks: Vec<&'a Op>,
    unlocks: Vec<&'a Op>,
    removes: Vec<&'a Op>,
    reads: Vec<&'a Op>,
}

/// One look at all versions of a key.
struct Look<'a> {
    op: &'a Op,
    shown: BTreeSet<u64>,
}

struct Key<'a> {
    name: &'a str,
    versions: BTreeMap<u64, Version<'a>>,
    looks: Vec<Look<'a>>,
}

impl<'a> Key<'a> {
    fn of(name: &'a str, ops: &[&'a Op]) -> Result<Self, Anomaly> {
        let malformed = |op: &Op, what: &str| Anomaly::new(format!("{name}: {what}"), [op]);
        let mut versions: BTreeMap<u64, Version<'a>> = BTreeMap::new();
        let mut looks = Vec::new();
        for op in ops {
            let named = |value| number(value).ok_or_else(|| malformed(op, "no version"));
            let of = match op.f {
                F::Versions => {
                    if op.is_ok() {
                        let shown = numbers(&op.value);
                        let shown = shown.ok_or_else(|| malformed(op, "no versions"))?;
                        let (count, shown) = (shown.len(), BTreeSet::from_iter(shown));
                        if shown.len() < count {
                            return Err(malformed(op, "a version is listed twice"));
                        }
                        looks.push(Look { op, shown });
                    }
                    continue;
                }
                F::Read => &op.old,
                _ => &op.value,
            };
            let version = versions.entry(named(of)?).or_default();
            match op.f {
                F::Put => version.puts.push(op),
                F::Lock => version.locks.push(op),
                F::Unlock => version.unlocks.push(op),
                F::Remove => version.removes.push(op),
                F::Read => version.reads.push(op),
                _ => return Err(malformed(op, "an operation no lock has")),
            }
        }
        Ok(Self {
            name,
            versions,
            looks,
        })
    }

    fn judge(&self, anomalies: &mut Vec<Anomaly>) {
        for (number, version) in &self.versions {
            let seen = self
                .looks
                .iter()
                .map(|look| (look.op, look.shown.contains(number)));
            for (what, history) in version.judge(seen) {
                let what = format!("{}: version {number} {what}", self.name);
                anomalies.push(Anomaly::new(what, history));
            }
        }
        for look in &self.looks {
            let nowhere = |number: &&u64| self.versions.get(number).is_none_or(Version::may_not_be);
            for number in look.shown.iter().filter(nowhere) {
                let what = format!("{}: version {number} was never put", self.name);
                anomalies.push(Anomaly::new(what, [look.op]));
            }
        }
        let mut locks = self.versions.values().flat_map(|version| &version.locks);
        let lock = locks.find(|lock| lock.may_count());
        if let Some(lock) = lock.filter(|_| !self.looks.iter().any(|look| look.op.last)) {
            let what = format!("{}: versions not listed at the end", self.name);
            anomalies.push(Anomaly::new(what, [*lock]));
        }
    }
}

impl<'a> Version<'a> {
    /// Nothing that may have had effect made it.
    fn may_not_be(&self) -> bool {
        !self.puts.iter().chain(&self.locks).any(|op| op.may_count())
    }

    /// What is wrong with it, and the operations that show it. `listed` says of each listing whether it was there.
    fn judge(
        &self,
        listed: impl Iterator<Item = (&'a Op, bool)>,
    ) -> Vec<(&'static str, Vec<&'a Op>)> {
        let mut wrong = Vec::new();
        let looks: Vec<_> = listed
            .chain(self.reads.iter().filter_map(|op| seen(op)))
            .collect();
        let (there, gone): (Vec<_>, Vec<_>) = looks.into_iter().partition(|(_, there)| *there);
        // A lock takes a version that is there, and a removal one that is not locked.
        if let Some(lock) = self.locks.iter().find(|op| op.is_ok()) {
            let removed = self.removes.iter().filter(|op| op.is_ok());
            wrong.extend(removed.map(|op| ("was locked and removed", vec![*lock, *op])));
        }
        let locked = self
            .locks
            .iter()
            .filter(|op| op.is_ok())
            .min_by_key(|op| op.end());
        if let Some(lock) = locked {
            let later = |op: &&&Op| op.is_ok() && lock.before(op);
            let unlocked = self.unlocks.iter().filter(later);
            wrong.extend(unlocked.map(|op| ("was locked and unlocked", vec![*lock, *op])));
            let missed = self.removes.iter().chain(&self.unlocks);
            let missed = missed.filter(|op| op.refused(MISSING)).copied();
            let gone = gone.iter().map(|(op, _)| *op).chain(missed);
            let gone = gone.filter(|op| lock.before(op));
            wrong.extend(gone.map(|op| ("was locked and is gone", vec![*lock, op])));
        }
        let put = self
            .puts
            .iter()
            .filter(|op| op.is_ok())
            .min_by_key(|op| op.end());
        if let (Some(put), None) = (put, locked) {
            let may_be_gone = |by: &Op| {
                let mut removes = self.removes.iter().filter(|op| op.may_count());
                removes.any(|op| op.call <= by.end())
            };
            let lost = gone
                .iter()
                .filter(|(op, _)| put.before(op) && !may_be_gone(op));
            wrong.extend(lost.map(|(op, _)| ("was acknowledged and is gone", vec![*put, *op])));
        }
        for removed in self.removes.iter().filter(|op| op.is_ok()) {
            let still = there.iter().filter(|(op, _)| removed.before(op));
            wrong.extend(still.map(|(op, _)| ("was removed and is there", vec![*removed, *op])));
        }
        wrong
    }
}

/// Whether a read of a version found it, where it says so.
fn seen(op: &Op) -> Option<(&Op, bool)> {
    op.is_ok().then(|| (op, op.value == op.old))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{because, fail, given, info, ok};

    fn listed(versions: &[u64], call: u64) -> Op {
        ok(90, F::Versions, versions.to_vec(), call, call + 5)
    }

    fn last(op: Op) -> Op {
        Op { last: true, ..op }
    }

    fn refused(f: F, version: u64, call: u64) -> Op {
        because("object-locked", fail(7, f, version, call, call + 1))
    }

    /// What is found where version 1 was locked when it was put, and this came after.
    fn after_lock(then: &[Op]) -> Vec<String> {
        let mut ops = vec![ok(1, F::Lock, 1, 0, 10)];
        ops.extend_from_slice(then);
        ops.push(last(listed(&[1], 500)));
        judge(&ops)
            .into_iter()
            .map(|anomaly| anomaly.what)
            .collect()
    }

    #[test]
    fn what_is_locked_stays_and_what_is_not_may_go() {
        let ops = [
            ok(1, F::Lock, 1, 0, 10),
            refused(F::Remove, 1, 20),
            refused(F::Unlock, 1, 22),
            given(1, ok(2, F::Read, 1, 30, 31)),
            ok(3, F::Put, 2, 0, 10),
            listed(&[1, 2, 3], 40),
            ok(3, F::Remove, 2, 50, 60),
            ok(4, F::Put, 3, 0, 10),
            ok(4, F::Lock, 3, 20, 30),
            because("no-such-object", fail(5, F::Lock, 2, 70, 80)),
            info(6, F::Lock, 4, 0),
            last(listed(&[1, 3], 90)),
        ];
        assert_eq!(judge(&ops), []);
    }

    #[test]
    fn a_removed_version_that_was_locked_is_found() {
        assert_eq!(after_lock(&[]), [""; 0]);
        let found = after_lock(&[ok(2, F::Remove, 1, 20, 30)]);
        assert!(found[0].contains("locked and removed"), "{found:?}");
        // Even where the two were under way at the same time.
        let found = after_lock(&[ok(2, F::Remove, 1, 5, 30)]);
        assert!(found[0].contains("locked and removed"), "{found:?}");
    }

    #[test]
    fn a_lock_that_was_ended_is_found() {
        let found = after_lock(&[ok(2, F::Unlock, 1, 20, 30)]);
        assert!(found[0].contains("unlocked"), "{found:?}");
        assert_eq!(after_lock(&[ok(2, F::Unlock, 1, 5, 30)]), [""; 0]);
    }

    #[test]
    fn a_locked_version_that_is_gone_is_found() {
        let unread = given(1, ok(2, F::Read, Value::Null, 20, 30));
        let unlisted = listed(&[], 20);
        let unfound = because("no-such-object", fail(2, F::Remove, 1, 20, 30));
        for look in [unread, unlisted, unfound] {
            let found = after_lock(&[info(3, F::Remove, 1, 11), look]);
            assert!(found[0].contains("locked and is gone"), "{found:?}");
        }
    }

    #[test]
    fn an_acknowledged_version_that_nobody_removed_and_that_is_gone_is_found() {
        let ops = |removed| [ok(1, F::Put, 1, 0, 10), removed, last(listed(&[], 40))];
        let found = judge(&ops(refused(F::Remove, 1, 20)));
        assert!(found[0].what.contains("acknowledged and is gone"));
        assert_eq!(judge(&ops(info(2, F::Remove, 1, 20))), []);
    }

    #[test]
    fn a_version_from_nowhere_and_one_that_came_back_are_found() {
        assert!(judge(&[listed(&[5], 0)])[0].what.contains("never put"));
        let refused = fail(1, F::Put, 5, 0, 1);
        assert!(
            judge(&[refused, listed(&[5], 2)])[0]
                .what
                .contains("never put")
        );
        let back = [
            ok(1, F::Put, 1, 0, 10),
            ok(1, F::Remove, 1, 20, 30),
            listed(&[1], 40),
        ];
        assert!(judge(&back)[0].what.contains("removed and is there"));
    }

    #[test]
    fn a_key_with_locks_is_listed_at_the_end() {
        let found = judge(&[ok(1, F::Lock, 1, 0, 10), listed(&[1], 20)]);
        assert!(found[0].what.contains("not listed at the end"));
        assert_eq!(judge(&[fail(1, F::Lock, 1, 0, 10), listed(&[], 20)]), []);
    }
}
