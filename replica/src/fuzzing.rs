//! Side doors for the fuzz targets, in no shipped build: encodings that peers and disks reach only through the engine.
//!
//! Owns nothing. Each door answers with what was understood, encoded again, or with nothing.

use std::path::Path;

use bytes::Bytes;
use openraft::EntryPayload;
use proto::ids::{NodeId, RegionId};

use crate::host::folder::{self, Owner};
use crate::raft::codec::{self, AppliedState, Order};

/// An entry's payload, as it comes from a peer or out of the log.
pub fn payload(bytes: Bytes) -> Option<Bytes> {
    let payload = codec::payload_from(bytes).ok()?;
    Some(codec::payload_bytes(&payload))
}

/// What a normal entry asks for, as it is read when it is applied.
pub fn order(bytes: Bytes) -> Option<Bytes> {
    match codec::payload_from(bytes).ok()? {
        EntryPayload::Normal(command) => Some(Order::decode(&command).ok()?.encode().0),
        _ => None,
    }
}

/// The note beside a state, as a peer's snapshot or the state store has it.
pub fn applied(bytes: &[u8]) -> Option<Bytes> {
    AppliedState::decode(bytes).ok().map(|state| state.encode())
}

/// A stored vote.
pub fn vote(bytes: &[u8]) -> Option<Bytes> {
    let vote = codec::vote_from_bytes(bytes).ok()?;
    Some(codec::vote_bytes(&vote))
}

/// A stored log id.
pub fn log_id(bytes: &[u8]) -> Option<Bytes> {
    let id = codec::log_id_from_bytes(bytes).ok()?;
    Some(codec::log_id_bytes(&id))
}

/// Whether the file `identity` is that of a member.
pub fn folder(bytes: &[u8], cluster: [u8; 16], region: &RegionId, node: NodeId) -> bool {
    let owner = Owner {
        cluster,
        region,
        node,
    };
    folder::check(Path::new("folder"), bytes, &owner).is_ok()
}
