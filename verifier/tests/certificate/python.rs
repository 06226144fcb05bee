//! The envelope of a certificate by PyPI's `securesystemslib`: `securesystemslib_dsse.py`, where REDUIT_PYTHON names a
//! Python that has it (`cargo xtask test` sets it).

use std::io::Write as _;
use std::process::{Command, Stdio};

use verifier::Bundle;

use crate::build::World;

/// What it says of an envelope and the raw public keys of both regions' replicas.
fn asked(python: &std::ffi::OsStr, bundle: &Bundle, world: &World) -> bool {
    let raw = |spki: Vec<u8>| hex::encode(&spki[12..]);
    let keys = [&world.source, &world.destination].map(|region| {
        let spki = region.replica().spki();
        (tlog::certificate::dsse_key_id(&spki), raw(spki))
    });
    let job = serde_json::json!({ "envelope": bundle.certificate(), "keys": keys });
    let mut child = Command::new(python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/certificate/securesystemslib_dsse.py"
        ))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("REDUIT_PYTHON names an interpreter");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(job.to_string().as_bytes())
        .expect("written");
    drop(stdin);
    let said = child.wait_with_output().expect("it ends");
    assert!(said.status.success(), "securesystemslib does not run");
    match said.stdout.as_slice() {
        b"verified\n" => true,
        b"refused\n" => false,
        other => panic!("{}", String::from_utf8_lossy(other)),
    }
}

#[test]
fn another_implementation_verifies_the_envelope_and_refuses_a_bent_one() {
    let Some(python) = std::env::var_os("REDUIT_PYTHON") else {
        println!("skipped: REDUIT_PYTHON is not set");
        return;
    };
    let world = World::new();
    let bundle = world.bundle();
    assert!(asked(&python, &bundle, &world));
    let mut other = World::new();
    other.said.fence += 1;
    let text = serde_json::to_string(bundle.certificate()).expect("JSON");
    let payload = |bundle: &Bundle| {
        let envelope = serde_json::to_value(bundle.certificate()).expect("JSON");
        envelope["payload"].as_str().expect("text").to_owned()
    };
    let bent = text.replace(&payload(&bundle), &payload(&other.bundle()));
    assert_ne!(bent, text);
    let bent = world.around(serde_json::from_str(&bent).expect("an envelope"));
    assert!(!asked(&python, &bent, &world));
}
