//! Real daemons in network namespaces of their own, faults, workloads, verdicts.
//!
//! Owns a run from an empty folder to a report. Refuses to judge what it records: that is `checker`'s, which other
//! programs can do as well from the same file.

pub mod nemesis;
pub mod net;
pub mod oracle;
pub mod recorder;
pub mod relocate;
pub mod report;
pub mod run;
pub mod selftest;
pub mod workload;
pub mod world;
