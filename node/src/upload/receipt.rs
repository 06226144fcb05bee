//! The receipt: this node's signature over what it holds of a version, durably.
//!
//! Owns its body and the list digest. Refuses to name a block that is damaged, not durable, of another dataset, or
//! stored under an older upload epoch than the receipt states: garbage collection goes by the epoch on disk.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::NodeId;
use proto::v1;
use transport::LocalIdentity;

use super::open::Upload;
use crate::blocks::{BlockHead, BlockStore};

/// Label of the signature over an encoded `ReceiptBody`.
pub const RECEIPT_LABEL: &str = "reduit/v1/receipt";

/// BLAKE3-256 over number (u32 big-endian), bytes (u32 big-endian) and digest of each block, in order.
pub fn list_digest<'a>(blocks: impl IntoIterator<Item = (u32, u32, &'a [u8; 32])>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (number, bytes, digest) in blocks {
        hasher.update(&number.to_be_bytes());
        hasher.update(&bytes.to_be_bytes());
        hasher.update(digest);
    }
    *hasher.finalize().as_bytes()
}

/// Signs for every block of the upload's version that is held for it. *Blocks*: reads a header each.
pub(super) fn receipt(
    node: NodeId,
    local: &LocalIdentity,
    store: &BlockStore,
    upload: &Upload,
) -> v1::Receipt {
    let owner = &upload.owner;
    let heads: Vec<BlockHead> = store
        .of_version(upload.version)
        .into_iter()
        .filter(|held| !held.damaged)
        .filter_map(|held| store.head(held.key).ok())
        .filter(|head| {
            head.owner.dataset == owner.dataset
                && head.owner.shard == owner.shard
                && head.owner.upload_epoch >= owner.upload_epoch
        })
        .collect();
    let list = heads
        .iter()
        .map(|head| (head.key.number.0, head.bytes, &head.digest.0));
    let body = v1::ReceiptBody {
        node_id: node.0,
        shard: owner.shard.0,
        dataset_id: owner.dataset.into(),
        version_id: upload.version.into(),
        upload_epoch: owner.upload_epoch.0,
        begun_at_ms: owner.begun_at.0,
        held: ranges(heads.iter().map(|head| head.key.number.0)),
        list_digest: Bytes::copy_from_slice(&list_digest(list)),
    };
    let body = Bytes::from(body.encode_to_vec());
    let signature = Bytes::copy_from_slice(&local.sign(RECEIPT_LABEL, &body));
    v1::Receipt { body, signature }
}

/// Ascending numbers as ranges.
fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<v1::BlockRange> {
    let mut out: Vec<v1::BlockRange> = Vec::new();
    for number in numbers {
        match out.last_mut() {
            Some(last) if last.first + last.count == number => last.count += 1,
            _ => out.push(v1::BlockRange {
                first: number,
                count: 1,
            }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_few_as_can_be() {
        let range = |first, count| v1::BlockRange { first, count };
        assert_eq!(ranges([].into_iter()), []);
        assert_eq!(ranges([0, 1, 2].into_iter()), [range(0, 3)]);
        assert_eq!(
            ranges([1, 3, 4, 9].into_iter()),
            [range(1, 1), range(3, 2), range(9, 1)]
        );
    }

    #[test]
    fn golden_bytes_of_a_list_digest() {
        let digest = list_digest([(0, 5, &[1; 32]), (1, 7, &[2; 32])]);
        let mut message = Vec::new();
        message.extend([0, 0, 0, 0, 0, 0, 0, 5]);
        message.extend([1; 32]);
        message.extend([0, 0, 0, 1, 0, 0, 0, 7]);
        message.extend([2; 32]);
        assert_eq!(digest, *blake3::hash(&message).as_bytes());
    }
}
