//! Readers of the log over HTTP, policies, and a witness of another organisation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use parking_lot::Mutex;
use tlog::{
    AddCheckpoint, Latest, SIZE_CONTENT_TYPE, SignatureType, SignerKey, UnixSeconds, VerifierKey,
    WitnessedLog, decide,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Caller, PATIENCE, Region, now};

/// One answer of the log's port.
#[derive(Debug)]
pub(crate) struct Served {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// GET on a replica's log port.
pub(crate) async fn served(address: SocketAddr, path: &str) -> Served {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).expect("text");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Served {
        status: status.expect("a status"),
        head: head.to_ascii_lowercase(),
        body: answer[end + 4..].to_vec(),
    }
}

/// The leaves' bytes, in order, as an auditor reads them by gRPC.
pub(crate) async fn leaves(auditor: &Caller, at: usize, size: u64) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while (found.len() as u64) < size {
        let request = proto::v1::ReadLeavesRequest {
            start: found.len() as u64,
            ..Default::default()
        };
        let reply = auditor.kms(at).read_leaves(request).await.expect("leaves");
        let read = reply.into_inner().leaves;
        assert!(!read.is_empty(), "the log ends before {size}");
        found.extend(read.into_iter().map(|entry| entry.leaf.to_vec()));
    }
    found.truncate(size as usize);
    found
}

/// A policy of the region's log: two of its three replicas and, where there are any, all these witnesses.
pub(crate) async fn policy_text(region: &Region, witnesses: &[&TestWitness]) -> String {
    let outside = witnesses.iter().map(|w| (w.key(), w.url()));
    policy_of(region, &outside.collect::<Vec<_>>()).await
}

/// The same with witnesses by key and address.
pub(crate) async fn policy_of(region: &Region, witnesses: &[(String, String)]) -> String {
    let operator = region.caller("op-1");
    let mut text = String::new();
    let mut replicas = String::new();
    for at in 0..region.places.len() {
        let request = proto::v1::FindCheckpointRequest {};
        let keys = operator.kms(at).find_checkpoint(request).await;
        let keys = keys.expect("keys").into_inner();
        if text.is_empty() {
            assert!(!keys.log_key.is_empty(), "of an unsealed replica");
            text = format!("log {}\n", keys.log_key);
        }
        text += &format!("witness r{at} {}\n", keys.cosigner_key);
        replicas += &format!(" r{at}");
    }
    text += &format!("group replicas 2{replicas}\n");
    if witnesses.is_empty() {
        return text + "quorum replicas\n";
    }
    let mut names = String::new();
    for (number, (key, url)) in witnesses.iter().enumerate() {
        text += &format!("witness w{number} {key} {url}\n");
        names += &format!(" w{number}");
    }
    text + &format!("group outside all{names}\ngroup both all replicas outside\nquorum both\n")
}

/// A witness as C2SP tlog-witness has it, in memory.
pub(crate) struct TestWitness {
    address: SocketAddr,
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

struct Inner {
    key: SignerKey,
    log: Mutex<Option<VerifierKey>>,
    latest: Mutex<Option<Latest>>,
    silent: AtomicBool,
    ahead_ms: AtomicU64,
}

impl TestWitness {
    /// Listens; cosigns nothing before it knows the log.
    pub(crate) async fn start(name: &str, seed: u8) -> Self {
        let kind = SignatureType::Ed25519Cosignature;
        let key = SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]);
        let inner = Arc::new(Inner {
            key: key.expect("a key"),
            log: Mutex::new(None),
            latest: Mutex::new(None),
            silent: AtomicBool::new(false),
            ahead_ms: AtomicU64::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new()
            .route("/w/add-checkpoint", post(add_checkpoint))
            .with_state(inner.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            address,
            inner,
            server,
        }
    }

    pub(crate) fn key(&self) -> String {
        self.inner.key.verifier().to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/w", self.address)
    }

    /// Follows this log from now on.
    pub(crate) fn follow(&self, log_key: &str) {
        *self.inner.log.lock() = Some(log_key.parse().expect("a key"));
    }

    /// Follows another log from now on, of which it has seen nothing.
    pub(crate) fn follow_anew(&self, log_key: &str) {
        *self.inner.latest.lock() = None;
        self.follow(log_key);
    }

    /// Answers nobody, or everybody again.
    pub(crate) fn silence(&self, silent: bool) {
        self.inner.silent.store(silent, Ordering::Relaxed);
    }

    /// Sets its clock ahead, as that of the replicas is.
    pub(crate) fn set_ahead(&self, ms: u64) {
        self.inner.ahead_ms.store(ms, Ordering::Relaxed);
    }

    /// Leaves of what it cosigned last.
    pub(crate) fn size(&self) -> u64 {
        let latest = self.inner.latest.lock();
        latest.as_ref().map_or(0, |l| l.checkpoint().size())
    }

    /// Waits until it has cosigned so many leaves.
    pub(crate) async fn has_seen(&self, size: u64) {
        let seen = async {
            while self.size() < size {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .expect("the witness is asked in time");
    }
}

impl Drop for TestWitness {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn add_checkpoint(State(inner): State<Arc<Inner>>, body: Bytes) -> Response {
    if inner.silent.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(request) = AddCheckpoint::parse(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let keys: Vec<VerifierKey> = inner.log.lock().iter().cloned().collect();
    let mut latest = inner.latest.lock();
    let decided = {
        let log = WitnessedLog {
            keys: &keys,
            latest: latest.as_ref(),
        };
        decide(&request, Some(&log))
    };
    match decided {
        Ok(accepted) => {
            let persisted = accepted.persist(|new| {
                *latest = Some(new.clone());
                Ok::<_, ()>(())
            });
            let now_ms = now().0 + inner.ahead_ms.load(Ordering::Relaxed);
            let time = UnixSeconds::new(now_ms / 1000).expect("a time");
            let keys = std::slice::from_ref(&inner.key);
            let lines = persisted.expect("stored").cosign(keys, time);
            lines.expect("signs").into_response()
        }
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status()).expect("a status");
            match refused.size_body() {
                Some(size) => {
                    (status, [(header::CONTENT_TYPE, SIZE_CONTENT_TYPE)], size).into_response()
                }
                None => (status, refused.to_string()).into_response(),
            }
        }
    }
}
