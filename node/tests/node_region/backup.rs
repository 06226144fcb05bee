//! What nodes tell of a dataset to who backs it up: to whom, on which lease, and of which moment.

use std::collections::BTreeSet;

use crate::region::{DATASET, LEASE, Region, SHARD, grant, put, reason, request_id};
use bytes::Bytes;
use prost::Message as _;
use proto::ids::{GroupId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::backup_item::Item;
use proto::v1::backups_client::BackupsClient;
use proto::v1::blocks_client::BlocksClient;
use proto::v1::shard_client::ShardClient;
use tonic::{Status, Streaming};
use transport::Stated;

const BACKUP: &str = "backup";
/// Objects, and bytes of each: far more pages than are made, and on their way, before the first one is taken.
const OBJECTS: u16 = 500;
const INLINE: usize = 60_000;

fn stated(purpose: &str) -> Stated {
    Stated {
        purpose: purpose.to_owned(),
        ..Stated::default()
    }
}

async fn read(
    region: &Region,
    caller: &str,
    purpose: &str,
    token: &v1::LeaseToken,
) -> Result<Streaming<v1::ReadBackupReply>, Status> {
    region
        .on_leader(caller, GroupId(SHARD), |channel| {
            let request = stated(purpose).of(v1::ReadBackupRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                token: token.encode_to_vec().into(),
            });
            async move {
                let mut backups = BackupsClient::new(channel);
                Ok(backups.read_dataset(request).await?.into_inner())
            }
        })
        .await
}

/// Puts the objects.
async fn fill(region: &Region) {
    for n in 1..=OBJECTS {
        let mut id = [0xF0; 16];
        id[14..].copy_from_slice(&n.to_be_bytes());
        let request_id = RequestId {
            epoch: UploadEpoch(0),
            nonce: id,
        };
        let mut request = put(&format!("{n:03}"), 1);
        request.request_id = Bytes::copy_from_slice(&request_id.to_bytes());
        let entry = request.entry.as_mut().expect("an entry");
        entry.version_id = Bytes::copy_from_slice(&id);
        entry.inline = vec![7; INLINE].into();
        entry.sealed_bytes = INLINE as u64;
        region.put("c1", request).await.expect("granted");
    }
}

fn for_backups(region: &Region) {
    region.change(|_, grants| {
        let c2 = v1::Grant {
            purposes: vec![BACKUP.to_owned()],
            ..grant(
                "spiffe://ch-zrh/client/c2",
                &[v1::Action::List, v1::Action::Write],
            )
        };
        *grants = vec![
            grant(
                "spiffe://ch-zrh/client/c1",
                &[v1::Action::List, v1::Action::Read, v1::Action::Write],
            ),
            c2,
        ];
    });
}

async fn block(region: &Region, caller: &str, purpose: &str) -> String {
    let request = stated(purpose).of(v1::ReadBlockRequest {
        shard: SHARD,
        dataset_id: DATASET.into(),
        version_id: Bytes::from_static(&[9; 16]),
        ..Default::default()
    });
    let read = BlocksClient::new(region.channel(caller, 1))
        .read(request)
        .await;
    reason(read.map(drop))
}

/// Red with `backups_for_all`.
#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_told_to_who_may_back_up_and_has_its_lease_on_record() {
    let region = Region::with_dataset(1).await;
    let own = region.token("c2", [7; 16], |_| {});
    assert_eq!(
        reason(read(&region, "c2", BACKUP, &own).await.map(drop)),
        "not-granted",
        "a grant for everyday service is none for a copy of everything"
    );
    for_backups(&region);
    let told = async || read(&region, "c2", BACKUP, &own).await.is_ok();
    region.until("the grant is learnt", told).await;
    for purpose in ["", "service", "backup-drill", "Backup"] {
        let why = reason(read(&region, "c2", purpose, &own).await.map(drop));
        assert_eq!(why, "not-granted", "{purpose}");
    }
    let c1 = region.token("c1", [8; 16], |_| {});
    assert_eq!(
        reason(read(&region, "c1", BACKUP, &c1).await.map(drop)),
        "not-granted"
    );
    let why = async |token| reason(read(&region, "c2", BACKUP, &token).await.map(drop));
    assert_eq!(why(c1).await, "token-not-holders");
    let over = region.token("c2", [7; 16], |header| {
        header.issued_at_ms -= 3_700_000;
        header.expires_at_ms -= 3_700_000;
    });
    assert_eq!(why(over).await, "token-expired");
    let other = region.token("c2", [7; 16], |header| {
        header.dataset_id = Bytes::from_static(&[1; 16]);
    });
    assert_eq!(why(other).await, "token-other-dataset");
    let mut forged = own.clone();
    forged.signature = Bytes::from_static(&[0; 64]);
    assert_eq!(why(forged).await, "token-signature");
    // Blocks too, for that purpose alone; there is none of that id.
    assert_eq!(block(&region, "c2", BACKUP).await, "block-not-held");
    assert_eq!(block(&region, "c2", "service").await, "not-granted");
    region.stop().await;
}

/// Who may take seal leases for a backup stores nothing by them.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_seal_for_a_backup_is_none_to_store() {
    let region = Region::with_dataset(1).await;
    for_backups(&region);
    let own = region.token("c2", [7; 16], |_| {});
    let told = async || read(&region, "c2", BACKUP, &own).await.is_ok();
    region.until("the grant is learnt", told).await;
    let stores = async |purpose: &str| {
        region
            .on_leader("c2", GroupId(SHARD), |channel| {
                let request = stated(purpose).of(put("a", 1));
                async move { ShardClient::new(channel).put_object(request).await }
            })
            .await
    };
    for purpose in ["service", BACKUP] {
        assert_eq!(reason(stores(purpose).await.map(drop)), "not-granted");
    }
    region.set_policy(
        r#"
permit (principal == Identity::"spiffe://ch-zrh/client/c2", action in [Action::"list", Action::"write"], resource)
when { context.purpose == "backup" };
permit (principal == Identity::"spiffe://ch-zrh/client/c1", action, resource);
"#,
    );
    // In between nobody but c1 may anything.
    let lists = async || {
        let c1 = region.token("c1", [8; 16], |_| {});
        read(&region, "c1", BACKUP, &c1).await.is_ok()
    };
    region.until("the text is learnt", lists).await;
    assert!(told().await, "as a text says it");
    for purpose in ["service", BACKUP] {
        assert_eq!(
            reason(stores(purpose).await.map(drop)),
            "not-granted",
            "{purpose}"
        );
    }
    region.stop().await;
}

/// Red with `backup_moves`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_of_one_log_index_whatever_is_written_meanwhile() {
    let region = Region::with_dataset(1).await;
    fill(&region).await;
    for_backups(&region);
    let own = region.token("c2", [7; 16], |_| {});
    let told = async || read(&region, "c2", BACKUP, &own).await.is_ok();
    region.until("the grant is learnt", told).await;
    let mut replies = read(&region, "c2", BACKUP, &own).await.expect("told");
    let first = replies.message().await.expect("a page").expect("a page");
    // The last key is told last: it goes, another comes behind it, and one before it is another by then.
    let last = format!("{OBJECTS:03}");
    let delete = v1::DeleteObjectRequest {
        shard: SHARD,
        request_id: request_id(201),
        dataset_id: DATASET.into(),
        key: last.clone(),
        ..Default::default()
    };
    region.delete("c1", delete).await.expect("gone");
    region.put("c1", put("zzz", 202)).await.expect("granted");
    region.put("c1", put("499", 203)).await.expect("granted");
    let (mut keys, mut leases, mut ended) = (Vec::new(), BTreeSet::new(), false);
    let mut take = |reply: v1::ReadBackupReply| {
        assert_eq!(reply.at_index, first.at_index);
        for item in reply.items {
            match item.item {
                Some(Item::Version(version)) => {
                    let entry = version.entry.expect("an entry");
                    assert_eq!(entry.inline.len(), INLINE, "{}", version.key);
                    keys.push(version.key);
                }
                Some(Item::Token(token)) => {
                    leases.insert(token.lease_id);
                }
                _ => {}
            }
        }
        ended = reply.end;
    };
    take(first.clone());
    while let Some(reply) = replies.message().await.expect("told") {
        take(reply);
    }
    assert!(ended, "it says so when all was told");
    let expected: Vec<_> = (1..=OBJECTS).map(|n| format!("{n:03}")).collect();
    assert_eq!(keys, expected);
    assert_eq!(leases, BTreeSet::from([Bytes::from_static(&LEASE)]));
    // The next one is of now.
    let mut replies = read(&region, "c2", BACKUP, &own).await.expect("told");
    let mut now = Vec::new();
    while let Some(reply) = replies.message().await.expect("told") {
        for item in reply.items {
            if let Some(Item::Version(version)) = item.item {
                now.push(version.key);
            }
        }
    }
    assert!(!now.contains(&last) && now.contains(&"zzz".to_owned()));
    region.stop().await;
}

/// A caller that takes nothing holds a state's old files: no more than two do.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_two_read_a_nodes_states_at_once() {
    let region = Region::with_dataset(1).await;
    fill(&region).await;
    for_backups(&region);
    let own = region.token("c2", [7; 16], |_| {});
    let told = async || read(&region, "c2", BACKUP, &own).await.is_ok();
    region.until("the grant is learnt", told).await;
    let asked = || {
        let request = stated(BACKUP).of(v1::ReadBackupRequest {
            shard: SHARD,
            dataset_id: DATASET.into(),
            token: own.encode_to_vec().into(),
        });
        let mut backups = BackupsClient::new(region.channel("c2", 1));
        async move { backups.read_dataset(request).await }
    };
    let mut held = Vec::new();
    // Those by which the grant was found to be known end by themselves.
    while held.len() < 2 {
        held.extend(asked().await);
        tokio::task::yield_now().await;
    }
    assert_eq!(reason(asked().await.map(drop)), "too-many-backups");
    drop(held);
    let free = async || asked().await.is_ok();
    region.until("those who went are let go", free).await;
    region.stop().await;
}
