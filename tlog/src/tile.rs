//! Tiles: a tree as files that never change (C2SP tlog-tiles).
//!
//! Owns which tiles a tree of a size has, which are new when it grows, their paths, and the bytes of hash tiles and
//! entry bundles. Refuses: a second spelling of a path, tiles that no tree has, bytes of another length than the width,
//! and an entry bundle that has other entries than the hashes say.

mod tree;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::hash::{HASH_BYTES, Hash, leaf_hash};
use crate::leaf::LEAF_BYTES_MAX;
use crate::proof::{HashReader, ProveError};
use crate::text;
use crate::tree::{StoredAt, TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX};

pub use tree::{TileRefused, TileSource, TileTree};

/// Levels a tree of at most 2^62 leaves has tiles on. Paths may name up to 63 and are refused from here on.
pub const TILE_LEVELS: u8 = 8;

/// What a tile holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TileKind {
    /// Hashes of that level: 0 are the leaf hashes.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

impl TileKind {
    /// The level whose hashes it has, or whose entries stand behind them.
    fn level(self) -> u8 {
        match self {
            Self::Hashes(level) => level,
            Self::Entries => 0,
        }
    }
}

/// One tile or entry bundle. Its text form is its path below the log's prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tile {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// Why something is no tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// A level, index or width that no tree has.
    #[error("no tree has this tile")]
    NoSuchTile,
    /// A path of another form.
    #[error("a tile's path is not of the form tile/<level>/<index>[.p/<width>]")]
    Path,
    /// Not as many bytes or entries as the tile is wide.
    #[error("a tile of width {width} has not that many hashes or entries")]
    Length {
        /// Hashes or entries it should have.
        width: u16,
    },
    /// An entry over 65,535 bytes.
    #[error("an entry of {0} bytes is too long for a bundle")]
    EntryTooLong(usize),
    /// An entry that is not what the tree has there.
    #[error("entry {0} of a bundle is not the one in the tree")]
    OtherEntry(usize),
}

impl Tile {
    /// A tile that a tree of some size has; `width` is 1 to 256.
    pub fn new(kind: TileKind, index: u64, width: u16) -> Result<Self, TileError> {
        let level = kind.level();
        let hashes = TREE_SIZE_MAX
            .checked_shr(TILE_HEIGHT * u32::from(level))
            .unwrap_or(0);
        let end = index
            .checked_mul(TILE_WIDTH)
            .and_then(|start| start.checked_add(u64::from(width)));
        let fits = level < TILE_LEVELS
            && width >= 1
            && u64::from(width) <= TILE_WIDTH
            && end.is_some_and(|end| end <= hashes);
        if fits {
            Ok(Self { kind, index, width })
        } else {
            Err(TileError::NoSuchTile)
        }
    }

    /// What it holds.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Which tile of its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Hashes or entries in it, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it has all 256.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The full tile that takes its place when the tree has grown enough; a client may ask for it instead.
    pub fn full(&self) -> Self {
        Self {
            width: TILE_WIDTH as u16,
            ..*self
        }
    }

    /// Whether a tree of `size` leaves has this tile or had it when it was smaller: the hashes are all there.
    pub fn is_within(&self, size: u64) -> bool {
        self.width <= width_at(self.kind.level(), self.index, size)
    }

    /// Bytes of a hash tile, out of the hashes that [`crate::Frontier::append`] stored.
    pub fn hash_bytes(&self, reader: &dyn HashReader) -> Result<Vec<u8>, ProveError> {
        let level = self.kind.level();
        let first = StoredAt {
            level,
            index: self.index * TILE_WIDTH,
        };
        let count = u64::from(self.width);
        match reader.stored(first, count) {
            Some(hashes) if hashes.len() as u64 == count => {
                Ok(hashes.iter().flat_map(|hash| hash.0).collect())
            }
            _ => Err(ProveError::MissingHash {
                level,
                index: first.index,
            }),
        }
    }

    /// Hashes of a hash tile's bytes. They are nobody's word yet: see [`crate::TileTree`].
    pub fn parse_hashes(&self, bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
        if bytes.len() != usize::from(self.width) * HASH_BYTES {
            return Err(TileError::Length { width: self.width });
        }
        let hash = |chunk| Hash::try_from(chunk).expect("chunks are 32 bytes");
        Ok(bytes.chunks_exact(HASH_BYTES).map(hash).collect())
    }
}

/// Bytes of an entry bundle: each entry after its length in two bytes, big-endian.
pub fn bundle_bytes<'e>(entries: impl Iterator<Item = &'e [u8]>) -> Result<Vec<u8>, TileError> {
    let mut out = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).ok();
        let length = length.filter(|_| entry.len() <= LEAF_BYTES_MAX);
        let length = length.ok_or(TileError::EntryTooLong(entry.len()))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(entry);
    }
    Ok(out)
}

/// The entries of a bundle, each of which is the leaf that `hashes`, taken from the tree, has in its place.
pub fn parse_bundle<'b>(mut bytes: &'b [u8], hashes: &[Hash]) -> Result<Vec<&'b [u8]>, TileError> {
    let length_error = TileError::Length {
        width: hashes.len() as u16,
    };
    let mut out = Vec::with_capacity(hashes.len());
    for (position, hash) in hashes.iter().enumerate() {
        let (length, rest) = bytes.split_first_chunk::<2>().ok_or(length_error.clone())?;
        let (entry, rest) = rest
            .split_at_checked(usize::from(u16::from_be_bytes(*length)))
            .ok_or(length_error.clone())?;
        if leaf_hash(entry) != *hash {
            return Err(TileError::OtherEntry(position));
        }
        out.push(entry);
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(out)
    } else {
        Err(length_error)
    }
}

/// All hash tiles and bundles of a tree of `size` leaves.
pub fn tiles_of(size: u64) -> impl Iterator<Item = Tile> {
    tiles_changed(0, size)
}

/// The tiles that a tree of `new` leaves has and one of `old` leaves did not: those that must be written before a
/// checkpoint of `new` is published. A partial tile that became full stands in it as full.
pub fn tiles_changed(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    let new = new.min(TREE_SIZE_MAX);
    let hashes = (0..TILE_LEVELS).map(TileKind::Hashes);
    std::iter::once(TileKind::Entries)
        .chain(hashes)
        .flat_map(move |kind| {
            let level = kind.level();
            changed_indexes(level, old, new).map(move |index| Tile {
                kind,
                index,
                width: width_at(level, index, new),
            })
        })
}

/// Tiles of a level whose width at `new` is another than at `old`.
fn changed_indexes(level: u8, old: u64, new: u64) -> Range<u64> {
    let shift = TILE_HEIGHT * u32::from(level);
    let (old, new) = (old >> shift, new >> shift);
    if old >= new {
        return 0..0;
    }
    old / TILE_WIDTH..new.div_ceil(TILE_WIDTH)
}

/// Hashes in the tile `index` of a level in a tree of `size` leaves: 0 where there is none.
pub(crate) fn width_at(level: u8, index: u64, size: u64) -> u16 {
    let hashes = size
        .checked_shr(TILE_HEIGHT * u32::from(level))
        .unwrap_or(0);
    let before = index.saturating_mul(TILE_WIDTH);
    hashes.saturating_sub(before).min(TILE_WIDTH) as u16
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups.iter().skip(1).rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if self.is_full() {
            Ok(())
        } else {
            write!(f, ".p/{}", self.width)
        }
    }
}

impl FromStr for Tile {
    type Err = TileError;
    fn from_str(path: &str) -> Result<Self, TileError> {
        let rest = path.strip_prefix("tile/").ok_or(TileError::Path)?;
        let (kind, rest) = rest.split_once('/').ok_or(TileError::Path)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = text::decimal(level).filter(|level| *level <= 63);
                TileKind::Hashes(level.ok_or(TileError::Path)? as u8)
            }
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => {
                let width = text::decimal(width).filter(|w| (1..TILE_WIDTH).contains(w));
                (index, width.ok_or(TileError::Path)? as u16)
            }
            None => (rest, TILE_WIDTH as u16),
        };
        let tile = Self::new(kind, parse_index(index).ok_or(TileError::Path)?, width)?;
        // Writing it again settles what the parts above let through, such as leading zero groups.
        if tile.to_string() == path {
            Ok(tile)
        } else {
            Err(TileError::Path)
        }
    }
}

fn parse_index(text: &str) -> Option<u64> {
    text.split('/').try_fold(0_u64, |index, group| {
        let digits = group.strip_prefix('x').unwrap_or(group);
        let digits = Some(digits).filter(|d| d.len() == 3 && d.bytes().all(|b| b.is_ascii_digit()));
        let group: u64 = digits?.parse().ok()?;
        index.checked_mul(1000)?.checked_add(group)
    })
}
