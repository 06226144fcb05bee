//! Outside witnesses: their policy under dual control, their word in checkpoints, and no release without it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    AheadClock, Begin, Caller, PATIENCE, REPLICAS, Region, TestWitness, policy_of, policy_text,
    reason,
};
use bytes::Bytes;
use proto::v1;
use tlog::{Note, Policy, SignatureType, SignerKey};

const DATASET: [u8; 16] = [0xD9; 16];
/// The shortest that a region may go without.
const UNWITNESSED_MS: u64 = 60_000;
/// Between two looks at what takes its time.
const PAUSE: Duration = Duration::from_millis(20);

async fn change_witnesses(
    region: &Region,
    text: &str,
    approvers: &[&str],
) -> Result<v1::KmsDone, tonic::Status> {
    let request = region.witness_change(text, UNWITNESSED_MS);
    region.change_witnesses(request, approvers).await
}

async fn found(caller: &Caller, at: usize) -> v1::FindCheckpointReply {
    let mut kms = caller.kms(at);
    let found = kms.find_checkpoint(v1::FindCheckpointRequest {}).await;
    found.expect("found").into_inner()
}

/// A region with one witness that follows its log; without a policy that says so yet.
async fn with_witness(begin: Begin) -> (Region, TestWitness) {
    let region = Region::initialised(begin).await;
    let witness = TestWitness::start("witness.example/one", 41).await;
    let leader = region.leader().await;
    witness.follow(&found(&region.caller("app"), leader).await.log_key);
    (region, witness)
}

/// The same, with the policy in force.
async fn witnessed(begin: Begin) -> (Region, TestWitness) {
    let (region, witness) = with_witness(begin).await;
    region.raise_level(2).await;
    let text = policy_text(&region, &[&witness]).await;
    changed(&region, &text).await;
    (region, witness)
}

/// Changes the policy, as soon as there is a checkpoint to begin with and who is to go has seen the newest.
async fn changed(region: &Region, text: &str) -> v1::KmsDone {
    let changed = async {
        loop {
            match change_witnesses(region, text, &["op-2", "op-3"]).await {
                Ok(done) => return done,
                Err(status) => {
                    let reason = reason(&status);
                    let soon = ["no-checkpoint", "outgoing-witnesses-behind"].contains(&reason);
                    assert!(soon, "{status}");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed)
        .await
        .expect("in time")
}

/// A lease as soon as the witnesses let it go.
async fn leased(app: &Caller) -> v1::IssueLeaseReply {
    let leased = async {
        loop {
            match app.lease(DATASET).await {
                Ok((lease, _)) => return lease,
                Err(status) => assert_eq!(reason(&status), "unwitnessed", "{status}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, leased)
        .await
        .expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_of_witnesses_takes_dual_control_and_this_regions_log() {
    let (region, witness) = with_witness(Begin::default()).await;
    checkpoint_is_made(&region).await;
    let text = policy_text(&region, &[&witness]).await;
    let two = ["op-2", "op-3"];
    let refused = change_witnesses(&region, &text, &["op-2"]).await;
    assert_eq!(
        reason(&refused.expect_err("one is not two")),
        "too-few-approvals"
    );
    let refused = change_witnesses(&region, &text, &["op-1", "op-2"]).await;
    assert_eq!(
        reason(&refused.expect_err("its own request")),
        "self-approval"
    );
    let name = "ch-zrh/main/1".parse().expect("a name");
    let other = SignerKey::from_seed(name, SignatureType::Ed25519, &[5; 32]).expect("a key");
    let other = other.verifier();
    for bad in [
        "quorum none\n".to_owned(),
        // Witnesses without an address, or one that is not asked that way.
        text.replace(&witness.url(), ""),
        text.replace("http://", "https://"),
        // The region's replicas by themselves.
        text.replace(
            "group both all replicas outside",
            "group both any replicas outside",
        ),
        // Another key in the log's place.
        format!("log {other}\nquorum none\n"),
    ] {
        let refused = change_witnesses(&region, &bad, &two).await;
        let refused = refused.expect_err(&bad);
        assert_eq!(reason(&refused), "bad-witness-policy", "{bad}{refused}");
    }
    // Nobody could release a key under a policy whose witnesses do not answer.
    witness.silence(true);
    let refused = change_witnesses(&region, &text, &two).await;
    let refused = refused.expect_err("it does not answer");
    assert_eq!(reason(&refused), "new-witnesses-silent", "{refused}");
    assert!(refused.message().contains("w0"), "{refused}");
    witness.silence(false);
    let size = region.status(region.leader().await).await.tree_size;
    let done = async {
        loop {
            match change_witnesses(&region, &text, &two).await {
                Ok(done) => return done,
                // Who failed is left alone for a moment.
                Err(status) => assert_eq!(reason(&status), "new-witnesses-silent", "{status}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, done).await.expect("in time");
    assert_eq!(done.leaf_index, size, "on record");
    for at in 0..REPLICAS {
        let found = async {
            loop {
                let caller = region.caller("stranger");
                let mut kms = caller.kms(at);
                let found = kms.find_checkpoint(v1::FindCheckpointRequest {}).await;
                if let Some(policy) = found.expect("found").into_inner().policy {
                    return policy;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let policy = tokio::time::timeout(PATIENCE, found)
            .await
            .expect("applied");
        assert_eq!(policy.policy, text.as_bytes(), "as it was approved");
    }
    region.stop().await;
}

/// Waits for a first checkpoint on the leader.
async fn checkpoint_is_made(region: &Region) {
    let (app, leader) = (region.caller("app"), region.leader().await);
    let made = async {
        while found(&app, leader).await.newest.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, made).await.expect("in time");
}

/// Promise P3, red with `ignore_witnesses`: once the witnesses have been silent for as long as the region allows,
/// nothing is released before they speak again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_released_without_a_fresh_word_of_the_witnesses() {
    let clock = Arc::new(AheadClock::default());
    let begin = Begin {
        clock: Some(clock.clone()),
        ..Begin::default()
    };
    let (region, witness) = witnessed(begin).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let lease = leased(&app).await;

    witness.silence(true);
    let ahead = 2 * UNWITNESSED_MS;
    clock.0.store(ahead, std::sync::atomic::Ordering::Relaxed);
    let refused = app.lease(DATASET).await.map(drop);
    let refused = refused.expect_err("the last word is too old");
    assert_eq!(reason(&refused), "unwitnessed", "{refused}");
    assert!(refused.message().contains("cosigned last"), "{refused}");

    witness.set_ahead(ahead);
    witness.silence(false);
    let again = leased(&app).await;
    assert!(again.leaf_index > lease.leaf_index);
    a_receipt_has_their_word(&region, &app, &lease).await;
    region.stop().await;
}

/// A lease's receipt holds by the very policy that was approved, the witness's word included.
async fn a_receipt_has_their_word(region: &Region, app: &Caller, lease: &v1::IssueLeaseReply) {
    let request = v1::ReceiptRequest {
        leaf_index: lease.leaf_index,
    };
    let leader = region.leader().await;
    let receipt = app.kms(leader).receipt(request).await.expect("a receipt");
    let file = tlog::ProofFile::parse(&receipt.into_inner().proof).expect("a proof file");
    let found = found(app, leader).await;
    let policy = Policy::parse(&found.policy.expect("in force").policy).expect("a policy");
    let trusted = policy.check(file.checkpoint()).expect("both quorums");
    let names = trusted.cosigned().iter().map(|c| c.witness.to_string());
    let names: Vec<_> = names.collect();
    assert!(names.contains(&"w0".to_owned()), "{names:?}");
    let served = Note::parse(&found.witnessed).expect("a note");
    policy.check(&served).expect("witnessed");
}

/// Who vouched so far vouches up to the change, unless it has been silent for as long as the region allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outgoing_witnesses_have_the_last_word() {
    let clock = Arc::new(AheadClock::default());
    let begin = Begin {
        clock: Some(clock.clone()),
        ..Begin::default()
    };
    let (region, witness) = witnessed(begin).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    leased(&app).await;
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    witness.silence(true);
    // Something that the witness has not seen, in a finished checkpoint.
    let (lease, _) = app.lease(DATASET).await.expect("a lease");
    let leader = region.leader().await;
    let stated = async {
        loop {
            let newest = Note::parse(&found(&app, leader).await.newest).expect("a note");
            let newest: tlog::Checkpoint = newest.text().parse().expect("a checkpoint");
            if newest.size() > lease.leaf_index {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, stated)
        .await
        .expect("in time");

    let next = TestWitness::start("witness.example/two", 42).await;
    next.follow(&found(&app, leader).await.log_key);
    let text = policy_text(&region, &[&next]).await;
    let refused = change_witnesses(&region, &text, &["op-2", "op-3"]).await;
    let refused = refused.expect_err("the outgoing one has not seen it");
    assert_eq!(reason(&refused), "outgoing-witnesses-behind", "{refused}");

    let ahead = 2 * UNWITNESSED_MS;
    clock.0.store(ahead, std::sync::atomic::Ordering::Relaxed);
    next.set_ahead(ahead);
    // Region time follows with the next command: a lease, which is refused.
    app.lease(DATASET).await.map(drop).expect_err("too old");
    changed(&region, &text).await;
    leased(&app).await;
    region.stop().await;
}

/// A replica that was sealed has not seen what happened meanwhile: it releases only after the witnesses have seen its
/// own unsealing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cold_unseal_the_witnesses_speak_first() {
    let (mut region, witness) = witnessed(Begin::default()).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    region.level().await;
    region.kill_all().await;
    witness.silence(true);
    for at in 0..REPLICAS {
        region.restart(at).await;
    }
    region
        .unseal_by_custodians(0, crate::common::NEEDED as usize)
        .await;
    let refused = app.lease(DATASET).await.map(drop);
    let refused = refused.expect_err("not seen by anybody yet");
    assert_eq!(reason(&refused), "unwitnessed");
    witness.silence(false);
    leased(&app).await;
    region.stop().await;
}

/// A witness that lost its memory, or was asked by somebody else, says where it stands and is asked from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_is_asked_from_the_size_it_states() {
    let (region, witness) = witnessed(Begin::default()).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    // The leader changes, and the next one knows nothing of the witness: it learns the size by a conflict.
    let leader = region.leader().await;
    let operator = region.caller("op-1");
    operator
        .operate(leader)
        .seal(v1::SealRequest {})
        .await
        .expect("sealed");
    let done = app.at_leader(|at| {
        let mut kms = app.kms(at);
        let request = v1::KeyChangeRequest {
            dataset_id: Bytes::copy_from_slice(&DATASET),
            claim: None,
            request_id: Bytes::copy_from_slice(&[7; 16]),
        };
        async move { kms.rotate_key(request).await.map(drop) }
    });
    done.await.expect("rotated");
    let size = region.status(region.leader().await).await.tree_size;
    witness.has_seen(size).await;
    region.stop().await;
}

/// `aics-witness` of PyPI, which shares no code with us.
struct Aics {
    serving: Child,
    key: String,
    url: String,
}

impl Drop for Aics {
    fn drop(&mut self) {
        // It is gone already, or goes now.
        drop(self.serving.kill());
        drop(self.serving.wait());
    }
}

impl Aics {
    /// Has it follow this log alone; `None`, with the reason said, where it is not installed.
    fn start(dir: &Path, log_key: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("REDUIT_AICS_WITNESS") else {
            println!("skipped: REDUIT_AICS_WITNESS does not name PyPI's aics-witness");
            return None;
        };
        let config = dir.join("aics.json");
        let run = |args: &[&str]| {
            let mut command = Command::new(&program);
            let (name, args) = args.split_first().expect("a subcommand");
            command.arg(name).arg("--config").arg(&config).args(args);
            command
        };
        let mut init = run(&["init", "--name", "aics.example/w1"]);
        let made = init
            .args(["--listen", "127.0.0.1:0"])
            .output()
            .expect("it runs");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let key = String::from_utf8(made.stdout).expect("text");
        let key = key.lines().last().expect("its key").to_owned();
        let origin = log_key.split('+').next().expect("a name").to_owned();
        let added = run(&["add-log", "--origin", &origin, "--vkey", log_key]).output();
        let added = added.expect("it runs");
        assert!(
            added.status.success(),
            "{}",
            String::from_utf8_lossy(&added.stderr)
        );
        let mut serve = run(&["serve"]);
        let mut serving = serve.stderr(Stdio::piped()).spawn().expect("it starts");
        let said = BufReader::new(serving.stderr.take().expect("piped"));
        let mut lines = said.lines().map(|line| line.expect("text"));
        let listening = lines.find(|line| line.contains("listening on http://"));
        let listening = listening.expect("it says where it listens");
        let url = listening
            .split(' ')
            .find(|word| word.starts_with("http://"));
        let url = url.expect("an address").to_owned();
        // It writes a line a request, and would be stopped by a pipe that nobody reads.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { serving, key, url })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aics_witness_of_pypi_cosigns_the_log_and_what_is_released_has_its_word() {
    let region = Region::initialised(Begin::default()).await;
    let leader = region.leader().await;
    let app = region.caller("app");
    let log_key = found(&app, leader).await.log_key;
    let dir = tempfile::tempdir().expect("a folder");
    let Some(aics) = Aics::start(dir.path(), &log_key) else {
        region.stop().await;
        return;
    };
    checkpoint_is_made(&region).await;
    region.raise_level(2).await;
    let text = policy_of(&region, &[(aics.key.clone(), aics.url.clone())]).await;
    changed(&region, &text).await;
    app.create_key(DATASET).await.expect("a key");
    let mut last = 0;
    // Each of a larger tree: it has to hold our consistency proofs for true.
    for _ in 0..3 {
        let lease = leased(&app).await;
        a_receipt_has_their_word(&region, &app, &lease).await;
        assert!(lease.leaf_index > last);
        last = lease.leaf_index;
    }
    let witnessed = found(&app, region.leader().await).await.witnessed;
    let name = format!("\u{2014} {} ", aics.key.split('+').next().expect("a name"));
    let note = String::from_utf8(witnessed.to_vec()).expect("text");
    assert!(note.contains(&name), "{note}");
    drop(aics);
    region.stop().await;
}
