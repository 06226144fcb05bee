//! One storage node beside the KMS: the real daemon, with one shard that holds the dataset of the tests.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use node::{Node, Parts};
use proto::v1;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::node_operate_client::NodeOperateClient;
use proto::v1::shard_client::ShardClient;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use transport::{Connector, Expect, KeyExchange, Lane, SharedClock};

use super::{Caller, DATASET, PATIENCE, People, REPLICAS, identity, region_id};

/// Its name among the people.
const NAME: &str = "node-1";
/// Between two tries of what takes a moment.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// The node's place before it runs.
pub(crate) struct Site {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Site {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    pub(crate) fn enrol(&self, people: &mut People) {
        people.add(NAME, &self.address.to_string(), 1);
    }
}

/// The running node.
pub(crate) struct Storage {
    node: Node,
    address: SocketAddr,
    shard: u64,
}

impl Storage {
    /// Starts the node of a region whose KMS serves, and founds its groups.
    pub(crate) async fn start(
        region: &super::Region,
        site: Site,
        clock: Option<SharedClock>,
    ) -> Self {
        let address = site.address;
        let config = config(region.dir.path(), &region.people, &region.genesis, address);
        let parts = Parts {
            clock,
            listener: Some(site.listener),
            ..Parts::default()
        };
        let node = Node::start(config, parts).await.expect("a node starts");
        let storage = Self {
            node,
            address,
            shard: 0,
        };
        let found = async {
            loop {
                let operator = NodeOperateClient::new(storage.channel(&region.people, "op-1"));
                let founded = operator.clone().found(v1::FoundRequest { shards: 1 }).await;
                match founded {
                    Ok(founded) => return founded.into_inner().groups,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        let groups = tokio::time::timeout(PATIENCE, found)
            .await
            .expect("founded");
        Self {
            shard: *groups.last().expect("a shard"),
            ..storage
        }
    }

    fn channel(&self, people: &People, name: &str) -> Channel {
        let local = people.local(name).clone();
        let connector = Connector::pinned(local, people.ca().trust(), KeyExchange::HybridOnly);
        let expect = Expect::Identity(identity(NAME));
        let channel = connector.channel_lazy(&self.address.to_string(), expect, Lane::Control);
        channel.expect("a lazy channel")
    }

    /// Admits the dataset of the tests, whose key exists.
    pub(crate) async fn create_dataset(&self, people: &People, app: &Caller) {
        let key = app.at_leader(|at| {
            let mut kms = app.kms(at);
            let request = v1::FindKeyRequest {
                dataset_id: Bytes::copy_from_slice(&DATASET),
                ..Default::default()
            };
            async move { Ok(kms.find_key(request).await?.into_inner()) }
        });
        let key = key.await.expect("a key").key.expect("a key");
        let request = v1::CreateDatasetRequest {
            name: "cti".to_owned(),
            dataset_id: key.dataset_id,
            kek_id: key.kek_id,
            kek_version: key.current_version,
            versioning: false,
            pseudonym: key.pseudonym,
            key_state_version: key.state_version,
        };
        let mut catalog = CatalogClient::new(self.channel(people, "app"));
        catalog.create_dataset(request).await.expect("admitted");
    }

    /// What the shard states of the dataset.
    pub(crate) async fn dataset(&self, people: &People) -> v1::DatasetRecord {
        let request = v1::ShardStatusRequest {
            shard: self.shard,
            dataset_id: Bytes::copy_from_slice(&DATASET),
        };
        let mut shard = ShardClient::new(self.channel(people, "app"));
        let status = shard.shard_status(request).await.expect("a status");
        status.into_inner().dataset.expect("the dataset")
    }

    /// A request to change the dataset's hold from the version it is of now.
    pub(crate) async fn hold(
        &self,
        people: &People,
        retain_until_ms: u64,
        legal: bool,
    ) -> v1::SetHoldRequest {
        let held = self.dataset(people).await.hold.unwrap_or_default();
        v1::SetHoldRequest {
            shard: self.shard,
            dataset_id: Bytes::copy_from_slice(&DATASET),
            from_version: held.version,
            retain_until_ms,
            legal,
            single_use_id: Bytes::copy_from_slice(&super::random::<16>()),
            approvals: Vec::new(),
        }
    }

    pub(crate) async fn set_hold(
        &self,
        people: &People,
        by: &str,
        request: v1::SetHoldRequest,
    ) -> Result<(), tonic::Status> {
        let mut shard = ShardClient::new(self.channel(people, by));
        shard.set_hold(request).await.map(drop)
    }

    /// Registers the token of a lease of the application's.
    pub(crate) async fn register(
        &self,
        people: &People,
        token: &Bytes,
    ) -> Result<(), tonic::Status> {
        let mut shard = ShardClient::new(self.channel(people, "app"));
        shard.register_lease(self.lease(token)).await.map(drop)
    }

    /// Replaces a token, as the KMS does.
    pub(crate) async fn rewrap(
        &self,
        people: &People,
        by: &str,
        token: &Bytes,
    ) -> Result<(), tonic::Status> {
        let mut shard = ShardClient::new(self.channel(people, by));
        shard.rewrap_token(self.lease(token)).await.map(drop)
    }

    fn lease(&self, token: &Bytes) -> v1::RegisterLeaseRequest {
        v1::RegisterLeaseRequest {
            shard: self.shard,
            dataset_id: Bytes::copy_from_slice(&DATASET),
            token: token.clone(),
        }
    }

    /// Every token of the dataset, as the KMS sees them.
    pub(crate) async fn tokens(&self, people: &People) -> Vec<Bytes> {
        let request = v1::ListTokensRequest {
            shard: self.shard,
            dataset_id: Bytes::copy_from_slice(&DATASET),
            below_version: u32::MAX,
            start_after: Bytes::new(),
            limit: 256,
        };
        let mut shard = ShardClient::new(self.channel(people, "kms-1"));
        let listed = shard.list_tokens(request).await.expect("listed");
        listed.into_inner().tokens
    }

    /// Ends it as a kill does.
    pub(crate) async fn abandon(self) {
        self.node.abandon().await;
    }
}

fn config(
    dir: &Path,
    people: &People,
    genesis: &v1::SignedEnrolmentSet,
    listen: SocketAddr,
) -> node::Config {
    let folder = dir.join(NAME);
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let key = folder.join("key.pem");
    people.write_key(NAME, &key);
    let kms = (1..=REPLICAS).map(|at| people.enrolment(&format!("kms-{at}")).endpoint);
    node::Config {
        region: region_id(),
        jurisdiction: "CH".parse().expect("a jurisdiction"),
        node_id: 1,
        data_dir: folder.join("data"),
        listen,
        advertise: String::new(),
        certificate: file("cert.pem", people.certificate(NAME).as_bytes()),
        key,
        ca: file("ca.pem", people.ca_pem().as_bytes()),
        genesis: file("genesis.set", &prost::Message::encode_to_vec(genesis)),
        kms: kms.collect(),
        health_listen: None,
        federation_listen: None,
        federation_advertise: String::new(),
        join: false,
        found: true,
        full_percent: 98,
        reserve_bytes: 0,
        upload_bytes_max: 64 << 20,
        scrub_bytes_per_s: 0,
        upload_epoch_seconds: 3600,
        log_format: node::LogFormat::Text,
        log: "info".to_owned(),
        otlp: None,
    }
}
