//! Our side: credentials for three members and a client, the member process, and how it is started.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::ids::{GroupId, Identity, NodeId, RegionId, Role, UnixMs};
use proto::v1;
use tonic::transport::Channel;
use transport::{
    Acceptor, Clock, Connector, Enrolments, Expect, KeyExchange, KeyPair, Lane, LocalIdentity,
    RegionCa, RegionTrust, SystemClock,
};

use super::kv::{Kv, KvServer, Maintenance};
use super::{BenchError, Plan, Process, io, loader};
use crate::disk::RealDisk;
use crate::host::{Admission, Host, HostOptions, Tuning};
use crate::log::LogOptions;
use crate::net::TonicDialer;
use crate::state::StateOptions;

const GROUP: GroupId = GroupId(16);
const MEMBERS: u64 = 3;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What the coordinator knows of the region.
pub(crate) struct Region {
    pub(crate) endpoints: Vec<String>,
    pub(crate) ca_pem: PathBuf,
}

/// Running members and channels to their leader.
pub(crate) struct Cluster {
    pub(crate) channels: Vec<Channel>,
    _processes: Vec<Process>,
}

fn failed(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error>) -> BenchError {
    move |e| BenchError::Failed(format!("{what}: {e}"))
}

fn boxed<E: std::error::Error + 'static>(e: E) -> Box<dyn std::error::Error> {
    Box::new(e)
}

fn region() -> RegionId {
    "ch-zrh".parse().expect("a valid region")
}

fn identity(role: Role, name: &str) -> Identity {
    Identity::new(region(), role, name).expect("a valid name")
}

/// A free port, which somebody else may take before it is used; then the run fails and is repeated.
pub(crate) fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io("no free port"))?;
    Ok(listener.local_addr().map_err(io("no free port"))?.port())
}

fn issue(
    ca: &RegionCa,
    dir: &Path,
    name: &str,
    identity: &Identity,
    now: UnixMs,
) -> Result<KeyPair, BenchError> {
    let key = KeyPair::generate();
    let request = transport::ca::Request {
        identity,
        public_key: key.public_key(),
        dns_names: &["localhost".to_owned()],
        ip_addresses: &[std::net::IpAddr::from([127, 0, 0, 1])],
        now,
        validity: YEAR,
    };
    let pem = ca
        .issue(&request)
        .map_err(boxed)
        .map_err(failed("a certificate"))?;
    std::fs::write(dir.join(format!("{name}.pem")), pem).map_err(io("a certificate"))?;
    key.write_new(&dir.join(format!("{name}.key")))
        .map_err(boxed)
        .map_err(failed("a key"))?;
    Ok(key)
}

/// Makes CA, keys, certificates and the enrolment set in `dir`.
pub(crate) fn prepare(dir: &Path) -> Result<Region, BenchError> {
    let now = SystemClock.now();
    let ca = RegionCa::create(region(), now, YEAR)
        .map_err(boxed)
        .map_err(failed("a CA"))?;
    let ca_pem = dir.join("ca.pem");
    std::fs::write(&ca_pem, ca.certificate_pem()).map_err(io("the CA certificate"))?;
    let (mut enrolled, mut endpoints) = (Vec::new(), Vec::new());
    for id in 1..=MEMBERS {
        let name = format!("n{id}");
        let identity = identity(Role::Node, &name);
        let key = issue(&ca, dir, &name, &identity, now)?;
        let endpoint = format!("127.0.0.1:{}", free_port()?);
        endpoints.push(endpoint.clone());
        enrolled.push(v1::Enrolment {
            identity: identity.to_string(),
            public_key: key.public_key().as_spki().to_vec().into(),
            node_id: id,
            endpoint,
            jurisdiction: "CH".into(),
            ..Default::default()
        });
    }
    let loader = identity(Role::Client, "loader");
    let key = issue(&ca, dir, "loader", &loader, now)?;
    enrolled.push(v1::Enrolment {
        identity: loader.to_string(),
        public_key: key.public_key().as_spki().to_vec().into(),
        ..Default::default()
    });
    // For etcd, which asks for a certificate of the same CA.
    issue(&ca, dir, "etcd", &identity(Role::Node, "etcd"), now)?;
    let contents = transport::enrolment::SetContents {
        jurisdiction: "CH".parse().expect("a valid jurisdiction"),
        version: 1,
        signed_at: now,
        enrolments: enrolled,
        grants: Vec::new(),
        approvals_min: 2,
    };
    let set = transport::enrolment::new_set(&ca.trust(), contents);
    let signed = ca
        .sign_set(&set)
        .map_err(boxed)
        .map_err(failed("the enrolment set"))?;
    std::fs::write(dir.join("set.bin"), signed.encode_to_vec()).map_err(io("the set"))?;
    Ok(Region { endpoints, ca_pem })
}

fn enrolments(dir: &Path) -> Result<Enrolments, BenchError> {
    let trust = RegionTrust::load(region(), &dir.join("ca.pem"))
        .map_err(boxed)
        .map_err(failed("the CA certificate"))?;
    let bytes = std::fs::read(dir.join("set.bin")).map_err(io("the set"))?;
    let signed = v1::SignedEnrolmentSet::decode(bytes.as_slice())
        .map_err(boxed)
        .map_err(failed("the set"))?;
    Enrolments::bootstrap(trust, &signed, SystemClock::shared())
        .map_err(boxed)
        .map_err(failed("the set"))
}

fn local(dir: &Path, name: &str) -> Result<LocalIdentity, BenchError> {
    LocalIdentity::load(
        &dir.join(format!("{name}.pem")),
        &dir.join(format!("{name}.key")),
    )
    .map_err(boxed)
    .map_err(failed("an identity"))
}

/// Starts the three members and connects to their leader.
pub(crate) async fn start(plan: &Plan, region: &Region) -> Result<Cluster, BenchError> {
    let mut processes = Vec::new();
    for id in 1..=MEMBERS {
        let log =
            std::fs::File::create(plan.dir.join(format!("n{id}.log"))).map_err(io("a log file"))?;
        let child = Command::new(&plan.program)
            .arg("node")
            .arg(id.to_string())
            .arg(&plan.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(io("a member could not be started"))?;
        processes.push(Process(child));
    }
    let connector = Connector::new(
        local(&plan.dir, "loader")?,
        enrolments(&plan.dir)?,
        KeyExchange::HybridOnly,
    );
    let endpoints = region.endpoints.iter().map(|endpoint| {
        let (connector, endpoint) = (connector.clone(), endpoint.clone());
        Arc::new(move || {
            connector
                .channel_lazy(&endpoint, Expect::Role(Role::Node), Lane::Data)
                .map_err(boxed)
                .map_err(failed("a channel"))
        }) as Arc<dyn Fn() -> Result<Channel, BenchError> + Send + Sync>
    });
    let channels = loader::to_leader(endpoints.collect()).await?;
    Ok(Cluster {
        channels,
        _processes: processes,
    })
}

/// Arguments of a member process.
#[derive(Debug, Clone)]
pub struct NodeArguments {
    /// Which of the three.
    pub id: u64,
    /// The folder that the coordinator prepared.
    pub dir: PathBuf,
}

/// Runs one member until the process is killed.
pub async fn serve(arguments: NodeArguments) -> Result<(), BenchError> {
    let NodeArguments { id, dir } = arguments;
    let local = local(&dir, &format!("n{id}"))?;
    let enrolments = enrolments(&dir)?;
    let node = NodeId(id);
    let own = enrolments
        .by_node_id(Role::Node, node)
        .ok_or_else(|| BenchError::Failed("not enrolled".into()))?;
    let connector = Connector::new(local.clone(), enrolments.clone(), KeyExchange::HybridOnly);
    let dialer = TonicDialer::new(connector, enrolments.clone(), Role::Node, node);
    let options = HostOptions {
        node_id: node,
        identity: local.identity().clone(),
        jurisdiction: "CH".parse().expect("a valid jurisdiction"),
        cluster: [7; 16],
        admission: Admission::Found,
        dir: dir.join(format!("member{id}")),
        disk: Arc::new(RealDisk),
        dialer: Arc::new(dialer),
        log: LogOptions::default(),
        state: StateOptions::default(),
        tuning: Tuning::default(),
    };
    let host = Host::open(options)
        .map_err(boxed)
        .map_err(failed("the host"))?;
    let group = host
        .open_group(GROUP, Arc::new(Kv))
        .await
        .map_err(boxed)
        .map_err(failed("the group"))?;
    let listener = tokio::net::TcpListener::bind(&own.endpoint)
        .await
        .map_err(io("the endpoint"))?;
    let acceptor = Acceptor::new(&local, enrolments, KeyExchange::HybridOnly);
    let kv = KvServer(Arc::new(group.clone()));
    let server = transport::server()
        .add_service(host.service().server())
        .add_service(kv.clone())
        .add_service(Maintenance(kv))
        .serve_with_incoming(acceptor.incoming(listener));
    if id == 1 {
        let founders = (1..=MEMBERS).map(NodeId);
        group
            .initialize(founders)
            .await
            .map_err(boxed)
            .map_err(failed("the founding"))?;
    }
    tokio::select! {
        biased;
        failure = host.failed() => Err(BenchError::Failed(failure.to_string())),
        served = server => served.map_err(boxed).map_err(failed("the server")),
    }
}
