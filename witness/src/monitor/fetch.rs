//! What is asked of a log: its checkpoint and hash tiles in clear, its entry bundles as an enrolled auditor over mTLS.
//!
//! Owns addresses, bounds on answers and time limits. Refuses answers that are too long or too slow, and redirections:
//! a log is where it is configured to be. Nothing fetched is believed here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use http::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use proto::ids::Role;
use tlog::{LEAF_BYTES_MAX, NOTE_BYTES_MAX, TILE_WIDTH, Tile, TileKind, TileSource};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::transport::Channel;
use tower::ServiceExt as _;
use transport::{Connector, Expect, KeyExchange, Lane, LocalIdentity, RegionTrust, SharedClock};

use super::MonitorError;
use crate::config::{EntriesConfig, LogUrl};

/// One answer may take so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// One look at a log, with all the tiles that it fetches; the next look goes on where it ended.
const ROUND_MAX: Duration = Duration::from_secs(120);
const TILE_BYTES_MAX: usize = TILE_WIDTH as usize * 32;
const BUNDLE_BYTES_MAX: usize = TILE_WIDTH as usize * (2 + LEAF_BYTES_MAX);

/// Why there is no answer. That something is not there is an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No connection, or it broke off.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened, with its causes.
        why: String,
    },
    /// Neither the thing nor that there is none.
    #[error("{url} answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// It took too long.
    #[error("{0} does not answer in time")]
    TimedOut(String),
    /// An answer over its bound.
    #[error("{0} answers with too many bytes, or broke off")]
    TooLong(String),
    /// This process stops, or the look has taken long enough.
    #[error("the look was ended before {0}")]
    Ended(String),
}

/// The way to one log.
pub(crate) struct Fetch {
    url: LogUrl,
    plain: Client<HttpConnector, Body>,
    bundles: Vec<(String, Channel)>,
    /// Which replica answered last.
    next: AtomicUsize,
    handle: Handle,
    stop: Mutex<Option<watch::Receiver<bool>>>,
    until: Mutex<Instant>,
    /// Why something was not fetched: [`TileSource`] has no room for a reason.
    trouble: Mutex<Option<FetchError>>,
}

impl Fetch {
    /// Within a runtime, which does the work while the caller's thread waits.
    pub(crate) fn new(
        url: LogUrl,
        entries: Option<&EntriesConfig>,
        clock: &SharedClock,
    ) -> Result<Self, MonitorError> {
        let bundles = match entries {
            Some(entries) => channels(entries, clock)?,
            None => Vec::new(),
        };
        Ok(Self {
            url,
            plain: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
            bundles,
            next: AtomicUsize::new(0),
            handle: Handle::current(),
            stop: Mutex::new(None),
            until: Mutex::new(Instant::now()),
            trouble: Mutex::new(None),
        })
    }

    /// Whether entries can be asked for.
    pub(crate) fn has_entries(&self) -> bool {
        !self.bundles.is_empty()
    }

    /// Ends what is waited for when this says so.
    pub(crate) fn stop_with(&self, stop: watch::Receiver<bool>) {
        *self.stop.lock() = Some(stop);
    }

    /// A look begins.
    pub(crate) fn begin(&self) {
        *self.until.lock() = Instant::now() + ROUND_MAX;
        self.trouble.lock().take();
    }

    /// Whether the look shall end: it took long enough, or the process stops.
    pub(crate) fn is_over(&self) -> bool {
        let stop = self.stop.lock();
        Instant::now() > *self.until.lock() || stop.as_ref().is_some_and(|stop| *stop.borrow())
    }

    /// Why something was not fetched since this was last asked.
    pub(crate) fn take_trouble(&self) -> Option<FetchError> {
        self.trouble.lock().take()
    }

    /// The bytes of `/checkpoint`; `None` where the log has none.
    pub(crate) fn checkpoint(&self) -> Result<Option<Vec<u8>>, FetchError> {
        self.plain("checkpoint", NOTE_BYTES_MAX)
    }

    fn plain(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, FetchError> {
        let url = self.url.join(path);
        let request = Request::get(url.as_str()).body(Body::empty());
        let request = request.expect("a url that was parsed and a tile's path");
        let answer = async {
            let response = self.plain.request(request).await;
            let response = response.map_err(|error| unreachable(&url, &error))?;
            body(&url, response.map(Body::new), bytes_max).await
        };
        self.wait(&url, answer)
    }

    fn bundle(&self, tile: &Tile) -> Result<Option<Vec<u8>>, FetchError> {
        let mut last = FetchError::Ended(tile.to_string());
        for _ in 0..self.bundles.len() {
            let at = self.next.load(Ordering::Relaxed) % self.bundles.len();
            let (endpoint, channel) = &self.bundles[at];
            let url = format!("http://{endpoint}/{tile}");
            let request = Request::get(url.as_str()).body(tonic::body::Body::empty());
            let request = request.map_err(|error| unreachable(&url, &error))?;
            let answer = async {
                let response = channel.clone().oneshot(request).await;
                let response = response.map_err(|error| unreachable(&url, &error))?;
                body(&url, response.map(Body::new), BUNDLE_BYTES_MAX).await
            };
            match self.wait(&url, answer) {
                Err(error @ FetchError::Ended(_)) => return Err(error),
                Err(error) => {
                    self.next.store(at + 1, Ordering::Relaxed);
                    last = error;
                }
                Ok(found) => return Ok(found),
            }
        }
        Err(last)
    }

    fn wait<T>(
        &self,
        url: &str,
        answer: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        if self.is_over() {
            return Err(FetchError::Ended(url.to_owned()));
        }
        let stop = self.stop.lock().clone();
        let stopped = async {
            if let Some(mut stop) = stop
                && stop.wait_for(|stop| *stop).await.is_ok()
            {
                return;
            }
            // Nobody is left, or was ever there, to say so.
            std::future::pending().await
        };
        self.handle.block_on(async {
            tokio::select! {
                answered = tokio::time::timeout(ANSWER_TIMEOUT, answer) => match answered {
                    Ok(answer) => answer,
                    Err(_) => Err(FetchError::TimedOut(url.to_owned())),
                },
                () = stopped => Err(FetchError::Ended(url.to_owned())),
            }
        })
    }
}

/// The tiles of a log, as they come.
pub(crate) struct Tiles(pub(crate) Arc<Fetch>);

impl TileSource for Tiles {
    fn tile(&self, tile: &Tile) -> Option<Vec<u8>> {
        let found = match tile.kind() {
            TileKind::Hashes(_) => self.0.plain(&tile.to_string(), TILE_BYTES_MAX),
            TileKind::Entries => self.0.bundle(tile),
        };
        match found {
            Ok(found) => found,
            Err(error) => {
                *self.0.trouble.lock() = Some(error);
                None
            }
        }
    }
}

async fn body(
    url: &str,
    response: Response<Body>,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, FetchError> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
        status => {
            let url = url.to_owned();
            return Err(FetchError::Status { url, status });
        }
    }
    let bytes = to_bytes(response.into_body(), bytes_max).await;
    let bytes = bytes.map_err(|_| FetchError::TooLong(url.to_owned()))?;
    Ok(Some(bytes.to_vec()))
}

fn unreachable(url: &str, error: &dyn std::error::Error) -> FetchError {
    let mut why = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        why = format!("{why}: {source}");
        next = source.source();
    }
    FetchError::Unreachable {
        url: url.to_owned(),
        why,
    }
}

fn channels(
    entries: &EntriesConfig,
    clock: &SharedClock,
) -> Result<Vec<(String, Channel)>, MonitorError> {
    let identity = LocalIdentity::load(&entries.certificate, &entries.key)?;
    let trust = RegionTrust::load(entries.region.clone(), &entries.ca)?;
    let connector =
        Connector::pinned(identity, trust, KeyExchange::HybridOnly).with_clock(clock.clone());
    let channel = |endpoint: &String| {
        let channel = connector.channel_lazy(endpoint, Expect::Role(Role::Kms), Lane::Data);
        channel
            .map(|channel| (endpoint.clone(), channel))
            .map_err(|source| MonitorError::Endpoint {
                endpoint: endpoint.clone(),
                source,
            })
    };
    entries.endpoints.iter().map(channel).collect()
}
