//! Our cosignatures, as they come over HTTP, by implementations not ours: Go's `crypto/ed25519` and PyPI's
//! `cryptography`, each with the message put together from tlog-cosignature alone.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tlog::{SignatureType, VerifierKey};
use transport::SystemClock;
use witness::Witness;

use crate::support::{Place, Tree, add, get};

/// The note with our cosignatures, as monitors get it, and when it was made.
async fn cosigned(place: &Place) -> (String, u64) {
    let witness = Witness::start(&place.config(), SystemClock::shared()).await;
    let witness = witness.expect("starts");
    assert_eq!(
        add(witness.address(), &Tree::of(300).request(0, 300)).status,
        200
    );
    let hash = hex::encode(tlog::sha256(&[crate::support::ORIGIN.as_bytes()]).0);
    let note = get(witness.address(), &format!("/mon/{hash}/checkpoint")).body;
    let time = witness.status().logs[0].cosigned_s.expect("cosigned");
    witness.stop().await;
    (note, time)
}

fn run(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "it failed");
    String::from_utf8(output.stdout).expect("text")
}

fn ed25519(place: &Place) -> &VerifierKey {
    let is = |key: &&VerifierKey| key.kind() == SignatureType::Ed25519Cosignature;
    place.keys.iter().find(is).expect("one of each")
}

#[tokio::test(flavor = "multi_thread")]
async fn go_verifies_our_cosignature_and_refuses_it_on_another_checkpoint() {
    let has_go = Command::new("go")
        .arg("version")
        .stdout(Stdio::null())
        .status();
    if !has_go.is_ok_and(|status| status.success()) {
        println!("skipped: there is no go (Debian: golang-go)");
        return;
    }
    let place = Place::new();
    let (note, time) = cosigned(&place).await;
    let program = place.folder.path().join("verify");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/main.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOCACHE", place.folder.path().join("cache"))
        .status();
    assert!(built.expect("go runs").success());
    let ask = |note: &str| {
        run(
            Command::new(&program),
            &format!("{}\n{note}", ed25519(&place)),
        )
    };
    assert_eq!(ask(&note), format!("{time}\n"));
    assert_eq!(ask(&note.replacen("\n300\n", "\n301\n", 1)), "bad\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn cryptography_of_pypi_verifies_both_cosignatures() {
    let Some(python) = std::env::var_os("REDUIT_PYTHON") else {
        println!("skipped: REDUIT_PYTHON is not set");
        return;
    };
    let place = Place::new();
    let (note, time) = cosigned(&place).await;
    let moved = note.replacen("\n300\n", "\n301\n", 1);
    let job =
        |key: &VerifierKey, note: &str| serde_json::json!({"vkey": key.to_string(), "note": note});
    let jobs =
        [&note, &moved].map(|note| place.keys.iter().map(|k| job(k, note)).collect::<Vec<_>>());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tlog/tests/python/cosignature.py"));
    let jobs = serde_json::json!({"verify": jobs.concat(), "sign": []});
    let answer: serde_json::Value =
        serde_json::from_str(&run(command, &jobs.to_string())).expect("JSON");
    assert_eq!(
        answer["verified"],
        serde_json::json!([time, time, null, null])
    );
}
