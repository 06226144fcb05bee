//! A dataset moves from one region of real nodes to another: all of it, at once or not at all, whatever stops on the way.
//!
//! The test plays the mover, through the services that a mover has.

use std::collections::BTreeMap;

use crate::region::abroad::Pair;
use crate::region::mover::*;
use crate::region::*;
use bytes::Bytes;
use proto::ids::{DatasetId, GroupId};
use proto::v1;
use proto::v1::arrival_step_request::Step as Arrives;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::departure_step_request::Step as Departs;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::imported_unit::Content;
use proto::v1::read_departure_request::Next;
use proto::v1::relocations_client::RelocationsClient;
use proto::v1::shard_client::ShardClient;
use tonic::Status;
use tonic::transport::Channel;
use transport::Fault;

static BLOCK: [u8; 70_000] = [0xB1; 70_000];
const PAUSE_MS: u64 = 5_000;

/// Puts one of everything that moves into the source.
async fn fill(source: &Region) {
    source.create_dataset().await.expect("a new dataset");
    source.register("c1", LEASE).await.expect("a good token");
    let versioning = v1::SetVersioningRequest {
        shard: SHARD,
        dataset_id: DATASET.into(),
        enabled: true,
    };
    source.put("c1", put("null", 1)).await.expect("put");
    source
        .write("c1", |mut shard| {
            let request = versioning.clone();
            async move { Ok(shard.set_versioning(request).await?.into_inner()) }
        })
        .await
        .expect("versioned");
    for (key, version) in [("a", 2), ("a", 3), ("gone", 4)] {
        source.put("c1", put(key, version)).await.expect("put");
    }
    let marker = v1::DeleteObjectRequest {
        shard: SHARD,
        request_id: request_id(5),
        dataset_id: DATASET.into(),
        key: "gone".to_owned(),
        new_marker_id: Bytes::from_static(&[5; 16]),
        ..Default::default()
    };
    source.delete("c1", marker).await.expect("deleted");
    lock_and_tag(source).await;
    blocks(source, "large", 6).await;
    parts(source, "parts", 7).await;
}

async fn lock_and_tag(source: &Region) {
    let lock = v1::SetObjectLockRequest {
        shard: SHARD,
        dataset_id: DATASET.into(),
        lock: Some(v1::ObjectLock::default()),
    };
    let hold = v1::SetLegalHoldRequest {
        shard: SHARD,
        request_id: request_id(21),
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        version_id: Bytes::from_static(&[2; 16]),
        on: true,
    };
    let tags = v1::SetMetadataRequest {
        shard: SHARD,
        request_id: request_id(22),
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        version_id: Bytes::from_static(&[3; 16]),
        from_digest: Bytes::copy_from_slice(blake3::hash(b"").as_bytes()),
        sealed_metadata: Bytes::from_static(b"tags"),
        metadata_key_version: 1,
    };
    let config = v1::SetConfigRequest {
        shard: SHARD,
        dataset_id: DATASET.into(),
        kind: v1::ConfigKind::Cors.into(),
        content: Bytes::from_static(b"cors"),
        any_version: true,
        ..Default::default()
    };
    source
        .write("c1", |mut shard| {
            let (lock, hold) = (lock.clone(), hold.clone());
            let (tags, config) = (tags.clone(), config.clone());
            async move {
                shard.set_object_lock(lock).await?;
                shard.set_legal_hold(hold).await?;
                shard.set_metadata(tags).await?;
                Ok(shard.set_config(config).await?.into_inner())
            }
        })
        .await
        .expect("locked, tagged and set");
}

/// An object in two blocks.
async fn blocks(source: &Region, key: &str, version: u8) {
    let blocks = [Bytes::from_static(&BLOCK), Bytes::from_static(b"the rest")];
    let mut receipts = Vec::new();
    for node in source.node_ids() {
        let upload = Upload {
            by: "c1",
            node,
            lease: LEASE,
            version: Bytes::copy_from_slice(&[version; 16]),
            part_of: Bytes::new(),
            upload_epoch: 0,
        };
        receipts.push(upload.run(source, &blocks).await.expect("a receipt"));
    }
    let finish = v1::FinishObjectRequest {
        shard: SHARD,
        request_id: request_id(version),
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        precondition: None,
        entry: Some(v1::ObjectEntry {
            blocks: blocks.iter().map(block_ref).collect(),
            sealed_bytes: blocks.iter().map(Bytes::len).sum::<usize>() as u64,
            ..entry(version)
        }),
        receipts,
    };
    source
        .write("c1", |mut shard| {
            let finish = finish.clone();
            async move { Ok(shard.finish_object(finish).await?.into_inner()) }
        })
        .await
        .expect("finished");
}

/// An object of one part.
async fn parts(source: &Region, key: &str, version: u8) {
    let id = Bytes::copy_from_slice(&[version; 16]);
    let create = v1::CreateUploadRequest {
        shard: SHARD,
        request_id: request_id(31),
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        upload: Some(v1::UploadRecord {
            format: 1,
            version_id: id.clone(),
            lease_id: Bytes::from_static(&LEASE),
            dek_salt: Bytes::from_static(&[1; 32]),
            name_salt: Bytes::from_static(&[2; 32]),
            placement: 1,
            ..Default::default()
        }),
    };
    let inline = Bytes::from_static(b"sealed part");
    let commitment = Bytes::from_static(&[0xC1; 32]);
    let finish = v1::FinishPartRequest {
        shard: SHARD,
        request_id: request_id(32),
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: id.clone(),
        part: Some(v1::PartRecord {
            number: 1,
            part_id: commitment.slice(..16),
            commitment: commitment.clone(),
            plain_bytes: 5,
            sealed_bytes: inline.len() as u64,
            ..Default::default()
        }),
        inline: inline.clone(),
        ..Default::default()
    };
    let complete = v1::CompleteUploadRequest {
        shard: SHARD,
        request_id: request_id(33),
        dataset_id: DATASET.into(),
        key: key.to_owned(),
        version_id: id,
        parts: vec![v1::PartName {
            number: 1,
            part_id: commitment.slice(..16),
        }],
        sealed_manifest: Bytes::from_static(b"sealed manifest"),
        plain_bytes: 5,
        sealed_bytes: inline.len() as u64,
        ..Default::default()
    };
    source
        .write("c1", |mut shard| {
            let (create, finish) = (create.clone(), finish.clone());
            let complete = complete.clone();
            async move {
                shard.create_upload(create).await?;
                shard.finish_part(finish).await?;
                Ok(shard.complete_upload(complete).await?.into_inner())
            }
        })
        .await
        .expect("completed");
}

/// One try at a shard's leader: what is told to come again is an answer too.
fn once(region: &Region) -> ShardClient<Channel> {
    let leader = region.leader(GroupId(SHARD)).expect("one leads");
    ShardClient::new(region.channel("c1", leader.0))
}

/// Versions of every key as `who` lists them: id, whether a marker, lock.
async fn versions(region: &Region) -> BTreeMap<String, Vec<(Bytes, bool, bool)>> {
    let listed = region
        .on_leader("c1", GroupId(SHARD), |channel| async move {
            let request = v1::ListVersionsRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                limit: 1000,
                ..Default::default()
            };
            let listed = ShardClient::new(channel).list_versions(request).await?;
            Ok(listed.into_inner())
        })
        .await
        .expect("listed");
    let mut versions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in listed.versions {
        let head = one.entry.expect("its head");
        versions.entry(one.key).or_default().push((
            head.version_id,
            head.delete_marker,
            head.legal_hold,
        ));
    }
    versions
}

async fn set_at(region: &Region, dataset: DatasetId) -> v1::DatasetRecord {
    region
        .on_leader("c1", GroupId(SHARD), |channel| async move {
            let request = v1::ShardStatusRequest {
                shard: SHARD,
                dataset_id: dataset.into(),
            };
            let status = ShardClient::new(channel).shard_status(request).await?;
            Ok(status.into_inner())
        })
        .await
        .expect("its status")
        .dataset
        .expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_moves_and_what_is_written_meanwhile_comes_along() {
    let pair = Pair::start(3).await;
    let Pair {
        source,
        destination,
    } = &pair;
    fill(source).await;
    let mover = Mover::begin(&pair).await;
    assert_eq!(mover.phase().await, v1::ArrivalPhase::Copying);
    assert!(mover.list(3).await, "there is more than three units");
    // Listed and not listed yet.
    source.put("c1", put("a", 10)).await.expect("put");
    source.put("c1", put("z", 11)).await.expect("put");
    mover.fill().await;
    let before = mover.departure().await.expect("its status");
    assert_eq!(before.changes, 0);
    assert!(before.dataset.expect("its record").versions >= 9);

    let fence = mover.stop(0, PAUSE_MS).await;
    let told = once(source).put_object(put("late", 12)).await;
    let told = told.expect_err("no writes under a fence");
    let ends = told.metadata().get("reduit-fence-ends-ms");
    assert!(ends.is_some(), "{told:?}");
    assert_eq!(reason(Err::<(), _>(told)), "dataset-fenced");
    mover.found_equal(fence).await;
    // Of all that was proposed meanwhile, what is there is read as it came: with the source's place beside it.
    let copies = mover.copies().await;
    let Some(Content::Version(large)) = &copies["large"][0].content else {
        panic!("a version is told first");
    };
    assert_eq!(large.entry.as_ref().expect("its entry").blocks.len(), 2);
    assert_eq!(why_not_served(destination).await, "dataset-arriving");

    let words = mover.destination_words().await;
    let few = mover.depart_with(Departs::Moved(true), words[..1].to_vec());
    assert_eq!(why(few.await), "too-few-words");
    let mut forged = words.clone();
    forged[0].state = forged[1].state.clone();
    let forged = mover.depart_with(Departs::Moved(true), forged);
    assert_eq!(why(forged.await), "word-signature");
    mover.depart(Departs::Moved(true)).await.expect("moved");
    assert_eq!(why_not_served(destination).await, "dataset-arriving");
    mover
        .arrive(Arrives::Moved(true), &[])
        .await
        .expect("cut over");

    let there = versions(destination).await;
    let keys: Vec<_> = there.keys().map(String::as_str).collect();
    assert_eq!(keys, ["a", "gone", "large", "null", "parts", "z"]);
    let of_a: Vec<_> = there["a"].iter().map(|(id, ..)| id[0]).collect();
    assert_eq!(of_a, [10, 3, 2]);
    assert!(there["a"][2].2, "its legal hold");
    assert!(there["gone"][0].1, "its marker");
    let got = destination.get("c1", "parts").await.expect("it is served");
    assert_eq!(got.entry.expect("its entry").parts, 1);
    let record = set_at(destination, DATASET).await;
    assert!(record.lock.is_some() && record.versioning);
    assert_eq!(record.epoch, 2);
    // The source says where it is; the answer of what ran there is known here, to whoever sends the request again.
    let told = source.get("c1", "a").await.expect_err("moved");
    let region = told.metadata().get("reduit-region");
    assert_eq!(region.and_then(|r| r.to_str().ok()), Some("de-fra"));
    assert_eq!(Fault::of(&told), Fault::Missing);
    let again = once(destination).put_object(put("a", 10)).await;
    let again = again.expect_err("another holder asks otherwise");
    let made = again.metadata().get("reduit-current-version");
    assert!(made.is_some(), "{again:?}");
    assert_eq!(reason(Err::<(), _>(again)), "request-id-reused");
    // Nothing is read at the source any more.
    let read = mover.read(Next::Changes(0), 10).await;
    assert_eq!(reason(read), "dataset-moved");
    pair.stop().await;
}

async fn why_not_served(region: &Region) -> String {
    let get = v1::GetObjectRequest {
        shard: SHARD,
        dataset_id: DATASET.into(),
        key: "a".to_owned(),
        ..Default::default()
    };
    reason(once(region).get_object(get).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_ends_by_itself_and_an_abort_leaves_the_source_as_it_was() {
    let pair = Pair::start(3).await;
    let Pair {
        source,
        destination,
    } = &pair;
    fill(source).await;
    let mover = Mover::begin(&pair).await;
    mover.fill().await;
    let before = versions(source).await;
    let first = mover.stop(0, PAUSE_MS).await;
    mover.found_equal(first).await;
    let proposed = mover.destination_words().await;
    // Nobody moves it: whoever waits is served in the end.
    source.put("c1", put("late", 12)).await.expect("put");
    let stale = mover.depart_with(Departs::Moved(true), proposed).await;
    assert_eq!(why(stale), "fence-over");
    let reverted = mover.arrive(Arrives::Reverted(first), &[]).await;
    reverted.expect("it is over");
    assert_eq!(mover.phase().await, v1::ArrivalPhase::CatchUp);

    mover
        .arrive(Arrives::Abort(true), &[])
        .await
        .expect("ending");
    assert_eq!(mover.phase().await, v1::ArrivalPhase::Aborting);
    let early = mover.arrive_with(v1::ArrivalStepRequest {
        of: of(),
        said: mover.source_words().await,
        step: Some(Arrives::Ended(true)),
        ..Default::default()
    });
    assert_eq!(why(early.await), "too-few-words");
    mover.depart(Departs::End(0)).await.expect("ended");
    mover
        .arrive(Arrives::Ended(true), &[])
        .await
        .expect("heard of it");
    let closed = grant_at(v1::HandOverStage::Closed, 0);
    mover
        .arrive(Arrives::Closed(true), &[closed])
        .await
        .expect("what was disclosed");
    mover
        .arrive(Arrives::HandOverEnded(true), &[hand_over_key(true)])
        .await
        .expect("its key is gone");
    let ended = mover.status().await;
    let arrival = ended.arrival.expect("kept");
    assert_eq!(arrival.phase(), v1::ArrivalPhase::Aborted);
    assert_eq!(arrival.released.expect("disclosed").objects, 5);

    let mut after = versions(source).await;
    assert!(after.remove("late").is_some());
    assert_eq!(after, before);
    destination
        .until("nothing is left there", || async {
            set_at(destination, DATASET).await.versions == 0
        })
        .await;
    assert_eq!(why_not_served(destination).await, "dataset-gone");
    // Its name is free once it is dropped as any dataset is.
    let drop = v1::DeleteDatasetRequest {
        name: "cti".to_owned(),
        dataset_id: DATASET.into(),
        force: false,
    };
    destination
        .on_leader("o1", GroupId::CATALOG, |channel| {
            let drop = drop.clone();
            async move { CatalogClient::new(channel).delete_dataset(drop).await }
        })
        .await
        .expect("dropped");
    let another = destination.create("cti", DatasetId([0xD6; 16])).await;
    another.expect("the name is free");
    // No late request begins what was ended.
    let open = open_at_source(&pair, open_request(&pair, &["o2", "o3"])).await;
    assert_eq!(why(open), "departure-moved");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_mover_goes_on_where_the_first_one_died() {
    let pair = Pair::start(1).await;
    let Pair {
        source,
        destination,
    } = &pair;
    fill(source).await;
    let first = Mover::begin(&pair).await;
    assert!(first.list(2).await);
    let taken = first.status().await.arrival.expect("under way");
    assert!(taken.image.expect("filling").listed.is_some());
    first
        .begin_upload("parts", &Bytes::from_static(&[7; 16]))
        .await;
    let second = first.next().await;
    second.fill().await;
    // The first one wakes up: what it repeats is passed over.
    first.follow().await;
    let fence = second.stop(0, PAUSE_MS).await;
    second.found_equal(fence).await;
    second.depart(Departs::Moved(true)).await.expect("moved");
    second
        .arrive(Arrives::Moved(true), &[])
        .await
        .expect("cut over");
    assert_eq!(versions(destination).await.len(), 5);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_part_in_it_is_refused() {
    let pair = Pair::start(1).await;
    let Pair {
        source,
        destination,
    } = &pair;
    fill(source).await;
    // Two besides who asks, in both regions.
    for few in [&[][..], &["o2"], &["o1", "o2"], &["o2", "o2"]] {
        let begun = begin_at_destination(&pair, begin_request(&pair, few)).await;
        let opened = open_at_source(&pair, open_request(&pair, few)).await;
        for told in [reason(begun), why(opened)] {
            let known = ["too-few-approvals", "self-approval"];
            assert!(known.contains(&told.as_str()), "{told}");
        }
    }
    // And their KMS, of what they approved.
    let mut unsaid = open_request(&pair, &["o2", "o3"]);
    let closed = grant_at(v1::HandOverStage::Closed, 0);
    unsaid.keys = vec![source.kms_says(closed)];
    assert_eq!(why(open_at_source(&pair, unsaid).await), "too-few-words");
    let mut other = open_request(&pair, &["o2", "o3"]);
    other.keys = vec![destination.kms_says(grant_at(v1::HandOverStage::Open, 0))];
    assert_eq!(
        why(open_at_source(&pair, other).await),
        "word-not-a-replicas"
    );

    let stranger = Mover {
        pair: &pair,
        by: "g1",
        lease: [0x2E; 16],
    };
    let early = stranger.read(Next::Changes(0), 10).await;
    assert_eq!(reason(early), "not-under-way");
    let mover = Mover::begin(&pair).await;
    mover.read(Next::Changes(0), 10).await.expect("it may now");
    // A gateway of the source is no mover, and its listener for others is not for it.
    let own = DeparturesClient::new(source.channel("g1", 1))
        .status(of().expect("named"))
        .await;
    assert_eq!(reason(own), "not-granted");
    // Nor does a gateway import that does not say that it moves.
    let silent = RelocationsClient::new(destination.channel("g1", 1))
        .import(v1::ImportRequest {
            import: Some(v1::Import {
                dataset_id: DATASET.into(),
                relocation_id: Bytes::from_static(&RELOCATION),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await;
    assert_eq!(reason(silent), "not-granted");
    // Destroying keys takes people.
    let shred = v1::ArrivalStepRequest {
        of: of(),
        step: Some(Arrives::Shred(v1::ShredRelocation::default())),
        ..Default::default()
    };
    assert_eq!(why(mover.arrive_with(shred).await), "not-granted");
    pair.stop().await;
}

/// A step of an arrival as an operator asks for it.
async fn asked_by_an_operator(pair: &Pair, step: Arrives) -> Result<v1::ShardAnswer, Status> {
    pair.destination
        .on_leader("o1", GroupId(SHARD), |channel| {
            let request = v1::ArrivalStepRequest {
                of: of(),
                step: Some(step.clone()),
                ..Default::default()
            };
            async move {
                let answer = RelocationsClient::new(channel).step(request).await?;
                Ok(answer.into_inner())
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_moves_a_dataset_at_the_pace_that_operators_want() {
    let pair = Pair::start(1).await;
    let Pair {
        source,
        destination,
    } = &pair;
    source.create_dataset().await.expect("a new dataset");
    let first = Mover::begin(&pair).await;
    let second = first.next().await;
    let name = |by: &Mover<'_>| destination.identity_of(by.by).to_string();

    first.claim(60_000, 900).await.expect("nobody moves it");
    assert_eq!(why(second.claim(1_000, 0).await), "mover-at-work");
    first.claim(60_000, 950).await.expect("it goes on");
    first.claim(0, 950).await.expect("given up");
    second.claim(200, 10).await.expect("nobody moves it");
    // Nobody gives this one up.
    destination
        .until("the claim ends by itself", || async {
            first.claim(30_000, 0).await.is_ok()
        })
        .await;

    let pace = v1::ArrivalPace {
        bytes_per_s: 1 << 20,
        cutover: true,
        pause_ms: 2_000,
        ..Default::default()
    };
    let paced = first.arrive_with(v1::ArrivalStepRequest {
        of: of(),
        step: Some(Arrives::Pace(pace)),
        ..Default::default()
    });
    assert_eq!(why(paced.await), "not-granted");
    let claimed = Arrives::Claim(v1::ClaimArrival::default());
    let claimed = asked_by_an_operator(&pair, claimed).await;
    assert_eq!(reason(claimed), "not-granted");
    let hasty = v1::ArrivalPace {
        pause_ms: 5_001,
        ..pace
    };
    let hasty = asked_by_an_operator(&pair, Arrives::Pace(hasty)).await;
    assert_eq!(reason(hasty), "malformed");
    asked_by_an_operator(&pair, Arrives::Pace(pace))
        .await
        .expect("an operator may");
    // By what was read before that.
    let stale = asked_by_an_operator(&pair, Arrives::Pace(pace)).await;
    assert_eq!(reason(stale), "pace-moved");
    let pace = v1::ArrivalPace { version: 1, ..pace };

    let listed = second.arrivals_at(1).await;
    assert_eq!(listed.len(), 1);
    let arrival = listed[0].arrival.clone().expect("its record");
    assert_eq!(listed[0].shard, SHARD);
    assert_eq!(listed[0].dataset.as_ref().expect("closed").name, "cti");
    assert_eq!(arrival.phase(), v1::ArrivalPhase::Copying);
    assert_eq!(arrival.pace, Some(pace));
    let claim = arrival.mover.clone().expect("it is moved");
    assert_eq!(claim.mover, name(&first));
    assert!(claim.until_ms > listed[0].time_ms);
    assert_eq!(claim.report.expect("it said so").moved_bytes, 950);
    assert_eq!(first.status().await.arrival, Some(arrival));
    // Who moves nothing is shown nothing.
    for stranger in ["g1", "c1"] {
        let mut client = RelocationsClient::new(destination.channel(stranger, 1));
        let listed = client.list(v1::ListArrivalsRequest {}).await;
        assert_eq!(reason(listed), "not-granted");
    }
    pair.stop().await;
}
