//! The end of a key on real replicas: by dual control, cancellable, due, and for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{
    AheadClock, BODY, Begin, Caller, DATASET, REPLICAS, Region, Sealed, change, claim, file_holds,
    now, open, random, reason,
};
use bytes::Bytes;
use kms::approvals::{approve, request_hash};
use proto::ids::{DatasetId, UnixMs};
use proto::v1;

/// Between two looks at what takes its time.
const PAUSE: Duration = Duration::from_millis(50);
/// Longer than the driver takes to look at every key again.
const LOOKED_AT: Duration = Duration::from_secs(90);
/// As far as a majority's clocks move region time without an operator.
const STEP_MS: u64 = 23 * 3_600_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// Operators may change keys and holds, as in every region that `reduit-local` makes.
fn begin() -> Begin {
    let mut begin = Begin::default();
    begin.grants.push(v1::Grant {
        principal: "role:operator".to_owned(),
        dataset: "*".to_owned(),
        actions: vec![v1::Action::Keys.into()],
        purposes: Vec::new(),
    });
    begin
        .grants
        .sort_by_cached_key(prost::Message::encode_to_vec);
    begin
}

/// What is done to a key.
#[derive(Debug, Clone, Copy)]
enum Do {
    Rotate,
    Disable,
    Enable,
    Compromise,
    Cancel,
}

async fn key_change(
    caller: &Caller,
    what: Do,
    request: v1::KeyChangeRequest,
) -> Result<v1::KekRecord, tonic::Status> {
    let changed = caller.at_leader(|at| {
        let (mut kms, request) = (caller.kms(at), request.clone());
        async move {
            let reply = match what {
                Do::Rotate => kms.rotate_key(request).await?,
                Do::Disable => kms.disable_key(request).await?,
                Do::Enable => kms.enable_key(request).await?,
                Do::Compromise => kms.mark_key_compromised(request).await?,
                Do::Cancel => kms.cancel_key_destruction(request).await?,
            };
            Ok(reply.into_inner())
        }
    });
    Ok(changed.await?.key.expect("a key"))
}

async fn done(caller: &Caller, what: Do) -> v1::KekRecord {
    key_change(caller, what, change()).await.expect("changed")
}

async fn refused(caller: &Caller, what: Do) -> tonic::Status {
    let refused = key_change(caller, what, change()).await;
    refused.expect_err("the key's state does not lead there")
}

fn scheduling(days: u32) -> v1::ScheduleKeyDestructionRequest {
    v1::ScheduleKeyDestructionRequest {
        dataset_id: Bytes::copy_from_slice(&DATASET),
        request_id: Bytes::copy_from_slice(&random::<16>()),
        days,
        single_use_id: Bytes::copy_from_slice(&random::<16>()),
        ..v1::ScheduleKeyDestructionRequest::default()
    }
}

/// The request with the approvals of these operators, which sign `signed`.
fn approved(
    region: &Region,
    request: &v1::ScheduleKeyDestructionRequest,
    signed: &v1::ScheduleKeyDestructionRequest,
    approvers: &[&str],
) -> v1::ScheduleKeyDestructionRequest {
    let hash = request_hash("ScheduleKeyDestruction", signed);
    let id = signed.single_use_id.as_ref().try_into().expect("16 bytes");
    let expires = UnixMs(now().0 + 60_000);
    let by = |name: &&str| approve(region.people.local(name), hash, id, expires);
    v1::ScheduleKeyDestructionRequest {
        approvals: approvers.iter().map(by).collect(),
        ..request.clone()
    }
}

async fn schedule(
    caller: &Caller,
    request: v1::ScheduleKeyDestructionRequest,
) -> Result<v1::KekRecord, tonic::Status> {
    let scheduled = caller.at_leader(|at| {
        let (mut kms, request) = (caller.kms(at), request.clone());
        async move { Ok(kms.schedule_key_destruction(request).await?.into_inner()) }
    });
    Ok(scheduled.await?.key.expect("a key"))
}

async fn scheduled(region: &Region, caller: &Caller, days: u32) -> v1::KekRecord {
    let request = scheduling(days);
    let request = approved(region, &request, &request, &["op-2", "op-3"]);
    schedule(caller, request).await.expect("scheduled")
}

async fn opens_nothing(app: &Caller, sealed: &Sealed) {
    let items = vec![sealed.item.clone()];
    let opened = app.open(DATASET, random(), claim(""), items).await;
    let opened = opened.map(drop).expect_err("it opens nothing");
    assert_eq!(reason(&opened), "key-disabled");
    let leased = app.lease(DATASET).await.map(drop);
    assert_eq!(
        reason(&leased.expect_err("no lease either")),
        "key-disabled"
    );
}

async fn opens(app: &Caller, sealed: &Sealed) {
    let items = vec![sealed.item.clone()];
    let opened = app.open(DATASET, random(), claim(""), items).await;
    let (reply, session) = opened.expect("opened");
    assert_eq!(open(sealed, &reply, &session), BODY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destruction_is_scheduled_by_two_approvers_besides_who_asks_and_cancelled_by_one() {
    let (region, storage, sealed) = Region::with_storage(begin()).await;
    let app = region.caller("app");
    let request = scheduling(7);
    let by = |approvers: &[&str]| approved(&region, &request, &request, approvers);
    let two = || by(&["op-2", "op-3"]);
    let refused_for = async |request| {
        let refused = schedule(&app, request).await.expect_err("refused");
        (reason(&refused).to_owned(), refused.message().to_owned())
    };
    let (why, message) = refused_for(two()).await;
    assert_eq!(why, "wrong-key-state");
    assert!(message.contains("the key is enabled"), "{message}");
    done(&app, Do::Disable).await;
    assert_eq!(refused_for(by(&[])).await.0, "too-few-approvals");
    assert_eq!(refused_for(by(&["op-2"])).await.0, "too-few-approvals");
    let twice = by(&["op-2", "op-2"]);
    assert_eq!(refused_for(twice).await.0, "too-few-approvals");
    let by_app = by(&["op-2", "app"]);
    assert_eq!(refused_for(by_app).await.0, "approver-not-operator");
    // Approved for a month, asked for in a week.
    let other = approved(&region, &request, &scheduling(30), &["op-2", "op-3"]);
    assert_eq!(refused_for(other).await.0, "approval-of-other-request");
    for days in [0, 6, 31] {
        let asked = scheduling(days);
        let asked = approved(&region, &asked, &asked, &["op-2", "op-3"]);
        assert_eq!(refused_for(asked).await.0, "destruction-days");
    }
    let key = schedule(&app, two()).await.expect("scheduled");
    assert_eq!(key.state(), v1::KeyState::PendingDestruction);
    let waits = key.destroy_after_ms.saturating_sub(now().0);
    assert!((6 * DAY_MS..=7 * DAY_MS).contains(&waits), "{waits}");
    opens_nothing(&app, &sealed).await;
    // Sent again it is answered again; under another id its approvals are used up.
    let again = schedule(&app, two()).await.expect("answered");
    assert_eq!(again.state_version, key.state_version);

    for what in [Do::Enable, Do::Disable, Do::Compromise, Do::Rotate] {
        let status = refused(&app, what).await;
        assert_eq!(reason(&status), "wrong-key-state", "{what:?}");
    }
    let cancel = change();
    let key = key_change(&app, Do::Cancel, cancel.clone()).await;
    assert_eq!(key.expect("cancelled").state(), v1::KeyState::Disabled);
    done(&app, Do::Enable).await;
    opens(&app, &sealed).await;
    // A retry of the cancellation answers and changes nothing; another one has nothing to cancel, and does not take
    // the key back to what it was before its destruction was scheduled.
    let key = key_change(&app, Do::Cancel, cancel)
        .await
        .expect("answered");
    assert_eq!(key.state(), v1::KeyState::Enabled);
    let status = refused(&app, Do::Cancel).await;
    assert_eq!(reason(&status), "wrong-key-state");
    opens(&app, &sealed).await;
    let spent = v1::ScheduleKeyDestructionRequest {
        request_id: Bytes::copy_from_slice(&random::<16>()),
        ..two()
    };
    done(&app, Do::Disable).await;
    let (why, _) = refused_for(spent).await;
    assert_eq!(why, "approval-of-other-request", "signed with its id");
    storage.abandon().await;
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compromised_key_opens_nothing_and_is_never_enabled_again() {
    let (region, storage, sealed) = Region::with_storage(begin()).await;
    let app = region.caller("app");
    let key = done(&app, Do::Compromise).await;
    assert_eq!(key.state(), v1::KeyState::Compromised);
    opens_nothing(&app, &sealed).await;
    for what in [Do::Enable, Do::Disable, Do::Cancel] {
        let status = refused(&app, what).await;
        assert_eq!(reason(&status), "wrong-key-state", "{what:?}");
    }
    // Waiting for its destruction does not launder it.
    scheduled(&region, &app, 30).await;
    let key = done(&app, Do::Cancel).await;
    assert_eq!(key.state(), v1::KeyState::Compromised);
    opens_nothing(&app, &sealed).await;
    let stranger = region.caller("stranger");
    let denied = refused(&stranger, Do::Compromise).await;
    assert_eq!(reason(&denied), "not-granted");
    storage.abandon().await;
    region.stop().await;
}

/// Whether any record of a replica's state holds these bytes.
fn state_holds(region: &Region, at: usize, bytes: &[u8]) -> bool {
    let state = region.replica(at).group().reader().expect("a state");
    let mut found = false;
    state.scan(&[0], &[0xFF], &mut |_, value| {
        found |= value.windows(bytes.len()).any(|window| window == bytes);
        !found
    });
    found
}

/// Waits until every replica has said that its files hold nothing of the key, and looks.
async fn erased(region: &Region, wrapped: &[Bytes]) {
    let all_have_said = async {
        let waited_for = |at| {
            let state = region.replica(at).group().reader().expect("a state");
            let key = kms_state::key(&*state, &DatasetId(DATASET)).expect("a key");
            kms_state::not_erased(&*state, &key)
        };
        while (0..REPLICAS).any(|at| !waited_for(at).is_empty()) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let all_have_said = tokio::time::timeout(LOOKED_AT, all_have_said).await;
    all_have_said.expect("every replica erases what was ended");
    for at in 0..REPLICAS {
        let holds = file_holds(region, at, wrapped);
        assert_eq!(
            holds, None,
            "a wrapped key is still in a file of replica {at}"
        );
    }
}

fn key_at(region: &Region, at: usize) -> v1::KekRecord {
    let state = region.replica(at).group().reader().expect("a state");
    kms_state::key(&*state, &DatasetId(DATASET)).expect("a key")
}

/// Region time in the leaf of the destruction.
fn destroyed_at(region: &Region, at: usize) -> u64 {
    let state = region.replica(at).group().reader().expect("a state");
    let asked = kms_state::LeavesAsked {
        start: proto::ids::LeafIndex(0),
        limit: u32::MAX,
        bytes_max: usize::MAX,
        with_openings: false,
    };
    let leaves = kms_state::leaves(&*state, asked).into_iter();
    let mut leaves = leaves.map(|entry| tlog::Leaf::parse(&entry.leaf).expect("a leaf"));
    let leaf = leaves.find(|leaf| leaf.kind() == tlog::Kind::KeyDestroyed);
    leaf.expect("on record").time_ms().0
}

/// Lets region time pass, no further at a time than a majority's clocks may move it without an operator.
async fn wait(region: &Region, clock: &AheadClock, ms: u64) {
    let mut left = ms;
    while left > 0 {
        let step = left.min(STEP_MS);
        left -= step;
        let reached = now().0 + clock.0.fetch_add(step, Ordering::Relaxed) + step;
        let followed = async {
            loop {
                let leader = region.leader().await;
                let state = region.replica(leader).group().reader().expect("a state");
                if kms_state::region_time(&*state).0 + 60_000 >= reached {
                    return;
                }
                drop(state);
                tokio::time::sleep(PAUSE).await;
            }
        };
        let followed = tokio::time::timeout(LOOKED_AT, followed).await;
        followed.expect("region time follows the clocks");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_due_is_destroyed_on_every_replica_and_opens_nothing_for_ever() {
    let clock = Arc::new(AheadClock::default());
    let begin = Begin {
        clock: Some(clock.clone()),
        ..begin()
    };
    let (region, storage, sealed) = Region::with_storage(begin).await;
    let app = region.caller("app");
    done(&app, Do::Rotate).await;
    done(&app, Do::Disable).await;
    let due = scheduled(&region, &app, 7).await.destroy_after_ms;
    let leader = region.leader().await;
    let wrapped: Vec<Bytes> = key_at(&region, leader)
        .versions
        .into_iter()
        .flat_map(|version| [version.wrapped_kek, version.wrapped_metadata_key])
        .collect();
    assert_eq!(wrapped.len(), 4, "two versions");
    assert!(wrapped.iter().all(|key| state_holds(&region, leader, key)));
    let in_files = (0..REPLICAS).all(|at| file_holds(&region, at, &wrapped).is_some());
    assert!(
        in_files,
        "what is looked for below is found while it is there"
    );

    // A hold that comes while the destruction is pending keeps the key beyond its time.
    let retained = now().0 + 8 * DAY_MS;
    let hold = storage.hold(&region.people, retained, false).await;
    let held = storage.set_hold(&region.people, "op-1", hold).await;
    held.expect("retained");

    wait(&region, &clock, 7 * DAY_MS - 3_600_000).await;
    let early = key_at(&region, region.leader().await);
    assert_eq!(early.state(), v1::KeyState::PendingDestruction);
    // Several rounds of the driver lie in these; when it acted is in the leaf.
    for _ in 0..7 {
        wait(&region, &clock, 4 * 3_600_000).await;
    }
    let destroyed = async {
        while !(0..REPLICAS).all(|at| key_at(&region, at).state() == v1::KeyState::Destroyed) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let destroyed = tokio::time::timeout(LOOKED_AT, destroyed).await;
    destroyed.expect("the leader's driver destroys what is due");
    for at in 0..REPLICAS {
        assert!(
            wrapped.iter().all(|key| !state_holds(&region, at, key)),
            "a wrapped key is still in the state of replica {at}"
        );
        let when = destroyed_at(&region, at);
        assert!(
            when >= due && when >= retained,
            "destroyed at {when}, due {due}, retained until {retained}"
        );
    }
    erased(&region, &wrapped).await;
    opens_nothing(&app, &sealed).await;
    for what in [
        Do::Enable,
        Do::Disable,
        Do::Compromise,
        Do::Rotate,
        Do::Cancel,
    ] {
        let status = refused(&app, what).await;
        assert_eq!(reason(&status), "wrong-key-state", "{what:?}");
    }
    storage.abandon().await;
    region.stop().await;
}

/// Signs a change of a hold.
fn hold_approved(
    region: &Region,
    request: &v1::SetHoldRequest,
    approvers: &[&str],
) -> v1::SetHoldRequest {
    let hash = request_hash("SetHold", request);
    let id = request.single_use_id.as_ref().try_into().expect("16 bytes");
    let expires = UnixMs(now().0 + 60_000);
    let by = |name: &&str| approve(region.people.local(name), hash, id, expires);
    v1::SetHoldRequest {
        approvals: approvers.iter().map(by).collect(),
        ..request.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_destruction_is_scheduled_while_a_hold_keeps_the_dataset_or_its_shard_is_silent() {
    let (region, storage, sealed) = Region::with_storage(begin()).await;
    let (app, people) = (region.caller("app"), &region.people);
    done(&app, Do::Disable).await;
    let request = scheduling(7);
    let two = || approved(&region, &request, &request, &["op-2", "op-3"]);
    let held = async || {
        let refused = schedule(&app, two()).await.expect_err("held");
        assert_eq!(reason(&refused), "dataset-held", "{refused}");
    };
    // Who seals and opens sets no holds; one operator does.
    let hold = storage.hold(people, 0, true).await;
    let refused = storage.set_hold(people, "app", hold.clone()).await;
    assert!(refused.is_err(), "a service set a hold");
    storage.set_hold(people, "op-1", hold).await.expect("held");
    held().await;

    let lift = storage.hold(people, 0, false).await;
    let refused = async |request| {
        let refused = storage.set_hold(people, "op-1", request).await;
        reason(&refused.expect_err("refused")).to_owned()
    };
    assert_eq!(refused(lift.clone()).await, "too-few-approvals");
    let one = hold_approved(&region, &lift, &["op-2", "op-2"]);
    assert_eq!(refused(one).await, "too-few-approvals");
    let own = hold_approved(&region, &lift, &["op-1", "op-2"]);
    assert_eq!(refused(own).await, "self-approval");
    let by_app = hold_approved(&region, &lift, &["op-2", "app"]);
    assert_eq!(refused(by_app).await, "approver-not-operator");
    let other = v1::SetHoldRequest {
        approvals: hold_approved(&region, &lift, &["op-2", "op-3"]).approvals,
        retain_until_ms: 1,
        ..lift.clone()
    };
    assert_eq!(refused(other).await, "approval-of-other-request");
    held().await;
    let lifted = hold_approved(&region, &lift, &["op-2", "op-3"]);
    let lifts = storage.set_hold(people, "op-1", lifted.clone()).await;
    lifts.expect("lifted");
    // A hold set since is not lifted by the same approvals.
    let again = storage.hold(people, 0, true).await;
    storage.set_hold(people, "op-1", again).await.expect("held");
    assert_eq!(refused(lifted).await, "hold-moved");
    let lift = storage.hold(people, 0, false).await;
    let lift = hold_approved(&region, &lift, &["op-2", "op-3"]);
    storage
        .set_hold(people, "op-1", lift)
        .await
        .expect("lifted");

    // Compliance retention: nobody ends it before its time, approvals or not.
    let retain = storage.hold(people, now().0 + DAY_MS, false).await;
    storage.set_hold(people, "op-1", retain).await.expect("set");
    held().await;
    let shorter = storage.hold(people, now().0, false).await;
    let shorter = hold_approved(&region, &shorter, &["op-2", "op-3"]);
    assert_eq!(refused(shorter).await, "retention-shortened");

    // A shard that cannot be asked has not said no.
    storage.abandon().await;
    let refused = schedule(&app, two()).await.expect_err("silent");
    assert_eq!(reason(&refused), "hold-unknown", "{refused}");
    opens_nothing(&app, &sealed).await;
    region.stop().await;
}
