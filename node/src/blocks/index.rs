//! Which blocks are held, where, and which of them are damaged: in memory, rebuilt from headers at start.
//!
//! Owns about 90 bytes a block, in one ordered map so that a version's blocks stand together. Refuses to hold a
//! whole digest: 16 of its bytes find a difference, and a read checks all 32 against the header on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::ids::{DatasetId, GroupId, ObjectVersionId, UploadEpoch};

use super::block::{BlockDigest, BlockHead, BlockKey, BlockNumber};
use super::header::{SECTOR_BYTES, SegmentId, extent};

/// Where a record stands and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub(super) segment: SegmentId,
    sector: u32,
    pub(super) bytes: u32,
}

impl Location {
    /// `None` for an offset that is not a whole number of sectors, or beyond 2 TiB.
    pub(super) fn new(segment: SegmentId, offset: u64, bytes: u32) -> Option<Self> {
        let sector = offset / SECTOR_BYTES as u64;
        offset
            .is_multiple_of(SECTOR_BYTES as u64)
            .then(|| u32::try_from(sector).ok())
            .flatten()
            .map(|sector| Self {
                segment,
                sector,
                bytes,
            })
    }

    pub(super) fn offset(&self) -> u64 {
        u64::from(self.sector) * SECTOR_BYTES as u64
    }

    pub(super) fn extent(&self) -> u64 {
        extent(self.bytes)
    }
}

/// What the index knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) at: Location,
    digest: [u8; 16],
    owner: u32,
    // Saturates: an epoch is an hour, and uploads are admitted only near the shard's.
    epoch: u32,
    pub(super) damaged: bool,
    /// The shard is known to refer to it, so that the sweep for abandoned uploads passes it by.
    settled: bool,
}

impl Slot {
    /// Whether the block has this digest, by its first 16 bytes.
    pub(super) fn is(&self, digest: &BlockDigest) -> bool {
        self.digest == digest.0[..16]
    }

    pub(super) fn upload_epoch(&self) -> UploadEpoch {
        UploadEpoch(u64::from(self.epoch))
    }
}

/// Everything held.
#[derive(Debug, Default)]
pub(super) struct Index {
    blocks: BTreeMap<BlockKey, Slot>,
    damaged: BTreeSet<BlockKey>,
    owners: Vec<(GroupId, DatasetId)>,
    owner_ids: HashMap<(GroupId, DatasetId), u32>,
    bytes: u64,
}

/// A block held, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub key: BlockKey,
    /// The shard it was uploaded for.
    pub shard: GroupId,
    /// The dataset it was uploaded for.
    pub dataset: DatasetId,
    /// The upload epoch it was uploaded under.
    pub upload_epoch: UploadEpoch,
    /// Its length.
    pub bytes: u32,
    /// Whether this copy is damaged.
    pub damaged: bool,
}

impl Index {
    /// Puts a block in, in place of what its key named; answers that.
    pub(super) fn insert(&mut self, head: &BlockHead, at: Location, damaged: bool) -> Option<Slot> {
        let owner = (head.owner.shard, head.owner.dataset);
        let owners = &mut self.owners;
        let owner = *self.owner_ids.entry(owner).or_insert_with(|| {
            owners.push(owner);
            u32::try_from(owners.len() - 1).expect("a node holds fewer than 2^32 datasets")
        });
        let mut digest = [0; 16];
        digest.copy_from_slice(&head.digest.0[..16]);
        let epoch = u32::try_from(head.owner.upload_epoch.0).unwrap_or(u32::MAX);
        let slot = Slot {
            at,
            digest,
            owner,
            epoch,
            damaged,
            settled: false,
        };
        let old = self.blocks.insert(head.key, slot);
        self.bytes += u64::from(at.bytes);
        self.bytes -= old.map_or(0, |old| u64::from(old.at.bytes));
        if damaged {
            self.damaged.insert(head.key);
        } else {
            self.damaged.remove(&head.key);
        }
        old
    }

    pub(super) fn remove(&mut self, key: &BlockKey) -> Option<Slot> {
        let slot = self.blocks.remove(key)?;
        self.bytes -= u64::from(slot.at.bytes);
        self.damaged.remove(key);
        Some(slot)
    }

    pub(super) fn slot(&self, key: &BlockKey) -> Option<&Slot> {
        self.blocks.get(key)
    }

    /// Notes damage, if the block still stands where it was read.
    pub(super) fn mark_damaged(&mut self, key: &BlockKey, at: Location) -> bool {
        match self.blocks.get_mut(key) {
            Some(slot) if slot.at == at && !slot.damaged => {
                slot.damaged = true;
                self.damaged.insert(*key)
            }
            _ => false,
        }
    }

    /// Notes damage of every block in a segment; answers how many were not known to be damaged.
    pub(super) fn mark_segment_damaged(&mut self, segment: SegmentId) -> u64 {
        let damaged = &mut self.damaged;
        let mut noted = 0;
        for (key, slot) in &mut self.blocks {
            if slot.at.segment == segment && !slot.damaged {
                slot.damaged = true;
                noted += u64::from(damaged.insert(*key));
            }
        }
        noted
    }

    /// The blocks of one version, in order.
    pub(super) fn of_version(
        &self,
        version: ObjectVersionId,
    ) -> impl Iterator<Item = (&BlockKey, &Slot)> {
        let key = |number| BlockKey {
            version,
            number: BlockNumber(number),
        };
        self.blocks.range(key(0)..=key(u32::MAX))
    }

    /// Notes that the shard refers to the blocks of a version, or no longer.
    pub(super) fn settle(&mut self, version: ObjectVersionId, settled: bool) {
        let key = |number| BlockKey {
            version,
            number: BlockNumber(number),
        };
        for (_, slot) in self.blocks.range_mut(key(0)..=key(u32::MAX)) {
            slot.settled = settled;
        }
    }

    /// Forgets what is settled in a shard: after a snapshot took the place of its state.
    pub(super) fn unsettle(&mut self, shard: GroupId) {
        let owners = &self.owners;
        for slot in self.blocks.values_mut() {
            if owners[slot.owner as usize].0 == shard {
                slot.settled = false;
            }
        }
    }

    pub(super) fn held(&self, key: &BlockKey, slot: &Slot) -> Held {
        let (shard, dataset) = self.owners[slot.owner as usize];
        Held {
            key: *key,
            shard,
            dataset,
            upload_epoch: slot.upload_epoch(),
            bytes: slot.at.bytes,
            damaged: slot.damaged,
        }
    }

    /// Up to `limit` blocks after `after`, in order of key.
    pub(super) fn page(&self, after: Option<BlockKey>, limit: usize) -> Vec<Held> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.blocks
            .range((start, Unbounded))
            .take(limit)
            .map(|(key, slot)| self.held(key, slot))
            .collect()
    }

    /// Of the blocks after `after`, up to `limit` are looked at; those not settled are answered, and where to go on.
    pub(super) fn unsettled(
        &self,
        after: Option<BlockKey>,
        limit: usize,
    ) -> (Vec<Held>, Option<BlockKey>) {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let mut found = Vec::new();
        let mut seen = 0;
        let mut last = None;
        for (key, slot) in self.blocks.range((start, Unbounded)).take(limit) {
            seen += 1;
            last = Some(*key);
            if !slot.settled {
                found.push(self.held(key, slot));
            }
        }
        (found, if seen == limit { last } else { None })
    }

    pub(super) fn damaged(&self) -> Vec<Held> {
        self.damaged
            .iter()
            .filter_map(|key| self.blocks.get(key).map(|slot| self.held(key, slot)))
            .collect()
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn damaged_blocks(&self) -> u64 {
        self.damaged.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A B-tree's nodes are two thirds full on average: 60 bytes become about 90.
    #[test]
    fn a_block_costs_sixty_bytes_before_the_trees_own() {
        assert_eq!(size_of::<BlockKey>() + size_of::<Slot>(), 60);
    }

    #[test]
    fn a_location_is_a_whole_number_of_sectors_below_two_tebibytes() {
        let segment = SegmentId(1);
        assert_eq!(Location::new(segment, 511, 1), None);
        assert_eq!(Location::new(segment, 1 << 41, 1), None);
        let at = Location::new(segment, 512 * 77, 600).expect("aligned");
        assert_eq!((at.offset(), at.extent()), (512 * 77, 512 + 1024));
    }
}
