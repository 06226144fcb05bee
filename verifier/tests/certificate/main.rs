//! Certificates of a relocation built from two true logs, and everything that can be bent in them.

mod build;
mod python;
mod verdicts;
