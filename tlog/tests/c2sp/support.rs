//! Keys, trees and checkpoints for the tests.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tlog::{
    Checkpoint, Frontier, Hash, HashReader, KeyName, Note, SignatureType, SignerKey, StoredAt,
    Tile, TileKind, UnixSeconds, VerifierKey, bundle_bytes, leaf_hash, tiles_of,
};

pub(crate) const ORIGIN: &str = "ch-zrh/main/1";

pub(crate) fn name(text: &str) -> KeyName {
    text.parse().expect("a key name")
}

pub(crate) fn signer(key: &str, kind: SignatureType, seed: u8) -> SignerKey {
    SignerKey::from_seed(name(key), kind, &[seed; 32]).expect("a key")
}

/// A log's key; its name is the origin.
pub(crate) fn log_key() -> SignerKey {
    signer(ORIGIN, SignatureType::Ed25519, 1)
}

/// A witness's key: even numbers are Ed25519, odd ones ML-DSA-44.
pub(crate) fn witness_key(number: u8) -> SignerKey {
    let kind = if number.is_multiple_of(2) {
        SignatureType::Ed25519Cosignature
    } else {
        SignatureType::MlDsa44Cosignature
    };
    signer(&format!("witness.example/w{number}"), kind, 100 + number)
}

pub(crate) fn seconds(time: u64) -> UnixSeconds {
    UnixSeconds::new(time).expect("a time")
}

pub(crate) fn checkpoint(size: u64, root: Hash) -> Checkpoint {
    Checkpoint::new(ORIGIN.parse().expect("an origin"), size, root).expect("a checkpoint")
}

/// The checkpoint signed by its log at no time, then by each cosigner at that time.
pub(crate) fn signed(checkpoint: &Checkpoint, cosigners: &[(&SignerKey, u64)]) -> Note {
    let log = log_key().sign_checkpoint(checkpoint, None).expect("signs");
    let note = Note::new(checkpoint.to_string(), vec![log]).expect("a note");
    cosigners.iter().fold(note, |note, (key, time)| {
        let line = key.sign_checkpoint(checkpoint, Some(seconds(*time)));
        note.with(line.expect("cosigns")).expect("room")
    })
}

pub(crate) fn keys(signers: &[&SignerKey]) -> Vec<VerifierKey> {
    signers.iter().map(|s| s.verifier().clone()).collect()
}

pub(crate) fn entry(i: u64) -> Vec<u8> {
    format!("entry {i}").into_bytes()
}

/// A tree with everything that was ever stored of it.
#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) frontier: Frontier,
    pub(crate) stored: BTreeMap<StoredAt, Hash>,
    pub(crate) roots: Vec<Hash>,
}

impl Tree {
    pub(crate) fn of(size: u64) -> Self {
        let mut tree = Self::default();
        tree.roots.push(tree.frontier.root());
        for i in 0..size {
            let stored = &mut tree.stored;
            tree.frontier
                .append(leaf_hash(&entry(i)), &mut |at, hash| {
                    stored.insert(at, hash);
                })
                .expect("room");
            tree.roots.push(tree.frontier.root());
        }
        tree
    }

    pub(crate) fn checkpoint(&self, size: u64) -> Checkpoint {
        checkpoint(size, self.roots[size as usize])
    }

    /// What a server of the log has in its folder at that size.
    pub(crate) fn tiles(&self, size: u64) -> BTreeMap<Tile, Vec<u8>> {
        let bytes = |tile: Tile| match tile.kind() {
            TileKind::Hashes(_) => tile.hash_bytes(self).expect("stored"),
            TileKind::Entries => {
                let first = tile.index() * 256;
                let entries: Vec<_> = (first..first + u64::from(tile.width()))
                    .map(entry)
                    .collect();
                bundle_bytes(entries.iter().map(Vec::as_slice)).expect("short entries")
            }
        };
        tiles_of(size).map(|tile| (tile, bytes(tile))).collect()
    }
}

impl HashReader for Tree {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt {
            level: first.level,
            index,
        };
        let range = first.index..first.index + count;
        range.map(|i| self.stored.get(&at(i)).copied()).collect()
    }
}

/// A change of some bytes: one replaced, inserted or removed, two exchanged, a piece doubled.
pub(crate) fn mutation() -> impl Strategy<Value = (u8, prop::sample::Index, prop::sample::Index, u8)>
{
    (
        0_u8..6,
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<u8>(),
    )
}

pub(crate) fn mutate(
    bytes: &[u8],
    (what, a, b, byte): (u8, prop::sample::Index, prop::sample::Index, u8),
) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let (a, b) = (a.index(out.len()), b.index(out.len()));
    match what {
        0 => out[a] ^= byte.max(1),
        1 => out.insert(a, byte),
        2 => {
            out.remove(a);
        }
        3 => out.swap(a, b),
        4 => {
            let piece = out[a.min(b)..a.max(b)].to_vec();
            out.splice(a..a, piece);
        }
        _ => out.truncate(a),
    }
    out
}
