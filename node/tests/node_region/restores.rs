//! Who may bring a dataset back, by whose word, and what is served of it meanwhile.

use crate::region::{DATASET, KEK, LEASE, Region, SHARD, grant, put, reason, region_id};
use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, GroupId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::restore_step_request::Step;
use proto::v1::restores_client::RestoresClient;
use tonic::Status;
use transport::{Clock as _, Stated, SystemClock};

const RESTORE: &str = "restore";
const RESTORE_ID: [u8; 16] = [0x5E; 16];
const PSEUDONYM: [u8; 16] = [0x9D; 16];
const OPERATORS: [&str; 3] = ["o1", "o2", "o3"];
/// Upload epochs by which a restored dataset is ahead of its shard.
const AHEAD: u64 = 1_000_000;

fn stated() -> Stated {
    Stated {
        purpose: RESTORE.to_owned(),
        ..Stated::default()
    }
}

/// What the KMS has on record of an approval, and of the key.
fn body(what: v1::RestoreWhat) -> v1::RestoreWarrantBody {
    let [requester, approvers @ ..] = OPERATORS.map(str::to_owned);
    let now = SystemClock.now().0;
    let target = v1::RestoreTarget {
        dataset_id: DATASET.into(),
        name: "cti".to_owned(),
        epoch: u64::from(what == v1::RestoreWhat::Confirm),
    };
    let terms = v1::DatasetRestore {
        format: 1,
        what: what.into(),
        backup_id: Bytes::from_static(&[0xB0; 16]),
        index_digest: Bytes::from_static(&[0xD1; 32]),
        datasets: vec![target],
    };
    v1::RestoreWarrantBody {
        format: 1,
        region: region_id().to_string(),
        restore_id: Bytes::from_static(&RESTORE_ID),
        approved: Some(v1::ApprovedRestore {
            format: 1,
            terms: Some(terms),
            requester,
            approvers: approvers.to_vec(),
            leaf_index: 7,
            time_ms: now,
        }),
        keys: vec![v1::RestorableKey {
            dataset_id: DATASET.into(),
            kek_id: Bytes::from_static(&KEK),
            pseudonym: Bytes::from_static(&PSEUDONYM),
            state: v1::KeyState::Enabled.into(),
            state_version: 4,
            min_version: 1,
            oldest_version: 1,
            current_version: 2,
        }],
        expires_at_ms: now + 3_600_000,
    }
}

type Spoil = fn(&mut v1::RestoreWarrantBody);

fn approved(body: &mut v1::RestoreWarrantBody) -> &mut v1::ApprovedRestore {
    body.approved.as_mut().expect("approved")
}

fn target(body: &mut v1::RestoreWarrantBody) -> &mut v1::RestoreTarget {
    let terms = approved(body).terms.as_mut();
    &mut terms.expect("terms").datasets[0]
}

/// A warrant that something is wrong with.
fn spoilt(
    region: &Region,
    what: v1::RestoreWhat,
    spoil: impl FnOnce(&mut v1::RestoreWarrantBody),
) -> v1::RestoreWarrant {
    let mut body = body(what);
    spoil(&mut body);
    region.sign_warrant("k1", &body)
}

async fn begin(region: &Region, caller: &str, warrant: &v1::RestoreWarrant) -> Result<(), Status> {
    region
        .on_leader(caller, GroupId::CATALOG, |channel| {
            let request = stated().of(v1::BeginRestoreRequest {
                warrant: warrant.encode_to_vec().into(),
                dataset: Some(v1::DatasetRecord {
                    format: 1,
                    dataset_id: DATASET.into(),
                    name: "cti".to_owned(),
                    epoch: 1,
                    kek_id: Bytes::from_static(&KEK),
                    pseudonym: Bytes::from_static(&PSEUDONYM),
                    // As of the backup: the key has been disabled and enabled again since.
                    key_state: v1::KeyState::Disabled.into(),
                    key_state_version: 2,
                    created_at_ms: 1,
                    ..Default::default()
                }),
                configs: Vec::new(),
                items: 0,
            });
            async move { RestoresClient::new(channel).begin(request).await.map(drop) }
        })
        .await
}

async fn step(region: &Region, caller: &str, step: Step) -> Result<(), Status> {
    region
        .on_leader(caller, GroupId(SHARD), |channel| {
            let request = stated().of(v1::RestoreStepRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                restore_id: Bytes::from_static(&RESTORE_ID),
                step: Some(step.clone()),
                ..Default::default()
            });
            async move { RestoresClient::new(channel).step(request).await.map(drop) }
        })
        .await
}

async fn standing(region: &Region) -> v1::RestoreStanding {
    let found = region.on_leader("c1", GroupId::CATALOG, |channel| {
        let request = stated().of(v1::FindRestoreRequest {
            dataset_id: DATASET.into(),
            ..Default::default()
        });
        async move {
            let found = RestoresClient::new(channel).find_restore(request).await?;
            Ok(found.into_inner())
        }
    });
    found.await.expect("it was placed")
}

fn write(version: u8, epoch: u64) -> v1::PutObjectRequest {
    let id = RequestId {
        epoch: UploadEpoch(epoch),
        nonce: [version; 16],
    };
    v1::PutObjectRequest {
        request_id: Bytes::copy_from_slice(&id.to_bytes()),
        ..put("a", version)
    }
}

/// A region without the dataset, whose clients c1 and c2 may restore.
async fn region() -> Region {
    let region = Region::start(1).await;
    region.found().await;
    region.change(|_, grants| {
        let may = [
            v1::Action::List,
            v1::Action::Create,
            v1::Action::Read,
            v1::Action::Write,
        ];
        for name in ["c1", "c2"] {
            let who = format!("spiffe://ch-zrh/client/{name}");
            grants.push(v1::Grant {
                purposes: vec![RESTORE.to_owned()],
                ..grant(&who, &may)
            });
        }
    });
    let none = region.sign_warrant("c1", &body(v1::RestoreWhat::Restore));
    let known = async || reason(begin(&region, "c1", &none).await) != "not-granted";
    region.until("the grants are learnt", known).await;
    region
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_without_a_warrant_of_the_kms_for_it() {
    let region = region().await;
    let what = v1::RestoreWhat::Restore;
    let why = async |warrant: v1::RestoreWarrant| reason(begin(&region, "c1", &warrant).await);
    assert_eq!(
        why(region.sign_warrant("c1", &body(what))).await,
        "warrant-signer"
    );
    let mut forged = region.sign_warrant("k1", &body(what));
    forged.signature = Bytes::from_static(&[0; 64]);
    assert_eq!(why(forged).await, "warrant-signature");
    let confirms = region.sign_warrant("k1", &body(v1::RestoreWhat::Confirm));
    assert_eq!(why(confirms).await, "warrant-other-step");
    let cases: [(&str, Spoil); 8] = [
        ("warrant-malformed", |body| body.format = 2),
        ("warrant-other-region", |body| body.region = "de-fra".into()),
        ("warrant-expired", |body| body.expires_at_ms = 1),
        ("warrant-other-dataset", |body| {
            target(body).dataset_id = DatasetId([1; 16]).into();
        }),
        ("warrant-other-name", |body| {
            target(body).name = "other".to_owned();
        }),
        ("warrant-other-key", |body| {
            body.keys[0].kek_id = Bytes::from_static(&[1; 16]);
        }),
        ("too-few-approvals", |body| {
            approved(body).approvers.truncate(1);
        }),
        ("too-few-approvals", |body| {
            approved(body).approvers = vec!["o1".to_owned(), "o2".to_owned()];
        }),
    ];
    for (expected, spoil) in cases {
        let found = why(spoilt(&region, what, spoil)).await;
        assert_eq!(found, expected);
    }
    assert!(standing(&region).await.restore.is_none(), "none was begun");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_from_who_began_it_and_changes_wait_for_two_people() {
    let region = region().await;
    let warrant = region.sign_warrant("k1", &body(v1::RestoreWhat::Restore));
    begin(&region, "c1", &warrant).await.expect("begun");
    begin(&region, "c1", &warrant).await.expect("begun before");
    let found = standing(&region).await;
    let held = found.dataset.expect("it is there");
    assert_eq!(
        (held.key_state(), held.key_state_version),
        (v1::KeyState::Enabled, 4),
        "how the key stands is the kms's word"
    );
    let why = async |who, asked| reason(step(&region, who, asked).await);
    assert_eq!(why("c2", Step::End(true)).await, "not-granted");
    // Nobody outside takes the steps that the catalog's leader takes.
    for asked in [
        Step::Begin(v1::BeginRestoreRequest::default()),
        Step::Abandon(true),
    ] {
        assert_eq!(why("c1", asked).await, "peer-role");
    }
    // Who begins it again by the same warrant goes on with it.
    begin(&region, "c2", &warrant).await.expect("taken over");
    assert_eq!(why("c1", Step::End(true)).await, "not-granted");
    step(&region, "c2", Step::End(true)).await.expect("whole");
    let refused = region.put("c1", write(1, AHEAD)).await;
    assert_eq!(reason(refused.map(drop)), "dataset-unconfirmed");

    let confirm = |warrant: &v1::RestoreWarrant| Step::Confirm(warrant.encode_to_vec().into());
    assert_eq!(why("c1", confirm(&warrant)).await, "warrant-other-step");
    let what = v1::RestoreWhat::Confirm;
    let other = spoilt(&region, what, |body| {
        let terms = approved(body).terms.as_mut().expect("terms");
        terms.index_digest = Bytes::from_static(&[1; 32]);
    });
    assert_eq!(why("c1", confirm(&other)).await, "warrant-other-backup");
    let later = spoilt(&region, what, |body| target(body).epoch = 2);
    assert_eq!(why("c1", confirm(&later)).await, "warrant-other-epoch");
    let good = region.sign_warrant("k1", &body(what));
    step(&region, "c1", confirm(&good))
        .await
        .expect("confirmed");
    region.register("c1", LEASE).await.expect("a good token");
    // What was tried in the shard that was lost is not done here.
    let old = region.put("c1", write(1, 0)).await;
    assert_eq!(reason(old.map(drop)), "request-too-old");
    region.put("c1", write(1, AHEAD)).await.expect("written");
    region.stop().await;
}
