//! Against `signed_note` and `tlog_tiles` (Cloudflare's, ports of Go's packages), in both directions.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::ids::LeafIndex;
use signed_note::{Signer as _, StandardSigner, StandardVerifier, VerifierList};
use tlog::{
    Checkpoint, Hash, Note, SignatureType, SignerKey, Tile, TileKind, TileTree, leaf_hash,
    prove_consistency, prove_inclusion, tiles_changed, verify_consistency, verify_inclusion,
};

use crate::support::{Tree, checkpoint, entry, keys, mutate, mutation, name, signer};

fn skey(key: &str, seed: u8) -> String {
    let text = SignerKey::text_of(&name(key), SignatureType::Ed25519, &[seed; 32]);
    text.expect("a key").to_string()
}

fn theirs(keys: &[&SignerKey]) -> VerifierList {
    let verifier = |key: &&SignerKey| -> Box<dyn signed_note::Verifier> {
        Box::new(StandardVerifier::new(&key.verifier().to_string()).expect("our key"))
    };
    VerifierList::new(keys.iter().map(verifier).collect())
}

#[test]
fn notes_go_both_ways_with_signed_note() {
    let (a, b) = (
        signer("a.example", SignatureType::Ed25519, 1),
        signer("b.example", SignatureType::Ed25519, 2),
    );
    for text in ["text\n", "\n", "a\n\nb\n", "é 日本\n"] {
        let lines = [&a, &b].map(|key| key.sign_text(text).expect("signs"));
        let ours = Note::new(text.to_owned(), lines.to_vec())
            .expect("a note")
            .to_string();
        let read = signed_note::Note::from_bytes(ours.as_bytes()).expect("our note");
        let (good, unknown) = read.verify(&theirs(&[&a])).expect("our signature");
        assert_eq!((good.len(), unknown.len()), (1, 1));

        let signers = [
            StandardSigner::new(&skey("a.example", 1)).expect("our key's text"),
            StandardSigner::new(&skey("b.example", 2)).expect("our key's text"),
        ];
        assert_eq!(signers[0].key_id().to_be_bytes(), a.verifier().id().0);
        let mut note = signed_note::Note::new(text.as_bytes(), &[]).expect("a text");
        note.add_sigs(&[&signers[0], &signers[1]]).expect("signs");
        assert_eq!(String::from_utf8(note.to_bytes()).expect("text"), ours);
        let read = Note::parse(&note.to_bytes()).expect("their note");
        assert_eq!(
            read.verify(&keys(&[&a, &b]))
                .expect("their signatures")
                .len(),
            2
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is done to a note, we accept it only where they do, and refuse more only for a key that signed twice.
    #[test]
    fn a_changed_note_gets_the_same_answer(change in mutation(), again in prop::option::of(mutation())) {
        let (a, b) = (
            signer("a.example", SignatureType::Ed25519, 1),
            signer("b.example", SignatureType::Ed25519, 2),
        );
        let text = "some\n\ntext\n";
        let lines = [&a, &b].map(|key| key.sign_text(text).expect("signs"));
        let note = Note::new(text.to_owned(), lines.to_vec()).expect("a note").to_string();
        let mut bytes = mutate(note.as_bytes(), change);
        if let Some(again) = again.filter(|_| !bytes.is_empty()) {
            bytes = mutate(&bytes, again);
        }
        let parsed = Note::parse(&bytes);
        let verified = parsed.as_ref().map(|n| n.verify(&keys(&[&a, &b])).map(|good| good.len()));
        let their_note = signed_note::Note::from_bytes(&bytes);
        let their_answer = their_note.as_ref().map(|n| n.verify(&theirs(&[&a, &b])));
        match (verified, their_answer) {
            (Ok(Ok(good)), Ok(Ok((their_good, _)))) => {
                prop_assert_eq!(good, their_good.len());
                let (ours, theirs) = (parsed.expect("read"), their_note.expect("read"));
                prop_assert_eq!(ours.text().as_bytes(), theirs.text());
            }
            (Ok(Err(tlog::NoteRefused::SignedTwice { .. })), Ok(_)) => {}
            (Ok(Err(_)), Ok(Err(_))) | (Err(_), Err(_)) => {}
            (ours, _) => prop_assert!(false, "ours {ours:?} of {:?}", String::from_utf8_lossy(&bytes)),
        }
    }

    #[test]
    fn a_changed_checkpoint_gets_the_same_answer(
        size in 0_u64..1 << 40, extension in prop::collection::vec("[!-~]{1,8}", 0..3), change in mutation()
    ) {
        let root = if size == 0 { Hash::empty_root() } else { leaf_hash(&size.to_be_bytes()) };
        let mut text = checkpoint(size, root).to_string();
        for line in extension {
            text += &line;
            text.push('\n');
        }
        for bytes in [text.clone().into_bytes(), mutate(text.as_bytes(), change)] {
            let Ok(text) = std::str::from_utf8(&bytes) else { continue };
            // Notes have no control characters; their checkpoint leaves that to the note.
            if text.contains(|c| c < ' ' && c != '\n') {
                continue;
            }
            let theirs = tlog_tiles::Checkpoint::from_bytes(&bytes);
            match (text.parse::<Checkpoint>(), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours.origin().as_str(), theirs.origin());
                    prop_assert_eq!(ours.size(), theirs.size());
                    prop_assert_eq!(ours.root().0, theirs.hash().0);
                    prop_assert_eq!(ours.to_string().into_bytes(), theirs.to_bytes());
                }
                (Err(_), Err(_)) => {}
                // Bounds that are ours: the largest tree, the longest origin, the one empty tree.
                (Err(tlog::CheckpointError::Size), Ok(theirs)) => prop_assert!(theirs.size() > 1 << 62),
                (Err(tlog::CheckpointError::Origin), Ok(theirs)) => prop_assert!(theirs.origin().len() > 255),
                (Err(tlog::CheckpointError::EmptyTree), Ok(theirs)) => prop_assert_eq!(theirs.size(), 0),
                (ours, theirs) => prop_assert!(false, "{text:?}: ours {ours:?}, theirs {theirs:?}"),
            }
        }
    }

    #[test]
    fn tiles_to_publish_are_the_same(old in 0_u64..200_000, more in 0_u64..3_000) {
        let new = old + more;
        let ours: Vec<_> = tiles_changed(old, new)
            .filter(|tile| tile.kind() != TileKind::Entries)
            .map(|tile| tile.to_string())
            .collect();
        let theirs: Vec<_> = tlog_tiles::Tile::new_tiles(8, old, new)
            .iter()
            .map(|tile| tile.path().replacen("tile/8/", "tile/", 1))
            .collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn a_path_is_one_to_both_or_to_none(path in "tile/[0-8]/(x[0-9]{3}/){0,3}x?[0-9]{2,3}(\\.p/[0-9]{1,3})?") {
        // Theirs panics on a width of 0.
        prop_assume!(!path.contains(".p/0"));
        let theirs = tlog_tiles::Tile::from_path(&path.replacen("tile/", "tile/8/", 1));
        match (path.parse::<Tile>(), theirs) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(ours.index(), theirs.level_index());
                prop_assert_eq!(u32::from(ours.width()), theirs.width());
            }
            (Err(_), Err(_)) => {}
            // Larger than any tree of ours.
            (Err(tlog::TileError::NoSuchTile), Ok(_)) => {}
            (ours, theirs) => prop_assert!(false, "{path}: ours {ours:?}, theirs {theirs:?}"),
        }
    }
}

/// Their reader of our folder.
struct Folder {
    tiles: BTreeMap<Tile, Vec<u8>>,
    verified: RefCell<usize>,
}

impl tlog_tiles::TileReader for Folder {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            let path = tile.path().replacen("tile/8/", "tile/", 1);
            let tile: Tile = path.parse().map_err(|_| tlog_tiles::Error::InvalidTile)?;
            self.tiles
                .get(&tile)
                .cloned()
                .ok_or(tlog_tiles::Error::InvalidTile)
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, tiles: &[tlog_tiles::Tile], _: &[Vec<u8>]) {
        *self.verified.borrow_mut() += tiles.len();
    }
}

fn hash(theirs: &tlog_tiles::Hash) -> Hash {
    Hash(theirs.0)
}

#[test]
fn they_read_our_tiles_and_each_verifies_the_other_s_proofs() {
    let tree = Tree::of(1_000);
    for size in [1_u64, 2, 255, 256, 257, 600, 768, 1_000] {
        let folder = Folder {
            tiles: tree.tiles(size),
            verified: RefCell::default(),
        };
        let root = tree.roots[size as usize];
        let their_root = tlog_tiles::Hash(root.0);
        let reader = tlog_tiles::TileHashReader::new(size, their_root, &folder);
        let computed = tlog_tiles::tree_hash(size, &reader).expect("our tiles");
        assert_eq!(hash(&computed), root);
        for index in (0..size).step_by(83).chain([size - 1]) {
            let proof = tlog_tiles::prove_record(size, index, &reader).expect("our tiles");
            let ours: Vec<_> = proof.iter().map(hash).collect();
            let leaf = leaf_hash(&entry(index));
            verify_inclusion(&leaf, LeafIndex(index), size, &ours, &root).expect("their proof");
            let own = prove_inclusion(&tree, LeafIndex(index), size).expect("in the tree");
            assert_eq!(own, ours);
            let theirs = own.iter().map(|h| tlog_tiles::Hash(h.0)).collect();
            let leaf = tlog_tiles::record_hash(&entry(index));
            tlog_tiles::check_record(&theirs, size, their_root, index, leaf).expect("our proof");
        }
        for old in (1..=size).step_by(97) {
            let proof = tlog_tiles::prove_tree(size, old, &reader).expect("our tiles");
            let ours: Vec<_> = proof.iter().map(hash).collect();
            let old_root = tree.roots[old as usize];
            verify_consistency(old, &old_root, size, &root, &ours).expect("their proof");
            assert_eq!(prove_consistency(&tree, old, size).expect("in order"), ours);
            let theirs = ours.iter().map(|h| tlog_tiles::Hash(h.0)).collect();
            let old_root = tlog_tiles::Hash(old_root.0);
            tlog_tiles::check_tree(&theirs, size, their_root, old, old_root).expect("our proof");
        }
        assert!(*folder.verified.borrow() > 0, "they checked what they read");
    }
}

/// Their tree, of their own hashes.
#[derive(Default)]
struct TheirTree(RefCell<Vec<tlog_tiles::Hash>>);

impl tlog_tiles::HashReader for TheirTree {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let hashes = self.0.borrow();
        Ok(indexes.iter().map(|i| hashes[*i as usize]).collect())
    }
}

#[test]
fn we_read_their_tiles() {
    let tree = TheirTree::default();
    for i in 0..700 {
        let hashes = tlog_tiles::stored_hashes(i, &entry(i), &tree).expect("appends");
        tree.0.borrow_mut().extend(hashes);
    }
    let root = hash(&tlog_tiles::tree_hash(700, &tree).expect("their root"));
    let tiles = TileTree::open(700, root, |tile: &Tile| {
        let TileKind::Hashes(level) = tile.kind() else {
            return None;
        };
        let width = u32::from(tile.width());
        let theirs = tlog_tiles::Tile::new(8, level, tile.index(), width, false);
        theirs.read_data(&tree).ok()
    });
    let tiles = tiles.expect("their tiles");
    for index in [0, 255, 256, 500, 699] {
        let proof = tiles
            .prove_inclusion(LeafIndex(index))
            .expect("their tiles");
        let leaf = leaf_hash(&entry(index));
        verify_inclusion(&leaf, LeafIndex(index), 700, &proof, &root).expect("in the tree");
    }
}
