//! Receipts as the leader checks them before it proposes what they vouch for.
//!
//! Owns signature, signer, and that the receipt is of this very upload and these very blocks. Refuses any that does
//! not hold; one of a node that is no longer enrolled is left out, since it counts for nothing.

use node_state::limits::{RANGES_MAX, RECEIPTS_MAX};
use prost::Message as _;
use proto::ids::{DatasetId, GroupId, NodeId, ObjectVersionId, Role};
use proto::transcript;
use proto::v1;
use transport::enrolment::EnrolmentTable;
use transport::{Fault, Faulty};

use crate::upload::list_digest;

/// Why a receipt is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// More than a shard has members.
    #[error("there are more than {RECEIPTS_MAX} receipts")]
    TooMany,
    /// It does not decode, or its ranges are none.
    #[error("it does not decode, or names blocks the object does not have")]
    Malformed,
    /// Its signature does not verify.
    #[error("node {0} did not sign it")]
    Signature(NodeId),
    /// It is of another upload.
    #[error("node {0} gave it for another upload")]
    OtherUpload(NodeId),
    /// Its upload is of an older epoch than the entry says.
    #[error("node {0} holds blocks of an older upload epoch")]
    OlderEpoch(NodeId),
    /// It is over other blocks.
    #[error("node {0} gave it for other blocks")]
    OtherBlocks(NodeId),
}

impl Faulty for ReceiptError {
    fn fault(&self) -> Fault {
        match self {
            Self::Signature(_) => Fault::Denied,
            _ => Fault::Caller,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "receipts-too-many",
            Self::Malformed => "receipt-malformed",
            Self::Signature(_) => "receipt-signature",
            Self::OtherUpload(_) => "receipt-other-upload",
            Self::OlderEpoch(_) => "receipt-older-epoch",
            Self::OtherBlocks(_) => "receipt-other-blocks",
        }
    }
}

/// What receipts must be of.
pub(crate) struct Upload<'a> {
    pub(crate) shard: GroupId,
    pub(crate) dataset: DatasetId,
    /// The id its blocks are kept under: a version's or a part's.
    pub(crate) version: ObjectVersionId,
    pub(crate) upload_epoch: u64,
    pub(crate) blocks: &'a [v1::BlockRef],
}

/// What apply needs of the receipts.
pub(crate) fn verify(
    table: &EnrolmentTable,
    upload: &Upload<'_>,
    receipts: &[v1::Receipt],
) -> Result<Vec<v1::ReceiptClaim>, ReceiptError> {
    if receipts.len() > RECEIPTS_MAX {
        return Err(ReceiptError::TooMany);
    }
    let mut claims = Vec::with_capacity(receipts.len());
    for receipt in receipts {
        let body =
            v1::ReceiptBody::decode(receipt.body.clone()).map_err(|_| ReceiptError::Malformed)?;
        let node = NodeId(body.node_id);
        let Some(signer) = table.by_node_id(Role::Node, node) else {
            continue;
        };
        signer
            .public_key
            .verify(transcript::LABEL_RECEIPT, &receipt.body, &receipt.signature)
            .map_err(|_| ReceiptError::Signature(node))?;
        let same = body.shard == upload.shard.0
            && body.dataset_id == upload.dataset.as_bytes()[..]
            && body.version_id == upload.version.as_bytes()[..];
        if !same {
            return Err(ReceiptError::OtherUpload(node));
        }
        // Garbage collection goes by the epoch on disk: the entry must not claim a newer one.
        if body.upload_epoch < upload.upload_epoch {
            return Err(ReceiptError::OlderEpoch(node));
        }
        let list = listed(&body.held, upload.blocks)?;
        if body.list_digest != list[..] {
            return Err(ReceiptError::OtherBlocks(node));
        }
        claims.push(v1::ReceiptClaim {
            node_id: body.node_id,
            begun_at_ms: body.begun_at_ms,
            held: body.held,
        });
    }
    Ok(claims)
}

/// The list digest that a node which holds `held` of these blocks must have signed.
fn listed(held: &[v1::BlockRange], blocks: &[v1::BlockRef]) -> Result<[u8; 32], ReceiptError> {
    if held.len() > RANGES_MAX {
        return Err(ReceiptError::Malformed);
    }
    let mut list = Vec::new();
    for range in held {
        let end = range
            .first
            .checked_add(range.count)
            .ok_or(ReceiptError::Malformed)?;
        let of = blocks
            .get(range.first as usize..end as usize)
            .ok_or(ReceiptError::Malformed)?;
        // Each block once: ranges that overlap would make the list longer than the object.
        if list.len() + of.len() > blocks.len() {
            return Err(ReceiptError::Malformed);
        }
        for (number, block) in (range.first..end).zip(of) {
            let digest: &[u8; 32] = block
                .digest
                .as_ref()
                .try_into()
                .map_err(|_| ReceiptError::Malformed)?;
            list.push((number, block.bytes, digest));
        }
    }
    Ok(list_digest(list))
}
