//! Checkpoints, growth and inclusion of a folder by Go's golang.org/x/mod/sumdb: `go/main.go`, built without modules
//! from Debian's golang-go and golang-golang-x-mod-dev.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::build::{World, log_key};

/// Where Debian puts the sources of Go libraries.
const GOPATH: &str = "/usr/share/gocode";

fn built(into: &Path) -> bool {
    let quiet = Command::new("go")
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !quiet.is_ok_and(|status| status.success())
        || !Path::new(GOPATH)
            .join("src/golang.org/x/mod/sumdb/tlog")
            .is_dir()
    {
        println!(
            "skipped: there is no go with golang.org/x/mod (Debian: golang-go, golang-golang-x-mod-dev)"
        );
        return false;
    }
    let build = Command::new("go")
        .args(["build", "-o"])
        .arg(into.join("check"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence/go/main.go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOFLAGS", "")
        .env("GOCACHE", into.join("cache"))
        .output()
        .expect("go runs");
    assert!(
        build.status.success(),
        "{}",
        String::from_utf8_lossy(&build.stderr)
    );
    true
}

#[test]
fn go_agrees_on_every_proof_of_a_folder_and_on_bent_ones() {
    let disk = tempfile::tempdir().expect("a folder");
    if !built(disk.path()) {
        return;
    }
    let ask = |folder: &Path| -> Output {
        Command::new(disk.path().join("check"))
            .arg(folder)
            .arg(log_key().verifier().to_string())
            .output()
            .expect("the program runs")
    };
    let folder = World::new(10).folder();
    let good = disk.path().join("good");
    folder.save(&good).expect("saved");
    let answer = ask(&good);
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "3 checkpoints, 12 leaves\n",
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    for (number, (file, from, to)) in [
        ("leaves.jsonl", "\"index\":7", "\"index\":6"),
        ("leaves.jsonl", "\\\"sequence\\\":1,", "\\\"sequence\\\":2,"),
        ("checkpoints.jsonl", "\\n8\\n", "\\n9\\n"),
        (
            "checkpoints.jsonl",
            "\"consistency\":[\"",
            "\"consistency\":[\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let bent = disk.path().join(format!("bent-{number}"));
        folder.save(&bent).expect("saved");
        let text = std::fs::read_to_string(bent.join(file)).expect("text");
        assert!(text.contains(from), "{from}");
        std::fs::write(bent.join(file), text.replacen(from, to, 1)).expect("written");
        assert!(!ask(&bent).status.success(), "{file}: {from}");
    }
}
