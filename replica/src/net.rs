//! What members of a group say to each other.
//!
//! Owns the messages' meaning ([`handler`]), the engine's network on top of [`link::Link`], and the gRPC form of
//! both. Refuses a caller that is not the enrolled member it claims to be, and a message that is not for this
//! member. The link is a trait: a simulation carries the same messages in memory.

pub(crate) mod attend;
pub(crate) mod client;
pub mod handler;
pub mod link;
mod piggyback;
pub(crate) mod seen;
pub(crate) mod server;
pub(crate) mod snapshot_recv;
pub(crate) mod snapshot_send;
pub(crate) mod tonic_link;
mod wellformed;

pub use server::RaftService;
pub use tonic_link::TonicDialer;
