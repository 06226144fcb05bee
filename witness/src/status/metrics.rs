//! The same numbers in Prometheus' text format.
//!
//! Owns names and labels. Refuses to let what a log calls itself end a label.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{LogStatus, MonitorStatus, Status};
use crate::alarm::Rule;

/// Prometheus' text format.
pub(super) fn exposition(status: &Status, counts: &BTreeMap<(String, Rule), u64>) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    };
    let of = |origin: &str| format!("origin=\"{}\"", label(origin));
    let logs = |value: &dyn Fn(&LogStatus) -> Option<u64>| -> Vec<(String, u64)> {
        let samples = status.logs.iter();
        let samples = samples.filter_map(|log| Some((of(&log.origin), value(log)?)));
        samples.collect()
    };
    metric(
        "reduit_witness_cosigned_leaves",
        "gauge",
        "Leaves of the checkpoint cosigned last.",
        logs(&|log| log.cosigned_size),
    );
    metric(
        "reduit_witness_cosigned_seconds",
        "gauge",
        "When it was cosigned, in Unix seconds.",
        logs(&|log| log.cosigned_s),
    );
    let answered = status.logs.iter().flat_map(|log| {
        let answered = log.answered.iter();
        answered.map(|(code, n)| (format!("{},code=\"{code}\"", of(&log.origin)), *n))
    });
    metric(
        "reduit_witness_answers_total",
        "counter",
        "Answers to add-checkpoint.",
        answered.collect(),
    );
    let monitors = |value: fn(&MonitorStatus) -> Option<u64>| {
        logs(&|log| log.monitor.as_ref().and_then(value))
    };
    metric(
        "reduit_monitor_leaves",
        "gauge",
        "Leaves of the checkpoint held.",
        monitors(|m| Some(m.size)),
    );
    metric(
        "reduit_monitor_hashed_leaves",
        "gauge",
        "Leaves hashed again.",
        monitors(|m| Some(m.hashed)),
    );
    metric(
        "reduit_monitor_read_leaves",
        "gauge",
        "Leaves read.",
        monitors(|m| m.read),
    );
    metric(
        "reduit_monitor_news_seconds",
        "gauge",
        "When something newer was last seen, in Unix seconds.",
        monitors(|m| Some(m.news_ms / 1000)),
    );
    metric(
        "reduit_monitor_caught",
        "gauge",
        "Whether the log was caught.",
        monitors(|m| Some(m.is_stopped.into())),
    );
    let alarms = counts.iter();
    let alarms =
        alarms.map(|((log, rule), n)| (format!("{},rule=\"{}\"", of(log), rule.name()), *n));
    metric(
        "reduit_monitor_alarms_total",
        "counter",
        "Alarms raised since the start.",
        alarms.collect(),
    );
    let held = status
        .conditions
        .iter()
        .chain(status.permanent.iter().map(|e| &e.alarm));
    let held: BTreeMap<_, _> = held
        .map(|alarm| {
            (
                format!("{},rule=\"{}\"", of(&alarm.origin), alarm.rule.name()),
                1,
            )
        })
        .collect();
    metric(
        "reduit_monitor_alarm",
        "gauge",
        "Alarms that hold now.",
        held.into_iter().collect(),
    );
    out
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
