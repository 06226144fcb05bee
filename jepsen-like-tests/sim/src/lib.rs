//! One shard's members in one process, on disks, state stores and a network that fail by seed.
//!
//! Owns the world around the code that ships: power, wires, clients and the judgement of what they were promised.
//! Refuses to imitate the product: log, host, engine and shard machine are the crates that ship. The seed fixes
//! faults, delays and load; the engine's own election jitter comes from the system, so a seed replays the world and
//! nearly always, but not provably, the interleaving.

pub mod client;
pub mod cluster;
pub mod grid;
pub mod judge;
pub mod load;
pub mod machine;
pub mod net;
pub mod run;

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
