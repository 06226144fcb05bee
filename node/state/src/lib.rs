//! The pure state machines of a region's catalog and shards: commands in, answers and state out.
//!
//! Owns the state format, the order of checks in apply, listings and the invariants. Refuses clocks, randomness,
//! files and runtimes: the same log gives the same bytes on every replica (DESIGN section 6).

mod at;
pub mod backup;
pub mod catalog;
pub mod feed;
pub mod invariants;
pub mod keys;
pub mod limits;
pub mod listing;
pub mod local;
pub mod read;
mod record;
pub mod relocation;
pub mod root;
pub mod shard;
pub mod time;

pub use at::{At, Majority, Unknown};
pub use catalog::CatalogMachine;
pub use record::{CatalogMeta, ShardMeta};
pub use shard::ShardMachine;
