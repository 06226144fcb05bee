//! One replica, from configuration to drained.
//!
//! Owns the order of start and stop: identity, enrolments, log, group, services; then listener, work, group, log.
//! Refuses to serve before the state has caught up with what this disk may have shown, and to lead while sealed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::Numbers;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use proto::ids::{GroupId, Role};
use replica::disk::RealDisk;
use replica::host::{Admission, Host, HostFailure, HostOptions, OpenError, Tuning, check_resumes};
use replica::log::{LogOptions, Retired};
use replica::net::TonicDialer;
use replica::state::StateOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use transport::{
    Acceptor, CertificateError, Connector, Cut, EnrolmentError, Enrolments, IdentityError,
    KeyExchange, LocalIdentity, RegionTrust, SharedClock, SystemClock,
};

use crate::approvals::sha256;
use crate::authority::learn_own_enrolment;
use crate::ceremony::FIRST_STREAM;
use crate::checkpoints::{Checkpoints, Rules};
use crate::config::{Config, ConfigError};
use crate::core::{Core, SWEEP_EVERY};
use crate::cosigner::{Cosigner, CosignerError};
use crate::custody::Custody;
use crate::federation::FederationService;
use crate::gate::Gate;
use crate::hand_over::{HandOverService, ShredService};
use crate::health;
use crate::ledger::Ledger;
use crate::log_http;
use crate::machine::KmsMachine;
use crate::peers::Peers;
use crate::publish::cosigner_name;
use crate::regions::Heard;
use crate::seal::Seal;
use crate::service::Services;
use crate::sessions::Sessions;
use crate::token::Token;
use crate::witness_client::Witnesses;

/// How long a new member waits to be enrolled before it gives up.
const LEARN_MAX: Duration = Duration::from_secs(60);
/// How long requests under way may take to end once the replica stops.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How long moving idle region time may take: the sweep waits for it.
const KEEP_TIME_MAX: Duration = Duration::from_secs(2);
/// How long requests that were cut may take to notice.
const RELEASE_MAX: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(5);
/// How long followers are not told of a commit: while one caller opens after another, it goes with the next entry.
const COMMIT_WAIT: Duration = Duration::from_millis(5);
/// A leaf and its openings are written once and hardly ever again: compaction has no business with them. What holds a
/// wrapped key stays below, where a compaction of its own range erases what was replaced.
const BLOB_BYTES_MIN: u64 = kms_state::WRAPPED_ROW_BYTES_MAX as u64 + 1;
const ENROLMENTS_FILE: &str = "enrolments";

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error("configuration")]
    Config(#[from] ConfigError),
    /// Key or certificate.
    #[error("identity")]
    Identity(#[from] IdentityError),
    /// The region's CA certificate.
    #[error("certificate of the region's authority")]
    Trust(#[from] CertificateError),
    /// The enrolment set.
    #[error("enrolments")]
    Enrolments(#[from] EnrolmentError),
    /// The certificate is another process's.
    #[error("the certificate is of {found}, which is no KMS replica of region {region}")]
    NotThisReplica {
        /// Whom the certificate states.
        found: proto::ids::Identity,
        /// The configured region.
        region: proto::ids::RegionId,
    },
    /// The enrolment set knows this identity under another member id, or of another jurisdiction.
    #[error("enrolled with member id {enrolled}, configured with {configured}")]
    OtherMember {
        /// As enrolled; 0 for none.
        enrolled: u64,
        /// As configured.
        configured: u64,
    },
    /// Not enrolled in time.
    #[error("this replica is not enrolled: enrol its identity first (ChangeEnrolment)")]
    NotEnrolled,
    /// The configured jurisdiction is not the region's.
    #[error("the region's jurisdiction is {found}, configured is {configured}")]
    OtherJurisdiction {
        /// As the enrolment set states it.
        found: proto::ids::Jurisdiction,
        /// As configured.
        configured: proto::ids::Jurisdiction,
    },
    /// No locked memory for keys.
    #[error("no key memory")]
    KeyMemory(#[source] envelope::KeyError),
    /// This replica's own word on the log.
    #[error("the cosigner of the log")]
    Cosigner(#[from] CosignerError),
    /// Folder, log, state or engine.
    #[error("consensus")]
    Host(#[source] Box<replica::host::OpenError>),
    /// A port or a folder.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A running replica.
pub struct Replica {
    core: Arc<Core>,
    host: Host,
    address: SocketAddr,
    health: Option<SocketAddr>,
    log: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    cut: CancellationToken,
    servers: JoinSet<()>,
    drivers: JoinSet<()>,
}

/// What a replica is started with besides its configuration.
#[derive(Default)]
pub struct Parts {
    /// The clock; the system's when absent.
    pub clock: Option<SharedClock>,
    /// The time-outs of consensus; the defaults when absent.
    pub tuning: Option<Tuning>,
    /// A listener that is bound already; else `listen` is bound.
    pub listener: Option<TcpListener>,
    /// What `/metrics` renders.
    pub metrics: Option<Numbers>,
}

/// Why the process has to exit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The consensus engine has ended by itself.
    #[error(transparent)]
    Engine(HostFailure),
    /// The disk fails to sync: what else is on it cannot be relied on either.
    #[error("the disk does not sync what this replica cosigned")]
    Cosigner(#[source] Arc<std::io::Error>),
}

impl Replica {
    /// Starts a replica and returns once it answers.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        let io = |what| move |source| StartError::Io { what, source };
        let clock = parts.clock.unwrap_or_else(SystemClock::shared);
        let local = LocalIdentity::load(&config.certificate, &config.key)?;
        let identity = local.identity().clone();
        if identity.role() != Role::Kms || identity.region() != &config.region {
            let region = config.region.clone();
            return Err(StartError::NotThisReplica {
                found: identity,
                region,
            });
        }
        std::fs::create_dir_all(&config.data_dir).map_err(io("data folder"))?;
        let trust = RegionTrust::from_pem(config.region.clone(), &config.read_ca()?)?;
        let genesis = config.read_genesis()?;
        let path = config.data_dir.join(ENROLMENTS_FILE);
        let enrolments = Enrolments::open(&path, trust, &genesis, clock.clone())?;
        let connector = Connector::new(local.clone(), enrolments.clone(), KeyExchange::HybridOnly);
        let peers = Arc::new(Peers::new(connector.clone(), enrolments.clone()));
        // Bound before the log is opened, so that peers find someone listening; served once all is ready.
        let listener = match parts.listener {
            Some(listener) => listener,
            None => TcpListener::bind(config.listen)
                .await
                .map_err(io("listening"))?,
        };
        let address = listener.local_addr().map_err(io("listening"))?;
        let health_listener = health::bind(config.health_listen)
            .await
            .map_err(io("listening for health checks"))?;
        let log_listener = log_http::bind(config.log_listen)
            .await
            .map_err(io("listening for readers of the log"))?;
        let federation_listener = match config.federation_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(io("listening for other regions"))?,
            ),
            None => None,
        };
        let federation = federation_listener
            .as_ref()
            .map(TcpListener::local_addr)
            .transpose()
            .map_err(io("listening for other regions"))?;
        let origin = format!("{}/{FIRST_STREAM}", config.region);
        let cosigner = Cosigner::open(
            &config.data_dir,
            &cosigner_name(&identity),
            &origin.parse().expect("a region's first log has a name"),
        )?;
        if !config.join && !config.found {
            check_resumes(&RealDisk, &raft_dir(&config), config.node_id())
                .map_err(|lost| StartError::Host(OpenError::Folder(lost).into()))?;
        }
        if config.join {
            let learnt = learn_own_enrolment(&enrolments, &peers, &identity);
            tokio::time::timeout(LEARN_MAX, learnt)
                .await
                .map_err(|_| StartError::NotEnrolled)?;
        }
        enrolled(&config, &enrolments, &identity)?;

        let seal = Arc::new(Seal::new().map_err(StartError::KeyMemory)?);
        let (machine, changes) = KmsMachine::new();
        let host = open_host(
            &config,
            &local,
            &connector,
            &enrolments,
            &genesis,
            parts.tuning,
        )?;
        // The transport's service has to answer while the group opens: peers are asked what they have seen of us.
        let group = host
            .open_group(GroupId::KMS, Arc::new(machine))
            .await
            .map_err(|error| StartError::Host(error.into()))?;
        // Sealed: votes, does not campaign.
        group.set_may_campaign(false);

        let checkpoints = Arc::new(Checkpoints::open(&config.data_dir));
        let rules = Arc::new(Rules::default());
        let gate = Gate {
            rules: rules.clone(),
            checkpoints: checkpoints.clone(),
            seal: seal.clone(),
        };
        let core = Arc::new(Core {
            custody: Custody::new(config.region.clone(), seal.clone()),
            ledger: Ledger::start(
                group.clone(),
                enrolments.clone(),
                identity.clone(),
                peers.clone(),
                gate,
            ),
            cosigner,
            checkpoints,
            rules,
            witnesses: Witnesses::default(),
            federation: federation.map_or_else(String::new, |bound| {
                match config.federation_advertise.as_str() {
                    "" => bound.to_string(),
                    advertised => advertised.to_owned(),
                }
            }),
            heard: Heard::default(),
            sessions: Sessions::new(),
            ceremony: tokio::sync::Mutex::new(None),
            membership: tokio::sync::Mutex::new(()),
            reshare: tokio::sync::Mutex::new(None),
            token: config
                .seal
                .pkcs11
                .clone()
                .map(|pkcs11| Arc::new(Token::new(pkcs11))),
            token_seal: tokio::sync::Mutex::new(None),
            unsealing: tokio::sync::Mutex::new(()),
            restoring: Mutex::new(None),
            backing_up: Arc::default(),
            flushing: Arc::default(),
            failure: Mutex::new(None),
            config,
            local: local.clone(),
            enrolments: enrolments.clone(),
            clock,
            group,
            peers,
            connector,
            seal,
            changes,
        });
        let (stop, stopped) = watch::channel(false);
        let mut replica = Self {
            core,
            host,
            address,
            health: health_listener
                .as_ref()
                .and_then(|listener| listener.local_addr().ok()),
            log: log_listener
                .as_ref()
                .and_then(|listener| listener.local_addr().ok()),
            stop,
            cut: CancellationToken::new(),
            servers: JoinSet::new(),
            drivers: JoinSet::new(),
        };
        if let Some(listener) = federation_listener {
            let acceptor = Acceptor::federated(&local, enrolments.clone());
            replica.serve_regions(acceptor, listener, stopped.clone());
        }
        let acceptor = Acceptor::new(&local, enrolments, KeyExchange::HybridOnly);
        replica.serve(acceptor, listener, stopped.clone());
        if let Some(listener) = log_listener {
            let core = replica.core.clone();
            let served = log_http::serve(core, listener, until_stopped(stopped.clone()));
            replica.servers.spawn(async move {
                if let Err(error) = served.await {
                    tracing::error!(%error, "the log's port failed");
                }
            });
        }
        if let Some(listener) = health_listener {
            let served = health::serve(
                replica.core.clone(),
                parts.metrics,
                listener,
                until_stopped(stopped),
            );
            replica.servers.spawn(async move {
                if let Err(error) = served.await {
                    tracing::error!(%error, "health port failed");
                }
            });
        }
        replica.drive();
        tracing::info!(%identity, %address, "kms replica started, sealed");
        Ok(replica)
    }

    fn serve(&mut self, acceptor: Acceptor, listener: TcpListener, stopped: watch::Receiver<bool>) {
        let services = Services(self.core.clone(), stopped.clone());
        let routes = Routes::new(self.host.service().server())
            .add_service(services.kms())
            .add_service(services.operate())
            .add_service(services.peer())
            .add_service(ShredService(self.core.clone()).into_server())
            .into_axum_router()
            .merge(log_http::enrolled(self.core.clone()));
        let router = transport::server().add_routes(Routes::from(routes));
        let cut = self.cut.clone();
        let incoming = acceptor
            .incoming(listener)
            .map_ok(move |stream| Cut::new(stream, &cut));
        self.servers.spawn(async move {
            let served = router.serve_with_incoming_shutdown(incoming, until_stopped(stopped));
            if let Err(error) = served.await {
                tracing::error!(%error, "server failed");
            }
        });
    }

    /// For peers of other regions: a listener and a router of its own, so that nothing else can be asked there.
    fn serve_regions(
        &mut self,
        acceptor: Acceptor,
        listener: TcpListener,
        stopped: watch::Receiver<bool>,
    ) {
        let service = FederationService(self.core.enrolments.clone());
        let relocations = HandOverService(self.core.clone());
        let router = transport::server()
            .add_service(service.into_server())
            .add_service(relocations.into_server());
        let cut = self.cut.clone();
        let incoming = acceptor
            .incoming(listener)
            .map_ok(move |stream| Cut::new(stream, &cut));
        self.servers.spawn(async move {
            let served = router.serve_with_incoming_shutdown(incoming, until_stopped(stopped));
            if let Err(error) = served.await {
                tracing::error!(%error, "the listener for other regions failed");
            }
        });
    }

    fn drive(&mut self) {
        let core = &self.core;
        self.drivers.spawn(core.clone().follow_authority());
        self.drivers.spawn(core.clone().learn_authority());
        self.drivers.spawn(core.clone().follow_custody());
        self.drivers.spawn(core.clone().keep_custody());
        self.drivers.spawn(core.clone().record_unseals());
        self.drivers.spawn(core.clone().confirm_keys());
        self.drivers.spawn(core.clone().destroy_due_keys());
        self.drivers.spawn(core.clone().erase_ended_keys());
        self.drivers.spawn(core.clone().follow_fences());
        self.drivers.spawn(core.clone().rotate_due_keys());
        self.drivers.spawn(core.clone().publish_checkpoints());
        self.drivers.spawn(core.clone().describe_region());
        self.drivers.spawn(core.clone().follow_regions());
        self.drivers.spawn(sweep(core.clone()));
        let (failing, host) = (core.clone(), self.host.clone());
        self.drivers.spawn(async move {
            let failure = failure(&host, &failing).await;
            *failing.failure.lock() = Some(failure);
        });
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers health checks.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Where it serves the log.
    pub fn log_address(&self) -> Option<SocketAddr> {
        self.log
    }

    /// The consensus group, for those who watch it.
    pub fn group(&self) -> &replica::host::Group {
        &self.core.group
    }

    /// What keeps this replica from serving, in words; empty when nothing does.
    pub fn not_ready(&self) -> Vec<String> {
        self.core.not_ready()
    }

    /// Waits until the engine ends by itself or the disk proves unfit; the process has to exit then.
    pub async fn failed(&self) -> Failure {
        failure(&self.host, &self.core).await
    }

    /// Drains: hands leadership over, lets requests end, drops every key, closes the log.
    pub async fn stop(mut self) {
        // The drivers first: they would let this replica campaign again.
        self.drivers.shutdown().await;
        self.core.group.set_may_campaign(false);
        if self.core.group.is_leader()
            && let Err(error) = self.core.group.hand_over().await
        {
            tracing::info!(%error, "leadership not handed over");
        }
        self.drain().await;
        self.drop_keys();
        self.let_go().await;
        self.host.stop().await;
        self.release().await;
    }

    /// Ends at once, as a process that is killed does; the log is closed all the same.
    pub async fn abandon(mut self) {
        self.servers.shutdown().await;
        self.drivers.shutdown().await;
        self.drop_keys();
        self.let_go().await;
        self.host.abandon().await;
        self.release().await;
    }

    /// Waits until nobody holds the folder any more: requests of connections that were cut.
    async fn release(self) {
        let core = Arc::downgrade(&self.core);
        drop(self);
        let released = async {
            while core.strong_count() > 0 {
                tokio::time::sleep(RELEASE_PAUSE).await;
            }
        };
        if tokio::time::timeout(RELEASE_MAX, released).await.is_err() {
            tracing::warn!("requests under way still hold the folder");
        }
    }

    /// Cuts every connection and ends what else holds the group.
    async fn let_go(&self) {
        self.cut.cancel();
        self.core.ledger.end().await;
        drop(self.core.flushing.lock().await);
    }

    /// Takes no more requests and lets those under way end, for a while.
    async fn drain(&mut self) {
        // The receivers are the servers, which may have ended by themselves.
        let _ = self.stop.send(true);
        let servers = &mut self.servers;
        let drained = async move { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
            tracing::debug!("connections of peers are still open");
        }
    }

    fn drop_keys(&self) {
        self.core.custody.clear();
        self.core.sessions.clear();
        if let Err(error) = self.core.seal.seal() {
            tracing::debug!(%error, "sealed without a new life");
        }
    }
}

fn enrolled(
    config: &Config,
    enrolments: &Enrolments,
    identity: &proto::ids::Identity,
) -> Result<(), StartError> {
    let table = enrolments.current();
    if table.jurisdiction() != &config.jurisdiction {
        return Err(StartError::OtherJurisdiction {
            found: table.jurisdiction().clone(),
            configured: config.jurisdiction.clone(),
        });
    }
    let enrolled = table.by_identity(identity).ok_or(StartError::NotEnrolled)?;
    if enrolled.node_id != Some(config.node_id()) {
        return Err(StartError::OtherMember {
            enrolled: enrolled.node_id.map(|id| id.0).unwrap_or_default(),
            configured: config.node_id,
        });
    }
    if enrolled.endpoint != config.advertised() {
        // Peers dial what is enrolled; an operator who moved a replica has to know.
        tracing::warn!(
            enrolled = %enrolled.endpoint,
            configured = %config.advertised(),
            "the enrolled endpoint is another than the configured one"
        );
    }
    Ok(())
}

fn raft_dir(config: &Config) -> PathBuf {
    config.data_dir.join("raft")
}

fn open_host(
    config: &Config,
    local: &LocalIdentity,
    connector: &Connector,
    enrolments: &Enrolments,
    genesis: &proto::v1::SignedEnrolmentSet,
    tuning: Option<Tuning>,
) -> Result<Host, StartError> {
    let me = config.node_id();
    let dialer = TonicDialer::new(connector.clone(), enrolments.clone(), Role::Kms, me);
    // The genesis set names the founding; a region founded twice is two clusters.
    let cluster = sha256(&[b"reduit/v1/kms-cluster\n", genesis.set.as_ref()].concat());
    let mut cluster_id = [0; 16];
    cluster_id.copy_from_slice(&cluster[..16]);
    let founder = config.found && enrolments.current().version() == 1;
    let admission = match (config.join, founder) {
        (true, _) => Admission::Join,
        (false, true) => Admission::Found,
        // An empty folder under a known id is a lost disk.
        (false, false) => Admission::Resume,
    };
    let options = HostOptions {
        node_id: me,
        identity: local.identity().clone(),
        jurisdiction: config.jurisdiction.clone(),
        cluster: cluster_id,
        admission,
        dir: raft_dir(config),
        disk: Arc::new(RealDisk),
        dialer: Arc::new(dialer),
        log: LogOptions {
            retired: Retired::Zero,
            ..LogOptions::default()
        },
        state: StateOptions {
            blob_bytes_min: BLOB_BYTES_MIN,
            ..StateOptions::default()
        },
        tuning: tuning.unwrap_or_else(|| Tuning {
            commit_wait: COMMIT_WAIT,
            ..Tuning::default()
        }),
    };
    Host::open(options).map_err(|error| StartError::Host(error.into()))
}

async fn sweep(core: Arc<Core>) {
    let mut view = core.group.watch();
    loop {
        core.sweep().await;
        if let Ok(state) = core.reader() {
            let stands_at = kms_state::region_time(&*state);
            drop(state);
            if stands_at.0 > 0 {
                core.ledger
                    .keep_time(stands_at, Instant::now() + KEEP_TIME_MAX)
                    .await;
            }
        }
        // A change of role or leader is looked at once: who steps down holds no key.
        let changed = tokio::time::timeout(SWEEP_EVERY, view.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return;
        }
    }
}

async fn failure(host: &Host, core: &Core) -> Failure {
    tokio::select! {
        failure = host.failed() => Failure::Engine(failure),
        error = core.cosigner.failed() => Failure::Cosigner(error),
    }
}

pub(crate) async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // The sender lives as long as the replica; if it is gone, so is the replica.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
