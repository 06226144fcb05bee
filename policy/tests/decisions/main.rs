//! What texts decide: default deny, forbid wins, bounds of roles, errors deny; and grants, which decide the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

mod bounds;
mod cost;
mod decide;
mod grants;

use policy::{Action, Policy, PolicyText, Request};
use proto::ids::{DatasetId, UnixMs};

/// 2026-11-26T10:00:00Z, a Thursday.
const THURSDAY_TEN: UnixMs = UnixMs(1_795_687_200_000);

fn parse(text: &str) -> Policy {
    PolicyText::parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The everyday request: a client reads a dataset for its service.
fn request() -> Request {
    Request {
        principal: "spiffe://ch-zrh/client/app".parse().unwrap(),
        action: Action::Read,
        dataset: Some(DatasetId([1; 16])),
        purpose: "service".parse().unwrap(),
        case: None,
        recipient_region: "ch-zrh".parse().unwrap(),
        at: THURSDAY_TEN,
    }
}
