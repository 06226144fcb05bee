//! What logs, witnesses and verifiers hand to one another: C2SP's notes, checkpoints, cosignatures, keys and policies.
//!
//! Owns one log with two witnesses, by fixed keys. Besides no panic: what parses is written back byte for byte, and
//! nothing is believed that these keys did not sign.

mod proofs;
mod tiles;

use std::sync::OnceLock;

use tlog::{
    Checkpoint, KeyName, Note, Origin, OriginLine, Policy, Signature, SignatureType,
    SignedCheckpoint, SignerKey, UnixSeconds, VerifierKey, cosignatures_in, root_at,
};

pub(super) use self::proofs::{PROOF_FILE, WITNESS_REQUEST};
pub(super) use self::tiles::TILES;
use super::log::{LEAVES, stored};
use crate::input::edited;
use crate::{Memory, Shape, Source, Target};

pub(super) const NOTE: Target = Target {
    name: "note",
    from: Source::Network,
    parses: &[
        "tlog/src/note.rs: parse",
        "tlog/src/checkpoint.rs: FromStr",
        "tlog/src/cosignature.rs: split",
    ],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: note,
    seeds: note_seeds,
};

pub(super) const COSIGNATURES: Target = Target {
    name: "cosignatures",
    from: Source::Network,
    parses: &["tlog/src/witness.rs: cosignatures_in"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory::PARSER,
    check: cosignatures,
    seeds: || vec![[&[0], lines().as_bytes()].concat(), vec![1]],
};

pub(super) const NOTE_KEY: Target = Target {
    name: "note-key",
    from: Source::Person,
    parses: &[
        "tlog/src/key.rs: FromStr",
        "tlog/src/signer.rs: parse",
        "tlog/src/origin.rs: FromStr",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory::PARSER,
    check: note_key,
    seeds: note_key_seeds,
};

pub(super) const POLICY: Target = Target {
    name: "policy",
    from: Source::Person,
    parses: &["tlog/src/policy/parse.rs: parse"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 256,
    },
    check: policy,
    seeds: policy_seeds,
};

/// The log and its witnesses.
struct Kit {
    log: SignerKey,
    witnesses: [SignerKey; 2],
    /// Public halves, the log's first.
    keys: [VerifierKey; 3],
    policy: Policy,
    /// What the log signed, of the sizes in [`SIZES`].
    notes: Vec<Note>,
}

/// Sizes of which there are signed checkpoints.
const SIZES: [u64; 3] = [1, 7, LEAVES];
const LOG: &str = "ch-zrh/main/1";

fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        let key = |name: &str, kind, seed| {
            let name = name.parse().expect("a name");
            SignerKey::from_seed(name, kind, &[seed; 32]).expect("every seed is a key")
        };
        let log = key(LOG, SignatureType::Ed25519, 1);
        let witnesses = [
            key("w1.example", SignatureType::Ed25519Cosignature, 2),
            key("w2.example", SignatureType::MlDsa44Cosignature, 3),
        ];
        let keys = [&log, &witnesses[0], &witnesses[1]].map(|key| key.verifier().clone());
        let text = policy_text(&keys);
        let notes = SIZES.map(|size| signed(&log, &witnesses[..1], &checkpoint(size)));
        Kit {
            notes: notes.into(),
            policy: Policy::parse(text.as_bytes()).expect("a policy"),
            log,
            witnesses,
            keys,
        }
    })
}

fn policy_text([log, first, second]: &[VerifierKey; 3]) -> String {
    format!(
        "# trusted\nlog {log} https://log.example/\nwitness w1 {first}\nwitness w2 {second}\n\
         group g any w1 w2\nquorum g\n"
    )
}

fn checkpoint(size: u64) -> Checkpoint {
    let root = root_at(stored(), size).expect("in the tree");
    Checkpoint::new(LOG.parse().expect("a line"), size, root).expect("a tree")
}

fn signed(log: &SignerKey, witnesses: &[SignerKey], checkpoint: &Checkpoint) -> Note {
    let of_log = log.sign_checkpoint(checkpoint, None).expect("a checkpoint");
    let note = Note::new(checkpoint.to_string(), vec![of_log]).expect("signed");
    witnesses.iter().fold(note, |note, witness| {
        let line = witness.sign_checkpoint(checkpoint, UnixSeconds::new(1_790_000_000));
        note.with(line.expect("a checkpoint")).expect("small")
    })
}

/// Bytes as they are, or as edits of something valid, by their first one.
fn bytes(data: &[u8], valid: &[u8]) -> Option<Vec<u8>> {
    let (how, data) = data.split_first()?;
    Some(match how % 2 {
        0 => data.to_vec(),
        _ => edited(valid, data),
    })
}

/// Whether the log signed a text.
fn is_signed(text: &str) -> bool {
    kit().notes.iter().any(|note| note.text() == text)
}

fn note(data: &[u8]) {
    let kit = kit();
    let valid = kit.notes[1].to_string();
    let Some(bytes) = bytes(data, valid.as_bytes()) else {
        return;
    };
    let Ok(note) = Note::parse(&bytes) else {
        return;
    };
    assert_eq!(note.to_string().as_bytes(), bytes, "one spelling");
    let again = Note::new(note.text().to_owned(), note.signatures().to_vec());
    assert_eq!(again.as_ref(), Ok(&note));
    for signature in note.signatures() {
        let again = signature.to_string().parse::<Signature>();
        assert_eq!(again.as_ref(), Ok(signature));
    }
    if let Ok(good) = note.verify(&kit.keys) {
        assert!(is_signed(note.text()), "nobody signed this");
        let kept = note.only_of(&kit.keys).expect("some are good");
        assert_eq!(kept.signatures().len(), good.len());
        assert_eq!(kept.verify(&kit.keys), Ok(good));
    }
    let text = note.text().parse::<Checkpoint>();
    if let Ok(checkpoint) = &text {
        assert_eq!(checkpoint.to_string(), note.text(), "one spelling");
    }
    let log = &kit.keys[..1];
    let taken = SignedCheckpoint::verify(&bytes, log).is_ok();
    assert_eq!(taken, text.is_ok() && note.verify(log).is_ok());
}

fn note_seeds() -> Vec<Vec<u8>> {
    let raw = |note: &Note| [&[0], note.to_string().as_bytes()].concat();
    let all = signed(&kit().log, &kit().witnesses, &checkpoint(LEAVES));
    let mut seeds: Vec<_> = kit().notes.iter().map(raw).collect();
    seeds.extend([
        raw(&all),
        b"\0text\n\nmore\n\n\xE2\x80\x94 name AAAAAAA=\n".to_vec(),
        b"\0o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nextra\n\n\xE2\x80\x94 n AAAAAAA=\n"
            .to_vec(),
        vec![1],
    ]);
    seeds
}

/// What a witness answers about the log's checkpoint.
fn lines() -> String {
    let lines = kit().notes[1].signatures()[1..].iter();
    lines.map(|line| format!("{line}\n")).collect()
}

fn cosignatures(data: &[u8]) {
    let kit = kit();
    let note = Note::new(
        kit.notes[1].text().to_owned(),
        kit.notes[1].signatures()[..1].to_vec(),
    );
    let note = note.expect("the log's alone");
    let Some(answer) = bytes(data, lines().as_bytes()) else {
        return;
    };
    let witnesses = &kit.keys[1..];
    let Ok(good) = cosignatures_in(&answer, &note, witnesses) else {
        return;
    };
    assert!(!good.is_empty(), "an answer that is used has a cosignature");
    let known = |line: &Signature| witnesses.iter().any(|key| key.id() == line.id);
    assert!(good.iter().all(known), "only lines of known keys are used");
    let count = good.len();
    let note = good
        .into_iter()
        .try_fold(note, Note::with)
        .expect("what was taken fits");
    assert_eq!(note.signatures().len(), count + 1);
    assert!(kit.policy.check(&note).is_ok(), "any witness is a quorum");
}

fn note_key(data: &[u8]) {
    let kit = kit();
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text, "one spelling");
        let again = VerifierKey::new(key.name().clone(), key.kind(), key.public_key());
        assert_eq!(again, Ok(key));
    }
    if let Ok(key) = SignerKey::parse(text) {
        let public = key.verifier();
        assert_eq!(public.to_string().parse().as_ref(), Ok(public));
        let time = match public.kind() {
            SignatureType::Ed25519 => None,
            _ => UnixSeconds::new(1),
        };
        let line = key.sign_checkpoint(&checkpoint(1), time).expect("signs");
        let note = Note::new(checkpoint(1).to_string(), vec![line]).expect("small");
        assert!(note.verify(std::slice::from_ref(public)).is_ok());
    }
    if let Ok(origin) = text.parse::<Origin>() {
        assert_eq!(origin.to_string(), text, "one spelling");
        assert_eq!(OriginLine::from(&origin).as_str(), text);
    }
    if let Ok(name) = text.parse::<KeyName>() {
        assert_eq!(name.as_str(), text);
        let key = VerifierKey::new(name, SignatureType::Ed25519, kit.keys[0].public_key());
        let key = key.expect("names of any length");
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

fn note_key_seeds() -> Vec<Vec<u8>> {
    let secret = |kind| {
        let name: KeyName = "w1.example".parse().expect("a name");
        let text = SignerKey::text_of(&name, kind, &[9; 32]).expect("a key");
        text.as_bytes().to_vec()
    };
    let keys = kit().keys.iter();
    let mut seeds: Vec<_> = keys.map(|key| key.to_string().into_bytes()).collect();
    seeds.extend([
        secret(SignatureType::Ed25519Cosignature),
        secret(SignatureType::MlDsa44Cosignature),
        LOG.as_bytes().to_vec(),
    ]);
    seeds
}

fn policy(data: &[u8]) {
    let kit = kit();
    let Some(bytes) = bytes(data, &kit.policy.to_bytes()) else {
        return;
    };
    let Ok(policy) = Policy::parse(&bytes) else {
        return;
    };
    let written = policy.to_bytes();
    let again = Policy::parse(&written).expect("own text");
    assert_eq!(again.to_bytes(), written);
    assert_eq!(again.logs(), policy.logs());
    assert!(again.witnesses().eq(policy.witnesses()));
    for note in &kit.notes {
        // The order of keys is that of the lines, and decides nothing.
        assert_eq!(again.check(note), policy.check(note));
        if let Ok(trusted) = policy.check(note) {
            assert!(policy.logs().iter().any(|log| log.key == kit.keys[0]));
            assert_eq!(trusted.checkpoint().to_string(), note.text());
        }
    }
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let [log, first, _] = &kit().keys;
    let of = |text: String| [&[0], text.as_bytes()].concat();
    vec![
        of(format!("log {log}\nquorum none\n")),
        of(format!(
            "witness a {first} http://a/\nlog {log}\ngroup b 1 a\ngroup c all b\nquorum c\n"
        )),
        vec![1],
    ]
}
