//! No key bytes on disk, in commands, snapshots, replies or log lines. Runs with `danger_scannable_keys`, under which
//! `envelope` keeps a salted fingerprint of every key it ever held; without it there is nothing to look for.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::{Begin, REPLICAS, Region, random};
use bytes::Bytes;
use envelope::fingerprints::{self, Scanner};
use envelope::{SessionOffer, combine};
use prost::Message as _;
use proto::v1;

const DATASET: [u8; 16] = [0xB0; 16];

/// Where the daemons' log lines go in this test.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn files_under(dir: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_under(&path, into);
        } else {
            let name = path.display().to_string();
            // The replicas' own identity keys are Ed25519 keys in files of mode 0600; they are no keys of data.
            into.push((name, std::fs::read(&path).expect("readable")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_ever_held_is_found_on_disk_in_replies_or_in_log_lines() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let mut region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let (lease, session) = app.lease(DATASET).await.expect("a lease");
    let item = v1::OpenItem {
        token: lease.token.clone(),
        version_id: Bytes::copy_from_slice(&random::<16>()),
        dek_salt: Bytes::copy_from_slice(&[1; 32]),
        name_commitment: Bytes::copy_from_slice(&[2; 32]),
        bytes: 1,
    };
    let mut seen = vec![("lease reply".to_owned(), lease.encode_to_vec())];
    for _ in 0..8 {
        let (reply, _) = app
            .open(DATASET, random(), v1::Claim::default(), vec![item.clone()])
            .await
            .expect("opened");
        seen.push(("open reply".to_owned(), reply.encode_to_vec()));
    }
    let metadata = v1::IssueLeaseRequest {
        session_id: session.id.clone(),
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::IssueLeaseRequest::default()
    };
    let reply = app
        .kms(session.at)
        .issue_metadata_lease(metadata)
        .await
        .expect("metadata keys");
    seen.push((
        "metadata reply".to_owned(),
        reply.into_inner().encode_to_vec(),
    ));
    for share in &region.shares {
        seen.push(("sealed share".to_owned(), share.encode_to_vec()));
    }
    let leader = region.leader().await;
    region.kill(leader).await;
    region.restart(leader).await;
    region.unseal_by_custodians(leader, 3).await;

    // State as files, not only as log: flushed on every replica.
    for at in 0..REPLICAS {
        region.replica(at).group().flush().expect("flushed");
    }
    let (salt, keys) = fingerprints::all();
    assert!(
        keys.len() > 40,
        "root, shares, KEKs, leases, DEKs and sessions were held: {}",
        keys.len()
    );
    let scanner = Scanner::new(salt, keys);
    let dir = region.stop().await;
    files_under(dir.path(), &mut seen);
    seen.push((
        "log lines".to_owned(),
        lines.0.lock().expect("not poisoned").clone(),
    ));
    let wrapped: usize = seen.iter().filter(|(_, bytes)| bytes.len() > 32).count();
    assert!(wrapped > 20, "there was something to search: {wrapped}");
    for (what, bytes) in &seen {
        assert!(scanner.scan(bytes).is_empty(), "key bytes in {what}");
    }
    positive_control();
}

/// The scanner finds a key where there is one: a share's bytes hold 32 bytes that a slot held.
fn positive_control() {
    drop(SessionOffer::generate().expect("room"));
    let root = envelope::RootKey::generate(proto::ids::RootEpoch(9)).expect("room");
    let (_, shares) = root.split(2, 2).expect("split");
    let planted = shares[0].to_bytes();
    assert!(combine(&shares).is_ok());
    let (salt, keys) = fingerprints::all();
    let hits = Scanner::new(salt, keys).scan(&[&[0; 100], &planted[..], &[0; 100]].concat());
    assert_eq!(hits.len(), 1, "the planted share is found");
}
