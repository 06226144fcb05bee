//! A replica that comes later, as operators add it: its id allocated, enrolled by dual control, joined.

use bytes::Bytes;
use kms::approvals::request_hash;
use proto::v1;
use tokio::net::TcpListener;
use transport::testing::FlakyProxy;

use super::{Region, identity, random};

impl Region {
    /// Adds a replica and answers its place. It is sealed.
    pub(crate) async fn add_replica(&mut self, name: &str) -> usize {
        let operator = self.caller("op-1");
        let identity = identity(name).to_string();
        let id = operator.at_leader(|at| {
            let mut operate = operator.operate(at);
            let identity = identity.clone();
            async move {
                let request = v1::AllocateKmsIdRequest { identity };
                Ok(operate.allocate_kms_id(request).await?.into_inner().node_id)
            }
        });
        let id = id.await.expect("an id");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let proxy = FlakyProxy::to(address).await.expect("a proxy");
        self.people.add(name, &proxy.endpoint(), id);
        let enrolment = self.people.enrolment(name);
        let enrolled = self.change_enrolment(vec![enrolment], Vec::new()).await;
        enrolled.expect("enrolled");
        self.join(name, listener, proxy).await;
        let mut request = v1::AddReplicaRequest {
            node_id: id,
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            approvals: Vec::new(),
        };
        let hash = request_hash("AddReplica", &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        let added = operator.at_leader(|at| {
            let (mut operate, request) = (operator.operate(at), request.clone());
            async move {
                let mut steps = operate.add_replica(request).await?.into_inner();
                let mut last = v1::Progress::default();
                while let Some(step) = steps.message().await? {
                    last = step;
                }
                Ok(last)
            }
        });
        assert!(added.await.expect("added").finished);
        self.places.len() - 1
    }
}
