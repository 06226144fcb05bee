//! The transparency log without its I/O: RFC 6962 tree, proofs, leaves and their commitments.
//!
//! Owns what an outsider needs to check a claim: hashing, the frontier a state machine keeps, proofs and their
//! verification, the bytes of a leaf and the openings shown beside it. Refuses: files, sockets, clocks and
//! randomness; salts come from a seed the caller gives, storage through [`HashReader`].
//!
//! **Invariant:** a leaf's bytes are a function of its content alone, and a proof is accepted only for exactly
//! the sizes, index and hashes it is shown with.

mod commitment;
mod hash;
mod leaf;
mod origin;
mod proof;
mod tree;

pub use commitment::{
    Disclosure, Field, Opening, Openings, OpeningsError, Private, Salt, SaltSeed, SaltedLeaf,
    VerifyError, openings_of,
};
pub use hash::{HASH_BYTES, Hash, HashError, leaf_hash, node_hash, sha256};
pub use leaf::{
    DatasetLink, Kind, LEAF_BYTES_MAX, Leaf, LeafError, ObjectItem, Pseudonym, Public, Purpose,
    PurposeError, SCHEMA,
};
pub use origin::{Origin, OriginError};
pub use proof::{
    HashReader, ProofError, ProveError, prove_consistency, prove_inclusion, root_at,
    verify_consistency, verify_inclusion,
};
pub use tree::{Frontier, FrontierError, StoredAt, TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX};
