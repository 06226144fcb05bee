//! The transparency log as an outsider is given it: leaves, openings, frontiers, proofs.
//!
//! Owns what holds besides no panic: a leaf has one encoding, an opening shows what was committed to, and a proof that
//! was not made for exactly this leaf, index and size is refused.

use std::sync::OnceLock;

use proto::ids::{LeafIndex, UnixMs};
use tlog::{
    DatasetLink, Field, Frontier, Hash, HashReader, Kind, Leaf, Openings, Private, Pseudonym,
    Public, Purpose, SaltSeed, SaltedLeaf, StoredAt, leaf_hash, openings_of, prove_consistency,
    prove_inclusion, root_at, verify_consistency, verify_inclusion,
};

use crate::input::{Input, edited};
use crate::{Memory, Shape, Source, Target};

pub(super) const LEAF: Target = Target {
    name: "leaf",
    from: Source::Network,
    parses: &["tlog/src/leaf.rs: parse"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: leaf,
    seeds: leaf_seeds,
};

pub(super) const OPENINGS: Target = Target {
    name: "openings",
    from: Source::Network,
    parses: &[
        "tlog/src/commitment.rs: parse",
        "tlog/src/commitment.rs: TryFrom<String>",
    ],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: openings,
    seeds: openings_seeds,
};

pub(super) const FRONTIER: Target = Target {
    name: "frontier",
    from: Source::Disk,
    parses: &["tlog/src/tree.rs: parse"],
    shape: Shape::Bytes,
    len_max: 2100,
    memory: Memory::PARSER,
    check: frontier,
    seeds: || [0, 1, 5, 255].map(|size| tree(size).to_bytes()).into(),
};

pub(super) const PROOF: Target = Target {
    name: "proof",
    from: Source::Network,
    parses: &[
        "tlog/src/proof.rs: verify_inclusion",
        "tlog/src/proof.rs: verify_consistency",
    ],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: proof,
    seeds: || (0..8).map(|mode| vec![mode, 5, 0, 90, 0]).collect(),
};

/// A leaf with everything a leaf can have.
fn made() -> &'static SaltedLeaf {
    static MADE: OnceLock<SaltedLeaf> = OnceLock::new();
    MADE.get_or_init(|| {
        let public = Public {
            kind: Kind::Open,
            time_ms: UnixMs(1_790_000_000_000),
            purpose: Purpose::service(),
            dataset: Some(DatasetLink {
                pseudonym: Pseudonym([9; 16]),
                sequence: 1,
                previous: Some(leaf_hash(b"before")),
            }),
        };
        let private = Private {
            fields: Field::ALL
                .map(|field| (field, field.name().to_owned()))
                .into(),
            objects: vec!["first".to_owned(), "second".to_owned()],
        };
        SaltedLeaf::build(public, private, &SaltSeed::new(&[4; 32]), 0).expect("small")
    })
}

fn leaf(data: &[u8]) {
    let Ok(leaf) = Leaf::parse(data) else {
        return;
    };
    assert_eq!(
        leaf.encode().expect("it was not too large"),
        data,
        "one encoding"
    );
    assert_eq!(leaf.hash().expect("it was not too large"), leaf_hash(data));
    let openings = &made().openings;
    if openings_of(&leaf, openings).is_ok_and(|shown| !shown.fields.is_empty()) {
        assert_eq!(leaf.commitments(), made().leaf.commitments());
    }
}

fn leaf_seeds() -> Vec<Vec<u8>> {
    let public = Public {
        kind: Kind::Initialised,
        time_ms: UnixMs(0),
        purpose: Purpose::service(),
        dataset: None,
    };
    let bare = SaltedLeaf::build(public, Private::default(), &SaltSeed::new(&[0; 32]), 0);
    vec![made().bytes.clone(), bare.expect("small").bytes]
}

/// As they are, and as edits of those that belong to a leaf.
fn openings(data: &[u8]) {
    let made = made();
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let bytes = match mode % 2 {
        0 => data.to_vec(),
        _ => edited(&made.openings.encode(), data),
    };
    let Ok(openings) = Openings::parse(&bytes) else {
        return;
    };
    let again = Openings::parse(&openings.encode());
    assert_eq!(again.as_ref(), Ok(&openings));
    let Ok(shown) = openings_of(&made.leaf, &openings) else {
        return;
    };
    for (field, value) in &shown.fields {
        assert_eq!(value, field.name(), "shown is what was committed to");
    }
    let objects: Vec<_> = shown.objects.iter().map(|value| value.as_deref()).collect();
    let committed = [Some("first"), Some("second")];
    assert!(
        objects
            .iter()
            .zip(committed)
            .all(|(a, b)| a.is_none() || *a == b)
    );
}

fn openings_seeds() -> Vec<Vec<u8>> {
    let whole = made().openings.encode();
    let some = made().openings.reveal(&[Field::Actor], false).encode();
    vec![
        [&[0], &whole[..]].concat(),
        [&[0], &some[..]].concat(),
        vec![1],
    ]
}

fn frontier(data: &[u8]) {
    let Ok(mut frontier) = Frontier::parse(data) else {
        return;
    };
    assert_eq!(frontier.to_bytes(), data, "one encoding");
    let (size, root) = (frontier.size(), frontier.root());
    let mut stored = 0;
    if frontier
        .append(leaf_hash(b"next"), &mut |_, _| stored += 1)
        .is_ok()
    {
        assert_eq!(frontier.size(), size + 1);
        assert_ne!(frontier.root(), root);
        assert!(stored >= 1);
    }
}

/// Leaves of the tree that proofs are of.
pub(super) const LEAVES: u64 = 300;

pub(super) fn tree(size: u64) -> Frontier {
    let mut frontier = Frontier::default();
    for index in 0..size {
        let hash = leaf_hash(&index.to_be_bytes());
        frontier.append(hash, &mut |_, _| {}).expect("small");
    }
    frontier
}

/// Everything a grown tree stored.
pub(super) struct Stored(std::collections::BTreeMap<StoredAt, Hash>);

impl HashReader for Stored {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt { index, ..first };
        (first.index..first.index.checked_add(count)?)
            .map(|index| self.0.get(&at(index)).copied())
            .collect()
    }
}

pub(super) fn stored() -> &'static Stored {
    static STORED: OnceLock<Stored> = OnceLock::new();
    STORED.get_or_init(|| {
        let mut stored = std::collections::BTreeMap::new();
        let mut frontier = Frontier::default();
        for index in 0..LEAVES {
            let hash = leaf_hash(&index.to_be_bytes());
            let mut keep = |at, hash| {
                stored.insert(at, hash);
            };
            frontier.append(hash, &mut keep).expect("small");
        }
        Stored(stored)
    })
}

pub(super) fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes
        .chunks_exact(tlog::HASH_BYTES)
        .map(|chunk| Hash::try_from(chunk).expect("32 bytes"))
        .collect()
}

pub(super) fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// Any hashes for any numbers, and edits of proofs that hold.
fn proof(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => {
            let (index, size) = (input.number(), input.number());
            let shown = hashes(input.rest());
            let (leaf, root) = (leaf_hash(b"leaf"), leaf_hash(b"root"));
            let answer = verify_inclusion(&leaf, LeafIndex(index), size, &shown, &root);
            assert!(answer.is_err(), "no proof leads to a root chosen before");
        }
        1 => {
            let (old, new) = (input.number(), input.number());
            let shown = hashes(input.rest());
            let (before, after) = (leaf_hash(b"old"), leaf_hash(b"new"));
            assert!(verify_consistency(old, &before, new, &after, &shown).is_err());
        }
        2 => inclusion(input),
        _ => consistency(input),
    }
}

/// A proof of one leaf, and another one's claim to it.
fn inclusion(mut input: Input<'_>) {
    let size = u64::from(input.u16()) % LEAVES + 1;
    let index = u64::from(input.u16()) % size;
    let (claimed, claimed_size) = match input.u8() {
        0..=127 => (index, size),
        _ => (input.number(), input.number()),
    };
    let proof = prove_inclusion(stored(), LeafIndex(index), size).expect("in the tree");
    let root = root_at(stored(), size).expect("in the tree");
    let changed = edited(&bytes(&proof), input.rest());
    let shown = hashes(&changed);
    let leaf = leaf_hash(&index.to_be_bytes());
    let accepted = verify_inclusion(&leaf, LeafIndex(claimed), claimed_size, &shown, &root).is_ok();
    if accepted {
        assert_eq!(shown, proof, "a changed proof was accepted");
        // A root of RFC 6962 does not say its size; a checkpoint says both.
        let same_tree = claimed_size == size;
        assert!(
            !same_tree || claimed == index,
            "a proof of another place was accepted"
        );
    }
    assert!(accepted || shown != proof || (claimed, claimed_size) != (index, size));
}

/// A proof between two sizes, and the claim of others to it.
fn consistency(mut input: Input<'_>) {
    let new = u64::from(input.u16()) % LEAVES + 1;
    let old = u64::from(input.u16()) % new + 1;
    let proof = prove_consistency(stored(), old, new).expect("both are there");
    let (before, after) = (root_at(stored(), old), root_at(stored(), new));
    let (before, after) = (before.expect("there"), after.expect("there"));
    let changed = edited(&bytes(&proof), input.rest());
    let shown = hashes(&changed);
    let accepted = verify_consistency(old, &before, new, &after, &shown).is_ok();
    assert_eq!(accepted, shown == proof);
}
