//! Tiles of a log, from a server that may say anything.
//!
//! Owns what holds besides no panic: a path has one spelling, and what a tree answers out of tiles is what is in it.

use proto::ids::LeafIndex;
use tlog::{
    Tile, TileKind, TileTree, bundle_bytes, leaf_hash, parse_bundle, root_at, tiles_of,
    verify_consistency, verify_inclusion,
};

use super::super::log::{LEAVES, stored};
use crate::input::{Input, edited};
use crate::{Memory, Shape, Source, Target};

pub(in super::super) const TILES: Target = Target {
    name: "tiles",
    from: Source::Network,
    parses: &[
        "tlog/src/tile.rs: FromStr",
        "tlog/src/tile.rs: parse_bundle",
        "tlog/src/tile.rs: parse_hashes",
        "tlog/src/tile/tree.rs: open",
    ],
    shape: Shape::Bytes,
    len_max: 512,
    memory: Memory::PARSER,
    check: tiles,
    seeds,
};

fn tiles(data: &[u8]) {
    // Made before anything is counted.
    let tree = stored();
    let Some((how, data)) = data.split_first() else {
        return;
    };
    match how % 3 {
        0 => path(data),
        1 => lying_server(Input::new(data)),
        _ => {
            let entries = entries(0, 3);
            let valid = bundle_bytes(entries.iter().map(Vec::as_slice)).expect("short entries");
            let shown = edited(&valid, data);
            let first = Tile::new(TileKind::Hashes(0), 0, 3).expect("in the tree");
            let hashes = first.hash_bytes(tree).expect("in the tree");
            let hashes = first.parse_hashes(&hashes).expect("its width");
            let parsed = parse_bundle(&shown, &hashes);
            assert_eq!(
                parsed.is_ok(),
                shown == valid,
                "the leaves are what they are"
            );
        }
    }
}

fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(tile) = text.parse::<Tile>() else {
        return;
    };
    assert_eq!(tile.to_string(), text, "one spelling");
    assert_eq!(
        Tile::new(tile.kind(), tile.index(), tile.width()).as_ref(),
        Ok(&tile)
    );
    assert_eq!(tile.is_full(), tile.full() == tile);
    assert!(tile.is_within(tlog::TREE_SIZE_MAX), "some tree has it");
    assert!(tile.parse_hashes(data).is_err() || data.len().is_multiple_of(tlog::HASH_BYTES));
}

/// The entries from `first` on.
fn entries(first: u64, count: u64) -> Vec<Vec<u8>> {
    (first..first + count)
        .map(|index| index.to_be_bytes().to_vec())
        .collect()
}

/// What an honest server has.
fn honest(tile: &Tile) -> Option<Vec<u8>> {
    if !tile.is_within(LEAVES) {
        return None;
    }
    match tile.kind() {
        TileKind::Hashes(_) => tile.hash_bytes(stored()).ok(),
        TileKind::Entries => {
            let entries = entries(tile.index() * tlog::TILE_WIDTH, tile.width().into());
            bundle_bytes(entries.iter().map(Vec::as_slice)).ok()
        }
    }
}

/// A server with one wrong tile: whatever is answered from the others and it is true.
fn lying_server(mut input: Input<'_>) {
    let size = u64::from(input.u16()) % LEAVES + 1;
    let all: Vec<_> = tiles_of(size).collect();
    let wrong = input.pick(&all);
    let (index, old) = (
        u64::from(input.u16()) % size,
        u64::from(input.u16()) % size + 1,
    );
    let script = input.rest();
    let source = |tile: &Tile| {
        let bytes = honest(tile)?;
        let is_wrong = tile.kind() == wrong.kind() && tile.index() == wrong.index();
        Some(if is_wrong {
            edited(&bytes, script)
        } else {
            bytes
        })
    };
    let root = root_at(stored(), size).expect("in the tree");
    let opened = TileTree::open(size, root, source);
    assert!(opened.is_ok() || !script.is_empty(), "an honest server");
    let Ok(tree) = opened else {
        return;
    };
    if let Ok(proof) = tree.prove_inclusion(LeafIndex(index)) {
        let leaf = leaf_hash(&index.to_be_bytes());
        assert!(verify_inclusion(&leaf, LeafIndex(index), size, &proof, &root).is_ok());
    }
    let before = root_at(stored(), old).expect("in the tree");
    if let Ok(proof) = tree.prove_consistency(old) {
        assert!(verify_consistency(old, &before, size, &root, &proof).is_ok());
    }
    if let Ok(found) = tree.root_at(old) {
        assert_eq!(found, before);
    }
    let bundle = index / tlog::TILE_WIDTH;
    if let Ok(found) = tree.entries(bundle) {
        let first = bundle * tlog::TILE_WIDTH;
        let count = (size - first).min(tlog::TILE_WIDTH);
        assert_eq!(found, entries(first, count));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let path = |text: &str| [&[0], text.as_bytes()].concat();
    vec![
        path("tile/0/x001/x234/067.p/7"),
        path("tile/entries/000"),
        path("tile/7/000.p/16"),
        vec![1, 43, 1, 1, 5, 0, 100, 0],
        vec![1, 9, 0, 0, 5, 0, 3, 0, 0, 1, 0, 0, 0, 1],
        vec![2],
    ]
}
