//! Members come and go under load of nothing but their own leaves: ids allocated, enrolled by dual control, joined.

use crate::common::{Begin, PATIENCE, Region, now, random, reason};
use bytes::Bytes;
use kms::approvals::{approve, request_hash};
use proto::ids::UnixMs;
use proto::v1;
use tokio::net::TcpListener;
use tonic::Status;
use transport::testing::FlakyProxy;

const DATASET: [u8; 16] = [0xAD; 16];
/// Between two looks at who leads.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

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
    steps: Result<tonic::Response<tonic::Streaming<v1::Progress>>, Status>,
) -> Result<v1::Progress, Status> {
    let mut steps = steps?.into_inner();
    let mut last = v1::Progress::default();
    while let Some(step) = steps.message().await? {
        last = step;
    }
    Ok(last)
}

/// Allocates an id for a new replica, enrols it and starts it. Answers the id.
async fn join(region: &mut Region, name: &str) -> u64 {
    let operator = region.caller("op-1");
    let identity = crate::common::identity(name).to_string();
    let id = operator.at_leader(|at| {
        let mut operate = operator.operate(at);
        let request = v1::AllocateKmsIdRequest {
            identity: identity.clone(),
        };
        async move { Ok(operate.allocate_kms_id(request).await?.into_inner().node_id) }
    });
    let id = id.await.expect("an id");
    assert!(id >= proto::ids::FIRST_ALLOCATED_NODE_ID);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let proxy = FlakyProxy::to(address).await.expect("a proxy");
    region.people.add(name, &proxy.endpoint(), id);
    enrol(region, name).await;
    region.join(name, listener, proxy).await;
    id
}

async fn add(region: &Region, request: &v1::AddReplicaRequest) -> Result<v1::Progress, Status> {
    let operator = region.caller("op-1");
    let added = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { last_step(operate.add_replica(request).await).await }
    });
    added.await
}

/// Asks for a replica to become a voter; the approvals are missing.
fn adding(id: u64) -> v1::AddReplicaRequest {
    v1::AddReplicaRequest {
        node_id: id,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        approvals: Vec::new(),
    }
}

fn approved(region: &Region, mut request: v1::AddReplicaRequest) -> v1::AddReplicaRequest {
    let hash = request_hash("AddReplica", &request);
    request.approvals = approvals(region, hash, &request.single_use_id);
    request
}

async fn remove(region: &Region, at: usize) -> u64 {
    let operator = region.caller("op-1");
    let mut request = v1::RemoveReplicaRequest {
        node_id: region.places[at].config.node_id,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::RemoveReplicaRequest::default()
    };
    let hash = request_hash("RemoveReplica", &request);
    request.approvals = approvals(region, hash, &request.single_use_id);
    let removed = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { last_step(operate.remove_replica(request).await).await }
    });
    assert!(removed.await.expect("removed").finished);
    request.node_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_joins_and_an_old_one_leaves_with_two_approvals_each() {
    let mut region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");

    let id = join(&mut region, "kms-4").await;
    let request = adding(id);
    let refused = add(&region, &request).await.expect_err("no approvals");
    assert_eq!(reason(&refused), "too-few-approvals");
    let request = approved(&region, request);
    assert!(add(&region, &request).await.expect("added").finished);
    // Asked for again after its answer was lost, it is done.
    assert!(add(&region, &request).await.expect("done").finished);
    let leader = region.leader().await;
    assert!(region.status(leader).await.voters.contains(&id));

    // It learnt the state, so it can check the root key that a peer releases to it.
    let new = region.places.len() - 1;
    assert!(region.status(new).await.sealed);
    let unsealed = region.unseal_by_peer(new).await;
    unsealed.expect("unsealed by a peer");

    let leaving = (0..crate::common::REPLICAS).find(|at| *at != leader);
    let gone = remove(&region, leaving.expect("another")).await;
    let leader = region.leader().await;
    let voters = region.status(leader).await.voters;
    assert_eq!(voters.len(), 3);
    assert!(!voters.contains(&gone));
    let (reply, _) = app.lease(DATASET).await.expect("the region goes on");
    assert!(!reply.token.is_empty());
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_while_members_changed_follows_a_leader_it_has_never_heard_of() {
    let mut region = Region::initialised(Begin::default()).await;
    let leader = region.leader().await;
    let mut others = (0..crate::common::REPLICAS).filter(|at| *at != leader);
    let (away, stays) = (others.next().expect("one"), others.next().expect("another"));
    region.kill(away).await;
    let id = join(&mut region, "kms-4").await;
    let request = approved(&region, adding(id));
    assert!(add(&region, &request).await.expect("added").finished);
    let new = region.places.len() - 1;
    let unsealed = region.unseal_by_peer(new).await;
    unsealed.expect("unsealed by a peer");
    remove(&region, leader).await;
    region.kill(leader).await;
    // Of the two that are left, the new one leads.
    while region.leader().await != new {
        region.kill(stays).await;
        region.restart(stays).await;
    }
    region.restart(away).await;
    let followed = async {
        while region.status(away).await.leader != id {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let followed = tokio::time::timeout(PATIENCE, followed).await;
    followed.expect("it learns who leads from the one that it knows");
    let unsealed = region.unseal_by_peer(away).await;
    unsealed.expect("unsealed by the new one");
    region.stop().await;
}
