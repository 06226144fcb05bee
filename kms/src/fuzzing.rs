//! Side doors for the fuzz targets, in no shipped build: what a caller asks for, before anything is recorded.
//!
//! Owns nothing.

use proto::ids::Identity;
use proto::v1;
use transport::{LocalIdentity, Peer, SharedClock};

use crate::opens::OpenObjects;
use crate::sessions::Sessions;

/// Object versions that an open request names, where it is one.
pub fn open_request(actor: &Identity, request: v1::OpenRequest, region: &str) -> Option<usize> {
    let open = OpenObjects::parse(actor, request, region).ok()?;
    Some(open.items.len())
}

/// A caller's offer of a session to the replica `local`, answered.
pub fn session_offer(
    local: &LocalIdentity,
    peer: &Peer,
    request: &v1::OpenSessionRequest,
    clock: &SharedClock,
) -> Option<v1::OpenSessionReply> {
    Sessions::new()
        .open(local, peer, request, &[], clock.now())
        .ok()
}
