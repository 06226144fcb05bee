//! Cosignatures of both types against PyPI's `cryptography`: `tests/python/cosignature.py`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};
use tlog::{Note, Signature, SignatureType, leaf_hash};

use crate::support::{checkpoint, keys, seconds, signed, signer, witness_key};

#[derive(Deserialize)]
struct Answer {
    verified: Vec<Option<u64>>,
    signed: Vec<String>,
}

fn ask(jobs: &Value) -> Option<Answer> {
    let Some(python) = std::env::var_os("REDUIT_PYTHON") else {
        println!("skipped: REDUIT_PYTHON is not set");
        return None;
    };
    let mut child = Command::new(python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/python/cosignature.py"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("REDUIT_PYTHON names an interpreter");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(jobs.to_string().as_bytes())
        .expect("the script reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "the script failed");
    Some(serde_json::from_slice(&output.stdout).expect("an answer"))
}

#[test]
fn cosignatures_go_both_ways_with_cryptography_of_pypi() {
    const TIME: u64 = 1_790_000_000;
    let tree = checkpoint(20_852_163, leaf_hash(b"root"));
    let kinds = [
        SignatureType::Ed25519Cosignature,
        SignatureType::MlDsa44Cosignature,
    ];
    let signers = kinds.map(|kind| signer("python.example/w", kind, 42));
    let note = signed(
        &tree,
        &[(&witness_key(0), TIME), (&witness_key(1), TIME + 1)],
    );
    let moved = note.to_string().replace("\n20852163\n", "\n20852164\n");
    let verify = |number: u8, note: &str| json!({"vkey": witness_key(number).verifier().to_string(), "note": note});
    let sign = |kind: SignatureType| {
        json!({
            "name": "python.example/w",
            "type": kind.byte(),
            "seed": hex::encode([42; 32]),
            "time": TIME,
            "text": tree.to_string(),
        })
    };
    let Some(answer) = ask(&json!({
        "verify": [
            verify(0, &note.to_string()),
            verify(1, &note.to_string()),
            verify(0, &moved),
            verify(1, &moved),
        ],
        "sign": kinds.map(sign),
    })) else {
        return;
    };
    assert_eq!(answer.verified, [Some(TIME), Some(TIME + 1), None, None]);
    for (line, key) in answer.signed.iter().zip(&signers) {
        let line: Signature = line.parse().expect("a signature line");
        assert_eq!(line.id, key.verifier().id(), "of the same seed");
        let note = Note::new(tree.to_string(), vec![line]).expect("a note");
        let known = keys(&[key]);
        let good = note.verify(&known).expect("their signature");
        assert_eq!(good[0].time, Some(seconds(TIME)));
    }
}
