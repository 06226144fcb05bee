//! Short ways to write operations down in tests.

use serde_json::Value;

use crate::history::{F, Op, Outcome, Workload};

/// An operation on key `k`.
pub(crate) fn op(client: u64, f: F, value: impl Into<Value>, call: u64, ret: Option<u64>) -> Op {
    Op {
        client,
        workload: Workload::Register,
        key: "k".to_owned(),
        f,
        value: value.into(),
        old: Value::Null,
        index: None,
        call,
        ret,
        outcome: Outcome::Info,
        last: false,
        error: None,
    }
}

/// Acknowledged.
pub(crate) fn ok(client: u64, f: F, value: impl Into<Value>, call: u64, ret: u64) -> Op {
    Op {
        outcome: Outcome::Ok,
        ..op(client, f, value, call, Some(ret))
    }
}

/// Without effect.
pub(crate) fn fail(client: u64, f: F, value: impl Into<Value>, call: u64, ret: u64) -> Op {
    Op {
        outcome: Outcome::Fail,
        ..op(client, f, value, call, Some(ret))
    }
}

/// Unknown.
pub(crate) fn info(client: u64, f: F, value: impl Into<Value>, call: u64) -> Op {
    op(client, f, value, call, None)
}

/// Acknowledged, on a condition.
pub(crate) fn given(old: impl Into<Value>, op: Op) -> Op {
    Op {
        old: old.into(),
        ..op
    }
}

/// Refused for a reason.
pub(crate) fn because(reason: &str, op: Op) -> Op {
    Op {
        error: Some(reason.to_owned()),
        ..op
    }
}
