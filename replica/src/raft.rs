//! The engine's side of this crate: openraft's types, its log and state adapters, and our encodings.
//!
//! Owns every mention of openraft's storage traits. Refuses: any other serialisation than [`codec`]'s; what is on
//! disk and on the wire is ours and versioned, whatever the engine does to its types.

pub(crate) mod codec;
pub(crate) mod log_store;
pub(crate) mod machine;
pub(crate) mod snapshot;
pub(crate) mod types;

#[cfg(test)]
mod suite_tests;
