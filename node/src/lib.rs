//! The storage daemon: catalog and shards over Raft, sealed blocks beside them.
//!
//! **Invariant:** no key and no plaintext: this crate does not know `envelope`.

mod approvals;
mod authority;
mod backup;
pub mod blocks;
mod catalog;
pub mod config;
mod core;
mod disk;
mod drivers;
pub mod error;
mod federation;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod groups;
mod health;
pub mod machine;
mod metered;
mod operate;
mod peers;
mod relocation;
pub mod repair;
mod restore;
pub mod server;
mod shard;
mod time;
pub mod upload;
mod warrants;

pub use config::{Config, ConfigError, EXAMPLE as CONFIG_EXAMPLE, LogFormat};
pub use error::CallError;
pub use server::{Node, Parts, StartError};
