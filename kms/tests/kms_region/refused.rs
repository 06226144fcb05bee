//! Who and what a region's KMS refuses, on real replicas, and the words in which its operator is told.
//!
//! The rest of what is refused has its tests where it is decided: approvals of an open and a person's purpose stated by a
//! gateway in `approved_opens.rs`; handshakes, expired certificates and forked enrolment sets in `transport/tests`;
//! forged and smaller checkpoints by those who read them in `tlog/tests`, `witness/tests` and `verifier/tests`.

use std::path::Path;
use std::time::Duration;

use crate::common::{Begin, Caller, PATIENCE, Region, identity, now, random, reason};
use bytes::Bytes;
use kms::approvals::{approve, request_hash};
use kms::{Parts, Replica};
use proto::ids::{Identity, RegionId, UnixMs};
use proto::v1;
use tlog::{Checkpoint, Note, SignatureType, SignerKey};
use tonic::Status;
use transport::ca::Request;
use transport::fault::Chain;
use transport::{HandshakeError, KeyPair, LocalIdentity, RegionCa};

const UNKNOWN_CA: &str = "our certificate is not signed by the CA it pins";
const NOT_ENROLLED: &str = "our key is not enrolled there under our identity";

/// What a caller is told when it connects.
async fn told(caller: &Caller, at: usize) -> String {
    let status = caller.kms(at).status(v1::KmsStatusRequest {}).await;
    let status = status.map(drop).expect_err("refused");
    let why = HandshakeError::find(&status).expect("in the handshake");
    why.to_string()
}

/// A key certified as `name` by this CA.
fn certified(ca: &RegionCa, name: &str) -> LocalIdentity {
    let key = KeyPair::generate();
    let identity: Identity = name.parse().expect("an identity");
    let request = Request {
        identity: &identity,
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: now(),
        validity: Duration::from_secs(3600),
    };
    let certificate = ca.issue(&request).expect("issued");
    LocalIdentity::new(certificate.as_bytes(), key).expect("joined")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_enrolled_here_is_told_so_whatever_its_certificate_says() {
    let region = Region::initialised(Begin::default()).await;
    let abroad: RegionId = "de-fra".parse().expect("a region");
    let other = RegionCa::create(abroad.clone(), now(), Duration::from_secs(3600)).expect("a CA");
    let ca = region.people.ca();
    let own_key = KeyPair::from_pem(&ca.key().to_pem()).expect("the CA's key");
    // The region's own CA, made to certify for another region.
    let bent = RegionCa::from_pem(abroad, ca.certificate_pem().to_owned(), own_key).expect("a CA");
    let rows = [
        (&other, "spiffe://de-fra/kms/kms-1", UNKNOWN_CA),
        (&other, "spiffe://de-fra/node/node-1", UNKNOWN_CA),
        (&bent, "spiffe://de-fra/kms/kms-1", NOT_ENROLLED),
        (&bent, "spiffe://de-fra/node/node-1", NOT_ENROLLED),
        (ca, "spiffe://ch-zrh/kms/kms-9", NOT_ENROLLED),
        (ca, "spiffe://ch-zrh/node/node-9", NOT_ENROLLED),
        (ca, "spiffe://ch-zrh/gateway/gateway-9", NOT_ENROLLED),
        // Another key under a name that is enrolled.
        (ca, "spiffe://ch-zrh/gateway/gateway-1", NOT_ENROLLED),
    ];
    for (ca, name, says) in rows {
        let caller = region.caller_with(certified(ca, name));
        for at in 0..crate::common::REPLICAS {
            let told = told(&caller, at).await;
            assert!(told.contains(says), "{name}: {told}");
        }
    }
    a_removed_gateway_is_refused_on_living_connections_too(&region).await;
    no_member_is_enrolled_from_another_jurisdiction(&region).await;
    region.stop().await;
}

async fn a_removed_gateway_is_refused_on_living_connections_too(region: &Region) {
    let gateway = region.caller("gateway-1");
    for at in 0..crate::common::REPLICAS {
        let status = gateway.kms(at).status(v1::KmsStatusRequest {}).await;
        status.map(drop).expect("enrolled");
    }
    let name = identity("gateway-1").to_string();
    region
        .change_enrolment(Vec::new(), vec![name])
        .await
        .expect("removed");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for at in 0..crate::common::REPLICAS {
        // Each replica takes the set as it applies it.
        let refused = loop {
            let status = gateway.kms(at).status(v1::KmsStatusRequest {}).await;
            match status {
                Err(status) if HandshakeError::find(&status).is_some() => break status,
                _ => assert!(tokio::time::Instant::now() < deadline, "replica {at}"),
            }
            tokio::task::yield_now().await;
        };
        let why = HandshakeError::find(&refused).expect("found above");
        assert!(why.to_string().contains(NOT_ENROLLED), "{why}");
    }
}

async fn no_member_is_enrolled_from_another_jurisdiction(region: &Region) {
    let local = certified(region.people.ca(), "spiffe://ch-zrh/gateway/gateway-8");
    let enrolment = v1::Enrolment {
        identity: local.identity().to_string(),
        public_key: local.public_key().as_spki().to_vec().into(),
        jurisdiction: "DE".to_owned(),
        ..v1::Enrolment::default()
    };
    let refused = region.change_enrolment(vec![enrolment], Vec::new()).await;
    let refused = refused.expect_err("another jurisdiction");
    assert_eq!(reason(&refused), "wrong-jurisdiction", "{refused}");
    let says = "another region or jurisdiction";
    assert!(refused.message().contains(says), "{refused}");
}

/// Who approved, until when from now, and what the answer says.
type Row = (&'static [&'static str], i64, &'static str, &'static str);

const ROWS: &[Row] = &[
    (
        &[],
        60_000,
        "too-few-approvals",
        "0 distinct approvers are not enough, 2 are needed",
    ),
    (
        &["op-2"],
        60_000,
        "too-few-approvals",
        "1 distinct approvers are not enough, 2 are needed",
    ),
    // One approver counted twice.
    (
        &["op-2", "op-2"],
        60_000,
        "too-few-approvals",
        "1 distinct approvers are not enough, 2 are needed",
    ),
    (
        &["op-1", "op-2"],
        60_000,
        "self-approval",
        "spiffe://ch-zrh/operator/op-1 cannot approve its own request",
    ),
    (
        &["op-2", "gateway-1"],
        60_000,
        "approver-not-operator",
        "spiffe://ch-zrh/gateway/gateway-1 is not an enrolled operator",
    ),
    (
        &["op-2", "op-3"],
        -1,
        "approval-expired",
        "the approval of spiffe://ch-zrh/operator/op-2 has expired",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_that_do_not_carry_a_change_are_refused_by_name() {
    let region = Region::initialised(Begin::default()).await;
    let change = || v1::ChangeGrantsRequest {
        add: vec![v1::Grant {
            principal: "role:client".to_owned(),
            dataset: "*".to_owned(),
            actions: vec![v1::Action::List.into()],
            purposes: Vec::new(),
        }],
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ChangeGrantsRequest::default()
    };
    for (by, lasts, why, says) in ROWS {
        let refused = approved(&region, change(), by, *lasts).await;
        let refused = refused.expect_err(says);
        assert_eq!(reason(&refused), *why, "{by:?}: {refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
    let done = change();
    let two = &["op-2", "op-3"];
    approved(&region, done.clone(), two, 60_000)
        .await
        .expect("changed");
    // The same approvals once more, for what was done since, undone.
    let undone = v1::ChangeGrantsRequest {
        remove: done.add.clone(),
        add: Vec::new(),
        ..done
    };
    let refused = approved(&region, undone, two, 60_000).await;
    let refused = refused.expect_err("replayed");
    assert_eq!(reason(&refused), "approval-replayed", "{refused}");
    assert!(refused.message().contains("used before"), "{refused}");
    region.stop().await;
}

async fn approved(
    region: &Region,
    mut request: v1::ChangeGrantsRequest,
    by: &[&str],
    lasts_ms: i64,
) -> Result<v1::KmsDone, Status> {
    let hash = request_hash("ChangeGrants", &request);
    let id = request.single_use_id.as_ref().try_into().expect("16 bytes");
    let until = UnixMs(now().0.saturating_add_signed(lasts_ms));
    let approvals = by
        .iter()
        .map(|name| approve(region.people.local(name), hash, id, until));
    request.approvals = approvals.collect();
    let operator = region.caller("op-1");
    let changed = operator.at_leader(|at| {
        let (mut operate, request) = (operator.operate(at), request.clone());
        async move { Ok(operate.change_grants(request).await?.into_inner()) }
    });
    changed.await
}

/// By one who holds a replica's own key: the log's key and the tree still say no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_checkpoint_is_neither_taken_nor_cosigned() {
    let region = Region::initialised(Begin::default()).await;
    let leader = region.leader().await;
    let newest = async {
        loop {
            let found = region.caller("app").kms(leader);
            let mut found = found;
            let found = found.find_checkpoint(v1::FindCheckpointRequest {}).await;
            let newest = found.expect("found").into_inner().newest;
            if !newest.is_empty() {
                return Note::parse(&newest).expect("a note");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let newest = tokio::time::timeout(PATIENCE, newest)
        .await
        .expect("in time");
    let real: Checkpoint = newest.text().parse().expect("a checkpoint");
    let name = "ch-zrh/main/1".parse().expect("a name");
    let forger = SignerKey::from_seed(name, SignatureType::Ed25519, &[9; 32]).expect("a key");
    let signed = |checkpoint: &Checkpoint| {
        let line = forger.sign_checkpoint(checkpoint, None).expect("signs");
        let note = Note::new(checkpoint.to_string(), vec![line]).expect("a note");
        Bytes::from(note.to_string())
    };
    let insider = region.caller("kms-1");
    let at = (0..crate::common::REPLICAS)
        .find(|at| *at != leader)
        .expect("a follower");
    let refused = async |note| {
        let taken = insider
            .peer(at)
            .take_checkpoint(v1::TakeCheckpointRequest { note })
            .await;
        taken.map(drop).expect_err("forged")
    };
    // The tree is right, the key is not.
    let status = refused(signed(&real)).await;
    assert_eq!(reason(&status), "bad-signature", "{status}");
    assert!(
        status.message().contains("not signed by the log"),
        "{status}"
    );
    // Another tree of the same size.
    let root = tlog::leaf_hash(b"another history");
    let forked = Checkpoint::new(real.origin().clone(), real.size(), root).expect("a checkpoint");
    let status = refused(signed(&forked)).await;
    assert_eq!(reason(&status), "other-tree", "{status}");
    let says = "not of the tree applied here";
    assert!(status.message().contains(says), "{status}");
    let asked = v1::CosignCheckpointRequest {
        checkpoint: forked.to_string(),
    };
    let status = insider.peer(at).cosign_checkpoint(asked).await;
    let status = status.map(drop).expect_err("another tree");
    assert_eq!(reason(&status), "other-tree", "{status}");
    region.stop().await;
}

/// A replica whose disk went back to what it was is no voter any more: it says what it lost, and to whom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_rolled_back_stops_and_says_why() {
    let mut region = Region::initialised(Begin::default()).await;
    let leader = region.leader().await;
    let at = (0..crate::common::REPLICAS)
        .find(|at| *at != leader)
        .expect("a follower");
    let data = region.places[at].config.data_dir.clone();
    let kept = region.dir.path().join("kept");
    region.kill(at).await;
    copy(&data, &kept);
    region.restart(at).await;
    region.unseal_by_peer(at).await.expect("unsealed");
    let app = region.caller("app");
    app.create_key([0xDE; 16]).await.expect("a key");
    let size = region.status(leader).await.tree_size;
    let caught_up = async {
        while region.status(at).await.tree_size < size {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, caught_up)
        .await
        .expect("in time");

    region.kill(at).await;
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&kept, &data);
    let config = region.places[at].config.clone();
    let why = match Replica::start(config, Parts::default()).await {
        Err(refused) => Chain(&refused).to_string(),
        // Where its peers were slow to tell it.
        Ok(replica) => {
            let failed = tokio::time::timeout(PATIENCE, replica.failed()).await;
            let why = failed.expect("in time").to_string();
            replica.abandon().await;
            why
        }
    };
    assert!(why.contains("is behind what member"), "{why}");
    assert!(why.contains("under a new id"), "{why}");
    // The others go on without it.
    app.lease([0xDE; 16])
        .await
        .map(drop)
        .expect("a majority is left");
    assert_eq!(region.leader().await, leader);
    region.stop().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
        }
    }
}
