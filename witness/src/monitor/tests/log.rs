//! A log that shows what it is told to, over real HTTP and mTLS on the loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use proto::ids::{Identity, RegionId, Role, UnixMs};
use proto::v1;
use tlog::{
    Checkpoint, DatasetLink, Frontier, Hash, HashReader, Kind, Note, Private, Pseudonym, Public,
    Purpose, SaltSeed, SaltedLeaf, SignatureType, SignerKey, StoredAt, Tile, TileKind, UnixSeconds,
    bundle_bytes, leaf_hash,
};
use tokio::net::TcpListener;
use transport::enrolment::SetContents;
use transport::testing::ManualClock;
use transport::{Acceptor, Enrolments, KeyExchange, KeyPair, LocalIdentity, RegionCa};

/// Thursday, 2026-11-26 09:00:00 UTC.
pub(super) const NOW: UnixMs = UnixMs(1_795_683_600_000);
pub(super) const ORIGIN: &str = "ch-zrh/main/1";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn log_key() -> SignerKey {
    key(ORIGIN, SignatureType::Ed25519, 1)
}

pub(super) fn cosigner() -> SignerKey {
    key("ch-zrh/kms-1", SignatureType::Ed25519Cosignature, 2)
}

fn key(name: &str, kind: SignatureType, seed: u8) -> SignerKey {
    SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]).expect("a key")
}

/// A whole history.
#[derive(Clone, Default)]
pub(super) struct Tree {
    frontier: Frontier,
    stored: BTreeMap<StoredAt, Hash>,
    roots: Vec<Hash>,
    entries: Vec<Vec<u8>>,
    chains: BTreeMap<u8, (u64, Option<Hash>)>,
}

impl Tree {
    /// Opens of three datasets, in turn.
    pub(super) fn of(size: u64) -> Self {
        let mut tree = Self::default();
        tree.roots.push(tree.frontier.root());
        tree.grow(size, Purpose::service());
        tree
    }

    /// Grows to `size` by opens for that purpose.
    pub(super) fn grow(&mut self, size: u64, purpose: Purpose) {
        while self.size() < size {
            let dataset = (self.size() % 3) as u8;
            let leaf = self.leaf(dataset, purpose.clone());
            self.push(leaf);
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The next leaf of a dataset.
    pub(super) fn leaf(&mut self, dataset: u8, purpose: Purpose) -> Vec<u8> {
        let end = self.chains.entry(dataset).or_default();
        let public = Public {
            kind: Kind::Open,
            time_ms: NOW,
            purpose,
            dataset: Some(DatasetLink {
                pseudonym: Pseudonym([dataset; 16]),
                sequence: end.0,
                previous: end.1,
            }),
        };
        let seed = SaltSeed::new(&[7; 32]);
        let made = SaltedLeaf::build(public, Private::default(), &seed, 0);
        let bytes = made.expect("a leaf").bytes;
        *end = (end.0 + 1, Some(leaf_hash(&bytes)));
        bytes
    }

    pub(super) fn push(&mut self, entry: Vec<u8>) {
        let stored = &mut self.stored;
        let appended = self.frontier.append(leaf_hash(&entry), &mut |at, hash| {
            stored.insert(at, hash);
        });
        appended.expect("room");
        self.roots.push(self.frontier.root());
        self.entries.push(entry);
    }

    pub(super) fn checkpoint(&self, size: u64) -> Checkpoint {
        let origin = ORIGIN.parse().expect("an origin");
        Checkpoint::new(origin, size, self.roots[size as usize]).expect("a checkpoint")
    }

    pub(super) fn signed(&self, size: u64) -> Note {
        let checkpoint = self.checkpoint(size);
        let line = log_key().sign_checkpoint(&checkpoint, None).expect("signs");
        Note::new(checkpoint.to_string(), vec![line]).expect("a note")
    }

    /// The bytes of a tile, as far as the tree has it.
    pub(super) fn tile(&self, tile: &Tile) -> Option<Vec<u8>> {
        if !tile.is_within(self.size()) {
            return None;
        }
        Some(match tile.kind() {
            TileKind::Hashes(_) => tile.hash_bytes(self).expect("stored"),
            TileKind::Entries => {
                let first = tile.index() as usize * 256;
                let entries = &self.entries[first..first + usize::from(tile.width())];
                bundle_bytes(entries.iter().map(Vec::as_slice)).expect("short entries")
            }
        })
    }
}

impl HashReader for Tree {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt { index, ..first };
        let range = first.index..first.index + count;
        range.map(|i| self.stored.get(&at(i)).copied()).collect()
    }
}

/// What the log shows right now.
pub(super) struct Shown {
    pub(super) tree: Tree,
    /// Of the checkpoint.
    pub(super) size: u64,
    /// When the replica cosigned it.
    pub(super) cosigned_s: Option<u64>,
    /// Instead of the checkpoint.
    pub(super) checkpoint: Option<String>,
    /// Whether it answers that it cannot.
    pub(super) is_silent: bool,
    /// Whether it takes requests and never answers.
    pub(super) hangs: bool,
    /// Bytes of a tile exchanged for others.
    pub(super) lies: BTreeMap<Tile, Vec<u8>>,
    /// Paths asked for.
    pub(super) asked: Vec<String>,
}

impl Shown {
    fn checkpoint(&self) -> String {
        if let Some(instead) = &self.checkpoint {
            return instead.clone();
        }
        let note = self.tree.signed(self.size);
        let Some(time) = self.cosigned_s else {
            return note.to_string();
        };
        let checkpoint = self.tree.checkpoint(self.size);
        let line = cosigner().sign_checkpoint(&checkpoint, UnixSeconds::new(time));
        note.with(line.expect("signs")).expect("room").to_string()
    }
}

type Shared = Arc<Mutex<Shown>>;

/// A running log and the region it is of.
pub(super) struct FakeLog {
    pub(super) shown: Shared,
    pub(super) address: SocketAddr,
    pub(super) entries_address: SocketAddr,
    pub(super) auditor: Files,
    pub(super) stranger: Files,
}

/// An identity on the disk.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
}

impl FakeLog {
    pub(super) async fn start(folder: &Path, clock: &Arc<ManualClock>, tree: Tree) -> Self {
        let size = tree.size();
        let shown = Arc::new(Mutex::new(Shown {
            tree,
            size,
            cosigned_s: None,
            checkpoint: None,
            is_silent: false,
            hangs: false,
            lies: BTreeMap::new(),
            asked: Vec::new(),
        }));
        let open = Router::new()
            .route("/log/checkpoint", get(checkpoint))
            .route("/log/tile/{*path}", get(open_tile))
            .with_state(shown.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, open).await });

        let region: RegionId = "ch-zrh".parse().expect("a region");
        let ca = RegionCa::create(region, NOW, YEAR).expect("a CA");
        let (kms, kms_key) = identity(&ca, Role::Kms, "k1");
        let (auditor, auditor_key) = identity(&ca, Role::Auditor, "a1");
        let (stranger, stranger_key) = identity(&ca, Role::Auditor, "a2");
        let kms = LocalIdentity::from_pem(&kms, &kms_key.to_pem()).expect("its own");
        let contents = SetContents {
            jurisdiction: "CH".parse().expect("a jurisdiction"),
            version: 1,
            signed_at: NOW,
            enrolments: vec![
                enrolled(Role::Kms, "k1", &kms_key, 1),
                enrolled(Role::Auditor, "a1", &auditor_key, 0),
            ],
            grants: Vec::new(),
            approvals_min: 2,
        };
        let set = transport::enrolment::new_set(&ca.trust(), contents);
        let set = ca.sign_set(&set).expect("a first set");
        let enrolments = Enrolments::bootstrap(ca.trust(), &set, clock.clone()).expect("good");
        let acceptor = Acceptor::new(&kms, enrolments, KeyExchange::HybridOnly);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let entries_address = listener.local_addr().expect("bound");
        let router = Router::new()
            .route("/tile/{*path}", get(any_tile))
            .with_state(shown.clone());
        tokio::spawn(entries(listener, acceptor, router));
        let files = |name: &str, certificate: &str, key: &KeyPair| {
            let files = Files {
                certificate: folder.join(format!("{name}.pem")),
                key: folder.join(format!("{name}.key")),
                ca: folder.join("ca.pem"),
            };
            std::fs::write(&files.certificate, certificate).expect("room");
            std::fs::write(&files.ca, ca.certificate_pem()).expect("room");
            crate::durable::create_private(&files.key, key.to_pem().as_bytes()).expect("room");
            files
        };
        Self {
            shown,
            address,
            entries_address,
            auditor: files("a1", &auditor, &auditor_key),
            stranger: files("a2", &stranger, &stranger_key),
        }
    }

    /// Changes what is shown.
    pub(super) fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock());
    }
}

async fn entries(listener: TcpListener, acceptor: Acceptor, router: Router) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else {
                return;
            };
            let service = TowerToHyperService::new(router);
            let served = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ = served.await;
        });
    }
}

async fn checkpoint(State(shown): State<Shared>) -> Response {
    let hangs = shown.lock().hangs;
    if hangs {
        shown.lock().asked.push("checkpoint".to_owned());
        return std::future::pending().await;
    }
    let mut shown = shown.lock();
    shown.asked.push("checkpoint".to_owned());
    if shown.is_silent {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    shown.checkpoint().into_response()
}

async fn open_tile(State(shown): State<Shared>, uri: Uri) -> Response {
    let path = uri.path().strip_prefix("/log/").expect("routed").to_owned();
    match path.parse::<Tile>() {
        Ok(tile) if tile.kind() != TileKind::Entries => answer(&shown, &tile),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn any_tile(State(shown): State<Shared>, uri: Uri) -> Response {
    match uri.path()[1..].parse::<Tile>() {
        Ok(tile) => answer(&shown, &tile),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn answer(shown: &Shared, tile: &Tile) -> Response {
    let mut shown = shown.lock();
    shown.asked.push(tile.to_string());
    if shown.is_silent {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let lie = shown.lies.get(tile).cloned();
    match lie.or_else(|| shown.tree.tile(tile)) {
        Some(bytes) => bytes.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn identity(ca: &RegionCa, role: Role, name: &str) -> (String, KeyPair) {
    let key = KeyPair::generate();
    let request = transport::ca::Request {
        identity: &named(role, name),
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: NOW,
        validity: YEAR,
    };
    (ca.issue(&request).expect("a certificate"), key)
}

fn named(role: Role, name: &str) -> Identity {
    let region = "ch-zrh".parse().expect("a region");
    Identity::new(region, role, name).expect("an identity")
}

fn enrolled(role: Role, name: &str, key: &KeyPair, node_id: u64) -> v1::Enrolment {
    v1::Enrolment {
        identity: named(role, name).to_string(),
        public_key: key.public_key().as_spki().to_vec().into(),
        node_id,
        jurisdiction: "CH".to_owned(),
        ..v1::Enrolment::default()
    }
}
