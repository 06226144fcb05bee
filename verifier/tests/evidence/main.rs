//! Evidence folders built from a true log, and everything that can be bent in them.

mod build;
mod go;
mod hostile;
mod mutations;
mod verdicts;
