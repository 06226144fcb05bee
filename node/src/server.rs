//! One node, from configuration to drained.
//!
//! Owns the order of start and stop: identity, enrolments, log, catalog, blocks, shards, services; then leadership,
//! listener, work, blocks, log. Refuses to start as a member it is not enrolled as.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use daemon::Numbers;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use proto::ids::{Identity, Role};
use replica::disk::RealDisk;
use replica::host::{Admission, Host, HostOptions, OpenError, Tuning, check_resumes, is_taken};
use replica::net::TonicDialer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport::fault::Chain;
use transport::{
    Acceptor, CertificateError, Connector, Cut, EnrolmentError, Enrolments, IdentityError,
    KeyExchange, LocalIdentity, RegionTrust, SharedClock, SystemClock,
};

use crate::authority::{Grants, Refresher};
use crate::backup::{BackupService, WALKS_MAX};
use crate::blocks::{self, BlockStore, StoreOptions};
use crate::catalog::CatalogService;
use crate::config::{Config, ConfigError};
use crate::core::Core;
use crate::disk::DiskGauge;
use crate::federation::FederationService;
use crate::groups::{Groups, OpenShardsError};
use crate::machine::RepairSlot;
use crate::operate::OperateService;
use crate::peers::NodePeers;
use crate::relocation::{Copies, DeparturesService, RelocationsService, Roots};
use crate::repair::{RegionPeers, Repair, RepairOptions, Rest};
use crate::restore::RestoreService;
use crate::shard::ShardService;
use crate::shard::stored::AUDITS_MAX;
use crate::time::GroupClocks;
use crate::upload::{BlockReads, BlocksParts, BlocksService, UploadTimeouts};
use crate::{drivers, health};

/// How long a new member waits to be enrolled before it gives up.
const LEARN_MAX: Duration = Duration::from_secs(60);
const LEARN_PAUSE: Duration = Duration::from_millis(300);
/// How long leaderships may take to go elsewhere when the node stops.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// How long requests under way may take to end once the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How long requests that were cut may take to notice.
const RELEASE_MAX: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(5);
const ENROLMENTS_FILE: &str = "enrolments";

/// Why a node did not start.
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
    #[error("the certificate is of {found}, which is no storage node of region {region}")]
    NotThisNode {
        /// Whom the certificate states.
        found: Identity,
        /// The configured region.
        region: proto::ids::RegionId,
    },
    /// The enrolment set knows this identity under another member id.
    #[error("enrolled with member id {enrolled}, configured with {configured}")]
    OtherMember {
        /// As enrolled; 0 for none.
        enrolled: u64,
        /// As configured.
        configured: u64,
    },
    /// Not enrolled in time.
    #[error(
        "this node is not enrolled: enrol its identity first, and check that the kms can be reached"
    )]
    NotEnrolled,
    /// The configured jurisdiction is not the region's.
    #[error("the region's jurisdiction is {found}, configured is {configured}")]
    OtherJurisdiction {
        /// As the enrolment set states it.
        found: proto::ids::Jurisdiction,
        /// As configured.
        configured: proto::ids::Jurisdiction,
    },
    /// Folder, log, state or engine.
    #[error("consensus")]
    Host(#[source] Box<replica::host::OpenError>),
    /// A shard the region has.
    #[error("shards")]
    Shards(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The block store.
    #[error("block store")]
    Blocks(#[source] Box<blocks::OpenError>),
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

/// What a node is started with besides its configuration.
#[derive(Default)]
pub struct Parts {
    /// The clock; the system's when absent.
    pub clock: Option<SharedClock>,
    /// The time-outs of consensus; the defaults when absent.
    pub tuning: Option<Tuning>,
    /// The pace of repair; the defaults when absent.
    pub repair: Option<RepairOptions>,
    /// A listener that is bound already; else `listen` is bound.
    pub listener: Option<TcpListener>,
    /// What `/metrics` renders.
    pub metrics: Option<Numbers>,
}

/// A running node.
pub struct Node {
    core: Arc<Core>,
    host: Host,
    address: SocketAddr,
    health: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    repairing: CancellationToken,
    cut: CancellationToken,
    failure: watch::Receiver<Option<String>>,
    servers: JoinSet<()>,
    drivers: JoinSet<()>,
}

impl Node {
    /// Starts a node and returns once it answers.
    pub async fn start(config: Config, parts: Parts) -> Result<Self, StartError> {
        let io = |what| move |source| StartError::Io { what, source };
        let clock = parts.clock.unwrap_or_else(SystemClock::shared);
        let local = LocalIdentity::load(&config.certificate, &config.key)?;
        let identity = local.identity().clone();
        if identity.role() != Role::Node || identity.region() != &config.region {
            let region = config.region.clone();
            return Err(StartError::NotThisNode {
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
        let refresher = Refresher::new(connector.clone(), enrolments.clone(), config.kms.clone());
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
        if !config.join && !config.found {
            check_resumes(&RealDisk, &raft_dir(&config), config.node_id())
                .map_err(|lost| StartError::Host(OpenError::Folder(lost).into()))?;
        }
        learn_own_enrolment(&config, &refresher, &enrolments, &identity).await?;
        enrolled(&config, &enrolments, &identity)?;

        let slot = RepairSlot::default();
        let host = open_host(
            &config,
            &local,
            &connector,
            &enrolments,
            &genesis,
            parts.tuning,
        )?;
        let groups = Groups::open(host.clone(), slot.clone())
            .await
            .map_err(|error| StartError::Host(error.into()))?;
        let store = open_store(&config).await?;
        let node_id = config.node_id();
        let repair_peers = Arc::new(RegionPeers::new(connector.clone(), enrolments.clone()));
        let defaults = RepairOptions {
            scrub_bytes_per_s: config.scrub_bytes_per_s,
            ..Default::default()
        };
        let repair = Repair::new(
            node_id,
            store.clone(),
            groups.clone(),
            repair_peers,
            clock.clone(),
            parts.repair.unwrap_or(defaults),
        );
        slot.fill(&repair);
        let held = Arc::downgrade(&groups);
        repair.also_reads(Rest {
            log: host.log().clone(),
            // Weak: groups are closed while repair is still held.
            groups: Box::new(move || held.upgrade().map_or_else(Vec::new, |held| held.all())),
        });
        groups.open_shards().await.map_err(shards_not_opened)?;
        let core = Arc::new(Core {
            disk: DiskGauge::new(&config.data_dir, config.full_percent),
            peers: NodePeers::new(connector, enrolments.clone()),
            failure: Mutex::new(None),
            membership: tokio::sync::Mutex::default(),
            audits: Arc::new(Semaphore::new(AUDITS_MAX)),
            walks: Arc::new(Semaphore::new(WALKS_MAX)),
            roots: Roots::default(),
            copies: Copies::default(),
            node_id,
            federation: federation.map_or_else(String::new, |bound| {
                match config.federation_advertise.as_str() {
                    "" => bound.to_string(),
                    advertised => advertised.to_owned(),
                }
            }),
            config,
            local: local.clone(),
            enrolments: enrolments.clone(),
            refresher,
            clock,
            clocks: GroupClocks::default(),
            groups,
            store,
            repair,
        });
        let (stop, stopped) = watch::channel(false);
        let (failing, failure) = watch::channel(None);
        let mut node = Self {
            core,
            host,
            address,
            health: health_listener
                .as_ref()
                .and_then(|listener| listener.local_addr().ok()),
            stop,
            repairing: CancellationToken::new(),
            cut: CancellationToken::new(),
            failure,
            servers: JoinSet::new(),
            drivers: JoinSet::new(),
        };
        let blocks = node.blocks();
        if let Some(listener) = federation_listener {
            let acceptor = Acceptor::federated(&local, enrolments.clone());
            node.serve_regions(acceptor, listener, blocks.reads(), stopped.clone());
        }
        let acceptor = Acceptor::new(&local, enrolments, KeyExchange::HybridOnly);
        node.serve(acceptor, listener, blocks, stopped.clone());
        if let Some(listener) = health_listener {
            let stop = until_stopped(stopped);
            let served = health::serve(node.core.clone(), parts.metrics, listener, stop);
            node.servers.spawn(async move {
                if let Err(error) = served.await {
                    tracing::error!(%error, "health port failed");
                }
            });
        }
        node.drive(failing);
        tracing::info!(%identity, %address, "storage node started");
        Ok(node)
    }

    fn blocks(&self) -> BlocksService {
        let core = &self.core;
        BlocksService::new(BlocksParts {
            node: core.node_id,
            local: core.local.clone(),
            store: core.store.clone(),
            shards: core.groups.clone(),
            authority: Arc::new(Grants(core.clone())),
            clock: core.clock.clone(),
            timeouts: UploadTimeouts::default(),
        })
    }

    fn serve(
        &mut self,
        acceptor: Acceptor,
        listener: TcpListener,
        blocks: BlocksService,
        stopped: watch::Receiver<bool>,
    ) {
        let core = &self.core;
        let departures = DeparturesService {
            core: core.clone(),
            blocks: blocks.reads(),
        };
        let router = transport::server()
            .add_service(self.host.service().server())
            .add_service(CatalogService(core.clone()).into_server())
            .add_service(ShardService(core.clone()).into_server())
            .add_service(BackupService(core.clone()).into_server())
            .add_service(RestoreService(core.clone()).into_server())
            .add_service(RelocationsService(core.clone()).into_server())
            .add_service(departures.into_server())
            .add_service(OperateService(core.clone()).into_server())
            .add_service(blocks.into_server());
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
        blocks: BlockReads,
        stopped: watch::Receiver<bool>,
    ) {
        let service = FederationService(self.core.enrolments.clone());
        let core = self.core.clone();
        let departures = DeparturesService { core, blocks };
        let router = transport::server()
            .add_service(service.into_server())
            .add_service(departures.into_server());
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

    fn drive(&mut self, failing: watch::Sender<Option<String>>) {
        let core = &self.core;
        let ends = |driver| ends_the_node(driver, failing.clone());
        self.drivers
            .spawn(ends(core.refresher.clone().run().boxed()));
        self.drivers.spawn(ends(drivers::run(core.clone()).boxed()));
        let repair = core.repair.clone();
        let repair = repair.run(self.repairing.clone(), core.node_id.0);
        self.drivers.spawn(ends(repair.boxed()));
        let (host, core) = (self.host.clone(), core.clone());
        self.drivers.spawn(async move {
            let mut blocks = core.store.watch_failed();
            let why = tokio::select! {
                failure = host.failed() => {
                    let why = Chain(&failure).to_string();
                    *core.failure.lock() = Some(failure);
                    why
                }
                why = drivers::follow_region(core.clone()) => why,
                failed = blocks.wait_for(Option::is_some) => match failed {
                    Ok(failed) => failed.as_ref().map_or_else(String::new, |f| Chain(f.as_ref()).to_string()),
                    // The store lives in the core: it is closed, and the node with it.
                    Err(_) => return,
                },
            };
            // The receiver is the node.
            drop(failing.send(Some(why)));
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

    /// What keeps this node from serving everything, in words; empty when nothing does.
    pub fn not_ready(&self) -> Vec<String> {
        self.core.not_ready()
    }

    /// Its groups, for those who watch them.
    pub fn groups(&self) -> Vec<replica::Group> {
        self.core.groups.all()
    }

    /// Waits until something ended that this node cannot go on without, and says what; the process has to exit then.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let failed = failure.wait_for(Option::is_some).await;
        match failed.ok().and_then(|failed| failed.clone()) {
            Some(why) => why,
            // The watcher ended with the store, which only the node closes.
            None => std::future::pending().await,
        }
    }

    /// Drains: hands leaderships over, lets requests end, closes blocks and log.
    pub async fn stop(mut self) {
        let groups = self.core.groups.all();
        let handing = groups
            .iter()
            .filter(|group| group.is_leader())
            .map(|group| async move {
                group.set_may_campaign(false);
                if let Err(error) = group.hand_over().await {
                    tracing::info!(group = group.id().0, %error, "leadership not handed over");
                }
            });
        // What is not handed over in time is found leaderless by the others.
        drop(tokio::time::timeout(HAND_OVER_MAX, futures::future::join_all(handing)).await);
        // The receivers are the servers, which may have ended by themselves.
        let _ = self.stop.send(true);
        let drained = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
            self.servers.shutdown().await;
        }
        self.end_work().await;
        self.host.stop().await;
        self.release().await;
    }

    /// Ends at once, as a process that is killed does; blocks and log are closed all the same.
    pub async fn abandon(mut self) {
        self.servers.shutdown().await;
        self.end_work().await;
        self.host.abandon().await;
        self.release().await;
    }

    async fn end_work(&mut self) {
        self.cut.cancel();
        self.repairing.cancel();
        self.drivers.shutdown().await;
        let store = self.core.store.clone();
        // A panic there has been printed; the folder is left as after a crash.
        drop(tokio::task::spawn_blocking(move || store.close()).await);
    }

    /// Waits until nobody holds the folder any more: requests of connections that were cut, work that was blocking.
    async fn release(self) {
        let (core, groups) = (
            Arc::downgrade(&self.core),
            Arc::downgrade(&self.core.groups),
        );
        drop(self);
        let released = async {
            while core.strong_count() > 0 || groups.strong_count() > 0 {
                tokio::time::sleep(RELEASE_PAUSE).await;
            }
        };
        if tokio::time::timeout(RELEASE_MAX, released).await.is_err() {
            tracing::warn!("requests under way still hold the folder");
        }
    }
}

/// Asks the KMS for a newer set, until this node is in it. Who has been a member here starts without the KMS, whether
/// it joined the region then or founded it.
async fn learn_own_enrolment(
    config: &Config,
    refresher: &Refresher,
    enrolments: &Enrolments,
    identity: &Identity,
) -> Result<(), StartError> {
    let known = |enrolments: &Enrolments| enrolments.current().by_identity(identity).is_some();
    let new = config.join && !is_taken(&RealDisk, &raft_dir(config));
    if !new && known(enrolments) {
        return Ok(());
    }
    let learnt = async {
        loop {
            let fresh = refresher.refresh().await;
            if known(enrolments) && (fresh || !new) {
                return;
            }
            tokio::time::sleep(LEARN_PAUSE).await;
        }
    };
    tokio::time::timeout(LEARN_MAX, learnt)
        .await
        .map_err(|_| StartError::NotEnrolled)
}

/// A driver that panics takes the node with it: without repair, or without fresh authority, it would go on and look well.
async fn ends_the_node(driver: BoxFuture<'static, ()>, failing: watch::Sender<Option<String>>) {
    if AssertUnwindSafe(driver).catch_unwind().await.is_err() {
        // It has been printed. The receiver is the node.
        drop(failing.send(Some(
            "a task that the node cannot be without panicked".to_owned(),
        )));
    }
}

fn raft_dir(config: &Config) -> PathBuf {
    config.data_dir.join("raft")
}

fn enrolled(
    config: &Config,
    enrolments: &Enrolments,
    identity: &Identity,
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
        // Others dial what is enrolled: they will not find this node.
        tracing::warn!(
            enrolled = %enrolled.endpoint,
            configured = %config.advertised(),
            "the enrolled endpoint is another than the configured one"
        );
    }
    Ok(())
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
    let dialer = TonicDialer::new(connector.clone(), enrolments.clone(), Role::Node, me);
    // The genesis set names the founding; a region founded twice is two clusters.
    let cluster = digest(
        &SHA256,
        &[b"reduit/v1/node-cluster\n", genesis.set.as_ref()].concat(),
    );
    let mut cluster_id = [0; 16];
    cluster_id.copy_from_slice(&cluster.as_ref()[..16]);
    let admission = match (config.join, config.found && enrolments.version() == 1) {
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
        log: Default::default(),
        state: Default::default(),
        tuning: tuning.unwrap_or_default(),
    };
    Host::open(options).map_err(|error| StartError::Host(error.into()))
}

async fn open_store(config: &Config) -> Result<BlockStore, StartError> {
    let dir = config.data_dir.join("blocks");
    let options = StoreOptions {
        room_bytes_max: config.upload_bytes_max,
        space_reserve_bytes: config.reserve_bytes,
        ..StoreOptions::new(Arc::new(salt))
    };
    let opened =
        tokio::task::spawn_blocking(move || BlockStore::open(Arc::new(RealDisk), &dir, options));
    let (store, report) = match opened.await {
        Ok(opened) => opened.map_err(|error| StartError::Blocks(error.into()))?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    tracing::info!(?report, "block store opened");
    Ok(store)
}

/// 64 bits that clients cannot guess.
fn salt() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source answers");
    u64::from_be_bytes(bytes)
}

fn shards_not_opened(error: OpenShardsError) -> StartError {
    StartError::Shards(error.into())
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // The sender lives as long as the node; if it is gone, so is the node.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_that_panics_ends_the_node_and_one_that_ends_does_not() {
        let (failing, failed) = watch::channel(None);
        ends_the_node(async {}.boxed(), failing.clone()).await;
        assert_eq!(*failed.borrow(), None);
        let lost = async { panic!("a state that cannot be read") };
        ends_the_node(lost.boxed(), failing).await;
        assert!(failed.borrow().is_some());
    }
}
