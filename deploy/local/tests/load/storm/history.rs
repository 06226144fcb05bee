//! What the clients of a storm did, as the judges of `reduit-checker` read it.
//!
//! Owns the run's clock, the numbers of writes, and what ETags and version ids say: a listing names its objects by them,
//! and the answer that tells which write an ETag is of may come later than the listing.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use checker::{F, Op, Outcome, Workload};
use parking_lot::Mutex;
use serde_json::Value;

/// Takes operations from every worker.
pub(crate) struct History {
    began: Instant,
    clients: AtomicU64,
    numbers: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ops: Vec<Op>,
    /// Which write an ETag or a version id is of.
    names: HashMap<String, u64>,
    listings: Vec<Listing>,
}

/// A listing that names objects by ETags, or versions by their ids.
enum Listing {
    /// Each key that was in use, and the ETag under which it was listed.
    Objects(Op, BTreeMap<String, Option<String>>),
    /// The versions of one key.
    Versions(Op, Vec<String>),
}

/// How an operation ended.
pub(crate) enum Ended {
    /// Acknowledged, with what was answered where it says more than the request.
    Ok(Option<Value>),
    /// Without effect, for this reason.
    Fail(String),
    /// Unknown, for this reason.
    Info(String),
}

impl History {
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            clients: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A number for a write, which no other has.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An operation that begins now.
    pub(crate) fn ask(&self, workload: Workload, key: &str, f: F) -> Op {
        Op {
            client: self.clients.fetch_add(1, Ordering::Relaxed),
            workload,
            key: key.to_owned(),
            f,
            value: Value::Null,
            old: Value::Null,
            index: None,
            call: self.now(),
            ret: None,
            outcome: Outcome::Info,
            last: false,
            error: None,
        }
    }

    /// Records how it ended: its time ends now.
    pub(crate) fn end(&self, op: Op, ended: Ended) {
        let op = self.ended(op, ended);
        self.state.lock().ops.push(op);
    }

    fn ended(&self, mut op: Op, ended: Ended) -> Op {
        let known = match ended {
            Ended::Ok(value) => {
                op.outcome = Outcome::Ok;
                op.value = value.unwrap_or(op.value);
                true
            }
            Ended::Fail(why) => {
                op.outcome = Outcome::Fail;
                op.error = Some(why);
                true
            }
            Ended::Info(why) => {
                op.error = Some(why);
                false
            }
        };
        op.ret = known.then(|| self.now());
        op
    }

    /// An answer named a write by this ETag or version id. False where it is another write's.
    pub(crate) fn name(&self, name: &str, number: u64) -> bool {
        let mut state = self.state.lock();
        *state.names.entry(name.to_owned()).or_insert(number) == number
    }

    /// A listing showed these of the keys that were in use when it was asked for.
    pub(crate) fn listed(&self, op: Op, shown: BTreeMap<String, Option<String>>) {
        let op = self.ended(op, Ended::Ok(None));
        self.state.lock().listings.push(Listing::Objects(op, shown));
    }

    /// A listing showed these versions of a key.
    pub(crate) fn listed_versions(&self, op: Op, ids: Vec<String>) {
        let op = self.ended(op, Ended::Ok(None));
        self.state.lock().listings.push(Listing::Versions(op, ids));
    }

    /// Every operation, each key of a listing a read of it; and the names that nobody can tell the write of.
    pub(crate) fn close(self) -> (Vec<Op>, Vec<String>) {
        let State {
            mut ops,
            names,
            listings,
        } = self.state.into_inner();
        let mut nameless = Vec::new();
        let mut number = |name: &String| {
            let found = names.get(name).copied();
            if found.is_none() {
                nameless.push(name.clone());
            }
            found.unwrap_or_default()
        };
        for listing in listings {
            match listing {
                Listing::Objects(op, shown) => ops.extend(shown.iter().map(|(key, etag)| {
                    Op {
                        key: key.clone(),
                        value: etag
                            .as_ref()
                            .map_or(Value::Null, |etag| number(etag).into()),
                        ..op.clone()
                    }
                })),
                Listing::Versions(op, ids) => {
                    let numbers: Vec<_> = ids.iter().map(&mut number).collect();
                    ops.push(Op {
                        value: numbers.into(),
                        ..op
                    });
                }
            }
        }
        (ops, nameless)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
