//! Against Go's golang.org/x/mod/sumdb packages, which serve Go's checksum database: `tests/go/main.go`, built without
//! modules from Debian's golang-go and golang-golang-x-mod-dev.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use proto::ids::LeafIndex;
use serde::Deserialize;
use serde_json::{Value, json};
use tlog::{
    Checkpoint, Hash, Note, SignatureType, SignerKey, TileKind, VerifierKey, leaf_hash,
    prove_consistency, prove_inclusion, tiles_changed, verify_consistency, verify_inclusion,
};

use crate::support::{Tree, entry, keys, name, signer};

/// Where Debian puts the sources of Go libraries.
const GOPATH: &str = "/usr/share/gocode";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    notes: Option<Vec<Opened>>,
    signed: Option<Vec<String>>,
    generated: Option<Vec<Generated>>,
    trees: Option<Vec<TreeAnswer>>,
    new_tiles: Option<Vec<Vec<String>>>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct Opened {
    error: String,
    text: String,
    verified: usize,
    unverified: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Generated {
    vkey: String,
    skey: String,
    note: String,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct TreeAnswer {
    error: String,
    size: u64,
    root: Hash,
    inclusion: Option<Vec<Judged>>,
    consistency: Option<Vec<Judged>>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct Judged {
    error: String,
    proof: Option<Vec<Hash>>,
}

/// Builds and asks the Go program; `None`, with the reason said, where there is no Go.
fn ask(request: &Value) -> Option<Answer> {
    let go = Command::new("go")
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !go.is_ok_and(|status| status.success()) {
        println!("skipped: there is no go (Debian: golang-go)");
        return None;
    }
    if !Path::new(GOPATH)
        .join("src/golang.org/x/mod/sumdb/tlog")
        .is_dir()
    {
        println!("skipped: there is no golang.org/x/mod (Debian: golang-golang-x-mod-dev)");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("sumdb");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/main.go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOFLAGS", "")
        .env("GOCACHE", folder.path().join("cache"))
        .output()
        .expect("go runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(request.to_string().as_bytes())
        .expect("the program reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "the program failed");
    Some(serde_json::from_slice(&output.stdout).expect("an answer"))
}

#[test]
fn notes_go_both_ways_and_bent_ones_get_the_same_answer() {
    let (a, b) = (
        signer("a.example", SignatureType::Ed25519, 1),
        signer("b.example", SignatureType::Ed25519, 2),
    );
    let cosigner = signer("w.example", SignatureType::MlDsa44Cosignature, 3);
    let tree = Tree::of(5).checkpoint(5);
    let text = tree.to_string();
    let lines = [
        a.sign_text(&text).expect("signs"),
        cosigner.sign_checkpoint(&tree, None).expect("signs"),
        b.sign_text(&text).expect("signs"),
    ];
    let good = Note::new(text.clone(), lines.to_vec()).expect("a note");
    // Without the long line, of which Go knows nothing, for the changes.
    let short = Note::new(text.clone(), vec![lines[0].clone(), lines[2].clone()]).expect("a note");
    let bytes = short.to_string().into_bytes();
    let bent: Vec<String> = (0..bytes.len() * 7)
        .filter_map(|i| {
            let mut bent = bytes.clone();
            bent[i / 7] ^= 1 << (i % 7);
            String::from_utf8(bent).ok()
        })
        .collect();
    let vkeys = [a.verifier().to_string(), b.verifier().to_string()];
    let note = |note: &str| json!({"Vkeys": vkeys, "Note": note});
    let mut notes = vec![note(&good.to_string())];
    notes.extend(bent.iter().map(|bent| note(bent)));
    let skey = SignerKey::text_of(&name("a.example"), SignatureType::Ed25519, &[1; 32]);
    let skey = skey.expect("a key").to_string();
    let Some(answer) = ask(&json!({
        "Notes": notes,
        "Sign": [{"Skey": skey, "Text": text}],
        "Generate": [{"Name": "go.example/log", "Text": text}],
    })) else {
        return;
    };
    let mut answers = answer.notes.expect("notes").into_iter();
    let first = answers.next().expect("of the good note");
    assert_eq!((first.error.as_str(), &first.text), ("", &text));
    assert_eq!((first.verified, first.unverified), (2, 1));

    let mut agreed = (0, 0);
    for (bent, theirs) in bent.iter().zip(answers) {
        let read = Note::parse(bent.as_bytes());
        let ours = read
            .as_ref()
            .ok()
            .and_then(|n| n.verify(&keys(&[&a, &b])).ok().map(|g| g.len()));
        match ours {
            Some(good) => {
                assert_eq!(
                    (theirs.error.as_str(), good),
                    ("", theirs.verified),
                    "{bent:?}"
                );
                agreed.0 += 1;
            }
            None if theirs.error.is_empty() => {
                // Go's base64 takes stray bits after the last byte; here a value has one spelling.
                let stray = bent.lines().any(|line| {
                    line.strip_suffix('=')
                        .is_some_and(|l| line.starts_with('—') && !good.to_string().contains(l))
                });
                assert!(stray, "Go accepts {bent:?}: {theirs:?}");
            }
            None => agreed.1 += 1,
        }
    }
    assert!(
        agreed.0 > 50 && agreed.1 > 500,
        "{agreed:?} accepted and refused by both"
    );

    // Ed25519 is deterministic: Go makes the very bytes we make.
    let ours = Note::new(text.clone(), vec![lines[0].clone()]).expect("a note");
    assert_eq!(answer.signed.expect("signed"), [ours.to_string()]);

    let theirs = &answer.generated.expect("generated")[0];
    let key: VerifierKey = theirs.vkey.parse().expect("Go's verifier key");
    assert_eq!(key.to_string(), theirs.vkey);
    let read = SignerKey::parse(&theirs.skey).expect("Go's signer key");
    assert_eq!(read.verifier(), &key);
    let note = Note::parse(theirs.note.as_bytes()).expect("Go's note");
    assert_eq!(note.verify(&[key]).expect("Go's signature").len(), 1);
    let resigned = Note::new(text.clone(), vec![read.sign_text(&text).expect("signs")]);
    assert_eq!(resigned.expect("a note").to_string(), theirs.note);
}

/// The only origin that Go's parser of checkpoints knows.
fn go_checkpoint(tree: &Tree, size: u64) -> Checkpoint {
    let origin = "go.sum database tree".parse().expect("an origin");
    Checkpoint::new(origin, size, tree.roots[size as usize]).expect("a checkpoint")
}

fn write_tiles(tree: &Tree, size: u64, folder: &Path) {
    for (tile, bytes) in tree.tiles(size) {
        let path = folder.join(tile.to_string());
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("room");
        std::fs::write(path, bytes).expect("room");
    }
}

fn request(tree: &Tree, size: u64, folder: &Path) -> Value {
    let inclusion: Vec<_> = (0..size)
        .step_by(61)
        .chain([size - 1])
        .map(|i| {
            let proof = prove_inclusion(tree, LeafIndex(i), size).expect("in the tree");
            let entry = String::from_utf8(entry(i)).expect("text");
            json!({"Index": i, "Entry": entry, "Proof": proof})
        })
        .collect();
    let consistency: Vec<_> = (1..=size)
        .step_by(67)
        .map(|old| {
            let proof = prove_consistency(tree, old, size).expect("in order");
            json!({"Old": old, "OldRoot": tree.roots[old as usize], "Proof": proof})
        })
        .collect();
    json!({
        "Checkpoint": go_checkpoint(tree, size).to_string(),
        "Folder": folder,
        "Inclusion": inclusion,
        "Consistency": consistency,
    })
}

#[test]
fn go_reads_our_tiles_and_each_verifies_the_other_s_proofs() {
    const SIZES: [u64; 7] = [1, 2, 255, 256, 257, 768, 1_000];
    let tree = Tree::of(1_000);
    let folder = tempfile::tempdir().expect("a folder");
    let place = |size: u64| folder.path().join(size.to_string());
    let mut trees = Vec::new();
    for size in SIZES {
        write_tiles(&tree, size, &place(size));
        trees.push(request(&tree, size, &place(size)));
    }
    // A tile of another tree at the edge, and proofs of what is not so: Go refuses, so its yes means something. Of
    // full tiles this version does not check every one (CVE-2026-56865); ours are in tiles.rs.
    let bent = folder.path().join("bent");
    write_tiles(&tree, 1_000, &bent);
    std::fs::write(bent.join("tile/0/003.p/232"), [7; 232 * 32]).expect("room");
    trees.push(request(&tree, 1_000, &bent));
    let mut wrong = request(&tree, 1_000, &place(1_000));
    wrong["Inclusion"][1]["Entry"] = json!("another entry");
    wrong["Consistency"][1]["OldRoot"] = json!(tree.roots[1]);
    trees.push(wrong);
    let changes = [
        [0, 1],
        [0, 256],
        [5, 9],
        [255, 257],
        [300, 1_000],
        [65_000, 66_000],
    ];
    let Some(answer) = ask(&json!({"Trees": trees, "NewTiles": changes})) else {
        return;
    };
    let answers = answer.trees.expect("trees");
    for (size, theirs) in SIZES.iter().zip(&answers) {
        let (size, root) = (*size, tree.roots[*size as usize]);
        assert_eq!(
            (theirs.error.as_str(), theirs.size, theirs.root),
            ("", size, root)
        );
        let indexes = (0..size).step_by(61).chain([size - 1]);
        let judged = theirs.inclusion.as_ref().expect("asked about");
        for (index, judged) in indexes.zip(judged) {
            assert_eq!(judged.error, "", "leaf {index} of {size}");
            let proof = judged.proof.clone().unwrap_or_default();
            let leaf = leaf_hash(&entry(index));
            verify_inclusion(&leaf, LeafIndex(index), size, &proof, &root).expect("Go's proof");
        }
        let judged = theirs.consistency.as_ref().expect("asked about");
        for (old, judged) in (1..=size).step_by(67).zip(judged) {
            assert_eq!(judged.error, "", "{old} to {size}");
            let proof = judged.proof.clone().unwrap_or_default();
            let old_root = tree.roots[old as usize];
            verify_consistency(old, &old_root, size, &root, &proof).expect("Go's proof");
        }
    }
    let (bent, wrong) = (&answers[SIZES.len()], &answers[SIZES.len() + 1]);
    let refused = |judged: &Option<Vec<Judged>>| {
        let judged = judged.as_ref().expect("asked about");
        judged.iter().filter(|j| !j.error.is_empty()).count()
    };
    assert_ne!(bent.error, "", "the edge does not lead to the root");
    let asked = (0..1_000).step_by(61).count() + 1;
    assert_eq!(refused(&bent.inclusion), asked);
    assert_eq!(
        (refused(&wrong.inclusion), refused(&wrong.consistency)),
        (1, 1)
    );
    for (change, theirs) in changes.iter().zip(answer.new_tiles.expect("tiles")) {
        let ours: Vec<_> = tiles_changed(change[0], change[1])
            .filter(|tile| tile.kind() != TileKind::Entries)
            .map(|tile| tile.to_string())
            .collect();
        // Debian's version also lists tiles that only the old tree's partial width has; ours has the changed ones.
        let missing: Vec<_> = ours.iter().filter(|path| !theirs.contains(path)).collect();
        assert!(
            missing.is_empty(),
            "{change:?}: Go does not publish {missing:?}"
        );
    }
}

/// A checkpoint that our log signs is one that a client of Go's checksum database takes.
#[test]
fn go_opens_a_checkpoint_that_a_log_and_a_witness_signed() {
    let tree = Tree::of(300);
    let checkpoint = go_checkpoint(&tree, 300);
    let log = signer("sum.example", SignatureType::Ed25519, 8);
    let witness = signer("witness.example", SignatureType::Ed25519Cosignature, 9);
    let line = log.sign_checkpoint(&checkpoint, None).expect("signs");
    let cosignature = witness.sign_checkpoint(&checkpoint, Some(crate::support::seconds(9)));
    let note = Note::new(
        checkpoint.to_string(),
        vec![line, cosignature.expect("signs")],
    );
    let note = note.expect("a note").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    write_tiles(&tree, 300, folder.path());
    let Some(answer) = ask(&json!({
        "Notes": [{"Vkeys": [log.verifier().to_string()], "Note": note}],
        "Trees": [{"Checkpoint": checkpoint.to_string(), "Folder": folder.path()}],
    })) else {
        return;
    };
    let opened = &answer.notes.expect("a note")[0];
    assert_eq!(opened.error, "");
    assert_eq!((opened.verified, opened.unverified), (1, 1));
    assert_eq!(opened.text, checkpoint.to_string());
    assert_eq!(answer.trees.expect("a tree")[0].root, tree.roots[300]);
}
