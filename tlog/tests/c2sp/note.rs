//! Signed notes and their keys.

use proptest::prelude::*;
use tlog::{
    KeyError, KeyId, NOTE_BYTES_MAX, Note, NoteError, NoteRefused, SIGNATURES_MAX, Signature,
    SignatureType, SignerKey, VerifierKey,
};

use crate::support::{keys, mutate, mutation, name, signer};

// The example of C2SP signed-note, section "Verifier keys".
const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

// The example of golang.org/x/mod/sumdb/note.
const PETER: &str =
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const PETER_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const PETER_LINE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";

fn log() -> SignerKey {
    signer("a.example", SignatureType::Ed25519, 1)
}

fn line(key: &SignerKey, text: &str) -> Signature {
    key.sign_text(text).expect("signs")
}

#[test]
fn the_example_of_the_specification_verifies() {
    let key: VerifierKey = VKEY.parse().expect("a verifier key");
    assert_eq!(key.to_string(), VKEY);
    let note = Note::parse(NOTE.as_bytes()).expect("a note");
    assert_eq!(note.text(), "This is an example message.\n");
    assert_eq!(note.to_string(), NOTE);
    let known = [key];
    let good = note.verify(&known).expect("signed");
    assert_eq!((good[0].key, good[0].time), (&known[0], None));
}

#[test]
fn go_s_example_key_makes_go_s_example_signature() {
    let key = SignerKey::parse(PETER).expect("a signer key");
    assert_eq!(key.verifier().to_string(), PETER_VKEY);
    assert_eq!(line(&key, PETER_TEXT).to_string(), PETER_LINE);
    let mut seed = [0; 32];
    hex::decode_to_slice(
        "810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173",
        &mut seed,
    )
    .expect("32 bytes");
    let text = SignerKey::text_of(&name("PeterNeumann"), SignatureType::Ed25519, &seed);
    assert_eq!(text.expect("a key").as_str(), PETER);
}

#[test]
fn signer_keys_of_every_type_survive_their_text() {
    for kind in [
        SignatureType::Ed25519,
        SignatureType::Ed25519Cosignature,
        SignatureType::MlDsa44Cosignature,
    ] {
        let name = name("key.example/1");
        let made = SignerKey::from_seed(name.clone(), kind, &[7; 32]).expect("a key");
        let text = SignerKey::text_of(&name, kind, &[7; 32]).expect("a key");
        let read = SignerKey::parse(&text).expect("own text");
        assert_eq!(read.verifier(), made.verifier());
        assert_eq!(read.verifier().kind(), kind);
        let public: VerifierKey = read.verifier().to_string().parse().expect("own text");
        assert_eq!(&public, read.verifier());
    }
}

/// As Go's tests: every piece of a key's text and every byte of it counts.
#[test]
fn no_mangled_key_is_a_key() {
    let verifier = |text: &str| text.parse::<VerifierKey>().is_ok();
    let signer = |text: &str| SignerKey::parse(text).is_ok();
    for (text, accepts) in [
        (PETER_VKEY, &verifier as &dyn Fn(&str) -> bool),
        (PETER, &signer),
    ] {
        assert!(accepts(text));
        for start in 0..text.len() {
            for end in start..=text.len() {
                let whole = (start, end) == (0, text.len());
                assert_eq!(accepts(&text[start..end]), whole, "{start}..{end}");
            }
        }
        for at in 0..text.len() {
            for bit in 0..7 {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                let bent = String::from_utf8(bytes).expect("ASCII");
                assert!(!accepts(&bent), "{bent:?}");
            }
        }
    }
}

#[test]
fn keys_are_refused_for_what_is_wrong_with_them() {
    let parse = |text: &str| text.parse::<VerifierKey>();
    assert_eq!(parse("name"), Err(KeyError::Form));
    assert_eq!(parse("name+00000000"), Err(KeyError::Form));
    assert_eq!(parse("name+00000000+"), Err(KeyError::Form));
    assert_eq!(parse("name+0000000+AQ=="), Err(KeyError::Form));
    assert_eq!(parse(&PETER_VKEY.to_uppercase()), Err(KeyError::Form));
    // Go's tests have these two, with ids that fit.
    assert_eq!(
        parse("PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY=="),
        Err(KeyError::Form),
        "stray bits in base64"
    );
    assert_eq!(
        parse("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"),
        Err(KeyError::UnknownType(0x65))
    );
    for kind in [0x00, 0x02, 0x03, 0x05, 0x07, 0xff] {
        assert_eq!(SignatureType::of(kind), None, "{kind}");
    }
    let stated = KeyId([0, 0, 0, 0]);
    let other_id = PETER_VKEY.replace("c74f20a3", "00000000");
    assert!(matches!(parse(&other_id), Err(KeyError::Id { stated: s, .. }) if s == stated));
    for bad in [
        "",
        "a b",
        "a+b",
        "a\u{a0}b",
        "a\u{2028}b",
        "a\tb",
        "a\u{1}b",
    ] {
        assert_eq!(bad.parse::<tlog::KeyName>(), Err(KeyError::Name), "{bad:?}");
    }
    let long = name(&"x".repeat(256));
    let kind = SignatureType::MlDsa44Cosignature;
    assert_eq!(
        VerifierKey::new(long.clone(), kind, &[0; 1312]),
        Err(KeyError::NameTooLong)
    );
    assert!(VerifierKey::new(long, SignatureType::Ed25519, &[0; 32]).is_ok());
    assert_eq!(
        VerifierKey::new(name("n"), kind, &[0; 1311]),
        Err(KeyError::Length {
            kind: 6,
            needed: 1312,
            found: 1311
        })
    );
}

#[test]
fn bytes_that_are_no_note_are_refused_for_what_is_wrong() {
    let sig = line(&log(), "text\n").to_string();
    let good = format!("text\n\n{sig}\n");
    assert!(Note::parse(good.as_bytes()).is_ok());
    let short = "— a AAAAAA=="; // Four bytes: an id and no signature.
    for (bytes, why) in [
        (String::new(), NoteError::Unsigned),
        ("text\n".to_owned(), NoteError::Unsigned),
        ("text\n\n".to_owned(), NoteError::Unsigned),
        (format!("text\n{sig}\n"), NoteError::Unsigned),
        (format!("text\n\n{sig}"), NoteError::SignatureLine(1)),
        (format!("text\n\n{sig}\n{sig}"), NoteError::SignatureLine(2)),
        (format!("text\n\n{sig}\n\n"), NoteError::Unsigned),
        (format!("text\n\n\n{sig}\nx\n"), NoteError::SignatureLine(2)),
        (format!("te\rxt\n\n{sig}\n"), NoteError::ControlCharacter),
        (format!("te\0xt\n\n{sig}\n"), NoteError::ControlCharacter),
        (format!("text\n\n{sig}\r\n"), NoteError::ControlCharacter),
        (
            format!("text\n\n{}\n", sig.replace('—', "-")),
            NoteError::SignatureLine(1),
        ),
        (format!("text\n\n {sig}\n"), NoteError::SignatureLine(1)),
        (format!("text\n\n{sig} \n"), NoteError::SignatureLine(1)),
        (
            format!("text\n\n{}\n", sig.replace(' ', "  ")),
            NoteError::SignatureLine(1),
        ),
        (format!("text\n\n{short}\n"), NoteError::SignatureLine(1)),
        (
            "text\n\n— a+b AAAAAAA=\n".to_owned(),
            NoteError::SignatureLine(1),
        ),
        (
            "text\n\n— a AAAAAAB=\n".to_owned(),
            NoteError::SignatureLine(1),
        ),
        (
            "text\n\n— a AAAAAAA\n".to_owned(),
            NoteError::SignatureLine(1),
        ),
    ] {
        assert_eq!(Note::parse(bytes.as_bytes()), Err(why), "{bytes:?}");
    }
    assert_eq!(
        Note::parse(b"te\xffxt\n\n\xe2\x80\x94 a AAAAAAA=\n"),
        Err(NoteError::NotUtf8)
    );
    let sigs = || vec![line(&log(), "text\n")];
    for (text, why) in [
        ("", NoteError::TextWithoutNewline),
        ("text", NoteError::TextWithoutNewline),
        ("te\txt\n", NoteError::ControlCharacter),
    ] {
        assert_eq!(Note::new(text.to_owned(), sigs()), Err(why), "{text:?}");
    }
    assert_eq!(
        Note::new("text\n".to_owned(), Vec::new()),
        Err(NoteError::Unsigned)
    );
}

#[test]
fn a_text_may_have_empty_lines_and_signature_like_lines() {
    let key = log();
    for text in [
        "\n",
        "a\n\nb\n",
        "a\n\n",
        "— a AAAAAAA=\n",
        "é 日本\u{7f}\n",
    ] {
        let note = Note::new(text.to_owned(), vec![line(&key, text)]).expect("a note");
        let read = Note::parse(note.to_string().as_bytes()).expect("own bytes");
        assert_eq!(read, note);
        assert_eq!(read.text(), text);
        assert!(read.verify(&keys(&[&key])).is_ok());
    }
}

/// What is told of a known key decides; what is told of others does not.
#[test]
fn known_keys_must_hold_and_unknown_ones_are_ignored() {
    let (a, b) = (log(), signer("b.example", SignatureType::Ed25519, 2));
    let text = "text\n";
    let (line_a, line_b) = (line(&a, text), line(&b, text));
    let note = |signatures: &[&Signature]| {
        let signatures = signatures.iter().map(|s| (*s).clone()).collect();
        Note::new(text.to_owned(), signatures).expect("a note")
    };
    let refused = |note: Note, known: &[&SignerKey]| note.verify(&keys(known)).err();
    let who = |key: &SignerKey| (key.verifier().name().clone(), key.verifier().id());
    let (name, id) = who(&a);

    let both = note(&[&line_a, &line_b]);
    assert_eq!(both.verify(&keys(&[&a, &b])).expect("both").len(), 2);
    assert_eq!(both.verify(&keys(&[&b])).expect("one").len(), 1);
    let only = both.only_of(&keys(&[&b])).expect("one");
    assert_eq!(only.to_string(), note(&[&line_b]).to_string());
    assert_eq!(refused(both.clone(), &[]), Some(NoteRefused::NobodyKnown));
    let third = signer("c.example", SignatureType::Ed25519, 3);
    assert_eq!(refused(both, &[&third]), Some(NoteRefused::NobodyKnown));

    let mut bad_a = line_a.clone();
    bad_a.bytes[0] ^= 1;
    let bad = NoteRefused::BadSignature {
        name: name.clone(),
        id,
    };
    assert_eq!(
        refused(note(&[&line_b, &bad_a]), &[&a, &b]),
        Some(bad.clone()),
        "one bad line of a known key spoils the note"
    );
    assert!(note(&[&line_b, &bad_a]).verify(&keys(&[&b])).is_ok());
    for length in [1, 63, 65] {
        let mut other = line_a.clone();
        other.bytes.resize(length, 0);
        assert_eq!(
            refused(note(&[&other]), &[&a]),
            Some(bad.clone()),
            "{length}"
        );
    }

    let twice = NoteRefused::SignedTwice {
        name: name.clone(),
        id,
    };
    assert_eq!(
        refused(note(&[&line_a, &line_a]), &[&a]),
        Some(twice.clone())
    );
    assert_eq!(refused(note(&[&line_a, &bad_a]), &[&a]), Some(twice));
    assert!(
        note(&[&line_b, &line_b, &line_a])
            .verify(&keys(&[&a]))
            .is_ok()
    );

    let ambiguous = NoteRefused::AmbiguousKey { name, id };
    assert_eq!(refused(note(&[&line_a]), &[&a, &a]), Some(ambiguous));

    // Same name, other id; same id, other name: both unknown.
    let mut renamed = bad_a.clone();
    renamed.name = crate::support::name("z.example");
    assert!(note(&[&line_a, &renamed]).verify(&keys(&[&a])).is_ok());
    let mut other_id = bad_a;
    other_id.id.0[3] ^= 1;
    assert!(note(&[&line_a, &other_id]).verify(&keys(&[&a])).is_ok());
}

/// One Ed25519 key under two types is two keys: a signature of one type is not one of the other.
#[test]
fn a_signature_counts_for_its_type_alone() {
    let log = signer("x.example", SignatureType::Ed25519, 9);
    let cosigner = signer("x.example", SignatureType::Ed25519Cosignature, 9);
    assert_eq!(
        log.verifier().public_key(),
        cosigner.verifier().public_key()
    );
    assert_ne!(log.verifier().id(), cosigner.verifier().id());
    let text = crate::support::checkpoint(1, tlog::leaf_hash(b"")).to_string();
    let mut passed_off = line(&log, &text);
    passed_off.id = cosigner.verifier().id();
    let note = Note::new(text, vec![passed_off]).expect("a note");
    assert!(matches!(
        note.verify(&keys(&[&cosigner])),
        Err(NoteRefused::BadSignature { .. })
    ));
}

#[test]
fn a_hundred_signatures_fit_and_no_more() {
    let checkpoint = crate::support::checkpoint(1, tlog::leaf_hash(b"x"));
    let text = checkpoint.to_string();
    let cosigners: Vec<_> = (0..SIGNATURES_MAX)
        .map(|i| {
            let kind = SignatureType::MlDsa44Cosignature;
            let seed = tlog::sha256(&[&i.to_be_bytes()]).0;
            SignerKey::from_seed(name(&format!("w{i}.example")), kind, &seed).expect("a key")
        })
        .collect();
    let sign = |key: &SignerKey| key.sign_checkpoint(&checkpoint, None).expect("signs");
    let lines: Vec<_> = cosigners.iter().map(sign).collect();
    let full = Note::new(text.clone(), lines).expect("100 ML-DSA-44 signatures");
    let read = Note::parse(full.to_string().as_bytes()).expect("own bytes");
    let known: Vec<_> = cosigners.iter().map(|c| c.verifier().clone()).collect();
    assert_eq!(read.verify(&known).expect("all good").len(), SIGNATURES_MAX);

    let one_more = line(&log(), &text);
    let bytes = format!("{full}{one_more}\n");
    assert_eq!(
        Note::parse(bytes.as_bytes()),
        Err(NoteError::TooManySignatures)
    );
    assert_eq!(full.with(one_more), Err(NoteError::TooManySignatures));

    let long = vec![b'x'; NOTE_BYTES_MAX + 1];
    assert_eq!(Note::parse(&long), Err(NoteError::TooLong(long.len())));
    let text = format!("{}\n", "x".repeat(NOTE_BYTES_MAX));
    let signatures = vec![line(&log(), &text)];
    assert!(matches!(
        Note::new(text, signatures),
        Err(NoteError::TooLong(_))
    ));
}

#[test]
fn with_replaces_the_signature_of_the_same_key() {
    let (a, b) = (log(), signer("b.example", SignatureType::Ed25519, 2));
    let note = Note::new(
        "text\n".to_owned(),
        vec![line(&a, "other\n"), line(&b, "text\n")],
    );
    let note = note
        .expect("a note")
        .with(line(&a, "text\n"))
        .expect("room");
    assert_eq!(note.signatures().len(), 2);
    assert!(note.verify(&keys(&[&a, &b])).is_ok());
}

fn texts() -> impl Strategy<Value = String> {
    "[^\\x00-\\x09\\x0b-\\x1f]{0,40}".prop_map(|text| format!("{text}\n"))
}

fn lines() -> impl Strategy<Value = Signature> {
    let name = "[^\\x00- \\s+]{1,12}";
    (
        name,
        any::<[u8; 4]>(),
        prop::collection::vec(any::<u8>(), 1..90),
    )
        .prop_map(|(name, id, bytes)| Signature {
            name: crate::support::name(&name),
            id: KeyId(id),
            bytes,
        })
}

proptest! {
    #[test]
    fn notes_survive_their_bytes(text in texts(), lines in prop::collection::vec(lines(), 1..6)) {
        let note = Note::new(text, lines).expect("well formed");
        let bytes = note.to_string();
        prop_assert_eq!(&Note::parse(bytes.as_bytes()).expect("own bytes"), &note);
    }

    #[test]
    fn what_parses_is_written_back_byte_for_byte(
        text in texts(), lines in prop::collection::vec(lines(), 1..4), change in mutation()
    ) {
        let bytes = mutate(Note::new(text, lines).expect("well formed").to_string().as_bytes(), change);
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_string().into_bytes(), bytes);
        }
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_string().into_bytes(), bytes);
        }
    }
}
