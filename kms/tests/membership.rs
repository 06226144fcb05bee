//! Members come and go under load of nothing but their own leaves: ids allocated, enrolled by dual control, joined.

mod common;

use bytes::Bytes;
use common::{Begin, Region, now, random, reason};
use kms::approvals::{approve, request_hash};
use proto::ids::UnixMs;
use proto::v1;
use tokio::net::TcpListener;
use transport::testing::FlakyProxy;

const DATASET: [u8; 16] = [0xAD; 16];

fn approvals(region: &Region, hash: [u8; 32], id: &Bytes) -> Vec<v1::Approval> {
    let id: [u8; 16] = id.as_ref().try_into().expect("16 bytes");
    let by = |name| {
        approve(
            region.people.local(name),
            hash,
            id,
            UnixMs(now().0 + 60_000),
        )
    };
    vec![by("op-2"), by("op-3")]
}

async fn enrol(region: &Region, name: &str) {
    let operator = region.caller("op-1");
    let mut request = v1::ChangeEnrolmentRequest {
        add: vec![region.people.enrolment(name)],
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ChangeEnrolmentRequest::default()
    };
    let hash = request_hash("ChangeEnrolment", &request);
    request.approvals = approvals(region, hash, &request.single_use_id);
    operator
        .at_leader(|at| {
            let (mut operate, request) = (operator.operate(at), request.clone());
            async move { operate.change_enrolment(request).await.map(drop) }
        })
        .await
        .expect("enrolled");
}

async fn last_step(
    steps: Result<tonic::Response<tonic::Streaming<v1::Progress>>, tonic::Status>,
) -> Result<v1::Progress, tonic::Status> {
    let mut steps = steps?.into_inner();
    let mut last = v1::Progress::default();
    while let Some(step) = steps.message().await? {
        last = step;
    }
    Ok(last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_joins_and_an_old_one_leaves_with_two_approvals_each() {
    let mut region = Region::initialised(Begin::default()).await;
    let operator = region.caller("op-1");
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");

    let identity = common::identity("kms-4").to_string();
    let id = operator
        .at_leader(|at| {
            let mut operate = operator.operate(at);
            let request = v1::AllocateKmsIdRequest {
                identity: identity.clone(),
            };
            async move { Ok(operate.allocate_kms_id(request).await?.into_inner().node_id) }
        })
        .await
        .expect("an id");
    assert!(id >= proto::ids::FIRST_ALLOCATED_NODE_ID);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let proxy = FlakyProxy::to(address).await.expect("a proxy");
    region.people.add("kms-4", &proxy.endpoint(), id);
    enrol(&region, "kms-4").await;
    region.join("kms-4", listener, proxy).await;

    let mut request = v1::AddReplicaRequest {
        node_id: id,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        approvals: Vec::new(),
    };
    let hash = request_hash("AddReplica", &request);
    let add = async |request: &v1::AddReplicaRequest| {
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { last_step(operate.add_replica(request).await).await }
            })
            .await
    };
    let refused = add(&request).await.expect_err("no approvals");
    assert_eq!(reason(&refused), "too-few-approvals");
    request.approvals = approvals(&region, hash, &request.single_use_id);
    assert!(add(&request).await.expect("added").finished);
    let leader = region.leader().await;
    assert!(region.status(leader).await.voters.contains(&id));

    // It learnt the state, so it can check the root key that a peer releases to it.
    let new = region.places.len() - 1;
    assert!(region.status(new).await.sealed);
    region
        .unseal_by_peer(new)
        .await
        .expect("unsealed by a peer");

    let leaving = (0..common::REPLICAS)
        .find(|at| *at != leader)
        .expect("another");
    let mut request = v1::RemoveReplicaRequest {
        node_id: region.places[leaving].config.node_id,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::RemoveReplicaRequest::default()
    };
    let hash = request_hash("RemoveReplica", &request);
    request.approvals = approvals(&region, hash, &request.single_use_id);
    let removed = operator
        .at_leader(|at| {
            let (mut operate, request) = (operator.operate(at), request.clone());
            async move { last_step(operate.remove_replica(request).await).await }
        })
        .await;
    assert!(removed.expect("removed").finished);
    let leader = region.leader().await;
    let voters = region.status(leader).await.voters;
    assert_eq!(voters.len(), 3);
    assert!(!voters.contains(&request.node_id));
    let (reply, _) = app.lease(DATASET).await.expect("the region goes on");
    assert!(!reply.token.is_empty());
    region.stop().await;
}
