//! The consensus host: many Raft groups a process, one log for all of them, one state store each.
//!
//! Owns durability, order, membership and snapshots. Refuses to know what the commands mean: `node` and `kms` bring
//! a [`machine::Machine`].

#[cfg(all(feature = "danger_ack_before_sync", not(debug_assertions)))]
compile_error!("danger_ack_before_sync breaks durability and has no place in a release build");
#[cfg(all(feature = "danger_read_without_barrier", not(debug_assertions)))]
compile_error!(
    "danger_read_without_barrier breaks linearizability and has no place in a release build"
);

#[cfg(feature = "bench")]
pub mod bench;
pub mod disk;
pub mod host;
pub mod log;
pub mod machine;
pub mod net;
pub(crate) mod raft;
pub(crate) mod reserved;
pub mod state;

pub use host::{Group, Host, HostOptions};
pub use raft::types::Member;
