//! Histories: what clients asked for and what they were told, one operation a line of JSON.
//!
//! Owns the format, of which `jepsen-like-tests/README.md` is the description for other programs. Refuses a line that
//! is no operation, an operation that ends before it begins, an operation of a client that overlaps its last one, and
//! a client that goes on after an outcome it does not know. Reads line by line: a file may be larger than memory.
//!
//! ```json
//! {"client":3,"workload":"register","key":"r/7","f":"cas","value":12,"old":9,"call":81000,"ret":95000,"type":"ok"}
//! {"client":4,"workload":"register","key":"r/7","f":"write","value":13,"call":82000,"ret":null,"type":"info","error":"outcome-unknown"}
//! ```

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of one line. A listing of a thousand elements is a tenth of it.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What a history is of; each has a judge of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// One register a key, with conditional writes: linearizable.
    Register,
    /// Elements of a prefix, and listings that are snapshots.
    Set,
    /// Versions of a key, in one order.
    Append,
    /// Large objects: whole, or not there.
    Blocks,
    /// Requests that are sent more than once.
    Retry,
    /// States and versions of a dataset's key.
    KeyStates,
    /// Releases against the transparency log.
    Records,
    /// Registers of which every change is on a condition.
    Conditions,
    /// Uploads in parts: each becomes one object or none.
    Parts,
    /// Versions under compliance retention.
    Locks,
    /// Digests of a group's replicas.
    Replicas,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 11] = [
        Self::Register,
        Self::Set,
        Self::Append,
        Self::Blocks,
        Self::Retry,
        Self::KeyStates,
        Self::Records,
        Self::Conditions,
        Self::Parts,
        Self::Locks,
        Self::Replicas,
    ];

    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Set => "set",
            Self::Append => "append",
            Self::Blocks => "blocks",
            Self::Retry => "retry",
            Self::KeyStates => "key-states",
            Self::Records => "records",
            Self::Conditions => "conditions",
            Self::Parts => "parts",
            Self::Locks => "locks",
            Self::Replicas => "replicas",
        }
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What was asked for. What `value` and `old` hold depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum F {
    /// Register, blocks: `value` is what was read, null where there was nothing. Locks: of version `old`.
    Read,
    /// Register, blocks: `value` is what is there afterwards.
    Write,
    /// Register: `value` is there afterwards, and only if there was nothing.
    Create,
    /// Register: `value` is there afterwards, and only if `old` was.
    Cas,
    /// Register: nothing is there afterwards; refused where nothing was.
    Delete,
    /// Register: nothing is there afterwards, whether or not something was: a delete of S3.
    Clear,
    /// Register: nothing is there afterwards, and only if `old` was.
    DeleteIf,
    /// Set: element `value` is added; each at most once in a history.
    Add,
    /// Set: element `value` is removed. Locks: version `value` is.
    Remove,
    /// Set: `value` is every element under the key's prefix, `index` the log index that the answer names.
    List,
    /// Append, retry: `value` is added at the end of the key's versions.
    Append,
    /// Append, retry, locks: `value` is the key's versions, oldest first.
    Versions,
    /// Retry: the request `old` was sent once more; `value` is its answer.
    Send,
    /// Key states: `value` is a [`KeyAnswer`](crate::states::KeyAnswer).
    Disable,
    /// Key states: as [`Self::Disable`].
    Enable,
    /// Key states: as [`Self::Disable`].
    Rotate,
    /// Key states: state and version were asked for; `value` as of [`Self::Disable`].
    KeyInfo,
    /// Key states: an object was committed. Locks: version `value` was, under no retention.
    Put,
    /// Key states: an object was opened.
    Open,
    /// Key states: a lease was issued.
    Lease,
    /// Records: a key was released; `value` is a [`Release`](crate::records::Release).
    Release,
    /// Records: leaves were read; `value` is a list of [`LeafRead`](crate::records::LeafRead).
    Leaves,
    /// Records: size and root of the log; `value` is a [`TreeHead`](crate::records::TreeHead).
    TreeHead,
    /// Parts: upload `value` is the object from now on. More than one client may ask for it.
    Complete,
    /// Parts: upload `value` becomes none.
    Abort,
    /// Locks: version `value` is under compliance retention, that outlasts the history, from now on.
    Lock,
    /// Locks: version `value` is under it no more, or not for as long.
    Unlock,
    /// Replicas: `value` is a [`Digest`](crate::replicas::Digest).
    Digest,
}

/// How it ended, as far as the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It had effect, at one moment between call and return.
    Ok,
    /// It had none and never will.
    Fail,
    /// It may have had effect, or may have it at any time from its call on.
    Info,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// One sequence of operations; never used again after an outcome it does not know.
    pub client: u64,
    /// Which judge it is for.
    pub workload: Workload,
    /// The register, prefix, object, dataset or group.
    pub key: String,
    /// What was asked for.
    pub f: F,
    /// What was written, or what was answered.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// What had to be there for it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub old: Value,
    /// The log index that the answer names, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Nanoseconds of one process's monotonic clock, before the request left.
    pub call: u64,
    /// The same after the answer came; null where none is known, which means any time later.
    pub ret: Option<u64>,
    /// How it ended.
    #[serde(rename = "type")]
    pub outcome: Outcome,
    /// Read after every fault was healed and every other client had stopped.
    #[serde(rename = "final", default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
    /// Short and for machines: why it did not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An error of this prefix breaks a promise by itself, whatever else the history says: wrong bytes, an object that
/// does not open, an answer no server may give.
pub const BROKEN: &str = "broken:";

/// An error of this prefix says that nobody could serve the request in time, and nothing of the request.
pub const UNAVAILABLE: &str = "unavailable:";

impl Op {
    /// When it ended; for an unknown outcome the end of time.
    pub fn end(&self) -> u64 {
        self.ret.unwrap_or(u64::MAX)
    }

    /// Whether it had ended when `other` began.
    pub fn before(&self, other: &Self) -> bool {
        self.end() < other.call
    }

    /// Whether it had effect.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it had effect or may have.
    pub fn may_count(&self) -> bool {
        self.outcome != Outcome::Fail
    }

    /// Whether it was refused for this reason.
    pub fn refused(&self, reason: &str) -> bool {
        self.outcome == Outcome::Fail && self.error.as_deref() == Some(reason)
    }
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file.
    #[error("history cannot be read")]
    File(#[from] std::io::Error),
    /// A line that is no operation.
    #[error("line {line} is no operation")]
    Malformed {
        /// Which, from 1.
        line: u64,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A line that is too long to be one.
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes")]
    TooLong {
        /// Which, from 1.
        line: u64,
    },
    /// An operation that cannot be.
    #[error("line {line}: {what}")]
    Impossible {
        /// Which, from 1.
        line: u64,
        /// Why.
        what: Impossible,
    },
}

/// Why there can be no such operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// It ends before it begins.
    #[error("the operation ends before it begins")]
    Backwards,
    /// Its outcome is known and its end is not, or the other way round.
    #[error("an operation has an end exactly if its outcome is known")]
    NoEnd,
    /// Its client had not finished its last one.
    #[error("the client begins before its last operation has ended")]
    Overlaps,
    /// Its client had ended with an outcome it does not know.
    #[error("the client goes on after an outcome it does not know")]
    Retired,
}

/// What must hold of any history, checked operation by operation in the order of the file.
#[derive(Debug, Default)]
pub struct Clients {
    ended: HashMap<u64, u64>,
    retired: HashSet<u64>,
}

impl Clients {
    /// Takes in one more operation.
    pub fn admit(&mut self, op: &Op) -> Result<(), Impossible> {
        if op.ret.is_some() == (op.outcome == Outcome::Info) {
            return Err(Impossible::NoEnd);
        }
        if op.ret.is_some_and(|ret| ret < op.call) {
            return Err(Impossible::Backwards);
        }
        if self.retired.contains(&op.client) {
            return Err(Impossible::Retired);
        }
        if self.ended.get(&op.client).is_some_and(|end| op.call < *end) {
            return Err(Impossible::Overlaps);
        }
        match op.ret {
            Some(ret) => {
                self.ended.insert(op.client, ret);
            }
            None => {
                self.ended.remove(&op.client);
                self.retired.insert(op.client);
            }
        }
        Ok(())
    }
}

/// Reads a history, one operation at a time.
#[derive(Debug)]
pub struct Reader<R> {
    lines: R,
    line: u64,
    clients: Clients,
    buffer: Vec<u8>,
}

impl Reader<BufReader<std::fs::File>> {
    /// Of a file.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        Ok(Self::new(BufReader::new(std::fs::File::open(path)?)))
    }
}

impl<R: BufRead> Reader<R> {
    /// Of anything.
    pub fn new(lines: R) -> Self {
        Self {
            lines,
            line: 0,
            clients: Clients::default(),
            buffer: Vec::new(),
        }
    }

    fn read(&mut self) -> Result<Option<Op>, HistoryError> {
        self.buffer.clear();
        self.line += 1;
        let line = self.line;
        let mut bounded = (&mut self.lines).take(LINE_BYTES_MAX as u64 + 1);
        if bounded.read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(HistoryError::TooLong { line });
        }
        let op: Op = serde_json::from_slice(&self.buffer)
            .map_err(|source| HistoryError::Malformed { line, source })?;
        let admitted = self.clients.admit(&op);
        admitted.map_err(|what| HistoryError::Impossible { line, what })?;
        Ok(Some(op))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Op, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests;
