//! Access keys on real replicas: who is shown a secret, who is given one, and what is left when it ends.

use std::time::Duration;

use crate::common::{
    BODY, Begin, Caller, DATASET, PRINCIPAL, REPLICAS, Region, file_holds, identity, now, open,
    random, reason, sealed_object,
};
use bytes::Bytes;
use kms::approvals::{access_key_hash, approve};
use proto::ids::{AccessKeyId, UnixMs};
use proto::v1;

const HOUR_MS: u64 = 3_600_000;
/// Longer than the replicas take to erase what was ended.
const ERASED_IN: Duration = Duration::from_secs(90);

/// What `caller` is refused a secret for.
async fn refused(caller: &Caller, id: AccessKeyId) -> String {
    let refused = caller.access_secret(id, random()).await;
    reason(&refused.map(drop).expect_err("no secret")).to_owned()
}

/// The kinds and actors of the log's leaves.
fn recorded(region: &Region, at: usize) -> Vec<(tlog::Kind, String)> {
    let state = region.replica(at).group().reader().expect("a state");
    let asked = kms_state::LeavesAsked {
        start: proto::ids::LeafIndex(0),
        limit: u32::MAX,
        bytes_max: usize::MAX,
        with_openings: true,
    };
    let shown = |entry: v1::LeafEntry| {
        let leaf = tlog::Leaf::parse(&entry.leaf).expect("a leaf");
        let openings = tlog::Openings::parse(&entry.openings).expect("openings");
        let shown = tlog::openings_of(&leaf, &openings).expect("they belong together");
        let actor = shown.fields.get(&tlog::Field::Actor).cloned();
        (leaf.kind(), actor.unwrap_or_default())
    };
    kms_state::leaves(&*state, asked)
        .into_iter()
        .map(shown)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_to_who_made_it_and_given_to_enrolled_gateways_alone() {
    let mut region = Region::initialised(Begin::default()).await;
    let operator = region.caller("op-1");
    let asked = region.access_key_request(PRINCIPAL);
    let why = async |caller: &Caller, request: &v1::CreateAccessKeyRequest| {
        let refused = caller.create_access_key(request).await;
        reason(&refused.map(drop).expect_err("refused")).to_owned()
    };
    assert_eq!(why(&operator, &asked).await, "too-few-approvals");
    let approved = region.access_key_approved(asked.clone());
    // What two approved for one operator shows no other the secret.
    let other = region.caller("op-2");
    assert_eq!(why(&other, &approved).await, "approval-of-other-request");
    let bent = v1::CreateAccessKeyRequest {
        principal: "spiffe://ch-zrh/service/other".to_owned(),
        ..approved.clone()
    };
    assert_eq!(why(&operator, &bent).await, "approval-of-other-request");
    let (hash, id) = (
        access_key_hash(operator.local.identity(), &asked),
        asked.single_use_id.as_ref().try_into().expect("16 bytes"),
    );
    let by = |name| {
        approve(
            region.people.local(name),
            hash,
            id,
            UnixMs(now().0 + 60_000),
        )
    };
    let own = v1::CreateAccessKeyRequest {
        approvals: vec![by("op-1"), by("op-2")],
        ..asked.clone()
    };
    assert_eq!(why(&operator, &own).await, "self-approval");
    let no_operator = region.caller("gateway-1");
    assert_eq!(why(&no_operator, &approved).await, "not-operator");
    let no_principal = region.access_key_request(&identity("app").to_string());
    assert_eq!(why(&operator, &no_principal).await, "malformed");
    // An id that was free before this request, or is free again, is not the caller's to choose.
    let other_id = region.access_key_approved(v1::CreateAccessKeyRequest {
        access_key_id: AccessKeyId::from_bits(1).as_str().to_owned().into(),
        ..region.access_key_request(PRINCIPAL)
    });
    assert_eq!(why(&operator, &other_id).await, "malformed");

    let shown = operator.create_access_key(&approved).await;
    let shown = shown.expect("a new access key");
    assert_eq!(shown.secret.len(), envelope::ACCESS_SECRET_CHARS);
    assert_eq!(shown.record.principal, PRINCIPAL);
    assert_eq!(shown.record.created_by, identity("op-1").to_string());
    // The answer was lost: asked again it is the same secret, and the same leaf.
    let size = region.status(0).await.tree_size;
    let again = operator.create_access_key(&approved).await.expect("again");
    assert_eq!(
        (&again.secret, &again.record),
        (&shown.secret, &shown.record)
    );
    region.level().await;
    assert_eq!(
        region.status(0).await.tree_size,
        size.max(shown.record.created_leaf + 1)
    );

    let gateway = region.caller("gateway-1");
    let (request, before) = (random(), now().0);
    let (secret, given) = gateway
        .access_secret(shown.id, request)
        .await
        .expect("given");
    assert_eq!(secret, shown.secret);
    assert_eq!(given.principal, PRINCIPAL);
    let hour = before + HOUR_MS - 60_000..=now().0 + HOUR_MS + 60_000;
    assert!(hour.contains(&given.expires_at_ms), "{given:?}");
    let (again, retried) = gateway
        .access_secret(shown.id, request)
        .await
        .expect("again");
    assert_eq!(again, secret);
    assert_eq!(
        (retried.leaf_index, retried.expires_at_ms),
        (given.leaf_index, given.expires_at_ms),
        "a retry is on record once, and lasts no longer"
    );
    let leader = region.leader().await;
    let log = recorded(&region, leader);
    let leaf = &log[usize::try_from(given.leaf_index).expect("few leaves")];
    assert_eq!(
        *leaf,
        (tlog::Kind::AccessSecret, identity("gateway-1").to_string())
    );
    let leaf = &log[usize::try_from(shown.record.created_leaf).expect("few leaves")];
    assert_eq!(
        *leaf,
        (tlog::Kind::AccessKeyCreated, identity("op-1").to_string())
    );

    for name in ["app", "op-1", "auditor-1", "custodian-1"] {
        let caller = region.caller(name);
        assert_eq!(
            refused(&caller, shown.id).await,
            "role-receives-no-keys",
            "{name}"
        );
    }
    let unknown = AccessKeyId::from_bits(7);
    assert_eq!(refused(&gateway, unknown).await, "no-such-access-key");
    // A certificate only authenticates.
    region.people.add("gateway-2", "", 0);
    let stranger = region.caller("gateway-2");
    let turned_away = stranger.kms(leader).status(v1::KmsStatusRequest {}).await;
    assert!(turned_away.is_err(), "it is not enrolled");
    // Removed, while it has a session and a connection.
    let session = gateway.session(leader).await.expect("a session");
    let removed = region.change_enrolment(vec![], vec![identity("gateway-1").to_string()]);
    removed.await.expect("removed");
    let request = v1::IssueAccessSecretRequest {
        session_id: session.id,
        access_key_id: shown.id.as_str().to_owned().into(),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::IssueAccessSecretRequest::default()
    };
    let turned_away = gateway.kms(leader).issue_access_secret(request).await;
    assert!(turned_away.is_err(), "it is no longer enrolled");
    let given = |(kind, _): &&(tlog::Kind, String)| *kind == tlog::Kind::AccessSecret;
    assert_eq!(recorded(&region, leader).iter().filter(given).count(), 1);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_access_key_is_given_to_nobody_and_a_deleted_one_leaves_no_file() {
    let region = Region::initialised(Begin::default()).await;
    let (operator, gateway) = (region.caller("op-3"), region.caller("gateway-1"));
    let shown = region.access_key(PRINCIPAL).await;
    let (_, given) = gateway
        .access_secret(shown.id, random())
        .await
        .expect("given");
    let enabled = operator.delete_access_key(shown.id).await;
    assert_eq!(
        reason(&enabled.expect_err("it is enabled")),
        "access-key-enabled"
    );
    let by_gateway = gateway.disable_access_key(shown.id).await;
    assert_eq!(
        reason(&by_gateway.expect_err("no operator")),
        "not-operator"
    );
    // One operator, alone; what a gateway still holds ends by itself, and the record says when.
    let record = operator.disable_access_key(shown.id).await;
    let record = record.expect("disabled");
    assert_eq!(record.state(), v1::AccessKeyState::Disabled);
    assert_eq!(record.given_until_ms, given.expires_at_ms);
    assert_eq!(refused(&gateway, shown.id).await, "no-such-access-key");
    let late = region
        .caller("op-1")
        .create_access_key(&shown.request)
        .await;
    assert_eq!(
        reason(&late.map(drop).expect_err("not shown any more")),
        "access-key-disabled"
    );
    let early = region.enable_approved(shown.id).await;
    let alone = v1::SetAccessKeyStateRequest {
        approvals: Vec::new(),
        ..early.clone()
    };
    let alone = operator.set_access_key(alone).await;
    assert_eq!(
        reason(&alone.expect_err("one is not enough")),
        "too-few-approvals"
    );
    let enabled = region.enable_access_key(shown.id).await;
    let (secret, _) = gateway
        .access_secret(shown.id, random())
        .await
        .expect("given");
    assert_eq!(secret, shown.secret, "it is the same secret");
    // Two approved it before another alarm: who holds that request does not undo the alarm with it.
    let enabler = region.caller("op-1");
    let moved = async |request: v1::SetAccessKeyStateRequest| {
        let moved = enabler.set_access_key(request).await;
        reason(&moved.expect_err("seen in another state")).to_owned()
    };
    operator
        .disable_access_key(shown.id)
        .await
        .expect("disabled");
    assert_eq!(moved(early.clone()).await, "access-key-moved");
    let now = region.enable_approved(shown.id).await;
    assert_eq!(now.state_version, enabled.state_version + 1);
    let of_another = region.approve_enable(v1::SetAccessKeyStateRequest {
        principal: "spiffe://ch-zrh/service/other".to_owned(),
        ..now.clone()
    });
    assert_eq!(moved(of_another).await, "access-key-moved");
    let bent = v1::SetAccessKeyStateRequest {
        state_version: now.state_version,
        ..early
    };
    assert_eq!(moved(bent).await, "approval-of-other-request");
    let again = enabler.set_access_key(now.clone()).await.expect("enabled");
    let twice = enabler.set_access_key(now).await;
    assert_eq!(twice.expect("its answer was lost"), again);

    let leader = region.leader().await;
    let wrapped = {
        let state = region.replica(leader).group().reader().expect("a state");
        vec![kms_state::access_secret(&*state, &shown.id).expect("stored")]
    };
    region.level().await;
    let in_files = (0..REPLICAS).all(|at| file_holds(&region, at, &wrapped).is_some());
    assert!(
        in_files,
        "what is looked for below is found while it is there"
    );
    operator
        .disable_access_key(shown.id)
        .await
        .expect("disabled");
    operator.delete_access_key(shown.id).await.expect("deleted");
    assert_eq!(refused(&gateway, shown.id).await, "no-such-access-key");
    let reborn = region
        .caller("op-1")
        .create_access_key(&shown.request)
        .await;
    assert_eq!(
        reason(&reborn.map(drop).expect_err("its approvals served")),
        "approval-replayed"
    );
    let said = async {
        loop {
            let listed = operator.list_access_keys().await.expect("listed");
            assert!(listed.keys.is_empty());
            if listed.not_erased.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let said = tokio::time::timeout(ERASED_IN, said).await;
    said.expect("every replica erases what was ended");
    for at in 0..REPLICAS {
        let holds = file_holds(&region, at, &wrapped);
        assert_eq!(
            holds, None,
            "the wrapped secret is in a file of replica {at}"
        );
    }
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_the_same_under_a_new_root_key_and_after_a_restore() {
    let mut region = Region::initialised(Begin::default()).await;
    let shown = region.access_key(PRINCIPAL).await;
    let begun = region.begin_custody(&[], 3, true).await.expect("begun");
    // Made while the root key is on its way: under the one in force, and rewrapped with the others.
    let later = region.access_key("spiffe://ch-zrh/service/analysis").await;
    for share in &begun.shares {
        region.confirm_share(share).await.expect("shown");
    }
    region.finish_when_sent(&begun.set_id).await;
    region.all_hold(2).await;
    let given = async |region: &Region| {
        for made in [&shown, &later] {
            let gateway = region.caller("gateway-1");
            let (secret, reply) = gateway
                .access_secret(made.id, random())
                .await
                .expect("given");
            assert_eq!(
                (&secret, &reply.principal),
                (&made.secret, &made.record.principal)
            );
        }
    };
    given(&region).await;
    // Each replica in turn is the one that unwraps.
    let leader = region.leader().await;
    region.kill(leader).await;
    given(&region).await;
    region.restart(leader).await;
    region.unseal_by_peer(leader).await.expect("by a peer");
    // Dead as a whole: the new shares open it, and nothing is under the old root key.
    region.restart_all().await;
    region.unseal_all(&begun.shares, 3).await;
    given(&region).await;

    let backup = region.backup().await;
    let (_disks, people) = region.lost().await;
    let anew = Region::begin_anew(Begin::default(), people).await;
    anew.restored_from(&backup, &begun.shares[..3]).await;
    // Who knows which were revoked after the backup? None is given before people have said so.
    for made in [&shown, &later] {
        let gateway = anew.caller("gateway-1");
        assert_eq!(refused(&gateway, made.id).await, "no-such-access-key");
        anew.enable_access_key(made.id).await;
    }
    given(&anew).await;
    anew.stop().await;
}

fn grant(principal: &str, actions: &[v1::Action]) -> v1::Grant {
    v1::Grant {
        principal: principal.to_owned(),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: Vec::new(),
    }
}

/// Red with `gateway_alone`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_opens_for_a_service_principal_is_allowed_to_both() {
    use v1::Action::{List, Read, Write};
    let analysis = "spiffe://ch-zrh/service/analysis";
    let region = Region::initialised(Begin::default()).await;
    let granted = region.add_grants(vec![
        grant("role:gateway", &[List, Read]),
        grant(PRINCIPAL, &[Read, Write]),
        grant(analysis, &[List]),
    ]);
    granted.await.expect("granted");
    let app = region.caller("app");
    let object = sealed_object(&app).await;
    let gateway = region.caller("gateway-1");
    let opened = async |caller: &Caller, whom: &str| {
        let claim = v1::Claim {
            on_behalf_of: whom.to_owned(),
            ..v1::Claim::default()
        };
        let items = vec![object.item.clone()];
        let (reply, session) = caller.open(DATASET, random(), claim, items).await?;
        Ok::<_, tonic::Status>(open(&object, &reply, &session))
    };
    let denied = async |caller: &Caller, whom: &str| {
        let denied = opened(caller, whom).await.expect_err("denied");
        reason(&denied).to_owned()
    };
    // Granted, and of no access key: it is not in.
    assert_eq!(denied(&gateway, PRINCIPAL).await, "principal-not-allowed");
    let shown = region.access_key(PRINCIPAL).await;
    region.access_key(analysis).await;
    assert_eq!(opened(&gateway, PRINCIPAL).await.expect("opened"), BODY);
    assert_eq!(opened(&gateway, "").await.expect("opened"), BODY);
    assert_eq!(opened(&gateway, "night shift").await.expect("opened"), BODY);
    // In, and not granted.
    assert_eq!(denied(&gateway, analysis).await, "principal-not-allowed");
    for none in ["spiffe://ch-zrh/service/Backup", "spiffe://"] {
        assert_eq!(denied(&gateway, none).await, "malformed", "{none}");
    }
    // Whoever is no gateway acts for itself.
    assert_eq!(denied(&app, PRINCIPAL).await, "not-gateway");
    // The principal may write, and the gateway may not: neither may both.
    let session = gateway
        .session(region.leader().await)
        .await
        .expect("a session");
    let lease = v1::IssueLeaseRequest {
        session_id: session.id.clone(),
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        claim: Some(v1::Claim {
            on_behalf_of: PRINCIPAL.to_owned(),
            ..v1::Claim::default()
        }),
        ..v1::IssueLeaseRequest::default()
    };
    let leased = gateway.kms(session.at).issue_lease(lease).await;
    assert_eq!(reason(&leased.expect_err("denied")), "not-granted");

    let operator = region.caller("op-1");
    operator
        .disable_access_key(shown.id)
        .await
        .expect("disabled");
    assert_eq!(denied(&gateway, PRINCIPAL).await, "principal-not-allowed");
    region.enable_access_key(shown.id).await;
    assert_eq!(opened(&gateway, PRINCIPAL).await.expect("opened"), BODY);
    region.stop().await;
}
