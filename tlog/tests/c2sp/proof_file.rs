//! Proof files, checked by a policy alone.

use proptest::prelude::*;
use proto::ids::LeafIndex;
use tlog::{
    NoteError, Policy, PolicyRefused, ProofError, ProofFile, ProofFileError, ProofFileRefused,
    leaf_hash, prove_inclusion,
};

use crate::support::{Tree, entry, log_key, mutate, mutation, signed, witness_key};

const SIZE: u64 = 11;

fn policy() -> Policy {
    let text = format!(
        "log {}\nwitness w {}\nquorum w\n",
        log_key().verifier(),
        witness_key(0).verifier()
    );
    Policy::parse(text.as_bytes()).expect("a policy")
}

fn file(index: u64, extra: &[u8]) -> ProofFile {
    let tree = Tree::of(SIZE);
    let proof = prove_inclusion(&tree, LeafIndex(index), SIZE).expect("in the tree");
    let note = signed(&tree.checkpoint(SIZE), &[(&witness_key(0), 1_790_000_000)]);
    ProofFile::new(LeafIndex(index), proof, note, extra.to_vec()).expect("a file")
}

#[test]
fn golden_text() {
    let text = file(4, b"hello").to_string();
    let (head, note) = text.split_once("\n\n").expect("a note");
    assert_eq!(
        head,
        // Siblings of leaf 4 in a tree of 11: leaf 5, leaves 6-7, 0-3, 8-10; computed with Python's hashlib.
        "c2sp.org/tlog-proof@v1\n\
         extra aGVsbG8=\n\
         index 4\n\
         n/U3thiiV++CkIxFkVrLrrbZ3qA11tk5ZPyIwZ6YyLM=\n\
         /w4ywg/2W5esELOyZ3uHKqPVoCh9lFesukflfPSkpz8=\n\
         l5nzB1F+9RfCIF35tndivzR1ayAJn7ffzOdrzr0nOy4=\n\
         Gg7P34r3oeK3sD6u30u69aQetycGEXXjRiBCvpuP4wA="
    );
    assert!(note.starts_with("ch-zrh/main/1\n11\n"));
    assert_eq!(ProofFile::parse(text.as_bytes()), Ok(file(4, b"hello")));
}

#[test]
fn every_leaf_is_shown_and_no_other() {
    let policy = policy();
    for index in 0..SIZE {
        let text = file(index, b"").to_string();
        let read = ProofFile::parse(text.as_bytes()).expect("own text");
        assert_eq!((read.index(), read.extra()), (LeafIndex(index), &b""[..]));
        let trusted = read
            .verify(&leaf_hash(&entry(index)), &policy)
            .expect("in the log");
        assert_eq!(trusted.checkpoint().size(), SIZE);
        assert_eq!(trusted.cosigned().len(), 1);
        for other in (0..=SIZE).filter(|other| *other != index) {
            let refused = read.verify(&leaf_hash(&entry(other)), &policy);
            assert_eq!(
                refused,
                Err(ProofFileRefused::Inclusion(ProofError::RootMismatch(SIZE)))
            );
        }
    }
}

#[test]
fn the_checkpoint_is_checked_before_the_proof() {
    let tree = Tree::of(SIZE);
    let note = signed(&tree.checkpoint(SIZE), &[]);
    let unwitnessed = ProofFile::new(LeafIndex(0), Vec::new(), note, Vec::new()).expect("a file");
    assert!(matches!(
        unwitnessed.verify(&leaf_hash(b"x"), &policy()),
        Err(ProofFileRefused::Policy(PolicyRefused::NoQuorum { .. }))
    ));
}

#[test]
fn texts_that_are_no_proof_are_refused() {
    let good = file(4, b"hello").to_string();
    let hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n";
    let (_, note) = good.split_once("\n\n").expect("a note");
    let with = |head: &str| format!("{head}\n{note}");
    let header = "c2sp.org/tlog-proof@v1\n";
    for (text, why) in [
        (String::new(), ProofFileError::Note(NoteError::Unsigned)),
        (good.replace("@v1", "@v2"), ProofFileError::Header),
        (format!("\n{good}"), ProofFileError::Header),
        (with("index 4\n"), ProofFileError::Header),
        (with(header), ProofFileError::Index),
        (with(&format!("{header}index 04\n")), ProofFileError::Index),
        (with(&format!("{header}index\n")), ProofFileError::Index),
        (
            with(&format!("{header}index 4\nindex 4\n")),
            ProofFileError::Proof,
        ),
        (
            with(&format!("{header}extra \nindex 4\n")),
            ProofFileError::Extra,
        ),
        (
            with(&format!("{header}extra aGVsbG8\nindex 4\n")),
            ProofFileError::Extra,
        ),
        (
            with(&format!("{header}index 4\nextra aGVsbG8=\n")),
            ProofFileError::Proof,
        ),
        (
            with(&format!("{header}extra\nindex 4\n")),
            ProofFileError::Index,
        ),
        (
            with(&format!("{header}index 4\n{}", hash.repeat(64))),
            ProofFileError::Proof,
        ),
        (
            good.replace("\n\nch", "\nch"),
            // The first empty line is now the note's own.
            ProofFileError::Proof,
        ),
    ] {
        assert_eq!(ProofFile::parse(text.as_bytes()), Err(why), "{text:.80}");
    }
    assert!(
        ProofFile::parse(with(&format!("{header}index 4\n{}", hash.repeat(63))).as_bytes()).is_ok()
    );
    let long = vec![b'x'; tlog::PROOF_FILE_BYTES_MAX + 1];
    assert_eq!(
        ProofFile::parse(&long),
        Err(ProofFileError::TooLong(long.len()))
    );
    let note = || signed(&Tree::of(1).checkpoint(1), &[]);
    let new = |proof, extra| ProofFile::new(LeafIndex(0), proof, note(), extra);
    assert_eq!(
        new(vec![leaf_hash(b""); 64], Vec::new()),
        Err(ProofFileError::Proof)
    );
    assert_eq!(
        new(Vec::new(), vec![0; tlog::EXTRA_BYTES_MAX + 1]),
        Err(ProofFileError::Extra)
    );
    let full = new(vec![leaf_hash(b""); 63], vec![0; tlog::EXTRA_BYTES_MAX]).expect("the largest");
    assert_eq!(ProofFile::parse(full.to_string().as_bytes()), Ok(full));
}

/// A proof is of no use for anything but its leaf: whatever byte is changed, it is refused, or the change was in the
/// extra data, which nobody signs.
#[test]
fn any_flipped_bit_of_a_proof_is_refused() {
    let (policy, leaf) = (policy(), leaf_hash(&entry(4)));
    let text = file(4, b"hello").to_string();
    let extra = text.find("aGVsbG8=").expect("there");
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bent = text.as_bytes().to_vec();
            bent[at] ^= 1 << bit;
            let holds = ProofFile::parse(&bent).is_ok_and(|f| f.verify(&leaf, &policy).is_ok());
            let hint = (extra..extra + 8).contains(&at);
            assert!(!holds || hint, "byte {at}, bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn a_changed_proof_never_shows_the_leaf_elsewhere(change in mutation()) {
        let bytes = mutate(file(4, b"").to_string().as_bytes(), change);
        if let Ok(read) = ProofFile::parse(&bytes) {
            prop_assert_eq!(read.to_string().into_bytes(), bytes);
            let shown = read.verify(&leaf_hash(&entry(4)), &policy());
            // Lines of unknown keys may be added: they mean nothing, and the leaf is shown where it is.
            let same = read.index() == LeafIndex(4)
                && read.checkpoint().text() == file(4, b"").checkpoint().text();
            prop_assert!(shown.is_err() || same);
        }
    }
}
