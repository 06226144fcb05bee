//! What a region of nodes promises its callers, over real TLS, logs and disks.

use std::time::Duration;

use crate::region::*;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use proto::ids::{DatasetId, GroupId, ObjectVersionId};
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::node_operate_client::NodeOperateClient;
use proto::v1::shard_client::ShardClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_put_under_a_lease_and_read_listed_and_deleted() {
    let region = Region::with_dataset(3).await;
    let done = region.put("c1", put("a/1", 1)).await.expect("put");
    assert_eq!(done.version_id, [1; 16][..]);
    assert_eq!(
        region.put("c1", put("a/1", 1)).await.expect("a retry"),
        done
    );
    region.put("c1", put("b", 2)).await.expect("put");
    let got = region.get("c1", "a/1").await.expect("it was put");
    let entry = got.entry.expect("found");
    assert_eq!(entry.inline, b"sealed bytes"[..]);
    assert!(!got.token.is_empty() && got.replicas == [1, 2, 3] && got.stale_ms == 0);
    assert_eq!(reason(region.get("c1", "zz").await), "no-such-object");

    let absent = v1::Precondition {
        if_none_match_any: true,
        ..Default::default()
    };
    let refused = v1::PutObjectRequest {
        precondition: Some(absent),
        ..put("b", 3)
    };
    let status = region.put("c1", refused).await.expect_err("it is there");
    assert_eq!(
        transport::fault::reason(&status),
        Some("precondition-failed")
    );
    let current = status
        .metadata()
        .get("reduit-current-version")
        .and_then(|v| v.to_str().ok());
    assert_eq!(current, Some(ObjectVersionId([2; 16]).to_string().as_str()));

    // Before it is proposed: a replica that does not know the field would take it.
    let mut in_parts = put("c", 4);
    in_parts.entry.as_mut().expect("it has one").parts = 1;
    let refused = region.put("c1", in_parts).await.expect_err("no parts here");
    assert!(refused.message().contains("apply alone"), "{refused}");

    let list = region
        .on_leader("c1", GroupId(SHARD), |channel| async move {
            let request = v1::ListObjectsRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                delimiter: "/".to_owned(),
                ..Default::default()
            };
            Ok(ShardClient::new(channel)
                .list_objects(request)
                .await?
                .into_inner())
        })
        .await
        .expect("listed");
    assert_eq!(list.common_prefixes, ["a/"]);
    assert_eq!(
        list.objects
            .iter()
            .map(|o| o.key.as_str())
            .collect::<Vec<_>>(),
        ["b"]
    );
    assert!(list.at_index > 0);

    let delete = v1::DeleteObjectRequest {
        shard: SHARD,
        request_id: request_id(9),
        dataset_id: DATASET.into(),
        key: "b".to_owned(),
        ..Default::default()
    };
    region.delete("c1", delete.clone()).await.expect("deleted");
    region.delete("c1", delete).await.expect("a retry");
    assert_eq!(reason(region.get("c1", "b").await), "no-such-object");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_only_as_the_kms_signed_it_for_its_holder() {
    let region = Region::with_dataset(1).await;
    let lease = [2; 16];
    let refused = async |caller: &str, token| reason(region.register_token(caller, token).await);
    type Spoil = fn(&mut v1::LeaseHeader);
    let spoils: [(&str, Spoil); 7] = [
        ("token-malformed", |h| h.format = 2),
        ("token-malformed", |h| h.lease_id = Bytes::new()),
        ("token-other-region", |h| h.region = "de-fra".to_owned()),
        ("token-other-dataset", |h| {
            h.dataset_id = Bytes::from_static(&[1; 16])
        }),
        ("token-other-epoch", |h| h.dataset_epoch = 2),
        ("token-other-key", |h| {
            h.kek_id = Bytes::from_static(&[1; 16])
        }),
        ("token-too-long", |h| h.expires_at_ms += 1),
    ];
    for (expected, spoil) in spoils {
        let token = region.token("c1", lease, spoil);
        assert_eq!(refused("c1", token).await, expected);
    }
    assert_eq!(
        refused("c2", region.token("c1", lease, |_| {})).await,
        "token-not-holders"
    );
    let token = region.token("c1", lease, |_| {});
    let by_client = region.sign_token("c1", token.header.to_vec());
    assert_eq!(refused("c1", by_client).await, "token-signer");
    let forged = v1::LeaseToken {
        wrapped: Bytes::from_static(b"other"),
        ..token.clone()
    };
    assert_eq!(refused("c1", forged).await, "token-signature");
    let expired = region.token("c1", lease, |h| (h.issued_at_ms, h.expires_at_ms) = (1, 2));
    assert_eq!(refused("c1", expired).await, "token-expired");
    region
        .register_token("c1", token)
        .await
        .expect("as signed, by its holder");
    // And a commit under it is its holder's alone.
    region
        .register("c2", [3; 16])
        .await
        .expect("a lease of c2's own");
    assert_eq!(
        reason(region.put("c2", put("a", 1)).await),
        "token-not-holders"
    );
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_grant_allows_is_denied_and_a_withdrawn_grant_acts_at_once() {
    let region = Region::with_dataset(1).await;
    region.put("c1", put("a", 1)).await.expect("granted");
    assert_eq!(reason(region.put("o1", put("a", 2)).await), "peer-role");
    let drop = v1::DeleteObjectRequest {
        shard: SHARD,
        request_id: request_id(7),
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        ..Default::default()
    };
    assert_eq!(reason(region.delete("o1", drop).await), "not-granted");
    let admit = region
        .write("c1", |mut shard| async move {
            let request = v1::AdmitDatasetRequest {
                shard: SHARD,
                dataset: None,
            };
            Ok(shard.admit_dataset(request).await?.into_inner())
        })
        .await;
    assert_eq!(reason(admit), "peer-role");
    region.change(|_, grants| grants.retain(|g| !g.actions.contains(&v1::Action::Write.into())));
    let writes = async || region.put("c1", put("a", 3)).await.is_ok();
    region
        .until("the grant is withdrawn", async || !writes().await)
        .await;
    assert_eq!(reason(region.put("c1", put("a", 4)).await), "not-granted");
    region
        .get("c1", "a")
        .await
        .expect("reading is still granted");
    region.change(|enrolments, _| enrolments.retain(|e| !e.identity.contains("/client/c1")));
    let reads = async || {
        let request = v1::GetObjectRequest {
            shard: SHARD,
            dataset_id: DATASET.into(),
            key: "a".to_owned(),
            ..Default::default()
        };
        let mut shard = ShardClient::new(region.channel("c1", 1));
        shard.get_object(request).await.is_ok()
    };
    assert!(reads().await);
    region.change(|enrolments, _| enrolments.retain(|e| !e.identity.contains("/client/c1")));
    region
        .until("the enrolment is withdrawn", async || !reads().await)
        .await;
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_version_are_told_to_who_may_read_it_and_to_no_mere_writer() {
    let region = Region::with_dataset(1).await;
    region.put("c1", put("a", 1)).await.expect("granted");
    let listed = async || {
        let call = region.on_leader("c1", GroupId(SHARD), |channel| async move {
            let request = v1::ListPartsRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                key: "a".to_owned(),
                version_id: Bytes::copy_from_slice(&[1; 16]),
                ..Default::default()
            };
            let listed = ShardClient::new(channel).list_parts(request).await?;
            Ok(listed.into_inner())
        });
        call.await
    };
    assert!(!listed().await.expect("it may be read").token.is_empty());
    region.change(|_, grants| *grants = vec![grant("role:client", &[v1::Action::Write])]);
    region
        .until("no more than writing is granted", async || {
            region.get("c1", "a").await.is_err()
        })
        .await;
    assert_eq!(reason(listed().await), "not-granted");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_created_once_under_a_name_and_its_creation_can_be_repeated() {
    let region = Region::with_dataset(3).await;
    let again = region.create_dataset().await.expect("the same request");
    assert_eq!(again.shard, SHARD);
    let other = DatasetId([0xAA; 16]);
    assert_eq!(reason(region.create("cti", other).await), "name-taken");
    let find = async |name: &str| {
        region
            .on_leader("c1", GroupId::CATALOG, |channel| {
                let request = v1::FindDatasetRequest {
                    name: name.to_owned(),
                };
                async move {
                    Ok(CatalogClient::new(channel)
                        .find_dataset(request)
                        .await?
                        .into_inner())
                }
            })
            .await
    };
    let info = find("cti").await.expect("published");
    assert_eq!(
        info.dataset.expect("it is there").dataset_id,
        DATASET.as_bytes()[..]
    );
    assert_eq!(reason(find("nothing").await), "no-such-dataset");
    region.put("c1", put("a", 1)).await.expect("put");
    let delete = async |force| {
        region
            .on_leader("c1", GroupId::CATALOG, |channel| {
                let (name, dataset_id) = ("cti".to_owned(), DATASET.into());
                let request = v1::DeleteDatasetRequest {
                    name,
                    dataset_id,
                    force,
                };
                async move {
                    Ok(CatalogClient::new(channel)
                        .delete_dataset(request)
                        .await?
                        .into_inner())
                }
            })
            .await
    };
    assert_eq!(reason(delete(false).await), "dataset-not-empty");
    delete(true).await.expect("forced");
    assert_eq!(reason(find("cti").await), "no-such-dataset");
    assert_eq!(reason(region.get("c1", "a").await), "dataset-gone");
    assert_eq!(
        reason(region.create_dataset().await),
        "dataset-gone",
        "an id is used once"
    );
    region
        .create("cti", other)
        .await
        .expect("the name is free again");
    region.stop().await;
}

static BLOCK: [u8; 70_000] = [0x5E; 70_000];

fn block_entry(version: u8) -> v1::ObjectEntry {
    let digest = Bytes::copy_from_slice(blake3::hash(&BLOCK).as_bytes());
    let block = v1::BlockRef {
        digest,
        bytes: BLOCK.len() as u32,
    };
    v1::ObjectEntry {
        blocks: vec![block.clone(), block],
        sealed_bytes: 2 * BLOCK.len() as u64,
        ..entry(version)
    }
}

/// Uploads the two blocks to a node and answers its receipt.
async fn upload(region: &Region, node: u64, version: u8) -> Result<v1::Receipt, Status> {
    use v1::block_frame::Frame;
    let mut frames = vec![Frame::Open(v1::OpenUpload {
        shard: SHARD,
        dataset_id: DATASET.into(),
        version_id: Bytes::copy_from_slice(&[version; 16]),
        upload_epoch: 0,
        lease_id: Bytes::from_static(&LEASE),
        part_of: Bytes::new(),
    })];
    for (number, block) in (0..).zip(block_entry(version).blocks) {
        let (bytes, digest) = (block.bytes, block.digest);
        frames.push(Frame::Header(v1::BlockHeader {
            number,
            bytes,
            digest,
        }));
        frames.push(Frame::Data(Bytes::from_static(&BLOCK)));
    }
    frames.push(Frame::Close(v1::CloseUpload {}));
    let frames = frames
        .into_iter()
        .map(|frame| v1::BlockFrame { frame: Some(frame) });
    let mut blocks = BlocksClient::new(region.channel("c1", node));
    let mut acks = blocks.write(stream::iter(frames)).await?.into_inner();
    while let Some(ack) = acks.message().await? {
        if let Some(v1::block_ack::Ack::Receipt(receipt)) = ack.ack {
            return Ok(receipt);
        }
    }
    Err(Status::internal("no receipt came"))
}

fn finish(key: &str, version: u8, receipts: Vec<v1::Receipt>) -> v1::FinishObjectRequest {
    v1::FinishObjectRequest {
        shard: SHARD,
        request_id: request_id(version),
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: None,
        entry: Some(block_entry(version)),
        receipts,
    }
}

async fn finished(region: &Region, request: v1::FinishObjectRequest) -> Result<v1::Done, Status> {
    region
        .write("c1", |mut shard| {
            let request = request.clone();
            async move { Ok(shard.finish_object(request).await?.into_inner()) }
        })
        .await
}

async fn read_block(
    region: &Region,
    node: u64,
    version: u8,
    number: u32,
) -> Result<Vec<u8>, Status> {
    let request = v1::ReadBlockRequest {
        shard: SHARD,
        dataset_id: DATASET.into(),
        version_id: Bytes::copy_from_slice(&[version; 16]),
        number,
        ..Default::default()
    };
    let mut blocks = BlocksClient::new(region.channel("c1", node));
    let mut pieces = blocks.read(request).await?.into_inner();
    let mut read = Vec::new();
    while let Some(piece) = pieces.message().await? {
        read.extend_from_slice(&piece.data);
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_blocks_needs_a_majority_and_reaches_every_replica() {
    let region = Region::with_dataset(3).await;
    let first = upload(&region, 1, 1).await.expect("a receipt");
    let second = upload(&region, 2, 1).await.expect("a receipt");
    let alone = finish("big", 1, vec![first.clone()]);
    assert_eq!(reason(finished(&region, alone).await), "not-on-majority");
    let mut forged = second.clone();
    forged.body = {
        let mut body = forged.body.to_vec();
        *body.last_mut().expect("not empty") ^= 1;
        body.into()
    };
    let with_forged = finish("big", 1, vec![first.clone(), forged]);
    assert_eq!(
        reason(finished(&region, with_forged).await),
        "receipt-signature"
    );
    let other = finish("big", 2, vec![first.clone(), second.clone()]);
    assert_eq!(
        reason(finished(&region, other).await),
        "receipt-other-upload"
    );
    let mut other_blocks = finish("big", 1, vec![first.clone(), second.clone()]);
    let entry = other_blocks.entry.as_mut().expect("it has one");
    entry.blocks[1].digest = Bytes::from_static(&[7; 32]);
    assert_eq!(
        reason(finished(&region, other_blocks).await),
        "receipt-other-blocks"
    );

    let mut in_parts = finish("big", 1, vec![first.clone(), second.clone()]);
    in_parts.entry.as_mut().expect("it has one").parts = 1;
    let refused = finished(&region, in_parts)
        .await
        .expect_err("no parts here");
    assert!(refused.message().contains("apply alone"), "{refused}");

    finished(&region, finish("big", 1, vec![first, second]))
        .await
        .expect("on a majority");
    let got = region
        .get("c1", "big")
        .await
        .expect("finished")
        .entry
        .expect("found");
    assert_eq!(got.blocks.len(), 2);
    for node in [1, 2] {
        assert_eq!(read_block(&region, node, 1, 1).await.expect("held"), BLOCK);
    }
    // The third node got no upload: repair brings it the blocks.
    region
        .until("the third replica has the blocks", async || {
            read_block(&region, 3, 1, 0)
                .await
                .is_ok_and(|read| read == BLOCK)
        })
        .await;
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_nothing_and_a_retry_has_effect_once() {
    let mut region = Region::with_dataset(3).await;
    region.put("c1", put("a", 1)).await.expect("put");
    for round in 0..2 {
        let leader = region.leader(GroupId(SHARD)).expect("it answered").0;
        let version = 10 + round;
        let before = region.put("c1", put("b", version)).await.expect("put");
        region.kill(leader).await;
        let retried = region
            .put("c1", put("b", version))
            .await
            .expect("another leads");
        assert_eq!(retried, before, "the retry was run again");
        region
            .put("c1", put("c", 20 + round))
            .await
            .expect("writes go on");
        assert!(region.get("c1", "a").await.is_ok());
        region.restart(leader).await;
    }
    let kept = region
        .get("c1", "b")
        .await
        .expect("acknowledged")
        .entry
        .expect("found");
    assert_eq!(kept.version_id, [11; 16][..]);
    region.stop().await;
}

async fn change_members(region: &Region, add: Option<u64>, remove: Option<u64>) {
    region
        .on_leader("o1", GroupId::CATALOG, |channel| async move {
            let mut operate = NodeOperateClient::new(channel);
            let mut told = match (add, remove) {
                (Some(node_id), _) => operate
                    .add_node(v1::AddNodeRequest { node_id })
                    .await?
                    .into_inner(),
                (_, Some(node_id)) => {
                    let request = v1::RemoveNodeRequest {
                        node_id,
                        force: false,
                    };
                    operate.remove_node(request).await?.into_inner()
                }
                (None, None) => panic!("neither"),
            };
            let mut finished = false;
            while let Some(step) = told.next().await {
                finished = step?.finished;
            }
            assert!(finished, "a stream that ends says how");
            Ok(())
        })
        .await
        .expect("changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_replaced_without_losing_a_block() {
    let mut region = Region::with_dataset(3).await;
    let receipts = vec![
        upload(&region, 1, 1).await.expect("a receipt"),
        upload(&region, 2, 1).await.expect("a receipt"),
    ];
    finished(&region, finish("big", 1, receipts))
        .await
        .expect("on a majority");
    region.put("c1", put("a", 2)).await.expect("put");
    region.start_new(1001).await;
    change_members(&region, Some(1001), None).await;
    assert_eq!(
        read_block(&region, 1001, 1, 1).await.expect("it votes"),
        BLOCK
    );
    change_members(&region, None, Some(1)).await;
    region.kill(1).await;
    let got = region.get("c1", "big").await.expect("kept");
    assert_eq!(got.replicas, [2, 3, 1001]);
    region.put("c1", put("a", 3)).await.expect("writes go on");
    region.stop().await;
}

/// Goes red where a node that joined once waits for the KMS at every start: with every process of a region killed at
/// once the nodes and the sealed KMS would wait for each other's operators.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joined_comes_back_while_there_is_no_kms() {
    let mut region = Region::with_dataset(3).await;
    region.start_new(1001).await;
    change_members(&region, Some(1001), None).await;
    region.put("c1", put("a", 1)).await.expect("put");
    region.end_kms();
    region.kill(1001).await;
    region.restart(1001).await;
    // Of four voters three have to go on.
    region.kill(1).await;
    region.put("c1", put("b", 2)).await.expect("put");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_by_force_is_refused_without_approvals() {
    let region = Region::with_dataset(1).await;
    let mut operate = NodeOperateClient::new(region.channel("o1", 1));
    let forced = operate
        .remove_node(v1::RemoveNodeRequest {
            node_id: 1,
            force: true,
        })
        .await;
    assert_eq!(reason(forced.map(drop)), "force-needs-approvals");
    let mut client = NodeOperateClient::new(region.channel("c1", 1));
    let by_client = client
        .remove_node(v1::RemoveNodeRequest {
            node_id: 1,
            force: false,
        })
        .await;
    assert_eq!(reason(by_client.map(drop)), "peer-role");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_files_is_told_to_operators_alone_and_counted_for_them() {
    let region = Region::with_dataset(1).await;
    for caller in ["c1", "g1"] {
        let mut other = NodeOperateClient::new(region.channel(caller, 1));
        let status = other.repair_status(v1::RepairStatusRequest {}).await;
        assert_eq!(reason(status.map(drop)), "peer-role");
        let scrub = other.scrub(v1::ScrubRequest { bytes_per_s: 1 }).await;
        assert_eq!(reason(scrub.map(drop)), "peer-role");
        let repair = other.repair(v1::RepairRequest {}).await;
        assert_eq!(reason(repair.map(drop)), "peer-role");
    }
    let receipt = upload(&region, 1, 1).await.expect("a receipt");
    let done = finished(&region, finish("big", 1, vec![receipt])).await;
    done.expect("on the only node");
    let ask = || async {
        let mut operate = NodeOperateClient::new(region.channel("o1", 1));
        let status = operate.repair_status(v1::RepairStatusRequest {}).await;
        status.expect("an operator is told").into_inner()
    };
    let mut operate = NodeOperateClient::new(region.channel("o1", 1));
    let begun = operate.scrub(v1::ScrubRequest { bytes_per_s: 0 }).await;
    let number = begun.expect("an operator may").into_inner().number;
    let repair = operate.repair(v1::RepairRequest {}).await;
    repair.expect("an operator may");
    region
        .until("the pass has ended and everything is compared", || async {
            let status = ask().await;
            let ended = status.last_asked_scrub.map(|pass| pass.number);
            ended == Some(number) && status.groups.iter().all(|group| !group.comparing)
        })
        .await;
    let status = ask().await;
    let pass = status.last_asked_scrub.expect("it has ended");
    assert!(pass.asked && pass.ended_at_ms >= pass.began_at_ms);
    assert!(pass.blocks > 0 && pass.blocks == status.blocks);
    assert_eq!((pass.damaged_blocks, pass.segments), (0, 1));
    assert_eq!((status.damaged_found, status.repaired_blocks), (0, 0));
    let roles: Vec<_> = status.groups.iter().map(v1::GroupRepair::role).collect();
    assert_eq!(roles, [v1::MemberRole::Leader, v1::MemberRole::Leader]);
    for group in &status.groups {
        assert!(group.applied_index > 0 && group.committed_index >= group.applied_index);
        assert_eq!((group.missing_blocks, group.refill), (0, None));
    }
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_puts_and_takes_deletes() {
    let mut region = Region::with_dataset(1).await;
    region.put("c1", put("a", 1)).await.expect("put");
    // Any disk is fuller than this.
    region.restart_all_full_at(0).await;
    assert_eq!(reason(region.put("c1", put("b", 2)).await), "disk-full");
    let upload = upload(&region, 1, 3).await;
    if let Ok(receipt) = upload {
        let finish = finish("big", 3, vec![receipt]);
        assert_eq!(reason(finished(&region, finish).await), "disk-full");
    }
    let delete = v1::DeleteObjectRequest {
        shard: SHARD,
        request_id: request_id(9),
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        ..Default::default()
    };
    region
        .delete("c1", delete)
        .await
        .expect("deletes free room");
    let ready = http_get(&region, 1, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("% full"),
        "{ready}"
    );
    region.stop().await;
}

async fn http_get(region: &Region, node: u64, path: &str) -> String {
    let address = region.node(node).health_address().expect("configured");
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_in_words_what_is_missing() {
    let region = Region::start(1).await;
    assert!(
        http_get(&region, 1, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let ready = http_get(&region, 1, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("not founded"),
        "{ready}"
    );
    region.found().await;
    let is_ready = async || {
        http_get(&region, 1, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    };
    region.until("the region is founded", is_ready).await;
    assert_eq!(region.node(1).not_ready(), Vec::<String>::new());
    region.found().await;
    let other = region
        .on_leader("o1", GroupId::CATALOG, |channel| async move {
            let request = v1::FoundRequest { shards: 2 };
            Ok(NodeOperateClient::new(channel)
                .found(request)
                .await?
                .into_inner())
        })
        .await;
    assert_eq!(reason(other), "already-founded");
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_read_is_served_by_name_and_says_how_stale() {
    let mut region = Region::with_dataset(3).await;
    region.put("c1", put("a", 1)).await.expect("put");
    let stale = async |region: &Region| {
        let request = v1::GetObjectRequest {
            shard: SHARD,
            dataset_id: DATASET.into(),
            key: "a".to_owned(),
            allow_stale: true,
            ..Default::default()
        };
        let mut shard = ShardClient::new(region.channel("c1", 1));
        shard
            .get_object(request)
            .await
            .map(tonic::Response::into_inner)
    };
    region
        .until("confirmed once", async || stale(&region).await.is_ok())
        .await;
    region.kill(2).await;
    region.kill(3).await;
    region
        .until("it grows stale", async || {
            stale(&region)
                .await
                .is_ok_and(|reply| reply.entry.is_some() && reply.stale_ms > 1500)
        })
        .await;
    let fresh = tokio::time::timeout(Duration::from_secs(20), async {
        let request = v1::GetObjectRequest {
            shard: SHARD,
            dataset_id: DATASET.into(),
            key: "a".to_owned(),
            ..Default::default()
        };
        ShardClient::new(region.channel("c1", 1))
            .get_object(request)
            .await
    });
    let fresh = fresh.await.expect("it answers").map(drop);
    assert!(fresh.is_err(), "one of three cannot know");
    region.kill(1).await;
}
