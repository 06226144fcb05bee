//! Side doors for the fuzz targets, in no shipped build: what a committer hands in, before it is proposed.
//!
//! Owns nothing. Each door answers with what would be proposed, or with nothing.

use bytes::Bytes;
use proto::ids::{DatasetId, GroupId, LeaseId, ObjectVersionId};
use proto::v1;
use transport::Peer;
use transport::enrolment::EnrolmentTable;

use crate::shard::{receipts, tokens};

/// A lease token that `peer` wants to commit under.
pub fn token(
    table: &EnrolmentTable,
    peer: &Peer,
    dataset: &v1::DatasetRecord,
    encoded: &Bytes,
) -> Option<(LeaseId, v1::TokenRecord)> {
    tokens::verify(table, peer, dataset, encoded).ok()
}

/// Receipts of an upload to shard `shard` that is to be finished as `entry`.
pub fn receipts(
    table: &EnrolmentTable,
    shard: GroupId,
    dataset: DatasetId,
    entry: &v1::ObjectEntry,
    given: &[v1::Receipt],
) -> Option<Vec<v1::ReceiptClaim>> {
    let version = ObjectVersionId::try_from(entry.version_id.as_ref()).ok()?;
    let upload = receipts::Upload {
        shard,
        dataset,
        version,
        upload_epoch: entry.upload_epoch,
        blocks: &entry.blocks,
    };
    receipts::verify(table, &upload, given).ok()
}
