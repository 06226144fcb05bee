//! The list of sealed objects and the pieces of their ciphertext.
//!
//! Owns the list's root, an object's root over its pieces, and which pieces a nonce chooses. Refuses to choose anything
//! before list and nonce are both fixed: an operator who knew the pieces beforehand need not store the rest.

use proto::ids::LeafIndex;
use tlog::{Frontier, Hash, leaf_hash, piece_count, sha256, verify_inclusion};

use crate::format::{ObjectLine, encode};

/// Sealed bytes of a piece; the last one of an object is shorter, or as long.
pub const PIECE_BYTES: u64 = tlog::PIECE_BYTES as u64;
/// Pieces that a nonce chooses. An operator who lost one in ten is caught with probability 1 - 0.9^32 = 97 %.
pub const CHALLENGES: usize = 32;

const LABEL: &[u8] = b"reduit/v1/evidence-challenge\n";

/// Which piece of which object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// Position in the list.
    pub object: usize,
    /// Position in the object.
    pub piece: u64,
}

/// RFC 6962 root over the lines of a list.
pub fn list_root(lines: &[ObjectLine]) -> Hash {
    let lines = lines.iter().map(|line| leaf_hash(encode(line).as_bytes()));
    root_of(lines)
}

/// RFC 6962 root over sealed bytes in pieces of [`PIECE_BYTES`].
pub fn pieces_root(sealed: &[u8]) -> Hash {
    root_of(sealed.chunks(PIECE_BYTES as usize).map(leaf_hash))
}

fn root_of(leaves: impl Iterator<Item = Hash>) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier
            .append(leaf, &mut |_, _| {})
            .expect("nobody holds 2^62 leaves in memory");
    }
    frontier.root()
}

/// The pieces that `nonce` chooses of a list: SHA-256(label, nonce, root, number) as two numbers, modulo what there is.
/// Empty for a list without sealed bytes.
pub fn challenges(nonce: &[u8; 32], lines: &[ObjectLine]) -> Vec<Challenge> {
    let stored: Vec<usize> = (0..lines.len())
        .filter(|at| lines[*at].sealed_bytes > 0)
        .collect();
    if stored.is_empty() {
        return Vec::new();
    }
    let root = list_root(lines);
    let choose = |number: usize| {
        let number = u32::try_from(number).expect("CHALLENGES is small");
        let hash = sha256(&[LABEL, nonce, &root.0, &number.to_be_bytes()]);
        let (first, rest) = hash.0.split_first_chunk::<8>().expect("32 bytes");
        let (second, _) = rest.split_first_chunk::<8>().expect("24 bytes");
        let at = u64::from_be_bytes(*first) % stored.len() as u64;
        let object = stored[usize::try_from(at).expect("below the length of a list")];
        Challenge {
            object,
            piece: u64::from_be_bytes(*second) % piece_count(lines[object].sealed_bytes),
        }
    };
    (0..CHALLENGES).map(choose).collect()
}

/// Whether these bytes are that piece of the object, of which this is the root.
pub(crate) fn is_piece(
    object: &ObjectLine,
    root: &Hash,
    piece: u64,
    bytes: &[u8],
    proof: &[Hash],
) -> bool {
    let start = piece.saturating_mul(PIECE_BYTES);
    let length = object.sealed_bytes.saturating_sub(start).min(PIECE_BYTES);
    let count = piece_count(object.sealed_bytes);
    bytes.len() as u64 == length
        && verify_inclusion(&leaf_hash(bytes), LeafIndex(piece), count, proof, root).is_ok()
}
