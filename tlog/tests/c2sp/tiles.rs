//! Tiles: paths, which there are, and trees read from tiles that lie.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::ids::LeafIndex;
use tlog::{
    ProveError, Tile, TileError, TileKind, TileRefused, TileTree, bundle_bytes, leaf_hash,
    parse_bundle, prove_consistency, prove_inclusion, tiles_changed, tiles_of, verify_consistency,
    verify_inclusion,
};

use crate::support::{Tree, entry};

fn hashes(level: u8, index: u64, width: u16) -> Tile {
    Tile::new(TileKind::Hashes(level), index, width).expect("a tile")
}

fn entries(index: u64, width: u16) -> Tile {
    Tile::new(TileKind::Entries, index, width).expect("a bundle")
}

#[test]
fn golden_paths() {
    for (tile, path) in [
        (hashes(0, 0, 256), "tile/0/000"),
        (hashes(0, 1_234_067, 256), "tile/0/x001/x234/067"),
        (hashes(2, 1_234_067, 1), "tile/2/x001/x234/067.p/1"),
        (hashes(7, 0, 64), "tile/7/000.p/64"),
        (hashes(1, 1000, 255), "tile/1/x001/000.p/255"),
        (entries(999, 17), "tile/entries/999.p/17"),
        (entries(273, 256), "tile/entries/273"),
    ] {
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile), "{path}");
    }
}

#[test]
fn paths_of_another_spelling_are_refused() {
    for path in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/00/000",
        "tile/+0/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x01/000",
        "tile/0/x+01/000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/1/2",
        "tile/0/000/",
        "tile/0/../000",
        "tile/0/000\0",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert_eq!(path.parse::<Tile>(), Err(TileError::Path), "{path:?}");
    }
    for path in [
        "tile/8/000.p/1",
        "tile/63/000",
        "tile/7/000.p/65",
        "tile/7/001.p/1",
    ] {
        assert_eq!(path.parse::<Tile>(), Err(TileError::NoSuchTile), "{path}");
    }
    let none = |kind, index, width| Tile::new(kind, index, width).err();
    let refused = Some(TileError::NoSuchTile);
    assert_eq!(none(TileKind::Entries, 0, 0), refused);
    assert_eq!(none(TileKind::Entries, 0, 257), refused);
    assert_eq!(none(TileKind::Entries, u64::MAX, 1), refused);
    assert_eq!(none(TileKind::Entries, 1 << 54, 1), refused);
    assert_eq!(none(TileKind::Entries, (1 << 54) - 1, 256), None);
    assert_eq!(none(TileKind::Hashes(255), 0, 1), refused);
}

/// The examples of the specification: 70,000 leaves, and 256.
#[test]
fn the_tiles_of_the_specification_s_trees() {
    let count = |size: u64, kind: TileKind| -> Vec<u16> {
        tiles_of(size)
            .filter(|t| t.kind() == kind)
            .map(|t| t.width())
            .collect()
    };
    let full = vec![256; 273];
    assert_eq!(
        count(70_000, TileKind::Hashes(0)),
        [&full[..], &[112]].concat()
    );
    assert_eq!(
        count(70_000, TileKind::Entries),
        [&full[..], &[112]].concat()
    );
    assert_eq!(count(70_000, TileKind::Hashes(1)), [256, 17]);
    assert_eq!(count(70_000, TileKind::Hashes(2)), [1]);
    assert!(count(70_000, TileKind::Hashes(3)).is_empty());
    assert_eq!(
        tiles_of(256).collect::<Vec<_>>(),
        [entries(0, 256), hashes(0, 0, 256), hashes(1, 0, 1)]
    );
    assert_eq!(tiles_of(0).count(), 0);
    let last: Vec<_> = tiles_changed((1 << 62) - 1, 1 << 62).collect();
    assert_eq!(
        last.len(),
        9,
        "the largest tree: a bundle and a tile a level"
    );
    assert_eq!(last[8], hashes(7, 0, 64));
}

#[test]
fn what_changes_is_what_the_larger_tree_has_and_the_smaller_has_not() {
    for (old, new) in [
        (0, 1),
        (1, 1),
        (5, 9),
        (255, 256),
        (256, 257),
        (300, 1000),
        (65_000, 66_000),
    ] {
        let before: Vec<_> = tiles_of(old).collect();
        let expected: Vec<_> = tiles_of(new).filter(|t| !before.contains(t)).collect();
        assert_eq!(
            tiles_changed(old, new).collect::<Vec<_>>(),
            expected,
            "{old} to {new}"
        );
    }
    assert_eq!(tiles_changed(9, 5).count(), 0);
    assert!(hashes(0, 0, 5).is_within(5) && hashes(0, 0, 5).is_within(300));
    assert!(!hashes(0, 0, 5).is_within(4) && !hashes(0, 1, 45).is_within(300));
    assert!(entries(1, 44).is_within(300) && !hashes(1, 0, 1).is_within(255));
    assert!(!hashes(1, 0, 2).is_within(511));
}

#[test]
fn bundles_are_lengths_and_entries() {
    let bytes = bundle_bytes([b"ab".as_slice(), b"", b"c"].into_iter()).expect("short");
    assert_eq!(bytes, b"\0\x02ab\0\0\0\x01c");
    let tree: Vec<_> = [b"ab".as_slice(), b"", b"c"].map(leaf_hash).to_vec();
    assert_eq!(
        parse_bundle(&bytes, &tree).expect("own"),
        [b"ab".as_slice(), b"", b"c"]
    );
    assert_eq!(
        parse_bundle(&bytes, &tree[..2]),
        Err(TileError::Length { width: 2 })
    );
    for end in 0..bytes.len() {
        let cut = parse_bundle(&bytes[..end], &tree);
        assert_eq!(cut, Err(TileError::Length { width: 3 }), "{end}");
    }
    let mut longer = tree.clone();
    longer.push(leaf_hash(b""));
    assert_eq!(
        parse_bundle(&bytes, &longer),
        Err(TileError::Length { width: 4 })
    );
    let mut other = bytes.clone();
    other[3] ^= 1;
    assert_eq!(parse_bundle(&other, &tree), Err(TileError::OtherEntry(0)));
    let longest = vec![7; 65_535];
    let bytes = bundle_bytes([longest.as_slice()].into_iter()).expect("fits");
    assert_eq!(bytes.len(), 65_537);
    let too_long = vec![7; 65_536];
    assert_eq!(
        bundle_bytes([too_long.as_slice()].into_iter()),
        Err(TileError::EntryTooLong(65_536))
    );
}

type Folder = BTreeMap<Tile, Vec<u8>>;

fn open(
    folder: &Folder,
    tree: &Tree,
    size: u64,
) -> Result<TileTree<impl Fn(&Tile) -> Option<Vec<u8>>>, TileRefused> {
    let root = tree.roots[size as usize];
    TileTree::open(size, root, |tile: &Tile| folder.get(tile).cloned())
}

#[test]
fn proofs_from_tiles_equal_proofs_from_the_tree() {
    let tree = Tree::of(1_000);
    for size in [1_u64, 2, 3, 255, 256, 257, 511, 512, 700, 1_000] {
        let folder = tree.tiles(size);
        let tiles = open(&folder, &tree, size).expect("own tiles");
        let root = tree.roots[size as usize];
        for index in (0..size).step_by(37).chain([size - 1]) {
            let index = LeafIndex(index);
            let proof = tiles.prove_inclusion(index).expect("own tiles");
            assert_eq!(Ok(&proof), prove_inclusion(&tree, index, size).as_ref());
            let leaf = leaf_hash(&entry(index.0));
            verify_inclusion(&leaf, index, size, &proof, &root).expect("own proof");
        }
        for old in (1..=size).step_by(41).chain([size]) {
            let proof = tiles.prove_consistency(old).expect("own tiles");
            assert_eq!(Ok(&proof), prove_consistency(&tree, old, size).as_ref());
            let old_root = tree.roots[old as usize];
            verify_consistency(old, &old_root, size, &root, &proof).expect("own proof");
            assert_eq!(tiles.root_at(old), Ok(old_root));
        }
        for bundle in 0..size.div_ceil(256) {
            let first = bundle * 256;
            let expected: Vec<_> = (first..size.min(first + 256)).map(entry).collect();
            assert_eq!(tiles.entries(bundle), Ok(expected));
        }
        assert_eq!(
            tiles.prove_inclusion(LeafIndex(size)),
            Err(TileRefused::Prove(ProveError::NoSuchLeaf {
                index: size,
                size
            }))
        );
        let beyond = size.div_ceil(256);
        assert!(matches!(tiles.entries(beyond), Err(TileRefused::Prove(_))));
    }
    let nothing = Folder::new();
    let empty = open(&nothing, &tree, 0).expect("the empty tree needs no tile");
    assert!(matches!(
        empty.prove_inclusion(LeafIndex(0)),
        Err(TileRefused::Prove(ProveError::NoSuchLeaf { .. }))
    ));
    let wrong = TileTree::open(0, tree.roots[1], |_: &Tile| None);
    assert_eq!(wrong.err(), Some(TileRefused::RootMismatch(0)));
}

/// A server keeps the full tile alone once there is one (tlog-tiles, partial tiles).
#[test]
fn a_full_tile_stands_in_for_a_partial_one() {
    let tree = Tree::of(600);
    let later: Folder = tree
        .tiles(600)
        .into_iter()
        .filter(|(t, _)| t.is_full())
        .collect();
    for size in [1_u64, 100, 256, 300, 511] {
        let mut folder = later.clone();
        // The top of the tree has no full tile yet.
        folder.extend(
            tree.tiles(size)
                .into_iter()
                .filter(|(t, _)| t.kind() == TileKind::Hashes(1)),
        );
        let tiles = open(&folder, &tree, size).expect("full tiles");
        let index = LeafIndex(size - 1);
        assert_eq!(
            tiles.prove_inclusion(index).ok(),
            prove_inclusion(&tree, index, size).ok()
        );
        let bundle = (size - 1) / 256;
        let expected: Vec<_> = (bundle * 256..size).map(entry).collect();
        assert_eq!(tiles.entries(bundle), Ok(expected));
    }
}

/// Reads everything a verifier could want.
fn read_all(folder: &Folder, tree: &Tree, size: u64) -> Result<(), TileRefused> {
    let tiles = open(folder, tree, size)?;
    for bundle in 0..size.div_ceil(256) {
        tiles.entries(bundle)?;
    }
    tiles.prove_consistency(1)?;
    Ok(())
}

#[test]
fn every_changed_or_missing_tile_is_refused_by_name() {
    let size = 256 * 3 + 77;
    let tree = Tree::of(size);
    let folder = tree.tiles(size);
    assert_eq!(read_all(&folder, &tree, size), Ok(()));
    for tile in folder.keys() {
        let mut without = folder.clone();
        without.remove(tile);
        assert_eq!(
            read_all(&without, &tree, size),
            Err(TileRefused::Missing(*tile)),
            "{tile}"
        );
        for at in [0, 33, folder[tile].len() - 1] {
            let mut bent = folder.clone();
            bent.get_mut(tile).expect("there")[at] ^= 1;
            let why = read_all(&bent, &tree, size).expect_err("refused");
            let named = match (tile.kind(), &why) {
                (TileKind::Entries, TileRefused::Malformed { tile: t, .. }) => t == tile,
                (TileKind::Hashes(_), TileRefused::NotInTree(t)) => t == tile && t.is_full(),
                (TileKind::Hashes(_), TileRefused::RootMismatch(s)) => {
                    !tile.is_full() && *s == size
                }
                _ => false,
            };
            assert!(named, "{tile}, byte {at}: {why:?}");
        }
        for length in [0, folder[tile].len() - 1, folder[tile].len() + 1] {
            let mut cut = folder.clone();
            cut.get_mut(tile).expect("there").resize(length, 0);
            assert!(
                matches!(
                    read_all(&cut, &tree, size),
                    Err(TileRefused::Malformed { tile: t, .. }) if t == *tile
                ),
                "{tile} of {length} bytes"
            );
        }
    }
    let refused = TileTree::open((1 << 62) + 1, tree.roots[1], |_: &Tile| None).err();
    assert_eq!(
        refused,
        Some(TileRefused::Prove(ProveError::TooLarge((1 << 62) + 1)))
    );
}

/// CVE-2026-56865: Go's reader, and ports of it, took as many full tiles unchecked as the right edge has hashes more
/// than tiles. Of 1,000 leaves that is all of level 0.
#[test]
fn no_full_tile_is_let_through_unchecked() {
    let tree = Tree::of(1_000);
    for index in 0..3 {
        let tile = hashes(0, index, 256);
        let mut folder = tree.tiles(1_000);
        folder.insert(tile, vec![7; 8_192]);
        let tiles = open(&folder, &tree, 1_000).expect("the edge is intact");
        let asked = tiles.prove_inclusion(LeafIndex(index * 256));
        assert_eq!(asked, Err(TileRefused::NotInTree(tile)));
        let asked = tiles.prove_consistency(index * 256 + 1);
        assert_eq!(asked, Err(TileRefused::NotInTree(tile)));
        assert_eq!(tiles.entries(index), Err(TileRefused::NotInTree(tile)));
    }
}

/// The tiles of another log, of equal shape, do not pass: they end at another root.
#[test]
fn two_exchanged_tiles_are_refused() {
    let size = 256 * 3;
    let tree = Tree::of(size);
    let mut folder = tree.tiles(size);
    let (a, b) = (hashes(0, 0, 256), hashes(0, 1, 256));
    let (bytes_a, bytes_b) = (folder[&a].clone(), folder[&b].clone());
    folder.insert(a, bytes_b);
    folder.insert(b, bytes_a);
    assert_eq!(
        read_all(&folder, &tree, size),
        Err(TileRefused::NotInTree(a))
    );
}

proptest! {
    #[test]
    fn paths_survive_their_text(level in 0_u8..8, index in 0_u64..1 << 40, width in 1_u16..=256, e: bool) {
        let kind = if e { TileKind::Entries } else { TileKind::Hashes(level) };
        if let Ok(tile) = Tile::new(kind, index, width) {
            prop_assert_eq!(tile.to_string().parse(), Ok(tile));
        }
    }

    #[test]
    fn no_path_makes_parsing_panic(path in "(tile/)?[0-9a-z/.x]{0,40}") {
        if let Ok(tile) = path.parse::<Tile>() {
            prop_assert_eq!(tile.to_string(), path);
        }
    }
}
