//! Rotation by plan, tokens wrapped anew, and the end of older versions, on real replicas and a real storage node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{
    AheadClock, BODY, Begin, Caller, DATASET, PATIENCE, REPLICAS, Region, Sealed, Storage, change,
    claim, now, open, random, reason, region_id, seal,
};
use bytes::Bytes;
use envelope::{MetadataContext, MetadataLease, SealedKey, Suite};
use kms::approvals::{approve, request_hash};
use prost::Message as _;
use proto::ids::{DatasetId, ObjectVersionId, UnixMs};
use proto::v1;

const PAUSE: Duration = Duration::from_millis(50);
const HOUR_MS: u64 = 3_600_000;

async fn raised(begin: Begin) -> (Region, Storage, Sealed) {
    let (region, storage, sealed) = Region::with_storage(begin).await;
    region.raise_level(4).await;
    (region, storage, sealed)
}

async fn plan(
    app: &Caller,
    max_age_ms: u64,
    max_uses: u64,
) -> Result<v1::KekRecord, tonic::Status> {
    let request = v1::PlanKeyRotationRequest {
        dataset_id: Bytes::copy_from_slice(&DATASET),
        claim: None,
        request_id: Bytes::copy_from_slice(&random::<16>()),
        max_age_ms,
        max_uses,
    };
    let planned = app.at_leader(|at| {
        let (mut kms, request) = (app.kms(at), request.clone());
        async move { Ok(kms.plan_key_rotation(request).await?.into_inner()) }
    });
    Ok(planned.await?.key.expect("a key"))
}

async fn key(app: &Caller) -> v1::KekRecord {
    let found = app.at_leader(|at| {
        let mut kms = app.kms(at);
        let request = v1::FindKeyRequest {
            dataset_id: Bytes::copy_from_slice(&DATASET),
            ..Default::default()
        };
        async move { Ok(kms.find_key(request).await?.into_inner()) }
    });
    found.await.expect("found").key.expect("a key")
}

async fn rotated_to(app: &Caller, version: u32) {
    let rotated = async {
        while key(app).await.current_version < version {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let rotated = tokio::time::timeout(PATIENCE, rotated).await;
    rotated.expect("the leader's driver rotates what is due");
}

async fn opens(app: &Caller, sealed: &Sealed) -> Result<(), tonic::Status> {
    let items = vec![sealed.item.clone()];
    let (reply, session) = app.open(DATASET, random(), claim(""), items).await?;
    assert_eq!(open(sealed, &reply, &session), BODY);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_by_its_plan_when_it_is_old_and_when_it_was_used_often() {
    let clock = Arc::new(AheadClock::default());
    let begin = Begin {
        clock: Some(clock.clone()),
        ..Begin::default()
    };
    let (region, storage, sealed) = raised(begin).await;
    let app = region.caller("app");
    for (age, uses) in [(HOUR_MS - 1, 0), (0, 255)] {
        let refused = plan(&app, age, uses).await.expect_err("out of bounds");
        assert_eq!(reason(&refused), "malformed");
    }
    let stranger = region.caller("stranger");
    let refused = plan(&stranger, HOUR_MS, 0).await.expect_err("not granted");
    assert_eq!(reason(&refused), "not-granted");

    plan(&app, 2 * HOUR_MS, 0).await.expect("planned");
    clock.0.fetch_add(2 * HOUR_MS, Ordering::Relaxed);
    rotated_to(&app, 2).await;
    plan(&app, 0, 256).await.expect("planned");
    let items = vec![sealed.item.clone(); 256];
    let opened = app.open(DATASET, random(), claim(""), items).await;
    opened.map(drop).expect("opened");
    rotated_to(&app, 3).await;
    opens(&app, &sealed)
        .await
        .expect("what was sealed before opens");
    storage.abandon().await;
    region.stop().await;
}

/// What a person does to a key's versions.
#[derive(Debug, Clone, Copy)]
enum Do {
    Rotate,
    Retire,
}

async fn changed(
    app: &Caller,
    what: Do,
    request: v1::KeyChangeRequest,
) -> Result<v1::KeyInfo, tonic::Status> {
    app.at_leader(|at| {
        let (mut kms, request) = (app.kms(at), request.clone());
        async move {
            let reply = match what {
                Do::Rotate => kms.rotate_key(request).await?,
                Do::Retire => kms.retire_key_versions(request).await?,
            };
            Ok(reply.into_inner())
        }
    })
    .await
}

/// Versions below the second, approved by these operators, who sign `signed`.
fn ending(
    region: &Region,
    signed: &v1::EndKeyVersionsRequest,
    by: &[&str],
) -> v1::EndKeyVersionsRequest {
    let hash = request_hash("EndKeyVersions", signed);
    let id = signed.single_use_id.as_ref().try_into().expect("16 bytes");
    let expires = UnixMs(now().0 + 60_000);
    let by = by
        .iter()
        .map(|name| approve(region.people.local(name), hash, id, expires));
    v1::EndKeyVersionsRequest {
        approvals: by.collect(),
        ..signed.clone()
    }
}

fn below(version: u32) -> v1::EndKeyVersionsRequest {
    v1::EndKeyVersionsRequest {
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        below_version: version,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::EndKeyVersionsRequest::default()
    }
}

async fn end(
    app: &Caller,
    request: v1::EndKeyVersionsRequest,
) -> Result<v1::KeyInfo, tonic::Status> {
    app.at_leader(|at| {
        let (mut kms, request) = (app.kms(at), request.clone());
        async move { Ok(kms.end_key_versions(request).await?.into_inner()) }
    })
    .await
}

async fn rewrap(app: &Caller) -> Result<v1::RewrapTokensReply, tonic::Status> {
    app.at_leader(|at| {
        let mut kms = app.kms(at);
        let request = v1::RewrapTokensRequest {
            dataset_id: Bytes::copy_from_slice(&DATASET),
            claim: None,
            start_after: Bytes::new(),
        };
        async move { Ok(kms.rewrap_tokens(request).await?.into_inner()) }
    })
    .await
}

/// Every metadata key that the KMS gives out now, oldest first.
async fn metadata_keys(app: &Caller) -> Vec<MetadataLease> {
    let request_id = Bytes::copy_from_slice(&random::<16>());
    let given = app.at_leader(|at| {
        let request_id = request_id.clone();
        async move {
            let session = app.session(at).await?;
            let request = v1::IssueLeaseRequest {
                session_id: session.id.clone(),
                dataset_id: Bytes::copy_from_slice(&DATASET),
                request_id,
                seconds: 600,
                claim: None,
                dataset_epoch: 1,
            };
            let reply = app.kms(at).issue_metadata_lease(request).await?;
            Ok((reply.into_inner(), session))
        }
    });
    let (reply, session) = given.await.expect("a metadata lease");
    let key = |given: &v1::SealedMetadataKey| {
        let sealed = SealedKey::try_from(given.sealed.as_ref()).expect("a sealed key");
        let (dataset, version) = (DatasetId(DATASET), given.version);
        let receiver = &session.receiver;
        let aad = session.aad();
        let key = receiver.receive_metadata_key(&sealed, region_id(), dataset, version, &aad);
        key.expect("a metadata key")
    };
    reply.keys.iter().map(key).collect()
}

/// The wrapped form of a version's KEK on a replica; empty once it is purged.
fn wrapped(region: &Region, at: usize, version: usize) -> Bytes {
    let state = region.replica(at).group().reader().expect("a state");
    let key = kms_state::key(&*state, &DatasetId(DATASET)).expect("a key");
    key.versions[version - 1].wrapped_kek.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_before_open_after_rotation_rewrap_and_the_end_of_the_old_version() {
    let (region, storage, _) = raised(Begin::default()).await;
    let (app, people) = (region.caller("app"), &region.people);
    let (lease, session) = app.lease(DATASET).await.expect("a lease");
    let old = seal(DATASET, BODY, &lease, &session);
    storage.register(people, &lease.token).await.expect("taken");
    let (late, _) = app.lease(DATASET).await.expect("a lease");
    changed(&app, Do::Rotate, change()).await.expect("rotated");

    // Nothing ends that the shard may still take commits under.
    let refused = end(&app, ending(&region, &below(2), &["op-1", "op-2"])).await;
    let refused = refused.expect_err("commits are taken under version 1");
    assert_eq!(reason(&refused), "versions-in-use", "{refused}");

    let retiring = change();
    let retired = changed(&app, Do::Retire, retiring.clone()).await;
    let retired = retired.expect("retired").key.expect("a key");
    assert_eq!(retired.min_version, 2);
    assert_eq!(storage.dataset(people).await.min_kek_version, 2);
    let again = changed(&app, Do::Retire, retiring).await.expect("a retry");
    let again = again.key.expect("a key");
    assert_eq!(
        again.state_version, retired.state_version,
        "a retry has effect once"
    );
    for token in [&lease.token, &late.token] {
        let refused = storage.register(people, token).await;
        let refused = refused.expect_err("the shard takes no token of version 1");
        assert_eq!(reason(&refused), "token-too-old", "{refused}");
    }
    opens(&app, &old).await.expect("retired versions open");
    let refused = end(&app, ending(&region, &below(2), &["op-1", "op-2"])).await;
    let refused = refused.expect_err("a token is under version 1");
    assert_eq!(reason(&refused), "tokens-left", "{refused}");

    let page = rewrap(&app).await.expect("rewrapped");
    assert_eq!((page.rewrapped, page.kek_version), (1, 2));
    assert!(page.next_start_after.is_empty());
    assert_eq!(rewrap(&app).await.expect("again").rewrapped, 0);
    let tokens = storage.tokens(people).await;
    let header = |token: &Bytes| {
        let token = v1::LeaseToken::decode(token.clone()).expect("a token");
        v1::LeaseHeader::decode(token.header).expect("a header")
    };
    assert_eq!(tokens.len(), 1);
    let (before, after) = (header(&lease.token), header(&tokens[0]));
    let same = v1::LeaseHeader {
        kek_version: 2,
        ..before
    };
    assert_eq!(after, same, "whose lease it is and until when stays");
    // Under either token the same object opens: readers of both kinds are on their way.
    let new = Sealed {
        item: v1::OpenItem {
            token: tokens[0].clone(),
            ..old.item.clone()
        },
        bytes: old.bytes.clone(),
        context: old.context.clone(),
    };
    opens(&app, &old).await.expect("under the old token");
    opens(&app, &new).await.expect("under the new one");
    for (who, token) in [("app", &tokens[0]), ("op-1", &tokens[0])] {
        let refused = storage.rewrap(people, who, token).await;
        refused.expect_err("only the KMS rewraps");
    }

    let about = MetadataContext {
        suite: Suite::Cobblestone256,
        region: region_id(),
        dataset: DatasetId(DATASET),
        version: ObjectVersionId(random()),
    };
    let keys = metadata_keys(&app).await;
    let sealed = keys[0].seal(&about, b"of before");
    let sealed = sealed.expect("sealed under version 1");
    for by in [&["op-1"][..], &["op-1", "op-1"], &[]] {
        let refused = end(&app, ending(&region, &below(2), by)).await;
        refused.expect_err("it takes two");
    }
    let other = ending(&region, &below(3), &["op-1", "op-2"]);
    let lifted = v1::EndKeyVersionsRequest {
        approvals: other.approvals,
        ..below(2)
    };
    end(&app, lifted)
        .await
        .expect_err("approvals of another request");
    assert!((0..REPLICAS).all(|at| !wrapped(&region, at, 1).is_empty()));
    let request = ending(&region, &below(2), &["op-1", "op-2"]);
    let ended = end(&app, request.clone()).await.expect("ended");
    assert_eq!(ended.oldest_version, 2);
    let version = |info: v1::KeyInfo| info.key.expect("a key").state_version;
    let again = end(&app, request).await.expect("a retry");
    assert_eq!(version(again), version(ended), "a retry has effect once");
    let purged = async {
        while !(0..REPLICAS).all(|at| wrapped(&region, at, 1).is_empty()) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let purged = tokio::time::timeout(PATIENCE, purged).await;
    purged.expect("every replica purges it");
    assert!((0..REPLICAS).all(|at| !wrapped(&region, at, 2).is_empty()));

    let refused = opens(&app, &old).await.expect_err("ended");
    assert_eq!(reason(&refused), "key-version-too-old", "{refused}");
    opens(&app, &new).await.expect("rewrapped");
    let keys = metadata_keys(&app).await;
    assert_eq!(keys.len(), 2);
    let opened = keys[0].open(&about, &sealed).expect("opens");
    assert_eq!(
        &opened[..],
        b"of before",
        "metadata of before stays readable"
    );
    storage.abandon().await;
    region.stop().await;
}
