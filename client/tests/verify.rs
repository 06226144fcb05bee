//! `reduit verify` as a person runs it: exit codes, and what it writes.

use std::path::Path;
use std::process::{Command, Output};

use tlog::{Checkpoint, Note, Policy, SignatureType, SignerKey, UnixSeconds, leaf_hash};
use verifier::{CheckpointLine, DatasetNames, Folder, Parts, Period, Signer};

const ORIGIN: &str = "ch-zrh/main/1";
const AT_S: u64 = 1_790_000_000;

struct Nobody;

impl Signer for Nobody {
    fn public_key(&self) -> Vec<u8> {
        vec![0; 44]
    }

    fn sign(&self, _: &'static str, _: &[u8]) -> [u8; 64] {
        [0; 64]
    }
}

/// A folder whose checkpoints hold and which shows nothing else, and its policy.
fn written(into: &Path) -> (String, String) {
    let key = |name: &str, kind, seed: u8| {
        SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]).expect("a key")
    };
    let log = key(ORIGIN, SignatureType::Ed25519, 1);
    let witness = key("w.example", SignatureType::Ed25519Cosignature, 2);
    let (log_vkey, witness_vkey) = (log.verifier(), witness.verifier());
    let text = format!("log {log_vkey}\nwitness w {witness_vkey}\nquorum w\n");
    let origin = ORIGIN.parse().expect("an origin");
    let tree = Checkpoint::new(origin, 1, leaf_hash(b"leaf")).expect("a tree");
    let line = |at_s| {
        let signed = log.sign_checkpoint(&tree, None).expect("signs");
        let time = UnixSeconds::new(at_s);
        let cosigned = witness.sign_checkpoint(&tree, time).expect("cosigns");
        let note = Note::new(tree.to_string(), vec![signed, cosigned]).expect("a note");
        CheckpointLine {
            note: note.to_string(),
            consistency: Vec::new(),
        }
    };
    let parts = Parts {
        region: "ch-zrh".to_owned(),
        origin: ORIGIN.to_owned(),
        dataset: DatasetNames {
            id: "0a".repeat(16),
            pseudonym: "0b".repeat(16),
            kek: "0c".repeat(16),
        },
        period: Period {
            from_ms: AT_S * 1_000,
            to_ms: (AT_S + 60) * 1_000,
        },
        made_ms: 1,
        exporter: "spiffe://ch-zrh/auditor/a".to_owned(),
        checkpoints: vec![line(AT_S), line(AT_S + 60)],
        leaves: Vec::new(),
        objects: None,
        challenge: None,
        headers: None,
        witness_policy: None,
    };
    let policy = Policy::parse(text.as_bytes()).expect("a policy");
    let folder = Folder::write(parts, &policy, &Nobody).expect("a folder");
    let (path, trust) = (into.join("evidence"), into.join("trust.policy"));
    folder.save(&path).expect("saved");
    std::fs::write(&trust, text).expect("written");
    (path.display().to_string(), trust.display().to_string())
}

fn reduit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reduit"))
        .args(arguments)
        .output()
        .expect("it runs")
}

#[test]
fn exit_codes_tell_proven_from_not_and_from_unreadable() {
    let disk = tempfile::tempdir().expect("a folder");
    let (folder, policy) = written(disk.path());
    let code = |arguments: &[&str]| reduit(arguments).status.code();
    let asked = ["--claim", "L1", "--claim", "L2", "--claim", "L3"];
    let base = ["verify", &folder, "--policy", &policy];
    assert_eq!(code(&[&base[..], &asked].concat()), Some(0));
    assert_eq!(code(&base), Some(1), "nothing else is shown");
    assert_eq!(code(&[&base[..], &["--claim", "Z9"]].concat()), Some(2));
    assert_eq!(code(&[&base[..], &["--nonce", "abc"]].concat()), Some(2));
    let absent = disk.path().join("absent").display().to_string();
    assert_eq!(code(&["verify", &absent, "--policy", &policy]), Some(2));
    assert_eq!(code(&["verify", &folder, "--policy", &absent]), Some(2));
    let index = Path::new(&folder).join("folder.json");
    let text = std::fs::read_to_string(&index).expect("text");
    std::fs::write(&index, text.replace(':', ": ")).expect("written");
    assert_eq!(
        code(&[&base[..], &asked].concat()),
        Some(2),
        "another spelling"
    );
}

/// What is in a certificate is tested where it is judged.
#[test]
fn a_file_is_a_certificate_and_takes_no_policy() {
    let disk = tempfile::tempdir().expect("a folder");
    let (folder, policy) = written(disk.path());
    let code = |arguments: &[&str]| reduit(arguments).status.code();
    assert_eq!(code(&["verify", &folder]), Some(2), "evidence takes one");
    let file = disk.path().join("cert.json").display().to_string();
    std::fs::write(&file, "{}\n").expect("written");
    assert_eq!(code(&["verify", &file]), Some(2), "no certificate");
    assert_eq!(code(&["verify", &file, "--policy", &policy]), Some(2));
    let fingerprint = "0a".repeat(32);
    let pinned = ["--source-fingerprint", &fingerprint, "--policy", &policy];
    assert_eq!(code(&[&["verify", &file][..], &pinned].concat()), Some(2));
}

#[test]
fn json_and_page_are_written_whatever_the_verdict() {
    let disk = tempfile::tempdir().expect("a folder");
    let (folder, policy) = written(disk.path());
    let page = disk.path().join("report.html").display().to_string();
    let answer = reduit(&[
        "verify", &folder, "--policy", &policy, "--json", "--html", &page,
    ]);
    let json: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!(json["all_asked_proven"], false);
    assert_eq!(json["claims"][0]["verdict"], "PROVEN");
    let page = std::fs::read_to_string(page).expect("written");
    assert!(page.contains("CONTRADICTED") && page.ends_with("</html>\n"));
}
