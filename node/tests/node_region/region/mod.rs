//! A region of real nodes in one process, over loopback TLS, with a KMS that only signs.
//!
//! Owns identities, enrolments and the way to a leader. The KMS here holds a real enrolled key, signs real tokens and
//! serves enrolment sets; it keeps no keys of data.

#![allow(unreachable_pub, dead_code, reason = "shared by several test targets")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use node::{Config, LogFormat, Node, Parts};
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{
    DatasetId, GroupId, Identity, NodeId, RegionId, RequestId, Role, UnixMs, UploadEpoch,
};
use proto::transcript;
use proto::v1;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::node_operate_client::NodeOperateClient;
use proto::v1::shard_client::ShardClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::transport::Channel;
use transport::ca::Request as CertificateRequest;
use transport::enrolment::{SetContents, new_set, sign_set};
use transport::{
    Acceptor, Clock as _, Connector, Enrolments, Expect, Fault, KeyExchange, KeyPair, Lane,
    LocalIdentity, RegionCa, SharedClock, SystemClock,
};

pub mod abroad;
pub mod mover;

pub const DATASET: DatasetId = DatasetId([0xD5; 16]);
pub const KEK: [u8; 16] = [0x6B; 16];
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any clock of a test is off.
const VALIDITY: Duration = Duration::from_secs(20 * 365 * 86_400);

/// What the region's KMS would keep in its state.
struct Authority {
    version: u64,
    enrolments: Vec<v1::Enrolment>,
    grants: Vec<v1::Grant>,
    policy: String,
    service_principals: Vec<String>,
    trusted_regions: Vec<v1::TrustedRegion>,
    descriptor: Option<v1::SignedRegionDescriptor>,
}

pub struct Region {
    id: RegionId,
    dir: TempDir,
    ca: RegionCa,
    identities: BTreeMap<String, LocalIdentity>,
    authority: Arc<Mutex<Authority>>,
    genesis: v1::SignedEnrolmentSet,
    kms: SocketAddr,
    nodes: BTreeMap<u64, (SocketAddr, Option<Node>)>,
    clocks: BTreeMap<u64, Arc<OffClock>>,
    // Their configuration says so for ever.
    joined: BTreeSet<u64>,
    full_percent: u64,
    /// Whether its nodes listen for other regions.
    federated: bool,
    /// Connections to nodes of other regions: by caller, region and node.
    abroad: Mutex<BTreeMap<(String, String, u64), Channel>>,
    _kms: JoinHandle<()>,
}

/// The system's clock, and what a node's is ahead of it.
#[derive(Debug, Default)]
struct OffClock {
    ahead_ms: AtomicU64,
}

impl transport::Clock for OffClock {
    fn now(&self) -> UnixMs {
        UnixMs(SystemClock.now().0 + self.ahead_ms.load(Ordering::SeqCst))
    }
}

pub fn region_id() -> RegionId {
    "ch-zrh".parse().expect("a region id")
}

pub fn identity(role: Role, name: &str) -> Identity {
    identity_in(&region_id(), role, name)
}

pub fn identity_in(region: &RegionId, role: Role, name: &str) -> Identity {
    Identity::new(region.clone(), role, name).expect("a name")
}

impl Region {
    /// `nodes` storage nodes, enrolled from the beginning, running, not founded.
    pub async fn start(nodes: u64) -> Self {
        Self::start_in(region_id(), false, nodes).await
    }

    async fn start_in(id: RegionId, federated: bool, nodes: u64) -> Self {
        let now = SystemClock.now();
        let ca = RegionCa::create(id.clone(), now, VALIDITY).expect("a CA");
        let dir = tempfile::tempdir().expect("a folder");
        let kms_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let kms = kms_listener.local_addr().expect("bound");
        let mut region = Self {
            id,
            federated,
            abroad: Mutex::default(),
            identities: BTreeMap::new(),
            authority: Arc::new(Mutex::new(Authority {
                version: 1,
                enrolments: Vec::new(),
                grants: vec![
                    grant("role:client", &[v1::Action::Create, v1::Action::List]),
                    grant("role:client", &[v1::Action::Read, v1::Action::Write]),
                    grant("role:operator", &[v1::Action::List]),
                ],
                policy: String::new(),
                service_principals: Vec::new(),
                trusted_regions: Vec::new(),
                descriptor: None,
            })),
            genesis: v1::SignedEnrolmentSet::default(),
            nodes: BTreeMap::new(),
            clocks: BTreeMap::new(),
            joined: BTreeSet::new(),
            full_percent: 98,
            kms,
            dir,
            ca,
            _kms: tokio::spawn(std::future::pending()),
        };
        region.enrol(Role::Kms, "k1", 1, &kms.to_string());
        for name in ["c1", "c2"] {
            region.enrol(Role::Client, name, 0, "");
        }
        let people = if federated {
            &["o1", "o2", "o3"][..]
        } else {
            &["o1"]
        };
        for name in people {
            region.enrol(Role::Operator, name, 0, "");
        }
        region.enrol(Role::Gateway, "g1", 0, "");
        if federated {
            region.enrol(Role::Gateway, "g2", 0, "");
        }
        let mut listeners = Vec::new();
        for id in 1..=nodes {
            listeners.push((id, region.enrol_node(id).await));
        }
        region.genesis = region.ca.sign_set(&region.set(1)).expect("the first set");
        region.serve_kms(kms_listener);
        // Together, as machines start: each waits for the others a little.
        let starting = listeners.into_iter().map(|(id, listener)| {
            let (config, clock) = (region.config(id, false), region.clock(id));
            async move { (id, start(config, clock, Some(listener)).await) }
        });
        for (id, node) in futures::future::join_all(starting).await {
            region.nodes.get_mut(&id).expect("enrolled above").1 = Some(node);
        }
        region
    }

    /// As [`Region::start`], founded, with the dataset `cti` and a lease of `c1`.
    pub async fn with_dataset(nodes: u64) -> Self {
        let region = Self::start(nodes).await;
        region.found().await;
        region.create_dataset().await.expect("a new dataset");
        region.register("c1", LEASE).await.expect("a good token");
        region
    }

    fn enrol(&mut self, role: Role, name: &str, node_id: u64, endpoint: &str) {
        let identity = identity_in(&self.id, role, name);
        let key = KeyPair::generate();
        let certificate = self
            .ca
            .issue(&CertificateRequest {
                identity: &identity,
                public_key: key.public_key(),
                dns_names: &[],
                ip_addresses: &[],
                now: SystemClock.now(),
                validity: VALIDITY,
            })
            .expect("a certificate");
        std::fs::write(self.file(name, "pem"), &certificate).expect("written");
        key.write_new(&self.file(name, "key")).expect("written");
        let local = LocalIdentity::new(certificate.as_bytes(), key).expect("they belong together");
        self.authority.lock().enrolments.push(v1::Enrolment {
            identity: identity.to_string(),
            public_key: Bytes::copy_from_slice(local.public_key().as_spki()),
            node_id,
            endpoint: endpoint.to_owned(),
            jurisdiction: "CH".to_owned(),
            ..Default::default()
        });
        self.identities.insert(name.to_owned(), local);
    }

    async fn enrol_node(&mut self, id: u64) -> TcpListener {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        self.enrol(Role::Node, &format!("n{id}"), id, &address.to_string());
        self.nodes.insert(id, (address, None));
        self.clocks.insert(id, Arc::default());
        listener
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.{extension}"))
    }

    fn set(&self, version: u64) -> v1::EnrolmentSet {
        set(&self.ca, &self.authority.lock(), version)
    }

    fn serve_kms(&mut self, listener: TcpListener) {
        let signer = self.identities["k1"].clone();
        let enrolments =
            Enrolments::bootstrap(self.ca.trust(), &self.genesis, SystemClock::shared());
        let enrolments = enrolments.expect("the CA's own set");
        let acceptor = Acceptor::new(&signer, enrolments.clone(), KeyExchange::HybridOnly);
        let ca = RegionCa::from_pem(
            self.id.clone(),
            self.ca.certificate_pem().to_owned(),
            KeyPair::from_pem(&self.ca.key().to_pem()).expect("its own key"),
        );
        let fetch = FetchOnly(Arc::new(Kms {
            ca: ca.expect("its own certificate"),
            signer,
            enrolments,
            authority: self.authority.clone(),
        }));
        let router = transport::server().add_service(fetch);
        self._kms = tokio::spawn(async move {
            router
                .serve_with_incoming(acceptor.incoming(listener))
                .await
                .expect("served");
        });
    }

    /// Changes what is enrolled or granted, as the KMS does: the next version.
    pub fn change(&self, change: impl FnOnce(&mut Vec<v1::Enrolment>, &mut Vec<v1::Grant>)) {
        let mut authority = self.authority.lock();
        let Authority {
            enrolments, grants, ..
        } = &mut *authority;
        change(enrolments, grants);
        authority.version += 1;
    }

    /// Names the service principals that have an enabled access key, as the KMS does.
    pub fn set_service_principals(&self, names: &[&str]) {
        let mut authority = self.authority.lock();
        let principals = names
            .iter()
            .map(|name| identity_in(&self.id, Role::Service, name));
        authority.service_principals = principals.map(|named| named.to_string()).collect();
        authority.version += 1;
    }

    /// Puts a policy text in force, as the KMS does: the grants end.
    pub fn set_policy(&self, text: &str) {
        let mut authority = self.authority.lock();
        authority.grants.clear();
        authority.policy = text.to_owned();
        authority.version += 1;
    }

    fn config(&self, id: u64, join: bool) -> Config {
        let name = format!("n{id}");
        let genesis = self.dir.path().join("genesis.set");
        std::fs::write(&genesis, self.genesis.encode_to_vec()).expect("written");
        std::fs::write(self.file("ca", "pem"), self.ca.certificate_pem()).expect("written");
        Config {
            region: self.id.clone(),
            jurisdiction: "CH".parse().expect("a jurisdiction"),
            node_id: id,
            data_dir: self.dir.path().join(&name),
            listen: self.nodes[&id].0,
            advertise: String::new(),
            certificate: self.file(&name, "pem"),
            key: self.file(&name, "key"),
            ca: self.file("ca", "pem"),
            genesis,
            kms: vec![self.kms.to_string()],
            health_listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
            federation_listen: self.federated.then(|| (Ipv4Addr::LOCALHOST, 0).into()),
            federation_advertise: String::new(),
            join,
            found: !join,
            full_percent: self.full_percent,
            reserve_bytes: 0,
            upload_bytes_max: 64 << 20,
            scrub_bytes_per_s: 0,
            upload_epoch_seconds: 3600,
            log_format: LogFormat::Text,
            log: "info".to_owned(),
            otlp: None,
        }
    }

    fn clock(&self, id: u64) -> SharedClock {
        self.clocks[&id].clone()
    }

    /// From now on a node's clock is ahead of the others' by this much.
    pub fn set_clock_ahead(&self, id: NodeId, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("it fits");
        self.clocks[&id.0].ahead_ms.store(by, Ordering::SeqCst);
    }

    pub fn node(&self, id: u64) -> &Node {
        self.nodes[&id].1.as_ref().expect("it runs")
    }

    /// Ends a node as kill -9 does.
    pub async fn kill(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("enrolled").1.take();
        node.expect("it runs").abandon().await;
    }

    pub async fn restart(&mut self, id: u64) {
        let config = self.config(id, self.joined.contains(&id));
        let node = start(config, self.clock(id), None).await;
        self.nodes.get_mut(&id).expect("enrolled").1 = Some(node);
    }

    /// From now on nobody gives an enrolment set.
    pub fn end_kms(&self) {
        self._kms.abort();
    }

    /// Restarts every node with another mark of a full disk.
    pub async fn restart_all_full_at(&mut self, percent: u64) {
        self.full_percent = percent;
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.kill(id).await;
            self.restart(id).await;
        }
    }

    /// Enrols and starts a new node that joins; it is in no group yet.
    pub async fn start_new(&mut self, id: u64) {
        let listener = self.enrol_node(id).await;
        self.joined.insert(id);
        self.authority.lock().version += 1;
        let (config, clock) = (self.config(id, true), self.clock(id));
        let node = start(config, clock, Some(listener)).await;
        self.nodes.get_mut(&id).expect("enrolled").1 = Some(node);
    }

    pub async fn found(&self) {
        let groups = self
            .on_leader("o1", GroupId::CATALOG, |channel| async move {
                let request = v1::FoundRequest { shards: 1 };
                Ok(NodeOperateClient::new(channel)
                    .found(request)
                    .await?
                    .into_inner()
                    .groups)
            })
            .await
            .expect("founded");
        assert_eq!(groups, [GroupId::CATALOG.0, SHARD]);
    }

    pub async fn create_dataset(&self) -> Result<v1::DatasetInfo, Status> {
        self.create("cti", DATASET).await
    }

    pub async fn create(&self, name: &str, id: DatasetId) -> Result<v1::DatasetInfo, Status> {
        self.on_leader("c1", GroupId::CATALOG, |channel| {
            let request = v1::CreateDatasetRequest {
                name: name.to_owned(),
                dataset_id: id.into(),
                kek_id: Bytes::from_static(&KEK),
                kek_version: 1,
                versioning: false,
                pseudonym: Bytes::from_static(&[0x9D; 16]),
                key_state_version: 1,
            };
            async move {
                Ok(CatalogClient::new(channel)
                    .create_dataset(request)
                    .await?
                    .into_inner())
            }
        })
        .await
    }

    /// A token as the KMS signs it.
    pub fn token(
        &self,
        holder: &str,
        lease: [u8; 16],
        spoil: impl FnOnce(&mut v1::LeaseHeader),
    ) -> v1::LeaseToken {
        let now = SystemClock.now().0;
        let key = self.identities[holder].public_key();
        let mut header = v1::LeaseHeader {
            format: 1,
            region: self.id.to_string(),
            dataset_id: DATASET.into(),
            dataset_epoch: 1,
            kek_id: Bytes::from_static(&KEK),
            kek_version: 1,
            lease_id: Bytes::copy_from_slice(&lease),
            holder: Bytes::copy_from_slice(digest(&SHA256, key.as_spki()).as_ref()),
            issued_at_ms: now,
            expires_at_ms: now + 3_600_000,
        };
        spoil(&mut header);
        self.sign_token("k1", header.encode_to_vec())
    }

    pub fn sign_token(&self, signer: &str, header: Vec<u8>) -> v1::LeaseToken {
        let signer = &self.identities[signer];
        let wrapped = Bytes::from_static(b"wrapped lease key");
        let signed = transcript::lease_token(&header, &wrapped);
        v1::LeaseToken {
            signature: Bytes::copy_from_slice(&signer.sign(transcript::LABEL_LEASE_TOKEN, &signed)),
            signer: Bytes::copy_from_slice(signer.public_key().as_spki()),
            header: header.into(),
            wrapped,
        }
    }

    /// A warrant for a restore, as the KMS signs it.
    pub fn sign_warrant(&self, signer: &str, body: &v1::RestoreWarrantBody) -> v1::RestoreWarrant {
        let (signer, body) = (&self.identities[signer], body.encode_to_vec());
        let signature = signer.sign(transcript::LABEL_RESTORE_WARRANT, &body);
        v1::RestoreWarrant {
            body: body.into(),
            signer: Bytes::copy_from_slice(signer.public_key().as_spki()),
            signature: Bytes::copy_from_slice(&signature),
        }
    }

    pub async fn register(&self, holder: &str, lease: [u8; 16]) -> Result<v1::Done, Status> {
        let token = self.token(holder, lease, |_| {});
        self.register_token(holder, token).await
    }

    pub async fn register_token(
        &self,
        caller: &str,
        token: v1::LeaseToken,
    ) -> Result<v1::Done, Status> {
        self.write(caller, |mut shard| {
            let request = v1::RegisterLeaseRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                token: token.encode_to_vec().into(),
            };
            async move { Ok(shard.register_lease(request).await?.into_inner()) }
        })
        .await
    }

    pub async fn put(
        &self,
        caller: &str,
        request: v1::PutObjectRequest,
    ) -> Result<v1::Done, Status> {
        self.write(caller, |mut shard| {
            let request = request.clone();
            async move { Ok(shard.put_object(request).await?.into_inner()) }
        })
        .await
    }

    pub async fn delete(
        &self,
        caller: &str,
        request: v1::DeleteObjectRequest,
    ) -> Result<v1::Done, Status> {
        self.write(caller, |mut shard| {
            let request = request.clone();
            async move { Ok(shard.delete_object(request).await?.into_inner()) }
        })
        .await
    }

    pub async fn get(&self, caller: &str, key: &str) -> Result<v1::GetObjectReply, Status> {
        self.on_leader(caller, GroupId(SHARD), |channel| {
            let request = v1::GetObjectRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                key: key.to_owned(),
                ..Default::default()
            };
            async move {
                Ok(ShardClient::new(channel)
                    .get_object(request)
                    .await?
                    .into_inner())
            }
        })
        .await
    }

    pub async fn write<F, Fut>(&self, caller: &str, call: F) -> Result<v1::Done, Status>
    where
        F: Fn(ShardClient<Channel>) -> Fut,
        Fut: Future<Output = Result<v1::ShardAnswer, Status>>,
    {
        let answer = self
            .on_leader(caller, GroupId(SHARD), |channel| {
                call(ShardClient::new(channel))
            })
            .await?;
        match answer.answer {
            Some(v1::shard_answer::Answer::Done(done)) => Ok(done),
            other => panic!("a refusal is a status, not {other:?}"),
        }
    }

    /// A channel to a node as one of the identities.
    pub fn channel(&self, caller: &str, node: u64) -> Channel {
        let local = self.identities[caller].clone();
        let connector = Connector::pinned(local, self.ca.trust(), KeyExchange::HybridOnly);
        let endpoint = self.nodes[&node].0.to_string();
        let expect = Expect::Identity(identity_in(&self.id, Role::Node, &format!("n{node}")));
        connector
            .channel_lazy(&endpoint, expect, Lane::Control)
            .expect("an endpoint")
    }

    /// Calls the nodes in turn until one answers for the group or refuses for good.
    pub async fn on_leader<T, F, Fut>(
        &self,
        caller: &str,
        group: GroupId,
        call: F,
    ) -> Result<T, Status>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let running = || {
            self.nodes
                .iter()
                .filter(|(_, (_, node))| node.is_some())
                .map(|(id, _)| *id)
        };
        let mut turn = 0;
        let mut next = self.leader(group).map(|id| id.0);
        loop {
            let at = running()
                .nth(turn % running().count())
                .expect("a node runs");
            let at = next
                .take()
                .filter(|id| running().any(|other| other == *id))
                .unwrap_or(at);
            let limit = deadline.saturating_duration_since(Instant::now());
            let answer = tokio::time::timeout(limit, call(self.channel(caller, at))).await;
            let status = match answer {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(status)) => status,
                Err(_) => panic!("group {group} did not answer in time"),
            };
            let fault = Fault::of(&status);
            if !fault.retriable() && fault != Fault::Unknown {
                return Err(status);
            }
            assert!(Instant::now() < deadline, "group {group}: {status:?}");
            next = transport::fault::leader_hint(&status).map(|hint| hint.id.0);
            turn += 1;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Who leads a group, as a running node sees it.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let mut nodes = self.nodes.values().filter_map(|(_, node)| node.as_ref());
        nodes.find_map(|node| {
            let groups = node.groups();
            groups
                .iter()
                .find(|held| held.id() == group && held.is_leader())?;
            Some(groups[0].node_id())
        })
    }

    /// Waits until `done` says so.
    pub async fn until<Fut: Future<Output = bool>>(&self, what: &str, done: impl Fn() -> Fut) {
        let deadline = Instant::now() + PATIENCE;
        while !done().await {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn stop(mut self) {
        let nodes: Vec<_> = self
            .nodes
            .values_mut()
            .filter_map(|(_, node)| node.take())
            .collect();
        futures::future::join_all(nodes.into_iter().map(Node::stop)).await;
        self._kms.abort();
    }
}

pub const SHARD: u64 = GroupId::FIRST_SHARD;
pub const LEASE: [u8; 16] = [0x1E; 16];

async fn start(config: Config, clock: SharedClock, listener: Option<TcpListener>) -> Node {
    let parts = Parts {
        clock: Some(clock),
        listener,
        ..Parts::default()
    };
    Node::start(config, parts).await.expect("the node starts")
}

pub fn grant(principal: &str, actions: &[v1::Action]) -> v1::Grant {
    v1::Grant {
        principal: principal.to_owned(),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| (*action).into()).collect(),
        purposes: Vec::new(),
    }
}

pub fn request_id(n: u8) -> Bytes {
    let id = RequestId {
        epoch: UploadEpoch(0),
        nonce: [n; 16],
    };
    Bytes::copy_from_slice(&id.to_bytes())
}

pub fn entry(version: u8) -> v1::ObjectEntry {
    v1::ObjectEntry {
        format: 1,
        version_id: Bytes::copy_from_slice(&[version; 16]),
        lease_id: Bytes::from_static(&LEASE),
        dek_salt: Bytes::from_static(&[1; 32]),
        name_salt: Bytes::from_static(&[2; 32]),
        plain_bytes: 5,
        sealed_manifest: Bytes::from_static(b"sealed manifest"),
        placement: 1,
        ..Default::default()
    }
}

pub fn put(key: &str, version: u8) -> v1::PutObjectRequest {
    v1::PutObjectRequest {
        shard: SHARD,
        request_id: request_id(version),
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: None,
        entry: Some(v1::ObjectEntry {
            inline: Bytes::from_static(b"sealed bytes"),
            sealed_bytes: 12,
            ..entry(version)
        }),
    }
}

pub fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.expect_err("to be refused");
    transport::fault::reason(&status)
        .unwrap_or("none")
        .to_owned()
}

fn set(ca: &RegionCa, authority: &Authority, version: u64) -> v1::EnrolmentSet {
    let contents = SetContents {
        jurisdiction: "CH".parse().expect("a jurisdiction"),
        version,
        signed_at: SystemClock.now(),
        enrolments: authority.enrolments.clone(),
        grants: authority.grants.clone(),
        approvals_min: 2,
    };
    v1::EnrolmentSet {
        policy: authority.policy.clone(),
        service_principals: authority.service_principals.clone(),
        trusted_regions: authority.trusted_regions.clone(),
        descriptor: authority.descriptor.clone(),
        ..new_set(&ca.trust(), contents)
    }
}

struct Kms {
    ca: RegionCa,
    signer: LocalIdentity,
    enrolments: Enrolments,
    authority: Arc<Mutex<Authority>>,
}

impl Kms {
    /// The set in force, signed now; the first one is the CA's.
    fn sign(&self) -> v1::SignedEnrolmentSet {
        let authority = self.authority.lock();
        if authority.version == 1 {
            return self.enrolments.current().signed().clone();
        }
        let signed = sign_set(&self.signer, &set(&self.ca, &authority, authority.version));
        self.enrolments.offer(&signed).expect("its own set");
        signed
    }
}

/// `Kms.FetchEnrolments` and nothing else.
#[derive(Clone)]
struct FetchOnly(Arc<Kms>);

impl tonic::server::NamedService for FetchOnly {
    const NAME: &'static str = "reduit.v1.Kms";
}

impl tonic::server::UnaryService<v1::FetchEnrolmentsRequest> for FetchOnly {
    type Response = v1::SignedEnrolmentSet;
    type Future = BoxFuture<tonic::Response<Self::Response>, Status>;

    fn call(&mut self, _: tonic::Request<v1::FetchEnrolmentsRequest>) -> Self::Future {
        let signed = self.0.sign();
        Box::pin(async move { Ok(tonic::Response::new(signed)) })
    }
}

impl Service<http::Request<tonic::body::Body>> for FetchOnly {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/reduit.v1.Kms/FetchEnrolments" {
                return Ok(Status::unimplemented("not here").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
            Ok(grpc.unary(this, request).await)
        })
    }
}
