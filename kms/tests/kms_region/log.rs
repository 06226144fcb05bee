//! The log as outsiders read it: checkpoints, tiles, receipts, from every replica; judged by Go's packages too.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Begin, PATIENCE, REPLICAS, Region, leaves, policy_text, reason, served};
use proto::ids::LeafIndex;
use proto::v1;
use serde_json::json;
use tlog::{
    Checkpoint, Hash, Note, Policy, ProofFile, Tile, TileKind, TileTree, leaf_hash, parse_bundle,
    tiles_of, verify_consistency,
};

const DATASET: [u8; 16] = [0xD7; 16];
/// More than a full tile, so that there is a level above the leaves.
const LEAVES: u64 = 260;

/// A region whose log has grown past a tile.
async fn grown() -> Region {
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let leader = region.leader().await;
    let session = app.session(leader).await.expect("a session");
    while region.status(leader).await.tree_size < LEAVES {
        let leases = (0..64).map(|_| {
            let mut kms = app.kms(leader);
            let request = v1::IssueLeaseRequest {
                session_id: session.id.clone(),
                dataset_id: DATASET.to_vec().into(),
                request_id: crate::common::random::<16>().to_vec().into(),
                ..v1::IssueLeaseRequest::default()
            };
            async move { kms.issue_lease(request).await }
        });
        for lease in futures::future::join_all(leases).await {
            lease.expect("a lease");
        }
    }
    region
}

fn port(region: &Region, at: usize) -> SocketAddr {
    region.replica(at).log_address().expect("a log port")
}

/// The checkpoint a replica serves, once it has at least so many leaves.
async fn checkpoint_of(region: &Region, at: usize, size: u64) -> Note {
    let found = async {
        loop {
            let answer = served(port(region, at), "/checkpoint").await;
            if answer.status == 200 {
                let note = Note::parse(&answer.body).expect("a signed note");
                let checkpoint: Checkpoint = note.text().parse().expect("a checkpoint");
                if checkpoint.size() >= size {
                    assert!(answer.head.contains("cache-control: no-cache"));
                    return note;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.expect("a checkpoint in time")
}

/// Every hash tile of a tree, over the open port.
async fn hash_tiles(port: SocketAddr, size: u64) -> BTreeMap<String, Vec<u8>> {
    let mut tiles = BTreeMap::new();
    for tile in tiles_of(size).filter(|tile| tile.kind() != TileKind::Entries) {
        let answer = served(port, &format!("/{tile}")).await;
        assert_eq!(answer.status, 200, "{tile}");
        assert!(answer.head.contains("immutable"), "{}", answer.head);
        tiles.insert(tile.to_string(), answer.body);
    }
    tiles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_serves_one_log_that_it_and_a_majority_signed() {
    let region = grown().await;
    let leader = region.leader().await;
    let size = region.status(leader).await.tree_size;
    let policy = policy_text(&region, &[]).await;
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    let mut seen: Vec<(u64, Hash)> = Vec::new();
    for at in 0..REPLICAS {
        let note = checkpoint_of(&region, at, size).await;
        let trusted = policy
            .check(&note)
            .expect("the log and a majority of replicas");
        let checkpoint = trusted.checkpoint();
        seen.push((checkpoint.size(), checkpoint.root()));
        let tiles = hash_tiles(port(&region, at), checkpoint.size()).await;
        let source = |tile: &Tile| tiles.get(&tile.to_string()).cloned();
        let tree = TileTree::open(checkpoint.size(), checkpoint.root(), source);
        let tree = tree.expect("the tiles lead to the checkpoint");
        for (older, root) in &seen {
            let proof = tree.prove_consistency(*older).expect("its tiles");
            verify_consistency(*older, root, checkpoint.size(), &checkpoint.root(), &proof)
                .expect("every replica shows one log");
        }
    }
    for path in [
        "/tile/0/001",
        "/tile/0/000.p/0",
        "/tile/0/0000",
        "/tile/0/%3000",
        "/tile/9/000",
        "/tile/0/x000/000",
        "/checkpoint/",
        "/",
    ] {
        let answer = served(port(&region, leader), path).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    let partial = served(port(&region, leader), "/tile/0/000.p/5").await;
    let full = served(port(&region, leader), "/tile/0/000").await;
    assert_eq!(partial.body, full.body[..5 * 32], "what a smaller tree had");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_for_enrolled_auditors_and_hash_to_the_tree() {
    let region = grown().await;
    let leader = region.leader().await;
    let auditor = region.caller("auditor-1");
    let (status, bundle) = auditor.get(leader, "/tile/entries/000").await;
    assert_eq!(status, 200);
    let (status, hashes) = auditor.get(leader, "/tile/0/000").await;
    assert_eq!(status, 200);
    let tile: Tile = "tile/0/000".parse().expect("a tile");
    let hashes = tile.parse_hashes(&hashes).expect("256 hashes");
    let entries = parse_bundle(&bundle, &hashes).expect("the tree's own entries");
    assert_eq!(
        entries.concat(),
        leaves(&auditor, leader, 256).await.concat()
    );
    for other in ["app", "stranger", "op-1", "gateway-1"] {
        let (status, body) = region.caller(other).get(leader, "/tile/entries/000").await;
        assert_eq!(status, 403, "{other}: {}", String::from_utf8_lossy(&body));
    }
    let open = served(port(&region, leader), "/tile/entries/000").await;
    assert_eq!(open.status, 404);
    assert!(!open.body.windows(4).any(|w| w == b"kind"));
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_checked_offline_against_keys_alone() {
    let region = grown().await;
    let app = region.caller("app");
    let (lease, _) = app.lease(DATASET).await.expect("a lease");
    let index = LeafIndex(lease.leaf_index);
    let policy = policy_text(&region, &[]).await;
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    let leader = region.leader().await;
    let written = leaves(&region.caller("auditor-1"), leader, index.0 + 1).await;
    let leaf = leaf_hash(&written[index.0 as usize]);
    for at in 0..REPLICAS {
        let request = v1::ReceiptRequest {
            leaf_index: index.0,
        };
        let receipt = app.kms(at).receipt(request).await.expect("a receipt");
        let file = ProofFile::parse(&receipt.into_inner().proof).expect("a proof file");
        assert_eq!(file.index(), index);
        file.verify(&leaf, &policy).expect("holds offline");
        assert!(file.verify(&leaf_hash(b"another"), &policy).is_err());
    }
    let far = v1::ReceiptRequest {
        leaf_index: u64::MAX,
    };
    let refused = app
        .kms(leader)
        .receipt(far)
        .await
        .expect_err("no such leaf");
    assert_eq!(reason(&refused), "tree-smaller");
    region.stop().await;
}

/// One stolen log key forks nothing by itself: what two of three replicas do not cosign is not finished, though it is
/// committed. A replica that comes back cosigns again, sealed as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_checkpoint_is_finished_without_a_majority_of_the_replicas() {
    let mut region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let leader = region.leader().await;
    let others: Vec<_> = (0..REPLICAS).filter(|at| *at != leader).collect();
    // They vote on, and cannot remember what they cosign: so they do not.
    for at in &others {
        let file = remembered(&region, *at);
        std::fs::rename(&file, file.with_extension("away")).expect("taken away");
    }
    let (first, _) = app.lease(DATASET).await.expect("a lease");
    cosigned(&region, leader, first.leaf_index + 1).await;
    // A round that states the next leaf has ended the one before.
    let (second, _) = app.lease(DATASET).await.expect("a lease");
    cosigned(&region, leader, second.leaf_index + 1).await;
    let answer = served(port(&region, leader), "/checkpoint").await;
    if answer.status == 200 {
        let note = Note::parse(&answer.body).expect("a note");
        let stated: Checkpoint = note.text().parse().expect("a checkpoint");
        assert!(stated.size() <= first.leaf_index, "{note}");
    }
    for at in &others {
        let file = remembered(&region, *at);
        std::fs::rename(file.with_extension("away"), &file).expect("put back");
    }
    checkpoint_of(&region, leader, second.leaf_index + 1).await;

    let (gone, kept) = (others[0], others[1]);
    region.kill(gone).await;
    let (third, _) = app.lease(DATASET).await.expect("a lease");
    let note = checkpoint_of(&region, kept, third.leaf_index + 1).await;
    assert_eq!(note.signatures().len(), 3, "the log and two replicas");
    region.restart(gone).await;
    // It catches up while the log grows on.
    let back = async {
        loop {
            let (lease, _) = app.lease(DATASET).await.expect("a lease");
            if last_cosigned(&region, gone).is_some_and(|last| last.size() > third.leaf_index) {
                return lease.leaf_index;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let last = tokio::time::timeout(PATIENCE, back).await.expect("in time");
    checkpoint_of(&region, gone, last + 1).await;
    region.stop().await;
}

/// The file in which a replica keeps what it cosigned last.
fn remembered(region: &Region, at: usize) -> std::path::PathBuf {
    region.places[at].config.data_dir.join("cosigned")
}

/// The larger of the checkpoints in its two slots (docs/FORMATS.md, 14), as far as they are whole.
fn last_cosigned(region: &Region, at: usize) -> Option<Checkpoint> {
    let bytes = std::fs::read(remembered(region, at)).expect("there from the start");
    let of_slot = |slot: &[u8]| -> Option<Checkpoint> {
        let length = u32::from_be_bytes(slot.get(16..20)?.try_into().ok()?);
        let text = slot.get(20..20 + length as usize)?;
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    let slots = bytes.chunks(4096).filter_map(of_slot);
    slots.max_by_key(Checkpoint::size)
}

/// Waits until a replica has cosigned so many leaves.
async fn cosigned(region: &Region, at: usize, size: u64) {
    let has = async {
        loop {
            if last_cosigned(region, at).is_some_and(|last| last.size() >= size) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let has = tokio::time::timeout(PATIENCE, has).await;
    has.expect("cosigned in time");
}

/// Go's own packages, as `tlog`'s tests use them, on what a running replica serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_opens_the_checkpoint_and_proves_from_the_tiles_that_a_replica_serves() {
    let region = grown().await;
    let leader = region.leader().await;
    let size = region.status(leader).await.tree_size;
    let note = checkpoint_of(&region, leader, size).await;
    let checkpoint: Checkpoint = note.text().parse().expect("a checkpoint");
    let request = v1::FindCheckpointRequest {};
    let mut kms = region.caller("app").kms(leader);
    let keys = kms.find_checkpoint(request);
    let keys = keys.await.expect("keys").into_inner();
    let folder = tempfile::tempdir().expect("a folder");
    for (path, bytes) in hash_tiles(port(&region, leader), checkpoint.size()).await {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("room");
        std::fs::write(path, bytes).expect("room");
    }
    let entries = leaves(&region.caller("auditor-1"), leader, checkpoint.size()).await;
    region.stop().await;

    // The one origin that Go's parser of checkpoints knows; size and root are what the replica signed.
    let text = format!(
        "go.sum database tree\n{}\n{}\n",
        checkpoint.size(),
        checkpoint.root()
    );
    let tiles = |tile: &Tile| std::fs::read(folder.path().join(tile.to_string())).ok();
    let tree = TileTree::open(checkpoint.size(), checkpoint.root(), tiles).expect("its tiles");
    let inclusion: Vec<_> = (0..checkpoint.size())
        .step_by(37)
        .map(|index| {
            let proof = tree.prove_inclusion(LeafIndex(index)).expect("in the tree");
            let entry = String::from_utf8(entries[index as usize].clone()).expect("JSON");
            json!({"Index": index, "Entry": entry, "Proof": proof})
        })
        .collect();
    let asked = inclusion.len();
    let mut bent = inclusion.clone();
    bent[3]["Entry"] = json!("{}");
    let tree = |inclusion| json!({"Checkpoint": text, "Folder": folder.path(), "Inclusion": inclusion, "Consistency": []});
    let Some(answer) = ask_go(&json!({
        "Notes": [{"Vkeys": [keys.log_key], "Note": note.to_string()}],
        "Trees": [tree(inclusion), tree(bent)],
    })) else {
        return;
    };
    let opened = &answer["Notes"][0];
    assert_eq!(
        (&opened["Error"], &opened["Verified"]),
        (&json!(""), &json!(1))
    );
    assert_eq!(opened["Text"], json!(note.text()));
    let wrong = |tree: usize| {
        let judged = answer["Trees"][tree]["Inclusion"].as_array();
        let judged = judged.expect("asked about");
        assert_eq!(judged.len(), asked);
        judged.iter().filter(|j| j["Error"] != json!("")).count()
    };
    assert_eq!(answer["Trees"][0]["Error"], json!(""));
    assert_eq!((wrong(0), wrong(1)), (0, 1));
}

/// Tiles as a replica serves them, for `tlog_tiles`.
struct Served(BTreeMap<String, Vec<u8>>);

impl tlog_tiles::TileReader for Served {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            let found = self.0.get(&tile.path().replacen("tile/8/", "tile/", 1));
            found.cloned().ok_or(tlog_tiles::Error::InvalidTile)
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

/// `signed_note` opens what a replica signed, `tlog_tiles` proves from its tiles, `ct-merkle` makes the same tree of its
/// entries, and each holds the replica's own proofs to be what it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crates_of_others_open_and_prove_the_log_that_a_replica_serves() {
    let region = grown().await;
    let leader = region.leader().await;
    let size = region.status(leader).await.tree_size;
    let note = checkpoint_of(&region, leader, size).await;
    let mut kms = region.caller("auditor-1").kms(leader);
    let keys = kms.find_checkpoint(v1::FindCheckpointRequest {});
    let log_key = keys.await.expect("keys").into_inner().log_key;

    let read = signed_note::Note::from_bytes(note.to_string().as_bytes()).expect("a note");
    let verifier = signed_note::StandardVerifier::new(&log_key).expect("a key");
    let verifiers = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    let (good, cosigned) = read.verify(&verifiers).expect("the log's signature");
    assert_eq!(good.len(), 1);
    assert!(cosigned.len() > REPLICAS / 2, "by a majority");
    let mut bent = note.to_string().into_bytes();
    let at = note.text().len() - 3;
    bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
    let bent = signed_note::Note::from_bytes(&bent).expect("a note all the same");
    assert!(bent.verify(&verifiers).is_err(), "another root");

    let theirs = tlog_tiles::Checkpoint::from_bytes(read.text()).expect("a checkpoint");
    let (size, root) = (theirs.size(), *theirs.hash());
    let tiles = Served(hash_tiles(port(&region, leader), size).await);
    let reader = tlog_tiles::TileHashReader::new(size, root, &tiles);
    let computed = tlog_tiles::tree_hash(size, &reader).expect("its tiles");
    assert_eq!(computed.0, root.0);
    let entries = leaves(&region.caller("auditor-1"), leader, size).await;
    let mut tree = ct_merkle::mem_backed_tree::MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
    entries.iter().for_each(|entry| tree.push(entry.clone()));
    assert_eq!(tree.root().as_bytes().as_slice(), root.0);

    for leaf_index in (0..size).step_by(29) {
        let request = v1::ProveInclusionRequest {
            leaf_index,
            tree_size: size,
        };
        let proof = kms.prove_inclusion(request).await.expect("a proof");
        let proof = proof.into_inner().hashes;
        let merkle = tree.prove_inclusion(leaf_index as usize);
        assert_eq!(merkle.as_bytes(), proof.concat());
        let hash = |bytes: &bytes::Bytes| tlog_tiles::Hash(bytes.as_ref().try_into().expect("32"));
        let proof: Vec<_> = proof.iter().map(hash).collect();
        let record = tlog_tiles::record_hash(&entries[leaf_index as usize]);
        tlog_tiles::check_record(&proof, size, root, leaf_index, record).expect("in the tree");
        let other = tlog_tiles::record_hash(b"{}");
        assert!(tlog_tiles::check_record(&proof, size, root, leaf_index, other).is_err());
        let own = tlog_tiles::prove_record(size, leaf_index, &reader).expect("its tiles");
        assert!(own.iter().map(|h| h.0).eq(proof.iter().map(|h| h.0)));
    }
    for old_size in (1..size).step_by(31) {
        let request = v1::ProveConsistencyRequest {
            old_size,
            new_size: size,
        };
        let proof = kms.prove_consistency(request).await.expect("a proof");
        let merkle = tree.prove_consistency((size - old_size) as usize);
        assert_eq!(merkle.as_bytes(), proof.into_inner().hashes.concat());
    }
    region.stop().await;
}

/// Builds and asks the program of `tlog`'s tests; `None`, with the reason said, where there is no Go.
fn ask_go(request: &serde_json::Value) -> Option<serde_json::Value> {
    const GOPATH: &str = "/usr/share/gocode";
    let library = Path::new(GOPATH).join("src/golang.org/x/mod/sumdb/tlog");
    let go = Command::new("go")
        .arg("version")
        .stdout(Stdio::null())
        .status();
    if !go.is_ok_and(|status| status.success()) || !library.is_dir() {
        println!(
            "skipped: no go with golang.org/x/mod (Debian: golang-go, golang-golang-x-mod-dev)"
        );
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("sumdb");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tlog/tests/go/main.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
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
        .expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "the program failed");
    Some(serde_json::from_slice(&output.stdout).expect("an answer"))
}
