//! One gateway, from configuration to drained.
//!
//! Owns the order of start and stop: identity, listeners, health, the region, then strangers; the other way round at the
//! end. A gateway that cannot reach its region yet is alive, says so, and lets strangers wait.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use client::ids::{Identity, RegionId};
use client::{Region, Tuning};
use daemon::Numbers;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::ids::Role;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use transport::fault::Chain;
use transport::{IdentityError, LocalIdentity};

use crate::access::HeldKeys;
use crate::chunked::Framed;
use crate::config::{Config, ConfigError};
use crate::front::Shared;
use crate::health::{self, Reached};
use crate::limits::{self, Limits, Place};
use crate::metered::Metered;
use crate::mover;
use crate::s3::{self, AnswerBody, DomainError, Noted, Service};
use crate::stall::{Course, Paced, Patient};
use crate::tls::{self, TlsError};
use crate::transfers::Transfers;

/// Between two tries to reach the region.
const REACH_PAUSE: Duration = Duration::from_millis(500);
/// After a connection that could not be accepted, for want of file descriptors perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client's handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long requests under way may take to end once the gateway stops.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Headers of one request.
const HEADERS_MAX: usize = 128;
/// Names a request in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error("configuration")]
    Config(#[from] ConfigError),
    /// Key or certificate.
    #[error("identity")]
    Identity(#[from] IdentityError),
    /// The certificate is another process's.
    #[error("the certificate is of {found}, which is no gateway of region {region}")]
    NotThisGateway {
        /// Whom the certificate states.
        found: Identity,
        /// The configured region.
        region: RegionId,
    },
    /// What S3 clients are shown.
    #[error("tls")]
    Tls(#[from] TlsError),
    /// Domains for buckets.
    #[error("domains")]
    Domains(#[from] DomainError),
    /// A listener.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a connection ended before its client had what it asked for.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("reading or writing")]
    Io(#[from] io::Error),
    #[error("http")]
    Http(#[from] hyper::Error),
}

/// A gateway that runs.
#[derive(Debug)]
pub struct Gateway {
    /// Where S3 is served in clear.
    pub address: Option<SocketAddr>,
    /// Where S3 is served over TLS.
    pub tls_address: Option<SocketAddr>,
    /// Where health is.
    pub health_address: Option<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Gateway {
    /// Binds and serves, at once or once the region is reached.
    pub async fn start(config: Config, metrics: Option<Numbers>) -> Result<Self, StartError> {
        let config = check(config)?;
        limits::open_files(config.connections_max);
        let tls = tls_acceptor(&config)?;
        let listener = bind(config.listen).await?;
        let tls_listener = bind(config.tls_listen).await?;
        let health_listener = health::bind(config.health_listen)
            .await
            .map_err(failed("listening for health checks"))?;
        let address = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        let gateway = Self {
            address: address(&listener),
            tls_address: address(&tls_listener),
            health_address: address(&health_listener),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let reached: Reached = Arc::new(OnceLock::new());
        if let Some(listener) = health_listener {
            let over = gateway.stop.clone().cancelled_owned();
            let serving = health::serve(reached.clone(), metrics, listener, over);
            gateway.tasks.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the health port has ended");
                }
            });
        }
        let ports = [(listener, None), (tls_listener, tls)];
        let (stop, tasks) = (gateway.stop.clone(), gateway.tasks.clone());
        gateway.tasks.spawn(async move {
            let Some(region) = reach(&config, &stop).await else {
                return;
            };
            let _ = reached.set(region.clone());
            if config.mover.enabled {
                tasks.spawn(mover::run(region.clone(), stop.clone()));
            }
            match Served::new(&config, region, stop, tasks) {
                Ok(served) => served.open(ports),
                // The domains were checked before anything was bound.
                Err(error) => tracing::error!(%error, "nothing is served"),
            }
        });
        gateway.tasks.close();
        Ok(gateway)
    }

    /// Reads and checks everything that starting reads, and asks the region.
    pub async fn check(config: Config) -> Result<Result<(), client::Error>, StartError> {
        let config = check(config)?;
        tls_acceptor(&config)?;
        let region = Region::connect(&config.context(), Tuning::default()).await;
        Ok(region.map(|_| ()))
    }

    /// Lets requests under way end, and nobody else in.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN_MAX, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(left = self.tasks.len(), "not every request ended in time");
        }
    }
}

fn check(config: Config) -> Result<Config, StartError> {
    let config = config.bounded()?;
    let local = LocalIdentity::load(&config.certificate, &config.key)?;
    let found = local.identity().clone();
    if found.role() != Role::Gateway || found.region() != &config.region {
        let region = config.region;
        return Err(StartError::NotThisGateway { found, region });
    }
    s3::check_domains(&config.domains)?;
    Ok(config)
}

fn tls_acceptor(config: &Config) -> Result<Option<TlsAcceptor>, StartError> {
    match (&config.tls_certificate, &config.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(tls::acceptor(certificate, key)?)),
        _ => Ok(None),
    }
}

async fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    match address {
        Some(address) => TcpListener::bind(address)
            .await
            .map(Some)
            .map_err(failed("listening")),
        None => Ok(None),
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// The region, once it answers; `None` where the gateway is stopped before.
async fn reach(config: &Config, stop: &CancellationToken) -> Option<Region> {
    let mut said = false;
    let context = config.context();
    loop {
        let connected = tokio::select! {
            connected = Region::connect(&context, Tuning::default()) => connected,
            () = stop.cancelled() => return None,
        };
        match connected {
            Ok(region) => return Some(region),
            Err(error) if !said => {
                said = true;
                tracing::warn!(error = %Chain(&error), "the region is not reached yet");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(REACH_PAUSE) => {}
            () = stop.cancelled() => return None,
        }
    }
}

/// What every connection shares.
struct Served {
    service: Service,
    limits: Limits,
    connections: Arc<Semaphore>,
    patience: Duration,
    head_bytes_max: usize,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Served {
    fn new(
        config: &Config,
        region: Region,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Arc<Self>, DomainError> {
        let keys = Arc::new(HeldKeys::new(Arc::new(region.clone())));
        let transfers = Transfers::new(config.transfer_bytes_max);
        let shared = Arc::new(Shared::new(region, transfers));
        Ok(Arc::new(Self {
            service: s3::service(shared, keys, &config.domains)?,
            limits: Limits::new(
                config.requests_max,
                config.requests_per_s_max,
                &config.domains,
            ),
            connections: Arc::new(Semaphore::new(config.connections_max as usize)),
            patience: Duration::from_secs(config.stall_seconds.into()),
            head_bytes_max: config.head_bytes_max as usize,
            stop,
            tasks,
        }))
    }

    fn open(self: Arc<Self>, ports: [(Option<TcpListener>, Option<TlsAcceptor>); 2]) {
        for (listener, tls) in ports {
            let Some(listener) = listener else { continue };
            let served = self.clone();
            self.tasks.spawn(served.accept(listener, tls));
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        loop {
            let slot = self.connections.clone().acquire_owned().await;
            let slot = slot.expect("nobody closes the semaphore");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (served, tls) = (self.clone(), tls.clone());
            self.tasks.spawn(async move {
                if let Err(error) = served.connection(stream, tls).await {
                    tracing::debug!(error = %Chain(&error), "a connection ended");
                }
                drop(slot);
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
    ) -> Result<(), ConnectionError> {
        stream.set_nodelay(true)?;
        let stream = Paced::new(stream, self.patience);
        match tls {
            None => self.talk(stream).await,
            Some(tls) => {
                let shaken = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await;
                let shaken = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
                self.talk(shaken?).await
            }
        }
    }

    async fn talk(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), ConnectionError> {
        let served = self.clone();
        let service = service_fn(move |request| {
            let served = served.clone();
            async move { served.answer(request).await }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.patience)
            .max_headers(HEADERS_MAX)
            .max_header_size(self.head_bytes_max);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = self.stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Sent>, io::Error> {
        let request_id = request_id();
        let noted = Noted::default();
        let method = request.method().clone();
        let headers = request.headers();
        let mut metered = Metered::begin(request_id.clone(), method, headers, noted.clone());
        let (mut parts, body) = request.into_parts();
        let (waits, course) = (parts.headers.contains_key(EXPECT), Course::default());
        let admitted = limits::head(&parts).and_then(|()| self.limits.enter(&parts));
        let (mut answer, room) = match admitted {
            Err(refused) => (s3::answer_of(refused), None),
            Ok(room) => {
                parts.extensions.insert(noted);
                let body = Patient::new(body, course.clone(), self.patience);
                let body = Framed::new(body, &parts.headers);
                let request = Request::from_parts(parts, body);
                let served = self.service.call(request, &course);
                let answer = served.instrument(metered.span()).await;
                (answer.map_err(io::Error::other)?, Some(room))
            }
        };
        metered.answered(answer.status());
        if waits && !course.was_asked() {
            // Who waits to be asked for a body and is answered instead does not send it, and takes the connection for
            // its next request: which would be read as that body.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        if let Ok(value) = HeaderValue::try_from(request_id) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        Ok(answer.map(|body| Sent {
            body,
            metered,
            _room: room,
        }))
    }
}

fn request_id() -> String {
    let mut bytes = [0; 8];
    // An id of zeroes is an id: it names a line of the log and guards nothing.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    hex::encode_upper(bytes)
}

/// An answer's body, counted until its last byte; the request is in flight until then.
struct Sent {
    body: AnswerBody,
    metered: Metered,
    _room: Option<Place>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            self.metered.sent(bytes.len());
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
