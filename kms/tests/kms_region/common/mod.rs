//! A region's KMS in one process: three replicas over loopback TLS, the people around it, and callers.
//!
//! Owns the ceremony as people hold it. Everything in it is the shipped daemon; only the network between replicas
//! goes through a proxy that can be cut.
#![allow(dead_code, reason = "each test file uses its part of this")]

mod access_keys;
mod backups;
mod caller;
mod custody;
mod daemon;
mod files;
mod grown;
mod log;
mod objects;
mod outside;
mod people;
mod storage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kms::approvals::{approve, request_hash, unseal_hash};
use kms::{Config, LogFormat, Parts, Replica};
use proto::ids::{Identity, NodeId, Role, UnixMs};
use proto::v1;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_operate_client::KmsOperateClient;
use replica::host::Tuning;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use transport::testing::FlakyProxy;
use transport::{Clock as _, LocalIdentity, SharedClock, SystemClock};

#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use access_keys::{PRINCIPAL, Shown};
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use backups::Backup;
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use caller::{Caller, Session};
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use daemon::Daemon;
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use files::file_holds;
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use log::{Served, TestWitness, leaves, policy_of, policy_text, served};
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use objects::{BODY, DATASET, Sealed, change, claim, open, seal, sealed_object};
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use outside::OutsideWitness;
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use people::{People, REGION, identity, region_id};
#[allow(unused_imports, reason = "each test file uses its part of this")]
pub(crate) use storage::{Site, Storage};

/// Replicas of the region.
pub(crate) const REPLICAS: usize = 3;
/// Shares of the root key, and how many are needed.
pub(crate) const SHARES: usize = 5;
/// Shares needed.
pub(crate) const NEEDED: u32 = 3;
/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Now.
pub(crate) fn now() -> UnixMs {
    SystemClock.now()
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("random");
    bytes
}

/// One replica's place: it outlives the process in it.
pub(crate) struct Place {
    pub config: Config,
    pub address: SocketAddr,
    pub proxy: FlakyProxy,
    pub replica: Option<Replica>,
}

/// The region.
pub(crate) struct Region {
    pub dir: TempDir,
    pub people: People,
    pub places: Vec<Place>,
    pub genesis: v1::SignedEnrolmentSet,
    pub shares: Vec<v1::SealedShare>,
    clock: Option<SharedClock>,
    tuning: Option<Tuning>,
}

/// What a region starts with besides its people.
pub(crate) struct Begin {
    /// Whether its replicas listen for other regions.
    pub federation: bool,
    /// Which region, and under whose law.
    pub region: (&'static str, &'static str),
    pub grants: Vec<v1::Grant>,
    pub request_ms_max: u64,
    /// The replicas' clock; the system's when absent.
    pub clock: Option<SharedClock>,
    /// Whether the test runs the daemons itself; else they run in its process.
    pub elsewhere: bool,
    /// The place of a storage node beside the KMS.
    pub site: Option<Site>,
    /// The time-outs and bounds of consensus; the defaults when absent.
    pub tuning: Option<Tuning>,
}

/// A clock of the replicas that a test can set ahead.
#[derive(Debug, Default)]
pub(crate) struct AheadClock(pub AtomicU64);

impl transport::Clock for AheadClock {
    fn now(&self) -> UnixMs {
        UnixMs(SystemClock.now().0 + self.0.load(Ordering::Relaxed))
    }
}

impl Default for Begin {
    fn default() -> Self {
        Self {
            federation: false,
            region: (REGION, people::JURISDICTION),
            grants: vec![people::all_to_app()],
            request_ms_max: 10_000,
            clock: None,
            elsewhere: false,
            site: None,
            tuning: None,
        }
    }
}

impl Region {
    /// Three replicas, started and sealed.
    pub(crate) async fn begin(begin: Begin) -> Self {
        Self::begin_with(&begin).await
    }

    async fn begin_with(begin: &Begin) -> Self {
        Self::begin_of(begin, None).await
    }

    /// Three replicas with new keys on empty disks, of a region whose people are still there.
    pub(crate) async fn begin_anew(begin: Begin, people: People) -> Self {
        Self::begin_of(&begin, Some(people)).await
    }

    async fn begin_of(begin: &Begin, people: Option<People>) -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        let mut listeners = Vec::new();
        let mut proxies = Vec::new();
        for _ in 0..REPLICAS {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            proxies.push(FlakyProxy::to(address).await.expect("a proxy"));
            listeners.push((address, listener));
        }
        let endpoints: Vec<String> = proxies.iter().map(FlakyProxy::endpoint).collect();
        let mut people = match people {
            Some(mut people) => {
                people.replace_replicas(&endpoints);
                people
            }
            None => People::of_region(begin.region, &endpoints),
        };
        if let Some(site) = &begin.site {
            site.enrol(&mut people);
        }
        let genesis = people.genesis(&begin.grants);
        let mut places = Vec::new();
        for (at, ((address, listener), proxy)) in listeners.into_iter().zip(proxies).enumerate() {
            let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
            let config = Config {
                request_ms_max: begin.request_ms_max,
                federation_listen: begin.federation.then_some(any_port),
                ..config(
                    dir.path(),
                    &people,
                    &genesis,
                    &format!("kms-{}", at + 1),
                    address,
                )
            };
            let replica = if begin.elsewhere {
                drop(listener);
                None
            } else {
                let parts = Parts {
                    listener: Some(listener),
                    clock: begin.clock.clone(),
                    tuning: begin.tuning.clone(),
                    ..Parts::default()
                };
                let replica = Replica::start(config.clone(), parts).await;
                Some(replica.expect("a replica starts"))
            };
            places.push(Place {
                config,
                address,
                proxy,
                replica,
            });
        }
        Self {
            dir,
            people,
            places,
            genesis,
            shares: Vec::new(),
            clock: begin.clock.clone(),
            tuning: begin.tuning.clone(),
        }
    }

    /// Starts a further replica under a member id that was allocated for it; it has to be enrolled.
    pub(crate) async fn join(&mut self, name: &str, listener: TcpListener, proxy: FlakyProxy) {
        let address = listener.local_addr().expect("bound");
        let config = config(self.dir.path(), &self.people, &self.genesis, name, address);
        let config = Config {
            join: true,
            found: false,
            ..config
        };
        let parts = Parts {
            listener: Some(listener),
            ..self.parts()
        };
        let replica = Replica::start(config.clone(), parts)
            .await
            .expect("a replica joins");
        self.places.push(Place {
            config,
            address,
            proxy,
            replica: Some(replica),
        });
    }

    /// As [`Self::initialised`], with a storage node that holds the dataset of the tests, and an object in it.
    pub(crate) async fn with_storage(begin: Begin) -> (Self, Storage, Sealed) {
        let (site, clock) = (Site::bind().await, begin.clock.clone());
        let mut begin = Begin {
            site: Some(site),
            ..begin
        };
        let region = Self::initialised_with(&begin).await;
        let site = begin.site.take().expect("bound above");
        let storage = Storage::start(&region, site, clock).await;
        let app = region.caller("app");
        let sealed = sealed_object(&app).await;
        storage.create_dataset(&region.people, &app).await;
        (region, storage, sealed)
    }

    /// The ceremony on the first replica, then one approved peer unseal for each other.
    pub(crate) async fn initialised(begin: Begin) -> Self {
        Self::initialised_with(&begin).await
    }

    async fn initialised_with(begin: &Begin) -> Self {
        let mut region = Self::begin_with(begin).await;
        region.initialise().await;
        for at in 1..REPLICAS {
            region.unseal_by_peer(at).await.expect("unsealed by a peer");
        }
        region
    }

    pub(crate) async fn initialise(&mut self) {
        let operator = self.caller("op-1");
        let request = v1::InitialiseRequest {
            shares: SHARES as u32,
            needed: NEEDED,
            custodians: Vec::new(),
            genesis: Some(self.genesis.clone()),
        };
        let reply = operator
            .operate(0)
            .initialise(request)
            .await
            .expect("the ceremony");
        self.shares = reply.into_inner().shares;
        assert_eq!(self.shares.len(), SHARES);
    }

    /// Raises the feature level, as an operator does once every replica runs this build.
    pub(crate) async fn raise_level(&self, level: u32) {
        let operator = self.caller("op-1");
        let raised = operator.at_leader(|at| {
            let mut operate = operator.operate(at);
            async move {
                operate
                    .raise_level(v1::RaiseKmsLevelRequest { level })
                    .await
            }
        });
        raised.await.expect("raised");
    }

    /// A change of the witness policy, not approved yet.
    pub(crate) fn witness_change(
        &self,
        text: &str,
        unwitnessed_max_ms: u64,
    ) -> v1::ChangeWitnessesRequest {
        v1::ChangeWitnessesRequest {
            policy: Some(v1::WitnessPolicy {
                format: 1,
                policy: text.as_bytes().to_vec().into(),
                unwitnessed_max_ms,
            }),
            single_use_id: random::<16>().to_vec().into(),
            ..v1::ChangeWitnessesRequest::default()
        }
    }

    /// Sends it as the first operator, approved by others.
    pub(crate) async fn change_witnesses(
        &self,
        mut request: v1::ChangeWitnessesRequest,
        approvers: &[&str],
    ) -> Result<v1::KmsDone, tonic::Status> {
        let operator = self.caller("op-1");
        let hash = request_hash("ChangeWitnesses", &request);
        let id = request.single_use_id.as_ref().try_into().expect("16 bytes");
        // Region time may be set ahead.
        let expires = UnixMs(now().0 + 600_000);
        let by = |name: &&str| approve(self.people.local(name), hash, id, expires);
        request.approvals = approvers.iter().map(by).collect();
        let changed = operator.at_leader(|at| {
            let (mut operate, request) = (operator.operate(at), request.clone());
            async move { Ok(operate.change_witnesses(request).await?.into_inner()) }
        });
        changed.await
    }

    /// A caller of one of the region's people.
    pub(crate) fn caller(&self, name: &str) -> Caller {
        let addresses = self.places.iter().map(|place| place.address).collect();
        Caller::new(&self.people, name, addresses)
    }

    /// A caller with a key and certificate from elsewhere.
    pub(crate) fn caller_with(&self, local: LocalIdentity) -> Caller {
        let addresses = self.places.iter().map(|place| place.address).collect();
        Caller::with(&self.people, local, addresses)
    }

    /// Changes enrolments as the first operator, approved by two others.
    pub(crate) async fn change_enrolment(
        &self,
        add: Vec<v1::Enrolment>,
        remove: Vec<String>,
    ) -> Result<v1::KmsDone, tonic::Status> {
        let single_use_id = random::<16>();
        let mut request = v1::ChangeEnrolmentRequest {
            add,
            remove,
            single_use_id: single_use_id.to_vec().into(),
            ..v1::ChangeEnrolmentRequest::default()
        };
        let hash = request_hash("ChangeEnrolment", &request);
        let expires = UnixMs(now().0 + 60_000);
        let by = |name| approve(self.people.local(name), hash, single_use_id, expires);
        request.approvals = vec![by("op-2"), by("op-3")];
        let operator = self.caller("op-1");
        let changed = operator.at_leader(|at| {
            let (mut operate, request) = (operator.operate(at), request.clone());
            async move { Ok(operate.change_enrolment(request).await?.into_inner()) }
        });
        changed.await
    }

    /// The replica at a place; it must be running.
    pub(crate) fn replica(&self, at: usize) -> &Replica {
        self.places[at].replica.as_ref().expect("running")
    }

    /// Waits until a majority agrees on a leader, and answers its place.
    pub(crate) async fn leader(&self) -> usize {
        let running = self
            .places
            .iter()
            .filter_map(|place| place.replica.as_ref());
        let led = futures::future::select_all(
            running.map(|replica| Box::pin(async { replica.group().led().await })),
        );
        let (leader, ..) = tokio::time::timeout(PATIENCE, led)
            .await
            .expect("a leader in time");
        let leader = leader.expect("a running group");
        let place = self
            .places
            .iter()
            .position(|place| place.config.node_id == leader.0);
        place.expect("one of ours")
    }

    /// Ends a replica as a kill does.
    pub(crate) async fn kill(&mut self, at: usize) {
        let replica = self.places[at].replica.take().expect("running");
        replica.abandon().await;
    }

    /// Ends every replica at once: between one and the next nobody has the time to lead the others on.
    pub(crate) async fn kill_all(&mut self) {
        let replicas = self
            .places
            .iter_mut()
            .filter_map(|place| place.replica.take());
        futures::future::join_all(replicas.map(Replica::abandon)).await;
    }

    /// Waits until every replica has applied the same.
    pub(crate) async fn level(&self) {
        loop {
            let statuses = (0..self.places.len()).map(|at| self.status(at));
            let statuses = futures::future::join_all(statuses).await;
            let applied = |at: usize| statuses[at].applied_index;
            if (1..statuses.len()).all(|at| applied(at) == applied(0)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a replica in its place again: sealed.
    pub(crate) async fn restart(&mut self, at: usize) {
        let parts = self.parts();
        let place = &mut self.places[at];
        assert!(place.replica.is_none(), "killed before");
        let replica = Replica::start(place.config.clone(), parts).await;
        place.replica = Some(replica.expect("a replica starts again"));
    }

    fn parts(&self) -> Parts {
        Parts {
            clock: self.clock.clone(),
            tuning: self.tuning.clone(),
            ..Parts::default()
        }
    }

    pub(crate) async fn status(&self, at: usize) -> v1::KmsStatusReply {
        let caller = self.caller("op-1");
        caller
            .kms(at)
            .status(v1::KmsStatusRequest {})
            .await
            .expect("status")
            .into_inner()
    }

    /// An approval of the peer unseal of a replica as it stands now, by one operator.
    pub(crate) async fn unseal_approval(
        &self,
        at: usize,
        approver: &str,
    ) -> v1::ApprovePeerUnsealRequest {
        let status = self.status(at).await;
        let identity: Identity = status.identity.parse().expect("an identity");
        let hash = unseal_hash(&identity, &status.boot_id, &status.unseal_offer_hash);
        // Region time may be set ahead by weeks.
        let expires_at = UnixMs(now().0 + 60 * 24 * 3_600_000);
        let approval = approve(self.people.local(approver), hash, random(), expires_at);
        v1::ApprovePeerUnsealRequest {
            boot_id: status.boot_id,
            approval: Some(approval),
        }
    }

    /// Unseals a replica by its peers, with the word of a second operator.
    pub(crate) async fn unseal_by_peer(
        &self,
        at: usize,
    ) -> Result<v1::ApprovePeerUnsealReply, tonic::Status> {
        let request = self.unseal_approval(at, "op-2").await;
        let reply = self
            .caller("op-1")
            .operate(at)
            .approve_peer_unseal(request)
            .await?;
        Ok(reply.into_inner())
    }

    /// Unseals a replica by as many custodians as it takes.
    pub(crate) async fn unseal_by_custodians(
        &self,
        at: usize,
        custodians: usize,
    ) -> v1::UnsealReply {
        let mut last = v1::UnsealReply::default();
        for share in &self.shares[..custodians] {
            last = self.give_share(at, share).await.expect("a share is taken");
        }
        last
    }

    /// One custodian opens its share and gives it to a replica, sealed to the session.
    pub(crate) async fn give_share(
        &self,
        at: usize,
        share: &v1::SealedShare,
    ) -> Result<v1::UnsealReply, tonic::Status> {
        let custodian: Identity = share.custodian.parse().expect("an identity");
        let opened = self.people.open_share(share);
        let caller = self.caller(custodian.name());
        let session = caller.session(at).await?;
        let sealed = session.seal_share(&caller, &opened);
        let request = v1::UnsealRequest {
            session_id: session.id.clone(),
            sealed_share: sealed.into(),
        };
        Ok(caller.operate(at).unseal(request).await?.into_inner())
    }

    /// Stops every replica that runs.
    pub(crate) async fn stop(self) -> TempDir {
        self.lost().await.0
    }

    /// Stops every replica that runs; the people stay.
    pub(crate) async fn lost(mut self) -> (TempDir, People) {
        for place in &mut self.places {
            if let Some(replica) = place.replica.take() {
                replica.abandon().await;
            }
        }
        (self.dir, self.people)
    }

    /// Cuts a replica off from its peers in both directions; its callers still reach it.
    pub(crate) fn cut_off(&self, at: usize) {
        for (other, place) in self.places.iter().enumerate() {
            if other != at {
                place.proxy.cut();
            }
        }
        self.places[at].proxy.cut();
    }

    pub(crate) fn heal(&self) {
        self.places.iter().for_each(|place| place.proxy.heal());
    }
}

/// The configuration of a replica, its files written.
fn config(
    dir: &Path,
    people: &People,
    genesis: &v1::SignedEnrolmentSet,
    name: &str,
    listen: SocketAddr,
) -> Config {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let key = folder.join("key.pem");
    people.write_key(name, &key);
    Config {
        region: people.region().clone(),
        jurisdiction: people.jurisdiction().parse().expect("a jurisdiction"),
        node_id: people.enrolment(name).node_id,
        data_dir: folder.join("data"),
        listen,
        advertise: String::new(),
        certificate: file("cert.pem", people.certificate(name).as_bytes()),
        key,
        ca: file("ca.pem", people.ca_pem().as_bytes()),
        genesis: file("genesis.set", &prost::Message::encode_to_vec(genesis)),
        health_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        log_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        federation_listen: None,
        federation_advertise: String::new(),
        join: false,
        found: true,
        nodes: Vec::new(),
        lease_seconds_max: 3600,
        request_ms_max: 10_000,
        seal: kms::SealConfig::default(),
        log_format: LogFormat::Text,
        log: "info".to_owned(),
        otlp: None,
    }
}

/// A plain HTTP request to a replica's health port: status line and body.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (
        head.lines().next().unwrap_or_default().to_owned(),
        body.to_owned(),
    )
}

/// A member id by place.
pub(crate) fn member(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

/// A client of a channel's public service.
pub(crate) fn kms_of(channel: Channel) -> KmsClient<Channel> {
    KmsClient::new(channel)
}

/// A client of a channel's operators' service.
pub(crate) fn operate_of(channel: Channel) -> KmsOperateClient<Channel> {
    KmsOperateClient::new(channel)
}

/// Why a status says it was refused.
pub(crate) fn reason(status: &tonic::Status) -> &str {
    transport::fault::reason(status).unwrap_or("none")
}

/// The role part of a name such as `kms-1`.
pub(crate) fn role_of(name: &str) -> Role {
    match name.split('-').next() {
        Some("kms") => Role::Kms,
        Some("op") => Role::Operator,
        Some("custodian") => Role::Custodian,
        Some("auditor") => Role::Auditor,
        Some("node") => Role::Node,
        Some("gateway") => Role::Gateway,
        _ => Role::Client,
    }
}
