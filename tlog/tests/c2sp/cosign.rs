//! Cosignatures, and that nothing in a signed checkpoint can be changed unseen.

use tlog::{
    AddCheckpoint, CheckpointRefused, Fork, MessageError, Note, NoteRefused, SignError,
    SignatureType, SignedCheckpoint, SignerKey, VerifierKey, leaf_hash,
};

use crate::support::{ORIGIN, checkpoint, keys, log_key, seconds, signed, signer, witness_key};

/// Key and checkpoint of the ML-DSA-44 log in the tests of filippo.io/torchwood v0.10.0, `litewitness`: another
/// implementation's signature, of type 0x06 without a time.
#[test]
fn a_checkpoint_that_torchwood_signed_with_ml_dsa_44_verifies() {
    let key = include_str!("data/mldsa44.vkey").trim_end();
    let key: VerifierKey = key.parse().expect("a verifier key");
    assert_eq!(key.kind(), SignatureType::MlDsa44Cosignature);
    let body = include_bytes!("data/mldsa44.add-checkpoint");
    let request = AddCheckpoint::parse(body).expect("a request");
    assert_eq!(request.to_string().as_bytes(), body);
    let at = body.windows(2).position(|w| w == b"\n\n").expect("a note") + 2;
    let note = Note::parse(&body[at..]).expect("a note");
    let known = [key];
    let good = note.verify(&known).expect("signed by torchwood");
    assert_eq!((good.len(), good[0].time), (1, None));
    let mut bent = note.signatures()[0].clone();
    let last = bent.bytes.len() - 1;
    bent.bytes[last] ^= 1;
    let bent = note.with(bent).expect("room");
    assert!(matches!(
        bent.verify(&known),
        Err(NoteRefused::BadSignature { .. })
    ));
}

#[test]
fn cosignatures_verify_and_state_their_time() {
    let checkpoint = checkpoint(7, leaf_hash(b"root"));
    let (even, odd) = (witness_key(0), witness_key(1));
    let note = signed(
        &checkpoint,
        &[(&even, 1_790_000_000), (&odd, 1_790_000_001)],
    );
    let known = keys(&[&log_key(), &even, &odd]);
    let times: Vec<_> = note
        .verify(&known)
        .expect("all good")
        .iter()
        .map(|s| s.time)
        .collect();
    assert_eq!(
        times,
        [
            None,
            Some(seconds(1_790_000_000)),
            Some(seconds(1_790_000_001))
        ]
    );
    // A timed statement is one about that time: the time is signed.
    for signature in &note.signatures()[1..] {
        let mut later = signature.clone();
        later.bytes[7] ^= 1;
        let later = note.clone().with(later).expect("room");
        assert!(matches!(
            later.verify(&known),
            Err(NoteRefused::BadSignature { .. })
        ));
    }
}

/// Type 0x06 signs the cosigner's name, so that one key cannot speak under two names; 0x04 does not, and its id does.
#[test]
fn an_ml_dsa_cosignature_belongs_to_its_name() {
    let checkpoint = checkpoint(7, leaf_hash(b"root"));
    let kind = SignatureType::MlDsa44Cosignature;
    let (one, other) = (
        signer("one.example", kind, 5),
        signer("other.example", kind, 5),
    );
    assert_eq!(one.verifier().public_key(), other.verifier().public_key());
    let mut line = one
        .sign_checkpoint(&checkpoint, Some(seconds(1)))
        .expect("signs");
    line.name = other.verifier().name().clone();
    line.id = other.verifier().id();
    let note = Note::new(checkpoint.to_string(), vec![line]).expect("a note");
    assert!(matches!(
        note.verify(&keys(&[&other])),
        Err(NoteRefused::BadSignature { .. })
    ));
}

#[test]
fn keys_sign_only_what_their_type_says() {
    let checkpoint = checkpoint(7, leaf_hash(b"root"));
    let time = Some(seconds(1));
    let (log, even, odd) = (log_key(), witness_key(0), witness_key(1));
    assert_eq!(
        log.sign_checkpoint(&checkpoint, time),
        Err(SignError::NotACosigner)
    );
    assert_eq!(
        even.sign_checkpoint(&checkpoint, None),
        Err(SignError::NoTime)
    );
    assert!(odd.sign_checkpoint(&checkpoint, None).is_ok());
    assert_eq!(even.sign_text("text\n"), Err(SignError::NotForText(0x04)));
    assert_eq!(odd.sign_text("text\n"), Err(SignError::NotForText(0x06)));
    let extended = format!("{checkpoint}extension\n")
        .parse()
        .expect("a checkpoint");
    assert_eq!(
        odd.sign_checkpoint(&extended, time),
        Err(SignError::Message(MessageError::ExtensionLines))
    );
    assert!(even.sign_checkpoint(&extended, time).is_ok());
    assert!(log.sign_checkpoint(&extended, None).is_ok());
}

/// An extension line that is put under a good ML-DSA-44 signature does not pass as signed.
#[test]
fn lines_added_under_an_ml_dsa_signature_are_refused() {
    let checkpoint = checkpoint(7, leaf_hash(b"root"));
    let key = witness_key(1);
    let line = key
        .sign_checkpoint(&checkpoint, Some(seconds(1)))
        .expect("signs");
    let longer = Note::new(format!("{checkpoint}added\n"), vec![line]).expect("a note");
    assert!(matches!(
        longer.verify(&keys(&[&key])),
        Err(NoteRefused::BadSignature { .. })
    ));
}

fn single(key: &SignerKey) -> Vec<u8> {
    let checkpoint = checkpoint(123_456, leaf_hash(b"root"));
    let time = (key.verifier().kind() != SignatureType::Ed25519).then(|| seconds(1_790_000_000));
    let line = key.sign_checkpoint(&checkpoint, time).expect("signs");
    let note = Note::new(checkpoint.to_string(), vec![line]).expect("a note");
    note.to_string().into_bytes()
}

#[test]
fn any_flipped_bit_of_a_signed_checkpoint_is_refused() {
    for (key, bits) in [
        (log_key(), 0..8),
        (witness_key(0), 0..8),
        // 3.4 kB of it: one bit of each byte, another one from byte to byte.
        (witness_key(1), 0..1),
    ] {
        let (bytes, known) = (single(&key), keys(&[&key]));
        assert!(SignedCheckpoint::verify(&bytes, &known).is_ok());
        for at in 0..bytes.len() {
            for bit in bits.clone() {
                let mut bent = bytes.clone();
                bent[at] ^= 1 << ((bit + at) % 8);
                let answer = SignedCheckpoint::verify(&bent, &known);
                assert!(answer.is_err(), "byte {at}, bit {bit}: {bent:?}");
            }
        }
    }
}

#[test]
fn any_cut_or_lengthened_checkpoint_is_refused() {
    let (bytes, known) = (single(&log_key()), keys(&[&log_key()]));
    for end in 0..bytes.len() {
        assert!(
            SignedCheckpoint::verify(&bytes[..end], &known).is_err(),
            "{end}"
        );
    }
    for at in 0..=bytes.len() {
        for byte in [b'\n', b' ', b'0', b'A', b'='] {
            let mut longer = bytes.clone();
            longer.insert(at, byte);
            assert!(
                SignedCheckpoint::verify(&longer, &known).is_err(),
                "{at} {byte}"
            );
        }
    }
}

#[test]
fn a_signed_checkpoint_keeps_the_log_s_signatures_alone() {
    let tree = checkpoint(7, leaf_hash(b"root"));
    let note = signed(&tree, &[(&witness_key(0), 5)]);
    let known = keys(&[&log_key()]);
    let verified = SignedCheckpoint::verify(note.to_string().as_bytes(), &known).expect("signed");
    assert_eq!(verified.checkpoint(), &tree);
    assert_eq!(verified.note(), &signed(&tree, &[]));
    let other = keys(&[&witness_key(2)]);
    assert_eq!(
        SignedCheckpoint::verify(note.to_string().as_bytes(), &other),
        Err(CheckpointRefused::Signatures(NoteRefused::NobodyKnown))
    );
    let line = log_key().sign_text("hello\n").expect("signs");
    let hello = Note::new("hello\n".to_owned(), vec![line]).expect("a note");
    assert!(matches!(
        SignedCheckpoint::verify(hello.to_string().as_bytes(), &known),
        Err(CheckpointRefused::Text(_))
    ));
}

#[test]
fn two_roots_of_one_size_are_a_fork_and_nothing_else_is() {
    let known = keys(&[&log_key()]);
    let head = |size, leaf: &[u8]| {
        SignedCheckpoint::verify_note(&signed(&checkpoint(size, leaf_hash(leaf)), &[]), &known)
            .expect("signed")
    };
    let (a, b) = (head(7, b"a"), head(7, b"b"));
    let fork = Fork::between(&a, &b).expect("a fork");
    assert_eq!(fork.checkpoints(), [&a, &b]);
    assert_eq!(Fork::between(&a, &a.clone()), None);
    assert_eq!(Fork::between(&a, &head(8, b"b")), None);
    let key = signer("other/log/1", SignatureType::Ed25519, 1);
    let elsewhere = tlog::Checkpoint::new(
        "other/log/1".parse().expect("an origin"),
        7,
        leaf_hash(b"b"),
    );
    let elsewhere = elsewhere.expect("a checkpoint");
    let line = key.sign_checkpoint(&elsewhere, None).expect("signs");
    let note = Note::new(elsewhere.to_string(), vec![line]).expect("a note");
    let other = SignedCheckpoint::verify_note(&note, &keys(&[&key])).expect("signed");
    assert_eq!(
        Fork::between(&a, &other),
        None,
        "of {ORIGIN} and another log"
    );
}
