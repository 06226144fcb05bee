//! What another group or region says, and when it counts.
//!
//! Owns the records that are sent and the rule that a majority of the replicas that made one has to vouch for it: a single
//! replica may say what it never committed. Refuses to check signatures, which were the leader's to check, and to know
//! how its voters are learned.

use std::collections::BTreeSet;

use proto::ids::{DatasetEpoch, HandOverKeyId, LogIndex, NodeId, RelocationId};
use proto::relocation::{CatalogRoot, Released};

use crate::at::Majority;

/// A record of another group for which a majority of its replicas vouch. Only [`Vouched::by_majority`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched<R>(R);

/// Signers that are no majority of the other group's replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{signers} signers are no majority of the other group's replicas")]
pub struct NoMajority {
    /// How many signed.
    pub signers: usize,
}

impl<R> Vouched<R> {
    /// Counts signers against the voters of that group: of another region, those its descriptor names.
    pub fn by_majority(
        record: R,
        signers: &BTreeSet<NodeId>,
        voters: &dyn Majority,
    ) -> Result<Self, NoMajority> {
        if voters.majority(signers) {
            Ok(Self(record))
        } else {
            let signers = signers.len();
            Err(NoMajority { signers })
        }
    }

    /// What is vouched for.
    pub fn record(&self) -> &R {
        &self.0
    }
}

/// The source shard: changes from this log index on can be read for the relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DepartureRecord {
    /// Which relocation.
    pub relocation: RelocationId,
    /// Log index at which it was opened.
    pub base: LogIndex,
}

/// The source KMS: DEKs are released for the relocation, sealed to this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRecord {
    /// Which relocation.
    pub relocation: RelocationId,
    /// Whose holder opens what is released.
    pub hand_over: HandOverKeyId,
}

/// The source shard: no write is accepted after this log index, and this is what there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceRecord {
    /// Which relocation.
    pub relocation: RelocationId,
    /// The epoch in which the dataset was fenced.
    pub epoch: DatasetEpoch,
    /// Where the fence stands in the source shard's log.
    pub fence: LogIndex,
    /// The catalog there.
    pub root: CatalogRoot,
}

/// The source shard: that fence is over, and writes were accepted after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reverted {
    /// Which relocation.
    pub relocation: RelocationId,
    /// Which of its fences.
    pub fence: LogIndex,
}

/// The source shard: the relocation is over, the dataset is active there, and no delayed request of that relocation
/// will open or fence it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ended {
    /// Which relocation.
    pub relocation: RelocationId,
}

/// The source KMS: nothing is released of this relocation unless that fence is reverted, and this is all that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Paused {
    /// Which relocation.
    pub relocation: RelocationId,
    /// Under which of its fences.
    pub fence: LogIndex,
    /// What was released up to then.
    pub released: Released,
}

/// The source KMS: nothing is released of this relocation ever again, and this is all that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Closed {
    /// Which relocation.
    pub relocation: RelocationId,
    /// What was released.
    pub released: Released,
}

/// The source KMS: every replica has destroyed the dataset's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shredded {
    /// Which relocation.
    pub relocation: RelocationId,
}

/// The destination KMS: the hand-over key is destroyed, nothing that was released under it can be opened with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandOverEnded {
    /// Which relocation.
    pub relocation: RelocationId,
}
