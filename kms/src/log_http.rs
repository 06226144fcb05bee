//! The log over HTTP (C2SP tlog-tiles): the checkpoint, hash tiles and entry bundles.
//!
//! Owns paths, caching and who sees what. On the log's own port, open to everyone: `/checkpoint` and hash tiles, which
//! say how much happened and nothing of what. On the mTLS port entry bundles too, for enrolled auditors. Refuses paths
//! that have a second spelling, and tiles wider than the tree applied here.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use kms_state::{LeavesAsked, StateHashes};
use proto::ids::{LeafIndex, Role};
use tlog::{Tile, TileKind, bundle_bytes};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use transport::PeerConnection;

use crate::core::Core;
use crate::log_port::{BoundedListener, CONNECTION_TIME, CONNECTIONS_MAX};

/// Requests answered at once on the open port; beyond, 503: tiles are to be fetched through caches.
const REQUESTS_MAX: usize = 64;

const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const BYTES: (HeaderName, &str) = (header::CONTENT_TYPE, "application/octet-stream");
const NO_CACHE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-cache");
/// A tile never changes.
const IMMUTABLE: (HeaderName, &str) =
    (header::CACHE_CONTROL, "public, max-age=31536000, immutable");

/// What a request that is not served hears.
fn refused(status: StatusCode, why: &str) -> Response {
    let no_store = (header::CACHE_CONTROL, "no-store");
    (status, [TEXT, no_store], format!("{why}\n")).into_response()
}

#[derive(Clone)]
struct Open {
    core: Arc<Core>,
    requests: Arc<Semaphore>,
}

/// Serves the open port until `stop` resolves.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let open = Open {
        core,
        requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
    };
    let router = Router::new()
        .route("/checkpoint", get(open_checkpoint))
        .route("/tile/{*path}", get(open_tile))
        .with_state(open);
    let listener = BoundedListener::new(listener, CONNECTIONS_MAX, CONNECTION_TIME);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

/// Binds the log's port; `None` when none is configured.
pub(crate) async fn bind(address: Option<SocketAddr>) -> std::io::Result<Option<TcpListener>> {
    match address {
        Some(address) => TcpListener::bind(address).await.map(Some),
        None => Ok(None),
    }
}

/// The same paths for the mTLS port, with entry bundles.
pub(crate) fn enrolled(core: Arc<Core>) -> Router {
    Router::new()
        .route("/checkpoint", get(peers_checkpoint))
        .route("/tile/{*path}", get(peers_tile))
        .with_state(core)
}

async fn open_checkpoint(State(open): State<Open>) -> Response {
    let Ok(_permit) = open.requests.try_acquire() else {
        return busy();
    };
    checkpoint(&open.core)
}

async fn open_tile(State(open): State<Open>, uri: Uri) -> Response {
    let Ok(_permit) = open.requests.try_acquire() else {
        return busy();
    };
    match tile_of(&uri) {
        Some(tile) if tile.kind() == TileKind::Entries => refused(
            StatusCode::NOT_FOUND,
            "entries are for enrolled auditors, on the replica's mTLS port",
        ),
        Some(tile) => hashes(&open.core, &tile),
        None => no_tile(),
    }
}

async fn peers_checkpoint(State(core): State<Arc<Core>>) -> Response {
    checkpoint(&core)
}

async fn peers_tile(
    State(core): State<Arc<Core>>,
    connection: Option<Extension<PeerConnection>>,
    uri: Uri,
) -> Response {
    match tile_of(&uri) {
        Some(tile) if tile.kind() == TileKind::Entries => match auditor(connection) {
            Ok(()) => bundle(&core, &tile),
            Err(refused) => *refused,
        },
        Some(tile) => hashes(&core, &tile),
        None => no_tile(),
    }
}

/// Enrolled now, not only at the handshake, and an auditor.
fn auditor(connection: Option<Extension<PeerConnection>>) -> Result<(), Box<Response>> {
    let connection = connection.as_ref().map(|Extension(connection)| connection);
    match transport::peer_in(connection) {
        Ok(peer) if peer.identity.role() == Role::Auditor => Ok(()),
        Ok(peer) => {
            tracing::info!(identity = %peer.identity, "refused the log's entries: not an auditor");
            let why = "the log's entries are for auditors";
            Err(Box::new(refused(StatusCode::FORBIDDEN, why)))
        }
        Err(error) => Err(Box::new(refused(StatusCode::FORBIDDEN, &error.to_string()))),
    }
}

fn busy() -> Response {
    let again = (header::RETRY_AFTER, "1");
    let why = "too many requests at once: fetch tiles through a cache\n";
    (StatusCode::SERVICE_UNAVAILABLE, [TEXT, again], why).into_response()
}

fn no_tile() -> Response {
    refused(StatusCode::NOT_FOUND, "no tile has this path")
}

/// Of the path as it was sent: decoding it first would give a tile many spellings, each cached for itself.
fn tile_of(uri: &Uri) -> Option<Tile> {
    uri.path().strip_prefix('/')?.parse().ok()
}

fn checkpoint(core: &Core) -> Response {
    match core.served_checkpoint() {
        Some(finished) => ([TEXT, NO_CACHE], finished.note.to_string()).into_response(),
        None => refused(
            StatusCode::NOT_FOUND,
            "no finished checkpoint here yet: its makers are a majority of unsealed replicas",
        ),
    }
}

fn hashes(core: &Core, tile: &Tile) -> Response {
    let Ok(state) = core.reader() else {
        return unreadable();
    };
    if !tile.is_within(kms_state::frontier(&*state).size()) {
        return refused(StatusCode::NOT_FOUND, "the tree here has no such tile");
    }
    match tile.hash_bytes(&StateHashes(&*state)) {
        Ok(bytes) => ([BYTES, IMMUTABLE], bytes).into_response(),
        Err(_) => unreadable(),
    }
}

fn bundle(core: &Core, tile: &Tile) -> Response {
    let Ok(state) = core.reader() else {
        return unreadable();
    };
    if !tile.is_within(kms_state::frontier(&*state).size()) {
        return refused(StatusCode::NOT_FOUND, "the tree here has no such bundle");
    }
    let asked = LeavesAsked {
        start: LeafIndex(tile.index() * tlog::TILE_WIDTH),
        limit: u32::from(tile.width()),
        bytes_max: usize::MAX,
        with_openings: false,
    };
    let leaves = kms_state::leaves(&*state, asked);
    let bytes = bundle_bytes(leaves.iter().map(|entry| entry.leaf.as_ref()));
    match bytes {
        Ok(bytes) if leaves.len() == usize::from(tile.width()) => {
            ([BYTES, IMMUTABLE], bytes).into_response()
        }
        _ => unreadable(),
    }
}

fn unreadable() -> Response {
    refused(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the log could not be read here",
    )
}
