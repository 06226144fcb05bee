//! Inclusion and consistency proofs: made from stored hashes, checked from nothing but the proof.
//!
//! Owns RFC 6962 §2.1.1 and §2.1.2 (checked as in RFC 9162 §2.1.3.2 and §2.1.4.2). Refuses: an index outside
//! the tree, a proof with one hash too many or too few, and statements about the empty tree, which every tree
//! would satisfy.

use proto::ids::LeafIndex;

use crate::hash::{Hash, node_hash};
use crate::tree::{StoredAt, TILE_HEIGHT, TREE_SIZE_MAX, fold_peaks};

/// Reads hashes stored by [`crate::Frontier::append`].
pub trait HashReader {
    /// `count` hashes (1 to 256) of one tile from `first` on, or `None` when one of them is not there.
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>>;
}

/// Why a proof could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProveError {
    /// The leaf is not in a tree of that size.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NoSuchLeaf {
        /// Leaf asked for.
        index: u64,
        /// Size of the tree.
        size: u64,
    },
    /// Not `1 <= old <= new`.
    #[error("no consistency proof leads from size {old} to size {new}")]
    NoSuchSizes {
        /// Size of the older tree.
        old: u64,
        /// Size of the newer tree.
        new: u64,
    },
    /// A size beyond [`TREE_SIZE_MAX`].
    #[error("a tree of {0} leaves is larger than allowed")]
    TooLarge(u64),
    /// The storage lacks a hash, because the tree is smaller or damaged.
    #[error("the hash of tile level {level}, index {index} is missing")]
    MissingHash {
        /// Tile level.
        level: u8,
        /// Index within the level.
        index: u64,
    },
}

/// Why a proof was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf cannot be in a tree of that size.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    IndexOutOfRange {
        /// Leaf claimed.
        index: u64,
        /// Size of the tree.
        size: u64,
    },
    /// Every tree extends the empty one: such a proof says nothing.
    #[error("consistency with the empty tree says nothing")]
    OldTreeEmpty,
    /// A log only grows.
    #[error("the older tree has {old} leaves, more than the newer with {new}")]
    SizesReversed {
        /// Size of the older tree.
        old: u64,
        /// Size of the newer tree.
        new: u64,
    },
    /// Sizes and index fix the number of hashes exactly.
    #[error("the proof has {found} hashes and needs {needed}")]
    WrongLength {
        /// Hashes the sizes ask for.
        needed: usize,
        /// Hashes shown.
        found: usize,
    },
    /// The proof does not lead to the older (or only) root.
    #[error("the proof does not lead to the root of size {0}")]
    RootMismatch(u64),
}

/// Root of the tree when it had `size` leaves.
pub fn root_at(reader: &dyn HashReader, size: u64) -> Result<Hash, ProveError> {
    check_size(size)?;
    if size == 0 {
        Ok(Hash::empty_root())
    } else {
        range_root(reader, 0, size)
    }
}

/// Proof that the leaf at `index` is in the tree of `size` leaves, from the leaf upwards.
pub fn prove_inclusion(
    reader: &dyn HashReader,
    index: LeafIndex,
    size: u64,
) -> Result<Vec<Hash>, ProveError> {
    check_size(size)?;
    if index.0 >= size {
        return Err(ProveError::NoSuchLeaf {
            index: index.0,
            size,
        });
    }
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index.0 < middle {
            proof.push(range_root(reader, middle, end)?);
            end = middle;
        } else {
            proof.push(range_root(reader, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proof that the tree of `new` leaves extends the tree of `old` leaves.
pub fn prove_consistency(
    reader: &dyn HashReader,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, ProveError> {
    check_size(new)?;
    if old == 0 || old > new {
        return Err(ProveError::NoSuchSizes { old, new });
    }
    let (mut start, mut end) = (0, new);
    let mut proof = Vec::new();
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range_root(reader, middle, end)?);
            end = middle;
        } else {
            proof.push(range_root(reader, start, middle)?);
            start = middle;
        }
    }
    // Where the old tree is itself a perfect subtree from leaf 0, the verifier has its root already.
    if start != 0 {
        proof.push(range_root(reader, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that the leaf with hash `leaf` stands at `index` in the tree with `root` and `size`.
pub fn verify_inclusion(
    leaf: &Hash,
    index: LeafIndex,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    let index = index.0;
    if index >= size {
        return Err(ProofError::IndexOutOfRange { index, size });
    }
    let shape = Shape::of(index, size);
    shape.expect(proof.len(), shape.inner + shape.border)?;
    let (inner, border) = proof.split_at(shape.inner);
    let hash = chain_border(chain_inner(*leaf, inner, index), border);
    if hash == *root {
        Ok(())
    } else {
        Err(ProofError::RootMismatch(size))
    }
}

/// Checks that the tree (`new_size`, `new_root`) extends the tree (`old_size`, `old_root`).
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size == 0 {
        return Err(ProofError::OldTreeEmpty);
    }
    if old_size > new_size {
        return Err(ProofError::SizesReversed {
            old: old_size,
            new: new_size,
        });
    }
    if old_size == new_size {
        Shape {
            inner: 0,
            border: 0,
        }
        .expect(proof.len(), 0)?;
        return if old_root == new_root {
            Ok(())
        } else {
            Err(ProofError::RootMismatch(old_size))
        };
    }
    let full = Shape::of(old_size - 1, new_size);
    let shift = old_size.trailing_zeros();
    let shape = Shape {
        inner: full.inner - shift as usize,
        border: full.border,
    };
    // The path starts at the last perfect subtree of the old tree, which is the old root itself when the old
    // size is a power of two and is then not repeated in the proof.
    let starts_at_root = old_size.is_power_of_two();
    let needed = shape.inner + shape.border + usize::from(!starts_at_root);
    shape.expect(proof.len(), needed)?;
    let (seed, rest) = match proof.split_first() {
        Some((first, rest)) if !starts_at_root => (*first, rest),
        _ => (*old_root, proof),
    };
    let (inner, border) = rest.split_at(shape.inner);
    let path = (old_size - 1) >> shift;
    if chain_border(chain_inner_right(seed, inner, path), border) != *old_root {
        return Err(ProofError::RootMismatch(old_size));
    }
    if chain_border(chain_inner(seed, inner, path), border) != *new_root {
        return Err(ProofError::RootMismatch(new_size));
    }
    Ok(())
}

/// How many hashes of an inclusion proof lie below and above the point where the path to the leaf meets the
/// right border of the tree.
struct Shape {
    inner: usize,
    border: usize,
}

impl Shape {
    /// `index < size`.
    fn of(index: u64, size: u64) -> Self {
        let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
        let above = index.checked_shr(inner).unwrap_or(0);
        Self {
            inner: inner as usize,
            border: above.count_ones() as usize,
        }
    }

    fn expect(&self, found: usize, needed: usize) -> Result<(), ProofError> {
        if found == needed {
            Ok(())
        } else {
            Err(ProofError::WrongLength { needed, found })
        }
    }
}

fn chain_inner(seed: Hash, proof: &[Hash], path: u64) -> Hash {
    proof
        .iter()
        .enumerate()
        .fold(seed, |hash, (level, sibling)| {
            if (path >> level) & 1 == 0 {
                node_hash(&hash, sibling)
            } else {
                node_hash(sibling, &hash)
            }
        })
}

/// As [`chain_inner`], but only the left siblings: what the old tree had.
fn chain_inner_right(seed: Hash, proof: &[Hash], path: u64) -> Hash {
    proof
        .iter()
        .enumerate()
        .fold(seed, |hash, (level, sibling)| {
            if (path >> level) & 1 == 1 {
                node_hash(sibling, &hash)
            } else {
                hash
            }
        })
}

fn chain_border(seed: Hash, proof: &[Hash]) -> Hash {
    proof.iter().fold(seed, |hash, left| node_hash(left, &hash))
}

fn check_size(size: u64) -> Result<(), ProveError> {
    if size > TREE_SIZE_MAX {
        Err(ProveError::TooLarge(size))
    } else {
        Ok(())
    }
}

/// The largest power of two smaller than `n`; `n >= 2`.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Root over leaves `start..end`, where `start` is a multiple of a power of two not below `end - start`.
fn range_root(reader: &dyn HashReader, start: u64, end: u64) -> Result<Hash, ProveError> {
    let mut peaks = Vec::new();
    let mut at = start;
    while at < end {
        let height = (end - at).ilog2();
        peaks.push(perfect_root(reader, height, at >> height)?);
        at += 1 << height;
    }
    Ok(fold_peaks(&peaks).expect("the range is not empty"))
}

/// Root of the perfect subtree of `1 << height` leaves with this index among its like.
fn perfect_root(reader: &dyn HashReader, height: u32, index: u64) -> Result<Hash, ProveError> {
    let level = u8::try_from(height / TILE_HEIGHT).expect("height is at most 62");
    let count = 1_u64 << (height % TILE_HEIGHT);
    let first = StoredAt {
        level,
        index: index * count,
    };
    let missing = ProveError::MissingHash {
        level,
        index: first.index,
    };
    let row = reader.stored(first, count).ok_or(missing.clone())?;
    if row.len() as u64 != count {
        return Err(missing);
    }
    Ok(row_root(row))
}

/// Root over hashes whose number is a power of two.
pub(crate) fn row_root(mut row: Vec<Hash>) -> Hash {
    while row.len() > 1 {
        row = row
            .chunks_exact(2)
            .map(|pair| node_hash(&pair[0], &pair[1]))
            .collect();
    }
    row[0]
}
