//! The thinking of a region in one process, from seeds: its machines alone, and on replicas whose disks, network and
//! power fail.
//!
//! Owns the world around the code that ships, and the judgement of what that code promised. Refuses to imitate the
//! product: log, host, engine and machines are the crates that ship; what they are compared with are models of a few
//! maps. README.md says how to run it.

pub mod client;
pub mod cluster;
mod fleet;
pub mod grid;
pub mod judge;
pub mod kinds;
pub mod kms;
pub mod load;
pub mod logbook;
pub mod machine;
mod nemesis;
pub mod net;
pub mod node;
pub mod records;
pub mod roster;
pub mod run;
mod stored;
mod work;

/// Something the product promised and did not keep. Says what, in ids and keys of the test's own making.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// Answers with [`Broken`] unless the condition holds.
#[macro_export]
macro_rules! hold {
    ($ok:expr, $($what:tt)+) => {
        if !$ok {
            return Err($crate::Broken(format!($($what)+)));
        }
    };
}
