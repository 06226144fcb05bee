//! Regions under load, measured. One program, so that it is linked once.

#[path = "../regions/common/mod.rs"]
mod common;
mod held;
mod hostile;
mod soak;
mod storm;
