//! `attest-headers`: what the KMS signs of streams that somebody sealed, to whom, and that it releases nothing by it.

use crate::common::{Begin, Caller, REGION, Region, Session, identity, random, reason};
use bytes::Bytes;
use envelope::{
    DekSalt, NameCommitment, NameSalt, ObjectContext, PartNumber, SealedKey, StreamHeader, Suite,
};
use prost::Message as _;
use proto::ids::{DatasetId, LeaseId, ObjectVersionId};
use proto::transcript::LABEL_ATTEST_HEADERS;
use proto::v1;

const DATASET: [u8; 16] = [0xDA; 16];
const OTHER: [u8; 16] = [0xDB; 16];

/// Seals an object under a lease that the KMS gave: what an auditor asks about it, and its true header.
fn sealed(reply: &v1::IssueLeaseReply, session: &Session) -> (v1::HeaderAsked, StreamHeader) {
    let id = LeaseId::try_from(reply.lease_id.as_ref()).expect("a lease id");
    let key = SealedKey::try_from(reply.sealed_lease_key.as_ref()).expect("a sealed key");
    let lease = session.receiver.receive_lease(&key, id, &session.aad());
    let salt = DekSalt::random().expect("room");
    let name = NameCommitment::of(
        &NameSalt::random().expect("room"),
        &"a/b".parse().expect("a key"),
    );
    let context = ObjectContext {
        suite: Suite::Cobblestone256,
        region: crate::common::region_id(),
        dataset: DatasetId(DATASET),
        version: ObjectVersionId(random()),
        name,
    };
    let dek = lease.expect("the lease key").seal_dek(&salt, &context);
    let stream = dek
        .expect("room")
        .seal_part(PartNumber::FIRST, b"case file")
        .expect("sealed");
    let (header, _) = StreamHeader::split(&stream).expect("a header");
    let asked = v1::HeaderAsked {
        token: reply.token.clone(),
        version_id: context.version.into(),
        dek_salt: Bytes::copy_from_slice(salt.as_bytes()),
        name_commitment: Bytes::copy_from_slice(&context.name.0),
        stream_salt: Bytes::copy_from_slice(&header.salt().0),
        part: 0,
    };
    (asked, header)
}

async fn attest(
    caller: &Caller,
    dataset: [u8; 16],
    headers: Vec<v1::HeaderAsked>,
) -> Result<v1::AttestHeadersReply, tonic::Status> {
    caller
        .at_leader(|at| {
            let request = v1::AttestHeadersRequest {
                dataset_id: Bytes::copy_from_slice(&dataset),
                headers: headers.clone(),
            };
            let mut kms = caller.kms(at);
            async move { Ok(kms.attest_headers(request).await?.into_inner()) }
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_keyed_as_said_gets_its_commitment_and_nothing_else_does() {
    let region = Region::initialised(Begin::default()).await;
    let (app, auditor) = (region.caller("app"), region.caller("auditor-1"));
    let info = app.create_key(DATASET).await.expect("a key");
    app.create_key(OTHER).await.expect("a key");
    let (lease, session) = app.lease(DATASET).await.expect("a lease");
    let (asked, header) = sealed(&lease, &session);
    let size = region.status(region.leader().await).await.tree_size;

    let changed = |change: &dyn Fn(&mut v1::HeaderAsked)| {
        let mut other = asked.clone();
        change(&mut other);
        other
    };
    let mut token = v1::LeaseToken::decode(asked.token.clone()).expect("a token");
    let mut wrapped = token.wrapped.to_vec();
    let last = wrapped.len() - 1;
    wrapped[last] ^= 1;
    token.wrapped = wrapped.into();
    let headers = vec![
        asked.clone(),
        changed(&|one| one.dek_salt = vec![1; 32].into()),
        changed(&|one| one.name_commitment = vec![1; 32].into()),
        changed(&|one| one.version_id = vec![1; 16].into()),
        changed(&|one| one.stream_salt = vec![1; 24].into()),
        changed(&|one| one.token = token.encode_to_vec().into()),
        changed(&|one| one.part = 7),
    ];
    let reply = attest(&auditor, DATASET, headers).await.expect("attested");
    let verified = transport::verify(
        &reply.signer,
        LABEL_ATTEST_HEADERS,
        &reply.statement,
        &reply.signature,
    );
    verified.expect("signed by the replica");
    let statement = v1::HeaderStatement::decode(reply.statement).expect("a statement");
    assert_eq!((statement.format, statement.region.as_str()), (1, REGION));
    assert_eq!(statement.dataset_id, DATASET.to_vec());
    assert_eq!(statement.kek_id, info.key.expect("a key").kek_id);
    let replica = statement.replica.parse().expect("an identity");
    assert!((1..=3).any(|n| identity(&format!("kms-{n}")) == replica));
    let commitments: Vec<_> = statement.headers.iter().map(|h| &h.commitment).collect();
    assert_eq!(commitments[0].as_ref(), header.commitment().0);
    for other in &commitments[1..5] {
        assert_eq!(other.len(), 32);
        assert_ne!(other.as_ref(), header.commitment().0);
    }
    assert!(commitments[5].is_empty(), "a token that does not unwrap");
    assert_ne!(commitments[6].as_ref(), header.commitment().0);
    let parts: Vec<u32> = statement.headers.iter().map(|h| h.part).collect();
    assert_eq!(
        parts,
        [0, 0, 0, 0, 0, 0, 7],
        "which part it is of is signed"
    );
    // A statement is no release: nothing is recorded for it.
    let after = region.status(region.leader().await).await.tree_size;
    assert_eq!(after, size);

    for (who, dataset, headers, why) in [
        (&app, DATASET, vec![asked.clone()], "not-auditor"),
        (&auditor, OTHER, vec![asked.clone()], "malformed"),
        (&auditor, DATASET, Vec::new(), "too-many-items"),
        (
            &auditor,
            DATASET,
            vec![asked.clone(); 257],
            "too-many-items",
        ),
        (
            &auditor,
            DATASET,
            vec![changed(&|one| one.stream_salt = Bytes::new())],
            "malformed",
        ),
    ] {
        let refused = attest(who, dataset, headers).await.expect_err(why);
        assert_eq!(reason(&refused), why, "{refused}");
    }
    region.stop().await;
}
