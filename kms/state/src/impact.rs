//! What a key is in use for: its live leases, and who used it last, read back from the log.
//!
//! Owns these reads. Refuses to look through the whole log: what is not among the leaves looked at is said to be not
//! among them, never to be none.

use prost::Message;
use proto::ids::{DatasetId, LeafIndex};
use proto::store::{Reader, prefix_end};
use proto::v1::{KekRecord, KeyUse, LeaseRecord, LiveLeases};
use std::collections::BTreeMap;
use tlog::{Field, Kind, Leaf, Openings};

use crate::layout;
use crate::read;

/// Live leases of a dataset by the KEK version they are under, oldest version first.
pub fn live_leases(state: &dyn Reader, dataset: &DatasetId) -> Vec<LiveLeases> {
    let now = read::region_time(state).0;
    let start = layout::leases_of(dataset);
    let end = prefix_end(&start).expect("the table's byte is not 0xFF");
    let mut by_version: BTreeMap<u32, LiveLeases> = BTreeMap::new();
    state.scan(&start, &end, &mut |_, value| {
        let lease = LeaseRecord::decode(value).expect("state holds what this machine wrote");
        if lease.expires_at_ms > now {
            let live = by_version.entry(lease.kek_version).or_default();
            live.kek_version = lease.kek_version;
            live.latest_expiry_ms = live.latest_expiry_ms.max(lease.expires_at_ms);
            match lease.metadata {
                true => live.metadata += 1,
                false => live.sealing += 1,
            }
        }
        true
    });
    by_version.into_values().collect()
}

/// The newest lease or open of a key among the last `leaves_max` leaves of the log, and how many were looked at.
pub fn last_use(state: &dyn Reader, key: &KekRecord, leaves_max: u64) -> (Option<KeyUse>, u64) {
    let size = read::frontier(state).size();
    let pseudonym = hex::encode(&key.pseudonym);
    let oldest = size.saturating_sub(leaves_max);
    for index in (oldest..size).rev() {
        let Some(bytes) = state.value(&layout::leaf(index)) else {
            continue;
        };
        // Most leaves are of other datasets: not worth parsing.
        let named = bytes
            .windows(pseudonym.len())
            .any(|window| window == pseudonym.as_bytes());
        if let Some(used) = named
            .then(|| used(state, key, LeafIndex(index), &bytes))
            .flatten()
        {
            return (Some(used), size - index);
        }
    }
    (None, size - oldest)
}

fn used(state: &dyn Reader, key: &KekRecord, index: LeafIndex, bytes: &[u8]) -> Option<KeyUse> {
    let leaf = Leaf::parse(bytes).expect("state holds what this machine wrote");
    let kind = match leaf.kind() {
        Kind::Lease => "lease",
        Kind::MetadataLease => "metadata-lease",
        Kind::Open => "open",
        _ => return None,
    };
    let link = leaf.dataset()?;
    if link.pseudonym.0 != key.pseudonym[..] {
        return None;
    }
    // A salt may have been erased: then the leaf shows less.
    let openings = state.value(&layout::openings(index.0)).unwrap_or_default();
    let shown = Openings::kept(&openings)
        .ok()
        .and_then(|openings| tlog::openings_of(&leaf, &openings).ok());
    let field = |field| {
        let shown = shown.as_ref().and_then(|shown| shown.fields.get(&field));
        shown.cloned().unwrap_or_default()
    };
    Some(KeyUse {
        leaf_index: index.0,
        time_ms: leaf.time_ms().0,
        kind: kind.to_owned(),
        purpose: leaf.purpose().as_str().to_owned(),
        actor: field(Field::Actor),
        on_behalf_of: field(Field::OnBehalfOf),
    })
}
