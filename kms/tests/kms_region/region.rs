//! A region's KMS end to end: ceremony, keys, leases, opens, custody, dual control, the log.

use crate::common::{
    BODY, Begin, Caller, DATASET, PATIENCE, REPLICAS, Region, SHARES, Sealed, Session, change,
    claim, now, open, random, reason, sealed_object,
};
use bytes::Bytes;
use envelope::SealedKey;
use kms::approvals::{approve, request_hash};
use prost::Message as _;
use proto::ids::UnixMs;
use proto::v1;

/// Seals an object under a lease that the KMS gave.
fn seal(reply: &v1::IssueLeaseReply, session: &Session) -> Sealed {
    crate::common::seal(DATASET, BODY, reply, session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_under_a_lease_opens_through_a_recorded_open_and_is_read_back_in_order() {
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    let request_id = random();
    let (reply, session) = app
        .open(DATASET, request_id, claim(""), vec![sealed.item.clone()])
        .await
        .expect("opened");
    assert_eq!(open(&sealed, &reply, &session), BODY);
    assert!(reply.usable_ms <= 60_000 && reply.usable_ms > 0);

    // The same request again is the same leaf; the key comes sealed to the session it is asked in.
    let (again, session) = app
        .open(DATASET, request_id, claim(""), vec![sealed.item.clone()])
        .await
        .expect("again");
    assert_eq!(again.leaf_index, reply.leaf_index);
    assert_eq!(open(&sealed, &again, &session), BODY);
    let (other, _) = app
        .open(DATASET, random(), claim(""), vec![sealed.item.clone()])
        .await
        .expect("another");
    assert_eq!(other.leaf_index, reply.leaf_index + 1);

    leaves_are_in_order_and_the_head_verifies(&region, &reply).await;
    region.stop().await;
}

async fn leaves_are_in_order_and_the_head_verifies(region: &Region, open: &v1::OpenReply) {
    let auditor = region.caller("auditor-1");
    let leader = region.leader().await;
    let head = auditor
        .kms(leader)
        .tree_head(v1::TreeHeadRequest {})
        .await
        .expect("a head");
    let head = head.into_inner();
    assert_eq!(head.origin, "ch-zrh/main/1");
    let read = |with_openings| v1::ReadLeavesRequest {
        start: 0,
        limit: 0,
        with_openings,
    };
    let reply = auditor
        .kms(leader)
        .read_leaves(read(true))
        .await
        .expect("leaves")
        .into_inner();
    assert_eq!(reply.tree_size, head.size);
    let mut tree = tlog::Frontier::default();
    let mut kinds = Vec::new();
    for (index, entry) in reply.leaves.iter().enumerate() {
        assert_eq!(entry.index, index as u64);
        let leaf = tlog::Leaf::parse(&entry.leaf).expect("a leaf");
        kinds.push(leaf.kind());
        tree.append(leaf.hash().expect("hashed"), &mut |_, _| {})
            .expect("room");
    }
    assert_eq!(
        tree.root().0.as_slice(),
        head.root_hash.as_ref(),
        "the head is of these leaves"
    );
    assert_eq!(kinds[0], tlog::Kind::Initialised);
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == tlog::Kind::Unsealed)
            .count(),
        REPLICAS - 1
    );
    assert_eq!(kinds[open.leaf_index as usize], tlog::Kind::Open);
    let at = |kind| {
        kinds
            .iter()
            .position(|other| *other == kind)
            .expect("is there")
    };
    assert!(at(tlog::Kind::KeyCreated) < at(tlog::Kind::Lease));
    assert!(at(tlog::Kind::Lease) < at(tlog::Kind::Open));

    let request = v1::ProveInclusionRequest {
        leaf_index: open.leaf_index,
        tree_size: head.size,
    };
    let proof = auditor
        .kms(leader)
        .prove_inclusion(request)
        .await
        .expect("a proof")
        .into_inner();
    let hash = |bytes: &Bytes| tlog::Hash::try_from(bytes.as_ref()).expect("32 bytes");
    let hashes: Vec<_> = proof.hashes.iter().map(hash).collect();
    let leaf = tlog::leaf_hash(&reply.leaves[open.leaf_index as usize].leaf);
    let (index, root) = (
        proto::ids::LeafIndex(open.leaf_index),
        hash(&head.root_hash),
    );
    tlog::verify_inclusion(&leaf, index, head.size, &hashes, &root).expect("is in the tree");

    let operator = region.caller("op-1");
    let refused = operator
        .kms(leader)
        .read_leaves(read(true))
        .await
        .expect_err("openings");
    assert_eq!(reason(&refused), "not-auditor");
    let app = region.caller("app");
    let refused = app
        .kms(leader)
        .read_leaves(read(false))
        .await
        .expect_err("leaves");
    assert_eq!(reason(&refused), "not-auditor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_grant_allows_is_denied() {
    let region = Region::initialised(Begin::default()).await;
    let (app, stranger) = (region.caller("app"), region.caller("stranger"));
    let sealed = sealed_object(&app).await;
    let items = || vec![sealed.item.clone()];
    let denied = |outcome: Result<(), tonic::Status>| {
        let status = outcome.expect_err("denied");
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
        reason(&status).to_owned()
    };
    assert_eq!(
        denied(stranger.create_key([1; 16]).await.map(drop)),
        "not-granted"
    );
    assert_eq!(
        denied(stranger.lease(DATASET).await.map(drop)),
        "not-granted"
    );
    let open = async |caller: &Caller, purpose| {
        caller
            .open(DATASET, random(), claim(purpose), items())
            .await
    };
    assert_eq!(denied(open(&stranger, "").await.map(drop)), "not-granted");
    assert_eq!(
        denied(open(&app, "research").await.map(drop)),
        "not-granted"
    );
    // A person's purpose, stated by a service.
    assert_eq!(
        denied(open(&app, "investigation").await.map(drop)),
        "role-may-not"
    );
    // Who runs the region never receives keys.
    let operator = region.caller("op-1");
    assert_eq!(
        denied(operator.lease(DATASET).await.map(drop)),
        "role-receives-no-keys"
    );
    assert_eq!(
        denied(open(&operator, "").await.map(drop)),
        "role-receives-no-keys"
    );
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_key_opens_and_leases_nothing_until_it_is_enabled() {
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    let change_key = async |disable: bool| {
        let request = change();
        app.at_leader(|at| {
            let (mut kms, request) = (app.kms(at), request.clone());
            async move {
                let reply = match disable {
                    true => kms.disable_key(request).await?,
                    false => kms.enable_key(request).await?,
                };
                Ok(reply.into_inner())
            }
        })
        .await
        .expect("changed")
    };
    let info = change_key(true).await;
    let key = info.key.expect("a key");
    assert_eq!(key.state(), v1::KeyState::Disabled);
    assert!(
        !info.shard_confirmed,
        "no shard runs here: the answer says pending"
    );
    assert!(
        info.latest_lease_expiry_ms > now().0,
        "and until when leases still seal"
    );
    assert!(
        key.versions.iter().all(|v| v.wrapped_kek.is_empty()),
        "no key bytes, wrapped or not"
    );

    let items = vec![sealed.item.clone()];
    let opened = app.open(DATASET, random(), claim(""), items.clone()).await;
    assert_eq!(
        reason(&opened.map(drop).expect_err("disabled")),
        "key-disabled"
    );
    let leased = app.lease(DATASET).await.map(drop).expect_err("disabled");
    assert_eq!(reason(&leased), "key-disabled");

    change_key(false).await;
    let (reply, session) = app
        .open(DATASET, random(), claim(""), items)
        .await
        .expect("enabled again");
    assert_eq!(open(&sealed, &reply, &session), BODY);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_old_leases_open_and_new_ones_are_of_the_new_version() {
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let old = sealed_object(&app).await;
    let request = change();
    let info = app
        .at_leader(|at| {
            let (mut kms, request) = (app.kms(at), request.clone());
            async move { Ok(kms.rotate_key(request).await?.into_inner()) }
        })
        .await
        .expect("rotated");
    let rotated = info.key.expect("a key");
    assert_eq!(rotated.current_version, 2);
    // Its answer was lost, say: sent again it answers, and rotates nothing.
    let again = app
        .at_leader(|at| {
            let (mut kms, request) = (app.kms(at), request.clone());
            async move { Ok(kms.rotate_key(request).await?.into_inner()) }
        })
        .await
        .expect("answered again");
    let again = again.key.expect("a key");
    assert_eq!(
        (again.current_version, again.state_version),
        (2, rotated.state_version)
    );
    let (lease, session) = app.lease(DATASET).await.expect("a lease");
    let token = v1::LeaseToken::decode(lease.token.clone()).expect("a token");
    let header = v1::LeaseHeader::decode(token.header).expect("a header");
    assert_eq!(header.kek_version, 2);
    let new = seal(&lease, &session);
    for sealed in [&old, &new] {
        let items = vec![sealed.item.clone()];
        let (reply, session) = app
            .open(DATASET, random(), claim(""), items)
            .await
            .expect("opens");
        assert_eq!(open(sealed, &reply, &session), BODY);
    }
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_opens_share_entries_and_leaves_and_each_is_in_its_own() {
    const OPENS: usize = 512;
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    let leader = region.leader().await;
    let session = app.session(leader).await.expect("a session");
    let before = region.status(leader).await;
    let requests: Vec<_> = (0..OPENS)
        .map(|_| v1::OpenRequest {
            request_id: Bytes::copy_from_slice(&random::<16>()),
            session_id: session.id.clone(),
            dataset_id: Bytes::copy_from_slice(&DATASET),
            claim: None,
            items: vec![sealed.item.clone()],
            ..v1::OpenRequest::default()
        })
        .collect();
    let began = std::time::Instant::now();
    let replies = app
        .kms(leader)
        .open_stream(futures::stream::iter(requests))
        .await;
    let mut replies = replies.expect("a stream").into_inner();
    let mut leaves = std::collections::BTreeSet::new();
    while let Some(reply) = replies.message().await.expect("a reply") {
        assert_eq!(reply.error, None);
        leaves.insert(reply.leaf_index);
        let key = SealedKey::try_from(reply.keys[0].sealed_dek.as_ref()).expect("a sealed DEK");
        let dek = session
            .receiver
            .receive_dek(&key, sealed.context.clone(), &session.aad());
        assert!(dek.is_ok());
    }
    let took = began.elapsed();
    let after = region.status(leader).await;
    let state = region.replica(leader).group().reader().expect("a state");
    let objects = leaves.iter().map(|index| {
        let asked = kms_state::LeavesAsked {
            start: proto::ids::LeafIndex(*index),
            limit: 1,
            bytes_max: usize::MAX,
            with_openings: false,
        };
        let entry = kms_state::leaves(&*state, asked).remove(0);
        tlog::Leaf::parse(&entry.leaf)
            .expect("a leaf")
            .objects()
            .len()
    });
    assert_eq!(objects.sum::<usize>(), OPENS, "each is in its leaf");
    assert!(leaves.len() < OPENS / 2, "{} leaves", leaves.len());
    let entries = after.applied_index - before.applied_index;
    println!("{OPENS} opens in {entries} entries, {took:?}");
    assert!(
        entries < OPENS as u64 / 2,
        "{entries} entries for {OPENS} opens"
    );
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_dataset_or_doctored_opens_nothing() {
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    app.create_key([7; 16]).await.expect("another dataset");
    let lifted = app
        .open([7; 16], random(), claim(""), vec![sealed.item.clone()])
        .await;
    assert_eq!(reason(&lifted.map(drop).expect_err("refused")), "malformed");

    // The header changed to name the other dataset: the wrapped key does not open under its KEK.
    let mut token = v1::LeaseToken::decode(sealed.item.token.clone()).expect("a token");
    let mut header = v1::LeaseHeader::decode(token.header.clone()).expect("a header");
    header.dataset_id = Bytes::copy_from_slice(&[7; 16]);
    token.header = header.encode_to_vec().into();
    let item = v1::OpenItem {
        token: token.encode_to_vec().into(),
        ..sealed.item.clone()
    };
    let (reply, _) = app
        .open([7; 16], random(), claim(""), vec![item])
        .await
        .expect("recorded");
    assert!(
        reply.keys[0].sealed_dek.is_empty(),
        "an item that does not unwrap comes out empty"
    );

    // Another name commitment is another context, and so another DEK: it opens nothing.
    let item = v1::OpenItem {
        name_commitment: Bytes::copy_from_slice(&[9; 32]),
        ..sealed.item.clone()
    };
    let (reply, session) = app
        .open(DATASET, random(), claim(""), vec![item])
        .await
        .expect("recorded");
    let key = SealedKey::try_from(reply.keys[0].sealed_dek.as_ref()).expect("a sealed DEK");
    let own = session
        .receiver
        .receive_dek(&key, sealed.context.clone(), &session.aad());
    assert!(own.is_err(), "released for another name, not for this one");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_region_goes_on_when_its_leader_is_killed_and_the_killed_replica_comes_back_sealed() {
    let mut region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    let killed = region.leader().await;
    region.kill(killed).await;
    let items = vec![sealed.item.clone()];
    let (reply, session) = app
        .open(DATASET, random(), claim(""), items.clone())
        .await
        .expect("goes on");
    assert_eq!(open(&sealed, &reply, &session), BODY);

    region.restart(killed).await;
    let health = region.replica(killed).health_address().expect("configured");
    let (head, words) = crate::common::http_get(health, "/readyz").await;
    assert!(head.contains("503"), "{head}");
    assert!(
        words.contains(&format!("sealed: needs 3 of {SHARES} shares, has 0")),
        "{words}"
    );
    let (head, words) = crate::common::http_get(health, "/healthz").await;
    assert!(head.contains("200") && words == "ok\n", "{head} {words}");
    let status = region.status(killed).await;
    assert!(status.sealed && status.initialised);
    sealed_replica_refuses(&app, killed, &items).await;

    region
        .unseal_by_peer(killed)
        .await
        .expect("unsealed by a peer");
    assert!(!region.status(killed).await.sealed);
    // Sealed or not, a replica is ready once it has heard of a leader.
    region
        .replica(killed)
        .group()
        .led()
        .await
        .expect("a leader");
    let (head, words) = crate::common::http_get(health, "/readyz").await;
    assert!(head.contains("200") && words == "ready\n", "{head} {words}");
    region.stop().await;
}

async fn sealed_replica_refuses(app: &Caller, at: usize, items: &[v1::OpenItem]) {
    let session = app
        .session(at)
        .await
        .expect("sessions are for custodians too");
    let request = v1::OpenRequest {
        request_id: Bytes::copy_from_slice(&random::<16>()),
        session_id: session.id.clone(),
        dataset_id: Bytes::copy_from_slice(&DATASET),
        claim: None,
        items: items.to_vec(),
        ..v1::OpenRequest::default()
    };
    let refused = app.kms(at).open(request).await.expect_err("sealed");
    assert_eq!(reason(&refused), "sealed");
    let request = v1::IssueLeaseRequest {
        session_id: session.id,
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::IssueLeaseRequest::default()
    };
    let refused = app.kms(at).issue_lease(request).await.expect_err("sealed");
    assert_eq!(reason(&refused), "sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_unseals_once_per_boot_and_only_with_a_second_persons_approval() {
    let mut region = Region::initialised(Begin::default()).await;
    let target = (region.leader().await + 1) % REPLICAS;
    region.kill(target).await;
    region.restart(target).await;
    let operator = region.caller("op-1");
    let ask = async |request: v1::ApprovePeerUnsealRequest| {
        operator
            .operate(target)
            .approve_peer_unseal(request)
            .await
            .map(|_| ())
    };

    let good = region.unseal_approval(target, "op-2").await;
    let without = v1::ApprovePeerUnsealRequest {
        approval: None,
        ..good.clone()
    };
    assert_eq!(
        reason(&ask(without).await.expect_err("no approval")),
        "no-approval"
    );
    let own = region.unseal_approval(target, "op-1").await;
    assert_eq!(
        reason(&ask(own).await.expect_err("its own word")),
        "self-approval"
    );
    let by_app = region.unseal_approval(target, "app").await;
    let refused = ask(by_app).await.expect_err("not an operator's");
    assert_eq!(reason(&refused), "approver-not-operator");
    let mut forged = good.clone();
    if let Some(approval) = &mut forged.approval {
        let mut signature = approval.signature.to_vec();
        signature[0] ^= 1;
        approval.signature = signature.into();
    }
    assert_eq!(
        reason(&ask(forged).await.expect_err("forged")),
        "bad-signature"
    );
    assert!(region.status(target).await.sealed);

    ask(good.clone()).await.expect("unsealed");
    assert!(!region.status(target).await.sealed);
    assert_eq!(
        reason(&ask(good.clone()).await.expect_err("again")),
        "not-sealed"
    );

    // The next boot has another id and another offer: the old word is worth nothing.
    region.kill(target).await;
    region.restart(target).await;
    assert_eq!(
        reason(&ask(good).await.expect_err("an old approval")),
        "other-boot"
    );
    assert!(region.status(target).await.sealed);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_lost_all_its_processes_is_unsealed_by_k_custodians_and_keeps_its_data() {
    let mut region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    region.level().await;
    region.kill_all().await;
    for at in 0..REPLICAS {
        region.restart(at).await;
    }
    let reply = region.unseal_by_custodians(0, 2).await;
    assert!(reply.sealed && reply.have == 2 && reply.needed == 3);
    // One share twice is one share; another's share is not taken from a custodian.
    let again = region
        .give_share(0, &region.shares[1])
        .await
        .expect("counts once");
    assert_eq!(again.have, 2);
    let reply = region
        .give_share(0, &region.shares[4])
        .await
        .expect("the third");
    assert!(!reply.sealed, "{reply:?}");
    let (reply, session) = app
        .open(DATASET, random(), claim(""), vec![sealed.item.clone()])
        .await
        .expect("opens");
    assert_eq!(open(&sealed, &reply, &session), BODY);
    for at in 1..REPLICAS {
        region
            .unseal_by_peer(at)
            .await
            .expect("the others by a peer");
    }
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_sealed_hands_over_and_never_leads_until_it_is_unsealed() {
    let region = Region::initialised(Begin::default()).await;
    let app = region.caller("app");
    let sealed = sealed_object(&app).await;
    let leader = region.leader().await;
    let before = region.status(leader).await;
    region
        .caller("op-1")
        .operate(leader)
        .seal(v1::SealRequest {})
        .await
        .expect("sealed");
    let after = region.status(leader).await;
    assert!(after.sealed);
    assert_ne!(after.boot_id, before.boot_id, "a new life");
    assert_ne!(region.leader().await, leader, "handed over");
    let (reply, session) = app
        .open(DATASET, random(), claim(""), vec![sealed.item.clone()])
        .await
        .expect("opens");
    assert_eq!(open(&sealed, &reply, &session), BODY);
    let refused = app
        .operate(leader)
        .seal(v1::SealRequest {})
        .await
        .expect_err("not an operator");
    assert_eq!(reason(&refused), "not-operator");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolments_and_grants_change_only_with_two_approvers_besides_the_requester() {
    let mut region = Region::initialised(Begin::default()).await;
    region.people.add("late", "", 0);
    let operator = region.caller("op-1");
    let base = v1::ChangeGrantsRequest {
        add: vec![v1::Grant {
            principal: crate::common::identity("stranger").to_string(),
            dataset: "*".to_owned(),
            actions: vec![v1::Action::Create.into()],
            purposes: Vec::new(),
        }],
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ChangeGrantsRequest::default()
    };
    let hash = request_hash("ChangeGrants", &base);
    let id: [u8; 16] = base.single_use_id.as_ref().try_into().expect("16 bytes");
    let by = |name: &str, hash| {
        approve(
            region.people.local(name),
            hash,
            id,
            UnixMs(now().0 + 60_000),
        )
    };
    let ask = async |approvals: Vec<v1::Approval>| {
        let request = v1::ChangeGrantsRequest {
            approvals,
            ..base.clone()
        };
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { Ok(operate.change_grants(request).await?.into_inner()) }
            })
            .await
    };
    let refused = async |approvals| reason(&ask(approvals).await.expect_err("refused")).to_owned();
    assert_eq!(refused(vec![]).await, "too-few-approvals");
    assert_eq!(refused(vec![by("op-2", hash)]).await, "too-few-approvals");
    assert_eq!(
        refused(vec![by("op-2", hash), by("op-2", hash)]).await,
        "too-few-approvals"
    );
    assert_eq!(
        refused(vec![by("op-1", hash), by("op-2", hash)]).await,
        "self-approval"
    );
    assert_eq!(
        refused(vec![by("op-2", hash), by("app", hash)]).await,
        "approver-not-operator"
    );
    let other = request_hash("ChangeEnrolment", &base);
    let refused_other = refused(vec![by("op-2", hash), by("op-3", other)]).await;
    assert_eq!(refused_other, "approval-of-other-request");

    let stranger = region.caller("stranger");
    assert!(
        stranger.create_key([3; 16]).await.is_err(),
        "not granted yet"
    );
    let both = || vec![by("op-2", hash), by("op-3", hash)];
    let done = ask(both()).await.expect("changed");
    assert_eq!(done.authority_version, 2);
    stranger.create_key([3; 16]).await.expect("granted now");
    assert_eq!(refused(both()).await, "approval-replayed");

    enrolment_takes_effect_on_every_replica(&region).await;
    region.stop().await;
}

async fn enrolment_takes_effect_on_every_replica(region: &Region) {
    let operator = region.caller("op-1");
    let mut request = v1::ChangeEnrolmentRequest {
        add: vec![region.people.enrolment("late")],
        remove: vec![crate::common::identity("stranger").to_string()],
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ChangeEnrolmentRequest::default()
    };
    let hash = request_hash("ChangeEnrolment", &request);
    let id = request.single_use_id.as_ref().try_into().expect("16 bytes");
    let by = |name| {
        approve(
            region.people.local(name),
            hash,
            id,
            UnixMs(now().0 + 60_000),
        )
    };
    request.approvals = vec![by("op-2"), by("op-3")];
    let stranger = region.caller("stranger");
    stranger
        .kms(0)
        .status(v1::KmsStatusRequest {})
        .await
        .expect("enrolled so far");
    operator
        .at_leader(|at| {
            let (mut operate, request) = (operator.operate(at), request.clone());
            async move { operate.change_enrolment(request).await.map(|_| ()) }
        })
        .await
        .expect("changed");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (late, mut refused) = (region.caller("late"), 0);
    for at in 0..REPLICAS {
        // Each replica takes the set as it applies it.
        while late.kms(at).status(v1::KmsStatusRequest {}).await.is_err() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "enrolled on replica {at}"
            );
            tokio::task::yield_now().await;
        }
        let stranger = region.caller("stranger");
        refused += u32::from(
            stranger
                .kms(at)
                .status(v1::KmsStatusRequest {})
                .await
                .is_err(),
        );
    }
    assert_eq!(
        refused, REPLICAS as u32,
        "the removed identity is refused everywhere"
    );
    let fetched = late
        .kms(0)
        .fetch_enrolments(v1::FetchEnrolmentsRequest { newer_than: 0 })
        .await;
    let signed = fetched.expect("a signed set").into_inner();
    let set = v1::EnrolmentSet::decode(signed.set.clone()).expect("a set");
    assert_eq!(set.version, 3);
    assert!(set.signed_at_ms > 0);
    let own = region.people.local("kms-1").public_key();
    assert_eq!(
        signed.signer.as_ref(),
        own.as_spki(),
        "signed by the replica that was asked"
    );
}
