//! Elements of a prefix, and listings that show them: every listing is the set at one moment, in the order that the
//! log indexes of the answers give.
//!
//! Owns what may be missing from a listing (what was not acknowledged before it began, and what somebody may have
//! removed) and what may be in it. Refuses elements that are added twice: each is added at most once in a history,
//! so that its presence says which add it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{F, Op};
use crate::linear::by_key;
use crate::snapshot::{Moment, impossible};
use crate::verdict::Anomaly;
use crate::{number, numbers};

/// Reason of a remove that found nothing.
const MISSING: &str = "no-such-object";

/// Every anomaly in the operations of one workload.
pub fn judge(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (prefix, ops) in by_key(ops) {
        match Prefix::of(prefix, &ops) {
            Ok(prefix) => prefix.judge(&mut anomalies),
            Err(anomaly) => anomalies.push(anomaly),
        }
    }
    anomalies
}

/// What is known of one element.
#[derive(Default)]
struct Element<'a> {
    add: Option<&'a Op>,
    removes: Vec<&'a Op>,
}

impl<'a> Element<'a> {
    /// It may have been gone again by then.
    fn may_be_gone_by(&self, time: u64) -> bool {
        let mut removes = self.removes.iter().filter(|op| op.may_count());
        removes.any(|remove| remove.call <= time)
    }

    /// When it may have gone at the earliest, and must have at the latest.
    fn gone(&self) -> (Option<u64>, Option<u64>) {
        let counting = self.removes.iter().filter(|op| op.may_count());
        let done = self.removes.iter().filter(|op| op.is_ok());
        (
            counting.map(|remove| remove.call).min(),
            done.map(|remove| remove.end()).min(),
        )
    }

    fn history(&self) -> impl Iterator<Item = &'a Op> {
        self.add.into_iter().chain(self.removes.iter().copied())
    }
}

struct List<'a> {
    op: &'a Op,
    index: u64,
    elements: BTreeSet<u64>,
}

struct Prefix<'a> {
    name: &'a str,
    elements: BTreeMap<u64, Element<'a>>,
    /// In the order of their log indexes.
    lists: Vec<List<'a>>,
}

impl<'a> Prefix<'a> {
    fn of(name: &'a str, ops: &[&'a Op]) -> Result<Self, Anomaly> {
        let malformed = |op: &Op, what: &str| Anomaly::new(format!("{name}: {what}"), [op]);
        let mut elements: BTreeMap<u64, Element<'a>> = BTreeMap::new();
        let mut lists = Vec::new();
        for op in ops {
            let value = || number(&op.value).ok_or_else(|| malformed(op, "no element"));
            match op.f {
                F::Add => {
                    let add = &mut elements.entry(value()?).or_default().add;
                    if add.replace(op).is_some() {
                        return Err(malformed(op, "an element is added a second time"));
                    }
                }
                F::Remove => elements.entry(value()?).or_default().removes.push(op),
                F::List if op.is_ok() => {
                    let shown = numbers(&op.value).ok_or_else(|| malformed(op, "no elements"))?;
                    let index = op.index.ok_or_else(|| malformed(op, "no log index"))?;
                    let (count, elements) = (shown.len(), BTreeSet::from_iter(shown));
                    if elements.len() < count {
                        return Err(malformed(op, "an element is listed twice"));
                    }
                    lists.push(List {
                        op,
                        index,
                        elements,
                    });
                }
                F::List => {}
                _ => return Err(malformed(op, "an operation no set has")),
            }
        }
        lists.sort_by_key(|list| (list.index, list.op.call));
        Ok(Self {
            name,
            elements,
            lists,
        })
    }

    fn judge(&self, anomalies: &mut Vec<Anomaly>) {
        let before = anomalies.len();
        for list in &self.lists {
            self.judge_list(list, anomalies);
        }
        self.judge_removes(anomalies);
        self.judge_order(anomalies);
        // What is already wrong one by one has no moments either.
        if anomalies.len() == before {
            self.judge_moments(anomalies);
        }
        self.judge_end(anomalies);
    }

    fn judge_list(&self, list: &List<'_>, anomalies: &mut Vec<Anomaly>) {
        let mut wrong = |what: &str, number: u64, element: Option<&Element<'a>>| {
            let history = element.into_iter().flat_map(Element::history);
            anomalies.push(Anomaly::new(
                format!("{}: element {number} {what}", self.name),
                history.chain([list.op]),
            ));
        };
        for number in &list.elements {
            let element = self.elements.get(number);
            let Some(add) = element.and_then(|element| element.add) else {
                wrong("is listed and was never added", *number, element);
                continue;
            };
            if !add.may_count() {
                wrong("is listed and its add was refused", *number, element);
            } else if list.op.before(add) {
                wrong("is listed before it was added", *number, element);
            }
            let removes = element.into_iter().flat_map(|element| &element.removes);
            if removes
                .into_iter()
                .any(|op| op.is_ok() && op.before(list.op))
            {
                wrong("is listed after its acknowledged removal", *number, element);
            }
        }
        for (number, element) in &self.elements {
            let added = element
                .add
                .is_some_and(|add| add.is_ok() && add.before(list.op));
            let missing = added && !list.elements.contains(number);
            if missing && !element.may_be_gone_by(list.op.end()) {
                wrong("was acknowledged and is not listed", *number, Some(element));
            }
        }
    }

    /// One add is removed once, and a removal that found nothing had a reason to.
    fn judge_removes(&self, anomalies: &mut Vec<Anomaly>) {
        for (number, element) in &self.elements {
            let removed = element.removes.iter().filter(|op| op.is_ok()).count();
            if removed > 1 {
                let what = format!(
                    "{}: element {number} was removed {removed} times",
                    self.name
                );
                anomalies.push(Anomaly::new(what, element.history()));
            }
            let missed = element.removes.iter().filter(|op| op.refused(MISSING));
            for missed in missed {
                let there = element
                    .add
                    .is_some_and(|add| add.is_ok() && add.before(missed));
                if there && !element.may_be_gone_by(missed.end()) {
                    let what = format!("{}: element {number} was not found", self.name);
                    anomalies.push(Anomaly::new(what, element.history()));
                }
            }
        }
    }

    /// Listings at one index are equal, and a listing that began after another had ended is not older.
    fn judge_order(&self, anomalies: &mut Vec<Anomaly>) {
        for pair in self.lists.windows(2) {
            if pair[0].index == pair[1].index && pair[0].elements != pair[1].elements {
                let what = format!("{}: two listings differ at one log index", self.name);
                anomalies.push(Anomaly::new(what, [pair[0].op, pair[1].op]));
            }
        }
        let mut by_call: Vec<_> = self.lists.iter().collect();
        by_call.sort_by_key(|list| list.op.call);
        let mut by_end = by_call.clone();
        by_end.sort_by_key(|list| list.op.end());
        let mut ended = by_end.into_iter().peekable();
        let mut newest: Option<&List<'_>> = None;
        for list in by_call {
            while let Some(other) = ended.next_if(|other| other.op.before(list.op)) {
                if newest.is_none_or(|newest| newest.index < other.index) {
                    newest = Some(other);
                }
            }
            if let Some(newest) = newest.filter(|newest| newest.index > list.index) {
                let what = format!("{}: a listing is older than one that had ended", self.name);
                anomalies.push(Anomaly::new(what, [newest.op, list.op]));
            }
        }
    }

    /// Each listing shows the set at one moment, and these moments are in order.
    fn judge_moments(&self, anomalies: &mut Vec<Anomaly>) {
        let mut moments: Vec<_> = self.lists.iter().map(|list| Moment::of(list.op)).collect();
        for (number, element) in &self.elements {
            if let Err((what, list)) = self.narrow(*number, element, &mut moments) {
                let what = format!("{}: element {number} {what}", self.name);
                anomalies.push(Anomaly::new(what, element.history().chain([list])));
                return;
            }
        }
        if let Some((at, holds_back)) = impossible(&moments) {
            let what = format!("{}: a listing shows the set of no one moment", self.name);
            let history = [self.lists[holds_back].op, self.lists[at].op];
            let elements = self.elements.values().flat_map(Element::history);
            anomalies.push(Anomaly::new(what, history.into_iter().chain(elements)));
        }
    }

    /// What an element's presence says of each listing's moment.
    fn narrow(
        &self,
        number: u64,
        element: &Element<'a>,
        moments: &mut [Moment],
    ) -> Result<(), (&'static str, &'a Op)> {
        let Some(add) = element.add else {
            return Ok(());
        };
        let added = if add.is_ok() { add.end() } else { u64::MAX };
        let shown = |list: &List<'_>| list.elements.contains(&number);
        let first = self.lists.iter().position(shown);
        let last = self.lists.iter().rposition(shown);
        let (may_be_gone, must_be_gone) = element.gone();
        for (at, (list, moment)) in self.lists.iter().zip(moments).enumerate() {
            match (first.zip(last), may_be_gone) {
                _ if shown(list) => {
                    moment.not_before(add.call);
                    moment.not_after(must_be_gone.unwrap_or(u64::MAX));
                }
                (Some((first, _)), _) if at < first => moment.not_after(added),
                (Some((_, last)), _) if at < last => return Err(("went and came back", list.op)),
                (Some(_), Some(gone)) => moment.not_before(gone),
                (Some(_), None) => return Err(("was seen and is gone", list.op)),
                (None, None) => moment.not_after(added),
                // Before the add or after the removal; nothing says which.
                (None, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// What was acknowledged has been looked for at the end.
    fn judge_end(&self, anomalies: &mut Vec<Anomaly>) {
        let adds = self.elements.values().filter_map(|element| element.add);
        let mut added = adds.filter(|add| add.may_count()).peekable();
        let listed = self.lists.iter().any(|list| list.op.last);
        if added.peek().is_some() && !listed {
            let what = format!("{}: not listed at the end", self.name);
            anomalies.push(Anomaly::new(what, added.take(1)));
        }
    }
}

#[cfg(test)]
mod tests;
