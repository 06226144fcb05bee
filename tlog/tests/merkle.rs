//! The tree against published vectors, an independent implementation, and every way to bend a proof.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::ids::LeafIndex;
use serde::Deserialize;
use tlog::{
    Frontier, Hash, HashReader, ProofError, ProveError, StoredAt, leaf_hash, prove_consistency,
    prove_inclusion, root_at, verify_consistency, verify_inclusion,
};

#[derive(Default)]
struct Stored(BTreeMap<StoredAt, Hash>);

impl HashReader for Stored {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        assert!((1..=256).contains(&count) && first.index / 256 == (first.index + count - 1) / 256);
        (first.index..first.index + count)
            .map(|index| {
                self.0
                    .get(&StoredAt {
                        level: first.level,
                        index,
                    })
                    .copied()
            })
            .collect()
    }
}

fn leaf(i: u64) -> [u8; 8] {
    i.to_be_bytes()
}

fn grown(leaves: u64) -> (Frontier, Stored, Vec<Hash>) {
    let (mut frontier, mut stored) = (Frontier::default(), Stored::default());
    let mut roots = vec![frontier.root()];
    for i in 0..leaves {
        frontier
            .append(leaf_hash(&leaf(i)), &mut |at, hash| {
                stored.0.insert(at, hash);
            })
            .expect("room");
        roots.push(frontier.root());
    }
    (frontier, stored, roots)
}

fn vectors(kind: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let Some(folder) = std::env::var_os("REDUIT_VECTORS") else {
        println!("skipped: REDUIT_VECTORS is not set, so the published {kind} vectors are not run");
        return None;
    };
    let mut folders = vec![std::path::Path::new(&folder).join("merkle").join(kind)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("REDUIT_VECTORS has merkle/") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((
                    path.display().to_string(),
                    std::fs::read(&path).expect("readable"),
                ));
            }
        }
    }
    Some(files)
}

/// Hashes of a vector; one with a text that is no hash must be refused.
fn hashes(texts: &[String]) -> Option<Vec<Hash>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InclusionVector {
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[test]
fn published_inclusion_vectors_get_the_stated_answer() {
    let Some(files) = vectors("inclusion") else {
        return;
    };
    let (mut accepted, mut refused) = (0, 0);
    for (path, bytes) in files {
        let v: InclusionVector = serde_json::from_slice(&bytes).expect("a vector");
        let ok = hashes(&v.proof.unwrap_or_default())
            .zip(v.leaf_hash.parse().ok())
            .zip(v.root.parse().ok())
            .is_some_and(|((proof, leaf), root)| {
                verify_inclusion(&leaf, LeafIndex(v.leaf_idx), v.tree_size, &proof, &root).is_ok()
            });
        assert_eq!(ok, !v.want_err, "{path}");
        if ok { accepted += 1 } else { refused += 1 }
    }
    assert_eq!((accepted, refused), (6, 92));
}

/// A root of a vector. Some are the words "don't care": two that are equal stay so as hashes of the words.
fn root_of(text: &str) -> Hash {
    text.parse()
        .unwrap_or_else(|_| tlog::sha256(&[text.as_bytes()]))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConsistencyVector {
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[test]
fn published_consistency_vectors_get_the_stated_answer() {
    let Some(files) = vectors("consistency") else {
        return;
    };
    let (mut accepted, mut refused) = (0, 0);
    for (path, bytes) in files {
        let v: ConsistencyVector = serde_json::from_slice(&bytes).expect("a vector");
        let (root1, root2) = (root_of(&v.root1), root_of(&v.root2));
        let ok = hashes(&v.proof.unwrap_or_default()).is_some_and(|proof| {
            verify_consistency(v.size1, &root1, v.size2, &root2, &proof).is_ok()
        });
        assert_eq!(ok, !v.want_err, "{path}");
        if ok { accepted += 1 } else { refused += 1 }
    }
    assert_eq!((accepted, refused), (6, 92));
}

/// The oracle: its tree of the same leaves.
fn oracle(leaves: u64) -> ct_merkle::mem_backed_tree::MemoryBackedTree<sha2::Sha256, Vec<u8>> {
    let mut tree = ct_merkle::mem_backed_tree::MemoryBackedTree::new();
    for i in 0..leaves {
        tree.push(leaf(i).to_vec());
    }
    tree
}

fn joined(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

#[test]
fn small_trees_agree_with_ct_merkle_in_every_root_and_proof() {
    let (_, stored, roots) = grown(40);
    for new in 1..=40_u64 {
        let tree = oracle(new);
        let root = roots[new as usize];
        let theirs = tree.root();
        assert_eq!(theirs.as_bytes().as_slice(), root.0);
        for index in 0..new {
            let ours = prove_inclusion(&stored, LeafIndex(index), new).expect("in the tree");
            assert_eq!(
                tree.prove_inclusion(index as usize).as_bytes(),
                joined(&ours)
            );
            let hash = leaf_hash(&leaf(index));
            verify_inclusion(&hash, LeafIndex(index), new, &ours, &root).expect("own proof");
        }
        for old in 1..=new {
            let ours = prove_consistency(&stored, old, new).expect("sizes in order");
            if old < new {
                let theirs = tree.prove_consistency((new - old) as usize);
                assert_eq!(theirs.as_bytes(), joined(&ours), "{old} to {new}");
            }
            verify_consistency(old, &roots[old as usize], new, &root, &ours).expect("own proof");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn larger_trees_agree_with_ct_merkle(
        new in 200_u64..1_500, a in any::<u64>(), b in any::<u64>()
    ) {
        let (frontier, stored, roots) = grown(new);
        let tree = oracle(new);
        let theirs = tree.root();
        prop_assert_eq!(theirs.as_bytes().as_slice(), frontier.root().0);
        let (index, old) = (a % new, 1 + b % new);
        prop_assert_eq!(root_at(&stored, old), Ok(roots[old as usize]));
        let inclusion = prove_inclusion(&stored, LeafIndex(index), new).expect("in the tree");
        let theirs = tree.prove_inclusion(index as usize);
        prop_assert_eq!(theirs.as_bytes(), joined(&inclusion));
        let consistency = prove_consistency(&stored, old, new).expect("sizes in order");
        if old < new {
            let theirs = tree.prove_consistency((new - old) as usize);
            prop_assert_eq!(theirs.as_bytes(), joined(&consistency));
        }
        let root = frontier.root();
        verify_consistency(old, &roots[old as usize], new, &root, &consistency).expect("own proof");
    }

    #[test]
    fn a_bent_proof_is_refused(
        new in 2_u64..300, a in any::<u64>(), b in any::<u64>(), bit in 0_usize..256, what in 0..6
    ) {
        let (_, stored, roots) = grown(new);
        let (index, old) = (a % new, 1 + b % (new - 1));
        let mut inclusion = prove_inclusion(&stored, LeafIndex(index), new).expect("in the tree");
        let mut consistency = prove_consistency(&stored, old, new).expect("sizes in order");
        let mut leaf = leaf_hash(&leaf(index));
        let (mut root, mut old_root) = (roots[new as usize], roots[old as usize]);
        let flip = |hash: &mut Hash| hash.0[bit / 8] ^= 1 << (bit % 8);
        match what {
            0 => {
                let at = (b as usize) % inclusion.len();
                flip(&mut inclusion[at]);
                let at = (a as usize) % consistency.len();
                flip(&mut consistency[at]);
            }
            1 => {
                inclusion.pop();
                consistency.pop();
            }
            2 => {
                inclusion.push(root);
                consistency.push(root);
            }
            3 => {
                inclusion.insert(0, leaf);
                consistency.insert(0, old_root);
            }
            4 => flip(&mut root),
            _ => {
                flip(&mut leaf);
                flip(&mut old_root);
            }
        }
        prop_assert!(verify_inclusion(&leaf, LeafIndex(index), new, &inclusion, &root).is_err());
        prop_assert!(verify_consistency(old, &old_root, new, &root, &consistency).is_err());
    }

    #[test]
    fn a_proof_of_other_sizes_or_index_never_panics(
        index in any::<u64>(), old in any::<u64>(), new in any::<u64>(), length in 0_usize..130
    ) {
        let hash = leaf_hash(b"");
        let proof = vec![hash; length];
        prop_assert!(verify_inclusion(&hash, LeafIndex(index), new, &proof, &hash).is_err()
            || (new == 1 && length == 0));
        prop_assert!(verify_consistency(old, &hash, new, &hash, &proof).is_err()
            || (old == new && length == 0));
    }
}

#[test]
fn every_refusal_says_what_is_wrong() {
    let (_, stored, roots) = grown(7);
    let (leaf, root) = (leaf_hash(&leaf(2)), roots[7]);
    let proof = prove_inclusion(&stored, LeafIndex(2), 7).expect("in the tree");
    let check = |index, size, proof: &[Hash], root| {
        verify_inclusion(&leaf, LeafIndex(index), size, proof, root)
    };
    assert_eq!(check(2, 7, &proof, &root), Ok(()));
    assert_eq!(
        check(7, 7, &proof, &root),
        Err(ProofError::IndexOutOfRange { index: 7, size: 7 })
    );
    assert_eq!(
        check(0, 0, &[], &root),
        Err(ProofError::IndexOutOfRange { index: 0, size: 0 })
    );
    assert_eq!(
        check(2, 7, &proof[1..], &root),
        Err(ProofError::WrongLength {
            needed: 3,
            found: 2
        })
    );
    assert_eq!(check(3, 7, &proof, &root), Err(ProofError::RootMismatch(7)));
    assert_eq!(
        check(2, 7, &proof, &roots[6]),
        Err(ProofError::RootMismatch(7))
    );

    let proof = prove_consistency(&stored, 3, 7).expect("sizes in order");
    let check = |old, old_root, new, new_root, proof: &[Hash]| {
        verify_consistency(old, old_root, new, new_root, proof)
    };
    assert_eq!(check(3, &roots[3], 7, &root, &proof), Ok(()));
    assert_eq!(
        check(0, &roots[0], 7, &root, &[]),
        Err(ProofError::OldTreeEmpty)
    );
    assert_eq!(
        check(0, &roots[0], 0, &roots[0], &[]),
        Err(ProofError::OldTreeEmpty)
    );
    assert_eq!(
        check(7, &root, 3, &roots[3], &proof),
        Err(ProofError::SizesReversed { old: 7, new: 3 })
    );
    assert_eq!(
        check(7, &root, 7, &root, &proof[..1]),
        Err(ProofError::WrongLength {
            needed: 0,
            found: 1
        })
    );
    assert_eq!(
        check(7, &root, 7, &roots[6], &[]),
        Err(ProofError::RootMismatch(7))
    );
    assert_eq!(
        check(3, &roots[3], 7, &root, &proof[1..]),
        Err(ProofError::WrongLength {
            needed: 4,
            found: 3
        })
    );
    assert_eq!(
        check(3, &roots[2], 7, &root, &proof),
        Err(ProofError::RootMismatch(3))
    );
    assert_eq!(
        check(3, &roots[3], 7, &roots[6], &proof),
        Err(ProofError::RootMismatch(7))
    );
    assert_eq!(
        check(4, &roots[4], 7, &roots[6], &[]),
        Err(ProofError::WrongLength {
            needed: 1,
            found: 0
        })
    );
}

#[test]
fn what_is_not_stored_is_not_proven() {
    let (_, mut stored, roots) = grown(300);
    assert_eq!(root_at(&stored, 0), Ok(roots[0]));
    assert_eq!(
        prove_inclusion(&stored, LeafIndex(9), 9),
        Err(ProveError::NoSuchLeaf { index: 9, size: 9 })
    );
    for (old, new) in [(0, 5), (6, 5)] {
        let refused = prove_consistency(&stored, old, new);
        assert_eq!(refused, Err(ProveError::NoSuchSizes { old, new }));
    }
    assert_eq!(
        root_at(&stored, (1 << 62) + 1),
        Err(ProveError::TooLarge((1 << 62) + 1))
    );
    assert_eq!(
        root_at(&stored, 301),
        Err(ProveError::MissingHash {
            level: 0,
            index: 300
        })
    );
    stored.0.remove(&StoredAt { level: 1, index: 0 });
    let refused = prove_inclusion(&stored, LeafIndex(299), 300);
    assert_eq!(refused, Err(ProveError::MissingHash { level: 1, index: 0 }));
}
