//! A tree read from tiles that nobody vouches for.
//!
//! Owns that a hash is used only when the tile it stands in leads to the root of a checkpoint: the partial tiles at
//! the right edge together give the root, and every full tile is the hash that the tile above it has in its place.
//! Refuses: tiles that are missing, of another length, or of another tree, and says which.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ids::LeafIndex;

use super::{Tile, TileError, TileKind, parse_bundle, width_at};
use crate::hash::Hash;
use crate::proof::{self, HashReader, ProveError, row_root};
use crate::tree::{StoredAt, TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX, fold_peaks};

/// Full tiles kept in memory at most, 8 KiB each. A proof needs about two a level.
const CACHED_TILES_MAX: usize = 64;

/// Where bytes of tiles come from: a folder, a cache, a server. It may lie.
pub trait TileSource {
    /// The bytes of this tile, or `None` where they are not to be had. Asked for a partial tile that is gone, it is
    /// asked for the full one next.
    fn tile(&self, tile: &Tile) -> Option<Vec<u8>>;
}

impl<F: Fn(&Tile) -> Option<Vec<u8>>> TileSource for F {
    fn tile(&self, tile: &Tile) -> Option<Vec<u8>> {
        self(tile)
    }
}

/// Why a tile was not used, or a proof not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileRefused {
    /// The source has it not.
    #[error("{0} is missing")]
    Missing(Tile),
    /// Bytes that are no such tile.
    #[error("{tile} is malformed")]
    Malformed {
        /// The tile.
        tile: Tile,
        /// What is wrong.
        #[source]
        source: TileError,
    },
    /// Hashes that the tile above it does not have.
    #[error("{0} is not of this tree")]
    NotInTree(Tile),
    /// The tiles at the right edge are not of the tree with this root: one of them is wrong.
    #[error("the tiles at the edge do not lead to the root of size {0}")]
    RootMismatch(u64),
    /// What was asked for is not in a tree of that size.
    #[error(transparent)]
    Prove(ProveError),
}

type Row = Arc<Vec<Hash>>;

/// A tree of known size and root whose hashes come from tiles.
pub struct TileTree<S> {
    size: u64,
    source: S,
    /// By level, the hashes of its partial tile; none where it has none.
    edge: Vec<Row>,
    full: RefCell<BTreeMap<(u8, u64), Row>>,
    /// What was refused last: [`HashReader`] has no room for a reason.
    refused: RefCell<Option<TileRefused>>,
}

impl<S: TileSource> TileTree<S> {
    /// Reads the right edge of the tree and compares it with the root that a checkpoint states.
    pub fn open(size: u64, root: Hash, source: S) -> Result<Self, TileRefused> {
        if size > TREE_SIZE_MAX {
            return Err(TileRefused::Prove(ProveError::TooLarge(size)));
        }
        let mut edge = Vec::new();
        let mut rest = size;
        while rest > 0 {
            let level = edge.len() as u8;
            let width = (rest % TILE_WIDTH) as u16;
            let hashes = if width == 0 {
                Vec::new()
            } else {
                fetch(&source, level, rest / TILE_WIDTH, width)?
            };
            edge.push(Arc::new(hashes));
            rest >>= TILE_HEIGHT;
        }
        let peaks: Vec<Hash> = edge.iter().rev().flat_map(|row| peaks_of(row)).collect();
        if fold_peaks(&peaks).unwrap_or_else(Hash::empty_root) != root {
            return Err(TileRefused::RootMismatch(size));
        }
        Ok(Self {
            size,
            source,
            edge,
            full: RefCell::default(),
            refused: RefCell::default(),
        })
    }

    /// Leaves in the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Proof that the leaf at `index` is in the tree.
    pub fn prove_inclusion(&self, index: LeafIndex) -> Result<Vec<Hash>, TileRefused> {
        proof::prove_inclusion(self, index, self.size).map_err(|error| self.reason(error))
    }

    /// Proof that the tree extends its own first `old` leaves.
    pub fn prove_consistency(&self, old: u64) -> Result<Vec<Hash>, TileRefused> {
        proof::prove_consistency(self, old, self.size).map_err(|error| self.reason(error))
    }

    /// Root of the tree when it had `size` leaves.
    pub fn root_at(&self, size: u64) -> Result<Hash, TileRefused> {
        proof::root_at(self, size).map_err(|error| self.reason(error))
    }

    /// The entries of bundle `index`, as many as the tree has of it, each checked against its leaf.
    pub fn entries(&self, index: u64) -> Result<Vec<Vec<u8>>, TileRefused> {
        let hashes = self.verified(0, index)?;
        let kind = TileKind::Entries;
        let tile =
            Tile::new(kind, index, hashes.len() as u16).map_err(|_| self.outside(0, index))?;
        let (bytes, tile) = match self.source.tile(&tile) {
            Some(bytes) => (bytes, tile),
            None => {
                let full = tile.full();
                let bytes = self.source.tile(&full);
                (bytes.ok_or(TileRefused::Missing(tile))?, full)
            }
        };
        let malformed = |source| TileRefused::Malformed { tile, source };
        let bytes = if usize::from(tile.width()) > hashes.len() {
            first_entries(&bytes, hashes.len()).ok_or_else(|| {
                malformed(TileError::Length {
                    width: tile.width(),
                })
            })?
        } else {
            &bytes
        };
        let entries = parse_bundle(bytes, &hashes).map_err(malformed)?;
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// All hashes that the tree has of one tile, each a hash of the tree.
    fn verified(&self, level: u8, index: u64) -> Result<Row, TileRefused> {
        let width = width_at(level, index, self.size);
        if width == 0 {
            return Err(self.outside(level, index));
        }
        if u64::from(width) < TILE_WIDTH {
            return Ok(self.edge[usize::from(level)].clone());
        }
        if let Some(known) = self.full.borrow().get(&(level, index)) {
            return Ok(known.clone());
        }
        // At most one call a level: the topmost tile is at the edge.
        let above = self.verified(level + 1, index / TILE_WIDTH)?;
        let hashes = fetch(&self.source, level, index, width)?;
        if row_root(hashes.clone()) != above[(index % TILE_WIDTH) as usize] {
            return Err(TileRefused::NotInTree(hash_tile(level, index, width)?));
        }
        let hashes = Arc::new(hashes);
        let mut full = self.full.borrow_mut();
        if full.len() >= CACHED_TILES_MAX {
            full.clear();
        }
        full.insert((level, index), hashes.clone());
        Ok(hashes)
    }

    fn outside(&self, level: u8, index: u64) -> TileRefused {
        TileRefused::Prove(ProveError::MissingHash {
            level,
            index: index.saturating_mul(TILE_WIDTH),
        })
    }

    /// A missing hash is missing for a reason.
    fn reason(&self, error: ProveError) -> TileRefused {
        match (self.refused.take(), error) {
            (Some(refused), ProveError::MissingHash { .. }) => refused,
            (_, error) => TileRefused::Prove(error),
        }
    }
}

impl<S: TileSource> HashReader for TileTree<S> {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        match self.verified(first.level, first.index / TILE_WIDTH) {
            Ok(hashes) => {
                let start = (first.index % TILE_WIDTH) as usize;
                let end = start.checked_add(usize::try_from(count).ok()?)?;
                hashes.get(start..end).map(<[Hash]>::to_vec)
            }
            Err(refused) => {
                self.refused.replace(Some(refused));
                None
            }
        }
    }
}

fn hash_tile(level: u8, index: u64, width: u16) -> Result<Tile, TileRefused> {
    Tile::new(TileKind::Hashes(level), index, width).map_err(|_| {
        TileRefused::Prove(ProveError::MissingHash {
            level,
            index: index.saturating_mul(TILE_WIDTH),
        })
    })
}

/// The tile's hashes, if need be the first ones of the full tile, unverified.
fn fetch(
    source: &impl TileSource,
    level: u8,
    index: u64,
    width: u16,
) -> Result<Vec<Hash>, TileRefused> {
    let tile = hash_tile(level, index, width)?;
    let (bytes, found) = match source.tile(&tile) {
        Some(bytes) => (bytes, tile),
        None if tile.is_full() => return Err(TileRefused::Missing(tile)),
        None => {
            let full = tile.full();
            let bytes = source.tile(&full);
            (bytes.ok_or(TileRefused::Missing(tile))?, full)
        }
    };
    let mut hashes = found
        .parse_hashes(&bytes)
        .map_err(|source| TileRefused::Malformed {
            tile: found,
            source,
        })?;
    hashes.truncate(usize::from(width));
    Ok(hashes)
}

/// Roots of the perfect subtrees that the hashes of a partial tile make, largest first.
fn peaks_of(row: &[Hash]) -> Vec<Hash> {
    let (mut peaks, mut rest) = (Vec::new(), row);
    while !rest.is_empty() {
        let (peak, after) = rest.split_at(1 << rest.len().ilog2());
        peaks.push(row_root(peak.to_vec()));
        rest = after;
    }
    peaks
}

/// The bytes of the first `count` entries of a longer bundle.
fn first_entries(bytes: &[u8], count: usize) -> Option<&[u8]> {
    let mut at = 0;
    for _ in 0..count {
        let length = bytes.get(at..)?.first_chunk::<2>()?;
        at += 2 + usize::from(u16::from_be_bytes(*length));
    }
    bytes.get(..at)
}
