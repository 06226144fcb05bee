//! Receipts: what shows that every block is durable on a majority.
//!
//! Owns the count, per block, against the membership at the command's own log position. Refuses receipts of nodes
//! that are no voters there by not counting them; node ids are never reused, so a receipt cannot be another's.

use std::collections::BTreeSet;

use proto::danger::{Switch, broken};
use proto::ids::{NodeId, UnixMs};
use proto::v1;

use super::Apply;
use super::refusal::{malformed, refuse};
use crate::limits::{RANGES_MAX, RECEIPTS_MAX};

impl Apply<'_> {
    /// Every one of `blocks` blocks is held by a majority.
    pub(super) fn on_majority(
        &self,
        receipts: &[v1::ReceiptClaim],
        blocks: u32,
    ) -> Result<(), v1::Refused> {
        if receipts.len() > RECEIPTS_MAX || !receipts.iter().all(|receipt| sorted(receipt, blocks))
        {
            return malformed();
        }
        // Between two cuts every block is held by the same nodes.
        let mut cuts = BTreeSet::from([0]);
        for range in receipts.iter().flat_map(|receipt| &receipt.held) {
            cuts.extend([range.first, range.first + range.count]);
        }
        let whole = cuts.range(..blocks).all(|block| {
            let held = receipts
                .iter()
                .filter(|receipt| holds(receipt, *block))
                .map(|receipt| NodeId(receipt.node_id))
                .collect::<BTreeSet<_>>();
            self.majority(&held)
        });
        if whole {
            Ok(())
        } else {
            refuse(v1::Refusal::NotOnMajority)
        }
    }

    /// A majority saw the upload begin before `expiry`: one node's clock alone does not stretch a lease.
    pub(super) fn begun_before(&self, receipts: &[v1::ReceiptClaim], expiry: UnixMs) -> bool {
        let begun = receipts
            .iter()
            .filter(|receipt| receipt.begun_at_ms != 0 && receipt.begun_at_ms < expiry.0)
            .map(|receipt| NodeId(receipt.node_id))
            .collect();
        self.majority(&begun)
    }

    fn majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        if broken(Switch::OneReceipt) {
            return !nodes.is_empty();
        }
        if broken(Switch::ReceiptsOfAnyone) {
            // A majority of three, whoever they are and whoever votes by now.
            return nodes.len() >= 2;
        }
        self.voters.majority(nodes)
    }
}

/// Ranges ascend, do not overlap, are not empty and end within the object.
fn sorted(receipt: &v1::ReceiptClaim, blocks: u32) -> bool {
    let mut from = 0;
    receipt.held.len() <= RANGES_MAX
        && receipt.held.iter().all(|range| {
            let Some(end) = range.first.checked_add(range.count) else {
                return false;
            };
            let fits = range.first >= from && range.count > 0 && end <= blocks;
            from = end;
            fits
        })
}

fn holds(receipt: &v1::ReceiptClaim, block: u32) -> bool {
    let after = receipt.held.partition_point(|range| range.first <= block);
    after > 0 && block - receipt.held[after - 1].first < receipt.held[after - 1].count
}
