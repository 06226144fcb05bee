//! Relocation of a dataset between two regions, explored state by state (docs/decisions/0031).
//!
//! Owns the world around the decisions that ship (`node_state::relocation`, `kms_state::relocation`): two regions whose
//! logs are atomic, their KMSs, a mover that forgets, clients, and a network that keeps every message for ever and
//! delivers it whenever and as often as it likes. Refuses to decide anything itself: what a region does with a message is
//! what those crates say.

mod action;
pub mod explore;
mod invariants;
mod kms;
mod message;
mod mover;
mod network;
mod operator;
mod register;
pub mod scenario;
mod shard;
mod world;

pub use action::Action;
pub use explore::{Explored, explore};
pub use scenario::Scenario;
pub use world::World;
