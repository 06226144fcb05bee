//! The transparency log without its I/O: RFC 6962 tree, proofs, leaves and their commitments.
//!
//! Owns what an outsider needs to check a claim: hashing, the frontier a state machine keeps, proofs and their
//! verification, the bytes of a leaf and the openings shown beside it; and the C2SP formats by which logs, witnesses
//! and verifiers that share no code understand each other: signed notes, checkpoints, cosignatures, tiles, witness
//! requests, proof files and trust policies; and the statement that both regions of a relocation sign. Refuses: files, sockets, clocks and randomness; salts, seeds and times are
//! the caller's, storage comes through [`HashReader`] and [`TileSource`].
//!
//! **Invariant:** a leaf's bytes are a function of its content alone, a proof is accepted only for exactly the sizes,
//! index and hashes it is shown with, and each format has one spelling: what parses is written back byte for byte.

pub mod certificate;
mod checkpoint;
mod commitment;
mod cosignature;
mod hash;
mod key;
mod leaf;
mod note;
mod origin;
mod pieces;
mod policy;
mod proof;
mod proof_file;
mod replica;
mod signer;
mod text;
mod tile;
mod tree;
mod witness;

pub use checkpoint::{
    Checkpoint, CheckpointError, CheckpointRefused, Fork, OriginLine, SignedCheckpoint,
};
pub use commitment::{
    Disclosure, Field, KeptLeaf, OpenedObject, Opening, Openings, OpeningsError, Private, Salt,
    SaltSeed, SaltedLeaf, VerifyError, openings_of,
};
pub use cosignature::{MessageError, NAME_BYTES_MAX, UnixSeconds};
pub use hash::{HASH_BYTES, Hash, HashError, leaf_hash, node_hash, sha256};
pub use key::{KeyError, KeyId, KeyName, SignatureType, VerifierKey};
pub use leaf::{
    DatasetLink, Kind, LEAF_BYTES_MAX, Leaf, LeafError, ObjectItem, Pseudonym, Public, Purpose,
    PurposeError, SCHEMA,
};
pub use note::{NOTE_BYTES_MAX, Note, NoteError, NoteRefused, SIGNATURES_MAX, Signature, Signed};
pub use origin::{Origin, OriginError};
pub use pieces::{PIECE_BYTES, PieceTree, Pieces, ProvenPiece, piece_count};
pub use policy::{
    Cosigned, GROUPS_MAX, LOGS_MAX, POLICY_BYTES_MAX, Party, Policy, PolicyError, PolicyErrorKind,
    PolicyName, PolicyRefused, Trusted, WITNESSES_MAX,
};
pub use proof::{
    HashReader, ProofError, ProveError, prove_consistency, prove_inclusion, root_at,
    verify_consistency, verify_inclusion,
};
pub use proof_file::{
    EXTRA_BYTES_MAX, PROOF_FILE_BYTES_MAX, PROOF_FILE_HEADER, ProofFile, ProofFileError,
    ProofFileRefused,
};
pub use replica::{OwnTree, OwnTreeAccepted, OwnTreePersisted, OwnTreeRefused, decide_on_own_tree};
pub use signer::{SEED_BYTES, SignError, SignerKey};
pub use text::PROOF_HASHES_MAX;
pub use tile::{
    TILE_LEVELS, Tile, TileError, TileKind, TileRefused, TileSource, TileTree, bundle_bytes,
    parse_bundle, tiles_changed, tiles_of,
};
pub use tree::{Frontier, FrontierError, StoredAt, TILE_HEIGHT, TILE_WIDTH, TREE_SIZE_MAX};
pub use witness::{
    ADD_CHECKPOINT_BYTES_MAX, Accepted, AddCheckpoint, AddCheckpointError, CosignaturesRefused,
    Latest, LatestError, Persisted, SIZE_CONTENT_TYPE, WitnessRefused, WitnessedLog,
    cosignatures_in, decide,
};
