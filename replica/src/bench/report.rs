//! Rows, and what they are held against.

use std::fmt;
use std::time::Duration;

use super::loader::{Load, Op, Outcome};

/// One cell's result.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose.
    pub name: &'static str,
    /// What was asked.
    pub op: Op,
    /// Concurrent clients.
    pub clients: usize,
    /// Bytes of a value.
    pub bytes: usize,
    /// Answered requests a second.
    pub per_second: f64,
    /// Half of the requests took at most this.
    pub p50: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
    /// Requests that failed.
    pub failed: usize,
    /// Median of a synced write just before.
    pub sync: Duration,
}

impl Row {
    pub(crate) fn new(name: &'static str, load: &Load, outcome: Outcome, sync: Duration) -> Self {
        let at = |share: f64| {
            let last = outcome.latencies.len() - 1;
            outcome.latencies[(last as f64 * share) as usize]
        };
        Self {
            name,
            op: load.op,
            clients: load.clients,
            bytes: load.bytes,
            per_second: outcome.latencies.len() as f64 / outcome.taken.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            failed: outcome.failed,
            sync,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Put => "put",
            Op::Get => "get",
        };
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        write!(
            f,
            "{:<7} {op} {:>5} B {:>4} clients {:>8.0}/s  p50 {:>7.2} ms  p99 {:>7.2} ms  \
             failed {:>3}  sync {:.2} ms",
            self.name,
            self.bytes,
            self.clients,
            self.per_second,
            ms(self.p50),
            ms(self.p99),
            self.failed,
            ms(self.sync),
        )
    }
}

/// What the comparison has to reach at 64 clients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// Our requests a second, as a multiple of etcd's.
    pub times: f64,
}

/// All rows as a table, and the sentences in which we fall below `floor`.
pub fn render(rows: &[Row], floor: Floor) -> (String, Vec<String>) {
    let mut table = String::new();
    let mut short = Vec::new();
    for ours in rows.iter().filter(|row| row.name == "reduit") {
        let same = |row: &&Row| {
            row.name == "etcd"
                && row.op == ours.op
                && row.clients == ours.clients
                && row.bytes == ours.bytes
        };
        table.push_str(&format!("{ours}\n"));
        let Some(theirs) = rows.iter().find(same) else {
            continue;
        };
        let times = ours.per_second / theirs.per_second;
        table.push_str(&format!("{theirs}\n        {times:.2} x etcd\n"));
        if ours.clients != 64 {
            continue;
        }
        let what = format!("{:?} of {} B at 64 clients", ours.op, ours.bytes);
        if times < floor.times {
            short.push(format!(
                "{what}: {times:.2} x etcd, floor {:.2} x",
                floor.times
            ));
        }
        if ours.p99 > theirs.p99 {
            short.push(format!(
                "{what}: p99 {:?} over etcd's {:?}",
                ours.p99, theirs.p99
            ));
        }
    }
    (table, short)
}
