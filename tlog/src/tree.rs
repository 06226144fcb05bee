//! The growing edge of the tree: what a state machine keeps to append leaves and state the root.
//!
//! Owns the frontier, its serialisation, and which hashes are stored for proofs: every 8th level, as in C2SP
//! tlog-tiles, so that a row of 256 stored hashes is a tile. Refuses: a frontier whose hashes do not fit its size.

use proto::ids::LeafIndex;

use crate::hash::{HASH_BYTES, Hash, node_hash};

/// Levels of the tree that one tile spans (C2SP tlog-tiles).
pub const TILE_HEIGHT: u32 = 8;
/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;
/// Leaves a tree may have; leaves room for the arithmetic on sizes in 64 bits.
pub const TREE_SIZE_MAX: u64 = 1 << 62;

/// Where a stored hash belongs: the root of the perfect subtree over leaves
/// `index << (8 * level) .. (index + 1) << (8 * level)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoredAt {
    /// Tile level: 0 holds leaf hashes, 1 the roots of 256 leaves, and so on.
    pub level: u8,
    /// Position within that level; `index / 256` is the tile, `index % 256` the place in it.
    pub index: u64,
}

/// The roots of the perfect subtrees a tree of this size consists of, largest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

/// Bytes that are no frontier, or a tree that is full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrontierError {
    /// Shorter than its fixed part.
    #[error("a frontier of {0} bytes is too short")]
    TooShort(usize),
    /// A format this build does not know.
    #[error("unknown frontier format {0}")]
    UnknownFormat(u8),
    /// A size beyond [`TREE_SIZE_MAX`].
    #[error("a tree of {0} leaves is larger than allowed")]
    TooLarge(u64),
    /// Not one hash per set bit of the size.
    #[error("a frontier of size {size} needs {needed} bytes of hashes and has {found}")]
    WrongLength {
        /// Leaves it says it has.
        size: u64,
        /// Bytes of hashes that many leaves need.
        needed: usize,
        /// Bytes of hashes found.
        found: usize,
    },
}

impl Frontier {
    const FORMAT: u8 = 1;
    const FIXED_BYTES: usize = 9;

    /// Leaves in the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root hash at the present size (RFC 6962 §2.1); the empty tree has one too.
    pub fn root(&self) -> Hash {
        fold_peaks(&self.peaks).unwrap_or_else(Hash::empty_root)
    }

    /// Appends a leaf by its hash and answers its index. `store` is told every hash that proofs need later;
    /// amortised 1 + 1/255 hashes a leaf.
    pub fn append(
        &mut self,
        leaf: Hash,
        store: &mut dyn FnMut(StoredAt, Hash),
    ) -> Result<LeafIndex, FrontierError> {
        let index = self.size;
        if index >= TREE_SIZE_MAX {
            return Err(FrontierError::TooLarge(index));
        }
        store(StoredAt { level: 0, index }, leaf);
        let mut hash = leaf;
        let mut height = 0_u32;
        // Each trailing one bit of the size is a peak that the new leaf completes into a taller subtree.
        while (index >> height) & 1 == 1 {
            let left = self
                .peaks
                .pop()
                .expect("every set bit of the size has its peak");
            hash = node_hash(&left, &hash);
            height += 1;
            if height.is_multiple_of(TILE_HEIGHT) {
                let level = u8::try_from(height / TILE_HEIGHT).expect("height is at most 62");
                store(
                    StoredAt {
                        level,
                        index: index >> height,
                    },
                    hash,
                );
            }
        }
        self.peaks.push(hash);
        self.size += 1;
        Ok(LeafIndex(index))
    }

    /// Format byte 1, size as u64 big-endian, then the peaks, largest first: at most 2,057 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::FIXED_BYTES + self.peaks.len() * HASH_BYTES);
        out.push(Self::FORMAT);
        out.extend_from_slice(&self.size.to_be_bytes());
        for peak in &self.peaks {
            out.extend_from_slice(&peak.0);
        }
        out
    }

    /// Reads what [`Frontier::to_bytes`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrontierError> {
        let Some((fixed, hashes)) = bytes.split_first_chunk::<{ Self::FIXED_BYTES }>() else {
            return Err(FrontierError::TooShort(bytes.len()));
        };
        let [format, size @ ..] = *fixed;
        if format != Self::FORMAT {
            return Err(FrontierError::UnknownFormat(format));
        }
        let size = u64::from_be_bytes(size);
        if size > TREE_SIZE_MAX {
            return Err(FrontierError::TooLarge(size));
        }
        let needed = size.count_ones() as usize * HASH_BYTES;
        if hashes.len() != needed {
            return Err(FrontierError::WrongLength {
                size,
                needed,
                found: hashes.len(),
            });
        }
        let peaks = hashes
            .chunks_exact(HASH_BYTES)
            .map(|chunk| Hash::try_from(chunk).expect("chunks are 32 bytes"))
            .collect();
        Ok(Self { size, peaks })
    }
}

/// Root over perfect subtrees given largest first, or `None` when there are none.
pub(crate) fn fold_peaks(peaks: &[Hash]) -> Option<Hash> {
    let (last, rest) = peaks.split_last()?;
    Some(
        rest.iter()
            .rev()
            .fold(*last, |right, left| node_hash(left, &right)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    fn grown(leaves: u64) -> Frontier {
        let mut frontier = Frontier::default();
        for i in 0..leaves {
            let index = frontier.append(leaf_hash(&i.to_be_bytes()), &mut |_, _| {});
            assert_eq!(index, Ok(LeafIndex(i)));
        }
        frontier
    }

    #[test]
    fn golden_bytes_of_a_frontier() {
        // The hash over leaves 0 and 1, then leaf 2: computed with Python's hashlib.
        let bytes = grown(3).to_bytes();
        assert_eq!(
            hex::encode(bytes),
            "010000000000000003\
             a7d91894b61fbf46378d88e3e1b1f7aef39532c504b484bd31551d15e0a09dff\
             d81f51781eeb8f46a0e112e86ca335896ccc12cee00e6cfcf58a3501129dfc24"
        );
    }

    #[test]
    fn a_frontier_survives_its_bytes() {
        for leaves in [0, 1, 2, 3, 7, 8, 255, 256, 257, 1000] {
            let frontier = grown(leaves);
            let back = Frontier::parse(&frontier.to_bytes()).expect("own bytes");
            assert_eq!(back, frontier, "{leaves}");
            assert_eq!(back.root(), frontier.root());
        }
    }

    #[test]
    fn bytes_that_are_no_frontier_are_refused() {
        let good = grown(3).to_bytes();
        assert_eq!(Frontier::parse(&good[..8]), Err(FrontierError::TooShort(8)));
        let mut format = good.clone();
        format[0] = 2;
        assert_eq!(
            Frontier::parse(&format),
            Err(FrontierError::UnknownFormat(2))
        );
        let short = &good[..good.len() - 1];
        assert!(matches!(
            Frontier::parse(short),
            Err(FrontierError::WrongLength { .. })
        ));
        let mut long = good.clone();
        long.push(0);
        assert!(matches!(
            Frontier::parse(&long),
            Err(FrontierError::WrongLength { .. })
        ));
        let mut large = vec![1];
        large.extend_from_slice(&(TREE_SIZE_MAX + 1).to_be_bytes());
        assert_eq!(
            Frontier::parse(&large),
            Err(FrontierError::TooLarge(TREE_SIZE_MAX + 1))
        );
    }

    #[test]
    fn a_full_tree_takes_no_leaf() {
        let mut full = Frontier {
            size: TREE_SIZE_MAX,
            peaks: vec![leaf_hash(b"")],
        };
        let answer = full.append(leaf_hash(b"x"), &mut |_, _| {});
        assert_eq!(answer, Err(FrontierError::TooLarge(TREE_SIZE_MAX)));
        assert_eq!(full.size(), TREE_SIZE_MAX);
    }

    #[test]
    fn stored_hashes_are_every_eighth_level() {
        let mut stored = std::collections::BTreeMap::new();
        let mut frontier = Frontier::default();
        for i in 0..65_536_u64 {
            frontier
                .append(leaf_hash(&i.to_be_bytes()), &mut |at, hash| {
                    assert!(stored.insert(at, hash).is_none(), "stored twice: {at:?}");
                })
                .expect("room");
        }
        let count = |level| stored.keys().filter(|at| at.level == level).count();
        assert_eq!(
            (count(0), count(1), count(2), count(3)),
            (65_536, 256, 1, 0)
        );
        assert_eq!(stored[&StoredAt { level: 2, index: 0 }], frontier.root());
    }
}
