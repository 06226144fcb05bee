//! Proof files, and what a log asks of its witnesses.
//!
//! Owns what holds besides no panic and one spelling: a witness follows the tree it has seen and no other, and a proof
//! file shows its own leaf.

use proto::ids::LeafIndex;
use tlog::{
    AddCheckpoint, Checkpoint, Hash, Latest, ProofFile, WitnessRefused, WitnessedLog, decide,
    leaf_hash, prove_consistency, prove_inclusion, root_at,
};

use super::super::log::{LEAVES, bytes as joined, hashes, stored};
use super::{LOG, SIZES, bytes, checkpoint, is_signed, kit, signed};
use crate::input::{Input, edited};
use crate::{Memory, Shape, Source, Target};

pub(in super::super) const WITNESS_REQUEST: Target = Target {
    name: "witness-request",
    from: Source::Network,
    parses: &["tlog/src/witness.rs: parse"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: request,
    seeds: request_seeds,
};

pub(in super::super) const PROOF_FILE: Target = Target {
    name: "proof-file",
    from: Source::Person,
    parses: &["tlog/src/proof_file.rs: parse"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: proof_file,
    seeds: || {
        let whole = [&[0], file().to_string().as_bytes()].concat();
        vec![whole, vec![1]]
    },
};

/// Where the witness is.
const SEEN: u64 = SIZES[1];

fn latest() -> Latest {
    let note = kit().notes[1].only_of(&kit().keys[..1]).expect("the log's");
    Latest::parse(note.to_string().as_bytes()).expect("a checkpoint")
}

fn valid() -> AddCheckpoint {
    let proof = prove_consistency(stored(), SEEN, LEAVES).expect("both are there");
    AddCheckpoint::new(SEEN, proof, kit().notes[2].clone()).expect("a checkpoint")
}

/// A request as it came, as an edit of one that is good, or as a log would make it that has two trees.
fn request(data: &[u8]) {
    let valid = valid().to_string();
    let Some((2, rest)) = data.split_first() else {
        if let Some(bytes) = bytes(data, valid.as_bytes()) {
            parsed(&bytes);
        }
        return;
    };
    let mut input = Input::new(rest);
    let (old, new) = (input.number(), input.number());
    let root = match input.u8() % 3 {
        0 => root_at(stored(), new % (LEAVES + 1)).expect("in the tree"),
        1 => root_at(stored(), u64::from(input.u8())).expect("in the tree"),
        _ => leaf_hash(b"another tree"),
    };
    let Ok(checkpoint) = Checkpoint::new(LOG.parse().expect("a line"), new, root) else {
        return;
    };
    let proof = prove_consistency(stored(), old.min(new), new).unwrap_or_default();
    let shown = hashes(&edited(&joined(&proof), input.rest()));
    let note = signed(&kit().log, &[], &checkpoint);
    if let Ok(request) = AddCheckpoint::new(old, shown, note) {
        decided(&request);
    }
}

fn parsed(bytes: &[u8]) {
    if let Ok(latest) = Latest::parse(bytes) {
        assert_eq!(latest.note().to_string().as_bytes(), bytes, "one spelling");
    }
    let Ok(request) = AddCheckpoint::parse(bytes) else {
        return;
    };
    assert_eq!(request.to_string().as_bytes(), bytes, "one spelling");
    if decided(&request) {
        assert!(is_signed(&request.checkpoint().to_string()));
    }
}

/// Whether the witness would cosign; then it is the tree that it has seen, grown.
fn decided(request: &AddCheckpoint) -> bool {
    let latest = latest();
    let log = WitnessedLog {
        keys: &kit().keys[..1],
        latest: Some(&latest),
    };
    assert!(matches!(
        decide(request, None),
        Err(WitnessRefused::UnknownOrigin)
    ));
    match decide(request, Some(&log)) {
        Ok(accepted) => {
            let (size, root) = (request.checkpoint().size(), request.checkpoint().root());
            assert_eq!(accepted.old_size(), SEEN);
            assert_eq!(root_at(stored(), size), Ok(root), "another tree");
            true
        }
        Err(refused) => {
            assert!((400..=422).contains(&refused.status()));
            let size = refused.size_body();
            assert!(size.is_none_or(|body| body == format!("{SEEN}\n")));
            false
        }
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    vec![
        [&[0], valid().to_string().as_bytes()].concat(),
        [&[0], latest().note().to_string().as_bytes()].concat(),
        vec![1],
        vec![2, SEEN as u8, 90, 0],
        vec![2, SEEN as u8, SEEN as u8, 2],
    ]
}

/// The leaf that the file is of.
const INDEX: u64 = 5;

fn leaf() -> Hash {
    leaf_hash(&INDEX.to_be_bytes())
}

fn file() -> ProofFile {
    let proof = prove_inclusion(stored(), LeafIndex(INDEX), LEAVES).expect("in the tree");
    let note = kit().notes[2].clone();
    ProofFile::new(LeafIndex(INDEX), proof, note, b"hint".to_vec()).expect("small")
}

fn proof_file(data: &[u8]) {
    let valid = file().to_string();
    let Some(bytes) = bytes(data, valid.as_bytes()) else {
        return;
    };
    let Ok(file) = ProofFile::parse(&bytes) else {
        return;
    };
    assert_eq!(file.to_string().as_bytes(), bytes, "one spelling");
    if let Ok(trusted) = file.verify(&leaf(), &kit().policy) {
        assert_eq!(
            trusted.checkpoint(),
            &checkpoint(trusted.checkpoint().size())
        );
        assert_eq!(file.index(), LeafIndex(INDEX), "a proof of another place");
    }
}
