//! A region for tests: its CA, a clock that moves when told, identities, enrolment sets, one tiny gRPC service.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "shared by test binaries")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use proto::ids::{Identity, RegionId, Role, UnixMs};
use proto::v1;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;
use transport::enrolment::SetContents;
use transport::testing::ManualClock;
use transport::{Acceptor, Connector, Enrolments, KeyExchange, KeyPair, LocalIdentity, RegionCa};

pub const NOW: UnixMs = UnixMs(1_790_000_000_000);
pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
pub const HYBRID: KeyExchange = KeyExchange::HybridOnly;
/// Far beyond what anything here takes: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Region {
    name: &'static str,
    jurisdiction: &'static str,
    pub ca: RegionCa,
    pub clock: Arc<ManualClock>,
    pub enrolled: Vec<v1::Enrolment>,
}

pub fn id(region: &str, role: Role, name: &str) -> Identity {
    Identity::new(region.parse().expect("a region"), role, name).expect("an identity")
}

impl Region {
    pub fn new() -> Self {
        Self::called("ch-zrh", "CH")
    }

    pub fn called(name: &'static str, jurisdiction: &'static str) -> Self {
        let region: RegionId = name.parse().expect("a region");
        let ca = RegionCa::create(region, NOW, 10 * YEAR).expect("a CA");
        Self {
            name,
            jurisdiction,
            ca,
            clock: Arc::new(ManualClock::at(NOW)),
            enrolled: Vec::new(),
        }
    }

    /// An identity with a good certificate and no enrolment.
    pub fn stranger(&self, role: Role, name: &str) -> LocalIdentity {
        certified(
            &self.ca,
            &id(self.name, role, name),
            KeyPair::generate(),
            YEAR,
        )
    }

    /// An identity with a good certificate, enrolled in the sets made from now on.
    pub fn member(&mut self, role: Role, name: &str, node_id: u64) -> LocalIdentity {
        let local = self.stranger(role, name);
        self.enrol(&local, node_id);
        local
    }

    pub fn enrol(&mut self, local: &LocalIdentity, node_id: u64) {
        self.enrolled.push(v1::Enrolment {
            identity: local.identity().to_string(),
            public_key: local.public_key().as_spki().to_vec().into(),
            node_id,
            jurisdiction: self.jurisdiction.to_owned(),
            ..Default::default()
        });
    }

    pub fn withdraw(&mut self, local: &LocalIdentity) {
        let name = local.identity().to_string();
        self.enrolled.retain(|enrolled| enrolled.identity != name);
    }

    pub fn set(&self, version: u64, signed_at: UnixMs) -> v1::EnrolmentSet {
        let contents = SetContents {
            jurisdiction: self.jurisdiction.parse().expect("a jurisdiction"),
            version,
            signed_at,
            enrolments: self.enrolled.clone(),
            grants: Vec::new(),
            approvals_min: 2,
        };
        transport::enrolment::new_set(&self.ca.trust(), contents)
    }

    pub fn first_set(&self) -> v1::SignedEnrolmentSet {
        self.ca.sign_set(&self.set(1, NOW)).expect("a first set")
    }

    /// A process's own copy of the first set.
    pub fn enrolments(&self) -> Enrolments {
        Enrolments::bootstrap(self.ca.trust(), &self.first_set(), self.clock.clone())
            .expect("the first set is good")
    }

    pub fn connector(&self, local: &LocalIdentity, enrolments: &Enrolments) -> Connector {
        Connector::new(local.clone(), enrolments.clone(), HYBRID)
    }
}

pub fn certified(
    ca: &RegionCa,
    identity: &Identity,
    key: KeyPair,
    validity: Duration,
) -> LocalIdentity {
    let request = transport::ca::Request {
        identity,
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[[127, 0, 0, 1].into()],
        now: NOW,
        validity,
    };
    let pem = ca.issue(&request).expect("a certificate");
    LocalIdentity::new(pem.as_bytes(), key).expect("certificate and key belong together")
}

/// A served [`Whoami`] that stops when dropped.
pub struct Served {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn serve(local: &LocalIdentity, enrolments: &Enrolments) -> Served {
    serve_with(Acceptor::new(local, enrolments.clone(), HYBRID)).await
}

pub async fn serve_with(acceptor: Acceptor) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let incoming = acceptor.incoming(listener);
    let task = tokio::spawn(async move {
        let served = transport::server()
            .add_service(Whoami)
            .serve_with_incoming(incoming)
            .await;
        served.expect("serving ends without an error");
    });
    Served { address, task }
}

/// Asks the server whom it takes us for. `Who` answers, `Wait` never does.
pub async fn call(channel: Channel, path: &'static str) -> Result<v1::Enrolment, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(Box::new(error)))?;
    let codec = ProstCodec::<v1::Enrolment, v1::Enrolment>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = grpc
        .unary(Request::new(v1::Enrolment::default()), path, codec)
        .await?;
    Ok(answer.into_inner())
}

pub const WHO: &str = "/reduit.test.Whoami/Who";
pub const WAIT: &str = "/reduit.test.Whoami/Wait";

#[derive(Clone)]
pub struct Whoami;

impl NamedService for Whoami {
    const NAME: &'static str = "reduit.test.Whoami";
}

impl Service<http::Request<tonic::body::Body>> for Whoami {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let handler = Handler {
            waits: request.uri().path() == WAIT,
        };
        let codec = ProstCodec::<v1::Enrolment, v1::Enrolment>::default();
        async move {
            Ok(tonic::server::Grpc::new(codec)
                .unary(handler, request)
                .await)
        }
        .boxed()
    }
}

struct Handler {
    waits: bool,
}

impl UnaryService<v1::Enrolment> for Handler {
    type Response = v1::Enrolment;
    type Future = BoxFuture<'static, Result<Response<v1::Enrolment>, Status>>;

    fn call(&mut self, request: Request<v1::Enrolment>) -> Self::Future {
        let waits = self.waits;
        async move {
            let peer = transport::peer(&request)?;
            transport::require_role(&peer, &[Role::Node, Role::Kms])?;
            if waits {
                futures::future::pending::<()>().await;
            }
            Ok(Response::new(v1::Enrolment {
                identity: peer.identity.to_string(),
                node_id: peer.node_id.map_or(0, |id| id.0),
                ..Default::default()
            }))
        }
        .boxed()
    }
}
