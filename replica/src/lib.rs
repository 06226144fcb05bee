//! The consensus host: many Raft groups a process, one log for all of them, one state store each.
//!
//! Owns durability, order, membership and snapshots. Refuses to know what the commands mean: `node` and `kms` bring
//! a [`machine::Machine`].

#[cfg(feature = "bench")]
pub mod bench;
pub(crate) mod blocking;
pub mod disk;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod log;
pub mod machine;
pub mod net;
pub(crate) mod raft;
pub(crate) mod reserved;
pub mod state;

pub use host::{Group, Host, HostOptions};
pub use raft::types::Member;
