//! What shards and KMSs of both regions name when a dataset moves from one to the other (DESIGN section 8).
//!
//! Owns the values that more than one of the pure machines decides on. Refuses to decide: the shards' part is in
//! `node-state`, the KMSs' in `kms-state`, and neither imports the other.

use crate::ids::{DatasetEpoch, DatasetId, IdError, LeafIndex, LogIndex, RelocationId};

pub mod words;

/// Which relocation of which dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The dataset.
    pub dataset: DatasetId,
    /// The relocation.
    pub relocation: RelocationId,
}

impl Named {
    /// As a message has them.
    ///
    /// # Errors
    /// If one of them is no id.
    pub fn parse(dataset: &[u8], relocation: &[u8]) -> Result<Self, IdError> {
        Ok(Self {
            dataset: DatasetId::try_from(dataset)?,
            relocation: RelocationId::try_from(relocation)?,
        })
    }
}

/// Digest of a dataset's catalog at a fence: every version, delete marker, ciphertext digest, metadata, retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CatalogRoot(pub [u8; 32]);

/// The one record that moves a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moved {
    /// Which relocation.
    pub relocation: RelocationId,
    /// The dataset's epoch from here on.
    pub epoch: DatasetEpoch,
    /// Log index, in the source shard, of the fence under which all copies were found equal. A relocation may be fenced
    /// and reverted more than once, and what was equal at one fence says nothing of what was written after it.
    pub fence: LogIndex,
    /// The root that both sides had at that fence.
    pub root: CatalogRoot,
}

/// What a source's KMS has released of one relocation: the opens in its leaves up to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Released {
    /// Object versions whose DEKs were released.
    pub objects: u64,
    /// The last leaf that records such a release; `None` where there is none.
    pub through: Option<LeafIndex>,
}
