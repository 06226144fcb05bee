//! Stored bytes as a Merkle tree over pieces: what a list of stored objects commits to, and what answers a challenge.
//!
//! Owns the cut into pieces, the root, and proofs of chosen pieces in one pass. Refuses to hold more than one piece,
//! the frontier and what the chosen pieces need, however long the bytes are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proto::ids::LeafIndex;

use crate::hash::{Hash, leaf_hash};
use crate::proof::{HashReader, ProveError, prove_inclusion};
use crate::tree::{Frontier, StoredAt};

/// Bytes of a piece; the last one is shorter, or as long.
pub const PIECE_BYTES: usize = 16 << 10;

/// Pieces of so many bytes.
pub fn piece_count(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_BYTES as u64)
}

/// Builds the tree of bytes that come in any portions.
pub struct PieceTree {
    total: u64,
    taken: u64,
    piece: Vec<u8>,
    frontier: Frontier,
    /// What the proofs of the chosen pieces are made of, filled in on the way.
    needed: BTreeSet<StoredAt>,
    held: Held,
    chosen: BTreeMap<u64, Vec<u8>>,
}

/// A chosen piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvenPiece {
    /// Its position.
    pub index: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its inclusion under the root.
    pub proof: Vec<Hash>,
}

/// A finished tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pieces {
    /// RFC 6962 root over the pieces.
    pub root: Hash,
    /// Those chosen, ascending.
    pub chosen: Vec<ProvenPiece>,
}

#[derive(Default)]
struct Held(BTreeMap<StoredAt, Hash>);

fn row(first: StoredAt, count: u64) -> impl Iterator<Item = StoredAt> {
    let StoredAt { level, index } = first;
    (index..index.saturating_add(count)).map(move |index| StoredAt { level, index })
}

impl HashReader for Held {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        row(first, count)
            .map(|at| self.0.get(&at).copied())
            .collect()
    }
}

/// Notes what a proof asks for.
#[derive(Default)]
struct Asked(RefCell<BTreeSet<StoredAt>>);

impl HashReader for Asked {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        self.0.borrow_mut().extend(row(first, count));
        Some(vec![Hash::empty_root(); usize::try_from(count).ok()?])
    }
}

impl PieceTree {
    /// A tree over `total` bytes, of which the pieces at these positions are wanted with their proofs.
    ///
    /// # Errors
    /// Where a position is past the last piece.
    pub fn new(total: u64, wanted: &[u64]) -> Result<Self, ProveError> {
        let asked = Asked::default();
        for index in wanted {
            prove_inclusion(&asked, LeafIndex(*index), piece_count(total))?;
        }
        Ok(Self {
            total,
            taken: 0,
            piece: Vec::with_capacity(PIECE_BYTES),
            frontier: Frontier::default(),
            needed: asked.0.into_inner(),
            held: Held::default(),
            chosen: wanted.iter().map(|index| (*index, Vec::new())).collect(),
        })
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.piece.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = rest;
            if self.piece.len() == PIECE_BYTES {
                self.end_piece();
            }
        }
    }

    fn end_piece(&mut self) {
        let (needed, held) = (&self.needed, &mut self.held.0);
        let index = self
            .frontier
            .append(leaf_hash(&self.piece), &mut |at, hash| {
                if needed.contains(&at) {
                    held.insert(at, hash);
                }
            })
            .expect("no disk holds 2^62 pieces");
        self.taken += self.piece.len() as u64;
        if let Some(chosen) = self.chosen.get_mut(&index.0) {
            chosen.clone_from(&self.piece);
        }
        self.piece.clear();
    }

    /// The tree; `None` where more or fewer bytes came than were announced.
    pub fn finish(mut self) -> Option<Pieces> {
        if !self.piece.is_empty() {
            self.end_piece();
        }
        if self.taken != self.total {
            return None;
        }
        let size = self.frontier.size();
        let held = &self.held;
        let proven = self.chosen.into_iter().map(|(index, bytes)| {
            let proof = prove_inclusion(held, LeafIndex(index), size).ok()?;
            Some(ProvenPiece {
                index,
                bytes,
                proof,
            })
        });
        Some(Pieces {
            root: self.frontier.root(),
            chosen: proven.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::verify_inclusion;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at / 7) as u8).collect()
    }

    #[test]
    fn every_chosen_piece_is_proven_whatever_the_portions() {
        for total in [0, 1, 16_384, 16_385, 9 * 16_384 + 5, 700 * 16_384] {
            let bytes = bytes(total);
            let count = piece_count(total as u64);
            let wanted: Vec<u64> = [0, 1, 8, 255, 256, 511, count.saturating_sub(1)]
                .into_iter()
                .filter(|index| *index < count)
                .collect();
            let mut roots = Vec::new();
            for portion in [1_000, 16_384, 300_000] {
                let mut tree = PieceTree::new(total as u64, &wanted).expect("within");
                bytes.chunks(portion).for_each(|chunk| tree.push(chunk));
                let done = tree.finish().expect("all of it");
                for piece in &done.chosen {
                    let start = piece.index as usize * PIECE_BYTES;
                    let end = (start + PIECE_BYTES).min(total);
                    assert_eq!(piece.bytes, bytes[start..end]);
                    let leaf = leaf_hash(&piece.bytes);
                    let at = LeafIndex(piece.index);
                    verify_inclusion(&leaf, at, count, &piece.proof, &done.root).expect("holds");
                }
                roots.push((done.root, done.chosen.len()));
            }
            roots.dedup();
            let distinct: BTreeSet<_> = wanted.iter().collect();
            assert_eq!(roots.len(), 1, "{total}");
            assert_eq!(roots[0].1, distinct.len());
        }
    }

    #[test]
    fn another_length_than_announced_makes_no_tree() {
        for given in [0, 99, 101] {
            let mut tree = PieceTree::new(100, &[]).expect("within");
            tree.push(&bytes(given));
            assert_eq!(tree.finish(), None, "{given}");
        }
        assert!(PieceTree::new(100, &[1]).is_err());
        assert!(PieceTree::new(0, &[0]).is_err());
    }
}
