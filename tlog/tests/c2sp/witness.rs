//! A witness's decisions, one by one and over whole histories.

use std::convert::Infallible;

use proptest::prelude::*;
use tlog::{
    Accepted, AddCheckpoint, AddCheckpointError, CosignaturesRefused, Hash, Latest, Note,
    NoteError, NoteRefused, ProofError, SignError, SignatureType, SignerKey, VerifierKey,
    WitnessRefused, WitnessedLog, cosignatures_in, decide, leaf_hash, prove_consistency,
};

use crate::support::{
    Tree, checkpoint, keys, log_key, mutate, mutation, seconds, signed, signer, witness_key,
};

/// The request of C2SP tlog-witness.
const EXAMPLE: &str = "old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
";

fn proof(tree: &Tree, old: u64, new: u64) -> Vec<Hash> {
    match old {
        0 => Vec::new(),
        old => prove_consistency(tree, old, new).expect("sizes in order"),
    }
}

fn request(tree: &Tree, old: u64, new: u64) -> AddCheckpoint {
    let note = signed(&tree.checkpoint(new), &[]);
    AddCheckpoint::new(old, proof(tree, old, new), note).expect("a request")
}

/// A witness of one log, with the state it persisted.
struct Witness {
    keys: Vec<VerifierKey>,
    latest: Option<Latest>,
}

impl Witness {
    fn new() -> Self {
        Self {
            keys: keys(&[&log_key()]),
            latest: None,
        }
    }

    fn decide(&self, request: &AddCheckpoint) -> Result<Accepted, WitnessRefused> {
        let log = WitnessedLog {
            keys: &self.keys,
            latest: self.latest.as_ref(),
        };
        decide(request, Some(&log))
    }

    fn add(&mut self, request: &AddCheckpoint) -> Result<String, WitnessRefused> {
        let accepted = self.decide(request)?;
        assert_eq!(accepted.old_size(), self.size());
        let persisted = accepted.persist(|latest| {
            // Through its bytes, as after a restart.
            let bytes = latest.note().to_string();
            self.latest = Some(Latest::parse(bytes.as_bytes()).expect("own bytes"));
            Ok::<_, Infallible>(())
        });
        let Ok(persisted) = persisted;
        let own = [witness_key(0), witness_key(1)];
        Ok(persisted
            .cosign(&own, seconds(1_790_000_000))
            .expect("cosigns"))
    }

    fn size(&self) -> u64 {
        self.latest.as_ref().map_or(0, |l| l.checkpoint().size())
    }
}

#[test]
fn the_example_of_the_specification_is_read_and_written() {
    let request = AddCheckpoint::parse(EXAMPLE.as_bytes()).expect("a request");
    assert_eq!(request.to_string(), EXAMPLE);
    assert_eq!(request.origin().as_str(), "example.com/behind-the-sofa");
    assert_eq!(request.checkpoint().size(), 20_852_163);
    assert!(matches!(
        decide(&request, None),
        Err(WitnessRefused::UnknownOrigin)
    ));
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let parse = |body: &str| AddCheckpoint::parse(body.as_bytes());
    let hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n";
    let (_, note) = EXAMPLE.split_once("\n\n").expect("a note");
    assert!(parse(&format!("old 20852014\n{}\n{note}", hash.repeat(63))).is_ok());
    for (body, why) in [
        (String::new(), AddCheckpointError::Head),
        (format!("old 1\n{hash}"), AddCheckpointError::Head),
        (format!("\n\n{note}"), AddCheckpointError::Head),
        (format!("old 01\n\n{note}"), AddCheckpointError::Head),
        (format!("old  1\n\n{note}"), AddCheckpointError::Head),
        (format!("old 1 \n\n{note}"), AddCheckpointError::Head),
        (format!("new 1\n\n{note}"), AddCheckpointError::Head),
        (format!("old -1\n\n{note}"), AddCheckpointError::Head),
        (
            format!("old 1\n{}\n{note}", hash.repeat(64)),
            AddCheckpointError::Proof,
        ),
        (format!("old 1\nAAAA\n\n{note}"), AddCheckpointError::Proof),
        (
            format!("old 1\n\n{}", &note[..40]),
            AddCheckpointError::Note(NoteError::Unsigned),
        ),
    ] {
        assert_eq!(parse(&body), Err(why), "{body:.60}");
    }
    let no_checkpoint = "old 0\n\nhello\n\n— a AAAAAAA=\n";
    assert!(matches!(
        parse(no_checkpoint),
        Err(AddCheckpointError::Checkpoint(_))
    ));
    let long = "x".repeat(tlog::ADD_CHECKPOINT_BYTES_MAX + 1);
    assert_eq!(parse(&long), Err(AddCheckpointError::TooLong(long.len())));
    let note = Note::parse(note.as_bytes()).expect("a note");
    let hashes = vec![leaf_hash(b""); 64];
    assert_eq!(
        AddCheckpoint::new(1, hashes, note),
        Err(AddCheckpointError::Proof)
    );
}

#[test]
fn a_witness_follows_a_log_and_its_cosignatures_verify() {
    let tree = Tree::of(40);
    let mut witness = Witness::new();
    for (old, new) in [(0, 0), (0, 1), (1, 7), (7, 7), (7, 40), (40, 40)] {
        let request = request(&tree, old, new);
        let answer = witness.add(&request).expect("extends");
        assert_eq!(answer.lines().count(), 2);
        assert!(answer.ends_with('\n') && answer.starts_with('\u{2014}'));
        let note = signed(&tree.checkpoint(new), &[]);
        let known = keys(&[&witness_key(0), &witness_key(1)]);
        let lines = cosignatures_in(answer.as_bytes(), &note, &known).expect("good");
        let note = lines
            .into_iter()
            .fold(note, |note, line| note.with(line).expect("room"));
        let all = keys(&[&log_key(), &witness_key(0), &witness_key(1)]);
        assert_eq!(note.verify(&all).expect("good").len(), 3);
        assert_eq!(witness.size(), new);
    }
}

fn status(answer: Result<Accepted, WitnessRefused>) -> (u16, Option<String>) {
    let refused = answer.expect_err("refused");
    (refused.status(), refused.size_body())
}

#[test]
fn each_refusal_has_its_status() {
    let tree = Tree::of(40);
    let mut witness = Witness::new();
    witness.add(&request(&tree, 0, 7)).expect("the first");
    let sized = |size: u64| Some(format!("{size}\n"));

    // 404 before anything else is looked at.
    assert_eq!(status(decide(&request(&tree, 7, 9), None)), (404, None));
    // 403: nobody known, and somebody known wrongly.
    let other = signer("ch-zrh/main/1", SignatureType::Ed25519, 77);
    let text = tree.checkpoint(9);
    let line = other.sign_checkpoint(&text, None).expect("signs");
    let note = Note::new(text.to_string(), vec![line]).expect("a note");
    let unknown = AddCheckpoint::new(7, proof(&tree, 7, 9), note).expect("a request");
    assert_eq!(status(witness.decide(&unknown)), (403, None));
    let mut line = log_key().sign_checkpoint(&text, None).expect("signs");
    line.bytes[5] ^= 1;
    let note = Note::new(text.to_string(), vec![line]).expect("a note");
    let forged = AddCheckpoint::new(7, proof(&tree, 7, 9), note).expect("a request");
    assert_eq!(
        witness.decide(&forged).expect_err("forged"),
        WitnessRefused::Signatures(NoteRefused::BadSignature {
            name: log_key().verifier().name().clone(),
            id: log_key().verifier().id(),
        })
    );
    // 400: the proof would lead back.
    let note = signed(&tree.checkpoint(5), &[]);
    let back = AddCheckpoint::new(7, Vec::new(), note).expect("a request");
    assert_eq!(status(witness.decide(&back)), (400, None));
    // 400: lines nobody audits.
    let longer = format!("{}line\n", tree.checkpoint(9))
        .parse()
        .expect("a checkpoint");
    let longer = AddCheckpoint::new(7, proof(&tree, 7, 9), signed(&longer, &[]));
    let longer = longer.expect("a request");
    assert_eq!(
        witness.decide(&longer).expect_err("refused"),
        WitnessRefused::ExtensionLines
    );
    assert_eq!(status(witness.decide(&longer)), (400, None));
    // 409: from elsewhere, before and behind; the body says where the witness is.
    assert_eq!(
        status(witness.decide(&request(&tree, 0, 9))),
        (409, sized(7))
    );
    assert_eq!(
        status(witness.decide(&request(&tree, 6, 9))),
        (409, sized(7))
    );
    assert_eq!(
        status(witness.decide(&request(&tree, 8, 9))),
        (409, sized(7))
    );
    assert_eq!(
        status(witness.decide(&request(&tree, 5, 5))),
        (409, sized(7))
    );
    // 422: a proof that does not hold, that is missing, or that is too much.
    let with = |old, proof, size| {
        let note = signed(&tree.checkpoint(size), &[]);
        witness.decide(&AddCheckpoint::new(old, proof, note).expect("a request"))
    };
    let mut bent = proof(&tree, 7, 9);
    bent[0].0[0] ^= 1;
    assert_eq!(status(with(7, bent, 9)), (422, None));
    assert_eq!(status(with(7, Vec::new(), 9)), (422, None));
    assert_eq!(status(with(7, vec![tree.roots[1]], 7)), (422, None));
    let note = signed(&tree.checkpoint(9), &[]);
    let first = AddCheckpoint::new(0, vec![tree.roots[1]], note).expect("a request");
    assert_eq!(
        Witness::new()
            .decide(&first)
            .expect_err("a proof from nothing"),
        WitnessRefused::Proof(ProofError::WrongLength {
            needed: 0,
            found: 1
        })
    );
    assert_eq!(witness.size(), 7, "nothing refused was remembered");
}

#[test]
fn a_log_that_signs_two_trees_of_one_size_is_caught_with_evidence() {
    let (tree, mut witness) = (Tree::of(7), Witness::new());
    witness.add(&request(&tree, 0, 7)).expect("the first");
    let note = signed(&checkpoint(7, leaf_hash(b"other")), &[]);
    let other = AddCheckpoint::new(7, Vec::new(), note).expect("a request");
    let refused = witness.decide(&other).expect_err("a fork");
    assert_eq!(
        (refused.status(), refused.size_body()),
        (409, Some("7\n".to_owned()))
    );
    let WitnessRefused::Forked {
        fork: Some(fork), ..
    } = refused
    else {
        panic!("no evidence: {refused:?}");
    };
    // Anyone with the log's key sees it from these two notes.
    for seen in fork.checkpoints() {
        let bytes = seen.note().to_string();
        tlog::SignedCheckpoint::verify(bytes.as_bytes(), &keys(&[&log_key()])).expect("signed");
    }
    // With a key that is not known any more the older note proves nothing, and the fork is refused all the same.
    let rotated = signer("ch-zrh/main/1", SignatureType::MlDsa44Cosignature, 3);
    let text = checkpoint(7, leaf_hash(b"other"));
    let line = rotated.sign_checkpoint(&text, None).expect("signs");
    let note = Note::new(text.to_string(), vec![line]).expect("a note");
    let other = AddCheckpoint::new(7, Vec::new(), note).expect("a request");
    witness.keys = keys(&[&rotated]);
    assert_eq!(
        witness.decide(&other).expect_err("a fork"),
        WitnessRefused::Forked {
            size: 7,
            fork: None
        }
    );
}

#[test]
fn what_was_not_persisted_is_not_cosigned() {
    let (tree, witness) = (Tree::of(7), Witness::new());
    let accepted = witness.decide(&request(&tree, 0, 7)).expect("extends");
    assert_eq!(
        accepted.persist(|_| Err("disk full")).expect_err("no"),
        "disk full"
    );
}

#[test]
fn a_log_key_does_not_cosign_for_a_witness() {
    let (tree, witness) = (Tree::of(7), Witness::new());
    let accepted = witness.decide(&request(&tree, 0, 7)).expect("extends");
    let Ok(persisted) = accepted.persist(|_| Ok::<_, Infallible>(()));
    let own: [SignerKey; 1] = [log_key()];
    assert_eq!(
        persisted.cosign(&own, seconds(1)),
        Err(SignError::NotACosigner)
    );
}

/// What is kept of a request is what was checked of it: the log's signatures.
#[test]
fn signatures_of_strangers_are_not_remembered() {
    let (tree, mut witness) = (Tree::of(7), Witness::new());
    let note = signed(
        &tree.checkpoint(7),
        &[(&witness_key(4), 9), (&witness_key(5), 9)],
    );
    let request = AddCheckpoint::new(0, Vec::new(), note).expect("a request");
    witness.add(&request).expect("extends");
    let kept = witness.latest.expect("kept").note().to_string();
    assert_eq!(kept, signed(&tree.checkpoint(7), &[]).to_string());
    assert!(Latest::parse(&kept.as_bytes()[1..40]).is_err());
    assert!(Latest::parse(b"hello\n\n\xe2\x80\x94 a AAAAAAA=\n").is_err());
}

#[test]
fn an_answer_is_used_only_if_its_known_lines_hold() {
    let tree = Tree::of(7);
    let answer = Witness::new().add(&request(&tree, 0, 7)).expect("extends");
    let note = signed(&tree.checkpoint(7), &[]);
    let (even, odd) = (witness_key(0), witness_key(1));
    let of = |answer: &str, note: &Note, known: &[&SignerKey]| {
        cosignatures_in(answer.as_bytes(), note, &keys(known)).map(|lines| lines.len())
    };
    assert_eq!(of(&answer, &note, &[&even, &odd]), Ok(2));
    assert_eq!(
        of(&answer, &note, &[&odd]),
        Ok(1),
        "the unknown line is dropped"
    );
    let nobody = Err(CosignaturesRefused::Signatures(NoteRefused::NobodyKnown));
    assert_eq!(of(&answer, &note, &[&witness_key(2)]), nobody);
    let other = signed(&tree.checkpoint(6), &[]);
    assert!(matches!(
        of(&answer, &other, &[&even]),
        Err(CosignaturesRefused::Signatures(
            NoteRefused::BadSignature { .. }
        ))
    ));
    let lines = |why| Err(CosignaturesRefused::Lines(why));
    assert_eq!(of("", &note, &[&even]), lines(NoteError::Unsigned));
    assert_eq!(
        of("hello\n", &note, &[&even]),
        lines(NoteError::SignatureLine(1))
    );
    let cut = answer.trim_end();
    assert_eq!(of(cut, &note, &[&even]), lines(NoteError::SignatureLine(2)));
    let long = "x".repeat(tlog::NOTE_BYTES_MAX + 1);
    assert_eq!(
        of(&long, &note, &[&even]),
        lines(NoteError::TooLong(long.len()))
    );
    let bytes = cosignatures_in(b"\xff\n", &note, &keys(&[&even]));
    assert_eq!(bytes, Err(CosignaturesRefused::Lines(NoteError::NotUtf8)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is sent, a witness cosigns a growing history of one tree.
    #[test]
    fn a_witness_never_leaves_its_history(
        steps in prop::collection::vec((0_u64..60, 0_u64..60, 0_u8..4), 1..30)
    ) {
        let (tree, mut witness) = (Tree::of(60), Witness::new());
        for (old, new, what) in steps {
            let at = witness.size();
            // Mostly from where the witness is, else hardly anything would be accepted.
            let old = if what == 0 { old.min(new) } else { at };
            let new = new.max(old);
            let mut proof = proof(&tree, old, new);
            if what == 1 {
                proof.pop();
            }
            let head = if what == 2 && new > 0 {
                checkpoint(new, leaf_hash(&new.to_be_bytes()))
            } else {
                tree.checkpoint(new)
            };
            let request = AddCheckpoint::new(old, proof, signed(&head, &[])).expect("a request");
            match witness.add(&request) {
                Ok(_) => {
                    prop_assert!(new >= at && old == at);
                    prop_assert!(head == tree.checkpoint(new) || at == 0);
                    if head != tree.checkpoint(new) {
                        // The first history it saw is another: the true tree is refused from now on.
                        witness = Witness::new();
                    }
                }
                Err(_) => prop_assert_eq!(witness.size(), at),
            }
        }
    }

    #[test]
    fn requests_have_one_spelling(old in any::<u64>(), count in 0_usize..64, change in mutation()) {
        let proof = (0..count).map(|i| leaf_hash(&[i as u8])).collect();
        let note = signed(&checkpoint(7, leaf_hash(b"")), &[]);
        let request = AddCheckpoint::new(old, proof, note).expect("a request");
        let bytes = request.to_string().into_bytes();
        prop_assert_eq!(AddCheckpoint::parse(&bytes), Ok(request));
        let bent = mutate(&bytes, change);
        if let Ok(read) = AddCheckpoint::parse(&bent) {
            prop_assert_eq!(read.to_string().into_bytes(), bent);
        }
    }
}
